package main

import (
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/alertmanager/alert"
	amtemplate "github.com/prometheus/alertmanager/template"
	"github.com/prometheus/common/model"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/decision/decisiontest"
	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/test/controlplane"
)

func pagerConfig(t *testing.T) config.Config {
	t.Helper()
	c, err := config.Parse([]byte("namespace: shop\nguards: [{name: orders-service}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// posts are a guard in each place that people are told of.
func somePosts() map[string]remediate.View {
	view := func(r decision.Record) remediate.View {
		r.Status.Since = decisiontest.At.Add(-1861 * time.Millisecond)
		return remediate.View{Name: testGuard, Lock: r.Lock, Status: r.Status, Receipt: r.Receipt, Seen: true}
	}
	back := rolledBackRecord()
	back.Lock.Since, back.Lock.Reason = decisiontest.At.Add(-1870*time.Millisecond), back.Receipt.Reason
	blocked := locked()
	blocked.Status.State, blocked.Status.Weight, blocked.Status.Reason = decision.StateBlocked, 10, "stable v1 has 0 ready endpoints, rollback.minReadyStable is 1"
	undone := locked()
	undone.Status.State, undone.Status.Weight = decision.StateBlocked, 10
	undone.Status.Moving = &decision.Moving{From: 10, Reason: "GuardianCanaryErrorRate: 7.1% of the canary's requests fail", Refused: `admission webhook "validation.istio.io" denied the request: spec.http[2] is invalid`}
	held := decision.Record{Status: decision.Status{State: decision.StateHeld, Weight: 30, Build: "b1", Reason: "GuardianCanaryErrorRateHold: 3% of the canary's requests fail, and stable's too"}}
	return map[string]remediate.View{rules.NoticeRolledBack: view(back), rules.NoticeBlocked: view(blocked), rules.NoticeNotDone: view(undone), rules.NoticeHeld: view(held)}
}

func TestWhatPeopleAreToldFollowsFromTheRecord(t *testing.T) {
	c := pagerConfig(t)
	for name, v := range somePosts() {
		n := noticeOf(c, v)
		if n == nil || n.name != name || n.since.IsZero() || n.annotations["summary"] == "" || !strings.HasSuffix(n.annotations["runbook_url"], name+".md") || n.annotations["command"] == "" {
			t.Errorf("%s: %+v", name, n)
		}
		if again := noticeOf(c, v); !n.equal(*again) {
			t.Errorf("%s: two replicas say other things", name)
		}
		for key := range n.annotations {
			if !model.LegacyValidation.IsValidLabelName(key) {
				t.Errorf("%s: annotation %q", name, key)
			}
		}
	}
	for _, state := range []decision.State{decision.StateUnknown, decision.StateIdle, decision.StateShifting, decision.StatePromoted, decision.StateCompleted, decision.StateDisarmed} {
		if n := noticeOf(c, remediate.View{Name: testGuard, Status: decision.Status{State: state}}); n != nil {
			t.Errorf("%s: %+v", state, n)
		}
	}
	old := somePosts()[rules.NoticeRolledBack]
	old.Lock.Since = old.Receipt.Written.Add(time.Hour) // the receipt is of the rollback before
	if n := noticeOf(c, old); n.annotations["failed"] != "" || n.annotations["weight"] != "0%" {
		t.Errorf("told of another rollback: %v", n.annotations)
	}
	none := somePosts()[rules.NoticeRolledBack]
	none.Lock, none.Status.State, none.Receipt.Lock = nil, decision.StateIdle, decision.LockNone
	if n := noticeOf(c, none); n == nil || n.until.Sub(none.Receipt.Written) != unlockedFor || n.annotations["failed"] != "22" {
		t.Errorf("without a lock: %+v", n)
	}
}

func TestALockThatNothingButAPersonLiftsIsToldAsSuch(t *testing.T) {
	c, v := pagerConfig(t), somePosts()[rules.NoticeRolledBack]
	v.Status.Observing = &decision.Observing{}
	n := noticeOf(c, v)
	if all := n.annotations["description"] + n.annotations["next"]; strings.Contains(all, "until a new build") || strings.Contains(all, "stays there") || !strings.Contains(all, "a new build lifts nothing") ||
		!strings.Contains(n.annotations["command"], "unlock "+testGuard) {
		t.Errorf("mode observe: %v", n.annotations)
	}
	v = somePosts()[rules.NoticeBlocked]
	v.Status.Observing = &decision.Observing{}
	if n := noticeOf(c, v); n.name != rules.NoticeBlocked || strings.Contains(n.annotations["description"], "as soon as it is safe") {
		t.Errorf("mode observe: %v", n.annotations)
	}
}

func TestALockThatIsNotRecordedIsToldAsSuch(t *testing.T) {
	c, v := pagerConfig(t), somePosts()[rules.NoticeRolledBack]
	v.Unrecorded = "write record: exceeded quota"
	n := noticeOf(c, v)
	if said := n.annotations["description"]; !strings.Contains(said, "back to stable") || !strings.Contains(said, "could not be recorded: write record: exceeded quota; this replica keeps") || strings.Contains(said, "It stays there") {
		t.Errorf("said: %s", said)
	}
	if n.annotations["next"] != "" || strings.Contains(n.annotations["command"], "wait-unlocked") {
		t.Errorf("no lock is recorded that could be waited for: %v", n.annotations)
	}
}

// The templates of the documentation, by Alertmanager's own engine.
func TestThePagersTemplatesAreWhatTheDocsShow(t *testing.T) {
	tmpl, err := amtemplate.FromGlobs([]string{filepath.Join("..", "..", "docs", "samples", "pager", "*.tmpl")})
	if err != nil {
		t.Fatal(err)
	}
	tmpl.ExternalURL = &url.URL{Scheme: "http", Host: "alertmanager.example"}
	c := pagerConfig(t)
	for name, v := range somePosts() {
		n := noticeOf(c, v)
		for _, over := range []bool{false, true} {
			a := &alert.Alert{Alert: model.Alert{Labels: model.LabelSet{}, Annotations: model.LabelSet{}, StartsAt: n.since, EndsAt: time.Now().Add(time.Hour)}}
			if over {
				a.EndsAt = n.since.Add(time.Minute)
			}
			for k, v := range c.RulesBase().NoticeLabels(name, testGuard, nil) {
				a.Labels[model.LabelName(k)] = model.LabelValue(v)
			}
			for k, v := range n.annotations {
				a.Annotations[model.LabelName(k)] = model.LabelValue(v)
			}
			data := tmpl.Data("team", model.LabelSet{}, model.LabelSet{}, "firing", a)
			var text strings.Builder
			for _, part := range []string{"title", "text", "slack"} {
				out, err := tmpl.ExecuteTextString(`{{ template "guardian.`+part+`" . }}`, data)
				if err != nil || strings.Contains(out, "<no value>") {
					t.Fatalf("%s %s: %v\n%s", name, part, err, out)
				}
				text.WriteString("--- " + part + "\n" + strings.TrimSpace(out) + "\n")
			}
			out, err := tmpl.ExecuteHTMLString(`{{ template "guardian.email" . }}`, data)
			if err != nil || !strings.Contains(out, "<h2>") {
				t.Fatalf("%s: %v\n%s", name, err, out)
			}
			file := "pager." + name
			if over {
				file += ".over"
			}
			checkGolden(t, file+".golden", text.String())
			checkGolden(t, file+".golden.html", out+"\n")
		}
	}
	shown := readDoc(t, "docs", "pager.md")
	golden := strings.Split(readDoc(t, "testdata", "config", "pager.GuardianRolledBack.golden"), "--- ")
	for _, part := range golden[1:3] {
		_, text, _ := strings.Cut(part, "\n")
		if !strings.Contains(shown, strings.TrimSpace(text)) {
			t.Errorf("docs/pager.md does not show\n%s", text)
		}
	}
}

func TestThePagersAlertmanagerIsTaken(t *testing.T) {
	if testing.Short() {
		t.Skip("builds amtool")
	}
	amtool, err := controlplane.Binary(t.Context(), "amtool")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), amtool, "check-config", filepath.Join("..", "..", "docs", "samples", "pager", "alertmanager.yml")).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
