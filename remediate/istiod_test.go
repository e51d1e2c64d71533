//go:build istiod

package remediate

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"github.com/canary-guardian/guardian/remediate/virtualservice/vstest"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// fixtureNamespace is the namespace that the fixtures are written for.
const fixtureNamespace = "microservices"

// verdicts counts what istiod's webhook has said.
type verdicts struct {
	shapes, unfit  int            // VirtualServices that Istio lets in, and those that it does not
	why            map[string]int // for the latter
	judged, unsafe int            // writes of guardian, and moves that it refuses to make itself
}

// istioJudge has guardian write to VirtualServices in the cluster, each write judged
// by istiod.
type istioJudge struct {
	*verdicts
	t      *testing.T
	admin  *dynamic.DynamicClient
	live   *liveReader
	writer *writer
	n      int
}

func newIstioJudge(t *testing.T) *istioJudge {
	plane := controlplane.Shared(t)
	istiod, err := plane.StartIstiod(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(istiod.Stop)
	if err := plane.CreateNamespace(t.Context(), fixtureNamespace); err != nil {
		t.Fatal(err)
	}
	if err := istiod.Judge(t.Context()); err != nil {
		t.Fatal(err)
	}
	config := plane.RESTConfig(controlplane.Admin)
	config.WarningHandler = rest.NoWarnings{} // of fields that nobody has heard of
	admin, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	api := newIstioAPI(admin, fixtureNamespace)
	return &istioJudge{verdicts: &verdicts{why: map[string]int{}}, t: t, admin: admin, live: &liveReader{namespace: fixtureNamespace, istio: api},
		writer: &writer{namespace: fixtureNamespace, istio: api, cache: &cacheReader{}}}
}

// store has an administrator create a VirtualService, and returns its name, or
// "" where Istio, or its CustomResourceDefinition, does not let it in.
func (j *istioJudge) store(vs map[string]any) string {
	j.t.Helper()
	j.n++
	name := "shape-" + strconv.Itoa(j.n)
	u := &unstructured.Unstructured{Object: vstest.JSON(vs).(map[string]any)}
	delete(u.Object, "status")
	u.SetNamespace(fixtureNamespace)
	u.SetName(name)
	u.SetAPIVersion(IstioGroup + "/v1")
	serveAllNames(u)
	if _, err := j.admin.Resource(virtualServiceResource).Namespace(fixtureNamespace).Create(j.t.Context(), u, metav1.CreateOptions{}); err != nil {
		j.unfit++
		j.why[gist(err)]++
		return ""
	}
	j.shapes++
	return name
}

// serveAllNames adds to the hosts of a VirtualService those that its TLS routes
// match: Istio wants them there, and the fixtures leave them out.
func serveAllNames(u *unstructured.Unstructured) {
	hosts, _, _ := unstructured.NestedStringSlice(u.Object, "spec", "hosts")
	routes, _, _ := unstructured.NestedSlice(u.Object, "spec", "tls")
	for _, r := range routes {
		matches, _ := r.(map[string]any)["match"].([]any)
		for _, m := range matches {
			names, _, _ := unstructured.NestedStringSlice(m.(map[string]any), "sniHosts")
			hosts = append(hosts, names...)
		}
	}
	slices.Sort(hosts)
	if err := unstructured.SetNestedStringSlice(u.Object, slices.Compact(hosts), "spec", "hosts"); err != nil {
		panic(err)
	}
}

// gist is an error without names and paths that differ.
func gist(err error) string {
	text := err.Error()
	if _, after, ok := strings.Cut(text, "denied the request: "); ok {
		return "istiod: " + after
	}
	if _, after, ok := strings.Cut(text, " is invalid: "); ok {
		return "its definition: " + after
	}
	return text
}

// aLife is what guardian does to a VirtualService in its life: a step, a
// rollback, giving back, the last step, and a rollback from there.
var aLife = []int{25, 0, virtualservice.KeepWeights, 100, 0, virtualservice.KeepWeights}

// live through all moves of one VirtualService.
func (j *istioJudge) try(what, name string, p virtualservice.Pair, o virtualservice.Options) {
	j.t.Helper()
	var changes []virtualservice.Change
	for _, weight := range aLife {
		vs, err := j.live.virtualService(j.t.Context(), name)
		if err != nil || vs == nil {
			j.t.Fatalf("%s: read: %v", what, err)
		}
		w, err := virtualservice.Rewrite(vs.Object, p, weight, o, changes)
		if unsafe := (*virtualservice.UnsafeError)(nil); errors.As(err, &unsafe) {
			j.unsafe++
			continue
		}
		if err != nil {
			j.t.Errorf("%s: rewrite to %d: %v", what, weight, err)
			return
		}
		changes = w.Changes
		if len(w.Ops) == 0 {
			continue
		}
		j.judged++
		if _, err := j.writer.patchVirtualService(j.t.Context(), vs, w.Ops, FieldManager); err != nil {
			ops, _ := json.Marshal(w.Ops)
			spec, _ := json.Marshal(vs.Object["spec"])
			j.t.Errorf("%s: to %d is refused: %v\nspec %s\npatch %s", what, weight, err, spec, ops)
			return
		}
	}
}

func (j *istioJudge) report() {
	j.t.Logf("istiod judged %d writes of guardian to %d VirtualServices; %d moves guardian did not try; %d shapes were not let in", j.judged, j.shapes, j.unsafe, j.unfit)
	var why []string
	for text, n := range j.why {
		why = append(why, fmt.Sprintf("%4d %s", n, strings.Join(strings.Fields(text), " ")))
	}
	slices.Sort(why)
	for _, line := range slices.Backward(why) {
		j.t.Log(line)
	}
}

// pairsOf are the guards that a fixture is written for.
func pairsOf(fixture string) []virtualservice.Pair {
	if fixture == "apart-by-host" {
		return []virtualservice.Pair{byHost, {Stable: virtualservice.Ref{Subset: "v1"}, Canary: virtualservice.Ref{Host: "orders-v2"}, Host: "orders-service", Namespace: fixtureNamespace}}
	}
	return []virtualservice.Pair{bySubset}
}

// manifests are the VirtualServices of a fixture or golden file.
func manifests(t *testing.T, file string) []map[string]any {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []map[string]any
	var add func(v map[string]any)
	add = func(v map[string]any) {
		if v["kind"] == "VirtualService" {
			out = append(out, v)
		}
		items, _ := v["items"].([]any)
		for _, i := range items {
			if item, ok := i.(map[string]any); ok {
				add(item)
			}
		}
	}
	for _, doc := range strings.Split(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n---") {
		var v map[string]any
		if err := yaml.Unmarshal([]byte(doc), &v); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		add(v)
	}
	return out
}

// fit makes of a drawn VirtualService one that Istio may let in: it knows what
// a match, a redirect and a TLS route are.
func fit(vs map[string]any) map[string]any {
	spec := vs["spec"].(map[string]any)
	for _, kind := range []string{"http", "tls", "tcp"} {
		routes, _ := spec[kind].([]any)
		for _, r := range routes {
			route := r.(map[string]any)
			_, matches := route["match"]
			switch sni := []any{map[string]any{"sniHosts": []any{"orders-service"}}}; {
			case kind == "tls":
				route["match"] = sni
			case kind == "tcp" && matches:
				route["match"] = []any{map[string]any{"port": 80}}
			case kind == "http" && matches:
				if match := route["match"].([]any)[0].(map[string]any); match["sniHosts"] != nil {
					route["match"] = []any{map[string]any{"uri": map[string]any{"exact": "/a"}}}
				}
			}
			if route["redirect"] != nil {
				route["redirect"] = map[string]any{"uri": "/elsewhere"}
			}
			if route["directResponse"] != nil {
				route["directResponse"] = map[string]any{"status": 503}
			}
		}
	}
	return vs
}

func TestIstiodLetsInWhateverGuardianWrites(t *testing.T) {
	j := newIstioJudge(t)
	files, err := filepath.Glob(filepath.Join(fixtures, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("fixtures: %v, %v", files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		for _, vs := range manifests(t, file) {
			for _, p := range pairsOf(name) {
				for _, o := range []virtualservice.Options{all, {}} {
					if stored := j.store(vs); stored != "" {
						j.try(name, stored, p, o)
					}
				}
			}
		}
	}
	j.report()
	if j.shapes < 30 || j.judged < 100 {
		t.Errorf("%d shapes and %d writes of the fixtures were judged, which is too few to say anything", j.shapes, j.judged)
	}
	t.Run("goldens", func(t *testing.T) { j.t = t; j.goldens() })
	t.Run("drawn", func(t *testing.T) { j.t = t; j.drawn() })
}

// goldens are what plan prints, put in place of what was there.
func (j *istioJudge) goldens() {
	files, err := filepath.Glob(filepath.Join(fixtures, "golden", "*.*"))
	if err != nil {
		j.t.Fatal(err)
	}
	taken := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			j.t.Fatal(err)
		}
		name, _, _ := strings.Cut(filepath.Base(file), ".")
		if strings.HasPrefix(string(text), "# refused") {
			continue
		}
		before, _ := filepath.Glob(filepath.Join(fixtures, name+".*"))
		was, now := manifests(j.t, before[0]), manifests(j.t, file)
		for i := range now {
			stored := j.store(was[i])
			if stored == "" {
				continue
			}
			u := &unstructured.Unstructured{Object: map[string]any{"spec": vstest.JSON(now[i]["spec"])}}
			serveAllNames(u) // as of what is there
			body, err := json.Marshal(u.Object)
			if err != nil {
				j.t.Fatal(err)
			}
			taken++
			if _, err := j.admin.Resource(virtualServiceResource).Namespace(fixtureNamespace).Patch(j.t.Context(), stored, "application/merge-patch+json", body, metav1.PatchOptions{}); err != nil {
				j.t.Errorf("%s is refused: %v", filepath.Base(file), err)
			}
		}
	}
	j.t.Logf("istiod judged %d VirtualServices as plan prints them", taken)
	if taken < 20 {
		j.t.Errorf("only %d golden VirtualServices were judged", taken)
	}
}

// drawn are shapes like those of the property tests.
func (j *istioJudge) drawn() {
	j.verdicts = &verdicts{why: map[string]int{}}
	shapes := 300
	if n, err := strconv.Atoi(os.Getenv("SHAPES")); err == nil {
		shapes = n
	}
	draw := rapid.Custom(func(t *rapid.T) map[string]any {
		return fit(vstest.Draw(t, vstest.Shape{Duplicates: rapid.Bool().Draw(t, "duplicates")}))
	})
	for i := range shapes {
		vs := draw.Example(i)
		if stored := j.store(vs); stored != "" {
			j.try("drawn "+strconv.Itoa(i), stored, bySubset, []virtualservice.Options{all, {}}[i%2])
		}
	}
	j.report()
	if j.shapes < shapes/4 || j.judged < shapes {
		j.t.Errorf("of %d shapes %d were let in, and %d writes judged: too few to say anything", shapes, j.shapes, j.judged)
	}
}
