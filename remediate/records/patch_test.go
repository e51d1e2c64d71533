package records

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/decision/decisiontest"
)

// stored is a record as it stands in a cluster.
func stored(r decision.Record) *corev1.ConfigMap {
	labels := map[string]string{LabelGuard: "orders-service"}
	if r.Lock != nil {
		labels[LabelLocked] = "true"
	}
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: Name("orders-service"), Namespace: "shop", Labels: labels, ResourceVersion: "7"}, Data: r.Data()}
}

func TestAPatchTestsTheVersionThatWasReadAndLeavesTheKeysOfOthers(t *testing.T) {
	was, now := decisiontest.FullRecord(), decisiontest.FullRecord()
	now.Lock, now.Refused, now.Message = nil, nil, "another"
	cm := stored(was)
	cm.Data["theirs"] = "x"
	text, err := Patch(cm, map[string]string{LabelGuard: "orders-service"}, now, "me")
	if err != nil {
		t.Fatal(err)
	}
	var patch struct {
		Metadata struct {
			ResourceVersion string             `json:"resourceVersion"`
			Labels          map[string]*string `json:"labels"`
			Annotations     map[string]string  `json:"annotations"`
		} `json:"metadata"`
		Data map[string]*string `json:"data"`
	}
	if err := json.Unmarshal(text, &patch); err != nil {
		t.Fatal(err)
	}
	if m := patch.Metadata; m.ResourceVersion != "7" || m.Annotations[AnnotationOwner] != "me" || len(m.Labels) != 1 || m.Labels[LabelLocked] != nil {
		t.Errorf("metadata %+v", m)
	}
	if len(patch.Data) != 3 || patch.Data[decision.KeyLock] != nil || patch.Data[decision.KeyRefused] != nil || *patch.Data[decision.KeyMessage] != "another" {
		t.Errorf("data %s", text)
	}
}

func TestEachKeyOfARecordIsGuardiansOwn(t *testing.T) {
	for key := range decisiontest.FullRecord().Data() {
		if !ownKey(key) {
			t.Errorf("%s would never be taken off a record", key)
		}
	}
}

func TestARecordThatIsNotAsItShouldBeIsWritten(t *testing.T) {
	r := decisiontest.FullRecord()
	if !Holds(stored(r), r) || Holds(nil, r) {
		t.Error("what is stored is not held, or what is not is")
	}
	for name, edit := range map[string]func(*corev1.ConfigMap){
		"the label of a lock taken off": func(cm *corev1.ConfigMap) { delete(cm.Labels, LabelLocked) },
		"a key taken out":               func(cm *corev1.ConfigMap) { delete(cm.Data, decision.KeyRefused) },
		"a key changed":                 func(cm *corev1.ConfigMap) { cm.Data[decision.KeyMessage] = "x" },
		"a key too many":                func(cm *corev1.ConfigMap) { cm.Data[decision.KeyRequestOnce] = "{}" },
	} {
		cm := stored(r)
		edit(cm)
		if Holds(cm, r) {
			t.Errorf("%s: taken for the record", name)
		}
	}
	r.Lock = nil
	cm := stored(r)
	cm.Labels[LabelLocked] = "true"
	if Holds(cm, r) {
		t.Error("the label of a lock that is over: taken for the record")
	}
}

func TestALockThatCannotBeReadStaysWhereTheLabelTellsOfOne(t *testing.T) {
	for _, labelled := range []bool{true, false} {
		cm := stored(decisiontest.FullRecord())
		cm.Data[decision.KeyLock] = "7"
		if !labelled {
			delete(cm.Labels, LabelLocked)
		}
		r, bad := Read(cm)
		if len(bad) != 1 || !strings.Contains(bad[0], "key lock") || (r.Lock != nil) != labelled || labelled && r.Lock.Kind != decision.LockManual {
			t.Errorf("labelled %t: lock %+v, %v", labelled, r.Lock, bad)
		}
	}
}

func TestAConfigMapOfARecordsNameIsARecordByItsLabelOrItsStatus(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*corev1.ConfigMap)
		own  bool
	}{
		"labelled":               {func(*corev1.ConfigMap) {}, true},
		"the label taken off":    {func(cm *corev1.ConfigMap) { cm.Labels = nil }, true},
		"another guard's label":  {func(cm *corev1.ConfigMap) { cm.Labels[LabelGuard] = "pay"; cm.Data = nil }, false},
		"no label and no status": {func(cm *corev1.ConfigMap) { cm.Labels, cm.Data = nil, map[string]string{"a": "b"} }, false},
		"no label and another's state": {func(cm *corev1.ConfigMap) {
			cm.Labels, cm.Data = nil, map[string]string{decision.KeyStatus: `{"state":"open"}`}
		}, false},
	} {
		cm := stored(decisiontest.FullRecord())
		c.edit(cm)
		got := Own("orders-service", cm)
		if (got == cm) != c.own || !c.own && got != nil {
			t.Errorf("%s: taken for the record: %t", name, got != nil)
		}
		if _, err := ReadOf("orders-service", cm); errors.Is(err, ErrForeign) == c.own {
			t.Errorf("%s: %v", name, err)
		}
	}
}
