package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
)

// comparison is a port to Go of the rules' comparison with stable (rules/comparison.go has
// the test and its sources) at the defaults of its keys, for scrapes every 5 or 15 s and an
// evaluation every second.
type comparison struct {
	ratio, min float64
	warmup     int64

	requests [60]float64 // of the canary, by the second
	blocks   [reporters][sides]count
	ticks    int64 // evaluations so far
	seen     int64 // at which of them the canary had requests last; 0: never
	began    int64 // of the canary's requests, or of its build; 0: it has none
	evidence [reporters][len(comparisonTimes)]float64
	at       [reporters]int64     // when that was recorded last; 0: never
	scale    [reporters][]blockOf // of the last 20 minutes
}

// blockOf is how many bad requests a block has of both, and those that stable is given.
type blockOf struct {
	at   int64
	both float64
}

const (
	comparisonBlock  = 15 * second
	comparisonProof  = enoughProof
	comparisonMost   = comparisonProof / 6.0
	comparisonTop    = comparisonProof * 4.0 / 3
	comparisonIdle   = 4
	comparisonBridge = 600 * second
	comparisonScale  = 1200 * second
)

var comparisonTimes = [3]float64{2, 5, 100}

func newComparison() *comparison {
	return &comparison{ratio: *ratio, min: 0.0001, warmup: 180 * second}
}

// evaluate is one second of the rules, and reports whether the canary is proven worse.
func (c *comparison) evaluate(now int64, targets []*target) bool {
	fires := false
	if now%comparisonBlock == 0 { // as of the second before
		fires = c.judge(now)
		c.blocks = [reporters][sides]count{}
	}
	second60 := &c.requests[now/second%60]
	*second60 = 0
	for r := range reporters {
		for side := range sides {
			var step count
			for _, g := range targets {
				if g.reporter == r {
					g.grown(now, second, side, &step)
				}
			}
			if step.ok {
				block := &c.blocks[r][side]
				block.ok = true
				block.all += step.all
				block.bad += step.bad
			}
			if side == canarySide && step.ok {
				*second60 += step.all
			}
		}
	}
	return fires
}

// judge is one evaluation of the comparison's group.
func (c *comparison) judge(now int64) bool {
	any := 0.0
	for _, n := range c.requests {
		any += n
	}
	c.ticks++
	switch {
	case c.seen > 0 && c.seen >= c.ticks-comparisonIdle:
	case any > 0:
		c.begin(now)
	default:
		c.began = 0
	}
	if any > 0 {
		c.seen = c.ticks
	}
	fires := false
	for r := range reporters {
		fires = c.prove(now, r) || fires
	}
	return fires
}

// begin forgets all: the canary's requests, or its build, are new.
func (c *comparison) begin(now int64) {
	c.began = now
	c.evidence = [reporters][len(comparisonTimes)]float64{}
}

// prove adds to the evidence of one reporter what the block has.
func (c *comparison) prove(now int64, r int) bool {
	canary, stable := c.blocks[r][canarySide], c.blocks[r][stableSide]
	judged := c.began > 0 && c.began+comparisonBlock+c.warmup <= now && canary.ok && stable.all > 0
	if !judged && (c.began == 0 || c.at[r] == 0 || now-c.at[r] >= comparisonBridge) {
		return false
	}
	c.at[r] = now
	share := c.ratio * canary.all / (c.ratio*canary.all + stable.all)
	both := canary.bad + stable.bad + stable.all*c.min/c.ratio
	scale := max(both, 1)
	if judged {
		scale = max(scale, c.usual(now, r))
		c.scale[r] = append(c.scale[r], blockOf{now, both})
	}
	fires := false
	for i, times := range comparisonTimes {
		next := c.evidence[r][i] * math.Exp2(-15.0/3600)
		if judged {
			next += min(math.Log(1+(times-1)/(1+(times-1)*share)*(canary.bad-share*both)/scale), comparisonMost)
		}
		c.evidence[r][i] = min(max(next, 0), comparisonTop)
		fires = fires || c.evidence[r][i] > comparisonProof
	}
	return fires
}

// usual is how many bad requests the usual bad request's block has had, itself among them; 0: there was none.
func (c *comparison) usual(now int64, r int) float64 {
	blocks := c.scale[r]
	for len(blocks) > 0 && blocks[0].at < now-comparisonScale {
		blocks = blocks[1:]
	}
	c.scale[r] = blocks
	sum, squares := 0.0, 0.0
	for _, b := range blocks {
		sum += b.both
		squares += b.both * b.both
	}
	if sum == 0 {
		return 0
	}
	return squares / sum
}

