package printable

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode"
)

func TestWhatOthersWroteIsText(t *testing.T) {
	for _, c := range []struct{ text, line, lines, markdown string }{
		{"", "", "", ""},
		{"p95 über 500 ms → 10 % 日本", "p95 über 500 ms → 10 % 日本", "p95 über 500 ms → 10 % 日本", "p95 über 500 ms → 10 % 日本"},
		{"a\nb\r\tc", "a b  c", "a\nb  c", "a b  c"},
		{"a\u2028b\u2029c\u0085d\u00a0e", "a b c d e", "a b c d e", "a b c d e"},
		{"\x1b[2J\x1b]0;t\a\u009b1m\x7f", `\x1b[2J\x1b]0;t\a\u009b1m\x7f`, `\x1b[2J\x1b]0;t\a\u009b1m\x7f`, `\\x1b\[2J\\x1b\]0;t\\a\\u009b1m\\x7f`},
		{"safe\u202etxt.\u2066\u200b\ufeff\U000e0041", `safe\u202etxt.\u2066\u200b\ufeff\U000e0041`, `safe\u202etxt.\u2066\u200b\ufeff\U000e0041`, `safe\\u202etxt.\\u2066\\u200b\\ufeff\\U000e0041`},
		{"\xff\xfe", "\ufffd\ufffd", "\ufffd\ufffd", "\ufffd\ufffd"},
		{"it's 'so'", "it's 'so'", "it's 'so'", "it's 'so'"},
		{"# a | *b* _c_ `d` ~e~ [f](g) <h> & &lt;", "# a | *b* _c_ `d` ~e~ [f](g) <h> & &lt;", "# a | *b* _c_ `d` ~e~ [f](g) <h> & &lt;",
			`\# a \| \*b\* \_c\_ ` + "\\`d\\`" + ` \~e\~ \[f\](g) &lt;h&gt; &amp; &amp;lt;`},
	} {
		if line, lines, markdown := Line(c.text), Lines(c.text), Markdown(c.text); line != c.line || lines != c.lines || markdown != c.markdown {
			t.Errorf("%q:\nline     %q\nlines    %q\nmarkdown %q", c.text, line, lines, markdown)
		}
	}
}

func TestAnErrorIsOneLineButForOwnOnes(t *testing.T) {
	foreign, own := errors.New("a\n::b\x1b"), OwnLines{errors.New("\n  first\n  second\x1b")}
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"of others":             {foreign, `a ::b\x1b`},
		"wrapped":               {fmt.Errorf("read: %w", foreign), `read: a ::b\x1b`},
		"with own lines after":  {fmt.Errorf("read: %w%w", foreign, own), `read: a ::b\x1b` + "\n  first\n  second" + `\x1b`},
		"with own lines before": {fmt.Errorf("%w%w", own, foreign), `   first   second\x1ba ::b\x1b`},
		"none of it own":        {OwnLines{errors.New("")}, ""},
		"joined":                {errors.Join(foreign, fmt.Errorf("%w%w", foreign, own), foreign), `a ::b\x1b` + "\n" + `a ::b\x1b` + "\n  first\n  second" + `\x1b` + "\n" + `a ::b\x1b`},
		"joined and wrapped":    {fmt.Errorf("plan: %w", errors.Join(foreign, foreign)), `plan: a ::b\x1b` + "\n" + `a ::b\x1b`},
		"two wrapped":           {fmt.Errorf("(%w) %w", foreign, errors.Join(foreign, foreign)), `(a ::b\x1b) a ::b\x1b` + "\n" + `a ::b\x1b`},
		"of one joined":         {errors.Join(foreign), `a ::b\x1b`},
		"in another's type":     {same{errors.Join(foreign, own)}, `a ::b\x1b` + "\n\n  first\n  second" + `\x1b`},
		"own in another's type": {same{own}, "\n  first\n  second" + `\x1b`},
	} {
		if got := Error(c.err); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

type same struct{ error }

func (s same) Unwrap() error { return s.error }

func FuzzPrintable(f *testing.F) {
	f.Add("a\x1b[31m\u202eb\n| `c` <d>\xff")
	f.Fuzz(func(t *testing.T, text string) {
		line, lines := Line(text), Lines(text)
		if i := strings.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%q: not printable at %d of %q", text, i, line)
		}
		if strings.Count(lines, "\n") != strings.Count(text, "\n") || Line(line) != line {
			t.Errorf("%q: %q, %q", text, line, lines)
		}
		bare := strings.NewReplacer(`\\`, "", `\|`, "", "\\`", "", `\*`, "", `\_`, "", `\[`, "", `\]`, "", `\#`, "", `\~`, "").Replace(Markdown(text))
		if strings.ContainsAny(bare, "\\|`*_[]<>#~") {
			t.Errorf("%q: Markdown in %q", text, Markdown(text))
		}
	})
}
