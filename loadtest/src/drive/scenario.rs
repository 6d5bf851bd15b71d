//! What is sent, and one measurement of it.

use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::JoinSet;

use super::client::{Lane, StreamTimes, Target};
use super::process::Usage;

/// Requests a connection makes before it counts: the proxy's pool and the caches are then warm.
const WARM_UP_REQUESTS: u32 = 20;

/// Ten minutes; what takes longer counts as this long.
const NANOS_MAX: u64 = 600_000_000_000;

/// A named load.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: String,
    pub load: Load,
}

#[derive(Clone, Copy, Debug)]
pub enum Load {
    /// Whole replies, each connection asking again as soon as it is answered.
    Whole { connections: u32 },
    /// Short streams, each connection opening the next when one is read: until the first event.
    FirstEvents { connections: u32 },
    /// Streams opened at once and read to their end.
    Streams {
        streams: u32,
        tokens: u32,
        gap_ms: u32,
    },
}

/// One measurement. Times in microseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sample {
    /// Whole replies: the whole exchange. Streams: until the first event.
    pub p50_us: f64,
    pub p99_us: f64,
    /// Streams only: between neighbouring reads.
    pub gap_p99_us: Option<f64>,
    /// Replies that came whole and right.
    pub answered: u64,
    pub failed: u64,
    pub answered_per_s: f64,
    /// Of the target's process, where it is known. For streams: a stream.
    pub cpu_us_per_answer: Option<f64>,
    /// The most it was meanwhile.
    pub rss_bytes_most: Option<u64>,
}

/// Of nanoseconds, to three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, NANOS_MAX, 3).expect("bounds and digits it allows")
}

/// What one connection saw.
#[derive(Debug)]
struct Tally {
    times: Histogram<u64>,
    gaps: Histogram<u64>,
    failed: u64,
}

impl Tally {
    fn new() -> Self {
        Self {
            times: histogram(),
            gaps: histogram(),
            failed: 0,
        }
    }

    fn take(&mut self, took: Duration) {
        self.times.saturating_record(nanos(took));
    }

    fn take_stream(&mut self, stream: &StreamTimes) {
        self.take(stream.first);
        for gap in &stream.gaps {
            self.gaps.saturating_record(nanos(*gap));
        }
    }

