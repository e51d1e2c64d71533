package main

import (
	"cmp"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/canary-guardian/guardian/internal/printable"
	"github.com/canary-guardian/guardian/remediate/decision"
)

// orNothing is s with what stands before it, or nothing where s is empty.
func orNothing(before, s string) string {
	if s == "" {
		return ""
	}
	return before + s
}

// plural is a word in the number that fits n.
func plural(n int64, what string) string {
	if n == 1 {
		return what
	}
	return what + "s"
}

// thousands groups digits: 1,204.
func thousands(n int64) string {
	digits := strconv.FormatInt(n, 10)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

// percent is a share with two digits that say something.
func percent(share float64) string {
	return strconv.FormatFloat(roundUp(100*share), 'g', -1, 64) + "%"
}

// roundUp keeps two digits: a bound is never told lower than it is.
func roundUp(x float64) float64 {
	if x <= 0 {
		return 0
	}
	unit := math.Pow(10, math.Floor(math.Log10(x))-1)
	up, err := strconv.ParseFloat(strconv.FormatFloat(math.Ceil(x/unit-1e-9)*unit, 'g', 2, 64), 64)
	if err != nil {
		return x
	}
	return up
}

// latencyText is a quantile of the canary's requests; empty: none is known.
func latencyText(l decision.Latency) string {
	if l.Quantile == 0 {
		return ""
	}
	sign := "≤"
	if l.Above {
		sign = ">"
	}
	return fmt.Sprintf("p%s %s %s ms", strconv.FormatFloat(100*l.Quantile, 'g', 6, 64), sign, strconv.FormatFloat(l.Millis, 'g', -1, 64))
}

// stateLine is where a guard stands, and why.
func stateLine(r decision.Record) string {
	return fmt.Sprintf("%s, canary at %d%%%s", r.Status.State, r.Status.Weight, orNothing(": ", r.Status.Reason))
}

// short is a build for a column.
func short(build string) string {
	const width = 15 // a build of guardian's own has no more
	build = printable.Line(build)
	if len(build) > width {
		return build[:width]
	}
	return cmp.Or(build, "unknown")
}

// age is how long something has been so, to the second; - where nobody knows since when.
func age(since, now time.Time) string {
	if since.IsZero() {
		return "-"
	}
	return now.Sub(since).Round(time.Second).String()
}

// kind is an error's text without numbers and times, by which repetitions are
// told.
func kind(err error) string { return numbers.ReplaceAllString(err.Error(), "") }

var numbers = regexp.MustCompile(`[0-9][0-9hms.]*`)
