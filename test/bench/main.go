// Command bench measures what guardian adds to the writes that a rollback
// needs, on a real etcd and kube-apiserver: always as a ratio within one run,
// against the same writes made bare. It prints a table and fails only when a
// rollback did not happen.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/canary-guardian/guardian/test/controlplane"
)

const (
	namespace = "microservices"
	apart     = "bare" // the bare writes' objects, so that guardian does not watch them
	token     = "bench"
	givenBack = 5 * time.Second // after the end of a burst guardian has given back what it took for it
	writers   = 16              // concurrency of the bare writes, and of guardian's reconciles
)

// written is in which version guardian writes VirtualServices, and so do the bare
// writes: these were made in another, as by most pipelines, and an API server has
// twice the work with an object whose fields were written in two versions.
var written = controlplane.VirtualServices.GroupResource().WithVersion("v1")

func main() {
	guards := flag.Int("guards", 1000, "guards in the burst")
	single := flag.Int("single", 200, "rollbacks timed one by one")
	releases := flag.Int("idle", 0, "count instead what so many idle releases ask of the API server")
	over := flag.Duration("for", 2*time.Minute, "how long that is counted")
	extras := flag.Bool("extras", false, "measure instead what traces and the page cost in memory")
	binary := flag.String("binary", "", "guardian to measure (default: one that is built now)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *binary, func(b *bench) error {
		if *releases > 0 {
			return b.idleReleases(ctx, *releases, *over)
		}
		if *extras {
			return b.extras(ctx, *guards)
		}
		return b.rollbacks(ctx, *guards, *single)
	})
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	plane  *controlplane.Plane
	kube   *kubernetes.Clientset
	dyn    *dynamic.DynamicClient
	dir    string
	binary string
	proc   *controlplane.Process
	alerts string // URLs
	metric string
	ready  time.Duration // from guardian's start until it was
	env    []string      // and environment

	mu   sync.Mutex
	apps map[string]*controlplane.App
}

func run(ctx context.Context, binary string, measure func(*bench) error) (err error) {
	b := &bench{binary: binary, apps: map[string]*controlplane.App{}}
	if b.plane, err = controlplane.Start(ctx, controlplane.Options{}); err != nil {
		return err
	}
	defer b.plane.Stop()
	if err := b.connect(ctx); err != nil {
		return err
	}
	return measure(b)
}

// rollbacks measures them in a burst and one by one.
func (b *bench) rollbacks(ctx context.Context, guards, single int) error {
	burst, ones, bare := names("burst", guards), names("one", single), names("bare", max(guards, single))
	fmt.Printf("setting up %d services …\n", guards+single)
	if err := b.parallel(append(slices.Clone(burst), ones...), 8, func(name string) error { return b.makeApp(ctx, namespace, name) }); err != nil {
		return err
	}
	if err := b.parallel(bare, 8, func(name string) error { return b.makeBare(ctx, name) }); err != nil {
		return err
	}
	if err := b.burst(ctx, burst, bare[:guards]); err != nil {
		return err
	}
	if err := b.forgetRecords(ctx); err != nil {
		return err
	}
	return b.oneByOne(ctx, ones, bare[:single])
}

func names(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s-%04d", prefix, i)
	}
	return out
}

func (b *bench) connect(ctx context.Context) (err error) {
	config := b.plane.RESTConfig(controlplane.Admin)
	config.QPS = -1
	if b.kube, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	if b.dyn, err = dynamic.NewForConfig(config); err != nil {
		return err
	}
	for _, ns := range []string{namespace, apart} {
		if err := b.plane.CreateNamespace(ctx, ns); err != nil {
			return err
		}
	}
	b.dir = b.plane.Dir()
	if b.binary == "" {
		b.binary = filepath.Join(b.dir, "guardian")
		if err := build(ctx, b.binary); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(b.dir, "token"), []byte(token+"\n"), 0o600)
}

