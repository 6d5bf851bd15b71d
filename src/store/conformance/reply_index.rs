//! The contract of a [`ReplyIndex`].

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use domain::{
    Compartment, Entry, EntryId, Evidence, Kept, Mark, MicroUsd, Neighbour, Purge, ReplyIndex,
    Subject, TeamId, Who, WriterId,
};
use futures::future::join_all;

use super::reply_of;

/// An index under test, and the world about it.
#[async_trait]
pub trait IndexBench: Send {
    fn index(&self) -> Arc<dyn ReplyIndex>;

    /// Components of its vectors; at least three.
    fn dimensions(&self) -> usize;

    /// Entries that it holds at most; at least 32, and few enough to fill it.
    fn entries_max(&self) -> u64;

    fn now(&self) -> SystemTime;

    /// Lets its clock go on.
    fn advance(&self, by: Duration);

    /// Waits until all that it was told can be found, and is written where it writes.
    async fn settle(&self);

    /// Ends it and opens it again; false where what it held ends with it.
    async fn restart(&mut self) -> bool;
}

/// What a purge does.
const GONE: &str = "what is meant is removed";

const HOUR: Duration = Duration::from_secs(3_600);

/// An entry of [`Compartment`] `[1; 32]` for an hour, whose vector points to an angle in the first two
/// components.
pub fn entry_of(bench: &dyn IndexBench, id: u64, angle: f32) -> Entry {
    Entry {
        id: EntryId(id),
        compartment: Compartment([1; 32]),
        class: "fact".to_owned(),
        text: format!("question {id} \u{1f980} \"'\0"),
        vector: pointing(bench, angle),
        kept: Kept {
            reply: Arc::new(reply_of(&format!("answer {id}"))),
            team: "ours".into(),
            model: "auto".into(),
            tags: vec!["spring".to_owned()],
            user: None,
            kept_at: bench.now(),
            cost: Some(MicroUsd(12)),
        },
        expires_at: bench.now() + HOUR,
        evidence: Evidence::default(),
        meaning: None,
    }
}

fn pointing(bench: &dyn IndexBench, angle: f32) -> Vec<f32> {
    let mut vector = vec![0.0; bench.dimensions()];
    (vector[0], vector[1]) = (angle.cos(), angle.sin());
    vector
}

async fn ids_near(bench: &dyn IndexBench, compartment: u8, angle: f32, count: usize) -> Vec<u64> {
    let compartment = Compartment([compartment; 32]);
    let found = bench
        .index()
        .nearest(&compartment, &pointing(bench, angle), count)
        .await;
    let falls = |pair: &[Neighbour]| pair[0].similarity >= pair[1].similarity;
    assert!(found.windows(2).all(falls), "the nearest come first");
    found.iter().map(|it| it.entry.id.0).collect()
}

async fn empty(bench: &dyn IndexBench) {
    bench.index().purge(&Purge::All).await.expect(GONE);
    bench.settle().await;
    assert_eq!(bench.index().stats().entries, 0, "nothing is left of all");
}

/// The whole contract.
///
/// # Panics
/// Where it is broken.
pub async fn check_reply_index(bench: &mut dyn IndexBench) {
    finds_what_was_kept(bench).await;
    empty(bench).await;
    finds_the_nearest_first(bench).await;
    empty(bench).await;
    keeps_compartments_apart(bench).await;
    empty(bench).await;
    forgets_in_time(bench).await;
    empty(bench).await;
    purges_what_is_meant(bench).await;
    empty(bench).await;
    learns(bench).await;
    empty(bench).await;
    leaves_out_what_is_no_vector(bench).await;
    empty(bench).await;
    serves_many_at_once(bench).await;
    empty(bench).await;
    stays_within_its_bound(bench).await;
    empty(bench).await;
    outlives_a_restart(bench).await;
}

