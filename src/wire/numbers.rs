//! Numbers, to and from JSON.

use domain::Tokens;
use serde::Deserialize;
use serde_json::Value;

/// The number as its fewest digits say it: 0.7, not the 0.699999988 that 64 bits make of it.
pub(crate) fn shortest(number: f32) -> Value {
    let wide = number.to_string().parse::<f64>();
    wide.map_or(Value::Null, Value::from)
}

/// A count of tokens, clamped into range. Some providers write whole numbers as `3.0`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
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

impl Count {
    /// Without one there were none.
    pub fn tokens(count: Option<Self>) -> Tokens {
        Tokens(count.unwrap_or_default().0)
    }
}

/// Both together; more than a count holds is the most that it holds.
pub(crate) fn sum(a: Tokens, b: Tokens) -> Tokens {
    Tokens(a.0.saturating_add(b.0))
}
