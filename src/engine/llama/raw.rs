//! The only `unsafe` in the workspace: llama.cpp's context, batch, abort callback and log, over the
//! pinned `llama-cpp-sys-2`. Exports safe items only.
//!
//! Why not `llama-cpp-2` for these: it has no abort callback, its batch can be written past its end
//! from safe code, and its context borrows the model. Model and vocabulary stay with it.
//!
//! llama.cpp answers a wrong size or id with an assertion that ends the process. Every call here
//! therefore checks what the header asks for first. Line numbers are those of
//! `llama.cpp/include/llama.h` in llama-cpp-sys-2 0.1.161.

mod projector;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, Once, PoisonError};

use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;
use tracing::{debug, error, trace, warn};

pub(super) use self::projector::Projector;
use crate::adapters::AdapterSet;
use crate::decoder::{Decoded, Entry, Interrupt, Shape, Threads, Token};
use crate::gallery::{Gallery, is_of_image};
use crate::kv::{FlashAttention, KvType};
use crate::llama::filling::{Filling, columns};
use crate::memory::CELLS_STEP;

/// A context and its batch. Belongs to the thread that made it: OpenMP keeps its pool there.
pub(super) struct Context {
    context: NonNull<sys::llama_context>,
    batch: Batch,
    shape: Shape,
    threads: Threads,
    cells: CellLayout,
    ubatch_tokens: usize,
    attention_block: Option<u32>,
    /// The place in the last batch's entries of each entry of the last leg, as it was computed.
    order: Vec<usize>,
    /// How steps are filled up; `None` where that gains nothing.
    filler: Option<Filler>,
    /// For a model that sees.
    images: Option<ImageBatch>,
    vocabulary: usize,
    /// Of this model, each by its place. llama.cpp frees them with the model.
    adapters: Vec<NonNull<sys::llama_adapter_lora>>,
    /// The abort callback holds a pointer into this.
    interrupt: Arc<Interrupt>,
    /// The context points into the model, so the model must outlive it.
    model: Arc<LlamaModel>,
}

/// The sequence that fills steps up, behind all others. It holds nothing between two of them.
#[derive(Clone, Copy, Debug)]
struct Filler {
    sequence: u32,
    columns: usize,
    /// Steps of more entries are not filled: they are cut.
    entries_max: usize,
}

/// Sizes of a context.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub shape: Shape,
    /// Tokens computed at one go, within a batch. An interrupt loses at most these.
    pub ubatch_tokens: u32,
    pub threads: Threads,
    /// `Off`: attention by plain matrix products. `Auto`: llama.cpp decides.
    pub flash: FlashAttention,
    /// As what keys and values are kept. Packed ones must have been checked against the model's heads.
    pub type_k: KvType,
    pub type_v: KvType,
    /// How the cells of the cache are divided.
    pub cells: CellLayout,
    /// Computed by the CPU alone. Steps are then filled up to what it multiplies at once, where all
    /// share one pool.
    pub is_on_cpu: bool,
}

/// From so many rows on, llama.cpp's attention on a CPU is computed for as many at once, over all cells
/// that any of them attends to (`GGML_FA_TILE_Q`, ggml-cpu/common.h). Where replies are among them that
/// is the cells of all replies: with eight of 300 tokens, 64 such rows took a quarter of a second more.
pub(super) const TILE_ROWS: u32 = 64;

impl Sizes {
    /// As for [`crate::decoder::Decoder::attention_block`].
    fn attention_block(&self) -> Option<u32> {
        let has_tiles = self.is_on_cpu
            && self.flash != FlashAttention::Off
            && self.type_k == self.type_v
            && matches!(self.type_k, KvType::F16 | KvType::F32);
        // Cells of each sequence's own are never attended to by others.
        (has_tiles && self.cells == CellLayout::Unified).then_some(TILE_ROWS)
    }
}

/// Whose a cell of the cache may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CellLayout {
    /// Anyone's: each sequence may grow into all of them, and a prefix can be shared. Attention runs
    /// over the cells of all sequences.
    Unified,
    /// Each sequence has its own, a whole context of them, and attention runs over no others.
    Split,
}

/// Contexts are made one at a time: making one writes to its model (llama-cpp-2, `new_context`).
static MAKING: Mutex<()> = Mutex::new(());

