package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker: -ldflags "-X main.version=v1.2.3".
var version string

// buildVersion is what was linked in, else what the Go tool knows.
func buildVersion() (name, revision string) {
	name, revision = version, "unknown"
	info, ok := debug.ReadBuildInfo()
	if ok {
		if name == "" {
			name = info.Main.Version
		}
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				revision = s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				revision += " with changes"
			}
		}
	}
	if name == "" {
		name = "(devel)"
	}
	return name, revision
}

func newVersionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  wantArgs(0, 0),
		RunE: func(*cobra.Command, []string) error {
			name, revision := buildVersion()
			_, err := fmt.Fprintf(a.out, "guardian %s (revision %s, %s, %s/%s)\n", name, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
