use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use domain::{KeptRecord, RecordFault, RecordShelf, RecordSink, Since};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection, Executor, query, query_scalar};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::file::{FILE_NAME, FileError, MIGRATIONS, bring_forward};
use super::*;
use crate::conformance::{check_record_shelf, record_of};
use crate::{Calendar, PostgresAddress};

mod kill;
mod rights;
mod shared;

/// Longer than anything here takes on a slow machine; reaching it fails the test.
const PATIENCE: Duration = Duration::from_secs(60);

/// A record that ended then.
fn record(ended_us: i64) -> KeptRecord {
    KeptRecord::of(&record_of("a", "t"), ended_us)
}

async fn write(file: &mut SqliteConnection, batch: &[KeptRecord]) {
    super::row::insert(file, batch).await.unwrap();
}

/// Not a measurement: what is waited for comes.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A file, and the task that writes it.
struct Desk {
    file: Arc<RecordDesk>,
    reader: RecordReader,
    running: JoinSet<()>,
}

fn rules(dir: &Path) -> RecordRules {
    RecordRules {
        dir: dir.to_owned(),
        keep: Duration::ZERO,
        bytes_max: u64::MAX,
    }
}

impl Desk {
    fn open(rules: RecordRules) -> Self {
        let reader = RecordReader::new(&rules.dir, Calendar::utc());
        let (file, writer) = RecordDesk::new(rules);
        let mut running = JoinSet::new();
        running.spawn(writer.run());
        Self {
            file,
            reader,
            running,
        }
    }

