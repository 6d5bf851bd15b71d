//! What is done when replies break off, and when no upstream can be reached: raw, and judged.

use std::time::Duration;

use pipeline::RescueRules;
use providers::{Continues, LinkRules};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::faults::Findings;
use super::sections::{wait_ms, within};

/// Going on with replies that broke off. Which ones, the routes say (`rescue`).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawRescue {
    /// Candidates asked to go on with one reply; then it ends with an error.
    pub attempts_max: u32,
    /// A reply that has said more than this is not gone on with.
    pub text_bytes_max: u32,
}

impl Default for RawRescue {
    fn default() -> Self {
        let RescueRules {
            attempts_max,
            text_bytes_max,
        } = RescueRules::default();
        Self {
            attempts_max,
            text_bytes_max: u32::try_from(text_bytes_max).unwrap_or(u32::MAX),
        }
    }
}

/// Being offline: no public upstream can be reached. What then becomes of a request, the routes say
/// (`when_offline`).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawOffline {
    /// Notice it at all. Read at the start, as the two intervals are.
    pub enabled: bool,
    /// How often upstreams' addresses are connected to while offline, give or take a half.
    pub retry_ms: u64,
    /// The same while online, after as long without a request to any of them. 0: only requests tell.
    pub idle_probe_ms: u64,
    /// How long a request waits for the link, where its route says `queue`.
    pub queue_ms_max: u64,
    /// Requests that may wait so; one more is treated as if it had waited.
    pub queue_max: u32,
}

impl Default for RawOffline {
    fn default() -> Self {
        Self {
            enabled: true,
            retry_ms: 2_000,
            idle_probe_ms: 60_000,
            queue_ms_max: 10_000,
            queue_max: 64,
        }
    }
}

/// How an upstream goes on with an answer that another began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawContinues {
    /// It begins an answer of its own.
    #[default]
    Never,
    /// It continues a last message by the assistant, unasked.
    Message,
    /// It does so when told by vLLM's `continue_final_message`.
    FinalMessage,
    /// It does so when the message has `prefix`, as DeepSeek's beta.
    Prefix,
    /// The same, and its answer begins with that message again, as Mistral's.
    PrefixRepeated,
    /// It is told to in words, and may repeat some.
    Told,
}

#[derive(Clone, Debug)]
pub struct OfflineSettings {
    pub is_enabled: bool,
    pub rules: LinkRules,
    pub queue_wait: Duration,
    pub queue_max: usize,
}

pub fn continues(raw: RawContinues) -> Continues {
    match raw {
        RawContinues::Never => Continues::Never,
        RawContinues::Message => Continues::Message,
        RawContinues::FinalMessage => Continues::FinalMessage,
        RawContinues::Prefix => Continues::Prefix,
        RawContinues::PrefixRepeated => Continues::PrefixRepeated,
        RawContinues::Told => Continues::Told,
    }
}

pub fn rescue(raw: &RawRescue, findings: &mut Findings) -> RescueRules {
    let path = "rescue.attempts_max";
    let attempts_max = within(path, raw.attempts_max, 1..=16, findings);
    let path = "rescue.text_bytes_max";
    let text_bytes_max = within(path, raw.text_bytes_max, 1..=16 * 1024 * 1024, findings);
    RescueRules {
        attempts_max,
        text_bytes_max: text_bytes_max as usize,
    }
}

pub fn offline(raw: &RawOffline, findings: &mut Findings) -> OfflineSettings {
    /// More often would be a load on upstreams that are down for others, too.
    const PROBE_MS_LEAST: u64 = 100;
    const DAY_MS: u64 = 24 * 3600 * 1000;
    let probes = PROBE_MS_LEAST..=DAY_MS;
    let retry_ms = within("offline.retry_ms", raw.retry_ms, probes.clone(), findings);
    let idle_ms = (raw.idle_probe_ms > 0).then(|| {
        let path = "offline.idle_probe_ms";
        within(path, raw.idle_probe_ms, probes, findings)
    });
    OfflineSettings {
        is_enabled: raw.enabled,
        rules: LinkRules {
            retry_every: Duration::from_millis(retry_ms),
            idle_every: idle_ms.map(Duration::from_millis),
            ..LinkRules::default()
        },
        queue_wait: wait_ms("offline.queue_ms_max", raw.queue_ms_max, findings),
        queue_max: within("offline.queue_max", raw.queue_max, 1..=100_000, findings) as usize,
    }
}
