use domain::{Dialect, Effort, Image, Reasoning, Seal, SourceBody, Tokens, Tool, ToolCall};

use super::*;

fn written(request: &ChatRequest) -> Value {
    serde_json::from_slice(&encode_request("up", request).unwrap()).unwrap()
}

fn request() -> ChatRequest {
    let mut turn = Message::new(Role::Assistant, "three");
    turn.content.insert(0, Part::Thought("hm".into()));
    let seal = |of| {
        Part::Seal(Seal {
            of,
            kind: SealKind::Hidden,
            data: "c2Vh".into(),
        })
    };
    turn.content.insert(1, seal(Dialect::Responses));
    turn.content.insert(2, seal(Dialect::Anthropic));
    turn.tool_calls = vec![ToolCall {
        id: "c1".into(),
        name: "f".into(),
        arguments: "{}".into(),
        seal: None,
    }];
    let mut user = Message::new(Role::User, "two");
    user.content.push(Part::Image(Image {
        url: "https://a.example/b.png".into(),
        detail: None,
    }));
    let answer = Message {
        tool_call_id: Some("c1".into()),
        ..Message::new(Role::Tool, "ok")
    };
    ChatRequest {
        tools: vec![Tool {
            name: "f".into(),
            description: None,
            parameters: json!({"type": "object"}),
            extra: [("strict".to_owned(), json!(true))].into_iter().collect(),
        }],
        tool_choice: ToolChoice::Named("f".into()),
        format: OutputFormat::JsonSchema(json!({"name": "s", "schema": {}})),
        reasoning: Some(Reasoning {
            effort: Some(Effort::Low),
            ..Reasoning::default()
        }),
        output_tokens_max: Some(Tokens(4)),
        delivery: Delivery::Streamed {
            includes_usage: false,
        },
        ..ChatRequest::new(
            "m",
            vec![Message::new(Role::System, "one"), user, turn, answer],
        )
    }
}

#[test]
fn a_chat_becomes_items() {
    let body = written(&request());
    assert_eq!(
        body,
        json!({
            "model": "up", "stream": true, "store": false,
            "input": [
                {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "one"}]},
                {"type": "message", "role": "user", "content": [
                    {"type": "input_text", "text": "two"},
                    {"type": "input_image", "image_url": "https://a.example/b.png", "detail": "auto"}]},
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "c2Vh"},
                {"type": "message", "role": "assistant", "content": [
                    {"type": "output_text", "text": "three", "annotations": []}]},
                {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c1", "output": "ok"},
            ],
            "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": true}],
            "tool_choice": {"type": "function", "name": "f"},
            "text": {"format": {"type": "json_schema", "name": "s", "schema": {}}},
            "reasoning": {"effort": "low"}, "include": ["reasoning.encrypted_content"],
            "max_output_tokens": 16,
        })
    );
}

#[test]
fn words_that_both_of_openais_dialects_know_go_over() {
    let mut asked = request();
    asked.extra =
        json!({"metadata": {"a": "b"}, "store": true, "lora": [], "verbosity": "low", "/x/y": 1})
            .as_object()
            .unwrap()
            .clone();
    let body = written(&asked);
    assert_eq!(body["metadata"], json!({"a": "b"}));
    assert_eq!(body["text"]["verbosity"], "low");
    assert_eq!(body["store"], false, "kept here, if at all");
    assert!(body.get("lora").is_none() && body.get("verbosity").is_none());
    asked.dialect = Dialect::Anthropic;
    assert!(written(&asked).get("metadata").is_none());
}

#[test]
fn received_bytes_go_out_as_they_came_but_for_what_is_ours() {
    let mut asked = request();
    // With another maker's seal it is written anew.
    asked.messages.truncate(1);
    asked.source = Some(SourceBody {
        dialect: Dialect::Responses,
        bytes: Bytes::from_static(
            br#"{"model":"m","input":  "hi","store":true,"stream":true,"new_field":{"b":1,"a":1.0}}"#,
        ),
    });
    let sent = encode_request("up", &asked).unwrap();
    let wanted =
        br#"{"model":"up","input":"hi","new_field":{"b":1,"a":1.0},"store":false,"stream":true}"#;
    assert_eq!(sent, &wanted[..]);
}

