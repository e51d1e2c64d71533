package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/canary-guardian/guardian/internal/printable"
)

// shape begins what is printed for programs. Within a version keys are added, and
// none is renamed, removed, or given another meaning.
type shape struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

// shapeVersion is of all that -o json prints. It is no API of a cluster.
const shapeVersion = "cli.canary-guardian.io/v1"

func shapeOf(kind string) shape { return shape{shapeVersion, kind} }

// writeJSON prints what a program reads.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// errorJSON is what a program reads where a command has no answer of its own to print.
type errorJSON struct {
	shape
	Code int    `json:"code"` // as the command's exit code
	Text string `json:"text"`
}

// wantsJSON says whether a call asks for an answer for programs.
func wantsJSON(cmd *cobra.Command) bool {
	f := cmd.Flags().Lookup("output")
	return f != nil && f.Value.String() == "json"
}

// askedForJSON says that a command line that could not be read has --output json: what
// comes after the first wrong flag has not become the flag's value.
func askedForJSON(cmd *cobra.Command, args []string) bool {
	if cmd.Flags().Lookup("output") == nil {
		return false
	}
	line := " " + strings.Join(args, " ") + " "
	return slices.ContainsFunc([]string{" -o json ", " -o=json ", " -ojson ", " --output json ", " --output=json "}, func(flag string) bool { return strings.Contains(line, flag) })
}

// jsonOr says of a flag --output that it is neither json nor nothing, which is for what
// a person reads.
func jsonOr(forPeople, output string) error {
	if output == "" || output == "json" {
		return nil
	}
	return fmt.Errorf("--output %q: want json, or nothing for %s", output, forPeople)
}

// firstWrite knows whether anything was written.
type firstWrite struct {
	io.Writer
	wrote bool
}

func (w *firstWrite) Write(p []byte) (int, error) {
	w.wrote = w.wrote || len(p) > 0
	return w.Writer.Write(p)
}

// forPrograms runs a command that is to answer in JSON: where it ends in an error and
// has printed nothing, the error is the document.
func (a *app) forPrograms(run func() error) error {
	out := &firstWrite{Writer: a.out}
	a.out = out
	err := run()
	if err == nil || out.wrote {
		return err
	}
	if printErr := writeJSON(a.out, errorJSON{shapeOf("Error"), exitCode(err), printable.Line(err.Error())}); printErr != nil {
		return printErr
	}
	return err
}
