//! A soak: hours of everything a node's callers do, and what it must not leave behind.
//!
//! Clients draw one kind of exchange after the other: whole and streamed chats, readers that leave or
//! dawdle, long prompts, formats, questions the cache knows, and requests that are wrong. Meanwhile
//! memory, descriptors and exchanges under way are sampled. In the end all must be as it was: no
//! growth, every slot there to be had, and no reply that nobody ended.

mod client;
mod verdict;
mod watch;

pub use verdict::{Check, SoakReport};
pub use watch::SoakSample;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::drive::Target;
use client::{Client, Tally};
use watch::Watch;

/// Of the time between two samples.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// A short soak is sampled so often all the same.
const SAMPLES_MIN: u32 = 40;
/// For a node to load its model.
const READY_MAX: Duration = Duration::from_secs(300);
/// For what still runs when the time is up, and for a node to say that it is idle.
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// A slot that is gone never comes back; one that is held up by chance is there the next time.
const SLOT_ROUNDS: u32 = 5;

/// What to soak, and for how long.
#[derive(Clone, Debug)]
pub struct Soak {
    /// Must have a process id, and a local model under the target's name.
    pub target: Target,
    /// Where the node's metrics are, if they are to be asked.
    pub admin: Option<SocketAddr>,
    pub span: Duration,
    pub clients: u32,
    /// `local.slots_max` of the node.
    pub slots: u32,
    pub seed: u64,
}

/// Soaks.
///
/// # Errors
/// The node cannot be reached at first, or has no process that could be watched.
pub async fn soak(soak: &Soak, mut progress: impl FnMut(&str)) -> io::Result<SoakReport> {
    let watch = Watch::new(soak)?;
    let mut tallies = JoinSet::new();
    let mut begun = Instant::now();
    client::until_answered(soak, begun + READY_MAX).await?;
    // Descriptors are compared with those of a node that has answered before.
    let mut tally = Tally::default();
    for round in 0..3 {
        client::ask_once(soak, round, &mut tally).await?;
    }
    begun = Instant::now();
    let until = begun + soak.span;
    let idle_before = watch.sample(begun).await?;
    for nth in 0..soak.clients {
        let client = Client::new(soak.target.clone(), soak.seed ^ (u64::from(nth) << 32));
        tallies.spawn(client.run(until));
    }
    let every = SAMPLE_EVERY.min(soak.span / SAMPLES_MIN);
    let mut samples = Vec::new();
    while Instant::now() + every <= until {
        tokio::time::sleep(every).await;
        let sample = watch.sample(begun).await?;
        progress(&sample.line());
        samples.push(sample);
    }
    let mut is_drained = true;
    while let Some(ended) = tallies.join_next().await {
        tally.merge(ended.map_err(io::Error::other)?);
    }
    let drained_by = Instant::now() + DRAIN_MAX;
    let mut idle_after = watch.sample(begun).await?;
    while idle_after.in_flight.is_some_and(|count| count > 0) {
        is_drained = Instant::now() < drained_by;
        if !is_drained {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        idle_after = watch.sample(begun).await?;
    }
    progress("load is over, asking for every slot at once");
    let mut has_slots = false;
    for round in 0..SLOT_ROUNDS {
        has_slots = has_slots || client::has_every_slot(soak, round).await?;
    }
    Ok(SoakReport::new(
        soak,
        samples,
        tally,
        [idle_before, idle_after],
        is_drained,
        has_slots,
    ))
}

#[cfg(test)]
mod tests;
