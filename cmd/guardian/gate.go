package main

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
)

// gateOptions is what `guardian gate` waits for.
type gateOptions struct {
	length       time.Duration // how long the canary must be healthy with traffic
	minRequests  int64
	prove        float64 // error rate that the requests must rule out; 0: none
	waitUnlocked bool
	timeout      time.Duration // for the lock to be lifted, and for the proof
	all          bool          // every guard of the namespace that has a release under way
	output       string        // json, or nothing for text
	format       string        // github, or nothing for text
}

// gateLong and gateExample are the help of `guardian gate`.
const (
	gateLong = `Watch a guard while its canary has traffic, and answer as soon as it is known.

Exit codes: 0 healthy for that long with enough requests; 1 rolled back, locked,
blocked or held, an alert fires, or (mode observe) it would have been rolled back
meanwhile, with the reason; 2 could not tell: no guardian
is running, no heartbeat has come since the traffic began (alerts may not reach
guardian), no rule watches, no traffic for the canary, too few requests, disarmed,
not in guardian's configuration, no cluster, wrong flags.

A heartbeat comes every 60 to 70 s, so an answer of 0 can take that long whatever
--for says. A pause changes no answer: guardian takes no step, and the brake is on.

With --wait-unlocked the gate first waits until the lock of an earlier rollback is
lifted, which needs the pods of a new build to be the ready ones, and until no alert
of the guard fires any more. Alone, without
--for, that is all it does: it belongs between deploying a new build and shifting
traffic to it.

An answer of 0 says how many requests there were, how many of them failed, which
error rate they rule out, and by which signals nothing would have been rolled back. With --prove 2% it waits, at most --timeout, until they
rule out that one, and is 2 with the number of requests that are lacking.

Of several guards the exit code is 1 as soon as one is 1, else 2 if one is 2. --all
are those of the namespace, without the ones that no release is under way of.`
	gateExample = `  kubectl apply -f vs-90-10.yaml && guardian gate orders-service --for 60s && kubectl apply -f vs-50-50.yaml
  kubectl apply -f deployment.yaml && guardian gate orders-service --wait-unlocked
  guardian gate orders-service payments --for 60s --prove 2%`
)

func (o *gateOptions) add(f *pflag.FlagSet) {
	durationVar(f, &o.length, "for", time.Minute, "how long the canary must be healthy; traffic may take as long again to arrive")
	f.Int64Var(&o.minRequests, "min-requests", 1, "requests that the canary must have had since the weights last changed; 0: do not ask")
	f.BoolVar(&o.waitUnlocked, "wait-unlocked", false, "wait for the lock of an earlier rollback to be lifted first")
	durationVar(f, &o.timeout, "timeout", 10*time.Minute, "how long --wait-unlocked, and then --prove, wait")
	f.String("prove", "", "error rate, such as 2%, that the canary's requests must rule out with 95% confidence")
	f.BoolVar(&o.all, "all", false, "every guard of the namespace that a release is under way of, instead of NAME")
	f.StringVarP(&o.output, "output", "o", "", "json instead of text")
	f.StringVar(&o.format, "format", "", "github: annotations, and a summary of the job in $GITHUB_STEP_SUMMARY")
}

// complete takes over what the flags say together, and checks them all.
func (o *gateOptions) complete(f *pflag.FlagSet) error {
	if o.waitUnlocked && !f.Changed("for") {
		o.length = 0
	}
	if f.Changed("prove") {
		var err error
		if o.prove, err = parseShare(f.Lookup("prove").Value.String()); err != nil {
			return fmt.Errorf("--prove %w", err)
		}
	}
	return o.check()
}

// check says which flag is wrong, or which two do not go together.
func (o gateOptions) check() error {
	return cmp.Or(o.checkAmounts(), o.checkOutput(), o.checkProof())
}

