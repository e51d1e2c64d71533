#!/bin/sh
# ci/deploy.sh IMAGE: v2 gets a new build. It must have no traffic: ci/make-stable.sh sees to that.
set -eu
cd "$(dirname "$0")/.."
file=k8s/orders/deployment-v2.yaml
manifest=$(kubectl set image --local -f "$file" orders="$1" -o yaml)
# Where the file names that very image, kubectl prints nothing.
printf '%s\n' "${manifest:-$(cat "$file")}" | kubectl apply -f -
