package rules

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/common/model"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Where a sidecar tells what it counts, by Envoy itself:
// https://istio.io/latest/docs/ops/integrations/prometheus/
const (
	sidecarPort = "http-envoy-prom" // 15090
	sidecarPath = "/stats/prometheus"
	// sidecarFilter has Envoy write these metrics alone: a regular expression
	// that is searched for in Envoy's own names. Without characters that need
	// escaping, because older Envoys do not unescape it.
	sidecarFilter = "istio_request"
)

// scrapeJob is the fast lane as Prometheus has to scrape it.
type scrapeJob struct {
	name       string
	interval   time.Duration
	namespaces []string
	targets    []relabeling // among all ports of all pods there
	metrics    []relabeling
}

// relabeling is a rule in the words of Prometheus's configuration.
type relabeling struct {
	SourceLabels []string `json:"source_labels,omitempty"`
	Regex        string   `json:"regex,omitempty"`
	TargetLabel  string   `json:"target_label,omitempty"`
	Replacement  string   `json:"replacement,omitempty"`
	Action       string   `json:"action"`
}

// scrapeJob is nil where there is no fast lane, or nothing to scrape on it.
func (o Options) scrapeJob() *scrapeJob {
	if o.FastLane == 0 || len(o.Guards) == 0 {
		return nil
	}
	return &scrapeJob{
		name: o.fastJob(), interval: o.FastLane, namespaces: o.namespaces(),
		targets: []relabeling{o.keepPods()},
		metrics: []relabeling{
			o.keepMetrics(),
			o.keepVersions(),
			// What a pod always says about itself. Labels of the caller must stay:
			// two callers' series would become one, and one of them be lost.
			{Action: "labeldrop", Regex: "destination_(app|canonical_revision|canonical_service|cluster)"},
			{Action: "replace", SourceLabels: []string{"__name__"}, Regex: "(.*)", TargetLabel: "__name__", Replacement: fastPrefix + "$1"},
		},
	}
}

// sides returns the Deployments that name sides, and the services and versions
// of sides that no Deployment names.
func sides(guards []Guard) (workloads, services, versions []string) {
	for _, g := range guards {
		for _, s := range []Side{g.Canary, g.Stable} {
			workloads = append(workloads, s.Workloads...)
			if len(s.Workloads) == 0 {
				services, versions = append(services, s.Service), append(versions, s.Version)
			}
		}
	}
	return workloads, services, versions
}

// keepPods selects the pods of the guarded Deployments by their ReplicaSet,
// whose name, unlike the pod's, is never shortened; and where Deployments are
// not known, the pods of the version.
func (o Options) keepPods() relabeling {
	workloads, _, versions := sides(o.Guards)
	var pods []string
	if len(workloads) > 0 {
		pods = append(pods, "ReplicaSet;("+alternatives(workloads)+")-[a-z0-9]+;true;.*")
	}
	if len(versions) > 0 {
		pods = append(pods, ".*;.*;.*;("+alternatives(versions)+")")
	}
	return relabeling{Action: "keep", Regex: strings.Join(pods, "|"), SourceLabels: []string{
		"__meta_kubernetes_pod_controller_kind", "__meta_kubernetes_pod_controller_name",
		"__meta_kubernetes_pod_labelpresent_pod_template_hash", "__meta_kubernetes_pod_label_version",
	}}
}

// keepMetrics selects what a sidecar says about requests that it received: the
// number, and of the durations the buckets at which some guard is judged.
func (o Options) keepMetrics() relabeling {
	all := []string{requestsTotal + ";destination;"}
	if edges := o.edges(); len(edges) > 0 {
		les := []string{`\+Inf`}
		for _, e := range edges {
			les = append(les, bucketValue(e))
		}
		all = append(all, durationBuckets+";destination;("+strings.Join(les, "|")+")", durations+";destination;")
	}
	return relabeling{Action: "keep", Regex: strings.Join(all, "|"), SourceLabels: []string{"__name__", "reporter", "le"}}
}

// keepVersions selects the series that the rules can attribute to a guard, and of
// the buckets those at which that guard is judged.
func (o Options) keepVersions() relabeling {
	buckets := func(g Guard) string {
		if g.Signals.Latency == nil {
			return ""
		}
		edge, _ := o.edge(g.Signals.Latency.Max)
		return `(|\+Inf|` + bucketValue(edge) + ")"
	}
	judged := map[string][]Guard{}
	for _, g := range o.Guards {
		judged[buckets(g)] = append(judged[buckets(g)], g)
	}
	within := "(" + alternatives(o.namespaces()) + ")"
	var all []string
	for _, le := range slices.Sorted(maps.Keys(judged)) {
		workloads, services, versions := sides(judged[le])
		if len(workloads) > 0 {
			all = append(all, le+";("+alternatives(workloads)+");"+within+";.*;.*;.*")
		}
		if len(services) > 0 {
			all = append(all, le+";.*;.*;("+alternatives(services)+");"+within+";("+alternatives(versions)+")")
		}
	}
	return relabeling{Action: "keep", Regex: strings.Join(all, "|"), SourceLabels: strings.Split("le, "+workloadKey+", "+versionKey, ", ")}
}

