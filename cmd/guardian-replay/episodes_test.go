package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// drawn is a survey as text, a letter for each minute: s is stable alone, b both with the
// canary at 10%, B at 50%, c the canary alone, and . neither.
func drawn(text string) []traffic {
	var out []traffic
	for _, letter := range text {
		out = append(out, map[rune]traffic{'s': {0, 10}, 'b': {1, 9}, 'B': {5, 5}, 'c': {10, 0}, '.': {}}[letter])
	}
	return out
}

func TestEpisodesAreTheTimesInWhichBothHaveTraffic(t *testing.T) {
	after := strings.Repeat("c", 31)
	for text, want := range map[string]string{
		"":                       "",
		"ssssssss":               "",
		"cccc":                   "",
		"........":               "",
		"ssbbBBssssssss":         "2-5 taken-back from nothing, peak 50%",
		"ssbbBB":                 "2-5 open from nothing, peak 50%",
		"ssbbBBs":                "2-5 open from nothing, peak 50%", // it may be a lull
		"ssbbsssssbbssssssss":    "2-10 taken-back from nothing, peak 10%",
		"ssbbssssssbbssssssss":   "2-3 taken-back from nothing, peak 10% | 10-11 taken-back from nothing, peak 10%",
		"ssbb.............":      "2-3 ended from nothing, peak 10%",
		"ssbb...sssssssss":       "2-3 taken-back from nothing, peak 10%",
		"ssbBB" + after:          "2-35 promoted from nothing, peak 100%",
		"ssbBBcc":                "2-6 promoted from nothing, peak 100%",
		"ssbBBccccssssssss":      "2-8 taken-back from nothing, peak 100%", // within the time in which a rollback is right
		"ssbBB" + after + "ssss": "2-35 promoted from nothing, peak 100%",
		// All traffic goes back at once, which takes the survey two minutes to see; then the next release.
		"ssbBB" + after + "BBssssssssbbbssssss": "2-35 promoted from nothing, peak 100% | 46-48 taken-back from nothing, peak 10%",
		// It goes back in steps.
		"ssbBB" + after + "BBbbbbssssssss":  "2-35 promoted from nothing, peak 100% | 36-41 returned from everything, peak 50%",
		"bbbssssssss":                       "0-2 taken-back from unknown, peak 10%",
		"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb": "0-32 open from unknown, peak 10%",
	} {
		var got []string
		for _, e := range episodesOf(drawn(text), patienceOf(time.Minute, 5*time.Minute, 30*time.Minute, 2*time.Minute)) {
			got = append(got, fmt.Sprintf("%d-%d %s from %s, peak %s", e.from, e.to, e.outcome, e.before, percent(e.peak)))
		}
		if strings.Join(got, " | ") != want {
			t.Errorf("%q:\n got %s\nwant %s", text, strings.Join(got, " | "), want)
		}
	}
}
