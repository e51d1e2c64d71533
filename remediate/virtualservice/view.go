package virtualservice

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// role is which of the pair's destinations something leads to.
type role int

const (
	other role = iota
	stable
	canary
	unsplit // the canary's host without a subset: the pods of both, each as many as there are
)

// View is a VirtualService read for one pair. Its objects are those of the
// decoded JSON, so that writing to them changes it.
type View struct {
	pair            Pair
	name, namespace string // of the VirtualService
	pairHost        string // normalised host of the subsets; empty: any one
	refHosts        [3]string
	seenHost        string // normalised host that a subset of the pair was found on
	routes          []*route
	delegates       []string // namespace/name
	strangers       []string // destinations with the pair's subsets on other hosts
}

// route is one entry of spec.http, spec.tcp or spec.tls.
type route struct {
	kind         string
	where        *place
	object       map[string]any
	destinations []*destination
	mirrors      []*mirror
	selective    bool // only testers take it
}

// destination is one entry of a route's list.
type destination struct {
	where  *place // of the entry
	entry  map[string]any
	object map[string]any // entry's field destination
	host   string         // as written
	subset string
	weight int64 // that counts: absent is 0, a single destination has 100
	role   role
}

// mirror is a mirror of a route.
type mirror struct {
	where  *place // of the object that has the field with the percentage
	object map[string]any
	field  string
	target map[string]any // the destination
	on     bool           // more than 0%
	role   role
}

// Read reads the routes and checks what it reads.
func Read(vs map[string]any, p Pair) (*View, error) {
	v := &View{pair: p}
	meta, _, err := objectAt(vs, nil, "metadata")
	if err != nil {
		return nil, fmt.Errorf("read VirtualService: %w", err)
	}
	v.name, _ = meta["name"].(string)
	v.namespace, _ = meta["namespace"].(string)
	if v.namespace == "" {
		v.namespace = p.Namespace
	}
	if v.namespace == "" {
		v.namespace = "default"
	}
	if v.pair.Namespace == "" {
		v.pair.Namespace = v.namespace
	}
	if err := v.pair.validate(); err != nil {
		return nil, err
	}
	v.pairHost = NormalizeHost(p.Host, v.pair.Namespace, p.Domain)
	v.refHosts[stable] = NormalizeHost(p.Stable.Host, v.pair.Namespace, p.Domain)
	v.refHosts[canary] = NormalizeHost(p.Canary.Host, v.pair.Namespace, p.Domain)
	if err := v.read(vs); err != nil {
		return nil, fmt.Errorf("read VirtualService %s/%s: %w", v.namespace, v.name, err)
	}
	return v, nil
}

func (v *View) read(vs map[string]any) error {
	if err := checkKind(vs); err != nil {
		return err
	}
	spec, where, err := objectAt(vs, nil, "spec")
	if err != nil {
		return err
	}
	for _, kind := range []string{"http", "tls", "tcp"} {
		entries, at, err := objectsAt(spec, where, kind)
		if err != nil {
			return err
		}
		for i, object := range entries {
			r := &route{kind: kind, where: at.index(i), object: object}
			if err := v.readRoute(r); err != nil {
				return err
			}
			v.routes = append(v.routes, r)
		}
	}
	return v.classify()
}

// checkKind refuses objects that are no VirtualService; absent fields pass,
// since typed clients leave them out.
func checkKind(vs map[string]any) error {
	if kind, ok := vs["kind"]; ok && kind != "VirtualService" {
		return fmt.Errorf("kind: %s, want VirtualService", show(kind))
	}
	switch version := vs["apiVersion"]; version {
	case nil, "networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3":
		return nil
	default:
		return fmt.Errorf("apiVersion: %s, want networking.istio.io/v1, v1beta1 or v1alpha3", show(version))
	}
}

func (v *View) readRoute(r *route) error {
	entries, at, err := objectsAt(r.object, r.where, "route")
	if err != nil {
		return err
	}
	for i, entry := range entries {
		d := &destination{where: at.index(i), entry: entry}
		if err := d.read(); err != nil {
			return err
		}
		if len(entries) == 1 {
			d.weight = 100 // its weight is ignored: it gets everything
		}
		r.destinations = append(r.destinations, d)
	}
	if r.selective, err = selective(r); err != nil {
		return err
	}
	if r.kind != "http" {
		return nil
	}
	delegate, _, err := objectAt(r.object, r.where, "delegate")
	if err != nil {
		return err
	}
	if delegate != nil {
		namespace, _ := delegate["namespace"].(string)
		if namespace == "" {
			namespace = v.namespace
		}
		v.delegates = append(v.delegates, fmt.Sprintf("%s/%v", namespace, delegate["name"]))
	}
	return r.readMirrors()
}

