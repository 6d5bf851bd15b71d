//! Prompts of a wanted number of tokens, whatever the tokenizer.

use std::fmt::Write;
use std::io;

use bytes::Bytes;

use tokio::sync::Semaphore;

use super::telling::tell_anew;
use crate::drive::Target;

/// Words of the two probes that a tokenizer is measured with.
const PROBE_WORDS: [u32; 2] = [40, 200];
pub(crate) const WORDS: [&str; 32] = [
    "river", "stone", "lamp", "garden", "paper", "window", "market", "winter", "candle", "bridge",
    "silver", "forest", "letter", "summer", "harbour", "table", "music", "valley", "engine",
    "morning", "copper", "island", "needle", "orange", "pocket", "rabbit", "saddle", "tunnel",
    "velvet", "wagon", "yellow", "zebra",
];

/// How words become tokens: `fixed + per_word * words`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prompts {
    fixed: f64,
    per_word: f64,
}

impl Prompts {
    /// Asks the target how many tokens it makes of two texts.
    pub async fn measured(target: &Target, key: Option<&str>) -> io::Result<Self> {
        let mut counts = [0.0; 2];
        for (count, words) in counts.iter_mut().zip(PROBE_WORDS) {
            let body = body(target, &prose(words, 1), 1);
            let telling = tell_anew(target.addr, key, body, &Semaphore::new(0)).await?;
            *count = f64::from(u32::try_from(telling.prompt_tokens).unwrap_or(u32::MAX));
        }
        Self::through(counts).ok_or_else(|| {
            io::Error::other(format!(
                "{} says that {PROBE_WORDS:?} words are {counts:?} tokens: no usage event?",
                target.name
            ))
        })
    }

    fn through(counts: [f64; 2]) -> Option<Self> {
        let [few, many] = PROBE_WORDS.map(f64::from);
        let per_word = (counts[1] - counts[0]) / (many - few);
        (per_word > 0.0).then_some(Self {
            fixed: counts[0] - per_word * few,
            per_word,
        })
    }

    /// A prompt of about `tokens`, the first `shared` of which are the same for all seeds.
    pub fn text(&self, shared: u32, tokens: u32, seed: u64) -> String {
        let shared = shared.min(tokens);
        let mut text = prose(self.words(shared), 0);
        // What a seed adds differs from its first word on.
        let own = self.words(tokens).saturating_sub(self.words(shared)).max(1);
        text.push_str(&prose(own, seed));
        text
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to what u32 holds"
    )]
    fn words(&self, tokens: u32) -> u32 {
        let words = (f64::from(tokens) - self.fixed) / self.per_word;
        words.round().clamp(0.0, f64::from(u32::MAX)) as u32
    }
}

/// A greedy, streamed chat that wants every token.
pub(super) fn body(target: &Target, text: &str, answer_tokens: u32) -> Bytes {
    let body = serde_json::json!({
        "model": target.model,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": answer_tokens,
        // llama-server's and hedge's: the answer does not end before its length.
        "ignore_eos": true,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    Bytes::from(body.to_string())
}

/// Words in an order that the seed decides, by a linear congruential generator (Knuth's MMIX).
pub(crate) fn prose(words: u32, seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    let mut text = String::new();
    for _ in 0..words {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let word = WORDS[(state >> 59) as usize % WORDS.len()];
        write!(text, "{word} ").expect("writing to a string does not fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_have_the_wanted_tokens_and_share_what_they_should() {
        // A template of 20 tokens, two tokens a word.
        let prompts = Prompts::through([100.0, 420.0]).unwrap();
        let count = |text: &str| 20 + 2 * text.split_whitespace().count();
        for (shared, tokens) in [(0, 32), (192, 256), (0, 1024)] {
            let [one, other] = [3, 4].map(|seed| prompts.text(shared, tokens, seed));
            assert_eq!(count(&one), tokens as usize);
            let common = one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b);
            let common = one[..common.count()].split_whitespace().count();
            let wanted = (shared.saturating_sub(20) / 2) as usize;
            assert!((wanted..wanted + 3).contains(&common), "{common} {wanted}");
        }
        assert!(Prompts::through([0.0, 0.0]).is_none());
    }
}
