//! mtmd's context: a projector file, and pictures through it to vectors.
//!
//! Why not `llama-cpp-2`'s own: it does not give the vectors away. Text is never given to mtmd: it would
//! read control tokens in it. Line numbers are those of `llama.cpp/tools/mtmd/mtmd.h` in llama-cpp-sys-2
//! 0.1.161.

use std::ffi::CString;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;

use super::{input_width, model_pointer};
use crate::gallery::{Blind, Stretch};
use crate::pictures::Picture;

/// A projector that belongs to a model.
pub(in crate::llama) struct Projector {
    context: NonNull<sys::mtmd_context>,
    /// Numbers of a vector.
    width: usize,
    /// mtmd reads its vocabulary.
    _model: Arc<LlamaModel>,
}

// SAFETY: mtmd's context is tied to no thread; it is used by one at a time, through `&mut self` (the
// note on threads at `mtmd_tokenize`, mtmd.h:295).
unsafe impl Send for Projector {}

impl Projector {
    /// `None` when mtmd refuses the file, or it is another model's; [`super::take_first_error`] then has
    /// its words.
    pub(in crate::llama) fn open(
        model: Arc<LlamaModel>,
        path: &Path,
        threads: u32,
        on_gpu: bool,
    ) -> Option<Self> {
        let path = CString::new(path.as_os_str().as_encoded_bytes()).ok()?;
        let width = input_width(&model)?;
        // SAFETY: returns a plain struct by value and reads nothing; its marker is a constant
        // (mtmd.h:129).
        let mut params = unsafe { sys::mtmd_context_params_default() };
        params.use_gpu = on_gpu;
        params.print_timings = false;
        params.n_threads = i32::try_from(threads.max(1)).unwrap_or(1);
        // SAFETY: the path is a NUL-terminated text, and the model is live, which the new value sees
        // to. No callback is set. A file that it throws at is NULL (mtmd.h:131-135).
        let context =
            unsafe { sys::mtmd_init_from_file(path.as_ptr(), model_pointer(&model), params) };
        Some(Self {
            context: NonNull::new(context)?,
            width,
            _model: model,
        })
    }

    /// Whether it takes pictures: some take sounds only.
    pub(in crate::llama) fn sees(&self) -> bool {
        // SAFETY: the context is live (mtmd.h:147).
        unsafe { sys::mtmd_support_vision(self.context.as_ptr()) }
    }

    /// Whether the vectors of a picture look at those behind them too.
    pub(in crate::llama) fn looks_ahead(&self) -> bool {
        // SAFETY: the context is live, and sees; no chunk means any image (mtmd.h:139-141).
        self.sees()
            && unsafe { sys::mtmd_decode_use_non_causal(self.context.as_ptr(), std::ptr::null()) }
    }

    /// Whether a picture's vectors have places of two dimensions.
    pub(in crate::llama) fn has_plane_positions(&self) -> bool {
        // SAFETY: the context is live (mtmd.h:144).
        unsafe { sys::mtmd_decode_use_mrope(self.context.as_ptr()) }
    }

    /// What is to be decoded for `picture`; at most `tokens_max` tokens, and of vectors in a row, at
    /// most `stretch_max`.
    ///
    /// # Errors
    /// It is too long, or mtmd does not take it.
    pub(in crate::llama) fn look(
        &mut self,
        picture: &Picture,
        tokens_max: u32,
        stretch_max: Option<usize>,
    ) -> Result<Vec<Stretch>, Blind> {
        let chunks = self.cut(picture).ok_or(Blind::Refused)?;
        let all = (0..chunks.count()).map(|index| chunks.token_count(index));
        let tokens = all.fold(0_usize, usize::saturating_add);
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        if tokens > tokens_max {
            return Err(Blind::TooLong(tokens));
        }
        let stretch_max = stretch_max.unwrap_or(usize::MAX);
        if (0..chunks.count()).any(|index| chunks.token_count(index) > stretch_max) {
            return Err(Blind::Refused);
        }
        (0..chunks.count())
            .map(|index| self.stretch(&chunks, index))
            .collect()
    }

    /// Scales the picture and cuts it up, as the projector was taught.
    fn cut(&self, picture: &Picture) -> Option<Chunks> {
        let bytes = u64::from(picture.width) * u64::from(picture.height) * 3;
        if bytes == 0 || picture.rgb.len() as u64 != bytes || !self.sees() {
            return None;
        }
        // SAFETY: the data has the three bytes of each pixel, as just checked, and is copied
        // (mtmd.h:152-154, 175).
        let bitmap =
            unsafe { sys::mtmd_bitmap_init(picture.width, picture.height, picture.rgb.as_ptr()) };
        let bitmap = Bitmap(NonNull::new(bitmap)?);
        // SAFETY: makes an empty list (mtmd.h:223).
        let chunks = Chunks(NonNull::new(unsafe { sys::mtmd_input_chunks_init() })?);
        let part = sys::mtmd_input_part {
            text: std::ptr::null(),
            bitmap: bitmap.0.as_ptr(),
        };
        let mut parts = [&raw const part];
        // SAFETY: context and list are live, and so is the one part, which has a bitmap and no text
        // (mtmd.h:307-318).
        let code = unsafe {
            sys::mtmd_tokenize_from_parts(
                self.context.as_ptr(),
                chunks.0.as_ptr(),
                parts.as_mut_ptr(),
                parts.len(),
                false,
            )
        };
        (code == 0).then_some(chunks)
    }

