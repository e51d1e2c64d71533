package page

import (
	"fmt"
	"strings"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
)

// The chart's own units.
const (
	chartWidth, chartHeight = 720, 160
	chartTop, chartBottom   = 8, 24 // room for a line's width, and for the times
	chartSpan               = 24 * time.Hour
)

// chart is the canary's weight over time, as its history tells.
type chart struct {
	Points string // of a polyline
	Marks  []mark
	From   time.Time
	To     time.Time
	Says   string // the same in words
}

// mark is a decision on the chart.
type mark struct {
	X, Y int
	Says string
}

// Known says whether there is anything to draw.
func (c chart) Known() bool { return c.Points != "" }

// level is the height of a weight.
func level(percent int) int {
	return chartTop + (chartHeight-chartTop-chartBottom)*(100-percent)/100
}

// newChart draws the last 24 hours, or as much as the history has.
func newChart(r decision.Record, now time.Time) chart {
	c := chart{From: now.Add(-chartSpan), To: now}
	weight := r.Status.Weight
	if len(r.History) > 0 {
		weight = r.History[0].From
		if first := r.History[0].At; first.After(c.From) {
			c.From = first
		}
	}
	if !c.From.Before(now) {
		return c
	}
	x := func(at time.Time) int {
		return int(float64(chartWidth) * float64(at.Sub(c.From)) / float64(now.Sub(c.From)))
	}
	var points, said []string
	put := func(at time.Time, percent int) { points = append(points, fmt.Sprintf("%d,%d", x(at), level(percent))) }
	begun := false
	for _, e := range r.History {
		if e.At.After(now) {
			continue
		}
		if !e.At.Before(c.From) {
			if !begun {
				put(c.From, weight)
				begun = true
			}
			put(e.At, weight)
			put(e.At, e.To)
			if e.From != e.To {
				said = append(said, fmt.Sprintf("%s %d%%", e.At.UTC().Format("15:04:05"), e.To))
			}
			if e.Event == decision.EventRolledBack {
				c.Marks = append(c.Marks, mark{x(e.At), level(e.To), string(e.Event) + ": " + e.Reason})
			}
		}
		weight = e.To
	}
	if !begun {
		put(c.From, weight)
	}
	put(now, r.Status.Weight)
	c.Points = strings.Join(points, " ")
	c.Says = fmt.Sprintf("The canary has %d%% of the traffic.", r.Status.Weight)
	if len(said) > 0 {
		c.Says += " Before: " + strings.Join(said[max(0, len(said)-20):], ", ") + "."
	}
	return c
}
