#!/bin/sh
# ci/commit.sh PERCENT: the same as ci/shift.sh by way of git, for Argo CD or Flux. Returns when the cluster has it.
set -eu
cd "$(dirname "$0")/.."
file=k8s/orders/virtual-service.yaml
manifest=$(guardian plan -f "$file" --stable v1 --canary v2 --weight "$1")
printf '%s\n' "$manifest" > "$file"
git diff --quiet -- "$file" || git commit --quiet -m "orders-service: v2 gets $1%" -- "$file"
git push --quiet
kubectl wait virtualservice/orders-service -n "${NAMESPACE:-microservices}" --timeout="${SYNC_TIMEOUT:-5m}" \
	--for=jsonpath='{.spec.http[0].route[?(@.destination.subset=="v2")].weight}'="$1"
