//! The measures of the GenAI conventions, added up from the start of the process.
//!
//! Names, units, attributes and bounds are those of docs/gen-ai/gen-ai-metrics.md in
//! open-telemetry/semantic-conventions-genai (status: development), read 2026-11-29.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::otlp::{CUMULATIVE, Histogram, HistogramDataPoint, KeyValue, Metric, Value};
use super::spans::nanos;
use super::{attribute, text};
use domain::{ExchangeRecord, Outcome, Traced};

/// Of one measure. What would be one more is counted under one, marked as the specification of metrics has it
/// (*Cardinality limits*): models that an upstream takes unlisted are callers' words.
const SERIES_MAX: usize = 1_000;

const DURATION_BOUNDS: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
];
const TOKEN_BOUNDS: &[f64] = &[
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];
const FIRST_CHUNK_BOUNDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// What one series is of.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    operation: &'static str,
    provider: Option<String>,
    model: Option<String>,
    error: Option<&'static str>,
    token: Option<&'static str>,
    is_overflow: bool,
}

impl Series {
    fn attributes(&self) -> Vec<KeyValue> {
        if self.is_overflow {
            return vec![attribute("otel.metric.overflow", Value::BoolValue(true))];
        }
        let provider = self.provider.as_deref();
        let model = self.model.as_deref();
        let words = [
            ("gen_ai.operation.name", Some(self.operation)),
            ("gen_ai.provider.name", provider),
            ("gen_ai.request.model", model),
            ("gen_ai.response.model", model),
            ("error.type", self.error),
            ("gen_ai.token.type", self.token),
        ];
        let words = words.into_iter();
        words
            .filter_map(|(key, word)| Some(text(key, word?)))
            .collect()
    }
}

#[derive(Debug)]
struct Sum {
    counts: Vec<u64>,
    sum: f64,
    least: f64,
    most: f64,
}

/// One measure.
#[derive(Debug)]
struct Measured {
    name: &'static str,
    unit: &'static str,
    description: &'static str,
    bounds: &'static [f64],
    series: Mutex<BTreeMap<Series, Sum>>,
}

impl Measured {
    fn new(
        name: &'static str,
        unit: &'static str,
        description: &'static str,
        bounds: &'static [f64],
    ) -> Self {
        Self {
            name,
            unit,
            description,
            bounds,
            series: Mutex::default(),
        }
    }

    fn add(&self, series: Series, value: f64) {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = all.len() < SERIES_MAX || all.contains_key(&series);
        let series = if has_room {
            series
        } else {
            Series {
                is_overflow: true,
                ..Series::default()
            }
        };
        let sum = all.entry(series).or_insert_with(|| Sum {
            counts: vec![0; self.bounds.len() + 1],
            sum: 0.0,
            least: value,
            most: value,
        });
        // Bounds belong to what is below them.
        let at = self.bounds.partition_point(|bound| *bound < value);
        sum.counts[at] += 1;
        sum.sum += value;
        sum.least = sum.least.min(value);
        sum.most = sum.most.max(value);
    }

    /// `None` while nothing was measured.
    fn read(&self, since: SystemTime, now: SystemTime) -> Option<Metric> {
        let all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let points = all.iter().map(|(series, sum)| HistogramDataPoint {
            attributes: series.attributes(),
            start_time_unix_nano: nanos(since),
            time_unix_nano: nanos(now),
            count: sum.counts.iter().sum(),
            sum: sum.sum,
            bucket_counts: sum.counts.clone(),
            explicit_bounds: self.bounds,
            min: sum.least,
            max: sum.most,
        });
        let data_points: Vec<_> = points.collect();
        (!data_points.is_empty()).then_some(Metric {
            name: self.name,
            unit: self.unit,
            description: self.description,
            histogram: Histogram {
                data_points,
                aggregation_temporality: CUMULATIVE,
            },
        })
    }
}

/// All measures.
#[derive(Debug)]
pub struct Meters {
    since: SystemTime,
    duration: Measured,
    tokens: Measured,
    first_chunk: Measured,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            since: SystemTime::now(),
            duration: Measured::new(
                "gen_ai.client.operation.duration",
                "s",
                "GenAI operation duration.",
                DURATION_BOUNDS,
            ),
            tokens: Measured::new(
                "gen_ai.client.token.usage",
                "{token}",
                "Number of input and output tokens used.",
                TOKEN_BOUNDS,
            ),
            first_chunk: Measured::new(
                "gen_ai.client.operation.time_to_first_chunk",
                "s",
                "Time to receive the first chunk in a streaming response.",
                FIRST_CHUNK_BOUNDS,
            ),
        }
    }
}

impl Meters {
    /// A reply made for another request was no operation of a model.
    pub fn measure(&self, record: &ExchangeRecord, traced: &Traced, provider: Option<&str>) {
        if record.cache.is_reuse() {
            return;
        }
        let series = Series {
            operation: traced.operation,
            provider: provider.map(str::to_owned),
            model: record.route.as_ref().map(|route| route.model.clone()),
            ..Series::default()
        };
        let error = match record.outcome {
            Outcome::Answered | Outcome::Abandoned => None,
            Outcome::Refused(label) | Outcome::BrokenOff(label) => Some(label),
        };
        let took = record.took.as_secs_f64();
        self.duration.add(
            Series {
                error,
                ..series.clone()
            },
            took,
        );
        if series.provider.is_none() {
            return;
        }
        if let Some(usage) = &record.usage {
            let counts = [
                ("input", usage.prompt_tokens.0),
                ("output", usage.completion_tokens.0),
            ];
            // Vectors, scores and verdicts have no tokens.
            let counts = counts.into_iter().take(if traced.is_chat { 2 } else { 1 });
            for (token, count) in counts {
                let token = Some(token);
                self.tokens.add(
                    Series {
                        token,
                        ..series.clone()
                    },
                    f64::from(count),
                );
            }
        }
        if let (Some(after), true) = (record.first_content_after, traced.is_streamed) {
            self.first_chunk.add(series, after.as_secs_f64());
        }
    }

    pub fn read(&self, now: SystemTime) -> Vec<Metric> {
        let all = [&self.duration, &self.tokens, &self.first_chunk];
        let read = all
            .into_iter()
            .filter_map(|measured| measured.read(self.since, now));
        read.collect()
    }
}
