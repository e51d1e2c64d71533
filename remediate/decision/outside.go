package decision

import (
	"fmt"
	"slices"
	"strings"
)

// maxOutside is how many of each a record lists.
const maxOutside = 8

// tellOutside takes it down. What a replica sees by its caches may lag: it is the
// lease holder's to tell.
func (d *decider) tellOutside() {
	s, o := &d.rec.Status, d.in.Outside
	if !d.in.Leads {
		return
	}
	if o.Known {
		next := d.nextUnguarded()
		for _, text := range news(s.Unguarded, next) {
			d.note(EventUnguarded, "", text+": no rollback takes it away until that lock is lifted")
		}
		for _, text := range news(s.Unguarded, o.Unguarded[:min(len(o.Unguarded), maxOutside-len(next))]) {
			d.note(EventUnguarded, "", text+" leads to the canary as well, and is none of the guard's: a rollback leaves it alone")
		}
		s.Unguarded = firstFew(slices.Concat(next, o.Unguarded))
	}
	if o.RulesKnown {
		s.Overruled = slices.Clone(o.Overruled)
	}
	if o.UserKnown {
		for _, text := range news(s.ForeignLocks, o.Locks) {
			d.note(EventForeignLock, "", text+": this guardian did not write it, and cannot take it off")
		}
		s.ForeignLocks = firstFew(o.Locks)
	}
}

// nextUnguarded tells of the configuration's canary where it has traffic while a lock
// of another canary stands.
func (d *decider) nextUnguarded() []string {
	n := d.in.Next
	if n == nil || d.rec.Lock == nil || n.Traffic.Clean() {
		return nil
	}
	return []string{fmt.Sprintf("the traffic of canary %s, while the lock is of %s (%d%%)", n.Canary, d.in.Guard.Canary, n.Traffic.Weight)}
}

func firstFew(all []string) []string { return slices.Clone(all[:min(len(all), maxOutside)]) }

// news are the texts of what was not listed before. What is in brackets at the
// end changes while the thing stays the same.
func news(before, now []string) []string {
	thing := func(text string) string { name, _, _ := strings.Cut(text, " ("); return name }
	var out []string
	for _, text := range firstFew(now) {
		if !slices.ContainsFunc(before, func(b string) bool { return thing(b) == thing(text) }) {
			out = append(out, text)
		}
	}
	return out
}
