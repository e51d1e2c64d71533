package remediate

import (
	"slices"
	"strings"
	"unique"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

type slimRule struct {
	slim
	host     string
	subsets  []slimSubset
	made     int64      // when, Unix seconds: Istio goes by the oldest of a host
	chosen   bool       // it is for some clients alone (workloadSelector)
	selector slimLabels // for which
	exported string     // to which namespaces, as in exportTo, in order, each once; empty: as the mesh has it

	parts     []string          // the rules that Istio made it of, itself included; empty: itself alone
	overruled map[string]string // subsets that Istio takes from another rule, for some clients or all: why, in words
	elsewhere []*rulesMerged    // what other clients take than those whose subsets it has
	alone     string            // why it is not known which other rules its host has; empty: it is
}

type slimSubset struct {
	name   string
	labels slimLabels
}

// rulesMerged is an entry of Istio's list for a host: a DestinationRule and what was
// merged into it, which clients take as a whole.
type rulesMerged struct {
	first   *slimRule // whose exportTo and selector the entry has
	from    []*slimRule
	subsets []slimSubset
}

// slimRuleOf takes what it cannot read for absent: the API server lets nothing
// else through than what the CustomResourceDefinition describes.
func slimRuleOf(r *unstructured.Unstructured) *slimRule {
	k := &slimRule{slim: slim{namespace: unique.Make(r.GetNamespace()), name: r.GetName(), version: r.GetResourceVersion()}}
	k.host, _, _ = unstructured.NestedString(r.Object, "spec", "host")
	k.made = r.GetCreationTimestamp().Unix()
	_, k.chosen, _ = unstructured.NestedMap(r.Object, "spec", "workloadSelector")
	selector, _, _ := unstructured.NestedStringMap(r.Object, "spec", "workloadSelector", "matchLabels")
	exported, _, _ := unstructured.NestedStringSlice(r.Object, "spec", "exportTo")
	if k.selector = slimLabelsOf(selector); k.chosen {
		exported = []string{"."} // whatever it has
	}
	slices.Sort(exported)
	k.exported = unique.Make(strings.Join(slices.Compact(exported), " ")).Value()
	all, _, _ := unstructured.NestedFieldNoCopy(r.Object, "spec", "subsets")
	subsets, _ := all.([]any)
	for _, s := range subsets {
		subset, ok := s.(map[string]any)
		if !ok {
			continue
		}
		name, _ := subset["name"].(string)
		set, _, _ := unstructured.NestedStringMap(subset, "labels")
		k.subsets = append(k.subsets, slimSubset{unique.Make(name).Value(), slimLabelsOf(set)})
	}
	return k
}

// subset returns the labels of a subset, and whether there is one of that name.
func (k *slimRule) subset(name string) (slimLabels, bool) {
	return subsetOf(k.subsets, name)
}

func subsetOf(subsets []slimSubset, name string) (slimLabels, bool) {
	i := slices.IndexFunc(subsets, func(s slimSubset) bool { return s.name == name })
	if i < 0 {
		return nil, false
	}
	return subsets[i].labels, true
}
