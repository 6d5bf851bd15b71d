//! What a gateway says in the clear, where it cannot or will not say it sealed, in
//! the form of RFC 9457.
//!
//! Anybody on the way can write such an answer, so it is a hint: the edge may wait or fetch keys, and
//! never shows one as an answer. What could tell an attacker something is one answer here.

/// The media type of a problem.
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

/// RFC 9458, section 5.3: the keys are to be fetched anew.
pub const KEY_PROBLEM: &str = "https://iana.org/assignments/http-problem-types#ohttp-key";

/// RFC 9458, section 6.5.1: the clock is to be corrected. It is said inside the ciphertext only.
pub const DATE_PROBLEM: &str = "https://iana.org/assignments/http-problem-types#date";

/// Why a request is answered in the clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OuterRefusal {
    /// Not one of ours, or with a content coding.
    MediaType,
    Method,
    TooLarge,
    /// Its headers or its body did not come in time.
    TooSlow,
    /// Sealed to a key that is not, or no longer, ours.
    Key,
    /// It did not open, was not whole, or held no message. It does not say which.
    Unopened,
    /// Its sender showed no certificate of an edge.
    Certificate,
    /// Nothing is there.
    NotFound,
    /// More than this sender may.
    TooMany,
    /// No seat, or no room to remember requests in.
    Busy,
}

impl OuterRefusal {
    pub const ALL: [Self; 10] = [
        Self::MediaType,
        Self::Method,
        Self::TooLarge,
        Self::TooSlow,
        Self::Key,
        Self::Unopened,
        Self::Certificate,
        Self::NotFound,
        Self::TooMany,
        Self::Busy,
    ];

    pub fn status(self) -> u16 {
        match self {
            Self::MediaType => 415,
            Self::Method => 405,
            Self::TooLarge => 413,
            Self::TooSlow => 408,
            Self::Key | Self::Unopened => 400,
            Self::Certificate => 403,
            Self::NotFound => 404,
            Self::TooMany => 429,
            Self::Busy => 503,
        }
    }

    /// For metrics.
    pub fn as_label(self) -> &'static str {
        match self {
            Self::MediaType => "media_type",
            Self::Method => "method",
            Self::TooLarge => "too_large",
            Self::TooSlow => "too_slow",
            Self::Key => "key",
            Self::Unopened => "unopened",
            Self::Certificate => "certificate",
            Self::NotFound => "not_found",
            Self::TooMany => "too_many",
            Self::Busy => "busy",
        }
    }

    /// Whether a time to wait stands beside it.
    pub fn has_wait(self) -> bool {
        match self {
            Self::TooMany | Self::Busy => true,
            Self::MediaType
            | Self::Method
            | Self::TooLarge
            | Self::TooSlow
            | Self::Key
            | Self::Unopened
            | Self::Certificate
            | Self::NotFound => false,
        }
    }

    /// The same bytes every time.
    pub fn body(self) -> &'static str {
        match self {
            Self::MediaType => {
                r#"{"type":"about:blank","status":415,"title":"media type not taken"}"#
            }
            Self::Method => r#"{"type":"about:blank","status":405,"title":"method not taken"}"#,
            Self::TooLarge => r#"{"type":"about:blank","status":413,"title":"request too large"}"#,
            Self::TooSlow => r#"{"type":"about:blank","status":408,"title":"request too slow"}"#,
            Self::Key => {
                r#"{"type":"https://iana.org/assignments/http-problem-types#ohttp-key","status":400,"title":"key identifier unknown"}"#
            }
            Self::Unopened => {
                r#"{"type":"about:blank","status":400,"title":"request not acceptable"}"#
            }
            Self::Certificate => {
                r#"{"type":"about:blank","status":403,"title":"certificate of an edge needed"}"#
            }
            Self::NotFound => r#"{"type":"about:blank","status":404,"title":"nothing here"}"#,
            Self::TooMany => r#"{"type":"about:blank","status":429,"title":"too many requests"}"#,
            Self::Busy => r#"{"type":"about:blank","status":503,"title":"no seat"}"#,
        }
    }

    /// At the edge: whether an answer in the clear says that the keys are to be fetched anew.
    pub fn names_key(body: &[u8]) -> bool {
        names(body, KEY_PROBLEM)
    }
}

/// At the edge: whether an opened answer says that the clock is to be corrected.
pub fn names_date(body: &[u8]) -> bool {
    names(body, DATE_PROBLEM)
}

fn names(body: &[u8], kind: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Problem {
        r#type: String,
    }
    serde_json::from_slice::<Problem>(body).is_ok_and(|problem| problem.r#type == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_its_status_in_both_places_and_only_one_names_the_key() {
        for refusal in OuterRefusal::ALL {
            let body: serde_json::Value = serde_json::from_str(refusal.body()).unwrap();
            assert_eq!(body["status"], refusal.status());
            let is_key = refusal == OuterRefusal::Key;
            assert_eq!(OuterRefusal::names_key(refusal.body().as_bytes()), is_key);
        }
        assert!(!OuterRefusal::names_key(b"<html>"));
        assert!(!OuterRefusal::names_key(b""));
    }
}
