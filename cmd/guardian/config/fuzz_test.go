package config

import (
	"fmt"
	"testing"
	"time"
)

// A duration that is accepted is one that Go or Prometheus reads, within bounds.
func FuzzDuration(f *testing.F) {
	for _, text := range []string{"3m", "1h30m", "1d", "1w2d", "1y", "0s", "-1s", "9223372036854775807ns", "1e9s", "1.5h", "", " 3m", "3 m", "٣m", "106751d"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse([]byte(fmt.Sprintf("namespace: x\nheartbeat: {maxAge: %q}\nguards: [{name: a, rollback: {window: %q}}]\n", text, text)))
		if err != nil {
			_ = err.Error()
			return
		}
		for name, d := range map[string]time.Duration{"heartbeat.maxAge": c.Heartbeat.MaxAge, "rollback.window": c.Guards[0].Rollback.Window} {
			if d <= 0 || d > 100*366*24*time.Hour {
				t.Errorf("%q is taken as %s of %s", text, name, d)
			}
		}
	})
}
