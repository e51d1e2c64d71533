package rules

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// proportion is a share of bad requests that one test judges. The names are of
// recorded series; all of them carry keyLabels, and all but limit and since a
// window.
type proportion struct {
	all    string        // requests counted, by guardian_side and reporter
	bad    string        // the bad ones among them, likewise
	limit  string        // share of bad ones that is allowed
	stable string        // share at stable, while it has any bad ones
	excess string        // canary's share relative to the limit, with 5 bad ones or more
	worse  string        // the same, relative to stable's share where that is beyond the limit
	proof  string        // strength of the evidence, while it suffices
	since  string        // when the canary's samples were taken that sufficed first
	newest string        // when each side was scraped last, while there is proof
	lane   string        // 1 for each side that the fast lane scrapes; only with Options.FastLane
	stale  time.Duration // how much older than its scrape a sample can be
}

var (
	failed = proportion{
		all:    "guardian_side:requests:increase",
		bad:    "guardian_side:requests_failed:increase",
		limit:  "guardian:requests_failed:limit",
		stable: "guardian_stable:requests_failed:ratio",
		excess: "guardian_canary:requests_failed:per_limit",
		worse:  "guardian_canary:requests_failed:per_bar",
		proof:  "guardian_canary:requests_failed:evidence",
		since:  "guardian_canary:requests_failed:since",
		newest: "guardian_side:requests:newest",
		lane:   "guardian_side:requests:fast_lane",
	}
	slow = proportion{
		all:    "guardian_side:requests_timed:increase",
		bad:    "guardian_side:requests_slow:increase",
		limit:  "guardian:requests_slow:limit",
		stable: "guardian_stable:requests_slow:ratio",
		excess: "guardian_canary:requests_slow:per_limit",
		worse:  "guardian_canary:requests_slow:per_bar",
		proof:  "guardian_canary:requests_slow:evidence",
		since:  "guardian_canary:requests_slow:since",
		newest: "guardian_side:requests_timed:newest",
		lane:   "guardian_side:requests_timed:fast_lane",
		stale:  flush,
	}
)

const (
	// flush is how often Envoy brings its histograms up to date (stats_flush_interval);
	// its counters always are.
	flush = 5 * time.Second

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

	countTimed     = "requests_timed"    // what count records of classic histograms, by le
	countDurations = "request_durations" // and of native ones
)

// delta counts what the series of a selector have grown within a window; a
// series that is younger counts in full, if its target was being scraped then.
func (b *builder) delta(selector string, window time.Duration) string {
	return expand(`(($x - $x offset $w >= 0) or ($x and on ($target) (up offset $w == 1)))`,
		"x", selector, "w", dur(window), "target", strings.Join(b.TargetLabels, ", "))
}

// join is one way to find out whose requests a series counts.
type join struct {
	level    string // begins the names of what is recorded by key
	key      string // labels of the proxies' series that name the version
	info     string // recorded metric that maps them to guards
	matchers string // selects the guarded ones among the proxies' series
}

// joins returns the ways that the guards need: by workload, by version, or both.
func (b *builder) joins(l lane) []join {
	workloads, services, versions := b.sides()
	var out []join
	if len(workloads) > 0 {
		out = append(out, join{"guardian_workload", workloadKey, workloadReporterInfo,
			l.matchers("destination_workload", workloads) + b.inNamespaces("destination_workload_namespace")})
	}
	if len(services) > 0 {
		out = append(out, join{"guardian_version", versionKey, versionReporterInfo,
			l.matchers("destination_service_name", services, "destination_version", versions) +
				b.inNamespaces("destination_service_namespace")})
	}
	return out
}

// matchers selects proxies' series by the values of labels, given in pairs.
func (l lane) matchers(labelsAndValues ...any) string {
	var out []string
	if l.proxies != "" {
		out = append(out, strings.Trim(l.proxies, ", "))
	}
	for i := 0; i < len(labelsAndValues); i += 2 {
		out = append(out, labelsAndValues[i].(string)+"=~"+strconv.Quote(alternatives(labelsAndValues[i+1].([]string))))
	}
	return strings.Join(out, ",")
}

