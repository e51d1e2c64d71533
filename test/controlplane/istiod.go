package controlplane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
)

// istioNamespace is where istiod keeps what it needs itself.
const istioNamespace = "istio-system"

// istioWebhook is the name of its ValidatingWebhookConfiguration.
const istioWebhook = "istio-validator-controlplane"

// Istiod is the real istiod. Its validating webhook judges no object before [Istiod.Judge]. There is no proxy that it
// would configure.
type Istiod struct {
	*Process
	plane      *Plane
	path       string
	kubeconfig string
	port       int // of the webhook
}

// StartIstiod starts istiod on the control plane and returns when it is ready. It takes minutes to build where it is
// missing.
func (p *Plane) StartIstiod(ctx context.Context) (*Istiod, error) {
	path, err := Binary(ctx, "pilot-discovery")
	if err != nil {
		return nil, err
	}
	if err := p.CreateNamespace(ctx, istioNamespace); err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, err
	}
	kubeconfig, err := p.Kubeconfig(Admin, istioNamespace)
	if err != nil {
		return nil, err
	}
	process, port, err := onFreePort(ctx, func(ctx context.Context, port int) (*Process, error) {
		return p.runIstiod(ctx, path, kubeconfig, port)
	})
	if err != nil {
		return nil, err
	}
	return &Istiod{Process: process, plane: p, path: path, kubeconfig: kubeconfig, port: port}, nil
}

// Restart starts istiod again where it was, after it has been killed.
func (i *Istiod) Restart(ctx context.Context) (err error) {
	i.Process, err = i.plane.runIstiod(ctx, i.path, i.kubeconfig, i.port)
	return err
}

func (p *Plane) runIstiod(ctx context.Context, path, kubeconfig string, port int) (*Process, error) {
	plain, err := FreePort()
	if err != nil {
		return nil, err
	}
	monitoring, err := FreePort()
	if err != nil {
		return nil, err
	}
	// istiod does not watch one file in two roles.
	authority := filepath.Join(p.family.folder, "istiod-ca.crt")
	if err := os.WriteFile(authority, p.keys.certificate, 0o600); err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(p.keys.certificate)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	ready, served := answers(http.DefaultClient, "http://"+address(plain)+"/ready", ""), answers(&http.Client{Transport: transport}, "https://"+address(port)+"/ready", "")
	return p.Run(ctx, Program{
		Name: "istiod", Path: path,
		Args: []string{
			"discovery", "--kubeconfig=" + kubeconfig, "--namespace=" + istioNamespace, "--shutdownDuration=1s",
			"--meshConfig=" + filepath.Join(p.family.folder, "no-mesh-config"), "--networksConfig=" + filepath.Join(p.family.folder, "no-networks"),
			"--httpAddr=" + address(plain), "--httpsAddr=" + address(port), "--monitoringAddr=" + address(monitoring), "--grpcAddr=", "--secureGRPCAddr=",
			"--ctrlz_port=0", "--caCertFile=" + authority, "--tlsCertFile=" + p.keys.certificateFile, "--tlsKeyFile=" + p.keys.keyFile,
		},
		// The webhook is registered by Judge, and nothing gets a sidecar or a certificate here.
		Env: []string{"POD_NAME=istiod", "POD_NAMESPACE=" + istioNamespace, "ENABLE_CA_SERVER=false", "VALIDATION_WEBHOOK_CONFIG_NAME=", "INJECTION_WEBHOOK_CONFIG_NAME="},
		Ready: func(ctx context.Context) error {
			return errors.Join(ready(ctx), served(ctx))
		},
	})
}

// Judge registers istiod's webhook as Istio's chart does, failing closed, and returns when it is in force: from then on
// every VirtualService and DestinationRule that is created or changed is judged.
func (i *Istiod) Judge(ctx context.Context) error {
	client, err := i.plane.client()
	if err != nil {
		return err
	}
	url, fail, none := fmt.Sprintf("https://%s/validate", address(i.port)), admissionv1.Fail, admissionv1.SideEffectClassNone
	_, err = client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(ctx, &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: istioWebhook},
		Webhooks: []admissionv1.ValidatingWebhook{{
			Name: "rev.validation.istio.io", ClientConfig: admissionv1.WebhookClientConfig{URL: &url, CABundle: i.plane.keys.certificate},
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
				Rule: admissionv1.Rule{
					APIGroups:   []string{"security.istio.io", "networking.istio.io", "telemetry.istio.io", "extensions.istio.io"},
					APIVersions: []string{"*"}, Resources: []string{"*"},
				},
			}},
			FailurePolicy: &fail, SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("register istiod's webhook: %w", err)
	}
	return i.await(ctx, true)
}

// Acquit takes the webhook away again, and returns when nothing is judged any more.
func (i *Istiod) Acquit(ctx context.Context) error {
	client, err := i.plane.client()
	if err != nil {
		return err
	}
	err = client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Delete(ctx, istioWebhook, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove istiod's webhook: %w", err)
	}
	return i.await(ctx, false)
}

// await returns when the API server asks istiod, or does not any more. What it asks about is a VirtualService that the
// CustomResourceDefinition allows and Istio does not.
func (i *Istiod) await(ctx context.Context, judged bool) error {
	config, err := i.plane.admin()
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	invalid := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": VirtualServices.GroupVersion().String(), "kind": "VirtualService",
		"metadata": map[string]any{"name": "probe", "namespace": corev1.NamespaceDefault},
		"spec":     map[string]any{"hosts": []any{"probe"}, "http": []any{map[string]any{"name": "leads nowhere"}}},
	}}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return poll(ctx, func(ctx context.Context) error {
		_, err := client.Resource(VirtualServices).Namespace(corev1.NamespaceDefault).Create(ctx, invalid, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		refused := err != nil && strings.Contains(err.Error(), "admission webhook")
		switch {
		case err != nil && !refused:
			return err
		case refused != judged:
			return fmt.Errorf("istiod's webhook: a VirtualService that is not valid was refused: %v, want %v", refused, judged)
		}
		return nil
	})
}