    fn merge(&mut self, other: &Tally) {
        let proof = "both were made by `new`, with the same bounds";
        self.times.add(&other.times).expect(proof);
        self.gaps.add(&other.gaps).expect(proof);
        self.failed += other.failed;
    }
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Measures one target under one load.
///
/// # Errors
/// The target cannot be reached, fails while warming up, or its process cannot be read.
pub async fn measure(target: &Target, scenario: &Scenario, window: Duration) -> io::Result<Sample> {
    let mut drives = JoinSet::new();
    let lanes = open_lanes(target, scenario.load, &mut drives).await?;
    let usage = || target.pid.map(Usage::of).transpose();
    target.pid.map(Usage::forget_most).transpose()?;
    let before = usage()?;
    let begun = Instant::now();
    let mut work = JoinSet::new();
    for lane in lanes {
        match scenario.load {
            Load::Whole { .. } => work.spawn(ask_until(lane, begun + window)),
            Load::FirstEvents { .. } => work.spawn(stream_until(lane, begun + window)),
            Load::Streams { .. } => work.spawn(read_one(lane)),
        };
    }
    let mut total = Tally::new();
    while let Some(tally) = work.join_next().await {
        total.merge(&tally.map_err(io::Error::other)?);
    }
    let took = begun.elapsed();
    let after = usage()?;
    Ok(sample(&total, scenario.load, took, before.zip(after)))
}

async fn open_lanes(
    target: &Target,
    load: Load,
    drives: &mut JoinSet<()>,
) -> io::Result<Vec<Lane>> {
    let (count, body, warm_up) = match load {
        Load::Whole { connections } => (connections, target.body(false, ""), WARM_UP_REQUESTS),
        Load::FirstEvents { connections } => (connections, target.body(true, ""), WARM_UP_REQUESTS),
        Load::Streams {
            streams,
            tokens,
            gap_ms,
        } => {
            let marker = format!("[[fake tokens={tokens} gap-ms={gap_ms}]]");
            (streams, target.body(true, &marker), 0)
        }
    };
    let mut lanes = Vec::new();
    for _ in 0..count {
        let (lane, drive) = Lane::connect(target.addr, body.clone()).await?;
        let mut lane = lane.with_key(target.key.as_deref())?;
        drives.spawn(drive);
        for _ in 0..warm_up {
            match load {
                Load::Whole { .. } => drop(lane.whole().await?),
                Load::FirstEvents { .. } | Load::Streams { .. } => drop(lane.streamed().await?),
            }
        }
        lanes.push(lane);
    }
    Ok(lanes)
}

/// A connection ends at its first failure: a broken target must not spin.
async fn ask_until(mut lane: Lane, deadline: Instant) -> Tally {
    let mut tally = Tally::new();
    while Instant::now() < deadline {
        match lane.whole().await {
            Ok(took) => tally.take(took),
            Err(_) => {
                tally.failed += 1;
                break;
            }
        }
    }
    tally
}

async fn stream_until(mut lane: Lane, deadline: Instant) -> Tally {
    let mut tally = Tally::new();
    while Instant::now() < deadline {
        match lane.streamed().await {
            Ok(times) => tally.take(times.first),
            Err(_) => {
                tally.failed += 1;
                break;
            }
        }
    }
    tally
}

async fn read_one(mut lane: Lane) -> Tally {
    let mut tally = Tally::new();
    match lane.streamed().await {
        Ok(times) => tally.take_stream(&times),
        Err(_) => tally.failed += 1,
    }
    tally
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts and times far below what f64 holds exactly"
)]
fn sample(total: &Tally, load: Load, took: Duration, usage: Option<(Usage, Usage)>) -> Sample {
    let answered = total.times.len();
    let micros = |nanos: u64| nanos as f64 / 1000.0;
    let per_answer = |(before, after): (Usage, Usage)| {
        let spent = after.cpu.saturating_sub(before.cpu);
        spent.as_secs_f64() * 1e6 / answered.max(1) as f64
    };
    Sample {
        p50_us: micros(total.times.value_at_quantile(0.5)),
        p99_us: micros(total.times.value_at_quantile(0.99)),
        gap_p99_us: match load {
            Load::Whole { .. } | Load::FirstEvents { .. } => None,
            Load::Streams { .. } => Some(micros(total.gaps.value_at_quantile(0.99))),
        },
        answered,
        failed: total.failed,
        answered_per_s: answered as f64 / took.as_secs_f64(),
        cpu_us_per_answer: usage.map(per_answer),
        rss_bytes_most: usage.map(|(_, after)| after.rss_bytes_most),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FakeConfig, FakeUpstream};

    fn target(fake: &FakeUpstream) -> Target {
        Target {
            name: "direct".to_owned(),
            addr: fake.addr(),
            model: "m".to_owned(),
            pid: Some(std::process::id()),
            key: None,
        }
    }

    async fn sample_of(load: Load, fake: &FakeUpstream) -> Sample {
        let scenario = Scenario {
            name: "s".to_owned(),
            load,
        };
        measure(&target(fake), &scenario, Duration::from_millis(50))
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn whole_replies_are_counted_and_charged() {
        let fake = FakeUpstream::start(FakeConfig::default()).unwrap();
        let sample = sample_of(Load::Whole { connections: 2 }, &fake).await;
        assert_eq!(sample.failed, 0);
        let warm_up = u64::from(2 * WARM_UP_REQUESTS);
        assert_eq!(fake.counts().completed, sample.answered + warm_up);
        assert!(sample.p50_us > 0.0 && sample.p50_us <= sample.p99_us);
        assert!(sample.rss_bytes_most > Some(0));
    }

    #[tokio::test]
    async fn streams_follow_one_another_and_their_first_events_count() {
        let fake = FakeUpstream::start(FakeConfig::default()).unwrap();
        let sample = sample_of(Load::FirstEvents { connections: 2 }, &fake).await;
        let warm_up = u64::from(2 * WARM_UP_REQUESTS);
        assert_eq!(fake.counts().completed, sample.answered + warm_up);
        assert_eq!((sample.failed, sample.gap_p99_us), (0, None));
        assert!(sample.p50_us > 0.0, "{sample:?}");
    }

    #[tokio::test]
    async fn a_stream_that_breaks_counts_as_failed() {
        let config = FakeConfig {
            behaviour: crate::Behaviour::default().for_text("[[fake cut-after=1]]"),
            ..FakeConfig::default()
        };
        let broken = FakeUpstream::start(config).unwrap();
        let load = Load::Streams {
            streams: 3,
            tokens: 4,
            gap_ms: 1,
        };
        let sample = sample_of(load, &broken).await;
        assert_eq!((sample.answered, sample.failed), (0, 3));
        let sound = FakeUpstream::start(FakeConfig::default()).unwrap();
        let sample = sample_of(load, &sound).await;
        assert_eq!((sample.answered, sample.failed), (3, 0));
        // Three gaps of a millisecond and more: the pace is the upstream's.
        assert!(sample.gap_p99_us > Some(1000.0), "{sample:?}");
    }
}
