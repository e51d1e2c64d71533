package decision

import (
	"slices"
	"time"
)

// Receipt is what there is to know of a guard's last rollback. Times are by
// guardian's clock, but where another is named. What is zero or empty is not known;
// nothing is guessed.
type Receipt struct {
	Build   string   `json:"build,omitempty"`   // of the canary then
	Refused []string `json:"refused,omitempty"` // builds that the lock refuses
	Lock    LockKind `json:"lock"`              // what it left behind
	By      string   `json:"by"`                // as in the history
	Reason  string   `json:"reason"`
	Alert   string   `json:"alert,omitempty"`
	Signal  string   `json:"signal,omitempty"`
	Limit   string   `json:"limit,omitempty"` // that was exceeded, in words, by the configuration then
	From    int      `json:"from"`            // the canary's weight before, percent; after it is 0

	Began   time.Time `json:"began,omitzero"`   // samples of then proved the fault, by Prometheus's clock: it began no later
	Fired   time.Time `json:"fired,omitzero"`   // the alert began to fire, by Prometheus's clock
	Seen    time.Time `json:"seen,omitzero"`    // guardian received the alert, or took the request
	Written time.Time `json:"written,omitzero"` // the API server had taken the last write of the weights, or was seen to have
	Felt    time.Time `json:"felt,omitzero"`    // from then on no scrape has counted a request to the canary, by Prometheus's clock
	NotFelt string    `json:"notFelt,omitempty"`

	// Requests are the canary's and Failed those of them that failed, as Prometheus
	// has counted them over Counted; where that is zero, neither is known.
	Requests int64   `json:"requests,omitempty"`
	Failed   int64   `json:"failed,omitempty"`
	Counted  Counted `json:"counted,omitzero"`

	Shifted *Shift   `json:"shifted,omitempty"` // who wrote the weights before
	Images  []string `json:"images,omitempty"`  // of the canary, as container: image
	Differs []string `json:"differs,omitempty"` // what its pod template has other than stable's
	// Since is what it has other than the last build that outlived its rollback
	// window, which is Good.
	Since  []string `json:"since,omitempty"`
	Good   string   `json:"good,omitempty"`
	Unread string   `json:"unread,omitempty"` // why not all of these could be read

	Links []Link `json:"links,omitempty"`
	// Open says that Prometheus and the pod templates have not been asked yet for what
	// shows only after the rollback.
	Open bool `json:"open,omitempty"`
}

// Shift is a write of a VirtualService's routes.
type Shift struct {
	Manager string    `json:"manager"`         // its field manager
	At      time.Time `json:"at"`              // by the API server's clock
	Cause   string    `json:"cause,omitempty"` // kubernetes.io/change-cause on the VirtualService
}

// Link leads to a web interface.
type Link struct {
	Name string `json:"name"` // such as Grafana
	URL  string `json:"url"`
}

// After is what shows only after a rollback.
type After struct {
	Never    bool      // there is nobody to ask about requests, now or later
	Err      string    // why nobody has told; empty: all below is told
	Began    time.Time // see Receipt; zero: not known
	Felt     time.Time // zero: not yet
	Counted  bool
	Requests int64
	Failed   int64

	Images, Differs, Since []string
	Good, Unread           string
	Links                  []Link // further ones
}

const (
	afterFirst = 10 * time.Second // after the write: two scrapes of a fast lane, most of one elsewhere
	afterPoll  = 10 * time.Second
	afterMost  = 5 * time.Minute // then it is said what is not known
)

// clone is a copy that shares nothing.
func (r Receipt) clone() *Receipt {
	r.Refused, r.Images, r.Differs, r.Since, r.Links = slices.Clone(r.Refused), slices.Clone(r.Images), slices.Clone(r.Differs), slices.Clone(r.Since), slices.Clone(r.Links)
	if r.Shifted != nil {
		s := *r.Shifted
		r.Shifted = &s
	}
	return &r
}

// newReceipt is what is known of a rollback as it is decided, besides what Moving
// has.
func (d *decider) newReceipt(l Lock) *Receipt {
	r := &Receipt{Lock: d.in.Guard.Rollback.Lock, Seen: d.now, Shifted: d.in.Shifted}
	for _, a := range d.rollback {
		if l.By == ByAlert && a.Fingerprint == l.Fingerprint && a.Name == l.Alert {
			r.Fired, r.Limit, r.Seen, r.Links = a.StartsAt, a.Limit, d.seen(a), a.links()
			break
		}
	}
	if t, over := d.was.Status.tally(); !over.At.IsZero() && !over.Since.Before(d.was.Status.MovedAt) {
		r.Requests, r.Failed, r.Counted = t.Requests, t.Failed, over
	} else if moved := d.was.Status.MovedAt; !moved.IsZero() {
		r.Counted.Since = moved
	}
	return r
}

