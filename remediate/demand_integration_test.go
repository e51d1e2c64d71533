package remediate

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// soonIdle has it look at every guard, and rest, often.
func soonIdle(o *Options) { o.Resync, o.IdleAfter = 200*time.Millisecond, 300*time.Millisecond }

// idles waits until nothing but what tells that something begins is watched.
func (p *running) idles() {
	p.rig.t.Helper()
	p.rig.wait("idle", func() error {
		if open := p.open(); !p.Idle() || !slices.Equal(open, []string{resourceRecords, resourcePods, resourceVirtualServices}) {
			return fmt.Errorf("idle %v, watches %v", p.Idle(), open)
		}
		return nil
	})
}

// open are the resources that a watch is open of.
func (p *running) open() []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(p.info.parts)) {
		if p.info.parts[name].health.isOpen() {
			out = append(out, name)
		}
	}
	return out
}

// startUnseeing is startWith(soonIdle) of a replica that does not look now and then
// while it is idle; it is when this returns.
func (r *rig) startUnseeing(guards ...decision.Guard) *running {
	r.t.Helper()
	p := r.newReplica(soonIdle, guards...)
	p.info.demand.look = time.Hour
	p.run()
	p.idles()
	return p
}

// dropSubset takes stable's subset out of an app's DestinationRule.
func (r *rig) dropSubset(app *controlplane.App) {
	r.t.Helper()
	_, err := r.dynamic.Resource(controlplane.DestinationRules).Namespace(r.ns).Patch(r.t.Context(), app.Name, types.MergePatchType,
		[]byte(`{"spec":{"subsets":[{"name":"v2","labels":{"version":"v2"}}]}}`), metav1.PatchOptions{})
	r.must(err)
}

// While nothing goes on three resources are watched; all are as soon as the canary
// gets traffic, and until nothing has gone on for a while.
func TestAReplicaWatchesWhatItNeeds(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	p := r.startWith(soonIdle, r.guard(app.Name))
	p.idles()
	if !p.Ready() || p.metric("guardian_watch_alive") != float64(len(p.info.parts)) {
		t.Errorf("ready %v, missing %v", p.Ready(), p.Missing())
	}
	r.must(app.SetWeights(t.Context(), 50, 50))
	r.inState(app.Name, decision.StateShifting)
	r.wait("all watches", func() error {
		if open := p.open(); p.Idle() || len(open) != len(p.info.parts) {
			return fmt.Errorf("idle %v, watches %v", p.Idle(), open)
		}
		return nil
	})
	r.must(p.fire(app.Name, badAlert("CanaryErrors")))
	r.must(isAt(t.Context(), app, 0))
	r.inState(app.Name, decision.StateRolledBack)
	time.Sleep(3 * p.o.IdleAfter) // what must not happen has no event to wait for, and the API server no simulated clock
	if p.Idle() {
		t.Error("idle while a lock stands")
	}
	p.resolve(app.Name)
	r.request(app.Name, decision.RequestUnlock)
	p.idles()
}

// What was not watched is not believed: neither a stable whose subset has gone
// meanwhile, nor one that has no ready pod any more.
func TestAnIdleReplicaReadsWhatItHasNotWatched(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*rig, *controlplane.App)
		reason string
	}{
		"DestinationRule": {(*rig).dropSubset, "has no subset v1"},
		"EndpointSlices":  {func(r *rig, app *controlplane.App) { r.must(app.SetReady(t.Context(), "v1", false)) }, "0 ready"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			app := r.app("orders-service")
			p := r.startUnseeing(r.guard(app.Name))
			c.change(r, app)
			r.must(app.SetWeights(t.Context(), 50, 50))
			r.must(p.fire(app.Name, badAlert("CanaryErrors")))
			if rec := r.inState(app.Name, decision.StateBlocked); !strings.Contains(rec.Status.Reason, c.reason) {
				t.Errorf("reason %q, want %q", rec.Status.Reason, c.reason)
			}
			r.must(isAt(t.Context(), app, 50))
		})
	}
}

// A new build is known as such while nothing goes on, without anybody looking now
// and then.
func TestAnIdleReplicaRecognizesANewBuild(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	p := r.startUnseeing(r.guard(app.Name))
	was := r.inState(app.Name, decision.StateIdle).Status.Build
	r.must(app.Deploy(t.Context(), "v2", "orders:fixed"))
	r.wait("new build", func() error {
		rec, err := r.record(app.Name)
		if err == nil && rec.Status.Build == was {
			err = errors.New("the build is " + was + " still")
		}
		return err
	})
	p.idles()
}

// An idle replica looks now and then.
func TestAnIdleReplicaIsBroughtUpToDate(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	p := r.startWith(soonIdle, r.guard(app.Name))
	p.idles()
	r.dropSubset(app)
	r.wait("subset gone", func() error {
		rule, ok := p.info.reader.merged(app.Name)
		if !ok {
			return errors.New("no DestinationRule")
		}
		if _, ok := rule.subset("v1"); ok {
			return errors.New("it is still there")
		}
		return nil
	})
}

// A watch that cannot be opened again when it is needed is told like one that died.
func TestAWatchThatCannotBeOpenedWhenItIsNeededIsTold(t *testing.T) {
	r := newRigWithoutRights(t)
	right := lacking(resourceDestinationRules)
	r.must(r.plane.Grant(t.Context(), r.ns, r.user(), right...))
	for _, rule := range RBAC() {
		if rule.Resources[0] == resourceDestinationRules {
			r.must(r.plane.Grant(t.Context(), r.ns, r.user(), rule))
			right[0] = rule
		}
	}
	app := r.app("orders-service")
	p := r.startWith(func(o *Options) { soonIdle(o); o.WatchGrace = 300 * time.Millisecond }, r.guard(app.Name))
	p.idles()
	r.takeAway(right[0])
	r.must(app.SetWeights(t.Context(), 50, 50))
	r.wait("told", func() error {
		if missing := p.Missing(); p.Ready() || !slices.Equal(missing, []string{"destinationrules: cannot be watched (Forbidden)"}) {
			return fmt.Errorf("ready %v, missing %q", p.Ready(), missing)
		}
		return nil
	})
	r.must(r.plane.Grant(t.Context(), r.ns, r.user(), RBAC()...))
	r.wait("ready", func() error {
		if !p.Ready() {
			return fmt.Errorf("missing %q", p.Missing())
		}
		return nil
	})
}
