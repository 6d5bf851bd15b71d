//! The inner seam: what the scheduler asks of a model, in plain numbers.
//!
//! [`Decoder`] holds the KV cache and computes logits; [`Vocabulary`] turns text into tokens and
//! back. llama.cpp implements both behind the feature `llama`; the tests script both.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::adapters::AdapterSet;
use crate::splitting::Splitting;

/// A token's id in the model's vocabulary.
pub(crate) type Token = i32;

/// One token to be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub token: Token,
    /// 0 is the first token of the sequence.
    pub position: u32,
    /// Which sequence; below [`Shape::sequences`].
    pub sequence: u32,
    /// True when the logits after this token are wanted. At most [`Shape::rows_max`] in a batch.
    pub wants_logits: bool,
}

/// Rows of logits that one call may give beside one for each sequence: for drafts of all sequences
/// together. A row has four bytes for each token of the vocabulary, so these are 10 MB for one of
/// 152,000, and as much again while they are computed.
pub(crate) const DRAFT_ROWS_MAX: u32 = 16;

/// The decoder's fixed sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// How many sequences may hold tokens at once.
    pub sequences: u32,
    /// Tokens that all sequences together may hold.
    pub kv_tokens: u32,
    /// Entries that one call may carry.
    pub batch_tokens: u32,
    /// Tokens that one sequence may hold, prompt and reply together.
    pub context_tokens: u32,
}

impl Shape {
    /// The most entries of one call whose logits may be wanted.
    pub(crate) fn rows_max(self) -> u32 {
        self.sequences
            .saturating_add(DRAFT_ROWS_MAX)
            .min(self.batch_tokens)
    }
}

/// How a call of [`Decoder::decode`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// Every entry is in the cache, and the logits asked for can be read.
    Done,
    /// The cache had no room; it is as before the call.
    NoRoom,
    /// [`Interrupt`] was raised. Some entries may be in the cache: ask [`Decoder::held`].
    Aborted,
    /// The computation failed. What the cache holds is unknown: [`Decoder::reset`] it.
    Failed,
}

/// The threads that a decoder computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Threads {
    /// At the start, and at most.
    pub count: u32,
    /// Whether it may be told to make do with fewer.
    pub adapts: bool,
}

/// A digest of all that the meaning of a saved state hangs on: the model and how it is run.
pub(crate) type Fingerprint = [u8; 32];

/// A model's cache and arithmetic. Used by one thread only, and built on it.
///
/// Contract: a sequence's entries come in order of position without gaps, from
/// [`Decoder::held`] on; a batch is never empty nor longer than [`Shape::batch_tokens`].
pub(crate) trait Decoder {
    fn shape(&self) -> Shape;

    /// False for a kind of memory that [`Decoder::truncate`] can only empty; a state that was
    /// restored then serves only whole.
    fn can_cut(&self) -> bool;

    fn threads(&self) -> Threads;

    /// From the next call of [`Decoder::decode`] on, `count` threads compute: at least one and at
    /// most what [`Decoder::threads`] says. Results do not depend on it.
    fn set_threads(&mut self, count: u32);

    /// A digest of each adapter there is, in the order of their places.
    fn adapters(&self) -> &[Fingerprint] {
        &[]
    }

    /// Says under which adapters the batches from now on are computed; at first under none. What a
    /// sequence holds must have been computed under the same.
    fn adapt(&mut self, _adapters: &AdapterSet) {}

    /// Computes `batch`, and may be cut short by the interrupt it was built with.
    fn decode(&mut self, batch: &[Entry]) -> Decoded;

    /// The logits after entry `index` of the last batch, which was `Done` and wanted them.
    /// `f32[vocabulary]`; `None` when there are none.
    fn logits(&mut self, index: usize) -> Option<&[f32]>;

    /// Attention is computed for so many entries at once, over all cells that any of them attends to,
    /// and in smaller batches for each by itself. `None` where that is the same.
    fn attention_block(&self) -> Option<u32> {
        None
    }

    /// How many tokens before and after `token`, of an image, must be in one batch with it. `None` for
    /// a token that need not be with others.
    fn undivided(&self, _token: Token) -> Option<(u32, u32)> {
        None
    }

    /// How many tokens, from position 0 on without a gap, the cache holds of `sequence`.
    fn held(&self, sequence: u32) -> u32;

