package remediate

import (
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestARollbackIsDoneThoughAForeignConfigMapHasTheRecordsName(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	r.must(app.SetWeights(t.Context(), 50, 50))
	foreign := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: records.Name(app.Name), Namespace: r.ns}, Data: map[string]string{"guardian.yaml": "x"}}
	_, err := r.kube.CoreV1().ConfigMaps(r.ns).Create(t.Context(), foreign, metav1.CreateOptions{})
	r.must(err)
	p := r.newReplica(nil, r.guard(app.Name))
	p.run()
	said := "has the name of guard orders-service's record and is without its label"
	if err := p.fire(app.Name, decision.Alert{Name: "CanaryErrors", Signal: "error_rate", Action: decision.ActionRollback, Fingerprint: "f", StartsAt: p.o.Now(), Summary: "7%"}); err == nil || !strings.Contains(err.Error(), said) {
		t.Errorf("answered with %v, want an error that names the ConfigMap", err)
	}
	r.atWeight(app, 0)
	got, err := r.kube.CoreV1().ConfigMaps(r.ns).Get(t.Context(), foreign.Name, metav1.GetOptions{})
	r.must(err)
	if len(got.Data) != 1 || len(got.Labels) > 0 {
		t.Errorf("the ConfigMap was changed: %v %v", got.Labels, got.Data)
	}
}
