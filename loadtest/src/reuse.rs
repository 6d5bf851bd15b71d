//! What the cache costs and spares, end to end: the same question again, the same in other words, and a
//! new one, beside a node without a cache and beside the encoder alone.
//!
//! Each question goes, in this order, to the node with the cache (which does not know it), to the one
//! without, in other words to the first again, as it was once more, and to the encoder. So everything is
//! measured in one run, on questions of one length, while the cache grows. At last all questions are asked
//! once more, one after the other and nothing between: of a cache that is full, and a node that is warm.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::StatusCode;
use http_body_util::BodyExt;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::drive::{Lane, Target, histogram, machine, nanos};
use crate::race::WORDS;

/// Who is asked, and how much.
#[derive(Clone, Debug)]
pub struct Reuse {
    /// With a cache that serves whatever no guard refuses, and the same encoder for embeddings.
    pub cached: Target,
    /// As the other one, without a cache.
    pub bare: Target,
    /// The name of the encoder among the first one's models for embeddings.
    pub encoder: String,
    pub questions: u32,
}

/// Times in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Times {
    pub p50_us: f64,
    pub p99_us: f64,
    pub count: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Reused {
    pub machine: String,
    /// The same question again, answered from the cache.
    pub exact: Times,
    /// The same, where nothing else came between.
    pub exact_in_a_row: Times,
    /// In other words, answered from the cache.
    pub semantic: Times,
    /// A new one, answered by the upstream.
    pub missed: Times,
    /// A new one, at the node without a cache.
    pub bare: Times,
    /// A question's vector, by a request of its own.
    pub embedded: Times,
    /// Of questions in other words.
    pub reworded_missed: u64,
}

impl Reused {
    /// What the encoder takes, without the request around it: an exact hit is a request and no more.
    #[must_use]
    pub fn encoder_us(&self) -> f64 {
        (self.embedded.p50_us - self.exact.p50_us).max(0.0)
    }

    #[must_use]
    pub fn table(&self) -> String {
        let mut table =
            String::from("| | p50 us | p99 us | answers |\n| --- | ---: | ---: | ---: |\n");
        for (name, times) in [
            ("exact hit", self.exact),
            ("exact hit, in a row", self.exact_in_a_row),
            ("semantic hit", self.semantic),
            ("miss", self.missed),
            ("no cache", self.bare),
            ("vector", self.embedded),
        ] {
            table.push_str(&format!(
                "| {name} | {:.0} | {:.0} | {} |\n",
                times.p50_us, times.p99_us, times.count
            ));
        }
        let encoder = self.encoder_us();
        table.push_str(&format!(
            "\nthe encoder alone: {encoder:.0} us; a semantic hit beyond it: {:.0} us; a miss beyond it and \
             beyond no cache: {:.0} us; in other words and not served: {}\n",
            self.semantic.p50_us - encoder,
            self.missed.p50_us - self.bare.p50_us - encoder,
            self.reworded_missed,
        ));
        table
    }
}

/// Runs it.
///
/// # Errors
/// A target cannot be reached, or answers with something else than a reply.
pub async fn reuse(course: &Reuse, mut progress: impl FnMut(&str)) -> io::Result<Reused> {
    let mut drives = JoinSet::new();
    let mut lanes = Vec::new();
    for target in [&course.cached, &course.bare, &course.cached] {
        let (lane, drive) = Lane::connect(target.addr, Bytes::new()).await?;
        drives.spawn(drive);
        lanes.push(lane);
    }
    let [mut cached, mut bare, encoder] =
        <[Lane; 3]>::try_from(lanes).map_err(|_| io::Error::other("there are three lanes"))?;
    let mut encoder = encoder.at("/v1/embeddings");
    let mut tally = Tally::new();
    for nth in 0..course.questions {
        if nth % 100 == 0 {
            progress(&format!("question {nth}/{}", course.questions));
        }
        let (question, reworded) = question(nth);
        let first = ask(&mut cached, chat(&course.cached, &question)).await?;
        // One that a neighbour answers is neither.
        if first.cache == "miss" {
            record(&mut tally.missed, first.took);
        }
        let plain = ask(&mut bare, chat(&course.bare, &question)).await?;
        record(&mut tally.bare, plain.took);
        let second = ask(&mut cached, chat(&course.cached, &reworded)).await?;
        if second.cache.starts_with("semantic") {
            record(&mut tally.semantic, second.took);
        } else {
            tally.reworded_missed += 1;
        }
        let again = ask(&mut cached, chat(&course.cached, &question)).await?;
        if again.cache.starts_with("exact") {
            record(&mut tally.exact, again.took);
        }
        let text = serde_json::json!({"model": course.encoder, "input": reworded});
        let vector = ask(&mut encoder, Bytes::from(text.to_string())).await?;
        record(&mut tally.embedded, vector.took);
    }
    for nth in 0..course.questions {
        let (question, _) = question(nth);
        let again = ask(&mut cached, chat(&course.cached, &question)).await?;
        if again.cache.starts_with("exact") {
            record(&mut tally.exact_in_a_row, again.took);
        }
    }
    tally.reused()
}

