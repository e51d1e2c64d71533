package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/canary-guardian/guardian/remediate"
)

// rulesWriter keeps the PrometheusRule what the configuration and the cluster
// say, on the replica that holds the lease.
type rulesWriter struct {
	dynamic    dynamic.Interface
	kube       kubernetes.Interface
	controller *remediate.Controller
	log        *slog.Logger

	mu     sync.Mutex
	config Config
}

func (w *rulesWriter) setConfig(c Config) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.config = c
}

func (w *rulesWriter) run(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