impl Context {
    /// `None` when llama.cpp refuses; [`take_first_error`] then has its words. `gallery` has what
    /// tokens below zero stand for.
    pub(super) fn new(
        model: Arc<LlamaModel>,
        sizes: Sizes,
        interrupt: Arc<Interrupt>,
        gallery: Option<Arc<Gallery>>,
    ) -> Option<Self> {
        let shape = sizes.shape;
        if let Some(gallery) = &gallery
            && input_width(&model) != Some(gallery.width())
        {
            return None;
        }
        let vocabulary = usize::try_from(model.n_vocab()).ok()?;
        let columns = columns(&system_info());
        let ubatch_tokens = sizes.ubatch_tokens.min(shape.batch_tokens);
        let fills = sizes.is_on_cpu
            && columns > 1
            && sizes.cells == CellLayout::Unified
            && !model.is_recurrent()
            && !model.is_hybrid();
        let filler = fills.then_some(Filler {
            sequence: shape.sequences,
            columns,
            entries_max: ubatch_tokens as usize,
        });
        let filled = if fills { Filling::MAX } else { 0 };
        let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: returns a plain struct by value and reads nothing (llama.h:480).
        let mut params = unsafe { sys::llama_context_default_params() };
        params.n_ctx = shape.kv_tokens + if fills { CELLS_STEP } else { 0 };
        params.n_batch = shape.batch_tokens;
        params.n_ubatch = ubatch_tokens;
        params.n_seq_max = shape.sequences + u32::from(fills);
        // A row of logits for each sequence and a few for drafts. The default, one per token of the
        // batch, would reserve 300 MB for a large vocabulary.
        params.n_outputs_max = shape.rows_max() + filled;
        params.n_threads = i32::try_from(sizes.threads.count).unwrap_or(1);
        params.n_threads_batch = params.n_threads;
        params.kv_unified = sizes.cells == CellLayout::Unified;
        params.no_perf = true;
        params.flash_attn_type = flash_type(sizes.flash);
        params.type_k = ggml_type(sizes.type_k);
        params.type_v = ggml_type(sizes.type_v);
        params.abort_callback = Some(should_abort);
        params.abort_callback_data = Arc::as_ptr(&interrupt).cast_mut().cast::<c_void>();
        // SAFETY: the model pointer is live while `model` is, which the new value keeps. The
        // callback's data lives as long as `interrupt`, kept beside it. No sampler, no other
        // context and no evaluation callback are set (llama.h:403-420).
        let context = unsafe { sys::llama_init_from_model(model_pointer(&model), params) };
        let context = NonNull::new(context)?;
        Some(Self {
            context,
            batch: Batch::new(shape.batch_tokens, 0),
            images: gallery.map(|gallery| ImageBatch {
                batch: Batch::new(shape.batch_tokens, gallery.width()),
                gallery,
            }),
            shape,
            ubatch_tokens: ubatch_tokens as usize,
            attention_block: sizes.attention_block(),
            threads: sizes.threads,
            cells: sizes.cells,
            order: Vec::new(),
            filler,
            vocabulary,
            adapters: Vec::new(),
            interrupt,
            model,
        })
    }

    /// Loads an adapter, which must fit the model in every axis: llama.cpp compares two of four. False
    /// when it refuses; [`take_first_error`] then has its words.
    pub(super) fn add_adapter(&mut self, path: &Path) -> bool {
        let Ok(path) = CString::new(path.as_os_str().as_encoded_bytes()) else {
            return false;
        };
        let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the model is live while the context is, and the path is NUL-terminated. What this
        // writes to of the model, its list of adapters, is read by contexts of this thread only.
        // Exceptions are caught within (llama.h:686-690, llama-adapter.cpp).
        let adapter =
            unsafe { sys::llama_adapter_lora_init(model_pointer(&self.model), path.as_ptr()) };
        self.adapters.extend(NonNull::new(adapter));
        !adapter.is_null()
    }

