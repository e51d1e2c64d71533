package main

import (
	"context"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/canary-guardian/guardian/remediate"
)

// labelAdmission is the Namespace's label by which the policies are switched.
const labelAdmission = "canary-guardian.io/admission"

// checkPolicies says what the API server does about a canary that is locked. To
// go without the policies is a choice, and nothing wrong; to have them and to find
// them without effect is.
func (c *cluster) checkPolicies(ctx context.Context, p *preflight) {
	how, err := remediate.ProbeEnforcement(ctx, c.dynamic, c.namespace)
	switch {
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "cannot create resource"): // and no policy of others
		p.note("policies", "", "run guardian check as somebody who may create virtualservices in namespace "+c.namespace,
			"admission policies: not tried: your user may not make a VirtualService with a lock, not even as a dry run")
	case err != nil:
		p.unknown("policies", "", "", "admission policies: a VirtualService with a lock could not be tried, as a dry run: %v", err)
	case how == remediate.EnforcedHold:
		p.ok("policies", "", "admission policies: in force; a locked canary is refused to others, and dry runs and GitOps tools are held")
	case how == remediate.EnforcedRefuse:
		p.ok("policies", "", "admission policies: in force without %s; a locked canary is refused to others, dry runs and GitOps tools included", remediate.PolicyHold)
	default:
		c.checkPolicyObjects(ctx, p)
	}
}

// checkPolicyObjects says why no policy is in force.
func (c *cluster) checkPolicyObjects(ctx context.Context, p *preflight) {
	const without = "guardian reverts what others give a locked canary"
	if ns, err := c.kube.CoreV1().Namespaces().Get(ctx, c.namespace, metav1.GetOptions{}); err == nil && ns.Labels[labelAdmission] == "off" {
		p.note("policies", "Namespace "+c.namespace, "kubectl label namespace "+c.namespace+" "+labelAdmission+"-", "label %s=off switches the admission policies off; %s", labelAdmission, without)
		return
	}
	policies := c.kube.AdmissionregistrationV1()
	_, err := policies.ValidatingAdmissionPolicies().Get(ctx, remediate.PolicyLock, metav1.GetOptions{})
	object := "ValidatingAdmissionPolicy " + remediate.PolicyLock
	if err != nil { // none, or not the user's to see
		p.ok("policies", "", "admission policies: none in namespace %s; %s (%s admission prints them)", c.namespace, without, p.app.name)
		return
	}
	apply := p.app.name + " admission | kubectl apply --server-side -f -"
	_, err = policies.ValidatingAdmissionPolicyBindings().Get(ctx, remediate.PolicyLock, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		p.fail("policies", object, apply, "has no binding: a locked canary is refused to nobody; %s", without)
		return
	}
	p.fail("policies", object, apply+", and kubectl get "+"validatingadmissionpolicy "+remediate.PolicyLock+" -o yaml for its status.typeChecking",
		"is there and not in force: a VirtualService that is made with a forged lock is taken, by a dry run; %s", without)
}
