package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"github.com/canary-guardian/guardian/remediate/virtualservice/vstest"
)

// manifest is a VirtualService as CI keeps it, comment and all.
func manifest(stable, canary int) string {
	return fmt.Sprintf(`apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata:
  name: orders-service
  namespace: microservices
spec:
  hosts:
  - orders-service
  http:
  - route: # the two builds
    - destination:
        host: orders-service
        subset: v1
      weight: %d
    - destination:
        host: orders-service
        subset: v2
      weight: %d
`, stable, canary)
}

func plan(t *testing.T, in string, args ...string) (int, string, error) {
	t.Helper()
	var out bytes.Buffer
	a := &app{name: "guardian", in: strings.NewReader(in), out: &out, errOut: &out}
	cmd := a.command()
	cmd.SetArgs(append([]string{"plan"}, args...))
	err := cmd.Execute()
	return exitCode(err), out.String(), err
}

func TestPlanOfEachStepIsByteForByteTheStableManifest(t *testing.T) {
	for _, canary := range []int{0, 10, 30, 50, 100} {
		in := manifest(100-canary, canary)
		file := filepath.Join(t.TempDir(), "vs.yaml")
		if err := os.WriteFile(file, []byte(in), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, from := range []string{"-", file} {
			code, out, err := plan(t, in, "-f", from, "--stable", "v1", "--canary", "v2")
			if code != exitOK || out != manifest(100, 0) {
				t.Errorf("%d%% from %s: exit code %d (%v), got:\n%s", canary, from, code, err, out)
			}
		}
	}
}

func TestPlanOfAWeightAndOfAPatch(t *testing.T) {
	if code, out, err := plan(t, manifest(90, 10), "-f", "-", "--weight", "30"); code != exitOK || out != manifest(70, 30) {
		t.Errorf("exit code %d (%v), got:\n%s", code, err, out)
	}
	code, out, err := plan(t, manifest(90, 10), "-f", "-", "-o", "patch")
	if code != exitOK || !strings.Contains(out, `"/spec/http/0/route/1/weight"`) || !strings.HasPrefix(out, "[") {
		t.Errorf("exit code %d (%v), got:\n%s", code, err, out)
	}
}

func TestPlanRefusesWithTheReason(t *testing.T) {
	for name, tc := range map[string]struct{ in, args, says string }{
		"no YAML":             {"[", "", "standard input"},
		"an empty input":      {"", "", "standard input is empty"},
		"a weight too high":   {manifest(90, 10), "--weight 101", "--weight 101: want 0 to 100"},
		"a format unknown":    {manifest(90, 10), "-o json", `--output "json": want yaml or patch`},
		"a pair that is one":  {manifest(90, 10), "--canary v1", "v1"},
		"a destination odd":   {manifest(90, 10), "--stable service:x", "--stable: destination"},
		"a pair not in there": {manifest(90, 10), "--canary v3 --stable v4", "v3"},
		"a file that is not":  {"", "-f /nonexistent.yaml", "no such file"},
		"a template of Helm":  {strings.Replace(manifest(90, 10), "weight: 90", "weight: {{ .Values.stable }}", 1), "", "line 14 has {{, as a template that is not rendered yet: render it first, as by helm template RELEASE CHART | guardian plan -f -"},
		"a condition of Helm": {"{{- if .Values.canary }}\n" + manifest(90, 10) + "{{- end }}\n", "", "line 1 has {{"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, err := plan(t, tc.in, append([]string{"-f", "-"}, strings.Fields(tc.args)...)...)
			wants := exitFailed
			if strings.HasPrefix(tc.says, "--") || tc.says == "no such file" { // nothing is known of what is in a file
				wants = exitUnknown
			}
			if code != wants || err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("exit code %d, error %v, want %q", code, err, tc.says)
			}
			if out != "" {
				t.Errorf("printed:\n%s", out)
			}
		})
	}
}

// TestPlanSaysWhichNameNoRouteHas: at three in the morning a misspelt canary would else
// look like a rollback that has nothing to do.
func TestPlanSaysWhichNameNoRouteHas(t *testing.T) {
	for args, says := range map[string]string{
		"--canary V2":                 "Warning: VirtualService microservices/orders-service: no route names the canary, V2, and there is orders-service/v2: nothing is taken from it\n",
		"--canary host:orders-canari": "no route names the canary, host:orders-canari, and there is orders-service/v2: nothing",
		"--stable v9":                 "Warning: VirtualService microservices/orders-service: no route names stable, v9, and there is orders-service/v1: is it there?\n",
		"--canary V2 -o patch":        "no route names the canary, V2",
		"--stable v1 --canary v2":     "",
		"-o patch":                    "",
		"--weight 30":                 "",
	} {
		t.Run(args, func(t *testing.T) {
			var out, errOut bytes.Buffer
			a := &app{name: "guardian", in: strings.NewReader(manifest(90, 10)), out: &out, errOut: &errOut}
			if err := a.execute(t.Context(), append([]string{"plan", "-f", "-"}, strings.Fields(args)...)); err != nil {
				t.Fatal(err)
			}
			if got := errOut.String(); !strings.Contains(got, says) || says == "" && got != "" {
				t.Errorf("warned %q, want %q", got, says)
			}
		})
	}
}

// Istio takes a route that names a destination twice, and adds the weights up.
func TestPlanOfARouteThatNamesASubsetTwice(t *testing.T) {
	weights := func(w [4]int) string {
		var b strings.Builder
		b.WriteString("kind: VirtualService\nmetadata: {name: orders-service}\nspec:\n  hosts: [orders-service]\n  http:\n  - route:\n")
		for i, subset := range []string{"v1", "v1", "v2", "v2"} {
			fmt.Fprintf(&b, "    - {destination: {host: orders-service, subset: %s}, weight: %d}\n", subset, w[i])
		}
		return b.String()
	}
	in := weights([4]int{60, 10, 20, 10})
	for weight, want := range map[string][4]int{"0": {86, 14, 0, 0}, "50": {43, 7, 34, 16}, "30": {60, 10, 20, 10}, "100": {0, 0, 67, 33}} {
		if code, out, err := plan(t, in, "-f", "-", "--weight", weight); code != exitOK || out != weights(want) {
			t.Errorf("%s%%: exit code %d (%v), want %v, got:\n%s", weight, code, err, want, out)
		}
	}
	object := vstest.Of(t, " [{route: [{destination: {host: orders-service, subset: v1}, weight: 60}, {destination: {host: orders-service, subset: v1}, weight: 10}, {destination: {host: orders-service, subset: v2}, weight: 20}, {destination: {host: orders-service, subset: v2}, weight: 10}]}]")
	pair := virtualservice.Pair{Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Subset: "v2"}}
	if got, err := virtualservice.Inspect(object, pair, virtualservice.Options{}); err != nil || got.Weight != 30 || got.Lowest != 30 {
		t.Errorf("the canary has %+v, %v; want 30%%", got, err)
	}
}
