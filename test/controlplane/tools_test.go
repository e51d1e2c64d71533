package controlplane

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheVersionOfAProgramIsUnderstood(t *testing.T) {
	for _, c := range []struct {
		name, output string
		want         version
		ok           bool
	}{
		{"kube-apiserver", "Kubernetes v1.37.2\n", version{1, 37}, true},
		{"etcd", "etcd Version: 3.7.3\nGit SHA: abc\nGo Version: go1.26.8\n", version{3, 7}, true},
		{"prometheus", "prometheus, version 3.16.0 (branch: HEAD, revision: x)\n  go version: go1.26.8\n", version{3, 16}, true},
		{"kubectl", "Client Version: v1.36.0\nKustomize Version: v5.8.1\n", version{1, 36}, true},
		{"helm", "v4.3.1+gabcdef\n", version{4, 3}, true},
		{"one that prints no version", "usage: etcd\n", version{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := parseVersion(c.output)
			if got != c.want || ok != c.ok {
				t.Errorf("got %v, %v, want %v, %v", got, ok, c.want, c.ok)
			}
		})
	}
}

func TestAFittingProgramOfTheMachineIsTakenAndAnotherIsNot(t *testing.T) {
	for _, c := range []struct {
		name, script string
		taken        bool
	}{
		{"the least version", "echo Kubernetes v1.30.0", true},
		{"one below it", "echo Kubernetes v1.29.9", false},
		{"the next major version", "echo Kubernetes v2.0.0", false},
		{"one that fails", "echo Kubernetes v1.37.2; exit 1", false},
		{"one that says nothing", "true", false},
	} {
		for _, variable := range []string{"KUBEBUILDER_ASSETS", "PATH"} {
			t.Run(c.name+" in "+variable, func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, "kube-apiserver")
				if err := os.WriteFile(path, []byte("#!/bin/sh\n"+c.script+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
				t.Setenv("KUBEBUILDER_ASSETS", "")
				t.Setenv("PATH", "/usr/bin:/bin")
				t.Setenv(variable, dir)
				got, taken := installed(t.Context(), "kube-apiserver", tools()["kube-apiserver"])
				if taken != c.taken || taken && got != path {
					t.Errorf("got %q, %v, want %q, %v", got, taken, path, c.taken)
				}
			})
		}
	}
}

func TestAProgramOfWhichNoVersionFitsIsNotRun(t *testing.T) {
	for name, tool := range tools() {
		if tool.below != (version{}) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			ran := filepath.Join(dir, "ran")
			if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n>"+ran+"\necho v1.0.0\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			t.Setenv("KUBEBUILDER_ASSETS", dir)
			t.Setenv("PATH", dir)
			if path, taken := installed(t.Context(), name, tool); taken {
				t.Errorf("got %q, want none", path)
			}
			if _, err := os.Stat(ran); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("it was run: %v", err)
			}
		})
	}
}

func TestEveryToolIsPinned(t *testing.T) {
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	for name, tool := range tools() {
		pinned, digest, err := pins(filepath.Join(root, "testdata", "tools", tool.folder), tool.module)
		if err != nil || digest == "" {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if tool.below == (version{}) { // without releases: only what is built from the pin is taken
			if pinned == "" || tool.least != (version{}) {
				t.Errorf("%s: pinned at %q, and least is %v without an upper end", name, pinned, tool.least)
			}
			continue
		}
		v, ok := parseVersion(reportedVersion(tool.module, pinned))
		if !ok || !v.fits(tool.least, tool.below) {
			t.Errorf("%s: pinned at %s, which reports %v and does not lie in %v to %v", name, pinned, v, tool.least, tool.below)
		}
	}
	if _, err := Binary(t.Context(), "istiod"); err == nil || !strings.Contains(err.Error(), `"istiod"`) {
		t.Errorf("a tool that is not known: got %v", err)
	}
}

func TestWhatTestsStartIsOfTheVersionThatGuardianIsBuiltWith(t *testing.T) {
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	for module, folder := range map[string]string{
		"github.com/prometheus/prometheus":                                       "prometheus",
		"github.com/prometheus/alertmanager":                                     "alertmanager",
		"github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring": "controller-gen",
	} {
		want, _, err := pins(root, module)
		if err != nil {
			t.Fatal(err)
		}
		if got, _, err := pins(filepath.Join(root, "testdata", "tools", folder), module); err != nil || got != want {
			t.Errorf("testdata/tools/%s: %s at %s (%v), want %s as in go.mod", folder, module, got, err, want)
		}
	}
}

func TestTheOldestProgramsAreChosenByTheEnvironment(t *testing.T) {
	t.Setenv("GUARDIAN_OLDEST", "promtool helm")
	for name, want := range map[string]string{"promtool": "promtool-oldest", "helm": "helm-oldest", "prometheus": "prometheus"} {
		if got := wanted(name); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	for name := range oldest {
		if _, ok := tools()[name+oldestSuffix]; !ok {
			t.Errorf("no tool %s%s", name, oldestSuffix)
		}
	}
	for module, want := range map[string]string{"v0.42.0": "2.42.0", "v0.99.1": "2.99.1", "v0.316.0": "3.16.0"} {
		if got := reportedVersion("github.com/prometheus/prometheus", module); got != want {
			t.Errorf("%s: got %s, want %s", module, got, want)
		}
	}
}

func TestASecondBuildWaitsForTheFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "build.lock")
	unlock, err := lockFile(t.Context(), path, "first")
	if err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lockFile(cancelled, path, "second"); !errors.Is(err, context.Canceled) {
		t.Fatalf("while the first builds: got %v, want a wait that the context ends", err)
	}
	taken := make(chan error, 1)
	go func() {
		unlock, err := lockFile(t.Context(), path, "third")
		if err == nil {
			unlock()
		}
		taken <- err
	}()
	unlock()
	if err := <-taken; err != nil {
		t.Errorf("after the first: %v", err)
	}
}

func TestANamespaceIsADNSLabel(t *testing.T) {
	for text, want := range map[string]string{
		"TestA/b c_d":            "testa-b-c-d",
		"7 up":                   "t7-up",
		"":                       "t",
		"--x--":                  "x",
		strings.Repeat("ab ", 9): "ab-ab-ab-ab",
	} {
		if got := label(text, 12); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestAKubectlFarFromTheServersVersionIsNotTaken(t *testing.T) {
	for printed, want := range map[string]bool{
		"Client Version: v1.32.4-dispatcher": false,
		"Client Version: v1.33.9":            false,
		"Client Version: v1.34.0":            true,
		"Client Version: v1.40.9":            true,
		"Client Version: v1.41.0":            false,
	} {
		v, ok := parseVersion(printed)
		kubectl := tools()["kubectl"]
		if got := ok && v.fits(kubectl.least, kubectl.below); got != want {
			t.Errorf("%s: taken %v, want %v", printed, got, want)
		}
	}
}
