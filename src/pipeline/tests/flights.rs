//! Requests alike at once: one piece of work, and whoever leaves harms nobody.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;
use futures::{FutureExt, poll};

use super::quotas::{limit, priced, purse};
use super::*;

/// Says what it is told to, event by event.
struct Stepped {
    card: BackendCard,
    calls: AtomicUsize,
    /// Calls that are neither answered nor dropped.
    under_way: Arc<()>,
    /// Of each call in order: what it says.
    scripts: Mutex<Vec<mpsc::Receiver<Result<ChatEvent, BackendError>>>>,
}

impl Stepped {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            card: Fake::new("fake", Trust::Public, Script::Empty).card.clone(),
            calls: AtomicUsize::new(0),
            under_way: Arc::default(),
            scripts: Mutex::default(),
        })
    }

    /// What the next call says.
    fn next(&self) -> mpsc::Sender<Result<ChatEvent, BackendError>> {
        let (say, said) = mpsc::channel(64);
        self.scripts.lock().unwrap().push(said);
        say
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    fn under_way(&self) -> usize {
        Arc::strong_count(&self.under_way) - 1
    }
}

#[async_trait]
impl Backend for Stepped {
    fn card(&self) -> &BackendCard {
        &self.card
    }

    fn health(&self) -> Health {
        Health::READY
    }

    async fn chat(&self, _: Outbound) -> Result<ChatStream, BackendError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let under_way = Arc::clone(&self.under_way);
        let mut said = self.scripts.lock().unwrap().remove(0);
        let events = stream::poll_fn(move |cx| {
            let _ = &under_way;
            said.poll_recv(cx)
        });
        Ok(events.boxed())
    }
}

const WORDS: [&str; 4] = ["one ", "two ", "three ", "four"];

/// A reply of [`WORDS`], with what it cost in tokens.
fn events() -> Vec<ChatEvent> {
    let mut events = vec![ChatEvent::Started(Started {
        model: "big".into(),
        reply_id: Some("id".into()),
        fingerprint: None,
    })];
    events.extend(WORDS.map(|text| ChatEvent::Text {
        choice: 0,
        text: text.to_owned(),
    }));
    events.push(ChatEvent::ChoiceEnded {
        choice: 0,
        reason: FinishReason::Stop,
    });
    events.push(ChatEvent::Usage(Usage {
        prompt_tokens: Tokens(1_000_000),
        completion_tokens: Tokens(4),
        ..Usage::default()
    }));
    events
}

fn stepped(backend: &Arc<Stepped>, seats: usize) -> Bench {
    let snapshot = priced(snapshot_of(ROUTES, vec![backend.clone()]));
    let mut bench = bench_with(snapshot, seats);
    // Every record is read at the end only.
    let (sent, records) = mpsc::channel(512);
    let (pipeline, recorder) = Pipeline::new(Parts {
        snapshot: priced(snapshot_of(ROUTES, vec![backend.clone()])),
        cache: bench.cache.clone(),
        reuse: None,
        shadows: None,
        keys: Arc::new(NoKeys),
        quotas: None,
        queueing: QueueRules::default(),
        sinks: vec![Arc::new(Sent(sent))],
        exchanges_max: seats,
    });
    bench.pipeline = pipeline;
    bench.records = records;
    bench._recorder.spawn(recorder.run());
    bench
}

fn streamed() -> Parsed {
    let mut parsed = parsed("auto", "the same question");
    parsed.request.delivery = Delivery::Streamed {
        includes_usage: true,
    };
    parsed
}

