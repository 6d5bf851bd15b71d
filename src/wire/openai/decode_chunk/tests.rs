use bytes::BytesMut;
use domain::{FinishReason, Grammar, Tokens};
use proptest::prelude::*;

use super::*;
use crate::openai::{ChunkEncoder, Framing};

/// Decodes the stretches, holding what comes out against the grammar.
fn decode_all(stretches: &[&[u8]]) -> Vec<Result<ChatEvent, BackendError>> {
    let mut decoder = ChunkDecoder::new();
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
    out.into()
}

/// The same as it is for callers of another dialect.
fn decode(stretches: &[&[u8]]) -> Vec<Result<ChatEvent, BackendError>> {
    let mut events = decode_all(stretches);
    events.retain(|event| !matches!(event, Ok(ChatEvent::Written(_))));
    events
}

fn describe(event: &Result<ChatEvent, BackendError>) -> String {
    match event {
        Err(error) => format!("err {error:?}"),
        Ok(ChatEvent::Started(started)) => format!(
            "start {} {} {}",
            started.model,
            started.reply_id.as_deref().unwrap_or("-"),
            started.fingerprint.as_deref().unwrap_or("-")
        ),
        Ok(ChatEvent::Written(written)) => format!("{written:?}"),
        Ok(ChatEvent::Text { choice, text }) => format!("{choice} text {text}"),
        Ok(ChatEvent::Thought { choice, text }) => format!("{choice} thought {text}"),
        Ok(ChatEvent::ToolCall {
            choice,
            index,
            part,
        }) => format!(
            "{choice} call {index} {} {} {}",
            part.id.as_deref().unwrap_or("-"),
            part.name.as_deref().unwrap_or("-"),
            part.arguments
        ),
        Ok(ChatEvent::Seal { choice, seal }) => format!("{choice} seal {}", seal.data),
        Ok(ChatEvent::StopString { choice, text }) => format!("{choice} stop string {text}"),
        Ok(ChatEvent::Logprobs { choice, tokens }) => {
            let tokens: Vec<String> = tokens
                .iter()
                .map(|one| format!("{}@{}+{}", one.token.text, one.token.logprob, one.top.len()))
                .collect();
            format!("{choice} logprobs {}", tokens.join(" "))
        }
        Ok(ChatEvent::ChoiceEnded { choice, reason }) => {
            format!("{choice} end {}", reason.as_label())
        }
        Ok(ChatEvent::Usage(usage)) => format!(
            "usage {} {} {} {}",
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.cached_tokens,
            usage.reasoning_tokens
        ),
    }
}

fn check(stream: &str, expected: &[&str]) {
    let seen: Vec<String> = decode(&[stream.as_bytes()]).iter().map(describe).collect();
    assert_eq!(seen, expected, "{stream}");
}

/// `choices` of chunks, each made a `data:` event, then `[DONE]`.
fn check_chunks(choices: &[&str], expected: &[&str]) {
    let events: String = choices
        .iter()
        .map(|choices| format!("data: {{\"choices\":[{choices}]}}\n\n"))
        .collect();
    check(&(events + "data: [DONE]\n\n"), expected);
}

const FIXTURES: [(&str, &[&str]); 7] = [
    (
        include_str!("../fixtures/stream_text.sse"),
        &[
            "start gpt-x-2026-01-01 chatcmpl-123 fp_1",
            "0 text Hello",
            "0 text  “you” 🙂",
            "0 end stop",
            "usage 9 2 0 0",
        ],
    ),
    (
        include_str!("../fixtures/stream_tools.sse"),
        &[
            "start gpt-x-2026-01-01 chatcmpl-123 fp_1",
            "0 call 0 call_a look_up ",
            "0 call 0 - - {\"q\":",
            "0 call 0 - - \"x\"}",
            "0 call 1 call_b add ",
            "0 call 1 - - {}",
            "0 end tool_calls",
        ],
    ),
    (
        include_str!("../fixtures/stream_reasoning.sse"),
        &[
            "start deepseek-x ds-1 fp_2",
            "0 thought Let me",
            "0 thought  think",
            "0 text Yes",
            "0 end stop",
            "usage 8 6 5 4",
        ],
    ),
    (
        include_str!("../fixtures/stream_azure.sse"),
        &[
            "start gpt-x-2026-01-01 chatcmpl-123 fp_1",
            "0 text Hi",
            "0 end content_filter",
        ],
    ),
    (
        include_str!("../fixtures/stream_openrouter.sse"),
        &[
            "start a/b gen-1 -",
            "0 text Hi",
            "0 end stop",
            "usage 3 1 0 0",
        ],
    ),
    (
        include_str!("../fixtures/stream_gemini.sse"),
        &[
            "start gemini-x g-1 -",
            "0 call 0 fa look_up {\"q\":\"x\"}",
            "0 call 1 fb add {}",
            "0 end tool_calls",
        ],
    ),
    (
        include_str!("../fixtures/stream_sparse.sse"),
        &[
            "start  - -",
            "0 text Hi",
            "0 call 0 call_0_0 add {\"a\":1}",
            "0 end stop",
        ],
    ),
];

