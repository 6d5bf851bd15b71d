//! Goldens by `fixtures/README.md`, hostile requests, and streams under any cut.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use domain::{
    BackendError, BadRequest, ChatEvent, ChatRequest, Delivery, FinishReason, Grammar, Message,
    OutputFormat, Reply, Role, Started, TokenLogprob, TokenLogprobs, Tokens, Usage,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::Completions;
use crate::openai::{ErrorBody, Framing};
use crate::{ClientDialect, Decoded, ServerDialect, StreamDecoder};

const REQUEST: &str = include_str!("fixtures/request_full.json");
const UPSTREAM: &str = include_str!("fixtures/upstream_full.json");
const REPLY: &str = include_str!("fixtures/reply_full.json");
const STREAM: &str = include_str!("fixtures/stream_text.sse");

fn decode(value: &Value) -> Result<Decoded, BadRequest> {
    Completions.decode(&Bytes::from(value.to_string()))
}

/// `{"model": "m", "prompt": "p"}` with `more`.
fn asked(more: &Value) -> Value {
    let mut body = json!({"model": "m", "prompt": "p"});
    let more = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(more);
    body
}

fn framing(reply: &Value, includes_usage: bool) -> Framing {
    Framing {
        id: reply["id"].as_str().unwrap().into(),
        created: reply["created"].as_u64().unwrap(),
        model: reply["model"].as_str().unwrap().into(),
        includes_usage,
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_request_is_a_raw_prompt_and_reaches_an_upstream_of_its_dialect_whole() {
    let request = Completions.decode(&Bytes::from(REQUEST)).unwrap().request;
    assert!(request.is_raw());
    assert_eq!(request.messages[0].text(), "Say this is a test");
    assert_eq!(request.output_tokens_max, Some(Tokens(7)));
    assert_eq!(request.sampling.logprobs, Some(2));
    assert_eq!(request.choices, 2);
    let sent = Completions
        .encode_request("gpt-3.5-turbo-instruct", &request)
        .unwrap();
    assert_eq!(json(std::str::from_utf8(&sent).unwrap()), json(UPSTREAM));
    // Numbers of fields that nobody here knows are those of the caller's text.
    assert!(std::str::from_utf8(&sent).unwrap().contains("2.50"));
}

#[test]
fn a_prompt_that_was_masked_is_written_anew() {
    let mut request = Completions.decode(&Bytes::from(REQUEST)).unwrap().request;
    request.source = None;
    request.messages = vec![Message::new(Role::User, "masked")];
    let sent = Completions.encode_request("m", &request).unwrap();
    let sent = json(std::str::from_utf8(&sent).unwrap());
    let mut expected = json(UPSTREAM);
    expected["model"] = "m".into();
    expected["prompt"] = "masked".into();
    expected["logit_bias"] = json!({"50256": -100.0});
    expected.as_object_mut().unwrap().remove("suffix");
    assert_eq!(sent, expected);
}

#[test]
fn an_upstream_is_told_the_bound_and_not_to_echo() {
    let request = decode(&asked(&json!({"echo": true}))).unwrap().request;
    let sent = Completions.encode_request("m", &request).unwrap();
    let sent = json(std::str::from_utf8(&sent).unwrap());
    assert_eq!(sent, json!({"model": "m", "prompt": "p", "max_tokens": 16}));
}

#[test]
fn what_is_left_out_has_openais_defaults() {
    let request = decode(&asked(&json!({}))).unwrap().request;
    assert_eq!(request.output_tokens_max, Some(Tokens(16)));
    assert_eq!(request.choices, 1);
    assert_eq!(request.delivery, Delivery::Whole);
    assert_eq!(request.format, OutputFormat::Text);
    // Some clients write one prompt as a list of one.
    let listed = decode(&asked(&json!({"prompt": ["p"]}))).unwrap().request;
    assert_eq!(listed.messages[0].text(), "p");
}

#[test]
fn options_of_a_stream_go_on_where_they_stood() {
    let options = json!({"stream": true, "stream_options": {"include_usage": false, "x": 1}});
    let request = decode(&asked(&options)).unwrap().request;
    let sent = Completions.encode_request("m", &request).unwrap();
    let sent = json(std::str::from_utf8(&sent).unwrap());
    assert_eq!(sent["stream"], true);
    assert_eq!(
        sent["stream_options"],
        json!({"include_usage": true, "x": 1})
    );
}

#[test]
fn faults_are_named_with_their_place() {
    let cases = [
        (json!({"prompt": null}), "prompt"),
        (json!({"prompt": ""}), "prompt"),
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": [""]}), "prompt"),
        (json!({"prompt": ["a", "b"]}), "prompt"),
        (json!({"prompt": [1, 2]}), "prompt"),
        (json!({"prompt": [[1], [2]]}), "prompt"),
        (json!({"prompt": vec![1; 100_000]}), "prompt"),
        (json!({"prompt": ["a", true]}), "prompt[1]"),
        (json!({"prompt": {"text": "a"}}), "prompt"),
        (json!({"model": null}), "model"),
        (json!({"model": 1}), "model"),
        (json!({"suffix": "x"}), "suffix"),
        (json!({"suffix": 1}), "suffix"),
        (json!({"echo": "yes"}), "echo"),
        (json!({"echo": true, "logprobs": 0}), "logprobs"),
        (json!({"logprobs": true}), "logprobs"),
        (json!({"logprobs": 6}), "logprobs"),
        (json!({"best_of": 2}), "best_of"),
        (json!({"best_of": 1, "n": 2}), "best_of"),
        (json!({"n": 0}), "n"),
        (json!({"n": 129}), "n"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_tokens": 1.5}), "max_tokens"),
        (json!({"max_completion_tokens": 5}), "max_completion_tokens"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"top_p": 0}), "top_p"),
        (json!({"stop": ["a", 1]}), "stop[1]"),
        (json!({"stop": ["a", "b", "c", "d", "e"]}), "stop"),
        (json!({"logit_bias": {"x": 1}}), "logit_bias.x"),
        (json!({"seed": "1"}), "seed"),
        (json!({"stream": 1}), "stream"),
        (json!({"stream_options": {}}), "stream_options"),
        (
            json!({"response_format": {"type": "x"}}),
            "response_format.type",
        ),
        (json!({"mirostat": 3}), "mirostat"),
    ];
    for (more, param) in cases {
        let fault = decode(&asked(&more)).unwrap_err();
        assert_eq!(fault.param.as_deref(), Some(param), "{more} {fault:?}");
    }
    for body in ["", "[]", "1", "{", "\"x\""] {
        assert!(Completions.decode(&Bytes::from(body)).is_err(), "{body}");
    }
    let deep = format!(
        "{{\"prompt\":{}1{}}}",
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    assert!(Completions.decode(&Bytes::from(deep)).is_err());
}

#[test]
fn what_is_said_of_messages_is_said_of_the_prompt() {
    let error = ErrorBody {
        message: "too long".into(),
        kind: "invalid_request_error",
        param: Some("messages".into()),
        code: Some("context_length_exceeded".into()),
    };
    let body = ServerDialect::refusal(&Completions, 400, &error, "id");
    assert_eq!(
        json(std::str::from_utf8(&body).unwrap())["error"]["param"],
        "prompt"
    );
}

#[test]
fn a_chat_is_declined_by_its_place() {
    let chat = ChatRequest::new("m", vec![Message::new(Role::User, "hi")]);
    match Completions.encode_request("m", &chat) {
        Err(BackendError::Declined { reason }) => {
            assert_eq!(reason.param.as_deref(), Some("messages"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_whole_reply_is_read_and_written_as_it_was() {
    let golden = json(REPLY);
    let reply = Completions.decode_reply(REPLY.as_bytes()).unwrap();
    assert_eq!(reply.choices[0].text(), "\n\nThis is");
    assert_eq!(reply.choices[0].reason, FinishReason::Length);
    assert_eq!(reply.choices[0].logprobs[1].top.len(), 2);
    let mut encoder = decode(&asked(&json!({}))).unwrap().encoder;
    let written = encoder.whole(&framing(&golden, false), &reply);
    assert_eq!(json(std::str::from_utf8(&written).unwrap()), golden);
}

fn events(cuts: &[&[u8]]) -> Vec<ChatEvent> {
    let mut decoder: Box<dyn StreamDecoder> = Completions.decoder();
    let (mut out, mut grammar) = (VecDeque::new(), Grammar::default());
    for cut in cuts {
        decoder.push(cut, &mut out);
    }
    decoder.finish(&mut out);
    let events: Vec<_> = out.into_iter().map(Result::unwrap).collect();
    for event in &events {
        grammar.take(event).unwrap();
    }
    grammar.finish().unwrap();
    events
}

/// The `data:` of a stream, the last of which is `[DONE]`.
fn data(stream: &str) -> Vec<String> {
    let lines = stream.split("\n\n").filter(|event| !event.is_empty());
    lines
        .map(|event| event.strip_prefix("data: ").unwrap().to_owned())
        .collect()
}

fn stream_of(body: &Value, framing: Framing, events: &[ChatEvent]) -> String {
    let mut encoder = decode(body).unwrap().encoder;
    let mut out = BytesMut::new();
    encoder.begin(framing);
    for event in events {
        encoder.event(event, &mut out);
    }
    encoder.finish(&mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn a_stream_is_read_and_written_as_it_was() {
    let golden = data(STREAM);
    let events = events(&[STREAM.as_bytes()]);
    let written = stream_of(
        &asked(&json!({})),
        framing(&json(&golden[0]), true),
        &events,
    );
    let written = data(&written);
    assert_eq!(written.len(), golden.len());
    let (done, chunks) = golden.split_last().unwrap();
    assert_eq!(written.last(), Some(done));
    for (written, golden) in written.iter().zip(chunks) {
        let mut golden = json(golden);
        if golden["choices"] != json!([]) {
            golden["usage"] = Value::Null;
        }
        assert_eq!(json(written), golden);
    }
}

fn token(text: &str, logprob: f64, top: &[(&str, f64)]) -> TokenLogprobs {
    let one = |text: &str, logprob| TokenLogprob {
        text: text.to_owned(),
        bytes: None,
        logprob,
    };
    TokenLogprobs {
        token: one(text, logprob),
        top: top
            .iter()
            .map(|(text, logprob)| one(text, *logprob))
            .collect(),
    }
}

fn spoken() -> Vec<ChatEvent> {
    let text = |choice, text: &str| ChatEvent::Text {
        choice,
        text: text.into(),
    };
    let end = |choice| ChatEvent::ChoiceEnded {
        choice,
        reason: FinishReason::Stop,
    };
    vec![
        ChatEvent::Started(Started {
            model: "m".into(),
            reply_id: None,
            fingerprint: None,
        }),
        ChatEvent::Logprobs {
            choice: 0,
            tokens: vec![token("é", -0.5, &[("x", -0.25)])],
        },
        text(0, "é"),
        ChatEvent::Logprobs {
            choice: 0,
            tokens: vec![token("b", -1.0, &[])],
        },
        text(1, "other"),
        text(0, "b"),
        end(0),
        end(1),
        ChatEvent::Usage(Usage::default()),
    ]
}

#[test]
fn the_prompt_comes_first_in_every_choice_and_offsets_count_characters() {
    let framing = Framing {
        id: "cmpl-1".into(),
        created: 1,
        model: "m".into(),
        includes_usage: false,
    };
    let body = asked(&json!({"prompt": "pré", "echo": true, "n": 2}));
    let chunks = data(&stream_of(&body, framing.clone(), &spoken()));
    let chunks: Vec<Value> = chunks
        .iter()
        .filter(|it| *it != "[DONE]")
        .map(|it| json(it))
        .collect();
    for (choice, text) in [(0, "prééb"), (1, "préother")] {
        let of_choice = chunks.iter().map(|chunk| &chunk["choices"][0]);
        let said: String = of_choice
            .filter(|it| it["index"] == choice)
            .map(|it| it["text"].as_str().unwrap())
            .collect();
        assert_eq!(said, text);
    }
    let weighed: Vec<&Value> = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["logprobs"])
        .filter(|logprobs| !logprobs.is_null())
        .collect();
    assert_eq!(
        weighed,
        [
            &json!({"tokens": ["é"], "token_logprobs": [-0.5], "text_offset": [3],
                "top_logprobs": [{"x": -0.25, "é": -0.5}]}),
            &json!({"tokens": ["b"], "token_logprobs": [-1.0], "text_offset": [4],
                "top_logprobs": [{"b": -1.0}]}),
        ]
    );
    // The usage was not asked for.
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
    let reply = collected(&spoken());
    let whole = decode(&body).unwrap().encoder.whole(&framing, &reply);
    let whole = json(std::str::from_utf8(&whole).unwrap());
    assert_eq!(whole["choices"][0]["text"], "prééb");
    assert_eq!(
        whole["choices"][0]["logprobs"]["text_offset"],
        json!([3, 4])
    );
    assert_eq!(whole["choices"][1]["text"], "préother");
}

fn collected(events: &[ChatEvent]) -> Reply {
    let events: Vec<_> = events.iter().cloned().map(Ok).collect();
    let stream = futures::stream::iter(events);
    futures::executor::block_on(domain::collect(Box::pin(stream))).unwrap()
}

const HOSTILE: [&[u8]; 10] = [
    b"data: {\"choices\":[{\"text\":\"a\",\"index\":0}]}\n\n",
    b"data: {\"choices\":[{\"text\":\"a\",\"index\":128}]}\n\n",
    b"data: {\"choices\":[{\"text\":\"\",\"index\":0,\"finish_reason\":\"stop\"}]}\n\n",
    b"data: {\"choices\":[{\"text\":{\"a\":1},\"logprobs\":{\"tokens\":[\"a\"]}}]}\n\n",
    b"data: {\"choices\":[{\"logprobs\":{\"tokens\":[1]},\"text\":\"b\"}]}\n\n",
    b"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":\"x\"}}\n\n",
    b"data: {\"error\":{\"message\":\"no\"}}\n\n",
    b"data: [DONE]\n\n",
    b": comment\n",
    b"\xff\xfe\n\ndata:",
];

proptest! {
    #[test]
    fn any_cut_of_the_bytes_gives_the_same_events(cut in 1_usize..200) {
        let cuts: Vec<&[u8]> = STREAM.as_bytes().chunks(cut).collect();
        prop_assert_eq!(events(&cuts), events(&[STREAM.as_bytes()]));
    }

    #[test]
    fn hostile_bytes_never_panic_and_keep_the_grammar(
        pieces in prop::collection::vec(prop::sample::select(&HOSTILE[..]), 0..40),
    ) {
        let mut decoder: Box<dyn StreamDecoder> = Completions.decoder();
        let (mut out, mut grammar) = (VecDeque::new(), Grammar::default());
        for piece in pieces {
            decoder.push(piece, &mut out);
        }
        decoder.finish(&mut out);
        let count = out.len();
        for (at, event) in out.into_iter().enumerate() {
            match event {
                Ok(event) => grammar.take(&event).unwrap(),
                Err(_) => prop_assert_eq!(at + 1, count),
            }
        }
    }
}
