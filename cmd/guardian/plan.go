package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
	"github.com/canary-guardian/guardian/remediate/virtualservice"
)

// planOptions is what `guardian plan` is asked to do.
type planOptions struct {
	file, stable, canary, host, namespace, domain, output string
	weight                                                int
	matchRoutes, mirrors                                  bool
}

func newPlanCommand(a *app) *cobra.Command {
	var o planOptions
	cmd := &cobra.Command{
		Use:   "plan -f vs.yaml --stable v1 --canary v2 [--weight N]",
		Short: "Print a VirtualService as a rollback, or a step, would write it",
		Long: `Print the VirtualService of a file with the canary at a weight, 0 unless told
otherwise. Nothing else in the file changes, not even a comment. Needs no cluster.

Exit codes: 0 printed, unchanged when it is so already; 1 the file is invalid, or
nothing in it can be rewritten safely: the message says why; 2 wrong flags, or a file
that cannot be read.`,
		Example: `  # what a rollback would write
  guardian plan -f vs-90-10.yaml --stable v1 --canary v2
  # roll back by hand while no replica is running
  kubectl patch virtualservice orders-service --type=json \
    -p "$(kubectl get virtualservice orders-service -o yaml | guardian plan -f - --stable v1 --canary v2 -o patch)"`,
		Args: wantArgs(0, 0),
		RunE: func(*cobra.Command, []string) error { return a.plan(o) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.file, "filename", "f", "", "file with VirtualServices, YAML or JSON; - for standard input")
	f.StringVar(&o.stable, "stable", "v1", "stable destination: a subset, or host:NAME")
	f.StringVar(&o.canary, "canary", "v2", "canary destination: a subset, or host:NAME")
	f.IntVar(&o.weight, "weight", 0, "percent of the pair's traffic for the canary, 0-100")
	f.StringVar(&o.host, "host", "", "host of the DestinationRule that has the subsets; needed when routes name several hosts")
	f.StringVarP(&o.namespace, "namespace", "n", "", "namespace that short host names belong to (default: the VirtualService's)")
	f.StringVar(&o.domain, "cluster-domain", "cluster.local", "DNS domain of the cluster")
	f.StringVarP(&o.output, "output", "o", "yaml", "yaml, or patch for the JSON patch")
	f.BoolVar(&o.matchRoutes, "match-routes", true, "also re-point testers' routes (by header, cookie, query parameter or caller) that lead to the canary and not to stable")
	f.BoolVar(&o.mirrors, "mirrors", true, "also stop mirrors to the canary")
	if err := cmd.MarkFlagRequired("filename"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

func (a *app) plan(o planOptions) error {
	pair, err := o.pair()
	if err != nil {
		return orUnknown(err)
	}
	in, name, err := a.readInput(o.file)
	if err != nil {
		return err
	}
	out, patch, err := virtualservice.PlanYAML(in, pair, o.weight, virtualservice.Options{MatchRoutes: o.matchRoutes, Mirrors: o.mirrors})
	if err != nil {
		return fmt.Errorf("plan %s: %w", name, unrendered(err, in))
	}
	for _, note := range virtualservice.Unnamed(in, pair) {
		a.warn(errors.New(note))
	}
	if o.output == "patch" {
		out = patch
	}
	_, err = a.out.Write(out)
	return err
}

// unrendered is why a text cannot be planned: a template is the reason before
// anything that a parser makes of it.
func unrendered(err error, in []byte) error {
	_, unsafe := errors.AsType[*virtualservice.UnsafeError](err)
	if text := config.Unrendered(in); text != "" && !unsafe {
		return errors.New(text + " RELEASE CHART | guardian plan -f -")
	}
	return err
}

// pair checks the flags.
func (o planOptions) pair() (virtualservice.Pair, error) {
	stable, err := virtualservice.ParseRef(o.stable)
	if err != nil {
		return virtualservice.Pair{}, fmt.Errorf("--stable: %w", err)
	}
	canary, err := virtualservice.ParseRef(o.canary)
	if err != nil {
		return virtualservice.Pair{}, fmt.Errorf("--canary: %w", err)
	}
	switch {
	case o.weight < 0 || o.weight > 100:
		return virtualservice.Pair{}, fmt.Errorf("--weight %d: want 0 to 100", o.weight)
	case o.output != "yaml" && o.output != "patch":
		return virtualservice.Pair{}, fmt.Errorf("--output %q: want yaml or patch", o.output)
	}
	return virtualservice.Pair{Stable: stable, Canary: canary, Host: o.host, Namespace: o.namespace, Domain: o.domain}, nil
}

// maxInput is far above the 1.5 MiB that etcd holds of one object.
const maxInput = 16 << 20

// readInput reads a file, or standard input for "-".
func (a *app) readInput(file string) (b []byte, name string, err error) {
	r := a.in
	name = "standard input"
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, "", err
		}
		defer f.Close()
		r, name = f, file
	}
	b, err = io.ReadAll(io.LimitReader(r, maxInput+1))
	switch {
	case err != nil:
		return nil, "", fmt.Errorf("read %s: %w", name, err)
	case len(b) > maxInput:
		return nil, "", fmt.Errorf("read %s: longer than %d MiB", name, maxInput>>20)
	case len(b) == 0:
		return nil, "", errors.New(name + " is empty: want a VirtualService")
	}
	return b, name, nil
}
