//! A reply's output items, as they grow.

use domain::{ChatEvent, FinishReason, Reply, Seal, TokenLogprobs, Usage, replay_events};
use serde_json::{Value, json};

use super::decode_items::opaque;
use crate::openai::logprobs_of;

/// Something that happened to the items: its name without `response.`, and what its event holds
/// beside the sequence number.
pub(super) type Tell<'a> = dyn FnMut(&'static str, Value) + 'a;

/// Items of one reply. Reasoning and text end when something else begins; calls stay open to the end,
/// because providers may write several at once.
#[derive(Debug)]
pub(super) struct Items {
    /// The response's id without `resp_`: what its items' ids are made of.
    stem: String,
    items: Vec<Item>,
    reason: Option<FinishReason>,
    usage: Option<Usage>,
    /// Log probabilities that wait for their text.
    logprobs: Vec<TokenLogprobs>,
}

#[derive(Debug)]
struct Item {
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
    },
}

impl Items {
    pub fn new(response_id: &str) -> Self {
        let stem = response_id.strip_prefix("resp_").unwrap_or(response_id);
        Self {
            stem: stem.to_owned(),
            items: Vec::new(),
            reason: None,
            usage: None,
            logprobs: Vec::new(),
        }
    }

    /// The items of a whole reply's first choice.
    pub fn of(response_id: &str, reply: &Reply) -> Self {
        let mut items = Self::new(response_id);
        for event in replay_events(reply) {
            items.take(&event, &mut |_, _| {});
        }
        items.end(&mut |_, _| {});
        items
    }

    pub fn usage(&self) -> Option<&Usage> {
        self.usage.as_ref()
    }

