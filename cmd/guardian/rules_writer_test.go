package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"github.com/canary-guardian/guardian/rules"
	"github.com/canary-guardian/guardian/rules/publish"
	"github.com/canary-guardian/guardian/test/controlplane"
)

// leader is a controller that leads and knows names as a test says.
type leader struct {
	mu    sync.Mutex
	leads bool
	sides map[string]decision.Sides
}

func (l *leader) Leads() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.leads }

func (l *leader) Idle() bool { return false }

func (l *leader) SidesOf() map[string]decision.Sides {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sides
}

func (l *leader) set(leads bool, canary ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leads = leads
	l.sides = map[string]decision.Sides{"orders-service": {
		Stable: decision.Side{Service: "orders-service", Workloads: []string{"orders-v1"}},
		Canary: decision.Side{Service: "orders-service", Workloads: canary},
	}}
}

func TestTheLeaseHolderPublishesRulesForTheWorkloadsItSees(t *testing.T) {
	plane := controlplane.Shared(t)
	ns := plane.Namespace(t)
	rest := plane.RESTConfig(controlplane.Admin)
	client, err := dynamic.NewForConfig(rest)
	if err != nil {
		t.Fatal(err)
	}
	kube, err := kubernetes.NewForConfig(rest)
	if err != nil {
		t.Fatal(err)
	}
	c := config.Default()
	c.Namespace, c.Rules.Namespace = ns, ns
	c.Guards = []config.Guard{config.DefaultGuard("orders-service")}
	l := &leader{}
	l.set(false, "orders-v2")
	w := newRulesWriter(client, kube, l, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	w.setConfig(c)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	run, stop := context.WithCancel(ctx)
	defer stop()
	wg.Go(func() {
		if err := w.run(run); err != nil {
			t.Error(err)
		}
	})
	text := func() string {
		u, err := client.Resource(publish.PrometheusRule.Resource).Namespace(ns).Get(ctx, c.Rules.Name+"-guards", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		b, err := json.Marshal(u.Object["spec"])
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	until := func(what string, ok func(string) bool) {
		t.Helper()
		if err := wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(context.Context) (bool, error) { return ok(text()), nil }); err != nil {
			t.Fatalf("%s: %v; it says: %.300s", what, err, text())
		}
	}
	l.set(true, "orders-v2")
	until("rules that name the canary's Deployment", func(s string) bool { return strings.Contains(s, "orders-v2") })
	l.set(true, "orders-v2", "orders-v2-extra")
	until("rules that name a Deployment that came later", func(s string) bool { return strings.Contains(s, "orders-v2-extra") })
	if err := client.Resource(publish.PrometheusRule.Resource).Namespace(ns).Delete(ctx, c.Rules.Name+"-guards", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until("rules that somebody has deleted", func(s string) bool { return strings.Contains(s, "orders-v2-extra") })
	monitor := func() bool {
		_, err := client.Resource(publish.PodMonitor.Resource).Namespace(ns).Get(ctx, "guardian-fast-lane", metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		return err == nil
	}
	if monitor() {
		t.Error("a fast lane that nobody asked for")
	}
	fast := c
	fast.Rules.FastLane.Enabled = true
	w.setConfig(fast)
	until("the fast lane, and rules that read it", func(s string) bool { return strings.Contains(s, "guardian-fast-lane") && monitor() })
	w.setConfig(c)
	until("the end of the fast lane", func(s string) bool { return !strings.Contains(s, "guardian-fast-lane") && !monitor() })
	kept := c
	kept.Rules.Enabled = false
	w.setConfig(kept)
	until("the end of the rules that guardian is to write no more", func(s string) bool { return strings.Contains(s, "not found") })
	w.setConfig(c)
	until("and their return", func(s string) bool { return strings.Contains(s, "orders-v2-extra") })
	l.set(false)
	until("the end of the term", func(string) bool { return !w.publishing() })
	if err := client.Resource(publish.PrometheusRule.Resource).Namespace(ns).Delete(ctx, c.Rules.Name+"-guards", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if s := text(); !strings.Contains(s, "not found") {
		t.Errorf("without the lease nothing is written; there is: %.200s", s)
	}
}

// expectation is where rules are wanted.
type expectation struct{ rules *rules.Rules }

func (w *expectation) want(r *rules.Rules) error { w.rules = r; return nil }

func TestAGuardWhoseRulesAreTooLargeDoesNotLeaveTheOthersUnwatched(t *testing.T) {
	c := config.Default()
	c.Namespace, c.Rules.Namespace = "shop", "shop"
	large := config.DefaultGuard("large")
	for i := range 4000 {
		large.Workloads.Canary = append(large.Workloads.Canary, fmt.Sprintf("large-canary-%d", i))
	}
	large.Workloads.Stable = []string{"large-stable"}
	c.Guards = []config.Guard{large, config.DefaultGuard("fine")}
	l := &leader{sides: map[string]decision.Sides{"large": {}, "fine": {}}}
	w := newRulesWriter(nil, nil, l, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	got := &expectation{}
	w.look(c, got)
	if n := testutil.ToFloat64(w.leftOut); n != 1 || got.rules == nil {
		t.Fatalf("%v guards are left out, rules: %v", n, got.rules != nil)
	}
	text, err := got.rules.Prometheus()
	if err != nil || !strings.Contains(string(text), "guardian_guard: fine") || strings.Contains(string(text), "guardian_guard: large") {
		t.Errorf("%v; the rules are not those of the other guard", err)
	}
	again := &expectation{}
	if w.look(c, again); again.rules != nil {
		t.Error("the same rules are published again")
	}
}

func TestOneBadGuardDoesNotLeaveTheOthersUnwatched(t *testing.T) {
	side := func(workloads ...string) decision.Side {
		return decision.Side{Service: "orders", Workloads: workloads}
	}
	byHost := config.DefaultGuard("bad")
	byHost.Stable, byHost.Canary = config.Ref{Ref: virtualservice.Ref{Host: "orders-v1"}}, config.Ref{Ref: virtualservice.Ref{Host: "orders-v2"}}
	byHost.Workloads.Stable = []string{"orders-v1"}
	fine := decision.Sides{Stable: side("fine-v1"), Canary: side("fine-v2")}
	for name, test := range map[string]struct {
		bad     config.Guard
		sides   map[string]decision.Sides // of bad; nil: not seen
		looks   int
		want    []string // in the rules
		not     string   // not in the rules
		leftOut float64
		nothing bool // is published
	}{
		"a subset that matches both versions": {bad: config.DefaultGuard("bad"), looks: 1, leftOut: 1, want: []string{"fine-v2"}, not: "guardian_guard: bad",
			sides: map[string]decision.Sides{"bad": {Stable: side("orders-v1", "orders-v2"), Canary: side("orders-v2")}}},
		"a host without a Deployment": {bad: byHost, looks: 1, leftOut: 1, want: []string{"fine-v2"}, not: "guardian_guard: bad",
			sides: map[string]decision.Sides{"bad": {}}},
		"the same once it is there": {bad: byHost, looks: 1, want: []string{"fine-v2", "orders-v2", "guardian_guard: bad"},
			sides: map[string]decision.Sides{"bad": {Canary: side("orders-v2")}}},
		"one that has not been seen yet is waited for": {bad: config.DefaultGuard("bad"), looks: rulesPatience - 1, nothing: true},
		"but not for ever": {bad: config.DefaultGuard("bad"), looks: rulesPatience, want: []string{"fine-v2", "guardian_guard: bad"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := config.Default()
			c.Namespace, c.Rules.Namespace = "shop", "shop"
			c.Guards = []config.Guard{test.bad, config.DefaultGuard("fine")}
			l := &leader{sides: map[string]decision.Sides{"fine": fine}}
			maps.Copy(l.sides, test.sides)
			w := newRulesWriter(nil, nil, l, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
			got := &expectation{}
			for range test.looks {
				w.look(c, got)
			}
			if (got.rules == nil) != test.nothing {
				t.Fatalf("published: %v", got.rules != nil)
			}
			if n := testutil.ToFloat64(w.leftOut); n != test.leftOut {
				t.Errorf("guardian_rules_guards_left_out is %v, want %v", n, test.leftOut)
			}
			if test.nothing {
				return
			}
			text, err := got.rules.Prometheus()
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range test.want {
				if !strings.Contains(string(text), want) {
					t.Errorf("the rules lack %s", want)
				}
			}
			if test.not != "" && strings.Contains(string(text), test.not) {
				t.Errorf("the rules have %s", test.not)
			}
			again := &expectation{}
			if w.look(c, again); again.rules != nil {
				t.Error("the same rules are published again")
			}
		})
	}
}
