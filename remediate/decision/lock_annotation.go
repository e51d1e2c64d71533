package decision

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
)

// MaxGuardName is the longest name of a guard: the part of an annotation's key
// after the slash has at most 63 characters.
const MaxGuardName = 63 - len("lock.")

// maxLockMessage is the most of a lock's message in bytes. An API server that is
// to show several of them, more than 5 KiB in all, shows the policy's source
// instead.
const maxLockMessage = 500

// LockKey is the key of the annotation that has a guard's lock.
func LockKey(guard string) string { return AnnotationLock + guard }

// LockAnnotation is the value of a lock's annotation: eight fields in this
// order, one space between them, the last of which is free text,
//
//	by=system:serviceaccount:NS:NAME canary=H/S,H/S,H stable=H/S,H/ m=1 r=1 build=B since=TIME MESSAGE
//
// A destination is written host/subset; host/ is a host of its own, whatever the
// subset; host alone is the host without a subset.
type LockAnnotation struct {
	By          string    // user of guardian, as the API server knows it: a ServiceAccount
	Canary      []string  // what may get no more traffic than it has
	Stable      []string  // first the destination that canary-only routes are re-pointed to
	MatchRoutes bool      // routes that testers alone take are locked too
	Mirrors     bool      // mirrors are locked too
	Build       string    // that was rolled back; empty: unknown
	Since       time.Time // by guardian's clock
	Message     string    // one line, for whoever is refused
}

// LockSyntax is what the admission policies ask of a value as well.
const LockSyntax = `^by=system:serviceaccount:[^ :]+:[^ :]+ canary=[^ ]+ stable=[^ ]+ m=[01] r=[01] build=[^ ]* since=[^ ]+ .*$`

var lockValue = regexp.MustCompile(LockSyntax)

// Encode writes the value. The error names the field that cannot be written.
func (l LockAnnotation) Encode() (string, error) {
	flag := map[bool]string{true: "1", false: "0"}
	value := fmt.Sprintf("by=%s canary=%s stable=%s m=%s r=%s build=%s since=%s %s", l.By, strings.Join(l.Canary, ","), strings.Join(l.Stable, ","),
		flag[l.MatchRoutes], flag[l.Mirrors], l.Build, l.Since.UTC().Format(time.RFC3339Nano), l.Message)
	switch {
	case !IsServiceAccount(l.By):
		return "", fmt.Errorf("lock annotation: by %q: want a ServiceAccount, system:serviceaccount:NAMESPACE:NAME", l.By)
	case len(l.Canary) == 0 || slices.ContainsFunc(l.Canary, notAWord):
		return "", fmt.Errorf("lock annotation: canary %q: want destinations without spaces or commas", l.Canary)
	case len(l.Stable) == 0 || slices.ContainsFunc(l.Stable, notAWord) || !strings.Contains(l.Stable[0], "/"):
		return "", fmt.Errorf("lock annotation: stable %q: want destinations without spaces or commas, and a slash in the first", l.Stable)
	case strings.ContainsFunc(l.Build, breaks):
		return "", fmt.Errorf("lock annotation: build %q: want no spaces", l.Build)
	case l.Since.Year() < 1 || l.Since.Year() > 9999:
		return "", fmt.Errorf("lock annotation: since %s: want a year of four digits", l.Since)
	case l.Message == "" || l.Message != oneLine(l.Message):
		return "", fmt.Errorf("lock annotation: message %q: want one line of text", l.Message)
	}
	return value, nil
}

// ParseLockAnnotation reads a value. The error says what is wrong with it.
func ParseLockAnnotation(value string) (LockAnnotation, error) {
	if !lockValue.MatchString(value) {
		return LockAnnotation{}, errors.New("lock annotation: want by=… canary=… stable=… m=… r=… build=… since=… and a message, one space between them")
	}
	fields := strings.SplitN(value, " ", 8)
	l := LockAnnotation{
		By: fields[0][len("by="):], Canary: strings.Split(fields[1][len("canary="):], ","), Stable: strings.Split(fields[2][len("stable="):], ","),
		MatchRoutes: fields[3] == "m=1", Mirrors: fields[4] == "r=1", Build: fields[5][len("build="):], Message: fields[7],
	}
	var err error
	if l.Since, err = time.Parse(time.RFC3339Nano, fields[6][len("since="):]); err != nil {
		return LockAnnotation{}, fmt.Errorf("lock annotation: %s: want a time such as 2026-11-29T08:30:00Z", fields[6])
	}
	l.Since = l.Since.UTC()
	if _, err := l.Encode(); err != nil {
		return LockAnnotation{}, err
	}
	return l, nil
}

