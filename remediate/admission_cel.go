package remediate

import (
	"fmt"
	"strings"

	"github.com/canary-guardian/guardian/remediate/decision"
)

// The CEL of the policies is put together from the functions of this file, since
// CEL has no functions of its own. Each returns an expression; its arguments are
// expressions, too, most of them the name of a variable that an enclosing
// expression has bound:
//
//	d  a destination, as it stands in a route
//	r  a route: as it stands in the VirtualService, or as celRoute describes it
//	l  a lock of another user, as celLocks describes it
const (
	celLockKey  = "'" + decision.AnnotationLock + "'"
	celLockText = "'" + decision.LockSyntax + "'"
)

// celAnd and celOr join conditions, one a line.
func celAnd(all ...string) string { return strings.Join(all, " &&\n") }

func celOr(any ...string) string { return strings.Join(any, " ||\n") }

// celOptional is the value of a field that may be missing.
func celOptional(field, otherwise string) string {
	return fmt.Sprintf("(has(%[1]s) ? %[1]s : %[2]s)", field, otherwise)
}

// celUnchanged says that a field is the same before and after, or in neither.
func celUnchanged(field string) string {
	return fmt.Sprintf("has(object.%[1]s) == has(oldObject.%[1]s) && (!has(object.%[1]s) || object.%[1]s == oldObject.%[1]s)", field)
}

// celMap is a field of an object that may not be there, such as its annotations.
func celMap(object, field string) string {
	return fmt.Sprintf("%[1]s != null && has(%[1]s.%[2]s) ? %[1]s.%[2]s : {}", object, field)
}

// celNames are the two ways to name a destination: its host with any subset, and
// its host with this subset or with none.
func celNames(destination string) string {
	return fmt.Sprintf("[%[1]s.host + '/', %[1]s.host + (has(%[1]s.subset) && %[1]s.subset != '' ? '/' + %[1]s.subset : '')]", destination)
}

// celIn says that one of a destination's names is in a list.
func celIn(names, list string) string { return fmt.Sprintf("%s.exists(n, n in %s)", names, list) }

// celWeight is what a destination d gets in its route r: the only destination
// gets everything.
const celWeight = "(size(r.route) == 1 ? 1 : has(d.weight) ? int(d.weight) : 0)"

// celTesters says that a route r is for some requests by what they carry or by
// whom they come from: each of its matches asks for that.
const celTesters = `has(r.match) && size(r.match) > 0 && r.match.all(m,
  (has(m.headers) && size(m.headers) > 0) ||
  (has(m.queryParams) && size(m.queryParams) > 0) ||
  (has(m.sourceLabels) && size(m.sourceLabels) > 0) ||
  (has(m.sourceNamespace) && m.sourceNamespace != '') ||
  (has(m.sourceSubnet) && m.sourceSubnet != ''))`

// celLocks are the locks of other users that stand on the stored object.
const celLocks = `variables.held
  .map(k, variables.old[k].split(' ', 8))
  .filter(f, f[0] != 'by=' + variables.user)
  .map(f, {
    'canary': dyn(f[1].substring(7).split(',')),
    'stable': dyn(f[2].substring(7).split(',')),
    'sparesTesters': dyn(f[3] == 'm=0'),
    'mirrors': dyn(f[4] == 'r=1'),
    'message': dyn(f[7])})`

// celRoute is a route r that stands in spec.kind, as far as a lock is concerned:
// where it leads, what it matches and the sum of its weights.
func celRoute(kind string) string {
	return fmt.Sprintf(`{
    'kind': dyn('%s'),
    'match': dyn(%s),
    'testers': dyn(%s),
    'total': dyn(r.route.map(d, %s).sum()),
    'to': dyn(r.route.map(d, {'names': dyn(%s), 'weight': dyn(%s)}))}`,
		kind, celOptional("r.match", "[]"), celTesters, celWeight, celNames("d.destination"), celWeight)
}

// celRoutes are all routes of an object that lead somewhere.
func celRoutes(object string) string {
	var kinds []string
	for _, kind := range []string{"http", "tls", "tcp"} {
		kinds = append(kinds, fmt.Sprintf("%s.filter(r, has(r.route)).map(r, %s)", celOptional(object+".spec."+kind, "[]"), celRoute(kind)))
	}
	return fmt.Sprintf("%[1]s == null || !has(%[1]s.spec) ? [] :\n%[2]s", object, strings.Join(kinds, " +\n"))
}

