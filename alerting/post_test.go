package alerting

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/config"

	"github.com/canary-guardian/guardian/test/controlplane"
)

// inbox is an Alertmanager that keeps what is posted to it, at one address.
type inbox struct {
	mu     sync.Mutex
	posted []string // name of the first alert of each call, with the user who posted
	status int
}

func (b *inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.status != 0 {
		w.WriteHeader(b.status)
		return
	}
	body, err := io.ReadAll(r.Body)
	var alerts []struct{ Labels map[string]string }
	if err != nil || r.URL.Path != "/am/api/v2/alerts" || json.Unmarshal(body, &alerts) != nil || len(alerts) == 0 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	user, _, _ := r.BasicAuth()
	b.posted = append(b.posted, user+":"+alerts[0].Labels["alertname"])
}

func (b *inbox) got() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.posted)
}

// inboxes listen on several loopback addresses with one port.
func inboxes(t *testing.T, addresses ...string) (boxes []*inbox, port string) {
	t.Helper()
	port = "0"
	for _, a := range addresses {
		l, err := net.Listen("tcp", net.JoinHostPort(a, port))
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ = net.SplitHostPort(l.Addr().String())
		box := &inbox{}
		s := &httptest.Server{Listener: l, Config: &http.Server{Handler: box, ReadHeaderTimeout: time.Minute}}
		s.Start()
		t.Cleanup(s.Close)
		boxes = append(boxes, box)
	}
	return boxes, port
}

func somePosted() []Posted {
	now := time.Now()
	return []Posted{{Labels: map[string]string{"alertname": "GuardianRolledBack", "namespace": "shop"}, Annotations: map[string]string{"summary": "s"},
		StartsAt: now.Add(-time.Minute), EndsAt: now.Add(time.Minute), GeneratorURL: "http://prometheus/graph"}}
}

func TestEveryAddressOfANameIsPostedToWithTheCredentials(t *testing.T) {
	boxes, port := inboxes(t, "127.0.0.1", "127.0.0.2", "127.0.0.3")
	auth := config.DefaultHTTPClientConfig
	auth.BasicAuth = &config.BasicAuth{Username: "guardian", Password: "x"}
	p, err := NewPeers([]string{"http://alertmanager-operated.monitoring:" + port + "/am"}, ClientOptions{HTTP: &auth})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var found []string
	p.lookup = func(_ context.Context, host string) ([]string, error) {
		if host != "alertmanager-operated.monitoring" {
			return nil, fmt.Errorf("asked for %s", host)
		}
		return found, nil
	}
	post := func(taken int, wrong string) {
		t.Helper()
		n, err := p.Post(t.Context(), somePosted())
		if n != taken || (err == nil) != (wrong == "") || err != nil && !strings.Contains(err.Error(), wrong) {
			t.Fatalf("%d taken, %v; want %d and %q", n, err, taken, wrong)
		}
	}
	found = []string{"127.0.0.2", "127.0.0.1", "fd00::1"} // of both families: the same two servers
	post(2, "")
	found = []string{"127.0.0.2", "127.0.0.3"} // a pod has been replaced
	boxes[1].status = http.StatusServiceUnavailable
	post(1, "127.0.0.2: post 1 alerts to Alertmanager http://alertmanager-operated.monitoring:"+port)
	if len(p.clients) != 2 {
		t.Errorf("%d clients for 2 addresses", len(p.clients))
	}
	for i, want := range [][]string{{"guardian:GuardianRolledBack"}, {"guardian:GuardianRolledBack"}, {"guardian:GuardianRolledBack"}} {
		if got := boxes[i].got(); !slices.Equal(got, want) {
			t.Errorf("%d: %v, want %v", i, got, want)
		}
	}
}

func TestEveryConfiguredAlertmanagerIsPostedTo(t *testing.T) {
	boxes, port := inboxes(t, "127.0.0.1", "127.0.0.2")
	p, err := NewPeers([]string{"http://127.0.0.1:" + port + "/am", "http://127.0.0.2:" + port + "/am"}, ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.lookup = func(context.Context, string) ([]string, error) { return nil, errors.New("an address is not looked up") }
	if n, err := p.Post(t.Context(), somePosted()); n != 2 || err != nil {
		t.Errorf("%d taken, %v", n, err)
	}
	for i, b := range boxes {
		if got := b.got(); len(got) != 1 {
			t.Errorf("%d: %v", i, got)
		}
	}
	if _, err := NewPeers([]string{"ftp://x"}, ClientOptions{}); err == nil {
		t.Error("ftp was taken")
	}
	if n, err := (&Peers{}).Post(t.Context(), nil); n != 0 || err == nil {
		t.Error("nobody is posted to, and nobody says so")
	}
}

func TestOneFamilyOfAddressesIsTaken(t *testing.T) {
	for in, want := range map[string]string{"127.0.0.1 ::1": "127.0.0.1", "::1": "::1", "10.0.0.1 10.0.0.2": "10.0.0.1 10.0.0.2", "fd00::1 fd00::2": "fd00::1 fd00::2", "": ""} {
		if got := strings.Join(oneFamily(strings.Fields(in)), " "); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// What is posted fires and ends as said, at a real Alertmanager.
func TestARealAlertmanagerTakesWhatIsPosted(t *testing.T) {
	am, err := plane(t).StartAlertmanager(t.Context(), controlplane.AlertmanagerOptions{Config: fmt.Sprintf(receiverConfig, "127.0.0.1:1", tokenFile(t, token))})
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewAlertmanager(ClientOptions{URL: am.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	posted := somePosted()
	firing := func() []Alert {
		found, err := c.Firing(t.Context(), Filter{})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if err := c.Post(t.Context(), posted); err != nil {
		t.Fatal(err)
	}
	if got := firing(); len(got) != 1 || got[0].Labels["namespace"] != "shop" || got[0].Annotations["summary"] != "s" || got[0].GeneratorURL != posted[0].GeneratorURL {
		t.Fatalf("fires: %+v", got)
	}
	posted[0].EndsAt = time.Now()
	if err := c.Post(t.Context(), posted); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has ended", func() bool { return len(firing()) == 0 })
	posted[0].Labels = map[string]string{"": "x"}
	if err := c.Post(t.Context(), posted); err == nil || !strings.Contains(err.Error(), am.URL) {
		t.Errorf("a label without a name was taken: %v", err)
	}
}
