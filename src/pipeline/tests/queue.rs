//! Requests that wait for a limit to have enough left.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use futures::future::BoxFuture;
use futures::poll;
use tokio::time::{Instant, advance};

use super::*;

/// Counts places at once, and requests that come back one by one.
struct Tap {
    began: Instant,
    under_way: Mutex<u64>,
    taken: Mutex<u64>,
    tries: AtomicUsize,
}

struct Given(Arc<Tap>);

impl Tap {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            under_way: Mutex::default(),
            taken: Mutex::default(),
            tries: AtomicUsize::new(0),
        })
    }

    fn has_left(&self, limit: &Limit) -> u64 {
        if limit.measure == Measure::Concurrency {
            return limit.amount - *self.under_way.lock().unwrap();
        }
        let brought = self.began.elapsed().as_secs() * limit.amount;
        (limit.burst + brought).saturating_sub(*self.taken.lock().unwrap())
    }

    fn tries(&self) -> usize {
        self.tries.load(Ordering::SeqCst)
    }
}

/// The trait is for what the tap is shared by.
#[derive(Clone)]
struct Shared(Arc<Tap>);

#[async_trait]
impl Quotas for Shared {
    async fn take(&self, limits: &[Limit], worst: Use) -> Result<Grant, Exhausted> {
        let tap = &self.0;
        tap.tries.fetch_add(1, Ordering::SeqCst);
        let part = tap.began.elapsed().subsec_nanos();
        for limit in limits {
            if worst.of(limit.measure) > tap.has_left(limit) {
                return Err(Exhausted {
                    limit: limit.clone(),
                    retry_after: Some(match limit.measure {
                        Measure::Concurrency => Duration::from_secs(1),
                        _ => Duration::from_secs(1) - Duration::from_nanos(part.into()),
                    }),
                    why: Shortage::Amount,
                });
            }
        }
        *tap.under_way.lock().unwrap() += 1;
        *tap.taken.lock().unwrap() += 1;
        let left = self.left(limits);
        Ok(Grant::new(Box::new(Given(Arc::clone(tap))), left))
    }

    fn left(&self, limits: &[Limit]) -> Vec<Left> {
        let left = limits.iter().map(|limit| Left {
            amount: self.0.has_left(limit),
            whole_after: None,
        });
        left.collect()
    }
}

impl Returned for Given {
    fn settle(&self, _used: Use) {
        *self.0.under_way.lock().unwrap() -= 1;
    }
}

fn places(amount: u64) -> Limit {
    Limit {
        scope: Scope::Team("t".into()),
        measure: Measure::Concurrency,
        amount,
        per: Period::Ever,
        burst: amount,
        when_spent: WhenSpent::Queue,
        warn_at: Thresholds::default(),
    }
}

/// One each second, and one at once.
fn one_a_second() -> Limit {
    Limit {
        measure: Measure::Requests,
        per: Period::Second,
        burst: 1,
        ..places(1)
    }
}

struct Scene {
    bench: Bench,
    tap: Arc<Tap>,
    fake: Arc<Fake>,
    limits: Arc<[Limit]>,
}

impl Scene {
    fn new(limits: &[Limit], waiting_max: usize) -> Self {
        let (tap, fake) = (
            Tap::new(),
            Fake::new("local", Trust::Device, Script::Says("yes")),
        );
        let rules = QueueRules {
            wait_max: Duration::from_secs(10),
            waiting_max,
        };
        let quotas: Arc<dyn Quotas> = Arc::new(Shared(Arc::clone(&tap)));
        let snapshot = snapshot(vec![Arc::clone(&fake)]);
        Self {
            bench: bench_queueing(snapshot, 32, Some(quotas), rules),
            tap,
            fake,
            limits: limits.into(),
        }
    }

