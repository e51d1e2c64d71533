package rules

import (
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
)

// Requests are counted in two stages, because the proxies' own series are many
// and costly to read: they are read once per evaluation.
//
//	sum       what proxies have counted up to now, per target, version and reporter
//	idelta    by how much that has grown since the last evaluation, per guard, side and reporter
//
// A window is sum_over_time of the second, written where it is needed: a series
// costs more to record and to read again than to add up.

// sumsCovered is recorded while the same sums are.
const sumsCovered = "guardian:sums:covered"

// join is one way to find out whose requests a series counts.
type join struct {
	level    string // begins the names of what is recorded by key
	key      string // labels of the proxies' series that name the version
	info     string // recorded metric that maps them to guards
	matchers string // selects the guarded ones among the proxies' series
}

// counter is one kind of request that is counted for some guards.
type counter struct {
	what  string // in the names of what is recorded
	more  string // further matchers of the recorded sums; begins with a comma or is empty
	joins []join
	lanes []lane
	reads func(series) string // selects what the sums add up
	edge  time.Duration       // 0: they are of all that is read; else of all timed requests but those, which took up to so long
	// failures is the label of sums that only some guards' definition of a failed
	// request gives; usually empty.
	failures string
}

// counter counts by workload, by version, or both, as the guards need.
func (b *builder) counter(what string, guards []Guard, reads func(series) string) counter {
	c := counter{what: what, reads: reads, lanes: []lane{b.ordinary()}}
	if b.FastLane > 0 {
		c.lanes = append(c.lanes, b.fast())
	}
	workloads, services, versions := sides(guards)
	if len(workloads) > 0 {
		c.joins = append(c.joins, join{"guardian_workload", workloadKey, workloadReporterInfo,
			matchers("destination_workload", workloads) + b.inNamespaces("destination_workload_namespace")})
	}
	if len(services) > 0 {
		c.joins = append(c.joins, join{"guardian_version", versionKey, versionReporterInfo,
			matchers("destination_service_name", services, "destination_version", versions) +
				b.inNamespaces("destination_service_namespace")})
	}
	return c
}

// where narrows down which of the recorded sums are read.
func (c counter) where(matcher string) counter {
	c.more += "," + matcher
	return c
}

// matchers selects series by the values of labels, given in pairs.
func matchers(labelsAndValues ...any) string {
	var out []string
	for i := 0; i < len(labelsAndValues); i += 2 {
		out = append(out, labelsAndValues[i].(string)+"=~"+strconv.Quote(alternatives(labelsAndValues[i+1].([]string))))
	}
	return strings.Join(out, ",")
}

func (b *builder) inNamespaces(label string) string {
	return "," + label + "=~" + strconv.Quote(alternatives(b.namespaces()))
}

// series are those of the proxies that a counter reads in one way, on one lane.
type series struct {
	lane
	join
}

// of selects a metric; more begins with a comma or is empty.
func (s series) of(metric, more string) string {
	if s.proxies != "" {
		more = "," + s.proxies + more
	}
	return s.prefix + metric + "{" + s.matchers + more + "}"
}

// series are all that a counter reads.
func (c counter) series() []series {
	var out []series
	for _, l := range c.lanes {
		for _, j := range c.joins {
			out = append(out, series{l, j})
		}
	}
	return out
}

// target lists the labels that name a target.
func (b *builder) target() string { return strings.Join(b.TargetLabels, ", ") }

// sumName and ideltaName are what a counter's sums per target, and what those of
// native histograms have grown over all targets, are recorded as.
func (c counter) sumName(s series) string { return s.level + "_target:" + s.prefix + c.what + ":sum" }
func (c counter) ideltaName(s series) string {
	return s.level + "_target:" + s.prefix + c.what + ":idelta"
}

func (b *builder) selected(name string, c counter) string {
	return name + "{" + b.ownedMatchers() + c.more + "}"
}

// sums selects what was recorded, also before; sum is what this evaluation has.
func (b *builder) sums(c counter, s series) string   { return b.selected(c.sumName(s), c) }
func (b *builder) sum(c counter, s series) string    { return now(b.sums(c, s)) }
func (b *builder) idelta(c counter, s series) string { return b.selected(c.ideltaName(s), c) }

