package main

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/decision/decisiontest"
)

// rolledBackRecord is a guard after a rollback of which all is known.
func rolledBackRecord() decision.Record {
	at := decisiontest.At
	r := locked()
	r.Receipt = &decision.Receipt{
		Build: "b1-4f2e8a9c01d3", Refused: []string{"b1-4f2e8a9c01d3"}, Lock: decision.LockBuild, By: "alert", Alert: "GuardianCanaryErrorRate", Signal: "error_rate",
		Reason: "GuardianCanaryErrorRate: orders-service: 7.1% of the canary's requests fail", Limit: "1% of the requests may fail", From: 10,
		Began: at.Add(-4200 * time.Millisecond), Fired: at.Add(-1900 * time.Millisecond), Seen: at.Add(-1880 * time.Millisecond), Written: at.Add(-1861 * time.Millisecond), Felt: at.Add(2 * time.Second),
		Requests: 310, Failed: 22, Counted: decision.Counted{Since: at.Add(-10 * time.Minute), At: at.Add(9 * time.Second)},
		Shifted: &decision.Shift{Manager: "kubectl-client-side-apply", At: at.Add(-10 * time.Minute), Cause: "release 7"},
		Images:  []string{"orders: registry.example/orders:2.4.0"},
		Differs: []string{"labels[version]: v1 → v2", "containers[orders].image: registry.example/orders:2.3.1 → registry.example/orders:2.4.0", "containers[orders].env[PAYMENTS_URL].value changed"},
		Links: []decision.Link{{Name: "Grafana", URL: "https://grafana.example/d/guardian-guard?var-namespace=shop&var-guard=orders-service&from=1772441100000&to=1772442900000"},
			{Name: "Kiali", URL: "https://kiali.example/console/graph/node/namespaces/shop/services/orders?graphType=versionedApp"}},
	}
	return r
}

func TestAReceiptIsOneDocument(t *testing.T) {
	b := newBench(t, record(rolledBackRecord()))
	for output, file := range map[string]string{"": "receipt.golden", "md": "receipt.golden.md", "html": "receipt.golden.html", "json": "receipt.golden.json"} {
		args := []string{"receipt", testGuard}
		if output != "" {
			args = append(args, "-o", output)
		}
		if code, text := b.run(args...); code != exitOK {
			t.Errorf("%s: %d, %s", output, code, text)
			continue
		}
		checkGolden(t, file, b.out.String())
	}
	var doc receiptJSON
	if b.run("receipt", testGuard, "-o", "json"); json.Unmarshal(b.out.Bytes(), &doc) != nil || doc.Kind != "GuardReceipt" || !doc.Locked || doc.Receipt.Failed != 22 {
		t.Errorf("%+v", doc)
	}
	if !strings.Contains(readDoc(t, "docs", "cli.md"), "`GuardReceipt`") {
		t.Error("docs/cli.md does not tell of GuardReceipt")
	}
}

func TestAReceiptSaysWhatIsNotKnown(t *testing.T) {
	r := locked()
	r.Receipt = &decision.Receipt{Lock: decision.LockBuild, By: "alert", Alert: "OrdersDown", Reason: "OrdersDown: it is down", From: 50, Seen: decisiontest.At, Written: decisiontest.At.Add(20 * time.Millisecond), Open: true}
	closed := r.Clone()
	closed.Receipt.Open, closed.Receipt.NotFelt, closed.Receipt.Unread = false, "Prometheus does not answer: refused", "orders-v2 is no Deployment, so that no pod template is compared"
	unlocked := closed.Clone()
	unlocked.Lock = nil
	unlocked.History = []decision.HistoryEntry{{At: decisiontest.At.Add(time.Hour), Event: decision.EventUnlocked, By: "ann", Reason: "false alarm"}}
	person := closed.Clone()
	person.Receipt.Alert, person.Receipt.By, person.Receipt.Lock, person.Lock = "", "ann", decision.LockNone, nil
	for name, c := range map[string]struct {
		rec  decision.Record
		says []string
		not  string
	}{
		"open": {r, []string{"Limit: not known: the alert is none of guardian's own rules", "Began: not known yet", "Fired: not known",
			"Felt: not known yet: guardian asks Prometheus for some minutes", "Failed: not known yet", "Image: not known yet", "Written: 2026-03-02T09:00:00.020Z (+0.020 s)",
			"none are configured", "guardian gate orders-service -n shop --wait-unlocked"}, ""},
		"closed":         {closed, []string{"not known: Prometheus does not answer: refused", "not known: orders-v2 is no Deployment", "Shifted last by: not known"}, "yet"},
		"unlocked since": {unlocked, []string{"The lock was lifted at 2026-03-02T10:00:00Z by ann: false alarm.", "guardian status orders-service -n shop"}, "wait-unlocked"},
		"by a person":    {person, []string{"By: ann", "There is no lock"}, "Alert"},
	} {
		b := newBench(t, record(c.rec))
		code, text := b.run("receipt", testGuard)
		text = strings.Join(strings.Fields(text), " ")
		for _, says := range c.says {
			if code != exitOK || !strings.Contains(text, says) {
				t.Errorf("%s: %d, want %q; said\n%s", name, code, says, text)
			}
		}
		if c.not != "" && strings.Contains(text, c.not) {
			t.Errorf("%s: %q in\n%s", name, c.not, text)
		}
	}
	b := newBench(t, record(locked()))
	for args, says := range map[string]string{testGuard: "no rollback of orders-service is known; what happened: guardian history orders-service -n shop", "nobody": "no guard nobody in namespace shop", testGuard + " -o yaml": `--output "yaml": want json, md, html`} {
		if code, text := b.run(append([]string{"receipt"}, strings.Fields(args)...)...); code == exitOK || !strings.Contains(text, says) {
			t.Errorf("%s: %d, want %q; said\n%s", args, code, says, text)
		}
	}
}

