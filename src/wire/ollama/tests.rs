//! Goldens by `fixtures/README.md`, hostile requests, and streams.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use domain::{
    BadRequest, ChatEvent, ChatRequest, Delivery, Dialect, FinishReason, OutputFormat, Part, Reply,
    Role, Started, TokenLogprob, TokenLogprobs, Tokens, ToolCallPart, Usage, collect,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::openai::{self, ErrorBody, Framing};
use crate::{ClientDialect, Decoded, ReplyEncoder, ReplyTimes, ServerDialect};

const CHAT: &str = include_str!("fixtures/chat_full.json");
const CHAT_OPENAI: &str = include_str!("fixtures/chat_full.openai.json");
const GENERATE: &str = include_str!("fixtures/generate_full.json");
const GENERATE_OPENAI: &str = include_str!("fixtures/generate_full.openai.json");
const REPLY: &str = include_str!("fixtures/chat_reply.json");
const CHAT_STREAM: &str = include_str!("fixtures/chat_stream.ndjson");
const GENERATE_STREAM: &str = include_str!("fixtures/generate_stream.ndjson");

/// 2023-08-04T08:52:19Z.
const CREATED: u64 = 1_691_139_139;

fn json(bytes: impl AsRef<[u8]>) -> Value {
    serde_json::from_slice(bytes.as_ref()).unwrap()
}

fn chat(value: &Value) -> Result<Decoded, BadRequest> {
    Chat.decode(&Bytes::from(value.to_string()))
}

fn generate(value: &Value) -> Result<Decoded, BadRequest> {
    Generate.decode(&Bytes::from(value.to_string()))
}

/// `base` with `more`.
fn with(mut base: Value, more: &Value) -> Value {
    let more = more.as_object().unwrap().clone();
    base.as_object_mut().unwrap().extend(more);
    base
}

fn hello() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
}

fn prompt() -> Value {
    json!({"model": "m", "prompt": "hi"})
}

fn sent(request: &ChatRequest) -> Value {
    json(openai::Chat.encode_request("up", request).unwrap())
}

#[test]
fn requests_say_the_same_to_an_upstream_of_another_dialect() {
    let request = Chat.decode(&Bytes::from(CHAT)).unwrap().request;
    assert_eq!(sent(&request), json(CHAT_OPENAI));
    assert_eq!(request.dialect, Dialect::Ollama);
    assert_eq!(request.delivery, Delivery::Whole);
    // For models of this machine alone.
    let repeats = request.sampling.open.repeats.unwrap();
    assert_eq!(repeats.tokens_max, Some(33));
    assert_eq!(request.sampling.open.typical_p, Some(0.7));

    let request = Generate.decode(&Bytes::from(GENERATE)).unwrap().request;
    assert_eq!(sent(&request), json(GENERATE_OPENAI));
}

#[test]
fn streams_are_the_rule_and_words_have_their_meaning() {
    for (more, expected) in [
        (json!({}), true),
        (json!({"stream": null}), true),
        (json!({"stream": true}), true),
        (json!({"stream": false}), false),
    ] {
        let request = chat(&with(hello(), &more)).unwrap().request;
        let is_streamed = matches!(request.delivery, Delivery::Streamed { .. });
        assert_eq!(is_streamed, expected, "{more}");
    }
    for (think, effort, is_shown) in [
        (json!(true), None, Some(true)),
        (json!(false), Some("none"), Some(false)),
        (json!("low"), Some("low"), Some(true)),
        (json!("max"), Some("xhigh"), Some(true)),
    ] {
        let request = chat(&with(hello(), &json!({"think": think})))
            .unwrap()
            .request;
        let reasoning = request.reasoning.unwrap();
        assert_eq!(reasoning.effort.map(domain::Effort::as_label), effort);
        assert_eq!(reasoning.is_shown, is_shown);
    }
    let formats = [json!(null), json!("")];
    for format in formats {
        let request = chat(&with(hello(), &json!({"format": format})))
            .unwrap()
            .request;
        assert_eq!(request.format, OutputFormat::Text);
    }
    let options = json!({"options": {"num_predict": 0, "seed": -5, "stop": "x", "mirostat": 2}});
    let request = chat(&with(hello(), &options)).unwrap().request;
    assert_eq!(request.output_tokens_max, None);
    assert_eq!(request.sampling.seed, None);
    assert_eq!(request.sampling.stop, ["x"]);
    assert!(request.sampling.open.mirostat.is_some());
}

