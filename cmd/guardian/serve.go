package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"reflect"
	"runtime/debug"
	"strings"
	"time"

	"github.com/oklog/run"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/cmd/guardian/page"
	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/rules"
)

// eventQPS keeps Kubernetes Events out of the way of a burst of rollbacks.
const eventQPS = 20

// newServeCommand is the service itself.
func newServeCommand(a *app) *cobra.Command {
	var file, kubeconfig string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the service",
		Long: `Run the service: take alerts, roll back, promote, until it is told to stop.

The configuration is read again when its file changes. In a pod guardian talks
to its own cluster as its ServiceAccount; --kubeconfig is for trying it out.`,
		Args: wantArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := serve(cmd.Context(), file, kubeconfig, a.errOut)
			if _, told := errors.AsType[*exitError](err); err != nil && !told {
				return &exitError{exitFailed, err}
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&file, "config", "f", "/etc/guardian/config.yaml", "configuration file")
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig file (default: the pod's ServiceAccount)")
	return cmd
}

func serve(ctx context.Context, file, kubeconfig string, errOut io.Writer) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return orUnknown(fmt.Errorf("read configuration: %w", err))
	}
	settings, err := config.Load(file)
	if err != nil {
		return err
	}
	if err := config.RequireGuards(content); err != nil {
		return config.InFile(file, err)
	}
	rest, err := restConfig(kubeconfig)
	if err != nil {
		return orUnknown(err)
	}
	log := newLogger(settings.Log, errOut)
	if names := config.UnknownEnv(); len(names) > 0 {
		log.Warn("environment variables that no key has, and that set nothing: misspelt?", "variables", names)
	}
	klog.SetSlogLogger(log.With("component", "client-go")) // which would write lines of its own among these
	s, err := newService(settings, rest, log)
	if err != nil {
		return err
	}
	s.ownMemory()
	return s.run(ctx, file, content)
}

// ownMemory has the service keep the memory targets of its process.
func (s *service) ownMemory() {
	s.memory = newMemory()
	s.bridge.memory = s.memory
	s.close = append(s.close, s.memory.stop)
}

func newLogger(c config.Log, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		level = slog.LevelInfo // Validate has refused it
	}
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "text" {
		return slog.New(slog.NewTextHandler(w, o))
	}
	return slog.New(slog.NewJSONHandler(w, o))
}

