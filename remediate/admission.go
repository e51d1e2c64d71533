package remediate

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// The names of the admission policies, and of their bindings.
const (
	PolicyLock   = "lock.canary-guardian.io"   // refuses what a lock forbids
	PolicyRecord = "record.canary-guardian.io" // guards the records
	PolicyHold   = "hold.canary-guardian.io"   // holds instead, where that is wanted
	PolicyHeld   = "held.canary-guardian.io"   // warns of it
)

// The least versions of Kubernetes that serve the policies as they are printed.
// The first is that of ValidatingAdmissionPolicy v1, the second that of
// MutatingAdmissionPolicy v1.
const (
	MinKubernetes     = "1.30"
	MinKubernetesHold = "1.36"
)

// policy is an admission policy with a comment on each of its parts.
type policy struct {
	name       string
	comment    string
	mutates    bool
	fails      bool     // a write is refused when the policy cannot be evaluated
	actions    []string // of a validating binding
	match      string   // matchConstraints as YAML
	conditions []celPart
	variables  []celPart
	rules      []celRule
	patch      celPart // of a mutating policy
	labels     map[string]string
}

// celPart is a named expression.
type celPart struct{ name, comment, expression string }

// celRule is a validation: expression must hold, or message, an expression too,
// says why not.
type celRule struct{ comment, expression, message string }

func (p policy) kind() string {
	if p.mutates {
		return "MutatingAdmissionPolicy"
	}
	return "ValidatingAdmissionPolicy"
}

// print writes the policy and its binding as two YAML documents.
func (p policy) print(b *strings.Builder) error {
	if err := p.head(b, p.kind(), p.comment); err != nil {
		return err
	}
	failure := "Ignore"
	if p.fails {
		failure = "Fail"
	}
	b.WriteString("spec:\n")
	fmt.Fprintf(b, "  failurePolicy: %s\n", failure)
	if p.mutates {
		b.WriteString("  reinvocationPolicy: IfNeeded\n")
	}
	b.WriteString("  matchConstraints:\n" + indented(p.match, 4))
	for _, list := range []struct {
		key   string
		parts []celPart
	}{{"matchConditions", p.conditions}, {"variables", p.variables}} {
		if len(list.parts) > 0 {
			fmt.Fprintf(b, "  %s:\n", list.key)
		}
		for _, part := range list.parts {
			b.WriteString(commented(part.comment, 2))
			fmt.Fprintf(b, "  - name: %s\n%s", part.name, literal("expression", part.expression, 4))
		}
	}
	if len(p.rules) > 0 {
		b.WriteString("  validations:\n")
	}
	for _, r := range p.rules {
		b.WriteString(commented(r.comment, 2))
		b.WriteString("  - reason: Forbidden\n" + literal("expression", r.expression, 4) + literal("messageExpression", r.message, 4))
	}
	if p.mutates {
		b.WriteString("  mutations:\n" + commented(p.patch.comment, 2) + "  - patchType: JSONPatch\n    jsonPatch:\n" + literal("expression", p.patch.expression, 6))
	}
	b.WriteString("---\n")
	if err := p.head(b, p.kind()+"Binding", ""); err != nil {
		return err
	}
	fmt.Fprintf(b, "spec:\n  policyName: %s\n", p.name)
	if len(p.actions) > 0 {
		fmt.Fprintf(b, "  validationActions: [%s]\n", strings.Join(p.actions, ", "))
	}
	fmt.Fprintf(b, "  matchResources:\n    namespaceSelector:\n      matchExpressions:\n      - {key: %s, operator: NotIn, values: [\"off\"]}\n", LabelAdmission)
	return nil
}

// head writes an object up to its spec.
func (p policy) head(b *strings.Builder, kind, comment string) error {
	b.WriteString(commented(comment, 0))
	fmt.Fprintf(b, "apiVersion: admissionregistration.k8s.io/v1\nkind: %s\nmetadata:\n  name: %s\n", kind, p.name)
	if len(p.labels) == 0 {
		return nil
	}
	b.WriteString("  labels:\n")
	for _, k := range slices.Sorted(maps.Keys(p.labels)) {
		line, err := yaml.Marshal(map[string]string{k: p.labels[k]})
		if err != nil {
			return err
		}
		b.WriteString("    " + string(line))
	}
	return nil
}

// commented is a text as lines of YAML comments; empty: none.
func commented(text string, indent int) string {
	if text == "" {
		return ""
	}
	return indented("# "+strings.ReplaceAll(text, "\n", "\n# "), indent)
}

// literal is a key with a text as a literal block.
func literal(key, text string, indent int) string {
	return strings.Repeat(" ", indent) + key + ": |-\n" + indented(text, indent+2)
}

// indented is a text with each line moved to the right.
func indented(text string, indent int) string {
	space := strings.Repeat(" ", indent)
	return space + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+space) + "\n"
}
