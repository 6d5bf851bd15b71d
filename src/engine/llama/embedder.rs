//! An embedding model over llama.cpp. All of it through the safe crate: an encoder needs neither
//! abort nor a shared cache.

use std::num::NonZeroU32;
use std::sync::Arc;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{LlamaContextParams, LlamaPoolingType};
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use tracing::info;

use crate::decoder::{Token, Vocabulary};
use crate::embedding::{
    EmbedderConfig, EmbeddingDriver, Encoder, LocalEmbedder, PACK_TEXTS_MAX, PACK_TOKENS,
    TextReader, normalised,
};
use crate::llama::open::{
    ONE_THREAD_PARAMETERS_MAX, backend, check_file, open, reason, threads_default,
};
use crate::llama::vocabulary::LlamaVocabulary;
use crate::load::LoadError;
use crate::splitting::Splitting;

impl LocalEmbedder {
    /// Loads the model and starts its thread. Blocks. As for [`crate::Engine::load`], the file
    /// should have been checked before.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(config: EmbedderConfig) -> Result<(LocalEmbedder, EmbeddingDriver), LoadError> {
        if let Some(setting) = config.fault() {
            return Err(LoadError::Setting(setting));
        }
        check_file(&config.path)?;
        let backend = backend(config.backends_dir.as_deref());
        let model = Arc::new(open(backend, &config.path, config.gpu_layers)?);
        let pooling = pooling(&model).ok_or_else(|| LoadError::NotEmbedding {
            path: config.path.clone(),
        })?;
        let trained = model.n_ctx_train().max(1);
        let input_tokens_max = config
            .input_tokens_max
            .unwrap_or(EmbedderConfig::INPUT_TOKENS_DEFAULT)
            .min(trained);
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
            "embedding model loaded"
        );
        let reader = Arc::new(Reader {
            vocabulary: LlamaVocabulary::new(Arc::clone(&model), &[]),
            model: Arc::clone(&model),
        });
        let batch_tokens = input_tokens_max.max(PACK_TOKENS);
        let params = params(batch_tokens, threads, pooling);
        LocalEmbedder::start(
            config.name,
            input_tokens_max,
            config.queue_tokens_max,
            reader,
            move |serve| {
                let refused = || LoadError::Context {
                    kv_tokens: batch_tokens,
                    reason: reason(),
                };
                let context = model.new_context(backend, params).map_err(|_| refused())?;
                let mut encoder = LlamaEncoder {
                    context,
                    batch: LlamaBatch::new(batch_tokens as usize, 1),
                    dimensions: 0,
                };
                // A first computation shows now what would else fail with the first request.
                let probe = encoder.encode(&[&[0]]).ok_or_else(refused)?;
                encoder.dimensions = probe
                    .first()
                    .map_or(0, |vector| u32::try_from(vector.len()).unwrap_or(u32::MAX));
                serve(&mut encoder);
                Ok(())
            },
        )
    }
}

/// What the file says of how a text's vectors become one. An encoder of no such word, a chat model
/// and a reranker give none that could be compared.
fn pooling(model: &LlamaModel) -> Option<LlamaPoolingType> {
    let architecture = model.meta_val_str("general.architecture").ok()?;
    let pooling = model.meta_val_str(&format!("{architecture}.pooling_type"));
    let pooling = LlamaPoolingType::from(pooling.ok()?.parse::<i32>().ok()?);
    match pooling {
        LlamaPoolingType::Mean | LlamaPoolingType::Cls | LlamaPoolingType::Last => Some(pooling),
        LlamaPoolingType::None | LlamaPoolingType::Rank | LlamaPoolingType::Unspecified => None,
    }
}

/// An encoder takes a batch in one piece, so all sizes are the batch's.
fn params(batch_tokens: u32, threads: u32, pooling: LlamaPoolingType) -> LlamaContextParams {
    let threads = i32::try_from(threads).unwrap_or(1);
    LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(batch_tokens))
        .with_n_batch(batch_tokens)
        .with_n_ubatch(batch_tokens)
        .with_n_seq_max(PACK_TEXTS_MAX)
        .with_kv_unified(true)
        .with_n_threads(threads)
        .with_n_threads_batch(threads)
        .with_embeddings(true)
        .with_pooling_type(pooling)
}

struct LlamaEncoder<'m> {
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    dimensions: u32,
}

impl Encoder for LlamaEncoder<'_> {
    fn dimensions(&self) -> u32 {
        self.dimensions
    }

    fn encode(&mut self, texts: &[&[Token]]) -> Option<Vec<Vec<f32>>> {
        let count: usize = texts.iter().map(|text| text.len()).sum();
        // What llama.cpp would end the process for.
        let is_sound = texts.iter().all(|text| !text.is_empty())
            && texts.len() <= PACK_TEXTS_MAX as usize
            && count <= self.context.n_ubatch() as usize;
        if !is_sound {
            return None;
        }
        self.batch.clear();
        for (sequence, text) in (0..).zip(texts) {
            for (position, token) in (0..).zip(*text) {
                let token = LlamaToken(*token);
                self.batch.add(token, position, &[sequence], true).ok()?;
            }
        }
        // For a causal model; an encoder keeps nothing.
        self.context.clear_kv_cache();
        self.context.decode(&mut self.batch).ok()?;
        (0..)
            .zip(texts)
            .map(|(sequence, _)| {
                let vector = self.context.embeddings_seq_ith(sequence).ok()?;
                Some(normalised(vector))
            })
            .collect()
    }
}

struct Reader {
    vocabulary: LlamaVocabulary,
    model: Arc<LlamaModel>,
}

impl TextReader for Reader {
    fn size(&self) -> u32 {
        self.vocabulary.size()
    }

    fn splitting(&self) -> Splitting {
        self.vocabulary.splitting()
    }

    fn piece_bytes_max(&self) -> u32 {
        self.vocabulary.piece_bytes_max()
    }

    fn read(&self, text: &str) -> Vec<Token> {
        let read = self.model.vocab().tokenize(text.as_bytes(), true, false);
        read.into_iter().map(|token| token.0).collect()
    }
}
