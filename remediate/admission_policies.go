package remediate

import (
	"fmt"
	"strings"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
)

// AdmissionOptions say which policies are wanted.
type AdmissionOptions struct {
	// NoHold leaves out the policy that holds dry runs and GitOps where they are,
	// and the one that warns of it: the API server refuses them as well.
	NoHold bool
	Labels map[string]string // put on every object; may be nil
}

// AdmissionYAML is the admission policies and their bindings for a whole cluster,
// ready for kubectl apply. They have no parameters: a lock stands on the
// VirtualService that it is about (LockAnnotation), a record names its owner, and
// a Namespace chooses by label and annotation. While a VirtualService is locked
// nobody but guardian gives its canary more traffic, or deletes it; what guardian
// writes in its records is its own to change. The policies look at nothing but
// VirtualServices that bear a lock, and ConfigMaps labelled as records.
func AdmissionYAML(o AdmissionOptions) ([]byte, error) {
	policies := []policy{lockPolicy(), recordPolicy()}
	if !o.NoHold {
		policies = append(policies, holdPolicy(), heldPolicy())
	}
	var b strings.Builder
	for i, p := range policies {
		if i > 0 {
			b.WriteString("---\n")
		}
		p.labels = o.Labels
		if err := p.print(&b); err != nil {
			return nil, fmt.Errorf("admission policy %s: %w", p.name, err)
		}
	}
	return []byte(b.String()), nil
}

// celLocked says that an object bears a lock's annotation, or has borne one.
var celLocked = celPart{"locked", "Nothing but VirtualServices that bear a lock, or are to bear one.",
	`[oldObject, object].exists(o, o != null && has(o.metadata.annotations) &&
  o.metadata.annotations.exists(k, k.startsWith(` + celLockKey + `)))`}

// lockVariables are what the policies on VirtualServices have in common.
func lockVariables() []celPart {
	return []celPart{
		{"user", "", "request.userInfo.username"},
		{"old", "The annotations before and after.", celMap("oldObject", "metadata.annotations")},
		{"new", "", celMap("object", "metadata.annotations")},
		{"held", "The keys of the locks that stand. A value that is none protects nothing.",
			"variables.old.filter(k, k.startsWith(" + celLockKey + ") && variables.old[k].matches(" + celLockText + "))"},
		{"newKeys", "", "variables.new.filter(k, k.startsWith(" + celLockKey + "))"},
		{"theirs", "The locks that stand and that another user has set: whoever set a lock is not bound by it.", celLocks},
		{"specSame", "", "object != null && oldObject != null && " + celUnchanged("spec")},
		{"byHand", "Locks are taken off, and nothing else changes.", celAnd(
			"variables.specSame",
			"variables.newKeys.all(k, k in variables.old && variables.old[k] == variables.new[k])",
			"variables.old.all(k, k.startsWith("+celLockKey+") || (k in variables.new && variables.new[k] == variables.old[k]))",
			"variables.new.all(k, k in variables.old)",
			celUnchanged("metadata.labels"))},
	}
}

func matchVirtualServices(operations string) string {
	return "resourceRules:\n- apiGroups: [networking.istio.io]\n  apiVersions: [\"*\"]\n  resources: [virtualservices]\n  operations: [" + operations + "]"
}

// celWhy are the messages of all locks of others.
const celWhy = "variables.theirs.map(l, string(l.message)).join('; ')"

