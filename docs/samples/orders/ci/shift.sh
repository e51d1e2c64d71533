#!/bin/sh
# ci/shift.sh PERCENT: v2 gets that share of the traffic, v1 the rest.
#
# guardian plan prints the one VirtualService with other weights: no second file, no cluster needed.
set -eu
cd "$(dirname "$0")/.."
manifest=$(guardian plan -f k8s/orders/virtual-service.yaml --stable v1 --canary v2 --weight "$1")
printf '%s\n' "$manifest" | kubectl apply -f -
