package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	utilversion "k8s.io/apimachinery/pkg/util/version"

	"github.com/canary-guardian/guardian/remediate"
)

// admissionFlags is what `guardian admission` is asked for.
type admissionFlags struct {
	kubernetes string // version of the cluster; empty: the newest
	noHold     bool
}

// goneFlags are those of before there was one set of policies for a whole cluster.
var goneFlags = []string{"namespace", "release", "service-account", "service-account-namespace"}

func newAdmissionCommand(a *app) *cobra.Command {
	var flags admissionFlags
	cmd := &cobra.Command{
		Use:   "admission",
		Short: "Print the admission policies that make the lock felt in CI",
		Long: fmt.Sprintf(`Print the admission policies and their bindings, one set for a whole cluster whatever
the number of namespaces and guardians in it. While a guard is locked, the API server
refuses every write that would give its canary more traffic, and the deletion of its
VirtualService, to anybody but guardian, with a message that says what happened and
how to go on; and nobody else writes guardian's records, but for a request in their
own name. Dry runs and GitOps tools are held instead of refused: their writes are
taken, and the canary stays where it is. Without the policies guardian puts such
traffic back within moments instead.

The policies need Kubernetes %s; those that hold and warn need %s, and are left
out by --no-mutating, or by --kubernetes with an older version.`, remediate.MinKubernetes, remediate.MinKubernetesHold),
		Example: `  guardian admission | kubectl apply --server-side -f -
  guardian admission --kubernetes 1.35 | kubectl apply --server-side -f -`,
		Args: wantArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, flag := range goneFlags {
				if cmd.Flags().Changed(flag) {
					return orUnknown(fmt.Errorf("--%s: the policies are the same for every namespace and ServiceAccount of a cluster: print them once, without it", flag))
				}
			}
			return a.admission(flags)
		},
	}
	flags.add(cmd.Flags())
	return cmd
}

func (o *admissionFlags) add(f *pflag.FlagSet) {
	f.StringVar(&o.kubernetes, "kubernetes", "", "version of the cluster; leaves out what it does not serve")
	f.BoolVar(&o.noHold, "no-mutating", false, "leave out the policies that hold dry runs and GitOps tools instead of refusing them")
	for _, gone := range goneFlags {
		short := ""
		if gone == "namespace" {
			short = "n"
		}
		f.StringP(gone, short, "", "")
		if err := f.MarkHidden(gone); err != nil {
			panic(err) // the flag is defined above
		}
	}
}

func (a *app) admission(flags admissionFlags) error {
	o, err := flags.options()
	if err != nil {
		return orUnknown(err)
	}
	out, err := remediate.AdmissionYAML(o)
	if err != nil {
		return err
	}
	_, err = a.out.Write(out)
	return err
}

// options checks the flags.
func (o admissionFlags) options() (remediate.AdmissionOptions, error) {
	out := remediate.AdmissionOptions{NoHold: o.noHold}
	if o.kubernetes == "" {
		return out, nil
	}
	v, err := utilversion.ParseGeneric(o.kubernetes)
	switch {
	case err != nil:
		return out, fmt.Errorf("--kubernetes %q: want a version such as %s", o.kubernetes, remediate.MinKubernetesHold)
	case v.LessThan(utilversion.MustParseGeneric(remediate.MinKubernetes)):
		return out, fmt.Errorf("--kubernetes %s: the policies need %s; without them guardian puts back what CI shifts", o.kubernetes, remediate.MinKubernetes)
	}
	out.NoHold = out.NoHold || v.LessThan(utilversion.MustParseGeneric(remediate.MinKubernetesHold))
	return out, nil
}
