package remediate

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestAVirtualServiceThatRefusesARollbackDoesNotKeepTheOthersFromIt(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	r.must(app.SetWeights(t.Context(), 50, 50))
	gateway := *app
	gateway.Name = "orders-gateway"
	vs := r.virtualService(app.Name)
	vs.Object["metadata"] = map[string]any{"name": gateway.Name, "namespace": r.ns}
	_, err := r.dynamic.Resource(virtualServiceResource).Namespace(r.ns).Create(t.Context(), vs, metav1.CreateOptions{})
	r.must(err)
	g := r.guard(app.Name)
	g.VirtualServices = []string{app.Name, gateway.Name}
	p := r.start(g)
	r.inState(app.Name, decision.StateShifting)
	var fixed atomic.Bool
	p.tap.before(func(_ *http.Request, c call) error {
		if c.verb == "patch" && c.name == app.Name && c.resource == "virtualservices" && !fixed.Load() {
			return errors.New("another's webhook refuses it")
		}
		return nil
	})
	r.must(p.fire(app.Name, badAlert("CanaryErrors")))
	r.atWeight(&gateway, 0)
	r.must(isAt(t.Context(), app, 50))
	fixed.Store(true)
	r.atWeight(app, 0)
	r.inState(app.Name, decision.StateRolledBack)
}

// twoPairs leads to two services, and mirrors to the canary of one of them.
const twoPairs = `{"hosts":["NAME"],"http":[
 {"match":[{"uri":{"prefix":"/pay"}}],"mirror":{"host":"payments","subset":"v2"},
  "route":[{"destination":{"host":"payments","subset":"v1"},"weight":50},{"destination":{"host":"payments","subset":"v2"},"weight":50}]},
 {"route":[{"destination":{"host":"NAME","subset":"v1"},"weight":50},{"destination":{"host":"NAME","subset":"v2"},"weight":50}]}]}`

func TestTwoGuardsOfOneVirtualServiceGiveBackWhatIsTheirs(t *testing.T) {
	r := newRig(t)
	orders, payments := r.app("orders-service"), r.app("payments")
	r.replaceSpec(orders.Name, "v1", twoPairs)
	pay := r.guard(payments.Name)
	pay.VirtualServices = []string{orders.Name}
	p := r.start(r.guard(orders.Name), pay)
	p.leader()
	marked := func(want bool) error {
		vs := r.virtualService(orders.Name)
		owns, state := slices.Contains(managers(vs.GetManagedFields()), FieldManager), vs.GetAnnotations()[decision.AnnotationState]
		if owns != want || (state == string(decision.StateRolledBack)) != want {
			return fmt.Errorf("guardian owns it: %v, marked %q", owns, state)
		}
		return nil
	}
	pair := virtualservice.Pair{Stable: pay.Stable, Canary: pay.Canary, Host: payments.Name, Namespace: r.ns}
	mirrors := func(want int) error { // of the other guard's canary
		got, err := virtualservice.Inspect(r.virtualService(orders.Name).Object, pair, pay.Rollback.Options())
		if err == nil && got.Mirrors != want {
			err = fmt.Errorf("%d mirrors to the canary of %s, want %d", got.Mirrors, pay.Name, want)
		}
		return err
	}
	looked := func(guard string) { // an answer to a request shows that it was looked at live
		t.Helper()
		r.request(guard, decision.RequestUnlock)
		r.wait(guard+" looked at", func() error {
			rec, err := r.record(guard)
			if err == nil && rec.Request != nil {
				err = errors.New("the request has not been read")
			}
			return err
		})
	}

	r.must(p.fire(orders.Name, badAlert("OrdersErrors")))
	p.resolve(orders.Name)
	r.inState(orders.Name, decision.StateRolledBack)
	looked(payments.Name)
	r.must(marked(true))
	r.must(mirrors(1))

	r.must(p.fire(payments.Name, badAlert("PaymentsErrors")))
	p.resolve(payments.Name)
	r.inState(payments.Name, decision.StateRolledBack)
	r.wait("mirror taken", func() error { return mirrors(0) })
	looked(payments.Name)
	r.unlocked(payments.Name)
	r.wait("mirror given back", func() error { return mirrors(1) })
	looked(payments.Name)
	r.must(marked(true))

	looked(orders.Name)
	r.unlocked(orders.Name)
	r.wait("marks given up", func() error { return marked(false) })
}

// slow is a Prometheus that answers nobody, or nobody but one guard, once it is
// told to. What asks it waits until its context ends.
type slow struct {
	from  atomic.Bool
	asked chan string
	but   string
}

func (s *slow) count(ctx context.Context, g decision.Guard, _ decision.Sides, _ time.Time) (decision.Tally, decision.Gaps, error) {
	if !s.from.Load() || g.Name == s.but {
		return decision.Tally{Requests: 1}, decision.Gaps{}, nil
	}
	select {
	case s.asked <- g.Name:
	default:
	}
	<-ctx.Done()
	return decision.Tally{}, decision.Gaps{}, ctx.Err()
}

