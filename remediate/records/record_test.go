package records

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/decision/decisiontest"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

const testNamespace = decisiontest.Namespace

var at = decisiontest.At

// recordMap is the ConfigMap that holds a record.
func recordMap(r decision.Record) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "guardian-orders-service", Namespace: testNamespace, ResourceVersion: r.ResourceVersion}, Data: r.Data()}
}

func TestARecordSurvivesItsConfigMap(t *testing.T) {
	for name, r := range map[string]decision.Record{"empty": {}, "full": decisiontest.FullRecord()} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(recordMap(r))
			if err != nil {
				t.Fatal(err)
			}
			if name == "empty" && len(got.Refused)+len(got.Deny)+len(got.Stable)+len(got.VirtualServices) == 0 {
				got.Refused, got.Deny, got.Stable, got.VirtualServices = nil, nil, nil, nil
			}
			if !reflect.DeepEqual(got, r) {
				t.Errorf("read back\n%+v\nwant\n%+v", got, r)
			}
		})
	}
	if got, err := Parse(nil); err != nil || !reflect.DeepEqual(got, decision.Record{}) {
		t.Errorf("no ConfigMap: %+v, %v; want an empty record", got, err)
	}
	v := reflect.ValueOf(decisiontest.FullRecord())
	checkSet(t, "Record", v)
}

// checkSet fails for a field that fullRecord leaves out: a new field must be
// part of the round trip.
func checkSet(t *testing.T, path string, v reflect.Value) {
	t.Helper()
	switch {
	case v.Kind() == reflect.Pointer:
		checkSet(t, path, v.Elem())
	case v.Type() == reflect.TypeFor[time.Time]():
		if v.IsZero() {
			t.Errorf("%s is not set", path)
		}
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			checkSet(t, path+"."+v.Type().Field(i).Name, v.Field(i))
		}
	case v.Kind() == reflect.Slice && v.Len() > 0 && v.Index(0).Kind() == reflect.Struct:
		checkSet(t, path+"[0]", v.Index(0))
	case v.IsZero() && path != "Record.History[0].To" && path != "Record.past" && path != "Record.Unreadable" && path != "Record.Request.Bad":
		t.Errorf("%s is not set", path)
	}
}

func TestARecordOmitsWhatItDoesNotHave(t *testing.T) {
	data := decision.Record{Status: decision.Status{State: decision.StateIdle}}.Data()
	if len(data) != 1 || data[decision.KeyStatus] == "" {
		t.Errorf("an idle guard's record has %v, want the status alone", data)
	}
	flat := decisiontest.FullRecord().Data()
	for key, want := range map[string]string{decision.KeyRefused: "b0 b1", decision.KeyDeny: "orders-service/v2 orders-service.microservices/v2", decision.KeyVirtualServices: "orders-service orders-mesh", decision.KeyMessage: "guardian rolled orders-service back"} {
		if flat[key] != want {
			t.Errorf("key %s is %q, want %q: a policy cannot parse JSON", key, flat[key], want)
		}
	}
}

func TestARecordThatCannotBeReadNamesTheKey(t *testing.T) {
	for _, key := range []string{decision.KeyLock, decision.KeyStatus, decision.KeyHistory, decision.KeyChanged, decision.KeyReceipt, decision.KeyAnswers} {
		cm := recordMap(decisiontest.FullRecord())
		cm.Data[key] = `{"since": 3`
		_, err := Parse(cm)
		if want := "read record microservices/guardian-orders-service: key " + key + ": "; err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error %v, want it to begin with %q", err, want)
		}
	}
	cm := recordMap(decisiontest.FullRecord())
	cm.Data[decision.KeyStatus] = `{"weight":"much"}`
	if _, err := Parse(cm); err == nil || !strings.Contains(err.Error(), "key status") || !strings.Contains(err.Error(), "weight") {
		t.Errorf("error %v, want it to name the key and the field", err)
	}
	cm.Data[decision.KeyStatus] = `{"state":"idle","since":"2026-03-02T09:00:00Z","weight":0,"ofTheFuture":{"a":1}}`
	if r, err := Parse(cm); err != nil || r.Status.State != decision.StateIdle {
		t.Errorf("a field of a newer guardian: %+v, %v; want it passed over", r.Status, err)
	}
}

