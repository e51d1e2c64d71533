package rules

import (
	"math"
	"strings"
	"time"
)

// The comparison finds a canary that is worse than stable though no limit is exceeded:
// shares of failed and of slow requests, of both versions at the same time.
//
// # The test
//
// Time is cut into blocks, as long as the shortest window that holds as many scrapes of
// each proxy. Of a block's k bad requests kc are the canary's, by nc and ns requests of
// both. While the canary's share of bad requests is at most
//
//	ratio times stable's + min
//
// kc is at most p0*k on average, with p0 = ratio*nc / (ratio*nc + ns), where stable is given
// min/ratio*ns bad requests more (k has them). Whatever the load and the shares of bad
// requests do in time, by day or in an outage of both, p0 follows from the block alone.
// Against a canary that is T times worse than that, one bets
//
//	1 + (T-1) / (1 + (T-1)*p0) * (kc - p0*k) / K
//
// where K is what the usual bad request of the last 20 minutes had for company in its
// block (the mean of k² by that of k: comparisonScale), or k and 1, if those are more. That is never negative, and
// while the canary is within what is allowed it has a mean of at most 1 in either case: by a K that is known before the block,
// since kc is p0*k at most on average; by its own k, as long as it does not depend on whose they are how many come. Where it does,
// and K is sometimes the one and sometimes the other, it may have more: see below.
//
// K makes a block one bet at most, however many bad requests it has: failures may come many at a time (retries, a connection with
// many requests on it), and were they counted each for itself, as independent, ten that are one
// would prove as much as ten. With a single one in each block the bet is the ratio of likelihoods.
// How many come does depend on it where a dependency stalls now and then and the canary's pods are scraped during the stall and stable's after it, or where the
// canary's pods have less load each and fail as often, each for itself: by its own k a block in which a few fail at the
// canary would weigh as much as one in which many fail at stable. By one K what the canary's few
// win is less than what stable's many lose.
//
// That holds while stable's are among the last 20 minutes'. More than K are the first of such stalls, load that rises, and bursts of stable's
// of which the one before is older: what the canary has won by the K of its own small bursts is not made good by them, since
// one block loses no more than one bet, and evidence does not go below 0. So where the canary's bursts are small and come often, and stable's are large and rarer
// than comparisonScale, versions that are alike are told apart: test/judge has such pods. An hour in place of 20 minutes would
// be wrong a seventh as often, and finds less for as long after an outage: docs/simulation.md has both.
//
// The price: an outage of both, in which very many fail, makes each block after it a small bet for 20 minutes, that of the build before
// this one too; and where both fail in bursts more often than that, all blocks are small bets for good.
//
// The sum S of the bets' logarithms over any blocks exceeds ln(1/alpha) with a chance of at most alpha at
// whatever time one looks, by Ville's inequality: no error is spent by looking, as it is by a test of
// fixed size that is looked at again and again. A sum that has become negative begins anew at 0, so that it is
// the largest of all windows that end now, and the window in which the canary is worse need
// not be known: it grows with the canary's time. What is spent on the windows' beginnings is
// known from Lorden: at the limit itself it takes a sum at least exp(comparisonProof) blocks
// on average until it is wrong. Versions that are alike are far below; test/judge counts those.
// Three T are summed up beside each other, each best near its own.
//
// A block adds at most comparisonMost, which only lowers the sum: so many are needed
// that the first outage that one version's proxies are scraped before and the other's after, or
// some bad seconds of one version, prove nothing. Evidence is halved each hour (lower still), and is at most
// comparisonTop: an alert ends soon after the canary is as good as stable. So what is not
// proven within an hour or two never is.
//
// # What is forgotten, and what is not
//
// The comparison begins anew, with a warm-up and without evidence, when the canary has had no request
// for a while (comparisonIdle), and when guardian tells that the rollout of a new build has ended
// (comparisonBuild): what was gathered against one build says nothing of the next. Until then both answer, and
// one that cannot come takes nothing back. How many failures come at a time is not forgotten. An evaluation that
// Prometheus misses is no evaluation without requests, so that evidence outlasts a
// Prometheus that is away for comparisonBridge or less.
//
// # Sources
//
// G. Shafer, Testing by Betting, J. R. Statist. Soc. A 184 (2021); I. Waudby-Smith, A. Ramdas, Estimating Means of
// Bounded Random Variables by Betting, J. R. Statist. Soc. B 86 (2024); M. Lindon, A. Malek, Anytime-Valid Inference for
// Multinomial Count Data, NeurIPS 2022 (canaries by Poisson counts of time-varying rates); E. S. Page, Continuous Inspection
// Schemes, Biometrika 41 (1954); G. Lorden, Procedures for Reacting to a Change in
// Distribution, Ann. Math. Statist. 42 (1971); J. Shin, A. Ramdas, A. Rinaldo, E-detectors, NEJSDS 2 (2024).
const (
	comparisonProof = enoughProof             // evidence that is proof
	comparisonMost  = comparisonProof / 6.0   // that one block adds at most: seven are needed
	comparisonTop   = comparisonProof * 4 / 3 // that is kept at most
	comparisonHalf  = time.Hour               // in which evidence is halved

	comparisonScale = 20 * time.Minute // whose blocks tell how many bad requests come at a time; of bursts that are rarer nobody knows

	comparisonIdle   = 4                // evaluations without a request of the canary's within a minute, after which all begins anew
	comparisonBridge = 10 * time.Minute // for which Prometheus may be away and nothing is forgotten
)