    /// Computes what comes under these adapters, by their places, and no others. The next batch pays
    /// for a change: llama.cpp lays its memory out anew.
    pub(super) fn adapt(&mut self, chosen: &AdapterSet) {
        let known = chosen
            .iter()
            .filter_map(|(index, scale)| Some((self.adapters.get(index)?.as_ptr(), scale)));
        let (mut adapters, mut scales): (Vec<_>, Vec<f32>) = known.unzip();
        // SAFETY: the context is live, and so are the adapters, which are this model's and freed with
        // it only. Both arrays have the length that is said, and are copied (llama.h:725-730).
        unsafe {
            sys::llama_set_adapters_lora(
                self.context.as_ptr(),
                adapters.as_mut_ptr(),
                adapters.len(),
                scales.as_mut_ptr(),
            );
        }
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    pub(super) fn threads(&self) -> Threads {
        self.threads
    }

    /// For prompts and replies alike, from the next decode on.
    pub(super) fn set_threads(&mut self, count: u32) {
        let count = count.clamp(1, self.threads.count);
        let count = i32::try_from(count).unwrap_or(1);
        // SAFETY: the context is live and no decode runs, which would need `&mut self` too; both
        // counts are at least 1 and at most what it was made with (llama.h:1092-1095).
        unsafe { sys::llama_set_n_threads(self.context.as_ptr(), count, count) }
    }

    /// Computes `entries`. A batch that llama.cpp would assert on is `Failed` instead.
    pub(super) fn decode(&mut self, entries: &[Entry]) -> Decoded {
        self.order.clear();
        if !self.is_sound(entries) {
            error!(entries = entries.len(), "batch is not sound");
            return Decoded::Failed;
        }
        if !entries.iter().any(|entry| is_of_image(entry.token)) {
            self.order.extend(0..entries.len());
            return self.decode_leg(entries);
        }
        for (number, leg) in self.legs(entries).into_iter().enumerate() {
            self.order = leg;
            match self.decode_leg(entries) {
                Decoded::Done => {}
                Decoded::NoRoom if number > 0 => return self.take_back(entries),
                other => return other,
            }
        }
        Decoded::Done
    }

    /// As [`legs`], but images that look ahead each in a leg of its own.
    fn legs(&self, entries: &[Entry]) -> Vec<Vec<usize>> {
        let legs = legs(entries);
        let Some(images) = self.images.as_ref().filter(|it| it.gallery.looks_ahead()) else {
            return legs;
        };
        let begins = |one: usize, next: usize| {
            let next_of = &entries[next];
            entries[one].sequence != next_of.sequence
                || is_of_image(next_of.token)
                    && images
                        .gallery
                        .undivided(next_of.token)
                        .is_none_or(|(before, _)| before == 0)
        };
        let is_of_images = |leg: &[usize]| is_of_image(entries[leg[0]].token);
        legs.into_iter()
            .flat_map(|leg| {
                if !is_of_images(&leg) {
                    return vec![leg];
                }
                let images = leg.chunk_by(|one, next| !begins(*one, *next));
                images.map(<[usize]>::to_vec).collect()
            })
            .collect()
    }

    /// As for [`Gallery::undivided`].
    pub(super) fn undivided(&self, token: Token) -> Option<(u32, u32)> {
        self.images.as_ref()?.gallery.undivided(token)
    }

    /// As if nothing of `entries` had been computed.
    fn take_back(&mut self, entries: &[Entry]) -> Decoded {
        // From the last on, so that each sequence ends where it began.
        for entry in entries.iter().rev() {
            if self.held(entry.sequence) > entry.position
                && !self.remove(entry.sequence, entry.position)
            {
                return Decoded::Failed;
            }
        }
        Decoded::NoRoom
    }

    /// Computes those of `entries` that are in `order`: all tokens of the vocabulary, or all of images.
    fn decode_leg(&mut self, entries: &[Entry]) -> Decoded {
        if self.cells == CellLayout::Split {
            // Neighbouring sequences are computed together only where they come in order.
            self.order.sort_by_key(|index| entries[*index].sequence);
        }
        let leg = self.order.iter().map(|index| &entries[*index]);
        let is_of_images = leg.clone().any(|entry| is_of_image(entry.token));
        let (batch, looks_ahead) = match &mut self.images {
            Some(images) if is_of_images => (images.fill(leg), images.gallery.looks_ahead()),
            Some(_) | None => (self.batch.fill(leg).then_some(self.batch.raw), false),
        };
        let fits = !looks_ahead || self.order.len() <= self.ubatch_tokens;
        let Some(batch) = batch.filter(|_| fits) else {
            error!(entries = entries.len(), "batch is not sound");
            return Decoded::Failed;
        };
        let (filled, batch) = match is_of_images {
            true => (None, batch),
            // `batch` is from before what this adds.
            false => (self.fill_up(), self.batch.raw),
        };
        // SAFETY: the context is live, the batch's arrays hold `n_tokens` written entries, and
        // sizes and ids are within the context's, as just checked (llama.h:1003). One of the arrays
        // `token` and `embd` is there and the other NULL; the latter's rows are as wide as the model
        // takes them (llama.h:247-248, 598). What looks ahead is no more than is computed at one go,
        // and attention is as before afterwards (llama.h:1107-1109).
        let code = unsafe {
            if looks_ahead {
                sys::llama_set_causal_attn(self.context.as_ptr(), false);
            }
            let code = sys::llama_decode(self.context.as_ptr(), batch);
            if looks_ahead {
                sys::llama_set_causal_attn(self.context.as_ptr(), true);
            }
            code
        };
        if let Some(sequence) = filled {
            // SAFETY: the memory belongs to the live context, which has this sequence; all of it
            // goes (llama.h:757-765).
            unsafe { sys::llama_memory_seq_rm(self.memory(), sequence, -1, -1) };
        }
        match code {
            0 => Decoded::Done,
            1 => Decoded::NoRoom,
            2 => Decoded::Aborted,
            _ => {
                error!(code, "llama_decode failed");
                Decoded::Failed
            }
        }
    }

    /// Fills the batch up where that makes it quicker. Says which sequence then holds something.
    fn fill_up(&mut self) -> Option<i32> {
        let filler = self.filler?;
        let (entries, rows) = self.batch.counts();
        let filling = Filling::of(filler.columns, entries, rows, filler.entries_max);
        self.batch.want_rows(filling.more_rows);
        for (position, place) in (0..).zip(0..filling.entries) {
            self.batch.push(&Entry {
                token: 0,
                position,
                sequence: filler.sequence,
                wants_logits: place < filling.rows,
            });
        }
        (filling.entries > 0).then(|| filler.sequence.cast_signed())
    }

    /// What llama.cpp asserts, or reads without a check.
    fn is_sound(&self, entries: &[Entry]) -> bool {
        let rows = entries.iter().filter(|entry| entry.wants_logits).count();
        !entries.is_empty()
            && entries.len() <= self.shape.batch_tokens as usize
            && rows <= self.shape.rows_max() as usize
            && entries.iter().all(|entry| {
                entry.sequence < self.shape.sequences
                    && entry.position < self.positions()
                    && self.is_known(entry)
            })
    }

    /// Of what an image's token stands for, the batch will see. It gives no logits: legs that did
    /// would lose them to those after them.
    fn is_known(&self, entry: &Entry) -> bool {
        match usize::try_from(entry.token) {
            Ok(token) => token < self.vocabulary,
            Err(_) => self.images.is_some() && !entry.wants_logits,
        }
    }

    pub(super) fn attention_block(&self) -> Option<u32> {
        self.attention_block
    }

    pub(super) fn is_split(&self) -> bool {
        self.cells == CellLayout::Split
    }

    /// The cells that one sequence may have.
    fn positions(&self) -> u32 {
        match self.cells {
            CellLayout::Unified => self.shape.kv_tokens,
            CellLayout::Split => self.shape.kv_tokens / self.shape.sequences,
        }
    }

    /// `f32[vocabulary]` after entry `index` of the last batch.
    pub(super) fn logits(&mut self, index: usize) -> Option<&[f32]> {
        let place = self.order.iter().position(|entry| *entry == index)?;
        let index = i32::try_from(place).ok()?;
        // SAFETY: the context is live; an index without logits gives NULL (llama.h:1139-1142).
        let row = unsafe { sys::llama_get_logits_ith(self.context.as_ptr(), index) };
        if row.is_null() {
            return None;
        }
        // SAFETY: a row has one number per token of the vocabulary, and stays in place until the
        // next decode, which the borrow of `self` keeps off (llama.h:1130-1134).
        Some(unsafe { std::slice::from_raw_parts(row, self.vocabulary) })
    }

    /// How many tokens from position 0 on `sequence` holds.
    pub(super) fn held(&self, sequence: u32) -> u32 {
        let Some(sequence) = self.sequence(sequence) else {
            return 0;
        };
        // SAFETY: the memory belongs to the live context, the id was checked (llama.h:813).
        let last = unsafe { sys::llama_memory_seq_pos_max(self.memory(), sequence) };
        u32::try_from(last + 1).unwrap_or(0)
    }

    /// Forgets `sequence` from position `from` on. False when this kind of memory cannot.
    pub(super) fn remove(&mut self, sequence: u32, from: u32) -> bool {
        let (Some(sequence), Ok(from)) = (self.sequence(sequence), i32::try_from(from)) else {
            return false;
        };
        // SAFETY: as above; an end below 0 means all that follows (llama.h:757-765).
        unsafe { sys::llama_memory_seq_rm(self.memory(), sequence, from, -1) }
    }

    /// Gives the first `count` tokens of `from` to `to`, which holds none, as well. False where it
    /// could not be done.
    pub(super) fn copy(&mut self, from: u32, to: u32, count: u32) -> bool {
        match self.cells {
            CellLayout::Unified => self.share_cells(from, to, count),
            CellLayout::Split => self.copy_state(from, to) && self.remove(to, count),
        }
    }

    /// By way of this machine's memory: between cells of two sequences llama.cpp copies whole
    /// sequences only, and with them all cells that are not in use. The bytes in between are at most
    /// those of one sequence's cells, and are given back at once.
    fn copy_state(&mut self, from: u32, to: u32) -> bool {
        let state = self.state(from);
        state.is_some_and(|state| self.set_state(to, &state))
    }

    fn share_cells(&mut self, from: u32, to: u32, count: u32) -> bool {
        let (Some(from), Some(to), Ok(count)) =
            (self.sequence(from), self.sequence(to), i32::try_from(count))
        else {
            return false;
        };
        // SAFETY: the memory belongs to the live context, the ids were checked. A part of a
        // sequence may be copied because all sequences share one pool of cells: the layout is
        // `Unified` (llama.h:767-775).
        unsafe { sys::llama_memory_seq_cp(self.memory(), from, to, 0, count) }
        true
    }

    pub(super) fn clear(&mut self) {
        // SAFETY: the memory belongs to the live context (llama.h:752).
        unsafe { sys::llama_memory_clear(self.memory(), true) }
    }

    /// The first position that `sequence` holds. Behind a sliding window it is not 0 for long.
    pub(super) fn first(&self, sequence: u32) -> Option<u32> {
        let sequence = self.sequence(sequence)?;
        // SAFETY: the memory belongs to the live context, the id was checked (llama.h:806).
        let first = unsafe { sys::llama_memory_seq_pos_min(self.memory(), sequence) };
        u32::try_from(first).ok()
    }

    /// How many bytes [`Context::state`] gives of `sequence`.
    pub(super) fn state_bytes(&mut self, sequence: u32) -> usize {
        let Some(sequence) = self.sequence(sequence) else {
            return 0;
        };
        // SAFETY: the context is live, the id was checked; only counts (llama.h:882).
        unsafe { sys::llama_state_seq_get_size(self.context.as_ptr(), sequence) }
    }

    /// All that the memory holds of `sequence`. `None` when llama.cpp does not give it whole.
    pub(super) fn state(&mut self, sequence: u32) -> Option<Vec<u8>> {
        let mut state = vec![0_u8; self.state_bytes(sequence)];
        let sequence = self.sequence(sequence)?;
        if state.is_empty() {
            return None;
        }
        // SAFETY: the context is live, the id was checked, and `state` has the bytes that are said;
        // a state that needs more is an error and writes none beyond them (llama.h:887-891).
        let written = unsafe {
            sys::llama_state_seq_get_data(
                self.context.as_ptr(),
                state.as_mut_ptr(),
                state.len(),
                sequence,
            )
        };
        (written == state.len()).then_some(state)
    }

    /// Makes `sequence` hold what `state` was taken of, and nothing else. False when llama.cpp
    /// refuses: then it holds nothing.
    ///
    /// The bytes must come from [`Context::state`], of the same model with the same context:
    /// llama.cpp checks types and sizes, and asserts some of the rest.
    pub(super) fn set_state(&mut self, sequence: u32, state: &[u8]) -> bool {
        let Some(id) = self.sequence(sequence) else {
            return false;
        };
        // SAFETY: the context is live, the id was checked, and no more than the bytes that are said
        // is read: an end before the end is an error (llama.h:897-901; `llama_io_read_host` in
        // llama-context.cpp). Without the flag for devices nothing points into `state` afterwards.
        let read = unsafe {
            sys::llama_state_seq_set_data(self.context.as_ptr(), state.as_ptr(), state.len(), id)
        };
        let is_whole = read == state.len() && read > 0;
        if !is_whole {
            // A memory of several parts may have taken some of them.
            self.remove(sequence, 0);
        }
        is_whole
    }

    /// An id below zero would mean every sequence, one beyond the context's asserts.
    fn sequence(&self, sequence: u32) -> Option<i32> {
        (sequence < self.shape.sequences).then(|| i32::try_from(sequence).ok())?
    }

    fn memory(&self) -> sys::llama_memory_t {
        // SAFETY: the context is live; the memory is part of it (llama.h:590).
        unsafe { sys::llama_get_memory(self.context.as_ptr()) }
    }

    /// True when positions cannot be taken out of the middle or the end of a sequence.
    pub(super) fn is_recurrent(&self) -> bool {
        self.model.is_recurrent() || self.model.is_hybrid()
    }

    /// How many tokens back some layers look at most; 0 where all look at everything.
    pub(super) fn window(&self) -> u32 {
        // SAFETY: the model is live while the context is (llama.h:604).
        let window = unsafe { sys::llama_model_n_swa(model_pointer(&self.model)) };
        u32::try_from(window).unwrap_or(0)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.interrupt.lower();
        // SAFETY: made by `llama_init_from_model` and freed only here; model and callback data are
        // dropped after this body (llama.h:559).
        unsafe { sys::llama_free(self.context.as_ptr()) }
    }
}

/// A context that makes one vector of each text, and its batch. Belongs to the thread that made it.
pub(super) struct EncoderContext {
    context: NonNull<sys::llama_context>,
    batch: Batch,
    sizes: EncoderSizes,
    vocabulary: usize,
    /// Components of a vector.
    width: usize,
    /// As for [`Context`].
    interrupt: Arc<Interrupt>,
    /// The context points into it.
    _model: Arc<LlamaModel>,
}

/// Sizes of an [`EncoderContext`].
#[derive(Clone, Copy, Debug)]
pub(super) struct EncoderSizes {
    /// Tokens of all texts of one batch. An encoder takes a batch in one piece.
    pub batch_tokens: u32,
    /// Texts of one batch.
    pub texts: u32,
    pub threads: u32,
    pub pooling: Pooling,
    pub flash: FlashAttention,
}

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pooling {
    Mean,
    Cls,
    Last,
    /// Through the model's classification head, to one score or one for each of its labels.
    Rank,
}

impl Pooling {
    /// By its number in a file (llama.h:176-183). `None` where it gives no vector for a text.
    pub(super) fn numbered(number: i32) -> Option<Self> {
        match number {
            sys::LLAMA_POOLING_TYPE_MEAN => Some(Pooling::Mean),
            sys::LLAMA_POOLING_TYPE_CLS => Some(Pooling::Cls),
            sys::LLAMA_POOLING_TYPE_LAST => Some(Pooling::Last),
            sys::LLAMA_POOLING_TYPE_RANK => Some(Pooling::Rank),
            _ => None,
        }
    }

