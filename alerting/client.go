package alerting

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/common/config"
)

const (
	defaultQueryTimeout = 10 * time.Second
	// maxAnswer bounds how much of an answer is read: some 10,000 alerts.
	maxAnswer = 32 << 20
	// maxErrorText bounds how much of a foreign error is handed on.
	maxErrorText = 500
)

// ClientOptions says how to reach Alertmanager or Prometheus.
type ClientOptions struct {
	// URL is the base URL, with the path prefix if there is one. User and
	// password in it are used as basic auth, and never shown.
	URL string
	// HTTP is authentication, TLS and proxy, as in Prometheus's own
	// configuration. Default: config.DefaultHTTPClientConfig.
	HTTP *config.HTTPClientConfig
	// Timeout bounds each request. Default: 10 s.
	Timeout time.Duration

	// dial reaches the server where its name leads to several. Nil: by its name.
	dial config.DialContextFunc
}

// Filter says which firing alerts to list.
type Filter struct {
	// Any selects alerts that at least one of these matches. Empty: all.
	Any []Matchers
	// Suppressed includes alerts that Alertmanager silences, inhibits or mutes,
	// marked as such: somebody does not want to hear of them, which does not
	// make them a reason to go forward. Prometheus knows no such thing, and
	// lists them always.
	Suppressed bool
	// Pending includes alerts of Prometheus that wait for their "for". Alertmanager knows
	// none.
	Pending bool
	// MinUptime refuses an answer of a server that has been up for less. After a
	// start Alertmanager knows nothing until Prometheus has sent everything
	// again (--rules.alert.resend-delay, 1m), and Prometheus writes no ALERTS
	// before the second evaluation. 0: any answer will do.
	MinUptime time.Duration
}

// sets is Any with each of its selections once; no selection selects all.
func (f Filter) sets() []Matchers {
	if len(f.Any) == 0 {
		return []Matchers{{}}
	}
	var sets []Matchers
	seen := map[string]bool{}
	for _, m := range f.Any {
		if !seen[m.String()] {
			seen[m.String()] = true
			sets = append(sets, m)
		}
	}
	return sets
}

// ErrYoung is returned for Filter.MinUptime: what the server lists is true, but
// need not be all.
var ErrYoung = errors.New("up for too short a time")

// youngError is ErrYoung with its numbers.
type youngError struct{ text string }

func (e *youngError) Error() string        { return e.text }
func (e *youngError) Is(target error) bool { return target == ErrYoung }

// connection is an HTTP client for one base URL.
type connection struct {
	base    *url.URL // without user, query and fragment
	client  *http.Client
	timeout time.Duration
}

func connect(name string, opts ClientOptions) (*connection, error) {
	base, err := url.Parse(opts.URL)
	if err != nil {
		// What is wrong with it would be told with a piece of it, which may be of a password.
		return nil, fmt.Errorf("%s URL: not a URL: want http://host:port or https://host:port, with a path prefix if there is one", name)
	}
	user := base.User
	base.User = nil
	switch {
	case base.Scheme != "http" && base.Scheme != "https", base.Host == "":
		return nil, fmt.Errorf("%s URL %q: want http://host:port or https://host:port, with a path prefix if there is one", name, base)
	case base.RawQuery != "" || base.ForceQuery || base.Fragment != "":
		return nil, fmt.Errorf("%s URL: query or fragment beside host %q: want neither", name, base.Host)
	}
	cfg := config.DefaultHTTPClientConfig
	if opts.HTTP != nil {
		cfg = *opts.HTTP
	}
	if user != nil && cfg.BasicAuth == nil {
		password, _ := user.Password()
		cfg.BasicAuth = &config.BasicAuth{Username: user.Username(), Password: config.Secret(password)}
	}
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("%s HTTP client: %w", name, err)
	}
	var how []config.HTTPClientOption
	if opts.dial != nil {
		how = append(how, config.WithDialContextFunc(opts.dial))
	}
	client, err := config.NewClientFromConfig(cfg, "guardian", how...)
	if err != nil {
		return nil, fmt.Errorf("%s HTTP client: %w", name, plain(err))
	}
	client.Transport = &bounded{client.Transport}
	timeout := opts.Timeout
	if timeout <= 0 {
		timeout = defaultQueryTimeout
	}
	return &connection{base: base, client: client, timeout: timeout}, nil
}

// checkUptime compares with the server's clock: skew shortens or lengthens the
// wait, and no more.
func (c *connection) checkUptime(server string, started time.Time, least time.Duration) error {
	if up := time.Since(started); up < least {
		return &youngError{fmt.Sprintf("list alerts of %s %s: up for %s: want %s before its list is taken as complete",
			server, c.base, up.Round(time.Second), least)}
	}
	return nil
}

// Close lets go of idle connections.
func (c *connection) Close() { c.client.CloseIdleConnections() }

// plain is an error without the URLs that net/http and net/url put into
// theirs, and of bounded length. What it wraps can still be told by errors.Is
// for the context's errors.
func plain(err error) error {
	var u *url.Error
	for errors.As(err, &u) {
		err = u.Err
	}
	if text := err.Error(); len(text) > maxErrorText {
		return errors.New(text[:maxErrorText] + "…")
	}
	return err
}

// bounded cuts answers that are too long.
type bounded struct {
	next http.RoundTripper
}

func (b *bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := b.next.RoundTrip(r)
	if err == nil {
		response.Body = &boundedBody{ReadCloser: response.Body, left: maxAnswer}
	}
	return response, err
}

// CloseIdleConnections is what http.Client looks for in its transport.
func (b *bounded) CloseIdleConnections() {
	if c, ok := b.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// boundedBody fails, rather than ends, at its limit: half an answer must not
// be taken for a whole one.
type boundedBody struct {
	io.ReadCloser
	left int64
}

var errTooLong = fmt.Errorf("answer: over %d bytes", maxAnswer)

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errTooLong
	}
	return n, err
}
