package controlplane

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// placeholder stands where a module embeds files that its zip lacks.
const placeholder = "<!doctype html><title>not built</title><p>This user interface is not part of the Go module.\n"

// built returns the program from the cache folder, building it when it is missing.
func built(ctx context.Context, name string, t tool) (string, error) {
	root, err := Root()
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	module := filepath.Join(root, "testdata", "tools", t.folder)
	pinned, digest, err := pins(module, t.module)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("build %s: find the cache folder: %w", name, err)
	}
	cache = filepath.Join(cache, "guardian")
	target := filepath.Join(cache, strings.Join([]string{name, pinned, runtime.Version(), runtime.GOOS, runtime.GOARCH, digest}, "-"))
	if executable(target) {
		return target, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	unlock, err := lockFile(ctx, filepath.Join(cache, "build.lock"), name)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	defer unlock()
	if executable(target) { // another process has built it meanwhile
		return target, nil
	}
	if err := build(ctx, module, target, pinned, name, t); err != nil {
		return "", fmt.Errorf("build %s %s: %w", name, pinned, err)
	}
	return target, nil
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o100 != 0
}

// pins reads the version of a module from the go.mod in a folder, and a digest of everything pinned there.
func pins(folder, module string) (pinned, digest string, err error) {
	mod, err := os.ReadFile(filepath.Join(folder, "go.mod"))
	if err != nil {
		return "", "", err
	}
	sum, err := os.ReadFile(filepath.Join(folder, "go.sum"))
	if err != nil {
		return "", "", err
	}
	hash := sha256.Sum256(append(mod, sum...))
	for line := range strings.Lines(string(mod)) {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(fields) >= 2 && fields[0] == module && strings.HasPrefix(fields[1], "v") {
			return fields[1], hex.EncodeToString(hash[:4]), nil
		}
	}
	return "", "", fmt.Errorf("%s requires no version of %s", filepath.Join(folder, "go.mod"), module)
}

// lockFile takes an exclusive lock that the kernel gives back when this process ends. It waits while another process
// builds, and says so.
func lockFile(ctx context.Context, path, name string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for told := false; ; told = true {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil
		}
		if err != syscall.EWOULDBLOCK && err != syscall.EINTR {
			_ = file.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !told {
			progress("%s: waiting for a build in another process", name)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			_ = file.Close()
			return nil, fmt.Errorf("lock %s: %w", path, ctx.Err())
		}
	}
}