// build builds guardian as releases have it.
func build(ctx context.Context, to string) error {
	root, err := controlplane.Root()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, "./cmd/guardian")
	cmd.Dir, cmd.Stderr = root, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build guardian: %w", err)
	}
	return nil
}

func (b *bench) parallel(names []string, workers int, do func(string) error) error {
	work := make(chan string)
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for name := range work {
				if err := do(name); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	for _, n := range names {
		work <- n
	}
	close(work)
	wg.Wait()
	if len(errs) > 3 {
		errs = append(errs[:3], fmt.Errorf("and %d more", len(errs)-3))
	}
	return errors.Join(errs...)
}

func (b *bench) makeApp(ctx context.Context, namespace, name string) error {
	app, err := b.plane.NewApp(ctx, namespace, name)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.apps[name] = app
	return nil
}

// shift gives every canary 30%, and waits until guardian has written down that it
// has seen it.
func (b *bench) shift(ctx context.Context, names []string) error {
	if err := b.parallel(names, 8, func(name string) error { return b.apps[name].SetWeights(ctx, 70, 30) }); err != nil {
		return err
	}
	return b.awaitRecords(ctx, names, `"state":"shifting"`)
}

// awaitRecords waits until the record of each guard has a text in its status.
// guardian itself is not asked: to answer would leave garbage.
func (b *bench) awaitRecords(ctx context.Context, names []string, text string) error {
	wanted := map[string]bool{}
	for _, name := range names {
		wanted["guardian-"+name] = true
	}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		records, err := b.kube.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{LabelSelector: "canary-guardian.io/guard"})
		if err != nil {
			return err
		}
		seen := 0
		for i := range records.Items {
			if wanted[records.Items[i].Name] && strings.Contains(records.Items[i].Data["status"], text) {
				seen++
			}
		}
		if seen == len(names) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-b.proc.Ended():
			return fmt.Errorf("guardian ended:\n%s", b.proc.Tail(20))
		case <-tick.C:
		}
	}
}

// makeBare makes the two objects that a rollback writes, and no more.
func (b *bench) makeBare(ctx context.Context, name string) error {
	_, err := b.kube.CoreV1().ConfigMaps(apart).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "record-" + name}, Data: map[string]string{"status": strings.Repeat("s", 400)},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	return b.makeApp(ctx, apart, name)
}

// writeBare is what a rollback has to write: the record with a lock, and the
// weights with four annotations. guardian tests both against their resource
// version besides, which costs the API server next to nothing.
func (b *bench) writeBare(ctx context.Context, name string) error {
	lock, err := json.Marshal(map[string]any{"data": map[string]string{"lock": strings.Repeat("l", 400), "message": strings.Repeat("m", 500),
		"history": strings.Repeat("h", 400), "deny": strings.Repeat("d", 150), "status": strings.Repeat("t", 1300)},
		"metadata": map[string]any{"labels": map[string]string{"bench/locked": "true"}}})
	if err != nil {
		return err
	}
	if _, err := b.kube.CoreV1().ConfigMaps(apart).Patch(ctx, "record-"+name, types.MergePatchType, lock, metav1.PatchOptions{FieldManager: "bench"}); err != nil {
		return err
	}
	patch := []map[string]any{
		{"op": "add", "path": "/spec/http/0/route/0/weight", "value": 100},
		{"op": "add", "path": "/spec/http/0/route/1/weight", "value": 0},
		{"op": "add", "path": "/metadata/annotations", "value": map[string]string{"bench/state": "rolled-back", "bench/reason": strings.Repeat("r", 100),
			"bench/since": "2026-01-01T00:00:00Z", "bench/build": "0123456789ab"}},
	}
	body, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	_, err = b.dyn.Resource(written).Namespace(apart).Patch(ctx, name, types.JSONPatchType, body, metav1.PatchOptions{FieldManager: "bench"})
	return err
}

// start runs guardian with these guards and waits until it has looked at all and
// recorded them.
func (b *bench) start(ctx context.Context, guards []string) error {
	return b.startWithPage(ctx, guards, "")
}

