{{/* What the schema cannot say, or not clearly. */}}
{{- define "relay.validate" -}}
{{- $v := .Values -}}
{{- if not $v.exposedAddress -}}
{{- fail "exposedAddress is missing: want the address at which peers reach this relay, such as --set exposedAddress=relay.example.com:443" -}}
{{- end -}}
{{- if not (regexMatch "^(rels?://)?([A-Za-z0-9._-]+|\\[[0-9A-Fa-f:.]+\\])(:[0-9]{1,5})?/?$" $v.exposedAddress) -}}
{{- fail (printf "exposedAddress is %q: want a host and a port, such as relay.example.com:443, with rel:// or rels:// before it where needed" $v.exposedAddress) -}}
{{- end -}}
{{- if and (eq (include "relay.clustered" .) "") (or (gt (int $v.replicaCount) 1) $v.autoscaling.enabled) (kindIs "bool" $v.cluster.enabled) -}}
{{- fail "cluster.enabled is false with more than one pod: peers on different pods could not reach each other" -}}
{{- end -}}
{{- range $key := list "auth" "cluster" -}}
{{- $s := get $v $key -}}
{{- if and $s.secrets $s.existingSecret -}}
{{- fail (printf "%s.secrets and %s.existingSecret are both set: want one of them" $key $key) -}}
{{- end -}}
{{- range $s.secrets -}}
{{- if lt (len .) (ternary 32 16 (eq $key "cluster")) -}}
{{- fail (printf "%s.secrets has a secret of %d characters: want at least %d; relay token --new-secret makes one" $key (len .) (ternary 32 16 (eq $key "cluster"))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $v.tls.existingSecret $v.tls.certManager.enabled -}}
{{- fail "tls.existingSecret and tls.certManager.enabled are both set: want one of them" -}}
{{- end -}}
{{- if and $v.tls.certManager.enabled (not (dig "name" "" $v.tls.certManager.issuerRef)) -}}
{{- fail "tls.certManager.issuerRef.name is missing: want the name of the issuer" -}}
{{- end -}}
{{- if and (or $v.ingress.enabled $v.httpRoute.enabled) (not (hasPrefix "rel" (regexFind "^rels?://" $v.exposedAddress))) -}}
{{- fail (printf "exposedAddress is %q behind an Ingress or HTTPRoute: write rels:// before it, since the relay does not know that the proxy has a certificate (rel:// if it has none)" $v.exposedAddress) -}}
{{- end -}}
{{- if and $v.tlsRoute.enabled (not (include "relay.tlsSecret" .)) -}}
{{- fail "tlsRoute.enabled passes TLS through to the pods, and they have no certificate: set tls.existingSecret or tls.certManager" -}}
{{- end -}}
{{- range $key := list "httpRoute" "tlsRoute" -}}
{{- if and (get $v $key).enabled (not (get $v $key).parentRefs) -}}
{{- fail (printf "%s.parentRefs is empty: want the Gateway, as [{name: …}]" $key) -}}
{{- end -}}
{{- end -}}
{{- with $v.autoscaling -}}
{{- if .enabled -}}
{{- if gt (int .minReplicas) (int .maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas is %d, above maxReplicas, which is %d" (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- if and .targetCPUUtilizationPercentage (not (dig "requests" "cpu" "" $v.resources)) -}}
{{- fail "autoscaling.targetCPUUtilizationPercentage is a percentage of resources.requests.cpu, which is not set" -}}
{{- end -}}
{{- if not (or .targetCPUUtilizationPercentage .metric) -}}
{{- fail "autoscaling has neither targetCPUUtilizationPercentage nor metric: want one of them" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
