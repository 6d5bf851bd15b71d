//! OpenTelemetry: raw, and judged.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::BackendName;
use providers::Secret;
use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::faults::Findings;
use super::raw::{RawConfig, SecretText};
use super::secret::Surroundings;
use super::sections::within;
use super::upstreams::is_loopback;

/// Traces and metrics, sent by OTLP over HTTP to a collector. Prompts and replies are never in them. Off unless
/// there is an `endpoint`, and then nothing is noted for it. Read at the start. See docs/telemetry.md.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawTelemetry {
    /// As `http://127.0.0.1:4318`; `/v1/traces` and `/v1/metrics` are put behind it. Left out: nothing is sent.
    pub endpoint: Option<String>,
    /// Sent with each request: `{ authorization = "env:OTLP_TOKEN" }`. `env:NAME` and `file:/path` are looked up.
    pub headers: BTreeMap<String, SecretText>,
    /// Send a span of each exchange, of its stages and of the call to whoever answered.
    pub traces: bool,
    /// Send the durations and tokens of the GenAI conventions. What `/metrics` has is not among them.
    pub metrics: bool,
    /// Of the traces that begin here, how many are sent: from 0 to 1. A caller's `traceparent` says it of its own.
    pub sample: f64,
    /// `service.name`.
    pub service_name: String,
    /// Further words of the resource: `{ "deployment.environment.name" = "prod" }`.
    pub attributes: BTreeMap<String, String>,
    /// Exchanges whose spans wait to be sent. One more is dropped, and counted.
    pub queue_max: u32,
    /// Spans are sent so often at the latest.
    pub traces_every_ms: u64,
    pub metrics_every_ms: u64,
}

impl Default for RawTelemetry {
    fn default() -> Self {
        Self {
            endpoint: None,
            headers: BTreeMap::new(),
            traces: true,
            metrics: true,
            sample: 1.0,
            service_name: "hedge".into(),
            attributes: BTreeMap::new(),
            queue_max: 4_096,
            traces_every_ms: 5_000,
            metrics_every_ms: 60_000,
        }
    }
}

/// Where it is sent, and what.
#[derive(Clone, Debug)]
pub struct TelemetrySettings {
    /// Where spans go; `None` where none are sent.
    pub traces: Option<Url>,
    pub metrics: Option<Url>,
    pub headers: Vec<(String, Secret)>,
    pub sample: f64,
    pub service_name: String,
    pub attributes: BTreeMap<String, String>,
    pub queue_max: usize,
    pub traces_every: Duration,
    pub metrics_every: Duration,
    /// Which provider each upstream is of, where that is known.
    pub providers: BTreeMap<BackendName, String>,
}

