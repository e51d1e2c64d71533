// Package kubelet is a stand-in for the kubelet, the scheduler and kube-proxy on a machine without containers: it is
// none of them. It binds every Pod to the one node that it makes, and runs what the Pod says out of the OCI layouts
// that it is given: the image's program with the Pod's arguments, environment and user, in a root folder of its own
// that holds the image's files and the Pod's volumes.
//
// As the kubelet does it: environment from fields, ConfigMaps and Secrets; volumes of ConfigMaps, Secrets, projected
// tokens (bound to the Pod, from the TokenRequest API), the downward API and empty folders, which follow their sources
// while the Pod runs, by exchanging one symbolic link; startup, liveness and readiness probes; preStop; the grace
// period, then SIGKILL; restarts; conditions and container statuses.
//
// What it does otherwise:
//
//   - Pods have no network of their own. A Pod's address 10.x.y.z is 127.x.y.z here ([Address]); a program that listens
//     on all addresses has to be told by its environment ([Options].Env) to listen on that one alone.
//   - Volumes are looked at once a second, not once a minute. Restarts wait a second, not up to five minutes.
//   - Images that [Options].Idle names run nothing and are ready at once.
//   - No limits of CPU and memory, no read-only root, no capabilities, no seccomp, no NetworkPolicy: nothing enforces them.
//   - One container of a Pod is like another; init containers, exec, hostPath and the rest are refused, with a message in
//     the container's status.
//
// It needs Linux, and root's rights or unprivileged user namespaces.
package kubelet
