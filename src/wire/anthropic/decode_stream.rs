//! Decodes a streamed reply, as a client.
//!
//! ```text
//! bytes, any cut ─SseDecoder─► events ─Reader─► ChatEvent, in domain's grammar
//! ```
//! Events are told by the `type` in their data; kinds that we do not know are read over. `Usage` is
//! held back until the end, since `message_delta` may come more than once.

use domain::{BackendError, ChatEvent, Dialect, SealKind, Started, ToolCallPart, Usage};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::decode_reply::seal;
use super::reply_shape::{BlockBody, BlockKind, STOP_SEQUENCE, UsageBody, failure, finish_reason};
use crate::SseEvent;
use crate::passing::{self, is_filled};
use crate::sse_reading::{EventReader, Out, SseReading};

/// Blocks open at once. Anthropic has one.
const OPEN_BLOCKS_MAX: usize = 64;
/// Of one signature, in however many pieces.
const SIGNATURE_BYTES_MAX: usize = 1 << 20;

const WENT_ON: BackendError = BackendError::Garbled("a reply went on after its end");

/// Turns a stream's bytes into events. Without `message_stop` the body's end is an end only if a reason
/// was given.
pub(super) type Decoder = SseReading<Reader>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EventKind {
    MessageStart,
    ContentBlockStart,
    ContentBlockDelta,
    ContentBlockStop,
    MessageDelta,
    MessageStop,
    Error,
    #[serde(other)]
    Unknown,
}

