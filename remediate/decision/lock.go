package decision

import (
	"slices"
	"strings"
	"time"
)

// Lock keeps the canary at weight 0. Since is by guardian's clock, StartsAt by
// Prometheus's. It is of one pair, whatever the configuration has by now.
type Lock struct {
	Kind        LockKind  `json:"kind"`
	Build       string    `json:"build"`             // the present one, if it is refused, else the first that is
	Refused     []string  `json:"refused,omitempty"` // builds that it refuses: those that an unlock allows
	Coming      []string  `json:"coming,omitempty"`  // present builds that had had no ready pod when it was set
	From        string    `json:"from,omitempty"`    // the guard whose lock it was at first
	Signal      string    `json:"signal,omitempty"`
	Alert       string    `json:"alert,omitempty"`
	Fingerprint string    `json:"fingerprint,omitempty"`
	StartsAt    time.Time `json:"startsAt,omitzero"`
	Since       time.Time `json:"since"`
	By          string    `json:"by"` // "alert" or the person's name
	Reason      string    `json:"reason"`
	Stable      string    `json:"stable,omitempty"` // of the pair that it is of, as in Moves; empty: that of Moves
	Canary      string    `json:"canary,omitempty"` // the same
	Also        []string  `json:"also,omitempty"`   // host/subset of what is denied besides: the canary that it was of before
	Next        []string  `json:"next,omitempty"`   // the same of the configuration's canary, where that is another
}

// Who sets a lock, when it is no person.
const (
	ByAlert      = "alert"
	ByRefused    = "refused build"
	byUnreadable = "unreadable record" // a lock that cannot be read
	ByAnnotation = "annotation"        // the record of it is lost
)

// ByPerson says that a person has asked for the lock, whom By names.
func (l Lock) ByPerson() bool {
	return !slices.Contains([]string{"", ByAlert, ByRefused, byUnreadable, ByAnnotation}, l.By)
}

// of has a lock be of a guard's pair.
func (l *Lock) of(g Guard) {
	l.Stable, l.Canary, l.Also, l.Next = g.Stable.String(), g.Canary.String(), nil, nil
}

func (l Lock) clone() *Lock {
	l.Refused, l.Coming, l.Also, l.Next = slices.Clone(l.Refused), slices.Clone(l.Coming), slices.Clone(l.Also), slices.Clone(l.Next)
	return &l
}

// Equal says whether two locks are the same.
func (l Lock) Equal(o Lock) bool {
	return l.sameBuilds(o) && l.sameAlert(o) && l.samePair(o) && l.Kind == o.Kind && l.Since.Equal(o.Since) && l.By == o.By && l.Reason == o.Reason && l.From == o.From
}

func (l Lock) sameAlert(o Lock) bool {
	return l.Signal == o.Signal && l.Alert == o.Alert && l.Fingerprint == o.Fingerprint && l.StartsAt.Equal(o.StartsAt)
}

func (l Lock) sameBuilds(o Lock) bool {
	return l.Build == o.Build && slices.Equal(l.Refused, o.Refused) && slices.Equal(l.Coming, o.Coming)
}

func (l Lock) samePair(o Lock) bool {
	return l.Stable == o.Stable && l.Canary == o.Canary && slices.Equal(l.Also, o.Also) && slices.Equal(l.Next, o.Next)
}

// DeniesBesides says that the lock denies a destination, as Spellings writes it in full,
// and is of another.
func (l Lock) DeniesBesides(destination string) bool {
	return slices.Contains(l.Also, destination) || slices.Contains(l.Next, destination)
}

// refusal says which builds a lock refuses.
func (l Lock) refusal() string {
	switch len(l.Refused) {
	case 0:
		return ""
	case 1:
		return " Build " + l.Refused[0] + " is refused."
	}
	return " Builds " + strings.Join(l.Refused, ", ") + " are refused."
}

// signalOf is the value of the label signal that a rollback counts with.
func signalOf(l Lock) string {
	switch {
	case slices.Contains(Signals[:], l.Signal):
		return l.Signal
	case l.By == ByRefused:
		return "refused_build"
	case l.By == ByAlert:
		return "other"
	}
	return "person"
}