    fn number(self) -> sys::llama_pooling_type {
        match self {
            Pooling::Mean => sys::LLAMA_POOLING_TYPE_MEAN,
            Pooling::Cls => sys::LLAMA_POOLING_TYPE_CLS,
            Pooling::Last => sys::LLAMA_POOLING_TYPE_LAST,
            Pooling::Rank => sys::LLAMA_POOLING_TYPE_RANK,
        }
    }
}

impl EncoderContext {
    /// `None` when llama.cpp refuses; [`take_first_error`] then has its words.
    pub(super) fn new(
        model: Arc<LlamaModel>,
        sizes: EncoderSizes,
        interrupt: Arc<Interrupt>,
    ) -> Option<Self> {
        let vocabulary = usize::try_from(model.n_vocab()).ok()?;
        // SAFETY: the model is live while borrowed; both only read it (llama.h:599, 611).
        let (vector, scores) = unsafe {
            let model = model_pointer(&model);
            (
                sys::llama_model_n_embd_out(model),
                sys::llama_model_n_cls_out(model),
            )
        };
        let width = match sizes.pooling {
            Pooling::Rank => scores as usize,
            Pooling::Mean | Pooling::Cls | Pooling::Last => usize::try_from(vector).ok()?,
        };
        let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: returns a plain struct by value and reads nothing (llama.h:480).
        let mut params = unsafe { sys::llama_context_default_params() };
        // llama.cpp first measures a batch of `n_seq_max` texts of one length and rounds its tokens up
        // for that, but not its outputs; the mean over both then fails an assertion (`graph_reserve` in
        // llama-context.cpp, `build_pooling` in llama-graph.cpp).
        let tokens = sizes.batch_tokens.next_multiple_of(sizes.texts.max(1));
        params.n_ctx = tokens;
        params.n_batch = tokens;
        params.n_ubatch = tokens;
        params.n_seq_max = sizes.texts;
        params.n_threads = i32::try_from(sizes.threads).unwrap_or(1);
        params.n_threads_batch = params.n_threads;
        params.kv_unified = true;
        params.no_perf = true;
        params.embeddings = true;
        params.pooling_type = sizes.pooling.number();
        params.flash_attn_type = flash_type(sizes.flash);
        params.abort_callback = Some(should_abort);
        params.abort_callback_data = Arc::as_ptr(&interrupt).cast_mut().cast::<c_void>();
        // SAFETY: as in [`Context::new`]: model and callback data live as long as the new value.
        let context = unsafe { sys::llama_init_from_model(model_pointer(&model), params) };
        let context = NonNull::new(context)?;
        Some(Self {
            context,
            batch: Batch::new(sizes.batch_tokens, 0),
            sizes,
            vocabulary,
            width,
            interrupt,
            _model: model,
        })
    }

