//! A key that has ended is in this process's memory no more: all of it is read, by the kernel's own file.
//!
//! What a key is looked for by is kept masked, and what is read is wiped, so that a search finds no other
//! copy than those it is for.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use hpke::Serializable as _;
use zeroize::Zeroize as _;

use super::support::{open, rng, seal};
use crate::{Aead, Ciphers, HeadReader, Kem, KeyConfig, KeyRing, RingTimes, SecretKey, UnixTime};

const START: UnixTime = UnixTime(1_800_000_000);
const MASK: u8 = 0xa5;
const BLOCK_BYTES: usize = 1 << 20;

/// 32 bytes that nobody else has.
struct Needle([u8; 32]);

impl Needle {
    fn of(key: &SecretKey) -> Self {
        let mut bytes = [0; 32];
        match key {
            SecretKey::X25519(key) => key.write_exact(&mut bytes),
            SecretKey::XWing(key) => key.write_exact(&mut bytes),
        }
        let masked = bytes.map(|byte| byte ^ MASK);
        bytes.zeroize();
        Self(masked)
    }

    fn is_at(&self, bytes: &[u8]) -> bool {
        let pairs = bytes.iter().zip(&self.0);
        bytes.len() >= self.0.len()
            && pairs
                .into_iter()
                .all(|(byte, masked)| byte ^ MASK == *masked)
    }
}

/// Where in this process's memory that can be written to the needles are, by the names of the mappings.
fn places(needles: &[Needle]) -> Vec<String> {
    let memory = File::open("/proc/self/mem").unwrap();
    let mut block = vec![0; BLOCK_BYTES];
    let own = block.as_ptr().addr()..block.as_ptr().addr() + block.len();
    let mut found = Vec::new();
    for line in fs::read_to_string("/proc/self/maps").unwrap().lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        let name = words.nth(3).unwrap_or("anonymous");
        if !rights.starts_with("rw") || name.starts_with("/dev/") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let bound = |text| usize::from_str_radix(text, 16).unwrap();
        let (mut at, end) = (bound(from), bound(to));
        while at < end {
            let length = BLOCK_BYTES.min(end - at);
            // A mapping may have gone meanwhile; other tests run beside this one.
            let Ok(count) = memory.read_at(&mut block[..length], at as u64) else {
                break;
            };
            for needle in needles {
                let first = needle.0[0] ^ MASK;
                let starts = (0..count).filter(|start| block[*start] == first);
                let starts = starts.filter(|start| needle.is_at(&block[*start..count]));
                let starts = starts.filter(|start| !own.contains(&(at + start)));
                found.extend(starts.map(|_| name.to_owned()));
            }
            if count < 32 {
                break;
            }
            // What stands across the end of a block is found in the next.
            at += if at + count == end { count } else { count - 31 };
        }
    }
    block.zeroize();
    found
}

/// As any work that a thread does next overwrites what was on its stack.
#[inline(never)]
fn other_work() -> u64 {
    let scratch = [std::hint::black_box(0x11_u8); 256 << 10];
    scratch.iter().map(|byte| u64::from(*byte)).sum()
}

#[test]
fn a_key_that_has_ended_is_nowhere_in_memory() {
    let times = RingTimes::default();
    let mut ring = KeyRing::new(times, &Kem::ALL, Ciphers::Strict, START, &mut rng(4_711)).unwrap();
    let mut needles = Vec::new();
    let mut held = Vec::new();
    for config in KeyConfig::read_list(&ring.list()).unwrap() {
        let (sealed, _) = seal(&config, Aead::Aes256Gcm, &[b"question"], 2);
        let head = HeadReader::new(Ciphers::Strict).next(&mut &sealed[..]);
        let secret = ring.find(&head.unwrap().unwrap(), START).unwrap();
        needles.push(Needle::of(&secret));
        assert_eq!(open(&secret, &sealed, 50).unwrap().0, b"question");
        held.push(secret);
    }
    other_work();
    let before = places(&needles);
    assert!(
        before.len() >= 2,
        "a search that finds nothing shows nothing"
    );
    // The ring has done with them; who opens a request with one of them has not.
    let end = START.after(times.life);
    ring.turn(end, &mut rng(2));
    assert!(
        places(&needles).len() >= 2,
        "a key is whole while it is used"
    );
    drop(held);
    other_work();
    let after = places(&needles);
    assert!(after.is_empty(), "copies are left in {after:?}");
}
