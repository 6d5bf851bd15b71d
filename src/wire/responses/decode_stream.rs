//! Decodes a streamed reply, as a client.

use domain::{BackendError, ChatEvent, Started, ToolCallPart};
use serde_json::Value;

use super::shape::{
    BETWEEN_PARTS, ITEMS_MAX, TOOL_CALLS_MAX, call, failure, filled, hidden, reason, texts,
    thoughts, usage,
};
use crate::SseEvent;
use crate::openai::token_logprobs_of;
use crate::sse_reading::{EventReader, Out, SseReading};

/// Turns a stream's bytes, cut anywhere, into events that obey [`domain::Grammar`].
pub(super) type Decoder = SseReading<Reader>;

#[derive(Debug, Default)]
pub(super) struct Reader {
    has_started: bool,
    /// By `output_index`: the call's index among the calls.
    calls: Vec<(u64, u32)>,
    /// By `output_index`: items that have said something as they came.
    told: Vec<u64>,
    items_count: usize,
    is_over: bool,
}

impl EventReader for Reader {
    fn take(&mut self, event: SseEvent<'_>, out: &mut Out) {
        let data = event.data.trim_ascii();
        if self.is_over || data.is_empty() || data == b"[DONE]" {
            return;
        }
        if let Err(error) = self.read(data, out) {
            self.fail(error, out);
        }
    }

    fn end(&mut self, out: &mut Out) {
        self.fail(BackendError::Interrupted, out);
    }

    fn fail(&mut self, error: BackendError, out: &mut Out) {
        self.is_over = true;
        out.push_back(Err(error));
    }

    fn is_over(&self) -> bool {
        self.is_over
    }
}

impl Reader {
    fn read(&mut self, data: &[u8], out: &mut Out) -> Result<(), BackendError> {
        let body: Value = serde_json::from_slice(data)
            .map_err(|_| BackendError::Garbled("an event of the stream is malformed"))?;
        let kind = body["type"].as_str().unwrap_or_default();
        if kind == "error" || !body["error"].is_null() {
            let error = if body["error"].is_null() {
                &body
            } else {
                &body["error"]
            };
            return Err(failure(error));
        }
        let kind = kind.strip_prefix("response.").unwrap_or_default();
        if matches!(kind, "created" | "in_progress" | "queued") {
            self.start(&body["response"], out);
            return Ok(());
        }
        if matches!(kind, "completed" | "incomplete" | "failed" | "cancelled") {
            return self.complete(&body["response"], out);
        }
        let at = body["output_index"].as_u64().unwrap_or(0);
        match kind {
            "output_item.added" => {
                self.start(&Value::Null, out);
                self.items_count += 1;
                if self.items_count > ITEMS_MAX {
                    return Err(BackendError::Garbled("the response has too many items"));
                }
                self.begin_item(at, &body["item"], out)
            }
            "output_text.delta" | "refusal.delta" => {
                self.start(&Value::Null, out);
                let tokens = token_logprobs_of(&body["logprobs"]);
                if !tokens.is_empty() {
                    out.push_back(Ok(ChatEvent::Logprobs { choice: 0, tokens }));
                }
                if let Some(text) = filled(&body["delta"]) {
                    self.note_told(at)?;
                    out.push_back(Ok(ChatEvent::Text { choice: 0, text }));
                }
                Ok(())
            }
            "reasoning_text.delta" | "reasoning_summary_text.delta" => {
                self.start(&Value::Null, out);
                if let Some(text) = filled(&body["delta"]) {
                    self.note_told(at)?;
                    out.push_back(Ok(ChatEvent::Thought { choice: 0, text }));
                }
                Ok(())
            }
            "reasoning_summary_part.added" => {
                if self.told.contains(&at) {
                    let text = BETWEEN_PARTS.to_owned();
                    out.push_back(Ok(ChatEvent::Thought { choice: 0, text }));
                }
                Ok(())
            }
            "function_call_arguments.delta" => {
                let delta = body["delta"].as_str().unwrap_or_default();
                self.argue(at, delta, out)
            }
            "output_item.done" => self.end_item(at, &body["item"], out),
            _ => Ok(()),
        }
    }

