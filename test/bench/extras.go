package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/canary-guardian/guardian/test/controlplane"
	"github.com/canary-guardian/guardian/test/otlp"
)

// browsers is how many look at the page at once, where some do.
const browsers = 5

// variant is guardian with something that is off unless it is asked for.
type variant struct {
	name     string
	traces   bool
	page     bool
	browsers int
}

// extras measures what traces and the page cost: idle, and while and after all guards
// are rolled back at once.
func (b *bench) extras(ctx context.Context, n int) error {
	guards := names("extra", n)
	fmt.Printf("setting up %d services …\n", n)
	if err := b.parallel(guards, 8, func(name string) error { return b.makeApp(ctx, namespace, name) }); err != nil {
		return err
	}
	fmt.Printf("\n%d guards; resident memory at least and at most in an idle minute, at most in a burst of rollbacks of all, %s after it; processor time of the idle minute, of a core\n", n, givenBack)
	for _, v := range []variant{{name: "neither"}, {name: "traces", traces: true}, {name: "the page", page: true}, {name: fmt.Sprintf("the page, %d browsers", browsers), page: true, browsers: browsers}} {
		if err := b.measure(ctx, v, guards); err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
	}
	return nil
}

// measure measures one of them, and puts everything back.
func (b *bench) measure(ctx context.Context, v variant, guards []string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b.env = nil
	if v.traces {
		receiver := otlp.NewReceiver()
		defer receiver.Close()
		b.env = []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + receiver.URL}
	}
	var address string
	if v.page {
		port, err := controlplane.FreePort()
		if err != nil {
			return err
		}
		address = fmt.Sprintf("127.0.0.1:%d", port)
	}
	if err := b.startWithPage(ctx, guards, address); err != nil {
		return err
	}
	var looking sync.WaitGroup
	defer looking.Wait()
	defer cancel()
	for range v.browsers {
		looking.Go(func() { look(ctx, "http://"+address) })
	}
	idle, err := b.rest(ctx, false)
	if err != nil {
		return err
	}
	b.most()
	if err := b.shift(ctx, guards); err != nil {
		return err
	}
	if err := b.alarm(ctx, guards); err != nil {
		return err
	}
	if err := sleep(ctx, givenBack); err != nil {
		return err
	}
	after := b.resident()
	row(v.name, "%.1f to %.1f, %.1f, %.1f MiB; %.2f %%", "", idle.least, idle.most.total, b.most(), after.total, idle.share*100)
	cancel()
	b.proc.Stop()
	return b.putBack(context.WithoutCancel(ctx), guards)
}

// putBack makes everything as it was before guardian was started.
func (b *bench) putBack(ctx context.Context, guards []string) error {
	if err := b.forgetRecords(ctx); err != nil {
		return err
	}
	return b.parallel(guards, 8, func(name string) error { return b.apps[name].SetWeights(ctx, 100, 0) })
}

// look is a browser that shows the page with all guards: it listens, gets it again
// three seconds after a change, and every thirty seconds.
func look(ctx context.Context, url string) {
	changed := make(chan struct{}, 1)
	go listen(ctx, url+"/events", changed)
	for {
		if body, err := open(ctx, url+"/"); err == nil {
			_, _ = io.Copy(io.Discard, body)
			_ = body.Close()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(30 * time.Second):
		case <-changed:
			if sleep(ctx, 3*time.Second) != nil {
				return
			}
		}
	}
}

// listen passes on each change that a stream of server-sent events tells of.
func listen(ctx context.Context, url string, changed chan<- struct{}) {
	body, err := open(ctx, url)
	if err != nil {
		return
	}
	defer body.Close()
	for lines := bufio.NewScanner(body); lines.Scan(); {
		if !strings.HasPrefix(lines.Text(), "event: changed") {
			continue
		}
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

func open(ctx context.Context, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/html, text/event-stream")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return resp.Body, nil
}

// forgetRecords deletes all records: a guardian that has other guards would mark
// them as those of guards that are gone.
func (b *bench) forgetRecords(ctx context.Context) error {
	return b.kube.CoreV1().ConfigMaps(namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "canary-guardian.io/guard"})
}
