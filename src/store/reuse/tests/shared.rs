//! The same in a Postgres, which the tests start themselves and stop under way.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use domain::{EntryId, Evidence, Mark, Purge, ReplyIndex, Subject, Who, WriterId};
use loadtest::PostgresServer;
use sqlx::{Connection as _, Row as _, query};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{Hands, RULES};
use crate::PostgresAddress;
use crate::conformance::{IndexBench, check_reply_index, entry_of};
use crate::reuse::*;

/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// One replica's.
struct Replica {
    rules: SharedReuseRules,
    hands: Hands,
    index: Option<Arc<SharedIndex>>,
    driver: JoinSet<()>,
}

impl Replica {
    async fn new(postgres: &PostgresAddress, realm: &str) -> Self {
        let mut replica = Self {
            rules: SharedReuseRules {
                postgres: postgres.clone(),
                realm: realm.to_owned(),
                encoder: "one".to_owned(),
                secret: [7; 32],
                index: RULES,
            },
            hands: Hands::new(),
            index: None,
            driver: JoinSet::new(),
        };
        replica.open().await;
        replica
    }

    async fn open(&mut self) {
        let (index, driver) = SharedIndex::open(self.rules.clone(), self.hands.clock()).await;
        self.index = Some(index);
        self.driver.spawn(driver);
        // What is kept before it knows what was removed is not shared.
        self.settle().await;
    }

    async fn close(&mut self) {
        self.index = None;
        while let Some(ended) = self.driver.join_next().await {
            ended.unwrap();
        }
    }

    fn own(&self) -> &Arc<SharedIndex> {
        self.index.as_ref().unwrap()
    }

    async fn keep(&self, id: u64, angle: f32) {
        self.own().keep(entry_of(self, id, angle));
        self.settle().await;
    }

    /// The names of those near an angle.
    async fn near(&self, angle: f32) -> Vec<u64> {
        let entry = entry_of(self, 0, angle);
        let found = self.own().nearest(&entry.compartment, &entry.vector, 9);
        found.await.iter().map(|it| it.entry.id.0).collect()
    }

