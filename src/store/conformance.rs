//! What every implementation of a storage trait must do. Each one runs these from its own tests.
//!
//! # Panics
//! All of them, where the contract is broken: they are tests.

mod keys;
mod quota;
mod records;
mod reply_index;

pub use keys::{check_key_place, kept_key_of};
pub use quota::check_quotas;
pub use records::{check_record_shelf, record_of};
pub use reply_index::{IndexBench, check_reply_index, entry_of};

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use domain::{
    CacheKey, CacheStore, FinishReason, Kept, KeyDigest, KeyDirectory, KeyTrouble, Mark, Purge,
    Reply, ReplyChoice, ReplyPiece, ResponseShelf, Started, StoredItem, StoredResponse, Subject,
    TeamId, UserId, Who,
};

/// A reply of one choice that says `text`.
#[must_use]
pub fn reply_of(text: &str) -> Reply {
    Reply {
        started: Started {
            model: "model".to_owned(),
            reply_id: None,
            fingerprint: None,
        },
        choices: vec![ReplyChoice {
            choice: 0,
            pieces: vec![ReplyPiece::Text(text.to_owned())],
            tool_calls: Vec::new(),
            stop_string: None,
            logprobs: Vec::new(),
            reason: FinishReason::Stop,
        }],
        usage: None,
        written: None,
    }
}

/// The same, kept for the team `team` that asked for `model`.
#[must_use]
pub fn kept_of(text: &str) -> Kept {
    Kept {
        reply: Arc::new(reply_of(text)),
        team: "team".into(),
        model: "model".into(),
        tags: Vec::new(),
        user: None,
        kept_at: SystemTime::UNIX_EPOCH,
        cost: None,
    }
}

/// The contract of a [`CacheStore`] with room for a handful of small replies.
///
/// # Panics
/// Where it is broken.
pub async fn check_cache_store(store: &dyn CacheStore) {
    let long = Duration::from_secs(3600);
    let (one, two) = (CacheKey([1; 32]), CacheKey([2; 32]));
    assert!(store.find(&one).is_none(), "an empty store finds nothing");

    store.keep(one, Arc::new(kept_of("first")), long);
    assert_eq!(
        store.find(&one).as_deref(),
        Some(&kept_of("first")),
        "what was kept is found whole"
    );
    assert!(store.find(&two).is_none(), "another key finds nothing");

    store.keep(one, Arc::new(kept_of("second")), long);
    assert_eq!(
        store.find(&one).as_deref(),
        Some(&kept_of("second")),
        "the later reply replaces the earlier"
    );

    store.keep(two, Arc::new(kept_of("other")), long);
    assert_eq!(
        store.find(&one).as_deref(),
        Some(&kept_of("second")),
        "keys do not disturb each other"
    );

    store.keep(one, Arc::new(kept_of("gone")), Duration::ZERO);
    assert!(
        store.find(&one).is_none(),
        "a reply kept for no time is not found, nor the one before it"
    );

    store.keep(one, Arc::new(kept_of("brief")), Duration::from_nanos(1));
    assert!(
        store.find(&one).is_none(),
        "a reply whose time is up is not found"
    );

    store.keep(one, Arc::new(kept_of("again")), long);
    assert!(store.forget(&one).await, "what is kept can be forgotten");
    assert!(!store.forget(&one).await, "and only once");
    assert!(store.find(&one).is_none(), "what is forgotten is gone");

    let tagged = Kept {
        tags: vec!["spring".to_owned()],
        team: "red".into(),
        ..kept_of("tagged")
    };
    store.keep(one, Arc::new(tagged), long);
    assert_eq!(purged(store, &Purge::Tag("summer".to_owned())).await, 0);
    assert_eq!(purged(store, &Purge::Expired).await, 0);
    assert_eq!(purged(store, &Purge::Tag("spring".to_owned())).await, 1);
    assert!(store.find(&one).is_none() && store.find(&two).is_some());
    assert_eq!(purged(store, &Purge::Team("red".into())).await, 0);
    assert_eq!(purged(store, &Purge::Model("model".into())).await, 1);
    check_replies_of_somebody(store).await;
    store.keep(one, Arc::new(kept_of("last")), long);
    assert_eq!(
        purged(store, &Purge::All).await,
        1,
        "all that there is goes"
    );
}

