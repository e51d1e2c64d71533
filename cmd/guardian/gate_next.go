package main

import (
	"fmt"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
)

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

// causeOf is that of a guard which has trouble.
func causeOf(r decision.Record) gateCause {
	if r.Lock != nil && r.Message != "" {
		return causeNone
	}
	return causeTrouble
}

func (c gateCause) unknown(format string, args ...any) (*gateAnswer, time.Duration) {
	answer, next := unknown(format, args...)
	answer.cause = c
	return answer, next
}

func (c gateCause) unhealthy(text string, b blame) (*gateAnswer, time.Duration) {
	answer, next := unhealthy(text, b)
	answer.cause = c
	return answer, next
}

// nextCommand is the command by which a person goes on, or "".
func (a *app) nextCommand(r gateResult) string {
	switch r.cause {
	case causeDead:
		return podsCommand(r.namespace)
	case causeDisarmed:
		return fmt.Sprintf("%s arm %s -n %s --reason '…'", a.name, r.guard, r.namespace)
	case causeTrouble, causeTraffic:
		return fmt.Sprintf("%s status %s -n %s", a.name, r.guard, r.namespace)
	case causeUnproven:
		return a.name + " check -f guardian.yaml --wait 3m"
	}
	return ""
}