    /// Waits until it knows what the others did.
    async fn hears(&self) {
        let waiting = async {
            while self.own().stats().is_apart {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap();
    }

    async fn until_near(&self, angle: f32, ids: &[u64]) {
        let waiting = async {
            while self.near(angle).await != ids {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = timeout(PATIENCE, waiting).await;
        assert!(
            waited.is_ok(),
            "{:?} and not {ids:?}",
            self.near(angle).await
        );
    }
}

#[async_trait]
impl IndexBench for Replica {
    fn index(&self) -> Arc<dyn ReplyIndex> {
        Arc::clone(self.own()) as Arc<dyn ReplyIndex>
    }

    fn dimensions(&self) -> usize {
        self.rules.index.dimensions
    }

    fn entries_max(&self) -> u64 {
        self.rules.index.entries_max
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
async fn in_postgres_it_keeps_the_contract_of_an_index() {
    let Some(server) = common() else { return };
    let mut replica = Replica::new(&address(server, "reuse_contract"), "ours").await;
    check_reply_index(&mut replica).await;
    assert_eq!(replica.own().stats().faults, 0);
    replica.close().await;
}

#[tokio::test]
async fn what_one_replica_keeps_and_learns_the_others_have() {
    let Some(server) = common() else { return };
    let postgres = address(server, "reuse_shared");
    let (one, other) = (
        Replica::new(&postgres, "ours").await,
        Replica::new(&postgres, "ours").await,
    );
    let stranger = Replica::new(&postgres, "theirs").await;
    one.keep(1, 0.3).await;
    other.until_near(0.3, &[1]).await;
    let wanted = one.own().find(EntryId(1)).unwrap();
    assert_eq!(other.own().find(EntryId(1)).unwrap(), wanted);

    // Each learned something of its own: nothing of it is lost.
    let evidence = |right, wrong, writer| Evidence {
        right,
        wrong,
        confirmed_by: vec![WriterId(writer)],
    };
    one.own().learn(EntryId(1), evidence(2, 0, 5));
    one.settle().await;
    other.own().learn(EntryId(1), evidence(1, 1, 6));
    other.settle().await;
    let joined = |replica: &Replica| {
        let evidence = replica.own().find(EntryId(1)).unwrap().evidence.clone();
        (evidence.right, evidence.wrong, evidence.confirmed_by.len())
    };
    assert_eq!(joined(&other), (2, 1, 2));
    let waiting = async {
        while joined(&one) != (2, 1, 2) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap();

    // One that comes later finds it, and what was learned.
    one.own().save_state(b"learned".to_vec());
    one.settle().await;
    let late = Replica::new(&postgres, "ours").await;
    late.until_near(0.3, &[1]).await;
    assert_eq!(joined(&late), (2, 1, 2));
    assert_eq!(late.own().load_state().as_deref(), Some(&b"learned"[..]));
    assert!(stranger.near(0.3).await.is_empty());
    assert_eq!(stranger.own().load_state(), None);
}

#[tokio::test]
async fn what_is_removed_at_one_replica_no_other_answers_with() {
    let Some(server) = common() else { return };
    let postgres = address(server, "reuse_removed");
    let (one, other) = (
        Replica::new(&postgres, "ours").await,
        Replica::new(&postgres, "ours").await,
    );
    let stranger = Replica::new(&postgres, "theirs").await;
    stranger.keep(9, 0.3).await;
    let mark = Mark([3; Mark::BYTES]);
    let of = |who| Subject { who, team: None };
    for what in [
        Purge::All,
        Purge::Tag("spring".into()),
        Purge::Model("auto".into()),
        Purge::Team("ours".into()),
        Purge::Entry(EntryId(1)),
        Purge::Compartment(entry_of(&one, 1, 0.3).compartment),
        Purge::Subject(of(Who::User("anna".into())), mark),
        Purge::Subject(of(Who::Tag("spring".into())), mark),
    ] {
        let mut entry = entry_of(&one, 1, 0.3);
        entry.kept.user = Some(mark);
        one.own().keep(entry);
        one.settle().await;
        other.until_near(0.3, &[1]).await;
        assert_eq!(other.own().purge(&what).await.unwrap(), 1, "{what:?}");
        match what {
            // Of one that was found wrong it is heard soon after.
            Purge::Entry(_) => one.until_near(0.3, &[]).await,
            _ => assert!(one.near(0.3).await.is_empty(), "{what:?}"),
        }
        assert!(other.near(0.3).await.is_empty(), "{what:?}");
        // Not because it answers nothing at the moment.
        for replica in [&one, &other] {
            replica.hears().await;
            assert!(replica.own().find(EntryId(1)).is_none(), "{what:?}");
        }
        // Nor does one that was not there.
        let late = Replica::new(&postgres, "ours").await;
        late.settle().await;
        assert!(late.near(0.3).await.is_empty(), "{what:?}");
    }
    stranger.until_near(0.3, &[9]).await;
}

#[tokio::test]
async fn without_postgres_nothing_answers_and_afterwards_all_is_as_before() {
    let Some(mut server) = PostgresServer::start().unwrap() else {
        return;
    };
    let postgres = address(&server, "reuse_away");
    let (one, other) = (
        Replica::new(&postgres, "ours").await,
        Replica::new(&postgres, "ours").await,
    );
    one.keep(1, 0.3).await;
    one.keep(2, 0.3001).await;
    other.until_near(0.3, &[1, 2]).await;
    server.stop();
    for replica in [&one, &other] {
        replica.until_near(0.3, &[]).await;
        assert!(replica.own().stats().is_apart);
    }
    // What is removed meanwhile is removed when it is back.
    assert!(one.own().purge(&Purge::Entry(EntryId(1))).await.is_err());
    server.resume().unwrap();
    for replica in [&one, &other] {
        replica.until_near(0.3, &[2]).await;
        assert!(!replica.own().stats().is_apart);
    }
}

#[tokio::test]
async fn what_lies_there_tells_no_question_and_what_was_changed_is_not_believed() {
    let Some(server) = common() else { return };
    let postgres = address(server, "reuse_sealed");
    let mut one = Replica::new(&postgres, "ours").await;
    one.keep(1, 0.3).await;
    let mut own = postgres.connect().await.unwrap();
    let row = query("SELECT entry FROM hedge.reuse_entries").fetch_one(&mut own);
    let sealed: Vec<u8> = row.await.unwrap().get(0);
    for word in ["question", "answer"] {
        let is_in = sealed.windows(word.len()).any(|it| it == word.as_bytes());
        assert!(!is_in, "{word}");
    }
    // One entry's text under another's name.
    one.close().await;
    query("UPDATE hedge.reuse_entries SET id = 2, seq = nextval('hedge.reuse_seq'), origin = 0")
        .execute(&mut own)
        .await
        .unwrap();
    let late = Replica::new(&postgres, "ours").await;
    late.settle().await;
    assert!(late.near(0.3).await.is_empty());
    assert_eq!(late.own().stats().faults, 1);
    let rows = query("SELECT 1 FROM hedge.reuse_entries").fetch_all(&mut own);
    assert!(rows.await.unwrap().is_empty(), "it is removed");
}

/// Seen: a reply that waited to be written when another replica removed its like was written after it.
#[tokio::test]
async fn what_waits_while_another_removes_it_is_not_written_after() {
    let Some(server) = common() else { return };
    let postgres = address(server, "reuse_late");
    let (one, other) = (
        Replica::new(&postgres, "ours").await,
        Replica::new(&postgres, "ours").await,
    );
    one.keep(9, 0.9).await;
    other.until_near(0.9, &[9]).await;
    // Nobody can write for a while.
    let mut blocking = postgres.connect().await.unwrap();
    let mut held = blocking.begin().await.unwrap();
    query("SELECT pg_advisory_xact_lock($1)")
        .bind(super::super::table::LOCK)
        .execute(&mut *held)
        .await
        .unwrap();
    let mut purging = JoinSet::new();
    let index = Arc::clone(one.own());
    purging.spawn(async move { index.purge(&Purge::All).await });
    // It waits for the lock before the other's entry does.
    let waiting = async {
        while query("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            .fetch_all(&mut *held)
            .await
            .unwrap()
            .is_empty()
        {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap();
    other.own().keep(entry_of(&other, 1, 0.3));
    held.rollback().await.unwrap();
    purging.join_next().await.unwrap().unwrap().unwrap();
    for replica in [&one, &other] {
        replica.settle().await;
        replica.hears().await;
        assert!(replica.own().find(EntryId(1)).is_none());
        assert!(replica.own().find(EntryId(9)).is_none());
    }
    // Nor is what ended before it and waited elsewhere; what comes later is.
    let mut early = entry_of(&other, 2, 0.3);
    early.kept.kept_at -= Duration::from_secs(1);
    other.own().keep(early);
    other.settle().await;
    assert!(other.own().find(EntryId(2)).is_none());
    other.keep(3, 0.3).await;
    other.until_near(0.3, &[3]).await;
}

#[tokio::test]
async fn a_very_long_one_is_its_replicas_alone() {
    let Some(server) = common() else { return };
    let postgres = address(server, "reuse_long");
    let (one, other) = (
        Replica::new(&postgres, "ours").await,
        Replica::new(&postgres, "ours").await,
    );
    let mut long = entry_of(&one, 1, 0.3);
    long.text = "long ".repeat(60_000);
    one.own().keep(long);
    one.keep(2, 0.301).await;
    other.until_near(0.3, &[2]).await;
    one.until_near(0.3, &[1, 2]).await;
}

#[tokio::test]
async fn a_postgres_that_was_set_back_is_read_anew() {
    let Some(server) = common() else { return };
    let postgres = address(server, "reuse_set_back");
    let one = Replica::new(&postgres, "ours").await;
    one.keep(1, 0.3).await;
    one.until_near(0.3, &[1]).await;
    let mut own = postgres.connect().await.unwrap();
    for change in [
        "DELETE FROM hedge.reuse_entries",
        "ALTER SEQUENCE hedge.reuse_seq RESTART",
    ] {
        query(change).execute(&mut own).await.unwrap();
    }
    one.until_near(0.3, &[]).await;
    one.settle().await;
    one.keep(2, 0.3).await;
    one.until_near(0.3, &[2]).await;
}

#[tokio::test]
async fn rows_beyond_the_bound_go_and_others_are_brought_back_a_page_at_a_time() {
    let Some(server) = common() else { return };
    let postgres = address(server, "reuse_bound");
    let mut one = Replica::new(&postgres, "ours").await;
    for id in 0..550 {
        one.own().keep(entry_of(&one, id, id as f32 / 1_000.0));
    }
    one.settle().await;
    one.restart().await;
    one.settle().await;
    assert_eq!(one.own().stats().entries, 550);
    one.rules.index.entries_max = 300;
    one.restart().await;
    one.settle().await;
    let mut own = postgres.connect().await.unwrap();
    let waiting = async {
        loop {
            let rows = query("SELECT 1 FROM hedge.reuse_entries").fetch_all(&mut own);
            if rows.await.unwrap().len() == 300 {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap();
    assert!(one.own().stats().entries <= 300);
}
