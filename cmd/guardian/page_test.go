package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canary-guardian/guardian/cmd/guardian/page"
	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/decision"
)

// withPage adds a page to a configuration.
func withPage(settings string) string {
	return strings.Replace(settings, `metrics: "127.0.0.1:0"`, `metrics: "127.0.0.1:0", page: "127.0.0.1:0"`, 1)
}

// pageURL is where a guardian's page is.
func (g *guardian) pageURL() string { return "http://" + g.page.listener.Addr().String() }

// pageOf gets one of the page's addresses.
func pageOf(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, body)
	}
	return string(body), err
}

// TestEveryCommandOfThePageIsTaken has the page offer what it can, and types it.
func TestEveryCommandOfThePageIsTaken(t *testing.T) {
	tried := map[string]bool{}
	for _, r := range []decision.Record{
		{Lock: &decision.Lock{}}, {Status: decision.Status{Weight: 10, ByPersons: decision.ByPersons{Disarmed: &decision.Disarm{}}}}, {Status: decision.Status{ByPersons: decision.ByPersons{Paused: &decision.Pause{}}}},
		{Status: decision.Status{State: decision.StateShifting, Weight: 10, StepStatus: decision.StepStatus{Mode: decision.PromotionManual, NextStep: 30}}},
	} {
		for _, c := range page.Commands("orders-service", "microservices", r) {
			words := shellCalls(c.Line)[0]
			if words[0] != "guardian" {
				t.Fatalf("%q", words)
			}
			cmd, err := taken(words[1:])
			if err != nil {
				t.Fatalf("%s: %v", c.Line, err)
			}
			if reason := cmd.Flags().Lookup("reason"); reason != nil && !reason.Changed {
				t.Errorf("%s: it is refused without --reason", c.Line)
			}
			if length := cmd.Flags().Lookup("for"); length != nil && !length.Changed {
				t.Errorf("%s: it is refused without --for", c.Line)
			}
			tried[cmd.Name()] = true
		}
	}
	if len(tried) != 8 {
		t.Errorf("tried %v", tried)
	}
}

// The page's port asks for what web.configFile demands, for each of its addresses.
func TestThePageAsksForThePasswordOfTheWebConfig(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service", 50)
	file := filepath.Join(t.TempDir(), "web.yaml")
	// correct-horse, by bcrypt
	r.must(os.WriteFile(file, []byte(`basic_auth_users: {ann: "$2a$04$jRxweUt98KtI0PqbL1grie897JtfAswPwlSE3k.kP2/M2.8CS5lv2"}`+"\n"), 0o600))
	settings := withPage(r.config("127.0.0.1:0", fmt.Sprintf("web: {configFile: %q}", file), app))
	g := r.serve("guardian-0", strings.Replace(settings, fmt.Sprintf("tokenFile: %q", r.token), `tokenFile: ""`, 1)) // one proof is enough
	r.wait("the page is served", func(ctx context.Context) error {
		_, err := pageOf(ctx, g.pageURL()+"/")
		if err != nil && strings.Contains(err.Error(), "401") {
			err = nil
		}
		return err
	})
	for _, path := range []string{"/", "/guards/" + app.Name, "/events", "/page.js", "/page.css", "/nothing"} {
		for password, want := range map[string]bool{"": false, "wrong": false, "correct-horse": true} {
			ctx, cancel := context.WithCancel(t.Context())
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, g.pageURL()+path, nil)
			r.must(err)
			if password != "" {
				request.SetBasicAuth("ann", password)
			}
			answer, err := http.DefaultClient.Do(request)
			r.must(err)
			if let := answer.StatusCode != http.StatusUnauthorized; let != want {
				t.Errorf("%s with password %q: %s", path, password, answer.Status)
			}
			cancel() // a stream goes on for ever
			_ = answer.Body.Close()
		}
	}
}

// TestAPageThatCannotBeServedStopsNoBrake has somebody else at its port.
func TestAPageThatCannotBeServedStopsNoBrake(t *testing.T) {
	r := newRig(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	r.must(err)
	defer func() { _ = taken.Close() }()
	app := r.app("orders-service", 50)
	g := r.serve("guardian-0", strings.Replace(r.config("127.0.0.1:0", "", app), `metrics: "127.0.0.1:0"`, fmt.Sprintf(`metrics: "127.0.0.1:0", page: %q`, taken.Addr()), 1))
	r.must(insist(t.Context(), g.url, webhookOf(r.alertOf(app.Name))))
	r.rolledBack(app)
	if !strings.Contains(g.log.String(), "there is no page") {
		t.Error("the log does not say so")
	}
}

// A pass that finds everything as it was is no news.
func TestThePageIsToldOfChangesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := page.New(page.Options{Now: time.Now, Hosts: []string{"example.com"}})
		s := pageServer{page: p, last: map[string]remediate.View{}}
		w, ended := httptest.NewRecorder(), make(chan struct{})
		go func() {
			defer close(ended)
			p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/events", nil))
		}()
		view := remediate.View{Name: "orders", Seen: true, Status: decision.Status{Weight: 10}}
		pass := func() {
			synctest.Wait()
			s.passed(view)
			time.Sleep(2 * time.Second) // longer than a stream's pace
		}
		pass()
		pass()
		pass()
		view.Status.Weight = 30
		pass()
		p.Close()
		<-ended
		if n := strings.Count(w.Body.String(), "event: changed"); n != 2 {
			t.Errorf("told %d times", n)
		}
	})
}

// TestThePageShowsARollbackAsTheRecordHasIt looks at it as a browser does that has
// it open.
func TestThePageShowsARollbackAsTheRecordHasIt(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service", 50)
	g := r.serve("guardian-0", withPage(r.config("127.0.0.1:0", "", app)))
	r.wait("the split is shown", func(ctx context.Context) error {
		body, err := pageOf(ctx, g.pageURL()+"/guards/"+app.Name)
		if err == nil && !strings.Contains(body, "canary went from 0% to 50%") && !strings.Contains(body, "50% of the traffic") {
			err = errors.New(body)
		}
		return err
	})
	stream, err := http.Get(g.pageURL() + "/events")
	r.must(err)
	defer func() { _ = stream.Body.Close() }()
	r.must(insist(t.Context(), g.url, webhookOf(r.alertOf(app.Name))))
	rec := r.rolledBack(app)
	lines := bufio.NewScanner(stream.Body)
	for lines.Scan() && lines.Text() != "event: changed" {
	}
	r.must(lines.Err())
	r.wait("the rollback is shown", func(ctx context.Context) error {
		for _, path := range []string{"/", "/guards/" + app.Name} {
			body, err := pageOf(ctx, g.pageURL()+path)
			if err != nil {
				return err
			}
			if !strings.Contains(body, `stopped">rolled-back`) || !strings.Contains(body, rec.Lock.Reason) {
				return fmt.Errorf("%s:\n%s", path, body)
			}
		}
		return nil
	})
	body, err := pageOf(t.Context(), g.pageURL()+"/guards/"+app.Name)
	r.must(err)
	for _, want := range []string{"Refused builds", rec.Lock.Build, "guardian unlock orders-service -n " + r.ns, "50% → 0%", "Heartbeat", "received",
		"Last rollback", "<dt>Alert</dt><dd>CanaryErrors</dd>", "guardian gate orders-service -n " + r.ns + " --wait-unlocked"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
}
