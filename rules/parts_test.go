package rules

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

// shops are guards with the defaults, and names as long as people's are.
func shops(n int) []Guard {
	var out []Guard
	for i := range n {
		name := fmt.Sprintf("checkout-service-%d", i)
		out = append(out, with(orders(), func(g *Guard) {
			g.Name = name
			g.Stable = Side{Name: "v1", Workloads: []string{name + "-v1"}, Service: name}
			g.Canary = Side{Name: "v2", Workloads: []string{name + "-v2"}, Service: name}
		}))
	}
	return out
}

// texts are the objects' manifests by name.
func texts(t *testing.T, o Options) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, rule := range generated(t, o).PrometheusRules("guardian", "microservices") {
		text, err := json.Marshal(rule)
		if err != nil {
			t.Fatal(err)
		}
		out[rule.Name] = string(text)
	}
	return out
}

func TestAThousandGuardsFitIntoObjectsThatEverybodyTakes(t *testing.T) {
	const (
		annotations = 256 << 10 // of an object, kubectl's copy of it among them
		ruleFile    = 512 << 10 // that prometheus-operator takes
	)
	for name, test := range map[string]struct {
		options Options
		most    int // bytes a guard
	}{
		"at the defaults":  {Options{Guards: shops(1000)}, 1650},
		"on the fast lane": {Options{Guards: shops(1000), FastLane: time.Second, Interval: 500 * time.Millisecond}, 3350},
	} {
		t.Run(name, func(t *testing.T) {
			guards, bytes := map[string]bool{}, 0
			for _, rule := range generated(t, test.options).PrometheusRules("guardian", "microservices") {
				text, errJSON := json.Marshal(rule)
				file, errYAML := yaml.Marshal(rule.Spec)
				if errJSON != nil || errYAML != nil {
					t.Fatal(errJSON, errYAML)
				}
				if len(text) > annotations-4<<10 || len(file) > ruleFile {
					t.Errorf("%s has %d KiB, its rule file %d KiB", rule.Name, len(text)>>10, len(file)>>10)
				}
				bytes += len(text)
				for guard := range guardsOf(rule) {
					if guards[guard] {
						t.Errorf("%s is in two objects", guard)
					}
					guards[guard] = true
				}
			}
			if len(guards) != 1000 {
				t.Errorf("rules for %d guards, want 1000", len(guards))
			}
			if bytes/1000 > test.most {
				t.Errorf("%d bytes a guard, want at most %d", bytes/1000, test.most)
			}
		})
	}
}

// guardsOf are the guards that have constants of their own in an object.
func guardsOf(rule *monitoringv1.PrometheusRule) map[string]bool {
	out := map[string]bool{}
	for _, g := range rule.Spec.Groups {
		for _, r := range g.Rules {
			if r.Record == guardInfo || r.Record == workloadInfo && r.Labels[LabelGuard] != "" {
				out[r.Labels[LabelGuard]] = true
			}
		}
	}
	return out
}

func TestAGuardMoreOrLessChangesTheObjectThatItIsIn(t *testing.T) {
	all := shops(1000)
	before := texts(t, Options{Guards: all})
	var changed, gone []string
	after := texts(t, Options{Guards: all[1:]})
	for name, text := range before {
		switch now, ok := after[name]; {
		case !ok:
			gone = append(gone, name)
		case now != text:
			changed = append(changed, name)
		}
	}
	if len(changed) != 1 || len(gone) > 0 || len(after) != len(before) {
		t.Errorf("of %d objects %v have changed and %v are gone; want one that has changed", len(before), changed, gone)
	}
}

func TestTheOrderOfGuardsDoesNotMatter(t *testing.T) {
	a, b := shops(3), shops(3)
	b[0], b[2] = b[2], b[0]
	before, after := texts(t, Options{Guards: a, Namespace: "x"}), texts(t, Options{Guards: b, Namespace: "x"})
	for name := range before {
		if before[name] != after[name] {
			t.Errorf("%s differs", name)
		}
	}
}

