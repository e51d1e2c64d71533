package alerting

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"
)

// ErrStoreFull is returned when a store has no room for another alert.
var ErrStoreFull = errors.New("alert store is full")

// Defaults of [StoreOptions].
const (
	DefaultMaxAlerts = 10_000         // alerts held at a time, those that have ended of late included
	DefaultMaxBytes  = 32 << 20       // bytes of their labels and annotations
	DefaultMaxAge    = 24 * time.Hour // after which an alert without news of it counts as ended
)

// endedFor is how long the end of an alert is remembered, so that an older
// listing or a late call does not bring it back. It is more than any request
// to either API may take.
const endedFor = 5 * time.Minute

// StoreOptions says how much a [Store] holds and for how long.
type StoreOptions struct {
	// MaxAlerts and MaxBytes bound what is held (the bytes of labels and
	// annotations). News of those held are always taken; a further alert that has
	// keys takes the room of those without, and is refused with ErrStoreFull where
	// there are none, as is every further one without. Defaults: 10,000 and 32 MiB.
	MaxAlerts, MaxBytes int

	// MaxAge is how long an alert that came by webhook or listing is taken to
	// fire without a repetition or a listing that has it: a safety net for the
	// case that resolves are lost and the API cannot be reached. Raise it above
	// the longest repeat_interval; lowering it ends alerts that still fire.
	// Default: 24 hours.
	MaxAge time.Duration

	// Keys names what an alert is about (guards, for instance), from its labels
	// alone. FiringOf looks alerts up by it. Default: no keys.
	Keys func(Alert) []string

	// Metrics, if set, notes the age of each episode at its first arrival.
	Metrics *Metrics
}

// Store holds which alerts fire now, from all lanes. An alert fires if any lane
// says so; Alertmanager's listing corrects what its webhook said, or Prometheus's in its
// place (EndUnless), and the push lane speaks for itself. It is safe for concurrent use.
//
// What one lane says about one alert, by what it said before:
//
//	before           firing s, s newer    firing s, s older   resolved [s, e]
//	nothing, ended   fires from s         fires from s        ended
//	firing from t    a new episode at s   still from t        ended, if e > t or s = t;
//	                                                          else it is of an earlier episode
//
// On the push lane a firing alert carries its own end; on the others it fires
// until resolved, missing from a listing, or older than MaxAge. A firing call
// for an episode that has ended opens it again: Alertmanager sends that after
// it has not heard from Prometheus for a while, and a call that was merely late
// is healed by the next listing.
type Store struct {
	opts StoreOptions

	mu     sync.RWMutex
	alerts map[identity]*entry
	byKey  map[string]map[identity]struct{}
	noKey  map[identity]struct{} // those without keys
	seed   maphash.Seed          // of the labels' hash
	bytes  int
	swept  time.Time
	listed map[Lane]time.Time
}

// identity is what an alert is known by. A fingerprint alone is not enough: whoever may
// send alerts can put one on any labels, and such an alert would take the place of the
// one that it is of.
type identity struct {
	fingerprint string
	labels      uint64 // a hash of them that nobody can aim at
}

func (b *Store) identityOf(a Alert) identity {
	id := identity{fingerprint: a.Fingerprint}
	for name, value := range a.Labels {
		id.labels += maphash.Comparable(b.seed, [2]string{name, value})
	}
	return id
}

// entry is everything known about one alert.
type entry struct {
	keys    []string
	bytes   int
	reports []report // one of each source; a map takes a kilobyte for one
}

// of is what a source said last; zero: nothing.
func (e *entry) of(source Lane) report {
	if i := e.index(source); i >= 0 {
		return e.reports[i]
	}
	return report{}
}

func (e *entry) index(source Lane) int {
	return slices.IndexFunc(e.reports, func(r report) bool { return r.source == source })
}

// take keeps what a source says.
func (e *entry) take(r report) {
	if i := e.index(r.source); i >= 0 {
		e.reports[i] = r
		return
	}
	e.reports = append(e.reports, r)
}

// report is what one lane said last.
type report struct {
	source Lane
	alert  Alert
	seen   time.Time // by guardian's clock
}

