package virtualservice

import "fmt"

// KeepWeights as the weight given to Rewrite restores what guardian re-pointed
// and leaves every weight as it is.
const KeepWeights = -1

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

// Op is one operation of a JSON patch (RFC 6902). guardian uses "add", which
// also replaces and does not fail on a missing field, and "remove". No
// operation removes a list's element, so indices stay what they are.
type Op struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"` // nil for remove
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
