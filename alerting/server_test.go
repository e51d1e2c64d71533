package alerting

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// exchange sends one request and gives its status and body.
func exchange(t testing.TB, request *http.Request) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, strings.TrimSpace(string(body))
}

func post(t testing.TB, server *Server, path, authorization string, body io.Reader) *http.Request {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+server.AlertsAddr().String()+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	return request
}

func get(t testing.TB, server *Server, path string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+server.MetricsAddr().String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return exchange(t, request)
}

const (
	oneAlert  = `{"version":"4","alerts":[{"status":"firing","labels":{"alertname":"A"},"startsAt":"2026-11-24T12:00:00Z","endsAt":"0001-01-01T00:00:00Z"}]}`
	heartbeat = `{"version":"4","alerts":[{"status":"firing","labels":{"alertname":"GuardianHeartbeat"},"startsAt":"2026-11-24T12:00:00Z","endsAt":"0001-01-01T00:00:00Z"}]}`
	pushed    = `[{"labels":{"alertname":"A"},"startsAt":"2026-11-24T12:00:00Z","endsAt":"2999-01-01T00:00:00Z"}]`
	bearer    = "Bearer " + token
)

func TestEveryCallIsAnsweredByWhetherARetryHelps(t *testing.T) {
	failing := func(context.Context, Lane, []Alert) error { return errors.New("the API server is down") }
	panicking := func(context.Context, Lane, []Alert) error { panic("a bug") }
	stuck := func(ctx context.Context, _ Lane, _ []Alert) error { <-ctx.Done(); return ctx.Err() }
	accepted, failed, invalid := resultAccepted, resultFailed, resultInvalid
	for name, test := range map[string]struct {
		accept func(context.Context, Lane, []Alert) error
		path   string // default: /webhook
		auth   string // default: the right one
		body   string
		status int
		answer string
		lane   Lane
		result result // counted once
		alerts int    // that the sink kept
	}{
		"an accepted webhook":           {body: oneAlert, status: 200, answer: `{"status":"ok","accepted":1}`, result: accepted, alerts: 1},
		"an accepted push":              {path: "/api/v2/alerts", body: pushed, status: 200, answer: `{"status":"ok","accepted":1}`, lane: LanePush, result: accepted, alerts: 1},
		"a push of nothing":             {path: "/api/v2/alerts", body: `[]`, status: 200, answer: `{"status":"ok"}`},
		"a sink that fails":             {accept: failing, body: oneAlert, status: 503, answer: `{"error":"Service Unavailable"}`, result: failed},
		"a sink that fails for a push":  {accept: failing, path: "/api/v2/alerts", body: pushed, status: 503, answer: `{"error":"Service Unavailable"}`, lane: LanePush, result: failed},
		"a sink that takes too long":    {accept: stuck, body: oneAlert, status: 503, answer: `{"error":"Service Unavailable"}`, result: failed},
		"a sink with a bug":             {accept: panicking, body: oneAlert, status: 500, answer: `{"error":"Internal Server Error"}`, result: failed},
		"no token":                      {auth: "none", body: oneAlert, status: 401, answer: `{"error":"Unauthorized"}`, result: resultUnauthorized},
		"a wrong token":                 {auth: "Bearer wrong", body: oneAlert, status: 401, answer: `{"error":"Unauthorized"}`, result: resultUnauthorized},
		"the token as basic auth":       {auth: "Basic " + token, body: oneAlert, status: 401, answer: `{"error":"Unauthorized"}`, result: resultUnauthorized},
		"the beginning of the token":    {auth: bearer[:len(bearer)-1], body: oneAlert, status: 401, answer: `{"error":"Unauthorized"}`, result: resultUnauthorized},
		"a wrong token for a push":      {path: "/api/v2/alerts", auth: "Bearer wrong", body: pushed, status: 401, answer: `{"error":"Unauthorized"}`, lane: LanePush, result: resultUnauthorized},
		"the scheme in small letters":   {auth: "bearer " + token, body: oneAlert, status: 200, answer: `{"status":"ok","accepted":1}`, result: accepted, alerts: 1},
		"10 MB":                         {body: strings.Repeat(" ", 10<<20), status: 413, answer: `{"error":"Request Entity Too Large"}`, result: resultTooLarge},
		"10 MB pushed":                  {path: "/api/v2/alerts", body: strings.Repeat(" ", 10<<20), status: 413, answer: `{"error":"Request Entity Too Large"}`, lane: LanePush, result: resultTooLarge},
		"exactly the limit":             {body: oneAlert + strings.Repeat(" ", DefaultMaxBody-len(oneAlert)), status: 200, answer: `{"status":"ok","accepted":1}`, result: accepted, alerts: 1},
		"one byte over the limit":       {body: oneAlert + strings.Repeat(" ", DefaultMaxBody-len(oneAlert)+1), status: 413, answer: `{"error":"Request Entity Too Large"}`, result: resultTooLarge},
		"truncated JSON":                {body: oneAlert[:len(oneAlert)/2], status: 400, answer: `{"error":"Bad Request"}`, result: invalid},
		"truncated JSON pushed":         {path: "/api/v2/alerts", body: pushed[:len(pushed)/2], status: 400, answer: `{"error":"Bad Request"}`, lane: LanePush, result: invalid},
		"an empty body":                 {body: "", status: 400, answer: `{"error":"Bad Request"}`, result: invalid},
		"version 5":                     {body: strings.Replace(oneAlert, `"4"`, `"5"`, 1), status: 400, answer: `{"error":"Bad Request"}`, result: resultVersion},
		"a status that is neither":      {body: strings.Replace(oneAlert, `"firing"`, `"pending"`, 1), status: 400, answer: `{"error":"Bad Request"}`, result: invalid},
		"truncated without a refresher": {body: strings.Replace(oneAlert, `{`, `{"truncatedAlerts":3,`, 1), status: 200, answer: `{"status":"ok","accepted":1,"truncated":3}`, result: accepted, alerts: 1},
		"another path":                  {path: "/alerts", body: oneAlert, status: 404, answer: `{"error":"Not Found"}`},
	} {
		t.Run(name, func(t *testing.T) {
			kept := &sink{accept: test.accept}
			opts, _ := options(t, kept)
			opts.SinkTimeout = 50 * time.Millisecond // only the stuck sink reaches it
			if test.accept == nil {
				opts.SinkTimeout = time.Minute
			}
			opts.ReadTimeout = time.Minute
			server := run(t, opts)
			path, auth := test.path, test.auth
			if path == "" {
				path = "/webhook"
			}
			switch auth {
			case "":
				auth = bearer
			case "none":
				auth = ""
			}
			status, answer := exchange(t, post(t, server, path, auth, strings.NewReader(test.body)))
			if status != test.status || answer != test.answer {
				t.Errorf("got %d %s, want %d %s", status, answer, test.status, test.answer)
			}
			alerts := 0
			for _, call := range kept.accepted() {
				alerts += len(call.alerts)
			}
			if alerts != test.alerts {
				t.Errorf("the sink kept %d alerts, want %d", alerts, test.alerts)
			}
			if test.result != "" {
				lane := test.lane
				if lane == "" {
					lane = LaneWebhook
				}
				counter := opts.MetricSet.received.WithLabelValues(string(lane), string(test.result))
				if n := testutil.ToFloat64(counter); n != 1 {
					t.Errorf("%s, %s counted %v, want 1", lane, test.result, n)
				}
			}
		})
	}
}

