//! What providers' replies look like, whole and in chunks, read tolerantly.
//!
//! One set of shapes serves both decoders: a chunk's `delta` and a reply's `message` have the same
//! members. Strings are borrowed from the bytes where they hold no escapes. Everything that a
//! known provider leaves out, sends as null, or sends in another type is taken; what cannot be
//! taken without guessing is an error.

use std::borrow::Cow;
use std::fmt;

use domain::{BackendError, FinishReason, TokenLogprob, TokenLogprobs, Usage};
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::numbers::Count;

/// The highest `index` of a choice taken, plus one. OpenAI's `n` ends at 128.
pub(super) const CHOICES_MAX: u32 = 128;
/// OpenAI's bound on `top_logprobs`.
pub(crate) const TOP_LOGPROBS_MAX: u32 = 20;
/// Tool calls taken per choice.
pub(super) const TOOL_CALLS_MAX: usize = 256;

#[derive(Deserialize)]
pub(super) struct Body<'a> {
    #[serde(borrow, default)]
    pub object: Loose<'a>,
    #[serde(borrow, default)]
    pub id: Loose<'a>,
    #[serde(borrow, default)]
    pub created: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub model: Loose<'a>,
    #[serde(borrow, default)]
    pub system_fingerprint: Loose<'a>,
    #[serde(borrow, default)]
    pub choices: Option<Vec<ChoiceBody<'a>>>,
    #[serde(default)]
    pub usage: Option<UsageBody>,
    #[serde(borrow, default)]
    pub error: Option<&'a RawValue>,
}

impl Body<'_> {
    /// Whether callers may have it as it is: it lacks nothing that OpenAI's document requires, and says
    /// nothing that is read here under a name or in a form of the provider's own.
    pub fn is_openais(&self, extent: Shape) -> bool {
        let is_filled = |text: &Loose<'_>| text.0.as_ref().is_some_and(|text| !text.is_empty());
        let is_number = |raw: &RawValue| raw.get().bytes().all(|byte| byte.is_ascii_digit());
        let object = match extent {
            Shape::Whole => "chat.completion",
            Shape::Chunk => "chat.completion.chunk",
        };
        self.object.0.as_deref() == Some(object)
            && is_filled(&self.id)
            && is_filled(&self.model)
            && self.created.is_some_and(is_number)
            && self.error.is_none()
            && self.choices.as_ref().is_some_and(|choices| {
                !choices.is_empty() && choices.iter().all(|choice| choice.is_openais(extent))
            })
    }
}

/// Of which of OpenAI's objects a body is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Whole,
    Chunk,
}

#[derive(Deserialize)]
pub(super) struct ChoiceBody<'a> {
    #[serde(default)]
    pub index: Option<u32>,
    #[serde(borrow, default)]
    pub delta: Option<MessageBody<'a>>,
    /// A whole reply's content; some providers also write it into a stream's only chunk.
    #[serde(borrow, default)]
    pub message: Option<MessageBody<'a>>,
    /// What stands for a message in OpenAI's older completions.
    #[serde(borrow, default)]
    pub text: Loose<'a>,
    /// `None` where it is not there; null is a value.
    #[serde(borrow, default, deserialize_with = "given")]
    pub logprobs: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub finish_reason: Loose<'a>,
}

impl<'a> ChoiceBody<'a> {
    fn is_openais(&self, shape: Shape) -> bool {
        let is_word = |word: &str| {
            finish_reason(word).is_ok_and(|reason: FinishReason| reason.as_label() == word)
        };
        let message = match (&self.delta, &self.message) {
            (Some(message), None) | (None, Some(message)) => message,
            (Some(_), Some(_)) | (None, None) => return false,
        };
        self.index.is_some()
            && self.text.0.is_none()
            && self.finish_reason.0.as_deref().is_none_or(is_word)
            && message.is_openais()
            && match shape {
                Shape::Whole => {
                    self.finish_reason.0.is_some() && self.logprobs.is_some() && message.has_all()
                }
                Shape::Chunk => true,
            }
    }