#[test]
fn a_raw_prompt_is_no_chat() {
    let body = with(prompt(), &json!({"raw": true, "unknown": 1}));
    let request = generate(&body).unwrap().request;
    assert!(request.is_raw());
    assert_eq!(request.messages[0].text(), "hi");
    assert!(request.extra.is_empty(), "another dialect's fields");
}

#[test]
fn nothing_to_say_is_a_request_to_load() {
    let loads = |decoded: Decoded| {
        // Whoever looks at the request finds it sound.
        assert!(!decoded.request.messages.is_empty());
        decoded.encoder.only_loads()
    };
    for body in [
        json!({"model": "m"}),
        json!({"model": "m", "messages": []}),
        json!({"model": "m", "messages": null, "keep_alive": "10m"}),
    ] {
        assert!(loads(chat(&body).unwrap()), "{body}");
    }
    for body in [
        json!({"model": "m"}),
        json!({"model": "m", "prompt": ""}),
        json!({"model": "m", "prompt": "", "system": "x", "keep_alive": -1}),
    ] {
        assert!(loads(generate(&body).unwrap()), "{body}");
    }
    assert!(!loads(chat(&hello()).unwrap()));
    assert!(!loads(generate(&prompt()).unwrap()));
    // Nobody's request unloads a model.
    for keep_alive in [json!(0), json!("0"), json!("0s"), json!(0.0)] {
        let body = json!({"model": "m", "keep_alive": keep_alive});
        for fault in [chat(&body).unwrap_err(), generate(&body).unwrap_err()] {
            assert_eq!(fault.param.as_deref(), Some("keep_alive"), "{body}");
        }
        assert!(chat(&with(hello(), &json!({"keep_alive": keep_alive}))).is_ok());
    }
    let mut encoder = generate(&json!({"model": "m"})).unwrap().encoder;
    let nothing = Reply {
        started: started(),
        choices: vec![],
        usage: None,
        written: None,
    };
    assert_eq!(
        json(encoder.whole(&framing(), &nothing)),
        json!({"model": "llama3.2", "created_at": "2023-08-04T08:52:19Z", "response": "",
            "done": true, "done_reason": "load"})
    );
}