// restConfig reaches the API server without a rate limit of the client's own:
// the server's fairness is enough, and a burst of rollbacks must not wait.
func restConfig(kubeconfig string) (*rest.Config, error) {
	var c *rest.Config
	var err error
	if kubeconfig != "" {
		c, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	} else {
		if c, err = rest.InClusterConfig(); err != nil {
			err = fmt.Errorf("%w; outside a pod: --kubeconfig FILE", err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reach the API server: %w", err)
	}
	c.QPS, c.Burst = -1, 0
	c.UserAgent = "guardian"
	return c, nil
}

func newService(c config.Config, rc *rest.Config, log *slog.Logger) (*service, error) {
	s := &service{config: c, log: log}
	registry := prometheus.NewRegistry()
	reg := prometheus.WrapRegistererWith(prometheus.Labels{rules.LabelOwner: c.Namespace}, registry)
	s.connectTraces(reg)
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s.reloads = newReloads(reg, s.log, time.Now)
	metrics := alerting.NewMetrics(reg)
	s.bridge = newBridge(c, metrics, s.log.With("component", "alerting"), time.Now)
	if err := s.connectChecks(); err != nil {
		return nil, err
	}
	if err := s.connectNotifier(reg); err != nil {
		return nil, err
	}
	if err := s.connectController(rc, reg); err != nil {
		return nil, err
	}
	var err error
	s.server, err = alerting.NewServer(alerting.ServerOptions{
		AlertsAddress: c.Listen.Alerts, MetricsAddress: c.Listen.Metrics,
		WebConfigFile: c.Web.ConfigFile, TokenFile: c.Webhook.TokenFile, AllowAnonymous: c.Webhook.AllowAnonymous,
		Sink: s.bridge, Guards: guardLister{s.controller}, Ready: s.ready, Refresh: s.checks.refresh, List: s.checks.listSoon, OwnHeartbeat: s.bridge.ownHeartbeat,
		Gatherer: registry, MetricSet: metrics, Logger: s.log.With("component", "http"),
		Tracer: s.traces.Tracer(), Propagator: s.traces.Propagator(),
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (s *service) connectChecks() error {
	s.checks = newForwardChecks(s.bridge, s.log.With("component", "forward-checks"), time.Now)
	if e := s.config.Alertmanager; e.URL != "" {
		am, err := alerting.NewAlertmanager(alerting.ClientOptions{URL: e.URL, HTTP: &e.HTTP, Timeout: e.Timeout})
		if err != nil {
			return fmt.Errorf("alertmanager: %w", err)
		}
		s.checks.alertmanager = am
		s.close = append(s.close, am.Close)
	}
	if e := s.config.Prometheus; e.URL != "" {
		prom, err := alerting.NewPrometheus(alerting.ClientOptions{URL: e.URL, HTTP: &e.HTTP, Timeout: e.Timeout})
		if err != nil {
			return fmt.Errorf("prometheus: %w", err)
		}
		s.checks.prometheus, s.checks.query = prom, prom
		s.close = append(s.close, prom.Close)
	}
	return nil
}

// connectNotifier is for what guardian has Alertmanager tell people.
func (s *service) connectNotifier(reg prometheus.Registerer) error {
	urls := s.config.Posts()
	if len(urls) == 0 {
		return nil
	}
	e := s.config.Alertmanager
	peers, err := alerting.NewPeers(urls, alerting.ClientOptions{HTTP: &e.HTTP, Timeout: e.Timeout})
	if err != nil {
		return fmt.Errorf("notifications: %w", err)
	}
	s.close = append(s.close, peers.Close)
	s.notifier = newNotifier(reg, s.log.With("component", "notifications"), time.Now)
	s.notifier.post = peers.Post
	s.notifier.unseen = func() time.Time { return s.controller.UnseenSince() }
	s.notifier.labels = func(name, guard string) map[string]string {
		c := s.bridge.config.Load()
		return c.RulesBase().NoticeLabels(name, guard, c.Own)
	}
	return nil
}

func (s *service) connectController(rc *rest.Config, reg prometheus.Registerer) error {
	rc = rest.CopyConfig(rc)
	rc.Wrap(newAPIRequests(reg).wrap)
	rc.Wrap(s.traces.Transport)
	rc.Wrap(func(next http.RoundTripper) http.RoundTripper { return persistentWatch{next} })
	kube, err := kubernetes.NewForConfig(rc)
	if err != nil {
		return fmt.Errorf("reach the API server: %w", err)
	}
	dyn, err := dynamic.NewForConfig(rc)
	if err != nil {
		return fmt.Errorf("reach the API server: %w", err)
	}
	slow := rest.CopyConfig(rc)
	slow.QPS, slow.Burst = eventQPS, eventQPS
	events, err := kubernetes.NewForConfig(slow)
	if err != nil {
		return fmt.Errorf("reach the API server: %w", err)
	}
	s.controller, err = remediate.New(remediate.Options{
		Client: kube, Dynamic: dyn, EventClient: events,
		Namespace: s.config.Namespace, Identity: identity(), PodUID: podUID(s.config.Namespace), Instance: s.config.Instance, Domain: s.config.ClusterDomain, User: tokenUser(rc), Builds: remediate.BuildParts(s.config.Builds),
		Firing: s.bridge.firing, AskForward: s.checks.askForward, Count: s.checks.count, After: s.checks.after, Links: s.bridge.links,
		Heartbeat:               func() time.Time { return s.server.Heartbeat() },
		HeartbeatByAlertmanager: func() time.Time { return s.server.HeartbeatOf(alerting.LaneWebhook) },
		Confirmed:               s.passed,
		Failed:                  s.failed,
		Tracer:                  s.traces.Tracer(),
		Metrics:                 remediate.NewMetrics(reg), Logger: s.log.With("component", "remediate"),
	})
	if err != nil {
		return err
	}
	s.bridge.guards = s.controller
	s.connectPage(kube)
	s.rules = newRulesWriter(dyn, kube, s.controller, reg, s.log.With("component", "rules"))
	return nil
}

// connectPage is for people without kubectl.
func (s *service) connectPage(kube kubernetes.Interface) {
	if s.config.Listen.Page == "" {
		return
	}
	version, _ := buildVersion()
	p := page.New(page.Options{
		Namespace: s.config.Namespace, Version: version, Hosts: s.config.Page.Hosts, Domain: s.config.ClusterDomain,
		Guards: func() []page.Guard {
			views := s.controller.Views()
			out := make([]page.Guard, len(views))
			for i, v := range views {
				out[i] = page.Guard{Name: v.Name, Lock: v.Lock, Status: v.Status, Failing: v.Failing, Seen: v.Seen}
			}
			return out
		},
		Record: func(ctx context.Context, guard string) (*decision.Record, error) {
			return readRecord(ctx, kube, s.config.Namespace, guard)
		},
		Facts: func(guard string, r decision.Record, now time.Time) []page.Fact {
			return factsOf(records.Named{Namespace: s.config.Namespace, Guard: guard, Record: r}, s.beat(now), now)
		},
		Receipt: func(guard string, r decision.Record) *page.Receipt { return pageReceipt(s.config.Namespace, guard, r) },
		Next:    nextLine, Logger: s.log.With("component", "page"),
	})
	s.page = &pageServer{page: p, last: map[string]remediate.View{}, address: s.config.Listen.Page, webConfig: s.config.Web.ConfigFile, log: alerting.WebLog(s.log.With("component", "page")),
		server: &http.Server{
			Handler: p, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
			ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		}}
	s.page.server.RegisterOnShutdown(p.Close)
}

// tokenUser is the ServiceAccount that a configuration's token names, as the API
// server will: its answer may be some time away. Empty: the token does not tell.
func tokenUser(rc *rest.Config) string {
	token := rc.BearerToken
	if rc.BearerTokenFile != "" {
		text, err := os.ReadFile(rc.BearerTokenFile)
		if err != nil {
			return "" // client-go says so
		}
		token = string(text)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Subject string `json:"sub"`
	}
	if err != nil || json.Unmarshal(payload, &claims) != nil || !strings.HasPrefix(claims.Subject, "system:serviceaccount:") {
		return ""
	}
	return claims.Subject
}

// identity is the pod's name, or what comes closest outside a cluster.
func identity() string {
	if name := os.Getenv("POD_NAME"); name != "" {
		return name
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "guardian"
	}
	return strings.ToLower(fmt.Sprintf("%s-%d", strings.ReplaceAll(host, ".", "-"), os.Getpid()))
}

// podUID is that of the pod, where it is in the namespace: the owner of an object
// in another one counts as gone, and the object with it.
func podUID(namespace string) types.UID {
	if os.Getenv("POD_NAME") == "" || config.PodNamespace() != namespace {
		return ""
	}
	return types.UID(os.Getenv("POD_UID"))
}

func (s *service) ready(context.Context) error {
	if err := s.controller.Refused(); err != nil {
		return err
	}
	if !s.controller.Ready() {
		return &alerting.MissingError{Names: s.controller.Missing()}
	}
	return nil
}

// setGuards hands the guards to those who work with them.
func (s *service) setGuards(c config.Config) error {
	// Guards that rules cannot be made for yet are no reason to guard none.
	o, _ := c.RulesOptions(nil)
	if err := rules.Check(o); err != nil {
		return err
	}
	window := c.AlertWindow()
	guards := make([]decision.Guard, len(c.Guards))
	for i, g := range c.Guards {
		guards[i] = c.DecisionGuard(g, window)
	}
	s.bridge.setConfig(c)
	s.controller.SetGuards(guards)
	s.rules.setConfig(c)
	if s.notifier != nil {
		s.notifier.keepOnly(guardNames(c), c.Namespace)
	}
	if s.memory != nil {
		s.memory.tune(len(c.Guards))
	}
	s.reloads.taken()
	return nil
}

// watcher takes over what the configuration's file becomes.
func (s *service) watcher(file string, content []byte) *config.Watcher {
	return &config.Watcher{Path: file, Seen: content, Apply: s.reload, Report: s.reloads.refused, Unwatched: func(err error) {
		s.log.Error("the configuration's file cannot be watched", "err", err)
	}}
}

// run serves until ctx ends or a part fails; the first failure ends the rest.
func (s *service) run(ctx context.Context, file string, content []byte) error {
	defer func() {
		for _, f := range s.close {
			f()
		}
	}()
	if err := s.setGuards(s.config); err != nil {
		return err
	}
	if err := s.server.Listen(ctx); err != nil {
		return err
	}
	if s.page != nil {
		if err := s.page.listen(ctx); err != nil {
			s.log.Error("the page's port cannot be opened now", "err", err) // it is tried again
		} else {
			s.log.Info("page served", "address", s.page.listener.Addr().String())
		}
	}
	version, revision := buildVersion()
	s.log.Info("guardian starts", "version", version, "revision", revision, "namespace", s.config.Namespace,
		"guards", len(s.config.Guards), "alerts", s.server.AlertsAddr().String(), "metrics", s.server.MetricsAddr().String())
	var g run.Group
	add := func(f func(context.Context) error) {
		ctx, cancel := context.WithCancel(ctx)
		g.Add(func() error { return f(ctx) }, func(error) { cancel() })
	}
	add(func(ctx context.Context) error { <-ctx.Done(); return nil })
	add(s.server.Run)
	add(s.controller.Run)
	add(s.checks.run)
	add(s.rules.run)
	if s.notifier != nil {
		add(s.notifier.run)
	}
	if s.page != nil {
		add(s.page.run)
	}
	add(s.tidy)
	add(s.watcher(file, content).Run)
	err := g.Run()
	s.log.Info("guardian stops", "err", err)
	return err
}

// reload takes a new configuration over, as far as that goes without a
// restart.
func (s *service) reload(c config.Config) {
	if keys := config.RestartOnly(s.config, c); len(keys) > 0 {
		s.log.Warn("changed keys need a restart", "keys", keys)
	}
	if c.Namespace != s.config.Namespace {
		s.reloads.refused(fmt.Errorf("namespace: it cannot change while guardian runs: was %q, is %q; a restart takes it over", s.config.Namespace, c.Namespace))
		return
	}
	// What is known to fire was sorted out by the labels as they were.
	c.Own = s.config.Own
	// The notifier posts as it began to, and the rules have to fit that.
	c.Notifications, c.Alertmanager = s.config.Notifications, s.config.Alertmanager
	// The objects that bear the old name would stay, and their alerts with them.
	c.Rules.Name, c.Rules.Namespace = s.config.Rules.Name, s.config.Rules.Namespace
	if reflect.DeepEqual(s.config, c) {
		s.reloads.taken()
		return
	}
	if err := s.setGuards(c); err != nil {
		s.reloads.refused(err)
		return
	}
	if gone := config.RemovedGuards(s.config, c); len(gone) > 0 {
		s.log.Warn("guards were removed: nothing rolls them back any more, and a lock that stands is lifted by guardian unlock alone", "guards", gone)
	}
	s.config.Guards, s.config.Rules, s.config.Heartbeat, s.config.Disarm, s.config.Mode = c.Guards, c.Rules, c.Heartbeat, c.Disarm, c.Mode
	s.log.Info("configuration taken over", "guards", len(c.Guards))
}

func guardNames(c config.Config) []string {
	names := make([]string, len(c.Guards))
	for i, g := range c.Guards {
		names[i] = g.Name
	}
	return names
}

// tidy gives back what the start and smaller bursts leave behind, until ctx ends.
func (s *service) tidy(ctx context.Context) error {
	wait := time.NewTimer(time.Second)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-wait.C:
		}
		if !s.controller.Ready() {
			wait.Reset(time.Second)
			continue
		}
		s.memory.ready()
		debug.FreeOSMemory()
		wait.Reset(tidyEvery)
	}
}
