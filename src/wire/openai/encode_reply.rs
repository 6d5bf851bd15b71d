//! Encodes a whole reply, as a server.
use domain::Reply;

/// What surrounds a reply's content: the same for every chunk of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framing {
    /// `chatcmpl-…`.
    pub id: String,
    /// Unix seconds.
    pub created: u64,
    /// The model's name as the caller shall see it.
    pub model: String,
    /// True when the caller asked for the usage chunk. Without effect on whole replies.
    pub includes_usage: bool,
}

/// A `chat.completion` object.
#[must_use]
pub fn encode_reply(framing: &Framing, reply: &Reply) -> Vec<u8> {
    let _ = (framing, reply);
    todo!()
}
