package rules

import (
	"slices"
	"strings"
	"time"
)

const (
	restartsMax   = "guardian:restarts:limit"
	restartsShort = "guardian_workload:restarts:increase15s" // within one step of the windows below, before guards are joined; where there are any
	restartsIn    = "guardian_side:restarts:increase"        // within window

	restartsStep = 15 * time.Second
)

// restartsGroup counts restarts over short steps and adds the steps up: the
// plain difference over minutes is fooled by two resets within them.
func (b *builder) restartsGroup() {
	if !b.any(func(s Signals) bool { return s.Restarts != nil }) {
		return
	}
	// A step of a subquery finds the newest sample at or before it, so steps tile
	// the window if each has an evaluation at the same distance.
	b.group("restarts", b.restartsInterval(), "Restarts of the canary's containers, and containers of it that cannot start.")
	key, info := b.restartsKey()
	counted, none := b.restartsFromGuardian()
	if b.RestartsFrom == FromKubeStateMetrics {
		counted, none = b.restartsFromKubeStateMetrics()
	}
	b.record(restartsShort, b.owned(), "("+counted+") > 0")
	for _, w := range b.restartWindows() {
		// While Prometheus was away, steps find the last sample before: that is no
		// count of theirs.
		b.record(restartsIn, map[string]string{"window": dur(w)}, expand(
			`max by ($guard, $side) ((max by ($key) (sum_over_time(($short and time() - timestamp($short) < $seconds)[$w:$step])) or $none)
				* on ($key) group_right () $info) and on ($guard) $max`,
			"short", restartsShort+"{"+b.ownedMatchers()+"}",
			"w", dur(w), "step", dur(restartsStep), "seconds", num(restartsStep.Seconds()), "guard", keyLabels, "side", labelSide,
			"key", key, "info", b.own(info), "max", b.own(restartsMax, `window="`+dur(w)+`"`), "none", none))
	}
	b.restartsAlerts()
	b.waitingAlert()
	b.evaluated("restarts")
	b.endGroup()
}

// restartsInterval divides a step, and asks for one scrape some three times.
func (o Options) restartsInterval() time.Duration {
	out := time.Second
	for _, d := range []time.Duration{3 * time.Second, 5 * time.Second, restartsStep} {
		if d <= max(o.Interval, min(5*time.Second, o.ScrapeInterval/3)) {
			out = d
		}
	}
	return out
}

// restartsKey are the labels by which the source of restarts names a version,
// and the constants that map them to guard and side.
func (b *builder) restartsKey() (key, info string) {
	if b.RestartsFrom == FromKubeStateMetrics {
		return workloadKey, workloadInfo
	}
	return "guard, subset", subsetInfo
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
// all pods. The one that saw most is believed only once its steps are added up:
// two that are scraped at different times see one restart in different steps. none
// is 0 where restarts are known, be it that there were none.
func (b *builder) restartsFromGuardian() (counted, none string) {
	key, info := b.restartsKey()
	vars := []string{
		"target", b.target(), "x", "guardian_workload_restarts_total{" + b.selfOfGuards() + "}", "w", dur(restartsStep), "key", key, "info", b.own(info),
		// Not up, of which Prometheus has one for everything that it scrapes.
		"scraped", "guardian_heartbeat_timestamp_seconds{" + b.self() + "}",
	}
	return expand(`sum by (guard, subset, $target) (($x - $x offset $w >= 0) or ($x and on ($target) ($scraped offset $w)))`, vars...),
		expand(`(max by ($key) ($info) * 0 and on () $scraped)`, vars...)
}

// restartsFromKubeStateMetrics finds the Deployment in the pod's name. It serves
// the restarts of a pod's whole life, so a series that is new to Prometheus has
// counted nothing new; and all replicas serve the same.
func (b *builder) restartsFromKubeStateMetrics() (counted, none string) {
	x := b.containers("kube_pod_container_status_restarts_total")
	return b.byWorkload(expand(`max by ($container) ($x) - max by ($container) ($x offset $w) >= 0`,
		"container", containerKey, "x", x, "w", dur(restartsStep))), b.byWorkload(x + " * 0")
}

const containerKey = "namespace, pod, container"

// containers selects, of a metric of kube-state-metrics, the containers of the
// guarded workloads.
func (b *builder) containers(metric string, more ...string) string {
	return metric + `{` + list(`namespace=~"`+escape(alternatives(b.namespaces()))+`",pod=~"`+escape(b.podNames())+`",container!="istio-proxy"`, more...) + `}`
}

// podNames matches Deployment, hash of the ReplicaSet, five characters of the
// pod; the Deployment is its first group.
func (b *builder) podNames() string {
	var workloads []string
	for _, g := range b.Guards {
		workloads = append(workloads, slices.Concat(g.Canary.Workloads, g.Stable.Workloads)...)
	}
	return "(" + alternatives(workloads) + ")-[a-z0-9]+-[a-z0-9]{5}"
}

// byWorkload adds up what an expression has for each pod. Labels in by are kept
// apart.
func (b *builder) byWorkload(expr string, by ...string) string {
	return expand(`sum by ($key) (label_replace(label_replace(
			$expr,
			"destination_workload", "$$1", "pod", "$pod"),
			"destination_workload_namespace", "$$1", "namespace", "(.*)"))`,
		"$1", "$1", "key", list(workloadKey, by...), "pod", escape(b.podNames()), "expr", expr)
}

// escape writes a regular expression for use between double quotes.
func escape(s string) string { return strings.ReplaceAll(s, `\`, `\\`) }
