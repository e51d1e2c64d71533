package records

import "github.com/canary-guardian/guardian/remediate/decision"

// Names on records.
const (
	LabelLocked     = decision.Prefix + "locked" // "true" on a record whose guard is locked
	LabelGuard      = decision.Prefix + "guard"  // the guard's name, on its record
	AnnotationOwner = decision.Prefix + "owner"  // guardian's user, on its records
	// NamePrefix begins the names of records and of the replicas' Leases.
	NamePrefix = "guardian-"
)

// Name is the name of the ConfigMap that holds a guard's record.
func Name(guard string) string { return NamePrefix + guard }
