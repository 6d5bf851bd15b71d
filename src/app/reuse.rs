//! What the node has to reuse replies: the index they are found in, and who learns of them.

use std::sync::Arc;
use std::time::SystemTime;

use pipeline::{CacheEncoder, Learner, Reuse, ReuseRules};
use policy::reuse::Scorer;
use store::MemoryIndex;

use crate::bundled;
use crate::config::{ModelSource, ReuseSettings};

/// An index for vectors of so many components, and what learns of its entries.
#[must_use]
pub fn open(settings: &ReuseSettings, dimensions: usize) -> (Reuse, Learner) {
    let rules = store::ReuseRules {
        dimensions,
        entries_max: settings.entries_max,
        bytes_max: settings.bytes_max,
    };
    let index = MemoryIndex::new(rules, Arc::new(SystemTime::now));
    Reuse::new(Arc::new(index), scorer(settings))
}

/// The scorer knows the vectors of the encoder it was trained with, and no others.
fn scorer(settings: &ReuseSettings) -> Scorer {
    let is_bundled = match &settings.encoder.source {
        ModelSource::Bundled => true,
        ModelSource::Path(path) => bundled::is_encoder_at(path),
        ModelSource::Depot(_) => false,
    };
    let scorer = Scorer::bundled();
    if is_bundled {
        scorer
    } else {
        scorer.without_encoder()
    }
}

/// The rules of a snapshot.
#[must_use]
pub fn rules(settings: &ReuseSettings, encoder: &Arc<CacheEncoder>) -> ReuseRules {
    ReuseRules {
        encoder: Arc::clone(encoder),
        acceptance: settings.acceptance,
        scope: settings.scope,
        writers_min: settings.writers_min,
        is_dry: settings.is_dry,
        ttl_by_class: settings.ttl_by_class.clone(),
        look_up_max: settings.look_up_max,
        hit_pad: settings.hit_pad,
    }
}