// IsServiceAccount says whether a user is one.
func IsServiceAccount(user string) bool {
	parts := strings.Split(user, ":")
	return len(parts) == 4 && parts[0] == "system" && parts[1] == "serviceaccount" && parts[2] != "" && parts[3] != "" && !strings.ContainsFunc(user, breaks)
}

// breaks says of a character that it would end a field, or the value.
func breaks(r rune) bool {
	return unicode.IsSpace(r) || unicode.IsControl(r) || r == unicode.ReplacementChar
}

func notAWord(s string) bool {
	return s == "" || strings.Contains(s, ",") || strings.ContainsFunc(s, breaks)
}

// LockAnnotationOf is what the VirtualServices of a locked guard have to say. ok
// is false where nothing can be: guardian's user is not known or no
// ServiceAccount, or the destinations are not known.
func LockAnnotationOf(r Record, user string) (value string, ok bool) {
	if r.Lock == nil || user == "" || len(r.Deny) == 0 || len(r.Stable) == 0 {
		return "", false
	}
	value, err := LockAnnotation{By: user, Canary: r.Deny, Stable: r.Stable, MatchRoutes: r.DenyMatchRoutes, Mirrors: r.DenyMirrors,
		Build: r.Lock.Build, Since: r.Lock.Since, Message: oneLine(r.Message)}.Encode()
	return value, err == nil
}

// NewestMark is the newest lock of this guard, set by user, that the annotations of
// its VirtualServices tell of.
func NewestMark(newest *LockAnnotation, value, user string) *LockAnnotation {
	l, err := ParseLockAnnotation(value)
	if err != nil || l.By != user || newest != nil && !l.Since.After(newest.Since) {
		return newest
	}
	return &l
}

// lockToGoOn begins the last part of a lock's message.
const lockToGoOn = " To go on, "

// lockMind begins what a lock's message says of subsets that cannot be told apart.
const lockMind = " Mind that "

// refusals is a lock's message up to what it says on how to go on: the text before the
// builds that it refuses, and these.
var refusals = regexp.MustCompile(`^(.*)\. Builds? (\S+(?:, \S+)*) (?:is|are) refused\.(?:` + lockMind + `.*)?$`)

// text is the message up to what it says on how to go on.
func (l LockAnnotation) text() string {
	if i := strings.LastIndex(l.Message, lockToGoOn); i >= 0 {
		return l.Message[:i]
	}
	return l.Message
}

// refused are the builds that the lock refuses, as far as it tells: the one that has
// a field, and those that the message lists beside it. In that field a list would be
// one build to a guardian that knows of one, whose replicas would besides write
// theirs over it while the two run side by side.
func (l LockAnnotation) refused() []string {
	if l.Build == "" {
		return nil
	}
	if parts := refusals.FindStringSubmatch(l.text()); parts != nil {
		if all := strings.Split(parts[2], ", "); slices.Contains(all, l.Build) {
			return all
		}
	}
	return []string{l.Build}
}

// reason is why the lock was set, as far as its message tells.
func (l LockAnnotation) reason() string {
	text, _, _ := strings.Cut(l.text(), lockMind)
	if parts := refusals.FindStringSubmatch(l.text()); parts != nil {
		text = parts[1]
	}
	text = strings.TrimSuffix(text, ".")
	_, after, ok := strings.Cut(text, Stamp(l.Since))
	if !ok {
		return text
	}
	separator := ": "
	if !strings.HasPrefix(after, separator) { // it was blocked: (why): reason
		separator = "): "
	}
	if _, why, ok := strings.Cut(after, separator); ok {
		return why
	}
	return text
}
