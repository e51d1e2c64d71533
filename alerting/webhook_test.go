package alerting

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/alertmanager/template"
)

func at(clock string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, clock)
	if err != nil {
		panic(err)
	}
	return t
}

func labelsOf(name, signal string) map[string]string {
	return map[string]string{
		"alertname": name, "guardian": "true", "guardian_action": "rollback", "guardian_guard": "orders-service",
		"guardian_signal": signal, "namespace": "microservices", "severity": "critical",
	}
}

func TestWebhooksOfARealAlertmanagerAreJudgedAlertByAlert(t *testing.T) {
	summary := map[string]string{"summary": "orders-service v2: 5.2% of requests fail (limit 1%)"}
	errorRate := Alert{
		Labels: labelsOf("GuardianErrorRate", "error_rate"),
		Annotations: map[string]string{
			"runbook_url": "https://example.com/runbook",
			"summary":     "orders-service v2: 5.2% of requests fail (limit 1%)",
		},
		StartsAt:     at("2026-11-24T02:35:07.548Z"),
		GeneratorURL: "http://prometheus:9090/graph?g0.expr=x",
		Fingerprint:  "035f53bab38afd20",
	}
	errorRateEnded := Alert{
		Labels: errorRate.Labels, Annotations: summary, StartsAt: errorRate.StartsAt,
		EndsAt: at("2026-11-24T02:35:13Z"), Fingerprint: errorRate.Fingerprint, Resolved: true,
	}
	latency := Alert{
		Labels:      labelsOf("GuardianLatency", "latency"),
		Annotations: map[string]string{"summary": "orders-service v2: p95 over 500ms"},
		StartsAt:    at("2026-11-24T02:35:09.581Z"),
		Fingerprint: "e278e2a1030ed949",
	}
	latencyEnded := latency
	latencyEnded.Annotations, latencyEnded.Resolved, latencyEnded.EndsAt = map[string]string{}, true, at("2026-11-24T02:35:22Z")
	group := `{}:{namespace="microservices"}`
	for file, want := range map[string]*Webhook{
		"webhook-firing.json":              {Receiver: "guardian", GroupKey: group, Alerts: []Alert{errorRate}},
		"webhook-two-firing.json":          {Receiver: "guardian", GroupKey: group, Alerts: []Alert{errorRate, latency}},
		"webhook-firing-and-resolved.json": {Receiver: "guardian", GroupKey: group, Alerts: []Alert{errorRateEnded, latency}},
		"webhook-resolved.json":            {Receiver: "guardian", GroupKey: group, Alerts: []Alert{latencyEnded}},
		"webhook-truncated.json": {Receiver: "one", GroupKey: `{}/{team="one"}:{namespace="x"}`, Truncated: 2, Alerts: []Alert{{
			Labels:      map[string]string{"alertname": "Trunc", "i": "1", "namespace": "x", "team": "one"},
			Annotations: map[string]string{}, StartsAt: at("2026-11-24T02:35:17.626Z"), Fingerprint: "255dade0f439c41c",
		}}},
	} {
		t.Run(file, func(t *testing.T) {
			got, err := ParseWebhook(fixture(t, file))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			for _, a := range got.Alerts { // Alertmanager and guardian agree
				if fingerprint := Fingerprint(a.Labels); fingerprint != a.Fingerprint {
					t.Errorf("fingerprint of %v is %s, Alertmanager says %s", a.Labels, fingerprint, a.Fingerprint)
				}
			}
		})
	}
}