func (b *builder) inNamespaces(label string) string {
	return "," + label + "=~" + strconv.Quote(alternatives(b.namespaces()))
}

// series selects proxies' series of the guarded versions.
type series struct {
	lane
	level    string
	key      string // labels that name the version
	matchers string
}

// of is a selector of a metric's series; more begins with a comma or is empty.
func (s series) of(metric, more string) string {
	return s.prefix + metric + "{" + s.matchers + more + "}"
}

// counted is the name under which count records.
func (s series) counted(what string) string { return s.level + ":" + s.prefix + what + ":increase" }

// count records what the proxies' series of the guarded versions have grown
// within a window, by version and reporter and further labels: so they are read
// once, whatever is asked of them then.
func (b *builder) count(what string, window time.Duration, further string, grown func(series) string) {
	lanes := []lane{b.ordinary()}
	if b.FastLane > 0 {
		lanes = append(lanes, b.fast())
	}
	for _, l := range lanes {
		for _, j := range b.joins(l) {
			s := series{l, j.level, j.key, j.matchers}
			b.record(s.counted(what), map[string]string{"window": dur(window), LabelInstance: b.Name, LabelOwner: b.Namespace},
				expand(`sum by ($key, reporter$further) ($grown)`, "key", j.key, "further", further, "grown", grown(s)))
		}
	}
}

// counted selects what count has recorded; more begins with a comma or is empty.
func (b *builder) counted(s series, what string, window time.Duration, more string) string {
	return fmt.Sprintf(`%s{%s=%q,%s=%q,window="%s"%s}`, s.counted(what), LabelInstance, b.Name, LabelOwner, b.Namespace, dur(window), more)
}

// bySide sums an expression over proxies' series per guard, side and reporter.
// term writes the expression for some series; aggregation is sum, max or group.
func (b *builder) bySide(aggregation string, term func(series) string) string {
	all := b.bySideOf(b.ordinary(), aggregation, term)
	if b.FastLane == 0 {
		return all
	}
	return expand(`($fast) or (($all) unless on ($guard, $side, reporter) $lane)`,
		"fast", b.bySideOf(b.fast(), aggregation, term), "all", all, "guard", keyLabels, "side", labelSide, "lane", b.own(b.lane))
}

// bySideOf is bySide for one lane alone.
func (b *builder) bySideOf(l lane, aggregation string, term func(series) string) string {
	var terms []string
	for _, j := range b.joins(l) {
		terms = append(terms, expand(`$agg by ($guard, $side, reporter) (
			($agg by ($key, reporter) ($term)) * on ($key, reporter) group_right () $info)`,
			"agg", aggregation, "guard", keyLabels, "side", labelSide, "key", j.key, "term", term(series{l, j.level, j.key, j.matchers}), "info", b.own(j.info)))
	}
	return strings.Join(terms, " or ")
}

// requestsGroup counts requests, and judges the share that failed and the share
// that the canary got.
func (b *builder) requestsGroup() {
	b.group("requests", b.Interval)
	if len(b.Guards) > 0 {
		b.laneOf(failed, func(s series) string { return s.of(requestsTotal, "") })
		for _, w := range b.windows.raw() {
			b.count("requests", w, ", response_code, grpc_response_status", func(s series) string { return b.delta(s.of(requestsTotal, ""), w) })
			b.window(failed.all, w, b.bySide("sum", func(s series) string { return b.counted(s, "requests", w, "") }))
		}
		b.tiles(failed.all)
	}
	if b.any(func(s Signals) bool { return s.ErrorRate != nil }) {
		for _, w := range b.windows.raw() {
			bad := b.bySide("sum", func(s series) string {
				return b.counted(s, "requests", w, ","+httpFailures) + " or " +
					b.counted(s, "requests", w, `,response_code!~"5..",`+grpcFailures)
			})
			b.window(failed.bad, w, b.orZero(bad, failed.all, w))
		}
		b.tiles(failed.bad)
		b.judge(failed, func(s series) string { return "timestamp(" + s.of(requestsTotal, "") + ")" })
		b.errorAlerts()
	}
	b.traffic()
	b.endGroup()
}

