package virtualservice

import (
	"encoding/json"
	"fmt"
)

// KeepWeights as the weight given to Rewrite restores what guardian re-pointed
// and leaves every weight as it is.
const KeepWeights = -1

// Pair is a guard's two destinations, resolved against its DestinationRule.
type Pair struct {
	Stable, Canary Ref
	// Host is the DestinationRule's spec.host as written. Empty means that
	// both refs are hosts, or that the DestinationRule is not at hand: then
	// subsets match on any host, provided that it is one and the same.
	Host      string
	Namespace string // of the guard and its objects; empty: the VirtualService's
	Domain    string // of the cluster; empty: cluster.local
}

// validate refuses a pair whose two sides cannot be told apart.
func (p Pair) validate() error {
	for _, side := range []struct {
		name string
		ref  Ref
	}{{"stable", p.Stable}, {"canary", p.Canary}} {
		if (side.ref.Subset == "") == (side.ref.Host == "") {
			return fmt.Errorf("%s destination (subset %q, host %q): want a subset or a host, one of the two",
				side.name, side.ref.Subset, side.ref.Host)
		}
	}
	norm := func(host string) string { return NormalizeHost(host, p.Namespace, p.Domain) }
	switch {
	case p.Stable.Host != "" && p.Canary.Host != "":
		if norm(p.Stable.Host) == norm(p.Canary.Host) {
			return fmt.Errorf("stable and canary are both host %q: want two different ones", norm(p.Canary.Host))
		}
	case p.Stable.Host != "" || p.Canary.Host != "":
		if host := p.Stable.Host + p.Canary.Host; p.Host != "" && norm(p.Host) == norm(host) {
			return fmt.Errorf("host %q is one destination and a subset of it the other: want two subsets or two hosts", norm(host))
		}
	case p.Stable.Subset == p.Canary.Subset:
		return fmt.Errorf("stable and canary are both subset %q: want two different ones", p.Canary.Subset)
	}
	return nil
}

// Options says what a rollback covers besides weights.
type Options struct {
	// MatchRoutes re-points routes that only testers take (by header, cookie,
	// query parameter or caller) and that lead to the canary and not to stable.
	// A route that leads everybody to the canary, be it for some paths, hosts
	// or methods only, is re-pointed in any case.
	MatchRoutes bool
	// Mirrors stops mirroring to the canary.
	Mirrors bool
	// Split are the marks, one space between them, of routes with a match of
	// testers that have been seen to give something to both: they are of the
	// split, also when all of theirs is the canary's by now. anyRoute is all.
	Split string
	// Beside says that another VirtualService of the guard leads everybody
	// somewhere, so that testers' routes alone are not the split.
	Beside bool
}

// Traffic is what a VirtualService sends to the canary.
type Traffic struct {
	// Weight is the canary's highest share of the pair's traffic over the
	// routes of the split, percent 0–100. Anything above 0 is at least
	// 1, anything below all of it at most 99. A route that leads everybody to
	// the canary alone counts as 100.
	Weight  int
	Lowest  int // the lowest such share: 100 means that every route is at 100
	Counted int // routes that Weight and Lowest are of; with none of them both are 0
	// Split counts routes that name both destinations, but for those of testers
	// that stay on one side (see the package comment).
	Split int
	// CanaryOnly counts routes that lead to the canary and give nothing to
	// stable, apart from the split, as far as a rollback would re-point them.
	CanaryOnly int
	// StableOnly counts routes that lead everybody to stable and not to the
	// canary. No step moves them, so they have no say in Lowest.
	StableOnly int
	// Unsplit counts routes that give something to the canary's host without a
	// subset, as far as a rollback would re-point them: the canary's share there
	// is that of its pods, which no weight tells.
	Unsplit int
	// Mirrors counts mirrors to the canary that are not at 0%, as far as a
	// rollback would stop them.
	Mirrors int
}

// Clean tells that the canary gets nothing that a rollback would take away.
func (t Traffic) Clean() bool {
	return t.Weight == 0 && t.CanaryOnly == 0 && t.Unsplit == 0 && t.Mirrors == 0
}

// Op is one operation of a JSON patch (RFC 6902). guardian uses "add", which
// also replaces and does not fail on a missing field, and "remove". No
// operation removes a list's element, so indices stay what they are.
type Op struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"` // nil for remove
}

// Rewritten is what Rewrite wants to be written.
type Rewritten struct {
	Ops           []Op // empty: the VirtualService is already as it should be
	Before, After Traffic
	// Moved are the marks of the routes with a match of testers that a step has
	// set: from now on they are of the split (RewriteOptions.Split).
	Moved []string
	// Changes are the fields besides weights that guardian has re-pointed in
	// this VirtualService and that still are as it wrote them, once Ops are
	// applied. They replace those that were handed in for it.
	Changes []Change
}

// UnsafeError says why nothing safe can be written to a VirtualService.
type UnsafeError struct {
	VirtualService string // namespace/name
	Path           string // of the field in the way; empty: the whole object
	Reason         string
}

// Error names the VirtualService, the field and the reason.
func (e *UnsafeError) Error() string {
	if e.Path != "" {
		return fmt.Sprintf("VirtualService %s: %s: %s", e.VirtualService, e.Path, e.Reason)
	}
	return fmt.Sprintf("VirtualService %s: %s", e.VirtualService, e.Reason)
}

// Change is one field that guardian re-pointed in a VirtualService and that is
// no part of the split: of a canary-only route or a mirror, or the weights of a
// route of testers. It is undone only where the field still is what guardian
// wrote.
type Change struct {
	VirtualService string          `json:"vs"`
	Path           string          `json:"path"`            // JSON pointer; of a route's list for its weights
	Was            json.RawMessage `json:"was,omitempty"`   // absent: the field was not there
	Wrote          json.RawMessage `json:"wrote,omitempty"` // absent: guardian removed the field
	Route          string          `json:"route"`           // mark of the route that Path stood in, so that no other route is touched
}

// Merge is the traffic of two VirtualServices of one guard, or of two routes
// of one VirtualService. One without a share has no say in the lowest.
func (t Traffic) Merge(o Traffic) Traffic {
	lowest := min(t.Lowest, o.Lowest)
	switch {
	case t.Counted == 0:
		lowest = o.Lowest
	case o.Counted == 0:
		lowest = t.Lowest
	}
	return Traffic{
		Weight: max(t.Weight, o.Weight), Lowest: lowest, Counted: t.Counted + o.Counted, Split: t.Split + o.Split,
		CanaryOnly: t.CanaryOnly + o.CanaryOnly, StableOnly: t.StableOnly + o.StableOnly, Unsplit: t.Unsplit + o.Unsplit,
		Mirrors: t.Mirrors + o.Mirrors,
	}
}

// Text says what the canary has, for people.
func (t Traffic) Text() string {
	text := fmt.Sprintf("canary has %d%%", t.Weight)
	switch {
	case t.Weight > 0 || t.CanaryOnly == 0:
		return text
	case t.CanaryOnly == 1:
		return text + ", and 1 route of testers"
	}
	return text + fmt.Sprintf(", and %d routes of testers", t.CanaryOnly)
}

// Full says that every route gives the canary all of the pair's traffic. A
// canary that has some paths to itself, while others lead to stable and none to
// both, has only a part of it.
func (t Traffic) Full() bool {
	return t.Weight == 100 && t.Lowest == 100 && (t.Split > 0 || t.StableOnly == 0)
}
