//! The race between local engines: the same weights, the same prompts, one engine after the other,
//! round after round.
//!
//! Both answer OpenAI's chat completions as streams, greedy. Speed is tokens of all clients over the
//! time until the last one is done; a ratio is taken within a round and its median over the rounds.
//! Token counts are the engines' own, from the usage event.

mod fairness;
mod neighbours;
mod prompts;
mod standing;
mod telling;

pub use fairness::{Fairness, Turn, Verdict, fairness};
pub(crate) use prompts::{WORDS, prose};
pub use standing::{Place, Standing};

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::drive::{Target, Usage, histogram, in_turn, nanos};
use neighbours::Neighbours;
use prompts::Prompts;
use telling::{Telling, tell_anew};

/// Prompt sizes of mixed clients, in turn, in tokens.
const MIXED_TOKENS: [u32; 3] = [32, 256, 1024];
/// What arrives while others are being answered, and how little it asks for.
const STALLING_TOKENS: u32 = 1024;
const STALLING_ANSWER_TOKENS: u32 = 4;
const STALLED_TOKENS: u32 = 32;

/// One kind of load on an engine.
#[derive(Clone, Debug)]
pub struct Heat {
    pub name: String,
    pub load: EngineLoad,
    /// Tokens of each answer.
    pub answer_tokens: u32,
    /// Tokens with which every prompt begins; the rest is a client's own, and new each time.
    pub shared_tokens: u32,
    /// Prompts of each client, one after the other.
    pub requests: u32,
    /// Threads that keep so many processors busy meanwhile.
    pub neighbours: u32,
}

#[derive(Clone, Copy, Debug)]
pub enum EngineLoad {
    /// Every prompt has this many tokens.
    Even { clients: u32, prompt_tokens: u32 },
    /// Short, middling and long prompts in turn.
    Mixed { clients: u32 },
    /// Streams are under way when a long prompt arrives; only the streams are measured.
    Stall { streams: u32 },
}

/// Which engines, under which loads, how often.
#[derive(Clone, Debug)]
pub struct Race {
    /// The first is the one the others are compared with.
    pub targets: Vec<Target>,
    pub heats: Vec<Heat>,
    pub rounds: u32,
}

/// One measurement. Times in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Lap {
    /// Answer tokens of all clients in a second.
    pub tokens_per_s: f64,
    /// Until the first text.
    pub first_p50_ms: f64,
    pub first_p99_ms: f64,
    /// Between neighbouring texts of a stream.
    pub gap_p50_ms: f64,
    pub gap_p99_ms: f64,
    /// Mean of a prompt, as the engine counts.
    pub prompt_tokens: f64,
    pub answer_tokens: u64,
    pub answered: u64,
    pub failed: u64,
    /// Of the engine's process and its children, where it is known.
    pub cpu_s: Option<f64>,
    pub rss_bytes: Option<u64>,
}

/// Runs the race.
///
/// # Errors
/// A target cannot be reached, or does not say how many tokens it read.
pub async fn race(race: &Race, mut progress: impl FnMut(&str)) -> io::Result<Standing> {
    let Some(reference) = race.targets.first() else {
        return Err(io::Error::other("there is no target"));
    };
    let prompts = Prompts::measured(reference, None).await?;
    let mut standing = Standing::new(race);
    for round in 0..race.rounds {
        for (at, heat) in race.heats.iter().enumerate() {
            for target in in_turn(&race.targets, round) {
                progress(&format!(
                    "round {}/{}  {}  {}",
                    round + 1,
                    race.rounds,
                    heat.name,
                    target.name
                ));
                // No prompt comes twice, but each target gets the same ones.
                let seed = (u64::from(round) << 32) + at as u64;
                let _neighbours = Neighbours::begin(heat.neighbours);
                let lap = run(target, heat, &prompts, seed).await?;
                standing.take(&heat.name, &target.name, round, lap);
            }
        }
    }
    Ok(standing)
}

