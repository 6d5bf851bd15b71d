//! What an exchange needs to know, replaced whole on reload.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::images::ImageRules;
use crate::offline::OfflineRules;
use crate::pace::Pace;
use crate::rescue::RescueRules;
use crate::reuse::ReuseRules;
use crate::shadow::ShadowRules;
use domain::{Backend, BackendCard, BackendName, Embedder, ModelAlias, Price, Reranker};
use policy::{
    Asked, BreakerRules, CacheSecret, PriceBook, RetryRules, Roster, RosterEntry, RoutePolicy,
    ScanRules, Target, Yardstick,
};

/// An embedder, and what callers may call it besides the name on its card.
pub type NamedEmbedder = (Vec<ModelAlias>, Arc<dyn Embedder>);

/// A reranker, and what callers may call it besides the name on its card.
pub type NamedReranker = (Vec<ModelAlias>, Arc<dyn Reranker>);

/// Everything that may change on reload. An exchange keeps the one it was admitted with.
pub struct Snapshot {
    routes: RoutePolicy,
    scan: ScanRules,
    backends: Vec<Arc<dyn Backend>>,
    embedders: Vec<NamedEmbedder>,
    rerankers: Vec<NamedReranker>,
    cards: Vec<Arc<BackendCard>>,
    aliases: Arc<BTreeMap<String, Vec<String>>>,
    cache: CacheRules,
    patience: Patience,
    prices: Prices,
    shares: Arc<BTreeMap<String, Vec<u32>>>,
    retry: RetryRules,
    breaker: BreakerRules,
    rescue: RescueRules,
    offline: OfflineRules,
    images: Option<ImageRules>,
    reuse: Option<ReuseRules>,
    shadow: Option<ShadowRules>,
    pace: Pace,
}

/// What upstreams' models cost.
#[derive(Clone, Debug, Default)]
pub struct Prices {
    pub book: Arc<PriceBook>,
    /// As which provider of the book an upstream charges, where that is not its own name.
    pub providers: BTreeMap<BackendName, String>,
    /// Of the model that stands for the cloud where none was asked for.
    pub reference: Option<Price>,
}

impl Snapshot {
    #[must_use]
    pub fn new(
        routes: RoutePolicy,
        scan: ScanRules,
        backends: Vec<Arc<dyn Backend>>,
        aliases: BTreeMap<String, Vec<String>>,
        cache: CacheRules,
        patience: Patience,
    ) -> Self {
        let cards = backends
            .iter()
            .map(|backend| Arc::new(backend.card().clone()))
            .collect();
        Self {
            routes,
            scan,
            backends,
            embedders: Vec::new(),
            rerankers: Vec::new(),
            cards,
            aliases: Arc::new(aliases),
            cache,
            patience,
            prices: Prices::default(),
            shares: Arc::default(),
            retry: RetryRules::default(),
            breaker: BreakerRules::default(),
            rescue: RescueRules::default(),
            offline: OfflineRules::default(),
            images: None,
            reuse: None,
            shadow: None,
            pace: Pace::default(),
        }
    }

    /// The same with aliases whose targets are equals: each one's weight, in the alias's order.
    #[must_use]
    pub fn with_shares(mut self, shares: BTreeMap<String, Vec<u32>>) -> Self {
        self.shares = Arc::new(shares);
        self
    }

    /// The same with other rules for retries.
    #[must_use]
    pub fn with_retry(mut self, retry: RetryRules) -> Self {
        self.retry = retry;
        self
    }

    /// The same with other rules on when a model is left alone.
    #[must_use]
    pub fn with_breaker(mut self, breaker: BreakerRules) -> Self {
        self.breaker = breaker;
        self
    }

    pub(crate) fn breaker(&self) -> BreakerRules {
        self.breaker
    }

    pub(crate) fn retry(&self) -> RetryRules {
        self.retry
    }

    /// The same with other bounds on going on with replies that broke off.
    #[must_use]
    pub fn with_rescue(mut self, rescue: RescueRules) -> Self {
        self.rescue = rescue;
        self
    }

    pub(crate) fn rescue(&self) -> RescueRules {
        self.rescue
    }

    /// The same with a link that may be down. Without, it never is.
    #[must_use]
    pub fn with_offline(mut self, offline: OfflineRules) -> Self {
        self.offline = offline;
        self
    }

    pub(crate) fn offline(&self) -> &OfflineRules {
        &self.offline
    }

    /// The same with replies that answer other requests. Without, none does.
    #[must_use]
    pub fn with_reuse(mut self, reuse: Option<ReuseRules>) -> Self {
        self.reuse = reuse;
        self
    }

