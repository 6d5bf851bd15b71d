//! A key as its holder has it, and why one opens nothing.

use std::fmt;

/// What every key that hedge made begins with, so that it is known by its look.
pub const KEY_PREFIX: &str = "hk_";
/// Of the random part, before it is written out.
pub const KEY_BYTES: usize = 32;
/// The digits of the random part, and those that check it.
const SECRET_DIGITS: usize = 2 * KEY_BYTES;
const CHECK_DIGITS: usize = 8;

/// A key's text: `hk_`, 64 hexadecimal digits of chance, and 8 that check them (CRC-32), so that a slip
/// is told from a key that nobody knows, and a scanner finds it by `hk_[0-9a-f]{72}`. It is shown to
/// whoever made it, once.
#[derive(Clone, PartialEq, Eq)]
pub struct KeySecret(String);

impl KeySecret {
    /// Of bytes that nobody can guess.
    #[must_use]
    pub fn of(bytes: [u8; KEY_BYTES]) -> Self {
        let mut text = String::with_capacity(KEY_PREFIX.len() + SECRET_DIGITS + CHECK_DIGITS);
        text.push_str(KEY_PREFIX);
        for byte in bytes {
            text.push_str(&format!("{byte:02x}"));
        }
        let check = check(&text);
        text.push_str(&check);
        Self(text)
    }

    /// To be shown, hashed or compared, and never to be kept.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// True of what begins as such a key and is none: a character is wrong, missing or too many.
    #[must_use]
    pub fn is_mistyped(sent: &[u8]) -> bool {
        let Some(digits) = sent.strip_prefix(KEY_PREFIX.as_bytes()) else {
            return false;
        };
        let is_whole = digits.len() == SECRET_DIGITS + CHECK_DIGITS;
        let text = std::str::from_utf8(sent).ok().filter(|_| is_whole);
        let checked = text.and_then(|text| text.split_at_checked(KEY_PREFIX.len() + SECRET_DIGITS));
        checked.is_none_or(|(said, digits)| check(said) != digits)
    }
}

impl fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySecret")
    }
}

fn check(said: &str) -> String {
    format!("{:08x}", crc32fast::hash(said.as_bytes()))
}

/// Why a key opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyTrouble {
    Unknown,
    /// It is no whole key of ours.
    Mistyped,
    Disabled,
    Expired,
    /// It is an operator's, and this is the callers' side.
    AdminToken,
    /// It is a caller's, and this is the operator's side.
    CallersKey,
    /// This is the operator's side, and it is no operator's token, or there is none.
    NoToken,
    /// The same, where people sign in, and nobody is.
    SignedOut,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_known_by_its_look_and_its_debug_says_nothing() {
        let key = KeySecret::of([0xab; KEY_BYTES]);
        assert_eq!(key.expose().len(), 75);
        assert!(key.expose().starts_with("hk_abab"));
        assert!(!KeySecret::is_mistyped(key.expose().as_bytes()));
        assert_eq!(format!("{key:?}"), "KeySecret");
    }

    #[test]
    fn keys_of_others_are_no_slips() {
        for text in ["", "sk-1", "hk", "HK_00", "bearer"] {
            assert!(!KeySecret::is_mistyped(text.as_bytes()), "{text}");
        }
        for text in ["hk_", "hk_00", "hk_é", "hk_team-key"] {
            assert!(KeySecret::is_mistyped(text.as_bytes()), "{text}");
        }
    }

    proptest! {
        /// One wrong character, one that is missing and one too many always show.
        #[test]
        fn one_slip_is_always_seen(
            bytes in any::<[u8; KEY_BYTES]>(), at in 3_usize..75, other in 0_u8..128,
        ) {
            let key = KeySecret::of(bytes);
            let whole = key.expose().as_bytes();
            let mut slipped = whole.to_vec();
            slipped[at] = other;
            prop_assert_eq!(KeySecret::is_mistyped(&slipped), other != whole[at]);
            let mut shorter = whole.to_vec();
            shorter.remove(at);
            prop_assert!(KeySecret::is_mistyped(&shorter));
            let mut longer = whole.to_vec();
            longer.insert(at, other);
            prop_assert!(KeySecret::is_mistyped(&longer));
        }
    }
}
