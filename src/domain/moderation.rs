//! Texts and images to be judged: whether a provider's rules would have them out.

use std::fmt;

use bytes::Bytes;

use crate::{Message, ModelAlias};

/// A request for moderation, decoded.
#[derive(Clone, Debug)]
pub struct ModerationRequest {
    /// `None`: whichever the node has.
    pub model: Option<ModelAlias>,
    /// Never empty. Each is judged by itself, its texts and images together.
    pub inputs: Vec<Message>,
}

/// One result for each input, in order.
#[derive(Clone, PartialEq, Eq)]
pub struct Moderation {
    /// The answer in its provider's own bytes, an object of OpenAI's form: categories come and go, and
    /// nobody here acts on them.
    pub body: Bytes,
}

impl fmt::Debug for Moderation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Moderation({} bytes)", self.body.len())
    }
}
