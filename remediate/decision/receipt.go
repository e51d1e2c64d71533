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
