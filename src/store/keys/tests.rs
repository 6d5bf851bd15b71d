mod shared;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use domain::{
    KeyDirectory, KeyId, KeyTrouble, Limit, Measure, Period, Principal, Scope, Thresholds,
    WhenSpent,
};

use super::*;
use crate::conformance::{
    check_key_directory, check_key_directory_over_time, check_key_place, kept_key_of,
};
use crate::{StaticKeys, digest_key};

const DAY_S: u64 = 86_400;

fn principal(name: &str) -> Principal {
    Principal {
        key: Some(KeyId::new(name)),
        ..Principal::anyone()
    }
}

fn held(secret: &TagSecret, name: &str) -> Held {
    Held {
        tag: secret.tag(&digest_key(name)),
        is_enabled: true,
        until_s: None,
        principal: principal(name),
        used: Arc::default(),
    }
}

fn clock(at: &Arc<AtomicU64>) -> UnixClock {
    let at = Arc::clone(at);
    Arc::new(move || at.load(Ordering::Relaxed))
}

fn ring(keys: impl IntoIterator<Item = Held>, secret: &TagSecret, at: &Arc<AtomicU64>) -> KeyRing {
    let ring = KeyRing::new(StaticKeys::default(), clock(at)).requiring();
    ring.with(secret.clone(), keys)
}

#[test]
fn it_keeps_the_contract_of_a_key_directory() {
    let (secret, at) = (TagSecret::new([1; 32]), Arc::new(AtomicU64::new(5)));
    let (made, of_file) = (digest_key("made"), digest_key("of file"));
    let file = StaticKeys::new([(of_file, principal("of file"))]);
    let keys = KeyRing::new(file, clock(&at)).with(secret.clone(), [held(&secret, "made")]);
    check_key_directory(&keys, &made, &digest_key("none"));
    check_key_directory(&keys, &of_file, &digest_key("none"));
    assert_eq!(keys.find(&made), Ok(principal("made")));
    assert_eq!(keys.find(&of_file), Ok(principal("of file")));
}

#[test]
fn it_keeps_the_contract_over_time() {
    let (secret, at) = (TagSecret::new([1; 32]), Arc::new(AtomicU64::new(0)));
    let expiring = Held {
        until_s: Some(100),
        ..held(&secret, "expiring")
    };
    let disabled = Held {
        is_enabled: false,
        ..held(&secret, "disabled")
    };
    let keys = ring([expiring, disabled], &secret, &at);
    check_key_directory_over_time(
        &keys,
        &digest_key("expiring"),
        &digest_key("disabled"),
        100,
        |now_s| at.store(now_s, Ordering::Relaxed),
    );
}

#[test]
fn without_any_it_asks_for_none_unless_one_was_ever_made() {
    let at = Arc::new(AtomicU64::new(5));
    let keys = KeyRing::new(StaticKeys::default(), clock(&at));
    assert!(!keys.is_required());
    assert!(keys.requiring().is_required());
}

#[test]
fn only_the_secret_makes_a_tag() {
    let digest = digest_key("k");
    let tag = TagSecret::new([1; 32]).tag(&digest);
    assert!(tag.is(&TagSecret::new([1; 32]).tag(&digest)));
    assert!(!tag.is(&TagSecret::new([2; 32]).tag(&digest)));
    assert_ne!(tag.0, digest.0);
    let shown = format!("{tag:?} {:?}", TagSecret::new([1; 32]));
    assert_eq!(shown, "KeyTag TagSecret");
}

#[test]
fn the_day_of_use_is_noted_and_never_goes_back() {
    let (secret, at) = (TagSecret::new([1; 32]), Arc::new(AtomicU64::new(9 * DAY_S)));
    let key = held(&secret, "k");
    let used = Arc::clone(&key.used);
    let keys = ring([key], &secret, &at);
    assert_eq!(used.day(), None);
    for (now_s, day) in [(9 * DAY_S, 9), (8 * DAY_S, 9), (11 * DAY_S - 1, 10)] {
        at.store(now_s, Ordering::Relaxed);
        keys.find(&digest_key("k")).unwrap();
        assert_eq!(used.day(), Some(day));
    }
}

