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
// each proxy. Of a block's bad requests the canary has kc of k, by nc and ns requests of
// both. While the canary's share of bad requests is at most
//
//	ratio times stable's + min
//
// kc of k is at most binomial with p0 = ratio*nc / (ratio*nc + ns), where stable is given
// min/ratio*ns bad requests more (k has them), so that it is never without one. Whatever the
// load and the shares of bad requests do in time, by day or in an outage of both, p0 follows
// from the block alone. Against a canary that is T times worse than that the logarithm of
// the ratio of likelihoods is
//
//	kc*ln(T) - k*ln(1 + (T-1)*p0)
//
// and exp of it has a mean of at most 1. (A Poisson number of canary's bad requests with mean
// nc*(ratio*q + min) and of stable's with ns*q give it for every q.) So the sum S of any
// blocks exceeds ln(1/alpha) with a chance of at most alpha at whatever time one looks, by
// Ville's inequality: no error is spent by looking, as it is by a test of fixed size that is
// looked at again and again. A sum that has become negative begins anew at 0, so that it is
// the largest of all windows that end now, and the window in which the canary is worse need
// not be known: it grows with the canary's time. What is spent on the windows' beginnings is
// known from Lorden: at the limit itself it takes a sum at least exp(comparisonProof) blocks
// on average until it is wrong. Versions that are alike are far below; test/judge counts those.
// Three T are summed up beside each other, each best near its own.
//
// A block adds at most comparisonMost, which only lowers the sum: more than two are needed,
// so that an outage that one version's proxies are scraped before and the other's after, or
// one burst, proves nothing. Evidence is halved each hour (lower still), and is at most
// comparisonTop: an alert ends soon after the canary is as good as stable. So what is not
// proven within an hour or two never is.
//
// # Sources
//
// M. Lindon, A. Malek, Anytime-Valid Inference for Multinomial Count Data, NeurIPS 2022
// (canaries by Poisson counts of time-varying rates); E. S. Page, Continuous Inspection
// Schemes, Biometrika 41 (1954); G. Lorden, Procedures for Reacting to a Change in
// Distribution, Ann. Math. Statist. 42 (1971); J. Shin, A. Ramdas, A. Rinaldo, E-detectors, NEJSDS 2 (2024).
const (
	comparisonProof = enoughProof             // evidence that is proof
	comparisonMost  = comparisonProof * 0.36  // that one block adds at most: three are needed
	comparisonTop   = comparisonProof * 4 / 3 // that is kept at most
	comparisonHalf  = time.Hour               // in which evidence is halved
)

// comparisonTimes are the alternatives, each as many times worse than the limit.
var comparisonTimes = []float64{1.4, 3, 10}

const (
	comparisonRatio  = "guardian:comparison:ratio"
	comparisonMin    = "guardian:comparison:min_per_ratio"
	comparisonWarmup = "guardian:comparison:warmup"       // seconds
	comparisonBegan  = "guardian_canary:comparison:began" // the canary's requests, Unix seconds, for as long as there are any
)

// compared is a share of bad requests that is compared; the names are of recorded series by
// reporter, of the last block.
type compared struct {
	proportion
	share string // of the bad requests that the canary may have: p0
	both  string // bad requests of both, and those that stable is given
	mine  string // the canary's of them
	worse string // evidence
	on    func(Signals) bool
	are   string // of bad requests
}

var comparedShares = []compared{
	{failed, "guardian_canary:requests:allowed_share", "guardian:requests_failed:compared", "guardian_canary:requests_failed:compared",
		"guardian_canary:requests_failed:worse", func(s Signals) bool { return s.ErrorRate != nil }, "fail"},
	{slow, "guardian_canary:requests_timed:allowed_share", "guardian:requests_slow:compared", "guardian_canary:requests_slow:compared",
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
	b.about("Since when the canary has requests. After some seconds without any it begins anew.")
	b.record(comparisonBegan, nil, expand(`min by ($guard) (last_over_time($began[$bridge])) and on ($guard) ($gets) or ($gets) * 0 + time()`,
		"guard", keyLabels, "began", b.own(comparisonBegan), "bridge", dur(3*block),
		"gets", expand(`sum by ($guard) ($requests and on ($guard) $ratio) > 0`, "guard", keyLabels,
			"requests", b.settled(failed.step, b.windows.short(), labelSide+`="canary"`), "ratio", b.own(comparisonRatio))))
	for _, c := range comparedShares {
		b.compare(c, block)
	}
	b.comparisonAlert()
	b.evaluated("comparison")
	b.endGroup()
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
		"began", now(b.own(comparisonBegan)), "block", num(block.Seconds()), "limit", b.own(c.limit),
		"share", now(b.own(c.share)), "both", now(b.own(c.both)), "own", now(b.own(c.mine)),
	}
	rule := func(name, text string) { b.record(name, nil, expand(text, vars...)) }
	b.about("Within a block, once the canary is warm: which share of all bad requests may be the canary's, how many there are, and how many are the canary's.")
	rule(c.share, `(($canary_all * on ($guard) group_left () $ratio) / clamp_min($canary_all * on ($guard) group_left () $ratio + $stable_all, 1e-9))
		and on ($guard) ($began + $block + on ($guard) $warmup <= time()) and on ($guard) $limit`)
	rule(c.mine, `($canary_bad or $canary_all * 0) and on ($guard, reporter) $share`)
	rule(c.both, `(($stable_bad or $stable_all * 0) + $stable_all * on ($guard) group_left () $min) + on ($guard, reporter) $own`)
	b.about("The evidence, a sequential test: how unlikely so many of them are, if the canary were within what is allowed. " + num(comparisonProof) + " is proof.")
	for _, times := range comparisonTimes {
		t := num(times)
		b.record(c.worse, map[string]string{"times": t}, expand(
			`clamp((sum without (times) (last_over_time($before[$bridge])) * $keep or $share * 0)
				+ clamp_max($own * $ln - $both * ln(1 + $more * $share), $most), 0, $top)`,
			append([]string{"before", b.own(c.worse, `times="`+t+`"`), "bridge", dur(3 * block), "keep", num(comparisonKeep(block)),
				"top", num(comparisonTop), "most", num(comparisonMost), "ln", num(math.Log(times)), "more", num(times - 1)}, vars...)...))
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
		text += withProof(c) + " " + lately(c, "canary") + " of its requests " + c.are + ", and " + lately(c, "stable") + " of stable's, within 30m.{{ end }}"
	}
	of := says{guardLabel + ": the canary is worse than stable", text}
	b.verdict(verdict{name: AlertComparison, signal: SignalComparison, says: of,
		expr: "max by (namespace, guardian_guard) (" + strings.Join(exprs, " or ") + ")"})
}

// withProof opens a block that is left out without proof.
func withProof(c compared) string {
	return "{{ with printf `" + c.worse + `{namespace=%q,guardian_guard=%q} > ` + num(comparisonProof) + "` $labels.namespace $labels.guardian_guard | query }}"
}

// lately shows a side's share of bad requests by the reporter who sees most of them.
func lately(c compared, side string) string {
	in := func(step string) string {
		return `sum_over_time(` + step + `{namespace=%[1]q,guardian_guard=%[2]q,` + labelSide + `="` + side + `"}[30m])`
	}
	return "{{ with printf `max(" + in(c.badStep) + " / " + in(c.step) + ")` $labels.namespace $labels.guardian_guard | query }}{{ . | first | value | humanizePercentage }}{{ else }}0%{{ end }}"
}
