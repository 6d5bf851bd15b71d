//! The eye over llama.cpp's mtmd.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use llama_cpp_2::model::LlamaModel;

use crate::gallery::{Blind, Eye, Gallery, Stretch};
use crate::llama::open::reason;
use crate::llama::raw::{self, Projector, Sizes, input_width};
use crate::load::LoadError;
use crate::memory::UBATCH_TOKENS_AHEAD;
use crate::pictures::Picture;
use crate::sight::Sight;

/// One at a time looks through it.
struct LlamaEye {
    projector: Mutex<Projector>,
    /// The most vectors that can be computed at one go, where they must be.
    stretch_max: Option<usize>,
}

impl Eye for LlamaEye {
    fn look(&self, picture: &Picture, tokens_max: u32) -> Result<Vec<Stretch>, Blind> {
        // A projector is whole between two pictures, also after a panic of ours.
        let projector = self.projector.lock();
        let mut projector = projector.unwrap_or_else(PoisonError::into_inner);
        projector.look(picture, tokens_max, self.stretch_max)
    }
}

/// An image of Gemma 3, the shortest of the known ones that must be computed at one go.
const AHEAD_TOKENS_LEAST: u32 = 256;

/// Opens `model`'s projector. Pictures are looked at beside the replies of others, so half of the
/// threads that those have do it. Makes `sizes` what its images take.
pub(super) fn open_eye(
    model: &Arc<LlamaModel>,
    path: &Path,
    sizes: &mut Sizes,
    on_gpu: bool,
) -> Result<(Sight, Arc<Gallery>), LoadError> {
    let threads = sizes.threads.count;
    let refused = |reason: &str| LoadError::Projector {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let _ = raw::take_first_error();
    let width = input_width(model).ok_or_else(|| refused("the model says no width"))?;
    let projector = Projector::open(Arc::clone(model), path, threads.div_ceil(2), on_gpu)
        .ok_or_else(|| refused(&reason()))?;
    if !projector.sees() {
        return Err(refused("it takes no images"));
    }
    if projector.has_plane_positions() {
        return Err(refused(
            "its images' tokens have positions of two dimensions (M-RoPE, as Qwen's models have), \
             which is not supported",
        ));
    }
    let gallery = Arc::new(Gallery::new(width, projector.looks_ahead()));
    let stretch_max = match projector.looks_ahead() {
        true => Some(make_room_ahead(sizes).ok_or_else(|| {
            refused(
                "its images are computed at one go, for which local.batch_tokens_max is too small",
            )
        })?),
        false => None,
    };
    let projector = Mutex::new(projector);
    let eye = LlamaEye {
        projector,
        stretch_max,
    };
    let sight = Sight::new(eye, Arc::clone(&gallery));
    Ok((sight, gallery))
}

/// Makes room for images that must be computed at one go, beside a token of every reply, and says how
/// long they may be. `None` where that is not enough for any.
fn make_room_ahead(sizes: &mut Sizes) -> Option<usize> {
    sizes.ubatch_tokens = sizes.ubatch_tokens.max(UBATCH_TOKENS_AHEAD);
    let room = sizes.shape.batch_tokens.min(sizes.ubatch_tokens);
    let room = room.saturating_sub(sizes.shape.sequences);
    (room >= AHEAD_TOKENS_LEAST).then_some(room as usize)
}
