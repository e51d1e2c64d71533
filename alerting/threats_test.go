package alerting

import (
	"bufio"
	"context"
	"errors"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"testing"
	"time"
)

// reuses says whether the second of two such calls comes by the connection of the first.
func reuses(t *testing.T, request func() *http.Request) (again bool) {
	t.Helper()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for range 2 {
		trace := &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { again = c.Reused }}
		response, err := transport.RoundTrip(request().WithContext(httptrace.WithClientTrace(t.Context(), trace)))
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, response.Body)
		if response.Body.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return again
}

// A connection that has been answered may stay for minutes, as Alertmanager's does: not
// that of somebody who could open thousands.
func TestWhoHasNotProvenWhoTheyAreKeepsNoConnection(t *testing.T) {
	opts, _ := options(t, &sink{})
	server := run(t, opts)
	basic, _ := options(t, &sink{})
	basic.TokenFile, basic.WebConfigFile = "", webConfig(t, basicUsers)
	protected := run(t, basic)
	for name, c := range map[string]struct {
		server        *Server
		path          string
		authorization string
		kept          bool
	}{
		"no token":                      {server, "/webhook", "", false},
		"a wrong token":                 {server, "/webhook", "Bearer wrong", false},
		"a wrong token, push":           {server, "/api/v2/alerts", "Bearer wrong", false},
		"no such path":                  {server, "/", "", false},
		"the token":                     {server, "/webhook", bearer, true},
		"no password":                   {protected, "/webhook", "", false},
		"a path that is not, by basic":  {protected, "/", "", false},
		"the token, and basic is asked": {protected, "/webhook", bearer, false},
	} {
		if got := reuses(t, func() *http.Request {
			return post(t, c.server, c.path, c.authorization, strings.NewReader(oneAlert))
		}); got != c.kept {
			t.Errorf("%s: the connection was used again: %t, want %t", name, got, c.kept)
		}
	}
}

// Hundreds of callers who open connections and then say nothing, or a little of a head
// or of a body, keep nobody else out, and are gone after the read timeout.
func TestSlowCallersKeepNobodyOut(t *testing.T) {
	kept := &sink{}
	opts, _ := options(t, kept)
	opts.ReadTimeout = 200 * time.Millisecond
	server := run(t, opts)
	var slow []net.Conn
	for _, address := range []net.Addr{server.AlertsAddr(), server.MetricsAddr()} {
		for i := range 300 {
			c, err := net.Dial("tcp", address.String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			if _, err := io.WriteString(c, []string{"", "POST /webhook HTTP/1.1\r\nHost: guardian\r\n",
				"POST /webhook HTTP/1.1\r\nHost: guardian\r\nAuthorization: " + bearer + "\r\nContent-Length: 500\r\n\r\n{"}[i%3]); err != nil {
				t.Fatal(err)
			}
			slow = append(slow, c)
		}
	}
	if status, answer := exchange(t, post(t, server, "/webhook", bearer, strings.NewReader(oneAlert))); status != http.StatusOK || len(kept.accepted()) != 1 {
		t.Errorf("got %d %s beside slow callers, want that the alert is taken", status, answer)
	}
	if status, _ := get(t, server, "/healthz"); status != http.StatusOK {
		t.Errorf("healthz: got %d beside slow callers", status)
	}
	for _, c := range slow {
		if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, bufio.NewReader(c)); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Fatalf("a slow caller still has its connection: %v", err)
		}
	}
}

// The time of an answer says nothing of a token: hashes of one length are compared, in
// constant time, with all tokens, whatever comes of the first.
func TestTokensAreComparedInConstantTime(t *testing.T) {
	file, err := parser.ParseFile(gotoken.NewFileSet(), "auth.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	loops := 0
	ast.Inspect(file, func(n ast.Node) bool {
		f, is := n.(*ast.FuncDecl)
		if !is || f.Name.Name != "bearerAuthenticator" {
			return true
		}
		ast.Inspect(f, func(n ast.Node) bool {
			loop, is := n.(*ast.RangeStmt)
			if !is {
				return true
			}
			loops++
			var called []string
			ast.Inspect(loop.Body, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.IfStmt, *ast.SwitchStmt, *ast.BranchStmt, *ast.ReturnStmt:
					t.Errorf("%T between the comparisons: their time would say which token, or how much of it, was right", n)
				case *ast.BinaryExpr:
					t.Errorf("%s between the comparisons", n.Op)
				case *ast.SelectorExpr:
					called = append(called, n.Sel.Name)
				}
				return true
			})
			if !slices.Equal(called, []string{"Sum256", "ConstantTimeCompare"}) {
				t.Errorf("tokens are compared by %v", called)
			}
			return false
		})
		return false
	})
	if loops != 1 {
		t.Errorf("%d loops over the tokens found: this test looks at nothing", loops)
	}
}