// recordSums records what proxies have counted up to now.
func (b *builder) recordSums(c counter) {
	for _, s := range c.series() {
		b.record(c.sumName(s), b.labelsOf(c), b.summed(c, s))
	}
}

// summed adds up what is read, per target and version. Slow requests are all minus those
// at or below an edge. Without a series for the edge there is no answer, rather than
// "all were slow". A series of no target tells that it was added up, be it that there was nothing.
func (b *builder) summed(c counter, s series) string {
	sum := expand(`sum by ($key, reporter, $target) ($x)`, "key", s.key, "target", b.target(), "x", c.reads(s))
	if c.edge > 0 { // where all were not added up, neither were these
		return expand(`$all - on ($key, reporter, $target) `, "all", b.sum(counter{what: "requests_timed"}, s), "key", s.key, "target", b.target()) + sum +
			" or " + now(b.addedUp(counter{what: "requests_timed"}, s))
	}
	return sum + expand(` or label_replace(vector(0), "$added", "yes", "", "")`, "added", labelAdded)
}

// labelAdded is a label of the series of no target alone. That these lack the labels
// of the others does not tell them apart for certain: while Prometheus is adding many series, a
// selector of an empty label may find some that have it.
const labelAdded = "added_up"

// addedUp selects the series of no target.
func (b *builder) addedUp(c counter, s series) string {
	return b.sums(c.where(labelAdded+`="yes"`), s)
}

// labelsOf are the labels of a counter's sums.
func (b *builder) labelsOf(c counter) map[string]string {
	labels := b.owned()
	if c.edge > 0 {
		labels[labelEdge] = num(c.edge.Seconds())
	}
	if c.failures != "" {
		labels[labelFailures] = c.failures
	}
	return labels
}

// covers ends the sums of a group. It records a series for as long as the same
// sums are recorded: when guards come or limits change, sums appear that are no
// new requests. Unless that is so it records those that count in full in this
// evaluation: their target had been scraped successfully some evaluations ago, and
// they have not been there since. Prometheus has many targets, which are looked through
// once for all sums of a group; of the sums there are nearly always none.
func (b *builder) covers(counters ...counter) {
	b.about("Sums that count in full: their target had been scraped some evaluations ago, and they have not been there since, though the same sums were recorded.")
	h := fnv.New32a()
	g := b.groups[len(b.groups)-1]
	for _, r := range g.Rules {
		fmt.Fprintln(h, r.Record, r.Labels, r.Expr.StrVal)
	}
	labels := b.owned()
	labels["group"], labels["sums"] = g.Name, fmt.Sprintf("%08x", h.Sum32())
	b.record(sumsCovered, labels, "vector(1)")
	// At those evaluations themselves: were one missed, all sums would be new.
	covered := func(ago time.Duration) string {
		return fmt.Sprintf(`last_over_time(%s{%s,group=%q,sums=%q}[1ms] offset %s)`, sumsCovered, b.ownedMatchers(), g.Name, labels["sums"], dur(ago))
	}
	lanes := []lane{b.ordinary()}
	if b.FastLane > 0 {
		lanes = append(lanes, b.fast())
	}
	for _, l := range lanes {
		var appeared []string
		for _, c := range counters {
			for _, s := range c.series() {
				if s.lane == l {
					appeared = append(appeared, b.appeared(c, s))
				}
			}
		}
		labels, stored := b.owned(), b.stored(l)
		labels["group"] = g.Name
		b.record(l.sumsNew(), labels, expand(`(($appeared) and on ($target) ($up offset $stored == 1)) and on () ($last and on () $then)`,
			"appeared", strings.Join(appeared, " or "), "target", b.target(), "up", b.up(l), "stored", dur(stored), "last", covered(b.step), "then", covered(stored)))
	}
}

