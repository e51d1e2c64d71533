package page

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/canary-guardian/guardian/internal/printable"
	"github.com/canary-guardian/guardian/remediate/decision"
)

// Fact is a line about a guard: what, and its value.
type Fact struct{ Name, Value string }

// Command is something that a person can do, and how.
type Command struct{ For, Line string }

// Guard is one as a replica last saw it.
type Guard struct {
	Name   string
	Lock   *decision.Lock
	Status decision.Status
	Seen   bool // false: not looked at since the replica started
	// Failing is why the replica's last look failed; empty: it did not.
	Failing string
}

// Options says where a [Page] gets what it shows. All but Now are needed.
type Options struct {
	Namespace string // of the guards
	Version   string // of guardian
	// Hosts are the names by which browsers reach the page, besides IP addresses,
	// localhost and those of the cluster, which end in .svc or .svc.<Domain>.
	Hosts  []string
	Domain string // of the cluster

	// Guards are all as this replica last saw them, sorted by name.
	Guards func() []Guard
	// Record reads a guard's record from the API server; nil without an error:
	// there is none. It is called once a second for a guard at most, however many
	// look at it.
	Record func(ctx context.Context, guard string) (*decision.Record, error)
	// Facts are the lines about a guard, as `guardian status NAME` has them.
	Facts func(guard string, r decision.Record, now time.Time) []Fact
	// Receipt is what is known of the last rollback; nil: there was none.
	Receipt func(guard string, r decision.Record) *Receipt
	// Next is the next step of promotion and what it waits for; empty: none.
	Next func(s decision.Status, now time.Time) string

	Logger *slog.Logger
	Now    func() time.Time // nil: time.Now
}

// Page answers GET requests for the page and all that belongs to it.
type Page struct {
	o       Options
	mux     *http.ServeMux
	hosts   hosts
	changes changes
	warn    rate.Sometimes

	mu    sync.Mutex
	reads map[string]*read // by guard
}

const (
	readFor = 5 * time.Second // how long a record is waited for
	reuse   = time.Second     // how old one may be that is shown
)

// read is a record for all who look at it at once.
type read struct {
	at     time.Time
	once   sync.Once
	record *decision.Record
	err    error
}

// record reads a guard's, or takes what somebody has just read.
func (p *Page) record(guard string) (*decision.Record, error) {
	p.mu.Lock()
	r, now := p.reads[guard], p.o.Now()
	if r == nil || now.Sub(r.at).Abs() >= reuse {
		r = &read{at: now}
		p.reads[guard] = r
	}
	p.mu.Unlock()
	r.once.Do(func() {
		// Not the context of who came first: others wait for it too.
		ctx, cancel := context.WithTimeout(context.Background(), readFor)
		defer cancel()
		r.record, r.err = p.o.Record(ctx, guard)
	})
	return r.record, r.err
}

//go:embed assets
var assets embed.FS

// New returns a page. Its streams end with the requests' contexts, or when Close
// is called.
func New(o Options) *Page {
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &Page{o: o, mux: http.NewServeMux(), hosts: newHosts(o.Hosts, o.Namespace, o.Domain), changes: newChanges(), reads: map[string]*read{},
		warn: rate.Sometimes{First: 1, Interval: time.Minute}}
	static, err := fs.Sub(assets, "assets")
	if err != nil {
		panic(err) // the folder is part of the program
	}
	p.mux.Handle("GET /page.css", http.FileServerFS(static))
	p.mux.Handle("GET /page.js", http.FileServerFS(static))
	p.mux.HandleFunc("GET /{$}", p.all)
	p.mux.HandleFunc("GET /guards/{name}", p.one)
	p.mux.HandleFunc("GET /events", p.events)
	return p
}

// ServeHTTP implements http.Handler.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	// Nothing comes from anywhere else, nothing is sent anywhere else, and no other
	// site may put the page into a frame.
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	if !p.hosts.knows(r.Host) {
		refuse(w, r)
		return
	}
	p.mux.ServeHTTP(w, r)
}

// Changed has everybody who looks at the page look again. It does not block.
func (p *Page) Changed() { p.changes.note() }

// Close ends all streams, so that a server can shut down.
func (p *Page) Close() { p.changes.close() }

// badge tells apart what somebody has to look at, what goes on, and the rest.
func badge(s decision.State) string {
	switch s {
	case decision.StateBlocked, decision.StateDisarmed, decision.StateUnverified:
		return "bad"
	case decision.StateRolledBack, decision.StateHeld, decision.StatePaused:
		return "stopped"
	case decision.StateShifting, decision.StatePromoted:
		return "moving"
	}
	return "quiet"
}

// urgency sorts what somebody has to look at to the top.
func urgency(g Guard) int {
	if g.Failing != "" {
		return 0
	}
	return slices.Index([]string{"bad", "stopped", "moving", "quiet"}, badge(g.Status.State))
}

