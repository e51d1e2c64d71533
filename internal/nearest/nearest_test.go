package nearest

import (
	"fmt"
	"slices"
	"testing"
)

// By letters that differ alone, every short name is more like a part of a long one.
func TestNamesThatHaveWhatWasTypedComeFirst(t *testing.T) {
	var others []string
	for i := range 20 {
		others = append(others, fmt.Sprintf("svc-%d", i))
	}
	for name, c := range map[string]struct {
		names []string
		typed string
		want  []string
	}{
		"begins with it":             {[]string{"payments-service-v2-eu"}, "payments", []string{"payments-service-v2-eu"}},
		"contains it":                {[]string{"eu-payments-service-v2"}, "payments", []string{"eu-payments-service-v2"}},
		"begins before contains":     {[]string{"a-payments", "payments-service-v2-eu"}, "payments", []string{"payments-service-v2-eu", "a-payments"}},
		"of several, the most alike": {[]string{"payments-service", "payments-v2"}, "payments", []string{"payments-v2", "payments-service"}},
		"none, the most alike":       {[]string{"orders-service"}, "order-service", []string{"orders-service"}},
		"itself":                     {[]string{"pay", "pay-eu"}, "pay", []string{"pay", "pay-eu"}},
	} {
		names := slices.Concat(others, c.names)
		Sort(names, c.typed)
		if got := names[:len(c.want)]; !slices.Equal(got, c.want) {
			t.Errorf("%s: %v of %q come first, want %v", name, got, c.typed, c.want)
		}
	}
}
