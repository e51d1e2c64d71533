package rules

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// proportion is a share of bad requests that one test judges. The names are of
// recorded series; all of them carry keyLabels, and from bad to proof, limit
// excepted, a window.
type proportion struct {
	step    string        // requests counted since the last evaluation, by guardian_side and reporter
	badStep string        // the bad ones among them, likewise; failed ones where there are any
	bad     string        // the canary's bad ones within a window, where they are enough to conclude anything, by reporter
	limit   string        // share of bad ones that is allowed
	stable  string        // share at stable, while it has any bad ones
	ratio   string        // share of each side over about a minute, for people
	excess  string        // canary's share relative to the limit, with 5 bad ones or more
	worse   string        // the same, relative to stable's share where that is beyond the limit
	proof   string        // strength of the evidence, while it suffices
	since   string        // when the canary's samples were taken that sufficed first
	newest  string        // when each side was scraped last, while there is proof
	lane    string        // 1 for each side that the fast lane scrapes; only with Options.FastLane
	stale   time.Duration // how much older than its scrape a sample can be
}

var (
	failed = proportion{
		step:    "guardian_side:requests:idelta",
		badStep: "guardian_side:requests_failed:idelta",
		bad:     "guardian_canary:requests_failed:increase",
		limit:   "guardian:requests_failed:limit",
		stable:  "guardian_stable:requests_failed:ratio",
		ratio:   "guardian_side:requests_failed:ratio",
		excess:  "guardian_canary:requests_failed:per_limit",
		worse:   "guardian_canary:requests_failed:per_threshold",
		proof:   "guardian_canary:requests_failed:evidence",
		since:   "guardian_canary:requests_failed:since",
		newest:  "guardian_side:requests:newest",
		lane:    "guardian_side:requests:fast_lane",
	}
	slow = proportion{
		step:    "guardian_side:requests_timed:idelta",
		badStep: "guardian_side:requests_slow:idelta",
		bad:     "guardian_canary:requests_slow:increase",
		limit:   "guardian:requests_slow:limit",
		stable:  "guardian_stable:requests_slow:ratio",
		ratio:   "guardian_side:requests_slow:ratio",
		excess:  "guardian_canary:requests_slow:per_limit",
		worse:   "guardian_canary:requests_slow:per_threshold",
		proof:   "guardian_canary:requests_slow:evidence",
		since:   "guardian_canary:requests_slow:since",
		newest:  "guardian_side:requests_timed:newest",
		lane:    "guardian_side:requests_timed:fast_lane",
		stale:   flush,
	}
)

const (
	leastBad    = 5 // bad requests below which nothing is concluded
	enoughProof = 9 // D of the package comment
	// shrink is added to stable's requests before its share is taken, so that
	// one error among a few requests is not called an outage of stable.
	shrink = 10

	requestsTotal   = "istio_requests_total"
	durations       = "istio_request_duration_milliseconds" // a native histogram, where there is one
	durationBuckets = durations + "_bucket"
	// OpenTelemetry's list of gRPC statuses that are the server's fault:
	// https://opentelemetry.io/docs/specs/semconv/rpc/grpc/
	grpcFailures = `grpc_response_status=~"2|4|12|13|14|15"`
	httpFailures = `response_code=~"5.."`
	everyBucket  = `,le="+Inf"`
	// A connection that became a websocket is timed when it ends, after hours it may be.
	answered = `,response_code!="101"`

	labelEdge = "edge" // seconds; on sums of slow requests
)

