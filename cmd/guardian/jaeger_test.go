//go:build jaeger

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/test/controlplane"
	"github.com/canary-guardian/guardian/test/otlp"
)

// jaegerTag is an attribute in Jaeger's API.
type jaegerTag struct {
	Key   string
	Value any
}

func jaegerTags(tags []jaegerTag) map[string]string {
	out := map[string]string{}
	for _, t := range tags {
		out[t.Key] = fmt.Sprint(t.Value)
	}
	return out
}

// jaegerTrace is a trace in Jaeger's API.
type jaegerTrace struct {
	TraceID string
	Spans   []struct {
		TraceID, SpanID, OperationName, ProcessID string
		References                                []struct{ RefType, TraceID, SpanID string }
		StartTime, Duration                       int64 // microseconds
		Tags                                      []jaegerTag
	}
	Processes map[string]struct {
		ServiceName string
		Tags        []jaegerTag
	}
}

// spans are the trace's, as those of another receiver.
func (t jaegerTrace) spans() []otlp.Span {
	var out []otlp.Span
	for _, s := range t.Spans {
		process := t.Processes[s.ProcessID]
		o := otlp.Span{Name: s.OperationName, TraceID: s.TraceID, SpanID: s.SpanID, Attributes: jaegerTags(s.Tags), Resource: jaegerTags(process.Tags)}
		o.Kind, o.Failed = o.Attributes["span.kind"], o.Attributes["otel.status_description"]
		o.Resource["service.name"] = process.ServiceName
		o.Start = time.UnixMicro(s.StartTime)
		o.End = o.Start.Add(time.Duration(s.Duration) * time.Microsecond)
		for _, ref := range s.References {
			if ref.RefType == "CHILD_OF" {
				o.ParentID = ref.SpanID
			}
		}
		out = append(out, o)
	}
	return out
}

// askJaeger reads traces by Jaeger's API. A user interface reads them there too.
func askJaeger(ctx context.Context, address string) ([]jaegerTrace, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s: %s (%w)", address, response.Status, text, err)
	}
	var answer struct{ Data []jaegerTrace }
	return answer.Data, json.Unmarshal(text, &answer)
}

func (r *rig) jaeger(storage string) *controlplane.Jaeger {
	r.t.Helper()
	j, err := r.plane.StartJaeger(r.t.Context(), storage)
	r.must(err)
	r.t.Cleanup(j.Stop)
	return j
}

func TestARealJaegerHasTheTraceOfARollback(t *testing.T) {
	r := newRig(t)
	j := r.jaeger(controlplane.JaegerMemory)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", j.OTLP)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
	app := r.app("orders-service", 50)
	g := r.serve("guardian-0", r.config("127.0.0.1:0", "", app))
	r.postTraced(g, "/webhook", webhookOf(r.alertOf(app.Name)))
	record := r.rolledBack(app)
	query := url.Values{"service": {"guardian"}, "operation": {"patch VirtualService"}, "lookback": {"1h"}, "limit": {"20"},
		"tags": {fmt.Sprintf(`{"guardian.guard":%q}`, app.Name)}}
	var spans []otlp.Span
	r.wait("Jaeger has them all", func(ctx context.Context) error {
		found, err := askJaeger(ctx, j.URL+"/api/traces?"+query.Encode())
		if err != nil {
			return err
		}
		i := slices.IndexFunc(found, func(t jaegerTrace) bool { return t.TraceID == callersTrace })
		if i < 0 {
			return fmt.Errorf("%d traces, none of them the caller's", len(found))
		}
		spans = found[i].spans()
		for _, name := range []string{"POST /webhook", "reconcile guard", "decide", "write record", "patch VirtualService"} {
			if !slices.ContainsFunc(spans, func(s otlp.Span) bool { return s.Name == name }) {
				return fmt.Errorf("no span %s among %d", name, len(spans))
			}
		}
		return nil
	})
	t.Logf("as Jaeger's API has it:\n%s", otlp.Tree(spans, callersTrace))
	r.checkRollbackTrace(spans, app.Name, record.Lock.Build)
}