// What a receipt says of what comes next is so where the guard stands now.
func TestAReceiptPromisesNothingThatDoesNotCome(t *testing.T) {
	at := func(edit func(*decision.Record)) decision.Record {
		r := rolledBackRecord().Clone()
		edit(&r)
		return r
	}
	for name, c := range map[string]struct {
		record       decision.Record
		says, offers string
	}{
		"locked": {rolledBackRecord(), "until a new build of it is ready", "guardian gate orders-service -n shop --wait-unlocked"},
		"mode observe": {at(func(r *decision.Record) { r.Status.Observing = &decision.Observing{} }),
			"a new build lifts nothing, and guardian sends nothing back", "guardian unlock orders-service -n shop --reason '…'"},
		"blocked": {at(func(r *decision.Record) {
			r.Status.State, r.Status.Weight, r.Status.Reason = decision.StateBlocked, 10, "stable v1 has 0 ready endpoints"
		}), "The canary has 10% of the traffic, and guardian cannot take it away yet: stable v1 has 0 ready endpoints.", "guardian status orders-service -n shop"},
		"disarmed": {at(func(r *decision.Record) {
			r.Status.State, r.Status.Disarmed = decision.StateDisarmed, &decision.Disarm{Until: decisiontest.At.Add(time.Hour)}
		}), "disarmed until 2026-03-02T10:00:00Z: guardian takes no traffic from the canary before that", "guardian arm orders-service -n shop --reason '…'"},
		"no build is seen": {at(func(r *decision.Record) { r.Status.Build = "" }),
			"guardian cannot see which build the canary runs, so no new one lifts it", "guardian unlock orders-service -n shop --reason '…'"},
		"by hand": {at(func(r *decision.Record) { r.Lock.Kind = decision.LockManual }), "until a person lifts the lock", "guardian unlock orders-service -n shop --reason '…'"},
	} {
		next, command := nextOf("shop", testGuard, c.record)
		if !strings.Contains(next, c.says) || command != c.offers {
			t.Errorf("%s: %s (%s), want %q (%s)", name, next, command, c.says, c.offers)
		}
		if name != "locked" && strings.Contains(next, "until a new build") {
			t.Errorf("%s: %s", name, next)
		}
	}
}

func TestAReceiptForProgramsHasTheSeconds(t *testing.T) {
	b := newBench(t, record(rolledBackRecord()))
	var doc receiptJSON
	if b.run("receipt", testGuard, "-o", "json"); json.Unmarshal(b.out.Bytes(), &doc) != nil {
		t.Fatal(b.out.String())
	}
	want := map[string]float64{"fired": 2.3, "seen": 0.02, "written": 0.019, "felt": 3.861}
	if !maps.Equal(doc.Seconds, want) {
		t.Errorf("%v, want %v", doc.Seconds, want)
	}
}

// What others wrote, in an alert or as a field manager, is text and nothing else.
func TestAReceiptShowsWhatOthersWroteAsText(t *testing.T) {
	evil := "<script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\nx | y `z` [a](javascript:alert(3)) \"'&"
	r := rolledBackRecord()
	c := r.Receipt
	c.Reason, c.Limit, c.By, c.Alert, c.Build, c.NotFelt, c.Unread, c.Good = evil, evil, evil, evil, evil, evil, evil, evil
	c.Images, c.Differs, c.Since, c.Shifted = []string{evil}, []string{evil}, []string{evil}, &decision.Shift{Manager: evil, Cause: evil}
	c.Links = []decision.Link{{Name: evil, URL: "javascript:alert(4)"}, {Name: "x", URL: `https://g"onmouseover="alert(5)`}}
	b := newBench(t, record(r))
	b.run("receipt", testGuard, "-o", "html")
	doc, err := html.Parse(strings.NewReader(b.out.String()))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for n := range doc.Descendants() {
		if n.Type == html.TextNode && strings.Contains(n.Data, "<script>alert(1)</script>") {
			seen++
		}
		if n.Type != html.ElementNode {
			continue
		}
		if slices.Contains(strings.Fields("script img iframe object embed form"), n.Data) {
			t.Errorf("element %s", n.Data)
		}
		for _, a := range n.Attr {
			switch {
			case strings.HasPrefix(a.Key, "on"), a.Key == "src", a.Key == "href" && !strings.HasPrefix(a.Val, "https://"):
				t.Errorf("<%s %s=%q>", n.Data, a.Key, a.Val)
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d texts found: this test plants nothing", seen)
	}
	for _, output := range []string{"", "md"} {
		b.run(append([]string{"receipt", testGuard}, strings.Fields(map[string]string{"md": "-o md"}[output])...)...)
		if text := b.out.String(); strings.ContainsAny(text, "\x1b") || output == "md" && (strings.Contains(text, "<script>") || strings.Contains(text, "[a](java") || strings.Contains(text, "x | y")) {
			t.Errorf("%s:\n%s", output, text)
		}
	}
}