    /// One vector for each of `texts`: `f32[texts, width]`. `None` when they are not as llama.cpp
    /// demands, the computation failed or it was interrupted.
    pub(super) fn encode(&mut self, texts: &[&[Token]]) -> Option<Vec<Vec<f32>>> {
        let entries = self.entries(texts)?;
        if !self.batch.fill(entries.iter()) {
            return None;
        }
        // SAFETY: the context is live; an encoder has no memory, and nothing is cleared then
        // (llama.h:590, 752; `llama_memory_clear` in llama-context.cpp).
        unsafe { sys::llama_memory_clear(sys::llama_get_memory(self.context.as_ptr()), true) }
        // SAFETY: the context is live, the batch's arrays hold `n_tokens` written entries, all of
        // which fit into one piece, and ids are within the context's, as just checked; an encoder
        // encodes where it is asked to decode (llama.h:1003).
        let code = unsafe { sys::llama_decode(self.context.as_ptr(), self.batch.raw) };
        if code != 0 {
            if code != 2 {
                error!(code, "llama_decode failed");
            }
            return None;
        }
        (0..)
            .zip(texts)
            .map(|(sequence, _)| self.vector(sequence))
            .collect()
    }

    /// `None` for what llama.cpp asserts on, or reads without a check.
    fn entries(&self, texts: &[&[Token]]) -> Option<Vec<Entry>> {
        let count: usize = texts.iter().map(|text| text.len()).sum();
        let known =
            |token: &Token| usize::try_from(*token).is_ok_and(|token| token < self.vocabulary);
        let is_sound = !texts.is_empty()
            && texts.len() <= self.sizes.texts as usize
            && count <= self.sizes.batch_tokens as usize
            && texts
                .iter()
                .all(|text| !text.is_empty() && text.iter().all(known));
        if !is_sound {
            error!(texts = texts.len(), tokens = count, "batch is not sound");
            return None;
        }
        let mut entries = Vec::with_capacity(count);
        for (sequence, text) in (0..).zip(texts) {
            for (position, token) in (0..).zip(*text) {
                entries.push(Entry {
                    token: *token,
                    position,
                    sequence,
                    wants_logits: true,
                });
            }
        }
        Some(entries)
    }

