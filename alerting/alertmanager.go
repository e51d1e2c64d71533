package alerting

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	httptransport "github.com/go-openapi/runtime/client"
	amclient "github.com/prometheus/alertmanager/api/v2/client"
	"github.com/prometheus/alertmanager/api/v2/client/alert"
	"github.com/prometheus/alertmanager/api/v2/client/general"
	"github.com/prometheus/alertmanager/api/v2/models"
)

// Alertmanager is a client of Alertmanager's API, version 2.
type Alertmanager struct {
	*connection
	api *amclient.AlertmanagerAPI
}

// NewAlertmanager makes a client. It asks nothing yet.
func NewAlertmanager(opts ClientOptions) (*Alertmanager, error) {
	c, err := connect("Alertmanager", opts)
	if err != nil {
		return nil, err
	}
	transport := httptransport.NewWithClient(c.base.Host, path.Join("/", c.base.Path, "api/v2"), []string{c.base.Scheme}, c.client)
	transport.Debug = false // DEBUG in the environment would print requests
	return &Alertmanager{connection: c, api: amclient.New(transport, nil)}, nil
}

// Firing lists the alerts that Alertmanager takes to fire, by fingerprint each
// once. EndsAt is zero. Each selection is a request of its own, with the timeout
// for itself: ctx bounds them all.
func (a *Alertmanager) Firing(ctx context.Context, filter Filter) ([]Alert, error) {
	if filter.MinUptime > 0 {
		if err := a.checkStarted(ctx, filter.MinUptime); err != nil {
			return nil, err
		}
	}
	var alerts []Alert
	seen := map[string]bool{}
	for _, set := range filter.sets() {
		listed, err := a.list(ctx, set, filter.Suppressed)
		if err != nil {
			return nil, fmt.Errorf("list alerts of Alertmanager %s: %w", a.base, plain(err))
		}
		for _, found := range listed {
			if !seen[found.Fingerprint] {
				seen[found.Fingerprint] = true
				alerts = append(alerts, found)
			}
		}
	}
	return sorted(alerts), nil
}

// errNoAnswer is of an answer without a body, or of null: the clients take either for a
// list of nothing.
var errNoAnswer = errors.New("no list in its answer")

func (a *Alertmanager) list(ctx context.Context, matchers Matchers, suppressed bool) ([]Alert, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	yes := true
	params := alert.NewGetAlertsParamsWithContext(ctx).
		WithFilter(matchers.filters()).
		WithActive(&yes).WithUnprocessed(&yes).
		WithSilenced(&suppressed).WithInhibited(&suppressed)
	response, err := a.api.Alert.GetAlerts(params)
	if err != nil {
		return nil, err
	}
	if response.Payload == nil {
		return nil, errNoAnswer
	}
	alerts := make([]Alert, 0, len(response.Payload))
	for i, listed := range response.Payload {
		found, err := fromModel(listed)
		if err != nil {
			return nil, fmt.Errorf("[%d].%w", i, err)
		}
		// Muted alerts have no parameter of their own.
		if suppressed || !found.Suppressed {
			alerts = append(alerts, found)
		}
	}
	return alerts, nil
}

// fromModel translates one listed alert. The generated client does not check
// what is required.
func fromModel(m *models.GettableAlert) (Alert, error) {
	switch {
	case m == nil || len(m.Labels) == 0:
		return Alert{}, &fieldError{"labels", "", "at least one label"}
	case m.StartsAt == nil:
		return Alert{}, &fieldError{"startsAt", "", "the time at which the alert began"}
	}
	a := Alert{
		Labels:       withoutEmpty(m.Labels),
		Annotations:  m.Annotations,
		StartsAt:     time.Time(*m.StartsAt).UTC().Truncate(precision),
		GeneratorURL: string(m.GeneratorURL),
		Suppressed:   m.Status != nil && m.Status.State != nil && *m.Status.State == models.AlertStatusStateSuppressed,
	}
	if m.Fingerprint != nil && fingerprintFormat.MatchString(*m.Fingerprint) {
		a.Fingerprint = *m.Fingerprint
	} else {
		a.Fingerprint = Fingerprint(a.Labels)
	}
	return a, nil
}

func (a *Alertmanager) checkStarted(ctx context.Context, least time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	response, err := a.api.General.GetStatus(general.NewGetStatusParamsWithContext(ctx))
	if err != nil {
		return fmt.Errorf("ask Alertmanager %s how long it is up: %w", a.base, plain(err))
	}
	if response.Payload == nil || response.Payload.Uptime == nil {
		return fmt.Errorf("ask Alertmanager %s how long it is up: no uptime in its answer", a.base)
	}
	return a.checkUptime("Alertmanager", time.Time(*response.Payload.Uptime), least)
}
