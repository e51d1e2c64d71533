package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// record is what the demo reads of a guard's record.
type record struct {
	Lock *struct {
		Signal, Alert, Build, Reason string
	}
	Status struct {
		State, Reason, Waiting, WaitingFor, Build string
		Weight                                    int
		PromotedAt, CompletedAt, EnforcedAt       time.Time
		Observing                                 *struct{ Would *struct{ Reason string } }
	}
}

// record reads a guard's record from the API server; it is empty before guardian's first look.
func (st *stage) record(ctx context.Context, a *app) (record, error) {
	var r record
	object, err := st.kube.CoreV1().ConfigMaps(namespace).Get(ctx, "guardian-"+a.service(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	for key, into := range map[string]any{"lock": &r.Lock, "status": &r.Status} {
		if text := object.Data[key]; text != "" {
			err = errors.Join(err, json.Unmarshal([]byte(text), into))
		}
	}
	return r, err
}

// posted is what an alert that fires in Alertmanager says to people; empty: it does
// not fire.
func (st *stage) posted(ctx context.Context, name string) (string, error) {
	body, err := get(ctx, st.alertmgr.URL+"/api/v2/alerts?active=true&filter="+url.QueryEscape("alertname="+name))
	if err != nil {
		return "", err
	}
	var alerts []struct{ Annotations map[string]string }
	if err := json.Unmarshal(body, &alerts); err != nil {
		return "", err
	}
	if len(alerts) == 0 {
		return "", nil
	}
	return alerts[0].Annotations["summary"] + "\n" + alerts[0].Annotations["description"], nil
}

// query asks Prometheus and returns the first sample's value; false: there is none.
func (st *stage) query(ctx context.Context, promql string) (float64, bool, error) {
	body, err := get(ctx, st.prometheus.URL+"/api/v1/query?query="+url.QueryEscape(promql))
	if err != nil {
		return 0, false, err
	}
	var answer struct {
		Data struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return 0, false, err
	}
	if len(answer.Data.Result) == 0 {
		return 0, false, nil
	}
	value, err := strconv.ParseFloat(fmt.Sprint(answer.Data.Result[0].Value[1]), 64)
	return value, true, err
}

// awake waits until the rules see the requests of all apps that have users, and guardian hears the heartbeat.
func (st *stage) awake(ctx context.Context) error {
	busy := 0
	for _, p := range st.plan.apps {
		if p.rate > 0 {
			busy++
		}
	}
	// Prometheus sends an alert again after a minute (--rules.alert.resend-delay), and has dropped the first heartbeat if it
	// evaluated before it knew its Alertmanager.
	return until(ctx, 2*time.Minute, "the rules see the users' requests", func(ctx context.Context) (bool, error) {
		// A side is counted from the second evaluation on that sees its requests.
		n, _, err := st.query(ctx, `count(count by (guardian_guard) (guardian_side:requests:idelta))`)
		if err != nil || int(n) < busy {
			return false, err
		}
		beat, _, err := st.query(ctx, `max(guardian_heartbeat_timestamp_seconds)`)
		return beat > 0, err
	})
}

// firing returns when the first alert of a guard that asks for a rollback began to fire, and its name.
func (st *stage) firing(ctx context.Context, a *app) (string, time.Time, error) {
	body, err := get(ctx, st.prometheus.URL+"/api/v1/alerts")
	if err != nil {
		return "", time.Time{}, err
	}
	var answer struct {
		Data struct {
			Alerts []struct {
				Labels   map[string]string
				State    string
				ActiveAt time.Time
			}
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", time.Time{}, err
	}
	var name string
	var at time.Time
	for _, alert := range answer.Data.Alerts {
		l := alert.Labels
		if l["guardian_guard"] != a.service() || l["guardian_action"] != "rollback" || alert.State != "firing" {
			continue
		}
		if at.IsZero() || alert.ActiveAt.Before(at) {
			name, at = l["alertname"], alert.ActiveAt
		}
	}
	return name, at, nil
}

// awaitWeights waits until the mesh has taken over a weight of the canary, and returns when it did.
func (a *app) awaitWeights(ctx context.Context, canary int, most time.Duration) (time.Time, error) {
	if a.mesh.Weights()["v2"] == canary {
		return time.Now(), nil
	}
	timeout := time.After(most)
	for {
		select {
		case c := <-a.changes:
			if c.weights["v2"] == canary {
				return c.at, nil
			}
		case <-timeout:
			return time.Time{}, fmt.Errorf("%s: the canary's weight in the mesh is %d%%, and was to become %d%% within %v",
				a.service(), a.mesh.Weights()["v2"], canary, most)
		case <-ctx.Done():
			return time.Time{}, ctx.Err()
		}
	}
}

// forget drops the changes of weights that nobody has read.
func (a *app) forget() {
	for {
		select {
		case <-a.changes:
		default:
			return
		}
	}
}

// chain is when each link of a rollback happened.
type chain struct {
	alert                                                   string
	fault, scraped, decided, fired, called, patched, inMesh time.Time
	lastFailed                                              time.Time
	failedRequests, requests                                int
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
	c.scraped = a.mesh.ScrapeWith(1, c.fault)
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
