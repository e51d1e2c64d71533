package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
)

// A past is what a Prometheus has stored of services whose releases went out before
// anybody had guardian.

const (
	minute = 60 * second
	hours1 = 60 * minute
)

// fault is what is wrong with a release.
type releaseFault string

const (
	noFault    releaseFault = ""
	failing20  releaseFault = "error_rate" // a fifth of its requests fail
	slowFifth  releaseFault = "latency"    // a fifth takes too long
	crashloops releaseFault = "restarts"   // its containers restart every minute
)

// pastRelease is one that went out: 10%, 30%, 50% and 100% five minutes apart. A good
// one has all traffic for an hour, until the same build is stable. A bad one is bad
// from faultAfter on, and people take it back noticedAfter later.
type pastRelease struct {
	at    int64 // when its canary gets traffic, milliseconds
	fault releaseFault
}

const (
	stepEvery    = 5 * minute
	faultAfter   = 6 * minute
	noticedAfter = 8 * minute
)

// changes are the times at which something about a release changes, with what does.
func (r pastRelease) changes(p *pastService) map[int64]func() {
	share := func(s float64) func() { return func() { p.world.share = s } }
	out := map[int64]func(){
		r.at - minute: func() { p.world.addPod(canarySide); p.world.addPod(canarySide) },
		r.at:          share(0.1), r.at + stepEvery: share(0.3), r.at + 2*stepEvery: share(0.5), r.at + 3*stepEvery: share(1),
	}
	back := r.at + hours1
	if r.fault != noFault {
		back = r.at + faultAfter + noticedAfter
		delete(out, r.at+3*stepEvery)
		out[r.at+faultAfter] = func() { p.fault = r.fault }
	}
	out[back] = share(0)
	out[back+2*minute] = func() {
		p.fault = noFault
		for _, g := range p.world.targets {
			g.ends = g.ends || g.reporter == atDestination && g.side == canarySide
		}
	}
	return out
}

// pastService is one whose scrapes are stored.
type pastService struct {
	name   string
	world  *world
	fault  releaseFault
	store  func(l labels.Labels, t int64, f float64)
	counts map[int]*pastCounts // by target
	before map[int]map[string]labels.Labels
	crash  float64 // restarts of the canary's container

	now     int64
	changes map[int64]func()
	at      []int64 // of changes that are to come
}

// pastCounts tells apart the two ways in which the world's bad requests are bad.
type pastCounts [sides]struct{ seenGood, seenBad, ok, failed, fast, all float64 }

const pastScrape = 15 * second

// start begins a service at 0.
func (p *pastService) start(releases []pastRelease, rate float64, seed uint64) {
	p.counts, p.before = map[int]*pastCounts{}, map[int]map[string]labels.Labels{}
	p.world = newWorld(worldOptions{rate: rate, stables: 3, gateways: 2, every: pastScrape, rough: 1, stableBad: constant(0.001),
		canaryBad: func(int64) float64 {
			if p.fault == failing20 || p.fault == slowFifth {
				return 0.2
			}
			return 0.001
		}}, seed)
	p.world.seen = p.scraped
	p.changes = map[int64]func(){}
	for _, r := range releases {
		maps.Copy(p.changes, r.changes(p))
	}
	p.at = slices.Sorted(maps.Keys(p.changes))
}

// runTo simulates it up to a time.
func (p *pastService) runTo(until int64) {
	for ; p.now+pastScrape <= until; p.now += pastScrape {
		now := p.now + pastScrape
		for len(p.at) > 0 && p.at[0] <= now {
			p.world.changes = []int64{p.at[0]}
			p.world.runTo(p.at[0])
			p.changes[p.at[0]]()
			p.at = p.at[1:]
		}
		p.world.runTo(now)
		p.kubeState(now)
	}
}