// lockPolicy refuses what a lock forbids.
func lockPolicy() policy {
	return policy{
		name: PolicyLock, fails: true, actions: []string{"Deny"},
		comment: `A canary that guardian has rolled back gets no traffic from anybody else until the lock
is lifted. The lock is an annotation of the VirtualService itself, canary-guardian.io/lock.GUARD,
whose value names the ServiceAccount that set it, the canary and stable.`,
		match:      matchVirtualServices("CREATE, UPDATE, DELETE"),
		conditions: []celPart{celLocked},
		variables: append(lockVariables(),
			celPart{"oldRoutes", "All routes before and after: where they lead and what they match.", celRoutes("oldObject")},
			celPart{"newRoutes", "", celRoutes("object")},
			celPart{"alike", "", celAlike("variables.newRoutes", "variables.oldRoutes")},
			celPart{"shares", "For each lock, what each route gives to its canary.",
				"variables.theirs.map(l, {\n  'message': dyn(l.message),\n  'before': dyn(" + celShares("variables.oldRoutes") + "),\n  'now': dyn(" + celShares("variables.newRoutes") + ")})"},
			celPart{"oldMirrors", "All mirrors that get something.", celMirrors("oldObject")},
			celPart{"newMirrors", "", celMirrors("object")},
			celPart{"digits", "", "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]"},
			celPart{"mayUnlock", "", celMay("unlock", "request.name")},
			celPart{"mayLock", "", celMay("lock", "request.name")},
		),
		rules: []celRule{
			{"Without a VirtualService the mesh spreads requests over all pods, the refused canary's among them.", celOr(
				"request.operation != 'DELETE'", "size(variables.theirs) == 0", celGoes),
				"'locked by guardian, and without it the mesh would spread requests over all pods, those of the refused canary among them. Two steps: lift the lock (`guardian unlock`; where guardian is gone, `kubectl annotate virtualservice ' + request.name + ' ' + variables.held.map(k, k + '-').join(' ') + '`), then delete. ' + " + celWhy},
			{"A lock is set by a ServiceAccount that names itself, of this namespace or with the RBAC verb lock, and is its own from then on.", celOr(
				"request.operation == 'DELETE'",
				`variables.newKeys.all(k, (k in variables.old && variables.old[k] == variables.new[k]) || (
  variables.new[k].startsWith('by=' + variables.user + ' ') && variables.new[k].matches(`+celLockText+`) &&
  (`+celOfNamespace+` || variables.mayLock) &&
  (!(k in variables.held) || variables.old[k].startsWith('by=' + variables.user + ' '))))`),
				"'annotations " + decision.AnnotationLock + "* are set by guardian alone: a ServiceAccount of this namespace, or one with the RBAC verb lock, that names itself. Leave them out of manifests, and read the newest object before you replace it'"},
			{"A lock is taken off by who set it, or by hand: nothing else changes, and the RBAC verb unlock is needed.", celOr(
				"request.operation != 'UPDATE'",
				"variables.held.all(k, k in variables.new || variables.old[k].startsWith('by=' + variables.user + ' '))",
				"(variables.byHand && variables.mayUnlock)"),
				"'the lock is guardian\\'s: `guardian unlock` lifts it; where guardian is gone, `kubectl annotate virtualservice ' + request.name + ' ' + variables.held.map(k, k + '-').join(' ') + '` and nothing else, by whoever has the RBAC verb unlock on virtualservices. ' + " + celWhy},
			{"An owner that is gone would have the VirtualService deleted.", celOr(
				"request.operation != 'UPDATE'", "size(variables.theirs) == 0",
				celOptional("object.metadata.ownerReferences", "[]")+" == "+celOptional("oldObject.metadata.ownerReferences", "[]")),
				"'ownerReferences stay as they are while the canary is locked by guardian: ' + " + celWhy},
			{"No route gives the canary a larger share than a route that matched the same gave it before.", celOr(
				"request.operation != 'UPDATE'", "variables.specSame",
				`variables.shares.all(s, !s.now.exists(n, n.canary > 0) || (variables.alike ?
  `+celPairwise("s.now", "s.before", celCovers)+` :
  [s.now.filter(n, n.canary > 0)].all(now, [s.before.filter(o, o.canary > 0)].all(before,
    `+celNoMore("now", "before")+`))))`),
				"'the canary is locked by guardian. ' + variables.shares.filter(s, s.now.exists(n, n.canary > 0)).map(s, string(s.message)).join('; ')"},
			{"No further mirror to the canary.", celOr(
				"request.operation != 'UPDATE'", "variables.specSame",
				`variables.theirs.all(l, !l.mirrors ||
  variables.newMirrors.map(ms, size(ms.filter(m, `+celIn("m", "l.canary")+`))).sum() <=
  variables.oldMirrors.map(ms, size(ms.filter(m, `+celIn("m", "l.canary")+`))).sum())`),
				"'mirroring to the canary is locked by guardian. ' + " + celWhy},
		},
	}
}

