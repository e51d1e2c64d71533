package rules

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// signalAction is recorded for the guards whose alerts of a signal do not ask for a
// rollback, with the labels LabelSignal and LabelAction; in a template it tells which
// those are.
const signalAction = "guardian:signal:action"

// asks says whether some guard's alerts of a signal ask for an action.
func (b *builder) asks(s Signal, as Action) bool {
	return b.any(func(of Signals) bool {
		action, on := of.Action(s)
		return on && action == as
	})
}

// actionsOf are the actions that the guards have for a signal.
func (b *builder) actionsOf(s Signal) []Action {
	var out []Action
	for _, a := range []Action{ActionRollback, ActionHold, ActionNone} {
		if b.asks(s, a) {
			out = append(out, a)
		}
	}
	return out
}

// actions records the guards whose signals do not roll back.
func (b *builder) actions() {
	for _, s := range SignalNames() {
		if of := b.actionsOf(s); len(of) < 2 { // nobody has to be told apart
			continue
		}
		for _, a := range []Action{ActionHold, ActionNone} {
			b.constant(signalAction, map[string]string{LabelSignal: string(s), LabelAction: string(a)}, func(g Guard) (float64, bool) {
				action, on := g.Signals.Action(s)
				return 1, on && action == a
			})
		}
	}
}

// only leaves of an expression the guards whose alerts of a signal ask for one of some
// actions.
func (b *builder) only(expr string, s Signal, as ...Action) string {
	others := slices.DeleteFunc(b.actionsOf(s), func(a Action) bool { return slices.Contains(as, a) })
	op, which := "and", as
	switch {
	case len(others) == 0:
		return expr
	case slices.Contains(as, ActionRollback): // of which there is no series
		op, which = "unless", others
	}
	series := make([]string, len(which))
	for i, a := range which {
		series[i] = b.own(signalAction, LabelSignal+"="+strconv.Quote(string(s)), LabelAction+"="+strconv.Quote(string(a)))
	}
	return "(" + expr + ") " + op + " on (" + keyLabels + ") (" + strings.Join(series, " or ") + ")"
}

// says is what an alert tells people, before what guardian does.
type says struct{ summary, description string }

// verdict is one thing that a signal finds of a canary. By the signal's action it is up
// to three alerts: one that rolls back, by the verdict's own name, one that holds, and
// one for people alone. A guard has no two of them at once.
type verdict struct {
	name   string // with an expr: of the alert that rolls back; else of the one that holds
	signal Signal
	wait   time.Duration
	expr   string // a rollback's; empty: at most it holds
	says   says
	// held and heldSays are what holds though the signal may roll back; empty: nothing.
	held     string
	heldSays says
	// beyond and soft are what the alert is about where the signal does not roll back.
	// Empty: as in expr and says, or those of held.
	beyond string
	soft   says
}

// verdict writes the alerts of one.
func (b *builder) verdict(v verdict) {
	v.beyond = or(v.beyond, or(v.expr, v.held))
	v.soft = or(v.soft, or(v.says, v.heldSays))
	write := func(name, severity string, as Action, expr string, of says) {
		b.alert(alert{name: name, signal: v.signal, action: as, severity: severity, wait: v.wait, keep: keepFiring,
			expr: expr, summary: of.summary, description: of.description})
	}
	if v.expr != "" && b.asks(v.signal, ActionRollback) {
		write(v.name, "critical", ActionRollback, b.only(v.expr, v.signal, ActionRollback), says{v.says.summary, v.says.description + b.doRollback()})
	}
	if expr, of := b.holding(v); expr != "" {
		name := v.name
		if v.expr != "" {
			name += hold
		}
		write(name, "warning", ActionHold, expr, of)
	}
	if b.asks(v.signal, ActionNone) {
		write(v.name+warning, "warning", ActionNone, b.only(v.beyond, v.signal, ActionNone),
			says{v.soft.summary, v.soft.description + " guardian does nothing: signals." + v.signal.Key() + ".action is none."})
	}
}

// holding is the alert of a verdict that holds: of the guards whose signal rolls back
// what has a meaning of its own, of those whose signal holds all.
func (b *builder) holding(v verdict) (expr string, of says) {
	own := says{v.heldSays.summary, v.heldSays.description + doHold}
	rolls, holds := v.held != "" && b.asks(v.signal, ActionRollback), b.asks(v.signal, ActionHold)
	if v.expr == "" && (rolls || holds) {
		return b.only(v.held, v.signal, ActionRollback, ActionHold), own
	}
	soft := says{v.soft.summary, v.soft.description + " guardian holds the canary where it is, and does not roll back: signals." + v.signal.Key() + ".action is hold."}
	switch {
	case rolls && holds:
		either := func(soft, own string) string {
			return withSeries(signalAction, LabelSignal+`="`+string(v.signal)+`"`) + soft + "{{ else }}" + own + "{{ end }}"
		}
		return b.only(v.held, v.signal, ActionRollback) + " or " + b.only(v.beyond, v.signal, ActionHold),
			says{either(soft.summary, own.summary), either(soft.description, own.description)}
	case rolls:
		return b.only(v.held, v.signal, ActionRollback), own
	case holds:
		return b.only(v.beyond, v.signal, ActionHold), soft
	}
	return "", says{}
}
