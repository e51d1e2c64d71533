// Command guardian-replay runs guardian's rules over a team's own past: `guardian
// replay` starts it. It is a program of its own because Prometheus's engine is in it,
// which guardian's service does not need.
//
//	episodes.go, survey.go  when both versions had traffic
//	feed.go                 raw samples of such a time, and where series ended
//	halves.go               less at once of what is too much for one query
//	replay.go, count.go     the rules over them, and what they would have raised
//	report.go               what is printed
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/common/model"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	_ "golang.org/x/crypto/x509roots/fallback" // the computer may have no certificate authorities

	"github.com/canary-guardian/guardian/alerting"
	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/internal/printable"
)

// version is set when a release is built.
var version = "devel"

// exitUnknown is the exit code of 'could not tell', as of guardian's other commands.
const exitUnknown = 2

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	debug.SetGCPercent(400)      // the heap is small, and evaluations make much garbage
	err := newCommand(os.Stdout, os.Stderr, time.Now, time.Second).ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error: could not tell:", printable.Error(err))
		os.Exit(exitUnknown)
	}
}

// options are the flags.
type options struct {
	file, url, from, to, namespace, output string
	sets, only                             []string
	chunk, timeout, pause                  time.Duration
	rate                                   float64
	quiet                                  bool
}

// newCommand makes the command. pause is how long it waits before a query is asked again.
func newCommand(out, errOut io.Writer, clock func() time.Time, pause time.Duration) *cobra.Command {
	o := options{pause: pause}
	cmd := &cobra.Command{
		Use:   "guardian-replay -f guardian.yaml --prometheus URL [--from 30d]",
		Short: "Run the guards' rules over the past, and print what guardian would have done",
		Long: `Find the releases of the past, the times in which both versions of a guard had
requests, run guardian's own rules over what your Prometheus scraped then, with
Prometheus's own engine, and print when each signal would have fired and at which
numbers, beside when the canary was in fact taken back. Nothing has to be installed,
and nothing is written anywhere.

Prometheus is asked for the traffic of each guard, a day at a time, and for the raw
samples of its releases, an hour at a time, one query after the other.

Exit codes: 0 replayed; 2 could not tell: wrong flags or configuration, or Prometheus
did not answer, for all guards or for some.`,
		Example: `  guardian replay -f guardian.yaml --prometheus http://localhost:9090 --from 30d
  # another threshold
  guardian replay -f guardian.yaml --set guards[0].signals.latency.max=300ms -o md`,
		Args:          cobra.NoArgs,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "guardian replay"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			to := &firstWrite{Writer: out}
			err := replay(cmd.Context(), o, to, errOut, clock())
			if err != nil && o.output == "json" && !to.wrote {
				return errors.Join(err, writeError(out, err))
			}
			return err
		},
	}
	cmd.SetOut(out)
	cmd.SetErr(errOut)
	f := cmd.Flags()
	f.StringVarP(&o.file, "config", "f", "", "guardian's configuration file")
	f.StringVarP(&o.namespace, "namespace", "n", "", "namespace of the guards (default: the file's)")
	f.StringArrayVar(&o.sets, "set", nil, "change a key of the configuration, such as guards[0].signals.latency.max=300ms; may be repeated")
	f.StringSliceVar(&o.only, "only", nil, "replay these guards alone; may be repeated")
	f.StringVar(&o.url, "prometheus", "", "URL of Prometheus, Thanos or Mimir (default: the file's prometheus.url; its prometheus.http has credentials and TLS)")
	f.StringVar(&o.from, "from", "30d", "begin so long ago, or at a time such as 2026-11-01T00:00:00Z")
	f.StringVar(&o.to, "to", "0s", "end so long ago, or at a time")
	f.StringVarP(&o.output, "output", "o", "text", "text, json or md")
	f.DurationVar(&o.chunk, "chunk", time.Hour, "ask for the samples of so long a time at once")
	f.DurationVar(&o.timeout, "timeout", 2*time.Minute, "longest time for one query")
	f.Float64Var(&o.rate, "queries-per-second", 10, "ask Prometheus so often at most")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "do not tell of the progress")
	if err := cmd.MarkFlagRequired("config"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

func replay(ctx context.Context, o options, out, errOut io.Writer, now time.Time) error {
	r, set, err := o.prepare(now)
	if err != nil {
		return err
	}
	url := r.config.Prometheus.URL
	client, err := alerting.NewPrometheus(alerting.ClientOptions{URL: url, HTTP: &r.config.Prometheus.HTTP, Timeout: o.timeout})
	if err != nil {
		return err
	}
	defer client.Close()
	r.progress = &progress{out: errOut, quiet: o.quiet}
	asked := &bounded{source: client, limit: rate.NewLimiter(rate.Limit(o.rate), 1), pause: o.pause, progress: r.progress}
	r.source = asked
	began := time.Now()
	guards, failed := r.guards(ctx)
	r.progress.done()
	if !slices.ContainsFunc(guards, func(g guardReport) bool { return g.Failed == "" || len(g.Releases) > 0 }) {
		return failed // there is nothing to print
	}
	err = report{
		APIVersion: reportVersion, Kind: reportKind, Prometheus: client.Base(), From: r.from.UTC(), To: r.to.UTC(), Set: set, Guards: guards,
		Cost: cost{Seconds: number(time.Since(began).Round(100 * time.Millisecond).Seconds()), Queries: asked.queries, Samples: asked.samples},
	}.write(out, o.output)
	return errors.Join(err, failed)
}

// prepare checks the flags and reads the configuration.
func (o options) prepare(now time.Time) (*replayer, []string, error) {
	r := &replayer{chunk: o.chunk}
	var err error
	switch {
	case !slices.Contains([]string{"text", "json", "md"}, o.output):
		return nil, nil, fmt.Errorf("--output %q: want text, json or md", o.output)
	case o.chunk < leastChunk || o.chunk > 24*time.Hour:
		return nil, nil, fmt.Errorf("--chunk %s: want %s to 24h", o.chunk, leastChunk)
	case o.timeout <= 0:
		return nil, nil, fmt.Errorf("--timeout %s: want more than 0", o.timeout)
	case !(o.rate > 0):
		return nil, nil, fmt.Errorf("--queries-per-second %v: want more than 0", o.rate)
	}
	if r.from, err = instant("--from", o.from, now); err != nil {
		return nil, nil, err
	}
	if r.to, err = instant("--to", o.to, now); err != nil {
		return nil, nil, err
	}
	if !r.from.Before(r.to) {
		return nil, nil, fmt.Errorf("--from %s, --to %s: want from before to", o.from, o.to)
	}
	sets := slices.Clone(o.sets)
	if o.namespace != "" {
		sets = append(sets, "namespace="+o.namespace)
	}
	if r.config, err = loadConfig(o.file, sets); err != nil {
		return nil, nil, err
	}
	r.config.Prometheus.URL = cmp.Or(o.url, r.config.Prometheus.URL)
	if r.config.Prometheus.URL == "" {
		return nil, nil, errors.New("no Prometheus: want --prometheus URL, or prometheus.url in the configuration")
	}
	r.config.Rules.Interval = r.config.RulesInterval() // as with all guards, however few are chosen
	if err := o.choose(&r.config); err != nil {
		return nil, nil, err
	}
	r.config.Rules.FastLane.Enabled = false // nobody scraped for it
	r.options = r.config.RulesBase()
	set := make([]string, 0, len(o.sets)) // never null as JSON
	for _, one := range o.sets {
		set = append(set, shown(one))
	}
	return r, set, nil
}

// choose leaves the guards that --only names.
func (o options) choose(c *config.Config) error {
	for _, name := range o.only {
		if _, ok := c.Guard(name); !ok {
			return fmt.Errorf("--only %s: no such guard in the configuration", name)
		}
	}
	if len(o.only) > 0 {
		c.Guards = slices.DeleteFunc(slices.Clone(c.Guards), func(g config.Guard) bool { return !slices.Contains(o.only, g.Name) })
	}
	if len(c.Guards) == 0 {
		return errors.New("no guards in the configuration: nothing to replay")
	}
	return nil
}

// instant is a time that a flag gives, or so long before now.
func instant(flag, text string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	ago, err := model.ParseDuration(text)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s %q: want a duration such as 30d or 12h, or a time such as 2026-11-01T00:00:00Z", flag, text)
	}
	return now.Add(-time.Duration(ago)).Truncate(time.Second), nil
}

