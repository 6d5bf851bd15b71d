//! Encodes a request, as a client.
use bytes::Bytes;
use domain::ChatRequest;

/// The body to send for `request` to an upstream that knows the model as `model`.
#[must_use]
pub fn encode_request(model: &str, request: &ChatRequest) -> Bytes {
    let _ = (model, request);
    todo!()
}
