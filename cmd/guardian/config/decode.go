package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/alertmanager/timeinterval"
	httpconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"github.com/canary-guardian/guardian/internal/nearest"
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	Path  string // full key path, as guards[2].rollback.lock
	Value string // what was found, as the user wrote it; empty: nothing was
	Want  string // what would be right
}

// String is the problem on one line.
func (p Problem) String() string {
	if p.Value == "" {
		return p.Path + ": " + p.Want
	}
	return p.Path + ": " + p.Value + ": " + p.Want
}

// Problems is every problem of a configuration: first what could not be read,
// then the values that are wrong.
type Problems []Problem

// Error has one line for each problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// parseTree reads one YAML document of string keys. An empty document is an
// empty tree.
func parseTree(b []byte) (map[string]any, error) {
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var tree any
	if err := dec.Decode(&tree); err != nil && !errors.Is(err, io.EOF) {
		if text := Unrendered(b); text != "" {
			return nil, errors.New(text)
		}
		return nil, errors.New(withoutQuotes(err.Error()))
	}
	var more any
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("want one YAML document, found more")
	}
	switch t := tree.(type) {
	case nil:
		return map[string]any{}, nil
	case map[string]any:
		return t, nil
	}
	return nil, fmt.Errorf("want a mapping of keys such as guards, found %s", kindOf(tree))
}

// decoder fills a struct from a tree of plain YAML values. Keys are matched
// exactly, by the structs' yaml tags. It goes on after a problem, so that all
// are reported at once.
type decoder struct {
	fromEnv  map[string]string // key path → the variable that its value comes from
	problems Problems
}

func (d *decoder) problem(path string, value any, want string) {
	p := Problem{Path: path, Value: shown(path, value), Want: want}
	if name, ok := d.fromEnv[path]; ok {
		p.Path += " (" + name + ")"
	}
	d.problems = append(d.problems, p)
}

// decode puts v into to. Null leaves the default, as an absent key does.
func (d *decoder) decode(path string, v any, to reflect.Value) {
	if v == nil {
		return
	}
	switch to.Interface().(type) {
	case time.Duration:
		d.duration(path, v, to)
		return
	case Ref:
		d.ref(path, v, to)
		return
	case Step:
		step := Step{Interval: unset}
		weight, isWeight := v.(int)
		step.Weight = weight
		to.Set(reflect.ValueOf(step))
		if _, isMapping := v.(map[string]any); isWeight || !isMapping {
			if !isWeight {
				d.problem(path, kindOf(v), "want a weight in whole percent, such as 10, or a mapping with the keys "+list(keysOf(to.Type())))
			}
			return
		}
	case httpconfig.HTTPClientConfig, timeinterval.TimeInterval:
		d.foreign(path, v, to)
		return
	case Guard:
		to.Set(reflect.ValueOf(DefaultGuard("")))
	}
	switch to.Kind() {
	case reflect.Struct:
		d.structure(path, v, to)
	case reflect.Slice:
		d.slice(path, v, to)
	case reflect.Map:
		d.stringMap(path, v, to)
	default:
		d.scalar(path, v, to)
	}
}

func (d *decoder) structure(path string, v any, to reflect.Value) {
	m, ok := v.(map[string]any)
	if !ok {
		d.problem(path, kindOf(v), "want a mapping with the keys "+list(keysOf(to.Type())))
		return
	}
	d.checkKeys(path, m, to.Type())
	for i := range to.NumField() {
		if key := yamlKey(to.Type().Field(i)); key != "" {
			d.decode(join(path, key), m[key], to.Field(i))
		}
	}
}

func (d *decoder) slice(path string, v any, to reflect.Value) {
	items, ok := v.([]any)
	if !ok {
		d.problem(path, kindOf(v), "want a list")
		return
	}
	out := reflect.MakeSlice(to.Type(), len(items), len(items))
	for i, item := range items {
		at := fmt.Sprintf("%s[%d]", path, i)
		if item == nil {
			d.problem(at, nil, "empty entry: remove it or fill it in")
			continue
		}
		d.decode(at, item, out.Index(i))
	}
	to.Set(out)
}

func (d *decoder) stringMap(path string, v any, to reflect.Value) {
	m, ok := v.(map[string]any)
	if !ok {
		d.problem(path, kindOf(v), "want a mapping of strings")
		return
	}
	out := make(map[string]string, len(m))
	for _, key := range sortedKeys(m) {
		s, ok := m[key].(string)
		if !ok {
			d.problem(join(path, key), m[key], "want a string: put it in quotes")
			continue
		}
		out[key] = s
	}
	to.Set(reflect.ValueOf(out))
}

