//! The configuration as written: every key, its default and its words.
//!
//! The doc comments here are the reference: `hedge config schema` prints them. Nothing is judged in
//! this file; [`super::Config`] does that.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use super::audit::RawAudit;
use super::events::RawEvents;
use super::failures::{RawBalance, RawBreaker, RawRetry};
use super::images::RawImages;
use super::oidc::RawOidc;
use super::prices::RawPrice;
use super::raw_cache::RawCache;
use super::raw_kv::{FlashAttention, GpuLayers, KvType, KvUnified};
use super::raw_pools::RawPool;
use super::raw_providers::{RawAuth, RawAws, RawEntra, RawQuirks};
use super::raw_quotas::{RawLimit, RawModel, RawOrganisation, RawTag, RawTeam};
use super::raw_sealed::{RawGateway, RawRelay};
use super::records::RawRecords;
use super::retention::RawRetention;
use super::savings::RawSavings;
use super::shared::RawStore;
use super::telemetry::RawTelemetry;
use super::trouble::{RawContinues, RawOffline, RawRescue};

/// The whole of `hedge.toml`. Everything has a default, so an empty file is a complete one.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    /// Where clients connect: `ADDR:PORT`. An address beyond this machine needs keys. Left out:
    /// `127.0.0.1:8787`, but nowhere at a relay.
    pub listen: Option<String>,
    pub admin: RawAdmin,
    pub ingress: RawIngress,
    /// API keys. With none, callers need no key and only this machine may call.
    pub keys: Vec<RawKey>,
    /// Limits of teams. Their keys say which one they are of.
    pub teams: Vec<RawTeam>,
    /// Limits of everybody together.
    pub organisation: RawOrganisation,
    /// Limits of requests by their tags.
    pub tags: Vec<RawTag>,
    /// Limits of requests by the model that they ask for.
    pub models: Vec<RawModel>,
    pub local: RawLocal,
    pub embeddings: RawEmbeddings,
    pub rerank: RawRerank,
    /// Somebody's services, in order of preference.
    pub upstreams: Vec<RawUpstream>,
    /// A folder with files `NAME.toml` of further providers, or of other ones by the same names.
    pub providers_dir: Option<String>,
    /// Engines of your own on other machines, for when this one is outgrown.
    pub pools: Vec<RawPool>,
    /// Relays: what is for them is sealed on this machine, and opened there.
    pub relays: Vec<RawRelay>,
    /// Makes this node a relay. Left out: it is none.
    pub gateway: Option<RawGateway>,
    /// Your own prices, over those that hedge knows.
    pub prices: Vec<RawPrice>,
    pub savings: RawSavings,
    pub records: RawRecords,
    pub retention: RawRetention,
    pub store: RawStore,
    /// Other names for models: `fast = "local"`, or a list tried in order:
    /// `smart = ["openai/gpt-5", "local"]`.
    pub aliases: BTreeMap<String, OneOrMany>,
    /// Models that are equals under one name, among which the load is shared.
    pub balance: BTreeMap<String, RawBalance>,
    pub routes: RawRoutes,
    pub retry: RawRetry,
    pub breaker: RawBreaker,
    pub cache: RawCache,
    pub responses: RawResponses,
    pub privacy: RawPrivacy,
    pub audit: RawAudit,
    pub events: RawEvents,
    pub limits: RawLimits,
    pub rescue: RawRescue,
    pub offline: RawOffline,
    pub images: RawImages,
    pub shutdown: RawShutdown,
    pub reload: RawReload,
    pub log: RawLog,
    pub telemetry: RawTelemetry,
    pub depot: RawDepot,
}

/// The listener for metrics and administration, apart from the clients' one.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawAdmin {
    /// `ADDR:PORT`. Left out: `127.0.0.1:8788` beside the default client address, `127.0.0.1:8789` at a
    /// relay, otherwise any free port of this machine.
    pub listen: Option<String>,
    /// Who may use it. With neither these nor `oidc`, everybody on this machine; an address beyond it needs some.
    pub tokens: Vec<RawAdminToken>,
    /// With whom people sign in, beside the tokens. Left out: nobody does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc: Option<RawOidc>,
}

