package records

import (
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestTheNewestHeartbeatIsNotOneOfTheFuture(t *testing.T) {
	beat := func(ago time.Duration) coordinationv1.Lease {
		return coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{AnnotationHeartbeat: decision.Stamp(at.Add(-ago))}}}
	}
	for name, c := range map[string]struct {
		own    time.Duration
		leases []coordinationv1.Lease
		want   time.Duration
	}{
		"own":                         {time.Minute, nil, time.Minute},
		"another's, newer":            {time.Hour, []coordinationv1.Lease{beat(2 * time.Minute), beat(time.Minute)}, time.Minute},
		"another's clock is ahead":    {time.Hour, []coordinationv1.Lease{beat(-61 * time.Second), beat(time.Minute)}, time.Minute},
		"by as much as it may be":     {time.Hour, []coordinationv1.Lease{beat(-time.Minute)}, -time.Minute},
		"own clock was set back":      {-time.Hour, []coordinationv1.Lease{beat(2 * time.Minute)}, 2 * time.Minute},
		"a lease that has heard none": {time.Minute, []coordinationv1.Lease{{}}, time.Minute},
	} {
		if got := NewestHeartbeat(c.leases, at.Add(-c.own), at); !got.Equal(at.Add(-c.want)) {
			t.Errorf("%s: %s, want %s", name, got, at.Add(-c.want))
		}
	}
}

func TestTheAgeOfTheHeartbeatIsToldByTheReplicasClocks(t *testing.T) {
	lease := func(renewed, beat time.Duration, maxAge string) coordinationv1.Lease {
		l := coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{AnnotationHeartbeatMaxAge: maxAge}}}
		if renewed >= 0 {
			l.Spec.RenewTime = &metav1.MicroTime{Time: at.Add(-renewed)}
		}
		if beat >= 0 {
			l.Annotations[AnnotationHeartbeat] = decision.Stamp(at.Add(-beat))
		}
		return l
	}
	const never = -1
	for name, c := range map[string]struct {
		leases []coordinationv1.Lease
		want   Heartbeat
	}{
		"no replica":                 {nil, Heartbeat{}},
		"one that has heard none":    {[]coordinationv1.Lease{lease(0, never, "3m0s")}, Heartbeat{MaxAge: 3 * time.Minute}},
		"heard by the other replica": {[]coordinationv1.Lease{lease(5*time.Second, never, "3m0s"), lease(8*time.Second, time.Minute, "3m0s")}, Heartbeat{Heard: true, Age: 55 * time.Second, MaxAge: 3 * time.Minute}},
		"heard by one long dead":     {[]coordinationv1.Lease{lease(0, never, "4m0s"), lease(time.Hour, time.Hour+time.Second, "3m0s")}, Heartbeat{Heard: true, Age: time.Hour + time.Second, MaxAge: 4 * time.Minute}},
		"heard since the renewal":    {[]coordinationv1.Lease{lease(5*time.Second, 2*time.Second, "")}, Heartbeat{Heard: true}},
		"never renewed":              {[]coordinationv1.Lease{lease(never, 2*time.Second, "3m0s")}, Heartbeat{}},
	} {
		if got := ReadHeartbeat(c.leases); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
