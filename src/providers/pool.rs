//! Several engines of the operator's own as one [`Backend`].
//!
//! ```text
//! look up (a name) ─► endpoints ◄─ look: well? busy?      each round, by the driver
//!                         │
//! Outbound ─► choose ─► seat ─► Upstream ─► first content ─► ChatStream, which keeps the seat
//!               ▲                               │
//!               └── the next endpoint ◄── failed before it
//! ```
//! Requests say nothing of endpoints: which there are is the configuration's word alone. Nothing
//! here stitches two replies together; after the first content an error goes to the caller.

mod choice;
mod config;
mod endpoint;
mod report;
mod resolve;
mod standing;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use domain::{
    Backend, BackendCard, BackendError, ChatStream, Health, HealthState, Outbound, Resume, Tier,
    read_head,
};
use futures::future::join_all;
use futures::{StreamExt, stream};
use reqwest::Url;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use crate::{Transport, upstream};
use choice::{Bid, beginning, choose, weight};
use endpoint::{Endpoint, Seat};

pub use config::{Balance, EngineKind, HealthRules, Members, PoolConfig, PoolConfigError};
pub use endpoint::EndpointView;
pub use resolve::{Resolve, SystemResolver};
pub use standing::EndpointState;

/// What a caller is told to wait when every endpoint has as many chats as it may.
const FULL_WAIT: Duration = Duration::from_secs(1);
const NONE_WELL: &str = "no endpoint of the pool is well";
const NO_ADDRESS: &str = "the pool's name leads to no address";

type Endpoints = Arc<[Arc<Endpoint>]>;

/// Engines that serve the same models, behind one name.
///
/// [`Pool::watch`] has to run beside it: until its first round is over the pool is `starting`, and
/// without it an endpoint that was left out never returns.
pub struct Pool {
    card: BackendCard,
    config: PoolConfig,
    transport: Transport,
    resolver: Arc<dyn Resolve>,
    endpoints: RwLock<Endpoints>,
    has_looked: AtomicBool,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("name", &self.card.name)
            .field("endpoints", &self.endpoints().len())
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// # Errors
    /// What is wrong with `config`.
    pub fn new(
        config: PoolConfig,
        transport: Transport,
        resolver: Arc<dyn Resolve>,
    ) -> Result<Self, PoolConfigError> {
        let at = |index| move |source| PoolConfigError::Endpoint { index, source };
        let mut card = upstream::card(&config.asked).map_err(at(0))?;
        card.tier = Tier::Pool;
        let endpoints: Vec<Arc<Endpoint>> = match &config.members {
            Members::Listed(urls) if urls.is_empty() => return Err(PoolConfigError::Empty),
            Members::Listed(urls) => urls
                .iter()
                .take(config.endpoints_max)
                .enumerate()
                .map(|(index, url)| {
                    let endpoint = Endpoint::new(url, &config, &transport);
                    endpoint.map(Arc::new).map_err(at(index))
                })
                .collect::<Result<_, _>>()?,
            Members::Dns { base_url, .. } => {
                // Its addresses are not known yet, but everything else about it is.
                Endpoint::new(base_url, &config, &transport).map_err(at(0))?;
                Vec::new()
            }
        };
        Ok(Self {
            card,
            config,
            transport,
            resolver,
            endpoints: RwLock::new(endpoints.into()),
            has_looked: AtomicBool::new(false),
        })
    }

    #[must_use]
    pub fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// How each endpoint stands now.
    #[must_use]
    pub fn views(&self) -> Vec<EndpointView> {
        self.endpoints().iter().map(|it| it.view()).collect()
    }

    /// Looks up and asks, round after round, for as long as it is polled.
    pub async fn watch(&self) {
        let mut look_up_at = Instant::now();
        loop {
            if look_up_at <= Instant::now() {
                self.look_up().await;
                if let Members::Dns { refresh, .. } = &self.config.members {
                    look_up_at = Instant::now() + *refresh;
                }
            }
            self.ask_all().await;
            sleep(self.config.health.interval).await;
        }
    }

