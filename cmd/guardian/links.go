package main

import (
	"fmt"
	"io"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/canary-guardian/guardian/internal/printable"
	"github.com/canary-guardian/guardian/remediate/decision"
)

// blame is who or what has stopped a canary, since when, and where to see more.
type blame struct {
	By       string          `json:"by,omitempty"` // an alert by its name, or a person
	Since    time.Time       `json:"since,omitzero"`
	Limit    string          `json:"limit,omitempty"`          // that was exceeded, in words
	Failures string          `json:"failedRequests,omitempty"` // of the rollback, in words, once they are counted
	Receipt  string          `json:"receipt,omitempty"`        // the command that shows all that is known of the rollback
	Links    []decision.Link `json:"links,omitempty"`
	Next     string          `json:"next,omitempty"` // the command to go on
}

// blameOf is about what is wrong with a guard that has trouble.
func blameOf(guard, namespace string, r decision.Record) blame {
	s := r.Status
	b := blame{Since: s.Since, Links: linksOf(r)}
	switch m := s.Moving; {
	case r.Lock != nil:
		b.By, b.Since = byText(r.Lock.By, r.Lock.Alert), r.Lock.Since
	case m.RollsBack():
		b.By, b.Since = byText(m.By, m.Alert), m.At
	case len(s.Firing) > 0:
		b.By, b.Since = byText(decision.ByAlert, s.Firing[0].Name), s.Firing[0].Began
	}
	if m := s.Moving; m.RollsBack() && m.Receipt != nil {
		b.Limit = printable.Line(m.Receipt.Limit)
	}
	if ofThisLock(r) {
		b.tellReceipt(guard, namespace, *r.Receipt)
	}
	return b
}

// tellReceipt adds what a receipt has of a rollback.
func (b *blame) tellReceipt(guard, namespace string, r decision.Receipt) {
	b.Limit = printable.Line(r.Limit)
	if !r.Open && !r.Counted.At.IsZero() {
		b.Failures = fmt.Sprintf("%s of %s", thousands(r.Failed), thousands(r.Requests))
	}
	b.Receipt = fmt.Sprintf("guardian receipt %s -n %s", guard, namespace)
}

// ofThisLock says that the receipt is about the lock that stands.
func ofThisLock(r decision.Record) bool {
	return r.Lock != nil && r.Receipt != nil && !r.Receipt.Written.Before(r.Lock.Since)
}

// byText is who set a lock: an alert has a name as well.
func byText(by, alert string) string {
	if by == decision.ByAlert {
		return by + orNothing(" ", alert)
	}
	return by
}

// blameEntry is about a rollback that only the history tells of, the guard's last one.
func blameEntry(guard, namespace string, r decision.Record, e decision.HistoryEntry) blame {
	b := blame{By: byText(e.By, e.Alert), Since: e.At}
	if e.Event == decision.EventRolledBack && r.Receipt != nil {
		b.Links = shownLinks(r.Receipt.Links)
		b.tellReceipt(guard, namespace, *r.Receipt)
	}
	return b
}

// linksOf are those of the receipt where it is about the lock that stands, else those of
// the time when the trouble began.
func linksOf(r decision.Record) []decision.Link {
	if ofThisLock(r) && len(r.Receipt.Links) > 0 {
		return shownLinks(r.Receipt.Links)
	}
	return shownLinks(r.Status.Links)
}

// shownLinks leaves out what is no page of the web, and credentials: guardian writes
// none, but whoever can edit a record can.
func shownLinks(links []decision.Link) []decision.Link {
	var out []decision.Link
	for _, l := range links {
		u, err := url.Parse(l.URL)
		if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
			continue
		}
		u.User = nil
		out = append(out, decision.Link{Name: printable.Line(l.Name), URL: u.String()})
	}
	return out
}

// lines are one for each thing that is known, each behind indent.
func (b blame) lines(indent string) string {
	var out strings.Builder
	t := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "\n%s%s:\t%s", indent, name, printable.Line(value))
		}
	}
	line("by", b.By)
	if !b.Since.IsZero() {
		line("since", b.Since.UTC().Format(time.RFC3339))
	}
	line("limit", b.Limit)
	line("failed", b.Failures)
	line("receipt", b.Receipt)
	for _, l := range b.Links {
		line(l.Name, l.URL)
	}
	line("next", b.Next)
	_ = t.Flush() // a strings.Builder takes all
	return out.String()
}

// markdown is the same as part of a cell of a table.
func (b blame) markdown() string {
	since := ""
	if !b.Since.IsZero() {
		since = " since " + b.Since.UTC().Format(time.RFC3339)
	}
	out := ""
	if b.By != "" || since != "" {
		out = "<br>" + strings.TrimSpace(orNothing("by ", printable.Markdown(b.By))+since)
	}
	out += orNothing("<br>limit: ", printable.Markdown(b.Limit)) + orNothing("<br>failed: ", b.Failures) + orNothing("<br>all of it: ", printable.Markdown(b.Receipt))
	return out + orNothing("<br>", markdownLinks(b.Links)) + orNothing("<br>next: ", printable.Markdown(b.Next))
}

// printLinks is the part of `guardian status NAME` that leads elsewhere.
func printLinks(w io.Writer, links []decision.Link) error {
	if len(links) == 0 {
		return nil
	}
	_, err := fmt.Fprintln(w, "\nLinks:"+blame{Links: links}.lines("  "))
	return err
}

// markdownLinks are links in one line of Markdown.
func markdownLinks(links []decision.Link) string {
	out := make([]string, len(links))
	for i, l := range links {
		out[i] = fmt.Sprintf("[%s](<%s>)", printable.Markdown(l.Name), markdownURL.Replace(printable.Line(l.URL)))
	}
	return strings.Join(out, " · ")
}

// markdownURL is what would end a URL in angle brackets, or a table's cell.
var markdownURL = strings.NewReplacer("<", "%3C", ">", "%3E", "|", "%7C", `\`, "%5C")
