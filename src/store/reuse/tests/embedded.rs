//! What outlives the process, and what a file may do to those who keep things in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use domain::{Compartment, Entry, EntryId, Mark, Purge, ReplyIndex, Subject, Who};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::{Hands, RULES};
use crate::conformance::{IndexBench, check_reply_index, entry_of};
use crate::reuse::file::{ASIDE, NAME};
use crate::reuse::*;

struct FileBench {
    dir: TempDir,
    hands: Hands,
    rules: ReuseRules,
    encoder: &'static str,
    index: Option<Arc<EmbeddedIndex>>,
    driver: JoinSet<()>,
}

impl FileBench {
    async fn new() -> Self {
        let mut bench = Self {
            dir: tempfile::tempdir().unwrap(),
            hands: Hands::new(),
            rules: RULES,
            encoder: "one",
            index: None,
            driver: JoinSet::new(),
        };
        bench.open().await;
        bench
    }

    fn folder(&self) -> std::path::PathBuf {
        self.dir.path().join("deep/cache")
    }

    async fn open(&mut self) {
        let (folder, clock) = (self.folder(), self.hands.clock());
        let opened = EmbeddedIndex::open(&folder, self.encoder, self.rules, clock).await;
        let (index, driver) = opened.unwrap();
        self.index = Some(index);
        self.driver.spawn(driver);
    }

    async fn close(&mut self) {
        self.index = None;
        while let Some(ended) = self.driver.join_next().await {
            ended.unwrap();
        }
    }

    fn own(&self) -> &Arc<EmbeddedIndex> {
        self.index.as_ref().unwrap()
    }

    /// Entries of these names, a compartment each.
    async fn keep(&self, ids: std::ops::Range<u64>) {
        for id in ids {
            self.own().keep(entry_in_its_own(self, id));
        }
        self.settle().await;
    }

    /// Which of these names are found.
    fn found(&self, ids: std::ops::Range<u64>) -> Vec<u64> {
        ids.filter(|id| self.own().find(EntryId(*id)).is_some())
            .collect()
    }

    /// The file by itself, while no index has it.
    async fn file(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.folder().join(NAME));
        options.connect().await.unwrap()
    }
}

fn entry_in_its_own(bench: &dyn IndexBench, id: u64) -> Entry {
    Entry {
        compartment: Compartment([u8::try_from(id % 251).unwrap(); 32]),
        ..entry_of(bench, id, 0.0)
    }
}

#[async_trait]
impl IndexBench for FileBench {
    fn index(&self) -> Arc<dyn ReplyIndex> {
        Arc::clone(self.own()) as Arc<dyn ReplyIndex>
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

    async fn settle(&self) {
        self.own().flush().await;
    }

    async fn restart(&mut self) -> bool {
        self.close().await;
        self.open().await;
        true
    }
}

#[tokio::test]
async fn with_a_file_it_keeps_the_contract_of_an_index() {
    let mut bench = FileBench::new().await;
    check_reply_index(&mut bench).await;
    assert_eq!(bench.own().stats().faults, 0);
    bench.close().await;
}

#[tokio::test]
async fn its_files_are_its_users_alone_and_what_is_purged_is_not_in_them() {
    let mut bench = FileBench::new().await;
    bench.keep(0..40).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&bench.folder()), 0o700);
    let bytes = |bench: &FileBench| {
        let mut bytes = Vec::new();
        for file in fs::read_dir(bench.folder()).unwrap() {
            let path = file.unwrap().path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            bytes.extend(fs::read(path).unwrap());
        }
        bytes
    };
    let holds =
        |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|it| it == text.as_bytes());
    assert!(holds(&bytes(&bench), "answer 7"));
    assert_eq!(
        bench.own().purge(&Purge::Entry(EntryId(7))).await.unwrap(),
        1
    );
    let left = bytes(&bench);
    assert!(!holds(&left, "answer 7") && !holds(&left, "question 7"));
    assert!(holds(&left, "answer 8"));
    bench.close().await;
}

