package main

import (
	"cmp"
	"math"
	"math/rand/v2"
)

// How a scrape went.
const (
	scraped = iota
	failing // up is 0, and every series of the target is stale
	gone    // the target is no more, nor is its up
)

// series is how many a target has at most; the last one is never there.
const series = 2 * (nobody + 1)

// scrapeOf is what one scrape of a target found.
type scrapeOf struct {
	t  int64
	up int
	v  [series]float64 // good and bad of the canary, good and bad of stable, taken by nobody; NaN: no series yet
}

// logSize is enough scrapes for the longest range that a yardstick reads, 60 s.
const logSize = 16

// target is a proxy that Prometheus scrapes.
type target struct {
	id       int
	reporter int
	side     int // of a pod; a gateway reports both
	next     int64
	ends     bool // the pod has gone: the next scrape finds nobody
	counters [series]float64
	born     [series]bool
	flushes  int64           // when what a scrape shows is next brought up to date; only with worldOptions.flush
	shown    [series]float64 // what a scrape shows; NaN: no series yet
	log      [logSize]scrapeOf
	scrapes  int
}

// ago returns the i-th newest scrape, or nil.
func (g *target) ago(i int) *scrapeOf {
	if i >= g.scrapes || i >= logSize {
		return nil
	}
	return &g.log[(g.scrapes-1-i)%logSize]
}

// at returns the newest scrape at or before t, or nil.
func (g *target) at(t int64) *scrapeOf {
	for i := 0; ; i++ {
		s := g.ago(i)
		if s == nil || s.t <= t {
			return s
		}
	}
}

// grown adds what the target's sums of a side have grown since the evaluation
// before, at now - step.
func (g *target) grown(now, step int64, side int, into *count) {
	s, old := g.at(now), g.at(now-step)
	if s == nil || s.up != scraped || old == nil || old.up != scraped {
		return // without a sum now, or no proof that what is new is not old
	}
	sum := func(s *scrapeOf) (all, bad float64) {
		all, bad = math.NaN(), s.v[2*side+1]
		for _, v := range s.v[2*side : 2*side+2] {
			switch {
			case math.IsNaN(all):
				all = v
			case !math.IsNaN(v):
				all += v
			}
		}
		return all, bad
	}
	// NaN: there is none, or it has become less.
	growth := func(is, was float64) float64 {
		switch {
		case math.IsNaN(was):
			return is
		case is < was:
			return math.NaN()
		}
		return is - was
	}
	all, bad := sum(s)
	allThen, badThen := sum(old)
	all, bad = growth(all, allThen), growth(bad, badThen)
	if math.IsNaN(all) {
		return
	}
	into.ok = true
	into.all += all
	if !math.IsNaN(bad) {
		into.bad += bad
	}
}

// worldOptions is what happens to a service while its canary is watched.
type worldOptions struct {
	rate  float64 // requests per second of the whole service
	share float64 // of the canary
	// load and weight are what rate is multiplied by, and the canary's share, at a time; nil: always
	// the same.
	load, weight func(t int64) float64
	// canaryBad and stableBad are shares of bad requests from a time on, constant
	// between the changes.
	canaryBad, stableBad func(t int64) float64
	changes              []int64               // ascending
	canaryLost           func(t int64) float64 // share of the canary's requests that nobody takes; nil: none
	lostAt               int64                 // when stable's pods refuse some requests
	lost                 int                   // how many
	flush                int64                 // how often proxies bring what a scrape shows up to date, milliseconds; 0: always
	gateways             int                   // proxies that report as source; 0: nobody does
	cluster              float64               // how many bad requests come at a time on one pod, on average; at most 1: each by itself
	stalls               int64                 // how often each pod, by itself, fails all requests for a while, milliseconds; 0: never
	stalled              int64                 // for how long, milliseconds; 0: a second
	every                int64                 // how often each proxy is scraped, milliseconds; 0: scrapeInterval
	rough                float64               // how often bursts, restarts, pods coming and going, failed scrapes; 1: as in a busy cluster
	canaries, stables    int                   // pods
}

// world generates requests, counts them in proxies and scrapes those, each at
// a phase of its own.
type world struct {
	worldOptions
	rng     *rand.Rand
	now     int64
	targets []*target
	lastID  int
	burst   int64 // until then traffic is four times as much
	// seen is called for each scrape; may be nil.
	seen func(*target, *scrapeOf)
}