// startWithPage is start with a page at an address; empty: there is none.
func (b *bench) startWithPage(ctx context.Context, guards []string, page string) error {
	alerts, err := controlplane.FreePort()
	if err != nil {
		return err
	}
	metrics, err := controlplane.FreePort()
	if err != nil {
		return err
	}
	var c strings.Builder
	fmt.Fprintf(&c, "namespace: %s\nlisten: {alerts: \"127.0.0.1:%d\", metrics: \"127.0.0.1:%d\", page: %q}\nwebhook: {tokenFile: %s}\n", namespace, alerts, metrics, page, filepath.Join(b.dir, "token"))
	c.WriteString("prometheus: {url: \"http://127.0.0.1:1\"}\nalertmanager: {url: \"\"}\nrules: {enabled: false}\nlog: {level: warn}\nguards:\n")
	for _, g := range guards {
		fmt.Fprintf(&c, "- name: %s\n", g)
	}
	file := filepath.Join(b.dir, "config.yaml")
	if err := os.WriteFile(file, []byte(c.String()), 0o600); err != nil {
		return err
	}
	kubeconfig, err := b.plane.Kubeconfig(controlplane.Admin, namespace)
	if err != nil {
		return err
	}
	b.alerts, b.metric = fmt.Sprintf("http://127.0.0.1:%d", alerts), fmt.Sprintf("http://127.0.0.1:%d", metrics)
	began := time.Now()
	b.proc, err = b.plane.Run(ctx, controlplane.Program{Name: "guardian", Path: b.binary, Args: []string{"serve", "--config", file, "--kubeconfig", kubeconfig},
		Env: append([]string{"POD_NAME=guardian-bench"}, b.env...)})
	if err != nil {
		return err
	}
	if b.ready, err = b.awaitReady(ctx, began); err != nil {
		return err
	}
	return b.awaitRecords(ctx, guards, `"state":`)
}

// awaitReady waits until guardian, which began then, says that it is ready, and
// returns how long that has taken.
func (b *bench) awaitReady(ctx context.Context, began time.Time) (time.Duration, error) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := get(ctx, b.metric+"/readyz"); err == nil {
			return time.Since(began), nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-b.proc.Ended():
			return 0, fmt.Errorf("guardian ended:\n%s", b.proc.Tail(20))
		case <-tick.C:
		}
	}
}

func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// post sends one alert as Alertmanager does with group_by ['...'].
func (b *bench) post(ctx context.Context, client *http.Client, guard string, n int) error {
	alert := map[string]any{"status": "firing", "labels": map[string]string{"alertname": fmt.Sprintf("Bench%d", n), "guardian": "true", "guardian_guard": guard,
		"guardian_action": "rollback", "guardian_signal": "error_rate", "namespace": namespace, "severity": "critical"},
		"annotations": map[string]string{"summary": "the canary fails"}, "startsAt": time.Now().UTC().Format(time.RFC3339Nano), "endsAt": "0001-01-01T00:00:00Z",
		"fingerprint": fingerprint(fmt.Sprint(guard, n))}
	body, err := json.Marshal(map[string]any{"version": "4", "groupKey": guard, "status": "firing", "receiver": "guardian", "alerts": []any{alert}})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.alerts+"/webhook", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("webhook for %s: %s: %s", guard, resp.Status, text)
	}
	return err
}

func fingerprint(s string) string {
	h := fnv.New64a()
	h.Write([]byte(s))
	return fmt.Sprintf("%016x", h.Sum64())
}

