#!/bin/sh
# ci/release.sh IMAGE: a whole release, for any CI that runs a shell: GitLab CI, Tekton, a terminal.
set -eu
cd "$(dirname "$0")/.."
in="-n ${NAMESPACE:-microservices}"

ci/make-stable.sh
ci/deploy.sh "$1"
# After a rollback the API server refuses traffic for v2 until the pods of a new build are the ready ones.
kubectl rollout status deployment/orders-v2 $in --timeout=10m
guardian gate orders-service $in --wait-unlocked --timeout 10m

trap 'code=$?; [ $code -eq 0 ] || ci/shift.sh 0 || echo "v2 keeps its traffic: run ci/shift.sh 0" >&2; exit $code' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM # the job was aborted
for share in 10 30 50 100; do
	ci/shift.sh $share
	guardian gate orders-service $in --for "${GATE_FOR:-60s}"
done
