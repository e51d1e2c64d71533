package remediate

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// ledger is what the model itself knows of the past: who served when, what was
// rolled back and what a person has forgiven. Rollbacks, locks and their ends are
// held against it, and not against what the record says of builds and times.
type ledger struct {
	templates map[string]int // by build
	combined  map[string]int // what present builds were made of, by build
	spans     map[int][]span // when a template had ready pods
	told      map[int]span   // the same as replicas have recorded it
	blamed    map[int]bool   // templates that were rolled back and that nobody has forgiven
	must      map[int]bool   // templates that served when the lock was set: none of them lifts it
	proven    map[int]bool   // templates that have stood their rollback window out
	unlocked  time.Time      // when a person last lifted a lock
	lifted    time.Time      // when anything last did
	over      time.Time      // the same, whatever has become of the record
	seen      time.Time      // when the record first told of the present template
	recorded  struct {       // since when the record has told of a template without a break
		template int
		since    time.Time
	}
	listed    map[string]time.Time      // when the record first told of an episode
	rollbacks map[string]decision.Alert // all rollback alerts so far, by fingerprint
	full      time.Time                 // since when the canary has all traffic; zero: it has not
	unseen    time.Time                 // since when it had before it was taken back, as long as no record tells of that
	owed      map[string]map[int]bool   // templates whose rollback a replica could not record
	enforced  time.Time                 // when the record last came from observing to enforce
	stood     *decision.Lock            // the lock that stood then; nil: none
	ended     bool                      // the end of the rollback window was recorded, and nothing has changed since
}

// span is from when until when; an until of zero: it goes on.
type span struct{ from, until time.Time }

func newLedger() ledger {
	return ledger{templates: map[string]int{}, combined: map[string]int{}, spans: map[int][]span{}, told: map[int]span{}, blamed: map[int]bool{}, must: map[int]bool{}, proven: map[int]bool{},
		listed: map[string]time.Time{}, rollbacks: map[string]decision.Alert{}, owed: map[string]map[int]bool{}}
}

// lived brings the spans of all templates up to date: the canary's pods have
// changed.
func (m *machine) lived() {
	m.combined[m.w.buildOf(m.w.present)] = m.w.present
	for t := range m.w.made {
		m.templates[m.w.hashOfTemplate(t)] = t
		all := m.spans[t]
		last := len(all) - 1
		open := last >= 0 && all[last].until.IsZero()
		switch ready := m.w.isReady(t); {
		case ready && !open:
			m.spans[t] = append(all, span{from: m.now})
		case !ready && open:
			all[last].until = m.now
		}
	}
}

// served says whether a template had ready pods at or after a time, or replicas
// whose caches lag have recorded that it had.
func (m *machine) served(t int, from time.Time) bool {
	within := func(s span) bool { return !s.from.IsZero() && (s.until.IsZero() || !s.until.Before(from)) }
	return within(m.told[t]) || slices.ContainsFunc(m.spans[t], within)
}

// tell notes what a replica that writes a record has seen of the canary's pods.
// What is gone is for the one that led when it decided to say.
func (m *machine) tell(r *replica, is decision.Record) {
	for t := range m.w.made {
		s, hash := m.told[t], m.w.hashOfTemplate(t)
		serves := slices.ContainsFunc(is.Status.Served, func(b decision.Served) bool { return b.Build == hash && b.Still() })
		switch ready := r.saw.isReady(t); {
		case ready && (s.from.IsZero() || !s.until.IsZero()):
			m.told[t] = span{from: m.now}
		case !ready && !r.saw.has(t) && r.leads && !serves && !s.from.IsZero() && s.until.IsZero():
			s.until = m.now
			m.told[t] = s
		}
	}
}

// forget is what the end of a record, or of its status, has guardian forget. What
// it told of builds that served is not: a cache that lags, and a lock that could not
// be recorded, know it still.
func (m *machine) forget() {
	m.must, m.proven, m.listed = map[int]bool{}, map[int]bool{}, map[string]time.Time{}
	m.recorded.template = 0
	m.unlocked, m.lifted, m.seen, m.enforced, m.ended = time.Time{}, time.Time{}, time.Time{}, time.Time{}, false
	for _, w := range []*world{m.w, m.replicas[0].view, m.replicas[1].view} {
		w.since = w.madeOf(w.present)
		if w.noBuild() {
			w.since = time.Time{} // no build is known any more, so everything counts
		}
	}
}

