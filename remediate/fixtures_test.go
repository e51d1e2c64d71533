package remediate

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/decision/decisiontest"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const fixtures = "../testdata/rewrite"

var (
	bySubset = virtualservice.Pair{Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Subset: "v2"}, Host: "orders-service", Namespace: "microservices"}
	byHost   = virtualservice.Pair{Stable: virtualservice.Ref{Host: "orders-v1"}, Canary: virtualservice.Ref{Host: "orders-v2"}, Namespace: "microservices"}
	all      = virtualservice.Options{MatchRoutes: true, Mirrors: true}
)

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(fixtures, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const guardianUser = "system:serviceaccount:" + testNamespace + ":guardian"

// at is the moment of what the tables tell; all other times are given relative to
// it.
var at = decisiontest.At

// locked is a guard that was rolled back from b1, with the canary at 0.
func locked(kind decision.LockKind) func(*decision.Input) {
	return func(in *decision.Input) {
		in.Record.Status.State, in.Record.Status.Weight = decision.StateRolledBack, 0
		decisiontest.Gets(0)(in)
		in.Record.Lock = &decision.Lock{Kind: kind, Build: "b1", Alert: "CanaryErrors", By: "alert", Since: at.Add(-10 * time.Minute), Reason: "CanaryErrors: 7% of requests fail"}
		in.Record.Refused = []string{"b1"}
	}
}

func mustEncode(t testing.TB, l decision.LockAnnotation) string {
	t.Helper()
	text, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return text
}