// stored is how many evaluations ago a scrape has to have been, as a duration, for its
// samples to have been there at the last evaluation for certain. They bear the time at
// which it began, and are stored when it ends, which may be after an evaluation that
// comes between the two: then what had been counted for days would be new in the next
// one. A scrape takes ten seconds at most (scrape_timeout's default). It is no more than
// from one scrape to the next: then a target's second scrape can count in full, as long
// as the interval is what was said. But it is never one evaluation alone, which would
// leave nothing for the scrape itself: with less than two evaluations per scrape the second
// one counts in full only if the first is old enough, and with one that is the third.
func (b *builder) stored(l lane) time.Duration {
	const scrapeTimeout = 10 * time.Second
	every := b.ScrapeInterval
	if l.prefix == fastPrefix {
		every = b.FastLane
	}
	return max(2*b.step, min(every/b.step*b.step, b.step+ceil(scrapeTimeout, b.step)))
}

// appeared are the sums that have not been there since stored, labelled by the name
// that they are recorded as. Where their own rule failed in the last evaluation, none is
// known to be new: what was counted in all the time before would be.
func (b *builder) appeared(c counter, s series) string {
	return expand(`label_replace($x unless last_over_time($sums[$since] offset $i) and on ($which) last_over_time($added[1ms] offset $i), "$sum", "$name", "", "")`,
		"x", b.sum(c, s), "sums", b.sums(c, s), "which", list(labelEdge, labelFailures), "added", b.addedUp(c, s), "since", dur(b.stored(s.lane)-b.step+time.Millisecond), "i", dur(b.step), "sum", labelSum, "name", c.sumName(s))
}

// sumsNew is what the sums that count in full are recorded as.
func (l lane) sumsNew() string { return "guardian_target:" + l.prefix + "sums:new" }

// labelSum has the name that a sum was recorded as.
const labelSum = "sum"

// grown is by how much recorded sums have grown since the last evaluation. One
// that was not there counts in full, if it is certain that its requests are new. One that has become less counts nothing: a
// proxy has started anew, or has given up series of which it saw no more requests.
// After an evaluation that was missed, because Prometheus had too much to do, nothing
// has grown: the range has room for two samples, and for none that is older than the
// missed one.
func (b *builder) grown(c counter, s series) string {
	return expand(`((idelta($sums[$two]) or $new) >= 0)`, "sums", b.sums(c, s), "two", b.two(), "new", b.ifNew(c, s))
}

// ifNew selects the sums that count in full, as they were recorded.
func (b *builder) ifNew(c counter, s series) string {
	return expand(`sum without (group, $sum) ($new)`, "sum", labelSum, "new",
		now(fmt.Sprintf("%s{%s,group=%q,%s=%q%s}", s.sumsNew(), b.ownedMatchers(), b.groups[len(b.groups)-1].Name, labelSum, c.sumName(s), c.more)))
}

// up selects the targets of a lane. Of those that Proxies leaves out by a label of the
// target no series is counted: Prometheus may have thousands of them.
func (b *builder) up(l lane) string {
	var of []string
	switch {
	case l.prefix == fastPrefix:
		of = []string{"job=" + strconv.Quote(b.fastJob())}
	case b.FastLane > 0:
		of = append(b.ofTargets(), "job!="+strconv.Quote(b.fastJob()))
	default:
		of = b.ofTargets()
	}
	if len(of) == 0 {
		return "up"
	}
	return "up{" + strings.Join(of, ",") + "}"
}

// ofTargets are those matchers of Proxies that are about labels which up has as well.
func (b *builder) ofTargets() []string {
	all, err := parser.NewParser(parser.Options{}).ParseMetricSelector("x{" + b.Proxies + "}")
	if err != nil {
		b.err = errors.Join(b.err, fmt.Errorf("proxies: %w", err)) // validate has refused it
	}
	var out []string
	for _, m := range all {
		if slices.Contains(b.TargetLabels, m.Name) {
			out = append(out, m.String())
		}
	}
	return out
}

