package remediate

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"github.com/canary-guardian/guardian/remediate/virtualservice/vstest"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// withRoutes has the VirtualService of a lone guardian hold these http routes.
func (o *lonely) withRoutes(http string) {
	o.t.Helper()
	u := &unstructured.Unstructured{Object: vstest.Of(o.t, http)}
	u.SetName("orders-service")
	u.SetAnnotations(map[string]string{"team": "shop"})
	if o.w.vs != nil {
		u.SetAnnotations(o.w.vs.GetAnnotations())
	}
	u.SetResourceVersion(o.w.next())
	o.w.vs = u
}

// routes are the http routes that the API server has.
func (o *lonely) routes() any { return vstest.JSON(o.w.vs.Object["spec"].(map[string]any)["http"]) }

// unlockNow has a person lift the lock, and guardian see to what follows.
func (o *lonely) unlockNow() {
	o.t.Helper()
	cm := o.w.cm.DeepCopy()
	ask(cm, decision.Request{Action: decision.RequestUnlock, By: "ann", Reason: "it was the database", At: o.now})
	cm.ResourceVersion = o.w.next()
	o.w.cm = cm
	for range 3 {
		o.now = o.now.Add(decision.ListingKnows) // no replica knows the alert to fire any more
		if _, err := o.pass(); err != nil {
			o.t.Fatal(err)
		}
	}
	if r := o.record(); r.Lock != nil {
		o.t.Fatalf("still locked: %+v", r.Lock)
	}
}

func TestStickySessionsThroughARollbackAndAnUnlock(t *testing.T) {
	for _, share := range []int{0, 10, 100} {
		t.Run(fmt.Sprint(share), func(t *testing.T) {
			sticky := vstest.PairRoute(vstest.CookieV2, 0, 100) + vstest.PairRoute(vstest.CookieV1, 100, 0)
			o := newLonely(t, 0)
			o.withRoutes(sticky + vstest.PairRoute("", 100, 0))
			o.pass()
			o.withRoutes(sticky + vstest.PairRoute("", 100-share, share))
			if _, err := o.pass(); err != nil {
				t.Fatal(err)
			}
			if s := o.record().Status; s.Weight != share || (share == 100) != (s.State == decision.StatePromoted) || (share < 100) != (s.State == decision.StateShifting) {
				t.Fatalf("status says %d%%, %s (%s)", s.Weight, s.State, s.Reason)
			}
			for range 2 {
				if _, err := o.pass(errorsAlert); err != nil {
					t.Fatal(err)
				}
			}
			if r := o.record(); r.Status.State != decision.StateRolledBack || !o.traffic().Clean() || len(r.Changed) != 1 {
				t.Fatalf("%s (%s), the canary has %+v, remembered %+v", r.Status.State, r.Status.Reason, o.traffic(), r.Changed)
			}
			o.unlockNow()
			if want := vstest.Of(t, sticky+vstest.PairRoute("", 100, 0))["spec"].(map[string]any)["http"]; !reflect.DeepEqual(o.routes(), vstest.JSON(want)) {
				t.Errorf("after the unlock: %v", o.routes())
			}
			if r := o.record(); len(r.Changed) != 0 || r.Status.Weight != 0 || r.Status.State != decision.StateShifting || r.Status.Reason != "canary has 0%, and 1 route of testers" {
				t.Errorf("after the unlock: %+v, remembered %+v", r.Status, r.Changed)
			}
		})
	}
}

func TestARouteThatHasSplitIsNotGivenBackFromTheTop(t *testing.T) {
	o := newLonely(t, 0)
	for _, share := range []int{0, 10, 100} {
		o.withRoutes(vstest.PairRoute(vstest.Tenant, 100-share, share) + vstest.PairRoute("", 100-share, share))
		if _, err := o.pass(); err != nil {
			t.Fatal(err)
		}
	}
	if s := o.record().Status; s.State != decision.StatePromoted || len(s.Splits) != 1 {
		t.Fatalf("%+v", s)
	}
	for range 2 {
		if _, err := o.pass(errorsAlert); err != nil {
			t.Fatal(err)
		}
	}
	o.unlockNow()
	if want := vstest.Of(t, vstest.PairRoute(vstest.Tenant, 100, 0)+vstest.PairRoute("", 100, 0))["spec"].(map[string]any)["http"]; !reflect.DeepEqual(o.routes(), vstest.JSON(want)) {
		t.Errorf("after the unlock: %v", o.routes())
	}
}

// A guardian that finds everything at the canary cannot know what has split before.
func TestAtFirstSightOfAPromotedCanaryNothingIsTakenForTesters(t *testing.T) {
	o := newLonely(t, 0)
	o.withRoutes(vstest.PairRoute(vstest.Tenant, 0, 100) + vstest.PairRoute("", 0, 100))
	o.w.cm = nil
	for range 3 {
		if _, err := o.pass(errorsAlert); err != nil {
			t.Fatal(err)
		}
	}
	if r := o.record(); r.Status.State != decision.StateRolledBack || len(r.Changed) != 0 {
		t.Fatalf("%s (%s), remembered %+v", r.Status.State, r.Status.Reason, r.Changed)
	}
}

