//! How tokens are drawn beyond OpenAI's fields, and how likely they were.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What servers of open models take beyond OpenAI's fields. An upstream gets these fields as they
/// came, in the request's bytes or its `extra`; what stands here is for the local engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpenSampling {
    /// Above 0, below 1.
    pub typical_p: Option<f32>,
    /// Above 0.
    pub top_n_sigma: Option<f32>,
    pub repeats: Option<RepeatPenalty>,
    pub dry: Option<Dry>,
    pub xtc: Option<Xtc>,
    pub mirostat: Option<Mirostat>,
    /// Tokens that end the reply and are not in it.
    pub stop_tokens: Vec<u32>,
    /// The tokens that end a reply by themselves are not drawn.
    pub ignores_end: bool,
}

/// Makes tokens that were there before less likely: divides logits above 0 and multiplies others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RepeatPenalty {
    /// Above 0, not 1.
    pub penalty: f32,
    /// Of how many tokens, prompt and reply together; `None` for all.
    pub tokens_max: Option<u32>,
}

/// "Don't repeat yourself": makes the token unlikely that would lengthen a repetition.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Dry {
    /// Above 0.
    pub multiplier: f32,
    /// At least 1.
    pub base: f32,
    /// Repetitions up to this many tokens cost nothing.
    pub allowed: u32,
    /// Among how many tokens, prompt and reply together; `None` for all.
    pub tokens_max: Option<u32>,
    /// Texts that no repetition is followed across. None is empty.
    pub breakers: Vec<String>,
}

impl fmt::Debug for Dry {
    /// Breakers are the caller's text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dry")
            .field("multiplier", &self.multiplier)
            .field("base", &self.base)
            .field("allowed", &self.allowed)
            .field("tokens_max", &self.tokens_max)
            .field("breakers", &self.breakers.len())
            .finish()
    }
}

/// "Exclude top choices": now and then leaves the likeliest tokens out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Xtc {
    /// How often; above 0, to 1.
    pub probability: f32,
    /// All but the least likely of those that have at least this; to 0.5.
    pub threshold: f32,
}

/// Keeps the text's surprise near a target instead of cutting off unlikely tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mirostat {
    pub version: MirostatVersion,
    /// The target surprise, in bits.
    pub tau: f32,
    /// How quickly it is steered towards.
    pub eta: f32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MirostatVersion {
    One,
    Two,
}

/// One token of a reply and how likely it was, beside the likeliest of its place.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprobs {
    pub token: TokenLogprob,
    /// The likeliest first; the token itself may be among them or not.
    pub top: Vec<TokenLogprob>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// Where the bytes are a part of a character, U+FFFD stands for it.
    pub text: String,
    /// `None` for tokens that are no text, as the one that ends a reply.
    pub bytes: Option<Vec<u8>>,
    /// The natural logarithm, at least [`TokenLogprob::LEAST`].
    pub logprob: f64,
}

impl TokenLogprob {
    /// What OpenAI gives for the least likely; JSON has no minus infinity.
    pub const LEAST: f64 = -9999.0;
}

impl TokenLogprobs {
    /// About what it takes to be kept, for size bounds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        std::iter::once(&self.token)
            .chain(&self.top)
            .map(|one| {
                let bytes = one.bytes.as_ref().map_or(0, Vec::len);
                size_of::<TokenLogprob>() + one.text.len() + bytes
            })
            .sum()
    }
}

impl fmt::Debug for TokenLogprobs {
    /// Shape only: tokens are a reply's text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenLogprobs")
            .field("top", &self.top.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for TokenLogprob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenLogprob({} bytes)", self.text.len())
    }
}
