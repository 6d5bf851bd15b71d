//! Seals in this dialect's opaque strings: a thought's `signature` and `redacted_thinking`'s `data`.
//!
//! Another maker's seal is written as `foreign_seal.rs` has it, so that it finds the way back through a
//! client that knows only this dialect:
//!
//! | seal | stands in |
//! | --- | --- |
//! | Anthropic's | its own string, as it came |
//! | of another, for a thought or hidden | `hedge.<dialect>.…` in the same places |
//! | of another, for a call | `hedge.<dialect>.call.…`, in `redacted_thinking` right before `tool_use` |

use std::borrow::Cow;

use domain::{Dialect, Seal, SealKind};

use crate::foreign_seal;

/// Opaque strings are base64, which has no full stop.
const CALL: &str = "call.";

pub(super) fn written(seal: &Seal) -> Cow<'_, str> {
    if seal.of == Dialect::Anthropic {
        Cow::Borrowed(&seal.data)
    } else {
        Cow::Owned(foreign_seal::write(seal))
    }
}

pub(super) fn written_for_call(seal: &Seal) -> String {
    foreign_seal::write(&Seal {
        of: seal.of,
        kind: SealKind::Signature,
        data: format!("{CALL}{}", seal.data),
    })
}

/// A seal, and what it is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Stands where it was read.
    Here(Seal),
    /// The next call's.
    NextCall(Seal),
}

/// Reads a string of the kind that Anthropic's own would be of.
pub(super) fn read(text: String, kind: SealKind) -> Read {
    let Some(seal) = foreign_seal::read(&text) else {
        return Read::Here(Seal {
            of: Dialect::Anthropic,
            kind,
            data: text,
        });
    };
    match seal.data.strip_prefix(CALL) {
        Some(data) if seal.kind == SealKind::Signature => Read::NextCall(Seal {
            data: data.to_owned(),
            ..seal
        }),
        _ => Read::Here(seal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_makers_seal_is_read_as_it_was_written() {
        for of in Dialect::ALL {
            for kind in [SealKind::Signature, SealKind::Hidden] {
                let seal = Seal {
                    of,
                    kind,
                    data: "AbC+/==".into(),
                };
                let text = written(&seal).into_owned();
                assert_eq!(text == seal.data, of == Dialect::Anthropic);
                assert_eq!(read(text, kind), Read::Here(seal));
            }
            let seal = Seal {
                of,
                kind: SealKind::Signature,
                data: "AbC+/==".into(),
            };
            let text = written_for_call(&seal);
            assert_eq!(read(text, SealKind::Hidden), Read::NextCall(seal));
        }
    }

    #[test]
    fn what_looks_like_a_prefix_and_is_none_is_anthropics() {
        for text in ["hedge.", "hedge.nobody.x", "hedge.gemini", "x"] {
            let seal = Seal {
                of: Dialect::Anthropic,
                kind: SealKind::Hidden,
                data: text.into(),
            };
            let read = read(text.to_owned(), SealKind::Hidden);
            assert_eq!(read, Read::Here(seal), "{text}");
        }
    }
}
