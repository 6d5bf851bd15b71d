//! Models over llama.cpp that make one vector of a text: for embeddings, and for ranking.

use std::sync::{Arc, OnceLock};

use domain::{Prompt, PromptPiece};
use llama_cpp_2::model::LlamaModel;
use tracing::info;

use crate::decoder::{Interrupt, Token, Vocabulary};
use crate::embedding::{EmbedderConfig, LocalEmbedder, TextReader, normalised};
use crate::encoding::{EmbeddingDriver, Encoder, PACK_TEXTS_MAX, PACK_TOKENS};
use crate::kv::FlashAttention;
use crate::llama::devices;
use crate::llama::open::{
    ONE_THREAD_PARAMETERS_MAX, backend, check_file, free_bytes, open, reason, threads_default,
};
use crate::llama::raw::{EncoderContext, EncoderSizes, Pooling, TILE_ROWS};
use crate::llama::vocabulary::LlamaVocabulary;
use crate::load::LoadError;
use crate::prompt::tokenize_pieces;
use crate::ranking::{DocumentReader, LocalReranker, PairReader};
use crate::splitting::{Depth, Splitting};

/// Where a file may say how a query and a document are put together.
const RERANK_TEMPLATE: &str = "tokenizer.chat_template.rerank";

impl LocalEmbedder {
    /// Loads the model and starts its thread. Blocks. As for [`crate::Engine::load`], the file
    /// should have been checked before.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(config: EmbedderConfig) -> Result<(LocalEmbedder, EmbeddingDriver), LoadError> {
        let Opened {
            model,
            vocabulary,
            sizes,
            input_tokens_max,
        } = Opened::of(&config)?;
        if sizes.pooling == Pooling::Rank {
            return Err(LoadError::NotEmbedding { path: config.path });
        }
        let reader = Arc::new(Reader(vocabulary));
        LocalEmbedder::start(
            config.name,
            input_tokens_max,
            config.queue_tokens_max,
            reader,
            move |interrupt, serve| {
                let mut encoder = LlamaEncoder::new(model, sizes, interrupt)?;
                encoder.is_normalised = true;
                serve(&mut encoder);
                Ok(())
            },
        )
    }
}

impl LocalReranker {
    /// As [`LocalEmbedder::load`], of a model that ranks.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(config: EmbedderConfig) -> Result<(LocalReranker, EmbeddingDriver), LoadError> {
        let Opened {
            model,
            vocabulary,
            sizes,
            input_tokens_max,
        } = Opened::of(&config)?;
        let reader = Pairs::of(&model, vocabulary).filter(|_| sizes.pooling == Pooling::Rank);
        let Some(reader) = reader else {
            return Err(LoadError::NotRanking { path: config.path });
        };
        LocalReranker::start(
            config.name,
            input_tokens_max,
            config.queue_tokens_max,
            Arc::new(reader),
            move |interrupt, serve| {
                serve(&mut LlamaEncoder::new(model, sizes, interrupt)?);
                Ok(())
            },
        )
    }
}

/// A model and what is to be known of it before its thread starts.
struct Opened {
    model: Arc<LlamaModel>,
    vocabulary: LlamaVocabulary,
    sizes: EncoderSizes,
    input_tokens_max: u32,
}

impl Opened {
    fn of(config: &EmbedderConfig) -> Result<Self, LoadError> {
        if let Some(setting) = config.fault() {
            return Err(LoadError::Setting(setting));
        }
        check_file(&config.path)?;
        let backend = backend(config.backends_dir.as_deref());
        let model = Arc::new(open(backend, &config.path, config.gpu_layers, &[])?);
        let pooling = pooling(&model).ok_or_else(|| LoadError::NotEmbedding {
            path: config.path.clone(),
        })?;
        let input_tokens_max = config
            .input_tokens_max
            .unwrap_or(EmbedderConfig::INPUT_TOKENS_DEFAULT)
            .min(model.n_ctx_train().max(1));
        let is_small = model.n_params() <= ONE_THREAD_PARAMETERS_MAX;
        let threads = config
            .threads
            .unwrap_or_else(|| if is_small { 1 } else { threads_default() });
        info!(
            model = %config.name,
            parameters = model.n_params(),
            input_tokens_max,
            threads,
            ?pooling,
            "encoder loaded"
        );
        Ok(Self {
            vocabulary: LlamaVocabulary::new(Arc::clone(&model), &[]),
            sizes: EncoderSizes {
                batch_tokens: input_tokens_max.max(PACK_TOKENS),
                texts: PACK_TEXTS_MAX,
                threads,
                pooling,
                flash: FlashAttention::Auto,
            },
            input_tokens_max,
            model,
        })
    }
}

