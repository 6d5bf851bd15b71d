//! Embeddings: one thread per model that turns texts into vectors, several in one batch.
//!
//! An encoder computes attention over the whole batch, so short texts gain from company and long
//! ones lose by it: a batch takes texts up to [`PACK_TOKENS`] tokens, or one longer text alone.
//! Requests take turns in it, one text each, so that a request of two thousand texts delays one of
//! a single text by a batch and not by all of them.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use async_trait::async_trait;
use domain::{
    BackendError, BadRequest, EmbedInput, Embedder, EmbedderCard, Embeddings, Health, HealthState,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, oneshot};
use tracing::{error, info};

use crate::decoder::Token;
use crate::engine::EnginePanicked;
use crate::load::LoadError;
use crate::splitting::{Depth, RUN_CHARS_MAX, Splitting, on_deep_stack};

/// Texts are put together up to this. Measured on an encoder of 22 M parameters: 46 texts of 128
/// tokens a second by twos, 42 one by one, 30 by sixteens.
pub(crate) const PACK_TOKENS: u32 = 256;
/// Texts of one batch.
pub(crate) const PACK_TEXTS_MAX: u32 = 32;
/// Requests tokenized at once; others wait.
const PREPARING_MAX: usize = 2;
/// What a caller is told to wait where the queue is full.
const FULL_WAIT: Duration = Duration::from_secs(1);

/// Settings of one embedding model.
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
}

impl EmbedderConfig {
    /// Memory for attention grows with the square of it.
    pub const INPUT_TOKENS_DEFAULT: u32 = 2_048;
    pub const QUEUE_TOKENS_DEFAULT: usize = 1 << 20;

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
        }
    }

    /// The first setting that no embedder could work with, by name.
    #[cfg_attr(not(feature = "llama"), expect(dead_code, reason = "for llama.cpp"))]
    pub(crate) fn fault(&self) -> Option<&'static str> {
        [
            (self.input_tokens_max == Some(0), "input_tokens_max"),
            (self.queue_tokens_max == 0, "queue_tokens_max"),
            (self.threads == Some(0), "threads"),
        ]
        .into_iter()
        .find_map(|(is_wrong, name)| is_wrong.then_some(name))
    }
}

/// The model's arithmetic, on the thread that made it.
pub(crate) trait Encoder {
    /// Components of a vector.
    fn dimensions(&self) -> u32;

    /// One vector for each of `texts`, none of which is empty or longer than the card says, nor all
    /// together than the larger of that and [`PACK_TOKENS`]. `None` when the computation failed.
    fn encode(&mut self, texts: &[&[Token]]) -> Option<Vec<Vec<f32>>>;
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
    card: EmbedderCard,
    reader: Arc<dyn TextReader>,
    desk: Arc<Desk>,
    preparing: Arc<Semaphore>,
    queue_tokens_max: usize,
}

/// The thread, to be waited for at shutdown.
#[derive(Debug)]
pub struct EmbeddingDriver {
    thread: JoinHandle<()>,
    ended: oneshot::Receiver<()>,
}

impl EmbeddingDriver {
    /// Waits until the thread has ended, which [`LocalEmbedder::stop`] brings about.
    ///
    /// # Errors
    /// It panicked.
    pub async fn run(self) -> Result<(), EnginePanicked> {
        let _ = self.ended.await;
        self.thread.join().map_err(|_| EnginePanicked)
    }
}

impl fmt::Debug for LocalEmbedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalEmbedder")
            .field("card", &self.card)
            .finish_non_exhaustive()
    }
}

type Answer = Result<Vec<Vec<f32>>, BackendError>;

/// One request's texts: those not yet computed, and the vectors of those that are.
struct Order {
    texts: VecDeque<(usize, Vec<Token>)>,
    vectors: Vec<Vec<f32>>,
    left: usize,
    answer: oneshot::Sender<Answer>,
}

#[derive(Default)]
struct Queue {
    orders: VecDeque<Order>,
    /// Of all texts in them.
    tokens: usize,
    is_stopping: bool,
    has_ended: bool,
}

#[derive(Default)]
struct Desk {
    queue: Mutex<Queue>,
    bell: Condvar,
}

impl Desk {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Every change under the lock is whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.queue().is_stopping = true;
        self.bell.notify_all();
    }
}

/// A text in a batch, and the place of its vector.
struct Packed {
    order: usize,
    index: usize,
    tokens: Vec<Token>,
}

