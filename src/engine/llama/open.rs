//! Opens a GGUF file and starts its engine.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread;

use domain::{TemplateCompiler, TemplateSource};
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use tracing::{info, warn};

use crate::adapters::AdapterConfig;
use crate::calls::Manner;
use crate::config::EngineConfig;
use crate::decoder::{Fingerprint, Shape, Threads, Vocabulary};
use crate::engine::{Engine, EngineDriver, Mind};
use crate::kv::{KvConfig, KvFault};
use crate::llama::decoder::LlamaDecoder;
use crate::llama::devices::{self, Accelerator};
use crate::llama::eye::open_eye;
use crate::llama::fingerprint::fingerprint;
use crate::llama::raw::{self, CellLayout, Context, Sizes};
use crate::llama::vocabulary::LlamaVocabulary;
use crate::load::LoadError;
use crate::memory::{
    UBATCH_TOKENS_CPU, UBATCH_TOKENS_GPU, cell_plan, cells_of_one, is_on_gpu, prefix_bytes_default,
};
use crate::offload::{Device, GpuLayers, Placement, load_fitted};

/// A model smaller than this gains nothing from a second thread: one step is shorter than the
/// threads' waiting for each other.
pub(super) const ONE_THREAD_PARAMETERS_MAX: u64 = 20_000_000;

impl Engine {
    /// Loads the model and starts its thread. Takes from milliseconds to minutes and blocks.
    ///
    /// The file must have been looked over before: llama.cpp refuses most broken files cleanly, and
    /// some end the process.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(
        config: EngineConfig,
        templates: Arc<dyn TemplateCompiler>,
    ) -> Result<(Engine, EngineDriver), LoadError> {
        if let Some(setting) = config.fault() {
            return Err(LoadError::Setting(setting));
        }
        check_file(&config.path)?;
        let backend = backend(config.backends_dir.as_deref());
        let accelerators = devices::accelerators(free_bytes());
        let devices = devices::bare(&accelerators);
        warn_of_no_device(&config, &devices);
        let load = |gpu_layers| {
            let mut config = EngineConfig {
                gpu_layers,
                ..config.clone()
            };
            let placement = config.placement(&devices, free_bytes());
            // From here on it is known whether any is.
            config.gpu_layers = GpuLayers::Count(placement.layers);
            Self::load_placed(backend, config, &accelerators, placement, &templates)
        };
        match config.gpu_layers {
            GpuLayers::Count(_) => load(config.gpu_layers),
            GpuLayers::Fitted => {
                let fitted = config.placement(&devices, free_bytes()).layers;
                load_fitted(fitted, |layers| load(GpuLayers::Count(layers)))
            }
        }
    }

    /// With its layers on `accelerators` as `placement` has it, which the settings say too.
    fn load_placed(
        backend: &LlamaBackend,
        mut config: EngineConfig,
        accelerators: &[Accelerator],
        mut placement: Placement,
        templates: &Arc<dyn TemplateCompiler>,
    ) -> Result<(Engine, EngineDriver), LoadError> {
        let model = open(backend, &config.path, placement.layers, accelerators)?;
        let model = Arc::new(model);
        let text = template_text(&model, &config.path)?;
        let manner = Manner::of(&text);
        let marks = manner.marks();
        let vocabulary = Arc::new(LlamaVocabulary::new(Arc::clone(&model), &marks));
        let source = template_source(text, &model, &vocabulary);
        let template = templates.compile(source)?;
        let mut sizes = sizes(&config, &model)?;
        log_model(&config, &model, sizes, manner);
        log_placement(&config, &placement);
        let seeing = match &config.projector {
            Some(path) => {
                check_file(path)?;
                let on_gpu = is_on_gpu(&config);
                Some(open_eye(&model, path, &mut sizes, on_gpu)?)
            }
            None => None,
        };
        let (sight, gallery) = seeing.unzip();
        let mind = Mind {
            sight,
            vocabulary,
            template,
            context_tokens: sizes.shape.context_tokens,
            manner,
        };
        config
            .prefix_bytes_max
            .get_or_insert_with(|| prefix_bytes_default(free_bytes()));
        // Only what leaves the process has to be told apart.
        let fingerprint = match config.prefix_dir {
            Some(_) => fingerprint(&config.path, sizes),
            None => Ok(Fingerprint::default()),
        };
        let fingerprint = fingerprint.map_err(|source| LoadError::File {
            path: config.path.clone(),
            source,
        })?;
        let adapters = config.adapters.clone();
        let (mut engine, driver) = Engine::start(config, mind, move |shared| {
            // Words of an earlier failure on this thread cannot be: it is new.
            let mut context = Context::new(model, sizes, Arc::clone(&shared.interrupt), gallery)
                .ok_or_else(|| LoadError::Context {
                    kv_tokens: sizes.shape.kv_tokens,
                    reason: reason(),
                })?;
            Ok(LlamaDecoder {
                adapters: add_adapters(&mut context, sizes, &adapters)?,
                context,
                fingerprint,
            })
        })?;
        placement.note_taken(&devices::bare(&devices::accelerators(free_bytes())));
        engine.set_placement(placement);
        Ok((engine, driver))
    }
}