func newWorld(o worldOptions, seed uint64) *world {
	o.every = cmp.Or(o.every, scrapeInterval)
	w := &world{worldOptions: o, rng: rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))}
	for range o.canaries {
		w.addPod(canarySide)
	}
	for range o.stables {
		w.addPod(stableSide)
	}
	for range o.gateways {
		w.add(&target{reporter: atSource})
	}
	return w
}

func (w *world) addPod(side int) { w.add(&target{reporter: atDestination, side: side}) }

func (w *world) add(g *target) {
	w.lastID++
	g.id = w.lastID
	g.next = w.now + 1 + w.rng.Int64N(w.every)
	if w.flush > 0 {
		g.flushes = w.now + 1 + w.rng.Int64N(w.flush)
	}
	g.show()
	w.targets = append(w.targets, g)
}

// show brings what a scrape shows up to date.
func (g *target) show() {
	for i := range g.shown {
		g.shown[i] = math.NaN()
		if g.born[i] {
			g.shown[i] = g.counters[i]
		}
	}
}

// flushTo lets the proxies' flushes up to t happen.
func (w *world) flushTo(t int64) {
	for w.flush > 0 {
		first := w.targets[0]
		for _, g := range w.targets {
			if g.flushes < first.flushes {
				first = g
			}
		}
		if first.flushes > t {
			return
		}
		w.requests(first.flushes - w.now)
		w.now = first.flushes
		first.show()
		first.flushes += w.flush
	}
}

// runTo lets everything happen up to t, scrapes at t included.
func (w *world) runTo(t int64) {
	for {
		var first *target
		for _, g := range w.targets {
			if first == nil || g.next < first.next {
				first = g
			}
		}
		for len(w.changes) > 0 && w.changes[0] <= min(first.next, t) {
			w.flushTo(w.changes[0])
			w.requests(w.changes[0] - w.now)
			w.now, w.changes = w.changes[0], w.changes[1:]
			if w.lost > 0 && w.now >= w.lostAt {
				w.lose(float64(w.lost))
				w.lost = 0
			}
		}
		if first.next > t {
			return
		}
		w.flushTo(first.next)
		w.requests(first.next - w.now)
		w.now = first.next
		if w.flush == 0 {
			first.show()
		}
		w.scrape(first)
		w.mishaps()
	}
}

func (w *world) scrape(g *target) {
	if last := g.ago(0); last != nil && last.up == gone {
		w.remove(g)
		return
	}
	s := scrapeOf{t: g.next, up: scraped}
	switch {
	case g.ends:
		s.up = gone
	case w.rng.Float64() < 0.001*w.rough:
		s.up = failing
	}
	for i := range s.v {
		s.v[i] = math.NaN()
		if s.up == scraped {
			s.v[i] = g.shown[i]
		}
	}
	g.log[g.scrapes%logSize] = s
	g.scrapes++
	g.next += w.every
	if s.up == gone {
		// Ranges still find its samples for a while.
		g.next = s.t + rateWindow + second
	}
	if w.seen != nil {
		w.seen(g, &s)
	}
}

func (w *world) remove(g *target) {
	for i, other := range w.targets {
		if other == g {
			w.targets = append(w.targets[:i:i], w.targets[i+1:]...)
			return
		}
	}
}

// mishaps happen at about 1.4 scrapes/s: a burst every five minutes, a restart
// and a replaced pod every twenty.
func (w *world) mishaps() {
	if w.rough == 0 {
		return
	}
	switch p := w.rng.Float64() / w.rough; {
	case p < 1/(1.4*300):
		w.burst = w.now + 10*second
	case p < 1/(1.4*300)+1/(1.4*1200):
		g := w.targets[w.rng.IntN(len(w.targets))]
		g.counters, g.born = [series]float64{}, [series]bool{}
	case p < 1/(1.4*300)+2/(1.4*1200):
		g := w.targets[w.rng.IntN(len(w.targets))]
		if g.reporter == atDestination && !g.ends {
			g.ends = true
			w.addPod(g.side)
		}
	}
}

