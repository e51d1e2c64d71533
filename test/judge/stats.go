package main

import (
	"fmt"
	"math"
	"slices"
)

// poissonRate is events per 1,000 hours with its exact (Garwood) 95% interval.
func poissonRate(events int, hours float64) string {
	lo, hi := poissonInterval(events)
	return fmt.Sprintf("%.2f [%.2f, %.2f]", 1000*float64(events)/hours, 1000*lo/hours, 1000*hi/hours)
}

// poissonInterval holds the mean of a Poisson variable of which n was seen.
func poissonInterval(n int) (lo, hi float64) {
	// solve finds the mean at which P(X <= k) is p; it falls with the mean.
	solve := func(k int, p float64) float64 {
		a, b := 0.0, float64(k)+20+10*math.Sqrt(float64(k)+1)
		for range 100 {
			if m := (a + b) / 2; poissonCDF(k, m) > p {
				a = m
			} else {
				b = m
			}
		}
		return (a + b) / 2
	}
	if n > 0 {
		lo = solve(n-1, 0.975)
	}
	return lo, solve(n, 0.025)
}

func poissonCDF(k int, mean float64) float64 {
	sum := 0.0
	for i := range k + 1 {
		g, _ := math.Lgamma(float64(i + 1))
		sum += math.Exp(float64(i)*math.Log(mean) - mean - g)
	}
	return sum
}

// share is k of n with its 95% Wilson interval, in percent.
func share(k, n int) string {
	const z = 1.96
	p, m := float64(k)/float64(n), float64(n)
	mid := (p + z*z/2/m) / (1 + z*z/m)
	half := z * math.Sqrt(p*(1-p)/m+z*z/4/m/m) / (1 + z*z/m)
	return fmt.Sprintf("%.1f%% [%.1f, %.1f]", 100*p, 100*max(0, mid-half), 100*(mid+half))
}

// delays are times from fault to firing, in seconds; +Inf: never.
type delays []float64

func (d delays) quantile(q float64) float64 {
	return d[min(len(d)-1, int(q*float64(len(d))))]
}

// String is the median with its 95% interval (by order statistics), and the 95th percentile.
func (d delays) String() string {
	slices.Sort(d)
	half := 0.98 / math.Sqrt(float64(len(d)))
	return fmt.Sprintf("%s [%s, %s] p95 %s", secs(d.quantile(0.5)), secs(d.quantile(0.5-half)), secs(d.quantile(0.5+half)), secs(d.quantile(0.95)))
}

func secs(s float64) string {
	if math.IsInf(s, 1) {
		return "-"
	}
	return fmt.Sprintf("%.1f", s)
}
