package decision

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const guardianUser = "system:serviceaccount:" + testNamespace + ":guardian"

func aLock() LockAnnotation {
	return LockAnnotation{By: guardianUser, Canary: []string{"orders-service/v2", "orders-service"}, Stable: []string{"orders-service/v1"}, MatchRoutes: true, Mirrors: true,
		Build: "b1", Since: at, Message: "guardian rolled orders-service back to v1: deploy a new build"}
}

func TestALockAnnotationIsReadAsItWasWritten(t *testing.T) {
	l := aLock()
	text, err := l.Encode()
	want := "by=system:serviceaccount:microservices:guardian canary=orders-service/v2,orders-service stable=orders-service/v1 m=1 r=1 build=b1 since=2026-03-02T09:00:00Z guardian rolled orders-service back to v1: deploy a new build"
	if err != nil || text != want {
		t.Fatalf("%v\n%s\nwant\n%s", err, text, want)
	}
	for name, edit := range map[string]func(*LockAnnotation){
		"as it is": func(*LockAnnotation) {}, "no build": func(l *LockAnnotation) { l.Build = "" },
		"weights alone":       func(l *LockAnnotation) { l.MatchRoutes, l.Mirrors = false, false },
		"hosts of their own":  func(l *LockAnnotation) { l.Canary, l.Stable = []string{"orders-v2/"}, []string{"orders-v1/"} },
		"a part of a second":  func(l *LockAnnotation) { l.Since = at.Add(123456789) },
		"many spaces at last": func(l *LockAnnotation) { l.Message = "  two  spaces " },
	} {
		l := aLock()
		edit(&l)
		text, err := l.Encode()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := ParseLockAnnotation(text); err != nil || !reflect.DeepEqual(got, l) {
			t.Errorf("%s: %v\n%+v\nwant\n%+v", name, err, got, l)
		}
	}
}

func TestALockAnnotationThatThePolicyCouldNotReadIsNotWritten(t *testing.T) {
	for name, edit := range map[string]func(*LockAnnotation){
		"a person's name":             func(l *LockAnnotation) { l.By = "ann@example.com" },
		"a user with a space":         func(l *LockAnnotation) { l.By += " x" },
		"no canary":                   func(l *LockAnnotation) { l.Canary = nil },
		"a comma in a destination":    func(l *LockAnnotation) { l.Canary = []string{"a,b/v2"} },
		"no stable":                   func(l *LockAnnotation) { l.Stable = nil },
		"an empty destination":        func(l *LockAnnotation) { l.Stable = []string{"a/v1", ""} },
		"stable is no destination":    func(l *LockAnnotation) { l.Stable = []string{"orders-service"} },
		"a build with a space":        func(l *LockAnnotation) { l.Build = "b 1" },
		"no message":                  func(l *LockAnnotation) { l.Message = "" },
		"a message of two lines":      func(l *LockAnnotation) { l.Message = "a\nb" },
		"a message that is not UTF-8": func(l *LockAnnotation) { l.Message = "a\xff" },
		"a year of five digits":       func(l *LockAnnotation) { l.Since = at.AddDate(9000, 0, 0) },
	} {
		l := aLock()
		edit(&l)
		if text, err := l.Encode(); err == nil {
			t.Errorf("%s: written as %s", name, text)
		}
	}
	for _, text := range []string{"", "x", "by=a canary=b stable=c/ m=1 r=1 build= since=x y",
		strings.Replace(mustEncode(t, aLock()), "m=1", "m=2", 1), strings.Replace(mustEncode(t, aLock()), "since=2026", "since=20260", 1)} {
		if l, err := ParseLockAnnotation(text); err == nil {
			t.Errorf("%q is read as %+v", text, l)
		}
	}
}

