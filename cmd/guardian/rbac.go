package main

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/canary-guardian/guardian/remediate/records"
)

// rbacOptions is whose rights `guardian rbac` prints.
type rbacOptions struct {
	account   string // ci, viewer or operator
	namespace string
	guards    []string // of a ci: those that it may read, and no others
	users     []string
	groups    []string
	services  []string // ServiceAccounts, NAME or NAMESPACE:NAME
}

// rbacAccounts are those that there are Roles for.
var rbacAccounts = []string{"ci", "viewer", "operator"}

func newRBACCommand(a *app) *cobra.Command {
	var o rbacOptions
	cmd := &cobra.Command{
		Use:   "rbac --for ci|viewer|operator",
		Short: "Print the least Role for an account that uses this program",
		Long: `Print the least Role, in the guards' namespace, with which an account can use the
commands: ci and viewer those that read (gate, status, history, receipt, report);
operator also rollback, unlock, pause, resume, promote, disarm, arm and mark.

With --guard a Role for ci reads the records of these guards alone; the commands
then need their names. With --user, --group or --service-account the RoleBinding is
printed too. What CI needs to deploy and to shift traffic is not in it.`,
		Example: `  guardian rbac --for ci -n microservices --service-account ci | kubectl apply -f -
  guardian rbac --for operator -n microservices --group oncall | kubectl apply -f -`,
		Args: wantArgs(0, 0),
		RunE: func(*cobra.Command, []string) error {
			out, err := o.print()
			if err != nil {
				return orUnknown(err)
			}
			_, err = a.out.Write(out)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.account, "for", "", "ci, viewer or operator (required)")
	f.StringVarP(&o.namespace, "namespace", "n", "", "namespace of the guards (default: left to kubectl)")
	f.StringArrayVar(&o.guards, "guard", nil, "a guard that ci may read the record of; repeatable (default: all of the namespace)")
	f.StringArrayVar(&o.users, "user", nil, "a user that is given the Role; repeatable")
	f.StringArrayVar(&o.groups, "group", nil, "a group that is given the Role; repeatable")
	f.StringArrayVar(&o.services, "service-account", nil, "a ServiceAccount that is given the Role, NAME or NAMESPACE:NAME; repeatable")
	return cmd
}

func (o rbacOptions) check() error {
	if !slices.Contains(rbacAccounts, o.account) {
		return fmt.Errorf("--for %q: want one of %s", o.account, strings.Join(rbacAccounts, ", "))
	}
	if len(o.guards) > 0 && o.account != "ci" {
		return fmt.Errorf("--guard %s and --for %s: only a Role for ci can be for some guards", o.guards[0], o.account)
	}
	for _, guard := range o.guards {
		if len(validation.IsDNS1123Label(guard)) > 0 {
			return fmt.Errorf("--guard %q: want the name of a guard, such as orders-service", guard)
		}
	}
	if err := checkNamespace(o.namespace); err != nil {
		return err
	}
	for _, s := range o.services {
		switch namespace, name := o.serviceAccount(s); {
		case namespace == "":
			return fmt.Errorf("--service-account %s: want NAMESPACE:NAME, or -n", s)
		case len(validation.IsDNS1123Label(namespace)) > 0, len(validation.IsDNS1123Subdomain(name)) > 0:
			return fmt.Errorf("--service-account %q: want NAMESPACE:NAME, or NAME with -n", s)
		}
	}
	return nil
}

// serviceAccount takes one apart: NAME, NAMESPACE:NAME, or the user that the API server
// knows it as.
func (o rbacOptions) serviceAccount(text string) (namespace, name string) {
	text = strings.TrimPrefix(text, "system:serviceaccount:")
	if namespace, name, ok := strings.Cut(text, ":"); ok {
		return namespace, name
	}
	return o.namespace, text
}

// rules are the least that the account's commands need.
func (o rbacOptions) rules() []rbacv1.PolicyRule {
	rule := func(group, resource string, verbs ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: verbs}
	}
	ofRecords := rule("", "configmaps", "get", "list", "watch")
	if len(o.guards) > 0 {
		ofRecords = rule("", "configmaps", "get", "watch")
		for _, guard := range o.guards {
			ofRecords.ResourceNames = append(ofRecords.ResourceNames, records.Name(guard))
		}
	}
	out := []rbacv1.PolicyRule{ofRecords, rule("coordination.k8s.io", "leases", "list")}
	if o.account == "operator" {
		out[0].Verbs = append(out[0].Verbs, "patch")
		// They stand for no request of the API: the admission policies ask for them.
		out = append(out, rule("networking.istio.io", "virtualservices", "unlock", "disarm"))
	}
	return out
}

// print is the Role and, where it is given to somebody, the RoleBinding.
func (o rbacOptions) print() ([]byte, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	name := "guardian-" + o.account
	if len(o.guards) == 1 {
		name += "-" + o.guards[0]
	}
	meta := metav1.ObjectMeta{Name: name, Namespace: o.namespace}
	var subjects []rbacv1.Subject
	for kind, names := range map[string][]string{rbacv1.UserKind: o.users, rbacv1.GroupKind: o.groups} {
		for _, n := range names {
			subjects = append(subjects, rbacv1.Subject{Kind: kind, APIGroup: rbacv1.GroupName, Name: n})
		}
	}
	for _, s := range o.services {
		namespace, name := o.serviceAccount(s)
		subjects = append(subjects, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name})
	}
	slices.SortFunc(subjects, func(a, b rbacv1.Subject) int {
		return cmp.Compare(a.Kind+" "+a.Namespace+"/"+a.Name, b.Kind+" "+b.Namespace+"/"+b.Name)
	})
	objects := []any{rbacv1.Role{TypeMeta: metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "Role"}, ObjectMeta: meta, Rules: o.rules()}}
	if len(subjects) > 0 {
		objects = append(objects, rbacv1.RoleBinding{
			TypeMeta: metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "RoleBinding"}, ObjectMeta: meta, Subjects: subjects,
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
		})
	}
	var out [][]byte
	for _, object := range objects {
		text, err := yaml.Marshal(object)
		if err != nil {
			return nil, fmt.Errorf("print the Role: %w", err)
		}
		out = append(out, text)
	}
	return bytes.Join(out, []byte("---\n")), nil
}
