package remediate

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	celgo "github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/version"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	apiservercel "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/environment"
	"sigs.k8s.io/yaml"
)

// judge evaluates the printed policies with the API server's own library, in the
// order of the API server: what is held is refused no more.
type judge struct {
	validating map[string]*compiledPolicy
	hold       *compiledPolicy
}

// compiledPolicy is one policy ready to be evaluated.
type compiledPolicy struct {
	conditions, rules, messages plugincel.ConditionEvaluator
	patch                       plugincel.MutatingEvaluator
	context                     func(context.Context) plugincel.CompositionContext // that knows a mutating policy's variables
}

// expression is CEL with the types that it may have.
type expression struct {
	text  string
	types []*celgo.Type
}

func (e expression) GetExpression() string      { return e.text }
func (e expression) ReturnTypes() []*celgo.Type { return e.types }

type named struct {
	expression
	name string
}

func (n named) GetName() string { return n.name }

var (
	celBool   = []*celgo.Type{celgo.BoolType}
	celString = []*celgo.Type{celgo.StringType}
	celAny    = []*celgo.Type{celgo.AnyType, celgo.DynType}
	celPatch  = []*celgo.Type{celgo.ListType(types.NewObjectType("JSONPatch"))}
)

// printed are the documents that guardian prints, by kind and name.
func printed(t testing.TB, o AdmissionOptions) (vaps map[string]admissionv1.ValidatingAdmissionPolicy, maps map[string]admissionv1.MutatingAdmissionPolicy) {
	t.Helper()
	text, err := AdmissionYAML(o)
	if err != nil {
		t.Fatal(err)
	}
	vaps, maps = map[string]admissionv1.ValidatingAdmissionPolicy{}, map[string]admissionv1.MutatingAdmissionPolicy{}
	into := func(doc []byte, to any) {
		if err := yaml.UnmarshalStrict(doc, to); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
	}
	docs := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return vaps, maps
		}
		if err != nil {
			t.Fatal(err)
		}
		var meta metav1.TypeMeta
		if err := yaml.Unmarshal(doc, &meta); err != nil {
			t.Fatal(err)
		}
		switch meta.Kind {
		case "ValidatingAdmissionPolicy":
			var p admissionv1.ValidatingAdmissionPolicy
			into(doc, &p)
			vaps[p.Name] = p
		case "MutatingAdmissionPolicy":
			var p admissionv1.MutatingAdmissionPolicy
			into(doc, &p)
			maps[p.Name] = p
		case "ValidatingAdmissionPolicyBinding":
			into(doc, &admissionv1.ValidatingAdmissionPolicyBinding{})
		case "MutatingAdmissionPolicyBinding":
			into(doc, &admissionv1.MutatingAdmissionPolicyBinding{})
		default:
			t.Fatalf("kind %q", meta.Kind)
		}
	}
}

// newJudge compiles the policies as an API server of a version does on which they
// are new. An error names the policy.
func newJudge(t testing.TB, kubernetes string, o AdmissionOptions) (*judge, error) {
	t.Helper()
	vaps, maps := printed(t, o)
	j := &judge{validating: map[string]*compiledPolicy{}}
	for name, p := range vaps {
		c, err := newCompiler(kubernetes)
		if err != nil {
			return nil, err
		}
		c.declare(p.Spec.MatchConditions, p.Spec.Variables)
		var rules, messages []plugincel.ExpressionAccessor
		for _, v := range p.Spec.Validations {
			rules, messages = append(rules, expression{v.Expression, celBool}), append(messages, expression{v.MessageExpression, celString})
		}
		c.rules, c.messages = c.compile(rules), c.compile(messages)
		if err := c.errors(); err != nil {
			return nil, fmt.Errorf("policy %s: %w", name, err)
		}
		j.validating[name] = &c.compiledPolicy
	}
	for name, p := range maps {
		c, err := newCompiler(kubernetes)
		if err != nil {
			return nil, err
		}
		c.declare(p.Spec.MatchConditions, p.Spec.Variables)
		c.patch = c.CompileMutatingEvaluator(expression{p.Spec.Mutations[0].JSONPatch.Expression, celPatch}, c.options(), c.mode)
		if err := c.errors(); err != nil {
			return nil, fmt.Errorf("policy %s: %w", name, err)
		}
		c.context = c.CreateContext
		j.hold = &c.compiledPolicy
	}
	return j, nil
}

