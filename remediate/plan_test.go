package remediate

import (
	"reflect"
	"slices"
	"testing"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"github.com/canary-guardian/guardian/remediate/virtualservice/vstest"
)

// TestAPlanSaysWhatIsWrittenBeforeAndAfterTrafficMoves: a crash between the two must
// neither lose what a rollback re-points nor have it restored twice.
func TestAPlanSaysWhatIsWrittenBeforeAndAfterTrafficMoves(t *testing.T) {
	s := gathered(t, bySubset, coverAll, vstest.OnlyRoute(vstest.CookieV2, "v2")+vstest.PairRoute("", 70, 30))
	asked := &decision.Request{Action: decision.RequestRollback, By: "ann"}
	s.input.Record.Request = asked
	history := []decision.HistoryEntry{{Event: decision.EventShifted}}
	rollback := decision.Decision{Move: decision.MoveStable, Reason: decision.ReasonPerson, Record: decision.Record{History: history}}
	made, err := plan(*s, rollback, guardianUser)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(made.before.Changed); n != 1 || len(made.patches) != 1 || len(made.patches[0].ops) == 0 {
		t.Fatalf("a rollback remembers %d routes of 1 in %d patches", n, len(made.patches))
	}
	if made.before.Request != asked || made.after.Request != nil || !made.conclude {
		t.Errorf("the request stands before %v, after %v, and that is written: %v", made.before.Request, made.after.Request, made.conclude)
	}
	if !reflect.DeepEqual(made.after.Changed, made.before.Changed) {
		t.Errorf("what it re-points is %v before and %v after", made.before.Changed, made.after.Changed)
	}

	back := decision.Decision{Move: decision.MoveRestore, Record: decision.Record{Changed: made.before.Changed, History: history}, Then: []decision.HistoryEntry{{Event: decision.EventReasserted}}}
	led := gathered(t, bySubset, coverAll, vstest.OnlyRoute(vstest.CookieV2, "v1")+vstest.PairRoute("", 100, 0))
	restored, err := plan(*led, back, guardianUser)
	if err != nil {
		t.Fatal(err)
	}
	if len(restored.before.Changed) != 1 || len(restored.after.Changed) != 0 || !restored.conclude {
		t.Errorf("what is given back stands before as %v, after as %v, and that is written: %v", restored.before.Changed, restored.after.Changed, restored.conclude)
	}
	if len(restored.before.History) != 1 || len(restored.after.History) != 2 || len(history) != 1 {
		t.Errorf("the history has %d entries before and %d after", len(restored.before.History), len(restored.after.History))
	}
	value := func(op virtualservice.Op) bool { return reflect.DeepEqual(op.Value, "v2") }
	if !slices.ContainsFunc(restored.patches[0].ops, value) {
		t.Errorf("testers are not sent to v2 again: %+v", restored.patches[0].ops)
	}

	none, err := plan(*s, decision.Decision{Record: decision.Record{History: history}}, guardianUser)
	if err != nil || len(none.patches) != 0 || none.conclude {
		t.Errorf("nothing to do plans %+v, %v", none, err)
	}
}
