package remediate

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	corev1 "k8s.io/api/core/v1"
)

// newRolledBack is a guard that an alert has rolled back and locked; the alert is over.
func newRolledBack(t *testing.T) *lonely {
	t.Helper()
	o := newLonely(t, 10)
	for range 2 {
		if _, err := o.pass(errorsAlert); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := o.pass(); err != nil || o.record().Lock == nil {
		t.Fatalf("%v: not locked", err)
	}
	return o
}

// editObject changes the record as somebody would whom no policy refuses.
func (o *lonely) editObject(change func(*corev1.ConfigMap)) {
	o.w.cm = o.w.cm.DeepCopy()
	change(o.w.cm)
	o.w.cm.ResourceVersion = o.w.next()
}

// Whoever may write to the record can edit what guardian remembers in it, where no policy
// refuses that. No single edit lets the canary have traffic again: what is gone is
// written anew or begun anew, and the lock that stands on the VirtualService is taken up.
func TestNoEditOfOneKeyByHandLetsGo(t *testing.T) {
	edits := map[string]func(key string, cm *corev1.ConfigMap){
		"taken out":  func(key string, cm *corev1.ConfigMap) { delete(cm.Data, key) },
		"emptied":    func(key string, cm *corev1.ConfigMap) { cm.Data[key] = "" },
		"no JSON":    func(key string, cm *corev1.ConfigMap) { cm.Data[key] = `{"` },
		"other JSON": func(key string, cm *corev1.ConfigMap) { cm.Data[key] = `[[7]]` },
		"null":       func(key string, cm *corev1.ConfigMap) { cm.Data[key] = `null` },
		"another's":  func(key string, cm *corev1.ConfigMap) { cm.Data[key] = "payments/v9" },
		"stable's":   func(key string, cm *corev1.ConfigMap) { cm.Data[key] = "orders-service/v1" },
		"very long":  func(key string, cm *corev1.ConfigMap) { cm.Data[key] = strings.Repeat("x", 100_000) },
		"not UTF-8":  func(key string, cm *corev1.ConfigMap) { cm.Data[key] = "\xff\xfe" },
		"disarmed for good": func(key string, cm *corev1.ConfigMap) {
			cm.Data[key] = strings.Replace(cm.Data[key], "{", `{"disarmed":{"by":"eve","reason":"-","until":"2999-01-01T00:00:00Z"},`, 1)
		},
		"in the past": func(key string, cm *corev1.ConfigMap) {
			cm.Data[key] = strings.ReplaceAll(cm.Data[key], "2026", "1999")
		},
		"to come": func(key string, cm *corev1.ConfigMap) {
			cm.Data[key] = strings.ReplaceAll(cm.Data[key], "2026", "2999")
		},
	}
	tried := map[string]int{}
	for _, key := range decision.OwnKeys {
		for how, edit := range edits {
			t.Run(key+" "+how, func(t *testing.T) {
				o := newRolledBack(t)
				o.editObject(func(cm *corev1.ConfigMap) {
					was := maps.Clone(cm.Data)
					if edit(key, cm); maps.Equal(was, cm.Data) {
						t.Skip("this key has nothing that this edit would change")
					}
				})
				tried[how]++
				o.staysLocked("edited")
				if r := o.record(); len(r.Deny) == 0 || len(r.Stable) == 0 || len(r.VirtualServices) == 0 || r.Message == "" || len(r.Refused) == 0 && key != decision.KeyRefused {
					t.Errorf("the record is not whole again: deny %v, stable %v, of %v, refused %v, message %q", r.Deny, r.Stable, r.VirtualServices, r.Refused, r.Message)
				}
			})
		}
	}
	for how := range edits {
		if tried[how] == 0 {
			t.Errorf("%s: changes no key", how)
		}
	}
}

// The same of everything else that guardian writes about a guard, and of all of it.
func TestNoEditByHandLetsGo(t *testing.T) {
	for name, edit := range map[string]func(o *lonely, cm *corev1.ConfigMap){
		"the label locked taken off": func(_ *lonely, cm *corev1.ConfigMap) { delete(cm.Labels, records.LabelLocked) },
		"the guard's label":          func(_ *lonely, cm *corev1.ConfigMap) { delete(cm.Labels, records.LabelGuard) },
		"all labels":                 func(_ *lonely, cm *corev1.ConfigMap) { cm.Labels = nil },
		"the owner": func(_ *lonely, cm *corev1.ConfigMap) {
			cm.Annotations = map[string]string{records.AnnotationOwner: "eve"}
		},
		"lock and label": func(_ *lonely, cm *corev1.ConfigMap) {
			delete(cm.Data, decision.KeyLock)
			delete(cm.Labels, records.LabelLocked)
		},
		"all but the status": func(_ *lonely, cm *corev1.ConfigMap) {
			cm.Labels = nil
			maps.DeleteFunc(cm.Data, func(key, _ string) bool { return key != decision.KeyStatus })
		},
		"all data":                       func(_ *lonely, cm *corev1.ConfigMap) { cm.Data = nil },
		"the lock on the VirtualService": func(o *lonely, _ *corev1.ConfigMap) { o.annotate(decision.LockKey(o.guard.Name), "") },
		"a lock there that says nothing": func(o *lonely, _ *corev1.ConfigMap) { o.annotate(decision.LockKey(o.guard.Name), "none") },
		"what else is told there":        func(o *lonely, _ *corev1.ConfigMap) { o.annotate(decision.AnnotationState, "idle") },
		"all annotations":                func(o *lonely, _ *corev1.ConfigMap) { o.w.vs.SetAnnotations(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			o := newRolledBack(t)
			o.editObject(func(cm *corev1.ConfigMap) { edit(o, cm) })
			o.staysLocked(name)
			cm := o.w.cm
			if cm.Labels[records.LabelLocked] != "true" {
				t.Errorf("labels %v, data %v", cm.Labels, slices.Sorted(maps.Keys(cm.Data)))
			}
			if lock, err := decision.ParseLockAnnotation(o.w.vs.GetAnnotations()[decision.LockKey(o.guard.Name)]); err != nil || lock.By != guardianUser {
				t.Errorf("the lock on the VirtualService: %+v, %v", lock, err)
			}
		})
	}
}

func (o *lonely) annotate(key, value string) {
	vs := o.w.vs.DeepCopy()
	all := vs.GetAnnotations()
	if all[key] = value; value == "" {
		delete(all, key)
	}
	vs.SetAnnotations(all)
	vs.SetResourceVersion(o.w.next())
	o.w.vs = vs
}

// staysLocked has CI give the canary half of the traffic, and wants it back at nothing.
func (o *lonely) staysLocked(after string) {
	o.t.Helper()
	for i, weight := range []int{0, 50, 0} {
		if weight > 0 {
			keep := o.w.vs.GetAnnotations()
			o.ci(weight)
			o.w.vs.SetAnnotations(keep) // as kubectl apply does
		}
		for range 3 {
			if _, err := o.pass(); err != nil {
				o.t.Fatalf("%s, %d: %v", after, i, err)
			}
		}
		if r := o.record(); r.Lock == nil || !o.traffic().Clean() || r.Status.State != decision.StateRolledBack {
			o.t.Fatalf("%s: lock %+v, state %s (%s), the canary has %d%%; history %s", after, r.Lock, r.Status.State, r.Status.Reason, o.traffic().Weight, fmt.Sprint(o.history()))
		}
	}
}

// renamesTo is what every destination of a manifest is called from now on.
func renamesTo(host, subset string) func(map[string]any) {
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if v["host"] == "orders-service" {
				v["host"] = host
			}
			if v["subset"] == "v2" {
				v["subset"] = subset
			}
			for _, below := range v {
				walk(below)
			}
		case []any:
			for _, below := range v {
				walk(below)
			}
		}
	}
	return func(manifest map[string]any) { walk(manifest["spec"]) }
}

