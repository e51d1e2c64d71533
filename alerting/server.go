package alerting

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/exporter-toolkit/web"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"
)

// Sink takes the alerts that arrive by HTTP, and answers for what becomes of them.
type Sink interface {
	// Accept returns nil only when what follows from the alerts is durably
	// recorded (LaneWebhook), or when they are kept and will be tried until it
	// is (LanePush: its sender does not try again). An error means that the
	// sender was told so, and on the webhook lane tries again with the same
	// alerts, so that Accept must be idempotent. The alerts are in the order of
	// the call, firing and resolved mixed; the slice belongs to Accept.
	//
	// It is called concurrently, and must return soon after ctx is done; ctx
	// bounds the wait, not the work that was begun.
	Accept(ctx context.Context, lane Lane, alerts []Alert) error
}

// ErrUnknownGuard is what a [GuardLister] returns about a guard that is not there.
var ErrUnknownGuard = errors.New("unknown guard")

// GuardLister answers questions about guards with values that encoding/json
// can write. Both methods are called concurrently.
type GuardLister interface {
	// Guards is all guards: a value that becomes a JSON array.
	Guards(ctx context.Context) (any, error)
	// Guard is one guard, or an error that is ErrUnknownGuard.
	Guard(ctx context.Context, name string) (any, error)
}

// Defaults of [ServerOptions].
const (
	DefaultMaxBody         = 4 << 20             // bytes of a request's body
	DefaultSinkTimeout     = 4 * time.Second     // for Sink.Accept, before a call is answered 503
	DefaultReadTimeout     = 5 * time.Second     // for a request to arrive in whole
	DefaultShutdownTimeout = 10 * time.Second    // for the calls that are under way when the server ends
	DefaultHeartbeatName   = "GuardianHeartbeat" // alertname of the alert that always fires
)

const (
	// idleTimeout is more than the five minutes after which Alertmanager and
	// Prometheus close an idle connection (prometheus/common/config): when the
	// server does it first, it can hit a push that is just being sent.
	idleTimeout    = 6 * time.Minute
	maxHeaderBytes = 16 << 10
)

// ServerOptions says where a [Server] listens and whom it talks to. Sink,
// Guards, Gatherer, MetricSet and Logger are needed, and one way to
// authenticate: TokenFile, a web configuration with basic_auth_users or required
// client certificates, or the request to have none.
type ServerOptions struct {
	AlertsAddress, MetricsAddress string // host:port; port 0 takes a free one

	// WebConfigFile is an exporter-toolkit web configuration for the alerts
	// port: TLS, client certificates, basic auth. Empty: plain HTTP. Its
	// rate_limit is refused. The metrics port is always plain HTTP and takes no
	// orders: a kubelet has no certificate and no password to probe it with.
	WebConfigFile string
	// TokenFile holds the bearer tokens of the alerts port, one on a line. It
	// is read for each call. While it cannot be read every call gets 503.
	TokenFile string
	// AllowAnonymous takes calls from anybody where nothing of the above keeps
	// them out, and warns of it at the start.
	AllowAnonymous bool

	MaxBody         int64         // bytes of a call's body; more is 413. Default: 4 MiB
	SinkTimeout     time.Duration // for one call, below the sender's own (shipped route: 5 s). Default: 4 s
	ReadTimeout     time.Duration // for a whole request. Default: 5 s
	ShutdownTimeout time.Duration // for calls in flight when Run ends. Default: 10 s

	// HeartbeatName is the alertname that counts as heartbeat. Default:
	// GuardianHeartbeat.
	HeartbeatName string
	// OwnHeartbeat says by its labels whether a heartbeat is this guardian's.
	// Default: any is.
	OwnHeartbeat func(lane Lane, labels map[string]string) bool

	Sink   Sink
	Guards GuardLister
	// Ready says why guardian is not ready, or nil. Default: always ready.
	Ready func(context.Context) error
	// Refresh lists everything from Alertmanager's API and returns when that
	// has been acted upon as by Sink.Accept. It is called when Alertmanager has
	// left alerts out of a call (max_alerts); when it fails the call is
	// answered 503, and comes again. Default: the call is taken without them,
	// logged and counted.
	Refresh func(context.Context) error

	// List asks for a listing from Alertmanager's API, soon, and returns at once. It is
	// called when a call of somebody who has proved who they are is answered with what
	// its sender gives up at (400, 413): its alerts do not come again by themselves.
	// Default: they wait for the next listing.
	List func()

	// Tracer begins a span for each call of the alerts port that has proved who it is.
	// Default: there are none.
	Tracer trace.Tracer
	// Propagator takes the trace that a call is part of from its headers. Default: it
	// begins its own.
	Propagator propagation.TextMapPropagator

	Gatherer  prometheus.Gatherer // behind /metrics
	MetricSet *Metrics
	Logger    *slog.Logger
	Now       func() time.Time // Default: time.Now
}

