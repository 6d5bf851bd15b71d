//! Decodes a request, as a server.
use bytes::Bytes;
use domain::{BadRequest, ChatRequest};

/// # Errors
/// What is wrong with the body, with the JSON path in `param`.
pub fn decode_request(body: &Bytes) -> Result<ChatRequest, BadRequest> {
    let _ = body;
    todo!()
}
