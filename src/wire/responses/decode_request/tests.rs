use domain::{Audio, Image, Part, Role, Seal, SealKind, StoredItem, StoredResponse};

use super::super::test_shelf::TestShelf;
use super::*;

fn decode_with(body: &Value, shelf: &TestShelf) -> Result<ChatRequest, BadRequest> {
    let body = Bytes::from(body.to_string());
    decode_request(&body, Some(&shelf.of_team())).map(|(request, _)| request)
}

fn decode(body: &Value) -> Result<ChatRequest, BadRequest> {
    decode_with(body, &TestShelf::default())
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
    let request = decode(&body).unwrap();
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
    assert!(matches!(request.delivery, Delivery::Streamed { .. }));
    assert!(request.source.is_some());
}

/// A response `id` to "`id`?" that says "`id`!", after `previous`.
fn kept(id: &str, previous: Option<&str>) -> StoredResponse {
    let item = |id: String, body: Value| StoredItem {
        json: body.to_string().into(),
        id,
    };
    let asked = json!({"type": "message", "role": "user", "content": format!("{id}?")});
    let said = json!({"type": "message", "role": "assistant", "content": [
        {"type": "output_text", "text": format!("{id}!"), "annotations": [], "logprobs": []}]});
    let stem = id.strip_prefix("resp_").unwrap();
    StoredResponse {
        id: id.into(),
        previous: previous.map(Into::into),
        head: "{}".into(),
        input: vec![item(format!("msg_{stem}i00"), asked)],
        output: vec![item(format!("msg_{stem}00"), said)],
        is_whole: true,
        user: "".into(),
        tags: Vec::new(),
    }
}

#[test]
fn what_was_said_before_stands_between_instructions_and_input() {
    let shelf = TestShelf::default();
    shelf.of_team().keep(kept("resp_1", None));
    shelf.of_team().keep(kept("resp_2", Some("resp_1")));
    let body = asked(json!({"instructions": "new", "previous_response_id": "resp_2"}));
    let request = decode_with(&body, &shelf).unwrap();
    let texts: Vec<String> = request.messages.iter().map(Message::text).collect();
    assert_eq!(
        texts,
        ["new", "resp_1?", "resp_1!", "resp_2?", "resp_2!", "hi"]
    );
    assert!(request.source.is_none());
    assert!(!request.extra.contains_key("previous_response_id"));
}

#[test]
fn what_is_not_there_cannot_be_gone_on_from() {
    let shelf = TestShelf::default();
    shelf.of_team().keep(kept("resp_2", Some("resp_1")));
    shelf.of_team().keep(StoredResponse {
        is_whole: false,
        ..kept("resp_3", None)
    });
    let check = |id: &str, shelf: Option<&TestShelf>, code: &str, word: &str| {
        let shelf = shelf.map(TestShelf::of_team);
        let body = asked(json!({"previous_response_id": id})).to_string();
        let fault = decode_request(&Bytes::from(body), shelf.as_ref()).unwrap_err();
        assert_eq!(fault.param.as_deref(), Some("previous_response_id"), "{id}");
        assert_eq!(fault.code.as_deref(), Some(code), "{id}");
        assert!(fault.message.contains(word), "{}", fault.message);
    };
    let not_found = "previous_response_not_found";
    check("resp_9", Some(&shelf), not_found, "resp_9");
    check("resp_2", Some(&shelf), not_found, "resp_1");
    check("resp_3", Some(&shelf), "invalid_value", "broke off");
    check(
        "resp_2",
        None,
        "unsupported_parameter",
        "keeps no responses",
    );
}

#[test]
fn a_conversation_without_end_is_refused() {
    let shelf = TestShelf::default();
    // It goes on from itself.
    shelf.of_team().keep(kept("resp_1", Some("resp_1")));
    let body = asked(json!({"previous_response_id": "resp_1"}));
    let fault = decode_with(&body, &shelf).unwrap_err();
    assert!(fault.message.contains("too long"), "{}", fault.message);
}