// Changes is what a call changed about which alerts fire.
type Changes struct {
	Unheard []Alert // had ended, by this clock, and had never been reported as firing
	Started []Alert // episodes that no lane had reported before
	Ended   []Alert // no longer firing on any lane
}

// NewStore makes an empty store; zero options take their defaults.
func NewStore(opts StoreOptions) *Store {
	opts.MaxAlerts = cmp.Or(opts.MaxAlerts, DefaultMaxAlerts)
	opts.MaxBytes = cmp.Or(opts.MaxBytes, DefaultMaxBytes)
	opts.MaxAge = cmp.Or(opts.MaxAge, DefaultMaxAge)
	if opts.Keys == nil {
		opts.Keys = func(Alert) []string { return nil }
	}
	return &Store{
		opts:   opts,
		alerts: map[identity]*entry{},
		byKey:  map[string]map[identity]struct{}{},
		noKey:  map[identity]struct{}{},
		seed:   maphash.MakeSeed(),
		listed: map[Lane]time.Time{},
	}
}

// source is the lane under which reports are kept: a listing from Alertmanager
// speaks about the same alerts as its webhook.
func (l Lane) source() Lane {
	if l == LaneAlertmanager {
		return LaneWebhook
	}
	return l
}

// Apply takes what a lane reported at now. When there is no room for some of
// the alerts the others are applied all the same, and the error is ErrStoreFull.
func (b *Store) Apply(lane Lane, alerts []Alert, now time.Time) (Changes, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sweep(now, time.Minute)
	var changes Changes
	refused := 0
	for _, a := range alerts {
		if !b.apply(lane, a, now, &changes) {
			refused++
		}
	}
	if refused > 0 {
		return changes, fmt.Errorf("%w: %d alerts refused beside %d held (limit %d) in %d bytes (limit %d)",
			ErrStoreFull, refused, len(b.alerts), b.opts.MaxAlerts, b.bytes, b.opts.MaxBytes)
	}
	return changes, nil
}

// Replace takes a complete listing of what fires by one API: alerts of that
// lane that the listing does not have have ended. asked is the time just
// before the listing was asked for: what was reported after it stands.
// A partial or failed listing must not be handed in.
func (b *Store) Replace(lane Lane, alerts []Alert, asked time.Time) (Changes, error) {
	present := make(map[identity]bool, len(alerts))
	fresh := make([]Alert, 0, len(alerts))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sweep(asked, time.Minute)
	for _, a := range alerts {
		id := b.identityOf(a)
		present[id] = true
		if e := b.alerts[id]; e == nil || !e.of(lane.source()).seen.After(asked) {
			fresh = append(fresh, a)
		}
	}
	changes := b.end(lane, asked, func(id identity, _ *entry) bool { return present[id] })
	refused := 0
	for _, a := range fresh {
		if !b.apply(lane, a, asked, &changes) {
			refused++
		}
	}
	b.listed[lane] = asked
	if refused > 0 {
		return changes, fmt.Errorf("%w: %d of %d listed alerts refused", ErrStoreFull, refused, len(alerts))
	}
	return changes, nil
}

// EndUnless ends what a lane says fires, but for what another server may say the same of:
// found has an alert of its name that is about the same. What was reported after asked
// stands. It is no listing of that lane.
func (b *Store) EndUnless(lane Lane, found []Alert, asked time.Time) Changes {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sweep(asked, time.Minute)
	known := map[[2]string]bool{} // by name and key; "": without keys
	for _, a := range found {
		for _, key := range orNone(b.opts.Keys(a)) {
			known[[2]string{a.Name(), key}] = true
		}
	}
	return b.end(lane, asked, func(_ identity, e *entry) bool {
		name := e.of(lane.source()).alert.Name()
		return slices.ContainsFunc(orNone(e.keys), func(key string) bool { return known[[2]string{name, key}] })
	})
}

func orNone(keys []string) []string {
	if len(keys) == 0 {
		return []string{""}
	}
	return keys
}

