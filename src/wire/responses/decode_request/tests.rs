use domain::{Audio, Image, Part, Role, Seal, SealKind};

use super::*;

fn decode(body: &Value) -> Result<(ChatRequest, Encoder), BadRequest> {
    decode_request(&Bytes::from(body.to_string()))
}

fn asked(more: Value) -> Value {
    let mut body = json!({"model": "m", "input": "hi"});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn every_kind_of_item_finds_its_place() {
    let body = json!({
        "model": "gpt-x", "instructions": "Be short.",
        "input": [
            {"role": "user", "content": "one"},
            {"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "two"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"},
                {"type": "input_file", "file_url": "https://files.example/b.pdf"}
            ]},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}],
             "encrypted_content": "c2Vh"},
            {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
             "content": [{"type": "output_text", "text": "three", "annotations": []}]},
            {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "call_2", "name": "g", "arguments": "{\"a\":1}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "ok"},
            {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "no"}]}
        ],
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": true},
                  {"type": "function", "name": "g", "description": "G"}],
        "tool_choice": {"type": "function", "name": "g"}, "parallel_tool_calls": false,
        "text": {"format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}, "strict": true},
                 "verbosity": "low"},
        "reasoning": {"effort": "high", "summary": "auto"},
        "max_output_tokens": 99, "temperature": 0.5, "top_p": 0.9, "top_logprobs": 2,
        "metadata": {"a": "b"}, "store": false, "stream": true, "user": "ann",
        "include": ["reasoning.encrypted_content"]
    });
    let (request, encoder) = decode(&body).unwrap();
    let roles: Vec<Role> = request.messages.iter().map(|it| it.role).collect();
    use Role::{Assistant, Developer, Tool as Answer, User};
    assert_eq!(roles, [Developer, User, User, Assistant, Answer, Answer]);
    let parts = &request.messages[2].content;
    assert_eq!(parts[0], Part::Text("two".into()));
    let image = Image {
        url: "data:image/png;base64,AA".into(),
        detail: Some("low".into()),
    };
    assert_eq!(parts[1], Part::Image(image));
    let audio = Audio {
        data: "AAAA".into(),
        format: "wav".into(),
    };
    assert_eq!(parts[2], Part::Audio(audio));
    assert!(matches!(&parts[3], Part::File(file) if file.name.as_deref() == Some("a.pdf")));
    assert!(matches!(&parts[4], Part::File(file) if !file.is_inline()));
    let turn = &request.messages[3];
    let seal = Seal {
        of: Dialect::Responses,
        kind: SealKind::Hidden,
        data: "c2Vh".into(),
    };
    let said = [
        Part::Thought("hm".into()),
        Part::Seal(seal),
        Part::Text("three".into()),
    ];
    assert_eq!(turn.content, said);
    let calls: Vec<&str> = turn
        .tool_calls
        .iter()
        .map(|call| call.id.as_str())
        .collect();
    assert_eq!(calls, ["call_1", "call_2"]);
    assert_eq!(request.messages[5].tool_call_id.as_deref(), Some("call_2"));
    assert_eq!(request.messages[5].text(), "no");
    assert_eq!(request.tools[0].extra["strict"], true);
    assert_eq!(request.tool_choice, ToolChoice::Named("g".into()));
    assert_eq!(request.parallel_tool_calls, Some(false));
    assert!(matches!(&request.format, OutputFormat::JsonSchema(it) if it["name"] == "s"));
    let reasoning = request.reasoning.unwrap();
    assert_eq!(
        (reasoning.effort, reasoning.is_shown),
        (Some(Effort::High), Some(true))
    );
    assert_eq!(request.output_tokens_max, Some(Tokens(99)));
    assert_eq!(request.sampling.logprobs, Some(2));
    assert_eq!(request.extra["metadata"], json!({"a": "b"}));
    assert_eq!(request.extra["verbosity"], "low");
    assert_eq!(encoder.previous(), None);
    assert!(matches!(request.delivery, Delivery::Streamed { .. }));
    assert!(request.source.is_some());
    let items = input_items(&body["input"]);
    assert_eq!(items.len(), 8);
    assert_eq!(items[0]["content"][0]["type"], "input_text");
}

