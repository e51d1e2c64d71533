package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
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