// holdPolicy holds the canary of a locked guard where it is, instead of having
// the write refused, for those who cannot do anything about a refusal.
func holdPolicy() policy {
	covers := func(l string) string { return celIn(celNames("d.destination"), l+".canary") }
	spared := "(l.sparesTesters && " + celTesters + " && !r.route.exists(s, " + celIn(celNames("s.destination"), "l.stable") + "))"
	plan := func(kind string) string {
		return `(has(object.spec.` + kind + `) ? object.spec.` + kind + `.transformList(i, r, has(r.route), {
  'path': dyn('/spec/` + kind + `/' + string(i) + '/route/'),
  'route': dyn(r.route),
  'moves': dyn(variables.acting.filter(l, !` + spared + `).map(l, r.route.transformList(j, d, ` + celWeight + ` > 0 && ` + covers("l") + `, {
    'from': dyn(j), 'weight': dyn(` + celWeight + `), 'stable': dyn(l.stable[0]),
    'to': dyn(r.route.transformList(t, s, ` + celIn(celNames("s.destination"), "l.stable") + ` && !` + celIn(celNames("s.destination"), "variables.canaries") + `, t))})).flatten())}).filter(p, size(p.moves) > 0) : [])`
	}
	return policy{
		name: PolicyHold, mutates: true,
		comment: `Who applies a set of objects as a whole (Flux, Argo CD, a dry run of either) has the fix and
the old weights in one set: refusing the weights would keep the fix away for ever. For dry
runs, for these tools' field managers, for Namespaces labelled ` + LabelAdmission + `=rewrite and
for the users that a Namespace's annotation ` + AnnotationHolds + ` lists, the canary stays
at 0 instead, whatever the write says. Needs Kubernetes ` + MinKubernetesHold + `.`,
		match:      matchVirtualServices("CREATE, UPDATE"),
		conditions: []celPart{celLocked},
		variables: append(lockVariables(),
			celPart{"holds", "Whose writes are held.", celHolds},
			celPart{"oldRoutes", "", celRoutes("oldObject")},
			celPart{"acting", "The locks whose canary has nothing now. Where it has something, the lock policy decides.",
				"!variables.holds || variables.specSame || !has(object.spec) ? [] :\nvariables.theirs.filter(l, !variables.oldRoutes.exists(r, " + celShare + " > 0))"},
			celPart{"canaries", "", "variables.acting.map(l, l.canary).flatten()"},
			celPart{"plan", "The routes that would give something to a canary, and to which destination of stable each goes instead.",
				"size(variables.acting) == 0 ? [] :\n" + plan("http") + " +\n" + plan("tls") + " +\n" + plan("tcp")},
			celPart{"mirrored", "", "variables.acting.filter(l, l.mirrors).map(l, l.canary).flatten()"},
		),
		patch: celPart{"", "Locks that others try to set go, guardian's annotations come back, and weights go to stable.", `
(!variables.holds ? [] :
  variables.newKeys.filter(k, !(k in variables.old) && !variables.new[k].startsWith('by=' + variables.user + ' '))
    .map(k, JSONPatch{op: 'remove', path: '/metadata/annotations/' + jsonpatch.escapeKey(k)}) +
  (variables.byHand || size(variables.theirs) == 0 ? [] :
    (has(object.metadata.annotations) ? [] : [JSONPatch{op: 'add', path: '/metadata/annotations', value: {}}]) +
    variables.old.filter(k, k.startsWith('` + decision.Prefix + `') && k != '` + decision.AnnotationPaused + `' && (!(k in variables.new) || variables.new[k] != variables.old[k]))
      .map(k, JSONPatch{op: 'add', path: '/metadata/annotations/' + jsonpatch.escapeKey(k), value: string(variables.old[k])}))) +
variables.plan.map(p,
  p.moves.map(m, size(m.to) > 0 ? [JSONPatch{op: 'add', path: p.path + string(m.from) + '/weight', value: 0}] :
    m.stable in variables.canaries ? [] : [
      JSONPatch{op: 'add', path: p.path + string(m.from) + '/destination/host', value: m.stable.split('/')[0]},
      JSONPatch{op: 'add', path: p.path + string(m.from) + '/destination/subset', value: m.stable.split('/')[1]}]).flatten() +
  p.route.transformList(t, d, p.moves.exists(m, size(m.to) > 0 && m.to[0] == t), JSONPatch{op: 'add', path: p.path + string(t) + '/weight',
    value: (has(d.weight) ? int(d.weight) : 0) + p.moves.filter(m, size(m.to) > 0 && m.to[0] == t).map(m, int(m.weight)).sum()})).flatten() +
(size(variables.mirrored) == 0 || !has(object.spec.http) ? [] :
  object.spec.http.transformList(i, r, has(r.mirror) && ` + celIn(celNames("r.mirror"), "variables.mirrored") + `,
    JSONPatch{op: 'add', path: '/spec/http/' + string(i) + '/mirrorPercentage', value: {'value': 0}}) +
  object.spec.http.transformList(i, r, has(r.mirrors), r.mirrors.transformList(j, m, ` + celIn(celNames("m.destination"), "variables.mirrored") + `,
    JSONPatch{op: 'add', path: '/spec/http/' + string(i) + '/mirrors/' + string(j) + '/percentage', value: {'value': 0}})).flatten())`},
	}
}

