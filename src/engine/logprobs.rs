//! How likely each token of a reply was, for callers who ask.
//!
//! Reported is the logarithm of the softmax over the model's logits as they were computed: before
//! bias, penalties, temperature, cuts and the grammar, as OpenAI and llama-server report it. Every
//! token of the reply has its entry, those of thoughts and tool calls too; the token that ended the
//! reply has none, nor has one that lies wholly in or behind a stop string.
//!
//! An entry waits for its text: it leaves before it, and when the text is cut off it does not leave.

use std::collections::VecDeque;

use domain::{TokenLogprob, TokenLogprobs};

use crate::decoder::{Token, Vocabulary};

/// The entries of one reply that still wait for their text.
#[derive(Debug)]
pub(crate) struct Logprobs {
    /// How many of the likeliest stand beside each token.
    top: usize,
    /// Not yet placed: its token was drawn, and its bytes are still to be heard.
    drawn: Option<TokenLogprobs>,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    entry: TokenLogprobs,
    /// Where its text begins and ends, in bytes of the reply's text.
    begin: u64,
    end: u64,
}

impl Logprobs {
    pub(crate) fn new(top: u8) -> Self {
        Self {
            top: usize::from(top),
            drawn: None,
            waiting: VecDeque::new(),
        }
    }

    /// Takes the entry of `token`, which was drawn after `logits`.
    pub(crate) fn weigh(&mut self, logits: &[f32], token: Token, vocabulary: &dyn Vocabulary) {
        let sum = log_sum(logits);
        let one = |token: usize| {
            let logit = logits.get(token).copied().unwrap_or(f32::NEG_INFINITY);
            let logprob = (f64::from(logit) - sum).clamp(TokenLogprob::LEAST, 0.0);
            // Where a logit is no number, neither is the difference.
            let logprob = if logprob.is_nan() {
                TokenLogprob::LEAST
            } else {
                logprob
            };
            shown(token, logprob, vocabulary)
        };
        let token = usize::try_from(token).unwrap_or(usize::MAX);
        self.drawn = Some(TokenLogprobs {
            token: one(token),
            top: likeliest(logits, self.top).into_iter().map(one).collect(),
        });
    }

    /// Says where the text of the token last drawn stands.
    pub(crate) fn place(&mut self, begin: u64, end: u64) {
        let drawn = self.drawn.take();
        let placed = drawn.map(|entry| Waiting { entry, begin, end });
        self.waiting.extend(placed);
    }

    /// The entries of the text up to `passed`, which is on its way.
    pub(crate) fn release(&mut self, passed: u64) -> Vec<TokenLogprobs> {
        let count = self.waiting.iter().take_while(|one| one.end <= passed);
        let count = count.count();
        self.waiting.drain(..count).map(|one| one.entry).collect()
    }

    /// The last entries: the text ends at `passed`, though more was drawn.
    pub(crate) fn cut(&mut self, passed: u64) -> Vec<TokenLogprobs> {
        let waiting = self.waiting.drain(..);
        waiting
            .take_while(|one| one.begin < passed)
            .map(|one| one.entry)
            .collect()
    }
}

fn shown(token: usize, logprob: f64, vocabulary: &dyn Vocabulary) -> TokenLogprob {
    let token = Token::try_from(token).unwrap_or(Token::MAX);
    let mut bytes = Vec::new();
    vocabulary.piece(token, &mut bytes);
    if bytes.is_empty() {
        return TokenLogprob {
            text: vocabulary.control_text(token),
            bytes: None,
            logprob,
        };
    }
    TokenLogprob {
        text: String::from_utf8_lossy(&bytes).into_owned(),
        bytes: Some(bytes),
        logprob,
    }
}

/// The logarithm of the sum of all exponentials.
fn log_sum(logits: &[f32]) -> f64 {
    let finite = || logits.iter().copied().filter(|logit| logit.is_finite());
    let best = finite().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = finite().map(|logit| f64::from((logit - best).exp())).sum();
    f64::from(best) + sum.ln()
}

