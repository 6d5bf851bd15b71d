//! Callers before a proxy with two upstreams, one of which fails at random: how many get a whole
//! answer, and how many more requests that costs.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::drive::{Lane, Target};
use crate::{FakeConfig, FakeUpstream, Flaky};

/// Callers in ten thousand who may go without a whole answer.
const BROKEN_PER_10000_MAX: u32 = 10;
/// Requests to upstreams beyond those of the callers, in percent.
const EXTRA_PERCENT_MAX: u64 = 10;

/// The two upstreams: the first fails, the second does not.
#[derive(Debug)]
pub struct Pair {
    pub failing: FakeUpstream,
    pub sound: FakeUpstream,
}

impl Pair {
    /// # Errors
    /// A port cannot be had.
    pub fn start(percent: u32, seed: u64) -> io::Result<Self> {
        let config = FakeConfig {
            records: false,
            ..FakeConfig::default()
        };
        Ok(Self {
            failing: FakeUpstream::start(FakeConfig {
                flaky: Some(Flaky { percent, seed }),
                ..config.clone()
            })?,
            sound: FakeUpstream::start(config)?,
        })
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Survived {
    pub callers: u32,
    pub whole: u32,
    /// Requests that the failing upstream and the sound one were sent.
    pub asked_failing: u64,
    pub asked_sound: u64,
}

impl Survived {
    /// At least 99.9 % of the callers got a whole answer, at the cost of at most a tenth more requests.
    #[must_use]
    pub fn is_well(&self) -> bool {
        let broken = self.callers - self.whole;
        let asked = self.asked_failing + self.asked_sound;
        broken * 10_000 <= self.callers * BROKEN_PER_10000_MAX
            && asked * 100 <= u64::from(self.callers) * (100 + EXTRA_PERCENT_MAX)
    }
}

/// What the node wrote down of its callers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// Records of exchanges that were answered.
    pub answered: u32,
    /// Records beyond the first of an exchange: charges that were made twice.
    pub repeated: u32,
    /// Answers that nobody was charged for.
    pub uncharged: u32,
}

/// A line of the log, as far as it is read.
#[derive(Deserialize)]
struct Line<'a> {
    message: &'a str,
    request_id: Option<&'a str>,
    outcome: Option<&'a str>,
    cost_microusd: Option<u64>,
}

impl Ledger {
    /// From a log of lines of JSON, a line an exchange.
    #[must_use]
    pub fn read(log: &str) -> Self {
        let mut ledger = Self::default();
        let mut known: HashMap<&str, u32> = HashMap::new();
        for line in log.lines() {
            let Ok(line) = serde_json::from_str::<Line<'_>>(line) else {
                continue;
            };
            let Some(id) = line.request_id.filter(|_| line.message == "exchange") else {
                continue;
            };
            let records = known.entry(id).or_default();
            ledger.repeated += u32::from(*records > 0);
            *records += 1;
            if line.outcome == Some("answered") {
                ledger.answered += 1;
                ledger.uncharged += u32::from(line.cost_microusd.unwrap_or(0) == 0);
            }
        }
        ledger
    }

    /// Each whole answer was charged, and none twice.
    #[must_use]
    pub fn is_well(&self, survived: &Survived) -> bool {
        self.answered >= survived.whole && self.repeated == 0 && self.uncharged == 0
    }
}

/// Sends `callers` requests over `lanes` connections to `target`, which has the pair behind it; every
/// second one is streamed.
///
/// # Errors
/// The target cannot be reached.
pub async fn survive(
    target: &Target,
    pair: &Pair,
    callers: u32,
    lanes: u32,
) -> io::Result<Survived> {
    let next = Arc::new(AtomicU32::new(0));
    let mut working = JoinSet::new();
    for _ in 0..lanes {
        let (next, target) = (Arc::clone(&next), target.clone());
        working.spawn(async move { lane(&target, &next, callers).await });
    }
    let mut whole = 0;
    while let Some(lane) = working.join_next().await {
        whole += lane.map_err(io::Error::other)??;
    }
    Ok(Survived {
        callers,
        whole,
        asked_failing: pair.failing.counts().asked,
        asked_sound: pair.sound.counts().asked,
    })
}

/// Asks until every caller had a turn; gives the whole answers.
async fn lane(target: &Target, next: &AtomicU32, callers: u32) -> io::Result<u32> {
    let mut whole = 0;
    let mut open: Option<Lane> = None;
    // Ended with the lane.
    let mut driving = JoinSet::new();
    loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        if at >= callers {
            return Ok(whole);
        }
        let mut lane = match open.take() {
            Some(lane) => lane,
            None => {
                let (lane, drive) = Lane::connect(target.addr, Bytes::new()).await?;
                driving.spawn(drive);
                while driving.try_join_next().is_some() {}
                lane
            }
        };
        let is_streamed = at % 2 == 1;
        let body = serde_json::json!({
            "model": target.model,
            "messages": [{"role": "user", "content": format!("question {at}")}],
            "stream": is_streamed,
        });
        let end: &[u8] = if is_streamed {
            b"data: [DONE]\n\n"
        } else {
            b"}"
        };
        match lane.whole_body(Bytes::from(body.to_string())).await {
            Ok(body) if body.ends_with(end) => {
                whole += 1;
                open = Some(lane);
            }
            // Counted by its absence. Another connection for the next caller.
            Ok(_) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_record_of_an_exchange_is_found_and_so_is_one_without_a_charge() {
        let line = |id: &str, outcome: &str, cost: &str| {
            format!(
                r#"{{"level":"INFO","message":"exchange","request_id":"{id}","outcome":"{outcome}"{cost}}}"#
            )
        };
        let paid = r#","cost_microusd":5"#;
        let log = [
            r#"{"level":"INFO","message":"listening"}"#.to_owned(),
            line("a", "answered", paid),
            line("b", "upstream_failed", ""),
            "no JSON".to_owned(),
            line("c", "answered", ""),
            line("a", "answered", paid),
        ];
        let ledger = Ledger::read(&log.join("\n"));
        let expected = Ledger {
            answered: 3,
            repeated: 1,
            uncharged: 1,
        };
        assert_eq!(ledger, expected);
        let survived = Survived {
            callers: 1,
            whole: 1,
            asked_failing: 0,
            asked_sound: 1,
        };
        assert!(!ledger.is_well(&survived));
        let ledger = Ledger::read(&line("a", "answered", paid));
        assert!(ledger.is_well(&survived));
    }
}
