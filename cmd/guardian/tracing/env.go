package tracing

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// settings are what the environment asks for.
type settings struct {
	endpoint  string // URL that spans are posted to
	headers   http.Header
	gzip      bool
	timeout   time.Duration // of one export
	tls       *tls.Config   // nil: Go's own
	sampler   sdktrace.Sampler
	queue     int // spans that may wait
	batch     []sdktrace.BatchSpanProcessorOption
	propagate bool // W3C trace context is read and written
}

// environment reads variables, and collects what is wrong with them.
type environment struct{ problems []error }

// wrong notes a bad value. The value is shown where it can hold no secret.
func (e *environment) wrong(name, value, want string) {
	e.problems = append(e.problems, fmt.Errorf("%s: %q: want %s", name, value, want))
}

// of returns a variable without spaces around it; an empty one counts as not set.
func (e *environment) of(name string) string { return strings.TrimSpace(os.Getenv(name)) }

// otlp returns the variable of the exporter that is for traces, else the one for all
// signals, and its name.
func (e *environment) otlp(what string) (name, value string) {
	name = "OTEL_EXPORTER_OTLP_TRACES_" + what
	if value = e.of(name); value != "" {
		return name, value
	}
	name = "OTEL_EXPORTER_OTLP_" + what
	return name, e.of(name)
}

// read returns nil where no traces are asked for.
func (e *environment) read() *settings {
	if !e.asked() {
		return nil
	}
	s := &settings{endpoint: e.endpoint(), headers: e.headers(), timeout: e.timeout(), sampler: e.sampler(), propagate: e.propagators()}
	s.queue, s.batch = e.batch()
	if name, v := e.otlp("PROTOCOL"); v != "" && v != "http/protobuf" {
		e.wrong(name, v, "http/protobuf, which is the only one here")
	}
	switch name, v := e.otlp("COMPRESSION"); v {
	case "", "none":
	case "gzip":
		s.gzip = true
	default:
		e.wrong(name, v, "gzip or none")
	}
	s.tls = e.tls()
	return s
}

// asked says whether traces are asked for: without a word about where to, there are none.
func (e *environment) asked() bool {
	if strings.EqualFold(e.of("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	switch v := e.of("OTEL_TRACES_EXPORTER"); v {
	case "":
		_, endpoint := e.otlp("ENDPOINT")
		return endpoint != ""
	case "otlp":
		return true
	case "none":
		return false
	default:
		e.wrong("OTEL_TRACES_EXPORTER", v, "otlp or none")
		return false
	}
}

// endpoint is the URL for traces as it is, or that for all signals with their path.
func (e *environment) endpoint() string {
	name, v := e.otlp("ENDPOINT")
	if v == "" {
		v = "http://localhost:4318"
	}
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		shown := "a value that is no URL"
		if err == nil && !strings.Contains(u.Opaque, "@") { // user:password@host reads as the scheme user
			shown = u.Redacted()
		}
		e.wrong(name, shown, "a URL such as http://collector:4318")
		return ""
	}
	if name != "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" {
		u = u.JoinPath("v1", "traces")
	}
	return u.String()
}

