//! Exact cache keys.
//!
//! A key is HMAC-SHA256, under a secret of the node, over the canonical form of the masked request
//! inside its compartment. Keyed, so that whoever sees the keys cannot test guesses at prompts.
//!
//! Canonical form: JSON with sorted keys. What only says how the reply is delivered (`stream`,
//! `stream_options`) or who asks for the caller's own books (`user`, `metadata`, `store`, ...) is
//! left out. Every other field takes part as given: an absent `temperature` is not 1, since models
//! have defaults of their own.

use std::fmt;

use domain::{
    CacheKey, ChatRequest, Effort, Message, OutputFormat, Part, Reasoning, Sampling, Seal,
    SealKind, TeamId, Tool, ToolChoice,
};
use hmac::{Hmac, Mac};
use serde_json::{Map, Value, json};
use sha2::Sha256;

/// Begins every keyed text. Change it when the canonical form changes, so that old replies are
/// never found under new meanings.
const FORM: &str = "hedge exact 5";

/// The same of secrets of single routes.
const ROUTE_FORM: &str = "hedge route 1";

/// Uninterpreted fields that cannot change a reply's content.
const BOOKKEEPING_FIELDS: [&str; 8] = [
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "stream_options",
    "user",
];

/// The secret that cache keys are made under; drawn anew at each start or read from configuration.
#[derive(Clone)]
pub struct CacheSecret {
    key: [u8; 32],
    epoch: u64,
}

impl CacheSecret {
    #[must_use]
    pub fn new(secret: [u8; 32]) -> Self {
        Self {
            key: secret,
            epoch: 0,
        }
    }

    /// The same for another epoch: what was kept under one is not found under another.
    #[must_use]
    pub fn of_epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self
    }

    /// The same for replies that were made by one rule's plans, for those who may have no others: what is
    /// kept under another secret is not found under this one.
    #[must_use]
    pub fn of_route(mut self, rule: &str) -> Self {
        self.key = self.digest(&json!([ROUTE_FORM, rule]));
        self
    }

    /// HMAC-SHA256 of the text that `value` is.
    pub(crate) fn digest(&self, value: &Value) -> [u8; 32] {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes a key of any length");
        mac.update(value.to_string().as_bytes());
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for CacheSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheSecret")
    }
}

/// The key of `masked`, or `None` when its reply must not be cached: several choices are asked for,
/// so as to differ; images are named by address, behind which they may change; or there are parts
/// that nobody here interprets, or tools that a provider runs.
///
/// Rules that look at headers let them choose who answers: `headers_used` is what
/// [`RoutePolicy::headers_used`](crate::RoutePolicy::headers_used) says, `headers` what
/// [`Ask::headers`](crate::Ask::headers) holds; others take no part.
#[must_use]
pub fn cache_key(
    secret: &CacheSecret,
    team: &TeamId,
    masked: &ChatRequest,
    headers_used: &[String],
    headers: &[(String, String)],
) -> Option<CacheKey> {
    let is_opaque = masked.has_other_parts() || masked.bound_by.is_some();
    if masked.choices > 1 || is_opaque || has_remote_part(masked) {
        return None;
    }
    let mut text = canonical(secret, team, masked);
    if !headers_used.is_empty() {
        text["headers"] = seen_headers(headers_used, headers);
    }
    if masked.is_raw() {
        text["raw"] = true.into();
    }
    text.sort_all_objects();
    Some(CacheKey(secret.digest(&text)))
}

fn has_remote_part(request: &ChatRequest) -> bool {
    request
        .messages
        .iter()
        .flat_map(|message| &message.content)
        .any(|part| match part {
            Part::Image(image) => !image.is_inline(),
            Part::File(file) => !file.is_inline(),
            Part::Text(_) | Part::Audio(_) | Part::Thought(_) | Part::Seal(_) | Part::Other(_) => {
                false
            }
        })
}

