package rules

import (
	"testing"
	"time"
)

func TestAnAlertOfAnEarlierBuildHasTimeToEnd(t *testing.T) {
	for name, c := range map[string]struct {
		scrape, interval time.Duration
		latency          time.Duration // how often that is judged
		window           time.Duration // the longest one
	}{
		"scraped every 5 s, evaluated every second": {5 * time.Second, time.Second, time.Second, 5 * time.Minute},
		"scraped every 15 s, evaluated every 3 s":   {15 * time.Second, 3 * time.Second, 5 * time.Second, 5 * time.Minute},
		"scraped every 30 s, evaluated every 10 s":  {30 * time.Second, 10 * time.Second, 10 * time.Second, 10 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Generate(Options{Guards: []Guard{orders()}, ScrapeInterval: c.scrape, Interval: c.interval})
			if err != nil {
				t.Fatal(err)
			}
			// The last bad request is scraped one interval late, leaves the window after it, the alert is kept,
			// each is seen at an evaluation, and Alertmanager sends the end within 10 s.
			least := c.scrape + c.window + c.latency + 30*time.Second + c.latency + 10*time.Second
			if r.AlertWindow < least {
				t.Errorf("AlertWindow is %v; guardian may hear of an alert for %v after its cause has gone", r.AlertWindow, least)
			}
			if r.AlertWindow > least+c.scrape {
				t.Errorf("AlertWindow is %v; no alert needs more than %v: a real rollback would wait for nothing", r.AlertWindow, least+c.scrape)
			}
		})
	}
}
