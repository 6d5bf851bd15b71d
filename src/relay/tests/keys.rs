//! The ring of keys: when they are born, used, accepted and gone.

use std::collections::BTreeMap;
use std::time::Duration;

use super::support::{open, rng, seal};
use crate::{
    Aead, Ciphers, HeadReader, HeadRefused, Kem, KeyConfig, KeyRing, RequestHead, RingFault,
    RingTimes, UnixTime,
};

const START: UnixTime = UnixTime(1_800_000_000);
const MINUTE: u64 = 60;

fn at(minutes: u64) -> UnixTime {
    UnixTime(START.0 + minutes * MINUTE)
}

fn ring() -> KeyRing {
    let times = RingTimes::default();
    KeyRing::new(times, &Kem::ALL, Ciphers::Strict, START, &mut rng(1)).unwrap()
}

fn head(sealed: &[u8]) -> RequestHead {
    let mut reader = HeadReader::new(Ciphers::Interop);
    reader.next(&mut &sealed[..]).unwrap().unwrap()
}

#[test]
fn the_first_keys_are_in_use_at_once_x25519_first_and_x_wing_last() {
    let ring = ring();
    let list = KeyConfig::read_list(&ring.list()).unwrap();
    let kems: Vec<Kem> = list.iter().map(KeyConfig::kem).collect();
    assert_eq!(kems, [Kem::X25519, Kem::XWing]);
    assert!(
        ring.published()
            .iter()
            .all(|key| key.not_before == START && key.not_after == at(120))
    );
    for config in &list {
        let (sealed, _) = seal(config, Aead::Aes256Gcm, &[b"question"], 2);
        let secret = ring.find(&head(&sealed), START).unwrap();
        assert_eq!(open(&secret, &sealed, 50).unwrap().0, b"question");
    }
}

#[test]
fn a_key_is_told_of_then_used_then_accepted_then_gone() {
    let mut ring = ring();
    let first = KeyConfig::read_list(&ring.list()).unwrap().remove(0);
    let (sealed, _) = seal(&first, Aead::Aes256Gcm, &[b"question"], 2);
    let head = head(&sealed);
    assert_eq!(ring.next_turn(), at(60));
    assert!(!ring.turn(at(59), &mut rng(2)));

    assert!(ring.turn(at(60), &mut rng(3)), "the next are born");
    assert_eq!(ring.published().len(), 4);
    assert!(
        ring.published()[2..]
            .iter()
            .all(|key| key.not_before == at(70))
    );
    assert_eq!(
        KeyConfig::read_list(&ring.list()).unwrap()[0],
        first,
        "and not used yet"
    );
    assert_eq!(ring.next_turn(), at(70));

    assert!(ring.turn(at(70), &mut rng(4)), "now they are");
    assert_eq!(ring.published().len(), 2);
    assert_ne!(KeyConfig::read_list(&ring.list()).unwrap()[0], first);
    assert_eq!(ring.next_turn(), at(120));
    assert!(
        ring.find(&head, at(119)).is_ok(),
        "the old ones are accepted"
    );

    // Even where nobody turned the ring.
    assert_eq!(ring.find(&head, at(120)).unwrap_err(), HeadRefused);
    assert!(ring.turn(at(120), &mut rng(5)));
    assert_eq!(
        ring.find(&head, at(100)).unwrap_err(),
        HeadRefused,
        "time does not go back"
    );
    assert!(!format!("{ring:?}").contains("XWing("));
}

#[test]
fn a_key_is_wiped_with_the_last_request_that_uses_it() {
    let mut ring = ring();
    let first = KeyConfig::read_list(&ring.list()).unwrap().remove(0);
    let (sealed, _) = seal(&first, Aead::Aes256Gcm, &[b"question"], 2);
    let held = ring.find(&head(&sealed), START).unwrap();
    ring.turn(at(120), &mut rng(2));
    assert_eq!(
        std::sync::Arc::strong_count(&held),
        1,
        "the ring has it no more"
    );
}

