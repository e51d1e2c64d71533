package main

import (
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/test/picture"
)

var pictures = flag.Bool("pictures", false, "write the pictures of the documentation")

const pictureStep = time.Second

// cssColors are Grafana's names of colours, as they can be told apart on white.
var cssColors = map[string]string{
	"red": "#e02f44", "dark-red": "#ad0317", "orange": "#e36209", "yellow": "#d4a106", "green": "#2da44e", "blue": "#3274d9",
	"purple": "#a352cc", "dark-purple": "#6f2da8", "text": "#57606a",
}

// palette is for series without a colour of their own.
var palette = []string{"#2da44e", "#d4a106", "#3274d9", "#e36209", "#e02f44", "#1192a5", "#a352cc", "#705da0", "#508642", "#cca300", "#447ebc", "#c15c17", "#890f02", "#0a437c"}

// draw draws a dashboard of what a run has left in Prometheus, and with -pictures keeps it for the documentation.
func (r *rig) draw(p promReader, d grafanaDashboard, values map[string]string) {
	r.t.Helper()
	a := artist{rig: r, prom: p, values: values, ended: time.Now()}
	svg := a.dashboard(d)
	decoder := xml.NewDecoder(strings.NewReader(string(svg)))
	for {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			r.t.Fatalf("%s: %v", d.name, err)
		}
	}
	if a.drawn < 5 {
		r.t.Errorf("%s: only %d series are drawn", d.name, a.drawn)
	}
	if *pictures {
		r.must(os.WriteFile(filepath.Join("..", "..", "docs", "images", "grafana-"+strings.TrimPrefix(d.name, "guardian-")+".svg"), svg, 0o644))
	}
}

// artist turns a dashboard and its data into what is drawn.
type artist struct {
	*rig
	prom   promReader
	values map[string]string
	ended  time.Time
	drawn  int // series
}

func (a *artist) dashboard(d grafanaDashboard) []byte {
	out := picture.Dashboard{
		Title: d.Title, Span: a.ended.Sub(a.prom.began), Step: pictureStep,
		Caption: "Drawn by guardian's own test from this dashboard's queries to a real Prometheus, while a canary failed, was rolled back and was given traffic again. " +
			"A stand-in for the mesh made the requests. Not a picture of Grafana.",
	}
	for _, p := range d.Panels {
		out.Panels = append(out.Panels, a.panel(d, p))
	}
	for _, m := range d.Annotations.List {
		if m.Expr != "" && m.Enable {
			out.Marks = append(out.Marks, a.mark(d, m))
		}
	}
	return out.SVG()
}

// ask runs a query of the dashboard.
func (a *artist) ask(q promQuery) []promSeries {
	found, err := a.prom.read(a.t.Context(), q, a.values)
	a.must(err)
	return found
}

func (a *artist) panel(d grafanaDashboard, p grafanaPanel) picture.Panel {
	f := p.FieldConfig.Defaults
	out := picture.Panel{Kind: p.Type, Title: p.Title, Unit: f.Unit, X: p.GridPos.X, Y: p.GridPos.Y, W: p.GridPos.W, H: p.GridPos.H,
		Min: f.Min, Max: f.Max, Bars: f.Custom.DrawStyle == "bars", NameOnly: p.Options.TextMode == "name"}
	found := map[string][]promSeries{} // by the query's letter
	for _, t := range p.Targets {
		q := promQuery{d.name + ": " + p.Title + " " + t.RefID, t.Expr, t.Instant}
		found[t.RefID] = a.ask(q)
		if why := emptyQueries[q.where] + chanceQueries[q.where]; why != "" {
			out.Nothing = why
		}
		if p.Type == "table" {
			continue
		}
		for _, s := range found[t.RefID] {
			out.Series = append(out.Series, a.series(p, t.LegendFormat, s, len(out.Series)))
		}
	}
	if p.Type == "table" {
		out.Table = p.cells(found)
	}
	a.drawn += len(out.Series)
	return out
}

// series is one of a panel's, the nth.
func (a *artist) series(p grafanaPanel, legend string, s promSeries, n int) picture.Series {
	out := picture.Series{Name: legendOf(legend, s.labels), Color: palette[n%len(palette)], Stepped: p.FieldConfig.Defaults.Custom.LineInterpolation == "stepAfter"}
	for _, o := range p.FieldConfig.Overrides {
		if !o.fits(out.Name) {
			continue
		}
		for _, property := range o.Properties {
			switch value, _ := property.Value.(map[string]any); property.ID {
			case "color":
				out.Color = cssColors[fmt.Sprint(value["fixedColor"])]
			case "custom.lineStyle":
				out.Dashed = value["fill"] == "dash"
			case "custom.lineInterpolation":
				out.Stepped = property.Value == "stepAfter"
			}
		}
	}
	for _, point := range s.points {
		out.Points = append(out.Points, picture.Point{At: point.at.Sub(a.prom.began), Value: point.value, Color: p.mapped(out, point.value)})
	}
	return out
}

