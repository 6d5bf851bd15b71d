use domain::{
    Effort, File, Image, OutputFormat, Part, Reasoning, Role, Seal, SealKind, ToolCall, ToolChoice,
};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn decode(body: impl Into<Vec<u8>>) -> Result<ChatRequest, BadRequest> {
    decode_request(&Bytes::from(body.into())).map(|(request, _)| request)
}

/// A body with one message and, before it, the given members.
fn body_with(members: &str) -> String {
    format!(
        r#"{{"model":"m","max_tokens":9,{members}"messages":[{{"role":"user","content":"hi"}}]}}"#
    )
}

fn accepts(members: &str) -> ChatRequest {
    decode(body_with(&format!("{members},"))).expect(members)
}

fn accepts_messages(messages: &str) -> ChatRequest {
    let body = format!(r#"{{"model":"m","max_tokens":9,"messages":{messages}}}"#);
    decode(body).expect(messages)
}

fn check_refusal(body: String, param: &str, code: &str) {
    let fault = decode(body.clone()).expect_err(&body);
    assert_eq!(fault.param.as_deref(), Some(param), "{body}: {fault:?}");
    assert_eq!(fault.code.as_deref(), Some(code), "{body}: {fault:?}");
    assert!(fault.message.contains(param), "{body}: {}", fault.message);
}

/// Checks that `members` are refused at `param` with `code`.
fn refuses(members: &str, param: &str, code: &str) {
    check_refusal(body_with(&format!("{members},")), param, code);
}

/// As [`refuses`], for one block in a message of `role`.
fn refuses_block(role: &str, block: &str, below: &str, code: &str) {
    let body = format!(
        r#"{{"model":"m","max_tokens":9,"messages":[{{"role":"{role}","content":[{block}]}}]}}"#
    );
    check_refusal(body, &format!("messages[0].content[0]{below}"), code);
}

fn text(text: &str) -> Part {
    Part::Text(text.into())
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

fn seal(of: Dialect, kind: SealKind, data: &str) -> Seal {
    Seal {
        of,
        kind,
        data: data.into(),
    }
}

#[test]
fn every_known_field_is_read() {
    let bytes = Bytes::from_static(include_bytes!("../fixtures/request_full.json"));
    let (request, asked) = decode_request(&bytes).unwrap();
    assert_eq!(asked, Asked::Thoughts);
    assert_eq!(request.model.as_str(), "claude-opus-5");
    let roles: Vec<Role> = request.messages.iter().map(|it| it.role).collect();
    let expected = [
        Role::System,
        Role::User,
        Role::Assistant,
        Role::Tool,
        Role::Tool,
        Role::User,
        Role::Assistant,
    ];
    assert_eq!(roles, expected);
    let [system, user, assistant, found, failed, last, prefill] = &request.messages[..] else {
        panic!("seven messages");
    };
    assert_eq!(
        system.content,
        [text("You are terse."), text("Answer in English.")]
    );
    assert_eq!(system.extra["/content/1/cache_control"]["ttl"], "1h");
    let parts = [
        text("What is this?"),
        image("data:image/png;base64,iVBORw0KGgo="),
        image("https://pictures.example/1.png"),
        file("data:application/pdf;base64,JVBERi0=", Some("Report")),
        file("https://papers.example/1.pdf", None),
        text("Note\n\nIt is a cat."),
    ];
    assert_eq!(user.content[..6], parts);
    assert!(matches!(&user.content[6], Part::Other(it) if it["type"] == "search_result"));
    let kept: Vec<&str> = user.extra.keys().map(String::as_str).collect();
    assert_eq!(kept, ["/content/0/cache_control", "/content/3/citations"]);
    let thoughts = [
        Part::Thought("Look it up.".into()),
        Part::Seal(seal(
            Dialect::Anthropic,
            SealKind::Signature,
            "EqQBCgIYAhIM",
        )),
        Part::Seal(seal(Dialect::Anthropic, SealKind::Hidden, "EmwKAhgBEgy3")),
        text("Let me see."),
    ];
    assert_eq!(assistant.content, thoughts);
    let call = |id: &str, name: &str, arguments: &str| ToolCall {
        id: id.into(),
        name: name.into(),
        arguments: arguments.into(),
        seal: None,
    };
    let calls = [
        call("toolu_01", "look_up", r#"{"q":"x"}"#),
        call("toolu_02", "now", "{}"),
    ];
    assert_eq!(assistant.tool_calls, calls);
    assert!(assistant.extra.contains_key("/calls/0/cache_control"));
    assert_eq!(found.tool_call_id.as_deref(), Some("toolu_01"));
    assert!(!found.is_failure);
    assert_eq!(
        found.content,
        [text("a cat"), image("data:image/webp;base64,UklGRg==")]
    );
    assert!(found.extra.contains_key("/content/0/cache_control"));
    assert_eq!(failed.content, [text("no clock")]);
    assert!(failed.is_failure);
    assert!(failed.extra.contains_key("/block/cache_control"));
    assert_eq!(last.content, [text("Go on.")]);
    assert_eq!(prefill.content, [text("It is")]);

    assert_eq!(request.tools[0].description.as_deref(), Some("Looks up."));
    assert_eq!(request.tools[0].parameters["type"], "object");
    assert_eq!(request.tools[1].name, "now");
    assert_eq!(request.tool_choice, ToolChoice::Auto);
    assert_eq!(request.parallel_tool_calls, Some(false));
    let sampling = Sampling {
        temperature: Some(1.0),
        top_p: Some(0.95),
        top_k: Some(40),
        stop: ["END", "\n\n", "a", "b", "c"].map(str::to_owned).to_vec(),
        ..Sampling::default()
    };
    assert_eq!(request.sampling, sampling);
    let reasoning = Reasoning {
        effort: Some(Effort::High),
        tokens_max: Some(Tokens(2048)),
        is_shown: Some(true),
    };
    assert_eq!(request.reasoning, Some(reasoning));
    let schema = json!({"type": "object", "additionalProperties": false});
    let format = json!({"name": "schema", "schema": schema, "strict": true});
    assert_eq!(request.format, OutputFormat::JsonSchema(format));
    assert_eq!(request.output_tokens_max, Some(Tokens(4096)));
    assert!(matches!(request.delivery, Delivery::Streamed { .. }));
    let kept: Vec<&str> = request.extra.keys().map(String::as_str).collect();
    let expected = [
        "/tools/0/strict",
        "/tools/0/cache_control",
        "/output_config/effort",
        "thinking",
        "metadata",
        "service_tier",
        "cache_control",
    ];
    assert_eq!(kept, expected);
    assert_eq!(request.dialect, Dialect::Anthropic);
    let source = request.source.unwrap();
    assert_eq!((source.dialect, source.bytes), (Dialect::Anthropic, bytes));
}

#[test]
fn absent_and_null_fields_leave_the_defaults() {
    let nulls = r#""system":null,"temperature":null,"stop_sequences":null,"tools":null,
        "tool_choice":null,"stream":null,"thinking":null,"output_config":null,"metadata":null"#;
    for request in [accepts(nulls), decode(body_with("")).unwrap()] {
        assert_eq!(request.sampling, Sampling::default());
        assert_eq!(request.messages.len(), 1);
        assert_eq!(request.delivery, Delivery::Whole);
        assert_eq!(request.format, OutputFormat::Text);
        assert_eq!(request.reasoning, None);
        assert_eq!(request.tool_choice, ToolChoice::Auto);
    }
}

#[test]
fn the_bound_is_needed_but_to_count() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
    check_refusal(body.to_owned(), "max_tokens", "missing_required_parameter");
    let counted = decode_count(&Bytes::from_static(body.as_bytes())).unwrap();
    assert_eq!(counted.output_tokens_max, None);
}

#[test]
fn values_of_the_wrong_type_are_refused_where_they_stand() {
    for (members, param) in [
        (r#""system":7"#, "system"),
        (r#""system":[7]"#, "system[0]"),
        (r#""system":[{"type":7}]"#, "system[0].type"),
        (r#""temperature":"0.5""#, "temperature"),
        (r#""top_p":[]"#, "top_p"),
        (r#""top_k":1.5"#, "top_k"),
        (r#""stream":"true""#, "stream"),
        (r#""stop_sequences":"a""#, "stop_sequences"),
        (r#""stop_sequences":["a",7]"#, "stop_sequences[1]"),
        (r#""tools":{}"#, "tools"),
        (r#""tools":[7]"#, "tools[0]"),
        (r#""tools":[{"name":7}]"#, "tools[0].name"),
        (r#""tools":[{"type":7}]"#, "tools[0].type"),
        (
            r#""tools":[{"name":"a","description":7}]"#,
            "tools[0].description",
        ),
        (
            r#""tools":[{"name":"a","input_schema":[]}]"#,
            "tools[0].input_schema",
        ),
        (r#""tool_choice":"auto""#, "tool_choice"),
        (r#""tool_choice":{"type":7}"#, "tool_choice.type"),
        (
            r#""tool_choice":{"type":"auto","disable_parallel_tool_use":7}"#,
            "tool_choice.disable_parallel_tool_use",
        ),
        (r#""thinking":true"#, "thinking"),
        (r#""thinking":{"type":7}"#, "thinking.type"),
        (
            r#""thinking":{"type":"enabled","budget_tokens":"9"}"#,
            "thinking.budget_tokens",
        ),
        (
            r#""thinking":{"type":"adaptive","display":7}"#,
            "thinking.display",
        ),
        (r#""output_config":7"#, "output_config"),
        (r#""output_config":{"effort":7}"#, "output_config.effort"),
        (
            r#""output_config":{"format":"json"}"#,
            "output_config.format",
        ),
        (
            r#""output_config":{"format":{"type":"json_schema","schema":"x"}}"#,
            "output_config.format.schema",
        ),
        (r#""output_format":7"#, "output_format"),
        (r#""metadata":"u""#, "metadata"),
    ] {
        refuses(members, param, "invalid_type");
    }
    for (messages, param) in [
        ("7", "messages"),
        ("[7]", "messages[0]"),
        (r#"[{"role":7,"content":"a"}]"#, "messages[0].role"),
        (r#"[{"role":"user","content":7}]"#, "messages[0].content"),
        (r#"[{"role":"system","content":7}]"#, "messages[0].content"),
        (
            r#"[{"role":"user","content":["a"]}]"#,
            "messages[0].content[0]",
        ),
    ] {
        let body = format!(r#"{{"model":"m","max_tokens":9,"messages":{messages}}}"#);
        check_refusal(body, param, "invalid_type");
    }
}

#[test]
fn blocks_of_the_wrong_shape_are_refused_where_they_stand() {
    for (role, block, below, code) in [
        (
            "user",
            r#"{"text":"a"}"#,
            ".type",
            "missing_required_parameter",
        ),
        ("user", r#"{"type":7}"#, ".type", "invalid_type"),
        (
            "user",
            r#"{"type":"text"}"#,
            ".text",
            "missing_required_parameter",
        ),
        (
            "user",
            r#"{"type":"text","text":7}"#,
            ".text",
            "invalid_type",
        ),
        (
            "user",
            r#"{"type":"image"}"#,
            ".source",
            "missing_required_parameter",
        ),
        (
            "user",
            r#"{"type":"image","source":"x"}"#,
            ".source",
            "invalid_type",
        ),
        (
            "user",
            r#"{"type":"image","source":{}}"#,
            ".source.type",
            "missing_required_parameter",
        ),
        (
            "user",
            r#"{"type":"image","source":{"type":"base64","media_type":"image/bmp","data":"AA=="}}"#,
            ".source.media_type",
            "invalid_value",
        ),
        (
            "user",
            r#"{"type":"image","source":{"type":"base64","media_type":"image/png","data":"no base64!"}}"#,
            ".source.data",
            "invalid_value",
        ),
        (
            "user",
            r#"{"type":"image","source":{"type":"base64","media_type":"image/png"}}"#,
            ".source.data",
            "missing_required_parameter",
        ),
        (
            "user",
            r#"{"type":"image","source":{"type":"url","url":"file:///etc/passwd"}}"#,
            ".source.url",
            "invalid_value",
        ),
        (
            "user",
            r#"{"type":"document","source":{"type":"base64","media_type":"text/html","data":"AA=="}}"#,
            ".source.media_type",
            "invalid_value",
        ),
        (
            "user",
            r#"{"type":"document","source":{"type":"text","media_type":"text/plain"}}"#,
            ".source.data",
            "missing_required_parameter",
        ),
        (
            "user",
            r#"{"type":"document","source":{"type":"content","content":7}}"#,
            ".source.content",
            "invalid_type",
        ),
        (
            "user",
            r#"{"type":"document","source":{"type":"content","content":[{"type":"document"}]}}"#,
            ".source.content[0].type",
            "invalid_value",
        ),
        (
            "user",
            r#"{"type":"document","title":7,"source":{"type":"url","url":"http://a"}}"#,
            ".title",
            "invalid_type",
        ),
        (
            "user",
            r#"{"type":"tool_use","id":"a","name":"b","input":{}}"#,
            ".type",
            "invalid_value",
        ),
        (
            "user",
            r#"{"type":"thinking","thinking":"a"}"#,
            ".type",
            "invalid_value",
        ),
        (
            "user",
            r#"{"type":"tool_result"}"#,
            ".tool_use_id",
            "missing_required_parameter",
        ),
        (
            "user",
            r#"{"type":"tool_result","tool_use_id":""}"#,
            ".tool_use_id",
            "empty_string",
        ),
        (
            "user",
            r#"{"type":"tool_result","tool_use_id":"a","is_error":"no"}"#,
            ".is_error",
            "invalid_type",
        ),
        (
            "user",
            r#"{"type":"tool_result","tool_use_id":"a","content":7}"#,
            ".content",
            "invalid_type",
        ),
        (
            "user",
            r#"{"type":"tool_result","tool_use_id":"a","content":[{"type":"tool_use"}]}"#,
            ".content[0].type",
            "invalid_value",
        ),
        (
            "assistant",
            r#"{"type":"tool_result","tool_use_id":"a"}"#,
            ".type",
            "invalid_value",
        ),
        (
            "assistant",
            r#"{"type":"tool_use","id":"a","name":"b"}"#,
            ".input",
            "missing_required_parameter",
        ),
        (
            "assistant",
            r#"{"type":"tool_use","id":"a","name":"b","input":"{}"}"#,
            ".input",
            "invalid_type",
        ),
        (
            "assistant",
            r#"{"type":"tool_use","id":"a","input":{}}"#,
            ".name",
            "missing_required_parameter",
        ),
        (
            "assistant",
            r#"{"type":"thinking"}"#,
            ".thinking",
            "missing_required_parameter",
        ),
        (
            "assistant",
            r#"{"type":"thinking","thinking":"a","signature":7}"#,
            ".signature",
            "invalid_type",
        ),
        (
            "assistant",
            r#"{"type":"redacted_thinking"}"#,
            ".data",
            "missing_required_parameter",
        ),
    ] {
        refuses_block(role, block, below, code);
    }
}

#[test]
fn bounds_are_kept_and_named() {
    let many = |item: &str, count: usize| vec![item; count].join(",");
    for (members, param, code) in [
        (
            r#""max_tokens":0"#.to_owned(),
            "max_tokens",
            "integer_below_min_value",
        ),
        (
            r#""max_tokens":99999999999"#.to_owned(),
            "max_tokens",
            "integer_above_max_value",
        ),
    ] {
        let body =
            format!(r#"{{"model":"m",{members},"messages":[{{"role":"user","content":"a"}}]}}"#);
        check_refusal(body, param, code);
    }
    for (members, param, code) in [
        (r#""temperature":1.1"#.to_owned(), "temperature", "decimal_above_max_value"),
        (r#""temperature":-0.1"#.to_owned(), "temperature", "decimal_below_min_value"),
        (r#""top_p":1.01"#.to_owned(), "top_p", "decimal_above_max_value"),
        (r#""top_k":-1"#.to_owned(), "top_k", "integer_below_min_value"),
        (r#""stop_sequences":[""]"#.to_owned(), "stop_sequences[0]", "empty_string"),
        (
            format!(r#""stop_sequences":["{}"]"#, "x".repeat(STOP_BYTES_MAX + 1)),
            "stop_sequences[0]",
            "string_above_max_length",
        ),
        (
            format!(r#""stop_sequences":[{}]"#, many("\"a\"", Sampling::STOPS_MAX + 1)),
            "stop_sequences",
            "array_above_max_length",
        ),
        (
            r#""thinking":{"type":"enabled","budget_tokens":1023}"#.to_owned(),
            "thinking.budget_tokens",
            "integer_below_min_value",
        ),
        (
            r#""thinking":{"type":"enabled"}"#.to_owned(),
            "thinking.budget_tokens",
            "missing_required_parameter",
        ),
        (r#""thinking":{"type":"on"}"#.to_owned(), "thinking.type", "invalid_value"),
        (r#""tools":[{"name":"a b","input_schema":{}}]"#.to_owned(), "tools[0].name", "invalid_value"),
        (r#""tools":[{"name":"a"}]"#.to_owned(), "tools[0].input_schema", "missing_required_parameter"),
        (
            r#""tools":[{"name":"a","input_schema":{}},{"name":"a","input_schema":{}}]"#.to_owned(),
            "tools[1].name",
            "invalid_value",
        ),
        (format!(r#""tools":[{}]"#, many("1", 513)), "tools", "array_above_max_length"),
        (r#""tool_choice":{"type":"any"}"#.to_owned(), "tool_choice", "invalid_value"),
        (r#""tool_choice":{"type":"required"}"#.to_owned(), "tool_choice.type", "invalid_value"),
        (
            r#""tools":[{"name":"a","input_schema":{}}],"tool_choice":{"type":"tool","name":"b"}"#.to_owned(),
            "tool_choice.name",
            "invalid_value",
        ),
        (
            r#""output_config":{"format":{"type":"json"}}"#.to_owned(),
            "output_config.format.type",
            "invalid_value",
        ),
        (
            r#""output_format":{"type":"json_schema","schema":{}},"output_config":{"format":{"type":"json_schema","schema":{}}}"#.to_owned(),
            "output_format",
            "invalid_value",
        ),
    ] {
        refuses(&members, param, code);
    }
    let message = r#"{"role":"user","content":"a"}"#;
    for (messages, param, code) in [
        (String::new(), "messages", "empty_array"),
        (many(message, 4097), "messages", "array_above_max_length"),
        (
            r#"{"role":"user","content":[]}"#.to_owned(),
            "messages[0].content",
            "empty_array",
        ),
        (
            format!(
                r#"{{"role":"user","content":[{}]}}"#,
                many(r#"{"type":"text","text":"a"}"#, 1025)
            ),
            "messages[0].content",
            "array_above_max_length",
        ),
        (
            r#"{"role":"user"}"#.to_owned(),
            "messages[0].content",
            "missing_required_parameter",
        ),
        (
            r#"{"role":"tool","content":"a"}"#.to_owned(),
            "messages[0].role",
            "invalid_value",
        ),
        (
            r#"{"content":"a"}"#.to_owned(),
            "messages[0].role",
            "missing_required_parameter",
        ),
    ] {
        let body = format!(r#"{{"model":"m","max_tokens":9,"messages":[{messages}]}}"#);
        check_refusal(body, param, code);
    }
    let most = format!(
        r#""stop_sequences":[{}]"#,
        many("\"a\"", Sampling::STOPS_MAX)
    );
    assert_eq!(accepts(&most).sampling.stop.len(), Sampling::STOPS_MAX);
}

#[test]
fn an_empty_nucleus_is_greed() {
    let sampling = accepts(r#""top_p":0,"top_k":50"#).sampling;
    assert_eq!((sampling.top_p, sampling.top_k), (None, Some(1)));
}

#[test]
fn thinking_is_read_in_all_its_forms() {
    for (members, effort, tokens, shown, asked) in [
        (
            r#""thinking":{"type":"adaptive"}"#,
            None,
            None,
            Some(true),
            Asked::Thoughts,
        ),
        (
            r#""thinking":{"type":"between_tools"}"#,
            None,
            None,
            Some(true),
            Asked::Thoughts,
        ),
        (
            r#""thinking":{"type":"adaptive","display":"omitted"},"output_config":{"effort":"max"}"#,
            Some(Effort::XHigh),
            None,
            Some(false),
            Asked::Signatures,
        ),
        (
            r#""thinking":{"type":"disabled"}"#,
            Some(Effort::None),
            None,
            Some(false),
            Asked::Nothing,
        ),
        (
            r#""output_config":{"effort":"low"}"#,
            Some(Effort::Low),
            None,
            None,
            Asked::Nothing,
        ),
        (
            r#""thinking":{"type":"enabled","budget_tokens":1024,"display":"summarized"}"#,
            None,
            Some(Tokens(1024)),
            Some(true),
            Asked::Thoughts,
        ),
    ] {
        let body = Bytes::from(body_with(&format!("{members},")));
        let (request, read) = decode_request(&body).expect(members);
        let expected = Reasoning {
            effort,
            tokens_max: tokens,
            is_shown: shown,
        };
        assert_eq!(request.reasoning, Some(expected), "{members}");
        assert_eq!(read, asked, "{members}");
    }
    let newer = accepts(r#""output_config":{"effort":"utmost"}"#);
    assert_eq!(newer.reasoning, None);
    assert_eq!(newer.extra["/output_config/effort"], "utmost");
}

#[test]
fn threads_are_refused_with_the_code_that_clients_act_on() {
    let body = body_with(r#""thread":{"type":"create"},"#);
    check_refusal(body, "thread", "thread_unsupported_request");
    accepts(r#""thread":null"#);
}

#[test]
fn results_and_words_of_one_message_keep_their_order() {
    let request = accepts_messages(
        r#"[{"role":"user","x":1,"content":[
            {"type":"text","text":"a"},
            {"type":"tool_result","tool_use_id":"1"},
            {"type":"tool_result","tool_use_id":"2","content":[]},
            {"type":"text","text":"b"}]}]"#,
    );
    let seen: Vec<(Role, usize)> = request
        .messages
        .iter()
        .map(|it| (it.role, it.content.len()))
        .collect();
    let expected = [
        (Role::User, 1),
        (Role::Tool, 0),
        (Role::Tool, 0),
        (Role::User, 1),
    ];
    assert_eq!(seen, expected);
    assert_eq!(request.messages[0].extra["/message/x"], 1);
}

#[test]
fn seals_of_other_makers_find_their_way_back() {
    let request = accepts_messages(
        r#"[{"role":"user","content":"a"},{"role":"assistant","content":[
            {"type":"thinking","thinking":"t","signature":"hedge.gemini.c2ln"},
            {"type":"thinking","thinking":"","signature":"hedge.gemini.bG9uZQ"},
            {"type":"redacted_thinking","data":"hedge.responses.hidden.ZW5j"},
            {"type":"redacted_thinking","data":"hedge.gemini.call.Y2FsbA"},
            {"type":"tool_use","id":"1","name":"f","input":{}},
            {"type":"tool_use","id":"2","name":"f","input":{}}]}]"#,
    );
    let assistant = &request.messages[1];
    let signature = |data| Part::Seal(seal(Dialect::Gemini, SealKind::Signature, data));
    let expected = [
        Part::Thought("t".into()),
        signature("c2ln"),
        signature("bG9uZQ"),
        Part::Seal(seal(Dialect::Responses, SealKind::Hidden, "ZW5j")),
    ];
    assert_eq!(assistant.content, expected);
    let of_call = seal(Dialect::Gemini, SealKind::Signature, "Y2FsbA");
    let seals: Vec<Option<Seal>> = assistant
        .tool_calls
        .iter()
        .map(|it| it.seal.clone())
        .collect();
    assert_eq!(seals, [Some(of_call), None]);
}

#[test]
fn blocks_that_are_not_interpreted_stay_whole() {
    let blocks = [
        r#"{"type":"search_result","source":"s","title":"t","content":[]}"#,
        r#"{"type":"image","source":{"type":"file","file_id":"f"}}"#,
        r#"{"type":"document","source":{"type":"file","file_id":"f"},"title":"t"}"#,
        r#"{"type":"server_tool_use","id":"1","name":"web_search","input":{}}"#,
    ];
    for block in blocks {
        let messages = format!(r#"[{{"role":"assistant","content":[{block}]}}]"#);
        let request = accepts_messages(&messages);
        let value: Value = serde_json::from_str(block).unwrap();
        assert_eq!(request.messages[0].content, [Part::Other(value)]);
    }
}

#[test]
fn hostile_bodies_are_refused_and_nothing_more() {
    let deep = |open: &str, close: &str| {
        let nested = format!("{}{}", open.repeat(10_000), close.repeat(10_000));
        format!(
            r#"{{"model":"m","max_tokens":9,"messages":[{{"role":"user","content":{nested}}}]}}"#
        )
    };
    for body in [
        String::new(),
        "[]".into(),
        "{".into(),
        "\u{feff}{}".into(),
        r#"{"model":"m","model":"n"}"#.into(),
        deep("[", "]"),
        deep(r#"{"a":"#, "}"),
        format!(r#"{{"model":"m","messages":[{}1]}}"#, "1,".repeat(250_000)),
    ] {
        assert!(decode(body.clone()).is_err(), "{:.60}", body);
    }
}

/// Every string of a body, the known kinds' names and media types apart, is among the texts that
/// scanning sees: what leaves with the bytes is not hidden from it.
#[test]
fn nothing_that_leaves_with_the_bytes_is_hidden_from_scanning() {
    let secret = |at: &mut usize| {
        *at += 1;
        format!("\"secret{at}secret\"")
    };
    let mut at = 0;
    let mut body = String::new();
    let template = r#"{"model":"m","max_tokens":9,"?x":?,"system":[{"type":"text","text":?,"x":?}],
        "tools":[{"name":"t","description":?,"input_schema":{"x":?},"x":?}],
        "tool_choice":{"type":"auto","x":?},"thinking":{"type":"adaptive","x":?},"metadata":{"user_id":?},
        "output_config":{"x":?,"format":{"type":"json_schema","schema":{"x":?},"x":?}},
        "messages":[
        {"role":"user","x":?,"content":[
          {"type":"document","source":{"type":"content","content":[],"x":?},"x":?,"title":?},
          {"type":"document","source":{"type":"content","content":[],"x":?},"x":?,"context":?},
          {"type":"document","source":{"type":"text","media_type":"text/plain","data":?,"x":?},"x":?},
          {"type":"document","source":{"type":"url","url":"http://a/","x":?},"x":?,"title":?},
          {"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA","x":?},"x":?},
          {"type":"tool_result","tool_use_id":?,"x":?,"content":[{"type":"text","text":?,"x":?},{"type":"new","x":?}]},
          {"type":"text","text":?,"x":?}]},
        {"role":"user","content":[{"type":"document","source":{"type":"content","content":[],"x":?},"x":?}]},
        {"role":"system","content":?,"x":?},
        {"role":"assistant","x":?,"content":[
          {"type":"thinking","thinking":"","x":?},
          {"type":"thinking","thinking":"","x":?},
          {"type":"thinking","thinking":?,"signature":"s","x":?},
          {"type":"redacted_thinking","data":"hedge.gemini.call.s","x":?},
          {"type":"redacted_thinking","data":"s","x":?},
          {"type":"tool_use","id":?,"name":?,"input":{"x":?},"x":?}]}]}"#;
    for (place, piece) in template.split('?').enumerate() {
        if place > 0 {
            if piece.starts_with("x\":") && body.ends_with('"') && place == 1 {
                at += 1;
                body.push_str(&format!("secret{at}secret"));
            } else {
                body.push_str(&secret(&mut at));
            }
        }
        body.push_str(piece);
    }
    let request = decode(body.clone()).unwrap_or_else(|fault| panic!("{fault:?}"));
    let mut texts = String::new();
    request.texts(&mut |text| {
        texts.push_str(text);
        texts.push('\n');
    });
    for number in 1..=at {
        let secret = format!("secret{number}secret");
        assert!(texts.contains(&secret), "{secret} of {body}");
    }
}

proptest! {
    #[test]
    fn any_bytes_decode_or_are_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(decode(body));
    }

    #[test]
    fn any_cut_of_a_body_is_refused(at in 0_usize..3000) {
        let whole = include_bytes!("../fixtures/request_full.json");
        let at = at.min(whole.trim_ascii_end().len() - 1);
        prop_assert!(decode(&whole[..at]).is_err());
    }
}
