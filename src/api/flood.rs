//! The flood guard: requests per client address, by `tower_governor`.
//!
//! It stands before everything else that looks at a request. Callers on this machine do not pass
//! through it unless configured to: then no layer is in their way at all.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use domain::Fault;
use governor::middleware::NoOpMiddleware;
use http::{Request, Response};
use tower_governor::governor::{GovernorConfig, GovernorConfigBuilder};
use tower_governor::key_extractor::KeyExtractor;
use tower_governor::{GovernorError, GovernorLayer};

use crate::error::refusal;
use crate::ingress::FloodConfig;
use crate::seats::AddressKey;

/// How often addresses that have been quiet are forgotten. The memory held is bounded by the
/// addresses that can finish a request in that time.
pub(crate) const FORGET_EVERY: Duration = Duration::from_secs(20);

/// Counts requests by the address that they come from; the service puts it there. Forwarding headers are
/// believed of the operator's proxies alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ByAddress;

impl KeyExtractor for ByAddress {
    type Key = AddressKey;

    fn extract<T>(&self, request: &Request<T>) -> Result<AddressKey, GovernorError> {
        request
            .extensions()
            .get()
            .copied()
            .ok_or(GovernorError::UnableToExtractKey)
    }
}

type Layer = GovernorLayer<ByAddress, NoOpMiddleware, Body>;

/// The guard of one listener.
pub(crate) struct Flood {
    config: Arc<GovernorConfig<ByAddress, NoOpMiddleware>>,
    layer: Layer,
    guards_loopback: bool,
}

impl std::fmt::Debug for Flood {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flood")
            .field("addresses", &self.config.limiter().len())
            .finish()
    }
}

impl Flood {
    pub fn new(config: &FloodConfig) -> Self {
        let period = Duration::from_secs(1) / config.per_second.get();
        let built = GovernorConfigBuilder::default()
            .key_extractor(ByAddress)
            .period(period.max(Duration::from_nanos(1)))
            .burst_size(config.burst.get())
            .finish()
            .expect("neither the period nor the burst is zero");
        let built = Arc::new(built);
        let layer = GovernorLayer::new(Arc::clone(&built)).error_handler(refused);
        Self {
            config: built,
            layer,
            guards_loopback: config.guards_loopback,
        }
    }

    /// Whether connections from this address are guarded, and as whom they count.
    pub fn key(&self, address: std::net::IpAddr) -> Option<AddressKey> {
        let is_exempt = address.to_canonical().is_loopback() && !self.guards_loopback;
        (!is_exempt).then(|| AddressKey::of(address))
    }

    /// The layer for one connection.
    pub fn layer(&self) -> Layer {
        self.layer.clone()
    }

    /// Forgets addresses whose allowance is full again.
    pub fn forget_quiet(&self) {
        let limiter = self.config.limiter();
        limiter.retain_recent();
        limiter.shrink_to_fit();
    }
}

/// The guard's refusal. Its wait is in whole seconds, rounded down.
fn refused(error: GovernorError) -> Response<Body> {
    refusal(&match error {
        GovernorError::TooManyRequests { wait_time, .. } => Fault::RateLimited {
            retry_after: Duration::from_secs(wait_time.saturating_add(1)),
        },
        GovernorError::UnableToExtractKey | GovernorError::Other { .. } => Fault::Internal,
    })
}