/// What was seen: entries that had gone before, for want of room or by their time, stood in the journal and in
/// what pages had free, where somebody's erasing left them.
#[tokio::test]
async fn what_was_somebodys_has_left_nothing_in_the_file() {
    let mut bench = FileBench::new().await;
    bench.keep(0..700).await;
    let kept = bench.found(0..700);
    let gone: Vec<u64> = (0..700).filter(|id| !kept.contains(id)).collect();
    assert!(gone.len() >= 100, "{} went for want of room", gone.len());
    let holds = |bench: &FileBench, id: u64| {
        let text = format!("question {id} ");
        let mut files = fs::read_dir(bench.folder()).unwrap();
        files.any(|file| {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            bytes.windows(text.len()).any(|it| it == text.as_bytes())
        })
    };
    let left = |bench: &FileBench| gone.iter().filter(|id| holds(bench, **id)).count();
    assert!(left(&bench) > 0, "or there is nothing to see here");
    let nobody = Purge::Subject(
        Subject {
            who: Who::User("anna".into()),
            team: None,
        },
        Mark([7; Mark::BYTES]),
    );
    assert_eq!(bench.own().purge(&nobody).await.unwrap(), 0);
    assert_eq!(left(&bench), 0);
    assert!(
        kept.iter().all(|id| holds(&bench, *id)),
        "of others all is there"
    );
    bench.close().await;
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_the_index_begins_empty() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 5] = [
        ("no database", |path| fs::write(path, "not at all").unwrap()),
        ("cut short", |path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("a page overwritten", |path| {
            let mut bytes = fs::read(path).unwrap();
            let len = bytes.len();
            bytes[4_096..len].fill(0xa5);
            fs::write(path, bytes).unwrap();
        }),
        ("another version", |path| {
            let mut bytes = fs::read(path).unwrap();
            // The user version, in SQLite's header.
            bytes[63] = 9;
            fs::write(path, bytes).unwrap();
        }),
        ("somebody else's", |path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[68..72].fill(0);
            fs::write(path, bytes).unwrap();
        }),
    ];
    for (name, damage) in damages {
        let mut bench = FileBench::new().await;
        bench.keep(0..200).await;
        bench.close().await;
        damage(&bench.folder().join(NAME));
        bench.open().await;
        bench.settle().await;
        assert!(bench.folder().join(ASIDE).exists(), "{name}");
        assert!(bench.found(0..200).is_empty(), "{name}");
        // It goes on as ever.
        bench.keep(300..303).await;
        bench.restart().await;
        bench.settle().await;
        assert_eq!(bench.found(0..400), [300, 301, 302], "{name}");
        bench
            .own()
            .purge(&Purge::Tag("spring".to_owned()))
            .await
            .unwrap();
        assert!(
            !bench.folder().join(ASIDE).exists(),
            "{name}: a purge means it too"
        );
        bench.close().await;
    }
}

#[tokio::test]
async fn rows_that_cannot_be_believed_are_removed_and_the_others_serve() {
    let mut bench = FileBench::new().await;
    bench.keep(0..10).await;
    bench.close().await;
    let mut file = bench.file().await;
    for spoil in [
        "UPDATE entries SET vector = zeroblob(16) WHERE id = 0",
        "UPDATE entries SET vector = CAST(x'ff7f' || substr(vector, 3) AS BLOB) WHERE id = 1",
        "UPDATE entries SET vector = substr(vector, 3) WHERE id = 2",
        "UPDATE entries SET vector = x'' WHERE id = 3",
        "UPDATE entries SET entry = substr(entry, 2) WHERE id = 4",
        "UPDATE entries SET evidence = x'ff' WHERE id = 5",
        "UPDATE entries SET compartment = x'00' WHERE id = 6",
        "UPDATE entries SET compartment = zeroblob(32) WHERE id = 7",
        "UPDATE entries SET id = 77 WHERE id = 8",
    ] {
        let done = sqlx::query(spoil).execute(&mut file).await.unwrap();
        assert_eq!(done.rows_affected(), 1, "{spoil}");
    }
    file.close().await.unwrap();
    bench.open().await;
    bench.settle().await;
    assert_eq!(bench.found(0..100), [9]);
    assert_eq!(bench.own().stats().faults, 9);
    bench.close().await;
    let mut file = bench.file().await;
    let left: Vec<i64> = sqlx::query_scalar("SELECT id FROM entries")
        .fetch_all(&mut file)
        .await
        .unwrap();
    assert_eq!(left, [9]);
}

#[tokio::test]
async fn rows_and_state_of_another_encoder_wait_for_it() {
    let mut bench = FileBench::new().await;
    bench.keep(0..3).await;
    bench.own().save_state(b"of one".to_vec());
    bench.close().await;
    bench.encoder = "two";
    bench.open().await;
    bench.settle().await;
    assert!(bench.found(0..3).is_empty());
    assert_eq!(bench.own().load_state(), None);
    bench.keep(10..12).await;
    bench.own().save_state(b"of two".to_vec());
    // A purge means all that is there.
    let purge = Purge::Compartment(Compartment([1; 32]));
    assert_eq!(bench.own().purge(&purge).await.unwrap(), 1);
    bench.close().await;
    bench.encoder = "one";
    bench.open().await;
    bench.settle().await;
    assert_eq!(bench.found(0..20), [0, 2]);
    assert_eq!(bench.own().load_state().as_deref(), Some(&b"of one"[..]));
    bench.close().await;
}

