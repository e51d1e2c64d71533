package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	one    bool          // of two, one is down
	behind time.Duration // its clock
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
		if p.EndsAt.Before(p.StartsAt) {
			return 0, errors.New("400: end before start")
		}
		old := a.firing[key]
		if now := a.now(); old.EndsAt.After(p.EndsAt) && p.EndsAt.After(old.StartsAt) && p.EndsAt.After(now) {
			p.EndsAt = old.EndsAt // the latest rules, of ends to come
		}
		a.firing[key] = p
	}
	if a.one {
		return 1, errors.New("one is down")
	}
	return 2, nil
}

func (a *fakeAlertmanager) now() time.Time { return time.Now().Add(-a.behind) }

// fires are the alerts that Alertmanager takes to fire now.
func (a *fakeAlertmanager) fires() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []string
	for key, p := range a.firing {
		if p.EndsAt.After(a.now()) {
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
	notifyingLogged(t, slog.New(slog.DiscardHandler), f)
}

func notifyingLogged(t *testing.T, log *slog.Logger, f func(n *notifier, am *fakeAlertmanager, reg *prometheus.Registry)) {
	synctest.Test(t, func(t *testing.T) {
		am, reg := &fakeAlertmanager{firing: map[string]alerting.Posted{}}, prometheus.NewRegistry()
		n := newNotifier(reg, log, time.Now)
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
		n.keepOnly([]string{"orders"}, "shop")
		check(0, "orders GuardianRolledBack", "orders GuardianRolledBack=1")
		n.keepOnly(nil, "shop")
		check(0, "", "")
		if said := am.says("orders GuardianRolledBack"); !strings.Contains(said, "guardian unlock orders -n shop --reason") {
			t.Errorf("a lock may still stand, and the end says %q", said)
		}
		check(postFor+repost, "", "")
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(n.guards) != 0 {
			t.Errorf("kept: %v", n.guards)
		}
	})
}

// TestAReplicaThatIsCutOffSaysAsOfWhen: meanwhile another replica may have seen the end.
func TestAReplicaThatIsCutOffSaysAsOfWhen(t *testing.T) {
	notifying(t, func(n *notifier, am *fakeAlertmanager, _ *prometheus.Registry) {
		const key = "orders " + rules.NoticeRolledBack
		var since atomic.Pointer[time.Time]
		since.Store(&time.Time{})
		n.unseen = func() time.Time { return *since.Load() }
		n.tell("orders", someNotice(rules.NoticeRolledBack, "rolled back."))
		synctest.Wait()
		fresh := am.says(key)
		cut := time.Now()
		since.Store(&cut)
		time.Sleep(repost + time.Second)
		synctest.Wait()
		if got, want := am.says(key), "rolled back. That was so at "+stampOf(cut)+": since then the replica of guardian that says so has seen nothing of the API server."; got != want {
			t.Errorf("cut off it says %q, want %q", got, want)
		}
		since.Store(&time.Time{})
		time.Sleep(repost)
		synctest.Wait()
		if got := am.says(key); got != fresh || fresh != "rolled back." {
			t.Errorf("says %q at first and %q at last", fresh, got)
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

func TestAnEndIsTakenThoughAlertmanagersClockIsBehind(t *testing.T) {
	for behind, within := range map[time.Duration]time.Duration{0: 0, endEarly - time.Second: 0, 50 * time.Second: repost, 4 * time.Minute: 4 * time.Minute} {
		notifying(t, func(n *notifier, am *fakeAlertmanager, _ *prometheus.Registry) {
			am.set(func() { am.behind = behind })
			n.tell("orders", someNotice(rules.NoticeRolledBack, "bad"))
			time.Sleep(10*time.Minute + time.Second)
			n.tell("orders", nil)
			synctest.Wait()
			time.Sleep(within)
			synctest.Wait()
			if got := am.fires(); got != "" {
				t.Errorf("%v behind: %s fires %v after its end", behind, got, within)
			}
			time.Sleep(postFor + repost)
			synctest.Wait()
			calls := am.called()
			time.Sleep(time.Hour)
			synctest.Wait()
			if more := am.called() - calls; more != 0 {
				t.Errorf("an end is posted for ever: %d calls", more)
			}
		})
	}
}

func TestNothingEndsBeforeItBegan(t *testing.T) {
	notifying(t, func(n *notifier, am *fakeAlertmanager, reg *prometheus.Registry) {
		ahead := someNotice(rules.NoticeRolledBack, "by a clock that was ahead")
		ahead.since = time.Now().Add(time.Hour)
		n.tell("orders", ahead)
		n.tell("pay", someNotice(rules.NoticeRolledBack, "in the same call"))
		synctest.Wait()
		if got := am.fires(); got != "orders GuardianRolledBack, pay GuardianRolledBack" {
			t.Errorf("fires: %s", got)
		}
		n.tell("orders", nil)
		brief := someNotice(rules.NoticeHeld, "ends as it began")
		brief.since = time.Now()
		n.tell("brief", brief)
		synctest.Wait()
		n.tell("brief", nil)
		n.tell("pay", nil)
		synctest.Wait()
		if got := am.fires(); strings.Contains(got, "brief") || strings.Contains(got, "pay") {
			t.Errorf("fires: %s", got)
		}
	})
}

func TestOfAnotherEpisodeNobodyHasBeenTold(t *testing.T) {
	later := someNotice(rules.NoticeRolledBack, "second")
	later.since = later.since.Add(time.Hour)
	for name, next := range map[string][]*notice{
		"another since":    {later},
		"over and back":    {nil, someNotice(rules.NoticeRolledBack, "bad")},
		"over and another": {nil, later},
		"only other words": {someNotice(rules.NoticeRolledBack, "worse")},
	} {
		t.Run(name, func(t *testing.T) {
			notifying(t, func(n *notifier, am *fakeAlertmanager, reg *prometheus.Registry) {
				n.tell("orders", someNotice(rules.NoticeRolledBack, "bad"))
				synctest.Wait()
				am.set(func() { am.down = true })
				for _, w := range next {
					n.tell("orders", w)
					synctest.Wait()
				}
				want := "orders GuardianRolledBack=0"
				if name == "only other words" {
					want = "orders GuardianRolledBack=1"
				}
				if got := delivered(t, reg); got != want {
					t.Errorf("delivered: %s; want %s", got, want)
				}
			})
		})
	}
}

func TestACallUnderWayTellsNothingOfTheNextEpisode(t *testing.T) {
	notifying(t, func(n *notifier, am *fakeAlertmanager, reg *prometheus.Registry) {
		hang := make(chan struct{})
		am.set(func() { am.hang = hang })
		n.tell("orders", someNotice(rules.NoticeRolledBack, "bad"))
		synctest.Wait()
		later := someNotice(rules.NoticeRolledBack, "second")
		later.since = later.since.Add(time.Hour)
		n.tell("orders", later)
		next := make(chan struct{})
		am.set(func() { am.hang = next })
		close(hang)
		synctest.Wait() // the call of the first is over, that of the second hangs
		if got := delivered(t, reg); got != "orders GuardianRolledBack=0" {
			t.Errorf("delivered: %s", got)
		}
		close(next)
		synctest.Wait()
		if got := delivered(t, reg); got != "orders GuardianRolledBack=1" {
			t.Errorf("delivered: %s", got)
		}
	})
}

func TestTheLogSaysForHowLongPeopleAreNotTold(t *testing.T) {
	var log syncBuffer
	notifyingLogged(t, slog.New(slog.NewTextHandler(&log, nil)), func(n *notifier, am *fakeAlertmanager, _ *prometheus.Registry) {
		check := func(after time.Duration, failed, partly, again int) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			text := log.String()
			for said, want := range map[string]int{"people are not told": failed, "another has taken it": partly, "takes again": again} {
				if got := strings.Count(text, said); got != want {
					t.Errorf("%q %d times, want %d:\n%s", said, got, want, text)
				}
			}
		}
		n.tell("orders", someNotice(rules.NoticeRolledBack, "bad"))
		check(30*time.Minute, 0, 0, 0)
		am.set(func() { am.one = true })
		check(9*time.Minute, 0, 1, 0)
		check(20*time.Minute, 0, 3, 0)
		am.set(func() { am.down = true })
		check(9*time.Minute, 1, 3, 0)
		check(20*time.Minute, 3, 3, 0)
		am.set(func() { am.down, am.one = false, false })
		check(time.Hour, 3, 3, 1)
		am.set(func() { am.down = true })
		check(2*time.Minute, 4, 3, 1)
		am.set(func() { am.down = false })
		check(time.Minute, 4, 3, 2)
	})
}