/// Loads each and digests it, so that what is saved under it is known after a restart.
fn add_adapters(
    context: &mut Context,
    sizes: Sizes,
    adapters: &[AdapterConfig],
) -> Result<Vec<Fingerprint>, LoadError> {
    let add = |adapter: &AdapterConfig| {
        let path = &adapter.path;
        let fingerprint = fingerprint(path, sizes).map_err(|source| LoadError::File {
            path: path.clone(),
            source,
        })?;
        if !context.add_adapter(path) {
            return Err(LoadError::Refused {
                path: path.clone(),
                reason: reason(),
            });
        }
        info!(adapter = %adapter.name, scale = adapter.scale, "adapter loaded");
        Ok(fingerprint)
    };
    adapters.iter().map(add).collect()
}

/// llama.cpp's own message for a missing file is a mere "failed to load".
pub(super) fn check_file(path: &Path) -> Result<(), LoadError> {
    let mut magic = [0; 4];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut magic))
        .or_else(|source| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => Ok(()),
            _ => Err(LoadError::File {
                path: path.to_owned(),
                source,
            }),
        })?;
    if &magic == b"GGUF" {
        return Ok(());
    }
    Err(LoadError::NotGguf {
        path: path.to_owned(),
    })
}

/// llama.cpp is set up once per process and never taken down.
pub(super) fn backend(backends_dir: Option<&Path>) -> &'static LlamaBackend {
    static BACKEND: OnceLock<LlamaBackend> = OnceLock::new();
    BACKEND.get_or_init(|| {
        raw::send_log_to_tracing();
        load_backends(backends_dir);
        LlamaBackend::init().expect("nothing else in this process sets llama.cpp up")
    })
}

#[cfg(feature = "dynamic-backends")]
fn load_backends(backends_dir: Option<&Path>) {
    match backends_dir {
        Some(dir) => llama_cpp_2::llama_backend::load_backends_from_path(dir),
        None => llama_cpp_2::llama_backend::load_backends(),
    }
}

#[cfg(not(feature = "dynamic-backends"))]
fn load_backends(_backends_dir: Option<&Path>) {}

pub(super) fn open(
    backend: &LlamaBackend,
    path: &Path,
    gpu_layers: u32,
    accelerators: &[Accelerator],
) -> Result<LlamaModel, LoadError> {
    let refused = |reason| LoadError::Refused {
        path: path.to_owned(),
        reason,
    };
    let _ = raw::take_first_error();
    let mut params = LlamaModelParams::default().with_n_gpu_layers(gpu_layers);
    if !accelerators.is_empty() {
        // Without a layer there nothing else is to be there: by itself llama.cpp takes some memory
        // of every device it knows.
        let used = if gpu_layers == 0 { &[] } else { accelerators };
        let indices: Vec<usize> = used.iter().map(|it| it.index).collect();
        params = params
            .with_devices(&indices)
            .map_err(|error| refused(error.to_string()))?;
    }
    let model =
        LlamaModel::load_from_file(backend, path, &params).map_err(|_| refused(reason()))?;
    if raw::has_encoder(&model) {
        return Err(refused(
            "models with an encoder are not supported".to_owned(),
        ));
    }
    if model.n_vocab() < 1 {
        return Err(refused("it has no vocabulary".to_owned()));
    }
    Ok(model)
}

