//! The models on this machine: which files they are, what they will take, and how one is loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use depot::gguf::{self, GgufFault, GgufSummary, ProjectorSummary};
use depot::{Depot, DepotError};
use domain::{Ability, Backend, BackendCard, BackendName, ModelCard, Tier, Tokens, Trust};
use engine::{
    DraftCount, Engine, EngineConfig, EngineDriver, LoadError, MemoryNeed, ModelShape, Placement,
    Program, Remote, Vitals,
};
use futures::future::BoxFuture;
use policy::Templates;
use tracing::error;

use crate::config::{
    Config, ContextShift, Isolation, LocalSettings, ModelFile, ModelSource, PrefixScope,
    Speculation, Stay,
};
use crate::fleet::{Shortage, Terms, first_without_room};
use crate::{adapters, bundled, memory};

/// Temperature for models of the operator's own, where nobody says otherwise: varied, and to the
/// point. The bundled model knows facts, not style, and gets 0.
const TEMPERATURE_DEFAULT: f32 = 0.7;
/// What a caller is told to wait while the model loads.
pub const LOADING_WAIT: Duration = Duration::from_secs(1);
/// The backend of the default model.
const LOCAL: &str = "local";
/// What an engine can do at most, whatever the model, but for images.
const ABILITIES_MOST: [Ability; 8] = [
    Ability::Tools,
    Ability::ForcedTools,
    Ability::JsonObject,
    Ability::JsonSchema,
    Ability::Logprobs,
    Ability::Choices,
    Ability::LogitBias,
    Ability::Constraints,
];

/// A model file, found and looked over, and how to load it.
#[derive(Clone, Debug)]
pub struct LocalModel {
    pub engine: EngineConfig,
    pub summary: GgufSummary,
    pub is_bundled: bool,
    pub home: Home,
    pub stay: Stay,
    /// Foretold from the file's header and the settings.
    pub need: MemoryNeed,
}

/// Where the engine runs.
#[derive(Clone, Debug)]
pub enum Home {
    Thread,
    /// A child of this process, started from this program.
    Process(Program),
}

/// Why there is no local model, though one is configured.
#[derive(Debug, thiserror::Error)]
pub enum LocalFault {
    #[error("local.model: {0}")]
    Depot(#[source] DepotError),
    #[error("local.model: {}", path.display())]
    Gguf {
        path: PathBuf,
        #[source]
        source: GgufFault,
    },
    #[error("local.projector: {}", path.display())]
    Projector {
        path: PathBuf,
        #[source]
        source: GgufFault,
    },
    #[error("the bundled model can be put neither into a file nor into memory")]
    Bundled(#[source] std::io::Error),
    #[error("the model has no chat template, so it cannot chat: {}", .0.display())]
    NotChat(PathBuf),
    /// Of a further model, by the file that names it.
    #[error("{}", file.display())]
    Further {
        file: PathBuf,
        #[source]
        source: Box<LocalFault>,
    },
    #[error(
        "two models or adapters on this machine are called `{0}`; rename one, or set local.name"
    )]
    SameName(String),
    #[error("the models that are loaded at the start do not fit: {name}: {shortage}")]
    NoRoom { name: String, shortage: Shortage },
    #[error("local.adapters[{at}]: {source}")]
    AdapterDepot {
        at: usize,
        #[source]
        source: DepotError,
    },
    #[error("local.adapters[{at}]: {}", path.display())]
    Adapter {
        at: usize,
        path: PathBuf,
        #[source]
        source: GgufFault,
    },
    #[error("local.adapters[{at}].name: `{name}` is the name of the model itself")]
    AdapterNamed { at: usize, name: String },
}

/// Why a node runs without a local model, in words for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// `local.enabled = false`.
    Off,
    NotBundled,
    NoEngine,
}

impl Absent {
    #[must_use]
    pub fn as_words(self) -> &'static str {
        match self {
            Absent::Off => "local.enabled is false",
            Absent::NotBundled => {
                "this binary holds no model; set local.model, or build where models/hedge-tiny.gguf is"
            }
            Absent::NoEngine => "this binary was built without the local engine (feature `llama`)",
        }
    }
}

