package alerting

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
)

// Sample is one value of an instant query.
type Sample struct {
	Labels map[string]string // the metric's name as __name__, if it has one; empty for a scalar
	Value  float64           // may be NaN or infinite
	At     time.Time
}

// Prometheus is a client of Prometheus's API, version 1.
type Prometheus struct {
	*connection
	api v1.API
}

// NewPrometheus makes a client. It asks nothing yet.
func NewPrometheus(opts ClientOptions) (*Prometheus, error) {
	c, err := connect("Prometheus", opts)
	if err != nil {
		return nil, err
	}
	client, err := api.NewClient(api.Config{Address: c.base.String(), Client: c.client})
	if err != nil {
		return nil, fmt.Errorf("Prometheus client: %w", plain(err))
	}
	return &Prometheus{connection: c, api: v1.NewAPI(client)}, nil
}

// Query asks an instant query as of now, by Prometheus's clock. A scalar is one
// sample, no data is none. The order is Prometheus's. Warnings that Prometheus
// (or what stands before it) has about an incomplete answer are an error:
// missing series must not be taken for healthy ones.
func (p *Prometheus) Query(ctx context.Context, promql string) ([]Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	value, warnings, _, err := p.api.Query(ctx, promql, time.Time{})
	if err != nil {
		return nil, fmt.Errorf("query Prometheus %s: %w", p.base, plain(err))
	}
	if err := complete(warnings); err != nil {
		return nil, fmt.Errorf("query Prometheus %s: %w", p.base, err)
	}
	switch value := value.(type) {
	case *model.Scalar:
		return []Sample{{Labels: map[string]string{}, Value: float64(value.Value), At: value.Timestamp.Time()}}, nil
	case model.Vector:
		if value == nil { // a vector of nothing is [], not null
			return nil, fmt.Errorf("query Prometheus %s: %w", p.base, errNoAnswer)
		}
		samples := make([]Sample, 0, len(value))
		for _, s := range value {
			if s.Histogram != nil {
				return nil, fmt.Errorf("query Prometheus %s: %s is a native histogram: want a number", p.base, s.Metric)
			}
			samples = append(samples, Sample{Labels: fromMetric(s.Metric), Value: float64(s.Value), At: s.Timestamp.Time()})
		}
		return samples, nil
	}
	return nil, fmt.Errorf("query Prometheus %s: result is %s: want an instant vector or a scalar", p.base, kindOf(value))
}

// kindOf is what kind of result an answer has; one that is JSON, and not of Prometheus,
// may have none.
func kindOf(value model.Value) string {
	if value == nil {
		return "nothing"
	}
	return "a " + value.Type().String()
}

// complete is an error for warnings that tell of an incomplete answer.
func complete(warnings v1.Warnings) error {
	for _, warning := range warnings {
		// "PromQL warning:" is a remark about the expression, as infos are.
		if !strings.HasPrefix(warning, "PromQL ") {
			return fmt.Errorf("incomplete answer: %s", warning)
		}
	}
	return nil
}

// Firing lists the alerts that fire by Prometheus's own ALERTS series. Labels
// are those of the series: external labels and alert_relabel_configs are not
// in them, so that fingerprints can differ from Alertmanager's. StartsAt comes
// from ALERTS_FOR_STATE (seconds; the time at which the alert became pending)
// and is zero where there is none. Annotations, EndsAt and GeneratorURL are
// not known.
func (p *Prometheus) Firing(ctx context.Context, filter Filter) ([]Alert, error) {
	if filter.MinUptime > 0 {
		if err := p.checkStarted(ctx, filter.MinUptime); err != nil {
			return nil, err
		}
	}
	var alerts []Alert
	seen := map[string]bool{}
	for _, set := range filter.sets() {
		samples, err := p.Query(ctx, firingQuery(set, filter.Pending))
		if err != nil {
			return nil, fmt.Errorf("list firing alerts: %w", err)
		}
		for _, s := range samples {
			a := fromSample(s)
			if !seen[a.Fingerprint] {
				seen[a.Fingerprint] = true
				alerts = append(alerts, a)
			}
		}
	}
	return sorted(alerts), nil
}

// checkStarted asks when Prometheus started. Others that speak its API may not
// know the question; they are not asked for more than their answer.
func (p *Prometheus) checkStarted(ctx context.Context, least time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	const operation = "ask Prometheus %s how long it is up: %w"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.base.JoinPath("api/v1/status/runtimeinfo").String(), nil)
	if err != nil {
		return fmt.Errorf(operation, p.base, plain(err))
	}
	response, err := p.client.Do(request)
	if err != nil {
		return fmt.Errorf(operation, p.base, plain(err))
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNotFound {
		return nil
	}
	var info struct {
		Data struct {
			StartTime time.Time `json:"startTime"`
		} `json:"data"`
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf(operation, p.base, errors.New(response.Status))
	}
	if err := json.NewDecoder(response.Body).Decode(&info); err != nil {
		return fmt.Errorf(operation, p.base, err)
	}
	return p.checkUptime("Prometheus", info.Data.StartTime, least)
}

// firingQuery gives one series for each firing alert. Its value is when the
// alert began, or 0 where Prometheus keeps no ALERTS_FOR_STATE.
func firingQuery(matchers Matchers, pending bool) string {
	state := `alertstate="firing"`
	if pending {
		state = `alertstate=~"firing|pending"`
	}
	firing := strings.Join(append(matchers.filters(), state), ",")
	return fmt.Sprintf(`(ALERTS_FOR_STATE and ignoring(alertstate) ALERTS{%[1]s}) or ignoring(alertstate) (ALERTS{%[1]s} * 0)`, firing)
}

func fromSample(s Sample) Alert {
	delete(s.Labels, model.MetricNameLabel)
	delete(s.Labels, "alertstate")
	a := Alert{Labels: s.Labels, Fingerprint: Fingerprint(s.Labels)}
	if s.Value > 0 {
		a.StartsAt = time.Unix(int64(s.Value), 0).UTC()
	}
	return a
}

func fromMetric(metric model.Metric) map[string]string {
	labels := make(map[string]string, len(metric))
	for name, value := range metric {
		labels[string(name)] = string(value)
	}
	return labels
}