/// An operator's token for the admin listener.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name", "secret"]))]
pub struct RawAdminToken {
    /// Who holds it, for the audit log. Required.
    pub name: Option<String>,
    /// What it lets do.
    pub role: RawRole,
    /// `env:NAME`, `file:/path`, or `sha256:HEX`. Required.
    pub secret: Option<SecretText>,
}

/// Each lets do what the one before does, and more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawRole {
    /// Look: metrics, records, keys without their secrets. The default.
    #[default]
    Viewer,
    /// Change keys, teams and limits, and remove what is cached.
    Operator,
    /// All that there is.
    Owner,
}

/// What is accepted from the network before a request is read.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawIngress {
    /// Further names clients may put into `Host`, beside the names of this machine and the
    /// address listened on. Guards against DNS rebinding.
    pub hosts: Vec<String>,
    /// Origins of web pages that may call, as `https://app.example`. None by default.
    pub origins: Vec<String>,
    /// Serve addresses beyond this machine without any key. Anyone who reaches the port can then
    /// spend your upstreams' money.
    pub allow_open: bool,
    /// Ask for a key even where none is configured: for a node whose keys are all made while it runs.
    /// Once one was made, keys are asked for anyway.
    pub require_keys: bool,
    /// Networks of proxies in front, as `10.0.0.0/8`, whose `X-Forwarded-For` says where a request comes
    /// from: for the bound on requests of one address, and for keys that may come from some networks alone.
    /// Nobody else's is believed.
    pub proxies: Vec<String>,
    /// Largest request body.
    pub body_bytes_max: u64,
    /// Open connections; more are refused at once.
    pub connections_max: u32,
    /// Open connections from one address other than this machine.
    pub connections_per_address_max: u32,
    /// Time for a client to send its headers.
    pub header_timeout_ms: u64,
    /// Longest silence inside a request body.
    pub body_idle_ms: u64,
    /// Requests per second from one address other than this machine, on average.
    pub requests_per_second_max: u32,
    /// Requests one address may send at once before that average counts.
    pub requests_burst_max: u32,
}

impl Default for RawIngress {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            origins: Vec::new(),
            allow_open: false,
            require_keys: false,
            proxies: Vec::new(),
            body_bytes_max: 4 * 1024 * 1024,
            connections_max: 4096,
            connections_per_address_max: 256,
            header_timeout_ms: 10_000,
            body_idle_ms: 10_000,
            requests_per_second_max: 50,
            requests_burst_max: 200,
        }
    }
}

/// One API key.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name", "secret"]))]
pub struct RawKey {
    /// The key's public name, for logs and metrics. Required.
    pub name: Option<String>,
    /// The team it belongs to. Replies are cached per team, and the local model is shared fairly
    /// between teams.
    pub team: Option<String>,
    /// `env:NAME`, `file:/path`, or `sha256:HEX`, which keeps no key at all on this machine
    /// (`printf %s "$KEY" | sha256sum`). Required.
    pub secret: Option<SecretText>,
    /// Models the key may name; all when left out.
    pub models: Option<Vec<String>>,
    /// Routes that its requests may take: names of rules in `routes.file`, `default` where no rule holds,
    /// `model-named` where the request names its model. All when left out.
    pub routes: Option<Vec<String>>,
    /// Networks that it may come from, as `10.0.0.0/8` or one address; any when left out.
    pub networks: Option<Vec<String>>,
    /// `batch`: all its requests wait for the local model behind interactive ones.
    pub priority: RawPriority,
    /// How much may be used under the key, within what its team may.
    pub limits: Vec<RawLimit>,
    /// Of one reply, all its choices together. What asks for more is refused, and what names no bound
    /// gets this one.
    pub output_tokens_max: Option<u32>,
}

/// The highest priority that requests under a key may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawPriority {
    #[default]
    Interactive,
    Batch,
}