// headers often hold a token, so none of it is shown.
func (e *environment) headers() http.Header {
	name, v := e.otlp("HEADERS")
	if v == "" {
		return nil
	}
	out := http.Header{}
	for _, item := range strings.Split(v, ",") {
		if strings.TrimSpace(item) == "" {
			continue
		}
		key, value, ok := strings.Cut(item, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if key = strings.TrimSpace(key); !ok || key == "" || err != nil || strings.ContainsAny(key, " \t") || strings.ContainsAny(key+value, "\r\n\x00") {
			e.problems = append(e.problems, fmt.Errorf("%s: want key=value pairs with commas between them, their values URL-encoded", name))
			return nil
		}
		out.Set(key, value)
	}
	return out
}

func (e *environment) timeout() time.Duration {
	name, v := e.otlp("TIMEOUT")
	return time.Duration(e.positive(name, v, 10_000)) * time.Millisecond
}

// positive is a whole number above 0.
func (e *environment) positive(name, value string, otherwise int) int {
	if value == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(value, 10, 32)
	if err != nil || n <= 0 {
		e.wrong(name, value, "a whole number above 0")
		return otherwise
	}
	return int(n)
}

func (e *environment) sampler() sdktrace.Sampler {
	const name = "OTEL_TRACES_SAMPLER"
	switch v := e.of(name); v {
	case "", "parentbased_always_on":
		return sdktrace.ParentBased(sdktrace.AlwaysSample())
	case "always_on":
		return sdktrace.AlwaysSample()
	case "always_off":
		return sdktrace.NeverSample()
	case "parentbased_always_off":
		return sdktrace.ParentBased(sdktrace.NeverSample())
	case "traceidratio":
		return sdktrace.TraceIDRatioBased(e.ratio())
	case "parentbased_traceidratio":
		return sdktrace.ParentBased(sdktrace.TraceIDRatioBased(e.ratio()))
	default:
		e.wrong(name, v, "always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off or parentbased_traceidratio")
		return nil
	}
}

func (e *environment) ratio() float64 {
	const name = "OTEL_TRACES_SAMPLER_ARG"
	v := e.of(name)
	if v == "" {
		return 1
	}
	ratio, err := strconv.ParseFloat(v, 64)
	if err != nil || !(ratio >= 0 && ratio <= 1) {
		e.wrong(name, v, "a number from 0 to 1")
		return 1
	}
	return ratio
}

// batch bounds what waits to be sent.
func (e *environment) batch() (queue int, options []sdktrace.BatchSpanProcessorOption) {
	millis := func(name string, otherwise int) time.Duration {
		return time.Duration(e.positive(name, e.of(name), otherwise)) * time.Millisecond
	}
	count := func(name string, otherwise int) int { return e.positive(name, e.of(name), otherwise) }
	queue = count("OTEL_BSP_MAX_QUEUE_SIZE", sdktrace.DefaultMaxQueueSize)
	batch := count("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", min(queue, sdktrace.DefaultMaxExportBatchSize))
	if batch > queue {
		e.wrong("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", strconv.Itoa(batch), fmt.Sprintf("at most OTEL_BSP_MAX_QUEUE_SIZE, which is %d", queue))
	}
	return queue, []sdktrace.BatchSpanProcessorOption{
		sdktrace.WithMaxQueueSize(queue), sdktrace.WithMaxExportBatchSize(batch),
		sdktrace.WithBatchTimeout(millis("OTEL_BSP_SCHEDULE_DELAY", sdktrace.DefaultScheduleDelay)),
		sdktrace.WithExportTimeout(millis("OTEL_BSP_EXPORT_TIMEOUT", sdktrace.DefaultExportTimeout)),
	}
}

func (e *environment) propagators() bool {
	const name = "OTEL_PROPAGATORS"
	v := e.of(name)
	if v == "" {
		return true
	}
	all := strings.Split(strings.ReplaceAll(v, " ", ""), ",")
	for _, p := range all {
		if p != "tracecontext" && p != "baggage" && p != "none" {
			e.wrong(name, v, "tracecontext or none; baggage is let pass and not used")
		}
	}
	return slices.Contains(all, "tracecontext")
}

// tls is nil where nothing but Go's own trust is asked for.
func (e *environment) tls() *tls.Config {
	caName, ca := e.otlp("CERTIFICATE")
	certName, cert := e.otlp("CLIENT_CERTIFICATE")
	keyName, key := e.otlp("CLIENT_KEY")
	if ca == "" && cert == "" && key == "" {
		return nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		text, err := os.ReadFile(ca)
		if c.RootCAs = x509.NewCertPool(); err == nil && !c.RootCAs.AppendCertsFromPEM(text) {
			err = errors.New("no certificate in it")
		}
		if err != nil {
			e.problems = append(e.problems, fmt.Errorf("%s: want a file of PEM certificates: %w", caName, err))
		}
	}
	if cert != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			e.problems = append(e.problems, fmt.Errorf("%s, %s: want two PEM files that belong together: %w", certName, keyName, err))
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}
