// Package printable shows what others have written, a person's reason or an alert's
// annotation, as the text that it is: no terminal, no table and no page obeys it.
package printable

import (
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Line is text on one line. What breaks lines, and any other space, is a blank; what
// cannot be seen, such as a terminal's escape or a mark that turns the direction of
// what follows, is spelled as in a Go string.
func Line(text string) string { return shown(text, "") }

// Lines is Line of a text of several lines.
func Lines(text string) string { return shown(text, "\n") }

// OwnLines is an error of several lines that are all meant to be lines: whoever makes
// it has made sure that no text of others begins one.
type OwnLines struct{ Err error }

func (l OwnLines) Error() string { return l.Err.Error() }
func (l OwnLines) Unwrap() error { return l.Err }

// Error is an error as it is printed: on one line, but for each of those that were
// joined, and for the OwnLines that it ends in.
func Error(err error) string {
	text := err.Error()
	if own, ok := err.(OwnLines); ok {
		return Lines(own.Error())
	}
	if wrapper, ok := err.(interface{ Unwrap() error }); ok && wrapper.Unwrap() != nil {
		if head, last := strings.CutSuffix(text, wrapper.Unwrap().Error()); last {
			return Line(head) + Error(wrapper.Unwrap())
		}
	}
	if wrapper, ok := err.(interface{ Unwrap() []error }); ok && len(wrapper.Unwrap()) > 0 {
		all := wrapper.Unwrap()
		if strings.Join(each(all, error.Error), "\n") == text {
			return strings.Join(each(all, Error), "\n")
		}
		if head, last := strings.CutSuffix(text, all[len(all)-1].Error()); last {
			return Line(head) + Error(all[len(all)-1])
		}
	}
	return Line(text)
}

func each(all []error, text func(error) string) []string {
	out := make([]string, len(all))
	for i, err := range all {
		out[i] = text(err)
	}
	return out
}

func shown(text, keep string) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		switch {
		case unicode.IsPrint(r) || strings.ContainsRune(keep, r):
			b.WriteRune(r)
		case unicode.IsSpace(r):
			b.WriteByte(' ')
		default:
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
	}
	return b.String()
}

// markdownSpecial is what would be more than text in a line, or in a table's cell.
var markdownSpecial = strings.NewReplacer(`\`, `\\`, "|", `\|`, "`", "\\`", "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`,
	"<", "&lt;", ">", "&gt;", "&", "&amp;", "#", `\#`, "~", `\~`)

// Markdown is Line for Markdown: within a line, as a line after a bullet, or as a
// table's cell.
func Markdown(text string) string { return markdownSpecial.Replace(Line(text)) }

// plainWord is what means itself to a shell, and no flag to a command.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_.:/][-A-Za-z0-9_.:/]*$`)

// Word is text as one word of a command that is printed to be typed into a shell,
// quoted where it has to be: what guardian has written has not, but whoever can edit
// a record can write there as well.
func Word(text string) string {
	if plainWord.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(Line(text), "'", `'\''`) + "'"
}
