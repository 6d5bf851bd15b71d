//! Decodes a whole reply, as a client.
use domain::{BackendError, Reply};

/// # Errors
/// [`BackendError::Garbled`] for bytes that are no chat completion, [`BackendError::Failed`] for
/// an error object that came with a good status.
pub fn decode_reply(bytes: &[u8]) -> Result<Reply, BackendError> {
    let _ = bytes;
    todo!()
}