// requests serves what arrives within dt milliseconds.
func (w *world) requests(dt int64) {
	seconds := float64(dt) / second
	rate, canary := w.rate, w.share
	if w.load != nil {
		rate *= w.load(w.now)
	}
	if w.weight != nil {
		canary = w.weight(w.now)
	}
	if w.now < w.burst {
		rate *= 4
	}
	for side, mean := range [sides]float64{rate * canary * seconds, rate * (1 - canary) * seconds} {
		bad := w.canaryBad
		if side == stableSide {
			bad = w.stableBad
		}
		if side == canarySide && w.canaryLost != nil {
			lost := w.canaryLost(w.now)
			w.lose(poisson(w.rng, mean*lost))
			mean *= 1 - lost
		}
		share := bad(w.now)
		w.serve(side, 0, mean*(1-share))
		w.serve(side, 1, mean*share)
		if w.stalls > 0 && mean > 0 {
			w.stall(side, float64(dt)/float64(w.stalls), mean/seconds)
		}
	}
}

// stall has each of a side's pods fail what comes within a stall with a chance, by the requests per second of all of them.
func (w *world) stall(side int, chance, rate float64) {
	pods, gateways := w.serving(side)
	lasts := float64(cmp.Or(w.stalled, second)) / second
	for _, g := range pods {
		if w.rng.Float64() < chance {
			w.count(g, gateways, 2*side+1, poisson(w.rng, lasts*rate/float64(len(pods))))
		}
	}
}

// lose has gateways report requests that nobody took.
func (w *world) lose(n float64) {
	var gateways []*target
	for _, g := range w.targets {
		if g.reporter == atSource {
			gateways = append(gateways, g)
		}
	}
	for range int(n) {
		g := gateways[w.rng.IntN(len(gateways))]
		g.counters[2*nobody]++
		g.born[2*nobody] = true
	}
}

// serving are the pods of a side that get requests, and the gateways.
func (w *world) serving(side int) (pods, gateways []*target) {
	pods, gateways = make([]*target, 0, 16), make([]*target, 0, 4)
	for _, g := range w.targets {
		switch {
		case g.reporter == atSource:
			gateways = append(gateways, g)
		case g.side == side && !g.ends:
			pods = append(pods, g)
		}
	}
	return pods, gateways
}

// count has a pod, and one of the gateways, count n requests at once.
func (w *world) count(pod *target, gateways []*target, i int, n float64) {
	if n == 0 {
		return
	}
	at := []*target{pod}
	if len(gateways) > 0 {
		at = append(at, gateways[w.rng.IntN(len(gateways))])
	}
	for _, g := range at {
		g.counters[i] += n
		g.born[i] = true
	}
}

// serve spreads a Poisson number of requests over pods and gateways.
func (w *world) serve(side, bad int, mean float64) {
	if mean <= 0 {
		return
	}
	pods, gateways := w.serving(side)
	i, size := 2*side+bad, func() float64 { return 1 }
	if bad == 1 && w.cluster > 1 { // geometric
		mean /= w.cluster
		size = func() float64 { return 1 + math.Floor(math.Log(w.rng.Float64())/math.Log(1-1/w.cluster)) }
	}
	hit := func(pod, gateway int, n float64) {
		pods[pod].counters[i] += n
		pods[pod].born[i] = true
		if len(gateways) > 0 {
			gateways[gateway].counters[i] += n
			gateways[gateway].born[i] = true
		}
	}
	if mean < 20 {
		for range int(poisson(w.rng, mean)) {
			hit(w.rng.IntN(len(pods)), w.rng.IntN(max(1, len(gateways))), size())
		}
		return
	}
	cells := max(1, len(gateways)) * len(pods)
	for p := range pods {
		for g := range max(1, len(gateways)) {
			n := poisson(w.rng, mean/float64(cells))
			if w.cluster > 1 && bad == 1 {
				all := 0.0
				for range int(n) {
					all += size()
				}
				n = all
			}
			if n > 0 {
				hit(p, g, n)
			}
		}
	}
}

// poisson draws from a Poisson distribution: exactly up to a mean of 30, by the
// normal distribution beyond.
func poisson(rng *rand.Rand, mean float64) float64 {
	if mean > 30 {
		return max(0, math.Round(mean+math.Sqrt(mean)*rng.NormFloat64()))
	}
	p := math.Exp(-mean)
	sum, u, n := p, rng.Float64(), 0.0
	for u > sum && n < 200 {
		n++
		p *= mean / n
		sum += p
	}
	return n
}
