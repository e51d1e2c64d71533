package controlplane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// modulePath is the module that this package belongs to; its folder holds testdata/tools.
const modulePath = "github.com/canary-guardian/guardian"

// tool says how a program is recognised on the machine, and how it is built where it is missing.
type tool struct {
	// folder of the nested module below testdata/tools; its go.mod pins every version.
	folder string
	// module whose version is the program's.
	module string
	// pkg is the main package.
	pkg string
	// least and below bound the versions of a program found on the machine: least <= version < below. Without below no
	// version fits, and none is asked for its own.
	least, below version
	// versionArgs make the program print its version; needed with below alone.
	versionArgs []string
	// tags for the Go build.
	tags string
	// stamp lists -X settings; %s is the version without "v".
	stamp []string
	// embeds is a folder of the module that its zip lacks and its code embeds.
	embeds string
	// drops is a file of the module to build without: one that only links more.
	drops string
	// edits are made in the module's code before it is built.
	edits []edit
	// about how long a cold build takes on two cores, for people who wait.
	about time.Duration
}

// edit replaces the one occurrence of a text in a file of a module.
type edit struct{ file, old, new string }

const kubernetesVersion = "k8s.io/component-base/version."

// tools lists every program that [Binary] knows.
func tools() map[string]tool {
	kubernetes := func(name string, about time.Duration) tool {
		return tool{
			folder: "kubernetes", module: "k8s.io/kubernetes", pkg: "k8s.io/kubernetes/cmd/" + name,
			least: version{1, 30}, below: version{2, 0}, about: about,
			stamp: []string{kubernetesVersion + "gitVersion=v%s", kubernetesVersion + "gitMajor=1",
				kubernetesVersion + "gitTreeState=clean"},
		}
	}
	prometheus := func(name string, about time.Duration) tool {
		return tool{
			folder: "prometheus", module: "github.com/prometheus/prometheus",
			pkg: "github.com/prometheus/prometheus/cmd/" + name, tags: "remove_all_sd",
			least: version{3, 0}, below: version{4, 0}, about: about, versionArgs: []string{"--version"},
			stamp: []string{"github.com/prometheus/common/version.Version=%s"},
		}
	}
	alertmanager := func(name, embeds string, about time.Duration) tool {
		return tool{
			folder: "alertmanager", module: "github.com/prometheus/alertmanager",
			pkg:   "github.com/prometheus/alertmanager/cmd/" + name,
			least: version{0, 27}, below: version{1, 0}, about: about, versionArgs: []string{"--version"},
			stamp:  []string{"github.com/prometheus/common/version.Version=%s"},
			embeds: embeds,
		}
	}
	apiServer, kubectl := kubernetes("kube-apiserver", 5*time.Minute), kubernetes("kubectl", time.Minute)
	apiServer.versionArgs = []string{"--version"}
	kubectl.versionArgs = []string{"version", "--client"}
	// kubectl is only supported close to its server's version; three minors of slack still behave alike here.
	kubectl.least, kubectl.below = version{1, 34}, version{1, 41}
	// It has a module of its own: what it pins beyond kube-apiserver's would have that built again.
	manager := kubernetes("kube-controller-manager", 2*time.Minute)
	manager.folder, manager.versionArgs = "kube-controller-manager", []string{"--version"}
	all := map[string]tool{
		"kube-apiserver":          apiServer,
		"kube-controller-manager": manager,
		"kubectl":                 kubectl,
		"etcd": {
			folder: "etcd", module: "go.etcd.io/etcd/server/v3", pkg: "go.etcd.io/etcd/server/v3",
			least: version{3, 5}, below: version{4, 0}, versionArgs: []string{"--version"}, about: 20 * time.Second,
		},
		"prometheus":   prometheus("prometheus", 2*time.Minute),
		"promtool":     prometheus("promtool", time.Minute),
		"alertmanager": alertmanager("alertmanager", "ui/app/dist", time.Minute),
		"amtool":       alertmanager("amtool", "", 30*time.Second),
		"helm": {
			folder: "helm", module: "helm.sh/helm/v4", pkg: "helm.sh/helm/v4/cmd/helm",
			least: version{3, 16}, below: version{5, 0}, versionArgs: []string{"version", "--short"}, about: time.Minute,
			stamp: []string{"helm.sh/helm/v4/internal/version.version=v%s"},
		},
		"prometheus-operator": {
			folder: "prometheus-operator", module: "github.com/prometheus-operator/prometheus-operator",
			pkg:   "github.com/prometheus-operator/prometheus-operator/cmd/operator",
			least: version{0, 80}, below: version{1, 0}, versionArgs: []string{"--version"}, about: 2 * time.Minute,
			stamp: []string{"github.com/prometheus/common/version.Version=%s"},
		},
		"act": {
			folder: "act", module: "github.com/nektos/act", pkg: "github.com/nektos/act",
			least: version{0, 2}, below: version{1, 0}, versionArgs: []string{"--version"}, about: time.Minute,
		},
		// Its module has no releases, so a program that is there already cannot be told to be this one: least and below
		// are left out, and no version fits.
		"pilot-discovery": {
			folder: "istio", module: "istio.io/istio", pkg: "istio.io/istio/pilot/cmd/pilot-discovery",
			about: 9 * time.Minute,
		},
		// One program that is each of Argo CD's parts by the name that it is called by. Only the one built here listens on
		// this machine alone, so no other will do.
		"argocd": {
			folder: "argocd", module: "github.com/argoproj/argo-cd/v3", pkg: "github.com/argoproj/argo-cd/v3/cmd",
			about: 4 * time.Minute,
			stamp: []string{"github.com/argoproj/argo-cd/v3/common.version=%s"},
			edits: []edit{{file: "controller/appcontroller.go", old: `"0.0.0.0:%d"`, new: `"127.0.0.1:%d"`}},
		},
		// A main package of ours: the collector is a library of parts to choose from.
		"collector": {
			folder: "collector", module: "go.opentelemetry.io/collector/otelcol", pkg: ".",
			about: time.Minute,
		},
		// The second version's program, in a module that counts as the first's. Which version it is cannot be told from what
		// it prints without a stamp, so no other will do.
		"jaeger": {
			folder: "jaeger", module: "github.com/jaegertracing/jaeger", pkg: "github.com/jaegertracing/jaeger/cmd/jaeger",
			about: 6 * time.Minute,
		},
		"kustomize-controller": {
			folder: "flux", module: "github.com/fluxcd/kustomize-controller", pkg: "github.com/fluxcd/kustomize-controller",
			about: 2 * time.Minute,
		},
		"helm-controller": {
			folder: "flux-helm", module: "github.com/fluxcd/helm-controller", pkg: "github.com/fluxcd/helm-controller",
			about: 3 * time.Minute,
		},
	}
	for name, folder := range oldest {
		t := all[name]
		t.folder, t.least, t.below, t.embeds = folder, version{}, version{}, "" // none but the pinned one will do
		if t.module == "github.com/prometheus/prometheus" {                     // it knows no tag to leave out the clouds
			t.drops = "plugins/plugins.go"
		}
		if name == "helm" {
			t.module, t.pkg = "helm.sh/helm/v3", "helm.sh/helm/v3/cmd/helm"
			// Unstamped it takes every cluster that it does not see for Kubernetes 1.20.
			t.stamp = []string{"helm.sh/helm/v3/internal/version.version=v%s",
				"helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1", "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=31"}
		}
		all[name+oldestSuffix] = t
	}
	return all
}

