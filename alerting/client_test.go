package alerting

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/common/config"
)

// serve answers every request by handle, until the test ends.
func serve(t *testing.T, handle http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handle)
	t.Cleanup(server.Close)
	return server.URL
}

func answers(content string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, content)
	}
}

func alertmanager(t *testing.T, opts ClientOptions) *Alertmanager {
	t.Helper()
	client, err := NewAlertmanager(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func prometheusAt(t *testing.T, opts ClientOptions) *Prometheus {
	t.Helper()
	client, err := NewPrometheus(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func mustParse(t *testing.T, expressions ...string) Matchers {
	t.Helper()
	matchers, err := ParseMatchers(expressions...)
	if err != nil {
		t.Fatal(err)
	}
	return matchers
}

// gettable is one alert of Alertmanager's API.
func gettable(name, state string) string {
	return fmt.Sprintf(`{"labels":{"alertname":%q},"annotations":{},"startsAt":"2026-11-24T12:00:00.123Z","endsAt":"2026-11-24T12:04:00.000Z",
		"updatedAt":"2026-11-24T12:00:00.000Z","fingerprint":%q,"generatorURL":"http://p/graph","receivers":[{"name":"guardian"}],
		"status":{"state":%q,"silencedBy":[],"inhibitedBy":[],"mutedBy":[]}}`,
		name, Fingerprint(map[string]string{"alertname": name}), state)
}

func TestAlertmanagerIsAskedForWhatIsWanted(t *testing.T) {
	guardian, users := mustParse(t, `guardian="true"`), mustParse(t, `team="shop"`, `severity=~"page|crit"`)
	for name, test := range map[string]struct {
		filter Filter
		want   []string // the queries
		names  string
	}{
		"everything that is heard": {Filter{}, []string{"active=true&inhibited=false&silenced=false&unprocessed=true"}, "A New"},
		"silenced ones too": {Filter{Suppressed: true},
			[]string{"active=true&inhibited=true&silenced=true&unprocessed=true"}, "A Muted~ New"},
		"guardian's own and the users', each once": {Filter{Any: []Matchers{guardian, users, guardian, users}}, []string{
			`active=true&filter=guardian="true"&inhibited=false&silenced=false&unprocessed=true`,
			`active=true&filter=team="shop"&filter=severity=~"page|crit"&inhibited=false&silenced=false&unprocessed=true`,
		}, "A New"},
	} {
		t.Run(name, func(t *testing.T) {
			var queries []string
			base := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/prefix/api/v2/alerts" {
					t.Errorf("asked %s", r.URL.Path)
				}
				query, _ := url.QueryUnescape(r.URL.RawQuery)
				queries = append(queries, query)
				answers("["+gettable("New", "unprocessed")+","+gettable("A", "active")+","+gettable("Muted", "suppressed")+"]")(w, r)
			})
			alerts, err := alertmanager(t, ClientOptions{URL: base + "/prefix/"}).Firing(t.Context(), test.filter)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(queries, test.want) {
				t.Errorf("asked %q\nwant  %q", queries, test.want)
			}
			names := map[string]bool{}
			for _, a := range alerts {
				name := a.Name()
				if a.Suppressed {
					name += "~"
				}
				names[name] = true
				if !a.StartsAt.Equal(start.Add(123*time.Millisecond)) || !a.EndsAt.IsZero() || a.Resolved {
					t.Errorf("%+v: want one that fires since 12:00:00.123", a)
				}
			}
			want := map[string]bool{}
			for _, name := range strings.Fields(test.names) {
				want[name] = true
			}
			if !reflect.DeepEqual(names, want) || len(alerts) != len(want) {
				t.Errorf("got %v, want %v", names, want)
			}
		})
	}
}

func TestAnAlertmanagerThatHasJustStartedIsNotBelieved(t *testing.T) {
	for name, test := range map[string]struct {
		up   time.Duration
		want string
	}{
		"up for a second": {time.Second, "up for 1s: want 2m0s before its list is taken as complete"},
		"up for an hour":  {time.Hour, ""},
	} {
		t.Run(name, func(t *testing.T) {
			base := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/api/v2/status" {
					answers(fmt.Sprintf(`{"uptime":%q}`, time.Now().Add(-test.up).Format(time.RFC3339Nano)))(w, r)
					return
				}
				answers("[]")(w, r)
			})
			_, err := alertmanager(t, ClientOptions{URL: base}).Firing(t.Context(), Filter{MinUptime: 2 * time.Minute})
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if errors.Is(err, ErrYoung) != (test.want != "") {
				t.Errorf("%v is ErrYoung: %v", err, errors.Is(err, ErrYoung))
			}
		})
	}
}

