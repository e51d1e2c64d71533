package remediate

import (
	"fmt"
	"strings"
	"testing"
)

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
