package decision

import (
	"fmt"
	"slices"
	"time"

	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

// observeWeight brings the record's view of the weights up to date.
func (d *decider) observeWeight(first bool) {
	s, w, full := &d.rec.Status, d.in.Traffic.Weight, d.in.Traffic.Full()
	spread := max(0, w-d.in.Traffic.Lowest)
	if first {
		s.Weight, s.Spread, s.Full, s.MovedAt = w, spread, full, d.now
		if full {
			s.PromotedAt = d.now // for all that is known: a record may have been lost
		}
		return
	}
	if d.rec.Lock != nil && s.Weight == 0 && w > 0 {
		// A re-assertion: the record goes on saying 0, so that a storm of
		// them costs no write each.
		return
	}
	if w != s.Weight || spread != s.Spread {
		d.observeShift(w, spread)
	}
	if full != s.Full {
		d.observeFull(full)
	}
}

// observeShift takes down weights that are not the record's: guardian's own, which
// are confirmed by it, or others'.
func (d *decider) observeShift(w, spread int) {
	s := &d.rec.Status
	own, done := d.expected()
	if !own {
		d.note(EventShifted, "", d.shifted(w, spread))
	}
	if !own && d.givenMore() && d.rec.Lock == nil && d.in.Guard.Promotion.Mode == PromotionAuto {
		s.Promoting = s.Build // CI has begun, or stepped in: go on from here
	}
	s.Weight, s.Spread, s.Fresh = w, spread, false
	if !own || done {
		s.MovedAt, s.Waited = d.now, nil
	}
	d.followMoving(own, done)
}

// followMoving takes down what has come of the move that is under way, by the weights
// that are seen now.
func (d *decider) followMoving(own, done bool) {
	switch s := &d.rec.Status; {
	case s.Moving.RollsBack(): // until nothing leads to the canary any more
	case own && done:
		d.confirmStep()
	case !own && s.Moving != nil:
		d.endMoving(ResultRefused, fmt.Sprintf("the step to %d%% was not made: others moved the canary to %d%%", s.Moving.Step, s.Weight))
	}
}

// givenMore says that the canary has more, in a route at least, than the record says.
func (d *decider) givenMore() bool {
	s, t := d.rec.Status, d.in.Traffic
	return t.Weight > s.Weight || t.Lowest > s.Weight-s.Spread
}

// observeFull takes down that the canary has come to have all traffic, or has not any
// more.
func (d *decider) observeFull(full bool) {
	s := &d.rec.Status
	s.Full, s.Unverified, s.PromotedAt, s.CompletedAt = full, false, time.Time{}, time.Time{}
	if full {
		s.PromotedAt = d.now
	}
	if full && d.rec.Lock == nil {
		d.note(EventPromoted, "", "canary has all traffic; an alert "+d.would("rolls it back", "would roll it back")+" until "+Stamp(d.now.Add(d.in.Guard.Rollback.Window)))
	}
}

// expected says whether new weights are those that guardian is moving to, and
// whether all of the guard's VirtualServices have them.
func (d *decider) expected() (own, done bool) {
	s, t := d.rec.Status, d.in.Traffic
	if s.Moving == nil {
		return false, false
	}
	e := s.Moving.To
	if s.Moving.RollsBack() {
		return t.Lowest == 0 && t.Weight <= s.Weight, t.Weight == 0
	}
	done = t.Lowest >= s.Moving.Step // it may reach more than it asks for
	return t.Weight == e && (done || t.Weight != s.Weight), done
}

// takeWeight records a weight that observeWeight has passed over.
func (d *decider) takeWeight() {
	s, t := &d.rec.Status, d.in.Traffic
	if s.Weight == t.Weight {
		return
	}
	s.Weight, s.Spread, s.MovedAt = t.Weight, max(0, t.Weight-t.Lowest), d.now
}

// shifted tells of a change of weights that was not guardian's.
func (d *decider) shifted(w, spread int) string {
	s := d.rec.Status
	text := fmt.Sprintf("canary went from %d%% to %d%%", s.Weight, w)
	if w == s.Weight {
		text = fmt.Sprintf("canary's lowest route went from %d%% to %d%%", s.Weight-s.Spread, w-spread)
	}
	if m := s.Moving; m != nil && m.To > s.Weight {
		text += fmt.Sprintf("; the step to %d%% was not made", m.Step)
	}
	return text
}

// observeSplits remembers which routes of testers have been seen to split: at the
// end of their way they look like those that always were the canary's. At first
// sight nobody knows, and to give nothing back is the safe way.
func (d *decider) observeSplits(first bool) {
	s, t := &d.rec.Status, d.in.Testers
	seen := t.Splitting
	if first && d.in.Traffic.Full() {
		seen = slices.Concat(seen, t.Whole)
	}
	s.Splits = virtualservice.RememberSplits(s.Splits, seen, t.All)
}