    fn vector(&self, sequence: i32) -> Option<Vec<f32>> {
        // SAFETY: the context is live; a sequence without a vector gives NULL (llama.h:1160-1164).
        let vector = unsafe { sys::llama_get_embeddings_seq(self.context.as_ptr(), sequence) };
        if vector.is_null() {
            return None;
        }
        // SAFETY: llama.cpp made it `n_cls_out` long when ranking and `n_embd_out` long else, which
        // `width` is (`encode` and `decode` in llama-context.cpp), and it is copied at once.
        Some(unsafe { std::slice::from_raw_parts(vector, self.width) }.to_vec())
    }
}

impl Drop for EncoderContext {
    fn drop(&mut self) {
        self.interrupt.lower();
        // SAFETY: made by `llama_init_from_model` and freed only here; model and callback data are
        // dropped after this body (llama.h:559).
        unsafe { sys::llama_free(self.context.as_ptr()) }
    }
}

/// Cuts a batch up into legs that are computed one after the other, each with tokens of the vocabulary
/// only or of images only: llama.cpp's batches are of one kind. Each sequence stays in order, and what
/// ends it in the vocabulary is in the last leg, as all entries are whose logits are wanted.
fn legs(entries: &[Entry]) -> Vec<Vec<usize>> {
    // Counted from the end: the last leg is 0, and every other leg is of images.
    let mut reached: HashMap<u32, usize> = HashMap::new();
    let mut legs: Vec<Vec<usize>> = Vec::new();
    for (index, entry) in entries.iter().enumerate().rev() {
        let leg = reached.entry(entry.sequence).or_default();
        if is_of_image(entry.token) != (*leg % 2 == 1) {
            *leg += 1;
        }
        if legs.len() <= *leg {
            legs.resize_with(*leg + 1, Vec::new);
        }
        legs[*leg].push(index);
    }
    legs.retain(|leg| !leg.is_empty());
    legs.reverse();
    legs.iter_mut().for_each(|leg| leg.reverse());
    legs
}

fn flash_type(flash: FlashAttention) -> sys::llama_flash_attn_type {
    match flash {
        FlashAttention::Auto => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
        FlashAttention::On => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
        FlashAttention::Off => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
    }
}

/// How many numbers the model takes in the place of a token.
pub(super) fn input_width(model: &LlamaModel) -> Option<usize> {
    // SAFETY: the model is live while borrowed (llama.h:598).
    let width = unsafe { sys::llama_model_n_embd_inp(model_pointer(model)) };
    usize::try_from(width).ok().filter(|width| *width > 0)
}

/// A batch of images' vectors, and where they come from.
struct ImageBatch {
    batch: Batch,
    gallery: Arc<Gallery>,
}

impl ImageBatch {
    /// `None` when the entries do not fit, or one stands for nothing.
    fn fill<'e>(
        &mut self,
        entries: impl ExactSizeIterator<Item = &'e Entry> + Clone,
    ) -> Option<sys::llama_batch> {
        if !self.batch.fill(entries.clone()) {
            return None;
        }
        for (index, entry) in entries.enumerate() {
            let row = self.batch.row(index)?;
            if !self.gallery.copy_vector(entry.token, row) {
                return None;
            }
        }
        Some(self.batch.raw)
    }
}

