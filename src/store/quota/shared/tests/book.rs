//! What a replica knows and has yet to tell, without a server.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use domain::{Limit, Measure, MicroUsd, Period, Scope, Thresholds, Use, WhenSpent};

use super::super::super::calendar::Calendar;
use super::super::super::local::{Moment, Settled};
use super::super::book::{BATCH_MAX, Book, UNSETTLED_MAX, WhenApart};
use super::super::script::{Entry, Seen};

fn book() -> Book {
    let clock = Arc::new(|| Moment { nanos: 0, unix: 0 });
    let three = NonZeroU32::new(3).unwrap();
    let mut book = Book::new(Calendar::utc(), clock, three, WhenApart::Share);
    assert!(!book.greeted("first", 0, 0), "there was none before it");
    assert!(book.restated().is_ok());
    book
}

fn budget(team: &str) -> Limit {
    Limit {
        scope: Scope::Team(team.into()),
        measure: Measure::Cost,
        amount: 1_000,
        per: Period::Ever,
        burst: 1_000,
        when_spent: WhenSpent::Refuse,
        warn_at: Thresholds::new(&[800]).unwrap(),
    }
}

fn of(cost: i64) -> Use {
    Use {
        requests: 1,
        cost: MicroUsd(cost),
        ..Use::default()
    }
}

/// Takes `cost` as Redis would grant it, and settles `used`.
fn exchange(book: &mut Book, team: &str, cost: i64, used: i64) {
    let wants = book.wants(&[budget(team)], of(cost));
    let seen = account(0, cost.unsigned_abs());
    let (parts, _) = book.grant(wants, &[seen]);
    book.settle(&parts, of(used));
}

fn account(settled: u64, held: u64) -> Seen {
    Seen::Account {
        window_begin: 0,
        settled,
        held,
    }
}

