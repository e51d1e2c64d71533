package alerting

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
)

// answer is the body of every answer that is not data.
type answer struct {
	Status    string   `json:"status,omitempty"`
	Error     string   `json:"error,omitempty"`
	Accepted  int      `json:"accepted,omitempty"`  // alerts
	Truncated int      `json:"truncated,omitempty"` // alerts that the call did not have
	Missing   []string `json:"missing,omitempty"`   // from one that is not ready
	Invalid   int      `json:"invalid,omitempty"`   // alerts that make no sense
	Problem   string   `json:"problem,omitempty"`   // what is wrong with the first of those
}

// errPanic marks a bug.
var errPanic = errors.New("panic")

// errUnready marks an answer of readyz.
var errUnready = errors.New("not ready")

// MissingError says, of a guardian that is not ready, what it lacks. The names
// are shown to whoever asks.
type MissingError struct{ Names []string }

func (e *MissingError) Error() string {
	if len(e.Names) == 0 {
		return "starting"
	}
	return "missing: " + strings.Join(e.Names, ", ")
}

// laneError is an error on one of the receiving lanes.
type laneError struct {
	lane   Lane
	result result
	err    error
}

func (e *laneError) Error() string { return string(e.lane) + ": " + e.err.Error() }
func (e *laneError) Unwrap() error { return e.err }

// receive authenticates a call and reads its body. What is wrong has been
// counted when it returns an error.
func (s *Server) receive(c echo.Context, lane Lane) ([]byte, error) {
	if err := s.auth(c.Request()); err != nil {
		return nil, s.unproven(lane, err)
	}
	c.Response().Header().Del(headerConnection)
	request := c.Request()
	limit := s.opts.MaxBody
	body, err := io.ReadAll(io.LimitReader(request.Body, limit+1))
	switch {
	case err != nil:
		return nil, s.refuse(lane, resultFailed, 1, fmt.Errorf("read body: %w", err))
	case int64(len(body)) > limit:
		// Take some more of it, else the sender meets a closed connection
		// before the answer, and tries again what can never succeed.
		_, _ = io.CopyN(io.Discard, request.Body, 4*limit)
		want := "want at most that"
		if lane == LaneWebhook {
			want += ", as of a route with group_by: ['...'], whose calls have one alert each"
		}
		return nil, s.refuse(lane, resultTooLarge, 1, fmt.Errorf("body: over %d bytes: %s", limit, want))
	}
	return body, nil
}

// unproven counts a call without the right proof, or one whose proof cannot be
// checked.
func (s *Server) unproven(lane Lane, err error) error {
	var denied *unauthorized
	if !errors.As(err, &denied) {
		return s.refuse(lane, resultFailed, 1, err)
	}
	s.opts.MetricSet.auth.WithLabelValues(string(denied.proof)).Inc()
	return s.refuse(lane, resultUnauthorized, 1, err)
}

// refuse counts a call that is not taken. Where its sender gives it up, what it had is
// listed: only who has proved who they are gets as far as that.
func (s *Server) refuse(lane Lane, result result, n int, err error) error {
	s.opts.MetricSet.count(lane, result, n)
	switch result {
	case resultTooLarge, resultInvalid, resultVersion:
		s.opts.List()
	}
	return &laneError{lane, result, err}
}

func (s *Server) webhook(c echo.Context) error {
	received := s.opts.Now()
	ctx, cancel := context.WithTimeout(c.Request().Context(), s.opts.SinkTimeout)
	defer cancel()
	body, err := s.receive(c, LaneWebhook)
	if err != nil {
		return err
	}
	ctx, span := s.beginSpan(ctx, c, LaneWebhook, received)
	err = s.takeWebhook(ctx, c, body, received)
	endSpan(span, err)
	return err
}