#[test]
fn all_limits_are_told_once() {
    let limit = |scope| Limit {
        scope,
        measure: Measure::Requests,
        amount: 5,
        per: Period::Day,
        burst: 5,
        when_spent: WhenSpent::Refuse,
        warn_at: Thresholds::default(),
    };
    let (secret, at) = (TagSecret::new([1; 32]), Arc::new(AtomicU64::new(0)));
    let with = |key: Held, own: &str| Held {
        principal: Principal {
            limits: Arc::from([limit(Scope::Key(own.into())), limit(Scope::Organisation)]),
            ..key.principal
        },
        ..key
    };
    let of_file = StaticKeys::new([(digest_key("c"), with(held(&secret, "c"), "c").principal)]);
    let made = ["b", "a"].map(|name| with(held(&secret, name), name));
    let keys = KeyRing::new(of_file, clock(&at)).with(secret.clone(), made);
    let scopes: Vec<Scope> = keys.limits().into_iter().map(|it| it.scope).collect();
    let key = |name: &str| Scope::Key(name.into());
    assert_eq!(scopes, [Scope::Organisation, key("a"), key("b"), key("c")]);
}

async fn open(dir: &Path) -> Result<KeyFile, KeyFileError> {
    KeyFile::open(dir, [7; 32]).await
}

/// All but the tags, which have no words.
fn told(rows: &Rows) -> String {
    format!("{rows:?}")
}

async fn put(place: &mut impl KeyPlace, name: &str) {
    let rows = place.load().await.unwrap();
    place.begin(Some(rows.generation)).await.unwrap();
    let key = kept_key_of(&rows, name);
    place.commit(&KeyRow::PutKey(key)).await.unwrap();
}

#[tokio::test]
async fn a_file_keeps_the_contract_of_a_place() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = open(folder.path()).await.unwrap();
    check_key_place(&mut file).await;
}

#[tokio::test]
async fn what_was_put_in_is_there_when_the_process_was_not_told_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("made/keys");
    assert!(!KeyFile::is_in(&dir));
    let mut file = open(&dir).await.unwrap();
    for name in ["a", "b"] {
        put(&mut file, name).await;
    }
    let days = [("b".to_owned(), 20_001)];
    file.put_days(&days).await.unwrap();
    let rows = file.load().await.unwrap();
    // As a process that was killed leaves it.
    drop(file);
    let mut file = open(&dir).await.unwrap();
    let again = file.load().await.unwrap();
    assert_eq!(
        told(&again),
        told(&Rows {
            generation: 0,
            ..rows.clone()
        })
    );
    let tag = file.secret().tag(&digest_key("b"));
    assert!(tag.is(&rows.keys[1].tag), "the secret is the same");
    file.close().await;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{:?}", entry.file_name());
    }
    let mode = std::fs::metadata(&dir).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn a_copy_is_what_it_was_given_last_and_is_made_anew_where_it_is_of_no_use() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("shared");
    let mut copy = KeyCopy::new(dir.clone());
    assert!(copy.load().await.unwrap().is_none());
    let rows = |secret: u8, names: &[&str]| {
        let empty = Rows {
            generation: 9,
            secret: TagSecret::new([secret; 32]),
            keys: Vec::new(),
            teams: Vec::new(),
            has_made: true,
        };
        let keys = names.iter().map(|name| kept_key_of(&empty, name));
        Rows {
            keys: keys.collect(),
            ..empty
        }
    };
    // Before it was ever given anything, a change alone makes none.
    let one = KeyRow::RemoveKey("a".to_owned());
    copy.write(&one).await.unwrap();
    assert!(!dir.exists());
    copy.keep(&rows(1, &["a", "b", "c"])).await.unwrap();
    let mut fewer = rows(1, &["a", "b"]);
    fewer.keys[1].until_s = Some(5);
    fewer.teams.push(KeptTeam {
        name: "red".to_owned(),
        made_s: 1,
        limits: "{}".to_owned(),
    });
    copy.keep(&fewer).await.unwrap();
    copy.write(&one).await.unwrap();
    let other = KeyCopy::new(dir.clone()).keep(&rows(1, &[])).await;
    assert!(matches!(other, Err(KeyFileError::Taken)), "{other:?}");
    copy.close().await;
    let names =
        |rows: &Rows| -> Vec<String> { rows.keys.iter().map(|key| key.name.clone()).collect() };
    let mut copy = KeyCopy::new(dir.clone());
    let found = copy.load().await.unwrap().unwrap();
    assert_eq!(
        (names(&found), found.has_made),
        (vec!["b".to_owned()], true)
    );
    assert_eq!((found.keys[0].until_s, found.teams), (Some(5), fewer.teams));
    // Keys of another beginning, and then over a damaged one.
    copy.keep(&rows(2, &["c"])).await.unwrap();
    copy.close().await;
    std::fs::write(KeyFile::path(&dir), [b'x'; 8192]).unwrap();
    let mut copy = KeyCopy::new(dir.clone());
    assert!(copy.load().await.is_err());
    copy.keep(&rows(2, &["d"])).await.unwrap();
    copy.close().await;
    let found = KeyCopy::new(dir).load().await.unwrap().unwrap();
    assert_eq!(
        (names(&found), found.teams.len()),
        (vec!["d".to_owned()], 0)
    );
    assert!(found.secret.is(&TagSecret::new([2; 32])));
}

