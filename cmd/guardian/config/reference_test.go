package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/alertmanager/timeinterval"
	httpconfig "github.com/prometheus/common/config"

	"github.com/canary-guardian/guardian/test/golden"
)

// reference is the table of every key, made of the types that the decoder fills,
// their comments, and the defaults, so that it cannot lag behind them.
type reference struct {
	t        *testing.T
	schema   schemaOfConfig
	env      map[string]any  // keys that a variable can set
	restart  map[string]bool // keys whose change takes a restart
	required map[string]bool
	rows     []referenceRow
}

type referenceRow struct{ key, kind, fallback, env, change, meaning string }

// walk adds a row for each key below path; value has the defaults, and is not
// valid where there are none: in a list's elements.
func (r *reference) walk(path string, of reflect.Type, value reflect.Value) {
	for i, f := range reflect.VisibleFields(of) {
		key := yamlKey(f)
		if key == "" {
			continue
		}
		at, is := join(path, key), reflect.Value{}
		if value.IsValid() {
			is = value.Field(i)
		}
		if f.Type.Kind() == reflect.Struct && !foreignType(f.Type) && f.Type != reflect.TypeFor[Ref]() {
			r.walk(at, f.Type, is)
			continue
		}
		r.add(at, f, is, r.schema.comments[of.Name()+"."+f.Name])
		switch element := f.Type; {
		case at == "guards":
			r.walk(at+"[]", f.Type.Elem(), reflect.ValueOf(DefaultGuard("NAME")))
		case element.Kind() == reflect.Slice && element.Elem().Kind() == reflect.Struct && !foreignType(element.Elem()):
			r.walk(at+"[]", f.Type.Elem(), reflect.Value{})
		}
	}
}

func (r *reference) add(at string, f reflect.StructField, value reflect.Value, comment string) {
	if comment == "" {
		r.t.Errorf("%s has no comment in config.go: nobody learns what it does", at)
		return
	}
	row := referenceRow{key: at, kind: r.kind(at, f.Type), fallback: r.fallback(at, f.Type, value), change: "at once"}
	if _, ok := r.env[at]; ok {
		row.env = "`" + EnvName(at) + "`"
	}
	if r.restart[at] {
		row.change = "restart"
	}
	row.meaning = r.meaning(at, f.Name, comment, row.fallback)
	r.rows = append(r.rows, row)
}

func (r *reference) kind(at string, of reflect.Type) string {
	switch of {
	case reflect.TypeFor[time.Duration]():
		return "duration"
	case reflect.TypeFor[Ref]():
		return "subset, or `{host: NAME}`"
	case reflect.TypeFor[[]Step]():
		return "list of percents, or of the keys below"
	case reflect.TypeFor[httpconfig.HTTPClientConfig]():
		return "[http_config](https://prometheus.io/docs/prometheus/latest/configuration/configuration/#http_config)"
	case reflect.TypeFor[[]timeinterval.TimeInterval]():
		return "list of [time intervals](https://prometheus.io/docs/alerting/latest/configuration/#time_interval-0)"
	}
	if words := r.schema.choices[at]; len(words) > 0 && of.Kind() == reflect.String {
		return "`" + strings.Join(words, "`, `") + "`"
	}
	switch of.Kind() {
	case reflect.Slice:
		if of.Elem().Kind() == reflect.Struct {
			return "list of the keys below"
		}
		return "list of strings"
	case reflect.Map:
		return "map of strings"
	case reflect.Float64:
		return "number"
	case reflect.Int:
		return "integer"
	case reflect.Bool:
		return "boolean"
	}
	return of.Kind().String()
}

// fallback is a default as the file would have it.
func (r *reference) fallback(at string, of reflect.Type, value reflect.Value) string {
	switch {
	case r.required[at]:
		return "required"
	case at == "guards" || !value.IsValid() || of == reflect.TypeFor[httpconfig.HTTPClientConfig]():
		return ""
	}
	var text string
	switch v := value.Interface().(type) {
	case time.Duration:
		text = shortDuration(v)
	case Ref:
		text = v.Subset
	case []Step:
		weights := make([]string, len(v))
		for i, step := range v {
			weights[i] = fmt.Sprint(step.Weight)
		}
		text = "[" + strings.Join(weights, ", ") + "]"
	case []string:
		if text = "[" + strings.Join(v, ", ") + "]"; len(v) == 0 {
			return ""
		}
	default:
		if of.Kind() == reflect.Map || of.Kind() == reflect.Slice || of.Kind() == reflect.String && value.String() == "" {
			return ""
		}
		text = fmt.Sprint(v)
	}
	return "`" + text + "`"
}

// shortDuration is 3m for 3m0s.
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

var (
	saidDefault  = regexp.MustCompile(`[;.] [Dd]efault (.+?)\.?$`)
	saidByChoice = regexp.MustCompile(`([a-z]+) \(default\)`)
)