// mapped is the colour that a value has: that of a mapping, unless the series has one of its own.
func (p grafanaPanel) mapped(s picture.Series, value float64) string {
	own := slices.ContainsFunc(p.FieldConfig.Overrides, func(o grafanaOverride) bool { return o.fits(s.Name) })
	for _, m := range p.FieldConfig.Defaults.Mappings {
		if found, ok := m.Options[strconv.FormatFloat(value, 'f', -1, 64)]; ok && !own {
			return cssColors[found.Color]
		}
	}
	return ""
}

func (o grafanaOverride) fits(name string) bool {
	if o.Matcher.ID == "byRegexp" {
		return regexp.MustCompile(o.Matcher.Options).MatchString(name)
	}
	return o.Matcher.Options == name
}

var legendLabel = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)

// legendOf fills labels in.
func legendOf(format string, labels map[string]string) string {
	return strings.TrimSpace(legendLabel.ReplaceAllStringFunc(format, func(m string) string { return labels[legendLabel.FindStringSubmatch(m)[1]] }))
}

// cells joins the queries of a table by guard, as its transformations do, under its own headings.
func (p grafanaPanel) cells(found map[string][]promSeries) [][]string {
	organize := p.Transformations[len(p.Transformations)-1].Options
	columns := slices.SortedFunc(maps.Keys(organize.IndexByName), func(x, y string) int { return organize.IndexByName[x] - organize.IndexByName[y] })
	head := make([]string, len(columns))
	for i, c := range columns {
		head[i] = organize.RenameByName[c]
	}
	out := [][]string{head}
	for _, s := range found["A"] {
		row := make([]string, len(columns))
		for i, c := range columns {
			row[i] = p.cell(c, organize.RenameByName[c], s.labels, found)
		}
		out = append(out, row)
	}
	return out
}

// cell is a label, or the number of another query for the same guard in its column's unit.
func (p grafanaPanel) cell(column, heading string, labels map[string]string, found map[string][]promSeries) string {
	letter, isValue := strings.CutPrefix(column, "Value #")
	if !isValue {
		return labels[column]
	}
	unit := p.FieldConfig.Defaults.Unit
	for _, o := range p.FieldConfig.Overrides {
		for _, property := range o.Properties {
			if o.fits(heading) && property.ID == "unit" {
				unit = fmt.Sprint(property.Value)
			}
		}
	}
	for _, s := range found[letter] {
		if s.labels["guard"] == labels["guard"] {
			return picture.Format(unit, s.points[len(s.points)-1].value)
		}
	}
	return "–"
}

// mark is when an annotation is shown: where its query begins to have data, or the times that are its values.
func (a *artist) mark(d grafanaDashboard, m grafanaMark) picture.Mark {
	out := picture.Mark{Name: m.Name, Color: cssColors[m.IconColor]}
	for _, s := range a.ask(promQuery{d.name + ": mark " + m.Name, m.Expr, false}) {
		for i, point := range s.points {
			at := point.at
			if m.UseValueForTime {
				at = time.UnixMilli(int64(point.value))
			}
			again := i > 0 && (m.UseValueForTime && point.value == s.points[i-1].value || !m.UseValueForTime && point.at.Sub(s.points[i-1].at) <= pictureStep)
			if since := at.Sub(a.prom.began); !again && since >= 0 {
				out.At = append(out.At, since)
			}
		}
	}
	return out
}

func TestTheGrafanaPageShowsAPictureOfEachDashboard(t *testing.T) {
	page := readDoc(t, "docs", "grafana.md")
	for _, d := range readDashboards(t) {
		file := "images/grafana-" + strings.TrimPrefix(d.name, "guardian-") + ".svg"
		if !strings.Contains(page, "("+file+")") {
			t.Errorf("docs/grafana.md does not show %s", file)
		}
		text := readDoc(t, "docs", file)
		for _, p := range d.Panels {
			if !strings.Contains(text, ">"+xmlText(p.Title)+"<") && !strings.Contains(text, "▾ "+xmlText(p.Title)+"<") {
				t.Errorf("%s: no panel %q: run the test that draws it with -pictures", file, p.Title)
			}
		}
		if !strings.Contains(text, "Not a picture of Grafana.") {
			t.Errorf("%s does not say what drew it", file)
		}
	}
}

func xmlText(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a builder takes all
	return b.String()
}