// requestsGroup counts requests, and judges the share that failed and the share
// that the canary got.
func (b *builder) requestsGroup() {
	if len(b.Guards) == 0 {
		return
	}
	b.group("requests", b.Interval, "Error rate: whether the share of the canary's requests that fail is proven to be above the limit, and above stable's. Also counts what the traffic signal needs, and requests that nobody answered.")
	b.about("What each proxy has counted up to now: all requests, failed ones, and those that no workload answered.")
	errors := b.any(func(s Signals) bool { return s.ErrorRate != nil })
	all, unreached := b.counter("requests", b.Guards, allRequests), b.unreached()
	counted := []counter{all}
	if errors {
		counted = append(counted, b.failed()...)
	}
	counted = append(counted, unreached)
	for _, c := range counted {
		b.recordSums(c)
	}
	b.covers(counted...)
	b.laneOf(failed, all)
	b.about("Requests since the last evaluation, of each side and by who reports them. A window is the sum of these.")
	b.record(failed.step, nil, b.bySide(all, "sum", func(s series) string { return b.grown(all, s) }))
	if errors {
		b.record(failed.badStep, nil, b.besides(failed, b.failedSteps(all)))
		b.judge(failed, b.windows.all(), all, func(s series) string { return b.sum(all, s) })
		b.about("Rolls back while stable is well, and holds while stable is as bad.")
		b.errorAlerts()
	}
	if b.any(func(s Signals) bool { return s.Traffic != nil }) {
		b.about("Requests that no workload answered: whether the canary's weight explains them.")
		b.weight()
		b.refused(unreached)
	}
	b.evaluated("requests")
	b.endGroup()
}

// besides leaves out bad requests where all are not counted, because a rule has failed:
// they would be a share of none.
func (b *builder) besides(p proportion, bad string) string {
	return expand(`($bad) and on ($guard, $side, reporter) $all`, "bad", bad, "guard", keyLabels, "side", labelSide, "all", now(b.own(p.step)))
}

// What the sums of requests add up.
func allRequests(s series) string { return s.of(requestsTotal, "") }
func allTimed(s series) string    { return s.of(durationBuckets, everyBucket+answered) }

// timed are the guards whose latency is judged, and judgedAt those of them that are at
// an edge.
func (b *builder) timed() []Guard { return b.guards(func(s Signals) bool { return s.Latency != nil }) }

func (b *builder) judgedAt(edge time.Duration) []Guard {
	return b.guards(func(s Signals) bool {
		if s.Latency == nil {
			return false
		}
		at, _ := b.edge(s.Latency.Max)
		return at == edge
	})
}

// latencyGroup counts timed requests and judges the share that was too slow.
func (b *builder) latencyGroup() {
	edges := b.edges()
	b.noteEdges()
	if len(edges) == 0 {
		return
	}
	b.group("latency", b.latencyInterval(), "Latency: the same proof as for errors, of the requests that took longer than the limit.")
	b.about("What each proxy has counted up to now: all requests, slow ones, and native histograms where there are any.")
	all, bad := b.counter("requests_timed", b.timed(), allTimed), b.counter("requests_slow", b.timed(), nil)
	native := b.counter("request_durations", b.timed(), func(s series) string { return s.of(durations, answered) })
	b.recordSums(all)
	for _, e := range edges {
		b.recordSums(b.slowBeyond(e))
	}
	b.recordSums(native)
	b.covers(all, bad, native)
	b.about("Requests since the last evaluation, of each side and by who reports them.")
	b.recordNativeGrowth(native)
	b.laneOf(slow, all, native)
	b.record(slow.step, nil, classicOrNative(
		b.bySide(all, "sum", func(s series) string { return b.grown(all, s) }),
		b.bySide(native, "sum", func(s series) string { return "histogram_count(" + b.idelta(native, s) + ")" })))
	var classic, exact []string
	for _, e := range edges {
		count := b.bySide(bad, "sum", b.grownOf(bad.where(edgeIs(e)), all, ""))
		if len(edges) > 1 { // guards with different limits may have the same workload
			count = expand(`(($count) and on ($guard) ($max > $lower and $max <= $edge))`, "count", count, "guard", keyLabels,
				"max", b.own(latencyMax), "lower", num(b.edgeBelow(e).Seconds()), "edge", num(e.Seconds()))
		}
		classic = append(classic, count)
	}
	for _, limit := range b.latencyLimits() {
		exact = append(exact, b.slowExactly(native, limit))
	}
	b.record(slow.badStep, nil, b.besides(slow, classicOrNative(strings.Join(classic, " or "), strings.Join(exact, " or "))))
	b.judge(slow, b.latencyWindows().all(), all, func(s series) string { return b.sum(all, s) + " or " + b.sum(native, s) })
	b.about("Rolls back while stable is well, and holds while stable is as bad.")
	b.latencyAlerts()
	b.evaluated("latency")
	b.endGroup()
}

