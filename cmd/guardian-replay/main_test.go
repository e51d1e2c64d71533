package main

import (
	"bytes"
	"context"
	"errors"
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
	"golang.org/x/time/rate"

	"github.com/canary-guardian/guardian/alerting"
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

func TestWithoutAReportAProgramReadsTheError(t *testing.T) {
	out, _, failed := call(t, "-f", "nowhere.yaml", "-o", "json")
	want := `{
  "apiVersion": "cli.canary-guardian.io/v1",
  "kind": "Error",
  "code": 2,
  "text": "could not tell: read configuration: open nowhere.yaml: no such file or directory"
}
`
	if out != want || failed == "" {
		t.Errorf("printed %s, error %q", out, failed)
	}
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
	for name, c := range map[string]struct {
		body  string
		code  int
		want  string
		asked int32
	}{
		"an error":             {`{"status":"error","errorType":"bad_data","error":"no such function"}`, 400, "no such function", 1},
		"half an answer":       {`{"status":"success","data":{"resultType":"matrix","result":[]},"warnings":["store eu-west: unavailable"]}`, 200, "incomplete answer: store eu-west", tryFirst},
		"another kind":         {`{"status":"success","data":{"resultType":"vector","result":[]}}`, 200, "result is a vector", tryFirst},
		"something else":       {`<html>`, 200, "query Prometheus", tryFirst},
		"a proxy that refuses": {`no`, 401, "401", 1},
	} {
		asked := atomic.Int32{}
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
		if asked.Load() != c.asked {
			t.Errorf("%s: asked %d times, want %d", name, asked.Load(), c.asked)
		}
	}
	if _, _, failed := call(t, "-f", file, "-q", "--prometheus", closed.URL, "--from", "1h"); !strings.Contains(failed, "connection refused") {
		t.Errorf("nobody there: %q", failed)
	}
}

// TestAGuardThatFailsLeavesTheOthers has a Prometheus that fails for one of two.
func TestAGuardThatFailsLeavesTheOthers(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.FormValue("query"), "stock") {
			http.Error(w, "out of\nmemory", http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, `{"status":"success","data":{"resultType":"matrix","result":[]}}`)
	}))
	defer server.Close()
	for output, want := range map[string]string{
		"text": "\nstock (namespace shop)\n  NOT JUDGED: all that is not above: look for releases between 2026-11-29T23:01:00Z and 2026-11-30T00:00:00Z: query Prometheus ",
		"md":   "\n## stock (namespace shop)\n\n- NOT JUDGED: all that is not above: look for releases between ",
		"json": `"failed": "look for releases between `,
	} {
		out, _, failed := call(t, "-f", writeConfig(t, twoGuards), "-q", "--prometheus", server.URL, "--from", "1h", "-o", output, "--queries-per-second", "1000")
		if !strings.HasPrefix(failed, "guard stock: look for releases") || strings.Contains(failed, "guard orders") || !strings.Contains(out, want) ||
			!strings.Contains(out, "NOT JUDGED: Prometheus has no requests of either version") || strings.Count(out, "No release: ") > 1 {
			t.Errorf("%s: %s\n%s", output, failed, out)
		}
	}
}

// answers is a source that fails as told, and says how often it was asked.
type answers struct {
	fails []error
	asked int
}

func (a *answers) Range(context.Context, string, time.Time, time.Time, time.Duration) (model.Matrix, error) {
	a.asked++
	if len(a.fails) > 0 {
		err := a.fails[0]
		a.fails = a.fails[1:]
		return nil, err
	}
	return model.Matrix{}, nil
}

func (a *answers) Samples(ctx context.Context, _ string, at time.Time) (model.Matrix, error) {
	return a.Range(ctx, "", at, at, 0)
}