    /// The log probabilities of content and refusal, or those of OpenAI's older completions. None
    /// where they are of another form.
    pub fn token_logprobs(&self) -> Vec<TokenLogprobs> {
        let read = |raw: &RawValue| serde_json::from_str::<LogprobsBody>(raw.get()).ok();
        let filled = self.logprobs.filter(|raw| raw.get() != "null");
        let Some(body) = filled.and_then(read) else {
            return Vec::new();
        };
        if let Some(tokens) = body.tokens {
            return older_logprobs(tokens, body.token_logprobs, body.top_logprobs);
        }
        let lists = [body.content, body.refusal];
        let tokens = lists.into_iter().flatten().flatten();
        tokens.map(TokenLogprobs::from).collect()
    }

    /// What the choice says, or the next piece of it.
    pub fn take_message(&mut self) -> Option<MessageBody<'a>> {
        let of_text = |text| MessageBody {
            content: Some(Content {
                text: Loose(Some(text)),
                thought: Loose(None),
            }),
            ..MessageBody::default()
        };
        let text = self.text.0.take().map(of_text);
        self.delta.take().or(self.message.take()).or(text)
    }
}

/// Log probabilities as the responses dialect has them; none where they are of another form.
pub(crate) fn token_logprobs_of(list: &serde_json::Value) -> Vec<TokenLogprobs> {
    let read = Option::<Vec<TokenBody>>::deserialize(list);
    let tokens = read.ok().flatten().unwrap_or_default();
    tokens.into_iter().map(TokenLogprobs::from).collect()
}

/// Lists of one length, with an object of texts and their log probabilities for each token.
fn older_logprobs(
    tokens: Vec<String>,
    logprobs: Option<Vec<Option<f64>>>,
    top: Option<Vec<Option<OlderTop>>>,
) -> Vec<TokenLogprobs> {
    let mut logprobs = logprobs.unwrap_or_default().into_iter();
    let mut top = top.unwrap_or_default().into_iter();
    let one = |text: String, logprob: Option<f64>| TokenLogprob {
        text,
        bytes: None,
        logprob: logprob.unwrap_or(TokenLogprob::LEAST),
    };
    let read = tokens.into_iter().map(|token| {
        let likeliest = top.next().flatten().unwrap_or_default().into_iter();
        let likeliest = likeliest.take(TOP_LOGPROBS_MAX as usize);
        let mut top: Vec<_> = likeliest
            .map(|(text, logprob)| one(text, logprob))
            .collect();
        top.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
        TokenLogprobs {
            token: one(token, logprobs.next().flatten()),
            top,
        }
    });
    read.collect()
}

type OlderTop = std::collections::BTreeMap<String, Option<f64>>;

#[derive(Deserialize)]
struct LogprobsBody {
    /// The older form's.
    #[serde(default)]
    tokens: Option<Vec<String>>,
    #[serde(default)]
    token_logprobs: Option<Vec<Option<f64>>>,
    #[serde(default)]
    top_logprobs: Option<Vec<Option<OlderTop>>>,
    #[serde(default)]
    content: Option<Vec<TokenBody>>,
    #[serde(default)]
    refusal: Option<Vec<TokenBody>>,
}

#[derive(Deserialize)]
struct TokenBody {
    #[serde(flatten)]
    token: LogprobBody,
    #[serde(default)]
    top_logprobs: Option<Vec<LogprobBody>>,
}

#[derive(Deserialize)]
struct LogprobBody {
    token: String,
    logprob: f64,
    #[serde(default)]
    bytes: Option<Vec<u8>>,
}

impl From<LogprobBody> for TokenLogprob {
    fn from(body: LogprobBody) -> Self {
        Self {
            text: body.token,
            bytes: body.bytes,
            logprob: body.logprob,
        }
    }
}

impl From<TokenBody> for TokenLogprobs {
    fn from(body: TokenBody) -> Self {
        let mut top = body.top_logprobs.unwrap_or_default();
        top.truncate(TOP_LOGPROBS_MAX as usize);
        Self {
            token: body.token.into(),
            top: top.into_iter().map(TokenLogprob::from).collect(),
        }
    }
}