func TestAPrometheusThatHasJustStartedIsNotBelieved(t *testing.T) {
	vector := answers(`{"status":"success","data":{"resultType":"vector","result":[]}}`)
	for name, test := range map[string]struct {
		status http.HandlerFunc
		want   string
	}{
		"up for a second":                    {answers(fmt.Sprintf(`{"data":{"startTime":%q}}`, time.Now().Add(-time.Second).Format(time.RFC3339))), "before its list is taken as complete"},
		"up for an hour":                     {answers(fmt.Sprintf(`{"data":{"startTime":%q}}`, time.Now().Add(-time.Hour).Format(time.RFC3339))), ""},
		"something else that speaks its API": {http.NotFound, ""},
		"an error":                           {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, "503 Service Unavailable"},
		"no JSON":                            {answers("hello"), "invalid character"},
	} {
		t.Run(name, func(t *testing.T) {
			base := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/prefix/api/v1/status/runtimeinfo" {
					test.status(w, r)
					return
				}
				vector(w, r)
			})
			_, err := prometheusAt(t, ClientOptions{URL: base + "/prefix"}).Firing(t.Context(), Filter{MinUptime: 2 * time.Minute})
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestNoAnswerIsNeverTakenForNothingFiring(t *testing.T) {
	status := func(code int, content string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(code)
			_, _ = io.WriteString(w, content)
		}
	}
	for name, test := range map[string]struct {
		handle http.HandlerFunc
		want   string // after the first words, for Alertmanager
	}{
		"an internal error":      {status(500, `"disk on fire"`), "disk on fire"},
		"a proxy's error page":   {status(502, `<html>bad gateway</html>`), "502"},
		"no JSON":                {answers(`hello`), "invalid character"},
		"nothing at all":         {answers(``), "no list"},
		"nothing":                {answers(`null`), "no list"},
		"half an answer":         {answers(`[{"labels":{"alertname":"A"}`), "unexpected"},
		"an alert without start": {answers(`[{"labels":{"alertname":"A"}}]`), `[0].startsAt: "": want the time`},
		"an alert without label": {answers(`[{}]`), `[0].labels: "": want at least one label`},
		"a redirect to nowhere": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://admin:hunter2@127.0.0.1:1/secret?token=hunter2", http.StatusFound)
		}, "connection refused"},
		"no end": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			spaces := strings.Repeat(" ", 1<<20)
			for range maxAnswer>>20 + 1 {
				_, _ = io.WriteString(w, spaces)
			}
			_, _ = io.WriteString(w, "[]")
		}, "over 33554432 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			base := strings.Replace(serve(t, test.handle), "http://", "http://admin:hunter2@", 1)
			_, err := alertmanager(t, ClientOptions{URL: base, Timeout: time.Minute}).Firing(t.Context(), Filter{})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Alertmanager: got %v, want %q", err, test.want)
			}
			if _, err := alertmanager(t, ClientOptions{URL: base, Timeout: time.Minute}).Silences(t.Context()); test.want == "no list" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("Alertmanager's silences: got %v, want %q", err, test.want)
			}
			_, promErr := prometheusAt(t, ClientOptions{URL: base, Timeout: time.Minute}).Firing(t.Context(), Filter{})
			if promErr == nil {
				t.Error("Prometheus: no error")
			}
			for _, err := range []error{err, promErr} {
				if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "admin")) {
					t.Errorf("the error tells secrets: %v", err)
				}
			}
		})
	}
}

func TestAQuestionEndsAtItsTimeout(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else the server does not notice that the client has gone
		<-r.Context().Done()
	}
	opts := ClientOptions{URL: serve(t, hang), Timeout: 10 * time.Millisecond}
	for _, lister := range []Lister{alertmanager(t, opts), prometheusAt(t, opts)} {
		if _, err := lister.Firing(t.Context(), Filter{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%T: got %v, want that the deadline has passed", lister, err)
		}
	}
}

