package remediate

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

// AdmissionOptions says for whom an admission policy is made.
type AdmissionOptions struct {
	Namespace string // of the guards; the policy looks at no other
	// Release makes the names of the cluster-scoped objects unique. Default:
	// guardian.
	Release string
	// ServiceAccount is guardian's own, which the policy lets pass. Default:
	// the release's name.
	ServiceAccount string
	// ServiceAccountNamespace defaults to Namespace.
	ServiceAccountNamespace string
	Labels                  map[string]string // put on both objects; may be nil
}

// withDefaults fills in and checks the options; all problems at once.
func (o AdmissionOptions) withDefaults() (AdmissionOptions, error) {
	fill := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	fill(&o.Release, "guardian")
	fill(&o.ServiceAccount, o.Release)
	fill(&o.ServiceAccountNamespace, o.Namespace)
	var problems []error
	check := func(key, value string, isValid func(string) []string) {
		if found := isValid(value); len(found) > 0 {
			problems = append(problems, fmt.Errorf("%s %q: %s", key, value, strings.Join(found, "; ")))
		}
	}
	check("namespace", o.Namespace, validation.IsDNS1123Label)
	check("release", o.Release, validation.IsDNS1123Label)
	check("service account", o.ServiceAccount, validation.IsDNS1123Subdomain)
	check("service account's namespace", o.ServiceAccountNamespace, validation.IsDNS1123Label)
	return o, errors.Join(problems...)
}

// The CEL of the policy. It mirrors Traffic: what it denies is what a rollback
// takes away. object is a VirtualService, params the record of one locked
// guard, whose lists are flat because CEL cannot parse JSON.
const (
	// guardian passes, and so do updates that leave the spec alone: labels,
	// annotations and finalizers can be written while a rollback is blocked.
	// One condition, because each is evaluated for each locked guard.
	celMatch = `request.userInfo.username != 'system:serviceaccount:%s:%s' &&
  (oldObject == null || !has(object.spec) || !has(oldObject.spec) || object.spec != oldObject.spec)`

	celWords = `has(params.data) && has(params.data.%[1]s) ? params.data.%[1]s.split(' ') : []`

	celRoutes = `!has(object.spec) ? [] :
  (has(object.spec.http) ? object.spec.http.filter(r, has(r.route)) : []) +
  (has(object.spec.tls) ? object.spec.tls.filter(r, has(r.route)) : []) +
  (has(object.spec.tcp) ? object.spec.tcp.filter(r, has(r.route)) : [])`

	// A route is testers' when every match picks out some, and it does not name
	// stable, be it with weight 0.
	celTesters = `has(r.match) && size(r.match) > 0 && r.match.all(m,
  (has(m.headers) && size(m.headers) > 0) || (has(m.queryParams) && size(m.queryParams) > 0) ||
  (has(m.sourceLabels) && size(m.sourceLabels) > 0) || (has(m.sourceNamespace) && m.sourceNamespace != '') ||
  (has(m.sourceSubnet) && m.sourceSubnet != '')) &&
  !r.route.exists(d, (d.destination.host + '/') in variables.stable ||
  (d.destination.host + '/' + (has(d.destination.subset) ? d.destination.subset : '')) in variables.stable)`

	// For each route, for each destination that gets something, its two names:
	// as a host of its own and with its subset.
	celReached = `variables.routes.filter(r, %s(` + celTesters + `)).map(r, r.route
  .filter(d, size(r.route) == 1 || (has(d.weight) && d.weight > 0))
  .map(d, [d.destination.host + '/', d.destination.host + '/' + (has(d.destination.subset) ? d.destination.subset : '')]))`

	celPublic = `variables.public.exists(r, r.exists(d, d.exists(k, k in variables.deny)))`

	celPicked = `variables.picked.exists(r, r.exists(d, d.exists(k, k in variables.denyMatchRoutes)))`

	// A percentage may be null, which is as if it were not there; null > 0
	// would be an error, and an error lets everything pass.
	celMirrors = `!has(object.spec) || !has(object.spec.http) ? [] :
  object.spec.http.filter(r, has(r.mirror) && (
    has(r.mirrorPercentage) && r.mirrorPercentage != null ?
      has(r.mirrorPercentage.value) && r.mirrorPercentage.value != null && r.mirrorPercentage.value > 0 :
    has(r.mirrorPercent) && r.mirrorPercent != null ? r.mirrorPercent > 0 :
    !has(r.mirror_percent) || r.mirror_percent == null || r.mirror_percent > 0)).map(r, [r.mirror]) +
  object.spec.http.filter(r, has(r.mirrors)).map(r, r.mirrors
    .filter(m, !has(m.percentage) || m.percentage == null ||
      (has(m.percentage.value) && m.percentage.value != null && m.percentage.value > 0)).map(m, m.destination))`

	celMirrored = `variables.mirrors.exists(ds, ds.exists(d, (d.host + '/') in variables.denyMirrors ||
  (d.host + '/' + (has(d.subset) ? d.subset : '')) in variables.denyMirrors))`

	celMessage = `string(params.data.message).replace('\n', ' ')`
)

