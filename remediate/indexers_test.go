package remediate

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

func TestALockIsFoundByEveryDestinationThatItDenies(t *testing.T) {
	for name, pair := range map[string]virtualservice.Pair{
		"a Service of the namespace":  {Host: "orders", Namespace: "shop", Canary: virtualservice.Ref{Subset: "v2"}},
		"written in full":             {Host: "orders.shop.svc.cluster.local", Namespace: "shop", Canary: virtualservice.Ref{Subset: "v2"}},
		"of another namespace":        {Host: "orders.prod.svc.cluster.local", Namespace: "shop", Canary: virtualservice.Ref{Subset: "v2"}},
		"of another cluster domain":   {Host: "orders", Namespace: "shop", Domain: "corp.example", Canary: virtualservice.Ref{Subset: "v2"}},
		"a host outside the cluster":  {Host: "orders.example.com", Namespace: "shop", Canary: virtualservice.Ref{Subset: "v2"}},
		"a canary that is a host":     {Host: "orders", Namespace: "shop", Canary: virtualservice.Ref{Host: "orders-v2"}},
		"a host outside, as a canary": {Host: "orders", Namespace: "shop", Canary: virtualservice.Ref{Host: "v2.example.com"}},
	} {
		t.Run(name, func(t *testing.T) {
			deny := virtualservice.Denied(pair, "debug")
			cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{records.LabelLocked: "true"}},
				Data: map[string]string{decision.KeyDeny: strings.Join(deny, " ")}}
			found, err := recordIndexers(pair.Domain)[indexDeny](cm)
			if err != nil {
				t.Fatal(err)
			}
			for _, canary := range []virtualservice.Ref{pair.Canary, {Subset: "debug"}} {
				spelled := virtualservice.Spellings(pair, canary)
				if asked := spelled[len(spelled)-1]; !slices.Contains(found, asked) {
					t.Errorf("a lock that denies %q is not found by %s: %q", deny, asked, found)
				}
			}
			if len(found) != 2 {
				t.Errorf("%q is found by %q, want one entry for each of two destinations", deny, found)
			}
			cm.Labels = nil
			if found, err := recordIndexers(pair.Domain)[indexDeny](cm); err != nil || len(found) != 0 {
				t.Errorf("a record that is not locked is found by %q (%v)", found, err)
			}
		})
	}
}