    /// One round: where the endpoints are, and how each is.
    pub async fn look(&self) {
        self.look_up().await;
        self.ask_all().await;
    }

    async fn ask_all(&self) {
        let endpoints = self.endpoints();
        join_all(endpoints.iter().map(|endpoint| endpoint.look())).await;
        self.has_looked.store(true, Ordering::Relaxed);
    }

    /// Takes the addresses that the name leads to. When it leads nowhere the known ones stay: name
    /// servers fail more often than engines move.
    async fn look_up(&self) {
        let Members::Dns { base_url, .. } = &self.config.members else {
            return;
        };
        let Ok(url) = Url::parse(base_url) else {
            return;
        };
        let found = self.resolver.addresses(url.host_str().unwrap_or_default());
        match found.await {
            Ok(addresses) if !addresses.is_empty() => self.take(&url, one_family(addresses)),
            Ok(_) => debug!(pool = %self.card.name, "the name has no address"),
            Err(error) => {
                debug!(pool = %self.card.name, error = %error.kind(), "the name was not resolved");
            }
        }
    }

    /// One endpoint an address; those known before keep all that was learnt of them.
    fn take(&self, url: &Url, mut addresses: Vec<IpAddr>) {
        let known = self.endpoints();
        let endpoints_max = self.config.endpoints_max;
        if addresses.len() > endpoints_max {
            // Said once, and not at every look-up after it.
            if known.len() < endpoints_max {
                let (pool, found) = (&self.card.name, addresses.len());
                warn!(%pool, found, endpoints_max, "the name has more addresses than are used");
            }
            addresses.truncate(endpoints_max);
        }
        let endpoints = addresses.into_iter().filter_map(|address| {
            let mut url = url.clone();
            url.set_ip_host(address).ok()?;
            let same = known.iter().find(|it| it.base_url() == url.as_str());
            match same {
                Some(endpoint) => Some(Arc::clone(endpoint)),
                None => Endpoint::new(url.as_str(), &self.config, &self.transport)
                    .ok()
                    .map(Arc::new),
            }
        });
        let endpoints: Endpoints = endpoints.collect();
        *self
            .endpoints
            .write()
            .unwrap_or_else(PoisonError::into_inner) = endpoints;
    }

    fn endpoints(&self) -> Endpoints {
        let endpoints = self.endpoints.read();
        Arc::clone(&endpoints.unwrap_or_else(PoisonError::into_inner))
    }

    /// A place at the endpoint that suits best, among those not tried. With every endpoint left out
    /// any of them is as good: a try costs little, and what was learnt may be old.
    fn seat(
        &self,
        endpoints: &Endpoints,
        tried: &[Arc<Endpoint>],
        beginning: Option<u64>,
    ) -> Option<Seat> {
        let now = Instant::now();
        let in_flight_max = self.config.in_flight_max;
        let forced = !endpoints.iter().any(|endpoint| endpoint.is_open());
        let is_left = |endpoint: &&Arc<Endpoint>| {
            let is_tried = tried.iter().any(|it| Arc::ptr_eq(it, endpoint));
            !is_tried && (forced || endpoint.is_open()) && endpoint.has_room(in_flight_max)
        };
        let mut left: Vec<&Arc<Endpoint>> = endpoints.iter().filter(is_left).collect();
        let bid = |endpoint: &&Arc<Endpoint>| Bid {
            load: endpoint.load(now),
            weight: beginning.map_or_else(rand::random, |it| weight(it, endpoint.label())),
        };
        let mut bids: Vec<Bid> = left.iter().map(bid).collect();
        let spill_factor = beginning.map(|_| self.config.balance.spill_factor);
        loop {
            let index = choose(&bids, spill_factor)?;
            bids.swap_remove(index);
            // Another chat may have taken its last place since.
            if let Some(seat) = left.swap_remove(index).seat(in_flight_max, forced) {
                return Some(seat);
            }
        }
    }
}