// comparisonTimes are the alternatives, each as many times worse than the limit.
var comparisonTimes = []float64{2, 5, 100}

const (
	comparisonRatio  = "guardian:comparison:ratio"
	comparisonMin    = "guardian:comparison:min_per_ratio"
	comparisonWarmup = "guardian:comparison:warmup"       // seconds
	comparisonTicks  = "guardian:comparison:evaluations"  // so far, by one number for all guards
	comparisonSeen   = "guardian_canary:comparison:seen"  // which of them the canary had requests at last
	comparisonBegan  = "guardian_canary:comparison:began" // Unix seconds: the canary's requests or its build, for as long as it has requests

	comparisonBuild = "guardian_canary_build_timestamp_seconds" // guardian's own: since when the canary's build alone answers
)

// compared is a share of bad requests that is compared; the names are of recorded series by
// reporter, of the last block.
type compared struct {
	proportion
	share string // of the bad requests that the canary may have: p0
	both  string // bad requests of both, and those that stable is given
	mine  string // the canary's of them
	above string // how many more those are than p0 allows, by how many come at a time
	worse string // evidence
	on    func(Signals) bool
	are   string // of bad requests
}

var comparedShares = []compared{
	{failed, "guardian_canary:requests:allowed_share", "guardian:requests_failed:compared", "guardian_canary:requests_failed:compared", "guardian_canary:requests_failed:above_allowed",
		"guardian_canary:requests_failed:worse", func(s Signals) bool { return s.ErrorRate != nil }, "fail"},
	{slow, "guardian_canary:requests_timed:allowed_share", "guardian:requests_slow:compared", "guardian_canary:requests_slow:compared", "guardian_canary:requests_slow:above_allowed",
		"guardian_canary:requests_slow:worse", func(s Signals) bool { return s.Latency != nil }, "are too slow"},
}

// comparisonLimits records what the comparison allows.
func (b *builder) comparisonLimits() {
	of := func(name string, value func(Comparison) float64) {
		b.limit(name, "", func(g Guard) (float64, bool) {
			return value(val(g.Signals.Comparison)), g.Signals.Comparison != nil
		})
	}
	of(comparisonRatio, func(c Comparison) float64 { return c.Ratio })
	of(comparisonMin, func(c Comparison) float64 { return c.Min / c.Ratio })
	of(comparisonWarmup, func(c Comparison) float64 { return c.Warmup.Seconds() })
}

// comparisonBlock is how long a block is, and how often it is judged.
func (o Options) comparisonBlock() time.Duration { return o.windows().base }

// comparisonLasts is how long evidence may outlive its cause.
func comparisonLasts() time.Duration {
	return (time.Duration(float64(comparisonHalf) * math.Log2(float64(comparisonTop)/comparisonProof))).Round(time.Second)
}

