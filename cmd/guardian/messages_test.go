package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/decision"
)

// typedCommand finds a command of guardian's in a sentence: its words, up to what ends
// them. A quoted text is one word.
var typedCommand = regexp.MustCompile(`\bguardian (?:` + verbs() + `)((?: '[^']*'| [^\s'().,;:]+(?:[.:][^\s'().,;:]+)*)*)`)

// verbs are the names of all commands, as a regular expression.
func verbs() string {
	var names []string
	for _, c := range (&app{name: "guardian"}).command().Commands() {
		names = append(names, c.Name())
	}
	return strings.Join(names, "|")
}

// commandsIn are the commands of a text, as it has them; its templates of labels are
// filled in.
func commandsIn(text string) []string {
	text = strings.NewReplacer("{{ $labels.guardian_guard }}", testGuard, "{{ $labels.namespace }}", "shop", "{{ end }}", "").Replace(text)
	var out []string
	for _, at := range typedCommand.FindAllStringIndex(text, -1) {
		from := at[0]
		if before, ok := strings.CutSuffix(text[:from], "kubectl "); ok {
			from = len(before)
		}
		out = append(out, text[from:at[1]])
	}
	return out
}

// clusterless are the commands that reach no cluster, so that they need no namespace.
var clusterless = []string{"admission", "alertmanager", "check", "completion", "help", "plan", "replay", "rules", "serve", "version", "rbac"}

// typeable says why a command cannot be typed as it stands: a person at night has
// another namespace in the kubeconfig.
func typeable(command string) error {
	words := shellCalls(command)[0]
	for words[0] != "guardian" {
		words = words[1:]
	}
	cmd, err := taken(words[1:])
	if err != nil {
		return err
	}
	flags := cmd.Flags()
	if slices.Contains(clusterless, cmd.Name()) {
		return nil
	}
	if !flags.Changed("namespace") {
		return fmt.Errorf("no -n NAMESPACE")
	}
	if reason := flags.Lookup("reason"); reason != nil && strings.TrimSpace(reason.Value.String()) == "" {
		return fmt.Errorf("no --reason")
	}
	if cmd.Name() == string(decision.RequestDisarm) && !flags.Changed("for") {
		return fmt.Errorf("no --for")
	}
	return nil
}

func TestCommandsAreFoundInSentences(t *testing.T) {
	for text, want := range map[string]string{
		"Why: kubectl guardian status {{ $labels.guardian_guard }} -n {{ $labels.namespace }}":                    "kubectl guardian status orders-service -n shop",
		"ends it (kubectl guardian arm a -n b --reason 'it is done. Or so'). Who: guardian status a":              "kubectl guardian arm a -n b --reason 'it is done. Or so'|guardian status a",
		"guardian takes no step; guardian's log, guardian rolled back, and guardian gate a -n b --wait-unlocked.": "guardian gate a -n b --wait-unlocked",
	} {
		if got := strings.Join(commandsIn(text), "|"); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	for command, want := range map[string]string{
		"guardian status a": "no -n", "kubectl guardian unlock a -n b": "no --reason", "guardian arm a -n b --reason ' '": "no --reason",
		"guardian disarm a -n b --reason c": "no --for", "guardian unlock -n b --reason c": "too little: want guardian unlock NAME", "guardian status a --to b": "unknown flag",
		"kubectl guardian unlock a -n b --reason '…'": "",
	} {
		err := typeable(command)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", command, err, want)
		}
	}
}

// messages are the texts of all alerts and notices, by what has them.
func messages(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, g := range generated(t, nil).Groups {
		for _, r := range g.Rules {
			if r.Alert != "" {
				out["alert "+r.Alert] = r.Annotations["summary"] + "\n" + r.Annotations["description"]
			}
		}
	}
	c := pagerConfig(t)
	for name, v := range allPosts() {
		n := noticeOf(c, v)
		if n == nil {
			t.Errorf("%s: there is no notice", name)
			continue
		}
		for key, text := range n.annotations {
			out["notice "+name+": "+key] = text
		}
		out["notice "+name+", unmanaged"] = n.unmanaged(v.Name, c.Namespace).annotations["ended"]
	}
	return out
}

// allPosts are somePosts and what else can be said of such guards.
func allPosts() map[string]remediate.View {
	posts := somePosts()
	for name, v := range somePosts() {
		v.Status.Observing = &decision.Observing{}
		posts[name+", observing"] = v
	}
	for name, v := range somePosts() {
		if v.Lock != nil {
			l := *v.Lock
			l.Kind, v.Lock = decision.LockManual, &l
			posts[name+", manual"] = v
		}
	}
	return posts
}

func TestEveryCommandOfAMessageCanBeTyped(t *testing.T) {
	found := 0
	for what, text := range messages(t) {
		for _, command := range commandsIn(text) {
			found++
			if strings.HasPrefix(command, "kubectl ") {
				t.Errorf("%s: %q: want it without kubectl, as everywhere", what, command)
			}
			if err := typeable(command); err != nil {
				t.Errorf("%s: %q: %v", what, command, err)
			}
		}
	}
	if found < 40 {
		t.Errorf("only %d commands found: the search is broken", found)
	}
}

