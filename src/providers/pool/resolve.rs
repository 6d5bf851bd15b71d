//! From a name to addresses.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::lookup_host;
use tokio::time::timeout;

/// Longest wait for an answer; the addresses known before it stay meanwhile.
const LOOK_UP_MAX: Duration = Duration::from_secs(5);

/// Looks names up. The addresses may come in any order and more than once.
#[async_trait]
pub trait Resolve: Send + Sync + 'static {
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// As the system does it: `/etc/hosts`, then name servers.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        // The port is only passed through.
        let found = timeout(LOOK_UP_MAX, lookup_host((host, 0))).await;
        let found = found.map_err(|_| io::ErrorKind::TimedOut)??;
        Ok(found.map(|address| address.ip()).collect())
    }
}
