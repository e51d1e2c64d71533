// Command judge tells how fast and how right guardian's proportion test is, by
// simulation: false rollbacks of healthy canaries, rollbacks for outages that
// are not the canary's, and delays from fault to firing, beside two yardsticks.
// It runs a port of the test to Go; engine_test.go shows that the port and
// Prometheus's engine with the generated rules come to the same numbers.
//
//	go run ./test/judge [-hours 1000] [-runs 200] [-seed 0]
package main

import (
	"flag"
	"fmt"
	"math"
	"os"
	"runtime"
	"sync"
	"text/tabwriter"
	"time"
)

var (
	hours = flag.Int("hours", 1000, "healthy canary hours per line")
	runs  = flag.Int("runs", 200, "faults per line")
	only  = flag.String("only", "", "tables of one kind alone: limits, mix or comparison, or of the latter one: alike, limit, fooled or worse")
	ratio = flag.Float64("ratio", 1.5, "signals.comparison.ratio")
	seed  = flag.Uint64("seed", 0, "draws other hours and faults; what the evidence has to be was chosen with 0")
)

// drawn is the seed of the i-th hour or fault of a line.
func drawn(i int) uint64 { return *seed<<40 + uint64(i) }

func main() {
	flag.Parse()
	began := time.Now()
	fmt.Println("Scrape every 5 s, evaluation every 1 s; 2 canary pods, 3 stable pods, 2 gateways, each scraped at a phase of its own.")
	fmt.Println("Intervals in brackets are 95% confidence. Rates are of the whole service unless said otherwise.")
	ok := true
	for _, t := range []struct {
		kind, name string
		of         func() bool
	}{
		{"limits", "", proportions}, {"mix", "", func() bool { return rollouts(max(2, *runs/4)) }},
		{"comparison", "alike", alike}, {"comparison", "limit", atTheLimit}, {"comparison", "fooled", fooled}, {"comparison", "worse", worse},
	} {
		if *only == "" || *only == t.kind || *only == t.name {
			ok = t.of() && ok
		}
	}
	fmt.Printf("\n%d s.\n", int(time.Since(began).Seconds()))
	if !ok {
		fmt.Println("judge: a goal was missed")
		os.Exit(1)
	}
	fmt.Println("judge: all goals reached")
}

// proportions are the tables of the test that rolls back.
func proportions() bool {
	ok := healthy()
	ok = outages() && ok
	ok = refusals() && ok
	ok = slowOutages() && ok
	ok = faults("error rate", 0.01, 0.001, 0, []float64{0.02, 0.05, 0.2, 1}) && ok
	ok = faults("share of slow requests, histograms up to date every 5 s", slowLimit, 0.005, histogramFlush, []float64{0.06, 0.1, 0.5}) && ok
	ok = faults("share of slow requests, were histograms always up to date", slowLimit, 0.005, 0, []float64{0.5}) && ok
	return ok
}

// service is the mesh that all tables are about.
func service(rate, share float64) worldOptions {
	return worldOptions{
		rate: rate, share: share, canaries: 2, stables: 3, gateways: 2,
		canaryBad: constant(0), stableBad: constant(0),
	}
}

func constant(share float64) func(int64) float64 { return func(int64) float64 { return share } }

func from(t int64, before, then float64) func(int64) float64 {
	return func(now int64) float64 {
		if now < t {
			return before
		}
		return then
	}
}

// each runs f for 0…n-1 on all cores.
func each(n int, f func(i int)) {
	var wg sync.WaitGroup
	work := make(chan int)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := range work {
				f(i)
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
}

func table(head string) *tabwriter.Writer {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, head)
	return w
}

