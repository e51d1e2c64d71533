package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/rules/publish"
)

// rulesCheckEvery is how often the names of the guards' Deployments are looked at:
// the rules know workloads by name, and a release can bring new ones.
const rulesCheckEvery = 5 * time.Second

// rulesPatience is how many looks a guard that remediate has not seen yet is
// waited for. Then its rules go by what the configuration alone tells.
const rulesPatience = 12

// rulesController is what the rulesWriter needs of remediate.Controller. Guards not
// looked at yet are missing from SidesOf.
type rulesController interface {
	Leads() bool
	Idle() bool
	SidesOf() map[string]decision.Sides
}

// rulesWriter keeps the PrometheusRules, and the PodMonitor of the fast lane, what
// the configuration and the cluster say, on the replica that holds the lease. With
// rules.enabled false there are to be none of guardian's.
type rulesWriter struct {
	dynamic    dynamic.Interface
	kube       kubernetes.Interface
	controller rulesController
	log        *slog.Logger
	leftOut    prometheus.Gauge

	mu     sync.Mutex
	config config.Config
	term   *publishing // nil: another replica's turn
	made   *madeRules
	waited int // looks in this term at which some guard had not been seen
}

// madeRules remembers what rules were last made of.
type madeRules struct {
	config config.Config
	guards []rules.Guard
	left   string
}

func newRulesWriter(d dynamic.Interface, k kubernetes.Interface, c rulesController, reg prometheus.Registerer, log *slog.Logger) *rulesWriter {
	w := &rulesWriter{dynamic: d, kube: k, controller: c, log: log, leftOut: prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "guardian_rules_guards_left_out", Help: "Guards whose rules cannot be made, on the replica that writes the rules."})}
	reg.MustRegister(w.leftOut)
	return w
}

func (w *rulesWriter) setConfig(c config.Config) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.config = c
}

func (w *rulesWriter) present() config.Config {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.config
}