// takeWebhook is what follows from the body of a webhook call.
func (s *Server) takeWebhook(ctx context.Context, c echo.Context, body []byte, received time.Time) error {
	hook, err := ParseWebhook(body)
	if errors.Is(err, errVersion) {
		return s.refuse(LaneWebhook, resultVersion, 1, err)
	}
	if err != nil {
		return s.refuse(LaneWebhook, resultInvalid, 1, err)
	}
	s.log.DebugContext(ctx, "webhook", "receiver", hook.Receiver, "group_key", hook.GroupKey,
		"alerts", len(hook.Alerts), "truncated", hook.Truncated)
	if err := s.accept(ctx, LaneWebhook, hook.Alerts, received); err != nil {
		return err
	}
	if hook.Truncated > 0 {
		if err := s.fetchTruncated(ctx, hook); err != nil {
			return err
		}
	}
	out := answer{Status: "ok", Accepted: len(hook.Alerts), Truncated: hook.Truncated}
	if hook.Invalid > 0 {
		// Still 200: the others are recorded, and these would be no better if they came again, which any other status asks
		// Alertmanager to see to.
		s.opts.MetricSet.count(LaneWebhook, resultInvalid, hook.Invalid)
		s.log.WarnContext(ctx, "left out alerts that make no sense", "receiver", hook.Receiver, "group_key", hook.GroupKey, "invalid", hook.Invalid, "err", hook.Problem)
		out.Invalid, out.Problem = hook.Invalid, advice(hook.Problem)
	}
	return c.JSON(http.StatusOK, out)
}

// fetchTruncated gets the alerts that Alertmanager has left out of a call.
func (s *Server) fetchTruncated(ctx context.Context, hook *Webhook) error {
	s.opts.MetricSet.count(LaneWebhook, resultTruncated, hook.Truncated)
	s.log.WarnContext(ctx, "Alertmanager left alerts out of a call: set max_alerts: 0 on guardian's receiver",
		"receiver", hook.Receiver, "group_key", hook.GroupKey, "truncated", hook.Truncated)
	if s.opts.Refresh == nil {
		return nil
	}
	if err := s.opts.Refresh(ctx); err != nil {
		return &laneError{LaneWebhook, resultFailed, fmt.Errorf("list truncated alerts: %w", err)}
	}
	return nil
}

func (s *Server) push(c echo.Context) error {
	received := s.opts.Now()
	ctx, cancel := context.WithTimeout(c.Request().Context(), s.opts.SinkTimeout)
	defer cancel()
	body, err := s.receive(c, LanePush)
	if err != nil {
		return err
	}
	ctx, span := s.beginSpan(ctx, c, LanePush, received)
	err = s.takePush(ctx, c, body, received)
	endSpan(span, err)
	return err
}

// takePush is what follows from the body of a push.
func (s *Server) takePush(ctx context.Context, c echo.Context, body []byte, received time.Time) error {
	alerts, invalid := ParsePush(body, received)
	if alerts == nil {
		return s.refuse(LanePush, resultInvalid, 1, invalid)
	}
	if err := s.accept(ctx, LanePush, alerts, received); err != nil {
		return err
	}
	if invalid != nil {
		return s.refuse(LanePush, resultInvalid, 1, invalid)
	}
	return c.JSON(http.StatusOK, answer{Status: "ok", Accepted: len(alerts)})
}

// accept hands alerts to the sink. A call without alerts needs nothing done.
func (s *Server) accept(ctx context.Context, lane Lane, alerts []Alert, received time.Time) error {
	if len(alerts) == 0 {
		return nil
	}
	n, beats := len(alerts), s.hasHeartbeat(lane, alerts)
	countAlerts(ctx, n)
	s.tellClocks(ctx, lane, alerts, received)
	taken := false
	defer func() { // also when the sink panics
		if !taken {
			s.opts.MetricSet.count(lane, resultFailed, n)
		}
	}()
	if err := s.opts.Sink.Accept(ctx, lane, alerts); err != nil {
		return &laneError{lane, resultFailed, fmt.Errorf("accept %d alerts: %w", n, err)}
	}
	taken = true
	s.opts.MetricSet.count(lane, resultAccepted, n)
	if beats {
		s.heartbeats[lane].Store(&received)
		s.opts.MetricSet.heartbeat.WithLabelValues(string(lane)).Set(float64(received.UnixMilli()) / 1000)
	}
	return nil
}

// clocksApart is how far the clocks of Prometheus and guardian may be apart
// before that is said.
const clocksApart = 5 * time.Second

