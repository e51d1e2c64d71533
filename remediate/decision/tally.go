package decision

import "time"

// Tally is what Prometheus has counted of the canary's requests since the last
// change of weights. Requests are rather too few than too many, Failed rather too
// many than too few.
type Tally struct {
	Requests int64
	Failed   int64
	Latency  Latency
}

// Latency bounds a quantile of a canary's response times by an edge of its
// histogram. The zero value: not known.
type Latency struct {
	Quantile float64 `json:"quantile"`        // such as 0.95
	Millis   float64 `json:"ms"`              // the lowest edge that it is at or below
	Above    bool    `json:"above,omitempty"` // it is above Millis, the highest edge that was looked at
}

// Counted is the time that requests were counted over: since the weights changed,
// or less.
type Counted struct {
	Since time.Time `json:"since"`
	At    time.Time `json:"at"`
}
