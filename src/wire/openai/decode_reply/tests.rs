use domain::{TokenLogprob, TokenLogprobs, Tokens};
use proptest::prelude::*;

use super::*;

fn logprob(text: &str, bytes: Option<&[u8]>, logprob: f64) -> TokenLogprob {
    TokenLogprob {
        text: text.into(),
        bytes: bytes.map(Into::into),
        logprob,
    }
}

#[test]
fn log_probabilities_of_another_form_are_none() {
    for odd in [
        r#"{"tokens":"a","token_logprobs":-1}"#,
        r#"{"content":[{"token":"a"}]}"#,
        r#"{"content":null}"#,
        "[]",
        "null",
        "7",
    ] {
        let choice = format!(r#"{{"message":{{"content":"a"}},"logprobs":{odd}}}"#);
        let choice = read_choice_of(&choice).unwrap();
        assert_eq!((choice.text().as_str(), choice.logprobs.len()), ("a", 0));
    }
    let many = r#"{"token":"a","logprob":-1}"#;
    let refusal = format!(
        r#"{{"message":{{"refusal":"a"}},"logprobs":{{"refusal":[
            {{"token":"a","logprob":-1,"top_logprobs":[{}]}}]}}}}"#,
        [many; 30].join(",")
    );
    assert_eq!(read_choice_of(&refusal).unwrap().logprobs[0].top.len(), 20);
}

#[test]
fn log_probabilities_of_the_older_form_are_read() {
    let many: Vec<String> = (0..30).map(|at| format!(r#""{at}":-{at}"#)).collect();
    let choice = format!(
        r#"{{"text":"ab","logprobs":{{"tokens":["a","b","c"],"token_logprobs":[null,-1],
            "top_logprobs":[null,{{{}}}],"text_offset":[0,1]}}}}"#,
        many.join(",")
    );
    let choice = read_choice_of(&choice).unwrap();
    assert_eq!(choice.text(), "ab");
    let weighed: Vec<_> = choice
        .logprobs
        .iter()
        .map(|one| (one.token.text.as_str(), one.token.logprob, one.top.len()))
        .collect();
    let least = domain::TokenLogprob::LEAST;
    assert_eq!(weighed, [("a", least, 0), ("b", -1.0, 20), ("c", least, 0)]);
}

#[test]
fn the_references_reply_is_read_whole() {
    const FULL: &[u8] = include_bytes!("../fixtures/reply_full.json");
    let reply = decode_reply(FULL).unwrap();
    let expected = Reply {
        started: Started {
            model: "gpt-x-2026-01-01".into(),
            reply_id: Some("chatcmpl-123".into()),
            fingerprint: Some("fp_1".into()),
        },
        choices: vec![
            ReplyChoice {
                stop_string: None,
                choice: 0,
                pieces: vec![],
                tool_calls: vec![ToolCall {
                    seal: None,
                    id: "call_1".into(),
                    name: "look_up".into(),
                    arguments: r#"{"q":"x"}"#.into(),
                }],
                logprobs: vec![],
                reason: FinishReason::ToolCalls,
            },
            ReplyChoice {
                stop_string: None,
                choice: 1,
                pieces: vec![
                    ReplyPiece::Thought("hm".into()),
                    ReplyPiece::Text("Hello \"you\" é".into()),
                ],
                tool_calls: vec![],
                logprobs: vec![
                    TokenLogprobs {
                        token: logprob("Hello", Some(b"Hello"), -0.317_253_05),
                        top: vec![
                            logprob("Hello", Some(b"Hello"), -0.317_253_05),
                            logprob("<|end|>", None, TokenLogprob::LEAST),
                        ],
                    },
                    TokenLogprobs {
                        token: logprob("\u{fffd}", Some(b"\xc3"), 0.0),
                        top: vec![],
                    },
                ],
                reason: FinishReason::Length,
            },
        ],
        usage: Some(Usage {
            cache_write_tokens: Tokens(5),
            prompt_tokens: Tokens(19),
            completion_tokens: Tokens(10),
            cached_tokens: Tokens(4),
            reasoning_tokens: Tokens(3),
            accepted_prediction_tokens: Tokens(2),
            rejected_prediction_tokens: Tokens(1),
            dropped_tokens: Tokens(0),
        }),
        written: Some(passing::whole(Dialect::OpenAi, FULL)),
    };
    assert_eq!(reply, expected);
}

