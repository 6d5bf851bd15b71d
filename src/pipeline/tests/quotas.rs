//! What exchanges take of their callers' limits, and what they leave.

use policy::{PriceBook, PriceEntry};

use super::*;

/// One count for each measure, and what was said of each grant.
#[derive(Default)]
struct Counts {
    used: Mutex<HashMap<Measure, u64>>,
    asked: Mutex<Vec<Use>>,
    settled: Mutex<Vec<Use>>,
}

#[derive(Clone, Default)]
pub(super) struct Purse(Arc<Counts>);

struct Taken(Purse, Vec<(Measure, u64)>);

impl Purse {
    fn has_left(&self, limit: &Limit) -> u64 {
        let used = self.0.used.lock().unwrap();
        limit.amount - used.get(&limit.measure).copied().unwrap_or(0)
    }

    pub(super) fn settled(&self) -> Vec<Use> {
        std::mem::take(&mut self.0.settled.lock().unwrap())
    }

    fn asked(&self) -> Vec<Use> {
        std::mem::take(&mut self.0.asked.lock().unwrap())
    }
}

#[async_trait]
impl Quotas for Purse {
    async fn take(&self, limits: &[Limit], worst: Use) -> Result<Grant, Exhausted> {
        self.0.asked.lock().unwrap().push(worst);
        for limit in limits {
            if worst.of(limit.measure) > self.has_left(limit) {
                return Err(Exhausted {
                    limit: limit.clone(),
                    retry_after: Some(Duration::from_secs(7)),
                    why: Shortage::Amount,
                });
            }
        }
        let parts = limits.iter();
        let parts = parts.map(|limit| (limit.measure, worst.of(limit.measure)));
        let parts: Vec<_> = parts.collect();
        for (measure, units) in &parts {
            *self.0.used.lock().unwrap().entry(*measure).or_default() += units;
        }
        let left = self.left(limits);
        Ok(Grant::new(Box::new(Taken(self.clone(), parts)), left))
    }

    fn left(&self, limits: &[Limit]) -> Vec<Left> {
        let left = limits.iter().map(|limit| Left {
            amount: self.has_left(limit),
            whole_after: Some(Duration::from_secs(60)),
        });
        left.collect()
    }
}

impl Returned for Taken {
    fn settle(&self, used: Use) {
        self.0.0.settled.lock().unwrap().push(used);
        let mut counts = self.0.0.used.lock().unwrap();
        for (measure, units) in &self.1 {
            let count = counts.entry(*measure).or_default();
            *count = *count - units + used.of(*measure);
        }
    }
}

pub(super) fn purse() -> Purse {
    Purse::default()
}

pub(super) fn limit(measure: Measure, amount: u64) -> Limit {
    Limit {
        scope: Scope::Key("k".into()),
        measure,
        amount,
        per: Period::Day,
        burst: amount,
        when_spent: WhenSpent::Refuse,
        warn_at: Thresholds::default(),
    }
}

/// A dollar for a million tokens in, ten for a million out; of `big` with `fake` alone.
pub(super) fn priced(snapshot: Snapshot) -> Snapshot {
    let mut book = PriceBook::default();
    book.add(&[PriceEntry {
        provider: "fake".into(),
        names: vec!["big".into()],
        input: 1.0,
        output: 10.0,
        ..PriceEntry::default()
    }])
    .unwrap();
    snapshot.with_prices(Prices {
        book: Arc::new(book),
        providers: BTreeMap::new(),
        reference: None,
    })
}

fn asked(model: &str, limits: &[Limit]) -> Parsed {
    let mut parsed = parsed(model, "a question of some length");
    parsed.principal.limits = limits.into();
    parsed
}

/// `asked` has 25 bytes: 9 tokens where a limit must hold and 13 where money must, and 32 beside.
const TOKENS: u64 = 41;
const PAID_TOKENS: i64 = 45;

fn two(script: Script) -> (Arc<Fake>, Arc<Fake>) {
    let cloud = Fake::new("fake", Trust::Public, script);
    (
        cloud,
        Fake::new("local", Trust::Device, Script::Says("here")),
    )
}

fn counting(purse: &Purse, backends: Vec<Arc<Fake>>) -> Bench {
    bench_counting(priced(snapshot(backends)), 4, Some(Arc::new(purse.clone())))
}

