package decision

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// lockMind begins what a lock's message says of subsets that cannot be told apart.
const lockMind = " Mind that "

// lockMessage is what a CI reads whose change is refused. Its last part says how
// to go on.
func lockMessage(in Input, l Lock, what string) string {
	g, canary := in.Guard, in.Guard.Canary
	next := in.Next != nil && in.Leads
	if next {
		canary = in.Next.Canary
	}
	toGoOn := fmt.Sprintf("%sdeploy a new build of %s and wait until it is rolled out (kubectl rollout status, or: guardian gate %s -n %s --wait-unlocked) before shifting traffic; or",
		lockToGoOn, canary, g.Name, g.Namespace)
	if l.Kind == LockManual || next && !in.nextLifts(l) {
		toGoOn = lockToGoOn + "lift the lock by hand"
	} else if c := in.Canary; !next && c.Build == "" && len(c.Untold) > 0 {
		toGoOn = lockToGoOn + c.untold() + ", so no new build can be seen: lift the lock by hand"
	}
	toGoOn += fmt.Sprintf(": guardian unlock %s -n %s --reason '…'", g.Name, g.Namespace)
	build := "." + l.refusal()
	if in.Stable.Overlap != "" {
		build += lockMind + in.Stable.Overlap + "."
	}
	room := maxLockMessage - len(what+": "+build+toGoOn)
	return what + ": " + shortenTo(oneLine(l.Reason), max(room, maxLockMessage/8)) + build + toGoOn
}

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

// Repeated is the reason of an entry of the history, with how often it came in a row.
func Repeated(e HistoryEntry) string {
	times, last := e.Count()
	if times == 1 {
		return e.Reason
	}
	return fmt.Sprintf("%s (%d times, last at %s)", e.Reason, times, Stamp(last))
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
