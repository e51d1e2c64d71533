package page

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A site whose name leads to guardian's address reads nothing.
func TestThePageIsAnsweredByItsOwnNamesAlone(t *testing.T) {
	o := shown()
	o.Hosts = []string{"Guardian.example.com", "guardian.dev"}
	p := New(o)
	for _, host := range []string{
		"guardian.example.com", "guardian.example.com:8443", "GUARDIAN.EXAMPLE.COM", "guardian.example.com.", "guardian", "guardian.dev:8082",
		"localhost", "localhost:8082", "127.0.0.1", "127.0.0.1:8082", "[::1]", "[::1]:8082", "10.0.0.7:8082",
		"guardian.shop.svc", "guardian.shop.svc:8082", "guardian.shop.svc.cluster.local",
	} {
		for _, path := range []string{"/", "/guards/orders", "/page.js"} {
			if code, body := asked(p, host, path); code != http.StatusOK {
				t.Errorf("%s%s: %d %s", host, path, code, body)
			}
		}
	}
	for _, host := range []string{
		"evil.example", "evil.example:8082", "guardian.example.com.evil.example", "evil.guardian.example.com", "localhost.evil.example", "127.0.0.1.evil.example",
		"evil.dev", "svc", "shop.svc.evil", "x.svc.cluster.example", "", "<script>alert(1)</script>",
	} {
		for _, path := range []string{"/", "/guards/orders", "/events", "/page.js", "/nothing"} {
			code, body := asked(p, host, path)
			if code != http.StatusMisdirectedRequest || !strings.Contains(body, "page.hosts") || strings.Contains(body, "orders") {
				t.Errorf("%q%s: %d %s", host, path, code, body)
			}
		}
	}
}

// Pods use a Service's short names, and so do browsers that share the cluster's DNS. Nobody but the cluster gives them,
// unless the namespace is a top-level domain.
func TestThePageIsAnsweredByShortNamesOfItsService(t *testing.T) {
	for _, c := range []struct {
		namespace      string
		hosts          []string
		known, unknown []string
	}{
		{"microservices", nil, []string{"guardian", "guardian:8082", "Guardian.Microservices:8082", "guardian.microservices.svc", "guardian.microservices.svc.cluster.local."},
			[]string{"guardian.shop", "evil.microservices", "guardian.microservices.evil.example", "evil", "microservices", "guardian.microservices.com"}},
		{"microservices", []string{"brake", "guardian.example.com"}, []string{"brake", "brake.microservices:80", "guardian", "guardian.microservices", "guardian.example.com"},
			[]string{"brake.shop", "brake.example.com", "guardian.example.com.microservices", "example.com"}},
		{"shop", []string{"brake"}, []string{"guardian", "brake:8082", "guardian.shop.svc"}, []string{"guardian.shop", "brake.shop:8082"}}, // .shop is for sale
		{"dev", []string{"guardian.dev"}, []string{"guardian.dev", "guardian"}, []string{"evil.dev"}},                                      // said by somebody
		{"Cloud", nil, []string{"guardian"}, []string{"guardian.cloud"}},
		{"", nil, []string{"guardian"}, []string{"guardian.com"}},
	} {
		o := shown()
		o.Namespace, o.Hosts = c.namespace, c.hosts
		p := New(o)
		for _, host := range c.known {
			if code, body := asked(p, host, "/guards/orders"); code != http.StatusOK {
				t.Errorf("namespace %q, hosts %q: %s is not answered: %d %s", c.namespace, c.hosts, host, code, body)
			}
		}
		for _, host := range c.unknown {
			if code, body := asked(p, host, "/guards/orders"); code != http.StatusMisdirectedRequest || strings.Contains(body, "orders") || !strings.Contains(body, "localhost") {
				t.Errorf("namespace %q, hosts %q: %s is answered: %d %s", c.namespace, c.hosts, host, code, body)
			}
		}
	}
}

func asked(p *Page, host, path string) (int, string) {
	w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, path, nil)
	r.Host = host
	if path == "/events" { // which goes on for as long as somebody looks
		gone, leave := context.WithCancel(r.Context())
		leave()
		r = r.WithContext(gone)
	}
	p.ServeHTTP(w, r)
	if kind := w.Header().Get("Content-Type"); w.Code == http.StatusMisdirectedRequest && !strings.HasPrefix(kind, "text/plain") {
		return 0, kind
	}
	return w.Code, w.Body.String()
}
