package remediate

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"go.opentelemetry.io/otel/trace"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
)

// Options are what a Controller is made of.
type Options struct {
	// Client and Dynamic reach the API server. Their rate limits should be off:
	// a burst of rollbacks must not queue behind them.
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
	// EventClient writes Kubernetes Events; it may be slow. Nil: Client.
	EventClient kubernetes.Interface

	Namespace string
	Identity  string // unique among replicas, a DNS label: the pod's name
	// PodUID is that of the pod of this name in Namespace, which this replica's
	// Lease goes with when it is deleted. Empty: there is none.
	PodUID   types.UID
	Instance string // the same for all replicas of one guardian, a label's value; empty: DefaultInstance
	Domain   string // of the cluster; empty: cluster.local
	// User is guardian's own until the API server has told which it is. Empty:
	// not known.
	User   string
	Builds BuildParts

	// Firing returns the alerts that fire for a guard now, as this replica
	// knows it. It must not block.
	Firing func(guard string) []decision.Alert
	// AskForward asks live what matters only before traffic goes forward: the
	// alerts that fire anywhere, the canary's requests since a time, the gates, and
	// the gaps in its rules. Nil: promotion waits for ever.
	AskForward func(ctx context.Context, g decision.Guard, s decision.Sides, since time.Time) (decision.Forward, []decision.Alert)
	// Count returns the canary's requests since a time, and the gaps in the rules
	// that watch it. Nil: they are not counted.
	Count func(ctx context.Context, g decision.Guard, s decision.Sides, since time.Time) (decision.Tally, decision.Gaps, error)
	// After asks what shows only after a rollback: how many requests the canary had
	// since a time and how many of them failed, when the fault began, and when the last
	// request was counted after the write. Nil: nobody is asked.
	After func(ctx context.Context, g decision.Guard, s decision.Sides, r decision.Receipt) decision.After
	// Links are where people see more of a guard between two times. It must not block.
	// Nil: nowhere.
	Links func(guard string, s decision.Sides, from, to time.Time) []decision.Link
	// Heartbeat returns when this replica last heard the heartbeat; zero:
	// never.
	Heartbeat func() time.Time
	// HeartbeatByAlertmanager is the same of those that came through
	// Alertmanager, for people to see. May be nil.
	HeartbeatByAlertmanager func() time.Time

	// Tracer begins the spans of what follows from an alert, and of each write. Nil:
	// there are none.
	Tracer trace.Tracer

	// Confirmed is told where a guard stands when a pass has found out or changed it,
	// as the API server has confirmed it. It must not block. May be nil.
	Confirmed func(View)
	// Failed is told where a guard stood when passes over it begin to fail, fail for
	// another reason, or succeed again. It must not block. May be nil.
	Failed func(View)

	Metrics *Metrics
	Logger  *slog.Logger
	Workers int           // reconciles at once; 0: 16
	Resync  time.Duration // longest time between two looks at a guard; 0: 1 minute
	// WatchGrace is how long a watch may be away before what it has told is not
	// believed any more. 0: Resync.
	WatchGrace time.Duration
	// IdleAfter is how long nothing must have gone on with any guard until what only
	// matters while something does is watched no more; at least one and a half Resyncs.
	// 0: 90 seconds; negative: it is watched for ever.
	IdleAfter time.Duration
	Now       func() time.Time // nil: time.Now
	// PassTimeout bounds one reconcile, so that an API server that takes
	// connections and does not answer holds nobody for long. 0: 15 seconds.
	PassTimeout time.Duration
}

// defaultIdleAfter is how long nothing must have gone on. Every guard is looked at
// within it.
const defaultIdleAfter = 90 * time.Second

// validate says which of the options that are needed is missing.
func (o *Options) validate() error {
	switch {
	case o.Client == nil || o.Dynamic == nil:
		return errors.New("controller: a client is missing")
	case o.Namespace == "":
		return errors.New("controller: no namespace")
	case o.Identity == "":
		return errors.New("controller: no identity")
	case o.Firing == nil || o.Heartbeat == nil || o.Metrics == nil || o.Logger == nil:
		return errors.New("controller: Firing, Heartbeat, Metrics and Logger are needed")
	}
	return nil
}

// complete gives the options that are not set their defaults.
func (o *Options) complete() {
	o.Domain = cmp.Or(o.Domain, virtualservice.DefaultDomain)
	o.Instance = cmp.Or(o.Instance, decision.DefaultInstance)
	o.Workers = cmp.Or(o.Workers, 16)
	o.Resync = cmp.Or(o.Resync, time.Minute)
	o.WatchGrace = cmp.Or(o.WatchGrace, o.Resync)
	o.PassTimeout = cmp.Or(o.PassTimeout, 15*time.Second)
	if o.IdleAfter = cmp.Or(o.IdleAfter, defaultIdleAfter); o.IdleAfter > 0 {
		o.IdleAfter = max(o.IdleAfter, o.Resync+o.Resync/2)
	}
	if o.EventClient == nil {
		o.EventClient = o.Client
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}
