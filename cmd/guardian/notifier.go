package main

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/rules"
)

const (
	// repost is how often an alert is posted again while it lasts, and postFor how
	// long Alertmanager takes it to fire without: as long as its own resolve_timeout,
	// so that a restart of guardian does not end it.
	repost  = time.Minute
	postFor = 5 * time.Minute
	// What could not be posted is tried again after postRetry, then after twice as
	// long, up to postRetryMost.
	postRetry     = time.Second
	postRetryMost = 15 * time.Second
	// postMost is how many alerts are posted in one call.
	postMost = 200
	// endEarly is how long before it was seen an end is posted to have been:
	// Alertmanager takes one that is not over by its own clock for none. Its clock
	// may be behind by more, so an end is posted again for postFor.
	endEarly = 5 * time.Second
)

// sent is a notice on its way, or there.
type sent struct {
	notice
	ended     time.Time // zero: it lasts
	changed   bool      // since it was last posted
	posted    time.Time // last, with success; zero: never
	delivered bool      // an Alertmanager has taken it as it began, and knows it still
}

func (s *sent) due(now time.Time) bool {
	if s.ended.IsZero() && s.over(now) {
		return false
	}
	return s.changed || now.Sub(s.posted) >= repost
}

// endsAt is when Alertmanager is to take it to end: never before it began, which
// it refuses together with all else in the call.
func (s *sent) endsAt(now time.Time) time.Time {
	ends := now.Add(postFor)
	if !s.ended.IsZero() {
		ends = s.ended.Add(-endEarly)
	}
	if !s.until.IsZero() && s.until.Before(ends) {
		ends = s.until
	}
	if ends.Before(s.since) {
		return s.since
	}
	return ends
}

// take replaces what is told by what is to be told from now on. Of another
// episode nobody has been told yet.
func (s *sent) take(want notice) {
	if !s.ended.IsZero() || !s.since.Equal(want.since) {
		s.posted, s.delivered = time.Time{}, false
	}
	s.notice, s.ended, s.changed = want, time.Time{}, true
}

// notifier has Alertmanager tell people what guardian has done. It keeps the newest
// of each guard alone, posts from a goroutine of its own, and never holds up whoever
// tells it. Replicas may all post: what they say is made of the record, and equal
// labels are one alert.
type notifier struct {
	post   func(ctx context.Context, alerts []alerting.Posted) (taken int, err error)
	labels func(name, guard string) map[string]string
	unseen func() time.Time // since when nothing is seen of the API server; zero: it is
	log    *slog.Logger
	now    func() time.Time
	posts  *prometheus.CounterVec // by result
	said   map[string]time.Time   // when the log last said so of a result; run's alone

	wake chan struct{} // holds one token when there may be something to post

	mu     sync.Mutex
	guards map[string][]*sent
}

func newNotifier(reg prometheus.Registerer, log *slog.Logger, now func() time.Time) *notifier {
	n := &notifier{log: log, now: now, unseen: func() time.Time { return time.Time{} }, wake: make(chan struct{}, 1), guards: map[string][]*sent{},
		said: map[string]time.Time{}, posts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "guardian_notification_posts_total",
			Help: "Calls by which guardian has posted alerts to all Alertmanagers, by result: taken by all, partly, or failed."}, []string{"result"})}
	for _, result := range []string{postTaken, postPartly, postFailed} {
		n.posts.WithLabelValues(result)
	}
	reg.MustRegister(n.posts, n)
	return n
}

// tell takes down what people are to know of a guard; nil: nothing. It does not wait.
func (n *notifier) tell(guard string, want *notice) {
	if n.put(guard, want) {
		select {
		case n.wake <- struct{}{}:
		default:
		}
	}
}

// put says whether there is something new to post.
func (n *notifier) put(guard string, want *notice) (news bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	had := false
	for _, s := range n.guards[guard] {
		switch same := want != nil && s.name == want.name; {
		case same && s.ended.IsZero() && s.equal(*want):
			had = true
		case same:
			s.take(*want)
			had, news = true, true
		case s.ended.IsZero():
			s.ended, s.changed, news = n.now(), true, true
		}
	}
	if want != nil && !had {
		n.guards[guard] = append(n.guards[guard], &sent{notice: *want, changed: true})
		news = true
	}
	return news
}

// keepOnly ends what was told of guards that there are no more, and has the end say
// that it is not one of the lock.
func (n *notifier) keepOnly(names []string, namespace string) {
	n.mu.Lock()
	gone := slices.DeleteFunc(slices.Collect(maps.Keys(n.guards)), func(g string) bool { return slices.Contains(names, g) })
	for _, guard := range gone {
		for _, s := range n.guards[guard] {
			if s.ended.IsZero() {
				s.notice = s.unmanaged(guard, namespace)
			}
		}
	}
	n.mu.Unlock()
	for _, guard := range gone {
		n.tell(guard, nil)
	}
}

