//! Encodes a reply, as a server: the whole response object, or its stream of events.

use bytes::{BufMut, BytesMut};
use domain::{ChatEvent, Message, Part, Reply, Role, ToolCall};
use serde_json::{Map, Value, json};

use super::decode_items::seal;
use super::decode_request::Asked;
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

/// A finished response, for whoever keeps them.
#[derive(Clone)]
pub struct Kept {
    pub id: String,
    /// The response object.
    pub object: Vec<u8>,
    /// What was asked.
    pub input: Vec<Value>,
    /// What a response that follows this one begins with.
    pub said: Vec<Message>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kept({}, {} bytes)", self.id, self.object.len())
    }
}

/// Where a finished response goes.
type Keep = Box<dyn FnOnce(Kept) + Send + Sync>;

/// Writes one response.
pub struct Encoder {
    echo: Echo,
    framing: Framing,
    items: Items,
    /// Number of the next event.
    number: u64,
    keep: Option<(Keep, Vec<Value>, Vec<Message>)>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Encoder({})", self.framing.id)
    }
}

impl Encoder {
    /// `keep` is called once where the reply comes to its end, whole or cut by a bound, unless it was
    /// not to be kept.
    #[must_use]
    pub fn new(asked: &Asked, keep: Option<Keep>) -> Self {
        let keep = keep.filter(|_| asked.stores);
        Self {
            echo: Echo {
                stores: keep.is_some(),
                ..asked.echo.clone()
            },
            framing: Framing {
                id: String::new(),
                created: 0,
                model: asked.request.model.as_str().to_owned(),
                includes_usage: true,
            },
            items: Items::new(""),
            number: 0,
            keep: keep.map(|keep| (keep, asked.input.clone(), asked.said())),
        }
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
        object.insert("store".into(), self.echo.stores.into());
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
        if let Some((keep, input, mut said)) = self.keep.take() {
            said.extend(message(object["output"].as_array()));
            keep(Kept {
                id: self.framing.id.clone(),
                object: object.to_string().into_bytes(),
                input,
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
