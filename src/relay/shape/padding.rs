//! Lengths of requests, rounded up so that fewer of them can be told apart.

/// No request is padded to less, in bytes: short ones all look alike.
pub const REQUEST_PAD_BLOCK: usize = 512;

/// How a request is padded, by zeros after its end (RFC 9292, section 3.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RequestPad {
    /// PADMÉ (Nikitin and others, PETS 2019, section 4): as many bits of a length are told as its
    /// exponent has, at most 12 % more bytes.
    #[default]
    Padme,
    /// To the next power of two: only the exponent is told, at most twice the bytes.
    Pow2,
}

impl RequestPad {
    /// How long a message of so many bytes becomes, and never beyond `bytes_max`, which a message is
    /// not longer than.
    pub fn padded(self, bytes: usize, bytes_max: usize) -> usize {
        let bytes = bytes.max(REQUEST_PAD_BLOCK);
        let padded = match self {
            Self::Padme => {
                let exponent = bytes.ilog2();
                let told = exponent.ilog2() + 1;
                let mask = (1 << (exponent - told)) - 1;
                (bytes + mask) & !mask
            }
            Self::Pow2 => bytes.next_power_of_two(),
        };
        padded.min(bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 32 << 20;

    #[test]
    fn lengths_are_rounded_as_the_paper_does() {
        // 10,000: exponent 13, four bits told, so multiples of 512.
        assert_eq!(RequestPad::Padme.padded(10_000, MAX), 10_240);
        assert_eq!(RequestPad::Padme.padded(10_240, MAX), 10_240);
        assert_eq!(RequestPad::Padme.padded(10_241, MAX), 10_752);
        assert_eq!(RequestPad::Pow2.padded(10_000, MAX), 16_384);
        for pad in [RequestPad::Padme, RequestPad::Pow2] {
            assert_eq!(pad.padded(0, MAX), 512);
            assert_eq!(pad.padded(MAX - 1, MAX), MAX);
        }
    }

    proptest! {
        #[test]
        fn padding_costs_what_it_may_and_changes_nothing_twice(bytes in 512usize..MAX) {
            let padme = RequestPad::Padme.padded(bytes, MAX);
            prop_assert!(bytes <= padme && padme as f64 <= bytes as f64 * 1.12);
            prop_assert_eq!(RequestPad::Padme.padded(padme, MAX), padme);
            let pow2 = RequestPad::Pow2.padded(bytes, MAX);
            prop_assert!(bytes <= pow2 && pow2 < 2 * bytes);
            prop_assert_eq!(RequestPad::Pow2.padded(pow2, MAX), pow2);
        }
    }
}
