//! The sealed path as written: every key, its default and its words, as [`super::raw`] has the rest.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::raw::RawTrust;

/// Makes this node a relay: it opens what edges seal, and answers them as any caller. `hedge relay init`
/// writes it. See docs/relay.md.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["relay_id"]))]
pub struct RawGateway {
    /// Where edges connect: `ADDR:PORT`.
    pub listen: String,
    /// The folder that `hedge relay init` made.
    pub dir: String,
    /// What edges call it, in letters, digits, `-`, `_` and `.`. Required.
    pub relay_id: Option<String>,
    /// Where edges reach it, for the commands that are printed.
    pub url: Option<String>,
    /// `false`: something in front ends TLS, and what comes is plain HTTP. It sees sizes and times, and
    /// nothing of what is sealed.
    pub tls: bool,
    /// Open nothing of anybody who shows no certificate of this relay's authority. Left out: as `tls`,
    /// since who ends TLS sees the certificates.
    pub client_certificates: Option<bool>,
    /// What keys are made for: `x-wing`, which holds against quantum computers, and `x25519`.
    pub kems: Vec<RawKem>,
    /// Take AES-128-GCM, too, so that other implementations can be tested with.
    pub interop_suites: bool,
    /// Shapes that edges may ask for, as `cells;size=512`. Left out: all.
    pub shapes: Option<Vec<String>>,
    /// The shape for edges that ask for none.
    pub default_shape: String,
    /// Sealed requests under way; more are refused with a wait.
    pub requests_max: u32,
    /// Open connections; more are closed.
    pub connections_max: u32,
    /// Of one edge.
    pub connections_per_edge_max: u32,
    /// Requests that may be opened in a second, of which one sender may take a quarter. One core opens
    /// some 4,000.
    pub opens_per_s_max: u32,
}

impl Default for RawGateway {
    fn default() -> Self {
        Self {
            listen: super::gateway::LISTEN_DEFAULT.into(),
            dir: "relay".into(),
            relay_id: None,
            url: None,
            tls: true,
            client_certificates: None,
            kems: vec![RawKem::XWing, RawKem::X25519],
            interop_suites: false,
            shapes: None,
            default_shape: "cells;size=512".into(),
            requests_max: 1_024,
            connections_max: 4_096,
            connections_per_edge_max: 4,
            opens_per_s_max: 4_000,
        }
    }
}

/// How a key is agreed on. `x-wing` holds as long as ML-KEM or X25519 does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum RawKem {
    #[serde(rename = "x-wing")]
    XWing,
    #[serde(rename = "x25519")]
    X25519,
}

/// Relays that answer alike: whatever is for this backend goes to them sealed. `hedge relay join` adds
/// an entry. See docs/relay.md.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name", "models", "members"]))]
pub struct RawRelay {
    /// Callers name its models as `NAME/model`. Required.
    pub name: Option<String>,
    /// Models that the relay is asked for. The first is the default. Required.
    pub models: Vec<String>,
    /// The model for requests that name none; one of `models`.
    pub default_model: Option<String>,
    /// What is spoken inside, as of upstreams.
    pub dialect: String,
    /// Whom the relay's answers come from in the end: `public` (default), `tenant` or `device`, as of
    /// upstreams. What it may not see is masked before it is sealed.
    pub trust: RawTrust,
    /// The folders that `hedge relay join` wrote: names of those in its usual place, or paths. Requests go
    /// to whichever is least busy, and on to the next one where nothing was done for them. Required.
    pub members: Vec<String>,
    /// How answers are to be sent: `off`, `cells;size=512`, `constant;size=512;bucket=4` and their like.
    pub shape: String,
    /// How lengths of requests are rounded up: `padme`, by 12 % at most, or `pow2`, to the double.
    pub request_pad: RawRequestPad,
    /// The least that is sealed with. `x-wing` sends nothing that a quantum computer to come could open.
    pub suites_min: RawKem,
    /// Whether relays have to prove what machine they run on: `off`, `warn` where they do not, or
    /// `require`.
    pub attestation: RawAttestation,
    /// Take answers in slim frames, which cost fewer bytes and say the same.
    pub slim: bool,
    pub connect_timeout_ms: u64,
    /// Patience for the first event of a streamed reply, before the next candidate is tried.
    pub first_event_timeout_ms: u64,
    /// The same for a reply that the client wants whole, up to its last byte.
    pub whole_reply_timeout_ms: u64,
    /// Longest silence inside a reply.
    pub idle_timeout_ms: u64,
}

impl Default for RawRelay {
    fn default() -> Self {
        Self {
            name: None,
            models: Vec::new(),
            default_model: None,
            dialect: "openai".into(),
            trust: RawTrust::Public,
            members: Vec::new(),
            shape: "cells;size=512".into(),
            request_pad: RawRequestPad::Padme,
            suites_min: RawKem::XWing,
            attestation: RawAttestation::Off,
            slim: true,
            connect_timeout_ms: 3_000,
            first_event_timeout_ms: 30_000,
            whole_reply_timeout_ms: 600_000,
            idle_timeout_ms: 60_000,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawRequestPad {
    Padme,
    Pow2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawAttestation {
    Off,
    Warn,
    Require,
}
