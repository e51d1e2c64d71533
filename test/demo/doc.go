// Command demo shows guardian at work: `make demo`.
//
// Everything is real and runs on this machine alone, etcd, kube-apiserver, Prometheus, Alertmanager, kubectl and guardian
// itself, but for two stand-ins: the mesh (test/mesh), because no Envoy runs here, and the controllers of Deployments
// and Services, whose results are written by test/controlplane.
//
// The default act: a pipeline applies the article's five manifests step by step; at 30% the new version starts to fail;
// guardian rolls it back and holds it there against the pipeline until a new build is out. ACT=promotion and ACT=signals
// show more and take longer. HOLD=1 keeps it all up at the end. RUNS=n repeats fault and rollback n times and prints where
// the time goes; FAST=1s adds the fast lane.
//
// The last line is 'demo passed', or says what did not happen; the exit status agrees.
package main
