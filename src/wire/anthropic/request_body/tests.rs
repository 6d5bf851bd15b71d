use bytes::Bytes;
use domain::{
    Audio, Dry, Effort, File, Image, Message, Part, Reasoning, Role, Seal, SealKind, SourceBody,
    ToolCall,
};

use super::super::decode_request::decode_request;
use super::super::encode_request::encode_request;
use super::*;
use crate::openai;

fn user(text: &str) -> Message {
    Message::new(Role::User, text)
}

fn ask() -> ChatRequest {
    ChatRequest::new("m", vec![user("hi")])
}

fn body(request: &ChatRequest) -> Value {
    request_body("claude-opus-4-5", request).unwrap()
}

/// What the declined field is, or the ability that is missing.
fn refused(request: &ChatRequest) -> String {
    match request_body("claude-opus-5", request) {
        Err(BackendError::Declined { reason }) => reason.param.unwrap(),
        Err(BackendError::Unable(ability)) => format!("{ability:?}"),
        other => panic!("{other:?}"),
    }
}

const FULL: &[u8] = include_bytes!("../fixtures/request_full.json");

fn full() -> (Bytes, ChatRequest) {
    let bytes = Bytes::from_static(FULL);
    let (request, _) = decode_request(&bytes).unwrap();
    (bytes, request)
}

#[test]
fn a_request_of_the_same_dialect_leaves_as_it_came_but_for_model_and_stream() {
    let source = br#"{ "max_tokens" : 5, "stream":true, "temperature": 0.50,
        "messages": [ {"role":"user","content":"\u00e9"} ], "new": [1, 2.50], "model":"alias" }"#;
    let (request, _) = decode_request(&Bytes::from_static(source)).unwrap();
    let sent = encode_request("claude-x", &request).unwrap();
    let expected = r#"{"model":"claude-x","max_tokens":5,"temperature":0.50,"messages":[ {"role":"user","content":"\u00e9"} ],"new":[1, 2.50],"stream":true}"#;
    assert_eq!(sent, expected);
    let whole = ChatRequest {
        delivery: Delivery::Whole,
        ..request
    };
    let sent = encode_request("claude-x", &whole).unwrap();
    assert!(!sent.windows(8).any(|it| it == b"\"stream\""));
}

#[test]
fn another_dialects_bytes_do_not_leave() {
    let request = ChatRequest {
        source: Some(SourceBody {
            dialect: Dialect::OpenAi,
            bytes: Bytes::from_static(br#"{"secret":1}"#),
        }),
        ..ask()
    };
    let sent = encode_request("m", &request).unwrap();
    assert!(!sent.windows(6).any(|it| it == b"secret"));
}

/// As a masked request is: its bytes are gone, and everything has to be in `domain`.
#[test]
fn a_request_without_its_bytes_is_written_as_it_came() {
    let (bytes, request) = full();
    let written = body(&ChatRequest {
        source: None,
        ..request
    });
    let mut expected: Value = serde_json::from_slice(&bytes).unwrap();
    expected["model"] = "claude-opus-4-5".into();
    // What `domain` says in its own way.
    expected["messages"][0]["content"][5] = json!({"type": "text", "text": "Note\n\nIt is a cat."});
    expected["tools"][1]
        .as_object_mut()
        .unwrap()
        .shift_remove("type");
    assert_eq!(written, expected);
}

#[test]
fn what_was_read_once_is_read_again() {
    let (_, request) = full();
    let written = serde_json::to_vec(&body(&request)).unwrap();
    let (again, _) = decode_request(&Bytes::from(written)).unwrap();
    let shown = |it: &ChatRequest| serde_json::to_value(it).unwrap();
    let mut before = shown(&request);
    before["model"] = "claude-opus-4-5".into();
    assert_eq!(shown(&again), before);
}

#[test]
fn a_chat_of_openais_dialect_becomes_messages() {
    let source = Bytes::from_static(include_bytes!("../fixtures/request_openai.json"));
    let request = openai::decode_request(&source).unwrap();
    let expected: Value =
        serde_json::from_str(include_str!("../fixtures/request_from_openai.json")).unwrap();
    assert_eq!(body(&request), expected);
}

#[test]
fn system_messages_come_first_and_turns_of_one_role_are_one() {
    let request = ChatRequest {
        messages: vec![
            Message::new(Role::System, "a"),
            user("b"),
            Message::new(Role::Developer, "c"),
            user("d"),
            Message::new(Role::Assistant, ""),
            user(""),
            Message::new(Role::Assistant, "e"),
        ],
        ..ask()
    };
    let written = body(&request);
    let text = |text: &str| json!({"type": "text", "text": text});
    assert_eq!(written["system"], json!([text("a"), text("c")]));
    let turns = json!([
        {"role": "user", "content": [text("b"), text("d")]},
        {"role": "assistant", "content": "e"},
    ]);
    assert_eq!(written["messages"], turns);
}

/// Anthropic answered 400: "text content blocks must contain non-whitespace text".
#[test]
fn blank_texts_say_nothing() {
    let mut blank_result = Message::new(Role::Tool, " \n");
    blank_result.tool_call_id = Some("c".into());
    let mut request = ChatRequest {
        messages: vec![
            Message::new(Role::System, "\n\n"),
            user("a"),
            assistant(vec![Part::Text("\n".into())], vec![call("c", "")]),
            blank_result,
            user("\t"),
            Message::new(Role::Assistant, " "),
            user("b "),
        ],
        ..ask()
    };
    let written = body(&request);
    assert_eq!(written.get("system"), None);
    let turns = json!([
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [
            {"type": "tool_use", "id": "c", "name": "f", "input": {}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "c"},
            {"type": "text", "text": "b "},
        ]},
    ]);
    assert_eq!(written["messages"], turns);
    request.messages = vec![Message::new(Role::System, "a"), user(" ")];
    assert_eq!(refused(&request), "messages");
    request.dialect = Dialect::Anthropic;
    let own = body(&request);
    assert_eq!(own["messages"], json!([{"role": "user", "content": " "}]));
}

