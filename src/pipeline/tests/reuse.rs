//! Replies that answer other requests: when they do, when they must not, and what is learned.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use policy::ReuseScope;
use policy::reuse::{AcceptanceRules, Scorer};
use tokio::time::Instant;

use super::quotas::priced;
use super::*;

/// Words by the hash of each, so that texts are near whose words are.
struct WordBag {
    card: EmbedderCard,
    does: Mutex<Does>,
    calls: AtomicUsize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    Counts,
    Hangs,
    Fails,
    Raves,
    IsDown,
    /// Another number of vectors than of texts.
    Miscounts,
}

const DIMENSIONS: usize = 64;

impl WordBag {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            card: EmbedderCard {
                name: "bag".into(),
                dimensions: DIMENSIONS as u32,
                input_tokens_max: 64,
            },
            does: Mutex::new(Does::Counts),
            calls: AtomicUsize::new(0),
        })
    }
}

fn vector(text: &str) -> Vec<f32> {
    let mut vector = vec![0.0_f32; DIMENSIONS];
    let words = text.split(|c: char| !c.is_alphanumeric());
    for word in words.filter(|word| !word.is_empty()) {
        let hash = word.to_lowercase().bytes().fold(5381_usize, |hash, byte| {
            hash.wrapping_mul(33) ^ usize::from(byte)
        });
        vector[hash % DIMENSIONS] += 1.0;
    }
    vector
}

#[async_trait]
impl Embedder for WordBag {
    fn card(&self) -> &EmbedderCard {
        &self.card
    }

    fn health(&self) -> Health {
        match *self.does.lock().unwrap() {
            Does::IsDown => Health::of(HealthState::Down, None),
            _ => Health::READY,
        }
    }

    async fn embed(&self, inputs: Vec<EmbedInput>) -> Result<Embeddings, BackendError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let does = *self.does.lock().unwrap();
        let vectors = inputs.iter().map(|input| match (does, input) {
            (Does::Raves, _) => vec![f32::NAN; DIMENSIONS],
            (_, EmbedInput::Text(text)) => vector(text),
            (_, EmbedInput::Tokens(_)) => unreachable!("texts are embedded"),
        });
        let mut vectors: Vec<_> = vectors.collect();
        match does {
            Does::Hangs => std::future::pending().await,
            Does::Fails => return Err(BackendError::Interrupted),
            Does::Miscounts => vectors.push(vec![1.0; DIMENSIONS]),
            Does::Counts | Does::Raves | Does::IsDown => {}
        }
        Ok(Embeddings {
            vectors,
            prompt_tokens: 1,
        })
    }
}

/// All entries in a row.
#[derive(Default)]
struct Row {
    entries: Mutex<Vec<Arc<Entry>>>,
    state: Mutex<Option<Vec<u8>>>,
    hangs: Mutex<bool>,
    /// Answers with what is of other compartments too.
    is_broken: Mutex<bool>,
}

#[async_trait]
impl ReplyIndex for Row {
    async fn nearest(
        &self,
        compartment: &Compartment,
        vector: &[f32],
        count: usize,
    ) -> Vec<Neighbour> {
        if *self.hangs.lock().unwrap() {
            std::future::pending::<()>().await;
        }
        let is_broken = *self.is_broken.lock().unwrap();
        let entries = self.entries.lock().unwrap();
        let near = entries
            .iter()
            .filter(|it| is_broken || it.compartment == *compartment);
        let mut near: Vec<_> = near
            .map(|entry| Neighbour {
                similarity: entry.vector.iter().zip(vector).map(|(a, b)| a * b).sum(),
                entry: Arc::clone(entry),
            })
            .collect();
        near.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
        near.truncate(count);
        near
    }

    fn keep(&self, entry: Entry) {
        let mut entries = self.entries.lock().unwrap();
        entries.retain(|known| known.id != entry.id);
        entries.push(Arc::new(entry));
    }

    fn learn(&self, id: EntryId, evidence: Evidence) {
        for entry in self.entries.lock().unwrap().iter_mut() {
            if entry.id == id {
                *entry = Arc::new(Entry {
                    evidence: evidence.clone(),
                    ..Entry::clone(entry)
                });
            }
        }
    }

    fn find(&self, id: EntryId) -> Option<Arc<Entry>> {
        let entries = self.entries.lock().unwrap();
        entries.iter().find(|entry| entry.id == id).cloned()
    }

    async fn purge(&self, what: &Purge) -> Result<u64, CacheAway> {
        let mut entries = self.entries.lock().unwrap();
        let before = entries.len();
        entries.retain(|entry| !what.takes(entry, SystemTime::now()));
        Ok((before - entries.len()) as u64)
    }

    fn meant(&self, what: &Purge, after: Option<EntryId>, count: usize) -> Vec<Arc<Entry>> {
        let entries = self.entries.lock().unwrap();
        let meant = entries.iter().filter(|entry| {
            after.is_none_or(|after| entry.id > after) && what.takes(entry, SystemTime::now())
        });
        let mut meant: Vec<_> = meant.cloned().collect();
        meant.sort_unstable_by_key(|entry| entry.id);
        meant.truncate(count);
        meant
    }

    fn stats(&self) -> ReuseStats {
        ReuseStats {
            entries: self.entries.lock().unwrap().len() as u64,
            ..ReuseStats::default()
        }
    }