func TestAQueryIsAskedAgainForAsLongAsAPrometheusStarts(t *testing.T) {
	away, least := errors.New("connection refused"), context.WithValue(t.Context(), indivisible{}, true)
	times := func(err error, n int) []error { return slices.Repeat([]error{err}, n) }
	for name, c := range map[string]struct {
		ctx            context.Context
		fails          []error
		answered, gone bool
		asked          int
		ok             bool
	}{
		"at once":                            {t.Context(), nil, true, false, 1, true},
		"it starts anew":                     {t.Context(), times(away, tryAgain-1), true, false, tryAgain, true},
		"it does not come back":              {t.Context(), times(away, 99), true, false, tryAgain, false},
		"it was never there":                 {t.Context(), times(away, 99), false, false, tryFirst, false},
		"it has not come back":               {t.Context(), times(away, 99), true, true, 1, false},
		"it has come back":                   {t.Context(), nil, true, true, 1, true},
		"it refuses":                         {t.Context(), times(alerting.ErrRefused, 99), true, false, 1, false},
		"too much":                           {t.Context(), times(alerting.ErrTooMuch, 99), true, false, 1, false},
		"too much of the least":              {least, times(alerting.ErrTooMuch, 99), true, false, tryAgain, false},
		"too much of the least, and it ends": {least, times(alerting.ErrTooMuch, 2), true, false, 3, true},
	} {
		source := &answers{fails: c.fails}
		b := &bounded{source: source, limit: rate.NewLimiter(rate.Inf, 1), pause: time.Nanosecond, answered: c.answered, gone: c.gone}
		if _, err := b.Range(c.ctx, "", time.Time{}, time.Time{}, 0); (err == nil) != c.ok || source.asked != c.asked || b.queries != c.asked {
			t.Errorf("%s: %v, asked %d times, want %d", name, err, source.asked, c.asked)
		}
		if gone := len(c.fails) == 99 && c.fails[0] == away; b.gone != gone {
			t.Errorf("%s: gone %t", name, b.gone)
		}
	}
	pauses := time.Duration(0)
	for tries := 1; tries < tryAgain; tries++ {
		pauses += time.Second << tries
	}
	if pauses < time.Minute {
		t.Errorf("asked again for %v, want a minute", pauses)
	}
}

// little answers ranges of some time at most.
type little struct {
	most  time.Duration
	asked []time.Duration
}

func (l *little) Range(_ context.Context, _ string, from, to time.Time, step time.Duration) (model.Matrix, error) {
	l.asked = append(l.asked, to.Sub(from))
	if to.Sub(from) > l.most {
		return nil, fmt.Errorf("%w: time", alerting.ErrTooMuch)
	}
	one := &model.SampleStream{Metric: model.Metric{rules.LabelSide: canary}}
	for at := from; !at.After(to); at = at.Add(step) {
		one.Values = append(one.Values, model.SamplePair{Timestamp: model.TimeFromUnix(at.Unix()), Value: 1})
	}
	return model.Matrix{one}, nil
}

func (*little) Samples(context.Context, string, time.Time) (model.Matrix, error) { return nil, nil }

func TestASurveyThatIsTooMuchIsAskedInHalves(t *testing.T) {
	for _, most := range []time.Duration{100 * time.Hour, 7 * time.Hour, 47 * time.Minute, 9 * time.Minute} {
		for _, long := range []time.Duration{time.Minute, 5 * time.Minute, time.Hour, 24 * time.Hour, 30*time.Hour + 17*time.Minute} {
			source := &little{most: most}
			r := &replayer{source: source, from: time.Unix(90, 0), to: time.Unix(90, 0).Add(long)}
			found, err := r.survey(t.Context(), rules.Guard{})
			if err != nil {
				t.Fatalf("%v at most, %v: %v", most, long, err)
			}
			for i, step := range found.steps {
				if step.canary != 1 {
					t.Fatalf("%v at most, %v: step %d of %d was not asked for", most, long, i, len(found.steps))
				}
			}
			if most > long && len(source.asked) > 2 {
				t.Errorf("%v at most, %v: asked %v", most, long, source.asked)
			}
		}
	}
	source := &little{}
	if _, err := (&replayer{source: source, from: time.Unix(0, 0), to: time.Unix(86400, 0)}).survey(t.Context(), rules.Guard{}); !errors.Is(err, alerting.ErrTooMuch) || len(source.asked) > 10 {
		t.Errorf("%v, asked %v", err, source.asked)
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
	if n := queries.Load(); n != 18 {
		t.Errorf("%d queries for three days of two guards, want nine of each: of traffic, and of either count of restarts", n)
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
