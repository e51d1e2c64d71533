package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // the users' own kubeconfigs
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/canary-guardian/guardian/remediate/records"
)

// clusterFlags is how to reach a cluster, as kubectl has it.
type clusterFlags struct {
	kubeconfig, context, namespace string
}

func (c *clusterFlags) add(f *pflag.FlagSet) {
	f.StringVar(&c.kubeconfig, "kubeconfig", "", "kubeconfig file (default: $KUBECONFIG, else ~/.kube/config)")
	f.StringVar(&c.context, "context", "", "context of the kubeconfig (default: its current one)")
	f.StringVarP(&c.namespace, "namespace", "n", "", "namespace of the guards (default: the context's)")
}

// cluster is what the commands need of Kubernetes, in one namespace.
type cluster struct {
	kube      kubernetes.Interface
	dynamic   dynamic.Interface
	namespace string
	user      string // as the kubeconfig names it; used where the API server does not tell

	// impersonate is the same connection as another user; nil: there is none.
	impersonate func(user string) (*cluster, error)
}

// connect reads the user's kubeconfig; inside a pod, the ServiceAccount.
func connect(flags clusterFlags) (*cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = flags.kubeconfig
	overrides := &clientcmd.ConfigOverrides{CurrentContext: flags.context}
	overrides.Context.Namespace = flags.namespace
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	config, err := loader.ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, nothingChosen(loader)
	}
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	config.UserAgent = "guardian-cli"
	config.QPS, config.Burst = 50, 100 // client-go's own 5 a second would make `check` take ten
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: namespace: %w", err)
	}
	c, err := clusterOf(config, namespace)
	if err != nil {
		return nil, err
	}
	c.impersonate = func(user string) (*cluster, error) {
		as := rest.CopyConfig(config)
		as.Impersonate = rest.ImpersonationConfig{UserName: user} // a ServiceAccount's groups follow from its name
		return clusterOf(as, namespace)
	}
	if raw, err := loader.RawConfig(); err == nil {
		current := raw.CurrentContext
		if flags.context != "" {
			current = flags.context
		}
		if ctx := raw.Contexts[current]; ctx != nil {
			c.user = ctx.AuthInfo
		}
	}
	return c, nil
}

// nothingChosen is why a kubeconfig says nothing: there is none, or it has no current
// context.
func nothingChosen(loader clientcmd.ClientConfig) error {
	raw, err := loader.RawConfig()
	if err != nil || len(raw.Contexts) == 0 {
		return errors.New("read kubeconfig: there is none: want --kubeconfig FILE, $KUBECONFIG or ~/.kube/config")
	}
	contexts := slices.Sorted(maps.Keys(raw.Contexts))
	return fmt.Errorf("read kubeconfig: it has no current-context: want --context, one of %s", strings.Join(contexts, ", "))
}

func clusterOf(config *rest.Config, namespace string) (*cluster, error) {
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return callDeadline{next} })
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, connectError(config, err)
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, connectError(config, err)
	}
	return &cluster{kube: kube, dynamic: dyn, namespace: namespace}, nil
}

// connectError names the API server without what stands before an @ in its address.
func connectError(config *rest.Config, err error) error {
	host := config.Host
	if i := strings.LastIndex(host, "@"); i >= 0 {
		host = "…" + host[i:]
	}
	return fmt.Errorf("connect to %s: %s", host, strings.ReplaceAll(err.Error(), config.Host, host))
}

// records is the client of the guards' records.
func (c *cluster) records() records.Client {
	return records.Client{Kube: c.kube, Namespace: c.namespace, Manager: "guardian-cli"}
}

// whoAmI is the user as the API server knows it: the record names whom the
// audit log names, and the admission policy refuses any other name. The
// kubeconfig's name stands in where the server does not tell (it cannot before
// Kubernetes 1.28), which is marked: it proves nothing.
func (c *cluster) whoAmI(ctx context.Context) (string, error) {
	review, err := c.kube.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	switch {
	case err == nil && review.Status.UserInfo.Username != "":
		return review.Status.UserInfo.Username, nil
	case err != nil && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err):
		return "", c.records().Explain("ask the API server who you are", err)
	}
	return cmp.Or(c.user, "unknown user") + " (by kubeconfig)", nil
}

// wantReplica returns nil when a guardian lives, and 'could not tell' when none
// does.
func (c *cluster) wantReplica(ctx context.Context, p *records.Liveness) error {
	why, err := c.records().FindReplica(ctx, p)
	switch {
	case err != nil:
		return &exitError{exitUnknown, fmt.Errorf("could not tell: %w", err)}
	case why != "":
		return couldNotTell("no replica of guardian is running in namespace %s: %s; next: %s", c.namespace, why, podsCommand(c.namespace))
	}
	return nil
}

// podsCommand shows what became of guardian's replicas.
func podsCommand(namespace string) string {
	return fmt.Sprintf("kubectl get pods -n %s -l app.kubernetes.io/name=guardian", namespace)
}

// sleep waits for d, or returns ctx's error when that ends first.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