func (o gateOptions) checkAmounts() error {
	waitsForNothing := o.length == 0 && !o.waitUnlocked
	switch {
	case o.length < 0, waitsForNothing:
		return fmt.Errorf("--for %s: want more than 0s", o.length)
	case o.minRequests < 0:
		return fmt.Errorf("--min-requests %d: want 0 or more", o.minRequests)
	case o.timeout <= 0:
		return fmt.Errorf("--timeout %s: want more than 0s", o.timeout)
	}
	return nil
}

func (o gateOptions) checkOutput() error {
	if o.output != "" && o.output != "json" {
		return fmt.Errorf("--output %q: want json, or nothing for text", o.output)
	}
	if o.format != "" && o.format != "github" {
		return fmt.Errorf("--format %q: want github, or nothing for text", o.format)
	}
	if o.format != "" && o.output != "" {
		return fmt.Errorf("--format %s and --output %s: want one of the two", o.format, o.output)
	}
	return nil
}

func (o gateOptions) checkProof() error {
	if watchesNone := o.length == 0; o.prove > 0 && watchesNone {
		return errors.New("--prove and --wait-unlocked without --for: there is no traffic to prove anything by")
	}
	return nil
}

// gateWatch is a gate's memory: all times are by this machine's clock.
type gateWatch struct {
	options   gateOptions
	guard     string
	namespace string
	base      *decision.Record // as it was when began
	last      decision.Record  // as last read
	began     time.Time        // of the gate, or of its watch once unlocked
	unlocked  bool
	traffic   time.Time // since when the canary, of this build, has had traffic; zero: it has none
	build     string    // the last one that was known
	rolling   bool      // the build's rollout was not complete when last read
	movedAt   time.Time // as the record last had it: since then requests are counted
	moved     time.Time // when that was first read
	readAt    time.Time // when the record was last read

	observedAt time.Time // when the Leases were last observed
	livedAt    time.Time // when they last showed a replica that runs
	dead       string    // why the last observation did not
	unseen     bool      // the Leases could not be read: whether a replica runs is not known
	renewed    time.Time // the latest time since which one has been renewed
	freshAt    time.Time // when the newest heartbeat was last fresh enough
	unverified string    // why it is not now
	received   time.Time // the latest time since which a heartbeat has come
	failing    string    // why the record may not tell of what fires; empty: no replica has said that its last pass failed
}

// gateTolerance is how long a gate goes on without an answer from the API server
// or a sign of life: one missed look is no reason to fail a release.
const gateTolerance = 30 * time.Second

// gateHeartbeatWait is how long it goes on without a heartbeat: one comes every 60 to
// 70 s, and it takes a renewal and a look until it shows.
const gateHeartbeatWait = 105 * time.Second

// gateCountWait is how long it goes on, at least, without enough requests after the
// weights or the build have changed: two scrapes of them, and a count.
const gateCountWait = 45 * time.Second

// gateSure is how old the last sign of life may be when the answer is 0.
const gateSure = 2 * records.FollowEvery

// observeEvery is how often the Leases are looked at: more often when an answer
// waits for them alone.
func (w *gateWatch) observeEvery(now time.Time) time.Duration {
	if waited := !w.traffic.IsZero() && now.Sub(w.traffic) >= w.options.length; waited || w.dead != "" {
		return time.Second
	}
	return records.FollowEvery
}

// noReplica says that none runs; why is empty where one does.
func noReplica(why string) string { return orNothing("no replica of guardian is running: ", why) }

// observe takes a look at the Leases. One that fails is no sign of life.
func (w *gateWatch) observe(p *records.Liveness, why string, err error, now time.Time) {
	w.observedAt = now
	if err != nil {
		w.dead, w.unseen = err.Error(), true
		return
	}
	w.unseen = false
	w.dead, w.unverified, w.renewed, w.received, w.failing = noReplica(why), p.Unverified(), p.Renewed, p.Received, p.Failing(w.guard)
	if why == "" {
		w.livedAt = now
	}
	if w.unverified == "" {
		w.freshAt = now
	}
}

