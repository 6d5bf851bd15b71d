//! Neighbours among many: how long a lookup and a keep take, how often the nearest is found, what an
//! entry takes of memory, and how long a start takes.
//!
//! `cargo bench -p store --bench reuse -- 1000 100000 1000000` prints a line for each count of entries.
//! Vectors have 256 components and lie as those of questions do: about topics, in groups that ask the
//! same in other words. Replies are of 400 bytes.

#![expect(clippy::print_stdout, reason = "what a bench is for")]

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use domain::{Compartment, Entry, EntryId, Evidence, Kept, ReplyIndex};
use futures::executor::block_on;
use store::conformance::reply_of;
use store::{Clock, EmbeddedIndex, MemoryIndex, ReuseRules};

const DIMENSIONS: usize = 256;
/// Questions that ask the same.
const GROUP: u64 = 5;
const TOPIC_GROUPS: u64 = 20;
const QUERIES: u64 = 2_000;
/// Neighbours that the pipeline asks for: `policy::reuse::NEAR_MAX`.
const NEAR: usize = 16;
/// Of the queries those held against a look at every entry.
const CHECKED: usize = 200;
const COUNTS: [u64; 2] = [1_000, 100_000];
/// Says that two numbers are the entries and how many are in each compartment.
const ONE: &str = "one";
/// Entries of one compartment where there are many.
const SMALL: u64 = 100;

fn main() {
    let counts: Vec<u64> = std::env::args().filter_map(|it| it.parse().ok()).collect();
    let is_one = std::env::args().any(|it| it == ONE);
    if let (true, [count, in_each]) = (is_one, counts.as_slice()) {
        return measure(*count, *in_each);
    }
    let counts = match counts.is_empty() {
        true => COUNTS.to_vec(),
        false => counts,
    };
    println!(
        "entries in compartments | keep p50, p99 | lookup p50, p99, max | right at 1 | RSS per 100 k"
    );
    for count in &counts {
        // In a process of its own, so that none uses memory again that another gave back.
        for in_each in [*count, SMALL] {
            let own = std::env::current_exe().expect("this program");
            let args = [ONE.to_owned(), count.to_string(), in_each.to_string()];
            let ended = std::process::Command::new(own).args(args).status();
            assert!(ended.is_ok_and(|it| it.success()), "{count} in {in_each}");
        }
    }
    println!("\nrows | written in | bytes of file | first lookup after | all back after");
    for count in counts.iter().filter(|it| **it <= 100_000) {
        restart(*count);
    }
}

/// SplitMix64, from any number.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut it = self.0;
        it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        it ^ (it >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Adds noise of about the length `by`.
fn add(vector: &mut [f32], seed: u64, by: f32) {
    let mut draws = Draws(seed.wrapping_mul(0xff51_afd7_ed55_8ccd));
    // Of a component that is uniform between -1 and 1 the variance is a third.
    let scale = by * (3.0 / DIMENSIONS as f32).sqrt();
    for component in vector {
        let unit = (draws.next() >> 40) as f32 / (1_u64 << 23) as f32 - 1.0;
        *component += scale * unit;
    }
}

/// A question of a group, of length 1: `wording` tells it from the others.
fn question(group: u64, wording: u64) -> Vec<f32> {
    let mut vector = vec![0.0; DIMENSIONS];
    add(&mut vector, 1, 0.5);
    add(&mut vector, (2 << 40) + group / TOPIC_GROUPS, 1.0);
    add(&mut vector, (3 << 40) + group, 0.9);
    add(&mut vector, (4 << 40) + wording, 0.5);
    let length = product(&vector, &vector).sqrt();
    vector.iter_mut().for_each(|it| *it /= length);
    vector
}

fn product(left: &[f32], right: &[f32]) -> f32 {
    let (left, right) = (left.as_chunks::<16>().0, right.as_chunks::<16>().0);
    let mut sums = [0.0; 16];
    for (left, right) in left.iter().zip(right) {
        for at in 0..16 {
            sums[at] += left[at] * right[at];
        }
    }
    sums.iter().sum()
}

fn compartment_of(id: u64, in_each: u64) -> Compartment {
    let mut draws = Draws(id / in_each);
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&draws.next().to_le_bytes());
    Compartment(digest)
}

fn entry(id: u64, in_each: u64) -> Entry {
    let now = SystemTime::now();
    Entry {
        id: EntryId(id),
        compartment: compartment_of(id, in_each),
        class: "fact".to_owned(),
        text: format!("a question of some sixty characters, as questions are: {id}"),
        vector: question(id / GROUP, id),
        kept: Kept {
            reply: Arc::new(reply_of(&"x".repeat(400))),
            team: "team".into(),
            model: "auto".into(),
            tags: Vec::new(),
            user: None,
            kept_at: now,
            cost: None,
        },
        expires_at: now + Duration::from_secs(86_400),
        evidence: Evidence::default(),
        meaning: None,
    }
}

