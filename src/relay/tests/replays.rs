//! The replay cache: within its window a request is taken once, and outside of it never.

use std::time::Duration;

use super::support::{keys, seal};
use crate::{
    Aead, Ciphers, EncDigest, HeadReader, IdempotenceCache, Kem, ReplayCache, ReplayRefused,
    UnixTime,
};

const NOW: UnixTime = UnixTime(1_800_000_000);

fn digest(seed: u64) -> EncDigest {
    EncDigest::of(&seed.to_be_bytes())
}

fn at(seconds: u64) -> UnixTime {
    UnixTime(NOW.0 + seconds)
}

#[test]
fn the_same_bytes_are_taken_once() {
    let (_, config) = keys(Kem::X25519, 1);
    let (sealed, _) = seal(&config, Aead::Aes256Gcm, &[b"question"], 2);
    let digest = || {
        let head = HeadReader::new(Ciphers::Strict)
            .next(&mut &sealed[..])
            .unwrap();
        head.unwrap().digest()
    };
    let mut cache = ReplayCache::new(NOW);
    assert!(!cache.has_seen(&digest()));
    let taken = (0..100)
        .filter(|_| cache.take(&digest(), NOW, NOW).is_ok())
        .count();
    assert_eq!(taken, 1);
    assert!(cache.has_seen(&digest()));
    assert_eq!(cache.len(), 1);
}

/// Sent again at any second for ten minutes, whatever its date was: once taken, never again.
#[test]
fn no_request_is_taken_again_however_late() {
    for date_after in [0, 60, 119, 120] {
        for taken_after in (0..240).step_by(17) {
            let date = at(600 + date_after);
            let mut cache = ReplayCache::new(NOW);
            let begun = 480 + date_after + taken_after;
            assert_eq!(cache.take(&digest(1), date, at(begun)), Ok(()));
            for later in begun..begun + 600 {
                // Others keep the generations turning.
                let _ = cache.take(&digest(later), at(later), at(later));
                assert!(cache.take(&digest(1), date, at(later)).is_err());
            }
        }
    }
}

#[test]
fn a_date_counts_within_two_minutes_either_way() {
    let mut cache = ReplayCache::new(NOW);
    let now = at(1_000);
    let stale = Err(ReplayRefused::Date { now });
    assert_eq!(cache.take(&digest(1), at(880), now), Ok(()));
    assert_eq!(cache.take(&digest(2), at(879), now), stale);
    assert_eq!(cache.take(&digest(3), at(1_120), now), Ok(()));
    assert_eq!(cache.take(&digest(4), at(1_121), now), stale);
    assert_eq!(
        cache.take(&digest(2), at(1_000), now),
        Ok(()),
        "what was not taken still can be"
    );
}

#[test]
fn a_clock_that_is_set_back_opens_no_window() {
    let mut cache = ReplayCache::new(NOW);
    assert_eq!(cache.take(&digest(1), at(0), at(0)), Ok(()));
    for later in [400, 800, 1_200] {
        assert_eq!(cache.take(&digest(later), at(later), at(later)), Ok(()));
    }
    // Forgotten by now; the clock goes back to where it would be fresh.
    let refused = cache.take(&digest(1), at(0), at(1));
    assert_eq!(refused, Err(ReplayRefused::Date { now: at(1_200) }));
}

#[test]
fn a_full_cache_refuses_and_forgets_nothing() {
    let mut cache = ReplayCache::with_room(3, NOW);
    for seed in 0..3 {
        assert_eq!(cache.take(&digest(seed), at(10), at(10)), Ok(()));
    }
    let wait = Duration::from_secs(230);
    assert_eq!(
        cache.take(&digest(3), at(10), at(10)),
        Err(ReplayRefused::Full { wait })
    );
    assert_eq!(
        cache.take(&digest(0), at(10), at(10)),
        Err(ReplayRefused::Seen)
    );
    // A generation later there is no room yet, two later there is.
    assert!(matches!(
        cache.take(&digest(3), at(250), at(250)),
        Err(ReplayRefused::Full { .. })
    ));
    assert_eq!(cache.take(&digest(3), at(490), at(490)), Ok(()));
    assert_eq!(cache.len(), 1);
}

#[test]
fn a_key_of_idempotence_is_each_edges_own() {
    let mut cache = IdempotenceCache::new(NOW);
    assert_eq!(cache.take("branch-7", "one", NOW), Ok(()));
    assert_eq!(
        cache.take("branch-7", "one", at(599)),
        Err(ReplayRefused::Seen)
    );
    assert_eq!(cache.take("branch-8", "one", NOW), Ok(()));
    assert_eq!(cache.take("branch-7", "two", NOW), Ok(()));
    // Names and keys do not run into each other.
    assert_eq!(cache.take("branch-", "7one", NOW), Ok(()));
    assert_eq!(
        cache.take("branch-7", "one", at(1_300)),
        Ok(()),
        "and forgotten in time"
    );
}
