package decision

// Wait is what a step of promotion waits for: a closed set, for metrics.
type Wait string

// What a step can wait for, in the order in which it is looked at.
const (
	WaitLock           Wait = "lock"            // the guard is locked, or blocked
	WaitDisarm         Wait = "disarm"          // a person took the brake off, for a time
	WaitPause          Wait = "pause"           // a person, or an annotation, forbids steps
	WaitPerson         Wait = "person"          // mode manual: guardian promote
	WaitFirstSight     Wait = "first_sight"     // guardian has never seen this guard before
	WaitVirtualService Wait = "virtual_service" // no route that can be rewritten
	WaitBuild          Wait = "build"           // a new build, or somebody to begin
	WaitAlert          Wait = "alert"           // an alert fires, hold or rollback
	WaitStable         Wait = "stable"          // ready endpoints of stable
	WaitRollout        Wait = "rollout"         // ready pods of the canary's build, and of no other
	WaitInterval       Wait = "interval"        // the interval and the bake time
	WaitWindow         Wait = "window"          // the calendar
	WaitLease          Wait = "lease"           // the replica that may go forward
	WaitHeartbeat      Wait = "heartbeat"       // proof that alerts reach guardian
	WaitAnswers        Wait = "answers"         // Prometheus, or whoever knows what fires
	WaitRules          Wait = "rules"           // proof that the guard's own rules watch
	WaitRequests       Wait = "requests"        // enough requests of the canary
	WaitGate           Wait = "gate"            // a gate is closed
)

// Waits lists all that a step can wait for, for metrics.
var Waits = []Wait{WaitLock, WaitDisarm, WaitPause, WaitPerson, WaitFirstSight, WaitVirtualService, WaitBuild, WaitAlert, WaitStable,
	WaitRollout, WaitInterval, WaitWindow, WaitLease, WaitHeartbeat, WaitAnswers, WaitRules, WaitRequests, WaitGate}
