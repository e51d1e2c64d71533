package decision

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"
)

// Workload is what runs behind the canary's destination.
type Workload struct {
	Build    string    // of its workloads' present pod templates; empty: unknown
	Since    time.Time // when the cluster made the newest of those templates; zero: unknown
	First    time.Time // when the oldest of the workloads was made, as far as known
	Ready    int       // ready pods
	Current  int       // those of them that belong to Build
	Builds   []string  // the build of each of its workloads, sorted: what Build is made of
	Running  []string  // those of them that ready pods belong to
	Serving  []string  // other builds that ready pods belong to
	Complete bool      // every workload has finished its rollout

	Ages      map[string]PodAge // of the ready pods, by build
	Revisions []Revision        // by name: what the pods were made from
	Untold    []string          // ready pods whose build cannot be told, with their owner
	Unowned   []string          // ready pods that nothing manages: they are counted nowhere
}

// readyBuilds are the builds that ready pods belong to.
func (w Workload) readyBuilds() []string { return slices.Concat(w.Running, w.Serving) }

// allPresent says that there are ready pods, and all of them are of the present build.
func (w Workload) allPresent() bool { return w.Ready > 0 && w.Current == w.Ready }

// rolledOut says that the present build has come, in every workload, and no other is left.
func (w Workload) rolledOut() bool { return w.Complete && w.allPresent() }

// untold names ready pods whose build cannot be told; "" if there are none.
func (w Workload) untold() string {
	if len(w.Untold) == 0 {
		return ""
	}
	return "nothing tells the build of pod " + few(w.Untold)
}

// strangers is untold, and those that count nowhere, to follow after a count.
func (w Workload) strangers() string {
	var text string
	if len(w.Untold) > 0 {
		text = "; " + w.untold()
	}
	if len(w.Unowned) > 0 {
		text += "; " + few(w.Unowned) + " is not counted, for nothing manages it"
	}
	return text
}

// buildScheme stands before the hash of each build: what goes into the hash is
// known by it. Whoever changes that gives it another number, and then a build of
// the scheme before is no other build for that reason alone (see Workload.as).
const buildScheme = "b1-"

// BuildOf is the build of workloads whose pod templates, in a form that is the same for
// the same pods, are b: the scheme and six bytes of a SHA-256 in hexadecimal.
func BuildOf(b []byte) string {
	sum := sha256.Sum256(b)
	return buildScheme + hex.EncodeToString(sum[:6])
}

// schemeOf is what a build was hashed by; empty: before there were schemes.
func schemeOf(build string) string {
	scheme, _, found := strings.Cut(build, "-")
	if !found {
		return ""
	}
	return scheme
}

// Revision is a ReplicaSet or ControllerRevision whose name stands for one pod
// template, and the build that it is.
type Revision struct {
	Name  string `json:"name"`
	Build string `json:"build"`
}

// PodAge is how old the ready pods of a build are.
type PodAge struct {
	Made  time.Time // the first of them, by the API server's clock
	Ready time.Time // when the first of them became ready, by the node's
	Last  time.Time // when the last of them did, by the node's
}

// With is the age of both's pods.
func (a PodAge) With(b PodAge) PodAge {
	return PodAge{Made: earlier(a.Made, b.Made), Ready: earlier(a.Ready, b.Ready), Last: later(a.Last, b.Last)}
}

// earlier is the earlier of two times; zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// later is the later of two times; zero is none.
func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// CombineBuilds makes one build of the builds of several workloads.
func CombineBuilds(builds []string) string {
	switch len(builds) {
	case 0:
		return ""
	case 1:
		return builds[0]
	}
	return BuildOf([]byte(strings.Join(builds, " ")))
}

// as is the workload with its builds called what a record calls them. What goes
// into a hash changes with the fields that a Kubernetes knows, with guardian and
// with its configuration; the name of a ReplicaSet or ControllerRevision does
// not. So a revision that the record knows is the build that it was, and so is
// everything else with the same hash. Where the record knows none, a present
// build that was hashed by another scheme is the one that it speaks of.
func (w Workload) as(known []Revision, build string) Workload {
	names := map[string]string{}
	for _, now := range w.Revisions {
		i := slices.IndexFunc(known, func(k Revision) bool { return k.Name == now.Name })
		if i >= 0 && known[i].Build != now.Build {
			names[now.Build] = known[i].Build
		}
	}
	if len(known) == 0 && build != "" && len(w.Builds) == 1 && schemeOf(build) != schemeOf(w.Build) {
		names[w.Build] = build
	}
	if len(names) == 0 {
		return w
	}
	all := func(builds []string) []string {
		out := slices.Clone(builds)
		for i, b := range out {
			out[i] = cmp.Or(names[b], b)
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	w.Builds, w.Running, w.Serving = all(w.Builds), all(w.Running), all(w.Serving)
	w.Build = CombineBuilds(w.Builds)
	ages := w.Ages
	w.Ages = make(map[string]PodAge, len(ages))
	for b, age := range ages {
		name := cmp.Or(names[b], b)
		w.Ages[name] = w.Ages[name].With(age)
	}
	w.Revisions = slices.Clone(w.Revisions)
	for i := range w.Revisions {
		w.Revisions[i].Build = cmp.Or(names[w.Revisions[i].Build], w.Revisions[i].Build)
	}
	return w
}