#[tokio::test(start_paused = true)]
async fn two_hundred_streams_alike_are_one_call() {
    let backend = Stepped::new();
    let mut bench = stepped(&backend, 256);
    let say = backend.next();
    let mut opening: Vec<_> = (0..200)
        .map(|_| Box::pin(bench.pipeline.run(streamed())))
        .collect();
    for opening in &mut opening {
        assert!(poll!(opening).is_pending());
    }
    let mut events = events().into_iter();
    for event in events.by_ref().take(2) {
        say.send(Ok(event)).await.unwrap();
    }
    let answers = join_all(opening).await;
    let mut streams: Vec<ChatStream> = Vec::new();
    for (at, answer) in answers.into_iter().enumerate() {
        let answer = answer.unwrap();
        let route = answer.route.to_string();
        assert_eq!(
            (route.as_str(), answer.cache.to_string().as_str()),
            match at {
                0 => ("cloud:fake", "miss"),
                _ => ("cache:shared", "shared"),
            }
        );
        streams.push(answer.stream);
    }
    // Each streams along: what is not said yet is not waited for.
    for stream in &mut streams {
        let first = stream.next().await.unwrap().unwrap();
        assert!(matches!(first, ChatEvent::Started(_)));
        let word = stream.next().await.unwrap().unwrap();
        assert!(matches!(word, ChatEvent::Text { text, .. } if text == "one "));
        assert!(stream.next().now_or_never().is_none());
    }
    for event in events {
        say.send(Ok(event)).await.unwrap();
    }
    drop(say);
    for stream in &mut streams {
        let mut text = String::new();
        while let Some(event) = stream.next().await {
            if let ChatEvent::Text { text: more, .. } = event.unwrap() {
                text.push_str(&more);
            }
        }
        assert_eq!(text, "two three four");
    }
    assert_eq!(backend.calls(), 1);
    drop(streams);
    let mut costs = Vec::new();
    for _ in 0..200 {
        let record = bench.records.recv().await.unwrap();
        assert_eq!(record.outcome, Outcome::Answered);
        let usage = record.usage.unwrap();
        assert_eq!(usage.completion_tokens, Tokens(4));
        costs.push((record.cache, record.cost, record.saved));
    }
    let paid = (CacheOutcome::Missed, Some(MicroUsd(1_000_040)), None);
    let spared = (
        CacheOutcome::Shared,
        Some(MicroUsd(0)),
        Some(MicroUsd(1_000_040)),
    );
    assert_eq!(costs.iter().filter(|it| **it == paid).count(), 1);
    assert_eq!(costs.iter().filter(|it| **it == spared).count(), 199);
    // And the reply is kept for whoever comes later.
    let later = bench.pipeline.run(streamed()).await.unwrap();
    assert_eq!(later.route.to_string(), "cache:exact");
}