/// In bytes.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = pages.split(' ').nth(1).and_then(|it| it.parse().ok());
    pages.unwrap_or(0) * 4_096
}

fn rules() -> ReuseRules {
    ReuseRules {
        dimensions: DIMENSIONS,
        entries_max: u64::MAX,
        bytes_max: u64::MAX,
    }
}

fn clock() -> Clock {
    Arc::new(SystemTime::now)
}

fn part(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    let at = (times.len() as f64 * share) as usize;
    times[at.min(times.len() - 1)]
}

fn measure(count: u64, in_each: u64) {
    let before = resident();
    let index = MemoryIndex::new(rules(), clock());
    let mut keeps = Vec::with_capacity(count as usize);
    for id in 0..count {
        let entry = entry(id, in_each);
        let begun = Instant::now();
        index.keep(entry);
        keeps.push(begun.elapsed());
    }
    let taken = resident().saturating_sub(before);
    let (keep_p50, keep_p99) = (part(&mut keeps, 0.5), part(&mut keeps, 0.99));
    drop(keeps);

    let mut draws = Draws(count);
    let mut lookups = Vec::new();
    let mut asked = Vec::new();
    for at in 0..QUERIES {
        let id = draws.below(count);
        let (home, query) = (
            compartment_of(id, in_each),
            question(id / GROUP, (1 << 39) + at),
        );
        let begun = Instant::now();
        let found = block_on(index.nearest(&home, &query, NEAR));
        lookups.push(begun.elapsed());
        if asked.len() < CHECKED {
            asked.push((id, query, found.first().map(|it| it.entry.id.0)));
        }
    }
    let right = right_at_1(count, in_each, &asked);
    println!(
        "{count} in {} | {keep_p50:?}, {keep_p99:?} | {:?}, {:?}, {:?} | {right:.3} | {} MiB",
        count.div_ceil(in_each),
        part(&mut lookups, 0.5),
        part(&mut lookups, 0.99),
        part(&mut lookups, 1.0),
        (taken * 100_000 / count) >> 20,
    );
}

/// The share of queries for which the nearest of all was found first.
fn right_at_1(count: u64, in_each: u64, asked: &[(u64, Vec<f32>, Option<u64>)]) -> f64 {
    let mut nearest = vec![(f32::MIN, 0); asked.len()];
    for id in 0..count {
        let is_meant = |from: &u64| from / in_each == id / in_each;
        if in_each < count && !asked.iter().any(|(from, ..)| is_meant(from)) {
            continue;
        }
        let vector = question(id / GROUP, id);
        for ((from, query, _), best) in asked.iter().zip(&mut nearest) {
            if is_meant(from) {
                let similarity = product(query, &vector);
                if similarity > best.0 {
                    *best = (similarity, id);
                }
            }
        }
    }
    let right = asked.iter().zip(&nearest);
    let right = right.filter(|((.., found), (_, truth))| *found == Some(*truth));
    right.count() as f64 / asked.len() as f64
}

fn restart(count: u64) {
    let folder = tempfile::tempdir().expect("a folder for the file");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let open = || async {
        let opened = EmbeddedIndex::open(folder.path(), "bench", rules(), clock()).await;
        let (index, driver) = opened.expect("a file");
        let mut drivers = tokio::task::JoinSet::new();
        drivers.spawn(driver);
        (index, drivers)
    };
    runtime.block_on(async {
        let (index, mut drivers) = open().await;
        let begun = Instant::now();
        for id in 0..count {
            index.keep(entry(id, count));
            if id % 4_096 == 0 {
                index.flush().await;
            }
        }
        drop(index);
        drivers.join_next().await;
        let written = begun.elapsed();
        let files = std::fs::read_dir(folder.path()).expect("the folder");
        let bytes: u64 = files
            .filter_map(|it| Some(it.ok()?.metadata().ok()?.len()))
            .sum();

        let begun = Instant::now();
        let (index, _drivers) = open().await;
        let first = index
            .nearest(&compartment_of(0, count), &question(0, 0), NEAR)
            .await;
        let served = begun.elapsed();
        drop(first);
        index.flush().await;
        let back = begun.elapsed();
        assert_eq!(index.stats().entries, count, "all are back");
        println!("{count} | {written:?} | {bytes} | {served:?} | {back:?}");
    });
}
