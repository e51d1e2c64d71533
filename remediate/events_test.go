package remediate

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/remediate/decision"
	"k8s.io/client-go/tools/record"
)

// What there is no VirtualService for is told of the record.
func TestWhatIsToldOfAGuardWithoutAVirtualServiceIsAnEventToo(t *testing.T) {
	o := newLonely(t, 10)
	to := record.NewFakeRecorder(10)
	to.IncludeObject = true
	e := &events{to: to}
	o.rec.changed = func(_ context.Context, _ decision.Guard, s snapshot, d decision.Decision) {
		for _, h := range d.Added {
			e.tell(s, h)
		}
	}
	told := func(want ...string) {
		t.Helper()
		close(to.Events)
		var got []string
		for text := range to.Events {
			got = append(got, text)
		}
		to.Events = make(chan string, 10)
		if len(got) != len(want) {
			t.Fatalf("Events %q, want %q", got, want)
		}
		for i, parts := range want {
			for part := range strings.SplitSeq(parts, "|") {
				if !strings.Contains(got[i], part) {
					t.Errorf("Event %q, want %q in it", got[i], part)
				}
			}
		}
	}
	for range 2 {
		if _, err := o.pass(errorsAlert); err != nil {
			t.Fatal(err)
		}
	}
	told("GuardianRolledBack|kind=VirtualService,apiVersion=networking.istio.io/v1")
	o.w.vs = nil
	for range 2 {
		if _, err := o.pass(); err != nil {
			t.Fatal(err)
		}
	}
	told("Warning GuardianBlocked|VirtualService microservices/orders-service does not exist|kind=ConfigMap,apiVersion=v1")
}

func TestAnEventNamesAsManyUnknownGuardsAsItHasRoomFor(t *testing.T) {
	if got, want := describeUnknown(map[string]string{"payments": "PaymentsDown", "orders": "OrdersDown"}),
		`"orders" (alert "OrdersDown"), "payments" (alert "PaymentsDown")`; !strings.HasSuffix(got, want) {
		t.Errorf("got %s, want it to end in %s", got, want)
	}
	many := map[string]string{}
	for i := range 200 {
		many[fmt.Sprintf("guard-%03d", i)] = "A"
	}
	for name, alertOf := range map[string]map[string]string{
		"many":      many,
		"long ones": {strings.Repeat("\x00", 5000): strings.Repeat("ü", 5000), "b": "B"},
	} {
		got := describeUnknown(alertOf)
		if len(got) > 1024 || !strings.Contains(got, "more") && name == "many" {
			t.Errorf("%s: %d bytes, want at most 1024 and how many are left: %s", name, len(got), got)
		}
	}
}
