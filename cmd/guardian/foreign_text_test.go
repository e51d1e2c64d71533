package main

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/canary-guardian/guardian/remediate/decision"

	"github.com/canary-guardian/guardian/internal/printable"
)

// foreignText is what a person's reason, an alert's annotation, a field manager or a
// record that was edited by hand may have: a terminal's escapes in both spellings, a
// title, a mark that turns what follows, a line of its own that is a command to GitHub,
// HTML, Markdown and what a shell would run.
const foreignText = "x\x1b[2J\u009b1m\x1b]0;t\a\u202ey\n::stop-commands::z\r| <img src=x> [a](javascript:b) `c` $(d); e"

// plantText has every text of a record be foreignText.
func plantText(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		if v.CanSet() {
			v.SetString(foreignText)
		}
	case reflect.Pointer:
		if v.IsNil() && v.CanSet() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		plantText(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if _, at := v.Field(i).Interface().(time.Time); !at && v.Type().Field(i).IsExported() {
				plantText(v.Field(i))
			}
		}
	case reflect.Slice:
		if v.CanSet() {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		}
		plantText(v.Index(0))
	}
}

// foreignRecord is a record that a person has filled with foreignText, of a guard that
// is locked and has been rolled back.
func foreignRecord() decision.Record {
	var r decision.Record
	for _, part := range []any{&r.Lock, &r.Refused, &r.Status, &r.History, &r.Receipt, &r.Message} {
		plantText(reflect.ValueOf(part).Elem())
	}
	at := time.Now().Add(-time.Minute)
	r.Status.State, r.Lock.Kind, r.Status.Moving, r.Status.Disarmed, r.Status.NextStep, r.Status.Requests = decision.StateRolledBack, decision.LockManual, nil, nil, 10, 5
	r.History[0].At, r.Lock.Since, r.Receipt.Written, r.Receipt.Links = at, at, at, append(r.Receipt.Links, decision.Link{Name: foreignText, URL: "https://grafana.example/" + "\u202e|"})
	for _, event := range []decision.Event{decision.EventNewBuild, decision.EventShifted, decision.EventRolledBack, decision.EventMarkedWrong} {
		e := r.History[0]
		e.At, e.Event, e.To = at, event, 10
		if event == decision.EventMarkedWrong {
			e.Of = at
		}
		r.History = append(r.History, e)
	}
	return r
}

func TestWhatOthersWroteIsTextWhereverItIsPrinted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, record(foreignRecord()), lease("a", time.Now()))
		b.beat(0)
		for _, call := range []string{"status", "status -A", "status NAME", "history NAME", "receipt NAME", "receipt NAME -o md", "receipt NAME -o html", "report", "report -o md",
			"rollback NAME --reason r", "unlock NAME --reason r --timeout 5s", "gate NAME --for 1s --timeout 5s", "gate NAME --for 1s --timeout 5s --format github"} {
			if strings.HasPrefix(call, "unlock") {
				b.answer(func(r *decision.Record, q decision.Request) {
					r.Lock, r.Status.Observing, r.Status.State, r.Status.Reason = nil, nil, decision.StateIdle, foreignText
					answered(r, q, decision.EventUnlocked, foreignText)
				})
			}
			_, text := b.run(strings.Fields(strings.ReplaceAll(call, "NAME", testGuard))...)
			wantText(t, call, text)
			if md := strings.HasSuffix(call, "md"); md && strings.Contains(text, "[a](") || (md || strings.HasSuffix(call, "html")) && strings.Contains(text, "<img") {
				t.Errorf("%s is more than text:\n%s", call, text)
			}
		}
	})
}

// wantText says that what was printed has foreignText, and as text alone.
func wantText(t *testing.T, name, text string) {
	t.Helper()
	if !strings.Contains(text, "stop-commands") || strings.ContainsAny(text, "\x1b\u009b\u202e\r\a") || strings.Contains(text, "\n::stop") {
		t.Errorf("%s:\n%q", name, text)
	}
}

