package main

import (
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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
			text, _, _ = strings.Cut(text, "\nError: ") // main has what it prints of errors be lines of text
			if !strings.Contains(text, "stop-commands") || strings.ContainsAny(text, "\x1b\u009b\u202e\r\a") || strings.Contains(text, "\n::stop") {
				t.Errorf("%s:\n%q", call, text)
			}
			if md := strings.HasSuffix(call, "md"); md && strings.Contains(text, "[a](") || (md || strings.HasSuffix(call, "html")) && strings.Contains(text, "<img") {
				t.Errorf("%s is more than text:\n%s", call, text)
			}
		}
	})
}

func TestWhatIsPrintedToBeTypedIsOneWordEach(t *testing.T) {
	for word, want := range map[string]string{"orders-service": "orders-service", "host:orders-v1.shop.svc": "host:orders-v1.shop.svc", "": "''",
		"-o": "'-o'", "a b": "'a b'", "$(x)": "'$(x)'", "it's; rm": `'it'\''s; rm'`, "a\x1b\nb": `'a\x1b b'`} {
		if got := printable.Word(word); got != want {
			t.Errorf("%q: %s, want %s", word, got, want)
		}
	}
	r := foreignRecord()
	if text := (&app{name: "guardian"}).byHand(decision.RequestRollback, testGuard, "shop", r); strings.Count(text, "'x") != 4 || strings.Contains(text, "\n::stop") {
		t.Errorf("%s", text)
	}
}
