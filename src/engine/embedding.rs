//! Embeddings: texts to vectors of length 1, on a thread of the model's own (`encoding.rs`).

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::{BackendError, EmbedInput, Embedder, EmbedderCard, Embeddings, Health};
use serde::{Deserialize, Serialize};

use crate::config::EngineConfig;
use crate::decoder::{Interrupt, Token};
use crate::encoding::{EmbeddingDriver, Encoder, Encoding};
use crate::load::LoadError;
use crate::queue::Stride;
use crate::splitting::{Depth, RUN_CHARS_MAX, Splitting, on_deep_stack};

/// So few and short texts are tokenized where they arrive: of a question of 150 bytes that takes some 50 us,
/// as long as to wake another thread and be woken by it.
const BRIEF_TEXTS_MAX: usize = 4;
const BRIEF_BYTES_MAX: usize = 512;

/// Settings of one embedding model, or of one that ranks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EmbedderConfig {
    /// The GGUF file.
    pub path: PathBuf,
    /// The model's name on the card.
    pub name: String,
    /// The longest input in tokens. `None`: the model's own length, or
    /// [`EmbedderConfig::INPUT_TOKENS_DEFAULT`] where that is less. A longer one is refused.
    pub input_tokens_max: Option<u32>,
    /// Tokens that may wait to be computed. A request that would bring more is refused as
    /// overloaded, unless nothing waits.
    pub queue_tokens_max: usize,
    /// Threads that compute. `None`: as for [`crate::EngineConfig::threads`].
    pub threads: Option<u32>,
    /// Layers kept on an accelerator, where the build has one.
    pub gpu_layers: u32,
    /// Where the CPU back ends lie in a build with `dynamic-backends`; unused in any other.
    pub backends_dir: Option<PathBuf>,
    /// How long a process of its own may show no progress before it is ended.
    pub hang_max: Duration,
}

impl EmbedderConfig {
    /// Memory for attention grows with the square of it.
    pub const INPUT_TOKENS_DEFAULT: u32 = 2_048;
    pub const QUEUE_TOKENS_DEFAULT: usize = 1 << 20;
    pub const HANG_MS_DEFAULT: u64 = 30_000;
    pub const HANG_MS_LEAST: u64 = EngineConfig::HANG_MS_LEAST;

    /// Defaults for the model in `path`, known to callers as `name`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            name: name.into(),
            input_tokens_max: None,
            queue_tokens_max: Self::QUEUE_TOKENS_DEFAULT,
            threads: None,
            gpu_layers: u32::MAX,
            backends_dir: None,
            hang_max: Duration::from_millis(Self::HANG_MS_DEFAULT),
        }
    }

    /// The first setting that no embedder could work with, by name.
    #[cfg_attr(not(feature = "llama"), expect(dead_code, reason = "for llama.cpp"))]
    pub(crate) fn fault(&self) -> Option<&'static str> {
        [
            (self.input_tokens_max == Some(0), "input_tokens_max"),
            (self.queue_tokens_max == 0, "queue_tokens_max"),
            (self.threads == Some(0), "threads"),
            (
                self.hang_max < Duration::from_millis(Self::HANG_MS_LEAST),
                "hang_max",
            ),
        ]
        .into_iter()
        .find_map(|(is_wrong, name)| is_wrong.then_some(name))
    }
}

/// Text to tokens, with whatever the model wants at either end. Shared by all threads.
pub(crate) trait TextReader: Send + Sync {
    fn size(&self) -> u32;
    fn splitting(&self) -> Splitting;
    /// The most bytes of text that one token can stand for; at least 1.
    fn piece_bytes_max(&self) -> u32;
    fn read(&self, text: &str) -> Vec<Token>;
}

/// An embedding model on this machine. Dropping it stops its thread.
pub struct LocalEmbedder {
    reader: Arc<dyn TextReader>,
    encoding: Encoding,
}

impl fmt::Debug for LocalEmbedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalEmbedder")
            .field("card", self.encoding.card())
            .finish_non_exhaustive()
    }
}