// leastRequests is how many requests of a canary any test needs on average to have as
// much evidence, by the divergence of what is true from what is allowed (Kullback, Leibler):
// p at the canary against q at stable, which gets other requests for each of the canary's.
func leastRequests(p, q, other, ratio, min float64) float64 {
	q += min / ratio
	times := p / (ratio * q)
	if times <= 1 {
		return math.Inf(1)
	}
	share := ratio / (ratio + other)
	return comparisonProof / (p*math.Log(times) - (p+other*q)*math.Log(1+(times-1)*share))
}

// comings are how failures come, of versions that are alike.
var comings = []struct {
	name string
	set  func(o *worldOptions)
}{
	{"one by one", func(*worldOptions) {}},
	{"ten at a time", func(o *worldOptions) { o.cluster = 10 }},
	{"one by one, and all for a second of each minute; scraped every 15 s, stable has one pod", func(o *worldOptions) {
		o.stables, o.every = 1, 15*second
		o.stall(alikeLife*3600*second, second)
	}},
}

// alike counts how often versions that are alike are told apart.
func alike() bool {
	fmt.Printf("\nComparison with stable: false alarms per 1,000 canary hours (versions alike; bursts, restarts, pods coming and going, failed scrapes)\n")
	w := table("failed, both\trequests/s\tcanary\tload\tfailures come\talarms\thours")
	good := true
	all, total := make([]int, len(comings)), make([]float64, len(comings))
	for _, bad := range []float64{0.0005, 0.005, 0.009} {
		for _, rate := range []float64{1, 10, 100, 1000} {
			for _, canary := range []float64{0.1, 0.5} {
				for i, come := range comings {
					load, o := alikeService(rate, canary, bad)
					come.set(&o)
					alarms, hours := falseAlarms(o, uint64(1e7*bad*rate))
					fmt.Fprintf(w, "%.2f%%\t%.0f\t%.0f%%\t%s\t%s\t%s\t%.0f\n", 100*bad, rate, 100*canary, load, come.name, poissonRate(alarms, hours), hours)
					all[i], total[i] = all[i]+alarms, total[i]+hours
					good = good && float64(alarms) <= max(1, hours/1000)
				}
			}
		}
	}
	w.Flush()
	for i, come := range comings {
		fmt.Printf("all lines together, failures %s: %s\n", come.name, poissonRate(all[i], total[i]))
		good = good && float64(all[i]) <= max(1, total[i]/1000)
	}
	return good
}

// stall has both versions fail all requests for a while in each minute, at any moment of it.
func (o *worldOptions) stall(length, lasts int64) {
	const minute = 60 * second
	begins := func(t int64) int64 { return t/minute*minute + t/minute*7919%(minute-lasts) }
	during := func(bad func(int64) float64) func(int64) float64 {
		return func(t int64) float64 {
			if at := begins(t); t >= at && t < at+lasts {
				return 1
			}
			return bad(t)
		}
	}
	o.canaryBad, o.stableBad = during(o.canaryBad), during(o.stableBad)
	for t := int64(0); t < length; t += minute {
		o.changes = append(o.changes, begins(t), begins(t)+lasts)
	}
	slices.Sort(o.changes)
}

// atTheLimit counts alarms of a canary that is as much worse as it may be, and nearly so. By Lorden there is one in
// exp(comparisonProof) blocks at most, of each sum.
func atTheLimit() bool {
	most := 3600 / (math.Exp(comparisonProof) * comparisonBlock / second)
	fmt.Printf("\nComparison with stable: alarms per 1,000 canary hours where the canary is at the limit, or near it (even load)\n")
	w := table("stable fails\tcanary fails\trequests/s\tcanary\tfailures come\talarms\thours")
	c, good := newComparison(), true
	for _, bad := range []float64{0.0005, 0.005} {
		for _, times := range []float64{c.ratio, 1 + (c.ratio-1)*0.8} {
			for _, rate := range []float64{10, 100, 1000} {
				for _, come := range comings[:2] {
					o, canary := service(rate, 0.1), times*bad+c.min*(times-1)/(c.ratio-1)
					o.rough, o.stableBad, o.canaryBad = 1, constant(bad), constant(canary)
					come.set(&o)
					alarms, hours := falseAlarms(o, uint64(1e7*bad*rate))
					fmt.Fprintf(w, "%.2f%%\t%.3f%%\t%.0f\t10%%\t%s\t%s\t%.0f\n", 100*bad, 100*canary, rate, come.name, poissonRate(alarms, hours), hours)
					good = good && float64(alarms) <= max(1, most*hours)
				}
			}
		}
	}
	w.Flush()
	return good
}

const alikeLife = 10 // hours of a canary

