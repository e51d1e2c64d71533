package virtualservice

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	yaml "go.yaml.in/yaml/v3"
)

var byteOrderMark = []byte("\ufeff")

// PlanYAML gives the canary the weight in every VirtualService of a YAML (or
// JSON) text that names the pair, as Rewrite does. Other documents pass, and
// so do VirtualServices without the pair, or without a weight to set. out is
// the text byte for byte but for the fields that change: comments, quoting, flow
// style and line endings stay. patch is a JSON patch, or one a line where
// several VirtualServices name the pair.
//
// The error is an UnsafeError when no VirtualService can be rewritten safely,
// and otherwise names what is malformed.
func PlanYAML(in []byte, p Pair, weight int, o Options) (out, patch []byte, err error) {
	text, marked := bytes.CutPrefix(in, byteOrderMark)
	s, err := readStream(text)
	if err != nil {
		return nil, nil, err
	}
	edits, err := s.plan(p, weight, o)
	if err != nil {
		return nil, nil, err
	}
	var patches bytes.Buffer
	for _, e := range edits {
		for _, op := range e.ops {
			if s, err = s.apply(e.at, op); err != nil {
				return nil, nil, fmt.Errorf("edit %s: %w", e.name, err)
			}
		}
		line, err := json.Marshal(e.ops)
		if err != nil {
			return nil, nil, fmt.Errorf("write patch: %w", err)
		}
		patches.Write(append(line, '\n'))
	}
	out = s.text
	if marked {
		out = slices.Concat(byteOrderMark, out)
	}
	return out, patches.Bytes(), nil
}

// stream is a text of YAML documents.
type stream struct {
	text  []byte
	nodes []*yaml.Node // one a document
	docs  []any        // decoded
	lines []int        // offset of each line
}

// objectEdit is what one VirtualService of a stream needs.
type objectEdit struct {
	at   []string // path from the stream to the object
	name string
	ops  []Op
}

// readStream parses all documents.
func readStream(text []byte) (stream, error) {
	s := stream{text: text}
	if !utf8.Valid(text) {
		return s, errors.New("read YAML: not UTF-8")
	}
	for decoder := yaml.NewDecoder(bytes.NewReader(text)); ; {
		node := new(yaml.Node)
		err := decodeNode(decoder, node)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return s, fmt.Errorf("read YAML: %w", err)
		}
		var doc any
		if err := node.Decode(&doc); err != nil {
			return s, fmt.Errorf("read YAML: %w", err)
		}
		s.nodes, s.docs = append(s.nodes, node), append(s.docs, doc)
	}
	s.lines = lineOffsets(text)
	return s, nil
}

// decodeNode turns a panic of the parser, which some malformed texts bring
// about, into an error.
func decodeNode(d *yaml.Decoder, n *yaml.Node) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("malformed: %v", r)
		}
	}()
	return d.Decode(n)
}

// plan rewrites every VirtualService that names the pair.
func (s stream) plan(p Pair, weight int, o Options) ([]objectEdit, error) {
	var edits []objectEdit
	var absent []error
	for i, doc := range s.docs {
		for _, at := range virtualServices(doc, []string{strconv.Itoa(i)}) {
			vs, _ := valueAt(s.docs, at).(map[string]any)
			_, err := Inspect(vs, p, o)
			var unsafe *UnsafeError
			if errors.As(err, &unsafe) {
				absent = append(absent, err)
				continue
			}
			if err != nil {
				return nil, err
			}
			r, err := Rewrite(vs, p, weight, o, nil)
			if errors.As(err, &unsafe) && unsafe.Path == "" {
				absent = append(absent, err) // no weight to set; one that is in the way is another matter
				continue
			}
			if err != nil {
				return nil, err
			}
			edits = append(edits, objectEdit{at: at, name: objectName(vs), ops: append([]Op{}, r.Ops...)})
		}
	}
	if len(edits) == 0 && len(absent) == 0 {
		return nil, errors.New("read YAML: no VirtualService in it")
	}
	if len(edits) == 0 {
		return nil, errors.Join(absent...)
	}
	return edits, nil
}

