//! What the client writes and declines, and what it makes of replies that are not as they should be.

use std::collections::VecDeque;

use domain::{
    Ability, Audio, BackendError, ChatEvent, ChatRequest, Delivery, Dialect, Effort, Extra, File,
    FinishReason, Grammar, Image, Message, OutputFormat, Part, Reasoning, ReplyPiece, Role, Seal,
    SealKind, Tokens, Tool, ToolCall, ToolChoice,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::Converse;
use super::frames::frame;
use crate::ClientDialect;

const CLAUDE: &str = "anthropic.claude-sonnet-4-5-20250929-v1:0";

fn request() -> ChatRequest {
    ChatRequest::new("m", vec![Message::new(Role::User, "hi")])
}

fn with(change: impl Fn(&mut ChatRequest)) -> ChatRequest {
    let mut request = request();
    change(&mut request);
    request
}

fn sent(model: &str, request: &ChatRequest) -> Result<Value, BackendError> {
    let body = Converse.encode_request(model, request)?;
    Ok(serde_json::from_slice(&body).unwrap())
}

fn tool(name: &str) -> Tool {
    Tool {
        name: name.into(),
        description: Some("d".into()),
        parameters: json!({}),
        extra: Extra::new(),
    }
}

fn call(id: &str, arguments: &str) -> Message {
    let mut message = Message::new(Role::Assistant, "");
    message.tool_calls.push(ToolCall {
        id: id.into(),
        name: "f".into(),
        arguments: arguments.into(),
        seal: None,
    });
    message
}

fn result(id: &str, text: &str) -> Message {
    let mut message = Message::new(Role::Tool, text);
    message.tool_call_id = Some(id.into());
    message
}

fn image(url: &str) -> Part {
    Part::Image(Image {
        url: url.into(),
        detail: None,
    })
}

fn file(url: &str, name: Option<&str>) -> Part {
    Part::File(File {
        url: url.into(),
        name: name.map(str::to_owned),
    })
}

#[test]
fn what_cannot_be_said_is_declined_where_it_stands() {
    let saying = |part: Part| with(|it| it.messages[0].content = vec![part.clone()]);
    let calling = |change: &dyn Fn(&mut ChatRequest)| {
        with(|it| {
            it.messages.push(call("c", "{}"));
            it.messages.push(result("c", "x"));
            it.tools = vec![tool("f")];
            change(it);
        })
    };
    let sound = |data: &str, format: &str| {
        saying(Part::Audio(Audio {
            data: data.into(),
            format: format.into(),
        }))
    };
    let cases = [
        (with(|it| it.sampling.seed = Some(1)), "seed"),
        (
            with(|it| it.sampling.temperature = Some(1.5)),
            "temperature",
        ),
        (
            with(|it| it.sampling.presence_penalty = Some(0.5)),
            "presence_penalty",
        ),
        (
            with(|it| it.sampling.frequency_penalty = Some(0.5)),
            "frequency_penalty",
        ),
        (with(|it| it.sampling.min_p = Some(0.5)), "min_p"),
        (with(|it| it.sampling.top_k = Some(5)), "top_k"),
        (
            calling(&|it| it.tool_choice = ToolChoice::None),
            "tool_choice",
        ),
        (calling(&|it| it.tools.clear()), "tools"),
        (
            calling(&|it| it.messages[1].tool_calls[0].arguments = "[]".into()),
            "messages[1].tool_calls[0].function.arguments",
        ),
        (with(|it| it.messages[0].role = Role::System), "messages"),
        (
            with(|it| {
                it.messages[0].role = Role::System;
                it.messages[0]
                    .content
                    .push(image("data:image/png;base64,AAAA"));
                it.messages.push(Message::new(Role::User, "hi"));
            }),
            "messages[0].content[1]",
        ),
        (
            saying(image("https://a.example/b.png")),
            "messages[0].content[0]",
        ),
        (
            saying(image("data:image/tiff;base64,AAAA")),
            "messages[0].content[0]",
        ),
        (
            saying(file("data:video/mp4;base64,AAAA", None)),
            "messages[0].content[0]",
        ),
        (sound("AAAA", "aiff"), "messages[0].content[0]"),
        (sound("%", "wav"), "messages[0].content[0]"),
        (saying(Part::Other(json!({}))), "messages[0].content[0]"),
    ];
    for (request, param) in cases {
        match sent("m", &request) {
            Err(BackendError::Declined { reason }) => {
                assert_eq!(reason.param.as_deref(), Some(param));
            }
            other => panic!("{param}: {other:?}"),
        }
    }
    let unable = [
        (with(|it| it.choices = 2), Ability::Choices),
        (with(|it| it.sampling.logprobs = Some(0)), Ability::Logprobs),
        (
            with(|it| it.sampling.logit_bias = vec![(1, 1.0)]),
            Ability::LogitBias,
        ),
        (
            with(|it| it.format = OutputFormat::JsonObject),
            Ability::JsonObject,
        ),
        (
            with(|it| it.format = OutputFormat::Regex("a".into())),
            Ability::Constraints,
        ),
        (
            with(|it| it.format = OutputFormat::Choice(vec!["a".into()])),
            Ability::Constraints,
        ),
    ];
    for (request, ability) in unable {
        match sent("m", &request) {
            Err(BackendError::Unable(got)) => assert_eq!(got, ability),
            other => panic!("{ability:?}: {other:?}"),
        }
    }
}

#[test]
fn documents_have_names_that_differ_in_letters_bedrock_takes() {
    let pdf = "data:application/pdf;base64,AAAA";
    let request = with(|it| {
        it.messages[0].content = vec![
            file(pdf, Some("Q1_report: final.pdf")),
            file(pdf, Some("Q1_report: final.pdf")),
            file("data:text/markdown;base64,AAAA", None),
            Part::Audio(Audio {
                data: "AAAA".into(),
                format: "mp3".into(),
            }),
            image("data:image/JPEG;base64,AAAA"),
        ];
    });
    let expected = json!([
        {"document": {"format": "pdf", "name": "Q1-report--final 1", "source": {"bytes": "AAAA"}}},
        {"document": {"format": "pdf", "name": "Q1-report--final 2", "source": {"bytes": "AAAA"}}},
        {"document": {"format": "md", "name": "document 3", "source": {"bytes": "AAAA"}}},
        {"audio": {"format": "mp3", "source": {"bytes": "AAAA"}}},
        {"image": {"format": "jpeg", "source": {"bytes": "AAAA"}}},
    ]);
    assert_eq!(
        sent("m", &request).unwrap()["messages"][0]["content"],
        expected
    );
}

#[test]
fn roles_alternate_and_results_stand_first_in_their_turn() {
    let request = with(|it| {
        it.tools = vec![tool("f")];
        it.messages.push(Message::new(Role::Developer, "be brief"));
        it.messages.push(call("a|b", "{\"x\":1}"));
        let mut failed = result("a|b", "");
        failed.is_failure = true;
        it.messages
            .extend([failed, Message::new(Role::User, "go on")]);
    });
    let expected = json!({
        "system": [{"text": "be brief"}],
        "messages": [
            {"role": "user", "content": [{"text": "hi"}]},
            {"role": "assistant", "content": [{"toolUse": {"toolUseId": "a_b", "name": "f", "input": {"x": 1}}}]},
            {"role": "user", "content": [
                {"toolResult": {"toolUseId": "a_b", "content": [], "status": "error"}},
                {"text": "go on"},
            ]},
        ],
        "toolConfig": {"tools": [{"toolSpec": {"name": "f", "description": "d",
            "inputSchema": {"json": {"type": "object", "properties": {}}}}}]},
    });
    assert_eq!(sent("m", &request).unwrap(), expected);
    let long = "x".repeat(100) + "end";
    let request = with(|it| {
        it.tools = vec![tool("f")];
        it.messages.extend([call(&long, ""), result(&long, "x")]);
    });
    let messages = &sent("m", &request).unwrap()["messages"];
    let id = messages[1]["content"][0]["toolUse"]["toolUseId"]
        .as_str()
        .unwrap();
    assert_eq!(id.len(), 64);
    assert_eq!(messages[2]["content"][0]["toolResult"]["toolUseId"], id);
}

#[test]
fn only_thoughts_that_bedrock_signed_return() {
    let seal = |of, kind, data: &str| {
        Part::Seal(Seal {
            of,
            kind,
            data: data.into(),
        })
    };
    let request = with(|it| {
        let mut message = Message::new(Role::Assistant, "");
        message.content = vec![
            Part::Thought("signed".into()),
            seal(Dialect::Bedrock, SealKind::Signature, "c2ln"),
            seal(Dialect::Bedrock, SealKind::Hidden, "aGlk"),
            Part::Thought("of another".into()),
            seal(Dialect::Anthropic, SealKind::Signature, "x"),
            Part::Thought("unsigned".into()),
            Part::Text("seven".into()),
        ];
        it.messages.push(message);
    });
    let expected = json!([
        {"reasoningContent": {"reasoningText": {"text": "signed", "signature": "c2ln"}}},
        {"reasoningContent": {"redactedContent": "aGlk"}},
        {"text": "seven"},
    ]);
    assert_eq!(
        sent("m", &request).unwrap()["messages"][1]["content"],
        expected
    );
}

#[test]
fn models_have_their_own_words() {
    let thinking = |tokens| {
        with(|it| {
            it.reasoning = Some(Reasoning {
                tokens_max: Some(Tokens(tokens)),
                ..Reasoning::default()
            });
        })
    };
    let own = |model, request: &ChatRequest| {
        sent(model, request).unwrap()["additionalModelRequestFields"].clone()
    };
    let enabled = json!({"thinking": {"type": "enabled", "budget_tokens": 2048}});
    assert_eq!(own(CLAUDE, &thinking(2048)), enabled);
    assert_eq!(own(CLAUDE, &thinking(0)), Value::Null);
    let bound = sent(CLAUDE, &thinking(2048)).unwrap()["inferenceConfig"].clone();
    assert_eq!(bound, json!({"maxTokens": 8192 + 2048}));
    assert_eq!(own("amazon.nova-pro-v1:0", &thinking(2048)), Value::Null);
    let top_k = with(|it| it.sampling.top_k = Some(40));
    assert_eq!(own(CLAUDE, &top_k), json!({"top_k": 40}));
    assert_eq!(
        own("us.amazon.nova-pro-v1:0", &top_k),
        json!({"inferenceConfig": {"topK": 40}})
    );
    let adaptive = json!({"type": "adaptive", "display": "summarized"});
    for (model, effort, thinking, word) in [
        (CLAUDE, Effort::None, Value::Null, Value::Null),
        (
            CLAUDE,
            Effort::Low,
            json!({"type": "enabled", "budget_tokens": 1024}),
            Value::Null,
        ),
        (
            "us.anthropic.claude-sonnet-4-6-v1",
            Effort::None,
            Value::Null,
            Value::Null,
        ),
        (
            "us.anthropic.claude-sonnet-4-6-v1",
            Effort::Low,
            adaptive.clone(),
            json!("low"),
        ),
        (
            "anthropic.claude-opus-5-v1:0",
            Effort::XHigh,
            adaptive,
            json!("xhigh"),
        ),
        ("meta.llama4", Effort::High, Value::Null, Value::Null),
    ] {
        let request = with(|it| {
            it.reasoning = Some(Reasoning {
                effort: Some(effort),
                ..Reasoning::default()
            });
        });
        let sent = sent(model, &request).unwrap();
        let written = &sent["additionalModelRequestFields"]["thinking"];
        assert_eq!(*written, thinking, "{model}");
        assert_eq!(sent["outputConfig"]["effort"], word, "{model}");
    }
    let both = with(|it| {
        it.sampling.temperature = Some(0.5);
        it.sampling.top_p = Some(0.25);
    });
    let config = |model| sent(model, &both).unwrap()["inferenceConfig"].clone();
    assert_eq!(config(CLAUDE), json!({"temperature": 0.5}));
    assert_eq!(
        config("meta.llama4"),
        json!({"temperature": 0.5, "topP": 0.25})
    );
    let schema = json!({"name": "n", "schema": {"type": "object"}, "strict": true});
    let request = with(|it| it.format = OutputFormat::JsonSchema(schema.clone()));
    let expected = json!({"textFormat": {"type": "json_schema", "structure": {"jsonSchema": {
        "name": "n", "schema": "{\"type\":\"object\"}"}}}});
    assert_eq!(sent("m", &request).unwrap()["outputConfig"], expected);
}

/// Sonnet 4.5 and those before it answered 400 to an effort, and Opus 4.7 to a budget.
#[test]
fn a_claude_is_told_to_think_in_the_words_of_its_age() {
    let budget = |tokens: u32| json!({"thinking": {"type": "enabled", "budget_tokens": tokens}});
    let adaptive = || json!({"thinking": {"type": "adaptive", "display": "summarized"}});
    let word = |effort: &str| json!({ "effort": effort });
    let nothing = || Value::Null;
    let efforts = |effort| Reasoning {
        effort: Some(effort),
        ..Reasoning::default()
    };
    let tokens = |tokens| Reasoning {
        tokens_max: Some(Tokens(tokens)),
        ..Reasoning::default()
    };
    let older = "us.anthropic.claude-3-7-sonnet-20250219-v1:0";
    let opus = "global.anthropic.claude-opus-4-6-v1";
    let newest = "anthropic.claude-opus-5";
    for (model, reasoning, own, output) in [
        (CLAUDE, efforts(Effort::Medium), budget(8192), nothing()),
        (older, efforts(Effort::Low), budget(1024), nothing()),
        (CLAUDE, tokens(2048), budget(2048), nothing()),
        (CLAUDE, efforts(Effort::None), nothing(), nothing()),
        (CLAUDE, tokens(0), nothing(), nothing()),
        (opus, efforts(Effort::Low), adaptive(), word("low")),
        (opus, efforts(Effort::XHigh), adaptive(), word("high")),
        (opus, efforts(Effort::None), nothing(), nothing()),
        (newest, tokens(2048), adaptive(), word("medium")),
        (newest, efforts(Effort::XHigh), adaptive(), word("xhigh")),
        (newest, efforts(Effort::None), nothing(), word("low")),
        ("amazon.nova-pro-v1:0", tokens(2048), nothing(), nothing()),
        ("meta.llama4", efforts(Effort::High), nothing(), nothing()),
    ] {
        let request = with(|it| it.reasoning = Some(reasoning));
        let body = sent(model, &request).unwrap();
        let name = format!("{model} {reasoning:?}");
        assert_eq!(body["additionalModelRequestFields"], own, "{name}");
        assert_eq!(body["outputConfig"], output, "{name}");
        let budget = own["thinking"]["budget_tokens"].as_u64();
        let bound = budget.map(|it| json!({"maxTokens": it + 8192}));
        assert_eq!(body["inferenceConfig"], bound.unwrap_or_default(), "{name}");
    }
}

#[test]
fn a_budget_goes_only_beside_a_turn_that_began_with_a_signed_thought() {
    let thinking = |model: &str, content: Vec<Part>| {
        let request = with(|it| {
            it.tools = vec![tool("f")];
            let mut call = call("c", "{}");
            call.content = content.clone();
            it.messages.extend([call, result("c", "x")]);
            it.reasoning = Some(Reasoning {
                effort: Some(Effort::Low),
                ..Reasoning::default()
            });
        });
        let body = sent(model, &request).unwrap();
        body["additionalModelRequestFields"]["thinking"]["type"].clone()
    };
    let signed = |of| {
        let seal = Seal {
            of,
            kind: SealKind::Signature,
            data: "c2ln".into(),
        };
        vec![Part::Thought("hm".into()), Part::Seal(seal)]
    };
    for (content, expected) in [
        (Vec::new(), Value::Null),
        (signed(Dialect::Anthropic), Value::Null),
        (signed(Dialect::Bedrock), json!("enabled")),
    ] {
        assert_eq!(thinking(CLAUDE, content.clone()), expected);
        let newer = thinking("anthropic.claude-sonnet-4-6", content);
        assert_eq!(newer, json!("adaptive"));
    }
}

#[test]
fn blank_texts_say_nothing() {
    let request = with(|it| {
        it.messages[0].content.push(Part::Text("\n".into()));
        it.messages.insert(0, Message::new(Role::System, " \n"));
        it.messages.push(Message::new(Role::Assistant, " "));
    });
    let expected = json!({"messages": [{"role": "user", "content": [{"text": "hi"}]}]});
    assert_eq!(sent("m", &request).unwrap(), expected);
}

#[test]
fn a_model_stands_in_the_path_encoded() {
    let streamed = Delivery::Streamed {
        includes_usage: true,
    };
    for (model, delivery, target) in [
        (
            "amazon.nova-pro-v1:0",
            Delivery::Whole,
            "/model/amazon.nova-pro-v1%3A0/converse",
        ),
        (
            "arn:aws:bedrock:eu-west-1:1:inference-profile/eu.x",
            streamed,
            "/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A1%3Ainference-profile%2Feu.x/converse-stream",
        ),
    ] {
        assert_eq!(Converse.target(model, delivery), target);
    }
}

#[test]
fn a_whole_reply_keeps_what_it_can_and_refuses_the_rest() {
    let reply = |content: Value, reason: &str| {
        let body = json!({"output": {"message": {"role": "assistant", "content": content}},
            "stopReason": reason, "usage": {"inputTokens": 3, "outputTokens": 4, "totalTokens": 17,
            "cacheReadInputTokens": 8, "cacheWriteInputTokens": 2}, "metrics": {"latencyMs": 9}});
        Converse.decode_reply(body.to_string().as_bytes())
    };
    let cited = json!([
        {"text": "a"},
        {"citationsContent": {"content": [{"text": "b"}], "citations": []}},
        {"reasoningContent": {"redactedContent": "aGlk"}},
        {"toolUse": {"toolUseId": "t", "name": "f"}},
    ]);
    let read = reply(cited, "tool_use").unwrap();
    let choice = &read.choices[0];
    assert_eq!(choice.text(), "ab");
    assert!(matches!(&choice.pieces[1], ReplyPiece::Seal(seal) if seal.kind == SealKind::Hidden));
    assert_eq!(choice.tool_calls[0].arguments, "{}");
    let usage = read.usage.unwrap();
    assert_eq!(usage.prompt_tokens, Tokens(13));
    assert_eq!(usage.cached_tokens, Tokens(8));
    assert_eq!(usage.cache_write_tokens, Tokens(2));
    assert_eq!(usage.completion_tokens, Tokens(4));
    for (word, reason) in [
        ("end_turn", FinishReason::Stop),
        ("stop_sequence", FinishReason::Stop),
        ("max_tokens", FinishReason::Length),
        ("model_context_window_exceeded", FinishReason::Length),
        ("tool_use", FinishReason::ToolCalls),
        ("guardrail_intervened", FinishReason::ContentFilter),
        ("content_filtered", FinishReason::ContentFilter),
    ] {
        assert_eq!(reply(json!([]), word).unwrap().choices[0].reason, reason);
    }
    for (content, word) in [
        (json!([]), "malformed_tool_use"),
        (json!([]), "malformed_model_output"),
        (json!([{"image": {}}]), "end_turn"),
        (
            json!([{"toolUse": {"toolUseId": "t", "name": "f", "type": "server_tool_use"}}]),
            "tool_use",
        ),
        (json!([{"toolUse": {"name": "f"}}]), "tool_use"),
        (json!(7), "end_turn"),
    ] {
        assert_eq!(reply(content, word).unwrap_err().as_label(), "garbled");
    }
    for bytes in ["", "{}", "[]", r#"{"output": {}}"#] {
        assert!(Converse.decode_reply(bytes.as_bytes()).is_err(), "{bytes}");
    }
}

fn event(name: &str, payload: &Value) -> Vec<u8> {
    let headers = [
        (":event-type", name),
        (":content-type", "application/json"),
        (":message-type", "event"),
    ];
    frame(&headers, payload.to_string().as_bytes())
}

fn exception(name: &str, payload: &Value) -> Vec<u8> {
    let headers = [(":exception-type", name), (":message-type", "exception")];
    frame(&headers, payload.to_string().as_bytes())
}

fn delta(block: u32, delta: Value) -> Vec<u8> {
    event(
        "contentBlockDelta",
        &json!({"contentBlockIndex": block, "delta": delta}),
    )
}

fn stream(frames: &[Vec<u8>]) -> Vec<Result<ChatEvent, BackendError>> {
    let mut out = VecDeque::new();
    let mut decoder = Converse.decoder();
    decoder.push(&frames.concat(), &mut out);
    decoder.finish(&mut out);
    assert!(decoder.is_over());
    let mut grammar = Grammar::default();
    for (at, event) in out.iter().enumerate() {
        match event {
            Ok(event) => grammar.take(event).unwrap(),
            Err(_) => assert_eq!(at, out.len() - 1),
        }
    }
    if out.back().is_some_and(Result::is_ok) {
        grammar.finish().unwrap();
    }
    out.into()
}

#[track_caller]
fn label(frames: &[Vec<u8>]) -> &'static str {
    match stream(frames).last() {
        Some(Err(error)) => error.as_label(),
        other => panic!("no error but {other:?}"),
    }
}