/// `None` where nothing is sent, or there is a fault.
pub fn telemetry(
    raw: &RawConfig,
    providers: &BTreeMap<BackendName, String>,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Option<TelemetrySettings> {
    let raw = &raw.telemetry;
    let sample = within("telemetry.sample", raw.sample, 0.0..=1.0, findings);
    let queue_max = within(
        "telemetry.queue_max",
        raw.queue_max,
        1..=1_000_000,
        findings,
    );
    let mut every =
        |path: &str, value| Duration::from_millis(within(path, value, 100..=3_600_000, findings));
    let traces_every = every("telemetry.traces_every_ms", raw.traces_every_ms);
    let metrics_every = every("telemetry.metrics_every_ms", raw.metrics_every_ms);
    let endpoint = endpoint(raw.endpoint.as_deref()?, findings);
    let headers = headers(&raw.headers, around, findings);
    let endpoint = endpoint?;
    let path_of = |end: &str| {
        let mut url = endpoint.clone();
        let path = url.path().trim_end_matches('/');
        url.set_path(&format!("{path}/v1/{end}"));
        url
    };
    let settings = TelemetrySettings {
        traces: raw.traces.then(|| path_of("traces")),
        metrics: raw.metrics.then(|| path_of("metrics")),
        headers,
        sample,
        service_name: raw.service_name.clone(),
        attributes: raw.attributes.clone(),
        queue_max: queue_max as usize,
        traces_every,
        metrics_every,
        providers: providers.clone(),
    };
    (raw.traces || raw.metrics).then_some(settings)
}

fn endpoint(text: &str, findings: &mut Findings) -> Option<Url> {
    const PATH: &str = "telemetry.endpoint";
    let url = Url::parse(text).ok();
    let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let Some(url) = url else {
        findings.fault(PATH, "is not a URL such as http://127.0.0.1:4318");
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        findings.fault(
            PATH,
            "has a password or a query; credentials go into telemetry.headers",
        );
        return None;
    }
    if url.scheme() == "http" && !is_loopback(&url) {
        findings.warn(
            PATH,
            "is plain HTTP: who is on the way reads names of models, teams and rules",
        );
    }
    Some(url)
}

fn headers(
    raw: &BTreeMap<String, SecretText>,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Vec<(String, Secret)> {
    let mut headers = Vec::new();
    for (name, text) in raw {
        let path = format!("telemetry.headers.{name}");
        let Some(secret) = around.secret(&path, text, findings) else {
            continue;
        };
        let is_header = reqwest::header::HeaderName::from_bytes(name.as_bytes()).is_ok()
            && reqwest::header::HeaderValue::from_str(secret.expose()).is_ok();
        if is_header {
            headers.push((name.clone(), secret));
        } else {
            findings.fault(path, "is no header that HTTP can carry");
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &str) -> (Option<TelemetrySettings>, Findings) {
        let raw: RawConfig = toml::from_str(text).unwrap();
        let environment = BTreeMap::from([("TOKEN".to_owned(), "s3cret".to_owned())]);
        let around = Surroundings {
            environment: &environment,
            read_file: &|_| Err(std::io::ErrorKind::NotFound.into()),
        };
        let mut findings = Findings::default();
        let settings = telemetry(&raw, &BTreeMap::new(), &around, &mut findings);
        (settings, findings)
    }

    #[test]
    fn nothing_is_sent_without_an_endpoint() {
        for text in [
            "",
            "[telemetry]\nsample = 0.5",
            "[telemetry]\nendpoint = 'http://[::1]:4318'\ntraces = false\nmetrics = false",
        ] {
            let (settings, findings) = judged(text);
            assert!(settings.is_none() && findings.faults.is_empty(), "{text}");
        }
    }

    #[test]
    fn paths_are_put_behind_the_endpoint_and_secrets_are_not_shown() {
        let text = "[telemetry]\nendpoint = 'https://otlp.example/base/'\nmetrics = false\n\
                    headers = { authorization = 'env:TOKEN' }";
        let (settings, findings) = judged(text);
        assert!(findings.faults.is_empty() && findings.warnings.is_empty());
        let settings = settings.unwrap();
        let traces = settings.traces.as_ref().unwrap();
        assert_eq!(traces.as_str(), "https://otlp.example/base/v1/traces");
        assert!(settings.metrics.is_none());
        assert!(!format!("{settings:?}").contains("s3cret"));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, path) in [
            ("endpoint = 'localhost:4318'", "telemetry.endpoint"),
            ("endpoint = 'ftp://otlp.example'", "telemetry.endpoint"),
            (
                "endpoint = 'http://me:pw@otlp.example'",
                "telemetry.endpoint",
            ),
            (
                "endpoint = 'http://localhost:4318'\nsample = 1.5",
                "telemetry.sample",
            ),
            ("sample = nan", "telemetry.sample"),
            ("queue_max = 0", "telemetry.queue_max"),
            ("traces_every_ms = 1", "telemetry.traces_every_ms"),
            (
                "endpoint = 'http://localhost:4318'\nheaders = { authorization = 'env:NONE' }",
                "telemetry.headers.authorization",
            ),
            (
                "endpoint = 'http://localhost:4318'\nheaders = { 'a b' = 'env:TOKEN' }",
                "telemetry.headers.a b",
            ),
        ] {
            let (_, findings) = judged(&format!("[telemetry]\n{text}"));
            let paths: Vec<&str> = findings
                .faults
                .iter()
                .map(|fault| fault.path.as_str())
                .collect();
            assert_eq!(paths, [path], "{text}");
            assert!(!format!("{:?}", findings.faults).contains("s3cret"));
        }
        let (_, findings) = judged("[telemetry]\nendpoint = 'http://otlp.example:4318'");
        assert_eq!(findings.warnings[0].path, "telemetry.endpoint");
    }
}
