//! Replies as a client reads them, where they are not as they should be.

use domain::{FinishReason, Reply, Tokens};
use proptest::prelude::*;

use super::*;

fn chunk(candidate: Value) -> String {
    let body = json!({"candidates": [candidate], "modelVersion": "m", "responseId": "r"});
    format!("data: {body}\n\n")
}

fn saying(parts: Value) -> String {
    chunk(json!({"content": {"parts": parts, "role": "model"}}))
}

fn ending(reason: &str) -> String {
    chunk(json!({"finishReason": reason}))
}

fn whole(candidate: &Value) -> Result<Reply, BackendError> {
    let body = json!({"candidates": [candidate], "modelVersion": "m", "responseId": "r"});
    Gemini.decode_reply(body.to_string().as_bytes())
}

#[test]
fn ends_are_read_by_googles_words() {
    for (word, reason) in [
        ("STOP", FinishReason::Stop),
        ("MAX_TOKENS", FinishReason::Length),
        ("SAFETY", FinishReason::ContentFilter),
        ("RECITATION", FinishReason::ContentFilter),
        ("PROHIBITED_CONTENT", FinishReason::ContentFilter),
        ("OTHER", FinishReason::ContentFilter),
        ("SOMETHING_NEW", FinishReason::Stop),
    ] {
        let events = stream((saying(json!([{"text": "a"}])) + &ending(word)).as_bytes());
        let ended = ChatEvent::ChoiceEnded { choice: 0, reason };
        assert_eq!(events.last().unwrap().as_ref().unwrap(), &ended, "{word}");
        let reply = whole(&json!({"content": {}, "finishReason": word})).unwrap();
        assert_eq!(reply.choices[0].reason, reason);
    }
    let call = json!([{"functionCall": {"name": "f"}}]);
    let reply = whole(&json!({"content": {"parts": call}, "finishReason": "STOP"})).unwrap();
    assert_eq!(reply.choices[0].reason, FinishReason::ToolCalls);
    for word in [
        "MALFORMED_FUNCTION_CALL",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
    ] {
        let events = stream((saying(json!([{"text": "a"}])) + &ending(word)).as_bytes());
        assert_eq!(error(&events).as_label(), "garbled", "{word}");
        assert!(whole(&json!({"finishReason": word})).is_err());
    }
}

#[test]
fn a_blocked_prompt_is_refused_content() {
    let body = json!({
        "promptFeedback": {"blockReason": "SAFETY"},
        "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4},
        "modelVersion": "m",
    });
    let events = stream(format!("data: {body}\n\n").as_bytes());
    assert_eq!(error(&events).as_label(), "content_refused");
    let refused = Gemini
        .decode_reply(body.to_string().as_bytes())
        .unwrap_err();
    assert_eq!(refused.as_label(), "content_refused");
    // Once something was said it comes too late to be heard.
    let late = saying(json!([{"text": "a"}])) + &format!("data: {body}\n\n") + &ending("STOP");
    assert!(stream(late.as_bytes()).iter().all(Result::is_ok));
    // Feedback without a reason blocks nothing.
    let body = json!({"promptFeedback": {"safetyRatings": []}});
    let cut = Gemini
        .decode_reply(body.to_string().as_bytes())
        .unwrap_err();
    assert_eq!(cut.as_label(), "garbled");
}

#[test]
fn calls_without_ids_get_ones_that_differ_by_reply() {
    let calls =
        json!([{"functionCall": {"name": "f"}}, {"functionCall": {"name": "f", "args": {"a": 1}}}]);
    let reply = whole(&json!({"content": {"parts": calls}})).unwrap();
    let calls = &reply.choices[0].tool_calls;
    assert_eq!(
        (calls[0].id.as_str(), calls[0].arguments.as_str()),
        ("call_r_0_0", "{}")
    );
    assert_eq!(
        (calls[1].id.as_str(), calls[1].arguments.as_str()),
        ("call_r_0_1", "{\"a\":1}")
    );
}

#[test]
fn candidates_share_a_stream() {
    let part =
        |index: u32, text: &str| json!({"index": index, "content": {"parts": [{"text": text}]}});
    let body = json!({"candidates": [part(0, "a"), part(1, "b")]});
    let text = format!(
        "data: {body}\n\n{}{}{}",
        chunk(json!({"index": 1, "finishReason": "STOP"})),
        chunk(part(0, "c")),
        chunk(json!({"index": 0, "finishReason": "MAX_TOKENS"})),
    );
    let events = stream(text.as_bytes());
    assert_eq!(events.len(), 6);
    assert!(events.iter().all(Result::is_ok));
    // The second end is one too many for the first candidate only.
    let cut = stream(format!("data: {body}\n\n{}", ending("STOP")).as_bytes());
    assert_eq!(error(&cut).as_label(), "interrupted");
}