// noBuild says that nothing in a cluster tells of a build of the canary.
func (w *world) noBuild() bool { return w.templates() == 0 || w.kind != "" && len(w.pods) == 0 }

// counts says whether a rollback alert counts against the build that a pass has
// looked at: it began while that build was there and after a person last lifted a
// lock, as far as Prometheus's clock and the record tell, or has outlived the
// time in which it may be about what was before.
func (m *machine) counts(a decision.Alert, since time.Time) bool {
	began, build := a.StartsAt, since
	if m.unlocked.After(since) {
		since = m.unlocked
	}
	if listed, ok := m.listed[a.Episode()]; ok && listed.Before(began) {
		began = listed
	}
	if began.Before(m.enforced) && !build.After(m.enforced) {
		return false
	}
	return !began.Before(since) || !m.now.Before(since.Add(m.guard.AlertWindow))
}

// since is from when a pass has the canary's build: one that went and came back
// unseen was there all the time, and so was one before the first sight, or one that
// was made since the record last told of another.
func (m *machine) since(r *replica) time.Time {
	switch {
	case r.saw.noBuild() && m.recorded.template != 0:
		return m.recorded.since // no build is seen, so the last one that was counts
	case r.saw.noBuild():
		return time.Time{} // none is known, so everything counts
	}
	unseen := func(made time.Time) bool { return m.recorded.template == 0 || made.After(m.recorded.since) }
	if made := r.saw.madeOf(r.saw.present); unseen(made) && made.Before(r.saw.since) {
		return made
	}
	if r.saw.present == m.recorded.template && m.recorded.since.Before(r.saw.since) {
		return m.recorded.since
	}
	return r.saw.since
}

// builtAt is when the present build came; one that went and came back unseen was
// there all the time.
func (m *machine) builtAt() time.Time {
	if m.w.present == m.recorded.template && m.recorded.since.Before(m.built) {
		return m.recorded.since
	}
	return m.built
}

// alertCounts says whether one of the alerts of a pass counts.
func (m *machine) alertCounts(r *replica) bool {
	return slices.ContainsFunc(slices.Collect(maps.Values(r.given)), func(a decision.Alert) bool {
		return a.Action == decision.ActionRollback && m.counts(a, m.since(r))
	})
}

// lockOf is the lock of this guard that a VirtualService tells of.
func (m *machine) lockOf(vs *unstructured.Unstructured) *decision.LockAnnotation {
	if vs == nil {
		return nil
	}
	l, err := decision.ParseLockAnnotation(vs.GetAnnotations()[decision.LockKey(m.guard.Name)])
	if err != nil {
		return nil
	}
	return &l
}

// checkCause holds a rollback that no lock in the record stands for against what
// can have caused it: invariant 7.
func (m *machine) checkCause(r *replica) {
	record := m.parsed()
	if l := record.Lock; l != nil { // its own cause was looked at when it was set
		if m.unwritten {
			m.owe(r, m.refusedBy(*l)...) // should the record go before it could be written
		}
		return
	}
	asked := record.Request != nil && record.Request.Action == decision.RequestRollback
	back := slices.ContainsFunc(slices.Collect(maps.Keys(m.blamed)), r.saw.isReady) && m.guard.Rollback.Lock != decision.LockNone
	others := r.saw.foreign != nil && r.saw.foreign.Labels[records.LabelLocked] == "true" // which is taken over, and cannot be recorded
	switch {
	case m.guard.Rollback.Lock != decision.LockNone && !m.unwritten && !m.meddled:
		m.t.Fatalf("a rollback without a lock, though the record can be written; status %+v", record.Status)
	case !m.alertCounts(r) && !asked && !back && !others && !slices.ContainsFunc(templatesIn(r.saw.present), func(t int) bool { return m.owed[r.name][t] }) && m.lockOf(m.w.vs) == nil && !m.meddled:
		m.t.Fatalf("invariant 7: rolled back, and no alert of %v counts against build %v of %s, unlocked at %s; nobody has asked", r.given, templatesIn(r.saw.present), r.saw.since, m.unlocked)
	case m.guard.Rollback.Lock != decision.LockNone:
		m.owe(r, templatesIn(r.saw.present)...)
	}
}

