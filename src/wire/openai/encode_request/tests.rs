use domain::{Extra, Image, Message, Part, Role, SourceBody};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::openai::decode_request;

fn decoded(body: &str) -> ChatRequest {
    decode_request(&Bytes::copy_from_slice(body.as_bytes())).unwrap()
}

fn encoded(request: &ChatRequest) -> String {
    String::from_utf8(encode_request("theirs", request).to_vec()).unwrap()
}

#[test]
fn received_values_leave_byte_for_byte() {
    let body = r#"{ "x_vendor": {"b": 1.50, "a": [1e2, "\u0041"]}, "model":"ours", "seed" : 7 ,
        "messages":[ {"role":"user", "content":"\u00e9 é"} ],"temperature":1.0,"z\u002d":null}"#;
    assert_eq!(
        encoded(&decoded(body)),
        r#"{"model":"theirs","x_vendor":{"b": 1.50, "a": [1e2, "\u0041"]},"seed":7,"messages":[ {"role":"user", "content":"\u00e9 é"} ],"temperature":1.0,"z-":null}"#
    );
}

#[test]
fn another_servers_words_for_a_format_leave_as_one_of_two() {
    let head = r#"{"messages":[{"content":"a","role":"user"}],"model":"theirs""#;
    for (members, written) in [
        (
            r#""guided_regex":"a""#,
            r#""structured_outputs":{"regex":"a"}"#,
        ),
        (
            r#""guided_choice":["a"]"#,
            r#""structured_outputs":{"choice":["a"]}"#,
        ),
        (
            r#""grammar":"root ::= [a]""#,
            r#""structured_outputs":{"grammar":"root ::= [a]"}"#,
        ),
        (
            r#""json_schema":{}"#,
            r#""response_format":{"type":"json_schema","json_schema":{"name":"schema","schema":{},"strict":true}}"#,
        ),
    ] {
        let body = format!(
            r#"{{"model":"m","x":1,{members},"messages":[{{"role":"user","content":"a"}}]}}"#
        );
        let left: Value = serde_json::from_str(&encoded(&decoded(&body))).unwrap();
        let wanted: Value = serde_json::from_str(&format!("{head},{written},\"x\":1}}")).unwrap();
        assert_eq!(left, wanted);
    }
}