func mustEncode(t testing.TB, l LockAnnotation) string {
	t.Helper()
	text, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func FuzzLockAnnotation(f *testing.F) {
	text, err := aLock().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(strings.ReplaceAll(text, "b1", ""))
	f.Add("by=system:serviceaccount:a:b canary=, stable=/ m=0 r=0 build= since=0001-01-01T00:00:00+14:00 \u2028")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ParseLockAnnotation(text)
		if err != nil {
			return
		}
		again, err := l.Encode()
		if err != nil {
			t.Fatalf("%q is read as %+v, which cannot be written: %v", text, l, err)
		}
		if !lockValue.MatchString(again) || strings.Count(again, "\n") > 0 {
			t.Fatalf("%q is written as %q, which no policy reads", text, again)
		}
		if got, err := ParseLockAnnotation(again); err != nil || !reflect.DeepEqual(got, l) {
			t.Fatalf("%q is read as %+v and then as %+v (%v)", text, l, got, err)
		}
	})
}

// A rollback of build b1 could not be recorded: its lock is an annotation, and the
// memory of the replica that did it.
func TestAnUnrecordedLockDoesNotHideTheAnnotationThatStands(t *testing.T) {
	locked := func(build string) *Lock {
		return &Lock{Kind: LockBuild, Build: build, Refused: []string{build}, Since: at, By: ByAlert, Reason: "Errors: 7% of requests fail"}
	}
	for name, c := range map[string]struct {
		edits   []but
		by      string // whose the lock is; empty: there is none
		refused []string
	}{
		"of the same build, which is set again":             {[]but{unseen}, ByAlert, []string{"b1"}},
		"of another build, and the record is lost":          {[]but{unseen, runs("b2", 0, "b1")}, ByAnnotation, []string{"b1"}},
		"of a canary whose build is not known":              {[]but{unseen, noCanary}, ByAnnotation, []string{"b1"}},
		"of another build that is ready, by the live reads": {[]but{unseen, live, runs("b2", 2), agedOf("b2", at, at)}, "", []string{"b1"}},
		"of another build, and a record of before the lock": {[]but{runs("b2", 0, "b1"), func(in *Input) { in.Record.Status.LiftedAt = at.Add(-time.Minute) }}, ByAnnotation, []string{"b1"}},
	} {
		t.Run(name, func(t *testing.T) {
			mark := LockAnnotation{By: guardianUser, Canary: []string{"orders-service/v2"}, Stable: []string{"orders-service/v1"}, Build: "b1", Since: at, Message: "m"}
			in := given(append([]but{gets(0), func(in *Input) { in.Unrecorded, in.Marked = locked("b1"), &mark }}, c.edits...)...)
			d := Decide(in, at.Add(time.Minute))
			var by string
			if d.Record.Lock != nil {
				by = d.Record.Lock.By
			}
			if by != c.by || !slices.Equal(d.Record.Refused, c.refused) {
				t.Errorf("locked by %q, want %q; refused %v, want %v; in words: %s", by, c.by, d.Record.Refused, c.refused, words(d))
			}
		})
	}
}

func TestALockLiftedByASlowClockStaysLifted(t *testing.T) {
	in := given(locked(LockBuild), asks(RequestUnlock), live)
	in.Record.Lock.Since = at.Add(time.Second)
	d := Decide(in, at)
	if d.Record.Lock != nil || d.Record.Status.LiftedAt.Before(in.Record.Lock.Since) {
		t.Errorf("lifted at %s, set at %s", d.Record.Status.LiftedAt, in.Record.Lock.Since)
	}
}