#[test]
fn each_providers_stream_gives_its_events() {
    for (stream, expected) in FIXTURES {
        check(stream, expected);
    }
}

#[test]
fn a_cut_at_any_byte_changes_nothing() {
    for (stream, expected) in FIXTURES {
        let bytes = stream.as_bytes();
        for at in 0..bytes.len() {
            let seen: Vec<String> = decode(&[&bytes[..at], &bytes[at..]])
                .iter()
                .map(describe)
                .collect();
            assert_eq!(seen, expected, "cut at {at}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        let seen: Vec<String> = decode(&single).iter().map(describe).collect();
        assert_eq!(seen, expected, "byte by byte");
    }
}

/// Wherever a stream breaks off, it either is whole or ends in an error.
#[test]
fn a_stream_that_breaks_off_is_never_whole_before_its_choices_ended() {
    for (stream, expected) in FIXTURES {
        let bytes = stream.as_bytes();
        let end = expected.iter().position(|line| line.contains(" end "));
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
fn without_done_a_stream_whose_choices_ended_is_whole() {
    let text = r#"data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}"#;
    check(text, &["start  - -", "0 text a", "0 end stop"]);
}

#[test]
fn done_before_the_choices_end_is_an_interruption() {
    check_chunks(
        &[r#"{"delta":{"content":"a"}}"#],
        &["start  - -", "0 text a", "err Interrupted"],
    );
    check("data: [DONE]\n\n", &["err Interrupted"]);
    check("", &["err Interrupted"]);
}

#[test]
fn what_follows_done_is_ignored() {
    let stream = format!("{}data: [DONE]\n\ndata: nonsense\n\n", FIXTURES[0].0);
    check(&stream, FIXTURES[0].1);
}

#[test]
fn an_error_in_the_stream_ends_it() {
    let begun = r#"data: {"choices":[{"delta":{"content":"a"}}]}"#;
    for (error, expected) in [
        (
            r#"data: {"error":{"message":"m","type":"server_error","code":null}}"#,
            "err Failed { status: 500 }",
        ),
        (
            r#"data: {"error":{"message":"m","code":502},"choices":[]}"#,
            "err Failed { status: 502 }",
        ),
        (
            "event: error\ndata: {\"message\":\"m\"}",
            "err Failed { status: 500 }",
        ),
        (
            r#"data: {"choices":[{"delta":{},"finish_reason":"error"}]}"#,
            "err Failed { status: 500 }",
        ),
        (
            r#"data: {"choices":[{"delta":{},"finish_reason":"abort"}]}"#,
            "err Interrupted",
        ),
    ] {
        let stream = format!("{begun}\n\n{error}\n\ndata: [DONE]\n\n");
        check(&stream, &["start  - -", "0 text a", expected]);
    }
}

#[test]
fn malformations_are_named() {
    let garbled = |what: &str| format!("err Garbled({what:?})");
    let malformed = garbled("a chunk of the stream is malformed");
    for stream in [
        "data: nonsense\n\n",
        "data: {\"choices\":7}\n\n",
        "data: \u{0}\n\n",
        "data: [DONE\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"\\ud800\"}}]}\n\n",
    ] {
        check(stream, &[&malformed]);
    }
    check_chunks(
        &[r#"{"index":128,"delta":{"content":"a"}}"#],
        &["start  - -", &garbled("a choice's index is out of range")],
    );
    check_chunks(
        &[
            r#"{"delta":{"content":"a"},"finish_reason":"stop"}"#,
            r#"{"delta":{"content":"b"}}"#,
        ],
        &[
            "start  - -",
            "0 text a",
            "0 end stop",
            &garbled("a choice went on after its end"),
        ],
    );
    check_chunks(
        &[r#"{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}}"#],
        &["start  - -", &garbled("a tool call has no function name")],
    );
}

#[test]
fn an_event_beyond_the_bound_is_garbled() {
    let stretch = vec![b'x'; 1 << 20];
    let events = decode(&[b"data: ", &stretch, &stretch]);
    assert!(matches!(
        events[..],
        [Err(BackendError::Garbled(
            "an event of the stream is too large"
        ))]
    ));
}

#[test]
fn tool_calls_are_counted_against_a_bound() {
    let calls: Vec<String> = (0..=TOOL_CALLS_MAX)
        .map(|at| format!(r#"{{"index":{at},"id":"c{at}","function":{{"name":"f"}}}}"#))
        .collect();
    let chunk = format!(r#"{{"delta":{{"tool_calls":[{}]}}}}"#, calls.join(","));
    let stream = format!("data: {{\"choices\":[{chunk}]}}\n\n");
    let events = decode(&[stream.as_bytes()]);
    assert_eq!(
        describe(events.last().unwrap()),
        "err Garbled(\"a choice has too many tool calls\")"
    );
}

#[test]
fn tool_calls_without_indices_are_told_apart() {
    check_chunks(
        &[
            r#"{"delta":{"tool_calls":[{"id":"a","function":{"name":"f","arguments":"1"}}]}}"#,
            r#"{"delta":{"tool_calls":[{"function":{"arguments":"2"}}]}}"#,
            r#"{"delta":{"tool_calls":[{"id":"b","function":{"name":"g"}}]}}"#,
            r#"{"delta":{"tool_calls":[{"id":"a","function":{"arguments":"3"}}]}}"#,
            r#"{"delta":{},"finish_reason":"tool_calls"}"#,
        ],
        &[
            "start  - -",
            "0 call 0 a f 1",
            "0 call 0 - - 2",
            "0 call 1 b g ",
            "0 call 0 - - 3",
            "0 end tool_calls",
        ],
    );
}

#[test]
fn repeated_ids_and_names_of_a_call_come_out_once() {
    check_chunks(
        &[
            r#"{"delta":{"tool_calls":[{"index":1,"id":"a","function":{"name":"f","arguments":"1"}}]}}"#,
            r#"{"delta":{"tool_calls":[{"index":1,"id":"a","function":{"name":"f","arguments":"2"}}]}}"#,
            r#"{"delta":{},"finish_reason":"stop"}"#,
        ],
        &[
            "start  - -",
            "0 call 0 a f 1",
            "0 call 0 - - 2",
            "0 end stop",
        ],
    );
}

#[test]
fn mistrals_lists_of_parts_are_read() {
    check_chunks(
        &[
            r#"{"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]}]}}"#,
            r#"{"delta":{"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},"finish_reason":"stop"}"#,
        ],
        &["start  - -", "0 thought hm", "0 text ab", "0 end stop"],
    );
}

#[test]
fn choices_may_interleave() {
    check_chunks(
        &[
            r#"{"index":1,"delta":{"content":"b"}},{"index":0,"delta":{"content":"a"}}"#,
            r#"{"index":0,"delta":{},"finish_reason":"stop"}"#,
            r#"{"index":1,"delta":{"content":"c"},"finish_reason":"length"}"#,
        ],
        &[
            "start  - -",
            "1 text b",
            "0 text a",
            "0 end stop",
            "1 text c",
            "1 end length",
        ],
    );
}

fn content() -> impl Strategy<Value = ChatEvent> {
    let choice = 0_u32..3;
    let text = "[ -~\n\"\\\\é🙂\u{0}\u{2028}]{1,8}";
    prop_oneof![
        (choice.clone(), text).prop_map(|(choice, text)| ChatEvent::Text { choice, text }),
        (choice, text).prop_map(|(choice, text)| ChatEvent::Thought { choice, text }),
    ]
}

/// A whole stream in the grammar, as our own encoder writes it.
fn stream() -> impl Strategy<Value = Vec<ChatEvent>> {
    let call = (0_u32..3, "[a-z]{1,4}", "[ -~]{0,6}");
    let usage = (0_u32..9, 0_u32..9, 0_u32..9, 0_u32..9);
    (
        prop::collection::vec(content(), 0..12),
        prop::collection::vec(call, 0..3),
        prop::option::of(usage),
        prop::option::of("fp_[a-z]{1,3}"),
    )
        .prop_map(|(contents, calls, usage, fingerprint)| {
            let mut events = vec![ChatEvent::Started(Started {
                model: "m".into(),
                reply_id: Some("chatcmpl-1".into()),
                fingerprint,
            })];
            events.extend(contents);
            let mut counts = [0; 3];
            for (choice, name, arguments) in calls {
                let count = &mut counts[choice as usize];
                events.push(ChatEvent::ToolCall {
                    choice,
                    index: *count,
                    part: ToolCallPart {
                        seal: None,
                        id: Some(format!("call_{choice}_{count}")),
                        name: Some(name),
                        arguments,
                    },
                });
                *count += 1;
            }
            events.extend((0..3).map(|choice| ChatEvent::ChoiceEnded {
                choice,
                reason: FinishReason::Length,
            }));
            events.extend(usage.map(|(prompt, completion, cached, reasoning)| {
                ChatEvent::Usage(Usage {
                    prompt_tokens: Tokens(prompt),
                    completion_tokens: Tokens(completion),
                    cached_tokens: Tokens(cached),
                    reasoning_tokens: Tokens(reasoning),
                    ..Usage::default()
                })
            }));
            events
        })
}

fn encode(events: &[ChatEvent]) -> BytesMut {
    let mut encoder = ChunkEncoder::new(Framing {
        id: "chatcmpl-1".into(),
        created: 7,
        model: "m".into(),
        includes_usage: true,
    });
    let mut out = BytesMut::new();
    events
        .iter()
        .for_each(|event| encoder.encode(event, &mut out));
    encoder.finish(&mut out);
    out
}

/// Stretches that, joined at random, come close to a stream.
const HOSTILE: [&[u8]; 15] = [
    b"data: ",
    b"\n\n",
    b"{\"choices\":[",
    b"{\"delta\":{",
    b"\"content\":\"a\"}",
    b",\"finish_reason\":\"stop\"}",
    b"]}",
    b"\"tool_calls\":[{\"index\":4294967295,\"function\":{\"name\":\"f\"}}]}",
    b"\xFF\x00",
    b"[DONE]",
    b"\"usage\":{\"prompt_tokens\":-1e300}",
    b"[[[[[[[[",
    b"\r",
    b":",
    b"event: error",
];

proptest! {
    #[test]
    fn decoding_undoes_our_own_encoding_under_any_cut(
        events in stream(),
        cut in 1_usize..200,
    ) {
        let bytes = encode(&events);
        let stretches: Vec<&[u8]> = bytes.chunks(cut).collect();
        let seen: Vec<ChatEvent> = decode(&stretches).into_iter().map(Result::unwrap).collect();
        prop_assert_eq!(seen, events);
    }

    #[test]
    fn hostile_bytes_never_panic_and_keep_the_grammar(
        pieces in prop::collection::vec(prop::sample::select(&HOSTILE[..]), 0..40),
    ) {
        // The grammar is held in `decode`.
        decode(&pieces);
    }
}

#[test]
fn log_probabilities_come_before_their_text_and_not_after_the_end() {
    let token = |text: &str| {
        format!(
            r#"{{"token":"{text}","logprob":-0.5,"bytes":[97],"top_logprobs":[{{"token":"b","logprob":-1}}]}}"#
        )
    };
    let chunk = |text: &str, end: &str| {
        format!(
            r#"{{"index":1,"delta":{{"content":"{text}"}},"logprobs":{{"content":[{}]}},"finish_reason":{end}}}"#,
            token(text)
        )
    };
    check_chunks(
        &[&chunk("a", "null"), &chunk("c", "\"stop\"")],
        &[
            "start  - -",
            "1 logprobs a@-0.5+1",
            "1 text a",
            "1 logprobs c@-0.5+1",
            "1 text c",
            "1 end stop",
        ],
    );
    let late = r#"{"index":1,"logprobs":{"content":[{"token":"a","logprob":0}]}}"#;
    let seen = decode(&[format!(
        "data: {{\"choices\":[{}]}}\n\ndata: {{\"choices\":[{late}]}}\n\n",
        chunk("a", "\"stop\"")
    )
    .as_bytes()]);
    assert!(matches!(seen.last(), Some(Err(BackendError::Garbled(_)))));
}

/// Chunks as OpenAI writes them, with members that are not read here.
const OPENAIS: [&str; 4] = [
    r#"{"id":"c-1","object":"chat.completion.chunk","created":7,"model":"m","service_tier":"default","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"x"}"#,
    r#"{"id":"c-1","object":"chat.completion.chunk","created":7,"model":"m","choices":[{"index":0,"delta":{"content":"Hi","new":[1]},"logprobs":null,"finish_reason":null}],"usage":null}"#,
    r#"{"id":"c-1","object":"chat.completion.chunk","created":7,"model":"m","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}"#,
    r#"{"id":"c-1","object":"chat.completion.chunk","created":7,"model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#,
];

fn passed_on(chunks: &[&str], framing: &Framing, is_greeted: bool) -> Vec<String> {
    let stream: String = chunks
        .iter()
        .map(|chunk| format!("data: {chunk}\n\n"))
        .collect();
    let stream = stream + "data: [DONE]\n\n";
    let mut encoder = ChunkEncoder::new(framing.clone());
    let mut out = BytesMut::new();
    if is_greeted {
        encoder.greet(&mut out);
    }
    for event in decode_all(&[stream.as_bytes()]) {
        encoder.encode(&event.unwrap(), &mut out);
    }
    encoder.finish(&mut out);
    let out = String::from_utf8(out.to_vec()).unwrap();
    let events = out.trim_end().split("\n\n");
    events
        .map(|event| event.strip_prefix("data: ").unwrap().to_owned())
        .collect()
}

fn ours(includes_usage: bool) -> Framing {
    Framing {
        id: "chatcmpl-ours".into(),
        created: 8,
        model: "m".into(),
        includes_usage,
    }
}

#[test]
fn chunks_of_the_same_dialect_keep_their_bytes() {
    let expected = [&OPENAIS[..3], &["[DONE]"]].concat();
    assert_eq!(passed_on(&OPENAIS, &ours(false), false), expected);
}

#[test]
fn what_we_add_to_chunks_that_were_passed_on_has_their_id() {
    let seen = passed_on(&OPENAIS, &ours(true), false);
    assert_eq!(seen[..3], OPENAIS[..3]);
    let usage = r#"{"id":"c-1","object":"chat.completion.chunk","created":7,"model":"m","choices":[],"usage":{"prompt_tokens":3,"#;
    assert!(seen[3].starts_with(usage), "{}", seen[3]);

    // A chunk that no caller would understand is written anew among the others.
    let renamed = OPENAIS[1].replace("\"content\"", "\"reasoning\"");
    let seen = passed_on(&[OPENAIS[0], &renamed, OPENAIS[2]], &ours(false), false);
    assert_eq!([&seen[0], &seen[2]], [OPENAIS[0], OPENAIS[2]]);
    let anew = r#"{"id":"c-1","object":"chat.completion.chunk","created":7,"model":"m","choices":[{"index":0,"delta":{"reasoning_content":"Hi"},"#;
    assert!(seen[1].starts_with(anew), "{}", seen[1]);
}

#[test]
fn one_stream_has_one_id() {
    let begins_as_ours = |seen: &[String]| {
        let chunks = &seen[..seen.len() - 1];
        assert!(!chunks.is_empty());
        assert!(
            chunks.iter().all(|chunk| chunk.contains("chatcmpl-ours")),
            "{seen:?}"
        );
    };
    // The role was written before anybody answered.
    begins_as_ours(&passed_on(&OPENAIS, &ours(false), true));
    // The first chunk has no id.
    let nameless = OPENAIS[0].replace("\"id\":\"c-1\",", "");
    begins_as_ours(&passed_on(
        &[&nameless, OPENAIS[1], OPENAIS[2]],
        &ours(false),
        false,
    ));
}

#[test]
fn chunks_whose_calls_are_renumbered_are_written_anew() {
    let call = |index: u32, id: &str| {
        OPENAIS[1].replace(
            r#""content":"Hi""#,
            &format!(
                r#""tool_calls":[{{"index":{index},"id":"{id}","type":"function","function":{{"name":"f","arguments":""}}}}]"#
            ),
        )
    };
    let (first, second) = (call(0, "a"), call(0, "b"));
    let seen = passed_on(
        &[OPENAIS[0], &first, &second, OPENAIS[2]],
        &ours(false),
        false,
    );
    assert_eq!(seen[1], first);
    assert!(
        seen[2].contains(r#""tool_calls":[{"index":1,"id":"b""#),
        "{}",
        seen[2]
    );
    assert!(!seen[3].contains("usage"), "{}", seen[3]);
}
