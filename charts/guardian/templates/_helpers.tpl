{{- define "guardian.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "guardian.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "guardian.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "guardian.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "guardian.selectorLabels" -}}
app.kubernetes.io/name: {{ include "guardian.name" . | toYaml }}
app.kubernetes.io/instance: {{ toYaml .Release.Name }}
app.kubernetes.io/component: guardian
{{- end -}}

{{/* Metadata that every object has. Takes a list: root, name, further labels (may be nil), further annotations (may be nil), namespace (optional). */}}
{{- define "guardian.metadata" -}}
{{- $ := index . 0 -}}
{{- $labels := merge (dict
  "app.kubernetes.io/name" (include "guardian.name" $)
  "app.kubernetes.io/instance" $.Release.Name) (index . 2 | default dict) $.Values.commonLabels (dict
  "app.kubernetes.io/version" ($.Chart.AppVersion | toString)
  "app.kubernetes.io/managed-by" $.Release.Service
  "app.kubernetes.io/part-of" "guardian"
  "helm.sh/chart" (printf "%s-%s" $.Chart.Name ($.Chart.Version | replace "+" "_"))) -}}
{{- $annotations := merge (dict) (index . 3 | default dict) $.Values.commonAnnotations -}}
name: {{ index . 1 | toYaml }}
namespace: {{ if gt (len .) 4 }}{{ index . 4 | toYaml }}{{ else }}{{ toYaml $.Release.Namespace }}{{ end }}
labels:
  {{- toYaml $labels | nindent 2 }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "guardian.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "guardian.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "guardian.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* A guard's record is the ConfigMap guardian-<guard>, and a guard's name has no dot: so this name collides with none. */}}
{{- define "guardian.configMapName" -}}
{{- printf "%s.config" (include "guardian.fullname" .) -}}
{{- end -}}

{{- define "guardian.tokenSecret" -}}
{{- default (printf "%s-token" (include "guardian.fullname" .)) .Values.webhook.existingSecret -}}
{{- end -}}

{{- define "guardian.tokenKey" -}}
{{- if .Values.webhook.existingSecret -}}{{ .Values.webhook.existingSecretKey }}{{- else -}}token{{- end -}}
{{- end -}}

{{/* guardian's configuration as YAML: what the chart knows, under what the user says. */}}
{{- define "guardian.config" -}}
{{- $monitoring := .Values.monitoring -}}
{{- $known := dict
  "instance" .Release.Name
  "prometheus" (dict "url" (printf "http://prometheus-operated.%s:9090" $monitoring.namespace))
  "alertmanager" (dict "url" (printf "http://alertmanager-operated.%s:9093" $monitoring.namespace))
  "rules" (dict "enabled" true)
  "webhook" (dict "tokenFile" "/etc/guardian/token/token") -}}
{{- if not $monitoring.operator -}}
{{- range $part := list "prometheus" "alertmanager" -}}
{{- if not (hasKey (default dict (get $.Values.config $part)) "url") -}}
{{- fail (printf "config.%s.url: not set, and without prometheus-operator (monitoring.operator: false) there is no default: want its URL, or \"\" if there is none" $part) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $known.rules "enabled" false -}}
{{- else if $monitoring.release -}}
{{- $_ := set $known.rules "labels" (dict "release" $monitoring.release) -}}
{{- end -}}
{{- $config := mergeOverwrite $known (deepCopy .Values.config) -}}
{{- $_ := set $config "namespace" .Release.Namespace -}}
{{- $_ := set $config "mode" (default "enforce" .Values.mode) -}}
{{- $listen := dict "alerts" ":8080" "metrics" ":8081" -}}
{{- if .Values.page.enabled -}}
{{- $_ := set $listen "page" ":8082" -}}
{{- $service := include "guardian.fullname" . -}}
{{- $hosts := concat (list $service) (default list .Values.page.hosts) (dig "page" "hosts" list $config) -}}
{{- $_ := set $config "page" (dict "hosts" (uniq $hosts)) -}}
{{- end -}}
{{- $_ := set $config "listen" $listen -}}
{{- $_ := set $config "guards" .Values.guards -}}
{{- toYaml $config -}}
{{- end -}}

{{/* The part of the configuration that a running guardian does not take over: when it changes, the pods are replaced. */}}
{{- define "guardian.restartOnly" -}}
{{- $config := include "guardian.config" . | fromYaml -}}
{{- toYaml (dict "config" (omit $config "guards" "mode" "heartbeat" "disarm" "rules") "rules" (pick $config.rules "name" "namespace")) -}}
{{- end -}}

{{/* The VirtualServices that guardian writes: those of guards that enforce, and those that they have lately named as far as they are known, one a line. */}}
{{- define "guardian.virtualServices" -}}
{{- $names := default list .Values.rbac.formerVirtualServices -}}
{{- $observing := list -}}
{{- range .Values.guards -}}
{{- if eq (default $.Values.mode .mode | default "enforce") "observe" -}}
{{- $observing = append $observing .name -}}
{{- else -}}
{{- $names = concat $names (default (list .name) .virtualServices) -}}
{{- end -}}
{{- end -}}
{{- range (lookup "v1" "ConfigMap" .Release.Namespace "").items -}}
{{- $guard := get (default dict .metadata.labels) "canary-guardian.io/guard" -}}
{{- if and $guard (eq .metadata.name (printf "guardian-%s" $guard)) (not (has $guard $observing)) -}}
{{- $names = concat $names (splitList " " (default "" (get (default dict .data) "virtualServices"))) -}}
{{- $status := fromJson (default "{}" (get (default dict .data) "status")) -}}
{{- $names = concat $names (default list (get (default dict $status.moves) "virtualServices")) -}}
{{- range $status.leaving -}}
{{- $names = append $names .vs -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- join "\n" (uniq (compact $names) | sortAlpha) -}}
{{- end -}}

{{/* The records of the guards, and of former ones as far as they are known, one a line. */}}
{{- define "guardian.records" -}}
{{- $names := list -}}
{{- range .Values.guards -}}
{{- $names = append $names (printf "guardian-%s" .name) -}}
{{- end -}}
{{- range .Values.rbac.formerGuards -}}
{{- $names = append $names (printf "guardian-%s" .) -}}
{{- end -}}
{{- range (lookup "v1" "ConfigMap" .Release.Namespace "").items -}}
{{- $guard := get (default dict .metadata.labels) "canary-guardian.io/guard" -}}
{{- if and $guard (eq .metadata.name (printf "guardian-%s" $guard)) -}}
{{- $names = append $names .metadata.name -}}
{{- end -}}
{{- end -}}
{{- join "\n" (uniq $names | sortAlpha) -}}
{{- end -}}

{{- define "guardian.podMetaLabels" -}}
{{- $labels := merge (dict) (include "guardian.selectorLabels" . | fromYaml) .Values.podLabels .Values.commonLabels -}}
{{- if eq .Values.istio.sidecar "none" -}}
{{- $_ := set $labels "sidecar.istio.io/inject" "false" -}}
{{- end -}}
{{- toYaml $labels -}}
{{- end -}}

{{- define "guardian.podAnnotations" -}}
{{- $annotations := dict "checksum/restart" (include "guardian.restartOnly" . | sha256sum) "kubectl.kubernetes.io/default-container" "guardian" -}}
{{- if ne .Values.istio.sidecar "none" -}}
{{- $_ := set $annotations "sidecar.istio.io/nativeSidecar" "true" -}}
{{- $_ := set $annotations "proxy.istio.io/config" "holdApplicationUntilProxyStarts: true" -}}
{{- end -}}
{{- if eq .Values.istio.sidecar "excludePorts" -}}
{{- $_ := set $annotations "traffic.sidecar.istio.io/excludeInboundPorts" "8080,8081" -}}
{{- end -}}
{{- toYaml (mergeOverwrite $annotations .Values.commonAnnotations .Values.podAnnotations) -}}
{{- end -}}
