package controlplane

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Users that every control plane has. Admin may do everything, the others nothing until [Plane.Grant].
const (
	Admin    = "admin"
	Guardian = "guardian"
	CI       = "ci"
	Dev      = "dev"
	Nobody   = "nobody"
)

// User is somebody whom kube-apiserver knows by a token.
type User struct {
	Name   string
	Groups []string
	token  string
}

func defaultUsers() []User {
	return []User{
		{Name: Admin, Groups: []string{"system:masters"}},
		{Name: Guardian, Groups: []string{"guardian"}},
		{Name: CI, Groups: []string{"ci"}},
		{Name: Dev, Groups: []string{"dev"}},
		{Name: Nobody},
	}
}

func (p *Plane) tokenFile() string { return filepath.Join(p.family.folder, "tokens.csv") }

// writeTokens gives every user a token and writes kube-apiserver's token file.
func writeTokens(file string, users []User) error {
	var lines strings.Builder
	for i := range users {
		users[i].token = strings.ToLower(rand.Text())
		fmt.Fprintf(&lines, "%s,%s,%s", users[i].token, users[i].Name, users[i].Name)
		if len(users[i].Groups) > 0 {
			fmt.Fprintf(&lines, ",%q", strings.Join(users[i].Groups, ","))
		}
		lines.WriteByte('\n')
	}
	return os.WriteFile(file, []byte(lines.String()), 0o600)
}

// RESTConfig returns a client configuration for a user, without client-side rate limits. A user without a token, or
// one of other groups than it was created with, is impersonated by admin: RBAC and admission see no difference. It
// panics on a control plane without Kubernetes.
func (p *Plane) RESTConfig(user string, groups ...string) *rest.Config {
	if p.keys == nil {
		panic(errNoKubernetes)
	}
	config := &rest.Config{
		Host:            p.APIServerURL(),
		TLSClientConfig: rest.TLSClientConfig{CAData: p.keys.certificate},
		QPS:             -1,
		UserAgent:       "controlplane-" + user,
	}
	known := slices.IndexFunc(p.users, func(u User) bool { return u.Name == user })
	if known >= 0 && len(groups) == 0 {
		config.BearerToken = p.users[known].token
		return config
	}
	config.BearerToken = p.users[0].token // admin
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	return config
}

// Kubeconfig writes a kubeconfig for a user, with a default namespace, and returns its path.
func (p *Plane) Kubeconfig(user, namespace string) (string, error) {
	if p.keys == nil {
		return "", errNoKubernetes
	}
	return p.WriteKubeconfig(p.RESTConfig(user), user, namespace)
}

// WriteKubeconfig writes a kubeconfig for any configuration of this control plane and returns its path.
func (p *Plane) WriteKubeconfig(config *rest.Config, name, namespace string) (string, error) {
	const cluster = "guardian-local"
	file := filepath.Join(p.family.folder, p.unique("kubeconfig-"+strings.ReplaceAll(name, ":", "-")))
	err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{cluster: {
			Server: config.Host, CertificateAuthorityData: config.CAData,
		}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{name: {
			Token: config.BearerToken, Impersonate: config.Impersonate.UserName, ImpersonateGroups: config.Impersonate.Groups,
		}},
		Contexts: map[string]*clientcmdapi.Context{cluster: {
			Cluster: cluster, AuthInfo: name, Namespace: namespace,
		}},
		CurrentContext: cluster,
	}, file)
	if err != nil {
		return "", fmt.Errorf("write kubeconfig %s: %w", file, err)
	}
	return file, nil
}

// ServiceAccount creates a ServiceAccount, if it is missing, and returns a configuration with a token that
// kube-apiserver issued for it: its requests come from system:serviceaccount:<namespace>:<name>.
func (p *Plane) ServiceAccount(ctx context.Context, namespace, name string) (*rest.Config, error) {
	client, err := p.client()
	if err != nil {
		return nil, err
	}
	accounts := client.CoreV1().ServiceAccounts(namespace)
	_, err = accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, fmt.Errorf("create ServiceAccount %s/%s: %w", namespace, name, err)
	}
	token, err := accounts.CreateToken(ctx, name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("create a token for ServiceAccount %s/%s: %w", namespace, name, err)
	}
	config := p.RESTConfig(Admin)
	config.BearerToken = token.Status.Token
	config.UserAgent = "controlplane-" + name
	return config, nil
}

// Grant gives a user rights in a namespace through a new Role and RoleBinding, and returns when the API server
// goes by them. A user is written as in RBAC: "system:serviceaccount:<namespace>:<name>" for a ServiceAccount.
func (p *Plane) Grant(ctx context.Context, namespace, user string, rules ...rbacv1.PolicyRule) error {
	client, err := p.client()
	if err != nil {
		return err
	}
	meta := metav1.ObjectMeta{GenerateName: "grant-", Namespace: namespace}
	role, err := client.RbacV1().Roles(namespace).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("grant rights to %s in %s: %w", user, namespace, err)
	}
	meta = metav1.ObjectMeta{Name: role.Name, Namespace: namespace}
	_, err = client.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: meta,
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}},
		RoleRef:    rbacv1.RoleRef{Kind: "Role", APIGroup: rbacv1.GroupName, Name: role.Name},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("grant rights to %s in %s: %w", user, namespace, err)
	}
	for _, rule := range rules {
		if err := inForce(ctx, client, namespace, user, rule); err != nil {
			return fmt.Errorf("grant rights to %s in %s: %w", user, namespace, err)
		}
	}
	return nil
}

// inForce waits until a user may do what a rule says: the API server reads Roles and
// RoleBindings a moment after they have been written.
func inForce(ctx context.Context, client kubernetes.Interface, namespace, user string, rule rbacv1.PolicyRule) error {
	resource, subresource, _ := strings.Cut(rule.Resources[0], "/")
	for _, verb := range rule.Verbs {
		what := &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: verb, Group: rule.APIGroups[0], Resource: resource, Subresource: subresource}
		if len(rule.ResourceNames) > 0 {
			what.Name = rule.ResourceNames[0]
		}
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: user, ResourceAttributes: what}}
		err := wait.PollUntilContextTimeout(ctx, 10*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
			answer, err := client.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
			return err == nil && answer.Status.Allowed, err
		})
		if err != nil {
			return fmt.Errorf("wait until it may %s %s: %w", verb, rule.Resources[0], err)
		}
	}
	return nil
}

// client returns a clientset of admin.
func (p *Plane) client() (*kubernetes.Clientset, error) {
	config, err := p.admin()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}