    /// Waits until `count` records were written or dropped.
    async fn until_done(&self, count: u64) {
        let wait = async {
            loop {
                let counts = self.file.counts();
                if counts.written + counts.dropped >= count {
                    return;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap();
    }

    async fn close(mut self) -> RecordCounts {
        self.file.close();
        while self.running.join_next().await.is_some() {}
        self.file.counts()
    }
}

fn files(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = names
        .map(|it| it.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

async fn plainly(dir: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(dir.join(FILE_NAME));
    SqliteConnection::connect_with(&options).await.unwrap()
}

#[tokio::test]
async fn records_are_kept_and_read_as_agreed() {
    let folder = TempDir::new().unwrap();
    let desk = Desk::open(rules(&folder.path().join("made/here")));
    let counts = std::sync::atomic::AtomicU64::new(0);
    check_record_shelf(&*desk.file, &desk.reader, async || {
        // Nothing, and then all of them.
        let done = counts.swap(13, std::sync::atomic::Ordering::Relaxed);
        desk.until_done(done).await;
        while desk.reader.latest(1, None).await.is_err() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await;
    assert_eq!(desk.close().await.dropped, 0);
}

#[tokio::test]
async fn only_this_user_may_read_them() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("made");
    let desk = Desk::open(rules(&dir));
    desk.file.append(&record_of("a", "t"));
    desk.until_done(1).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    let names = files(&dir);
    assert!(names.len() > 1, "{names:?}");
    for name in names {
        assert_eq!(mode(&dir.join(&name)), 0o600, "{name}");
    }
    desk.close().await;
}

#[tokio::test]
async fn what_was_appended_before_the_end_is_written() {
    let folder = TempDir::new().unwrap();
    let desk = Desk::open(rules(folder.path()));
    let many = RECORD_BATCH_MAX * 2 + 7;
    for at in 0..many {
        desk.file.append(&record_of(&format!("r-{at}"), "t"));
    }
    let counts = desk.close().await;
    assert_eq!((counts.written, counts.dropped), (many as u64, 0));
    let mut file = plainly(folder.path()).await;
    let found: i64 = query_scalar("SELECT COUNT(DISTINCT request_id) FROM records")
        .fetch_one(&mut file)
        .await
        .unwrap();
    assert_eq!(found, many as i64);
}

#[tokio::test]
async fn a_batch_that_is_written_again_writes_nothing_twice() {
    let folder = TempDir::new().unwrap();
    let mut file = super::file::open(folder.path(), FILE_NAME, SystemTime::now())
        .await
        .unwrap();
    for _ in 0..2 {
        write(&mut file, &[record(17)]).await;
    }
    let count: i64 = query_scalar("SELECT COUNT(*) FROM records")
        .fetch_one(&mut file)
        .await
        .unwrap();
    assert_eq!(count, 1);
}

/// Whatever statements they are cut into.
#[tokio::test]
async fn batches_of_every_length_are_written_whole() {
    let folder = TempDir::new().unwrap();
    let mut file = super::file::open(folder.path(), FILE_NAME, SystemTime::now())
        .await
        .unwrap();
    for count in [0, 1, 3, 4, 5, 31, 32, 33, 39, 101] {
        let mut batch: Vec<KeptRecord> = (1..=count).map(record).collect();
        for (at, record) in batch.iter_mut().enumerate() {
            record.reason = format!("of {at}");
        }
        super::row::write(&mut file, &batch).await.unwrap();
        let rows = query("SELECT * FROM records ORDER BY ended_us")
            .fetch_all(&mut file)
            .await
            .unwrap();
        let read: Vec<KeptRecord> = rows
            .iter()
            .map(|row| super::row::read(row).unwrap())
            .collect();
        assert_eq!(read, batch);
        query("DELETE FROM records")
            .execute(&mut file)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_another_begun() {
    let folder = TempDir::new().unwrap();
    std::fs::write(
        folder.path().join(FILE_NAME),
        "this is no database, ".repeat(500),
    )
    .unwrap();
    let desk = Desk::open(rules(folder.path()));
    desk.file.append(&record_of("a", "t"));
    let counts = desk.close().await;
    assert_eq!((counts.written, counts.dropped), (1, 0));
    let aside = |name: &&String| {
        let (_, rest) = name.split_once(".damaged-").unwrap_or_default();
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit())
    };
    assert_eq!(files(folder.path()).iter().filter(aside).count(), 1);

    // Within, where only a look over all of it finds it.
    let desk = Desk::open(rules(folder.path()));
    for at in 0..500 {
        desk.file.append(&record_of(&format!("r-{at}"), "t"));
    }
    desk.close().await;
    let path = folder.path().join(FILE_NAME);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0x5a);
    std::fs::write(&path, bytes).unwrap();
    for name in files(folder.path()).iter().filter(aside) {
        std::fs::remove_file(folder.path().join(name)).unwrap();
    }
    let desk = Desk::open(rules(folder.path()));
    desk.file.append(&record_of("b", "t"));
    desk.until_done(1).await;
    let latest = desk.reader.latest(10, None).await.unwrap();
    assert_eq!(latest.len(), 1);
    assert_eq!(files(folder.path()).iter().filter(aside).count(), 1);
    desk.close().await;
}

#[tokio::test]
async fn a_dead_place_holds_up_nobody_and_is_tried_again() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("dir");
    std::fs::write(&dir, "a file where the folder should be").unwrap();
    let desk = Desk::open(rules(&dir));
    desk.file.append(&record_of("first", "t"));
    while !desk.file.counts().is_failing {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    // All that finds room waits, and the rest is counted.
    for at in 0..RECORD_QUEUE_MAX + 100 {
        desk.file.append(&record_of(&format!("r-{at}"), "t"));
    }
    let dropped = desk.file.counts().dropped;
    assert!((1..=100).contains(&dropped), "{dropped}");
    assert!(matches!(
        desk.reader.latest(1, None).await,
        Err(RecordFault::Absent)
    ));
    std::fs::remove_file(&dir).unwrap();
    let all = RECORD_QUEUE_MAX as u64 + 101;
    desk.until_done(all).await;
    let counts = desk.close().await;
    assert_eq!(counts.written + counts.dropped, all);
    assert_eq!((counts.dropped, counts.is_failing), (dropped, false));
}

#[tokio::test]
async fn what_a_dead_place_never_took_is_counted_at_the_end() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("dir");
    std::fs::write(&dir, "a file where the folder should be").unwrap();
    let desk = Desk::open(rules(&dir));
    for at in 0..5 {
        desk.file.append(&record_of(&format!("r-{at}"), "t"));
    }
    let counts = desk.close().await;
    assert_eq!((counts.written, counts.dropped), (0, 5));
}

#[tokio::test]
async fn what_is_too_old_or_too_much_is_removed() {
    let folder = TempDir::new().unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap().as_micros() as i64;
    let hour = 3_600_000_000;
    let mut file = super::file::open(folder.path(), FILE_NAME, SystemTime::now())
        .await
        .unwrap();
    for hours in 1..=10 {
        write(&mut file, &[record(now - hours * hour)]).await;
    }
    file.close().await.unwrap();
    for (keep, bytes_max, left) in [
        (Duration::ZERO, u64::MAX, 10),
        (Duration::from_secs(5 * 3_600 + 60), u64::MAX, 5),
        (Duration::ZERO, 1, 0),
    ] {
        let desk = Desk::open(RecordRules {
            keep,
            bytes_max,
            ..rules(folder.path())
        });
        let wait = async {
            loop {
                let latest = desk.reader.latest(100, None).await;
                if latest.is_ok_and(|it| it.len() == left) {
                    return;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap();
        desk.close().await;
    }
}

#[tokio::test]
async fn every_version_of_the_file_is_brought_forward() {
    for version in 0..=MIGRATIONS.len() {
        let folder = TempDir::new().unwrap();
        let options = SqliteConnectOptions::new()
            .filename(folder.path().join(FILE_NAME))
            .create_if_missing(true);
        let mut old = SqliteConnection::connect_with(&options).await.unwrap();
        bring_forward(&mut old, &MIGRATIONS[..version])
            .await
            .unwrap();
        old.close().await.unwrap();
        let desk = Desk::open(rules(folder.path()));
        desk.file.append(&record_of("a", "t"));
        assert_eq!(desk.close().await.written, 1, "{version}");
    }
    // More steps than there are today, each once.
    let folder = TempDir::new().unwrap();
    let mut file = super::file::open(folder.path(), FILE_NAME, SystemTime::now())
        .await
        .unwrap();
    let mut more = MIGRATIONS.to_vec();
    more.push("ALTER TABLE records ADD COLUMN energy_mj INTEGER;");
    for _ in 0..2 {
        bring_forward(&mut file, &more).await.unwrap();
    }
    // Which this program then leaves alone, and does not take for a damaged one.
    let known = MIGRATIONS.len() as i64;
    let refused = bring_forward(&mut file, &MIGRATIONS).await;
    assert!(
        matches!(refused, Err(FileError::Newer { version, .. }) if version == known + 1),
        "{refused:?}"
    );
}

#[tokio::test]
async fn who_reads_finds_nothing_where_nothing_is_kept() {
    let folder = TempDir::new().unwrap();
    let reader = RecordReader::new(folder.path(), Calendar::utc());
    let savings = reader.savings(Since::Ago(60), None).await;
    assert!(matches!(savings, Err(RecordFault::Absent)), "{savings:?}");
    assert_eq!(files(folder.path()), [""; 0], "and makes nothing");
    let day = Since::Day {
        year: 2026,
        month: 2,
        day: 30,
    };
    let savings = reader.savings(day, None).await;
    assert!(matches!(savings, Err(RecordFault::NoSuchDay)));
}

#[tokio::test]
async fn who_reads_at_once_waits_for_the_file() {
    let folder = TempDir::new().unwrap();
    let reader = RecordReader::new(folder.path(), Calendar::utc());
    let (desk, writer) = RecordDesk::new(rules(folder.path()));
    let reader = reader.beside(Arc::clone(&desk));
    let looking = async {
        let found = reader.latest(1, None).await.unwrap();
        assert!(found.is_empty());
        desk.close();
    };
    // Who writes begins after who reads.
    tokio::join!(looking, writer.run());

    // Where there is no writer any more, what it left is read.
    let (desk, writer) = RecordDesk::new(rules(folder.path()));
    drop(writer);
    let reader = RecordReader::new(folder.path(), Calendar::utc()).beside(desk);
    assert!(reader.latest(1, None).await.unwrap().is_empty());
}

#[tokio::test]
async fn reading_while_it_is_written_holds_up_neither() {
    let folder = TempDir::new().unwrap();
    let desk = Desk::open(rules(folder.path()));
    for round in 0..20_u64 {
        for at in 0..50 {
            desk.file.append(&record_of(&format!("{round}-{at}"), "t"));
        }
        desk.until_done((round + 1) * 50).await;
        let savings = desk.reader.savings(Since::Ago(60), None).await.unwrap();
        assert_eq!(savings.total.requests, (round as i64 + 1) * 50);
    }
    desk.close().await;
    let mut file = plainly(folder.path()).await;
    let found: String = query_scalar("PRAGMA integrity_check")
        .fetch_one(&mut file)
        .await
        .unwrap();
    assert_eq!(found, "ok");
}
