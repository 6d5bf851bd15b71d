//! The exchange's id: the caller's own where it is fit to be logged, else a new one.

use domain::RequestId;
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The name that Anthropic's SDKs look under.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

const CHARS_MAX: usize = 128;

/// The id as text for rooms below and as a header for the answer.
#[derive(Clone, Debug)]
pub(crate) struct ExchangeId {
    pub id: RequestId,
    pub header: HeaderValue,
}

/// Reads the id from the request's headers, or makes one.
pub(crate) fn of(headers: &HeaderMap) -> ExchangeId {
    from_sent(headers.get(X_REQUEST_ID))
}

/// The id that was sent, or a new one.
pub(crate) fn from_sent(sent: Option<&HeaderValue>) -> ExchangeId {
    let sent = sent
        .filter(|value| is_safe(value.as_bytes()))
        .and_then(|value| Some((value.to_str().ok()?, value)));
    if let Some((text, value)) = sent {
        return ExchangeId {
            id: RequestId::new(text),
            header: value.clone(),
        };
    }
    let mut buffer = Uuid::encode_buffer();
    let made: &str = Uuid::now_v7().hyphenated().encode_lower(&mut buffer);
    let header = HeaderValue::from_str(made).expect("a UUID is hexadecimal digits and hyphens");
    ExchangeId {
        id: RequestId::new(made),
        header,
    }
}

/// Letters, digits and a few marks that mean nothing to shells, logs and query strings.
fn is_safe(sent: &[u8]) -> bool {
    let is_safe_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
    (1..=CHARS_MAX).contains(&sent.len()) && sent.iter().all(is_safe_byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_for(sent: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_str(sent).unwrap());
        of(&headers).id.as_str().to_owned()
    }

    #[test]
    fn a_safe_id_is_kept_and_any_other_replaced() {
        for kept in ["a", "trace/4bf92f35:00-f067", &"x".repeat(128)] {
            assert_eq!(id_for(kept), kept);
        }
        for replaced in ["", "a b", "a;rm", "\"", &"x".repeat(129)] {
            let made = id_for(replaced);
            assert_ne!(made, replaced);
            assert_eq!(Uuid::parse_str(&made).unwrap().get_version_num(), 7);
        }
    }
}
