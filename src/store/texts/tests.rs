//! Texts in a file: sealed, found, sealed anew, and gone on time.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use domain::{
    FoundText, KeptText, Mark, Marker, Marks, Said, SaidMessage, Subject, TextFault, TextShelf,
    Unopened, Who,
};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};

use super::file::FILE_NAME;
use super::*;
use crate::SubjectSecret;

/// Of what is asked: to be found nowhere in the clear.
const MARKER: &str = "a-word-that-nobody-else-says";
const ID: &str = "anna@example.com/1";

const DAY_US: i64 = 86_400_000_000;
const NOW_US: i64 = 20_000 * DAY_US;

fn key(byte: u8) -> TextKey {
    let digits: String = (0..32_u8).map(|at| format!("{:02x}", at ^ byte)).collect();
    TextKey::parse(&digits).unwrap()
}

fn policy(keys: &[u8], days: u64) -> Option<TextPolicy> {
    let keys = keys.iter().map(|byte| key(*byte)).collect();
    Some(TextPolicy {
        keys: TextKeys::new(keys).unwrap(),
        keep: Duration::from_secs(days * 86_400),
        bytes_max: 1 << 30,
    })
}

struct Bench {
    folder: tempfile::TempDir,
    now_us: Arc<AtomicI64>,
    vault: Arc<TextVault>,
}

fn bench(keys: &[u8]) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let now_us = Arc::new(AtomicI64::new(NOW_US));
    let vault = vault(folder.path(), &now_us);
    vault.set_policy(policy(keys, 30));
    Bench {
        folder,
        now_us,
        vault,
    }
}

fn vault(dir: &Path, now_us: &Arc<AtomicI64>) -> Arc<TextVault> {
    let now_us = Arc::clone(now_us);
    let clock = move || {
        let micros = u64::try_from(now_us.load(Ordering::Relaxed)).unwrap();
        SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
    };
    TextVault::new(&dir.join("texts"), Arc::new(clock))
}

impl Bench {
    fn dir(&self) -> std::path::PathBuf {
        self.folder.path().join("texts")
    }

    fn later(&self, days: i64) {
        self.now_us.fetch_add(days * DAY_US, Ordering::Relaxed);
    }

    /// Past what SQLite kept in mind.
    async fn reopened(&self) -> Arc<TextVault> {
        self.vault.close().await;
        vault(self.folder.path(), &self.now_us)
    }

    async fn edit(&self, sql: &'static str) {
        self.vault.close().await;
        let mut connection = self.raw().await;
        // As it was before: what one statement changes it would see itself.
        let before = "CREATE TEMP TABLE it AS SELECT * FROM texts";
        sqlx::raw_sql(before)
            .execute(&mut connection)
            .await
            .unwrap();
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    async fn raw(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.dir().join(FILE_NAME));
        options.connect().await.unwrap()
    }

    async fn rows(&self) -> i64 {
        let mut connection = self.raw().await;
        let count = sqlx::query_scalar("SELECT COUNT(*) FROM texts")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        count
    }

    /// How often `needle` is in any file of the folder.
    fn count_in_files(&self, needle: &[u8]) -> usize {
        let files = std::fs::read_dir(self.dir()).unwrap();
        let counts = files.map(|file| {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            bytes
                .windows(needle.len())
                .filter(|it| *it == needle)
                .count()
        });
        counts.sum()
    }
}

fn text(id: &str, team: &str, marks: Option<String>, days: i64) -> KeptText {
    let message = |role: &str, text: String| SaidMessage {
        role: role.to_owned(),
        text,
        ..SaidMessage::default()
    };
    KeptText {
        ended_us: NOW_US,
        request_id: id.to_owned(),
        team: team.to_owned(),
        marks,
        until_us: NOW_US + days * DAY_US,
        said: Said {
            view: "raw".to_owned(),
            asked: vec![message("user", format!("{MARKER} of {id}"))],
            answered: vec![message("assistant", MARKER.repeat(50))],
            ..Said::default()
        },
    }
}

fn secret() -> SubjectSecret {
    SubjectSecret::new([7; 32])
}

fn user(name: &str, team: Option<&str>) -> (Subject, Mark) {
    let who = Who::User(name.into());
    let mark = secret().mark(&who);
    let team = team.map(Into::into);
    (Subject { who, team }, mark)
}

fn marks(name: &str) -> Option<String> {
    let (_, mark) = user(name, None);
    let marks = Marks {
        user: Some(mark),
        tags: Vec::new(),
        on_replies: None,
    };
    marks.as_text()
}