#[test]
fn a_streamed_request_always_asks_for_usage() {
    let message = r#""messages":[{"role":"user","content":"a"}]"#;
    let head = format!(r#"{{"model":"theirs",{message},"stream":true,"stream_options":"#);
    for (members, options) in [
        (r#""stream":true"#, r#"{"include_usage":true}"#),
        (
            r#""stream":true,"stream_options":{"include_usage":false,"include_obfuscation":false}"#,
            r#"{"include_usage":true,"include_obfuscation":false}"#,
        ),
        (
            r#""stream_options":null,"stream":true"#,
            r#"{"include_usage":true}"#,
        ),
    ] {
        let body = format!(r#"{{{members},"model":"m",{message}}}"#);
        assert_eq!(encoded(&decoded(&body)), format!("{head}{options}}}"));
    }
}

#[test]
fn the_requests_delivery_decides_over_the_received_bytes() {
    let message = r#""messages":[{"role":"user","content":"a"}]"#;
    let mut request = decoded(&format!(r#"{{"model":"m","stream":true,{message}}}"#));
    request.delivery = Delivery::Whole;
    assert_eq!(
        encoded(&request),
        format!(r#"{{"model":"theirs",{message}}}"#)
    );
}

/// Without its received bytes, a request comes back from its own encoding as it was, every field
/// that nobody interprets included.
#[test]
fn encoding_from_domain_loses_nothing() {
    let nested = r#"{
        "model": "m",
        "messages": [
            {"role": "user", "mood": "odd", "content": [
                {"type": "text", "text": "a", "cache/control": {"ttl": "1h"}}
            ]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "c", "index": 0, "type": "function", "function": {"name": "f", "arguments": "", "x": 1}}
            ]}
        ],
        "tools": [{"type": "function", "function": {"name": "f"}, "hint": "h"}],
        "tool_choice": "required",
        "max_tokens": 5,
        "prediction": {"type": "content", "content": [{"type": "text", "text": "p", "hint": "h"}]},
        "zeta": 1
    }"#;
    for body in [nested, include_str!("../fixtures/request_full.json")] {
        let mut request = decoded(body);
        request.source = None;
        let written: Value = serde_json::from_str(&encoded(&request)).unwrap();
        let mut expected: Value = serde_json::from_str(body).unwrap();
        expected["model"] = "theirs".into();
        expect_lists_of_parts(&mut expected, &request.extra);
        assert_eq!(written, expected);
    }
}

/// A single text may leave as a string or as a list of one part: they mean the same.
fn expect_lists_of_parts(body: &mut Value, extra: &Extra) {
    if !extra.keys().any(|name| name.starts_with('/')) {
        return;
    }
    for message in body["messages"].as_array_mut().unwrap() {
        if let Some(text) = message["content"].as_str() {
            message["content"] = json!([{"type": "text", "text": text}]);
        }
    }
}

#[test]
fn what_is_no_text_of_a_tools_result_comes_after_the_results() {
    let result = |id: &str, content: Vec<Part>| Message {
        content,
        tool_call_id: Some(id.to_owned()),
        ..Message::new(Role::Tool, "")
    };
    let picture = |name: &str| {
        Part::Image(Image {
            url: format!("data:image/png;base64,{name}"),
            detail: None,
        })
    };
    let text = |text: &str| Part::Text(text.to_owned());
    let messages = vec![
        Message::new(Role::User, "look"),
        result("a", vec![text("one"), picture("AAAA"), text("two")]),
        result("b", vec![picture("BBBB")]),
        result("c", vec![text("three")]),
        result("d", Vec::new()),
        Message::new(Role::User, "well?"),
        result("e", vec![picture("CCCC")]),
    ];
    let mut request = ChatRequest::new("m", messages);
    request.dialect = Dialect::Anthropic;
    let sent: Value = serde_json::from_str(&encoded(&request)).unwrap();
    let tool =
        |id: &str, content: Value| json!({"role": "tool", "tool_call_id": id, "content": content});
    let part = |text: &str| json!({"type": "text", "text": text});
    let image = |name: &str| json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{name}")}});
    assert_eq!(
        sent["messages"],
        json!([
            {"role": "user", "content": "look"},
            tool("a", json!([part("one"), part("two")])),
            tool("b", json!("It is in the next message.")),
            tool("c", json!("three")),
            tool("d", json!("")),
            {"role": "user", "content": [
                part("Returned by the tool call a:"), image("AAAA"),
                part("Returned by the tool call b:"), image("BBBB"),
            ]},
            {"role": "user", "content": "well?"},
            tool("e", json!("It is in the next message.")),
            {"role": "user", "content": [part("Returned by the tool call e:"), image("CCCC")]},
        ])
    );
    // Who speaks the dialect knows what its provider takes.
    request.dialect = Dialect::OpenAi;
    let sent: Value = serde_json::from_str(&encoded(&request)).unwrap();
    assert_eq!(sent["messages"][2]["content"], json!([image("BBBB")]));
}

#[test]
fn the_output_bound_keeps_the_callers_name_for_it() {
    for name in ["max_tokens", "max_completion_tokens"] {
        let mut request = decoded(&format!(
            r#"{{"model":"m","{name}":5,"messages":[{{"role":"user","content":"a"}}]}}"#
        ));
        request.source = None;
        let written: Value = serde_json::from_str(&encoded(&request)).unwrap();
        let bounds: Vec<&String> = written
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| key.starts_with("max_"))
            .collect();
        assert_eq!(bounds, [name]);
    }
}

#[test]
fn bytes_that_do_not_parse_are_written_anew() {
    let mut request = decoded(r#"{"model":"m","messages":[{"role":"user","content":"a"}]}"#);
    request.source = Some(SourceBody {
        dialect: Dialect::OpenAi,
        bytes: Bytes::from_static(b"{\"model\":"),
    });
    let written: Value = serde_json::from_str(&encoded(&request)).unwrap();
    assert_eq!(
        written,
        json!({"model": "theirs", "messages": [{"role": "user", "content": "a"}]})
    );
}

proptest! {
    #[test]
    fn decoding_undoes_encoding(
        texts in prop::collection::vec("[ -~\n\"\\\\é🙂\u{0}]{0,9}", 1..5),
        temperature in prop::option::of(0.0_f32..=2.0),
        penalty in prop::option::of(-2.0_f32..=2.0),
        bias in prop::collection::btree_map(0_u32..9999, -100.0_f32..=100.0, 0..4),
        seed in prop::option::of(any::<i64>()),
        stop in prop::collection::vec("[a-z\n]{1,3}", 0..4),
        choices in 1_u32..5,
    ) {
        let mut request = decoded(r#"{"model":"theirs","messages":[{"role":"user","content":"a"}]}"#);
        request.source = None;
        request.messages = texts.iter().map(|text| Message::new(Role::User, text)).collect();
        request.sampling.temperature = temperature;
        request.sampling.frequency_penalty = penalty;
        request.sampling.logit_bias = bias.into_iter().collect();
        request.sampling.seed = seed;
        request.sampling.stop = stop;
        request.choices = choices;
        let back = decoded(&encoded(&request));
        prop_assert_eq!(back.sampling, request.sampling);
        prop_assert_eq!(back.choices, request.choices);
        let back: Vec<String> = back.messages.iter().map(Message::text).collect();
        prop_assert_eq!(back, texts);
    }
}