// 4 MiB of alerts that say nothing take no more memory than an honest call of that size.
func TestABodyOfManyEmptyAlertsTakesNoMemory(t *testing.T) {
	body := []byte(`{"version":"4","alerts":[` + strings.Repeat("{},", DefaultMaxBody/3-100) + oneAlert[strings.Index(oneAlert, `{"status"`):])
	if len(body) > DefaultMaxBody {
		t.Fatalf("%d bytes are refused for their number", len(body))
	}
	hook, err := ParseWebhook(body)
	if err != nil || len(hook.Alerts) != 1 {
		t.Fatalf("%v, %+v", err, hook)
	}
	if has := cap(hook.Alerts); has > 1000 {
		t.Errorf("room for %d alerts is kept for one", has)
	}
}

// Whoever has the token may send an alert with any fingerprint; that does not take the
// place of the alert which bears it.
func TestAForeignAlertsFingerprintHidesNoAlert(t *testing.T) {
	byGuard := func(a Alert) []string { return []string{a.Labels["guardian_guard"]} }
	a := named("A", 0)
	foreign := Alert{Labels: map[string]string{"alertname": "B", "guardian_guard": "another"}, StartsAt: minute(-9), Fingerprint: a.Fingerprint}
	for name, steps := range map[string][]step{
		"it comes before":         {{at: 1, lane: LaneWebhook, alerts: []Alert{foreign}}, {at: 2, lane: LaneWebhook, alerts: []Alert{a}}},
		"it comes after":          {{at: 1, lane: LaneWebhook, alerts: []Alert{a}}, {at: 2, lane: LaneWebhook, alerts: []Alert{foreign}}},
		"it ends":                 {{at: 1, lane: LaneWebhook, alerts: []Alert{a}}, {at: 2, lane: LaneWebhook, alerts: []Alert{foreign, ended(foreign, 2)}}},
		"it comes before, listed": {{at: 1, lane: LaneWebhook, alerts: []Alert{foreign}}, {at: 2, lane: LaneAlertmanager, list: true, alerts: []Alert{a}}},
	} {
		t.Run(name, func(t *testing.T) {
			store := NewStore(StoreOptions{Keys: byGuard})
			apply(t, store, steps)
			if got := brief(store.FiringOf("guard-a", minute(3))); got != "A@0" {
				t.Errorf("guard-a has %q, want A@0", got)
			}
		})
	}
}

// A call that was recorded and is sent again cannot be told from one that Alertmanager
// repeats. What it says lasts until Alertmanager is next asked for what fires.
func TestACallSentAgainEndsWithTheNextListing(t *testing.T) {
	store := NewStore(StoreOptions{})
	a := named("A", 0)
	apply(t, store, []step{
		{at: 1, lane: LaneWebhook, alerts: []Alert{a}},
		{at: 5, lane: LaneWebhook, alerts: []Alert{ended(a, 5)}},
		{at: 30, lane: LaneAlertmanager, list: true},
		{at: 60, lane: LaneWebhook, alerts: []Alert{a}}, // again
	})
	if got := brief(store.Firing(minute(60))); got != "A@0" {
		t.Errorf("got %q: a repetition of Alertmanager's would not count either", got)
	}
	apply(t, store, []step{{at: 61, lane: LaneAlertmanager, list: true}})
	if got := brief(store.Firing(minute(61))); got != "" {
		t.Errorf("after the listing %q still fires", got)
	}
}