    fn load_state(&self) -> Option<Vec<u8>> {
        self.state.lock().unwrap().clone()
    }

    fn save_state(&self, state: Vec<u8>) {
        *self.state.lock().unwrap() = Some(state);
    }
}

/// Answers as it is told to, and counts.
struct Oracle {
    card: BackendCard,
    says: Mutex<Reply>,
    calls: AtomicUsize,
}

fn saying(text: &str) -> Reply {
    Reply {
        started: Started {
            model: "big".into(),
            reply_id: None,
            fingerprint: None,
        },
        choices: vec![ReplyChoice {
            choice: 0,
            pieces: vec![ReplyPiece::Text(text.to_owned())],
            tool_calls: Vec::new(),
            stop_string: None,
            logprobs: Vec::new(),
            reason: FinishReason::Stop,
        }],
        usage: Some(Usage {
            prompt_tokens: Tokens(1_000),
            completion_tokens: Tokens(100),
            ..Usage::default()
        }),
        written: None,
    }
}

#[async_trait]
impl Backend for Oracle {
    fn card(&self) -> &BackendCard {
        &self.card
    }

    fn health(&self) -> Health {
        Health::READY
    }

    async fn chat(&self, _: Outbound) -> Result<ChatStream, BackendError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Ok(replay(&self.says.lock().unwrap()))
    }
}

struct Rig {
    pipeline: Pipeline,
    oracle: Arc<Oracle>,
    bag: Arc<WordBag>,
    row: Arc<Row>,
    cache: Arc<MapCache>,
    records: mpsc::Receiver<ExchangeRecord>,
    tasks: tokio::task::JoinSet<()>,
}

fn rules(bag: &Arc<WordBag>) -> ReuseRules {
    ReuseRules {
        encoder: Arc::new(CacheEncoder::new(bag.clone())),
        acceptance: AcceptanceRules {
            // As far as a guard lets it.
            max_wrong_rate: 1.0,
            shadow_share: 0.0,
        },
        scope: ReuseScope::Team,
        writers_min: 3,
        is_dry: false,
        ttl_by_class: BTreeMap::new(),
        look_up_max: Duration::from_millis(50),
        hit_pad: Duration::ZERO,
    }
}

impl Rig {
    fn new(change: impl Fn(&mut ReuseRules)) -> Self {
        Self::with(Arc::default(), change)
    }

    fn with(row: Arc<Row>, change: impl Fn(&mut ReuseRules)) -> Self {
        Self::scored(Scorer::bundled().without_encoder(), row, change)
    }

    /// What is near has a say.
    fn with_company(change: impl Fn(&mut ReuseRules)) -> Self {
        Self::scored(Scorer::bundled(), Arc::default(), change)
    }

    fn scored(scorer: Scorer, row: Arc<Row>, change: impl Fn(&mut ReuseRules)) -> Self {
        let bag = WordBag::new();
        let oracle = Arc::new(Oracle {
            card: Fake::new("fake", Trust::Public, Script::Empty).card.clone(),
            says: Mutex::new(saying("Paris is the capital of France.")),
            calls: AtomicUsize::new(0),
        });
        let mut rules = rules(&bag);
        change(&mut rules);
        let cache = Arc::new(MapCache::default());
        let (sent, records) = mpsc::channel(64);
        let (reuse, learner) = Reuse::new(row.clone(), scorer);
        let snapshot = priced(snapshot_of(ROUTES, vec![oracle.clone()]));
        let (pipeline, recorder) = Pipeline::new(Parts {
            snapshot: snapshot.with_reuse(Some(rules)),
            cache: cache.clone(),
            reuse: Some(reuse),
            shadows: None,
            keys: Arc::new(NoKeys),
            quotas: None,
            queueing: QueueRules::default(),
            sinks: vec![Arc::new(Sent(sent))],
            exchanges_max: 8,
        });
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(recorder.run());
        tasks.spawn(learner.run());
        Self {
            pipeline,
            oracle,
            bag,
            row,
            cache,
            records,
            tasks,
        }
    }

    fn says(&self, text: &str) {
        *self.oracle.says.lock().unwrap() = saying(text);
    }

    fn calls(&self) -> usize {
        self.oracle.calls.load(Ordering::Relaxed)
    }

    /// Where the answer is from, and what it says.
    async fn ask(&self, parsed: Parsed) -> (String, String) {
        let answer = self.pipeline.run(parsed).await.unwrap();
        let cache = answer.cache.to_string();
        let said = text(answer).await;
        // What is learned of it is learned by then.
        tokio::time::sleep(Duration::from_millis(1)).await;
        (cache, said)
    }

    async fn asks(&self, question: &str) -> String {
        self.ask(parsed("auto", question)).await.0
    }

    fn entries(&self) -> usize {
        self.row.entries.lock().unwrap().len()
    }
}

const QUESTION: &str = "What is the capital of France?";
const SAME: &str = "what is the capital of france";
const OTHER: &str = "What is the capital of Portugal?";

fn is_semantic(cache: &str) -> bool {
    cache.starts_with("semantic; similarity=")
}