// latencyGroup counts timed requests and judges the share that was too slow.
func (b *builder) latencyGroup() {
	b.group("latency", b.Interval)
	edges := b.edges()
	b.noteEdges()
	if len(edges) > 0 {
		les := []string{`\+Inf`}
		for _, e := range edges {
			les = append(les, bucketValue(e))
		}
		buckets := `,le=~"` + escape(strings.Join(les, "|")) + `"`
		b.laneOf(slow, func(s series) string { return s.of(durationBuckets, everyBucket) + " or " + s.of(durations, "") })
		for _, w := range b.windows.raw() {
			b.count(countTimed, w, ", le", func(s series) string { return b.delta(s.of(durationBuckets, buckets), w) })
			b.count(countDurations, w, "", func(s series) string { return b.nativeDelta(s.of(durations, ""), w) })
			b.window(slow.all, w, b.classicOrNative(
				b.bySide("sum", func(s series) string { return b.counted(s, countTimed, w, everyBucket) }),
				b.bySide("sum", func(s series) string { return "histogram_count(" + b.counted(s, countDurations, w, "") + ")" })))
			var terms []string
			for _, e := range edges {
				terms = append(terms, b.slowBeyond(e, w))
			}
			var exact []string
			for _, limit := range b.latencyLimits() {
				exact = append(exact, b.slowBeyondExactly(limit, w))
			}
			b.window(slow.bad, w, b.classicOrNative(strings.Join(terms, " or "), strings.Join(exact, " or ")))
		}
		b.tiles(slow.all)
		b.tiles(slow.bad)
		b.judge(slow, func(s series) string {
			// timestamp() tells when a sample was taken of a selector only.
			return "timestamp(" + s.of(durationBuckets, everyBucket) + ") or timestamp(" + s.of(durations, "") + ")"
		})
		b.latencyAlerts()
	}
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

// slowBeyond counts the requests slower than an edge, for the guards that are
// judged there: all requests minus those at or below it. Without a series for
// the edge there is no answer, rather than "all were slow".
func (b *builder) slowBeyond(edge, window time.Duration) string {
	le := `,le=~"` + escape(bucketValue(edge)) + `"`
	fast := b.bySide("sum", func(s series) string { return b.counted(s, countTimed, window, le) })
	return expand(`($all - on ($guard, $side, reporter) group_left () ($fast)) and on ($guard) ($max > $lower and $max <= $edge)`,
		"all", b.own(slow.all, `window="`+dur(window)+`"`), "guard", keyLabels, "side", labelSide, "fast", fast,
		"max", b.own(latencyMax), "lower", num(b.edgeBelow(edge).Seconds()), "edge", num(edge.Seconds()))
}

// classicOrNative prefers the classic histogram where both are scraped.
func (b *builder) classicOrNative(classic, native string) string {
	return expand(`($classic) or on ($guard, $side, reporter) ($native)`,
		"classic", classic, "native", native, "guard", keyLabels, "side", labelSide)
}

// nativeDelta is delta for native histograms.
func (b *builder) nativeDelta(selector string, window time.Duration) string {
	return expand(`((($x - $x offset $w) and histogram_count($x) >= histogram_count($x offset $w)) or ($x and on ($target) (up offset $w == 1)))`,
		"x", selector, "w", dur(window), "target", strings.Join(b.TargetLabels, ", "))
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

// slowBeyondExactly is slowBeyond for native histograms, at the limit itself.
func (b *builder) slowBeyondExactly(limit, window time.Duration) string {
	slowOnes := b.bySide("sum", func(s series) string {
		// Of no requests the fraction is NaN, which no comparison lets through.
		return expand(`(((1 - histogram_fraction(-Inf, $limit, $delta)) * histogram_count($delta)) >= 0 or histogram_count($delta) * 0)`,
			"limit", num(float64(limit)/float64(time.Millisecond)), "delta", b.counted(s, countDurations, window, ""))
	})
	return expand(`($slow) and on ($guard) ($max == $limit)`,
		"slow", slowOnes, "guard", keyLabels, "max", b.own(latencyMax), "limit", num(limit.Seconds()))
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

// window records a count over a window.
func (b *builder) window(name string, w time.Duration, expr string) {
	b.record(name, map[string]string{"window": dur(w)}, expr)
}

// orZero fills in 0 where requests were counted but none of the kind.
func (b *builder) orZero(expr, all string, w time.Duration) string {
	return expand(`($expr) or on ($guard, $side, reporter) ($all * 0)`,
		"expr", expr, "guard", keyLabels, "side", labelSide, "all", b.own(all, `window="`+dur(w)+`"`))
}

// tiles records the longer windows as sums of shorter ones. A tile from before
// the first request counts nothing.
func (b *builder) tiles(name string) {
	for _, t := range b.windows.tiled() {
		b.tile(name, t)
	}
}

func (b *builder) tile(name string, t tile) {
	x := b.own(name, `window="`+dur(t.of)+`"`)
	sum := x
	for i := 1; i < t.n; i++ {
		sum += expand(` + ($x offset $w or $x * 0)`, "x", x, "w", dur(time.Duration(i)*t.of))
	}
	b.window(name, t.window, sum)
}

// any reports whether some guard has a signal on.
func (b *builder) any(on func(Signals) bool) bool {
	return slices.ContainsFunc(b.Guards, func(g Guard) bool { return on(g.Signals) })
}

// judge tests the canary's share of bad requests in all windows at once.
// scraped writes the times at which the samples of a version were taken.
func (b *builder) judge(p proportion, scraped func(series) string) {
	vars := []string{
		"bad_canary", b.own(p.bad, labelSide+`="canary"`), "all_canary", b.own(p.all, labelSide+`="canary"`),
		"bad_stable", b.own(p.bad, labelSide+`="stable"`), "all_stable", b.own(p.all, labelSide+`="stable"`),
		"limit", b.own(p.limit), "factor", b.own(stableFactor), "guard", keyLabels, "side", labelSide,
		"stable", b.own(p.stable), "excess", b.own(p.excess), "worse", b.own(p.worse), "proof", b.own(p.proof),
		"since", b.own(p.since), "newest_canary", b.own(p.newest, labelSide+`="canary"`),
		"memory", dur(max(15*time.Second, 3*b.ScrapeInterval)), "shrink", num(shrink), "least", num(leastBad), "enough", num(enoughProof),
	}
	rule := func(name, text string) { b.record(name, nil, expand(text, vars...)) }

	rule(p.stable, `sum without ($side) (($bad_stable > 0) / ($all_stable + $shrink))`)
	rule(p.excess, `sum without ($side) (($bad_canary >= $least) / $all_canary) / on ($guard) group_left () $limit > 1`)
	rule(p.worse, `($excess / (
		(max_over_time($stable[$memory]) / on ($guard) group_left () $limit > 1) * on ($guard) group_left () $factor)) or $excess`)
	rule(p.proof, evidence("$bad_canary", "$worse")+` > $enough`)
	b.record(p.newest, nil, expand(`($newest) and on ($guard, reporter) $proof`,
		"newest", b.bySide("max", scraped),
		"guard", keyLabels, "proof", b.own(p.proof)))
	rule(p.since, `($since and on ($guard, reporter) $proof) or sum without ($side) ($newest_canary)`)
}

// evidence is D of the package comment for bad requests that are times their
// limit, written so that the number of all requests is not needed again.
func evidence(bad, times string) string {
	return strings.NewReplacer("BAD", bad, "TIMES", times).Replace(
		`sum without ($side) (BAD) * (ln(TIMES > 1) - 1 + 1 / TIMES)`)
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
	return expand(`max by (namespace, guardian_guard) (
		$excess * on ($guard) group_left () $limit and (`+evidence("$bad_canary", "$excess")+` > $enough))
		unless on (namespace, guardian_guard) $proof`,
		b.judgeVars(p)...)
}

func (b *builder) judgeVars(p proportion) []string {
	return []string{
		"excess", b.own(p.excess), "limit", b.own(p.limit), "proof", b.own(p.proof), "since", b.own(p.since),
		"newest", b.own(p.newest, labelSide+`="stable"`), "factor", b.own(stableFactor), "guard", keyLabels,
		"bad_canary", b.own(p.bad, labelSide+`="canary"`), "side", labelSide, "enough", num(enoughProof),
	}
}
