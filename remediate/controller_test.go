package remediate

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A hanging API server does not keep guardian from its end.
func TestWhatIsUnderWayGoesOnForABoundedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		last, cut := finishing(ctx)
		defer cut()
		time.Sleep(time.Hour)
		stop()
		time.Sleep(lastPass - time.Nanosecond)
		if synctest.Wait(); last.Err() != nil {
			t.Error("it ends too soon")
		}
		time.Sleep(time.Nanosecond)
		if synctest.Wait(); last.Err() == nil {
			t.Error("it does not end")
		}
	})
}

// What another guardian has is not written any more.
func TestNothingGoesOnWhereAnotherGuardianHasTheNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancelCause(t.Context())
		last, cut := finishing(ctx)
		defer cut()
		stop(&OtherGuardianError{})
		if synctest.Wait(); last.Err() == nil {
			t.Error("it goes on")
		}
	})
}

// On the push lane an alert that is accepted is promised to be looked at.
func TestNoAlertIsAcceptedByWhoEnds(t *testing.T) {
	c := &Controller{guards: map[string]*entry{"orders": {pending: map[string]submitted{}}}}
	c.close()
	if err := c.Accept(t.Context(), "orders", nil, at); !errors.Is(err, errStopped) {
		t.Errorf("accepted: %v", err)
	}
	if err := c.Submit(t.Context(), "orders", nil, at); !errors.Is(err, errStopped) {
		t.Errorf("submitted: %v", err)
	}
	if err := c.Accept(t.Context(), "payments", nil, at); !errors.Is(err, ErrUnknownGuard) {
		t.Errorf("of a guard that there is not: %v", err)
	}
}
