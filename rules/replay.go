package rules

// What a replay of the rules over the past has to know of them.

// RequestsOf selects what proxies count of the requests to one of a guard's versions.
func (o Options) RequestsOf(g Guard, s Side) string {
	selector := requestsTotal + "{"
	for i, m := range ofSide(g, s, o.Proxies) {
		if i > 0 {
			selector += ","
		}
		selector += m
	}
	return selector + "}"
}

// Recorded are the metrics that tell how a signal came to its verdict.
type Recorded struct {
	// Judged is there, any of them, for each guard whose canary the signal can judge; they
	// have a label LabelSide where BySide.
	Judged []string
	BySide bool
	// Bad is how many bad requests the canary had within a window, which is a label,
	// and Proof how strong the evidence is; empty: the signal has none.
	Bad, Proof string
	// Stable is stable's share of bad requests within a window, where it is beyond
	// the limit; empty: the signal has none.
	Stable string
}

// Recorded is empty for what is no signal.
func (s Signal) Recorded() Recorded {
	switch s {
	case SignalErrorRate:
		return Recorded{Judged: []string{failed.step}, BySide: true, Bad: failed.bad, Proof: failed.proof, Stable: failed.stable}
	case SignalLatency:
		return Recorded{Judged: []string{slow.badStep}, BySide: true, Bad: slow.bad, Proof: slow.proof, Stable: slow.stable}
	case SignalRestarts:
		return Recorded{Judged: []string{restartsIn}, BySide: true}
	case SignalTraffic:
		return Recorded{Judged: []string{weightRatio}}
	case SignalComparison:
		return Recorded{Judged: []string{comparedShares[0].share, comparedShares[1].share}}
	}
	return Recorded{}
}
