package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/prometheus/promql/parser"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/cmd/guardian/tracing"
	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/rules"
)

// dashboardDir is where the chart has its dashboards.
var dashboardDir = filepath.Join(chartDir, "dashboards")

// grafanaDashboard is what tests read of a dashboard; its generator's decoder sees to the rest.
type grafanaDashboard struct {
	name        string // of its file, without .json
	UID         string
	Title       string
	Description string
	Templating  struct{ List []grafanaVariable }
	Annotations struct{ List []grafanaMark }
	Panels      []grafanaPanel
}

type grafanaVariable struct {
	Name, Type, Description string
	Query                   any
	IncludeAll              bool
}

type grafanaMark struct {
	Name, Expr, TitleFormat, TextFormat, IconColor string
	Enable, UseValueForTime                        bool
}

type grafanaPanel struct {
	ID                       int
	Type, Title, Description string
	GridPos                  struct{ X, Y, W, H int }
	Targets                  []struct {
		RefID, Expr, LegendFormat, Format string
		Instant, Range                    bool
	}
	Options     struct{ TextMode string }
	FieldConfig struct {
		Defaults struct {
			Unit     string
			Min, Max *float64
			Custom   struct{ DrawStyle, LineInterpolation string }
			Mappings []struct {
				Options map[string]struct{ Text, Color string } // by value
			}
		}
		Overrides []grafanaOverride
	}
	Transformations []struct {
		ID      string
		Options struct {
			ExcludeByName map[string]bool
			IndexByName   map[string]int
			RenameByName  map[string]string
		}
	}
}

// grafanaOverride is for the series of a panel whose name fits.
type grafanaOverride struct {
	Matcher    struct{ ID, Options string }
	Properties []struct {
		ID    string
		Value any
	}
}

func readDashboards(t *testing.T) []grafanaDashboard {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dashboardDir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	var out []grafanaDashboard
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		d := grafanaDashboard{name: strings.TrimSuffix(filepath.Base(path), ".json")}
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		out = append(out, d)
	}
	if len(out) != 3 {
		t.Fatalf("%d dashboards: the search is broken", len(out))
	}
	return out
}

// promQuery is one query of a dashboard, by where it stands.
type promQuery struct {
	where   string // dashboard, panel or annotation, and the query's letter
	expr    string
	instant bool
}

// queries are those of all panels and annotations.
func (d grafanaDashboard) queries() []promQuery {
	var out []promQuery
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			out = append(out, promQuery{d.name + ": " + p.Title + " " + q.RefID, q.Expr, q.Instant})
		}
	}
	for _, m := range d.Annotations.List {
		if m.Expr != "" {
			out = append(out, promQuery{d.name + ": mark " + m.Name, m.Expr, false})
		}
	}
	return out
}

