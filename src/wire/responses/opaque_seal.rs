//! Seals as this dialect's `encrypted_content`.

use domain::{Dialect, Seal, SealKind};

use crate::foreign_seal;

/// A seal as an opaque text of this dialect.
pub(super) fn opaque(seal: &Seal) -> String {
    if seal.of == Dialect::Responses {
        return seal.data.clone();
    }
    foreign_seal::write(seal)
}

/// Another dialect's seal, or one of this dialect's makers.
pub(super) fn seal(data: String) -> Seal {
    foreign_seal::read(&data).unwrap_or(Seal {
        of: Dialect::Responses,
        kind: SealKind::Hidden,
        data,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_finds_its_maker_again() {
        for of in Dialect::ALL {
            let made = Seal {
                of,
                kind: SealKind::Hidden,
                data: "a.b".into(),
            };
            assert_eq!(seal(opaque(&made)), made);
        }
        // Something that only begins like one.
        assert_eq!(seal("hedge.nobody.s.a".into()).of, Dialect::Responses);
    }
}
