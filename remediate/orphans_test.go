package remediate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestAnOrphanedRecordKeepsItsLockAndRefusesWhatIsAsked(t *testing.T) {
	r := Record{Lock: &Lock{Build: "b1"}, Refused: []string{"b1"}, Request: &Request{Action: RequestPause, By: "ann"},
		Status: Status{State: StateRolledBack, Mode: PromotionAuto, Ladder: []int{100}, NextStep: 10}}
	got := orphaned(r, "orders-service", at)
	if got.Lock == nil || got.Status.State != StateRolledBack || !got.Status.Orphaned.Equal(at) || got.Request != nil || got.Status.NextStep != 0 || got.Status.Ladder != nil {
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

func TestAPersonLiftsTheLockOfAnOrphanAlone(t *testing.T) {
	cm := func(r Record) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: RecordName("orders-service"), Labels: map[string]string{LabelGuard: "orders-service", LabelLocked: "true"}}, Data: r.Data()}
	}
	locked := Record{Lock: &Lock{Build: "b1"}, Status: Status{State: StateRolledBack, Build: "b1"}}
	if _, _, err := UnlockOrphan(cm(locked), "ann", "r", at); !errors.Is(err, ErrNotOrphaned) {
		t.Errorf("a guard that is looked after: %v", err)
	}
	if _, _, err := UnlockOrphan(cm(Record{Status: Status{Orphaned: at}}), "ann", "r", at); !errors.Is(err, ErrNotLocked) {
		t.Errorf("an orphan that is not locked: %v", err)
	}
	blocked := locked
	blocked.Status.State, blocked.Status.Weight, blocked.Status.Orphaned = StateBlocked, 50, at
	if _, r, err := UnlockOrphan(cm(blocked), "ann", "r", at); err != nil || r.Status.State != StateShifting {
		t.Errorf("an orphan whose rollback was never done: %v, %+v", err, r.Status)
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
	r.inState(app.Name, StateRolledBack)
	r.atWeight(app, 0)

	marked := func(name string, want bool) (rec Record) {
		t.Helper()
		r.wait(fmt.Sprintf("%s orphaned: %v", name, want), func() (err error) {
			if rec, err = r.record(name); err == nil && rec.Status.Orphaned.IsZero() == want {
				err = fmt.Errorf("orphaned %v", rec.Status.Orphaned)
			}
			return err
		})
		return rec
	}
	p.SetGuards([]Guard{stays})
	if rec := marked(app.Name, true); rec.Lock == nil || len(rec.Deny) == 0 {
		t.Errorf("the lock went with the guard: %+v", rec)
	}
	p.SetGuards([]Guard{guard, stays})
	if rec := marked(app.Name, false); rec.Lock == nil {
		t.Errorf("the lock went with the mark: %+v", rec)
	}
	p.stop()

	p = r.start(stays) // and another guardian, which has never heard of it
	p.leader()
	marked(app.Name, true)
	marked(other.Name, false)

	api := r.kube.CoreV1().ConfigMaps(r.ns)
	cm, err := api.Get(context.Background(), RecordName(app.Name), metav1.GetOptions{})
	r.must(err)
	patch, want, err := UnlockOrphan(cm, "ann", "the service is gone", time.Now())
	r.must(err)
	_, err = api.Patch(t.Context(), cm.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	r.must(err)
	rec, err := r.record(app.Name) // looks at the label, too
	r.must(err)
	if rec.Lock != nil || len(rec.Deny) != 0 || len(rec.VirtualServices) != 0 || rec.Message != "" || len(rec.Refused) != 0 || rec.Status.State != StateIdle {
		t.Errorf("after the unlock: %+v, want %+v", rec, want)
	}
}
