//! What keeps keys and teams that are made while nodes run.

use crate::{KeptKey, KeptTeam, KeyPlace, KeyRow, KeyTag, Rows, digest_key};

/// A key of the team `red`, as `rows` hash it.
#[must_use]
pub fn kept_key_of(rows: &Rows, name: &str) -> KeptKey {
    KeptKey {
        name: name.to_owned(),
        team: "red".to_owned(),
        made_s: 1_800_000_000,
        until_s: None,
        is_enabled: true,
        grants: "{}".to_owned(),
        tag: rows.secret.tag(&digest_key(name)),
        before: None,
        used_day: None,
    }
}

async fn read(place: &mut dyn KeyPlace) -> Rows {
    place.load().await.expect("a place is read")
}

/// One whole change, which nobody else's came before.
async fn change(place: &mut dyn KeyPlace, row: KeyRow) -> Rows {
    let before = read(place).await;
    let begun = place.begin(Some(before.generation)).await;
    let news = begun.expect("a change is begun");
    assert!(news.is_none(), "what is known is not told again");
    let generation = place.commit(&row).await.expect("a change is committed");
    let after = read(place).await;
    assert_eq!(after.generation, generation);
    assert_ne!(before.generation, generation, "each change is told apart");
    assert!(after.secret.is(&before.secret), "the secret stays");
    after
}

/// The contract of a place where keys and teams are kept, empty at first.
///
/// # Panics
/// Where it is broken.
pub async fn check_key_place(place: &mut dyn KeyPlace) {
    let empty = read(place).await;
    assert!(empty.keys.is_empty() && empty.teams.is_empty() && !empty.has_made);

    let team = KeptTeam {
        name: "red".to_owned(),
        made_s: 1,
        limits: "{}".to_owned(),
    };
    let rows = change(place, KeyRow::PutTeam(team.clone())).await;
    assert!(!rows.has_made, "a team is no key");
    let tag = |text: &str| -> KeyTag { empty.secret.tag(&digest_key(text)) };
    let odd = "a'; DROP TABLE keys; --";
    let first = KeptKey {
        until_s: Some(u64::MAX),
        before: Some((tag("old"), 1_900_000_000)),
        used_day: Some(20_000),
        grants: r#"{"models": ["é", "\u0000"]}"#.to_owned(),
        ..kept_key_of(&empty, odd)
    };
    let rows = change(place, KeyRow::PutKey(first.clone())).await;
    assert!(rows.has_made);
    change(place, KeyRow::PutKey(kept_key_of(&empty, "b"))).await;
    let other = KeptKey {
        is_enabled: false,
        until_s: Some(7),
        ..kept_key_of(&empty, "b")
    };
    let rows = change(place, KeyRow::PutKey(other)).await;
    assert_eq!((rows.keys.len(), rows.teams.len()), (2, 1));
    let [one, two] = rows.keys.as_slice() else {
        panic!("{rows:?}");
    };
    assert_eq!((one.name.as_str(), two.name.as_str()), (odd, "b"));
    assert_eq!(one.grants, first.grants);
    assert_eq!(one.until_s, Some(i64::MAX as u64), "as long as can be said");
    assert!(one.tag.is(&first.tag));
    let (before, until) = one.before.expect("it took another one's place");
    assert!(before.is(&tag("old")) && until == 1_900_000_000);
    assert!(!two.is_enabled && two.until_s == Some(7));

    // Days go forward alone, are of keys that there are, and are no change.
    let days = |day: u32| [("b".to_owned(), day), ("none".to_owned(), day)];
    for (day, wanted) in [(20_001, 20_001), (20_000, 20_001), (20_002, 20_002)] {
        place.put_days(&days(day)).await.expect("days are written");
        let now = read(place).await;
        assert_eq!(now.keys[1].used_day, Some(wanted));
        assert_eq!((now.generation, now.keys.len()), (rows.generation, 2));
    }

    // Who does not know it all is told it, and what was begun and not committed is nothing.
    for known in [None, Some(empty.generation)] {
        let told = place.begin(known).await.expect("a change is begun");
        let told = told.expect("what is not known is told");
        assert_eq!((told.generation, told.keys.len()), (rows.generation, 2));
        place.abandon().await;
        place.abandon().await;
    }
    assert_eq!(read(place).await.generation, rows.generation);

    for name in [odd, "b", "none"] {
        change(place, KeyRow::RemoveKey(name.to_owned())).await;
    }
    let rows = change(place, KeyRow::RemoveTeam("red".to_owned())).await;
    assert!(rows.keys.is_empty() && rows.teams.is_empty());
    assert!(rows.has_made, "a key that is gone was there once");
}
