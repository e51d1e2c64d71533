package rules

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"sigs.k8s.io/yaml"
)

// TestWhatIsPrintedIsWhatIsWritten compares the printed rules, which have comments and
// another order of keys, with the objects that guardian writes.
func TestWhatIsPrintedIsWhatIsWritten(t *testing.T) {
	for name, o := range map[string]Options{
		"one guard":   {Guards: []Guard{orders()}},
		"fast lane":   fastLane(),
		"many guards": {Guards: shops(700)},
		"one signal":  {Guards: []Guard{with(orders(), func(g *Guard) { g.Signals = Signals{ErrorRate: &ErrorRate{Max: 0.01}} })}},
	} {
		t.Run(name, func(t *testing.T) {
			r := generated(t, o)
			var file monitoringv1.PrometheusRuleSpec
			out, err := r.Prometheus()
			if err != nil {
				t.Fatal(err)
			}
			if err := yaml.UnmarshalStrict(out, &file); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(file.Groups, r.groups()) {
				t.Error("the rule file has other groups")
			}
			out, err = r.PrometheusRulesYAML("guardian", "microservices")
			if err != nil {
				t.Fatal(err)
			}
			objects := r.PrometheusRules("guardian", "microservices")
			texts := bytes.Split(out, []byte("---\n"))
			if len(texts) != len(objects) {
				t.Fatalf("%d objects are printed, of %d", len(texts), len(objects))
			}
			for i, text := range texts {
				var printed monitoringv1.PrometheusRule
				if err := yaml.UnmarshalStrict(text, &printed); err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(printed, *objects[i]) {
					t.Errorf("%s is printed differently", objects[i].Name)
				}
			}
		})
	}
}

// TestEachPrintedGroupIsExplained looks for the sentence before each group, and for the
// name of what a rule records in its first line.
func TestEachPrintedGroupIsExplained(t *testing.T) {
	out, err := generated(t, Options{Guards: []Guard{orders()}}).Prometheus()
	if err != nil {
		t.Fatal(err)
	}
	groups, explained, before := 0, 0, ""
	for line := range strings.Lines(string(out)) {
		switch {
		case strings.HasPrefix(line, "- "):
			groups++
			if !strings.HasPrefix(before, "# ") {
				t.Errorf("nothing is said before %q", line)
			}
		case strings.HasPrefix(line, "  - "):
			if !strings.HasPrefix(line, "  - alert: ") && !strings.HasPrefix(line, "  - record: ") {
				t.Errorf("a rule begins with %q", line)
			}
			if strings.HasPrefix(before, "  # ") {
				explained++
			}
		case len(line) > 110 && strings.HasPrefix(strings.TrimSpace(line), "#"):
			t.Errorf("a comment of %d characters: %q", len(line), line)
		}
		before = line
	}
	if groups != 7 || explained < 15 {
		t.Errorf("%d groups and %d stages are explained, want 7 and at least 15", groups, explained)
	}
}