// TestWhatASenderGivesUpHasAllListed: its alerts do not come again by themselves.
func TestWhatASenderGivesUpHasAllListed(t *testing.T) {
	failing := func(context.Context, Lane, []Alert) error { return errors.New("the API server is down") }
	const limit = 1 << 10
	tooLong := func() io.Reader { return strings.NewReader(strings.Repeat(" ", limit+1)) }
	for name, test := range map[string]struct {
		accept     func(context.Context, Lane, []Alert) error
		path, auth string
		body       io.Reader
		status     int
		listed     int
	}{
		"a call over the limit":                 {path: "/webhook", auth: bearer, body: tooLong(), status: 413, listed: 1},
		"a push over the limit":                 {path: "/api/v2/alerts", auth: bearer, body: tooLong(), status: 413, listed: 1},
		"a body that is cut off":                {path: "/webhook", auth: bearer, body: strings.NewReader(oneAlert[:20]), status: 400, listed: 1},
		"a payload of another version":          {path: "/webhook", auth: bearer, body: strings.NewReader(strings.Replace(oneAlert, `"4"`, `"5"`, 1)), status: 400, listed: 1},
		"a push that is cut off":                {path: "/api/v2/alerts", auth: bearer, body: strings.NewReader(pushed[:20]), status: 400, listed: 1},
		"a call over the limit without proof":   {path: "/webhook", auth: "Bearer wrong", body: tooLong(), status: 401},
		"a push over the limit without proof":   {path: "/api/v2/alerts", body: tooLong(), status: 401},
		"what is taken":                         {path: "/webhook", auth: bearer, body: strings.NewReader(oneAlert), status: 200},
		"what fails, which is sent once more":   {accept: failing, path: "/webhook", auth: bearer, body: strings.NewReader(oneAlert), status: 503},
		"a call over the limit of no such path": {path: "/alerts", auth: bearer, body: tooLong(), status: 404},
	} {
		t.Run(name, func(t *testing.T) {
			opts, _ := options(t, &sink{accept: test.accept})
			opts.ReadTimeout, opts.SinkTimeout, opts.MaxBody = time.Minute, time.Minute, limit
			var listed atomic.Int32
			opts.List = func() { listed.Add(1) }
			status, _ := exchange(t, post(t, run(t, opts), test.path, test.auth, test.body))
			if n := int(listed.Load()); status != test.status || n != test.listed {
				t.Errorf("answered %d, listed %d times; want %d and %d", status, n, test.status, test.listed)
			}
		})
	}
}

