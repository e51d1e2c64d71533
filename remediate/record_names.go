package remediate

import "github.com/canary-guardian/guardian/remediate/decision"

// Names that guardian writes into a cluster, besides those on VirtualServices.
const (
	LabelLocked     = decision.Prefix + "locked"    // "true" on a record whose guard is locked
	LabelGuard      = decision.Prefix + "guard"     // the guard's name, on its record
	AnnotationOwner = decision.Prefix + "owner"     // guardian's user, on its records
	LabelAdmission  = decision.Prefix + "admission" // "rewrite" or "off", on a Namespace: how the admission policies treat it
	AnnotationHolds = decision.Prefix + "holds"     // users, separated by commas, on a Namespace: whose writes are held instead of refused

	// FieldManager marks rollbacks and FieldManagerPromotion steps forward, so
	// that Argo CD can ignore spec.http while a rollback owns it.
	FieldManager          = "guardian"
	FieldManagerPromotion = "guardian-promotion"

	recordPrefix = "guardian-"
)

// RecordName is the name of the ConfigMap that holds a guard's record.
func RecordName(guard string) string { return recordPrefix + guard }
