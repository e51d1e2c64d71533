package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
)

// Resources of Argo CD, for dynamic clients.
var (
	Applications = schema.GroupVersionResource{Group: "argoproj.io", Version: "v1alpha1", Resource: "applications"}
	AppProjects  = schema.GroupVersionResource{Group: "argoproj.io", Version: "v1alpha1", Resource: "appprojects"}
)

// ArgoNamespace is where Argo CD and its Applications are.
const ArgoNamespace = "argocd"

// argoAccount is Argo CD's ServiceAccount, a cluster administrator as in Argo CD's own installation.
const argoAccount = "argocd-application-controller"

// ArgoCD is the real Argo CD without its user interface and API: application controller and repository server, with
// redis and a git daemon, all on 127.0.0.1.
type ArgoCD struct {
	// GitURL is where the repositories of [ArgoCDOptions].Repositories are read from, without a slash at the end.
	GitURL string

	plane        *Plane
	repositories *Process
	controller   *Process
}

// ArgoCDOptions say how Argo CD is set up.
type ArgoCDOptions struct {
	// Repositories is a folder of bare git repositories.
	Repositories string
	// Settings are keys of the ConfigMap argocd-cm, such as a health check.
	Settings map[string]string
}

// StartArgoCD starts Argo CD on the control plane, with the plane as the one cluster that it knows, and an AppProject
// default. It needs redis-server and git on PATH, and takes minutes to build where it is missing.
func (p *Plane) StartArgoCD(ctx context.Context, options ArgoCDOptions) (*ArgoCD, error) {
	for name, why := range map[string]string{"redis-server": "Argo CD keeps its cache there", "git": "Argo CD reads repositories by it"} {
		if _, err := exec.LookPath(name); err != nil {
			return nil, fmt.Errorf("start Argo CD: %s is not on PATH, and %s: install it (Debian: apt-get install %s)", name, why, name)
		}
	}
	program, err := Binary(ctx, "argocd")
	if err != nil {
		return nil, err
	}
	helm, err := Binary(ctx, "helm")
	if err != nil {
		return nil, err
	}
	bin := filepath.Join(p.Dir(), "argocd", "bin")
	if err := argoPrograms(ctx, bin, program, helm); err != nil {
		return nil, fmt.Errorf("start Argo CD: %w", err)
	}
	a := &ArgoCD{plane: p}
	kubeconfig, err := a.install(ctx, options.Settings)
	if err != nil {
		return nil, fmt.Errorf("install Argo CD: %w", err)
	}
	if a.GitURL, err = p.serveGit(ctx, options.Repositories); err != nil {
		return nil, err
	}
	redis, err := p.startRedis(ctx)
	if err != nil {
		return nil, err
	}
	if err := a.start(ctx, bin, redis, kubeconfig); err != nil {
		return nil, err
	}
	return a, nil
}

// argoPrograms makes a folder for PATH in which argocd has the names of its parts, with helm and what its module has
// as a script.
func argoPrograms(ctx context.Context, bin, program, helm string) error {
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	for name, of := range map[string]string{
		"argocd": program, "argocd-application-controller": program, "argocd-repo-server": program, "argocd-git-ask-pass": program, "helm": helm,
	} {
		if err := os.Symlink(of, filepath.Join(bin, name)); err != nil {
			return err
		}
	}
	module, err := toolModule(ctx, "argocd")
	if err != nil {
		return err
	}
	script, err := os.ReadFile(filepath.Join(module, "hack", "git-verify-wrapper.sh"))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(bin, "git-verify-wrapper.sh"), script, 0o755)
}

// install makes what Argo CD's own manifests would: CRDs, namespace, account and settings. It returns the account's
// kubeconfig.
func (a *ArgoCD) install(ctx context.Context, settings map[string]string) (kubeconfig string, err error) {
	module, err := toolModule(ctx, "argocd")
	if err != nil {
		return "", err
	}
	if err := a.plane.installFiles(ctx, filepath.Join(module, "manifests", "crds", "*-crd.yaml")); err != nil {
		return "", err
	}
	if err := a.plane.CreateNamespace(ctx, ArgoNamespace); err != nil {
		return "", err
	}
	account, err := a.plane.ServiceAccount(ctx, ArgoNamespace, argoAccount)
	if err != nil {
		return "", err
	}
	client, err := a.plane.client()
	if err != nil {
		return "", err
	}
	_, err = client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: argoAccount},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: ArgoNamespace, Name: argoAccount}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	if err := a.settings(ctx, client, account.BearerToken, settings); err != nil {
		return "", err
	}
	if err := a.defaultProject(ctx); err != nil {
		return "", err
	}
	return a.plane.WriteKubeconfig(account, argoAccount, ArgoNamespace)
}

