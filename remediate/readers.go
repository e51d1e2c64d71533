package remediate

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// reader is what a guard is gathered from: the informers' caches, or the API
// server itself. An object that does not exist is nil without an error.
// What it returns must not be edited.
type reader interface {
	record(ctx context.Context, guard string) (*corev1.ConfigMap, error)
	virtualService(ctx context.Context, name string) (*unstructured.Unstructured, error)
	// destinationRule is a rule as Istio has it: merged with the others of its host.
	destinationRule(ctx context.Context, name string) (*slimRule, error)
	service(ctx context.Context, name string) (*slimService, error)
	deployments(ctx context.Context, want workloadSelector) ([]*slimDeployment, error)
	pods(ctx context.Context, want workloadSelector) ([]*slimPod, error)
	// revisions are what the pods were made from, as far as it is there, and of
	// owners that are no Deployments at least the newest besides.
	revisions(ctx context.Context, want workloadSelector, pods []*slimPod) ([]*slimRevision, error)
	slices(ctx context.Context, service string) ([]*slimSlice, error)
	locked(ctx context.Context) ([]*corev1.ConfigMap, error) // records of all guards that are
	// denying are those of them that deny a destination, as Spellings writes it
	// in full.
	denying(ctx context.Context, destination string) ([]*corev1.ConfigMap, error)
}

// freshReader reads from the API server what a rollback writes, and the rest
// from the caches: what was read is not old yet when it is written.
type freshReader struct {
	reader
	live       reader
	recordOnly bool
}

func (f freshReader) record(ctx context.Context, guard string) (*corev1.ConfigMap, error) {
	return f.live.record(ctx, guard)
}

func (f freshReader) virtualService(ctx context.Context, name string) (*unstructured.Unstructured, error) {
	if f.recordOnly {
		return f.reader.virtualService(ctx, name)
	}
	return f.live.virtualService(ctx, name)
}

// fillingReader reads from the caches, and from the API server what one of them
// does not hold yet: what a cache lacks must not be taken for absent.
type fillingReader struct {
	*cacheReader
	lacks func(resource string) bool
	live  reader
}

// from is where objects of these resources are read.
func (f fillingReader) from(resources ...string) reader {
	if slices.ContainsFunc(resources, f.lacks) {
		return f.live
	}
	return f.cacheReader
}

func (f fillingReader) record(ctx context.Context, guard string) (*corev1.ConfigMap, error) {
	return f.from(resourceRecords).record(ctx, guard)
}

func (f fillingReader) virtualService(ctx context.Context, name string) (*unstructured.Unstructured, error) {
	return f.from(resourceVirtualServices).virtualService(ctx, name)
}

func (f fillingReader) destinationRule(ctx context.Context, name string) (*slimRule, error) {
	return f.from(resourceDestinationRules).destinationRule(ctx, name)
}

func (f fillingReader) service(ctx context.Context, name string) (*slimService, error) {
	return f.from(resourceServices).service(ctx, name)
}

func (f fillingReader) deployments(ctx context.Context, want workloadSelector) ([]*slimDeployment, error) {
	return f.from(resourceDeployments).deployments(ctx, want)
}

func (f fillingReader) pods(ctx context.Context, want workloadSelector) ([]*slimPod, error) {
	return f.from(resourcePods).pods(ctx, want)
}

func (f fillingReader) revisions(ctx context.Context, want workloadSelector, pods []*slimPod) ([]*slimRevision, error) {
	return f.from(resourceReplicaSets, resourceRevisions).revisions(ctx, want, pods)
}

func (f fillingReader) slices(ctx context.Context, service string) ([]*slimSlice, error) {
	return f.from(resourceSlices).slices(ctx, service)
}

func (f fillingReader) denying(ctx context.Context, destination string) ([]*corev1.ConfigMap, error) {
	return f.from(resourceRecords).denying(ctx, destination)
}

func (f fillingReader) locked(ctx context.Context) ([]*corev1.ConfigMap, error) {
	return f.from(resourceRecords).locked(ctx)
}
