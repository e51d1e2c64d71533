package remediate

import (
	"slices"
	"testing"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"sigs.k8s.io/yaml"
)

func TestEachWayToTheCanaryThatIsNotGuardedIsNamed(t *testing.T) {
	kinds := map[schema.GroupVersionResource]string{
		{Group: IstioGroup, Version: "v1", Resource: resourceVirtualServices}:  "VirtualServiceList",
		{Group: IstioGroup, Version: "v1", Resource: resourceDestinationRules}: "DestinationRuleList",
	}
	object := func(kind, name, spec string) runtime.Object {
		u := &unstructured.Unstructured{}
		text := "apiVersion: networking.istio.io/v1\nkind: " + kind + "\nmetadata: {name: " + name + ", namespace: shop}\nspec: " + spec
		if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
			t.Fatal(err)
		}
		return u
	}
	to := func(subset string, weight string) string {
		return `{destination: {host: orders, subset: ` + subset + `}, weight: ` + weight + `}`
	}
	client := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds,
		object("DestinationRule", "orders", `{host: orders, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}`),
		object("VirtualService", "orders", `{http: [{route: [`+to("v1", "50")+`, `+to("v2", "50")+`]}]}`),
		object("VirtualService", "mesh", `{http: [{route: [`+to("v1", "70")+`, `+to("v2", "30")+`]}]}`),
		object("VirtualService", "testers", `{http: [{match: [{headers: {x: {exact: y}}}], route: [{destination: {host: orders.shop.svc.cluster.local, subset: v2}}]}, {route: [`+to("v1", "100")+`]}]}`),
		object("VirtualService", "closed", `{http: [{route: [`+to("v1", "100")+`, `+to("v2", "0")+`]}]}`),
		object("VirtualService", "else", `{http: [{route: [{destination: {host: payments}}]}]}`),
	)
	g := decision.Guard{Name: "orders", Namespace: "shop", VirtualServices: []string{"orders"}, DestinationRule: "orders", Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Subset: "v2"}}
	got, err := Previewer{Dynamic: client}.Unguarded(t.Context(), g)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"VirtualService shop/mesh (30%)", "VirtualService shop/testers (by routes or mirrors of its own)"}
	if !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	g.VirtualServices = []string{"orders", "mesh", "testers"}
	if got, err := (Previewer{Dynamic: client}).Unguarded(t.Context(), g); err != nil || len(got) > 0 {
		t.Errorf("found %q, %v, want nothing", got, err)
	}
}
