//! Where the operator is told of events: raw, and judged.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::faults::Findings;
use super::raw::SecretText;
use super::secret::Surroundings;
use super::upstreams::is_loopback;
use crate::events::WebhookRules;

/// A shorter secret can be guessed.
const SECRET_BYTES_MIN: usize = 16;

/// Events for the operator: that what was used of a limit has passed one of its `warn_at`. They are logged
/// and counted in any case. Read at the start. See docs/limits.md.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawEvents {
    /// An address that each is posted to as JSON: https, or http on this machine. Left out: none is.
    pub webhook: Option<String>,
    /// What each is signed with, as `env:NAME` or `file:/path`: 16 bytes at least. Required with
    /// `webhook`.
    pub secret: Option<SecretText>,
}

/// `None` where none are sent.
pub fn events(
    raw: &RawEvents,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Option<WebhookRules> {
    let Some(text) = &raw.webhook else {
        if raw.secret.is_some() {
            findings.warn("events.secret", "signs nothing without `events.webhook`");
        }
        return None;
    };
    let url = reqwest::Url::parse(text).ok();
    let url = url.filter(|url| {
        let is_plain = url.username().is_empty() && url.password().is_none();
        is_plain && (url.scheme() == "https" || url.scheme() == "http" && is_loopback(url))
    });
    if url.is_none() {
        findings.fault(
            "events.webhook",
            "is no https address without a user name, such as https://ops.example/hedge; http is for this \
             machine alone",
        );
    }
    let Some(secret) = &raw.secret else {
        findings.fault("events.secret", "is required: env:NAME or file:/path");
        return None;
    };
    let secret = around.secret("events.secret", secret, findings)?;
    if secret.expose().len() < SECRET_BYTES_MIN {
        let words = format!("is shorter than {SECRET_BYTES_MIN} bytes");
        findings.fault("events.secret", words);
    }
    Some(WebhookRules { url: url?, secret })
}
