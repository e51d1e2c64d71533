// Package controlplane starts the real parts that guardian talks to, without containers: etcd, kube-apiserver with
// RBAC, Prometheus and Alertmanager, each built once from its Go module and kept in the user's cache folder.
//
// A test package shares one control plane:
//
//	func TestMain(m *testing.M) { controlplane.Main(m) }
//
//	func TestSomething(t *testing.T) {
//		plane := controlplane.Shared(t)
//		namespace := plane.Namespace(t)
//		client, err := kubernetes.NewForConfig(plane.RESTConfig("admin"))
//		…
//	}
//
// What is real: storage, admission, RBAC, watches, server-side apply, CRDs of Istio and of prometheus-operator. What
// is not: no controller runs, so Deployments get no Pods and owners no garbage collection. [Plane.Settle] does once
// what the controllers of workloads would have done. With [Options].Controllers the real kube-controller-manager runs,
// and the package kubelet stands in for the kubelet. No Envoy, no istiod.
//
// Nothing outlives the process that called [Start]: children die with it (SIGKILL included), and a small shell that
// waits for the end of a pipe kills what is left and removes the folder.
package controlplane