#[test]
fn what_was_said_before_stands_between_instructions_and_input() {
    let body = asked(json!({"instructions": "new", "previous_response_id": "resp_1"}));
    let (mut request, encoder) = decode(&body).unwrap();
    assert_eq!(encoder.previous(), Some("resp_1"));
    let before = vec![
        Message::new(Role::User, "before"),
        Message::new(Role::Assistant, "yes"),
    ];
    encoder.follow(&mut request, before);
    let texts: Vec<String> = request.messages.iter().map(Message::text).collect();
    assert_eq!(texts, ["new", "before", "yes", "hi"]);
    assert!(request.source.is_none());
}

#[test]
fn a_seal_of_another_dialect_finds_its_maker_again() {
    use super::super::decode_items::{opaque, seal};
    for of in Dialect::ALL {
        for kind in [SealKind::Signature, SealKind::Hidden] {
            let data = "a.b".to_owned();
            let made = Seal { of, kind, data };
            let back = seal(opaque(&made));
            if of == Dialect::Responses {
                assert_eq!((back.of, back.data), (of, "a.b".into()));
            } else {
                assert_eq!(back, made);
            }
        }
    }
    // Something that only begins like one.
    assert_eq!(seal("hedge.nobody.s.a".into()).of, Dialect::Responses);
}

#[test]
fn faults_name_their_place() {
    let cases = [
        (json!({"input": 7}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": [7]}), "input[0]"),
        (json!({"input": [{"content": "a"}]}), "input[0].role"),
        (
            json!({"input": [{"role": "tool", "content": "a"}]}),
            "input[0].role",
        ),
        (json!({"input": [{"role": "user"}]}), "input[0].content"),
        (
            json!({"input": [{"role": "user", "content": [{"type": "x"}]}]}),
            "input[0].content[0].type",
        ),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}),
            "input[0].content[0].text",
        ),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "ftp://a"}]}]}),
            "input[0].content[0].image_url",
        ),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}),
            "input[0].content[0].file_id",
        ),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_file", "file_data": "AAAA"}]}]}),
            "input[0].content[0].file_data",
        ),
        (
            json!({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}),
            "input[0].call_id",
        ),
        (
            json!({"input": [{"type": "function_call_output", "call_id": "c"}]}),
            "input[0].output",
        ),
        (
            json!({"input": [{"type": "item_reference", "id": "a"}]}),
            "input[0].type",
        ),
        (
            json!({"input": [{"type": "web_search_call"}]}),
            "input[0].type",
        ),
        (
            json!({"input": [{"type": "reasoning", "summary": [{}]}]}),
            "input[0].summary[0].text",
        ),
        (json!({"instructions": 1}), "instructions"),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
        (
            json!({"tools": [{"type": "function", "name": "a b"}]}),
            "tools[0].name",
        ),
        (
            json!({"tools": [{"type": "function", "name": "a"}, {"type": "function", "name": "a"}]}),
            "tools[1].name",
        ),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (
            json!({"tool_choice": {"type": "file_search"}}),
            "tool_choice.type",
        ),
        (
            json!({"text": {"format": {"type": "xml"}}}),
            "text.format.type",
        ),
        (
            json!({"text": {"format": {"type": "json_schema", "name": "a"}}}),
            "text.format.schema",
        ),
        (json!({"reasoning": {"effort": "much"}}), "reasoning.effort"),
        (json!({"max_output_tokens": 0}), "max_output_tokens"),
        (json!({"temperature": 3}), "temperature"),
        (json!({"top_logprobs": 21}), "top_logprobs"),
        (json!({"metadata": {"a": 1}}), "metadata.a"),
        (json!({"background": true}), "background"),
        (json!({"conversation": "c"}), "conversation"),
        (json!({"prompt": {"id": "p"}}), "prompt"),
        (json!({"previous_response_id": ""}), "previous_response_id"),
        (json!({"stream": "yes"}), "stream"),
        (json!({"store": 1}), "store"),
        (json!({"include": 1}), "include"),
    ];
    for (more, param) in cases {
        let fault = decode(&asked(more.clone())).expect_err(&more.to_string());
        assert_eq!(fault.param.as_deref(), Some(param), "{more}: {fault:?}");
    }
    for body in [json!([]), json!({"input": "a"}), json!({"model": "m"})] {
        assert!(decode(&body).is_err(), "{body}");
    }
    assert!(decode_request(&Bytes::from("[".repeat(20_000))).is_err());
}