func TestALockThatTheRecordHasLostIsTakenUpFromItsAnnotation(t *testing.T) {
	bad := given(bad, func(in *Input) { in.Spare = []string{"orders-service/v1"} })
	rolled := Decide(bad, at)
	text, ok := LockAnnotationOf(Landed(rolled.Record, rolled), guardianUser)
	if !ok {
		t.Fatal("no annotation")
	}
	l, err := ParseLockAnnotation(text)
	if err != nil {
		t.Fatal(err)
	}
	lost := func(edits ...but) Input {
		return given(append([]but{unseen, gets(0), func(in *Input) { in.Spare, in.Marked = bad.Spare, &l }}, edits...)...)
	}
	d := Decide(lost(), at.Add(time.Hour))
	got := d.Record.Lock
	if got == nil || got.Kind != LockBuild || got.Build != "b1" || !got.Since.Equal(at) || got.By != ByAnnotation || got.Reason != rolled.Record.Lock.Reason {
		t.Fatalf("lock %+v", got)
	}
	if !slices.Equal(d.Record.Refused, []string{"b1"}) || d.Record.Status.State != StateRolledBack || len(d.Added) != 1 || d.Added[0].Event != "locked" {
		t.Errorf("refused %v, state %s, told %+v", d.Record.Refused, d.Record.Status.State, d.Added)
	}
	if again, _ := LockAnnotationOf(d.Record, guardianUser); again != text {
		t.Errorf("the annotation becomes\n%s\nwas\n%s", again, text)
	}
	if d := Decide(lost(gets(50)), at); d.Move != MoveStable {
		t.Errorf("the canary has traffic again: move %v", d.Move)
	}
	if d := Decide(lost(lockKind(LockManual)), at); d.Record.Lock == nil || d.Record.Lock.Kind != LockManual {
		t.Errorf("by a configuration of manual: %+v", d.Record.Lock)
	}
	if d := Decide(lost(lockKind(LockNone)), at); d.Record.Lock == nil || d.Record.Lock.Kind != LockBuild {
		t.Errorf("by a configuration of none: %+v", d.Record.Lock)
	}
	if d := Decide(lost(runs("b2", 2), agedOf("b2", at, at), live), at); d.Record.Lock != nil {
		t.Errorf("a new build is ready: %+v", d.Record.Lock)
	}
	if d := Decide(lost(func(in *Input) { in.Deny, in.Spare = nil, nil }), at); !slices.Equal(d.Record.Deny, l.Canary) || !slices.Equal(d.Record.Stable, l.Stable) {
		t.Errorf("without a DestinationRule: canary %v, stable %v", d.Record.Deny, d.Record.Stable)
	}
	both := l // it went over from another canary, which it denies besides
	both.Canary = []string{"orders-service/v2", "orders-service/v0", "orders-service"}
	after := tell(t, unseen, gets(0), func(in *Input) {
		in.Spare, in.Deny, in.Marked = bad.Spare, []string{"orders-service/v2", "orders-service"}, &both
	})
	for range 2 {
		d := after.then(time.Second)
		if l := d.Record.Lock; l == nil || !slices.Equal(l.Also, []string{"orders-service/v0"}) || !slices.Contains(d.Record.Deny, "orders-service/v0") {
			t.Errorf("lock %+v, denied %v", l, d.Record.Deny)
		}
	}
	if l := Decide(lost(), at).Record.Lock; l == nil || l.Also != nil {
		t.Errorf("what it denies is its own canary: %+v", l)
	}
	// A copy from before the lock knows as little as no record.
	older := lost()
	older.Record = given(wasIn(StateIdle, 0)).Record
	older.Record.Status.LiftedAt = at.Add(-time.Minute)
	if d := Decide(older, at); d.Record.Lock == nil {
		t.Error("a restored copy of the record has let go")
	}
	older.Record.Status.LiftedAt = at
	if d := Decide(older, at); d.Record.Lock != nil {
		t.Errorf("a lock that was lifted is back: %+v", d.Record.Lock)
	}
}

// What the annotation says of a lock is all of what it refuses, however long its
// reason and the list are.
func TestAnAnnotationTellsOfAllBuildsThatItsLockRefuses(t *testing.T) {
	several := make([]string, maxLockRefused)
	for i := range several {
		several[i] = BuildOf([]byte{byte(i)})
	}
	long := strings.Repeat("it fails, and fails, ", 100)
	for name, c := range map[string]struct {
		builds []string
		reason string
		edits  []but
	}{
		"none is known":             {nil, "why", nil},
		"one":                       {several[:1], "why", nil},
		"two":                       {several[:2], "why", nil},
		"as many as a lock has":     {several, "why", nil},
		"a long reason":             {several[:2], long, nil},
		"a reason like a list":      {several[:2], "x. Builds b8, b9 are refused. To go on, wait. Mind that it rains", nil},
		"pods of both sides":        {several[:2], "why", []but{func(in *Input) { in.Stable.Overlap = "the labels of stable select the canary's pods too (1)" }}},
		"set by hand, of one build": {several[:1], "ann's", []but{lockKind(LockManual)}},
		"blocked":                   {several[:2], "why", []but{gets(50), stableReady(0)}},
	} {
		t.Run(name, func(t *testing.T) {
			in := given(append([]but{locked(LockBuild), gets(0), live, func(in *Input) { in.Spare = []string{"orders-service/v1"} }}, c.edits...)...)
			in.Record.Refused, in.Record.Lock.Refused, in.Record.Lock.Build, in.Record.Lock.Reason = c.builds, c.builds, "", c.reason
			in.Canary = Workload{} // that what runs joins the lock is of no interest here
			if len(c.builds) > 0 {
				in.Record.Lock.Build = c.builds[len(c.builds)-1]
			}
			d := Decide(in, at)
			text, ok := LockAnnotationOf(Landed(d.Record, d), guardianUser)
			l, err := ParseLockAnnotation(text)
			if !ok || err != nil {
				t.Fatalf("%v: %q", err, text)
			}
			if !slices.Equal(l.refused(), c.builds) || !strings.HasPrefix(c.reason, strings.TrimSuffix(l.reason(), "…")) {
				t.Errorf("refuses %v, want %v; reason %q; message %q", l.refused(), c.builds, l.reason(), l.Message)
			}
		})
	}
}