// owe notes templates whose rollback a replica has made and could not record.
func (m *machine) owe(r *replica, templates ...int) {
	if m.owed[r.name] == nil {
		m.owed[r.name] = map[int]bool{}
	}
	for _, t := range templates {
		m.owed[r.name][t] = true
	}
}

// checkLocks holds what a record that was written says of locks and refused
// builds against the ledger: invariants 1 and 7.
func (m *machine) checkLocks(r *replica, was, is decision.Record) {
	if was.Lock == nil {
		m.takenAndLifted(r, was, is)
	}
	if !is.Status.Full {
		m.unseen = time.Time{}
	}
	switch {
	case was.Lock == nil && is.Lock != nil:
		m.checkLocked(r, was, *is.Lock)
	case was.Lock != nil && is.Lock == nil:
		m.checkLifted(r, was, is)
	case was.Lock != nil:
		for _, b := range is.Lock.Refused {
			if t := m.templates[b]; !slices.Contains(was.Lock.Refused, b) {
				if !m.blamed[t] && !m.must[t] && m.w.made[t].After(is.Lock.Since) {
					m.t.Fatalf("invariant 7: build %d joined the lock of %s, and is of %s", t, is.Lock.Since, m.w.made[t])
				}
				m.blame(t)
			}
		}
	}
	for _, b := range is.Refused {
		t, known := m.templates[b]
		if known && slices.ContainsFunc(m.replicas[:], func(r *replica) bool { return m.owed[r.name][t] }) {
			m.blame(t) // the record tells of it only now
		}
		if known && !m.blamed[t] {
			m.t.Fatalf("invariant 7: build %d is refused, and was never rolled back, or has been unlocked since", t)
		}
	}
	if was.Status.CompletedAt.IsZero() && !is.Status.CompletedAt.IsZero() {
		m.checkCompleted(r)
	}
	if is.Status.State != decision.StateCompleted {
		m.ended = false
	}
	fires := func(episode string) bool {
		return slices.ContainsFunc(is.Status.Firing, func(f decision.Firing) bool { return f.Episode == episode })
	}
	maps.DeleteFunc(m.listed, func(episode string, _ time.Time) bool { return !fires(episode) })
	for _, f := range is.Status.Firing {
		if _, ok := m.listed[f.Episode]; !ok {
			m.listed[f.Episode] = m.now
		}
	}
	switch tells := m.w.present != 0 && is.Status.Build == m.w.buildOf(m.w.present); {
	case !tells: // a rollback waits for no look at the API server, whatever build a cache has
		m.seen = time.Time{}
	case m.seen.IsZero():
		m.seen = m.now
	}
	if t, known := m.combined[is.Status.Build]; known && t != m.recorded.template {
		m.recorded.since = m.since(r)
		m.recorded.template = t
	}
	m.tell(r, is)
}

// takenAndLifted notes what a lock refuses that was taken over, or up again from an
// annotation, and lifted in the same look: the lock that the pass has seen there, which
// somebody may have replaced since.
func (m *machine) takenAndLifted(r *replica, was, is decision.Record) {
	now, before := is.Status.Taken, was.Status.Taken
	taken := now != nil && (before == nil || *now != *before)
	var refused []int
	for _, e := range newest(was.History, is.History) {
		switch annotation, other := m.lockOf(m.w.vs), r.saw.foreign; {
		case e.Event != "locked":
		case taken && other != nil: // which another guard may itself have taken up from an annotation
			if seen, _ := records.Read(other); seen.Lock != nil {
				refused = append(refused, m.refusedBy(*seen.Lock)...)
			}
		case e.By == decision.ByAnnotation && annotation != nil:
			refused = append(refused, m.templates[annotation.Build])
			for b, t := range m.templates { // its message lists them all
				if t != m.templates[annotation.Build] && strings.Contains(annotation.Message, b) {
					refused = append(refused, t)
				}
			}
		}
	}
	m.blame(refused...)
	if q := was.Request; len(refused) > 0 && q != nil && q.Action == decision.RequestUnlock && is.Request == nil && is.Lock == nil {
		m.lifted, m.over = m.now, m.now
		m.unlock(refused, is)
	}
}