async fn only(vault: &TextVault, id: &str) -> FoundText {
    let mut found = vault.find(id, 4).await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[tokio::test]
async fn a_text_comes_back_as_it_was_and_stands_nowhere_in_the_clear() {
    let bench = bench(&[1]);
    assert!(bench.vault.find(ID, 4).await.unwrap().is_empty());
    assert!(!bench.dir().exists(), "nothing was kept");
    let kept = text(ID, "red", marks("anna"), 30);
    bench.vault.keep(std::slice::from_ref(&kept)).await.unwrap();
    bench
        .vault
        .keep(&[text("other", "red", None, 30)])
        .await
        .unwrap();
    // While it is open and what is new is in the log; and after.
    for _ in 0..2 {
        assert_eq!(bench.count_in_files(MARKER.as_bytes()), 0);
        assert_eq!(bench.count_in_files(ID.as_bytes()), 0);
        assert!(
            bench.count_in_files(b"red") > 0,
            "or nothing would be found"
        );
        bench.vault.close().await;
    }
    for file in std::fs::read_dir(bench.dir()).unwrap() {
        let mode = file.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let vault = bench.reopened().await;
    vault.set_policy(policy(&[1], 30));
    let found = only(&vault, ID).await;
    let opened = found.opened.unwrap();
    assert_eq!((opened.request_id.as_str(), &opened.said), (ID, &kept.said));
    assert_eq!((found.ended_us, found.team.as_str()), (NOW_US, "red"));
    assert!(vault.find("nobody's", 4).await.unwrap().is_empty());
}

#[tokio::test]
async fn two_of_the_same_text_have_nothing_in_common() {
    let keys = TextKeys::new(vec![key(1)]).unwrap();
    let clear = super::seal::Clear {
        ended_us: 1,
        until_us: 2,
        team: "red",
        marks: None,
    };
    let (one, two) = (
        keys.seal(&clear, ID, b"the same").unwrap(),
        keys.seal(&clear, ID, b"the same").unwrap(),
    );
    assert!(one.salt != two.salt && one.body != two.body);
    assert_eq!(one.body.len(), "the same".len() + 16, "and a tag");
    assert_eq!(keys.open(&clear, &one).unwrap(), b"the same");
}

#[tokio::test]
async fn what_was_altered_or_exchanged_does_not_open() {
    for sql in [
        "UPDATE texts SET body = CAST(substr(body, 1, 9) || x'00' || substr(body, 11) AS BLOB)",
        "UPDATE texts SET body = substr(body, 1, length(body) - 1)",
        "UPDATE texts SET body = x''",
        "UPDATE texts SET salt = zeroblob(32)",
        "UPDATE texts SET ended_us = ended_us + 1",
        "UPDATE texts SET until_us = until_us + 1",
        "UPDATE texts SET team = 'blue'",
        "UPDATE texts SET marks = NULL",
        "UPDATE texts SET marks = marks || ' '",
        // What one said with the other's name, time and salt.
        "UPDATE texts SET body = (SELECT body FROM it WHERE it.seq <> texts.seq)",
        "UPDATE texts SET (salt, body) =
            (SELECT salt, body FROM it WHERE it.seq <> texts.seq)",
    ] {
        let bench = bench(&[1]);
        let mut other = text("b", "red", marks("anna"), 30);
        other.ended_us += 5;
        let texts = [text("a", "red", marks("anna"), 30), other];
        bench.vault.keep(&texts).await.unwrap();
        bench.edit(sql).await;
        for id in ["a", "b"] {
            let found = only(&bench.vault, id).await;
            assert_eq!(found.opened, Err(Unopened::Altered), "{sql}");
        }
    }
    // One that took the other's place is found as what it says it is.
    let bench = bench(&[1]);
    let texts = [text("a", "red", None, 30), text("b", "red", None, 30)];
    bench.vault.keep(&texts).await.unwrap();
    bench
        .edit("UPDATE texts SET id = (SELECT id FROM it WHERE it.seq <> texts.seq)")
        .await;
    assert_eq!(only(&bench.vault, "a").await.opened, Err(Unopened::Altered));
    assert!(
        Unopened::Altered
            .to_string()
            .contains("not as it was written")
    );
}

#[tokio::test]
async fn old_keys_open_until_all_is_sealed_anew() {
    let bench = bench(&[1]);
    let all: Vec<_> = (0..100)
        .map(|at| text(&at.to_string(), "red", None, 30))
        .collect();
    bench.vault.keep(&all).await.unwrap();
    bench.vault.set_policy(policy(&[2, 1], 30));
    bench
        .vault
        .keep(&[text("new", "red", None, 30)])
        .await
        .unwrap();
    assert!(only(&bench.vault, "7").await.opened.is_ok());
    bench.vault.tend().await;
    let held = bench.vault.counts();
    assert_eq!((held.held, held.under_old_keys, held.locked), (101, 0, 0));
    bench.vault.set_policy(policy(&[2], 30));
    for id in ["0", "7", "99", "new"] {
        let opened = only(&bench.vault, id).await.opened.unwrap();
        assert_eq!(opened.request_id, id);
    }
    // Nothing that the old key opens is left, not even in what is free.
    bench.vault.close().await;
    let name = key(1).name();
    assert_eq!(bench.count_in_files(name.as_bytes()), 0);

    // One that is taken away too early is said to be missing.
    bench.vault.set_policy(policy(&[3], 30));
    bench.vault.tend().await;
    assert_eq!(bench.vault.counts().locked, 101);
    let locked = bench.vault.find("7", 4).await;
    assert!(
        matches!(locked, Err(TextFault::Locked { count: 101 })),
        "{locked:?}"
    );
    bench.vault.set_policy(None);
    assert!(bench.vault.find("7", 4).await.is_err());
    bench.vault.set_policy(policy(&[3, 2], 30));
    bench.vault.tend().await;
    assert_eq!(bench.vault.counts().locked, 0);
    assert!(only(&bench.vault, "7").await.opened.is_ok());
}

#[tokio::test]
async fn an_altered_text_keeps_no_other_from_being_sealed_anew() {
    let bench = bench(&[1]);
    let all: Vec<_> = (0..70)
        .map(|at| text(&at.to_string(), "red", None, 30))
        .collect();
    bench.vault.keep(&all).await.unwrap();
    bench
        .edit("UPDATE texts SET team = 'blue' WHERE seq < 40")
        .await;
    bench.vault.set_policy(policy(&[2, 1], 30));
    bench.vault.tend().await;
    let held = bench.vault.counts();
    assert_eq!((held.held, held.under_old_keys), (70, 39));
    assert!(only(&bench.vault, "60").await.opened.is_ok());
}

#[tokio::test]
async fn a_text_is_told_nobody_from_its_time_on_and_removed_after() {
    let bench = bench(&[1]);
    let texts = [
        text("short", "red", marks("anna"), 1),
        text("long", "red", None, 30),
    ];
    bench.vault.keep(&texts).await.unwrap();
    bench.now_us.fetch_add(DAY_US - 1, Ordering::Relaxed);
    assert!(only(&bench.vault, "short").await.opened.is_ok());
    bench.now_us.fetch_add(1, Ordering::Relaxed);
    // Nobody removed it yet.
    assert_eq!(bench.rows().await, 2);
    assert!(bench.vault.find("short", 4).await.unwrap().is_empty());
    let (anna, mark) = user("anna", None);
    assert!(
        bench
            .vault
            .of(&anna, &mark, 9, None)
            .await
            .unwrap()
            .is_empty()
    );
    bench.vault.tend().await;
    assert_eq!((bench.rows().await, bench.vault.counts().removed), (1, 1));
    assert_eq!(bench.count_in_files(mark.to_string().as_bytes()), 0);

    // What is told a shorter time goes sooner, and what comes too late is not kept.
    bench.later(4);
    bench.vault.set_policy(policy(&[1], 5));
    assert!(bench.vault.find("long", 4).await.unwrap().is_empty());
    bench
        .vault
        .keep(&[text("late", "red", None, 5)])
        .await
        .unwrap();
    bench.vault.tend().await;
    assert_eq!(bench.rows().await, 0);

    // Also where nothing is kept any more, by the next process.
    let mut last = text("last", "red", None, 0);
    last.ended_us += 5 * DAY_US;
    last.until_us = last.ended_us + DAY_US;
    bench.vault.keep(&[last]).await.unwrap();
    let vault = bench.reopened().await;
    vault.tend().await;
    assert_eq!(bench.rows().await, 1);
    bench.later(2);
    vault.tend().await;
    assert_eq!(bench.rows().await, 0);
}

#[tokio::test(start_paused = true)]
async fn the_driver_removes_what_is_over_by_itself() {
    let bench = bench(&[1]);
    bench
        .vault
        .keep(&[text("a", "red", None, 1)])
        .await
        .unwrap();
    let mut running = tokio::task::JoinSet::new();
    running.spawn(Arc::clone(&bench.vault).run());
    bench.later(1);
    while bench.vault.counts().removed == 0 {
        tokio::time::sleep(TEXT_SWEEP_EVERY).await;
    }
    assert_eq!(bench.rows().await, 0);
}

#[tokio::test]
async fn somebody_s_texts_are_found_and_erased_and_nobody_else_s() {
    let bench = bench(&[1]);
    let of =
        |at: usize, name: &str, team: &str| text(&format!("{name}/{at}"), team, marks(name), 30);
    let texts: Vec<_> = (0..10)
        .flat_map(|at| {
            [
                of(at, "anna", "red"),
                of(at, "anna", "blue"),
                of(at, "ben", "red"),
            ]
        })
        .collect();
    bench.vault.keep(&texts).await.unwrap();
    let (anna, mark) = user("anna", None);
    let mut all = Vec::new();
    let mut before = None;
    loop {
        let page = bench.vault.of(&anna, &mark, 7, before).await.unwrap();
        let Some(last) = page.last() else {
            break;
        };
        before = Some(last.seq);
        all.extend(page);
    }
    assert_eq!(all.len(), 20);
    assert!(all.is_sorted_by(|a, b| a.seq > b.seq));
    let (anna_of_red, _) = user("anna", Some("red"));
    let of_red = bench
        .vault
        .of(&anna_of_red, &mark, 100, None)
        .await
        .unwrap();
    assert_eq!(of_red.len(), 10);

    // No key is needed for it.
    bench.vault.set_policy(policy(&[9], 30));
    assert_eq!(bench.vault.erase(&anna_of_red, &mark).await.unwrap(), 10);
    assert_eq!(bench.vault.erase(&anna, &mark).await.unwrap(), 10);
    assert_eq!(bench.vault.erase(&anna, &mark).await.unwrap(), 0);
    assert_eq!(bench.count_in_files(mark.to_string().as_bytes()), 0);
    bench.vault.set_policy(policy(&[1], 30));
    let (ben, mark) = user("ben", None);
    let his = bench.vault.of(&ben, &mark, 100, None).await.unwrap();
    assert_eq!(his.len(), 10);
    assert!(his.iter().all(|it| it.opened.is_ok()));
}

#[tokio::test]
async fn a_file_that_is_too_long_loses_the_oldest() {
    let bench = bench(&[1]);
    let all: Vec<_> = (0..400)
        .map(|at| {
            let mut text = text(&at.to_string(), "red", None, 30);
            text.ended_us += at;
            text
        })
        .collect();
    for some in all.chunks(32) {
        bench.vault.keep(some).await.unwrap();
    }
    let mut small = policy(&[1], 31).unwrap();
    small.bytes_max = 256 * 1024;
    bench.vault.set_policy(Some(small));
    bench.vault.tend().await;
    let rows = bench.rows().await;
    assert!((1..400).contains(&rows), "{rows}");
    assert!(bench.vault.find("0", 4).await.unwrap().is_empty());
    assert!(only(&bench.vault, "399").await.opened.is_ok());
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_for_as_long_as_it_may_be_there() {
    let bench = bench(&[1]);
    bench
        .vault
        .keep(&[text("a", "red", None, 30)])
        .await
        .unwrap();
    bench.vault.close().await;
    let damaged = || {
        let mut names: Vec<String> = std::fs::read_dir(bench.dir())
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains("damaged"))
            .collect();
        names.sort();
        names
    };
    let spoil = || std::fs::write(bench.dir().join(FILE_NAME), "no database ".repeat(500)).unwrap();
    spoil();
    bench
        .vault
        .keep(&[text("b", "red", None, 30)])
        .await
        .unwrap();
    assert!(only(&bench.vault, "b").await.opened.is_ok());
    let until_s = (NOW_US + 30 * DAY_US) / 1_000_000;
    assert_eq!(damaged(), [format!("{FILE_NAME}.damaged-until-{until_s}")]);
    bench.later(29);
    bench.vault.tend().await;
    assert_eq!(damaged().len(), 1);
    bench.later(1);
    bench.vault.tend().await;
    assert!(damaged().is_empty());

    // It may hold what is to be erased, and cannot be asked.
    bench.vault.close().await;
    spoil();
    bench.vault.tend().await;
    bench.vault.tend().await;
    assert_eq!(damaged().len(), 1);
    let (anna, mark) = user("anna", None);
    bench.vault.erase(&anna, &mark).await.unwrap();
    assert!(damaged().is_empty());
}

#[test]
fn a_key_is_32_bytes_that_somebody_drew() {
    let digits = "00112233445566778899aabbccddeeff".repeat(2);
    let hex = TextKey::parse(&format!(" {digits}\n")).unwrap();
    let base64 = "ABEiM0RVZneImaq7zN3u/wARIjNEVWZ3iJmqu8zd7v8=";
    assert!(TextKey::parse(base64).unwrap() == hex);
    assert_eq!(hex.name().len(), 16);
    assert!(!format!("{hex:?}").contains("11"));
    for text in [
        "",
        "00",
        &digits[1..],
        &"zz".repeat(32),
        &"é".repeat(32),
        "ABEi",
        "+1".repeat(32).as_str(),
    ] {
        assert!(
            matches!(TextKey::parse(text), Err(TextKeyFault::Malformed)),
            "{text}"
        );
    }
    assert!(matches!(
        TextKey::parse(&"00".repeat(32)),
        Err(TextKeyFault::Uniform)
    ));
}
