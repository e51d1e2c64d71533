package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/test/controlplane"
)

// replayed is what the tests read of guardian replay -o json.
type replayed struct {
	Guards []replayedGuard
	Cost   struct {
		Seconds          float64
		Queries, Samples int
	}
}

type replayedGuard struct {
	Guard    string
	Releases []replayedRelease
	Healthy  struct {
		Hours  float64
		Braked int
	}
	TakenBack struct{ Releases, Braked, Earlier int }
}

type replayedRelease struct {
	Began, Ended time.Time
	Outcome      string
	BrakedAt     time.Time // zero: never
	BrakedBy     string
	Alerts       []struct {
		Alert     string
		At, Until time.Time
		Value     float64
	}
	Signals []struct {
		Signal string
		Judged float64
		Why    string
	}
}

// past is some services with releases, in a Prometheus of their own.
type past struct {
	t        *testing.T
	base     time.Time
	length   time.Duration
	services map[string][]pastRelease
	url      string
	config   string
	binary   string
	used     *os.ProcessState // of the last replay
}

// newPast stores the past of services in a real Prometheus.
func newPast(t *testing.T, length time.Duration, services map[string][]pastRelease) *past {
	t.Helper()
	p := &past{t: t, length: length, base: time.Now().Add(-length - 3*time.Hour).Truncate(time.Hour), services: services}
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
		"--from", p.base.UTC().Format(time.RFC3339), "--to", p.base.Add(p.length).UTC().Format(time.RFC3339)}, args...)...)
	var errOut strings.Builder
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	p.used = cmd.ProcessState
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
	case put.fault == noFault && (got.Outcome != "promoted" || !got.BrakedAt.IsZero()):
		return fmt.Errorf("%s, braked %v by %s; want promoted, never braked", got.Outcome, got.BrakedAt, got.BrakedBy)
	case put.fault == noFault:
		return nil
	case got.Outcome != "taken-back" || !within(got.Ended, back.Add(-scrape), back.Add(scrape)):
		return fmt.Errorf("%s at %v, want taken-back at %v", got.Outcome, got.Ended, back)
	case got.BrakedBy != string(put.fault) || !within(got.BrakedAt, fault, fault.Add(5*time.Minute)):
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
	judged := func(r replayedRelease) string {
		var out []string
		for _, s := range r.Signals {
			if s.Judged > 0.9 && s.Why == "" {
				out = append(out, s.Signal)
			}
		}
		return strings.Join(out, " ")
	}
	began := time.Now()
	r := p.replay()
	t.Logf("replayed in %v: %+v", time.Since(began).Round(time.Millisecond), r.Cost)
	p.check(r)
	for _, g := range r.Guards {
		for _, one := range g.Releases {
			if got := judged(one); got != "error_rate latency restarts" {
				t.Errorf("%s at %v: judged %s, want all but traffic: %+v", g.Guard, one.Began, got, one.Signals)
			}
		}
	}
	t.Logf("\n%s", p.run("-o", "text"))

	few := p.replay("--only", "orders", "--chunk", "7m")
	if got, want := fmt.Sprintf("%+v", few.Guards[0]), fmt.Sprintf("%+v", r.Guards[slices.IndexFunc(r.Guards, func(g replayedGuard) bool { return g.Guard == "orders" })]); got != want {
		t.Errorf("in chunks of seven minutes:\n%s\nin those of an hour:\n%s", got, want)
	}
	lax := p.replay("--only", "orders", "--set", "guards[orders].signals.errorRate.max=0.4")
	if by := lax.Guards[0].TakenBack; by.Releases != 2 || by.Braked != 1 {
		t.Errorf("with a limit of 40%%: %+v, want one of two braked", by)
	}
}

// TestReplayOfAMonth has five services and twenty releases in thirty days, eight of them
// bad, and measures what their replay takes. GUARDIAN_REPLAY is the number of days.
func TestReplayOfAMonth(t *testing.T) {
	days, err := strconv.Atoi(cmp.Or(os.Getenv("GUARDIAN_REPLAY"), "0"))
	if err != nil || days < 5 {
		t.Skip("simulates a month; make bench-replay runs it")
	}
	every := int64(days-1) * 24 * hours1 / 4
	services := map[string][]pastRelease{}
	for i, faults := range [][]releaseFault{
		{noFault, failing20, noFault, slowFifth}, {crashloops, noFault, failing20, noFault}, {noFault, noFault, slowFifth, noFault},
		{noFault, failing20, noFault, crashloops}, {noFault, noFault, noFault, failing20},
	} {
		services[fmt.Sprintf("service-%c", 'a'+i)] = everyHours(4, 3*hours1+int64(i)*17*minute, every, faults...)
	}
	began := time.Now()
	p := newPast(t, time.Duration(days)*24*time.Hour, services)
	t.Logf("stored in %v", time.Since(began).Round(time.Second))
	before := p.prometheusCPU()
	began = time.Now()
	r := p.replay()
	t.Logf("replayed in %v, %v of processor time, at most %d MiB of memory; %d queries, %d samples, %.1f s of Prometheus's processor time",
		time.Since(began).Round(time.Second), p.used.UserTime()+p.used.SystemTime(), p.used.SysUsage().(*syscall.Rusage).Maxrss>>10,
		r.Cost.Queries, r.Cost.Samples, p.prometheusCPU()-before)
	p.check(r)
	taken, braked := 0, 0
	hours, wrongly := 0.0, 0
	for _, g := range r.Guards {
		taken, braked = taken+g.TakenBack.Releases, braked+g.TakenBack.Braked
		hours, wrongly = hours+g.Healthy.Hours, wrongly+g.Healthy.Braked
	}
	t.Logf("%d taken back, %d of them braked; %.1f healthy hours, %d of their releases braked", taken, braked, hours, wrongly)
	if taken != 8 || braked != 8 {
		t.Errorf("%d taken back and %d braked, want 8 of 8", taken, braked)
	}
}

// prometheusCPU is the processor time that Prometheus has taken, in seconds.
func (p *past) prometheusCPU() float64 {
	p.t.Helper()
	all, err := httpGet(p.t.Context(), p.url+"/metrics")
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(all) {
		if text, ok := strings.CutPrefix(line, "process_cpu_seconds_total "); ok {
			seconds, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			if err != nil {
				p.t.Fatal(err)
			}
			return seconds
		}
	}
	p.t.Fatal("Prometheus does not tell its processor time")
	return 0
}

func httpGet(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	return string(b), err
}
