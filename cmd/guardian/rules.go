package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/internal/printable"
	"github.com/canary-guardian/guardian/remediate"
	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
	"github.com/canary-guardian/guardian/rules"
)

// configFlags says which guards a printing command is about: those of a file,
// or guards named on the command line with every default.
type configFlags struct {
	file           string
	guards         []string
	stable, canary string
	namespace      string
}

func (f *configFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVarP(&f.file, "config", "f", "", "guardian's configuration file")
	fs.StringSliceVar(&f.guards, "guard", nil, "instead of a file: a guard with every default; may be repeated")
	fs.StringVar(&f.stable, "stable", "v1", "with --guard: stable destination, a subset or host:NAME")
	fs.StringVar(&f.canary, "canary", "v2", "with --guard: canary destination, a subset or host:NAME")
	fs.StringVarP(&f.namespace, "namespace", "n", "", "namespace of the guards (default: the file's)")
}

// load reads the file or makes the guards. needGuards refuses neither.
func (f configFlags) load(needGuards bool) (config.Config, error) {
	if err := checkNamespace(f.namespace); err != nil {
		return config.Config{}, orUnknown(err)
	}
	if f.file != "" && len(f.guards) > 0 {
		return config.Config{}, orUnknown(errors.New("--config and --guard: want one of the two"))
	}
	if needGuards && f.file == "" && len(f.guards) == 0 {
		return config.Config{}, orUnknown(errors.New("no guards: want --config FILE, or --guard NAME where there is one"))
	}
	c, err := config.LoadWith(f.file, func(c *config.Config) {
		if f.namespace != "" {
			c.Namespace = f.namespace
		}
	})
	if config.LacksNamespace(err) {
		return config.Config{}, orUnknown(err)
	}
	if err != nil {
		return config.Config{}, err
	}
	if needGuards && f.file != "" {
		b, err := os.ReadFile(f.file)
		if err == nil {
			err = config.RequireGuards(b)
		}
		if err != nil {
			return config.Config{}, config.InFile(f.file, err)
		}
	}
	return c, orUnknown(f.addGuards(&c))
}

// addGuards makes the guards that flags name. All else has been checked.
func (f configFlags) addGuards(c *config.Config) error {
	for _, name := range f.guards {
		g, err := config.DefaultGuard(name), error(nil)
		if g.Stable.Ref, err = virtualservice.ParseRef(f.stable); err != nil {
			return fmt.Errorf("--stable: %w", err)
		}
		if g.Canary.Ref, err = virtualservice.ParseRef(f.canary); err != nil {
			return fmt.Errorf("--canary: %w", err)
		}
		c.Guards = append(c.Guards, g)
	}
	if problems := ofFlags(c.Validate()); len(problems) > 0 {
		return printable.OwnLines{Err: problems}
	}
	return nil
}

// guardFlags are what makes a key of a guard that no file has.
var guardFlags = map[string]string{"name": "--guard", "stable": "--stable", "canary": "--canary"}

