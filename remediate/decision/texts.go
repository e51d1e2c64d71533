package decision

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Stamp is a time as records, annotations and texts have it: RFC 3339, UTC, whole seconds.
func Stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// maxShort is the most of a text in a record or on a VirtualService, in bytes.
const maxShort = 512

// Shorten cuts a text to what a record or an annotation has room for.
func Shorten(s string) string { return shortenTo(s, maxShort) }

// shortenTo cuts a text to at most n bytes and a mark; a negative n counts as 0.
func shortenTo(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:max(n, 0)], "") + "…"
}

// SameWords says that two texts differ in counts at most. What belongs to a name is
// none, nor is what may be the status code of a refusal.
func SameWords(a, b string) bool {
	words := func(s string) []string {
		return slices.DeleteFunc(strings.Fields(s), func(w string) bool {
			w = strings.Trim(w, "(),.:;%")
			n, err := strconv.ParseUint(w, 10, 64)
			return err == nil && (len(w) != 3 || n < 400 || n > 599)
		})
	}
	return slices.Equal(words(a), words(b))
}

// oneLine makes a text valid in an annotation's value: what breaks lines becomes
// a space.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r != ' ' && (unicode.IsControl(r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r)) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// Signals are the values of the label signal of guardian_rollbacks_total;
// anything else counts as "other".
var Signals = [...]string{"error_rate", "latency", "restarts", "traffic", "comparison", "person", "refused_build", "other"}

const maxNamed = 3 // pods named in a reason

func few(names []string) string {
	if n := len(names) - maxNamed; n > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNamed], ", "), n)
	}
	return strings.Join(names, ", ")
}
