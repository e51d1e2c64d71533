// Command dashboards writes guardian's Grafana dashboards: `make golden` runs it.
//
// They are built with Grafana's own SDK and read back by its strict decoder, so that a field that Grafana does not know,
// or one of the wrong type, is found here. What the decoder does not see (grid, units, descriptions, queries) is for the tests
// of cmd/guardian.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/statetimeline"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// files by name, without .json.
var files = map[string]func() (dashboard.Dashboard, error){
	"guardian-guard":     guardDashboard,
	"guardian-namespace": namespaceDashboard,
	"guardian-self":      selfDashboard,
}

func main() {
	out := flag.String("out", "", "folder to write to")
	flag.Parse()
	if err := run(*out); err != nil {
		fmt.Fprintln(os.Stderr, "dashboards:", err)
		os.Exit(1)
	}
}

// run writes all dashboards into a folder, or none if one is wrong.
func run(out string) error {
	if out == "" {
		return errors.New("-out: empty; want the folder to write to")
	}
	register()
	texts := map[string][]byte{}
	for name, build := range files {
		d, err := build()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if texts[name], err = encode(d); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for name, text := range texts {
		if err := os.WriteFile(filepath.Join(out, name+".json"), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// register tells the strict decoder of the kinds of panels and queries that are used here: of others it would believe anything.
func register() {
	runtime := cog.NewRuntime()
	runtime.RegisterDataqueryVariant(prometheus.VariantConfig())
	runtime.RegisterPanelcfgVariant(stat.VariantConfig())
	runtime.RegisterPanelcfgVariant(statetimeline.VariantConfig())
	runtime.RegisterPanelcfgVariant(table.VariantConfig())
	runtime.RegisterPanelcfgVariant(timeseries.VariantConfig())
}

// encode writes a dashboard as Grafana reads it, and reads it back.
func encode(d dashboard.Dashboard) ([]byte, error) {
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, err
	}
	var back dashboard.Dashboard
	if err := errors.Join(actual(back.UnmarshalJSONStrict(text)), actual(back.Validate())); err != nil {
		return nil, fmt.Errorf("read back: %w", err)
	}
	return append(text, '\n'), nil
}

// actual is an error, or nil where the SDK returns an empty list of errors in an interface that is not nil.
func actual(err error) error {
	var list cog.BuildErrors
	if errors.As(err, &list) && len(list) == 0 {
		return nil
	}
	return err
}