func TestAWebhookIsRefusedByNameOfWhatIsWrong(t *testing.T) {
	for name, test := range map[string]struct{ old, new, want string }{
		"another version":                {`"version":"4"`, `"version":"5"`, `unsupported payload version: version: "5": want "4" (Alertmanager), or "1" (Grafana)`},
		"a version that is a number":     {`"version":"4"`, `"version":4`, "webhook body: json: cannot unmarshal number"},
		"no version":                     {`"version":"4",`, ``, `unsupported payload version: version: "": want "4"`},
		"no alerts":                      {`"alerts":[`, `"others":[`, `alerts: "": want a list`},
		"a status that is neither":       {`"status":"firing","labels"`, `"status":"pending","labels"`, `alerts[0].status: "pending": want firing or resolved`},
		"an overlong value":              {`"status":"firing","labels"`, `"status":"` + strings.Repeat("x", 100) + `","labels"`, `alerts[0].status: "` + strings.Repeat("x", 64) + `…": want`},
		"no labels":                      {`"labels":{"alertname"`, `"labels":{},"l":{"alertname"`, `alerts[0].labels: "": want at least one label`},
		"no beginning":                   {`"startsAt":"2026`, `"endedAt":"2026`, `alerts[0].startsAt: "": want the time`},
		"a time that is none":            {`"startsAt":"2026`, `"startsAt":"soon2026`, "alerts[0].parsing time"},
		"a fingerprint that is none":     {`"035f53bab38afd20"`, `"../../etc/passwd"`, `alerts[0].fingerprint: "../../etc/passwd": want 16 hex digits`},
		"a negative count":               {`"truncatedAlerts":0`, `"truncatedAlerts":-1`, `truncatedAlerts: "-1": want a count`},
		"something after the end":        {`"truncatedAlerts":0}`, `"truncatedAlerts":0}{}`, "webhook body: invalid character"},
		"the end before the beginning":   {`"status":"firing","labels"`, `"status":"resolved","labels"`, `alerts[0].endsAt: "0001-01-01T00:00:00Z": want a time not before startsAt`},
		"a label value that is a number": {`"namespace":"microservices"`, `"namespace":1`, "alerts[0].json: cannot unmarshal number"},
	} {
		t.Run(name, func(t *testing.T) {
			whole := string(fixture(t, "webhook-firing.json"))
			if !strings.Contains(whole, test.old) {
				t.Fatalf("the fixture has no %s", test.old)
			}
			hook, err := ParseWebhook([]byte(strings.Replace(whole, test.old, test.new, 1)))
			if hook != nil || err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %+v, %v, want %q", hook, err, test.want)
			}
		})
	}
}

func TestOneAlertThatMakesNoSenseLosesNoOther(t *testing.T) {
	good := `{"status":"firing","labels":{"alertname":"A","guardian_guard":"orders"},"startsAt":"2026-11-24T02:35:07Z"}`
	for name, bad := range map[string]string{
		"no status":              `{"labels":{"alertname":"B"},"startsAt":"2026-11-24T02:35:07Z"}`,
		"a time that is none":    `{"status":"firing","labels":{"alertname":"B"},"startsAt":"yesterday"}`,
		"a label of a number":    `{"status":"firing","labels":{"alertname":7},"startsAt":"2026-11-24T02:35:07Z"}`,
		"null":                   `null`,
		"a number":               `7`,
		"no labels":              `{"status":"firing","startsAt":"2026-11-24T02:35:07Z"}`,
		"ended before it began":  `{"status":"resolved","labels":{"alertname":"B"},"startsAt":"2026-11-24T02:35:07Z","endsAt":"2026-11-24T02:35:06Z"}`,
		"a fingerprint of words": `{"status":"firing","labels":{"alertname":"B"},"startsAt":"2026-11-24T02:35:07Z","fingerprint":"x"}`,
	} {
		hook, err := ParseWebhook([]byte(`{"version":"4","alerts":[` + bad + "," + good + "," + bad + `]}`))
		if err != nil || len(hook.Alerts) != 1 || hook.Alerts[0].Name() != "A" || hook.Invalid != 2 || hook.Problem == nil || !strings.HasPrefix(hook.Problem.Error(), "alerts[0].") {
			t.Errorf("%s: got %+v, %v; want the good one, and what is wrong with alerts[0]", name, hook, err)
		}
		if _, err := ParseWebhook([]byte(`{"version":"4","alerts":[` + bad + `]}`)); err == nil {
			t.Errorf("%s alone is taken", name)
		}
		pushed, err := ParsePush([]byte("["+strings.ReplaceAll(bad, "resolved", "")+","+good+"]"), start)
		if name == "no status" || name == "a fingerprint of words" { // which the push lane does not have
			continue
		}
		if err == nil || len(pushed) != 1 || pushed[0].Name() != "A" {
			t.Errorf("%s, pushed: got %+v, %v", name, pushed, err)
		}
	}
}

