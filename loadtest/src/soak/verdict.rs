//! What a soak comes to.

use serde::Serialize;
use serde_json::json;

use super::Soak;
use super::client::Tally;
use super::watch::{SoakSample, mib};
use crate::drive::{machine, median};

/// The part of the time in which memory may still grow.
const WARM_UP: f64 = 0.2;
/// Of memory after it, from the first quarter's median to the last one's.
const GROWTH_MAX: f64 = 0.01;
/// Samples without which growth is not judged.
const SAMPLES_LEAST: usize = 8;
/// Descriptors an idle node may have more than before: caches of names, of clocks.
const DESCRIPTORS_MORE_MAX: usize = 8;
/// Samples shown in the table.
const SHOWN: usize = 12;

/// One thing that must hold.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub holds: bool,
    pub figure: String,
}

#[derive(Clone, Debug, Serialize)]
struct Line {
    kind: &'static str,
    well: u64,
    refused: u64,
    failed: u64,
    stuck: u64,
    p50_ms: f64,
    p99_ms: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct SoakReport {
    pub machine: String,
    pub span_s: f64,
    pub clients: u32,
    pub checks: Vec<Check>,
    lines: Vec<Line>,
    faults: Vec<String>,
    samples: Vec<SoakSample>,
    /// Before and after the load.
    idle: [SoakSample; 2],
}

impl SoakReport {
    pub(super) fn new(
        soak: &Soak,
        samples: Vec<SoakSample>,
        tally: Tally,
        idle: [SoakSample; 2],
        is_drained: bool,
        has_slots: bool,
    ) -> Self {
        let sum = |count: fn(&super::client::Ends) -> u64| tally.kinds.values().map(count).sum();
        let (failed, stuck): (u64, u64) = (sum(|ends| ends.failed), sum(|ends| ends.stuck));
        let check = |name, holds, figure| Check {
            name,
            holds,
            figure,
        };
        let growth = growth(&samples);
        let more = idle[1].descriptors.saturating_sub(idle[0].descriptors);
        let restarts = idle[0].children != idle[1].children;
        let checks = vec![
            check(
                "memory does not grow",
                growth.is_some_and(|growth| growth <= GROWTH_MAX),
                growth.map_or("too few samples".to_owned(), |growth| {
                    format!("{:+.2} % after the warm-up", growth * 100.0)
                }),
            ),
            check("no stuck reply", stuck == 0, format!("{stuck} stuck")),
            check(
                "no failed exchange",
                failed == 0,
                format!("{failed} failed"),
            ),
            check(
                "no exchange left over",
                is_drained,
                idle[1]
                    .in_flight
                    .map_or("not asked".to_owned(), |count| format!("{count} left")),
            ),
            check(
                "every slot is there",
                has_slots,
                format!("{} at once", soak.slots),
            ),
            check(
                "no descriptor left over",
                more <= DESCRIPTORS_MORE_MAX,
                format!(
                    "{} before, {} after",
                    idle[0].descriptors, idle[1].descriptors
                ),
            ),
            check(
                "the engine's process is the same",
                !restarts,
                format!("{:?}", idle[1].children),
            ),
        ];
        #[expect(clippy::cast_precision_loss, reason = "times far below 2^53 ns")]
        let ms = |nanos: u64| nanos as f64 / 1e6;
        let lines = tally.kinds.iter().map(|(kind, ends)| Line {
            kind: kind.as_label(),
            well: ends.well,
            refused: ends.refused,
            failed: ends.failed,
            stuck: ends.stuck,
            p50_ms: ms(ends.times.value_at_quantile(0.5)),
            p99_ms: ms(ends.times.value_at_quantile(0.99)),
        });
        Self {
            machine: machine(),
            span_s: soak.span.as_secs_f64(),
            clients: soak.clients,
            checks,
            lines: lines.collect(),
            faults: tally.faults,
            samples,
            idle,
        }
    }

    /// True when every check holds.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.checks.iter().all(|check| check.holds)
    }

    #[must_use]
    pub fn table(&self) -> String {
        let mut table = String::from(
            "| exchange | ended well | refused | failed | stuck | p50 ms | p99 ms |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        );
        for line in &self.lines {
            table.push_str(&format!(
                "| {} | {} | {} | {} | {} | {:.1} | {:.1} |\n",
                line.kind,
                line.well,
                line.refused,
                line.failed,
                line.stuck,
                line.p50_ms,
                line.p99_ms
            ));
        }
        table.push_str(
            "\n| after s | RSS MiB | descriptors | under way |\n| ---: | ---: | ---: | ---: |\n",
        );
        let every = self.samples.len().div_ceil(SHOWN).max(1);
        for sample in self.samples.iter().step_by(every) {
            let in_flight = sample.in_flight.map_or("-".to_owned(), |n| n.to_string());
            table.push_str(&format!(
                "| {:.0} | {:.2} | {} | {in_flight} |\n",
                sample.at_s,
                mib(sample.rss_bytes),
                sample.descriptors
            ));
        }
        table.push_str("\n| check | holds | figure |\n| --- | --- | --- |\n");
        for check in &self.checks {
            let holds = if check.holds { "yes" } else { "**no**" };
            table.push_str(&format!(
                "| {} | {holds} | {} |\n",
                check.name, check.figure
            ));
        }
        for fault in &self.faults {
            table.push_str(&format!("\nfailed: {fault}"));
        }
        table
    }

    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        json!({"soak": self, "is_good": self.is_good()})
    }
}

/// Of memory after the warm-up; `None` for too short a soak.
fn growth(samples: &[SoakSample]) -> Option<f64> {
    let end_s = samples.last()?.at_s;
    let warm: Vec<f64> = samples
        .iter()
        .filter(|sample| sample.at_s >= end_s * WARM_UP)
        .map(|sample| mib(sample.rss_bytes))
        .collect();
    if warm.len() < SAMPLES_LEAST {
        return None;
    }
    let quarter = warm.len() / 4;
    let first = median(warm[..quarter].iter().copied())?;
    let last = median(warm[warm.len() - quarter..].iter().copied())?;
    Some(last / first - 1.0)
}

#[cfg(test)]
pub(super) fn growth_of(rss_bytes: impl IntoIterator<Item = u64>) -> Option<f64> {
    let samples: Vec<_> = (1..)
        .zip(rss_bytes)
        .map(|(nth, rss_bytes)| SoakSample {
            at_s: f64::from(nth) * 10.0,
            rss_bytes,
            descriptors: 0,
            children: Vec::new(),
            in_flight: None,
        })
        .collect();
    growth(&samples)
}
