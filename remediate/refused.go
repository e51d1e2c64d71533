package remediate

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// trafficError is that of a write to a VirtualService.
type trafficError struct{ err error }

func (e *trafficError) Error() string { return e.err.Error() }

func (e *trafficError) Unwrap() error { return e.err }

// errRefused says that the API server has answered, and has not taken what was
// to be written to the VirtualServices.
var errRefused = errors.New("the API server refuses it")

// recordError is that of a write of the record.
type recordError struct{ err error }

func (e *recordError) Error() string { return e.err.Error() }

func (e *recordError) Unwrap() error { return e.err }

// doubtful says that one more look at the API server comes before what follows
// from an error: a write without an answer may be in, and what was decided on may
// no longer be so where the record cannot be written.
func doubtful(err error, o outcome) bool {
	s := o.snapshot
	var record *recordError
	if errors.As(err, &record) {
		return !s.again && o.decision.Move == decision.MoveStable
	}
	var traffic *trafficError
	var status apierrors.APIStatus
	return !s.again && errors.As(err, &traffic) && (!errors.As(err, &status) || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err))
}

// tellRefused has the record say that what was to be written was not, and why.
func (r *reconciler) tellRefused(ctx context.Context, out outcome, err error) (outcome, error) {
	var traffic *trafficError
	if !errors.As(err, &traffic) || out.record == nil {
		return out, err
	}
	err = fmt.Errorf("%w: %w", errRefused, err)
	d := out.decision.WhenRefused(out.snapshot.input, strings.ReplaceAll(traffic.Error(), "\n", "; "), r.now().UTC())
	out.decision = d
	defer func() {
		if d.Move == decision.MoveStable {
			r.markLock(ctx, &out, d.Record)
		}
	}()
	if records.Holds(out.record, d.Record) {
		return out, err
	}
	g := out.snapshot.input.Guard
	cm, failed := r.store.writeRecord(ctx, g.Name, out.record, d.Record)
	if failed != nil {
		return out, errors.Join(err, failed)
	}
	out.record = cm
	r.changed(ctx, g, out.snapshot, d)
	return out, err
}

// markLock writes the lock's annotation by itself where the weights were refused:
// what CI gives the canary besides is then refused by the policy all the same.
func (r *reconciler) markLock(ctx context.Context, out *outcome, want decision.Record) {
	s := out.snapshot
	for _, have := range s.services {
		vs, err := r.live.virtualService(ctx, have.GetName())
		if err != nil || vs == nil || foreignLock(vs, s.input.Guard.Name, r.self()) {
			continue
		}
		if ops := lockOps(vs, s.input.Guard.Name, want, r.self(), nil); len(ops) > 0 {
			if _, err := r.store.patchVirtualService(ctx, vs, ops, FieldManager); err != nil {
				out.unmarked = err
			}
		}
	}
}

// maxRoutesAlone is of how many routes each is tried by itself.
const maxRoutesAlone = 32

// patchSmaller writes what the API server takes of a patch that it has refused
// as a whole: all but what is for people, else the weights, else what it takes of
// each route. The error names the routes that are left as they were.
func (r *reconciler) patchSmaller(ctx context.Context, c change, whole error) error {
	p := &partly{r: r, c: c}
	traffic, _ := partition(c.ops, inRoute)
	if len(traffic) == 0 {
		return whole
	}
	if len(traffic) < len(c.ops) {
		err := p.try(ctx, traffic)
		if err == nil {
			return nil
		}
		if definitely(err) {
			whole = err // a person who is told of the annotations alone would mend what is not in the way
		}
	}
	if weights, others := partition(traffic, setsWeight); len(weights) > 0 && len(others) > 0 && p.try(ctx, weights) == nil {
		traffic = others
	}
	routes, byRoute := p.split(traffic)
	if p.lost != nil || len(routes) > maxRoutesAlone || len(routes) == 1 && p.wrote == 0 {
		return errors.Join(ofRoutes(routes, whole), p.lost)
	}
	var left []error
	for _, route := range routes {
		if err := p.tryRoute(ctx, byRoute[route]); err != nil {
			left = append(left, ofRoutes([]string{route}, err))
		}
		if p.lost != nil {
			break
		}
	}
	if p.wrote == 0 && p.lost == nil {
		return whole
	}
	return errors.Join(append(left, p.lost)...)
}

// partition sorts operations into those that are so, and the others.
func partition(ops []virtualservice.Op, are func(virtualservice.Op) bool) (so, others []virtualservice.Op) {
	for _, o := range ops {
		if are(o) {
			so = append(so, o)
		} else {
			others = append(others, o)
		}
	}
	return so, others
}

func inRoute(o virtualservice.Op) bool { return routeOf(o.Path) != "" }

func setsWeight(o virtualservice.Op) bool { return strings.HasSuffix(o.Path, "/weight") }

// partly writes a VirtualService in parts.
type partly struct {
	r     *reconciler
	c     change
	wrote int
	lost  error // what says that no other part needs to be tried
}

func (p *partly) try(ctx context.Context, ops []virtualservice.Op) error {
	if p.lost != nil {
		return p.lost
	}
	now, err := p.r.store.patchVirtualService(ctx, p.c.vs, ops, FieldManager)
	switch {
	case err == nil:
		p.c.vs = now
		p.wrote++
	case !definitely(err):
		p.lost = err
	}
	return err
}

// tryRoute writes what the API server takes of a route: all, or its weights alone. The
// error is that of all: what is left of the route is named in any case.
func (p *partly) tryRoute(ctx context.Context, ops []virtualservice.Op) error {
	err := p.try(ctx, ops)
	if weights, others := partition(ops, setsWeight); err != nil && len(weights) > 0 && len(others) > 0 {
		_ = p.try(ctx, weights)
	}
	return err
}

// split sorts operations by route.
func (p *partly) split(ops []virtualservice.Op) (routes []string, byRoute map[string][]virtualservice.Op) {
	byRoute = map[string][]virtualservice.Op{}
	for _, o := range ops {
		route := routeOf(o.Path)
		if byRoute[route] == nil {
			routes = append(routes, route)
		}
		byRoute[route] = append(byRoute[route], o)
	}
	return routes, byRoute
}

// ofRoutes says which routes an error is about.
func ofRoutes(routes []string, err error) error {
	var names []string
	for i, r := range routes {
		if i == 3 {
			names = append(names, fmt.Sprintf("%d more", len(routes)-i))
			break
		}
		parts := strings.Split(r, "/") // "", spec, the kind, an index
		names = append(names, fmt.Sprintf("%s[%s]", parts[2], parts[3]))
	}
	return fmt.Errorf("route %s: %w", strings.Join(names, ", "), err)
}

// routeOf is the pointer of the route that an operation stands in, or "".
func routeOf(path string) string {
	parts := strings.SplitN(path, "/", 5) // "", spec, the kind, an index, the rest
	if len(parts) < 5 || parts[1] != "spec" {
		return ""
	}
	return strings.Join(parts[:4], "/")
}
