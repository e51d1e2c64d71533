package virtualservice

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// Unnamed is a line for each VirtualService of a text that names one destination of the
// pair and not the other. That is right before a release, and where all of a route leads
// to the canary; it is also what a misspelt name looks like.
func Unnamed(in []byte, p Pair) []string {
	s, err := readStream(bytes.TrimPrefix(in, byteOrderMark))
	if err != nil {
		return nil
	}
	var out []string
	for i, doc := range s.docs {
		for _, at := range virtualServices(doc, []string{fmt.Sprint(i)}) {
			vs, _ := valueAt(s.docs, at).(map[string]any)
			if v, err := Read(vs, p); err == nil && v.Named() == nil {
				out = append(out, v.unnamed()...)
			}
		}
	}
	return out
}

func (v *View) unnamed() []string {
	found := map[role]bool{}
	var others []string
	for _, r := range v.routes {
		for _, d := range r.destinations {
			found[d.role] = true
			name := d.host + orNothing("/", d.subset)
			if d.role == other && !slices.Contains(others, name) {
				others = append(others, name)
			}
		}
		for _, m := range r.mirrors {
			found[m.role] = true
		}
	}
	besides := ""
	if len(others) > 0 {
		besides = ", and there is " + strings.Join(others, ", ")
	}
	switch {
	case !found[canary] && !found[unsplit]:
		return []string{fmt.Sprintf("VirtualService %s/%s: no route names the canary, %s%s: nothing is taken from it", v.namespace, v.name, v.pair.Canary, besides)}
	case !found[stable] && len(others) > 0:
		return []string{fmt.Sprintf("VirtualService %s/%s: no route names stable, %s%s: is it there?", v.namespace, v.name, v.pair.Stable, besides)}
	}
	return nil
}

func orNothing(before, s string) string {
	if s == "" {
		return ""
	}
	return before + s
}