func apply(t *testing.T, store *Store, steps []step) {
	t.Helper()
	for _, s := range steps {
		put := store.Apply
		if s.list {
			put = store.Replace
		}
		if _, err := put(s.lane, s.alerts, minute(s.at)); err != nil {
			t.Fatal(err)
		}
	}
}

// A sink that hangs is not waited for, and a caller who hangs up is none: see
// TestEveryCallIsAnsweredByWhetherARetryHelps. This is a flood of right calls: each is
// answered, in its time.
func TestAFloodOfCallsIsAnswered(t *testing.T) {
	opts, _ := options(t, &sink{accept: func(ctx context.Context, _ Lane, _ []Alert) error {
		<-ctx.Done()
		return ctx.Err()
	}})
	opts.SinkTimeout = 50 * time.Millisecond
	server := run(t, opts)
	const calls = 200
	answers := make(chan int, calls)
	for range calls {
		go func() {
			response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(post(t, server, "/webhook", bearer, strings.NewReader(oneAlert)))
			if err != nil {
				answers <- 0
				return
			}
			response.Body.Close()
			answers <- response.StatusCode
		}()
	}
	for range calls {
		if got := <-answers; got != http.StatusServiceUnavailable {
			t.Errorf("got %d, want 503: it is to come again", got)
		}
	}
}

// The metrics port asks nobody for proof: whatever comes there, no alert is taken.
func TestTheMetricsPortTakesNoOrders(t *testing.T) {
	kept := &sink{}
	opts, _ := options(t, kept)
	server := run(t, opts)
	for _, path := range []string{"/webhook", "/api/v2/alerts", "/api/v1/guards", "/api/v1/guards/orders-service", "/metrics", "/healthz", "/readyz", "/-/reload", "/-/quit", "/debug/pprof/", "/"} {
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			request := post(t, server, path, bearer, strings.NewReader(oneAlert))
			request.Method, request.URL.Host = method, server.MetricsAddr().String()
			if status, body := exchange(t, request); status != http.StatusNotFound && status != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: got %d %s", method, path, status, body)
			}
		}
	}
	for _, path := range []string{"/webhook", "/debug/pprof/", "/debug/vars", "/"} {
		if status, body := get(t, server, path); status != http.StatusNotFound {
			t.Errorf("GET %s: got %d %s", path, status, body)
		}
	}
	if got := kept.accepted(); len(got) > 0 {
		t.Errorf("took %v", got)
	}
}

func TestAnAlertAboutAGuardIsNotRefusedForThoseAboutNone(t *testing.T) {
	about := func(a Alert) []string {
		if a.Name() == "Other" {
			return nil
		}
		return []string{a.Labels["guardian_guard"]}
	}
	other := func(n int) Alert {
		labels := map[string]string{"alertname": "Other", "n": string(rune('a' + n))}
		return Alert{Labels: labels, StartsAt: minute(0), Fingerprint: Fingerprint(labels)}
	}
	store := NewStore(StoreOptions{MaxAlerts: 3, Keys: about})
	apply(t, store, []step{
		{at: 1, lane: LaneWebhook, alerts: []Alert{other(0), named("A", 0), other(1)}},
		{at: 2, lane: LaneWebhook, alerts: []Alert{named("B", 2)}},
		{at: 2, lane: LaneAlertmanager, list: true, alerts: []Alert{named("A", 0), named("B", 2), named("C", 2)}},
	})
	if got := brief(store.Firing(minute(3))); got != "A@0 B@2 C@2" && got != "A@0 C@2 B@2" {
		t.Errorf("holds %q, want A, B and C", got)
	}
	if _, err := store.Apply(LaneWebhook, []Alert{other(2)}, minute(3)); !errors.Is(err, ErrStoreFull) {
		t.Errorf("one about no guard took the place of one: %v", err)
	}
	if _, err := store.Apply(LaneWebhook, []Alert{named("D", 3)}, minute(3)); !errors.Is(err, ErrStoreFull) {
		t.Errorf("one about a guard took the place of another: %v", err)
	}
	if len(store.alerts) != 3 || len(store.byKey) != 3 {
		t.Errorf("holds %d alerts under %d keys", len(store.alerts), len(store.byKey))
	}
}
