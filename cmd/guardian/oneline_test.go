package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// oneLine is a pipeline of somebody's own: a file for each weight, a sleep, and a query whose answer is always that
// nothing fails. It is ready to run, with the line for guardian or without.
type oneLine struct{ *sample }

func newOneLine(t *testing.T) *oneLine {
	o := &oneLine{newSample(t)}
	o.must(os.WriteFile(filepath.Join(o.bin, "curl"), []byte("#!/bin/sh\necho '{\"status\":\"success\",\"data\":{\"resultType\":\"vector\",\"result\":[]}}'\n"), 0o700))
	o.env = append(o.env, "SOAK=3", "PROMETHEUS=http://prometheus.example")
	o.weightFiles(o.folder)
	deployment, err := os.ReadFile(filepath.Join(o.folder, "k8s", "orders", "deployment-v2.yaml"))
	o.must(err)
	o.must(os.WriteFile(filepath.Join(o.folder, "deployment.yaml"), deployment, 0o644))
	script := readDoc(t, "testdata", "oneline", "release.sh")
	lines := strings.SplitAfter(script, "\n")
	var without []string
	for _, line := range lines {
		if !strings.HasPrefix(line, "guardian gate ") {
			without = append(without, line)
		}
	}
	if len(without) != len(lines)-1 || strings.Count(strings.Join(without, ""), "guardian ") != 1 { // the comment's
		t.Fatalf("the script has more of guardian than one line:\n%s", script)
	}
	for name, text := range map[string]string{"release.sh": strings.ReplaceAll(script, "--for 60s", "--for 5s"), "without.sh": strings.Join(without, "")} {
		o.must(os.WriteFile(filepath.Join(o.folder, name), []byte(text), 0o700))
	}
	return o
}

// failSoonAt has the alert begin when the new build's pods serve: this pipeline does not wait for them.
func (o *oneLine) failSoonAt(share int64) (stop func()) {
	return o.onShare(share, func() error {
		if err := sleep(o.t.Context(), 2*time.Second); err != nil {
			return err
		}
		return insist(o.t.Context(), o.g.url, webhookOf(o.alertOf(sampleGuard)))
	})
}

// What docs/pairings/shell.md says of one line in a pipeline of one's own: it stops on a rollback, and what the pipeline
// does without it is refused. It does not wait for pods.
func TestOneLineInAPipelineOfOnesOwn(t *testing.T) {
	o := newOneLine(t)
	code, said := o.sh("./release.sh", "orders:1")
	if code != 0 || !strings.Contains(said, "healthy for 5s at 10%") {
		t.Fatalf("a healthy release: exit status %d\n%s", code, said)
	}
	o.wantShares(0, 10, 50, 100)

	o.mustSh("kubectl apply -f vs-100-0.yaml")
	o.shares.take()
	stop := o.failSoonAt(10)
	code, said = o.sh("./release.sh", "orders:2")
	stop()
	if code != exitFailed || !strings.Contains(said, "7% of requests fail") || strings.Contains(said, "the canary fails") {
		t.Errorf("a canary that fails: exit status %d\n%s", code, said)
	}
	o.wantShares(0, 10, 0)

	// The next release shifts in the second in which it deploys: its pods are not the ready ones yet.
	o.alert("resolved")
	o.rolling.Store(false)
	code, said = o.sh("./release.sh", "orders:3")
	if code == 0 || !strings.Contains(said, "wait until it is rolled out (kubectl rollout status, or: guardian gate orders-service -n microservices --wait-unlocked)") {
		t.Errorf("a release that does not wait: exit status %d\n%s", code, said)
	}
	o.wantShares(0)
	o.rolling.Store(true)
	o.mustSh("guardian gate orders-service -n microservices --wait-unlocked --timeout 5m")

	// Without the line the pipeline sees nothing, goes on, and is refused.
	stop = o.failSoonAt(10)
	code, said = o.sh("./without.sh", "orders:4")
	stop()
	if code == 0 || !strings.Contains(said, "7% of requests fail") || !strings.Contains(said, "vs-50-50.yaml") {
		t.Errorf("without the line: exit status %d\n%s", code, said)
	}
	o.wantShares(0, 10, 0)
}