// burst rolls all guards back at once, four alerts each.
func (b *bench) burst(ctx context.Context, guards, bare []string) error {
	if err := b.start(ctx, guards); err != nil {
		return err
	}
	p := phases{ready: b.ready, start: b.most()}
	var err error
	if p.idle, err = b.rest(ctx, false); err != nil {
		return err
	}
	if p.scraped, err = b.rest(ctx, true); err != nil {
		return err
	}
	b.most()
	if err := b.shift(ctx, guards); err != nil {
		return err
	}
	p.shift = b.most()
	if err := b.parallel(bare, 8, func(name string) error { return b.apps[name].SetWeights(ctx, 70, 30) }); err != nil {
		return err
	}
	plain, took, err := b.race(ctx, guards, bare, &p)
	if err != nil {
		return err
	}
	if p.restart, p.readyAgain, err = b.restart(ctx, guards); err != nil {
		return err
	}
	fmt.Printf("\nburst: %d guards, 4 alerts each, at once; from the first call sent to the last answered\n", len(guards))
	row("bare writes, %d at once", "%.2f s", "", writers, plain.Seconds())
	row("guardian", "%.2f s", "", took.Seconds())
	row("ratio", "%.2f", "1.3", took.Seconds()/plain.Seconds())
	p.bare.print("bare writes")
	p.rollbacks.print("guardian's")
	fmt.Printf("\n%d guards\n", len(guards))
	p.print()
	for _, ns := range []string{namespace, apart} {
		record, annotations, err := b.sizes(ctx, ns)
		if err != nil {
			return err
		}
		row("bytes of a record and of annotations, "+ns, "%d, %d", "", record, annotations)
	}
	return nil
}

// race times guardian's rollbacks and the bare writes, and looks at guardian's memory.
func (b *bench) race(ctx context.Context, guards, bare []string, p *phases) (plain, took time.Duration, err error) {
	// Half of the bare writes go before guardian's and half after, so that a
	// machine that is slower in one minute than in the next is slower for both.
	half := len(bare) / 2
	plain, first, err := b.timeBare(ctx, bare[:half])
	if err != nil {
		return 0, 0, err
	}
	b.most()
	if took, p.rollbacks, err = b.timed(func() error { return b.alarm(ctx, guards) }); err != nil {
		return 0, 0, fmt.Errorf("%w\n%s", err, b.proc.Tail(40))
	}
	ended := time.Now()
	p.end = b.resident()
	rest, second, err := b.timeBare(ctx, bare[half:])
	if err != nil {
		return 0, 0, err
	}
	p.bare = first.and(second)
	if err := b.allAtStable(ctx, guards); err != nil {
		return 0, 0, err
	}
	time.Sleep(time.Until(ended.Add(givenBack)))
	p.after = b.resident()
	p.burst = b.most()
	return plain + rest, took, nil
}

// restart is what comes after an upgrade, or after a kill: a start with all records
// there and all guards locked.
func (b *bench) restart(ctx context.Context, guards []string) (most float64, ready time.Duration, err error) {
	b.proc.Stop()
	if err := b.start(ctx, guards); err != nil {
		return 0, 0, err
	}
	if err := sleep(ctx, givenBack); err != nil {
		return 0, 0, err
	}
	most = b.most()
	b.proc.Stop()
	return most, b.ready, nil
}

// phases are what guardian has needed in each part of the burst's run.
type phases struct {
	ready, readyAgain            time.Duration
	start, shift, burst, restart float64 // MiB at most
	idle, scraped                rest
	end, after                   memory
	bare, rollbacks              processor // in the race
}

func (p phases) print() {
	row("resident memory, at most at the start", "%.1f MiB", "128", p.start)
	for _, m := range []struct {
		when, goal string
		memory
	}{{"at most while idle", "96", p.idle.most}, {"and scraped", "96", p.scraped.most}, {"at the end of the burst", "", p.end}, {"5 s after it", "96", p.after}} {
		row("resident memory, "+m.when, "%.1f MiB", m.goal, m.total)
		row("  of it program text", "%.1f MiB", "", m.file)
	}
	row("resident memory, at most in a shift of all", "%.1f MiB", "128", p.shift)
	row("resident memory, at most in the burst", "%.1f MiB", "128", p.burst)
	row("resident memory, at most at a restart", "%.1f MiB", "128", p.restart)
	row("start to ready", "%.2f s", "1", p.ready.Seconds())
	row("restart to ready, all guards locked", "%.2f s", "1", p.readyAgain.Seconds())
	row("idle processor time, of a core", "%.2f %%", "1", p.idle.share*100)
	row("and scraped every 15 s", "%.2f %%", "", p.scraped.share*100)
}