// slow answers after a while, by the bubble's clock.
type slow struct {
	takes  time.Duration
	answer string
}

func (s slow) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-r.Context().Done():
		return nil, r.Context().Err()
	case <-time.After(s.takes):
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(s.answer)), Request: r}, nil
}

func TestManySelectionsDoNotShareOneTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := ClientOptions{URL: "http://nowhere", Timeout: 5 * time.Second}
		filter := Filter{Any: []Matchers{mustParse(t, `a="1"`), mustParse(t, `b="1"`), mustParse(t, `c="1"`)}}
		am, prom := alertmanager(t, opts), prometheusAt(t, opts)
		am.client.Transport.(*bounded).next = slow{3 * time.Second, "[]"}
		if _, err := am.Firing(t.Context(), filter); err != nil {
			t.Errorf("Alertmanager: %v", err)
		}
		prom.client.Transport.(*bounded).next = slow{3 * time.Second, `{"status":"success","data":{"resultType":"vector","result":[]}}`}
		if _, err := prom.Firing(t.Context(), filter); err != nil {
			t.Errorf("Prometheus: %v", err)
		}
		am.client.Transport.(*bounded).next = slow{6 * time.Second, "[]"}
		began := time.Now()
		if _, err := am.Firing(t.Context(), filter); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 5*time.Second {
			t.Errorf("one that takes longer: %v after %v", err, time.Since(began))
		}
	})
}

func TestCredentialsAreSentAndNeverShown(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	fileAuth := config.DefaultHTTPClientConfig
	fileAuth.Authorization = &config.Authorization{Type: "Bearer", CredentialsFile: file}
	for name, test := range map[string]struct {
		user string
		http *config.HTTPClientConfig
		want string
	}{
		"in the URL":     {"admin:hunter2@", nil, "Basic YWRtaW46aHVudGVyMg=="},
		"in a file":      {"", &fileAuth, "Bearer from-file"},
		"none of either": {"", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var got string
			base := serve(t, func(w http.ResponseWriter, r *http.Request) {
				got = r.Header.Get("Authorization")
				answers("[]")(w, r)
			})
			opts := ClientOptions{URL: strings.Replace(base, "http://", "http://"+test.user, 1), HTTP: test.http}
			if _, err := alertmanager(t, opts).Firing(t.Context(), Filter{}); err != nil {
				t.Fatal(err)
			}
			if got != test.want {
				t.Errorf("sent %q, want %q", got, test.want)
			}
		})
	}
}

func TestClientOptionsThatCannotWorkAreRefused(t *testing.T) {
	both := config.DefaultHTTPClientConfig
	both.BasicAuth = &config.BasicAuth{Username: "a"}
	both.BearerTokenFile = "/nowhere"
	for name, test := range map[string]struct {
		opts ClientOptions
		want string
	}{
		"no URL":          {ClientOptions{}, "want http://host:port or https://host:port"},
		"no scheme":       {ClientOptions{URL: "prometheus:9090"}, "want http://host:port or https://host:port"},
		"another scheme":  {ClientOptions{URL: "ftp://admin:hunter2@p"}, `URL "ftp://p": want http://`},
		"a broken URL":    {ClientOptions{URL: "http://admin:hunter2@[::1"}, "not a URL: want http://host:port"},
		"a broken port":   {ClientOptions{URL: "http://admin:hunt/er2hunter2@p"}, "not a URL: want http://host:port"},
		"a query":         {ClientOptions{URL: "http://p/?token=hunter2"}, `query or fragment beside host "p": want neither`},
		"two credentials": {ClientOptions{URL: "http://p", HTTP: &both}, "at most one of"},
	} {
		t.Run(name, func(t *testing.T) {
			_, amErr := NewAlertmanager(test.opts)
			_, promErr := NewPrometheus(test.opts)
			for _, err := range []error{amErr, promErr} {
				if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("got %v, want %q", err, test.want)
				}
			}
		})
	}
}

