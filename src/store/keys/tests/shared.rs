//! The same in a Postgres, which the tests start themselves and stop under way.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use loadtest::PostgresServer;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::*;
use crate::PostgresAddress;
use crate::quota::RedisServer as Server;

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

/// A replica, but for whoever keeps the ring.
struct Replica {
    place: SharedKeys,
    heard: watch::Receiver<KeysHeard>,
    /// Ends with it.
    _running: JoinSet<()>,
}

impl Replica {
    fn new(rules: SharedKeyRules, known: Option<&Rows>) -> Self {
        let (place, follower) = SharedKeys::new(rules, known);
        let mut running = JoinSet::new();
        running.spawn(follower.run());
        Self {
            heard: place.heard(),
            place,
            _running: running,
        }
    }

    async fn over(address: &PostgresAddress, redis: Option<&Server>) -> Self {
        let rules = SharedKeyRules {
            postgres: address.clone(),
            redis: redis.map(|it| (it.url().parse().unwrap(), "hedge".to_owned())),
            fresh: [7; 32],
        };
        let mut replica = Self::new(rules, None);
        replica.until(|it| it.rows.is_some()).await;
        replica
    }

    async fn until(&mut self, holds: impl Fn(&KeysHeard) -> bool) -> KeysHeard {
        let waiting = self.heard.wait_for(|it| holds(it));
        let heard = tokio::time::timeout(PATIENCE, waiting).await;
        heard.expect("it is heard").unwrap().clone()
    }