    fn ask(&self, text: &str, key: &str) -> BoxFuture<'_, Result<Answer, Refusal>> {
        let mut parsed = parsed("local", text);
        parsed.context.cache = CacheWish::Bypass;
        parsed.principal.limits = Arc::clone(&self.limits);
        parsed.principal.key = Some(key.into());
        Box::pin(self.bench.pipeline.run(parsed))
    }

    /// One that waits.
    async fn queue(&self, text: &str, key: &str) -> BoxFuture<'_, Result<Answer, Refusal>> {
        let mut asking = self.ask(text, key);
        let polled = poll!(&mut asking);
        assert!(polled.is_pending(), "{text} does not wait");
        asking
    }

    fn waiting(&self) -> usize {
        self.bench.pipeline.queued_count()
    }
}

fn wait_of(refused: Result<Answer, Refusal>) -> Duration {
    match refused.map(|answer| answer.reason) {
        Err(Refusal {
            fault: Fault::RateLimited { retry_after },
            ..
        }) => retry_after,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_that_is_free_goes_to_who_has_waited_longest() {
    let scene = Scene::new(&[places(1)], 8);
    let first = scene.ask("first", "k").await.unwrap();
    let mut b = scene.queue("b", "k").await;
    let mut c = scene.queue("c", "k").await;
    let mut d = scene.queue("d", "k").await;
    assert_eq!(scene.waiting(), 3);
    assert_eq!(text(first).await, "yes");
    // Whoever comes now comes after them, though a place is free.
    let mut e = scene.queue("e", "k").await;
    assert!(poll!(&mut d).is_pending() && poll!(&mut c).is_pending());
    for (asking, name) in [(&mut b, "b"), (&mut c, "c"), (&mut d, "d"), (&mut e, "e")] {
        let Poll::Ready(answer) = poll!(asking) else {
            panic!("{name} still waits");
        };
        assert_eq!(text(answer.unwrap()).await, "yes");
    }
    assert_eq!(scene.fake.calls(), ["first", "b", "c", "d", "e"]);
    assert_eq!(scene.waiting(), 0);
}

/// The first holds the place, and after it has left nobody else polls what it led.
#[tokio::test(start_paused = true)]
async fn who_waits_for_a_place_of_the_work_it_joined_keeps_that_going() {
    let scene = Scene::new(&[places(1)], 8);
    let ask = || {
        let mut parsed = parsed("local", "the same");
        parsed.principal.limits = Arc::clone(&scene.limits);
        Box::pin(scene.bench.pipeline.run(parsed))
    };
    let first = ask().await.unwrap();
    let mut second = ask();
    assert!(poll!(&mut second).is_pending());
    drop(first);
    let began = Instant::now();
    assert_eq!(text(second.await.unwrap()).await, "yes");
    assert!(began.elapsed() <= Duration::from_secs(1));
    assert_eq!(scene.fake.calls(), ["the same"]);
}

#[tokio::test(start_paused = true)]
async fn keys_take_turns_at_a_limit_that_they_share() {
    let scene = Scene::new(&[places(1)], 8);
    let first = scene.ask("first", "k1").await.unwrap();
    let mut waiting = Vec::new();
    for (name, key) in [("a1", "k1"), ("a2", "k1"), ("a3", "k1"), ("b1", "k2")] {
        waiting.push(scene.queue(name, key).await);
    }
    drop(first);
    while !waiting.is_empty() {
        let (answer, _, rest) = futures::future::select_all(waiting).await;
        drop(answer.unwrap());
        waiting = rest;
    }
    assert_eq!(scene.fake.calls(), ["first", "a1", "b1", "a2", "a3"]);
}

#[tokio::test(start_paused = true)]
async fn what_refills_is_tried_when_it_has_and_not_before() {
    let scene = Scene::new(&[one_a_second()], 8);
    let began = Instant::now();
    let asked = ["a", "b", "c", "d"].map(|name| scene.ask(name, "k"));
    for (answer, name) in futures::future::join_all(asked)
        .await
        .into_iter()
        .zip(["a"])
    {
        assert!(answer.is_ok(), "{name}");
    }
    assert_eq!(began.elapsed(), Duration::from_secs(3));
    assert_eq!(scene.fake.calls(), ["a", "b", "c", "d"]);
    // Each once at first, once in its place, and once when it is time.
    assert!(scene.tap.tries() <= 12, "{}", scene.tap.tries());
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_longer_than_may_be_and_is_told_how_long_it_takes() {
    let scene = Scene::new(&[places(1)], 8);
    let _held = scene.ask("first", "k").await.unwrap();
    let began = Instant::now();
    let (b, c) = tokio::join!(scene.ask("b", "k"), scene.ask("c", "k"));
    assert_eq!(began.elapsed(), Duration::from_secs(10));
    for refused in [b, c] {
        assert_eq!(wait_of(refused), Duration::from_secs(1));
    }
    assert_eq!(scene.waiting(), 0);
    // A try a second at most, and none by the one whose turn it was not.
    assert!(scene.tap.tries() <= 14, "{}", scene.tap.tries());
    assert_eq!(scene.fake.calls(), ["first"]);
}

#[tokio::test(start_paused = true)]
async fn a_full_line_refuses_at_once_and_who_leaves_makes_room() {
    let scene = Scene::new(&[places(1)], 2);
    let first = scene.ask("first", "k").await.unwrap();
    let b = scene.queue("b", "k").await;
    let mut c = scene.queue("c", "k").await;
    let began = Instant::now();
    assert_eq!(wait_of(scene.ask("d", "k").await), Duration::from_secs(1));
    assert_eq!(began.elapsed(), Duration::ZERO);
    // A caller that leaves has left the line with it.
    drop(b);
    assert_eq!(scene.waiting(), 1);
    let e = scene.queue("e", "k").await;
    drop(first);
    assert!(poll!(&mut c).is_ready());
    drop(e);
    assert_eq!(scene.waiting(), 0);
    assert_eq!(scene.fake.calls(), ["first", "c"]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_come_in_time_is_not_waited_for() {
    // A minute for each.
    let slow = Limit {
        per: Period::Minute,
        ..one_a_second()
    };
    struct Slow;
    #[async_trait]
    impl Quotas for Slow {
        async fn take(&self, limits: &[Limit], _: Use) -> Result<Grant, Exhausted> {
            Err(Exhausted {
                limit: limits[0].clone(),
                retry_after: Some(Duration::from_secs(60)),
                why: Shortage::Amount,
            })
        }

        fn left(&self, _: &[Limit]) -> Vec<Left> {
            Vec::new()
        }
    }
    let fake = Fake::new("local", Trust::Device, Script::Says("yes"));
    let rules = QueueRules::default();
    let bench = bench_queueing(snapshot(vec![fake]), 4, Some(Arc::new(Slow)), rules);
    let began = Instant::now();
    let mut request = parsed("local", "a");
    request.principal.limits = [slow].into();
    let refused = bench.pipeline.run(request).await;
    assert_eq!(wait_of(refused), Duration::from_secs(60));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_refuses_is_not_waited_for_behind_one_that_is() {
    let strict = Limit {
        when_spent: WhenSpent::Refuse,
        ..places(1)
    };
    let scene = Scene::new(&[strict], 8);
    let _held = scene.ask("first", "k").await.unwrap();
    let began = Instant::now();
    wait_of(scene.ask("b", "k").await);
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(scene.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_waits_in_one_line_may_fall_in_with_another() {
    let scene = Scene::new(&[places(1), one_a_second()], 8);
    let first = scene.ask("first", "k").await.unwrap();
    let mut b = scene.queue("b", "k").await;
    drop(first);
    // A place is free, and the second is not over.
    advance(Duration::from_millis(200)).await;
    assert!(poll!(&mut b).is_pending());
    assert_eq!(scene.waiting(), 1);
    assert!(b.await.is_ok());
    assert_eq!(scene.tap.began.elapsed().as_secs(), 1);
}