/// What belongs to each kind is read once the kind is known.
#[derive(Deserialize)]
struct EventBody<'a> {
    r#type: EventKind,
    #[serde(borrow, default)]
    index: Option<&'a RawValue>,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    #[serde(borrow, default)]
    content_block: Option<&'a RawValue>,
    #[serde(borrow, default)]
    delta: Option<&'a RawValue>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct MessageBody<'a> {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    model: Option<String>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DeltaKind {
    TextDelta,
    ThinkingDelta,
    SignatureDelta,
    InputJsonDelta,
    #[serde(other)]
    Unknown,
}

#[derive(Deserialize)]
struct DeltaBody {
    r#type: DeltaKind,
    #[serde(default)]
    text: String,
    #[serde(default)]
    thinking: String,
    #[serde(default)]
    signature: String,
    #[serde(default)]
    partial_json: String,
}

#[derive(Default, Deserialize)]
struct EndBody {
    #[serde(default)]
    stop_reason: Option<String>,
    #[serde(default)]
    stop_sequence: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Reader {
    has_started: bool,
    /// It began as Anthropic's own do: callers may have it as it is.
    is_anthropics: bool,
    has_ended: bool,
    open: Vec<OpenBlock>,
    calls: usize,
    usage: Option<UsageBody>,
    is_over: bool,
    /// What comes now lacked its blank line: it may be cut, which is no malformation.
    is_at_body_end: bool,
}

#[derive(Debug)]
struct OpenBlock {
    index: u32,
    state: BlockState,
}

#[derive(Debug)]
enum BlockState {
    Text,
    Thinking {
        signature: String,
    },
    Call {
        index: u32,
        /// Arguments that came with the block's start, for want of deltas.
        at_start: Option<String>,
        has_arguments: bool,
    },
    /// Nothing of it is passed on.
    Skipped,
}

impl EventReader for Reader {
    fn take(&mut self, event: SseEvent<'_>, out: &mut Out) {
        if self.is_over || event.data.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let first = out.len();
        match self.read(event.data, out) {
            Ok(()) if self.is_anthropics && !event.name.is_empty() => {
                let bytes = passing::frame(event.name, event.data);
                passing::put_before(out, first, Dialect::Anthropic, bytes);
            }
            Ok(()) => {}
            Err(error) => self.fail(error, out),
        }
    }

    fn note_body_end(&mut self) {
        self.is_at_body_end = true;
    }

    fn end(&mut self, out: &mut Out) {
        if !self.has_ended {
            return self.fail(BackendError::Interrupted, out);
        }
        let usage = self.usage.take().map(Usage::from);
        out.extend(usage.map(|usage| Ok(ChatEvent::Usage(usage))));
        self.is_over = true;
    }

    fn fail(&mut self, error: BackendError, out: &mut Out) {
        out.push_back(Err(error));
        self.is_over = true;
    }

    fn is_over(&self) -> bool {
        self.is_over
    }
}

impl Reader {
    fn read(&mut self, data: &[u8], out: &mut Out) -> Result<(), BackendError> {
        let body: EventBody<'_> = match serde_json::from_slice(data) {
            Ok(body) => body,
            Err(_) if self.is_at_body_end => return Err(BackendError::Interrupted),
            Err(_) => return Err(BackendError::Garbled("an event of the stream is malformed")),
        };
        match body.r#type {
            EventKind::MessageStart => self.start(part(body.message)?, out),
            EventKind::ContentBlockStart => {
                let block = body.content_block.ok_or(MALFORMED)?;
                self.start_block(part(body.index)?, BlockBody::read(block)?, out)
            }
            EventKind::ContentBlockDelta => {
                self.read_delta(part(body.index)?, part(body.delta)?, out)
            }
            EventKind::ContentBlockStop => {
                let index: u32 = part(body.index)?;
                if let Some(at) = self.open.iter().position(|open| open.index == index) {
                    let block = self.open.remove(at);
                    block.finish(out);
                }
                Ok(())
            }
            EventKind::MessageDelta => {
                self.add_usage(body.usage);
                let end: EndBody = match body.delta {
                    Some(_) => part(body.delta)?,
                    None => EndBody::default(),
                };
                self.read_end(end, out);
                Ok(())
            }
            EventKind::MessageStop => {
                self.end(out);
                Ok(())
            }
            EventKind::Error => Err(failure(body.error)),
            EventKind::Unknown => Ok(()),
        }
    }

    fn start(&mut self, message: MessageBody<'_>, out: &mut Out) -> Result<(), BackendError> {
        if std::mem::replace(&mut self.has_started, true) {
            return Err(BackendError::Garbled("a stream began twice"));
        }
        self.is_anthropics = is_filled(message.id.as_ref())
            && is_filled(message.model.as_ref())
            && message.usage.is_some();
        self.add_usage(message.usage);
        out.push_back(Ok(ChatEvent::Started(Started {
            model: message.model.unwrap_or_default(),
            reply_id: message.id.filter(|id| !id.is_empty()),
            fingerprint: None,
        })));
        Ok(())
    }

    fn add_usage(&mut self, raw: Option<&RawValue>) {
        if let Some(usage) = raw.and_then(UsageBody::read) {
            self.usage = Some(usage.or(self.usage.unwrap_or_default()));
        }
    }

    fn start_block(
        &mut self,
        index: u32,
        mut block: BlockBody<'_>,
        out: &mut Out,
    ) -> Result<(), BackendError> {
        if !self.has_started {
            return Err(BackendError::Garbled("a stream lacks its beginning"));
        }
        if self.has_ended {
            return Err(WENT_ON);
        }
        if self.open.iter().any(|open| open.index == index) {
            return Err(BackendError::Garbled("a content block began twice"));
        }
        if self.open.len() >= OPEN_BLOCKS_MAX {
            return Err(BackendError::Garbled("too many content blocks are open"));
        }
        let state = match block.r#type {
            BlockKind::Text => {
                out.extend(text(block.text.unwrap_or_default()));
                BlockState::Text
            }
            BlockKind::Thinking => {
                out.extend(thought(block.thinking.unwrap_or_default()));
                BlockState::Thinking {
                    signature: block.signature.unwrap_or_default(),
                }
            }
            BlockKind::RedactedThinking => {
                out.extend(sealed(SealKind::Hidden, block.data.unwrap_or_default()));
                BlockState::Skipped
            }
            BlockKind::ToolUse => {
                let (id, name) = block.call(self.calls)?;
                let at = u32::try_from(self.calls).unwrap_or(u32::MAX);
                self.calls += 1;
                out.push_back(Ok(ChatEvent::ToolCall {
                    choice: 0,
                    index: at,
                    part: ToolCallPart {
                        id: Some(id),
                        name: Some(name),
                        arguments: String::new(),
                        seal: None,
                    },
                }));
                BlockState::Call {
                    index: at,
                    at_start: block.arguments().map(str::to_owned),
                    has_arguments: false,
                }
            }
            BlockKind::Unknown => BlockState::Skipped,
        };
        self.open.push(OpenBlock { index, state });
        Ok(())
    }

    fn read_delta(
        &mut self,
        index: u32,
        delta: DeltaBody,
        out: &mut Out,
    ) -> Result<(), BackendError> {
        if self.has_ended {
            return Err(WENT_ON);
        }
        let Some(open) = self.open.iter_mut().find(|open| open.index == index) else {
            return Err(BackendError::Garbled("a delta is of no open content block"));
        };
        match (&mut open.state, delta.r#type) {
            (BlockState::Skipped, _) | (_, DeltaKind::Unknown) => {}
            (BlockState::Text, DeltaKind::TextDelta) => out.extend(text(delta.text)),
            (BlockState::Thinking { .. }, DeltaKind::ThinkingDelta) => {
                out.extend(thought(delta.thinking));
            }
            (BlockState::Thinking { signature }, DeltaKind::SignatureDelta) => {
                signature.push_str(&delta.signature);
                if signature.len() > SIGNATURE_BYTES_MAX {
                    return Err(BackendError::Garbled("a thought's signature is too long"));
                }
            }
            (
                BlockState::Call {
                    index,
                    has_arguments,
                    ..
                },
                DeltaKind::InputJsonDelta,
            ) => {
                if !delta.partial_json.is_empty() {
                    *has_arguments = true;
                    out.push_back(arguments(*index, delta.partial_json));
                }
            }
            (
                BlockState::Text | BlockState::Thinking { .. } | BlockState::Call { .. },
                DeltaKind::TextDelta
                | DeltaKind::ThinkingDelta
                | DeltaKind::SignatureDelta
                | DeltaKind::InputJsonDelta,
            ) => return Err(BackendError::Garbled("a delta is of another kind of block")),
        }
        Ok(())
    }

    /// A second reason repeats the first.
    fn read_end(&mut self, end: EndBody, out: &mut Out) {
        let Some(word) = end
            .stop_reason
            .filter(|_| self.has_started && !self.has_ended)
        else {
            return;
        };
        self.has_ended = true;
        for block in std::mem::take(&mut self.open) {
            block.finish(out);
        }
        let stop_string = end.stop_sequence.filter(|_| word == STOP_SEQUENCE);
        out.extend(stop_string.map(|text| Ok(ChatEvent::StopString { choice: 0, text })));
        out.push_back(Ok(ChatEvent::ChoiceEnded {
            choice: 0,
            reason: finish_reason(&word),
        }));
    }
}

