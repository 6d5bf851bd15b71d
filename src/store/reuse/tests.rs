//! The contract, and what bounds do.

mod embedded;
mod shared;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use domain::{Compartment, Entry, EntryId, Evidence, ReplyIndex};

use super::*;
use crate::conformance::{IndexBench, check_reply_index, entry_of};

/// A clock that is set.
#[derive(Clone)]
pub(super) struct Hands(Arc<Mutex<SystemTime>>);

impl Hands {
    pub fn new() -> Self {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        Self(Arc::new(Mutex::new(start)))
    }

    pub fn now(&self) -> SystemTime {
        *self.0.lock().unwrap()
    }

    pub fn advance(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }

    pub fn clock(&self) -> Clock {
        let hands = self.clone();
        Arc::new(move || hands.now())
    }
}

pub(super) const RULES: ReuseRules = ReuseRules {
    dimensions: 8,
    entries_max: 600,
    bytes_max: 8 << 20,
};

struct MemoryBench {
    index: Arc<MemoryIndex>,
    hands: Hands,
    rules: ReuseRules,
}

impl MemoryBench {
    fn new(rules: ReuseRules) -> Self {
        let hands = Hands::new();
        let index = Arc::new(MemoryIndex::new(rules, hands.clock()));
        Self {
            index,
            hands,
            rules,
        }
    }
}

#[async_trait]
impl IndexBench for MemoryBench {
    fn index(&self) -> Arc<dyn ReplyIndex> {
        Arc::clone(&self.index) as Arc<dyn ReplyIndex>
    }

    fn dimensions(&self) -> usize {
        self.rules.dimensions
    }

    fn entries_max(&self) -> u64 {
        self.rules.entries_max
    }

    fn now(&self) -> SystemTime {
        self.hands.now()
    }

    fn advance(&self, by: Duration) {
        self.hands.advance(by);
    }

    async fn settle(&self) {}

    async fn restart(&mut self) -> bool {
        false
    }
}

#[tokio::test]
async fn in_memory_it_keeps_the_contract_of_an_index() {
    check_reply_index(&mut MemoryBench::new(RULES)).await;
}

#[tokio::test]
async fn the_bytes_stay_within_their_bound_and_a_reply_beyond_it_is_not_kept() {
    let bench = MemoryBench::new(ReuseRules {
        bytes_max: 64 << 10,
        ..RULES
    });
    for id in 0..200 {
        bench.index.keep(Entry {
            text: "x".repeat(1_000),
            ..entry_of(&bench, id, 0.0)
        });
        let stats = bench.index.stats();
        assert!(stats.bytes <= 64 << 10, "{} bytes", stats.bytes);
    }
    let before = bench.index.stats();
    assert!((20..=32).contains(&before.entries), "{before:?}");
    bench.index.keep(Entry {
        text: "x".repeat(64 << 10),
        ..entry_of(&bench, 999, 0.0)
    });
    assert!(bench.index.find(EntryId(999)).is_none());
    assert_eq!(bench.index.stats(), before, "and nothing went for it");
}

#[tokio::test]
async fn what_was_wrong_or_of_no_use_goes_first() {
    let rules = ReuseRules {
        entries_max: 100,
        ..RULES
    };
    let bench = MemoryBench::new(rules);
    let compartment = |id: u64| Compartment([u8::try_from(id).unwrap(); 32]);
    let vector = entry_of(&bench, 0, 0.0).vector;
    for id in 0..100 {
        bench.index.keep(Entry {
            compartment: compartment(id),
            ..entry_of(&bench, id, 0.0)
        });
    }
    // Ten are used, ten were wrong.
    bench.hands.advance(Duration::from_secs(600));
    for id in 0..10 {
        for _ in 0..5 {
            assert_eq!(
                bench
                    .index
                    .nearest(&compartment(id), &vector, 1)
                    .await
                    .len(),
                1
            );
        }
    }
    for id in 10..20 {
        let wrong = Evidence {
            wrong: 1,
            ..Evidence::default()
        };
        bench.index.learn(EntryId(id), wrong);
    }
    for id in 200..250 {
        bench.index.keep(Entry {
            compartment: compartment(id),
            ..entry_of(&bench, id, 0.0)
        });
    }
    let left = |from: u64, to: u64| {
        let left = (from..to).filter(|id| bench.index.find(EntryId(*id)).is_some());
        left.count()
    };
    assert_eq!(left(0, 10), 10, "what is of use stays");
    assert!(left(10, 20) <= 1, "what was wrong went: {}", left(10, 20));
    assert!(
        left(200, 250) >= 48,
        "what is new stays: {}",
        left(200, 250)
    );
    assert_eq!(bench.index.stats().compartments, 100, "empty ones are none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_that_keep_purge_and_look_leave_rows_and_entries_in_step() {
    let bench = Arc::new(MemoryBench::new(ReuseRules {
        entries_max: 300,
        ..RULES
    }));
    let threads: Vec<_> = (0..4_u64)
        .map(|thread| {
            let bench = Arc::clone(&bench);
            std::thread::spawn(move || {
                for at in 0..400 {
                    let id = thread * 1_000 + at;
                    let compartment = Compartment([(id % 5) as u8; 32]);
                    bench.index.keep(Entry {
                        compartment,
                        ..entry_of(&*bench, id, id as f32 * 0.01)
                    });
                    let query = entry_of(&*bench, 0, id as f32 * 0.01).vector;
                    let looking = bench.index.nearest(&compartment, &query, 4);
                    futures::executor::block_on(looking);
                    if at % 50 == 49 {
                        let purge = domain::Purge::Compartment(Compartment([(at % 5) as u8; 32]));
                        futures::executor::block_on(bench.index.purge(&purge)).unwrap();
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let stats = bench.index.stats();
    assert!(stats.entries <= 300, "{stats:?}");
    let mut found = 0;
    for compartment in 0..5 {
        let query = entry_of(&*bench, 0, 0.0).vector;
        let compartment = Compartment([compartment; 32]);
        let near = bench.index.nearest(&compartment, &query, 64).await;
        found += near.len() as u64;
    }
    assert!(found >= stats.entries.min(64), "{found} of {stats:?}");
    bench.index.purge(&domain::Purge::All).await.unwrap();
    let empty = bench.index.stats();
    assert_eq!((empty.entries, empty.bytes, empty.compartments), (0, 0, 0));
}