pub(super) fn reason() -> String {
    raw::take_first_error().unwrap_or_else(|| "it gave no reason".to_owned())
}

fn template_text(model: &LlamaModel, path: &Path) -> Result<String, LoadError> {
    // Read as metadata: the crate's own reader of named templates uses freed memory.
    model
        .meta_val_str("tokenizer.chat_template")
        .map_err(|_| LoadError::NotChat {
            path: path.to_owned(),
            what: "chat template",
        })
}

fn template_source(
    text: String,
    model: &LlamaModel,
    vocabulary: &LlamaVocabulary,
) -> TemplateSource {
    let vocab = model.vocab();
    TemplateSource {
        text,
        bos_token: vocabulary.text(vocab.bos()),
        eos_token: vocabulary.text(vocab.eos()),
        special_tokens: vocabulary.controls().to_vec(),
    }
}

fn sizes(config: &EngineConfig, model: &LlamaModel) -> Result<Sizes, KvFault> {
    let heads = Heads::of(model);
    config.kv.check_heads(&heads.keys, &heads.values)?;
    let context_tokens = config.context_tokens(model.n_ctx_train());
    let small = model.n_params() <= ONE_THREAD_PARAMETERS_MAX;
    let on_gpu = is_on_gpu(config);
    let cell_bytes = heads.cell_bytes(model, config.kv);
    let free_bytes = free_bytes();
    check_own_cells(config, cell_bytes, context_tokens, free_bytes)?;
    let plan = cell_plan(config, model.size(), context_tokens, cell_bytes, free_bytes);
    let cells = if plan.is_split {
        CellLayout::Split
    } else {
        CellLayout::Unified
    };
    let kv_tokens = plan.tokens;
    Ok(Sizes {
        cells,
        is_on_cpu: !on_gpu,
        type_k: config.kv.type_k,
        type_v: config.kv.type_v,
        ubatch_tokens: if on_gpu {
            UBATCH_TOKENS_GPU
        } else {
            UBATCH_TOKENS_CPU
        },
        shape: Shape {
            sequences: config.sequences(),
            kv_tokens,
            batch_tokens: config.batch_tokens_max.min(kv_tokens),
            context_tokens,
        },
        flash: config.kv.flash_attention,
        threads: Threads {
            count: config
                .threads
                .unwrap_or(if small { 1 } else { threads_default() }),
            // The threads beside an accelerator wait for it, not for each other.
            adapts: config.threads_adapt && !on_gpu,
        },
    })
}

/// Physical cores that this process may use. Two threads on one core share its arithmetic and wait
/// for each other at every operation.
pub(super) fn threads_default() -> u32 {
    let usable = thread::available_parallelism().map_or(1, usize::from);
    let physical = sysinfo::System::physical_core_count().unwrap_or(usable);
    let threads = u32::try_from(usable.min(physical)).unwrap_or(1);
    threads.clamp(1, EngineConfig::THREADS_DEFAULT_MAX)
}

/// `kv_unified = false` asks for a context of cells for each sequence: what that takes must be there.
fn check_own_cells(
    config: &EngineConfig,
    cell_bytes: u64,
    context_tokens: u32,
    free_bytes: Option<u64>,
) -> Result<(), KvFault> {
    if config.kv.unified != Some(false) {
        return Ok(());
    }
    let sequences = config.sequences();
    let own = cells_of_one(context_tokens);
    let needed = u64::from(own) * u64::from(sequences);
    if let Some(allowed) = config.kv_tokens_max.filter(|max| needed > u64::from(*max)) {
        return Err(KvFault::TooManyTokens {
            needed,
            context: own,
            sequences,
            allowed,
        });
    }
    let needed_bytes = needed.saturating_mul(cell_bytes);
    // An accelerator's memory is its own matter.
    let is_beyond = |free: &u64| needed_bytes > *free && !is_on_gpu(config);
    if let Some(free_bytes) = free_bytes.filter(is_beyond) {
        return Err(KvFault::TooManyBytes {
            needed_bytes,
            context: own,
            sequences,
            free_bytes,
        });
    }
    Ok(())
}

