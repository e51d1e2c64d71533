package decision

import (
	"slices"
	"testing"
	"time"
)

// A count that goes up and down is not told each time; another reason is.
func TestABlockedRollbackIsToldAnewOnlyForAnotherReason(t *testing.T) {
	s := tell(t, leads, bad, floorOf(5), stableReady(1))
	var told []string
	then := func(edits ...but) {
		for _, e := range s.then(15*time.Second, edits...).Added {
			if e.Event == EventBlocked {
				told = append(told, e.Reason)
			}
		}
	}
	for i := range 200 {
		then(stableReady(i % 3))
	}
	const few = "rollback is wanted but stable v1 has 0 ready endpoints, rollback.minReadyStable is 5"
	if !slices.Equal(told, []string{few}) {
		t.Fatalf("told %q", told)
	}
	if want := "stable v1 has 1 ready endpoints, rollback.minReadyStable is 5"; s.in.Record.Status.Reason != want {
		t.Errorf("the status says %q, want %q", s.in.Record.Status.Reason, want)
	}
	missing := func(why string) but { return func(in *Input) { in.Stable.Missing = why } }
	then(missing("DestinationRule a/orders-v2 does not exist"))
	then(missing("DestinationRule a/orders-v3 does not exist"))
	then(missing(""), stableReady(4))
	want := []string{few, "rollback is wanted but DestinationRule a/orders-v2 does not exist", "rollback is wanted but DestinationRule a/orders-v3 does not exist",
		"rollback is wanted but stable v1 has 4 ready endpoints, rollback.minReadyStable is 5"}
	if !slices.Equal(told, want) {
		t.Errorf("told %q\nwant %q", told, want)
	}
}