/// The model on this machine.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawLocal {
    pub enabled: bool,
    /// A path to a GGUF file, or the name of a model that `hedge models list` shows. Left out: the
    /// small model inside this binary.
    pub model: Option<String>,
    /// A path to the model's projector, mostly called `mmproj-….gguf`: with it the model reads images.
    /// Left out: it reads text only.
    pub projector: Option<String>,
    /// What callers name it. Left out: taken from the file.
    pub name: Option<String>,
    /// A folder with a file `NAME.toml` for each further model, which callers name NAME. A file has
    /// the keys of this section but for `enabled`, `name`, `models_dir`, `memory_bytes_max` and
    /// `load_wait_ms_max`; what it leaves out is as here. Left out: the folder of model files,
    /// `depot.dir`.
    pub models_dir: Option<String>,
    /// Memory for all models together, as foretold from their files. Left out: nine tenths of what is
    /// free when the server starts.
    pub memory_bytes_max: Option<u64>,
    /// How long a request waits for its model to be loaded; then the next candidate, or 503.
    pub load_wait_ms_max: u64,
    /// When it is loaded. `start`: with the server. `demand`: when a request comes for it. Left out:
    /// `start`, but `demand` for further models.
    pub load: Option<Load>,
    /// Seconds without a request after which it is unloaded; 0 unloads it after the last. Left out:
    /// 300 where it is unloaded at all.
    pub keep_alive_s: Option<u64>,
    /// Once loaded it stays, whatever others need. Left out: true, but false for further models, for
    /// `load = "demand"` and where `keep_alive_s` is set.
    pub pinned: Option<bool>,
    /// Compute a first token right after loading, so that nobody waits for memory to be read in.
    pub warm_up: bool,
    /// Prompt and reply together. Left out: what the model was trained for, up to 8192.
    pub context_tokens_max: Option<u32>,
    /// A reply that was asked to be longer than the context has room for: `refuse` ends it there, with
    /// the reason `length`. `shift` goes on without the older half of what followed the prompt, and
    /// says in its usage how many tokens it dropped. Too long a prompt is refused either way.
    pub context_shift: ContextShift,
    /// Replies generated at the same time.
    pub slots_max: u32,
    /// Requests that may wait for a slot; more go to the next candidate or are refused.
    pub queue_max: u32,
    /// Prompt tokens computed in one step.
    pub batch_tokens_max: u32,
    /// By how much a prompt may put off the next tokens of the replies under way: it is cut into
    /// slices that are computed in so long. Longer ones give more tokens a second, in larger gaps.
    pub prompt_delay_ms_max: u64,
    /// CPU threads. Left out: one per physical core, and one alone for a model of up to 20 M
    /// parameters.
    pub threads: Option<u32>,
    /// Compute with fewer of them while others keep the processor busy and that is faster, as
    /// measured.
    pub threads_adapt: bool,
    /// Layers to put on GPUs, in builds for them, the output counted as one; with 99 all of most
    /// models. `auto`: as many as fit into their free memory, none where no GPU is.
    pub gpu_layers: GpuLayers,
    /// Tokens of all replies under way that are kept in memory. Left out: enough for a few full
    /// contexts.
    pub kv_tokens_max: Option<u32>,
    /// As what the keys of those tokens are kept: `f16`, `f32`, `bf16`, `q8_0`, `q5_1`, `q5_0`,
    /// `q4_1`, `q4_0` or `iq4_nl`. Packed ones take less memory and, on a CPU, mostly more time.
    pub kv_type_k: KvType,
    /// The same for their values. Packed ones need flash attention.
    pub kv_type_v: KvType,
    /// llama.cpp's flash attention. `auto`: wherever the model allows it.
    pub flash_attention: FlashAttention,
    /// Whether all replies share one pool of that memory. `false`: each has a whole context of its
    /// own. `auto`: so for small models on a CPU, which are faster with it.
    pub kv_unified: KvUnified,
    /// Sampling temperature where the request names none. Left out: 0 for the model inside this
    /// binary, 0.7 for others.
    pub temperature_default: Option<f32>,
    /// Tokens generated where the request sets no bound. Left out: what the context has room for.
    pub output_tokens_default: Option<u32>,
    /// Events one reply may be ahead of its reader before its slot pauses.
    pub events_max: u32,
    /// How long a paused slot waits for its reader before it is freed.
    pub stall_ms_max: u64,
    /// How long the model's process may show no progress before it is ended and started again.
    pub hang_ms_max: u64,
    /// Where the model runs. `process`: in a process of its own, so that a fault in it cuts off its
    /// replies and nothing else; it is started again. `thread`: within this one.
    pub isolation: Isolation,
    /// Who is spared the computing of a prompt's beginning that was computed before. `team`: those
    /// it was computed for. `global`: everybody, who can then tell by the time what others wrote.
    pub prefix_scope: PrefixScope,
    /// Memory for what was computed of prompts and has no place in the cache any more; as many
    /// bytes again in `prefix_cache_dir`. 0 keeps none. Left out: a sixteenth of the free memory,
    /// up to 512 MiB.
    pub prefix_cache_bytes_max: Option<u64>,
    /// A folder in which that is kept across restarts. It holds what prompts and replies said, for
    /// this user's eyes alone. Left out: nothing is kept on disk.
    pub prefix_cache_dir: Option<String>,
    /// Drafts of replies: tokens that are computed along with the one that is due, and kept where they
    /// turn out right. `lookup` takes them from what was said before in the chat and from the
    /// request's `prediction`, and rests where they are wrong. What a reply says does not depend on it.
    pub speculation: Speculation,
    /// LoRA adapters of the model. Each is a model name of its own. A request for the model may also
    /// choose some by `lora`, as `[{"id": 0, "scale": 0.5}]`, by their places in this list or by `name`;
    /// a key with `models` must have each of them there.
    pub adapters: Vec<RawAdapter>,
}

