//go:build chart

package controlplane_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/canary-guardian/guardian/test/controlplane"
)

// inside prints what a program sees of the machine.
const inside = `package main

import (
	"fmt"
	"os"
)

func main() {
	names, err := os.ReadDir("/")
	fmt.Println(os.Getuid(), os.Getgid(), len(os.Environ()), os.Getenv("A"), names, err)
}
`

func TestAProgramHasARootAndAUserOfItsOwn(t *testing.T) {
	plane, err := controlplane.Start(t.Context(), controlplane.Options{WithoutKubernetes: true})
	must(t, err)
	defer plane.Stop()
	root := filepath.Join(plane.Dir(), "root")
	must(t, os.Mkdir(root, 0o755))
	must(t, os.Chmod(plane.Dir(), 0o755))
	source := filepath.Join(t.TempDir(), "main.go")
	must(t, os.WriteFile(source, []byte(inside), 0o600))
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(root, "program"), source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	p, err := plane.Run(t.Context(), controlplane.Program{Name: "inside", Path: "/program", Root: root, User: 65532, Env: []string{"A=b"}})
	must(t, err)
	eventually(t, "it ends", func() error {
		select {
		case <-p.Ended():
			return nil
		default:
			return errors.New("it runs")
		}
	})
	if got, want := p.Tail(1), "65532 65532 1 b [- program] <nil>"; got != want || p.ExitCode() != 0 {
		t.Errorf("it ended with %d and says %q, want %q", p.ExitCode(), got, want)
	}
}
