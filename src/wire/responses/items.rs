//! A reply's output items, as they grow.

use domain::{
    ChatEvent, FinishReason, Reply, Seal, TokenLogprobs, ToolCallPart, Usage, replay_events,
};
use serde_json::{Value, json};

use super::event_sink::{Delta, EventSink};
use super::opaque_seal::opaque;
use crate::openai::logprobs_of;

/// Text, thoughts and arguments of one reply, because the dialect repeats them when they end. Beyond
/// every honest reply: what comes after is not told, and the response is incomplete.
const REPLY_BYTES_MAX: usize = 16 << 20;
/// What an item counts besides its text.
const ITEM_BYTES: usize = 256;

/// How thoughts are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ThoughtForm {
    /// As the reasoning itself, where nobody asked for a summary.
    Content,
    /// As a summary of one part, which `reasoning.summary` asks for.
    Summary,
}

/// Items of one reply. Reasoning and text end when something else begins; calls stay open to the end,
/// because providers may write several at once.
#[derive(Debug)]
pub(super) struct Items {
    /// The response's id without `resp_`: what its items' ids are made of.
    stem: String,
    form: ThoughtForm,
    items: Vec<Item>,
    reason: Option<FinishReason>,
    usage: Option<Usage>,
    /// Log probabilities that wait for their text.
    logprobs: Vec<TokenLogprobs>,
    bytes: usize,
}

#[derive(Debug)]
struct Item {
    id: String,
    body: Body,
    is_done: bool,
}

#[derive(Debug)]
enum Body {
    Thought {
        text: String,
        seal: Option<Seal>,
    },
    Text {
        text: String,
        logprobs: Vec<TokenLogprobs>,
    },
    Call {
        index: u32,
        id: String,
        name: String,
        arguments: String,
        seal: Option<Seal>,
    },
}

impl Body {
    fn prefix(&self) -> &'static str {
        match self {
            Body::Thought { .. } => "rs",
            Body::Text { .. } => "msg",
            Body::Call { .. } => "fc",
        }
    }
}

impl Items {
    pub fn new(response_id: &str, form: ThoughtForm) -> Self {
        let stem = response_id.strip_prefix("resp_").unwrap_or(response_id);
        Self {
            stem: stem.to_owned(),
            form,
            items: Vec::new(),
            reason: None,
            usage: None,
            logprobs: Vec::new(),
            bytes: 0,
        }
    }

    /// The items of a whole reply's first choice.
    pub fn of(response_id: &str, form: ThoughtForm, reply: &Reply) -> Self {
        let mut items = Self::new(response_id, form);
        let mut unheard = EventSink::Unheard;
        for event in replay_events(reply) {
            items.take(&event, &mut unheard);
        }
        items.end(&mut unheard);
        items
    }

    pub fn usage(&self) -> Option<&Usage> {
        self.usage.as_ref()
    }

