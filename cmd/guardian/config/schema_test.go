package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/alertmanager/timeinterval"
	"go.yaml.in/yaml/v3"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/test/golden"
)

// chartDir is where the chart is.
var chartDir = filepath.Join("..", "..", "..", "charts", "guardian")

// jsonSchema is a part of a JSON schema.
type jsonSchema map[string]any

// schemaOfConfig makes JSON schemas of guardian's own configuration types, from
// what the decoder takes, so that the chart's values know every key and no other.
type schemaOfConfig struct {
	comments map[string]string   // type.Field → its comment
	choices  map[string][]string // key path → the values that Validate takes
}

func (s schemaOfConfig) of(path string, t reflect.Type) jsonSchema {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return jsonSchema{"type": "string", "pattern": `^([0-9.]+(ns|us|µs|ms|s|m|h|d|w|y))+$|^0$`}
	case reflect.TypeFor[Ref]():
		return jsonSchema{"oneOf": []any{
			jsonSchema{"type": "string"},
			jsonSchema{"type": "object", "properties": jsonSchema{"host": jsonSchema{"type": "string"}}, "required": []string{"host"}, "additionalProperties": false},
		}}
	case reflect.TypeFor[Step]():
		return jsonSchema{"oneOf": []any{jsonSchema{"type": "integer"}, s.structure(path, t)}}
	}
	switch t.Kind() {
	case reflect.Struct:
		return s.structure(path, t)
	case reflect.Slice:
		return jsonSchema{"type": "array", "items": s.of(path+"[]", t.Elem())}
	case reflect.Map:
		return jsonSchema{"type": "object", "additionalProperties": jsonSchema{"type": "string"}}
	case reflect.String:
		if c := s.choices[path]; len(c) > 0 {
			return jsonSchema{"enum": c}
		}
		return jsonSchema{"type": "string"}
	case reflect.Bool:
		return jsonSchema{"type": "boolean"}
	case reflect.Int:
		return jsonSchema{"type": "integer"}
	case reflect.Float64:
		return jsonSchema{"type": "number"}
	}
	panic("no schema for " + t.String())
}

func (s schemaOfConfig) structure(path string, t reflect.Type) jsonSchema {
	properties := jsonSchema{}
	for _, f := range flatFields(t) {
		var p jsonSchema
		if ownType(t) && !foreignType(f.Type) {
			p = s.of(join(path, yamlKey(f)), f.Type)
		} else {
			p = foreignSchema(f.Type)
		}
		if text := s.comments[t.Name()+"."+f.Name]; text != "" {
			p["description"] = text
		}
		properties[yamlKey(f)] = p
	}
	return jsonSchema{"type": "object", "properties": properties, "additionalProperties": false}
}

func foreignType(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !ownType(t)
}

// ownType says whether a type is one of this package.
func ownType(t reflect.Type) bool { return t.PkgPath() == reflect.TypeFor[Config]().PkgPath() }

// foreignSchema has the keys of Prometheus's and Alertmanager's types alone:
// what their values look like is for their own code.
func foreignSchema(t reflect.Type) jsonSchema {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t.Kind() == reflect.Slice && t.Elem() == reflect.TypeFor[timeinterval.TimeInterval]():
		return jsonSchema{"type": "array", "items": foreignSchema(t.Elem())}
	case t.Kind() != reflect.Struct || hasInlineMap(t) || len(flatFields(t)) == 0:
		return jsonSchema{}
	case t != reflect.TypeFor[timeinterval.TimeInterval]() && reflect.PointerTo(t).Implements(reflect.TypeFor[interface{ UnmarshalText([]byte) error }]()):
		return jsonSchema{}
	}
	properties := jsonSchema{}
	for _, f := range flatFields(t) {
		properties[yamlKey(f)] = foreignSchema(f.Type)
	}
	return jsonSchema{"type": "object", "properties": properties, "additionalProperties": false}
}

// fieldComments reads the comments of config.go's fields.
func fieldComments(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if s, ok := spec.Type.(*ast.StructType); ok {
			for _, f := range s.Fields.List {
				for _, name := range f.Names {
					out[spec.Name.Name+"."+name.Name] = strings.Join(strings.Fields(f.Doc.Text()+" "+f.Comment.Text()), " ")
				}
			}
		}
		return false
	})
	return out
}

// fieldChoices finds the keys of which Validate takes some words alone: it says
// so about a word that none of them is.
func fieldChoices(t *testing.T) map[string][]string {
	t.Helper()
	const odd = "no-such-choice"
	oneOf := regexp.MustCompile(`^want ([a-zA-Z-]+(?:, [a-zA-Z-]+)* or [a-zA-Z-]+)$`)
	out := map[string][]string{}
	try := func(path, text string) {
		var problems Problems
		if _, err := Parse([]byte(text)); !errors.As(err, &problems) {
			return
		}
		for _, p := range problems {
			if m := oneOf.FindStringSubmatch(p.Want); m != nil && p.Value == show(odd) {
				out[path] = regexp.MustCompile(`, | or `).Split(m[1], -1)
			}
		}
	}
	nested := func(path string) string { // as YAML's flow style
		open := strings.Split(path, ".")
		return "{" + strings.Join(open, ": {") + ": " + odd + strings.Repeat("}", len(open))
	}
	for path := range leaves("", reflect.ValueOf(Default())) {
		try(path, nested(path))
	}
	for path := range leaves("", reflect.ValueOf(DefaultGuard("orders"))) {
		try("guards[]."+path, "{namespace: a, guards: [{name: orders, "+strings.TrimPrefix(nested(path), "{")+"]}")
	}
	try("guards[].alerts.matchers[].action", "{namespace: a, guards: [{name: orders, alerts: {matchers: [{match: 'a=\"b\"', action: "+odd+"}]}}]}")
	return out
}

