package alerting

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/alertmanager/api/v2/client/general"
	"github.com/prometheus/alertmanager/api/v2/client/silence"
	"github.com/prometheus/alertmanager/api/v2/models"
	"github.com/prometheus/alertmanager/pkg/labels"
)

// AlertmanagerStatus is what a running Alertmanager says of itself.
type AlertmanagerStatus struct {
	Version string   // such as 0.34.2; may be empty
	Routing *Routing // as it has loaded it
}

// Status asks for the version and the loaded configuration.
func (a *Alertmanager) Status(ctx context.Context) (AlertmanagerStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	response, err := a.api.General.GetStatus(general.NewGetStatusParamsWithContext(ctx))
	if err != nil {
		return AlertmanagerStatus{}, fmt.Errorf("ask Alertmanager %s for its configuration: %w", a.base, plain(err))
	}
	var out AlertmanagerStatus
	p := response.Payload
	if p != nil && p.VersionInfo != nil && p.VersionInfo.Version != nil {
		out.Version = strings.TrimPrefix(*p.VersionInfo.Version, "v")
	}
	if p == nil || p.Config == nil || p.Config.Original == nil {
		return out, fmt.Errorf("ask Alertmanager %s for its configuration: it shows none", a.base)
	}
	out.Routing, err = ParseRouting(*p.Config.Original)
	if err != nil {
		return out, fmt.Errorf("Alertmanager %s: %w", a.base, err)
	}
	return out, nil
}

// Silence keeps alerts back until it ends.
type Silence struct {
	ID, By, Comment string
	Ends            time.Time
	Matchers        Matchers
}

// Silences lists those that are active, by ID.
func (a *Alertmanager) Silences(ctx context.Context) ([]Silence, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	response, err := a.api.Silence.GetSilences(silence.NewGetSilencesParamsWithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("list silences of Alertmanager %s: %w", a.base, plain(err))
	}
	if response.Payload == nil {
		return nil, fmt.Errorf("list silences of Alertmanager %s: %w", a.base, errNoAnswer)
	}
	var out []Silence
	for _, m := range response.Payload {
		if m == nil || m.Status == nil || m.Status.State == nil || *m.Status.State != models.SilenceStatusStateActive {
			continue
		}
		s, err := silenceOf(m)
		if err != nil {
			return nil, fmt.Errorf("list silences of Alertmanager %s: %w", a.base, err)
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Silence) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// silenceOf translates one silence. A matcher without isEqual is an equal one:
// older versions do not have the field.
func silenceOf(m *models.GettableSilence) (Silence, error) {
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	s := Silence{ID: text(m.ID), By: text(m.CreatedBy), Comment: text(m.Comment)}
	if m.EndsAt != nil {
		s.Ends = time.Time(*m.EndsAt).UTC()
	}
	for _, one := range m.Matchers {
		if one == nil {
			continue
		}
		equal, regex := one.IsEqual == nil || *one.IsEqual, one.IsRegex != nil && *one.IsRegex
		kind := labels.MatchEqual
		switch {
		case regex && equal:
			kind = labels.MatchRegexp
		case regex:
			kind = labels.MatchNotRegexp
		case !equal:
			kind = labels.MatchNotEqual
		}
		matcher, err := labels.NewMatcher(kind, text(one.Name), text(one.Value))
		if err != nil {
			return s, fmt.Errorf("silence %s: matcher of label %s: %w", s.ID, text(one.Name), err)
		}
		s.Matchers.list = append(s.Matchers.list, matcher)
	}
	return s, nil
}
