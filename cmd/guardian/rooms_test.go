package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/canary-guardian/guardian/"

// room is what the programs of a folder, and of the folders below it that have no
// entry of their own, may import.
type room struct {
	folder string
	only   []string // nil: anything but never; else nothing but the standard library and these
	never  []string // import paths, with all below them
}

// What sends spans; who has something to tell needs the API alone.
const (
	otelSDK       = "go.opentelemetry.io/otel/sdk"
	otelExporters = "go.opentelemetry.io/otel/exporters"
)

// rooms are the walls between the packages. What a room may not import, it may not
// import by way of another package of the module either.
var rooms = []room{
	{folder: "cmd/guardian", never: []string{module + "rules/virtualtime"}}, // the engine would make the service a third larger
	{folder: "cmd/guardian-replay", never: []string{"k8s.io/client-go", module + "remediate/records"}},
	{folder: "cmd/guardian/config", only: []string{module + "internal/printable", module + "internal/nearest", module + "alerting", module + "rules", module + "remediate/decision", module + "remediate/virtualservice",
		"github.com/spf13/viper", "github.com/fsnotify/fsnotify", "go.yaml.in/yaml/v3", "k8s.io/apimachinery/pkg/util/validation",
		"github.com/prometheus/common", "github.com/prometheus/alertmanager/timeinterval", "github.com/prometheus/prometheus/promql/parser"},
		never: []string{module + "rules/publish", "log", "net/http", "os/exec"}},
	{folder: "cmd/guardian/tracing", only: []string{"go.opentelemetry.io/otel", "go.opentelemetry.io/proto/otlp/trace/v1", "google.golang.org/protobuf", "github.com/prometheus/client_golang/prometheus", "golang.org/x/time/rate"}},
	{folder: "alerting", never: []string{module + "rules", module + "remediate", "k8s.io", "sigs.k8s.io", "istio.io", otelSDK, otelExporters}},
	{folder: "rules", never: []string{module + "alerting", module + "remediate", "github.com/labstack/echo", "go.opentelemetry.io"}},
	{folder: "cmd/guardian/page", only: []string{module + "internal/printable", module + "remediate/decision", "golang.org/x/net/publicsuffix", "golang.org/x/time/rate"}},
	{folder: "remediate", never: []string{module + "alerting", module + "rules", "github.com/labstack/echo", "github.com/prometheus/prometheus", otelSDK, otelExporters}},
	{folder: "remediate/decision", only: []string{module + "remediate/virtualservice"}, never: []string{"context", "log", "net", "os", "sync", "math/rand"}},
	{folder: "remediate/records", never: []string{module + "alerting", module + "rules", "github.com/labstack/echo", "github.com/prometheus/prometheus"}},
	{folder: "remediate/virtualservice", only: []string{"go.yaml.in/yaml/v3"}, never: []string{"context", "log", "net", "os", "sync", "time", "math/rand"}},
	{folder: "remediate/decision/decisiontest"},
	{folder: "remediate/virtualservice/vstest"},
}

// forTests is what only tests, and the programs that they start, may import.
var forTests = []string{module + "remediate/decision/decisiontest", module + "remediate/virtualservice/vstest", module + "test"}

// walls says which packages, by folder, import what their room must not.
func walls(imports map[string][]string) []string {
	var out []string
	for _, folder := range slices.Sorted(maps.Keys(imports)) {
		r, ok := roomOf(folder)
		if !ok {
			continue
		}
		for _, p := range reached(imports, folder) {
			switch std := !strings.Contains(strings.Split(p, "/")[0], "."); {
			case under(p, r.never):
				out = append(out, folder+" imports "+p)
			case r.only != nil && !std && !under(p, r.only) && p != module+r.folder:
				out = append(out, folder+" imports "+p+", and may import nothing but the standard library and "+strings.Join(r.only, ", "))
			}
		}
	}
	return out
}

func roomOf(folder string) (found room, ok bool) {
	for _, r := range rooms {
		if (folder == r.folder || strings.HasPrefix(folder, r.folder+"/")) && len(r.folder) > len(found.folder) {
			found, ok = r, true
		}
	}
	return found, ok
}

func under(p string, paths []string) bool {
	return slices.ContainsFunc(paths, func(w string) bool { return p == w || strings.HasPrefix(p, w+"/") })
}

// reached are a folder's imports, and those of the module's packages among them.
// Those of a room that a room may import are that room's to answer for.
func reached(imports map[string][]string, folder string) []string {
	seen := map[string]bool{}
	var visit func(string)
	visit = func(f string) {
		for _, p := range imports[f] {
			if seen[p] {
				continue
			}
			seen[p] = true
			if inner, ok := strings.CutPrefix(p, module); ok {
				r, _ := roomOf(folder)
				if !under(p, r.only) {
					visit(inner)
				}
			}
		}
	}
	visit(folder)
	return slices.Sorted(maps.Keys(seen))
}

