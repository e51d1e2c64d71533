#!/bin/sh
# ci/commit.sh PERCENT [IMAGE]: the same as ci/shift.sh by way of git, for Argo CD or Flux; with IMAGE, as ci/deploy.sh too,
# in one commit. Returns when the cluster has the weights.
set -eu
cd "$(dirname "$0")/.."
route=k8s/orders/virtual-service.yaml canary=k8s/orders/deployment-v2.yaml
manifest=$(guardian plan -f "$route" --stable v1 --canary v2 --weight "$1")
printf '%s\n' "$manifest" > "$route"
message="orders-service: v2 gets $1%"
if [ $# -gt 1 ]; then
	manifest=$(kubectl set image --local -f "$canary" orders="$2" -o yaml)
	# Where the file names that very image, kubectl prints nothing.
	[ -z "$manifest" ] || printf '%s\n' "$manifest" > "$canary"
	message="$message, and is $2"
fi
git diff --quiet -- "$route" "$canary" || git commit --quiet -m "$message" -- "$route" "$canary"
git push --quiet
kubectl wait virtualservice/orders-service -n "${NAMESPACE:-microservices}" --timeout="${SYNC_TIMEOUT:-5m}" \
	--for=jsonpath='{.spec.http[0].route[?(@.destination.subset=="v2")].weight}'="$1"
