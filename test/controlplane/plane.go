package controlplane

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
)

// Options say what a control plane consists of. The zero value is etcd and kube-apiserver with all CRDs.
type Options struct {
	// Users besides admin, guardian, ci, dev and nobody, which always exist. See [Plane.RESTConfig].
	Users []User
	// WithoutKubernetes leaves etcd and kube-apiserver out, for tests that need Prometheus or Alertmanager alone.
	WithoutKubernetes bool
	// Controllers runs kube-controller-manager, and admits Pods by their ServiceAccount: Deployments get Pods, Services
	// EndpointSlices, owners garbage collection, ServiceAccounts tokens. Nothing runs the Pods: see the package kubelet.
	Controllers bool
}

// Plane is a running control plane. Its methods may be called concurrently, but for those that stop and start the
// same program.
type Plane struct {
	options Options
	family  *family
	keys    *keys
	users   []User
	etcd    *Process

	mu         sync.Mutex
	apiServer  *Process // nil while stopped
	apiPort    int
	etcdURL    string
	namespaces int
	pods       int
	started    map[string]int // programs by base name, for unique log files
}

// Start starts a control plane and returns when all its APIs are served. The caller must call [Plane.Stop]; should its
// process end first, everything is cleaned up all the same.
func Start(ctx context.Context, options Options) (*Plane, error) {
	p := &Plane{options: options, started: map[string]int{}}
	var etcd, apiServer string
	if !options.WithoutKubernetes {
		var err error
		if etcd, err = Binary(ctx, "etcd"); err != nil {
			return nil, err
		}
		if apiServer, err = Binary(ctx, "kube-apiserver"); err != nil {
			return nil, err
		}
	}
	if options.Controllers { // before anything waits for it
		if _, err := Binary(ctx, "kube-controller-manager"); err != nil {
			return nil, err
		}
	}
	family, err := newFamily()
	if err != nil {
		return nil, fmt.Errorf("start a control plane: %w", err)
	}
	p.family = family
	if options.WithoutKubernetes {
		return p, nil
	}
	if err := p.startKubernetes(ctx, etcd, apiServer); err != nil {
		p.Stop()
		return nil, fmt.Errorf("start a control plane: %w", err)
	}
	return p, nil
}

// startKubernetes starts etcd and kube-apiserver and loads the CRDs.
func (p *Plane) startKubernetes(ctx context.Context, etcd, apiServer string) error {
	var err error
	if p.keys, err = newKeys(p.family.folder); err != nil {
		return err
	}
	p.users = append(defaultUsers(), p.options.Users...)
	if err := writeTokens(p.tokenFile(), p.users); err != nil {
		return err
	}
	group, both := errgroup.WithContext(ctx)
	var definitions []definition
	group.Go(func() (err error) {
		definitions, err = loadDefinitions(both)
		return err
	})
	group.Go(func() error {
		if err := p.startEtcd(both, etcd); err != nil {
			return err
		}
		return p.firstAPIServer(both, apiServer)
	})
	if err := group.Wait(); err != nil {
		return err
	}
	if err := p.install(ctx, definitions); err != nil || !p.options.Controllers {
		return err
	}
	return p.startControllers(ctx)
}

// Stop ends every process of the control plane and removes its folder. It may be called twice.
func (p *Plane) Stop() { p.family.dissolve() }

// Dir is the control plane's folder: data, configuration and logs. It is removed by [Plane.Stop].
func (p *Plane) Dir() string { return p.family.folder }

// Run starts a program as a child of the control plane and waits until it is ready; what it prints goes to a log file.
// It ends with the control plane at the latest. A name that is in use gets a number.
func (p *Plane) Run(ctx context.Context, program Program) (*Process, error) {
	program.Name = p.unique(program.Name)
	return p.family.start(ctx, program)
}

// Pids are the ids of what runs, by name.
func (p *Plane) Pids() map[string]int {
	p.family.mu.Lock()
	defer p.family.mu.Unlock()
	out := make(map[string]int, len(p.family.processes))
	for process := range p.family.processes {
		out[process.program.Name] = process.Pid()
	}
	return out
}

// unique makes a name of a program unique within the control plane.
func (p *Plane) unique(name string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started[name]++
	if n := p.started[name]; n > 1 {
		return fmt.Sprintf("%s-%d", name, n)
	}
	return name
}

// errNoKubernetes is returned by what needs kube-apiserver on a control plane without it.
var errNoKubernetes = errors.New("this control plane was started without Kubernetes")

// APIServerURL is where kube-apiserver listens, also while it is stopped.
func (p *Plane) APIServerURL() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return "https://" + address(p.apiPort)
}

// admin returns a configuration for this package's own requests.
func (p *Plane) admin() (*rest.Config, error) {
	if p.keys == nil {
		return nil, errNoKubernetes
	}
	return p.RESTConfig(Admin), nil
}
