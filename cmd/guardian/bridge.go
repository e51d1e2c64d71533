package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/rules"
)

// bridge translates between alerting and remediate: which guard an alert is
// about, and what it asks for.
type bridge struct {
	config  atomic.Pointer[guardIndex]
	store   *alerting.Store
	metrics *alerting.Metrics
	guards  controller
	memory  *memory // nil: nobody keeps it
	log     *slog.Logger
	now     func() time.Time

	mu      sync.Mutex
	unknown map[string]time.Time // what was said about alerts that do nothing here, and when
}

// controller is what the bridge needs of remediate.Controller.
type controller interface {
	Submit(ctx context.Context, guard string, alerts []decision.Alert, received time.Time) error
	Accept(ctx context.Context, guard string, alerts []decision.Alert, received time.Time) error
	Enqueue(guard string)
	Unknown(ctx context.Context, alertOf map[string]string) error
}

func newBridge(c config.Config, metrics *alerting.Metrics, log *slog.Logger, now func() time.Time) *bridge {
	b := &bridge{metrics: metrics, log: log, now: now, unknown: map[string]time.Time{}}
	b.config.Store(newGuardIndex(c))
	b.store = alerting.NewStore(alerting.StoreOptions{Keys: b.guardsOf, Metrics: metrics})
	return b
}

// setConfig takes a new configuration into use: alerts are matched anew.
func (b *bridge) setConfig(c config.Config) {
	b.config.Store(newGuardIndex(c))
	b.store.Reindex(b.guardsOf)
}

// guardsOf names the guards that an alert of this guardian is about: the one in
// its label, and those whose matchers select it.
func (b *bridge) guardsOf(a alerting.Alert) []string {
	c := b.config.Load()
	var out []string
	named, ok := c.byName[a.Labels[rules.LabelGuard]]
	if ok && c.actionFor(named, a) != "" {
		out = append(out, named.Name)
	}
	for _, g := range c.matchedBy(a.Labels) {
		if g != named {
			out = append(out, g.Name)
		}
	}
	return out
}

// translate is an alert as remediate knows it.
func (b *bridge) translate(g config.Guard, a alerting.Alert) decision.Alert {
	summary := a.Annotations["summary"]
	if summary == "" {
		summary = a.Annotations["description"]
	}
	c := b.config.Load()
	action := capped(g, a, c.actionFor(&g, a))
	if action == decision.ActionRollback && (a.Suppressed || saysNothing(a)) {
		action = decision.ActionHold // silenced: somebody knows, which is no reason to go forward
	}
	return decision.Alert{
		Name: a.Name(), Signal: a.Labels[rules.LabelSignal], Action: action,
		Fingerprint: a.Fingerprint, StartsAt: a.StartsAt, Summary: summary, Limit: limitOf(g, a),
		Traces: rules.Links(c.Rules.Links).AlertTraces(a.Annotations[rules.AnnotationJaeger], a.StartsAt.Add(-tracesMargin), a.StartsAt.Add(tracesMargin)),
	}
}

// capped is an action of guardian's own rules as the configuration has it now: they may
// have been loaded by an older one, and be evaluated for a while yet, or stand in a file.
func capped(g config.Guard, a alerting.Alert, action decision.Action) decision.Action {
	if !ofOwnRules(a.Labels) {
		return action
	}
	signal := rules.Signal(a.Labels[rules.LabelSignal])
	most, on := g.Signals.Limits().Action(signal)
	switch {
	case !slices.Contains(rules.SignalNames(), signal): // it is about guardian itself, or of a later version's rules
		return action
	case !on:
		return decision.ActionNone
	case most == rules.ActionRollback:
		return action
	case most == rules.ActionNone || action == decision.ActionRollback:
		return decision.Action(most)
	}
	return action
}

// limitOf is what an alert of guardian's own rules says was exceeded, as the
// configuration has it now; empty: only whoever wrote the rule knows.
func limitOf(g config.Guard, a alerting.Alert) string {
	if !ofOwnRules(a.Labels) {
		return ""
	}
	return limitText(g.Signals, rules.Signal(a.Labels[rules.LabelSignal]))
}