// proxySpan is a span as Istio's proxies send it, in OTLP's JSON. It stands in for theirs: there is no Envoy.
func proxySpan(id byte, service, revision string, failed bool, at time.Time) map[string]any {
	text := func(key, value string) map[string]any {
		return map[string]any{"key": key, "value": map[string]any{"stringValue": value}}
	}
	attributes := []any{text("istio.canonical_revision", revision), text("component", "proxy")}
	if failed {
		attributes = append(attributes, text("error", "true"), text("http.status_code", "503"))
	}
	return map[string]any{
		"resource": map[string]any{"attributes": []any{text("service.name", service)}},
		"scopeSpans": []any{map[string]any{"spans": []any{map[string]any{
			"traceId": strings.Repeat(fmt.Sprintf("%02x", id), 16), "spanId": strings.Repeat(fmt.Sprintf("%02x", id), 8), "name": "orders.shop.svc.cluster.local:80/*", "kind": 2,
			"startTimeUnixNano": fmt.Sprint(at.UnixNano()), "endTimeUnixNano": fmt.Sprint(at.Add(20 * time.Millisecond).UnixNano()), "attributes": attributes,
		}}}},
	}
}

// proxySpans sends some of both versions around a rollback, and returns their names by the traces' ids.
func (r *rig) proxySpans(j *controlplane.Jaeger, service string, rollback time.Time) map[string]string {
	r.t.Helper()
	names, all := map[string]string{}, []any{}
	add := func(name, revision string, failed bool, at time.Time) {
		id := byte(len(names) + 1)
		names[strings.Repeat(fmt.Sprintf("%02x", id), 16)] = name
		all = append(all, proxySpan(id, service, revision, failed, at))
	}
	add("v1, well", "v1", false, rollback)
	add("v1, failed", "v1", true, rollback)
	add("v2, well", "v2", false, rollback)
	add("v2, failed", "v2", true, rollback)
	add("v2, failed before", "v2", true, rollback.Add(-30*time.Minute))
	body, err := json.Marshal(map[string]any{"resourceSpans": all})
	r.must(err)
	response, err := http.Post(j.OTLP+"/v1/traces", "application/json", bytes.NewReader(body))
	r.must(err)
	r.must(response.Body.Close())
	if response.StatusCode != http.StatusOK {
		r.t.Fatal(response.Status)
	}
	return names
}

// The user interface hands the parameters of its own URL on to the API: where the API finds what is meant, so does it.
func TestARealJaegerFindsTheCanaryByGuardiansLinks(t *testing.T) {
	r := newRig(t)
	j := r.jaeger(controlplane.JaegerBadger) // that in memory finds no string in the place of error=true
	rollback := time.Now().Add(-10 * time.Minute).Truncate(time.Microsecond)
	names := r.proxySpans(j, "orders.shop", rollback)
	links := rules.Links{Jaeger: j.URL}
	receipt := func(signal rules.Signal) string {
		return links.Traces("shop", "orders", "v2", signal, rollback.Add(-tracesMargin), rollback.Add(tracesMargin)).URL
	}
	alert := func(tags string) string { // as the rules make it
		return j.URL + "/search?" + url.Values{"lookback": {"1h"}, "limit": {"20"}, "service": {"orders.shop"}, "tags": {tags}}.Encode()
	}
	const failed = `{"error":"true","istio.canonical_revision":"v2"}`
	for _, c := range []struct {
		name, link string
		want       []string
	}{
		{"a receipt's, of errors", receipt(rules.SignalErrorRate), []string{"v2, failed"}},
		{"a receipt's, of latency", receipt(rules.SignalLatency), []string{"v2, failed", "v2, well"}},
		{"an alert's, of errors", alert(failed), []string{"v2, failed", "v2, failed before"}},
		{"an alert's, of latency", alert(`{"istio.canonical_revision":"v2"}`), []string{"v2, failed", "v2, failed before", "v2, well"}},
		{"an alert's, around its time", links.AlertTraces(alert(failed), rollback.Add(-tracesMargin), rollback.Add(tracesMargin)), []string{"v2, failed"}},
	} {
		var got []string
		r.wait(c.name, func(context.Context) error {
			ctx := t.Context()
			page, query, _ := strings.Cut(c.link, "?")
			if err := get(ctx, c.link); err != nil || page != j.URL+"/search" {
				return fmt.Errorf("%s is no page of Jaeger: %w", c.link, err)
			}
			traces, err := askJaeger(ctx, j.URL+"/api/traces?"+query)
			found := map[string]bool{}
			for _, t := range traces {
				found[names[t.TraceID]] = true
			}
			if got = slices.Sorted(maps.Keys(found)); err == nil && !slices.Equal(got, c.want) {
				err = fmt.Errorf("%s finds %q, want %q", c.link, got, c.want)
			}
			return err
		})
		t.Logf("%s: %q\n%s", c.name, got, c.link)
	}
}