/// One LoRA adapter of the model on this machine.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name", "path"]))]
pub struct RawAdapter {
    /// What callers name the model under it. Required.
    pub name: Option<String>,
    /// A path to a GGUF file made for this model, or a name that `hedge models list` shows. Required.
    pub path: Option<String>,
    /// How strongly it holds where the request does not say. 1 is as it was trained.
    pub scale: f32,
}

impl Default for RawAdapter {
    fn default() -> Self {
        Self {
            name: None,
            path: None,
            scale: 1.0,
        }
    }
}

/// When a model is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    Start,
    Demand,
}

/// What stands between the model and everything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    #[default]
    Process,
    Thread,
}

/// Whom a prompt's beginning is computed for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PrefixScope {
    #[default]
    Team,
    Global,
}

/// What becomes of a reply at the end of its context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ContextShift {
    #[default]
    Refuse,
    Shift,
}

/// Where drafts come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Speculation {
    #[default]
    Lookup,
    Off,
}

impl Default for RawLocal {
    fn default() -> Self {
        Self {
            enabled: true,
            model: None,
            projector: None,
            name: None,
            models_dir: None,
            memory_bytes_max: None,
            load_wait_ms_max: 60_000,
            load: None,
            keep_alive_s: None,
            pinned: None,
            warm_up: false,
            context_tokens_max: None,
            context_shift: ContextShift::default(),
            slots_max: 8,
            queue_max: 64,
            batch_tokens_max: 512,
            prompt_delay_ms_max: 150,
            threads: None,
            threads_adapt: true,
            gpu_layers: GpuLayers::default(),
            kv_tokens_max: None,
            kv_type_k: KvType::default(),
            kv_type_v: KvType::default(),
            flash_attention: FlashAttention::default(),
            kv_unified: KvUnified::default(),
            temperature_default: None,
            output_tokens_default: None,
            events_max: 32,
            stall_ms_max: 10_000,
            hang_ms_max: 30_000,
            isolation: Isolation::default(),
            prefix_scope: PrefixScope::default(),
            prefix_cache_bytes_max: None,
            prefix_cache_dir: None,
            speculation: Speculation::default(),
            adapters: Vec::new(),
        }
    }
}

