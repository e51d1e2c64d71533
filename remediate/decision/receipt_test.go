package decision

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

// rolledBack is a guard that an alert has rolled back: decided at at, written and
// seen to be done a second later.
func rolledBack(t *testing.T, edits ...but) (Input, Decision) {
	t.Helper()
	alert := Alert{Name: "CanaryErrors", Signal: "error_rate", Action: ActionRollback, Fingerprint: "f", StartsAt: at.Add(-4 * time.Second), Summary: "7% fail",
		Limit: "1% of requests", Traces: "https://jaeger.example/search", Received: at.Add(-50 * time.Millisecond)}
	in := given(edits...)
	in.Alerts = append(in.Alerts, alert)
	in.Shifted = &Shift{Manager: "kubectl", At: at.Add(-10 * time.Minute)}
	d := Decide(in, at)
	if d.Move != MoveStable || d.Record.Receipt != nil || d.Record.Status.Moving.Receipt == nil {
		t.Fatalf("decided %v, a receipt before it is done: %+v", d.Move, d.Record.Receipt)
	}
	in.Record, in.Traffic, in.Shifted = d.Record, virtualservice.Traffic{Split: 1}, nil
	in.Wrote = at.Add(30 * time.Millisecond)
	in.Links = func(from, to time.Time) []Link { return []Link{{"Grafana", Stamp(from) + "/" + Stamp(to)}} }
	return in, Decide(in, at.Add(time.Second))
}

