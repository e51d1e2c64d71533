package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // the users' own kubeconfigs
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
)

// How guardian's replicas show that they live: each renews a Lease
// guardian-<pod> in the guards' namespace.
const (
	leaseSelector = "app.kubernetes.io/name=guardian"
	leaseFresh    = records.LifeTimeout
	// leaseSkew is the most by which this machine's clock is thought to be off.
	// Up to it a renewal that is seen to happen counts, whatever its time.
	leaseSkew  = 10 * time.Minute
	leaseGrace = records.LifePeriod + 2*time.Second // one renewal must show within it
	// beatMaxAge is heartbeat.maxAge where no Lease tells it.
	beatMaxAge = 3 * time.Minute
)

// clusterFlags is how to reach a cluster, as kubectl has it.
type clusterFlags struct {
	kubeconfig, context, namespace string
}

func (c *clusterFlags) add(f *pflag.FlagSet) {
	f.StringVar(&c.kubeconfig, "kubeconfig", "", "kubeconfig file (default: $KUBECONFIG, else ~/.kube/config)")
	f.StringVar(&c.context, "context", "", "context of the kubeconfig (default: its current one)")
	f.StringVarP(&c.namespace, "namespace", "n", "", "namespace of the guards (default: the context's)")
}

// cluster is what the commands need of Kubernetes, in one namespace.
type cluster struct {
	kube      kubernetes.Interface
	dynamic   dynamic.Interface
	namespace string
	user      string // as the kubeconfig names it; used where the API server does not tell

	// impersonate is the same connection as another user; nil: there is none.
	impersonate func(user string) (*cluster, error)
}

// connect reads the user's kubeconfig; inside a pod, the ServiceAccount.
func connect(flags clusterFlags) (*cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = flags.kubeconfig
	overrides := &clientcmd.ConfigOverrides{CurrentContext: flags.context}
	overrides.Context.Namespace = flags.namespace
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	config.UserAgent = "guardian-cli"
	config.QPS, config.Burst = 50, 100 // client-go's own 5 a second would make `check` take ten
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: namespace: %w", err)
	}
	c, err := clusterOf(config, namespace)
	if err != nil {
		return nil, err
	}
	c.impersonate = func(user string) (*cluster, error) {
		as := rest.CopyConfig(config)
		as.Impersonate = rest.ImpersonationConfig{UserName: user} // a ServiceAccount's groups follow from its name
		return clusterOf(as, namespace)
	}
	if raw, err := loader.RawConfig(); err == nil {
		current := raw.CurrentContext
		if flags.context != "" {
			current = flags.context
		}
		if ctx := raw.Contexts[current]; ctx != nil {
			c.user = ctx.AuthInfo
		}
	}
	return c, nil
}

func clusterOf(config *rest.Config, namespace string) (*cluster, error) {
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", config.Host, err)
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", config.Host, err)
	}
	return &cluster{kube: kube, dynamic: dyn, namespace: namespace}, nil
}