fn usage(input: u64, output: u64, cost: i64) -> Use {
    Use {
        requests: 1,
        input_tokens: input,
        output_tokens: output,
        cost: MicroUsd(cost),
    }
}

#[tokio::test(start_paused = true)]
async fn the_worst_is_taken_and_what_it_came_to_stays() {
    let (cloud, local) = two(Script::Says("yes"));
    let purse = Purse::default();
    let bench = counting(&purse, vec![cloud, local]);
    let limits = [limit(Measure::Cost, 10_000), limit(Measure::Tokens, 1_000)];
    let mut request = asked("fake/big", &limits);
    request.request.output_tokens_max = Some(Tokens(100));
    let answer = bench.pipeline.run(request).await.unwrap();
    assert_eq!(purse.asked(), [usage(TOKENS, 100, PAID_TOKENS + 1_000)]);
    assert_eq!(purse.has_left(&limits[0]), 10_000 - 1_045);
    let tokens = answer.allowance.tokens.unwrap();
    assert_eq!((tokens.limit, tokens.remaining), (1_000, 1_000 - 141));
    assert_eq!(text(answer).await, "yes");
    // One token was said, and the provider counted none of the prompt's.
    assert_eq!(purse.settled(), [usage(0, 1, 10)]);
    assert_eq!(purse.has_left(&limits[0]), 9_990);
}