    pub(crate) fn reuse(&self) -> Option<&ReuseRules> {
        self.reuse.as_ref()
    }

    /// The same with answers of this machine asked for again. Without, none is.
    #[must_use]
    pub fn with_shadow(mut self, shadow: Option<ShadowRules>) -> Self {
        self.shadow = shadow;
        self
    }

    pub(crate) fn shadow(&self) -> Option<&ShadowRules> {
        self.shadow.as_ref()
    }

    /// The same with another pace of kept replies.
    #[must_use]
    pub fn with_pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    pub(crate) fn pace(&self) -> Pace {
        self.pace
    }

    /// The same with images fetched. Without, none is.
    #[must_use]
    pub fn with_images(mut self, images: Option<ImageRules>) -> Self {
        self.images = images;
        self
    }

    pub(crate) fn images(&self) -> Option<&ImageRules> {
        self.images.as_ref()
    }

    /// The same with prices. Without, no cost is known of what upstreams answer.
    #[must_use]
    pub fn with_prices(mut self, prices: Prices) -> Self {
        self.prices = prices;
        self
    }

    /// What `model` costs with an upstream: by the upstream's own name, then by its provider's.
    pub(crate) fn price(&self, backend: &BackendName, model: &str) -> Option<Price> {
        let Prices {
            book, providers, ..
        } = &self.prices;
        let own = book.find(backend.as_str(), model);
        let price = own.or_else(|| book.find(providers.get(backend)?, model));
        price.copied()
    }

    /// By what a chat that asks for `asked` is measured: the first model of its list, where an upstream
    /// has that.
    pub(crate) fn yardstick(&self, asked: &Asked) -> Yardstick {
        let first = match asked {
            Asked::Auto => None,
            Asked::Exactly(targets) => targets.first(),
        };
        let price = |target: &Target| {
            let card = self.cards.get(target.backend)?;
            let is_free = card.is_local();
            let price = (!is_free).then(|| self.price(&card.name, &target.model));
            price.flatten()
        };
        Yardstick {
            asked: first.and_then(price),
            reference: self.prices.reference,
        }
    }

    /// The same with models for embeddings.
    #[must_use]
    pub fn with_embedders(mut self, embedders: Vec<NamedEmbedder>) -> Self {
        self.embedders = embedders;
        self
    }

    /// The same with models for ranking.
    #[must_use]
    pub fn with_rerankers(mut self, rerankers: Vec<NamedReranker>) -> Self {
        self.rerankers = rerankers;
        self
    }

    pub(crate) fn rerankers(&self) -> &[NamedReranker] {
        &self.rerankers
    }

    pub(crate) fn embedders(&self) -> &[NamedEmbedder] {
        &self.embedders
    }

    pub(crate) fn routes(&self) -> &RoutePolicy {
        &self.routes
    }

    pub(crate) fn scan(&self) -> &ScanRules {
        &self.scan
    }

    pub(crate) fn cache(&self) -> &CacheRules {
        &self.cache
    }

    pub(crate) fn patience(&self) -> &Patience {
        &self.patience
    }

    pub(crate) fn backends(&self) -> &[Arc<dyn Backend>] {
        &self.backends
    }

    pub(crate) fn aliases(&self) -> &BTreeMap<String, Vec<String>> {
        &self.aliases
    }

    /// The backends as `policy` sees them: cards, and their health at this moment.
    pub(crate) fn roster(&self) -> Roster {
        let entries = self
            .cards
            .iter()
            .zip(&self.backends)
            .map(|(card, backend)| RosterEntry {
                card: Arc::clone(card),
                health: backend.health(),
            })
            .collect();
        Roster {
            backends: entries,
            aliases: Arc::clone(&self.aliases),
            shares: Arc::clone(&self.shares),
            resting: Vec::new(),
        }
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("backends", &self.cards.len())
            .field("aliases", &self.aliases.len())
            .finish_non_exhaustive()
    }
}

/// How exact replies are kept.
#[derive(Debug)]
pub struct CacheRules {
    pub is_enabled: bool,
    pub secret: CacheSecret,
    pub ttl: Duration,
    /// A reply with more text than this is answered and not kept.
    pub reply_bytes_max: usize,
}

/// How long a candidate may take to its first content.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a backend on this machine, while another candidate is left.
    pub local: Duration,
    /// For an upstream, while another candidate is left.
    pub remote: Duration,
    /// For the last candidate: giving up on it gives up on the exchange. Also for a pool, whose tries
    /// have limits of their own below this one.
    pub last: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            local: Duration::from_secs(5),
            remote: Duration::from_secs(15),
            last: Duration::from_secs(120),
        }
    }
}
