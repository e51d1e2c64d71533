package main

import (
	"math"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
)

// Without failures the bound has a closed form; with some, the values are those of
// the 95% one-sided limits that R's binom.test(x, n, alternative = "less") prints,
// which are quantiles qbeta(0.95, x+1, n-x).
func TestTheUpperBoundIsClopperAndPearsons(t *testing.T) {
	for _, c := range []struct {
		bad, all int64
		alpha    float64
		want     float64
	}{
		{0, 1, 0.05, 0.95},
		{0, 10, 0.05, 0.2588656},
		{0, 100, 0.05, 0.0295130},
		{0, 300, 0.05, 0.0099360},
		{0, 1000, 0.025, 0.0036821},
		{1, 2, 0.05, 0.9746794},
		{9, 10, 0.05, 0.9948838},
		{10, 10, 0.05, 1},
		{0, 0, 0.05, 1},
	} {
		if got := upperBound(c.bad, c.all, c.alpha); math.Abs(got-c.want) > 1e-6 {
			t.Errorf("%d of %d at %v: %.7f, want %.7f", c.bad, c.all, c.alpha, got, c.want)
		}
	}
	// At its own bound exactly alpha of all cases show as few: held against the sum of
	// the binomial's terms, written out.
	for _, c := range [][2]int64{{1, 20}, {2, 50}, {5, 100}, {17, 1000}, {1, 1204}, {40, 2000}} {
		p, sum, term := upperBound(c[0], c[1], 0.05), 0.0, 1.0
		for range c[1] {
			term *= 1 - p
		}
		for i := int64(0); i <= c[0]; i++ {
			sum += term
			term *= float64(c[1]-i) / float64(i+1) * p / (1 - p)
		}
		if math.Abs(sum-0.05) > 1e-9 {
			t.Errorf("%v: at %v the probability is %v", c, p, sum)
		}
	}
	if got := upperBound(3, 1_000_000_000, 0.05); got < 7e-9 || got > 8e-9 { // 7.754 of a Poisson distribution
		t.Errorf("of a billion: %v", got)
	}
}

// stopped is the probability that a gate that waits for a proof says at some time,
// within so many requests, that a share is ruled out which is the true one.
func stopped(share float64, requests int, enough func(share float64, bad, all int64) bool) float64 {
	at, out := []float64{1}, 0.0 // probabilities of the failures so far, of those that have not stopped
	for n := 1; n <= requests; n++ {
		next := make([]float64, len(at)+1)
		for bad, p := range at {
			next[bad] += p * (1 - share)
			next[bad+1] += p * share
		}
		for bad, p := range next {
			if p > 0 && enough(share, int64(bad), int64(n)) {
				out, next[bad] = out+p, 0
			}
		}
		at = next
	}
	return out
}

func TestWaitingForAProofIsNotWrongMoreOftenThanItSays(t *testing.T) {
	if wrong := stopped(0.05, 1500, proves); wrong > 1-confidence || wrong < 0.01 {
		t.Errorf("a true 5%% is ruled out in %v of all cases", wrong)
	}
	naive := func(share float64, bad, all int64) bool { return atMost(bad, all, share) <= 1-confidence }
	if wrong := stopped(0.05, 1500, naive); wrong < 0.1 {
		t.Errorf("looking again and again with the bound of one look is wrong in only %v: nothing to guard against", wrong)
	}
}

func TestWhatIsLackingWouldSuffice(t *testing.T) {
	for _, c := range []struct {
		share    float64
		bad, all int64
		want     int64
	}{{0.02, 0, 0, 183}, {0.02, 0, 183, 0}, {0.02, 0, 100, 83}, {0.5, 3, 3, 16}, {0.01, 2, 500, 397}} {
		got := stillNeeded(c.share, c.bad, c.all)
		if enough := proves(c.share, c.bad, c.all+got); !enough || got > 0 && proves(c.share, c.bad, c.all+got-1) || got != c.want {
			t.Errorf("%+v: %d lack (enough: %v)", c, got, enough)
		}
	}
}

func TestWhatWasProvenInWords(t *testing.T) {
	at := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	over := decision.Counted{Since: at, At: at.Add(time.Minute)}
	p95 := decision.Latency{Quantile: 0.95, Millis: 250}
	for _, c := range []struct {
		status decision.Status
		prove  float64
		want   string
	}{
		{decision.Status{Counts: decision.Counts{Requests: 1204, Failed: 1, Latency: p95, Counted: over}}, 0,
			"1,204 requests in 60 s, 1 failed (0.084%), p95 ≤ 250 ms; an error rate of 0.4% or more would have been seen (95%)"},
		{decision.Status{Counts: decision.Counts{Requests: 1204, Failed: 1, Latency: p95, Counted: over}}, 0.02,
			"1,204 requests in 60 s, 1 failed (0.084%), p95 ≤ 250 ms; an error rate of 2% or more would have been seen (95%)"},
		{decision.Status{Counts: decision.Counts{Requests: 1, Counted: over, Latency: decision.Latency{Quantile: 0.999, Millis: 500, Above: true}}}, 0,
			"1 request in 60 s, 0 failed, p99.9 > 500 ms; an error rate of 95% or more would have been seen (95%)"},
		{decision.Status{Counts: decision.Counts{Requests: 3, Failed: 5, Counted: over}}, 0,
			"5 requests in 60 s, 5 failed (100%); an error rate of 100% or more would have been seen (95%)"},
		{decision.Status{Counts: decision.Counts{Requests: 50}}, 0, "50 requests, of which guardian does not say how many failed"},
		{decision.Status{}, 0, "no request was counted, so nothing is proven of its error rate"},
	} {
		if got := proofText(c.status, c.prove); got != c.want {
			t.Errorf("%q\nwant %q", got, c.want)
		}
	}
}

func TestAShareToProveIsRead(t *testing.T) {
	for text, want := range map[string]float64{"2%": 0.02, " 0.5% ": 0.005, "0.02": 0.02, "0": 0, "100%": 0, "-1%": 0, "NaN": 0, "": 0, "2 percent": 0, "1e-400": 0} {
		got, err := parseShare(text)
		if (err != nil) != (want == 0) || math.Abs(got-want) > 1e-12 {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
}
