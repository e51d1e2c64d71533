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
	"unicode"

	"github.com/spf13/cobra"

	"github.com/canary-guardian/guardian/test/golden"
)

// block is a fenced part of a page of the documentation.
type block struct {
	page     string // as docs/cli.md
	line     int    // of its fence
	language string
	text     string // without what indents the fence
	mark     string // the comment on the line above: <!-- mark -->
}

func (b block) String() string { return fmt.Sprintf("%s:%d", b.page, b.line) }

// docPages are the pages of the documentation, by their path from the repository's root.
func docPages(t *testing.T) []string {
	t.Helper()
	root := filepath.Join("..", "..")
	pages := []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "test/demo/README.md", "charts/guardian/README.md", "charts/guardian-admission/README.md"}
	err := fs.WalkDir(os.DirFS(root), "docs", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".md") {
			pages = append(pages, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(pages) < 35 {
		t.Fatalf("only %d pages found", len(pages))
	}
	return pages
}

var (
	fenceLine = regexp.MustCompile("^( *)```([a-z]*)$")
	markLine  = regexp.MustCompile(`^ *<!-- (.+) -->$`)
)

// blocksOf are the fenced parts of a page.
func blocksOf(page, text string) []block {
	var out []block
	var open *block
	indent, above := "", ""
	for i, line := range strings.Split(text, "\n") {
		switch m := fenceLine.FindStringSubmatch(line); {
		case open != nil && m != nil:
			out, open = append(out, *open), nil
		case open != nil:
			open.text += strings.TrimPrefix(line, indent) + "\n"
		case m != nil:
			indent, open = m[1], &block{page: page, line: i + 1, language: m[2]}
			if mark := markLine.FindStringSubmatch(above); mark != nil {
				open.mark = mark[1]
			}
		}
		above = line
	}
	return out
}

// notRun are the words by which a mark leaves out lines of its block, and why: "not
// run (logs, top): there is no kubelet". Without words it leaves out all.
//
// A block that shows a file is run where that file is tried.
func (b block) notRun() (words []string, all bool, err error) {
	if b.shows("") {
		return nil, true, nil
	}
	rest, ok := strings.CutPrefix(b.mark, "not run")
	if !ok {
		return nil, false, nil
	}
	m := regexp.MustCompile(`^(?: \(([a-z, ]+)\))?: (.+)$`).FindStringSubmatch(rest)
	if m == nil || len(strings.Fields(m[2])) < 3 {
		return nil, false, fmt.Errorf("%v: mark %q: want \"not run: reason\" or \"not run (word, …): reason\"", b, b.mark)
	}
	if m[1] == "" {
		return nil, true, nil
	}
	words = strings.Split(m[1], ", ")
	for _, w := range words {
		if !slices.ContainsFunc(b.commands(), func(c docCommand) bool { return c.has(w) }) {
			return nil, false, fmt.Errorf("%v: the mark leaves out %q, which no line has", b, w)
		}
	}
	return words, false, nil
}

// shows says whether the block shows a file below a folder, as its mark says.
func (b block) shows(folder string) bool { return strings.HasPrefix(b.mark, "file: "+folder) }

// docCommand is one line of a block, with the simple commands that it consists of.
type docCommand struct {
	line  string
	calls [][]string
	inner [][]string // what $(…) in it calls
}

func (c docCommand) has(word string) bool {
	return slices.ContainsFunc(c.calls, func(call []string) bool { return slices.Contains(call, word) })
}

// commands are the block's lines; one that ends in a backslash goes on in the next.
func (b block) commands() []docCommand {
	var out []docCommand
	for line := range strings.Lines(strings.ReplaceAll(b.text, "\\\n", " ")) {
		if calls := shellCalls(line); len(calls) > 0 {
			c := docCommand{line: strings.TrimSpace(line), calls: calls}
			for _, m := range regexp.MustCompile(`\$\(([^()]+)\)`).FindAllStringSubmatch(line, -1) {
				c.inner = append(c.inner, shellCalls(m[1])...)
			}
			out = append(out, c)
		}
	}
	return out
}

// toRun are the commands that no mark leaves out.
func (b block) toRun(t *testing.T) []docCommand {
	t.Helper()
	words, all, err := b.notRun()
	if err != nil {
		t.Error(err)
	}
	if all {
		return nil
	}
	return slices.DeleteFunc(b.commands(), func(c docCommand) bool { return slices.ContainsFunc(words, c.has) })
}

// shellCalls are the simple commands of a line of shell, as words without quotes.
// Redirections are left out; $(…) and variables stay as they are.
func shellCalls(line string) [][]string {
	var calls [][]string
	var call []string
	var word strings.Builder
	inWord, quote, skip := false, rune(0), false
	endWord := func() {
		if inWord && !skip {
			call = append(call, word.String())
		}
		if inWord {
			skip = false
		}
		inWord = false
		word.Reset()
	}
	endCall := func() {
		endWord()
		if len(call) > 0 {
			calls = append(calls, call)
		}
		call = nil
	}
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == '#' && !inWord:
			endCall()
			return calls
		case r == '>' || r == '<':
			endWord()
			skip = true
		case r == '|' || r == '&' || r == ';':
			endCall()
		case unicode.IsSpace(r):
			endWord()
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	endCall()
	return calls
}

func TestLinesOfShellAreReadAsAShellDoes(t *testing.T) {
	for line, want := range map[string]string{
		"guardian status -w   # for ever":                          "[[guardian status -w]]",
		"guardian admission | kubectl apply -f - && x=1 || y=2":    "[[guardian admission] [kubectl apply -f -] [x=1] [y=2]]",
		`guardian pause a --reason 'incident #1 | 2' >out.txt; ls`: "[[guardian pause a --reason incident #1 | 2] [ls]]",
		`gh api "repos/$R" -f state="$state" > /dev/null`:          "[[gh api repos/$R -f state=$state]]",
		"# nothing": "[]",
		"guardian gate a --for 60s && state=success || state=other": "[[guardian gate a --for 60s] [state=success] [state=other]]",
	} {
		if got := fmt.Sprint(shellCalls(line)); got != want {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
}

// commandWords begin a line that somebody would run.
var commandWords = regexp.MustCompile(`(?m)^(\$ )?(guardian|kubectl|helm|make|curl|git|docker|istioctl|amtool|promtool) `)

func TestEveryBlockOfTheDocsHasALanguage(t *testing.T) {
	runs := 0
	for _, page := range docPages(t) {
		for _, b := range blocksOf(page, readDoc(t, page)) {
			switch b.language {
			case "sh":
				runs += len(b.toRun(t))
			case "":
				if m := commandWords.FindString(b.text); m != "" {
					t.Errorf("%v: a block without a language has a command (%s…): want ```sh", b, m)
				}
			case "yaml", "json", "promql", "mermaid", "text", "groovy", "lua":
				if b.mark != "" && !strings.HasPrefix(b.mark, "file: ") && !strings.HasPrefix(b.mark, "captured: ") {
					t.Errorf("%v: mark %q: nothing is run of %s", b, b.mark, b.language)
				}
			default:
				t.Errorf("%v: language %q is not known here", b, b.language)
			}
		}
	}
	if runs < 60 {
		t.Errorf("only %d commands to run: the search is broken", runs)
	}
}

// A block that says which file it shows has to show all of it.
func TestFilesThatTheDocsShowAreTheFiles(t *testing.T) {
	for _, page := range docPages(t) {
		for _, b := range blocksOf(page, readDoc(t, page)) {
			if path, ok := strings.CutPrefix(b.mark, "file: "); ok && readDoc(t, path) != b.text {
				t.Errorf("%v does not show %s as it is: %s", b, path, golden.FirstDifference(b.text, readDoc(t, path)))
			}
		}
	}
}

// taken says why guardian would not take a call; short of its files and its cluster.
func taken(words []string) (*cobra.Command, error) {
	root := (&app{name: "guardian"}).command()
	root.InitDefaultCompletionCmd()
	cmd, args, err := root.Find(words)
	if err != nil || cmd == root {
		return nil, fmt.Errorf("no such command: %v", err)
	}
	if err := cmd.ParseFlags(args); err != nil {
		return nil, err
	}
	return cmd, cmd.ValidateArgs(cmd.Flags().Args())
}

// copiedNeeds are flags one of which a command that is to be copied needs.
var copiedNeeds = map[string][]string{"check": {"config"}, "rules": {"config", "guard"}, "alertmanager": {"config", "namespace"}}

// What people copy has to be taken, and what the text speaks of has to exist.
func TestEveryCallOfGuardianInTheDocsIsTaken(t *testing.T) {
	tried := 0
	for _, page := range docPages(t) {
		text := readDoc(t, page)
		for _, b := range blocksOf(page, text) {
			if b.language != "sh" || b.shows("docs/samples/") {
				continue
			}
			for _, c := range b.commands() {
				for _, call := range slices.Concat(c.calls, c.inner) {
					if call[0] != "guardian" {
						continue
					}
					tried++
					cmd, err := taken(call[1:])
					if err != nil {
						t.Errorf("%v: %s: %v", b, c.line, err)
					} else if needs := copiedNeeds[cmd.Name()]; len(needs) > 0 && !slices.ContainsFunc(needs, cmd.Flags().Changed) {
						t.Errorf("%v: %s: want one of the flags %v", b, c.line, needs)
					}
				}
			}
		}
		for _, m := range regexp.MustCompile(`(?m)^ *args: \[(.+)\]$`).FindAllStringSubmatch(text, -1) { // of a container
			tried++
			if _, err := taken(strings.Split(m[1], ", ")); err != nil {
				t.Errorf("%s: %s: %v", page, m[0], err)
			}
		}
		for _, m := range regexp.MustCompile("`(guardian [^`\n]+)`").FindAllStringSubmatch(text, -1) {
			call := shellCalls(m[1])[0]
			tried++
			cmd, err := taken(call[1:])
			if spoken := cmd != nil && len(cmd.Flags().Args()) == 0; err != nil && !spoken { // of which guard does not matter
				t.Errorf("%s: `%s`: %v", page, m[1], err)
			}
		}
	}
	if tried < 130 {
		t.Errorf("only %d calls found: the search is broken", tried)
	}
}