#[tokio::test(start_paused = true)]
async fn the_same_question_in_other_words_costs_nothing() {
    let mut rig = Rig::new(|_| {});
    assert_eq!(rig.asks(QUESTION).await, "miss");
    let answer = rig.pipeline.run(parsed("auto", SAME)).await.unwrap();
    assert_eq!(answer.route.to_string(), "cache:semantic");
    assert_eq!(answer.reason, "same-question");
    assert!(is_semantic(&answer.cache.to_string()), "{}", answer.cache);
    assert_eq!(text(answer).await, "Paris is the capital of France.");
    assert_eq!(rig.calls(), 1);
    let paid = rig.records.recv().await.unwrap();
    assert_eq!((paid.cost, paid.saved), (Some(MicroUsd(2_000)), None));
    let spared = rig.records.recv().await.unwrap();
    assert_eq!(spared.cache, CacheOutcome::HitSemantic);
    assert_eq!(
        (spared.cost, spared.saved),
        (Some(MicroUsd(0)), Some(MicroUsd(2_000)))
    );
    assert_eq!(spared.usage.unwrap().completion_tokens, Tokens(100));
    // The same again is nobody else's question.
    assert!(rig.asks(QUESTION).await.starts_with("exact; age="));
}

/// Seen: those who read a hit along were told to have been spared what the hit cost, which is nothing.
#[tokio::test(start_paused = true)]
async fn who_reads_a_hit_along_is_spared_what_its_reply_cost() {
    let mut rig = Rig::new(|it| {
        it.scope = ReuseScope::Shared;
        it.hit_pad = Duration::from_millis(200);
    });
    rig.asks(QUESTION).await;
    rig.records.recv().await.unwrap();
    let alike = futures::future::join_all((0..3).map(|_| rig.asks(SAME))).await;
    assert!(alike.iter().all(|cache| is_semantic(cache)), "{alike:?}");
    let (_, counts) = rig.pipeline.reuse_stats().unwrap();
    assert_eq!(counts.served, 1, "they were one look-up");
    let made = Counterfactual {
        cost: MicroUsd(2_000),
        basis: Basis::Made,
    };
    for _ in 0..3 {
        let record = rig.records.recv().await.unwrap();
        assert_eq!(record.cache, CacheOutcome::HitSemantic);
        assert_eq!(record.cost, Some(MicroUsd(0)));
        assert_eq!(record.saved, Some(MicroUsd(2_000)));
        assert_eq!(record.counterfactual, Some(made));
        assert_eq!(record.usage.unwrap().prompt_tokens, Tokens(1_000));
    }
}

