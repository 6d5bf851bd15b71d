//! What a failing provider costs its caller, its neighbours and itself: the fault table and what
//! follows from it, with scripted providers under paused time.

use std::sync::atomic::{AtomicUsize, Ordering};

use policy::{BreakerState, RetryRules};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// What a provider does with one call.
#[derive(Clone)]
enum Turn {
    Says(&'static str),
    Fails(BackendError),
    /// Says this, then breaks.
    Breaks(&'static str, BackendError),
    /// Begins a tool call, then breaks.
    BreaksInCall(BackendError),
    Hangs,
    After(Duration, Box<Turn>),
}

struct Provider {
    card: BackendCard,
    is_idempotent: bool,
    turn: Box<dyn Fn(usize) -> Turn + Send + Sync>,
    calls: AtomicUsize,
    /// Calls that are neither answered nor dropped.
    under_way: Arc<()>,
}

impl Provider {
    fn new(name: &str, turn: impl Fn(usize) -> Turn + Send + Sync + 'static) -> Self {
        let model = ModelCard {
            name: "m".to_owned(),
            context_tokens_max: None,
            abilities: Abilities::all(),
        };
        Self {
            card: BackendCard {
                name: name.into(),
                tier: Tier::Upstream,
                is_sealed: false,
                trust: Trust::Public,
                models: vec![model],
            },
            is_idempotent: false,
            turn: Box::new(turn),
            calls: AtomicUsize::new(0),
            under_way: Arc::default(),
        }
    }

    fn always(name: &str, turn: Turn) -> Self {
        Self::new(name, move |_| turn.clone())
    }

    /// These in turn, the last one for ever.
    fn in_turn(name: &str, turns: Vec<Turn>) -> Self {
        Self::new(name, move |call| turns[call.min(turns.len() - 1)].clone())
    }

    fn with_context(mut self, tokens: u32) -> Self {
        self.card.models[0].context_tokens_max = Some(Tokens(tokens));
        self
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Backend for Provider {
    fn card(&self) -> &BackendCard {
        &self.card
    }

    fn health(&self) -> Health {
        Health::READY
    }

    fn repeats_safely(&self) -> bool {
        self.is_idempotent
    }

    async fn chat(&self, _call: Outbound) -> Result<ChatStream, BackendError> {
        let _under_way = Arc::clone(&self.under_way);
        let mut turn = (self.turn)(self.calls.fetch_add(1, Ordering::Relaxed));
        while let Turn::After(wait, then) = turn {
            tokio::time::sleep(wait).await;
            turn = *then;
        }
        let started = ChatEvent::Started(Started {
            model: "m".to_owned(),
            reply_id: None,
            fingerprint: None,
        });
        let text = |text: &str| ChatEvent::Text {
            choice: 0,
            text: text.to_owned(),
        };
        let call = || ChatEvent::ToolCall {
            choice: 0,
            index: 0,
            part: ToolCallPart {
                id: Some("c".to_owned()),
                name: Some("run".to_owned()),
                arguments: "{\"a\":".to_owned(),
                seal: None,
            },
        };
        let ended = ChatEvent::ChoiceEnded {
            choice: 0,
            reason: FinishReason::Stop,
        };
        let usage = ChatEvent::Usage(Usage {
            prompt_tokens: Tokens(7),
            completion_tokens: Tokens(1),
            ..Usage::default()
        });
        Ok(match turn {
            Turn::Says(words) => stream::iter([started, text(words), ended, usage].map(Ok)).boxed(),
            Turn::Fails(error) => return Err(error),
            Turn::Breaks(words, error) => {
                stream::iter([Ok(started), Ok(text(words)), Err(error)]).boxed()
            }
            Turn::BreaksInCall(error) => {
                stream::iter([Ok(started), Ok(call()), Err(error)]).boxed()
            }
            Turn::Hangs => {
                std::future::pending::<()>().await;
                unreachable!("it hangs")
            }
            Turn::After(..) => unreachable!("waited for above"),
        })
    }
}

struct Scene {
    pipeline: Pipeline,
    records: mpsc::Receiver<ExchangeRecord>,
    _recorder: tokio::task::JoinSet<()>,
}

/// `a` before `b` before `c`, of those that there are; `equal` shares among `a` and `b`.
fn scene(providers: &[Arc<Provider>], manners: &str) -> Scene {
    scene_with(providers, manners, RetryRules::default())
}

fn scene_with(providers: &[Arc<Provider>], manners: &str, retry: RetryRules) -> Scene {
    let names: Vec<String> = providers
        .iter()
        .map(|it| format!("'{}'", it.card.name))
        .collect();
    let names = names.join(", ");
    let routes = format!("default = 'all'\n[outcomes.all]\ncandidates = [{names}]\n{manners}");
    let equal = ["a", "b"].map(str::to_owned).to_vec();
    let snapshot = Snapshot::new(
        RoutePolicy::parse("test.toml", &routes).unwrap(),
        ScanRules::compile(&[], &[]).unwrap(),
        providers
            .iter()
            .map(|it| Arc::clone(it) as Arc<dyn Backend>)
            .collect(),
        [("equal".to_owned(), equal)].into(),
        CacheRules {
            is_enabled: false,
            secret: CacheSecret::new([7; 32]),
            ttl: Duration::from_secs(60),
            reply_bytes_max: 1024,
        },
        Patience::default(),
    )
    .with_shares([("equal".to_owned(), vec![1, 1])].into())
    .with_retry(retry);
    let (sent, records) = mpsc::channel(8_192);
    let (pipeline, recorder) = Pipeline::new(Parts {
        snapshot,
        cache: Arc::new(MapCache::default()),
        reuse: None,
        shadows: None,
        keys: Arc::new(NoKeys),
        quotas: None,
        queueing: QueueRules::default(),
        sinks: vec![Arc::new(Sent(sent))],
        exchanges_max: 1_024,
    });
    let mut running = tokio::task::JoinSet::new();
    running.spawn(recorder.run());
    Scene {
        pipeline,
        records,
        _recorder: running,
    }
}

/// How an exchange went for its caller: the text and the reason, the error within the reply, or the
/// fault.
#[derive(Debug, PartialEq)]
enum Seen {
    Whole { text: String, reason: String },
    Broken { text: String, error: &'static str },
    Refused(&'static str),
}

impl Scene {
    async fn ask(&self, model: &str, text: &str) -> Seen {
        let mut asked = parsed(model, text);
        asked.request.delivery = Delivery::Streamed {
            includes_usage: true,
        };
        let answer = match self.pipeline.run(asked).await {
            Ok(answer) => answer,
            Err(refusal) => return Seen::Refused(refusal.fault.as_label()),
        };
        let reason = answer.reason.clone();
        let mut text = String::new();
        let mut events = answer.stream;
        while let Some(event) = events.next().await {
            match event {
                Ok(ChatEvent::Text { text: more, .. }) => text.push_str(&more),
                Ok(_) => {}
                Err(error) => {
                    let error = error.as_label();
                    return Seen::Broken { text, error };
                }
            }
        }
        Seen::Whole { text, reason }
    }

    fn breaker(&self, backend: &str) -> (BreakerState, u32) {
        let health = self.pipeline.health();
        let health = health
            .iter()
            .find(|it| it.backend.as_str() == backend)
            .unwrap();
        (health.state, health.failures_in_row)
    }
}

fn bad(code: Option<&str>) -> BadRequest {
    BadRequest {
        param: None,
        code: code.map(str::to_owned),
        message: "no".to_owned(),
    }
}

fn says(words: &'static str) -> Turn {
    Turn::Says(words)
}

/// One row: how `a` fails always; how often it is asked; what its caller sees where nobody else is
/// left, and with `b` behind it; whether its breaker counts it.
struct Row {
    turn: Turn,
    asked: usize,
    alone: Seen,
    beside: Seen,
    is_blamed: bool,
}

fn row(error: BackendError, asked: usize, alone: &'static str, is_blamed: bool) -> Row {
    let reason = format!("default; fallback: a {}", error.as_label());
    Row {
        turn: Turn::Fails(error),
        asked,
        alone: Seen::Refused(alone),
        beside: Seen::Whole {
            text: "here".to_owned(),
            reason,
        },
        is_blamed,
    }
}

/// What statuses, resets and silences become is in the tests of `providers`; here is what follows.
#[tokio::test(start_paused = true)]
async fn the_fault_table() {
    use BackendError as E;
    let overloaded = |ms| E::Overloaded {
        retry_after: Duration::from_millis(ms),
    };
    let limited = |s| E::RateLimited {
        retry_after: Some(Duration::from_secs(s)),
    };
    let rejected = |status| E::Rejected {
        status,
        reason: bad(None),
    };
    let refused_all = |error: E, alone| Row {
        beside: Seen::Refused(alone),
        ..row(error, 1, alone, false)
    };
    let broken = |turn, text: &str, error, is_blamed| Row {
        turn,
        asked: 1,
        alone: Seen::Broken {
            text: text.to_owned(),
            error,
        },
        beside: Seen::Broken {
            text: text.to_owned(),
            error,
        },
        is_blamed,
    };
    let hangs = Row {
        turn: Turn::Hangs,
        ..row(
            E::TimedOut(TimeoutPhase::FirstEvent),
            1,
            "upstream_timed_out",
            true,
        )
    };
    let failed = "upstream_failed";
    let rows = [
        (
            "connect refused",
            row(E::Unreachable("refused"), 1, failed, true),
        ),
        (
            "reset, or TLS failure",
            row(E::Unreachable("reset"), 1, failed, true),
        ),
        (
            "connect timed out",
            row(
                E::TimedOut(TimeoutPhase::Connect),
                1,
                "upstream_timed_out",
                true,
            ),
        ),
        ("timeout before headers or the first event", hangs),
        (
            "timeout between events",
            broken(
                Turn::Breaks("half", E::TimedOut(TimeoutPhase::BetweenEvents)),
                "half",
                "timed_out",
                true,
            ),
        ),
        ("400, 413", refused_all(rejected(400), "bad_request")),
        ("401", row(E::Credentials { status: 401 }, 1, failed, false)),
        (
            "404",
            row(
                E::ModelUnknown { model: "m".into() },
                1,
                "model_not_found",
                false,
            ),
        ),
        (
            "408",
            row(
                E::TimedOut(TimeoutPhase::Request),
                3,
                "upstream_timed_out",
                false,
            ),
        ),
        (
            "429",
            row(
                E::RateLimited { retry_after: None },
                3,
                "rate_limited",
                false,
            ),
        ),
        (
            "429 with a short wait",
            row(limited(1), 3, "rate_limited", false),
        ),
        (
            "429 with a long wait",
            row(limited(31), 1, "rate_limited", false),
        ),
        ("500", row(E::Failed { status: 500 }, 1, failed, true)),
        ("502", row(E::Failed { status: 502 }, 1, failed, true)),
        ("503, 529", row(overloaded(0), 3, "overloaded", true)),
        (
            "503 with a wait",
            row(overloaded(700), 3, "overloaded", true),
        ),
        ("a malformed body", row(E::Garbled("odd"), 1, failed, true)),
        (
            "a cut before the first event",
            row(E::Interrupted, 1, failed, true),
        ),
        (
            "a cut mid-stream",
            broken(
                Turn::Breaks("half", E::Interrupted),
                "half",
                "interrupted",
                true,
            ),
        ),
        (
            "a cut mid-tool-call",
            broken(Turn::BreaksInCall(E::Interrupted), "", "interrupted", true),
        ),
        (
            "content refused",
            refused_all(E::ContentRefused { reason: bad(None) }, "bad_request"),
        ),
    ];
    for (name, row) in rows {
        let a = Arc::new(Provider::always("a", row.turn.clone()));
        let mut alone = scene(&[Arc::clone(&a)], "");
        assert_eq!(alone.ask("auto", "hi").await, row.alone, "{name}, alone");
        assert_eq!(a.calls(), row.asked, "{name}, alone");
        let record = alone.records.recv().await.unwrap();
        assert_eq!(record.retries_count as usize, row.asked - 1, "{name}");
        let (_, failures) = alone.breaker("a");
        let blamed = if row.is_blamed { row.asked } else { 0 };
        assert_eq!(failures as usize, blamed, "{name}: the breaker");
        let is_refused = matches!(row.alone, Seen::Refused(_));
        assert_eq!(
            record.route.is_none(),
            is_refused,
            "{name}: nobody charges for nothing"
        );
        assert!(alone.records.try_recv().is_err(), "{name}: one record");

        let a = Arc::new(Provider::always("a", row.turn));
        let b = Arc::new(Provider::always("b", says("here")));
        let mut beside = scene(&[Arc::clone(&a), Arc::clone(&b)], "");
        assert_eq!(
            beside.ask("auto", "hi").await,
            row.beside,
            "{name}, beside b"
        );
        let is_answered_by_b = matches!(row.beside, Seen::Whole { .. });
        assert_eq!(b.calls(), usize::from(is_answered_by_b), "{name}");
        let record = beside.records.recv().await.unwrap();
        if is_answered_by_b {
            assert_eq!(record.route.unwrap().backend.as_str(), "b", "{name}");
            assert_eq!(record.usage.unwrap().prompt_tokens, Tokens(7), "{name}");
            assert_eq!(record.failed_candidates.len(), 1, "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_answered_and_the_caller_sees_nothing_of_it() {
    let busy = BackendError::Overloaded {
        retry_after: Duration::ZERO,
    };
    let a = Provider::in_turn(
        "a",
        vec![Turn::Fails(busy.clone()), Turn::Fails(busy), says("ok")],
    );
    let mut scene = scene(&[Arc::new(a)], "");
    let whole = Seen::Whole {
        text: "ok".to_owned(),
        reason: "default".to_owned(),
    };
    assert_eq!(scene.ask("auto", "hi").await, whole);
    let record = scene.records.recv().await.unwrap();
    assert_eq!(record.retries_count, 2);
    assert!(record.failed_candidates.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_named_wait_is_kept_and_one_beyond_the_patience_is_not_waited_for() {
    let limited = |s| {
        Turn::Fails(BackendError::RateLimited {
            retry_after: Some(Duration::from_secs(s)),
        })
    };
    for (wait, calls) in [(1, 1), (20, 1), (31, 0)] {
        let a = Arc::new(Provider::in_turn("a", vec![limited(wait), says("ok")]));
        let scene = scene(&[Arc::clone(&a)], "");
        let began = tokio::time::Instant::now();
        scene.ask("auto", "hi").await;
        assert_eq!(a.calls(), 1 + calls, "{wait}");
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(wait * calls as u64), "{took:?}");
    }
    // Another candidate answers at once.
    let a = Arc::new(Provider::in_turn("a", vec![limited(2), says("ok")]));
    let b = Arc::new(Provider::always("b", says("here")));
    let began = tokio::time::Instant::now();
    scene(&[Arc::clone(&a), b], "").ask("auto", "hi").await;
    assert_eq!((a.calls(), began.elapsed()), (1, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_done_is_repeated_only_where_the_provider_says_so() {
    for (is_idempotent, calls) in [(false, 1), (true, 3)] {
        for error in [
            BackendError::Unreachable("the connection broke before the reply began"),
            BackendError::Failed { status: 500 },
            BackendError::Interrupted,
        ] {
            let a = Arc::new(Provider {
                is_idempotent,
                ..Provider::always("a", Turn::Fails(error.clone()))
            });
            scene(&[Arc::clone(&a)], "").ask("auto", "hi").await;
            assert_eq!(a.calls(), calls, "{error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn retries_stay_a_tenth_of_the_traffic_however_long_everything_fails() {
    let limited = BackendError::RateLimited { retry_after: None };
    let a = Arc::new(Provider::always("a", Turn::Fails(limited)));
    let rules = RetryRules {
        budget_percent: 10,
        burst: 5,
    };
    let scene = scene_with(&[Arc::clone(&a)], "", rules);
    for _ in 0..1_000 {
        scene.ask("auto", "hi").await;
    }
    let retries = a.calls() - 1_000;
    assert!((95..=105).contains(&retries), "{retries}");
}

#[tokio::test(start_paused = true)]
async fn too_long_a_prompt_goes_on_only_to_a_longer_context() {
    let too_long = || {
        Turn::Fails(BackendError::ContextExceeded {
            asked: Tokens(12),
            limit: Tokens(10),
        })
    };
    let wordless = || {
        Turn::Fails(BackendError::Rejected {
            status: 400,
            reason: bad(Some("context_length_exceeded")),
        })
    };
    for (first, limit, is_asked) in [
        (too_long(), Some(8), false),
        (too_long(), Some(10), false),
        (too_long(), Some(11), true),
        (too_long(), None, true),
        (wordless(), Some(9), false),
        (wordless(), Some(11), true),
    ] {
        let a = Arc::new(Provider::always("a", first).with_context(10));
        let b = Provider::always("b", says("here"));
        let b = Arc::new(match limit {
            Some(limit) => b.with_context(limit),
            None => b,
        });
        let c = Arc::new(Provider::always("c", says("last")).with_context(10));
        let seen = scene(&[a, Arc::clone(&b), Arc::clone(&c)], "")
            .ask("auto", "hi")
            .await;
        assert_eq!(
            (b.calls(), c.calls()),
            (usize::from(is_asked), 0),
            "{limit:?}"
        );
        if !is_asked {
            assert_eq!(seen, Seen::Refused("bad_request"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn refused_content_goes_to_another_provider_only_where_the_route_says_so() {
    let refusal = Turn::Fails(BackendError::ContentRefused {
        reason: bad(Some("content_filter")),
    });
    let a = Arc::new(Provider::always("a", refusal));
    let b = Arc::new(Provider::always("b", says("here")));
    let providers = [Arc::clone(&a), Arc::clone(&b)];
    let seen = scene(&providers, "").ask("auto", "hi").await;
    assert_eq!((seen, b.calls()), (Seen::Refused("bad_request"), 0));
    let seen = scene(&providers, "fallback_on_refusal = true")
        .ask("auto", "hi")
        .await;
    let whole = Seen::Whole {
        text: "here".to_owned(),
        reason: "default; fallback: a content_refused".to_owned(),
    };
    assert_eq!((seen, a.calls(), b.calls()), (whole, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_dead_provider_is_left_alone_until_a_probe_is_answered() {
    let five = vec![Turn::Fails(BackendError::Failed { status: 500 }); 5];
    let turns = five.into_iter().chain([says("back")]).collect();
    let a = Arc::new(Provider::in_turn("a", turns));
    let scene = scene(&[Arc::clone(&a)], "");
    for _ in 0..5 {
        assert_eq!(
            scene.ask("auto", "hi").await,
            Seen::Refused("upstream_failed")
        );
    }
    assert_eq!(scene.breaker("a").0, BreakerState::Open);
    assert!(!scene.pipeline.readiness().is_ready, "health says so");
    assert_eq!(scene.ask("auto", "hi").await, Seen::Refused("overloaded"));
    assert_eq!(a.calls(), 5, "nothing is sent to it");
    tokio::time::advance(Duration::from_secs(5)).await;
    let (probe, beside) = tokio::join!(scene.ask("auto", "hi"), scene.ask("auto", "hi"));
    assert!(matches!(probe, Seen::Whole { .. }), "{probe:?}");
    assert!(
        matches!(beside, Seen::Whole { .. } | Seen::Refused("overloaded")),
        "{beside:?}"
    );
    assert_eq!(scene.breaker("a"), (BreakerState::Closed, 0));
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_sends_callers_to_the_next_at_once() {
    let a = Arc::new(Provider::always(
        "a",
        Turn::Fails(BackendError::Failed { status: 500 }),
    ));
    let b = Arc::new(Provider::always("b", says("here")));
    let scene = scene(&[Arc::clone(&a), b], "");
    for _ in 0..20 {
        assert!(matches!(scene.ask("auto", "hi").await, Seen::Whole { .. }));
    }
    assert_eq!(a.calls(), 5);
    let Seen::Whole { reason, .. } = scene.ask("auto", "hi").await else {
        panic!("b answers");
    };
    assert_eq!(reason, "default; fallback: a down");
    let other_model = scene.ask("a/m", "hi").await;
    assert_eq!(
        other_model,
        Seen::Refused("overloaded"),
        "named, nobody stands in"
    );
}

#[tokio::test(start_paused = true)]
async fn callers_who_leave_and_callers_at_fault_open_no_breaker() {
    let rejected = BackendError::Rejected {
        status: 400,
        reason: bad(None),
    };
    let a = Arc::new(Provider::new("a", move |call| {
        if call % 2 == 0 {
            Turn::Hangs
        } else {
            Turn::Fails(rejected.clone())
        }
    }));
    let scene = scene(&[Arc::clone(&a)], "");
    for _ in 0..20 {
        let leaves = tokio::time::timeout(Duration::from_secs(1), scene.ask("auto", "hi"));
        assert!(leaves.await.is_err());
        assert_eq!(scene.ask("auto", "hi").await, Seen::Refused("bad_request"));
    }
    assert_eq!(scene.breaker("a"), (BreakerState::Closed, 0));
    assert_eq!(scene.pipeline.health()[0].in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn equals_share_conversations_and_each_sticks_while_its_provider_is_well() {
    let failing = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let fails = Arc::clone(&failing);
    let a = Arc::new(Provider::new("a", move |_| {
        if fails.load(Ordering::Relaxed) {
            Turn::Fails(BackendError::Failed { status: 500 })
        } else {
            says("a")
        }
    }));
    let b = Arc::new(Provider::always("b", says("b")));
    let scene = scene(&[Arc::clone(&a), Arc::clone(&b)], "");
    let answers = async |at: usize| match scene.ask("equal", &format!("question {at}")).await {
        Seen::Whole { text, reason } => (text, reason),
        other => panic!("{other:?}"),
    };
    let mut homes = Vec::new();
    for at in 0..40 {
        homes.push(answers(at).await);
    }
    let of_a = homes.iter().filter(|(text, _)| text == "a").count();
    assert!((10..30).contains(&of_a), "{of_a}");
    assert!(homes.iter().all(|(_, reason)| reason == "model-named"));
    for (at, home) in homes.iter().enumerate() {
        assert_eq!(answers(at).await, *home, "it sticks");
    }
    failing.store(true, Ordering::Relaxed);
    let before = a.calls();
    for at in 0..40 {
        assert_eq!(answers(at).await.0, "b");
    }
    assert!(a.calls() - before <= 5, "its conversations moved");
}

#[tokio::test(start_paused = true)]
async fn a_late_first_event_starts_a_second_candidate_and_the_first_to_speak_is_kept() {
    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }
    let after = |wait, words| Turn::After(ms(wait), Box::new(says(words)));
    // Sixty of 100 ms, then one that is late.
    let slow_once = move |late: u64| move |call| after(if call < 60 { 100 } else { late }, "a");
    for (late, manners, text, outcome, b_calls) in [
        (10_000, "hedge = true", "b", Some(HedgeOutcome::Won), 1),
        (250, "hedge = true", "a", Some(HedgeOutcome::Lost), 1),
        (100, "hedge = true", "a", None, 0),
        (10_000, "", "a", None, 0),
    ] {
        let a = Arc::new(Provider::new("a", slow_once(late)));
        let b = Arc::new(Provider::always("b", after(300, "b")));
        let mut scene = scene(&[Arc::clone(&a), Arc::clone(&b)], manners);
        for _ in 0..60 {
            scene.ask("auto", "hi").await;
            assert_eq!(scene.records.recv().await.unwrap().hedge, None);
        }
        let began = tokio::time::Instant::now();
        let Seen::Whole { text: said, reason } = scene.ask("auto", "hi").await else {
            panic!("somebody answers");
        };
        let is_late = outcome == Some(HedgeOutcome::Won);
        assert_eq!(reason.ends_with("; fallback: a late"), is_late, "{reason}");
        assert_eq!(
            (said.as_str(), b.calls()),
            (text, b_calls),
            "{late} {manners}"
        );
        let record = scene.records.recv().await.unwrap();
        assert_eq!(record.hedge.as_ref().map(|it| it.outcome), outcome);
        assert_eq!(record.route.unwrap().backend.as_str(), text);
        if let Some(hedge) = record.hedge {
            assert_ne!(hedge.loser.backend.as_str(), text);
            assert!(began.elapsed() < ms(600), "{:?}", began.elapsed());
        }
        assert!(record.failed_candidates.is_empty(), "a loser did not fail");
        for provider in [&a, &b] {
            assert_eq!(
                Arc::strong_count(&provider.under_way),
                1,
                "the loser is cancelled"
            );
        }
        assert_eq!(scene.breaker("a"), (BreakerState::Closed, 0));
    }
}

/// Both have the prompt by then.
#[tokio::test(start_paused = true)]
async fn who_leaves_while_two_are_asked_is_recorded_with_both() {
    let ms = Duration::from_millis;
    let turn = move |call| {
        let wait = if call < 60 { 100 } else { 10_000 };
        Turn::After(ms(wait), Box::new(says("a")))
    };
    for (left_after, loser) in [(50, None), (250, Some("b"))] {
        let a = Arc::new(Provider::new("a", turn));
        let b = Arc::new(Provider::always(
            "b",
            Turn::After(ms(10_000), Box::new(says("b"))),
        ));
        let mut scene = scene(&[a, Arc::clone(&b)], "hedge = true");
        for _ in 0..60 {
            scene.ask("auto", "hi").await;
            scene.records.recv().await.unwrap();
        }
        let asking = tokio::time::timeout(ms(left_after), scene.ask("auto", "hi"));
        assert!(asking.await.is_err());
        let record = scene.records.recv().await.unwrap();
        assert_eq!(record.route.unwrap().backend.as_str(), "a");
        let hedge = record.hedge;
        let named = hedge.as_ref().map(|it| it.loser.backend.as_str());
        assert_eq!(named, loser);
        assert_eq!(b.calls(), usize::from(loser.is_some()));
    }
}

#[tokio::test(start_paused = true)]
async fn hedges_are_paid_for_by_the_retry_budget() {
    let a = Arc::new(Provider::new("a", |call| {
        let wait = if call < 60 { 100 } else { 10_000 };
        Turn::After(Duration::from_millis(wait), Box::new(says("a")))
    }));
    let b = Arc::new(Provider::always("b", says("b")));
    let rules = RetryRules {
        budget_percent: 0,
        burst: 2,
    };
    let scene = scene_with(&[a, Arc::clone(&b)], "hedge = true", rules);
    for _ in 0..70 {
        assert!(matches!(scene.ask("auto", "hi").await, Seen::Whole { .. }));
    }
    assert_eq!(b.calls(), 2);
}

/// Issue 4, done when 5: one of two providers fails 30 % of its chats.
#[tokio::test(start_paused = true)]
async fn of_5000_callers_nearly_all_get_a_whole_answer_while_one_provider_fails_a_third() {
    const CALLERS: usize = 5_000;
    for (model, seed) in [("auto", 11), ("equal", 12), ("auto", 13)] {
        let chance = Mutex::new(StdRng::seed_from_u64(seed));
        let a = Arc::new(Provider::new("a", move |_| {
            let errors = [
                BackendError::Failed { status: 500 },
                BackendError::Overloaded {
                    retry_after: Duration::ZERO,
                },
                BackendError::Unreachable("reset"),
            ];
            let mut chance = chance.lock().unwrap();
            let turn = if chance.random_bool(0.3) {
                Turn::Fails(errors[chance.random_range(0..errors.len())].clone())
            } else {
                says("whole")
            };
            Turn::After(Duration::from_millis(20), Box::new(turn))
        }));
        let b = Arc::new(Provider::always(
            "b",
            Turn::After(Duration::from_millis(20), Box::new(says("whole"))),
        ));
        let mut scene = scene(&[Arc::clone(&a), Arc::clone(&b)], "");
        let callers = stream::iter(0..CALLERS).map(|at| {
            let scene = &scene;
            async move { scene.ask(model, &format!("question {at}")).await }
        });
        let seen: Vec<Seen> = callers.buffer_unordered(8).collect().await;
        let whole = seen
            .iter()
            .filter(|it| matches!(it, Seen::Whole { text, .. } if text == "whole"));
        let whole = whole.count();
        assert!(
            whole * 1_000 >= CALLERS * 999,
            "{whole} of {CALLERS}, seed {seed}"
        );
        let calls = a.calls() + b.calls();
        assert!(calls * 10 <= CALLERS * 11, "{calls} calls, seed {seed}");
        let mut ids = 0;
        let (mut charged, mut retries) = (0, 0);
        while ids < CALLERS {
            let record = scene.records.recv().await.unwrap();
            ids += 1;
            charged += record
                .usage
                .map_or(0, |usage| usage.prompt_tokens.0 as usize);
            retries += record.retries_count as usize;
        }
        assert!(scene.records.try_recv().is_err(), "one record an exchange");
        assert_eq!(charged, whole * 7, "each answer is charged once");
        assert!(retries * 10 <= CALLERS, "{retries}");
    }
}