#[derive(Default, Deserialize)]
pub(super) struct MessageBody<'a> {
    #[serde(default)]
    pub role: Option<IgnoredAny>,
    /// `None` where it is not there; null is a value.
    #[serde(borrow, default, deserialize_with = "given")]
    pub content: Option<Content<'a>>,
    /// DeepSeek's and vLLM's name for reasoning text.
    #[serde(borrow, default)]
    pub reasoning_content: Loose<'a>,
    /// OpenRouter's and newer vLLM's name for it.
    #[serde(borrow, default)]
    pub reasoning: Loose<'a>,
    /// `None` where it is not there; null is a value.
    #[serde(borrow, default, deserialize_with = "given")]
    pub refusal: Option<Loose<'a>>,
    #[serde(borrow, default)]
    pub tool_calls: Option<Vec<CallBody<'a>>>,
}

impl<'a> MessageBody<'a> {
    fn is_openais(&self) -> bool {
        let mut calls = self.tool_calls.iter().flatten();
        let content = self.content.as_ref();
        self.reasoning.0.is_none()
            && content.is_none_or(|content| content.thought.0.is_none())
            && calls.all(|call| {
                let function = call.function.as_ref();
                let arguments = function.and_then(|function| function.arguments);
                arguments.is_none_or(|raw| raw.get().starts_with('"'))
            })
    }

    /// Whether the members stand that OpenAI's document requires of a whole reply's.
    fn has_all(&self) -> bool {
        self.role.is_some() && self.content.is_some() && self.refusal.is_some()
    }

    /// The reasoning text, under whichever name it came. Some providers write several.
    pub fn thought(&mut self) -> Option<Cow<'a, str>> {
        let of_content = |content: &mut Content<'a>| content.thought.take_filled();
        self.reasoning_content
            .take_filled()
            .or_else(|| self.reasoning.take_filled())
            .or_else(|| self.content.as_mut().and_then(of_content))
    }

    /// Its text, and a refusal's.
    pub fn texts(&mut self) -> impl Iterator<Item = Cow<'a, str>> + use<'a> {
        let content = self.content.as_mut().and_then(|it| it.text.take_filled());
        let refusal = self.refusal.as_mut().and_then(Loose::take_filled);
        [content, refusal].into_iter().flatten()
    }
}

#[derive(Deserialize)]
pub(super) struct CallBody<'a> {
    #[serde(default)]
    pub index: Option<u32>,
    #[serde(borrow, default)]
    pub id: Loose<'a>,
    #[serde(borrow, default)]
    pub function: Option<FunctionBody<'a>>,
    /// Google's place for a call's seal.
    #[serde(borrow, default)]
    pub extra_content: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
pub(super) struct FunctionBody<'a> {
    #[serde(borrow, default)]
    pub name: Loose<'a>,
    #[serde(borrow, default)]
    pub arguments: Option<&'a RawValue>,
}

impl FunctionBody<'_> {
    /// The arguments' JSON text. Ollama's older versions write the object itself, not its text.
    pub fn arguments_text(&self) -> Result<String, BackendError> {
        let Some(raw) = self.arguments else {
            return Ok(String::new());
        };
        match raw.get().as_bytes().first() {
            Some(b'"') => serde_json::from_str(raw.get())
                .map_err(|_| BackendError::Garbled("tool arguments are no valid string")),
            _ if raw.get() == "null" => Ok(String::new()),
            _ => Ok(raw.get().to_owned()),
        }
    }
}

/// A string, or nothing: values of every other type read as absent.
#[derive(Default)]
pub(super) struct Loose<'a>(pub Option<Cow<'a, str>>);

impl<'a> Loose<'a> {
    /// The text, unless it is absent or empty.
    pub fn take_filled(&mut self) -> Option<Cow<'a, str>> {
        self.0.take().filter(|text| !text.is_empty())
    }
}

/// Text, null, or a list of parts (Mistral's reasoning models).
#[derive(Default)]
pub(super) struct Content<'a> {
    pub text: Loose<'a>,
    pub thought: Loose<'a>,
}

#[derive(Deserialize)]
struct PartBody<'a> {
    #[serde(borrow, default)]
    text: Loose<'a>,
    #[serde(borrow, default)]
    thinking: Content<'a>,
}

/// Tells null from the lack of a value.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

struct LooseVisitor;

