package virtualservice

import (
	"fmt"
	"strings"
)

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

// Spellings lists every way to write the destination r of the pair p as
// "host/subset", the form in which a record's deny list names it: short (in
// the pair's namespace only), name.namespace, name.namespace.svc and fully
// qualified. A destination that is a host of its own is written "host/" and
// stands for every subset of it. Hosts outside the cluster have one spelling.
// The result is empty when the host is unknown or has a wildcard.
func Spellings(p Pair, r Ref) []string {
	host := p.Host
	if r.Host != "" {
		host = r.Host
	}
	hosts := p.spellings(host)
	for i := range hosts {
		hosts[i] += "/" + r.Subset
	}
	return hosts
}

// Denied lists what gets the pair's canary traffic, for the admission policy:
// its spellings, those of the other subsets that lead to its pods and, where it
// is a subset, those of its host without any subset, written "host". That host
// leads to the pods of both.
func Denied(p Pair, others ...string) []string {
	out := Spellings(p, p.Canary)
	for _, subset := range others {
		out = append(out, Spellings(p, Ref{Subset: subset})...)
	}
	if p.Canary.Subset != "" {
		out = append(out, p.spellings(p.Host)...)
	}
	return out
}

// spellings lists every way to write a host.
func (p Pair) spellings(host string) []string {
	if host == "" || strings.Contains(host, "*") {
		return nil
	}
	domain := p.Domain
	if domain == "" {
		domain = DefaultDomain
	}
	full := NormalizeHost(host, p.Namespace, domain)
	name, namespace, ok := ServiceOf(full, domain)
	if !ok {
		return []string{full}
	}
	hosts := []string{name + "." + namespace, name + "." + namespace + ".svc", full}
	if namespace == p.Namespace {
		hosts = append([]string{name}, hosts...)
	}
	return hosts
}

// SameRef says that two refs are one destination, of hosts however they are spelled in
// namespace.
func SameRef(a, b Ref, namespace, domain string) bool {
	if a.Host == "" || b.Host == "" {
		return a == b
	}
	return NormalizeHost(a.Host, namespace, domain) == NormalizeHost(b.Host, namespace, domain)
}