// meaning is the comment without what the other columns have already. A default
// that it names must be the code's.
func (r *reference) meaning(at, name, comment, fallback string) string {
	text, said := comment, ""
	if m := saidDefault.FindStringSubmatchIndex(comment); m != nil {
		text, said = comment[:m[0]], comment[m[2]:m[3]]
	} else if m := saidByChoice.FindStringSubmatchIndex(comment); m != nil {
		text, said = comment[:m[3]]+comment[m[1]:], comment[m[2]:m[3]]
	}
	if said != "" && "`"+said+"`" != fallback {
		r.t.Errorf("%s: the comment's default is %s, the code's %s", at, said, fallback)
	}
	text = strings.TrimPrefix(strings.TrimPrefix(text, name+" is "), name+" ")
	return strings.ToUpper(text[:1]) + strings.TrimSuffix(text[1:], ".") + "."
}

// changesByRestart tries which keys a running guardian takes over.
func changesByRestart(t *testing.T) map[string]bool {
	t.Helper()
	out, tried := map[string]bool{}, 0
	var try func(path string, of reflect.Type, index []int)
	try = func(path string, of reflect.Type, index []int) {
		for i, f := range reflect.VisibleFields(of) {
			at, below := join(path, yamlKey(f)), append(slices.Clone(index), i)
			if f.Type.Kind() == reflect.Struct && f.Type != reflect.TypeFor[httpconfig.HTTPClientConfig]() {
				try(at, f.Type, below)
				continue
			}
			c := Default()
			v := reflect.ValueOf(&c).Elem().FieldByIndex(below)
			switch f.Type.Kind() {
			case reflect.String:
				v.SetString(v.String() + "x")
			case reflect.Bool:
				v.SetBool(!v.Bool())
			case reflect.Int, reflect.Int64:
				v.SetInt(v.Int() + 1)
			case reflect.Float64:
				v.SetFloat(v.Float() + 1)
			case reflect.Map:
				v.Set(reflect.ValueOf(map[string]string{"a": "b"}))
			case reflect.Slice:
				v.Set(reflect.MakeSlice(f.Type, 1, 1))
			case reflect.Struct:
				v.FieldByName("BearerTokenFile").SetString("/x")
			default:
				t.Fatalf("%s: no other value of a %s", at, f.Type)
			}
			tried++
			out[at] = len(RestartOnly(Default(), c)) > 0
		}
	}
	try("", reflect.TypeFor[Config](), nil)
	if tried < 40 {
		t.Errorf("only %d keys tried", tried)
	}
	return out
}

// requiredKeys are those that an empty element of a list is told to lack.
func requiredKeys(t *testing.T) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for _, text := range []string{
		"guards: [{}]", "guards: [{name: a, alerts: {matchers: [{}]}}]",
		"guards: [{name: a, promotion: {steps: [{}], gates: [{}]}}]",
	} {
		var problems Problems
		if _, err := Parse([]byte("namespace: a\n" + text)); !errors.As(err, &problems) {
			t.Errorf("%s: %v", text, err)
		}
		for _, p := range problems {
			out[regexp.MustCompile(`\[\d+\]`).ReplaceAllString(p.Path, "[]")] = true
		}
	}
	return out
}

const referencePage = `# Configuration reference

Every key, as the code has it: this page is generated (` + "`make golden`" + `), and a test fails when it lags behind. What raising or lowering a value costs is
in [configuration.md](configuration.md); the same descriptions are in the chart's ` + "`values.schema.json`" + `.

- A variable wins over the file; an empty one sets an empty value. Keys in lists and maps have none.
- *At once*: the running service takes a change of the file over. *Restart*: it names the change in its log, and goes on as before until a restart.
- Where no default is given, it is empty.

## The service

| key | type | default | variable | change | meaning |
|---|---|---|---|---|---|
%s
## Rules

| key | type | default | variable | change | meaning |
|---|---|---|---|---|---|
%s
## A guard

Each element of ` + "`guards`" + `. A change is taken over at once; no variable sets these keys. ` + "`NAME`" + ` is the guard's name.

| key | type | default | meaning |
|---|---|---|---|
%s`

func TestTheConfigurationReferenceIsWhatTheCodeSays(t *testing.T) {
	r := &reference{t: t, schema: schemaOfConfig{comments: fieldComments(t), choices: fieldChoices(t)},
		env: leaves("", reflect.ValueOf(Default())), restart: changesByRestart(t), required: requiredKeys(t)}
	r.walk("", reflect.TypeFor[Config](), reflect.ValueOf(Default()))
	sections := map[string]string{}
	for _, row := range r.rows {
		row.meaning = strings.ReplaceAll(row.meaning, "|", `\|`)
		if key, in := strings.CutPrefix(row.key, "guards[]."); in {
			sections["guard"] += fmt.Sprintf("| `%s` | %s | %s | %s |\n", key, row.kind, row.fallback, row.meaning)
			continue
		}
		section := "service"
		if strings.HasPrefix(row.key, "rules.") {
			section = "rules"
		}
		sections[section] += fmt.Sprintf("| `%s` | %s | %s | %s | %s | %s |\n", row.key, row.kind, row.fallback, row.env, row.change, row.meaning)
	}
	text := fmt.Sprintf(referencePage, sections["service"], sections["rules"], sections["guard"])
	if len(r.rows) < 70 {
		t.Errorf("only %d keys: the walk is broken", len(r.rows))
	}
	golden.Check(t, filepath.Join("..", "..", "..", "docs", "configuration-reference.md"), text, *rewrite)
}
