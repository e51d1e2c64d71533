package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
	"k8s.io/client-go/kubernetes"

	"github.com/canary-guardian/guardian/cmd/guardian/page"
	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
)

// pageServer serves the page on a port of its own.
type pageServer struct {
	page      *page.Page
	server    *http.Server
	address   string
	webConfig string
	log       *slog.Logger
	listener  net.Listener // nil until listen
}

// connectPage is for people without kubectl.
func (s *service) connectPage(kube kubernetes.Interface) {
	if s.config.Listen.Page == "" {
		return
	}
	version, _ := buildVersion()
	client := records.Client{Kube: kube, Namespace: s.config.Namespace}
	p := page.New(page.Options{
		Namespace: s.config.Namespace, Version: version,
		Guards: func() []page.Guard {
			views := s.controller.Views()
			out := make([]page.Guard, len(views))
			for i, v := range views {
				out[i] = page.Guard{Name: v.Name, Lock: v.Lock, Status: v.Status, Seen: v.Seen}
			}
			return out
		},
		Record: func(ctx context.Context, guard string) (*decision.Record, error) {
			return client.Get(ctx, guard)
		},
		Facts: func(guard string, r decision.Record, now time.Time) []page.Fact {
			return factsOf(records.Named{Namespace: s.config.Namespace, Guard: guard, Record: r}, s.beat(now), now)
		},
		Next: nextLine, Logger: s.log.With("component", "page"),
	})
	s.page = &pageServer{page: p, address: s.config.Listen.Page, webConfig: s.config.Web.ConfigFile, log: s.log.With("component", "page"),
		server: &http.Server{
			Handler: p, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
			ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		}}
	s.page.server.RegisterOnShutdown(p.Close)
}

// beat is when this replica last received the heartbeat.
func (s *service) beat(now time.Time) string {
	at := s.server.Heartbeat()
	if at.IsZero() {
		return "this replica has received none yet"
	}
	return fmt.Sprintf("this replica received the last one %s ago", age(at, now))
}

// changed has those who look at the page look again.
func (s *service) changed(v remediate.View) {
	s.confirmed(v)
	if s.page != nil {
		s.page.page.Changed()
	}
}

func (p *pageServer) listen(ctx context.Context) (err error) {
	if p.listener, err = new(net.ListenConfig).Listen(ctx, "tcp", p.address); err != nil {
		return fmt.Errorf("open the page's port: %w", err)
	}
	return nil
}

// run serves until ctx ends, then lets answers in flight finish.
func (p *pageServer) run(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- web.Serve(p.listener, p.server, &web.FlagConfig{WebConfigFile: &p.webConfig}, p.log) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve the page: %w", err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := p.server.Shutdown(end)
	_ = p.listener.Close() // a server that never got to serve it has not closed it
	if got := <-ended; !errors.Is(got, http.ErrServerClosed) {
		err = errors.Join(err, fmt.Errorf("serve the page: %w", got))
	}
	return err
}
