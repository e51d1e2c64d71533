package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/rules"
)

// fakeAlertmanager keeps what fires, as Alertmanager does.
type fakeAlertmanager struct {
	mu     sync.Mutex
	calls  int
	down   bool
	one    bool // of two, one is down
	firing map[string]alerting.Posted
	hang   chan struct{} // a call ends when it is closed; nil: at once
}

func (a *fakeAlertmanager) post(ctx context.Context, alerts []alerting.Posted) (int, error) {
	a.mu.Lock()
	hang := a.hang
	a.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls++
	if a.down {
		return 0, errors.New("down")
	}
	for _, p := range alerts {
		key := p.Labels["guard"] + " " + p.Labels["alertname"]
		a.firing[key] = p
	}
	if a.one {
		return 1, errors.New("one is down")
	}
	return 2, nil
}

// fires are the alerts that Alertmanager takes to fire now.
func (a *fakeAlertmanager) fires() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []string
	for key, p := range a.firing {
		if p.EndsAt.After(time.Now()) {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func (a *fakeAlertmanager) called() (n int) {
	a.set(func() { n = a.calls })
	return n
}

func (a *fakeAlertmanager) says(key string) (text string) {
	a.set(func() { text = a.firing[key].Annotations["description"] })
	return text
}

func (a *fakeAlertmanager) set(edit func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	edit()
}

// notifying runs a notifier in a bubble.
func notifying(t *testing.T, f func(n *notifier, am *fakeAlertmanager, reg *prometheus.Registry)) {
	synctest.Test(t, func(t *testing.T) {
		am, reg := &fakeAlertmanager{firing: map[string]alerting.Posted{}}, prometheus.NewRegistry()
		n := newNotifier(reg, slog.New(slog.DiscardHandler), time.Now)
		n.post = am.post
		n.labels = func(name, guard string) map[string]string {
			return map[string]string{"alertname": name, "guard": guard}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- n.run(ctx) }()
		f(n, am, reg)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func someNotice(name, why string) *notice {
	return &notice{name: name, since: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), annotations: map[string]string{"description": why}}
}

func delivered(t *testing.T, reg *prometheus.Registry) string {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "guardian_notification_delivered" {
				out = append(out, labelOf(m, "guard")+" "+labelOf(m, "alert")+"="+fmt.Sprint(m.GetGauge().GetValue()))
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func labelOf(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

func TestWhatGuardianDidFiresUntilItIsOver(t *testing.T) {
	notifying(t, func(n *notifier, am *fakeAlertmanager, reg *prometheus.Registry) {
		check := func(after time.Duration, fires, known string) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if got := am.fires(); got != fires {
				t.Errorf("fires: %s; want %s", got, fires)
			}
			if got := delivered(t, reg); got != known {
				t.Errorf("delivered: %s; want %s", got, known)
			}
		}
		check(0, "", "")
		n.tell("orders", someNotice(rules.NoticeRolledBack, "bad"))
		check(0, "orders GuardianRolledBack", "orders GuardianRolledBack=1")
		check(time.Hour, "orders GuardianRolledBack", "orders GuardianRolledBack=1") // posted again and again
		if calls := am.called(); calls < 60 || calls > 62 {
			t.Errorf("%d calls in an hour", calls)
		}
		before := am.called()
		for range 100 {
			n.tell("orders", someNotice(rules.NoticeRolledBack, "bad")) // each pass says so again
		}
		synctest.Wait()
		if calls := am.called(); calls != before {
			t.Errorf("what is known is posted %d times", calls-before)
		}
		n.tell("orders", someNotice(rules.NoticeBlocked, "stable is down"))
		check(0, "orders GuardianBlocked", "orders GuardianBlocked=1") // and the other has ended
		n.tell("orders", nil)
		check(0, "", "")
		n.tell("orders", someNotice(rules.NoticeRolledBack, "bad again"))
		n.tell("pay", someNotice(rules.NoticeHeld, "bad"))
		check(0, "orders GuardianRolledBack, pay GuardianHeld", "orders GuardianRolledBack=1, pay GuardianHeld=1")
		n.keepOnly([]string{"orders"})
		check(0, "orders GuardianRolledBack", "orders GuardianRolledBack=1")
		n.keepOnly(nil)
		check(0, "", "")
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(n.guards) != 0 {
			t.Errorf("kept: %v", n.guards)
		}
	})
}

func TestAnAlertmanagerThatIsDownGetsTheNewestLater(t *testing.T) {
	notifying(t, func(n *notifier, am *fakeAlertmanager, reg *prometheus.Registry) {
		am.set(func() { am.down = true })
		n.tell("orders", someNotice(rules.NoticeRolledBack, "first"))
		time.Sleep(10 * time.Minute)
		n.tell("orders", someNotice(rules.NoticeRolledBack, "second"))
		n.tell("pay", someNotice(rules.NoticeRolledBack, "over before anybody knew"))
		n.tell("pay", nil)
		synctest.Wait()
		if got := delivered(t, reg); got != "orders GuardianRolledBack=0" {
			t.Errorf("delivered: %s", got)
		}
		if calls := am.called(); calls > 60 {
			t.Errorf("%d calls within ten minutes", calls)
		}
		am.set(func() { am.down = false })
		time.Sleep(postRetryMost)
		synctest.Wait()
		if got := am.fires(); got != "orders GuardianRolledBack" {
			t.Errorf("fires: %s", got)
		}
		if got := am.says("orders GuardianRolledBack"); got != "second" {
			t.Errorf("says %q", got)
		}
		am.set(func() { am.down = true })
		time.Sleep(postFor + repost)
		if got := delivered(t, reg); got != "orders GuardianRolledBack=0" {
			t.Errorf("Alertmanager has forgotten it, and the metric says %s", got)
		}
	})
}

func TestOfTwoAlertmanagersOneIsEnoughAndTheOtherIsTriedAgain(t *testing.T) {
	notifying(t, func(n *notifier, am *fakeAlertmanager, reg *prometheus.Registry) {
		am.set(func() { am.one = true })
		n.tell("orders", someNotice(rules.NoticeRolledBack, "bad"))
		synctest.Wait()
		if got := delivered(t, reg); got != "orders GuardianRolledBack=1" {
			t.Errorf("delivered: %s", got)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if calls := am.called(); calls != 2 {
			t.Errorf("%d calls, want the second after a second", calls)
		}
	})
}

func TestWhoeverTellsWaitsForNoAlertmanager(t *testing.T) {
	notifying(t, func(n *notifier, am *fakeAlertmanager, _ *prometheus.Registry) {
		hang := make(chan struct{})
		am.set(func() { am.hang = hang })
		began := time.Now()
		for i := range 1000 {
			n.tell(fmt.Sprint("g", i), someNotice(rules.NoticeRolledBack, "bad"))
			synctest.Wait() // it hangs
		}
		for range 1000 {
			n.tell("g0", someNotice(rules.NoticeRolledBack, "newer"))
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("waited for %v", took)
		}
		close(hang)
		synctest.Wait()
		if got := len(strings.Split(am.fires(), ", ")); got != 1000 || am.says("g0 GuardianRolledBack") != "newer" {
			t.Errorf("%d fire, g0 says %q", got, am.says("g0 GuardianRolledBack"))
		}
		if calls := am.called(); calls > 3+1000/postMost {
			t.Errorf("%d calls", calls)
		}
	})
}