func (d *decoder) scalar(path string, v any, to reflect.Value) {
	if s, ok := v.(string); ok && d.fromEnv[path] != "" && to.Kind() != reflect.String {
		var parsed any
		if err := yaml.Unmarshal([]byte(s), &parsed); err == nil {
			v = parsed
		}
	}
	switch to.Kind() {
	case reflect.String:
		if s, ok := v.(string); ok {
			to.SetString(s)
			return
		}
		d.problem(path, v, wantString(path, v))
	case reflect.Bool:
		if b, ok := v.(bool); ok {
			to.SetBool(b)
			return
		}
		d.problem(path, v, "want true or false")
	case reflect.Int:
		if n, ok := v.(int); ok {
			to.SetInt(int64(n))
			return
		}
		d.problem(path, v, "want a whole number")
	case reflect.Float64:
		switch n := v.(type) {
		case float64:
			if !math.IsNaN(n) && !math.IsInf(n, 0) {
				to.SetFloat(n)
				return
			}
		case int:
			to.SetFloat(float64(n))
			return
		}
		d.problem(path, v, wantNumber(v))
	}
}

// wantNumber is what would be right where a share belongs, which people write in percent.
func wantNumber(v any) string {
	text, _ := v.(string)
	if number, ok := strings.CutSuffix(text, "%"); ok {
		if n, err := strconv.ParseFloat(strings.TrimSpace(number), 64); err == nil {
			return "want a number: " + strconv.FormatFloat(n/100, 'g', 6, 64)
		}
	}
	return "want a number"
}

// wantString is what would be right where a name belongs. A VirtualService of another
// namespace is written as a mapping elsewhere.
func wantString(path string, v any) string {
	m, _ := v.(map[string]any)
	name, _ := m["name"].(string)
	namespace, _ := m["namespace"].(string)
	switch {
	case name != "" && namespace != "" && strings.Contains(path, ".virtualServices["):
		return elsewhere(namespace, name)
	case m != nil:
		return "want a string"
	}
	return "want a string: put it in quotes"
}

// elsewhere is what to do about a VirtualService of another namespace, such as the
// gateway's.
func elsewhere(namespace, name string) string {
	return fmt.Sprintf("want the name of one in the guard's namespace: move %[2]s there (gateways: [%[1]s/GATEWAY] leads to a gateway that stays), or have it delegate to one there, which is guarded", namespace, name)
}

// errDuration is what would be right.
var errDuration = errors.New("want a duration with its unit, such as 500ms, 30s, 5m or 1d")

// ParseDuration takes Go's spelling and Prometheus's, which also has days and weeks. The
// error says what would be right.
func ParseDuration(text string) (time.Duration, error) {
	if parsed, err := time.ParseDuration(text); err == nil {
		return parsed, nil
	}
	parsed, err := model.ParseDuration(text)
	if err != nil {
		return 0, errDuration
	}
	return time.Duration(parsed), nil
}

func (d *decoder) duration(path string, v any, to reflect.Value) {
	s, ok := v.(string)
	if !ok {
		d.problem(path, v, errDuration.Error())
		return
	}
	parsed, err := ParseDuration(s)
	if err != nil {
		d.problem(path, v, err.Error())
		return
	}
	to.SetInt(int64(parsed))
}

func (d *decoder) ref(path string, v any, to reflect.Value) {
	var r Ref
	switch t := v.(type) {
	case string:
		r.Subset = t
	case map[string]any:
		type host struct {
			Host string `yaml:"host"`
		}
		var h host
		d.structure(path, t, reflect.ValueOf(&h).Elem())
		r.Host = h.Host
	default:
		d.problem(path, v, "want a subset's name (in quotes if it is a number) or {host: name}")
		return
	}
	to.Set(reflect.ValueOf(r))
}

// foreign reads types of Prometheus and Alertmanager with their own code, after
// looking for unknown keys, which that code names without their path.
func (d *decoder) foreign(path string, v any, to reflect.Value) {
	before := len(d.problems)
	d.foreignKeys(path, v, to.Type())
	if len(d.problems) > before {
		return
	}
	b, err := yaml.Marshal(v)
	if err == nil {
		err = yaml.Unmarshal(b, to.Addr().Interface())
	}
	if err == nil {
		return
	}
	p := Problem{Path: path, Want: foreignError(err, v)}
	if to.Type() == reflect.TypeFor[timeinterval.TimeInterval]() {
		p.Want += ": " + wantInterval
	}
	d.problems = append(d.problems, p)
}

