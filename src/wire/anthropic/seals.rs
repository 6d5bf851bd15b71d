//! Seals in this dialect's opaque strings: a thought's `signature` and `redacted_thinking`'s `data`.
//!
//! Another maker's seal is written with a prefix that says whose it is, so that it finds the way
//! back through a client that knows only this dialect:
//!
//! | seal | stands in |
//! | --- | --- |
//! | Anthropic's | its own string, as it came |
//! | of another, for a thought or hidden | `hedge.<dialect>.<data>` |
//! | of another, for a call | `hedge.<dialect>.call.<data>`, `redacted_thinking` right before `tool_use` |

use std::borrow::Cow;

use domain::{Dialect, Seal, SealKind};

const PREFIX: &str = "hedge.";
/// Opaque strings are base64, which has no full stop.
const CALL: &str = "call.";

pub(super) fn written(seal: &Seal) -> Cow<'_, str> {
    match seal.of {
        Dialect::Anthropic => Cow::Borrowed(&seal.data),
        other => Cow::Owned(format!("{PREFIX}{}.{}", other.as_label(), seal.data)),
    }
}

pub(super) fn written_for_call(seal: &Seal) -> String {
    format!("{PREFIX}{}.{CALL}{}", seal.of.as_label(), seal.data)
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
    let foreign = text.strip_prefix(PREFIX).and_then(|rest| {
        let (label, data) = rest.split_once('.')?;
        let of = Dialect::ALL.into_iter().find(|it| it.as_label() == label)?;
        Some((of, data))
    });
    let Some((of, data)) = foreign else {
        return Read::Here(Seal {
            of: Dialect::Anthropic,
            kind,
            data: text,
        });
    };
    match data.strip_prefix(CALL) {
        Some(data) => Read::NextCall(Seal {
            of,
            kind: SealKind::Signature,
            data: data.to_owned(),
        }),
        None => Read::Here(Seal {
            of,
            kind,
            data: data.to_owned(),
        }),
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
