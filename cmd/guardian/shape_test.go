package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/cmd/guardian/report"
	"github.com/canary-guardian/guardian/remediate/decision"
)

// printedKinds are all that -o json prints.
var printedKinds = []struct {
	kind, commands string
	of             reflect.Type
}{
	{"GuardStatus", "`status`: one, or a list", reflect.TypeFor[statusJSON]()},
	{"GateAnswer", "`gate`: one, or a list of those about several guards", reflect.TypeFor[gateJSON]()},
	{"RequestAnswer", "`rollback`, `unlock`, `pause`, `resume`, `promote`, `disarm`, `arm`, `mark`: one, or with `--all` a list", reflect.TypeFor[requestAnswer]()},
	{"GuardHistory", "`history`", reflect.TypeFor[historyJSON]()},
	{"GuardReceipt", "`receipt`", reflect.TypeFor[receiptJSON]()},
	{"Report", "`report`", reflect.TypeFor[reportJSON]()},
	{"Check", "`check`", reflect.TypeFor[checkReport]()},
	{"Error", "each of them, where it has no answer to print: no such guard, a record that cannot be read, no cluster", reflect.TypeFor[errorJSON]()},
}

// shapes makes the page of what -o json prints of the types that are printed, and their comments.
type shapes struct {
	t        *testing.T
	comments map[string]string // of a field, by package.Type.Field
	sections []reflect.Type    // of objects within objects, in the order in which they are met
	seen     map[reflect.Type]bool
	keys     int
}

// structComments are the comments of all fields of all structs in a folder.
func structComments(t *testing.T, folder, name string, into map[string]string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok {
				for _, f := range s.Fields.List {
					for _, field := range f.Names {
						into[name+"."+spec.Name.Name+"."+field.Name] = strings.Join(strings.Fields(f.Doc.Text()+f.Comment.Text()), " ")
					}
				}
			}
			return true
		})
	}
}

// table has a line for each key of an object; what is embedded is part of it.
func (s *shapes) table(of reflect.Type) string {
	var out strings.Builder
	for f := range of.Fields() {
		tag, ok := f.Tag.Lookup("json")
		if f.Anonymous && !ok {
			if f.Type != reflect.TypeFor[shape]() {
				out.WriteString(s.table(f.Type))
			}
			continue
		}
		key, options, _ := strings.Cut(tag, ",")
		if key == "-" {
			continue
		}
		if key == "" {
			s.t.Errorf("%v.%s has no key", of, f.Name)
		}
		s.keys++
		absent := ""
		if strings.Contains(options, "omit") {
			absent = "may be absent"
		}
		meaning := strings.TrimPrefix(s.comments[of.String()+"."+f.Name], f.Name+" is ")
		meaning = strings.ReplaceAll(meaning, "|", `\|`)
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", key, s.kind(f.Type), absent, meaning)
	}
	return out.String()
}

// kind is what JSON has for a type; objects get a section.
func (s *shapes) kind(of reflect.Type) string {
	switch of {
	case reflect.TypeFor[time.Time]():
		return "time"
	case reflect.TypeFor[time.Duration]():
		return "integer, nanoseconds"
	}
	switch of.Kind() {
	case reflect.Pointer:
		return s.kind(of.Elem())
	case reflect.Slice:
		kind := "list of " + s.kind(of.Elem())
		if strings.HasSuffix(kind, ")") { // of an object's name
			return kind
		}
		return kind + "s"
	case reflect.Map: // whose keys are names
		return "object of " + s.kind(of.Elem()) + "s"
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Int, reflect.Int64:
		return "integer"
	case reflect.Float64:
		return "number"
	case reflect.Struct:
		if !s.seen[of] {
			s.seen[of] = true
			s.sections = append(s.sections, of)
		}
		return fmt.Sprintf("[%s](#%s)", of.Name(), strings.ToLower(of.Name()))
	}
	s.t.Errorf("no word for %v", of)
	return ""
}

const shapesPage = `# What ` + "`-o json`" + ` prints

Made of the types that are printed (` + "`make golden`" + `); a test fails when it lags behind. Each object begins with ` + "`apiVersion`" + `, which is ` + "`" + shapeVersion + "`" + `, and its
` + "`kind`" + `. Within a version keys are added, and none is renamed, removed, or given another meaning: read past those that you do not know. Times are RFC 3339, weights percent.
`

// TestThePageOfShapesIsWhatIsPrinted makes docs/json.md.
func TestThePageOfShapesIsWhatIsPrinted(t *testing.T) {
	s := &shapes{t: t, comments: map[string]string{}, seen: map[reflect.Type]bool{}}
	structComments(t, ".", "main", s.comments)
	structComments(t, "report", "report", s.comments)
	structComments(t, filepath.Join("..", "..", "remediate", "decision"), "decision", s.comments)
	var text strings.Builder
	text.WriteString(shapesPage)
	section := func(name, about, table string) {
		fmt.Fprintf(&text, "\n## %s\n%s\n| key | value | | is |\n|---|---|---|---|\n%s", name, about, table)
	}
	for _, k := range printedKinds {
		section(k.kind, "\n"+k.commands+".\n", s.table(k.of))
	}
	names := map[string]reflect.Type{}
	for i := 0; i < len(s.sections); i++ { // which grows
		of := s.sections[i]
		if other := names[of.Name()]; other != nil {
			t.Errorf("%v and %v have one name", of, other)
		}
		names[of.Name()] = of
		section(of.Name(), "", s.table(of))
	}
	if s.keys < 150 || names["Lock"] != reflect.TypeFor[decision.Lock]() || names["Rollback"] != reflect.TypeFor[report.Rollback]() {
		t.Errorf("only %d keys: the walk is broken", s.keys)
	}
	checkFile(t, filepath.Join("..", "..", "docs", "json.md"), text.String())
}