// healthy counts canary hours that end in a rollback though nothing was wrong.
func healthy() bool {
	const limit = 0.01
	fmt.Printf("\nFalse rollbacks per 1,000 healthy canary hours (limit 1%%; bursts, restarts, pods coming and going, failed scrapes)\n")
	w := table("true rate\trequests/s\tcanary\tguardian\tarticle's query\tsecond failed check")
	good := true
	pooled := map[float64]int{}
	cells := 0
	for _, bad := range []float64{0.001, 0.005, 0.009} {
		cells = 0
		for _, rate := range []float64{1, 10, 100, 1000} {
			for _, canary := range []float64{0.1, 0.5} {
				cells++
				var mu sync.Mutex
				var fired [3]int
				few := max(1, *hours/20) // of the yardsticks, which fire soon enough
				each(*hours, func(i int) {
					o := service(rate, canary)
					o.canaryBad, o.stableBad, o.rough = constant(bad), constant(bad), 1
					f := hour(o, limit, drawn(i)+uint64(1e6*bad*rate), i < few)
					mu.Lock()
					defer mu.Unlock()
					for k := range f {
						if f[k] {
							fired[k]++
						}
					}
				})
				pooled[bad] += fired[0]
				fmt.Fprintf(w, "%.1f%%\t%.0f\t%.0f%%\t%s\t%s\t%s\n", 100*bad, rate, 100*canary,
					poissonRate(fired[0], float64(*hours)), poissonRate(fired[1], float64(few)), poissonRate(fired[2], float64(few)))
				if bad <= 0.005 && float64(fired[0]) > math.Max(1, float64(*hours)/1000) {
					good = false
				}
			}
		}
	}
	w.Flush()
	for _, bad := range []float64{0.001, 0.005, 0.009} {
		fmt.Printf("at %.1f%%, all lines together: %s\n", 100*bad, poissonRate(pooled[bad], float64(*hours*cells)))
	}
	return good
}

// hour watches one canary for an hour, and tells which of the three fired.
func hour(o worldOptions, limit float64, seed uint64, yardsticks bool) (fired [3]bool) {
	w := newWorld(o, seed)
	j := newJudge(limit)
	c := checks{limit: limit}
	for now := int64(second); now <= 3600*second; now += second {
		w.runTo(now)
		fired[0] = fired[0] || j.evaluate(now, w.targets)
		if yardsticks {
			fired[1] = fired[1] || article(now, w.targets, limit)
			fired[2] = fired[2] || c.evaluate(now, w.targets)
		} else if fired[0] {
			break
		}
	}
	return fired
}

// outages counts outages of both versions that are blamed on the canary.
func outages() bool {
	fmt.Printf("\nOutages of both versions for a minute that end in a rollback\n")
	w := table("requests/s\tcanary\tfail\twith gateways\twithout")
	n := 5 * *runs
	good := true
	for _, rate := range []float64{10, 100, 1000} {
		for _, canary := range []float64{0.1, 0.5} {
			for _, bad := range []float64{0.2, 1} {
				var blamed [2]int
				for k, gateways := range []int{2, 0} {
					var mu sync.Mutex
					each(n, func(i int) {
						o := service(rate, canary)
						o.gateways = gateways
						start := 330*second + int64(i*7919)%(5*second)
						both := func(t int64) float64 {
							if t >= start && t < start+60*second {
								return bad
							}
							return 0.001
						}
						o.canaryBad, o.stableBad, o.changes = both, both, []int64{start, start + 60*second}
						if _, f := fault(o, 0.01, drawn(i), start, 400*second); !math.IsInf(f[0], 1) {
							mu.Lock()
							blamed[k]++
							mu.Unlock()
						}
					})
					if rate == 100 && blamed[k]*100 > 3*n {
						good = false
					}
				}
				fmt.Fprintf(w, "%.0f\t%.0f%%\t%.0f%%\t%s\t%s\n", rate, 100*canary, 100*bad, share(blamed[0], n), share(blamed[1], n))
			}
		}
	}
	w.Flush()
	return good
}

const (
	// histogramFlush is how often Envoy brings its histograms up to date.
	histogramFlush = 5 * second
	slowLimit      = 0.05
)

// slowOutages counts times in which both versions are slow that are blamed on
// the canary. Without gateways, whose proxies tell of both at once.
func slowOutages() bool {
	fmt.Printf("\nSlowness of both versions for a minute (limit 5%%) that ends in a rollback, without gateways\n")
	w := table("requests/s\tcanary\tslow\tblamed")
	n := 5 * *runs
	good := true
	for _, rate := range []float64{10, 100, 1000} {
		for _, canary := range []float64{0.1, 0.5} {
			for _, slow := range []float64{0.5, 1} {
				blamed := 0
				var mu sync.Mutex
				each(n, func(i int) {
					o := service(rate, canary)
					o.gateways, o.flush = 0, histogramFlush
					start := 330*second + int64(i*7919)%(5*second)
					both := func(t int64) float64 {
						if t >= start && t < start+60*second {
							return slow
						}
						return 0.005
					}
					o.canaryBad, o.stableBad, o.changes = both, both, []int64{start, start + 60*second}
					if _, f := fault(o, slowLimit, drawn(i), start, 400*second); !math.IsInf(f[0], 1) {
						mu.Lock()
						blamed++
						mu.Unlock()
					}
				})
				if rate == 100 && blamed*100 > 3*n {
					good = false
				}
				fmt.Fprintf(w, "%.0f\t%.0f%%\t%.0f%%\t%s\n", rate, 100*canary, 100*slow, share(blamed, n))
			}
		}
	}
	w.Flush()
	return good
}

