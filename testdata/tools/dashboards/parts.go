package main

import (
	"errors"
	"fmt"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
)

// gridWidth is how many columns Grafana's grid has.
const gridWidth = 24

// datasource is the Prometheus that whoever looks has chosen.
var datasource = common.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("${datasource}")}

// Colours, the same on all dashboards.
const (
	blue, orange, red, green = "blue", "orange", "red", "green"
	yellow, purple, grey     = "yellow", "purple", "text"
)

// stateColors are those of a guard's states.
var stateColors = []struct{ state, color string }{
	{"idle", grey}, {"shifting", blue}, {"promoted", green}, {"completed", green}, {"unverified", yellow},
	{"held", yellow}, {"rolled-back", red}, {"blocked", "dark-red"}, {"paused", purple}, {"disarmed", "dark-purple"},
}

// query is one query of a panel, and what its series are called.
type query struct {
	expr, legend string
	instant      bool
}

func (q query) build(i int, format prometheus.PromQueryFormat) (*prometheus.Dataquery, error) {
	b := prometheus.NewDataqueryBuilder().Expr(q.expr).LegendFormat(q.legend).RefId(string(rune('A' + i))).Datasource(datasource).Format(format)
	if b = b.Range(); q.instant {
		b = b.Instant()
	}
	built, err := b.Build()
	if err != nil {
		return nil, err
	}
	out, ok := built.(prometheus.Dataquery)
	if !ok {
		return nil, fmt.Errorf("query %d is a %T", i, built)
	}
	return &out, nil
}

// tile is a panel before it has its place.
type tile struct {
	title, description string
	width              uint32
	queries            []query
	builder            cog.Builder[dashboard.Panel]
	table              bool
}

// layout places tiles from the top down and numbers them.
type layout struct {
	panels []dashboard.PanelOrRowPanel
	y      uint32
	id     uint32
	err    error
}

// row begins a part with a title.
func (l *layout) row(title string) {
	l.id++
	l.panels = append(l.panels, dashboard.PanelOrRowPanel{RowPanel: &dashboard.RowPanel{
		Type: "row", Id: l.id, Title: &title, Panels: []dashboard.Panel{}, GridPos: &dashboard.GridPos{H: 1, W: gridWidth, Y: l.y},
	}})
	l.y++
}

// line places tiles side by side; their widths add up to the grid's.
func (l *layout) line(height uint32, tiles ...tile) {
	x := uint32(0)
	for _, t := range tiles {
		p, err := t.build()
		if err != nil {
			l.err = errors.Join(l.err, fmt.Errorf("panel %q: %w", t.title, err))
			continue
		}
		l.id++
		p.Id, p.GridPos = cog.ToPtr(l.id), &dashboard.GridPos{H: height, W: t.width, X: x, Y: l.y}
		l.panels = append(l.panels, dashboard.PanelOrRowPanel{Panel: &p})
		x += t.width
	}
	if x != gridWidth {
		l.err = errors.Join(l.err, fmt.Errorf("panels beside %q are %d wide; want %d", tiles[0].title, x, gridWidth))
	}
	l.y += height
}

func (t tile) build() (dashboard.Panel, error) {
	p, err := t.builder.Build()
	if err != nil {
		return p, err
	}
	p.Title, p.Description, p.Datasource = &t.title, &t.description, &datasource
	format := prometheus.PromQueryFormatTimeSeries
	if t.table {
		format = prometheus.PromQueryFormatTable
	}
	for i, q := range t.queries {
		target, err := q.build(i, format)
		if err != nil {
			return p, err
		}
		p.Targets = append(p.Targets, *target)
	}
	return p, nil
}

// page is what one dashboard has besides its panels.
type page struct {
	uid, title, description string
	variables               []cog.Builder[dashboard.VariableModel]
	marks                   []mark
	layout                  layout
}

func (p *page) build() (dashboard.Dashboard, error) {
	b := dashboard.NewDashboardBuilder(p.title).Uid(p.uid).Description(p.description).Tags([]string{"guardian", "istio", "canary"}).
		Time("now-1h", "now").Refresh("10s").Timezone("browser").Editable().Tooltip(dashboard.DashboardCursorSyncCrosshair).
		Variables(append([]cog.Builder[dashboard.VariableModel]{datasourceVariable()}, p.variables...)).
		Link(dashboard.NewDashboardLinkBuilder("guardian").Type(dashboard.DashboardLinkTypeDashboards).Tags([]string{"guardian"}).
			Icon("external link").AsDropdown(true).IncludeVars(true).KeepTime(true))
	for _, m := range p.marks {
		b = b.Annotation(m.builder())
	}
	d, err := b.Build()
	if err != nil {
		return d, err
	}
	d.Panels = p.layout.panels
	// By default the SDK puts both into a menu, where nobody finds them.
	for i := range d.Annotations.List {
		d.Annotations.List[i].Placement = nil
	}
	for i := range d.Links {
		d.Links[i].Placement = nil
	}
	return d, p.layout.err
}

func datasourceVariable() cog.Builder[dashboard.VariableModel] {
	return dashboard.NewDatasourceVariableBuilder("datasource").Label("Prometheus").Type("prometheus").
		Description("The Prometheus that scrapes guardian and the proxies and evaluates guardian's rules.")
}

// valuesOf is a variable with the values of a label.
func valuesOf(name, label, description, selector, of string) *dashboard.QueryVariableBuilder {
	text := "label_values(" + selector + ", " + of + ")"
	return dashboard.NewQueryVariableBuilder(name).Label(label).Description(description).Datasource(datasource).
		Query(dashboard.StringOrMap{String: &text}).Definition(text).
		Refresh(dashboard.VariableRefreshOnTimeRangeChanged).Sort(dashboard.VariableSortAlphabeticalAsc)
}

func namespaceVariable() cog.Builder[dashboard.VariableModel] {
	return valuesOf("namespace", "Namespace", "The namespace that guardian guards.", "guardian_leader", "guardian_namespace")
}

func filterVariable() cog.Builder[dashboard.VariableModel] {
	return dashboard.NewAdHocVariableBuilder("filters").Label("Filters").Datasource(datasource).
		Description("Further labels for all queries, such as cluster where one Prometheus API serves several clusters.")
}

// mark is a query whose samples are shown as annotations.
type mark struct {
	name, color, expr, title, text, tags string
	byValue, off                         bool // byValue: the value says when, in milliseconds
}

func (m mark) builder() cog.Builder[dashboard.AnnotationQuery] {
	b := dashboard.NewAnnotationQueryBuilder().Name(m.name).Datasource(datasource).Enable(!m.off).IconColor(m.color).
		Expr(m.expr).Step("15s").TitleFormat(m.title).TextFormat(m.text).TagKeys(m.tags)
	if m.byValue {
		b = b.UseValueForTime(true)
	}
	return b
}