impl OpenBlock {
    /// Says what was held back until the block's end.
    fn finish(self, out: &mut Out) {
        match self.state {
            BlockState::Thinking { signature } => {
                out.extend(sealed(SealKind::Signature, signature));
            }
            BlockState::Call {
                index,
                at_start,
                has_arguments: false,
            } => out.push_back(arguments(index, at_start.unwrap_or_else(|| "{}".into()))),
            BlockState::Call { .. } | BlockState::Text | BlockState::Skipped => {}
        }
    }
}

const MALFORMED: BackendError = BackendError::Garbled("an event of the stream is malformed");

fn part<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> Result<T, BackendError> {
    let raw = raw.ok_or(MALFORMED)?;
    serde_json::from_str(raw.get()).map_err(|_| MALFORMED)
}

fn text(text: String) -> Option<Result<ChatEvent, BackendError>> {
    (!text.is_empty()).then_some(Ok(ChatEvent::Text { choice: 0, text }))
}

fn thought(text: String) -> Option<Result<ChatEvent, BackendError>> {
    (!text.is_empty()).then_some(Ok(ChatEvent::Thought { choice: 0, text }))
}

fn sealed(kind: SealKind, data: String) -> Option<Result<ChatEvent, BackendError>> {
    (!data.is_empty()).then(|| {
        Ok(ChatEvent::Seal {
            choice: 0,
            seal: seal(kind, data),
        })
    })
}

fn arguments(index: u32, arguments: String) -> Result<ChatEvent, BackendError> {
    Ok(ChatEvent::ToolCall {
        choice: 0,
        index,
        part: ToolCallPart {
            id: None,
            name: None,
            arguments,
            seal: None,
        },
    })
}

#[cfg(test)]
mod tests;