/// What the file says of how a text's vectors become one. An encoder of no such word and a chat
/// model give none that could be compared.
fn pooling(model: &LlamaModel) -> Option<Pooling> {
    let architecture = model.meta_val_str("general.architecture").ok()?;
    let pooling = model.meta_val_str(&format!("{architecture}.pooling_type"));
    Pooling::numbered(pooling.ok()?.parse().ok()?)
}

struct LlamaEncoder {
    context: EncoderContext,
    /// For fewer tokens than llama.cpp's flash attention computes at once on a CPU: without it.
    short: Option<EncoderContext>,
    dimensions: u32,
    is_normalised: bool,
}

impl LlamaEncoder {
    fn new(
        model: Arc<LlamaModel>,
        sizes: EncoderSizes,
        interrupt: Arc<Interrupt>,
    ) -> Result<Self, LoadError> {
        let made = |sizes: EncoderSizes| {
            let made = EncoderContext::new(Arc::clone(&model), sizes, Arc::clone(&interrupt));
            // A first computation shows now what would else fail with the first request.
            let probed = made.and_then(|mut context| {
                let probe = context.encode(&[&[0]])?;
                Some((context, probe.first().map_or(0, Vec::len)))
            });
            probed.ok_or_else(|| LoadError::Context {
                kv_tokens: sizes.batch_tokens,
                reason: reason(),
            })
        };
        let is_on_cpu = devices::accelerators(free_bytes()).is_empty();
        let short = is_on_cpu.then_some(EncoderSizes {
            batch_tokens: TILE_ROWS - 1,
            flash: FlashAttention::Off,
            ..sizes
        });
        let short = short.map(&made).transpose()?;
        let (context, dimensions) = made(sizes)?;
        Ok(Self {
            context,
            short: short.map(|(context, _)| context),
            dimensions: u32::try_from(dimensions).unwrap_or(u32::MAX),
            is_normalised: false,
        })
    }
}

impl Encoder for LlamaEncoder {
    fn dimensions(&self) -> u32 {
        self.dimensions
    }

    fn encode(&mut self, texts: &[&[Token]]) -> Option<Vec<Vec<f32>>> {
        let tokens: usize = texts.iter().map(|text| text.len()).sum();
        let context = match &mut self.short {
            Some(short) if tokens < TILE_ROWS as usize => short,
            _ => &mut self.context,
        };
        let mut vectors = context.encode(texts)?;
        if self.is_normalised {
            for vector in &mut vectors {
                *vector = normalised(vector);
            }
        }
        Some(vectors)
    }
}

struct Reader(LlamaVocabulary);

impl TextReader for Reader {
    fn size(&self) -> u32 {
        self.0.size()
    }

    fn splitting(&self) -> Splitting {
        self.0.splitting()
    }

    fn piece_bytes_max(&self) -> u32 {
        self.0.piece_bytes_max()
    }

    fn read(&self, text: &str) -> Vec<Token> {
        let mut tokens = Vec::new();
        self.0.tokenize_whole(text, false, &mut tokens);
        tokens
    }
}

/// Pairs as llama-server writes them (`format_prompt_rerank` in server-common.cpp).
struct Pairs {
    vocabulary: LlamaVocabulary,
    form: PairForm,
}

enum PairForm {
    /// The tokens before, between and after the two texts.
    Ends {
        before: Vec<Token>,
        between: Vec<Token>,
        after: Vec<Token>,
    },
    /// The model's own template.
    Template(Vec<Slot>),
}

