package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/test/controlplane"
)

// replayed is what the tests read of guardian replay -o json.
type replayed struct {
	Guards []struct {
		Guard    string
		Releases []replayedRelease
		Healthy  struct {
			Hours  float64
			Braked int
		}
		TakenBack struct{ Releases, Braked, Earlier int }
	}
	Cost struct {
		Seconds          float64
		Queries, Samples int
	}
}

type replayedRelease struct {
	Began, Ended time.Time
	Outcome      string
	BrakedAt     *time.Time
	BrakedBy     string
	Signals      []struct {
		Signal string
		Judged float64
		Why    string
	}
}

// past is some services with releases, in a Prometheus of their own.
type past struct {
	t        *testing.T
	base     time.Time
	services map[string][]pastRelease
	url      string
	config   string
	binary   string
}

// newPast stores the past of services in a real Prometheus.
func newPast(t *testing.T, length time.Duration, services map[string][]pastRelease) *past {
	t.Helper()
	p := &past{t: t, base: time.Now().Add(-length - 3*time.Hour).Truncate(time.Hour), services: services}
	plane, err := controlplane.Start(t.Context(), controlplane.Options{WithoutKubernetes: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plane.Stop)
	server, err := plane.StartPrometheus(t.Context(), controlplane.PrometheusOptions{Args: []string{
		"--storage.tsdb.retention.time=10y", "--storage.tsdb.min-block-duration=2h", "--storage.tsdb.max-block-duration=2h"}})
	if err != nil {
		t.Fatal(err)
	}
	server.Stop()
	promtool, err := controlplane.Binary(t.Context(), "promtool")
	if err != nil {
		t.Fatal(err)
	}
	b := &blocks{promtool: promtool, folder: filepath.Join(filepath.Dir(server.ConfigFile), "data"), base: p.base}
	var lines []string
	var running []*pastService
	for i, name := range slices.Sorted(maps.Keys(services)) {
		s := &pastService{name: name, store: b.add}
		s.start(services[name], 20*float64(i+1), uint64(i+1))
		running = append(running, s)
		lines = append(lines, "- name: "+name)
	}
	for now := int64(0); now < length.Milliseconds(); {
		now += blockSize
		for _, s := range running {
			s.runTo(now)
		}
		if err := b.flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d samples of %d services, %v", b.n, len(services), length)
	p.url = server.URL
	p.config = filepath.Join(t.TempDir(), "guardian.yaml")
	if err := os.WriteFile(p.config, []byte("namespace: microservices\nguards:\n"+strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.binary = filepath.Join(t.TempDir(), "guardian-replay")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", p.binary, "../../cmd/guardian-replay").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return p
}

// run runs guardian-replay and returns its standard output.
func (p *past) run(args ...string) []byte {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), p.binary, append([]string{"-f", p.config, "--prometheus", p.url,
		"--from", p.base.UTC().Format(time.RFC3339), "--queries-per-second", "1000"}, args...)...)
	var errOut strings.Builder
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		p.t.Fatalf("%v\n%s", err, errOut.String())
	}
	return out
}

func (p *past) replay(args ...string) replayed {
	p.t.Helper()
	var out replayed
	text := p.run(append(args, "-o", "json")...)
	if err := json.Unmarshal(text, &out); err != nil {
		p.t.Fatalf("%v\n%s", err, text)
	}
	return out
}

// check compares what a replay says with what was put in.
func (p *past) check(r replayed) {
	p.t.Helper()
	for _, g := range r.Guards {
		put := p.services[g.Guard]
		if len(g.Releases) != len(put) {
			p.t.Errorf("%s: %d releases, want %d: %+v", g.Guard, len(g.Releases), len(put), g.Releases)
			continue
		}
		for i, one := range g.Releases {
			if err := p.wrong(put[i], one); err != nil {
				p.t.Errorf("%s: release %d: %v", g.Guard, i, err)
			}
		}
	}
}

// wrong is what a replay says wrongly of a release.
func (p *past) wrong(put pastRelease, got replayedRelease) error {
	at := func(ms int64) time.Time { return p.base.Add(time.Duration(ms) * time.Millisecond) }
	const scrape = 20 * time.Second
	within := func(t, from, to time.Time) bool { return !t.Before(from) && !t.After(to) }
	began, fault := at(put.at), at(put.at+faultAfter)
	back := fault.Add(noticedAfter * time.Millisecond)
	switch {
	case !within(got.Began, began, began.Add(scrape)):
		return fmt.Errorf("began %v, want %v", got.Began, began)
	case put.fault == noFault && (got.Outcome != "promoted" || got.BrakedAt != nil):
		return fmt.Errorf("%s, braked %v by %s; want promoted, never braked", got.Outcome, got.BrakedAt, got.BrakedBy)
	case put.fault == noFault:
		return nil
	case got.Outcome != "taken-back" || !within(got.Ended, back.Add(-scrape), back.Add(scrape)):
		return fmt.Errorf("%s at %v, want taken-back at %v", got.Outcome, got.Ended, back)
	case got.BrakedAt == nil || got.BrakedBy != string(put.fault) || !within(*got.BrakedAt, fault, fault.Add(5*time.Minute)):
		return fmt.Errorf("braked %v by %s, want by %s within five minutes after %v", got.BrakedAt, got.BrakedBy, put.fault, fault)
	}
	p.t.Logf("%s at %s: braked after %v", put.fault, fault.UTC().Format(time.DateTime), got.BrakedAt.Sub(fault).Round(time.Second))
	return nil
}

// everyHours spreads releases; faults are taken in turn.
func everyHours(n int, first, every int64, faults ...releaseFault) []pastRelease {
	var out []pastRelease
	for i := range n {
		out = append(out, pastRelease{first + int64(i)*every, faults[i%len(faults)]})
	}
	return out
}

// TestReplaySaysWhatWasPutIn has a real Prometheus hold two days of two services, and
// guardian replay find their releases, the bad ones among them.
func TestReplaySaysWhatWasPutIn(t *testing.T) {
	if testing.Short() || race {
		t.Skip("builds a program and starts Prometheus")
	}
	p := newPast(t, 48*time.Hour, map[string][]pastRelease{
		"orders": everyHours(4, 2*hours1, 11*hours1, noFault, failing20, noFault, slowFifth),
		"stock":  everyHours(4, 3*hours1, 11*hours1, crashloops, noFault, failing20, noFault),
	})
	began := time.Now()
	r := p.replay()
	t.Logf("replayed in %v: %+v", time.Since(began).Round(time.Millisecond), r.Cost)
	p.check(r)
	t.Logf("\n%s", p.run("-o", "text"))
}