// ofFlags tells problems of guards by the flags that made them, each once.
func ofFlags(problems config.Problems) config.Problems {
	var out config.Problems
	for _, p := range problems {
		_, key, _ := strings.Cut(p.Path, "].")
		key, _, _ = strings.Cut(key, ".")
		p.Path = cmp.Or(guardFlags[key], p.Path)
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

func newRulesCommand(a *app) *cobra.Command {
	var f configFlags
	var flags clusterFlags
	var format string
	var fromCluster bool
	cmd := &cobra.Command{
		Use:   "rules -f guardian.yaml | --guard NAME",
		Short: "Print the Prometheus rules of the guards",
		Long: `Print the recording and alerting rules that guardian would write itself, for
those who keep them in git. Set rules.enabled: false then. With rules.fastLane the
rules also need what --format podmonitor or scrapeconfig prints.

The alerts about guardian itself stand in a PrometheusRule of their own, the guards
in as many as their number asks for. Which one a guard is in follows from its name.

The rules know a version by its Deployments. They are named in the configuration
(workloads), or looked up with --from-cluster. Without either the subset's name has
to be the pods' version label, and the DestinationRule's name that of the Service.`,
		Example: `  guardian rules --guard orders-service -n microservices | kubectl apply --server-side -f -
  guardian rules -f guardian.yaml --format prometheus > rules.yml && promtool check rules rules.yml`,
		Args: wantArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.load(true)
			if err != nil {
				return err
			}
			var sides map[string]decision.Sides
			if fromCluster {
				flags.namespace = c.Namespace
				if sides, err = a.findSides(cmd.Context(), c, flags); err != nil {
					return err
				}
			}
			return a.printRules(c, sides, format)
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&format, "format", "prometheusrule", "prometheusrule, or prometheus for a rule file; of the fast lane: podmonitor, or scrapeconfig for prometheus.yml")
	cmd.Flags().BoolVar(&fromCluster, "from-cluster", false, "look up the Deployments behind each subset")
	cmd.Flags().StringVar(&flags.kubeconfig, "kubeconfig", "", "with --from-cluster: kubeconfig file (default: $KUBECONFIG, else ~/.kube/config)")
	cmd.Flags().StringVar(&flags.context, "context", "", "with --from-cluster: context of the kubeconfig (default: its current one)")
	return cmd
}

// findSides looks up who serves each guard's two sides.
func (a *app) findSides(ctx context.Context, c config.Config, flags clusterFlags) (map[string]decision.Sides, error) {
	cl, err := a.reach(flags)
	if err != nil {
		return nil, err
	}
	sides := map[string]decision.Sides{}
	for _, g := range c.Guards {
		_, found, err := cl.previewer(c).Preview(ctx, c.DecisionGuard(g, 0))
		if err != nil {
			return nil, cl.records().Explain("look up guard "+g.Name, err)
		}
		for _, side := range []struct {
			name       string
			configured []string
			found      decision.Side
		}{{"stable " + g.Stable.String(), g.Workloads.Stable, found.Stable}, {"canary " + g.Canary.String(), g.Workloads.Canary, found.Canary}} {
			if len(side.configured) == 0 && len(side.found.Workloads) == 0 {
				fmt.Fprintf(a.errOut, "Warning: guard %s: no Deployment found behind %s\n", g.Name, side.name)
			}
		}
		sides[g.Name] = found
	}
	return sides, nil
}

// previewer looks at guards with the user's own rights.
func (c *cluster) previewer(settings config.Config) remediate.Previewer {
	return remediate.Previewer{Client: c.kube, Dynamic: c.dynamic, Domain: settings.ClusterDomain, Builds: remediate.BuildParts(settings.Builds)}
}

func (a *app) printRules(c config.Config, sides map[string]decision.Sides, format string) error {
	o, left := c.RulesOptions(sides)
	if err := left.Err(); err != nil {
		return err
	}
	r, err := rules.Generate(o)
	if err != nil {
		return err
	}
	for _, note := range r.Notes {
		fmt.Fprintln(a.errOut, "Note: "+note)
	}
	var out []byte
	switch format {
	case "prometheusrule":
		out, err = r.PrometheusRulesYAML(c.Rules.Name, c.Rules.Namespace)
	case "prometheus":
		out, err = r.Prometheus()
	case "podmonitor":
		out, err = r.PodMonitorYAML(c.Rules.FastLaneName(), c.Rules.Namespace)
	case "scrapeconfig":
		out, err = r.ScrapeConfig()
	default:
		err = orUnknown(fmt.Errorf("--format %q: want prometheusrule, prometheus, podmonitor or scrapeconfig", format))
	}
	if err == nil && out == nil {
		err = orUnknown(fmt.Errorf("--format %s: no fast lane: want rules.fastLane.enabled: true, or %s=true", format, config.EnvName("rules.fastLane.enabled")))
	}
	if err != nil {
		return err
	}
	_, err = a.out.Write(out)
	return err
}
