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
