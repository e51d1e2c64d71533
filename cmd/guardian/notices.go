package main

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/rules"
)

// notice is an alert about a guard that people are to have: its identity, what it
// says, and since when it is so.
type notice struct {
	name        string // of rules.Notices
	since       time.Time
	until       time.Time // when it ends by itself; zero: it does not
	annotations map[string]string
}

func (n notice) equal(o notice) bool {
	return n.name == o.name && n.since.Equal(o.since) && n.until.Equal(o.until) && maps.Equal(n.annotations, o.annotations)
}

func (n notice) over(now time.Time) bool { return !n.until.IsZero() && !now.Before(n.until) }

// noticeOf is what people are to know of where a guard stands, as the API server
// has confirmed it; nil: nothing. It is made of the record alone, so that all
// replicas say the same.
func noticeOf(c config.Config, v remediate.View) *notice {
	locked := v.Lock != nil
	switch state := v.Status.State; {
	case state == decision.StateRolledBack && locked:
		return rolledBackNotice(c, v)
	case state == decision.StateIdle && !locked && rolledBackWithoutLock(v):
		return notLockedNotice(c, v)
	case state == decision.StateBlocked && refusedByServer(v):
		return notDoneNotice(c, v)
	case state == decision.StateBlocked:
		return blockedNotice(c, v)
	case state == decision.StateHeld:
		return heldNotice(c, v)
	}
	return nil
}

// rolledBackWithoutLock says that a guard's last rollback was one of lock none.
func rolledBackWithoutLock(v remediate.View) bool {
	return v.Receipt != nil && v.Receipt.Lock == decision.LockNone
}

// refusedByServer says that the API server takes no write of what is to be moved.
func refusedByServer(v remediate.View) bool {
	return v.Status.Moving != nil && v.Status.Moving.Refused != ""
}

const rolledBackSummary = "the canary was rolled back"

// rolledBackNotice is about a rollback that is done and locked.
func rolledBackNotice(c config.Config, v remediate.View) *notice {
	n := newNotice(c, v, rules.NoticeRolledBack, rolledBackSummary,
		fmt.Sprintf("guardian sent all traffic of %s in %s back to stable: %s. %s.", v.Name, c.Namespace, clause(v.Lock.Reason), whatKeeps(c, v)))
	n.since = v.Lock.Since.UTC()
	n.tellNext(c, v)
	n.annotations["look"] = typed(c, v, "receipt")
	if r := v.Receipt; r != nil && r.Written.Sub(v.Lock.Since) > -decision.ClockTolerance { // else it is of a rollback before
		n.tellReceipt(*r)
	}
	return n
}

// notLockedNotice is about a rollback that left no lock.
func notLockedNotice(c config.Config, v remediate.View) *notice {
	n := newNotice(c, v, rules.NoticeRolledBack, rolledBackSummary,
		fmt.Sprintf("guardian sent all traffic of %s in %s back to stable: %s. There is no lock: whoever shifts traffic again does.", v.Name, c.Namespace, clause(v.Receipt.Reason)))
	n.since, n.until = v.Receipt.Written.UTC(), v.Receipt.Written.Add(unlockedFor)
	n.annotations["look"] = typed(c, v, "receipt")
	n.tellReceipt(*v.Receipt)
	return n
}

// notDoneNotice is about a rollback that the API server refuses.
func notDoneNotice(c config.Config, v remediate.View) *notice {
	n := newNotice(c, v, rules.NoticeNotDone, fmt.Sprintf("the API server refuses the rollback, the canary still has %d%%", v.Status.Weight),
		fmt.Sprintf("The canary of %s in %s still has %d%% of the traffic and %s. The API server refuses the rollback: %s. Mend what it names: guardian tries again at least every 15 seconds.",
			v.Name, c.Namespace, v.Status.Weight, isBad(v), clause(v.Status.Moving.Refused)))
	n.annotations["next"] = "guardian tries again at least every 15 seconds, until the API server takes it."
	return n
}