#[test]
fn thoughts_go_back_sealed_and_without_the_ids_that_callers_were_given() {
    let sent = |input: &str| {
        let mut asked = request();
        asked.messages.truncate(1);
        asked.source = Some(SourceBody {
            dialect: Dialect::Responses,
            bytes: Bytes::from(format!(r#"{{"model":"m","input":{input}}}"#)),
        });
        let sent = encode_request("up", &asked).unwrap();
        let sent = String::from_utf8(sent.to_vec()).unwrap();
        let input = sent.strip_prefix(r#"{"model":"up","input":"#).unwrap();
        let input = input.strip_suffix(r#","store":false,"stream":true}"#);
        input.unwrap().to_owned()
    };
    let asked = r#"{"role":"user", "content":"of reasoning"}"#;
    let said = r#"{"id":"msg_1","type":"message","role":"assistant","content":[]}"#;
    for (thought, written) in [
        (
            r#"{"id":"rs_1","type":"reasoning","summary": [ ],"encrypted_content":"ZQ=="}"#,
            Some(r#"{"type":"reasoning","summary":[ ],"encrypted_content":"ZQ=="}"#),
        ),
        (
            r#"{"type":"r\u0065asoning","\u0069d":"rs_1","encrypted_content":"ZQ=="}"#,
            Some(r#"{"type":"r\u0065asoning","encrypted_content":"ZQ=="}"#),
        ),
        (
            r#"{"id":"rs_1","type":"reasoning","summary":[{"type":"summary_text","text":"a"}]}"#,
            None,
        ),
        (
            r#"{"type":"reasoning","summary":[],"encrypted_content":null}"#,
            None,
        ),
        (
            r#"{"type":"reasoning","summary":[],"encrypted_content":""}"#,
            None,
        ),
    ] {
        let written = written.map(|it| format!("{it},")).unwrap_or_default();
        assert_eq!(
            sent(&format!("[{asked},{thought},{said}]")),
            format!("[{asked},{written}{said}]")
        );
        let alone = written.trim_end_matches(',');
        assert_eq!(sent(&format!("[{thought}]")), format!("[{alone}]"));
    }
    for input in [r#""on reasoning""#, "[]", "[ 7, \"reasoning\" ]"] {
        let kept = sent(input).replace(' ', "");
        assert_eq!(kept, input.replace(' ', ""), "{input}");
    }
}

#[test]
fn who_is_not_to_think_seals_nothing() {
    let sent = |model: &str, dialect: Dialect, effort: Effort| {
        let mut asked = request();
        asked.dialect = dialect;
        asked.reasoning = Some(Reasoning {
            effort: Some(effort),
            ..Reasoning::default()
        });
        let sent = encode_request(model, &asked).unwrap();
        let sent: Value = serde_json::from_slice(&sent).unwrap();
        (sent["reasoning"].clone(), sent["include"].clone())
    };
    let sealed = json!(["reasoning.encrypted_content"]);
    for (model, dialect, effort, reasoning, include) in [
        (
            "gpt-4o",
            Dialect::Anthropic,
            Effort::None,
            Value::Null,
            Value::Null,
        ),
        (
            "gpt-4o",
            Dialect::Ollama,
            Effort::High,
            Value::Null,
            Value::Null,
        ),
        (
            "gpt-5",
            Dialect::Ollama,
            Effort::None,
            json!({"effort": "minimal"}),
            sealed.clone(),
        ),
        (
            "gpt-5.1",
            Dialect::Ollama,
            Effort::None,
            json!({"effort": "none"}),
            Value::Null,
        ),
        (
            "gpt-4o",
            Dialect::OpenAi,
            Effort::None,
            json!({"effort": "none"}),
            Value::Null,
        ),
        (
            "gpt-4o",
            Dialect::OpenAi,
            Effort::Low,
            json!({"effort": "low"}),
            sealed,
        ),
    ] {
        let wanted = (reasoning, include);
        assert_eq!(sent(model, dialect, effort), wanted, "{model} {dialect:?}");
    }
}

#[test]
fn what_cannot_be_said_is_declined_by_name() {
    type Change = fn(&mut ChatRequest);
    let cases: [(&str, Change); 7] = [
        ("n", |it| it.choices = 2),
        ("stop", |it| it.sampling.stop = vec!["a".into()]),
        ("top_k", |it| it.sampling.top_k = Some(4)),
        ("min_p", |it| it.sampling.min_p = Some(0.5)),
        ("structured_outputs.choice", |it| {
            it.format = OutputFormat::Choice(vec!["a".into()]);
        }),
        ("messages[1].content[2]", |it| {
            let part = json!({"type": "video"});
            it.messages[1].content.push(Part::Other(part));
        }),
        ("presence_penalty", |it| {
            it.sampling.presence_penalty = Some(1.0)
        }),
    ];
    for (name, change) in cases {
        let mut asked = request();
        change(&mut asked);
        let Err(BackendError::Declined { reason }) = encode_request("up", &asked) else {
            panic!("{name} was taken")
        };
        assert_eq!(reason.param.as_deref(), Some(name));
    }
}

#[test]
fn a_file_that_openai_keeps_is_named_in_this_dialects_words() {
    let mut asked = request();
    let part = json!({"type": "file", "file": {"file_id": "file-1"}});
    asked.messages[1].content.push(Part::Other(part));
    let written = written(&asked);
    let wanted = json!({"type": "input_file", "file_id": "file-1"});
    assert_eq!(written["input"][1]["content"][2], wanted);
}

#[test]
fn a_failed_calls_result_says_so() {
    let mut asked = request();
    asked.messages[3].is_failure = true;
    assert_eq!(written(&asked)["input"][5]["status"], "incomplete");
}

/// A request of this dialect that was masked, or goes on from another, has no bytes to send on.
#[test]
fn what_nobody_interprets_stands_where_it_stood() {
    let mut asked = request();
    asked.dialect = Dialect::Responses;
    asked.tools[0].extra.clear();
    asked.extra = json!({
        "include": ["reasoning.encrypted_content", "web_search_call.results"],
        "truncation": "auto", "/reasoning/effort": "max", "/reasoning/context": "auto",
        "/tools/0/defer_loading": true, "/input/0/new": 1, "/text/new": {"a": 1}, "verbosity": "low",
    })
    .as_object()
    .unwrap()
    .clone();
    asked.reasoning = Some(Reasoning::default());
    let body = written(&asked);
    assert_eq!(
        body["reasoning"],
        json!({"effort": "max", "context": "auto"})
    );
    assert_eq!(body["tools"][0]["defer_loading"], true);
    assert!(
        body["tools"][0].get("strict").is_none(),
        "as the caller's default"
    );
    assert_eq!(body["text"]["new"], json!({"a": 1}));
    assert_eq!(body["text"]["verbosity"], "low");
    assert_eq!(body["truncation"], "auto");
    assert!(body["input"][0].get("new").is_none());
    let words = ["reasoning.encrypted_content", "web_search_call.results"];
    assert_eq!(body["include"], json!(words));
}
