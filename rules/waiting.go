package rules

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// waitingFor tolerates an image registry that fails for seconds, and a Secret
// that is made after the Deployment that needs it.
const waitingFor = 30 * time.Second

// waitingAlert stops promotion while containers of the canary cannot start. It
// is no rollback: one pod of ten that waits for its image hurts nobody, and when
// none is ready the requests that fail tell.
func (b *builder) waitingAlert() {
	key, info := b.restartsKey()
	count := `{{ $value | printf "%.0f" }}`
	b.verdict(verdict{
		name: AlertWaiting, signal: SignalRestarts, wait: waitingFor,
		held: expand(`sum by (namespace, guardian_guard) (($waiting > 0) * on ($key) group_right () $info and on ($guard) $max)`,
			"waiting", b.waiting(nil), "key", key, "info", b.own(info, labelSide+`="canary"`), "guard", keyLabels, "max", b.own(restartsMax)),
		heldSays: says{guardLabel + ": " + count + " of the canary's containers cannot start",
			"Something has kept containers of the canary of " + guardLabel + " in " + namespaceLabel + " from starting for at least " + dur(waitingFor) +
				", " + count + " of them now" + b.waitingText(": ") + "."},
	})
}

// waiting counts the containers that something keeps from starting, for each
// version and value of the labels in by. Of several replicas of guardian the one
// that sees most is believed.
func (b *builder) waiting(more []string, by ...string) string {
	if b.RestartsFrom == FromKubeStateMetrics {
		// What every container waits for at first.
		more = append(more, `reason!~"ContainerCreating|PodInitializing"`)
		return b.byWorkload(expand(`max by ($container) (($main > 0) or ($init > 0))`,
			"container", list(containerKey, by...), "main", b.containers("kube_pod_container_status_waiting_reason", more...),
			"init", b.containers("kube_pod_init_container_status_waiting_reason", more...)), by...)
	}
	key, _ := b.restartsKey()
	return expand(`max by ($key) (sum by ($key, $target) ($waiting))`, "key", list(key, by...), "target", strings.Join(b.TargetLabels, ", "),
		"waiting", "guardian_workload_waiting_containers{"+list(b.self(), more...)+"}")
}

// ended counts restarts by the reason of the end before, for each version and
// reason: guardian's within the window, kube-state-metrics' as they stand.
func (b *builder) ended(more []string, window time.Duration) string {
	if b.RestartsFrom == FromKubeStateMetrics {
		return b.byWorkload(expand(`max by ($container) ($x > 0)`, "container", list(containerKey, "reason"),
			"x", b.containers("kube_pod_container_status_last_terminated_reason", more...)), "reason")
	}
	key, _ := b.restartsKey()
	return expand(`max by ($key) (($x > 0) unless ($x offset $w == $x))`, "key", list(key, "reason"),
		"x", "guardian_workload_terminations_total{"+list(b.self(), more...)+"}", "w", dur(window))
}

// waitingText is a template that tells what keeps containers of the alert's
// canary from starting, after the words in before; nothing when nothing is known.
func (b *builder) waitingText(before string) string {
	return b.reasonsText(before, "{{ $reason.Labels.reason }} ({{ $reason.Value }})", func(b *builder, more []string) string {
		return b.waiting(more, "reason")
	})
}

// endedText is the same for what ended the containers that restarted.
func (b *builder) endedText(before string) string {
	return b.reasonsText(before, "{{ $reason.Labels.reason }}", func(b *builder, more []string) string {
		return b.ended(more, slices.Max(b.restartWindows()))
	})
}

// reasonsText lists what counted has by reason for the alert's canary. The
// reason that stands for all others would tell nobody anything.
func (b *builder) reasonsText(before, each string, counted func(b *builder, more []string) string) string {
	format := *b // with the alert's namespace and guard put in by printf
	format.Self = strings.ReplaceAll(b.Self, "%", "%%")
	more := []string{`reason!="other"`}
	if b.RestartsFrom == FromGuardian {
		more = append(more, "guard=%[2]q")
	}
	key, info := b.restartsKey()
	query := expand(`sum by (reason) (($counted > 0) * on ($key) group_left () $info)`, "counted", counted(&format, more), "key", key,
		"info", b.own(info, labelSide+`="canary"`, LabelNamespace+"=%[1]q", LabelGuard+"=%[2]q"))
	return "{{ with printf " + quoted(strings.Join(strings.Fields(query), " ")) + ` $labels.namespace $labels.guardian_guard | query | sortByLabel "reason" }}` +
		before + "{{ range $i, $reason := . }}{{ if $i }}, {{ end }}" + each + "{{ end }}{{ end }}"
}

// quoted is s as a string of a template.
func quoted(s string) string {
	if strconv.CanBackquote(s) {
		return "`" + s + "`"
	}
	return strconv.Quote(s)
}
