//go:build chart || argocd || flux

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/records"
	"github.com/canary-guardian/guardian/test/controlplane"
	"github.com/canary-guardian/guardian/test/kubelet"
)

// repository is where the chart gets its images from; the stand-in for the kubelet has them in folders.
const repository = "registry.example/team/guardian"

// versions are two releases of guardian.
var versions = [2]string{"9.8.7", "9.8.8"}

// images are built once: the layouts by reference.
var images struct {
	sync.Mutex
	keeper *controlplane.Plane // of a folder that outlives the test and goes with the process
	by     map[string]string
}

// buildImages builds those that are missing.
func buildImages(t *testing.T, versions ...string) {
	t.Helper()
	images.Lock()
	defer images.Unlock()
	if images.by == nil {
		var err error
		if images.keeper, err = controlplane.Start(context.Background(), controlplane.Options{WithoutKubernetes: true}); err != nil {
			t.Fatal(err)
		}
		images.by = map[string]string{}
	}
	r := newReleaser(t)
	for _, version := range versions {
		if images.by[repository+":"+version] != "" {
			continue
		}
		out := filepath.Join(images.keeper.Dir(), version)
		t.Log(strings.TrimSpace(r.run("image", "-root", filepath.Join("..", ".."), "-out", out, "-platforms", "linux/"+runtime.GOARCH, "-version", version)))
		images.by[repository+":"+version] = filepath.Join(out, "image")
	}
}

// live is a namespace of a control plane with real controllers, in which a stand-in for the kubelet runs what the
// chart's Pods say.
type live struct {
	*installed
	kubelet *kubelet.Kubelet
}

func newLive(t *testing.T) *live {
	t.Helper()
	return newLiveOf(t, versions[:]...)
}

// newLiveOf has the images of some versions alone.
func newLiveOf(t *testing.T, versions ...string) *live {
	t.Helper()
	buildImages(t, versions...)
	plane, err := controlplane.Start(context.Background(), controlplane.Options{Controllers: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plane.Stop)
	l := &live{installed: newInstalledOn(t, plane)}
	l.kubelet, err = kubelet.Start(t.Context(), plane, kubelet.Options{
		Images: maps.Clone(images.by),
		Idle:   func(image string) bool { return !strings.HasPrefix(image, repository+":") },
		// Pods share this machine's network, so each listens at its own address alone.
		Env: func(_ *corev1.Pod, address string) []string {
			return []string{"GUARDIAN_LISTEN_ALERTS=" + address + ":8080", "GUARDIAN_LISTEN_METRICS=" + address + ":8081"}
		},
	})
	l.must(err)
	t.Cleanup(func() {
		if t.Failed() {
			for _, pod := range l.kubelet.Pods(l.ns) {
				t.Logf("log of %s:\n%s", pod, l.kubelet.Log(l.ns, pod))
			}
		}
		l.kubelet.Stop()
	})
	return l
}

// values are arguments of helm for an image and guards.
func (l *live) values(version string, guards ...string) []string {
	nobody := "http://127.0.0.1:1"
	args := []string{"--set", "image.repository=" + repository, "--set", "image.tag=" + version,
		"--set", "config.prometheus.url=" + nobody, "--set", "config.alertmanager.url=" + nobody}
	for n, guard := range guards {
		args = append(args, "--set", fmt.Sprintf("guards[%d].name=%s", n, guard))
	}
	return args
}

// pods are the chart's, those that end included.
func (l *live) pods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := l.kube.CoreV1().Pods(l.ns).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=guardian,app.kubernetes.io/instance=guardian"})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// running waits until the pods are so many, all of one version, and none is ending.
func (l *live) running(version string, replicas int) []corev1.Pod {
	l.t.Helper()
	var pods []corev1.Pod
	l.wait("pods of "+version, func(ctx context.Context) (err error) {
		if pods, err = l.pods(ctx); err != nil {
			return err
		}
		if len(pods) != replicas {
			return fmt.Errorf("%d pods", len(pods))
		}
		for _, pod := range pods {
			if image := pod.Spec.Containers[0].Image; image != repository+":"+version || pod.DeletionTimestamp != nil {
				return fmt.Errorf("%s has %s, ending %v", pod.Name, image, pod.DeletionTimestamp)
			}
			if !slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue }) {
				return fmt.Errorf("%s is not ready: %+v", pod.Name, pod.Status.ContainerStatuses)
			}
		}
		return nil
	})
	return pods
}

// sender sends alerts to the Service until it is stopped.
type sender struct {
	mu            sync.Mutex
	sent, retried int
	errs          []error
	stop          func()
}

// send posts as Alertmanager does: what is not answered or answered with 5xx is sent again. When an alert has been
// accepted the lock has to be there.
func (l *live) send(url string, guards []string) *sender {
	ctx, cancel := context.WithCancel(context.Background())
	s := &sender{}
	done := make(chan struct{})
	s.stop = func() { cancel(); <-done }
	token := l.secret()
	go func() {
		defer close(done)
		var all sync.WaitGroup
		defer all.Wait()
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			// A new guard's first alert every second, in between those of before once more.
			guard := guards[n%min(len(guards), 1+n/10)]
			all.Go(func() { s.one(ctx, l, url, token, guard) })
		}
	}()
	return s
}

