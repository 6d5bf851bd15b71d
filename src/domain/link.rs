//! Whether the world beyond this machine can be reached.

use async_trait::async_trait;

/// The way to the upstreams that anybody may be, [`crate::Trust::Public`]: all of them together.
///
/// Contract, for every implementation:
/// - Without such upstreams it is online.
/// - It leaves the state by itself as soon as one of them can be reached again.
#[async_trait]
pub trait Link: Send + Sync + 'static {
    /// A cheap look; never blocks, never asks the network.
    fn is_offline(&self) -> bool;

    /// Returns once it is online, which may be at once. Dropping it is giving up.
    async fn until_online(&self);
}