pub(crate) fn canonical(secret: &CacheSecret, team: &TeamId, request: &ChatRequest) -> Value {
    let messages: Vec<Value> = request.messages.iter().map(message).collect();
    let tools: Vec<Value> = request.tools.iter().map(tool).collect();
    json!({
        "form": FORM,
        "epoch": secret.epoch,
        "team": team.as_str(),
        "model": request.model.as_str(),
        "messages": messages,
        "tools": tools,
        "tool_choice": tool_choice(&request.tool_choice),
        "parallel_tool_calls": request.parallel_tool_calls,
        "sampling": sampling(&request.sampling),
        "format": format(&request.format),
        "output_tokens_max": request.output_tokens_max.map(|tokens| tokens.0),
        // A provider bills what it rejects of it, and the reply says so.
        "prediction": request.prediction.as_ref().map(|prediction| &prediction.content),
        "reasoning": request.reasoning.map(reasoning),
        "extra": extra(&request.extra),
        "betas": request.betas,
    })
}

fn reasoning(reasoning: Reasoning) -> Value {
    json!([
        reasoning.effort.map(Effort::as_label),
        reasoning.tokens_max.map(|tokens| tokens.0),
        reasoning.is_shown,
    ])
}

fn seal(seal: &Seal) -> Value {
    let kind = match seal.kind {
        SealKind::Signature => "signature",
        SealKind::Hidden => "hidden",
    };
    json!([seal.of.as_label(), kind, seal.data])
}

/// Each header as the rules see it: its first value, or none.
pub(crate) fn seen_headers(used: &[String], headers: &[(String, String)]) -> Value {
    let value = |used: &String| {
        let header = headers.iter().find(|(name, _)| name == used);
        json!(header.map(|(_, value)| value))
    };
    used.iter()
        .map(|used| (used.clone(), value(used)))
        .collect::<Map<String, Value>>()
        .into()
}

fn message(message: &Message) -> Value {
    let calls: Vec<Value> = message
        .tool_calls
        .iter()
        .map(|call| {
            json!([
                call.id,
                call.name,
                call.arguments,
                call.seal.as_ref().map(seal)
            ])
        })
        .collect();
    json!({
        "role": message.role.as_label(),
        "content": content(&message.content),
        "name": message.name,
        "tool_calls": calls,
        "tool_call_id": message.tool_call_id,
        "is_failure": message.is_failure,
        "extra": message.extra,
    })
}

/// One text part and a plain string mean the same; several parts stay apart.
fn content(parts: &[Part]) -> Value {
    let parts: Vec<Value> = parts
        .iter()
        .map(|part| match part {
            Part::Text(text) => json!(text),
            Part::Image(image) => json!({ "image": image.url, "detail": image.detail }),
            Part::Audio(audio) => json!({ "audio": audio.data, "format": audio.format }),
            Part::File(file) => json!({ "file": file.url, "name": file.name }),
            Part::Thought(text) => json!({ "thought": text }),
            Part::Seal(it) => json!({ "seal": seal(it) }),
            Part::Other(value) => json!({ "other": value }),
        })
        .collect();
    Value::Array(parts)
}

fn tool(tool: &Tool) -> Value {
    json!([tool.name, tool.description, tool.parameters, tool.extra])
}

fn tool_choice(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => json!("auto"),
        ToolChoice::None => json!("none"),
        ToolChoice::Required => json!("required"),
        ToolChoice::Named(name) => json!({ "named": name }),
    }
}

/// Numbers by their bits: no rounding makes two settings one.
fn sampling(sampling: &Sampling) -> Value {
    let bits = |value: Option<f32>| value.map(f32::to_bits);
    let bias: Vec<(u32, u32)> = sampling
        .logit_bias
        .iter()
        .map(|(token, bias)| (*token, bias.to_bits()))
        .collect();
    json!({
        "temperature": bits(sampling.temperature),
        "top_p": bits(sampling.top_p),
        "top_k": sampling.top_k,
        "min_p": bits(sampling.min_p),
        "seed": sampling.seed,
        "stop": sampling.stop,
        "frequency_penalty": bits(sampling.frequency_penalty),
        "presence_penalty": bits(sampling.presence_penalty),
        "logit_bias": bias,
        "logprobs": sampling.logprobs,
        "open": serde_json::to_value(&sampling.open).ok(),
    })
}

