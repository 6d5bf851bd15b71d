//! Seals of one dialect inside of another's opaque text, so that they return to their maker.

use domain::{ChatRequest, Dialect, Part, Seal, SealKind};

const MARK: &str = "hedge.";
const HIDDEN: &str = "hidden.";

/// The seal as a dialect other than its own writes it: `hedge.<dialect>.<data>`, and
/// `hedge.<dialect>.hidden.<data>` for one that stands for a whole thought.
pub(crate) fn write(seal: &Seal) -> String {
    let kind = match seal.kind {
        SealKind::Signature => "",
        SealKind::Hidden => HIDDEN,
    };
    format!("{MARK}{}.{kind}{}", seal.of.as_label(), seal.data)
}

/// The seal that [`write`] wrote; `None` for text of the dialect's own.
pub(crate) fn read(text: &str) -> Option<Seal> {
    let (label, data) = text.strip_prefix(MARK)?.split_once('.')?;
    let of = Dialect::ALL
        .into_iter()
        .find(|dialect| dialect.as_label() == label)?;
    let (kind, data) = match data.strip_prefix(HIDDEN) {
        Some(data) => (SealKind::Hidden, data),
        None => (SealKind::Signature, data),
    };
    Some(Seal {
        of,
        kind,
        data: data.to_owned(),
    })
}

/// Whether `request` holds a seal that `own`'s makers did not write. Its received bytes cannot go to them:
/// they refuse what they cannot read.
pub(crate) fn are_in(request: &ChatRequest, own: Dialect) -> bool {
    let is_foreign = |seal: &Seal| seal.of != own;
    request.messages.iter().any(|message| {
        let mut parts = message.content.iter();
        let mut calls = message.tool_calls.iter();
        parts.any(|part| matches!(part, Part::Seal(seal) if is_foreign(seal)))
            || calls.any(|call| call.seal.as_ref().is_some_and(is_foreign))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_returns_as_it_was() {
        for of in Dialect::ALL {
            for kind in [SealKind::Signature, SealKind::Hidden] {
                let seal = Seal {
                    of,
                    kind,
                    data: "EqQB.+/=".into(),
                };
                assert_eq!(read(&write(&seal)), Some(seal));
            }
        }
        for text in ["", "EqQB", "hedge.", "hedge.openai", "hedge.nobody.x"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