// virtualServices finds VirtualServices in a document, which may be a List.
func virtualServices(doc any, at []string) [][]string {
	object, ok := doc.(map[string]any)
	if !ok {
		return nil
	}
	kind, _ := object["kind"].(string)
	version, _ := object["apiVersion"].(string)
	if kind == "VirtualService" && (version == "" || strings.HasPrefix(version, "networking.istio.io/")) {
		return [][]string{at}
	}
	items, ok := object["items"].([]any)
	if !ok || !strings.HasSuffix(kind, "List") {
		return nil
	}
	var out [][]string
	for i, item := range items {
		out = append(out, virtualServices(item, slices.Concat(at, []string{"items", strconv.Itoa(i)}))...)
	}
	return out
}

func objectName(vs map[string]any) string {
	meta, _ := vs["metadata"].(map[string]any)
	return fmt.Sprintf("VirtualService %v", meta["name"])
}

// apply makes one operation of a JSON patch true in the text. Each way to
// write it is tried until one reads back as exactly what is wanted.
func (s stream) apply(at []string, op Op) (stream, error) {
	path := slices.Concat(at, strings.Split(strings.TrimPrefix(op.Path, "/"), "/"))
	want, ok := deepCopy(s.docs).([]any)
	parent, _ := valueAt(want, path[:len(path)-1]).(map[string]any)
	if !ok || parent == nil {
		return s, fmt.Errorf("%s: no such place", op.Path)
	}
	key := path[len(path)-1]
	if op.Op == "remove" {
		delete(parent, key)
	} else {
		parent[key] = op.Value
	}
	node := nodeAt(s.nodes, path[:len(path)-1])
	if node == nil {
		return s, fmt.Errorf("%s: the text uses a YAML alias or merge there, which cannot be edited in place: write it out", op.Path)
	}
	for _, text := range s.candidates(node, key, op) {
		next, err := readStream(text)
		if err == nil && equalDocs(next.docs, want) {
			return next, nil
		}
	}
	if slices.ContainsFunc(s.nodes, hasAlias) {
		return s, fmt.Errorf("%s: the text uses YAML aliases, so one place cannot be edited alone: write them out", op.Path)
	}
	return s, fmt.Errorf("%s: the YAML around it cannot be edited in place: write the field on a line of its own", op.Path)
}

// equalDocs compares decoded documents, numbers by value.
func equalDocs(got, want any) bool {
	switch want := want.(type) {
	case []any:
		got, ok := got.([]any)
		return ok && slices.EqualFunc(got, want, equalDocs)
	case map[string]any:
		got, ok := got.(map[string]any)
		if !ok || len(got) != len(want) {
			return false
		}
		for k, v := range want {
			g, ok := got[k]
			if !ok || !equalDocs(g, v) {
				return false
			}
		}
		return true
	}
	if a, ok := number(got); ok {
		b, ok := number(want)
		return ok && a == b
	}
	a, nan := got.(float64)
	b, same := want.(float64)
	return reflect.DeepEqual(got, want) || nan && same && math.IsNaN(a) && math.IsNaN(b)
}

// candidates are texts in which the field of the mapping may be as wanted,
// the one that looks best first.
func (s stream) candidates(mapping *yaml.Node, key string, op Op) [][]byte {
	index := -1
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			index = i
		}
	}
	switch {
	case op.Op == "remove" && index >= 0:
		return s.removals(mapping, index)
	case index >= 0:
		return s.replacements(mapping.Content[index], mapping.Content[index+1], op.Value)
	}
	return s.insertions(mapping, key, op.Value)
}

