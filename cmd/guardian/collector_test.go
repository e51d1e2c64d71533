//go:build otel

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/test/controlplane"
	"github.com/canary-guardian/guardian/test/otlp"
)

// An alert goes into a real Alertmanager whose own tracing is on, and a real collector
// gets the spans of both.
func TestARealCollectorSeesARollbackFromAlertmanagerToTheWrites(t *testing.T) {
	r := newRig(t)
	collector, err := r.plane.StartCollector(t.Context())
	r.must(err)
	t.Cleanup(collector.Stop)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
	app := r.app("orders-service", 50)
	port, err := controlplane.FreePort()
	r.must(err)
	r.serve("guardian-0", r.config(fmt.Sprintf("127.0.0.1:%d", port), "", app))
	am := r.alertmanagerWith(map[string]any{"tracing": map[string]any{
		"endpoint": strings.TrimPrefix(collector.URL, "http://"), "client_type": "http", "insecure": true, "sampling_fraction": 1.0,
	}}, port)
	r.tell(am, time.Now().Add(time.Hour), r.alertOf(app.Name))
	record := r.rolledBack(app)
	var spans []otlp.Span
	var write, call otlp.Span
	r.wait("the collector has them all", func(context.Context) (err error) {
		if spans, err = printed(collector.Log()); err != nil {
			return err
		}
		writes := named(spans, "patch VirtualService")
		if len(writes) == 0 {
			return fmt.Errorf("%d spans, none of a write", len(spans))
		}
		write = writes[0]
		spans = slices.DeleteFunc(spans, func(s otlp.Span) bool { return s.TraceID != write.TraceID })
		for _, name := range []string{"reconcile guard", "decide", "write record", "POST /webhook"} {
			found := named(spans, name)
			if len(found) != 1 {
				return fmt.Errorf("%s: %+v, want one of the write's trace", name, found)
			}
			call = found[0]
		}
		if parents := byID(spans, call.ParentID); len(parents) != 1 || parents[0].Resource["service.name"] != "alertmanager" {
			return fmt.Errorf("the call's parent is %+v, want a span of Alertmanager's", parents)
		}
		return nil
	})
	t.Logf("as the collector saw it:\n%s", otlp.Tree(spans, write.TraceID))
	for k, want := range map[string]string{"guardian.guard": app.Name, "guardian.build": record.Lock.Build, "guardian.reason": "rollback alert", "guardian.weight.to": "0", "k8s.namespace.name": r.ns} {
		if got := named(spans, "decide")[0].Attributes[k]; got != want {
			t.Errorf("decide has %s=%q, want %q", k, got, want)
		}
	}
	for k, want := range map[string]string{"service.name": "guardian", "k8s.pod.name": "guardian-0", "deployment.environment.name": "test"} {
		if write.Resource[k] != want {
			t.Errorf("resource has %s=%q, want %q", k, write.Resource[k], want)
		}
	}
}

func named(spans []otlp.Span, name string) (out []otlp.Span) {
	for _, s := range spans {
		if s.Name == name && s.Resource["service.name"] == "guardian" {
			out = append(out, s)
		}
	}
	return out
}

func byID(spans []otlp.Span, id string) (out []otlp.Span) {
	for _, s := range spans {
		if s.SpanID == id {
			out = append(out, s)
		}
	}
	return out
}

var (
	printedField     = regexp.MustCompile(`^ +(Trace ID|Parent ID|ID|Name|Kind|Status message) +: ?(.*)$`)
	printedAttribute = regexp.MustCompile(`^ +-> ([\w.]+): \w+\((.*)\)$`)
)

// printed reads the spans in what the collector's debug exporter has printed.
func printed(file string) ([]otlp.Span, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var out []otlp.Span
	var resource, attributes map[string]string // what the lines are about
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.Contains(line, "ResourceSpans #"):
			resource = map[string]string{}
			attributes = resource
		case strings.HasPrefix(line, "Span #"):
			attributes = map[string]string{}
			out = append(out, otlp.Span{Resource: resource, Attributes: attributes})
		case strings.HasPrefix(line, "Events:"), strings.HasPrefix(line, "Links:"), strings.HasPrefix(line, "InstrumentationScope"):
			attributes = map[string]string{}
		}
		if m := printedAttribute.FindStringSubmatch(line); m != nil && attributes != nil {
			attributes[m[1]] = m[2]
		}
		if m := printedField.FindStringSubmatch(line); m != nil && len(out) > 0 {
			set(&out[len(out)-1], m[1], m[2])
		}
	}
	if len(out) == 0 {
		return nil, errors.New("nothing printed yet")
	}
	return out, nil
}

func set(s *otlp.Span, field, value string) {
	switch field {
	case "Trace ID":
		s.TraceID = value
	case "Parent ID":
		s.ParentID = value
	case "ID":
		s.SpanID = value
	case "Name":
		s.Name = value
	case "Kind":
		s.Kind = value
	}
}
