package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/test/controlplane"
	"github.com/canary-guardian/guardian/test/otlp"
)

// A caller's trace, as W3C's header has it.
const (
	callersTrace = "4bf92f3577b34da6a3ce929d0e0e4736"
	callersSpan  = "00f067aa0ba902b7"
)

// postTraced sends an alert of a guard within the caller's trace.
func (r *rig) postTraced(g *guardian, path string, body []byte) {
	r.t.Helper()
	request, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, g.url+path, bytes.NewReader(body))
	r.must(err)
	request.Header.Set("Authorization", "Bearer "+bearer)
	request.Header.Set("traceparent", "00-"+callersTrace+"-"+callersSpan+"-01")
	response, err := http.DefaultClient.Do(request)
	r.must(err)
	r.must(response.Body.Close())
	if response.StatusCode != http.StatusOK {
		r.t.Fatal(response.Status)
	}
}

// spanOf is the one of that name in the caller's trace.
func (r *rig) spanOf(spans []otlp.Span, name string) otlp.Span {
	r.t.Helper()
	i := slices.IndexFunc(spans, func(s otlp.Span) bool { return s.Name == name && s.TraceID == callersTrace })
	if i < 0 {
		r.t.Fatalf("no span %q of the caller's trace among %+v", name, spans)
	}
	return spans[i]
}

// collects has guardian send its spans to a receiver that decodes them.
func (r *rig) collects() *otlp.Receiver {
	r.t.Helper()
	collector := otlp.NewReceiver()
	r.t.Cleanup(collector.Close)
	r.t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	r.t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
	return collector
}

func TestARollbackIsOneTraceFromTheCallToTheWrites(t *testing.T) {
	r := newRig(t)
	collector := r.collects()
	app := r.app("orders-service", 50)
	g := r.serve("guardian-0", r.config("127.0.0.1:0", "", app))
	r.postTraced(g, "/webhook", webhookOf(r.alertOf(app.Name)))
	record := r.rolledBack(app)
	scraped := r.scrape(g, "application/openmetrics-text; version=1.0.0")
	g.stop()
	spans := collector.Spans()
	if wrong := collector.Wrong(); len(wrong) > 0 {
		t.Fatal(wrong)
	}
	t.Logf("as the receiver saw it:\n%s", otlp.Tree(spans, callersTrace))
	r.checkRollbackTrace(spans, app.Name, record.Lock.Build)
	if line := regexp.MustCompile(`(?m)^.*msg="traffic moved to stable".*$`).FindString(g.log.String()); !strings.Contains(line, "trace_id="+callersTrace) {
		t.Errorf("the log does not name the trace: %q", line)
	}
	if !regexp.MustCompile(`(?m)^guardian_rollback_seconds_bucket\{.*guard="orders-service".*\} 1 # \{trace_id="`+callersTrace+`"\} [0-9.e-]+`).MatchString(scraped) || !strings.HasSuffix(scraped, "# EOF\n") {
		t.Errorf("no exemplar with the trace in:\n%s", onlyOf(scraped, "guardian_rollback_seconds"))
	}
	if plain := onlyOf(scraped, "guardian_rollbacks_total"); plain == "" {
		t.Error("no counters")
	}
}

