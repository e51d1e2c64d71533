package remediate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/canary-guardian/guardian/remediate/virtualservice"
	corev1 "k8s.io/api/core/v1"
)

// Names that guardian writes into a cluster.
const (
	Prefix           = "canary-guardian.io/"
	LabelLocked      = Prefix + "locked" // "true" on a record whose guard is locked
	LabelGuard       = Prefix + "guard"  // the guard's name, on its record
	AnnotationState  = Prefix + "state"
	AnnotationReason = Prefix + "reason"
	AnnotationSince  = Prefix + "since"
	AnnotationBuild  = Prefix + "build"
	AnnotationPaused = Prefix + "paused"    // "true", set by a person on the VirtualService: no step forward
	AnnotationOwner  = Prefix + "owner"     // guardian's user, on its records
	LabelAdmission   = Prefix + "admission" // "rewrite" or "off", on a Namespace: how the admission policies treat it
	AnnotationHolds  = Prefix + "holds"     // users, separated by commas, on a Namespace: whose writes are held instead of refused

	// FieldManager marks rollbacks and FieldManagerPromotion steps forward, so
	// that Argo CD can ignore spec.http while a rollback owns it.
	FieldManager          = "guardian"
	FieldManagerPromotion = "guardian-promotion"

	recordPrefix    = "guardian-"
	maxHistoryBytes = 32 << 10
)

// Keys of a record's data.
const (
	keyLock            = "lock"
	keyRefused         = "refused"
	keyDeny            = "deny"
	keyDenyMatchRoutes = "denyMatchRoutes"
	keyDenyMirrors     = "denyMirrors"
	keyStable          = "stable"
	keyVirtualServices = "virtualServices"
	keyMessage         = "message"
	keyStatus          = "status"
	keyHistory         = "history"
	keyChanged         = "changed"
)

// State is where a guard stands. The package comment has the table.
type State string

// The states of a guard.
const (
	StateUnknown    State = ""            // not looked at yet
	StateIdle       State = "idle"        // the canary gets nothing
	StateShifting   State = "shifting"    // traffic is split
	StatePromoted   State = "promoted"    // canary at 100%, inside its rollback window
	StateUnverified State = "unverified"  // a new build took the canary's place while it had 100%
	StateCompleted  State = "completed"   // after the window: rolling back is no longer right
	StateRolledBack State = "rolled-back" // locked, canary at 0
	StateBlocked    State = "blocked"     // a rollback is wanted but cannot be done safely
	StateHeld       State = "held"        // an alert holds it where it is
	StatePaused     State = "paused"      // no step forward until a person resumes; the brake is on
	StateDisarmed   State = "disarmed"    // a person took the brake off, with an end
)

// States lists every state a guard can be in, for metrics.
var States = []State{StateIdle, StateShifting, StatePromoted, StateUnverified, StateCompleted,
	StateRolledBack, StateBlocked, StateHeld, StatePaused, StateDisarmed}

// RecordName is the name of the ConfigMap that holds a guard's record.
func RecordName(guard string) string { return recordPrefix + guard }

// Record is all that guardian remembers of a guard: the parsed form of its
// ConfigMap. It outlives guardian and the VirtualService.
type Record struct {
	ResourceVersion string // of the ConfigMap; empty when there is none yet

	Lock    *Lock
	Refused []string                // builds that were rolled back, oldest first
	Changed []virtualservice.Change // routes and mirrors that guardian re-pointed and will give back
	Status  Status
	History []HistoryEntry // oldest first
	Request *Request

	unreadable []string // as ReadRecordOf has found; not written

	// past is the JSON of the entries before those of History, as the ConfigMap
	// has it: each pass over a guard would else take apart and put together again
	// what happened days ago. Empty: History has them all.
	past string

	Deny            []string // host/subset of the canary in every spelling, while locked
	DenyMatchRoutes bool     // routes of some requests to the canary alone are locked too
	DenyMirrors     bool     // and mirrors
	Stable          []string // host/subset of stable in every spelling, while locked: a route that names it is no route to the canary alone
	VirtualServices []string // names, while locked
	Message         string   // what a refused CI reads, while locked
}