/// The models on this machine, found and looked over.
#[derive(Clone, Debug)]
pub struct Located {
    /// The one called `local`, or why there is none.
    pub default: Result<LocalModel, Absent>,
    pub further: Vec<LocalModel>,
    /// Memory that all of them may have together.
    pub budget: u64,
    /// How long a request waits for its model.
    pub load_wait: Duration,
}

impl Located {
    /// All of them, the default one first.
    pub fn models(&self) -> impl Iterator<Item = &LocalModel> {
        self.default.iter().chain(&self.further)
    }

    /// What they are called, bare and under each adapter.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let models = self.models();
        models
            .flat_map(|model| model.engine.model_names())
            .collect()
    }

    /// What the backends for them say of themselves before they are loaded.
    #[must_use]
    pub fn cards(&self) -> Vec<BackendCard> {
        let further = self.further.iter().map(|model| {
            let name = BackendName::new(model.engine.name.as_str());
            card(model, name)
        });
        let default = self.default.iter();
        default
            .map(|model| card(model, BackendName::new(LOCAL)))
            .chain(further)
            .collect()
    }

    /// Those that are loaded at the start fit together.
    ///
    /// # Errors
    /// The first that does not, with the numbers.
    pub fn check_room(&self) -> Result<(), LocalFault> {
        let terms: Vec<Terms> = self.models().map(terms).collect();
        match first_without_room(self.budget, &terms) {
            None => Ok(()),
            Some((at, shortage)) => Err(LocalFault::NoRoom {
                name: terms[at].name.clone(),
                shortage,
            }),
        }
    }
}

/// What is known of a model before it is loaded.
#[must_use]
pub fn terms(model: &LocalModel) -> Terms {
    Terms {
        name: model.engine.name.clone(),
        need: model.need.total(),
        is_loaded_at_start: model.stay.is_loaded_at_start,
        keep_alive: model.stay.keep_alive,
    }
}

/// Finds the configured models and checks their files. Blocks.
///
/// # Errors
/// Every one that is configured and not usable.
pub fn locate(config: &Config) -> Result<Located, Vec<LocalFault>> {
    let mut located = Located {
        default: Err(Absent::Off),
        further: Vec::new(),
        budget: u64::MAX,
        load_wait: Duration::ZERO,
    };
    let Some(settings) = &config.local else {
        return Ok(located);
    };
    if !cfg!(feature = "llama") {
        located.default = Err(Absent::NoEngine);
        return Ok(located);
    }
    let mut faults = Vec::new();
    located.default = if settings.source == ModelSource::Bundled && !bundled::is_present() {
        Err(Absent::NotBundled)
    } else {
        match find(config, settings) {
            Ok(model) => Ok(model),
            Err(fault) => {
                faults.push(fault);
                Err(Absent::Off)
            }
        }
    };
    let mut names: BTreeSet<String> = BTreeSet::new();
    names.extend(located.names().into_iter().map(str::to_owned));
    for ModelFile { file, settings } in &config.models {
        let found = find(config, settings).and_then(|model| {
            for name in model.engine.model_names() {
                if !names.insert(name.to_owned()) {
                    return Err(LocalFault::SameName(name.to_owned()));
                }
            }
            Ok(model)
        });
        match found {
            Ok(model) => located.further.push(model),
            Err(source) => faults.push(LocalFault::Further {
                file: file.clone(),
                source: Box::new(source),
            }),
        }
    }
    located.budget = settings
        .memory_bytes_max
        .unwrap_or_else(memory::budget_bytes_default);
    located.load_wait = settings.load_wait;
    if faults.is_empty() {
        Ok(located)
    } else {
        Err(faults)
    }
}

fn find(config: &Config, settings: &LocalSettings) -> Result<LocalModel, LocalFault> {
    let (path, name) = match &settings.source {
        ModelSource::Bundled => (
            bundled::materialise(&config.data_dir).map_err(LocalFault::Bundled)?,
            bundled::NAME.to_owned(),
        ),
        ModelSource::Path(path) => (path.clone(), stem(path)),
        ModelSource::Depot(name) => (
            Depot::open(&config.depot_dir)
                .find(name)
                .map_err(LocalFault::Depot)?,
            name.clone(),
        ),
    };
    let summary = gguf::inspect(&path).map_err(|source| LocalFault::Gguf {
        path: path.clone(),
        source,
    })?;
    if summary.chat_template.is_none() {
        return Err(LocalFault::NotChat(path));
    }
    let projector = match &settings.projector {
        Some(path) => Some(look_over_projector(path)?),
        None => None,
    };
    let is_bundled = settings.source == ModelSource::Bundled || bundled::is_at(&path);
    let shape = shape(&summary, projector.as_ref());
    let mut engine = engine_config(settings, path, name, is_bundled);
    engine.adapters = adapters::locate(config, settings, &engine)?;
    let need = engine.memory_need(&shape, memory::available_bytes());
    engine.shape = Some(Box::new(shape));
    Ok(LocalModel {
        need,
        engine,
        summary,
        is_bundled,
        home: home(config, settings.isolation),
        stay: settings.stay,
    })
}

