package rules

import (
	"strconv"
	"strings"
	"time"
)

// The fast lane scrapes the guarded workloads' own sidecars more often than
// Prometheus scrapes the mesh, and keeps of what they report only what the rules
// read (scrapeJob). Its metrics have names of their own: two jobs with
// istio_requests_total of the same proxies would double the traffic in Kiali, on
// Istio's dashboards and in everybody's queries.
//
// Only reporter="destination" is on it. What callers and waypoints report, such
// as refused connections, comes by the ordinary scrapes as before; so does
// everything of a side that the fast lane does not reach.

// maxFastLane is the interval from which on the ordinary scrapes do as well.
const maxFastLane = 5 * time.Second

// fastPrefix begins the names of the fast lane's metrics.
const fastPrefix = "fastlane_"

// lane is one of the two ways by which proxies' series reach Prometheus.
type lane struct {
	prefix  string // of the metrics' names
	proxies string // matchers without braces; may be empty
}

func (o Options) ordinary() lane { return lane{proxies: strings.Trim(o.Proxies, ", ")} }

func (o Options) fast() lane { return lane{fastPrefix, "job=" + strconv.Quote(o.fastJob())} }

func (o Options) fastJob() string { return o.Name + "-fast-lane" }

// laneOf records which sides the fast lane reaches, for the rest of the group:
// those of which it sees no fewer sidecars than the ordinary scrapes do. If it
// misses one, that one's errors are to be found there.
func (b *builder) laneOf(p proportion, counters ...counter) {
	if b.FastLane == 0 {
		return
	}
	sidecars := func(l lane) string {
		return b.bySideOf(l, counters[0], "sum", func(s series) string {
			var any []string
			for _, c := range counters {
				any = append(any, b.sum(c.where(`reporter="destination"`), s))
			}
			return expand(`group by ($key, reporter, $target) ($x)`, "key", s.key, "target", b.target(), "x", strings.Join(any, " or "))
		})
	}
	b.record(p.lane, nil, expand(`($fast) unless on ($guard, $side, reporter) (($all) > on ($guard, $side, reporter) ($fast))`,
		"fast", sidecars(b.fast()), "all", sidecars(b.ordinary()), "guard", keyLabels, "side", labelSide))
	b.lane = p.lane
}