func TestAGuardThatIsTooLargeIsNamed(t *testing.T) {
	large := with(shops(2)[1], func(g *Guard) {
		for i := range 2000 {
			g.Canary.Workloads = append(g.Canary.Workloads, fmt.Sprintf("checkout-service-canary-%d", i))
		}
	})
	_, err := Generate(Options{Guards: []Guard{orders(), large}})
	if err == nil || !strings.Contains(err.Error(), `guard "checkout-service-1": its rules alone have `) || !strings.Contains(err.Error(), "want at most 240 KiB") {
		t.Errorf("got %v", err)
	}
	if tooLarge, ok := errors.AsType[TooLargeError](err); !ok || tooLarge.Guard != "checkout-service-1" {
		t.Errorf("got %#v", err)
	}
}

func TestOptionsThatMakeRulesAreCheckedWithoutMakingThem(t *testing.T) {
	for name, o := range map[string]Options{
		"no guard":       {Namespace: "microservices"},
		"two objects":    {Guards: shops(200)},
		"on a fast lane": {Guards: shops(2), FastLane: time.Second},
	} {
		if err := Check(o); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatIsAboutGuardianItselfNeedsNoRulesOfGuards(t *testing.T) {
	objects := generated(t, Options{Guards: shops(200)}).PrometheusRules("guardian", "microservices")
	text, err := json.Marshal(objects[0].Spec)
	if err != nil {
		t.Fatal(err)
	}
	if objects[0].Name != "guardian" || len(guardsOf(objects[0])) > 0 || strings.Contains(string(text), "guardian:") || strings.Contains(string(text), "guardian_side") {
		t.Errorf("%s has rules of guards: %s", objects[0].Name, text)
	}
	for _, alert := range []string{AlertHeartbeat, AlertDown, AlertHeartbeatStale, AlertRolledBack, AlertRollbackBlocked, AlertRulesIncomplete} {
		if !strings.Contains(string(text), `"alert":"`+alert+`"`) {
			t.Errorf("%s lacks %s", objects[0].Name, alert)
		}
	}
}

var recordedSelector = regexp.MustCompile(`guardian\w*:[\w:]+\b[^(]?[^}]*`)

func TestPartsReadWhatTheyHaveRecordedThemselves(t *testing.T) {
	for _, rule := range generated(t, Options{Guards: shops(400)}).PrometheusRules("guardian", "microservices")[1:] {
		shard := strings.TrimPrefix(rule.Name, "guardian-guards-")
		for _, g := range rule.Spec.Groups {
			if !strings.HasSuffix(g.Name, "."+shard) {
				t.Errorf("group %s in %s", g.Name, rule.Name)
			}
			for _, r := range g.Rules {
				label := "microservices/guardian/" + shard
				if r.Record != "" && r.Labels[LabelShard] != label {
					t.Errorf("%s in %s is recorded for shard %q", r.Record, rule.Name, r.Labels[LabelShard])
				}
				for _, selector := range recordedSelector.FindAllString(r.Expr.StrVal, -1) {
					if !strings.Contains(selector, LabelShard+`="`+label+`"`) {
						t.Errorf("%s%s reads what other parts have recorded: %s", r.Record, r.Alert, selector)
					}
				}
			}
		}
	}
}

// TestNoRuleSelectsItsOwnByALabelThatIsAbsent: Prometheus subtracts the series that have the
// label, and finds some of them not, for an instant, while many new ones come. What is
// recorded is told apart by a label that it has.
func TestNoRuleSelectsItsOwnByALabelThatIsAbsent(t *testing.T) {
	selectors := 0
	for _, o := range []Options{
		{Guards: shops(40)},
		{Guards: shops(3), FastLane: time.Second, Interval: 500 * time.Millisecond, ScrapeInterval: 15 * time.Second},
	} {
		for _, g := range generated(t, o).groups() {
			for _, r := range g.Rules {
				expr, err := parser.NewParser(parser.Options{}).ParseExpr(r.Expr.String())
				if err != nil {
					t.Fatal(err)
				}
				for _, selector := range parser.ExtractSelectors(expr) {
					if !slices.ContainsFunc(selector, func(m *labels.Matcher) bool {
						return m.Name == model.MetricNameLabel && strings.HasPrefix(m.Value, "guardian")
					}) {
						continue
					}
					selectors++
					for _, m := range selector {
						if (m.Type == labels.MatchEqual || m.Type == labels.MatchRegexp) && m.Matches("") {
							t.Errorf("%s%s selects by %s", r.Record, r.Alert, m)
						}
					}
				}
			}
		}
	}
	if selectors < 100 {
		t.Errorf("looked at %d selectors", selectors)
	}
}