/// The model on this machine that answers `/v1/embeddings`. Without `model` there is none.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawEmbeddings {
    /// A path to a GGUF file, or the name of a model that `hedge models list` shows.
    pub model: Option<String>,
    /// What callers name it. Left out: taken from the file.
    pub name: Option<String>,
    /// Further names for it, such as `text-embedding-3-small` for clients that cannot be told.
    pub also: Vec<String>,
    /// The longest input. Left out: what the model was trained for, up to 2048.
    pub input_tokens_max: Option<u32>,
    /// Tokens that may wait to be computed; a request that brings more is refused.
    pub queue_tokens_max: u32,
    /// CPU threads. Left out: one per physical core.
    pub threads: Option<u32>,
    /// Layers to put on the GPU, in builds that have one. Left out: all of them.
    pub gpu_layers: Option<u32>,
}

impl Default for RawEmbeddings {
    fn default() -> Self {
        Self {
            model: None,
            name: None,
            also: Vec::new(),
            input_tokens_max: None,
            queue_tokens_max: super::embeddings::QUEUE_TOKENS_DEFAULT,
            threads: None,
            gpu_layers: None,
        }
    }
}

/// The model on this machine that answers `/v1/rerank`. Without `model` there is none.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawRerank {
    /// A path to a GGUF file, or the name of a model that `hedge models list` shows.
    pub model: Option<String>,
    /// What callers name it. Left out: taken from the file.
    pub name: Option<String>,
    /// Further names for it, for clients that cannot be told.
    pub also: Vec<String>,
    /// The longest query and document together. Left out: what the model was trained for, up to 2048.
    pub input_tokens_max: Option<u32>,
    /// Tokens that may wait to be computed; a request that brings more is refused.
    pub queue_tokens_max: u32,
    /// CPU threads. Left out: one per physical core.
    pub threads: Option<u32>,
    /// Layers to put on the GPU, in builds that have one. Left out: all of them.
    pub gpu_layers: Option<u32>,
}

impl Default for RawRerank {
    fn default() -> Self {
        Self {
            model: None,
            name: None,
            also: Vec::new(),
            input_tokens_max: None,
            queue_tokens_max: super::embeddings::QUEUE_TOKENS_DEFAULT,
            threads: None,
            gpu_layers: None,
        }
    }
}

/// How far an upstream is trusted with personal data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawTrust {
    /// Anyone's cloud.
    #[default]
    Public,
    /// A machine of your own.
    Tenant,
    /// This machine alone.
    Device,
}