// Undoing the rollout to any of them is refused, also when the record was lost.
func TestALostRecordForgetsNoBuildThatItsLockRefused(t *testing.T) {
	s := tell(t, live, func(in *Input) { in.Spare = []string{"orders-service/v1"} })
	s.then(time.Minute, runs("b2", 1, "b1"), appearedAt(at.Add(time.Minute)))
	s.then(time.Minute, runs("b2", 2), agedOf("b2", at.Add(time.Minute), at.Add(time.Minute)))
	s.then(time.Second, s.firesNow("Errors", time.Second))
	s.refused("b1", "b2")
	d := s.then(time.Second, quietNow)
	text, _ := LockAnnotationOf(d.Record, guardianUser)
	l, err := ParseLockAnnotation(text)
	if err != nil {
		t.Fatal(err)
	}
	s.in.Record, s.in.Marked = Record{}, &l
	s.then(time.Minute, gets(0))
	s.refused("b1", "b2")
	if d := s.then(time.Minute, runs("b1", 2), agedOf("b1", s.now, s.now)); d.Record.Lock == nil {
		t.Errorf("a rollout to b1, which was rolled back too, has lifted the lock: %s", words(d))
	}
	if d := s.then(time.Minute, runs("b3", 2), agedOf("b3", s.now, s.now)); d.Record.Lock != nil {
		t.Errorf("b3 has not: %s", words(d))
	}
}

func TestTheLocksMessageIsTrueAndShort(t *testing.T) {
	long := strings.Repeat("so it fails, and fails, ", 100)
	for name, c := range map[string]struct {
		edits      []but
		says, lies string
	}{
		"rolled back":            {[]but{bad}, "guardian rolled orders-service back to v1 at ", "cannot yet"},
		"blocked":                {[]but{bad, stableReady(0)}, "guardian wants orders-service back on v1 since 2026-03-02T09:00:00Z but cannot yet (", "rolled"},
		"disarmed with traffic":  {[]but{locked(LockBuild), gets(50), disarmed(time.Hour)}, "guardian locked orders-service on v1 at ", "rolled orders-service back"},
		"paused without traffic": {[]but{locked(LockBuild), func(in *Input) { in.Record.Status.Paused = &Pause{By: "ann"} }}, "rolled orders-service back", "cannot yet"},
	} {
		for _, lengthen := range []bool{false, true} {
			in := given(c.edits...)
			if lengthen {
				for i := range in.Alerts {
					in.Alerts[i].Summary = long
				}
				if in.Record.Lock != nil {
					in.Record.Lock.Reason = long
				}
				if in.Stable.Ready == 0 {
					in.Stable.Missing = long
				}
			}
			d := Decide(in, at)
			m := Landed(d.Record, d).Message
			if !strings.Contains(m, c.says) || strings.Contains(strings.ReplaceAll(m, "is rolled out", ""), c.lies) {
				t.Errorf("%s: %q", name, m)
			}
			if len(m) > maxLockMessage+100 || !strings.HasSuffix(m, "guardian unlock orders-service -n microservices --reason '…'") {
				t.Errorf("%s: %d bytes: %q", name, len(m), m)
			}
		}
	}
}
