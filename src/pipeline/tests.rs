//! The trunk with scripted backends under paused time.

mod flights;
mod images;
mod moderation;
mod offline;
mod queue;
mod quotas;
mod rescue;
mod reuse;
mod savings;
mod sealing;
mod shadow;
mod texts;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use domain::*;
use futures::{StreamExt, stream};
use policy::{CacheSecret, RoutePolicy, ScanRules};
use tokio::sync::mpsc;

use crate::*;

mod embeddings;
mod failures;

/// What a scripted backend does with a call.
#[derive(Clone)]
enum Script {
    Says(&'static str),
    Fails(BackendError),
    /// Starts, says this, then breaks.
    Breaks(&'static str),
    /// The same, with its own word for it.
    BreaksBy(&'static str, BackendError),
    /// Says this, and is cut off there by how long it may be.
    RunsOut(&'static str),
    /// Never says anything.
    Hangs,
    /// Says what it was asked, in pieces of one byte.
    Echoes,
    Empty,
    /// Says this, in its provider's own words too.
    Writes(&'static str),
    /// Known to be down.
    Down,
    /// Not yet known.
    Starting,
    /// Is silent that long first.
    SaysAfter(Duration, &'static str),
}

struct Fake {
    card: BackendCard,
    script: Script,
    calls: Arc<Mutex<Vec<String>>>,
    priorities: Arc<Mutex<Vec<domain::Priority>>>,
}

impl Fake {
    fn new(name: &str, trust: Trust, script: Script) -> Arc<Self> {
        let model = ModelCard {
            name: if trust == Trust::Device {
                "tiny".into()
            } else {
                "big".into()
            },
            context_tokens_max: None,
            abilities: Abilities::all(),
        };
        Arc::new(Self {
            card: BackendCard {
                name: name.into(),
                tier: match trust {
                    Trust::Device => Tier::Engine,
                    Trust::Tenant => Tier::Pool,
                    Trust::Public => Tier::Upstream,
                },
                is_sealed: false,
                trust,
                models: vec![model],
            },
            script,
            calls: Arc::default(),
            priorities: Arc::default(),
        })
    }

    /// This machine's engine.
    fn with_models(names: &[&str], script: Script) -> Arc<Self> {
        let fake = Self::new("local", Trust::Device, script);
        let Ok(mut fake) = Arc::try_unwrap(fake) else {
            unreachable!("nobody else holds it yet");
        };
        let models = names.iter().map(|name| ModelCard {
            name: (*name).to_owned(),
            ..fake.card.models[0].clone()
        });
        fake.card.models = models.collect();
        Arc::new(fake)
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

#[async_trait]
impl Backend for Fake {
    fn card(&self) -> &BackendCard {
        &self.card
    }

    fn health(&self) -> Health {
        match self.script {
            Script::Down => Health::of(HealthState::Down, None),
            Script::Starting => Health::of(HealthState::Starting, None),
            _ => Health::READY,
        }
    }

    async fn chat(&self, call: Outbound) -> Result<ChatStream, BackendError> {
        let asked = call.request().last_user_text();
        self.calls.lock().unwrap().push(asked.clone());
        self.priorities.lock().unwrap().push(call.priority());
        let started = ChatEvent::Started(Started {
            model: call.model().to_owned(),
            reply_id: None,
            fingerprint: None,
        });
        let text = |text: &str| ChatEvent::Text {
            choice: 0,
            text: text.to_owned(),
        };
        let ended = ChatEvent::ChoiceEnded {
            choice: 0,
            reason: FinishReason::Stop,
        };
        let usage = ChatEvent::Usage(Usage {
            completion_tokens: Tokens(1),
            ..Usage::default()
        });
        Ok(match self.script.clone() {
            Script::Says(words) => {
                stream::iter([started, text(words), ended, usage].map(Ok)).boxed()
            }
            Script::Fails(error) => return Err(error),
            Script::Down | Script::Starting => return Err(BackendError::Unreachable("down")),
            Script::Breaks(words) => {
                stream::iter([Ok(started), Ok(text(words)), Err(BackendError::Interrupted)]).boxed()
            }
            Script::BreaksBy(words, error) => {
                stream::iter([Ok(started), Ok(text(words)), Err(error)]).boxed()
            }
            Script::RunsOut(words) => {
                let ended = ChatEvent::ChoiceEnded {
                    choice: 0,
                    reason: FinishReason::Length,
                };
                stream::iter([started, text(words), ended, usage].map(Ok)).boxed()
            }
            Script::Hangs => stream::iter([Ok(started)]).chain(stream::pending()).boxed(),
            Script::Echoes => {
                let mut events = vec![started];
                for letter in asked.chars().map(String::from) {
                    events.push(ChatEvent::Logprobs {
                        choice: 0,
                        tokens: vec![logprobs(&letter)],
                    });
                    events.push(text(&letter));
                }
                events.extend([ended, usage]);
                stream::iter(events.into_iter().map(Ok)).boxed()
            }
            Script::SaysAfter(wait, words) => {
                tokio::time::sleep(wait).await;
                stream::iter([started, text(words), ended, usage].map(Ok)).boxed()
            }
            Script::Empty => stream::iter([started, ended].map(Ok)).boxed(),
            Script::Writes(words) => {
                let written = |events| {
                    ChatEvent::Written(Written {
                        dialect: Dialect::OpenAi,
                        extent: Extent::Event { events },
                        bytes: "data: {}\n\n".into(),
                    })
                };
                let events = [written(1), started, written(2), text(words), ended, usage];
                stream::iter(events.map(Ok)).boxed()
            }
        })
    }

    /// Three components for each text, or what the script fails with.
    async fn embed(&self, call: Outbound, _: Option<u32>) -> Result<Embeddings, BackendError> {
        let texts: Vec<String> = call.request().messages.iter().map(Message::text).collect();
        self.calls.lock().unwrap().extend(texts.iter().cloned());
        match self.script.clone() {
            Script::Fails(error) => Err(error),
            _ => Ok(Embeddings {
                vectors: vec![vec![3.0, 4.0, 12.0]; texts.len()],
                prompt_tokens: 7,
            }),
        }
    }
}

fn logprobs(text: &str) -> TokenLogprobs {
    TokenLogprobs {
        token: TokenLogprob {
            text: text.to_owned(),
            bytes: None,
            logprob: -1.0,
        },
        top: Vec::new(),
    }
}

#[derive(Default)]
struct MapCache(Mutex<HashMap<CacheKey, Arc<Kept>>>);

#[async_trait]
impl CacheStore for MapCache {
    fn find(&self, key: &CacheKey) -> Option<Arc<Kept>> {
        self.0.lock().unwrap().get(key).cloned()
    }

    fn keep(&self, key: CacheKey, kept: Arc<Kept>, _ttl: Duration) {
        self.0.lock().unwrap().insert(key, kept);
    }

    async fn forget(&self, key: &CacheKey) -> bool {
        self.0.lock().unwrap().remove(key).is_some()
    }

    async fn purge(&self, what: &Purge) -> Result<u64, CacheAway> {
        let mut kept = self.0.lock().unwrap();
        let before = kept.len();
        kept.retain(|_, kept| !what.takes_kept(kept));
        Ok((before - kept.len()) as u64)
    }

    async fn meant(
        &self,
        what: &Purge,
        after: Option<CacheKey>,
        count: usize,
    ) -> Result<Vec<(CacheKey, Arc<Kept>)>, CacheAway> {
        let kept = self.0.lock().unwrap();
        let meant = kept
            .iter()
            .filter(|(key, kept)| after.is_none_or(|after| **key > after) && what.takes_kept(kept));
        let mut meant: Vec<_> = meant.map(|(key, kept)| (*key, Arc::clone(kept))).collect();
        meant.sort_unstable_by_key(|(key, _)| *key);
        meant.truncate(count);
        Ok(meant)
    }
}

struct NoKeys;

impl KeyDirectory for NoKeys {
    fn is_required(&self) -> bool {
        false
    }

    fn find(&self, _digest: &KeyDigest) -> Result<Principal, KeyTrouble> {
        Err(KeyTrouble::Unknown)
    }
}

struct Sent(mpsc::Sender<ExchangeRecord>);

impl RecordSink for Sent {
    fn append(&self, record: &ExchangeRecord) {
        self.0.try_send(record.clone()).unwrap();
    }
}

struct Bench {
    pipeline: Pipeline,
    cache: Arc<MapCache>,
    records: mpsc::Receiver<ExchangeRecord>,
    _recorder: tokio::task::JoinSet<()>,
}

const ROUTES: &str = r#"
default = "cloud-first"
[[rules]]
name = "gold"
when = { header = { "x-tier" = "gold" } }
then = "local-first"
[outcomes.local-first]
candidates = ["local", "cloud"]
[outcomes.cloud-first]
candidates = ["cloud", "local"]
"#;

fn snapshot(backends: Vec<Arc<Fake>>) -> Snapshot {
    let backends = backends
        .into_iter()
        .map(|fake| fake as Arc<dyn Backend>)
        .collect();
    snapshot_of(ROUTES, backends)
}

fn snapshot_of(routes: &str, backends: Vec<Arc<dyn Backend>>) -> Snapshot {
    let classes = [(FindingClass::Email, Trust::Tenant)];
    Snapshot::new(
        RoutePolicy::parse("test.toml", routes).unwrap(),
        ScanRules::compile(&classes, &[]).unwrap(),
        backends,
        BTreeMap::new(),
        CacheRules {
            is_enabled: true,
            secret: CacheSecret::new([7; 32]),
            ttl: Duration::from_secs(60),
            reply_bytes_max: 1024,
        },
        Patience::default(),
    )
}

fn bench(backends: Vec<Arc<Fake>>, exchanges_max: usize) -> Bench {
    bench_with(snapshot(backends), exchanges_max)
}

fn bench_with(snapshot: Snapshot, exchanges_max: usize) -> Bench {
    bench_counting(snapshot, exchanges_max, None)
}

fn bench_counting(
    snapshot: Snapshot,
    exchanges_max: usize,
    quotas: Option<Arc<dyn Quotas>>,
) -> Bench {
    bench_queueing(snapshot, exchanges_max, quotas, QueueRules::default())
}

fn bench_queueing(
    snapshot: Snapshot,
    exchanges_max: usize,
    quotas: Option<Arc<dyn Quotas>>,
    queueing: QueueRules,
) -> Bench {
    let cache = Arc::new(MapCache::default());
    let (sent, records) = mpsc::channel(64);
    let (pipeline, recorder) = Pipeline::new(Parts {
        snapshot,
        cache: cache.clone(),
        reuse: None,
        shadows: None,
        keys: Arc::new(NoKeys),
        quotas,
        queueing,
        sinks: vec![Arc::new(Sent(sent))],
        exchanges_max,
    });
    let mut running = tokio::task::JoinSet::new();
    running.spawn(recorder.run());
    Bench {
        pipeline,
        cache,
        records,
        _recorder: running,
    }
}

fn parsed(model: &str, text: &str) -> Parsed {
    Parsed {
        request: ChatRequest::new(model, vec![Message::new(Role::User, text)]),
        principal: Principal::anyone(),
        context: RequestContext {
            request_id: "r-1".into(),
            body_bytes: text.len(),
            headers: vec![],
            cache: CacheWish::Use,
            priority: domain::Priority::default(),
        },
    }
}

async fn text(answer: Answer) -> String {
    collect(answer.stream).await.unwrap().choices[0].text()
}

#[tokio::test(start_paused = true)]
async fn the_first_candidate_answers_and_is_recorded() {
    let cloud = Fake::new("fake", Trust::Public, Script::Says("yes"));
    let local = Fake::new("local", Trust::Device, Script::Says("no"));
    let mut bench = bench(vec![local.clone(), cloud], 4);
    let answer = bench
        .pipeline
        .run(parsed("auto", "hard question"))
        .await
        .unwrap();
    assert_eq!(answer.route.to_string(), "cloud:fake");
    assert_eq!(text(answer).await, "yes");
    assert!(local.calls().is_empty());
    let record = bench.records.recv().await.unwrap();
    assert_eq!(record.outcome, Outcome::Answered);
    assert_eq!(record.route.unwrap().backend.as_str(), "fake");
    assert_eq!(record.usage.unwrap().completion_tokens, Tokens(1));
}

#[tokio::test(start_paused = true)]
async fn a_pool_answers_as_local_and_sees_what_its_trust_may_see() {
    let pool = Fake::new("gpu", Trust::Tenant, Script::Says("here"));
    let cloud = Fake::new("fake", Trust::Public, Script::Says("there"));
    let mut bench = bench(vec![pool.clone(), cloud.clone()], 4);
    let letter = "write to a@b.example";
    let answer = bench.pipeline.run(parsed("local", letter)).await.unwrap();
    assert_eq!(answer.route.to_string(), "local:gpu/big");
    assert_eq!(text(answer).await, "here");
    assert_eq!(pool.calls(), [letter]);
    let route = bench.records.recv().await.unwrap().route.unwrap();
    assert!(route.is_local && route.model == "gpu/big", "{route:?}");
    let answer = bench
        .pipeline
        .run(parsed("fake/big", letter))
        .await
        .unwrap();
    assert_eq!(text(answer).await, "there");
    assert!(!cloud.calls()[0].contains("a@b.example"));
    let listed = bench.pipeline.models(&Principal::anyone());
    let listed: Vec<&str> = listed.iter().map(|model| model.id.as_str()).collect();
    assert_eq!(listed, ["auto", "local", "gpu/big", "fake/big"]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_cloud_falls_back_and_says_so() {
    let cases = [
        (
            Script::Fails(BackendError::Unreachable("refused")),
            "fake unreachable",
        ),
        (Script::Hangs, "fake timed_out"),
        (
            Script::Fails(BackendError::Credentials { status: 401 }),
            "fake credentials",
        ),
    ];
    for (script, why) in cases {
        let cloud = Fake::new("fake", Trust::Public, script);
        let local = Fake::new("local", Trust::Device, Script::Says("here"));
        let mut bench = bench(vec![local, cloud], 4);
        let mut asked = parsed("auto", "question");
        asked.request.delivery = Delivery::Streamed {
            includes_usage: false,
        };
        let answer = bench.pipeline.run(asked).await.unwrap();
        assert_eq!(answer.route.to_string(), "local:tiny");
        assert!(
            answer.reason.ends_with(&format!("; fallback: {why}")),
            "{}",
            answer.reason
        );
        assert_eq!(text(answer).await, "here");
        assert_eq!(
            bench.records.recv().await.unwrap().failed_candidates.len(),
            1
        );
        assert!(
            bench.cache.0.lock().unwrap().is_empty(),
            "a stand-in's reply is not kept"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejected_request_is_not_tried_elsewhere() {
    let reason = BadRequest::at("tools", "too many");
    let cloud = Fake::new(
        "fake",
        Trust::Public,
        Script::Fails(BackendError::Rejected {
            status: 400,
            reason: reason.clone(),
        }),
    );
    let local = Fake::new("local", Trust::Device, Script::Says("here"));
    let mut bench = bench(vec![local.clone(), cloud], 4);
    let refusal = bench
        .pipeline
        .run(parsed("auto", "question"))
        .await
        .unwrap_err();
    assert_eq!(refusal.fault, Fault::BadRequest(reason));
    assert!(local.calls().is_empty());
    assert_eq!(
        bench.records.recv().await.unwrap().outcome,
        Outcome::Refused("bad_request")
    );
}

#[tokio::test(start_paused = true)]
async fn when_all_fail_the_first_failure_is_told() {
    let cloud = Fake::new(
        "fake",
        Trust::Public,
        Script::Fails(BackendError::RateLimited {
            retry_after: Some(Duration::from_secs(9)),
        }),
    );
    let local = Fake::new(
        "local",
        Trust::Device,
        Script::Fails(BackendError::Engine("x")),
    );
    let bench = bench(vec![local, cloud], 4);
    let refusal = bench
        .pipeline
        .run(parsed("auto", "question"))
        .await
        .unwrap_err();
    assert_eq!(
        refusal.fault,
        Fault::RateLimited {
            retry_after: Duration::from_secs(9)
        }
    );
}

#[tokio::test(start_paused = true)]
async fn after_content_an_error_goes_to_the_caller_and_no_other_backend_is_asked() {
    let cloud = Fake::new("fake", Trust::Public, Script::Breaks("half"));
    let local = Fake::new("local", Trust::Device, Script::Says("here"));
    let mut bench = bench(vec![local.clone(), cloud], 4);
    let answer = bench
        .pipeline
        .run(parsed("auto", "question"))
        .await
        .unwrap();
    let events: Vec<_> = answer.stream.collect().await;
    assert!(matches!(
        events.last(),
        Some(Err(BackendError::Interrupted))
    ));
    assert!(local.calls().is_empty());
    let record = bench.records.recv().await.unwrap();
    assert_eq!(record.outcome, Outcome::BrokenOff("interrupted"));
    assert!(bench.cache.0.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_exact_repeat_comes_from_the_cache() {
    let cloud = Fake::new("fake", Trust::Public, Script::Says("yes"));
    let bench = bench(vec![cloud.clone()], 4);
    let first = bench
        .pipeline
        .run(parsed("auto", "question"))
        .await
        .unwrap();
    assert_eq!(text(first).await, "yes");
    let again = bench
        .pipeline
        .run(parsed("auto", "question"))
        .await
        .unwrap();
    assert_eq!(again.route.to_string(), "cache:exact");
    assert_eq!(text(again).await, "yes");
    assert_eq!(cloud.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_store_neither_reads_nor_keeps_and_no_cache_keeps() {
    let cloud = Fake::new("fake", Trust::Public, Script::Says("yes"));
    let bench = bench(vec![cloud.clone()], 4);
    for (wish, calls, kept) in [
        (CacheWish::Bypass, 1, 0),
        (CacheWish::Refresh, 2, 1),
        (CacheWish::Refresh, 3, 1),
    ] {
        let mut asked = parsed("auto", "question");
        asked.context.cache = wish;
        let answer = bench.pipeline.run(asked).await.unwrap();
        assert_eq!(answer.route.to_string(), "cloud:fake");
        text(answer).await;
        assert_eq!(cloud.calls().len(), calls);
        assert_eq!(bench.cache.0.lock().unwrap().len(), kept);
    }
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_reply_is_recorded_and_not_kept() {
    let cloud = Fake::new("fake", Trust::Public, Script::Says("yes"));
    let mut bench = bench(vec![cloud], 1);
    let answer = bench
        .pipeline
        .run(parsed("auto", "question"))
        .await
        .unwrap();
    drop(answer);
    assert_eq!(
        bench.records.recv().await.unwrap().outcome,
        Outcome::Abandoned
    );
    assert!(bench.cache.0.lock().unwrap().is_empty());
    assert_eq!(bench.pipeline.exchanges_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_seat_after_the_last_is_refused_as_overloaded() {
    let cloud = Fake::new("fake", Trust::Public, Script::Says("yes"));
    let mut bench = bench(vec![cloud], 1);
    let held = bench
        .pipeline
        .run(parsed("auto", "question"))
        .await
        .unwrap();
    let refusal = bench
        .pipeline
        .run(parsed("auto", "question"))
        .await
        .unwrap_err();
    assert!(matches!(refusal.fault, Fault::Overloaded { .. }));
    drop(held);
    bench.records.recv().await.unwrap();
    bench
        .pipeline
        .run(parsed("auto", "question"))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_public_backend_sees_placeholders_and_the_caller_does_not() {
    let cloud = Fake::new("fake", Trust::Public, Script::Echoes);
    let bench = bench(vec![cloud.clone()], 4);
    let said = "mail ann@example.org and bob@example.org today";
    let answer = bench.pipeline.run(parsed("auto", said)).await.unwrap();
    assert_eq!(text(answer).await, said);
    let seen = cloud.calls().remove(0);
    assert!(!seen.contains("example.org"), "{seen}");
}

async fn written_count(answer: Answer) -> usize {
    let events: Vec<_> = answer.stream.collect().await;
    let written = |event: &&_| matches!(event, Ok(ChatEvent::Written(_)));
    events.iter().filter(written).count()
}

#[tokio::test(start_paused = true)]
async fn a_providers_own_words_are_passed_on_unless_something_is_put_back_in_them() {
    let cloud = Fake::new("fake", Trust::Public, Script::Writes("hello"));
    let bench = bench(vec![cloud.clone()], 4);
    let run = async |said: &str| bench.pipeline.run(parsed("auto", said)).await.unwrap();
    assert_eq!(written_count(run("a").await).await, 2);
    let kept = run("a").await;
    assert_eq!(kept.route.to_string(), "cache:exact");
    assert_eq!(written_count(kept).await, 0);
    let masked = run("mail ann@example.org").await;
    assert_eq!(written_count(masked).await, 0);
}

/// A field such as `guided_regex` leaves a request without its received bytes; four such requests of
/// 4 MB kept `/healthz` waiting for half a minute.
#[tokio::test]
async fn a_long_request_leaves_the_network_threads_whether_or_not_its_bytes_are_kept() {
    let cloud = Fake::new("fake", Trust::Public, Script::Says("yes"));
    let bench = bench(vec![cloud], 4);
    for (body_bytes, is_away) in [(100, false), (1 << 20, true)] {
        // Long enough that no other thread is done with it between two instructions here.
        let mut parsed = parsed("auto", &"write to a@b.example; ".repeat(50_000));
        parsed.context.body_bytes = body_bytes;
        let mut run = std::pin::pin!(bench.pipeline.run(parsed));
        let first = futures::poll!(run.as_mut());
        assert_eq!(first.is_pending(), is_away, "{body_bytes}");
        if is_away {
            assert_eq!(text(run.await.unwrap()).await, "yes");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_inside_a_pattern_reaches_only_those_who_may_see_it() {
    let cloud = Fake::new("fake", Trust::Public, Script::Says("there"));
    let local = Fake::new("local", Trust::Device, Script::Says("here"));
    let both = bench(vec![local, cloud.clone()], 4);
    let pattern = || {
        let mut parsed = parsed("auto", "question");
        parsed.request.format = OutputFormat::Regex(r"ann@mail\.example".to_owned());
        parsed
    };
    assert_eq!(
        text(both.pipeline.run(pattern()).await.unwrap()).await,
        "here"
    );
    let alone = bench(vec![cloud.clone()], 4);
    let refusal = alone.pipeline.run(pattern()).await.unwrap_err();
    let Fault::NoCandidate { reasons } = &refusal.fault else {
        panic!("{refusal:?}");
    };
    assert_eq!(*reasons, [format!("fake: {}", trunk::UNMASKABLE)]);
    assert!(cloud.calls().is_empty());
    assert!(both.cache.0.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_kept_reply_holds_no_finding_and_replays_with_the_callers_own() {
    let cloud = Fake::new("fake", Trust::Public, Script::Echoes);
    let bench = bench(vec![cloud.clone()], 4);
    let first = bench
        .pipeline
        .run(parsed("auto", "mail ann@example.org"))
        .await
        .unwrap();
    assert_eq!(text(first).await, "mail ann@example.org");
    for reply in bench.cache.0.lock().unwrap().values() {
        assert!(!reply.reply.choices[0].text().contains("ann"));
    }
    let other = bench
        .pipeline
        .run(parsed("auto", "mail bob@example.org"))
        .await
        .unwrap();
    assert_eq!(other.route.to_string(), "cache:exact");
    assert_eq!(text(other).await, "mail bob@example.org");
}

#[tokio::test(start_paused = true)]
async fn log_probabilities_are_kept_and_speak_of_placeholders() {
    let cloud = Fake::new("fake", Trust::Public, Script::Echoes);
    let bench = bench(vec![cloud.clone()], 4);
    for (name, route) in [("ann", "cloud:fake"), ("bob", "cache:exact")] {
        let said = format!("mail {name}@example.org");
        let answer = bench.pipeline.run(parsed("auto", &said)).await.unwrap();
        assert_eq!(answer.route.to_string(), route);
        let choice = collect(answer.stream).await.unwrap().choices.remove(0);
        assert_eq!(choice.text(), said);
        let tokens = choice.logprobs.iter().map(|one| one.token.text.as_str());
        assert_eq!(tokens.collect::<String>(), cloud.calls()[0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_over_raw_findings_is_not_kept() {
    let local = Fake::new("local", Trust::Device, Script::Echoes);
    let bench = bench(vec![local.clone()], 4);
    let answer = bench
        .pipeline
        .run(parsed("local", "mail ann@example.org"))
        .await
        .unwrap();
    assert_eq!(text(answer).await, "mail ann@example.org");
    assert_eq!(local.calls(), ["mail ann@example.org"]);
    assert!(bench.cache.0.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_empty_reply_is_an_answer() {
    let cloud = Fake::new("fake", Trust::Public, Script::Empty);
    let bench = bench(vec![cloud], 4);
    let answer = bench
        .pipeline
        .run(parsed("auto", "question"))
        .await
        .unwrap();
    assert_eq!(collect(answer.stream).await.unwrap().choices[0].text(), "");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_model_names_the_nearest() {
    let local = Fake::new("local", Trust::Device, Script::Says("x"));
    let bench = bench(vec![local], 4);
    let refusal = bench.pipeline.run(parsed("tinny", "hi")).await.unwrap_err();
    assert_eq!(
        refusal.fault,
        Fault::ModelNotFound {
            asked: "tinny".into(),
            nearest: Some("tiny".into())
        }
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_goes_no_higher_than_its_key_may() {
    use domain::Priority::{Batch, Interactive};
    let local = Fake::new("local", Trust::Device, Script::Says("x"));
    let bench = bench(vec![Arc::clone(&local)], 4);
    let cases = [
        (Interactive, Interactive, Interactive),
        (Interactive, Batch, Batch),
        (Batch, Interactive, Batch),
    ];
    for (of_key, asked_for, _) in cases {
        let mut asked = parsed("tiny", "hi");
        asked.context.cache = CacheWish::Bypass;
        asked.context.priority = asked_for;
        asked.principal.priority = of_key;
        text(bench.pipeline.run(asked).await.unwrap()).await;
    }
    let wanted = cases.map(|(_, _, wanted)| wanted);
    assert_eq!(*local.priorities.lock().unwrap(), wanted);
}

#[tokio::test(start_paused = true)]
async fn a_key_asks_only_for_models_it_grants() {
    let local = Fake::new("local", Trust::Device, Script::Says("x"));
    let bench = bench(vec![local], 4);
    let mut asked = parsed("tiny", "hi");
    asked.principal.models = Some(vec!["auto".into()]);
    let refusal = bench.pipeline.run(asked).await.unwrap_err();
    assert!(matches!(refusal.fault, Fault::Forbidden { .. }));
    let granted = Principal {
        models: Some(vec!["auto".into()]),
        ..Principal::anyone()
    };
    let listed: Vec<_> = bench
        .pipeline
        .models(&granted)
        .into_iter()
        .map(|listing| listing.id)
        .collect();
    assert_eq!(listed, ["auto"]);
}

/// Seen: a key that may name no model had any loaded by its name, and was told how it reads.
#[tokio::test]
async fn a_key_with_routes_loads_and_reads_by_name_only_with_the_route_for_it() {
    let bench = bench(vec![Fake::new("local", Trust::Device, Script::Echoes)], 4);
    for (route, name, is_granted) in [
        ("default", "local", false),
        ("default", "auto", true),
        ("model-named", "local", true),
    ] {
        let key = Principal {
            routes: Some([route.to_owned()].into()),
            ..Principal::anyone()
        };
        let loaded = bench.pipeline.load(&key, "r-1".into(), &name.into()).await;
        assert_eq!(loaded.is_ok(), is_granted, "{route} {name}");
        let prompt = parsed(name, "text").request;
        let counted = bench
            .pipeline
            .count_prompt(&key, "r-1".into(), prompt)
            .await;
        assert_eq!(counted.is_ok(), is_granted, "{route} {name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_reaches_no_adapter_that_it_does_not_grant() {
    let local = Fake::with_models(&["tiny", "pirate"], Script::Says("arr"));
    let bench = bench(vec![Arc::clone(&local)], 16);
    let asked = |models: Option<&[&str]>, model: &str, lora: Option<&str>| {
        let mut asked = parsed(model, "hi");
        asked.principal.models =
            models.map(|models| models.iter().copied().map(ModelAlias::new).collect());
        let lora = lora.map(|lora| ("lora".to_owned(), serde_json::from_str(lora).unwrap()));
        asked.request.extra.extend(lora);
        bench.pipeline.run(asked)
    };
    let first = Some(r#"[{"id": 0}]"#);
    // Its reply is kept, for the whole team.
    text(asked(None, "tiny", first).await.unwrap()).await;
    let refused = [
        (&["tiny"][..], "tiny", first),
        (
            &["tiny"],
            "tiny",
            Some(r#"[{"name": "pirate", "scale": 2}]"#),
        ),
        (&["local"], "local", first),
        (&["auto"], "auto", first),
        (&["tiny"], "pirate", None),
    ];
    for (models, model, lora) in refused {
        let refusal = asked(Some(models), model, lora).await.unwrap_err();
        let is_forbidden = matches!(refusal.fault, Fault::Forbidden { .. });
        assert!(is_forbidden, "{models:?} {model} {lora:?}: {refusal:?}");
    }
    let calls = local.calls().len();
    assert_eq!(calls, 1);
    let granted = [
        (&["tiny", "pirate"][..], "tiny", first),
        (&["tiny"], "tiny", None),
        (&["pirate"], "pirate", None),
    ];
    for (models, model, lora) in granted {
        text(asked(Some(models), model, lora).await.unwrap()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn models_are_listed_once_under_the_names_that_work() {
    let cloud = Fake::new("fake", Trust::Public, Script::Says("yes"));
    let local = Fake::new("local", Trust::Device, Script::Says("no"));
    let bench = bench(vec![local, cloud], 4);
    let listed: Vec<_> = bench
        .pipeline
        .models(&Principal::anyone())
        .into_iter()
        .map(|listing| listing.id)
        .collect();
    assert_eq!(listed, ["auto", "local", "tiny", "fake/big"]);
    for name in listed {
        let answer = bench.pipeline.run(parsed(&name, "hi")).await.unwrap();
        text(answer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stand_in_for_a_backend_known_to_be_down_says_so_and_is_not_kept() {
    let cloud = Fake::new("fake", Trust::Public, Script::Down);
    let local = Fake::new("local", Trust::Device, Script::Says("here"));
    let bench = bench(vec![local, cloud.clone()], 4);
    let answer = bench
        .pipeline
        .run(parsed("auto", "question"))
        .await
        .unwrap();
    assert!(
        answer.reason.ends_with("; fallback: fake down"),
        "{}",
        answer.reason
    );
    assert_eq!(text(answer).await, "here");
    assert!(cloud.calls().is_empty());
    assert!(bench.cache.0.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_fallback_that_is_down_changes_nothing() {
    let cloud = Fake::new("fake", Trust::Public, Script::Says("yes"));
    let local = Fake::new("local", Trust::Device, Script::Down);
    let bench = bench(vec![local, cloud], 4);
    let answer = bench
        .pipeline
        .run(parsed("auto", "question"))
        .await
        .unwrap();
    assert!(!answer.reason.contains("fallback"), "{}", answer.reason);
    text(answer).await;
    assert_eq!(bench.cache.0.lock().unwrap().len(), 1);
}

/// Cut at the patience for upstreams, a pool with one endpoint that hung sent chats to the cloud.
#[tokio::test(start_paused = true)]
async fn a_pool_has_time_for_all_its_attempts_before_a_chat_goes_to_the_cloud() {
    let wait = Patience::default().remote * 3;
    let pool = Fake::new("gpu", Trust::Tenant, Script::SaysAfter(wait, "here"));
    let cloud = Fake::new("fake", Trust::Public, Script::Says("there"));
    let bench = bench(vec![pool, cloud.clone()], 4);
    let mut parsed = parsed("auto", "question");
    let gold = ("x-tier".to_owned(), "gold".to_owned());
    parsed.context.headers.push(gold);
    parsed.request.delivery = Delivery::Streamed {
        includes_usage: false,
    };
    let answer = bench.pipeline.run(parsed).await.unwrap();
    assert_eq!(text(answer).await, "here");
    assert!(cloud.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_remote_reply_asked_for_whole_may_take_minutes() {
    let cloud = Fake::new(
        "fake",
        Trust::Public,
        Script::SaysAfter(Duration::from_secs(90), "yes"),
    );
    let local = Fake::new("local", Trust::Device, Script::Says("no"));
    let bench = bench(vec![local, cloud], 4);
    let answer = bench
        .pipeline
        .run(parsed("auto", "question"))
        .await
        .unwrap();
    assert_eq!(text(answer).await, "yes");
}

#[tokio::test(start_paused = true)]
async fn a_header_that_chooses_who_answers_chooses_the_kept_reply_too() {
    let cloud = Fake::new("fake", Trust::Public, Script::Says("yes"));
    let local = Fake::new("local", Trust::Device, Script::Says("no"));
    let bench = bench(vec![local, cloud], 4);
    for (tier, route) in [
        (None, "cloud:fake"),
        (Some("gold"), "local:tiny"),
        (None, "cache:exact"),
        (Some("gold"), "cache:exact"),
    ] {
        let mut asked = parsed("auto", "question");
        let tier = tier.map(|tier| ("x-tier".to_owned(), tier.to_owned()));
        asked.context.headers.extend(tier);
        let answer = bench.pipeline.run(asked).await.unwrap();
        assert_eq!(answer.route.to_string(), route);
        text(answer).await;
    }
}

/// A reload with a changed pool took the node out of its balancer until every endpoint was asked.
#[tokio::test]
async fn a_pool_that_came_with_a_reload_does_not_take_the_node_out() {
    let pool = |script| Fake::new("gpu", Trust::Tenant, script);
    let engine = |script| Fake::new("local", Trust::Device, script);
    let starting = bench(vec![pool(Script::Starting)], 4).pipeline;
    assert!(!starting.readiness().is_ready);
    let pipeline = bench(vec![pool(Script::Says("yes"))], 4).pipeline;
    assert!(pipeline.readiness().is_ready);
    for (backends, is_ready) in [
        (vec![pool(Script::Starting)], true),
        (
            vec![engine(Script::Says("yes")), pool(Script::Starting)],
            true,
        ),
        (vec![pool(Script::Down)], false),
        (
            vec![engine(Script::Starting), pool(Script::Says("yes"))],
            false,
        ),
    ] {
        pipeline.reload(snapshot(backends));
        let readiness = pipeline.readiness();
        assert_eq!(readiness.is_ready, is_ready, "{readiness:?}");
    }
}

#[tokio::test]
async fn a_prompt_that_no_model_here_can_read_is_estimated() {
    let cloud = Fake::new("cloud", Trust::Public, Script::Says("x"));
    let bench = bench(vec![Arc::clone(&cloud)], 4);
    let count = async |model: &str| {
        let chat = parsed(model, "What is the capital of Portugal?").request;
        let id = RequestId::new("r");
        let anyone = Principal::anyone();
        bench.pipeline.count_prompt(&anyone, id, chat).await
    };
    for model in ["cloud/big", "auto"] {
        let counted = count(model).await.unwrap();
        let PromptCount::Estimated(tokens) = counted else {
            panic!("{model}: {counted:?}");
        };
        // The sentence has seven tokens; the rest is what chat formats add.
        assert!((7..20).contains(&tokens), "{model}: {tokens}");
    }
    let unknown = count("cloud/bigg").await.unwrap_err();
    assert!(matches!(unknown.fault, Fault::ModelNotFound { .. }));
    assert!(cloud.calls().is_empty());
}

/// What is asked is looked at when somebody is asked who has to be paid for it, and not before.
#[tokio::test(start_paused = true)]
async fn a_prompt_is_counted_where_its_answer_costs_something() {
    let engine = BackendError::Engine("broken");
    let local = Fake::new("local", Trust::Device, Script::Fails(engine));
    let cloud = Fake::new("fake", Trust::Public, Script::Breaks("half"));
    let mut bench = bench(vec![local, cloud], 4);
    let mut asked = parsed("auto", "a question of some length");
    asked.context.headers = vec![("x-tier".into(), "gold".into())];
    let answer = bench.pipeline.run(asked).await.unwrap();
    assert_eq!(answer.route.to_string(), "cloud:fake");
    assert!(collect(answer.stream).await.is_err());
    let record = bench.records.recv().await.unwrap();
    assert!(record.is_usage_counted);
    assert!(record.usage.unwrap().prompt_tokens > Tokens(3));
}
