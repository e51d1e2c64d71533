package kubelet

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAVolumesFilesAreExchangedByOneLink(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "etc", "config")
	group := os.Getegid()
	must(t, content{"a": {[]byte("1"), 0o644}, "sub/b": {[]byte("1"), 0o644}, "gone": {[]byte("1"), 0o644}}.write(folder, group))
	first, err := os.Readlink(filepath.Join(folder, dataLink))
	must(t, err)
	must(t, content{"a": {[]byte("2"), 0o644}, "sub/b": {[]byte("2"), 0o644}, "new": {[]byte("2"), 0o600}}.write(folder, group))
	for _, name := range []string{"a", "sub/b", "new"} {
		if text, err := os.ReadFile(filepath.Join(folder, name)); err != nil || string(text) != "2" {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	if link, err := os.Readlink(filepath.Join(folder, "a")); err != nil || link != dataLink+"/a" {
		t.Errorf("a is a link to %q, %v: it has to lead through the one that is exchanged", link, err)
	}
	for _, name := range []string{"gone", first} {
		if _, err := os.Lstat(filepath.Join(folder, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there (%v)", name, err)
		}
	}
}

func TestAVolumeHasTheKeysThatItNamesAndMissesTheOthers(t *testing.T) {
	data := map[string][]byte{"token": []byte("x"), "other": []byte("y")}
	optional := true
	for _, c := range []struct {
		name     string
		items    []corev1.KeyToPath
		optional *bool
		want     string
		err      string
	}{
		{name: "all", want: "other token"},
		{name: "one, elsewhere", items: []corev1.KeyToPath{{Key: "token", Path: "sub/t"}}, want: "sub/t"},
		{name: "one that is missing", items: []corev1.KeyToPath{{Key: "no", Path: "no"}}, err: `Secret s has no key "no"`},
		{name: "one that may be missing", items: []corev1.KeyToPath{{Key: "token", Path: "t"}}, optional: &optional, want: "t"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := chosen("Secret s", data, c.items, c.optional, nil)
			if c.err != "" {
				if err == nil || err.Error() != c.err {
					t.Errorf("got %v, want %s", err, c.err)
				}
				return
			}
			must(t, err)
			for name := range strings.FieldsSeq(c.want) {
				if _, ok := got[name]; !ok {
					t.Errorf("no %s among %v", name, got)
				}
			}
			if n := len(strings.Fields(c.want)); len(got) != n {
				t.Errorf("%d files, want %d", len(got), n)
			}
		})
	}
}

// layout writes an OCI layout as the release has it: an index of an index of images.
func layout(t *testing.T, entry *tar.Header) string {
	t.Helper()
	folder := t.TempDir()
	put := func(content []byte) string {
		sum := sha256.Sum256(content)
		digest := hex.EncodeToString(sum[:])
		file := filepath.Join(folder, "blobs", "sha256", digest)
		must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		must(t, os.WriteFile(file, content, 0o644))
		return "sha256:" + digest
	}
	object := func(v any) []byte {
		b, err := json.Marshal(v)
		must(t, err)
		return b
	}
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	archive := tar.NewWriter(zip)
	must(t, archive.WriteHeader(entry))
	_, err := archive.Write([]byte("program")[:entry.Size])
	must(t, err)
	must(t, errors.Join(archive.Close(), zip.Close()))
	image := func(arch string) map[string]any {
		config := put(object(map[string]any{"config": map[string]any{"User": "65532:65532", "Entrypoint": []string{"/guardian"}, "Cmd": []string{arch}}}))
		m := put(object(map[string]any{"config": map[string]any{"digest": config}, "layers": []any{map[string]any{"digest": put(packed.Bytes())}}}))
		return map[string]any{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": m, "platform": map[string]any{"os": "linux", "architecture": arch}}
	}
	inner := put(object(map[string]any{"manifests": []any{image("other"), image(runtime.GOARCH)}}))
	must(t, os.WriteFile(filepath.Join(folder, "index.json"), object(map[string]any{"manifests": []any{
		map[string]any{"mediaType": "application/vnd.oci.image.index.v1+json", "digest": inner}}}), 0o644))
	return folder
}

func TestAnImageIsUnpackedForThisMachine(t *testing.T) {
	to := t.TempDir()
	i, err := unpack(layout(t, &tar.Header{Name: "bin/guardian", Typeflag: tar.TypeReg, Mode: 0o755, Size: 7}), to)
	must(t, err)
	if i.cmd[0] != runtime.GOARCH || i.user != 65532 || i.entrypoint[0] != "/guardian" {
		t.Errorf("%+v", i)
	}
	root := filepath.Join(t.TempDir(), "root")
	must(t, i.rootFor(root))
	info, err := os.Stat(filepath.Join(root, "bin", "guardian"))
	must(t, err)
	if info.Mode().Perm() != 0o755 || info.Size() != 7 {
		t.Errorf("mode %v, %d bytes", info.Mode(), info.Size())
	}
}

func TestAnImageMayNotLeaveItsFolder(t *testing.T) {
	for name, entry := range map[string]*tar.Header{
		"a path upward": {Name: "../guardian", Typeflag: tar.TypeReg, Mode: 0o755, Size: 7},
		"a link":        {Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/etc"},
	} {
		if _, err := unpack(layout(t, entry), t.TempDir()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestWhatTheStandInCannotDoIsRefused(t *testing.T) {
	root, group := int64(0), int64(7)
	exec := &corev1.ProbeHandler{Exec: &corev1.ExecAction{}}
	image := &image{entrypoint: []string{"/guardian"}, user: 65532}
	for name, change := range map[string]func(*corev1.PodSpec){
		"init containers":    func(s *corev1.PodSpec) { s.InitContainers = []corev1.Container{{Name: "init"}} },
		"the host's network": func(s *corev1.PodSpec) { s.HostNetwork = true },
		"an exec probe":      func(s *corev1.PodSpec) { s.Containers[0].LivenessProbe = &corev1.Probe{ProbeHandler: *exec} },
		"envFrom":            func(s *corev1.PodSpec) { s.Containers[0].EnvFrom = []corev1.EnvFromSource{{}} },
		"postStart": func(s *corev1.PodSpec) {
			s.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{}}
		},
		"variables in arguments":      func(s *corev1.PodSpec) { s.Containers[0].Args = []string{"--x=$(Y)"} },
		"a relative program":          func(s *corev1.PodSpec) { s.Containers[0].Command = []string{"guardian"} },
		"root where that is excluded": func(s *corev1.PodSpec) { s.SecurityContext.RunAsUser = &root },
		"another group":               func(s *corev1.PodSpec) { s.SecurityContext.FSGroup = &group },
	} {
		t.Run(name, func(t *testing.T) {
			yes := true
			pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "x"}}, SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: &yes}}}
			tried := func() error {
				w := &worker{kubelet: &Kubelet{}}
				_, user := userOf(pod, pod.Spec.Containers[0], image)
				_, command := commandOf(pod.Spec.Containers[0], image)
				return errors.Join(w.possible(pod), user, command)
			}
			must(t, tried())
			change(&pod.Spec)
			if err := tried(); !errors.Is(err, errRefused) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestTheEnvironmentHasThePodsFields(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "guardian-0", Namespace: "microservices", UID: "u", Labels: map[string]string{"app": "x"}},
		Spec: corev1.PodSpec{ServiceAccountName: "guardian"}}
	for path, want := range map[string]string{"metadata.name": "guardian-0", "metadata.namespace": "microservices", "metadata.uid": "u",
		"metadata.labels['app']": "x", "spec.nodeName": NodeName, "spec.serviceAccountName": "guardian", "status.podIP": "10.200.0.1"} {
		if got, err := field(pod, "10.200.0.1", path); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", path, got, err, want)
		}
	}
	if _, err := field(pod, "", "status.hostIP"); !errors.Is(err, errRefused) {
		t.Errorf("a field that is not known: %v", err)
	}
}

func TestAProbeSucceedsByItsStatus(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		if err != nil {
			code = http.StatusBadRequest
		}
		w.WriteHeader(code)
	}))
	defer server.Close()
	host, port, err := net.SplitHostPort(server.Listener.Addr().String())
	must(t, err)
	number, err := strconv.Atoi(port)
	must(t, err)
	c := &container{spec: corev1.Container{Ports: []corev1.ContainerPort{{Name: "metrics", ContainerPort: int32(number)}}}, worker: &worker{ip: "10" + strings.TrimPrefix(host, "127")}}
	for path, ok := range map[string]bool{"/200": true, "/302": true, "/404": false, "/503": false} {
		err := c.request(t.Context(), &corev1.HTTPGetAction{Path: path, Port: intstr.FromString("metrics")})
		if (err == nil) != ok {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := c.request(t.Context(), &corev1.HTTPGetAction{Path: "/200", Port: intstr.FromString("no")}); err == nil {
		t.Error("a port without a number: no error")
	}
}