    /// `incomplete_details`, where the reply was cut.
    pub fn cut_by(&self) -> Option<&'static str> {
        match self.reason? {
            FinishReason::Length => Some("max_output_tokens"),
            FinishReason::ContentFilter => Some("content_filter"),
            FinishReason::Stop | FinishReason::ToolCalls => None,
        }
    }

    /// The first choice's events; the dialect has no others.
    pub fn take(&mut self, event: &ChatEvent, tell: &mut Tell<'_>) {
        match event {
            ChatEvent::Text { choice: 0, text } => self.text(text, tell),
            ChatEvent::Thought { choice: 0, text } => self.thought(text, tell),
            ChatEvent::Seal { choice: 0, seal } => self.seal(seal, tell),
            ChatEvent::ToolCall {
                choice: 0,
                index,
                part,
            } => {
                let (id, name) = (part.id.as_deref(), part.name.as_deref());
                self.call(*index, id, name, &part.arguments, tell);
            }
            ChatEvent::Logprobs { choice: 0, tokens } => self.logprobs.extend_from_slice(tokens),
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
    pub fn end(&mut self, tell: &mut Tell<'_>) {
        for at in 0..self.items.len() {
            self.close(at, tell);
        }
    }

    fn text(&mut self, text: &str, tell: &mut Tell<'_>) {
        let at = match self.items.last() {
            Some(Item {
                body: Body::Text { .. },
                is_done: false,
            }) => self.items.len() - 1,
            _ => {
                let empty = Body::Text {
                    text: String::new(),
                    logprobs: Vec::new(),
                };
                let at = self.open(empty, tell);
                let part =
                    json!({"type": "output_text", "text": "", "annotations": [], "logprobs": []});
                tell("content_part.added", self.place(at, "part", part));
                at
            }
        };
        let weighed = std::mem::take(&mut self.logprobs);
        let mut delta = self.place(at, "delta", text.into());
        delta["logprobs"] = logprobs_of(&weighed);
        if let Body::Text {
            text: all,
            logprobs,
        } = &mut self.items[at].body
        {
            all.push_str(text);
            logprobs.extend(weighed);
        }
        tell("output_text.delta", delta);
    }

    fn thought(&mut self, text: &str, tell: &mut Tell<'_>) {
        let at = match self.items.last() {
            Some(Item {
                body: Body::Thought { seal: None, .. },
                is_done: false,
            }) => self.items.len() - 1,
            _ => {
                let empty = Body::Thought {
                    text: String::new(),
                    seal: None,
                };
                let at = self.open(empty, tell);
                let part = json!({"type": "reasoning_text", "text": ""});
                tell("content_part.added", self.place(at, "part", part));
                at
            }
        };
        if let Body::Thought { text: all, .. } = &mut self.items[at].body {
            all.push_str(text);
        }
        tell("reasoning_text.delta", self.place(at, "delta", text.into()));
    }

    /// Of the thought before it, or an item of its own.
    fn seal(&mut self, seal: &Seal, tell: &mut Tell<'_>) {
        if let Some(Item {
            body: Body::Thought {
                seal: open @ None, ..
            },
            is_done: false,
        }) = self.items.last_mut()
        {
            *open = Some(seal.clone());
            return;
        }
        let hidden = Body::Thought {
            text: String::new(),
            seal: Some(seal.clone()),
        };
        self.open(hidden, tell);
    }

    fn call(
        &mut self,
        index: u32,
        id: Option<&str>,
        name: Option<&str>,
        more: &str,
        tell: &mut Tell<'_>,
    ) {
        let known = self.items.iter().position(
            |item| matches!(&item.body, Body::Call { index: known, .. } if *known == index),
        );
        let at = known.unwrap_or_else(|| {
            let call = Body::Call {
                index,
                id: id.unwrap_or_default().to_owned(),
                name: name.unwrap_or_default().to_owned(),
                arguments: String::new(),
            };
            self.open(call, tell)
        });
        if more.is_empty() {
            return;
        }
        if let Body::Call { arguments, .. } = &mut self.items[at].body {
            arguments.push_str(more);
        }
        let delta = json!({"item_id": self.id(at), "output_index": at, "delta": more});
        tell("function_call_arguments.delta", delta);
    }

    fn open(&mut self, body: Body, tell: &mut Tell<'_>) -> usize {
        let is_call = |item: &Item| matches!(item.body, Body::Call { .. });
        if let Some(last) = self.items.last().filter(|last| !is_call(last))
            && !last.is_done
        {
            self.close(self.items.len() - 1, tell);
        }
        self.items.push(Item {
            body,
            is_done: false,
        });
        let at = self.items.len() - 1;
        tell(
            "output_item.added",
            json!({"output_index": at, "item": self.begun(at)}),
        );
        at
    }

    fn close(&mut self, at: usize, tell: &mut Tell<'_>) {
        if std::mem::replace(&mut self.items[at].is_done, true) {
            return;
        }
        match &self.items[at].body {
            Body::Text { text, logprobs } => {
                let part = text_part(text, logprobs);
                let mut done = self.place(at, "text", text.as_str().into());
                done["logprobs"] = logprobs_of(logprobs);
                tell("output_text.done", done);
                tell("content_part.done", self.place(at, "part", part));
            }
            Body::Thought { text, .. } if !text.is_empty() => {
                let part = json!({"type": "reasoning_text", "text": text});
                tell(
                    "reasoning_text.done",
                    self.place(at, "text", text.as_str().into()),
                );
                tell("content_part.done", self.place(at, "part", part));
            }
            Body::Thought { .. } => {}
            Body::Call {
                name, arguments, ..
            } => {
                let done = json!({
                    "item_id": self.id(at), "output_index": at,
                    "name": name, "arguments": arguments,
                });
                tell("function_call_arguments.done", done);
            }
        }
        tell(
            "output_item.done",
            json!({"output_index": at, "item": self.item(at)}),
        );
    }

    fn id(&self, at: usize) -> String {
        let prefix = match self.items[at].body {
            Body::Thought { .. } => "rs",
            Body::Text { .. } => "msg",
            Body::Call { .. } => "fc",
        };
        format!("{prefix}_{}{at:02x}", self.stem)
    }

    /// `value` as the field `name` of an item's only content part.
    fn place(&self, at: usize, name: &str, value: Value) -> Value {
        let mut place = json!({"item_id": self.id(at), "output_index": at, "content_index": 0});
        place[name] = value;
        place
    }

    /// An item as it is when it is added.
    fn begun(&self, at: usize) -> Value {
        let id = self.id(at);
        match &self.items[at].body {
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
        let id = self.id(at);
        // Of a cut reply the last item is what was cut.
        let is_cut = self.cut_by().is_some() && at + 1 == self.items.len();
        let is_whole = self.items[at].is_done && !is_cut;
        let status = if is_whole { "completed" } else { "incomplete" };
        match &self.items[at].body {
            Body::Thought { text, seal } => {
                let mut item = json!({
                    "id": id, "type": "reasoning", "status": status, "summary": [],
                });
                if !text.is_empty() {
                    item["content"] = json!([{"type": "reasoning_text", "text": text}]);
                }
                if let Some(seal) = seal {
                    item["encrypted_content"] = opaque(seal).into();
                }
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
                ..
            } => json!({
                "id": id, "type": "function_call", "status": status, "call_id": call,
                "name": name, "arguments": arguments,
            }),
        }
    }

    /// All of them, as they are.
    pub fn output(&self) -> Vec<Value> {
        (0..self.items.len()).map(|at| self.item(at)).collect()
    }
}

fn text_part(text: &str, logprobs: &[TokenLogprobs]) -> Value {
    json!({
        "type": "output_text", "text": text, "annotations": [],
        "logprobs": logprobs_of(logprobs),
    })
}