func (s *sender) one(ctx context.Context, l *live, url, token, guard string) {
	body := webhookOf(l.alertOf(guard))
	for attempt := 0; ; attempt++ {
		one, cancel := context.WithTimeout(ctx, 10*time.Second)
		status, err := post(one, url+"/webhook", token, body)
		cancel()
		if ctx.Err() != nil {
			return // the test is over
		}
		if err == nil && status == http.StatusOK {
			rec, err := l.record(ctx, guard)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.sent++
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				s.errs = append(s.errs, err)
			} else if rec.Lock == nil {
				s.errs = append(s.errs, fmt.Errorf("%s: accepted without a lock: %+v", guard, rec.Status))
			}
			return
		}
		s.mu.Lock()
		s.retried++
		if err == nil && status < 500 {
			s.errs = append(s.errs, fmt.Errorf("%s: answered %d: Alertmanager does not try again", guard, status))
		}
		s.mu.Unlock()
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
}

// check ends it, and looks at what came of the alerts.
func (s *sender) check(t *testing.T, what string) {
	t.Helper()
	s.stop()
	if err := errors.Join(s.errs...); err != nil || s.sent == 0 {
		t.Errorf("%s: %d alerts accepted, %d tried again: %v", what, s.sent, s.retried, err)
	}
	t.Logf("%s: %d alerts accepted, %d tried again", what, s.sent, s.retried)
}

// names are those of apps.
func names(apps []*controlplane.App) []string {
	var out []string
	for _, app := range apps {
		out = append(out, app.Name)
	}
	return out
}

// A release's whole life in a cluster, with the real controllers: its Pods run, are upgraded while alerts come, and
// are gone in the end, and all that is left are the records.
func TestAReleaseLivesAndEndsInACluster(t *testing.T) {
	l := newLive(t)
	apps := l.apps("orders", 24, 50)
	guards := names(apps)
	l.helm.kubeconfig = l.namespaceAdmin()
	before := l.objectsBut(func(metav1.OwnerReference) bool { return false })
	timed := func(what string, args ...string) {
		t.Helper()
		begin := time.Now()
		l.run(append(args, "--wait", "--timeout=2m")...)
		t.Logf("%s took %v", what, time.Since(begin).Round(100*time.Millisecond))
	}

	timed("helm install --wait", append([]string{"install", "guardian", chartDir}, l.values(versions[0], guards[:12]...)...)...)
	first := l.running(versions[0], 2)
	address, err := l.kubelet.Proxy(t.Context(), l.ns, "guardian", "http-alerts")
	l.must(err)
	url := "http://" + address

	// The configuration changes: no Pod is replaced, both read it as their volume changes.
	timed("helm upgrade --wait of the configuration", append([]string{"upgrade", "guardian", chartDir}, l.values(versions[0], guards...)...)...)
	for _, pod := range first {
		l.wait(pod.Name+" knows the new guards", func(ctx context.Context) error {
			return get(ctx, "http://"+kubelet.Address(pod.Status.PodIP)+":8081/api/v1/guards/"+guards[23])
		})
	}
	if now := l.running(versions[0], 2); now[0].UID != first[0].UID || now[1].UID != first[1].UID {
		t.Error("the change of the configuration has replaced pods")
	}

	// The image changes, there and back, while alerts come.
	s := l.send(url, guards[:12])
	timed("helm upgrade --wait of the image", append([]string{"upgrade", "guardian", chartDir}, l.values(versions[1], guards...)...)...)
	l.running(versions[1], 2)
	for _, app := range apps[:12] {
		l.rolledBack(app)
	}
	s.check(t, "during the upgrade")
	s = l.send(url, guards[12:])
	timed("helm rollback --wait", "rollback", "guardian", "2")
	pods := l.running(versions[0], 2)
	for _, app := range apps[12:] {
		l.rolledBack(app)
	}
	s.check(t, "during helm rollback")
	for _, pod := range pods {
		if n := pod.Status.ContainerStatuses[0].RestartCount; n != 0 {
			t.Errorf("%s has been restarted %d times", pod.Name, n)
		}
	}

	for _, pod := range l.kubelet.Pods(l.ns) {
		if log := l.kubelet.Log(l.ns, pod); strings.Contains(log, "forbidden") {
			t.Errorf("%s lacks a right:\n%s", pod, log)
		}
	}

	timed("helm uninstall --wait", "uninstall", "guardian")
	l.wait("nothing left", func(ctx context.Context) error { return l.leftOver(before) })
	for _, app := range apps {
		rec, err := l.record(t.Context(), app.Name)
		if err != nil || rec.Lock == nil {
			t.Errorf("record of %s after the uninstall: %+v, %v", app.Name, rec.Lock, err)
		}
	}
}

// leftOver is an error that names all but what was there before and what is to stay.
func (l *live) leftOver(before map[string]bool) error {
	var left []string
	for name := range l.objectsBut(func(metav1.OwnerReference) bool { return false }) {
		kind, object, _ := strings.Cut(name, "/")
		if before[name] || kind == "events" || name == "leases/"+remediate.LeaderLease || kind == "configmaps" && strings.HasPrefix(object, records.Name("")) {
			continue
		}
		left = append(left, name)
	}
	if len(left) > 0 {
		return fmt.Errorf("left: %q", left)
	}
	return nil
}