// oldestSuffix marks the oldest version of a program that guardian is to work with.
const oldestSuffix = "-oldest"

// oldest are the folders below testdata/tools that pin it.
var oldest = map[string]string{
	"prometheus": "prometheus-oldest", "promtool": "prometheus-oldest",
	"alertmanager": "alertmanager-oldest", "amtool": "alertmanager-oldest",
	"helm": "helm-oldest", "kube-apiserver": "kube-apiserver-oldest",
}

// wanted is the name of a program, or that of its oldest version where $GUARDIAN_OLDEST lists it, with spaces between.
func wanted(name string) string {
	if slices.Contains(strings.Fields(os.Getenv("GUARDIAN_OLDEST")), name) {
		return name + oldestSuffix
	}
	return name
}

// Binary returns the path of a program: from $KUBEBUILDER_ASSETS or $PATH when its version fits, else from the user's
// cache folder, where it is built first when it is missing. A build prints its progress to stderr and takes up to some
// minutes; other processes that need a build at the same time wait. Known are kube-apiserver, kubectl, etcd,
// kube-controller-manager, prometheus, promtool, alertmanager, amtool, helm, prometheus-operator, act, pilot-discovery, argocd,
// kustomize-controller, helm-controller, jaeger and collector (OpenTelemetry's); it must be called from within the repository.
//
// Programs that $GUARDIAN_OLDEST names, with spaces between, are of the oldest version that guardian is to work with.
func Binary(ctx context.Context, name string) (string, error) {
	name = wanted(name)
	t, ok := tools()[name]
	if !ok {
		return "", fmt.Errorf("find program %q: not one that controlplane knows", name)
	}
	if path, ok := installed(ctx, name, t); ok {
		return path, nil
	}
	return built(ctx, name, t)
}

// installed looks for a program of a fitting version in $KUBEBUILDER_ASSETS and on PATH.
func installed(ctx context.Context, name string, t tool) (string, bool) {
	if t.below == (version{}) {
		return "", false
	}
	var found []string
	if assets := os.Getenv("KUBEBUILDER_ASSETS"); assets != "" {
		found = append(found, filepath.Join(assets, name))
	}
	if path, err := exec.LookPath(name); err == nil {
		found = append(found, path)
	}
	for _, path := range found {
		if info, err := os.Stat(path); err != nil || info.IsDir() {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		output, err := exec.CommandContext(ctx, path, t.versionArgs...).CombinedOutput()
		cancel()
		if v, ok := parseVersion(string(output)); err == nil && ok && v.fits(t.least, t.below) {
			return path, true
		}
	}
	return "", false
}

// version is major and minor.
type version [2]int

var versionPattern = regexp.MustCompile(`\bv?(\d+)\.(\d+)\.\d+`)

// parseVersion finds the first version in what a program prints about itself.
func parseVersion(output string) (version, bool) {
	m := versionPattern.FindStringSubmatch(output)
	if m == nil {
		return version{}, false
	}
	major, errMajor := strconv.Atoi(m[1])
	minor, errMinor := strconv.Atoi(m[2])
	return version{major, minor}, errMajor == nil && errMinor == nil
}

func (v version) fits(least, below version) bool {
	return !v.less(least) && v.less(below)
}

func (v version) less(w version) bool {
	return v[0] < w[0] || v[0] == w[0] && v[1] < w[1]
}

// Root returns the folder of the repository: the nearest one upward of the working directory whose go.mod declares
// this module.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && declares(string(mod), modulePath) {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find the repository: no go.mod of " + modulePath + " upward of the working directory")
		}
		dir = parent
	}
}

func declares(mod, path string) bool {
	for line := range strings.Lines(mod) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == "module" {
			return fields[1] == path
		}
	}
	return false
}
