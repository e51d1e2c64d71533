package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

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
	case v.Lock == nil && v.Receipt != nil && v.Receipt.Lock == decision.LockNone && s.State == decision.StateIdle:
		n := newNotice(c, v, rules.NoticeRolledBack, "the canary was rolled back",
			fmt.Sprintf("guardian sent all traffic of %s in %s back to stable: %s. There is no lock: whoever shifts traffic again does.", v.Name, c.Namespace, v.Receipt.Reason))
		n.since, n.until = v.Receipt.Written.UTC(), v.Receipt.Written.Add(unlockedFor)
		n.tellReceipt(*v.Receipt)
		return n
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
	n.put("weight", fmt.Sprintf("%d%%", v.Status.Weight))
	n.put("build", v.Status.Build)
	if l := v.Lock; l != nil {
		n.put("alert", l.Alert)
		n.put("signal", l.Signal)
		n.put("by", l.By)
	}
	if name == rules.NoticeRolledBack && v.Lock != nil {
		n.since = v.Lock.Since.UTC()
		n.annotations["next"], n.annotations["command"] = nextOf(c.Namespace, v.Name, decision.Record{Lock: v.Lock})
		if r := v.Receipt; r != nil && r.Written.Sub(v.Lock.Since) > -decision.ClockTolerance { // else it is of a rollback before
			n.tellReceipt(*r)
		}
	}
	return n
}

// unlockedFor is how long a rollback that leaves no lock is told of.
const unlockedFor = 15 * time.Minute

func (n *notice) put(key, value string) {
	if key != "" && value != "" {
		n.annotations[key] = value
	}
}

// linkAnnotations are what the rules call the same links.
var linkAnnotations = map[string]string{"Grafana": rules.AnnotationDashboard, "Prometheus": rules.AnnotationPrometheus, "Kiali": rules.AnnotationKiali, "Jaeger": rules.AnnotationJaeger}

// tellReceipt adds what is known of a rollback. What is not known is left out.
func (n *notice) tellReceipt(r decision.Receipt) {
	n.put("weight", fmt.Sprintf("%d%% → 0%%", r.From))
	n.put("build", r.Build)
	n.put("reason", r.Reason)
	n.put("limit", r.Limit)
	for key, t := range map[string]time.Time{"began": r.Began, "fired": r.Fired, "seen": r.Seen, "written": r.Written, "felt": r.Felt} {
		n.put(key, stampOf(t))
	}
	if !r.Counted.At.IsZero() {
		n.put("requests", fmt.Sprint(r.Requests))
		n.put("failed", fmt.Sprint(r.Failed))
	}
	n.put("images", strings.Join(r.Images, ", "))
	n.put("differs", strings.Join(r.Differs, "; "))
	if s := r.Shifted; s != nil {
		n.put("shifted_by", fmt.Sprintf("%s at %s%s", s.Manager, s.At.UTC().Format(time.RFC3339), orNothing(": ", s.Cause)))
	}
	for _, l := range r.Links {
		n.put(linkAnnotations[l.Name], l.URL)
	}
}
