package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/test/controlplane"
)

// TestKubectlRunsThePlugin has the real kubectl find guardian as its plugin, run it and complete guards' names by the
// script of docs/cli.md, as a user with a kubeconfig alone.
func TestKubectlRunsThePlugin(t *testing.T) {
	r := newRig(t)
	app := r.app("orders", 50)
	g := r.serve("guardian-0", r.config("127.0.0.1:0", "", app))
	r.must(insist(t.Context(), g.url, webhookOf(r.alertOf(app.Name))))
	r.rolledBack(app)

	kubectl, err := controlplane.Binary(t.Context(), "kubectl")
	r.must(err)
	kubeconfig, err := r.plane.Kubeconfig(controlplane.Admin, r.ns)
	r.must(err)
	bin := t.TempDir()
	r.must(os.Symlink(kubectl, filepath.Join(bin, "kubectl")))
	r.must(os.Symlink(r.binary(), filepath.Join(bin, "kubectl-guardian")))
	lines := regexp.MustCompile("with the lines `(#![^`]+)` and `([^`]+)`").FindStringSubmatch(readDoc(t, "docs", "cli.md"))
	if lines == nil {
		t.Fatal("docs/cli.md does not show kubectl_complete-guardian")
	}
	r.must(os.WriteFile(filepath.Join(bin, "kubectl_complete-guardian"), []byte(lines[1]+"\n"+lines[2]+"\n"), 0o700))
	run := func(args ...string) (int, string) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "kubectl"), args...)
		cmd.Env = []string{"PATH=" + bin + ":/usr/bin:/bin", "KUBECONFIG=" + kubeconfig, "KUBECACHEDIR=" + t.TempDir(), "HOME=" + t.TempDir()}
		out, _ := cmd.CombinedOutput() // its exit status tells
		return cmd.ProcessState.ExitCode(), string(out)
	}
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"plugin list", exitOK, filepath.Join(bin, "kubectl-guardian")},
		{"guardian status", exitOK, "orders  rolled-back"},
		{"guardian status orders", exitOK, "Guard:           " + r.ns + "/orders"},
		{"guardian gate orders", exitFailed, "\n  by:       alert"},
		{"guardian gate nobody", exitUnknown, "guards there: orders"},
		{"guardian --help", exitOK, "kubectl guardian [command]"},
		{"__complete guardian g", exitOK, "gate\t"},
		{"__complete guardian gate ", exitOK, "orders\trolled-back, canary at 0%\n:4\n"},
	} {
		code, text := run(strings.Split(c.args, " ")...)
		want(t, code, c.args+": "+text, c.code, c.says)
		if strings.Contains(text, "\x1b") {
			t.Errorf("%s: colours where there is no terminal: %q", c.args, text)
		}
	}
}