#[test]
fn exceptions_are_errors_by_their_names() {
    let start = || event("messageStart", &json!({"role": "assistant"}));
    for (name, payload, expected) in [
        (
            "throttlingException",
            json!({"message": "x"}),
            "rate_limited",
        ),
        (
            "serviceUnavailableException",
            json!({"message": "x"}),
            "overloaded",
        ),
        ("internalServerException", json!({"message": "x"}), "failed"),
        (
            "modelTimeoutException",
            json!({"message": "x"}),
            "timed_out",
        ),
        ("validationException", json!({"message": "bad"}), "rejected"),
        ("validationException", json!(7), "failed"),
        (
            "validationException",
            json!({"message": "prompt is too long: 210000 tokens > 200000 maximum"}),
            "context_exceeded",
        ),
        (
            "modelStreamErrorException",
            json!({"message": "x", "originalStatusCode": 503}),
            "failed",
        ),
        ("somethingNewException", json!(null), "failed"),
    ] {
        assert_eq!(label(&[exception(name, &payload)]), expected, "{name}");
        assert_eq!(
            label(&[start(), exception(name, &payload)]),
            expected,
            "{name}"
        );
    }
    let events = stream(&[exception(
        "modelStreamErrorException",
        &json!({"originalStatusCode": 503}),
    )]);
    assert!(matches!(
        events[0],
        Err(BackendError::Failed { status: 503 })
    ));
    let headers = [(":message-type", "error"), (":error-code", "InternalError")];
    assert_eq!(label(&[frame(&headers, b"")]), "failed");
}