// explain turns what Kubernetes answers into what to do about it.
func (c *cluster) explain(doing string, err error) error {
	switch {
	case apierrors.IsForbidden(err):
		hint := ""
		if status := apierrors.APIStatus(nil); errors.As(err, &status) && status.Status().Details != nil {
			if kind := status.Status().Details.Kind; kind == "configmaps" || kind == "leases" {
				hint = fmt.Sprintf(" (reading needs get, list and watch of configmaps and list of leases in namespace %s; acting needs patch of configmaps as well)", c.namespace)
			}
		}
		return fmt.Errorf("%s: your user may not: %w%s", doing, err, hint)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s: the API server does not know your user: log in again, or choose another --context: %w", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// record reads a guard's record live, as far as it can be read; nil without an
// error when there is none.
func (c *cluster) record(ctx context.Context, guard string) (*decision.Record, error) {
	cm, err := c.kube.CoreV1().ConfigMaps(c.namespace).Get(ctx, records.Name(guard), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, c.explain("read the record of guard "+guard, err)
	}
	r, err := records.ReadOf(guard, cm)
	if err != nil {
		return nil, err
	}
	return &r, nil
}

// namedRecord is a record with its guard.
type namedRecord struct {
	namespace, guard string
	decision.Record
}

// records reads every guard's record of a namespace ("" for all), by name. One
// that cannot be read as a whole is in the error, and the rest of it is still
// returned.
func (c *cluster) records(ctx context.Context, namespace string) ([]namedRecord, error) {
	list, err := c.kube.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{LabelSelector: records.LabelGuard})
	if err != nil {
		return nil, c.explain("list the guards' records", err)
	}
	var out []namedRecord
	var bad error
	for i := range list.Items {
		cm := &list.Items[i]
		r, err := records.ReadOf(guardName(cm), cm)
		if err != nil {
			bad = errors.Join(bad, err)
			continue
		}
		bad = errors.Join(bad, records.UnreadableError(r, cm.Namespace, guardName(cm)))
		out = append(out, namedRecord{cm.Namespace, guardName(cm), r})
	}
	slices.SortFunc(out, func(a, b namedRecord) int {
		return strings.Compare(a.namespace+"/"+a.guard, b.namespace+"/"+b.guard)
	})
	return out, bad
}

func guardName(cm *corev1.ConfigMap) string {
	if name := cm.Labels[records.LabelGuard]; name != "" {
		return name
	}
	return strings.TrimPrefix(cm.Name, records.Name(""))
}

// unknownGuard says that a guard has no record, and which ones have.
func (c *cluster) unknownGuard(ctx context.Context, guard string) error {
	hint := "no guard has one there: does guardian run for this namespace?"
	if all, err := c.records(ctx, c.namespace); err == nil && len(all) > 0 {
		names := make([]string, len(all))
		for i, r := range all {
			names[i] = r.guard
		}
		hint = "guards there: " + strings.Join(names, ", ")
	}
	return fmt.Errorf("no guard %s in namespace %s (no ConfigMap %s); %s", guard, c.namespace, records.Name(guard), hint)
}

// whoAmI is the user as the API server knows it: the record names whom the
// audit log names, and the admission policy refuses any other name. The
// kubeconfig's name stands in where the server does not tell (it cannot before
// Kubernetes 1.28), which is marked: it proves nothing.
func (c *cluster) whoAmI(ctx context.Context) (string, error) {
	review, err := c.kube.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	switch {
	case err == nil && review.Status.UserInfo.Username != "":
		return review.Status.UserInfo.Username, nil
	case err != nil && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err):
		return "", c.explain("ask the API server who you are", err)
	}
	return cmp.Or(c.user, "unknown user") + " (by kubeconfig)", nil
}

// pulse judges by the replicas' Leases whether a guardian lives. What it sees
// happen lies between two looks: it is taken for as old as it can be.
type pulse struct {
	seen    map[string]time.Time // lease → its renewTime when last looked at
	looked  time.Time            // the last look, by this machine's clock
	moved   time.Time            // when a renewal was last seen to have happened
	renewed time.Time            // the earliest that it can have happened
	heard   time.Time            // the earliest that some replica can have heard the newest heartbeat that was seen to come
	beat    records.Heartbeat    // as last looked at
}

// blind is why alerts may not reach the guardians that live, or "".
func (p *pulse) blind() string {
	switch most := cmp.Or(p.beat.MaxAge, beatMaxAge); {
	case !p.beat.Heard:
		return "alerts may not reach guardian: it has heard no heartbeat since it started"
	case p.beat.Age > most:
		return fmt.Sprintf("alerts may not reach guardian: the newest heartbeat is %s old, heartbeat.maxAge is %s", p.beat.Age.Round(time.Second), most)
	}
	return ""
}

// alive looks at the Leases at now. Where none is, why says what was found, and
// near says that the answer might change with another look.
func (p *pulse) alive(leases []coordinationv1.Lease, now time.Time) (ok bool, why string, near bool) {
	var newest *coordinationv1.Lease
	p.beat = records.ReadHeartbeat(leases)
	if p.seen == nil {
		p.seen = map[string]time.Time{}
	}
	for i := range leases {
		l := &leases[i]
		if !strings.HasPrefix(l.Name, records.ReplicaLease("")) || l.Spec.RenewTime == nil {
			continue
		}
		at := l.Spec.RenewTime.Time
		if last, known := p.seen[l.Name]; !p.looked.IsZero() && (!known || !last.Equal(at)) {
			p.sawRenewal(l, at, now)
		}
		p.seen[l.Name] = at
		if newest == nil || at.After(newest.Spec.RenewTime.Time) {
			newest = l
		}
	}
	p.looked = now
	if newest == nil {
		return false, "no guardian has a Lease there", false
	}
	age := now.Sub(newest.Spec.RenewTime.Time)
	if age.Abs() <= leaseFresh || (!p.moved.IsZero() && now.Sub(p.moved) <= leaseFresh) {
		return true, "", true
	}
	if age < 0 {
		return false, fmt.Sprintf("the newest Lease, %s, is %s ahead of this machine's clock", newest.Name, (-age).Round(time.Second)), -age < leaseSkew
	}
	return false, fmt.Sprintf("no guardian has renewed its Lease for %s (newest: %s)", age.Round(time.Second), newest.Name), age < leaseSkew
}

