package alerting

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"time"
)

// The payload versions. 4 is version of notify/webhook.Message in Alertmanager
// since 0.6. 1 is what Grafana's own alerting sends: the same and more.
const (
	webhookVersion = "4"
	grafanaVersion = "1"
)

// Webhook is what guardian uses of a webhook call.
type Webhook struct {
	Receiver  string
	GroupKey  string  // for logs: not unique per alert
	Alerts    []Alert // in the order of the payload; firing and resolved mixed
	Truncated int     // alerts that Alertmanager has left out because of max_alerts
	Invalid   int     // alerts that make no sense, and are left out
	Problem   error   // what is wrong with the first of those
}

// payload is the JSON of a call. Keys that are not listed are ignored:
// Alertmanager adds some from time to time without a new version. The
// top-level status is left out on purpose: it says firing if any alert does.
type payload struct {
	Version         *string           `json:"version"`
	Receiver        string            `json:"receiver"`
	GroupKey        string            `json:"groupKey"`
	TruncatedAlerts int               `json:"truncatedAlerts"`
	Alerts          []json.RawMessage `json:"alerts"` // one by one: a wrong one must not lose the others
}

type payloadAlert struct {
	Status       string            `json:"status"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"`
	GeneratorURL string            `json:"generatorURL"`
	Fingerprint  string            `json:"fingerprint"`
}

// errVersion marks a payload of another version than 4.
var errVersion = errors.New("unsupported payload version")

// fieldError is a refused value. Error is for guardian's own log; advice, which
// has no value, may be told to the sender.
type fieldError struct {
	field, value, want string
}

// Error names the field, the value and what would be right.
func (e *fieldError) Error() string {
	value := e.value
	if len(value) > 64 {
		value = value[:64] + "…"
	}
	return fmt.Sprintf("%s: %q: want %s", e.field, value, e.want)
}

// advice is what is wrong, without what the sender sent.
func advice(err error) string {
	var field *fieldError
	if errors.As(err, &field) {
		return field.field + ": want " + field.want
	}
	return "an alert that is not as in Alertmanager's API"
}

// ParseWebhook reads the body of an Alertmanager webhook call, payload
// version 4, or of Grafana's. Each alert is judged by its own status. A
// fingerprint that is absent is computed. Single alerts that are wrong are left
// out, counted and named in Problem: what they ask for is lost in any case, and
// the others must not be. The error of a body that is refused names the field, its
// value and what would be right; nothing of such a body is used.
func ParseWebhook(body []byte) (*Webhook, error) {
	var p payload
	if err := json.Unmarshal(body, &p); err != nil {
		return nil, fmt.Errorf("webhook body: %w", err)
	}
	version := ""
	if p.Version != nil {
		version = *p.Version
	}
	if version != webhookVersion && version != grafanaVersion {
		return nil, fmt.Errorf("%w: %w", errVersion, &fieldError{"version", version, `"4" (Alertmanager), or "1" (Grafana)`})
	}
	if p.Alerts == nil {
		return nil, &fieldError{"alerts", "", "a list"}
	}
	if p.TruncatedAlerts < 0 {
		return nil, &fieldError{"truncatedAlerts", fmt.Sprint(p.TruncatedAlerts), "a count"}
	}
	hook := &Webhook{Receiver: p.Receiver, GroupKey: p.GroupKey, Truncated: p.TruncatedAlerts}
	hook.Alerts, hook.Invalid, hook.Problem = parseEach("alerts", p.Alerts, (*payloadAlert).alert)
	if hook.Invalid > 0 && len(hook.Alerts) == 0 {
		return nil, hook.Problem
	}
	return hook, nil
}

// maxRoom is for how many alerts there is room before the first is read. A body can
// have a million that say nothing.
const maxRoom = 1000

// parseEach reads alerts one by one. The problem is the first one's: one is
// enough to find the rule; thousands would flood the log.
func parseEach(list string, raw []json.RawMessage, parse func(*payloadAlert) (Alert, error)) (alerts []Alert, invalid int, problem error) {
	alerts = make([]Alert, 0, min(len(raw), maxRoom))
	for i := range raw {
		var p payloadAlert
		err := json.Unmarshal(raw[i], &p)
		var alert Alert
		if err == nil {
			alert, err = parse(&p)
		}
		if err == nil {
			alerts = append(alerts, alert)
			continue
		}
		if invalid++; problem == nil {
			problem = fmt.Errorf("%s[%d].%w", list, i, err)
		}
	}
	return alerts, invalid, problem
}

var fingerprintFormat = regexp.MustCompile(`^[0-9a-f]{16}$`)

func (p *payloadAlert) alert() (Alert, error) {
	a := Alert{
		Labels:       withoutEmpty(p.Labels),
		Annotations:  p.Annotations,
		StartsAt:     p.StartsAt.UTC().Truncate(precision),
		GeneratorURL: p.GeneratorURL,
		Fingerprint:  p.Fingerprint,
	}
	switch p.Status {
	case "firing": // endsAt is 0001-01-01T00:00:00Z, and says nothing
	case "resolved":
		a.Resolved, a.EndsAt = true, p.EndsAt.UTC()
	default:
		return Alert{}, &fieldError{"status", p.Status, "firing or resolved"}
	}
	switch {
	case len(a.Labels) == 0:
		return Alert{}, &fieldError{"labels", "", "at least one label with a value"}
	case p.StartsAt.IsZero():
		return Alert{}, &fieldError{"startsAt", "", "the time at which the alert began"}
	case a.Resolved && a.EndsAt.Before(a.StartsAt):
		return Alert{}, &fieldError{"endsAt", p.EndsAt.Format(time.RFC3339Nano), "a time not before startsAt of a resolved alert"}
	case a.Fingerprint == "":
		a.Fingerprint = Fingerprint(a.Labels)
	case !fingerprintFormat.MatchString(a.Fingerprint):
		return Alert{}, &fieldError{"fingerprint", a.Fingerprint, "16 hex digits"}
	}
	return a, nil
}