// chartOwn are the keys of the configuration that the chart sets itself, or has
// elsewhere.
var chartOwn = []string{"namespace", "listen", "guards", "mode"}

// freeValues are the values of the chart whose keys are Kubernetes's or other
// people's.
var freeValues = []string{"dashboards.labels", "resources", "podSecurityContext", "securityContext", "strategy", "startupProbe", "livenessProbe", "readinessProbe"}

// textValues are those that Kubernetes takes with strings alone: a number or true would be
// rendered as it is, and refused by the API server with no word of the chart's value.
var textValues = []string{"commonLabels", "commonAnnotations", "podLabels", "podAnnotations", "nodeSelector", "service.annotations", "serviceAccount.annotations",
	"alertmanagerConfig.labels", "serviceMonitor.labels", "dashboards.labels", "dashboards.annotations"}

// valuesSchema is the schema of one value of values.yaml, by its default.
func valuesSchema(path string, n *yaml.Node) jsonSchema {
	out := jsonSchema{}
	switch n.Kind {
	case yaml.MappingNode:
		out["type"] = "object"
		if slices.Contains(textValues, path) {
			out["additionalProperties"] = jsonSchema{"type": "string"}
		}
		if len(n.Content) == 0 || slices.Contains(freeValues, path) {
			break
		}
		properties := jsonSchema{}
		for i := 0; i < len(n.Content); i += 2 {
			p := valuesSchema(join(path, n.Content[i].Value), n.Content[i+1])
			if text := valueComment(n.Content[i]); text != "" {
				p["description"] = text
			}
			properties[n.Content[i].Value] = p
		}
		out["properties"], out["additionalProperties"] = properties, false
	case yaml.SequenceNode:
		out["type"] = "array"
	default:
		switch n.Tag {
		case "!!bool":
			out["type"] = "boolean"
		case "!!int":
			out["type"] = "integer"
		default:
			out["type"] = "string"
		}
	}
	switch path {
	case "podDisruptionBudget.maxUnavailable":
		out["type"] = []string{"integer", "string"}
	case "mode":
		out["enum"] = []string{"enforce", "observe"}
	case "istio.sidecar":
		out["enum"] = []string{"none", "excludePorts", "permissive", "mesh"}
	case "extraObjects":
		out["items"] = jsonSchema{"type": []string{"object", "string"}}
	}
	return out
}

// valueComment is a value's description: its comment from "# --" on.
func valueComment(key *yaml.Node) string {
	_, text, found := strings.Cut(key.HeadComment, "# -- ")
	if !found {
		return ""
	}
	return strings.Join(strings.Fields(strings.ReplaceAll(text, "\n#", "\n")), " ")
}

func readValues(t *testing.T) *yaml.Node {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(chartDir, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var values yaml.Node
	if err := yaml.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	return values.Content[0]
}

func TestTheChartsSchemaHasEveryKeyOfTheConfiguration(t *testing.T) {
	t.Setenv("GUARDIAN_NAMESPACE", "microservices")
	of := schemaOfConfig{comments: fieldComments(t), choices: fieldChoices(t)}
	if got := of.choices["guards[].rollback.lock"]; !slices.Equal(got, []string{string(decision.LockBuild), string(decision.LockManual), string(decision.LockNone)}) {
		t.Errorf("choices of rollback.lock: %q", got)
	}
	schema := valuesSchema("", readValues(t))
	properties := schema["properties"].(jsonSchema)
	config := of.of("", reflect.TypeFor[Config]())
	keys := config["properties"].(jsonSchema)
	guards := keys["guards"].(jsonSchema)
	guards["items"].(jsonSchema)["required"] = []string{"name"}
	guards["description"] = properties["guards"].(jsonSchema)["description"]
	properties["guards"] = guards
	maps.DeleteFunc(keys, func(key string, _ any) bool { return slices.Contains(chartOwn, key) })
	config["description"] = properties["config"].(jsonSchema)["description"]
	properties["config"] = config
	properties["global"] = jsonSchema{"type": "object", "description": "Of a chart that has this one as a part."}
	schema["$schema"] = "http://json-schema.org/draft-07/schema#"
	schema["title"] = "Values of the chart guardian"
	text, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, filepath.Join(chartDir, "values.schema.json"), string(text)+"\n", *rewrite)
}

// A value without a description, of a kind that everybody knows, is left out.
func TestTheChartsReadmeHasEveryValue(t *testing.T) {
	var rows strings.Builder
	var walk func(path string, n *yaml.Node)
	walk = func(path string, n *yaml.Node) {
		for i := 0; i < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			at := join(path, key.Value)
			if value.Kind == yaml.MappingNode && len(value.Content) > 0 && !slices.Contains(freeValues, at) {
				walk(at, value)
				continue
			}
			fmt.Fprintf(&rows, "| `%s` | `%s` | %s |\n", at, flow(t, value), valueComment(key))
		}
	}
	walk("", readValues(t))
	path := filepath.Join(chartDir, "README.md")
	const mark = "| value | default | meaning |\n|---|---|---|\n"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, _, found := strings.Cut(string(text), mark)
	if !found {
		t.Fatalf("%s has no table of values", path)
	}
	golden.Check(t, path, head+mark+rows.String(), *rewrite)
}

// flow is a value on one line.
func flow(t *testing.T, n *yaml.Node) string {
	t.Helper()
	var plain any
	if err := n.Decode(&plain); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(plain)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
