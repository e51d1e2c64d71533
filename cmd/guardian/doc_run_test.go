package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/test/controlplane"
)

// docRunner runs what the pages say with the real kubectl, helm and guardian, as an
// administrator: in the sample's cluster, where guardian runs, and what helm
// installs in another one, where there is none yet.
type docRunner struct {
	*sample
	scratch      string // where the pages' files are
	admin, empty string // kubeconfigs
	prometheus   string
}

func newDocRunner(t *testing.T) *docRunner {
	d := &docRunner{sample: newSample(t), scratch: t.TempDir(), prometheus: standInPrometheus(t)}
	var err error
	d.admin, err = d.plane.Kubeconfig(controlplane.Admin, d.ns)
	d.must(err)
	other := planeServing(t, "v1")
	d.must(other.CreateNamespace(t.Context(), sampleNamespace))
	if said, err := other.Kubectl(t.Context(), controlplane.Admin, sampleNamespace, "create", "configmap", "kube-root-ca.crt"); err != nil { // as a controller would
		t.Fatal(said)
	}
	d.empty, err = other.Kubeconfig(controlplane.Admin, sampleNamespace)
	d.must(err)
	d.must(os.Symlink(newHelm(t).path, filepath.Join(d.bin, "helm")))
	d.must(os.MkdirAll(filepath.Join(d.scratch, "etc", "prometheus", "rules"), 0o755))
	charts, err := filepath.Abs(filepath.Join("..", "..", "charts"))
	d.must(err)
	d.must(os.Symlink(charts, filepath.Join(d.scratch, "charts")))
	d.manifests()
	return d
}

// manifests are the reader's own: a folder k8s/orders, and the same without it.
func (d *docRunner) manifests() {
	folder := filepath.Join(d.scratch, "k8s", "orders")
	d.must(os.CopyFS(folder, os.DirFS(filepath.Join(d.folder, "k8s", "orders"))))
	deployment, err := os.ReadFile(filepath.Join(folder, "deployment-v2.yaml"))
	d.must(err)
	d.must(os.WriteFile(filepath.Join(folder, "deployment.yaml"), bytes.ReplaceAll(deployment, []byte("orders-service:1"), []byte("orders-service:2")), 0o644))
	d.weightFiles(folder, d.scratch)
}

// files writes the files that a page shows: blocks that begin with their name.
func (d *docRunner) files(blocks []block) {
	for _, b := range blocks {
		first, _, _ := strings.Cut(b.text, "\n")
		name, ok := strings.CutPrefix(first, "# ")
		if !ok || b.language != "yaml" || filepath.Ext(name) != ".yaml" || strings.ContainsAny(name, " /") {
			continue
		}
		text := strings.ReplaceAll(b.text, "http://prometheus.monitoring:9090", d.prometheus)
		text = strings.ReplaceAll(text, "http://alertmanager.monitoring:9093", "http://127.0.0.1:1")
		d.must(os.WriteFile(filepath.Join(d.scratch, name), []byte(text), 0o644))
	}
}

// canaryAt brings the guard to where a page begins: nothing locked, and the canary
// at a weight.
func (d *docRunner) canaryAt(file string) {
	d.t.Helper()
	r, err := d.record(d.t.Context(), sampleGuard)
	d.must(err)
	if r.Lock != nil {
		if code, said := d.command(d.scratch, d.admin, "guardian unlock "+sampleGuard+" --reason 'the next page'"); code != 0 {
			d.t.Fatal(said)
		}
	}
	d.asAdmin("", "apply", "-f", filepath.Join(d.scratch, file))
}

// command runs a line of shell. What is to go on for ever is ended after a while.
func (d *docRunner) command(dir, kubeconfig, line string) (int, string) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-e", "-c", line)
	out := &syncBuffer{}
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = dir, out, out, time.Second
	home := filepath.Join(d.scratch, "home")
	cmd.Env = append(slices.Clone(d.env), "KUBECONFIG="+kubeconfig, "HOME="+home, "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		d.t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// asRun is a line with what is different here: how long a gate watches, where files
// are written, the reader's own names; and how a line ends that goes on for ever.
func asRun(c docCommand) string {
	line := strings.NewReplacer("--for 60s", "--for 2s", ">/etc/", ">etc/", "NAME", sampleGuard).Replace(c.line)
	if c.has("-w") {
		line = "timeout 3 " + line
	}
	return line
}

// asMeant says whether a line did what the page means it to do.
func asMeant(c docCommand, code int, said string) bool {
	first, last := strings.Join(c.calls[0], " "), c.calls[len(c.calls)-1]
	switch {
	case strings.HasPrefix(first, "guardian check"): // it finds what is not there: alerts of no Alertmanager
		return code <= exitUnknown && strings.Contains(said, "ok    ")
	case strings.HasPrefix(first, "guardian receipt"): // there need not have been a rollback
		return code == exitOK || code == exitFailed && strings.Contains(said, "no rollback of ")
	case c.has("-w"):
		return code == 124 && strings.Contains(said, sampleGuard)
	case last[0] == "grep": // where nothing is wrong there may be nothing to find
		return code == 0 || code == 1 && said == ""
	case strings.HasPrefix(first, "kubectl create namespace"):
		return code == 0 || strings.Contains(said, "already exists")
	}
	return code == 0
}

// TestEveryCommandOfTheDocsRuns runs each line of each block of the documentation,
// but for those that a mark leaves out with its reason.
func TestEveryCommandOfTheDocsRuns(t *testing.T) {
	d := newDocRunner(t)
	d.files(blocksOf("README.md", readDoc(t, "README.md"))) // other pages go on with its guardian.yaml
	count := 0
	for _, page := range docPages(t) {
		blocks := blocksOf(page, readDoc(t, page))
		d.files(blocks)
		for _, b := range blocks {
			if b.language == "sh" {
				count += d.block(b)
			}
		}
	}
	if count < 60 {
		t.Errorf("only %d commands were run", count)
	}
}

// block runs the lines of a block and returns how many.
func (d *docRunner) block(b block) int {
	d.t.Helper()
	lines := b.toRun(d.t)
	if len(lines) == 0 {
		return 0
	}
	dir := d.scratch
	switch {
	case strings.HasPrefix(b.page, "docs/samples/orders"):
		dir = d.folder
		d.canaryAt("vs-100-0.yaml")
	case b.page == "README.md": // a release begins
		d.canaryAt("vs-100-0.yaml")
	default:
		d.canaryAt("vs-90-10.yaml")
	}
	for _, c := range lines {
		kubeconfig := d.admin
		if c.calls[0][0] == "helm" {
			kubeconfig = d.empty
			if c.has("install") { // it may be there from the page before
				d.command(dir, kubeconfig, "helm uninstall "+c.calls[0][2]+" "+strings.Join(c.calls[0][4:6], " "))
			}
		}
		code, said := d.command(dir, kubeconfig, asRun(c))
		if !asMeant(c, code, said) {
			d.t.Errorf("%v: %s: exit status %d\n%s", b, c.line, code, said)
		}
		d.t.Logf("%v: %s: %d", b, c.line, code)
	}
	return len(lines)
}
