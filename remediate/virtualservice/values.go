package virtualservice

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/bits"
	"reflect"
	"strconv"
	"strings"
)

// place is where a field stands. It has two names, which are put together only
// when they are wanted. Nil is the whole object.
type place struct {
	in   *place
	name string // of the field; empty: an entry of a list
	i    int    // of the entry
}

func (p *place) key(name string) *place { return &place{in: p, name: name} }

func (p *place) index(i int) *place { return &place{in: p, i: i} }

// pointer is its JSON pointer, for patches.
func (p *place) pointer() string {
	switch {
	case p == nil:
		return ""
	case p.name == "":
		return p.in.pointer() + "/" + strconv.Itoa(p.i)
	}
	return p.in.pointer() + "/" + p.name
}

// text is its name as people write it.
func (p *place) text() string {
	switch {
	case p == nil:
		return ""
	case p.name == "":
		return p.in.text() + "[" + strconv.Itoa(p.i) + "]"
	case p.in == nil:
		return p.name
	}
	return p.in.text() + "." + p.name
}

// objectAt reads a field that is an object; absent and null are nil.
func objectAt(parent map[string]any, where *place, key string) (map[string]any, *place, error) {
	at := where.key(key)
	value := parent[key]
	object, ok := value.(map[string]any)
	if !ok && value != nil {
		return nil, at, fmt.Errorf("%s: %s, want an object", at.text(), show(value))
	}
	return object, at, nil
}

// objectsAt reads a field that is a list of objects; absent and null are nil.
func objectsAt(parent map[string]any, where *place, key string) ([]map[string]any, *place, error) {
	at := where.key(key)
	value := parent[key]
	entries, ok := value.([]any)
	if !ok && value != nil {
		return nil, at, fmt.Errorf("%s: %s, want a list", at.text(), show(value))
	}
	out := make([]map[string]any, len(entries))
	for i, entry := range entries {
		if out[i], ok = entry.(map[string]any); !ok || out[i] == nil {
			return nil, at, fmt.Errorf("%s: %s, want an object", at.index(i).text(), show(entry))
		}
	}
	return out, at, nil
}

// stringAt reads a field that is a string; absent and null are empty.
func stringAt(parent map[string]any, where *place, key string) (string, error) {
	value := parent[key]
	text, ok := value.(string)
	if !ok && value != nil {
		return "", fmt.Errorf("%s: %s, want a string", where.key(key).text(), show(value))
	}
	return text, nil
}

// show prints a decoded value with what it is, shortened.
func show(v any) string {
	kind := "a value"
	switch v.(type) {
	case nil:
		return "null"
	case string:
		kind = "a string"
	case bool:
		kind = "a boolean"
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	default:
		if _, ok := number(v); ok {
			kind = "a number"
		}
	}
	text := fmt.Sprint(v)
	if s, ok := v.(string); ok {
		text = strconv.Quote(s)
	}
	if len(text) > 60 {
		text = text[:57] + "..."
	}
	return text + " is " + kind
}

// number reads what a JSON or YAML decoder makes of a number.
func number(v any) (float64, bool) {
	switch n := v.(type) {
	case int:
		return float64(n), true
	case int32:
		return float64(n), true
	case int64:
		return float64(n), true
	case uint32:
		return float64(n), true
	case uint64:
		return float64(n), true
	case float64:
		return n, !math.IsNaN(n) && !math.IsInf(n, 0)
	case json.Number:
		f, err := n.Float64()
		return f, err == nil
	}
	return 0, false
}

// wholeNumber is a number without a fraction that fits 53 bits.
func wholeNumber(v any) (int64, bool) {
	f, ok := number(v)
	if !ok || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, false
	}
	return int64(f), true
}

// mulDiv is a*b/c for 0 <= a <= c and c > 0, without overflow.
func mulDiv(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	q, _ := bits.Div64(hi, lo, uint64(c))
	return int64(q)
}

// rawJSON is a decoded value as JSON again.
func rawJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil { // decoded from JSON or YAML and checked
		panic(fmt.Sprintf("marshal %T: %v", v, err))
	}
	return b
}

// equalJSON compares a decoded value with JSON, numbers by value.
func equalJSON(v any, raw json.RawMessage) bool {
	var a, b any
	text, err := json.Marshal(v)
	if err != nil || json.Unmarshal(text, &a) != nil || json.Unmarshal(raw, &b) != nil {
		return false
	}
	return reflect.DeepEqual(a, b)
}

// digest is a short hash of a value's JSON.
func digest(v any) string {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	if err := encoder.Encode(v); err != nil {
		return "" // no mark: never restored
	}
	sum := sha256.Sum256(b.Bytes())
	return hex.EncodeToString(sum[:8])
}

// deepCopy copies decoded JSON; values of other types are shared.
func deepCopy(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if v == nil {
			return nil
		}
		m := make(map[string]any, len(v))
		for k, x := range v {
			m[k] = deepCopy(x)
		}
		return m
	case []any:
		l := make([]any, len(v))
		for i, x := range v {
			l[i] = deepCopy(x)
		}
		return l
	}
	return v
}

// list joins names for people.
func list(names []string) string { return strings.Join(names, ", ") }
