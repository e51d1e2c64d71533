package printable

import (
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