func (p *Page) all(w http.ResponseWriter, _ *http.Request) {
	guards, now := p.o.Guards(), p.o.Now()
	slices.SortStableFunc(guards, func(a, b Guard) int { return urgency(a) - urgency(b) })
	title := "Guards in " + p.o.Namespace
	d := p.begin(title)
	d.putf("<h1>%s</h1>\n", title)
	if len(guards) == 0 {
		d.putf("<p>No guards are configured.</p>\n")
	} else {
		d.table([2]string{"Guard"}, [2]string{"State"}, [2]string{"Canary", "number"}, [2]string{"For"}, [2]string{"Why, and what next"})
		for _, g := range guards {
			d.row(g, p.o.Next(g.Status, now), now)
		}
		d.endTable()
	}
	p.answer(w, http.StatusOK, d)
}

func (p *Page) one(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if !slices.ContainsFunc(p.o.Guards(), func(g Guard) bool { return g.Name == name }) {
		p.fail(w, http.StatusNotFound, fmt.Errorf("guardian has no guard of this name in %s", p.o.Namespace))
		return
	}
	record, err := p.record(name)
	switch {
	case err != nil:
		p.warn.Do(func() { p.o.Logger.Warn("the page cannot show a guard", "guard", name, "err", err) })
		p.fail(w, http.StatusServiceUnavailable, errors.New("the API server does not give guardian the record of this guard; guardian's log says why"))
		return
	case record == nil:
		p.fail(w, http.StatusServiceUnavailable, errors.New("nothing has been recorded of this guard yet"))
		return
	}
	now := p.o.Now()
	entries := slices.Clone(record.History)
	slices.Reverse(entries)
	d := p.begin(name)
	d.putf("<h1>%s ", name)
	d.state("span", record.Status.State, true)
	d.putf("</h1>\n")
	d.facts(p.o.Facts(name, *record, now))
	d.chart(newChart(*record, now))
	d.commands(Commands(name, p.o.Namespace, *record))
	d.receipt(p.o.Receipt(name, *record))
	d.history(entries[:min(len(entries), 100)])
	p.answer(w, http.StatusOK, d)
}

// reason is what a person has to fill in.
const reason = " --reason '…'"

// Commands are those that make sense where a guard stands, and are not refused there.
func Commands(name, namespace string, r decision.Record) []Command {
	var out []Command
	add := func(what, verb, flags string) {
		out = append(out, Command{what, "guardian " + verb + " " + name + " -n " + namespace + flags})
	}
	s := r.Status
	switch {
	case r.Lock != nil:
		add("Let this build have traffic again", "unlock", reason)
	case s.Weight > 0 && s.Observing != nil:
		add("Print the kubectl line that takes the canary's traffic away: in mode observe guardian does not", "rollback", reason)
	case s.Weight > 0:
		add("Take the canary's traffic away now", "rollback", reason)
	}
	if canStep(r) {
		add(fmt.Sprintf("Take the next step now, to %d%%", s.NextStep), "promote", reason)
	}
	switch {
	case s.PausedOnVS && s.Moves != nil:
		for _, vs := range s.Moves.VirtualServices {
			out = append(out, Command{"Go on with steps forward, " + vs, "kubectl annotate virtualservice " + printable.Word(vs) + " -n " + namespace + " " + decision.AnnotationPaused + "-"})
		}
	case s.Paused != nil:
		add("Go on with steps forward", "resume", reason)
	case !s.PausedOnVS:
		add("Take no step forward; the brake stays on", "pause", reason)
	}
	if s.Disarmed != nil {
		add("Put the brake on again", "arm", reason)
	} else {
		add("Take the brake off for a time, at most disarm.max: no rollback, whatever fires", "disarm", " --for 1h"+reason)
	}
	add("Follow it in a terminal", "status", " --watch")
	return out
}

// canStep says whether a person may ask for the next step.
func canStep(r decision.Record) bool {
	s := r.Status
	mayStep := s.State == decision.StateIdle || s.State == decision.StateShifting
	skips := slices.Contains([]decision.Wait{"", decision.WaitPerson, decision.WaitInterval, decision.WaitLease}, s.WaitingFor) // guardian promote does
	return r.Lock == nil && s.NextStep > 0 && s.Observing == nil && mayStep && skips
}

func (p *Page) answer(w http.ResponseWriter, status int, d *document) {
	p.end(d)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(d.Bytes()) // an error: whoever asked is gone
}

func (p *Page) fail(w http.ResponseWriter, status int, why error) {
	d := p.begin(http.StatusText(status))
	d.putf("<h1>%s</h1>\n<p>%s.</p>\n<p><a href=\"/\">All guards</a></p>\n", http.StatusText(status), why)
	p.answer(w, status, d)
}

// ago is how long ago something was, in one unit.
func ago(t, now time.Time) string {
	d := now.Sub(t)
	switch {
	case t.IsZero():
		return ""
	case d < time.Minute:
		return fmt.Sprintf("%d s", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
