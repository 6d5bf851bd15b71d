use domain::FinishReason;
use serde_json::json;

use super::*;

fn decode(body: &Value) -> Result<Reply, BackendError> {
    decode_reply(body.to_string().as_bytes())
}

/// After the example of the reference's page "Create a model response", with a reasoning item and a
/// call added.
#[test]
fn a_response_is_read_whole() {
    let body = json!({
        "id": "resp_1", "object": "response", "status": "completed", "error": null, "model": "gpt-x",
        "output": [
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}],
             "encrypted_content": "c2Vh"},
            {"type": "web_search_call", "id": "ws_1", "status": "completed"},
            {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
             "content": [{"type": "output_text", "text": "In a ", "annotations": [],
                          "logprobs": [{"token": "In", "logprob": -1, "bytes": [73, 110], "top_logprobs": []}]},
                         {"type": "refusal", "refusal": "no"}]},
            {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"}
        ],
        "usage": {"input_tokens": 36, "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 3}, "output_tokens": 87,
                  "output_tokens_details": {"reasoning_tokens": 9}, "total_tokens": 123}
    });
    let reply = decode(&body).unwrap();
    let choice = &reply.choices[0];
    assert_eq!(choice.thoughts(), "hm");
    assert_eq!(choice.text(), "In a no");
    assert!(matches!(&choice.pieces[1], ReplyPiece::Seal(seal) if seal.data == "c2Vh"));
    assert_eq!(choice.logprobs[0].token.text, "In");
    assert_eq!(choice.tool_calls[0].id, "call_1");
    assert_eq!(choice.reason, FinishReason::ToolCalls);
    let usage = reply.usage.unwrap();
    let counts = [
        usage.prompt_tokens,
        usage.cached_tokens,
        usage.completion_tokens,
    ];
    assert_eq!(counts.map(|it| it.0), [36, 8, 87]);
    assert_eq!(usage.reasoning_tokens.0, 9);
    assert_eq!(usage.cache_write_tokens.0, 3);
    assert_eq!(reply.started.model, "gpt-x");
}

#[test]
fn a_response_that_is_not_whole_says_why() {
    let of = |status: &str, more: Value| {
        let mut body = json!({"status": status, "output": []});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        decode(&body)
    };
    let cut = |reason| json!({"incomplete_details": {"reason": reason}});
    for (reason, wanted) in [
        ("max_output_tokens", FinishReason::Length),
        ("content_filter", FinishReason::ContentFilter),
        ("max_tool_calls", FinishReason::Length),
    ] {
        let reply = of("incomplete", cut(reason)).unwrap();
        assert_eq!(reply.choices[0].reason, wanted, "{reason}");
    }
    let failed = of("failed", json!({"error": {"code": "server_error"}}));
    assert!(matches!(failed, Err(BackendError::Failed { status: 500 })));
    let limited = of("failed", json!({"error": {"code": "rate_limit_exceeded"}}));
    assert!(matches!(limited, Err(BackendError::RateLimited { .. })));
    for status in ["in_progress", "queued", "cancelled", "odd"] {
        assert!(
            matches!(of(status, json!({})), Err(BackendError::Interrupted)),
            "{status}"
        );
    }
}

#[test]
fn what_is_no_response_is_garbled() {
    for body in [
        "",
        "[]",
        "{}",
        "7",
        r#"{"output":7}"#,
        r#"{"output":[{"type":"function_call"}]}"#,
    ] {
        let error = decode_reply(body.as_bytes()).expect_err(body);
        assert!(
            matches!(error, BackendError::Garbled(_)),
            "{body}: {error:?}"
        );
    }
    let error = decode_reply(br#"{"error":{"message":"a"}}"#);
    assert!(matches!(error, Err(BackendError::Failed { .. })));
}

#[test]
fn a_seal_that_another_hedge_wrote_finds_its_maker() {
    let body = json!({"output": [
        {"type": "reasoning", "summary": [{"text": "a"}, {"text": "b"}], "encrypted_content": "hedge.anthropic.x"},
        {"type": "function_call", "call_id": "c", "name": "f", "encrypted_content": "hedge.gemini.y"}
    ]});
    let choice = &decode(&body).unwrap().choices[0];
    assert_eq!(choice.thoughts(), "a\n\nb");
    let ReplyPiece::Seal(seal) = &choice.pieces[1] else {
        panic!("{choice:?}")
    };
    assert_eq!(
        (seal.of, seal.data.as_str()),
        (domain::Dialect::Anthropic, "x")
    );
    let seal = choice.tool_calls[0].seal.as_ref().unwrap();
    assert_eq!(
        (seal.of, seal.data.as_str()),
        (domain::Dialect::Gemini, "y")
    );
}
