package main

import (
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/statetimeline"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// fixed is the property that gives a series one colour.
func fixed(color string) dashboard.DynamicConfigValue {
	return dashboard.DynamicConfigValue{Id: "color", Value: map[string]any{"mode": "fixed", "fixedColor": color}}
}

// limitLine is how a limit is drawn: red, dashed, not filled.
func limitLine() []dashboard.DynamicConfigValue {
	return []dashboard.DynamicConfigValue{
		fixed(red),
		{Id: "custom.lineStyle", Value: map[string]any{"fill": "dash", "dash": []int{8, 6}}},
		{Id: "custom.fillOpacity", Value: 0},
	}
}

// lines is a panel of lines over time, from 0 up. Stable, canary and limit look the same everywhere.
func lines(unit string) *timeseries.PanelBuilder {
	return timeseries.NewPanelBuilder().Unit(unit).Min(0).LineWidth(1).FillOpacity(8).ShowPoints(common.VisibilityModeNever).
		Legend(common.NewVizLegendOptionsBuilder().DisplayMode(common.LegendDisplayModeList).Placement(common.LegendPlacementBottom).ShowLegend(true)).
		Tooltip(common.NewVizTooltipOptionsBuilder().Mode(common.TooltipDisplayModeMulti).Sort(common.SortOrderDescending)).
		OverrideByRegexp("^stable.*", []dashboard.DynamicConfigValue{fixed(blue)}).
		OverrideByRegexp("^canary.*", []dashboard.DynamicConfigValue{fixed(orange)}).
		OverrideByRegexp("^limit.*", limitLine())
}

// bars is a panel of counts, one bar for each interval.
func bars() *timeseries.PanelBuilder {
	return lines("short").DrawStyle(common.GraphDrawStyleBars).FillOpacity(60).Decimals(0).
		Stacking(common.NewStackingConfigBuilder().Mode(common.StackingModeNormal))
}

// number is a panel of one or few newest values.
func number(unit string) *stat.PanelBuilder {
	return stat.NewPanelBuilder().Unit(unit).GraphMode(common.BigValueGraphModeNone).ColorMode(common.BigValueColorModeValue).Orientation(common.VizOrientationAuto).
		ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"})).
		Thresholds(steps(step{color: green}))
}

// step is where a colour begins; the first has no value.
type step struct {
	color string
	from  float64
}

func steps(list ...step) cog.Builder[dashboard.ThresholdsConfig] {
	out := []dashboard.Threshold{}
	for i, s := range list {
		t := dashboard.Threshold{Color: s.color}
		if i > 0 {
			t.Value = cog.ToPtr(s.from)
		}
		out = append(out, t)
	}
	return dashboard.NewThresholdsConfigBuilder().Mode(dashboard.ThresholdsModeAbsolute).Steps(out)
}

// states is a panel that names the state a guard is in, in the state's colour.
func states(mode common.BigValueTextMode) *stat.PanelBuilder {
	b := number("none").TextMode(mode).ColorMode(common.BigValueColorModeBackground)
	for _, s := range stateColors {
		b = b.OverrideByName(s.state, []dashboard.DynamicConfigValue{fixed(s.color)})
	}
	return b
}

// timeline is a panel with a bar for each series while it has a sample; text names what one stands for.
func timeline(text string) *statetimeline.PanelBuilder {
	b := statetimeline.NewPanelBuilder().Unit("none").ShowValue(common.VisibilityModeNever).MergeValues(true).RowHeight(0.8).
		Mappings([]dashboard.ValueMapping{{ValueMap: &dashboard.ValueMap{
			Type: dashboard.MappingTypeValueToText, Options: map[string]dashboard.ValueMappingResult{"1": {Text: &text, Color: cog.ToPtr(orange)}},
		}}})
	for _, s := range stateColors {
		b = b.OverrideByName(s.state, []dashboard.DynamicConfigValue{fixed(s.color)})
	}
	return b
}

// upTimeline is a timeline of what is 1 while it is well.
func upTimeline() *statetimeline.PanelBuilder {
	return statetimeline.NewPanelBuilder().Unit("none").ShowValue(common.VisibilityModeNever).MergeValues(true).RowHeight(0.8).
		Mappings([]dashboard.ValueMapping{{ValueMap: &dashboard.ValueMap{
			Type: dashboard.MappingTypeValueToText, Options: map[string]dashboard.ValueMappingResult{
				"0": {Text: cog.ToPtr("gone"), Color: cog.ToPtr(red)}, "1": {Text: cog.ToPtr("alive"), Color: cog.ToPtr(green)},
			},
		}}})
}

// column is what becomes of one field of a table.
type column struct {
	field, name, unit string
	properties        []dashboard.DynamicConfigValue
}

// columns joins the queries of a table by their labels, and shows the given fields alone, in their order.
func columns(hidden []string, list ...column) *table.PanelBuilder {
	b := table.NewPanelBuilder().Unit("none").Filterable(true).
		Footer(common.NewTableFooterOptionsBuilder().Show(false).Reducer([]string{}))
	exclude, index, rename := map[string]bool{"Time": true}, map[string]int{}, map[string]string{}
	for _, h := range hidden {
		exclude[h] = true
	}
	for i, c := range list {
		index[c.field], rename[c.field] = i, c.name
		properties := c.properties
		if c.unit != "" {
			properties = append(properties, dashboard.DynamicConfigValue{Id: "unit", Value: c.unit})
		}
		if len(properties) > 0 {
			b = b.OverrideByName(c.name, properties)
		}
	}
	return b.WithTransformation(dashboard.DataTransformerConfig{Id: "merge", Options: map[string]any{}}).
		WithTransformation(dashboard.DataTransformerConfig{Id: "organize", Options: map[string]any{
			"excludeByName": exclude, "indexByName": index, "renameByName": rename,
		}})
}
