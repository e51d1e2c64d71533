package records

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/decision/decisiontest"
	corev1 "k8s.io/api/core/v1"
)

func mustPatch(t *testing.T, old *corev1.ConfigMap, r decision.Record) []byte {
	t.Helper()
	patch, err := Patch(old, nil, r, "")
	if err != nil {
		t.Fatal(err)
	}
	return patch
}

func TestARequestIsFlatKeysOfTheRecord(t *testing.T) {
	q := decision.Request{Action: decision.RequestDisarm, By: `oidc:DOM\x "y"`, Reason: "incident 4711", At: at, Until: at.Add(time.Hour)}
	want := map[string]string{"request.action": "disarm", "request.by": `oidc:DOM\x "y"`, "request.reason": "incident 4711",
		"request.at": at.Format(time.RFC3339), "request.until": at.Add(time.Hour).Format(time.RFC3339)}
	data := decision.Record{Request: &q}.Data()
	for key, value := range want {
		if data[key] != value {
			t.Errorf("key %s is %q, want %q: a policy holds it against the user who writes it", key, data[key], value)
		}
	}
	if _, ok := (decision.Record{Request: &decision.Request{Action: decision.RequestPause, By: "ann", Reason: "r", At: at}}).Data()["request.until"]; ok {
		t.Error("an end is written for what has none")
	}
}

func TestARequestThatCannotBeUnderstoodIsRefusedAndStandsInNobodysWay(t *testing.T) {
	whole := decision.Request{Action: decision.RequestRollback, By: "ann", Reason: "because", At: at}.Data()
	for name, tc := range map[string]struct {
		edit func(map[string]string)
		says string
	}{
		"no name":               {func(d map[string]string) { delete(d, decision.KeyRequestBy) }, "without request.by: want request.action, request.by, request.reason, request.at together"},
		"the name alone":        {func(d map[string]string) { clear(d); d[decision.KeyRequestBy] = "ann" }, "without request.action, request.reason, request.at"},
		"an end alone":          {func(d map[string]string) { clear(d); d[decision.KeyRequestUntil] = "2026-03-02T09:00:00Z" }, "without request.action"},
		"no time":               {func(d map[string]string) { d[decision.KeyRequestAt] = "tomorrow" }, `key request.at is "tomorrow": want a time as`},
		"no end":                {func(d map[string]string) { d[decision.KeyRequestUntil] = "1h" }, `key request.until is "1h": want a time as`},
		"JSON of long ago":      {func(d map[string]string) { clear(d); d["request"] = `{"action":"rollback"}` }, "key request is of an older guardian"},
		"an action of nobody's": {func(d map[string]string) { d[decision.KeyRequestAction] = "freeze" }, `request "freeze" refused: want rollback, unlock, pause, resume, promote, disarm, arm, mark-wrong or mark-right`},
	} {
		t.Run(name, func(t *testing.T) {
			in := decisiontest.Given(decisiontest.Gets(50))
			cm := recordMap(in.Record)
			keys := maps.Clone(whole)
			tc.edit(keys)
			maps.Copy(cm.Data, keys)
			r, err := Parse(cm)
			if err != nil || r.Request == nil {
				t.Fatalf("request %v, error %v; want one that says what is wrong", r.Request, err)
			}
			in.Record = r
			d := decision.Decide(in, at)
			if len(d.Added) != 1 || d.Added[0].Event != "refused" || !strings.Contains(d.Added[0].Reason, tc.says) {
				t.Errorf("told %+v, want it refused with %q", d.Added, tc.says)
			}
			if d.Record.Request != nil || d.Move != decision.MoveNone {
				t.Errorf("request %+v is left, move %v", d.Record.Request, d.Move)
			}
			if !strings.Contains(string(mustPatch(t, cm, d.Record)), `"request`) {
				t.Error("the keys are not taken off the record")
			}
		})
	}
}