// compiler is the API server's, which remembers the variables.
type compiler struct {
	*plugincel.CompositedCompiler
	compiledPolicy
	mode   environment.Type
	failed []error
}

func newCompiler(kubernetes string) (*compiler, error) {
	set := environment.MustBaseEnvSet(version.MustParseGeneric(kubernetes))
	c, err := plugincel.NewCompositedCompiler(set)
	return &compiler{CompositedCompiler: c, mode: environment.NewExpressions}, err
}

func (c *compiler) options() plugincel.OptionalVariableDeclarations {
	return plugincel.OptionalVariableDeclarations{HasAuthorizer: true, HasPatchTypes: true}
}

func (c *compiler) declare(conditions []admissionv1.MatchCondition, variables []admissionv1.Variable) {
	var matches []plugincel.ExpressionAccessor
	for _, m := range conditions {
		matches = append(matches, expression{m.Expression, celBool})
	}
	c.conditions = c.compile(matches)
	for _, v := range variables {
		if r := c.CompileAndStoreVariable(named{expression{v.Expression, celAny}, v.Name}, c.options(), c.mode); r.Error != nil {
			c.failed = append(c.failed, fmt.Errorf("variable %s: %s", v.Name, r.Error.Detail))
		}
	}
}

func (c *compiler) compile(all []plugincel.ExpressionAccessor) plugincel.ConditionEvaluator {
	e := c.CompileCondition(all, c.options(), c.mode)
	c.failed = append(c.failed, e.CompilationErrors()...)
	return e
}

func (c *compiler) errors() error {
	failed := c.failed
	if c.patch != nil {
		failed = append(failed, c.patch.CompilationErrors()...)
	}
	return errors.Join(failed...)
}

// attempt is a write that somebody wants to make.
type attempt struct {
	user      string
	may       []string // verbs on virtualservices, beside those that brought it here
	manager   string
	dryRun    bool
	namespace *corev1.Namespace // nil: microservices
	old, new  *unstructured.Unstructured
}

// ruling is what becomes of it.
type ruling struct {
	refused, warned []string
	object          *unstructured.Unstructured // as it is stored
	cost            map[string]int64           // by policy
}

func (a attempt) Authorize(_ context.Context, q authorizer.Attributes) (authorizer.Decision, string, error) {
	if q.GetAPIGroup() == "networking.istio.io" && q.GetResource() == "virtualservices" && slices.Contains(a.may, q.GetVerb()) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// operation follows from what there was before and after.
func (a attempt) operation() (admission.Operation, runtime.Object) {
	switch {
	case a.old == nil:
		return admission.Create, &metav1.CreateOptions{FieldManager: a.manager}
	case a.new == nil:
		return admission.Delete, &metav1.DeleteOptions{}
	}
	return admission.Update, &metav1.UpdateOptions{FieldManager: a.manager}
}

func (a attempt) attributes() *admission.VersionedAttributes {
	op, options := a.operation()
	any := a.old
	if any == nil {
		any = a.new
	}
	gvk := any.GroupVersionKind()
	gvr := schema.GroupVersionResource{Group: gvk.Group, Version: gvk.Version, Resource: strings.ToLower(gvk.Kind) + "s"}
	var before, after runtime.Object // never an interface of a nil pointer
	if a.old != nil {
		before = a.old
	}
	if a.new != nil {
		after = a.new
	}
	r := admission.NewAttributesRecord(after, before, gvk, any.GetNamespace(), any.GetName(), gvr, "", op, options, a.dryRun, &user.DefaultInfo{Name: a.user})
	v := &admission.VersionedAttributes{Attributes: r, VersionedKind: gvk}
	v.VersionedObject.Set(after)
	v.VersionedOldObject.Set(before)
	return v
}

// rule says what the API server would do.
func (j *judge) rule(ctx context.Context, a attempt) (ruling, error) {
	out := ruling{object: a.new, cost: map[string]int64{}}
	if a.namespace == nil {
		a.namespace = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: testNamespace}}
	}
	if j.hold != nil && a.new != nil && a.new.GetKind() == "VirtualService" {
		held, err := j.hold.mutate(ctx, a, out.cost)
		if err != nil {
			return out, fmt.Errorf("%s: %w", PolicyHold, err)
		}
		a.new, out.object = held, held
	}
	for name, p := range j.validating {
		if records := a.attributes().VersionedKind.Kind == "ConfigMap"; records != (name == PolicyRecord) || name == PolicyHeld && (a.old == nil || a.new == nil) {
			continue
		}
		says, err := p.validate(ctx, a, name, out.cost)
		if err != nil {
			return out, fmt.Errorf("%s: %w", name, err)
		}
		if name == PolicyHeld {
			out.warned = says
			continue
		}
		out.refused = append(out.refused, says...)
	}
	return out, nil
}