// seen is when an alert was first received by any replica.
func (d *decider) seen(a Alert) time.Time {
	seen := d.now
	if !a.Received.IsZero() && a.Received.Before(seen) {
		seen = a.Received.UTC()
	}
	for _, f := range d.was.Status.Firing {
		if f.Episode == a.Episode() && f.Seen.Before(seen) {
			seen = f.Seen
		}
	}
	return seen
}

// keepReceipt has the record tell of a rollback that was seen to be done.
func (d *decider) keepReceipt(m *Moving) {
	r := Receipt{Lock: d.in.Guard.Rollback.Lock}
	if m.Receipt != nil {
		r = *m.Receipt.clone()
	}
	r.Build, r.By, r.Reason, r.Alert, r.Signal, r.From = m.Build, m.By, m.Reason, m.Alert, m.Signal, m.From
	if l := d.rec.Lock; l != nil {
		r.Lock, r.Refused = l.Kind, slices.Clone(l.Refused)
	}
	if r.Written = d.now; !d.in.Wrote.Before(m.At) && d.in.Wrote.Before(d.now) {
		r.Written = d.in.Wrote.UTC()
	}
	if d.in.Links != nil {
		r.Links = append(d.in.Links(r.first().Add(-linkMargin), r.Written.Add(linkMargin)), r.Links...)
	}
	r.Open = true
	d.rec.Receipt = &r
}

// tellLinks has the status lead to what shows the trouble, from the write that begins
// it: a rollback's receipt comes only once that is done.
func (d *decider) tellLinks() {
	switch s := &d.rec.Status; {
	case !d.rec.Troubled():
		s.Links = nil
	case len(s.Links) == 0 && d.in.Links != nil:
		s.Links = d.in.Links(d.now.Add(-linkMargin), d.now.Add(linkMargin))
		for _, a := range slices.Concat(d.rollback, d.holds) {
			if a.Traces != "" {
				s.Links = append(s.Links, a.links()...)
				return
			}
		}
	}
}

// links are those that an alert itself has.
func (a Alert) links() []Link {
	if a.Traces == "" {
		return nil
	}
	return []Link{{"Jaeger", a.Traces}}
}

// linkMargin is how much time links show before and after.
const linkMargin = 15 * time.Minute

// first is the earliest time that is known of.
func (r Receipt) first() time.Time {
	first := r.Written
	for _, t := range []time.Time{r.Began, r.Fired, r.Seen} {
		if !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	return first
}

// closeReceipt fills in what shows only after a rollback: in one write, as soon as
// the canary's last request has been counted, or when that has taken too long. It is
// the lease holder's to do.
func (d *decider) closeReceipt() {
	r := d.rec.Receipt
	if r == nil || !r.Open || !d.in.Leads || d.in.AskAfter.IsZero() {
		return
	}
	due := r.Written.Add(afterFirst)
	if d.in.AskAfter.After(due) {
		due = d.in.AskAfter
	}
	a := d.in.After
	if d.in.Next != nil || d.turned() { // who is asked goes by the configuration's pair
		a = &After{Never: true, Err: anotherCanary}
	}
	switch {
	case a == nil && d.now.Before(due):
		d.requeueAt(due)
		return
	case a == nil && d.in.Busy:
		d.requeueAt(d.now.Add(pollBusy))
		return
	case a == nil:
		d.wantAfter = true
		d.requeueAt(d.now.Add(afterPoll))
		return
	}
	end := a.Never || !d.now.Before(r.Written.Add(afterMost)) || d.hasCanaryTraffic()
	if a.Felt.IsZero() && !end {
		d.requeueAt(d.now.Add(afterPoll))
		return
	}
	r = r.clone()
	r.close(*a, d.now, d.hasCanaryTraffic())
	d.rec.Receipt = r
}

// anotherCanary is why nothing shows after a rollback of the canary that was.
const anotherCanary = "the configuration has another canary by now"

// close takes down what was told.
func (r *Receipt) close(a After, now time.Time, traffic bool) {
	r.Open, r.Began, r.Felt = false, a.Began.UTC(), a.Felt.UTC()
	switch {
	case !a.Felt.IsZero():
	case a.Err != "":
		r.NotFelt = Shorten(a.Err)
	case traffic:
		r.NotFelt = "the canary got traffic again before its last request was counted"
	default:
		r.NotFelt = "requests to the canary were still counted " + now.Sub(r.Written).Round(time.Second).String() + " after the write"
	}
	if a.Counted {
		r.Requests, r.Failed, r.Counted.At = a.Requests, a.Failed, now
	}
	r.Images, r.Differs, r.Since, r.Good, r.Unread = a.Images, a.Differs, a.Since, a.Good, Shorten(a.Unread)
	for _, l := range a.Links { // what is asked for then knows the rollback's times
		r.Links = append(slices.DeleteFunc(r.Links, func(old Link) bool { return old.Name == l.Name }), l)
	}
}