func (d *destination) read() error {
	var err error
	var where *place
	if d.object, where, err = objectAt(d.entry, d.where, "destination"); err != nil {
		return err
	}
	if d.object == nil {
		return fmt.Errorf("%s: absent, want an object with a host", where.text())
	}
	if d.host, err = stringAt(d.object, where, "host"); err != nil {
		return err
	}
	if d.subset, err = stringAt(d.object, where, "subset"); err != nil {
		return err
	}
	weight, present := d.entry["weight"]
	if !present || weight == nil {
		return nil
	}
	n, ok := wholeNumber(weight)
	if !ok || n < 0 || n > math.MaxInt32 {
		return fmt.Errorf("%s: %s, want a whole number from 0 to %d", d.where.key("weight").text(), show(weight), math.MaxInt32)
	}
	d.weight = n
	return nil
}

// readMirrors reads mirror with its three spellings of a percentage, of which
// the first that is there counts, and mirrors.
func (r *route) readMirrors() error {
	single, _, err := objectAt(r.object, r.where, "mirror")
	if err != nil {
		return err
	}
	if single != nil {
		m := &mirror{where: r.where, object: r.object, field: "mirrorPercentage", target: single}
		if m.on, err = mirrorOn(r.object, r.where, "mirrorPercentage", "mirrorPercent", "mirror_percent"); err != nil {
			return err
		}
		r.mirrors = append(r.mirrors, m)
	}
	several, at, err := objectsAt(r.object, r.where, "mirrors")
	if err != nil {
		return err
	}
	for i, object := range several {
		m := &mirror{where: at.index(i), object: object, field: "percentage"}
		var where *place
		if m.target, where, err = objectAt(object, m.where, "destination"); err != nil {
			return err
		}
		if m.target == nil {
			return fmt.Errorf("%s: absent, want an object with a host", where.text())
		}
		if m.on, err = mirrorOn(object, m.where, "percentage"); err != nil {
			return err
		}
		r.mirrors = append(r.mirrors, m)
	}
	return nil
}

// mirrorOn tells whether a mirror gets anything: all, unless the first
// percentage that is there says 0.
func mirrorOn(object map[string]any, where *place, fields ...string) (bool, error) {
	for _, field := range fields {
		value := object[field]
		at := where.key(field)
		if strings.HasSuffix(field, "ercentage") {
			percent, _, err := objectAt(object, where, field)
			if err != nil {
				return false, err
			}
			if percent == nil {
				continue
			}
			at = at.key("value")
			if value = percent["value"]; value == nil {
				return false, nil // an empty message is 0
			}
		}
		if value == nil {
			continue
		}
		n, ok := number(value)
		if !ok || n < 0 || n > 100 {
			return false, fmt.Errorf("%s: %s, want a number from 0 to 100", at.text(), show(value))
		}
		return n > 0, nil
	}
	return true, nil
}

// picking are the fields of a match that pick out testers: by what a request
// carries, or who calls. A path, an authority or a method is a part of
// everybody's traffic, and a match of all that lack a header takes nearly all.
// The admission policy has the same list.
var picking = []string{"headers", "queryParams", "sourceLabels", "sourceNamespace", "sourceSubnet"}

// selective tells whether every entry of a route's match picks out testers.
func selective(r *route) (bool, error) {
	entries, _, err := objectsAt(r.object, r.where, "match")
	if err != nil {
		return false, err
	}
	for _, match := range entries {
		if !slices.ContainsFunc(picking, func(field string) bool { return says(match[field]) }) {
			return false, nil
		}
	}
	return len(entries) > 0, nil
}

// says tells that a field of a match is not empty.
func says(value any) bool {
	switch v := value.(type) {
	case string:
		return v != ""
	case map[string]any:
		return len(v) > 0
	}
	return false
}

// classify decides for every destination and mirror whose it is.
func (v *View) classify() error {
	v.seenHost, v.strangers = "", nil
	var err error
	for _, r := range v.routes {
		for _, d := range r.destinations {
			d.host, _ = d.object["host"].(string)
			d.subset, _ = d.object["subset"].(string)
			if d.role, err = v.roleOf(d.host, d.subset, d.where); err != nil {
				return err
			}
		}
		for _, m := range r.mirrors {
			where := m.where
			if m.field == "mirrorPercentage" {
				where = where.key("mirror")
			}
			host, err := stringAt(m.target, where, "host")
			if err != nil {
				return err
			}
			subset, err := stringAt(m.target, where, "subset")
			if err != nil {
				return err
			}
			if m.role, err = v.roleOf(host, subset, where); err != nil {
				return err
			}
		}
	}
	v.classifyUnsplit()
	return nil
}

// classifyUnsplit finds what leads to the canary's host and names no subset.
// Where the pair's host is not known for sure, it is the one that its subsets
// were found on.
func (v *View) classifyUnsplit() {
	host := v.pairHost
	if host == "" || strings.Contains(host, "*") {
		host = v.seenHost
	}
	if host == "" || v.pair.Canary.Subset == "" {
		return
	}
	leads := func(to map[string]any) bool {
		subset, _ := to["subset"].(string)
		name, _ := to["host"].(string)
		return subset == "" && NormalizeHost(name, v.namespace, v.pair.Domain) == host
	}
	for _, r := range v.routes {
		for _, d := range r.destinations {
			if d.role == other && leads(d.object) {
				d.role = unsplit
			}
		}
		for _, m := range r.mirrors {
			if m.role == other && leads(m.target) {
				m.role = unsplit
			}
		}
	}
}

