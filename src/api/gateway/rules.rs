//! What a gateway keeps to. Every bound has its name here.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use relay::attest::Attestor;
use relay::limits::SEALED_REQUEST_BYTES_MAX;
use relay::manifest::IdentityKey;
use relay::shape::Shape;
use relay::{Ciphers, Kem, REPLAY_ENTRIES_MAX, RingTimes};

/// Of one relay.
pub struct GatewayRules {
    /// As edges' proofs and its manifest name it; see [`relay::is_name`].
    pub relay_id: String,
    /// What edges have pinned. It signs manifests only.
    pub identity: IdentityKey,
    pub times: RingTimes,
    /// What keys are made for: X-Wing alone, or X25519 too.
    pub kems: Vec<Kem>,
    pub ciphers: Ciphers,
    /// What edges may ask for.
    pub shapes: Vec<Shape>,
    /// For those that ask for none. It is allowed, too.
    pub shape: Shape,
    /// Whether only who shows a certificate of an edge has anything opened. Certificates that are shown
    /// count either way.
    pub requires_certificate: bool,
    /// Between `spiffe://` and `/edge/` in the certificates of edges.
    pub trust_domain: String,
    /// Vouches for the machine with every manifest. Where it has nothing to show, the manifest has none.
    pub attestor: Option<Arc<dyn Attestor>>,
    pub limits: GatewayLimits,
}

impl GatewayRules {
    /// Everything but these as it is best for a relay at the edge of a network.
    #[must_use]
    pub fn new(
        relay_id: impl Into<String>,
        identity: IdentityKey,
        trust_domain: impl Into<String>,
    ) -> Self {
        Self {
            relay_id: relay_id.into(),
            identity,
            times: RingTimes::default(),
            kems: Kem::ALL.to_vec(),
            ciphers: Ciphers::Strict,
            shapes: Shape::all(),
            shape: Shape::default(),
            requires_certificate: true,
            trust_domain: trust_domain.into(),
            attestor: None,
            limits: GatewayLimits::default(),
        }
    }

    pub(super) fn allows(&self, shape: Shape) -> bool {
        shape == self.shape || self.shapes.contains(&shape)
    }
}

impl fmt::Debug for GatewayRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayRules")
            .field("relay_id", &self.relay_id)
            .field("identity", &self.identity)
            .field("kems", &self.kems)
            .field("requires_certificate", &self.requires_certificate)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Bounds of one gateway.
#[derive(Clone, Copy, Debug)]
pub struct GatewayLimits {
    /// From a connection's acceptance to the end of its TLS handshake. Reached: it is closed.
    pub handshake_max: Duration,
    /// From there, or from the end of the last request on a connection of HTTP/1.1, to the end of the
    /// next one's head. Reached: the connection is closed.
    pub header_max: Duration,
    /// Of a request's outer header section. Reached: 431.
    pub header_bytes_max: usize,
    /// A body's longest silence. Reached: 408.
    pub body_idle_max: Duration,
    /// What a body has to come at once its first [`body_idle_max`](Self::body_idle_max) is over.
    /// Slower: 408.
    pub body_bytes_per_s_min: u64,
    /// A sealed request. Reached: 413, before a byte is read where the length is declared.
    pub request_bytes_max: u64,
    /// Of all requests that are being read or answered. Reached: 503.
    pub held_bytes_max: u64,
    /// Sealed requests under way. Reached: 503. Of those that are being read one sender has a quarter;
    /// beyond: 429.
    pub requests_max: usize,
    /// Of one connection of HTTP/2. Reached: its sender waits.
    pub streams_max: u32,
    /// Reached: the connection is closed.
    pub connections_max: usize,
    /// Of one address; an IPv6 /64 counts as one. Reached: the connection is closed.
    pub connections_per_address_max: u32,
    /// With its certificate. Reached: the connection is closed.
    pub connections_per_edge_max: u32,
    /// Requests that may be opened in a second. One sender may take a quarter of them; beyond: 429. By
    /// measurement one core opens some 4,000 that are sealed with X-Wing.
    pub opens_per_s: u32,
    /// Requests to join or to renew, of one sender. Reached: 429.
    pub enrolments_per_minute: u32,
    /// Of all senders, being read or answered. Reached: 503.
    pub enrolments_max: usize,
    /// The body of one of those. Reached: 413.
    pub enrolment_bytes_max: u64,
    /// How long an edge may take no byte of an answer. Reached: the answer is dropped, and the work
    /// behind it with it.
    pub write_stall_max: Duration,
    /// For how long a connection of HTTP/2 is kept without a request. Reached: it is closed.
    pub idle_max: Duration,
    /// How long answers may go on after the stop. Reached: they are cut.
    pub shutdown_grace: Duration,
    /// Requests that are remembered, so that none is taken twice. Reached: further ones are refused.
    pub replay_entries_max: usize,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            handshake_max: Duration::from_secs(5),
            header_max: Duration::from_secs(5),
            header_bytes_max: 16 * 1024,
            body_idle_max: Duration::from_secs(10),
            body_bytes_per_s_min: 1024,
            request_bytes_max: SEALED_REQUEST_BYTES_MAX,
            held_bytes_max: 512 << 20,
            requests_max: 1024,
            streams_max: 100,
            connections_max: 4096,
            connections_per_address_max: 256,
            connections_per_edge_max: 4,
            opens_per_s: 4_000,
            enrolments_per_minute: 10,
            enrolments_max: 64,
            enrolment_bytes_max: 64 << 10,
            write_stall_max: Duration::from_secs(30),
            idle_max: Duration::from_secs(120),
            shutdown_grace: Duration::from_secs(30),
            replay_entries_max: REPLAY_ENTRIES_MAX,
        }
    }
}
