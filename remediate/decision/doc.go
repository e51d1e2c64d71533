// Package decision says what a guard's traffic should be: Decide makes a Decision of
// an Input, which is everything that was read. It never reads or writes anything
// itself: it has no client, no clock, no logger and no type of Kubernetes.
//
// # States
//
// What is not in the table changes nothing. "→" is the next state, "noted" an
// entry in the history, once for each firing of an alert (of those that fire at
// once, for the first 64). A new build is watched anew: intervals and requests
// count from the end of its rollout.
//
//	state        canary gets      rollback alert   others shift traffic           new build is ready          by itself
//	idle         nothing          noted            → shifting, promoted; rolled   first step (mode auto)
//	                                               back if an alert still fires
//	shifting     some             → rolled-back    → idle, promoted               watched from now on         next step (mode auto)
//	held         some             → rolled-back    held at the new weight         watched from now on         → shifting when nothing holds;
//	                                                                                                          → rolled-back when an old alert's grace is over
//	promoted     all              → rolled-back    → idle, shifting               → unverified                → completed after rollback.window
//	unverified   all              → rolled-back    → idle, shifting               → unverified, anew          → completed after rollback.window
//	completed        all              noted            → idle, shifting               → unverified
//	rolled-back  nothing; locked  stays            put back to 0                  → idle, unlocked (build)
//	blocked      some; locked     stays            stays                          unlocked (build)            → rolled-back as soon as it is safe;
//	                                                                                                          → completed, unlocked, after the window
//	paused       as it is         as idle or       recorded                       as idle or shifting         no step; → any, when resumed
//	                              shifting
//	disarmed     as it is         noted            recorded                       recorded                    → any, when it ends
//
//	a person asks   does                                   refused when
//	rollback        as an alert would, completed or not;   locked already
//	                ends a disarm
//	unlock          → unlocked; allows what it refuses     nothing is locked
//	pause           no step forward; the brake is on       never
//	resume          → whatever the table says              the pause is by annotation
//	promote         one step, whatever the mode;           locked, paused, disarmed, an alert fires, the first sight of a
//	                waits for no interval and requests     guard, or any other condition of a step is not met
//	disarm          → disarmed, until an end               it has no end, or one further away than disarm.max
//	arm             → whatever the table says              never
//
// A pause takes no step forward and gives nothing back; it shows as paused where
// the guard would be idle or shifting, and all else goes on. A disarmed guard is
// only watched: nothing moves, whatever fires, a lock stands as it stood, and so
// does what the policy refuses. It ends by itself: by the first clock of a
// replica that says so, and never later than the time that was asked for,
// counted from when guardian took the request.
//
// Where a rollback is wanted and stable is not safe (its subset is missing, it
// has fewer ready endpoints than rollback.minReadyStable, or a VirtualService
// cannot be rewritten), the state is blocked instead of rolled-back: the lock
// is written, nothing moves, and the reason is told. It is done as soon as it is
// safe. If the canary has all traffic and the rollback window ends before that,
// and the alert fires no more, the lease holder allows the build and lifts
// the lock: by then the canary has become what stable was. That is for locks of
// kind build which an alert or a refused build has set; what a person asked for,
// and a lock by hand, stay until a person unlocks.
//
// The schedule is done with a build that is completed: where its traffic is taken back
// later, the next step waits for a new build, or for others to begin again.
//
// A hold alert stops steps in every state, and shows as held in shifting. Where
// several things are true at once, the first of these counts: disarmed; locked; a
// person's rollback; a refused build; no traffic; completed; a rollback alert; a
// hold; a step. So a rollback wins over a step in the same instant.
//
// With rollback.lock none there is no rolled-back state: the canary is put to 0
// and the guard is idle, and again whenever it has traffic while the alert
// fires. Blocked then lasts only as long as the alert does.
//
// The rollback window of a build that comes while the canary has all traffic begins
// when its rollout is complete, and is never over before.
//
// The first sight of a guard records its build and weights and moves nothing
// forward; a canary that has all traffic counts as promoted from then on, for a
// record may have been lost. An alert rolls back at first sight too.
//
// A configuration that has another stable or canary than the record tells of is a
// first sight too, by the lease holder: the build of a side that has become the
// canary is no new one. Another replica that has another pair only hears: it lists the
// alert, which holds, and the lease holder rolls back when it lists what fires, within a
// minute, or is told itself.
//
// A lock is of the pair that it was set for (Lock.Stable, Lock.Canary), and while it
// stands that pair is what every replica reads, whatever its configuration has
// (Record.GuardOf): the builds that lift it, the weights that confirm its rollback and
// those that are put back are of the canary that was rolled back. The canary of the
// configuration (Input.Next) is not guarded meanwhile: none of its traffic is moved, and
// the policy alone keeps it from getting more. The lease holder ends that when the
// canary of the lock has no traffic: it lifts a lock of kind build where all ready pods
// of the next canary are of builds that are not refused, and were made after the lock;
// where one is of a refused build the lock goes over to that canary. A lock that is taken
// up from a VirtualService is of the canary that its annotation names.
// While a lock stands and stable is what it is of, the two have been exchanged too
// early: the guard is blocked, nothing is moved, and the lock goes on speaking of what
// it did; a person's unlock is recorded alone, and the next look is a first sight. Where
// stable alone is another, the one that counts is that of the lease holder's configuration.
//
// Which routes of a VirtualService are the split, and what a rollback re-points, is
// told by package virtualservice.
//
// # Observing
//
// A guard of ModeObserve is decided about as any other, and no VirtualService is
// written: not its weights, not its annotations, not for an unlock. A rollback is
// told instead (EventWould), once for as long as its lock would stand
// (Status.Observing.Would). The lease holder alone brings the record from one mode to the
// other; a replica moves traffic only where its configuration and the record both
// enforce, and one whose configuration observes while the record enforces only
// hears. After the switch to enforce (Status.EnforcedAt) an alert that began
// before it holds, and never rolls back a build that ran then.
// TestPropertyAGuardThatObservesWritesNoVirtualService and
// TestPropertyASwitchOfTheModeNeverActsOnThePast check it.
//
// # What a lock refuses
//
// A rollback refuses the builds that had ready pods while the alert's requests
// were made: those that are ready now, and those that had pods and traffic within
// Guard.AlertWindow before the alert began (Status.Served), so that a build whose
// pods crash is refused in the instant between two of its lives as well. A build
// that has stood its rollback window out (Status.Proven) is not refused beside
// another, and a template that has had no ready pod never is. A person's rollback
// refuses what serves, proven or not. The lock lists them (Lock.Refused), its
// message names them, and a person's unlock, or allowing as above, takes exactly
// those off the record's list.
//
// A lock of kind build is lifted when every ready pod of the canary, and at least
// one, belongs to a present build that is not refused and came after the lock: its
// pods were made since, or its template was on its way then and had no ready pod
// yet. What served when the lock was set and shows only afterwards, since the
// caches lagged, is refused with the rest; so is a refused build that comes while
// the lock stands. One that comes back later, as by kubectl rollout undo, is
// locked again from its first ready pod on, alone. A lock that was set while no
// build was known takes what served then for its own.
//
// A lock of another record that denies this guard's canary is this guard's too,
// whoever's name the record bears: of a guard that has been renamed, or of one
// whose subset leads to the same pods. While any stands, no step is taken. One of
// before this guard's own last lock was lifted is of the past, and stops steps
// alone.
//
// The lock knows names: what the policy denies is the canary's host and subset in
// every spelling, and every other subset of the guard's DestinationRule that leads
// to its pods. Another Service that selects them, another DestinationRule for the
// same host and one that is edited afterwards are not denied and not put back:
// check names what leads there, and the network is the place to close it.
//
// # Attribution
//
// An alert counts against the present build when it began no earlier than that
// build appeared (when the cluster made its template, as far as that is known)
// and no earlier than a person last lifted a lock. It began no later than it was
// first heard, for Prometheus's clock may be ahead. One that began before is held
// against nobody for Guard.AlertWindow: it stops steps; when it still fires
// after that, it counts. An alert that another replica alone has heard stops
// steps as well; the replica that heard it rolls back.
//
// # Coming to rest
//
// Every write of a record has every replica look again. What replicas see or
// say differently (ready endpoints, numbers in a summary, words that come from
// a configuration which has reached one of them alone) is therefore no reason to
// write at once: words are the lease holder's to choose while nothing else
// changes, and words and numbers alone are written at most every ten seconds.
//
// # Files
//
// From top to bottom: a file refers to files below it alone, which a test holds.
//
//	decide.go                         the four stages of a decision
//	observe.go, choose.go, tell.go    a stage each; attribute is in alerts.go
//	promote.go, rollback.go, …        what the stages are made of, a subject each
//	answers.go, builds.go, …          in the plural: what a decision does with such values
//	decider.go                        a decision while it is made: what one stage leaves to the next
//	input.go, decision.go             what is read, and what comes of it
//	record.go, status.go, lock.go, …  values, in the singular: they know of no stage
package decision