// evaluate runs expressions and adds up what they cost.
func evaluate(ctx context.Context, e plugincel.ConditionEvaluator, a attempt, name string, cost map[string]int64) ([]plugincel.EvaluationResult, error) {
	v := a.attributes()
	request := plugincel.CreateAdmissionRequest(v.Attributes, metav1.GroupVersionResource(v.GetResource()), metav1.GroupVersionKind(v.VersionedKind))
	results, left, err := e.ForInput(ctx, v, request, plugincel.OptionalVariableBindings{Authorizer: a}, plugincel.CreateNamespaceObject(a.namespace), apiservercel.RuntimeCELCostBudget)
	cost[name] += apiservercel.RuntimeCELCostBudget - left
	if err != nil {
		return nil, err
	}
	for _, r := range results {
		if r.Error != nil {
			return nil, r.Error
		}
	}
	return results, nil
}

func (p *compiledPolicy) matches(ctx context.Context, a attempt, name string, cost map[string]int64) (bool, error) {
	results, err := evaluate(ctx, p.conditions, a, name, cost)
	return !slices.ContainsFunc(results, func(r plugincel.EvaluationResult) bool { return r.EvalResult != types.True }), err
}

func (p *compiledPolicy) validate(ctx context.Context, a attempt, name string, cost map[string]int64) (says []string, err error) {
	if ok, err := p.matches(ctx, a, name, cost); err != nil || !ok {
		return nil, err
	}
	results, err := evaluate(ctx, p.rules, a, name, cost)
	if err != nil || !slices.ContainsFunc(results, func(r plugincel.EvaluationResult) bool { return r.EvalResult != types.True }) {
		return nil, err
	}
	messages, err := evaluate(ctx, p.messages, a, name+" messages", cost)
	if err != nil {
		return nil, err
	}
	for i, r := range results {
		if r.EvalResult != types.True {
			says = append(says, fmt.Sprint(messages[i].EvalResult.Value()))
		}
	}
	return says, nil
}

func (p *compiledPolicy) mutate(ctx context.Context, a attempt, cost map[string]int64) (*unstructured.Unstructured, error) {
	if ok, err := p.matches(ctx, a, PolicyHold, cost); err != nil || !ok {
		return a.new, err
	}
	v := a.attributes()
	held, err := patch.NewJSONPatcher(p.patch).Patch(p.context(ctx), patch.Request{
		MatchedResource: v.GetResource(), VersionedAttributes: v, ObjectInterfaces: admission.NewObjectInterfacesFromScheme(runtime.NewScheme()),
		OptionalVariables: plugincel.OptionalVariableBindings{Authorizer: a}, Namespace: plugincel.CreateNamespaceObject(a.namespace),
	}, apiservercel.RuntimeCELCostBudget)
	if err != nil {
		return nil, err
	}
	u, ok := held.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("a %T came out", held)
	}
	return u, nil
}

func TestThePoliciesCompileOnTheLeastVersionsThatTheyAreFor(t *testing.T) {
	// A server takes for new what the version before it knew as well.
	for _, c := range []struct {
		least string
		o     AdmissionOptions
	}{{MinKubernetes, AdmissionOptions{NoHold: true}}, {MinKubernetesHold, AdmissionOptions{}}} {
		before := version.MustParseGeneric(c.least).OffsetMinor(-1).String()
		if _, err := newJudge(t, before, c.o); err != nil {
			t.Errorf("Kubernetes %s: %v", c.least, err)
		}
	}
}
