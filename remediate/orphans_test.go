package remediate

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
)

func TestAnOrphanedRecordKeepsItsLockAndRefusesWhatIsAsked(t *testing.T) {
	r := decision.Record{Lock: &decision.Lock{Build: "b1"}, Refused: []string{"b1"}, Request: &decision.Request{Action: decision.RequestPause, By: "ann"},
		Status: decision.Status{State: decision.StateRolledBack, StepStatus: decision.StepStatus{Mode: decision.PromotionAuto, Steps: []int{100}, NextStep: 10}}}
	got := records.Orphaned(r, "orders-service", at)
	if got.Lock == nil || got.Status.State != decision.StateRolledBack || !got.Status.Orphaned.Equal(at) || got.Request != nil || got.Status.NextStep != 0 || got.Status.Steps != nil {
		t.Errorf("record %+v", got)
	}
	if n := len(got.History); n != 2 || got.History[0].Event != "orphaned" || got.History[1].Event != "refused" || got.History[1].By != "ann" ||
		!strings.Contains(got.History[1].Reason, "pause refused: guard orders-service is not in guardian's configuration") {
		t.Errorf("history %+v", got.History)
	}
	if !r.Status.Orphaned.IsZero() || r.Request == nil {
		t.Error("the record that was handed in is changed")
	}
}

func TestARecordWhoseGuardIsNoLongerConfiguredSaysSo(t *testing.T) {
	r := newRig(t)
	app, other := r.app("orders-service"), r.app("payments")
	r.must(app.SetWeights(t.Context(), 50, 50))
	guard, stays := r.guard(app.Name), r.guard(other.Name)
	p := r.start(guard, stays)
	p.leader()
	r.must(p.fire(app.Name, badAlert("a")))
	r.inState(app.Name, decision.StateRolledBack)
	r.atWeight(app, 0)

	marked := func(name string, want bool) (rec decision.Record) {
		t.Helper()
		r.wait(fmt.Sprintf("%s orphaned: %v", name, want), func() (err error) {
			if rec, err = r.record(name); err == nil && rec.Status.Orphaned.IsZero() == want {
				err = fmt.Errorf("orphaned %v", rec.Status.Orphaned)
			}
			return err
		})
		return rec
	}
	p.SetGuards([]decision.Guard{stays})
	if rec := marked(app.Name, true); rec.Lock == nil || len(rec.Deny) == 0 {
		t.Errorf("the lock went with the guard: %+v", rec)
	}
	p.SetGuards([]decision.Guard{guard, stays})
	if rec := marked(app.Name, false); rec.Lock == nil {
		t.Errorf("the lock went with the mark: %+v", rec)
	}
	p.stop()

	p = r.start(stays) // and another guardian, which has never heard of it
	p.leader()
	marked(app.Name, true)
	marked(other.Name, false)

	// A person takes the lock off without guardian, and has it lifted when the
	// guard is back.
	if taken, err := TakeOffLock(t.Context(), r.dynamic, r.ns, app.Name, []string{"not-there", app.Name}); err != nil || !slices.Equal(taken, []string{app.Name}) {
		t.Fatalf("taken off %v, %v", taken, err)
	}
	if left, stands := r.virtualService(app.Name).GetAnnotations()[decision.LockKey(app.Name)]; stands {
		t.Errorf("the VirtualService still says %q", left)
	}
	r.request(app.Name, decision.RequestUnlock)
	if rec := marked(app.Name, true); rec.Lock == nil || rec.Request == nil {
		t.Errorf("the request of an orphan is gone: %+v", rec)
	}
	p.SetGuards([]decision.Guard{guard, stays})
	if rec := r.inState(app.Name, decision.StateIdle); rec.Lock != nil || rec.Request != nil {
		t.Errorf("back, and still locked: %+v", rec)
	}
}