// sawRenewal takes down a renewal that has happened since the last look, and the
// heartbeat that it tells of: both times are by the replica's clock.
func (p *pulse) sawRenewal(l *coordinationv1.Lease, at, now time.Time) {
	p.moved, p.renewed = now, p.looked
	beat, err := time.Parse(time.RFC3339, l.Annotations[records.AnnotationHeartbeat])
	if err != nil || beat.After(at) {
		return
	}
	if heard := p.looked.Add(-at.Sub(beat)); heard.After(p.heard) {
		p.heard = heard
	}
}

// look reads the Leases once.
func (c *cluster) look(ctx context.Context, p *pulse) (ok bool, why string, near bool, err error) {
	list, err := c.kube.CoordinationV1().Leases(c.namespace).List(ctx, metav1.ListOptions{LabelSelector: leaseSelector})
	if err != nil {
		return false, "", false, c.explain("list guardian's Leases", err)
	}
	ok, why, near = p.alive(list.Items, time.Now())
	return ok, why, near, nil
}

// wantAlive returns nil when a guardian lives, and 'could not tell' when none
// does.
func (c *cluster) wantAlive(ctx context.Context, p *pulse) error {
	why, err := c.findAlive(ctx, p)
	switch {
	case err != nil:
		return &exitError{exitUnknown, fmt.Errorf("could not tell: %w", err)}
	case why != "":
		return couldNotTell("no live guardian in namespace %s: %s", c.namespace, why)
	}
	return nil
}

// findAlive looks for a guardian that lives, and says why none seems to. A
// clock that is off by minutes costs it one renewal of waiting.
func (c *cluster) findAlive(ctx context.Context, p *pulse) (why string, err error) {
	give := time.Now().Add(leaseGrace)
	for {
		ok, why, near, err := c.look(ctx, p)
		switch {
		case err != nil:
			return "", err
		case ok:
			return "", nil
		case !near || time.Now().After(give):
			return why, nil
		}
		if err := sleep(ctx, 2*time.Second); err != nil {
			return "", errors.New("interrupted")
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// followTick is how often a followed record is read even without an event.
const followTick = 5 * time.Second

// follow hands each state of a guard's record to see until that returns 0 or
// less, or ctx is done. see returns after how long it wants to look again. The
// record is nil when there is none. Errors of reading are handed on too: they
// may pass. Without the right to watch it polls.
func (c *cluster) follow(ctx context.Context, guard string, see func(*decision.Record, error) time.Duration) error {
	for {
		// The watch begins before the first look, so that nothing falls
		// between the two.
		w, watchErr := c.kube.CoreV1().ConfigMaps(c.namespace).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + records.Name(guard)})
		var events <-chan watch.Event
		if watchErr == nil {
			events = w.ResultChan()
		}
		done, err := c.followOne(ctx, guard, events, see)
		if watchErr == nil {
			w.Stop()
		}
		if done || err != nil {
			return err
		}
		if err := sleep(ctx, time.Second); err != nil { // a watch that ends at once must not spin
			return err
		}
	}
}

// followOne follows until the watch ends; done says that see has had enough.
func (c *cluster) followOne(ctx context.Context, guard string, events <-chan watch.Event, see func(*decision.Record, error) time.Duration) (done bool, err error) {
	next := see(c.record(ctx, guard))
	for next > 0 {
		t := time.NewTimer(min(next, followTick))
		select {
		case <-ctx.Done():
			t.Stop()
			return false, ctx.Err()
		case <-t.C:
			next = see(c.record(ctx, guard))
		case e, open := <-events:
			t.Stop()
			cm, isRecord := e.Object.(*corev1.ConfigMap)
			switch {
			case !open || !isRecord:
				return false, nil
			case cm.Name != records.Name(guard):
			case e.Type == watch.Deleted:
				next = see(nil, nil)
			default:
				r, parseErr := records.ReadOf(guard, cm)
				if parseErr != nil {
					next = see(nil, parseErr)
					break
				}
				next = see(&r, nil)
			}
		}
	}
	return true, nil
}