// checkRollbackTrace holds the spans of a rollback, as whoever received them has them,
// against what guardian did.
func (r *rig) checkRollbackTrace(spans []otlp.Span, guard, build string) {
	r.t.Helper()
	t := r.t
	call, pass := r.spanOf(spans, "POST /webhook"), r.spanOf(spans, "reconcile guard")
	if call.ParentID != callersSpan || call.Kind != "server" || pass.ParentID != call.SpanID {
		t.Errorf("parents: of the call %s, want %s; of the pass %s, want %s", call.ParentID, callersSpan, pass.ParentID, call.SpanID)
	}
	for _, c := range []struct {
		span otlp.Span
		want map[string]string
	}{
		{call, map[string]string{"http.request.method": "POST", "http.route": "/webhook", "http.response.status_code": "200", "guardian.lane": "webhook", "guardian.alerts": "1"}},
		{pass, map[string]string{"k8s.namespace.name": r.ns, "guardian.guard": guard}},
		{r.spanOf(spans, "decide"), map[string]string{"guardian.guard": guard, "guardian.build": build, "guardian.signal": "error_rate", "guardian.alert": "CanaryErrors",
			"guardian.reason": "rollback alert", "guardian.weight.from": "50", "guardian.weight.to": "0"}},
		{r.spanOf(spans, "write record"), map[string]string{"guardian.resource": "configmaps", "k8s.namespace.name": r.ns}},
		{r.spanOf(spans, "patch VirtualService"), map[string]string{"guardian.resource": "virtualservices/" + guard, "k8s.namespace.name": r.ns}},
	} {
		for k, v := range c.want {
			if c.span.Attributes[k] != v {
				t.Errorf("%s has %s=%q, want %q", c.span.Name, k, c.span.Attributes[k], v)
			}
		}
		if c.span.Failed != "" || c.span.End.Before(c.span.Start) || c.span.Resource["service.name"] != "guardian" || c.span.Resource["k8s.pod.name"] != "guardian-0" || c.span.Resource["k8s.namespace.name"] != r.ns {
			t.Errorf("%+v", c.span)
		}
		if c.span.Name != call.Name && c.span.Name != pass.Name && c.span.ParentID != pass.SpanID {
			t.Errorf("%s is below %s, want the pass", c.span.Name, c.span.ParentID)
		}
	}
}

var droppedSpans = regexp.MustCompile(`(?m)^guardian_trace_spans_dropped_total\{guardian_namespace="[^"]+",reason="failed"\} (\d+)$`)

// A collector that is not there, and an environment that makes no sense, keep nobody
// from rolling back.
func TestRollbacksDoNotNeedTheCollector(t *testing.T) {
	for name, env := range map[string]struct{ endpoint, sampler, log string }{
		"nobody there": {"http://127.0.0.1:1", "", `msg="traces are sent"`},
		"a bad value":  {"http://127.0.0.1:1", "sometimes", `OTEL_TRACES_SAMPLER: \"sometimes\": want always_on`},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", env.endpoint)
			t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "100")
			t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
			t.Setenv("OTEL_TRACES_SAMPLER", env.sampler)
			app := r.app("orders-service", 50)
			g := r.serve("guardian-0", r.config("127.0.0.1:0", "", app))
			r.postTraced(g, "/webhook", webhookOf(r.alertOf(app.Name)))
			r.must(isAt(t.Context(), app, 0))
			r.wait("dropped spans are counted", func(context.Context) error {
				counted := droppedSpans.FindStringSubmatch(r.scrape(g, "text/plain"))
				if asked := env.sampler == ""; asked != (counted != nil) || asked && counted[1] == "0" {
					return fmt.Errorf("counted %q", counted)
				}
				return nil
			})
			g.stop()
			if !strings.Contains(strings.ReplaceAll(g.log.String(), `\\\"`, `\"`), env.log) {
				t.Errorf("the log lacks %q:\n%s", env.log, g.log)
			}
		})
	}
}

// scrape reads the metrics as Prometheus asks for them.
func (r *rig) scrape(g *guardian, accept string) string {
	r.t.Helper()
	request, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, "http://"+g.server.MetricsAddr().String()+"/metrics", nil)
	r.must(err)
	request.Header.Set("Accept", accept)
	response, err := http.DefaultClient.Do(request)
	r.must(err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	r.must(err)
	if kind := response.Header.Get("Content-Type"); !strings.HasPrefix(kind, strings.Split(accept, ";")[0]) {
		r.t.Errorf("%s, want %s", kind, accept)
	}
	return string(text)
}

// lint has promtool judge names, types, units and help of all that a guardian exports.
func (r *rig) lint(g *guardian) {
	r.t.Helper()
	promtool, err := controlplane.Binary(r.t.Context(), "promtool")
	r.must(err)
	text := r.scrape(g, "text/plain")
	cmd := exec.CommandContext(r.t.Context(), promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
	for _, want := range []string{"guardian_rollbacks_total", "guardian_weight_percent", "guardian_alerts_received_total", "guardian_notification_posts_total"} {
		if onlyOf(text, want+"{") == "" {
			r.t.Errorf("%s has no series, so that promtool has not seen it", want)
		}
	}
}

func onlyOf(text, prefix string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			b.WriteString(line)
		}
	}
	return b.String()
}
