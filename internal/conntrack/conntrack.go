// Package conntrack stands in for the module of that name, which
// github.com/prometheus/common/config dials with: it counts connections for
// metrics that guardian does not serve, and traces them by a package whose pages
// are made by html/template. Whatever can reach that keeps every exported method
// of every type in the program, from all of Kubernetes's groups: 31 MB of 72.
package conntrack

import (
	"context"
	"net"
)

type dial = func(ctx context.Context, network, address string) (net.Conn, error)

// Option is how to dial.
type Option func(*dial)

// NewDialContextFunc dials as the options say.
func NewDialContextFunc(options ...Option) func(ctx context.Context, network, address string) (net.Conn, error) {
	d := dial((&net.Dialer{}).DialContext)
	for _, o := range options {
		o(&d)
	}
	return d
}

// DialWithDialContextFunc dials by f.
func DialWithDialContextFunc(f func(ctx context.Context, network, address string) (net.Conn, error)) Option {
	return func(d *dial) { *d = f }
}

// DialWithTracing would trace.
func DialWithTracing() Option { return func(*dial) {} }

// DialWithName would name the metrics.
func DialWithName(string) Option { return func(*dial) {} }