// What was assumed, or was so in another release, gives way to what is seen.
func TestTestersAheadOfTheSplitAreAsideWhateverTheyDidBefore(t *testing.T) {
	o := newLonely(t, 0)
	o.withRoutes(vstest.PairRoute(vstest.CookieV2, 0, 100) + vstest.PairRoute("", 0, 100))
	o.w.cm = nil
	o.pass() // first sight: what is at the top counts as the split
	o.withRoutes(vstest.PairRoute(vstest.CookieV2, 0, 100) + vstest.PairRoute("", 90, 10))
	if _, err := o.pass(); err != nil {
		t.Fatal(err)
	}
	if s := o.record().Status; s.Weight != 10 || s.Spread != 0 || len(s.Splits) != 1 {
		t.Errorf("%+v", s)
	}
}

func TestTestersLeftBehindTheSplitAreAsideWhateverTheyDidBefore(t *testing.T) {
	o := newLonely(t, 0)
	o.withRoutes(vstest.PairRoute(vstest.CookieV2, 90, 10) + vstest.PairRoute(vstest.CookieV1, 90, 10) + vstest.PairRoute("", 90, 10))
	o.pass()
	if s := o.record().Status; len(s.Splits) != 2 {
		t.Fatalf("two routes of testers split: %+v", s)
	}
	for _, share := range []int{50, 100} {
		o.withRoutes(vstest.PairRoute(vstest.CookieV2, 0, 100) + vstest.PairRoute(vstest.CookieV1, 100, 0) + vstest.PairRoute("", 100-share, share))
		if _, err := o.pass(); err != nil {
			t.Fatal(err)
		}
		if s := o.record().Status; s.Weight != share || s.Spread != 0 {
			t.Errorf("CI has given the canary %d%%, and left testers where they were: %+v", share, s)
		}
	}
}

func TestStepsAreTakenBesideStickySessions(t *testing.T) {
	sticky := vstest.PairRoute(vstest.CookieV2, 0, 100) + vstest.PairRoute(vstest.CookieV1, 100, 0)
	for _, steps := range [][]decision.Step{{{Weight: 10}, {Weight: 50}, {Weight: 100}}, {{Weight: 100}}} {
		for _, beside := range []string{"", vstest.OnlyRoute(vstest.SomePath, "v2"), vstest.PairRoute(vstest.SomePath, 0, 100)} {
			o := newLonely(t, 0)
			o.guard.Promotion = decision.Promotion{Mode: decision.PromotionManual, Steps: steps}
			o.withRoutes(sticky + beside + vstest.PairRoute("", 100, 0))
			o.pass()
			told := len(o.record().History)
			for _, step := range steps {
				cm := o.w.cm.DeepCopy()
				ask(cm, decision.Request{Action: decision.RequestPromote, By: "ann", Reason: "looks good", At: o.now})
				cm.ResourceVersion = o.w.next()
				o.w.cm = cm
				for range 2 {
					if _, err := o.pass(); err != nil {
						t.Fatal(err)
					}
				}
				if want := vstest.Of(t, sticky+beside+vstest.PairRoute("", 100-step.Weight, step.Weight))["spec"].(map[string]any)["http"]; !reflect.DeepEqual(o.routes(), vstest.JSON(want)) {
					t.Fatalf("at %d: %v; %+v", step.Weight, o.routes(), o.record().Status)
				}
				s := o.record().Status
				if lowest := s.Weight - s.Spread; lowest != step.Weight || beside == "" && s.Spread != 0 || s.Moving != nil || s.Full != (step.Weight == 100) {
					t.Errorf("at %d the status says %+v", step.Weight, s)
				}
			}
			for _, e := range o.record().History[told:] {
				if e.Event == "shifted" || e.Event == "missed" {
					t.Errorf("the steps told of what nobody did: %+v", e)
				}
			}
		}
	}
}

// The same rule over all of a guard's VirtualServices: testers may have one of
// their own.
func TestTestersMayHaveAVirtualServiceOfTheirOwn(t *testing.T) {
	for _, c := range []struct {
		name string
		http []string
		want virtualservice.Traffic
	}{
		{"beside a split", []string{vstest.PairRoute(vstest.CookieV2, 0, 100), vstest.PairRoute("", 90, 10)}, virtualservice.Traffic{Weight: 10, Lowest: 10, Counted: 1, Split: 1, CanaryOnly: 1}},
		{"beside stable alone", []string{vstest.OnlyRoute("", "v1"), vstest.PairRoute(vstest.CookieV2, 0, 100)}, virtualservice.Traffic{CanaryOnly: 1, StableOnly: 1}},
		{"two of them and nothing else", []string{vstest.PairRoute(vstest.CookieV2, 0, 100), vstest.PairRoute(vstest.Tenant, 0, 100)}, virtualservice.Traffic{Weight: 100, Lowest: 100, Counted: 2, Split: 2}},
		{"everybody's at its end in each", []string{vstest.PairRoute("", 0, 100), vstest.PairRoute("", 90, 10)}, virtualservice.Traffic{Weight: 100, Lowest: 10, Counted: 2, Split: 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := gathered(t, bySubset, coverAll, c.http...)
			if got := s.input.Traffic; got != c.want {
				t.Errorf("got %+v\nwant %+v", got, c.want)
			}
			d := decision.Decision{Move: decision.MoveStable}
			p, err := plan(*s, d, guardianUser)
			if err != nil {
				t.Fatal(err)
			}
			if remembered := len(p.before.Changed); remembered != c.want.CanaryOnly {
				t.Errorf("a rollback remembers %d routes of %d", remembered, c.want.CanaryOnly)
			}
		})
	}
}
