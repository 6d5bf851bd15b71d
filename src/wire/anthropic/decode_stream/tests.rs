use std::collections::VecDeque;

use domain::{Grammar, Reply, collect};
use futures::{StreamExt, executor::block_on, stream};
use proptest::prelude::*;

use super::*;
use crate::StreamDecoder;

/// Decodes the stretches, holding what comes out against the grammar.
fn decode(stretches: &[&[u8]]) -> Vec<Result<ChatEvent, BackendError>> {
    let mut decoder = Decoder::default();
    let mut out = VecDeque::new();
    for stretch in stretches {
        decoder.push(stretch, &mut out);
    }
    decoder.finish(&mut out);
    assert!(decoder.is_over());
    let mut grammar = Grammar::default();
    for (at, event) in out.iter().enumerate() {
        match event {
            Ok(event) => grammar.take(event).unwrap(),
            Err(_) => assert_eq!(at + 1, out.len(), "an error is the last"),
        }
    }
    if out.iter().all(Result::is_ok) {
        grammar.finish().unwrap();
    }
    // What is passed on is looked at in `pairs`.
    out.retain(|event| !matches!(event, Ok(ChatEvent::Written(_))));
    out.into()
}

fn describe(event: &Result<ChatEvent, BackendError>) -> String {
    match event {
        Err(error) => format!("err {error:?}"),
        Ok(ChatEvent::Started(started)) => format!(
            "start {} {}",
            started.model,
            started.reply_id.as_deref().unwrap_or("-"),
        ),
        Ok(ChatEvent::Written(written)) => format!("{written:?}"),
        Ok(ChatEvent::Text { text, .. }) => format!("text {text}"),
        Ok(ChatEvent::Thought { text, .. }) => format!("thought {text}"),
        Ok(ChatEvent::ToolCall { index, part, .. }) => format!(
            "call {index} {} {} {}",
            part.id.as_deref().unwrap_or("-"),
            part.name.as_deref().unwrap_or("-"),
            part.arguments
        ),
        Ok(ChatEvent::Seal { seal, .. }) => format!("seal {:?} {}", seal.kind, seal.data),
        Ok(ChatEvent::StopString { text, .. }) => format!("stop string {text}"),
        Ok(ChatEvent::Logprobs { .. }) => "logprobs".into(),
        Ok(ChatEvent::ChoiceEnded { reason, .. }) => format!("end {}", reason.as_label()),
        Ok(ChatEvent::Usage(usage)) => format!(
            "usage {} {} cached {} written {} thought {}",
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.cached_tokens,
            usage.cache_write_tokens,
            usage.reasoning_tokens
        ),
    }
}

fn described(stretches: &[&[u8]]) -> Vec<String> {
    decode(stretches).iter().map(describe).collect()
}

fn check(stream: &str, expected: &[&str]) {
    assert_eq!(described(&[stream.as_bytes()]), expected, "{stream}");
}

const START: &str = r#"data: {"type":"message_start","message":{"id":"i","model":"m"}}"#;
const END: &str = r#"data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}"#;
const STOP: &str = r#"data: {"type":"message_stop"}"#;

/// The data of events, each in its own.
fn events(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("{line}\n\n")).collect()
}