impl LocalEmbedder {
    /// Starts a thread on which `with_encoder` makes an encoder and hands it to what it is given.
    /// Waits until it has.
    pub(crate) fn start(
        name: String,
        input_tokens_max: u32,
        queue_tokens_max: usize,
        reader: Arc<dyn TextReader>,
        with_encoder: impl FnOnce(&mut dyn FnMut(&mut dyn Encoder)) -> Result<(), LoadError>
        + Send
        + 'static,
    ) -> Result<(Self, EmbeddingDriver), LoadError> {
        let desk = Arc::new(Desk::default());
        let (built, is_built) = std::sync::mpsc::sync_channel(1);
        let (ending, ended) = oneshot::channel();
        let theirs = Arc::clone(&desk);
        let thread = thread::Builder::new()
            .name("embedder".to_owned())
            .spawn(move || {
                let _closing = Closing(Arc::clone(&theirs), Some(ending));
                let made = with_encoder(&mut |encoder| {
                    if built.send(Ok(encoder.dimensions())).is_ok() {
                        run(encoder, &theirs);
                    }
                });
                if let Err(error) = made {
                    // Nobody waits any more where it was made and failed later, which none does.
                    let _ = built.try_send(Err(error));
                }
            })
            .map_err(LoadError::Thread)?;
        let dimensions = is_built.recv().map_err(|_| LoadError::Panicked)??;
        let embedder = Self {
            card: EmbedderCard {
                name,
                dimensions,
                input_tokens_max,
            },
            reader,
            desk,
            preparing: Arc::new(Semaphore::new(PREPARING_MAX)),
            queue_tokens_max,
        };
        Ok((embedder, EmbeddingDriver { thread, ended }))
    }

    /// Stops the thread. What waits ends with an error.
    pub fn stop(&self) {
        self.desk.stop();
    }

    /// Tokens of every input, or what is wrong with the first wrong one.
    async fn prepare(&self, inputs: Vec<EmbedInput>) -> Result<Vec<Vec<Token>>, BackendError> {
        let stopped = |_| BackendError::Engine("it has stopped");
        let permit = Arc::clone(&self.preparing).acquire_owned().await;
        let permit = permit.map_err(stopped)?;
        let (reader, limit) = (Arc::clone(&self.reader), self.card.input_tokens_max);
        let work = tokio::task::spawn_blocking(move || {
            // Held to the end, whichever way it comes.
            let _permit = permit;
            inputs
                .into_iter()
                .enumerate()
                .map(|(at, input)| read(input, at, reader.as_ref(), limit))
                .collect()
        });
        work.await
            .map_err(|_| BackendError::Engine("preparing the inputs failed"))?
    }

    fn submit(&self, texts: Vec<Vec<Token>>) -> Result<oneshot::Receiver<Answer>, BackendError> {
        let tokens: usize = texts.iter().map(Vec::len).sum();
        let (answer, answered) = oneshot::channel();
        let mut queue = self.desk.queue();
        if queue.is_stopping || queue.has_ended {
            return Err(BackendError::Engine("it has stopped"));
        }
        if queue.tokens > 0 && queue.tokens.saturating_add(tokens) > self.queue_tokens_max {
            forget_those_who_left(&mut queue);
        }
        if queue.tokens > 0 && queue.tokens.saturating_add(tokens) > self.queue_tokens_max {
            return Err(BackendError::Overloaded {
                retry_after: FULL_WAIT,
            });
        }
        queue.tokens += tokens;
        queue.orders.push_back(Order {
            vectors: vec![Vec::new(); texts.len()],
            left: texts.len(),
            texts: texts.into_iter().enumerate().collect(),
            answer,
        });
        drop(queue);
        self.desk.bell.notify_one();
        Ok(answered)
    }
}

#[async_trait]
impl Embedder for LocalEmbedder {
    fn card(&self) -> &EmbedderCard {
        &self.card
    }

    fn health(&self) -> Health {
        let state = if self.desk.queue().has_ended {
            HealthState::Down
        } else {
            HealthState::Ready
        };
        Health::of(state, None)
    }

    /// Must be called within a Tokio runtime: texts are tokenized on its blocking pool.
    async fn embed(&self, inputs: Vec<EmbedInput>) -> Result<Embeddings, BackendError> {
        let texts = self.prepare(inputs).await?;
        let tokens: usize = texts.iter().map(Vec::len).sum();
        let answered = self.submit(texts)?;
        let vectors = answered.await.unwrap_or(Err(BackendError::Interrupted))?;
        Ok(Embeddings {
            vectors,
            prompt_tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
        })
    }
}

