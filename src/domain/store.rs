//! What a store does, one concern a trait.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    ExchangeRecord, Kept, KeyDigest, KeyTrouble, Limit, Principal, Purge, Subject, Tag, TeamId,
    UserId, Who,
};

/// A keyed hash of the canonical masked request inside its compartment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheKey(pub [u8; 32]);

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheKey")
    }
}

/// Exact replies. A broken store behaves as an empty one, but where it is asked to remove something or to
/// hand it out: then what it cannot reach is no answer.
#[async_trait]
pub trait CacheStore: Send + Sync + 'static {
    /// What is at hand.
    fn find(&self, key: &CacheKey) -> Option<Arc<Kept>>;

    /// What others keep of it, for who found nothing at hand. Waits no longer than a bound of its own.
    /// Dropping the future leaves nothing behind.
    async fn fetch(&self, _key: &CacheKey) -> Option<Arc<Kept>> {
        None
    }

    /// Keeps `kept` for at most `ttl`. May drop it, or others, at any time. Must not block: streams end
    /// here.
    fn keep(&self, key: CacheKey, kept: Arc<Kept>, ttl: Duration);

    /// Removes what is kept under `key`; it answers nobody a second later. False where nothing was, or where
    /// it cannot be removed everywhere.
    async fn forget(&self, key: &CacheKey) -> bool;

    /// Removes what is meant, before it returns: it answers nobody any more, wherever it was kept. Replies
    /// have no compartment and no id to be meant by. Gives how many went. Not for a request's path: it may
    /// look at every reply.
    ///
    /// # Errors
    /// Where some of them may be cannot be reached. What is at hand went; it may be called again.
    async fn purge(&self, what: &Purge) -> Result<u64, CacheAway>;

    /// Those that a purge would take, by their keys in ascending order, after one of them: no more than
    /// `count`. As little for a request's path.
    ///
    /// # Errors
    /// As of [`CacheStore::purge`].
    async fn meant(
        &self,
        what: &Purge,
        after: Option<CacheKey>,
        count: usize,
    ) -> Result<Vec<(CacheKey, Arc<Kept>)>, CacheAway>;
}

/// Kept replies that cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("replies that are kept cannot be looked up or removed")]
pub struct CacheAway(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// A response that its caller wanted kept, in the JSON of OpenAI's responses dialect. Raw text: what
/// it says was not masked.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredResponse {
    pub id: String,
    /// The response it goes on from; what was said there is not repeated here.
    pub previous: Option<String>,
    /// The response object without its output.
    pub head: Bytes,
    /// What was asked, in order.
    pub input: Vec<StoredItem>,
    /// What was answered, in order.
    pub output: Vec<StoredItem>,
    /// False where the reply broke off: nothing can go on from it.
    pub is_whole: bool,
    /// For whom it was made; empty where nobody was named.
    pub user: UserId,
    pub tags: Vec<Tag>,
}

/// One item of a stored response.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredItem {
    pub id: String,
    /// With its id.
    pub json: Bytes,
}

impl StoredResponse {
    /// The bytes it takes, but for what a store needs for itself.
    #[must_use]
    pub fn bytes(&self) -> usize {
        /// Two vectors' elements and an allocation's own.
        const ITEM_BYTES: usize = 96;
        let items = self.input.iter().chain(&self.output);
        let items = items.map(|item| item.id.len() + item.json.len() + ITEM_BYTES);
        let previous = self.previous.as_ref().map_or(0, String::len);
        let names = self.tags.iter().map(|tag| tag.as_str().len() + ITEM_BYTES);
        let names = self.user.as_str().len() + names.sum::<usize>();
        self.id.len() + previous + self.head.len() + items.sum::<usize>() + names
    }
}

impl StoredResponse {
    /// Whether `subject` is whose it is, as a response of `team`.
    #[must_use]
    pub fn is_of(&self, subject: &Subject, team: &TeamId) -> bool {
        subject.is_of(team)
            && match &subject.who {
                Who::User(user) => self.user == *user,
                Who::Tag(tag) => self.tags.contains(tag),
            }
    }
}

impl fmt::Debug for StoredResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredResponse")
            .field("bytes", &self.bytes())
            .field("is_whole", &self.is_whole)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for StoredItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredItem({} bytes)", self.json.len())
    }
}

/// Responses for later requests to read and to go on from. Each is its team's alone: to every other
/// team it is as if it were not there. A broken shelf behaves as an empty one.
pub trait ResponseShelf: Send + Sync + 'static {
    /// Keeps `response`, in place of one with its id. May drop it, or others, at any time. Must not
    /// block: streams end here.
    fn keep(&self, team: &TeamId, response: StoredResponse);

    fn find(&self, team: &TeamId, id: &str) -> Option<Arc<StoredResponse>>;

    /// Forgets the response; false when there was none.
    fn remove(&self, team: &TeamId, id: &str) -> bool;

    /// Somebody's, by team and id in ascending order, after one of them: no more than `count`. Not for a
    /// request's path: it may look at all of them.
    fn of_subject(
        &self,
        subject: &Subject,
        after: Option<(TeamId, String)>,
        count: usize,
    ) -> Vec<(TeamId, Arc<StoredResponse>)>;

    /// Forgets somebody's, before it returns. Gives how many went. As little for a request's path.
    fn forget(&self, subject: &Subject) -> u64;
}

/// One team's part of a shelf.
#[derive(Clone)]
pub struct TeamShelf {
    shelf: Arc<dyn ResponseShelf>,
    team: TeamId,
    /// Of the request that it is shown to.
    tags: Vec<Tag>,
}

impl TeamShelf {
    #[must_use]
    pub fn new(shelf: Arc<dyn ResponseShelf>, team: TeamId) -> Self {
        Self {
            shelf,
            team,
            tags: Vec::new(),
        }
    }

    /// The same, for a request with these tags.
    #[must_use]
    pub fn tagged(self, tags: Vec<Tag>) -> Self {
        Self { tags, ..self }
    }

    pub fn keep(&self, response: StoredResponse) {
        let tags = self.tags.clone();
        self.shelf
            .keep(&self.team, StoredResponse { tags, ..response });
    }

    #[must_use]
    pub fn find(&self, id: &str) -> Option<Arc<StoredResponse>> {
        self.shelf.find(&self.team, id)
    }

    /// Forgets the response; false when there was none.
    #[must_use]
    pub fn remove(&self, id: &str) -> bool {
        self.shelf.remove(&self.team, id)
    }
}

impl fmt::Debug for TeamShelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TeamShelf({})", self.team)
    }
}

/// Who holds which key. Looked up by digest, so that a leaked directory gives no key away.
pub trait KeyDirectory: Send + Sync + 'static {
    /// True when callers must show a key.
    fn is_required(&self) -> bool;

    /// Who holds the key.
    ///
    /// # Errors
    /// Why nobody does.
    fn find(&self, digest: &KeyDigest) -> Result<Principal, KeyTrouble>;

    /// The caller where none is required.
    fn anyone(&self) -> Principal {
        Principal::anyone()
    }

    /// Every limit that somebody is held to, once each: everybody's first, then teams', keys', tags' and
    /// models', by their names. Users' are not known before they ask.
    fn limits(&self) -> Vec<Limit> {
        let anyone = self.anyone();
        let limits = anyone.limits.iter().chain(anyone.rules.named());
        limits.cloned().collect()
    }
}

/// Takes finished exchanges. Called by the recorder alone, one at a time; must not block for long.
pub trait RecordSink: Send + Sync + 'static {
    fn append(&self, record: &ExchangeRecord);
}