/// What one who reads along has got, polled whenever it may have been woken.
async fn read_all(stream: ChatStream) -> Result<String, BackendError> {
    Ok(collect(stream).await?.choices[0].text())
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_at_any_event_harms_nobody() {
    // Who leaves: the leader or the first that joined. When: before the first content, or after so many
    // events. What it last did: wait for the next event, so that it is the one to be woken, or not.
    for leaver in [0, 1] {
        for cut in 0..=events().len() {
            for waits in [false, true] {
                let backend = Stepped::new();
                let mut bench = stepped(&backend, 8);
                let say = backend.next();
                let mut opening: Vec<_> = (0..3)
                    .map(|_| Box::pin(bench.pipeline.run(streamed())))
                    .collect();
                for opening in &mut opening {
                    assert!(poll!(opening).is_pending());
                }
                if waits {
                    assert!(poll!(&mut opening[leaver]).is_pending());
                }
                if cut == 0 {
                    drop(opening.remove(leaver));
                }
                let mut tasks = tokio::task::JoinSet::new();
                let mut leaving = None;
                let (mut said, mut rest) = (0, events().into_iter());
                for event in rest.by_ref().take(cut.max(2)) {
                    say.send(Ok(event)).await.unwrap();
                    said += 1;
                }
                for (at, answer) in join_all(opening).await.into_iter().enumerate() {
                    let stream = answer.unwrap().stream;
                    if cut > 0 && at == leaver {
                        leaving = Some(stream);
                    } else {
                        tasks.spawn(read_all(stream));
                    }
                }
                if let Some(mut stream) = leaving {
                    for _ in 0..cut.min(said) {
                        stream.next().await.unwrap().unwrap();
                    }
                    if waits && (said..events().len()).contains(&cut) {
                        assert!(stream.next().now_or_never().is_none());
                    }
                    drop(stream);
                }
                for event in rest {
                    tokio::task::yield_now().await;
                    say.send(Ok(event)).await.unwrap();
                }
                drop(say);
                let case = format!("{leaver} leaves after {cut}, waiting: {waits}");
                assert_eq!(tasks.len(), 2, "{case}");
                while let Some(read) = tasks.join_next().await {
                    assert_eq!(read.unwrap().unwrap(), WORDS.concat(), "{case}");
                }
                assert_eq!((backend.calls(), backend.under_way()), (1, 0), "{case}");
                let mut outcomes = Vec::new();
                for _ in 0..3 {
                    let record = bench.records.recv().await.unwrap();
                    outcomes.push((record.cache == CacheOutcome::Missed, record.cost));
                }
                // One paid for the work, whoever left.
                let paid = (true, Some(MicroUsd(1_000_040)));
                assert_eq!(
                    outcomes.iter().filter(|it| **it == paid).count(),
                    1,
                    "{case}"
                );
                assert_eq!(bench.pipeline.exchanges_count(), 0, "{case}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_leaders_record_says_that_it_left() {
    let backend = Stepped::new();
    let mut bench = stepped(&backend, 8);
    let say = backend.next();
    let mut leader = Box::pin(bench.pipeline.run(streamed()));
    assert!(poll!(&mut leader).is_pending());
    let mut joined = Box::pin(bench.pipeline.run(streamed()));
    assert!(poll!(&mut joined).is_pending());
    drop(leader);
    for event in events() {
        say.send(Ok(event)).await.unwrap();
    }
    drop(say);
    assert_eq!(text(joined.await.unwrap()).await, WORDS.concat());
    let first = bench.records.recv().await.unwrap();
    assert_eq!(first.outcome, Outcome::Abandoned);
    assert_eq!(backend.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn work_that_nobody_waits_for_is_cancelled() {
    for opened in [false, true] {
        let backend = Stepped::new();
        let bench = stepped(&backend, 8);
        let say = backend.next();
        let mut opening: Vec<_> = (0..3)
            .map(|_| Box::pin(bench.pipeline.run(streamed())))
            .collect();
        for opening in &mut opening {
            assert!(poll!(opening).is_pending());
        }
        assert_eq!(backend.under_way(), 1);
        if opened {
            for event in events().into_iter().take(2) {
                say.send(Ok(event)).await.unwrap();
            }
            let answers = join_all(opening).await;
            assert_eq!(backend.under_way(), 1);
            drop(answers);
        } else {
            drop(opening);
        }
        assert_eq!(backend.under_way(), 0);
        assert!(bench.cache.0.lock().unwrap().is_empty());
        // And the next one begins anew.
        let say = backend.next();
        for event in events() {
            say.send(Ok(event)).await.unwrap();
        }
        drop(say);
        let again = bench.pipeline.run(streamed()).await.unwrap();
        assert_eq!(text(again).await, WORDS.concat());
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_to_all_and_asked_for_once() {
    let cloud = Provider::new();
    let snapshot = snapshot_of(ROUTES, vec![cloud.clone()]);
    let mut bench = bench_with(snapshot, 16);
    let outcomes = join_all((0..10).map(|_| bench.pipeline.run(streamed()))).await;
    for outcome in outcomes {
        assert!(matches!(outcome.unwrap_err().fault, Fault::BadRequest(_)));
    }
    assert_eq!(cloud.0.load(Ordering::Relaxed), 1);
    for _ in 0..10 {
        let record = bench.records.recv().await.unwrap();
        assert_eq!(record.outcome, Outcome::Refused("bad_request"));
    }
}

/// Takes its time to refuse.
struct Provider(AtomicUsize, BackendCard);

impl Provider {
    fn new() -> Arc<Self> {
        let card = Fake::new("fake", Trust::Public, Script::Empty).card.clone();
        Arc::new(Self(AtomicUsize::new(0), card))
    }
}

#[async_trait]
impl Backend for Provider {
    fn card(&self) -> &BackendCard {
        &self.1
    }

    fn health(&self) -> Health {
        Health::READY
    }

    async fn chat(&self, _: Outbound) -> Result<ChatStream, BackendError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(50)).await;
        Err(BackendError::Rejected {
            status: 400,
            reason: BadRequest::at("tools", "too many"),
        })
    }
}

#[tokio::test(start_paused = true)]
async fn what_breaks_off_breaks_off_for_all() {
    let backend = Stepped::new();
    let bench = stepped(&backend, 8);
    let say = backend.next();
    for event in events().into_iter().take(3) {
        say.send(Ok(event)).await.unwrap();
    }
    say.send(Err(BackendError::Interrupted)).await.unwrap();
    let answers = join_all((0..3).map(|_| bench.pipeline.run(streamed()))).await;
    for answer in answers {
        let mut events: Vec<_> = answer.unwrap().stream.collect().await;
        assert_eq!(events.len(), 4);
        assert!(matches!(events.pop(), Some(Err(BackendError::Interrupted))));
    }
    assert_eq!(backend.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_the_leaders_is_not_the_others() {
    let cloud = Fake::new(
        "fake",
        Trust::Public,
        Script::SaysAfter(Duration::from_millis(50), "yes"),
    );
    let bench = bench_counting(
        priced(snapshot(vec![cloud.clone()])),
        8,
        Some(Arc::new(purse())),
    );
    let mut poor = streamed();
    poor.principal.limits = vec![limit(Measure::Requests, 0)].into();
    let runs = [poor, streamed(), streamed()].map(|it| bench.pipeline.run(it));
    let mut outcomes = join_all(runs).await.into_iter();
    let refused = outcomes.next().unwrap().unwrap_err();
    assert!(matches!(refused.fault, Fault::RateLimited { .. }));
    for answer in outcomes {
        assert_eq!(text(answer.unwrap()).await, "yes");
    }
    assert_eq!(cloud.calls().len(), 1);
}

/// The same where the reply is kept: it is for all, and the leader's limit is not.
#[tokio::test(start_paused = true)]
async fn a_leader_that_may_not_have_a_kept_reply_does_not_keep_it_from_others() {
    let cloud = Fake::new("fake", Trust::Public, Script::Says("yes"));
    let mut bench = bench(vec![cloud.clone()], 64);
    let (sent, records) = mpsc::channel(64);
    let (pipeline, recorder) = Pipeline::new(Parts {
        snapshot: priced(snapshot(vec![cloud.clone()])),
        cache: Arc::<Elsewhere>::default(),
        reuse: None,
        shadows: None,
        keys: Arc::new(NoKeys),
        quotas: Some(Arc::new(purse())),
        queueing: QueueRules::default(),
        sinks: vec![Arc::new(Sent(sent))],
        exchanges_max: 64,
    });
    bench._recorder.spawn(recorder.run());
    (bench.pipeline, bench.records) = (pipeline, records);
    assert_eq!(
        text(bench.pipeline.run(streamed()).await.unwrap()).await,
        "yes"
    );
    let mut poor = streamed();
    poor.principal.limits = vec![limit(Measure::Requests, 0)].into();
    let runs = [poor, streamed(), streamed()].map(|it| bench.pipeline.run(it));
    let mut outcomes = join_all(runs).await.into_iter();
    let refused = outcomes.next().unwrap().unwrap_err();
    assert!(matches!(refused.fault, Fault::RateLimited { .. }));
    for answer in outcomes {
        let answer = answer.unwrap();
        assert_eq!(answer.route.to_string(), "cache:exact");
        assert_eq!(text(answer).await, "yes");
    }
    assert_eq!(cloud.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_joins_pays_for_a_request() {
    let cloud = Fake::new(
        "fake",
        Trust::Public,
        Script::SaysAfter(Duration::from_millis(50), "yes"),
    );
    let quotas = purse();
    let bench = bench_counting(
        priced(snapshot(vec![cloud.clone()])),
        8,
        Some(Arc::new(quotas.clone())),
    );
    let asked = || {
        let mut asked = streamed();
        asked.principal.limits = vec![limit(Measure::OutputTokens, 1_000_000)].into();
        bench.pipeline.run(asked)
    };
    for answer in join_all([asked(), asked()]).await {
        text(answer.unwrap()).await;
    }
    let mut settled = quotas.settled();
    settled.sort_by_key(|used| used.output_tokens);
    let [joined, led] = settled[..] else {
        panic!("{settled:?}");
    };
    assert_eq!((joined.requests, joined.output_tokens), (1, 0));
    assert_eq!((led.requests, led.output_tokens), (1, 1));
    assert_eq!(cloud.calls().len(), 1);
    // Who may have none is refused, and the others are answered.
    let mut poor = streamed();
    poor.principal.limits = vec![limit(Measure::Requests, 0)].into();
    poor.request.messages = vec![Message::new(Role::User, "another")];
    let mut rich = poor.request.clone();
    rich.messages = poor.request.messages.clone();
    let rich = Parsed {
        request: rich,
        ..streamed()
    };
    let [rich, poor] = join_all([rich, poor].map(|it| bench.pipeline.run(it)))
        .await
        .try_into()
        .unwrap();
    assert_eq!(text(rich.unwrap()).await, "yes");
    assert!(matches!(poor.unwrap_err().fault, Fault::RateLimited { .. }));
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_not_quite_alike_go_alone() {
    type Change = fn(&mut Parsed);
    // What the second one is, beside the first; and whether it joins.
    let cases: [(Change, bool); 8] = [
        (|_| {}, true),
        // All at once is as good from a stream.
        (|it| it.request.delivery = Delivery::Whole, true),
        (|it| it.context.cache = CacheWish::Refresh, false),
        (|it| it.context.cache = CacheWish::Bypass, false),
        (|it| it.principal.team = "other".into(), false),
        (|it| it.request.sampling.seed = Some(1), false),
        (|it| it.context.priority = Priority::Batch, true),
        (
            |it| it.request.messages = vec![Message::new(Role::User, "mail bob@example.org")],
            false,
        ),
    ];
    for (at, (change, joins)) in cases.into_iter().enumerate() {
        let cloud = Fake::new(
            "fake",
            Trust::Public,
            Script::SaysAfter(Duration::from_millis(50), "yes"),
        );
        let bench = bench(vec![cloud.clone()], 8);
        let mut first = streamed();
        first.request.messages = vec![Message::new(Role::User, "mail ann@example.org")];
        let mut second = first_again(&first);
        change(&mut second);
        for answer in join_all([first, second].map(|it| bench.pipeline.run(it))).await {
            assert_eq!(text(answer.unwrap()).await, "yes");
        }
        let calls = cloud.calls().len();
        assert_eq!(calls, if joins { 1 } else { 2 }, "case {at}");
    }
}

fn first_again(first: &Parsed) -> Parsed {
    Parsed {
        request: first.request.clone(),
        principal: first.principal.clone(),
        context: first.context.clone(),
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_in_a_hurry_waits_for_no_batch_and_no_stream_for_a_whole_reply() {
    type Change = fn(&mut Parsed);
    let leaders: [Change; 2] = [
        |it| it.context.priority = Priority::Batch,
        |it| it.request.delivery = Delivery::Whole,
    ];
    for change in leaders {
        let cloud = Fake::new(
            "fake",
            Trust::Public,
            Script::SaysAfter(Duration::from_millis(50), "yes"),
        );
        let bench = bench(vec![cloud.clone()], 8);
        let mut first = streamed();
        change(&mut first);
        join_all([first, streamed()].map(|it| bench.pipeline.run(it))).await;
        assert_eq!(cloud.calls().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn one_who_reads_nothing_holds_nobody_up_within_what_is_held() {
    let backend = Stepped::new();
    let bench = stepped(&backend, 8);
    let say = backend.next();
    let events = events();
    let big = |count: usize| {
        let text = "x".repeat(1024 * 1024);
        (0..count).map(move |_| ChatEvent::Text {
            choice: 0,
            text: text.clone(),
        })
    };
    say.send(Ok(events[0].clone())).await.unwrap();
    for event in big(6) {
        say.send(Ok(event)).await.unwrap();
    }
    let answers = join_all((0..2).map(|_| bench.pipeline.run(streamed()))).await;
    let [mut slow, mut quick] = <[_; 2]>::try_from(answers)
        .unwrap()
        .map(|it| it.unwrap().stream);
    let mut read = 0;
    while let Some(event) = quick.next().now_or_never() {
        event.unwrap().unwrap();
        read += 1;
    }
    // Started, and four of a mebibyte: one more than is held.
    assert_eq!(read, 5);
    // Nobody joins what has no beginning any more.
    let other = backend.next();
    for event in &events {
        other.send(Ok(event.clone())).await.unwrap();
    }
    drop(other);
    assert_eq!(
        text(bench.pipeline.run(streamed()).await.unwrap()).await,
        WORDS.concat()
    );
    assert_eq!(backend.calls(), 2);
    // As the slow one reads on, or leaves, the quick one goes on.
    let mut waiting = quick.next();
    assert!(poll!(&mut waiting).is_pending());
    for _ in 0..2 {
        slow.next().await.unwrap().unwrap();
    }
    waiting.await.unwrap().unwrap();
    assert!(quick.next().now_or_never().is_none());
    drop(slow);
    for event in &events[5..] {
        say.send(Ok(event.clone())).await.unwrap();
    }
    drop(say);
    let rest: Vec<_> = quick.collect().await;
    assert!(
        rest.len() == 3 && rest.iter().all(Result::is_ok),
        "{}",
        rest.len()
    );
}

/// A cache that others keep, and that says how often it was asked.
#[derive(Default)]
struct Elsewhere {
    kept: Mutex<Option<Arc<Kept>>>,
    asked: AtomicUsize,
}

#[async_trait]
impl CacheStore for Elsewhere {
    fn find(&self, _: &CacheKey) -> Option<Arc<Kept>> {
        None
    }

    async fn fetch(&self, _: &CacheKey) -> Option<Arc<Kept>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.kept.lock().unwrap().clone()
    }

    fn keep(&self, _: CacheKey, kept: Arc<Kept>, _: Duration) {
        *self.kept.lock().unwrap() = Some(kept);
    }

    async fn forget(&self, _: &CacheKey) -> bool {
        self.kept.lock().unwrap().take().is_some()
    }

    async fn purge(&self, _: &Purge) -> Result<u64, CacheAway> {
        Err(CacheAway("away".into()))
    }

    async fn meant(
        &self,
        _: &Purge,
        _: Option<CacheKey>,
        _: usize,
    ) -> Result<Vec<(CacheKey, Arc<Kept>)>, CacheAway> {
        Err(CacheAway("away".into()))
    }
}

#[tokio::test(start_paused = true)]
async fn what_others_keep_is_looked_for_once_and_answers_all_who_ask_at_once() {
    let cloud = Fake::new("fake", Trust::Public, Script::Says("yes"));
    let mut bench = bench(vec![cloud.clone()], 64);
    let elsewhere = Arc::<Elsewhere>::default();
    let (sent, records) = mpsc::channel(64);
    let (pipeline, recorder) = Pipeline::new(Parts {
        snapshot: snapshot(vec![cloud.clone()]),
        cache: elsewhere.clone(),
        reuse: None,
        shadows: None,
        keys: Arc::new(NoKeys),
        quotas: None,
        queueing: QueueRules::default(),
        sinks: vec![Arc::new(Sent(sent))],
        exchanges_max: 64,
    });
    bench._recorder.spawn(recorder.run());
    (bench.pipeline, bench.records) = (pipeline, records);
    let asked = || elsewhere.asked.load(Ordering::Relaxed);

    let first = bench.pipeline.run(streamed()).await.unwrap();
    assert_eq!(first.route.to_string(), "cloud:fake");
    assert_eq!(text(first).await, "yes");
    assert_eq!(
        bench.records.recv().await.unwrap().cache,
        CacheOutcome::Missed
    );
    assert_eq!(asked(), 1);
    let answers = join_all((0..20).map(|_| bench.pipeline.run(streamed()))).await;
    for answer in answers {
        let answer = answer.unwrap();
        assert_eq!(answer.route.to_string(), "cache:exact");
        assert_eq!(text(answer).await, "yes");
        assert_eq!(
            bench.records.recv().await.unwrap().cache,
            CacheOutcome::HitExact
        );
    }
    assert_eq!((asked(), cloud.calls().len()), (2, 1));

    // Who wants a fresh one does not look there.
    let mut fresh = streamed();
    fresh.context.cache = CacheWish::Refresh;
    let fresh = bench.pipeline.run(fresh).await.unwrap();
    assert_eq!(fresh.route.to_string(), "cloud:fake");
    assert_eq!(asked(), 2);
    assert!(bench.pipeline.purge(&Purge::All).await.is_err());
}
