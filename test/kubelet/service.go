package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// proxyLag is how far a proxy may be behind the EndpointSlices.
const proxyLag = time.Second

// Proxy stands in for kube-proxy and DNS: it listens on an address of this machine, which it returns, and hands each
// connection to a ready endpoint of a Service's port, until Stop. Like kube-proxy it is behind the EndpointSlices, here
// by up to a second, and leaves connections alone that it has made.
func (k *Kubelet) Proxy(ctx context.Context, namespace, service, port string) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	p := &proxy{kubelet: k, namespace: namespace, service: service, port: port}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	k.mu.Lock()
	stop := k.cancel
	k.cancel = func() { stop(); cancel(); _ = listener.Close() }
	k.mu.Unlock()
	k.ended.Go(func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			k.ended.Go(func() { p.serve(ctx, connection) })
		}
	})
	return listener.Addr().String(), nil
}

type proxy struct {
	kubelet                  *Kubelet
	namespace, service, port string

	mu   sync.Mutex
	at   time.Time
	seen []string
}

// serve hands one connection on.
func (p *proxy) serve(ctx context.Context, from net.Conn) {
	defer func() { _ = from.Close() }()
	addresses, err := p.ready(ctx)
	if err != nil || len(addresses) == 0 {
		return // refused, as kube-proxy does
	}
	var dialer net.Dialer
	to, err := dialer.DialContext(ctx, "tcp", addresses[rand.IntN(len(addresses))])
	if err != nil {
		return
	}
	defer func() { _ = to.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = from.Close(); _ = to.Close() })
	defer stop()
	done := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{from, to}, {to, from}} {
		go func() {
			_, _ = io.Copy(pair[1], pair[0])
			_ = pair[1].(*net.TCPConn).CloseWrite()
			done <- struct{}{}
		}()
	}
	<-done
	<-done
}

// ready are the addresses of the ready endpoints on this machine.
func (p *proxy) ready(ctx context.Context) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.at) < proxyLag {
		return p.seen, nil
	}
	found, err := p.kubelet.Endpoints(ctx, p.namespace, p.service, p.port)
	if err == nil {
		p.seen, p.at = found, time.Now()
	}
	return found, err
}

// Endpoints are the addresses on this machine of a Service's ready endpoints.
func (k *Kubelet) Endpoints(ctx context.Context, namespace, service, port string) ([]string, error) {
	list, err := k.client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
	if err != nil {
		return nil, err
	}
	var out []string
	var errs error
	for _, slice := range list.Items {
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			found := false
			for _, sp := range slice.Ports {
				if sp.Name != nil && *sp.Name == port && sp.Port != nil {
					out, found = append(out, net.JoinHostPort(Address(e.Addresses[0]), strconv.Itoa(int(*sp.Port)))), true
				}
			}
			if !found {
				errs = errors.Join(errs, fmt.Errorf("EndpointSlice %s has no port %q", slice.Name, port))
			}
		}
	}
	return out, errs
}