// guards replays all guards, as many at once as there are processors. One that fails
// leaves the others alone.
func (r *replayer) guards(ctx context.Context) ([]guardReport, error) {
	out, failed := make([]guardReport, len(r.config.Guards)), make([]error, len(r.config.Guards))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, g := range r.config.Guards {
		group.Go(func() error {
			one, err := r.guard(ctx, g)
			if err != nil {
				one.Failed, failed[i] = printable.Line(err.Error()), fmt.Errorf("guard %s: %w", g.Name, err)
			}
			out[i] = one
			return nil
		})
	}
	return out, errors.Join(append(failed, group.Wait())...)
}

// bounded asks one query after the other, and not too often.
type bounded struct {
	source
	limit    *rate.Limiter
	pause    time.Duration // before a query is asked again; doubled each time
	progress *progress
	mu       sync.Mutex
	answered bool // once
	gone     bool // it did not answer however often it was asked, and has not since
	queries  int
	samples  int
}

const (
	// tryAgain is how often a query is asked that finds no answer: within a minute, in
	// which a Prometheus starts anew.
	tryAgain = 6
	// tryFirst is how often the first one is: the URL may be wrong.
	tryFirst = 3
)

func (b *bounded) ask(ctx context.Context, ask func() (model.Matrix, error)) (model.Matrix, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for tries := 1; ; tries++ {
		if err := b.limit.Wait(ctx); err != nil {
			return nil, err
		}
		m, err := ask()
		b.queries++
		for _, stream := range m {
			b.samples += len(stream.Values)
		}
		if err == nil {
			b.answered, b.gone = true, false
		}
		if err == nil || !b.again(ctx, err, tries) {
			return m, err
		}
		pause := b.pause << tries
		b.progress.say("Prometheus", "asked again in %v: %s", pause, printable.Line(err.Error()))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// again reports whether a query that failed is asked again.
func (b *bounded) again(ctx context.Context, err error, tries int) bool {
	most, tooMuch := tryAgain, errors.Is(err, alerting.ErrTooMuch)
	switch {
	case ctx.Err() != nil, errors.Is(err, alerting.ErrRefused), tooMuch && ctx.Value(indivisible{}) == nil:
		return false
	case b.gone:
		most = 1
	case !b.answered:
		most = tryFirst
	}
	if tries < most {
		return true
	}
	b.gone = !tooMuch
	return false
}

// Range implements source.
func (b *bounded) Range(ctx context.Context, promql string, from, to time.Time, step time.Duration) (model.Matrix, error) {
	return b.ask(ctx, func() (model.Matrix, error) { return b.source.Range(ctx, promql, from, to, step) })
}

// Samples implements source.
func (b *bounded) Samples(ctx context.Context, selector string, at time.Time) (model.Matrix, error) {
	return b.ask(ctx, func() (model.Matrix, error) { return b.source.Samples(ctx, selector, at) })
}

// progress tells on standard error what is going on, every few seconds.
type progress struct {
	out   io.Writer
	quiet bool
	mu    sync.Mutex
	last  time.Time
	told  bool
}

// say is for nobody where there is no progress.
func (p *progress) say(guard, format string, args ...any) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.quiet || time.Since(p.last) < 2*time.Second {
		return
	}
	p.last, p.told = time.Now(), true
	fmt.Fprintln(p.out, strings.TrimSpace(guard+": "+fmt.Sprintf(format, args...)))
}

func (p *progress) done() {
	if p.told {
		fmt.Fprintln(p.out)
	}
}