// Lock keeps the canary at weight 0. Since is by guardian's clock, StartsAt by
// Prometheus's.
type Lock struct {
	Kind        LockKind  `json:"kind"`
	Build       string    `json:"build"`             // the present one, if it is refused, else the first that is
	Refused     []string  `json:"refused,omitempty"` // builds that it refuses: those that an unlock forgives
	Coming      []string  `json:"coming,omitempty"`  // present builds that had had no ready pod when it was set
	From        string    `json:"from,omitempty"`    // the guard whose lock it was at first
	Signal      string    `json:"signal,omitempty"`
	Alert       string    `json:"alert,omitempty"`
	Fingerprint string    `json:"fingerprint,omitempty"`
	StartsAt    time.Time `json:"startsAt,omitzero"`
	Since       time.Time `json:"since"`
	By          string    `json:"by"` // "alert" or the person's name
	Reason      string    `json:"reason"`
}

// Status is what guardian last saw and decided; times are by guardian's clock.
type Status struct {
	State       State         `json:"state"`
	Since       time.Time     `json:"since"`  // when the state began
	Weight      int           `json:"weight"` // canary's share in percent, 0–100: the highest of its routes
	Reason      string        `json:"reason,omitempty"`
	Build       string        `json:"build,omitempty"`      // of the canary; empty: unknown
	BuildSince  time.Time     `json:"buildSince,omitzero"`  // when that build appeared
	MovedAt     time.Time     `json:"movedAt,omitzero"`     // last change of Weight by anybody, or of what it leads to: since then the build is watched
	Spread      int           `json:"spread,omitempty"`     // how far the lowest of its routes is below Weight, percent
	Splits      []string      `json:"splits,omitempty"`     // marks of testers' routes that have been seen to split
	PromotedAt  time.Time     `json:"promotedAt,omitzero"`  // when the rollback window began
	CompletedAt time.Time     `json:"completedAt,omitzero"` // when its end was seen
	Paused      *Pause        `json:"paused,omitempty"`     // by `guardian pause`
	PausedOnVS  bool          `json:"pausedOnVS,omitempty"` // AnnotationPaused stands on a VirtualService
	Disarmed    *Disarm       `json:"disarmed,omitempty"`   // by `guardian disarm`
	Alerts      []string      `json:"alerts,omitempty"`     // names of the alerts that fire, sorted
	Firing      []Firing      `json:"firing,omitempty"`     // the same with what they ask for, by when they were first seen
	Mode        PromotionMode `json:"mode,omitempty"`       // of promotion, as the lease holder has it; empty: off
	Ladder      []int         `json:"ladder,omitempty"`     // weights of all steps, unless the mode is off
	Waiting     string        `json:"waiting,omitempty"`    // what the next step waits for, in plain words
	WaitingFor  Wait          `json:"waitingFor,omitempty"` // the same, of a closed set
	Waited      []Wait        `json:"waited,omitempty"`     // what the history has told of since weight or build changed
	ToldAt      time.Time     `json:"toldAt,omitzero"`      // when words and numbers were last brought up to date
	NextStep    int           `json:"nextStep,omitempty"`   // weight of the next step of promotion
	NextAt      time.Time     `json:"nextAt,omitzero"`      // when it is due at the earliest
	Requests    int64         `json:"requests,omitempty"`   // canary requests in the present interval, as last asked
	Failed      int64         `json:"failed,omitempty"`     // those of them that failed
	Latency     Latency       `json:"latency,omitzero"`     // of them, where the guard has a limit for it
	Counted     Counted       `json:"counted,omitzero"`     // when these three were; zero: they were not
	Noted       []string      `json:"noted,omitempty"`      // the last episodes (fingerprint@startsAt) recorded without action
	Fresh       bool          `json:"fresh,omitempty"`      // no weight has changed since this build appeared
	Rolling     bool          `json:"rolling,omitempty"`    // this build's rollout has not been seen complete yet
	Promoting   string        `json:"promoting,omitempty"`  // build that the scheduler may move forward
	Ready       ReadyInfo     `json:"ready,omitzero"`       // ready endpoints, as last seen
	Unverified  bool          `json:"unverified,omitempty"` // a new build came while the canary had 100%
	Full        bool          `json:"full,omitempty"`       // the canary has all traffic in every route
	Moving      *Moving       `json:"moving,omitempty"`     // a change of the weight that is under way
	UnlockedAt  time.Time     `json:"unlockedAt,omitzero"`  // when a person last lifted a lock
	LiftedAt    time.Time     `json:"liftedAt,omitzero"`    // when anything last did: what an annotation says of an older lock is over
	Moves       *Moves        `json:"moves,omitempty"`      // what a person needs to move its traffic by hand
	FirstSeen   time.Time     `json:"firstSeen,omitzero"`   // when the guard was first looked at
	Served      []Served      `json:"served,omitempty"`     // builds that have had ready pods, the present and those of the last minutes
	Proven      []string      `json:"proven,omitempty"`     // builds that have stood their rollback window out, newest last
	Revisions   []Revision    `json:"revisions,omitempty"`  // what ReplicaSets and ControllerRevisions are called as builds, newest last
	Taken       *Taken        `json:"taken,omitempty"`      // the last lock of another record that became this guard's
	Unwatched   string        `json:"unwatched,omitempty"`  // why nothing proves that the guard's rules watch its canary; empty: the last count proved it, or the canary gets nothing
	Observing   *Observing    `json:"observing,omitempty"`  // nothing is written to a VirtualService; nil: the guard enforces
	EnforcedAt  time.Time     `json:"enforcedAt,omitzero"`  // when it last came from observing to that: what fired before is of the past
	Leaving     []Leaving     `json:"leaving,omitempty"`    // what the configuration does not have any more, and is to be given back
	// Unguarded are VirtualServices that lead to the canary and are not the
	// guard's, ForeignLocks annotations by which another user holds a canary in the
	// guard's VirtualServices.
	Unguarded    []string `json:"unguarded,omitempty"`
	ForeignLocks []string `json:"foreignLocks,omitempty"`

	Orphaned time.Time `json:"orphaned,omitzero"` // when the configuration was seen not to have this guard; zero: it has it
}

