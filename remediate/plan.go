package remediate

import (
	"errors"
	"fmt"
	"slices"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// planned is everything that a decision writes, in the order in which it is written:
// a crash between any two of them is finished by the next reconcile.
type planned struct {
	before   decision.Record // the record while traffic moves
	patches  []change        // of the VirtualServices
	after    decision.Record // the record once they are in
	conclude bool            // after is to be written, unless the record is so already
}

// change is one VirtualService's patch.
type change struct {
	vs      *unstructured.Unstructured
	ops     []virtualservice.Op
	lock    []virtualservice.Op // for the lock's annotation; in the same patch
	changes []virtualservice.Change
	moved   []string // marks of testers' routes that a step sets
}

// plan is what a decision on a snapshot writes. It is a pure function: user is
// guardian's own, as the lock's annotation names it; empty: not known yet.
func plan(s snapshot, d decision.Decision, user string) (planned, error) {
	todo, err := patches(s, d)
	if err != nil {
		return planned{}, err
	}
	p := planned{before: d.Record}
	switch d.Move {
	case decision.MoveStable:
		p.before.Changed = append(changesOf(todo), changesOfOthers(d.Record.Changed, todo)...)
		if d.Reason == decision.ReasonPerson && d.Record.Lock == nil {
			p.before.Request = s.input.Record.Request // until traffic has moved, nothing else tells of it
		}
	case decision.MoveForward:
		for _, c := range todo {
			p.before.Status.Splits = virtualservice.RememberSplits(p.before.Status.Splits, c.moved, s.input.Testers.All)
		}
	}
	p.patches = lockChanges(todo, s, decision.Landed(p.before, d), user)
	p.after, p.conclude = p.before, d.Leave || len(d.Then) > 0
	if d.Move == decision.MoveRestore || d.Move == decision.MoveForward {
		p.after.Changed = append(changesOfOthers(p.before.Changed, todo), changesOf(todo)...)
		p.conclude = true // what a rollback re-pointed is forgotten only after it was given back
	}
	if d.Reason == decision.ReasonPerson {
		p.after.Request, p.conclude = nil, true
	}
	p.after.History = append(slices.Clone(p.before.History), d.Then...)
	return p, nil
}

// lockChanges adds to the patches what the lock's annotations of all the guard's
// VirtualServices need to say what the record says. An annotation of another
// user's is written over only where there is something else to write.
func lockChanges(todo []change, s snapshot, want decision.Record, user string) []change {
	guard := s.input.Guard.Name
	todo = slices.Clone(todo)
	for _, vs := range s.services {
		if s.former[vs.GetName()] && !slices.Contains(want.VirtualServices, vs.GetName()) {
			continue // see leave
		}
		i := slices.IndexFunc(todo, func(c change) bool { return c.vs == vs })
		if i < 0 || len(todo[i].ops) == 0 {
			if foreignLock(vs, guard, user) {
				continue
			}
		}
		if i < 0 {
			if ops := lockOps(vs, guard, want, user, nil); len(ops) > 0 {
				todo = append(todo, change{vs: vs, lock: ops})
			}
			continue
		}
		todo[i].lock = lockOps(vs, guard, want, user, todo[i].ops)
	}
	return todo
}

func manager(d decision.Decision) string {
	if d.Move == decision.MoveStable || d.Move == decision.MoveNone && d.Record.Lock != nil {
		return FieldManager
	}
	return FieldManagerPromotion
}

// changesOf are what patches re-point and restore later.
func changesOf(todo []change) []virtualservice.Change {
	var out []virtualservice.Change
	for _, c := range todo {
		out = append(out, c.changes...)
	}
	return out
}

// changesOfOthers are those that belong to VirtualServices not in todo.
func changesOfOthers(all []virtualservice.Change, todo []change) []virtualservice.Change {
	var out []virtualservice.Change
	for _, c := range all {
		if !slices.ContainsFunc(todo, func(t change) bool { return t.vs.GetName() == c.VirtualService }) {
			out = append(out, c)
		}
	}
	return out
}

// patches are what a decision writes to the VirtualServices, but for the lock's
// annotation.
func patches(s snapshot, d decision.Decision) ([]change, error) {
	weight := 0
	switch d.Move {
	case decision.MoveNone:
		return nil, nil
	case decision.MoveStable:
	case decision.MoveForward:
		weight = d.Weight
	case decision.MoveRestore:
		weight = virtualservice.KeepWeights
	case decision.MoveMark:
		return marks(s, d), nil
	}
	var todo []change
	var passed error
	for _, vs := range s.services {
		if d.Move != decision.MoveStable && s.former[vs.GetName()] {
			continue // it was guarded until the lock was lifted: see leave
		}
		w, _, err := virtualservice.Edit(vs.Object, s.pair, weight, s.options(d.Record, vs.GetName()), d.Record.Changed)
		var unsafe *virtualservice.UnsafeError
		if errors.As(err, &unsafe) && d.Move != decision.MoveStable {
			passed = err // going forward, one VirtualService without a split is passed over
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("rewrite: %w", err)
		}
		ops := w.Ops
		if (len(ops) > 0 || d.Move == decision.MoveRestore) && !s.spoken(vs, d.Move) {
			ops = append(slices.Clone(ops), annotate(vs, d)...)
		}
		todo = append(todo, change{vs: vs, ops: ops, changes: w.Changes, moved: w.Moved})
	}
	if len(todo) == 0 && d.Move == decision.MoveForward {
		return nil, passed
	}
	return todo, nil
}

// spoken says that the marks on a VirtualService tell of another guard's
// rollback, which counts for more than where this one stands.
func (s snapshot) spoken(vs *unstructured.Unstructured, m decision.Move) bool {
	return m != decision.MoveStable && s.held[vs.GetName()]
}

// marks are the patches that bring guardian's annotations up to date.
func marks(s snapshot, d decision.Decision) []change {
	var todo []change
	for _, vs := range s.services {
		if ops := annotate(vs, d); len(ops) > 0 && !s.spoken(vs, d.Move) && !s.former[vs.GetName()] {
			todo = append(todo, change{vs: vs, ops: ops})
		}
	}
	return todo
}

// annotate sets guardian's annotations to what a decision says, for people,
// kubectl and the health check of a GitOps tool.
func annotate(vs *unstructured.Unstructured, d decision.Decision) []virtualservice.Op {
	m := d.Marks
	set := map[string]string{decision.AnnotationState: string(m.State), decision.AnnotationReason: decision.Shorten(m.Reason), decision.AnnotationSince: decision.Stamp(m.Since), decision.AnnotationBuild: m.Build}
	have := vs.GetAnnotations()
	if _, marked := have[decision.AnnotationState]; !marked && (d.Move == decision.MoveRestore || d.Move == decision.MoveMark) {
		return nil
	}
	var ops []virtualservice.Op
	if have == nil {
		ops = append(ops, virtualservice.Op{Op: "add", Path: annotationPath, Value: map[string]string{}})
	}
	for _, k := range markKeys {
		if v, ok := have[k]; set[k] != "" && (!ok || v != set[k]) {
			ops = append(ops, virtualservice.Op{Op: "add", Path: annotationAt(k), Value: set[k]})
		}
	}
	return ops
}
