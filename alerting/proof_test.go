package alerting

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// logged collects a log that several goroutines write.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestEachKindOfMissingProofIsCountedAndLoggedWithoutIt(t *testing.T) {
	keys := newPKI(t)
	trusted := &tls.Config{RootCAs: keys.pool}
	for name, c := range map[string]struct {
		web     string
		token   bool
		tls     *tls.Config // nil: plain HTTP
		prepare func(*http.Request)
		proof   proof
		lane    float64 // calls counted on the webhook lane
	}{
		"a wrong token":            {"", true, nil, func(r *http.Request) { r.Header.Set("Authorization", "Bearer hunter2") }, proofBearer, 1},
		"no token":                 {"", true, nil, withNothing, proofBearer, 1},
		"a wrong password":         {basicUsers, false, nil, withBasic("hunter2"), proofBasic, 1},
		"no password":              {basicUsers, false, nil, withNothing, proofBasic, 1},
		"a wrong password and TLS": {tlsAlone(keys) + basicUsers, false, trusted, withBasic("hunter2"), proofBasic, 1},
		"no certificate": {fmt.Sprintf("tls_server_config: {cert_file: %s, key_file: %s, client_ca_file: %s, client_auth_type: RequireAndVerifyClientCert}\n",
			keys.cert, keys.key, keys.ca), false, trusted, withBasic("hunter2"), proofCertificate, 0},
	} {
		t.Run(name, func(t *testing.T) {
			opts, _ := options(t, &sink{})
			var log logged
			opts.Logger = slog.New(slog.NewTextHandler(&log, nil))
			if !c.token {
				opts.TokenFile = ""
			}
			if c.web != "" {
				opts.WebConfigFile = webConfig(t, c.web)
			}
			server := run(t, opts)
			const calls = 20
			for range calls {
				if status := send(t, server, &http.Transport{TLSClientConfig: c.tls.Clone()}, c.prepare); status != http.StatusUnauthorized && c.proof != proofCertificate {
					t.Fatalf("answered %d", status)
				}
			}
			failures := func() float64 { return testutil.ToFloat64(opts.MetricSet.auth.WithLabelValues(string(c.proof))) }
			eventually(t, fmt.Sprintf("%d failures are counted", calls), func() bool { return failures() == calls })
			if got := testutil.ToFloat64(opts.MetricSet.received.WithLabelValues("webhook", "unauthorized")); got != calls*c.lane {
				t.Errorf("%v calls of the webhook lane counted as unauthorized, want %v", got, calls*c.lane)
			}
			lines := strings.Count(log.String(), "refused a")
			if lines == 0 || lines > 5 {
				t.Errorf("%d lines in the log, want a few:\n%s", lines, log.String())
			}
			if strings.Contains(log.String(), "hunter2") {
				t.Errorf("the log has what was sent:\n%s", log.String())
			}
		})
	}
}

func tlsAlone(keys pki) string {
	return fmt.Sprintf("tls_server_config: {cert_file: %s, key_file: %s}\n", keys.cert, keys.key)
}

func TestWhatIsLeftOutOfACallIsAnsweredAndCounted(t *testing.T) {
	kept := &sink{}
	opts, _ := options(t, kept)
	server := run(t, opts)
	bad := `{"status":"firing","labels":{"alertname":"Bad","password":"hunter2"},"startsAt":"hunter2"}`
	body := strings.Replace(oneAlert, `"alerts":[`, `"alerts":[`+bad+",", 1)
	status, answer := exchange(t, post(t, server, "/webhook", bearer, strings.NewReader(body)))
	if status != http.StatusOK || !strings.Contains(answer, `"accepted":1`) || !strings.Contains(answer, `"invalid":1`) || !strings.Contains(answer, `"problem":"`) || strings.Contains(answer, "hunter2") {
		t.Errorf("%d %s; want 200: the good one is recorded, and the other would be no better a second time", status, answer)
	}
	if got := testutil.ToFloat64(opts.MetricSet.received.WithLabelValues("webhook", "invalid")); got != 1 {
		t.Errorf("%v counted as invalid, want 1", got)
	}
	if got := kept.accepted(); len(got) != 1 || len(got[0].alerts) != 1 {
		t.Errorf("the sink has %+v", got)
	}
}

func TestAHeartbeatCountsForTheLaneThatItCameBy(t *testing.T) {
	opts, _ := options(t, &sink{})
	opts.Now = func() time.Time { return start }
	server := run(t, opts)
	pushed := `[{"labels":{"alertname":"GuardianHeartbeat"},"startsAt":"` + start.Add(-time.Hour).Format(time.RFC3339) + `","endsAt":"` + start.Add(time.Hour).Format(time.RFC3339) + `"}]`
	if status, answer := exchange(t, post(t, server, "/api/v2/alerts", bearer, strings.NewReader(pushed))); status != http.StatusOK {
		t.Fatal(status, answer)
	}
	if !server.HeartbeatOf(LaneWebhook).IsZero() || !server.HeartbeatOf(LanePush).Equal(start) || !server.Heartbeat().Equal(start) {
		t.Errorf("webhook %s, push %s, any %s; want it on the push lane alone", server.HeartbeatOf(LaneWebhook), server.HeartbeatOf(LanePush), server.Heartbeat())
	}
	for lane, want := range map[string]float64{"webhook": 0, "push": float64(start.Unix())} {
		if got := testutil.ToFloat64(opts.MetricSet.heartbeat.WithLabelValues(lane)); got != want {
			t.Errorf("metric of %s is %v, want %v", lane, got, want)
		}
	}
}

func TestABeginningInTheFutureIsReportedAndHidesNoOther(t *testing.T) {
	store := NewStore(StoreOptions{})
	opts, _ := options(t, storekeeper(store))
	var log logged
	opts.Logger = slog.New(slog.NewTextHandler(&log, nil))
	opts.Now = func() time.Time { return start }
	server := run(t, opts)
	later := strings.NewReplacer("2026-", "2031-").Replace(oneAlert)
	for _, body := range []string{later, later} {
		if status, answer := exchange(t, post(t, server, "/webhook", bearer, strings.NewReader(body))); status != http.StatusOK {
			t.Fatal(status, answer)
		}
	}
	if n := strings.Count(log.String(), "began in the future"); n != 1 {
		t.Errorf("%d lines, want 1:\n%s", n, log.String())
	}
	labels := map[string]string{"alertname": "A"}
	a := Alert{Labels: labels, Fingerprint: Fingerprint(labels), StartsAt: start.AddDate(5, 0, 0)}
	if _, err := store.Apply(LaneWebhook, []Alert{a}, start); err != nil {
		t.Fatal(err)
	}
	a.StartsAt = start.Add(-time.Second)
	changes, err := store.Apply(LaneWebhook, []Alert{a}, start)
	if err != nil {
		t.Fatal(err)
	}
	for _, now := range store.Firing(start) {
		if now.Fingerprint == a.Fingerprint && !now.StartsAt.Equal(a.StartsAt) {
			t.Errorf("fires since %s, want %s: what it said before was of a clock that was wrong (%+v)", now.StartsAt, a.StartsAt, changes)
		}
	}
}
