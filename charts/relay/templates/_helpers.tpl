{{/* The name of all objects; the longest ending is "-cluster". */}}
{{- define "relay.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Nothing in a selector may ever change: neither a version nor a label of the user. */}}
{{- define "relay.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "relay.labels" -}}
{{- $own := dict
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/managed-by" .Release.Service
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") -}}
{{- merge (include "relay.selectorLabels" . | fromYaml) $own .Values.commonLabels | toYaml -}}
{{- end -}}

{{- define "relay.serviceAccountName" -}}
{{- default (ternary (include "relay.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "relay.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end -}}
{{- end -}}

{{/* "true" when the pods link to each other. */}}
{{- define "relay.clustered" -}}
{{- $pods := ternary .Values.autoscaling.maxReplicas .Values.replicaCount .Values.autoscaling.enabled | int -}}
{{- if kindIs "bool" .Values.cluster.enabled -}}
{{- if .Values.cluster.enabled -}}true{{- end -}}
{{- else if gt $pods 1 -}}true{{- end -}}
{{- end -}}

{{- define "relay.headless" -}}
{{ include "relay.fullname" . }}-pods.{{ .Release.Namespace }}.svc.{{ .Values.cluster.domain }}.
{{- end -}}

{{/* The Secret with the certificate; "" when the pods serve plain TCP. */}}
{{- define "relay.tlsSecret" -}}
{{- if .Values.tls.certManager.enabled -}}
{{ include "relay.fullname" . }}-tls
{{- else -}}
{{ .Values.tls.existingSecret }}
{{- end -}}
{{- end -}}

{{/* The host of exposedAddress, in a list. */}}
{{- define "relay.hosts" -}}
- {{ regexReplaceAll "^rels?://|:[0-9]+/?$|[][/]" .Values.exposedAddress "" | quote }}
{{- end -}}

{{/* A value as text. Helm reads numbers as floating point and would write 1e+06. */}}
{{- define "relay.text" -}}
{{- if kindIs "slice" . -}}
{{- range $i, $v := . }}{{ if $i }},{{ end }}{{ include "relay.text" $v }}{{ end -}}
{{- else if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- printf "%.0f" . -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

{{/* A map without the keys that were set to null. */}}
{{- define "relay.withoutNull" -}}
{{- $kept := dict -}}
{{- range $k, $v := . -}}
{{- if not (kindIs "invalid" $v) -}}{{- $_ := set $kept $k $v -}}{{- end -}}
{{- end -}}
{{- toYaml $kept -}}
{{- end -}}

{{/* Nine tenths of a quantity of memory, in bytes; "" when it has an unusual form. */}}
{{- define "relay.goMemLimit" -}}
{{- $text := include "relay.text" . -}}
{{- $number := regexFind "^[0-9]+(\\.[0-9]+)?" $text -}}
{{- $units := dict "B" 1 "kB" 1e3 "MB" 1e6 "GB" 1e9 "TB" 1e12 "KiB" 1024 "MiB" 1048576 "GiB" 1073741824 "TiB" 1099511627776 -}}
{{- $unit := get $units (printf "%sB" (trimPrefix $number $text)) -}}
{{- if and $number $unit -}}
{{- printf "%.0f" (floor (mulf (float64 $number) (float64 $unit) 0.9)) -}}
{{- end -}}
{{- end -}}

{{/*
The content of a Secret that the chart writes: what the values say, else what is in
the cluster, else a new secret. Where nothing can be looked up, as in helm template,
each rendering would make another one, so the chart refuses. Takes the root, and the
key of the values that has the secrets.
*/}}
{{- define "relay.secrets" -}}
{{- $root := index . 0 -}}{{- $key := index . 1 -}}{{- $values := get $root.Values $key -}}
{{- $ns := $root.Release.Namespace -}}
{{- $old := lookup "v1" "Secret" $ns (printf "%s-%s" (include "relay.fullname" $root) $key) -}}
{{- if $values.secrets -}}
{{- printf "%s\n" (join "\n" $values.secrets) | b64enc -}}
{{- else if dig "data" "secrets" "" $old -}}
{{- $old.data.secrets -}}
{{- else -}}
{{- if not (or (lookup "v1" "ServiceAccount" $ns "default") (lookup "v1" "Namespace" "" "kube-system")) -}}
{{- fail (printf "there is no cluster to look for an earlier secret in, as with helm template or in GitOps, and two renderings would have two different secrets: set %s.existingSecret to a Secret of yours, or %s.secrets (helm install --dry-run=server can look)" $key $key) -}}
{{- end -}}
{{- printf "%s\n" (randAlphaNum 48) | b64enc -}}
{{- end -}}
{{- end -}}
