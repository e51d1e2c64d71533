package remediate

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

// machines is a Service that leads to machines outside of the cluster.
func (r *rig) machines(name string) {
	r.t.Helper()
	_, err := r.kube.CoreV1().Services(r.ns).Create(r.t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{{Name: "http", Port: 8080}}}}, metav1.CreateOptions{})
	r.must(err)
	port, ready := int32(8080), true
	_, err = r.kube.DiscoveryV1().EndpointSlices(r.ns).Create(r.t.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.7"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
	}, metav1.CreateOptions{})
	r.must(err)
}

// routeTo has the VirtualService of an app split between a host and the app's v2.
func (r *rig) routeTo(app, stable string, canary int64) {
	r.t.Helper()
	destination := func(host, subset string, weight int64) map[string]any {
		d := map[string]any{"host": host}
		if subset != "" {
			d["subset"] = subset
		}
		return map[string]any{"destination": d, "weight": weight}
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"http": []any{map[string]any{"route": []any{destination(stable, "", 100-canary), destination(app, "v2", canary)}}}}})
	r.must(err)
	_, err = r.dynamic.Resource(virtualServiceResource).Namespace(r.ns).Patch(r.t.Context(), app, types.MergePatchType, patch, metav1.PatchOptions{})
	r.must(err)
}

func TestAStableOutsideOfTheClusterIsRolledBackToWithoutAFloor(t *testing.T) {
	r := newRig(t)
	r.app("orders")
	r.machines("orders-vm")
	r.routeTo("orders", "orders-vm", 30)
	g := r.guard("orders")
	g.Stable = virtualservice.Ref{Host: "orders-vm"}
	p := r.start(g)
	r.must(p.fire("orders", badAlert("CanaryErrors")))
	if s := r.inState("orders", decision.StateBlocked).Status; s.Weight != 30 || !strings.Contains(s.Reason, "stable host:orders-vm has 0 ready endpoints, rollback.minReadyStable is 1") {
		t.Errorf("with a floor of 1: %d%%, %s", s.Weight, s.Reason)
	}
	g.Rollback.MinReadyStable = 0
	p.SetGuards([]decision.Guard{g})
	if rec := r.inState("orders", decision.StateRolledBack); rec.Status.Weight != 0 || rec.Lock == nil {
		t.Errorf("without a floor: %+v", rec.Status)
	}
	r.wait("all traffic at the machines", func() error {
		spec, err := json.Marshal(r.virtualService("orders").Object["spec"])
		if err == nil && !strings.Contains(string(spec), `{"destination":{"host":"orders-vm"},"weight":100},{"destination":{"host":"orders","subset":"v2"},"weight":0}`) {
			err = errors.New(string(spec))
		}
		return err
	})
}

func TestAStableThatIsNoServiceOfTheNamespaceIsNeverRolledBackTo(t *testing.T) {
	r := newRig(t)
	for i, c := range []struct{ host, says string }{
		{"orders.legacy.example", "host orders.legacy.example is no Service of this cluster"},
		{"orders.elsewhere.svc.cluster.local", "is in namespace elsewhere: a guard manages destinations in its own namespace"},
	} {
		name := fmt.Sprintf("orders-%d", i)
		r.app(name)
		r.routeTo(name, c.host, 30)
		g := r.guard(name)
		g.Stable, g.Rollback.MinReadyStable = virtualservice.Ref{Host: c.host}, 0
		p := r.start(g)
		r.must(p.fire(name, badAlert("CanaryErrors")))
		if s := r.inState(name, decision.StateBlocked).Status; s.Weight != 30 || !strings.Contains(s.Reason, c.says) {
			t.Errorf("%s: %d%%, %s", c.host, s.Weight, s.Reason)
		}
		p.stop()
	}
}
