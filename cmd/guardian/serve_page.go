package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"reflect"
	"sync"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
	"golang.org/x/net/netutil"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

	mu   sync.Mutex
	last map[string]remediate.View // by guard, as those who look were told
}

// pageReceipt is a guard's receipt as `guardian receipt` shows it; nil: there is none.
func pageReceipt(namespace, guard string, r decision.Record) *page.Receipt {
	if r.Receipt == nil {
		return nil
	}
	v := newReceiptView(namespace, guard, r)
	out := &page.Receipt{Title: v.Title, Links: v.Links, Next: v.Next, Command: v.Command}
	for _, s := range v.Sections {
		section := page.Section{Name: s.Name}
		for _, row := range s.Rows {
			section.Facts = append(section.Facts, page.Fact{Name: row.Name, Value: row.Value})
		}
		out.Sections = append(out.Sections, section)
	}
	return out
}

// readRecord reads a guard's record; nil without an error: there is none.
func readRecord(ctx context.Context, kube kubernetes.Interface, namespace, guard string) (*decision.Record, error) {
	cm, err := kube.CoreV1().ConfigMaps(namespace).Get(ctx, records.Name(guard), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read the record of guard %s: %w", guard, err)
	}
	r, err := records.ReadOf(guard, cm)
	return &r, err
}

// passed has those who look at the page look again, if a guard is not as it was.
func (p *pageServer) passed(v remediate.View) {
	p.mu.Lock()
	was, known := p.last[v.Name]
	p.last[v.Name] = v
	p.mu.Unlock()
	if !known || !reflect.DeepEqual(was, v) {
		p.page.Changed()
	}
}

// pageConnections is how many may be open at once: an answer of a thousand guards
// has 300 KB, and the brake needs its memory.
const pageConnections = 100

func (p *pageServer) listen(ctx context.Context) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", p.address)
	if err != nil {
		return fmt.Errorf("open the page's port: %w", err)
	}
	p.listener = netutil.LimitListener(listener, pageConnections)
	return nil
}

// run serves until ctx ends, then lets answers in flight finish. A page that cannot
// be served is told, and ends nothing else: it is not the brake.
func (p *pageServer) run(ctx context.Context) error {
	if err := p.serve(ctx); err != nil {
		p.log.Error("there is no page", "err", err)
	}
	<-ctx.Done()
	return nil
}

func (p *pageServer) serve(ctx context.Context) error {
	if p.listener == nil {
		if err := p.listen(ctx); err != nil {
			return err
		}
	}
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
