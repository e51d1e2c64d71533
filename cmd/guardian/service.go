package main

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/cmd/guardian/tracing"
	"github.com/canary-guardian/guardian/remediate"
)

// service is guardian, wired.
type service struct {
	config     config.Config
	log        *slog.Logger
	bridge     *bridge
	checks     *forwardChecks
	controller *remediate.Controller
	server     *alerting.Server
	rules      *rulesWriter
	reloads    *reloads
	notifier   *notifier       // nil: nobody is posted to
	page       *pageServer     // nil: there is none
	traces     *tracing.Traces // nil: there are none
	close      []func()
	memory     *memory // nil: it is not this process's alone
}

// confirmed has people told where a guard stands.
func (s *service) confirmed(v remediate.View) {
	if s.notifier != nil {
		s.notifier.tell(v.Name, noticeOf(s.bridge.config.Load().Config, v))
	}
}

// passed is told of each guard that a pass has looked at.
func (s *service) passed(v remediate.View) {
	s.confirmed(v)
	if s.page != nil {
		s.page.passed(v)
	}
}

// failed is told of each guard that passes begin to fail over, or cease to.
func (s *service) failed(v remediate.View) {
	if s.page != nil {
		s.page.passed(v)
	}
}

// beat is when this replica last received the heartbeat.
func (s *service) beat(now time.Time) string {
	at := s.server.Heartbeat()
	if at.IsZero() {
		return "this replica has received none yet"
	}
	return fmt.Sprintf("this replica received the last one %s ago", age(at, now))
}