// fault runs a service and returns the seconds from start to the firing of
// guardian and the yardsticks; +Inf: not within patience milliseconds.
// early tells that one of them fired before the fault.
func fault(o worldOptions, limit float64, seed uint64, start, patience int64) (early [3]bool, out [3]float64) {
	w := newWorld(o, seed)
	j := newJudge(limit)
	if limit == slowLimit { // then the rules reckon with it
		j.stale = histogramFlush
	}
	c := checks{limit: limit}
	out = [3]float64{math.Inf(1), math.Inf(1), math.Inf(1)}
	phase := 1 + w.rng.Int64N(second)
	c.next = phase + w.rng.Int64N(10)*second
	for now := phase; now <= start+patience; now += second {
		w.runTo(now)
		done := true
		for k, f := range [3]bool{j.evaluate(now, w.targets), article(now, w.targets, limit), c.evaluate(now, w.targets)} {
			switch {
			case f && now < start:
				early[k] = true
				if k == 2 {
					c.failed = 0
				}
			case f && math.IsInf(out[k], 1):
				out[k] = float64(now-start) / second
			}
			done = done && !math.IsInf(out[k], 1)
		}
		if done {
			break
		}
	}
	return early, out
}

// faults measures delays from fault to firing.
func faults(what string, limit, before float64, flush int64, shares []float64) bool {
	fmt.Printf("\nSeconds from fault to firing, by %s (limit %.0f%%, before the fault %.1f%%)\n", what, 100*limit, 100*before)
	w := table("fault\tcanary's requests/s\tguardian\tarticle's query\tsecond failed check\trequests needed")
	good := true
	for _, bad := range shares {
		for _, service := range []struct{ rate, share float64 }{{1, 0.1}, {1, 0.5}, {10, 0.1}, {10, 0.5}, {100, 0.1}, {100, 0.5}, {1000, 0.1}, {1000, 0.5}} {
			d := series3(service.rate, service.share, limit, before, bad, flush)
			canary := service.rate * service.share
			fmt.Fprintf(w, "%.0f%%\t%.1f\t%v\t%v\t%v\t%.0f\n", 100*bad, canary, d[0], d[1], d[2], needed(bad, limit))
			good = goals(limit, bad, canary, flush, d) && good
		}
	}
	w.Flush()
	return good
}

func series3(rate, share, limit, before, bad float64, flush int64) [3]delays {
	const patience = 1800 * second
	var mu sync.Mutex
	var d [3]delays
	each(*runs, func(i int) {
		o := service(rate, share)
		start := 330*second + int64(i*7919)%(5*second)
		o.flush = flush
		o.stableBad = constant(before)
		o.canaryBad, o.changes = from(start, before, bad), []int64{start}
		_, out := fault(o, limit, drawn(i), start, patience)
		mu.Lock()
		defer mu.Unlock()
		for k := range d {
			d[k] = append(d[k], out[k])
		}
	})
	return d
}

// needed is the number of canary requests after which the evidence suffices on
// average, fewest bad ones included.
func needed(bad, limit float64) float64 {
	return math.Ceil(max(leastBad/bad, enoughProof/(bad*math.Log(bad/limit)-bad+limit)))
}

// goal is what guardian has to reach where a share of a canary's 10 requests/s is bad.
type goal struct {
	limit, bad  float64
	median, p95 float64 // seconds at most
}

// goals compares a line with what has to be reached.
func goals(limit, bad, canary float64, flush int64, d [3]delays) bool {
	anyTime := math.Inf(1)
	// Slow requests within 6 s of their being told: histograms are half a flush behind on average.
	slow := 6 + float64(flush)/2/second
	ok := true
	for _, g := range []goal{
		{0.01, 1, 3, 5.5},
		{0.01, 0.2, 6, anyTime},
		{0.01, 0.05, 30, anyTime},
		{slowLimit, 0.5, slow, anyTime},
	} {
		if g.limit == limit && g.bad == bad && canary == 10 {
			ok = ok && d[0].quantile(0.5) <= g.median && d[0].quantile(0.95) <= g.p95
		}
	}
	// Where many fail it is no later than either yardstick.
	if limit == 0.01 && canary >= 10 && bad >= 0.2 {
		ok = ok && d[0].quantile(0.5) <= min(d[1].quantile(0.5), d[2].quantile(0.5))
	}
	return ok
}
