#!/bin/sh
# ci/make-stable.sh: the last release becomes the stable one. Run before v2 gets a new build.
#
# A release ends with all traffic on v2. A new build there would go out to everybody at once, so v1 gets v2's present
# build first, and then the traffic: the same build on both sides.
set -eu
cd "$(dirname "$0")/.."
in="-n ${NAMESPACE:-microservices}"
share=$(kubectl get virtualservice orders-service $in \
	-o jsonpath='{.spec.http[0].route[?(@.destination.subset=="v2")].weight}')
case "${share:-0}" in
0) exit 0 ;;
100) ;;
*)
	echo "v2 has $share% of the traffic: a release is under way, or was left there. End it by ci/shift.sh 0 or 100." >&2
	exit 1
	;;
esac
# Of a release whose rollback window is over requests are not counted any more.
guardian gate orders-service $in --for "${GATE_FOR:-60s}" --min-requests 0
image=$(kubectl get deployment orders-v2 $in -o jsonpath='{.spec.template.spec.containers[?(@.name=="orders")].image}')
kubectl set image deployment/orders-v1 $in orders="$image"
kubectl rollout status deployment/orders-v1 $in --timeout=10m
ci/shift.sh 0
