//! The messages that are sent, in the protocol's JSON encoding: names in lower camel case, ids as hexadecimal
//! digits, 64-bit integers as text (<https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>, read
//! 2026-11-29). What is left out is zero or empty, as in protobuf.

use serde::{Deserialize, Serialize, Serializer};

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    #[serde(serialize_with = "hex")]
    pub trace_id: Vec<u8>,
    #[serde(serialize_with = "hex")]
    pub span_id: Vec<u8>,
    #[serde(serialize_with = "hex", skip_serializing_if = "Vec::is_empty")]
    pub parent_span_id: Vec<u8>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trace_state: String,
    pub flags: u32,
    pub name: String,
    pub kind: SpanKind,
    #[serde(serialize_with = "text")]
    pub start_time_unix_nano: u64,
    #[serde(serialize_with = "text")]
    pub end_time_unix_nano: u64,
    pub attributes: Vec<KeyValue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

/// By their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpanKind {
    #[default]
    Internal = 1,
    Server = 2,
    Client = 3,
}

impl Serialize for SpanKind {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u8(*self as u8)
    }
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    #[serde(serialize_with = "text")]
    pub time_unix_nano: u64,
    pub name: String,
    pub attributes: Vec<KeyValue>,
}

/// Of a span that failed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Status {
    pub code: u8,
}

impl Status {
    pub const ERROR: Self = Self { code: 2 };
}

#[derive(Clone, Debug, Serialize)]
pub struct KeyValue {
    pub key: String,
    pub value: Value,
}

#[expect(clippy::enum_variant_names, reason = "they are the protocol's names")]
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Value {
    StringValue(String),
    #[serde(serialize_with = "text")]
    IntValue(i64),
    BoolValue(bool),
    DoubleValue(f64),
    ArrayValue {
        values: Vec<Value>,
    },
}

#[derive(Clone, Debug, Serialize)]
pub struct Resource {
    pub attributes: Vec<KeyValue>,
}

#[derive(Debug, Serialize)]
pub struct Scope {
    pub name: &'static str,
    pub version: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Traces<'a> {
    pub resource_spans: [ResourceSpans<'a>; 1],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceSpans<'a> {
    pub resource: &'a Resource,
    pub scope_spans: [ScopeSpans; 1],
}

#[derive(Debug, Serialize)]
pub struct ScopeSpans {
    pub scope: Scope,
    pub spans: Vec<Span>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Metrics<'a> {
    pub resource_metrics: [ResourceMetrics<'a>; 1],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceMetrics<'a> {
    pub resource: &'a Resource,
    pub scope_metrics: [ScopeMetrics; 1],
}

#[derive(Debug, Serialize)]
pub struct ScopeMetrics {
    pub scope: Scope,
    pub metrics: Vec<Metric>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Metric {
    pub name: &'static str,
    pub unit: &'static str,
    pub description: &'static str,
    pub histogram: Histogram,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Histogram {
    pub data_points: Vec<HistogramDataPoint>,
    pub aggregation_temporality: u8,
}

/// From the start of the process on.
pub const CUMULATIVE: u8 = 2;

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HistogramDataPoint {
    pub attributes: Vec<KeyValue>,
    #[serde(serialize_with = "text")]
    pub start_time_unix_nano: u64,
    #[serde(serialize_with = "text")]
    pub time_unix_nano: u64,
    #[serde(serialize_with = "text")]
    pub count: u64,
    pub sum: f64,
    #[serde(serialize_with = "texts")]
    pub bucket_counts: Vec<u64>,
    pub explicit_bounds: &'static [f64],
    pub min: f64,
    pub max: f64,
}

/// What a collector says of what it was sent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Answer {
    pub partial_success: PartialSuccess,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PartialSuccess {
    rejected_spans: Number,
}

impl PartialSuccess {
    pub fn rejected_spans(&self) -> usize {
        match &self.rejected_spans {
            Number::Number(count) => usize::try_from(*count).unwrap_or(usize::MAX),
            Number::Text(text) => text.parse().unwrap_or(0),
        }
    }
}

/// Readers take both.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Number {
    Number(u64),
    Text(String),
}

impl Default for Number {
    fn default() -> Self {
        Self::Number(0)
    }
}

fn hex<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    to.serialize_str(&digits)
}

fn text<N: std::fmt::Display, S: Serializer>(number: &N, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(number)
}

fn texts<S: Serializer>(numbers: &[u64], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(numbers.iter().map(u64::to_string))
}