    fn stretch(&mut self, chunks: &Chunks, index: usize) -> Result<Stretch, Blind> {
        let chunk = chunks.chunk(index).ok_or(Blind::Failed)?;
        // SAFETY: the chunk lives as long as its list, which is borrowed (mtmd.h:232).
        match unsafe { sys::mtmd_input_chunk_get_type(chunk) } {
            sys::MTMD_INPUT_CHUNK_TYPE_TEXT => Ok(Stretch::Tokens(chunks.tokens(index))),
            sys::MTMD_INPUT_CHUNK_TYPE_IMAGE => self.vectors(chunk, chunks.token_count(index)),
            _ => Err(Blind::Refused),
        }
    }

    /// `chunk` is live, one of an image, and comes to `count` vectors.
    fn vectors(
        &mut self,
        chunk: *const sys::mtmd_input_chunk,
        count: usize,
    ) -> Result<Stretch, Blind> {
        let length = count.checked_mul(self.width).ok_or(Blind::Failed)?;
        // SAFETY: context and chunk are live, and the chunk has its picture (mtmd.h:324-327).
        let code = unsafe { sys::mtmd_encode_chunk(self.context.as_ptr(), chunk) };
        if code != 0 {
            return Err(Blind::Failed);
        }
        // SAFETY: the context is live, and has just encoded (mtmd.h:329-332).
        let vectors = unsafe { sys::mtmd_get_output_embd(self.context.as_ptr()) };
        if vectors.is_null() {
            return Err(Blind::Failed);
        }
        // SAFETY: there are as many numbers as the chunk has tokens, times the model's width, which
        // mtmd compared with the projector's when it was opened; they are copied before the context is
        // used again (mtmd.h:329-332).
        let vectors = unsafe { std::slice::from_raw_parts(vectors, length) };
        if vectors.iter().any(|number| !number.is_finite()) {
            return Err(Blind::Failed);
        }
        Ok(Stretch::Vectors(vectors.to_vec()))
    }
}

impl Drop for Projector {
    fn drop(&mut self) {
        // SAFETY: made by `mtmd_init_from_file` and freed only here; the model is dropped after this
        // body (mtmd.h:137).
        unsafe { sys::mtmd_free(self.context.as_ptr()) }
    }
}

struct Bitmap(NonNull<sys::mtmd_bitmap>);

impl Drop for Bitmap {
    fn drop(&mut self) {
        // SAFETY: made by `mtmd_bitmap_init` and freed only here (mtmd.h:182).
        unsafe { sys::mtmd_bitmap_free(self.0.as_ptr()) }
    }
}

/// What a picture was cut into.
struct Chunks(NonNull<sys::mtmd_input_chunks>);

impl Chunks {
    fn count(&self) -> usize {
        // SAFETY: the list is live (mtmd.h:224).
        unsafe { sys::mtmd_input_chunks_size(self.0.as_ptr()) }
    }

    fn chunk(&self, index: usize) -> Option<*const sys::mtmd_input_chunk> {
        if index >= self.count() {
            return None;
        }
        // SAFETY: the list is live and has one of that index (mtmd.h:225).
        let chunk = unsafe { sys::mtmd_input_chunks_get(self.0.as_ptr(), index) };
        (!chunk.is_null()).then_some(chunk)
    }

    fn token_count(&self, index: usize) -> usize {
        self.chunk(index).map_or(0, |chunk| {
            // SAFETY: the chunk lives as long as its list (mtmd.h:235).
            unsafe { sys::mtmd_input_chunk_get_n_tokens(chunk) }
        })
    }

    /// Of a chunk that is text of the projector's own.
    fn tokens(&self, index: usize) -> Vec<i32> {
        let Some(chunk) = self.chunk(index) else {
            return Vec::new();
        };
        let mut count = 0;
        // SAFETY: the chunk lives as long as its list; the count is written (mtmd.h:233).
        let tokens = unsafe { sys::mtmd_input_chunk_get_tokens_text(chunk, &raw mut count) };
        if tokens.is_null() || count == 0 {
            return Vec::new();
        }
        // SAFETY: so many tokens lie there for as long as the chunk does, and are copied at once
        // (mtmd.h:233).
        unsafe { std::slice::from_raw_parts(tokens, count) }.to_vec()
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        // SAFETY: made by `mtmd_input_chunks_init` and freed only here (mtmd.h:226).
        unsafe { sys::mtmd_input_chunks_free(self.0.as_ptr()) }
    }
}