// replacements write a scalar in the place of another.
func (s stream) replacements(key, old *yaml.Node, value any) [][]byte {
	start := s.offset(old)
	var out [][]byte
	for _, was := range []string{`"` + old.Value + `"`, "'" + old.Value + "'", old.Value} {
		if start < 0 || !bytes.HasPrefix(s.text[start:], []byte(was)) {
			continue
		}
		for _, now := range spellings(value, was) {
			out = append(out, s.splice(start, start+len(was), now))
			if was == "" {
				out = append(out, s.splice(start, start, " "+now))
			}
		}
		if was != "" {
			return out
		}
	}
	// A null that is not written at all has no sure place of its own.
	if after := s.offset(key) + len(key.Value) + 1; old.Value == "" && s.offset(key) >= 0 && after <= len(s.text) {
		for _, now := range spellings(value, "") {
			out = append(out, s.splice(after, after, " "+now))
		}
	}
	return out
}

// spellings are ways to write a value, first the one that is quoted as was.
func spellings(value any, was string) []string {
	b, err := json.Marshal(value)
	if err != nil {
		return nil
	}
	quoted := string(b)
	text, ok := value.(string)
	if !ok {
		if m, ok := value.(map[string]any); ok && len(m) == 1 && m["value"] != nil {
			return []string{fmt.Sprintf("{value: %v}", m["value"]), quoted}
		}
		return []string{quoted}
	}
	switch {
	case strings.HasPrefix(was, `"`):
		return []string{quoted}
	case strings.HasPrefix(was, "'"):
		return []string{"'" + text + "'", quoted}
	}
	return []string{text, quoted}
}

// insertions write a field that the mapping does not have.
func (s stream) insertions(mapping *yaml.Node, key string, value any) [][]byte {
	if len(mapping.Content) == 0 {
		return nil
	}
	first := mapping.Content[0]
	start := s.offset(first)
	if start < 0 {
		return nil
	}
	var out [][]byte
	for _, now := range spellings(value, "") {
		if mapping.Style&yaml.FlowStyle != 0 {
			name := key
			if first.Style&yaml.DoubleQuotedStyle != 0 {
				name, now = strconv.Quote(key), spellings(value, `"`)[len(spellings(value, `"`))-1]
			}
			if end, ok := s.flowEnd(mapping); ok {
				out = append(out, s.splice(end, end, ", "+name+": "+now))
			}
			out = append(out, s.splice(start, start, name+": "+now+", "))
			continue
		}
		ending := s.lineEnding()
		indent := strings.Repeat(" ", first.Column-1)
		field := key + ": " + now
		// Below the mapping's last line where that is plain to see.
		if line := lastLine(mapping); line < len(s.lines) {
			at := s.lines[line]
			out = append(out, s.splice(at, at, indent+field+ending))
		}
		if !bytes.HasSuffix(s.text, []byte("\n")) {
			out = append(out, slices.Concat(s.text, []byte(ending+indent+field)))
		} else {
			out = append(out, slices.Concat(s.text, []byte(indent+field+ending)))
		}
		out = append(out, s.splice(start, start, field+ending+indent))
	}
	return out
}

// removals take a field out.
func (s stream) removals(mapping *yaml.Node, index int) [][]byte {
	key, value := mapping.Content[index], mapping.Content[index+1]
	start, line := s.offset(key), key.Line-1
	if start < 0 {
		return nil
	}
	var out [][]byte
	if mapping.Style&yaml.FlowStyle == 0 && line < len(s.lines) && len(bytes.TrimSpace(s.text[s.lines[line]:start])) == 0 {
		end := len(s.text)
		if last := lastLine(value); last < len(s.lines) {
			end = s.lines[last]
		}
		out = append(out, s.splice(s.lines[line], end, ""))
	}
	if index+2 < len(mapping.Content) {
		if next := s.offset(mapping.Content[index+2]); next > start {
			out = append(out, s.splice(start, next, ""))
		}
	}
	if index >= 2 && s.offset(value) > start {
		end := s.offset(value)
		for _, length := range []int{len(value.Value), len(value.Value) + 2} {
			from := bytes.LastIndexByte(s.text[:start], ',')
			if from >= 0 && end+length <= len(s.text) {
				out = append(out, s.splice(from, end+length, ""))
			}
		}
	}
	return out
}