/// Seen: what such a reply saved when it was used again was in no figure.
#[tokio::test(start_paused = true)]
async fn a_reply_whose_tokens_nobody_told_is_counted_for_who_gets_it_again() {
    let mut rig = Rig::new(|_| {});
    rig.oracle.says.lock().unwrap().usage = None;
    assert_eq!(rig.asks(QUESTION).await, "miss");
    let paid = rig.records.recv().await.unwrap();
    let (usage, cost) = (paid.usage.unwrap(), paid.cost.unwrap());
    assert!(paid.is_usage_counted && usage.completion_tokens > Tokens(0) && cost > MicroUsd(0));
    for (text, outcome) in [
        (QUESTION, CacheOutcome::HitExact),
        (SAME, CacheOutcome::HitSemantic),
    ] {
        rig.asks(text).await;
        let spared = rig.records.recv().await.unwrap();
        let counted = spared.usage.unwrap();
        assert_eq!(
            (spared.cache, spared.cost, spared.saved),
            (outcome, Some(MicroUsd(0)), Some(cost))
        );
        assert!(spared.is_usage_counted);
        assert_eq!(counted.completion_tokens, usage.completion_tokens);
        let made = Basis::Made;
        assert_eq!(
            spared.counterfactual,
            Some(Counterfactual { cost, basis: made })
        );
        if text == QUESTION {
            assert_eq!(counted.prompt_tokens, usage.prompt_tokens);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_guards_that_refuse_are_counted() {
    let rig = Rig::new(|_| {});
    rig.asks("Is the shop open on 24 December at 5 pm?").await;
    rig.asks("Is the shop open on 24 December at 6 pm?").await;
    let (_, counts) = rig.pipeline.reuse_stats().unwrap();
    let refused: Vec<_> = counts
        .refused_by()
        .filter(|(_, count)| *count > 0)
        .collect();
    assert_eq!((refused, counts.missed), (vec![("number", 1)], 2));
}

#[tokio::test(start_paused = true)]
async fn another_question_is_not_answered_with_it() {
    let rig = Rig::new(|_| {});
    rig.asks("Is the shop open on 24 December at 5 pm?").await;
    for other in [
        "Is the shop open on 25 December at 5 pm?",
        "Is the shop closed on 24 December at 5 pm?",
        "Isn't the shop open on 24 December at 5 pm?",
        OTHER,
    ] {
        assert_eq!(rig.asks(other).await, "miss", "{other}");
    }
    assert_eq!(rig.calls(), 5);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_found_outside_the_compartment() {
    type Change = fn(&mut Parsed);
    let system = |it: &mut Parsed, text: &str| {
        it.request
            .messages
            .insert(0, Message::new(Role::System, text));
    };
    let _ = system;
    let changes: [Change; 9] = [
        |it| it.principal.team = "blue".into(),
        |it| it.request.model = "fake/big".into(),
        |it| {
            it.request
                .messages
                .insert(0, Message::new(Role::System, "in French"))
        },
        |it| {
            it.request
                .messages
                .insert(0, Message::new(Role::Assistant, "hi"))
        },
        |it| {
            it.request.tools.push(Tool {
                name: "f".into(),
                description: None,
                parameters: serde_json::json!({}),
                extra: Extra::new(),
            });
        },
        |it| it.request.format = OutputFormat::JsonObject,
        |it| it.request.output_tokens_max = Some(Tokens(3)),
        |it| it.request.sampling.temperature = Some(0.0),
        |it| it.context.headers = vec![("x-tier".into(), "tin".into())],
    ];
    for broken in [false, true] {
        for (at, change) in changes.iter().enumerate() {
            let rig = Rig::new(|_| {});
            *rig.row.is_broken.lock().unwrap() = broken;
            rig.asks(QUESTION).await;
            let mut other = parsed("auto", SAME);
            change(&mut other);
            let (cache, _) = rig.ask(other).await;
            assert_eq!(cache, "miss", "change {at}, broken index: {broken}");
            assert_eq!(rig.calls(), 2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_want_it_fresh_get_it_fresh() {
    type Change = fn(&mut Parsed);
    // What it is beside the same question; what the cache has to do with it; whether it is kept.
    let changes: [(Change, &str, bool); 4] = [
        (|it| it.context.cache = CacheWish::Refresh, "miss", true),
        (|it| it.context.cache = CacheWish::Bypass, "bypass", false),
        (
            |it| it.request.sampling.temperature = Some(1.5),
            "miss",
            false,
        ),
        (|it| it.request.sampling.seed = Some(7), "miss", false),
    ];
    for (change, told, is_kept) in changes {
        let rig = Rig::new(|_| {});
        rig.asks(QUESTION).await;
        let mut fresh = parsed("auto", SAME);
        change(&mut fresh);
        assert_eq!(rig.ask(fresh).await.0, told);
        assert_eq!(
            (rig.calls(), rig.entries()),
            (2, if is_kept { 2 } else { 1 })
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_changes_by_itself_and_what_is_nothing_is_not_kept() {
    let rig = Rig::new(|_| {});
    let long = "word ".repeat(200 * 1024);
    for question in [
        "What is the weather in Paris today?",
        "What's the latest news?",
        "",
        " \n\t ",
        "🙂🙂",
        "?!",
        &long,
    ] {
        assert_eq!(rig.asks(question).await, "miss");
        assert_eq!(rig.entries(), 0, "{} bytes", question.len());
    }
    assert_eq!(rig.bag.calls.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn replies_that_are_no_answers_are_not_kept_for_others() {
    type Change = fn(&mut Reply);
    let changes: [Change; 5] = [
        |it| it.choices[0].reason = FinishReason::Length,
        |it| it.choices[0].reason = FinishReason::ContentFilter,
        |it| it.choices[0].pieces = vec![ReplyPiece::Text(" ".into())],
        |it| {
            it.choices[0].reason = FinishReason::ToolCalls;
            it.choices[0].tool_calls.push(ToolCall {
                id: "c".into(),
                name: "f".into(),
                arguments: "{}".into(),
                seal: None,
            });
        },
        // Larger than is kept at all.
        |it| it.choices[0].pieces = vec![ReplyPiece::Text("x".repeat(2_000))],
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let rig = Rig::new(|_| {});
        change(&mut rig.oracle.says.lock().unwrap());
        rig.asks(QUESTION).await;
        assert_eq!(rig.entries(), 0, "change {at}");
        assert_eq!(rig.asks(SAME).await, "miss", "change {at}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_encoder_is_a_miss_and_no_slower_than_it_may_be() {
    for does in [
        Does::Hangs,
        Does::Fails,
        Does::Raves,
        Does::IsDown,
        Does::Miscounts,
    ] {
        let rig = Rig::new(|_| {});
        rig.asks(QUESTION).await;
        *rig.bag.does.lock().unwrap() = does;
        let began = Instant::now();
        let answer = rig.pipeline.run(parsed("auto", SAME)).await.unwrap();
        assert_eq!(answer.cache.to_string(), "miss");
        assert!(began.elapsed() <= Duration::from_millis(51));
        assert_eq!(text(answer).await, "Paris is the capital of France.");
        let (_, counts) = rig.pipeline.reuse_stats().unwrap();
        assert_eq!((counts.failed, rig.entries()), (1, 1));
        // What is known is not asked for again.
        let known = "What is the capital of France?  ";
        assert_eq!(rig.asks(known).await, "miss");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_index_is_a_miss_and_the_reply_is_kept() {
    let rig = Rig::new(|_| {});
    rig.asks(QUESTION).await;
    *rig.row.hangs.lock().unwrap() = true;
    let began = Instant::now();
    let answer = rig.pipeline.run(parsed("auto", SAME)).await.unwrap();
    assert!(began.elapsed() <= Duration::from_millis(51));
    assert_eq!(answer.cache.to_string(), "miss");
    text(answer).await;
    assert_eq!(rig.entries(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_is_broken_answers_nobody() {
    type Change = fn(&mut Entry);
    let changes: [Change; 4] = [
        |it| it.vector = vec![f32::NAN; DIMENSIONS],
        |it| it.vector = vec![1.0; 3],
        |it| it.vector = vec![0.0; DIMENSIONS],
        |it| it.expires_at = SystemTime::UNIX_EPOCH,
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let rig = Rig::new(|_| {});
        rig.asks(QUESTION).await;
        {
            let mut entries = rig.row.entries.lock().unwrap();
            let mut entry = Entry::clone(&entries[0]);
            change(&mut entry);
            entries[0] = Arc::new(entry);
        }
        assert_eq!(rig.asks(SAME).await, "miss", "change {at}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_is_told_again_with_the_callers_own_values() {
    let rig = Rig::new(|_| {});
    rig.says("Written to <EMAIL_1>.");
    let first = rig.ask(parsed(
        "auto",
        "Please write to ann@example.org about the rent",
    ));
    assert_eq!(first.await.1, "Written to ann@example.org.");
    let (cache, said) = rig
        .ask(parsed("auto", "write to bob@example.org about the rent"))
        .await;
    assert!(is_semantic(&cache), "{cache}");
    assert_eq!(said, "Written to bob@example.org.");
    for entry in rig.row.entries.lock().unwrap().iter() {
        let reply = entry.kept.reply.choices[0].text();
        assert!(!entry.text.contains("ann") && !reply.contains("ann"));
    }
    // With two of them it would not show which is which; with none there is nothing to put there.
    for other in [
        "write to bob@example.org about the rent, not to ann@example.org",
        "write about the rent",
    ] {
        assert_eq!(rig.asks(other).await, "miss", "{other}");
    }
}

#[tokio::test(start_paused = true)]
async fn shadows_are_answered_afresh_and_learned_from() {
    let rig = Rig::new(|it| it.acceptance.shadow_share = 1.0);
    rig.asks(QUESTION).await;
    let id = rig.row.entries.lock().unwrap()[0].id;
    assert_eq!(rig.asks(SAME).await, "miss");
    let counts = || rig.pipeline.reuse_stats().unwrap().1;
    assert_eq!((counts().shadowed, counts().shadows_right), (1, 1));
    assert_eq!(rig.row.find(id).unwrap().evidence.right, 1);
    // A second of the same would add nothing.
    assert_eq!((rig.calls(), rig.entries()), (2, 1));
    rig.says("Lyon, since last week.");
    assert_eq!(rig.asks("What is the capital of France??").await, "miss");
    assert_eq!(counts().shadows_wrong, 1);
    // It was wrong too often, and the fresh reply takes its place.
    assert!(rig.row.find(id).is_none());
    assert_eq!(rig.entries(), 1);
}

/// Much the same words, and what is asked differs by one that no guard knows.
const AROUND: [&str; 3] = [
    "please tell me how a lost card is blocked",
    "please tell me how a lost card is frozen",
    "please tell me how a lost card is stopped",
];

#[tokio::test(start_paused = true)]
async fn entries_whose_replies_say_the_same_are_known_to() {
    let rig = Rig::with_company(|it| it.acceptance.max_wrong_rate = 0.0);
    let meanings = || -> Vec<MeaningId> {
        let entries = rig.row.entries.lock().unwrap();
        entries.iter().map(|it| it.meaning()).collect()
    };
    rig.says("Call us.");
    rig.asks(AROUND[0]).await;
    rig.asks(AROUND[1]).await;
    assert!(matches!(meanings()[..], [a, b] if a == b));
    rig.says("In the app, under Cards.");
    rig.asks(AROUND[2]).await;
    // Nothing near it: it is compared with nobody.
    rig.asks(QUESTION).await;
    // Of the first two, one that was held against the third was wrong, and went.
    let [early @ .., third, last] = &meanings()[..] else {
        panic!("three are kept at least")
    };
    assert!(!early.is_empty() && !early.contains(third) && !early.contains(last));
    assert!(third != last && early.iter().all(|it| *it == early[0]));
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_is_answered_anew_says_what_it_says_now() {
    let rig = Rig::with_company(|it| it.acceptance.max_wrong_rate = 0.0);
    rig.says("Call us.");
    rig.asks(AROUND[0]).await;
    rig.asks(AROUND[1]).await;
    rig.says("In the app, under Cards.");
    let mut asked = parsed("auto", AROUND[0]);
    asked.context.cache = CacheWish::Refresh;
    rig.ask(asked).await;
    let entries = rig.row.entries.lock().unwrap().clone();
    assert_eq!(entries.len(), 2);
    assert_ne!(entries[0].meaning(), entries[1].meaning());
}

/// The first of two is kept, the encoder hangs over the second, and meanwhile something is done.
async fn a_late_reply_after(meanwhile: impl AsyncFn(&Rig)) -> Vec<Arc<Entry>> {
    let rig = Rig::with_company(|it| it.acceptance.max_wrong_rate = 0.0);
    rig.says("Call us.");
    rig.ask(named("early", "red", AROUND[0])).await;
    rig.says("Ring us up, and we shall see to it.");
    let asked = rig.pipeline.run(named("late", "red", AROUND[1]));
    let asked = asked.await.unwrap();
    *rig.bag.does.lock().unwrap() = Does::Hangs;
    text(asked).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(rig.entries(), 1, "the other waits");
    meanwhile(&rig).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let entries = rig.row.entries.lock().unwrap();
    entries.clone()
}

fn said(entries: &[Arc<Entry>]) -> Vec<String> {
    let entries = entries.iter();
    entries.map(|it| it.kept.reply.choices[0].text()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_late_reply_is_not_kept_after_it_was_removed() {
    let purged = a_late_reply_after(async |rig| {
        rig.pipeline
            .purge(&Purge::Team("other".into()))
            .await
            .unwrap();
        rig.pipeline
            .purge(&Purge::Model("auto".into()))
            .await
            .unwrap();
    });
    assert!(purged.await.is_empty());
    let spared = a_late_reply_after(async |rig| {
        rig.pipeline
            .purge(&Purge::Team("other".into()))
            .await
            .unwrap();
    });
    assert_eq!(spared.await.len(), 2);
    let forgotten = a_late_reply_after(async |rig| {
        rig.pipeline
            .purge(&Purge::Model("auto".into()))
            .await
            .unwrap();
        for _ in 0..2_000 {
            rig.pipeline
                .purge(&Purge::Team("other".into()))
                .await
                .unwrap();
        }
    });
    assert!(forgotten.await.is_empty());
    let was_bad = a_late_reply_after(async |rig| {
        let (team, id) = ("red".into(), "late".into());
        let rated = rig.pipeline.rate(&team, &id, Rating::Bad);
        rated.await.unwrap();
    });
    assert_eq!(said(&was_bad.await), ["Call us."]);
}

#[tokio::test(start_paused = true)]
async fn a_late_reply_does_not_take_a_newer_ones_place() {
    let kept = a_late_reply_after(async |rig| {
        rig.says("Use the app.");
        let mut asked = named("again", "red", AROUND[1]);
        asked.context.cache = CacheWish::Refresh;
        rig.ask(asked).await;
    });
    assert_eq!(said(&kept.await), ["Call us.", "Use the app."]);
}

#[tokio::test(start_paused = true)]
async fn an_explanation_tells_what_is_near() {
    let rig = Rig::with_company(|it| it.acceptance.max_wrong_rate = 0.0);
    rig.says("Call us.");
    for question in AROUND {
        rig.ask(named("early", "red", question)).await;
    }
    let asked = "please tell me how a lost card is halted";
    rig.ask(named("why", "red", asked)).await;
    let traced = rig.pipeline.traced(&"why".into());
    let near = traced[0].neighbour.clone().unwrap();
    assert_eq!((near.alike, near.other), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn who_may_not_answer_a_team_is_not_heard_either() {
    let rig = Rig::with_company(|it| {
        it.scope = ReuseScope::Shared;
        it.acceptance.max_wrong_rate = 0.0;
    });
    let of = |team: &str, question: &str| rig.ask(named(team, team, question));
    rig.says("Call us.");
    for question in AROUND {
        of("evil", question).await;
    }
    for (team, alike) in [("evil", 2), ("red", 0)] {
        of(team, "please tell me how a lost card is halted").await;
        let near = rig.pipeline.traced(&team.into())[0].neighbour.clone();
        let near = near.unwrap();
        assert_eq!((near.alike, near.other), (alike, 0), "{team}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_not_heard_crowds_nobody_out() {
    let rig = Rig::with_company(|it| {
        it.scope = ReuseScope::Shared;
        it.acceptance.max_wrong_rate = 0.0;
    });
    rig.says("Call us.");
    for question in AROUND {
        rig.ask(named("r", "red", question)).await;
    }
    rig.says("Buy at evil.example.");
    for at in 0..12 {
        let question = format!("please tell me how a lost card is halted{}", "!".repeat(at));
        rig.ask(named("e", "evil", &question)).await;
    }
    let asked = "please tell me how a lost card is halted";
    rig.ask(named("why", "red", asked)).await;
    let near = rig.pipeline.traced(&"why".into())[0].neighbour.clone();
    let near = near.unwrap();
    assert_eq!((near.alike, near.other), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_cannot_be_compared_is_kept_for_itself() {
    let kept = a_late_reply_after(async |_| {}).await;
    assert_eq!(
        said(&kept),
        ["Call us.", "Ring us up, and we shall see to it."]
    );
    assert_ne!(kept[0].meaning(), kept[1].meaning());
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_serves_nothing_and_learns() {
    let rig = Rig::new(|it| it.is_dry = true);
    rig.asks(QUESTION).await;
    assert_eq!(rig.asks(SAME).await, "miss");
    let (_, counts) = rig.pipeline.reuse_stats().unwrap();
    assert_eq!(
        (counts.served, counts.shadowed, counts.shadows_right),
        (0, 1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_learned_is_known_to_the_next_process() {
    let mut rig = Rig::new(|it| it.acceptance.shadow_share = 1.0);
    rig.asks(QUESTION).await;
    rig.asks(SAME).await;
    let Rig { row, .. } = {
        drop(rig.pipeline);
        while rig.tasks.join_next().await.is_some() {}
        let saved = rig.row.state.lock().unwrap().clone().unwrap();
        let state = policy::reuse::Acceptance::from_bytes(&saved).unwrap();
        assert_ne!(state, policy::reuse::Acceptance::new());
        Rig::with(rig.row.clone(), |_| {})
    };
    assert!(row.load_state().is_some());
    // And what cannot be read is begun anew.
    row.save_state(vec![1, 2, 3]);
    let rig = Rig::with(row, |_| {});
    assert!(is_semantic(
        &rig.asks("what is the capital of france ").await
    ));
}

#[tokio::test(start_paused = true)]
async fn teams_share_only_what_enough_of_them_came_to() {
    let rig = Rig::new(|it| it.scope = ReuseScope::Shared);
    let of = |team: &str, question: &str| {
        let mut asked = parsed("auto", question);
        asked.principal.team = team.into();
        rig.ask(asked)
    };
    // A team that writes what it likes has it to itself, however often it asks.
    rig.says("Buy at evil.example.");
    assert_eq!(of("evil", QUESTION).await.0, "miss");
    assert!(is_semantic(&of("evil", SAME).await.0));
    rig.says("Paris.");
    for team in ["red", "blue", "green"] {
        let (cache, said) = of(team, SAME).await;
        assert_eq!((cache.as_str(), said.as_str()), ("miss", "Paris."));
    }
    // Three came to the same by now; whoever asks then may have it.
    let mut told = Vec::new();
    for team in ["yellow", "white", "black"] {
        told.push(of(team, "What is the capital of France ?").await);
    }
    assert!(told.iter().all(|(_, said)| said == "Paris."), "{told:?}");
    assert!(told.iter().any(|(cache, _)| is_semantic(cache)), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn one_team_counts_once_however_often_it_agrees() {
    let rig = Rig::new(|it| it.scope = ReuseScope::Shared);
    let of = |team: &str, question: String| {
        let mut asked = parsed("auto", &question);
        asked.principal.team = team.into();
        rig.ask(asked)
    };
    of("evil", QUESTION.to_owned()).await;
    for at in 0..5 {
        of("helper", format!("{SAME}{}", "?".repeat(at))).await;
    }
    let entries = rig.row.entries.lock().unwrap().clone();
    assert!(entries.iter().all(|it| it.evidence.confirmed_by.len() <= 1));
    let (cache, _) = of("red", SAME.to_owned()).await;
    assert_eq!(cache, "miss");
}

#[tokio::test(start_paused = true)]
async fn hits_are_padded_where_teams_share() {
    for (scope, took) in [(ReuseScope::Team, 0), (ReuseScope::Shared, 200)] {
        let rig = Rig::new(|it| {
            it.scope = scope;
            it.hit_pad = Duration::from_millis(200);
        });
        rig.asks(QUESTION).await;
        let began = Instant::now();
        let answer = rig.pipeline.run(parsed("auto", SAME)).await.unwrap();
        assert!(is_semantic(&answer.cache.to_string()));
        let took_ms = began.elapsed().as_millis();
        assert!((took..took + 2).contains(&took_ms), "{took_ms}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_class_has_its_own_time() {
    let rig = Rig::new(|it| {
        it.ttl_by_class
            .insert("fact".into(), Duration::from_secs(7_200));
    });
    rig.asks(QUESTION).await;
    rig.asks("Write a poem about the sea").await;
    let left: Vec<u64> = {
        let entries = rig.row.entries.lock().unwrap();
        let left = entries
            .iter()
            .map(|it| it.expires_at.duration_since(it.kept.kept_at));
        left.map(|left| left.unwrap().as_secs()).collect()
    };
    assert_eq!(left, [7_200, 60]);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_hit_has_it_too() {
    let rig = Rig::new(|_| {});
    rig.asks(QUESTION).await;
    let runs = (0..5).map(|_| rig.pipeline.run(parsed("auto", SAME)));
    for answer in futures::future::join_all(runs).await {
        let answer = answer.unwrap();
        assert!(is_semantic(&answer.cache.to_string()), "{}", answer.cache);
        assert_eq!(text(answer).await, "Paris is the capital of France.");
    }
    assert_eq!(rig.calls(), 1);
}

fn named(id: &str, team: &str, question: &str) -> Parsed {
    let mut asked = parsed("auto", question);
    asked.context.request_id = id.into();
    asked.principal.team = team.into();
    asked
}

#[tokio::test(start_paused = true)]
async fn feedback_is_for_ones_own_requests_and_counts_once() {
    let rig = Rig::new(|_| {});
    rig.ask(named("first", "red", QUESTION)).await;
    let (cache, _) = rig.ask(named("second", "red", SAME)).await;
    assert!(is_semantic(&cache));
    let rate = async |id: &str, team: &str, rating| {
        let taken = rig.pipeline.rate(&team.into(), &id.into(), rating).await;
        taken.map(|it| (it.outcome, it.is_new, it.is_removed))
    };
    assert_eq!(rate("second", "blue", Rating::Bad).await, None);
    assert_eq!(rate("third", "red", Rating::Bad).await, None);
    let semantic = CacheOutcome::HitSemantic;
    assert_eq!(
        rate("second", "red", Rating::Good).await,
        Some((semantic, true, false))
    );
    assert_eq!(
        rate("second", "red", Rating::Bad).await,
        Some((semantic, false, false))
    );
    let evidence = rig.row.entries.lock().unwrap()[0].evidence.clone();
    assert_eq!((evidence.right, evidence.wrong), (1, 0));
    // One that was wrong answers nobody any more, and the request it was made for as before.
    rig.ask(named("fourth", "red", "what is the capital of france?!"))
        .await;
    assert_eq!(
        rate("fourth", "red", Rating::Bad).await,
        Some((semantic, true, true))
    );
    assert_eq!(rig.entries(), 0);
    let (cache, _) = rig.ask(named("fifth", "red", QUESTION)).await;
    assert!(cache.starts_with("exact"));
    // A bad reply is bad for who asks the same, too.
    let exact = CacheOutcome::HitExact;
    assert_eq!(
        rate("fifth", "red", Rating::Bad).await,
        Some((exact, true, true))
    );
    assert_eq!(rig.ask(named("sixth", "red", QUESTION)).await.0, "miss");
    let (_, counts) = rig.pipeline.reuse_stats().unwrap();
    assert_eq!((counts.feedback_good, counts.feedback_bad), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn feedback_on_a_fresh_reply_is_its_entrys() {
    let rig = Rig::new(|_| {});
    rig.ask(named("a", "red", QUESTION)).await;
    rig.pipeline
        .rate(&"red".into(), &"a".into(), Rating::Good)
        .await
        .unwrap();
    assert_eq!(rig.row.entries.lock().unwrap()[0].evidence.right, 1);
    rig.ask(named("b", "red", OTHER)).await;
    let taken = rig
        .pipeline
        .rate(&"red".into(), &"b".into(), Rating::Bad)
        .await
        .unwrap();
    assert!(taken.is_removed);
    assert_eq!((rig.entries(), rig.cache.0.lock().unwrap().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_the_cache_did_is_told_without_text() {
    let rig = Rig::new(|_| {});
    rig.ask(named("a", "red", QUESTION)).await;
    rig.ask(named("b", "red", SAME)).await;
    rig.ask(named("c", "red", "What is the weather today?"))
        .await;
    let of = |id: &str| rig.pipeline.traced(&id.into());
    let [first] = &of("a")[..] else {
        panic!("one request")
    };
    assert_eq!((first.outcome, first.neighbour.clone()), ("missed", None));
    assert_eq!(
        (first.class, first.compartment.as_ref().unwrap().len()),
        (Some("fact"), 8)
    );
    let [second] = &of("b")[..] else {
        panic!("one request")
    };
    let near = second.neighbour.clone().unwrap();
    assert_eq!(
        (second.outcome, near.verdict, near.guard),
        ("hit_semantic", "serve", None)
    );
    assert!(
        near.similarity > 0.9 && near.probability_same > 0.9,
        "{near:?}"
    );
    assert_eq!(second.compartment, first.compartment);
    assert_eq!(of("c")[0].why_not, Some("time_dependent"));
    assert!(of("d").is_empty());
    assert!(!format!("{second:?}").contains("france"));
}

#[tokio::test(start_paused = true)]
async fn kept_replies_are_removed_by_what_they_are() {
    let rig = Rig::new(|_| {});
    let mut tagged = named("a", "red", QUESTION);
    tagged.principal.tags = vec!["spring".into()];
    rig.ask(tagged).await;
    rig.ask(named("b", "blue", OTHER)).await;
    let purge = async |what| rig.pipeline.purge(&what).await.unwrap();
    assert_eq!(purge(Purge::Tag("summer".into())).await, (0, 0));
    assert_eq!(purge(Purge::Tag("spring".into())).await, (1, 1));
    assert_eq!(purge(Purge::Team("blue".into())).await, (1, 1));
    assert_eq!(purge(Purge::All).await, (0, 0));
    assert_eq!(rig.ask(named("c", "red", SAME)).await.0, "miss");
}

/// What was seen: a reply that waited to be compared was kept after its team's were removed.
#[tokio::test(start_paused = true)]
async fn what_waits_to_be_compared_is_removed_too() {
    let rig = Rig::new(|it| it.acceptance.shadow_share = 1.0);
    rig.ask(named("a", "blue", QUESTION)).await;
    // From here on the vector of this question is known.
    rig.ask(named("b", "red", SAME)).await;
    *rig.bag.does.lock().unwrap() = Does::Hangs;
    rig.says("It is Lyon.");
    rig.ask(named("c", "blue", SAME)).await;
    let counts = || rig.pipeline.reuse_stats().unwrap().1;
    assert_eq!(counts().shadowed, 1);
    let what = Purge::Team("blue".into());
    assert_eq!(rig.pipeline.purge(&what).await.unwrap(), (2, 1));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.entries(), 1, "the other team's");
}

#[tokio::test(start_paused = true)]
async fn a_natural_pace_is_for_streams() {
    let rig = Rig::new(|_| {});
    let snapshot = priced(snapshot_of(ROUTES, vec![rig.oracle.clone()]));
    let reuse = rules(&rig.bag);
    rig.pipeline
        .reload(snapshot.with_reuse(Some(reuse)).with_pace(Pace::Natural));
    rig.asks(QUESTION).await;
    for question in [QUESTION, SAME] {
        let mut streamed = parsed("auto", question);
        streamed.request.delivery = Delivery::Streamed {
            includes_usage: true,
        };
        for (asked, least_ms) in [(streamed, 100), (parsed("auto", question), 0)] {
            let began = Instant::now();
            let answer = rig.pipeline.run(asked).await.unwrap();
            assert_eq!(text(answer).await, "Paris is the capital of France.");
            let took = began.elapsed().as_millis();
            assert!((least_ms..least_ms + 50).contains(&took), "{took} ms");
        }
    }
}