// limitText is the limit of a signal in words; empty: it has none.
func limitText(s config.Signals, signal rules.Signal) string {
	switch signal {
	case rules.SignalErrorRate:
		return fmt.Sprintf("%s of the requests may fail", percentText(s.ErrorRate.Max))
	case rules.SignalLatency:
		return fmt.Sprintf("%s of the requests within %s", percentText(s.Latency.Quantile), s.Latency.Max)
	case rules.SignalRestarts:
		return fmt.Sprintf("%d restarts within %s", s.Restarts.Max, s.Restarts.Window)
	case rules.SignalTraffic:
		return fmt.Sprintf("requests within %s of what the weight would bring", percentText(s.Traffic.ShareTolerance))
	case rules.SignalComparison:
		return fmt.Sprintf("%v times stable's share of failed or slow requests, and %s more", s.Comparison.Ratio, percentText(s.Comparison.Min))
	}
	return ""
}

// percentText is a ratio as percent.
func percentText(ratio float64) string {
	return strconv.FormatFloat(math.Round(ratio*1e6)/1e4, 'f', -1, 64) + "%"
}

// saysNothing is true of what Grafana sends in place of an alert, with its labels,
// while the query fails or has no data: that nothing is known of the canary.
func saysNothing(a alerting.Alert) bool {
	return a.Name() == "DatasourceError" || a.Name() == "DatasourceNoData"
}

// firing is what fires for a guard now, as this replica knows it.
func (b *bridge) firing(guard string) []decision.Alert {
	g, ok := b.config.Load().Guard(guard)
	if !ok {
		return nil
	}
	var out []decision.Alert
	for _, a := range b.store.FiringOf(guard, b.now()) {
		out = append(out, b.translate(g, a))
	}
	return out
}

// Accept is alerting's way in. On the webhook lane it returns when every guard
// has recorded what follows; the push lane's alerts are kept until that is so.
func (b *bridge) Accept(ctx context.Context, lane alerting.Lane, alerts []alerting.Alert) error {
	received := b.now()
	alerts = b.onlyOwn(lane, alerts)
	changes, storeErr := b.keep(lane, alerts, received) // a full store delays, and loses nothing: it is said at the end
	b.tellUnheard(ctx, lane, changes.Unheard, received)
	began := b.byGuard(ctx, alerts)
	var errs []error
	if lane == alerting.LaneWebhook {
		errs = append(errs, b.submit(ctx, began, received))
	} else {
		for _, guard := range slices.Sorted(maps.Keys(began)) {
			errs = append(errs, ignoreUnknown(b.guards.Accept(ctx, guard, began[guard], received)))
		}
	}
	return errors.Join(append(errs, storeErr, b.tellUnknown(ctx, lane, alerts))...)
}

// keep puts alerts into the store. What is of guardian's own rules and names no guard
// needs no room there: the heartbeat above all, which counts by its call.
func (b *bridge) keep(lane alerting.Lane, alerts []alerting.Alert, received time.Time) (alerting.Changes, error) {
	var guards, own []alerting.Alert
	for _, a := range alerts {
		if ofOwnRules(a.Labels) && a.Labels[rules.LabelGuard] == "" {
			own = append(own, a)
		} else {
			guards = append(guards, a)
		}
	}
	changes, err := b.store.Apply(lane, guards, received)
	more, _ := b.store.Apply(lane, own, received) // no room for it, nothing lost
	changes.Unheard = append(changes.Unheard, more.Unheard...)
	return changes, err
}

// tellUnheard counts and reports alerts of the push lane that had ended before
// they were ever heard. Some are right, as after a restart; but Prometheus tells
// the end of a firing alert minutes ahead, and where guardian's clock is further
// ahead than that, all that it pushes seems to have ended.
func (b *bridge) tellUnheard(ctx context.Context, lane alerting.Lane, alerts []alerting.Alert, received time.Time) {
	for _, a := range alerts {
		if lane != alerting.LanePush {
			return
		}
		b.metrics.Ignored(lane, alerting.IgnoredEnded)
		if b.sayUnknown("ended") {
			b.log.WarnContext(ctx, "Prometheus pushed an alert that had ended before it was ever heard: right after a restart; if it goes on, guardian's clock is ahead of Prometheus's and rollbacks are lost on this lane",
				"alert", a.Name(), "fingerprint", a.Fingerprint, "ended", a.EndsAt, "ago", received.Sub(a.EndsAt).Round(time.Second))
		}
	}
}

