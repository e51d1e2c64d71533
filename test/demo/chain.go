package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/canary-guardian/guardian/test/mesh"
)

// chain is when each link of a rollback happened.
type chain struct {
	alert                                                   string
	fault, scraped, decided, fired, called, patched, inMesh time.Time
	lastFailed                                              time.Time
	failedRequests, requests                                int
	seen                                                    seen
}

// follow waits for the rollback of an app that has begun to fail, and gathers when each link happened. slack is how long
// users are still watched afterwards.
func (st *stage) follow(ctx context.Context, a *app, most, slack time.Duration) (chain, error) {
	c := chain{}
	var err error
	if c.inMesh, err = a.awaitWeights(ctx, 0, most); err != nil {
		return c, fmt.Errorf("no rollback: %w", err)
	}
	if err := pause(ctx, slack); err != nil {
		return c, err
	}
	users := a.mesh.Counts()
	c.fault, c.lastFailed, c.failedRequests, c.requests = users.FirstFailed, users.LastFailed, users.Failed, users.Sent
	c.seen = seenOf(a, c.fault)
	c.scraped = c.seen.with(1)
	if c.alert, c.fired, err = st.firing(ctx, a); err != nil {
		return c, err
	}
	c.decided = a.mesh.LastScrape(c.fired)
	about := func(l logLine) bool {
		return l.Msg == "webhook" && strings.Contains(l.GroupKey, strconv.Quote(a.service())) && strings.Contains(l.GroupKey, `guardian_action="rollback"`)
	}
	if l, ok := st.logged(c.fault, about); ok {
		c.called = l.Time
	}
	if l, ok := st.logged(c.fault, func(l logLine) bool { return l.Msg == "traffic moved to stable" && l.Guard == a.service() }); ok {
		c.patched = l.Time
	}
	for what, at := range map[string]time.Time{
		"a failed request": c.fault, "a scrape that shows failures": c.scraped, "a firing alert": c.fired,
		"a call of the webhook": c.called, "a patch of the VirtualService": c.patched,
	} {
		if at.IsZero() {
			err = errors.Join(err, fmt.Errorf("rolled back, but %s was not seen", what))
		}
	}
	return c, err
}

// print prints the links in their order.
func (c chain) print(s *script) {
	type link struct {
		at        time.Time
		who, what string
	}
	links := []link{
		{c.fault, "users", "first failed request"},
		{c.scraped, "Prometheus", "first scrape that shows a failed request"},
		{c.fired, "Prometheus", c.alert + " fires"},
		{c.called, "guardian", "Alertmanager has called the webhook"},
		{c.patched, "guardian", "lock written, VirtualService patched to 100/0: the API server has answered"},
		{c.inMesh, "mesh", "v1 100%  v2 0% in force"},
		{c.lastFailed, "users", fmt.Sprintf("last failed request: %d of %d requests failed in all", c.failedRequests, c.requests)},
	}
	if c.decided.After(c.scraped) {
		links = append(links, link{c.decided, "Prometheus", "the scrape with which the rules know enough"})
	}
	slices.SortStableFunc(links, func(a, b link) int { return a.at.Compare(b.at) })
	for _, l := range links {
		s.sayAt(l.at, l.who, "%s", l.what)
	}
}

// split says where the time from fault to weight 0 went.
func (c chain) split() string {
	seconds := func(from, to time.Time) float64 { return to.Sub(from).Seconds() }
	return fmt.Sprintf("fault → weight 0: %.2f s = %.2f to the first scrape after it + %.2f to the one with which the rules know enough + %.2f until the alert fires + %.3f to the webhook + %.3f until the patch is answered",
		seconds(c.fault, c.patched), seconds(c.fault, c.scraped), seconds(c.scraped, c.decided), seconds(c.decided, c.fired),
		seconds(c.fired, c.called), seconds(c.called, c.patched))
}

// seen is what the scrapes since a fault showed, of each proxy that can tell of it, and stable's before it as well.
type seen struct {
	users  []mesh.Scrape // of the callers' proxy: both versions in one scrape
	canary []mesh.Scrape
	stable []mesh.Scrape
}

func seenOf(a *app, fault time.Time) seen {
	return seen{a.mesh.Scrapes("", fault), a.mesh.Scrapes("v2", fault), a.mesh.Scrapes("v1", fault.Add(-time.Minute))}
}

// with is the first scrape that showed at least n failed requests; zero: none did.
func (s seen) with(n int) time.Time { return earliest(firstWith(s.users, n), firstWith(s.canary, n)) }

// judged is the scrape with which n failed requests can first be judged: one of the callers' proxy tells of both
// versions; beside one of the canary's there has to be one of stable's, later or between the same two evaluations, which
// see both at once. One evaluation was at a time, and they are so far apart. Zero: there was no such scrape.
func (s seen) judged(n int, evaluation time.Time, every time.Duration) time.Time {
	own := firstWith(s.canary, n)
	if own.IsZero() {
		return firstWith(s.users, n)
	}
	both := after(s.stable, onGrid(own, evaluation, every))
	if !both.IsZero() && both.Before(own) {
		both = own
	}
	return earliest(firstWith(s.users, n), both)
}

// onGrid is the last evaluation at or before a time.
func onGrid(at, evaluation time.Time, every time.Duration) time.Time {
	behind := evaluation.Sub(at)
	return evaluation.Add(-(behind + every - 1).Truncate(every))
}

// known is how many failed requests could be judged at an evaluation.
func (s seen) known(at time.Time, every time.Duration) int {
	for n := range 1 << 20 {
		if j := s.judged(n+1, at, every); j.IsZero() || j.After(at) {
			return n
		}
	}
	return 0
}

func firstWith(scrapes []mesh.Scrape, n int) time.Time {
	for _, s := range scrapes {
		if s.Failed >= n {
			return s.At
		}
	}
	return time.Time{}
}

// after is the first scrape after a time; zero: there was none.
func after(scrapes []mesh.Scrape, at time.Time) time.Time {
	for _, s := range scrapes {
		if s.At.After(at) {
			return s.At
		}
	}
	return time.Time{}
}

// earliest is the first of the times that are not zero.
func earliest(times ...time.Time) time.Time {
	var first time.Time
	for _, at := range times {
		if !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}
