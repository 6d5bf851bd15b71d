//! How keys stand that replicas share.

use std::fmt;
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::registry::Registry;
use super::sealed::raise;
use crate::keys::SharedKeysState;

/// Says how it is.
pub type KeysNow = Arc<dyn Fn() -> SharedKeysState + Send + Sync>;

/// Of a node whose keys are those of all replicas.
pub struct KeyMetrics {
    now: KeysNow,
    apart: Gauge,
    partings: Counter,
    told: Gauge,
    left_out: Gauge,
}

impl fmt::Debug for KeyMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyMetrics")
    }
}

impl KeyMetrics {
    pub fn new(now: KeysNow, registry: &mut Registry) -> Self {
        let ours = Self {
            now,
            apart: Gauge::default(),
            partings: Counter::default(),
            told: Gauge::default(),
            left_out: Gauge::default(),
        };
        registry.register(
            "shared_keys_apart",
            "1 while the keys that replicas share cannot be asked for, and none is changed",
            ours.apart.clone(),
        );
        registry.register(
            "shared_keys_partings",
            "How often the keys that replicas share could not be asked for any more",
            ours.partings.clone(),
        );
        registry.register(
            "shared_keys_told",
            "1 while Redis tells of keys that other replicas changed",
            ours.told.clone(),
        );
        registry.register(
            "shared_keys_left_out",
            "Keys and teams of other replicas that do not go with the configuration here",
            ours.left_out.clone(),
        );
        ours
    }

    /// Reads the state anew.
    pub fn read(&self) {
        let state = (self.now)();
        self.apart.set(state.counts.is_apart.into());
        raise(&self.partings, state.counts.partings);
        self.told.set(state.counts.is_told.into());
        let left_out = i64::try_from(state.left_out).unwrap_or(i64::MAX);
        self.left_out.set(left_out);
    }
}
