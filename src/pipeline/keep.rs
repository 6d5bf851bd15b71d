//! A copy of a reply on its way out, for whoever asks the same again.

use std::sync::Arc;
use std::time::SystemTime;

use domain::{CacheKey, CacheStore, ChatEvent, Kept, MicroUsd, Reply, TokenLogprobs, collect};
use futures::{FutureExt, StreamExt, stream};

use crate::snapshot::CacheRules;
use crate::stages::Admitted;

/// Where a reply will be kept, and under which names it can be removed again.
pub(crate) struct Keeping {
    pub key: CacheKey,
    team: domain::TeamId,
    model: domain::ModelAlias,
    tags: Vec<String>,
}

impl Keeping {
    pub fn new(key: CacheKey, admitted: &Admitted) -> Self {
        Self {
            key,
            team: admitted.principal.team.clone(),
            model: admitted.request.model.clone(),
            tags: admitted.context.tags.clone(),
        }
    }

    fn kept(self, reply: Arc<Reply>, cost: Option<MicroUsd>) -> Kept {
        Kept {
            reply,
            team: self.team,
            model: self.model,
            tags: self.tags,
            kept_at: SystemTime::now(),
            cost,
        }
    }
}

/// Copies a stream as it goes by.
pub(crate) struct Tee {
    keeping: Keeping,
    cache: Arc<dyn CacheStore>,
    ttl: std::time::Duration,
    events: Vec<ChatEvent>,
    bytes: usize,
    bytes_max: usize,
}

impl Tee {
    pub fn new(keeping: Keeping, cache: Arc<dyn CacheStore>, rules: &CacheRules) -> Self {
        Self {
            keeping,
            cache,
            ttl: rules.ttl,
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
        if let Some(Ok(reply)) = collect(events).now_or_never() {
            let key = self.keeping.key;
            let kept = self.keeping.kept(Arc::new(reply), cost);
            self.cache.keep(key, Arc::new(kept), self.ttl);
        }
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