// alikeService has versions that are alike: a canary of 10% under even load, one of 50% by day and
// night, where failures grow with the load.
func alikeService(rate, canary, bad float64) (load string, o worldOptions) {
	o = service(rate, canary)
	o.canaryBad, o.stableBad, o.rough = constant(bad), constant(bad), 1
	if canary < 0.5 {
		return "even", o
	}
	o.load = func(t int64) float64 { return 1 + 0.67*math.Sin(2*math.Pi*float64(t)/(alikeLife*3600*second)) }
	both := func(t int64) float64 { return bad * o.load(t) }
	o.canaryBad, o.stableBad = both, both
	return "as by day and night, five times", o
}

// falseAlarms counts them within as many canaries' lives as -hours asks for.
func falseAlarms(o worldOptions, line uint64) (alarms int, inHours float64) {
	var mu sync.Mutex
	lives := max(1, *hours/alikeLife)
	each(lives, func(n int) {
		found := compareFor(o, alikeLife*3600*second, drawn(n)+line)
		mu.Lock()
		defer mu.Unlock()
		alarms += found
	})
	return alarms, float64(lives * alikeLife)
}

// compareFor counts alarms of a service; after each the evidence is forgotten.
func compareFor(o worldOptions, length int64, seed uint64) int {
	w, c, alarms := newWorld(o, seed), newComparison(), 0
	for now := int64(second); now <= length; now += second {
		w.runTo(now)
		if c.evaluate(now, w.targets) {
			alarms++
			c.evidence = [reporters][len(comparisonTimes)]float64{}
		}
	}
	return alarms
}

// noWorse is an hour in which no version is worse but for its start.
type noWorse struct {
	name string
	set  func(o *worldOptions, run uint64)
	most int // percent of the hours; where more than 1 is allowed is known to be wrong: docs/alerts.md tells of it
}

// hoursOfTrouble are such hours in which both versions, or a cold canary, fail at times.
var hoursOfTrouble = []noWorse{
	{"both fail (20%) for a minute, three times", func(o *worldOptions, _ uint64) {
		outage := func(t int64) float64 {
			if at := t % (1000 * second); at >= 600*second && at < 660*second {
				return 0.2
			}
			return 0.001
		}
		o.canaryBad, o.stableBad, o.rough = outage, outage, 1
	}, 1},
	{"a cold canary fails ten times as often for its first two minutes", func(o *worldOptions, _ uint64) {
		o.canaryBad, o.stableBad, o.rough = from(120*second, 0.01, 0.001), constant(0.001), 1
	}, 1},
	{"each version fails twenty times as often for half a minute of its own, three times an hour", func(o *worldOptions, run uint64) {
		o.canaryBad, o.stableBad, o.rough = spells(2*run), spells(2*run+1), 1
	}, 5},
	{"weights 10, 30, 50% while the share of failures of both doubles", func(o *worldOptions, _ uint64) {
		o.weight = func(t int64) float64 { return []float64{0.1, 0.3, 0.5, 0.5}[t/(1000*second)] }
		both := func(t int64) float64 { return []float64{0.001, 0.002, 0.004, 0.002}[t/(1000*second)] }
		o.canaryBad, o.stableBad, o.rough = both, both, 1
	}, 1},
}

// hoursOfStalls are such hours in which pods fail by the second.
var hoursOfStalls = []noWorse{
	{"both fail for a second of each minute, scraped every 15 s", func(o *worldOptions, _ uint64) {
		o.canaryBad, o.stableBad, o.rough = constant(0.0005), constant(0.0005), 1
		o.every = 15 * second
		o.stall(3600*second, second)
	}, 1},
	{"the same, and stable has one pod", func(o *worldOptions, _ uint64) {
		o.canaryBad, o.stableBad, o.rough, o.stables, o.every = constant(0.0005), constant(0.0005), 1, 1, 15*second
		o.stall(3600*second, second)
	}, 1},
	{"the same for five seconds of each minute", func(o *worldOptions, _ uint64) {
		o.canaryBad, o.stableBad, o.rough, o.stables, o.every = constant(0.0005), constant(0.0005), 1, 1, 15*second
		o.stall(3600*second, 5*second)
	}, 1},
	{"each pod fails for a second every two minutes, by itself; three canary pods, three of stable's", func(o *worldOptions, _ uint64) {
		o.canaryBad, o.stableBad, o.rough, o.stalls, o.canaries = constant(0.0005), constant(0.0005), 1, 120*second, 3
	}, 1},
	{"the same, two canary pods, ten of stable's", func(o *worldOptions, _ uint64) {
		o.canaryBad, o.stableBad, o.rough, o.stalls, o.stables = constant(0.0005), constant(0.0005), 1, 120*second, 10
	}, 1},
	{"each pod fails for five seconds every ten minutes, by itself; three canary pods, one of stable's", func(o *worldOptions, _ uint64) {
		o.canaryBad, o.stableBad, o.rough, o.stalls, o.stalled = constant(0.0005), constant(0.0005), 1, 600*second, 5*second
		o.canaries, o.stables = 3, 1
	}, 20},
	{"the same, two canary pods, one of stable's", func(o *worldOptions, _ uint64) {
		o.canaryBad, o.stableBad, o.rough, o.stalls, o.stalled = constant(0.0005), constant(0.0005), 1, 600*second, 5*second
		o.canaries, o.stables = 2, 1
	}, 12},
}