struct Tally {
    exact: Histogram<u64>,
    exact_in_a_row: Histogram<u64>,
    semantic: Histogram<u64>,
    missed: Histogram<u64>,
    bare: Histogram<u64>,
    embedded: Histogram<u64>,
    reworded_missed: u64,
}

impl Tally {
    fn new() -> Self {
        Self {
            exact: histogram(),
            exact_in_a_row: histogram(),
            semantic: histogram(),
            missed: histogram(),
            bare: histogram(),
            embedded: histogram(),
            reworded_missed: 0,
        }
    }

    fn reused(&self) -> io::Result<Reused> {
        for (name, times) in [("exact", &self.exact), ("semantic", &self.semantic)] {
            if times.is_empty() {
                let words = format!("not one {name} hit: is the cache on, and is its model there?");
                return Err(io::Error::other(words));
            }
        }
        Ok(Reused {
            machine: machine(),
            exact: times(&self.exact),
            exact_in_a_row: times(&self.exact_in_a_row),
            semantic: times(&self.semantic),
            missed: times(&self.missed),
            bare: times(&self.bare),
            embedded: times(&self.embedded),
            reworded_missed: self.reworded_missed,
        })
    }
}

fn record(times: &mut Histogram<u64>, took: Duration) {
    times.saturating_record(nanos(took));
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn times(histogram: &Histogram<u64>) -> Times {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
    Times {
        p50_us: at(0.5),
        p99_us: at(0.99),
        count: histogram.len(),
    }
}

struct Asked {
    took: Duration,
    /// What the answer says that the cache had to do with it.
    cache: String,
}

async fn ask(lane: &mut Lane, body: Bytes) -> io::Result<Asked> {
    let begun = std::time::Instant::now();
    let reply = lane.send_cacheable(body).await?;
    let status = reply.status();
    let cache = reply.headers().get("x-hedge-cache");
    let cache = cache.and_then(|it| it.to_str().ok()).unwrap_or_default();
    let cache = cache.to_owned();
    let body = reply.into_body().collect().await;
    let body = body.map_err(io::Error::other)?.to_bytes();
    let took = begun.elapsed();
    if status == StatusCode::OK && body.last() == Some(&b'}') {
        Ok(Asked { took, cache })
    } else {
        let start = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        Err(io::Error::other(format!("status {status}: {start}")))
    }
}

fn chat(target: &Target, text: &str) -> Bytes {
    let body = serde_json::json!({
        "model": target.model,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
    });
    Bytes::from(body.to_string())
}

/// A question that was not asked before, of some twenty-four tokens, and the same as others type it.
fn question(nth: u32) -> (String, String) {
    let mut draws = (u64::from(nth) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut word = || {
        draws ^= draws << 13;
        draws ^= draws >> 7;
        draws ^= draws << 17;
        WORDS[usize::try_from(draws >> 40).unwrap_or(0) % WORDS.len()]
    };
    let question = format!(
        "What does the {} of the {} do to the {} beside the {} when the {} meets the {}?",
        word(),
        word(),
        word(),
        word(),
        word(),
        word()
    );
    let reworded = question.trim_end_matches('?').to_lowercase();
    (question, reworded)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_question_comes_twice() {
        let all: HashSet<String> = (0..5_000).map(|nth| question(nth).0).collect();
        assert!(all.len() > 4_990, "{}", all.len());
        let (question, reworded) = question(3);
        assert_ne!(question, reworded);
        assert_eq!(question.to_lowercase().trim_end_matches('?'), reworded);
    }
}
