package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/canary-guardian/guardian/test/controlplane"
)

// chanceQueries are those of which one run has data and another has none, and why.
var chanceQueries = map[string]string{
	"guardian-self: API errors A":                       "a conflict of two writes is a matter of chance, and nothing else fails",
	"guardian-self: Notices that no Alertmanager has A": "a scrape may fall between a rollback and the post of it",
}

// emptyQueries are those that a run with one rollback leaves without data, and why.
var emptyQueries = map[string]string{
	"guardian-guard: Why containers ended or wait A": "there is no kubelet, and no container waits",
	"guardian-guard: What the next step waits for A": "promotion.mode is off",
	"guardian-guard: mark Step":                      "promotion.mode is off",
	"guardian-guard: mark Would have rolled back":    "the guard enforces",
	"guardian-self: Spans that no collector has A":   "traces are off",
	"guardian-guard: mark State":                     "the guard is shifting, then rolled-back, which have marks of their own",
}

// promReader asks a Prometheus what Grafana would ask it.
type promReader struct {
	url   string
	began time.Time
}

// get reads an endpoint of the API, and decodes its data.
func (p promReader) get(ctx context.Context, path string, query url.Values, data any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return err
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s of %v: %s", path, query, answer.Error)
	}
	return nil
}

// promSeries is a series with its numbers, in order.
type promSeries struct {
	labels map[string]string
	points []promPoint
}

type promPoint struct {
	at    time.Time
	value float64
}

// read asks for the series of a query that have a number: now, or for one over time at any second of the run.
func (p promReader) read(ctx context.Context, q promQuery, values map[string]string) ([]promSeries, error) {
	query := url.Values{"query": {filledIn(q.expr, values)}}
	path := "/api/v1/query"
	if !q.instant {
		path = "/api/v1/query_range"
		query.Set("start", strconv.FormatInt(p.began.Unix(), 10))
		query.Set("end", strconv.FormatInt(time.Now().Unix(), 10))
		query.Set("step", "1")
	}
	var data struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any
			Values [][2]any
		}
	}
	if err := p.get(ctx, path, query, &data); err != nil {
		return nil, err
	}
	var out []promSeries
	for _, r := range data.Result {
		s := promSeries{labels: r.Metric}
		for _, v := range append(r.Values, r.Value) {
			at, _ := v[0].(float64)
			text, _ := v[1].(string)
			if f, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(f) {
				s.points = append(s.points, promPoint{time.UnixMilli(int64(at * 1000)), f})
			}
		}
		if len(s.points) > 0 {
			out = append(out, s)
		}
	}
	return out, nil
}

var labelValues = regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)

// choose gives a dashboard's variables values as Grafana does: of what Prometheus has, that which is wanted, or all.
func (p promReader) choose(ctx context.Context, d grafanaDashboard, want map[string]string) (map[string]string, error) {
	values := map[string]string{"__rate_interval": "15s", "__interval": "5s"}
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue // the data source, and filters that a person adds
		}
		m := labelValues.FindStringSubmatch(fmt.Sprint(v.Query))
		if m == nil {
			return nil, fmt.Errorf("%s: variable %s: query %v", d.name, v.Name, v.Query)
		}
		var found []string
		if err := p.get(ctx, "/api/v1/label/"+m[2]+"/values", url.Values{"match[]": {filledIn(m[1], values)}}, &found); err != nil {
			return nil, err
		}
		switch {
		case len(found) == 0 || !v.IncludeAll && !slices.Contains(found, want[v.Name]):
			return nil, fmt.Errorf("%s: variable %s has the values %q; want %q", d.name, v.Name, found, want[v.Name])
		case v.IncludeAll:
			values[v.Name] = "(" + strings.Join(found, "|") + ")"
		default:
			values[v.Name] = want[v.Name]
		}
	}
	return values, nil
}

// selfScraping is a job by which a Prometheus finds itself once it is known where it listens, and what tells it.
func (r *rig) selfScraping() (job map[string]any, tell func(*controlplane.Server)) {
	file := filepath.Join(r.t.TempDir(), "prometheus.json")
	job = map[string]any{"job_name": "prometheus", "file_sd_configs": []any{map[string]any{"files": []any{file}, "refresh_interval": "1s"}}}
	return job, func(prom *controlplane.Server) {
		r.must(os.WriteFile(file, []byte(fmt.Sprintf(`[{"targets": [%q]}]`, strings.TrimPrefix(prom.URL, "http://"))), 0o600))
	}
}

// dashboardsShow waits until all queries of all dashboards have data about a run that began at some time, but for
// those that are named above.
func (r *rig) dashboardsShow(prom *controlplane.Server, began time.Time, guard string) {
	r.t.Helper()
	p := promReader{url: prom.URL, began: began}
	for _, d := range readDashboards(r.t) {
		var values map[string]string
		r.wait("the variables of "+d.name, func(ctx context.Context) (err error) {
			values, err = p.choose(ctx, d, map[string]string{"namespace": r.ns, "guard": guard})
			return err
		})
		var said strings.Builder
		fmt.Fprintf(&said, "\n%4d variables with values of Prometheus", len(values)-2)
		for _, q := range d.queries() {
			found, err := p.read(r.t.Context(), q, values)
			r.must(err)
			n := len(found)
			if empty := emptyQueries[q.where]; empty != "" && n > 0 {
				r.t.Errorf("%s: has data, and need not be named as one without: %s", q.where, empty)
			} else if empty == "" && chanceQueries[q.where] == "" && n == 0 {
				r.wait(q.where, func(ctx context.Context) (err error) {
					if found, err = p.read(ctx, q, values); err == nil && len(found) == 0 {
						err = fmt.Errorf("no data for %s", filledIn(q.expr, values))
					}
					n = len(found)
					return err
				})
			}
			fmt.Fprintf(&said, "\n%4d series  %s", n, q.where)
		}
		r.t.Logf("%s, with %v:%s", d.name, values, said.String())
		r.draw(p, d, values)
	}
}
