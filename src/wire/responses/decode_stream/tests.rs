use domain::{Grammar, Tokens};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::StreamDecoder;

/// After the reference's page "Streaming events".
fn stream() -> Vec<u8> {
    let item = |item: Value| json!({"output_index": item["at"], "item": item});
    let events = [
        (
            "created",
            json!({"response": {"id": "resp_1", "model": "gpt-x", "status": "in_progress"}}),
        ),
        ("in_progress", json!({"response": {"id": "resp_1"}})),
        (
            "output_item.added",
            item(json!({"at": 0, "type": "reasoning", "summary": []})),
        ),
        (
            "reasoning_summary_text.delta",
            json!({"output_index": 0, "delta": "hm"}),
        ),
        (
            "output_item.done",
            item(
                json!({"at": 0, "type": "reasoning", "encrypted_content": "c2Vh",
            "summary": [{"type": "summary_text", "text": "hm"}]}),
            ),
        ),
        (
            "output_item.added",
            item(json!({"at": 1, "type": "message", "role": "assistant"})),
        ),
        (
            "content_part.added",
            json!({"output_index": 1, "part": {"type": "output_text", "text": ""}}),
        ),
        (
            "output_text.delta",
            json!({"output_index": 1, "delta": "Hé"}),
        ),
        (
            "output_text.delta",
            json!({"output_index": 1, "delta": "llo"}),
        ),
        (
            "output_text.done",
            json!({"output_index": 1, "text": "Héllo"}),
        ),
        (
            "output_item.added",
            item(
                json!({"at": 2, "type": "function_call", "call_id": "c1", "name": "f", "arguments": ""}),
            ),
        ),
        (
            "function_call_arguments.delta",
            json!({"output_index": 2, "delta": "{\"a\":"}),
        ),
        (
            "function_call_arguments.delta",
            json!({"output_index": 2, "delta": "1}"}),
        ),
        (
            "output_item.done",
            item(
                json!({"at": 2, "type": "function_call", "call_id": "c1", "name": "f", "arguments": "{\"a\":1}"}),
            ),
        ),
        (
            "output_item.done",
            item(
                json!({"at": 3, "type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"}),
            ),
        ),
        (
            "completed",
            json!({"response": {"status": "completed", "usage": {"input_tokens": 5, "output_tokens": 7}}}),
        ),
    ];
    let mut text = String::new();
    for (number, (kind, mut body)) in events.into_iter().enumerate() {
        body["type"] = format!("response.{kind}").into();
        body["sequence_number"] = number.into();
        text.push_str(&format!("event: response.{kind}\ndata: {body}\n\n"));
    }
    text.into_bytes()
}

fn decode(pieces: &[&[u8]]) -> Vec<Result<ChatEvent, BackendError>> {
    let mut decoder = Decoder::default();
    let mut out = Out::new();
    pieces
        .iter()
        .for_each(|piece| decoder.push(piece, &mut out));
    decoder.finish(&mut out);
    assert!(decoder.is_over());
    let mut grammar = Grammar::default();
    for event in out.iter().flatten() {
        grammar.take(event).unwrap();
    }
    if out.iter().all(Result::is_ok) {
        grammar.finish().unwrap();
    }
    out.into()
}

fn shown(events: &[Result<ChatEvent, BackendError>]) -> Vec<String> {
    let show = |event: &Result<ChatEvent, BackendError>| match event {
        Ok(ChatEvent::Text { text, .. }) => format!("text {text}"),
        Ok(ChatEvent::Thought { text, .. }) => format!("thought {text}"),
        Ok(ChatEvent::Seal { seal, .. }) => format!("seal {}", seal.data),
        Ok(ChatEvent::ToolCall { index, part, .. }) => {
            format!("call {index} {:?} {}", part.id, part.arguments)
        }
        other => format!("{other:?}"),
    };
    events.iter().map(show).collect()
}

#[test]
fn a_stream_is_read_in_order() {
    let events = decode(&[&stream()]);
    let told = shown(&events);
    let wanted = [
        "thought hm",
        "seal c2Vh",
        "text Hé",
        "text llo",
        r#"call 0 Some("c1") "#,
        r#"call 0 None {"a":"#,
        "call 0 None 1}",
        r#"call 1 Some("c2") "#,
        "call 1 None {}",
    ];
    assert_eq!(told[1..10], wanted);
    assert!(matches!(&events[0], Ok(ChatEvent::Started(it)) if it.model == "gpt-x"));
    assert!(matches!(&events[11], Ok(ChatEvent::Usage(it)) if it.completion_tokens == Tokens(7)));
    assert_eq!(events.len(), 12);
}

