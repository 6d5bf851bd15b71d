//! OpenAI's error object.

use serde::Serialize;

/// The body of every refusal: `{"error":{"message","type","param","code"}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorBody {
    pub message: String,
    /// OpenAI's `type`, as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub param: Option<String>,
    pub code: Option<String>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: &'a ErrorBody,
}

impl ErrorBody {
    /// The object inside its envelope, as it stands in a response's body or a stream's event.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&Envelope { error: self }).expect("strings always serialize")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_fields_are_null_and_not_left_out() {
        let body = ErrorBody {
            message: "say \"hi\"".into(),
            kind: "invalid_request_error",
            param: Some("messages[0].role".into()),
            code: None,
        };
        let text = String::from_utf8(body.to_json()).unwrap();
        assert_eq!(
            text,
            r#"{"error":{"message":"say \"hi\"","type":"invalid_request_error","param":"messages[0].role","code":null}}"#
        );
    }
}
