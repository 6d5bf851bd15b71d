//! Over a Redis that each test starts for itself. Where none is installed they say so and pass.

use std::time::SystemTime;

use domain::{Subject, Who};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::*;
use crate::conformance::{check_cache_store, kept_of};
use crate::quota::RedisServer as Server;

const PATIENCE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const LEASE: Duration = Duration::from_secs(1);

/// Some replicas over one server.
struct Replicas {
    server: Server,
    all: Vec<SharedReplies>,
    drivers: Vec<AbortHandle>,
    tasks: JoinSet<()>,
}

impl Replicas {
    /// `None` where there is no Redis to start.
    async fn start(count: usize) -> Option<Self> {
        Some(Self::over(Server::start()?, count, 1 << 20).await)
    }

    async fn over(server: Server, count: usize, far_bytes_max: u64) -> Self {
        let mut replicas = Self {
            server,
            all: Vec::new(),
            drivers: Vec::new(),
            tasks: JoinSet::new(),
        };
        for _ in 0..count {
            replicas.join(far_bytes_max);
        }
        for at in 0..count {
            replicas.linked(at, true).await;
        }
        replicas
    }

    fn join(&mut self, far_bytes_max: u64) {
        let (replies, driver) = SharedReplies::new(SharedReplyRules {
            redis: self.server.url().parse().unwrap(),
            prefix: "test".into(),
            far_bytes_max,
            near_bytes_max: 1 << 20,
            look_max: Duration::from_secs(5),
            lease: LEASE,
        });
        self.all.push(replies);
        self.drivers.push(self.tasks.spawn(driver.run()));
    }

    async fn linked(&self, at: usize, is_linked: bool) {
        until("it is linked", async || {
            self.all[at].desk.is_linked() == is_linked
        })
        .await;
    }

    /// Keeps a reply at the first replica, until Redis has it.
    async fn keep(&self, at: u8, kept: Kept) {
        let before = self.all[0].counts().kept;
        self.all[0].keep(key(at), Arc::new(kept), HOUR);
        until("it is kept", async || self.all[0].counts().kept > before).await;
    }

    /// Whether a replica answers with it, by itself or by Redis.
    async fn has(&self, which: usize, at: u8) -> bool {
        let replies = &self.all[which];
        replies.find(&key(at)).is_some() || replies.fetch(&key(at)).await.is_some()
    }

    /// How many replies Redis has.
    fn in_redis(&self) -> usize {
        let keys = self.server.ask(&["KEYS", "*:reply:*"]);
        keys.lines().filter(|line| line.contains('{')).count()
    }
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let waiting = async {
        while !is_so().await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "{what}");
}

fn key(at: u8) -> CacheKey {
    CacheKey([at; 32])
}

fn of_team(team: &str) -> Kept {
    Kept {
        team: team.into(),
        tags: vec!["spring".to_owned()],
        user: Some(domain::Mark([3; domain::Mark::BYTES])),
        kept_at: SystemTime::now(),
        ..kept_of("masked reply")
    }
}

