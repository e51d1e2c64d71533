package remediate

import (
	"errors"
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestAConfigMapOfARecordsNameIsNotTakenForOne(t *testing.T) {
	status := decision.Record{Status: decision.Status{State: decision.StateIdle}}.Data()
	for name, tc := range map[string]struct {
		labels  map[string]string
		data    map[string]string
		foreign bool
	}{
		"a record":                          {map[string]string{records.LabelGuard: "config"}, status, false},
		"an empty one with the label":       {map[string]string{records.LabelGuard: "config"}, nil, false},
		"a record that has lost its label":  {nil, status, false},
		"somebody's configuration":          {map[string]string{"app": "x"}, map[string]string{"guardian.yaml": "namespace: a"}, true},
		"somebody's with a status":          {nil, map[string]string{"status": "ok"}, true},
		"somebody's with a status in JSON":  {nil, map[string]string{"status": `{"state":"up"}`}, true},
		"another guard's, without a status": {map[string]string{records.LabelGuard: "orders"}, nil, true},
		"one that nobody has written yet":   {nil, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "guardian-config", Namespace: testNamespace, Labels: tc.labels}, Data: tc.data}
			_, err := records.ParseOf("config", cm)
			if errors.Is(err, records.ErrForeign) != tc.foreign {
				t.Errorf("error %v, want foreign %v", err, tc.foreign)
			}
			kube := fake.NewClientset(cm.DeepCopy())
			live := &liveReader{namespace: testNamespace, kube: kube}
			if got, err := live.record(t.Context(), "config"); err != nil || (got == nil) != tc.foreign {
				t.Errorf("read %v, %v", got, err)
			}
			w := &writer{namespace: testNamespace, kube: kube, user: func() string { return "" }}
			_, err = w.writeRecord(t.Context(), "config", nil, decision.Record{Status: decision.Status{State: decision.StateIdle}})
			if !tc.foreign {
				if !errors.Is(err, errConflict) {
					t.Errorf("error %v, want that it is read again", err)
				}
				return
			}
			if errors.Is(err, errConflict) || !errors.Is(err, records.ErrForeign) ||
				!strings.Contains(err.Error(), "ConfigMap microservices/guardian-config has the name of guard config's record and is without its label canary-guardian.io/guard=config") {
				t.Errorf("error %v, want one that names it and is not tried again at once", err)
			}
			now, err := kube.CoreV1().ConfigMaps(testNamespace).Get(t.Context(), "guardian-config", metav1.GetOptions{})
			if err != nil || len(now.Data) != len(tc.data) || len(now.Labels) != len(tc.labels) {
				t.Errorf("it was changed: %v, %v", now, err)
			}
		})
	}
	if err := records.CheckForeign("config", nil); err != nil {
		t.Error(err)
	}
}
