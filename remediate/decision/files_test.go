package decision

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// nothing imports no package: what files of one package have of each other is known without.
type nothing struct{}

func (nothing) Import(string) (*types.Package, error) { return nil, errors.New("not imported") }

// references are, by file, the files that it refers to, each with a name that it has from there.
func references(t *testing.T, sources map[string]string) map[string]map[string]string {
	t.Helper()
	fset, out := token.NewFileSet(), map[string]map[string]string{}
	var files []*ast.File
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		f, err := parser.ParseFile(fset, name, sources[name], parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files, out[name] = append(files, f), map[string]string{}
	}
	info := types.Info{Uses: map[*ast.Ident]types.Object{}}
	loose := types.Config{Importer: nothing{}, Error: func(error) {}}
	_, _ = loose.Check("decision", fset, files, &info) // its error is that nothing was imported
	for id, what := range info.Uses {
		from, to := fset.Position(id.Pos()).Filename, fset.Position(what.Pos()).Filename
		if old := out[from][to]; to != "" && to != from && (old == "" || id.Name < old) {
			out[from][to] = id.Name
		}
	}
	return out
}

// circle is a way from a file back to it, in words; "": there is none.
func circle(refers map[string]map[string]string) string {
	done := map[string]bool{}
	var visit func(file string, way []string) string
	visit = func(file string, way []string) string {
		if i := slices.Index(way, file); i >= 0 {
			way = append(slices.Clone(way[i:]), file)
			for n := range len(way) - 1 {
				way[n] += " refers to " + refers[way[n]][way[n+1]] + " of"
			}
			return strings.Join(way, " ")
		}
		if done[file] {
			return ""
		}
		done[file] = true
		for _, next := range slices.Sorted(maps.Keys(refers[file])) {
			if found := visit(next, append(slices.Clone(way), file)); found != "" {
				return found
			}
		}
		return ""
	}
	for _, file := range slices.Sorted(maps.Keys(refers)) {
		if found := visit(file, nil); found != "" {
			return found
		}
	}
	return ""
}

// A stage refers to what lies below it alone, and a value to no stage.
func TestNoFileRefersBackToOneThatRefersToIt(t *testing.T) {
	sources := map[string]string{}
	names, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range names {
		if name := entry.Name(); strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") {
			src, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			sources[name] = string(src)
		}
	}
	refers := references(t, sources)
	if refers["decide.go"]["decider.go"] == "" || refers["decider.go"]["status.go"] == "" {
		t.Error("decide.go refers to decider.go, and that to status.go: neither is seen")
	}
	if found := circle(refers); found != "" {
		t.Errorf("%s: put what both need below them, or what one alone needs beside it", found)
	}
}

func TestACircleOfFilesIsFound(t *testing.T) {
	for name, c := range map[string]struct {
		b    string
		want string
	}{
		"by a function": {"package x\nimport \"fmt\"\nfunc low() { fmt.Println(top()) }", "a.go refers to low of b.go refers to top of a.go"},
		"by a method":   {"package x\nfunc low() { one{}.top() }", "a.go refers to low of b.go refers to one of a.go"},
		"none":          {"package x\nfunc low() {}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := "package x\ntype one struct{}\nfunc (one) top() int { return top() }\nfunc top() int { low(); return 1 }"
			if got := circle(references(t, map[string]string{"a.go": a, "b.go": c.b})); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