/// The `count` tokens with the greatest logits, the greatest first and the first of equals.
fn likeliest(logits: &[f32], count: usize) -> Vec<usize> {
    let mut best: Vec<(f32, usize)> = Vec::with_capacity(count + 1);
    if count == 0 {
        return Vec::new();
    }
    for (token, &logit) in logits.iter().enumerate() {
        let is_among = best.len() < count || best.last().is_some_and(|(last, _)| logit > *last);
        if logit.is_finite() && is_among {
            let at = best.partition_point(|(better, _)| *better >= logit);
            best.insert(at, (logit, token));
            best.truncate(count);
        }
    }
    best.into_iter().map(|(_, token)| token).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{END, FakeVocabulary};

    fn entry(logits: &[f32], token: Token, top: u8) -> TokenLogprobs {
        let mut logprobs = Logprobs::new(top);
        logprobs.weigh(logits, token, &FakeVocabulary::default());
        logprobs.place(0, 0);
        logprobs.cut(1).remove(0)
    }

    /// Odds of 1 to 2 to 1, so a half is the likeliest and the others have a quarter.
    #[test]
    fn logprobs_are_the_logarithm_of_the_softmax() {
        let logits = [0.0, 2.0_f32.ln(), 0.0, f32::NAN, f32::NEG_INFINITY];
        let near = |one: &TokenLogprob, share: f64| (one.logprob - share.ln()).abs() < 1e-6;
        let seen = entry(&logits, 2, 5);
        assert!(near(&seen.token, 0.25), "{}", seen.token.logprob);
        let top: Vec<&[u8]> = seen
            .top
            .iter()
            .filter_map(|one| one.bytes.as_deref())
            .collect();
        assert_eq!(top, [&[1], &[0], &[2]], "no more than have one");
        assert!(near(&seen.top[0], 0.5) && near(&seen.top[1], 0.25));
        for odd in [3, 4, 900] {
            let least = entry(&logits, odd, 0);
            assert_eq!(least.token.logprob, TokenLogprob::LEAST, "{odd}");
            assert!(least.top.is_empty());
        }
    }

    #[test]
    fn all_of_a_vocabulary_comes_to_one() {
        let logits: Vec<f32> = (0..20).map(|at| ((at * 7) % 20) as f32 - 60.0).collect();
        let seen = entry(&logits, 0, 20);
        let sum: f64 = seen.top.iter().map(|one| one.logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
        let falls = seen.top.windows(2);
        assert!(falls.into_iter().all(|two| two[0].logprob > two[1].logprob));
    }

    #[test]
    fn tokens_without_text_are_named_and_parts_of_characters_kept_as_bytes() {
        let mut logits = vec![0.0; 300];
        logits[END as usize] = 1.0;
        let seen = entry(&logits, 0xC3, 1);
        assert_eq!(seen.token.text, "\u{fffd}");
        assert_eq!(seen.token.bytes.as_deref(), Some(&[0xC3][..]));
        assert_eq!(
            (seen.top[0].text.as_str(), &seen.top[0].bytes),
            ("<end>", &None)
        );
    }

    #[test]
    fn entries_leave_with_their_text_and_not_behind_its_end() {
        let mut logprobs = Logprobs::new(0);
        for (at, token) in [97, 98, 99].into_iter().enumerate() {
            logprobs.weigh(&[0.0; 256], token, &FakeVocabulary::default());
            logprobs.place(2 * at as u64, 2 * at as u64 + 2);
        }
        let texts = |entries: Vec<TokenLogprobs>| -> String {
            entries.into_iter().map(|one| one.token.text).collect()
        };
        assert_eq!(texts(logprobs.release(1)), "");
        assert_eq!(texts(logprobs.release(3)), "a");
        assert_eq!(texts(logprobs.cut(4)), "b");
    }
}
