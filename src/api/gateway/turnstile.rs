//! How often a sender may have something opened, before anybody knows whether it is worth it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::bucket::{Bucket, Flowing};
use crate::seats::AddressKey;

/// Senders that are remembered. Beyond, those who have not sent for longest are forgotten; where all
/// have just sent, whoever is new has to wait.
const SENDERS_MAX: usize = 65_536;

/// What a sender is told to wait when there is no place to remember it in.
const CROWD_WAIT: Duration = Duration::from_secs(1);

/// Who sends, as far as that is known without opening anything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Sender {
    /// By a certificate that was verified.
    Edge(String),
    Address(AddressKey),
}

#[derive(Debug)]
pub(super) struct Turnstile {
    flow: Flowing,
    buckets: Mutex<HashMap<Sender, Bucket>>,
}

impl Turnstile {
    pub fn new(flow: Flowing) -> Self {
        Self {
            flow,
            buckets: Mutex::default(),
        }
    }

    /// # Errors
    /// How long to wait.
    pub fn pass(&self, sender: Sender, now: Instant) -> Result<(), Duration> {
        let flow = self.flow;
        let mut buckets = lock(&self.buckets);
        if buckets.len() >= SENDERS_MAX && !buckets.contains_key(&sender) {
            // One that is full again says nothing.
            buckets.retain(|_, bucket| !bucket.is_full(flow, now));
            if buckets.len() >= SENDERS_MAX {
                return Err(CROWD_WAIT);
            }
        }
        let bucket = buckets.entry(sender).or_insert(Bucket::full(flow, now));
        bucket.take(1.0, flow, now)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many places each has; as large as there are who hold some.
#[derive(Debug)]
pub(super) struct Places<K: Eq + Hash> {
    held: Arc<Mutex<HashMap<K, u32>>>,
    each_max: u32,
}

/// One of them, given back on drop.
#[derive(Debug)]
pub(super) struct Place<K: Eq + Hash> {
    held: Arc<Mutex<HashMap<K, u32>>>,
    key: Option<K>,
}

impl<K: Eq + Hash + Clone> Places<K> {
    pub fn new(each_max: u32) -> Self {
        Self {
            held: Arc::default(),
            each_max,
        }
    }

    pub fn take(&self, key: K) -> Option<Place<K>> {
        let mut held = lock(&self.held);
        let count = held.entry(key.clone()).or_insert(0);
        if *count >= self.each_max {
            return None;
        }
        *count += 1;
        Some(Place {
            held: Arc::clone(&self.held),
            key: Some(key),
        })
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else {
            return;
        };
        let mut held = lock(&self.held);
        if let Some(count) = held.get_mut(&key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                held.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sender_waits_and_another_does_not() {
        let turnstile = Turnstile::new(Flowing {
            per_s: 1.0,
            room: 2.0,
        });
        let now = Instant::now();
        let pass = |name: &str| turnstile.pass(Sender::Edge(name.to_owned()), now);
        assert_eq!([pass("a"), pass("a")], [Ok(()), Ok(())]);
        assert_eq!(pass("a"), Err(Duration::from_secs(1)));
        assert_eq!(pass("b"), Ok(()));
    }

    #[test]
    fn places_are_given_back() {
        let places = Places::new(2);
        let held = [places.take("a"), places.take("a")];
        assert!(held.iter().all(Option::is_some));
        assert!(places.take("a").is_none());
        assert!(places.take("b").is_some());
        drop(held);
        assert!(lock(&places.held).is_empty());
    }
}
