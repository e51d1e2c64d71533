package main

import "time"

// traffic is how many requests each version had in one step of the survey, per second.
type traffic struct{ canary, stable float64 }

// outcome is how the traffic of a release went on.
type outcome string

const (
	takenBack outcome = "taken-back" // the canary's traffic ended, and stable's went on
	returned  outcome = "returned"   // the same, of a canary that had had all traffic before: perhaps the next release began
	promoted  outcome = "promoted"   // stable's traffic ended, and the canary's went on
	ended     outcome = "ended"      // both ended, or nothing was scraped any more
	open      outcome = "open"       // both still had traffic at the end of what was replayed
)

// before is what the canary had when a release began.
type before string

const (
	nothing    before = "nothing"
	everything before = "everything" // all of the traffic
	unknown    before = "unknown"    // it had traffic at the beginning of what was replayed
)

// episode is a time in which both versions had traffic: a release. Its numbers are
// steps of the survey.
type episode struct {
	from, to int // the first and the last in which the canary had traffic
	both     int // the last in which both had
	shared   int // how many in which both had
	peak     float64
	before   before
	outcome  outcome
}

// patience is what finding episodes goes by, in steps of the survey.
type patience struct {
	quiet int // without requests to the canary, after which its traffic has ended
	after int // with requests to the canary alone, after which it is promoted: for that long guardian would roll back
	blur  int // in which traffic that has ended still shows
}

func patienceOf(step, quiet, after, window time.Duration) patience {
	return patience{quiet: int(quiet / step), after: int(after / step), blur: int(window/step) + 1}
}

// finder finds episodes.
type finder struct {
	patience
	all      []traffic
	episodes []episode
	now      *episode // the one that goes on
	canary   int      // the last step in which the canary had traffic, or -1
	alone    int      // the last in which stable had none while the canary had, or -1
	served   bool     // stable has had traffic since the canary's ended
}

// episodesOf finds the times in which both versions had traffic.
func episodesOf(all []traffic, p patience) []episode {
	f := &finder{patience: p, all: all, canary: -1, alone: -1}
	for i := range all {
		f.step(i)
	}
	if f.now != nil {
		f.end(f.last())
	}
	return f.episodes
}

func (f *finder) step(i int) {
	t := f.all[i]
	switch {
	case t.canary > 0 && t.stable > 0:
		f.both(i)
	case t.canary > 0:
		f.alone = i
		if f.now != nil {
			f.now.to, f.now.peak = i, 1
			if i-f.now.both > f.after {
				f.end(promoted)
			}
		}
	default:
		f.served = f.served || t.stable > 0
		if f.now != nil && i-f.now.to > f.quiet {
			f.end(f.gone())
		}
	}
	if t.canary > 0 {
		f.canary, f.served = i, false
	}
}

// both is a step in which both had traffic.
func (f *finder) both(i int) {
	if f.now == nil {
		f.now = &episode{from: i, before: f.had(i)}
	}
	t := f.all[i]
	f.now.to, f.now.both = i, i
	f.now.shared++
	f.now.peak = max(f.now.peak, t.canary/(t.canary+t.stable))
}

// had is what the canary had before an episode that begins.
func (f *finder) had(i int) before {
	switch {
	case f.alone >= 0 && f.alone == f.canary && i-f.alone <= f.quiet:
		return everything
	case i <= 1:
		return unknown
	}
	return nothing
}

// gone is the outcome of an episode whose canary has no traffic any more.
func (f *finder) gone() outcome {
	switch {
	case !f.served:
		return ended
	case f.now.before == everything:
		return returned
	}
	return takenBack
}

// last is the outcome of the episode that goes on at the end.
func (f *finder) last() outcome {
	t := f.all[len(f.all)-1]
	switch {
	case t.canary > 0 && f.now.to > f.now.both:
		return promoted
	case f.now.to < len(f.all)-2 && f.served:
		return f.gone()
	}
	return open
}

// end ends an episode. All traffic that went from the canary to stable at once was
// at both only as far as the survey can tell: that is no release.
func (f *finder) end(o outcome) {
	f.now.outcome = o
	if f.now.before != everything || f.now.shared > f.blur {
		f.episodes = append(f.episodes, *f.now)
	}
	f.now = nil
}
