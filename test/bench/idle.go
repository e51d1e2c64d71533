package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/canary-guardian/guardian/test/controlplane"
)

const (
	replicas  = 2 // of a release, as the chart has it
	idleGoalW = 0.15
	idleGoalV = 6

	// idleAfter is when replicas have taken a release for idle: the Lease for going
	// forward is held, the rules are written, and nothing has gone on for a while.
	idleAfter = 2 * time.Minute
)

// idleReleases counts what releases that have nothing to do ask of the API server,
// by the server's own metrics. What is asked without them is taken off.
func (b *bench) idleReleases(ctx context.Context, n int, over time.Duration) error {
	for i := range n {
		ns := releaseNamespace(i)
		if err := b.plane.CreateNamespace(ctx, ns); err != nil {
			return err
		}
		if err := b.makeApp(ctx, ns, "orders-service"); err != nil {
			return err
		}
	}
	without, err := b.requests(ctx, over)
	if err != nil {
		return err
	}
	for i := range n {
		for replica := range replicas {
			if err := b.startReplica(ctx, releaseNamespace(i), replica); err != nil {
				return err
			}
		}
	}
	if err := sleep(ctx, idleAfter); err != nil {
		return err
	}
	with, err := b.requests(ctx, over)
	if err != nil {
		return err
	}
	fmt.Printf("\n%d idle releases of %d replicas and one guard each, over %s; requests a second and watches of one release\n", n, replicas, over)
	writes, reads, watches, open := 0.0, 0.0, 0.0, 0.0
	for _, key := range with.keys() {
		rate, isOpen := (with.rate[key]-without.rate[key])/float64(n), (with.watches[key]-without.watches[key])/float64(n)
		switch verb, _, _ := strings.Cut(key, " "); verb {
		case "WATCH":
			watches, open = watches+rate, open+isOpen
			if isOpen > 0 {
				row(key+", open", "%.1f", "", isOpen)
			}
		case "GET", "LIST":
			reads += rate
		case "POST", "PUT", "PATCH", "DELETE", "APPLY":
			writes += rate
		}
		if rate > 0.0005 {
			row(key, "%.3f", "", rate)
		}
	}
	row("all reads", "%.3f", "", reads)
	row("all watches that ended", "%.3f", "", watches)
	row("all writes", "%.3f", fmt.Sprint(idleGoalW), writes)
	row("watches that are open", "%.1f", fmt.Sprint(idleGoalV), open)
	return nil
}

func releaseNamespace(i int) string { return fmt.Sprintf("release-%02d", i) }

// startReplica runs one replica as the chart configures it: it writes its rules.
func (b *bench) startReplica(ctx context.Context, ns string, replica int) error {
	var ports [2]int
	for i := range ports {
		port, err := controlplane.FreePort()
		if err != nil {
			return err
		}
		ports[i] = port
	}
	config := fmt.Sprintf("namespace: %s\ninstance: guardian\nlisten: {alerts: \"127.0.0.1:%d\", metrics: \"127.0.0.1:%d\"}\nwebhook: {tokenFile: %s}\n"+
		"prometheus: {url: \"http://127.0.0.1:1\"}\nalertmanager: {url: \"\"}\nlog: {level: warn}\nguards:\n- name: orders-service\n",
		ns, ports[0], ports[1], filepath.Join(b.dir, "token"))
	name := fmt.Sprintf("%s-%d", ns, replica)
	file := filepath.Join(b.dir, name+".yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	kubeconfig, err := b.plane.Kubeconfig(controlplane.Admin, ns)
	if err != nil {
		return err
	}
	url := fmt.Sprintf("http://127.0.0.1:%d/readyz", ports[1])
	_, err = b.plane.Run(ctx, controlplane.Program{Name: "guardian-" + name, Path: b.binary, Args: []string{"serve", "--config", file, "--kubeconfig", kubeconfig},
		Env: []string{"POD_NAME=guardian-" + name}, Ready: func(ctx context.Context) error { _, err := get(ctx, url); return err }})
	return err
}

// asked is what the API server was asked for, by verb and resource.
type asked struct {
	rate    map[string]float64 // requests a second
	watches map[string]float64 // that are open
}

func (a asked) keys() []string {
	var out []string
	for k := range a.rate {
		out = append(out, k)
	}
	for k := range a.watches {
		if _, both := a.rate[k]; !both {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}

// requests measures them over a while.
func (b *bench) requests(ctx context.Context, over time.Duration) (a asked, err error) {
	before, err := b.serverMetric(ctx, "apiserver_request_total")
	if err != nil {
		return a, err
	}
	if err := sleep(ctx, over); err != nil {
		return a, err
	}
	after, err := b.serverMetric(ctx, "apiserver_request_total")
	if err != nil {
		return a, err
	}
	a.rate = map[string]float64{}
	for key, n := range after {
		a.rate[key] = (n - before[key]) / over.Seconds()
	}
	a.watches, err = b.serverMetric(ctx, "apiserver_longrunning_requests")
	return a, err
}

// serverMetric reads one of the API server's own metrics, added up by verb and
// resource.
func (b *bench) serverMetric(ctx context.Context, name string) (map[string]float64, error) {
	body, err := b.kube.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the API server's metrics: %w", err)
	}
	out := map[string]float64{}
	for lines := bufio.NewScanner(bytes.NewReader(body)); lines.Scan(); {
		labels, ok := strings.CutPrefix(lines.Text(), name+"{")
		if !ok {
			continue
		}
		labels, value, _ := strings.Cut(labels, "} ")
		n, err := strconv.ParseFloat(value, 64)
		if resource := label(labels, "resource"); err == nil && resource != "" {
			out[label(labels, "verb")+" "+resource] += n
		}
	}
	return out, nil
}

// label is the value of a label in a series' text.
func label(labels, name string) string {
	_, rest, _ := strings.Cut(","+labels, ","+name+`="`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