impl LocalEmbedder {
    /// As [`Encoding::start`].
    pub(crate) fn start(
        name: String,
        input_tokens_max: u32,
        queue_tokens_max: usize,
        reader: Arc<dyn TextReader>,
        with_encoder: impl FnOnce(
            Arc<Interrupt>,
            &mut dyn FnMut(&mut dyn Encoder),
        ) -> Result<(), LoadError>
        + Send
        + 'static,
    ) -> Result<(Self, EmbeddingDriver), LoadError> {
        let (encoding, driver) =
            Encoding::start(name, input_tokens_max, queue_tokens_max, with_encoder)?;
        Ok((Self { reader, encoding }, driver))
    }

    /// Stops the thread. What waits ends with an error.
    pub fn stop(&self) {
        self.encoding.stop();
    }

    pub(crate) fn stride(&self) -> Stride {
        self.encoding.stride()
    }
}

#[async_trait]
impl Embedder for LocalEmbedder {
    fn card(&self) -> &EmbedderCard {
        self.encoding.card()
    }

    fn health(&self) -> Health {
        self.encoding.health()
    }

    /// Must be called within a Tokio runtime: much text is tokenized on its blocking pool.
    async fn embed(&self, inputs: Vec<EmbedInput>) -> Result<Embeddings, BackendError> {
        let (reader, limit) = (
            Arc::clone(&self.reader),
            self.encoding.card().input_tokens_max,
        );
        let bytes: usize = inputs.iter().map(EmbedInput::bytes).sum();
        let is_brief = inputs.len() <= BRIEF_TEXTS_MAX && bytes <= BRIEF_BYTES_MAX;
        let read = move || {
            inputs
                .into_iter()
                .enumerate()
                .map(|(at, input)| read(input, at, reader.as_ref(), limit))
                .collect()
        };
        let (vectors, prompt_tokens) = self.encoding.encode(is_brief, read).await?;
        Ok(Embeddings {
            vectors,
            prompt_tokens,
        })
    }
}

fn read(
    input: EmbedInput,
    at: usize,
    reader: &dyn TextReader,
    limit: u32,
) -> Result<Vec<Token>, BackendError> {
    let declined = |message: String| BackendError::declined(format!("input[{at}]"), message);
    let too_long = |tokens: usize, word: &str| {
        declined(format!(
            "this input has {word}{tokens} tokens, and the model reads at most {limit}; cut it into \
             pieces"
        ))
    };
    let tokens = match input {
        EmbedInput::Tokens(tokens) => {
            if let Some(token) = tokens.iter().find(|token| **token >= reader.size()) {
                return Err(declined(format!(
                    "token {token} does not exist; this model's tokens are 0 to {}. Token ids of \
                     another model mean nothing here: send the text",
                    reader.size() - 1
                )));
            }
            tokens.into_iter().map(u32::cast_signed).collect()
        }
        EmbedInput::Text(text) => {
            let least = text.len() / reader.piece_bytes_max().max(1) as usize;
            if least > limit as usize {
                return Err(too_long(least, "at least "));
            }
            match reader.splitting().depth(&text) {
                Depth::Shallow => reader.read(&text),
                Depth::Deep => on_deep_stack(|| reader.read(&text))
                    .map_err(|_| BackendError::Engine("no thread for a long run of letters"))?,
                Depth::Bottomless => {
                    return Err(declined(format!(
                        "this input has a run of more than {RUN_CHARS_MAX} characters without a \
                         break; put spaces into it"
                    )));
                }
            }
        }
    };
    if tokens.len() > limit as usize {
        return Err(too_long(tokens.len(), ""));
    }
    if tokens.is_empty() {
        return Err(declined("this input has no tokens".to_owned()));
    }
    Ok(tokens)
}

/// Scales a vector to length 1. One of nothing but zeros stays.
#[cfg_attr(
    not(any(feature = "llama", test)),
    expect(dead_code, reason = "for llama.cpp")
)]
pub(crate) fn normalised(vector: &[f32]) -> Vec<f32> {
    let length = vector
        .iter()
        .map(|value| f64::from(*value).powi(2))
        .sum::<f64>()
        .sqrt();
    if length == 0.0 || !length.is_finite() {
        return vector.to_vec();
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a component of a vector of length 1"
    )]
    vector
        .iter()
        .map(|value| (f64::from(*value) / length) as f32)
        .collect()
}

#[cfg(test)]
mod tests;