// recordNativeGrowth records how native histograms have grown, over all targets, since
// the last evaluation itself: after one that was missed, or that was made at another
// interval, nothing has, as with classic ones.
func (b *builder) recordNativeGrowth(c counter) {
	for _, s := range c.series() {
		b.record(c.ideltaName(s), b.owned(), expand(`sum by ($key, reporter) (
			(($x - $before) and histogram_count($x) >= histogram_count($before)) or ($new unless $before))`,
			"key", s.key, "x", b.sum(c, s), "before", "last_over_time("+b.sums(c, s)+"[1ms] offset "+dur(b.step)+")", "new", b.ifNew(c, s)))
	}
}

// grownOf is by how much one kind of requests has grown, but for the targets where
// all of them have become less; which is a comparison, or empty.
func (b *builder) grownOf(c, all counter, which string) func(series) string {
	return func(s series) string {
		return expand(`($grown unless ignoring ($edge) (idelta($all[$two]) < 0))`,
			"grown", b.grown(c, s)+which, "edge", list(labelEdge, labelFailures), "all", b.sums(all, s), "two", b.two())
	}
}

// two is a range that has room for the samples of two evaluations, and no more.
func (b *builder) two() string { return dur(b.step * 3 / 2) }

// provenName is what the targets of a counter's sums are recorded as while there is
// proof against their canary, and provenInfo the guards that it is about.
func (c counter) provenName(s series) string {
	return s.level + "_target:" + s.prefix + c.what + ":proven"
}
func (c counter) provenInfo(j join) string { return j.level + "_reporter:" + c.what + ":proven" }

// recordProven records the guards that which selects by guard and reporter, and the
// targets that show a sum of theirs: nearly always there are none. sum selects the
// sums.
func (b *builder) recordProven(c counter, which string, sum func(series) string) {
	for _, j := range c.joins {
		b.record(c.provenInfo(j), nil, expand(`$info and on ($guard, reporter) $which`, "info", b.own(j.info), "guard", keyLabels, "which", which))
	}
	for _, s := range c.series() {
		b.record(c.provenName(s), b.owned(), expand(`group by ($key, reporter, $target) (($sum) and on ($key, reporter) $info)`,
			"key", s.key, "target", b.target(), "sum", sum(s), "info", b.own(c.provenInfo(s.join))))
	}
}

// onlyProven is the counter for the guards that recordProven has recorded.
func (c counter) onlyProven() counter {
	c.joins = slices.Clone(c.joins)
	for i, j := range c.joins {
		c.joins[i].info = c.provenInfo(j)
	}
	return c
}

// scraped is when those were scraped last. Prometheus has many targets, so that the
// others are left out before anything else.
func (b *builder) scraped(c counter) func(series) string {
	return func(s series) string {
		return expand(`$proven * 0 + on ($target) group_left () max by ($target) (timestamp($up) and on ($target) $proven)`,
			"proven", b.selected(c.provenName(s), c), "target", b.target(), "up", b.up(s.lane))
	}
}

// bySide adds up an expression over a counter's recorded series per guard, side
// and reporter. term writes the expression for some of them; aggregation is sum
// or max.
func (b *builder) bySide(c counter, aggregation string, term func(series) string) string {
	all := b.bySideOf(b.ordinary(), c, aggregation, term)
	if b.FastLane == 0 {
		return all
	}
	return expand(`($fast) or (($all) unless on ($guard, $side, reporter) $lane)`,
		"fast", b.bySideOf(b.fast(), c, aggregation, term), "all", all, "guard", keyLabels, "side", labelSide, "lane", b.own(b.lane))
}

// bySideOf is bySide for one lane alone.
func (b *builder) bySideOf(l lane, c counter, aggregation string, term func(series) string) string {
	var terms []string
	for _, j := range c.joins {
		terms = append(terms, expand(`$agg by ($guard, $side, reporter) (
			($agg by ($key, reporter) ($term)) * on ($key, reporter) group_right () $info)`,
			"agg", aggregation, "guard", keyLabels, "side", labelSide, "key", j.key, "term", term(series{l, j}), "info", b.own(j.info)))
	}
	return strings.Join(terms, " or ")
}

// during is how many requests a side's steps add up to within a window.
func (b *builder) during(step string, window time.Duration, matchers ...string) string {
	return "sum_over_time(" + b.own(step, matchers...) + "[" + dur(window) + "])"
}