// unlock notes that a person has lifted a lock, and holds the record against that:
// what the lock refused is forgiven.
func (m *machine) unlock(refused []int, is decision.Record) {
	m.unlocked = m.now
	for _, t := range refused {
		if delete(m.blamed, t); slices.Contains(is.Refused, m.w.hashOfTemplate(t)) {
			m.t.Fatalf("build %d was unlocked, and is refused all the same", t)
		}
	}
	for t := range m.blamed { // those that are back joined the lock in the same look
		if m.w.isReady(t) && !slices.Contains(is.Refused, m.w.hashOfTemplate(t)) {
			delete(m.blamed, t)
		}
	}
	m.must = map[int]bool{}
}

func (m *machine) blame(templates ...int) {
	for _, t := range templates {
		m.blamed[t] = true
		delete(m.proven, t)
	}
}

// refusedBy are the templates that a lock refuses.
func (m *machine) refusedBy(l decision.Lock) []int {
	var out []int
	for _, b := range l.Refused {
		if t, known := m.templates[b]; known {
			out = append(out, t)
		} else {
			m.t.Fatalf("build %s is refused, and never was one", b)
		}
	}
	return out
}

// checkLocked holds a lock that is set against what can have caused it.
func (m *machine) checkLocked(r *replica, was decision.Record, l decision.Lock) {
	refused := m.refusedBy(l)
	// It was set before, and could not be recorded; one that was set when no build was known refuses none.
	owed := slices.ContainsFunc(refused, func(t int) bool { return m.owed[r.name][t] }) || len(refused) == 0 && m.owed[r.name] != nil
	from := m.now
	switch {
	case l.From != "":
		if m.w.foreign == nil && !owed && !m.meddled || m.lifted.After(l.Since) {
			m.t.Fatalf("invariant 7: the lock of %s was taken over, and does not stand: %+v; lifted last at %s", l.From, l, m.lifted)
		}
		m.blame(refused...)
		return
	case l.By == decision.ByAnnotation:
		if m.lockOf(m.w.vs) == nil && m.lockOf(r.saw.vs) == nil && !owed && !m.meddled && !m.over.Before(l.Since) || m.lifted.After(l.Since) {
			m.t.Fatalf("invariant 7: the lock of %s was taken up again, and the VirtualService tells of none; lifted last at %s", l.Since, m.over)
		}
		m.blame(refused...)
		return
	case l.By == decision.ByRefused:
		for _, t := range refused {
			if !owed && (!m.blamed[t] || !r.saw.isReady(t)) {
				m.t.Fatalf("invariant 7: locked, since build %d is back; it was rolled back and not unlocked: %v, it has a ready pod: %v", t, m.blamed[t], r.saw.isReady(t))
			}
		}
		if len(refused) == 0 {
			m.t.Fatalf("invariant 7: locked, since a refused build is back, and none is: %+v", l)
		}
		return
	case l.By == decision.ByAlert:
		from = m.checkAlertLock(r, l, owed)
	default:
		unreadable := l.By == "unreadable record" && m.garbled // a replica may have rolled back by it, and could not record that before
		if q := was.Request; !owed && !unreadable && (q == nil || q.Action != decision.RequestRollback) {
			m.t.Fatalf("invariant 7: locked by %s, who has not asked for it", l.By)
		}
	}
	m.checkBlamed(r, l, refused, from)
	m.blame(refused...)
	m.must = map[int]bool{}
	for t := range m.w.made {
		if m.w.isReady(t) && (slices.Contains(refused, t) || !m.proven[t]) {
			m.must[t] = true
		}
	}
}

