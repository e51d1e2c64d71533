package alerting

import (
	"time"
	"unique"

	"github.com/prometheus/common/model"
)

// Alert is one firing episode of one alert, or the end of it. Its maps may be
// shared between copies and must not be modified.
type Alert struct {
	Labels      map[string]string // never empty; no empty values
	Annotations map[string]string // may be nil

	// StartsAt is when the alert began to fire, by the clock of the Prometheus
	// that evaluated it. Zero only in listings from Prometheus, when it keeps
	// no ALERTS_FOR_STATE: unknown.
	StartsAt time.Time
	// EndsAt is when a resolved alert ended, by the same clock. Of a firing
	// alert it is the moment at which it expires unless it is repeated (push
	// lane), or zero (webhook, listings).
	EndsAt time.Time

	GeneratorURL string
	Fingerprint  string // 16 hex digits, as Alertmanager computes it
	Resolved     bool

	// Suppressed is set in listings only: Alertmanager silences, inhibits or
	// mutes the alert, so that it sends no webhook for it.
	Suppressed bool
}

// precision is that of startsAt in Alertmanager's API (strfmt.DateTime). All
// lanes are cut to it, because an episode is known by its startsAt.
const precision = time.Millisecond

// Name is the label alertname.
func (a Alert) Name() string { return a.Labels[model.AlertNameLabel] }

// Lane is the way by which alerts come in.
type Lane string

// The lanes. Webhook and push are received by a [Server]; the other two are
// listings that guardian asked for.
const (
	LaneWebhook      Lane = "webhook"      // POST /webhook, from Alertmanager; it retries
	LanePush         Lane = "push"         // POST /api/v2/alerts, from Prometheus; it does not retry
	LaneAlertmanager Lane = "alertmanager" // listed from Alertmanager's API
	LanePrometheus   Lane = "prometheus"   // listed from Prometheus's API
)

// Fingerprint is the fingerprint that Alertmanager gives an alert with these
// labels (model.LabelSet.Fingerprint; labels with an empty value do not
// count).
func Fingerprint(labels map[string]string) string {
	set := make(model.LabelSet, len(labels))
	for name, value := range labels {
		if value != "" {
			set[model.LabelName(name)] = model.LabelValue(value)
		}
	}
	return set.Fingerprint().String()
}

// withoutEmpty copies labels without those that have an empty value, as
// Alertmanager's API does. Equal names and values of alerts that come
// together share their memory: a burst of thousands has a few of them.
func withoutEmpty(labels map[string]string) map[string]string {
	out := make(map[string]string, len(labels))
	for name, value := range labels {
		if value != "" {
			out[unique.Make(name).Value()] = unique.Make(value).Value()
		}
	}
	return out
}
