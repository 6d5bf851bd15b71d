//! The ring of keys at its times, and the manifest that names it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use relay::manifest::{MANIFEST_LIFE_MAX, Manifest, SignedManifest};
use relay::{HeadRefused, KeyRing, RequestHead, RingFault, SecretKey, UnixTime};
use tracing::warn;

use super::rules::GatewayRules;

pub(super) struct Keys {
    ring: Mutex<KeyRing>,
    published: ArcSwap<Published>,
}

/// What is told of the keys.
#[derive(Debug)]
pub(super) struct Published {
    pub manifest: SignedManifest,
    /// As `application/ohttp-keys`.
    pub list: Bytes,
    serial: u64,
    /// From when on a new manifest is to be made.
    again_at: UnixTime,
}

impl Keys {
    pub fn new(rules: &GatewayRules, now: UnixTime) -> Result<Self, RingFault> {
        let rng = &mut rand::rng();
        let ring = KeyRing::new(rules.times, &rules.kems, rules.ciphers, now, rng)?;
        let published = publish(&ring, rules, 0, now);
        Ok(Self {
            ring: Mutex::new(ring),
            published: ArcSwap::from_pointee(published),
        })
    }

    fn ring(&self) -> MutexGuard<'_, KeyRing> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn published(&self) -> Arc<Published> {
        self.published.load_full()
    }

    /// Does what is due.
    pub fn turn(&self, rules: &GatewayRules, now: UnixTime) {
        let mut ring = self.ring();
        let is_due = now >= ring.next_turn();
        let is_changed = is_due && ring.turn(now, &mut rand::rng());
        let published = self.published.load();
        if is_changed || now >= published.again_at {
            let next = publish(&ring, rules, published.serial, now);
            self.published.store(Arc::new(next));
        }
    }

    pub fn find(&self, head: &RequestHead, now: UnixTime) -> Result<Arc<SecretKey>, HeadRefused> {
        self.ring().find(head, now)
    }
}

/// From a manifest's making to its end. None outlives the keys that it names.
fn manifest_life(rules: &GatewayRules) -> Duration {
    MANIFEST_LIFE_MAX.min(rules.times.life)
}

fn publish(ring: &KeyRing, rules: &GatewayRules, last: u64, now: UnixTime) -> Published {
    let serial = Manifest::next_serial(last, now);
    let mut shapes = rules.shapes.clone();
    if !shapes.contains(&rules.shape) {
        shapes.push(rules.shape);
    }
    let shapes = shapes.iter().map(ToString::to_string).collect();
    let mut manifest = Manifest::of(ring, &rules.relay_id, serial, shapes);
    if let Some(attestor) = &rules.attestor {
        match manifest
            .clone()
            .attested(&rules.identity.pin(), &**attestor)
        {
            Ok(attested) => manifest = attested,
            Err(error) => warn!(%error, "nothing vouches for this machine"),
        }
    }
    let life = manifest_life(rules);
    Published {
        manifest: SignedManifest::sign(&manifest, &rules.identity, now, life),
        list: ring.list().into(),
        serial,
        again_at: now.after(life / 2).max(now.after(Duration::from_secs(1))),
    }
}
