package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/canary-guardian/guardian/remediate"
)

func newAdmissionCommand(a *app) *cobra.Command {
	var o remediate.AdmissionOptions
	cmd := &cobra.Command{
		Use:   "admission -n NAMESPACE",
		Short: "Print the admission policy that makes the lock felt in CI",
		Long: `Print a ValidatingAdmissionPolicy and its binding. While a guard of the namespace is
locked, the API server refuses every VirtualService that would give its canary
traffic, by anybody but guardian, with a message that says what happened and how to
go on. Without the policy guardian puts such traffic back within moments instead.`,
		Example: `  guardian admission -n microservices | kubectl apply -f -`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if o.Namespace == "" {
				o.Namespace = os.Getenv(envName("namespace"))
			}
			if o.Namespace == "" {
				return errors.New("no namespace: want -n NAMESPACE, that of the guards")
			}
			out, err := remediate.AdmissionYAML(o)
			if err != nil {
				return err
			}
			_, err = a.out.Write(out)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.Namespace, "namespace", "n", "", "namespace of the guards (default: $GUARDIAN_NAMESPACE)")
	f.StringVar(&o.Release, "release", "guardian", "makes the names of the two cluster-scoped objects unique")
	f.StringVar(&o.ServiceAccount, "service-account", "", "guardian's own, which the policy lets pass (default: the release's name)")
	f.StringVar(&o.ServiceAccountNamespace, "service-account-namespace", "", "its namespace (default: --namespace)")
	return cmd
}
