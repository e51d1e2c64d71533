package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/test/controlplane"
)

const testVersion = "9.8.7"

// releaser is the built command of testdata/tools/release.
type releaser struct {
	t    *testing.T
	path string
}

func newReleaser(t *testing.T) *releaser {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and starts programs; not under -short")
	}
	r := &releaser{t, filepath.Join(t.TempDir(), "release")}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-C", filepath.Join("..", "..", "testdata", "tools", "release"), "-o", r.path, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return r
}

func (r *releaser) run(args ...string) string {
	r.t.Helper()
	out, err := exec.CommandContext(r.t.Context(), r.path, args...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("release %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// registry runs a registry in memory and returns its address.
func (r *releaser) registry() string {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, r.path, "registry")
	out, err := cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.TrimSpace(address)
}

// fetch reads from a registry.
func (r *releaser) fetch(url string) []byte {
	r.t.Helper()
	request, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, url, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	b, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		r.t.Fatalf("%s: %s %v %s", url, response.Status, err, b)
	}
	return b
}

func (r *releaser) fetchJSON(url string, into any) {
	r.t.Helper()
	if err := json.Unmarshal(r.fetch(url), into); err != nil {
		r.t.Fatal(err)
	}
}

// descriptor is a part of an OCI manifest or index.
type descriptor struct {
	MediaType    string `json:"mediaType"`
	ArtifactType string `json:"artifactType"`
	Digest       string `json:"digest"`
	Platform     struct {
		OS   string `json:"os"`
		Arch string `json:"architecture"`
	} `json:"platform"`
}

type ociManifest struct {
	Manifests []descriptor `json:"manifests"`
	Config    descriptor   `json:"config"`
	Layers    []descriptor `json:"layers"`
}

// copyTree copies what git would have of the repository, without git's own
// folder.
func copyTree(t *testing.T, root string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		content, err := os.ReadFile(filepath.Join(root, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted, and not committed yet
		}
		if err == nil {
			err = os.MkdirAll(filepath.Join(to, filepath.Dir(name)), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), content, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return to
}

func TestTheImageIsTheProgramAloneAndTheSameEachTime(t *testing.T) {
	r := newReleaser(t)
	registry := r.registry()
	var printed, trees []string
	if chartInFull() {
		first := copyTree(t, filepath.Join("..", ".."))
		trees = []string{first, t.TempDir()}
		if err := os.CopyFS(trees[1], os.DirFS(first)); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"linux/amd64", "linux/arm64"}
	for i := range 2 {
		args := []string{"image", "-version", testVersion, "-push", registry + "/team", "-insecure"}
		if chartInFull() {
			args = append(args, "-root", trees[i])
		} else { // what is built already, and nothing of another architecture
			want = []string{"linux/" + runtime.GOARCH}
			args = append(args, "-root", filepath.Join("..", ".."), "-out", t.TempDir(), "-platforms", want[0], "-program", newBareRig(t, controlplane.Shared(t)).binary())
		}
		out := r.run(args...)
		first, _, _ := strings.Cut(out, " in ")
		printed = append(printed, first)
	}
	if printed[0] != printed[1] {
		t.Errorf("built twice: %s and %s", printed[0], printed[1])
	}
	base := "http://" + registry + "/v2/team/guardian/"
	var index ociManifest
	r.fetchJSON(base+"manifests/"+testVersion, &index)
	var platforms []string
	for _, d := range index.Manifests {
		platforms = append(platforms, d.Platform.OS+"/"+d.Platform.Arch)
		r.checkImage(base, d)
	}
	if !slices.Equal(platforms, want) {
		t.Errorf("platforms %q, want %q", platforms, want)
	}
}

// checkImage looks at all that an image is.
func (r *releaser) checkImage(base string, d descriptor) {
	t := r.t
	t.Helper()
	var image ociManifest
	r.fetchJSON(base+"manifests/"+d.Digest, &image)
	var config struct {
		OS, Architecture string
		Config           struct {
			User       string
			Entrypoint []string
			Env        []string
		}
	}
	r.fetchJSON(base+"blobs/"+image.Config.Digest, &config)
	if c := config.Config; c.User != "65532:65532" || !slices.Equal(c.Entrypoint, []string{"/guardian"}) || config.Architecture != d.Platform.Arch {
		t.Errorf("config of %s: %+v", d.Platform.Arch, config)
	}
	if len(image.Layers) != 1 {
		t.Fatalf("%d layers", len(image.Layers))
	}
	packed := r.fetch(base + "blobs/" + image.Layers[0].Digest)
	files := unpacked(t, packed)
	if names := slices.Sorted(func(yield func(string) bool) {
		for name := range files {
			if !yield(name) {
				return
			}
		}
	}); !slices.Equal(names, []string{"etc/", "etc/passwd", "guardian"}) {
		t.Errorf("files %q", names)
	}
	program, err := elf.NewFile(bytes.NewReader(files["guardian"]))
	if err != nil {
		t.Fatal(err)
	}
	if chartInFull() && slices.ContainsFunc(program.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Error("the program is linked dynamically")
	}
	if loaded := loadedSize(program); loaded > sizeLimit {
		t.Errorf("the program is %.1f MB, want at most %.0f: what does it link? (go build -ldflags=-dumpdep, look for ReflectMethod)", float64(loaded)/1e6, float64(sizeLimit)/1e6)
	}
	var referrers ociManifest
	r.fetchJSON(base+"referrers/"+d.Digest, &referrers)
	if len(referrers.Manifests) != 1 {
		t.Fatalf("%d referrers of %s, want its SBOM", len(referrers.Manifests), d.Platform.Arch)
	}
	var attached ociManifest
	r.fetchJSON(base+"manifests/"+referrers.Manifests[0].Digest, &attached)
	var sbom struct {
		BOMFormat string
		Metadata  struct {
			Component struct{ Hashes []struct{ Content string } }
		}
		Components []struct{ PURL string }
	}
	r.fetchJSON(base+"blobs/"+attached.Layers[0].Digest, &sbom)
	sum := sha256.Sum256(files["guardian"])
	if sbom.BOMFormat != "CycloneDX" || len(sbom.Components) < 50 || sbom.Metadata.Component.Hashes[0].Content != hex.EncodeToString(sum[:]) ||
		!slices.ContainsFunc(sbom.Components, func(c struct{ PURL string }) bool { return strings.HasPrefix(c.PURL, "pkg:golang/k8s.io/client-go@") }) {
		t.Errorf("SBOM of %s: %d components, of %v", d.Platform.Arch, len(sbom.Components), sbom.Metadata)
	}
	t.Logf("%s: program %.1f MB (%.1f without symbols), image %.1f MB, %d modules", d.Platform.Arch, float64(len(files["guardian"]))/1e6, float64(loadedSize(program))/1e6, float64(len(packed))/1e6, len(sbom.Components))
	if d.Platform.Arch == runtime.GOARCH && runtime.GOOS == "linux" {
		r.runProgram(files["guardian"])
	}
}

// sizeLimit is how large the program may be without its symbols.
const sizeLimit = 45_000_000

// loadedSize is what is left of a program without its symbols.
func loadedSize(program *elf.File) uint64 {
	var n uint64
	for _, p := range program.Progs {
		if p.Type == elf.PT_LOAD {
			n += p.Filesz
		}
	}
	return n
}

// runProgram runs what is in the image.
func (r *releaser) runProgram(program []byte) {
	r.t.Helper()
	path := filepath.Join(r.t.TempDir(), "guardian")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		r.t.Fatal(err)
	}
	begin := time.Now()
	out, err := exec.CommandContext(r.t.Context(), path, "version").CombinedOutput()
	r.t.Logf("guardian version took %v", time.Since(begin).Round(time.Millisecond))
	if err != nil || !strings.HasPrefix(string(out), "guardian ") || chartInFull() && !strings.HasPrefix(string(out), "guardian v"+testVersion+" ") {
		r.t.Errorf("guardian version: %v %s", err, out)
	}
}

// unpacked is the files of a tar.gz.
func unpacked(t *testing.T, packed []byte) map[string][]byte {
	t.Helper()
	plain, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for archive := tar.NewReader(plain); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || !h.ModTime.Equal(time.Unix(0, 0)) {
			t.Errorf("%s is of %d:%d at %v", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		if files[h.Name], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
	}
}

func TestARealHelmInstallsFromTheRelease(t *testing.T) {
	i := newInstalled(t)
	r := newReleaser(t)
	registry := r.registry()
	out := t.TempDir()
	what, files := "charts", []string{"guardian-9.8.7.tgz"}
	if chartInFull() {
		what, files = "all", append(files, "guardian_9.8.7_darwin_arm64.tar.gz", "guardian_9.8.7_linux_amd64.cdx.json", "guardian-replay_9.8.7_linux_amd64.cdx.json")
	}
	r.run(what, "-root", filepath.Join("..", ".."), "-out", out, "-version", testVersion, "-push", registry+"/team", "-insecure")
	sums, err := os.ReadFile(filepath.Join(out, "SHA256SUMS"))
	i.must(err)
	for line := range strings.Lines(string(sums)) {
		want, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		content, err := os.ReadFile(filepath.Join(out, name))
		i.must(err)
		if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != want {
			t.Errorf("%s has another checksum", name)
		}
	}
	for _, name := range files {
		if !strings.Contains(string(sums), name+"\n") {
			t.Errorf("no %s among\n%s", name, sums)
		}
	}
	if chartInFull() {
		packed, err := os.ReadFile(filepath.Join(out, "guardian_9.8.7_linux_amd64.tar.gz"))
		i.must(err)
		contents := unpacked(t, packed)
		for _, name := range []string{"guardian", "guardian-replay", "LICENSE", "README.md"} {
			if len(contents["guardian_9.8.7_linux_amd64/"+name]) == 0 {
				t.Errorf("the archive has no %s", name)
			}
		}
	}
	// From the folder, and from the registry, the chart names the image that was pushed.
	image := fmt.Sprintf("image: \"%s/team/guardian:%s\"", registry, testVersion)
	for _, chart := range [][]string{{filepath.Join(out, "guardian-"+testVersion+".tgz")}, {"oci://" + registry + "/team/charts/guardian", "--version", testVersion, "--plain-http"}} {
		text := i.run(append(append([]string{"template", "guardian"}, chart...), "--set", oneGuard)...)
		if !strings.Contains(text, image) {
			t.Errorf("%s: not %s", chart[0], image)
		}
	}
	i.run("install", "guardian", "oci://"+registry+"/team/charts/guardian", "--version", testVersion, "--plain-http", "--set", oneGuard)
	i.takeAccount("guardian")
	app := i.app("orders-service", 50)
	p := i.start("guardian-0", "/readyz")
	i.must(i.tellPod(t.Context(), p, app.Name))
	i.rolledBack(app)
}