func TestGrafanasOwnAlertingIsTaken(t *testing.T) {
	hook, err := ParseWebhook(fixture(t, "webhook-grafana.json"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Alert{
		{Labels: map[string]string{"alertname": "OrdersSlow", "grafana_folder": "shop", "guardian_guard": "orders-service", "guardian_action": "rollback", "namespace": "microservices"},
			Annotations: map[string]string{"summary": "orders are slow"}, StartsAt: at("2026-11-24T02:35:00Z"),
			GeneratorURL: "https://grafana.example/alerting/grafana/ab12/view?orgId=1", Fingerprint: "c6eadffa33fcdf37"},
		{Labels: map[string]string{"alertname": "OrdersDown", "grafana_folder": "shop"}, Annotations: map[string]string{},
			StartsAt: at("2026-11-24T02:30:00Z"), EndsAt: at("2026-11-24T02:34:00Z"), Resolved: true,
			GeneratorURL: "https://grafana.example/alerting/grafana/cd34/view?orgId=1", Fingerprint: "57c6d9296de2ad39"},
	}
	if hook.Invalid != 0 || !reflect.DeepEqual(hook.Alerts, want) {
		t.Errorf("got  %+v\nwant %+v", hook, want)
	}
}

func TestWhatAlertmanagerMayLeaveOutOrAddDoesNoHarm(t *testing.T) {
	whole := string(fixture(t, "webhook-firing.json"))
	for name, body := range map[string]string{
		"no fingerprint":         strings.Replace(whole, `"fingerprint"`, `"f"`, 1),
		"a label without value":  strings.Replace(whole, `"labels":{`, `"labels":{"empty":"",`, 1),
		"a key of a later day":   strings.Replace(whole, `{`, `{"colour":{"of":["the","day"]},`, 1),
		"no top-level status":    strings.Replace(whole, `"status":"firing",`, ``, 1),
		"another time zone":      strings.Replace(whole, "2026-11-24T02:35:07.548116123Z", "2026-11-24T03:35:07.548116123+01:00", 1),
		"a top status that lies": strings.Replace(whole, `"status":"firing"`, `"status":"resolved"`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			want, err := ParseWebhook([]byte(whole))
			if err != nil {
				t.Fatal(err)
			}
			got, err := ParseWebhook([]byte(body))
			if err != nil {
				t.Fatal(err)
			}
			if body == whole || !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
		})
	}
}

// The payload is Alertmanager's template.Data: a key that is renamed there
// must be noticed here.
func TestThePayloadHasAlertmanagersOwnKeys(t *testing.T) {
	for _, pair := range [][2]any{{payload{}, template.Data{}}, {payloadAlert{}, template.Alert{}}} {
		theirs := keysOf(pair[1])
		for _, key := range keysOf(pair[0]) {
			// These two are added by notify/webhook.Message.
			outside := []string{"version", "groupKey", "truncatedAlerts"}
			if !slices.Contains(theirs, key) && !slices.Contains(outside, key) {
				t.Errorf("%T has no %q: it has %v", pair[1], key, theirs)
			}
		}
	}
}

func keysOf(v any) []string {
	var keys []string
	for field := range reflect.TypeOf(v).Fields() {
		key, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		keys = append(keys, key)
	}
	return keys
}

func TestPushesOfARealPrometheusFireUntilTheyEnd(t *testing.T) {
	labels := labelsOf("GuardianErrorRate", "error_rate")
	labels["cluster"] = "one"
	alert := func(summary, ends string, resolved bool) []Alert {
		return []Alert{{
			Labels:       labels,
			Annotations:  map[string]string{"runbook_url": "https://example.com/runbook", "summary": summary},
			StartsAt:     at("2026-11-24T02:36:20.386Z"),
			EndsAt:       at(ends),
			GeneratorURL: "http://vm:19090/graph?g0.expr=vector%28time%28%29%29+%25+20+%3C+10&g0.tab=1",
			Fingerprint:  Fingerprint(labels),
			Resolved:     resolved,
		}}
	}
	firing := "orders-service v2: 0.3859999179840088"
	ended := "orders-service v2: 9.385999917984009"
	for name, test := range map[string]struct {
		file, now string
		want      []Alert
	}{
		"it begins":                       {"push-firing.json", "2026-11-24T02:36:20.390Z", alert(firing, "2026-11-24T02:36:28.386Z", false)},
		"just before it expires":          {"push-firing.json", "2026-11-24T02:36:28.385Z", alert(firing, "2026-11-24T02:36:28.386Z", false)},
		"at the moment when it expires":   {"push-firing.json", "2026-11-24T02:36:28.386Z", alert(firing, "2026-11-24T02:36:28.386Z", true)},
		"Prometheus says that it is over": {"push-resolved.json", "2026-11-24T02:36:30.390Z", alert(ended, "2026-11-24T02:36:30.386Z", true)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParsePush(fixture(t, test.file), at(test.now))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}

func TestAPushKeepsItsGoodAlertsAndNamesTheBad(t *testing.T) {
	good := `{"labels":{"alertname":"A"},"startsAt":"2026-11-24T11:00:00Z","endsAt":"2026-11-24T13:00:00Z"}`
	parsed := Alert{
		Labels: map[string]string{"alertname": "A"}, Fingerprint: Fingerprint(map[string]string{"alertname": "A"}),
		StartsAt: start.Add(-time.Hour), EndsAt: start.Add(time.Hour),
	}
	with := func(change func(*Alert)) []Alert {
		a := parsed
		change(&a)
		return []Alert{a}
	}
	for name, test := range map[string]struct {
		body   string
		alerts []Alert
		err    string
	}{
		"nothing":        {`[]`, []Alert{}, ""},
		"no list":        {`{}`, nil, "push body: json: cannot unmarshal object"},
		"null":           {`null`, nil, "push body: null: want a list of alerts"},
		"truncated JSON": {good[:30], nil, "push body: unexpected end of JSON input"},
		"no labels beside a good one": {`[{"labels":{"a":""}},` + good + `]`, []Alert{parsed},
			`[0].labels: "": want at least one label with a value`},
		"the end before the beginning": {`[` + good + `,` + strings.Replace(good, "13:00", "10:00", 1) + `]`, []Alert{parsed},
			`[1].endsAt: "2026-11-24T10:00:00Z": want a time not before startsAt`},
		"no end: five minutes": {`[` + strings.Replace(good, "endsAt", "e", 1) + `]`,
			with(func(a *Alert) { a.EndsAt = start.Add(5 * time.Minute) }), ""},
		"no beginning: the end": {`[` + strings.Replace(good, "startsAt", "s", 1) + `]`,
			with(func(a *Alert) { a.StartsAt = a.EndsAt }), ""},
		"no times: now, for five minutes": {`[{"labels":{"alertname":"A"}}]`,
			with(func(a *Alert) { a.StartsAt, a.EndsAt = start, start.Add(5*time.Minute) }), ""},
	} {
		t.Run(name, func(t *testing.T) {
			alerts, err := ParsePush([]byte(test.body), start)
			if !reflect.DeepEqual(alerts, test.alerts) {
				t.Errorf("got  %+v\nwant %+v", alerts, test.alerts)
			}
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("got error %v, want %q", err, test.err)
			}
		})
	}
}

func FuzzWebhook(f *testing.F) {
	for _, name := range []string{"firing", "two-firing", "firing-and-resolved", "resolved", "truncated"} {
		f.Add(fixture(f, "webhook-"+name+".json"))
	}
	f.Add([]byte(`{"version":"5"}`))
	f.Add([]byte(`{"version":"4","alerts":[{}]}`))
	f.Add([]byte(`[[[[[[[[`))
	f.Fuzz(func(t *testing.T, body []byte) {
		hook, err := ParseWebhook(body)
		if (hook == nil) == (err == nil) {
			t.Fatalf("got %v and %v: want one of the two", hook, err)
		}
		if err != nil {
			return
		}
		if !json.Valid(body) || hook.Truncated < 0 {
			t.Errorf("took %q", body)
		}
		for _, a := range hook.Alerts {
			sound(t, a)
			if !a.Resolved && !a.EndsAt.IsZero() {
				t.Errorf("a firing alert ends at %s", a.EndsAt)
			}
		}
		_, _ = NewStore(StoreOptions{}).Apply(LaneWebhook, hook.Alerts, start)
	})
}

func FuzzPush(f *testing.F) {
	for _, name := range []string{"firing", "resolved", "heartbeat"} {
		f.Add(fixture(f, "push-"+name+".json"))
	}
	f.Add([]byte(`[{"labels":{"a":"b"}}]`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, body []byte) {
		alerts, err := ParsePush(body, start)
		if alerts == nil && err == nil {
			t.Fatal("neither alerts nor an error")
		}
		for _, a := range alerts {
			sound(t, a)
			if a.Resolved == a.EndsAt.After(start) {
				t.Errorf("resolved is %v, and it ends at %s", a.Resolved, a.EndsAt)
			}
		}
		_, _ = NewStore(StoreOptions{}).Apply(LanePush, alerts, start)
	})
}

// sound checks what every parsed alert promises.
func sound(t *testing.T, a Alert) {
	t.Helper()
	if len(a.Labels) == 0 || !fingerprintFormat.MatchString(a.Fingerprint) || a.Resolved && a.EndsAt.Before(a.StartsAt) {
		t.Errorf("unsound: %+v", a)
	}
	for name, value := range a.Labels {
		if value == "" {
			t.Errorf("label %q is empty", name)
		}
	}
}
