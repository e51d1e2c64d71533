package page

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A site whose name leads to guardian's address reads nothing.
func TestThePageIsAnsweredByItsOwnNamesAlone(t *testing.T) {
	o := shown()
	o.Hosts = []string{"Guardian.example.com", "guardian", "guardian.dev"}
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

func asked(p *Page, host, path string) (int, string) {
	w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, path, nil)
	r.Host = host
	p.ServeHTTP(w, r)
	if kind := w.Header().Get("Content-Type"); w.Code == http.StatusMisdirectedRequest && !strings.HasPrefix(kind, "text/plain") {
		return 0, kind
	}
	return w.Code, w.Body.String()
}