/// Released and used, of the only entry.
fn figures(entries: &[Entry]) -> (u64, u64) {
    match entries {
        [Entry::Account { released, used, .. }] => (*released, *used),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_one_account_was_used_for_is_told_as_one_sum() {
    let mut book = book();
    for _ in 0..5 {
        exchange(&mut book, "a", 10, 7);
    }
    assert_eq!((book.held(), book.unsettled()), (50, 1));
    let batch = book.batch().unwrap();
    assert_eq!(figures(&batch.entries), (50, 35));
    // What comes meanwhile is the next one's.
    exchange(&mut book, "a", 3, 2);
    book.counted(&[account(35, 3)]);
    assert_eq!(book.held(), 3);
    let batch = book.batch().unwrap();
    assert_eq!((batch.number, figures(&batch.entries)), (2, (3, 2)));
    book.counted(&[account(37, 0)]);
    assert_eq!((book.held(), book.unsettled()), (0, 0));
    assert!(book.batch().is_none());
}

/// The answer to a batch was lost with the connection.
#[test]
fn a_batch_is_counted_once_whether_it_was_heard_or_not() {
    for was_heard in [true, false] {
        let mut book = book();
        exchange(&mut book, "a", 10, 7);
        let sent = book.batch().unwrap();
        let link = book.link().unwrap();
        assert!(book.part(link));
        let last = if was_heard { sent.number } else { 0 };
        assert!(!book.greeted("first", last, 0));
        let held = if was_heard { 0 } else { 10 };
        if let Err(stated) = book.restated() {
            assert_eq!(stated[0].held, held);
            book.heard(&stated, &[account(0, held)]);
            book.restated().unwrap();
        }
        assert_eq!(book.held(), held);
        let again = book.batch();
        let number = again.as_ref().map(|batch| batch.number);
        assert_eq!(number, (!was_heard).then_some(sent.number));
    }
}

#[test]
fn another_generation_is_told_what_was_known_before() {
    let mut book = book();
    exchange(&mut book, "a", 10, 7);
    book.batch().unwrap();
    book.counted(&[account(307, 0)]);
    let link = book.link().unwrap();
    book.part(link);
    assert!(book.greeted("second", 0, 0));
    let stated = book.restated().unwrap_err();
    assert_eq!((stated[0].settled, stated[0].held), (307, 0));
    // The connection breaks under it: it is still to be told.
    book.unheard(stated);
    assert!(!book.greeted("second", 0, 0));
    let stated = book.restated().unwrap_err();
    assert_eq!(stated[0].settled, 307);
    book.heard(&stated, &[account(400, 0)]);
    assert!(book.restated().is_ok());
}

#[test]
fn whoever_passes_a_threshold_is_told_once() {
    let mut book = book();
    book.watch(&[budget("a")]);
    for (used, settled, passed) in [(300, 799, None), (5, 804, Some(804)), (9, 813, None)] {
        exchange(&mut book, "a", 300, used);
        book.batch().unwrap();
        let warnings = book.counted(&[account(settled, 0)]);
        let told = warnings.first().map(|it| (it.permille, it.used));
        assert_eq!(told, passed.map(|used| (800, used)));
    }
}

#[test]
fn what_waits_has_a_bound_and_what_is_beyond_it_is_counted() {
    let mut book = book();
    for team in 0..UNSETTLED_MAX + 3 {
        exchange(&mut book, &team.to_string(), 1, 1);
    }
    assert_eq!(book.lost(), 3);
    // Those that are not told are not held for ever.
    assert_eq!(book.held(), UNSETTLED_MAX as u64);
    // One that waits already takes more.
    exchange(&mut book, "0", 1, 1);
    assert_eq!((book.lost(), book.unsettled()), (3, UNSETTLED_MAX));
    let batch = book.batch().unwrap();
    assert!(batch.entries.len() <= BATCH_MAX);
}

/// Of users that never ask again nothing is written down for ever, be it by this process or by the next.
#[test]
fn what_users_used_in_days_that_are_over_is_written_no_more() {
    const DAY: u64 = 86_400;
    let unix = Arc::new(AtomicU64::new(100 * DAY));
    let book = || {
        let shared = Arc::clone(&unix);
        let clock = Arc::new(move || {
            let unix = shared.load(Ordering::Relaxed);
            Moment {
                nanos: unix * 1_000_000_000,
                unix,
            }
        });
        let three = NonZeroU32::new(3).unwrap();
        let mut book = Book::new(Calendar::utc(), clock, three, WhenApart::Share);
        assert!(!book.greeted("first", 0, unix.load(Ordering::Relaxed)));
        book
    };
    let linked = |mut book: Book| {
        while let Err(stated) = book.restated() {
            let seen = stated.iter().map(|it| Seen::Account {
                window_begin: it.window.begin,
                settled: it.settled,
                held: it.held,
            });
            let seen: Vec<Seen> = seen.collect();
            book.heard(&stated, &seen);
        }
        book
    };
    let limits = ["anna", "red"].map(|who| Limit {
        scope: match who {
            "red" => Scope::Team("red".into()),
            user => Scope::User("red".into(), user.into()),
        },
        per: Period::Day,
        ..budget("red")
    });
    let mut first = linked(book());
    let wants = first.wants(&limits, of(10));
    let seen = [10, 10].map(|held| Seen::Account {
        window_begin: 100 * DAY,
        settled: 0,
        held,
    });
    let (parts, _) = first.grant(wants, &seen);
    first.settle(&parts, of(7));
    let written = first.settled();
    let amounts = |settled: &[Settled]| -> Vec<(bool, u64)> {
        let amounts = settled.iter();
        let amounts = amounts.map(|it| (matches!(it.scope, Scope::User(..)), it.amount));
        let mut amounts: Vec<_> = amounts.collect();
        amounts.sort_unstable();
        amounts
    };
    assert_eq!(amounts(&written), [(false, 7), (true, 7)]);
    unix.store(102 * DAY, Ordering::Relaxed);
    assert_eq!(amounts(&first.settled()), [(true, 0)]);
    unix.store(103 * DAY, Ordering::Relaxed);
    assert!(first.settled().is_empty(), "once");

    let mut next = book();
    next.restore(written.iter().cloned());
    let mut next = linked(next);
    assert_eq!(amounts(&next.settled()), [(true, 0)]);
    // The same day it is gone on from.
    unix.store(100 * DAY + 9, Ordering::Relaxed);
    let mut next = book();
    next.restore(written);
    let mut next = linked(next);
    assert!(next.settled().is_empty());
    let (anna, _) = next.left(&limits[..1]);
    assert_eq!(anna[0].amount, 993);
}