func TestHistoryKeepsTheNewestThatFitIn32KiB(t *testing.T) {
	entry := func(i, size int) decision.HistoryEntry {
		e := decision.HistoryEntry{At: at, State: decision.StateIdle, Event: decision.Event(fmt.Sprintf("%04d", i))}
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		e.Reason = strings.Repeat("x", size-len(b))
		return e
	}
	// 64 entries of 511 bytes, a comma before all but the first, and brackets:
	// 64*511 + 63 + 2 = 32769, one byte too many.
	var h []decision.HistoryEntry
	for i := range 64 {
		h = append(h, entry(i, 511))
	}
	for name, c := range map[string]struct {
		shorter int // bytes by which the oldest entry is shorter
		first   decision.Event
		size    int
	}{
		"one byte too many: the oldest is dropped": {0, "0001", 32769 - 512},
		"just fits": {1, "0000", 32768},
	} {
		t.Run(name, func(t *testing.T) {
			h[0] = entry(0, 511-c.shorter)
			r := decision.Record{History: h}
			text := r.Data()[decision.KeyHistory]
			got, err := Parse(recordMap(r))
			if err != nil {
				t.Fatal(err)
			}
			if len(text) != c.size || got.History[0].Event != c.first || got.History[len(got.History)-1].Event != "0063" {
				t.Errorf("%d bytes, from %s to %s; want %d bytes from %s to 0063", len(text), got.History[0].Event, got.History[len(got.History)-1].Event, c.size, c.first)
			}
			if len(r.History) != 64 {
				t.Error("the record itself was cut")
			}
		})
	}
}

func TestAnAlertThatComesAndGoesLeavesRollbacksInTheHistory(t *testing.T) {
	var r decision.Record
	add := func(event decision.Event, n int) {
		for i := range n {
			r.History = append(r.History, decision.HistoryEntry{At: at.Add(time.Duration(i) * time.Minute), State: decision.StateIdle, Event: event, By: "alert", Alert: "CanaryErrors", Reason: fmt.Sprintf("%0100d", i)})
			var err error
			if r, err = Parse(recordMap(r)); err != nil {
				t.Fatal(err)
			}
		}
	}
	count := func() (rollbacks, notes int, newest decision.HistoryEntry) {
		text := r.Data()[decision.KeyHistory]
		if len(text) > decision.MaxHistoryBytes {
			t.Fatalf("history takes %d bytes", len(text))
		}
		for e := range r.NewestFirst() {
			if newest.At.IsZero() {
				newest = e
			}
			switch e.Event {
			case decision.EventRolledBack:
				rollbacks++
			case decision.EventNoted:
				notes++
			}
		}
		return rollbacks, notes, newest
	}
	add(decision.EventRolledBack, 1)
	add(decision.EventRefused, 200)
	add(decision.EventBlocked, 200)
	add(decision.EventRolledBack, 1)
	if rollbacks, _, _ := count(); rollbacks != 2 {
		t.Errorf("after 200 refused requests and 200 that were blocked: %d rollbacks", rollbacks)
	}
	r = decision.Record{}
	add(decision.EventRolledBack, 1)
	add(decision.EventNoted, 1000)
	if rollbacks, notes, newest := count(); rollbacks != 1 || notes < 100 || !newest.At.Equal(at.Add(999*time.Minute)) {
		t.Errorf("after 1,000 notes: %d rollbacks and %d notes, the newest of %s", rollbacks, notes, newest.At)
	}
	add(decision.EventRolledBack, 1000)
	if rollbacks, notes, newest := count(); rollbacks < 100 || notes < 30 || newest.Event != decision.EventRolledBack || !newest.At.Equal(at.Add(999*time.Minute)) {
		t.Errorf("after 1,000 rollbacks: %d rollbacks and %d notes, the newest %s of %s", rollbacks, notes, newest.Event, newest.At)
	}
}