// heldPolicy warns whoever is held.
func heldPolicy() policy {
	return policy{
		name: PolicyHeld, actions: []string{"Warn", "Audit"},
		comment:    "Who is held instead of refused is told so.",
		match:      matchVirtualServices("UPDATE"),
		conditions: []celPart{celLocked},
		variables:  append(lockVariables(), celPart{"holds", "", celHolds}),
		rules: []celRule{{"", "size(variables.theirs) == 0 || !variables.holds",
			"'guardian holds the canary of ' + request.name + ' where it is, whatever this write says; apply again once the lock is lifted. ' + " + celWhy}},
	}
}

// recordPolicy guards guardian's records: others write a request alone, in their
// own name.
func recordPolicy() policy {
	return policy{
		name: PolicyRecord, fails: true, actions: []string{"Deny"},
		comment: `What guardian remembers of a guard is a ConfigMap. Its owner, the ServiceAccount that an
annotation of it names, writes it; others write a request into it, in their own name.`,
		match: `objectSelector:
  matchExpressions:
  - {key: ` + records.LabelGuard + `, operator: Exists}
resourceRules:
- apiGroups: [""]
  apiVersions: [v1]
  resources: [configmaps]
  operations: [CREATE, UPDATE, DELETE]`,
		variables: recordVariables(),
		rules:     recordRules(),
	}
}

// recordVariables are what the rules about a record speak of.
func recordVariables() []celPart {
	return []celPart{
		{"user", "", "request.userInfo.username"},
		{"old", "Data, annotations and labels before and after.", celMap("oldObject", "data")},
		{"new", "", celMap("object", "data")},
		{"oldAnnotations", "", celMap("oldObject", "metadata.annotations")},
		{"newAnnotations", "", celMap("object", "metadata.annotations")},
		{"oldLabels", "", celMap("oldObject", "metadata.labels")},
		{"newLabels", "", celMap("object", "metadata.labels")},
		{"guard", "", "string('" + records.LabelGuard + "' in variables.oldLabels ? variables.oldLabels['" + records.LabelGuard + "'] : variables.newLabels['" + records.LabelGuard + "'])"},
		{"owner", "", "'" + records.AnnotationOwner + "' in variables.oldAnnotations ? string(variables.oldAnnotations['" + records.AnnotationOwner + "']) : ''"},
		{"newOwner", "", "'" + records.AnnotationOwner + "' in variables.newAnnotations ? string(variables.newAnnotations['" + records.AnnotationOwner + "']) : ''"},
		{"mayLock", "", celMay("lock", "variables.guard")},
		{"mayUnlock", "", celMay("unlock", "variables.guard")},
		{"takes", "A ServiceAccount names itself as owner, where nobody is.", celAnd(
			"variables.newOwner == variables.user", "variables.user.startsWith('system:serviceaccount:')", "("+celOfNamespace+" || variables.mayLock)")},
		{"mine", "", "variables.owner != '' ? variables.owner == variables.user : variables.takes"},
		{"rest", "All but the request is as it was.", celAnd(
			"variables.old.all(k, k.startsWith('request.') || (k in variables.new && variables.new[k] == variables.old[k]))",
			"variables.new.all(k, k.startsWith('request.') || k in variables.old)",
			"variables.oldAnnotations == variables.newAnnotations",
			"variables.oldLabels == variables.newLabels",
			celUnchanged("metadata.ownerReferences"), celUnchanged("metadata.finalizers"), celUnchanged("binaryData"), celUnchanged("immutable"))},
		{"was", "The request before and after.", "variables.old.filter(k, k.startsWith('request.'))"},
		{"is", "", "variables.new.filter(k, k.startsWith('request.'))"},
		{"action", "", "'request.action' in variables.new ? string(variables.new['request.action']) : ''"},
		{"waiting", "", "'request.action' in variables.old ? string(variables.old['request.action']) : ''"},
		{"asker", "Whose request waits.", "'request.by' in variables.old ? string(variables.old['request.by']) : ''"},
		{"none", "No request: neither key says anything alone, and a command that does not know them leaves them where they are.",
			"variables.is.all(k, k in ['request.id', 'request.replaces'] && k in variables.old && variables.new[k] == variables.old[k])"},
		{"free", "Nothing that others are asked about: guardian's own write, or the request stays.", celOr(
			"request.operation != 'UPDATE'", "variables.mine",
			"(size(variables.was) == size(variables.is) && variables.was.all(k, k in variables.new && variables.new[k] == variables.old[k]))")},
	}
}

