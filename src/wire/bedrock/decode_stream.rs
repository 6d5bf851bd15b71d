//! Decodes a streamed reply.
//!
//! `messageStart (contentBlockStart? contentBlockDelta* contentBlockStop)* messageStop metadata`, where
//! only blocks of tools have a start. An exception may take the place of any event.

use std::collections::VecDeque;

use domain::{BackendError, ChatEvent, Started, ToolCallPart, Usage};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::decode_error::exception;
use super::frames::{FrameDecoder, Message};
use super::reply_shape::{
    TOOL_CALLS_MAX, UNSPEAKABLE, UsageBody, finish_reason, hidden, signature,
};
use crate::StreamDecoder;

type Out = VecDeque<Result<ChatEvent, BackendError>>;

#[derive(Debug, Default)]
pub(super) struct Decoder {
    frames: FrameDecoder,
    reader: Reader,
}

impl StreamDecoder for Decoder {
    fn push(&mut self, bytes: &[u8], out: &mut Out) {
        if self.reader.is_over {
            return;
        }
        let pushed = self
            .frames
            .push(bytes, &mut |message| self.reader.take(message, out));
        if pushed.is_err() && !self.reader.is_over {
            let error = BackendError::Garbled("the stream's frames are malformed");
            self.reader.fail(error, out);
        }
    }

    fn finish(&mut self, out: &mut Out) {
        if self.reader.is_over {
            return;
        }
        if self.frames.is_between() {
            self.reader.end(out);
        } else {
            self.reader.fail(BackendError::Interrupted, out);
        }
    }

    fn is_over(&self) -> bool {
        self.reader.is_over
    }
}

#[derive(Debug, Default)]
struct Reader {
    has_started: bool,
    has_ended: bool,
    /// The blocks that are calls, by the block's index.
    calls: Vec<CallState>,
    usage: Option<Usage>,
    is_over: bool,
}