// noteEdges tells where a guard's latency is not judged at its limit.
func (b *builder) noteEdges() {
	for _, g := range b.Guards {
		if g.Signals.Latency == nil {
			continue
		}
		limit := g.Signals.Latency.Max
		if edge, _ := b.edge(limit); edge != limit {
			b.notes = append(b.notes, "guard "+g.Name+": latency.max "+limit.String()+
				" is no bucket edge: judged at "+edge.String()+", the next higher one (native histograms: exactly)")
		}
	}
}

// edges are the bucket edges at which some guard's latency is judged.
func (o Options) edges() []time.Duration {
	var out []time.Duration
	for _, limit := range o.latencyLimits() {
		if edge, _ := o.edge(limit); !slices.Contains(out, edge) {
			out = append(out, edge)
		}
	}
	return out
}

// edgeIs selects the counts of slow requests beyond one edge.
func edgeIs(edge time.Duration) string { return labelEdge + "=" + strconv.Quote(num(edge.Seconds())) }

// slowBeyond is the counter of the guards whose slow requests are judged at an edge.
func (b *builder) slowBeyond(edge time.Duration) counter {
	c := b.counter("requests_slow", b.judgedAt(edge), func(s series) string {
		return s.of(durationBuckets, `,le=~"`+escape(bucketValue(edge))+`"`+answered)
	})
	c.edge = edge
	return c
}

// classicOrNative prefers the classic histogram where both are scraped.
func classicOrNative(classic, native string) string {
	return expand(`($classic) or on ($guard, $side, reporter) ($native)`,
		"classic", classic, "native", native, "guard", keyLabels, "side", labelSide)
}

// latencyLimits are the limits of all guards, each once.
func (o Options) latencyLimits() []time.Duration {
	var out []time.Duration
	for _, g := range o.Guards {
		if l := g.Signals.Latency; l != nil && !slices.Contains(out, l.Max) {
			out = append(out, l.Max)
		}
	}
	slices.Sort(out)
	return out
}

// slowExactly counts the slow requests of native histograms, at the limit itself.
func (b *builder) slowExactly(native counter, limit time.Duration) string {
	count := b.bySide(native, "sum", func(s series) string {
		// Of no requests the fraction is NaN, which no comparison lets through.
		return expand(`(((1 - histogram_fraction(-Inf, $limit, $delta)) * histogram_count($delta)) >= 0 or histogram_count($delta) * 0)`,
			"limit", num(float64(limit)/float64(time.Millisecond)), "delta", b.idelta(native, s))
	})
	return expand(`(($count) and on ($guard) ($max == $limit))`,
		"count", count, "guard", keyLabels, "max", b.own(latencyMax), "limit", num(limit.Seconds()))
}

// bucketValue is a regular expression for an edge as the label le has it:
// Envoy writes 500, Prometheus 3 stores 500.0.
func bucketValue(edge time.Duration) string {
	return regexp.QuoteMeta(num(float64(edge)/float64(time.Millisecond))) + `(\.0)?`
}

func (b *builder) edgeBelow(edge time.Duration) time.Duration {
	i, _ := slices.BinarySearch(b.LatencyBuckets, edge)
	if i == 0 {
		return 0
	}
	return b.LatencyBuckets[i-1]
}