fn look_over_projector(path: &Path) -> Result<ProjectorSummary, LocalFault> {
    gguf::inspect_projector(path).map_err(|source| LocalFault::Projector {
        path: path.to_owned(),
        source,
    })
}

/// As the engine counts it.
fn shape(summary: &GgufSummary, projector: Option<&ProjectorSummary>) -> ModelShape {
    let shape = &summary.shape;
    let layers = shape.attention.iter();
    let numbers = layers.map(|layer| layer.keys.saturating_add(layer.values));
    ModelShape {
        weight_bytes: shape.weight_bytes,
        vocabulary: summary.vocabulary_count,
        context_tokens: summary.context_tokens,
        layers: shape.layers,
        layer_weights: shape.layer_weights.clone(),
        output_bytes: shape.output_bytes,
        embedding: shape.embedding,
        heads: shape.heads,
        feed_forward: shape.feed_forward,
        token_numbers: numbers.collect(),
        state_numbers: shape.state_numbers,
        projector_bytes: projector.map_or(0, |projector| {
            let weights = projector.weight_bytes;
            weights.saturating_add(projector.compute_bytes)
        }),
        looks_ahead: projector.is_some_and(|projector| projector.looks_ahead),
    }
}

/// Where a model runs that `isolation` is said of.
pub fn home(config: &Config, isolation: Isolation) -> Home {
    match isolation {
        Isolation::Thread => Home::Thread,
        Isolation::Process => Home::Process(Program {
            path: this_program(),
            args: vec![
                "engine".to_owned(),
                "--log".to_owned(),
                config.log.level.clone(),
            ],
            environment: childs_environment(&crate::config::environment()),
        }),
    }
}

/// On Linux the program that runs, also where its file has been replaced since.
fn this_program() -> PathBuf {
    if cfg!(target_os = "linux") {
        return PathBuf::from("/proc/self/exe");
    }
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("hedge"))
}

/// What llama.cpp, OpenMP and the drivers of accelerators read.
const PASSED_ON: &[&str] = &[
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "NVIDIA_DRIVER_CAPABILITIES",
    "NVIDIA_VISIBLE_DEVICES",
    "PATH",
    "TMPDIR",
    "TZ",
    "XDG_DATA_DIRS",
    "XDG_RUNTIME_DIR",
];
const PASSED_ON_PREFIXES: &[&str] = &[
    "CUDA_", "DYLD_", "GGML_", "GOMP_", "HIP_", "HSA_", "KMP_", "MESA_", "MTL_", "OMP_", "ROCR_",
    "VK_",
];
/// A variable that is called so is not passed on, whatever it begins with.
const SECRET_WORDS: &[&str] = &["KEY", "PASSWORD", "SECRET", "TOKEN"];