#[test]
fn what_is_no_stream_is_an_error() {
    let start = || event("messageStart", &json!({"role": "assistant"}));
    let stop = || event("messageStop", &json!({"stopReason": "end_turn"}));
    let text = || delta(0, json!({"text": "a"}));
    let mut damaged = text();
    damaged[20] ^= 1;
    let mut cut = text();
    cut.truncate(30);
    let call = |at: u32| {
        let body =
            json!({"contentBlockIndex": at, "start": {"toolUse": {"toolUseId": "t", "name": "f"}}});
        event("contentBlockStart", &body)
    };
    let many: Vec<Vec<u8>> = (0..257).map(call).collect();
    for (frames, expected) in [
        (vec![], "interrupted"),
        (vec![start()], "interrupted"),
        (vec![start(), text()], "interrupted"),
        (vec![start(), text(), stop(), cut], "interrupted"),
        (vec![start(), damaged], "garbled"),
        (vec![b"data: {\"text\": 1}\n\n".to_vec()], "garbled"),
        (vec![start(), text(), stop(), text()], "garbled"),
        (
            vec![start(), delta(3, json!({"toolUse": {"input": "{"}}))],
            "garbled",
        ),
        (
            vec![start(), event("contentBlockDelta", &json!({"delta": 7}))],
            "garbled",
        ),
        (
            vec![
                start(),
                event("contentBlockStart", &json!({"start": {"image": {}}})),
            ],
            "garbled",
        ),
        (vec![start(), event("messageStop", &json!({}))], "garbled"),
        (
            vec![
                start(),
                event("messageStop", &json!({"stopReason": "malformed_tool_use"})),
            ],
            "garbled",
        ),
        (many, "garbled"),
    ] {
        assert_eq!(label(&frames), expected);
    }
}