// judge tests the canary's share of bad requests in all windows at once, also
// while its proxies are gone: were the alert to end with a build's last pod, it
// would begin anew with the next build's first request, and be held against that.
// all counts all requests, and sums is what has been counted up to now.
func (b *builder) judge(p proportion, windows []time.Duration, all counter, sums func(series) string) {
	vars := []string{
		"bad_canary", b.own(p.bad), "limit", b.own(p.limit), "factor", b.own(stableFactor), "guard", keyLabels, "side", labelSide,
		"stable", b.own(p.stable), "excess", b.own(p.excess), "worse", b.own(p.worse), "proof", b.own(p.proof),
		"since", b.own(p.since), "newest_canary", b.own(p.newest, labelSide+`="canary"`),
		"memory", dur(max(15*time.Second, 3*b.ScrapeInterval)), "enough", num(enoughProof),
	}
	rule := func(name, text string) { b.record(name, nil, expand(text, vars...)) }

	b.shares(p, windows)
	b.about("The proof, by Chernoff's bound: how unlikely so many bad requests are while the true share is at the limit, or at " + num(b.StableFactor) + " times stable's share where that is above it. " + num(enoughProof) + " is enough.")
	rule(p.worse, `($excess / (
		(max_over_time($stable[$memory]) / on ($guard) group_left () $limit) * on ($guard) group_left () $factor)) or $excess`)
	rule(p.proof, evidence("$bad_canary", "$worse")+` > $enough`)
	b.about("While there is proof: when each side was scraped last, and when the canary was as it came. Stable has to be scraped after that before the canary is rolled back.")
	b.recordProven(all, b.own(p.proof), sums)
	b.record(p.newest, nil, b.bySide(all.onlyProven(), "max", b.scraped(all)))
	rule(p.since, `($since and on ($guard, reporter) $proof) or sum without ($side) ($newest_canary)`)
}

// shares records each side's share of bad requests within each window, where it is
// beyond the limit.
func (b *builder) shares(p proportion, windows []time.Duration) {
	stable, canary := labelSide+`="stable"`, labelSide+`="canary"`
	vars := []string{
		"limit", b.own(p.limit), "guard", keyLabels, "side", labelSide, "shrink", num(shrink), "least", num(leastBad), "lowest", num(b.lowestLimit(p)),
		"bad_canary", b.own(p.bad),
	}
	in := func(text string) string {
		return "(" + eachWindow(windows, func(w time.Duration) string {
			return expand(text, append([]string{
				"stable_bad", b.during(p.badStep, w, stable), "stable_all", b.during(p.step, w, stable),
				"canary_bad", b.during(p.badStep, w, canary), "canary_all", b.during(p.step, w, canary),
				"enough", b.own(p.bad, "window="+strconv.Quote(dur(w))),
			}, vars...)...)
		}) + ")"
	}
	rule := func(name, text string) { b.record(name, nil, expand(text, vars...)) }

	b.about("Within each window: stable's share of bad requests where it is above the limit, the canary's bad requests where there are " + num(leastBad) + " or more, and how many times the limit its share is.")
	// Nearly all are below the lowest limit, and need not be joined with their own.
	rule(p.stable, in(`sum without ($side) ($stable_bad / ($stable_all + $shrink)) > $lowest`)+` > on ($guard) group_left () $limit`)
	rule(p.bad, in(`sum without ($side) ($canary_bad) >= $least`))
	rule(p.excess, `$bad_canary / `+in(`sum without ($side) ($canary_all) and on ($guard, reporter) $enough`)+` / on ($guard) group_left () $limit > 1`)
}

// eachWindow writes an expression for each window, and labels what it gives.
func eachWindow(windows []time.Duration, expr func(time.Duration) string) string {
	var terms []string
	for _, w := range windows {
		terms = append(terms, expand(`label_replace($expr, "window", "$w", "", "")`, "expr", expr(w), "w", dur(w)))
	}
	return strings.Join(terms, " or ")
}

// lowestLimit is that of the guards whose limit of a proportion is the lowest.
func (b *builder) lowestLimit(p proportion) float64 {
	lowest := 1.0
	for _, g := range b.Guards {
		switch {
		case p == failed && g.Signals.ErrorRate != nil:
			lowest = min(lowest, g.Signals.ErrorRate.Max)
		case p == slow && g.Signals.Latency != nil:
			lowest = min(lowest, 1-g.Signals.Latency.Quantile)
		}
	}
	return lowest
}

// evidence is D of the package comment for bad requests that are times their
// limit, written so that the number of all requests is not needed again.
func evidence(bad, times string) string {
	return strings.NewReplacer("BAD", bad, "TIMES", times).Replace(
		`BAD * (ln(TIMES > 1) - 1 + 1 / TIMES)`)
}