// checkAlertLock holds a lock that an alert has set against that alert, and
// returns from when on a build that has served can be to blame.
func (m *machine) checkAlertLock(r *replica, l decision.Lock, owed bool) time.Time {
	a, known := m.rollbacks[l.Fingerprint]
	_, given := r.given[a.Episode()]
	switch {
	case !known || a.Name != l.Alert:
		m.t.Fatalf("invariant 7: there was no rollback alert %s: %+v", l.Alert, l)
	case !owed && (!given || !m.counts(a, m.since(r))):
		m.t.Fatalf("invariant 7: %+v (it fires: %v) does not count against build %v of %s, unlocked at %s", a, given, templatesIn(r.saw.present), r.saw.since, m.unlocked)
	case m.ended && !m.meddled && !owed && r.saw.vs == m.w.vs && r.saw.present == m.w.present:
		m.t.Fatalf("locked by %s after the rollback window of build %v", a.Name, templatesIn(r.saw.present))
	}
	from := a.StartsAt
	if from.After(l.Since) { // it was set then, and may be recorded only now
		from = l.Since
	}
	return from.Add(-m.guard.AlertWindow)
}

// checkBlamed holds the builds that a lock refuses against those that had ready
// pods while the alert's requests were made.
func (m *machine) checkBlamed(r *replica, l decision.Lock, refused []int, from time.Time) {
	proven := func(t int) bool { return m.proven[t] }
	for _, t := range refused {
		switch {
		case !m.served(t, from) && !r.saw.isReady(t) && (!r.saw.has(t) || len(m.spans[t]) == 0):
			m.t.Fatalf("invariant 7: build %d is refused for %s, and has had no ready pod since %s: %v", t, l.Alert, from, m.spans[t])
		case l.By == decision.ByAlert && proven(t) && !m.owed[r.name][t] && slices.ContainsFunc(refused, func(t int) bool { return !proven(t) }):
			m.t.Fatalf("invariant 7: build %d had stood its window out, and is refused beside %v", t, refused)
		}
	}
	for i, t := range r.saw.pods {
		life := r.saw.life(i)
		served := !life.down && l.Since.Sub(life.born) >= decision.ClockTolerance // else the alert is not about it
		if served && !slices.Contains(refused, t) && (l.By != decision.ByAlert || !proven(t)) {
			m.t.Fatalf("invariant 1: build %d serves and is not refused: %+v", t, l)
		}
	}
}

// checkLifted holds the end of a lock against what may lift it.
func (m *machine) checkLifted(r *replica, was, is decision.Record) {
	m.lifted, m.over = m.now, m.now
	refused := m.refusedBy(*was.Lock)
	if q := was.Request; q != nil && q.Action == decision.RequestUnlock && is.Request == nil {
		if !q.Of.IsZero() && decision.Stamp(q.Of) != decision.Stamp(was.Lock.Since) {
			m.t.Fatalf("invariant 1: the unlock of what stood at %s lifts the lock of %s", q.Of, was.Lock.Since)
		}
		m.unlock(refused, is)
		return
	}
	if was.Lock.Kind != decision.LockBuild {
		m.t.Fatalf("invariant 1: a lock of kind %s is lifted, and nobody has asked", was.Lock.Kind)
	}
	if slices.ContainsFunc(newest(was.History, is.History), func(e decision.HistoryEntry) bool { return e.By == "window" }) {
		if !m.meddled && (m.full.IsZero() || m.now.Sub(m.full) < r.guard.Rollback.Window) {
			m.t.Fatalf("invariant 1: unlocked after the window, and the canary has had all traffic since %s", m.full)
		}
		for _, t := range refused {
			delete(m.blamed, t)
		}
		m.must = map[int]bool{}
		return
	}
	for i, t := range r.saw.pods {
		life := r.saw.life(i)
		older := was.Lock.Since.Sub(life.born) >= decision.ClockTolerance
		late, lost := m.must[t] && older, m.edited && !older // of one record alone that is gone, a pod of this instant is no proof
		// Nor is one that has become ready in this instant, of which a cache that lags has seen that it was not.
		coming := m.edited && slices.Contains(was.Lock.Coming, m.w.hashOfTemplate(t)) && was.Lock.Since.Sub(life.ready) < decision.ClockTolerance
		if (late || m.blamed[t] && !lost) && !life.down && !coming {
			m.t.Fatalf("invariant 1: the lock of %s is lifted, and a pod of build %d is ready, of %s (the build served when the lock was set: %v, it was rolled back: %v); lock %+v, refused %v", was.Lock.Since, t, life.born, m.must[t], m.blamed[t], was.Lock, is.Refused)
		}
	}
	m.must = map[int]bool{}
}

