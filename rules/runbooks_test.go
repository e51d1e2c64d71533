package rules

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEveryAlertHasARunbook(t *testing.T) {
	folder := filepath.Join("..", "docs", "runbooks")
	wanted := map[string]bool{}
	for _, name := range append(Alerts(), Notices()...) {
		title := page(name)
		wanted[title] = true
		text, err := os.ReadFile(filepath.Join(folder, title+".md"))
		if err != nil {
			t.Error(err)
			continue
		}
		if !strings.HasPrefix(string(text), "# "+title+"\n") {
			t.Errorf("%s.md has another title", title)
		}
		if !strings.Contains(string(text), name) {
			t.Errorf("%s.md does not name %s", title, name)
		}
	}
	pages, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	if len(pages) != len(wanted) {
		t.Errorf("%d runbooks, want %d", len(pages), len(wanted))
	}
}

// The pages are asked for by the URLs that alerts have, from a server that has this
// repository where the default has it.
func TestEveryRunbookURLIsAnswered(t *testing.T) {
	const path = "/canary-guardian/guardian/blob/main/"
	if !strings.HasSuffix(DefaultRunbookBase, path+"docs/runbooks/") {
		t.Fatalf("the default is %s", DefaultRunbookBase)
	}
	server := httptest.NewServer(http.StripPrefix(path, http.FileServer(http.Dir(".."))))
	defer server.Close()
	o := Options{Guards: []Guard{orders()}, RunbookBase: server.URL + path + "docs/runbooks/"}
	generated, err := Generate(o)
	if err != nil {
		t.Fatal(err)
	}
	urls := map[string]bool{}
	for _, g := range generated.groups() {
		for _, rule := range g.Rules {
			if rule.Alert != "" {
				urls[rule.Annotations["runbook_url"]] = true
			}
		}
	}
	for _, notice := range Notices() {
		urls[o.Runbook(notice)] = true
	}
	for url := range urls {
		answer, err := server.Client().Get(url)
		if err != nil {
			t.Fatal(err)
		}
		page, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusOK || !strings.HasPrefix(string(page), "# Guardian") {
			t.Errorf("%s: %s, %.40q, %v", url, answer.Status, page, err)
		}
	}
	if len(urls) < 20 {
		t.Errorf("only %d pages", len(urls))
	}
}

func TestGeneratedAlertsAreListedAndLabelled(t *testing.T) {
	signals := orders().Signals
	signals.Comparison = &Comparison{Ratio: 1.5, Min: 0.0001}
	r, err := Generate(Options{Guards: acting(signals)})
	if err != nil {
		t.Fatal(err)
	}
	listed, seen, severity := map[string]bool{}, map[string]bool{}, map[string]string{}
	for _, name := range Alerts() {
		listed[name] = true
	}
	for _, g := range r.groups() {
		for _, rule := range g.Rules {
			if rule.Alert == "" {
				continue
			}
			seen[rule.Alert] = true
			if before, known := severity[rule.Alert]; known && before != rule.Labels[LabelSeverity] {
				t.Errorf("%s is %s and %s: a usual inhibition silences the one by the other, of another guard", rule.Alert, before, rule.Labels[LabelSeverity])
			}
			severity[rule.Alert] = rule.Labels[LabelSeverity]
			if !listed[rule.Alert] {
				t.Errorf("%s is not in Alerts()", rule.Alert)
			}
			for _, label := range []string{LabelGuardian, LabelInstance, LabelAction, LabelSeverity} {
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
