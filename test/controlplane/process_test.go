package controlplane_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/canary-guardian/guardian/test/controlplane"
)

// endings are the ways in which a process that owns a control plane can end without stopping it: by itself, or, where
// the function is nil, by a signal.
var endings = map[string]struct {
	signal syscall.Signal
	itself func()
}{
	"it is killed":      {signal: syscall.SIGKILL},
	"it is interrupted": {signal: syscall.SIGINT},
	"it panics":         {itself: func() { panic("on purpose") }},
	"it exits":          {itself: func() { os.Exit(3) }},
}

// TestOwner is no test of its own: TestNothingOutlivesItsOwner runs it in a process that it ends.
func TestOwner(t *testing.T) {
	ending := os.Getenv("CONTROLPLANE_ENDING")
	if ending == "" {
		t.Skip("started by TestNothingOutlivesItsOwner")
	}
	plane, err := controlplane.Start(t.Context(), controlplane.Options{WithoutKubernetes: true})
	must(t, err)
	child, grandchild := runFamily(t, plane)
	fmt.Printf("owns %d %d %s\n", child.Pid(), grandchild, plane.Dir())
	if itself := endings[ending].itself; itself != nil {
		itself()
	}
	<-child.Ended() // never: the signal comes first
}

// runFamily starts a child whose own child does not die with it.
func runFamily(t *testing.T, plane *controlplane.Plane) (child *controlplane.Process, grandchild int) {
	t.Helper()
	child, err := plane.Run(t.Context(), controlplane.Program{
		Name: "child", Path: "/bin/sh", Args: []string{"-c", "sleep 1000 & echo $!; wait"},
	})
	must(t, err)
	eventually(t, "the child prints the id of its own", func() error {
		grandchild, err = strconv.Atoi(child.Tail(1))
		return err
	})
	return child, grandchild
}

func TestNothingOutlivesItsOwner(t *testing.T) {
	for name, ending := range endings {
		t.Run(name, func(t *testing.T) {
			owner := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOwner$")
			owner.Env = append(os.Environ(), "CONTROLPLANE_ENDING="+name)
			owner.Stderr = nil
			stdout, err := owner.StdoutPipe()
			must(t, err)
			must(t, owner.Start())
			var child, grandchild int
			var folder string
			lines := bufio.NewScanner(stdout)
			for folder == "" && lines.Scan() {
				_, _ = fmt.Sscanf(lines.Text(), "owns %d %d %s", &child, &grandchild, &folder)
			}
			if folder == "" {
				t.Fatalf("the owner did not say what it owns; it ended with %v", owner.Wait())
			}
			if ending.signal != 0 {
				must(t, owner.Process.Signal(ending.signal))
			}
			_ = owner.Wait()
			eventually(t, "the child is gone", gone(child))
			eventually(t, "the child's child is gone", gone(grandchild))
			eventually(t, "the folder is gone", func() error { return missing(folder) })
		})
	}
}

func TestStopEndsEverythingBeforeItReturns(t *testing.T) {
	plane, err := controlplane.Start(t.Context(), controlplane.Options{WithoutKubernetes: true})
	must(t, err)
	child, grandchild := runFamily(t, plane)
	plane.Stop()
	plane.Stop()
	select {
	case <-child.Ended():
	default:
		t.Error("the child still runs")
	}
	if err := missing(plane.Dir()); err != nil {
		t.Error(err)
	}
	eventually(t, "the child's child is gone", gone(grandchild))
	if _, err := plane.Run(t.Context(), controlplane.Program{Name: "late", Path: "/bin/true"}); err == nil {
		t.Error("a stopped control plane started a program")
	}
}

func TestAProgramThatDoesNotStartShowsItsLog(t *testing.T) {
	plane, err := controlplane.Start(t.Context(), controlplane.Options{WithoutKubernetes: true})
	must(t, err)
	defer plane.Stop()
	_, err = plane.Run(t.Context(), controlplane.Program{
		Name: "broken", Path: "/bin/sh", Args: []string{"-c", "echo the disk is on fire; exit 7"},
		Ready: func(context.Context) error { return errors.New("no answer") },
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range []string{"start broken", "exit status 7", "the disk is on fire"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q lacks %q", err, part)
		}
	}
}

// gone says whether a process has ended; one that nobody has waited for yet counts as ended.
func gone(pid int) func() error {
	return func() error {
		if syscall.Kill(pid, 0) != nil {
			return nil
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err == nil && strings.Contains(string(status), ") Z ") {
			return nil
		}
		return fmt.Errorf("process %d still runs", pid)
	}
}

func missing(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is still there (%v)", path, err)
	}
	return nil
}