    /// Begins a change from what is `known`, or from what there is. On a busy machine Postgres may count as
    /// away for a moment, and then nothing is begun.
    async fn begun(&mut self, known: Option<Rows>) -> Rows {
        let generation = known.as_ref().map(|rows| rows.generation);
        let began = Instant::now();
        loop {
            match self.place.begin(generation).await {
                Ok(Some(news)) => return news,
                Ok(None) => return known.unwrap(),
                Err(fault) => assert!(began.elapsed() < PATIENCE, "{fault:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn put(&mut self, name: &str) {
        let rows = self.begun(None).await;
        let key = kept_key_of(&rows, name);
        self.place.commit(&KeyRow::PutKey(key)).await.unwrap();
    }

    /// What it goes on from, once that has the key `name` or has none of that name.
    async fn until_has(&mut self, name: &str, has: bool) -> Rows {
        let began = Instant::now();
        loop {
            let place = &self.place;
            let taken = self.heard.borrow_and_update().rows.clone();
            let taken = taken.filter(|it| place.takes(it));
            if let Some(found) = taken
                && found.rows.keys.iter().any(|key| key.name == name) == has
            {
                return (*found.rows).clone();
            }
            assert!(began.elapsed() < PATIENCE, "{name} is heard of");
            let changed = self.heard.changed();
            drop(tokio::time::timeout(KEYS_POLL_EVERY, changed).await);
        }
    }
}

#[tokio::test]
async fn postgres_keeps_the_contract_of_a_place() {
    let Some(server) = common() else { return };
    let mut replica = Replica::over(&address(server, "place"), None).await;
    check_key_place(&mut replica.place).await;
}

#[tokio::test]
async fn what_one_changes_the_others_hear_with_redis_and_without() {
    let Some(server) = common() else { return };
    let redis = Server::start();
    for (database, redis) in [("looked", None), ("told", redis.as_ref())] {
        let address = address(server, database);
        let mut one = Replica::over(&address, redis).await;
        let mut two = Replica::over(&address, redis).await;
        if redis.is_some() {
            for replica in [&one, &two] {
                let counts = replica.place.watcher();
                let began = Instant::now();
                while !counts().is_told {
                    assert!(began.elapsed() < PATIENCE);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
        one.put("k").await;
        two.until_has("k", true).await;
        // What was read before its own change is not gone on from.
        let stale = one.until_has("k", true).await;
        let stale_heard = one.heard.borrow().rows.clone().unwrap();
        assert!(one.place.takes(&stale_heard));
        one.place.begin(Some(stale.generation)).await.unwrap();
        let key = kept_key_of(&stale, "newer");
        one.place.commit(&KeyRow::PutKey(key)).await.unwrap();
        assert!(!one.place.takes(&stale_heard));
        two.until_has("newer", true).await;
        let rows = one.place.load().await.unwrap();
        one.place.begin(Some(rows.generation)).await.unwrap();
        let remove = KeyRow::RemoveKey("k".to_owned());
        one.place.commit(&remove).await.unwrap();
        two.until_has("k", false).await;
        if redis.is_none() {
            continue;
        }
        // Each comes right after a look, so that without being told the next look would bring it. A machine
        // that is busy with other tests may hold up some of them.
        let mut times = Vec::new();
        for round in 0..10 {
            let began = Instant::now();
            one.put(&format!("told-{round}")).await;
            two.until_has(&format!("told-{round}"), true).await;
            times.push(began.elapsed());
        }
        let best = times.iter().min().unwrap();
        assert!(*best < KEYS_POLL_EVERY / 2, "{times:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_changes_at_once_each_sees_what_the_others_did_and_none_is_lost() {
    let Some(server) = common() else { return };
    let address = address(server, "race");
    let (replicas, rounds) = (3_usize, 20_usize);
    let mut racing = JoinSet::new();
    for replica in 0..replicas {
        let mut replica = (replica, Replica::over(&address, None).await);
        racing.spawn(async move {
            let (number, replica) = (&replica.0, &mut replica.1);
            let mut known: Option<Rows> = None;
            let mut made = Vec::new();
            for round in 0..rounds {
                let mut rows = replica.begun(known.take()).await;
                // Each round has one name that all of them want, and one that nobody else does.
                let common = format!("round-{round}");
                let is_taken = rows.keys.iter().any(|key| key.name == common);
                let name = match is_taken {
                    true => format!("{round}-of-{number}"),
                    false => common,
                };
                let key = kept_key_of(&rows, &name);
                let row = KeyRow::PutKey(key.clone());
                rows.generation = replica.place.commit(&row).await.unwrap();
                rows.keys.push(key);
                made.push(name);
                known = Some(rows);
            }
            made
        });
    }
    let mut made: Vec<String> = racing.join_all().await.into_iter().flatten().collect();
    made.sort_unstable();
    let all = made.len();
    made.dedup();
    assert_eq!(made.len(), all, "no name was given twice");
    let mut replica = Replica::over(&address, None).await;
    let rows = replica.place.load().await.unwrap();
    let there: Vec<String> = rows.keys.into_iter().map(|key| key.name).collect();
    assert_eq!(there, made);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_postgres_is_away_nothing_is_begun_and_it_goes_on_by_itself() {
    let Some(mut server) = PostgresServer::start().unwrap() else {
        return;
    };
    let address = address(&server, "away");
    let mut replica = Replica::over(&address, None).await;
    replica.put("before").await;
    server.stop();
    replica.until(|it| it.is_away == Some(true)).await;
    let refused = replica.place.begin(None).await;
    assert!(matches!(refused, Err(KeyFault::Away)), "{refused:?}");
    assert!(replica.place.watcher()().partings >= 1);
    // One that starts now is told so, and waits for it.
    let rules = SharedKeyRules {
        postgres: address.clone(),
        redis: None,
        fresh: [8; 32],
    };
    let mut late = Replica::new(rules, None);
    late.until(|it| it.is_away == Some(true)).await;
    server.resume().unwrap();
    let rows = late.until_has("before", true).await;
    assert!(rows.secret.is(&TagSecret::new([7; 32])), "the first one's");
    replica.until(|it| it.is_away == Some(false)).await;
    replica.put("after").await;
    late.until_has("after", true).await;
}

#[tokio::test]
async fn a_replica_that_stops_within_a_change_holds_nobody_up_for_long() {
    let Some(server) = common() else { return };
    let address = address(server, "stopped");
    let mut one = Replica::over(&address, None).await;
    let mut two = Replica::over(&address, None).await;
    one.begun(None).await;
    let refused = two.place.begin(None).await;
    assert!(refused.is_err(), "{refused:?}");
    let began = Instant::now();
    while two.place.begin(None).await.is_err() {
        assert!(began.elapsed() < PATIENCE, "the turn is free again");
    }
    two.place.abandon().await;
    let row = KeyRow::RemoveKey("k".to_owned());
    assert!(one.place.commit(&row).await.is_err(), "its turn is over");
    one.put("k").await;
}

#[tokio::test]
async fn an_emptied_database_is_no_new_beginning_and_one_brought_back_is_taken() {
    let Some(server) = common() else { return };
    let address = address(server, "emptied");
    let mut replica = Replica::over(&address, None).await;
    replica.put("k").await;
    let known = replica.until_has("k", true).await;
    // As a copy of before the last change.
    let back = "BEGIN; DELETE FROM hedge.keys; \
                UPDATE hedge.key_state SET generation = 1; COMMIT";
    server.query("emptied", back).unwrap();
    let rows = replica.until_has("k", false).await;
    assert_eq!(rows.generation, 1);
    // It counts on from the moment, and so comes to no number that was there.
    replica.put("later").await;
    let rows = replica.place.load().await.unwrap();
    assert!(rows.generation > known.generation);
    let other = "UPDATE hedge.key_state SET secret = decode(repeat('09', 32), 'hex'), \
                 generation = 2";
    server.query("emptied", other).unwrap();
    replica.until(|it| it.is_away == Some(true)).await;
    let refused = replica.place.begin(None).await;
    assert!(matches!(refused, Err(KeyFault::Away)), "{refused:?}");
    // And so does one that starts anew with what it knew.
    let rules = SharedKeyRules {
        postgres: address,
        redis: None,
        fresh: [9; 32],
    };
    let mut again = Replica::new(rules, Some(&known));
    let heard = again.until(|it| it.is_away.is_some()).await;
    assert!(heard.is_away == Some(true) && heard.rows.is_none());
}

#[tokio::test]
async fn a_file_s_keys_are_moved_once_and_open_under_the_same_secret() {
    let Some(server) = common() else { return };
    let address = address(server, "moved");
    let folder = TempDir::new().unwrap();
    let dir = folder.path();
    let moved = async |dir: &Path| shift_keys(dir, &address, 5).await;
    assert_eq!(moved(dir).await.unwrap(), ShiftedKeys::Empty);
    // A replica is there already, and nobody made anything.
    let mut replica = Replica::over(&address, None).await;
    let mut file = KeyFile::open(dir, [3; 32]).await.unwrap();
    for name in ["a", "b"] {
        put(&mut file, name).await;
    }
    let team = KeptTeam {
        name: "red".to_owned(),
        made_s: 1,
        limits: "{}".to_owned(),
    };
    file.commit(&KeyRow::PutTeam(team)).await.unwrap();
    let held = moved(dir).await;
    assert!(matches!(held, Err(KeyShift::Held { .. })), "{held:?}");
    let copied = TempDir::new().unwrap();
    file.close().await;
    for name in ["keys.sqlite", "keys.secret"] {
        std::fs::copy(dir.join(name), copied.path().join(name)).unwrap();
    }
    let wanted = |is_again: bool, dir: &Path| ShiftedKeys::Moved {
        keys: 2,
        teams: 1,
        is_again,
        aside: dir.join("keys.sqlite.moved-5"),
    };
    assert_eq!(moved(dir).await.unwrap(), wanted(false, dir));
    assert!(!KeyFile::is_in(dir) && dir.join("keys.secret.moved-5").is_file());
    let rows = replica.until_has("b", true).await;
    assert!(rows.secret.is(&TagSecret::new([3; 32])) && rows.has_made);
    assert!(rows.keys[0].tag.is(&rows.secret.tag(&digest_key("a"))));
    // What was taken away since does not come back with the same file.
    replica.place.begin(Some(rows.generation)).await.unwrap();
    let remove = KeyRow::RemoveKey("a".to_owned());
    replica.place.commit(&remove).await.unwrap();
    let again = moved(copied.path()).await.unwrap();
    assert_eq!(again, wanted(true, copied.path()));
    assert_eq!(replica.place.load().await.unwrap().keys.len(), 1);
    // Another one's keys do not join them.
    let other = TempDir::new().unwrap();
    let mut file = KeyFile::open(other.path(), [4; 32]).await.unwrap();
    put(&mut file, "c").await;
    file.close().await;
    let refused = moved(other.path()).await;
    assert!(matches!(refused, Err(KeyShift::OtherBeginning { .. })));
    assert!(KeyFile::is_in(other.path()), "and stay where they are");
}

/// What was seen: moving had given Postgres the file's secret before it failed. A replica made a key under
/// it, so that the next try took the file's keys for ones that were there, and set the file aside.
#[tokio::test]
async fn a_move_that_fails_leaves_no_beginning_under_which_others_make_keys() {
    let Some(server) = common() else { return };
    let address = address(server, "moved_half");
    let folder = TempDir::new().unwrap();
    let dir = folder.path();
    let mut file = KeyFile::open(dir, [3; 32]).await.unwrap();
    put(&mut file, "a").await;
    file.close().await;
    drop(address.open().await.unwrap());
    let full = "ALTER TABLE hedge.keys ADD CONSTRAINT is_full CHECK (FALSE)";
    server.query("moved_half", full).unwrap();
    let failed = shift_keys(dir, &address, 5).await;
    assert!(matches!(failed, Err(KeyShift::Rows(_))), "{failed:?}");
    let emptied = "ALTER TABLE hedge.keys DROP CONSTRAINT is_full";
    server.query("moved_half", emptied).unwrap();
    let mut replica = Replica::over(&address, None).await;
    put(&mut replica.place, "b").await;
    let refused = shift_keys(dir, &address, 6).await;
    let is_refused = matches!(refused, Err(KeyShift::OtherBeginning { .. }));
    assert!(is_refused, "{refused:?}");
    assert!(KeyFile::is_in(dir), "its keys are nowhere else");
}
