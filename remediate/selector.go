package remediate

import (
	"slices"

	"k8s.io/apimachinery/pkg/labels"
)

// workloadSelector is the conjunction of a Service's selector and a subset's
// labels. The zero value selects nothing.
type workloadSelector struct {
	want slimLabels
	pair string // of the Service's selector, for the index
}

func newWorkloadSelector(service, subset slimLabels) workloadSelector {
	if len(service) == 0 { // it has no pods of its own
		return workloadSelector{}
	}
	all := slices.Clone(service)
	for _, l := range subset {
		if slices.Contains(service, l) {
			continue
		}
		if slices.ContainsFunc(service, func(have slimLabel) bool { return have.key == l.key }) { // of another value: no pod has both
			return workloadSelector{}
		}
		all = append(all, l)
	}
	return workloadSelector{want: all, pair: selectorPair(service)}
}

func (w workloadSelector) matches(set slimLabels) bool { return w.pair != "" && set.include(w.want) }

// includedIn says that whatever o matches, w matches as well.
func (w workloadSelector) includedIn(o workloadSelector) bool {
	return w.pair != "" && o.pair != "" && o.want.include(w.want)
}

func (w workloadSelector) String() string { return labels.SelectorFromSet(w.want.set()).String() }
