package mesh

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
)

// Routes is a VirtualService and its DestinationRule, as far as the mesh looks at them. The zero value routes nothing.
type Routes struct {
	routes  []route
	subsets map[string]string // subset → value of the label version
}

// route is one entry of spec.http.
type route struct {
	Match []match
	Route []destination
}

// match is one alternative of a route; its conditions hold together.
type match struct {
	Headers map[string]text
	URI     *text
}

// text is Istio's StringMatch without regular expressions.
type text struct {
	Exact, Prefix string
}

type destination struct {
	Destination struct{ Host, Subset string }
	Weight      int
}

// ParseRoutes reads the two objects, given as the API server returns them; rule may be nil. Every host is taken to be
// the one service of this mesh.
func ParseRoutes(service, rule map[string]any) (Routes, error) {
	var vs struct{ Spec struct{ HTTP []route } }
	var dr struct {
		Spec struct {
			Subsets []struct {
				Name   string
				Labels map[string]string
			}
		}
	}
	if err := convert(service, &vs); err != nil {
		return Routes{}, fmt.Errorf("read VirtualService: %w", err)
	}
	if err := convert(rule, &dr); err != nil {
		return Routes{}, fmt.Errorf("read DestinationRule: %w", err)
	}
	r := Routes{routes: vs.Spec.HTTP, subsets: map[string]string{}}
	for _, s := range dr.Spec.Subsets {
		r.subsets[s.Name] = s.Labels["version"]
	}
	return r, nil
}

func convert(from map[string]any, to any) error {
	raw, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, to)
}

// Pick returns the version that a request goes to; empty: no route, no subset, or no weight, so nobody answers.
func (r Routes) Pick(request *http.Request) string {
	for _, route := range r.routes {
		if !route.matches(request) {
			continue
		}
		return r.subsets[draw(route.Route)]
	}
	return ""
}

// draw chooses a subset by weight. A single destination gets everything, whatever its weight is.
func draw(destinations []destination) string {
	if len(destinations) == 1 {
		return destinations[0].Destination.Subset
	}
	total := 0
	for _, d := range destinations {
		total += d.Weight
	}
	if total == 0 {
		return ""
	}
	at := rand.IntN(total)
	for _, d := range destinations {
		if at -= d.Weight; at < 0 {
			return d.Destination.Subset
		}
	}
	return ""
}

func (r route) matches(request *http.Request) bool {
	return len(r.Match) == 0 || slices.ContainsFunc(r.Match, func(m match) bool { return m.matches(request) })
}

func (m match) matches(request *http.Request) bool {
	for name, want := range m.Headers {
		if !want.matches(request.Header.Get(name)) {
			return false
		}
	}
	return m.URI == nil || m.URI.matches(request.URL.Path)
}

func (t text) matches(value string) bool {
	if t.Exact != "" {
		return value == t.Exact
	}
	return strings.HasPrefix(value, t.Prefix)
}

// Weights returns the percentages of the first route that takes every request, by version.
func (r Routes) Weights() map[string]int {
	out := map[string]int{}
	for _, route := range r.routes {
		if len(route.Match) > 0 {
			continue
		}
		total := 0
		for _, d := range route.Route {
			total += d.Weight
		}
		for _, d := range route.Route {
			share := 100
			if len(route.Route) > 1 {
				share = d.Weight * 100 / max(total, 1)
			}
			out[r.subsets[d.Destination.Subset]] += share
		}
		break
	}
	return out
}