// wantInterval is what would be right where one cannot be read.
const wantInterval = "want such as {weekdays: [friday], times: [{start_time: '16:00', end_time: '24:00'}], location: Europe/Berlin}; what goes over midnight takes two of them, the second from 00:00 on the day after"

// foreignError is a parser's message on one line and without values: those of
// a mistyped http_config may be secrets.
func foreignError(err error, v any) string {
	var typed *yaml.TypeError
	if errors.As(err, &typed) {
		return "a value has the wrong type for this key; see Prometheus's http_config and Alertmanager's time_interval"
	}
	var address *url.Error // which has the address, and what it wraps has pieces of it
	if errors.As(err, &address) {
		return "a value is no URL: want one such as http://proxy:3128"
	}
	text := strings.ReplaceAll(strings.TrimPrefix(err.Error(), "yaml: "), "\n", " ")
	for _, leaf := range leafTexts(v) {
		text = strings.ReplaceAll(text, leaf, "…")
	}
	return text
}

// leafTexts is every value below v, the longest first.
func leafTexts(v any) []string {
	var out []string
	switch t := v.(type) {
	case map[string]any:
		for _, sub := range t {
			out = append(out, leafTexts(sub)...)
		}
	case []any:
		for _, sub := range t {
			out = append(out, leafTexts(sub)...)
		}
	case nil, bool:
	default:
		text := fmt.Sprint(t)
		quoted := strconv.Quote(text)
		out = append(out, text, quoted[1:len(quoted)-1])
	}
	out = slices.DeleteFunc(out, func(s string) bool { return s == "" })
	slices.SortFunc(out, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	return out
}

// Unrendered says of a text that is no YAML where it has the braces of a template
// and what renders it, for the rest of a command line; empty: it has none.
func Unrendered(text []byte) string {
	line := 0
	for part := range bytes.Lines(text) {
		line++
		if code, _, _ := bytes.Cut(part, []byte("#")); bytes.Contains(code, []byte("{{")) {
			return fmt.Sprintf("line %d has {{, as a template that is not rendered yet: render it first, as by helm template", line)
		}
	}
	return ""
}

// withoutQuotes is what YAML's parser says, without the pieces of the document
// that it quotes: an unknown *anchor or a !!tag may be the beginning of a secret,
// and a mapping that stands where a key belongs is shown whole.
func withoutQuotes(text string) string {
	text = shownKey.ReplaceAllString(text, "a mapping or a list where a key belongs")
	return quotedPieces.ReplaceAllString(text, "…")
}

var (
	quotedPieces = regexp.MustCompile("(?s)`.*`|'.*'|\".*\"")
	shownKey     = regexp.MustCompile("(?s)invalid map key: .*")
)

func (d *decoder) foreignKeys(path string, v any, t reflect.Type) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == reflect.TypeFor[timeinterval.TimeRange]() {
		t = reflect.TypeFor[struct {
			Start string `yaml:"start_time"`
			End   string `yaml:"end_time"`
		}]()
	}
	switch value := v.(type) {
	case map[string]any:
		if t.Kind() != reflect.Struct || hasInlineMap(t) {
			return
		}
		d.checkKeys(path, value, t)
		for _, f := range flatFields(t) {
			if sub, ok := value[yamlKey(f)]; ok {
				d.foreignKeys(join(path, yamlKey(f)), sub, f.Type)
			}
		}
	case []any:
		if t.Kind() == reflect.Slice {
			for i, item := range value {
				d.foreignKeys(fmt.Sprintf("%s[%d]", path, i), item, t.Elem())
			}
		}
	}
}

// checkKeys reports every key of m that t does not have.
func (d *decoder) checkKeys(path string, m map[string]any, t reflect.Type) {
	known := keysOf(t)
	for _, key := range sortedKeys(m) {
		switch {
		case slices.Contains(known, key):
		case !keyName.MatchString(key) || m[key] == nil && secretive(path):
			// {token} is a mapping with a key and no value.
			d.problems = append(d.problems, Problem{Path: cmp.Or(path, "configuration"), Want: "unknown key, which is not shown: known here are " + list(known)})
		default:
			d.problems = append(d.problems, Problem{Path: join(path, key), Want: "unknown key: " + suggest(path, key, known, t)})
		}
	}
}