// recordRules are what holds of every write of a record.
func recordRules() []celRule {
	return []celRule{
		{"A record is made by its owner.", celOr("request.operation != 'CREATE'", "(variables.takes && request.name == '"+records.NamePrefix+"' + variables.guard)"),
			"'a record of guardian is made by guardian alone: a ServiceAccount of this namespace, or one with the RBAC verb lock, that names itself in annotation " + records.AnnotationOwner + ", as ConfigMap " + records.NamePrefix + "' + variables.guard"},
		{"It is all that guardian remembers.", celOr("request.operation != 'DELETE'", "variables.mine", celGoes, "variables.mayUnlock"),
			"'guardian\\'s record of ' + variables.guard + ' is all that it remembers: deleting it needs the RBAC verb unlock on virtualservices'"},
		{"Owner and guard never change.", celOr("request.operation != 'UPDATE'", "!variables.mine",
			"(variables.newOwner == variables.user && '"+records.LabelGuard+"' in variables.newLabels && variables.newLabels['"+records.LabelGuard+"'] == variables.guard)"),
			"'owner and guard of a record do not change'"},
		{"Others write the request alone.", celOr("request.operation != 'UPDATE'", "variables.mine", "variables.rest"),
			"'this record is guardian\\'s own (' + variables.owner + '): others write request.action, request.by, request.reason and request.at alone, as the guardian command does'"},
		{"In their own name.", celOr("variables.free", "variables.none", "('request.by' in variables.new && variables.new['request.by'] == variables.user)"),
			"'request.by must be ' + variables.user"},
		{"A whole request, and one that guardian knows.", celOr("variables.free", "variables.none", `(['request.action', 'request.by', 'request.reason', 'request.at'].all(k, k in variables.new) &&
  variables.is.all(k, k in ['request.action', 'request.by', 'request.reason', 'request.at', 'request.until', 'request.of', 'request.id', 'request.replaces']) &&
  variables.action in ['rollback', 'pause', 'resume', 'promote', 'arm', 'unlock', 'disarm', 'mark-wrong', 'mark-right'])`),
			"'a request has request.action (rollback, pause, resume, promote, arm, unlock, disarm, mark-wrong or mark-right), request.by, request.reason and request.at'"},
		{"By its id the command knows the answer.", celOr("variables.free", "variables.none", "!('request.id' in variables.new)",
			"string(variables.new['request.id']).matches('"+decision.RequestIDForm+"')"),
			"'request.id is 8 to 64 letters, digits and hyphens'"},
		{"Nobody takes another's.", celOr("variables.free", "variables.none", "!('request.id' in variables.new)", "!('request.id' in variables.old)",
			"variables.old['request.id'] != variables.new['request.id']", "variables.asker in ['', variables.user]"),
			"'request.id is of the request of ' + variables.asker + ' that waits: write request.id: null with yours, or an id of its own, as guardian\\'s command of this release does'"},
		{"Nor says that it took the place of one that was not there.", celOr("variables.free", "!('request.replaces' in variables.new)",
			`string(variables.new['request.replaces']).split(' ').all(id, ('request.id' in variables.old && variables.old['request.id'] == id) ||
  ('request.replaces' in variables.old && id in string(variables.old['request.replaces']).split(' ')))`),
			"'request.replaces lists ids of requests whose place this one takes'"},
		{"To let go of the brake is a right of its own.", celOr("variables.free", "variables.action != 'unlock'", "variables.mayUnlock"),
			"'request unlock needs the RBAC verb unlock on virtualservices.networking.istio.io'"},
		{"", celOr("variables.free", "variables.action != 'disarm'", celMay("disarm", "variables.guard")),
			"'request disarm needs the RBAC verb disarm on virtualservices.networking.istio.io'"},
		{"Another's rollback or pause that waits stays, unless for a rollback.", celOr("variables.free", "!(variables.waiting in ['rollback', 'pause'])",
			"variables.old['request.by'] == variables.user", "variables.action == 'rollback'", "variables.mayUnlock"),
			"'a ' + variables.waiting + ' that another asked for waits: it is not to be taken away'"},
	}
}
