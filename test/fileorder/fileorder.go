// Package fileorder has a test hold the order of a package's files: each refers to
// files below it alone. It knows nothing of any package.
package fileorder

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

// Check fails t where a file of the package in the test's folder, tests left out, refers
// back to one that refers to it, directly or by way of others. seen are files, each with
// another that it is known to refer to: a Check that does not see it would see no circle
// either.
func Check(t testing.TB, seen map[string]string) {
	t.Helper()
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
	refers, err := references(sources)
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range seen {
		if refers[from][to] == "" {
			t.Errorf("%s refers to %s, which is not seen", from, to)
		}
	}
	if found := circle(refers); found != "" {
		t.Errorf("%s: put what both need below them, or what one alone needs beside it", found)
	}
}

// nothing imports no package: what files of one package have of each other is known without.
type nothing struct{}

func (nothing) Import(string) (*types.Package, error) { return nil, errors.New("not imported") }

// references are, by file, the files that it refers to, each with a name that it has from there.
func references(sources map[string]string) (map[string]map[string]string, error) {
	fset, out := token.NewFileSet(), map[string]map[string]string{}
	var files []*ast.File
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		f, err := parser.ParseFile(fset, name, sources[name], parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files, out[name] = append(files, f), map[string]string{}
	}
	info := types.Info{Uses: map[*ast.Ident]types.Object{}}
	loose := types.Config{Importer: nothing{}, Error: func(error) {}}
	_, _ = loose.Check("files", fset, files, &info) // its error is that nothing was imported
	for id, what := range info.Uses {
		from, to := fset.Position(id.Pos()).Filename, fset.Position(what.Pos()).Filename
		if old := out[from][to]; to != "" && to != from && (old == "" || id.Name < old) {
			out[from][to] = id.Name
		}
	}
	return out, nil
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
