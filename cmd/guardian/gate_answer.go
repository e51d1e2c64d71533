package main

import (
	"fmt"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
)

// gateAnswer is how a gate ends.
type gateAnswer struct {
	code  int
	text  string
	cause gateCause
	blame
}

// gateResult is the answer about one guard.
type gateResult struct {
	guard, namespace string
	gateAnswer
	last decision.Record
}

func healthy(text string) (*gateAnswer, time.Duration) {
	return &gateAnswer{code: exitOK, text: text}, 0
}

func unhealthy(text string, b blame) (*gateAnswer, time.Duration) {
	return &gateAnswer{code: exitFailed, text: text, blame: b}, 0
}

// unknown, unhealthy and healthy are answers of see.
func unknown(format string, args ...any) (*gateAnswer, time.Duration) {
	return &gateAnswer{code: exitUnknown, text: fmt.Sprintf(format, args...)}, 0
}

// gateCause is why a gate does not answer 0, as far as it decides what whoever reads the
// answer does next.
type gateCause int

const (
	causeNone     gateCause = iota // or one whose answer names its commands, as a lock's does
	causeDead                      // no replica runs
	causeDisarmed                  // the brake is off
	causeTrouble                   // an alert, or a hold
	causeUnproven                  // nothing proves that alerts arrive, or that rules watch
	causeTraffic                   // the canary has none, or too little
)

func (c gateCause) unhealthy(text string, b blame) (*gateAnswer, time.Duration) {
	answer, next := unhealthy(text, b)
	answer.cause = c
	return answer, next
}

func (c gateCause) unknown(format string, args ...any) (*gateAnswer, time.Duration) {
	answer, next := unknown(format, args...)
	answer.cause = c
	return answer, next
}
