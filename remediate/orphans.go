package remediate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

// orphanScanEvery is how often the records are held against the configuration
// without an occasion.
const orphanScanEvery = time.Minute

// tellOrphans marks, while this replica leads, the records of guards that the
// configuration does not have (any more), until ctx ends. What is in them stays,
// a lock above all: but a pipeline or a person must not take for the present
// what nobody keeps up to date.
func (c *Controller) tellOrphans(ctx context.Context) {
	tick := time.NewTicker(orphanScanEvery)
	defer tick.Stop()
	for {
		if c.Leads() {
			if err := c.markOrphans(ctx); err != nil && ctx.Err() == nil {
				c.o.Logger.Warn("mark the records of guards that are not in the configuration", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-c.orphanScans:
		}
	}
}

// scanForOrphans asks tellOrphans for a look now.
func (c *Controller) scanForOrphans() {
	select {
	case c.orphanScans <- struct{}{}:
	default: // one is asked for already
	}
}

func (c *Controller) markOrphans(ctx context.Context) error {
	all, err := c.info.reader.records.ConfigMaps(c.o.Namespace).List(labels.Everything())
	if err != nil {
		return err
	}
	var errs []error
	for _, cm := range all {
		guard := cm.Labels[records.LabelGuard]
		c.mu.Lock()
		_, configured := c.guards[guard]
		c.mu.Unlock()
		if configured || cm.Name != records.Name(guard) {
			continue
		}
		r, _ := records.Read(cm)
		if r.Lock != nil {
			if heir := c.heirOf(ctx, guard, r.Lock.Since); heir != "" {
				errs = append(errs, c.handOver(ctx, guard, heir))
				continue
			}
		}
		if !r.Status.Orphaned.IsZero() {
			continue
		}
		errs = append(errs, c.markOrphan(ctx, guard))
	}
	return errors.Join(errs...)
}

// heirOf is the configured guard that has made an orphan's lock its own, as by a
// new name in the configuration; "": none.
func (c *Controller) heirOf(ctx context.Context, orphan string, since time.Time) string {
	c.mu.Lock()
	names := slices.Sorted(maps.Keys(c.guards))
	c.mu.Unlock()
	for _, name := range names {
		cm, err := c.info.reader.record(ctx, name)
		if err != nil || cm == nil || !strings.Contains(cm.Data[decision.KeyStatus], orphan) {
			continue
		}
		if r, _ := records.Read(cm); r.Status.Taken != nil && r.Status.Taken.Guard == orphan && r.Status.Taken.Since.Equal(since) {
			return name
		}
	}
	return ""
}

// handOver lifts the lock of an orphan that stands on as another guard's. The
// record comes last: it is what has a crash in between made good.
func (c *Controller) handOver(ctx context.Context, orphan, heir string) error {
	cm, err := c.r.live.record(ctx, orphan)
	if err != nil || cm == nil {
		return err
	}
	r, _ := records.Read(cm)
	if r.Lock == nil {
		return nil
	}
	r = records.HandedOver(r, heir, c.o.Now().UTC())
	for _, name := range strings.Fields(cm.Data[decision.KeyVirtualServices]) {
		vs, err := c.r.live.virtualService(ctx, name)
		if err != nil {
			return err
		}
		if vs == nil {
			continue
		}
		if ops := lockOps(vs, orphan, r, c.r.self(), nil); len(ops) > 0 {
			if _, err := c.r.store.patchVirtualService(ctx, vs, ops, FieldManagerPromotion); err != nil {
				return err
			}
		}
	}
	if _, err := c.r.store.writeRecord(ctx, orphan, cm, r); err != nil {
		return err
	}
	c.o.Logger.Info("the lock of a guard that is not in the configuration stands on as another's", "guard", orphan, "heir", heir)
	return nil
}

func (c *Controller) markOrphan(ctx context.Context, guard string) error {
	cm, err := c.r.live.record(ctx, guard)
	if err != nil || cm == nil {
		return err
	}
	r, _ := records.Read(cm)
	if !r.Status.Orphaned.IsZero() {
		return nil
	}
	if _, err := c.r.store.writeRecord(ctx, guard, cm, records.Orphaned(r, guard, c.o.Now().UTC())); err != nil {
		return err
	}
	c.o.Logger.Warn("a guard that has a record is not in the configuration: it is no longer managed", "guard", guard, "locked", r.Lock != nil)
	return nil
}

// TakeOffLock removes the lock's annotation of a guard from VirtualServices and
// changes nothing else, with the rights of whoever client is: under the admission
// policies that takes the RBAC verb unlock. It is for a guard that no guardian
// looks after; one that does writes the annotation again. Returned are the names
// of those that have had it; names that do not exist are passed over.
func TakeOffLock(ctx context.Context, client dynamic.Interface, namespace, guard string, names []string) (taken []string, err error) {
	api := newIstioAPI(client, namespace)
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{decision.LockKey(guard): nil}}})
	if err != nil {
		return nil, err
	}
	var failed []error
	for _, name := range names {
		vs, err := absent(api.get(ctx, resourceVirtualServices, name))
		if err != nil {
			failed = append(failed, fmt.Errorf("read VirtualService %s/%s: %w", namespace, name, err))
			continue
		}
		if vs == nil || vs.GetAnnotations()[decision.LockKey(guard)] == "" {
			continue
		}
		_, err = inServed(api, resourceVirtualServices, func(r dynamic.ResourceInterface) (*unstructured.Unstructured, error) {
			return r.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
		})
		if err != nil {
			failed = append(failed, fmt.Errorf("take %s off VirtualService %s/%s: %w", decision.LockKey(guard), namespace, name, err))
			continue
		}
		taken = append(taken, name)
	}
	return taken, errors.Join(failed...)
}
