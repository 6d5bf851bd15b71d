//! The thread that computes vectors, several texts in one batch: for embeddings and for ranking.
//!
//! An encoder computes attention over the whole batch, so short texts gain from company and long
//! ones lose by it: a batch takes texts up to [`PACK_TOKENS`] tokens, or one longer text alone.
//! Requests take turns in it, one text each, so that a request of two thousand texts delays one of
//! a single text by a batch and not by all of them.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use domain::{BackendError, EmbedderCard, Health, HealthState};
use tokio::sync::oneshot;
use tracing::{error, info};

use crate::decoder::{Interrupt, Token};
use crate::engine::EnginePanicked;
use crate::load::LoadError;
use crate::queue::Stride;
use crate::turns::Turns;

/// Texts are put together up to this. Measured on an encoder of 22 M parameters: 46 texts of 128
/// tokens a second by twos, 42 one by one, 30 by sixteens.
pub(crate) const PACK_TOKENS: u32 = 256;
/// Texts of one batch.
pub(crate) const PACK_TEXTS_MAX: u32 = 32;
/// Requests tokenized at once; others wait.
const PREPARING_MAX: usize = 2;
/// Requests that wait for that; one more is refused as overloaded. Half of the node's exchanges, so
/// that chats find a seat.
const PREPARING_WAITS_MAX: usize = 256;
/// What a caller is told to wait where the queue is full.
const FULL_WAIT: Duration = Duration::from_secs(1);

/// The model's arithmetic, on the thread that made it.
pub(crate) trait Encoder {
    /// Components of a vector.
    fn dimensions(&self) -> u32;

    /// One vector for each of `texts`, none of which is empty or longer than the card says, nor all
    /// together than the larger of that and [`PACK_TOKENS`]. `None` when the computation failed.
    fn encode(&mut self, texts: &[&[Token]]) -> Option<Vec<Vec<f32>>>;
}

/// The thread, to be waited for at shutdown.
#[derive(Debug)]
pub struct EmbeddingDriver {
    thread: JoinHandle<()>,
    ended: oneshot::Receiver<()>,
}

impl EmbeddingDriver {
    /// Waits until the thread has ended, which `stop` of its model brings about.
    ///
    /// # Errors
    /// It panicked.
    pub async fn run(self) -> Result<(), EnginePanicked> {
        let _ = self.ended.await;
        self.thread.join().map_err(|_| EnginePanicked)
    }
}

type Answer = Result<Vec<Vec<f32>>, BackendError>;

/// One request's texts: those not yet computed, and the vectors of those that are.
pub(crate) struct Order {
    pub texts: VecDeque<(usize, Vec<Token>)>,
    vectors: Vec<Vec<f32>>,
    left: usize,
    /// A text of it is in the batch under way.
    has_turn: bool,
    /// One of its vectors is none.
    is_broken: bool,
    answer: oneshot::Sender<Answer>,
}

#[derive(Default)]
pub(crate) struct Queue {
    pub orders: VecDeque<Order>,
    /// Of all texts in them.
    pub tokens: usize,
    is_stopping: bool,
    has_ended: bool,
}

pub(crate) struct Desk {
    queue: Mutex<Queue>,
    bell: Condvar,
    /// Ends a batch under way when nobody will want it.
    interrupt: Arc<Interrupt>,
    batches: AtomicU64,
    is_resting: AtomicBool,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            queue: Mutex::default(),
            bell: Condvar::new(),
            interrupt: Arc::default(),
            batches: AtomicU64::new(0),
            // Until there is something to do.
            is_resting: AtomicBool::new(true),
        }
    }
}

impl Desk {
    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue> {
        // Every change under the lock is whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.queue().is_stopping = true;
        self.interrupt.raise();
        self.bell.notify_all();
    }
}

/// A text in a batch, and the place of its vector.
struct Packed {
    order: usize,
    index: usize,
    tokens: Vec<Token>,
}

/// A thread, and the texts that wait for it. Dropping it stops the thread.
pub(crate) struct Encoding {
    card: EmbedderCard,
    desk: Arc<Desk>,
    preparing: Turns,
    queue_tokens_max: usize,
}

