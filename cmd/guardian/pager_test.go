package main

import (
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/alertmanager/alert"
	amtemplate "github.com/prometheus/alertmanager/template"
	"github.com/prometheus/common/model"
	"sigs.k8s.io/yaml"

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
	back.Receipt.Good, back.Receipt.Since = "b0-91aa03c4e7d2", []string{"containers[orders].image: registry.example/orders:2.3.9 → registry.example/orders:2.4.0"}
	moving := func(refused string) *decision.Moving {
		return &decision.Moving{From: 10, By: "alert", Alert: back.Receipt.Alert, Reason: back.Receipt.Reason, Refused: refused, Receipt: &decision.Receipt{Limit: back.Receipt.Limit}}
	}
	blocked := locked()
	blocked.Lock.Reason = back.Receipt.Reason
	blocked.Status.State, blocked.Status.Weight, blocked.Status.Reason, blocked.Status.Moving = decision.StateBlocked, 10, "stable v1 has 0 ready endpoints, rollback.minReadyStable is 1", moving("")
	blocked.Status.Links = back.Receipt.Links
	undone := blocked.Clone()
	undone.Status.Reason, undone.Status.Moving = "not done: …", moving(`admission webhook "validation.istio.io" denied the request: spec.http[2] is invalid`)
	held := decision.Record{Status: decision.Status{State: decision.StateHeld, Weight: 30, Build: "b1", Links: back.Receipt.Links,
		Reason: "GuardianCanaryErrorRateHold: orders-service: 3% of the canary's requests fail, and stable's too"}}
	held.Status.HeldBy = "GuardianCanaryErrorRateHold"
	held.Status.Firing = []decision.Firing{{Name: "GuardianCanaryErrorRateHold", Action: decision.ActionHold, Summary: "orders-service: 3% of the canary's requests fail, and stable's too"}}
	return map[string]remediate.View{rules.NoticeRolledBack: view(back), rules.NoticeBlocked: view(blocked), rules.NoticeNotDone: view(undone), rules.NoticeHeld: view(held)}
}