// Moves names whose traffic a guard moves, and between what, as the command
// line writes them.
type Moves struct {
	VirtualServices []string `json:"virtualServices"`
	Stable          string   `json:"stable"`
	Canary          string   `json:"canary"`
}

// ReadyInfo counts ready endpoints of the two destinations.
type ReadyInfo struct {
	Stable int `json:"stable"`
	Canary int `json:"canary"`
}

// Firing is an alert that some replica knows to fire. Any replica adds to the
// list; only the lease holder takes away what it does not know to fire itself,
// and only after a listing must have told it.
type Firing struct {
	Name    string    `json:"name"`
	Episode string    `json:"episode"`
	Action  Action    `json:"action"`
	Began   time.Time `json:"began"` // by Prometheus's clock
	Seen    time.Time `json:"seen"`  // first, by guardian's
	Summary string    `json:"summary,omitempty"`
}

// HistoryEntry is one decision that changed something, or an alert that was
// recorded without a change.
type HistoryEntry struct {
	At     time.Time `json:"at"`
	State  State     `json:"state"`
	Event  string    `json:"event"` // rolled-back, blocked, unlocked, reasserted, step, waiting, promoted, completed, noted, …
	By     string    `json:"by,omitempty"`
	From   int       `json:"from"` // canary's weight before, percent
	To     int       `json:"to"`   // and after
	Build  string    `json:"build,omitempty"`
	Alert  string    `json:"alert,omitempty"`
	Reason string    `json:"reason"`
}