// sizes are how many bytes the records and the annotations of the VirtualServices of a
// namespace have, on average: the bare writes are to be no smaller than guardian's.
func (b *bench) sizes(ctx context.Context, ns string) (record, annotations int, err error) {
	records, err := b.kube.CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, 0, err
	}
	services, err := b.dyn.Resource(controlplane.VirtualServices).Namespace(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, 0, err
	}
	length := func(set map[string]string) (n int) {
		for k, v := range set {
			n += len(k) + len(v)
		}
		return n
	}
	var of, written int
	for i := range records.Items {
		if set := records.Items[i].Labels; set["canary-guardian.io/locked"] == "true" || set["bench/locked"] == "true" {
			record, of = record+length(records.Items[i].Data), of+1
		}
	}
	for i := range services.Items {
		if n := length(services.Items[i].GetAnnotations()); n > 0 {
			annotations, written = annotations+n, written+1
		}
	}
	return record / max(of, 1), annotations / max(written, 1), nil
}

// alarm sends four alerts for every guard, and returns when the last was answered.
// Those of one guard come together: its four signals are rules of one group, which
// Prometheus evaluates at one time.
func (b *bench) alarm(ctx context.Context, guards []string) error {
	calls := make([]string, 0, 4*len(guards))
	for _, g := range guards {
		for n := range 4 {
			calls = append(calls, fmt.Sprintf("%s %d", g, n))
		}
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	return b.parallel(calls, 64, func(call string) error {
		var guard string
		var n int
		if _, err := fmt.Sscan(call, &guard, &n); err != nil {
			return err
		}
		return b.post(ctx, client, guard, n)
	})
}

// timeBare times the bare writes of these names at guardian's concurrency.
func (b *bench) timeBare(ctx context.Context, names []string) (time.Duration, processor, error) {
	return b.timed(func() error {
		return b.parallel(names, writers, func(name string) error { return b.writeBare(ctx, name) })
	})
}

// oneByOne times single rollbacks against single bare writes, in turn.
func (b *bench) oneByOne(ctx context.Context, guards, bare []string) error {
	if err := b.start(ctx, guards); err != nil {
		return err
	}
	if err := b.shift(ctx, guards); err != nil {
		return err
	}
	if err := b.parallel(bare, 8, func(name string) error { return b.apps[name].SetWeights(ctx, 70, 30) }); err != nil {
		return err
	}
	client := &http.Client{}
	var plain, ours []time.Duration
	for i, g := range guards {
		began := time.Now()
		if err := b.writeBare(ctx, bare[i]); err != nil && !strings.Contains(err.Error(), "conflict") {
			return err
		}
		plain = append(plain, time.Since(began))
		began = time.Now()
		if err := b.post(ctx, client, g, 0); err != nil {
			return err
		}
		ours = append(ours, time.Since(began))
	}
	if err := b.allAtStable(ctx, guards); err != nil {
		return err
	}
	b.proc.Stop()
	fmt.Printf("\none rollback at a time, %d of them: webhook sent → record and VirtualService written\n", len(guards))
	for _, q := range []struct {
		name string
		at   float64
		goal string
	}{{"p50", .5, "1.25"}, {"p99", .99, "1.5"}} {
		p, o := quantile(plain, q.at), quantile(ours, q.at)
		row(q.name+" bare writes", "%.2f ms", "", ms(p))
		row(q.name+" guardian", "%.2f ms", "", ms(o))
		row(q.name+" ratio", "%.2f", q.goal, ms(o)/ms(p))
	}
	return nil
}

// row prints a line of the table: what was measured, its value and the goal,
// if it has one. args are those of what and value, in this order.
func row(what, value, goal string, args ...any) {
	n := strings.Count(what, "%")
	if goal != "" {
		goal = "goal: at most " + goal
	}
	line := fmt.Sprintf("  %-42s %14s   %s", fmt.Sprintf(what, args[:n]...), fmt.Sprintf(value, args[n:]...), goal)
	fmt.Println(strings.TrimRight(line, " "))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func quantile(d []time.Duration, q float64) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[min(len(s)-1, int(q*float64(len(s))))]
}

// allAtStable fails unless every canary has weight 0 and every record a lock.
func (b *bench) allAtStable(ctx context.Context, guards []string) error {
	list, err := b.dyn.Resource(controlplane.VirtualServices).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	text := map[string]string{}
	for i := range list.Items {
		raw, err := json.Marshal(list.Items[i].Object["spec"])
		if err != nil {
			return err
		}
		text[list.Items[i].GetName()] = string(raw)
	}
	records, err := b.kube.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{LabelSelector: "canary-guardian.io/locked=true"})
	if err != nil {
		return err
	}
	locked, status := map[string]bool{}, map[string]string{}
	for i := range records.Items {
		locked[records.Items[i].Name] = true
		status[records.Items[i].Name] = records.Items[i].Data["status"]
	}
	for _, g := range guards {
		if !strings.Contains(text[g], `"subset":"v2"},"weight":0`) || !locked["guardian-"+g] {
			return fmt.Errorf("%s was not rolled back (locked: %v): %s %s\n%s", g, locked["guardian-"+g], status["guardian-"+g], text[g], b.proc.Tail(20))
		}
	}
	return nil
}