// refusedKeys are keys of a guard that people look for and that there will not be,
// with what to do instead.
var refusedKeys = map[string]string{
	"roles": "stable and canary are what they are called here, and do not change roles by themselves: after a release that has ended at 100%, " +
		"exchange the two (stable: v2, canary: v1), or bring its build to stable as well and go back to 100/0",
	"routes": "a guard has all routes of its VirtualServices, and so has its lock; what is to be left out leads to a Service of its own " +
		"(host: orders-api, which selects the canary's pods): that is neither moved nor denied, and its requests are judged with the canary's, since Istio's metrics know no route",
}

// suggest says which key was meant: the nearest one here, or one of this name
// further down, as for a rollback key written beside rollback.
func suggest(path, key string, known []string, t reflect.Type) string {
	if text := refusedKeys[key]; text != "" && t == reflect.TypeFor[Guard]() {
		return text
	}
	if below := findBelow(t, key); below != "" {
		return "did you mean " + join(path, below) + "?"
	}
	best, distance := "", math.MaxInt
	for _, k := range known {
		if n := nearest.Distance(strings.ToLower(key), strings.ToLower(k)); n < distance {
			best, distance = k, n
		}
	}
	if distance > max(2, len(key)/2) {
		return "known here are " + list(known) + ", nearest " + join(path, best)
	}
	return "did you mean " + join(path, best) + "?"
}

func findBelow(t reflect.Type, key string) string {
	for _, f := range flatFields(t) {
		if f.Type.Kind() != reflect.Struct {
			continue
		}
		if k := yamlKey(f); slices.Contains(keysOf(f.Type), key) {
			return join(k, key)
		}
	}
	return ""
}

// yamlKey is the key of a field, empty for one that has none.
func yamlKey(f reflect.StructField) string {
	key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	if key == "-" || !f.IsExported() {
		return ""
	}
	return key
}

// flatFields is t's fields with keys, those of inlined structs included.
func flatFields(t reflect.Type) []reflect.StructField {
	var out []reflect.StructField
	if t.Kind() != reflect.Struct {
		return nil
	}
	for f := range t.Fields() {
		switch {
		case yamlKey(f) != "":
			out = append(out, f)
		case strings.HasSuffix(f.Tag.Get("yaml"), ",inline"):
			out = append(out, flatFields(f.Type)...)
		}
	}
	return out
}

func hasInlineMap(t reflect.Type) bool {
	for f := range t.Fields() {
		if f.Type.Kind() == reflect.Map && strings.HasSuffix(f.Tag.Get("yaml"), ",inline") {
			return true
		}
	}
	return false
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for _, f := range flatFields(t) {
		keys = append(keys, yamlKey(f))
	}
	return keys
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func join(path, key string) string {
	if strings.ContainsAny(key, ":@") { // a URL that became a key
		key = "…"
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// list is "a, b or c".
func list(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// keyName is what may be shown of a key that is unknown.
var keyName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,40}$`)

// secretive says whether values below a key are never shown: where credentials
// belong, or are put by mistake.
func secretive(path string) bool {
	root, _, _ := strings.Cut(path, ".")
	return slices.Contains([]string{"web", "webhook", "prometheus", "alertmanager", "notifications"}, root)
}

// kindWord and harmless are shown as they are, wherever they stand.
type (
	kindWord string
	harmless string
)

// kindOf says what a value is, where it is not what was wanted and can be
// anything.
func kindOf(v any) kindWord {
	switch v.(type) {
	case map[string]any:
		return "a mapping"
	case map[any]any:
		return "a mapping with a key that is no string (quotes make it one)"
	case []any:
		return "a list"
	case string:
		return "a string"
	case bool:
		return "true or false"
	}
	return "a number"
}

// because is an error about a value as it can stand in the same message.
func because(value string, err error) string {
	if strings.Contains(value, "://") {
		return "which this is not"
	}
	return err.Error()
}

// shown is a value as it can stand in a one-line message that may be logged:
// none that could be a secret, nor a URL, which could hold one.
func shown(path string, v any) string {
	switch t := v.(type) {
	case kindWord:
		return string(t)
	case harmless:
		return show(string(t))
	case time.Duration, bool, map[string]any, map[any]any, []any:
		return show(v)
	case string:
		if strings.Contains(t, "://") {
			return ""
		}
	}
	if secretive(path) {
		return ""
	}
	return show(v)
}

// show is a value as it can stand in a one-line message.
func show(v any) string {
	switch t := v.(type) {
	case nil:
		return ""
	case string:
		const longest = 80
		if len(t) > longest {
			t = t[:longest] + "…"
		}
		return strconv.Quote(t)
	case map[string]any, map[any]any:
		return "a mapping"
	case []any:
		return "a list"
	}
	return fmt.Sprint(v)
}
