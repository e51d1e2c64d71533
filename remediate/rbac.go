package remediate

import rbacv1 "k8s.io/api/rbac/v1"

// RBAC is the least Role, in the guards' namespace, that a Controller needs;
// list with watch only where the API server does not stream lists. With less,
// what is missing is logged, the Controller is not ready (Missing), and an alert
// whose record may not be written is not accepted.
func RBAC() []rbacv1.PolicyRule {
	rule := func(group, resource string, verbs ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: verbs}
	}
	return []rbacv1.PolicyRule{
		rule("", "configmaps", "get", "list", "watch", "create", "patch"), // the guards' records
		rule("", "events", "create", "patch"),
		rule("", "pods", "list", "watch"),
		rule("", "services", "get", "list", "watch"),
		rule("apps", "controllerrevisions", "get", "list", "watch"),
		rule("apps", "deployments", "get", "list", "watch"),
		rule("apps", "replicasets", "get", "list", "watch"),
		rule("coordination.k8s.io", "leases", "get", "list", "create", "update", "delete"),
		rule("discovery.k8s.io", "endpointslices", "list", "watch"),
		rule("networking.istio.io", "destinationrules", "get", "list", "watch"),
		rule("networking.istio.io", "virtualservices", "get", "list", "watch", "patch"),
	}
}
