package decision

import "github.com/canary-guardian/guardian/remediate/virtualservice"

// Gaps are what Prometheus lacks of the rules that watch a guard. The zero value
// is none: it has evaluated them, and they record both sides' requests.
type Gaps struct {
	// Rules is why the rules are not evaluated, such as a group that is not loaded.
	Rules string
	// Stable and Canary say that the rules record no requests of that side now.
	// They do from its first request on, for as long as its proxies are scraped.
	Stable, Canary bool
}

// NoRequestsYet is why nothing proves that a canary is watched which nobody has
// called. It is no fault, and a gate that asks for no requests passes over it.
const NoRequestsYet = "no request of the canary has been recorded yet"

// NoAnswer is the same while Prometheus cannot be asked.
const NoAnswer = "Prometheus does not say that the rules watch"

// unwatched is why nothing proves that the canary is watched, or "". Requests are
// recorded only where there are some, so they are asked for only of a canary that
// has traffic.
func (g Gaps) unwatched(t virtualservice.Traffic, requests int64) string {
	switch {
	case g.Rules != "":
		return g.Rules
	case t.Weight == 0 || !g.Canary:
		return ""
	case requests > 0:
		return "the rules record no request of the canary, and Prometheus has some: are rules.proxies and the canary's Deployments right?"
	case !g.Stable:
		return NoRequestsYet
	}
	return "the rules record no request of either side: are its proxies scraped?"
}

// tellUnwatched takes down why nothing proves that the rules watch, for as long as
// the canary has traffic. It is the lease holder's to tell.
func (d *decider) tellUnwatched() {
	s, c := &d.rec.Status, d.in.Count
	switch {
	case !d.wantCount:
		s.Unwatched = ""
	case d.in.Busy || !c.Asked:
	case !c.Known:
		s.Unwatched = NoAnswer
	default:
		s.Unwatched = c.Gaps.unwatched(d.in.Traffic, c.Requests)
	}
}

// RulesUnproven says that a canary has traffic that no rule watches.
func (s Status) RulesUnproven() bool { return s.Unwatched != "" && s.Unwatched != NoRequestsYet }
