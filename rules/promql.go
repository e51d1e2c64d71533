package rules

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// expand replaces each $name in a PromQL text by its value; vars alternates
// names and values. Longer names must not begin with shorter ones.
func expand(text string, vars ...string) string {
	pairs := make([]string, 0, len(vars))
	for i := 0; i < len(vars); i += 2 {
		pairs = append(pairs, "$"+vars[i], vars[i+1])
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// dur writes a duration as PromQL does.
func dur(d time.Duration) string { return model.Duration(d).String() }

// num writes a number as PromQL does, without the dust of binary fractions.
func num(f float64) string {
	rounded, err := strconv.ParseFloat(strconv.FormatFloat(f, 'g', 12, 64), 64)
	if err != nil {
		return strconv.FormatFloat(f, 'g', -1, 64)
	}
	return strconv.FormatFloat(rounded, 'f', -1, 64)
}

// escape writes a regular expression for use between double quotes.
func escape(s string) string { return strings.ReplaceAll(s, `\`, `\\`) }

// alternatives is a regular expression that matches exactly these names.
func alternatives(names []string) string {
	quoted := make([]string, 0, len(names))
	for _, n := range names {
		quoted = append(quoted, regexp.QuoteMeta(n))
	}
	slices.Sort(quoted)
	return strings.Join(slices.Compact(quoted), "|")
}

// list joins label names or matchers.
func list(first string, more ...string) string {
	return strings.Join(append([]string{first}, more...), ", ")
}

// now reads what rules before it in the group have recorded in the present
// evaluation. A plain selector means the same and costs several times as much:
// Prometheus goes through all samples of its five minutes' lookback.
func now(selector string) string { return "last_over_time(" + selector + "[1ms])" }