const FIXTURES: [(&str, &[&str]); 6] = [
    (
        include_str!("../fixtures/stream_text.sse"),
        &[
            "start claude-sonnet-5 msg_01A",
            "text Hello",
            "text  “you” 🙂",
            "end stop",
            "usage 11 6 cached 0 written 0 thought 0",
        ],
    ),
    (
        include_str!("../fixtures/stream_tools.sse"),
        &[
            "start claude-sonnet-5 msg_01B",
            "text Let me see.",
            "call 0 toolu_01 look_up ",
            "call 0 - - {\"q\": ",
            "call 0 - - \"x\"}",
            "call 1 toolu_02 now ",
            "call 1 - - {}",
            "end tool_calls",
            "usage 472 89 cached 0 written 0 thought 0",
        ],
    ),
    (
        include_str!("../fixtures/stream_thinking.sse"),
        &[
            "start claude-opus-5 msg_01C",
            "thought 27 * 453",
            "thought  = 12231",
            "seal Signature EqQBCgIYAhIM1gbcDa9GJwZA2b3h",
            "seal Hidden EmwKAhgBEgy3va3pzix",
            "text 12,231",
            "end stop",
            "usage 100 50 cached 60 written 30 thought 40",
        ],
    ),
    (
        include_str!("../fixtures/stream_web_search.sse"),
        &[
            "start claude-sonnet-5 msg_01D",
            "text Sun.",
            "end length",
            "usage 2679 510 cached 0 written 0 thought 0",
        ],
    ),
    (
        include_str!("../fixtures/stream_stop.sse"),
        &[
            "start claude-sonnet-5 msg_01E",
            "text One",
            "stop string END",
            "end stop",
            "usage 5 3 cached 0 written 0 thought 0",
        ],
    ),
    (
        include_str!("../fixtures/stream_compatible.sse"),
        &[
            "start kimi-x -",
            "call 0 toolu_0 add ",
            "call 0 - - {\"a\":1}",
            "end tool_calls",
            "usage 7 2 cached 0 written 0 thought 0",
        ],
    ),
];

#[test]
fn each_stream_gives_its_events() {
    for (stream, expected) in FIXTURES {
        check(stream, expected);
    }
}

