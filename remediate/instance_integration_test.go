package remediate

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestASecondGuardianDoesNotStartOnTheRealAPIServer(t *testing.T) {
	r := newRig(t)
	app := r.app("orders-service")
	first := r.startWith(func(o *Options) { o.Instance = "blue" }, r.guard(app.Name))
	other := r.newReplica(func(o *Options) { o.Instance = "green" })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := other.Run(ctx)
	if e := (*OtherGuardianError)(nil); !errors.As(err, &e) || e.Other != "blue" || other.Refused() == nil {
		t.Errorf("ended with %v (readiness: %v), want that blue has the namespace", err, other.Refused())
	}
	r.startWith(func(o *Options) { o.Instance = "blue" }, r.guard(app.Name)) // a replica
	r.must(first.Refused())
}
