package decision

// Prefix begins all names that guardian writes into a cluster.
const Prefix = "canary-guardian.io/"

// DefaultInstance is a guardian's name where nothing tells it.
const DefaultInstance = "guardian"

// Annotations of guardian on VirtualServices.
const (
	AnnotationState  = Prefix + "state"
	AnnotationReason = Prefix + "reason"
	AnnotationSince  = Prefix + "since"
	AnnotationBuild  = Prefix + "build"
	AnnotationPaused = Prefix + "paused" // "true", set by a person on the VirtualService: no step forward
)

// AnnotationLock begins the keys of the annotations, one for each guard, by
// which a VirtualService itself says that its canary is locked. The admission
// policies read nothing else.
const AnnotationLock = Prefix + "lock."
