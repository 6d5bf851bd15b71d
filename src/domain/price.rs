//! What a reply costs.

use crate::{MicroUsd, Tokens, Usage};

/// Millionths of a dollar for a million tokens: $1.25 per million is 1,250,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// For prompt tokens that no cache had.
    pub input: u64,
    /// For prompt tokens that were read from the provider's prefix cache.
    pub cached_input: u64,
    /// For prompt tokens that were put into it.
    pub cache_write: u64,
    /// For generated tokens, thoughts included.
    pub output: u64,
}

/// One model's price.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    pub rates: Rates,
    /// What counts for the whole request where its prompt has more tokens than that.
    pub long: Option<(Tokens, Rates)>,
}

impl Price {
    /// Of what runs on machines that are paid for already.
    pub const FREE: Price = Price {
        rates: Rates {
            input: 0,
            cached_input: 0,
            cache_write: 0,
            output: 0,
        },
        long: None,
    };

    /// Rounded up to a whole millionth.
    #[must_use]
    pub fn cost(&self, usage: &Usage) -> MicroUsd {
        let rates = match self.long {
            Some((above, long)) if usage.prompt_tokens > above => long,
            _ => self.rates,
        };
        let prompt = usage.prompt_tokens.0;
        let cached = usage.cached_tokens.0.min(prompt);
        let written = usage.cache_write_tokens.0.min(prompt - cached);
        let parts = [
            (prompt - cached - written, rates.input),
            (cached, rates.cached_input),
            (written, rates.cache_write),
            (usage.completion_tokens.0, rates.output),
        ];
        let sum: u128 = parts
            .into_iter()
            .map(|(tokens, rate)| u128::from(tokens) * u128::from(rate))
            .sum();
        MicroUsd(i64::try_from(sum.div_ceil(1_000_000)).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICE: Price = Price {
        rates: Rates {
            input: 1_250_000,
            cached_input: 125_000,
            cache_write: 1_500_000,
            output: 10_000_000,
        },
        long: Some((
            Tokens(200_000),
            Rates {
                input: 2_500_000,
                cached_input: 250_000,
                cache_write: 2_500_000,
                output: 15_000_000,
            },
        )),
    };

    fn cost(prompt: u32, cached: u32, written: u32, completion: u32) -> i64 {
        let usage = Usage {
            prompt_tokens: Tokens(prompt),
            cached_tokens: Tokens(cached),
            cache_write_tokens: Tokens(written),
            completion_tokens: Tokens(completion),
            ..Usage::default()
        };
        PRICE.cost(&usage).0
    }

    #[test]
    fn each_kind_of_token_has_its_rate_and_the_sum_is_rounded_up() {
        assert_eq!(cost(0, 0, 0, 0), 0);
        assert_eq!(cost(1, 0, 0, 0), 2);
        assert_eq!(cost(1_000, 0, 0, 0), 1_250);
        assert_eq!(cost(1_000, 400, 100, 50), 625 + 50 + 150 + 500);
        // A provider that counts more cached tokens than there were is not paid for them.
        assert_eq!(cost(1_000, 5_000, 5_000, 0), 125);
    }

    #[test]
    fn a_long_prompt_has_other_rates_for_all_of_it() {
        assert_eq!(cost(200_000, 0, 0, 0), 250_000);
        assert_eq!(cost(200_001, 0, 0, 10), 500_003 + 150);
    }

    #[test]
    fn nothing_overflows() {
        let usage = Usage {
            prompt_tokens: Tokens(u32::MAX),
            completion_tokens: Tokens(u32::MAX),
            ..Usage::default()
        };
        let dear = Price {
            rates: Rates {
                input: u64::MAX,
                output: u64::MAX,
                ..Rates::default()
            },
            long: None,
        };
        assert_eq!(dear.cost(&usage), MicroUsd(i64::MAX));
        assert_eq!(Price::FREE.cost(&usage), MicroUsd(0));
    }
}
