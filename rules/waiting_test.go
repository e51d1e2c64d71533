package rules

import (
	"fmt"
	"testing"
	"time"
)

// waiting is a row of guardian's, of the canary unless another subset is named.
func waiting(reason, subset string) string {
	return fmt.Sprintf(`guardian_workload_waiting_containers{guard="orders-service",subset=%q,reason=%q}`, subset, reason)
}

func terminations(reason string) string {
	return fmt.Sprintf(`guardian_workload_terminations_total{guard="orders-service",subset="v2",reason=%q}`, reason)
}

func container(metric, pod, reason string) string {
	return fmt.Sprintf(`%s{namespace="microservices",pod=%q,container="orders",reason=%q}`, metric, pod, reason)
}

// between is there for some seconds.
func between(from, to int, n float64) func(int) any {
	return until(from, always(nil), until(to, always(n), always(nil)))
}

const (
	mainWaits = "kube_pod_container_status_waiting_reason"
	initWaits = "kube_pod_init_container_status_waiting_reason"
	ended     = "kube_pod_container_status_last_terminated_reason"
	podOne    = "orders-v2-7d4b9c5f6-ab1cd"
	podTwo    = "orders-v2-7d4b9c5f6-xy2zd"
)

func TestWaiting(t *testing.T) {
	guardian := func(more ...rows) target {
		g := replica("a", nil, nil, nil)
		merge(g.rows, more...)
		return g
	}
	kube := func(o *Options) { o.RestartsFrom = FromKubeStateMetrics }
	runAll(t, func(s *Signals) { *s = Signals{Restarts: s.Restarts} }, map[string]scenario{
		// Scraped at second 62, so pending from there on.
		"a container that cannot start is a hold after 30 s": {
			targets: []target{guardian(rows{waiting("ImagePullBackOff", "v2"): between(60, 999, 1)})},
			want:    map[int][]string{60: nil, 91: nil, 92: {waitingHold}, 150: {waitingHold}},
			texts: map[int]text{120: {waitingHold, "orders-service: 1 of the canary's containers cannot start",
				"Something has kept containers of the canary of orders-service in microservices from starting for at least 30s, 1 of them now: ImagePullBackOff (1). guardian holds the canary where it is."}},
		},
		"one that starts in time is none": {
			targets: []target{guardian(rows{waiting("ImagePullBackOff", "v2"): between(60, 90, 1)})},
			want:    map[int][]string{80: nil, 95: nil, 120: nil},
		},
		"the hold ends when all start": {
			targets: []target{guardian(rows{waiting("ImagePullBackOff", "v2"): between(60, 150, 1)})},
			want:    map[int][]string{140: {waitingHold}, 175: {waitingHold}, 190: nil},
		},
		"a reason that turns into another goes on": {
			targets: []target{guardian(rows{waiting("ErrImagePull", "v2"): between(60, 80, 2), waiting("ImagePullBackOff", "v2"): between(80, 999, 2)})},
			want:    map[int][]string{91: nil, 92: {waitingHold}},
		},
		"one that starts and waits again between two crashes stays a hold": {
			targets: []target{guardian(rows{waiting("CrashLoopBackOff", "v2"): until(110, between(60, 999, 1), until(130, always(nil), always(1.0)))})},
			want:    map[int][]string{100: {waitingHold}, 120: {waitingHold}, 138: {waitingHold}, 155: {waitingHold}, 200: {waitingHold}},
		},
		"the text has all reasons, each with its count": {
			targets: []target{guardian(rows{waiting("ImagePullBackOff", "v2"): between(60, 999, 1), waiting("CrashLoopBackOff", "v2"): between(60, 999, 3), waiting("other", "v2"): between(60, 999, 1)})},
			texts: map[int]text{120: {waitingHold, "orders-service: 5 of the canary's containers cannot start",
				"Something has kept containers of the canary of orders-service in microservices from starting for at least 30s, 5 of them now: CrashLoopBackOff (3), ImagePullBackOff (1). guardian holds the canary where it is."}},
		},
		"the text says nothing about a reason that is not known": {
			targets: []target{guardian(rows{waiting("other", "v2"): between(60, 999, 1)})},
			texts: map[int]text{120: {waitingHold, "orders-service: 1 of the canary's containers cannot start",
				"Something has kept containers of the canary of orders-service in microservices from starting for at least 30s, 1 of them now. guardian holds the canary where it is."}},
		},
		"stable's containers are no reason": {
			targets: []target{guardian(rows{waiting("CrashLoopBackOff", "v1"): between(60, 999, 1)})},
			want:    map[int][]string{120: nil},
		},
		"every replica counts all, so they are not added": {
			targets: []target{
				guardian(rows{waiting("ErrImagePull", "v2"): between(60, 999, 2)}),
				at(4, target{name: "b", rows: guardian(rows{waiting("ImagePullBackOff", "v2"): between(60, 999, 2)}).rows})},
			want: map[int][]string{120: {waitingHold}},
			texts: map[int]text{120: {waitingHold, "orders-service: 2 of the canary's containers cannot start",
				"Something has kept containers of the canary of orders-service in microservices from starting for at least 30s, 2 of them now: ErrImagePull (2), ImagePullBackOff (2). guardian holds the canary where it is."}},
		},
		"those of another namespace's guard of the same name are not counted": {
			targets: []target{guardian(), elsewhere(guardian(rows{waiting("CrashLoopBackOff", "v2"): between(60, 999, 1)}))},
			want:    map[int][]string{120: nil},
		},
		"not when the signal is off": {
			guards:  []Guard{with(orders(), func(g *Guard) { g.Signals = Signals{Traffic: g.Signals.Traffic} })},
			targets: []target{guardian(rows{waiting("CrashLoopBackOff", "v2"): between(60, 999, 1)})},
			want:    map[int][]string{120: nil},
		},
		"not for the other guard, whose signal is off": {
			guards: []Guard{
				with(orders(), func(g *Guard) { g.Signals = Signals{Traffic: g.Signals.Traffic} }),
				with(orders(), func(g *Guard) { g.Name, g.Signals = "other", Signals{Restarts: g.Signals.Restarts} }),
			},
			targets: []target{guardian(rows{waiting("CrashLoopBackOff", "v2"): between(60, 999, 1)})},
			want:    map[int][]string{120: nil},
		},
		"no metric, no alert": {
			targets: []target{stable(), canary()},
			want:    map[int][]string{100: nil},
		},
		"kube-state-metrics: a container, or an init container, that cannot start": {
			options: kube,
			targets: []target{{name: "ksm", phase: 2, rows: rows{
				container(mainWaits, podOne, "ImagePullBackOff"):  between(60, 999, 1),
				container(initWaits, podTwo, "CrashLoopBackOff"):  between(60, 999, 1),
				container(mainWaits, podTwo, "PodInitializing"):   between(60, 999, 1),
				container(mainWaits, podOne, "ContainerCreating"): between(40, 60, 1),
			}}},
			want: map[int][]string{60: nil, 91: nil, 92: {waitingHold}, 150: {waitingHold}},
			texts: map[int]text{120: {waitingHold, "orders-service: 2 of the canary's containers cannot start",
				"Something has kept containers of the canary of orders-service in microservices from starting for at least 30s, 2 of them now: CrashLoopBackOff (1), ImagePullBackOff (1). guardian holds the canary where it is."}},
		},
		"kube-state-metrics: not those that only start, nor the proxy, nor other workloads": {
			options: kube,
			targets: []target{{name: "ksm", phase: 2, rows: rows{
				container(mainWaits, podOne, "ContainerCreating"):                                                                between(60, 999, 1),
				container(mainWaits, "orders-v1-7d4b9c5f6-ab1cd", "CrashLoopBackOff"):                                            between(60, 999, 1),
				container(mainWaits, "orders-v2-admin-7d4b9c5f6-ab1cd", "CrashLoopBackOff"):                                      between(60, 999, 1),
				mainWaits + `{namespace="microservices",pod="` + podOne + `",container="istio-proxy",reason="ImagePullBackOff"}`: between(60, 999, 1),
			}}},
			want: map[int][]string{120: nil},
		},
	})
}