    /// `incomplete_details`, where the reply was cut.
    pub fn cut_by(&self) -> Option<&'static str> {
        if self.bytes > REPLY_BYTES_MAX {
            return Some("max_output_tokens");
        }
        match self.reason? {
            FinishReason::Length => Some("max_output_tokens"),
            FinishReason::ContentFilter => Some("content_filter"),
            FinishReason::Stop | FinishReason::ToolCalls => None,
        }
    }

    /// The first choice's events; the dialect has no others.
    pub fn take(&mut self, event: &ChatEvent, sink: &mut EventSink<'_>) {
        match event {
            ChatEvent::Text { choice: 0, text } => self.text(text, sink),
            ChatEvent::Thought { choice: 0, text } => self.thought(text, sink),
            ChatEvent::Seal { choice: 0, seal } => self.seal(seal, sink),
            ChatEvent::ToolCall {
                choice: 0,
                index,
                part,
            } => self.call(*index, part, sink),
            ChatEvent::Logprobs { choice: 0, tokens } => {
                let bytes = tokens.iter().map(TokenLogprobs::bytes).sum();
                if self.has_room_for(bytes) {
                    self.logprobs.extend_from_slice(tokens);
                }
            }
            ChatEvent::ChoiceEnded { choice: 0, reason } => self.reason = Some(*reason),
            ChatEvent::Usage(usage) => self.usage = Some(*usage),
            ChatEvent::Started(_)
            | ChatEvent::Written(_)
            | ChatEvent::StopString { .. }
            | ChatEvent::Text { .. }
            | ChatEvent::Thought { .. }
            | ChatEvent::Seal { .. }
            | ChatEvent::ToolCall { .. }
            | ChatEvent::Logprobs { .. }
            | ChatEvent::ChoiceEnded { .. } => {}
        }
    }

    /// Ends what is open.
    pub fn end(&mut self, sink: &mut EventSink<'_>) {
        for at in 0..self.items.len() {
            self.close(at, sink);
        }
    }

    /// All of them, as they are.
    pub fn output(&self) -> impl Iterator<Item = (&str, Value)> {
        let items = self.items.iter().enumerate();
        items.map(|(at, item)| (item.id.as_str(), self.item(at)))
    }

    /// Counts what is to be held; false when that is too much.
    fn has_room_for(&mut self, bytes: usize) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        self.bytes <= REPLY_BYTES_MAX
    }

    fn text(&mut self, text: &str, sink: &mut EventSink<'_>) {
        if !self.has_room_for(text.len()) {
            return;
        }
        let at = match self.items.last() {
            Some(Item {
                body: Body::Text { .. },
                is_done: false,
                ..
            }) => self.items.len() - 1,
            _ => {
                let empty = Body::Text {
                    text: String::new(),
                    logprobs: Vec::new(),
                };
                let at = self.open(empty, sink);
                sink.event("content_part.added", || {
                    self.place(at, "part", text_part("", &[]))
                });
                at
            }
        };
        let weighed = std::mem::take(&mut self.logprobs);
        let item = &mut self.items[at];
        sink.delta(&Delta {
            kind: "output_text.delta",
            item_id: &item.id,
            output_index: at,
            part: Some("content_index"),
            text,
            logprobs: Some(&weighed),
        });
        if let Body::Text {
            text: all,
            logprobs,
        } = &mut item.body
        {
            all.push_str(text);
            logprobs.extend(weighed);
        }
    }

    fn thought(&mut self, text: &str, sink: &mut EventSink<'_>) {
        if !self.has_room_for(text.len()) {
            return;
        }
        let at = match self.items.last() {
            Some(Item {
                body: Body::Thought { seal: None, .. },
                is_done: false,
                ..
            }) => self.items.len() - 1,
            _ => {
                let empty = Body::Thought {
                    text: String::new(),
                    seal: None,
                };
                let at = self.open(empty, sink);
                match self.form {
                    ThoughtForm::Content => sink.event("content_part.added", || {
                        self.place(at, "part", thought_part(self.form, ""))
                    }),
                    ThoughtForm::Summary => sink.event("reasoning_summary_part.added", || {
                        self.summary_place(at, "part", thought_part(self.form, ""))
                    }),
                }
                at
            }
        };
        let (kind, part) = match self.form {
            ThoughtForm::Content => ("reasoning_text.delta", "content_index"),
            ThoughtForm::Summary => ("reasoning_summary_text.delta", "summary_index"),
        };
        let item = &mut self.items[at];
        sink.delta(&Delta {
            kind,
            item_id: &item.id,
            output_index: at,
            part: Some(part),
            text,
            logprobs: None,
        });
        if let Body::Thought { text: all, .. } = &mut item.body {
            all.push_str(text);
        }
    }

    /// Of the thought before it, or an item of its own.
    fn seal(&mut self, seal: &Seal, sink: &mut EventSink<'_>) {
        if !self.has_room_for(seal.data.len()) {
            return;
        }
        if let Some(Item {
            body: Body::Thought {
                seal: open @ None, ..
            },
            is_done: false,
            ..
        }) = self.items.last_mut()
        {
            *open = Some(seal.clone());
            return;
        }
        let hidden = Body::Thought {
            text: String::new(),
            seal: Some(seal.clone()),
        };
        self.open(hidden, sink);
    }

    fn call(&mut self, index: u32, part: &ToolCallPart, sink: &mut EventSink<'_>) {
        let seal_bytes = part.seal.as_ref().map_or(0, |seal| seal.data.len());
        if !self.has_room_for(part.arguments.len() + seal_bytes) {
            return;
        }
        let known = self.items.iter().position(
            |item| matches!(&item.body, Body::Call { index: known, .. } if *known == index),
        );
        let at = known.unwrap_or_else(|| {
            let call = Body::Call {
                index,
                id: part.id.clone().unwrap_or_default(),
                name: part.name.clone().unwrap_or_default(),
                arguments: String::new(),
                seal: None,
            };
            self.open(call, sink)
        });
        let item = &mut self.items[at];
        if let Body::Call {
            arguments, seal, ..
        } = &mut item.body
        {
            arguments.push_str(&part.arguments);
            if part.seal.is_some() {
                seal.clone_from(&part.seal);
            }
        }
        if !part.arguments.is_empty() {
            sink.delta(&Delta {
                kind: "function_call_arguments.delta",
                item_id: &item.id,
                output_index: at,
                part: None,
                text: &part.arguments,
                logprobs: None,
            });
        }
    }

    fn open(&mut self, body: Body, sink: &mut EventSink<'_>) -> usize {
        let is_call = |item: &Item| matches!(item.body, Body::Call { .. });
        if self.items.last().is_some_and(|last| !is_call(last)) {
            self.close(self.items.len() - 1, sink);
        }
        self.bytes = self.bytes.saturating_add(ITEM_BYTES);
        let at = self.items.len();
        self.items.push(Item {
            id: format!("{}_{}{at:02x}", body.prefix(), self.stem),
            body,
            is_done: false,
        });
        sink.event(
            "output_item.added",
            || json!({"output_index": at, "item": self.begun(at)}),
        );
        at
    }

    fn close(&mut self, at: usize, sink: &mut EventSink<'_>) {
        if std::mem::replace(&mut self.items[at].is_done, true) {
            return;
        }
        match &self.items[at].body {
            Body::Text { text, logprobs } => {
                sink.event("output_text.done", || {
                    let mut done = self.place(at, "text", text.as_str().into());
                    done["logprobs"] = logprobs_of(logprobs);
                    done
                });
                sink.event("content_part.done", || {
                    self.place(at, "part", text_part(text, logprobs))
                });
            }
            Body::Thought { text, .. } if text.is_empty() => {}
            Body::Thought { text, .. } => {
                let part = || thought_part(self.form, text);
                match self.form {
                    ThoughtForm::Content => {
                        sink.event("reasoning_text.done", || {
                            self.place(at, "text", text.as_str().into())
                        });
                        sink.event("content_part.done", || self.place(at, "part", part()));
                    }
                    ThoughtForm::Summary => {
                        sink.event("reasoning_summary_text.done", || {
                            self.summary_place(at, "text", text.as_str().into())
                        });
                        sink.event("reasoning_summary_part.done", || {
                            self.summary_place(at, "part", part())
                        });
                    }
                }
            }
            Body::Call {
                name, arguments, ..
            } => sink.event("function_call_arguments.done", || {
                json!({
                    "item_id": self.items[at].id, "output_index": at,
                    "name": name, "arguments": arguments,
                })
            }),
        }
        sink.event(
            "output_item.done",
            || json!({"output_index": at, "item": self.item(at)}),
        );
    }

    /// `value` as the field `name` of an item's only content part.
    fn place(&self, at: usize, name: &str, value: Value) -> Value {
        let id = &self.items[at].id;
        let mut place = json!({"item_id": id, "output_index": at, "content_index": 0});
        place[name] = value;
        place
    }

    /// The same, of its only summary part.
    fn summary_place(&self, at: usize, name: &str, value: Value) -> Value {
        let id = &self.items[at].id;
        let mut place = json!({"item_id": id, "output_index": at, "summary_index": 0});
        place[name] = value;
        place
    }

    /// An item as it is when it is added.
    fn begun(&self, at: usize) -> Value {
        let Item { id, body, .. } = &self.items[at];
        match body {
            Body::Thought { .. } => {
                json!({"id": id, "type": "reasoning", "status": "in_progress", "summary": []})
            }
            Body::Text { .. } => json!({
                "id": id, "type": "message", "status": "in_progress", "role": "assistant",
                "content": [],
            }),
            Body::Call { id: call, name, .. } => json!({
                "id": id, "type": "function_call", "status": "in_progress", "call_id": call,
                "name": name, "arguments": "",
            }),
        }
    }

    fn item(&self, at: usize) -> Value {
        let Item { id, body, is_done } = &self.items[at];
        // Of a cut reply the last item is what was cut.
        let is_cut = self.cut_by().is_some() && at + 1 == self.items.len();
        let is_whole = *is_done && !is_cut;
        let status = if is_whole { "completed" } else { "incomplete" };
        match body {
            Body::Thought { text, seal } => {
                let mut item = json!({
                    "id": id, "type": "reasoning", "status": status, "summary": [],
                });
                if !text.is_empty() {
                    let place = match self.form {
                        ThoughtForm::Content => "content",
                        ThoughtForm::Summary => "summary",
                    };
                    item[place] = json!([thought_part(self.form, text)]);
                }
                add_seal(&mut item, seal.as_ref());
                item
            }
            Body::Text { text, logprobs } => json!({
                "id": id, "type": "message", "status": status, "role": "assistant",
                "content": [text_part(text, logprobs)],
            }),
            Body::Call {
                id: call,
                name,
                arguments,
                seal,
                ..
            } => {
                let mut item = json!({
                    "id": id, "type": "function_call", "status": status, "call_id": call,
                    "name": name, "arguments": arguments,
                });
                add_seal(&mut item, seal.as_ref());
                item
            }
        }
    }
}