// Whoever has guardian as kubectl's plugin knows it; all others would look for one.
func TestTheCommandHasOneName(t *testing.T) {
	for _, page := range docPages(t) {
		for _, command := range commandsIn(readDoc(t, page)) {
			if strings.HasPrefix(command, "kubectl ") {
				t.Errorf("%s: %q: want it without kubectl, as everywhere", page, command)
			}
		}
	}
	code := strings.ReplaceAll(ownCode(t), `return "kubectl guardian"`, "") // displayName knows how it was called
	for line := range strings.Lines(code) {
		line, _, _ = strings.Cut(line, "//")
		if strings.Contains(line, "kubectl guardian") {
			t.Errorf("%s: want it without kubectl, as everywhere", strings.TrimSpace(line))
		}
	}
}

func TestEveryCommandOfARunbookCanBeTyped(t *testing.T) {
	found := 0
	for _, page := range docPages(t) {
		if !strings.HasPrefix(filepath.ToSlash(page), "docs/runbooks/") {
			continue
		}
		text := readDoc(t, page)
		if !strings.Contains(text, "stand for your guard") && !strings.Contains(text, "stands for the namespace") {
			t.Errorf("%s: the reader is not told which of the names are the example's", page)
		}
		if strings.Contains(text, "-l version=") {
			t.Errorf("%s: -l version= selects the pods of all services of the namespace", page)
		}
		code := regexp.MustCompile("`(guardian|kubectl guardian) [^`\n]+`").FindAllString(text, -1)
		for _, b := range blocksOf(page, text) {
			if b.language == "sh" {
				code = append(code, strings.Split(b.text, "\n")...)
			}
		}
		for _, line := range code {
			for _, command := range commandsIn(strings.Trim(line, "`")) {
				if strings.TrimSpace(strings.TrimPrefix(command, "guardian rollback")) == "" || !strings.Contains(command, " -") && strings.Count(command, " ") == 1 {
					continue // it is spoken of, and not to be typed
				}
				found++
				if err := typeable(command); err != nil {
					t.Errorf("%s: %q: %v", page, command, err)
				}
			}
		}
	}
	if found < 30 {
		t.Errorf("only %d commands found: the search is broken", found)
	}
}

// searchedLog is what a page has its reader search guardian's log for.
var searchedLog = regexp.MustCompile(`app\.kubernetes\.io/name=guardian[^|\n]*\| grep (?:-\w+ )*'([^']+)'`)

// What a runbook searches guardian's log for, guardian writes.
func TestEveryTextThatARunbookSearchesTheLogForIsLogged(t *testing.T) {
	code := ownCode(t)
	found := 0
	for _, page := range docPages(t) {
		for _, m := range searchedLog.FindAllStringSubmatch(readDoc(t, page), -1) {
			for _, text := range alternatives(m[1]) {
				found++
				if !strings.Contains(code, text) {
					t.Errorf("%s searches the log for %q, which no code has", page, text)
				}
			}
		}
	}
	if found < 4 {
		t.Errorf("only %d texts found: the search is broken", found)
	}
}

// alternatives are the texts that a grep -E of one group means: a (b|c) is a b and a c.
func alternatives(pattern string) []string {
	before, rest, ok := strings.Cut(pattern, "(")
	group, after, closed := strings.Cut(rest, ")")
	if !ok || !closed {
		return []string{pattern}
	}
	var out []string
	for _, one := range strings.Split(group, "|") {
		out = append(out, before+one+after)
	}
	return out
}

// ownCode is the text of all that guardian is built of.
func ownCode(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, room := range []string{"cmd/guardian", "alerting", "rules", "remediate", "internal"} {
		err := filepath.WalkDir(filepath.Join("..", "..", filepath.FromSlash(room)), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			all.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}

// A block of PromQL is one query, which people paste into one field, and of one
// namespace: others have guards and Deployments of the same names.
func TestEveryQueryOfTheDocsIsOne(t *testing.T) {
	found := 0
	for _, page := range docPages(t) {
		for _, b := range blocksOf(page, readDoc(t, page)) {
			if b.language != "promql" {
				continue
			}
			found++
			query, err := parser.NewParser(parser.Options{}).ParseExpr(b.text)
			if err != nil {
				t.Errorf("%v: %v\n%s", b, err, b.text)
				continue
			}
			parser.Inspect(query, func(node parser.Node, _ []parser.Node) error {
				if s, ok := node.(*parser.VectorSelector); ok && !slices.ContainsFunc(s.LabelMatchers, func(m *labels.Matcher) bool { return strings.HasSuffix(m.Name, "namespace") }) {
					t.Errorf("%v: %s names no namespace", b, s)
				}
				return nil
			})
		}
	}
	if found < 8 {
		t.Errorf("only %d queries found: the search is broken", found)
	}
}

// What a runbook tells apart by the words of the status, guardian says in those words.
func TestTheRunbookOfAnUnwatchedCanaryHasTheWordsOfTheStatus(t *testing.T) {
	code := ownCode(t)
	_, do, _ := strings.Cut(readDoc(t, "docs", "runbooks", "GuardianCanaryUnwatched.md"), "## Do\n")
	causes := regexp.MustCompile(`(?m)^- \*\*(.+?)\*\*`).FindAllStringSubmatch(do, -1)
	for _, m := range causes {
		if !strings.Contains(code, m[1]) {
			t.Errorf("no status says %q", m[1])
		}
	}
	if len(causes) < 5 {
		t.Errorf("only %d causes", len(causes))
	}
}