    fn start(&mut self, response: &Value, out: &mut Out) {
        if std::mem::replace(&mut self.has_started, true) {
            return;
        }
        out.push_back(Ok(ChatEvent::Started(Started {
            model: filled(&response["model"]).unwrap_or_default(),
            reply_id: filled(&response["id"]),
            fingerprint: None,
        })));
    }

    fn begin_item(&mut self, at: u64, item: &Value, out: &mut Out) -> Result<(), BackendError> {
        if item["type"] != "function_call" {
            return Ok(());
        }
        let call = call(item)?;
        let index = u32::try_from(self.calls.len()).unwrap_or(u32::MAX);
        if index >= TOOL_CALLS_MAX {
            return Err(BackendError::Garbled("the response has too many calls"));
        }
        if self.call(at).is_some() {
            return Err(BackendError::Garbled("two items have one index"));
        }
        self.calls.push((at, index));
        out.push_back(Ok(ChatEvent::ToolCall {
            choice: 0,
            index,
            part: ToolCallPart {
                id: Some(call.id),
                name: Some(call.name),
                arguments: String::new(),
                seal: None,
            },
        }));
        Ok(())
    }

    fn call(&self, at: u64) -> Option<u32> {
        let call = self.calls.iter().find(|(known, _)| *known == at);
        call.map(|(_, index)| *index)
    }

    fn note_told(&mut self, at: u64) -> Result<(), BackendError> {
        if self.told.last() == Some(&at) || self.told.contains(&at) {
            return Ok(());
        }
        if self.told.len() >= ITEMS_MAX {
            return Err(BackendError::Garbled("the response has too many items"));
        }
        self.told.push(at);
        Ok(())
    }

    fn argue(&mut self, at: u64, delta: &str, out: &mut Out) -> Result<(), BackendError> {
        let Some(index) = self.call(at) else {
            return Err(BackendError::Garbled("arguments came for no call"));
        };
        if delta.is_empty() {
            return Ok(());
        }
        self.note_told(at)?;
        out.push_back(Ok(ChatEvent::ToolCall {
            choice: 0,
            index,
            part: ToolCallPart {
                id: None,
                name: None,
                arguments: delta.to_owned(),
                seal: None,
            },
        }));
        Ok(())
    }

    /// What was not told as it came.
    fn end_item(&mut self, at: u64, item: &Value, out: &mut Out) -> Result<(), BackendError> {
        match item["type"].as_str() {
            Some("function_call") => {
                if self.call(at).is_none() {
                    self.start(&Value::Null, out);
                    self.begin_item(at, item, out)?;
                }
                if !self.told.contains(&at) {
                    self.argue(at, item["arguments"].as_str().unwrap_or_default(), out)?;
                }
                if let (Some(index), Some(seal)) = (self.call(at), hidden(item)) {
                    out.push_back(Ok(ChatEvent::ToolCall {
                        choice: 0,
                        index,
                        part: ToolCallPart {
                            id: None,
                            name: None,
                            arguments: String::new(),
                            seal: Some(seal),
                        },
                    }));
                }
            }
            Some("message") => {
                self.start(&Value::Null, out);
                if !self.told.contains(&at) {
                    let text: String = texts(&item["content"]).collect();
                    if !text.is_empty() {
                        out.push_back(Ok(ChatEvent::Text { choice: 0, text }));
                    }
                }
            }
            Some("reasoning") => {
                self.start(&Value::Null, out);
                if !self.told.contains(&at) {
                    let thoughts = thoughts(item);
                    out.extend(thoughts.map(|text| Ok(ChatEvent::Thought { choice: 0, text })));
                }
                if let Some(seal) = hidden(item) {
                    out.push_back(Ok(ChatEvent::Seal { choice: 0, seal }));
                }
            }
            Some(_) | None => {}
        }
        Ok(())
    }

    fn complete(&mut self, response: &Value, out: &mut Out) -> Result<(), BackendError> {
        let reason = reason(response, !self.calls.is_empty())?;
        self.start(response, out);
        self.is_over = true;
        out.push_back(Ok(ChatEvent::ChoiceEnded { choice: 0, reason }));
        out.extend(usage(response).map(|usage| Ok(ChatEvent::Usage(usage))));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