func (o *ServerOptions) complete() error {
	var errs []error
	for name, missing := range map[string]bool{
		"Sink": o.Sink == nil, "Guards": o.Guards == nil, "Gatherer": o.Gatherer == nil,
		"MetricSet": o.MetricSet == nil, "Logger": o.Logger == nil,
	} {
		if missing {
			errs = append(errs, fmt.Errorf("server option %s: missing", name))
		}
	}
	o.MaxBody = cmp.Or(o.MaxBody, DefaultMaxBody)
	o.SinkTimeout = cmp.Or(o.SinkTimeout, DefaultSinkTimeout)
	o.ReadTimeout = cmp.Or(o.ReadTimeout, DefaultReadTimeout)
	o.ShutdownTimeout = cmp.Or(o.ShutdownTimeout, DefaultShutdownTimeout)
	o.HeartbeatName = cmp.Or(o.HeartbeatName, DefaultHeartbeatName)
	if o.Ready == nil {
		o.Ready = func(context.Context) error { return nil }
	}
	if o.List == nil {
		o.List = func() {}
	}
	if o.OwnHeartbeat == nil {
		o.OwnHeartbeat = func(Lane, map[string]string) bool { return true }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return errors.Join(errs...)
}

// Server is guardian's two ports: alerts come in on one, and questions are
// answered on the other.
type Server struct {
	opts       ServerOptions
	auth       authenticator
	log        *slog.Logger
	refusals   rate.Sometimes // bounds the log of calls without credentials
	clocks     rate.Sometimes // bounds the log of clocks that are apart
	heartbeats map[Lane]*atomic.Pointer[time.Time]
	stopping   atomic.Bool

	alerts, metrics port
}

// port is one listener and what serves it.
type port struct {
	name     string
	listener net.Listener
	server   *http.Server
}

// NewServer checks the options, files included, and listens on nothing yet.
func NewServer(opts ServerOptions) (*Server, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	auth, err := newAuthenticator(opts.TokenFile, opts.WebConfigFile, opts.AllowAnonymous)
	if err != nil {
		return nil, err
	}
	if auth == nil {
		opts.Logger.Warn("THE ALERTS PORT IS OPEN: whoever reaches it can roll canaries back and stop releases; want a token file unless the network keeps others out",
			"address", opts.AlertsAddress)
		auth = func(*http.Request) error { return nil }
	}
	s := &Server{
		opts:     opts,
		auth:     auth,
		log:      opts.Logger.With("component", "alerting"),
		refusals: rate.Sometimes{First: 3, Interval: 10 * time.Second},
		clocks:   rate.Sometimes{First: 1, Interval: time.Minute},
		heartbeats: map[Lane]*atomic.Pointer[time.Time]{
			LaneWebhook: new(atomic.Pointer[time.Time]), LanePush: new(atomic.Pointer[time.Time]),
		},
	}
	s.alerts = port{name: "alerts", server: s.httpServer(s.alertsHandler())}
	s.watchAuthentication(s.alerts.server)
	s.metrics = port{name: "metrics", server: s.httpServer(s.metricsHandler())}
	return s, nil
}

func (s *Server) httpServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: s.opts.ReadTimeout,
		ReadTimeout:       s.opts.ReadTimeout,
		WriteTimeout:      s.opts.ReadTimeout + s.opts.SinkTimeout + 5*time.Second,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// Listen opens both ports, so that their addresses are known and taken before
// Run. It is called by Run if it has not been called.
func (s *Server) Listen(ctx context.Context) error {
	if s.alerts.listener != nil {
		return nil
	}
	var listen net.ListenConfig
	alerts, err := listen.Listen(ctx, "tcp", s.opts.AlertsAddress)
	if err != nil {
		return fmt.Errorf("open alerts port: %w", err)
	}
	metrics, err := listen.Listen(ctx, "tcp", s.opts.MetricsAddress)
	if err != nil {
		return errors.Join(fmt.Errorf("open metrics port: %w", err), alerts.Close())
	}
	s.alerts.listener, s.metrics.listener = alerts, metrics
	return nil
}

// AlertsAddr is where alerts are taken, after Listen.
func (s *Server) AlertsAddr() net.Addr { return s.alerts.listener.Addr() }

// MetricsAddr is where questions are answered, after Listen.
func (s *Server) MetricsAddr() net.Addr { return s.metrics.listener.Addr() }

// Heartbeat is when the heartbeat alert was last received and accepted on any
// lane, by this replica's clock; zero if never.
func (s *Server) Heartbeat() time.Time {
	webhook, push := s.HeartbeatOf(LaneWebhook), s.HeartbeatOf(LanePush)
	if push.After(webhook) {
		return push
	}
	return webhook
}

// HeartbeatOf is the same of one lane: what Prometheus pushes proves nothing of
// Alertmanager.
func (s *Server) HeartbeatOf(lane Lane) time.Time {
	if at := s.heartbeats[lane]; at != nil && at.Load() != nil {
		return *at.Load()
	}
	return time.Time{}
}

// Run serves until ctx is done or a port fails. Then it takes no further
// calls, lets those in flight finish within ShutdownTimeout, the alerts port
// first, and returns. The error is nil after an orderly end.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Listen(ctx); err != nil {
		return err
	}
	done := make(chan error, 2)
	go func() { done <- s.alerts.serve(s.opts.WebConfigFile, s.log) }()
	go func() { done <- s.metrics.serve("", s.log) }()
	var errs []error
	running := 2
	select {
	case <-ctx.Done():
	case err := <-done:
		errs = append(errs, err)
		running--
	}
	s.stopping.Store(true)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.ShutdownTimeout)
	defer cancel()
	errs = append(errs, s.alerts.stop(end), s.metrics.stop(end))
	for range running {
		errs = append(errs, <-done)
	}
	return errors.Join(errs...)
}