// eachFile parses the module's programs, tests left out, by folder.
func eachFile(t *testing.T, do func(folder string, f *ast.File, fset *token.FileSet)) {
	t.Helper()
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		name := filepath.ToSlash(p)
		switch {
		case err != nil:
			return err
		case d.IsDir() && p != root && (strings.HasPrefix(d.Name(), ".") || strings.HasPrefix(d.Name(), "testdata")):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, p, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		do(path.Clean(strings.TrimPrefix(path.Dir(name), "../../")), f, fset)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestNoRoomImportsWhatItMustNot(t *testing.T) {
	imports := map[string][]string{}
	eachFile(t, func(folder string, f *ast.File, _ *token.FileSet) {
		all := imports[folder]
		for _, i := range f.Imports {
			p, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, p)
			if under(p, forTests) && !under(module+folder, forTests) {
				t.Errorf("%s imports %s, which is for tests", folder, p)
			}
		}
		imports[folder] = all // a program without imports is one, too
	})
	for _, r := range rooms {
		if _, ok := imports[r.folder]; !ok {
			t.Errorf("%s has no program: is its wall still where it was?", r.folder)
		}
	}
	for _, wrong := range walls(imports) {
		t.Error(wrong)
	}
}

func TestAWallThatIsBrokenIsFound(t *testing.T) {
	for name, c := range map[string]struct {
		imports map[string][]string
		wrong   string
	}{
		"a leaf imports a leaf":             {map[string][]string{"alerting": {module + "rules"}}, "alerting imports " + module + "rules"},
		"a folder of a leaf does":           {map[string][]string{"rules/publish": {module + "alerting"}}, "rules/publish imports " + module + "alerting"},
		"a leaf does by way of another":     {map[string][]string{"alerting": {module + "internal/x"}, "internal/x": {module + "rules"}}, "alerting imports " + module + "rules"},
		"alerting imports Kubernetes":       {map[string][]string{"alerting": {"k8s.io/api/core/v1"}}, "alerting imports k8s.io/api/core/v1"},
		"the configuration has a client":    {map[string][]string{"cmd/guardian/config": {"k8s.io/client-go/rest"}}, "k8s.io/client-go/rest, and may import nothing but"},
		"the configuration has a server":    {map[string][]string{"cmd/guardian/config": {"github.com/labstack/echo/v4"}}, "github.com/labstack/echo/v4, and may import nothing but"},
		"the configuration writes rules":    {map[string][]string{"cmd/guardian/config": {module + "rules/publish"}}, "cmd/guardian/config imports " + module + "rules/publish"},
		"remediate imports a server":        {map[string][]string{"remediate": {"github.com/labstack/echo/v4"}}, "remediate imports github.com/labstack/echo/v4"},
		"remediate sends spans":             {map[string][]string{"remediate": {otelSDK + "/trace"}}, "remediate imports " + otelSDK},
		"decision imports a client":         {map[string][]string{"remediate/decision": {"k8s.io/client-go/kubernetes"}}, "k8s.io/client-go/kubernetes, and may import nothing but"},
		"decision imports a logger":         {map[string][]string{"remediate/decision": {"log/slog"}}, "remediate/decision imports log/slog"},
		"decision imports what reads":       {map[string][]string{"remediate/decision": {module + "remediate"}}, "and may import nothing but"},
		"virtualservice imports Kubernetes": {map[string][]string{"remediate/virtualservice": {"k8s.io/apimachinery/pkg/runtime"}}, "and may import nothing but"},
		"virtualservice imports decision":   {map[string][]string{"remediate/virtualservice": {module + "remediate/decision"}}, "and may import nothing but"},
		"what is allowed": {map[string][]string{"remediate/decision": {"fmt", module + "remediate/virtualservice"}, "remediate/virtualservice": {"go.yaml.in/yaml/v3"},
			"remediate": {"log/slog", module + "remediate/decision"}, "alerting": {"github.com/labstack/echo/v4"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := strings.Join(walls(c.imports), "\n")
			if c.wrong == "" && got != "" || !strings.Contains(got, c.wrong) {
				t.Errorf("got %q, want %q", got, c.wrong)
			}
		})
	}
}

// A function that decides is handed the time.
func TestWhatDecidesReadsNoClock(t *testing.T) {
	clocks := []string{"Now", "Since", "Until", "After", "AfterFunc", "Sleep", "Tick", "NewTicker", "NewTimer"}
	looked := 0
	eachFile(t, func(folder string, f *ast.File, fset *token.FileSet) {
		if folder != "remediate/decision" {
			return
		}
		looked++
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clocks, s.Sel.Name) {
					t.Errorf("%s: time.%s", fset.Position(n.Pos()), s.Sel.Name)
				}
			}
			return true
		})
	})
	if looked == 0 {
		t.Error("no file of remediate/decision found")
	}
}
