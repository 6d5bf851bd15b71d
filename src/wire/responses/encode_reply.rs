//! Encodes a reply, as a server: the whole response object, or its stream of events.

use bytes::{BufMut, BytesMut};
use domain::{ChatEvent, ChatRequest, Message, Part, Reply, Role, StoredResponse, ToolCall};
use serde_json::{Map, Value, json};

use super::decode_items::seal;
use super::items::Items;
use crate::ReplyEncoder;
use crate::fields::Fields;
use crate::openai::{ErrorBody, Framing};

/// What of a request its response repeats.
#[derive(Clone, Debug)]
pub(super) struct Echo {
    fields: Map<String, Value>,
    pub stores: bool,
    pub previous: Option<String>,
}

/// Fields that are repeated as they came.
const REPEATED: [&str; 14] = [
    "max_output_tokens",
    "metadata",
    "parallel_tool_calls",
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

/// What stands for a field that was left out.
fn absent(name: &str) -> Value {
    match name {
        "metadata" => json!({}),
        "parallel_tool_calls" => json!(true),
        "reasoning" => json!({"effort": null, "summary": null}),
        "service_tier" => json!("default"),
        "temperature" | "top_p" => json!(1.0),
        "text" => json!({"format": {"type": "text"}}),
        "tool_choice" => json!("auto"),
        "tools" => json!([]),
        "top_logprobs" => json!(0),
        "truncation" => json!("disabled"),
        _ => Value::Null,
    }
}

impl Echo {
    /// Before `fields` are taken out.
    pub fn new(fields: &Fields<'_>, instructions: Option<String>) -> Self {
        let mut repeated = Map::new();
        repeated.insert("instructions".into(), instructions.into());
        for name in REPEATED {
            let given = fields.peek(name).filter(|value| !value.is_null());
            repeated.insert(name.into(), given.cloned().unwrap_or_else(|| absent(name)));
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
            stores: true,
            previous: None,
        }
    }

    pub fn has_instructions(&self) -> bool {
        self.fields
            .get("instructions")
            .is_some_and(Value::is_string)
    }
}

/// Where a finished response goes.
pub type Keep = Box<dyn FnOnce(StoredResponse) + Send + Sync>;

/// Writes one response.
pub struct Encoder {
    echo: Echo,
    framing: Framing,
    items: Items,
    /// Number of the next event.
    number: u64,
    /// What it was asked with, for a list of its input items.
    input: Vec<Value>,
    is_kept: bool,
    keep: Option<(Keep, Vec<Message>)>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Encoder({})", self.framing.id)
    }
}

impl Encoder {
    pub(super) fn new(model: &str, input: Vec<Value>, echo: Echo) -> Self {
        Self {
            echo,
            framing: Framing {
                id: String::new(),
                created: 0,
                model: model.to_owned(),
                includes_usage: true,
            },
            items: Items::new(""),
            number: 0,
            input,
            is_kept: false,
            keep: None,
        }
    }

    /// The earlier response that this one goes on from.
    #[must_use]
    pub fn previous(&self) -> Option<&str> {
        self.echo.previous.as_deref()
    }

    /// Puts what was said before under what is said now. Instructions of earlier requests do not count
    /// any more, those of this one stay first.
    pub fn follow(&self, request: &mut ChatRequest, history: Vec<Message>) {
        let at = usize::from(self.echo.has_instructions());
        request.messages.splice(at..at, history);
        // The bytes do not hold it.
        request.source = None;
    }

    /// From now on the response goes to `keep` where the reply comes to its end, whole or cut by a
    /// bound; unless its caller wants none kept. To be called once the request is complete.
    pub fn keep_with(&mut self, request: &ChatRequest, keep: Keep) {
        let at = usize::from(self.echo.has_instructions());
        let said = || request.messages[at..].to_vec();
        self.keep = self.echo.stores.then(|| (keep, said()));
        self.is_kept = self.keep.is_some();
    }

    fn object(&self, status: &str, output: Vec<Value>, error: Value) -> Value {
        let Framing {
            id, created, model, ..
        } = &self.framing;
        let mut object = Map::new();
        object.insert("id".into(), id.as_str().into());
        object.insert("object".into(), "response".into());
        object.insert("created_at".into(), (*created).into());
        object.insert("status".into(), status.into());
        object.insert("background".into(), false.into());
        object.insert("error".into(), error);
        let cut_by = self.items.cut_by().filter(|_| status == "incomplete");
        let details = cut_by.map(|reason| json!({ "reason": reason }));
        object.insert("incomplete_details".into(), details.into());
        object.insert("model".into(), model.as_str().into());
        object.insert("output".into(), output.into());
        let previous = self.echo.previous.as_deref();
        object.insert("previous_response_id".into(), previous.into());
        object.insert("store".into(), self.is_kept.into());
        object.extend(self.echo.fields.clone());
        let usage = self.items.usage().map(|usage| {
            json!({
                "input_tokens": usage.prompt_tokens.0,
                "input_tokens_details": {"cached_tokens": usage.cached_tokens.0},
                "output_tokens": usage.completion_tokens.0,
                "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens.0},
                "total_tokens":
                    u64::from(usage.prompt_tokens.0) + u64::from(usage.completion_tokens.0),
            })
        });
        object.insert("usage".into(), usage.into());
        Value::Object(object)
    }