impl Encoding {
    /// Starts a thread on which `with_encoder` makes an encoder and hands it to what it is given.
    /// Waits until it has.
    pub(crate) fn start(
        name: String,
        input_tokens_max: u32,
        queue_tokens_max: usize,
        with_encoder: impl FnOnce(
            Arc<Interrupt>,
            &mut dyn FnMut(&mut dyn Encoder),
        ) -> Result<(), LoadError>
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
                let interrupt = Arc::clone(&theirs.interrupt);
                let made = with_encoder(interrupt, &mut |encoder| {
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
        let encoding = Self {
            card: EmbedderCard {
                name,
                dimensions,
                input_tokens_max,
            },
            desk,
            preparing: Turns::new(PREPARING_MAX, PREPARING_WAITS_MAX),
            queue_tokens_max,
        };
        Ok((encoding, EmbeddingDriver { thread, ended }))
    }

    pub(crate) fn card(&self) -> &EmbedderCard {
        &self.card
    }

    #[cfg(test)]
    pub(crate) fn desk(&self) -> &Desk {
        &self.desk
    }

    /// What waits ends with an error.
    pub(crate) fn stop(&self) {
        self.desk.stop();
    }

    pub(crate) fn health(&self) -> Health {
        let state = if self.desk.queue().has_ended {
            HealthState::Down
        } else {
            HealthState::Ready
        };
        Health::of(state, None)
    }

    /// How far the thread has come, for whoever wants to know whether it hangs.
    pub(crate) fn stride(&self) -> Stride {
        if self.desk.is_resting.load(Ordering::SeqCst) {
            return Stride::Resting;
        }
        let batches = self.desk.batches.load(Ordering::Relaxed);
        Stride::At(batches.wrapping_add(self.desk.interrupt.looks()))
    }

    /// Tokenizes what `read` says and computes the vectors: with them, the tokens of all texts together.
    /// What is not brief is tokenized on the blocking pool, a few requests at once.
    pub(crate) async fn encode(
        &self,
        is_brief: bool,
        read: impl FnOnce() -> Result<Vec<Vec<Token>>, BackendError> + Send + 'static,
    ) -> Result<(Vec<Vec<f32>>, u32), BackendError> {
        let texts = if is_brief {
            // As it would end on another thread.
            catch_unwind(AssertUnwindSafe(read)).ok()
        } else {
            let turn = self.preparing.take().await?;
            let work = tokio::task::spawn_blocking(move || {
                // Held to the end, whichever way it comes.
                let _turn = turn;
                read()
            });
            work.await.ok()
        };
        let texts = texts.ok_or(BackendError::Engine("preparing the inputs failed"))??;
        let tokens: usize = texts.iter().map(Vec::len).sum();
        let answered = self.submit(texts)?;
        let vectors = answered.await.unwrap_or(Err(BackendError::Interrupted))?;
        Ok((vectors, u32::try_from(tokens).unwrap_or(u32::MAX)))
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
            has_turn: false,
            is_broken: false,
            texts: texts.into_iter().enumerate().collect(),
            answer,
        });
        drop(queue);
        self.desk.bell.notify_one();
        Ok(answered)
    }
}

impl Drop for Encoding {
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

/// The thread's loop.
fn run(encoder: &mut dyn Encoder, desk: &Desk) {
    loop {
        let mut queue = desk.queue();
        desk.is_resting.store(true, Ordering::SeqCst);
        while queue.orders.is_empty() && !queue.is_stopping {
            queue = desk
                .bell
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        desk.is_resting.store(false, Ordering::SeqCst);
        desk.batches.fetch_add(1, Ordering::Relaxed);
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
                    order.is_broken |= vector.iter().any(|value| !value.is_finite());
                    order.vectors[text.index] = vector;
                    order.left -= 1;
                }
                put_back(desk, orders);
            }
            None => {
                let mut queue = desk.queue();
                // Interrupted, when stopping: nothing has failed.
                if !queue.is_stopping {
                    error!(texts = texts.len(), "encode failed");
                }
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
    for order in &mut taken {
        order.has_turn = false;
    }
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
                order.has_turn = true;
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
            let answer = if order.is_broken {
                error!("the model computed a vector that is none");
                Err(BackendError::Engine("the model computed what is no number"))
            } else {
                Ok(order.vectors)
            };
            let _ = order.answer.send(answer);
        } else if order.has_turn {
            queue.orders.push_back(order);
        } else {
            waiting.push_back(order);
        }
    }
    while let Some(order) = waiting.pop_back() {
        queue.orders.push_front(order);
    }
}
