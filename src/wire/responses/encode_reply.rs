//! Encodes a reply, as a server: the whole response object, or its stream of events.

use bytes::BytesMut;
use domain::{ChatEvent, Reply, StoredItem, StoredResponse, TeamShelf, UserId};
use serde_json::{Map, Value, json};

use super::event_sink::EventSink;
use super::items::{Items, ThoughtForm};
use super::listed_item::listed;
use crate::ReplyEncoder;
use crate::fields::Fields;
use crate::openai::{ErrorBody, Framing};

/// What of a request its response repeats.
#[derive(Clone, Debug)]
pub(super) struct Echo {
    fields: Map<String, Value>,
    pub previous: Option<String>,
}

/// Fields that are repeated as they came.
const REPEATED: [&str; 16] = [
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "reasoning",
    "safety_identifier",
    "service_tier",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "truncation",
    "user",
];

/// What stands for a field that was left out; `None` where nothing does.
fn absent(name: &str) -> Option<Value> {
    match name {
        "metadata" => Some(json!({})),
        "parallel_tool_calls" => Some(json!(true)),
        "reasoning" => Some(json!({"effort": null, "summary": null})),
        "service_tier" => Some(json!("default")),
        "temperature" | "top_p" => Some(json!(1.0)),
        "text" => Some(json!({"format": {"type": "text"}})),
        "tool_choice" => Some(json!("auto")),
        "tools" => Some(json!([])),
        "top_logprobs" => Some(json!(0)),
        "truncation" => Some(json!("disabled")),
        // The one that OpenAI's document does not let be null.
        "user" => None,
        _ => Some(Value::Null),
    }
}

impl Echo {
    /// Before `fields` are taken out.
    pub fn new(fields: &Fields<'_>, instructions: Option<String>) -> Self {
        let mut repeated = Map::new();
        repeated.insert("instructions".into(), instructions.into());
        for name in REPEATED {
            let given = fields.peek(name).filter(|value| !value.is_null());
            let value = given.cloned().or_else(|| absent(name));
            repeated.extend(value.map(|value| (name.to_owned(), value)));
        }
        if let Some(Value::Object(text)) = repeated.get_mut("text") {
            text.entry("format")
                .or_insert_with(|| json!({"type": "text"}));
        }
        if let Some(Value::Array(tools)) = repeated.get_mut("tools") {
            for tool in tools.iter_mut().filter_map(Value::as_object_mut) {
                tool.entry("strict").or_insert(Value::Null);
                tool.entry("parameters").or_insert(Value::Null);
            }
        }
        Self {
            fields: repeated,
            previous: None,
        }
    }

    /// For whom it is, as [`crate::user_of`] reads it.
    fn user(&self) -> UserId {
        let names = ["safety_identifier", "user"].into_iter();
        let mut given = names.filter_map(|name| self.fields.get(name)?.as_str());
        UserId::new(given.next().unwrap_or_default())
    }

    fn thought_form(&self) -> ThoughtForm {
        let reasoning = self.fields.get("reasoning");
        let asks = |name: &str| {
            let word = reasoning.and_then(|reasoning| reasoning.get(name));
            word.is_some_and(Value::is_string)
        };
        if asks("summary") || asks("generate_summary") {
            ThoughtForm::Summary
        } else {
            ThoughtForm::Content
        }
    }
}

/// Writes one response.
pub struct Encoder {
    echo: Echo,
    framing: Framing,
    items: Items,
    /// Of the next event.
    number: u64,
    stores: bool,
    /// Where it is to be kept, with what was asked. Taken where the response ends, in whatever way.
    keeper: Option<(TeamShelf, Vec<Value>)>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Encoder({})", self.framing.id)
    }
}

impl Encoder {
    /// The response is kept when the reply comes to its end, or to an early one after its caller
    /// learned of its id.
    pub(super) fn new(echo: Echo, model: &str, keeper: Option<(TeamShelf, Vec<Value>)>) -> Self {
        Self {
            items: Items::new("", echo.thought_form()),
            echo,
            framing: Framing {
                id: String::new(),
                created: 0,
                model: model.to_owned(),
                includes_usage: true,
            },
            number: 0,
            stores: keeper.is_some(),
            keeper,
        }
    }

    /// The response object without its output.
    fn head(&self, status: &str, error: Value) -> Map<String, Value> {
        let Framing {
            id, created, model, ..
        } = &self.framing;
        let mut head = Map::new();
        head.insert("id".into(), id.as_str().into());
        head.insert("object".into(), "response".into());
        head.insert("created_at".into(), (*created).into());
        head.insert("status".into(), status.into());
        head.insert("background".into(), false.into());
        head.insert("error".into(), error);
        let cut_by = self.items.cut_by().filter(|_| status == "incomplete");
        let details = cut_by.map(|reason| json!({ "reason": reason }));
        head.insert("incomplete_details".into(), details.into());
        head.insert("model".into(), model.as_str().into());
        let previous = self.echo.previous.as_deref();
        head.insert("previous_response_id".into(), previous.into());
        head.insert("store".into(), self.stores.into());
        head.extend(self.echo.fields.clone());
        let usage = self.items.usage().map(|usage| {
            json!({
                "input_tokens": usage.prompt_tokens.0,
                "input_tokens_details": {
                    "cached_tokens": usage.cached_tokens.0,
                    "cache_write_tokens": usage.cache_write_tokens.0,
                },
                "output_tokens": usage.completion_tokens.0,
                "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens.0},
                "total_tokens":
                    u64::from(usage.prompt_tokens.0) + u64::from(usage.completion_tokens.0),
            })
        });
        // The document lets it be left out, not be null.
        head.extend(usage.map(|usage| ("usage".to_owned(), usage)));
        head
    }