#[test]
fn a_reply_is_passed_on_only_as_openai_would_write_it() {
    let good = r#"{"id":"c-1","object":"chat.completion","created":7,"model":"m","new":[1],"choices":[
        {"index":0,"message":{"role":"assistant","content":"\"refusal\":","refusal":null,"new":2},
         "logprobs":null,"finish_reason":"stop"}]}"#;
    let is_passed_on = |body: &str| decode_reply(body.as_bytes()).unwrap().written.is_some();
    assert!(is_passed_on(good));
    for (is, was) in [
        (r#""object":"chat.completion""#, r#""object":"completion""#),
        (r#""id":"c-1","#, ""),
        (r#""id":"c-1""#, r#""id":"""#),
        (r#""created":7"#, r#""created":7.5"#),
        (r#""created":7,"#, ""),
        (r#""model":"m""#, r#""model":null"#),
        (r#""index":0,"#, ""),
        (r#""role":"assistant","#, ""),
        (r#""refusal":null,"#, ""),
        (r#""logprobs":null,"#, ""),
        (r#","finish_reason":"stop""#, ""),
        (r#""finish_reason":"stop""#, r#""finish_reason":"eos""#),
        (r#""new":2"#, r#""reasoning":"hm""#),
        (
            r#""new":2"#,
            r#""tool_calls":[{"function":{"name":"f","arguments":{}}}]"#,
        ),
        (
            r#""content":"\"refusal\":""#,
            r#""content":[{"type":"text","text":"a"}]"#,
        ),
    ] {
        let body = good.replacen(is, was, 1);
        assert_ne!(body, good, "{is}");
        assert!(!is_passed_on(&body), "{body}");
    }
}

fn read_choice_of(choice: &str) -> Result<ReplyChoice, String> {
    let body = format!(r#"{{"choices":[{choice}]}}"#);
    match decode_reply(body.as_bytes()) {
        Ok(mut reply) => Ok(reply.choices.remove(0)),
        Err(error) => Err(format!("{error:?}")),
    }
}

#[test]
fn what_providers_leave_out_is_taken() {
    let choice = read_choice_of(r#"{"message":{"content":"a"}}"#).unwrap();
    assert_eq!(choice.text(), "a");
    assert_eq!((choice.choice, choice.reason), (0, FinishReason::Stop));

    let refused = read_choice_of(r#"{"message":{"content":null,"refusal":"no"}}"#).unwrap();
    assert_eq!(refused.text(), "no");

    let call = r#"{"message":{"tool_calls":[{"function":{"name":"f","arguments":{"a":1}}}]}}"#;
    let choice = read_choice_of(call).unwrap();
    assert_eq!(choice.tool_calls[0].id, "call_0_0");
    assert_eq!(choice.tool_calls[0].arguments, r#"{"a":1}"#);
    assert_eq!(choice.reason, FinishReason::ToolCalls);

    let unknown = read_choice_of(r#"{"message":{"content":"a"},"finish_reason":"eos"}"#).unwrap();
    assert_eq!(unknown.reason, FinishReason::Stop);
}

#[test]
fn what_is_no_reply_is_refused() {
    for body in [
        "",
        "{",
        "[]",
        "<html>",
        "{}",
        r#"{"choices":[]}"#,
        r#"{"choices":7}"#,
    ] {
        let error = decode_reply(body.as_bytes()).unwrap_err();
        assert!(
            matches!(error, BackendError::Garbled(_)),
            "{body}: {error:?}"
        );
    }
    for choice in [
        r#"{"index":128,"message":{"content":"a"}}"#,
        r#"{"index":-1,"message":{"content":"a"}}"#,
        r#"{"finish_reason":"stop"}"#,
        r#"{"message":{"content":"a"}},{"index":0,"message":{"content":"b"}}"#,
        r#"{"message":{"tool_calls":[{"function":{"arguments":"{}"}}]}}"#,
    ] {
        let error = read_choice_of(choice).unwrap_err();
        assert!(error.starts_with("Garbled"), "{choice}: {error}");
    }
    let error = decode_reply(br#"{"error":{"message":"m","code":429}}"#).unwrap_err();
    assert!(matches!(error, BackendError::Failed { status: 429 }));
    let aborted = read_choice_of(r#"{"message":{"content":"a"},"finish_reason":"abort"}"#);
    assert_eq!(aborted.unwrap_err(), "Interrupted");
}

#[test]
fn odd_counts_are_clamped() {
    let usage = |body: &str| {
        let body = format!(r#"{{"choices":[{{"message":{{}}}}],"usage":{body}}}"#);
        decode_reply(body.as_bytes()).unwrap().usage.unwrap()
    };
    assert_eq!(usage(r#"{"prompt_tokens":3.0}"#).prompt_tokens, Tokens(3));
    assert_eq!(usage(r#"{"prompt_tokens":-3}"#).prompt_tokens, Tokens(0));
    assert_eq!(
        usage(r#"{"prompt_tokens":1e99}"#).prompt_tokens,
        Tokens(u32::MAX)
    );
    assert_eq!(usage(r#"{"prompt_tokens":null}"#).prompt_tokens, Tokens(0));
    assert_eq!(usage("{}"), Usage::default());
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_reply(&bytes);
    }

    #[test]
    fn a_cut_reply_is_never_read(at in 0_usize..900) {
        let bytes = include_bytes!("../fixtures/reply_full.json").trim_ascii();
        prop_assert!(decode_reply(&bytes[..at.min(bytes.len() - 1)]).is_err());
    }
}
