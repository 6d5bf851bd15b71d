//! A copy of a reply on its way out, for whoever asks the same again, or much the same.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use domain::{
    CacheKey, CacheStore, ChatEvent, Entry, Kept, Mark, MicroUsd, ModelAlias, Reply, TeamId,
    TokenLogprobs, collect,
};
use futures::{FutureExt, StreamExt, stream};
use policy::{Compared, Incomparable, writer_id};

use crate::reuse::{Planting, Reuse, Seed, Shadow};
use crate::snapshot::Snapshot;
use crate::stages::Admitted;

/// Where a reply will be kept, and what is known by then of others like it.
pub(crate) struct Keeping {
    pub key: CacheKey,
    team: TeamId,
    model: ModelAlias,
    tags: Vec<String>,
    user: Option<Mark>,
    on_replies: Option<Mark>,
    /// What is compared of the request, until it was; `None` where nothing is looked for.
    pub compared: Option<Result<Compared, Incomparable>>,
    /// What an entry for other requests is made of.
    pub seed: Option<Seed>,
    /// What the reply is held against.
    pub shadow: Option<Shadow>,
    /// Entries near the request, one of those that say the same, the nearest first.
    pub near: Vec<Arc<Entry>>,
}

impl Keeping {
    pub fn new(
        key: CacheKey,
        compared: Option<Result<Compared, Incomparable>>,
        admitted: &Admitted,
    ) -> Self {
        // By which the reply may be removed again.
        let tags = admitted.principal.tags.iter();
        Self {
            key,
            team: admitted.principal.team.clone(),
            model: admitted.request.model.clone(),
            tags: tags.map(|tag| tag.as_str().to_owned()).collect(),
            user: admitted.principal.marks.user,
            on_replies: admitted.principal.marks.on_replies,
            compared,
            seed: None,
            shadow: None,
            near: Vec::new(),
        }
    }
}

/// Copies a stream as it goes by.
pub(crate) struct Tee {
    key: CacheKey,
    team: TeamId,
    model: ModelAlias,
    tags: Vec<String>,
    user: Option<Mark>,
    on_replies: Option<Mark>,
    store: Arc<dyn CacheStore>,
    planting: Option<Planting>,
    ttl: Duration,
    events: Vec<ChatEvent>,
    bytes: usize,
    bytes_max: usize,
}

impl Tee {
    pub fn new(
        keeping: Keeping,
        store: Arc<dyn CacheStore>,
        reuse: Option<&Reuse>,
        snapshot: &Snapshot,
    ) -> Self {
        let rules = snapshot.cache();
        let Keeping {
            key,
            team,
            model,
            tags,
            user,
            on_replies,
            compared: _,
            seed,
            shadow,
            near,
        } = keeping;
        let mut ttl = rules.ttl;
        let mut planting = None;
        if let (Some(reuse), Some(reusing), Some(seed)) = (reuse, snapshot.reuse(), seed) {
            let class = seed.class.as_label();
            ttl = reusing.ttl_by_class.get(class).copied().unwrap_or(ttl);
            planting = Some(Planting {
                core: Arc::clone(reuse.core()),
                desk: reuse.desk(),
                encoder: Arc::clone(&reusing.encoder),
                seed,
                shadow,
                near,
                writer: writer_id(&rules.secret, &team),
            });
        }
        Self {
            key,
            team,
            model,
            tags,
            user,
            on_replies,
            store,
            planting,
            ttl,
            events: Vec::new(),
            bytes: 0,
            bytes_max: rules.reply_bytes_max,
        }
    }

    /// False once the reply is too large to keep.
    pub fn take(&mut self, event: &ChatEvent) -> bool {
        self.bytes += text_bytes(event);
        self.events.push(event.clone());
        self.bytes <= self.bytes_max
    }

    /// The reply has ended, and cost so much.
    pub fn keep(self, cost: Option<MicroUsd>) {
        let events = stream::iter(self.events.into_iter().map(Ok)).boxed();
        // Every event is at hand, so the collection is ready at its first poll.
        let Some(Ok(reply)) = collect(events).now_or_never() else {
            return;
        };
        let reply: Arc<Reply> = Arc::new(reply);
        let mut kept = Kept {
            reply,
            team: self.team,
            model: self.model,
            tags: self.tags,
            user: self.user,
            kept_at: SystemTime::now(),
            cost,
        };
        if let Some(planting) = self.planting {
            planting.plant(&self.key, &kept, self.ttl);
        }
        kept.user = self.on_replies;
        self.store.keep(self.key, Arc::new(kept), self.ttl);
    }
}

/// What of an event counts to bounds of bytes.
pub(crate) fn text_bytes(event: &ChatEvent) -> usize {
    match event {
        ChatEvent::Text { text, .. }
        | ChatEvent::Thought { text, .. }
        | ChatEvent::StopString { text, .. } => text.len(),
        ChatEvent::ToolCall { part, .. } => part.arguments.len(),
        ChatEvent::Logprobs { tokens, .. } => tokens.iter().map(TokenLogprobs::bytes).sum(),
        ChatEvent::Seal { seal, .. } => seal.data.len(),
        ChatEvent::Written(written) => written.bytes.len(),
        ChatEvent::Started(_) | ChatEvent::ChoiceEnded { .. } | ChatEvent::Usage(_) => 0,
    }
}
