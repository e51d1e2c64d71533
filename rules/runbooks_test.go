package rules

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEveryAlertHasARunbook(t *testing.T) {
	folder := filepath.Join("..", "docs", "runbooks")
	for _, name := range Alerts() {
		page, err := os.ReadFile(filepath.Join(folder, name+".md"))
		if err != nil {
			t.Error(err)
			continue
		}
		if !strings.HasPrefix(string(page), "# "+name+"\n") {
			t.Errorf("%s.md has another title", name)
		}
	}
	pages, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	if len(pages) != len(Alerts()) {
		t.Errorf("%d runbooks for %d alerts", len(pages), len(Alerts()))
	}
}

func TestGeneratedAlertsAreListedAndLabelled(t *testing.T) {
	r, err := Generate(Options{Guards: []Guard{orders()}})
	if err != nil {
		t.Fatal(err)
	}
	listed, seen := map[string]bool{}, map[string]bool{}
	for _, name := range Alerts() {
		listed[name] = true
	}
	for _, g := range r.groups() {
		for _, rule := range g.Rules {
			if rule.Alert == "" {
				continue
			}
			seen[rule.Alert] = true
			if !listed[rule.Alert] {
				t.Errorf("%s is not in Alerts()", rule.Alert)
			}
			for _, label := range []string{LabelGuardian, LabelAction, LabelSeverity} {
				if rule.Labels[label] == "" {
					t.Errorf("%s has no label %s", rule.Alert, label)
				}
			}
			for _, value := range rule.Labels {
				if strings.Contains(value, "$") {
					t.Errorf("%s: label %q changes with the value: each would be an alert of its own", rule.Alert, value)
				}
			}
			for _, annotation := range []string{"summary", "description", "runbook_url"} {
				if rule.Annotations[annotation] == "" {
					t.Errorf("%s has no annotation %s", rule.Alert, annotation)
				}
			}
		}
	}
	if len(seen) != len(listed) {
		t.Errorf("%d alerts generated, %d listed", len(seen), len(listed))
	}
}