// blockedNotice is about a rollback that would not be safe, one that mode observe keeps
// from being done, or a lock whose VirtualService is gone.
func blockedNotice(c config.Config, v remediate.View) *notice {
	s := v.Status
	of, why := v.Name+" in "+c.Namespace, clause(s.Reason)
	switch {
	case s.Observing != nil:
		n := newNotice(c, v, rules.NoticeBlocked, "the canary gets traffic, and mode observe moves none",
			fmt.Sprintf("The canary of %s has %d%% of the traffic and %s: %s.", of, s.Weight, isBad(v), why))
		n.annotations["next"] = "guardian moves nothing in mode observe: send the traffic back yourself, or lift the lock if the build is good."
		return n
	case s.LacksVirtualService():
		n := newNotice(c, v, rules.NoticeBlocked, "a VirtualService of the locked canary does not exist",
			fmt.Sprintf("The canary of %s %s. It is locked at 0%%, and %s. Put the VirtualService back.", of, isBad(v), why))
		n.annotations["next"] = "guardian locks the VirtualService again as soon as it is there."
		return n
	}
	if s.Weight == 0 { // testers' routes or mirrors, a VirtualService that cannot be read, sides that were exchanged under the lock
		n := newNotice(c, v, rules.NoticeBlocked, "guardian cannot keep requests from the canary",
			fmt.Sprintf("The canary of %s %s. Its weight is 0%%, but guardian cannot do all that keeps requests from it: %s.", of, isBad(v), why))
		n.annotations["next"] = "guardian does the rest when what it names is mended."
		return n
	}
	mend := "Mend that, or deploy a fixed build of the canary"
	if g, ok := c.Guard(v.Name); ok && s.Ready.Stable < g.Rollback.MinReadyStable {
		mend = "Bring more of stable's pods up, or deploy a fixed build of the canary"
	}
	n := newNotice(c, v, rules.NoticeBlocked, fmt.Sprintf("the rollback is not done, the canary still has %d%%", s.Weight),
		fmt.Sprintf("The canary of %s still has %d%% of the traffic and %s. guardian cannot send it to stable: %s. %s.", of, s.Weight, isBad(v), why, mend))
	n.annotations["next"] = "guardian rolls back by itself as soon as it is safe."
	return n
}

// heldNotice is about a canary that stays where it is.
func heldNotice(c config.Config, v remediate.View) *notice {
	s := v.Status
	why := clause(s.Reason)
	then := "It is not rolled back for this"
	f := holding(s)
	if f.Action == decision.ActionRollback && s.Observing == nil && !s.Past(f.Start()) {
		then = "The alert began before this build appeared or was unlocked: if it goes on firing, the canary is rolled back"
	}
	n := newNotice(c, v, rules.NoticeHeld, fmt.Sprintf("the canary stays at %d%%", s.Weight),
		fmt.Sprintf("The canary of %s in %s stays at %d%%: %s. %s. Shift no further while it fires.", v.Name, c.Namespace, s.Weight, why, then))
	n.put("reason", why)
	n.annotations["next"] = "guardian takes no step by itself: whoever shifts traffic goes on when the alert is over."
	if s.Mode == decision.PromotionAuto && s.PausedText() == "" {
		n.annotations["next"] = "guardian goes on by itself when the alert is over."
	}
	return n
}

// holding is the alert that a canary is held for; its zero value where the record does
// not have it.
func holding(s decision.Status) decision.Firing {
	for _, f := range s.Firing {
		if s.HeldBy != "" && f.Name == s.HeldBy {
			return f
		}
	}
	return decision.Firing{}
}

// whyBad is why a canary is to be rolled back, in the record's words.
func whyBad(v remediate.View) string {
	switch s := v.Status; {
	case v.Lock != nil:
		return clause(v.Lock.Reason)
	case s.Moving != nil:
		return clause(s.Moving.Reason)
	case len(s.Firing) > 0:
		return s.Firing[0].Name + orNothing(": ", clause(s.Firing[0].Summary))
	}
	return ""
}

// isBad says the same of the canary. What a person asked for says nothing about it, nor
// does a lock of which it is not known who set it.
func isBad(v remediate.View) string {
	says := "is bad"
	switch l := v.Lock; {
	case l == nil || l.By == decision.ByAlert || l.By == decision.ByRefused:
	case l.ByPerson():
		says = "is to be rolled back by " + l.By
	default:
		says = "is to be rolled back"
	}
	return says + orNothing(": ", whyBad(v))
}

// clause is a text that more follows.
func clause(text string) string { return strings.TrimRight(text, ". ") }

// typed is a command about a guard, as people type it.
func typed(c config.Config, v remediate.View, verb string, flags ...string) string {
	return strings.Join(append([]string{"guardian", verb, v.Name, "-n", c.Namespace}, flags...), " ")
}

// aReason is where a person has to say why.
const aReason = "--reason '…'"

// whatKeeps says what keeps traffic on stable, and until when. Under mode observe
// nothing does, and a lock that has not been recorded is this replica's alone.
func whatKeeps(c config.Config, v remediate.View) string {
	switch {
	case v.Unrecorded != "":
		return "The lock could not be recorded: " + v.Unrecorded + "; this replica keeps the traffic there and goes on trying"
	case v.Status.Observing != nil:
		return "The lock stands until a person lifts it (" + typed(c, v, "unlock", aReason) + "). In mode observe a new build lifts nothing, and guardian does not send back what others shift"
	}
	by := "a person lifts the lock (" + typed(c, v, "unlock", aReason) + ")"
	if liftedByBuild(*v.Lock, v.Status) {
		by = "a new build is ready, or " + by
	}
	return "It stays there until " + by
}

