package rules

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
)

// Guards are spread over parts, each of which is complete by itself: an object
// for the API server, and groups that Prometheus evaluates beside those of the
// others. Which part a guard is in follows from its name, so a guard that comes
// or goes changes one object, unless so many are there now that all are looked at
// at another interval.

const (
	// maxPart is the size of an object's groups as JSON. kubectl apply keeps the
	// object in an annotation as well, all of which may have 256 KiB, and
	// prometheus-operator takes rule files of up to 512 KiB.
	maxPart = 240 << 10
	// maxGuards keeps an evaluation of a part's groups well below their interval.
	maxGuards = 300
)

// part is the rules of one object.
type part struct {
	shard  string // as the end of LabelShard has it; empty: about guardian itself
	groups []monitoringv1.RuleGroup
	words  []words // of each group
	notes  []string
}

// suffix is what the name of the part's object ends with.
func (p part) suffix() string {
	switch p.shard {
	case "":
		return ""
	case wholeShard:
		return "-guards"
	}
	return "-guards-" + p.shard
}

// split makes the parts of guards whose hashes begin with the same bits. Those
// that are too many or too long for one part are told apart by the next bit.
func (o Options) split(bits string, guards []Guard) ([]part, error) {
	if len(guards) == 0 {
		return nil, nil
	}
	size := 0
	if len(guards) <= maxGuards {
		made, err := o.part(cmp.Or(bits, wholeShard), guards)
		if err != nil {
			return nil, err
		}
		if size, err = made.size(); err != nil || size <= maxPart {
			return []part{made}, err
		}
	}
	if len(guards) == 1 {
		return nil, TooLargeError{Guard: guards[0].Name, Size: size}
	}
	if len(bits) == 64 {
		return nil, fmt.Errorf("guards %q and %q cannot be told apart by their hash; want one of them renamed", guards[0].Name, guards[1].Name)
	}
	var halves [2][]Guard
	for _, g := range guards {
		bit := g.hash() >> (63 - len(bits)) & 1
		halves[bit] = append(halves[bit], g)
	}
	low, err := o.split(bits+"0", halves[0])
	if err != nil {
		return nil, err
	}
	high, err := o.split(bits+"1", halves[1])
	return append(low, high...), err
}

// TooLargeError says that the rules of one guard alone do not fit into an object.
type TooLargeError struct {
	Guard string
	Size  int // bytes
}

func (e TooLargeError) Error() string {
	return fmt.Sprintf("guard %q: its rules alone have %d KiB; want at most %d KiB in one PrometheusRule: does a subset select too many Deployments?",
		e.Guard, e.Size>>10, maxPart>>10)
}

// part makes the rules of some guards.
func (o Options) part(shard string, guards []Guard) (part, error) {
	o.Guards = guards
	b := &builder{Options: o, windows: o.windows(), shard: shard}
	b.infoGroup()
	b.requestsGroup()
	b.trafficGroup()
	b.latencyGroup()
	b.restartsGroup()
	b.comparisonGroup()
	b.overviewGroup()
	return part{shard: shard, groups: b.groups, words: b.words, notes: b.notes}, b.err
}

func (p part) size() (int, error) {
	text, err := json.Marshal(p.groups)
	return len(text), err
}

// hash spreads guards evenly.
func (g Guard) hash() uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%s", g.Namespace, g.Name)
	// The first bits of FNV differ little between names that differ in the end.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return x
}

func byKey(a, b Guard) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
