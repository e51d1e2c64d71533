package remediate

import (
	"strings"

	"github.com/canary-guardian/guardian/remediate/decision"
)

// Names that guardian and people write into a cluster, besides those on
// VirtualServices and records.
const (
	LabelAdmission  = decision.Prefix + "admission" // "rewrite" or "off", on a Namespace: how the admission policies treat it
	AnnotationHolds = decision.Prefix + "holds"     // users, separated by commas, on a Namespace: whose writes are held instead of refused

	// FieldManager marks rollbacks and FieldManagerPromotion steps forward, so
	// that Argo CD can ignore spec.http while a rollback owns it.
	FieldManager          = "guardian"
	FieldManagerPromotion = "guardian-promotion"
)

// markKeys are the annotations by which guardian marks a VirtualService, for people.
var markKeys = []string{decision.AnnotationState, decision.AnnotationReason, decision.AnnotationSince, decision.AnnotationBuild}

// annotationPath is where annotations stand, as a JSON pointer.
const annotationPath = "/metadata/annotations"

// annotationAt is where one of them does.
func annotationAt(key string) string {
	return annotationPath + "/" + strings.ReplaceAll(key, "/", "~1")
}
