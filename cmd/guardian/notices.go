package main

import (
	"cmp"
	"fmt"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/rules"
)

// noticeOf is what people are to know of where a guard stands, as the API server
// has confirmed it; nil: nothing. It is made of the record alone, so that all
// replicas say the same.
func noticeOf(c config.Config, v remediate.View) *notice {
	s := v.Status
	switch {
	case s.State == decision.StateRolledBack && v.Lock != nil:
		return newNotice(c, v, rules.NoticeRolledBack, "the canary was rolled back",
			fmt.Sprintf("guardian sent all traffic of %s in %s back to stable: %s. It stays there until %s.", v.Name, c.Namespace, v.Lock.Reason, untilLifted(*v.Lock, v.Name)))
	case s.State == decision.StateBlocked && s.Moving != nil && s.Moving.Refused != "":
		return newNotice(c, v, rules.NoticeNotDone, "the API server refuses the rollback: the canary still gets traffic",
			fmt.Sprintf("A rollback of %s in %s is wanted (%s) and not done: %s. The canary has %d%% of the traffic. guardian goes on trying.",
				v.Name, c.Namespace, cmp.Or(s.Moving.Reason, "no reason recorded"), s.Moving.Refused, s.Weight))
	case s.State == decision.StateBlocked:
		return newNotice(c, v, rules.NoticeBlocked, "a rollback is wanted and cannot be done safely",
			fmt.Sprintf("The canary of %s in %s is bad and has %d%% of the traffic, and guardian cannot send that to stable: %s. It does so as soon as it is safe.",
				v.Name, c.Namespace, s.Weight, s.Reason))
	case s.State == decision.StateHeld:
		return newNotice(c, v, rules.NoticeHeld, fmt.Sprintf("the canary is held at %d%%", s.Weight),
			fmt.Sprintf("guardian takes no step forward with %s in %s while an alert fires: %s.", v.Name, c.Namespace, s.Reason))
	}
	return nil
}

// untilLifted says what lifts a lock.
func untilLifted(l decision.Lock, guard string) string {
	by := "a person lifts the lock (guardian unlock " + guard + ")"
	if l.Kind == decision.LockBuild {
		return "a new build is rolled out or " + by
	}
	return by
}

// newNotice fills in what all of them have.
func newNotice(c config.Config, v remediate.View, name, summary, description string) *notice {
	n := &notice{name: name, since: v.Status.Since.UTC(), annotations: map[string]string{
		"summary": v.Name + ": " + summary, "description": description, "runbook_url": c.RulesBase().Runbook(name),
		"command": "guardian status " + v.Name + " -n " + c.Namespace,
	}}
	if v.Lock != nil && name == rules.NoticeRolledBack {
		n.since = v.Lock.Since.UTC()
	}
	put := func(key, value string) {
		if value != "" {
			n.annotations[key] = value
		}
	}
	put("weight", fmt.Sprintf("%d%%", v.Status.Weight))
	put("build", v.Status.Build)
	if l := v.Lock; l != nil {
		put("alert", l.Alert)
		put("signal", l.Signal)
		put("by", l.By)
	}
	return n
}