// end ends what a lane says fires and has not said after asked, but for what stays.
func (b *Store) end(lane Lane, asked time.Time, stays func(identity, *entry) bool) Changes {
	var changes Changes
	for id, e := range b.alerts {
		r := e.of(lane.source())
		if r.seen.After(asked) || !b.fires(r, asked) || stays(id, e) {
			continue
		}
		r.alert.Resolved, r.alert.EndsAt, r.seen = true, asked, asked
		e.take(r)
		if _, ok := b.firing(e, asked); !ok {
			changes.Ended = append(changes.Ended, r.alert)
		}
	}
	return changes
}

// Listed is when the last complete listing of a lane was asked for; zero if
// never.
func (b *Store) Listed(lane Lane) time.Time {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.listed[lane]
}

// Firing is every alert that fires at now, one for each that is known, by
// startsAt and then fingerprint. When lanes disagree about startsAt it is the
// latest; an alert is Suppressed if every lane on which it fires says so.
func (b *Store) Firing(now time.Time) []Alert {
	b.mu.RLock()
	defer b.mu.RUnlock()
	var list []Alert
	for _, e := range b.alerts {
		if a, ok := b.firing(e, now); ok {
			list = append(list, a)
		}
	}
	return sorted(list)
}

// FiringOf is like Firing, for the alerts with one of the keys that
// StoreOptions.Keys gave them.
func (b *Store) FiringOf(key string, now time.Time) []Alert {
	b.mu.RLock()
	defer b.mu.RUnlock()
	var list []Alert
	for id := range b.byKey[key] {
		if a, ok := b.firing(b.alerts[id], now); ok {
			list = append(list, a)
		}
	}
	return sorted(list)
}

// Reindex gives every alert its keys anew, after what decides about keys has
// changed.
func (b *Store) Reindex(keys func(Alert) []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.opts.Keys = keys
	clear(b.byKey)
	clear(b.noKey)
	for id, e := range b.alerts {
		for _, r := range e.reports { // all have the same labels
			b.index(id, e, keys(r.alert))
			break
		}
	}
}

// apply reports false when there is no room for the alert.
func (b *Store) apply(lane Lane, a Alert, now time.Time, changes *Changes) bool {
	source := lane.source()
	id := b.identityOf(a)
	e := b.alerts[id]
	if e == nil {
		if a.Resolved { // the end of something never seen
			changes.Unheard = append(changes.Unheard, a)
			return true
		}
		if e = b.add(id, a, now); e == nil {
			return false
		}
	}
	before, fired := b.firing(e, now)
	next, ok := b.next(e.of(source), a, now)
	if !ok {
		return true
	}
	known := e.knows(a)
	e.take(report{source, next, now})
	grown := max(0, next.size()-e.bytes)
	e.bytes, b.bytes = e.bytes+grown, b.bytes+grown
	after, fires := b.firing(e, now)
	switch {
	case fired && !fires:
		changes.Ended = append(changes.Ended, a)
	case fires && (!fired || after.StartsAt.After(before.StartsAt)):
		changes.Started = append(changes.Started, after)
		if b.opts.Metrics != nil && !known && (lane == LaneWebhook || lane == LanePush) {
			b.opts.Metrics.started(after, now)
		}
	}
	return true
}

// knows says whether any lane has reported this episode, or a later one.
func (e *entry) knows(a Alert) bool {
	for _, r := range e.reports {
		if !r.alert.StartsAt.Before(a.StartsAt) {
			return true
		}
	}
	return false
}

// next is what a lane says after a, given what it said before: the table of
// Store. ok is false when nothing changes.
func (b *Store) next(before report, a Alert, now time.Time) (_ Alert, ok bool) {
	firing := b.fires(before, now)
	switch {
	case a.Resolved && !before.ends(a, firing):
		return Alert{}, false
	case !a.Resolved && firing:
		return before.goesOn(a, now), true
	}
	return a, true
}

// goesOn is what a lane says of an alert that it has reported as firing already: what
// was said later stands, whichever call came first.
func (r report) goesOn(a Alert, now time.Time) Alert {
	began := r.alert.StartsAt
	ofFuture := began.After(now) // by a clock that was set: it hides no other
	if a.StartsAt.Before(began) && !ofFuture {
		a.StartsAt = began
	}
	if r.alert.EndsAt.After(a.EndsAt) {
		a.EndsAt = r.alert.EndsAt
	}
	return a
}

