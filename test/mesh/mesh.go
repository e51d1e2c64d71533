package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
)

var (
	virtualServices  = schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"}
	destinationRules = schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "destinationrules"}
)

// Debounce is how much later a change of the VirtualService takes effect, as with istiod.
const Debounce = 100 * time.Millisecond

// users is the workload that the requests come from.
const users = "storefront"

// Options describe a Mesh; Rate and Debounce may be zero.
type Options struct {
	Client    dynamic.Interface // of the real API server
	Namespace string
	Service   string // also the name of VirtualService and DestinationRule
	// Workloads maps each version, a value of the label version, to the name of its Deployment.
	Workloads map[string]string
	Rate      float64 // users' requests per second; 0: none yet
	// Changed, when set, is called with the weights by version each time that others are in force.
	Changed func(weights map[string]int, at time.Time)
}

// Mesh is a running stand-in for the mesh of one service. Its methods may be called concurrently.
type Mesh struct {
	options  Options
	users    *proxy
	versions map[string]*version
	cancel   context.CancelFunc
	done     sync.WaitGroup
	paced    chan struct{} // the pace has changed

	mu     sync.Mutex
	routes Routes
	rate   float64
	counts Counts
}

// Counts is what users have seen since [Mesh.Reset].
type Counts struct {
	Sent, Failed            int
	ByVersion               map[string]int
	FirstFailed, LastFailed time.Time // when the answer came; zero: none
}

// Start starts the versions and their proxies and returns when the VirtualService is in force; both objects must exist.
// The mesh ends with ctx or by Stop.
func Start(ctx context.Context, o Options) (*Mesh, error) {
	ctx, cancel := context.WithCancel(ctx)
	m := &Mesh{options: o, versions: map[string]*version{}, cancel: cancel, rate: o.Rate, paced: make(chan struct{}, 1)}
	m.Reset()
	if err := m.start(ctx); err != nil {
		m.Stop()
		return nil, fmt.Errorf("mesh stand-in of %s/%s: %w", o.Namespace, o.Service, err)
	}
	return m, nil
}

func (m *Mesh) start(ctx context.Context) error {
	var err error
	if m.users, err = startProxy(users, "source"); err != nil {
		return err
	}
	for name, workload := range m.options.Workloads {
		if m.versions[name], err = startVersion(m.options.Namespace, m.options.Service, workload, name); err != nil {
			delete(m.versions, name)
			return err
		}
	}
	if err := m.watch(ctx); err != nil {
		return err
	}
	m.done.Go(func() { m.load(ctx) })
	return nil
}

// Stop ends the users, the servers and the watches. It may be called twice.
func (m *Mesh) Stop() {
	m.cancel()
	m.done.Wait()
	for _, v := range m.versions {
		v.stop()
	}
	if m.users != nil {
		m.users.stop()
	}
}

// Targets are the proxies to scrape, the users' first.
func (m *Mesh) Targets() []Target {
	out := []Target{{Workload: users, Address: m.users.address}}
	for _, v := range m.versions {
		out = append(out, Target{Workload: v.proxy.workload, Address: v.proxy.address})
	}
	return out
}

// Behave changes how a version answers.
func (m *Mesh) Behave(version string, b Behaviour) error {
	v, ok := m.versions[version]
	if !ok {
		return fmt.Errorf("behaviour of version %q: the mesh has no such version", version)
	}
	return v.behave(b)
}

// SetRate changes the users' requests per second; 0 stops them.
func (m *Mesh) SetRate(perSecond float64) {
	m.mu.Lock()
	m.rate = perSecond
	m.mu.Unlock()
	select {
	case m.paced <- struct{}{}:
	default:
	}
}

// Weights are in force now, percent by version.
func (m *Mesh) Weights() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.routes.Weights()
}

// Counts returns what users have seen since the last Reset.
func (m *Mesh) Counts() Counts {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.counts
	c.ByVersion = map[string]int{}
	for k, n := range m.counts.ByVersion {
		c.ByVersion[k] = n
	}
	return c
}

// Reset starts the counts anew.
func (m *Mesh) Reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts = Counts{ByVersion: map[string]int{}}
}

// Scrapes returns the scrapes of a version's proxy after a time, oldest first, each with the failed requests that it
// showed more than the last one before that time. Without a version they are those of the users' proxy.
func (m *Mesh) Scrapes(version string, after time.Time) []Scrape {
	if version == "" {
		return m.users.since(after)
	}
	if v := m.versions[version]; v != nil {
		return v.proxy.since(after)
	}
	return nil
}

// LastScrape returns when the newest scrape of any proxy before a time began; zero: there was none.
func (m *Mesh) LastScrape(before time.Time) time.Time {
	last := m.users.lastScrape(before)
	for _, v := range m.versions {
		if at := v.proxy.lastScrape(before); at.After(last) {
			last = at
		}
	}
	return last
}

// LastScrapeOf returns when the newest scrape of a version's proxy before a time began; zero: there was none.
func (m *Mesh) LastScrapeOf(version string, before time.Time) time.Time {
	v := m.versions[version]
	if v == nil {
		return time.Time{}
	}
	return v.proxy.lastScrape(before)
}