fn format(format: &OutputFormat) -> Value {
    match format {
        OutputFormat::Text => json!("text"),
        OutputFormat::JsonObject => json!("json_object"),
        // As written: the order of its members is that of the reply's.
        OutputFormat::JsonSchema(schema) => json!({ "json_schema": schema.to_string() }),
        OutputFormat::Regex(regex) => json!({ "regex": regex }),
        OutputFormat::Choice(texts) => json!({ "choice": texts }),
        OutputFormat::Grammar(grammar) => json!({ "grammar": grammar }),
    }
}

fn extra(fields: &Map<String, Value>) -> Value {
    let kept = fields
        .iter()
        .filter(|(name, _)| !BOOKKEEPING_FIELDS.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()));
    Value::Object(kept.collect())
}

#[cfg(test)]
mod tests {
    use domain::{Delivery, Extra, Image, Prediction, Role, Tokens};

    use super::*;

    fn request() -> ChatRequest {
        ChatRequest::new("auto", vec![Message::new(Role::User, "hi")])
    }

    fn key(request: &ChatRequest) -> Option<[u8; 32]> {
        key_of(&CacheSecret::new([7; 32]), "red", request)
    }

    fn key_of(secret: &CacheSecret, team: &str, request: &ChatRequest) -> Option<[u8; 32]> {
        cache_key(secret, &TeamId::new(team), request, &[], &[]).map(|key| key.0)
    }

    fn prediction(parts: &[&str]) -> Prediction {
        Prediction {
            content: parts.iter().map(|&part| part.to_owned()).collect(),
        }
    }