#[tokio::test]
async fn what_there_is_no_room_for_any_more_is_the_oldest() {
    let mut bench = FileBench::new().await;
    bench.keep(0..500).await;
    bench.close().await;
    bench.rules.entries_max = 300;
    bench.open().await;
    bench.settle().await;
    assert_eq!(bench.found(0..500), (200..500).collect::<Vec<u64>>());
    bench.close().await;
    // And it does not come back with the room.
    bench.rules.entries_max = 600;
    bench.open().await;
    bench.settle().await;
    assert_eq!(bench.own().stats().entries, 300);
    bench.close().await;
}

#[tokio::test]
async fn a_purge_reaches_what_is_not_back_yet() {
    let mut bench = FileBench::new().await;
    bench.keep(0..500).await;
    bench.close().await;
    let (folder, clock) = (bench.folder(), bench.hands.clock());
    let opened = EmbeddedIndex::open(&folder, "one", bench.rules, clock).await;
    let (index, driver) = opened.unwrap();
    assert_eq!(
        index.stats().entries,
        0,
        "nothing is back before the driver runs"
    );
    let purging = async {
        // Asked before the driver does a thing.
        let count = index.purge(&Purge::Model("auto".into())).await.unwrap();
        index.flush().await;
        assert_eq!((count, index.stats().entries), (500, 0));
        drop(index);
    };
    tokio::join!(biased; purging, driver);
    bench.open().await;
    bench.settle().await;
    assert_eq!(bench.own().stats().entries, 0);
    bench.close().await;
}

#[tokio::test]
async fn a_full_queue_drops_what_would_be_written_and_counts_it() {
    let mut bench = FileBench::new().await;
    bench.close().await;
    bench.rules.entries_max = 20_000;
    bench.rules.bytes_max = 1 << 30;
    let (folder, clock) = (bench.folder(), bench.hands.clock());
    let opened = EmbeddedIndex::open(&folder, "one", bench.rules, clock).await;
    let (index, driver) = opened.unwrap();
    let count = REUSE_QUEUE_MAX as u64 + 10;
    for id in 0..count {
        index.keep(entry_in_its_own(&bench, id));
    }
    let stats = index.stats();
    assert_eq!(
        (stats.entries, stats.faults),
        (count, 10),
        "in memory there are all"
    );
    drop(index);
    driver.await;
    bench.open().await;
    bench.settle().await;
    assert_eq!(bench.own().stats().entries, count - 10);
    bench.close().await;
}

#[tokio::test]
async fn a_file_that_takes_nothing_leaves_the_index_as_one_in_memory() {
    let mut bench = FileBench::new().await;
    bench.keep(0..3).await;
    bench.close().await;
    let mut file = bench.file().await;
    for trigger in [
        "CREATE TRIGGER full BEFORE INSERT ON entries BEGIN SELECT raise(ABORT, 'full'); END",
        "CREATE TRIGGER stuck BEFORE DELETE ON entries BEGIN SELECT raise(ABORT, 'stuck'); END",
    ] {
        sqlx::query(trigger).execute(&mut file).await.unwrap();
    }
    file.close().await.unwrap();
    bench.open().await;
    bench.settle().await;
    bench.keep(3..6).await;
    assert_eq!(bench.found(0..10), [0, 1, 2, 3, 4, 5]);
    assert_eq!(bench.own().stats().faults, 3, "counted as not written");
    assert_eq!(
        bench.own().purge(&Purge::Entry(EntryId(0))).await.unwrap(),
        1
    );
    assert_eq!(
        bench.found(0..10),
        [1, 2, 3, 4, 5],
        "purged where it answers from"
    );
    bench.close().await;
    assert!(
        !bench.folder().join(ASIDE).exists(),
        "nothing was wrong with the file"
    );
}

#[tokio::test]
async fn two_processes_do_not_share_a_file() {
    let mut bench = FileBench::new().await;
    let (folder, clock) = (bench.folder(), bench.hands.clock());
    let second = EmbeddedIndex::open(&folder, "one", bench.rules, clock).await;
    let error = second.map(|_| ()).unwrap_err();
    assert!(matches!(error, ReuseFileError::Taken), "{error:?}");
    bench.keep(0..1).await;
    bench.close().await;
}

#[tokio::test]
async fn debug_and_errors_show_no_text() {
    let mut bench = FileBench::new().await;
    bench.keep(0..1).await;
    let shown = format!("{:?}", bench.own());
    assert!(shown.contains("entries") && !shown.contains("question"));
    bench.close().await;
}