    fn ended(&mut self) -> Value {
        let is_cut = self.items.cut_by().is_some();
        let status = if is_cut { "incomplete" } else { "completed" };
        let object = self.object(status, self.items.output(), Value::Null);
        if let Some((keep, mut said)) = self.keep.take() {
            said.extend(message(object["output"].as_array()));
            keep(StoredResponse {
                id: self.framing.id.clone(),
                object: object.to_string().into(),
                input: std::mem::take(&mut self.input),
                said,
            });
        }
        object
    }
}

/// What the assistant said, as one message of the next request.
fn message(output: Option<&Vec<Value>>) -> Option<Message> {
    let mut message = Message {
        content: Vec::new(),
        ..Message::new(Role::Assistant, "")
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for item in output.into_iter().flatten() {
        match item["type"].as_str() {
            Some("message") => {
                let said = text(&item["content"][0]["text"]);
                message.content.push(Part::Text(said));
            }
            Some("reasoning") => {
                let thought = text(&item["content"][0]["text"]);
                if !thought.is_empty() {
                    message.content.push(Part::Thought(thought));
                }
                let sealed = item["encrypted_content"].as_str();
                let sealed = sealed.map(|data| Part::Seal(seal(data.to_owned())));
                message.content.extend(sealed);
            }
            Some("function_call") => message.tool_calls.push(ToolCall {
                id: text(&item["call_id"]),
                name: text(&item["name"]),
                arguments: text(&item["arguments"]),
                seal: None,
            }),
            _ => {}
        }
    }
    let is_empty = message.content.is_empty() && message.tool_calls.is_empty();
    (!is_empty).then_some(message)
}

/// Appends one event.
fn put(out: &mut BytesMut, number: &mut u64, kind: &str, mut body: Value) {
    body["type"] = kind.into();
    body["sequence_number"] = (*number).into();
    *number += 1;
    out.put_slice(b"event: ");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\ndata: ");
    serde_json::to_writer(out.writer(), &body).expect("values always serialize to memory");
    out.put_slice(b"\n\n");
}

impl ReplyEncoder for Encoder {
    fn id_prefix(&self) -> &'static str {
        "resp_"
    }

    fn as_response(&mut self) -> Option<&mut Encoder> {
        Some(self)
    }

    fn whole(&mut self, framing: &Framing, reply: &Reply) -> Vec<u8> {
        self.framing = framing.clone();
        self.items = Items::of(&framing.id, reply);
        self.ended().to_string().into_bytes()
    }

    fn begin(&mut self, framing: Framing) {
        self.items = Items::new(&framing.id);
        self.framing = framing;
    }

    fn event(&mut self, event: &ChatEvent, out: &mut BytesMut) {
        if self.number == 0 {
            let begun = self.object("in_progress", Vec::new(), Value::Null);
            for kind in ["response.created", "response.in_progress"] {
                put(
                    out,
                    &mut self.number,
                    kind,
                    json!({ "response": begun.clone() }),
                );
            }
        }
        let number = &mut self.number;
        self.items.take(event, &mut |kind, body| {
            put(out, number, &format!("response.{kind}"), body);
        });
    }

    fn fail(&mut self, _status: u16, error: &ErrorBody, out: &mut BytesMut) {
        // A broken response is not kept: nobody could go on from it.
        self.keep = None;
        self.is_kept = false;
        let code = error.code.as_deref().unwrap_or(error.kind);
        let known = match code {
            "rate_limit_exceeded" => "rate_limit_exceeded",
            _ => "server_error",
        };
        let told = json!({"code": known, "message": error.message});
        let failed = self.object("failed", self.items.output(), told);
        put(
            out,
            &mut self.number,
            "response.failed",
            json!({ "response": failed }),
        );
        let body = json!({"code": code, "message": error.message, "param": error.param});
        put(out, &mut self.number, "error", body);
    }

    fn finish(&mut self, out: &mut BytesMut) {
        let number = &mut self.number;
        self.items.end(&mut |kind, body| {
            put(out, number, &format!("response.{kind}"), body);
        });
        let ended = self.ended();
        let kind = match ended["status"].as_str() {
            Some("incomplete") => "response.incomplete",
            _ => "response.completed",
        };
        put(out, &mut self.number, kind, json!({ "response": ended }));
    }
}

#[cfg(test)]
mod tests;