// tellClocks warns of an alert that began in the future. It counts from when it
// was received; but with clocks like that, which build an alert is about is a
// guess.
func (s *Server) tellClocks(ctx context.Context, lane Lane, alerts []Alert, received time.Time) {
	for _, a := range alerts {
		if ahead := a.StartsAt.Sub(received); ahead > clocksApart {
			s.clocks.Do(func() {
				s.log.WarnContext(ctx, "alert began in the future, which is not believed: want the clocks of Prometheus and guardian set right",
					"lane", lane, "alert", a.Name(), "fingerprint", a.Fingerprint, "starts_at", a.StartsAt, "ahead", ahead)
			})
			return
		}
	}
}

func (s *Server) hasHeartbeat(lane Lane, alerts []Alert) bool {
	for _, a := range alerts {
		if !a.Resolved && a.Name() == s.opts.HeartbeatName && s.opts.OwnHeartbeat(lane, a.Labels) {
			return true
		}
	}
	return false
}

func (s *Server) ready(c echo.Context) error {
	if s.stopping.Load() {
		return fmt.Errorf("%w: stopping", errUnready)
	}
	if err := s.opts.Ready(c.Request().Context()); err != nil {
		return fmt.Errorf("%w: %w", errUnready, err)
	}
	return c.JSON(http.StatusOK, answer{Status: "ready"})
}

func (s *Server) guards(c echo.Context) error {
	guards, err := s.opts.Guards.Guards(c.Request().Context())
	if err != nil {
		return fmt.Errorf("list guards: %w", err)
	}
	return c.JSON(http.StatusOK, guards)
}

func (s *Server) guard(c echo.Context) error {
	guard, err := s.opts.Guards.Guard(c.Request().Context(), c.Param("name"))
	if err != nil {
		return fmt.Errorf("guard %q: %w", c.Param("name"), err)
	}
	return c.JSON(http.StatusOK, guard)
}

// recovered turns a panic into an error, so that the sender tries again.
func recovered(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				err = fmt.Errorf("%w: %v\n%s", errPanic, p, debug.Stack())
			}
		}()
		return next(c)
	}
}

// status is the code for an error. See the package comment for why each.
func status(err error) int {
	var lane *laneError
	var foreign *echo.HTTPError
	switch {
	case errors.Is(err, errPanic):
		return http.StatusInternalServerError
	case errors.As(err, &lane):
		switch lane.result {
		case resultInvalid, resultVersion:
			return http.StatusBadRequest
		case resultUnauthorized:
			return http.StatusUnauthorized
		case resultTooLarge:
			return http.StatusRequestEntityTooLarge
		}
		return http.StatusServiceUnavailable
	case errors.Is(err, errUnready):
		return http.StatusServiceUnavailable
	case errors.Is(err, ErrUnknownGuard):
		return http.StatusNotFound
	case errors.As(err, &foreign): // echo's own: no such path, no such method
		return foreign.Code
	}
	return http.StatusInternalServerError
}

// handleError answers every error with its code and nothing else: details are
// for the log.
func (s *Server) handleError(err error, c echo.Context) {
	code := status(err)
	ctx := c.Request().Context()
	log := func(write func(context.Context, string, ...any)) {
		write(ctx, "refused a request", "path", c.Path(), "remote", c.Request().RemoteAddr, "status", code, "err", err)
	}
	switch {
	case code == http.StatusUnauthorized:
		s.refusals.Do(func() { log(s.log.WarnContext) })
		c.Response().Header().Set("WWW-Authenticate", "Bearer")
	case errors.Is(err, errUnready) || code == http.StatusNotFound || code == http.StatusMethodNotAllowed:
		log(s.log.DebugContext)
	case code >= http.StatusInternalServerError:
		log(s.log.ErrorContext)
		// The next try is on a connection of its own, which may lead to a replica that fares better.
		c.Response().Header().Set(headerConnection, connectionClose)
	default:
		log(s.log.WarnContext)
	}
	if c.Response().Committed {
		return
	}
	said := answer{Error: http.StatusText(code)}
	if e, ok := errors.AsType[*MissingError](err); ok {
		said.Missing = e.Names
	}
	if err := c.JSON(code, said); err != nil {
		s.log.DebugContext(ctx, "write answer", "err", err)
	}
}