// ends says whether the end of an episode is the end of what a lane has reported.
func (r report) ends(a Alert, firing bool) bool {
	began := r.alert.StartsAt
	neverFired := r.alert.Labels == nil
	ofEarlier := firing && a.StartsAt.Before(began) && !a.EndsAt.After(began)
	return !neverFired && !ofEarlier
}

// fires says whether the lane's report means that the alert fires at now.
func (b *Store) fires(r report, now time.Time) bool {
	switch {
	case r.alert.Labels == nil || r.alert.Resolved:
		return false
	case !r.alert.EndsAt.IsZero():
		return r.alert.EndsAt.After(now)
	default:
		return now.Sub(r.seen) < b.opts.MaxAge
	}
}

// firing merges what the lanes say.
func (b *Store) firing(e *entry, now time.Time) (merged Alert, ok bool) {
	for _, r := range e.reports {
		if !b.fires(r, now) {
			continue
		}
		suppressed := r.alert.Suppressed && (!ok || merged.Suppressed)
		if !ok || r.alert.StartsAt.After(merged.StartsAt) {
			merged = r.alert
		}
		merged.Suppressed, ok = suppressed, true
	}
	return merged, ok
}

// add makes room for an alert, or returns nil. What has no key makes way for what has
// one: a route that is too wide, or somebody with the token, can fill the store with it.
func (b *Store) add(id identity, a Alert, now time.Time) *entry {
	e, keys := &entry{bytes: a.size()}, b.opts.Keys(a)
	full := func() bool {
		return len(b.alerts) >= b.opts.MaxAlerts || b.bytes+e.bytes > b.opts.MaxBytes
	}
	if full() {
		b.sweep(now, time.Second)
	}
	for full() && len(keys) > 0 && b.evict() {
	}
	if full() {
		return nil
	}
	b.alerts[id] = e
	b.bytes += e.bytes
	b.index(id, e, keys)
	return e
}

// evict forgets an alert without keys, if there is one.
func (b *Store) evict() bool {
	for id := range b.noKey {
		b.remove(id, b.alerts[id])
		return true
	}
	return false
}

func (b *Store) index(id identity, e *entry, keys []string) {
	e.keys = keys
	if len(keys) == 0 {
		b.noKey[id] = struct{}{}
	}
	for _, key := range keys {
		if b.byKey[key] == nil {
			b.byKey[key] = map[identity]struct{}{}
		}
		b.byKey[key][id] = struct{}{}
	}
}

// sweep forgets what has ended long ago, at most once in every.
func (b *Store) sweep(now time.Time, every time.Duration) {
	if now.Sub(b.swept) < every {
		return
	}
	b.swept = now
	for id, e := range b.alerts {
		if b.forgettable(e, now) {
			b.remove(id, e)
		}
	}
}

func (b *Store) forgettable(e *entry, now time.Time) bool {
	for _, r := range e.reports {
		if b.fires(r, now) || now.Sub(r.seen) < endedFor {
			return false
		}
	}
	return true
}

func (b *Store) remove(id identity, e *entry) {
	delete(b.alerts, id)
	delete(b.noKey, id)
	b.bytes -= e.bytes
	for _, key := range e.keys {
		delete(b.byKey[key], id)
		if len(b.byKey[key]) == 0 {
			delete(b.byKey, key)
		}
	}
}

// size is roughly what the alert's text takes.
func (a Alert) size() int {
	n := len(a.GeneratorURL) + len(a.Fingerprint)
	for _, m := range []map[string]string{a.Labels, a.Annotations} {
		for name, value := range m {
			n += len(name) + len(value)
		}
	}
	return n
}

func sorted(list []Alert) []Alert {
	slices.SortFunc(list, func(a, b Alert) int {
		return cmp.Or(a.StartsAt.Compare(b.StartsAt), cmp.Compare(a.Fingerprint, b.Fingerprint))
	})
	return list
}