    fn extra(json: &str) -> Extra {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn whatever_may_change_the_reply_changes_the_key() {
        type Change = fn(&mut ChatRequest);
        let changes: [Change; 31] = [
            |it| it.betas = vec!["b-1".to_owned()],
            |it| it.dialect = domain::Dialect::Completions,
            |it| it.model = "local".into(),
            |it| it.messages[0] = Message::new(Role::User, "hi "),
            |it| it.messages[0] = Message::new(Role::System, "hi"),
            |it| it.messages.push(Message::new(Role::Assistant, "x")),
            |it| it.messages[0].name = Some("ann".to_owned()),
            |it| it.messages[0].tool_call_id = Some("c".to_owned()),
            |it| it.messages[0].content = vec![Part::Text("h".into()), Part::Text("i".into())],
            |it| it.tool_choice = ToolChoice::None,
            |it| it.tool_choice = ToolChoice::Named("none".to_owned()),
            |it| it.parallel_tool_calls = Some(true),
            |it| it.sampling.temperature = Some(1.0),
            |it| it.sampling.temperature = Some(0.0),
            |it| it.sampling.seed = Some(0),
            |it| it.sampling.stop = vec!["x".to_owned()],
            |it| it.sampling.logit_bias = vec![(1, 0.5)],
            |it| it.sampling.logprobs = Some(0),
            |it| it.sampling.open.stop_tokens = vec![1],
            |it| it.sampling.open.typical_p = Some(0.5),
            |it| it.format = OutputFormat::JsonObject,
            |it| it.format = OutputFormat::Regex("a".into()),
            |it| it.format = OutputFormat::Grammar("a".into()),
            |it| it.format = OutputFormat::Choice(vec!["a".into()]),
            |it| it.output_tokens_max = Some(Tokens(1)),
            |it| it.prediction = Some(prediction(&["x", "y"])),
            |it| it.prediction = Some(prediction(&["xy"])),
            |it| it.extra = extra(r#"{"reasoning_effort": "low"}"#),
            // Adapters of the local model: by name or by list.
            |it| it.model = "pirate".into(),
            |it| it.extra = extra(r#"{"lora": [{"id": 0, "scale": 1.0}]}"#),
            |it| it.extra = extra(r#"{"lora": [{"id": 0, "scale": 0.5}]}"#),
        ];
        let mut seen = vec![key(&request())];
        for (index, change) in changes.iter().enumerate() {
            let mut changed = request();
            change(&mut changed);
            let key = key(&changed);
            assert!(key.is_some() && !seen.contains(&key), "change {index}");
            seen.push(key);
        }
    }

    #[test]
    fn delivery_bookkeeping_and_the_order_of_fields_do_not() {
        let mut streamed = request();
        streamed.delivery = Delivery::Streamed {
            includes_usage: true,
        };
        streamed.extra = extra(r#"{"user": "ann", "metadata": {"a": "b"}, "store": true}"#);
        assert_eq!(key(&streamed), key(&request()));
        let with = |json: &str| ChatRequest {
            extra: extra(json),
            ..request()
        };
        let (one, two) = (
            r#"{"a": 1, "b": {"c": 2, "d": 3}}"#,
            r#"{"b": {"d": 3, "c": 2}, "a": 1}"#,
        );
        assert_eq!(key(&with(one)), key(&with(two)));
    }

    #[test]
    fn the_order_of_a_schemas_members_does() {
        let with = |schema: &str| ChatRequest {
            format: OutputFormat::JsonSchema(serde_json::from_str(schema).unwrap()),
            ..request()
        };
        let (one, two) = (
            r#"{"schema": {"a": 1, "b": 2}}"#,
            r#"{"schema": {"b": 2, "a": 1}}"#,
        );
        assert_ne!(key(&with(one)), key(&with(two)));
        assert_eq!(key(&with(one)), key(&with(one)));
    }

    #[test]
    fn teams_and_secrets_do_not_share_keys() {
        let secret = CacheSecret::new([7; 32]);
        let other = CacheSecret::new([8; 32]);
        let red = key_of(&secret, "red", &request());
        assert_ne!(red, key_of(&secret, "blue", &request()));
        assert_ne!(red, key_of(&other, "red", &request()));
        assert_eq!(red, key_of(&secret, "red", &request()));
    }

    #[test]
    fn replies_that_may_differ_have_no_key() {
        let several = ChatRequest {
            choices: 2,
            ..request()
        };
        assert_eq!(key(&several), None);
        let part = |part: Part| {
            let mut request = request();
            request.messages[0].content.push(part);
            key(&request)
        };
        let image = |url: &str| {
            Part::Image(Image {
                url: url.to_owned(),
                detail: None,
            })
        };
        assert_eq!(part(Part::Other(json!({}))), None);
        assert_eq!(part(image("https://example.com/a.png")), None);
        assert!(part(image("data:image/png;base64,AA")).is_some());
    }

    #[test]
    fn headers_that_rules_use_change_the_key_and_others_do_not() {
        let key = |used: &[&str], headers: &[(&str, &str)]| {
            let used: Vec<String> = used.iter().map(|it| (*it).to_owned()).collect();
            let headers: Vec<(String, String)> = headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            let secret = CacheSecret::new([7; 32]);
            cache_key(&secret, &TeamId::new("red"), &request(), &used, &headers)
        };
        let gold = key(&["x-tier"], &[("x-tier", "gold")]);
        assert_ne!(gold, key(&["x-tier"], &[("x-tier", "tin")]));
        assert_ne!(gold, key(&["x-tier"], &[]));
        assert_ne!(key(&["x-tier"], &[("x-tier", "")]), key(&["x-tier"], &[]));
        let others = [("x-b", "c"), ("x-tier", "gold"), ("x-tier", "tin")];
        assert_eq!(gold, key(&["x-tier"], &others));
        let plain = cache_key(
            &CacheSecret::new([7; 32]),
            &TeamId::new("red"),
            &request(),
            &[],
            &[],
        );
        assert_eq!(key(&[], &[("x-tier", "gold")]), plain);
    }

    #[test]
    fn the_secret_is_not_shown() {
        assert_eq!(format!("{:?}", CacheSecret::new([7; 32])), "CacheSecret");
    }
}
