use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use api::{Expiry, KeyState};
use domain::{AdminChange, LimitWarning, LimitWatch, NoLog};
use serde_json::{Map, Value, json};
use store::{Calendar, KeptKey, KeptTeam, TagSecret, digest_key};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;
use crate::config::{Findings, RawConfig, Surroundings};

const NOW_S: u64 = 1_800_000_000;

/// Notes what it is told, or cannot be had.
#[derive(Default)]
struct Log {
    told: Mutex<Vec<String>>,
    is_gone: AtomicBool,
}

#[async_trait]
impl ChangeLog for Log {
    async fn ready(&self) -> Result<(), NoLog> {
        match self.is_gone.load(Ordering::Relaxed) {
            true => Err(NoLog("gone".into())),
            false => Ok(()),
        }
    }

    async fn note(&self, change: AdminChange) -> bool {
        let told = format!("{} {} {}", change.who, change.what, change.id);
        self.told.lock().unwrap().push(told);
        true
    }
}

struct Nobody;

impl LimitWatch for Nobody {
    fn passed(&self, _: LimitWarning) {}
}

struct Bench {
    folder: TempDir,
    log: Arc<Log>,
    at: Arc<AtomicU64>,
    tasks: JoinSet<()>,
}

fn of_file(toml: &str) -> OfFile {
    let raw: RawConfig = toml::from_str(toml).unwrap();
    let mut findings = Findings::default();
    let around = Surroundings {
        environment: &BTreeMap::new(),
        read_file: &|_| Err(std::io::ErrorKind::NotFound.into()),
    };
    let config = Config::judge(&raw, &around, &mut findings);
    OfFile::of(&config.unwrap_or_else(|| panic!("{:?}", findings.faults)))
}

impl Bench {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            log: Arc::default(),
            at: Arc::new(AtomicU64::new(NOW_S)),
            tasks: JoinSet::new(),
        }
    }

    async fn open(&mut self, toml: &str) -> anyhow::Result<Arc<Keys>> {
        let counts = Arc::new(Counts::new(
            self.folder.path(),
            Calendar::utc(),
            10,
            Arc::new(Nobody),
        ));
        let at = Arc::clone(&self.at);
        let clock: UnixClock = Arc::new(move || at.load(Ordering::Relaxed));
        let (log, dir) = (Arc::clone(&self.log), self.folder.path());
        let opened = Keys::with_clock(of_file(toml), dir, None, log, counts, clock).await;
        let (keys, drivers) = opened?;
        self.tasks.spawn(drivers.keeper.run());
        Ok(keys)
    }

    async fn closed(&mut self, keys: &Keys) {
        keys.close().await;
        self.tasks.join_next().await.unwrap().unwrap();
    }

    fn told(&self) -> Vec<String> {
        self.log.told.lock().unwrap().clone()
    }
}