// see takes one look at the record: an answer, or when to look again.
func (w *gateWatch) see(r *decision.Record, err error, now time.Time) (*gateAnswer, time.Duration) {
	switch {
	case err != nil:
		if now.Sub(w.readAt) > gateTolerance {
			return unknown("its record has not been readable for %s: %v", now.Sub(w.readAt).Round(time.Second), err)
		}
		return nil, time.Second
	case r == nil:
		return unknown("its record has gone")
	case !r.Status.Orphaned.IsZero():
		return unknown("%s", records.OrphanText(w.guard, r.Status.Orphaned))
	case r.Status.Disarmed != nil:
		return causeDisarmed.unknown("%s: nothing would be rolled back%s", r.Status.Disarmed.Text(), alsoLocked(*r))
	case now.Sub(w.livedAt) > gateTolerance:
		return w.withoutReplica(*r)
	}
	w.readAt = now
	if w.options.waitUnlocked && !w.unlocked {
		if answer, next := w.waitUnlocked(r, now); answer != nil || next > 0 {
			return answer, next
		}
	}
	if w.base == nil {
		w.base = r
	}
	if text := trouble(*r); text != "" {
		return causeOf(*r).unhealthy(text, blameOf(w.guard, w.namespace, *r))
	}
	for _, e := range records.NewEntries(w.base.History, r.History) {
		if e.Event == decision.EventRolledBack { // without a lock nothing else may tell of it any more
			return unhealthy(fmt.Sprintf("rolled back at %s: %s", e.At.UTC().Format(time.RFC3339), e.Reason), blameEntry(w.guard, w.namespace, *r, e))
		}
		if e.Event == decision.EventWould || e.Event == decision.EventWouldBlocked { // the alert may be over already
			_, last := e.Count() // what came before the gate began, and came again, is one entry
			return unhealthy(fmt.Sprintf("%s (at %s)%s", e.Reason, last.UTC().Format(time.RFC3339), observesText(r.Status)), blameEntry(w.guard, w.namespace, *r, e))
		}
	}
	return w.count(r.Status, now)
}

// withoutReplica is the answer where no guardian runs. Alerts may have come and gone
// since the record was last written; a lock stands all the same: only guardian lifts it.
func (w *gateWatch) withoutReplica(r decision.Record) (*gateAnswer, time.Duration) {
	dead := cmp.Or(w.dead, "no replica has been seen to run for "+gateTolerance.String())
	if r.Lock == nil {
		return causeDead.unknown("%s", dead)
	}
	text := trouble(r) + "; " + dead
	switch weight := r.Status.Weight; {
	case w.unseen:
	case weight > 0 && r.Status.Observing == nil:
		text = fmt.Sprintf("locked, and the canary is at %d%%: %s; %s, so nothing takes that away: guardian rollback %s prints the command", weight, r.Lock.Reason, dead, w.guard)
	default:
		text += ", so nothing lifts the lock"
	}
	return causeDead.unhealthy(text, blameOf(w.guard, w.namespace, r))
}

// waitUnlocked waits until nothing keeps traffic from being shifted; without an
// answer and a time the gate goes on to watch.
func (w *gateWatch) waitUnlocked(r *decision.Record, now time.Time) (*gateAnswer, time.Duration) {
	left := w.began.Add(w.options.timeout).Sub(now)
	switch text := trouble(*r); {
	case text != "" && left > 0:
		return nil, left
	case text != "" && r.Lock != nil:
		return unhealthy(fmt.Sprintf("still locked after %s: %s", w.options.timeout, text), blameOf(w.guard, w.namespace, *r))
	case text != "":
		return causeTrouble.unhealthy(fmt.Sprintf("not locked, but after %s: %s", w.options.timeout, text), blameOf(w.guard, w.namespace, *r))
	case w.options.length > 0:
		w.unlocked, w.began = true, now
		return nil, 0
	case w.unverified != "" && now.Sub(w.freshAt) >= gateHeartbeatWait:
		return causeUnproven.unknown("not locked, but %s", w.unverified)
	case w.unverified != "" || now.Sub(w.livedAt) > gateSure:
		return nil, time.Second
	}
	return healthy("not locked: traffic may be shifted" + andPaused(r.Status))
}