// watch keeps the routes what the API server has, and returns when they are known.
func (m *Mesh) watch(ctx context.Context) error {
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(m.options.Client, 0, m.options.Namespace,
		func(l *metav1.ListOptions) { l.FieldSelector = "metadata.name=" + m.options.Service })
	changed := make(chan struct{}, 1)
	tell := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { tell() }, UpdateFunc: func(any, any) { tell() }, DeleteFunc: func(any) { tell() },
	}
	for _, resource := range []schema.GroupVersionResource{virtualServices, destinationRules} {
		if _, err := factory.ForResource(resource).Informer().AddEventHandler(handler); err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	for resource, ok := range factory.WaitForCacheSync(ctx.Done()) {
		if !ok {
			return fmt.Errorf("watch %s: %w", resource.Resource, context.Cause(ctx))
		}
	}
	if err := m.take(factory); err != nil {
		factory.Shutdown()
		return err
	}
	m.done.Go(func() {
		defer factory.Shutdown()
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(Debounce):
				_ = m.take(factory) // without a VirtualService the last one stays in force, as in a proxy
			}
		}
	})
	return nil
}

// take puts what the watches know into force.
func (m *Mesh) take(factory dynamicinformer.DynamicSharedInformerFactory) error {
	get := func(resource schema.GroupVersionResource) (map[string]any, error) {
		object, err := factory.ForResource(resource).Lister().ByNamespace(m.options.Namespace).Get(m.options.Service)
		if err != nil {
			return nil, err
		}
		u, ok := object.(interface{ UnstructuredContent() map[string]any })
		if !ok {
			return nil, fmt.Errorf("%s: the cache holds a %T", resource.Resource, object)
		}
		return u.UnstructuredContent(), nil
	}
	vs, err := get(virtualServices)
	if err != nil {
		return err
	}
	dr, err := get(destinationRules)
	if err != nil {
		return err
	}
	routes, err := ParseRoutes(vs, dr)
	if err != nil {
		return err
	}
	m.mu.Lock()
	before := m.routes.Weights()
	m.routes = routes
	m.mu.Unlock()
	if after := routes.Weights(); m.options.Changed != nil && !same(before, after) {
		m.options.Changed(after, time.Now())
	}
	return nil
}

func same(a, b map[string]int) bool {
	if len(a) != len(b) {
		return false
	}
	for k, n := range a {
		if b[k] != n {
			return false
		}
	}
	return true
}

// load sends the users' requests, evenly paced, each in a goroutine of its own: a slow answer delays no other request.
func (m *Mesh) load(ctx context.Context) {
	var under sync.WaitGroup
	defer under.Wait()
	due := time.Now()
	for {
		m.mu.Lock()
		rate := m.rate
		m.mu.Unlock()
		if rate <= 0 {
			select {
			case <-ctx.Done():
				return
			case <-m.paced:
				due = time.Now()
				continue
			}
		}
		due = due.Add(time.Duration(float64(time.Second) / rate))
		if late := time.Since(due); late > time.Second {
			due = time.Now() // the machine was away: do not send it all at once
		}
		select {
		case <-ctx.Done():
			return
		case <-m.paced:
			continue
		case <-time.After(time.Until(due)):
		}
		under.Go(func() { m.Request(ctx, nil) })
	}
}

// Request is one user's request; header may be nil. It returns the status code that the user got.
func (m *Mesh) Request(ctx context.Context, header http.Header) int {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.options.Service+"/orders", nil)
	if err != nil {
		return 0
	}
	for name, values := range header {
		request.Header[name] = values
	}
	request.Header.Set("x-source-workload", users)
	m.mu.Lock()
	picked := m.routes.Pick(request)
	m.mu.Unlock()
	c := m.send(request, picked)
	if ctx.Err() != nil {
		return 0 // the users have gone home
	}
	m.users.report(c, users)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts.Sent++
	m.counts.ByVersion[picked]++
	if c.code >= 500 {
		m.counts.Failed++
		m.counts.LastFailed = time.Now()
		if m.counts.FirstFailed.IsZero() {
			m.counts.FirstFailed = m.counts.LastFailed
		}
	}
	return c.code
}

// send passes a request on to a version, as the users' proxy does.
func (m *Mesh) send(request *http.Request, picked string) call {
	c := call{namespace: m.options.Namespace, service: m.options.Service, workload: "unknown", version: "unknown", code: http.StatusServiceUnavailable}
	began := time.Now()
	v, ok := m.versions[picked]
	if !ok {
		c.flags = "NR" // no route
		return c
	}
	request.URL.Host = v.address
	response, err := v.client.Do(request)
	c.took = time.Since(began)
	if err != nil {
		c.flags = "UF" // upstream connection failure
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			c.flags = "UC" // closed by the upstream
		}
		return c
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
	c.workload, c.version, c.code = v.proxy.workload, v.name, response.StatusCode
	return c
}
