//! The same over a Postgres, which the tests start themselves and stop under way.

use std::sync::OnceLock;

use loadtest::{POSTGRES_PASSWORD, PostgresServer};

use super::*;
use crate::PostgresFault;
use crate::postgres::{MIGRATIONS as STEPS, bring_forward as bring_schema_forward, version};
use crate::records::file::WAITING_NAME;
use crate::records::shared::{Waiting, replica, row};

/// The server of all tests that do not stop it. `None` where none is installed, which was said.
fn common() -> Option<&'static PostgresServer> {
    static SERVER: OnceLock<Option<PostgresServer>> = OnceLock::new();
    SERVER
        .get_or_init(|| PostgresServer::start().unwrap())
        .as_ref()
}

fn address(server: &PostgresServer, database: &str) -> PostgresAddress {
    server.database(database).unwrap().parse().unwrap()
}

fn open(rules: RecordRules, address: &PostgresAddress) -> Desk {
    let reader = RecordReader::shared(address.clone(), Calendar::utc());
    let (file, writer) = RecordDesk::shared(rules, address.clone(), None);
    let mut running = JoinSet::new();
    running.spawn(writer.run());
    Desk {
        file,
        reader,
        running,
    }
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let held = tokio::time::timeout(PATIENCE, wait).await;
    assert!(held.is_ok(), "never came to be: {what}");
}

/// Records and how many names they have: the same where none is there twice.
fn kept(server: &PostgresServer, database: &str) -> (usize, usize) {
    let sql = "SELECT COUNT(*), COUNT(DISTINCT request_id) FROM hedge.records";
    let told = server.query(database, sql).unwrap();
    let (rows, names) = told.split_once('|').unwrap();
    (rows.parse().unwrap(), names.parse().unwrap())
}

fn append(desk: &Desk, name: &str, count: usize) {
    for at in 0..count {
        desk.file.append(&record_of(&format!("{name}-{at}"), "t"));
    }
}

