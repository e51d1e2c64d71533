package decision

import (
	"strings"
	"testing"
	"time"
)

func TestWhatStableCarriedEverythingWithIsRemembered(t *testing.T) {
	s := tell(t, wasIn(StateIdle, 0), gets(0), live, stableReady(6))
	s.in.Guard.Rollback.Capacity = 0.8
	thin := func(d Decision, want string) {
		t.Helper()
		if got := d.Record.Status.Thin; (want == "") != (got == "") || !strings.HasPrefix(got, want) {
			t.Errorf("%s at %d%%: %q, want %q", d.Record.Status.State, d.Record.Status.Weight, got, want)
		}
	}
	thin(s.then(time.Minute), "")
	thin(s.then(time.Minute, gets(10)), "")
	thin(s.then(time.Minute, stableReady(5)), "") // 83%
	thin(s.then(time.Minute, gets(50), stableReady(3)), "stable has 3 ready endpoints, and had 6 when it carried everything: less than rollback.capacity (0.8)")
	if c := s.in.Record.Status.Carried; c != 6 {
		t.Errorf("carried %d", c)
	}
	// The brake waits for nothing.
	d := s.then(time.Minute, s.firesNow("CanaryErrors", 0))
	if d.Move != MoveStable {
		t.Errorf("move %v (%s)", d.Move, d.Record.Status.Reason)
	}
	thin(d, "stable has 3")
	thin(s.then(time.Minute, quietNow), "stable has 3") // locked at 0: all of it is there now
	thin(s.then(time.Minute, stableReady(6)), "")
}

func TestACapacityIsToldOnlyWhereItIsKnownAndMatters(t *testing.T) {
	for name, c := range map[string]struct {
		edits []but
		want  bool
	}{
		"first seen with a canary":         {[]but{unseen, live, stableReady(1)}, false},
		"little is left":                   {[]but{live, stableReady(1)}, true},
		"capacity 0 tells nothing":         {[]but{live, stableReady(1), func(in *Input) { in.Guard.Rollback.Capacity = 0 }}, false},
		"it is the lease holder's to tell": {[]but{stableReady(1)}, false},
		"the window is over":               {[]but{promoted(time.Hour), gets(100), live, stableReady(1)}, false},
		"within the window":                {[]but{promoted(time.Minute), gets(100), live, stableReady(1)}, true},
		"no canary any more":               {[]but{gets(0), live, stableReady(1)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			in := given(func(in *Input) { in.Guard.Rollback.Capacity = 0.8 })
			for _, edit := range c.edits {
				edit(&in)
			}
			if in.Record.Status.State != StateUnknown {
				in.Record.Status.Carried = 4
			}
			if d := Decide(in, at); (d.Record.Status.Thin != "") != c.want {
				t.Errorf("%s: %q", d.Record.Status.State, d.Record.Status.Thin)
			}
		})
	}
}
