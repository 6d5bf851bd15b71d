//! What became of what exchanges said, where it is kept.

use std::sync::Arc;

use pipeline::Texts;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use store::TextVault;

use super::registry::Registry;
use super::sealed::raise;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SealLabel {
    key: &'static str,
}

/// Of a node that keeps texts, or has some.
#[derive(Debug)]
pub struct TextMetrics {
    texts: Arc<Texts>,
    vault: Arc<TextVault>,
    results: Family<ResultLabel, Counter>,
    queued: Gauge,
    failing: Gauge,
    held: Family<SealLabel, Gauge>,
}

impl TextMetrics {
    pub fn new(texts: Arc<Texts>, vault: Arc<TextVault>, registry: &mut Registry) -> Self {
        let ours = Self {
            texts,
            vault,
            results: Family::default(),
            queued: Gauge::default(),
            failing: Gauge::default(),
            held: Family::default(),
        };
        registry.register(
            "texts",
            "Prompts and replies: written, dropped, not to be masked, and removed again",
            ours.results.clone(),
        );
        registry.register(
            "texts_queued",
            "Prompts and replies that wait to be written",
            ours.queued.clone(),
        );
        registry.register(
            "texts_failing",
            "1 while prompts and replies cannot be written",
            ours.failing.clone(),
        );
        registry.register(
            "texts_held",
            "Prompts and replies that are kept, by the key that they are sealed under",
            ours.held.clone(),
        );
        ours
    }

    /// Reads the counts anew.
    pub fn read(&self) {
        let (counts, held) = (self.texts.counts(), self.vault.counts());
        let results = [
            ("written", counts.written),
            ("dropped", counts.dropped),
            ("unmaskable", counts.unmaskable),
            ("removed", held.removed),
        ];
        for (result, count) in results {
            raise(&self.results.get_or_create(&ResultLabel { result }), count);
        }
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.queued.set(gauge(counts.queued));
        self.failing.set(i64::from(counts.is_failing));
        let newest = held.held.saturating_sub(held.under_old_keys + held.locked);
        for (key, count) in [
            ("newest", newest),
            ("older", held.under_old_keys),
            ("missing", held.locked),
        ] {
            self.held
                .get_or_create(&SealLabel { key })
                .set(gauge(count));
        }
    }
}
