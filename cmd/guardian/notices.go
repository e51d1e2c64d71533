package main

import (
	"cmp"
	"fmt"
	"maps"
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
			fmt.Sprintf("guardian sent all traffic of %s in %s back to stable: %s. %s.", v.Name, c.Namespace, v.Lock.Reason, whatKeeps(v)))
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
	case s.State == decision.StateBlocked && s.Observing != nil:
		return newNotice(c, v, rules.NoticeBlocked, "the canary gets traffic, and mode observe moves none",
			fmt.Sprintf("The canary of %s in %s has %d%% of the traffic: %s.", v.Name, c.Namespace, s.Weight, s.Reason))
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

// whatKeeps says what keeps traffic on stable, and until when. Under mode observe
// nothing does, and a lock that has not been recorded is this replica's alone.
func whatKeeps(v remediate.View) string {
	switch {
	case v.Unrecorded != "":
		return "The lock could not be recorded: " + v.Unrecorded + "; this replica keeps the traffic there and goes on trying"
	case v.Status.Observing != nil:
		return "The lock stands until a person lifts it (guardian unlock " + v.Name + "). In mode observe a new build lifts nothing, and guardian does not send back what others shift"
	}
	return "It stays there until " + untilLifted(*v.Lock, v.Name)
}

// unmanaged is the end of a notice about a guard that was taken out of the
// configuration: whatever it tells of may still be so.
func (n notice) unmanaged(guard string) notice {
	n.annotations = maps.Clone(n.annotations)
	delete(n.annotations, "next")
	delete(n.annotations, "command")
	n.annotations["summary"] = guard + ": guardian no longer manages it"
	n.annotations["description"] = fmt.Sprintf("The guard %s was taken out of guardian's configuration, which changes no traffic. A lock that stands is lifted by guardian unlock %s alone.", guard, guard)
	return n
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
		n.tellNext(c, v)
		if r := v.Receipt; r != nil && r.Written.Sub(v.Lock.Since) > -decision.ClockTolerance { // else it is of a rollback before
			n.tellReceipt(*r)
		}
	}
	return n
}

// tellNext adds what lifts the lock, and the command for it. While it is not
// recorded there is none.
func (n *notice) tellNext(c config.Config, v remediate.View) {
	switch {
	case v.Unrecorded != "":
	case v.Status.Observing != nil:
		n.annotations["next"] = "The lock stands until a person lifts it."
		n.annotations["command"] = fmt.Sprintf("kubectl guardian unlock %s -n %s --reason '…'", v.Name, c.Namespace)
	default:
		n.annotations["next"], n.annotations["command"] = nextOf(c.Namespace, v.Name, decision.Record{Lock: v.Lock})
	}
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
