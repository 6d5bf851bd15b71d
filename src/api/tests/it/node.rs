//! A node with one scripted back end, served on a port of its own.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::{AdminToken, AdminTokens, Api, IngressConfig, Rights, Scrape, SignIn};
use async_trait::async_trait;
use domain::{
    Abilities, Backend, BackendCard, BackendError, BadRequest, CacheAway, CacheKey, CacheStore,
    ChangeLog, ChatEvent, ChatRequest, ChatStream, EmbedInput, Embedder, EmbedderCard, Embeddings,
    FinishReason, Health, HealthState, Kept, KeyDigest, KeyDirectory, KeyTrouble, ModelCard,
    Moderation, Outbound, Principal, Purge, ReadToken, RecordSink, Reranker, Scores, Started,
    TextPart, TextToRead, Tier, Tokenizer, Tokens, Trust, Usage,
};
use futures::{StreamExt, stream};
use hashing::sha256;
use pipeline::{CacheRules, Parts, Patience, Pipeline, QueueRules, Snapshot};
use policy::{CacheSecret, RoutePolicy, ScanRules};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub type Event = Result<ChatEvent, BackendError>;

/// What the back end does with a call.
pub enum Script {
    /// Answers every call with these.
    Says(Vec<Event>),
    /// Answers the first call with what is sent; the sender below learns of the stream's end.
    Live(Mutex<Option<(mpsc::Receiver<Event>, oneshot::Sender<()>)>>),
    /// Says so many words in each reply, one each so often; counts the words it was asked for.
    Paced(usize, Duration, Arc<AtomicUsize>),
    Panics,
}

struct Scripted {
    card: BackendCard,
    script: Script,
    health: HealthState,
    /// Models that judge; what they say is the calls' number of texts.
    judges: Vec<String>,
    calls: Arc<Mutex<Vec<Outbound>>>,
}

#[async_trait]
impl Backend for Scripted {
    fn card(&self) -> &BackendCard {
        &self.card
    }

    fn health(&self) -> Health {
        Health {
            reason: (self.health == HealthState::Down).then_some("as told"),
            ..Health::of(self.health, None)
        }
    }

    fn tokenizer(&self, _model: &str) -> Option<&dyn Tokenizer> {
        let is_loaded = self.health == HealthState::Ready;
        is_loaded.then_some(&Bytes as &dyn Tokenizer)
    }

    fn moderation_models(&self) -> &[String] {
        &self.judges
    }

    async fn moderate(&self, call: Outbound) -> Result<Moderation, BackendError> {
        let count = call.request().messages.len();
        self.calls.lock().unwrap().push(call);
        let body = format!(r#"{{"results":{count}}}"#).into();
        Ok(Moderation { body })
    }

    async fn chat(&self, call: Outbound) -> Result<ChatStream, BackendError> {
        self.calls.lock().unwrap().push(call);
        match &self.script {
            Script::Says(events) => Ok(stream::iter(events.clone()).boxed()),
            Script::Live(once) => {
                let (events, ended) = once.lock().unwrap().take().expect("one call only");
                // `ended` goes down with the stream.
                let live = stream::unfold((events, ended), |(mut events, ended)| async move {
                    Some((events.recv().await?, (events, ended)))
                });
                Ok(live.boxed())
            }
            Script::Paced(words, every, asked) => {
                let (words, every, asked) = (*words, *every, Arc::clone(asked));
                let said = stream::unfold(0, move |at| {
                    let asked = Arc::clone(&asked);
                    async move {
                        if at < words && !every.is_zero() {
                            tokio::time::sleep(every).await;
                        }
                        asked.fetch_add(1, Ordering::Relaxed);
                        (at < words).then(|| (text("word "), at + 1))
                    }
                });
                let begun = stream::iter([started()]);
                Ok(begun.chain(said).chain(stream::iter(end())).boxed())
            }
            Script::Panics => panic!("scripted"),
        }
    }
}

/// Bytes are tokens; 256 stands at the beginning, where one is wanted. A chat is its first message.
struct Bytes;

#[async_trait]
impl Tokenizer for Bytes {
    async fn tokenize(&self, text: TextToRead) -> Result<Vec<ReadToken>, BackendError> {
        let first = text.adds_special.then_some(256);
        let parts = text.parts.iter().flat_map(|part| match part {
            TextPart::Text(text) => text.bytes().map(u32::from).collect::<Vec<_>>(),
            TextPart::Token(token) => vec![*token],
        });
        first.into_iter().chain(parts).map(read).collect()
    }

