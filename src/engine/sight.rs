//! How a model with a projector comes to see: a request's image files, looked at one after the other.

use std::fmt;
use std::sync::Arc;

use domain::BackendError;

use crate::gallery::{Blind, Eye, Gallery, Seen, Stretch};
use crate::pictures::ImageFile;
use crate::prompt::exceeded;

/// A model's eye, and what it has seen.
pub(crate) struct Sight {
    eye: Box<dyn Eye>,
    gallery: Arc<Gallery>,
}

impl fmt::Debug for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sight")
            .field("gallery", &self.gallery)
            .finish_non_exhaustive()
    }
}

impl Sight {
    #[cfg_attr(not(feature = "llama"), expect(dead_code, reason = "for llama.cpp"))]
    pub(crate) fn new(eye: impl Eye + 'static, gallery: Arc<Gallery>) -> Self {
        Self {
            eye: Box::new(eye),
            gallery,
        }
    }

    /// Looks at `files`, but not again at what it has seen. Blocks for up to seconds an image.
    ///
    /// # Errors
    /// An image cannot be read or used, all of them have no place in `context_tokens`, there is no room
    /// for what they come to, or the caller left.
    pub(crate) fn see(
        &self,
        files: &[ImageFile],
        context_tokens: u32,
        has_left: &dyn Fn() -> bool,
    ) -> Result<Vec<Arc<Seen>>, BackendError> {
        let mut all = Vec::new();
        let mut tokens = 0_u32;
        for file in files {
            if has_left() {
                return Err(BackendError::Interrupted);
            }
            let seen = match self.gallery.find(&file.digest) {
                Some(seen) => seen,
                None => self.look(file, tokens, context_tokens)?,
            };
            let more = u32::try_from(seen.tokens.len()).unwrap_or(u32::MAX);
            tokens = tokens.saturating_add(more);
            if tokens >= context_tokens {
                return Err(exceeded(tokens, context_tokens));
            }
            all.push(seen);
        }
        Ok(all)
    }

    /// `before`: tokens of the images before it.
    fn look(
        &self,
        file: &ImageFile,
        before: u32,
        context_tokens: u32,
    ) -> Result<Arc<Seen>, BackendError> {
        let picture = file.picture()?;
        let left = context_tokens.saturating_sub(before);
        let stretches = self.eye.look(&picture, left);
        let stretches = stretches.map_err(|blind| match blind {
            Blind::TooLong(tokens) => exceeded(before.saturating_add(tokens), context_tokens),
            Blind::Refused => file.unusable(),
            Blind::Failed => BackendError::Engine("the projector failed"),
        })?;
        let has_vectors = stretches
            .iter()
            .any(|stretch| matches!(stretch, Stretch::Vectors(vectors) if !vectors.is_empty()));
        if !has_vectors {
            return Err(file.unusable());
        }
        self.gallery.add(file.digest, stretches)
    }
}
