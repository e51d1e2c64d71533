package controlplane

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/prometheus/common/model"
	"sigs.k8s.io/yaml"
)

// PrometheusOptions describe a Prometheus. Everything but Targets has a default.
type PrometheusOptions struct {
	// ScrapeInterval is 5 s by default, EvaluationInterval 1 s.
	ScrapeInterval, EvaluationInterval time.Duration
	// RuleFiles are paths or patterns; files that appear or change need [Server.Reload].
	RuleFiles []string
	// Targets to scrape.
	Targets []Target
	// Jobs are further scrape_configs, as they stand in prometheus.yml.
	Jobs []map[string]any
	// Alertmanagers get the alerts; an address of guardian is one as well.
	Alertmanagers []Receiver
	// Config is a whole prometheus.yml; with it all fields above are ignored.
	Config string
	// Args are further flags.
	Args []string
}

// Target is something that Prometheus scrapes.
type Target struct {
	// Job names the scrape job; targets of one job share it.
	Job string
	// Address is host:port, scraped at /metrics.
	Address string
	// Labels are added to every series.
	Labels map[string]string
}

// Receiver takes alerts from Prometheus at <URL>/api/v2/alerts.
type Receiver struct {
	URL string
	// TokenFile holds a bearer token; empty: none is sent.
	TokenFile string
	// Keep selects alerts by label: name to regular expression. Empty: all.
	Keep map[string]string
}

// AlertmanagerOptions describe an Alertmanager.
type AlertmanagerOptions struct {
	// Config is a whole alertmanager.yml.
	Config string
	// Args are further flags.
	Args []string
}

// Server is a running Prometheus or Alertmanager.
type Server struct {
	// URL without a slash at its end.
	URL string
	// ConfigFile may be rewritten, and takes effect by [Server.Reload] or [Server.Restart].
	ConfigFile string

	family  *family
	program Program
	process *Process
}

// Process is the server's present process.
func (s *Server) Process() *Process { return s.process }

// Stop ends the server and keeps its data for [Server.Restart].
func (s *Server) Stop() { s.process.Stop() }

// Restart starts the server again at the same address with the same data, stopping it first when it still runs.
func (s *Server) Restart(ctx context.Context) error {
	s.Stop()
	process, err := s.family.start(ctx, s.program)
	if err != nil {
		return err
	}
	s.process = process
	return nil
}

// Reload has the server read its configuration and rules again, and returns when it has, with its error if any.
func (s *Server) Reload(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/-/reload", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("reload %s: %w", s.program.Name, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("reload %s: %s\nthe end of its log:\n%s", s.program.Name, response.Status, s.process.Tail(10))
	}
	return nil
}

// Signal sends a signal to the server's process group: SIGSTOP and SIGCONT make an outage without a restart.
func (s *Server) Signal(signal syscall.Signal) error { return s.process.Signal(signal) }

// StartPrometheus starts a Prometheus and returns when it is ready.
func (p *Plane) StartPrometheus(ctx context.Context, options PrometheusOptions) (*Server, error) {
	config := options.Config
	if config == "" {
		rendered, err := options.render()
		if err != nil {
			return nil, fmt.Errorf("start prometheus: %w", err)
		}
		config = string(rendered)
	}
	return p.startServer(ctx, "prometheus", config, func(config, data string, port int) []string {
		return append([]string{
			"--config.file=" + config, "--storage.tsdb.path=" + data, "--web.listen-address=" + address(port),
			"--web.enable-lifecycle", "--log.level=warn",
		}, options.Args...)
	})
}

// StartAlertmanager starts an Alertmanager without peers and returns when it is ready.
func (p *Plane) StartAlertmanager(ctx context.Context, options AlertmanagerOptions) (*Server, error) {
	return p.startServer(ctx, "alertmanager", options.Config, func(config, data string, port int) []string {
		return append([]string{
			"--config.file=" + config, "--storage.path=" + data, "--web.listen-address=" + address(port),
			"--cluster.listen-address=", "--log.level=info",
		}, options.Args...)
	})
}

// startServer writes a configuration and starts a server of Prometheus's family on a free port.
func (p *Plane) startServer(ctx context.Context, binary, config string, args func(config, data string, port int) []string) (*Server, error) {
	path, err := Binary(ctx, binary)
	if err != nil {
		return nil, err
	}
	s := &Server{family: p.family}
	name := p.unique(binary)
	folder := filepath.Join(p.family.folder, name)
	if err := os.Mkdir(folder, 0o755); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	s.ConfigFile = filepath.Join(folder, binary+".yml")
	if err := os.WriteFile(s.ConfigFile, []byte(config), 0o644); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	s.process, _, err = onFreePort(ctx, func(ctx context.Context, port int) (*Process, error) {
		s.URL = "http://" + address(port)
		s.program = Program{
			Name: name, Path: path, Args: args(s.ConfigFile, filepath.Join(folder, "data"), port),
			Ready: answers(http.DefaultClient, s.URL+"/-/ready", ""),
		}
		return p.family.start(ctx, s.program)
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// render writes prometheus.yml.
func (o PrometheusOptions) render() ([]byte, error) {
	type object = map[string]any
	var receivers []object
	for _, receiver := range o.Alertmanagers {
		address, err := url.Parse(receiver.URL)
		if err != nil || address.Host == "" {
			return nil, fmt.Errorf("alertmanager URL %q: want http://host:port[/prefix]", receiver.URL)
		}
		entry := object{
			"scheme": address.Scheme, "path_prefix": address.Path, "api_version": "v2", "timeout": "5s",
			"static_configs": []object{{"targets": []string{address.Host}}},
		}
		if receiver.TokenFile != "" {
			entry["authorization"] = object{"credentials_file": receiver.TokenFile}
		}
		var keep []object
		for name, pattern := range receiver.Keep {
			keep = append(keep, object{"action": "keep", "source_labels": []string{name}, "regex": pattern})
		}
		if keep != nil {
			entry["alert_relabel_configs"] = keep
		}
		receivers = append(receivers, entry)
	}
	var jobs []object
	byJob := map[string]int{}
	for _, target := range o.Targets {
		at, ok := byJob[target.Job]
		if !ok {
			at = len(jobs)
			byJob[target.Job] = at
			jobs = append(jobs, object{"job_name": target.Job, "static_configs": []object{}})
		}
		group := object{"targets": []string{target.Address}, "labels": target.Labels}
		jobs[at]["static_configs"] = append(jobs[at]["static_configs"].([]object), group)
	}
	scrape := cmp.Or(o.ScrapeInterval, 5*time.Second)
	return yaml.Marshal(object{
		"global": object{
			"scrape_interval":     model.Duration(scrape).String(),
			"scrape_timeout":      model.Duration(min(scrape, 2*time.Second)).String(),
			"evaluation_interval": model.Duration(cmp.Or(o.EvaluationInterval, time.Second)).String(),
		},
		"rule_files":     slices.Clone(o.RuleFiles),
		"alerting":       object{"alertmanagers": receivers},
		"scrape_configs": append(jobs, o.Jobs...),
	})
}
