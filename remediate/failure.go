package remediate

import (
	"errors"
	"regexp"
	"strings"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// tellFailureEvery is how often a failure is logged that goes on as it was: it comes
// again with each pass.
const tellFailureEvery = 10 * time.Minute

// failure is why something that is tried again and again fails. The zero value says
// that it does not.
type failure struct {
	why      string
	answered bool      // why is what the API server has answered
	told     time.Time // when it was logged
}

// shown is why for whoever may see how guards stand: what the network says is for the
// log.
func (f failure) shown() string {
	if f.why != "" && !f.answered {
		return "it could not read or write all that it needs; guardian's log says why"
	}
	return f.why
}

// next is what follows from one more attempt; tell says that it is to be logged: it
// fails for another reason than before, or has for long.
func (f failure) next(err error, now time.Time) (next failure, tell bool) {
	if err == nil {
		return failure{}, false
	}
	next = failure{why: decision.Shorten(strings.ReplaceAll(err.Error(), "\n", "; ")), told: f.told}
	var status apierrors.APIStatus
	next.answered = errors.As(err, &status)
	if tell = f.why == "" || !sameFailure(f.why, next.why) || now.Sub(f.told).Abs() >= tellFailureEvery; tell {
		next.told = now
	}
	return next, tell
}

// sameFailure says that two texts differ in what is another with each attempt at most,
// such as resource versions and ports.
func sameFailure(a, b string) bool {
	return decision.SameWords(longNumbers.ReplaceAllString(a, "0"), longNumbers.ReplaceAllString(b, "0"))
}

var longNumbers = regexp.MustCompile(`[0-9]{4,}`)
