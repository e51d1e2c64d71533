//go:build ci

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/canary-guardian/guardian/test/controlplane"
	"github.com/canary-guardian/guardian/test/golden"
)

// ciRun is a pipeline's run: its lines and the canary's weights, each with the
// seconds since the beginning, and in the order in which they were seen.
type ciRun struct {
	mu    sync.Mutex
	start time.Time
	rest  string
	lines []string
	code  int
}

// Write takes what the pipeline prints.
func (r *ciRun) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rest += string(p)
	for {
		line, rest, whole := strings.Cut(r.rest, "\n")
		if !whole {
			return len(p), nil
		}
		r.add(line)
		r.rest = rest
	}
}

func (r *ciRun) add(line string) {
	if strings.HasPrefix(line, `{"metadata":`) { // kubectl shows the whole patch
		line = "{…}"
	}
	r.lines = append(r.lines, strings.TrimRight(fmt.Sprintf("%6.1f s  %s", time.Since(r.start).Seconds(), line), " "))
}

func (r *ciRun) weight(share int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(fmt.Sprintf("==> v2 has %d%%", share))
}

func (r *ciRun) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "\n") + "\n"
}

// said fails the test where the run did not say something.
func (r *ciRun) said(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(r.String(), text) {
			t.Errorf("want %q in\n%s", text, r)
		}
	}
}

// run runs a program as a CI does, in the sample's folder, while somebody looks at
// the weights.
func (s *sample) run(cmd *exec.Cmd) *ciRun {
	s.t.Helper()
	r, last := &ciRun{start: time.Now()}, int64(-1)
	stop := s.eachVirtualService(func(vs *unstructured.Unstructured) {
		if share := canaryWeight(vs); share != last {
			last = share
			r.weight(share)
		}
	})
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.folder, r, r
	err := cmd.Run()
	stop()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("%v\n%s", err, r)
	}
	r.code = cmd.ProcessState.ExitCode()
	r.mu.Lock()
	r.add(fmt.Sprintf("exit status %d", r.code))
	r.mu.Unlock()
	s.t.Logf("%s:\n%s", filepath.Base(cmd.Path), r)
	return r
}

// shorter has the gates of a pipeline watch for a few seconds instead of a minute.
func (s *sample) shorter(path ...string) {
	s.t.Helper()
	file := filepath.Join(append([]string{s.folder}, path...)...)
	text, err := os.ReadFile(file)
	s.must(err)
	short := strings.NewReplacer("--for 60s", "--for 5s", "for: 60s", "for: 5s").Replace(string(text))
	if short == string(text) {
		s.t.Errorf("%s has no gate of 60s", file)
	}
	s.must(os.WriteFile(file, []byte(short), 0o644))
}

var (
	ofRun     = regexp.MustCompile(`^ *[0-9.]+ s  `)
	structure = regexp.MustCompile(`^(\[stage .*|\[post: .*|ERROR: .*|Finished: .*|exit status .*|\[.*\] ⭐ Run Main .*|\[.*\] 🏁 .*)$`)
)

// outline is what of a run is the same each time: its stages, and what came of them.
func outline(log string) (out []string) {
	for line := range strings.Lines(log) {
		if text := ofRun.ReplaceAllString(strings.TrimRight(line, "\n"), ""); structure.MatchString(text) {
			out = append(out, text)
		}
	}
	return out
}