async fn run(target: &Target, heat: &Heat, prompts: &Prompts, seed: u64) -> io::Result<Lap> {
    let sizes: Vec<u32> = match heat.load {
        EngineLoad::Even {
            clients,
            prompt_tokens,
        } => vec![prompt_tokens; clients as usize],
        EngineLoad::Mixed { clients } => MIXED_TOKENS
            .into_iter()
            .cycle()
            .take(clients as usize)
            .collect(),
        EngineLoad::Stall { streams } => vec![STALLED_TOKENS; streams as usize],
    };
    let is_stall = matches!(heat.load, EngineLoad::Stall { .. });
    let usage = || target.pid.map(Usage::of).transpose();
    let mut work = JoinSet::new();
    // The stalling prompt starts once every stream has its first text.
    let talking = Arc::new(Semaphore::new(0));
    let before = usage()?;
    let begun = Instant::now();
    for (client, size) in sizes.iter().enumerate() {
        let addr = target.addr;
        let bodies: Vec<_> = (0..heat.requests)
            .map(|nth| {
                let own = seed ^ ((client as u64) << 48) ^ (u64::from(nth) << 20) ^ 0x9E37;
                let text = prompts.text(heat.shared_tokens, *size, own);
                prompts::body(target, &text, heat.answer_tokens)
            })
            .collect();
        let talking = Arc::clone(&talking);
        work.spawn(async move {
            let mut tally = Tally::new();
            for body in bodies {
                match tell_anew(addr, None, body, &talking).await {
                    Ok(telling) => tally.take(&telling),
                    Err(_) => {
                        // One that never speaks must not keep the long prompt waiting.
                        talking.add_permits(1);
                        tally.failed += 1;
                        break;
                    }
                }
            }
            tally
        });
    }
    if is_stall {
        let text = prompts.text(0, STALLING_TOKENS, seed ^ 0x0057_A110);
        let body = prompts::body(target, &text, STALLING_ANSWER_TOKENS);
        let count = u32::try_from(sizes.len()).unwrap_or(u32::MAX);
        let all = talking.acquire_many(count).await;
        drop(all.map_err(io::Error::other)?);
        let stalling = tell_anew(target.addr, None, body, &Semaphore::new(0)).await;
        stalling.map_err(|error| io::Error::other(format!("the long prompt: {error}")))?;
    }
    let mut total = Tally::new();
    while let Some(tally) = work.join_next().await {
        total.merge(&tally.map_err(io::Error::other)?);
    }
    let took = begun.elapsed();
    Ok(total.lap(took, before.zip(usage()?)))
}

/// What clients saw.
#[derive(Debug)]
struct Tally {
    firsts: Histogram<u64>,
    gaps: Histogram<u64>,
    prompt_tokens: u64,
    answer_tokens: u64,
    failed: u64,
}

impl Tally {
    fn new() -> Self {
        Self {
            firsts: histogram(),
            gaps: histogram(),
            prompt_tokens: 0,
            answer_tokens: 0,
            failed: 0,
        }
    }

    fn take(&mut self, telling: &Telling) {
        self.firsts.saturating_record(nanos(telling.first));
        for gap in &telling.gaps {
            self.gaps.saturating_record(nanos(*gap));
        }
        self.prompt_tokens += telling.prompt_tokens;
        self.answer_tokens += telling.answer_tokens;
    }

    fn merge(&mut self, other: &Tally) {
        let proof = "both were made by `new`, with the same bounds";
        self.firsts.add(&other.firsts).expect(proof);
        self.gaps.add(&other.gaps).expect(proof);
        self.prompt_tokens += other.prompt_tokens;
        self.answer_tokens += other.answer_tokens;
        self.failed += other.failed;
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "counts and times far below what f64 holds exactly"
    )]
    fn lap(&self, took: Duration, usage: Option<(Usage, Usage)>) -> Lap {
        let millis = |nanos: u64| nanos as f64 / 1e6;
        let answered = self.firsts.len();
        Lap {
            tokens_per_s: self.answer_tokens as f64 / took.as_secs_f64(),
            first_p50_ms: millis(self.firsts.value_at_quantile(0.5)),
            first_p99_ms: millis(self.firsts.value_at_quantile(0.99)),
            gap_p50_ms: millis(self.gaps.value_at_quantile(0.5)),
            gap_p99_ms: millis(self.gaps.value_at_quantile(0.99)),
            prompt_tokens: self.prompt_tokens as f64 / answered.max(1) as f64,
            answer_tokens: self.answer_tokens,
            answered,
            failed: self.failed,
            cpu_s: usage.map(|(before, after)| after.cpu.saturating_sub(before.cpu).as_secs_f64()),
            rss_bytes: usage.map(|(_, after)| after.rss_bytes),
        }
    }
}

#[cfg(test)]
mod tests;