#[test]
fn usage_counts_thoughts_once_and_the_last_word_counts() {
    let with = |usage: Value, reason: Option<&str>| {
        let body = json!({"candidates": [{"content": {"parts": [{"text": "a"}]}, "finishReason": reason}],
            "usageMetadata": usage});
        format!("data: {body}\n\n")
    };
    let text = with(
        json!({"promptTokenCount": 1, "candidatesTokenCount": 1}),
        None,
    ) + &with(
        json!({"promptTokenCount": 10, "toolUsePromptTokenCount": 2, "cachedContentTokenCount": 4,
                "candidatesTokenCount": 3, "thoughtsTokenCount": 5.0}),
        Some("STOP"),
    );
    let events = stream(text.as_bytes());
    let Some(Ok(ChatEvent::Usage(usage))) = events.last() else {
        panic!("usage comes last");
    };
    assert_eq!(usage.prompt_tokens, Tokens(12));
    assert_eq!(usage.completion_tokens, Tokens(8));
    assert_eq!(usage.reasoning_tokens, Tokens(5));
    assert_eq!(usage.cached_tokens, Tokens(4));
    // Without any, the reply is whole all the same.
    let events = stream((saying(json!([{"text": "a"}])) + &ending("STOP")).as_bytes());
    assert!(matches!(
        events.last(),
        Some(Ok(ChatEvent::ChoiceEnded { .. }))
    ));
}

#[test]
fn what_is_no_stream_is_an_error() {
    let text = |text: &str| saying(json!([{ "text": text }]));
    let calls = vec![json!({"functionCall": {"name": "f"}}); 257];
    for (bytes, label) in [
        (String::new(), "interrupted"),
        ("\n\n: nothing\n\n".into(), "interrupted"),
        (text("a"), "interrupted"),
        ("data: {\"candidates\"\n\n".into(), "garbled"),
        ("data: {\"candidates\": 7}\n\n".into(), "garbled"),
        ("data: {\"candidates\": [{\"content\"".into(), "interrupted"),
        ("<html>".into(), "interrupted"),
        (text("a") + &ending("STOP") + &text("b"), "garbled"),
        (
            text("a") + &ending("STOP") + &saying(json!([{"functionCall": {"name": "f"}}])),
            "garbled",
        ),
        (saying(json!([{"functionCall": {}}])), "garbled"),
        (
            saying(json!([{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}])),
            "garbled",
        ),
        (
            saying(json!([{"executableCode": {"code": "1"}}])),
            "garbled",
        ),
        (saying(calls.into()), "garbled"),
        (chunk(json!({"index": 128})), "garbled"),
        (format!("data: {}", "x".repeat(2 << 20)), "garbled"),
        (format!("[{}", "{".repeat(2 << 20)), "garbled"),
        (
            format!("data: {}1{}\n\n", "[".repeat(5000), "]".repeat(5000)),
            "garbled",
        ),
    ] {
        let events = stream(bytes.as_bytes());
        assert_eq!(error(&events).as_label(), label, "{:.80}", bytes);
    }
    for bytes in [
        "",
        "<html>",
        "[]",
        "{}",
        r#"{"candidates": []}"#,
        r#"{"candidates": 7}"#,
    ] {
        let error = Gemini.decode_reply(bytes.as_bytes()).unwrap_err();
        assert_eq!(error.as_label(), "garbled", "{bytes}");
    }
    let twice = json!({"candidates": [{"index": 1}, {"index": 1}]});
    assert!(Gemini.decode_reply(twice.to_string().as_bytes()).is_err());
}

#[test]
fn an_end_said_twice_and_empty_parts_change_nothing() {
    let text = saying(json!([{"text": ""}, {"text": "a"}, {}]))
        + &ending("STOP")
        + &ending("MAX_TOKENS")
        + &saying(json!([{"text": ""}]))
        + "data: {\"usageMetadata\": {\"promptTokenCount\": 1}}\n\n";
    let events = stream(text.as_bytes());
    assert_eq!(events.len(), 4);
    assert!(events.iter().all(Result::is_ok));
}

proptest! {
    #[test]
    fn any_bytes_come_to_an_end(text in "(data: |\\[)?[\\[\\]{}\",:a-z0-9\n ]{0,200}") {
        stream(text.as_bytes());
    }

    #[test]
    fn any_parts_obey_the_grammar(
        texts in prop::collection::vec("[a-z]{0,3}", 0..6),
        kinds in prop::collection::vec(0..5_u8, 0..6),
        ends in prop::bool::ANY,
    ) {
        let parts = texts.iter().zip(&kinds).map(|(text, kind)| match kind {
            0 => json!({ "text": text }),
            1 => json!({"text": text, "thought": true}),
            2 => json!({"functionCall": {"name": text}}),
            3 => json!({"text": text, "thoughtSignature": "c2ln"}),
            _ => json!({"thoughtSignature": "c2ln"}),
        });
        let mut bytes: String = parts.map(|part| saying(json!([part]))).collect();
        if ends {
            bytes += &ending("STOP");
        }
        stream(bytes.as_bytes());
    }
}
