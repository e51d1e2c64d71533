package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/rules"
)

// bridge translates between alerting and remediate: which guard an alert is
// about, and what it asks for.
type bridge struct {
	config atomic.Pointer[guardIndex]
	book   *alerting.Book
	guards controller
	log    *slog.Logger
	now    func() time.Time

	mu      sync.Mutex
	unknown map[string]time.Time // guards that alerts name and nobody has, by when it was last said
}

// guardIndex is a configuration whose guards are found without a search: with
// a thousand of them each alert would otherwise be held against all.
type guardIndex struct {
	Config
	byName   map[string]*GuardConfig
	matching []*GuardConfig // those with matchers, which any alert may satisfy; in the configuration's order
}

func newGuardIndex(c Config) *guardIndex {
	i := &guardIndex{Config: c, byName: make(map[string]*GuardConfig, len(c.Guards))}
	for n := range c.Guards {
		g := &c.Guards[n]
		i.byName[g.Name] = g
		if len(g.Alerts.Matchers) > 0 {
			i.matching = append(i.matching, g)
		}
	}
	return i
}

// Guard returns the guard of that name.
func (i *guardIndex) Guard(name string) (GuardConfig, bool) {
	if g, ok := i.byName[name]; ok {
		return *g, true
	}
	return GuardConfig{}, false
}

// controller is what the bridge needs of remediate.Controller.
type controller interface {
	Submit(ctx context.Context, guard string, alerts []remediate.Alert, received time.Time) error
	Accept(guard string, alerts []remediate.Alert, received time.Time) error
	Enqueue(guard string)
	Unknown(ctx context.Context, guard, alert string) error
}

func newBridge(c Config, metrics *alerting.Metrics, log *slog.Logger, now func() time.Time) *bridge {
	b := &bridge{log: log, now: now, unknown: map[string]time.Time{}}
	b.config.Store(newGuardIndex(c))
	b.book = alerting.NewBook(alerting.BookOptions{Keys: b.guardsOf, Metrics: metrics})
	return b
}

// setConfig takes a new configuration into use: alerts are matched anew.
func (b *bridge) setConfig(c Config) {
	b.config.Store(newGuardIndex(c))
	b.book.Reindex(b.guardsOf)
}

// guardsOf names the guards that an alert is about: the one in its label, and
// those whose matchers select it. An alert of another namespace is about
// nobody here: several guardians may stand behind one Alertmanager.
func (b *bridge) guardsOf(a alerting.Alert) []string {
	c := b.config.Load()
	if ns := a.Labels[rules.LabelNamespace]; ns != "" && ns != c.Namespace && a.Labels[rules.LabelGuard] != "" {
		return nil
	}
	var out []string
	named, ok := c.byName[a.Labels[rules.LabelGuard]]
	if ok && actionFor(named, a) != "" {
		out = append(out, named.Name)
	}
	for _, g := range c.matching {
		if g != named && actionFor(g, a) != "" {
			out = append(out, g.Name)
		}
	}
	return out
}

// actionFor is what an alert asks of a guard; empty: it is not about it.
func actionFor(g *GuardConfig, a alerting.Alert) remediate.Action {
	if action := a.Labels[rules.LabelAction]; a.Labels[rules.LabelGuard] == g.Name && isAction(action) {
		return remediate.Action(action)
	}
	for _, m := range g.Alerts.Matchers {
		if m.Matches(a.Labels) {
			return remediate.Action(m.Action)
		}
	}
	return ""
}

// isAction says whether the label guardian_action has a value that means
// something.
func isAction(action string) bool {
	return action == string(remediate.ActionRollback) || action == string(remediate.ActionHold) || action == actionNone
}

// actionNone is of alerts that people hear and guardian does not.
const actionNone = "none"

// translate is an alert as remediate knows it.
func (b *bridge) translate(g GuardConfig, a alerting.Alert) remediate.Alert {
	summary := a.Annotations["summary"]
	if summary == "" {
		summary = a.Annotations["description"]
	}
	action := actionFor(&g, a)
	if a.Suppressed && action == remediate.ActionRollback {
		action = remediate.ActionHold // silenced: somebody knows, which is no reason to go forward
	}
	return remediate.Alert{
		Name: a.Name(), Signal: a.Labels[rules.LabelSignal], Action: action,
		Fingerprint: a.Fingerprint, StartsAt: a.StartsAt, Summary: summary,
	}
}

// firing is what fires for a guard now, as this replica knows it.
func (b *bridge) firing(guard string) []remediate.Alert {
	g, ok := b.config.Load().Guard(guard)
	if !ok {
		return nil
	}
	var out []remediate.Alert
	for _, a := range b.book.FiringOf(guard, b.now()) {
		out = append(out, b.translate(g, a))
	}
	return out
}

// Accept is alerting's way in. On the webhook lane it returns when every guard
// has recorded what follows; the push lane's alerts are kept until that is so.
func (b *bridge) Accept(ctx context.Context, lane alerting.Lane, alerts []alerting.Alert) error {
	received := b.now()
	_, bookErr := b.book.Apply(lane, alerts, received) // a full book delays, and loses nothing: it is said at the end
	began := b.byGuard(alerts)
	var errs []error
	if lane == alerting.LaneWebhook {
		errs = append(errs, b.submit(ctx, began, received))
	} else {
		for _, guard := range slices.Sorted(maps.Keys(began)) {
			errs = append(errs, ignoreUnknown(b.guards.Accept(guard, began[guard], received)))
		}
	}
	return errors.Join(append(errs, bookErr, b.tellUnknown(ctx, alerts))...)
}