func (p *port) serve(webConfigFile string, log *slog.Logger) error {
	err := web.Serve(p.listener, p.server, &web.FlagConfig{WebConfigFile: &webConfigFile}, WebLog(log))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s port: %s", p.name, withoutValues(err.Error()))
}

func (p *port) stop(ctx context.Context) error {
	err := p.server.Shutdown(ctx)
	p.listener.Close() // a server that never got to serve it has not closed it
	if err == nil {
		return nil
	}
	return errors.Join(fmt.Errorf("stop %s port: calls still unanswered: %w", p.name, err), p.server.Close())
}

func (s *Server) alertsHandler() http.Handler {
	e := s.newEcho()
	e.POST(pathWebhook, s.webhook)
	e.POST(pathPush, s.push)
	return noteReached(e)
}

// What is served on the alerts port.
const (
	pathWebhook = "/webhook"
	pathPush    = "/api/v2/alerts"
)

func (s *Server) metricsHandler() http.Handler {
	e := s.newEcho()
	e.GET("/metrics", echo.WrapHandler(promhttp.HandlerFor(s.opts.Gatherer, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(s.log.Handler(), slog.LevelError),
		MaxRequestsInFlight: 10,
		EnableOpenMetrics:   true, // the only format with exemplars
	})))
	e.GET("/healthz", func(c echo.Context) error { return c.JSON(http.StatusOK, answer{Status: "ok"}) })
	e.GET("/readyz", s.ready)
	e.GET("/api/v1/guards", s.guards)
	e.GET("/api/v1/guards/:name", s.guard)
	return e
}

func (s *Server) newEcho() *echo.Echo {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.HTTPErrorHandler = s.handleError
	e.Use(recovered)
	return e
}