// captured holds a run against the log that a page shows, or writes it there with
// -update: make test-ci FLAGS=-update.
func (r *ciRun) captured(t *testing.T, page, name string) {
	t.Helper()
	text := readDoc(t, page)
	for _, b := range blocksOf(page, text) {
		if b.mark != "captured: "+name {
			continue
		}
		if *rewrite {
			mark := "<!-- " + b.mark + " -->\n```text\n"
			text = strings.Replace(text, mark+b.text+"```", mark+r.String()+"```", 1)
			if err := os.WriteFile(filepath.Join("..", "..", page), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		if got, want := outline(r.String()), outline(b.text); !slices.Equal(got, want) {
			t.Errorf("%v shows another run than\n%s\n%s", b, r, golden.FirstDifference(strings.Join(got, "\n"), strings.Join(want, "\n")))
		}
		return
	}
	t.Errorf("%s has no block captured: %s", page, name)
}

// groovy is a command that runs a Jenkinsfile by the stub.
func (s *sample) groovy(file string, build int) *exec.Cmd {
	s.t.Helper()
	path, err := exec.LookPath("groovy")
	if err != nil {
		s.t.Fatal("groovy is not on PATH (Debian: apt-get install groovy default-jre-headless)")
	}
	stub, err := filepath.Abs(filepath.Join("..", "..", "testdata", "jenkins", "declarative.groovy"))
	s.must(err)
	cmd := exec.CommandContext(s.t.Context(), path, stub, file)
	cmd.Env = append(slices.Clone(s.env), fmt.Sprintf("BUILD_NUMBER=%d", build))
	if java, err := exec.LookPath("java"); err == nil && os.Getenv("JAVA_HOME") == "" { // Debian's groovy wants to be told
		if java, err = filepath.EvalSymlinks(java); err == nil {
			cmd.Env = append(cmd.Env, "JAVA_HOME="+filepath.Dir(filepath.Dir(java)))
		}
	}
	return cmd
}

const jenkinsPage = "docs/pairings/jenkins.md"

// TestTheJenkinsfileByGroovy releases builds one after the other, as the sample's
// Jenkinsfile and one that knows nothing of guardian do. Jenkins itself is a stub.
func TestTheJenkinsfileByGroovy(t *testing.T) {
	s := newSample(t)
	s.weightFiles(s.folder)
	s.shorter("ci", "Jenkinsfile")
	plain, err := filepath.Abs(filepath.Join("..", "..", "testdata", "jenkins", "Jenkinsfile.plain"))
	s.must(err)
	jenkinsfile := filepath.Join("ci", "Jenkinsfile")

	healthy := s.run(s.groovy(jenkinsfile, 2))
	if healthy.code != 0 {
		t.Fatal("the healthy release failed")
	}
	s.wantShares(0, 10, 30, 50, 100)
	healthy.captured(t, jenkinsPage, "healthy")

	stop := s.failAt(30)
	failing := s.run(s.groovy(jenkinsfile, 3))
	stop()
	if failing.code != 1 {
		t.Errorf("the failing release: exit status %d", failing.code)
	}
	failing.said(t, "7% of requests fail", "[stage Canary / 50%] skipped due to earlier failure(s)", "[post: unsuccessful]")
	s.wantShares(100, 0, 10, 30, 0) // the build of the first release became the stable one before
	failing.captured(t, jenkinsPage, "failing")

	// A pipeline that does not wait for its pods, and knows nothing of guardian.
	s.rolling.Store(false)
	refused := s.run(s.groovy(plain, 4))
	if refused.code != 1 {
		t.Errorf("the release that is refused: exit status %d", refused.code)
	}
	refused.said(t, "7% of requests fail", "wait until it is rolled out (kubectl rollout status, or: guardian gate orders-service -n microservices --wait-unlocked)",
		"[stage Shift to 50/50] skipped", "[post: failure]")
	s.wantShares(0)
	refused.captured(t, jenkinsPage, "refused")

	// The same where the namespace is labelled to hold instead of to refuse.
	s.asAdmin("", "label", "namespace", s.ns, "canary-guardian.io/admission=rewrite")
	s.wait("the label is in force", func(ctx context.Context) error {
		_, said := s.sh("kubectl apply --dry-run=server -f vs-90-10.yaml", "")
		if !strings.Contains(said, "Warning") {
			return errors.New(said)
		}
		return nil
	})
	held := s.run(s.groovy(plain, 4))
	if held.code != 0 {
		t.Errorf("the release that is held: exit status %d", held.code)
	}
	held.said(t, "Warning: ")
	s.wantShares(0)
	held.captured(t, jenkinsPage, "held")
	s.asAdmin("", "label", "namespace", s.ns, "canary-guardian.io/admission-")

	// The next release waits for its pods, and goes through.
	s.alert("resolved")
	s.rolling.Store(true)
	if next := s.run(s.groovy(jenkinsfile, 5)); next.code != 0 {
		t.Error("the release after the rollback failed")
	}
	s.wantShares(0, 10, 30, 50, 100)
}

// act is a command that runs a workflow on this machine: no containers.
func (s *sample) act(workflow string, run int) *exec.Cmd {
	s.t.Helper()
	path, err := controlplane.Binary(s.t.Context(), "act")
	s.must(err)
	root, err := controlplane.Root()
	s.must(err)
	home := s.t.TempDir()
	args := []string{"push", "-P", "self-hosted=-self-hosted", "-W", workflow, "--env", fmt.Sprintf("GITHUB_RUN_NUMBER=%d", run),
		"--local-repository", "canary-guardian/guardian@main=" + root}
	for _, name := range []string{"KUBECONFIG", "KUBECACHEDIR", "GATE_FOR"} {
		i := slices.IndexFunc(s.env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		args = append(args, "--env", s.env[i])
	}
	cmd := exec.CommandContext(s.t.Context(), path, args...)
	cmd.Env = append(slices.Clone(s.env), "HOME="+home, "XDG_CACHE_HOME="+home)
	return cmd
}

const actionsPage = "docs/pairings/github-actions.md"

// TestTheWorkflowsByAct runs the sample's workflow and the composite action, healthy
// and failing.
func TestTheWorkflowsByAct(t *testing.T) {
	s := newSample(t)
	s.weightFiles(s.folder)
	action := filepath.Join(".github", "workflows", "gate-action.yaml")
	text := readDoc(t, "docs", "samples", "gate-action.yaml")
	text = strings.Replace(text, "on: workflow_dispatch", "on: push", 1)
	s.must(os.WriteFile(filepath.Join(s.folder, action), []byte(text), 0o644))
	s.shorter(".github", "workflows", "gate-action.yaml")
	s.shorter(".github", "workflows", "canary.yaml")
	s.initGit() // act wants a repository

	// The action: healthy, then rolled back while it watches.
	if r := s.run(s.act(action, 1)); r.code != 0 {
		t.Error("the action failed on a healthy canary")
	} else {
		r.said(t, "::notice", "healthy for 5s at 10%")
	}
	s.wantShares(0, 10, 50)
	s.mustSh("ci/shift.sh 0")
	s.shares.take()
	stop := s.failAt(10)
	failed := s.run(s.act(action, 2))
	stop()
	if failed.code != 1 {
		t.Errorf("the action on a canary that is rolled back: exit status %d", failed.code)
	}
	failed.said(t, "::error", "7% of requests fail")
	s.wantShares(0, 10, 0)

	// The workflow: the next build lifts the lock, and the one after it fails at 30%.
	s.alert("resolved")
	workflow := filepath.Join(".github", "workflows", "canary.yaml")
	healthy := s.run(s.act(workflow, 3))
	if healthy.code != 0 {
		t.Fatal("the healthy release failed")
	}
	s.wantShares(0, 10, 30, 50, 100)
	healthy.captured(t, actionsPage, "healthy")
	stop = s.failAt(30)
	failing := s.run(s.act(workflow, 4))
	stop()
	if failing.code != 1 {
		t.Errorf("the failing release: exit status %d", failing.code)
	}
	failing.said(t, "7% of requests fail", "Back to v1")
	s.wantShares(100, 0, 10, 30, 0)
	failing.captured(t, actionsPage, "failing")
}