/// llama.cpp's arrays of one batch.
struct Batch {
    raw: sys::llama_batch,
    room: usize,
    /// Numbers of a vector; 0 for a batch of tokens.
    width: usize,
}

impl Batch {
    /// Of tokens, or of vectors of `width` numbers.
    fn new(room: u32, width: usize) -> Self {
        let room_c = i32::try_from(room).unwrap_or(i32::MAX);
        let width_c = i32::try_from(width).unwrap_or(0);
        // SAFETY: allocates `room` entries with room for one sequence id each, and for a token or, if
        // the width is not 0, a vector each (llama.h:968-976).
        let raw = unsafe { sys::llama_batch_init(room_c, width_c, 1) };
        Self {
            raw,
            room: room_c as usize,
            width: width_c as usize,
        }
    }

    /// `f32[width]` of an entry of a batch of vectors.
    fn row(&mut self, index: usize) -> Option<&mut [f32]> {
        if self.width == 0 || self.raw.embd.is_null() || index >= self.room {
            return None;
        }
        // SAFETY: `llama_batch_init` allocated `room` times `width` numbers, `index` is below `room`,
        // and the borrow of `self` keeps other borrows of them off. What was never written is zeroed
        // first, so that no number is read that is none (llama.h:968-976).
        unsafe {
            let row = self.raw.embd.add(index * self.width);
            row.write_bytes(0, self.width);
            Some(std::slice::from_raw_parts_mut(row, self.width))
        }
    }

    /// False when the entries do not fit.
    fn fill<'e>(&mut self, entries: impl ExactSizeIterator<Item = &'e Entry>) -> bool {
        let has_array = match self.width {
            0 => !self.raw.token.is_null(),
            _ => !self.raw.embd.is_null(),
        };
        if entries.len() > self.room || !has_array {
            return false;
        }
        self.raw.n_tokens = 0;
        entries.for_each(|entry| self.push(entry));
        true
    }

    /// Adds one entry, where there is room. Only after [`Batch::fill`], which sees to the arrays.
    fn push(&mut self, entry: &Entry) {
        let index = self.count();
        if index >= self.room {
            return;
        }
        // SAFETY: `index` is below `room`, for which `llama_batch_init` allocated each array, and
        // each `seq_id` row has the one place that is written (llama.h:261-270, 968-976).
        unsafe {
            if self.width == 0 {
                self.raw.token.add(index).write(entry.token);
            }
            self.raw.pos.add(index).write(entry.position.cast_signed());
            self.raw.n_seq_id.add(index).write(1);
            (*self.raw.seq_id.add(index)).write(entry.sequence.cast_signed());
            self.raw
                .logits
                .add(index)
                .write(i8::from(entry.wants_logits));
        }
        self.raw.n_tokens += 1;
    }

    fn count(&self) -> usize {
        usize::try_from(self.raw.n_tokens).unwrap_or(0)
    }

    /// Entries, and those of them that have logits.
    fn counts(&mut self) -> (usize, usize) {
        let rows = self.rows().iter().filter(|row| **row != 0).count();
        (self.count(), rows)
    }

    /// Lets `count` further entries have logits.
    fn want_rows(&mut self, count: usize) {
        let without = self.rows().iter_mut().filter(|row| **row == 0);
        without.take(count).for_each(|row| *row = 1);
    }

    /// Of each entry, whether it has logits.
    fn rows(&mut self) -> &mut [i8] {
        if self.raw.logits.is_null() {
            return &mut [];
        }
        // SAFETY: the first `n_tokens` of the array's `room` flags were written by `push`, and the
        // borrow of `self` keeps others off (llama.h:261-270).
        unsafe { std::slice::from_raw_parts_mut(self.raw.logits, self.count()) }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // SAFETY: made by `llama_batch_init` and freed only here (llama.h:979).
        unsafe { sys::llama_batch_free(self.raw) }
    }
}

fn ggml_type(kind: KvType) -> sys::ggml_type {
    match kind {
        KvType::F32 => sys::GGML_TYPE_F32,
        KvType::F16 => sys::GGML_TYPE_F16,
        KvType::Bf16 => sys::GGML_TYPE_BF16,
        KvType::Q8_0 => sys::GGML_TYPE_Q8_0,
        KvType::Q5_1 => sys::GGML_TYPE_Q5_1,
        KvType::Q5_0 => sys::GGML_TYPE_Q5_0,
        KvType::Q4_1 => sys::GGML_TYPE_Q4_1,
        KvType::Q4_0 => sys::GGML_TYPE_Q4_0,
        KvType::Iq4Nl => sys::GGML_TYPE_IQ4_NL,
    }
}

