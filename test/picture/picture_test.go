package picture

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func someDashboard() Dashboard {
	most := 100.0
	points := []Point{{At: 0, Value: 50}, {At: time.Second, Value: 50}, {At: 10 * time.Second, Value: 0}, {At: 11 * time.Second, Value: 0}}
	return Dashboard{
		Title: "guardian / guard", Caption: `drawn by a test, of "data" <of> a run & not by Grafana`, Span: 20 * time.Second, Step: time.Second,
		Marks: []Mark{{"Rollback", "#cf222e", []time.Duration{10 * time.Second}}, {"Step", "#1a7f37", nil}},
		Panels: []Panel{
			{Kind: "stat", Title: "Weights now", Unit: "percent", W: 5, H: 4, Series: []Series{{Name: "v2", Color: "#000", Points: []Point{{Value: 12.5}}}}},
			{Kind: "row", Title: "Traffic", Y: 4, W: 24, H: 1},
			{Kind: "timeseries", Title: "Weights", Unit: "percent", Y: 5, W: 12, H: 8, Max: &most, Series: []Series{{Name: "v2", Color: "#0969da", Points: points}}},
			{Kind: "state-timeline", Title: "State", X: 12, Y: 5, W: 12, H: 8, Series: []Series{{Name: "shifting", Color: "#0969da", Points: points[:2]}}},
			{Kind: "timeseries", Title: "Waits", Y: 13, W: 12, H: 8, Nothing: "promotion.mode is off"},
			{Kind: "stat", Title: "State now", X: 5, W: 5, H: 4, NameOnly: true, Series: []Series{{Name: "rolled-back", Color: "#000", Points: []Point{{Value: 7}}}}},
			{Kind: "timeseries", Title: "Rollbacks", Y: 21, W: 12, H: 8, Bars: true, Series: []Series{{Name: "done", Color: "#0969da", Points: []Point{{At: time.Second, Value: 1}, {At: 2 * time.Second, Value: 1}, {At: 19 * time.Second, Value: 0}}}}},
			{Kind: "table", Title: "Guards", X: 12, Y: 13, W: 12, H: 8, Table: [][]string{{"Guard"}, {"<orders>"}}},
		},
	}
}

func TestAPictureIsADocumentThatSaysWhatDrewIt(t *testing.T) {
	svg := string(someDashboard().SVG())
	decoder, texts := xml.NewDecoder(strings.NewReader(svg)), ""
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, svg)
		}
		if text, ok := token.(xml.CharData); ok {
			texts += string(text)
		}
	}
	for _, want := range []string{`drawn by a test, of "data" <of> a run & not by Grafana`, "12.5%", "No data: promotion.mode is off", "shifting", "<orders>", "0:15", "Rollback"} {
		if !strings.Contains(texts, want) {
			t.Errorf("nothing says %q", want)
		}
	}
	if strings.Contains(texts, "Step") {
		t.Error("a mark without a time is named")
	}
}

func TestAPanelStandsWhereItsDashboardHasIt(t *testing.T) {
	svg := string(someDashboard().SVG())
	for _, want := range []string{
		`<rect x="608.0" y="214.0" width="592.0" height="232.0"`, // the state, right of the weights
		`<svg xmlns="http://www.w3.org/2000/svg" width="1208" height="942"`,
		"M70.0 324.0h0.5L95.9 324.0M329.0 406.0h0.5L354.9 406.0", // half way up, then a gap, then at the bottom
		`<rect x="95.9" y="722.0" width="51.8" height="164.0"`,   // two seconds with one rollback, as one bar
		`class="big" style="fill: #000">rolled-back</text>`,
	} {
		if !strings.Contains(svg, want) {
			t.Errorf("%s is not drawn:\n%s", want, svg)
		}
	}
}

func TestALongReasonIsWrapped(t *testing.T) {
	if got := strings.Join(wrapped("No data: a conflict of two writes is a matter of chance", 20), "|"); got != "No data: a conflict|of two writes is a|matter of chance" {
		t.Error(got)
	}
}

func TestAnAxisEndsAboveWhatItHolds(t *testing.T) {
	for v, want := range map[float64]float64{0: 1, 0.0101: 0.02, 3: 4, 7: 8, 8.5: 10, 120: 200} {
		if got := nice(v); got < want*0.999 || got > want*1.001 {
			t.Errorf("%v: %v, want %v", v, got, want)
		}
	}
}

func TestNumbersHaveTheirUnits(t *testing.T) {
	for want, v := range map[string]struct {
		unit  string
		value float64
	}{"50%": {"percent", 50}, "5%": {"percentunit", 0.05}, "250 ms": {"s", 0.25}, "2 s": {"s", 2}, "0 s": {"s", 0}, "10 req/s": {"reqps", 10}, "54 MiB": {"bytes", 54 << 20}, "3": {"short", 3}} {
		if got := Format(v.unit, v.value); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