// count looks at a guard that is not in trouble.
func (w *gateWatch) count(s decision.Status, now time.Time) (*gateAnswer, time.Duration) {
	length := w.options.length
	switch {
	case s.Weight == 0 && !w.traffic.IsZero():
		return unhealthy("the canary had traffic and was taken back to 0%"+orNothing(": ", s.Reason), blame{})
	case w.unverified != "" && now.Sub(w.freshAt) >= gateHeartbeatWait:
		return causeUnproven.unknown("%s", w.unverified)
	case s.Weight == 0:
		if left := w.began.Add(length).Sub(now); left > 0 {
			return nil, left
		}
		return w.noTraffic(s)
	}
	w.noteTraffic(s, now)
	if left := w.traffic.Add(length).Sub(now); left > 0 {
		return nil, left
	}
	if s.Requests < w.options.minRequests && w.options.prove == 0 {
		if left := w.moved.Add(max(length, gateCountWait)).Sub(now); left > 0 {
			return nil, left
		}
		return w.tooFew(s)
	}
	if why := w.unproven(s, now); why != "" {
		if now.Sub(w.traffic) >= max(length, gateHeartbeatWait) {
			return causeUnproven.unknown("%s", why)
		}
		return nil, time.Second
	}
	if answer, next := w.prove(s, now); answer != nil || next > 0 {
		return answer, next
	}
	return healthy(fmt.Sprintf("healthy for %s at %d%%: %s%s%s", length, s.Weight, proofText(s, w.options.prove), orNothing("; no rollback by ", s.NoRollbackText()), andPaused(s)))
}

// noteTraffic notes since when the canary has traffic, and since when its requests are
// counted. What was there before the end of a rollout, or before this build, was another
// build's as well.
func (w *gateWatch) noteTraffic(s decision.Status, now time.Time) {
	another := s.Build != "" && s.Build != w.build // whose rollout no look may have seen
	if arrived := w.rolling && !s.Rolling; w.traffic.IsZero() || arrived || another {
		w.traffic = now
	}
	if s.Build != "" {
		w.build = s.Build
	}
	if w.moved.IsZero() || !s.MovedAt.Equal(w.movedAt) {
		w.moved, w.movedAt = now, s.MovedAt
	}
	w.rolling = s.Rolling
}

func (w *gateWatch) noTraffic(s decision.Status) (*gateAnswer, time.Duration) {
	if s.State == decision.StateShifting { // testers reach it
		return causeTraffic.unknown("the canary has had no share of the split for %s: %s", w.options.length, s.Reason)
	}
	return causeTraffic.unknown("the canary has had no traffic for %s", w.options.length)
}

func (w *gateWatch) tooFew(s decision.Status) (*gateAnswer, time.Duration) {
	notCounted := s.Requests == 0 && s.Counted.At.IsZero()
	switch {
	case notCounted && s.State == decision.StateCompleted:
		return causeTraffic.unknown("the rollback window is over, so requests are not counted any more: --min-requests 0 asks for none")
	case notCounted && s.Unwatched == decision.NoAnswer:
		return causeUnproven.unknown("the canary's requests at %d%% are not known: %s", s.Weight, s.Unwatched)
	}
	return causeTraffic.unknown("too few requests: the canary had %d of %d at %d%%", s.Requests, w.options.minRequests, s.Weight)
}

