//! Places for connections: so many in all, so many for one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ingress::LoadLimits;

/// Whom a bound per address counts: a v4 address, or a v6 /64, which one customer usually has to
/// himself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AddressKey(IpAddr);

impl AddressKey {
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(IpAddr::V4(v4)),
            IpAddr::V6(v6) => {
                let network = v6.to_bits() & (u128::from(u64::MAX) << 64);
                Self(IpAddr::V6(Ipv6Addr::from_bits(network)))
            }
        }
    }
}

/// How many seats each address holds; as large as there are connections.
type Held = Arc<Mutex<HashMap<AddressKey, u32>>>;

/// Hands out places, and counts who holds them.
#[derive(Debug)]
pub(crate) struct Seats {
    all: Arc<Semaphore>,
    by_address: Held,
    per_address_max: u32,
}

/// A place, given back on drop.
#[derive(Debug)]
pub(crate) struct Seat {
    _one_of_all: OwnedSemaphorePermit,
    counted: Option<(Held, AddressKey)>,
}

impl Seats {
    pub fn new(limits: &LoadLimits) -> Self {
        Self {
            all: Arc::new(Semaphore::new(
                limits.connections_max.clamp(1, Semaphore::MAX_PERMITS),
            )),
            by_address: Arc::default(),
            per_address_max: limits.connections_per_address_max.max(1),
        }
    }

    /// A place, or `None` when there is none for this address. `None` as key is exempt from the
    /// bound per address.
    pub fn take(&self, key: Option<AddressKey>) -> Option<Seat> {
        let one_of_all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let counted = match key {
            None => None,
            Some(key) => {
                let mut held = self
                    .by_address
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                let count = held.entry(key).or_insert(0);
                if *count >= self.per_address_max {
                    return None;
                }
                *count += 1;
                Some((Arc::clone(&self.by_address), key))
            }
        };
        Some(Seat {
            _one_of_all: one_of_all,
            counted,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some((held, key)) = self.counted.take() else {
            return;
        };
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                held.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats() -> Seats {
        Seats::new(&LoadLimits {
            connections_max: 3,
            connections_per_address_max: 2,
            requests_max: 1,
        })
    }

    fn key(address: &str) -> Option<AddressKey> {
        Some(AddressKey::of(address.parse().unwrap()))
    }

    #[test]
    fn an_address_cannot_take_every_seat() {
        let seats = seats();
        let _held = [
            seats.take(key("192.0.2.1")).unwrap(),
            seats.take(key("192.0.2.1")).unwrap(),
        ];
        assert!(seats.take(key("192.0.2.1")).is_none());
        assert!(seats.take(key("192.0.2.2")).is_some());
    }

    #[test]
    fn the_exempt_still_count_among_all() {
        let seats = seats();
        let held = [seats.take(None), seats.take(None), seats.take(None)];
        assert!(held.iter().all(Option::is_some));
        assert!(seats.take(None).is_none());
    }

    #[test]
    fn a_seat_given_back_is_free_and_leaves_no_trace() {
        let seats = seats();
        drop(seats.take(key("192.0.2.1")));
        assert!(seats.by_address.lock().unwrap().is_empty());
        assert_eq!(seats.all.available_permits(), 3);
    }

    #[test]
    fn one_v6_network_is_one_address_and_a_mapped_v4_is_itself() {
        assert_eq!(key("2001:db8:0:1::1"), key("2001:db8:0:1:ffff::2"));
        assert_ne!(key("2001:db8:0:1::1"), key("2001:db8:0:2::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
    }
}