func TestAWrongMethodIsNoMatchForAWebhook(t *testing.T) {
	opts, _ := options(t, &sink{})
	server := run(t, opts)
	request := post(t, server, "/webhook", bearer, nil)
	request.Method = http.MethodGet
	if status, body := exchange(t, request); status != http.StatusMethodNotAllowed {
		t.Errorf("got %d %s, want 405", status, body)
	}
}

func TestABodyThatComesTooSlowlyIsToBeSentAgain(t *testing.T) {
	opts, _ := options(t, &sink{})
	opts.ReadTimeout = 50 * time.Millisecond
	server := run(t, opts)
	body, unfinished := io.Pipe()
	defer unfinished.Close()
	go func() { _, _ = unfinished.Write([]byte(oneAlert[:20])) }() // and nothing more
	request := post(t, server, "/webhook", bearer, body)
	request.ContentLength = int64(len(oneAlert))
	if status, answer := exchange(t, request); status != http.StatusServiceUnavailable {
		t.Errorf("got %d %s, want 503", status, answer)
	}
}

func TestAfterAFailureTheNextTryIsOnAConnectionOfItsOwn(t *testing.T) {
	fails := true
	kept := &sink{accept: func(context.Context, Lane, []Alert) error {
		if fails {
			return errors.New("the API server is down")
		}
		return nil
	}}
	opts, _ := options(t, kept)
	server := run(t, opts)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	reused := func() (again bool) {
		request := post(t, server, "/webhook", bearer, strings.NewReader(oneAlert))
		trace := &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { again = c.Reused }}
		response, err := transport.RoundTrip(request.WithContext(httptrace.WithClientTrace(t.Context(), trace)))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			t.Fatal(err)
		}
		return again
	}
	reused()
	if reused() {
		t.Error("the connection of a call that failed was used again: it leads to the same replica")
	}
	fails = false
	reused()
	if !reused() {
		t.Error("the connection of a call that was accepted was not used again")
	}
}

func TestOneBadAlertOfAPushDoesNotLoseTheOthers(t *testing.T) {
	kept := &sink{}
	opts, _ := options(t, kept)
	server := run(t, opts)
	body := `[{"labels":{}},` + pushed[1:]
	status, answer := exchange(t, post(t, server, "/api/v2/alerts", bearer, strings.NewReader(body)))
	if status != http.StatusBadRequest {
		t.Errorf("got %d %s, want 400", status, answer)
	}
	if calls := kept.accepted(); len(calls) != 1 || len(calls[0].alerts) != 1 || calls[0].alerts[0].Name() != "A" {
		t.Errorf("the sink kept %+v, want the one good alert", calls)
	}
}

func TestAlertsThatAlertmanagerLeftOutAreListed(t *testing.T) {
	truncated := strings.Replace(oneAlert, `{`, `{"truncatedAlerts":3,`, 1)
	for name, test := range map[string]struct {
		refresh error
		status  int
	}{
		"the list could be had":          {nil, 200},
		"no list, so the call must come": {errors.New("no answer"), 503},
	} {
		t.Run(name, func(t *testing.T) {
			opts, _ := options(t, &sink{})
			asked := 0
			opts.Refresh = func(context.Context) error { asked++; return test.refresh }
			server := run(t, opts)
			status, answer := exchange(t, post(t, server, "/webhook", bearer, strings.NewReader(truncated)))
			if status != test.status || asked != 1 {
				t.Errorf("got %d %s after %d listings, want %d after 1", status, answer, asked, test.status)
			}
			counter := opts.MetricSet.received.WithLabelValues("webhook", "truncated")
			if n := testutil.ToFloat64(counter); n != 3 {
				t.Errorf("truncated counted %v, want 3", n)
			}
		})
	}
}