// ParseRecord reads a record's ConfigMap; a nil ConfigMap is an empty record.
// The error names the keys that cannot be read.
func ParseRecord(cm *corev1.ConfigMap) (Record, error) {
	r, bad := ReadRecord(cm)
	if len(bad) > 0 {
		return Record{}, fmt.Errorf("read record %s/%s: %s", cm.Namespace, cm.Name, strings.Join(bad, "; "))
	}
	return r, nil
}

// ReadRecord is ParseRecord of a record that somebody else may have written:
// what cannot be read is left out, and bad says what and why. A lock that cannot
// be read stays, for a person to lift.
func ReadRecord(cm *corev1.ConfigMap) (r Record, bad []string) {
	r, bad = readRecord(cm)
	if r.past == "" {
		return r, bad
	}
	var err error
	if r.History, err = parseHistory(cm); err != nil {
		r.History, bad = nil, append(bad, err.Error())
	}
	r.past = ""
	return r, bad
}

// readRecord is ReadRecord but for the history, which stays in past as it is.
func readRecord(cm *corev1.ConfigMap) (r Record, bad []string) {
	if cm == nil {
		return r, nil
	}
	r.ResourceVersion = cm.ResourceVersion
	if err := parseKey(cm, keyLock, &r.Lock); err != nil {
		r.Lock, bad = nil, append(bad, err.Error())
		if cm.Labels[LabelLocked] == "true" {
			r.Lock = &Lock{Kind: LockManual, By: byUnreadable, Reason: "the lock in the record cannot be read, so a person has to lift it"}
		}
	}
	if err := parseKey(cm, keyStatus, &r.Status); err != nil {
		r.Status, bad = Status{}, append(bad, err.Error())
	}
	if err := parseKey(cm, keyChanged, &r.Changed); err != nil {
		r.Changed, bad = nil, append(bad, err.Error())
	}
	r.Request = requestIn(cm.Data)
	r.past = cm.Data[keyHistory]
	r.Refused = strings.Fields(cm.Data[keyRefused])
	r.Deny = strings.Fields(cm.Data[keyDeny])
	r.DenyMatchRoutes = cm.Data[keyDenyMatchRoutes] == "true"
	r.DenyMirrors = cm.Data[keyDenyMirrors] == "true"
	r.Stable = strings.Fields(cm.Data[keyStable])
	r.VirtualServices = strings.Fields(cm.Data[keyVirtualServices])
	r.Message = cm.Data[keyMessage]
	return r, bad
}

func parseKey(cm *corev1.ConfigMap, key string, to any) error {
	text := cm.Data[key]
	if text == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(text), to); err != nil {
		return fmt.Errorf("key %s: %w", key, err)
	}
	return nil
}

func parseHistory(cm *corev1.ConfigMap) (h []HistoryEntry, err error) {
	return h, parseKey(cm, keyHistory, &h)
}

// histories knows which guards' histories can be read, so that not every pass
// over a guard has to find out. It keeps a hash of each text.
type histories struct {
	seed maphash.Seed

	mu   sync.Mutex
	read map[string]uint64 // by guard
}

func newHistories() *histories {
	return &histories{seed: maphash.MakeSeed(), read: map[string]uint64{}}
}

// parse is ReadRecord, but that the history is left in past. A nil histories
// leaves nothing there.
func (h *histories) parse(guard string, cm *corev1.ConfigMap) (r Record, bad []string) {
	if h == nil {
		return ReadRecord(cm)
	}
	if r, bad = readRecord(cm); r.past == "" {
		return r, bad
	}
	sum := maphash.String(h.seed, r.past)
	h.mu.Lock()
	was, ok := h.read[guard]
	h.mu.Unlock()
	if ok && was == sum {
		return r, bad
	}
	if _, err := parseHistory(cm); err != nil {
		r.past = ""
		return r, append(bad, err.Error())
	}
	h.mu.Lock()
	h.read[guard] = sum
	h.mu.Unlock()
	return r, bad
}