// prove waits until the requests rule out what they must.
func (w *gateWatch) prove(s decision.Status, now time.Time) (*gateAnswer, time.Duration) {
	o := w.options
	bad, all := counted(s)
	if o.prove == 0 || !s.Counted.At.IsZero() && all >= o.minRequests && proves(o.prove, bad, all) {
		return nil, 0
	}
	left := w.began.Add(o.timeout).Sub(now)
	switch {
	case s.State == decision.StateCompleted:
		return unknown("an error rate of %s cannot be ruled out: the rollback window is over, so requests are not counted any more", percent(o.prove))
	case left > 0:
		return nil, left
	case s.Counted.At.IsZero() && all > 0:
		return unknown("an error rate of %s is not ruled out: guardian does not say how many requests failed; is it of an older version?", percent(o.prove))
	}
	lack := max(stillNeeded(o.prove, bad, all), o.minRequests-all)
	return unknown("an error rate of %s is not ruled out after %s at %d%%: %s %s, %s failed; %s more without a failure are lacking",
		percent(o.prove), now.Sub(w.traffic).Round(time.Second), s.Weight, thousands(all), plural(all, "request"), thousands(bad), thousands(lack))
}

// unproven is why the silence of alerts says nothing of a canary, or "".
func (w *gateWatch) unproven(s decision.Status, now time.Time) string {
	switch {
	case now.Sub(w.livedAt) > gateSure:
		return cmp.Or(w.dead, "no replica has been seen to run for "+now.Sub(w.livedAt).Round(time.Second).String())
	case w.renewed.Before(w.traffic):
		return "no replica has renewed its Lease since the traffic began"
	case w.failing != "":
		return w.failing
	case w.unverified != "":
		return w.unverified
	case w.received.Before(w.traffic):
		return "alerts may not reach guardian: it has received no heartbeat since the traffic began"
	case s.Rolling:
		return "the rollout of build " + s.Build + " is not complete: what answers may be the build before (kubectl rollout status waits for it)"
	case w.options.minRequests == 0 && s.Unwatched == decision.NoRequestsYet:
		return "" // nobody has asked for any
	}
	return s.Unwatched
}

// trouble is why a pipeline must not go on, or "". It looks at what fires in
// every state: at 100%, after the rollback window, and before the first traffic.
func trouble(r decision.Record) string {
	s := r.Status
	switch {
	case r.Lock != nil:
		return lockTrouble(r)
	case s.State == decision.StateBlocked || s.State == decision.StateHeld || s.State == decision.StateRolledBack:
		return fmt.Sprintf("%s at %d%%%s", s.State, s.Weight, orNothing(": ", s.Reason))
	case s.Moving != nil && s.Moving.Step == 0 && s.Weight > 0:
		return fmt.Sprintf("rollback under way, the canary is at %d%%%s", s.Weight, orNothing(": ", s.Reason))
	case len(s.Firing) > 0:
		f := s.Firing[0]
		return fmt.Sprintf("alert %s (%s) fires, canary at %d%%%s%s", f.Name, f.Action, s.Weight, orNothing(": ", f.Summary), observesText(s))
	}
	return ""
}

// observesText follows after what a guard in mode observe does not act upon.
func observesText(s decision.Status) string {
	if s.Observing == nil {
		return ""
	}
	return "; guardian observes and does not roll back"
}

// andPaused is for an answer of 0: a pause keeps guardian from steps alone.
func andPaused(s decision.Status) string {
	return orNothing("; guardian takes no step of its own, ", s.PausedText())
}

func alsoLocked(r decision.Record) string {
	if r.Lock == nil {
		return ""
	}
	return "; the lock stands: " + r.Lock.Reason
}

// lockTrouble is how the rollback of a lock stands.
func lockTrouble(r decision.Record) string {
	switch s := r.Status; s.State {
	case decision.StateRolledBack:
		return lockText(r)
	case decision.StateBlocked:
		// The lock's message has room for a part of either reason.
		return fmt.Sprintf("rollback not done yet, the canary is at %d%%: %s; it is wanted because of %s", s.Weight, strings.TrimPrefix(s.Reason, "not done: "), r.Lock.Reason)
	default:
		return fmt.Sprintf("rollback under way, the canary is at %d%%: %s", s.Weight, r.Lock.Reason)
	}
}

// lockText is a lock for a person who waits.
func lockText(r decision.Record) string {
	if r.Message != "" {
		return r.Message
	}
	return fmt.Sprintf("rolled back at %s: %s", r.Lock.Since.UTC().Format(time.RFC3339), r.Lock.Reason)
}
