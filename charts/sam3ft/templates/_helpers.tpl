{{/* The name of every object of a release; names of Services begin with a letter. */}}
{{- define "sam3ft.fullname" -}}
{{- $name := include "sam3ft.givenName" . -}}
{{- ternary $name (printf "sam3ft-%s" $name | trunc 50 | trimSuffix "-") (regexMatch "^[a-z]" $name) -}}
{{- end -}}

{{- define "sam3ft.givenName" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "sam3ft.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
app.kubernetes.io/part-of: sam3ft
{{ include "sam3ft.selectorLabels" . }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels by which the operator's pods are known, also to the policies of runs: they never change. */}}
{{- define "sam3ft.selectorLabels" -}}
app.kubernetes.io/name: sam3ft-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* The Lease: two releases of one namespace look after different runs, and both are to act. */}}
{{- define "sam3ft.leaseName" -}}
{{ include "sam3ft.fullname" . }}
{{- end -}}

{{/* Roles of the cluster: releases that look after one namespace each may have the same name. */}}
{{- define "sam3ft.roleName" -}}
{{- with .Values.watchNamespace }}{{ . }}-{{ end }}{{ include "sam3ft.fullname" . }}
{{- end -}}

{{- define "sam3ft.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "sam3ft.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* An image with its digest, else with its tag; takes a list of the image's values and the chart's appVersion. */}}
{{- define "sam3ft.image" -}}
{{- $image := index . 0 -}}
{{- if $image.repository -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default (index . 1) $image.tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether monitors are made: by the kind's name in the API group of the Prometheus operator. */}}
{{- define "sam3ft.monitorIsMade" -}}
{{- $root := index . 0 -}}
{{- $kind := index . 1 -}}
{{- $present := $root.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" $kind) -}}
{{- $when := $root.Values.metrics.whenMissing -}}
{{- if or $present (eq $when "always") -}}
true
{{- else if eq $when "fail" -}}
{{- fail (printf "this cluster knows no %s (monitoring.coreos.com/v1); install the Prometheus operator, switch the monitor off, or set metrics.whenMissing to skip" $kind) -}}
{{- end -}}
{{- end -}}