async fn finds_what_was_kept(bench: &dyn IndexBench) {
    assert!(
        ids_near(bench, 1, 0.0, 4).await.is_empty(),
        "an empty index finds nothing"
    );
    assert!(bench.index().find(EntryId(1)).is_none());
    let entry = entry_of(bench, u64::MAX, 0.3);
    bench.index().keep(entry.clone());
    bench.settle().await;
    let by_name = bench
        .index()
        .find(entry.id)
        .expect("what was kept is found by its name");
    let near = bench
        .index()
        .nearest(&entry.compartment, &entry.vector, 1)
        .await;
    let by_nearness = near.first().expect("and by its vector");
    assert!(
        (by_nearness.similarity - 1.0).abs() < 1e-3,
        "{}",
        by_nearness.similarity
    );
    for found in [&by_name, &by_nearness.entry] {
        assert_eq!(found.vector.len(), entry.vector.len());
        for (found, kept) in found.vector.iter().zip(&entry.vector) {
            assert!(
                (found - kept).abs() < 1e-3,
                "its vector is {found} for {kept}"
            );
        }
        let found = Entry {
            vector: entry.vector.clone(),
            ..Entry::clone(found)
        };
        assert_eq!(found, entry, "all else is as it was");
    }
    assert!(
        bench.index().find(EntryId(1)).is_none(),
        "another name finds nothing"
    );
    assert_eq!(bench.index().stats().entries, 1);
    assert!(ids_near(bench, 1, 0.3, 0).await.is_empty(), "none are none");

    // The same name again takes the place of the one before.
    bench.index().keep(entry_of(bench, u64::MAX, 2.0));
    bench.settle().await;
    assert_eq!(ids_near(bench, 1, 2.0, 4).await, [u64::MAX]);
    assert_eq!(bench.index().stats().entries, 1);
}

async fn finds_the_nearest_first(bench: &dyn IndexBench) {
    for id in 0..10_u8 {
        bench
            .index()
            .keep(entry_of(bench, id.into(), f32::from(id) * 0.1));
    }
    bench.settle().await;
    assert_eq!(ids_near(bench, 1, 0.0, 3).await, [0, 1, 2]);
    assert_eq!(ids_near(bench, 1, 0.93, 2).await, [9, 8]);
    assert_eq!(ids_near(bench, 1, 0.42, 4).await, [4, 5, 3, 6]);
    assert_eq!(
        ids_near(bench, 1, 0.0, 100).await.len(),
        10,
        "no more than there are"
    );
    let opposite = pointing(bench, std::f32::consts::PI);
    let far = bench
        .index()
        .nearest(&Compartment([1; 32]), &opposite, 10)
        .await;
    let last = far
        .last()
        .expect("those that point away are neighbours too");
    assert!((last.similarity + 1.0).abs() < 1e-3, "{}", last.similarity);
}

async fn keeps_compartments_apart(bench: &dyn IndexBench) {
    for (id, compartment) in [(1, 1), (2, 2), (3, 2)] {
        bench.index().keep(Entry {
            compartment: Compartment([compartment; 32]),
            ..entry_of(bench, id, 0.0)
        });
    }
    bench.settle().await;
    assert_eq!(
        ids_near(bench, 1, 0.0, 10).await,
        [1],
        "a neighbour elsewhere is none"
    );
    let mut there = ids_near(bench, 2, 0.0, 10).await;
    there.sort_unstable();
    assert_eq!(there, [2, 3]);
    assert!(ids_near(bench, 3, 0.0, 10).await.is_empty());
    // One that differs in its last byte alone.
    let mut close = Compartment([1; 32]);
    close.0[31] = 2;
    let found = bench
        .index()
        .nearest(&close, &pointing(bench, 0.0), 10)
        .await;
    assert!(found.is_empty(), "a compartment is all of its digest");
    assert_eq!(bench.index().stats().compartments, 2);
}

async fn forgets_in_time(bench: &dyn IndexBench) {
    let minute = Duration::from_secs(60);
    for (id, life) in [(1, minute), (2, HOUR), (3, Duration::ZERO)] {
        bench.index().keep(Entry {
            expires_at: bench.now() + life,
            ..entry_of(bench, id, 0.0)
        });
    }
    bench.settle().await;
    assert_eq!(ids_near(bench, 1, 0.0, 1).await.len(), 1);
    assert!(
        bench.index().find(EntryId(3)).is_none(),
        "its time was over when it came"
    );
    bench.advance(minute - Duration::from_secs(1));
    assert!(
        bench.index().find(EntryId(1)).is_some(),
        "a second before its end"
    );
    bench.advance(Duration::from_secs(1));
    assert_eq!(
        ids_near(bench, 1, 0.0, 1).await,
        [2],
        "one that is over takes no place from one that is not"
    );
    assert!(bench.index().find(EntryId(1)).is_none());
    bench.index().purge(&Purge::Expired).await.expect(GONE);
    bench.settle().await;
    assert_eq!(bench.index().stats().entries, 1);
    assert_eq!(ids_near(bench, 1, 0.0, 10).await, [2]);
}

