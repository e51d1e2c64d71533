package remediate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// retryLeaving is how often a VirtualService is tried again that could not be
// given back.
const retryLeaving = time.Minute

// leave gives back the VirtualServices that were read for it, and brings the
// record that is to be written up to date. What cannot be given back stays on the
// record, with the reason.
func (r *reconciler) leave(ctx context.Context, s snapshot, d *decision.Decision, want *decision.Record) error {
	var left []decision.Leaving
	var again error
	failed := false
	tell := func(event decision.Event, text string) {
		e := decision.HistoryEntry{At: r.now().UTC(), State: want.Status.State, Event: event, From: want.Status.Weight, To: want.Status.Weight, Build: want.Status.Build, Reason: decision.Shorten(text)}
		want.History = append(slices.Clone(want.History), e)
		d.Then = append(slices.Clone(d.Then), e)
	}
	for _, l := range want.Status.Leaving {
		vs, read := s.leaving[l.VirtualService]
		name := fmt.Sprintf("VirtualService %s/%s", s.input.Guard.Namespace, l.VirtualService)
		var did []string
		var err error
		switch i := slices.IndexFunc(s.input.Unread, func(u decision.Leaving) bool { return u.VirtualService == l.VirtualService }); {
		case i >= 0:
			err = errors.New(s.input.Unread[i].Why)
		case !read: // it has come since
			left = append(left, l)
			continue
		case vs != nil:
			did, err = r.giveUp(ctx, s, vs, *want)
		}
		switch {
		case errors.Is(err, errConflict):
			again = err
			left = append(left, l)
			continue
		case err != nil:
			why := decision.Shorten(err.Error())
			if l.Why == "" {
				tell(decision.EventLeaving, name+" is not in the configuration any more and cannot be given back: "+why)
			}
			left, failed = append(left, decision.Leaving{VirtualService: l.VirtualService, Why: why}), true
			continue
		case len(did) > 0:
			tell(decision.EventLeft, name+" is not in the configuration any more: "+strings.Join(did, ", "))
		}
		want.Changed = slices.DeleteFunc(slices.Clone(want.Changed), func(c virtualservice.Change) bool { return c.VirtualService == l.VirtualService })
	}
	want.Status.Leaving = left
	if failed {
		r.later.note(s.input.Guard.Name, r.now().Add(retryLeaving))
	}
	return again
}

// giveUp takes everything of a guard's off a VirtualService, and says what.
func (r *reconciler) giveUp(ctx context.Context, s snapshot, vs *unstructured.Unstructured, want decision.Record) (did []string, err error) {
	name, guard := vs.GetName(), s.input.Guard.Name
	if s.unheld != nil {
		return nil, s.unheld
	}
	var ops []virtualservice.Op
	if slices.ContainsFunc(want.Changed, func(c virtualservice.Change) bool { return c.VirtualService == name }) {
		w, _, err := virtualservice.Edit(vs.Object, s.pair, virtualservice.KeepWeights, s.options(want, name), want.Changed)
		if err != nil {
			return nil, err
		}
		if ops = w.Ops; len(ops) > 0 {
			did = append(did, "what the rollback had led elsewhere is as it was")
		}
		if len(w.Changes) > 0 {
			did = append(did, "routes of everybody that the rollback has led to stable stay there")
		}
	}
	if lock := lockOps(vs, guard, want, r.self(), nil); len(lock) > 0 {
		ops, did = append(slices.Clone(ops), lock...), append(did, "the lock is off")
	}
	if !s.held[name] {
		if marks := unmark(vs); len(marks) > 0 {
			ops, did = append(slices.Clone(ops), marks...), append(did, "guardian's marks are gone")
		}
	}
	if len(ops) > 0 {
		if _, err := r.store.patchVirtualService(ctx, vs, ops, FieldManagerPromotion); err != nil {
			return nil, err
		}
	}
	if owned(vs) && !s.held[name] {
		return did, r.store.release(ctx, name)
	}
	return did, nil
}

// unmark takes guardian's marks off a VirtualService.
func unmark(vs *unstructured.Unstructured) []virtualservice.Op {
	var ops []virtualservice.Op
	have := vs.GetAnnotations()
	for _, k := range markKeys {
		if _, ok := have[k]; ok {
			ops = append(ops, virtualservice.Op{Op: "remove", Path: annotationAt(k)})
		}
	}
	return ops
}