// PodMonitor returns the fast lane for prometheus-operator; nil when there is
// none. The caller owns it.
func (r *Rules) PodMonitor(name, namespace string) *monitoringv1.PodMonitor {
	if r.lane == nil {
		return nil
	}
	port, every := sidecarPort, *duration(r.lane.interval)
	job := relabeling{Action: "replace", TargetLabel: "job", Replacement: r.lane.name}
	return &monitoringv1.PodMonitor{
		TypeMeta:   metav1.TypeMeta{APIVersion: monitoringv1.SchemeGroupVersion.String(), Kind: monitoringv1.PodMonitorsKind},
		ObjectMeta: r.meta(name, namespace),
		Spec: monitoringv1.PodMonitorSpec{
			NamespaceSelector: monitoringv1.NamespaceSelector{MatchNames: slices.Clone(r.lane.namespaces)},
			PodMetricsEndpoints: []monitoringv1.PodMetricsEndpoint{{
				Port: &port, Path: sidecarPath, Params: map[string][]string{"filter": {sidecarFilter}},
				Interval: every, ScrapeTimeout: every,
				RelabelConfigs:       operatorRelabelings(append(slices.Clone(r.lane.targets), job)),
				MetricRelabelConfigs: operatorRelabelings(r.lane.metrics),
			}},
		},
	}
}

func operatorRelabelings(all []relabeling) []monitoringv1.RelabelConfig {
	out := make([]monitoringv1.RelabelConfig, len(all))
	for i, r := range all {
		out[i] = monitoringv1.RelabelConfig{Action: r.Action, Regex: r.Regex, TargetLabel: r.TargetLabel}
		for _, l := range r.SourceLabels {
			out[i].SourceLabels = append(out[i].SourceLabels, monitoringv1.LabelName(l))
		}
		if r.Replacement != "" {
			out[i].Replacement = &r.Replacement
		}
	}
	return out
}

// PodMonitorYAML is PodMonitor as a manifest; nil when there is no fast lane.
func (r *Rules) PodMonitorYAML(name, namespace string) ([]byte, error) {
	if r.lane == nil {
		return nil, nil
	}
	out, err := yaml.Marshal(r.PodMonitor(name, namespace))
	if err != nil {
		return nil, fmt.Errorf("write PodMonitor %s/%s: %w", namespace, name, err)
	}
	return bytes.TrimSuffix(out, []byte("status: {}\n")), nil
}

// What prometheus.yml has; Prometheus's own types would write every default.
type (
	scrapeConfigs struct {
		ScrapeConfigs []scrapeConfig `json:"scrape_configs"`
	}
	scrapeConfig struct {
		JobName        string              `json:"job_name"`
		Interval       string              `json:"scrape_interval"`
		Timeout        string              `json:"scrape_timeout"`
		Path           string              `json:"metrics_path"`
		Params         map[string][]string `json:"params"`
		Discovery      []podDiscovery      `json:"kubernetes_sd_configs"`
		Relabel        []relabeling        `json:"relabel_configs"`
		MetricsRelabel []relabeling        `json:"metric_relabel_configs"`
	}
	podDiscovery struct {
		Role       string `json:"role"`
		Namespaces struct {
			Names []string `json:"names"`
		} `json:"namespaces"`
	}
)

// ScrapeConfig returns the fast lane for prometheus.yml, as a list of one under
// scrape_configs; nil when there is none.
func (r *Rules) ScrapeConfig() ([]byte, error) {
	if r.lane == nil {
		return nil, nil
	}
	pods := podDiscovery{Role: "pod"}
	pods.Namespaces.Names = r.lane.namespaces
	every := model.Duration(r.lane.interval).String()
	out, err := yaml.Marshal(scrapeConfigs{[]scrapeConfig{{
		JobName: r.lane.name, Interval: every, Timeout: every,
		Path: sidecarPath, Params: map[string][]string{"filter": {sidecarFilter}},
		Discovery: []podDiscovery{pods},
		// As prometheus-operator does it by itself for a PodMonitor.
		Relabel: slices.Concat([]relabeling{
			{Action: "keep", SourceLabels: []string{"__meta_kubernetes_pod_container_port_name"}, Regex: sidecarPort},
			{Action: "drop", SourceLabels: []string{"__meta_kubernetes_pod_phase"}, Regex: "Failed|Succeeded"},
		}, r.lane.targets, []relabeling{
			{Action: "replace", SourceLabels: []string{"__meta_kubernetes_namespace"}, TargetLabel: "namespace"},
			{Action: "replace", SourceLabels: []string{"__meta_kubernetes_pod_name"}, TargetLabel: "pod"},
		}),
		MetricsRelabel: r.lane.metrics,
	}}})
	if err != nil {
		return nil, fmt.Errorf("write scrape configuration: %w", err)
	}
	return out, nil
}
