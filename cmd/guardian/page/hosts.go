package page

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// hosts are the names by which the page is answered. A web site could have its own
// name lead to guardian's address and then read the page by the browser of somebody
// who reaches it (DNS rebinding): such a request bears that site's name.
type hosts struct {
	own    map[string]bool // lower case
	suffix []string        // of names that only the cluster gives
}

// service is the Service's name where nobody has said another.
const service = "guardian"

// newHosts knows the names of its own, and short ones of a Service as pods use them:
// alone, and with the namespace behind it. Where that is a top-level domain, such as
// shop or dev, it is not enough: anybody could register guardian.shop.
func newHosts(own []string, namespace, domain string) hosts {
	h := hosts{own: map[string]bool{"localhost": true}, suffix: []string{".svc"}}
	if domain != "" {
		h.suffix = append(h.suffix, ".svc."+strings.ToLower(domain))
	}
	_, public := publicsuffix.PublicSuffix(strings.ToLower(namespace))
	for _, name := range append([]string{service}, own...) {
		name = strings.ToLower(name)
		h.own[name] = true
		if namespace != "" && !public && !strings.Contains(name, ".") {
			h.own[name+"."+strings.ToLower(namespace)] = true
		}
	}
	return h
}

// knows says whether the Host header of a request is a name of guardian's: one that
// is configured, localhost, one of the cluster, or an IP address.
func (h hosts) knows(header string) bool {
	name := hostName(header)
	if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		return true
	}
	if h.own[name] {
		return true
	}
	for _, s := range h.suffix {
		if strings.HasSuffix(name, s) {
			return true
		}
	}
	return false
}

// hostName is a Host header without port and final dot, in lower case.
func hostName(header string) string {
	if host, _, err := net.SplitHostPort(header); err == nil {
		header = host
	}
	return strings.ToLower(strings.TrimSuffix(header, "."))
}

// refuse answers a request for another name.
func refuse(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusMisdirectedRequest)
	fmt.Fprintf(w, "guardian's page is not served by the name %.253q.\nIt is by IP addresses, localhost, and the Service's name as in guardian.namespace.svc.\n"+
		"If it should be by this one: add it to page.hosts of guardian's configuration, or of the chart's values.\n", hostName(r.Host))
}
