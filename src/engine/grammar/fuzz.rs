//! Reads what replies are to be held to, up to the compiler.

use serde_json::Value;

use super::schema::{self, PLACE, Spent};
use super::{REASON_BYTES_MAX, REGEX_BYTES_MAX, gbnf};

/// A text of one sign may come to so many bytes in the compiler's language: a part with its name or
/// code, and the brackets of a repetition.
const BYTES_EACH_MAX: usize = 64;

pub(crate) fn gbnf(text: &str) {
    check(text, gbnf::translate(text));
}

pub(crate) fn regex(text: &str) {
    // As a request has it, longer ones are refused before.
    if text.len() <= REGEX_BYTES_MAX {
        check(text, schema::translate(text));
    }
}

/// A schema that was read has only words that are read alike again.
pub(crate) fn schema(text: &str) {
    let Ok(schema) = serde_json::from_str::<Value>(text) else {
        return;
    };
    if let Ok(plain) = schema::read(&schema, PLACE, &mut Spent::default()) {
        assert!(plain.is_object(), "the compiler wants an object");
    }
}

fn check(text: &str, read: Result<String, String>) {
    match read {
        Ok(written) => assert!(written.len() <= (text.len() + 1) * BYTES_EACH_MAX),
        Err(said) => assert!(said.len() <= REASON_BYTES_MAX, "{said}"),
    }
}
