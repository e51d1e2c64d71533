package alerting

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"testing"
	"time"

	httptransport "github.com/go-openapi/runtime/client"
	amclient "github.com/prometheus/alertmanager/api/v2/client"
	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
)

func FuzzMatchers(f *testing.F) {
	for _, text := range []string{`team="shop"`, `{team="shop", severity=~"page|crit"}`, `team!~"a.*"`, `{"ü ö"="x"}`, `a="\""`, `{}`, `a=~"("`, "a=\xff", `{a=b,}`} {
		f.Add(text, "team", "shop")
	}
	f.Fuzz(func(t *testing.T, text, name, value string) {
		m, err := ParseMatchers(text)
		if err != nil {
			_ = err.Error()
			return
		}
		labels := map[string]string{name: value}
		again, err := ParseMatchers(m.String())
		if err != nil {
			t.Fatalf("%q is spelled %q, which cannot be read: %v", text, m, err)
		}
		if again.Matches(labels) != m.Matches(labels) || again.Matches(nil) != m.Matches(nil) {
			t.Errorf("%q and %q differ about %v", text, m, labels)
		}
		if m.Matches(labels) && (!m.Selects(map[string][]string{name: {value}}) || !m.Allows(name, value)) {
			t.Errorf("%q matches %v, and does not select or allow it", text, labels)
		}
		if example, ok := m.Example(); ok != m.Matches(example) {
			t.Errorf("%q: %v is an example: %t", text, example, ok)
		}
	})
}

func FuzzRouting(f *testing.F) {
	sample, err := os.ReadFile(path.Join("..", "docs", "samples", "pager", "alertmanager.yml"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(sample), "shop")
	f.Add("route: {receiver: a, routes: [{matchers: ['a=~\"(\"']}]}\nreceivers: [{name: a}]", "x")
	f.Add("route: {receiver: a, group_wait: 1y, mute_time_intervals: [b]}\nreceivers: [{name: a, webhook_configs: [{url: '<secret>'}]}]\ntime_intervals: [{name: b, time_intervals: [{times: [{start_time: '00:00', end_time: '24:00'}]}]}]", "y")
	f.Add("inhibit_rules: [{source_match: {a: b}, target_match_re: {c: '['}, equal: [d]}]", "")
	f.Fuzz(func(t *testing.T, text, value string) {
		r, err := ParseRouting(text)
		if (r == nil) == (err == nil) {
			t.Fatalf("got %v and %v: want one of the two", r, err)
		}
		if err != nil {
			_ = err.Error()
			return
		}
		labels := map[string]string{"alertname": value, "namespace": value}
		for _, route := range r.Routes(labels) {
			_, _ = r.Receiver(route.Receiver)
			_, _ = r.Muted(route, start), route.Intervals()
		}
		for _, rule := range r.Inhibiting(labels) {
			_, _ = rule.Inhibits(labels, labels), rule.String()
		}
	})
}

// canned answers every request with the same bytes.
type canned struct {
	code int
	body []byte
}

func (c canned) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: c.code, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(c.body)), Request: r}, nil
}

// answering is a connection to a server that answers so.
func answering(code int, body []byte) *connection {
	return &connection{base: &url.URL{Scheme: "http", Host: "server"}, client: &http.Client{Transport: &bounded{canned{code, body}}}, timeout: time.Minute}
}

// What a server answers, that is or is not Prometheus, is an error or whole.
func FuzzAnswersOfPrometheus(f *testing.F) {
	for _, body := range []string{`{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"ALERTS","alertname":"A"},"value":[1732449600.1,"1"]}]}}`,
		`{"status":"success","data":{"resultType":"scalar","result":[1,"NaN"]}}`, `{"status":"success","warnings":["x"],"data":{"resultType":"matrix","result":[{"metric":{},"values":[[1e300,"1"],[2,"+Inf"]]}]}}`,
		`{"status":"error","errorType":"timeout","error":"x"}`, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"histogram":[1,{"count":"1","sum":"2","buckets":[[0,"1","2","3"]]}]}]}}`,
		`{"data":{"startTime":"2026-11-24T12:00:00Z"}}`, `{"status":"success","data":null}`, `[]`, ``, "\x00"} {
		f.Add(uint16(200), []byte(body))
		f.Add(uint16(503), []byte(body))
	}
	f.Fuzz(func(t *testing.T, code uint16, body []byte) {
		c := answering(int(code), body)
		client, err := api.NewClient(api.Config{Address: c.base.String(), Client: c.client})
		if err != nil {
			t.Fatal(err)
		}
		p := &Prometheus{connection: c, api: v1.NewAPI(client)}
		if samples, err := p.Query(t.Context(), "up"); err != nil && samples != nil {
			t.Errorf("%v beside %v", samples, err)
		}
		_, _ = p.Range(t.Context(), "up", start, start, time.Minute)
		_, _ = p.Samples(t.Context(), "up[1m]", start)
		alerts, err := p.Firing(t.Context(), Filter{MinUptime: time.Second})
		if err != nil && alerts != nil {
			t.Errorf("%v beside %v", alerts, err)
		}
		_, _ = NewStore(StoreOptions{}).Replace(LanePrometheus, alerts, start)
	})
}

// The same of Alertmanager's API.
func FuzzAnswersOfAlertmanager(f *testing.F) {
	for _, body := range []string{`[{"annotations":{},"endsAt":"2026-11-24T12:05:00.000Z","fingerprint":"1a2b3c4d5e6f7081","receivers":[{"name":"a"}],"startsAt":"2026-11-24T12:00:00.000Z","status":{"inhibitedBy":[],"mutedBy":[],"silencedBy":["x"],"state":"suppressed"},"updatedAt":"2026-11-24T12:00:00.000Z","labels":{"alertname":"A"}}]`,
		`[{}]`, `[null]`, `{"cluster":{"status":"ready"},"config":{"original":"route: {receiver: a}"},"uptime":"2026-11-24T12:00:00.000Z","versionInfo":{}}`,
		`[{"id":"x","status":{"state":"active"},"matchers":[{"name":"a","value":"(","isRegex":true}],"startsAt":"2026-11-24T12:00:00.000Z","endsAt":"2026-11-24T13:00:00.000Z","createdBy":"a","comment":"b","updatedAt":"2026-11-24T12:00:00.000Z"}]`,
		`{"status":null}`, `null`, ``, "\xff"} {
		f.Add(uint16(200), []byte(body))
		f.Add(uint16(500), []byte(body))
	}
	f.Fuzz(func(t *testing.T, code uint16, body []byte) {
		c := answering(int(code), body)
		a := &Alertmanager{connection: c, api: amclient.New(httptransport.NewWithClient(c.base.Host, "/api/v2", []string{"http"}, c.client), nil)}
		alerts, err := a.Firing(t.Context(), Filter{MinUptime: time.Second, Suppressed: true})
		if err != nil && alerts != nil {
			t.Errorf("%v beside %v", alerts, err)
		}
		if alerts, err = a.Firing(t.Context(), Filter{Suppressed: true}); err == nil {
			_, _ = NewStore(StoreOptions{}).Replace(LaneAlertmanager, alerts, start)
		}
		_, _ = a.Status(t.Context())
		_, _ = a.Silences(t.Context())
	})
}
