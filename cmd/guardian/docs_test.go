package main

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate/decision"
)

func readDoc(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{"..", ".."}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// words is every `code span` of a document, and every part of a dotted one.
func words(doc string) map[string]bool {
	found := map[string]bool{}
	for _, m := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(doc, -1) {
		for _, part := range regexp.MustCompile(`[^A-Za-z0-9_]+`).Split(m[1], -1) {
			found[part] = true
		}
	}
	return found
}

func TestEveryKeyIsDocumented(t *testing.T) {
	doc := words(readDoc(t, "docs", "configuration.md"))
	keys := 0
	var look func(path string, of reflect.Type)
	look = func(path string, of reflect.Type) {
		if of.Kind() == reflect.Slice {
			of = of.Elem()
		}
		if of.Kind() != reflect.Struct || !strings.HasSuffix(of.PkgPath(), "cmd/guardian/config") {
			return
		}
		for f := range of.Fields() {
			key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if key == "" || key == "-" {
				continue
			}
			keys++
			if !doc[key] {
				t.Errorf("%s.%s is not in docs/configuration.md", path, key)
			}
			look(path+"."+key, f.Type)
		}
	}
	look("", reflect.TypeFor[config.Config]())
	if keys < 70 {
		t.Errorf("only %d keys looked at: the walk is broken", keys)
	}
}

func TestEveryReasonToWaitIsDocumented(t *testing.T) {
	doc := readDoc(t, "docs", "promotion.md")
	for _, w := range decision.Waits {
		if !strings.Contains(doc, "| `"+string(w)+"` |") {
			t.Errorf("docs/promotion.md does not explain the reason %s", w)
		}
	}
}

func TestEveryCommandIsDocumented(t *testing.T) {
	a := &app{name: "guardian"}
	for _, c := range a.command().Commands() {
		if !words(readDoc(t, "README.md"))[c.Name()] {
			t.Errorf("README.md does not name the command %s", c.Name())
		}
	}
}

func TestEveryExampleOfAConfigurationIsValid(t *testing.T) {
	tried := 0
	for _, page := range []string{"README.md", "docs/configuration.md", "docs/promotion.md", "docs/observe.md", "docs/faq.md"} {
		for _, b := range blocksOf(page, readDoc(t, page)) {
			if b.language != "yaml" || strings.Contains(b.text, "apiVersion:") {
				continue
			}
			tried++
			text := b.text
			if !strings.Contains(text, "namespace:") {
				text = "namespace: microservices\n" + text
			}
			if _, err := config.Parse([]byte(text)); err != nil {
				t.Errorf("%v: %v", b, err)
			}
		}
	}
	if tried < 8 {
		t.Errorf("only %d examples found", tried)
	}
}

func TestEveryStateIsInThePicture(t *testing.T) {
	var picture string
	for _, b := range blocksOf("docs/concepts.md", readDoc(t, "docs", "concepts.md")) {
		if strings.HasPrefix(b.text, "stateDiagram") {
			picture = strings.ReplaceAll(b.text, "rolledback", string(decision.StateRolledBack))
		}
	}
	rest := readDoc(t, "docs", "concepts.md")
	for _, state := range decision.States {
		drawn := strings.Contains(picture, "> "+string(state))
		if aside := state == decision.StatePaused || state == decision.StateDisarmed; drawn == aside || aside && !strings.Contains(rest, "`"+string(state)+"` (") {
			t.Errorf("state %s: in the picture: %v; it has to be there or, if it lies over the others, in the text below", state, drawn)
		}
	}
}