// forget drops a guard that is no longer configured.
func (h *histories) forget(guard string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.read, guard)
}

// newestFirst goes through the whole history. What is in past has been found to
// be readable.
func (r Record) newestFirst() iter.Seq[HistoryEntry] {
	return func(yield func(HistoryEntry) bool) {
		for _, e := range slices.Backward(r.History) {
			if !yield(e) {
				return
			}
		}
		for _, e := range slices.Backward(r.pastEntries()) {
			if !yield(e) {
				return
			}
		}
	}
}

func (r Record) pastEntries() []HistoryEntry {
	var past []HistoryEntry
	if r.past == "" || json.Unmarshal([]byte(r.past), &past) != nil {
		return nil
	}
	return past
}

// Data is the record as a ConfigMap's data. Empty keys are left out; history
// is cut from its oldest end to at most 32 KiB.
func (r Record) Data() map[string]string {
	data := map[string]string{}
	put := func(key string, v any) {
		b, err := json.Marshal(v)
		if err != nil { // no field of a record can fail to marshal
			panic(fmt.Sprintf("marshal record key %s: %v", key, err))
		}
		data[key] = string(b)
	}
	if r.Lock != nil {
		put(keyLock, r.Lock)
	}
	if r.Request != nil {
		maps.Copy(data, r.Request.Data())
	}
	if len(r.Changed) > 0 {
		put(keyChanged, r.Changed)
	}
	put(keyStatus, r.Status)
	if text := r.historyText(); text != "" {
		data[keyHistory] = text
	}
	for key, list := range map[string][]string{keyRefused: r.Refused, keyDeny: r.Deny, keyStable: r.Stable, keyVirtualServices: r.VirtualServices} {
		if len(list) > 0 {
			data[key] = strings.Join(list, " ")
		}
	}
	for key, set := range map[string]bool{keyDenyMatchRoutes: r.DenyMatchRoutes, keyDenyMirrors: r.DenyMirrors} {
		if set {
			data[key] = "true"
		}
	}
	if r.Message != "" {
		data[keyMessage] = r.Message
	}
	return data
}

// historyText is the history as JSON, without the oldest entries that do not fit;
// empty: there is none.
func (r Record) historyText() string {
	text := boundedHistory(r.History)
	switch {
	case r.past == "":
		return text
	case text == "" && len(r.past) <= maxHistoryBytes:
		return r.past
	case text != "" && strings.HasPrefix(r.past, "[{") && strings.HasSuffix(r.past, "}]"): // as guardian writes it
		if whole := r.past[:len(r.past)-1] + "," + text[1:]; len(whole) <= maxHistoryBytes {
			return whole
		}
	}
	return boundedHistory(append(r.pastEntries(), r.History...))
}

// boundedHistory is entries as JSON, without the oldest entries that do not fit;
// empty: there is none.
func boundedHistory(h []HistoryEntry) string {
	entries := make([][]byte, 0, len(h)) // newest first
	size := 1                            // the brackets, less the comma that one entry does not have
	for _, e := range slices.Backward(h) {
		b, err := json.Marshal(e)
		if err != nil {
			panic(fmt.Sprintf("marshal history entry: %v", err))
		}
		if size += len(b) + 1; size > maxHistoryBytes {
			break
		}
		entries = append(entries, b)
	}
	if len(entries) == 0 {
		return ""
	}
	slices.Reverse(entries)
	return "[" + string(bytes.Join(entries, []byte(","))) + "]"
}

