package virtualservice

import "strings"

// DefaultDomain is the cluster domain where none is configured.
const DefaultDomain = "cluster.local"

// NormalizeHost is the service that Istio takes a destination's host for: a
// name without a dot belongs to the namespace of the object that it stands in,
// and any other host is taken as it is written, so "orders.prod" is not
// "orders.prod.svc.cluster.local". An empty domain is cluster.local.
// https://istio.io/latest/docs/reference/config/networking/virtual-service/#Destination
func NormalizeHost(host, namespace, domain string) string {
	if host == "" || host == "*" || strings.Contains(host, ".") {
		return host
	}
	if domain == "" {
		domain = DefaultDomain
	}
	return host + "." + namespace + ".svc." + domain
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

// SameRef says that two refs are one destination, of hosts however they are spelled in
// namespace.
func SameRef(a, b Ref, namespace, domain string) bool {
	if a.Host == "" || b.Host == "" {
		return a == b
	}
	return NormalizeHost(a.Host, namespace, domain) == NormalizeHost(b.Host, namespace, domain)
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

// ServiceOf takes a fully qualified service name apart.
func ServiceOf(host, domain string) (name, namespace string, ok bool) {
	rest, ok := strings.CutSuffix(host, ".svc."+domain)
	if !ok {
		return "", "", false
	}
	name, namespace, ok = strings.Cut(rest, ".")
	return name, namespace, ok && name != "" && namespace != "" && !strings.Contains(namespace, ".")
}

// sameHost tells whether the normalised host is the one that a
// DestinationRule's host names; pattern may begin with a wildcard.
func sameHost(pattern, host string) bool {
	if suffix, ok := strings.CutPrefix(pattern, "*"); ok {
		return strings.HasSuffix(host, suffix)
	}
	return pattern == host
}