// comparisonGroup compares the canary with stable.
func (b *builder) comparisonGroup() {
	if !b.any(func(s Signals) bool { return s.Comparison != nil }) {
		return
	}
	block := b.comparisonBlock()
	b.group("comparison", block, "Comparison: whether a larger share of the canary's requests fails, or is too slow, than of stable's at the same time, though no limit is exceeded.")
	b.comparisonBegins(block)
	for _, c := range comparedShares {
		b.compare(c, block)
	}
	b.comparisonAlert()
	b.evaluated("comparison")
	b.endGroup()
}

// comparisonBegins records since when the canary is compared. A build is new if the rollout of it has
// ended since, by guardian's clock against Prometheus's: one that is ahead makes the
// warm-up longer by as much, and one that is behind hides only a build that is newer than the
// canary's first request by less than that. One that is told later than Prometheus may be away for is none:
// most of what would be forgotten was gathered against that very build.
func (b *builder) comparisonBegins(block time.Duration) {
	bridge := max(comparisonBridge, comparisonIdle*block)
	vars := []string{
		"guard", keyLabels, "bridge", dur(bridge), "late", num(bridge.Seconds()), "idle", num(comparisonIdle), "ticks", b.own(comparisonTicks), "seen", b.own(comparisonSeen),
		"was", "min by (" + keyLabels + ") (last_over_time(" + b.own(comparisonBegan) + "[" + dur(bridge) + "]))", "ratio", b.own(comparisonRatio), "build", comparisonBuild + "{" + b.selfOfGuards() + "}",
		"info", b.own(subsetInfo, labelSide+`="canary"`), "requests", b.settled(failed.step, b.windows.short(), labelSide+`="canary"`),
	}
	rule := func(name string, labels map[string]string, text string) {
		b.record(name, labels, expand(text, vars...))
	}
	b.about("How many evaluations there were, but for those that Prometheus missed, and at which the canary had requests last.")
	rule(comparisonTicks, b.owned(), `last_over_time($ticks[$bridge]) + 1 or on () vector(1)`)
	rule(comparisonSeen, nil, `(sum by ($guard) ($requests and on ($guard) $ratio) > 0) * 0 + on () group_left () last_over_time($ticks[1ms])`)
	b.about("Since when the canary is compared. After some evaluations without requests, and with a new build, it begins anew.")
	rule(comparisonBegan, nil, `(($was and on ($guard) (last_over_time($seen[$bridge] offset 1ms) >= on () group_left () (last_over_time($ticks[1ms]) - $idle)))
		unless on ($guard) ($was < on ($guard) (max by ($guard) (max by (guard) ($build) * on (guard) group_right () $info) > time() - $late)))
		or sum by ($guard) (last_over_time($seen[1ms])) * 0 + time()`)
}

// settled is during as of an evaluation before: the group that counts may be under way.
func (b *builder) settled(step string, window time.Duration, matchers ...string) string {
	ago := b.Interval
	if step == slow.step || step == slow.badStep {
		ago = b.latencyInterval()
	}
	return "sum_over_time(" + b.own(step, matchers...) + "[" + dur(window) + "] offset " + dur(ago) + ")"
}

