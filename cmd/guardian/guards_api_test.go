package main

import (
	"encoding/json"
	"reflect"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/decision"
)

// fill gives every field below v a value, and every string the path to it.
func fill(v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), path)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)))
			return
		}
		for field, value := range v.Fields() {
			if field.IsExported() {
				fill(value, path+"."+field.Name)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), path)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, path)
		fill(value, path)
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString("‹" + path + "›")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Float64:
		v.SetFloat(7)
	}
}

func TestTheMetricsPortShowsNothingThatAPersonHasWritten(t *testing.T) {
	var v remediate.View
	fill(reflect.ValueOf(&v).Elem(), "View")
	text, err := json.Marshal(guardJSONOf(v))
	if err != nil {
		t.Fatal(err)
	}
	got := regexp.MustCompile(`‹[^›]*›`).FindAllString(string(text), -1)
	slices.Sort(got)
	// Names of objects, builds, alerts and words of closed sets: what the metrics have
	// as labels too.
	want := []string{"‹View.Lock.Alert›", "‹View.Lock.Build›", "‹View.Lock.Kind›", "‹View.Lock.Signal›", "‹View.Name›",
		"‹View.Status.Build›", "‹View.Status.FiringStatus.Alerts›", "‹View.Status.State›", "‹View.Status.StepStatus.Mode›", "‹View.Status.StepStatus.WaitingFor›"}
	if !slices.Equal(got, want) {
		t.Errorf("shown are\n%v, want\n%v", got, want)
	}
	everything, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"Lock.By", "Lock.Reason", "Status.Reason", "Paused.By", "Disarmed.Reason", "Firing.Summary"} {
		if !regexp.MustCompile(regexp.QuoteMeta(secret) + `›`).Match(everything) {
			t.Errorf("a view has no %s any more: this test looks for nothing", secret)
		}
	}
}

func TestTheMetricsPortStillSaysWhereAGuardStands(t *testing.T) {
	for name, c := range map[string]struct {
		view remediate.View
		want string
	}{
		"rolled back": {viewOf(locked()), `"lock":{"kind":"build","build":"b1"`},
		"disarmed":    {viewOf(disarmed(shifting(30, 50))), `"disarmedUntil":"2000-01-01T01:00:00Z"`},
		"shifting":    {viewOf(shifting(30, 50)), `"weight":30`},
	} {
		text, err := json.Marshal(guardJSONOf(c.view))
		if err != nil || !regexp.MustCompile(regexp.QuoteMeta(c.want)).Match(text) {
			t.Errorf("%s: %s, %v; want %s", name, text, err, c.want)
		}
	}
}

func viewOf(r decision.Record) remediate.View {
	return remediate.View{Name: testGuard, Lock: r.Lock, Status: r.Status, Seen: true}
}
