package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/canary-guardian/guardian/test/controlplane"
)

// guardian is one replica.
type guardian struct {
	name            string
	alerts, metrics string // host:port
	program         controlplane.Program
	process         *controlplane.Process
}

// configure writes guardian.yaml and the token, and takes ports for guardian's replicas and for the Service before them.
func (st *stage) configure(context.Context) error {
	st.token = filepath.Join(st.plane.Dir(), "token")
	if err := os.WriteFile(st.token, []byte(rand.Text()), 0o600); err != nil {
		return err
	}
	var backends []string
	for i := range max(1, st.plan.replicas) {
		g := &guardian{name: fmt.Sprintf("guardian-%d", i)}
		for _, address := range []*string{&g.alerts, &g.metrics} {
			port, err := controlplane.FreePort()
			if err != nil {
				return err
			}
			*address = fmt.Sprintf("127.0.0.1:%d", port)
		}
		st.guardians = append(st.guardians, g)
		backends = append(backends, g.alerts)
	}
	var err error
	if st.webhook, err = forward(backends); err != nil {
		return err
	}
	st.config = filepath.Join(st.plane.Dir(), "guardian.yaml")
	return st.writeConfig(st.config, st.guardians[0])
}

// writeConfig writes one replica's configuration. Its guards are one line each, but for what the act adds.
func (st *stage) writeConfig(file string, g *guardian) error {
	type object = map[string]any
	var guards []object
	for _, p := range st.plan.apps {
		guard := object{"name": p.name + "-service"}
		for key, value := range st.plan.guard {
			guard[key] = value
		}
		guards = append(guards, guard)
	}
	// The demo has no prometheus-operator: its Prometheus reads files that `guardian rules` has printed.
	rules := object{"enabled": false, "interval": cmp.Or(st.plan.every, evaluation).String(), "scrapeInterval": st.plan.scrape.String()}
	if st.plan.fast > 0 {
		rules["fastLane"] = object{"enabled": true, "interval": st.plan.fast.String()}
	}
	config := object{
		"namespace": namespace,
		"log":       object{"level": "debug"},
		"listen":    object{"alerts": g.alerts, "metrics": g.metrics},
		"webhook":   object{"tokenFile": st.token},
		"rules":     rules,
		"guards":    guards,
	}
	if st.prometheus != nil {
		config["prometheus"] = object{"url": st.prometheus.URL}
		config["alertmanager"] = object{"url": st.alertmgr.URL}
		rules["links"] = object{"prometheus": st.prometheus.URL}
	}
	content, err := yaml.Marshal(config)
	if err != nil {
		return err
	}
	return os.WriteFile(file, content, 0o644)
}

// guardian runs one of guardian's printing commands.
func (st *stage) guardian(ctx context.Context, args ...string) (string, error) {
	var errOut bytes.Buffer
	command := exec.CommandContext(ctx, st.binary, args...)
	command.Stderr = &errOut
	out, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("guardian %s: %w: %s", strings.Join(args, " "), err, errOut.String())
	}
	return string(out), nil
}

// startGuardians starts every replica with its own ServiceAccount's token and no more rights than rbac.yaml gives.
func (st *stage) startGuardians(ctx context.Context) error {
	account, err := st.plane.ServiceAccount(ctx, namespace, "guardian")
	if err != nil {
		return err
	}
	kubeconfig, err := st.plane.WriteKubeconfig(account, "guardian", namespace)
	if err != nil {
		return err
	}
	for _, g := range st.guardians {
		file := filepath.Join(st.plane.Dir(), g.name+".yaml")
		if err := st.writeConfig(file, g); err != nil {
			return err
		}
		g.program = controlplane.Program{
			Name: g.name, Path: st.binary, Args: []string{"serve", "--config", file, "--kubeconfig", kubeconfig},
			Env: []string{"POD_NAME=" + g.name},
			Ready: func(ctx context.Context) error {
				_, err := get(ctx, "http://"+g.metrics+"/readyz")
				return err
			},
		}
		if g.process, err = st.plane.Run(ctx, g.program); err != nil {
			return err
		}
	}
	return nil
}

// get reads a URL; any status but 200 is an error.
func get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s: %s", url, response.Status, body)
	}
	return body, nil
}

// logLine is one line of guardian's log, as far as the demo reads it.
type logLine struct {
	Time     time.Time `json:"time"`
	Msg      string    `json:"msg"`
	Guard    string    `json:"guard"`
	GroupKey string    `json:"group_key"`
	Identity string    `json:"identity"`
	Held     bool      `json:"held"`
}

// logged returns the first line after a time in any replica's log that fits; false: there is none.
func (st *stage) logged(after time.Time, fits func(logLine) bool) (logLine, bool) {
	var first logLine
	found := false
	for _, g := range st.guardians {
		content, err := os.ReadFile(g.process.Log())
		if err != nil {
			continue
		}
		for line := range bytes.Lines(content) {
			var l logLine
			if json.Unmarshal(line, &l) != nil || l.Time.Before(after) || !fits(l) {
				continue
			}
			if !found || l.Time.Before(first.Time) {
				first, found = l, true
			}
			break
		}
	}
	return first, found
}

// forwarder stands before guardian's replicas as their Kubernetes Service would: a connection goes to one that takes it.
type forwarder struct {
	listener net.Listener
	backends []string
}

func forward(backends []string) (*forwarder, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f := &forwarder{listener: listener, backends: backends}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go f.pipe(client)
		}
	}()
	return f, nil
}

func (f *forwarder) url() string { return "http://" + f.listener.Addr().String() }

func (f *forwarder) stop() { _ = f.listener.Close() }

func (f *forwarder) pipe(client net.Conn) {
	defer func() { _ = client.Close() }()
	for _, address := range f.backends {
		server, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			continue
		}
		defer func() { _ = server.Close() }()
		go func() {
			_, _ = io.Copy(server, client)
			_ = server.Close()
		}()
		_, _ = io.Copy(client, server)
		return
	}
}