// run posts until ctx ends.
func (n *notifier) run(ctx context.Context) error {
	var retry time.Duration
	timer := time.NewTimer(repost)
	defer timer.Stop()
	for {
		err := n.postDue(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			retry = 0
		default:
			retry = min(max(2*retry, postRetry), postRetryMost)
		}
		timer.Reset(cmp.Or(retry, n.untilDue()))
		select {
		case <-ctx.Done():
			return nil
		case <-n.wake:
		case <-timer.C:
		}
	}
}

// untilDue is when something has to be posted again.
func (n *notifier) untilDue() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	wait, now := repost, n.now()
	for _, all := range n.guards {
		for _, s := range all {
			if !s.ended.IsZero() || !s.over(now) {
				wait = min(wait, s.posted.Add(repost).Sub(now))
			}
		}
	}
	return max(wait, time.Millisecond)
}

// outgoing is one alert of a call, and what it was made of.
type outgoing struct {
	guard string
	*sent
	was   notice
	ended time.Time
	alert alerting.Posted
}

// postDue posts what is new, or has to be posted again.
func (n *notifier) postDue(ctx context.Context) error {
	now := n.now()
	worst, failed := "", error(nil)
	for batch := range slices.Chunk(n.collect(now), postMost) {
		alerts := make([]alerting.Posted, len(batch))
		for i, o := range batch {
			alerts[i] = o.alert
		}
		taken, err := n.post(ctx, alerts)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		result := resultOf(taken, err)
		if worst == "" || result == postFailed || worst == postTaken {
			worst = result
		}
		n.posts.WithLabelValues(result).Inc()
		n.done(batch, now, taken > 0, err == nil)
		failed = cmp.Or(failed, err)
	}
	n.say(worst, failed, now)
	return failed
}

// The results of a call.
const (
	postTaken  = "taken"  // by every Alertmanager
	postPartly = "partly" // by one at least
	postFailed = "failed" // by none
)

func resultOf(taken int, err error) string {
	switch {
	case taken == 0:
		return postFailed
	case err != nil:
		return postPartly
	}
	return postTaken
}

// say has the log tell of posts that fail, now and then while they do, and of the
// first that does not. Where nothing was posted nothing is known.
func (n *notifier) say(result string, err error, now time.Time) {
	if result == "" || result == postTaken {
		if result == postTaken && len(n.said) > 0 {
			n.log.Info("every Alertmanager takes again what guardian has to tell people")
			clear(n.said)
		}
		return
	}
	if at, ok := n.said[result]; ok && now.Sub(at) < sayAgain {
		return
	}
	n.said[result] = now
	if result == postPartly {
		n.log.Warn("an Alertmanager does not take what guardian has to tell people, another has taken it; trying again", "err", err)
		return
	}
	n.log.Warn("people are not told what guardian has done: no Alertmanager takes it, trying again", "err", err)
}

// collect makes the alerts that are due, in the order of the guards' names.
func (n *notifier) collect(now time.Time) []outgoing {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []outgoing
	since := n.unseen()
	for _, guard := range slices.Sorted(maps.Keys(n.guards)) {
		for _, s := range n.guards[guard] {
			if !s.due(now) {
				continue
			}
			out = append(out, outgoing{guard: guard, sent: s, was: s.notice, ended: s.ended, alert: alerting.Posted{
				Labels: n.labels(s.name, guard), Annotations: s.asOf(since).annotations, StartsAt: s.since, EndsAt: s.endsAt(now), GeneratorURL: s.annotations[rules.AnnotationPrometheus],
			}})
		}
	}
	return out
}

// done takes down what has become of a call: whether anybody has taken it, and all.
func (n *notifier) done(batch []outgoing, at time.Time, any, all bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, o := range batch {
		if any && o.sent.ended.Equal(o.ended) && o.since.Equal(o.was.since) { // else it is of another episode
			o.delivered, o.posted = true, at
		}
		if all && o.sent.ended.Equal(o.ended) && o.sent.equal(o.was) {
			o.changed = false
		}
		if o.sent.ended.IsZero() || at.Sub(o.sent.ended) < postFor { // else it has run out by itself, by most clocks
			continue
		}
		n.guards[o.guard] = slices.DeleteFunc(n.guards[o.guard], func(s *sent) bool { return s == o.sent })
		if len(n.guards[o.guard]) == 0 {
			delete(n.guards, o.guard)
		}
	}
}

var descDelivered = prometheus.NewDesc("guardian_notification_delivered",
	"1 while an Alertmanager has what this replica has posted about a guard, 0 while none has; guards of which there is nothing to tell have none.", []string{"guard", "alert"}, nil)

// Describe implements prometheus.Collector.
func (n *notifier) Describe(out chan<- *prometheus.Desc) { out <- descDelivered }

// Collect implements prometheus.Collector.
func (n *notifier) Collect(out chan<- prometheus.Metric) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.now()
	for guard, all := range n.guards {
		for _, s := range all {
			value := 0.0
			if s.delivered && now.Sub(s.posted) < postFor {
				value = 1
			}
			if s.ended.IsZero() && !s.over(now) {
				out <- prometheus.MustNewConstMetric(descDelivered, prometheus.GaugeValue, value, guard, s.name)
			}
		}
	}
}