#[tokio::test]
async fn what_is_kept_while_purges_are_being_heard_is_kept_after_them() {
    let (replies, _driver) = SharedReplies::new(SharedReplyRules {
        redis: "redis://127.0.0.1:1/".parse().unwrap(),
        prefix: "test".into(),
        far_bytes_max: 1 << 20,
        near_bytes_max: 1 << 20,
        look_max: Duration::from_secs(5),
        lease: LEASE,
    });
    let heard = replies.desk.standing.lock().unwrap();
    std::thread::scope(|scope| {
        let keeping = scope.spawn(|| replies.keep(key(1), Arc::new(kept_of("it")), HOUR));
        std::thread::sleep(Duration::from_millis(50));
        assert!(replies.desk.near.find(&key(1)).is_none());
        drop(heard);
        keeping.join().unwrap();
    });
    assert!(replies.desk.near.find(&key(1)).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn they_keep_the_contract_of_a_cache() {
    let Some(replicas) = Replicas::start(1).await else {
        return;
    };
    check_cache_store(&replicas.all[0]).await;
    assert_eq!(replicas.in_redis(), 0);
}

#[tokio::test]
async fn what_one_replica_kept_another_finds_whole_and_from_then_on_in_memory() {
    let Some(replicas) = Replicas::start(2).await else {
        return;
    };
    assert!(!replicas.has(1, 1).await);
    let kept = of_team("red");
    replicas.keep(1, kept.clone()).await;
    assert!(replicas.all[1].find(&key(1)).is_none());
    let fetched = replicas.all[1].fetch(&key(1)).await;
    assert_eq!(fetched.as_deref(), Some(&kept));
    until("it is in memory", async || {
        replicas.all[1].find(&key(1)).is_some()
    })
    .await;
    let counts = replicas.all[1].counts();
    assert_eq!((counts.found, counts.missed, counts.failed), (1, 1, 0));
    // Its own key is gone after its time, and nothing of it is in the limits' hash slot.
    let names = replicas.server.ask(&["KEYS", "*"]);
    let names = names.lines().filter(|line| line.contains('{'));
    assert!(
        names
            .into_iter()
            .all(|name| name.starts_with("{test:replies:"))
    );
    let name = Keys::new("test");
    let name = format!("{name:?}");
    assert!(!name.contains("{test}"), "{name}");
}

#[tokio::test]
async fn a_purge_at_one_is_over_everywhere_once_it_returns() {
    let Some(replicas) = Replicas::start(3).await else {
        return;
    };
    let mark = domain::Mark([3; domain::Mark::BYTES]);
    let of = |who| Subject {
        who,
        team: Some("red".into()),
    };
    for what in [
        Purge::All,
        Purge::Team("red".into()),
        Purge::Model("model".into()),
        Purge::Tag("spring".into()),
        Purge::Subject(of(Who::User("unread".into())), mark),
        Purge::Subject(of(Who::Tag("spring".into())), mark),
    ] {
        replicas.keep(1, of_team("red")).await;
        let other = Kept {
            team: "blue".into(),
            model: "other".into(),
            ..kept_of("of others")
        };
        replicas.keep(2, other).await;
        for which in 0..3 {
            until("all have it", async || replicas.has(which, 1).await).await;
        }
        let gone = replicas.all[1].purge(&what).await.unwrap();
        assert_eq!(gone, if what == Purge::All { 2 } else { 1 }, "{what:?}");
        for which in 0..3 {
            assert!(!replicas.has(which, 1).await, "{what:?} at {which}");
        }
        let rest = usize::from(what != Purge::All);
        assert_eq!(replicas.in_redis(), rest, "{what:?}");
        until("others' are there", async || {
            replicas.has(2, 2).await == (what != Purge::All)
        })
        .await;
    }
}

#[tokio::test]
async fn what_was_kept_before_a_purge_is_not_written_after_it() {
    let Some(replicas) = Replicas::start(1).await else {
        return;
    };
    let replies = &replicas.all[0];
    let stamp = replies.desk.standing().stamp().unwrap();
    replies.purge(&Purge::Team("red".into())).await.unwrap();
    let late = Put {
        key: key(1),
        kept: Arc::new(of_team("red")),
        ttl: HOUR,
        stamp,
    };
    replies.puts.send(late).await.unwrap();
    until("it is refused", async || replies.counts().stale == 1).await;
    assert_eq!(replicas.in_redis(), 0);
}

/// A replica whose way to Redis is cut goes by what it last heard for no longer than a lease; and what was
/// said meanwhile it hears before anything else.
#[tokio::test]
async fn a_replica_that_was_away_answers_nothing_that_was_purged() {
    let Some(mut replicas) = Replicas::start(2).await else {
        return;
    };
    replicas.keep(1, of_team("red")).await;
    until("the other has it", async || replicas.has(1, 1).await).await;
    // As if nothing arrived any more: its driver stands still.
    replicas.drivers[1].abort();
    replicas.all[0].purge(&Purge::All).await.unwrap();
    assert!(!replicas.has(1, 1).await);
    // It has it still, and may not say so.
    assert!(replicas.all[1].desk.near.find(&key(1)).is_some());
    let (_, looks) = mpsc::channel(1);
    let (_, puts) = mpsc::channel(1);
    let desk = Arc::clone(&replicas.all[1].desk);
    let client = desk.client().clone();
    let driver = ReplyDriver::new(Arc::clone(&desk), client, looks, puts);
    replicas.tasks.spawn(async move { driver.run().await });
    until("it heard of it", async || desk.near.find(&key(1)).is_none()).await;
}

#[tokio::test]
async fn without_redis_a_look_is_a_miss_and_it_comes_back_by_itself() {
    let Some(mut replicas) = Replicas::start(2).await else {
        return;
    };
    replicas.keep(1, of_team("red")).await;
    replicas.server.stop();
    for which in 0..2 {
        replicas.linked(which, false).await;
        let began = Instant::now();
        assert!(replicas.all[which].fetch(&key(1)).await.is_none());
        assert!(began.elapsed() < Duration::from_secs(1), "nobody waits");
    }
    until("nothing from memory either", async || {
        replicas.all[0].find(&key(1)).is_none()
    })
    .await;
    replicas.all[0].keep(key(2), Arc::new(of_team("red")), HOUR);
    assert!(replicas.all[0].purge(&Purge::All).await.is_err());
    assert!(replicas.all[0].meant(&Purge::All, None, 9).await.is_err());
    assert!(!replicas.all[0].forget(&key(1)).await);
    replicas.server.run();
    for which in 0..2 {
        replicas.linked(which, true).await;
        assert!(!replicas.has(which, 1).await, "what was lost is lost");
    }
    replicas.keep(3, of_team("red")).await;
    until("they share again", async || replicas.has(1, 3).await).await;
}

/// What was purged came back with an old file once: another run of the server counts as another generation.
#[tokio::test]
async fn a_redis_that_remembers_less_than_was_purged_answers_with_none_of_it() {
    let Some(server) = Server::start() else {
        return;
    };
    let replicas = Replicas::over(server, 2, 1 << 20).await;
    replicas.keep(1, of_team("red")).await;
    let tag = "{test:replies:1}";
    let state = replicas.server.ask(&["KEYS", "*:state"]);
    let state = state.lines().find(|line| line.contains(tag)).unwrap();
    replicas.all[1]
        .purge(&Purge::Team("blue".into()))
        .await
        .unwrap();
    let before = replicas.all[0].desk.standing().stamp().unwrap();
    assert_eq!(before.seq, 1);
    replicas.server.ask(&["HSET", state, "seq", "0"]);
    for which in 0..2 {
        until("it is another generation", async || {
            let stamp = replicas.all[which].desk.standing().stamp().unwrap();
            stamp.generation != before.generation
        })
        .await;
        assert!(!replicas.has(which, 1).await);
    }
    until("what is left of it is removed", async || {
        replicas.in_redis() == 0
    })
    .await;
}

#[tokio::test]
async fn what_they_take_in_redis_is_bounded_and_the_oldest_go() {
    let Some(server) = Server::start() else {
        return;
    };
    let replicas = Replicas::over(server, 2, 16 * 1024).await;
    for at in 0..40 {
        let kept = Kept {
            team: "red".into(),
            ..kept_of(&"x".repeat(1024))
        };
        replicas.keep(at, kept).await;
    }
    let count = replicas.in_redis();
    assert!((4..=14).contains(&count), "{count}");
    assert!(replicas.has(1, 39).await && !replicas.has(1, 0).await);
    let large = Kept {
        team: "red".into(),
        ..kept_of(&"x".repeat(20 * 1024))
    };
    replicas.all[0].keep(key(50), Arc::new(large), HOUR);
    until("it has no room", async || {
        replicas.all[0].counts().full == 1
    })
    .await;
    until("what there is is told", async || {
        let counts = replicas.all[0].counts();
        counts.entries == count as u64 && (1..=16 * 1024).contains(&counts.bytes)
    })
    .await;
}

/// What counts limits must not find Redis full: replies go, and none is written.
#[tokio::test]
async fn replies_give_way_in_a_redis_that_fills_up() {
    let Some(replicas) = Replicas::start(1).await else {
        return;
    };
    for at in 0..8 {
        replicas.keep(at, of_team("red")).await;
    }
    replicas.server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    until("all went", async || replicas.in_redis() == 0).await;
    let full = replicas.all[0].counts().full;
    replicas.all[0].keep(key(9), Arc::new(of_team("red")), HOUR);
    until("none is written", async || {
        replicas.all[0].counts().full > full
    })
    .await;
    replicas.server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    until("it has room again", async || {
        replicas.all[0].keep(key(9), Arc::new(of_team("red")), HOUR);
        replicas.in_redis() == 1
    })
    .await;
}

#[tokio::test]
async fn a_word_in_redis_that_is_no_reply_is_a_miss() {
    let Some(replicas) = Replicas::start(2).await else {
        return;
    };
    replicas.keep(1, of_team("red")).await;
    let name = replicas.server.ask(&["KEYS", "*:reply:*"]);
    let name = name.lines().find(|line| line.contains('{')).unwrap();
    for word in ["", "{", "{\"reply\":7}", &"[".repeat(100_000)] {
        replicas.server.ask(&["HSET", name, "value", word]);
        assert!(replicas.all[1].fetch(&key(1)).await.is_none());
    }
    assert_eq!(replicas.all[1].counts().failed, 3);
}

/// Seen: each version had lists of its own, so that what an older one had kept stayed, and answered there, after
/// a purge by a newer one.
#[tokio::test]
async fn what_another_version_kept_is_not_read_and_goes_with_a_purge() {
    let Some(replicas) = Replicas::start(2).await else {
        return;
    };
    replicas.keep(1, of_team("red")).await;
    let name = replicas.server.ask(&["KEYS", "*:reply:*"]);
    let name = name.lines().find(|line| line.contains('{')).unwrap();
    assert!(!name.contains(env!("CARGO_PKG_VERSION")), "{name}");
    replicas.server.ask(&["HSET", name, "version", "0.0.0"]);
    assert!(replicas.all[1].fetch(&key(1)).await.is_none());
    let gone = replicas.all[1].purge(&Purge::Team("red".into())).await;
    assert_eq!((gone.unwrap(), replicas.in_redis()), (1, 0));
}

/// Seen: whatever lay under a reply's name was read whole into memory before its size was looked at.
#[tokio::test]
async fn what_is_larger_than_a_reply_stays_in_redis() {
    let Some(replicas) = Replicas::start(1).await else {
        return;
    };
    replicas.keep(1, of_team("red")).await;
    let name = replicas.server.ask(&["KEYS", "*:reply:*"]);
    let name = name.lines().find(|line| line.contains('{')).unwrap();
    let plant = "redis.call('HSET', KEYS[1], 'value', string.rep('x', ARGV[1]))";
    let mut caller = replicas.all[0].desk.caller().await.unwrap();
    for (more, length) in [(0, VALUE_BYTES_MAX), (1, 0)] {
        let planted = (VALUE_BYTES_MAX + more).to_string();
        replicas.server.ask(&["EVAL", plant, "1", name, &planted]);
        assert_eq!(caller.find(&key(1)).await.unwrap().value.len(), length);
    }
}

/// Seen: a sum that a full Redis had given up was added up anew for every sixteen replies that made room, and
/// each second after that: at a hundred thousand replies that held up the counters there for seconds.
#[tokio::test]
async fn a_sum_that_was_given_up_is_added_up_once() {
    let Some(server) = Server::start() else {
        return;
    };
    let replicas = Replicas::over(server, 1, 128 * 1024).await;
    for at in 0..100 {
        replicas.keep(at, of_team("red")).await;
    }
    let names = replicas.server.ask(&["KEYS", "*:bytes"]);
    let name = names.lines().find(|line| line.contains('{')).unwrap();
    replicas.server.ask(&["CONFIG", "RESETSTAT"]);
    replicas.server.ask(&["DEL", name]);
    let large = Kept {
        team: "red".into(),
        ..kept_of(&"x".repeat(100 * 1024))
    };
    replicas.keep(200, large).await;
    assert!(replicas.in_redis() < 60, "most had to go");
    let stats = replicas.server.ask(&["INFO", "commandstats"]);
    let stats = stats.lines().find(|line| line.contains("cmdstat_hvals"));
    assert!(stats.unwrap().contains("calls=1,"), "{stats:?}");
}

#[tokio::test]
async fn a_node_of_a_cluster_that_has_other_keys_is_left_for_the_one_that_has_them() {
    let (Some(server), Some(other)) = (Server::start_node(), Server::start_node()) else {
        return;
    };
    server.meet(&other);
    let replicas = Replicas::over(server, 2, 1 << 20).await;
    replicas.keep(1, of_team("red")).await;
    assert!(replicas.has(1, 1).await);
    assert_eq!(replicas.all[1].purge(&Purge::All).await.unwrap(), 1);
    assert!(!replicas.has(0, 1).await);
}

#[tokio::test]
async fn nothing_shows_a_reply_or_a_secret() {
    let Some(replicas) = Replicas::start(1).await else {
        return;
    };
    replicas.keep(1, of_team("red")).await;
    let rules = SharedReplyRules {
        redis: "redis://:s3cret@cache.example".parse().unwrap(),
        ..replicas.all[0].desk.rules.clone()
    };
    let shown = format!("{:?} {rules:?}", replicas.all[0]);
    assert!(
        !shown.contains("masked") && !shown.contains("s3cret"),
        "{shown}"
    );
}