/// OpenAI has it on reasoning alone; calls of makers that seal those have it here too.
fn add_seal(item: &mut Value, seal: Option<&Seal>) {
    if let Some(seal) = seal {
        item["encrypted_content"] = opaque(seal).into();
    }
}

fn text_part(text: &str, logprobs: &[TokenLogprobs]) -> Value {
    json!({
        "type": "output_text", "text": text, "annotations": [],
        "logprobs": logprobs_of(logprobs),
    })
}

fn thought_part(form: ThoughtForm, text: &str) -> Value {
    let kind = match form {
        ThoughtForm::Content => "reasoning_text",
        ThoughtForm::Summary => "summary_text",
    };
    json!({"type": kind, "text": text})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> ChatEvent {
        ChatEvent::Text {
            choice: 0,
            text: text.into(),
        }
    }

    #[test]
    fn a_reply_beyond_the_bound_is_incomplete_and_held_no_further() {
        let mut items = Items::new("resp_1", ThoughtForm::Content);
        let mut sink = EventSink::Unheard;
        let mebibyte = text(&"x".repeat(1 << 20));
        for _ in 0..64 {
            items.take(&mebibyte, &mut sink);
        }
        items.end(&mut sink);
        assert_eq!(items.cut_by(), Some("max_output_tokens"));
        let (_, item) = items.output().next().unwrap();
        let said = item["content"][0]["text"].as_str().unwrap();
        assert_eq!(said.len(), (REPLY_BYTES_MAX - ITEM_BYTES) >> 20 << 20);
        assert_eq!(item["status"], "incomplete");
    }

    #[test]
    fn endless_turns_of_kind_are_bounded_too() {
        let mut items = Items::new("resp_1", ThoughtForm::Content);
        let mut sink = EventSink::Unheard;
        for at in 0..200_000 {
            let event = match at % 2 {
                0 => text("a"),
                _ => ChatEvent::Thought {
                    choice: 0,
                    text: "b".into(),
                },
            };
            items.take(&event, &mut sink);
        }
        assert!(items.items.len() <= REPLY_BYTES_MAX / ITEM_BYTES + 1);
        assert!(items.cut_by().is_some());
    }
}
