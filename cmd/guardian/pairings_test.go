package main

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// gitlabScript is what GitLab runs: the scripts of the jobs, stage by stage, with
// the file's variables.
func gitlabScript(t *testing.T, pipeline string) string {
	t.Helper()
	type job struct {
		Stage  string
		Script []string
	}
	text := []byte(readDoc(t, "docs", "samples", "orders", ".gitlab-ci.yml"))
	var file struct {
		Stages    []string
		Variables map[string]string
		Build     job
		Release   job
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for name, value := range file.Variables {
		lines = append(lines, name+"="+strings.ReplaceAll(value, "$CI_PIPELINE_IID", pipeline), "export "+name)
	}
	for _, stage := range file.Stages {
		for _, j := range []job{file.Build, file.Release} {
			if j.Stage == stage {
				lines = append(lines, j.Script...)
			}
		}
	}
	return strings.Join(lines, "\n")
}

// tektonScript is what the step of the Task runs, and its environment.
func tektonScript(t *testing.T, image string) (script string, env []string) {
	t.Helper()
	var task struct {
		Spec struct {
			Steps []struct {
				Script string
				Env    []struct{ Name, Value string }
			}
		}
	}
	if err := yaml.Unmarshal([]byte(readDoc(t, "docs", "samples", "orders", "ci", "tekton.yaml")), &task); err != nil || len(task.Spec.Steps) != 1 {
		t.Fatalf("%d steps, %v", len(task.Spec.Steps), err)
	}
	known := strings.NewReplacer("$(context.taskRun.namespace)", sampleNamespace, "$(params.image)", image)
	for _, e := range task.Spec.Steps[0].Env {
		env = append(env, e.Name+"="+known.Replace(e.Value))
	}
	script = known.Replace(task.Spec.Steps[0].Script)
	if strings.Contains(script+strings.Join(env, ""), "$(") {
		t.Errorf("this test does not know all of Tekton's variables in %s %q", script, env)
	}
	return script, env
}

// TestAReleaseThatEndsEarlyLeavesNothingOnTheCanary has a release rolled back, as
// Tekton runs it, and somebody abort the next one.
func TestAReleaseThatEndsEarlyLeavesNothingOnTheCanary(t *testing.T) {
	s := newSample(t)
	const image = "registry.example/orders-service:2"
	script, env := tektonScript(t, image)
	s.env = append(s.env, env...)
	stop := s.failAt(10)
	code, said := s.sh(script, image)
	stop()
	if code != exitFailed || !strings.Contains(said, "7% of requests fail") {
		t.Errorf("Tekton: exit status %d\n%s", code, said)
	}
	s.wantShares(0, 10, 0)
	if got := s.image("v2"); got != image {
		t.Errorf("v2 runs %s", got)
	}

	// A shell: aborted while its gate waits at 10%.
	s.alert("resolved")
	cmd := exec.CommandContext(t.Context(), filepath.Join("ci", "release.sh"), "registry.example/orders-service:3")
	cmd.Dir, cmd.Env, cmd.SysProcAttr = s.folder, append(slices.Clone(s.env), "GATE_FOR=1h"), &syscall.SysProcAttr{Setpgid: true}
	log := &syncBuffer{}
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = log, log, 10*time.Second
	s.must(cmd.Start())
	stop = s.onShare(10, func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) })
	_ = cmd.Wait()
	stop()
	if code := cmd.ProcessState.ExitCode(); code != 143 {
		t.Errorf("aborted: exit status %d\n%s", code, log)
	}
	s.isAt(0)
	s.wantShares(0, 10, 0)
}

// onShare does something once, when the canary has a share; stop waits until it is
// done or the share never comes.
func (s *sample) onShare(share int64, do func() error) (stop func()) {
	s.t.Helper()
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			if s.shares.now() == share {
				if err := do(); err != nil {
					s.t.Error(err)
				}
				return
			}
			select {
			case <-tick.C:
			case <-stopped:
				return
			}
		}
	}()
	return func() {
		close(stopped)
		<-done
	}
}

// failAt has the alert of 7% errors fire as soon as the canary has a share.
func (s *sample) failAt(share int64) (stop func()) {
	return s.onShare(share, func() error { return insist(s.t.Context(), s.g.url, webhookOf(s.alertOf(sampleGuard))) })
}

// now is the canary's present share; -1: none has been seen.
func (s *shares) now() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) == 0 {
		return -1
	}
	return s.list[len(s.list)-1]
}
