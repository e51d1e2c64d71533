package remediate

import (
	"context"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	identityRetry    = time.Second // doubled up to
	identityRetryMax = time.Minute
)

// identify asks the API server who guardian is, until it answers or ctx ends.
// Nothing waits for the answer: until then Options.User counts, and without it
// locks stand in the records alone.
func (c *Controller) identify(ctx context.Context) {
	wait := identityRetry
	for {
		review, err := c.o.Client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err == nil {
			c.identified(review.Status.UserInfo.Username)
			return
		}
		if ctx.Err() == nil {
			c.o.Logger.Warn("ask the API server which user guardian is", "err", err, "until_then", c.self.get())
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		wait = min(2*wait, identityRetryMax)
	}
}

func (c *Controller) identified(user string) {
	was := c.self.get()
	c.self.set(user)
	if !decision.IsServiceAccount(user) {
		c.o.Logger.Warn("guardian's user is no ServiceAccount: its locks are not written on VirtualServices, and the admission policies know of none", "user", user)
	}
	if user != was {
		c.enqueueAll()
	}
}
