package main

import (
	"fmt"
	"math"
	"sync"
)

// rollout is one of the mix: a canary that is watched for mixBefore, and for mixAfter
// from when something happens.
type rollout struct {
	kind   string
	broken bool    // it is the canary's fault, at three times the limit or more
	limit  float64 // of the share of bad requests: errors, or slow ones
	set    func(o *worldOptions, start int64)
	rate   float64
	canary float64 // its share
}

const (
	mixBefore = 330 * second
	mixAfter  = 600 * second // within which a fault has to be found
)

// mix are the rollouts of each seed, all at ten or more canary requests a second.
func mix() []rollout {
	var out []rollout
	errors := func(canary, stable func(t int64) float64, changes ...int64) func(*worldOptions, int64) {
		return func(o *worldOptions, _ int64) { o.canaryBad, o.stableBad, o.changes = canary, stable, changes }
	}
	during := func(before, then float64, start, length int64) func(int64) float64 {
		return func(t int64) float64 {
			if t >= start && t < start+length {
				return then
			}
			return before
		}
	}
	both := func(before, then float64, length int64) func(*worldOptions, int64) {
		return func(o *worldOptions, start int64) {
			share := during(before, then, start, length)
			errors(share, share, start, start+length)(o, start)
		}
	}
	fault := func(before, then float64, flush int64) func(*worldOptions, int64) {
		return func(o *worldOptions, start int64) {
			errors(from(start, before, then), constant(before), start)(o, start)
			o.flush = flush
		}
	}
	for _, at := range []struct{ rate, canary float64 }{{100, 0.1}, {100, 0.5}, {1000, 0.1}, {1000, 0.5}} {
		add := func(kind string, broken bool, limit float64, set func(*worldOptions, int64)) {
			out = append(out, rollout{kind, broken, limit, set, at.rate, at.canary})
		}
		for _, bad := range []float64{0.001, 0.005} {
			add("healthy", false, 0.01, errors(constant(bad), constant(bad)))
		}
		add("healthy, slow requests", false, slowLimit, errors(constant(0.02), constant(0.02)))
		add("restarts and replaced pods, ten times as often", false, 0.01, func(o *worldOptions, start int64) {
			errors(constant(0.001), constant(0.001))(o, start)
			o.rough = 10
		})
		add("a shared dependency fails for a minute: 20%", false, 0.01, both(0.001, 0.2, 60*second))
		add("a shared dependency is away for half a minute: 100%", false, 0.01, both(0.001, 1, 30*second))
		add("a dependency is deployed: 5% for 20 s", false, 0.01, both(0.001, 0.05, 20*second))
		add("a noisy neighbour: the canary has 4% slow requests for two minutes", false, slowLimit, func(o *worldOptions, start int64) {
			errors(during(0.005, 0.04, start, 120*second), constant(0.005), start, start+120*second)(o, start)
			o.flush = histogramFlush
		})
		for _, bad := range []float64{0.03, 0.05, 0.2, 1} {
			add(fmt.Sprintf("errors: %.0f%%", 100*bad), true, 0.01, fault(0.001, bad, 0))
		}
		for _, bad := range []float64{0.15, 0.5, 1} {
			add(fmt.Sprintf("slow requests: %.0f%%", 100*bad), true, slowLimit, fault(0.005, bad, histogramFlush))
		}
		for _, lost := range []float64{0.5, 1} {
			add(fmt.Sprintf("refused: %.0f%%", 100*lost), true, 0.01, func(o *worldOptions, start int64) {
				o.canaryLost, o.changes = from(start, 0, lost), []int64{start}
			})
		}
	}
	return out
}

// run tells of guardian and the yardsticks whether each fired before something happened,
// and whether afterwards.
func (r rollout) run(seed uint64) (early, late [3]bool) {
	o := service(r.rate, r.canary)
	o.rough = 1
	start := mixBefore + int64(seed*7919%5000)
	r.set(&o, start)
	w, j, c := newWorld(o, seed), newJudge(r.limit), checks{limit: r.limit}
	if r.limit == slowLimit {
		j.stale = histogramFlush
	}
	phase := 1 + w.rng.Int64N(second)
	c.next = phase + w.rng.Int64N(10)*second
	for now := phase; now <= start+mixAfter; now += second {
		w.runTo(now)
		guardian := j.evaluate(now, w.targets)
		if r.limit == 0.01 {
			guardian = j.refused(now, w.targets, o.share) || guardian
		}
		for k, fires := range [3]bool{guardian, article(now, w.targets, r.limit), c.evaluate(now, w.targets)} {
			early[k] = early[k] || fires && now < start
			late[k] = late[k] || fires && now >= start
		}
	}
	return early, late
}

// score counts rollouts.
type score struct{ right, missed, wrong int }

func (s *score) add(broken, early, late bool) {
	switch {
	case early || !broken && late:
		s.wrong++
	case broken && late:
		s.right++
	case broken:
		s.missed++
	}
}

func (s score) precision() string { return share(s.right, max(1, s.right+s.wrong)) }
func (s score) recall() string    { return share(s.right, max(1, s.right+s.missed)) }

// rollouts states precision and recall over the mix.
func rollouts(seeds int) bool {
	all := mix()
	broken := 0
	for _, r := range all {
		if r.broken {
			broken++
		}
	}
	fmt.Printf("\nPrecision and recall of rollbacks: %d seeds of %d rollouts, %d of them with a fault at three times the limit or more, which has to be found within ten minutes\n", seeds, len(all), broken)
	var scores [3]score
	wrong, missed := map[string][3]int{}, map[string][3]int{}
	var mu sync.Mutex
	each(seeds*len(all), func(i int) {
		r := all[i%len(all)]
		early, late := r.run(drawn(i))
		mu.Lock()
		defer mu.Unlock()
		w, m := wrong[r.kind], missed[r.kind]
		for k := range scores {
			before := scores[k]
			scores[k].add(r.broken, early[k], late[k])
			w[k] += scores[k].wrong - before.wrong
			m[k] += scores[k].missed - before.missed
		}
		wrong[r.kind], missed[r.kind] = w, m
	})
	w := table("\tprecision\trecall\tright\tmissed\twrong")
	for k, name := range []string{"guardian", "article's query", "second failed check"} {
		s := scores[k]
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\n", name, s.precision(), s.recall(), s.right, s.missed, s.wrong)
	}
	w.Flush()
	w = table("by kind, of guardian, article's query, second failed check\twrong\tmissed")
	told := map[string]bool{}
	for _, r := range all {
		if !told[r.kind] && wrong[r.kind] != missed[r.kind] {
			fmt.Fprintf(w, "%s\t%v\t%v\n", r.kind, wrong[r.kind], missed[r.kind])
		}
		told[r.kind] = true
	}
	w.Flush()
	s := scores[0]
	return float64(s.right) >= 0.99*float64(s.right+s.wrong) && float64(s.right) >= math.Floor(0.998*float64(s.right+s.missed))
}
