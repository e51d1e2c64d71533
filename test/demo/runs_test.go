package main

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/canary-guardian/guardian/test/mesh"
)

func at(seconds float64) time.Time {
	return time.Unix(1000, 0).Add(time.Duration(seconds * float64(time.Second)))
}

func TestMomentsLieInTheMiddleOfEqualParts(t *testing.T) {
	got := moments(5, 5*time.Second)
	slices.Sort(got)
	want := []time.Duration{500 * time.Millisecond, 1500 * time.Millisecond, 2500 * time.Millisecond, 3500 * time.Millisecond, 4500 * time.Millisecond}
	if !slices.Equal(got, want) {
		t.Fatalf("moments = %v, want %v", got, want)
	}
}

// The canary's own scrape has to wait for stable's; the callers' proxy tells of both.
func TestTheFloorIsWhatTheRunsOwnScrapesAllow(t *testing.T) {
	own := chain{
		fault: at(0), fired: at(4), called: at(4.05), patched: at(4.1),
		seen: seen{canary: []mesh.Scrape{{At: at(1), Failed: 10}}, stable: []mesh.Scrape{{At: at(0.5)}, {At: at(3.2)}}},
	}
	atOnce := chain{ // stable's and the canary's scrape lie between the same two evaluations
		fault: at(0), fired: at(2), called: at(2.05), patched: at(2.1),
		seen: seen{canary: []mesh.Scrape{{At: at(1.9), Failed: 12}}, stable: []mesh.Scrape{{At: at(0.9)}, {At: at(1.2)}, {At: at(6.2)}}},
	}
	late := chain{ // two evaluations later than it could have been
		fault: at(0), fired: at(5.5), called: at(5.55), patched: at(5.6),
		seen: seen{users: []mesh.Scrape{{At: at(0.2), Failed: 2}, {At: at(3), Failed: 30}}},
	}
	least, found := floors([]chain{own, late, atOnce}, time.Second)
	if least != 10 {
		t.Errorf("least = %d, want 10", least)
	}
	for i, want := range []floor{{judged: at(3.2), evaluated: at(4)}, {judged: at(3), evaluated: at(3.5)}, {judged: at(1.9), evaluated: at(2)}} {
		if got := found[i]; !got.judged.Equal(want.judged) || !got.evaluated.Equal(want.evaluated) {
			t.Errorf("run %d: judged %v, evaluated %v; want %v and %v", i, got.judged, got.evaluated, want.judged, want.evaluated)
		}
	}
}

func TestQuantilesLieBetweenTheNearestValues(t *testing.T) {
	for _, c := range []struct {
		sorted  []float64
		q, want float64
	}{{[]float64{1, 2, 3, 4}, 0.5, 2.5}, {[]float64{1, 2, 3, 4}, 0.95, 3.85}, {[]float64{7}, 0.95, 7}} {
		if got := quantile(c.sorted, c.q); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("quantile(%v, %v) = %v, want %v", c.sorted, c.q, got, c.want)
		}
	}
}
