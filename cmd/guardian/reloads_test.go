package main

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
)

// reloading is a guardian whose metrics port alone runs.
type reloading struct {
	*service
	t   *testing.T
	log *bytes.Buffer
	now time.Time
}

func newReloading(t *testing.T) *reloading {
	t.Helper()
	r := &reloading{t: t, log: &bytes.Buffer{}, now: time.Unix(1_800_000_000, 0)}
	var err error
	if r.service, err = newService(r.parse(""), &rest.Config{Host: "http://127.0.0.1:1"}, slog.New(slog.NewTextHandler(r.log, nil))); err != nil {
		t.Fatal(err)
	}
	r.reloads.now = func() time.Time { return r.now }
	if err := r.server.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.server.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
		for _, f := range r.close {
			f()
		}
	})
	return r
}

func (r *reloading) parse(more string) config.Config {
	r.t.Helper()
	c, err := config.Parse([]byte("namespace: shop\nlisten: {alerts: '127.0.0.1:0', metrics: '127.0.0.1:0'}\nwebhook: {tokenFile: '', allowAnonymous: true}\nalertmanager: {url: 'http://127.0.0.1:1'}\nguards: [{name: orders}]\n" + more))
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

var aboutReloads = regexp.MustCompile(`(?m)^guardian_config_.*$`)

// says checks what the metrics port shows of the configuration.
func (r *reloading) says(when, successful, at string) {
	r.t.Helper()
	answer, err := http.Get("http://" + r.server.MetricsAddr().String() + "/metrics")
	if err != nil {
		r.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	want := `guardian_config_last_reload_success_timestamp_seconds{guardian_namespace="shop"} ` + at + "\n" + `guardian_config_last_reload_successful{guardian_namespace="shop"} ` + successful
	if got := strings.Join(aboutReloads.FindAllString(string(body), -1), "\n"); got != want {
		r.t.Errorf("%s: got\n%s\nwant\n%s", when, got, want)
	}
	if strings.Contains(string(body), "hunter2") {
		r.t.Errorf("%s: the metrics have what was wrong with the file", when)
	}
}

func TestWhetherTheConfigurationsFileIsTheOneInForceIsAMetric(t *testing.T) {
	r := newReloading(t)
	if err := r.setGuards(r.config); err != nil {
		t.Fatal(err)
	}
	r.says("at the start", "1", "1.8e+09")
	w := r.watcher("guardian.yaml", nil)
	later := func() { r.now = r.now.Add(time.Minute) }

	later()
	w.Report(errors.New("guards[0].hunter2: no such key"))
	r.says("a file with a problem", "0", "1.8e+09")
	if !strings.Contains(r.log.String(), "invalid configuration ignored, keeping the previous one") || !strings.Contains(r.log.String(), "guards[0].hunter2") {
		t.Errorf("the log does not say what is wrong: %s", r.log)
	}
	w.Apply(r.parse(""))
	r.says("the file of before is back", "1", "1.80000006e+09")

	later()
	other := r.parse("")
	other.Namespace = "elsewhere"
	w.Apply(other)
	r.says("a namespace that cannot change while it runs", "0", "1.80000006e+09")
	w.Apply(r.parse("heartbeat: {maxAge: 4m}\n"))
	r.says("another configuration", "1", "1.80000012e+09")

	later()
	unfit := r.parse("")
	unfit.Rules.Interval = -time.Second
	w.Apply(unfit)
	r.says("one that no rules can be made for", "0", "1.80000012e+09")
	w.Apply(r.parse("log: {level: debug}\n"))
	r.says("one that a restart takes over in whole", "1", "1.80000018e+09")

	later()
	w.Unwatched(syscall.EMFILE)
	r.says("no watch of the file", "1", "1.80000018e+09")
	if !strings.Contains(r.log.String(), "the configuration's file cannot be watched") {
		t.Errorf("the log does not say so: %s", r.log)
	}
}