#[test]
fn a_system_message_amid_the_others_stays_for_those_who_wrote_it_there() {
    let source = br#"{"model":"m","max_tokens":5,"messages":[{"role":"system","content":"a"},
        {"role":"user","content":"b"},{"role":"system","content":"c"}]}"#;
    let (request, _) = decode_request(&Bytes::from_static(source)).unwrap();
    let written = body(&request);
    assert_eq!(written["system"], "a");
    assert_eq!(
        written["messages"][1],
        json!({"role": "system", "content": "c"})
    );
}

fn assistant(content: Vec<Part>, tool_calls: Vec<ToolCall>) -> Message {
    Message {
        content,
        tool_calls,
        ..Message::new(Role::Assistant, "")
    }
}

fn call(id: &str, arguments: &str) -> ToolCall {
    ToolCall {
        id: id.into(),
        name: "f".into(),
        arguments: arguments.into(),
        seal: None,
    }
}

fn seal(of: Dialect, kind: SealKind) -> Part {
    Part::Seal(Seal {
        of,
        kind,
        data: "c2ln".into(),
    })
}

#[test]
fn thoughts_go_back_signed_or_not_at_all() {
    let thought = || Part::Thought("hm".into());
    let signed = json!({"type": "thinking", "thinking": "hm", "signature": "c2ln"});
    let alone = json!({"type": "thinking", "thinking": "", "signature": "c2ln"});
    let hidden = json!({"type": "redacted_thinking", "data": "c2ln"});
    let signature = |of| seal(of, SealKind::Signature);
    for (parts, expected) in [
        (
            vec![thought(), signature(Dialect::Anthropic)],
            vec![signed.clone()],
        ),
        (vec![signature(Dialect::Anthropic)], vec![alone]),
        (
            vec![seal(Dialect::Anthropic, SealKind::Hidden)],
            vec![hidden],
        ),
        (vec![thought()], vec![]),
        (vec![thought(), signature(Dialect::Gemini)], vec![]),
        (vec![seal(Dialect::Responses, SealKind::Hidden)], vec![]),
        (
            vec![thought(), thought(), signature(Dialect::Anthropic)],
            vec![json!({"type": "thinking", "thinking": "hmhm", "signature": "c2ln"})],
        ),
        (
            vec![
                thought(),
                Part::Text("x".into()),
                thought(),
                signature(Dialect::Anthropic),
            ],
            vec![json!({"type": "text", "text": "x"}), signed],
        ),
    ] {
        let parts = parts
            .into_iter()
            .chain([Part::Text("end".into())])
            .collect();
        let request = ChatRequest {
            messages: vec![assistant(parts, Vec::new())],
            ..ask()
        };
        let end = json!({"type": "text", "text": "end"});
        let expected: Vec<Value> = expected.into_iter().chain([end]).collect();
        let written = body(&request);
        let content = match &written["messages"][0]["content"] {
            Value::String(text) => json!([{"type": "text", "text": text}]),
            blocks => blocks.clone(),
        };
        assert_eq!(content, json!(expected));
    }
}