// options leave nothing but an alert, or a person, to end a question.
func (s *slow) options(o *Options) {
	o.Workers, o.PassTimeout, o.Count = 2, time.Hour, s.count
}

func TestASlowPrometheusDelaysNoOtherGuardsRollback(t *testing.T) {
	r := newRig(t)
	prom := &slow{asked: make(chan string, 1), but: "c"}
	var guards []decision.Guard
	for _, name := range []string{"a", "b", "c"} {
		r.must(r.app(name).SetWeights(t.Context(), 50, 50))
		guards = append(guards, r.guard(name))
	}
	p := r.startWith(prom.options, guards...)
	p.leader()
	prom.from.Store(true)
	p.Enqueue("a")
	p.Enqueue("b")
	select {
	case <-prom.asked:
	case <-time.After(patience):
		t.Fatal("nobody asks for the requests")
	}
	r.must(p.fire("c", badAlert("CanaryErrors")))
	r.inState("c", decision.StateRolledBack)
}

func TestAPersonsRollbackWaitsForNoAnswer(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	r.must(app.SetWeights(t.Context(), 50, 50))
	prom := &slow{asked: make(chan string, 1)}
	p := r.startWith(prom.options, r.guard(app.Name))
	p.leader()
	prom.from.Store(true)
	p.Enqueue(app.Name)
	select {
	case <-prom.asked:
	case <-time.After(patience):
		t.Fatal("nobody asks for the requests")
	}
	r.request(app.Name, decision.RequestRollback)
	r.atWeight(app, 0)
}

// gated is a gate that shuts behind the first step, until it is told to open.
type gated struct{ shut atomic.Bool }

func (g *gated) options(o *Options) {
	o.AskForward = func(context.Context, decision.Guard, decision.Sides, time.Time) (decision.Forward, []decision.Alert) {
		return decision.Forward{Requests: 1000, Gates: []decision.Gate{{Name: "slo", Open: !g.shut.Load(), Why: "0"}}}, nil
	}
}

// behind shuts it when a replica writes a step for the first time.
func (g *gated) behind(p *running) {
	var once sync.Once
	p.tap.before(func(q *http.Request, c call) error {
		if isStep(q, c) {
			once.Do(func() { g.shut.Store(true) })
		}
		return nil
	})
}

func TestTheScheduleGoesOnFromWhereCIHasSteppedIn(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	g := r.autoGuard(app.Name)
	g.Promotion.Steps = []decision.Step{{Weight: 10}, {Weight: 30}, {Weight: 100}}
	gate := &gated{}
	p := r.startWith(gate.options, g)
	gate.behind(p)
	p.leader()
	r.must(app.Deploy(t.Context(), "v2", "orders:2.1"))
	r.waitsFor(app.Name, decision.WaitGate)
	_, err := r.kubectl("apply", "-f", r.manifest(app.Name, 80, 20))
	r.must(err)
	r.wait("CI's weight seen", func() error { return r.weightSeen(app.Name, 20) })
	gate.shut.Store(false)
	p.Enqueue(app.Name)
	r.inState(app.Name, decision.StatePromoted)
	if got, want := r.told(app.Name), []string{"new-build 0→0", "step 0→10", "shifted 10→20", "step 20→30", "step 30→100", "promoted 30→100"}; !slices.Equal(got, want) {
		t.Errorf("history %q\nwant %q", got, want)
	}
}

func TestAnAlertThatOnlyTheOtherReplicaHasHeardHoldsThePromotion(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	gate := &gated{}
	a := r.startWith(gate.options, r.autoGuard(app.Name))
	gate.behind(a)
	a.leader()
	b := r.start(r.autoGuard(app.Name))
	r.must(app.Deploy(t.Context(), "v2", "orders:2.1"))
	r.waitsFor(app.Name, decision.WaitGate)
	hold := badAlert("StableErrors")
	hold.Action = decision.ActionHold
	r.must(b.fire(app.Name, hold))
	gate.shut.Store(false)
	a.Enqueue(app.Name)
	rec := r.waitsFor(app.Name, decision.WaitAlert)
	if rec.Status.State != decision.StateHeld || rec.Status.Weight != 10 {
		t.Errorf("%s at %d%% (%s), want held at 10%%", rec.Status.State, rec.Status.Weight, rec.Status.Reason)
	}
	r.must(isAt(t.Context(), app, 10))
}

func TestAnEntryThatIsNewInTheConfigurationIsOnlyRecorded(t *testing.T) {
	r := newRig(t)
	old, app := r.app("other"), r.app("orders-service")
	p := r.start(r.guard(old.Name))
	p.leader()
	p.SetGuards([]decision.Guard{r.guard(old.Name), r.autoGuard(app.Name)})
	rec := r.waitsFor(app.Name, decision.WaitBuild)
	if told := r.told(app.Name); len(told) > 0 || rec.Status.State != decision.StateIdle {
		t.Errorf("%s, history %q; want nothing but a look", rec.Status.State, told)
	}
	r.must(isAt(t.Context(), app, 0))
	r.must(app.Deploy(t.Context(), "v2", "orders:2.1"))
	r.inState(app.Name, decision.StatePromoted)
}