/// No secrets, and no debugger on the way to an abort, which would keep callers waiting.
fn childs_environment(ours: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let is_passed_on = |name: &str| {
        let is_known = PASSED_ON.contains(&name)
            || PASSED_ON_PREFIXES
                .iter()
                .any(|prefix| name.starts_with(prefix));
        is_known && !SECRET_WORDS.iter().any(|word| name.contains(word))
    };
    let mut theirs: BTreeMap<String, String> = ours
        .iter()
        .filter(|(name, _)| is_passed_on(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    theirs.insert("GGML_NO_BACKTRACE".to_owned(), "1".to_owned());
    theirs.into_iter().collect()
}

/// The loaded model, wherever it runs.
#[derive(Clone, Debug)]
pub enum LocalEngine {
    Thread(Arc<Engine>),
    Process(Arc<Remote>),
}

/// What is to be run for as long as the engine does; it ends after [`LocalEngine::stop`].
pub type LocalDriver = BoxFuture<'static, ()>;

impl LocalEngine {
    /// Loads the model. In a process, nothing begins before this is polled; dropped, it ends.
    ///
    /// # Errors
    /// The engine's own.
    pub async fn load(model: LocalModel) -> Result<(Self, LocalDriver), LoadError> {
        match model.home {
            Home::Process(program) => {
                let (remote, driver) = Remote::start(model.engine, program).await?;
                Ok((Self::Process(Arc::new(remote)), Box::pin(driver.run())))
            }
            Home::Thread => {
                // Loading blocks for as long as a disk takes to read gigabytes.
                let loading = tokio::task::spawn_blocking(move || load(model.engine));
                let (engine, driver) = loading.await.unwrap_or(Err(LoadError::Panicked))?;
                let driver = async move {
                    if let Err(error) = driver.run().await {
                        error!(%error, "engine failed");
                    }
                };
                Ok((Self::Thread(Arc::new(engine)), Box::pin(driver)))
            }
        }
    }

    #[must_use]
    pub fn backend(&self) -> Arc<dyn Backend> {
        match self {
            Self::Thread(engine) => Arc::clone(engine) as _,
            Self::Process(remote) => Arc::clone(remote) as _,
        }
    }

    /// How often its process ended and was started again; `None` where it has none.
    #[must_use]
    pub fn ends(&self) -> Option<Arc<AtomicU64>> {
        match self {
            Self::Thread(_) => None,
            Self::Process(remote) => Some(remote.ends()),
        }
    }

    /// Tokens drafted since the start, and how many were right.
    #[must_use]
    pub fn drafts(&self) -> DraftCount {
        match self {
            Self::Thread(engine) => engine.drafts(),
            Self::Process(remote) => remote.drafts(),
        }
    }

    /// What it is busy with, up to a moment old.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        match self {
            Self::Thread(engine) => engine.vitals(),
            Self::Process(remote) => remote.vitals(),
        }
    }

    /// Where its layers lie.
    #[must_use]
    pub fn placement(&self) -> Placement {
        match self {
            Self::Thread(engine) => engine.placement().clone(),
            Self::Process(remote) => remote.placement(),
        }
    }

    /// Its process, where it has one that runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Thread(_) => None,
            Self::Process(remote) => remote.pid(),
        }
    }

    /// What runs and what waits ends with an error, at once.
    pub fn stop(&self) {
        match self {
            Self::Thread(engine) => engine.stop(),
            Self::Process(remote) => remote.stop(),
        }
    }
}

/// Looks the file over once more, right before llama.cpp opens it: since it was found, or since the
/// process that holds it was last started, it may have been replaced. Blocks.
///
/// # Errors
/// The file is not sound, or the engine's own.
pub fn load(mut config: EngineConfig) -> Result<(Engine, EngineDriver), LoadError> {
    let summary = sound(&config.path, gguf::inspect(&config.path))?;
    let projector = match &config.projector {
        Some(path) => Some(sound(path, gguf::inspect_projector(path))?),
        None => None,
    };
    adapters::check(&config)?;
    config.shape = Some(Box::new(shape(&summary, projector.as_ref())));
    Engine::load(config, Arc::new(Templates::default()))
}

fn sound<T>(path: &Path, looked_over: Result<T, GgufFault>) -> Result<T, LoadError> {
    looked_over.map_err(|fault| LoadError::Unsound {
        path: path.to_owned(),
        fault: Box::new(fault),
    })
}

/// The file's name without its ending, without slashes, which would make it an upstream's.
pub fn stem(path: &Path) -> String {
    match path.file_stem().and_then(|stem| stem.to_str()) {
        Some(stem) if !stem.is_empty() => stem.to_owned(),
        Some(_) | None => "model".to_owned(),
    }
}