#[test]
fn calls_and_results_keep_their_ids_and_arguments() {
    let result = |id: &str, is_failure: bool| Message {
        tool_call_id: Some(id.into()),
        is_failure,
        ..Message::new(Role::Tool, "no")
    };
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(500), "]".repeat(500));
    let calls = vec![
        call("functions.f:0", ""),
        call("b", "{\"x\""),
        call("c", &deep),
    ];
    let request = ChatRequest {
        messages: vec![
            user("a"),
            assistant(Vec::new(), calls),
            result("functions.f:0", false),
            result("b", true),
            user("go on"),
        ],
        ..ask()
    };
    let expected = json!([
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [
            {"type": "tool_use", "id": "functions_f_0", "name": "f", "input": {}},
            {"type": "tool_use", "id": "b", "name": "f", "input": {"INVALID_JSON": "{\"x\""}},
            {"type": "tool_use", "id": "c", "name": "f", "input": {"INVALID_JSON": deep}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "functions_f_0", "content": "no"},
            {"type": "tool_result", "tool_use_id": "b", "content": "no", "is_error": true},
            {"type": "text", "text": "go on"},
        ]},
    ]);
    assert_eq!(body(&request)["messages"], expected);
}

fn with_part(part: Part) -> ChatRequest {
    let mut request = ask();
    request.messages[0].content.push(part);
    request
}

fn file(url: &str) -> ChatRequest {
    with_part(Part::File(File {
        url: url.into(),
        name: Some("n".into()),
    }))
}

#[test]
fn files_become_documents() {
    let document = |request: &ChatRequest| body(request)["messages"][0]["content"][1].clone();
    let pdf = json!({"type": "base64", "media_type": "application/pdf", "data": "AA=="});
    let text = json!({"type": "text", "media_type": "text/plain", "data": "hé"});
    let url = json!({"type": "url", "url": "https://a/b.pdf"});
    for (address, source) in [
        ("data:application/pdf;base64,AA==", pdf),
        ("data:text/markdown;charset=utf-8;base64,aMOp", text),
        ("https://a/b.pdf", url),
    ] {
        let expected = json!({"type": "document", "source": source, "title": "n"});
        assert_eq!(document(&file(address)), expected, "{address}");
    }
}

#[test]
fn what_there_is_no_word_for_is_declined_with_its_place() {
    let image = |url: &str| {
        with_part(Part::Image(Image {
            url: url.into(),
            detail: None,
        }))
    };
    for (request, param) in [
        (
            image("data:image/bmp;base64,AA=="),
            "messages[0].content[1]",
        ),
        (image("data:image/png,plain"), "messages[0].content[1]"),
        (
            file("data:application/zip;base64,AA=="),
            "messages[0].content[1]",
        ),
        (file("data:text/plain;base64,!"), "messages[0].content[1]"),
        (
            with_part(Part::Audio(Audio {
                data: "AA==".into(),
                format: "wav".into(),
            })),
            "Audio",
        ),
        (
            with_part(Part::Other(json!({"type": "x"}))),
            "messages[0].content[1]",
        ),
    ] {
        assert_eq!(refused(&request), param);
    }
    let mut pictured = image("https://a/b.png");
    pictured.messages[0].role = Role::System;
    assert_eq!(refused(&pictured), "messages[0].content[1]");

    type Change = fn(&mut ChatRequest);
    let changes: [(Change, &str); 16] = [
        (|it| it.choices = 2, "Choices"),
        (|it| it.sampling.logprobs = Some(0), "Logprobs"),
        (|it| it.sampling.logit_bias = vec![(1, 1.0)], "LogitBias"),
        (|it| it.format = OutputFormat::JsonObject, "JsonObject"),
        (
            |it| it.format = OutputFormat::Regex("a".into()),
            "Constraints",
        ),
        (
            |it| it.format = OutputFormat::JsonSchema(json!({"name": "n"})),
            "response_format.json_schema.schema",
        ),
        (|it| it.sampling.temperature = Some(1.5), "temperature"),
        (
            |it| it.sampling.frequency_penalty = Some(0.5),
            "frequency_penalty",
        ),
        (
            |it| it.sampling.presence_penalty = Some(-0.5),
            "presence_penalty",
        ),
        (|it| it.sampling.min_p = Some(0.5), "min_p"),
        (
            |it| it.sampling.stop = vec!["a".into(), "\n\n".into()],
            "stop[1]",
        ),
        (|it| it.sampling.open.typical_p = Some(0.5), "typical_p"),
        (
            |it| it.sampling.open.stop_tokens = vec![1],
            "stop_token_ids",
        ),
        (|it| it.sampling.open.ignores_end = true, "ignore_eos"),
        (|it| it.sampling.open.top_n_sigma = Some(1.0), "top_n_sigma"),
        (
            |it| {
                it.sampling.open.dry = Some(Dry {
                    multiplier: 1.0,
                    base: 1.5,
                    allowed: 2,
                    tokens_max: None,
                    breakers: Vec::new(),
                });
            },
            "dry_multiplier",
        ),
    ];
    for (change, param) in changes {
        let mut request = ask();
        change(&mut request);
        assert_eq!(refused(&request), param);
    }
}

