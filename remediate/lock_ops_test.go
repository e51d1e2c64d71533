package remediate

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// saysLocked is a VirtualService with the lock's annotation; empty: with none at
// all.
func saysLocked(value string) *unstructured.Unstructured {
	vs := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
		"metadata": map[string]any{"name": "orders-service", "namespace": testNamespace}}}
	if value != "" {
		vs.SetAnnotations(map[string]string{decision.LockKey("orders-service"): value})
	}
	return vs
}

func TestTheLockAnnotationFollowsTheRecord(t *testing.T) {
	locked := decision.Record{Lock: &decision.Lock{Kind: decision.LockBuild, Build: "b1", Since: at}, Deny: []string{"orders-service/v2"}, Stable: []string{"orders-service/v1"}, Message: "two\nlines",
		Status: decision.Status{State: decision.StateRolledBack}}
	want, ok := decision.LockAnnotationOf(locked, guardianUser)
	if !ok || !strings.HasSuffix(want, " two lines") {
		t.Fatalf("%v %q", ok, want)
	}
	older, lifted := locked, decision.Record{Status: decision.Status{State: decision.StateIdle, LiftedAt: at.Add(time.Minute)}}
	older.Lock = &decision.Lock{Since: at.Add(-time.Hour)}
	was, _ := decision.LockAnnotationOf(older, guardianUser)
	foreign, _ := decision.LockAnnotationOf(locked, "system:serviceaccount:microservices:deployer")
	newer := locked
	newer.Lock = &decision.Lock{Since: at.Add(time.Hour)}
	later, _ := decision.LockAnnotationOf(newer, guardianUser)
	for name, c := range map[string]struct {
		have   string
		record decision.Record
		user   string
		want   string
	}{
		"none, and locked":                  {"", locked, guardianUser, want},
		"the same":                          {want, locked, guardianUser, want},
		"an older one":                      {was, locked, guardianUser, want},
		"forged":                            {strings.Replace(want, "v2", "v3", 1), locked, guardianUser, want},
		"unreadable":                        {"x", locked, guardianUser, want},
		"lifted":                            {want, lifted, guardianUser, ""},
		"unreadable, and not locked":        {"x", lifted, guardianUser, ""},
		"set after the last lifting":        {later, lifted, guardianUser, later},
		"another user's, and not locked":    {foreign, lifted, guardianUser, foreign},
		"a record that was never looked at": {"x", decision.Record{}, guardianUser, "x"},
		"guardian does not know who it is":  {want, lifted, "", want},
		"guardian does not know who it is, and locked": {"", locked, "", ""},
		"guardian is no ServiceAccount":                {"", locked, "guardian", ""},
		"the destinations are not known":               {was, decision.Record{Lock: locked.Lock}, guardianUser, was},
	} {
		vs := saysLocked(c.have)
		now, err := applyOps(vs, lockOps(vs, "orders-service", c.record, c.user, nil))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := now.GetAnnotations()[decision.LockKey("orders-service")]; got != c.want {
			t.Errorf("%s: annotation %q\nwant %q", name, got, c.want)
		}
	}
}

// A key that another user has taken must not keep the weights from being written.
func TestWeightsDoNotWaitForALockThatMayNotBeWritten(t *testing.T) {
	forbidden := apierrors.NewForbidden(virtualServiceResource.GroupResource(), "orders-service", nil)
	vs := saysLocked("")
	vs.Object["spec"] = map[string]any{"hosts": []any{"x"}}
	weights := []virtualservice.Op{{Op: "add", Path: "/spec/hosts", Value: []any{"orders-service"}}}
	lock := lockOps(vs, "orders-service", decision.Record{Lock: &decision.Lock{Since: at}, Deny: []string{"a/v2"}, Stable: []string{"a/v1"}, Message: "m"}, guardianUser, nil)
	for name, c := range map[string]struct {
		ops      []virtualservice.Op
		refuses  func(ops int) bool
		wantOps  []int
		wantErr  bool
		unmarked bool
	}{
		"both are taken":               {weights, func(int) bool { return false }, []int{3}, false, false},
		"the lock is refused":          {weights, func(n int) bool { return n > 1 }, []int{3, 1}, false, true},
		"everything is refused":        {weights, func(int) bool { return true }, []int{3, 1}, true, true},
		"the lock alone, and refused":  {nil, func(int) bool { return true }, []int{2}, false, true},
		"the lock alone, and is taken": {nil, func(int) bool { return false }, []int{2}, false, false},
	} {
		var tried []int
		r := &reconciler{store: refusing{patch: func(ops []virtualservice.Op) error {
			tried = append(tried, len(ops))
			if c.refuses(len(ops)) {
				return forbidden
			}
			return nil
		}}}
		unmarked, err := r.patchOne(t.Context(), change{vs: vs, ops: c.ops, lock: lock}, decision.Decision{Move: decision.MoveStable})
		if !slices.Equal(tried, c.wantOps) || (err != nil) != c.wantErr || (unmarked != nil) != c.unmarked {
			t.Errorf("%s: tried %v operations, want %v; error %v, unmarked %v", name, tried, c.wantOps, err, unmarked)
		}
	}
}

// refusing is a store that takes only what it is told to.
type refusing struct {
	store
	patch func([]virtualservice.Op) error
}

func (r refusing) patchVirtualService(_ context.Context, vs *unstructured.Unstructured, ops []virtualservice.Op, _ string) (*unstructured.Unstructured, error) {
	return vs, r.patch(ops)
}