fn words(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn wish(name: &str, team: &str, grants: Value) -> KeyChange {
    KeyChange::MakeKey {
        name: Some(name.to_owned()),
        team: team.to_owned(),
        expiry: Expiry::Never,
        grants: words(grants),
    }
}

async fn made(keys: &Keys, change: KeyChange) -> KeyDigest {
    match keys.change("anna", change).await {
        Ok(Changed::Secret(made)) => digest_key(&made.secret),
        other => panic!("{other:?}"),
    }
}

fn fault_of(error: anyhow::Error) -> String {
    format!("{error:#}")
}

#[tokio::test]
async fn time_ends_a_key_and_an_old_secret_and_no_sooner() {
    let mut bench = Bench::new();
    let keys = bench.open("").await.unwrap();
    let change = KeyChange::MakeKey {
        name: Some("k".to_owned()),
        team: "default".to_owned(),
        expiry: Expiry::In(Duration::from_secs(1_000)),
        grants: Map::new(),
    };
    let first = made(&keys, change).await;
    let rotate = |seconds: u64| KeyChange::RotateKey {
        name: "k".to_owned(),
        overlap: Duration::from_secs(seconds),
    };
    let second = made(&keys, rotate(100)).await;
    let again = keys.change("anna", rotate(1)).await;
    assert!(matches!(again, Err(DeskFault::Rotating)), "{again:?}");
    bench.at.store(NOW_S + 99, Ordering::Relaxed);
    assert!(keys.find(&first).is_ok() && keys.find(&second).is_ok());
    bench.at.store(NOW_S + 100, Ordering::Relaxed);
    assert_eq!(keys.find(&first), Err(KeyTrouble::Expired));
    assert!(keys.key("k").unwrap().rotated_until.is_none());
    // With an overlap that the key itself does not live to see.
    let third = made(&keys, rotate(5_000)).await;
    bench.at.store(NOW_S + 999, Ordering::Relaxed);
    assert!(keys.find(&second).is_ok() && keys.find(&third).is_ok());
    bench.at.store(NOW_S + 1_000, Ordering::Relaxed);
    for digest in [&second, &third] {
        assert_eq!(keys.find(digest), Err(KeyTrouble::Expired));
    }
    let view = keys.key("k").unwrap();
    assert_eq!(view.state, KeyState::Expired);
    assert_eq!(view.last_used.as_deref(), Some("2027-01-15"));
    bench.closed(&keys).await;
    // The day is there after the end.
    let keys = bench.open("").await.unwrap();
    assert_eq!(
        keys.key("k").unwrap().last_used.as_deref(),
        Some("2027-01-15")
    );
}

#[tokio::test]
async fn what_was_made_joins_what_the_configuration_says() {
    let mut bench = Bench::new();
    let config = "organisation.limits = [{count = 'concurrency', amount = 9}]";
    let keys = bench.open(config).await.unwrap();
    let limit = json!([{"count": "requests", "amount": 5, "per": "day"}]);
    let team = KeyChange::MakeTeam {
        name: "red".to_owned(),
        grants: words(json!({"limits": limit})),
    };
    keys.change("anna", team).await.unwrap();
    let key = made(&keys, wish("k", "red", json!({"limits": limit}))).await;
    let scopes = |keys: &Keys| {
        let found = keys.find(&key).unwrap();
        let scopes = found.limits.iter().map(|it| it.scope.as_label());
        scopes.collect::<Vec<_>>()
    };
    assert_eq!(scopes(&keys), ["key", "team", "organisation"]);
    keys.reload(of_file("")).await.unwrap();
    assert_eq!(scopes(&keys), ["key", "team"]);
    assert_eq!(bench.told(), ["anna team.create red", "anna key.create k"]);

    // What does not go with it is refused whole.
    let key_of = |name: &str, team: &str| {
        format!(
            "[[keys]]\nname = '{name}'\nteam = '{team}'\nsecret = 'sha256:{}'\n",
            "0".repeat(64)
        )
    };
    for (config, path) in [
        (key_of("k", "red"), "keys[0].name"),
        ("[[teams]]\nname = 'red'\n".to_owned(), "teams"),
    ] {
        let faults = keys.reload(of_file(&config)).await.unwrap_err();
        assert_eq!(faults[0].path, path, "{faults:?}");
    }
    assert!(keys.key("k").unwrap().created_at.is_some());
    // A key of the file's may be of a team that was made.
    keys.reload(of_file(&key_of("f", "red"))).await.unwrap();
    assert_eq!(keys.team("red").unwrap().keys, 2);
    bench.closed(&keys).await;
    let refused = bench.open(&key_of("k", "red")).await.unwrap_err();
    assert!(fault_of(refused).contains("hedge keys delete"));
}

#[tokio::test]
async fn a_team_that_keys_are_of_does_not_leave_the_configuration() {
    let mut bench = Bench::new();
    let config = "[[teams]]\nname = 'red'\nlimits = [{count = 'cost', usd = 1, per = 'day'}]\n";
    let keys = bench.open(config).await.unwrap();
    made(&keys, wish("k", "red", json!({}))).await;
    let faults = keys.reload(of_file("")).await.unwrap_err();
    assert!(faults[0].message.contains("limits would end"), "{faults:?}");
    let change = KeyChange::RemoveKey {
        name: "k".to_owned(),
    };
    assert_eq!(keys.change("anna", change).await.unwrap(), Changed::Removed);
    keys.reload(of_file("")).await.unwrap();
}

#[tokio::test]
async fn without_a_log_or_a_folder_nothing_is_changed() {
    let mut bench = Bench::new();
    let keys = bench.open("").await.unwrap();
    bench.log.is_gone.store(true, Ordering::Relaxed);
    let refused = keys.change("anna", wish("k", "default", json!({}))).await;
    assert!(matches!(refused, Err(DeskFault::Unkept)), "{refused:?}");
    assert!(!bench.folder.path().join(FOLDER).exists());
    bench.log.is_gone.store(false, Ordering::Relaxed);
    // A file stands where the folder would.
    std::fs::write(bench.folder.path().join(FOLDER), "").unwrap();
    let refused = keys.change("anna", wish("k", "default", json!({}))).await;
    assert!(matches!(refused, Err(DeskFault::Unkept)), "{refused:?}");
    assert!(!keys.is_required() && keys.key("k").is_none());
    assert!(bench.told().is_empty());
    // As soon as it can be, it is.
    std::fs::remove_file(bench.folder.path().join(FOLDER)).unwrap();
    made(&keys, wish("k", "default", json!({}))).await;
    assert!(keys.is_required());
}

#[tokio::test]
async fn a_node_that_asks_for_keys_asks_before_there_are_any() {
    let mut bench = Bench::new();
    let keys = bench.open("ingress.require_keys = true").await.unwrap();
    assert!(keys.is_required());
    assert!(keys.keys("", 10).is_empty());
    assert_eq!(keys.teams("", 10).len(), 1);
}

/// What two replicas share: `rows` of keys `name`, team and grants.
fn rows_of(keys: &[(&str, &str, &str)], teams: &[(&str, &str)]) -> Rows {
    let secret = TagSecret::new([1; 32]);
    let keys = keys.iter().map(|(name, team, grants)| KeptKey {
        name: (*name).to_owned(),
        team: (*team).to_owned(),
        made_s: NOW_S,
        until_s: None,
        is_enabled: true,
        grants: (*grants).to_owned(),
        tag: secret.tag(&digest_key(name)),
        before: None,
        used_day: None,
    });
    let teams = teams.iter().map(|(name, limits)| KeptTeam {
        name: (*name).to_owned(),
        made_s: NOW_S,
        limits: (*limits).to_owned(),
    });
    Rows {
        generation: 1,
        keys: keys.collect(),
        teams: teams.collect(),
        has_made: true,
        secret,
    }
}

#[test]
fn of_what_replicas_share_goes_what_is_known_and_what_the_file_does_not_have() {
    let file = format!(
        "[[keys]]\nname = 'twice'\nteam = 'of-file'\nsecret = 'sha256:{}'\n[[teams]]\nname = 'double'\n",
        "0".repeat(64)
    );
    let odd = r#"{"of_a_later_version": 1}"#;
    let keys = [
        ("goes", "red", "{}"),
        ("twice", "red", "{}"),
        ("of.double", "double", "{}"),
        ("of.nobody", "gone", "{}"),
        ("of.odd", "odd", "{}"),
        ("later", "red", odd),
        ("broken", "red", "{"),
        ("of.the.file", "of-file", "{}"),
    ];
    let teams = [("red", "{}"), ("double", "{}"), ("odd", odd)];
    let mut book = Book::new(of_file(&file));
    book.is_unheard = true;
    book.take_what_goes(rows_of(&keys, &teams));
    let wanted = "team `double`, team `odd`, key `broken`, key `later`, key `of.double`, \
                  key `of.nobody`, key `of.odd`, key `twice`";
    assert_eq!(book.left_out.names(), wanted);
    // Of `red`: `goes`, and three that do not go.
    assert_eq!(book.keys_of_team("red"), 4);
    let clock: UnixClock = Arc::new(|| NOW_S);
    let standing = book.stand(&clock).unwrap();
    for (name, _, _) in keys {
        let goes = ["goes", "of.the.file"].contains(&name);
        assert_eq!(
            standing.ring.find(&digest_key(name)).is_ok(),
            goes,
            "{name}"
        );
    }
    // The same at the start: what the file has too is refused there.
    let mut strict = Book::new(of_file(&file));
    strict.take_most(rows_of(&keys, &teams));
    let faults = strict.stand(&clock).err().unwrap();
    let said: Vec<&str> = faults.iter().map(|it| it.message.as_str()).collect();
    assert_eq!(faults.len(), 3, "{said:?}");
}

#[test]
fn days_of_use_come_from_elsewhere_and_end_with_their_key() {
    let clock: UnixClock = Arc::new(|| NOW_S);
    let mut book = Book::new(of_file(""));
    let rows = |day: Option<u32>, made_s: u64| {
        let mut rows = rows_of(&[("k", "default", "{}")], &[]);
        (rows.keys[0].used_day, rows.keys[0].made_s) = (day, made_s);
        rows
    };
    let shown = |book: &Book| {
        let standing = book.stand(&clock).unwrap();
        standing.key("k", NOW_S).unwrap().last_used
    };
    book.take_what_goes(rows(None, NOW_S));
    assert_eq!(shown(&book), None);
    let standing = book.stand(&clock).unwrap();
    for (day, wanted) in [
        (20_000, "2024-10-04"),
        (19_999, "2024-10-04"),
        (20_001, "2024-10-05"),
    ] {
        book.take_days(&rows(Some(day), NOW_S));
        assert_eq!(shown(&book).as_deref(), Some(wanted));
    }
    // In the ring in force too, which is not another one for it.
    let last = standing.key("k", NOW_S).unwrap().last_used;
    assert_eq!(last.as_deref(), Some("2024-10-05"));
    // The same through all rows, and no day where it was deleted and made again.
    book.take_what_goes(rows(Some(20_002), NOW_S));
    assert_eq!(shown(&book).as_deref(), Some("2024-10-06"));
    book.take_what_goes(rows(None, NOW_S + 1));
    assert_eq!(shown(&book), None);
}

#[tokio::test]
async fn another_process_s_keys_are_not_shared() {
    let mut bench = Bench::new();
    let keys = bench.open("").await.unwrap();
    made(&keys, wish("k", "default", json!({}))).await;
    let refused = fault_of(bench.open("").await.unwrap_err());
    assert!(refused.contains("another process"), "{refused}");
    assert!(refused.contains("XDG_DATA_HOME"), "{refused}");
}