// asOf is a notice of a replica that has seen nothing of the API server since a time: it
// may be over, and another replica have ended it. Zero: it sees.
func (n notice) asOf(since time.Time) notice {
	if since.IsZero() {
		return n
	}
	at := stampOf(since)
	n.annotations = maps.Clone(n.annotations)
	n.put("as_of", at)
	n.put("summary", n.annotations["summary"]+" (as of "+at+")")
	n.put("description", n.annotations["description"]+" That was so at "+at+": since then the replica of guardian that says so has seen nothing of the API server.")
	return n
}

// unmanaged is the end of a notice about a guard that was taken out of the
// configuration: whatever it tells of may still be so.
func (n notice) unmanaged(guard, namespace string) notice {
	n.annotations = maps.Clone(n.annotations)
	delete(n.annotations, "next")
	delete(n.annotations, "command")
	n.annotations["summary"] = guard + ": guardian no longer manages it"
	n.annotations["ended"] = fmt.Sprintf("The guard %[1]s was taken out of guardian's configuration, which changes no traffic. A lock that stands is lifted by a person alone: guardian unlock %[1]s -n %[2]s %[3]s", guard, namespace, aReason)
	n.annotations["description"] = n.annotations["ended"]
	return n
}

// newNotice fills in what all of them have.
func newNotice(c config.Config, v remediate.View, name, summary, description string) *notice {
	n := &notice{name: name, since: v.Status.Since.UTC(), annotations: map[string]string{
		"summary": v.Name + ": " + summary, "description": description, "runbook_url": c.RulesBase().Runbook(name), "look": typed(c, v, "status"),
	}}
	n.put("weight", fmt.Sprintf("%d%%", v.Status.Weight))
	n.put("build", v.Status.Build)
	if l := v.Lock; l != nil {
		n.put("alert", l.Alert)
		n.put("signal", l.Signal)
		n.put("by", l.By)
	}
	if name != rules.NoticeRolledBack {
		n.tellTrouble(c, v)
	}
	return n
}

// tellTrouble adds why a canary is bad, or held, against which limit, since when, and
// where to see it.
func (n *notice) tellTrouble(c config.Config, v remediate.View) {
	s := v.Status
	n.put("since", stampOf(s.Since))
	n.put("reason", whyBad(v))
	if m := s.Moving; m.RollsBack() && m.Receipt != nil {
		n.put("limit", m.Receipt.Limit)
	} else if g, ok := c.Guard(v.Name); ok && s.State == decision.StateHeld {
		n.put("limit", limitText(g.Signals, rules.SignalOf(holding(s).Name)))
	}
	n.tellLinks(s.Links)
}

// tellNext adds what lifts the lock, and the command for it. While it is not
// recorded there is none.
func (n *notice) tellNext(c config.Config, v remediate.View) {
	if v.Unrecorded == "" {
		n.annotations["next"], n.annotations["command"] = nextOf(c.Namespace, v.Name, decision.Record{Lock: v.Lock, Status: v.Status})
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

func (n *notice) tellLinks(links []decision.Link) {
	for _, l := range links {
		n.put(linkAnnotations[l.Name], l.URL)
	}
}

// tellReceipt adds what is known of a rollback. What is not known is left out, and so is
// what was counted before it: only what was counted after the last request to the canary
// says how many failed.
func (n *notice) tellReceipt(r decision.Receipt) {
	n.put("weight", fmt.Sprintf("%d%% → 0%%", r.From))
	n.put("build", r.Build)
	n.put("reason", r.Reason)
	n.put("limit", r.Limit)
	for key, t := range map[string]time.Time{"began": r.Began, "fired": r.Fired, "seen": r.Seen, "written": r.Written, "felt": r.Felt} {
		n.put(key, stampOf(t))
	}
	n.put("timeline", timeline(r))
	if !r.Open && !r.Counted.At.IsZero() {
		n.put("requests", fmt.Sprint(r.Requests))
		n.put("failed", fmt.Sprint(r.Failed))
	}
	n.put("images", strings.Join(r.Images, ", "))
	n.put("differs", strings.Join(r.Differs, "; "))
	n.put("good", r.Good)
	n.put("differs_from_good", strings.Join(r.Since, "; "))
	if s := r.Shifted; s != nil {
		n.put("shifted_by", fmt.Sprintf("%s at %s%s", s.Manager, s.At.UTC().Format(time.RFC3339), orNothing(": ", s.Cause)))
	}
	n.tellLinks(r.Links)
}

// timeline is a rollback's times in plain words, each but the first as seconds since
// the one before.
func timeline(r decision.Receipt) string {
	var parts []string
	for _, m := range momentsOf(r) {
		if m.after == nil {
			parts = append(parts, stampOf(m.at)+" "+m.plain)
		} else {
			parts = append(parts, fmt.Sprintf("%+.3f s %s", *m.after, m.plain))
		}
	}
	return strings.Join(parts, ", ")
}