// An error is what a pipeline's log ends with.
func TestWhatOthersWroteIsNoLineOfAnError(t *testing.T) {
	blocked := func(refused string) func(*decision.Record, decision.Request) {
		return func(r *decision.Record, q decision.Request) {
			*r = underWay(30)
			r.Status.State, r.Status.Reason, r.Status.Moving = decision.StateBlocked, foreignText, carrying(decision.Moving{Refused: refused}, q)
		}
	}
	answer := func(a decision.Answer) func(*decision.Record, decision.Request) {
		return func(r *decision.Record, q decision.Request) {
			a.ID, a.Text = q.ID, foreignText
			if a.Result == decision.ResultRefused {
				a.Action, a.By = q.Action, q.By
			}
			r.Answer(a)
		}
	}
	foreign := func(state decision.State) decision.Record {
		r := foreignRecord()
		r.Lock, r.Status.Observing, r.Status.State, r.Status.Weight = nil, nil, state, 30
		return r
	}
	for name, c := range map[string]struct {
		record decision.Record
		call   string
		take   func(*decision.Record, decision.Request)
		fail   string // a verb that the API server refuses
	}{
		"a gate":                         {record: foreign(decision.StateHeld), call: "gate NAME --for 1s"},
		"the API server refuses a write": {record: shifting(30, 1), call: "pause NAME --reason r", fail: "patch"},
		"and a read":                     {record: shifting(30, 1), call: "status NAME", fail: "get"},
		"another's request waits":        {record: decision.Record{Status: shifting(30, 1).Status, Request: &decision.Request{Action: decision.RequestPause, By: foreignText, Reason: foreignText, At: time.Now()}}, call: "promote NAME --reason r --timeout 3s"},
		"locked, and nothing moves": {record: shifting(30, 1), call: "rollback NAME --reason r", take: func(r *decision.Record, q decision.Request) {
			*r = underWay(30)
			r.Status.Reason, r.Status.Moving = foreignText, carrying(*r.Status.Moving, q)
		}},
		"the API server refuses guardian": {record: shifting(30, 1), call: "rollback NAME --reason r", take: blocked(foreignText)},
		"it is not safe":                  {record: shifting(30, 1), call: "rollback NAME --reason r", take: blocked("")},
		"it is refused":                   {record: shifting(30, 1), call: "promote NAME --reason r", take: answer(decision.Answer{Result: decision.ResultRefused})},
		"it is superseded":                {record: shifting(30, 1), call: "promote NAME --reason r", take: answer(decision.Answer{Result: decision.ResultSuperseded})},
		"one of all is refused":           {record: shifting(30, 1), call: "pause --all --reason r", take: answer(decision.Answer{Result: decision.ResultRefused})},
		"a guard of mode observe": {record: foreign(decision.StateShifting), call: "rollback NAME --reason r", take: func(r *decision.Record, q decision.Request) {
			r.Status.Observing = &decision.Observing{}
			answered(r, q, decision.EventRefused, foreignText)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, record(c.record), lease("a", time.Now()))
				b.beat(0)
				if c.take != nil {
					b.answer(c.take)
				}
				if c.fail != "" {
					b.kube.PrependReactor(c.fail, "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
						return true, nil, apierrors.NewForbidden(corev1.Resource("configmaps"), testGuard, errors.New(foreignText))
					})
				}
				_, text := b.run(strings.Fields(strings.ReplaceAll(c.call, "NAME", testGuard))...)
				wantText(t, c.call, text)
			})
		})
	}
	f := finding{Level: levelFail, Guard: foreignText, Object: foreignText, Problem: foreignText, Fix: foreignText}
	wantText(t, "check", f.String())
}

func TestWhatIsPrintedToBeTypedIsOneWordEach(t *testing.T) {
	for word, want := range map[string]string{"orders-service": "orders-service", "host:orders-v1.shop.svc": "host:orders-v1.shop.svc", "": "''",
		"-o": "'-o'", "a b": "'a b'", "$(x)": "'$(x)'", "it's; rm": `'it'\''s; rm'`, "a\x1b\nb": `'a\x1b b'`} {
		if got := printable.Word(word); got != want {
			t.Errorf("%q: %s, want %s", word, got, want)
		}
	}
	r := foreignRecord()
	if text := (&app{name: "guardian"}).byHand(testGuard, "shop", r).Error(); strings.Count(text, "'x") != 4 || strings.Contains(text, "\n::stop") {
		t.Errorf("%s", text)
	}
}