// clone is a copy that shares nothing that Decide edits.
func (r Record) clone() Record {
	c := r
	if r.Lock != nil {
		l := *r.Lock
		l.Refused, l.Coming = slices.Clone(l.Refused), slices.Clone(l.Coming)
		c.Lock = &l
	}
	if r.Request != nil {
		q := *r.Request
		c.Request = &q
	}
	if r.Status.Paused != nil {
		p := *r.Status.Paused
		c.Status.Paused = &p
	}
	if r.Status.Disarmed != nil {
		x := *r.Status.Disarmed
		c.Status.Disarmed = &x
	}
	if r.Status.Moving != nil {
		m := *r.Status.Moving
		c.Status.Moving = &m
	}
	if r.Status.Taken != nil {
		t := *r.Status.Taken
		c.Status.Taken = &t
	}
	if r.Status.Observing != nil {
		c.Status.Observing = r.Status.Observing.clone()
	}
	c.Status.Served = slices.Clone(r.Status.Served)
	c.Status.Proven = slices.Clone(r.Status.Proven)
	c.Status.Revisions = slices.Clone(r.Status.Revisions)
	c.Refused = slices.Clone(r.Refused)
	c.Changed = slices.Clone(r.Changed)
	c.History = slices.Clone(r.History)
	c.Deny = slices.Clone(r.Deny)
	c.Stable = slices.Clone(r.Stable)
	c.VirtualServices = slices.Clone(r.VirtualServices)
	c.Status.Alerts = slices.Clone(r.Status.Alerts)
	c.Status.Firing = slices.Clone(r.Status.Firing)
	c.Status.Noted = slices.Clone(r.Status.Noted)
	c.Status.Ladder = slices.Clone(r.Status.Ladder)
	c.Status.Waited = slices.Clone(r.Status.Waited)
	c.Status.Splits = slices.Clone(r.Status.Splits)
	c.Status.Leaving = slices.Clone(r.Status.Leaving)
	return c
}

// ErrForeignRecord says that a ConfigMap of a record's name is not guardian's.
var ErrForeignRecord = errors.New("it is not guardian's")

// checkForeign returns an ErrForeignRecord for a ConfigMap that has the name of
// a guard's record and is none: it bears no label of guardian's, or another
// guard's, and holds no status. A record that somebody has taken the label off
// is one still.
func checkForeign(guard string, cm *corev1.ConfigMap) error {
	if cm == nil || cm.Labels[LabelGuard] == guard {
		return nil
	}
	var s Status
	if json.Unmarshal([]byte(cm.Data[keyStatus]), &s) == nil && slices.Contains(States, s.State) {
		return nil
	}
	return fmt.Errorf("ConfigMap %s/%s has the name of guard %s's record and is without its label %s=%s: %w; rename or delete it, or rename the guard",
		cm.Namespace, cm.Name, guard, LabelGuard, guard, ErrForeignRecord)
}

// recordOnly is cm if it is the guard's record. What is not is as absent: to read
// it as one would be to write it as one.
func recordOnly(guard string, cm *corev1.ConfigMap) *corev1.ConfigMap {
	if checkForeign(guard, cm) != nil {
		return nil
	}
	return cm
}

// ParseRecordOf is ParseRecord of a ConfigMap that was read by a record's name.
func ParseRecordOf(guard string, cm *corev1.ConfigMap) (Record, error) {
	if err := checkForeign(guard, cm); err != nil {
		return Record{}, err
	}
	return ParseRecord(cm)
}

// ReadRecordOf is ReadRecord of a ConfigMap that was read by a record's name.
func ReadRecordOf(guard string, cm *corev1.ConfigMap) (Record, error) {
	if err := checkForeign(guard, cm); err != nil {
		return Record{}, err
	}
	r, bad := ReadRecord(cm)
	r.unreadable = bad
	return r, nil
}

// Unreadable is what of a record that ReadRecordOf has read cannot be read, and
// why.
func (r Record) Unreadable() []string { return r.unreadable }

// UnreadableError names the keys of a record that cannot be read; nil: all can.
func (r Record) UnreadableError(namespace, guard string) error {
	if len(r.unreadable) == 0 {
		return nil
	}
	return fmt.Errorf("read record %s/%s: %s", namespace, RecordName(guard), strings.Join(r.unreadable, "; "))
}
