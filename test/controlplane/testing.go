package controlplane

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// shared is the control plane of a test binary. A test binary has no other place that outlives its tests.
var shared struct {
	sync.Mutex
	options Options
	plane   *Plane
	err     error
}

// Main runs a package's tests, stops the control plane that they shared, and exits. It is all that a TestMain needs
// to call; the control plane starts when the first test asks for it.
func Main(m interface{ Run() int }, options ...Options) {
	if len(options) > 0 {
		shared.options = options[0]
	}
	code := m.Run()
	shared.Lock()
	defer shared.Unlock()
	if shared.plane != nil {
		shared.plane.Stop()
	}
	os.Exit(code)
}

// Shared returns the control plane that the tests of a package share, starting it when it is needed for the first
// time. It skips the test under -short, and fails it when the control plane does not start. What lies outside of a
// test's own namespace is seen by all: cluster-scoped objects need names of their own.
func Shared(t testing.TB) *Plane {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a control plane; not under -short")
	}
	shared.Lock()
	defer shared.Unlock()
	if shared.plane == nil && shared.err == nil {
		shared.plane, shared.err = Start(context.Background(), shared.options)
	}
	if shared.err != nil {
		t.Fatalf("start the shared control plane: %v", shared.err)
	}
	return shared.plane
}

// Namespace creates a namespace for a test and returns its name. It is not deleted: nothing would empty it, and the
// control plane goes soon.
func (p *Plane) Namespace(t testing.TB) string {
	t.Helper()
	p.mu.Lock()
	p.namespaces++
	name := fmt.Sprintf("%s-%d", label(t.Name(), 50), p.namespaces)
	p.mu.Unlock()
	if err := p.CreateNamespace(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	return name
}

// CreateNamespace creates a namespace.
func (p *Plane) CreateNamespace(ctx context.Context, name string) error {
	client, err := p.client()
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create Namespace %s: %w", name, err)
	}
	return nil
}

// label makes a DNS label of any text: lower case, at most n characters, a letter first and no hyphen last.
func label(text string, n int) string {
	var b strings.Builder
	for _, r := range strings.ToLower(text) {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	s := b.String()
	if s == "" || s[0] < 'a' {
		s = "t" + s
	}
	return strings.Trim(s[:min(len(s), n)], "-")
}

// output runs a program and returns what it printed on both streams.
func output(ctx context.Context, path string, args ...string) (string, error) {
	printed, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", path, strings.Join(args, " "), err, lastLines(string(printed), 20))
	}
	return string(printed), err
}