// submit hands alerts over and returns when every guard has recorded what
// follows, or with what kept it from that.
func (b *bridge) submit(ctx context.Context, began map[string][]remediate.Alert, received time.Time) error {
	errs := make([]error, len(began))
	var wg sync.WaitGroup
	for i, guard := range slices.Sorted(maps.Keys(began)) {
		wg.Go(func() { errs[i] = ignoreUnknown(b.guards.Submit(ctx, guard, began[guard], received)) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// byGuard sorts alerts by guard. A guard whose alerts have only ended is there
// with none: it is looked at again.
func (b *bridge) byGuard(alerts []alerting.Alert) map[string][]remediate.Alert {
	c := b.config.Load()
	out := map[string][]remediate.Alert{}
	for _, a := range alerts {
		b.tellNoAction(c, a)
		for _, name := range b.guardsOf(a) {
			g, ok := c.Guard(name)
			if !ok {
				continue
			}
			list := out[name]
			if !a.Resolved {
				list = append(list, b.translate(g, a))
			}
			out[name] = list
		}
	}
	return out
}

// tellNoAction warns of an alert that names a guard and does not say what is to
// happen: somebody relies on it, and only a matcher can give it an action.
func (b *bridge) tellNoAction(c *guardIndex, a alerting.Alert) {
	guard, action := a.Labels[rules.LabelGuard], a.Labels[rules.LabelAction]
	if _, known := c.byName[guard]; !known || a.Resolved || isAction(action) ||
		a.Labels[rules.LabelNamespace] != "" && a.Labels[rules.LabelNamespace] != c.Namespace || !b.sayUnknown(guard+" "+a.Name()) {
		return
	}
	b.log.Warn("alert names a guard and no action: label "+rules.LabelAction+" wants rollback, hold or none; alerts.matchers alone can give it one",
		"guard", guard, "alert", a.Name(), "action", action, "fingerprint", a.Fingerprint)
}

// ownHeartbeat says whether a heartbeat is of the rules that this guardian
// listens for: several may stand behind one Alertmanager, and another's proves
// nothing here. Labels that are not there say nothing.
func (b *bridge) ownHeartbeat(labels map[string]string) bool {
	c := b.config.Load()
	for name, want := range map[string]string{rules.LabelInstance: c.Rules.Name, rules.LabelNamespace: c.Namespace} {
		if have := labels[name]; have != "" && have != want {
			return false
		}
	}
	return true
}

func ignoreUnknown(err error) error {
	if errors.Is(err, remediate.ErrUnknownGuard) {
		return nil // it was taken out of the configuration a moment ago
	}
	return err
}

// tellUnknown records alerts that name a guard which this guardian does not
// have: somebody relies on a brake that is not there.
func (b *bridge) tellUnknown(ctx context.Context, alerts []alerting.Alert) error {
	c := b.config.Load()
	var errs []error
	for _, a := range alerts {
		name := a.Labels[rules.LabelGuard]
		if name == "" || a.Resolved || a.Labels[rules.LabelNamespace] != "" && a.Labels[rules.LabelNamespace] != c.Namespace {
			continue
		}
		if _, ok := c.Guard(name); ok || !b.sayUnknown(name) {
			continue
		}
		b.log.Warn("alert for a guard that the configuration does not have", "guard", name, "alert", a.Name(), "fingerprint", a.Fingerprint)
		if err := b.guards.Unknown(ctx, name, a.Name()); err != nil {
			b.forgetUnknown(name)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// sayUnknown holds repetitions back to one in ten minutes, and the memory of
// them to 1,000 names.
func (b *bridge) sayUnknown(guard string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if last, ok := b.unknown[guard]; ok && now.Sub(last) < 10*time.Minute {
		return false
	}
	if len(b.unknown) >= 1000 {
		clear(b.unknown)
	}
	b.unknown[guard] = now
	return true
}

// forgetUnknown lets the next repetition be recorded.
func (b *bridge) forgetUnknown(guard string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.unknown, guard)
}

// filter selects every alert that may be about a guard.
func (b *bridge) filter() (alerting.Filter, error) {
	own, err := alerting.ParseMatchers(rules.LabelGuard + `!=""`)
	if err != nil {
		return alerting.Filter{}, err
	}
	return filterOf(own, b.config.Load().Guards)
}

// filterFor selects every alert that may be about one guard.
func filterFor(g GuardConfig) (alerting.Filter, error) {
	own, err := alerting.ParseMatchers(rules.LabelGuard + `="` + g.Name + `"`)
	if err != nil {
		return alerting.Filter{}, err
	}
	return filterOf(own, []GuardConfig{g})
}

// filterOf is own and the guards' matchers, silenced alerts included.
func filterOf(own alerting.Matchers, guards []GuardConfig) (alerting.Filter, error) {
	f := alerting.Filter{Any: []alerting.Matchers{own}, Suppressed: true}
	for _, g := range guards {
		for _, m := range g.Alerts.Matchers {
			parsed, err := alerting.ParseMatchers(m.Match)
			if err != nil {
				return alerting.Filter{}, fmt.Errorf("guard %s: alerts.matchers %q: %w", g.Name, m.Match, err)
			}
			f.Any = append(f.Any, parsed)
		}
	}
	return f, nil
}
