// Command cluster runs a control plane to play with: etcd and kube-apiserver with Istio's and prometheus-operator's
// CRDs, Prometheus and Alertmanager, all on 127.0.0.1. It prints where they are and stays up until ctrl-C.
//
// No controller runs, but a stand-in gives Deployments ready Pods and Services their EndpointSlices every second.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/canary-guardian/guardian/test/controlplane"
)

const namespace = "microservices"

const alertmanagerConfig = `route: {receiver: nobody}
receivers: [{name: nobody}]
`

func main() {
	build := flag.Bool("build", false, "build every program that tests need, or those that are named, and exit")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := serve
	if *build {
		run = buildAll
	}
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		stop()
		os.Exit(1)
	}
}

// buildAll builds what is missing, so that tests do not spend their time on it. istiod, which few need, is built when
// it is named.
func buildAll(ctx context.Context) error {
	names := flag.Args()
	if len(names) == 0 {
		names = []string{"etcd", "kube-apiserver", "kubectl", "promtool", "prometheus", "alertmanager", "amtool", "helm"}
	}
	for _, name := range names {
		if _, err := controlplane.Binary(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// serve starts everything and waits for the signal.
func serve(ctx context.Context) error {
	begin := time.Now()
	plane, err := controlplane.Start(ctx, controlplane.Options{})
	if err != nil {
		return err
	}
	defer plane.Stop()
	if err := plane.CreateNamespace(ctx, namespace); err != nil {
		return err
	}
	if _, err := plane.NewApp(ctx, namespace, "orders-service"); err != nil {
		return err
	}
	alertmanager, err := plane.StartAlertmanager(ctx, controlplane.AlertmanagerOptions{Config: alertmanagerConfig})
	if err != nil {
		return err
	}
	prometheus, err := plane.StartPrometheus(ctx, controlplane.PrometheusOptions{
		Alertmanagers: []controlplane.Receiver{{URL: alertmanager.URL}},
	})
	if err != nil {
		return err
	}
	kubeconfig, err := plane.Kubeconfig(controlplane.Admin, namespace)
	if err != nil {
		return err
	}
	kubectl, err := controlplane.Binary(ctx, "kubectl")
	if err != nil {
		return err
	}
	fmt.Printf(`up after %.1f s; orders-service is in namespace %s

export KUBECONFIG=%s
kubectl       %s
kube-apiserver %s
prometheus    %s  (%s)
alertmanager  %s  (%s)
logs          %s/*.log

Deployments get Pods from a stand-in: no kubelet, no mesh. ctrl-C stops everything and removes it.
`, time.Since(begin).Seconds(), namespace, kubeconfig, kubectl, plane.APIServerURL(),
		prometheus.URL, prometheus.ConfigFile, alertmanager.URL, alertmanager.ConfigFile, plane.Dir())
	settleEverySecond(ctx, plane)
	fmt.Println("stopping")
	return nil
}

// settleEverySecond stands in for the controllers of workloads until the context ends.
func settleEverySecond(ctx context.Context, plane *controlplane.Plane) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		text := ""
		if err := plane.Settle(ctx, namespace); err != nil && ctx.Err() == nil {
			text = err.Error()
		}
		if text != "" && text != last {
			fmt.Fprintln(os.Stderr, "cluster:", text)
		}
		last = text
	}
}
