package remediate

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestARollbackLocksFirstAndThenMovesTraffic(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	r.must(app.SetWeights(t.Context(), 50, 50))
	p := r.start(r.guard(app.Name))
	r.inState(app.Name, StateShifting)
	before := len(p.tap.writes())

	alert := badAlert("CanaryErrors")
	r.must(p.fire(app.Name, alert))

	r.must(isAt(t.Context(), app, 0))
	if got, want := p.tap.writes()[before:], []string{"patch configmaps 200", "patch virtualservices 200"}; !slices.Equal(got, want) {
		t.Errorf("writes %v, want %v", got, want)
	}
	rec := r.inState(app.Name, StateRolledBack)
	if l := rec.Lock; l == nil || l.Kind != LockBuild || l.Build == "" || l.Alert != alert.Name || l.Fingerprint != alert.Fingerprint || !l.StartsAt.Equal(alert.StartsAt) || l.By != "alert" {
		t.Errorf("lock %+v", rec.Lock)
	}
	if !slices.Equal(rec.Refused, []string{rec.Lock.Build}) || !slices.Equal(rec.VirtualServices, []string{app.Name}) {
		t.Errorf("refused %v, virtualServices %v", rec.Refused, rec.VirtualServices)
	}
	for _, host := range []string{app.Name, app.Name + "." + r.ns + ".svc.cluster.local"} {
		if !slices.Contains(rec.Deny, host+"/v2") {
			t.Errorf("deny %v lacks %s/v2", rec.Deny, host)
		}
	}
	if !strings.Contains(rec.Message, "CanaryErrors: 7% of requests fail") {
		t.Errorf("message %q", rec.Message)
	}
	r.checkMarks(app.Name, rec)
	r.checkEvent(app.Name, "GuardianRolledBack", "CanaryErrors: 7% of requests fail")
	if v := p.Views()[0]; v.Status.State != StateRolledBack || v.Lock == nil {
		t.Errorf("view %+v", v)
	}
	for name, want := range map[string][]string{
		"guardian_rollbacks_total": {"error_rate"}, "guardian_rollback_seconds": nil, "guardian_state": {"rolled-back"},
	} {
		if got := p.metric(name, want...); got != 1 {
			t.Errorf("%s%v is %v, want 1", name, want, got)
		}
	}
	if got := p.metric("guardian_weight_percent", "v2"); got != 0 {
		t.Errorf("weight of v2 is %v", got)
	}
}

// checkMarks looks at what a rollback leaves on a VirtualService.
func (r *rig) checkMarks(name string, rec Record) {
	r.t.Helper()
	vs := r.virtualService(name)
	want := map[string]string{
		AnnotationState: string(StateRolledBack), AnnotationReason: rec.Lock.Reason, AnnotationBuild: rec.Lock.Build, AnnotationSince: stamp(rec.Status.Since),
	}
	for k, v := range want {
		if got := vs.GetAnnotations()[k]; got != v {
			r.t.Errorf("annotation %s is %q, want %q", k, got, v)
		}
	}
	if !owned(vs) || !slices.ContainsFunc(vs.GetManagedFields(), func(f metav1.ManagedFieldsEntry) bool { return f.Manager == FieldManager }) {
		r.t.Errorf("managers %v, want %s among them", managers(vs.GetManagedFields()), FieldManager)
	}
}

func managers(fields []metav1.ManagedFieldsEntry) []string {
	var out []string
	for _, f := range fields {
		out = append(out, f.Manager)
	}
	return out
}

// checkEvent waits for an Event on a VirtualService.
func (r *rig) checkEvent(name, reason, text string) {
	r.t.Helper()
	r.wait("event "+reason, func() error {
		list, err := r.kube.CoreV1().Events(r.ns).List(r.t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		var seen []string
		for _, e := range list.Items {
			if e.InvolvedObject.Kind == "VirtualService" && e.InvolvedObject.Name == name && e.Reason == reason && e.Type == corev1.EventTypeWarning && strings.Contains(e.Message, text) {
				return nil
			}
			seen = append(seen, e.Reason+" "+e.Message)
		}
		return fmt.Errorf("not among %q", seen)
	})
}
