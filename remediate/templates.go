package remediate

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/canary-guardian/guardian/remediate/decision"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	maxDiffers = 20  // lines about what differs between two templates
	maxLine    = 160 // bytes of one
)

// readTemplates reads what the canary was made of, and what is other there than in
// stable and in the last build that was good. Only a single Deployment on each side
// has templates that can be told apart.
func readTemplates(ctx context.Context, kube kubernetes.Interface, s snapshot, r decision.Receipt, a *decision.After) {
	canary, err := theTemplate(ctx, kube, s, s.sides.Canary, "canary")
	if err == nil && r.Build != "" && s.input.Canary.Build != r.Build {
		err = fmt.Errorf("the canary is another build by now")
	}
	if err != nil {
		a.Unread = err.Error()
		return
	}
	for _, c := range slices.Concat(canary.Spec.InitContainers, canary.Spec.Containers) {
		a.Images = append(a.Images, cutLine(c.Name+": "+c.Image))
	}
	stable, err := theTemplate(ctx, kube, s, s.sides.Stable, "stable")
	if err == nil {
		a.Differs = differences(stable, canary)
	}
	good, build, goodErr := goodTemplate(ctx, kube, s)
	if goodErr == nil && good != nil {
		a.Good, a.Since = build, differences(good, canary)
	}
	if err = cmp.Or(err, goodErr); err != nil {
		a.Unread = err.Error()
	}
}

// theTemplate is that of a side's only Deployment.
func theTemplate(ctx context.Context, kube kubernetes.Interface, s snapshot, side decision.Side, which string) (*corev1.PodTemplateSpec, error) {
	if n := len(side.Workloads); n != 1 {
		return nil, fmt.Errorf("%s has %d workloads, so that no pod template is compared", which, n)
	}
	d, err := kube.AppsV1().Deployments(s.input.Guard.Namespace).Get(ctx, side.Workloads[0], metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("%s is no Deployment, so that no pod template is compared", side.Workloads[0])
	}
	if err != nil {
		return nil, fmt.Errorf("read Deployment %s: %w", side.Workloads[0], err)
	}
	return &d.Spec.Template, nil
}

// goodTemplate is that of the last build which outlived its rollback window, as long
// as the cluster keeps it; nil: there was none, or it is gone.
func goodTemplate(ctx context.Context, kube kubernetes.Interface, s snapshot) (*corev1.PodTemplateSpec, string, error) {
	st := s.input.Record.Status
	for _, build := range slices.Backward(st.Proven) {
		i := slices.IndexFunc(st.Revisions, func(r decision.Revision) bool { return r.Build == build })
		if i < 0 {
			continue
		}
		rs, err := kube.AppsV1().ReplicaSets(s.input.Guard.Namespace).Get(ctx, st.Revisions[i].Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, "", fmt.Errorf("read ReplicaSet %s: %w", st.Revisions[i].Name, err)
		}
		return &rs.Spec.Template, build, nil
	}
	return nil, "", nil
}

// differences are what one pod template has other than another, a line each. Values
// are shown of what holds no secrets alone: a record is read by many.
func differences(was, is *corev1.PodTemplateSpec) []string {
	d := differ{}
	d.compare("", plainTemplate(was), plainTemplate(is))
	if more := len(d.lines) - maxDiffers; more > 0 {
		d.lines = append(d.lines[:maxDiffers], fmt.Sprintf("and %d more", more))
	}
	return d.lines
}

// plainTemplate is a template as JSON has it, without what controllers write there.
func plainTemplate(t *corev1.PodTemplateSpec) any {
	t = t.DeepCopy()
	delete(t.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	t.Spec = *quiet(&t.Spec)
	var out any
	b, err := json.Marshal(map[string]any{"labels": t.Labels, "annotations": t.Annotations, "spec": t.Spec})
	if err != nil || json.Unmarshal(b, &out) != nil {
		return nil // no pod template fails to marshal
	}
	return out
}

// shown says whether the values of a part of a template are shown.
func shown(path string) bool {
	return strings.HasSuffix(path, ".image") || strings.HasSuffix(path, ".containerPort") || strings.HasPrefix(path, "labels[") || strings.Contains(path, ".resources.")
}

type differ struct{ lines []string }

func (d *differ) say(path, was, is string) {
	path = strings.TrimPrefix(strings.TrimPrefix(path, "."), "spec.")
	text := path
	switch values := shown(path); {
	case was == "" && values:
		text += " added: " + is
	case was == "":
		text += " added"
	case is == "":
		text += " removed"
	case values:
		text += ": " + was + " → " + is
	default:
		text += " changed"
	}
	d.lines = append(d.lines, cutLine(text))
}

func cutLine(s string) string {
	if len(s) > maxLine {
		return strings.ToValidUTF8(s[:maxLine], "") + "…"
	}
	return s
}

func (d *differ) compare(path string, was, is any) {
	if a, ok := was.(map[string]any); ok {
		if b, ok := is.(map[string]any); ok {
			d.compareMaps(path, a, b)
			return
		}
	}
	if a, b, ok := bothByName(was, is); ok {
		d.compareMaps(path, a, b)
		return
	}
	if a, b := scalar(was), scalar(is); a != b {
		d.say(path, a, b)
	}
}

// bothByName are two lists of objects that have names; ok: at least one is such a
// list, and the other one too, or absent.
func bothByName(was, is any) (a, b map[string]any, ok bool) {
	a, b = listByName(was), listByName(is)
	if a == nil && b == nil {
		return nil, nil, false
	}
	return a, b, (a != nil || was == nil) && (b != nil || is == nil)
}

// compareMaps goes through the keys of both. Names, of labels and of objects in a
// list, stand in brackets.
func (d *differ) compareMaps(path string, was, is map[string]any) {
	keys := map[string]any{}
	maps.Copy(keys, was)
	maps.Copy(keys, is)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		at := path + "." + key
		name, listed := strings.CutPrefix(key, nameMark)
		if listed || path == ".labels" || path == ".annotations" {
			at = path + "[" + name + "]"
		}
		switch {
		case listed && was[key] == nil:
			d.say(at, "", "{}")
		case listed && is[key] == nil:
			d.say(at, "{}", "")
		default:
			d.compare(at, was[key], is[key])
		}
	}
}

const nameMark = "\x00"

// listByName is a list of objects with names, by their names; nil: it is none.
func listByName(v any) map[string]any {
	list, ok := v.([]any)
	if !ok || len(list) == 0 {
		return nil
	}
	out := map[string]any{}
	for _, e := range list {
		m, _ := e.(map[string]any)
		name, ok := m["name"].(string)
		if !ok || out[nameMark+name] != nil {
			return nil
		}
		m = maps.Clone(m)
		delete(m, "name")
		out[nameMark+name] = m
	}
	return out
}

// scalar is a value as text; empty: there is none.
func scalar(v any) string {
	switch t := v.(type) {
	case nil:
		return ""
	case string:
		return cmp.Or(t, `""`)
	case map[string]any, []any:
		b, err := json.Marshal(t)
		if err != nil || len(b) <= 2 {
			return ""
		}
		return string(b)
	}
	return fmt.Sprint(v)
}
