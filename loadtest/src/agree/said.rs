//! One answer, as far as it is compared.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A chat's text with its tokens, or a vector.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    Text { text: String, tokens: Vec<Drawn> },
    Vector(Vec<f64>),
}

/// One token of a text, and its likeliest neighbours.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    pub token: String,
    pub logprob: f64,
    pub top: BTreeMap<String, f64>,
}

impl Drawn {
    /// How much likelier the first of the top is than the second; the smaller, the nearer a tie.
    pub fn lead(&self) -> Option<f64> {
        let mut tops: Vec<f64> = self.top.values().copied().collect();
        tops.sort_by(|one, other| other.total_cmp(one));
        Some(tops.first()? - tops.get(1)?)
    }
}

#[derive(Deserialize)]
struct Body {
    choices: Option<Vec<Choice>>,
    data: Option<Vec<Datum>>,
}

#[derive(Deserialize)]
struct Datum {
    embedding: Vec<f64>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    logprobs: Option<Logprobs>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
    reasoning_content: Option<String>,
}

#[derive(Deserialize)]
struct Logprobs {
    content: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    token: String,
    logprob: f64,
    #[serde(default)]
    top_logprobs: Vec<Top>,
}

#[derive(Deserialize)]
struct Top {
    token: String,
    logprob: f64,
}

impl Said {
    /// Reads OpenAI's answer to a chat or to a request for one embedding.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let body: Body = serde_json::from_slice(bytes)?;
        if let Some(datum) = body.data.and_then(|data| data.into_iter().next()) {
            return Ok(Self::Vector(datum.embedding));
        }
        let choice = body.choices.and_then(|choices| choices.into_iter().next());
        let choice = choice.ok_or_else(|| {
            <serde_json::Error as serde::de::Error>::custom("neither a choice nor a vector")
        })?;
        let message = choice.message;
        let text = message.reasoning_content.unwrap_or_default()
            + message.content.as_deref().unwrap_or_default();
        let entries = choice.logprobs.and_then(|logprobs| logprobs.content);
        let tokens = entries.unwrap_or_default().into_iter().map(|entry| Drawn {
            token: entry.token,
            logprob: entry.logprob,
            top: entry
                .top_logprobs
                .into_iter()
                .map(|top| (top.token, top.logprob))
                .collect(),
        });
        Ok(Self::Text {
            text,
            tokens: tokens.collect(),
        })
    }
}