async fn purges_what_is_meant(bench: &dyn IndexBench) {
    let of = |who, team: Option<&str>, mark| {
        let team = team.map(TeamId::new);
        Purge::Subject(Subject { who, team }, Mark([mark; Mark::BYTES]))
    };
    let user = |team, mark| of(Who::User("unread".into()), team, mark);
    let tag = |team, tag: &str| of(Who::Tag(tag.into()), team, 0);
    let cases: [(Purge, &[u64]); 14] = [
        (Purge::Tag("summer".to_owned()), &[1, 7]),
        (Purge::Tag("summ%".to_owned()), &[]),
        (Purge::Model("other".into()), &[2]),
        (Purge::Team("theirs".into()), &[3, 7]),
        (Purge::Compartment(Compartment([2; 32])), &[4]),
        (Purge::Entry(EntryId(5)), &[5]),
        (Purge::Expired, &[]),
        (user(None, 6), &[6, 7]),
        (user(Some("theirs"), 6), &[7]),
        (user(Some("ours"), 5), &[]),
        (tag(None, "summer"), &[1, 7]),
        (tag(Some("ours"), "summer"), &[1]),
        (tag(None, "summ%"), &[]),
        (Purge::All, &[0, 1, 2, 3, 4, 5, 6, 7]),
    ];
    for (purge, goes) in cases {
        empty(bench).await;
        for id in 0..8 {
            let mut entry = entry_of(bench, id, 0.0);
            match id {
                1 => entry.kept.tags.push("summer".to_owned()),
                2 => entry.kept.model = "other".into(),
                3 => entry.kept.team = "theirs".into(),
                4 => entry.compartment = Compartment([2; 32]),
                6 => entry.kept.user = Some(Mark([6; Mark::BYTES])),
                7 => {
                    entry.kept.tags.push("summer".to_owned());
                    entry.kept.team = "theirs".into();
                    entry.kept.user = Some(Mark([6; Mark::BYTES]));
                }
                _ => {}
            }
            bench.index().keep(entry);
        }
        bench.settle().await;
        if !matches!(purge, Purge::Compartment(_) | Purge::Entry(_)) {
            let meant = |after, count| {
                let found = bench.index().meant(&purge, after, count).into_iter();
                found.map(|entry| entry.id.0).collect::<Vec<_>>()
            };
            assert_eq!(meant(None, 9), goes, "{purge:?}");
            let first = goes.iter().take(1).copied();
            assert_eq!(meant(None, 1), first.collect::<Vec<_>>(), "{purge:?}");
            let rest = goes.iter().filter(|id| **id > 1).copied();
            assert_eq!(
                meant(Some(EntryId(1)), 9),
                rest.collect::<Vec<_>>(),
                "{purge:?}"
            );
        }
        let count = bench.index().purge(&purge).await.expect(GONE);
        assert_eq!(count, goes.len() as u64, "{purge:?}");
        let mut left = ids_near(bench, 1, 0.0, 10).await;
        left.extend(ids_near(bench, 2, 0.0, 10).await);
        left.sort_unstable();
        let expected: Vec<u64> = (0..8).filter(|id| !goes.contains(id)).collect();
        assert_eq!(left, expected, "{purge:?}");
        for id in 0..8 {
            let is_there = bench.index().find(EntryId(id)).is_some();
            assert_eq!(is_there, expected.contains(&id), "{purge:?}, by name {id}");
        }
    }
}

fn some_evidence() -> Evidence {
    let mut evidence = Evidence {
        right: 3,
        wrong: 1,
        ..Evidence::default()
    };
    evidence.confirm(WriterId(u64::MAX));
    evidence
}

async fn learns(bench: &dyn IndexBench) {
    bench.index().keep(entry_of(bench, 1, 0.0));
    bench.settle().await;
    bench.index().learn(EntryId(1), some_evidence());
    bench.index().learn(EntryId(2), some_evidence());
    bench.settle().await;
    let found = bench.index().find(EntryId(1)).expect("it is still there");
    assert_eq!(found.evidence, some_evidence());
    let near = bench
        .index()
        .nearest(&Compartment([1; 32]), &found.vector, 1)
        .await;
    assert_eq!(
        near[0].entry.evidence,
        some_evidence(),
        "neighbours come with it"
    );
    assert!(
        bench.index().find(EntryId(2)).is_none(),
        "what is not there learns nothing"
    );
}

async fn leaves_out_what_is_no_vector(bench: &dyn IndexBench) {
    bench.index().keep(entry_of(bench, 1, 0.0));
    bench.settle().await;
    let dimensions = bench.dimensions();
    let with = |at: usize, component: f32| {
        let mut vector = pointing(bench, 0.0);
        vector[at] = component;
        vector
    };
    let wrong = [
        with(0, f32::NAN),
        with(dimensions - 1, f32::INFINITY),
        with(1, f32::NEG_INFINITY),
        with(1, f32::MAX),
        vec![0.0; dimensions],
        vec![1.0; dimensions - 1],
        vec![1.0; dimensions + 1],
        Vec::new(),
    ];
    for (id, vector) in (10..).zip(wrong) {
        let found = bench
            .index()
            .nearest(&Compartment([1; 32]), &vector, 4)
            .await;
        assert!(
            found.is_empty(),
            "no neighbours of {} components",
            vector.len()
        );
        bench.index().keep(Entry {
            vector,
            ..entry_of(bench, id, 0.0)
        });
        bench.settle().await;
        assert!(
            bench.index().find(EntryId(id)).is_none(),
            "{id} is left out"
        );
    }
    assert_eq!(
        ids_near(bench, 1, 0.0, 10).await,
        [1],
        "the others are as before"
    );
}

