package rules

import (
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// A guard says which requests have failed. Guards that say the same share one sum of
// them. A sum by another definition than the default bears it in a label: a definition
// that changes begins a sum of its own, in place of one that leaps.

// labelFailures is on sums of failed requests by another definition than the default.
const labelFailures = "failures"

// failures is one definition of a failed request, and the guards that have it.
type failures struct {
	matchers []string // as Prometheus writes them, sorted; empty: the default
	guards   []Guard
}

// failuresOf is the definition of a guard that has been validated.
func failuresOf(g Guard) failures {
	var out []string
	for _, m := range val(g.Signals.ErrorRate).Failures {
		if all, err := parseFailures(m); err == nil {
			out = append(out, all)
		}
	}
	slices.Sort(out)
	return failures{matchers: slices.Compact(out)}
}

// failures are the definitions that guards have, each once.
func (b *builder) failures() []failures {
	var out []failures
	for _, g := range b.guards(func(s Signals) bool { return s.ErrorRate != nil }) {
		f := failuresOf(g)
		i := slices.IndexFunc(out, func(other failures) bool { return slices.Equal(other.matchers, f.matchers) })
		if i < 0 {
			i, out = len(out), append(out, f)
		}
		out[i].guards = append(out[i].guards, g)
	}
	return out
}

// failed are the counters of failed requests, one for each definition.
func (b *builder) failed() []counter {
	ways := b.failures()
	var out []counter
	for _, f := range ways {
		c := b.counter("requests_failed", f.guards, f.reads)
		if c.failures = f.label(); c.failures != "" || len(ways) > 1 {
			c = c.where(labelFailures + "=" + strconv.Quote(c.failures))
		}
		out = append(out, c)
	}
	return out
}

// failedSteps are the requests that have failed since the last evaluation, of each side
// and by who reports them.
func (b *builder) failedSteps(all counter) string {
	ways := b.failures()
	var out []string
	for i, c := range b.failed() {
		steps := b.bySide(c, "sum", b.grownOf(c, all, " > 0"))
		if len(ways) > 1 { // guards of different definitions may have the same workload
			steps = expand(`(($steps) and on ($guard) ($those))`, "steps", steps, "guard", keyLabels, "those", b.limitsOf(failed, ways[i].guards))
		}
		out = append(out, steps)
	}
	return strings.Join(out, " or ")
}

// limitsOf selects the limits of some guards.
func (b *builder) limitsOf(p proportion, guards []Guard) string {
	names := map[string][]string{}
	for _, g := range guards {
		names[g.Namespace] = append(names[g.Namespace], g.Name)
	}
	var out []string
	for _, namespace := range b.namespaces() {
		if len(names[namespace]) > 0 {
			out = append(out, b.own(p.limit, LabelNamespace+"="+strconv.Quote(namespace), LabelGuard+"=~"+strconv.Quote(alternatives(names[namespace]))))
		}
	}
	return strings.Join(out, " or ")
}

// reads selects the failed requests among the proxies' series. One that several
// matchers select counts once: it is the same series.
func (f failures) reads(s series) string { return strings.Join(f.selectors(s), " or ") }

func (f failures) selectors(s series) []string {
	if len(f.matchers) == 0 {
		return []string{s.of(requestsTotal, ","+httpFailures), s.of(requestsTotal, `,response_code!~"5..",`+grpcFailures)}
	}
	var out []string
	for _, m := range f.matchers {
		out = append(out, s.of(requestsTotal, ","+m))
	}
	return out
}

// labels are those by which requests are told to have failed.
func (f failures) labels() []string {
	if len(f.matchers) == 0 {
		return []string{labelCode}
	}
	var out []string
	for _, label := range []string{labelCode, labelFlags, labelGRPC} {
		if strings.Contains(strings.Join(f.matchers, ","), label) {
			out = append(out, label)
		}
	}
	return out
}

// label is short; empty for the default.
func (f failures) label() string {
	if len(f.matchers) == 0 {
		return ""
	}
	h := fnv.New32a()
	for _, m := range f.matchers {
		fmt.Fprintln(h, m)
	}
	return fmt.Sprintf("%08x", h.Sum32())
}

// Labels that a definition of failed requests may name.
const (
	labelCode  = "response_code"
	labelFlags = "response_flags"
	labelGRPC  = "grpc_response_status"
)

// answers are requests that no definition may select.
var answers = []struct{ what, code, flags, grpc string }{
	{what: "requests that were answered with 200", code: "200", flags: "-"},
	{what: "calls of gRPC that were answered with 0 (OK)", code: "200", flags: "-", grpc: "0"},
	{what: "requests that were answered with 204", code: "204", flags: "-"},
	{what: "websockets (101)", code: "101", flags: "-"},
}

// CheckFailures reports what is wrong with one of ErrorRate.Failures.
func CheckFailures(matchers string) error {
	_, err := parseFailures(matchers)
	return err
}

// parseFailures returns matchers as Prometheus writes them.
func parseFailures(matchers string) (string, error) {
	const such = `such as response_code=~"5..|404"`
	all, err := parser.NewParser(parser.Options{}).ParseMetricSelector("{" + matchers + "}")
	if err != nil {
		return "", fmt.Errorf("%w; want matchers without braces, %s", err, such)
	}
	var out []string
	for _, m := range all {
		if !slices.Contains([]string{labelCode, labelFlags, labelGRPC}, m.Name) {
			return "", fmt.Errorf("the label %s; want matchers of %s, %s and %s alone: canary and stable are counted alike", m.Name, labelCode, labelFlags, labelGRPC)
		}
		out = append(out, m.String())
	}
	for _, a := range answers {
		if selects(all, map[string]string{labelCode: a.code, labelFlags: a.flags, labelGRPC: a.grpc}) {
			return "", errors.New("selects " + a.what + " as well; want those that have failed, " + such)
		}
	}
	slices.Sort(out)
	return strings.Join(out, ","), nil
}

// selects reports whether matchers select a series with these labels.
func selects(all []*labels.Matcher, values map[string]string) bool {
	return !slices.ContainsFunc(all, func(m *labels.Matcher) bool { return !m.Matches(values[m.Name]) })
}
