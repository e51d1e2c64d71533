package rules

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Labels of the samples of LastRequest, and of Proven.
const (
	LabelReceipt = "receipt"
	LastCounted  = "last"   // Unix seconds: the newest scrape that has counted a request to the canary
	AllScraped   = "oldest" // the same: all that reports on it was scraped then, or later
	ProvenAt     = "proven" // the same: samples of then first sufficed to prove the fault
)

// LastRequest is a query for when the canary's last request within a window was
// counted: LastCounted, which is missing where none was, and AllScraped, which is
// missing where nothing reports on the canary at all. Both are times of samples, so
// that they are no finer than a scrape.
func (o Options) LastRequest(g Guard, window time.Duration) string {
	o = o.withDefaults()
	every := o.ScrapeInterval
	if o.FastLane > 0 {
		every = min(every, o.FastLane)
	}
	// A sample is compared with the one before it in the first part of the time that it
	// is the newest: then a little less than a scrape ago is the one before, however
	// exactly Prometheus keeps its interval.
	x := requestsTotal + "{" + strings.Join(ofSide(g, g.Canary, o.Proxies), ",") + "}"
	before := " offset " + millis(every*7/10)
	rises := fmt.Sprintf("((%[1]s - %[1]s%[2]s) > 0 or (%[1]s > 0 unless %[1]s%[2]s))", x, before)
	last := fmt.Sprintf("max(max_over_time((timestamp(%s) and %s)[%s:%s]))", x, rises, millis(window), millis(every/5))
	return receipt(LastCounted, last) + " or " + receipt(AllScraped, "min(timestamp("+x+"))")
}

// Proven is a query for when the samples were taken that first sufficed to prove the
// fault that an alert of a signal tells of, as of a time; empty: the signal has none.
func (o Options) Proven(g Guard, s Signal, at time.Time) string {
	o = o.withDefaults()
	var p proportion
	switch s {
	case SignalErrorRate:
		p = failed
	case SignalLatency:
		p = slow
	default:
		return ""
	}
	own := fmt.Sprintf("{%s=%q,%s=%q,%s=%q}", LabelInstance, o.Name, LabelNamespace, g.Namespace, LabelGuard, g.Name)
	return receipt(ProvenAt, fmt.Sprintf("min(last_over_time(%s%s[1m] @ %.3f))", p.since, own, float64(at.UnixMilli())/1000))
}

// Labels of the samples of Traced.
const (
	LabelApp      = "destination_app"
	LabelRevision = "destination_canonical_revision"
)

// Traced is a query for what the canary's proxies call themselves in traces: the
// labels LabelApp and LabelRevision of its samples. It looks ten minutes back, since
// the canary may have no requests any more.
func (o Options) Traced(g Guard) string {
	o = o.withDefaults()
	of := append(ofSide(g, g.Canary, o.Proxies), LabelApp+`!~"|unknown"`)
	return fmt.Sprintf("count by (%s, %s) (last_over_time(%s{%s}[10m]))", LabelApp, LabelRevision, requestsTotal, strings.Join(of, ","))
}

func receipt(name, of string) string {
	return fmt.Sprintf(`label_replace(%s,%q,%q,"","")`, of, LabelReceipt, name)
}

// millis is a duration as PromQL has it, to the millisecond.
func millis(d time.Duration) string { return fmt.Sprintf("%dms", max(1, d.Milliseconds())) }

// Link leads to a web interface.
type Link struct{ Name, URL string }

// Between are the links about a guard and the time between two times, those of the
// interfaces that are configured. service may be empty: not known. Jaeger's is
// [Links.Traces], for only Prometheus knows what the canary is called there.
func (l Links) Between(namespace, guard, service string, from, to time.Time) []Link {
	var out []Link
	if l.Grafana != "" {
		out = append(out, Link{"Grafana", fmt.Sprintf("%s&from=%d&to=%d", l.dashboard(namespace, guard), from.UnixMilli(), to.UnixMilli())})
	}
	if l.Prometheus != "" {
		out = append(out, Link{"Prometheus", fmt.Sprintf("%s&g0.range_input=%ds&g0.end_input=%s&g0.moment_input=%[3]s", l.prometheus(namespace, guard),
			int64(to.Sub(from).Seconds()), url.QueryEscape(to.UTC().Format("2006-01-02 15:04:05")))})
	}
	if l.Kiali != "" {
		at := "namespaces"
		if service != "" {
			at = "node/namespaces/" + namespace + "/services/" + service
		}
		out = append(out, Link{"Kiali", fmt.Sprintf("%s/console/graph/%s?graphType=versionedApp&duration=300&namespaces=%s&replayActive=true&replayInterval=%d&replayStart=%d",
			strings.TrimSuffix(l.Kiali, "/"), at, namespace, kialiReplay.Milliseconds(), from.UnixMilli())})
	}
	return out
}

// kialiReplay is the longest time that Kiali replays; a link without it shows what is now.
// Its parameters: frontend/src/components/Time/Replay.tsx of Kiali 2.
const kialiReplay = 30 * time.Minute

// Traces finds the traces of a version's proxies in Jaeger between two times, those
// of failed requests alone where the signal is about them. It is nil where Jaeger is
// not configured.
func (l Links) Traces(namespace, app, revision string, signal Signal, from, to time.Time) *Link {
	if l.Jaeger == "" {
		return nil
	}
	tags := map[string]string{"istio.canonical_revision": revision}
	if signal == SignalErrorRate {
		tags["error"] = "true"
	}
	text, err := json.Marshal(tags)
	if err != nil {
		return nil // texts alone: it cannot be
	}
	query := url.Values{"limit": {"20"}, "lookback": {"custom"}, "service": {app + "." + namespace}, "tags": {string(text)},
		"start": {strconv.FormatInt(from.UnixMicro(), 10)}, "end": {strconv.FormatInt(to.UnixMicro(), 10)}}
	return &Link{"Jaeger", strings.TrimSuffix(l.Jaeger, "/") + "/search?" + query.Encode()}
}

// tracesMost is how long a link to traces may be: it is kept in a record.
const tracesMost = 1000

// AlertTraces is what an alert about a canary has as AnnotationJaeger, for the time between
// two times instead of the last hour. Empty: it has none, the link leads elsewhere, or
// Prometheus did not know what the canary is called in Jaeger.
func (l Links) AlertTraces(annotation string, from, to time.Time) string {
	if l.Jaeger == "" || !strings.HasPrefix(annotation, strings.TrimSuffix(l.Jaeger, "/")+"/search?") {
		return ""
	}
	u, err := url.Parse(annotation)
	if err != nil || u.Query().Get("service") == "" {
		return ""
	}
	query := u.Query()
	query.Del("lookback")
	query.Set("start", fmt.Sprint(from.UnixMicro()))
	query.Set("end", fmt.Sprint(to.UnixMicro()))
	if u.RawQuery = query.Encode(); len(u.String()) > tracesMost {
		return ""
	}
	return u.String()
}
