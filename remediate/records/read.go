package records

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"sync"

	"github.com/canary-guardian/guardian/remediate/decision"
	corev1 "k8s.io/api/core/v1"
)

// Parse reads a record's ConfigMap; a nil ConfigMap is an empty record.
// The error names the keys that cannot be read.
func Parse(cm *corev1.ConfigMap) (decision.Record, error) {
	r, bad := Read(cm)
	if len(bad) > 0 {
		return decision.Record{}, fmt.Errorf("read record %s/%s: %s", cm.Namespace, cm.Name, strings.Join(bad, "; "))
	}
	return r, nil
}

// Read is Parse of a record that somebody else may have written:
// what cannot be read is left out, and bad says what and why. A lock that cannot
// be read stays, for a person to lift.
func Read(cm *corev1.ConfigMap) (r decision.Record, bad []string) {
	r, bad = Skim(cm)
	if err := r.ReadHistory(); err != nil {
		bad = append(bad, err.Error())
	}
	return r, bad
}

// Skim is Read but for the history, which stays the text that it is.
func Skim(cm *corev1.ConfigMap) (r decision.Record, bad []string) {
	if cm == nil {
		return r, nil
	}
	r, bad = decision.ReadData(cm.Data, cm.Labels[LabelLocked] == "true")
	r.ResourceVersion = cm.ResourceVersion
	return r, bad
}

// Histories knows which guards' histories can be read, so that not every pass
// over a guard has to find out. It keeps a hash of each text.
type Histories struct {
	seed maphash.Seed

	mu   sync.Mutex
	read map[string]uint64 // by guard
}

// NewHistories has read no history yet.
func NewHistories() *Histories {
	return &Histories{seed: maphash.MakeSeed(), read: map[string]uint64{}}
}

// Parse is Read, but that the history stays the text that it is. A nil
// histories takes it apart.
func (h *Histories) Parse(guard string, cm *corev1.ConfigMap) (r decision.Record, bad []string) {
	if h == nil {
		return Read(cm)
	}
	if r, bad = Skim(cm); r.PastText() == "" {
		return r, bad
	}
	sum := maphash.String(h.seed, r.PastText())
	h.mu.Lock()
	was, ok := h.read[guard]
	h.mu.Unlock()
	if ok && was == sum {
		return r, bad
	}
	if err := r.CheckHistory(); err != nil {
		return r, append(bad, err.Error())
	}
	h.mu.Lock()
	h.read[guard] = sum
	h.mu.Unlock()
	return r, bad
}

// Forget drops a guard that is no longer configured.
func (h *Histories) Forget(guard string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.read, guard)
}

// ErrForeign says that a ConfigMap of a record's name is not guardian's.
var ErrForeign = errors.New("it is not guardian's")

// CheckForeign returns an ErrForeignRecord for a ConfigMap that has the name of
// a guard's record and is none: it bears no label of guardian's, or another
// guard's, and holds no status. A record that somebody has taken the label off
// is one still.
func CheckForeign(guard string, cm *corev1.ConfigMap) error {
	if cm == nil || cm.Labels[LabelGuard] == guard {
		return nil
	}
	var s decision.Status
	if json.Unmarshal([]byte(cm.Data[decision.KeyStatus]), &s) == nil && slices.Contains(decision.States, s.State) {
		return nil
	}
	return fmt.Errorf("ConfigMap %s/%s has the name of guard %s's record and is without its label %s=%s: %w; rename or delete it, or rename the guard",
		cm.Namespace, cm.Name, guard, LabelGuard, guard, ErrForeign)
}

// Own is cm if it is the guard's record. What is not is as absent: to read
// it as one would be to write it as one.
func Own(guard string, cm *corev1.ConfigMap) *corev1.ConfigMap {
	if CheckForeign(guard, cm) != nil {
		return nil
	}
	return cm
}

// ParseOf is Parse of a ConfigMap that was read by a record's name.
func ParseOf(guard string, cm *corev1.ConfigMap) (decision.Record, error) {
	if err := CheckForeign(guard, cm); err != nil {
		return decision.Record{}, err
	}
	return Parse(cm)
}

// ReadOf is Read of a ConfigMap that was read by a record's name.
func ReadOf(guard string, cm *corev1.ConfigMap) (decision.Record, error) {
	if err := CheckForeign(guard, cm); err != nil {
		return decision.Record{}, err
	}
	r, bad := Read(cm)
	r.Unreadable = bad
	return r, nil
}

// UnreadableError names the keys of a record that ReadOf could not read;
// nil: it could read all.
func UnreadableError(r decision.Record, namespace, guard string) error {
	if len(r.Unreadable) == 0 {
		return nil
	}
	return fmt.Errorf("read record %s/%s: %s", namespace, Name(guard), strings.Join(r.Unreadable, "; "))
}
