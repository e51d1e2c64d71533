package decision

import (
	"strings"
	"testing"

	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

func TestACanaryIsWatchedWhenItsRulesAreEvaluatedAndRecordItsRequests(t *testing.T) {
	const missing = "Prometheus has not loaded them"
	none := Gaps{Stable: true, Canary: true}
	for name, c := range map[string]struct {
		gaps     Gaps
		weight   int
		requests int64
		want     string
		blind    bool
	}{
		"all is there":                            {Gaps{}, 10, 50, "", false},
		"stable has no proxies":                   {Gaps{Stable: true}, 10, 50, "", false},
		"not loaded":                              {Gaps{Rules: missing}, 10, 50, missing, true},
		"not loaded, and nobody calls":            {Gaps{Rules: missing, Canary: true}, 10, 0, missing, true},
		"not loaded before the first step":        {Gaps{Rules: missing}, 0, 0, missing, true},
		"an idle canary has nothing to record":    {none, 0, 0, "", false},
		"requests that the rules do not see":      {Gaps{Canary: true}, 10, 50, "the rules record no request of the canary", true},
		"nobody has called the canary yet":        {Gaps{Canary: true}, 10, 0, NoRequestsYet, false},
		"nothing is scraped":                      {none, 10, 0, "the rules record no request of either side", true},
		"nothing is scraped, and all is canary's": {none, 100, 0, "the rules record no request of either side", true},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.gaps.unwatched(virtualservice.Traffic{Weight: c.weight}, c.requests)
			if !strings.HasPrefix(got, c.want) || (got == "") != (c.want == "") {
				t.Errorf("%q, want %q", got, c.want)
			}
			if blind := (Status{Unwatched: got}).RulesUnproven(); blind != c.blind {
				t.Errorf("blind: %v, want %v", blind, c.blind)
			}
		})
	}
}

func TestNoStepGoesForwardWithoutProofThatTheRulesWatch(t *testing.T) {
	gaps := func(g Gaps) but { return func(in *Input) { in.Forward.Gaps = g } }
	for name, c := range map[string]struct {
		in   []but
		move Move
	}{
		"watched":                     {[]but{advancing(10)}, MoveForward},
		"not loaded":                  {[]but{advancing(10), gaps(Gaps{Rules: "not loaded"})}, MoveNone},
		"not loaded, a person asks":   {[]but{advancing(10), asks(RequestPromote), gaps(Gaps{Rules: "not loaded"})}, MoveNone},
		"the canary is not recorded":  {[]but{advancing(10), gaps(Gaps{Canary: true})}, MoveNone},
		"the first step: not loaded":  {[]but{advancing(0), gaps(Gaps{Rules: "not loaded"})}, MoveNone},
		"the first step: nothing yet": {[]but{advancing(0), gaps(Gaps{Canary: true, Stable: true})}, MoveForward},
	} {
		t.Run(name, func(t *testing.T) {
			d := Decide(given(c.in...), at)
			if d.Move != c.move {
				t.Errorf("move %v, want %v; waits for %q (%s)", d.Move, c.move, d.Record.Status.WaitingFor, d.Record.Status.Waiting)
			}
		})
	}
}

func TestTheRecordSaysWhyNothingProvesThatTheRulesWatch(t *testing.T) {
	count := func(c Count, was string) but {
		return func(in *Input) { in.Count, in.Record.Status.Unwatched = c, was }
	}
	lost := Gaps{Rules: "not loaded"}
	for name, c := range map[string]struct {
		in   []but
		want string
	}{
		"not loaded":                   {[]but{leads, count(Count{Asked: true, Known: true, Requests: 5, Gaps: lost}, "")}, "not loaded"},
		"loaded again":                 {[]but{leads, count(Count{Asked: true, Known: true, Requests: 5}, "not loaded")}, ""},
		"not asked yet: as last known": {[]but{leads, count(Count{}, "not loaded")}, "not loaded"},
		"no answer":                    {[]but{leads, count(Count{Asked: true}, "")}, NoAnswer},
		"no traffic: nothing to watch": {[]but{leads, count(Count{}, "not loaded"), wasIn(StateIdle, 0)}, ""},
		"no lease: left as it is":      {[]but{count(Count{}, "not loaded")}, "not loaded"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Decide(given(c.in...), at).Record.Status.Unwatched; got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