#[test]
fn hints_and_the_extras_of_others_are_left_out() {
    let mut request = ask();
    request.messages[0].name = Some("ann".into());
    request.messages[0].extra.insert("x".into(), 1.into());
    request.extra.insert("user".into(), "u".into());
    request.extra.insert("/messages/0/x".into(), 1.into());
    request.sampling.seed = Some(7);
    request.sampling.frequency_penalty = Some(0.0);
    request.sampling.top_k = Some(0);
    let expected = json!({
        "model": "claude-opus-4-5",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": MAX_TOKENS_DEFAULT.0,
    });
    assert_eq!(body(&request), expected);
}

#[test]
fn tool_choices_have_their_words() {
    let tool = Tool {
        name: "f".into(),
        description: None,
        parameters: json!({}),
        extra: domain::Extra::new(),
    };
    for (choice, parallel, expected) in [
        (ToolChoice::Auto, None, None),
        (ToolChoice::Auto, Some(true), None),
        (
            ToolChoice::Auto,
            Some(false),
            Some(json!({"type": "auto", "disable_parallel_tool_use": true})),
        ),
        (ToolChoice::None, Some(false), Some(json!({"type": "none"}))),
        (ToolChoice::Required, None, Some(json!({"type": "any"}))),
        (
            ToolChoice::Named("f".into()),
            Some(false),
            Some(json!({"type": "tool", "name": "f", "disable_parallel_tool_use": true})),
        ),
    ] {
        let request = ChatRequest {
            tools: vec![tool.clone()],
            tool_choice: choice.clone(),
            parallel_tool_calls: parallel,
            ..ask()
        };
        let written = body(&request);
        assert_eq!(written.get("tool_choice"), expected.as_ref(), "{choice:?}");
        let tools = json!([{"name": "f", "input_schema": {"type": "object"}}]);
        assert_eq!(written["tools"], tools);
    }
}

fn thinking_of(change: impl FnOnce(&mut ChatRequest), effort: Effort) -> Value {
    let mut request = ChatRequest {
        reasoning: Some(Reasoning {
            effort: Some(effort),
            ..Reasoning::default()
        }),
        ..ask()
    };
    change(&mut request);
    let written = body(&request);
    json!([
        written.get("thinking").map(|it| &it["budget_tokens"]),
        written["max_tokens"]
    ])
}

#[test]
fn thoughts_take_their_budget_beside_the_reply_and_yield_to_other_wishes() {
    let budget = |change: fn(&mut ChatRequest)| thinking_of(change, Effort::Medium);
    assert_eq!(budget(|_| {}), json!([8192, MAX_TOKENS_DEFAULT.0 + 8192]));
    let bound = |it: &mut ChatRequest| it.output_tokens_max = Some(Tokens(3000));
    assert_eq!(budget(bound), json!([2999, 3000]));
    let none = json!([null, MAX_TOKENS_DEFAULT.0]);
    assert_eq!(budget(|it| it.sampling.temperature = Some(0.5)), none);
    assert_eq!(budget(|it| it.sampling.top_k = Some(5)), none);
    assert_eq!(budget(|it| it.tool_choice = ToolChoice::Required), none);
    assert_eq!(budget(|it| it.sampling.top_p = Some(0.5)), none);
    assert_eq!(
        budget(|it| it.messages.push(Message::new(Role::Assistant, "So"))),
        none
    );
    let some = json!([8192, MAX_TOKENS_DEFAULT.0 + 8192]);
    assert_eq!(budget(|it| it.sampling.temperature = Some(1.0)), some);
    assert_eq!(budget(|it| it.sampling.top_p = Some(0.95)), some);
}