// run publishes while this replica leads, until ctx ends.
func (w *rulesWriter) run(ctx context.Context) error {
	tick := time.NewTicker(rulesCheckEvery)
	defer tick.Stop()
	defer w.end()
	for {
		c := w.present()
		switch leads := w.controller.Leads(); {
		case leads && !w.publishing():
			if err := w.begin(ctx, c); err != nil {
				w.log.Error("cannot publish rules", "err", err)
			}
		case !leads:
			w.end()
		}
		if w.publishing() {
			w.look(c, w.term)
			w.term.watch(!w.controller.Idle())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// publishing is one term of leadership.
type publishing struct {
	config         config.Rules // of the term's begin: names change with a restart alone
	rules, monitor *publish.Publisher
	cancel         context.CancelFunc
	done           sync.WaitGroup
}

// publishing says whether it is this replica's turn.
func (w *rulesWriter) publishing() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.term != nil
}

// end stops publishing, and returns when it has stopped.
func (w *rulesWriter) end() {
	w.mu.Lock()
	p := w.term
	w.term = nil
	w.mu.Unlock()
	w.leftOut.Set(0)
	if p != nil {
		p.cancel()
		p.done.Wait()
	}
}

func (w *rulesWriter) begin(ctx context.Context, c config.Config) error {
	owner, err := w.owner(ctx, c)
	if err != nil {
		return err
	}
	p := &publishing{}
	p.config = c.Rules
	o := publish.Options{Client: w.dynamic, Kind: publish.PrometheusRule, Set: c.Rules.Name, Namespace: c.Rules.Namespace, Owner: owner, Log: w.log}
	if p.rules, err = publish.New(o); err != nil {
		return err
	}
	o.Kind = publish.PodMonitor
	if p.monitor, err = publish.New(o); err != nil {
		return err
	}
	w.made, w.waited = nil, 0
	term, cancel := context.WithCancel(ctx)
	p.cancel = cancel
	for _, pub := range []*publish.Publisher{p.rules, p.monitor} {
		p.done.Go(func() {
			if err := pub.Run(term); err != nil && term.Err() == nil {
				w.log.Error("cannot publish rules", "err", err)
			}
		})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.term = p
	return nil
}

// owner is guardian's own Deployment, with which the rules are to go; nil when
// guardian runs outside a cluster, or its rules in another namespace, where an
// owner would have them removed at once.
func (w *rulesWriter) owner(ctx context.Context, c config.Config) (*metav1.OwnerReference, error) {
	name, namespace := os.Getenv("DEPLOYMENT_NAME"), config.PodNamespace()
	if name == "" || namespace != c.Rules.Namespace {
		return nil, nil
	}
	d, err := w.kube.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read guardian's own Deployment %s/%s: %w", namespace, name, err)
	}
	return &metav1.OwnerReference{APIVersion: "apps/v1", Kind: "Deployment", Name: d.Name, UID: d.UID}, nil
}

// look makes the rules anew when what they are made of has changed. It waits a
// while for every guard to have been looked at: rules that know no workloads
// would replace those that do. A guard that rules cannot be made for is left out.
func (w *rulesWriter) look(c config.Config, term interface{ want(*rules.Rules) error }) {
	if !c.Rules.Enabled {
		w.lookAway(c, term)
		return
	}
	sides := w.controller.SidesOf()
	if slices.ContainsFunc(c.Guards, func(g config.Guard) bool { _, seen := sides[g.Name]; return !seen }) {
		if w.waited++; w.waited < rulesPatience {
			return
		}
	}
	o, left := c.RulesOptions(sides)
	why := fmt.Sprint(left.Err())
	if w.made != nil && w.made.left == why && reflect.DeepEqual(w.made.guards, o.Guards) && reflect.DeepEqual(w.made.config, c) {
		return
	}
	guards := o.Guards
	made, err := generateFitting(o, left)
	for name, err := range left {
		w.log.Error("guard left out of the rules", "guard", name, "err", err)
	}
	w.leftOut.Set(float64(len(left)))
	if err != nil {
		w.log.Error("cannot make rules", "err", err)
		return
	}
	for _, note := range made.Notes {
		w.log.Warn("rules differ from what was asked", "note", note)
	}
	if err := term.want(made); err != nil {
		w.log.Error("cannot publish rules", "err", err)
		return
	}
	w.made = &madeRules{config: c, guards: guards, left: why}
}

// lookAway has what guardian wrote removed: somebody else keeps the rules.
func (w *rulesWriter) lookAway(c config.Config, term interface{ want(*rules.Rules) error }) {
	if w.made != nil && !w.made.config.Rules.Enabled {
		return
	}
	w.leftOut.Set(0)
	if err := term.want(nil); err != nil {
		w.log.Error("cannot remove rules", "err", err)
		return
	}
	w.made = &madeRules{config: c}
}

// generateFitting makes the rules of all guards but those whose own are too large
// for an object; these go to left.
func generateFitting(o rules.Options, left config.LeftOut) (*rules.Rules, error) {
	for {
		made, err := rules.Generate(o)
		large, ok := errors.AsType[rules.TooLargeError](err)
		if !ok {
			return made, err
		}
		left[large.Guard] = err
		o.Guards = slices.DeleteFunc(slices.Clone(o.Guards), func(g rules.Guard) bool { return g.Name == large.Guard })
	}
}

// watch says whether somebody may need the rules: while no canary gets anything, it
// does to look now and then whether others have touched them.
func (p *publishing) watch(on bool) {
	p.rules.Watch(on)
	p.monitor.Watch(on)
}

// want publishes the rules, and the fast lane that they read or none; nil has all
// of them removed.
func (p *publishing) want(made *rules.Rules) error {
	var objects, monitors []publish.Object
	if made != nil {
		for _, rule := range made.PrometheusRules(p.config.Name, p.config.Namespace) {
			objects = append(objects, rule)
		}
		if m := made.PodMonitor(p.config.FastLaneName(), p.config.Namespace); m != nil {
			monitors = append(monitors, m)
		}
	}
	if err := p.monitor.Want(monitors...); err != nil {
		return err
	}
	return p.rules.Want(objects...)
}
