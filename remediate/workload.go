package remediate

import (
	"maps"
	"slices"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
)

// revisionsOf are what pods were made from, each once.
func revisionsOf(pods []*slimPod) map[revisionRef]bool {
	out := map[revisionRef]bool{}
	for _, p := range pods {
		if ref := p.revision(); ref.name != "" {
			out[ref] = true
		}
	}
	return out
}

// canaryWorkload reads builds off the pods behind one destination and what they
// were made from. The present template of a Deployment is its own; that of any
// other owner, an Argo Rollout or a StatefulSet, is its newest revision.
func canaryWorkload(deployments []*slimDeployment, pods []*slimPod, revisions []*slimRevision) decision.Workload {
	r := counting{by: map[revisionRef]*slimRevision{}, newest: map[string]*slimRevision{}, present: map[string]bool{}}
	r.index(revisions)
	r.w.Complete = true
	for _, d := range deployments {
		r.present[d.build] = true
		r.w.Complete = r.w.Complete && d.rolledOut()
		r.w.First = earlierOf(r.w.First, d.made)
	}
	r.others(pods)
	r.w.Complete = r.w.Complete && len(r.present) > 0
	r.w.Builds = slices.Sorted(maps.Keys(r.present))
	r.w.Build = decision.CombineBuilds(r.w.Builds)
	r.count(pods)
	r.date(pods)
	return r.w
}

// counting is a Workload while it is made.
type counting struct {
	w       decision.Workload
	by      map[revisionRef]*slimRevision
	newest  map[string]*slimRevision // by owner
	present map[string]bool          // builds of the present templates
}

func (r *counting) index(revisions []*slimRevision) {
	for _, rev := range revisions {
		r.by[rev.ref()] = rev
		if have := r.newest[rev.owner]; have == nil || rev.newer(have) {
			r.newest[rev.owner] = rev
		}
	}
}

// others finds the present templates of owners that are no Deployments, by their
// pods: those of one whose rollout is complete are all ready and of its newest
// revision.
func (r *counting) others(pods []*slimPod) {
	for _, p := range pods {
		rev := r.by[p.revision()]
		if p.deleted || rev == nil || rev.ofDeployment() {
			continue
		}
		newest := r.newest[rev.owner]
		r.present[newest.build] = true
		r.w.Complete = r.w.Complete && p.ready && rev.build == newest.build
	}
	for _, rev := range r.by {
		if !rev.ofDeployment() {
			r.w.First = earlierOf(r.w.First, rev.made)
		}
	}
}

// count counts the ready pods by their builds. One that nobody manages is no
// part of a build, whatever its labels say.
func (r *counting) count(pods []*slimPod) {
	running, serving := map[string]bool{}, map[string]bool{}
	for _, p := range pods {
		if !p.ready {
			continue
		}
		if p.unmanaged() {
			r.w.Unowned = append(r.w.Unowned, p.name)
			continue
		}
		r.w.Ready++
		rev := r.by[p.revision()]
		switch {
		case rev == nil:
			r.w.Untold = append(r.w.Untold, p.name+" of "+p.owner.kind+" "+p.owner.name)
			continue
		case r.present[rev.build]:
			r.w.Current++
			running[rev.build] = true
		default:
			serving[rev.build] = true
		}
		if r.w.Ages == nil {
			r.w.Ages = map[string]decision.PodAge{}
		}
		age := r.w.Ages[rev.build]
		r.w.Ages[rev.build] = age.With(decision.PodAge{Made: p.made(), Ready: p.readySince(), Last: p.readySince()})
	}
	r.w.Running, r.w.Serving = slices.Sorted(maps.Keys(running)), slices.Sorted(maps.Keys(serving))
	slices.Sort(r.w.Unowned)
	slices.Sort(r.w.Untold)
}

// date finds when the newest of the present templates was made. One that is
// there twice, as after a restart, was made the first time.
func (r *counting) date(pods []*slimPod) {
	first, seen := map[string]time.Time{}, map[string]string{}
	look := func(rev *slimRevision) {
		if rev == nil {
			return
		}
		if r.present[rev.build] {
			first[rev.build] = earlierOf(first[rev.build], rev.made)
		}
		if rev.lasting {
			seen[rev.name] = rev.build
		}
	}
	for ref := range revisionsOf(pods) {
		rev := r.by[ref]
		look(rev)
		if rev != nil && !rev.ofDeployment() {
			look(r.newest[rev.owner])
		}
	}
	for _, made := range first {
		if made.After(r.w.Since) {
			r.w.Since = made
		}
	}
	for _, name := range slices.Sorted(maps.Keys(seen)) {
		r.w.Revisions = append(r.w.Revisions, decision.Revision{Name: name, Build: seen[name]})
	}
}

// rolledOut is what `kubectl rollout status` waits for.
func (d *slimDeployment) rolledOut() bool {
	want := int32(1)
	if d.replicas >= 0 {
		want = d.replicas
	}
	return d.observed >= d.generation && d.updated >= want && d.have <= d.updated && d.avail >= d.updated
}

// readyEndpoints counts the pods in slices whose endpoint is ready and that
// carry the labels.
func readyEndpoints(slices []*slimSlice, want slimLabels, pod func(string) *slimPod) int {
	seen := map[string]bool{} // dual-stack services list a pod once for each address family
	for _, s := range slices {
		for _, name := range s.ready {
			if p := pod(name); p != nil && !p.deleted && p.labels.include(want) {
				seen[name] = true
			}
		}
	}
	return len(seen)
}

// waitingOf counts, by reason (CrashLoopBackOff, ImagePullBackOff, …), the
// containers that something keeps from starting; nil: none. Every container
// waits for its turn and for what it needs at first, which is no such thing.
func waitingOf(pods []*slimPod) map[string]int64 {
	var out map[string]int64
	for _, p := range pods {
		for _, c := range p.containers {
			if c.waits == "" || c.waits == "ContainerCreating" || c.waits == "PodInitializing" {
				continue
			}
			if out == nil {
				out = map[string]int64{}
			}
			out[c.waits]++
		}
	}
	return out
}

// earlierOf is the earlier of two times; one that is zero is unknown.
func earlierOf(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
