package rules

import (
	"maps"
	"testing"
)

// The rules that mean the same as what guardian posts itself fire where no
// Alertmanager has that.
func TestNobodyIsToldTwiceOfWhatGuardianPosts(t *testing.T) {
	const (
		heartbeat = "GuardianHeartbeat/none"
		back      = "GuardianRolledBack/none orders-service"
		blocked   = "GuardianRollbackBlocked/none orders-service"
	)
	guardian := func(name string, phase int, more rows) target {
		return target{name: name, phase: phase, rows: merge(replica(name, nil, nil, nil).rows, more)}
	}
	state := func(s string) string { return `guardian_state{guard="orders-service",state="` + s + `"}` }
	posted := func(alert string) string {
		return `guardian_notification_delivered{guard="orders-service",alert="` + alert + `"}`
	}
	posts := func(o *Options) { o.Posts = true }
	runAll(t, func(s *Signals) { *s = Signals{} }, map[string]scenario{
		"posted at once": {self: true, options: posts,
			targets: []target{guardian("a", 2, rows{state("rolled-back"): step(60, 1), posted("GuardianRolledBack"): step(60, 1)})},
			want:    map[int][]string{75: {heartbeat}, 300: {heartbeat}},
		},
		"posted after the scrape": {self: true, options: posts,
			targets: []target{guardian("a", 2, rows{state("rolled-back"): step(60, 1), posted("GuardianRolledBack"): step(60, 0, 120, 1)})},
			want:    map[int][]string{75: {heartbeat}, 135: {heartbeat}, 300: {heartbeat}},
		},
		"posted by one of two replicas": {self: true, options: posts,
			targets: []target{
				guardian("a", 2, rows{state("rolled-back"): step(60, 1), posted("GuardianRolledBack"): step(60, 0)}),
				guardian("b", 3, rows{state("rolled-back"): step(60, 1), posted("GuardianRolledBack"): step(60, 1)}),
			},
			want: map[int][]string{180: {heartbeat}, 300: {heartbeat}},
		},
		"no Alertmanager takes it, and later one does": {self: true, options: posts,
			targets: []target{guardian("a", 2, rows{state("rolled-back"): step(60, 1), posted("GuardianRolledBack"): step(60, 0, 240, 1)})},
			want:    map[int][]string{75: {heartbeat}, 135: {heartbeat}, 180: {heartbeat, back}, 300: {heartbeat}},
		},
		"what was posted tells of something else": {self: true, options: posts,
			targets: []target{guardian("a", 2, rows{state("rolled-back"): step(60, 1), posted("GuardianHeld"): step(60, 1)})},
			want:    map[int][]string{180: {heartbeat, back}},
		},
		"blocked, and posted": {self: true, options: posts,
			targets: []target{guardian("a", 2, rows{state("blocked"): step(60, 1), posted("GuardianBlocked"): step(60, 1)})},
			want:    map[int][]string{180: {heartbeat}, 300: {heartbeat}},
		},
		"not done, and posted": {self: true, options: posts,
			targets: []target{guardian("a", 2, rows{state("blocked"): step(60, 1), posted("GuardianNotDone"): step(60, 1)})},
			want:    map[int][]string{180: {heartbeat}},
		},
		"blocked, and nobody has it": {self: true, options: posts,
			targets: []target{guardian("a", 2, rows{state("blocked"): step(60, 1)})},
			want:    map[int][]string{75: {heartbeat}, 180: {heartbeat, blocked}},
		},
	})
}

// What is posted is the same alert as the rule's, where own says what Prometheus
// adds.
func TestWhatIsPostedIsTheRulesAlert(t *testing.T) {
	o := Options{Name: "brake", Namespace: "microservices", Guards: []Guard{orders()}, Posts: true}
	for _, g := range generated(t, o).groups() {
		for _, r := range g.Rules {
			if r.Alert != AlertRolledBack {
				continue
			}
			want := maps.Clone(r.Labels)
			maps.Copy(want, map[string]string{"alertname": AlertRolledBack, LabelNamespace: "microservices", LabelGuard: "orders-service", "cluster": "eu"})
			if got := o.NoticeLabels(NoticeRolledBack, "orders-service", map[string]string{"cluster": "eu"}); !maps.Equal(got, want) {
				t.Errorf("posted with %v, the rule's has %v", got, want)
			}
			return
		}
	}
	t.Error("no rule found")
}