func TestTheTextOfRestartsHasTheirReasons(t *testing.T) {
	none := always(0.0)
	guardian := func(more ...rows) target {
		g := replica("a", nil, step(60, 3), none)
		merge(g.rows, more...)
		return g
	}
	rolledBack := func(why string) map[int]text {
		return map[int]text{120: {restartRollback, "orders-service: the canary's containers restarted 3 times",
			"The containers of the canary of orders-service in microservices restarted 3 times (limit 2 within 5m)" + why +
				"; stable's did not. guardian is asked to send all traffic to stable. Whether it has: guardian status orders-service -n microservices"}}
	}
	runAll(t, func(s *Signals) { *s = Signals{Restarts: s.Restarts} }, map[string]scenario{
		"what ended them, and what they wait for": {
			targets: []target{guardian(rows{
				terminations("OOMKilled"): until(60, always(nil), always(3.0)), waiting("CrashLoopBackOff", "v2"): between(60, 999, 2),
			})},
			texts: rolledBack(", last ended by OOMKilled, now waiting: CrashLoopBackOff (2)"),
		},
		"not what ended others before": {
			targets: []target{guardian(rows{terminations("OOMKilled"): step(0, 9, 60, 10), terminations("Error"): step(0, 9)}),
				at(4, target{name: "b", rows: rows{terminations("OOMKilled"): always(1.0)}})},
			options: func(o *Options) {
				o.Guards = []Guard{with(orders(), func(g *Guard) { g.Signals = Signals{Restarts: &Restarts{Max: 2, Window: 100 * time.Second}} })}
			},
			texts: map[int]text{120: {restartRollback, "orders-service: the canary's containers restarted 3 times",
				"The containers of the canary of orders-service in microservices restarted 3 times (limit 2 within 1m40s), last ended by OOMKilled" +
					"; stable's did not. guardian is asked to send all traffic to stable. Whether it has: guardian status orders-service -n microservices"}},
		},
		"several": {
			targets: []target{guardian(rows{terminations("OOMKilled"): step(60, 1), terminations("Error"): step(60, 2)})},
			texts:   rolledBack(", last ended by Error, OOMKilled"),
		},
		"none that is not known": {
			targets: []target{guardian(rows{terminations("other"): step(60, 3)})},
			texts:   rolledBack(""),
		},
		"nothing without the metrics": {
			targets: []target{guardian()},
			texts:   rolledBack(""),
		},
		"matchers of its own with signs that a template takes for its own": {
			options: func(o *Options) { o.Self = "job!=`%s`,instance!~\"{{x\"" },
			targets: []target{guardian(rows{terminations("OOMKilled"): step(60, 3)})},
			texts:   rolledBack(", last ended by OOMKilled"),
		},
		"of stable too": {
			targets: []target{replicaOf(guardian(rows{terminations("Error"): step(60, 3), waiting("CrashLoopBackOff", "v2"): between(60, 80, 1)}), step(60, 3))},
			texts: map[int]text{120: {restartHold, "orders-service: the containers of canary and stable restart",
				"The containers of the canary of orders-service in microservices restarted 3 times (limit 2 within 5m), last ended by Error, and so did stable's. guardian holds the canary where it is."}},
		},
		"kube-state-metrics: what ended them, and what they wait for": {
			options: func(o *Options) { o.RestartsFrom = FromKubeStateMetrics },
			targets: []target{{name: "ksm", phase: 2, rows: rows{
				`kube_pod_container_status_restarts_total{namespace="microservices",pod="` + podOne + `",container="orders"}`: step(60, 3),
				container(ended, podOne, "OOMKilled"):                  between(60, 999, 1),
				container(ended, "orders-v1-7d4b9c5f6-ab1cd", "Error"): between(60, 999, 1),
				container(mainWaits, podOne, "CrashLoopBackOff"):       between(100, 999, 1),
			}}},
			texts: rolledBack(", last ended by OOMKilled, now waiting: CrashLoopBackOff (1)"),
		},
	})
}

// replicaOf is a guardian that also counts stable's restarts.
func replicaOf(g target, stable func(int) any) target {
	g.rows[`guardian_workload_restarts_total{guard="orders-service",subset="v1"}`] = stable
	return g
}