#[tokio::test]
async fn records_in_postgres_are_kept_and_read_as_agreed() {
    let Some(server) = common() else { return };
    let folder = TempDir::new().unwrap();
    let address = address(server, "agreed");
    let reader = RecordReader::shared(address.clone(), Calendar::utc());
    let absent = reader.latest(1, None).await;
    assert!(matches!(absent, Err(RecordFault::Absent)), "{absent:?}");
    let desk = open(rules(&folder.path().join("made/here")), &address);
    let counts = std::sync::atomic::AtomicU64::new(0);
    check_record_shelf(&*desk.file, &desk.reader, async || {
        let done = counts.swap(13, std::sync::atomic::Ordering::Relaxed);
        desk.until_done(done).await;
        while desk.reader.latest(1, None).await.is_err() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await;
    let counts = desk.close().await;
    assert_eq!(
        (counts.dropped, counts.is_away, counts.waiting),
        (0, false, 0)
    );
    let names = files(&folder.path().join("made/here"));
    assert_eq!(names, ["replica", "waiting.lock"], "nothing had to wait");
}

#[tokio::test]
async fn a_batch_that_is_sent_again_changes_nothing_and_another_replicas_does() {
    let Some(server) = common() else { return };
    let address = address(server, "again");
    let mut connection = address.open().await.unwrap();
    let batch = [
        KeptRecord {
            model_asked: "of a file that somebody else\0made".to_owned(),
            ..record(17)
        },
        record(18),
    ];
    for (replica, new) in [("a", 2), ("a", 0), ("b", 2), ("b", 0)] {
        let inserted = row::insert(&mut connection, replica, &batch).await;
        assert_eq!(inserted.unwrap(), new, "{replica}");
    }
    assert_eq!(kept(server, "again").0, 4);
    let asked = server
        .query(
            "again",
            "SELECT DISTINCT model_asked FROM hedge.records WHERE ended_us = 17",
        )
        .unwrap();
    assert_eq!(asked, "of a file that somebody else\u{fffd}made");
}

#[tokio::test]
async fn replicas_that_start_at_once_bring_the_schema_forward_once() {
    let Some(server) = common() else { return };
    let address = address(server, "at_once");
    let opened = futures::future::join_all((0..12).map(|_| address.open())).await;
    for connection in opened {
        connection.unwrap();
    }
    let done = server
        .query(
            "at_once",
            "SELECT COUNT(*), MAX(version) FROM hedge.migrations",
        )
        .unwrap();
    assert_eq!(done, format!("{0}|{0}", STEPS.len()));
}

#[tokio::test]
async fn every_version_of_the_schema_is_brought_forward() {
    let Some(server) = common() else { return };
    for known in 0..=STEPS.len() {
        let address = address(server, &format!("version_{known}"));
        let mut old = address.connect().await.unwrap();
        bring_schema_forward(&mut old, &STEPS[..known])
            .await
            .unwrap();
        let mut now = address.open().await.unwrap();
        assert_eq!(version(&mut now).await.unwrap(), STEPS.len() as i64);
    }
    // More steps than there are today, each once, and one that fails leaves nothing.
    let address = address(server, "version_more");
    let mut connection = address.open().await.unwrap();
    let mut more = STEPS.to_vec();
    more.push("ALTER TABLE hedge.records ADD COLUMN energy_mj BIGINT;");
    more.push("ALTER TABLE hedge.nowhere ADD COLUMN energy_mj BIGINT;");
    let failed = bring_schema_forward(&mut connection, &more).await;
    assert!(matches!(failed, Err(PostgresFault::Sql(_))), "{failed:?}");
    more.pop();
    for _ in 0..2 {
        bring_schema_forward(&mut connection, &more).await.unwrap();
    }
    // Which this program then leaves alone: its records wait.
    let folder = TempDir::new().unwrap();
    let desk = open(rules(folder.path()), &address);
    append(&desk, "later", 3);
    eventually("they wait", async || desk.file.counts().waiting == 3).await;
    let counts = desk.close().await;
    assert!(counts.is_away && !counts.is_failing, "{counts:?}");
    assert_eq!(kept(server, "version_more").0, 0);
}

#[tokio::test]
async fn a_database_that_would_lose_letters_or_takes_nothing_is_not_used() {
    let Some(server) = common() else { return };
    let latin =
        "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'";
    server.query("postgres", latin).unwrap();
    let address: PostgresAddress = server.url("latin").parse().unwrap();
    let refused = address.open().await.unwrap_err();
    assert!(
        matches!(&refused, PostgresFault::Encoding { encoding } if encoding == "LATIN1"),
        "{refused:?}"
    );
    server.database("still").unwrap();
    let still = "ALTER DATABASE still SET default_transaction_read_only = on";
    server.query("postgres", still).unwrap();
    let address: PostgresAddress = server.url("still").parse().unwrap();
    let refused = address.open().await.unwrap_err();
    assert!(matches!(refused, PostgresFault::ReadOnly), "{refused:?}");
    let address: PostgresAddress = server
        .url("still")
        .replace(POSTGRES_PASSWORD, "wrong-word")
        .parse()
        .unwrap();
    let refused = format!("{:?}", address.open().await.unwrap_err());
    assert!(refused.contains("authentication"), "{refused}");
    assert!(!refused.contains("wrong-word"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_while_postgres_is_away_is_brought_there_once() {
    let Some(mut server) = PostgresServer::start().unwrap() else {
        return;
    };
    let address = address(&server, "away");
    let folder = TempDir::new().unwrap();
    let desk = open(rules(folder.path()), &address);
    append(&desk, "before", 50);
    desk.until_done(50).await;
    let mut sent = 50;
    for round in 0..2 {
        append(&desk, &format!("last-{round}"), 7);
        server.stop();
        append(&desk, &format!("away-{round}"), RECORD_BATCH_MAX * 2 + 7);
        sent += RECORD_BATCH_MAX * 2 + 14;
        eventually("they wait", async || {
            let counts = desk.file.counts();
            counts.is_away && counts.queued == 0 && counts.waiting > RECORD_BATCH_MAX as u64
        })
        .await;
        let unread = desk.reader.latest(1, None).await;
        assert!(matches!(unread, Err(RecordFault::Away(_))), "{unread:?}");
        server.resume().unwrap();
        desk.until_done(sent as u64).await;
        eventually("none waits", async || {
            let counts = desk.file.counts();
            counts.waiting == 0 && !counts.is_away
        })
        .await;
        append(&desk, &format!("after-{round}"), 5);
        sent += 5;
        desk.until_done(sent as u64).await;
    }
    let counts = desk.close().await;
    assert_eq!((counts.written, counts.dropped), (sent as u64, 0));
    assert!(!counts.is_failing);
    assert_eq!(kept(&server, "away"), (sent, sent));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_hangs_holds_up_nobody() {
    let Some(server) = PostgresServer::start().unwrap() else {
        return;
    };
    let address = address(&server, "hangs");
    let folder = TempDir::new().unwrap();
    let desk = open(rules(folder.path()), &address);
    append(&desk, "before", 5);
    desk.until_done(5).await;
    server.signal("-STOP").unwrap();
    append(&desk, "meanwhile", 500);
    eventually("they wait", async || desk.file.counts().waiting == 500).await;
    server.signal("-CONT").unwrap();
    // Whatever became of what was under way, each is there once.
    desk.until_done(505).await;
    let counts = desk.close().await;
    assert_eq!((counts.written, counts.dropped), (505, 0));
    assert_eq!(kept(&server, "hangs"), (505, 505));
}

#[tokio::test]
async fn a_replica_that_ends_while_postgres_is_away_goes_on_from_its_file() {
    let Some(server) = common() else { return };
    let folder = TempDir::new().unwrap();
    let nowhere: PostgresAddress = "postgres://hedge@127.0.0.1:1/none".parse().unwrap();
    let desk = open(rules(folder.path()), &nowhere);
    append(&desk, "early", RECORD_BATCH_MAX + 3);
    let counts = desk.close().await;
    assert_eq!((counts.dropped, counts.written), (0, 0));
    assert_eq!(counts.waiting, RECORD_BATCH_MAX as u64 + 3);
    // Some of it had been taken, and the answer was lost.
    let address = address(server, "goes_on");
    let mut connection = address.open().await.unwrap();
    let mut waiting = Waiting::new(folder.path(), u64::MAX);
    let batch = waiting.page(None).await.unwrap();
    let replica = replica::of(folder.path()).unwrap();
    let taken = row::insert(&mut connection, &replica, &batch[..400]).await;
    assert_eq!(taken.unwrap(), 400);
    let desk = open(rules(folder.path()), &address);
    desk.until_done(RECORD_BATCH_MAX as u64 + 3).await;
    append(&desk, "late", 2);
    let counts = desk.close().await;
    assert_eq!(counts.waiting, 0);
    let all = RECORD_BATCH_MAX + 5;
    assert_eq!(kept(server, "goes_on"), (all, all));
}

#[tokio::test]
async fn without_either_place_records_wait_in_the_queue() {
    let Some(server) = common() else { return };
    let folder = TempDir::new().unwrap();
    // A folder that cannot be made, and one whose file may not grow.
    let taken = folder.path().join("taken");
    std::fs::write(&taken, "by a file").unwrap();
    for (database, rules) in [
        ("no_folder", rules(&taken)),
        (
            "no_room",
            RecordRules {
                bytes_max: 1,
                ..rules(&folder.path().join("small"))
            },
        ),
    ] {
        server.database(database).unwrap();
        let limit = |count: i32| format!("ALTER DATABASE {database} CONNECTION LIMIT {count}");
        // The superuser is let in all the same.
        let plain = format!("CREATE ROLE {database} LOGIN PASSWORD 'of-{database}'");
        server.query("postgres", &plain).unwrap();
        let grant = format!("GRANT CREATE ON DATABASE {database} TO {database}");
        server.query("postgres", &grant).unwrap();
        server.query("postgres", &limit(0)).unwrap();
        let url = server.url(database);
        let superuser = format!("hedge:{POSTGRES_PASSWORD}@");
        let address: PostgresAddress = url
            .replace(&superuser, &format!("{database}:of-{database}@"))
            .parse()
            .unwrap();
        let desk = open(rules, &address);
        append(&desk, "early", 5);
        eventually("it is said", async || desk.file.counts().is_failing).await;
        assert!(desk.file.counts().is_away, "{database}");
        server.query("postgres", &limit(10)).unwrap();
        desk.until_done(5).await;
        let counts = desk.close().await;
        assert_eq!((counts.written, counts.dropped), (5, 0), "{database}");
        assert!(!counts.is_failing && !counts.is_away, "{database}");
        assert_eq!(kept(server, database), (5, 5), "{database}");
    }
}

#[tokio::test]
async fn what_is_too_old_is_removed_from_postgres_too() {
    let Some(server) = common() else { return };
    let folder = TempDir::new().unwrap();
    let address = address(server, "old");
    let mut connection = address.open().await.unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap().as_micros() as i64;
    let hours: Vec<_> = (1..=10)
        .map(|it| record(now - it * 3_600_000_000))
        .collect();
    row::insert(&mut connection, "a", &hours).await.unwrap();
    let desk = open(
        RecordRules {
            keep: Duration::from_secs(5 * 3_600 + 60),
            ..rules(folder.path())
        },
        &address,
    );
    eventually("half is left", async || kept(server, "old").0 == 5).await;
    desk.close().await;
}

/// A node's own file of so many records, as an embedded node leaves it.
async fn own_file(dir: &Path, count: usize) {
    let desk = Desk::open(rules(dir));
    append(&desk, "own", count);
    assert_eq!(desk.close().await.written, count as u64);
}

#[tokio::test]
async fn what_a_node_kept_alone_is_moved_once_and_counted_on_both_sides() {
    let Some(server) = common() else { return };
    let folder = TempDir::new().unwrap();
    let address = address(server, "moved");
    let dir = folder.path();
    let count = RECORD_BATCH_MAX * 2 + 11;
    own_file(dir, count).await;
    let counted = own_records(dir).await.unwrap();
    assert_eq!(counted, (Some(count as i64), None));

    // A node that runs has it.
    let desk = Desk::open(rules(dir));
    append(&desk, "more", 1);
    desk.until_done(1).await;
    let held = shift_records(dir, &address, |_, _| {}).await;
    assert!(matches!(held, Err(ShiftFault::Held { .. })), "{held:?}");
    desk.close().await;

    let count = count + 1;
    let mut steps = Vec::new();
    let shifted = shift_records(dir, &address, |done, all| steps.push((done, all))).await;
    let shifted = shifted.unwrap();
    assert_eq!(steps.first(), Some(&(0, count as u64)));
    assert_eq!(steps.last(), Some(&(count as u64, count as u64)));
    let ShiftedFile::Moved {
        records,
        new,
        spent_microusd,
        aside,
    } = &shifted[0].became
    else {
        panic!("{shifted:?}");
    };
    assert_eq!((*records, *new), (count as i64, count as u64));
    assert_eq!(*spent_microusd, 70 * count as i64);
    assert_eq!(kept(server, "moved"), (count, count));
    assert_eq!(own_records(dir).await.unwrap(), (None, None));

    // Again: nothing is left to move, and what was moved already changes nothing.
    let again = shift_records(dir, &address, |_, _| {}).await.unwrap();
    assert!(
        again.iter().all(|it| it.became == ShiftedFile::Empty),
        "{again:?}"
    );
    std::fs::rename(aside, dir.join(FILE_NAME)).unwrap();
    let again = shift_records(dir, &address, |_, _| {}).await.unwrap();
    assert!(
        matches!(again[0].became, ShiftedFile::Moved { new: 0, records, .. } if records == count as i64),
        "{again:?}"
    );
    assert_eq!(kept(server, "moved"), (count, count));
    let state = records_state(&address).await.unwrap();
    assert_eq!(
        (state.version, state.known),
        (STEPS.len() as i64, STEPS.len() as i64)
    );
    assert_eq!((state.records, state.replicas), (count as i64, 1));
}

#[tokio::test]
async fn what_waits_is_moved_too_unless_a_node_does() {
    let Some(server) = common() else { return };
    let folder = TempDir::new().unwrap();
    let address = address(server, "waits");
    let nowhere: PostgresAddress = "postgres://hedge@127.0.0.1:1/none".parse().unwrap();
    let desk = open(rules(folder.path()), &nowhere);
    append(&desk, "early", 9);
    eventually("they wait", async || desk.file.counts().waiting == 9).await;
    let shifted = shift_records(folder.path(), &address, |_, _| {})
        .await
        .unwrap();
    assert_eq!(shifted[1].became, ShiftedFile::Tended);
    desk.close().await;
    let shifted = shift_records(folder.path(), &address, |_, _| {})
        .await
        .unwrap();
    assert!(
        matches!(
            shifted[1].became,
            ShiftedFile::Moved {
                records: 9,
                new: 9,
                ..
            }
        ),
        "{shifted:?}"
    );
    assert!(!folder.path().join(WAITING_NAME).exists());
    assert_eq!(kept(server, "waits"), (9, 9));
}

#[tokio::test]
async fn a_difference_between_the_sides_is_said_and_nothing_is_removed() {
    let Some(server) = common() else { return };
    let folder = TempDir::new().unwrap();
    let address = address(server, "differs");
    own_file(folder.path(), 20).await;
    let mut connection = address.open().await.unwrap();
    let mut waiting = Waiting::called(folder.path(), FILE_NAME, u64::MAX);
    let mut batch = waiting.page(None).await.unwrap();
    waiting.close().await;
    // Somebody changed a cost there.
    batch[3].cost_microusd = Some(71);
    let replica = replica::of(folder.path()).unwrap();
    row::insert(&mut connection, &replica, &batch[..5])
        .await
        .unwrap();
    let differs = shift_records(folder.path(), &address, |_, _| {}).await;
    assert!(
        matches!(
            differs,
            Err(ShiftFault::Differs {
                sent: 20,
                found: 20
            })
        ),
        "{differs:?}"
    );
    assert_eq!(kept(server, "differs").0, 5, "its transaction was undone");
    assert_eq!(own_records(folder.path()).await.unwrap().0, Some(20));
}

/// How often `needle` is in the table's file.
fn count_in_table(server: &PostgresServer, database: &str, needle: &str) -> u64 {
    server.query(database, "CHECKPOINT").unwrap();
    let sql = format!(
        "SELECT (octet_length(file) - octet_length(replace(encode(file, 'escape'), '{needle}', '')::bytea))
             / octet_length('{needle}')
         FROM (SELECT convert_to(encode(pg_read_binary_file(pg_relation_filepath('hedge.records')),
             'escape'), 'UTF8') AS file) AS it"
    );
    server.query(database, &sql).unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_names_somebody_is_gone_from_postgres_and_every_sum_stays() {
    let Some(server) = common() else { return };
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let address = address(server, "erased");
    let (own, others) = (
        rights::secret(),
        crate::SubjectSecret::open(two.path()).unwrap(),
    );
    std::fs::write(one.path().join("subjects.key"), [7; 32]).unwrap();
    std::fs::set_permissions(
        one.path().join("subjects.key"),
        PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    let first = open(rules(one.path()), &address);
    let second = open(rules(two.path()), &address);
    for _ in 0..5 {
        rights::append_for(&first.file, "anna", "red", &[], 100);
        rights::append_for(&first.file, "ben", "red", &[], 100);
    }
    // Each replica marks with a secret of its own.
    for at in 0..50 {
        let mut record = record_of(&format!("anna/two-{at}"), "red");
        record.marks.user = Some(domain::Marker::mark(
            &others,
            &domain::Who::User("anna".into()),
        ));
        second.file.append(&record);
    }
    first.until_done(1_000).await;
    second.until_done(50).await;
    let eraser = RecordEraser::shared(Arc::clone(&first.file), one.path(), address.clone(), own);
    let anna = rights::user("anna", None);
    let found = domain::RecordRights::of(&eraser, &anna, 1_000, None).await;
    assert_eq!(found.unwrap().len(), 550);
    let before = rights::sums(&first.reader).await;
    let word = rights::word(&anna);
    assert!(count_in_table(server, "erased", "anna/") >= 550);
    assert!(count_in_table(server, "erased", &word) >= 500);

    for name in ["' OR 1=1 --", "%", "}", "{\"a\"}"] {
        let erased = domain::RecordRights::erase(&eraser, &rights::user(name, None)).await;
        assert_eq!(erased.unwrap().records, 0, "{name}");
    }
    let erased = domain::RecordRights::erase(&eraser, &anna).await.unwrap();
    assert_eq!((erased.records, erased.is_rewritten), (550, true));
    assert_eq!(count_in_table(server, "erased", "anna"), 0);
    assert_eq!(count_in_table(server, "erased", &word), 0);
    assert_eq!(rights::sums(&first.reader).await, before);
    let ben = domain::RecordRights::of(&eraser, &rights::user("ben", None), 1_000, None).await;
    assert_eq!(ben.unwrap().len(), 500);
    assert_eq!(kept(server, "erased").0, 1_050);
    first.close().await;
    second.close().await;
}

#[tokio::test]
async fn a_batch_that_is_there_and_waits_as_well_is_the_same_once_it_is_nobodys() {
    let Some(server) = common() else { return };
    let folder = TempDir::new().unwrap();
    let dir = folder.path();
    let address = address(server, "erased_twice");
    std::fs::write(dir.join("subjects.key"), [7; 32]).unwrap();
    std::fs::set_permissions(dir.join("subjects.key"), PermissionsExt::from_mode(0o600)).unwrap();
    let word = rights::word(&rights::user("anna", None));
    let batch: Vec<KeptRecord> = (0..10)
        .map(|at| KeptRecord {
            marks: Some(word.clone()),
            ..record(at)
        })
        .collect();
    let mut connection = address.open().await.unwrap();
    let own = replica::of(dir).unwrap();
    row::insert(&mut connection, &own, &batch).await.unwrap();
    let mut waiting = Waiting::new(dir, u64::MAX);
    waiting.append(&batch).await.unwrap();
    // Nobody brings it meanwhile.
    let (desk, writer) = RecordDesk::shared(rules(dir), address.clone(), None);
    let eraser = RecordEraser::shared(Arc::clone(&desk), dir, address.clone(), rights::secret());
    drop(writer);
    let anna = rights::user("anna", None);
    let erased = domain::RecordRights::erase(&eraser, &anna).await.unwrap();
    assert_eq!(erased.records, 20, "ten of each");
    let page = waiting.page(None).await.unwrap();
    assert_eq!(page.len(), 10);
    row::insert(&mut connection, &own, &page).await.unwrap();
    assert_eq!(kept(server, "erased_twice").0, 10);
    // Nor does what somebody has who was not asked, under the names that it had before.
    let again = TempDir::new().unwrap();
    for name in ["subjects.key", "replica"] {
        std::fs::copy(dir.join(name), again.path().join(name)).unwrap();
    }
    let mut late = Waiting::new(again.path(), u64::MAX);
    let new = KeptRecord {
        marks: Some(word),
        ..record(99)
    };
    late.append(&batch).await.unwrap();
    late.append(&[new]).await.unwrap();
    let desk = open(rules(again.path()), &address);
    eventually("all that waited is brought", async || {
        late.count().await.unwrap() == 0
    })
    .await;
    assert_eq!(kept(server, "erased_twice").0, 11);
    desk.close().await;
}

/// A replica's folder with the secret of the tests, and ten records of Anna's.
fn annas() -> (TempDir, Vec<KeptRecord>) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("subjects.key");
    std::fs::write(&path, [7; 32]).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    let word = rights::word(&rights::user("anna", None));
    let batch = (0..10).map(|at| KeptRecord {
        request_id: format!("anna/{at}"),
        marks: Some(word.clone()),
        ..record(at)
    });
    (folder, batch.collect())
}

/// Of a desk that writes nothing.
fn eraser(dir: &Path, address: &PostgresAddress) -> RecordEraser {
    let (desk, _) = RecordDesk::shared(rules(dir), address.clone(), None);
    RecordEraser::shared(desk, dir, address.clone(), rights::secret())
}

async fn until_none_waits(waiting: &mut Waiting) {
    eventually("all that waited is brought", async || {
        waiting.count().await.unwrap() == 0
    })
    .await;
}

/// What was seen: the answer to a batch was lost, Postgres went away, and somebody was erased meanwhile. The
/// file's records had other names then than Postgres's, so that each was there twice, with its cost; and
/// erasing failed from then on, since one would have become the other.
#[tokio::test]
async fn what_was_made_nobodys_while_postgres_was_away_is_the_same_record_there() {
    let Some(server) = common() else { return };
    let (folder, batch) = annas();
    let dir = folder.path();
    let address = address(server, "erased_away");
    let mut connection = address.open().await.unwrap();
    let own = replica::of(dir).unwrap();
    row::insert(&mut connection, &own, &batch).await.unwrap();
    let mut waiting = Waiting::new(dir, u64::MAX);
    waiting.append(&batch).await.unwrap();
    let nowhere = "postgres://hedge:word@127.0.0.1:1/nowhere".parse().unwrap();
    let anna = rights::user("anna", None);
    let refused = domain::RecordRights::erase(&eraser(dir, &nowhere), &anna).await;
    assert!(matches!(refused, Err(RecordFault::Away(_))), "{refused:?}");
    let page = waiting.page(None).await.unwrap();
    assert!(
        page.iter().all(|it| it.marks.is_none()),
        "that much is done"
    );

    let desk = open(rules(dir), &address);
    until_none_waits(&mut waiting).await;
    assert_eq!(kept(server, "erased_away"), (10, 10));
    let eraser = eraser(dir, &address);
    let erased = domain::RecordRights::erase(&eraser, &anna).await.unwrap();
    assert_eq!(erased.records, 10);
    assert_eq!(kept(server, "erased_away"), (10, 10));
    assert_eq!(count_in_table(server, "erased_away", "anna"), 0);
    desk.close().await;
}

#[tokio::test]
async fn a_record_that_is_there_twice_is_there_once_when_it_is_nobodys() {
    let Some(server) = common() else { return };
    let (folder, mut batch) = annas();
    let address = address(server, "erased_copies");
    let mut connection = address.open().await.unwrap();
    let own = replica::of(folder.path()).unwrap();
    row::insert(&mut connection, &own, &batch).await.unwrap();
    for record in &mut batch[..4] {
        record.request_id = rights::secret().nobodys_id(record.ended_us, &record.request_id);
        record.marks = None;
    }
    row::insert(&mut connection, &own, &batch[..4])
        .await
        .unwrap();
    assert_eq!(kept(server, "erased_copies").0, 14);
    let eraser = eraser(folder.path(), &address);
    let anna = rights::user("anna", None);
    let erased = domain::RecordRights::erase(&eraser, &anna).await.unwrap();
    assert_eq!((erased.records, erased.is_rewritten), (10, true));
    assert_eq!(kept(server, "erased_copies"), (10, 10));
}

/// What was seen: another replica erased between the look whether a batch is there and its writing, which
/// waited for the lock, and put what had been erased beside it.
#[tokio::test]
async fn who_is_erased_while_what_waits_is_brought_is_not_brought_again() {
    let Some(server) = common() else { return };
    let (folder, batch) = annas();
    let dir = folder.path();
    let address = address(server, "erased_under_way");
    let mut connection = address.open().await.unwrap();
    let own = replica::of(dir).unwrap();
    row::insert(&mut connection, &own, &batch).await.unwrap();
    let mut waiting = Waiting::new(dir, u64::MAX);
    waiting.append(&batch).await.unwrap();
    let mut erasing = connection.begin().await.unwrap();
    erasing
        .execute("LOCK TABLE hedge.records IN SHARE ROW EXCLUSIVE MODE")
        .await
        .unwrap();
    let desk = open(rules(dir), &address);
    eventually("what waits is being brought", async || {
        let sql = "SELECT COUNT(*) FROM pg_locks
                   WHERE NOT granted AND relation = 'hedge.records'::regclass";
        server.query("erased_under_way", sql).unwrap() != "0"
    })
    .await;
    for record in &batch {
        let rename = "UPDATE hedge.records SET marks = NULL, request_id = $1 WHERE request_id = $2";
        sqlx::query(rename)
            .bind(rights::secret().nobodys_id(record.ended_us, &record.request_id))
            .bind(&record.request_id)
            .execute(&mut *erasing)
            .await
            .unwrap();
    }
    erasing.commit().await.unwrap();
    until_none_waits(&mut waiting).await;
    assert_eq!(kept(server, "erased_under_way"), (10, 10));
    let named = "SELECT COUNT(*) FROM hedge.records WHERE marks IS NOT NULL";
    assert_eq!(server.query("erased_under_way", named).unwrap(), "0");
    desk.close().await;
}

/// What was seen: records that had waited were gone from the file once Postgres had them, and stood in its
/// log, where an erasing that found no row left them.
#[tokio::test]
async fn what_waited_once_and_was_brought_has_left_nothing() {
    let Some(server) = common() else { return };
    let (folder, batch) = annas();
    let dir = folder.path();
    let address = address(server, "erased_waited");
    let mut waiting = Waiting::new(dir, u64::MAX);
    waiting.append(&batch).await.unwrap();
    let desk = open(rules(dir), &address);
    until_none_waits(&mut waiting).await;
    assert!(rights::count_in(dir, "anna/") > 0);
    let eraser = eraser(dir, &address);
    let anna = rights::user("anna", None);
    let erased = domain::RecordRights::erase(&eraser, &anna).await.unwrap();
    assert_eq!((erased.records, erased.is_rewritten), (10, true));
    assert_eq!(rights::count_in(dir, "anna/"), 0);
    assert_eq!(rights::count_in(dir, &rights::word(&anna)), 0);
    desk.close().await;
}

/// What was seen: a backup's transaction that had begun before saw the rows as they were, so that the table
/// was written anew with them, and `rewritten` said that nothing was left.
#[tokio::test]
async fn a_table_that_somebody_still_sees_as_it_was_is_not_said_to_be_clean() {
    let Some(server) = common() else { return };
    let (folder, batch) = annas();
    let address = address(server, "erased_seen");
    let mut connection = address.open().await.unwrap();
    let own = replica::of(folder.path()).unwrap();
    row::insert(&mut connection, &own, &batch).await.unwrap();
    let mut older = address.connect().await.unwrap();
    let mut backup = older
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ")
        .await
        .unwrap();
    backup
        .execute("SELECT COUNT(*) FROM hedge.keys")
        .await
        .unwrap();
    let eraser = eraser(folder.path(), &address);
    let anna = rights::user("anna", None);
    let erased = domain::RecordRights::erase(&eraser, &anna).await.unwrap();
    assert_eq!((erased.records, erased.is_rewritten), (10, false));
    assert!(count_in_table(server, "erased_seen", "anna") > 0);
    backup.commit().await.unwrap();
    let erased = domain::RecordRights::erase(&eraser, &anna).await.unwrap();
    assert_eq!((erased.records, erased.is_rewritten), (0, true));
    assert_eq!(count_in_table(server, "erased_seen", "anna"), 0);
}

#[tokio::test]
async fn what_was_moved_and_is_nobodys_by_now_is_not_moved_again() {
    let Some(server) = common() else { return };
    let (folder, batch) = annas();
    let dir = folder.path();
    let address = address(server, "moved_erased");
    let mut own_file = Waiting::called(dir, FILE_NAME, u64::MAX);
    own_file.append(&batch).await.unwrap();
    own_file.close().await;
    let mut connection = address.open().await.unwrap();
    let own = replica::of(dir).unwrap();
    // As an earlier try left it that ended after four, and somebody who erased then.
    row::insert(&mut connection, &own, &batch[..4])
        .await
        .unwrap();
    let elsewhere = TempDir::new().unwrap();
    for name in ["subjects.key", "replica"] {
        std::fs::copy(dir.join(name), elsewhere.path().join(name)).unwrap();
    }
    let eraser = eraser(elsewhere.path(), &address);
    let anna = rights::user("anna", None);
    let erased = domain::RecordRights::erase(&eraser, &anna).await.unwrap();
    assert_eq!(erased.records, 4);
    let shifted = shift_records(dir, &address, |_, _| {}).await.unwrap();
    let became = &shifted[0].became;
    assert!(
        matches!(
            became,
            ShiftedFile::Moved {
                records: 10,
                new: 6,
                ..
            }
        ),
        "{became:?}"
    );
    assert_eq!(kept(server, "moved_erased"), (10, 10));
}
