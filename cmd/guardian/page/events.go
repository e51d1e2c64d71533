package page

import (
	"fmt"
	"net/http"
	"sync"
	"time"
)

const (
	maxStreams = 64               // open at once; a page without one asks every 30 seconds
	patience   = 30 * time.Second // with a reader that does not read
	pace       = time.Second      // least time between two events of a stream
	keepAlive  = 15 * time.Second // proxies cut what is silent for longer
)

// changes tells everybody who waits that something has changed.
type changes struct {
	mu     *sync.Mutex
	next   *chan struct{} // closed by the next change
	closed chan struct{}
	once   *sync.Once
	places chan struct{}
}

func newChanges() changes {
	next := make(chan struct{})
	return changes{mu: new(sync.Mutex), next: &next, closed: make(chan struct{}), once: new(sync.Once), places: make(chan struct{}, maxStreams)}
}

func (c changes) note() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(*c.next)
	*c.next = make(chan struct{})
}

func (c changes) wait() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return *c.next
}

func (c changes) close() { c.once.Do(func() { close(c.closed) }) }

// events is a stream of server-sent events: one after each change, at most one a
// second. It says that something has changed, and not what: the browser gets the
// page again.
func (p *Page) events(w http.ResponseWriter, r *http.Request) {
	select {
	case p.changes.places <- struct{}{}:
		defer func() { <-p.changes.places }()
	default:
		w.Header().Set("Retry-After", "30")
		http.Error(w, "too many look at this page at once", http.StatusServiceUnavailable)
		return
	}
	stream := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	say := func(text string) bool {
		_ = stream.SetWriteDeadline(time.Now().Add(patience)) // the server's own is for short answers
		_, err := fmt.Fprint(w, text)
		return err == nil && stream.Flush() == nil
	}
	changed := p.changes.wait()
	if !say("retry: 2000\n\n") {
		return
	}
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	for {
		select {
		case <-r.Context().Done():
			return
		case <-p.changes.closed:
			return
		case <-alive.C:
			if !say(": still here\n\n") {
				return
			}
		case <-changed:
			changed = p.changes.wait()
			if !say("event: changed\ndata:\n\n") || !p.rest(r) {
				return
			}
		}
	}
}

// rest keeps a stream's pace, and says whether it goes on.
func (p *Page) rest(r *http.Request) bool {
	select {
	case <-r.Context().Done():
		return false
	case <-p.changes.closed:
		return false
	case <-time.After(pace):
		return true
	}
}