#[derive(Debug)]
struct CallState {
    block: u32,
    has_input: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StartBody {
    start: BlockStartBody,
    #[serde(default)]
    content_block_index: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BlockStartBody {
    #[serde(default)]
    tool_use: Option<CallStartBody>,
    #[serde(default)]
    tool_result: Option<IgnoredAny>,
    #[serde(default)]
    image: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CallStartBody {
    tool_use_id: String,
    name: String,
    #[serde(default)]
    r#type: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeltaBody {
    delta: BlockDeltaBody,
    #[serde(default)]
    content_block_index: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BlockDeltaBody {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    tool_use: Option<CallDeltaBody>,
    #[serde(default)]
    reasoning_content: Option<ReasoningDeltaBody>,
    #[serde(default)]
    tool_result: Option<IgnoredAny>,
    #[serde(default)]
    image: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct CallDeltaBody {
    #[serde(default)]
    input: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReasoningDeltaBody {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    signature: Option<String>,
    #[serde(default)]
    redacted_content: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BlockStopBody {
    #[serde(default)]
    content_block_index: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StopBody {
    stop_reason: String,
}

#[derive(Deserialize)]
struct MetadataBody {
    #[serde(default)]
    usage: Option<UsageBody>,
}

fn parse<T: DeserializeOwned>(payload: &[u8]) -> Result<T, BackendError> {
    serde_json::from_slice(payload)
        .map_err(|_| BackendError::Garbled("an event of the stream is malformed"))
}

impl Reader {
    fn take(&mut self, message: Message<'_>, out: &mut Out) {
        if self.is_over {
            return;
        }
        let read = match message.kind {
            "event" | "" => self.read(message.name, message.payload, out),
            _ => Err(exception(message.name, message.payload)),
        };
        if let Err(error) = read {
            self.fail(error, out);
        }
    }

    fn read(&mut self, name: &str, payload: &[u8], out: &mut Out) -> Result<(), BackendError> {
        match name {
            "messageStart" => self.start(out),
            "contentBlockStart" => self.read_start(parse(payload)?, out)?,
            "contentBlockDelta" => self.read_delta(parse(payload)?, out)?,
            "contentBlockStop" => self.read_block_stop(&parse(payload)?, out)?,
            "messageStop" => {
                let body: StopBody = parse(payload)?;
                let reason = finish_reason(&body.stop_reason)?;
                self.start(out);
                if !std::mem::replace(&mut self.has_ended, true) {
                    out.push_back(Ok(ChatEvent::ChoiceEnded { choice: 0, reason }));
                }
            }
            "metadata" => {
                let body: MetadataBody = parse(payload)?;
                self.usage = body.usage.map(Usage::from).or(self.usage);
            }
            // Events of a later day.
            _ => {}
        }
        Ok(())
    }

    fn start(&mut self, out: &mut Out) {
        if !std::mem::replace(&mut self.has_started, true) {
            out.push_back(Ok(ChatEvent::Started(Started {
                model: String::new(),
                reply_id: None,
                fingerprint: None,
            })));
        }
    }

    /// Called before any content.
    fn go_on(&mut self, out: &mut Out) -> Result<(), BackendError> {
        if self.has_ended {
            return Err(BackendError::Garbled("the reply went on after its end"));
        }
        self.start(out);
        Ok(())
    }

    fn read_start(&mut self, body: StartBody, out: &mut Out) -> Result<(), BackendError> {
        if body.start.tool_result.is_some() || body.start.image.is_some() {
            return Err(BackendError::Garbled(UNSPEAKABLE));
        }
        let Some(call) = body.start.tool_use else {
            return Ok(());
        };
        if call.r#type.as_deref() == Some("server_tool_use") {
            return Err(BackendError::Garbled(UNSPEAKABLE));
        }
        self.go_on(out)?;
        let at = self.calls.len();
        if at >= TOOL_CALLS_MAX {
            return Err(BackendError::Garbled("the reply has too many calls"));
        }
        self.calls.push(CallState {
            block: body.content_block_index,
            has_input: false,
        });
        out.push_back(Ok(ChatEvent::ToolCall {
            choice: 0,
            index: u32::try_from(at).unwrap_or(u32::MAX),
            part: ToolCallPart {
                id: Some(call.tool_use_id),
                name: Some(call.name),
                arguments: String::new(),
                seal: None,
            },
        }));
        Ok(())
    }

    fn read_delta(&mut self, body: DeltaBody, out: &mut Out) -> Result<(), BackendError> {
        let DeltaBody {
            delta,
            content_block_index: block,
        } = body;
        if delta.tool_result.is_some() || delta.image.is_some() {
            return Err(BackendError::Garbled(UNSPEAKABLE));
        }
        if let Some(text) = delta.text.filter(|text| !text.is_empty()) {
            self.go_on(out)?;
            out.push_back(Ok(ChatEvent::Text { choice: 0, text }));
        }
        if let Some(reasoning) = delta.reasoning_content {
            self.read_reasoning(reasoning, out)?;
        }
        if let Some(call) = delta.tool_use {
            self.read_input(block, call.input, out)?;
        }
        Ok(())
    }

    fn read_reasoning(
        &mut self,
        body: ReasoningDeltaBody,
        out: &mut Out,
    ) -> Result<(), BackendError> {
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        if let Some(text) = filled(body.text) {
            self.go_on(out)?;
            out.push_back(Ok(ChatEvent::Thought { choice: 0, text }));
        }
        let seals = [
            filled(body.signature).map(signature),
            filled(body.redacted_content).map(hidden),
        ];
        for seal in seals.into_iter().flatten() {
            self.go_on(out)?;
            out.push_back(Ok(ChatEvent::Seal { choice: 0, seal }));
        }
        Ok(())
    }

    fn read_input(&mut self, block: u32, input: String, out: &mut Out) -> Result<(), BackendError> {
        self.go_on(out)?;
        let Some(at) = self.calls.iter().rposition(|call| call.block == block) else {
            return Err(BackendError::Garbled("a call goes on that never began"));
        };
        if input.is_empty() {
            return Ok(());
        }
        self.calls[at].has_input = true;
        out.push_back(Ok(arguments_event(at, input)));
        Ok(())
    }

    /// A call without input has none, which is an object too.
    fn read_block_stop(&mut self, body: &BlockStopBody, out: &mut Out) -> Result<(), BackendError> {
        let mut calls = self.calls.iter();
        let Some(at) = calls.rposition(|call| call.block == body.content_block_index) else {
            return Ok(());
        };
        if !std::mem::replace(&mut self.calls[at].has_input, true) {
            self.go_on(out)?;
            out.push_back(Ok(arguments_event(at, "{}".into())));
        }
        Ok(())
    }

    /// The body's end: clean only after the message's.
    fn end(&mut self, out: &mut Out) {
        if !self.has_ended {
            self.fail(BackendError::Interrupted, out);
            return;
        }
        out.extend(self.usage.take().map(|usage| Ok(ChatEvent::Usage(usage))));
        self.is_over = true;
    }

    fn fail(&mut self, error: BackendError, out: &mut Out) {
        out.push_back(Err(error));
        self.is_over = true;
    }
}

fn arguments_event(at: usize, arguments: String) -> ChatEvent {
    ChatEvent::ToolCall {
        choice: 0,
        index: u32::try_from(at).unwrap_or(u32::MAX),
        part: ToolCallPart {
            id: None,
            name: None,
            arguments,
            seal: None,
        },
    }
}
