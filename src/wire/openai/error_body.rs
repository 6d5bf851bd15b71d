//! OpenAI's error object.

/// The body of every refusal: `{"error":{"message","type","param","code"}}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorBody {
    pub message: String,
    /// OpenAI's `type`, as `invalid_request_error`.
    pub kind: &'static str,
    pub param: Option<String>,
    pub code: Option<String>,
}

impl ErrorBody {
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        todo!()
    }
}
