package main

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"github.com/canary-guardian/guardian/rules"
)

// call runs the command and returns what it printed, and its error as text.
func call(t *testing.T, args ...string) (out, errOut, failed string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := newCommand(&stdout, &stderr, func() time.Time { return time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC) }, time.Millisecond)
	cmd.SetArgs(args)
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		failed = err.Error()
	}
	return stdout.String(), stderr.String(), failed
}

func TestBadInputNamesFlagAndValue(t *testing.T) {
	file := writeConfig(t, twoGuards)
	for args, want := range map[string]string{
		"":                                                 `required flag(s) "config" not set`,
		"-f " + file + " more":                             `unknown command "more"`,
		"-f nowhere.yaml":                                  "nowhere.yaml: no such file",
		"-f " + file + " --from yesterday":                 `--from "yesterday": want a duration such as 30d or 12h, or a time such as`,
		"-f " + file + " --to tomorrow":                    `--to "tomorrow": want a duration`,
		"-f " + file + " --from 1h --to 2h":                "--from 1h, --to 2h: want from before to",
		"-f " + file + " -o yaml":                          `--output "yaml": want text, json or md`,
		"-f " + file + " --chunk 1s":                       "--chunk 1s: want 1m0s to 24h",
		"-f " + file + " --timeout 0s":                     "--timeout 0s: want more than 0",
		"-f " + file + " --queries-per-second 0":           "--queries-per-second 0: want more than 0",
		"-f " + file + " --only payments":                  "--only payments: no such guard",
		"-f " + file + " --prometheus prometheus:9090":     "want http://host:port or https://host:port",
		"-f " + writeConfig(t, "namespace: x\nguards: []"): "no guards in the configuration",
		"-f " + writeConfig(t, "namespace: x"):             "guards",
		"-f " + writeConfig(t, "guards: [{name: A_B}]"):    "guards[0].name",
	} {
		out, _, failed := call(t, strings.Fields(args)...)
		if !strings.Contains(failed, want) || out != "" {
			t.Errorf("%s: %q, want %q; printed %q", args, failed, want, out)
		}
	}
}

func TestWithoutAnAnswerNothingIsPrinted(t *testing.T) {
	file := writeConfig(t, twoGuards)
	closed := httptest.NewServer(nil)
	closed.Close()
	asked := atomic.Int32{}
	for name, c := range map[string]struct {
		body string
		code int
		want string
	}{
		"an error":             {`{"status":"error","errorType":"bad_data","error":"no such function"}`, 400, "no such function"},
		"half an answer":       {`{"status":"success","data":{"resultType":"matrix","result":[]},"warnings":["store eu-west: unavailable"]}`, 200, "incomplete answer: store eu-west"},
		"another kind":         {`{"status":"success","data":{"resultType":"vector","result":[]}}`, 200, "result is a vector"},
		"something else":       {`<html>`, 200, "query Prometheus"},
		"a proxy that refuses": {`no`, 401, "401"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(c.code)
			fmt.Fprint(w, c.body)
		}))
		out, _, failed := call(t, "-f", file, "-q", "--prometheus", strings.Replace(server.URL, "http://", "http://me:sesame@", 1), "--from", "1h", "--only", "orders")
		server.Close()
		if !strings.Contains(failed, c.want) || !strings.Contains(failed, "guard orders: look for releases between 2026-11-29T23:01:00Z") || strings.Contains(failed, "sesame") || out != "" {
			t.Errorf("%s: %q, want %q; printed %q", name, failed, c.want, out)
		}
	}
	if _, _, failed := call(t, "-f", file, "-q", "--prometheus", closed.URL, "--from", "1h"); !strings.Contains(failed, "connection refused") {
		t.Errorf("nobody there: %q", failed)
	}
	if asked.Load() < 5*tryAgain {
		t.Errorf("asked %d times, want each query %d times", asked.Load(), tryAgain)
	}
}

// TestAPrometheusWithoutRequestsIsNotHealthy has one that knows nothing of the guards.
func TestAPrometheusWithoutRequestsIsNotHealthy(t *testing.T) {
	queries := atomic.Int32{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		queries.Add(1)
		fmt.Fprint(w, `{"status":"success","data":{"resultType":"matrix","result":[]}}`)
	}))
	defer server.Close()
	out, errOut, failed := call(t, "-f", writeConfig(t, twoGuards), "--prometheus", server.URL, "--from", "3d", "--queries-per-second", "1000")
	if failed != "" || strings.Count(out, "NOT JUDGED: Prometheus has no requests of either version") != 2 || !strings.Contains(errOut, "looking for releases") {
		t.Errorf("%s\n%s\n%s", failed, out, errOut)
	}
	if n := queries.Load(); n != 10 {
		t.Errorf("%d queries for three days of two guards, want three and two of each", n)
	}
}

func TestSilenceIsTold(t *testing.T) {
	hour := func(letter string) string { return strings.Repeat(letter, 60) }
	from := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		hour("s"):                        "",
		hour("s") + "...":                "",
		hour(".") + hour("s"):            "before 2026-11-01T01:00:00Z",
		hour("s") + hour(".") + "s":      "in 1.0 hours",
		hour("..") + hour("s") + ".":     "before 2026-11-01T02:00:00Z Prometheus has no requests of either version.",
		hour(".") + "s" + hour(".") + "": "before 2026-11-01T01:00:00Z Prometheus has no requests of either version, nor in 1.0 hours",
	} {
		got := survey{from: from, steps: drawn(text)}.silence()
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// TestANameThatNoDeploymentHasIsNotTakenOver has proxies that report other things: a
// guard without names takes those of the survey into its rules.
func TestANameThatNoDeploymentHasIsNotTakenOver(t *testing.T) {
	s, found := survey{from: time.Unix(0, 0), steps: make([]traffic, 1)}, map[string]map[string]bool{canary: {}, stable: {}}
	var m model.Matrix
	for _, name := range []string{"orders-v2", "orders.v2", "", "unknown", "a\x1b[2J", `x"} or vector(1) #`, ".*", "a|b", "a b", "Orders", strings.Repeat("a", 254)} {
		m = append(m, &model.SampleStream{Metric: model.Metric{rules.LabelSide: canary, "reporter": "source", "destination_workload": model.LabelValue(name)},
			Values: []model.SamplePair{{Timestamp: 0, Value: 1}}})
	}
	s.add(m, found)
	if got := slices.Sorted(maps.Keys(found[canary])); !slices.Equal(got, []string{"orders-v2", "orders.v2"}) {
		t.Errorf("%q", got)
	}
	if s.steps[0].canary != float64(len(m)) {
		t.Errorf("%v: want the requests of all %d", s.steps[0], len(m))
	}
}
