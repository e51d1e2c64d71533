package alerting

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/go-openapi/strfmt"
	"github.com/prometheus/alertmanager/api/v2/client/alert"
	"github.com/prometheus/alertmanager/api/v2/models"
)

// Posted is an alert that guardian itself has Alertmanager tell people of. Labels
// are its identity. It fires until EndsAt, unless it is posted again before; one
// whose EndsAt is not in the future has ended.
type Posted struct {
	Labels, Annotations map[string]string
	StartsAt, EndsAt    time.Time
	GeneratorURL        string // where people find out more; may be empty
}

// Post has Alertmanager take alerts, as Prometheus does.
func (a *Alertmanager) Post(ctx context.Context, alerts []Posted) error {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	body := make(models.PostableAlerts, 0, len(alerts))
	for _, p := range alerts {
		body = append(body, &models.PostableAlert{
			Annotations: p.Annotations, StartsAt: strfmt.DateTime(p.StartsAt), EndsAt: strfmt.DateTime(p.EndsAt),
			Alert: models.Alert{Labels: p.Labels, GeneratorURL: strfmt.URI(p.GeneratorURL)},
		})
	}
	if _, err := a.api.Alert.PostAlerts(alert.NewPostAlertsParamsWithContext(ctx).WithAlerts(body)); err != nil {
		return fmt.Errorf("post %d alerts to Alertmanager %s: %w", len(alerts), a.base, plain(err))
	}
	return nil
}

// Peers are all Alertmanagers of a cluster of them. They do not hand alerts on to
// each other, so each has to be posted to.
type Peers struct {
	urls    []string
	options ClientOptions
	lookup  func(ctx context.Context, host string) ([]string, error) // addresses of a name
	proxied bool                                                     // addresses are the proxy's to find

	mu      sync.Mutex
	clients map[peer]*Alertmanager
}

// peer is one server: a URL, and where its name has several addresses, one of them.
type peer struct{ url, address string }

// NewPeers checks the URLs, each of which is one Alertmanager or the name of
// several. o.URL is not looked at. It asks nothing yet.
func NewPeers(urls []string, o ClientOptions) (*Peers, error) {
	p := &Peers{urls: slices.Clone(urls), options: o, lookup: net.DefaultResolver.LookupHost, clients: map[peer]*Alertmanager{}}
	if h := o.HTTP; h != nil {
		p.proxied = h.ProxyURL.URL != nil || h.ProxyFromEnvironment
	}
	for _, u := range urls {
		if _, err := p.client(peer{url: u}); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Post posts to all peers at once, and says how many have taken the alerts. The
// error names those that have not; it is not nil when there is no peer.
func (p *Peers) Post(ctx context.Context, alerts []Posted) (taken int, err error) {
	peers := p.find(ctx)
	errs := make([]error, len(peers))
	var wg sync.WaitGroup
	for i, one := range peers {
		wg.Go(func() {
			c, err := p.client(one)
			if err == nil {
				err = c.Post(ctx, alerts)
			}
			if err != nil && one.address != "" {
				err = fmt.Errorf("%s: %w", one.address, err)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err == nil {
			taken++
		}
	}
	if len(peers) == 0 {
		return 0, errors.New("post alerts: no Alertmanager is configured")
	}
	return taken, errors.Join(errs...)
}

// find names the servers, and lets go of those that are no more.
func (p *Peers) find(ctx context.Context) []peer {
	var out []peer
	for _, u := range p.urls {
		out = append(out, p.behind(ctx, u)...)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for one, c := range p.clients {
		if !slices.Contains(out, one) {
			c.Close()
			delete(p.clients, one)
		}
	}
	return out
}

// behind are the servers that a URL leads to. Where its name cannot be looked up,
// or has one address, it is dialled by its name.
func (p *Peers) behind(ctx context.Context, u string) []peer {
	base, err := url.Parse(u)
	if err != nil || p.proxied || net.ParseIP(base.Hostname()) != nil {
		return []peer{{url: u}}
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(p.options.Timeout, defaultQueryTimeout))
	defer cancel()
	found, err := p.lookup(ctx, base.Hostname())
	if found = oneFamily(found); err != nil || len(found) < 2 {
		return []peer{{url: u}}
	}
	slices.Sort(found)
	var out []peer
	for _, address := range slices.Compact(found) {
		out = append(out, peer{u, address})
	}
	return out
}

// oneFamily is the IPv4 addresses, where there are any: a server of both families is
// one server.
func oneFamily(addresses []string) []string {
	four := slices.DeleteFunc(slices.Clone(addresses), func(a string) bool { ip := net.ParseIP(a); return ip == nil || ip.To4() == nil })
	if len(four) > 0 {
		return four
	}
	return addresses
}

// client is that of one server, made when it is first needed.
func (p *Peers) client(one peer) (*Alertmanager, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.clients[one]; c != nil {
		return c, nil
	}
	o := p.options
	o.URL = one.url
	if one.address != "" {
		o.dial = func(ctx context.Context, network, at string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(at)
			if err != nil {
				return nil, err
			}
			return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(one.address, port))
		}
	}
	c, err := NewAlertmanager(o)
	if err == nil {
		p.clients[one] = c
	}
	return c, err
}

// Close lets go of idle connections.
func (p *Peers) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.clients {
		c.Close()
	}
}