// build compiles one program and moves it into place in one step.
func build(ctx context.Context, module, target, pinned, name string, t tool) error {
	removeLeftovers(filepath.Dir(target))
	scratch, err := os.MkdirTemp(filepath.Dir(target), ".build-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	args := []string{"build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", linkerFlags(t, pinned)}
	if t.tags != "" {
		args = append(args, "-tags="+t.tags)
	}
	if t.embeds != "" || t.drops != "" || len(t.edits) > 0 {
		modfile, err := completed(ctx, module, scratch, t)
		if err != nil {
			return err
		}
		args = append(args, "-modfile="+modfile)
	}
	output := filepath.Join(scratch, name)
	args = append(args, "-o", output, t.pkg)

	progress("building %s %s, once for this machine: about %s with two cores and an empty build cache", name, pinned, t.about)
	start := time.Now()
	stop := reportEvery(15*time.Second, func() { progress("still building %s: %s", name, time.Since(start).Round(time.Second)) })
	err = runGo(ctx, module, args...)
	stop()
	if err != nil {
		return err
	}
	if err := os.Rename(output, target); err != nil {
		return err
	}
	progress("built %s in %s", name, time.Since(start).Round(time.Second))
	return nil
}

// removeLeftovers clears what killed builds left behind. The caller holds the lock, so no build is under way.
func removeLeftovers(cache string) {
	leftovers, err := filepath.Glob(filepath.Join(cache, ".build-*"))
	if err != nil {
		return
	}
	for _, leftover := range leftovers {
		_ = os.RemoveAll(leftover)
	}
}

// linkerFlags strips the program and stamps its version: unstamped, kube-apiserver reports one that clients cannot parse.
func linkerFlags(t tool, pinned string) string {
	flags := []string{"-s", "-w"}
	reported := reportedVersion(t.module, pinned)
	for _, setting := range t.stamp {
		if strings.Contains(setting, "%s") {
			setting = fmt.Sprintf(setting, reported)
		}
		flags = append(flags, "-X", setting)
	}
	if t.module == "k8s.io/kubernetes" {
		if v, ok := parseVersion(reported); ok {
			flags = append(flags, "-X", kubernetesVersion+"gitMinor="+strconv.Itoa(v[1]))
		}
	}
	return strings.Join(flags, " ")
}

// reportedVersion is what a program says of itself. Prometheus 3.16.0 is the Go module v0.316.0, and 2.42.0 is v0.42.0.
func reportedVersion(module, pinned string) string {
	reported := strings.TrimPrefix(pinned, "v")
	if module != "github.com/prometheus/prometheus" {
		return reported
	}
	parts := strings.Split(reported, ".")
	if len(parts) != 3 || parts[0] != "0" {
		return reported
	}
	number, err := strconv.Atoi(parts[1])
	if err != nil {
		return reported
	}
	if number < 100 {
		return fmt.Sprintf("2.%d.%s", number, parts[2])
	}
	return fmt.Sprintf("%d.%d.%s", number/100, number%100, parts[2])
}

// completed copies the tool's module out of the module cache, changes the copy, and returns a go.mod that builds from it.
func completed(ctx context.Context, module, scratch string, t tool) (string, error) {
	dir, err := moduleDir(ctx, module, t.module)
	if err != nil {
		return "", err
	}
	source := filepath.Join(scratch, "source")
	if err := os.CopyFS(source, os.DirFS(dir)); err != nil {
		return "", fmt.Errorf("copy %s: %w", dir, err)
	}
	if err := t.change(source); err != nil {
		return "", err
	}
	mod, err := os.ReadFile(filepath.Join(module, "go.mod"))
	if err != nil {
		return "", err
	}
	sum, err := os.ReadFile(filepath.Join(module, "go.sum"))
	if err != nil {
		return "", err
	}
	mod = fmt.Appendf(mod, "\nreplace %s => %s\n", t.module, strconv.Quote(source))
	modfile := filepath.Join(scratch, "build.mod")
	if err := os.WriteFile(modfile, mod, 0o644); err != nil {
		return "", err
	}
	return modfile, os.WriteFile(filepath.Join(scratch, "build.sum"), sum, 0o644)
}

// change adds to a copy of the module what is missing, removes what is not wanted, and edits what is to be otherwise.
func (t tool) change(source string) error {
	for _, e := range t.edits {
		if err := e.in(source); err != nil {
			return err
		}
	}
	if t.drops != "" {
		if err := os.Remove(filepath.Join(source, filepath.FromSlash(t.drops))); err != nil {
			return err
		}
	}
	if t.embeds == "" {
		return nil
	}
	embedded := filepath.Join(source, filepath.FromSlash(t.embeds))
	if err := os.MkdirAll(embedded, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(embedded, "index.html"), []byte(placeholder), 0o644)
}

// in makes the edit in a copy of the module.
func (e edit) in(source string) error {
	file := filepath.Join(source, filepath.FromSlash(e.file))
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if n := strings.Count(string(text), e.old); n != 1 {
		return fmt.Errorf("edit %s: it has %q %d times, want once", e.file, e.old, n)
	}
	return os.WriteFile(file, []byte(strings.Replace(string(text), e.old, e.new, 1)), 0o644)
}

// moduleDir returns the folder of a module in the module cache, downloading it when it is not there.
func moduleDir(ctx context.Context, folder, module string) (string, error) {
	list := func() (string, error) {
		output, err := goOutput(ctx, folder, "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", module)
		return strings.TrimSpace(output), err
	}
	dir, err := list()
	if err != nil {
		return "", err
	}
	if dir == "" {
		if err := runGo(ctx, folder, "mod", "download", module); err != nil {
			return "", err
		}
		if dir, err = list(); err != nil {
			return "", err
		}
	}
	if dir == "" {
		return "", fmt.Errorf("find module %s: not in the module cache after a download", module)
	}
	return dir, nil
}

// toolModule is the folder of the module that a tool is built from.
func toolModule(ctx context.Context, name string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	t := tools()[name]
	return moduleDir(ctx, filepath.Join(root, "testdata", "tools", t.folder), t.module)
}

// runGo runs the go command in a folder and returns what it printed if it fails.
func runGo(ctx context.Context, folder string, args ...string) error {
	_, err := goOutput(ctx, folder, args...)
	return err
}

func goOutput(ctx context.Context, folder string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = folder
	// Some of the modules are of a newer Go than this one, which the go command gets where the machine has it not.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOTOOLCHAIN=auto")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go %s in %s: %w\n%s", args[0], folder, err, lastLines(stderr.String(), 30))
	}
	return stdout.String(), nil
}

// progress tells whoever started the process why it takes so long.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "controlplane: "+format+"\n", args...)
}

// reportEvery calls report in the given rhythm until stop is called.
func reportEvery(interval time.Duration, report func()) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				report()
			case <-done:
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}