    async fn tokenize_chat(&self, request: ChatRequest) -> Result<Vec<ReadToken>, BackendError> {
        let text = request.messages[0].text();
        text.bytes().map(|byte| read(byte.into())).collect()
    }

    async fn detokenize(&self, tokens: Vec<u32>) -> Result<Vec<u8>, BackendError> {
        let tokens = tokens.into_iter().map(read);
        let tokens: Result<Vec<_>, _> = tokens.collect();
        Ok(tokens?.into_iter().flat_map(|token| token.piece).collect())
    }

    async fn render(&self, request: ChatRequest) -> Result<String, BackendError> {
        Ok(format!("<{}>", request.messages[0].text()))
    }
}

fn read(id: u32) -> Result<ReadToken, BackendError> {
    if id > 256 {
        let reason = BadRequest::at("content", "no such token");
        return Err(BackendError::Declined { reason });
    }
    let piece = u8::try_from(id).map_or_else(|_| b"<s>".to_vec(), |byte| vec![byte]);
    Ok(ReadToken { id, piece })
}

/// A document's score is how often it has the query in it, less one.
struct Finder(EmbedderCard);

#[async_trait]
impl Reranker for Finder {
    fn card(&self) -> &EmbedderCard {
        &self.0
    }

    fn health(&self) -> Health {
        Health::READY
    }

    async fn rank(&self, query: String, documents: Vec<String>) -> Result<Scores, BackendError> {
        let score = |document: &String| document.matches(&query).count() as f32 - 1.0;
        Ok(Scores {
            scores: documents.iter().map(score).collect(),
            prompt_tokens: 7,
        })
    }
}

/// A text's vector is its length and 0.
struct Lengths(EmbedderCard);

#[async_trait]
impl Embedder for Lengths {
    fn card(&self) -> &EmbedderCard {
        &self.0
    }

    fn health(&self) -> Health {
        Health::READY
    }

    async fn embed(&self, inputs: Vec<EmbedInput>) -> Result<Embeddings, BackendError> {
        let vectors = inputs.iter().map(|input| match input {
            EmbedInput::Text(text) => vec![text.len() as f32, 0.0],
            EmbedInput::Tokens(tokens) => vec![tokens.len() as f32, 0.0],
        });
        Ok(Embeddings {
            vectors: vectors.collect(),
            prompt_tokens: 7,
        })
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

/// Knows one key, if any.
struct OneKey(Option<KeyDigest>);

impl KeyDirectory for OneKey {
    fn is_required(&self) -> bool {
        self.0.is_some()
    }

    fn find(&self, digest: &KeyDigest) -> Result<Principal, KeyTrouble> {
        let is_known = self.0 == Some(*digest);
        is_known.then(Principal::anyone).ok_or(KeyTrouble::Unknown)
    }
}

struct NoScrape;

impl Scrape for NoScrape {
    fn text(&self) -> String {
        "node_up 1\n".to_owned()
    }
}

/// How to build a node; the default answers every call with "hello there".
pub struct Recipe {
    pub script: Script,
    pub health: HealthState,
    pub key: Option<&'static str>,
    /// Whether there is a model for embeddings, `lengths`.
    pub embeds: bool,
    /// Whether there is a model that judges texts, `judge`.
    pub judges: bool,
    pub ingress: IngressConfig,
    pub sinks: Vec<Arc<dyn RecordSink>>,
    /// Of operators.
    pub tokens: Vec<AdminToken>,
    pub sign_in: Option<Arc<SignIn>>,
    pub changes: Option<Arc<dyn ChangeLog>>,
    pub rights: Option<Rights>,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            script: Script::Says(hello()),
            health: HealthState::Ready,
            key: None,
            embeds: false,
            judges: false,
            ingress: IngressConfig::default(),
            sinks: Vec::new(),
            tokens: Vec::new(),
            sign_in: None,
            changes: None,
            rights: None,
        }
    }
}

/// A node that is not served.
pub struct Built {
    pub api: Arc<Api>,
    pub calls: Arc<Mutex<Vec<Outbound>>>,
    pub recording: JoinSet<()>,
}

pub struct Node {
    pub api: Arc<Api>,
    pub client: SocketAddr,
    pub admin: SocketAddr,
    pub stop: CancellationToken,
    pub serving: JoinSet<()>,
    /// What the back end was asked.
    pub calls: Arc<Mutex<Vec<Outbound>>>,
    _recording: JoinSet<()>,
}

const ROUTES: &str = r#"
default = "all"
[outcomes.all]
candidates = ["local"]
"#;

impl Recipe {
    pub fn build(self) -> Built {
        let calls: Arc<Mutex<Vec<Outbound>>> = Arc::default();
        let model = ModelCard {
            name: "tiny".into(),
            context_tokens_max: Some(Tokens(2048)),
            abilities: Abilities::all(),
        };
        let backend = Scripted {
            card: BackendCard {
                name: "local".into(),
                tier: Tier::Engine,
                is_sealed: false,
                trust: Trust::Device,
                models: vec![model],
            },
            script: self.script,
            health: self.health,
            judges: Vec::from_iter(self.judges.then(|| "judge".to_owned())),
            calls: Arc::clone(&calls),
        };
        let finder = Finder(EmbedderCard {
            name: "finder".into(),
            dimensions: 1,
            input_tokens_max: 512,
        });
        let lengths = Lengths(EmbedderCard {
            name: "lengths".into(),
            dimensions: 2,
            input_tokens_max: 512,
        });
        let digest = self.key.map(|key| KeyDigest(sha256(key)));
        let (pipeline, recorder) = Pipeline::new(Parts {
            snapshot: Snapshot::new(
                RoutePolicy::parse("test.toml", ROUTES).unwrap(),
                ScanRules::compile(&[], &[]).unwrap(),
                vec![Arc::new(backend)],
                BTreeMap::new(),
                CacheRules {
                    is_enabled: true,
                    secret: CacheSecret::new([7; 32]),
                    ttl: Duration::from_secs(60),
                    reply_bytes_max: 1024,
                },
                Patience::default(),
            )
            .with_embedders(Vec::from_iter(
                self.embeds.then(|| (vec![], Arc::new(lengths) as _)),
            ))
            .with_rerankers(vec![(vec!["second".into()], Arc::new(finder) as _)]),
            cache: Arc::new(MapCache::default()),
            reuse: None,
            shadows: None,
            keys: Arc::new(OneKey(digest)),
            quotas: None,
            queueing: QueueRules::default(),
            sinks: self.sinks,
            exchanges_max: 512,
        });
        let api = Api::new(Arc::new(pipeline), Arc::new(NoScrape), self.ingress);
        let api = match self.changes {
            Some(changes) => api.with_changes(changes),
            None => api,
        };
        let api = match self.rights {
            Some(rights) => api.with_rights(rights),
            None => api,
        };
        api.set_tokens(AdminTokens::new(self.tokens));
        api.set_sign_in(self.sign_in);
        let api = Arc::new(api);
        let mut recording = JoinSet::new();
        recording.spawn(recorder.run());
        Built {
            api,
            calls,
            recording,
        }
    }