/// One service. With a `provider`, most of it is known.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawUpstream {
    /// One of `providers/`, or of `providers_dir`: `groq`. What is said here wins over what its file
    /// says.
    pub provider: Option<String>,
    /// Callers name its models as `NAME/model`. Left out: the provider's name.
    pub name: Option<String>,
    /// Up to and including the version: `https://api.openai.com/v1`. `{model}` in it stands for the
    /// model. Required where the provider's file has none.
    pub base_url: Option<String>,
    /// What is spoken there. Left out: as the provider's file says, or `openai`, chat completions.
    #[schemars(extend("enum" = dialect_words()))]
    pub dialect: Option<String>,
    /// `env:NAME` or `file:/path`; a file is read again while the server runs. Left out: the variable
    /// that the provider's file names. Without a provider: none is sent.
    pub key: Option<SecretText>,
    /// How the key is sent. Left out: as the provider's file says, or as a bearer token.
    pub auth: Option<RawAuth>,
    /// The header for `auth = "header"`.
    pub auth_header: Option<String>,
    /// Keys for `auth = "aws"`.
    pub aws: RawAws,
    /// The client for `auth = "entra"`, which it implies.
    pub entra: Option<RawEntra>,
    /// Fields of every address' query: `{ api-version = "2024-10-21" }`.
    pub query: BTreeMap<String, String>,
    /// Where it differs from the dialect it speaks.
    pub quirks: RawQuirks,
    /// Models it is used for. The first is its default.
    pub models: Vec<String>,
    /// The model for requests that name none; one of `models`.
    pub default_model: Option<String>,
    /// `public` (default) or `tenant`, a machine of your own. Decides what is masked.
    pub trust: Option<RawTrust>,
    /// Speak plain HTTP to a host beyond this machine.
    pub allow_http: bool,
    pub connect_timeout_ms: u64,
    /// Patience for the first event of a streamed reply, before the next candidate is tried.
    pub first_event_timeout_ms: u64,
    /// The same for a reply that the client wants whole, up to its last byte.
    pub whole_reply_timeout_ms: u64,
    /// Longest silence inside a reply.
    pub idle_timeout_ms: u64,
    /// It takes vLLM's `structured_outputs`. Without, requests for a `regex`, `choice` or `grammar`
    /// pass it over.
    pub structured_outputs: Option<bool>,
    /// Whether it takes images by address. With `false` they are fetched for it, or it is passed over, as
    /// `images` says. Left out: as the provider's file says, or as is usual where `dialect` is spoken.
    pub image_urls: Option<bool>,
    /// Models that judge texts and images, for `/v1/moderations`; the first is for requests that name
    /// none. Left out: it is not asked to.
    pub moderation_models: Vec<String>,
    /// It promises that a request sent twice is worked on, and charged, once: then one is sent again
    /// after any failure before its first event.
    pub idempotent: bool,
    /// How it goes on with an answer that broke off elsewhere. Left out: as the provider's file says, or
    /// not at all.
    pub continues: Option<RawContinues>,
    /// Further headers to send, for example `OpenAI-Organization`.
    pub headers: BTreeMap<String, SecretText>,
}

impl Default for RawUpstream {
    fn default() -> Self {
        Self {
            provider: None,
            name: None,
            base_url: None,
            dialect: None,
            key: None,
            auth: None,
            auth_header: None,
            aws: RawAws::default(),
            entra: None,
            query: BTreeMap::new(),
            quirks: RawQuirks::default(),
            models: Vec::new(),
            default_model: None,
            trust: None,
            allow_http: false,
            connect_timeout_ms: 3_000,
            first_event_timeout_ms: 15_000,
            whole_reply_timeout_ms: 600_000,
            idle_timeout_ms: 60_000,
            structured_outputs: None,
            image_urls: None,
            moderation_models: Vec::new(),
            idempotent: false,
            continues: None,
            headers: BTreeMap::new(),
        }
    }
}

impl RawUpstream {
    /// What callers name it, before that is judged.
    pub fn called(&self) -> Option<&str> {
        self.name.as_deref().or(self.provider.as_deref())
    }
}

/// What `dialect` may be.
pub fn dialect_words() -> Vec<&'static str> {
    let clients = wire::CLIENTS.iter();
    clients.map(|client| client.dialect().as_label()).collect()
}

/// Which rules decide where a request goes.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawRoutes {
    /// `default`, `local-only`, or the path of a rules file.
    pub file: String,
}

impl Default for RawRoutes {
    fn default() -> Self {
        Self {
            file: "default".into(),
        }
    }
}

/// Responses (`/v1/responses`) that callers may read again and go on from, kept in memory.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawResponses {
    /// Off: `previous_response_id` is refused, and nothing is kept.
    pub store: bool,
    /// Memory for all of them; those asked for longest ago go first.
    pub store_bytes_max: u64,
    /// How long one is kept after it was last asked for. OpenAI keeps them for 30 days.
    pub ttl_s: u64,
}

impl Default for RawResponses {
    fn default() -> Self {
        Self {
            store: true,
            store_bytes_max: 64 * 1024 * 1024,
            ttl_s: 24 * 3600,
        }
    }
}

/// Personal data and who may see it: the least trusted destination that gets each class unmasked.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawPrivacy {
    /// Whether nothing may leave for an upstream beyond this machine unless it is sealed to a relay of
    /// your own: chats, embeddings and moderations. Pools are your own and are asked as ever.
    pub require_sealed: bool,
    pub classes: RawClasses,
    /// Patterns of your own.
    pub custom: Vec<RawCustomClass>,
}