#[test]
fn a_stream_is_whole_without_its_usage_or_its_start() {
    let stop = || event("messageStop", &json!({"stopReason": "end_turn"}));
    let metadata = event("metadata", &json!({"metrics": {"latencyMs": 1}}));
    let unknown = event("somethingNew", &json!({"x": 1}));
    let events = stream(&[
        unknown,
        delta(0, json!({"text": "a"})),
        stop(),
        stop(),
        metadata,
    ]);
    assert_eq!(events.len(), 3);
    assert!(matches!(events[0], Ok(ChatEvent::Started(_))));
}

#[test]
fn a_call_without_input_has_an_empty_object() {
    let events = stream(&[
        event("messageStart", &json!({"role": "assistant"})),
        event(
            "contentBlockStart",
            &json!({"contentBlockIndex": 1, "start": {"toolUse": {"toolUseId": "t", "name": "f"}}}),
        ),
        delta(1, json!({"toolUse": {"input": ""}})),
        event("contentBlockStop", &json!({"contentBlockIndex": 1})),
        event("contentBlockStop", &json!({"contentBlockIndex": 1})),
        event("messageStop", &json!({"stopReason": "tool_use"})),
    ]);
    let arguments: String = events
        .iter()
        .filter_map(|event| match event {
            Ok(ChatEvent::ToolCall { part, .. }) => Some(part.arguments.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(arguments, "{}");
}

#[test]
fn a_refusal_gives_its_message_and_type() {
    let read = |body: Value| Converse.decode_error(body.to_string().as_bytes());
    let reply =
        read(json!({"message": "bad", "__type": "com.amazon#ValidationException"})).unwrap();
    assert_eq!(reply.reason.message, "bad");
    assert_eq!(reply.reason.code.as_deref(), Some("ValidationException"));
    assert_eq!(read(json!({"Message": "no"})).unwrap().reason.message, "no");
    let long = read(json!({"message": "Input is too long for requested model."})).unwrap();
    assert_eq!(long.reason.code.as_deref(), Some("context_length_exceeded"));
    let counted = json!({"message": "prompt is too long: 210000 tokens > 200000 maximum"});
    let counted = read(counted).unwrap().context;
    assert_eq!(counted, Some((Tokens(210_000), Tokens(200_000))));
    for body in [
        json!([]),
        json!({}),
        json!({"message": 7}),
        json!({"error": {"message": "x"}}),
    ] {
        assert_eq!(read(body), None);
    }
}

proptest! {
    #[test]
    fn any_deltas_obey_the_grammar(kinds in prop::collection::vec(0..7_u8, 0..12)) {
        let frames: Vec<Vec<u8>> = kinds
            .iter()
            .map(|kind| match kind {
                0 => event("messageStart", &json!({"role": "assistant"})),
                1 => delta(0, json!({"text": "a"})),
                2 => delta(0, json!({"reasoningContent": {"text": "a", "signature": "b"}})),
                3 => event("contentBlockStart", &json!({"contentBlockIndex": 1,
                    "start": {"toolUse": {"toolUseId": "t", "name": "f"}}})),
                4 => delta(1, json!({"toolUse": {"input": "{"}})),
                5 => event("messageStop", &json!({"stopReason": "end_turn"})),
                _ => event("metadata", &json!({"usage": {"inputTokens": 1}})),
            })
            .collect();
        stream(&frames);
    }
}