#[test]
fn a_cut_at_any_byte_changes_nothing() {
    for (stream, expected) in FIXTURES {
        let bytes = stream.as_bytes();
        for at in 0..bytes.len() {
            assert_eq!(
                described(&[&bytes[..at], &bytes[at..]]),
                expected,
                "cut at {at}"
            );
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(described(&single), expected, "byte by byte");
    }
}

#[test]
fn a_stream_that_breaks_off_is_never_whole_before_its_end() {
    for (stream, expected) in FIXTURES {
        let bytes = stream.as_bytes();
        let end = expected.iter().position(|line| line.starts_with("end "));
        for at in 0..bytes.len() {
            let events = decode(&[&bytes[..at]]);
            match events.last() {
                Some(Err(error)) => {
                    assert!(matches!(error, BackendError::Interrupted), "{at}: {error}");
                }
                last => assert!(events.len() > end.unwrap(), "{at}: {last:?}"),
            }
        }
    }
}

#[test]
fn without_message_stop_a_stream_that_gave_its_reason_is_whole() {
    check(&events(&[START, END]), &["start m i", "end stop"]);
    check(&events(&[START, STOP]), &["start m i", "err Interrupted"]);
    check("", &["err Interrupted"]);
}

#[test]
fn what_follows_the_end_is_ignored_and_what_precedes_it_is_not() {
    let lines = [START, END, END, STOP, "data: nonsense", START];
    check(&events(&lines), &["start m i", "end stop"]);
    let late = r#"data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":"a"}}"#;
    let went_on = "err Garbled(\"a reply went on after its end\")";
    check(
        &events(&[START, END, late]),
        &["start m i", "end stop", went_on],
    );
}

#[test]
fn an_error_in_the_stream_ends_it_by_its_type() {
    for (kind, expected) in [
        ("overloaded_error", "err Overloaded { retry_after: 0ns }"),
        ("rate_limit_error", "err RateLimited { retry_after: None }"),
        ("api_error", "err Failed { status: 500 }"),
        ("timeout_error", "err Failed { status: 504 }"),
        ("authentication_error", "err Credentials { status: 401 }"),
        ("new_error", "err Failed { status: 500 }"),
    ] {
        let error = format!(
            r#"event: error{}data: {{"type":"error","error":{{"type":"{kind}","message":"m"}}}}"#,
            "\n"
        );
        check(
            &events(&[START, &error, END, STOP]),
            &["start m i", expected],
        );
    }
    check(
        &events(&[START, r#"data: {"type":"error"}"#]),
        &["start m i", "err Failed { status: 500 }"],
    );
}

#[test]
fn malformed_streams_are_said_to_be_so() {
    let block = |index: u32, body: &str| {
        format!(r#"data: {{"type":"content_block_start","index":{index},"content_block":{body}}}"#)
    };
    let delta = |index: &str, body: &str| {
        format!(r#"data: {{"type":"content_block_delta","index":{index},"delta":{body}}}"#)
    };
    let text = block(0, r#"{"type":"text","text":""}"#);
    let many: Vec<String> = (0..65).map(|at| block(at, r#"{"type":"text"}"#)).collect();
    let many = many.join("\n\n");
    let long = block(0, r#"{"type":"thinking"}"#)
        + "\n\n"
        + &(delta(
            "0",
            &format!(
                r#"{{"type":"signature_delta","signature":"{}"}}"#,
                "a".repeat(600_000)
            ),
        ) + "\n\n")
            .repeat(2);
    let calls: Vec<String> = (0..257)
        .map(|at| {
            block(at, r#"{"type":"tool_use","id":"i","name":"n","input":{}}"#)
                + "\n\ndata: {\"type\":\"content_block_stop\",\"index\":"
                + &at.to_string()
                + "}"
        })
        .collect();
    let calls = calls.join("\n\n");
    for lines in [
        vec!["data: nonsense"],
        vec!["data: []"],
        vec![r#"data: {"type":7}"#],
        vec![text.as_str()],
        vec![START, START],
        vec![r#"data: {"type":"message_start"}"#],
        vec![START, &text, &text],
        vec![START, &many],
        vec![START, &long],
        vec![START, &calls],
        vec![START, r#"data: {"type":"content_block_start","index":0}"#],
        vec![
            START,
            r#"data: {"type":"content_block_start","content_block":{"type":"text"}}"#,
        ],
        vec![
            START,
            r#"data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":7}}"#,
        ],
        vec![
            START,
            r#"data: {"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"i"}}"#,
        ],
    ] {
        let seen = decode(&[events(&lines).as_bytes()]);
        let last = seen.last().unwrap();
        assert!(
            matches!(last, Err(BackendError::Garbled(_))),
            "{lines:?}: {last:?}"
        );
    }
    for delta in [
        delta("1", r#"{"type":"text_delta","text":"a"}"#),
        delta("0", r#"{"type":"thinking_delta","thinking":"a"}"#),
        delta("0", r#"{"type":"text_delta","text":7}"#),
        delta("-1", r#"{"type":"text_delta","text":"a"}"#),
        delta("0", "7"),
    ] {
        let seen = decode(&[events(&[START, &text, &delta]).as_bytes()]);
        let last = seen.last().unwrap();
        assert!(
            matches!(last, Err(BackendError::Garbled(_))),
            "{delta}: {last:?}"
        );
    }
}

#[test]
fn an_endless_event_is_given_up() {
    let mut decoder = Decoder::default();
    let mut out = VecDeque::new();
    decoder.push(b"data: ", &mut out);
    let stretch = vec![b'a'; 64 * 1024];
    for _ in 0..64 {
        decoder.push(&stretch, &mut out);
    }
    assert!(decoder.is_over());
    assert!(matches!(
        out.pop_back(),
        Some(Err(BackendError::Garbled(
            "an event of the stream is too large"
        )))
    ));
}

#[test]
fn a_missing_usage_is_none_and_a_strange_one_does_no_harm() {
    check(&events(&[START, END, STOP]), &["start m i", "end stop"]);
    for usage in ["7", "[]", r#"{"output_tokens":"many"}"#] {
        let end = format!(
            r#"data: {{"type":"message_delta","delta":{{"stop_reason":"end_turn"}},"usage":{usage}}}"#
        );
        check(&events(&[START, &end, STOP]), &["start m i", "end stop"]);
    }
    let huge = r#"data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":1e30,"cache_read_input_tokens":5,"output_tokens":-3}}"#;
    let clamped = "usage 4294967295 0 cached 5 written 0 thought 0";
    check(
        &events(&[START, huge, STOP]),
        &["start m i", "end stop", clamped],
    );
}

#[test]
fn words_for_ends_are_read() {
    for (word, label) in [
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("something_new", "stop"),
    ] {
        let end = format!(r#"data: {{"type":"message_delta","delta":{{"stop_reason":"{word}"}}}}"#);
        check(
            &events(&[START, &end, STOP]),
            &["start m i", &format!("end {label}")],
        );
    }
}

/// What a whole reply says, a stream of the same says too.
#[test]
fn a_whole_reply_is_read_as_its_stream_is() {
    let whole = include_bytes!("../fixtures/reply_full.json");
    let whole = super::super::decode_reply::decode_reply(whole).unwrap();
    let stream = events(&[
        r#"data: {"type":"message_start","message":{"id":"msg_01F","model":"claude-opus-5","usage":{"input_tokens":10,"cache_creation_input_tokens":30,"cache_read_input_tokens":60}}}"#,
        r#"data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"Look it up.","signature":"EqQBCgIYAhIM"}}"#,
        r#"data: {"type":"content_block_stop","index":0}"#,
        r#"data: {"type":"content_block_start","index":1,"content_block":{"type":"redacted_thinking","data":"EmwKAhgBEgy3"}}"#,
        r#"data: {"type":"content_block_stop","index":1}"#,
        r#"data: {"type":"content_block_start","index":2,"content_block":{"type":"text","text":"Let me "}}"#,
        r#"data: {"type":"content_block_stop","index":2}"#,
        r#"data: {"type":"content_block_start","index":3,"content_block":{"type":"text","text":"see."}}"#,
        r#"data: {"type":"content_block_start","index":4,"content_block":{"type":"tool_use","id":"toolu_01","name":"look_up","input":{"q": "x", "n": 1.0}}}"#,
        r#"data: {"type":"content_block_stop","index":4}"#,
        r#"data: {"type":"content_block_start","index":5,"content_block":{"type":"tool_use","id":"toolu_02","name":"now","input":{}}}"#,
        r#"data: {"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":50,"output_tokens_details":{"thinking_tokens":40}}}"#,
        STOP,
    ]);
    let mut streamed = collected(decode(&[stream.as_bytes()]));
    streamed.written.clone_from(&whole.written);
    assert_eq!(streamed, whole);
    assert_eq!(
        whole.choices[0].tool_calls[0].arguments,
        r#"{"q": "x", "n": 1.0}"#
    );
    assert_eq!(whole.choices[0].text(), "Let me see.");
}

fn collected(events: Vec<Result<ChatEvent, BackendError>>) -> Reply {
    block_on(collect(stream::iter(events).boxed())).unwrap()
}

#[test]
fn what_is_no_message_is_no_reply() {
    let decode_reply = super::super::decode_reply::decode_reply;
    for body in [
        "",
        "<html>",
        "[]",
        "{}",
        "7",
        r#"{"content":7}"#,
        r#"{"content":[7]}"#,
        r#"{"content":[{"type":"text","text":7}]}"#,
        r#"{"content":[{"type":"tool_use"}]}"#,
    ] {
        let read = decode_reply(body.as_bytes());
        assert!(
            matches!(read, Err(BackendError::Garbled(_))),
            "{body}: {read:?}"
        );
    }
    let error = br#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#;
    assert!(matches!(
        decode_reply(error),
        Err(BackendError::Overloaded { .. })
    ));
}

proptest! {
    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0_usize..300) {
        let at = at.min(bytes.len());
        decode(&[&bytes[..at], &bytes[at..]]);
    }

    #[test]
    fn any_order_of_events_obeys_the_grammar(picks in prop::collection::vec(0_usize..40, 0..40)) {
        let all: Vec<&str> = FIXTURES.iter().flat_map(|(stream, _)| stream.split_inclusive("\n\n")).collect();
        let stream: String = picks.iter().map(|pick| all[pick % all.len()]).collect();
        decode(&[stream.as_bytes()]);
    }

    #[test]
    fn any_cuts_give_the_same_events(fixture in 0..FIXTURES.len(), cuts in prop::collection::vec(0_usize..2000, 0..6)) {
        let bytes = FIXTURES[fixture].0.as_bytes();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.sort_unstable();
        cuts.insert(0, 0);
        cuts.push(bytes.len());
        let stretches: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        prop_assert_eq!(described(&stretches), FIXTURES[fixture].1);
    }
}
