package main

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
)

// Commands work on what of a record can be read, and name what cannot: a lock
// that cannot be read is shown, and a person lifts it.
func TestARecordThatCannotBeReadAsAWholeIsWorkedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wants := func(code int, text string, exit int, texts ...string) {
			t.Helper()
			for _, x := range texts {
				want(t, code, text, exit, x)
			}
		}
		broken := record(shifting(10, 1))
		broken.Labels[records.LabelLocked] = "true"
		broken.Data["lock"], broken.Data["history"] = "{", "["
		b := newBench(t, broken, lease("a", time.Now()))
		b.beat(0)
		code, text := b.run("status", testGuard)
		wants(code, text, 1, "Lock:", "manual by unreadable record: the lock in the record cannot be read", "shifting", "Not readable:", "key lock", "key history")
		code, text = b.run("status")
		wants(code, text, 1, "shifting", "manual by unreadable record", "key lock")
		code, text = b.run("status", testGuard, "-o", "json")
		wants(code, text, 1, `"unreadable": [`, `"kind": "manual"`)
		code, text = b.run("gate", testGuard, "--for", "1s")
		wants(code, text, exitUnknown, "could not tell", "key lock")

		go func() { // as guardian does it
			ctx, maps := b.t.Context(), b.kube.CoreV1().ConfigMaps("shop")
			for sleep(ctx, time.Second) == nil {
				cm, err := maps.Get(ctx, records.Name(testGuard), metav1.GetOptions{})
				if err != nil || cm.Data[decision.KeyRequestAction] == "" {
					continue
				}
				r, _ := records.Read(cm)
				asked := *r.Request
				r.Lock, r.Request = nil, nil
				answered(&r, asked, decision.EventUnlocked, "because")
				cm.Data = r.Data()
				if _, err := maps.Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
					b.t.Error(err)
				}
			}
		}()
		code, text = b.run("unlock", testGuard, "--reason", "because")
		wants(code, text, exitOK, "Warning: read record shop/guardian-orders-service: key lock", "unlocked: because")
	})
}

func TestAnAlertMatcherThatAsksForAnOldNameIsToldTheNewOne(t *testing.T) {
	for match, want := range map[string]string{
		`{alertname="GuardianCanaryWaiting"}`:                         "GuardianCanaryNotStarting",
		`{alertname="GuardianServiceTrafficFell",severity="warning"}`: "GuardianServiceTrafficDropped",
		`{alertname="OrdersDown"}`:                                    "",
	} {
		c := config.Default()
		c.Namespace = "shop"
		g := config.DefaultGuard(testGuard)
		g.Alerts.Matchers = []config.Matcher{{Match: match, Action: "rollback"}}
		c.Guards = []config.Guard{g}
		err := c.Validate()
		told := err != nil && strings.Contains(err.Error(), "by its old name: it is "+want+" now")
		if told != (want != "") {
			t.Errorf("%s: %v", match, err)
		}
	}
}