    pub async fn start(self) -> Node {
        let Built {
            api,
            calls,
            recording,
        } = self.build();
        let stop = CancellationToken::new();
        let mut serving = JoinSet::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = listener.local_addr().unwrap();
        serving.spawn(Arc::clone(&api).serve_client(listener, stop.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = listener.local_addr().unwrap();
        serving.spawn(Arc::clone(&api).serve_admin(listener, stop.clone()));
        Node {
            api,
            client,
            admin,
            stop,
            serving,
            calls,
            _recording: recording,
        }
    }
}

/// A node that streams what the test sends.
pub struct Live {
    pub node: Node,
    pub events: mpsc::Sender<Event>,
    /// Resolves when the back end's stream was dropped.
    pub ended: oneshot::Receiver<()>,
}

pub async fn live(ingress: IngressConfig) -> Live {
    // As a node does at its start: else the first count of tokens would be in what is timed.
    policy::warm_up();
    let (events, inbox) = mpsc::channel(8);
    let (ending, ended) = oneshot::channel();
    let script = Script::Live(Mutex::new(Some((inbox, ending))));
    let node = Recipe {
        script,
        ingress,
        ..Recipe::default()
    }
    .start()
    .await;
    Live {
        node,
        events,
        ended,
    }
}

pub async fn node() -> Node {
    Recipe::default().start().await
}

pub fn started() -> Event {
    Ok(ChatEvent::Started(Started {
        model: "tiny".into(),
        reply_id: None,
        fingerprint: None,
    }))
}

pub fn text(text: &str) -> Event {
    Ok(ChatEvent::Text {
        choice: 0,
        text: text.into(),
    })
}

pub fn end() -> [Event; 2] {
    [
        Ok(ChatEvent::ChoiceEnded {
            choice: 0,
            reason: FinishReason::Stop,
        }),
        Ok(ChatEvent::Usage(Usage {
            prompt_tokens: Tokens(3),
            completion_tokens: Tokens(2),
            ..Usage::default()
        })),
    ]
}

pub fn hello() -> Vec<Event> {
    let mut events = vec![started(), text("hello "), text("there")];
    events.extend(end());
    events
}