func TestANewTokenHoldsFromItsFirstUse(t *testing.T) {
	opts, _ := options(t, &sink{})
	server := run(t, opts)
	try := func(authorization string, want int) {
		t.Helper()
		if status, _ := exchange(t, post(t, server, "/webhook", authorization, strings.NewReader(oneAlert))); status != want {
			t.Errorf("with %q: got %d, want %d", authorization, status, want)
		}
	}
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(opts.TokenFile, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	try(bearer, 200)
	write("next\n" + token + "\n")
	try(bearer, 200)
	try("Bearer next", 200)
	write("next\n")
	try(bearer, 401)
	try("Bearer next", 200)
	write("\n \n") // nobody is let in, and everybody is to try again
	try("Bearer next", 503)
	try("Bearer ", 503)
	if err := os.Remove(opts.TokenFile); err != nil {
		t.Fatal(err)
	}
	try("Bearer next", 503)
}

func TestTheHeartbeatIsNotedOnceTheSinkHasIt(t *testing.T) {
	ok := false
	opts, _ := options(t, &sink{accept: func(context.Context, Lane, []Alert) error {
		if !ok {
			return errors.New("not now")
		}
		return nil
	}})
	opts.Now = func() time.Time { return start }
	opts.OwnHeartbeat = func(_ Lane, labels map[string]string) bool { return labels["guardian_instance"] != "another" }
	server := run(t, opts)
	send := func(body string) {
		exchange(t, post(t, server, "/webhook", bearer, strings.NewReader(body)))
	}
	send(heartbeat)
	if at := server.Heartbeat(); !at.IsZero() {
		t.Errorf("a heartbeat that the sink refused was noted at %s", at)
	}
	ok = true
	send(oneAlert)
	send(strings.NewReplacer(`"firing"`, `"resolved"`, "0001-01-01", "2026-11-25").Replace(heartbeat))
	send(strings.Replace(heartbeat, `"labels":{`, `"labels":{"guardian_instance":"another",`, 1))
	if at := server.Heartbeat(); !at.IsZero() {
		t.Errorf("something else was noted as heartbeat at %s", at)
	}
	send(heartbeat)
	if at := server.Heartbeat(); !at.Equal(start) {
		t.Errorf("heartbeat at %s, want %s", at, start)
	}
	if at := testutil.ToFloat64(opts.MetricSet.heartbeat.WithLabelValues("webhook")); at != float64(start.Unix()) {
		t.Errorf("metric is %v, want %v", at, start.Unix())
	}
}

func TestQuestionsAreAnsweredOnTheMetricsPort(t *testing.T) {
	broken := func(o *ServerOptions) { o.Guards = guards{errors.New("secret detail")} }
	unready := func(o *ServerOptions) {
		o.Ready = func(context.Context) error { return errors.New("secret detail") }
	}
	lacking := func(o *ServerOptions) {
		o.Ready = func(context.Context) error { return &MissingError{Names: []string{"pods", "services"}} }
	}
	for name, test := range map[string]struct {
		with   func(*ServerOptions)
		path   string
		status int
		answer string
	}{
		"not ready, with what it lacks": {with: lacking, path: "/readyz", status: 503, answer: `{"error":"Service Unavailable","missing":["pods","services"]}`},
		"alive":                         {path: "/healthz", status: 200, answer: `{"status":"ok"}`},
		"alive though not ready":        {with: unready, path: "/healthz", status: 200, answer: `{"status":"ok"}`},
		"ready":                         {path: "/readyz", status: 200, answer: `{"status":"ready"}`},
		"not ready":                     {with: unready, path: "/readyz", status: 503, answer: `{"error":"Service Unavailable"}`},
		"all guards":                    {path: "/api/v1/guards", status: 200, answer: `[{"name":"orders-service"},{"name":"payments-service"}]`},
		"one guard":                     {path: "/api/v1/guards/orders-service", status: 200, answer: `{"name":"orders-service"}`},
		"a guard that is not there":     {path: "/api/v1/guards/nobody", status: 404, answer: `{"error":"Not Found"}`},
		"guards that cannot be read":    {with: broken, path: "/api/v1/guards", status: 500, answer: `{"error":"Internal Server Error"}`},
		"a guard that cannot be read":   {with: broken, path: "/api/v1/guards/orders-service", status: 500, answer: `{"error":"Internal Server Error"}`},
		"the webhook is elsewhere":      {path: "/webhook", status: 404, answer: `{"error":"Not Found"}`},
	} {
		t.Run(name, func(t *testing.T) {
			opts, _ := options(t, &sink{})
			if test.with != nil {
				test.with(&opts)
			}
			status, answer := get(t, run(t, opts), test.path)
			if status != test.status || answer != test.answer {
				t.Errorf("got %d %s, want %d %s", status, answer, test.status, test.answer)
			}
		})
	}
}

func TestMetricsAreThereAtZeroFromTheStart(t *testing.T) {
	opts, _ := options(t, &sink{})
	_, text := get(t, run(t, opts), "/metrics")
	for _, lane := range []Lane{LaneWebhook, LanePush} {
		for _, result := range results {
			want := fmt.Sprintf("guardian_alerts_received_total{lane=%q,result=%q} 0", lane, result)
			if !strings.Contains(text, want) {
				t.Errorf("no %s", want)
			}
		}
	}
	for _, want := range []string{`guardian_heartbeat_timestamp_seconds{lane="webhook"} 0`, `guardian_auth_failures_total{proof="basic"} 0`, "guardian_alert_age_seconds_count 0"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	if problems, err := testutil.GatherAndLint(opts.Gatherer); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}

func TestRunFinishesTheCallsInFlight(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	opts, _ := options(t, &sink{accept: func(context.Context, Lane, []Alert) error {
		close(entered)
		<-release
		return nil
	}})
	server, err := NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	status := make(chan int, 1)
	request := post(t, server, "/webhook", bearer, strings.NewReader(oneAlert))
	go func() { s, _ := exchange(t, request); status <- s }()
	<-entered
	cancel()
	for { // until the port is closed
		conn, err := net.Dial("tcp", server.AlertsAddr().String())
		if err != nil {
			break
		}
		conn.Close()
	}
	if code, _ := get(t, server, "/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("readyz while stopping: got %d, want 503", code)
	}
	select {
	case err := <-ended:
		t.Fatalf("Run returned %v before the call was answered", err)
	default:
	}
	close(release)
	if got := <-status; got != http.StatusOK {
		t.Errorf("the call in flight got %d, want 200", got)
	}
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestRunDoesNotWaitForeverForACallInFlight(t *testing.T) {
	entered := make(chan struct{})
	opts, _ := options(t, &sink{accept: func(ctx context.Context, _ Lane, _ []Alert) error {
		close(entered)
		<-ctx.Done() // cut off by the server
		return ctx.Err()
	}})
	opts.SinkTimeout, opts.ShutdownTimeout = time.Hour, time.Millisecond
	server, err := NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	request := post(t, server, "/webhook", bearer, strings.NewReader(oneAlert))
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if response, err := http.DefaultTransport.RoundTrip(request); err == nil {
			response.Body.Close()
		}
	}()
	<-entered
	cancel()
	if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Run: %v, want that a call was still unanswered", err)
	}
	<-gone
}

func TestAPortInUseEndsListenAndLeavesNothingOpen(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	opts, _ := options(t, &sink{})
	opts.MetricsAddress = taken.Addr().String()
	server, err := NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "open metrics port") {
		t.Errorf("Run: %v, want that the metrics port is taken", err)
	}
}

func TestOptionsThatCannotWorkAreRefused(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*ServerOptions)
		want   string
	}{
		"no token file there":   {func(o *ServerOptions) { o.TokenFile += ".missing" }, "read token file"},
		"an empty token file":   {func(o *ServerOptions) { _ = os.WriteFile(o.TokenFile, nil, 0o600) }, "empty: want one token on a line"},
		"nobody kept out":       {func(o *ServerOptions) { o.TokenFile = "" }, "nobody would be kept out"},
		"no sink and no guards": {func(o *ServerOptions) { o.Sink, o.Guards = nil, nil }, "server option Guards: missing"},
		"an endless token file": {func(o *ServerOptions) {
			_ = os.WriteFile(o.TokenFile, bytes.Repeat([]byte("x"), maxTokenFile+1), 0o600)
		}, "over 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			opts, _ := options(t, &sink{})
			test.change(&opts)
			if _, err := NewServer(opts); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
