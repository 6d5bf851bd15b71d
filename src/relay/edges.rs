//! The edges a relay knows, and what each may do. Whatever is not allowed is denied.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::proof::EdgeKey;
use crate::session::Sessions;
use crate::shape::Shape;

/// The edges in force. Read for every request, so that a change counts from the next one on.
pub trait EdgeDirectory: fmt::Debug + Send + Sync + 'static {
    fn find(&self, edge_id: &str) -> Option<Arc<Edge>>;
}

/// One edge.
#[derive(Debug)]
pub struct Edge {
    pub id: String,
    /// What its proofs are checked with, by the names of the keys.
    pub keys: Vec<(String, EdgeKey)>,
    pub policy: EdgePolicy,
    /// Set once the edge is known no more, or with other keys: streams under way end.
    pub is_revoked: AtomicBool,
    /// Which spare it signatures. An edge that was made anew, under another policy, has none yet.
    pub sessions: Sessions,
}

impl Edge {
    pub fn key(&self, name: &str) -> Option<&EdgeKey> {
        let mut keys = self.keys.iter();
        keys.find(|(known, _)| known == name).map(|(_, key)| key)
    }

    pub fn is_revoked(&self) -> bool {
        self.is_revoked.load(Ordering::Relaxed)
    }

    /// Whether a certificate of this Ed25519 key (`None`: of a key of another kind) may be the edge's: it
    /// is, where it is of a key that its proofs are checked with. A shared key is in no certificate, so of
    /// an edge that has nothing else only the name tells.
    pub fn may_show(&self, public: Option<&[u8; 32]>) -> bool {
        let keys = self.keys.iter().filter_map(|(_, key)| match key {
            EdgeKey::Ed25519(key) => Some(key.as_bytes()),
            EdgeKey::HmacSha256(_) => None,
        });
        let mut keys = keys.peekable();
        keys.peek().is_none() || keys.any(|known| Some(known) == public)
    }
}

/// What one edge may do. The default allows nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EdgePolicy {
    /// Paths without a query, as `/v1/chat/completions`.
    pub paths: Vec<String>,
    /// Names as a request says them; `*` is any.
    pub models: Vec<String>,
    /// Of one reply. A request that asks for more, or names no bound, is bounded by it.
    pub output_tokens_max: Option<u32>,
    pub requests_per_s_max: Option<u32>,
    pub concurrent_max: Option<u32>,
    /// In and out together.
    pub tokens_per_minute_max: Option<u64>,
    /// Per calendar month, UTC.
    pub budget_microusd: Option<u64>,
    /// Where it may come from; none: from anywhere.
    pub networks: Vec<Network>,
    /// The shape its responses have, whatever it asks for.
    pub shape: Option<Shape>,
}

/// Addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// How many bits of it count.
    bits: u8,
}

/// No network as `192.0.2.0/24`, `2001:db8::/32` or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("network is none, such as 192.0.2.0/24, 2001:db8::/32 or one address")]
pub struct NoNetwork;

impl std::str::FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NoNetwork)?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(bits_max), |bits| bits.parse().map_err(|_| NoNetwork))?;
        if bits > bits_max {
            return Err(NoNetwork);
        }
        Ok(Self { address, bits })
    }
}

impl Network {
    /// An IPv4 address counts as such also where it came mapped into an IPv6 one.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let shift = 32 - u32::from(self.bits);
                let head = |address: u32| address.checked_shr(shift).unwrap_or(0);
                head(own.to_bits()) == head(other.to_bits())
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let shift = 128 - u32::from(self.bits);
                let head = |address: u128| address.checked_shr(shift).unwrap_or(0);
                head(own.to_bits()) == head(other.to_bits())
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_the_addresses_that_begin_as_it_does() {
        for (network, address, is_in) in [
            ("192.0.2.0/24", "192.0.2.255", true),
            ("192.0.2.0/24", "192.0.3.0", false),
            ("192.0.2.0/24", "::ffff:192.0.2.7", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("2001:db8::/32", "2001:db8:1::", true),
            ("2001:db8::/32", "2001:db9::", false),
            ("::/0", "2001:db9::", true),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
        ] {
            let parsed: Network = network.parse().unwrap();
            let is_held = parsed.contains(address.parse().unwrap());
            assert_eq!(is_held, is_in, "{network} {address}");
        }
        for text in ["", "192.0.2.0/33", "192.0.2/24", "a/8", "::/129", "::/-1"] {
            assert_eq!(text.parse::<Network>(), Err(NoNetwork), "{text}");
        }
    }
}
