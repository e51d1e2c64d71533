package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strconv"
)

// StartOperator starts the real prometheus-operator on the control plane, with the CRDs of its version that the plane
// lacks, and returns when it is ready. There is no kubelet: of what it makes, only the objects themselves can be
// looked at, such as the ConfigMaps with rules. It takes minutes to build where it is missing.
func (p *Plane) StartOperator(ctx context.Context) (*Process, error) {
	program, err := Binary(ctx, "prometheus-operator")
	if err != nil {
		return nil, err
	}
	kubectl, err := Binary(ctx, "kubectl")
	if err != nil {
		return nil, err
	}
	if err := p.CompleteOperatorDefinitions(ctx); err != nil {
		return nil, err
	}
	kubeconfig, err := p.Kubeconfig(Admin, "default")
	if err != nil {
		return nil, err
	}
	// It takes no kubeconfig, so kubectl proxy stands between it and the API server.
	var api string
	if _, _, err := onFreePort(ctx, func(ctx context.Context, port int) (*Process, error) {
		api = "http://" + address(port)
		return p.Run(ctx, Program{
			Name: "kubectl-proxy", Path: kubectl, Args: []string{"--kubeconfig=" + kubeconfig, "proxy", "--port=" + strconv.Itoa(port)},
			Ready: answers(http.DefaultClient, api+"/readyz", ""),
		})
	}); err != nil {
		return nil, err
	}
	operator, _, err := onFreePort(ctx, func(ctx context.Context, port int) (*Process, error) {
		return p.Run(ctx, Program{
			Name: "prometheus-operator", Path: program,
			Args:  []string{"-apiserver=" + api, "-web.listen-address=" + address(port), "-kubelet-endpoints=false"},
			Ready: answers(http.DefaultClient, "http://"+address(port)+"/healthz", ""),
		})
	})
	return operator, err
}

// CompleteOperatorDefinitions applies the operator's CRDs that the plane was started without, such as that of Prometheus
// itself.
func (p *Plane) CompleteOperatorDefinitions(ctx context.Context) error {
	dir, err := toolModule(ctx, "prometheus-operator")
	if err != nil {
		return fmt.Errorf("find prometheus-operator's CRDs: %w", err)
	}
	dir = filepath.Join(dir, "example", "prometheus-operator-crd")
	files, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read prometheus-operator's CRDs: %w", err)
	}
	for _, file := range files {
		if _, err := operatorDefinitions.Open(path.Join("crds", file.Name())); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if out, err := p.Kubectl(ctx, Admin, "default", "apply", "--server-side", "-f", filepath.Join(dir, file.Name())); err != nil {
			return fmt.Errorf("apply %s: %w\n%s", file.Name(), err, out)
		}
	}
	return nil
}