#[test]
fn only_what_a_key_was_offered_for_finds_it() {
    let ring = ring();
    let list = KeyConfig::read_list(&ring.list()).unwrap();
    let (sealed, _) = seal(&list[0], Aead::Aes256Gcm, &[b""], 2);
    let right = head(&sealed);
    let mut other_cipher = right.clone();
    other_cipher.suite.aead = Aead::Aes128Gcm;
    let mut other_kem = right.clone();
    other_kem.suite.kem = Kem::XWing;
    let mut unknown = right.clone();
    unknown.key_id = list[1].id().wrapping_add(1);
    for wrong in [other_cipher, other_kem, unknown] {
        assert_eq!(ring.find(&wrong, START).unwrap_err(), HeadRefused);
    }
    assert!(ring.find(&right, START).is_ok());
}

/// Twelve days of turns, in which every id comes around: none comes again within a day of its birth,
/// there is always one key in use, and it is accepted for the better part of an hour yet.
#[test]
fn no_id_comes_again_within_a_day_and_there_is_always_a_key() {
    let kems = [Kem::X25519];
    let mut ring = KeyRing::new(
        RingTimes::default(),
        &kems,
        Ciphers::Strict,
        START,
        &mut rng(1),
    )
    .unwrap();
    let mut born: BTreeMap<u8, UnixTime> = BTreeMap::new();
    let mut now = START;
    let mut seen = 0;
    while now < at(12 * 24 * 60) {
        now = ring.next_turn();
        assert!(ring.turn(now, &mut rng(now.0)));
        let published = ring.published();
        let in_use = published.iter().filter(|key| key.not_before <= now);
        assert_eq!(in_use.clone().count(), 1);
        assert!(
            in_use
                .clone()
                .all(|key| key.not_after.0 >= now.0 + 50 * MINUTE)
        );
        for key in &published {
            let birth = UnixTime(key.not_after.0 - 120 * MINUTE);
            if let Some(before) = born.insert(key.config.id(), birth)
                && before != birth
            {
                seen += 1;
                assert!(birth.since(before) >= Duration::from_secs(24 * 60 * MINUTE));
            }
        }
    }
    assert_eq!(born.len(), 256);
    assert!(seen > 30);
}

#[test]
fn after_a_long_sleep_there_are_new_keys_at_once_and_no_old_ones() {
    let mut ring = ring();
    let before = ring.published();
    assert!(ring.turn(at(10_000), &mut rng(2)));
    let after = ring.published();
    assert_eq!(after.len(), 2);
    assert!(after.iter().all(|key| key.not_before == at(10_000)));
    assert!(
        after
            .iter()
            .all(|key| before.iter().all(|old| old.config != key.config))
    );
}

/// As a test turns them, every two seconds.
#[test]
fn short_times_are_kept_too_while_there_are_ids() {
    let second = Duration::from_secs(1);
    let times = RingTimes {
        every: 2 * second,
        lead: second,
        life: 10 * second,
        id_rest: 120 * second,
    };
    let mut ring =
        KeyRing::new(times, &Kem::ALL[..1], Ciphers::Strict, START, &mut rng(1)).unwrap();
    let mut ids = Vec::new();
    for after in 0..240 {
        ring.turn(UnixTime(START.0 + after), &mut rng(after));
        ids.extend(ring.published().iter().map(|key| key.config.id()));
    }
    ids.dedup();
    assert!(ids.len() >= 120);
    let with = |change: fn(&mut RingTimes)| {
        let mut changed = times;
        change(&mut changed);
        KeyRing::new(changed, &Kem::ALL, Ciphers::Strict, START, &mut rng(1)).unwrap_err()
    };
    assert_eq!(with(|times| times.id_rest *= 3), RingFault::Ids);
    assert_eq!(with(|times| times.life = times.every), RingFault::Life);
    assert_eq!(with(|times| times.every = Duration::ZERO), RingFault::Every);
    let none = KeyRing::new(times, &[], Ciphers::Strict, START, &mut rng(1));
    assert_eq!(none.unwrap_err(), RingFault::NoKem);
}