// The lock is about pods: what leads to them may be called otherwise from one moment to
// the next, in configuration, DestinationRule and manifests at once.
func TestARenameUnderALockLetsNothingThrough(t *testing.T) {
	for name, rename := range map[string]func(o *lonely){
		"of the guard": func(o *lonely) { o.guard.Name, o.w.foreign, o.w.cm = "orders", o.w.cm, nil },
		"of the canary's subset": func(o *lonely) {
			o.w.subset, o.guard.Canary.Subset, o.renames = "canary", "canary", renamesTo("orders-service", "canary")
		},
		"of the Service": func(o *lonely) { o.w.host, o.renames = "orders", renamesTo("orders", "v2") },
		"of subset and Service": func(o *lonely) {
			o.w.host, o.w.subset, o.guard.Canary.Subset, o.renames = "orders", "canary", "canary", renamesTo("orders", "canary")
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := newRolledBack(t)
			rename(o)
			o.renameInPlace()
			o.staysLocked("renamed")
			host, subset := cmp.Or(o.w.host, "orders-service"), cmp.Or(o.w.subset, "v2")
			if r := o.record(); !slices.Contains(r.Deny, host+"/"+subset) {
				t.Errorf("the lock denies %v, not %s/%s", r.Deny, host, subset)
			}
			if l, err := decision.ParseLockAnnotation(o.w.vs.GetAnnotations()[decision.LockKey(o.guard.Name)]); err != nil || !slices.Contains(l.Canary, host+"/"+subset) {
				t.Errorf("the lock on the VirtualService denies %v, %v", l.Canary, err)
			}
		})
	}
}

// renameInPlace has the VirtualService call its destinations as CI does from now on.
func (o *lonely) renameInPlace() {
	if o.renames != nil {
		vs := o.w.vs.DeepCopy()
		o.renames(vs.Object)
		vs.SetResourceVersion(o.w.next())
		o.w.vs = vs
	}
}

// What the documentation says of those whom no policy keeps from it: a build that was
// refused is rolled back again though its lock was taken away everywhere, until the list
// of refused builds is gone as well.
func TestALockThatIsTakenAwayEverywhereStillRefusesItsBuild(t *testing.T) {
	for _, refused := range []bool{true, false} {
		o := newRolledBack(t)
		o.annotate(decision.LockKey(o.guard.Name), "")
		o.editObject(func(cm *corev1.ConfigMap) {
			delete(cm.Data, decision.KeyLock)
			delete(cm.Labels, records.LabelLocked)
			if !refused {
				delete(cm.Data, decision.KeyRefused)
			}
		})
		o.ci(50)
		for range 3 {
			if _, err := o.pass(); err != nil {
				t.Fatal(err)
			}
		}
		if r := o.record(); (r.Lock != nil) != refused || o.traffic().Clean() != refused {
			t.Errorf("the list of refused builds is there: %t; lock %+v, the canary has %d%%", refused, r.Lock, o.traffic().Weight)
		}
	}
}
