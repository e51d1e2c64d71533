package rules

import (
	"net/url"
	"strings"
)

// Links has base URLs that alert texts link to; empty means no such link.
type Links struct {
	Grafana    string // the web interface's root, or a dashboard of one's own; gets var-guard and var-namespace
	Prometheus string // the web interface's root
	Kiali      string // the web interface's root
	Jaeger     string // the web interface's root
}

// GuardDashboard is the uid of the dashboard of one guard that the chart ships.
const GuardDashboard = "guardian-guard"

// Annotations by which an alert about a canary links to the web interfaces that
// are configured. The values are templates.
const (
	AnnotationDashboard  = "dashboard_url"
	AnnotationPrometheus = "prometheus_url"
	AnnotationKiali      = "kiali_url"
	AnnotationJaeger     = "jaeger_url"
)

// annotate adds a link for each web interface that is configured to the
// annotations of an alert about a canary.
func (l Links) annotate(annotations map[string]string, signal Signal) {
	for _, link := range []struct{ name, base, url string }{
		{AnnotationDashboard, l.Grafana, l.dashboard(namespaceLabel, guardLabel)},
		{AnnotationPrometheus, l.Prometheus, l.prometheus(namespaceLabel, guardLabel)},
		{AnnotationKiali, l.Kiali, l.kiali(namespaceLabel)},
		{AnnotationJaeger, l.Jaeger, l.jaeger(namespaceLabel, signal)},
	} {
		if link.base != "" {
			annotations[link.name] = link.url
		}
	}
}

// dashboard is a guard's in Grafana. Names in the arguments are DNS labels, or
// templates of such, here and below: nothing in them has to be escaped.
func (l Links) dashboard(namespace, guard string) string {
	base, query, _ := strings.Cut(l.Grafana, "?")
	base = strings.TrimSuffix(base, "/")
	if !strings.Contains(base, "/d/") {
		base += "/d/" + GuardDashboard
	}
	if query != "" {
		query += "&"
	}
	return base + "?" + query + "var-namespace=" + namespace + "&var-guard=" + guard
}

// prometheus shows all that the rules record of a guard. Others of its name may stand in
// other namespaces.
func (l Links) prometheus(namespace, guard string) string {
	query := url.QueryEscape(`{__name__=~"guardian.+",namespace="`) + namespace + url.QueryEscape(`",guardian_guard="`) + guard + url.QueryEscape(`"}`)
	return strings.TrimSuffix(l.Prometheus, "/") + "/graph?g0.tab=0&g0.expr=" + query
}

// kiali is the graph of the alert's service by version, or of its namespace where
// the rules know no service. Its paths: frontend/src/routes.tsx of Kiali 2.31.
func (l Links) kiali(namespace string) string {
	service := withSeries(serviceInfo) +
		"node/namespaces/" + namespace + `/services/{{ . | first | label "destination_service_name" }}{{ else }}namespaces{{ end }}`
	return strings.TrimSuffix(l.Kiali, "/") + "/console/graph/" + service + "?graphType=versionedApp&duration=300&namespaces=" + namespace
}

// jaeger finds the canary's traces, those of failed requests where the signal is
// about them. Proxies call themselves by their app label and namespace, which need
// not be the Service's name, and tag spans with the version; the canary's own
// requests tell both. Where nothing tells them, the link leads to an empty search.
// https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#ProxyConfig-TracingServiceName
func (l Links) jaeger(namespace string, signal Signal) string {
	failed := ""
	if signal == SignalErrorRate {
		failed = `"error":"true",`
	}
	workload := withSeries(workloadInfo, labelSide+`="canary"`)
	labels := "{{ with printf `count by (destination_app, destination_canonical_revision) (" + requestsTotal +
		`{destination_workload=%q,destination_workload_namespace=%q,destination_app!~"|unknown"})` + "`" + ` (. | first | label "destination_workload") $labels.namespace | query }}`
	tags := url.QueryEscape(`{`+failed+`"istio.canonical_revision":"`) + `{{ . | first | label "destination_canonical_revision" }}` + url.QueryEscape(`"}`)
	return strings.TrimSuffix(l.Jaeger, "/") + "/search?lookback=1h&limit=20" + workload + labels +
		`&service={{ . | first | label "destination_app" }}.` + namespace + "&tags=" + tags + "{{ end }}{{ end }}"
}
