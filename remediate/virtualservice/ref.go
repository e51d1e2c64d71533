package virtualservice

import (
	"errors"
	"fmt"
	"strings"
)

// Ref names one of a guard's two destinations: a subset of the guard's
// DestinationRule, or a host of its own when stable and canary are told apart
// by host. Exactly one field is set.
type Ref struct {
	Subset string
	Host   string // as written by the user: short, dotted or fully qualified
}

// ParseRef reads the command line's spelling of a Ref: "v1" is a subset,
// "host:orders-v1" a host.
func ParseRef(s string) (Ref, error) {
	kind, host, found := strings.Cut(s, ":")
	switch {
	case s == "":
		return Ref{}, errors.New("empty destination: want a subset (v1) or a host (host:orders-v1)")
	case !found:
		return Ref{Subset: s}, nil
	case kind == "host" && host != "":
		return Ref{Host: host}, nil
	}
	return Ref{}, fmt.Errorf("destination %q: want a subset (v1) or a host (host:orders-v1)", s)
}

// String is the spelling that ParseRef reads.
func (r Ref) String() string {
	if r.Host != "" {
		return "host:" + r.Host
	}
	return r.Subset
}
