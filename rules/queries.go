package rules

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// CanaryRequests is a query for the number of requests that a guard's canary
// has had within the last window, by the reporter that saw most of them.
// proxies are further matchers, as in Options. increase() misses the first
// sample of a new series, so the answer is rather too small than too large.
func CanaryRequests(g Guard, window time.Duration, proxies string) string {
	by := []string{`destination_workload_namespace=` + strconv.Quote(g.Namespace)}
	if len(g.Canary.Workloads) > 0 {
		quoted := make([]string, len(g.Canary.Workloads))
		for i, w := range g.Canary.Workloads {
			quoted[i] = regexp.QuoteMeta(w)
		}
		by = append(by, `destination_workload=~`+strconv.Quote(strings.Join(quoted, "|")))
	} else {
		by = append(by, `destination_service_name=`+strconv.Quote(g.Canary.Service), `destination_version=`+strconv.Quote(g.Canary.Version))
	}
	if proxies != "" {
		by = append(by, proxies)
	}
	return fmt.Sprintf(`max(sum by (reporter) (increase(istio_requests_total{%s}[%ds])))`,
		strings.Join(by, ","), int64(math.Ceil(window.Seconds())))
}