/// Dialects without a place for signatures bring calls back without the thoughts before them.
#[test]
fn who_called_tools_after_thoughts_that_are_lost_thinks_no_more_by_budget() {
    let seal = |of| {
        Part::Seal(Seal {
            of,
            kind: SealKind::Signature,
            data: "c2ln".into(),
        })
    };
    let call = ToolCall {
        id: "c1".into(),
        name: "f".into(),
        arguments: "{}".into(),
        seal: None,
    };
    let result = Message {
        tool_call_id: Some("c1".into()),
        ..Message::new(Role::Tool, "3")
    };
    let asked = |parts: Vec<Part>, calls: Vec<ToolCall>| ChatRequest {
        reasoning: Some(Reasoning {
            effort: Some(Effort::Low),
            ..Reasoning::default()
        }),
        messages: vec![
            user("go"),
            Message {
                content: parts,
                tool_calls: calls,
                ..Message::new(Role::Assistant, "")
            },
            result.clone(),
        ],
        ..ask()
    };
    let thinks = |model: &str, request: &ChatRequest| {
        let written = request_body(model, request).unwrap();
        written.get("thinking").is_some()
    };
    let lost = asked(vec![seal(Dialect::Gemini)], vec![call.clone()]);
    assert!(!thinks("claude-opus-4-5", &lost));
    assert!(thinks("claude-opus-4-6", &lost));
    assert!(thinks("kimi-k3", &lost));
    let kept = asked(
        vec![Part::Thought("hm".into()), seal(Dialect::Anthropic)],
        vec![call],
    );
    assert!(thinks("claude-opus-4-5", &kept));
    let said = asked(vec![Part::Text("fine".into())], Vec::new());
    assert!(thinks("claude-opus-4-5", &said));
}

/// A chat of OpenAI's, in its second request, was answered 400: "Expected `thinking` or
/// `redacted_thinking`, but found `tool_use`".
#[test]
fn a_budget_goes_only_beside_a_turn_that_began_with_a_signed_thought() {
    let thought = || vec![Part::Thought("hm".into())];
    let own = |kind| {
        let seal = seal(Dialect::Anthropic, kind);
        thought().into_iter().chain([seal]).collect::<Vec<Part>>()
    };
    let signed = || own(SealKind::Signature);
    let of_another = || vec![seal(Dialect::Gemini, SealKind::Signature)];
    let text_first = || {
        let text = Part::Text("a".into());
        std::iter::once(text).chain(signed()).collect::<Vec<Part>>()
    };
    let calling = |content: Vec<Part>| assistant(content, vec![call("c", "")]);
    let said = || Message::new(Role::Assistant, "ok");
    let result = || Message {
        tool_call_id: Some("c".into()),
        ..Message::new(Role::Tool, "1")
    };
    for (case, messages, may_think) in [
        ("unsigned", vec![calling(thought()), result()], false),
        ("bare", vec![calling(Vec::new()), result()], false),
        ("another's", vec![calling(of_another()), result()], false),
        ("text first", vec![calling(text_first()), result()], false),
        ("signed", vec![calling(signed()), result()], true),
        (
            "hidden",
            vec![calling(own(SealKind::Hidden)), result()],
            true,
        ),
        (
            "told to go on",
            vec![calling(Vec::new()), result(), user("go on")],
            false,
        ),
        (
            "in two messages",
            vec![
                assistant(signed(), Vec::new()),
                calling(Vec::new()),
                result(),
            ],
            true,
        ),
        (
            "bare, then signed",
            vec![calling(Vec::new()), result(), calling(signed()), result()],
            false,
        ),
        (
            "signed, then bare",
            vec![calling(signed()), result(), calling(Vec::new()), result()],
            false,
        ),
        (
            "over",
            vec![calling(Vec::new()), result(), said(), user("and?")],
            true,
        ),
        ("begun", vec![said()], false),
        (
            "begun, blank",
            vec![Message::new(Role::Assistant, " ")],
            true,
        ),
    ] {
        let request = ChatRequest {
            messages: std::iter::once(user("hi")).chain(messages).collect(),
            reasoning: Some(Reasoning {
                effort: Some(Effort::Low),
                ..Reasoning::default()
            }),
            ..ask()
        };
        let thinking = |model| {
            let written = request_body(model, &request).unwrap();
            written.get("thinking").map(|it| it["type"].clone())
        };
        let enabled = may_think.then(|| json!("enabled"));
        assert_eq!(thinking("claude-opus-4-5"), enabled, "{case}");
        assert_eq!(
            thinking("claude-opus-4-6"),
            Some(json!("adaptive")),
            "{case}"
        );
    }
}