/// How many numbers a key and a value have in one head: mostly one size each, and another in layers
/// with a sliding window.
struct Heads {
    keys: Vec<u32>,
    values: Vec<u32>,
}

impl Heads {
    fn of(model: &LlamaModel) -> Self {
        let embedding = u32::try_from(model.n_embd()).unwrap_or(0);
        let usual = embedding / model.n_head().max(1);
        let architecture = model.meta_val_str("general.architecture");
        let architecture = architecture.unwrap_or_default();
        let said = |name: &str| {
            let size = model.meta_val_str(&format!("{architecture}.attention.{name}"));
            size.ok()?.parse().ok().filter(|size| *size > 0)
        };
        let sizes = |first: &str, further: &str| {
            let first = said(first).unwrap_or(usual);
            std::iter::once(first).chain(said(further)).collect()
        };
        Self {
            keys: sizes("key_length", "key_length_swa"),
            values: sizes("value_length", "value_length_swa"),
        }
    }

    /// Keys and values of one token in all layers.
    fn cell_bytes(&self, model: &LlamaModel, kv: KvConfig) -> u64 {
        let heads = u64::from(model.n_layer()) * u64::from(model.n_head_kv());
        let numbers = |sizes: &[u32]| u64::from(sizes.iter().copied().max().unwrap_or(0));
        heads * (kv.type_k.bytes(numbers(&self.keys)) + kv.type_v.bytes(numbers(&self.values)))
    }
}

/// Memory that is free now; `None` where the system does not say.
pub(super) fn free_bytes() -> Option<u64> {
    let mut system = sysinfo::System::new().ok()?;
    system.refresh_memory();
    let free = system.available_memory();
    // A container's own limit, where there is one.
    let limit = system.cgroup_limits();
    Some(limit.map_or(free, |limit| free.min(limit.free_memory)))
}

fn log_model(config: &EngineConfig, model: &LlamaModel, sizes: Sizes, manner: Manner) {
    let system = raw::system_info();
    info!(
        model = %config.name,
        family = manner.family.name,
        parameters = model.n_params(),
        bytes = model.size(),
        context_tokens = sizes.shape.context_tokens,
        kv_tokens = sizes.shape.kv_tokens,
        cells = ?sizes.cells,
        type_k = %sizes.type_k,
        type_v = %sizes.type_v,
        flash_attention = ?sizes.flash,
        threads = sizes.threads.count,
        threads_adapt = sizes.threads.adapts,
        %system,
        "model loaded"
    );
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") && !system.contains("AVX512 = 1") {
        warn!(
            "this CPU has AVX512 and this build of llama.cpp does not use it; a build with \
               -C target-cpu=native reads prompts up to a third faster"
        );
    }
}

/// Layers that were counted out for accelerators stay here where there is none.
fn warn_of_no_device(config: &EngineConfig, devices: &[Device]) {
    match config.gpu_layers {
        GpuLayers::Count(layers) if layers > 0 && devices.is_empty() => warn!(
            model = %config.name,
            layers, "no accelerator that this build can use is there; all layers stay on the CPU"
        ),
        GpuLayers::Count(_) | GpuLayers::Fitted => {}
    }
}

/// Nothing is said of a machine without accelerators.
fn log_placement(config: &EngineConfig, placement: &Placement) {
    for placed in &placement.devices {
        info!(
            model = %config.name,
            device = placed.device.name,
            layers = placed.layers,
            layers_all = placement.layers_all,
            bytes = placed.need_bytes,
            bytes_free = placed.device.free_bytes,
            "layers are kept on an accelerator"
        );
    }
}

/// The bare model, for tests of the parts.
#[cfg(test)]
pub(super) fn tests_model(path: &Path) -> Arc<LlamaModel> {
    let config = EngineConfig::new(path, "test");
    let opened = open(backend(None), &config.path, u32::MAX, &[]);
    Arc::new(opened.expect("the tests' model opens"))
}