func TestAQueryGivesNumbersOrAnError(t *testing.T) {
	vector := func(results string) string {
		return `{"status":"success","data":{"resultType":"vector","result":[` + results + `]}}`
	}
	for name, test := range map[string]struct {
		answer string
		want   string
		err    string
	}{
		"no data":          {vector(``), "[]", ""},
		"two samples":      {vector(`{"metric":{"a":"1"},"value":[1795521600,"0.5"]},{"metric":{"__name__":"up"},"value":[1795521600,"+Inf"]}`), "[map[a:1] 0.5 map[__name__:up] +Inf]", ""},
		"not a number":     {vector(`{"metric":{},"value":[1795521600,"NaN"]}`), "[map[] NaN]", ""},
		"a scalar":         {`{"status":"success","data":{"resultType":"scalar","result":[1795521600,"3"]}}`, "[map[] 3]", ""},
		"a matrix":         {`{"status":"success","data":{"resultType":"matrix","result":[]}}`, "", "result is a matrix: want an instant vector or a scalar"},
		"success alone":    {`{"status":"success"}`, "", "result is nothing: want an instant vector or a scalar"},
		"no vector":        {`{"status":"success","data":{"resultType":"vector","result":null}}`, "", "no list in its answer"},
		"no scalar":        {`{"status":"success","data":{"resultType":"scalar","result":null}}`, "", "error parsing sample value"},
		"a partial answer": {`{"status":"success","warnings":["store-1 cannot be reached"],"data":{"resultType":"vector","result":[]}}`, "", "incomplete answer: store-1 cannot be reached"},
		"a remark":         {`{"status":"success","warnings":["PromQL warning: bucket"],"infos":["PromQL info: x"],"data":{"resultType":"vector","result":[]}}`, "[]", ""},
		"a wrong query":    {`{"status":"error","errorType":"bad_data","error":"parse error"}`, "", "parse error"},
		"a histogram":      {vector(`{"metric":{"a":"1"},"histogram":[1795521600,{"count":"1","sum":"1","buckets":[]}]}`), "", "is a native histogram: want a number"},
	} {
		t.Run(name, func(t *testing.T) {
			samples, err := prometheusAt(t, ClientOptions{URL: serve(t, answers(test.answer))}).Query(t.Context(), "x")
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Fatalf("got %v, want %q", err, test.err)
			}
			words := []string{}
			for _, s := range samples {
				words = append(words, fmt.Sprint(s.Labels, " ", s.Value))
				if !s.At.Equal(start) && !math.IsNaN(s.Value) {
					t.Errorf("at %s, want %s", s.At, start)
				}
			}
			if got := fmt.Sprint(words); err == nil && got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestAlertsOfPrometheusComeWithTheirBeginning(t *testing.T) {
	var queries []string
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		queries = append(queries, r.Form.Get("query"))
		answers(`{"status":"success","data":{"resultType":"vector","result":[
			{"metric":{"__name__":"ALERTS_FOR_STATE","alertname":"A","guardian":"true"},"value":[1795521660,"1795521600"]},
			{"metric":{"alertname":"B","alertstate":"firing","guardian":"true"},"value":[1795521660,"0"]}]}}`)(w, r)
	})
	alerts, err := prometheusAt(t, ClientOptions{URL: base}).Firing(t.Context(), Filter{Any: []Matchers{mustParse(t, `guardian="true"`)}})
	if err != nil {
		t.Fatal(err)
	}
	a, b := map[string]string{"alertname": "A", "guardian": "true"}, map[string]string{"alertname": "B", "guardian": "true"}
	want := []Alert{{Labels: b, Fingerprint: Fingerprint(b)}, {Labels: a, Fingerprint: Fingerprint(a), StartsAt: start}}
	if !reflect.DeepEqual(alerts, want) {
		t.Errorf("got  %+v\nwant %+v", alerts, want)
	}
	const query = `(ALERTS_FOR_STATE and ignoring(alertstate) ALERTS{guardian="true",alertstate="firing"})` +
		` or ignoring(alertstate) (ALERTS{guardian="true",alertstate="firing"} * 0)`
	if len(queries) != 1 || queries[0] != query {
		t.Errorf("asked %q\nwant  %q", queries, query)
	}
	if _, err := prometheusAt(t, ClientOptions{URL: base}).Firing(t.Context(), Filter{Pending: true}); err != nil || !strings.Contains(queries[1], `ALERTS{alertstate=~"firing|pending"}`) {
		t.Errorf("those that are pending too: %v, asked %q", err, queries[1:])
	}
}