#[tokio::test(start_paused = true)]
async fn a_reply_without_a_bound_is_bounded_by_what_is_left() {
    for (limits, bound) in [
        (vec![limit(Measure::Cost, 5_000)], 495),
        (vec![limit(Measure::Tokens, 1_041)], 1_000),
        (
            vec![
                limit(Measure::OutputTokens, 700),
                limit(Measure::Cost, 9_000),
            ],
            700,
        ),
        (vec![limit(Measure::Cost, 1_000_000)], 16_384),
    ] {
        let (cloud, local) = two(Script::Says("yes"));
        let purse = Purse::default();
        let bench = counting(&purse, vec![cloud, local]);
        let answer = bench
            .pipeline
            .run(asked("fake/big", &limits))
            .await
            .unwrap();
        assert_eq!(purse.asked()[0].output_tokens, bound, "{limits:?}");
        drop(answer);
    }
    // What counts requests alone bounds no reply.
    let (cloud, local) = two(Script::Says("yes"));
    let purse = Purse::default();
    let bench = counting(&purse, vec![cloud, local]);
    let limits = [limit(Measure::Requests, 5)];
    drop(
        bench
            .pipeline
            .run(asked("fake/big", &limits))
            .await
            .unwrap(),
    );
    assert_eq!(purse.asked()[0].output_tokens, 0);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_once_the_budget_is_spent() {
    let (cloud, local) = two(Script::Says("yes"));
    let purse = Purse::default();
    let mut bench = counting(&purse, vec![cloud.clone(), local.clone()]);
    for model in ["auto", "fake/big"] {
        let limits = [limit(Measure::Cost, 2_000)];
        let refused = bench.pipeline.run(asked(model, &limits)).await;
        let Err(refusal) = refused else {
            panic!("it is refused");
        };
        assert_eq!(refusal.fault, Fault::BudgetSpent);
        let record = bench.records.recv().await.unwrap();
        assert_eq!(record.outcome, Outcome::Refused("budget_spent"));
    }
    assert!(cloud.calls().is_empty() && local.calls().is_empty());
    assert!(purse.settled().is_empty());
    // What answers here costs nothing.
    let limits = [limit(Measure::Cost, 0)];
    let answer = bench.pipeline.run(asked("local", &limits)).await.unwrap();
    assert_eq!(text(answer).await, "here");
}

#[tokio::test(start_paused = true)]
async fn what_costs_nothing_stands_in_where_the_operator_says_so() {
    let (cloud, local) = two(Script::Says("yes"));
    let purse = Purse::default();
    let bench = counting(&purse, vec![cloud.clone(), local]);
    let limits = [Limit {
        when_spent: WhenSpent::Free,
        ..limit(Measure::Cost, 2_000)
    }];
    let answer = bench.pipeline.run(asked("auto", &limits)).await.unwrap();
    assert_eq!(answer.route.to_string(), "local:tiny");
    assert!(
        answer.reason.ends_with("; budget spent"),
        "{}",
        answer.reason
    );
    assert_eq!(text(answer).await, "here");
    assert!(cloud.calls().is_empty());
    assert!(
        bench.cache.0.lock().unwrap().is_empty(),
        "a stand-in's reply is not kept"
    );
    // Who names a model that costs gets no other.
    let Err(refusal) = bench.pipeline.run(asked("fake/big", &limits)).await else {
        panic!("it is refused");
    };
    assert_eq!(refusal.fault, Fault::BudgetSpent);
}

#[tokio::test(start_paused = true)]
async fn a_kept_reply_costs_its_request() {
    let (cloud, local) = two(Script::Says("yes"));
    let purse = Purse::default();
    let bench = counting(&purse, vec![cloud, local]);
    let limits = [limit(Measure::Requests, 2), limit(Measure::Cost, 1_000_000)];
    for _ in 0..2 {
        let answer = bench.pipeline.run(asked("auto", &limits)).await.unwrap();
        assert_eq!(text(answer).await, "yes");
    }
    assert_eq!(purse.settled(), [usage(0, 1, 10), usage(0, 0, 0)]);
    let Err(refusal) = bench.pipeline.run(asked("auto", &limits)).await else {
        panic!("it is refused");
    };
    let retry_after = Duration::from_secs(7);
    assert_eq!(refusal.fault, Fault::RateLimited { retry_after });
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_pays_for_what_was_said() {
    let (cloud, local) = two(Script::Echoes);
    let purse = Purse::default();
    let bench = counting(&purse, vec![cloud, local]);
    let limits = [
        limit(Measure::Cost, 100_000),
        limit(Measure::Concurrency, 1),
    ];
    let mut answer = bench.pipeline.run(asked("auto", &limits)).await.unwrap();
    for _ in 0..6 {
        answer.stream.next().await.unwrap().unwrap();
    }
    assert_eq!(purse.has_left(&limits[1]), 0);
    drop(answer);
    let settled = purse.settled();
    let [settled] = settled[..] else {
        panic!("{settled:?}");
    };
    // Counted here: the prompt, and the letters that were said.
    assert!(
        settled.input_tokens >= 5 && settled.output_tokens >= 1,
        "{settled:?}"
    );
    let (input, output) = (settled.input_tokens, settled.output_tokens);
    assert_eq!(settled.cost.0.unsigned_abs(), input + 10 * output);
}

/// Who leaves a question about a picture pays for the picture, which no provider has counted by then.
#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_pays_for_what_it_showed() {
    let (cloud, local) = two(Script::Echoes);
    let purse = Purse::default();
    let bench = counting(&purse, vec![cloud, local]);
    let picture = Part::Image(Image {
        url: "data:image/png;base64,iVBORw0KGgo=".into(),
        detail: None,
    });
    for (content, least) in [
        (
            vec![Part::Text("what is it?".into()), picture.clone()],
            3_001,
        ),
        (vec![picture], 3_000),
    ] {
        let mut asked = asked("fake/big", &[limit(Measure::Cost, 1_000_000_000)]);
        asked.request.messages[0].content = content;
        let mut answer = bench.pipeline.run(asked).await.unwrap();
        drop(answer.stream.next().await);
        drop(answer);
        let settled = purse.settled();
        let input = settled.last().unwrap().input_tokens;
        assert!((least..least + 100).contains(&input), "{settled:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_fails_gives_all_back_but_its_request() {
    let failing = Script::Fails(BackendError::Failed { status: 500 });
    let cloud = Fake::new("fake", Trust::Public, failing);
    let purse = Purse::default();
    let bench = counting(&purse, vec![cloud]);
    let limits = [limit(Measure::Cost, 100_000)];
    assert!(
        bench
            .pipeline
            .run(asked("fake/big", &limits))
            .await
            .is_err()
    );
    assert_eq!(purse.settled(), [usage(0, 0, 0)]);
}

#[tokio::test(start_paused = true)]
async fn nobody_without_a_price_is_asked_for_who_has_a_budget() {
    let cloud = Fake::new("other", Trust::Public, Script::Says("yes"));
    let purse = Purse::default();
    let bench = counting(&purse, vec![cloud.clone()]);
    let limits = [limit(Measure::Cost, 1_000_000)];
    let Err(refusal) = bench.pipeline.run(asked("other/big", &limits)).await else {
        panic!("it is refused");
    };
    let Fault::NoCandidate { reasons } = refusal.fault else {
        panic!("{:?}", refusal.fault);
    };
    assert!(reasons[0].contains("no price is known"), "{reasons:?}");
    assert!(cloud.calls().is_empty());
    let limits = [limit(Measure::Tokens, 1_000_000)];
    assert!(
        bench
            .pipeline
            .run(asked("other/big", &limits))
            .await
            .is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_may_ask_more_than_one_takes_for_all_of_them() {
    for (manners, times) in [("", 1), ("hedge = true", 2)] {
        let routes =
            format!("default = 'all'\n[outcomes.all]\ncandidates = ['fake', 'local']\n{manners}\n");
        let (cloud, local) = two(Script::Says("yes"));
        let purse = Purse::default();
        let backends: Vec<Arc<dyn Backend>> = vec![cloud, local];
        let snapshot = priced(snapshot_of(&routes, backends));
        let bench = bench_counting(snapshot, 4, Some(Arc::new(purse.clone())));
        let mut request = asked("auto", &[limit(Measure::Cost, 1_000_000)]);
        request.request.output_tokens_max = Some(Tokens(100));
        drop(bench.pipeline.run(request).await.unwrap());
        let cost = times * (PAID_TOKENS + 1_000);
        assert_eq!(purse.asked()[0].cost, MicroUsd(cost), "{manners}");
    }
}

#[tokio::test(start_paused = true)]
async fn embeddings_take_their_tokens_and_what_they_cost() {
    let (cloud, _) = two(Script::Says("yes"));
    let purse = Purse::default();
    let bench = counting(&purse, vec![cloud]);
    let mut principal = Principal::anyone();
    principal.limits = [
        limit(Measure::Cost, 1_000),
        limit(Measure::InputTokens, 1_000),
    ]
    .into();
    let request = EmbedRequest {
        model: "fake/big".into(),
        inputs: vec![EmbedInput::Text("twelve bytes".into())],
        dimensions: None,
        format: VectorFormat::default(),
    };
    let embedded = bench
        .pipeline
        .embed(&principal, "r-1".into(), &[], request)
        .await;
    assert!(embedded.is_ok());
    assert_eq!(purse.asked(), [usage(36, 0, 38)]);
    assert_eq!(purse.settled(), [usage(7, 0, 7)]);
}

#[tokio::test(start_paused = true)]
async fn what_this_machine_said_counts_also_for_a_caller_that_leaves() {
    let local = Fake::new("local", Trust::Device, Script::Echoes);
    let purse = Purse::default();
    let bench = counting(&purse, vec![local]);
    let limits = [limit(Measure::Tokens, 100_000)];
    let mut answer = bench.pipeline.run(asked("local", &limits)).await.unwrap();
    for _ in 0..6 {
        answer.stream.next().await.unwrap().unwrap();
    }
    drop(answer);
    let settled = purse.settled();
    assert!(
        settled[0].input_tokens >= 5 && settled[0].output_tokens >= 1,
        "{settled:?}"
    );
    assert_eq!(settled[0].cost, MicroUsd(0));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_before_the_answer_pays_for_the_prompt() {
    let cloud = Fake::new("fake", Trust::Public, Script::Hangs);
    let purse = Purse::default();
    let bench = counting(&purse, vec![cloud]);
    let limits = [limit(Measure::Cost, 1_000_000)];
    let leaving = bench.pipeline.run(asked("fake/big", &limits));
    let left = tokio::time::timeout(Duration::from_secs(1), leaving).await;
    assert!(left.is_err());
    let settled = purse.settled();
    assert!(settled[0].input_tokens >= 5, "{settled:?}");
    assert_eq!(settled[0].cost.0.unsigned_abs(), settled[0].input_tokens);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_a_budget_cut_short_is_not_kept_for_others() {
    let (cloud, local) = two(Script::Says("yes"));
    let purse = Purse::default();
    let bench = counting(&purse, vec![cloud, local]);
    let limits = [limit(Measure::Cost, 9_000)];
    let answer = bench.pipeline.run(asked("auto", &limits)).await.unwrap();
    assert_eq!(text(answer).await, "yes");
    assert!(bench.cache.0.lock().unwrap().is_empty());
}