// submit hands alerts over and returns when every guard has recorded what
// follows, or with what kept it from that.
func (b *bridge) submit(ctx context.Context, began map[string][]decision.Alert, received time.Time) error {
	errs := make([]error, len(began))
	var wg sync.WaitGroup
	for i, guard := range slices.Sorted(maps.Keys(began)) {
		wg.Go(func() {
			defer b.memory.begin()()
			errs[i] = ignoreUnknown(b.guards.Submit(ctx, guard, began[guard], received))
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// byGuard sorts alerts by guard. A guard whose alerts have only ended is there
// with none: it is looked at again.
func (b *bridge) byGuard(ctx context.Context, alerts []alerting.Alert) map[string][]decision.Alert {
	c := b.config.Load()
	out := map[string][]decision.Alert{}
	for _, a := range alerts {
		b.tellNoAction(ctx, c, a)
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
func (b *bridge) tellNoAction(ctx context.Context, c *guardIndex, a alerting.Alert) {
	guard, action := a.Labels[rules.LabelGuard], a.Labels[rules.LabelAction]
	if _, known := c.byName[guard]; !known || a.Resolved || isAction(action) || !b.sayUnknown(guard+" "+a.Name()) {
		return
	}
	b.log.WarnContext(ctx, "alert names a guard and no action: label "+rules.LabelAction+" wants rollback, hold or none; alerts.matchers alone can give it one",
		"guard", guard, "alert", a.Name(), "action", action, "fingerprint", a.Fingerprint)
}

func ignoreUnknown(err error) error {
	if errors.Is(err, remediate.ErrUnknownGuard) {
		return nil // it was taken out of the configuration a moment ago
	}
	return err
}

// tellUnknown records alerts that name a guard which this guardian does not
// have: somebody relies on a brake that is not there. All of a call are one
// record, so that many take no longer than one.
func (b *bridge) tellUnknown(ctx context.Context, lane alerting.Lane, alerts []alerting.Alert) error {
	c := b.config.Load()
	unknown := map[string]string{}
	for _, a := range alerts {
		name := a.Labels[rules.LabelGuard]
		if _, ok := c.byName[name]; ok || name == "" || a.Resolved || !c.placed(a.Labels) {
			continue
		}
		b.metrics.Ignored(lane, alerting.IgnoredGuard)
		if unknown[name] == "" && b.sayUnknown(name) {
			unknown[name] = a.Name()
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	b.log.WarnContext(ctx, "alerts for guards that the configuration does not have", "guards", firstOf(slices.Sorted(maps.Keys(unknown))), "count", len(unknown))
	err := b.guards.Unknown(ctx, unknown)
	if err != nil {
		for name := range unknown {
			b.forgetUnknown(name)
		}
	}
	return err
}

// firstOf is as many names as a line of the log can hold.
func firstOf(names []string) []string {
	const most = 20
	return names[:min(len(names), most)]
}

// Bounds of the memory of what was said.
const (
	sayAgain   = 10 * time.Minute
	saidMost   = 1000
	saidLength = 200 // of one key, which comes from whoever may send alerts
)

// sayUnknown holds repetitions back to one in ten minutes. When its memory is
// full nothing else is said until there is room: somebody sends names at random.
func (b *bridge) sayUnknown(key string) bool {
	key = key[:min(len(key), saidLength)]
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if last, ok := b.unknown[key]; ok && now.Sub(last) < sayAgain {
		return false
	}
	if len(b.unknown) >= saidMost {
		maps.DeleteFunc(b.unknown, func(_ string, last time.Time) bool { return now.Sub(last) >= sayAgain })
	}
	if len(b.unknown) >= saidMost {
		return false
	}
	b.unknown[key] = now
	return true
}

// forgetUnknown lets the next repetition be recorded.
func (b *bridge) forgetUnknown(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.unknown, key[:min(len(key), saidLength)])
}

// filter selects every alert that may be about a guard.
func (b *bridge) filter() (alerting.Filter, error) {
	c := b.config.Load()
	return c.filterOf(rules.LabelGuard+`!=""`, c.Guards)
}

// links are where people see more of a guard. Names in them are DNS labels.
func (b *bridge) links(guard string, sides decision.Sides, from, to time.Time) []decision.Link {
	c := b.config.Load()
	var out []decision.Link
	for _, l := range rules.Links(c.Rules.Links).Between(c.Namespace, guard, sides.Canary.Service, from, to) {
		out = append(out, decision.Link{Name: l.Name, URL: l.URL})
	}
	return out
}

// ownHeartbeat says whether a heartbeat is of the rules that this guardian
// listens for: another's proves nothing here, and one that does not tell whose it
// is proves nothing anywhere.
func (b *bridge) ownHeartbeat(lane alerting.Lane, labels map[string]string) bool {
	c := b.config.Load()
	return c.ignored(lane, labels) == "" && c.placed(labels) && labels[rules.LabelInstance] == c.Rules.Name
}

// ownLister lists only what is this guardian's.
type ownLister struct {
	lane   alerting.Lane
	next   alerting.Lister
	bridge *bridge
}

// Firing implements alerting.Lister.
func (l ownLister) Firing(ctx context.Context, f alerting.Filter) ([]alerting.Alert, error) {
	if own := l.bridge.config.Load().Own; l.lane == alerting.LaneAlertmanager && len(own) > 0 {
		any := make([]alerting.Matchers, len(f.Any))
		for i, m := range f.Any {
			any[i] = m.Equal(own)
		}
		f.Any = any
	}
	alerts, err := l.next.Firing(ctx, f)
	if err != nil {
		return nil, err
	}
	return l.bridge.onlyOwn(l.lane, alerts), nil
}

// ownOf is a lister of what is this guardian's; nil where there is none.
func (b *bridge) ownOf(lane alerting.Lane, next alerting.Lister) alerting.Lister {
	if next == nil {
		return nil
	}
	return ownLister{lane, next, b}
}

// tellIgnored warns of an alert that was probably meant for this guardian.
func (b *bridge) tellIgnored(c *guardIndex, lane alerting.Lane, a alerting.Alert, reason alerting.Reason) {
	guard, want := a.Labels[rules.LabelGuard], ""
	switch lacks := c.lacksOwn(a.Labels); {
	case reason == alerting.IgnoredNoNamespace && guard != "":
		want = "label " + rules.LabelNamespace + ": " + c.Namespace + ", set by the rule, or own in the configuration"
	case reason == alerting.IgnoredNotOwn && lacks != "":
		want = "label " + lacks + ": " + c.Own[lacks] + ", from external_labels of the Prometheus that sends it"
	default:
		b.log.Debug("alert of another guardian", "lane", lane, "reason", reason, "guard", guard, "alert", a.Name(), "fingerprint", a.Fingerprint)
		return
	}
	if b.sayUnknown(string(reason) + " " + guard + " " + a.Name()) {
		b.log.Warn("alert names a guard and is not acted upon, because it does not tell whose it is", "guard", guard, "alert", a.Name(),
			"lane", lane, "fingerprint", a.Fingerprint, "want", want)
	}
}

// onlyOwn drops, counts and reports the alerts that are none of this guardian's.
func (b *bridge) onlyOwn(lane alerting.Lane, alerts []alerting.Alert) []alerting.Alert {
	c := b.config.Load()
	own := make([]alerting.Alert, 0, len(alerts))
	for _, a := range alerts {
		reason := c.ignored(lane, a.Labels)
		if reason == "" {
			own = append(own, a)
			continue
		}
		b.metrics.Ignored(lane, reason)
		if !a.Resolved {
			b.tellIgnored(c, lane, a, reason)
		}
	}
	return own
}

// tracesMargin is how much time the link to Jaeger shows before and after.
const tracesMargin = 15 * time.Minute