// compare records the evidence of one share of bad requests.
func (b *builder) compare(c compared, block time.Duration) {
	if !b.any(func(s Signals) bool { return s.Comparison != nil && c.on(s) }) {
		return
	}
	canary, stable := labelSide+`="canary"`, labelSide+`="stable"`
	count := func(step, side string) string {
		return expand(`sum by ($guard, reporter) ($step)`, "guard", keyLabels, "step", b.settled(step, block, side))
	}
	vars := []string{
		"canary_all", "(" + count(c.step, canary) + ")", "stable_all", "(" + count(c.step, stable) + ")",
		"canary_bad", "(" + count(c.badStep, canary) + ")", "stable_bad", "(" + count(c.badStep, stable) + ")",
		"guard", keyLabels, "ratio", b.constantOf(comparisonRatio), "min", b.constantOf(comparisonMin), "warmup", b.own(comparisonWarmup),
		"began", now(b.own(comparisonBegan)), "block", num(block.Seconds()), "limit", b.own(c.limit), "bridge", dur(max(comparisonBridge, comparisonIdle*block)),
		"share", now(b.own(c.share)), "both", now(b.own(c.both)), "own", now(b.own(c.mine)), "above", now(b.own(c.above)),
	}
	rule := func(name, text string) { b.record(name, nil, expand(text, vars...)) }
	b.about("Within a block, once the canary is warm and where stable has requests: which share of all bad requests may be the canary's, how many there are, and how many are the canary's.")
	rule(c.share, `(($canary_all * on ($guard) group_left () $ratio) / ($canary_all * on ($guard) group_left () $ratio + ($stable_all > 0)))
		and on ($guard) ($began + $block + on ($guard) $warmup <= time()) and on ($guard) $limit`)
	rule(c.mine, `($canary_bad or $canary_all * 0) and on ($guard, reporter) $share`)
	rule(c.both, `(($stable_bad or $stable_all * 0) + $stable_all * on ($guard) group_left () $min) + on ($guard, reporter) $own`)
	rule(c.above, expand(`($own - $both * $share) / clamp_min(stdvar_over_time($blocks) / avg_over_time($blocks) + avg_over_time($blocks) > $both or $both, 1)`,
		"blocks", b.own(c.both)+"["+dur(comparisonScale)+"] offset 1ms"))
	b.about("The evidence, a sequential test: how unlikely so many of them are, if the canary were within what is allowed. " + num(comparisonProof) + " is proof. Nothing is kept when the comparison begins anew.")
	for _, times := range comparisonTimes {
		t := num(times)
		more := []string{
			"gain", `clamp_max(ln(1 + $more * $above / (1 + $more * $share)), $most)`,
			"kept", `(sum without (times) (last_over_time($before[$bridge])) * $keep * on ($guard) group_left () ($began < bool time()))`}
		text := expand(`clamp($kept + $gain or $gain or $kept, 0, $top)`, more...)
		b.record(c.worse, map[string]string{"times": t}, expand(text, append([]string{
			"before", b.own(c.worse, `times="`+t+`"`), "keep", num(comparisonKeep(block)),
			"top", num(comparisonTop), "most", num(comparisonMost), "more", num(times - 1)}, vars...)...))
	}
}

// comparisonKeep is what is left of evidence after a block.
func comparisonKeep(block time.Duration) float64 {
	return math.Exp2(-block.Seconds() / comparisonHalf.Seconds())
}

// constantOf is a limit by guard alone.
func (b *builder) constantOf(metric string) string {
	return "(sum by (" + keyLabels + ") (" + b.own(metric) + "))"
}

// comparisonAlert tells of a canary that is proven worse.
func (b *builder) comparisonAlert() {
	var exprs []string
	text := "The canary of " + guardLabel + " in " + namespaceLabel + " is worse than stable at the same time, by more than " +
		lookup(comparisonRatio, `value | printf "%.3g"`) + " times:"
	for _, c := range comparedShares {
		if !b.recorded(c.worse) {
			continue
		}
		exprs = append(exprs, b.own(c.worse)+" > "+num(comparisonProof))
		text += withProof(c) + " " + lately(c, "canary") + " of its requests " + c.are + ", and " + lately(c, "stable") + " of stable's, by what reporter {{ $reporter }} counted within 30m.{{ end }}"
	}
	of := says{guardLabel + ": the canary is worse than stable", text}
	b.verdict(verdict{name: AlertComparison, signal: SignalComparison, says: of,
		expr: "max by (namespace, guardian_guard) (" + strings.Join(exprs, " or ") + ")"})
}

// withProof opens a block that is left out without proof. $reporter is whose counts are the
// strongest: only one reporter's shares of both sides can be compared.
func withProof(c compared) string {
	return "{{ with printf `topk(1, max by (" + LabelReporter + ") (" + c.worse + `{namespace=%q,guardian_guard=%q} > ` + num(comparisonProof) + "))` $labels.namespace $labels.guardian_guard | query }}" +
		`{{ $reporter := . | first | label "` + LabelReporter + `" }}`
}

// lately shows a side's share of bad requests as that reporter counted them.
func lately(c compared, side string) string {
	in := func(step string) string {
		return `sum_over_time(` + step + `{namespace=%[1]q,guardian_guard=%[2]q,` + LabelReporter + `=%[3]q,` + labelSide + `="` + side + `"}[30m])`
	}
	return "{{ with printf `" + in(c.badStep) + " / " + in(c.step) + "` $labels.namespace $labels.guardian_guard $reporter | query }}{{ . | first | value | humanizePercentage }}{{ else }}0%{{ end }}"
}
