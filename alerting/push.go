package alerting

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// pushResolveTimeout is how long an alert without endsAt is taken to fire:
// Alertmanager's default resolve_timeout. Prometheus always sends endsAt.
const pushResolveTimeout = 5 * time.Minute

// errNoList marks a push body that is JSON but no list.
var errNoList = errors.New("push body: null: want a list of alerts")

// ParsePush reads the body of POST /api/v2/alerts as Prometheus sends it. An
// alert whose endsAt is after now fires until then, any other one has ended.
//
// A body that is no list of alerts gives no alerts and an error. Single alerts
// that are wrong are left out and named in the error, and the good ones are
// returned beside it, as Alertmanager does: Prometheus does not send a batch
// again, so one bad alert must not lose the others.
//
// Missing times mean what they mean in Alertmanager's API: no startsAt is
// endsAt or now, no endsAt is five minutes from now.
func ParsePush(body []byte, now time.Time) ([]Alert, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("push body: %w", err)
	}
	if list == nil {
		return nil, errNoList
	}
	alerts, _, problem := parseEach("", list, func(p *payloadAlert) (Alert, error) { return p.pushed(now) })
	return alerts, problem
}

func (p *payloadAlert) pushed(now time.Time) (Alert, error) {
	a := Alert{
		Labels:       withoutEmpty(p.Labels),
		Annotations:  p.Annotations,
		StartsAt:     p.StartsAt.UTC().Truncate(precision),
		EndsAt:       p.EndsAt.UTC(),
		GeneratorURL: p.GeneratorURL,
	}
	if p.StartsAt.IsZero() {
		a.StartsAt = a.EndsAt
		if p.EndsAt.IsZero() {
			a.StartsAt = now.UTC().Truncate(precision)
		}
	}
	if p.EndsAt.IsZero() {
		a.EndsAt = now.UTC().Add(pushResolveTimeout)
	}
	if len(a.Labels) == 0 {
		return Alert{}, &fieldError{"labels", "", "at least one label with a value"}
	}
	if a.EndsAt.Before(a.StartsAt) {
		return Alert{}, &fieldError{"endsAt", p.EndsAt.Format(time.RFC3339Nano), "a time not before startsAt"}
	}
	a.Resolved = !a.EndsAt.After(now)
	a.Fingerprint = Fingerprint(a.Labels)
	return a, nil
}
