package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/rules/publish"
	"github.com/canary-guardian/guardian/testdata/controlplane"
)

// leader is a controller that leads and knows names as a test says.
type leader struct {
	mu    sync.Mutex
	leads bool
	sides map[string]remediate.Sides
}

func (l *leader) Leads() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.leads }

func (l *leader) SidesOf() map[string]remediate.Sides {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sides
}

func (l *leader) set(leads bool, canary ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leads = leads
	l.sides = map[string]remediate.Sides{"orders-service": {
		Stable: remediate.Side{Service: "orders-service", Workloads: []string{"orders-v1"}},
		Canary: remediate.Side{Service: "orders-service", Workloads: canary},
	}}
}

func TestTheLeaseHolderPublishesRulesForTheWorkloadsItSees(t *testing.T) {
	plane := controlplane.Shared(t)
	ns := plane.Namespace(t)
	config := plane.RESTConfig(controlplane.Admin)
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	c := DefaultConfig()
	c.Namespace, c.Rules.Namespace = ns, ns
	c.Guards = []GuardConfig{DefaultGuard("orders-service")}
	l := &leader{}
	l.set(false, "orders-v2")
	w := &rulesWriter{dynamic: client, kube: kube, controller: l, log: slog.New(slog.DiscardHandler)}
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
		u, err := client.Resource(publish.PrometheusRule.Resource).Namespace(ns).Get(ctx, c.Rules.Name, metav1.GetOptions{})
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
	if err := client.Resource(publish.PrometheusRule.Resource).Namespace(ns).Delete(ctx, c.Rules.Name, metav1.DeleteOptions{}); err != nil {
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
	l.set(false)
	until("the end of the term", func(string) bool { return !w.publishing() })
	if err := client.Resource(publish.PrometheusRule.Resource).Namespace(ns).Delete(ctx, c.Rules.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if s := text(); !strings.Contains(s, "not found") {
		t.Errorf("without the lease nothing is written; there is: %.200s", s)
	}
}