// fooled counts alarms by what happens to both versions, or to a canary that is cold.
func fooled() bool {
	fmt.Printf("\nComparison with stable: alarms in an hour in which no version is worse but for its start (100 requests/s)\n")
	w := table("what\tcanary\talarms")
	good := true
	for _, what := range slices.Concat(hoursOfTrouble, hoursOfStalls) {
		for _, canary := range []float64{0.01, 0.1, 0.5} {
			alarms, n := 0, max(1, *runs)
			var mu sync.Mutex
			each(n, func(i int) {
				o := service(100, canary)
				what.set(&o, drawn(i))
				found := compareFor(o, 3600*second, drawn(i))
				mu.Lock()
				defer mu.Unlock()
				alarms += min(1, found)
			})
			fmt.Fprintf(w, "%s\t%.0f%%\t%s\n", what.name, 100*canary, share(alarms, n))
			good = good && alarms*100 <= what.most*n
		}
	}
	w.Flush()
	return good
}

// spells are half-minutes in which 2% fail in place of 0.1%, one of forty.
func spells(seed uint64) func(t int64) float64 {
	return func(t int64) float64 {
		if rand.New(rand.NewPCG(seed, uint64(t/(30*second)))).IntN(40) == 0 {
			return 0.02
		}
		return 0.001
	}
}

// worse measures how long it takes until a canary is proven worse than stable.
func worse() bool {
	fmt.Printf("\nComparison with stable: from the fault to the alarm, canary 10%% (warm; no alarm within two hours: -)\n")
	w := table("stable fails\tcanary\trequests/s\tseconds\tof the canary's requests (median)\tleast by this ratio and min\tleast by any difference\tseconds, failures ten at a time\tseconds, two minutes after 20% of both failed for one\tseconds, both fail for a second of each minute")
	c := newComparison()
	for _, q := range []float64{0.0005, 0.005} {
		for _, times := range []float64{2, 5, 10} {
			for _, rate := range []float64{1, 10, 100, 1000} {
				d := worseDelays(rate, q, q*times, func(*worldOptions, int64) {})
				median := d.quantile(0.5)
				text := "-"
				if !math.IsInf(median, 1) {
					text = fmt.Sprintf("%.0f", median*rate*0.1)
				}
				tens := worseDelays(rate, q, q*times, func(o *worldOptions, _ int64) { o.cluster = 10 })
				after := worseDelays(rate, q, q*times, func(o *worldOptions, start int64) {
					o.stableBad, o.canaryBad = outage(start-180*second, o.stableBad), outage(start-180*second, o.canaryBad)
					o.changes = slices.Concat([]int64{start - 180*second, start - 120*second}, o.changes)
				})
				stalls := worseDelays(rate, q, q*times, func(o *worldOptions, start int64) { o.stall(start+patience, second) })
				fmt.Fprintf(w, "%.2f%%\t%.2f%% (%.0f×)\t%.0f\t%v\t%s\t%.0f\t%.0f\t%v\t%v\t%v\n", 100*q, 100*q*times, times, rate, d, text,
					leastRequests(q*times, q, 9, c.ratio, c.min), leastRequests(q*times, q, 9, 1, 0), tens, after, stalls)
			}
		}
	}
	w.Flush()
	return true
}

// outage has 20% fail for a minute from a time on.
func outage(from int64, bad func(int64) float64) func(int64) float64 {
	return func(t int64) float64 {
		if t >= from && t < from+60*second {
			return 0.2
		}
		return bad(t)
	}
}

const patience = 7200 * second // for a canary that is worse

// worseDelays are seconds from the fault on; set is given the world and when the fault begins.
func worseDelays(rate, stable, canary float64, set func(o *worldOptions, start int64)) delays {
	var mu sync.Mutex
	var d delays
	each(max(10, *runs/5), func(i int) {
		o := service(rate, 0.1)
		start := 600*second + int64(i*7919)%(15*second)
		o.stableBad, o.canaryBad, o.changes = constant(stable), from(start, stable, canary), []int64{start}
		set(&o, start)
		w, c, delay := newWorld(o, drawn(i)), newComparison(), math.Inf(1)
		for now := int64(second); now <= start+patience; now += second {
			w.runTo(now)
			if c.evaluate(now, w.targets) && now > start {
				delay = float64(now-start) / second
				break
			}
		}
		mu.Lock()
		defer mu.Unlock()
		d = append(d, delay)
	})
	_ = d.String() // sorts
	return d
}