fn engine_config(
    settings: &LocalSettings,
    path: PathBuf,
    name: String,
    is_bundled: bool,
) -> EngineConfig {
    let temperature = if is_bundled { 0.0 } else { TEMPERATURE_DEFAULT };
    let mut engine = EngineConfig::new(path, settings.name.clone().unwrap_or(name));
    engine.projector.clone_from(&settings.projector);
    engine.context_tokens_max = settings.context_tokens_max;
    engine.context_shift = match settings.context_shift {
        ContextShift::Refuse => engine::ContextShift::Refuse,
        ContextShift::Shift => engine::ContextShift::Shift,
    };
    engine.kv_tokens_max = settings.kv_tokens_max;
    engine.kv = settings.kv;
    engine.slots_max = settings.slots_max;
    engine.queue_max = settings.queue_max;
    engine.threads = settings.threads;
    engine.threads_adapt = settings.threads_adapt;
    engine.batch_tokens_max = settings.batch_tokens_max;
    engine.busy_prompt_delay_max = settings.prompt_delay_max;
    engine.gpu_layers = settings.gpu_layers;
    engine.events_max = settings.events_max;
    engine.stall_max = settings.stall_max;
    engine.hang_max = settings.hang_max;
    engine.output_tokens_default = settings.output_tokens_default;
    engine.temperature_default = settings.temperature_default.unwrap_or(temperature);
    engine.speculation = match settings.speculation {
        Speculation::Lookup => engine::Speculation::Lookup,
        Speculation::Off => engine::Speculation::Off,
    };
    engine.backends_dir = backends_dir();
    engine.prefix_scope = match settings.prefix_scope {
        PrefixScope::Team => engine::PrefixScope::Team,
        PrefixScope::Global => engine::PrefixScope::Global,
    };
    engine.prefix_bytes_max = settings.prefix_bytes_max;
    engine.prefix_dir.clone_from(&settings.prefix_dir);
    engine
}

/// Where the CPU back ends of a `dynamic-backends` build lie: `lib/` beside the binary.
pub fn backends_dir() -> Option<PathBuf> {
    if !cfg!(feature = "dynamic-backends") {
        return None;
    }
    let binary = std::env::current_exe().ok()?;
    Some(binary.parent()?.join("lib")).filter(|dir| dir.is_dir())
}

/// What the engine's own card is expected to say; the engine's replaces it once loaded. Of abilities
/// it says the most there may be: whether a model's template takes tools, say, shows at its load, and
/// a request that needs what it lacks then goes on to the next candidate.
fn card(model: &LocalModel, name: BackendName) -> BackendCard {
    let trained = model.summary.context_tokens.unwrap_or(u32::MAX);
    let context = model
        .engine
        .context_tokens_max
        .unwrap_or(EngineConfig::CONTEXT_TOKENS_DEFAULT)
        .min(trained);
    BackendCard {
        name,
        tier: Tier::Engine,
        is_sealed: false,
        trust: Trust::Device,
        models: model
            .engine
            .model_names()
            .map(|name| ModelCard {
                name: name.to_owned(),
                context_tokens_max: Some(Tokens(context)),
                abilities: ABILITIES_MOST
                    .into_iter()
                    .chain(model.engine.projector.as_ref().map(|_| Ability::Images))
                    .collect(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_cuts_prompts_as_the_operator_says() {
        for (text, delay_ms) in [
            ("local = { enabled = true }", 150),
            ("local = { enabled = true, prompt_delay_ms_max = 400 }", 400),
        ] {
            let config = crate::config::tests::accepted(text, &[]).0;
            let engine = engine_config(
                config.local.as_ref().unwrap(),
                PathBuf::new(),
                String::new(),
                true,
            );
            assert_eq!(engine.busy_prompt_delay_max.as_millis(), delay_ms);
        }
    }

    #[test]
    fn the_engines_process_gets_no_secrets() {
        let ours = [
            ("CUDA_VISIBLE_DEVICES", "0"),
            ("OMP_NUM_THREADS", "2"),
            ("PATH", "/bin"),
            ("OPENAI_API_KEY", "k"),
            ("HF_TOKEN", "k"),
            ("GGML_TOKEN", "k"),
            ("HEDGE_UPSTREAMS__0__KEY", "k"),
            ("LLAMA_ARG_API_KEY", "k"),
            ("NVIDIA_API_KEY", "k"),
        ];
        let ours = ours.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let theirs = childs_environment(&BTreeMap::from(ours));
        let names: Vec<&str> = theirs.iter().map(|(name, _)| name.as_str()).collect();
        let wanted = [
            "CUDA_VISIBLE_DEVICES",
            "GGML_NO_BACKTRACE",
            "OMP_NUM_THREADS",
            "PATH",
        ];
        assert_eq!(names, wanted);
    }
}