// settings are the ConfigMaps and Secrets that Argo CD reads, the cluster among them: by any other address than that
// inside of a cluster.
func (a *ArgoCD) settings(ctx context.Context, client *kubernetes.Clientset, token string, data map[string]string) error {
	meta := func(name string, labels map[string]string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Namespace: ArgoNamespace, Labels: labels}
	}
	part := map[string]string{"app.kubernetes.io/part-of": "argocd"}
	for name, data := range map[string]map[string]string{"argocd-cm": data, "argocd-rbac-cm": nil} {
		_, err := client.CoreV1().ConfigMaps(ArgoNamespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: meta(name, part), Data: data}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
	}
	cluster, err := json.Marshal(map[string]any{"bearerToken": token, "tlsClientConfig": map[string]any{"caData": a.plane.keys.certificate}})
	if err != nil {
		return err
	}
	for _, secret := range []*corev1.Secret{
		{ObjectMeta: meta("argocd-secret", part)},
		{ObjectMeta: meta("cluster", map[string]string{"argocd.argoproj.io/secret-type": "cluster"}), StringData: map[string]string{
			"name": "plane", "server": a.plane.APIServerURL(), "config": string(cluster),
		}},
	} {
		if _, err := client.CoreV1().Secrets(ArgoNamespace).Create(ctx, secret, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// defaultProject is the AppProject that permits everything.
func (a *ArgoCD) defaultProject(ctx context.Context) error {
	config, err := a.plane.admin()
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	_, err = client.Resource(AppProjects).Namespace(ArgoNamespace).Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": AppProjects.GroupVersion().String(), "kind": "AppProject", "metadata": map[string]any{"name": "default"},
		"spec": map[string]any{"sourceRepos": []any{"*"}, "destinations": []any{map[string]any{"namespace": "*", "server": "*"}}},
	}}, metav1.CreateOptions{})
	return err
}

// start starts the two parts of Argo CD.
func (a *ArgoCD) start(ctx context.Context, bin, redis, kubeconfig string) error {
	scratch := filepath.Join(a.plane.Dir(), "argocd")
	env := []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "TMPDIR=" + scratch, "GIT_CONFIG_GLOBAL=/dev/null", "ARGOCD_GPG_ENABLED=false",
		"ARGOCD_ASK_PASS_SOCK=" + filepath.Join(scratch, "ask-pass.sock")}
	for _, name := range []string{"ARGOCD_TLS_DATA_PATH", "ARGOCD_SSH_DATA_PATH", "ARGOCD_GNUPGHOME", "ARGOCD_PLUGINSOCKFILEPATH"} {
		folder := filepath.Join(scratch, name)
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
		env = append(env, name+"="+folder)
	}
	var repositories string
	var err error
	a.repositories, _, err = onFreePort(ctx, func(ctx context.Context, port int) (*Process, error) {
		metrics, err := FreePort()
		if err != nil {
			return nil, err
		}
		repositories = address(port)
		return a.plane.Run(ctx, Program{
			Name: "argocd-repo-server", Path: filepath.Join(bin, "argocd-repo-server"), Env: env, Ready: answers(http.DefaultClient, "http://"+address(metrics)+"/healthz", ""),
			Args: []string{"--address=127.0.0.1", "--port=" + strconv.Itoa(port), "--metrics-address=127.0.0.1", "--metrics-port=" + strconv.Itoa(metrics),
				"--redis=" + redis, "--disable-tls", "--client-ca-path="},
		})
	})
	if err != nil {
		return err
	}
	a.controller, _, err = onFreePort(ctx, func(ctx context.Context, port int) (*Process, error) {
		return a.plane.Run(ctx, Program{
			Name: "argocd-application-controller", Path: filepath.Join(bin, "argocd-application-controller"), Env: env,
			Ready: answers(http.DefaultClient, "http://"+address(port)+"/healthz", ""),
			Args: []string{"--kubeconfig=" + kubeconfig, "--namespace=" + ArgoNamespace, "--metrics-port=" + strconv.Itoa(port), "--redis=" + redis,
				"--repo-server=" + repositories, "--repo-server-plaintext", "--app-resync=10", "--app-resync-jitter=0", "--persist-resource-health"},
		})
	})
	return err
}

// Logs are the last lines of both parts' logs.
func (a *ArgoCD) Logs(lines int) string {
	return "repo-server:\n" + a.repositories.Tail(lines) + "\napplication-controller:\n" + a.controller.Tail(lines)
}

// serveGit serves a folder of bare repositories to read, and returns its URL.
func (p *Plane) serveGit(ctx context.Context, folder string) (string, error) {
	git, err := exec.LookPath("git")
	if err != nil {
		return "", fmt.Errorf("serve git repositories: %w", err)
	}
	_, port, err := onFreePort(ctx, func(ctx context.Context, port int) (*Process, error) {
		return p.Run(ctx, Program{
			Name: "git-daemon", Path: git, Ready: listens(address(port)),
			Args: []string{"daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1", "--port=" + strconv.Itoa(port), "--base-path=" + folder, folder},
		})
	})
	return "git://" + address(port), err
}

// startRedis starts a redis that forgets everything with its process, and returns its address.
func (p *Plane) startRedis(ctx context.Context) (string, error) {
	redis, err := exec.LookPath("redis-server")
	if err != nil {
		return "", fmt.Errorf("start redis: %w", err)
	}
	_, port, err := onFreePort(ctx, func(ctx context.Context, port int) (*Process, error) {
		return p.Run(ctx, Program{
			Name: "redis", Path: redis, Ready: listens(address(port)),
			Args: []string{"--bind", "127.0.0.1", "--port", strconv.Itoa(port), "--save", "", "--appendonly", "no", "--dir", p.Dir()},
		})
	})
	return address(port), err
}

// listens says whether somebody takes connections at an address.
func listens(address string) func(context.Context) error {
	return func(ctx context.Context) error {
		connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return connection.Close()
	}
}