// celMirrors are the names of all mirrors of an object that get something. A
// percentage may be null, which is as if it were not there.
func celMirrors(object string) string {
	positive := func(field string) string {
		return fmt.Sprintf("(has(%[1]s.value) && %[1]s.value != null && %[1]s.value > 0)", field)
	}
	given := func(field string) string { return fmt.Sprintf("has(%[1]s) && %[1]s != null", field) }
	return fmt.Sprintf(`%[1]s == null || !has(%[1]s.spec) || !has(%[1]s.spec.http) ? [] :
%[1]s.spec.http.filter(r, has(r.mirror) && (%[2]s ? %[3]s : %[4]s ? r.mirrorPercent > 0 : !(%[5]s) || r.mirror_percent > 0))
  .map(r, [%[6]s]) +
%[1]s.spec.http.filter(r, has(r.mirrors)).map(r, r.mirrors.filter(m, !(%[7]s) || %[8]s).map(m, %[9]s))`,
		object, given("r.mirrorPercentage"), positive("r.mirrorPercentage"), given("r.mirrorPercent"), given("r.mirror_percent"),
		celNames("r.mirror"), given("m.percentage"), positive("m.percentage"), celNames("m.destination"))
}

// celSpared says that a lock l leaves a described route r to testers: one that
// names stable, be it with weight 0, is a split like any other.
const celSpared = "(l.sparesTesters && r.testers && !r.to.exists(d, d.names.exists(n, n in l.stable)))"

// celShare is what a described route r gives to the canary of a lock l.
const celShare = "(" + celSpared + " ? 0 : r.to.filter(d, d.weight > 0 && d.names.exists(n, n in l.canary)).map(d, int(d.weight)).sum())"

// celShares are, for a lock l, the routes of a list that give its canary
// something, each with how much of what.
func celShares(routes string) string {
	return fmt.Sprintf("%s.map(r, {'kind': dyn(r.kind), 'match': dyn(r.match), 'total': dyn(r.total), 'canary': dyn(%s)})", routes, celShare)
}

// celCovers says that a route o gave the canary no smaller share than a route n
// is to give it.
const celCovers = "(n.canary == 0 || (o.canary > 0 && n.canary * o.total <= o.canary * n.total))"

// celAlike says that two lists of routes match the same requests in the same
// order.
func celAlike(a, b string) string {
	return fmt.Sprintf("(size(%[1]s) == size(%[2]s) && %[1]s.map(r, [dyn(r.kind), dyn(r.match)]) == %[2]s.map(r, [dyn(r.kind), dyn(r.match)]))", a, b)
}

// celPairwise says that a condition on n and o holds for all of two lists of the
// same length, at most 1,000. CEL of Kubernetes before 1.33 has no index.
func celPairwise(a, b, condition string) string {
	const i = "(x * 100 + y * 10 + z)"
	return fmt.Sprintf(`size(%[1]s) <= 1000 &&
variables.digits.all(x, x * 100 >= size(%[1]s) ||
  variables.digits.all(y, x * 100 + y * 10 >= size(%[1]s) ||
    variables.digits.all(z, %[4]s >= size(%[1]s) ||
      [%[1]s[%[4]s]].all(n, [%[2]s[%[4]s]].all(o, %[3]s)))))`, a, b, condition, i)
}

// maxPairs is how many pairs of routes a policy compares where they are not in
// the same order: more would cost more than the API server allows for one
// expression.
const maxPairs = 10000

// celNoMore says that no route of a list gives the canary more than one of
// another list that matches the same has given it.
func celNoMore(now, before string) string {
	return fmt.Sprintf(`(%[1]s ?
%[2]s :
size(%[3]s) * size(%[4]s) <= %[5]d && %[3]s.all(n, %[4]s.exists(o, o.kind == n.kind && o.match == n.match && %[6]s)))`,
		celAlike(now, before), celPairwise(now, before, celCovers), now, before, maxPairs, celCovers)
}

// celMay asks the API server's authorizer for a verb on the VirtualService that
// name says.
func celMay(verb, name string) string {
	return fmt.Sprintf("authorizer.group('networking.istio.io').resource('virtualservices').namespace(request.namespace).name(%s).check('%s').allowed()", name, verb)
}

// celGoes says that objects are deleted by Kubernetes itself, or with their
// namespace.
const celGoes = `(has(namespaceObject.metadata.deletionTimestamp) || variables.user in [
  'system:serviceaccount:kube-system:namespace-controller',
  'system:serviceaccount:kube-system:generic-garbage-collector',
  'system:kube-controller-manager'])`

// celOfNamespace says that the user is a ServiceAccount of the object's
// namespace.
const celOfNamespace = "variables.user.startsWith('system:serviceaccount:' + request.namespace + ':')"

// celHolds says that a write is held instead of refused.
const celHolds = `(has(request.dryRun) && request.dryRun) ||
(has(request.options) && has(request.options.fieldManager) && request.options.fieldManager in [
  'argocd-controller', 'kustomize-controller', 'helm-controller']) ||
(has(namespaceObject.metadata.labels) && '` + LabelAdmission + `' in namespaceObject.metadata.labels &&
  namespaceObject.metadata.labels['` + LabelAdmission + `'] == 'rewrite') ||
(has(namespaceObject.metadata.annotations) && '` + AnnotationHolds + `' in namespaceObject.metadata.annotations &&
  variables.user in namespaceObject.metadata.annotations['` + AnnotationHolds + `'].split(','))`