/// `device` keeps a class on this machine, `tenant` lets your own machines see it, `public` lets
/// everyone.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawClasses {
    pub email: RawTrust,
    pub phone: RawTrust,
    pub card: RawTrust,
    pub iban: RawTrust,
    pub secret: RawTrust,
}

impl Default for RawClasses {
    fn default() -> Self {
        Self {
            email: RawTrust::Tenant,
            phone: RawTrust::Tenant,
            card: RawTrust::Tenant,
            iban: RawTrust::Tenant,
            secret: RawTrust::Tenant,
        }
    }
}

/// A pattern of the operator's own.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name", "pattern"]))]
pub struct RawCustomClass {
    /// What the pattern finds, for messages. Required.
    pub name: Option<String>,
    /// A regular expression. Required.
    pub pattern: Option<String>,
    pub trust: RawTrust,
}

/// Bounds on the whole node.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawLimits {
    /// Exchanges in flight; more are refused with a wait.
    pub exchanges_max: u32,
    /// Patience for the first content of the local model, before the next candidate is tried.
    pub first_content_local_ms_max: u64,
    /// The same for upstreams.
    pub first_content_remote_ms_max: u64,
    /// The same for the last candidate: giving up on it gives up on the request. Also for a pool, all
    /// its attempts together.
    pub first_content_last_ms_max: u64,
    /// Threads for the network, and never more than half of the cores: the model wants them.
    pub network_threads_max: u32,
    /// How long a request waits for a limit with `when_spent = "queue"`; then it is refused.
    pub queue_ms_max: u64,
    /// Requests that wait for one such limit; more are refused at once.
    pub queue_max: u32,
    /// Users whose use is counted at once, once for each of their limits. Who has used nothing makes
    /// room; where everybody has, requests of further users are refused with a wait.
    pub user_accounts_max: u32,
}

impl Default for RawLimits {
    fn default() -> Self {
        Self {
            exchanges_max: 512,
            first_content_local_ms_max: 5_000,
            first_content_remote_ms_max: 15_000,
            first_content_last_ms_max: 120_000,
            network_threads_max: 2,
            queue_ms_max: 10_000,
            queue_max: 64,
            user_accounts_max: 20_000,
        }
    }
}

/// How the node ends.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawShutdown {
    /// Time for exchanges in flight to finish.
    pub grace_s: u64,
}

impl Default for RawShutdown {
    fn default() -> Self {
        Self { grace_s: 30 }
    }
}

/// How a running node takes over another configuration.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawReload {
    /// Look at the file, the rules and the files of `[[keys]]` once a second, and read all of it anew when one
    /// changes, as SIGHUP does. Read at the start.
    pub watch: bool,
}

impl Default for RawReload {
    fn default() -> Self {
        Self { watch: true }
    }
}

/// What is written to standard error.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawLog {
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,engine=debug`.
    pub level: String,
}

impl Default for RawLog {
    fn default() -> Self {
        Self {
            format: LogFormat::Human,
            level: "info".into(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    #[default]
    Human,
    Json,
}

/// Where model files live.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawDepot {
    /// Left out: `$XDG_DATA_HOME/hedge/models`, else `~/.local/share/hedge/models`.
    pub dir: Option<String>,
}

/// A string or a list of strings.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    #[must_use]
    pub fn into_vec(self) -> Vec<String> {
        match self {
            OneOrMany::One(name) => vec![name],
            OneOrMany::Many(names) => names,
        }
    }
}

/// Where a secret is found, as written. An inline secret is never printed.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct SecretText(pub String);

impl SecretText {
    /// What may be shown of it.
    fn shown(&self) -> &str {
        let is_reference = ["env:", "file:", "sha256:"]
            .iter()
            .any(|scheme| self.0.starts_with(scheme));
        if is_reference { &self.0 } else { "<inline>" }
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown())
    }
}

impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}