func TestARollbackThatIsDoneHasAReceipt(t *testing.T) {
	in, d := rolledBack(t, func(in *Input) {
		in.Record.Status.setTally(Tally{Requests: 300, Failed: 21}, Counted{Since: in.Record.Status.MovedAt, At: at.Add(-5 * time.Second)})
	})
	r := d.Record.Receipt
	if r == nil {
		t.Fatal("none")
	}
	got, err := json.Marshal(r)
	want := `{"build":"b1","refused":["b1"],"lock":"build","by":"alert","reason":"CanaryErrors: 7% fail","alert":"CanaryErrors","signal":"error_rate","limit":"1% of requests","from":50,` +
		`"fired":"2026-03-02T08:59:56Z","seen":"2026-03-02T08:59:59.95Z","written":"2026-03-02T09:00:00.03Z","requests":300,"failed":21,` +
		`"counted":{"since":"2026-03-02T08:50:00Z","at":"2026-03-02T08:59:55Z"},"shifted":{"manager":"kubectl","at":"2026-03-02T08:50:00Z"},` +
		`"links":[{"name":"Grafana","url":"2026-03-02T08:44:56Z/2026-03-02T09:15:00Z"},{"name":"Jaeger","url":"https://jaeger.example/search"}],"open":true}`
	if string(got) != want || err != nil {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if d.Record.Status.Moving != nil || d.WantAfter {
		t.Errorf("moving %+v, asks %v", d.Record.Status.Moving, d.WantAfter)
	}
	in.Record = d.Record
	in.Wrote = time.Time{} // by another replica
	if again := Decide(in, at.Add(time.Minute)); again.Record.Receipt != nil && !sameReceipt(again.Record.Receipt, r) {
		t.Errorf("changed by a look: %+v", again.Record.Receipt)
	}
}

func sameReceipt(a, b *Receipt) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

// A pipeline that is stopped is led to what shows why at once: a rollback's receipt comes
// after its last write, and what is blocked or held has none.
func TestAStatusHasLinksWhileSomethingIsWrong(t *testing.T) {
	links := func(in *Input) {
		in.Links = func(from, to time.Time) []Link { return []Link{{"Grafana", Stamp(from) + "/" + Stamp(to)}} }
	}
	fires := func(action Action) but {
		return func(in *Input) {
			in.Alerts = append(in.Alerts, Alert{Name: "CanaryErrors", Signal: "error_rate", Action: action, Fingerprint: "f", StartsAt: at.Add(-4 * time.Second), Traces: "traces"})
		}
	}
	const now = "2026-03-02T08:45:00Z/2026-03-02T09:15:00Z"
	for name, c := range map[string]struct {
		edits []but
		state State
		want  string
	}{
		"shifting":                         {nil, StateShifting, ""},
		"what was wrong is over":           {[]but{func(in *Input) { in.Record.Status.Links = []Link{{"Grafana", "old"}} }}, StateShifting, ""},
		"a rollback that is being written": {[]but{fires(ActionRollback)}, StateShifting, now + " traces"},
		"blocked":                          {[]but{fires(ActionRollback), func(in *Input) { in.Stable.Ready = 0 }}, StateBlocked, now + " traces"},
		"held":                             {[]but{fires(ActionHold)}, StateHeld, now + " traces"},
		"locked":                           {[]but{locked(LockBuild)}, StateRolledBack, now},
		"locked, and led there before":     {[]but{locked(LockBuild), func(in *Input) { in.Record.Status.Links = []Link{{"Grafana", "old"}} }}, StateRolledBack, "old"},
		"no interface is configured":       {[]but{locked(LockBuild), func(in *Input) { in.Links = nil }}, StateRolledBack, ""},
	} {
		s := Decide(given(append([]but{links}, c.edits...)...), at).Record.Status
		got := ""
		for _, l := range s.Links {
			got = strings.TrimSpace(got + " " + l.URL)
		}
		if s.State != c.state || got != c.want {
			t.Errorf("%s: %s with %q, want %s with %q", name, s.State, got, c.state, c.want)
		}
	}
}

func TestAReceiptTellsWhenItWasSeenToBeDoneWhereThatIsAllThatIsKnown(t *testing.T) {
	in, _ := rolledBack(t)
	in.Wrote = at.Add(-time.Hour) // of another rollback
	if r := Decide(in, at.Add(time.Second)).Record.Receipt; !r.Written.Equal(at.Add(time.Second)) {
		t.Errorf("written %s", r.Written)
	}
}

// What was put back is no rollback of its own.
func TestAReassertionLeavesTheReceiptAsItIs(t *testing.T) {
	in, d := rolledBack(t)
	r := d.Record.Receipt
	in.Record = d.Record
	gets(50)(&in)
	d = Decide(in, at.Add(time.Minute))
	if d.Reason != ReasonReassert || !sameReceipt(d.Record.Receipt, r) {
		t.Errorf("%s: %+v", d.Reason, d.Record.Receipt)
	}
}

func TestAReceiptIsClosedInOneWrite(t *testing.T) {
	open, d := rolledBack(t)
	open.Record, open.Leads, open.AskAfter = d.Record, true, time.Unix(0, 0)
	written := d.Record.Receipt.Written
	after := func(edit func(*After)) *After {
		a := &After{Began: at.Add(-8 * time.Second), Felt: written.Add(7 * time.Second), Counted: true, Requests: 310, Failed: 22, Images: []string{"orders: x"}, Links: []Link{{"Jaeger", "u"}}}
		if edit != nil {
			edit(a)
		}
		return a
	}
	for name, c := range map[string]struct {
		edit   but
		late   time.Duration // since it was written
		asks   bool
		closed string // part of the JSON; empty: it stays open, as it was
	}{
		"too early":                       {nil, 5 * time.Second, false, ""},
		"asked":                           {nil, 10 * time.Second, true, ""},
		"asked a moment ago":              {func(in *Input) { in.AskAfter = at.Add(time.Minute) }, 10 * time.Second, false, ""},
		"others are being asked about":    {func(in *Input) { in.Busy = true }, 10 * time.Second, false, ""},
		"another's to ask":                {func(in *Input) { in.Leads = false }, time.Hour, false, ""},
		"nobody to ask":                   {func(in *Input) { in.AskAfter = time.Time{} }, time.Hour, false, ""},
		"felt":                            {func(in *Input) { in.After = after(nil) }, 20 * time.Second, false, `"began":"2026-03-02T08:59:52Z",`},
		"numbers":                         {func(in *Input) { in.After = after(nil) }, 20 * time.Second, false, `"felt":"2026-03-02T09:00:07.03Z","requests":310,"failed":22,"counted":{"since":"2026-03-02T08:50:00Z","at":"2026-03-02T09:00:20.03Z"}`},
		"still requests":                  {func(in *Input) { in.After = after(func(a *After) { a.Felt = time.Time{} }) }, 20 * time.Second, false, ""},
		"for too long":                    {func(in *Input) { in.After = after(func(a *After) { a.Felt = time.Time{} }) }, 5 * time.Minute, false, `"notFelt":"requests to the canary were still counted 5m0s after the write"`},
		"no answer yet":                   {func(in *Input) { in.After = &After{Err: "refused"} }, 20 * time.Second, false, ""},
		"no answer":                       {func(in *Input) { in.After = &After{Err: "refused", Unread: "forbidden"} }, 5 * time.Minute, false, `"notFelt":"refused"`},
		"nobody will answer":              {func(in *Input) { in.After = &After{Err: "no Prometheus", Never: true} }, 10 * time.Second, false, `"notFelt":"no Prometheus"`},
		"and what was counted before is":  {func(in *Input) { in.After = &After{Err: "no Prometheus", Never: true, Unread: "u"} }, 10 * time.Second, false, `"unread":"u"`},
		"put to traffic again before":     {func(in *Input) { in.After = after(func(a *After) { a.Felt = time.Time{} }); gets(10)(in) }, 20 * time.Second, false, `"notFelt":"the canary got traffic again`},
		"images and links are in as well": {func(in *Input) { in.After = after(nil) }, 20 * time.Second, false, `"images":["orders: x"],"links":[{"name":"Grafana","url":"2026-03-02T08:44:56Z/2026-03-02T09:15:00Z"},{"name":"Jaeger","url":"u"}]`},
	} {
		in := open
		in.Record = open.Record.Clone()
		if c.edit != nil {
			c.edit(&in)
		}
		d := Decide(in, written.Add(c.late))
		text, _ := json.Marshal(d.Record.Receipt)
		if d.WantAfter != c.asks {
			t.Errorf("%s: asks %v", name, d.WantAfter)
		}
		switch isOpen := d.Record.Receipt.Open; {
		case c.closed == "" && !sameReceipt(d.Record.Receipt, open.Record.Receipt):
			t.Errorf("%s: changed to %s", name, text)
		case c.closed != "" && (isOpen || !strings.Contains(string(text), c.closed)):
			t.Errorf("%s: %s, want %s", name, text, c.closed)
		}
		if c.closed == "" && in.Leads && !in.AskAfter.IsZero() && (d.Requeue == 0 || d.Requeue > time.Minute) {
			t.Errorf("%s: looked at again after %s", name, d.Requeue)
		}
		if !open.Record.Receipt.Open {
			t.Fatalf("%s: edits its input", name)
		}
	}
}

// Without a lock the rollback is told as well, and a person's has no alert.
func TestEveryKindOfRollbackHasAReceipt(t *testing.T) {
	_, d := rolledBack(t, func(in *Input) { in.Guard.Rollback.Lock = LockNone })
	if r := d.Record.Receipt; r == nil || r.Lock != LockNone || len(r.Refused) > 0 || r.From != 50 {
		t.Errorf("without a lock: %+v", r)
	}
	in := given(asks(RequestRollback))
	d = Decide(in, at)
	in.Record, in.Traffic = d.Record, virtualservice.Traffic{Split: 1}
	if r := Decide(in, at.Add(time.Second)).Record.Receipt; r == nil || r.By != "ann" || r.Alert != "" || !r.Fired.IsZero() || !r.Seen.Equal(at) {
		t.Errorf("a person's: %+v", r)
	}
}

// By the clock of a replica that was ahead, a rollback was written in an hour: what shows
// only after it is asked for all the same, and of the time since.
func TestAReceiptOfAFutureTimeIsNotOpenUntilThen(t *testing.T) {
	in, d := rolledBack(t, func(in *Input) { in.Record.Status.MovedAt = at.Add(time.Hour) })
	if since := d.Record.Receipt.Counted.Since; since.After(at) {
		t.Errorf("its requests are counted from %s on, and it was decided at %s", since, at)
	}
	r := d.Record.Receipt.clone()
	r.Seen, r.Written, r.Counted.Since = at.Add(time.Hour), at.Add(time.Hour), at.Add(time.Hour)
	d.Record.Receipt = r
	in.Record, in.Leads, in.AskAfter = d.Record, true, at
	d = Decide(in, at.Add(2*time.Second))
	if d.WantAfter || d.Requeue > afterFirst {
		t.Fatalf("asked at once: %v; looked at again in %s", d.WantAfter, d.Requeue)
	}
	now := at.Add(2*time.Second + afterFirst)
	in.Record = d.Record
	d = Decide(in, now)
	if r := d.Record.Receipt; !d.WantAfter || r.Written.After(now) || r.Counted.Since.After(now) || r.Seen.After(now) {
		t.Errorf("asked: %v; receipt %+v", d.WantAfter, r)
	}
}
