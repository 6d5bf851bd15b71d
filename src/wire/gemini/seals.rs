//! `thoughtSignature` and the seals of `domain`.
//!
//! The field is base64 and clients decode it, so another dialect's seal stands in it as base64 of
//! the text that [`crate::foreign_seal`] writes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::{Dialect, Seal, SealKind};

use crate::{data_url, foreign_seal};

/// What Google has clients send with a call that its model did not make (public
/// sources name it as documented under "Thought signatures"; Google's own page was not read for it).
pub(super) const PLACEHOLDER: &str = "skip_thought_signature_validator";

/// Google's own, as it comes from or goes to Google.
pub(super) fn own(signature: String) -> Seal {
    Seal {
        of: Dialect::Gemini,
        kind: SealKind::Signature,
        data: signature,
    }
}

/// The signature of Google's, where `seal` is one.
pub(super) fn own_of(seal: &Seal) -> Option<&str> {
    (seal.of == Dialect::Gemini).then_some(seal.data.as_str())
}

/// Reads what a client sends back.
pub(super) fn read(signature: String) -> Seal {
    let foreign = data_url::standard(&signature)
        .and_then(|text| STANDARD.decode(text.as_bytes()).ok())
        .and_then(|bytes| foreign_seal::read(std::str::from_utf8(&bytes).ok()?));
    foreign.unwrap_or_else(|| own(signature))
}

/// Writes what a client will send back.
pub(super) fn write(seal: &Seal) -> String {
    match own_of(seal) {
        Some(signature) => signature.to_owned(),
        None => STANDARD.encode(foreign_seal::write(seal)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seal_comes_back_and_googles_own_is_untouched() {
        for (of, kind) in [
            (Dialect::Gemini, SealKind::Signature),
            (Dialect::Anthropic, SealKind::Signature),
            (Dialect::Responses, SealKind::Hidden),
        ] {
            let seal = Seal {
                of,
                kind,
                data: "CpcBAVz+/w==".into(),
            };
            let written = write(&seal);
            assert!(data_url::is_base64(&written), "{written}");
            assert_eq!(written == seal.data, of == Dialect::Gemini);
            assert_eq!(read(written), seal);
        }
        assert_eq!(read(PLACEHOLDER.into()), own(PLACEHOLDER.into()));
    }
}