#[test]
fn an_item_may_stand_for_one_that_is_kept() {
    let shelf = TestShelf::default();
    let stem = "0123456789abcdef0123456789abcdef";
    shelf.of_team().keep(kept(&format!("resp_{stem}"), None));
    for reference in [
        json!({"type": "item_reference", "id": format!("msg_{stem}00")}),
        json!({"id": format!("msg_{stem}00")}),
    ] {
        let body = asked(json!({"input": [reference, {"role": "user", "content": "and?"}]}));
        let request = decode_with(&body, &shelf).unwrap();
        let roles: Vec<Role> = request.messages.iter().map(|it| it.role).collect();
        assert_eq!(roles, [Role::Assistant, Role::User]);
        assert!(request.messages[0].text().ends_with('!'));
        assert!(request.source.is_none(), "a provider has no such item");
    }
    for id in [format!("msg_{stem}01"), "msg_1".into(), "é".repeat(40)] {
        let body = asked(json!({"input": [{"type": "item_reference", "id": id}]}));
        let fault = decode_with(&body, &shelf).unwrap_err();
        assert_eq!(fault.param.as_deref(), Some("input[0].id"));
    }
}

#[test]
fn only_bodies_that_speak_of_earlier_responses_are_said_to() {
    assert!(speaks_of_earlier(br#"{"previous_response_id":"a"}"#));
    assert!(speaks_of_earlier(
        br#"{"input":[{"type":"item_reference"}]}"#
    ));
    assert!(!speaks_of_earlier(br#"{"input":"hi"}"#));
}

#[test]
fn thoughts_and_calls_of_one_turn_are_one_message() {
    let body = asked(json!({"input": [
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "a"}]},
        {"type": "reasoning", "summary": [], "encrypted_content": "hedge.gemini.hidden.x"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}",
         "encrypted_content": "hedge.gemini.y"},
        {"type": "function_call_output", "call_id": "c", "output": "no", "status": "incomplete"},
        {"type": "reasoning", "summary": []},
    ]}));
    let messages = decode(&body).unwrap().messages;
    assert_eq!(messages.len(), 2, "{messages:?}");
    let seal = |kind, data: &str| Seal {
        of: Dialect::Gemini,
        kind,
        data: data.into(),
    };
    let thoughts = [
        Part::Thought("a".into()),
        Part::Seal(seal(SealKind::Hidden, "x")),
    ];
    assert_eq!(messages[0].content, thoughts);
    let call = &messages[0].tool_calls[0];
    assert_eq!(call.seal, Some(seal(SealKind::Signature, "y")));
    assert!(messages[1].is_failure);
}

/// It is in the received bytes, which leave as they are where nothing is found.
#[test]
fn what_no_model_reads_is_looked_through_all_the_same() {
    let part = json!({"type": "output_text", "text": "see there", "logprobs": [],
        "annotations": [{"type": "url_citation", "title": "ann@example.com", "url": "https://x/"}]});
    let body = asked(json!({"input": [
        {"type": "message", "role": "assistant", "phase": "final_answer", "content": [part]},
        {"type": "message", "role": "user", "content": "go on"},
    ]}));
    let request = decode(&body).unwrap();
    let mut is_seen = false;
    request.texts(&mut |text| is_seen |= text == "ann@example.com");
    assert!(is_seen);
    assert_eq!(request.extra.len(), 1);
}

#[test]
fn words_that_only_newer_models_know_go_on() {
    let body =
        asked(json!({"reasoning": {"effort": "max", "context": "auto", "summary": "concise"}}));
    let request = decode(&body).unwrap();
    assert_eq!(request.extra["/reasoning/effort"], "max");
    assert_eq!(request.extra["/reasoning/context"], "auto");
    let reasoning = request.reasoning.unwrap();
    assert_eq!((reasoning.effort, reasoning.is_shown), (None, Some(true)));
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
            "input[0].id",
        ),
        (
            json!({"input": [{"type": "item_reference"}]}),
            "input[0].id",
        ),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "!", "format": "wav"}}]}]}),
            "input[0].content[0].input_audio.data",
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
        (json!({"reasoning": {"effort": 7}}), "reasoning.effort"),
        (
            json!({"reasoning": {"summary": "long"}}),
            "reasoning.summary",
        ),
        (json!({"top_p": 0}), "top_p"),
        (json!({"truncation": "much"}), "truncation"),
        (json!({"user": 7}), "user"),
        (json!({"service_tier": []}), "service_tier"),
        (json!({"safety_identifier": {}}), "safety_identifier"),
        (json!({"prompt_cache_key": 1}), "prompt_cache_key"),
        (json!({"max_tool_calls": "a"}), "max_tool_calls"),
        (json!({"include": [1]}), "include[0]"),
        (json!({"metadata": {"a": "x".repeat(513)}}), "metadata.a"),
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
    let deep = Bytes::from("[".repeat(20_000));
    assert!(decode_request(&deep, None).is_err());
}
