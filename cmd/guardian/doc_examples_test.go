package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// callsOf are the calls of guardian in lines of shell, also by /guardian in its image.
func callsOf(text string) (calls [][]string) {
	for _, c := range (block{text: text}).commands() {
		for _, call := range slices.Concat(c.calls, c.inner) {
			if i := slices.IndexFunc(call, func(w string) bool { return filepath.Base(w) == "guardian" && !strings.Contains(w, "charts") }); i >= 0 {
				if i == 0 || call[i] == "/guardian" {
					calls = append(calls, call[i+1:])
				}
			}
		}
	}
	return calls
}

// What --help and helm show is copied too.
func TestEveryExampleOfTheProgramAndTheChartIsTaken(t *testing.T) {
	texts, tried := map[string]string{}, 0
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		texts["guardian "+cmd.Name()+" --help"] = cmd.Example
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk((&app{name: "guardian"}).command())
	for _, chart := range []string{"guardian", "guardian-admission"} {
		file := filepath.Join("..", "..", "charts", chart, "templates", "NOTES.txt")
		notes, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		plain := regexp.MustCompile(`{{[^}]*}}`).ReplaceAllString(string(notes), "x")
		var lines []string
		for line := range strings.Lines(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(plain, "x")) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "guardian ") && strings.Contains(line, " -") || strings.Contains(line, " /guardian ") {
				lines = append(lines, line)
			}
		}
		texts[file] = strings.Join(lines, "\n")
	}
	for from, text := range texts {
		for _, call := range callsOf(text) {
			tried++
			cmd, err := taken(call)
			if err != nil {
				t.Errorf("%s: guardian %s: %v", from, strings.Join(call, " "), err)
			} else if needs := copiedNeeds[cmd.Name()]; len(needs) > 0 && !slices.ContainsFunc(needs, cmd.Flags().Changed) {
				t.Errorf("%s: guardian %s: want one of the flags %v", from, strings.Join(call, " "), needs)
			}
		}
	}
	if tried < 15 {
		t.Errorf("only %d calls found: the search is broken", tried)
	}
}

// testsIn says whether a folder's tests have one that -run finds.
func testsIn(t *testing.T, folder, pattern string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	wanted := regexp.MustCompile(strings.Split(pattern, "/")[0])
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)`).FindAllStringSubmatch(string(text), -1) {
			if wanted.MatchString(m[1]) {
				return true
			}
		}
	}
	return false
}

// What contributors are told to type: targets of make and tests that there are.
func TestWhatTheDocsSayOfMakeAndGoTestIsThere(t *testing.T) {
	targets := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z][a-z-]*):`).FindAllStringSubmatch(readDoc(t, "Makefile"), -1) {
		targets[m[1]] = true
	}
	tried := 0
	for _, page := range docPages(t) {
		text := readDoc(t, page)
		for _, m := range regexp.MustCompile("`make ([^`\n]+)`").FindAllStringSubmatch(text, -1) {
			for _, word := range strings.Fields(m[1]) {
				if tried++; !strings.Contains(word, "=") && !targets[word] {
					t.Errorf("%s: `make %s`: the Makefile has no target %s", page, m[1], word)
				}
			}
		}
		for _, m := range regexp.MustCompile("`go test ([^`\n]+)`").FindAllStringSubmatch(text, -1) {
			words, pattern := strings.Fields(m[1]), "."
			if i := slices.Index(words, "-run"); i >= 0 && i+1 < len(words) && words[i+1] != "NAME" {
				pattern = words[i+1]
			}
			for _, word := range words {
				if folder, ok := strings.CutPrefix(word, "./"); ok {
					if tried++; !testsIn(t, folder, pattern) {
						t.Errorf("%s: `go test %s`: no such test", page, m[1])
					}
				}
			}
		}
	}
	if tried < 60 {
		t.Errorf("only %d found: the search is broken", tried)
	}
}
