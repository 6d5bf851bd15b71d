//! The older form of log probabilities: lists of one length, with the place of each token's text.

use domain::TokenLogprobs;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

/// `text_offset` counts characters from the beginning of the choice's text.
#[derive(Serialize)]
pub(super) struct LogprobsBody<'a> {
    tokens: Vec<&'a str>,
    token_logprobs: Vec<f64>,
    top_logprobs: Vec<Top<'a>>,
    text_offset: Vec<usize>,
}

impl<'a> LogprobsBody<'a> {
    /// For `tokens` whose text begins at `from`, and where the next token's begins.
    pub fn of(tokens: &'a [TokenLogprobs], from: usize) -> (Self, usize) {
        let mut at = from;
        let mut body = Self {
            tokens: Vec::with_capacity(tokens.len()),
            token_logprobs: Vec::with_capacity(tokens.len()),
            top_logprobs: Vec::with_capacity(tokens.len()),
            text_offset: Vec::with_capacity(tokens.len()),
        };
        for one in tokens {
            body.tokens.push(&one.token.text);
            body.token_logprobs.push(one.token.logprob);
            body.top_logprobs.push(Top(one));
            body.text_offset.push(at);
            at += one.token.text.chars().count();
        }
        (body, at)
    }
}

/// Texts to log probabilities, the token's own included, as OpenAI has it. Of two tokens with one
/// text, parts of different characters, the likelier is there.
struct Top<'a>(&'a TokenLogprobs);

impl Serialize for Top<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let mut written: Vec<&str> = Vec::with_capacity(self.0.top.len() + 1);
        for one in self.0.top.iter().chain([&self.0.token]) {
            if !written.contains(&one.text.as_str()) {
                written.push(&one.text);
                map.serialize_entry(&one.text, &one.logprob)?;
            }
        }
        map.end()
    }
}