    /// Whole or cut by a bound.
    fn end_status(&self) -> &'static str {
        match self.items.cut_by() {
            Some(_) => "incomplete",
            None => "completed",
        }
    }

    /// The response object, and what is to be kept is handed over.
    fn conclude(&mut self, status: &str, error: Value, is_whole: bool) -> Vec<u8> {
        let head = self.head(status, error);
        let head = serde_json::to_vec(&head).expect("a value tree always serializes");
        let output: Vec<StoredItem> = self
            .items
            .output()
            .map(|(id, item)| stored_item(id.to_owned(), &item))
            .collect();
        let object = response_object(&head, &output);
        if let Some((shelf, input)) = self.keeper.take() {
            shelf.keep(StoredResponse {
                id: self.framing.id.clone(),
                previous: self.echo.previous.clone(),
                head: head.into(),
                input: stored_input(&self.framing.id, input),
                output,
                is_whole,
                user: self.echo.user(),
                // The shelf knows them.
                tags: Vec::new(),
            });
        }
        object
    }

    /// Tells of the response's beginning, once.
    fn begin_events(&mut self, out: &mut BytesMut) {
        if self.number > 0 {
            return;
        }
        let head = self.head("in_progress", Value::Null);
        let head = serde_json::to_vec(&head).expect("a value tree always serializes");
        let object = response_object(&head, &[]);
        let mut sink = EventSink::Stream {
            out,
            number: &mut self.number,
        };
        sink.response("created", &object);
        sink.response("in_progress", &object);
    }
}

fn stored_item(id: String, item: &Value) -> StoredItem {
    let json = serde_json::to_vec(item).expect("a value tree always serializes");
    StoredItem {
        id,
        json: json.into(),
    }
}

/// Each with an id, its own or one made of the response's.
fn stored_input(response_id: &str, input: Vec<Value>) -> Vec<StoredItem> {
    let stem = response_id.strip_prefix("resp_").unwrap_or(response_id);
    let items = input.into_iter().enumerate().map(|(at, item)| {
        let mut item = listed(item);
        let known = item["id"].as_str().filter(|id| !id.is_empty());
        let id = match known {
            Some(id) => id.to_owned(),
            None => {
                let prefix = match item["type"].as_str() {
                    Some("reasoning") => "rs",
                    Some("function_call") => "fc",
                    Some("function_call_output") => "fco",
                    _ => "msg",
                };
                format!("{prefix}_{stem}i{at:02x}")
            }
        };
        item["id"] = id.as_str().into();
        stored_item(id, &item)
    });
    items.collect()
}

/// A response object, out of what is kept of it.
#[must_use]
pub fn response_object(head: &[u8], output: &[StoredItem]) -> Vec<u8> {
    let bytes: usize = output.iter().map(|item| item.json.len() + 1).sum();
    let mut object = Vec::with_capacity(head.len() + bytes + 16);
    object.extend_from_slice(head.strip_suffix(b"}").unwrap_or(head));
    object.extend_from_slice(b",\"output\":");
    put_items(output.iter(), &mut object);
    object.push(b'}');
    object
}

pub(super) fn put_items<'a>(items: impl Iterator<Item = &'a StoredItem>, out: &mut Vec<u8>) {
    out.push(b'[');
    for (at, item) in items.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&item.json);
    }
    out.push(b']');
}

impl ReplyEncoder for Encoder {
    fn id_prefix(&self) -> &'static str {
        "resp_"
    }

    fn whole(&mut self, framing: &Framing, reply: &Reply) -> Vec<u8> {
        self.framing = framing.clone();
        self.items = Items::of(&framing.id, self.echo.thought_form(), reply);
        self.conclude(self.end_status(), Value::Null, true)
    }

    fn begin(&mut self, framing: Framing) {
        self.items = Items::new(&framing.id, self.echo.thought_form());
        self.framing = framing;
    }

    fn event(&mut self, event: &ChatEvent, out: &mut BytesMut) {
        self.begin_events(out);
        let number = &mut self.number;
        self.items
            .take(event, &mut EventSink::Stream { out, number });
    }

    fn fail(&mut self, _status: u16, error: &ErrorBody, out: &mut BytesMut) {
        self.begin_events(out);
        let code = error.code.as_deref().unwrap_or(error.kind);
        // A response's own error has a closed list of codes.
        let known = match code {
            "rate_limit_exceeded" => "rate_limit_exceeded",
            _ => "server_error",
        };
        let told = json!({"code": known, "message": error.message});
        let failed = self.conclude("failed", told, false);
        let number = &mut self.number;
        let mut sink = EventSink::Stream { out, number };
        sink.response("failed", &failed);
        sink.error(code, &error.message, error.param.as_deref());
    }

    fn finish(&mut self, out: &mut BytesMut) {
        self.begin_events(out);
        let number = &mut self.number;
        self.items.end(&mut EventSink::Stream { out, number });
        let status = self.end_status();
        let ended = self.conclude(status, Value::Null, true);
        let number = &mut self.number;
        EventSink::Stream { out, number }.response(status, &ended);
    }
}

impl Drop for Encoder {
    /// Whoever learned of the id can learn that nothing more came of it.
    fn drop(&mut self) {
        if self.number > 0 && self.keeper.is_some() {
            self.conclude("cancelled", Value::Null, false);
        }
    }
}

#[cfg(test)]
mod tests;
