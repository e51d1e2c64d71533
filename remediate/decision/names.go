package decision

// Prefix begins all names that guardian writes into a cluster.
const Prefix = "canary-guardian.io/"

// DefaultInstance is a guardian's name where nothing tells it.
const DefaultInstance = "guardian"

// Annotations of guardian on VirtualServices.
const (
	AnnotationState  = Prefix + "state"  // the guard's State
	AnnotationReason = Prefix + "reason" // why it is in that state, in words
	AnnotationSince  = Prefix + "since"  // since when, RFC 3339
	AnnotationBuild  = Prefix + "build"  // the canary's build
	AnnotationPaused = Prefix + "paused" // "true", set by a person on the VirtualService: no step forward
)

// AnnotationLock begins the keys of the annotations, one for each guard, by
// which a VirtualService itself says that its canary is locked. The admission
// policies read nothing else.
const AnnotationLock = Prefix + "lock."
