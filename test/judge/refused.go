package main

import (
	"fmt"
	"math"
	"sync"
)

const (
	refusedLimit = 0.01
	enoughBlame  = 7
)

// refused is the rules' test for requests that nobody took, by what callers'
// proxies say. evaluate has to have been called for now.
func (j *judge) refused(now int64, targets []*target, weight float64) bool {
	j.count(now, targets, atSource, nobody)
	for w := range refusedWindows {
		if j.blame(w, weight) > 0 {
			return true
		}
	}
	return false
}

// blame is the evidence of one window, where it suffices and is the canary's;
// else 0.
func (j *judge) blame(w int, weight float64) float64 {
	u := j.at(atSource, nobody, w, 0)
	if !u.ok || u.all < leastBad {
		return 0
	}
	canary := j.at(atSource, canarySide, w, 0).all
	due := (canary + j.at(atSource, stableSide, w, 0).all + u.all) * weight
	lost := u.all / (canary + u.all)
	d := u.all * (math.Log(lost/refusedLimit) - 1 + refusedLimit/lost)
	if d > enoughProof &&
		canary*math.Log(max(1-u.all/due, 1e-9))+u.all > enoughBlame &&
		u.all-3*math.Sqrt(due) < due {
		return d
	}
	return 0
}

// refusals tells how often requests that stable refuses are blamed on the
// canary, and how soon those that the canary refuses are noticed.
func refusals() bool {
	fmt.Printf("\nBursts of requests that stable refuses, blamed on the canary\n")
	w := table("requests/s\tcanary\t6 refused\t10 refused\t20 refused")
	n := 5 * *runs
	good := true
	for _, rate := range []float64{10, 100, 1000} {
		for _, canary := range []float64{0.1, 0.5} {
			fmt.Fprintf(w, "%.0f\t%.0f%%", rate, 100*canary)
			for _, burst := range []int{6, 10, 20} {
				blamed := 0
				for _, at := range firstRefusal(n, func(start int64) worldOptions {
					o := service(rate, canary)
					o.lostAt, o.lost, o.changes = start, burst, []int64{start}
					return o
				}, 20*second) {
					if !math.IsInf(at, 1) {
						blamed++
					}
				}
				fmt.Fprintf(w, "\t%s", share(blamed, n))
				good = good && blamed*50 <= n
			}
			fmt.Fprintln(w)
		}
	}
	w.Flush()
	fmt.Printf("\nSeconds from fault to firing, by share of its requests that the canary refuses\n")
	w = table("refused\tcanary's requests/s\tguardian")
	for _, lost := range []float64{0.5, 1} {
		for _, service2 := range []struct{ rate, share float64 }{{10, 0.1}, {10, 0.5}, {100, 0.1}, {100, 0.5}, {1000, 0.1}, {1000, 0.5}} {
			d := delays(firstRefusal(*runs, func(start int64) worldOptions {
				o := service(service2.rate, service2.share)
				o.canaryLost, o.changes = from(start, 0, lost), []int64{start}
				return o
			}, 600*second))
			fmt.Fprintf(w, "%.0f%%\t%.1f\t%v\n", 100*lost, service2.rate*service2.share, d)
			if lost == 1 && service2.rate*service2.share == 10 {
				good = good && d.quantile(0.5) <= 6
			}
		}
	}
	w.Flush()
	return good
}

// firstRefusal runs n services and returns the seconds from start to the firing;
// +Inf: not within patience milliseconds.
func firstRefusal(n int, options func(start int64) worldOptions, patience int64) []float64 {
	out := make([]float64, n)
	var mu sync.Mutex
	each(n, func(i int) {
		start := 60*second + int64(i*7919)%(5*second)
		o := options(start)
		w, j := newWorld(o, drawn(i)), newJudge(0.01)
		fired := math.Inf(1)
		for now := 1 + w.rng.Int64N(second); now <= start+patience; now += second {
			w.runTo(now)
			j.evaluate(now, w.targets)
			if j.refused(now, w.targets, o.share) {
				fired = float64(now-start) / second
				break
			}
		}
		mu.Lock()
		defer mu.Unlock()
		out[i] = fired
	})
	return out
}
