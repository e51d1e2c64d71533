package controlplane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// startEtcd starts etcd, which forgets the disk's caches: the data live no longer than the test.
func (p *Plane) startEtcd(ctx context.Context, path string) error {
	process, port, err := onFreePort(ctx, func(ctx context.Context, port int) (*Process, error) {
		peer, err := FreePort()
		if err != nil {
			return nil, err
		}
		client, peers := "http://"+address(port), "http://"+address(peer)
		return p.family.start(ctx, Program{
			Name: "etcd", Path: path, Ready: answers(http.DefaultClient, client+"/readyz", ""),
			Args: []string{
				"--data-dir=" + filepath.Join(p.family.folder, "etcd"), "--unsafe-no-fsync", "--log-level=warn",
				"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
				"--listen-peer-urls=" + peers, "--initial-advertise-peer-urls=" + peers, "--initial-cluster=default=" + peers,
			},
		})
	})
	if err != nil {
		return err
	}
	p.etcd, p.etcdURL = process, "http://"+address(port)
	return nil
}

// firstAPIServer chooses the API server's port and starts it there.
func (p *Plane) firstAPIServer(ctx context.Context, path string) error {
	process, port, err := onFreePort(ctx, func(ctx context.Context, port int) (*Process, error) {
		return p.runAPIServer(ctx, path, port)
	})
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.apiServer, p.apiPort = process, port
	return nil
}

// runAPIServer starts kube-apiserver with RBAC on a port and waits until it says that it is ready.
func (p *Plane) runAPIServer(ctx context.Context, path string, port int) (*Process, error) {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(p.keys.certificate)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	var without []string
	if !p.options.Controllers {
		without = []string{"--disable-admission-plugins=ServiceAccount"} // no controller creates the accounts that it asks for
	}
	return p.family.start(ctx, Program{
		Name: "kube-apiserver", Path: path,
		Ready: answers(&http.Client{Transport: transport}, "https://"+address(port)+"/readyz", p.users[0].token),
		Args: append([]string{
			"--etcd-servers=" + p.etcdURL,
			"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port=" + strconv.Itoa(port),
			"--endpoint-reconciler-type=none",
			"--cert-dir=" + filepath.Join(p.family.folder, "certs"),
			"--tls-cert-file=" + p.keys.certificateFile, "--tls-private-key-file=" + p.keys.keyFile,
			"--service-account-key-file=" + p.keys.accountKeyFile,
			"--service-account-signing-key-file=" + p.keys.accountKeyFile,
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-cluster-ip-range=10.96.0.0/16",
			"--authorization-mode=RBAC", "--token-auth-file=" + p.tokenFile(),
		}, without...),
	})
}

// startControllers starts kube-controller-manager, without what needs real nodes.
func (p *Plane) startControllers(ctx context.Context) error {
	path, err := Binary(ctx, "kube-controller-manager")
	if err != nil {
		return err
	}
	kubeconfig, err := p.Kubeconfig(Admin, "default")
	if err != nil {
		return err
	}
	_, _, err = onFreePort(ctx, func(ctx context.Context, port int) (*Process, error) {
		// Its health needs no token, and its certificate is one that it makes up.
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		defer client.CloseIdleConnections()
		return p.family.start(ctx, Program{
			Name: "kube-controller-manager", Path: path, Ready: answers(client, "https://"+address(port)+"/healthz", ""),
			Args: []string{
				"--kubeconfig=" + kubeconfig, "--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=" + strconv.Itoa(port),
				"--cert-dir=" + filepath.Join(p.family.folder, "controller-certs"),
				"--root-ca-file=" + p.keys.certificateFile, "--service-account-private-key-file=" + p.keys.accountKeyFile,
				"--controllers=*,-node-ipam-controller,-node-lifecycle-controller",
				"--kube-api-qps=1000", "--kube-api-burst=1000",
			},
		})
	})
	return err
}

// StopAPIServer kills kube-apiserver, as an outage would; etcd keeps its data. See [Plane.StartAPIServer].
func (p *Plane) StopAPIServer() {
	p.mu.Lock()
	process := p.apiServer
	p.apiServer = nil
	p.mu.Unlock()
	if process != nil {
		process.Kill()
	}
}

// StartAPIServer starts kube-apiserver again on its old port and returns when it is ready. It does nothing while
// kube-apiserver runs.
func (p *Plane) StartAPIServer(ctx context.Context) error {
	if p.keys == nil {
		return errNoKubernetes
	}
	p.mu.Lock()
	running, port := p.apiServer != nil, p.apiPort
	p.mu.Unlock()
	if running {
		return nil
	}
	path, err := Binary(ctx, "kube-apiserver")
	if err != nil {
		return err
	}
	process, err := p.runAPIServer(ctx, path, port)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.apiServer = process
	return nil
}

// answers returns a readiness check: the address answers 200.
func answers(client *http.Client, url, token string) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return permanent{err}
		}
		if token != "" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(io.LimitReader(response.Body, 4096))
		if response.StatusCode == http.StatusOK {
			return err
		}
		return errors.Join(err, fmt.Errorf("%s answered %s: %s", url, response.Status, strings.TrimSpace(string(body))))
	}
}

// Kubectl runs the real kubectl as a user and returns what it printed on both streams; err is that of the command.
func (p *Plane) Kubectl(ctx context.Context, user, namespace string, args ...string) (string, error) {
	kubectl, err := Binary(ctx, "kubectl")
	if err != nil {
		return "", err
	}
	config, err := p.Kubeconfig(user, namespace)
	if err != nil {
		return "", err
	}
	defer func() { _ = os.Remove(config) }()
	return output(ctx, kubectl, append([]string{"--kubeconfig=" + config, "--cache-dir=" + filepath.Join(p.family.folder, "kubectl")}, args...)...)
}
