package remediate

import (
	"context"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
)

// A pass that waits for Prometheus keeps a worker from rolling back: it asks only with a
// slot, of which there are fewer than workers.
func TestOthersAreAskedWithAQuerySlotAlone(t *testing.T) {
	for name, free := range map[string]bool{"a slot is free": true, "none is": false} {
		t.Run(name, func(t *testing.T) {
			o, held, asked := newLonely(t, 10), 0, map[string]int{}
			o.rec.querySlot = func() (func(), bool) {
				if !free {
					return nil, false
				}
				held++
				return func() { held-- }, true
			}
			note := func(what string) {
				if asked[what]++; held != 1 {
					t.Errorf("%s is asked with %d slots", what, held)
				}
			}
			o.rec.count = func(context.Context, snapshot) decision.Count {
				note("count")
				return decision.Count{Known: true, Requests: 1000}
			}
			o.rec.forward = func(context.Context, snapshot) (decision.Forward, []decision.Alert) {
				note("forward")
				return decision.Forward{Requests: 1000}, nil
			}
			o.rec.after = func(context.Context, snapshot, decision.Receipt) decision.After {
				note("after")
				return decision.After{Never: true, Err: "no Prometheus"}
			}
			pass := func(alerts ...decision.Alert) {
				t.Helper()
				if _, err := o.pass(alerts...); err != nil {
					t.Fatal(err)
				}
				if held != 0 {
					t.Errorf("%d slots are not given back", held)
				}
			}
			o.guard.Promotion.Mode = decision.PromotionManual
			ask(o.w.cm, decision.Request{Action: decision.RequestPromote, By: "anna", Reason: "looks good", At: o.now, ID: "promote-1"})
			pass()
			pass(errorsAlert)
			o.now = o.now.Add(time.Minute)
			pass(errorsAlert)
			for _, what := range []string{"count", "forward", "after"} {
				if (asked[what] > 0) != free {
					t.Errorf("%s is asked %d times", what, asked[what])
				}
			}
		})
	}
}
