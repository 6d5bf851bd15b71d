use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;

/// One exchange over a connection of its own; everything the server sent, head included.
fn exchange(fake: &FakeUpstream, method: &str, path: &str, body: &str) -> String {
    exchange_with(fake, method, path, "", body)
}

/// The same with further headers, each with its end of line.
fn exchange_with(
    fake: &FakeUpstream,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> String {
    let mut stream = TcpStream::connect(fake.addr()).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: fake\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut reply = String::new();
    // A reply that breaks off is what some cases ask for.
    drop(stream.read_to_string(&mut reply));
    reply
}

fn chat(fake: &FakeUpstream, text: &str, is_streamed: bool) -> String {
    let body = serde_json::json!({
        "model": "m", "stream": is_streamed, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": text}],
    });
    exchange(fake, "POST", "/v1/chat/completions", &body.to_string())
}

/// The same as Anthropic's clients ask.
fn message(fake: &FakeUpstream, text: &str, is_streamed: bool, changes: &str) -> String {
    let mut body = serde_json::json!({
        "model": "m", "stream": is_streamed, "max_tokens": 64,
        "messages": [{"role": "user", "content": text}],
    });
    let changes: serde_json::Value = serde_json::from_str(changes).unwrap();
    for (name, value) in changes.as_object().unwrap() {
        body[name] = value.clone();
    }
    let headers = "x-api-key: right\r\nanthropic-version: 2023-06-01\r\n";
    exchange_with(fake, "POST", "/v1/messages", headers, &body.to_string())
}

fn fake() -> FakeUpstream {
    FakeUpstream::start(FakeConfig::default()).unwrap()
}

#[test]
fn each_behaviour_is_what_its_marker_says() {
    let fake = fake();
    // Marker, whether streamed, what the reply holds, what it must not hold.
    let cases = [
        ("hi", false, "t0 t1 ", "t16"),
        ("hi", true, "data: [DONE]", "\"finish_reason\":\"length\""),
        ("hi", true, "\"completion_tokens\":16", "HTTP/1.1 5"),
        ("[[fake tokens=2]]", true, "t1", "t2"),
        ("[[fake status=503]]", false, "HTTP/1.1 503", "choices"),
        (
            "[[fake status=429 retry-after=7]]",
            true,
            "retry-after: 7",
            "choices",
        ),
        ("[[fake cut-after=2]]", true, "t1", "t2"),
        ("[[fake cut-after=2]]", true, "t1", "0\r\n\r\n"),
        ("[[fake end-early=2]]", true, "0\r\n\r\n", "[DONE]"),
        ("[[fake garbage]]", false, "<html>", "choices"),
        ("[[fake garbage]]", true, "{\"del", "[DONE]"),
        ("[[fake call=weather]]", true, "\"name\":\"weather\"", "t0"),
        ("[[fake call=a,b]]", true, "\"index\":1", "t0"),
        (
            "[[fake think=2]]",
            true,
            "\"reasoning_content\":\"h1 \"",
            "h2",
        ),
        ("[[fake cached=9]]", false, "\"cached_tokens\":9", "h0"),
        (
            "[[fake ends=content_filter]]",
            true,
            "content_filter",
            "\"stop\"",
        ),
        ("[[fake error-after=1]]", true, "data: {\"error\"", "t1"),
        (
            "[[fake call=weather]]",
            false,
            "\"finish_reason\":\"tool_calls\"",
            "t0",
        ),
        ("[[fake nonsense]]", false, "HTTP/1.1 400", "choices"),
    ];
    for (text, is_streamed, holds, lacks) in cases {
        let reply = chat(&fake, text, is_streamed);
        assert!(reply.contains(holds), "{text}: {reply}");
        assert!(!reply.contains(lacks), "{text}: {reply}");
    }
}

#[test]
fn messages_are_answered_as_anthropic_answers_them() {
    let fake = FakeUpstream::start(FakeConfig {
        key: Some("right".to_owned()),
        ..FakeConfig::default()
    })
    .unwrap();
    let thinks = r#"{"max_tokens": 2000, "thinking": {"type": "enabled", "budget_tokens": 1024}}"#;
    let omits = r#"{"thinking": {"type": "adaptive", "display": "omitted"}}"#;
    let tools = r#"{"tools": [{"name": "go", "input_schema": {"type": "object"}}], "tool_choice": {"type": "any"}}"#;
    // Marker, whether streamed, changes, what the reply holds, what it must not hold.
    let cases = [
        ("hi", false, "{}", "\"stop_reason\":\"end_turn\"", "event:"),
        ("hi", true, "{}", "event: message_stop\n", "thinking"),
        ("hi", true, r#"{"max_tokens": 2}"#, "\"max_tokens\"", "t2"),
        (
            "hi",
            false,
            r#"{"stop_sequences": ["t2"]}"#,
            "\"stop_sequence\":\"t2\"",
            "t2 ",
        ),
        ("hi", false, thinks, "\"thinking\":\"h0 h1 \"", "h2"),
        ("hi", true, thinks, "signature_delta", "h2"),
        ("hi", true, omits, "signature_delta", "thinking_delta"),
        (
            "hi",
            true,
            tools,
            "\"partial_json\":\"\\\"Lisbon\\\"}\"",
            "t0",
        ),
        (
            "[[fake call=a,b]]",
            false,
            "{}",
            "\"id\":\"toolu_fake_1\"",
            "t0",
        ),
        (
            "[[fake cached=9 written=8]]",
            true,
            "{}",
            "\"cache_read_input_tokens\":9",
            "h0",
        ),
        (
            "[[fake error-after=1]]",
            true,
            "{}",
            "event: error\n",
            "message_stop",
        ),
        ("[[fake cut-after=1]]", true, "{}", "t0", "t1"),
        ("[[fake status=529]]", false, "{}", "overloaded_error", "t0"),
        ("hi", false, r#"{"n": 2}"#, "n: Extra inputs", "t0"),
    ];
    for (text, is_streamed, changes, holds, lacks) in cases {
        let reply = message(&fake, text, is_streamed, changes);
        assert!(reply.contains(holds), "{text} {changes}: {reply}");
        assert!(!reply.contains(lacks), "{text} {changes}: {reply}");
    }
    let unknown = exchange(&fake, "POST", "/v1/messages", "{}");
    assert!(unknown.starts_with("HTTP/1.1 401"), "{unknown}");
    assert!(unknown.contains("authentication_error"), "{unknown}");
    assert_eq!(fake.seen()[0].path, "/v1/messages");
}

#[test]
fn one_text_has_one_vector() {
    let fake = fake();
    let ask = |input: &str| {
        let body = format!(r#"{{"model": "m", "dimensions": 3, "input": {input}}}"#);
        exchange(&fake, "POST", "/v1/embeddings", &body)
    };
    let reply = ask(r#"["ab", "c"]"#);
    assert!(
        reply.contains("\"embedding\":[12.125,12.375,12.375]"),
        "{reply}"
    );
    assert!(reply.contains("\"index\":1"), "{reply}");
    assert!(ask("\"ab\"").contains("\"embedding\":[12.125,12.375,12.375]"));
}

#[test]
fn results_of_tools_that_nobody_called_are_refused() {
    let fake = fake();
    let result = r#"{"role": "tool", "tool_call_id": "a", "content": "x"}"#;
    let call = r#"{"role": "assistant", "content": null, "tool_calls": [{"id": "a"}]}"#;
    for (messages, status) in [
        (format!("{call}, {result}"), "200"),
        (result.to_owned(), "400"),
        (call.to_owned(), "400"),
    ] {
        let body = format!(r#"{{"model": "m", "messages": [{messages}]}}"#);
        let reply = exchange(&fake, "POST", "/v1/chat/completions", &body);
        assert!(reply[9..].starts_with(status), "{messages}: {reply}");
    }
}

#[test]
fn what_was_sent_can_be_read_back() {
    let fake = fake();
    chat(&fake, "remember me", false);
    let seen = fake.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].body["messages"][0]["content"], "remember me");
    assert_eq!(seen[0].headers["host"], "fake");
    let reply = exchange(&fake, "GET", "/_seen", "");
    assert!(reply.contains("remember me"), "{reply}");
    exchange(&fake, "DELETE", "/_seen", "");
    assert!(fake.seen().is_empty());
}

#[test]
fn it_is_well_and_reports_what_it_was_told_to() {
    let fake = fake();
    assert!(exchange(&fake, "GET", "/health", "").starts_with("HTTP/1.1 200"));
    assert!(exchange(&fake, "GET", "/api/version", "").starts_with("HTTP/1.1 200"));
    fake.set_report("vllm:num_requests_running 3");
    let report = exchange(&fake, "GET", "/metrics", "");
    assert!(report.ends_with("vllm:num_requests_running 3"), "{report}");
}

#[test]
fn a_wrong_key_is_refused() {
    let fake = FakeUpstream::start(FakeConfig {
        key: Some("right".to_owned()),
        ..FakeConfig::default()
    })
    .unwrap();
    assert!(chat(&fake, "hi", false).starts_with("HTTP/1.1 401"));
    assert_eq!(fake.counts().asked, 0);
}

#[test]
fn killing_it_breaks_open_replies_and_closes_the_port() {
    let fake = fake();
    let addr = fake.addr();
    let mut stream = TcpStream::connect(addr).unwrap();
    let body = r#"{"model":"m","stream":true,"messages":[{"content":"[[fake hang-after=1]]"}]}"#;
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nhost: f\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut first = [0u8; 15];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    fake.kill();
    let mut rest = Vec::new();
    drop(stream.read_to_end(&mut rest));
    assert!(!rest.ends_with(b"0\r\n\r\n"));
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn a_flaky_server_fails_its_share_and_the_same_chats_each_time() {
    let flaky = Flaky {
        percent: 30,
        seed: 7,
    };
    let fails = |number| flaky.mishap(number).is_some();
    let count = (0..10_000).filter(|number| fails(*number)).count();
    assert!((2_850..3_150).contains(&count), "{count}");
    let fake = || {
        FakeUpstream::start(FakeConfig {
            flaky: Some(flaky),
            ..FakeConfig::default()
        })
        .unwrap()
    };
    let body = r#"{"model":"bench","messages":[{"role":"user","content":"hi"}]}"#;
    let heads = |fake: &FakeUpstream| -> Vec<String> {
        let ask = |_| exchange(fake, "POST", "/v1/chat/completions", body);
        let replies = (0..20).map(ask);
        replies.map(|reply| reply[9..12].to_owned()).collect()
    };
    let seen = heads(&fake());
    assert!(seen.iter().any(|status| status == "200"), "{seen:?}");
    assert!(seen.iter().any(|status| status != "200"), "{seen:?}");
    assert_eq!(seen, heads(&fake()));
}