// rest is guardian while nothing happens.
type rest struct {
	share float64 // of a core
	least float64 // MiB, resident
	most  memory
}

// rest measures it over a minute: within it guardian looks at every guard at
// least once, and Prometheus, if it is to, scrapes four times.
func (b *bench) rest(ctx context.Context, scraped bool) (r rest, err error) {
	const over = time.Minute
	was, err := processorTime(b.proc.Pid())
	if err != nil {
		return r, err
	}
	tick, scrape, end := time.NewTicker(time.Second), time.NewTicker(15*time.Second), time.After(over)
	defer tick.Stop()
	defer scrape.Stop()
	if !scraped {
		scrape.Stop()
	}
	for {
		m := b.resident()
		if m.total > r.most.total {
			r.most = m
		}
		if r.least == 0 || m.total < r.least {
			r.least = m.total
		}
		select {
		case <-ctx.Done():
			return r, ctx.Err()
		case <-tick.C:
		case <-scrape.C:
			if _, err := get(ctx, b.metric+"/metrics"); err != nil {
				return r, err
			}
		case <-end:
			is, err := processorTime(b.proc.Pid())
			r.share = (is - was).Seconds() / over.Seconds()
			return r, err
		}
	}
}

// most is how much of guardian was in memory at most since it was last asked, or
// since guardian's start, in MiB; 0 where it cannot be read.
func (b *bench) most() float64 {
	peak := b.resident().peak
	// A 5 has the kernel begin anew with the peak: proc_pid_clear_refs(5).
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", b.proc.Pid()), []byte("5"), 0); err != nil {
		return 0
	}
	return peak
}

// memory is what of guardian is in memory, in MiB; 0 where it cannot be read.
type memory struct{ total, file, peak float64 }

func (b *bench) resident() memory {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.proc.Pid()))
	if err != nil {
		return memory{}
	}
	var m memory
	for line := range strings.Lines(string(raw)) {
		for key, to := range map[string]*float64{"VmRSS:": &m.total, "RssFile:": &m.file, "VmHWM:": &m.peak} {
			if kb, ok := strings.CutPrefix(line, key); ok {
				var n float64
				if _, err := fmt.Sscan(kb, &n); err == nil {
					*to = n / 1024
				}
			}
		}
	}
	return m
}
