{{- define "hedge.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "hedge.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "hedge.labels" -}}
{{ include "hedge.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "hedge.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "hedge.name" .) }}
{{- end }}

{{/* The names by which clients call it, as a TOML list: hedge refuses others, since a page anywhere may know them. */}}
{{- define "hedge.hosts" -}}
{{- $name := include "hedge.name" . -}}
{{- $full := printf "%s.%s" $name .Release.Namespace -}}
{{- concat (list $name $full (printf "%s.svc" $full) (printf "%s.svc.cluster.local" $full)) .Values.hosts | uniq | toJson -}}
{{- end }}

{{/* More than one pod cannot have one data folder: each counts for itself, and refuses a folder in use. */}}
{{- define "hedge.check" -}}
{{- if and .Values.data.existingClaim (or .Values.autoscaling.enabled (gt (int .Values.replicaCount) 1)) -}}
{{- fail "data.existingClaim is for one replica: set replicaCount to 1 and autoscaling.enabled to false, or leave the claim out and share over Redis and Postgres" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling.minReplicas is above autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (not (or .Values.autoscaling.cpuPercent .Values.autoscaling.queueDepth .Values.autoscaling.exchangesInFlight)) -}}
{{- fail "autoscaling has nothing to go by: set cpuPercent, queueDepth or exchangesInFlight" -}}
{{- end -}}
{{- end }}