func TestTheDashboardsAreWhatTheirGeneratorMakes(t *testing.T) {
	if testing.Short() && !*rewrite {
		t.Skip("builds the generator; not under -short")
	}
	out := t.TempDir()
	if printed, err := exec.CommandContext(t.Context(), "go", "run", "-C", filepath.Join("..", "..", "testdata", "tools", "dashboards"), ".", "-out", out).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, printed)
	}
	made, err := filepath.Glob(filepath.Join(out, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range made {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		checkFile(t, filepath.Join(dashboardDir, filepath.Base(path)), string(text))
	}
	if n := len(readDashboards(t)); n != len(made) {
		t.Errorf("the chart has %d dashboards, the generator makes %d", n, len(made))
	}
}

// Grafana's decoder does not look at what a person would see at once.
func TestTheDashboardsCanBeRead(t *testing.T) {
	uids := map[string]bool{}
	for _, d := range readDashboards(t) {
		if d.UID != d.name || uids[d.UID] {
			t.Errorf("%s: uid %q: want the file's name, once", d.name, d.UID)
		}
		uids[d.UID] = true
		if d.Title == "" || d.Description == "" {
			t.Errorf("%s: title %q, description %q", d.name, d.Title, d.Description)
		}
		d.checkGrid(t)
		d.checkPanels(t)
		d.checkVariables(t)
	}
}

func (d grafanaDashboard) checkGrid(t *testing.T) {
	t.Helper()
	const width = 24
	taken := map[[2]int]string{}
	for _, p := range d.Panels {
		g := p.GridPos
		if g.W < 1 || g.H < 1 || g.X < 0 || g.Y < 0 || g.X+g.W > width {
			t.Errorf("%s: %q is outside of the grid: %+v", d.name, p.Title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%s: %q lies on %q at %d, %d", d.name, p.Title, other, x, y)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
}

func (d grafanaDashboard) checkPanels(t *testing.T) {
	t.Helper()
	ids, titles := map[int]bool{}, map[string]bool{}
	for _, p := range d.Panels {
		if p.ID == 0 || ids[p.ID] || p.Title == "" || titles[p.Title] {
			t.Errorf("%s: panel %q, id %d: want a title and an id, each once", d.name, p.Title, p.ID)
		}
		ids[p.ID], titles[p.Title] = true, true
		if p.Type == "row" {
			continue
		}
		if !strings.HasSuffix(p.Description, ".") || len(strings.Fields(p.Description)) < 3 {
			t.Errorf("%s: %q: description %q: want sentences", d.name, p.Title, p.Description)
		}
		if p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
			t.Errorf("%s: %q: unit %q, %d queries", d.name, p.Title, p.FieldConfig.Defaults.Unit, len(p.Targets))
		}
		refs := map[string]bool{}
		for _, q := range p.Targets {
			if refs[q.RefID] || q.Instant == q.Range {
				t.Errorf("%s: %q: query %s comes twice, or is of no kind", d.name, p.Title, q.RefID)
			}
			refs[q.RefID] = true
			if (q.LegendFormat == "") != (p.Type == "table") || (q.Format == "table") != (p.Type == "table") {
				t.Errorf("%s: %q %s: legend %q, format %q in a %s", d.name, p.Title, q.RefID, q.LegendFormat, q.Format, p.Type)
			}
		}
	}
	for _, m := range d.Annotations.List {
		if m.Expr == "" || m.TitleFormat == "" {
			t.Errorf("%s: mark %q has no query or no title", d.name, m.Name)
		}
	}
}

func (d grafanaDashboard) checkVariables(t *testing.T) {
	t.Helper()
	list := d.Templating.List
	if len(list) == 0 || list[0].Name != "datasource" || list[0].Type != "datasource" || list[0].Query != "prometheus" {
		t.Fatalf("%s: the first variable is %+v; want the data source", d.name, list)
	}
	known := map[string]bool{}
	for _, v := range list {
		if known[v.Name] || v.Description == "" {
			t.Errorf("%s: variable %q comes twice or has no description", d.name, v.Name)
		}
		for _, m := range grafanaName.FindAllStringSubmatch(fmt.Sprint(v.Query), -1) {
			if !known[m[1]] {
				t.Errorf("%s: variable %q needs $%s, which is not before it", d.name, v.Name, m[1])
			}
		}
		known[v.Name] = true
	}
	for _, q := range d.queries() {
		for _, m := range grafanaName.FindAllStringSubmatch(q.expr, -1) {
			if !known[m[1]] && !strings.HasPrefix(m[1], "__") {
				t.Errorf("%s: no variable %q", q.where, m[1])
			}
		}
	}
}

// grafanaName is a variable in a query; $1 of label_replace is none.
var grafanaName = regexp.MustCompile(`\$\{?([A-Za-z_]\w*)\}?`)

// A data source or dashboard of somebody else's Grafana would be missing here.
func TestTheDashboardsReferToTheChosenDataSourceAndToEachOther(t *testing.T) {
	uids, links := map[string]bool{}, 0
	for _, d := range readDashboards(t) {
		uids[d.UID] = true
	}
	for _, d := range readDashboards(t) {
		text, err := os.ReadFile(filepath.Join(dashboardDir, d.name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var whole any
		if err := json.Unmarshal(text, &whole); err != nil {
			t.Fatal(err)
		}
		sources := valuesAt(whole, "datasource")
		if len(sources) < len(d.queries()) {
			t.Errorf("%s: %d data sources for %d queries", d.name, len(sources), len(d.queries()))
		}
		for _, ref := range sources {
			if !reflect.DeepEqual(ref, map[string]any{"type": "prometheus", "uid": "${datasource}"}) {
				t.Errorf("%s: data source %v", d.name, ref)
			}
		}
		for _, m := range regexp.MustCompile(`"/d/([^?/"]+)`).FindAllStringSubmatch(string(text), -1) {
			links++
			if !uids[m[1]] {
				t.Errorf("%s: links to dashboard %q, which is not there", d.name, m[1])
			}
		}
	}
	if links == 0 {
		t.Error("no links between dashboards: the search is broken")
	}
}

// valuesAt are the values of a key, wherever it is.
func valuesAt(in any, key string) []any {
	var out []any
	switch v := in.(type) {
	case map[string]any:
		for k, part := range v {
			if k == key {
				out = append(out, part)
			}
			out = append(out, valuesAt(part, key)...)
		}
	case []any:
		for _, part := range v {
			out = append(out, valuesAt(part, key)...)
		}
	}
	return out
}

// exportedMetrics are the names of what guardian itself exports.
func exportedMetrics() map[string]bool {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	alerting.NewMetrics(reg)
	remediate.NewMetrics(reg)
	newAPIRequests(reg)
	newReloads(reg, nil, nil)
	newNotifier(reg, slog.New(slog.DiscardHandler), nil)
	newRulesWriter(nil, nil, nil, reg, slog.New(slog.DiscardHandler))
	all := make(chan *prometheus.Desc)
	go func() {
		reg.Describe(all)
		close(all)
	}()
	out := map[string]bool{tracing.MetricDropped: true} // with traces alone
	name := regexp.MustCompile(`fqName: "([^"]+)"`)
	for d := range all {
		if m := name.FindStringSubmatch(d.String()); m != nil {
			out[m[1]] = true
		}
	}
	return out
}

// recordedMetrics are the names of what guardian's rules record, with all signals on.
func recordedMetrics(t *testing.T) map[string]bool {
	t.Helper()
	side := func(version string) decision.Side {
		return decision.Side{Service: "orders-service", Labels: map[string]string{"version": version}, Workloads: []string{"orders-" + version}}
	}
	out := map[string]bool{}
	for _, g := range generated(t, map[string]decision.Sides{"orders-service": {Stable: side("v1"), Canary: side("v2")}}).Groups {
		for _, r := range g.Rules {
			if r.Record != "" {
				out[r.Record] = true
			}
		}
	}
	return out
}

// foreignMetrics are those that guardian's dashboards read of others.
var foreignMetrics = []string{"ALERTS", "istio_request_duration_milliseconds_bucket", "alertmanager_notifications_failed_total", "prometheus_notifications_dropped_total"}

func TestEveryMetricOfTheDashboardsExists(t *testing.T) {
	exported, recorded := exportedMetrics(), recordedMetrics(t)
	used := map[string]bool{}
	for _, d := range readDashboards(t) {
		for _, q := range d.queries() {
			expr, err := parser.NewParser(parser.Options{}).ParseExpr(filledIn(q.expr, nil))
			if err != nil {
				t.Errorf("%s: %v", q.where, err)
				continue
			}
			for _, s := range parser.ExtractSelectors(expr) {
				name := ""
				for _, m := range s {
					if m.Name == "__name__" {
						name = m.Value
					}
				}
				used[name] = true
				plain := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
				if !exported[name] && !exported[plain] && !recorded[name] && !slices.Contains(foreignMetrics, name) {
					t.Errorf("%s: metric %q: guardian does not export it and its rules do not record it", q.where, name)
				}
			}
		}
	}
	if len(used) < 25 {
		t.Errorf("only %d metrics found: the search is broken", len(used))
	}
	for _, name := range foreignMetrics {
		if !used[name] {
			t.Errorf("%s is used by no dashboard", name)
		}
	}
}

// filledIn puts values in the place of a query's variables, as Grafana does; those that are not given are 1.
func filledIn(text string, values map[string]string) string {
	return grafanaName.ReplaceAllStringFunc(text, func(v string) string {
		name := grafanaName.FindStringSubmatch(v)[1]
		if value, ok := values[name]; ok {
			return value
		}
		if strings.HasSuffix(name, "interval") || name == "__range" {
			return "1m"
		}
		return "1"
	})
}

func TestTheDashboardsKnowAllStatesAndNoOther(t *testing.T) {
	states := map[string]bool{}
	for _, s := range decision.States {
		states[string(s)] = true
	}
	for _, d := range readDashboards(t) {
		for _, q := range d.queries() {
			for _, m := range regexp.MustCompile(`[{,]state=~?"([^"]+)"`).FindAllStringSubmatch(q.expr, -1) {
				for _, s := range strings.Split(m[1], "|") {
					if !states[s] {
						t.Errorf("%s: no state %q", q.where, s)
					}
				}
			}
		}
	}
	text, err := os.ReadFile(filepath.Join(dashboardDir, "guardian-guard.json"))
	if err != nil {
		t.Fatal(err)
	}
	for s := range states {
		if !strings.Contains(string(text), `"options": "`+s+`"`) {
			t.Errorf("state %s has no colour", s)
		}
	}
}

func TestTheChartShipsTheDashboardsOnlyWhenAsked(t *testing.T) {
	h := newHelm(t)
	render := func(sets ...string) map[string]*corev1.ConfigMap {
		args := []string{"template", "guardian", chartDir, "-n", "microservices", "--set", oneGuard}
		for _, s := range sets {
			args = append(args, "--set-string", s)
		}
		args = append(args, "--set", fmt.Sprintf("dashboards.enabled=%v", len(sets) > 0))
		text, err := h.run(t.Context(), args...)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]*corev1.ConfigMap{}
		for key, object := range rendered(t, text) {
			if strings.HasPrefix(key, "ConfigMap/") {
				found := one[corev1.ConfigMap](t, map[string]*unstructured.Unstructured{key: object}, "ConfigMap", object.GetName())
				for file := range found.Data {
					if strings.HasSuffix(file, ".json") {
						out[file] = &found
					}
				}
			}
		}
		return out
	}
	if found := render(); len(found) != 0 {
		t.Errorf("without being asked: %q", slices.Sorted(maps.Keys(found)))
	}
	found := render("dashboards.labels.team=shop", "dashboards.annotations.grafana_folder=guardian", "dashboards.namespace=monitoring")
	for _, d := range readDashboards(t) {
		text, err := os.ReadFile(filepath.Join(dashboardDir, d.name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		cm := found[d.name+".json"]
		if cm == nil {
			t.Errorf("%s is not shipped", d.name)
			continue
		}
		if strings.TrimSpace(cm.Data[d.name+".json"]) != strings.TrimSpace(string(text)) {
			t.Errorf("%s: the ConfigMap has other bytes than the file", d.name)
		}
		if cm.Labels["grafana_dashboard"] != "1" || cm.Labels["team"] != "shop" || cm.Annotations["grafana_folder"] != "guardian" || cm.Namespace != "monitoring" {
			t.Errorf("%s: namespace %s, labels %v, annotations %v", d.name, cm.Namespace, cm.Labels, cm.Annotations)
		}
	}
}

// What a panel tells stands in the panel; the page repeats it for those who have none before them.
func TestTheGrafanaPageHasEveryPanel(t *testing.T) {
	var rows strings.Builder
	for _, d := range readDashboards(t) {
		fmt.Fprintf(&rows, "\n**%s**: %s\n\n| panel | tells |\n|---|---|\n", d.Title, d.Description)
		for _, p := range d.Panels {
			if p.Type != "row" {
				fmt.Fprintf(&rows, "| %s | %s |\n", p.Title, p.Description)
			}
		}
		for _, m := range d.Annotations.List {
			fmt.Fprintf(&rows, "| mark *%s* | %s |\n", m.Name, strings.TrimSuffix(m.TitleFormat+": "+m.TextFormat, ": "))
		}
	}
	const mark = "<!-- panels: made by make golden -->\n"
	head, _, found := strings.Cut(readDoc(t, "docs", "grafana.md"), mark)
	if !found {
		t.Fatal("docs/grafana.md has no place for the panels")
	}
	checkFile(t, filepath.Join("..", "..", "docs", "grafana.md"), head+mark+rows.String())
}

// Kiali reads five fields: code, percent for degraded, percent for failure, protocol, direction.
// https://github.com/kiali/kiali/blob/v2.31.0/business/health_config.go
func TestTheKialiPagesAnnotationIsTheDefaultLimit(t *testing.T) {
	m := regexp.MustCompile(`health\.kiali\.io/rate: "([^"]+)"`).FindStringSubmatch(readDoc(t, "docs", "kiali.md"))
	if m == nil {
		t.Fatal("docs/kiali.md shows no annotation")
	}
	limit := config.DefaultGuard("orders-service").Signals.ErrorRate.Max * 100
	protocols := map[string]string{}
	for _, part := range strings.Split(m[1], ";") {
		fields := strings.Split(part, ",")
		if len(fields) != 5 {
			t.Errorf("%s: %d fields", part, len(fields))
			continue
		}
		degraded, err1 := strconv.ParseFloat(fields[1], 32)
		failure, err2 := strconv.ParseFloat(fields[2], 32)
		if err1 != nil || err2 != nil || degraded > failure || failure != limit || fields[4] != "inbound" {
			t.Errorf("%s: want failure at %v%%", part, limit)
		}
		protocols[fields[3]] = fields[0]
	}
	generated, err := rules.Generate(rules.Options{Guards: []rules.Guard{{Name: "orders-service", Namespace: "microservices",
		Stable: rules.Side{Name: "v1", Workloads: []string{"orders-v1"}}, Canary: rules.Side{Name: "v2", Workloads: []string{"orders-v2"}},
		Signals: rules.Signals{ErrorRate: &rules.ErrorRate{Max: 0.01}}}}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := generated.Prometheus()
	if err != nil {
		t.Fatal(err)
	}
	if protocols["http"] != "5XX" || !strings.Contains(string(text), `response_code=~"5.."`) {
		t.Errorf("Kiali counts %s as failed, guardian other codes", protocols["http"])
	}
	if !strings.Contains(string(text), `grpc_response_status=~"`+strings.Trim(protocols["grpc"], "()")+`"`) {
		t.Errorf("Kiali counts gRPC %s as failed, guardian others", protocols["grpc"])
	}
}