    /// Forgets all of `sequence` from position `keep` on, and returns how many tokens it still
    /// holds: `keep`, or 0 for a kind of memory that cannot be cut.
    fn truncate(&mut self, sequence: u32, keep: u32) -> u32;

    /// Whether the first `count` tokens of `from` can be given to another sequence; where it is still
    /// shorter, whether they could be then. What `from` holds beyond them may keep them from it.
    fn can_share(&self, from: u32, count: u32) -> bool;

    /// Bytes that [`Decoder::share`] copies of `from`: 0 where sequences share cells.
    fn share_bytes(&mut self, _from: u32) -> usize {
        0
    }

    /// Makes `to`, which holds nothing, hold the first `count` tokens of `from` too, at no cost of
    /// computing. False, and `to` holds nothing, where [`Decoder::can_share`] says so, or where it
    /// failed all the same.
    fn share(&mut self, from: u32, to: u32, count: u32) -> bool;

    /// Forgets everything.
    fn reset(&mut self);

    /// How many bytes [`Decoder::save`] would give of `sequence`.
    fn state_bytes(&mut self, sequence: u32) -> usize;

    /// All that the cache holds of `sequence`, as bytes for [`Decoder::restore`]. `None` when they
    /// cannot be had.
    fn save(&mut self, sequence: u32) -> Option<Vec<u8>>;

    /// Makes `sequence`, which holds nothing, hold the `count` tokens whose state was saved. False,
    /// and nothing held, when there is no room or the state is another model's.
    ///
    /// The bytes must be those that [`Decoder::save`] gave, by a decoder of the same fingerprint:
    /// made-up ones may end the process.
    fn restore(&mut self, sequence: u32, state: &[u8], count: u32) -> bool;

    /// Differs where states cannot be exchanged, or would say something else.
    fn fingerprint(&self) -> Fingerprint;
}

/// Text to tokens and back. Shared by all threads.
pub(crate) trait Vocabulary: Send + Sync {
    fn size(&self) -> u32;

    /// Says how deep [`Vocabulary::tokenize`] recurses, which the caller must have the stack for.
    fn splitting(&self) -> Splitting;

    /// Appends the tokens of `text`. Control tokens in it are read as such only where
    /// `has_controls`. Adds nothing of its own at either end.
    fn tokenize(&self, text: &str, has_controls: bool, tokens: &mut Vec<Token>);

    /// As [`Vocabulary::tokenize`], with whatever the model wants at either end of a text.
    fn tokenize_whole(&self, text: &str, has_controls: bool, tokens: &mut Vec<Token>) {
        tokens.extend(self.first_token());
        self.tokenize(text, has_controls, tokens);
    }

    /// Appends the bytes of `token`, the text of a control token included.
    fn shown_piece(&self, token: Token, bytes: &mut Vec<u8>) {
        if self.is_control(token) {
            bytes.extend_from_slice(self.control_text(token).as_bytes());
        } else {
            self.piece(token, bytes);
        }
    }

    /// Appends the bytes of `token`, which may be a part of a character. Control tokens have none,
    /// apart from those whose text marks tool calls and thoughts.
    fn piece(&self, token: Token, bytes: &mut Vec<u8>);

    /// True for tokens that are no text of a reply, also where [`Vocabulary::piece`] gives them some.
    fn is_control(&self, token: Token) -> bool;

    /// True for tokens that end a reply.
    fn is_end(&self, token: Token) -> bool;

    /// What a token without bytes is called, where its file says.
    fn control_text(&self, _token: Token) -> String {
        String::new()
    }

    /// The token that every prompt begins with, where the model wants one.
    fn first_token(&self) -> Option<Token>;

    /// The texts that tokenizing reads as control tokens when it may.
    fn controls(&self) -> &[String];

    /// The most bytes of text that one token can stand for; at least 1.
    fn piece_bytes_max(&self) -> u32;
}

/// Ends a running [`Decoder::decode`] early.
#[derive(Debug, Default)]
pub(crate) struct Interrupt {
    is_raised: AtomicBool,
    looks: AtomicU64,
}

impl Interrupt {
    pub(crate) fn raise(&self) {
        self.is_raised.store(true, Ordering::SeqCst);
    }

    pub(crate) fn lower(&self) {
        self.is_raised.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.is_raised.load(Ordering::SeqCst)
    }

    /// How often it was looked at, which llama.cpp does between operations: a decode in which this
    /// does not grow gets nowhere.
    pub(crate) fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }
}
