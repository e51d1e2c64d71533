package main

import (
	"fmt"

	"github.com/canary-guardian/guardian/remediate/decision"
)

// causeOf is that of a guard which has trouble.
func causeOf(r decision.Record) gateCause {
	if r.Lock != nil && r.Message != "" {
		return causeNone
	}
	return causeTrouble
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
