// Package remediate keeps the traffic of each guard's canary where it should
// be: it rolls back on an alert, keeps it rolled back, and goes forward where
// that is safe. It never says what the API server has not confirmed, and knows
// neither Prometheus nor Alertmanager.
//
// # Flow
//
// Anything that could matter only enqueues a guard: an alert began or ended,
// an object changed, a timer ran out, a resync. One pass over a guard is
//
//	gather → decision.Decide → record → traffic, and by the next look what has come of it
//
// gather reads one Input, from the informers' caches or, where it matters, from
// the API server. Decide says what should be true; it is pure, so a missed
// event is healed by the next and a restart loses nothing. The record (a
// ConfigMap, see Record) is written first, then the VirtualServices; a crash
// between the two is finished by the next pass. Every write is tested against
// the resource version that was read; a conflict means to read and decide
// again, a bounded number of times.
//
// Every replica rolls back, at once and without asking anybody. Going forward,
// lifting a lock, resuming, and giving back what a rollback changed are done by
// the holder of the Lease alone, after live reads.
//
// # What always holds
//
//  1. A rollback alert that counts, accepted while the canary has traffic and
//     is not completed, ends with the canary at 0 as soon as the API server takes
//     the write; while the lock stands, whoever gives the same build traffic
//     again is refused by the admission policy or reverted. Not "resolved", a
//     restart of guardian, an apply or a self-heal lifts it. A disarmed guard, a
//     lock of none and a stable below its floor are the exceptions; the last is
//     locked and follows when it is safe.
//
//  2. The canary's weight is never raised while the guard is locked, paused or
//     disarmed, an alert of it fires (hold included, heard by any replica), the heartbeat
//     is stale, Prometheus does not answer, or this replica has no Lease.
//
//  3. In a VirtualService nothing changes but the weights of the guard's two
//     destinations, by a step those of the split alone, the canary-only routes and mirrors that policy names, what
//     leads to the canary's host without a subset, and guardian's own
//     annotations. Each route keeps its total.
//
//  4. Nothing is sent to a stable that is not in the DestinationRule or has
//     fewer ready endpoints than the floor.
//
//  5. An accepted alert leaves a lock or an entry in the history before it is
//     answered with success; if that cannot be written, the answer is an error
//     and the alert is kept and tried again.
//
//  6. What guardian says has happened (record, history, Event, metric,
//     annotation, answer to a webhook), the API server has confirmed.
//
//  7. Nothing is rolled back without an alert that counts against a build that
//     serves now.
//
// TestPropertyInvariantsHold checks them over random sequences of events on two
// replicas. An API server refuses any write, for a while or for good, takes one and
// loses the answer, or refuses to list. Watches lag or are away; records are edited,
// restored from an older copy, or deleted; other guards have records of the same
// canary; people shift, unlock, pause, disarm and change the mode; pods come of new
// builds, of old ones (an undo), of templates that are no build (a restart, a chart's
// label), or are gone with their nodes; a Deployment, a StatefulSet, a DaemonSet or an
// Argo Rollout makes them; versions are told apart by subset or by host, there is a third
// beside them, or testers alone get the canary; Prometheus's clock is up to five minutes
// off; replicas are killed between two writes. Some sequences begin with a story: a few
// events in an order that chance seldom finds. A ledger of the test's own (who
// served when, what was rolled back, allowed again, or has stood its window out) says what
// each write may be, not the decision's own words. A configuration that gets another
// stable or canary, which replicas read one after the other, is in
// TestPropertyInvariantsHoldWhenThePairIsEdited. Replicas whose clocks differ, and a
// VirtualService that leaves the configuration, have tests of their own.
//
// # Confirmed
//
// A change of weights is told when it is seen. The record that is written before
// it says what is under way (Status.Moving) and the state that was observed; the
// next look finds the new weights and writes state, history, Event and counter.
// The annotations that stand in the patch itself say what is true once it is
// taken. An answer that is lost is looked for before anything is told.
//
// A patch that the API server refuses is tried in parts: without annotations, the
// weights alone, each route by itself. What is left makes the guard blocked, "not
// done: " and the server's message with the routes that could not be written; it
// is tried again within 15 seconds, and whenever something changes. The alert is
// recorded all the same: the lock stands, and the webhook is answered with
// success. A step that is refused waits, with the message.
//
// A record that cannot be written (a quota, a policy that demands labels) keeps
// no traffic on the canary: it is moved after one more look at the API server,
// the annotations of the VirtualService say "rolled back, not recorded" and carry
// the lock, and the webhook is answered with an error until the record is written.
//
// # Lost records
//
// While a guard is locked, an annotation on each of its VirtualServices says so as
// well (LockAnnotation), written in one patch with the weights: it is what the
// admission policies read. The record decides; the annotation is brought into
// line with it in each pass, and removed when the record says that a lock was
// lifted after the annotation's was set. Where guardian's own annotation tells of
// a lock that the record does not know of, the record was lost or an older copy of
// it restored: the lock is taken up again as the annotation has it.
//
// # Builds
//
// The canary's pods are those whose labels satisfy the Service's selector and the
// subset's labels. A build is a hash of the pod template that they were made from:
// the ReplicaSet of a Deployment or an Argo Rollout, or the ControllerRevision of
// a StatefulSet, a DaemonSet and whatever else writes the label
// controller-revision-hash. The present template is the Deployment's, or the
// newest revision of any other owner. What runs is hashed, which is the pod's
// spec, and of labels and annotations only what BuildParts names: a restart, a
// chart's version or a commit written there is no new build. A hash begins with
// its scheme. A revision that the record knows by name is the build that it was,
// however it is hashed today (Workload.as), so that no upgrade and no setting
// makes a refused build a new one.
//
// A ready pod that nothing manages, run by hand or by a Job, belongs to no build
// and is counted nowhere. A ready pod of an owner that does not tell (Untold) is
// of an unknown build: nothing goes forward and no lock is lifted beside it, and
// the reason names it. No workload at all is an unknown build, which is never new.
// Where the labels of the two sides overlap, a pod belongs to the side that asks
// for more, else to the canary, and Endpoints.Overlap says so. Of several
// DestinationRules of one host in the namespace guardian goes by what the clients of
// the namespace take: rules of one exportTo are merged, each subset being that of the
// oldest that has it, and of several exportTo a client takes the last that it sees.
// Outside.Overruled says where that is not the guard's own rule, or not the same for all
// clients, and stable is as ready as it is for those that have the fewest. Rules of
// other namespaces are not seen, and the mesh's default of exportTo is taken for "*".
//
// Of several workloads each has a build of its own besides, which is refused and
// looked at like the only one of another canary.
//
// # Giving back
//
// Routes and mirrors that a rollback re-pointed, the field ownership that it took
// and the marks that it left are given up after the lock, and not while an alert
// of the present build fires. Several guards may share a VirtualService: each gives
// back what its own record says, and marks and ownership go with the last lock
// that names the VirtualService.
//
// A VirtualService that is taken from the guard's list while it is locked stays
// guarded until the lock is lifted: it is in the lock's list (Record.VirtualServices),
// and whoever gives the canary traffic there is reverted or refused as before. Then,
// and whenever else one has left the list, the lease holder gives it back as above
// and takes its lock, marks and ownership off (Status.Leaving): the list of
// the configuration, that of the lock and the remembered changes count together.
// Its split stays where it is, routes of everybody that were led to stable stay
// there, and no step touches it. What does not exist any more is forgotten. What
// guardian may not write any more is told, kept on the record and tried again each
// minute; the guard's other VirtualServices do not wait for it.
//
// # What cannot be read
//
// A resource that the API server does not let guardian list (a right or a
// CustomResourceDefinition is missing) keeps no guard from its brake. Its objects
// are read one by one instead; the replica is not ready and says what it lacks.
// Where reading is refused as well, it depends: without pods, EndpointSlices, the
// Service or the DestinationRule stable's floor cannot be told, so a rollback
// is locked and blocked, with the reason, until it can; without Deployments,
// ReplicaSets or ControllerRevisions the build is unknown, which rolls back and
// unlocks nothing; without the VirtualService or the record the pass fails, an
// alert is answered with an error, kept and tried again.
//
// The same holds of a resource whose watch has been away for longer than
// Options.WatchGrace, or silent for watchSilence: its cache is not believed until
// a watch is open again. Where none is, the API server cannot be reached, and
// the caches are as good as anything: what follows from them cannot be written.
//
// # What is watched
//
// Records, VirtualServices and pods are watched all the time: by one of them begins
// whatever matters to a guard. DestinationRules, Services, EndpointSlices and what
// pods are made from are watched from then on, and until nothing has gone on with
// any guard for Options.IdleAfter: each is idle or completed, with nothing firing,
// asked for, locked, owed or missing. Meanwhile their caches are brought up to date
// now and then, and believed for such a guard alone. A pass that finds anything else
// by them has all watched again, and is made anew; what is not filled by then is
// read from the API server.
//
// Istio's objects are read and written in the version of networking.istio.io
// that the API server serves, v1 before v1beta1 before v1alpha3.
//
// # Records without a guard
//
// A record outlives its guard, and its lock stands: a name that was mistyped in
// a configuration must not bring a refused build back. The lease holder marks
// such a record (Status.Orphaned), so that nobody takes what it says for the
// present; whoever has the guard in its configuration takes the mark away again.
// A person can take the lock off the VirtualServices without guardian:
// TakeOffLock. Where a configured
// guard has made the lock its own, the lease holder lifts the orphan's.
//
// # The race that remains
//
// Kubernetes has no write over two objects. The lease holder reads the record
// and the VirtualService, sees no lock, and writes a step; another replica may
// write the lock after that read. If the step lands between that replica's lock
// and its VirtualService, the canary has the step's weight for the moment until
// the second write: that one was tested against the VirtualService before the
// step, so it conflicts, reads again and puts the canary to 0. The brake wins.
//
// # Files
//
// From top to bottom: a file refers to files below it alone, which a test holds. Methods
// lie where what they use lies below them, and so often not beside their type.
//
//	preview.go, try.go,                for commands: how a guard stands, whether its writes would be
//	admission_policies.go              taken, and the admission policies
//	run.go                             a Controller is made, given its guards, run and ended
//	passes.go                          the workers, and what a Controller makes of a pass
//	reconcile.go, depth.go             one pass: read, decide, apply; what has to be read anew first
//	apply.go, leave.go, refused.go     what a pass writes; where the API server refuses it
//	gather.go, sides.go                what is read of a guard, and of what runs behind its two sides
//	identity.go, orphans.go,           what a Controller does beside its passes; what it asks others
//	queries.go                         than the API server
//	trace.go                           the spans of passes and writes
//	controller.go, entry.go            its type, what it holds of each guard, what it tells of them
//	watched.go, filling.go, demand.go  which caches there are, whether they are filled, and needed
//	informers.go                       which guards an object in a cache matters to
//	leader.go, claim.go, lease.go      who goes forward, whose the namespace is, a replica's own Lease
//	reconciler.go, plan.go             a pass's means; what a decision writes, in order
//	readers.go, live_reader.go,        a guard is read from the caches, the API server, or both;
//	cache_reader.go, writer.go         all that is written of it
//	events.go, metrics.go              what is told besides the record
//	outcome.go, snapshot.go            a pass, and a guard as it was read
//	feed.go, watch_health.go           a cache, and whether its watch is open
//	slim.go, workload.go, …            what is kept of objects, and what is known by them
package remediate