// AdmissionPolicy makes the lock that CI can feel: a policy and its binding
// for one namespace, by which the API server refuses any VirtualService that
// gives traffic to the canary of a locked guard, by anybody but guardian. The
// locked guards' records are its parameters, so it needs no webhook server and
// follows within a second.
//
// It denies on create and update of every served version: a weight above 0, or
// being a route's only destination, in http, tls and tcp routes; routes that
// lead some requests to the canary alone, and mirrors, as far as the guard's
// rollback covers them. It allows an update that leaves the spec as it is. A
// broken policy lets everything pass, since re-assertion stands behind it.
func AdmissionPolicy(o AdmissionOptions) (*admissionv1.ValidatingAdmissionPolicy, *admissionv1.ValidatingAdmissionPolicyBinding, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, nil, fmt.Errorf("admission policy: %w", err)
	}
	meta := metav1.ObjectMeta{Name: o.Release + "." + o.Namespace + "." + strings.TrimSuffix(Prefix, "/"), Labels: o.Labels}
	policy := &admissionv1.ValidatingAdmissionPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: "admissionregistration.k8s.io/v1", Kind: "ValidatingAdmissionPolicy"},
		ObjectMeta: meta,
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			FailurePolicy:    new(admissionv1.Ignore),
			ParamKind:        &admissionv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"},
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{virtualServiceWrites()}},
			MatchConditions: []admissionv1.MatchCondition{
				{Name: "others-change-spec", Expression: fmt.Sprintf(celMatch, o.ServiceAccountNamespace, o.ServiceAccount)},
			},
			Variables: []admissionv1.Variable{
				{Name: "deny", Expression: fmt.Sprintf(celWords, keyDeny)},
				{Name: "denyMatchRoutes", Expression: fmt.Sprintf(celWords, keyDenyMatchRoutes)},
				{Name: "denyMirrors", Expression: fmt.Sprintf(celWords, keyDenyMirrors)},
				{Name: "stable", Expression: fmt.Sprintf(celWords, keyStable)},
				{Name: "routes", Expression: celRoutes},
				{Name: "public", Expression: fmt.Sprintf(celReached, "!")},
				{Name: "picked", Expression: fmt.Sprintf(celReached, "")},
				{Name: "mirrors", Expression: celMirrors},
			},
			Validations: []admissionv1.Validation{{
				Expression:        "!(" + celPublic + ") && !(" + celPicked + ") && !(" + celMirrored + ")",
				Message:           "the canary is locked by guardian: `guardian status` says why, `guardian unlock` lifts it",
				MessageExpression: celMessage,
			}},
		},
	}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: "admissionregistration.k8s.io/v1", Kind: "ValidatingAdmissionPolicyBinding"},
		ObjectMeta: meta,
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName:        meta.Name,
			ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
			ParamRef: &admissionv1.ParamRef{
				Selector:                &metav1.LabelSelector{MatchLabels: map[string]string{LabelLocked: "true"}},
				ParameterNotFoundAction: new(admissionv1.AllowAction),
			},
			MatchResources: &admissionv1.MatchResources{
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": o.Namespace}},
			},
		},
	}
	return policy, binding, nil
}

// virtualServiceWrites are creations and updates of VirtualServices in every
// version.
func virtualServiceWrites() admissionv1.NamedRuleWithOperations {
	return admissionv1.NamedRuleWithOperations{RuleWithOperations: admissionv1.RuleWithOperations{
		Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
		Rule: admissionv1.Rule{
			APIGroups:   []string{"networking.istio.io"},
			APIVersions: []string{"*"},
			Resources:   []string{"virtualservices"},
		},
	}}
}

// denies sets what the admission policy refuses: the canary in all its
// spellings, as far as a rollback covers it; stable's tell which routes name
// both. nil takes it all back.
func (r *Record) denies(canary, stable []string, o Rollback) {
	r.Deny, r.DenyMatchRoutes, r.DenyMirrors, r.Stable = slices.Clone(canary), nil, nil, slices.Clone(stable)
	if o.MatchRoutes {
		r.DenyMatchRoutes = slices.Clone(canary)
	}
	if o.Mirrors {
		r.DenyMirrors = slices.Clone(canary)
	}
}

// AdmissionYAML is the policy and its binding as YAML, ready for kubectl apply.
func AdmissionYAML(o AdmissionOptions) ([]byte, error) {
	policy, binding, err := AdmissionPolicy(o)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, object := range []runtime.Object{policy, binding} {
		fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
		if err != nil {
			return nil, fmt.Errorf("admission policy: %w", err)
		}
		delete(fields, "status")
		text, err := yaml.Marshal(fields)
		if err != nil {
			return nil, fmt.Errorf("admission policy: %w", err)
		}
		if out.Len() > 0 {
			out.WriteString("---\n")
		}
		out.Write(text)
	}
	return out.Bytes(), nil
}