// What says the same as the entry before is counted there, also across writes.
func TestWhatComesInARowIsOneEntryOfTheHistory(t *testing.T) {
	for name, read := range map[string]func(*corev1.ConfigMap) (decision.Record, []string){"a pass, which leaves the text as it is": Skim, "a command": Read} {
		t.Run(name, func(t *testing.T) { comesInARow(t, read) })
	}
}

func comesInARow(t *testing.T, read func(*corev1.ConfigMap) (decision.Record, []string)) {
	var r decision.Record
	minute := 0
	add := func(entries ...decision.HistoryEntry) { // in one write
		for _, e := range entries {
			e.At = at.Add(time.Duration(minute) * time.Minute)
			r.History = append(r.History, e)
			minute++
		}
		var bad []string
		if r, bad = read(recordMap(r)); len(bad) > 0 {
			t.Fatal(bad)
		}
	}
	odd := decision.HistoryEntry{State: decision.StateIdle, Event: decision.EventRefused, By: "ci", Reason: `promote: x","y":[{"at":"2026-03-02T09:00:00Z","event":"noted"}]`}
	other := odd
	other.By = "ann"
	paused := decision.HistoryEntry{State: decision.StatePaused, Event: decision.EventPaused, By: "ci"}
	add(odd)
	add(odd, odd)
	add(odd)
	add(other)
	add(odd)
	add(paused)
	add(paused) // a change each time
	var got []string
	for _, e := range slices.Backward(slices.Collect(r.NewestFirst())) {
		times, last := e.Count()
		got = append(got, fmt.Sprintf("%s by %s %d× from %d to %d", e.Event, e.By, times, int(e.At.Sub(at).Minutes()), int(last.Sub(at).Minutes())))
		if e.Event == decision.EventRefused && e.Reason != odd.Reason {
			t.Errorf("reason %q", e.Reason)
		}
	}
	want := []string{"refused by ci 4× from 0 to 3", "refused by ann 1× from 4 to 4", "refused by ci 1× from 5 to 5", "paused by ci 1× from 6 to 6", "paused by ci 1× from 7 to 7"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// Whatever comes by the hundred, the newest rollback stays, and so does the newest of all.
func TestNothingPushesTheNewestRollbackOutOfTheHistory(t *testing.T) {
	for _, rollback := range []decision.Event{decision.EventRolledBack, decision.EventWould} {
		for _, event := range []decision.Event{
			decision.EventRefused, decision.EventBlocked, decision.EventShifted, decision.EventPaused, decision.EventUnguarded, decision.EventUnlocked, decision.EventNewBuild,
			decision.EventUnreadable, decision.EventNoted, decision.EventReasserted, decision.EventForeignLock, decision.EventStep, decision.EventLeaving,
		} {
			var r decision.Record
			for i := range 600 {
				e := decision.HistoryEntry{At: at.Add(time.Duration(i) * time.Minute), Event: event, By: "ci", Reason: strings.Repeat("x", 100+i%7)}
				if i < 2 {
					e.Event, e.Reason = rollback, strings.Repeat("y", 5000)
				}
				r.History = append(r.History, e)
				if i%50 > 0 {
					continue
				}
				var err error
				if r, err = Parse(recordMap(r)); err != nil {
					t.Fatal(err)
				}
			}
			text := r.Data()[decision.KeyHistory]
			r, err := Parse(recordMap(r))
			if err != nil {
				t.Fatal(err)
			}
			all := slices.Collect(r.NewestFirst())
			kept := slices.ContainsFunc(all, func(e decision.HistoryEntry) bool { return e.Event == rollback && e.At.Equal(at.Add(time.Minute)) })
			if len(text) > decision.MaxHistoryBytes || !kept || !all[0].At.Equal(at.Add(599*time.Minute)) || len(all) < 50 {
				t.Errorf("%s, then %s: %d bytes, kept %v, %d entries to %s", rollback, event, len(text), kept, len(all), all[0].At)
			}
		}
	}
}

func TestWhatIsNewIsToldAlsoWhereTheNewestOfBeforeWasPushedOut(t *testing.T) {
	e := func(minute int, event decision.Event) decision.HistoryEntry {
		return decision.HistoryEntry{At: at.Add(time.Duration(minute) * time.Minute), Event: event}
	}
	old, remark := e(0, decision.EventRolledBack), e(1, decision.EventNoted)
	again, thrice := remark, remark
	again.Times, again.Last, thrice.Times, thrice.Last = 2, at.Add(2*time.Minute), 3, at.Add(3*time.Minute)
	for name, c := range map[string]struct {
		before, after []decision.HistoryEntry
		fresh         int
	}{
		"nothing":                          {[]decision.HistoryEntry{old, remark}, []decision.HistoryEntry{old, remark}, 0},
		"an entry":                         {[]decision.HistoryEntry{old, remark}, []decision.HistoryEntry{old, remark, e(2, decision.EventPaused)}, 1},
		"the remark is pushed out":         {[]decision.HistoryEntry{old, remark}, []decision.HistoryEntry{old, e(2, decision.EventNoted), e(3, decision.EventNoted)}, 2},
		"everything is pushed out":         {[]decision.HistoryEntry{old, remark}, []decision.HistoryEntry{e(2, decision.EventNoted)}, 1},
		"there was nothing":                {nil, []decision.HistoryEntry{old}, 1},
		"the record was begun anew":        {[]decision.HistoryEntry{old}, nil, 0},
		"the newest came again":            {[]decision.HistoryEntry{old, remark}, []decision.HistoryEntry{old, again}, 1},
		"it had come twice, and once more": {[]decision.HistoryEntry{old, again}, []decision.HistoryEntry{old, thrice, e(4, decision.EventPaused)}, 2},
		"the oldest are pushed out too":    {[]decision.HistoryEntry{e(-2, decision.EventPaused), old, remark}, []decision.HistoryEntry{old, e(2, decision.EventResumed)}, 1},
	} {
		if got := NewEntries(c.before, c.after); len(got) != c.fresh {
			t.Errorf("%s: %d new entries, want %d: %+v", name, len(got), c.fresh, got)
		}
	}
}

func TestHistoryOfAThousandDecisionsStaysBounded(t *testing.T) {
	r := decisiontest.Given().Record
	for i := range 1000 {
		in := decisiontest.Given(decisiontest.Gets(10 + i%2*10))
		in.Record = r
		d := decision.Decide(in, at.Add(time.Duration(i)*time.Second))
		var err error
		cm := recordMap(d.Record)
		if r, err = Parse(cm); err != nil {
			t.Fatal(err)
		}
		if n := len(cm.Data[decision.KeyHistory]); n > decision.MaxHistoryBytes {
			t.Fatalf("history takes %d bytes", n)
		}
	}
	if last := r.History[len(r.History)-1]; !last.At.Equal(at.Add(999 * time.Second)) {
		t.Errorf("the newest decision is missing; the last is of %s", last.At)
	}
}

func TestACloneSharesNothingThatIsEdited(t *testing.T) {
	r := decisiontest.FullRecord()
	c := r.Clone()
	c.Lock.Build, c.Request.By, c.Status.Paused.By, c.Status.Disarmed.By, c.Status.Moving.By = "x", "x", "x", "x", "x"
	c.Refused[0], c.Deny[0], c.Stable[0], c.VirtualServices[0] = "x", "x", "x", "x"
	c.Status.Alerts[0], c.Status.Noted[0], c.Status.Firing[0].Name = "x", "x", "x"
	c.History[0].Event, c.Changed[0].Path = "x", "x"
	if !reflect.DeepEqual(r, decisiontest.FullRecord()) {
		t.Errorf("editing a clone changed the record: %+v", r)
	}
}

func FuzzParseRecord(f *testing.F) {
	full := decisiontest.FullRecord().Data()
	f.Add(full[decision.KeyLock], full[decision.KeyStatus], full[decision.KeyHistory], full[decision.KeyRequestAction], full[decision.KeyChanged], full[decision.KeyRefused], full[decision.KeyMessage])
	f.Add("null", "null", "null", "null", "null", " ", "\x00")
	f.Add("{}", "[]", "[{}]", "1", `[{"was":1}]`, "a  b\nc", "")
	f.Add("", `{"weight":1e99}`, "", "", "", "", "")
	f.Fuzz(func(t *testing.T, lock, status, history, request, changed, refused, message string) {
		cm := &corev1.ConfigMap{Data: map[string]string{decision.KeyLock: lock, decision.KeyStatus: status, decision.KeyHistory: history, decision.KeyRequestAction: request, decision.KeyRequestAt: request, decision.KeyRequestUntil: status, decision.KeyChanged: changed, decision.KeyReceipt: changed, decision.KeyAnswers: history, decision.KeyRefused: refused, decision.KeyMessage: message}}
		r, err := Parse(cm)
		if err != nil {
			if !strings.Contains(err.Error(), ": key ") {
				t.Fatalf("error names no key: %v", err)
			}
			return
		}
		back, err := Parse(recordMap(r))
		if err != nil {
			t.Fatalf("what was read cannot be read again: %v", err)
		}
		if !reflect.DeepEqual(back.Data(), r.Data()) {
			t.Fatalf("read %v\nread again %v", r.Data(), back.Data())
		}
		decision.Decide(decision.Input{Guard: decisiontest.Given().Guard, Record: r}, at) // must not panic on whatever a person wrote
	})
}

func TestAHistoryThatIsNotTakenApartReadsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []decision.HistoryEntry
		for i := range rapid.IntRange(0, 80).Draw(t, "entries") {
			all = append(all, decision.HistoryEntry{At: at.Add(time.Duration(i) * time.Second), State: decision.StateIdle, Event: "step", Alert: "<A&B>", Reason: strings.Repeat("x", rapid.IntRange(0, 700).Draw(t, "size"))})
		}
		n := rapid.IntRange(0, len(all)).Draw(t, "of them read")
		stored := recordMap(decision.Record{History: all[:n]})
		whole, err := Parse(stored)
		if err != nil {
			t.Fatal(err)
		}
		r, bad := NewHistories().Parse("orders-service", stored)
		if len(bad) > 0 {
			t.Fatal(bad)
		}
		whole.History, r.History = append(whole.History, all[n:]...), all[n:]
		if !maps.Equal(whole.Data(), r.Data()) {
			t.Errorf("%d of %d entries not taken apart:\n%s\nwant\n%s", n, len(all), r.Data()[decision.KeyHistory], whole.Data()[decision.KeyHistory])
		}
		if got, want := slices.Collect(r.NewestFirst()), slices.Collect(whole.NewestFirst()); !reflect.DeepEqual(got, want) {
			t.Errorf("newest first: %v, want %v", got, want)
		}
	})
}