func TestWhatPeopleAreToldFollowsFromTheRecord(t *testing.T) {
	c := pagerConfig(t)
	for name, v := range somePosts() {
		n := noticeOf(c, v)
		if n == nil || n.name != name || n.since.IsZero() || n.annotations["summary"] == "" || !strings.HasSuffix(n.annotations["runbook_url"], name+".md") || n.annotations["look"] == "" {
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

// The first message of a rollback is sent before Prometheus has been asked: what was
// counted until then is of a time before the fault was over.
func TestWhatWasCountedBeforeTheRollbackIsNotTold(t *testing.T) {
	c, v := pagerConfig(t), somePosts()[rules.NoticeRolledBack]
	v.Receipt.Open, v.Receipt.Failed, v.Receipt.Requests = true, 0, 111
	n := noticeOf(c, v)
	if n.annotations["failed"] != "" || n.annotations["requests"] != "" {
		t.Errorf("told: %v", n.annotations)
	}
	if n.annotations["look"] != "guardian receipt orders-service -n shop" {
		t.Errorf("what comes later is found by %q", n.annotations["look"])
	}
	v.Receipt.Open = false
	if n := noticeOf(c, v); n.annotations["failed"] != "0" {
		t.Errorf("what was counted at last is not told: %v", n.annotations)
	}
}

func TestWhatBlocksOrHoldsIsToldWithTheFaultItself(t *testing.T) {
	c, posts := pagerConfig(t), somePosts()
	gone := posts[rules.NoticeBlocked]
	gone.Status.Weight, gone.Status.Moving, gone.Status.Ready.Stable = 0, nil, 3
	gone.Status.Reason = "VirtualService orders-service does not exist: until it is back, locked again at once, requests reach all pods of its hosts, the canary's too"
	unlocked := posts[rules.NoticeBlocked]
	unlocked.Lock, unlocked.Status.Moving, unlocked.Status.Ready.Stable = nil, nil, 3
	unlocked.Status.Reason = "DestinationRule orders-service has no subset v1"
	unlocked.Status.Firing = []decision.Firing{{Name: "GuardianCanaryErrorRate", Summary: "orders-service: 7.1% fail."}}
	asked := posts[rules.NoticeBlocked]
	lock := *asked.Lock
	lock.By, lock.Reason = "ann", "checkout is broken."
	asked.Lock = &lock
	lost := posts[rules.NoticeBlocked]
	taken := lock
	taken.By = decision.ByAnnotation
	lost.Lock = &taken
	garbled := posts[rules.NoticeBlocked]
	unreadable, _ := decision.ReadData(map[string]string{decision.KeyLock: "{"}, true)
	garbled.Lock = unreadable.Lock
	earlier := posts[rules.NoticeHeld]
	earlier.Status.Reason = "GuardianCanaryErrorRate: orders-service: 5% fail"
	earlier.Status.HeldBy = "GuardianCanaryErrorRate"
	earlier.Status.Firing = []decision.Firing{{Name: "GuardianCanaryErrorRate", Action: decision.ActionRollback, Began: decisiontest.At, Seen: decisiontest.At}}
	exchanged := posts[rules.NoticeBlocked]
	exchanged.Status.Weight, exchanged.Status.Moving, exchanged.Status.Ready.Stable = 0, nil, 3
	exchanged.Status.Reason = "stable orders-service/v2 is what the lock denies: unlock, or have stable and canary be what they were"
	observed := earlier
	observed.Status.Observing = &decision.Observing{}
	past := earlier
	past.Status.EnforcedAt = decisiontest.At.Add(time.Hour)
	ahead := past // by a clock of Prometheus's that is
	ahead.Status.Firing = slices.Clone(past.Status.Firing)
	ahead.Status.Firing[0].Began = decisiontest.At.Add(2 * time.Hour)
	moving := posts[rules.NoticeHeld]
	moving.Status.Mode = decision.PromotionAuto
	still := moving
	still.Status.Paused = &decision.Pause{By: "ann", At: decisiontest.At}
	for name, want := range map[string]struct {
		v    remediate.View
		says []string
		not  string
	}{
		"blocked": {posts[rules.NoticeBlocked], []string{"still has 10% of the traffic and is bad: GuardianCanaryErrorRate: orders-service: 7.1% of the canary's requests fail. guardian cannot send it to stable: stable v1 has 0 ready endpoints",
			"Bring more of stable's pods up", "1% of the requests may fail", "since=", "dashboard_url=", "kiali_url=", "rolls back by itself"}, ".."},
		"not done":                           {posts[rules.NoticeNotDone], []string{"is bad: GuardianCanaryErrorRate", "refuses the rollback: admission webhook", "at least every 15 seconds", "1% of the requests may fail", "dashboard_url="}, ".."},
		"a VirtualService gone":              {gone, []string{"is bad: GuardianCanaryErrorRate", "VirtualService orders-service does not exist", "Put the VirtualService back", "summary=orders-service: a VirtualService of the locked canary does not exist"}, "still has"},
		"blocked without a lock":             {unlocked, []string{"is bad: GuardianCanaryErrorRate: orders-service: 7.1% fail. guardian cannot", "no subset v1. Mend that"}, ".."},
		"blocked for a person":               {asked, []string{"is to be rolled back by ann: checkout is broken. guardian"}, "is bad"},
		"blocked by a lock that was found":   {lost, []string{"is to be rolled back: checkout is broken. guardian"}, "rolled back by"},
		"blocked by one that is not legible": {garbled, []string{"is to be rolled back: the lock in the record cannot be read"}, "rolled back by"},
		"held": {posts[rules.NoticeHeld], []string{"stays at 30%: GuardianCanaryErrorRateHold: orders-service: 3%", "It is not rolled back for this", "Shift no further", "takes no step by itself", "since=",
			"limit=1% of the requests may fail", "dashboard_url="}, "held at"},
		"held by an alert of before": {earlier, []string{"if it goes on firing, the canary is rolled back", "limit=1%"}, "not rolled back"},
		"blocked at no weight":       {exchanged, []string{"summary=orders-service: guardian cannot keep requests from the canary", "cannot do all that keeps requests from it: stable orders-service/v2 is what the lock denies"}, "does not exist"},
		"held while observing":       {observed, []string{"It is not rolled back for this"}, "is rolled back:"},
		"held by the past":           {past, []string{"It is not rolled back for this"}, "is rolled back:"},
		"held by the past, ahead":    {ahead, []string{"It is not rolled back for this"}, "is rolled back:"},
		"held while paused":          {still, []string{"takes no step by itself"}, "goes on by itself"},
		"held with promotion":        {moving, []string{"goes on by itself"}, "takes no step"},
	} {
		n := noticeOf(c, want.v)
		if n == nil {
			t.Errorf("%s: nothing is told", name)
			continue
		}
		var all strings.Builder
		for k, text := range n.annotations {
			all.WriteString(k + "=" + text + "\n")
		}
		for _, says := range want.says {
			if !strings.Contains(all.String(), says) {
				t.Errorf("%s: want %q in\n%s", name, says, all.String())
			}
		}
		if strings.Contains(all.String(), want.not) {
			t.Errorf("%s: %q in\n%s", name, want.not, all.String())
		}
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
	posts := somePosts()
	first := posts[rules.NoticeRolledBack]
	open := *first.Receipt
	open.Open, open.Began, open.Felt, open.Images, open.Differs, open.Since, open.Good = true, time.Time{}, time.Time{}, nil, nil, nil, ""
	first.Receipt = &open
	posts[rules.NoticeRolledBack+".first"] = first
	for name, v := range posts {
		n := noticeOf(c, v)
		for _, over := range []bool{false, true} {
			a := &alert.Alert{Alert: model.Alert{Labels: model.LabelSet{}, Annotations: model.LabelSet{}, StartsAt: n.since, EndsAt: time.Now().Add(time.Hour)}}
			if over {
				a.EndsAt = n.since.Add(time.Minute)
			}
			for k, v := range c.RulesBase().NoticeLabels(n.name, testGuard, nil) {
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
	for _, name := range []string{rules.NoticeRolledBack, rules.NoticeBlocked} {
		golden := strings.Split(readDoc(t, "testdata", "config", "pager."+name+".golden"), "--- ")
		for _, part := range golden[1:3] {
			_, text, _ := strings.Cut(part, "\n")
			if !strings.Contains(shown, strings.TrimSpace(text)) {
				t.Errorf("docs/pager.md does not show\n%s", text)
			}
		}
	}
}

// What is said of an alert's end is no all-clear, least of all where guardian has only
// ceased to manage the guard.
func TestTheEndOfAnAlertIsNoAllClear(t *testing.T) {
	tmpl, err := amtemplate.FromGlobs([]string{filepath.Join("..", "..", "docs", "samples", "pager", "*.tmpl")})
	if err != nil {
		t.Fatal(err)
	}
	tmpl.ExternalURL = &url.URL{Scheme: "http", Host: "alertmanager.example"}
	c := pagerConfig(t)
	n := *noticeOf(c, somePosts()[rules.NoticeBlocked])
	for want, n := range map[string]notice{
		"That need not mean that all is well: guardian status orders-service -n shop":                     n,
		"A lock that stands is lifted by a person alone: guardian unlock orders-service -n shop --reason": n.unmanaged(testGuard, "shop"),
	} {
		a := &alert.Alert{Alert: model.Alert{Labels: model.LabelSet{}, Annotations: model.LabelSet{}, StartsAt: time.Now().Add(-time.Hour), EndsAt: time.Now().Add(-time.Minute)}}
		for k, v := range c.RulesBase().NoticeLabels(n.name, testGuard, nil) {
			a.Labels[model.LabelName(k)] = model.LabelValue(v)
		}
		for k, v := range n.annotations {
			a.Annotations[model.LabelName(k)] = model.LabelValue(v)
		}
		data := tmpl.Data("team", model.LabelSet{}, model.LabelSet{}, "firing", a)
		for _, part := range []string{"text", "slack", "email"} {
			if out, err := tmpl.ExecuteTextString(`{{ template "guardian.`+part+`" . }}`, data); err != nil || !strings.Contains(out, want) {
				t.Errorf("%s: %v: want %q, said\n%s", part, err, want, out)
			}
		}
	}
}

// routed is the sample behind the route that guardian prints, as a file.
func routed(t *testing.T, namespace string) string {
	t.Helper()
	code, printed := newBench(t).run("alertmanager", "-n", namespace, "--token-file", "/etc/alertmanager/token")
	if code != exitOK {
		t.Fatal(printed)
	}
	var own, sample map[string]any
	for text, into := range map[string]*map[string]any{printed: &own, readDoc(t, "docs", "samples", "pager", "alertmanager.yml"): &sample} {
		if err := yaml.Unmarshal([]byte(text), into); err != nil {
			t.Fatal(err)
		}
	}
	route := sample["route"].(map[string]any)
	route["routes"] = append(own["route"].(map[string]any)["routes"].([]any), route["routes"].([]any)...)
	sample["receivers"] = append(sample["receivers"].([]any), own["receivers"].([]any)...)
	delete(sample, "templates")
	text, err := yaml.Marshal(sample)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "alertmanager.yml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Alertmanager's own router says who gets each alert that is shipped, and each notice.
func TestThePagersSamplePagesForWhatIsCritical(t *testing.T) {
	if testing.Short() {
		t.Skip("builds amtool")
	}
	amtool, err := controlplane.Binary(t.Context(), "amtool")
	if err != nil {
		t.Fatal(err)
	}
	const namespace = "microservices"
	file := routed(t, namespace)
	alerts := map[string]map[string]string{}
	for _, g := range generated(t, nil).Groups {
		for _, r := range g.Rules {
			if r.Alert != "" {
				alerts[r.Alert] = maps.Clone(r.Labels)
				alerts[r.Alert]["alertname"], alerts[r.Alert]["namespace"] = r.Alert, namespace
				if r.Labels["namespace"] == "" { // else it is about guardian itself
					alerts[r.Alert][rules.LabelGuard] = testGuard
				}
			}
		}
	}
	base := pagerConfig(t).RulesBase()
	base.Namespace = namespace
	for _, name := range rules.Notices() {
		alerts[name] = base.NoticeLabels(name, testGuard, nil)
	}
	paged := 0
	for name, labels := range alerts {
		want := "team"
		switch {
		case labels[rules.LabelAction] != string(rules.ActionNone), name == rules.AlertHeartbeat:
			want = "guardian-" + namespace
		case labels["severity"] == "critical":
			want = "pager,team"
			paged++
		}
		args := []string{"config", "routes", "test", "--config.file=" + file}
		for k, v := range labels {
			args = append(args, k+"="+v)
		}
		out, err := exec.CommandContext(t.Context(), amtool, args...).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("%s goes to %s, want %s (%v)", name, got, want, err)
		}
	}
	if paged < 10 {
		t.Errorf("only %d alerts page", paged)
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

// What others wrote, as a reason or a field manager, calls nobody in Slack, leads nowhere
// and stays in its block of code; in an e-mail it is no element.
func TestWhatOthersWroteIsTextForThePagers(t *testing.T) {
	const evil = "<!channel> <https://evil.example|guardian> & ``` <@U1><img src=x>"
	tmpl, err := amtemplate.FromGlobs([]string{filepath.Join("..", "..", "docs", "samples", "pager", "*.tmpl")})
	if err != nil {
		t.Fatal(err)
	}
	tmpl.ExternalURL = &url.URL{Scheme: "http", Host: "alertmanager.example"}
	v := somePosts()[rules.NoticeRolledBack]
	v.Lock.Reason, v.Receipt.Shifted, v.Receipt.Differs, v.Receipt.Images = evil, &decision.Shift{Manager: evil, Cause: evil}, []string{evil}, []string{evil}
	a := &alert.Alert{Alert: model.Alert{Labels: model.LabelSet{}, Annotations: model.LabelSet{}, StartsAt: time.Now().Add(-time.Minute), EndsAt: time.Now().Add(time.Hour)}}
	for k, text := range noticeOf(pagerConfig(t), v).annotations {
		a.Annotations[model.LabelName(k)] = model.LabelValue(text)
	}
	data := tmpl.Data("team", model.LabelSet{}, model.LabelSet{}, "firing", a)
	slack, err := tmpl.ExecuteTextString(`{{ template "guardian.slack" . }}`, data)
	if err != nil || strings.ContainsAny(slack, "<>") || strings.Count(slack, "```") != 2 || strings.Count(slack, "&lt;!channel&gt; &lt;https://evil.example|guardian&gt; &amp; ''' &lt;@U1&gt;") != 5 {
		t.Errorf("%v\n%s", err, slack)
	}
	mail, err := tmpl.ExecuteHTMLString(`{{ template "guardian.email" . }}`, data)
	if err != nil || strings.Contains(mail, "<img") || strings.Contains(mail, "<!channel") || !strings.Contains(mail, "&lt;!channel&gt;") {
		t.Errorf("%v\n%s", err, mail)
	}
}