impl<'de> Visitor<'de> for LooseVisitor {
    type Value = Loose<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Loose(Some(Cow::Borrowed(text))))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Loose(Some(Cow::Owned(text.to_owned()))))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Loose(None))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Loose(None))
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Loose(None))
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Loose(None))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Loose(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Loose(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Loose(None))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Loose<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, null or a list of parts")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Content {
            text: Loose(Some(Cow::Borrowed(text))),
            thought: Loose(None),
        })
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Content {
            text: Loose(Some(Cow::Owned(text.to_owned()))),
            thought: Loose(None),
        })
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Content::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
        let mut text = String::new();
        let mut thought = String::new();
        while let Some(mut part) = parts.next_element::<PartBody<'de>>()? {
            text.extend(part.text.take_filled());
            thought.extend(part.thinking.text.take_filled());
        }
        Ok(Content {
            text: Loose(Some(Cow::Owned(text))),
            thought: Loose(Some(Cow::Owned(thought))),
        })
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

#[derive(Clone, Copy, Deserialize)]
pub(super) struct UsageBody {
    #[serde(default)]
    prompt_tokens: Option<Count>,
    #[serde(default)]
    completion_tokens: Option<Count>,
    /// DeepSeek's place for cached prompt tokens.
    #[serde(default)]
    prompt_cache_hit_tokens: Option<Count>,
    #[serde(default)]
    prompt_tokens_details: Option<DetailsBody>,
    #[serde(default)]
    completion_tokens_details: Option<DetailsBody>,
    /// Our own, of another node.
    #[serde(default)]
    hedge: Option<DetailsBody>,
}

#[derive(Clone, Copy, Default, Deserialize)]
struct DetailsBody {
    #[serde(default)]
    cached_tokens: Option<Count>,
    #[serde(default)]
    cache_write_tokens: Option<Count>,
    #[serde(default)]
    reasoning_tokens: Option<Count>,
    #[serde(default)]
    accepted_prediction_tokens: Option<Count>,
    #[serde(default)]
    rejected_prediction_tokens: Option<Count>,
    #[serde(default)]
    dropped_tokens: Option<Count>,
}

impl From<UsageBody> for Usage {
    fn from(body: UsageBody) -> Self {
        let prompt = body.prompt_tokens_details.unwrap_or_default();
        let completion = body.completion_tokens_details.unwrap_or_default();
        Usage {
            prompt_tokens: Count::tokens(body.prompt_tokens),
            completion_tokens: Count::tokens(body.completion_tokens),
            cached_tokens: Count::tokens(prompt.cached_tokens.or(body.prompt_cache_hit_tokens)),
            cache_write_tokens: Count::tokens(prompt.cache_write_tokens),
            reasoning_tokens: Count::tokens(completion.reasoning_tokens),
            accepted_prediction_tokens: Count::tokens(completion.accepted_prediction_tokens),
            rejected_prediction_tokens: Count::tokens(completion.rejected_prediction_tokens),
            dropped_tokens: Count::tokens(body.hedge.unwrap_or_default().dropped_tokens),
        }
    }
}

/// A choice's end, by the words of OpenAI and of those who kept their own.
///
/// # Errors
/// Words that mean that the reply is not whole.
pub(super) fn finish_reason(word: &str) -> Result<FinishReason, BackendError> {
    match word {
        "length" | "max_tokens" | "model_length" => Ok(FinishReason::Length),
        "tool_calls" | "function_call" | "tool_use" => Ok(FinishReason::ToolCalls),
        "content_filter" | "safety" | "SAFETY" => Ok(FinishReason::ContentFilter),
        "error" => Err(BackendError::Failed {
            status: FAILED_STATUS,
        }),
        "abort" | "cancelled" | "insufficient_system_resource" => Err(BackendError::Interrupted),
        _ => Ok(FinishReason::Stop),
    }
}

/// Stands for an error that came under a good status and named none of its own.
const FAILED_STATUS: u16 = 500;

/// An error object's own status, where it writes one as `code` or `status` (OpenRouter, llama.cpp).
pub(super) fn failure(raw: &RawValue) -> BackendError {
    #[derive(Deserialize)]
    struct Status {
        #[serde(default)]
        code: serde_json::Value,
        #[serde(default)]
        status: serde_json::Value,
    }
    let status = serde_json::from_str::<Status>(raw.get())
        .ok()
        .and_then(|body| body.code.as_u64().or_else(|| body.status.as_u64()))
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| (400..600).contains(number))
        .unwrap_or(FAILED_STATUS);
    BackendError::Failed { status }
}
