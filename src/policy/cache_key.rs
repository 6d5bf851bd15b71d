//! Exact cache keys.
//!
//! A key is HMAC-SHA256, under a secret of the node, over the canonical form of the masked request
//! inside its compartment. Keyed, so that whoever sees the keys cannot test guesses at prompts.
//!
//! What only says how the reply is delivered (`stream`, `stream_options`) or who asks for the caller's
//! own books (`user`, `metadata`, `store`, ...) is left out. Every other field takes part as given: an
//! absent `temperature` is not 1, since models have defaults of their own.

use std::fmt;

use domain::{
    Audio, CacheKey, ChatRequest, Effort, File, Image, Message, ModelAlias, OutputFormat, Part,
    Reasoning, Sampling, Seal, SealKind, TeamId, Tokens, Tool, ToolCall, ToolChoice,
};
use hashing::HmacKey;

use crate::canonical::{Canonical, Form};

/// Begins every keyed text. Change it when the canonical form changes, so that old replies are
/// never found under new meanings.
const FORM: &str = "hedge exact 6";

/// The same of secrets of single routes.
const ROUTE_FORM: &str = "hedge route 2";

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
    key: HmacKey,
    epoch: u64,
}

impl CacheSecret {
    #[must_use]
    pub fn new(secret: [u8; 32]) -> Self {
        Self {
            key: HmacKey::new(&secret),
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
        self.key = HmacKey::new(&self.digest(Form::new(ROUTE_FORM).put(rule)));
        self
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// HMAC-SHA256 of it.
    pub(crate) fn digest(&self, form: &Form) -> [u8; 32] {
        self.key.sign(form.as_bytes())
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
    let mut form = Form::new(FORM);
    form.put(&secret.epoch).put(team.as_str());
    put_request(&mut form, masked, Extent::Whole);
    put_headers(&mut form, headers_used, headers);
    Some(CacheKey(secret.digest(&form)))
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

/// How much of a request there is in a form.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    Whole,
    /// Without what the last message says, and without how freely words are chosen.
    AroundLast,
}

pub(crate) fn put_request(form: &mut Form, request: &ChatRequest, extent: Extent) {
    let ChatRequest {
        model,
        messages,
        tools,
        tool_choice,
        parallel_tool_calls,
        sampling,
        format,
        output_tokens_max,
        prediction,
        reasoning,
        extra,
        betas,
        // What asks for several, or is bound to its dialect, has no key.
        choices: _,
        bound_by: _,
        // How it came and how the reply goes, but for `is_raw` below.
        delivery: _,
        dialect: _,
        source: _,
    } = request;
    let is_around = extent == Extent::AroundLast;
    let last = messages.len().saturating_sub(1);
    let mut place = 0;
    form.put(model).put_each(messages, |form, message| {
        let is_left_out = is_around && place == last;
        place += 1;
        put_message(form, message, is_left_out);
    });
    form.put(tools).put(tool_choice).put(parallel_tool_calls);
    put_sampling(form, sampling, extent);
    form.put(format)
        .put(output_tokens_max)
        // A provider bills what it rejects of it, and the reply says so.
        .put(&prediction.as_ref().map(|prediction| &prediction.content))
        .put(reasoning)
        .put_fields(extra, |name| !BOOKKEEPING_FIELDS.contains(&name))
        .put(betas)
        .put(&request.is_raw());
}

/// Each header as the rules see it: its first value, or none.
pub(crate) fn put_headers(form: &mut Form, used: &[String], headers: &[(String, String)]) {
    form.put_each(used, |form, used| {
        let header = headers.iter().find(|(name, _)| name == used);
        form.put(used).put(&header.map(|(_, value)| value));
    });
}

/// A plain string is one text part; several parts stay apart.
fn put_message(form: &mut Form, message: &Message, is_content_left_out: bool) {
    let Message {
        role,
        content,
        name,
        tool_calls,
        tool_call_id,
        is_failure,
        extra,
    } = message;
    let content: &[Part] = if is_content_left_out { &[] } else { content };
    form.put(role.as_label())
        .put(content)
        .put(name)
        .put(tool_calls)
        .put(tool_call_id)
        .put(is_failure)
        .put(extra);
}

fn put_sampling(form: &mut Form, sampling: &Sampling, extent: Extent) {
    let Sampling {
        temperature,
        top_p,
        top_k,
        min_p,
        seed,
        stop,
        frequency_penalty,
        presence_penalty,
        logit_bias,
        logprobs,
        open,
    } = sampling;
    let of_choice = |value: &Option<f32>| value.filter(|_| extent == Extent::Whole);
    let is_open_said = *open != domain::OpenSampling::default();
    form.put(&of_choice(temperature))
        .put(&of_choice(top_p))
        .put(top_k)
        .put(min_p)
        .put(&seed.map(i64::cast_unsigned))
        .put(stop)
        .put(frequency_penalty)
        .put(presence_penalty)
        .put_each(logit_bias, |form, (token, bias)| {
            form.put(token).put(bias);
        })
        .put(&logprobs.map(u32::from))
        .put(&is_open_said.then(|| serde_json::to_value(open).ok()));
}

impl Canonical for ModelAlias {
    fn put_in(&self, form: &mut Form) {
        form.put(self.as_str());
    }
}

impl Canonical for Tokens {
    fn put_in(&self, form: &mut Form) {
        form.put(&self.0);
    }
}

impl Canonical for Reasoning {
    fn put_in(&self, form: &mut Form) {
        let Self {
            effort,
            tokens_max,
            is_shown,
        } = self;
        form.put(&effort.map(Effort::as_label))
            .put(tokens_max)
            .put(is_shown);
    }
}

impl Canonical for Seal {
    fn put_in(&self, form: &mut Form) {
        let Self { of, kind, data } = self;
        let kind = match kind {
            SealKind::Signature => "signature",
            SealKind::Hidden => "hidden",
        };
        form.put(of.as_label()).put(kind).put(data);
    }
}

impl Canonical for ToolCall {
    fn put_in(&self, form: &mut Form) {
        let Self {
            id,
            name,
            arguments,
            seal,
        } = self;
        form.put(id).put(name).put(arguments).put(seal);
    }
}

impl Canonical for Part {
    fn put_in(&self, form: &mut Form) {
        match self {
            Part::Text(text) => form.put("text").put(text),
            Part::Image(Image { url, detail }) => form.put("image").put(url).put(detail),
            Part::Audio(Audio { data, format }) => form.put("audio").put(data).put(format),
            Part::File(File { url, name }) => form.put("file").put(url).put(name),
            Part::Thought(text) => form.put("thought").put(text),
            Part::Seal(seal) => form.put("seal").put(seal),
            Part::Other(value) => form.put("other").put(value),
        };
    }
}

impl Canonical for Tool {
    fn put_in(&self, form: &mut Form) {
        let Self {
            name,
            description,
            parameters,
            extra,
        } = self;
        form.put(name).put(description).put(parameters).put(extra);
    }
}

impl Canonical for ToolChoice {
    fn put_in(&self, form: &mut Form) {
        match self {
            ToolChoice::Auto => form.put("auto"),
            ToolChoice::None => form.put("none"),
            ToolChoice::Required => form.put("required"),
            ToolChoice::Named(name) => form.put("named").put(name),
        };
    }
}

impl Canonical for OutputFormat {
    fn put_in(&self, form: &mut Form) {
        match self {
            OutputFormat::Text => form.put("text"),
            OutputFormat::JsonObject => form.put("json_object"),
            // As written: the order of its members is that of the reply's.
            OutputFormat::JsonSchema(schema) => form.put("json_schema").put(&schema.to_string()),
            OutputFormat::Regex(regex) => form.put("regex").put(regex),
            OutputFormat::Choice(texts) => form.put("choice").put(texts),
            OutputFormat::Grammar(grammar) => form.put("grammar").put(grammar),
        };
    }
}

#[cfg(test)]
mod tests {
    use domain::{Delivery, Dialect, Extra, Prediction, Role};
    use serde_json::json;

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

    fn call(name: &str) -> ToolCall {
        ToolCall {
            id: "c".into(),
            name: name.into(),
            arguments: "{}".into(),
            seal: None,
        }
    }

    fn tool(name: &str) -> Tool {
        Tool {
            name: name.into(),
            description: None,
            parameters: json!({}),
            extra: Extra::new(),
        }
    }

    fn tool_of(change: impl FnOnce(&mut Tool)) -> Tool {
        let mut tool = tool("f");
        change(&mut tool);
        tool
    }

    fn call_of(change: impl FnOnce(&mut ToolCall)) -> ToolCall {
        let mut call = call("f");
        change(&mut call);
        call
    }

    fn reason(request: &mut ChatRequest) -> &mut Reasoning {
        request.reasoning.insert(Reasoning::default())
    }

    fn seal(data: &str) -> Seal {
        Seal {
            of: Dialect::Anthropic,
            kind: SealKind::Signature,
            data: data.into(),
        }
    }

    fn image(detail: Option<&str>) -> Part {
        Part::Image(Image {
            url: "data:image/png;base64,AA".into(),
            detail: detail.map(str::to_owned),
        })
    }

    fn audio(data: &str, format: &str) -> Part {
        Part::Audio(Audio {
            data: data.into(),
            format: format.into(),
        })
    }

    fn file(name: Option<&str>) -> Part {
        Part::File(File {
            url: "data:application/pdf;base64,AA".into(),
            name: name.map(str::to_owned),
        })
    }

    fn thinking(tokens: u32) -> Reasoning {
        Reasoning {
            tokens_max: Some(Tokens(tokens)),
            ..Reasoning::default()
        }
    }

    #[test]
    fn whatever_may_change_the_reply_changes_the_key() {
        type Change = fn(&mut ChatRequest);
        let changes: [Change; 65] = [
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
            |it| it.messages[0].is_failure = true,
            |it| it.messages[0].extra = extra(r#"{"a": 1}"#),
            |it| it.messages[0].content = vec![Part::Thought("hi".into())],
            |it| it.messages[0].tool_calls.push(call("f")),
            |it| it.messages[0].tool_calls.push(call("g")),
            |it| it.tools.push(tool("f")),
            |it| it.tools.push(tool("g")),
            |it| it.sampling.top_p = Some(0.0),
            |it| it.sampling.top_k = Some(0),
            |it| it.sampling.min_p = Some(0.0),
            |it| it.sampling.seed = Some(-1),
            |it| it.sampling.frequency_penalty = Some(0.0),
            |it| it.sampling.presence_penalty = Some(0.0),
            |it| it.parallel_tool_calls = Some(false),
            |it| it.reasoning = Some(Reasoning::default()),
            |it| it.reasoning = Some(thinking(0)),
            |it| it.reasoning = Some(thinking(1)),
            |it| reason(it).effort = Some(Effort::Low),
            |it| reason(it).is_shown = Some(false),
            |it| {
                it.tools
                    .push(tool_of(|it| it.description = Some("f".into())))
            },
            |it| it.tools.push(tool_of(|it| it.parameters = json!({"a": 1}))),
            |it| it.tools.push(tool_of(|it| it.extra = extra(r#"{"a": 1}"#))),
            |it| {
                it.messages[0]
                    .tool_calls
                    .push(call_of(|it| it.id = "d".into()))
            },
            |it| {
                it.messages[0]
                    .tool_calls
                    .push(call_of(|it| it.arguments = "[]".into()))
            },
            |it| {
                it.messages[0]
                    .tool_calls
                    .push(call_of(|it| it.seal = Some(seal("x"))))
            },
            |it| it.messages[0].content.push(Part::Seal(seal("x"))),
            |it| it.messages[0].content.push(Part::Seal(seal("y"))),
            |it| it.messages[0].content.push(image(None)),
            |it| it.messages[0].content.push(image(Some("low"))),
            |it| it.messages[0].content.push(audio("AA", "wav")),
            |it| it.messages[0].content.push(audio("AA", "mp3")),
            |it| it.messages[0].content.push(file(None)),
            |it| it.messages[0].content.push(file(Some("a"))),
            |it| it.messages[0].content.clear(),
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