// roleOf tells which of the pair a host and subset are. Subsets of a pair
// whose host is not known for sure must all be of one host.
func (v *View) roleOf(host, subset string, where *place) (role, error) {
	full := NormalizeHost(host, v.namespace, v.pair.Domain)
	for _, side := range []struct {
		role role
		ref  Ref
	}{{stable, v.pair.Stable}, {canary, v.pair.Canary}} {
		if side.ref.Host != "" {
			if full == v.refHosts[side.role] {
				return side.role, nil
			}
			continue
		}
		if subset != side.ref.Subset {
			continue
		}
		if v.pairHost != "" && !sameHost(v.pairHost, full) {
			v.strangers = append(v.strangers, host+"/"+subset)
			continue
		}
		if v.seenHost != "" && v.seenHost != full {
			return other, fmt.Errorf("%s: subset %q of host %q, and before it of %q: say which host is meant", where.text(), subset, full, v.seenHost)
		}
		v.seenHost = full
		return side.role, nil
	}
	return other, nil
}

// Named is an UnsafeError when the VirtualService names neither destination.
func (v *View) Named() error {
	for _, r := range v.routes {
		for _, d := range r.destinations {
			if d.role != other {
				return nil
			}
		}
		for _, m := range r.mirrors {
			if m.role != other {
				return nil
			}
		}
	}
	reason := fmt.Sprintf("no route names %s or %s", v.pair.Stable, v.pair.Canary)
	if v.pairHost != "" {
		reason += " of host " + v.pairHost
	}
	switch {
	case len(v.strangers) > 0:
		reason += fmt.Sprintf(": it has %s, which is another host to Istio", v.strangers[0])
	case len(v.delegates) > 0:
		reason += fmt.Sprintf(": its routes are in %s, guard those", list(v.delegates))
	}
	return v.unsafe("", reason)
}

func (v *View) unsafe(path, reason string) *UnsafeError {
	return &UnsafeError{VirtualService: v.namespace + "/" + v.name, Path: path, Reason: reason}
}

// of lists the destinations of one role, in order.
func (r *route) of(want role) []*destination {
	var out []*destination
	for _, d := range r.destinations {
		if d.role == want {
			out = append(out, d)
		}
	}
	return out
}

// leadsToCanary tells that the canary gets traffic and stable is not named.
func (r *route) leadsToCanary() bool {
	return !r.names(stable) && r.leads(canary)
}

// left tells that a rollback leaves the route alone: it is testers', and does
// not name stable.
func (r *route) left(o Options) bool {
	return r.selective && !o.MatchRoutes && !r.names(stable)
}

// toCanary tells that a mirror's copies reach the canary.
func (m *mirror) toCanary() bool { return m.on && (m.role == canary || m.role == unsplit) }

func (r *route) allZero() bool { return sumWeights(r.destinations) == 0 }

// pairTotal is the weight that the pair has to share: 100 in a route whose
// weights are all 0, which nobody can serve.
func (r *route) pairTotal() int64 {
	if r.allZero() {
		return 100
	}
	return sumWeights(r.of(stable)) + sumWeights(r.of(canary))
}

// leads tells that a destination of the role gets traffic.
func (r *route) leads(to role) bool {
	return slices.ContainsFunc(r.destinations, func(d *destination) bool { return d.role == to && d.weight > 0 })
}

func (r *route) leadsEither() bool { return r.leads(stable) || r.leads(canary) }

// names tells that a destination of the route has the role, with traffic or without.
func (r *route) names(to role) bool {
	return slices.ContainsFunc(r.destinations, func(d *destination) bool { return d.role == to })
}

func (r *route) namesBoth() bool { return r.names(stable) && r.names(canary) }

func (r *route) namesEither() bool { return r.names(stable) || r.names(canary) }

// mark identifies the route, by what it matches and where it leads, for
// changes of its destinations or its mirrors.
func (r *route) mark(mirrors bool) string {
	targets := []any{}
	if mirrors {
		for _, m := range r.mirrors {
			targets = append(targets, m.target)
		}
	} else {
		for _, d := range r.destinations {
			targets = append(targets, d.object)
		}
	}
	return digest([]any{r.kind, r.object["name"], r.object["match"], targets})
}

// stableHost is the host to write for a destination that is led to stable:
// its own where only the subset differs, or else one that stable is reached by
// in this VirtualService, or as the pair has it.
func (v *View) stableHost(d *destination) string {
	ref := v.pair.Stable
	if ref.Host == "" && v.pair.Canary.Host == "" {
		return d.host
	}
	for _, r := range v.routes {
		for _, known := range r.of(stable) {
			return known.host
		}
	}
	host := ref.Host
	if ref.Host == "" {
		host = v.pair.Host
	}
	full := NormalizeHost(host, v.pair.Namespace, v.pair.Domain)
	if NormalizeHost(host, v.namespace, v.pair.Domain) == full {
		return host
	}
	return full
}

func sumWeights(of []*destination) int64 {
	var sum int64
	for _, d := range of {
		sum += d.weight
	}
	return sum
}