async fn purged(store: &dyn CacheStore, what: &Purge) -> u64 {
    store.purge(what).await.expect("it can be asked")
}

/// Somebody's, in pieces and in order, and no one else's.
async fn check_replies_of_somebody(store: &dyn CacheStore) {
    let (anna, ben) = (Mark([1; Mark::BYTES]), Mark([2; Mark::BYTES]));
    let user = |team: Option<&str>, mark| {
        let who = Who::User("unread".into());
        let team = team.map(TeamId::new);
        Purge::Subject(Subject { who, team }, mark)
    };
    let of = [(anna, "red"), (ben, "red"), (anna, "red"), (anna, "blue")];
    for (at, (mark, team)) in (1..).zip(of) {
        let kept = Kept {
            user: Some(mark),
            team: team.into(),
            ..kept_of("theirs")
        };
        store.keep(
            CacheKey([at; 32]),
            Arc::new(kept),
            Duration::from_secs(3600),
        );
    }
    let keys = async |what: &Purge, after, count| {
        let found = store.meant(what, after, count).await;
        let found = found.expect("it can be asked").into_iter();
        found.map(|(key, _)| key.0[0]).collect::<Vec<_>>()
    };
    assert_eq!(keys(&user(None, anna), None, 9).await, [1, 3, 4]);
    assert_eq!(keys(&user(None, anna), None, 2).await, [1, 3]);
    assert_eq!(
        keys(&user(None, anna), Some(CacheKey([3; 32])), 2).await,
        [4]
    );
    assert_eq!(keys(&user(Some("red"), anna), None, 9).await, [1, 3]);
    assert_eq!(purged(store, &user(Some("red"), anna)).await, 2);
    assert_eq!(
        purged(store, &user(None, anna)).await,
        1,
        "the other team's"
    );
    assert_eq!(purged(store, &user(None, anna)).await, 0);
    assert_eq!(
        purged(store, &user(None, ben)).await,
        1,
        "nobody else's went"
    );
}

/// The contract of a [`KeyDirectory`] that knows `known` and not `unknown`.
///
/// # Panics
/// Where it is broken.
pub fn check_key_directory(keys: &dyn KeyDirectory, known: &KeyDigest, unknown: &KeyDigest) {
    assert!(keys.is_required(), "a directory with keys requires one");
    let found = keys.find(known);
    assert!(found.is_ok(), "a known key is found");
    assert_eq!(found, keys.find(known), "looking twice finds the same");
    let nobody = Err(KeyTrouble::Unknown);
    assert_eq!(keys.find(unknown), nobody, "an unknown key is not found");
}

/// The contract of a [`KeyDirectory`] whose keys end: `expiring` opens until `until_s`, `disabled` never.
/// `set_clock` sets its clock, in Unix seconds.
///
/// # Panics
/// Where it is broken.
pub fn check_key_directory_over_time(
    keys: &dyn KeyDirectory,
    expiring: &KeyDigest,
    disabled: &KeyDigest,
    until_s: u64,
    set_clock: impl Fn(u64),
) {
    for now_s in [0, until_s - 1] {
        set_clock(now_s);
        assert!(keys.find(expiring).is_ok(), "it opens until its end");
        let refused = Err(KeyTrouble::Disabled);
        assert_eq!(keys.find(disabled), refused, "a disabled key opens nothing");
    }
    for now_s in [until_s, u64::MAX] {
        set_clock(now_s);
        let refused = Err(KeyTrouble::Expired);
        assert_eq!(keys.find(expiring), refused, "and nothing from then on");
    }
    assert!(keys.is_required(), "keys that are over are keys");
}