// convicted is the canary's share of bad requests, per guard, where the
// evidence suffices and stable has been scraped since. The canary's own proxy and
// stable's may be behind by different times; callers' proxies tell of both at once.
func (b *builder) convicted(p proportion) string {
	since := b.own(p.since)
	if p.stale > 0 {
		since = expand(`($own + $stale or $since)`, "own", b.own(p.since, `reporter="destination"`), "stale", num(p.stale.Seconds()), "since", since)
	}
	return expand(`max by (namespace, guardian_guard) (
		($excess * on ($guard) group_left () $limit and $proof)
		unless on ($guard, reporter) ($told > on ($guard, reporter) $newest and on ($guard) $factor))`,
		append(b.judgeVars(p), "told", since)...)
}

// suspected is the canary's share of bad requests, per guard, where it is
// beyond the limit, but no worse than stable.
func (b *builder) suspected(p proportion) string {
	return b.beyond(p) + expand(` unless on (namespace, guardian_guard) $proof`, b.judgeVars(p)...)
}

// beyond is the canary's share of bad requests, per guard, where it is beyond the
// limit, whatever stable's is.
func (b *builder) beyond(p proportion) string {
	return expand(`max by (namespace, guardian_guard) (
		$excess * on ($guard) group_left () $limit and (`+evidence("$bad_canary", "$excess")+` > $enough))`,
		b.judgeVars(p)...)
}

func (b *builder) judgeVars(p proportion) []string {
	return []string{
		"excess", b.own(p.excess), "limit", b.own(p.limit), "proof", b.own(p.proof), "since", b.own(p.since),
		"newest", b.own(p.newest, labelSide+`="stable"`), "factor", b.own(stableFactor), "guard", keyLabels,
		"bad_canary", b.own(p.bad), "enough", num(enoughProof),
	}
}

func (b *builder) errorAlerts() {
	bad := percent + " of the requests to the canary of " + guardLabel + " in " + namespaceLabel + " fail (limit " +
		lookup(failed.limit, "value | humanizePercentage") + ")"
	canary := guardLabel + ": " + percent + " of the canary's requests fail"
	b.shareAlerts(failed, AlertErrorRate, SignalErrorRate, canary, bad, " fail: a shared dependency is likely, and a rollback would not help.")
}

func (b *builder) latencyAlerts() {
	bad := percent + " of the requests to the canary of " + guardLabel + " in " + namespaceLabel + " take longer than " +
		lookup(latencyMax, "value | humanizeDuration") + " (limit " + lookup(slow.limit, "value | humanizePercentage") + " of them)"
	canary := guardLabel + ": " + percent + " of the canary's requests are too slow"
	b.shareAlerts(slow, AlertLatency, SignalLatency, canary, bad, " do.")
}

// shareAlerts are the alerts of a share of bad requests; canary and bad say it of the
// canary, and stables what as many of stable's do.
func (b *builder) shareAlerts(p proportion, name string, signal Signal, canary, bad, stables string) {
	b.verdict(verdict{
		name: name, signal: signal,
		expr: b.convicted(p), held: b.suspected(p), beyond: b.beyond(p),
		says:     says{canary, bad + ", since " + lookup(p.since, "value | humanizeTimestamp") + "; stable is not as bad."},
		heldSays: says{canary + ", and stable's too", bad + ", but it is not proven worse than stable, where " + stableShare(p) + stables},
		soft:     says{canary, bad + withStable(p) + "; of stable's {{ . | first | value | humanizePercentage }}{{ end }}."},
	})
}

// stableShare tells stable's share over about a minute, by the reporter that
// comes first; withStable opens a block about it, which is left out where there is none.
func stableShare(p proportion) string {
	return withStable(p) + "{{ . | first | value | humanizePercentage }}{{ end }}"
}

func withStable(p proportion) string {
	// A raw string of the template cannot hold backquotes.
	return strings.ReplaceAll(withSeries(p.ratio, labelSide+"=`stable`"), "=`stable`", `="stable"`)
}
