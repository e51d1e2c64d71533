//go:build istiod

package main

import (
	"context"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// istiod starts the real one; it judges nothing yet.
func (r *rig) istiod() *controlplane.Istiod {
	r.t.Helper()
	istiod, err := r.plane.StartIstiod(r.t.Context())
	r.must(err)
	r.t.Cleanup(func() {
		istiod.Stop()
		r.must(istiod.Acquit(context.WithoutCancel(r.t.Context())))
	})
	return istiod
}

// at says whether a canary's highest weight is this one.
func at(ctx context.Context, app *controlplane.App, want int64) error {
	vs, err := app.VirtualService(ctx)
	if err == nil && canaryWeight(vs) != want {
		err = fmt.Errorf("%s: canary at %d, want %d", app.Name, canaryWeight(vs), want)
	}
	return err
}

// notDone waits until a guard's record says that its rollback is not done, for
// this reason, and finds the canary where it was.
func (r *rig) notDone(app *controlplane.App, why string, weight int64) {
	r.t.Helper()
	var rec decision.Record
	r.wait(app.Name+" not done", func(ctx context.Context) (err error) {
		if rec, err = r.record(ctx, app.Name); err != nil {
			return err
		}
		s := rec.Status
		if rec.Lock == nil || s.State != decision.StateBlocked || !strings.HasPrefix(s.Reason, "not done: ") || !strings.Contains(s.Reason, why) {
			return fmt.Errorf("locked %v, state %s, reason %q; want blocked, not done: … %s", rec.Lock != nil, s.State, s.Reason, why)
		}
		return nil
	})
	r.t.Logf("guardian says: %s: %s", rec.Status.State, rec.Status.Reason)
	r.must(at(r.t.Context(), app, weight))
	for _, h := range rec.History {
		if h.Event == "rolled-back" {
			r.t.Errorf("the history tells of a rollback: %+v", h)
		}
	}
}

// done waits until a guard says that it is rolled back, and is.
func (r *rig) done(app *controlplane.App) {
	r.t.Helper()
	r.wait(app.Name+" rolled back", func(ctx context.Context) error {
		rec, err := r.record(ctx, app.Name)
		if err == nil && (rec.Lock == nil || rec.Status.State != decision.StateRolledBack) {
			err = fmt.Errorf("locked %v, state %s, reason %q", rec.Lock != nil, rec.Status.State, rec.Status.Reason)
		}
		if err != nil {
			return err
		}
		return at(ctx, app, 0)
	})
}

// patch is an administrator's merge patch of a VirtualService.
func (r *rig) patch(app *controlplane.App, format string, args ...any) {
	r.t.Helper()
	client, err := dynamic.NewForConfig(r.plane.RESTConfig(controlplane.Admin))
	r.must(err)
	_, err = client.Resource(controlplane.VirtualServices).Namespace(r.ns).Patch(r.t.Context(), app.Name, types.MergePatchType, fmt.Appendf(nil, format, args...), metav1.PatchOptions{})
	r.must(err)
}

// routes of an app, a canary at half, beside another's that Istio takes or not.
const (
	ownRoute     = `{"route": [{"destination": {"host": %[1]q, "subset": "v1"}, "weight": 50}, {"destination": {"host": %[1]q, "subset": "v2"}, "weight": 50}]}`
	foreignRoute = `{"name": "payments", "match": [{"uri": {"exact": "/pay"}}], "route": [{"destination": {"host": "payments"}, "weight": %[2]d}, {"destination": {"host": "payments-2"}, "weight": 0}]}`
)

// A route that is not guardian's was stored while nobody judged it: Istio now
// refuses every write of the VirtualService.
func TestWhatIstiodRefusesIsToldAndTriedAgain(t *testing.T) {
	r := newRig(t)
	istiod := r.istiod()
	app := r.app("orders", 50)
	r.patch(app, `{"spec": {"http": [`+foreignRoute+", "+ownRoute+`]}}`, app.Name, 0)
	r.must(istiod.Judge(t.Context()))

	g := r.serve("guardian-0", r.config("127.0.0.1:0", "", app))
	status, err := post(t.Context(), g.url+"/webhook", bearer, webhookOf(r.alertOf(app.Name)))
	r.must(err)
	t.Logf("the webhook is answered with %d", status)
	r.notDone(app, "total destination weight = 0", 50)
	// Whoever owns the other route mends it, and guardian needs no other sign.
	r.patch(app, `{"spec": {"http": [`+foreignRoute+", "+ownRoute+`]}}`, app.Name, 100)
	r.done(app)
}

// The webhook fails closed: while istiod is down nobody writes a VirtualService.
func TestARollbackIsDoneAsSoonAsIstiodIsBack(t *testing.T) {
	r := newRig(t)
	istiod := r.istiod()
	app := r.app("orders", 50)
	r.must(istiod.Judge(t.Context()))
	g := r.serve("guardian-0", r.config("127.0.0.1:0", "", app))
	istiod.Kill()
	status, err := post(t.Context(), g.url+"/webhook", bearer, webhookOf(r.alertOf(app.Name)))
	r.must(err)
	t.Logf("the webhook is answered with %d", status)
	r.notDone(app, "failed calling webhook", 50)
	r.must(istiod.Restart(t.Context()))
	r.done(app)
}
