package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The sample's release ends with the gate's exit code, also where the API server takes no weights any more: then the
// gate could not tell, and neither can the traffic be taken back.
func TestAReleaseEndsWithTheGatesExitCodeWhateverBecomesOfTheTraffic(t *testing.T) {
	script := readDoc(t, "docs", "samples", "orders", "ci", "release.sh")
	for _, code := range []int{exitOK, exitFailed, exitUnknown} {
		for _, refused := range []string{"exit 0", `[ "$1" != 0 ]`} {
			dir := t.TempDir()
			for name, text := range map[string]string{
				"ci/release.sh": script, "ci/make-stable.sh": "#!/bin/sh\n", "ci/deploy.sh": "#!/bin/sh\n", "bin/kubectl": "#!/bin/sh\n",
				"ci/shift.sh":  "#!/bin/sh\necho shift \"$1\"\n" + refused + "\n",
				"bin/guardian": fmt.Sprintf("#!/bin/sh\ncase $* in *--wait-unlocked*) exit 0 ;; esac\nexit %d\n", code),
			} {
				file := filepath.Join(dir, name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o700)); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "ci", "release.sh"), "orders:2")
			cmd.Env = []string{"PATH=" + filepath.Join(dir, "bin") + ":" + os.Getenv("PATH")}
			out, err := cmd.CombinedOutput()
			if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			takesBack, warns := strings.Contains(string(out), "shift 0"), strings.Contains(string(out), "keeps its traffic")
			if got := cmd.ProcessState.ExitCode(); got != code || takesBack != (code != exitOK) || warns != (code != exitOK && refused != "exit 0") {
				t.Errorf("gate %d, taken back by %q: exit status %d\n%s", code, refused, got, out)
			}
		}
	}
}
