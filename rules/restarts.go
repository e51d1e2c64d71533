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
		b.pods()
		b.noteVersions()
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
	for _, d := range []time.Duration{3 * time.Second, 5 * time.Second, restartsStep / 2, restartsStep} {
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

// restartsFromKubeStateMetrics serves the restarts of a pod's whole life, so a series
// that is new to Prometheus has counted nothing new; and all replicas serve the same.
// Native sidecars are init containers.
func (b *builder) restartsFromKubeStateMetrics() (counted, none string) {
	vars := []string{"container", containerKey, "w", dur(restartsStep),
		"main", b.containers("kube_pod_container_status_restarts_total"), "init", b.containers("kube_pod_init_container_status_restarts_total")}
	return b.byWorkload(expand(`max by ($container) ($main or $init) - max by ($container) ($main offset $w or $init offset $w) >= 0`, vars...)),
		b.byWorkload(expand(`max by ($container) ($main or $init) * 0`, vars...))
}

const containerKey = "namespace, pod, container"

// containers selects, of a metric of kube-state-metrics, the containers in the guards'
// namespaces; byWorkload leaves out what is not guarded.
func (b *builder) containers(metric string, more ...string) string {
	return metric + `{` + list(`namespace=~"`+escape(alternatives(b.namespaces()))+`",container!="istio-proxy"`, more...) + `}`
}

// podInfo maps the pods of the guarded workloads to those.
const podInfo = "guardian_pod:workload:info"

// pods records whose pods are whose.
func (b *builder) pods() {
	if workloads, _, _ := sides(b.Guards); len(workloads) > 0 {
		b.about("Whose pods are whose.")
		b.record(podInfo, nil, b.podsOf(workloads))
	}
}

// podsOf maps pods to their workloads by their controller: the name of a pod, unlike
// that of its ReplicaSet, has no room for all of a long name. The controller is the
// workload, or its name is the workload's and one part more. Where kube-state-metrics
// does not serve owners, the pod's name has to do: workload, that part, five characters.
func (b *builder) podsOf(workloads []string) string {
	names := escape(alternatives(workloads))
	hashed := "(" + names + ")-[a-z0-9]+"
	named := func(x, label, by string) string {
		return expand(`label_replace($x, "destination_workload", "$$1", "$label", "$by")`, "$1", "$1", "x", x, "label", label, "by", by)
	}
	controllers := func(more string) string {
		return `kube_pod_owner{namespace=~"` + escape(alternatives(b.namespaces())) + `",owner_is_controller="true"` + more + `}`
	}
	var any []string
	for _, metric := range []string{"container_status_restarts_total", "init_container_status_restarts_total", "container_status_waiting_reason", "init_container_status_waiting_reason"} {
		any = append(any, b.containers("kube_pod_"+metric, `pod=~"`+hashed+`-[a-z0-9]{5}"`))
	}
	return expand(`group by (namespace, pod, destination_workload) ($itself or on (namespace, pod) $of or on (namespace, pod) $byName)`,
		"itself", named(controllers(`,owner_name=~"`+names+`"`), "owner_name", "(.*)"),
		"of", named(controllers(`,owner_kind=~"ReplicaSet|ReplicationController",owner_name=~"`+hashed+`"`), "owner_name", hashed),
		"byName", named("group by (namespace, pod) ("+strings.Join(any, " or ")+") unless on (namespace, pod) "+controllers(""), "pod", hashed+"-[a-z0-9]{5}"))
}

// noteVersions tells of sides whose restarts kube-state-metrics cannot count.
func (b *builder) noteVersions() {
	for _, g := range b.Guards {
		for _, s := range []Side{g.Canary, g.Stable} {
			if g.Signals.Restarts != nil && len(s.Workloads) == 0 {
				b.notes = append(b.notes, "guard "+g.Name+": restarts of "+s.Name+
					" are not counted: kube-state-metrics knows workloads, and only its version is known; name them in workloads, or set rules.restartsFrom: guardian")
			}
		}
	}
}

// byWorkload adds up what an expression has for each pod. Labels in by are kept
// apart.
func (b *builder) byWorkload(expr string, by ...string) string {
	return expand(`sum by ($key) (label_replace(($expr) * on (namespace, pod) group_left (destination_workload) $pods,
			"destination_workload_namespace", "$$1", "namespace", "(.*)"))`,
		"$1", "$1", "key", list(workloadKey, by...), "pods", b.own(podInfo), "expr", expr)
}

func (b *builder) restartsAlerts() {
	vars := []string{
		"canary", now(b.own(restartsIn, labelSide+`="canary"`)), "stable", now(b.own(restartsIn, labelSide+`="stable"`)),
		"max", b.own(restartsMax), "factor", b.own(stableFactor), "guard", keyLabels, "side", labelSide,
	}
	beyond := expand(`sum without ($side, window) ($canary) > on ($guard) sum without (window) ($max)`, vars...)
	// Stable is as bad when it restarts beyond the limit too.
	alike := expand(`(sum without ($side, window) ($stable) > on ($guard) sum without (window) ($max)) and on ($guard) $factor`, vars...)
	count := `{{ $value | printf "%.0f" }}`
	// Not only what has restarted: a container in a loop of crashes waits most of the time.
	why := b.endedText(", last ended by ") + b.waitingText(", now waiting: ")
	within := lookup(restartsMax, `value | printf "%.0f"`) + " within " + lookup(restartsMax, `label "window"`)
	bad := "The containers of the canary of " + guardLabel + " in " + namespaceLabel + " restarted " + count + " times (limit " + within + ")" + why
	canary := guardLabel + ": the canary's containers restarted " + count + " times"
	b.verdict(verdict{
		name: AlertRestarts, signal: SignalRestarts,
		expr:     expand(`max by (namespace, guardian_guard) (($beyond) unless on ($guard) ($alike))`, "beyond", beyond, "guard", keyLabels, "alike", alike),
		held:     expand(`max by (namespace, guardian_guard) (($beyond) and on ($guard) ($alike))`, "beyond", beyond, "guard", keyLabels, "alike", alike),
		beyond:   `max by (namespace, guardian_guard) (` + beyond + `)`,
		says:     says{canary, bad + "; stable's did not."},
		heldSays: says{guardLabel + ": the containers of canary and stable restart", bad + ", and so did stable's."},
		soft:     says{canary, bad + "."},
	})
}