#[test]
fn a_stream_without_its_end_is_interrupted_and_a_failure_is_told() {
    let whole = stream();
    let cut = whole.len() - 40;
    let events = decode(&[&whole[..cut]]);
    assert!(matches!(events.last(), Some(Err(_))), "{events:?}");
    let check = |data: &str, wanted: &str| {
        let events = decode(&[format!("data: {data}\n\n").as_bytes()]);
        let error = events.last().unwrap().as_ref().unwrap_err();
        assert_eq!(error.as_label(), wanted, "{data}");
    };
    check(
        r#"{"type":"error","code":"rate_limit_exceeded","message":"a"}"#,
        "rate_limited",
    );
    check(r#"{"type":"error","error":{"code":"x"}}"#, "failed");
    check(
        r#"{"type":"error","code":"insufficient_quota","message":"a"}"#,
        "rate_limited",
    );
    check(
        r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"invalid_prompt"}}}"#,
        "content_refused",
    );
    for code in [
        "context_length_exceeded",
        "invalid_image_url",
        "image_too_large",
    ] {
        let error = format!(r#""error":{{"code":"{code}","message":"no\nsuch"}}"#);
        let whole = format!(r#"{{"status":"failed","output":[],{error}}}"#);
        let of_reply = crate::responses::decode_reply::decode_reply(whole.as_bytes()).unwrap_err();
        let data = format!(r#"data: {{"type":"error",{error}}}"#);
        let events = decode(&[data.as_bytes(), b"\n\n"]);
        let of_stream = events.last().unwrap().as_ref().unwrap_err();
        for error in [&of_reply, of_stream] {
            let BackendError::Rejected {
                status: 400,
                reason,
            } = error
            else {
                panic!("{code}: {error:?}");
            };
            assert_eq!(reason.code.as_deref(), Some(code));
            assert_eq!(reason.message, "no such");
        }
    }
    check(
        r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"server_error"}}}"#,
        "failed",
    );
    check(
        r#"{"type":"response.output_item.added","item":{"type":"function_call"}}"#,
        "garbled",
    );
    check(
        r#"{"type":"response.function_call_arguments.delta","output_index":4,"delta":"a"}"#,
        "garbled",
    );
    check("{", "garbled");
    check("7", "interrupted");
}

proptest! {
    #[test]
    fn cuts_do_not_matter(cuts in prop::collection::vec(0_usize..2_000, 0..12)) {
        let whole = stream();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(whole.len())).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts {
            pieces.push(&whole[from..cut]);
            from = cut;
        }
        pieces.push(&whole[from..]);
        prop_assert_eq!(shown(&decode(&pieces)), shown(&decode(&[&whole])));
    }

    #[test]
    fn nothing_that_comes_breaks_the_grammar(lines in prop::collection::vec(
        prop::sample::select(String::from_utf8(stream()).unwrap().split("\n\n").map(str::to_owned).collect::<Vec<_>>()), 0..24)) {
        let text = lines.join("\n\n") + "\n\n";
        decode(&[text.as_bytes()]);
    }
}

#[test]
fn what_was_not_told_as_it_came_is_told_at_its_end() {
    let events = decode(&[concat!(
        r#"data: {"type":"response.output_item.done","output_index":0,"item":{"type":"reasoning","summary":[{"text":"a"},{"text":"b"}]}}"#,
        "\n\n",
        r#"data: {"type":"response.output_item.done","output_index":1,"item":{"type":"message","content":[{"type":"output_text","text":"c"}]}}"#,
        "\n\n",
        r#"data: {"type":"response.completed","response":{"status":"completed"}}"#,
        "\n\n",
    )
    .as_bytes()]);
    assert_eq!(shown(&events)[1..3], ["thought a\n\nb", "text c"]);
}

#[test]
fn parts_of_a_summary_are_paragraphs_and_log_probabilities_come_with_their_text() {
    let events = decode(&[concat!(
        r#"data: {"type":"response.reasoning_summary_part.added","output_index":0}"#,
        "\n\n",
        r#"data: {"type":"response.reasoning_summary_text.delta","output_index":0,"delta":"a"}"#,
        "\n\n",
        r#"data: {"type":"response.reasoning_summary_part.added","output_index":0}"#,
        "\n\n",
        r#"data: {"type":"response.reasoning_summary_text.delta","output_index":0,"delta":"b"}"#,
        "\n\n",
        r#"data: {"type":"response.output_text.delta","output_index":1,"delta":"c","logprobs":[{"token":"c","logprob":-1,"top_logprobs":[]}]}"#,
        "\n\n",
        r#"data: {"type":"response.completed","response":{"status":"completed"}}"#,
        "\n\n",
    )
    .as_bytes()]);
    let told = shown(&events);
    assert_eq!(told[1..4], ["thought a", "thought \n\n", "thought b"]);
    assert!(
        matches!(&events[4], Ok(ChatEvent::Logprobs { tokens, .. }) if tokens[0].token.text == "c")
    );
    assert_eq!(told[5], "text c");
}
