package rules

import (
	"slices"
	"strings"
	"time"
)

const (
	restartsMax   = "guardian:restarts:limit"
	restartsShort = "guardian_side:restarts:increase15s" // within one step of the windows below
	restartsIn    = "guardian_side:restarts:increase"    // within window

	restartsStep = 15 * time.Second
)

// restartsGroup counts restarts over short steps and adds the steps up: the
// plain difference over minutes is fooled by two resets within them.
func (b *builder) restartsGroup() {
	if !b.any(func(s Signals) bool { return s.Restarts != nil }) {
		return
	}
	interval := min(b.Interval, restartsStep)
	b.group("restarts", interval)
	if b.RestartsFrom == FromKubeStateMetrics {
		b.record(restartsShort, nil, b.restartsFromKubeStateMetrics())
	} else {
		b.record(restartsShort, nil, b.restartsFromGuardian())
	}
	for _, w := range b.restartWindows() {
		// A step of a subquery finds the newest sample at or before it, so steps
		// tile the window if the step is a multiple of the interval.
		b.record(restartsIn, map[string]string{"window": dur(w)}, expand(
			`sum_over_time($short[$w:$step]) and on ($guard) $max`,
			"short", b.own(restartsShort), "w", dur(w), "step", dur(restartsStep), "guard", keyLabels,
			"max", b.own(restartsMax, `window="`+dur(w)+`"`)))
	}
	b.restartsAlerts()
	b.endGroup()
}

func (b *builder) restartWindows() []time.Duration {
	var out []time.Duration
	for _, g := range b.Guards {
		if r := g.Signals.Restarts; r != nil && !slices.Contains(out, r.Window) {
			out = append(out, r.Window)
		}
	}
	slices.Sort(out)
	return out
}

// restartsFromGuardian asks every replica of guardian, each of which watches
// all pods, and believes the one that saw most.
func (b *builder) restartsFromGuardian() string {
	counted := b.delta("guardian_workload_restarts_total{"+b.self()+"}", restartsStep)
	return expand(`max by ($guard, $side) (
		(max by (guard, subset) (sum without (reason) ($counted))) * on (guard, subset) group_right () $info)`,
		"guard", keyLabels, "side", labelSide, "counted", counted, "info", b.own(subsetInfo))
}

// restartsFromKubeStateMetrics finds the Deployment in the pod's name.
func (b *builder) restartsFromKubeStateMetrics() string {
	var workloads []string
	for _, g := range b.Guards {
		workloads = append(workloads, slices.Concat(g.Canary.Workloads, g.Stable.Workloads)...)
	}
	names := alternatives(workloads)
	// Deployment, hash of the ReplicaSet, five characters of the pod.
	pod := "(" + names + ")-[a-z0-9]+-[a-z0-9]{5}"
	matchers := `namespace=~"` + escape(alternatives(b.namespaces())) + `",pod=~"` + escape(pod) + `",container!="istio-proxy"`
	return expand(`sum by ($guard, $side) (
		(sum by ($key) (label_replace(label_replace($counted,
			"destination_workload", "$$1", "pod", "$pod"),
			"destination_workload_namespace", "$$1", "namespace", "(.*)")))
		* on ($key) group_right () $info)`,
		"$1", "$1", "guard", keyLabels, "side", labelSide, "key", workloadKey, "pod", escape(pod),
		"counted", b.delta("kube_pod_container_status_restarts_total{"+matchers+"}", restartsStep), "info", b.own(workloadInfo))
}

// escape writes a regular expression for use between double quotes.
func escape(s string) string { return strings.ReplaceAll(s, `\`, `\\`) }