#[test]
fn a_temperature_and_a_top_p_are_one_too_many_for_claude() {
    let written = |model: &str, dialect, temperature, top_p| {
        let mut request = ask();
        request.dialect = dialect;
        request.sampling.temperature = temperature;
        request.sampling.top_p = top_p;
        let body = request_body(model, &request).unwrap();
        (body["temperature"].as_f64(), body["top_p"].as_f64())
    };
    let (openai, own) = (Dialect::OpenAi, Dialect::Anthropic);
    for (model, dialect, asked, sent) in [
        (
            "claude-opus-4-5",
            openai,
            (Some(0.5), Some(0.25)),
            (Some(0.5), None),
        ),
        (
            "claude-opus-4-5",
            openai,
            (Some(0.5), Some(1.0)),
            (Some(0.5), None),
        ),
        ("claude-opus-4-5", openai, (None, Some(1.0)), (None, None)),
        (
            "claude-opus-4-5",
            openai,
            (None, Some(0.25)),
            (None, Some(0.25)),
        ),
        (
            "claude-opus-4-5",
            own,
            (Some(0.5), Some(1.0)),
            (Some(0.5), Some(1.0)),
        ),
        (
            "claude-opus-4-7",
            openai,
            (Some(0.5), Some(0.25)),
            (None, None),
        ),
        ("claude-sonnet-5", own, (Some(0.5), None), (Some(0.5), None)),
        (
            "kimi-k3",
            openai,
            (Some(0.5), Some(0.25)),
            (Some(0.5), Some(0.25)),
        ),
    ] {
        let (temperature, top_p) = asked;
        assert_eq!(written(model, dialect, temperature, top_p), sent, "{model}");
    }
}

#[test]
fn what_others_clients_always_write_and_white_space_stay_behind() {
    let mut request = ask();
    request.dialect = Dialect::Ollama;
    request.sampling.min_p = Some(0.1);
    request.sampling.open.typical_p = Some(0.5);
    let mut turn = Message::new(Role::Assistant, "\n\n");
    turn.tool_calls = vec![ToolCall {
        id: "c1".into(),
        name: "f".into(),
        arguments: "{}".into(),
        seal: None,
    }];
    request.messages = vec![user(" "), user("go"), turn];
    let written = body(&request);
    let call = json!({"type": "tool_use", "id": "c1", "name": "f", "input": {}});
    assert_eq!(
        written["messages"],
        json!([
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": [call]},
        ])
    );
    request.dialect = Dialect::Anthropic;
    request.sampling = domain::Sampling::default();
    assert_eq!(body(&request)["messages"][0]["content"][0]["text"], " ");
}

#[test]
fn an_effort_for_a_newer_model_stands_beside_the_format() {
    let request = ChatRequest {
        reasoning: Some(Reasoning {
            effort: Some(Effort::High),
            ..Reasoning::default()
        }),
        format: OutputFormat::JsonSchema(json!({"name": "n", "schema": {"type": "object"}})),
        ..ask()
    };
    let written = request_body("claude-opus-5", &request).unwrap();
    let config = json!({
        "format": {"type": "json_schema", "schema": {"type": "object"}},
        "effort": "high",
    });
    assert_eq!(written["output_config"], config);
    let thinking = json!({"type": "adaptive", "display": "summarized"});
    assert_eq!(written["thinking"], thinking);
    assert_eq!(written["max_tokens"], MAX_TOKENS_DEFAULT.0);
}