// splice puts text between two offsets.
func (s stream) splice(from, to int, text string) []byte {
	return slices.Concat(s.text[:from], []byte(text), s.text[to:])
}

// flowEnd is where a flow mapping's last value ends, when that is a scalar or
// a flow mapping of scalars.
func (s stream) flowEnd(mapping *yaml.Node) (int, bool) {
	last := mapping.Content[len(mapping.Content)-1]
	end := s.offset(last)
	if last.Kind == yaml.MappingNode && last.Style&yaml.FlowStyle != 0 && len(last.Content) > 0 {
		inner, ok := s.flowEnd(last)
		brace := bytes.IndexByte(s.text[max(inner, 0):], '}')
		return inner + brace + 1, ok && brace >= 0
	}
	if end < 0 || last.Kind != yaml.ScalarNode {
		return 0, false
	}
	for _, was := range []string{`"` + last.Value + `"`, "'" + last.Value + "'", last.Value} {
		if was != "" && bytes.HasPrefix(s.text[end:], []byte(was)) {
			return end + len(was), true
		}
	}
	return 0, false
}

// lineEnding is how the text ends its first line.
func (s stream) lineEnding() string {
	if i := bytes.IndexByte(s.text, '\n'); i > 0 && s.text[i-1] == '\r' {
		return "\r\n"
	}
	return "\n"
}

// offset is where a node begins, negative when the text and the parser do not
// agree.
func (s stream) offset(n *yaml.Node) int {
	if n.Line < 1 || n.Line > len(s.lines) {
		return -1
	}
	at := s.lines[n.Line-1]
	for range n.Column - 1 {
		if at >= len(s.text) {
			return -1
		}
		_, size := utf8.DecodeRune(s.text[at:])
		at += size
	}
	return at
}

// lineOffsets finds where lines begin, by YAML's line breaks.
func lineOffsets(text []byte) []int {
	lines := []int{0}
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		i += size
		switch r {
		case '\r':
			if i < len(text) && text[i] == '\n' {
				i++
			}
		case '\n', '\u0085', '\u2028', '\u2029':
		default:
			continue
		}
		lines = append(lines, i)
	}
	return lines
}

// lastLine is the number of the line, from 1, on which the last node begins.
func lastLine(n *yaml.Node) int {
	line := n.Line
	for _, child := range n.Content {
		line = max(line, lastLine(child))
	}
	return line
}

// valueAt follows a path through decoded documents.
func valueAt(docs any, path []string) any {
	for _, step := range path {
		switch at := docs.(type) {
		case map[string]any:
			docs = at[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(at) {
				return nil
			}
			docs = at[i]
		default:
			return nil
		}
	}
	return docs
}

// nodeAt follows a path through the documents' nodes; aliases end it.
func nodeAt(docs []*yaml.Node, path []string) *yaml.Node {
	i, err := strconv.Atoi(path[0])
	if err != nil || i >= len(docs) || len(docs[i].Content) == 0 {
		return nil
	}
	n := docs[i].Content[0]
	for _, step := range path[1:] {
		if n = child(n, step); n == nil {
			return nil
		}
	}
	if n.Kind != yaml.MappingNode {
		return nil
	}
	return n
}

func hasAlias(n *yaml.Node) bool {
	return n.Kind == yaml.AliasNode || slices.ContainsFunc(n.Content, hasAlias)
}

// child is a mapping's value or a sequence's entry.
func child(n *yaml.Node, step string) *yaml.Node {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == step {
				return n.Content[i+1]
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i]
		}
	}
	return nil
}
