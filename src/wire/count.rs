//! Counts of tokens as providers write them.

use domain::Tokens;
use serde::Deserialize;

/// A count of tokens, clamped into range. Some providers write whole numbers as `3.0`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(from = "f64")]
pub(crate) struct Count(pub u32);

impl From<f64> for Count {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "float to integer casts saturate, and NaN becomes 0; JSON holds neither"
    )]
    fn from(number: f64) -> Self {
        Count(number as u32)
    }
}

pub(crate) fn tokens(count: Option<Count>) -> Tokens {
    Tokens(count.map_or(0, |Count(number)| number))
}