async fn serves_many_at_once(bench: &dyn IndexBench) {
    let each = bench.entries_max() / 8;
    let work = (0..8_u8).map(|worker| {
        let index = bench.index();
        let entries: Vec<Entry> = (0..each)
            .map(|at| Entry {
                compartment: Compartment([worker; 32]),
                ..entry_of(bench, u64::from(worker) * 1_000_000 + at, at as f32 * 0.01)
            })
            .collect();
        async move {
            for entry in entries {
                let (compartment, vector) = (entry.compartment, entry.vector.clone());
                index.keep(entry);
                let found = index.nearest(&compartment, &vector, 4).await;
                let is_own = |it: &Neighbour| it.entry.compartment == compartment;
                assert!(
                    found.iter().all(is_own),
                    "neighbours of another compartment"
                );
            }
        }
    });
    join_all(work).await;
    bench.settle().await;
    for worker in 0..8 {
        let found = ids_near(bench, worker, 0.0, usize::try_from(each).expect("few")).await;
        let expected: Vec<u64> = (0..each)
            .map(|at| u64::from(worker) * 1_000_000 + at)
            .collect();
        assert_eq!(found, expected[..found.len()], "of worker {worker}");
        assert!(found.len() as u64 == each || found.len() >= 32);
    }
    assert_eq!(bench.index().stats().entries, each * 8);
}

async fn stays_within_its_bound(bench: &dyn IndexBench) {
    let bound = bench.entries_max();
    let evicted_before = bench.index().stats().evicted;
    for id in 0..bound * 2 {
        bench.index().keep(entry_of(bench, id, id as f32 * 0.001));
        let stats = bench.index().stats();
        assert!(stats.entries <= bound, "{} entries", stats.entries);
        // So that none is lost in a queue.
        if id % 64 == 0 {
            bench.settle().await;
        }
    }
    bench.settle().await;
    let stats = bench.index().stats();
    assert!(
        stats.entries <= bound && stats.entries * 2 > bound,
        "{} entries",
        stats.entries
    );
    assert_eq!(stats.evicted - evicted_before, bound * 2 - stats.entries);
    let last = bench.index().find(EntryId(bound * 2 - 1));
    assert!(
        last.is_some(),
        "the one that came last is not the one that goes"
    );
}

async fn outlives_a_restart(bench: &mut dyn IndexBench) {
    let index = bench.index();
    for (id, life) in [(1, HOUR), (2, HOUR), (3, HOUR), (4, Duration::from_secs(1))] {
        index.keep(Entry {
            expires_at: bench.now() + life,
            ..entry_of(bench, id, id as f32 * 0.1)
        });
    }
    index.learn(EntryId(1), some_evidence());
    bench.settle().await;
    assert_eq!(index.purge(&Purge::Entry(EntryId(2))).await.expect(GONE), 1);
    index.save_state(b"before".to_vec());
    index.save_state(b"what was learned \0\xff".to_vec());
    assert_eq!(
        index.load_state().as_deref(),
        Some(&b"what was learned \0\xff"[..])
    );
    let kept = index.find(EntryId(1));
    drop(index);
    bench.settle().await;
    bench.advance(Duration::from_secs(1));
    if !bench.restart().await {
        return;
    }
    bench.settle().await;
    let state = bench.index().load_state();
    assert_eq!(state.as_deref(), Some(&b"what was learned \0\xff"[..]));
    assert_eq!(ids_near(bench, 1, 0.0, 10).await, [1, 3]);
    assert_eq!(
        bench.index().find(EntryId(1)),
        kept,
        "whole, with what was learned of it"
    );
    assert!(
        bench.index().find(EntryId(2)).is_none(),
        "what was purged stays away"
    );
    assert!(bench.index().find(EntryId(4)).is_none(), "and what is over");
    // And what is kept now does not disturb what was.
    bench.index().keep(entry_of(bench, 5, 0.5));
    bench.settle().await;
    assert_eq!(ids_near(bench, 1, 0.0, 10).await, [1, 3, 5]);
}