/// Asked between the operations of a running decode.
unsafe extern "C" fn should_abort(data: *mut c_void) -> bool {
    // SAFETY: `data` is the `Interrupt` in the `Arc` that the context keeps beside itself; only
    // shared references to it exist, and its fields are atomic (llama.h:399-402).
    unsafe { &*data.cast::<Interrupt>() }.is_raised()
}

fn model_pointer(model: &LlamaModel) -> *mut sys::llama_model {
    const {
        assert!(size_of::<LlamaModel>() == size_of::<*mut sys::llama_model>());
    }
    // SAFETY: `LlamaModel` is `#[repr(transparent)]` over a non-null `*mut llama_model`
    // (llama-cpp-2 0.1.160, `model.rs` and `ptr.rs`; the version is pinned with `=`).
    unsafe { std::mem::transmute_copy(model) }
}

/// True for models of the T5 kind, whose decoder needs an encoder's output.
pub(super) fn has_encoder(model: &LlamaModel) -> bool {
    // SAFETY: the model is live while borrowed (llama.h:658).
    unsafe { sys::llama_model_has_encoder(model_pointer(model)) }
}

/// llama.cpp's own.
pub(super) fn version() -> String {
    // SAFETY: returns a constant, NUL-terminated text (llama.h:475).
    let text = unsafe { CStr::from_ptr(sys::llama_version()) };
    text.to_string_lossy().into_owned()
}

/// What llama.cpp was built for and finds here.
pub(super) fn system_info() -> String {
    // SAFETY: returns a pointer to a static buffer that this call fills; callers are serialised by
    // the lock, and the text is copied before it is given up (llama.h:1661).
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let text = unsafe { CStr::from_ptr(sys::llama_print_system_info()) };
    text.to_string_lossy().trim().to_owned()
}

thread_local! {
    /// llama.cpp says only in its log why it refuses a file, and the cause before the consequences.
    static FIRST_ERROR: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The first error llama.cpp logged on this thread since the last call.
pub(super) fn take_first_error() -> Option<String> {
    FIRST_ERROR.with_borrow_mut(Option::take)
}

/// Sends llama.cpp's log to `tracing`, and mtmd's, once per process.
pub(super) fn send_log_to_tracing() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the callback needs no data and lives for ever. Setting is not thread-safe, so it
        // is done once, before anything else of llama.cpp runs (llama.h:1663-1667).
        // mtmd's is the same callback, and its own setting (mtmd.h:356).
        unsafe {
            sys::llama_log_set(Some(log), std::ptr::null_mut());
            sys::mtmd_log_set(Some(log), std::ptr::null_mut());
        }
    });
}

/// llama.cpp's levels are one too high for us: a model's metadata is its `info`.
unsafe extern "C" fn log(level: sys::ggml_log_level, text: *const c_char, _data: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a NUL-terminated text that lives through the call (ggml.h,
    // `ggml_log_callback`).
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let text = text.trim();
    if text.is_empty() || text == "." {
        return;
    }
    match level {
        sys::GGML_LOG_LEVEL_ERROR => {
            FIRST_ERROR.with_borrow_mut(|first| _ = first.get_or_insert_with(|| text.to_owned()));
            error!(target: "llama.cpp", "{text}");
        }
        // Its word for every interrupted batch, which is nothing to warn of here.
        sys::GGML_LOG_LEVEL_WARN if text.contains("removing memory module entries") => {
            trace!(target: "llama.cpp", "{text}");
        }
        // Of the room that all slots share; no chat of ours grows beyond its own context.
        sys::GGML_LOG_LEVEL_WARN if text.contains("possible training context overflow") => {
            debug!(target: "llama.cpp", "{text}");
        }
        sys::GGML_LOG_LEVEL_WARN => warn!(target: "llama.cpp", "{text}"),
        sys::GGML_LOG_LEVEL_INFO => debug!(target: "llama.cpp", "{text}"),
        _ => trace!(target: "llama.cpp", "{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By sequence: `t` for a token of the vocabulary, `i` for one of an image.
    fn cut(sequences: &[&str]) -> Vec<String> {
        let mut entries = Vec::new();
        for (sequence, kinds) in (0..).zip(sequences) {
            for (position, kind) in (0..).zip(kinds.chars()) {
                entries.push(Entry {
                    token: if kind == 'i' { -2 } else { 1 },
                    position,
                    sequence,
                    wants_logits: false,
                });
            }
        }
        let shown = |leg: &Vec<usize>| {
            let shown = leg.iter().map(|index| {
                let entry = entries[*index];
                format!("{}{}", entry.sequence, entry.position)
            });
            shown.collect::<Vec<_>>().join(" ")
        };
        legs(&entries).iter().map(shown).collect()
    }

    #[test]
    fn legs_are_of_one_kind_in_order_and_end_with_the_vocabulary() {
        assert_eq!(cut(&["ttt"]), ["00 01 02"]);
        assert_eq!(cut(&["tiit"]), ["00", "01 02", "03"]);
        assert_eq!(cut(&["tii", "t"]), ["00", "01 02", "10"]);
        assert_eq!(cut(&["ii", "i"]), ["00 01 10"]);
        assert_eq!(
            cut(&["titit", "it", "t", "ti"]),
            ["00", "01", "02 30", "03 10 31", "04 11 20"]
        );
    }
}