#[tokio::test]
async fn two_processes_do_not_have_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = open(folder.path()).await.unwrap();
    let other = open(folder.path()).await;
    assert!(matches!(other, Err(KeyFileError::Taken)));
    file.close().await;
    open(folder.path()).await.unwrap();
}

#[tokio::test]
async fn a_file_without_its_secret_or_damaged_is_no_new_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    open(dir).await.unwrap().close().await;
    let secret = dir.join("keys.secret");
    let own = std::fs::read(&secret).unwrap();

    std::fs::remove_file(&secret).unwrap();
    assert!(matches!(open(dir).await, Err(KeyFileError::NoSecret(_))));
    assert!(!secret.exists(), "none is made for keys that are there");
    TagSecret::new([9; 32]).write_new(&secret).unwrap();
    assert!(matches!(open(dir).await, Err(KeyFileError::OtherSecret)));
    for text in [&own[1..], &[own.as_slice(), b"\n"].concat()] {
        std::fs::write(&secret, text).unwrap();
        assert!(matches!(open(dir).await, Err(KeyFileError::NoSecret(_))));
    }
    std::fs::write(&secret, &own).unwrap();
    let open_to_all = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&secret, open_to_all).unwrap();
    assert!(matches!(open(dir).await, Err(KeyFileError::NoSecret(_))));
    let own_alone = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&secret, own_alone).unwrap();
    open(dir).await.unwrap().close().await;

    std::fs::write(KeyFile::path(dir), [b'x'; 8192]).unwrap();
    assert!(matches!(open(dir).await, Err(KeyFileError::Damaged)));
}

#[tokio::test]
async fn a_later_version_s_file_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).await.unwrap().close().await;
    let mut file = open(folder.path()).await.unwrap();
    file.set_version(9).await;
    file.close().await;
    let newer = open(folder.path()).await;
    assert!(matches!(newer, Err(KeyFileError::Newer { version: 9, .. })));
}

#[test]
fn disabled_is_said_before_expired() {
    let (secret, at) = (TagSecret::new([1; 32]), Arc::new(AtomicU64::new(500)));
    let key = Held {
        is_enabled: false,
        until_s: Some(1),
        ..held(&secret, "k")
    };
    let keys = ring([key], &secret, &at);
    assert_eq!(keys.find(&digest_key("k")), Err(KeyTrouble::Disabled));
}
