package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/canary-guardian/guardian/remediate/decision"
)

// confidence of what a gate says it has proven.
const confidence = 0.95

// upperBound is the exact upper confidence bound of a share of which bad of all
// were seen: at the bound, or above it, as few bad ones or fewer come in no more
// than alpha of all cases. It is the one-sided interval of
//
//	C. J. Clopper, E. S. Pearson: The use of confidence or fiducial limits
//	illustrated in the case of the binomial. Biometrika 26 (1934), 404-413.
//
// Without bad ones it is 1-alpha^(1/all), near 3/all for 95%: the rule of three of
//
//	J. A. Hanley, A. Lippman-Hand: If nothing goes wrong, is everything all right?
//	JAMA 249 (1983), 1743-1745.
func upperBound(bad, all int64, alpha float64) float64 {
	if all <= 0 || bad >= all {
		return 1
	}
	low, high := float64(bad)/float64(all), 1.0
	for range 60 { // halves: to the precision of a float64
		middle := (low + high) / 2
		if atMost(bad, all, middle) > alpha {
			low = middle
		} else {
			high = middle
		}
	}
	return high
}

// atMost is the probability of bad or fewer of all, each with probability p. Its
// terms are taken relative to the last one, the largest where p is above bad/all,
// so that none is lost to rounding.
func atMost(bad, all int64, p float64) float64 {
	if p <= 0 {
		return 1
	}
	if p >= 1 {
		return 0
	}
	n, k := float64(all), float64(bad)
	choose := lgamma(n+1) - lgamma(k+1) - lgamma(n-k+1)
	sum, term := 1.0, 1.0
	for i := k; i > 0 && term > sum*1e-17; i-- {
		term *= i / (n - i + 1) * (1 - p) / p
		sum += term
	}
	return min(1, math.Exp(choose+k*math.Log(p)+(n-k)*math.Log1p(-p))*sum)
}

func lgamma(x float64) float64 {
	v, _ := math.Lgamma(x)
	return v
}

// spent is the share of 1-confidence that is spent on an answer after a number of
// failures. Who waits until the bound is low enough looks again after each failure,
// and each look may be wrong: all of them together are no more often than one
// look of a fixed length would be.
func spent(bad int64) float64 { return (1 - confidence) * math.Pow(2, -float64(bad)-1) }

// proves says that so many failures among so many requests rule a share out, for
// who stops at the first that do.
func proves(share float64, bad, all int64) bool {
	return all > 0 && bad < all && atMost(bad, all, share) <= spent(bad)
}

// stillNeeded is how many more requests without a failure would prove it.
func stillNeeded(share float64, bad, all int64) int64 {
	low, high := all, max(all, bad+1)
	for !proves(share, bad, high) {
		low, high = high, 2*high
	}
	for low < high {
		if middle := (low + high) / 2; proves(share, bad, middle) {
			high = middle
		} else {
			low = middle + 1
		}
	}
	return low - all
}

// counted is what a status says of the canary's requests: as many of them as
// failed, at least.
func counted(s decision.Status) (bad, all int64) { return s.Failed, max(s.Requests, s.Failed) }

// proofText is what a healthy canary's requests have proven, or that they prove
// nothing. prove is what was to be proven; 0: nothing was.
func proofText(s decision.Status, prove float64) string {
	bad, all := counted(s)
	switch {
	case s.Counted.At.IsZero() && all > 0:
		return fmt.Sprintf("%s requests, of which guardian does not say how many failed", thousands(all))
	case all == 0:
		return "no request was counted, so nothing is proven of its error rate"
	}
	text := fmt.Sprintf("%s %s in %.0f s, %s failed", thousands(all), plural(all, "request"), s.Counted.At.Sub(s.Counted.Since).Seconds(), thousands(bad))
	if bad > 0 {
		text += " (" + percent(float64(bad)/float64(all)) + ")"
	}
	text += orNothing(", ", latencyText(s.Latency))
	bound := upperBound(bad, all, 1-confidence)
	if prove > 0 {
		bound = prove
	}
	return text + fmt.Sprintf("; an error rate of %s or more would have been seen (%.0f%%)", percent(bound), 100*confidence)
}

// parseShare reads 2%, or 0.02.
func parseShare(text string) (float64, error) {
	number, isPercent := strings.CutSuffix(strings.TrimSpace(text), "%")
	share, err := strconv.ParseFloat(number, 64)
	if isPercent {
		share /= 100
	}
	if err != nil || !(share > 0 && share < 1) {
		return 0, fmt.Errorf("%q: want an error rate above 0 and below 100%%, such as 2%% or 0.02", text)
	}
	return share, nil
}
