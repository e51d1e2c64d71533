package virtualtime_test

import (
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/canary-guardian/guardian/rules/virtualtime"
)

// TestWhatWasCountedWhileARuleFailedIsNotNew has one of the rules that count requests
// record nothing for some evaluations, as one does whose query fails. What the canary's
// proxy has counted in its life is no new requests then.
func TestWhatWasCountedWhileARuleFailedIsNotNew(t *testing.T) {
	const from, to = 420, 450 // the canary failed in the first minute of its life
	for _, what := range []string{"requests_failed:sum", "requests:sum", "requests:idelta", "requests_slow:sum", "requests_timed:sum", "requests_timed:idelta"} {
		store := virtualtime.NewStore()
		mesh(store, 0)
		e, err := virtualtime.New(store, switchedOff(groupsOf(t), what))
		if err != nil {
			t.Fatal(err)
		}
		off := labels.FromStrings(model.MetricNameLabel, "off")
		for now := int64(0); now <= to+30; now++ {
			if now >= from && now < to {
				store.Append(off, 1000*now, 1)
			} else {
				store.Append(off, 1000*now, virtualtime.Stale)
			}
			if err := e.Evaluate(t.Context(), 1000*now); err != nil {
				t.Fatal(err)
			}
			if fires := e.Firing(); now > from && len(fires) > 0 {
				t.Errorf("%s failed from second %d on, until %d: at %d %s of %v", what, from, to, now, fires[0].Name, fires[0].Value)
				break
			}
		}
	}
}

// switchedOff has a rule record nothing while there is a series off.
func switchedOff(groups []monitoringv1.RuleGroup, what string) []monitoringv1.RuleGroup {
	out := slices.Clone(groups)
	for i := range out {
		out[i].Rules = slices.Clone(out[i].Rules)
		for j, r := range out[i].Rules {
			if strings.HasSuffix(r.Record, ":"+what) {
				out[i].Rules[j].Expr = intstr.FromString("(" + r.Expr.String() + ") unless on () off")
			}
		}
	}
	return out
}