// checkCompleted holds the end of a rollback window against what the canary has
// had: until then the brake is on.
func (m *machine) checkCompleted(r *replica) {
	began := m.full
	if began.IsZero() { // the cache lags
		began = m.unseen
	}
	built := m.builtAt()
	if r.saw.present != m.w.present || r.saw.noBuild() { // its cache lags, or no build is seen: what it records is of the one before
		built = m.since(r)
	}
	if built.After(began) {
		began = built
	}
	if !m.meddled && (began.IsZero() || m.now.Sub(began) < r.guard.Rollback.Window) {
		m.t.Fatalf("invariant 1: recorded as completed, and the canary has had all traffic since %s, the build since %s", m.full, m.builtAt())
	}
	m.ended = r.saw.present == m.w.present && !r.saw.noBuild() && r.saw.vs == m.w.vs // else it is of the build, or of the weights, before
	for _, t := range templatesIn(r.saw.templates()) {
		if r.saw.isReady(t) && !m.blamed[t] {
			m.proven[t] = true
		}
	}
}

// checkRolledBack holds alerts that fire against the traffic that the canary has
// when all is calm, by the ledger alone: invariant 1.
func (m *machine) checkRolledBack(t virtualservice.Traffic) {
	began := m.full
	if built := m.builtAt(); built.After(began) {
		began = built
	}
	over := t.Full() && !m.now.Before(began.Add(m.guard.Rollback.Window-time.Second))
	if t.Clean() || over || m.seen.IsZero() || m.w.templates() == 0 {
		return
	}
	since := m.seen
	if m.unlocked.After(since) {
		since = m.unlocked
	}
	for _, r := range m.replicas {
		for _, a := range r.known {
			if a.Action == decision.ActionRollback && m.counts(a, since) {
				m.t.Fatalf("invariant 1: %s fires and counts against build %v of %s, unlocked at %s, and the canary has %+v; status %+v", a.Name, templatesIn(m.w.present), m.seen, m.unlocked, t, m.parsed().Status)
			}
		}
	}
}

// checkLiftable holds a lock that stands when all is calm against a build that
// ends it.
func (m *machine) checkLiftable(rec decision.Record) {
	l := rec.Lock
	if l == nil || l.Kind != decision.LockBuild || m.brakeOff() || len(m.w.pods) == 0 {
		return
	}
	ready := 0
	for i, t := range m.w.pods {
		life := m.w.life(i)
		if life.down {
			continue
		}
		if ready++; t != m.w.wants(i) || m.blamed[t] || !life.born.After(l.Since) {
			return
		}
	}
	if ready > 0 {
		m.t.Fatalf("build %v came after the lock of %s, has all ready pods and is not refused, and the lock stands: %+v", templatesIn(m.w.templates()), l.Since, l)
	}
}

// otherGuard is the record of another guard of the same pair: it was renamed, or
// is in no configuration any more. Nil: there is none.
func (m *machine) otherGuard(locked bool, template int) *corev1.ConfigMap {
	rec := decision.Record{Status: decision.Status{State: decision.StateIdle}}
	set := map[string]string{records.LabelGuard: "orders-before"}
	if locked {
		set[records.LabelLocked] = "true"
		build := m.w.hashOfTemplate(template)
		rec.Lock = &decision.Lock{Kind: decision.LockBuild, Build: build, Refused: []string{build}, Since: m.now, By: decision.ByAlert, Reason: "Errors: 7% of requests fail"}
		rec.Denies(virtualservice.Denied(m.pair()), virtualservice.Spellings(m.pair(), m.guard.Stable), m.guard.Rollback)
		rec.VirtualServices = []string{"orders-service"}
	}
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: records.Name("orders-before"), Namespace: testNamespace, Labels: set, ResourceVersion: m.w.next()}, Data: rec.Data()}
}
