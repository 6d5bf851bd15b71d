//! What every implementation of a storage trait must do. Each one runs these from its own tests.
//!
//! # Panics
//! All of them, where the contract is broken: they are tests.

use std::sync::Arc;
use std::time::Duration;

use domain::{
    CacheKey, CacheStore, FinishReason, KeyDigest, KeyDirectory, Message, Reply, ReplyChoice,
    ReplyPiece, ResponseShelf, Role, Started, StoredResponse, TeamId,
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

/// The contract of a [`CacheStore`] with room for a handful of small replies.
///
/// # Panics
/// Where it is broken.
pub fn check_cache_store(store: &dyn CacheStore) {
    let long = Duration::from_secs(3600);
    let (one, two) = (CacheKey([1; 32]), CacheKey([2; 32]));
    assert!(store.find(&one).is_none(), "an empty store finds nothing");

    store.keep(one, Arc::new(reply_of("first")), long);
    assert_eq!(
        store.find(&one).as_deref(),
        Some(&reply_of("first")),
        "what was kept is found whole"
    );
    assert!(store.find(&two).is_none(), "another key finds nothing");

    store.keep(one, Arc::new(reply_of("second")), long);
    assert_eq!(
        store.find(&one).as_deref(),
        Some(&reply_of("second")),
        "the later reply replaces the earlier"
    );

    store.keep(two, Arc::new(reply_of("other")), long);
    assert_eq!(
        store.find(&one).as_deref(),
        Some(&reply_of("second")),
        "keys do not disturb each other"
    );

    store.keep(one, Arc::new(reply_of("gone")), Duration::ZERO);
    assert!(
        store.find(&one).is_none(),
        "a reply kept for no time is not found, nor the one before it"
    );

    store.keep(one, Arc::new(reply_of("brief")), Duration::from_nanos(1));
    assert!(
        store.find(&one).is_none(),
        "a reply whose time is up is not found"
    );
}

/// The contract of a [`KeyDirectory`] that knows `known` and not `unknown`.
///
/// # Panics
/// Where it is broken.
pub fn check_key_directory(keys: &dyn KeyDirectory, known: &KeyDigest, unknown: &KeyDigest) {
    assert!(keys.is_required(), "a directory with keys requires one");
    let found = keys.find(known);
    assert!(found.is_some(), "a known key is found");
    assert_eq!(found, keys.find(known), "looking twice finds the same");
    assert_eq!(keys.find(unknown), None, "an unknown key is not found");
}

/// A response with this id whose object says `text`.
#[must_use]
pub fn response_of(id: &str, text: &str) -> StoredResponse {
    StoredResponse {
        id: id.to_owned(),
        object: format!("\"{text}\"").into(),
        input: Vec::new(),
        said: vec![Message::new(Role::User, "hi")],
    }
}

/// The contract of a [`ResponseShelf`] with room for a handful of small responses.
///
/// # Panics
/// Where it is broken.
pub fn check_response_shelf(shelf: &dyn ResponseShelf) {
    let (ours, theirs) = (TeamId::new("ours"), TeamId::new("theirs"));
    let object = |team, id| shelf.find(team, id).map(|found| found.object.clone());
    assert!(
        shelf.find(&ours, "resp_1").is_none(),
        "nothing is found before it is kept"
    );

    shelf.keep(&ours, response_of("resp_1", "first"));
    assert_eq!(
        object(&ours, "resp_1"),
        Some("\"first\"".into()),
        "what is kept is found"
    );
    let found = shelf.find(&ours, "resp_1");
    let said = found.map(|found| found.said.iter().map(Message::text).collect::<Vec<_>>());
    assert_eq!(said, Some(vec!["hi".to_owned()]), "with what was said");
    assert!(
        shelf.find(&theirs, "resp_1").is_none(),
        "no other team finds it"
    );
    assert!(!shelf.remove(&theirs, "resp_1"), "nor takes it away");
    assert!(shelf.find(&ours, "resp_1").is_some(), "it is still there");
    assert!(
        shelf.find(&ours, "resp_2").is_none(),
        "another id finds nothing"
    );

    shelf.keep(&theirs, response_of("resp_1", "theirs"));
    assert_eq!(
        object(&ours, "resp_1"),
        Some("\"first\"".into()),
        "teams do not disturb each other"
    );
    assert!(
        shelf.remove(&ours, "resp_1"),
        "what was there is taken away"
    );
    assert!(!shelf.remove(&ours, "resp_1"), "once");
    assert!(shelf.find(&ours, "resp_1").is_none(), "and is gone");
}
