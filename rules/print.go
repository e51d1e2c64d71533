package rules

import (
	"bytes"
	"slices"
	"strings"
)

// commented puts the words of groups before them and their rules, and the name of
// what a rule records before its expression, in YAML whose list of groups has an
// indent. What stands within a rule is indented further.
func commented(text []byte, indent string, groups []words) []byte {
	var out bytes.Buffer
	group, rule, started := -1, -1, false
	var item []string // the lines of the present rule
	for line := range strings.Lines(string(text)) {
		isRule := strings.HasPrefix(line, indent+"  - ")
		if isRule || !strings.HasPrefix(line, indent+"    ") {
			named(&out, indent+"  ", item)
			item = nil
		}
		switch {
		case !started:
			started = strings.TrimSpace(line) == "groups:"
		case strings.HasPrefix(line, indent+"- "):
			group, rule = group+1, -1
			comment(&out, indent, groups[group].group)
		case isRule:
			rule++
			comment(&out, indent+"  ", groups[group].rules[rule])
		}
		if isRule || item != nil {
			item = append(item, line)
			continue
		}
		out.WriteString(line)
	}
	named(&out, indent+"  ", item)
	return out.Bytes()
}

// named writes the lines of a rule; the name under which it records comes first.
func named(out *bytes.Buffer, indent string, item []string) {
	i := slices.IndexFunc(item, func(line string) bool { return strings.HasPrefix(line, indent+"  record: ") })
	if i > 0 {
		out.WriteString(indent + "- " + strings.TrimLeft(item[i], " "))
		item = slices.Delete(item, i, i+1)
		item[0] = indent + "  " + strings.TrimPrefix(item[0], indent+"- ")
	}
	for _, line := range item {
		out.WriteString(line)
	}
}

// comment writes lines of at most about a hundred characters.
func comment(out *bytes.Buffer, indent, text string) {
	const width = 100
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+len(word) >= width {
			out.WriteString(indent + "#" + line + "\n")
			line = ""
		}
		line += " " + word
	}
	if line != "" {
		out.WriteString(indent + "#" + line + "\n")
	}
}
