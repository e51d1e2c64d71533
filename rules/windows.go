package rules

import (
	"slices"
	"time"
)

// windows are the spans over which requests are counted: multiples of the
// evaluation interval.
type windows struct {
	scrape time.Duration // one scrape
	base   time.Duration // at least scrape; holds as many scrapes each time
}

// newWindows is for series scraped every scrape; least is the shortest base.
func newWindows(scrape, interval, least time.Duration) windows {
	one := ceil(scrape, interval)
	step := scrape / gcd(scrape, interval) * interval // least common multiple
	if step > time.Minute {
		// Windows then hold a scrape more or less; nobody needs such pairs.
		step = one
	}
	return windows{scrape: one, base: ceil(least, step)}
}

// ceil is the lowest multiple of step that is at least d.
func ceil(d, step time.Duration) time.Duration { return (d + step - 1) / step * step }

func gcd(a, b time.Duration) time.Duration {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// windows fit the fast lane where there is one. All but the shortest span an
// ordinary scrape too, because callers' reports come by those.
func (o Options) windows() windows {
	const least = 15 * time.Second
	if o.FastLane == 0 {
		return newWindows(o.ScrapeInterval, o.Interval, least)
	}
	return newWindows(o.FastLane, o.Interval, max(least, o.ScrapeInterval))
}

// flush is how often Envoy brings its histograms up to date (stats_flush_interval);
// its counters always are.
const flush = 5 * time.Second

// latencyInterval is how often latency is judged: its samples are up to a flush
// old, so to ask more often than that pays only where scrapes are frequent. Where
// even errors are judged less often than that, to cost less, and twice per scrape at
// most, once per scrape does.
func (o Options) latencyInterval() time.Duration {
	switch {
	case o.FastLane > 0:
		return max(o.Interval, o.FastLane)
	case o.Interval > flush && o.ScrapeInterval <= 2*o.Interval:
		return max(o.Interval, o.ScrapeInterval)
	}
	return max(o.Interval, min(flush, (o.ScrapeInterval/3).Truncate(time.Second)))
}

func (o Options) latencyWindows() windows {
	o.Interval = o.latencyInterval()
	return o.windows()
}

// quick are the shortest windows.
func (w windows) quick() []time.Duration { return slices.Compact([]time.Duration{w.scrape, w.base}) }

// short is about a minute: steady enough to show to people.
func (w windows) short() time.Duration { return 4 * w.base }

func (w windows) longest() time.Duration { return 20 * w.base }

// all windows, ascending.
func (w windows) all() []time.Duration { return append(w.quick(), 2*w.base, w.short(), w.longest()) }