/// A stretch of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Text(String),
    Query,
    Document,
}

impl Pairs {
    /// `None` for a file that does not say where one text ends and the other begins.
    fn of(model: &LlamaModel, vocabulary: LlamaVocabulary) -> Option<Self> {
        let form = match model.meta_val_str(RERANK_TEMPLATE) {
            Ok(template) => PairForm::Template(slots(&template)),
            Err(_) => ends(model)?,
        };
        Some(Self { vocabulary, form })
    }

    fn prompt(slots: &[Slot], query: &str, document: &str) -> Prompt {
        let piece = |slot: &Slot| {
            let (text, has_controls) = match slot {
                Slot::Text(text) => (text.as_str(), true),
                Slot::Query => (query, false),
                Slot::Document => (document, false),
            };
            PromptPiece {
                text: text.to_owned(),
                has_controls,
            }
        };
        Prompt {
            pieces: slots.iter().map(piece).collect(),
            images: Vec::new(),
        }
    }
}

/// BOS query EOS SEP document EOS, each as far as the file wants it.
fn ends(model: &LlamaModel) -> Option<PairForm> {
    let vocab = model.vocab();
    let size = vocab.n_tokens();
    let known = |token: i32| (0..size).contains(&token).then_some(token);
    let end = known(vocab.eos().0).or_else(|| known(vocab.sep().0));
    let wanted = |is_wanted: bool, token: Option<Token>| token.filter(|_| is_wanted);
    let before = wanted(vocab.should_add_bos(), known(vocab.bos().0));
    let end = wanted(vocab.should_add_eos(), end);
    let separator = wanted(vocab.should_add_sep(), known(vocab.sep().0));
    let between: Vec<Token> = end.into_iter().chain(separator).collect();
    (!between.is_empty()).then(|| PairForm::Ends {
        before: before.into_iter().collect(),
        between,
        after: end.into_iter().collect(),
    })
}

/// The template's stretches, in order.
pub(super) fn slots(template: &str) -> Vec<Slot> {
    let mut slots = Vec::new();
    let mut rest = template;
    let marks = [("{query}", Slot::Query), ("{document}", Slot::Document)];
    loop {
        let next = marks
            .iter()
            .filter_map(|(mark, slot)| Some((rest.find(mark)?, mark.len(), slot)))
            .min_by_key(|(at, ..)| *at);
        let Some((at, length, slot)) = next else {
            slots.extend((!rest.is_empty()).then(|| Slot::Text(rest.to_owned())));
            return slots;
        };
        slots.extend((at > 0).then(|| Slot::Text(rest[..at].to_owned())));
        slots.push(slot.clone());
        rest = &rest[at + length..];
    }
}

impl PairReader for Pairs {
    fn piece_bytes_max(&self) -> u32 {
        self.vocabulary.piece_bytes_max()
    }

    fn depth(&self, query: &str, document: &str) -> Depth {
        let splitting = self.vocabulary.splitting();
        match &self.form {
            // One after the other: no deeper than both were one text.
            PairForm::Ends { .. } => splitting.depth(&[query, document].concat()),
            PairForm::Template(slots) => {
                splitting.depth(&Self::prompt(slots, query, document).text())
            }
        }
    }

    fn for_query<'q>(&'q self, query: &'q str) -> DocumentReader<'q> {
        match &self.form {
            PairForm::Template(slots) => Box::new(move |document| {
                tokenize_pieces(&Self::prompt(slots, query, document), &self.vocabulary)
            }),
            PairForm::Ends {
                before,
                between,
                after,
            } => {
                // The same for all documents; read by the first, which has the stack for it.
                let head = OnceLock::new();
                Box::new(move |document| {
                    let head = head.get_or_init(|| {
                        let mut tokens = before.clone();
                        self.vocabulary.tokenize(query, false, &mut tokens);
                        tokens.extend_from_slice(between);
                        tokens
                    });
                    let mut tokens = head.clone();
                    self.vocabulary.tokenize(document, false, &mut tokens);
                    tokens.extend_from_slice(after);
                    tokens
                })
            }
        }
    }
}
