package decision

import "github.com/canary-guardian/guardian/remediate/virtualservice"

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