#[test]
fn faults_are_named_with_their_place() {
    let chats = [
        (json!({"model": ""}), "model"),
        (json!({"model": null}), "model"),
        (json!({"messages": "hi"}), "messages"),
        (json!({"messages": [1]}), "messages[0]"),
        (json!({"messages": [{"content": "x"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "robot"}]}), "messages[0].role"),
        (
            json!({"messages": [{"role": "user", "content": ["x"]}]}),
            "messages[0].content",
        ),
        (
            json!({"messages": [{"role": "user", "images": "AAAA"}]}),
            "messages[0].images",
        ),
        (
            json!({"messages": [{"role": "user", "images": [7]}]}),
            "messages[0].images[0]",
        ),
        (
            json!({"messages": [{"role": "user", "images": ["no base64!"]}]}),
            "messages[0].images[0]",
        ),
        (
            json!({"messages": [{"role": "user", "images": ["aGVsbG8gd29ybGQgaGVsbG8="]}]}),
            "messages[0].images[0]",
        ),
        (
            json!({"messages": [{"role": "user", "images": ["data:image/png;base64,AAAA"]}]}),
            "messages[0].images[0]",
        ),
        (
            json!({"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]}),
            "messages[0].tool_calls",
        ),
        (
            json!({"messages": [{"role": "assistant", "tool_calls": [{}]}]}),
            "messages[0].tool_calls[0].function",
        ),
        (
            json!({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": ""}}]}]}),
            "messages[0].tool_calls[0].function.name",
        ),
        (
            json!({"messages": [{"role": "assistant", "tool_calls": [
                {"function": {"name": "f", "arguments": "{}"}}]}]}),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (json!({"tools": {}}), "tools"),
        (
            json!({"tools": [{"function": {"name": "a b"}}]}),
            "tools[0].function.name",
        ),
        (json!({"stream": "yes"}), "stream"),
        (json!({"format": "xml"}), "format"),
        (json!({"format": [1]}), "format"),
        (json!({"think": "hard"}), "think"),
        (json!({"think": 1}), "think"),
        (json!({"keep_alive": true}), "keep_alive"),
        (json!({"keep_alive": "long"}), "keep_alive"),
        (json!({"truncate": 1}), "truncate"),
        (json!({"_debug_render_only": true}), "_debug_render_only"),
        (json!({"top_logprobs": 3}), "top_logprobs"),
        (
            json!({"logprobs": true, "top_logprobs": 21}),
            "top_logprobs",
        ),
        (json!({"options": []}), "options"),
        (
            json!({"options": {"temperature": 3}}),
            "options.temperature",
        ),
        (
            json!({"options": {"temperature": "0"}}),
            "options.temperature",
        ),
        (json!({"options": {"top_p": 0}}), "options.top_p"),
        (json!({"options": {"top_k": 1.5}}), "options.top_k"),
        (json!({"options": {"min_p": -1}}), "options.min_p"),
        (json!({"options": {"seed": "x"}}), "options.seed"),
        (
            json!({"options": {"num_predict": -3}}),
            "options.num_predict",
        ),
        (json!({"options": {"stop": [1]}}), "options.stop[0]"),
        (json!({"options": {"stop": [""]}}), "options.stop[0]"),
        (
            json!({"options": {"stop": vec!["a"; domain::Sampling::STOPS_MAX + 1]}}),
            "options.stop",
        ),
        (
            json!({"options": {"repeat_penalty": 0}}),
            "options.repeat_penalty",
        ),
        (
            json!({"options": {"repeat_last_n": -2}}),
            "options.repeat_last_n",
        ),
        (json!({"options": {"mirostat": 3}}), "options.mirostat"),
        (json!({"options": {"typical_p": 0}}), "options.typical_p"),
    ];
    for (more, param) in chats {
        let fault = chat(&with(hello(), &more)).unwrap_err();
        assert_eq!(fault.param.as_deref(), Some(param), "{more} {fault:?}");
    }
    let prompts = [
        (json!({"prompt": ["a"]}), "prompt"),
        (json!({"system": 1}), "system"),
        (json!({"suffix": "x"}), "suffix"),
        (json!({"template": "{{ .Prompt }}"}), "template"),
        (json!({"context": [1, 2]}), "context"),
        (json!({"context": "x"}), "context"),
        (json!({"raw": 1}), "raw"),
        (json!({"raw": true, "system": "x"}), "system"),
        (json!({"images": [true]}), "images[0]"),
    ];
    for (more, param) in prompts {
        let fault = generate(&with(prompt(), &more)).unwrap_err();
        assert_eq!(fault.param.as_deref(), Some(param), "{more} {fault:?}");
    }
    let deep = format!(
        "{{\"messages\":{}1{}}}",
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    let many = json!({"model": "m", "messages": vec![json!({"role": "user"}); 100_000]});
    for body in ["", "[]", "null", "{", &deep, &many.to_string()] {
        let body = Bytes::from(body.to_owned());
        assert!(Chat.decode(&body).is_err());
    }
}

#[test]
fn answers_find_the_calls_they_are_meant_for() {
    let call = |id: Option<&str>, name: &str| match id {
        Some(id) => json!({"id": id, "function": {"name": name, "arguments": {}}}),
        None => json!({"function": {"name": name}}),
    };
    let body = json!({"model": "m", "messages": [
        {"role": "tool", "content": "early"},
        {"role": "assistant", "tool_calls": [call(None, "f"), call(None, "g"), call(None, "f")]},
        {"role": "tool", "tool_name": "g", "content": "1"},
        {"role": "tool", "name": "f", "content": "2"},
        {"role": "tool", "content": "3"},
        {"role": "tool", "content": "more than were asked"},
        {"role": "assistant", "tool_calls": [call(Some("x"), "f"), call(Some("y"), "f")]},
        {"role": "tool", "tool_call_id": "y", "content": "4"},
        {"role": "tool", "tool_name": "", "tool_call_id": "", "content": "5"},
    ]});
    let messages = chat(&body).unwrap().request.messages;
    let ids: Vec<&str> = messages
        .iter()
        .filter_map(|message| message.tool_call_id.as_deref())
        .collect();
    let asked: Vec<&str> = messages[1]
        .tool_calls
        .iter()
        .map(|it| it.id.as_str())
        .collect();
    assert_eq!(ids[1..4], [asked[1], asked[0], asked[2]]);
    assert_eq!(ids[5..], ["y", "x"]);
    // What answers nothing is told apart from everything else.
    let mut all: Vec<&str> = asked
        .iter()
        .chain(&ids[..1])
        .chain(&ids[4..5])
        .copied()
        .collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 5, "{all:?}");
}

#[test]
fn images_are_known_by_their_first_bytes() {
    let kinds: [(&[u8], &str); 5] = [
        (b"\x89PNG\r\n\x1a\n....", "png"),
        (b"\xff\xd8\xff\xe0........", "jpeg"),
        (b"GIF89a......", "gif"),
        (b"RIFF....WEBP", "webp"),
        (b"BM..........", "bmp"),
    ];
    for (begin, kind) in kinds {
        use base64::Engine as _;
        let data = base64::engine::general_purpose::STANDARD.encode(begin);
        let body = with(prompt(), &json!({"images": [data]}));
        let request = generate(&body).unwrap().request;
        let Part::Image(image) = &request.messages[0].content[0] else {
            panic!("the image comes first");
        };
        assert_eq!(image.url, format!("data:image/{kind};base64,{data}"));
        assert_eq!(request.messages[0].role, Role::User);
    }
}

fn framing() -> Framing {
    Framing {
        id: String::new(),
        created: CREATED,
        model: "llama3.2".into(),
        includes_usage: true,
    }
}

fn times() -> ReplyTimes {
    ReplyTimes {
        total: Duration::from_nanos(4_883_583_458),
        load: Duration::from_nanos(1_334_875),
        prompt: Duration::from_nanos(342_546_000),
        reply: Duration::from_nanos(4_535_599_000),
    }
}

fn started() -> Started {
    Started {
        model: "llama3.2".into(),
        reply_id: None,
        fingerprint: None,
    }
}

fn text(text: &str) -> ChatEvent {
    ChatEvent::Text {
        choice: 0,
        text: text.into(),
    }
}

fn call(index: u32, id: Option<&str>, name: Option<&str>, arguments: &str) -> ChatEvent {
    ChatEvent::ToolCall {
        choice: 0,
        index,
        part: ToolCallPart {
            id: id.map(Into::into),
            name: name.map(Into::into),
            arguments: arguments.into(),
            seal: None,
        },
    }
}

fn end(reason: FinishReason) -> [ChatEvent; 2] {
    let usage = Usage {
        prompt_tokens: Tokens(26),
        completion_tokens: Tokens(282),
        ..Usage::default()
    };
    [
        ChatEvent::ChoiceEnded { choice: 0, reason },
        ChatEvent::Usage(usage),
    ]
}

fn thought() -> ChatEvent {
    ChatEvent::Thought {
        choice: 0,
        text: "hm".into(),
    }
}

/// Of the reply that the fixtures tell.
fn spoken() -> Vec<ChatEvent> {
    let one = |text: &str, logprob, has_bytes: bool| TokenLogprob {
        text: text.into(),
        bytes: has_bytes.then(|| text.as_bytes().to_vec()),
        logprob,
    };
    let logprobs = ChatEvent::Logprobs {
        choice: 0,
        tokens: vec![TokenLogprobs {
            token: one("Hi", -0.5, true),
            top: vec![one("Hi", -0.5, true), one("Yo", -1.5, false)],
        }],
    };
    let mut events = vec![
        ChatEvent::Started(started()),
        thought(),
        logprobs,
        text("Hi"),
        text(" there"),
        call(0, Some("c1"), Some("get_temperature"), ""),
        call(0, None, None, "{\"city\": "),
        call(0, None, None, "\"Toronto\"}"),
        call(1, Some("c2"), Some("get_wind"), ""),
    ];
    events.extend(end(FinishReason::ToolCalls));
    events
}

fn stream_of(mut encoder: Box<dyn ReplyEncoder>, events: &[ChatEvent]) -> String {
    let mut out = BytesMut::new();
    encoder.begin(framing());
    encoder.greet(&mut out);
    for event in events {
        encoder.event(event, &mut out);
    }
    encoder.note_times(times());
    encoder.finish(&mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

fn lines(stream: &str) -> Vec<Value> {
    stream.lines().map(json).collect()
}

fn collected(events: &[ChatEvent]) -> Reply {
    let events: Vec<_> = events.iter().cloned().map(Ok).collect();
    let stream = futures::stream::iter(events);
    futures::executor::block_on(collect(Box::pin(stream))).unwrap()
}

#[test]
fn replies_are_told_whole_and_in_lines() {
    let encoder = || chat(&hello()).unwrap().encoder;
    let mut whole = encoder();
    whole.note_times(times());
    assert_eq!(
        json(whole.whole(&framing(), &collected(&spoken()))),
        json(REPLY)
    );
    assert_eq!(lines(&stream_of(encoder(), &spoken())), lines(CHAT_STREAM));
    let mut events = vec![thought(), text("Hi"), text(" there")];
    events.extend(end(FinishReason::Length));
    let encoder = generate(&prompt()).unwrap().encoder;
    assert_eq!(lines(&stream_of(encoder, &events)), lines(GENERATE_STREAM));
}

#[test]
fn thoughts_that_nobody_wants_are_left_out() {
    let quiet = || {
        let body = with(hello(), &json!({"think": false}));
        chat(&body).unwrap().encoder
    };
    let streamed = stream_of(quiet(), &spoken());
    assert!(!streamed.contains("thinking"), "{streamed}");
    let whole = json(quiet().whole(&framing(), &collected(&spoken())));
    assert_eq!(whole["message"]["content"], "Hi there");
    assert!(whole["message"].get("thinking").is_none());
}

#[test]
fn arguments_that_are_no_object_are_told_as_text() {
    for (arguments, told) in [
        ("", json!({})),
        (" ", json!({})),
        ("{\"a\":", json!({"arguments": "{\"a\":"})),
        ("[1]", json!({"arguments": "[1]"})),
        ("\"x\"", json!({"arguments": "\"x\""})),
        // A line is a line.
        ("{\n\"a\": 1}", json!({"a": 1})),
    ] {
        let mut events = vec![call(0, Some("c"), Some("f"), arguments)];
        events.extend(end(FinishReason::ToolCalls));
        let encoder = chat(&hello()).unwrap().encoder;
        let streamed = lines(&stream_of(encoder, &events));
        let function = &streamed[0]["message"]["tool_calls"][0]["function"];
        assert_eq!(function["arguments"], told, "{arguments:?}");
    }
}

#[test]
fn what_nobody_knows_is_not_told() {
    let mut encoder = chat(&hello()).unwrap().encoder;
    let mut out = BytesMut::new();
    encoder.begin(framing());
    let ended = ChatEvent::ChoiceEnded {
        choice: 0,
        reason: FinishReason::Stop,
    };
    encoder.event(&ended, &mut out);
    encoder.note_times(ReplyTimes {
        total: Duration::from_nanos(5),
        ..ReplyTimes::default()
    });
    encoder.finish(&mut out);
    assert_eq!(
        json(&out),
        json!({"model": "llama3.2", "created_at": "2023-08-04T08:52:19Z",
            "message": {"role": "assistant", "content": ""}, "done": true, "done_reason": "stop",
            "total_duration": 5})
    );
}

#[test]
fn silences_errors_and_late_notes_keep_lines_lines() {
    let mut encoder = chat(&hello()).unwrap().encoder;
    let mut out = BytesMut::new();
    encoder.begin(framing());
    encoder.greet(&mut out);
    out.extend_from_slice(encoder.keep_alive());
    out.extend_from_slice(encoder.keep_alive());
    encoder.note("x-hedge-route", &"local:tiny", &mut out);
    encoder.event(&text("a"), &mut out);
    out.extend_from_slice(encoder.keep_alive());
    let mut failing = out.clone();
    for event in end(FinishReason::Stop) {
        encoder.event(&event, &mut out);
    }
    encoder.finish(&mut out);
    let told = lines(std::str::from_utf8(&out).unwrap());
    assert_eq!(told[0]["message"]["content"], "a");
    assert_eq!(told[1]["hedge"], json!({"x-hedge-route": "local:tiny"}));

    let error = ErrorBody {
        message: "it broke".into(),
        kind: "server_error",
        param: None,
        code: None,
    };
    encoder.fail(500, &error, &mut failing);
    let told = lines(std::str::from_utf8(&failing).unwrap());
    assert_eq!(told[1], json!({"error": "it broke"}));
}

#[test]
fn an_error_says_its_place_once() {
    let error = |message: &str, param: Option<&str>| ErrorBody {
        message: message.into(),
        kind: "invalid_request_error",
        param: param.map(Into::into),
        code: None,
    };
    for (error, told) in [
        (error("no", None), "no"),
        (error("no", Some("messages")), "messages: no"),
        (error("Invalid 'n'", Some("n")), "Invalid 'n'"),
    ] {
        assert_eq!(
            json(Chat.refusal(400, &error, "id")),
            json!({"error": told})
        );
    }
}

#[test]
fn embeddings_are_asked_for_in_both_forms() {
    let texts = |request: &domain::EmbedRequest| {
        let texts = request.inputs.iter().map(|input| match input {
            domain::EmbedInput::Text(text) => text.clone(),
            domain::EmbedInput::Tokens(_) => panic!("tokens"),
        });
        texts.collect::<Vec<_>>()
    };
    let embed = |value: &Value| decode_embed(&Bytes::from(value.to_string()));
    for (input, expected) in [
        (json!("a"), vec!["a"]),
        (json!(["a", "b"]), vec!["a", "b"]),
        (json!([]), vec![]),
        (json!(""), vec![]),
        (json!(null), vec![]),
    ] {
        let request = embed(&json!({"model": "m", "input": input, "dimensions": 0})).unwrap();
        assert_eq!(texts(&request), expected);
        assert_eq!(request.dimensions, None);
    }
    for (body, param) in [
        (json!({"input": "a"}), "model"),
        (json!({"model": "m", "input": 1}), "input"),
        (json!({"model": "m", "input": ["a", 1]}), "input[1]"),
        (json!({"model": "m", "input": ["a", ""]}), "input[1]"),
        (json!({"model": "m", "input": vec!["a"; 2_049]}), "input"),
        (
            json!({"model": "m", "input": "a", "truncate": 1}),
            "truncate",
        ),
        (
            json!({"model": "m", "input": "a", "dimensions": -1}),
            "dimensions",
        ),
        (json!({"model": "m", "input": "a", "options": 1}), "options"),
    ] {
        let fault = embed(&body).unwrap_err();
        assert_eq!(fault.param.as_deref(), Some(param), "{body}");
    }
    let older = json!({"model": "m", "prompt": "a", "options": {}, "keep_alive": "5m"});
    let request = decode_embeddings(&Bytes::from(older.to_string())).unwrap();
    assert_eq!(texts(&request), ["a"]);
    let vectors = domain::Embeddings {
        vectors: vec![vec![0.5, -1.0]],
        prompt_tokens: 3,
    };
    assert_eq!(
        json(encode_embed("m", &vectors, Duration::from_nanos(7))),
        json!({"model": "m", "embeddings": [[0.5, -1.0]], "total_duration": 7, "prompt_eval_count": 3})
    );
    assert_eq!(
        json(encode_embeddings(&vectors)),
        json!({"embedding": [0.5, -1.0]})
    );
}

#[test]
fn models_are_shown_with_what_is_known() {
    let details = ModelDetails {
        format: "gguf".into(),
        family: "qwen2".into(),
        families: vec!["qwen2".into()],
        parameter_size: "494.03M".into(),
        quantization_level: "Q4_K_M".into(),
        ..ModelDetails::default()
    };
    let tag = ModelTag {
        name: "tiny".into(),
        size: 9,
        digest: "ab".into(),
        details: details.clone(),
        modified_at: CREATED,
        is_remote: false,
    };
    let cloud = ModelTag {
        name: "cloud/x".into(),
        is_remote: true,
        ..tag.clone()
    };
    let listed = json(encode_tags(&[tag, cloud]));
    assert_eq!(
        listed["models"][0]["details"]["quantization_level"],
        "Q4_K_M"
    );
    assert_eq!(listed["models"][0]["modified_at"], "2023-08-04T08:52:19Z");
    assert!(listed["models"][0].get("remote_model").is_none());
    assert_eq!(listed["models"][1]["remote_model"], "cloud/x");

    let shown = json(encode_shown(&Shown {
        name: "tiny".into(),
        template: Some("{{ messages }}".into()),
        details,
        capabilities: vec!["completion", "tools"],
        parameter_count: Some(7),
        context_tokens: Some(4096),
        modified_at: CREATED,
        ..Shown::default()
    }));
    assert_eq!(
        shown["model_info"],
        json!({"general.architecture": "qwen2", "general.parameter_count": 7,
            "qwen2.context_length": 4096})
    );
    assert_eq!(shown["capabilities"], json!(["completion", "tools"]));
    assert_eq!(shown["template"], "{{ messages }}");
    // Clients that index into it find an object, whatever is known.
    let unknown = json(encode_shown(&Shown::default()));
    assert!(unknown["model_info"].is_object());

    let name = |value: Value| decode_show(&Bytes::from(value.to_string()));
    assert_eq!(
        name(json!({"model": "m", "verbose": true}))
            .unwrap()
            .as_str(),
        "m"
    );
    assert_eq!(name(json!({"name": "m"})).unwrap().as_str(), "m");
    assert_eq!(name(json!({})).unwrap_err().param.as_deref(), Some("model"));
}

proptest! {
    #[test]
    fn every_stream_is_lines_of_json_whatever_is_said(
        pieces in prop::collection::vec((0_u32..2, ".*", any::<bool>()), 0..20),
    ) {
        let mut events = Vec::new();
        let mut said = String::new();
        for (index, (choice, piece, is_call)) in pieces.into_iter().enumerate() {
            if is_call {
                let index = u32::try_from(index).unwrap();
                events.push(call(index, Some("c"), Some("f"), &piece));
            } else {
                if choice == 0 {
                    said.push_str(&piece);
                }
                events.push(ChatEvent::Text { choice, text: piece });
            }
        }
        events.extend(end(FinishReason::Stop));
        let told = lines(&stream_of(chat(&hello()).unwrap().encoder, &events));
        let (last, pieces) = told.split_last().unwrap();
        prop_assert_eq!(&last["done"], &json!(true));
        prop_assert!(pieces.iter().all(|it| it["done"] == json!(false)));
        let text: String = pieces.iter().filter_map(|it| it["message"]["content"].as_str()).collect();
        prop_assert_eq!(text, said);
    }
}