func TestAHistoryThatSomebodyHasEditedIsReadOrRefused(t *testing.T) {
	known := NewHistories()
	for text, entries := range map[string]int{"null": 0, "[]": 0, " [ ] ": 0, "[ {\"event\":\"step\"} ]\n": 1, `[{"event":"step"}] `: 1, `[{"event":"step"},{"event":"completed"}]`: 2} {
		cm := recordMap(decision.Record{})
		cm.Data[decision.KeyHistory] = text
		r, bad := known.Parse("orders-service", cm)
		if len(bad) > 0 {
			t.Fatalf("%q: %v", text, bad)
		}
		r.History = append(r.History, decision.HistoryEntry{At: at, Event: "paused"})
		if back, err := Parse(recordMap(r)); err != nil || len(back.History) != entries+1 || back.History[entries].Event != "paused" {
			t.Errorf("%q: with one entry more it is %q, %v", text, r.Data()[decision.KeyHistory], err)
		}
	}
	for _, text := range []string{`[{"event":"step"}`, `{"event":"step"}`, `[{"from":"much"}]`} {
		cm := recordMap(decision.Record{})
		for range 2 {
			cm.Data[decision.KeyHistory] = text
			if r, bad := known.Parse("orders-service", cm); len(bad) != 1 || !strings.Contains(bad[0], "key history") || r.PastText() != "" {
				t.Errorf("%q: %v, want what names the key, and nothing of it kept: %q", text, bad, r.PastText())
			}
		}
	}
}
