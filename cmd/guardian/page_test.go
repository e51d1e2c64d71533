package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
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
	for _, want := range []string{"Refused builds", rec.Lock.Build, "kubectl guardian unlock orders-service -n " + r.ns, "50% → 0%", "Heartbeat", "received"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
}
