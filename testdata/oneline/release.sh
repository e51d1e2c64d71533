#!/bin/sh
# A release by sleep and a query of its own. The line with guardian gate is all that it has of guardian.
set -eu
cd "$(dirname "$0")"
sed -i "s|image: .*|image: $IMAGE|" deployment.yaml
kubectl apply -n "$NAMESPACE" -f deployment.yaml

kubectl apply -n "$NAMESPACE" -f vs-90-10.yaml
sleep "${SOAK:-60}"
failed=$(curl -s -G "$PROMETHEUS/api/v1/query" --data-urlencode 'query=sum(rate(istio_requests_total{response_code=~"5.."}[1m]))')
case $failed in *'"value"'*) echo "the canary fails"; exit 1 ;; esac
guardian gate orders-service -n "$NAMESPACE" --for 60s

kubectl apply -n "$NAMESPACE" -f vs-50-50.yaml
kubectl apply -n "$NAMESPACE" -f vs-0-100.yaml