impl Drop for LocalEmbedder {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Leaves nobody waiting, however the thread ends.
struct Closing(Arc<Desk>, Option<oneshot::Sender<()>>);

impl Drop for Closing {
    fn drop(&mut self) {
        if thread::panicking() {
            error!("embedder's thread panicked");
        }
        let mut queue = self.0.queue();
        queue.has_ended = true;
        for order in queue.orders.drain(..) {
            let _ = order
                .answer
                .send(Err(BackendError::Engine("it has stopped")));
        }
        drop(queue);
        if let Some(ending) = self.1.take() {
            let _ = ending.send(());
        }
    }
}

fn read(
    input: EmbedInput,
    at: usize,
    reader: &dyn TextReader,
    limit: u32,
) -> Result<Vec<Token>, BackendError> {
    let declined = |message: String| BackendError::Declined {
        reason: BadRequest::at(format!("input[{at}]"), message),
    };
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

/// The thread's loop.
fn run(encoder: &mut dyn Encoder, desk: &Desk) {
    loop {
        let mut queue = desk.queue();
        while queue.orders.is_empty() && !queue.is_stopping {
            queue = desk
                .bell
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if queue.is_stopping {
            return info!("embedder stopped");
        }
        forget_those_who_left(&mut queue);
        let (mut orders, packed) = pack(&mut queue);
        drop(queue);
        if packed.is_empty() {
            continue;
        }
        let texts: Vec<&[Token]> = packed.iter().map(|text| text.tokens.as_slice()).collect();
        // A panic here is ours, not llama.cpp's; its batch fails and the next may not.
        let vectors = catch_unwind(AssertUnwindSafe(|| encoder.encode(&texts)))
            .ok()
            .flatten()
            .filter(|vectors| vectors.len() == texts.len());
        match vectors {
            Some(vectors) => {
                for (text, vector) in packed.into_iter().zip(vectors) {
                    let order = &mut orders[text.order];
                    order.vectors[text.index] = vector;
                    order.left -= 1;
                }
                put_back(desk, orders);
            }
            None => {
                error!(texts = texts.len(), "encode failed");
                let mut queue = desk.queue();
                for order in orders {
                    queue.tokens -= tokens_of(&order);
                    let failed = BackendError::Engine("the computation failed");
                    let _ = order.answer.send(Err(failed));
                }
            }
        }
    }
}

fn tokens_of(order: &Order) -> usize {
    order.texts.iter().map(|(_, tokens)| tokens.len()).sum()
}

fn forget_those_who_left(queue: &mut Queue) {
    let Queue { orders, tokens, .. } = queue;
    orders.retain(|order| {
        let has_left = order.answer.is_closed();
        if has_left {
            *tokens -= tokens_of(order);
        }
        !has_left
    });
}

/// Takes the texts of the next batch out of the queue, with the requests they belong to: one text
/// of each in turn, as long as they fit.
fn pack(queue: &mut Queue) -> (Vec<Order>, Vec<Packed>) {
    let mut packed: Vec<Packed> = Vec::new();
    let mut count = 0;
    let mut taken: Vec<Order> = queue
        .orders
        .drain(..queue.orders.len().min(PACK_TEXTS_MAX as usize))
        .collect();
    loop {
        let before = packed.len();
        for (at, order) in taken.iter_mut().enumerate() {
            let Some((_, tokens)) = order.texts.front() else {
                continue;
            };
            let fits = packed.is_empty() || count + tokens.len() <= PACK_TOKENS as usize;
            if !fits || packed.len() >= PACK_TEXTS_MAX as usize {
                continue;
            }
            if let Some((index, tokens)) = order.texts.pop_front() {
                count += tokens.len();
                packed.push(Packed {
                    order: at,
                    index,
                    tokens,
                });
            }
        }
        if packed.len() == before {
            break;
        }
    }
    queue.tokens -= count;
    (taken, packed)
}

/// Answers the requests that are whole; the others go to the end of the queue, the ones that had no
/// turn to its front.
fn put_back(desk: &Desk, orders: Vec<Order>) {
    let mut queue = desk.queue();
    let mut waiting = VecDeque::new();
    for order in orders {
        if order.left == 0 {
            let _ = order.answer.send(Ok(order.vectors));
        } else if order.left == order.vectors.len() {
            waiting.push_back(order);
        } else {
            queue.orders.push_back(order);
        }
    }
    while let Some(order) = waiting.pop_back() {
        queue.orders.push_front(order);
    }
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