// scraped stores what a scrape of a proxy found, and markers for what it did not.
func (p *pastService) scraped(g *target, s *scrapeOf) {
	c := p.counts[g.id]
	if c == nil {
		c = &pastCounts{}
		p.counts[g.id] = c
	}
	found := map[string]float64{}
	series := map[string]labels.Labels{}
	add := func(f float64, pairs ...string) {
		l := labels.FromStrings(append(pairs, "job", "mesh", "instance", p.name+"-"+strconv.Itoa(g.id))...)
		found[l.String()], series[l.String()] = f, l
	}
	for side := range sides {
		good, bad := s.v[2*side], s.v[2*side+1]
		if math.IsNaN(good) && math.IsNaN(bad) {
			continue
		}
		n := &c[side]
		grownGood, grownBad := grown(&n.seenGood, good), grown(&n.seenBad, bad)
		if grownGood < 0 || grownBad < 0 { // the proxy has started anew
			*n = pastCounts{}[side]
			grownGood, grownBad = grown(&n.seenGood, good), grown(&n.seenBad, bad)
		}
		n.all += grownGood + grownBad
		if p.fault == slowFifth && side == canarySide {
			n.ok, n.fast = n.ok+grownGood+grownBad, n.fast+grownGood
		} else {
			n.ok, n.failed, n.fast = n.ok+grownGood, n.failed+grownBad, n.fast+grownGood+grownBad
		}
		about := []string{"reporter", []string{"destination", "source"}[g.reporter], "destination_workload", p.name + []string{"-v2", "-v1"}[side],
			"destination_workload_namespace", "microservices", "destination_service_name", p.name, "destination_service_namespace", "microservices",
			"destination_version", []string{"v2", "v1"}[side]}
		add(n.ok, append(about, model.MetricNameLabel, "istio_requests_total", "response_code", "200")...)
		if n.failed > 0 {
			add(n.failed, append(about, model.MetricNameLabel, "istio_requests_total", "response_code", "503")...)
		}
		add(n.fast, append(about, model.MetricNameLabel, "istio_request_duration_milliseconds_bucket", "response_code", "200", "le", "500")...)
		add(n.all, append(about, model.MetricNameLabel, "istio_request_duration_milliseconds_bucket", "response_code", "200", "le", "+Inf")...)
	}
	for key, l := range p.before[g.id] {
		if series[key].IsEmpty() {
			p.store(l, s.t, math.Float64frombits(value.StaleNaN))
		}
	}
	for key, l := range series {
		p.store(l, s.t, found[key])
	}
	p.before[g.id] = series
	up := labels.FromStrings(model.MetricNameLabel, "up", "job", "mesh", "instance", p.name+"-"+strconv.Itoa(g.id))
	p.store(up, s.t, []float64{1, 0, math.Float64frombits(value.StaleNaN)}[s.up])
}

// grown is by how much a counter has grown since it was seen; below 0: it has become
// less.
func grown(seen *float64, now float64) float64 {
	if math.IsNaN(now) {
		return 0
	}
	g := now - *seen
	*seen = now
	return g
}

// kubeState stores a scrape of kube-state-metrics, by which pods are always there.
func (p *pastService) kubeState(now int64) {
	target := []string{"job", "kube-state-metrics", "instance", p.name + "-state"}
	p.store(labels.FromStrings(append(target, model.MetricNameLabel, "up")...), now, 1)
	if p.fault == crashloops && now%minute == 0 {
		p.crash++
	}
	for version, restarts := range map[string]float64{"v1": 0, "v2": p.crash} {
		p.store(labels.FromStrings(append(slices.Clone(target), model.MetricNameLabel, "kube_pod_container_status_restarts_total",
			"namespace", "microservices", "pod", p.name+"-"+version+"-5d9f8b7c6-abcde", "container", "app")...), now, restarts)
	}
}

// blocks writes samples into the folder of a Prometheus, by promtool. Its text has no
// markers of series that have ended.
type blocks struct {
	promtool, folder string
	base             time.Time // of 0
	text             bytes.Buffer
	n                int
}

// blockSize is that of Prometheus's own blocks.
const blockSize = 2 * hours1

func (b *blocks) add(l labels.Labels, t int64, f float64) {
	if value.IsStaleNaN(f) {
		return
	}
	b.n++
	b.text.WriteString(l.Get(model.MetricNameLabel))
	separator := byte('{')
	l.Range(func(one labels.Label) {
		if one.Name == model.MetricNameLabel {
			return
		}
		b.text.WriteByte(separator)
		separator = ','
		fmt.Fprintf(&b.text, "%s=%q", one.Name, one.Value)
	})
	at := b.base.UnixMilli() + t
	fmt.Fprintf(&b.text, "} %v %d.%03d\n", f, at/second, at%second)
}

// flush writes what has been added as one block.
func (b *blocks) flush(ctx context.Context) error {
	if b.text.Len() == 0 {
		return nil
	}
	b.text.WriteString("# EOF\n")
	file := filepath.Join(b.folder, "samples.txt")
	if err := os.WriteFile(file, b.text.Bytes(), 0o600); err != nil {
		return err
	}
	b.text.Reset()
	defer os.Remove(file)
	if out, err := exec.CommandContext(ctx, b.promtool, "tsdb", "create-blocks-from", "openmetrics", "--quiet", file, b.folder).CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}