#[async_trait]
impl Backend for Pool {
    fn card(&self) -> &BackendCard {
        &self.card
    }

    /// As well as its best endpoint.
    fn health(&self) -> Health {
        let endpoints = self.endpoints();
        let has_looked = self.has_looked.load(Ordering::Relaxed);
        let is_well = endpoints.iter().any(|endpoint| match endpoint.state() {
            EndpointState::In | EndpointState::Trial => true,
            EndpointState::Unseen => has_looked,
            EndpointState::Out => false,
        });
        if is_well {
            return Health::READY;
        }
        if !has_looked {
            return Health::of(HealthState::Starting, None);
        }
        let now = Instant::now();
        let waits = endpoints.iter().filter_map(|endpoint| endpoint.wait(now));
        Health {
            reason: Some(if endpoints.is_empty() {
                NO_ADDRESS
            } else {
                NONE_WELL
            }),
            ..Health::of(HealthState::Down, waits.min())
        }
    }

    async fn chat(&self, call: Outbound) -> Result<ChatStream, BackendError> {
        let endpoints = self.endpoints();
        let beginning = beginning(&call, self.config.balance.affinity_bytes);
        let mut tried: Vec<Arc<Endpoint>> = Vec::new();
        let mut first_error = None;
        for _ in 0..self.config.attempts_max {
            let Some(mut seat) = self.seat(&endpoints, &tried, beginning) else {
                break;
            };
            let opened = async { read_head(seat.endpoint().upstream().open(&call).await?).await };
            match opened.await {
                Ok((head, rest)) => {
                    seat.answered();
                    let events = stream::iter(head.into_iter().map(Ok)).chain(rest);
                    return Ok(seated(events.boxed(), seat));
                }
                Err(error) => {
                    seat.failed(&error);
                    let endpoint = Arc::clone(seat.endpoint());
                    debug!(
                        pool = %self.card.name,
                        endpoint = endpoint.label(),
                        error = error.as_label(),
                        "endpoint failed"
                    );
                    if !may_try_next_endpoint(&error) {
                        return Err(error);
                    }
                    first_error.get_or_insert(error);
                    tried.push(endpoint);
                }
            }
        }
        Err(first_error.unwrap_or(if endpoints.is_empty() {
            BackendError::Unreachable(NO_ADDRESS)
        } else {
            BackendError::Overloaded {
                retry_after: FULL_WAIT,
            }
        }))
    }

    fn resume(&self, _model: &str) -> Resume {
        self.config.asked.continues.resume()
    }
}

/// The stream, with the endpoint's seat taken until it is dropped.
fn seated(events: ChatStream, mut seat: Seat) -> ChatStream {
    events
        .inspect(move |event| {
            if let Err(error) = event {
                seat.failed(error);
            }
        })
        .boxed()
}

/// True when another endpoint of the same models may answer where one failed.
fn may_try_next_endpoint(error: &BackendError) -> bool {
    match error {
        BackendError::Overloaded { .. }
        | BackendError::Resting { .. }
        | BackendError::RateLimited { .. }
        | BackendError::ModelUnknown { .. }
        | BackendError::Unreachable(_)
        | BackendError::TimedOut(_)
        | BackendError::Failed { .. }
        | BackendError::Garbled(_)
        | BackendError::Interrupted
        | BackendError::Engine(_) => true,
        // Their engines, models and key are the same.
        BackendError::Rejected { .. }
        | BackendError::Declined { .. }
        | BackendError::ContentRefused { .. }
        | BackendError::ContextExceeded { .. }
        | BackendError::Unable(_)
        | BackendError::Credentials { .. } => false,
    }
}

/// In order, each once, and of one family: a machine with both would be two endpoints.
fn one_family(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    if addresses.iter().any(IpAddr::is_ipv4) {
        addresses.retain(IpAddr::is_ipv4);
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests;