/// A response of one input item that says `text`.
#[must_use]
pub fn response_of(id: &str, text: &str) -> StoredResponse {
    StoredResponse {
        id: id.to_owned(),
        previous: None,
        head: "{}".into(),
        input: vec![StoredItem {
            id: format!("msg_{id}"),
            json: text.to_owned().into(),
        }],
        output: Vec::new(),
        is_whole: true,
        user: UserId::new(""),
        tags: Vec::new(),
    }
}

/// The contract of a [`ResponseShelf`] with room for a handful of small responses.
///
/// # Panics
/// Where it is broken.
pub fn check_response_shelf(shelf: &dyn ResponseShelf) {
    let (ours, theirs) = (TeamId::new("ours"), TeamId::new("theirs"));
    assert!(
        shelf.find(&ours, "a").is_none(),
        "an empty shelf finds nothing"
    );
    assert!(!shelf.remove(&ours, "a"), "nor can anything be forgotten");

    shelf.keep(&ours, response_of("a", "first"));
    assert_eq!(
        shelf.find(&ours, "a").as_deref(),
        Some(&response_of("a", "first")),
        "what was kept is found whole"
    );
    assert!(shelf.find(&ours, "b").is_none(), "another id finds nothing");
    assert!(
        shelf.find(&theirs, "a").is_none(),
        "another team finds nothing"
    );
    assert!(
        !shelf.remove(&theirs, "a"),
        "another team has nothing to forget"
    );
    assert!(shelf.find(&ours, "a").is_some(), "and takes nothing away");

    shelf.keep(&theirs, response_of("a", "theirs"));
    assert_eq!(
        shelf.find(&ours, "a").as_deref(),
        Some(&response_of("a", "first")),
        "two teams may have an id in common"
    );

    shelf.keep(&ours, response_of("a", "second"));
    assert_eq!(
        shelf.find(&ours, "a").as_deref(),
        Some(&response_of("a", "second")),
        "the later response replaces the earlier"
    );

    assert!(shelf.remove(&ours, "a"), "what is there can be forgotten");
    assert!(shelf.find(&ours, "a").is_none(), "and is gone at once");
    assert!(!shelf.remove(&ours, "a"), "once");
    assert!(shelf.find(&theirs, "a").is_some(), "the other team's stays");
    check_responses_of_somebody(shelf);
}

/// Somebody's, in pieces and in order, and no one else's.
fn check_responses_of_somebody(shelf: &dyn ResponseShelf) {
    let (red, blue) = (TeamId::new("red"), TeamId::new("blue"));
    for (id, team, user, tag) in [
        ("a", &red, "anna", "spring"),
        ("b", &red, "ben", "spring"),
        ("c", &red, "anna", "summer"),
        ("a", &blue, "anna", "spring"),
    ] {
        let response = StoredResponse {
            user: user.into(),
            tags: vec![tag.into()],
            ..response_of(id, "text")
        };
        shelf.keep(team, response);
    }
    let of = |who, team: Option<&TeamId>| Subject {
        who,
        team: team.cloned(),
    };
    let anna = |team| of(Who::User("anna".into()), team);
    let spring = |team| of(Who::Tag("spring".into()), team);
    let found = |subject: &Subject, after: Option<(TeamId, String)>, count| {
        let found = shelf.of_subject(subject, after, count).into_iter();
        let names = found.map(|(team, it)| format!("{team}/{}", it.id));
        names.collect::<Vec<_>>()
    };
    assert_eq!(found(&anna(None), None, 9), ["blue/a", "red/a", "red/c"]);
    assert_eq!(found(&anna(None), None, 1), ["blue/a"]);
    let after = Some((blue.clone(), "a".to_owned()));
    assert_eq!(found(&anna(None), after, 9), ["red/a", "red/c"]);
    assert_eq!(found(&spring(Some(&red)), None, 9), ["red/a", "red/b"]);
    assert_eq!(found(&of(Who::User("ann".into()), None), None, 9).len(), 0);
    assert_eq!(shelf.forget(&anna(Some(&red))), 2);
    assert_eq!(shelf.forget(&anna(Some(&red))), 0);
    assert_eq!(shelf.forget(&spring(None)), 2);
    assert!(shelf.find(&red, "b").is_none() && shelf.find(&blue, "a").is_none());
}
