//! Requests as a client writes them, and what it declines.

use domain::{
    Ability, Audio, Dialect, Effort, File, Image, Message, OutputFormat, Part, Reasoning, Role,
    Seal, SealKind, Tokens, Tool, ToolCall, ToolChoice,
};

use super::*;

fn request() -> ChatRequest {
    ChatRequest::new("m", vec![Message::new(Role::User, "hi")])
}

fn tool(name: &str) -> Tool {
    Tool {
        name: name.into(),
        description: None,
        parameters: json!({}),
        extra: domain::Extra::new(),
    }
}

fn call(arguments: &str, seal: Option<Seal>) -> Message {
    let mut message = Message::new(Role::Assistant, "");
    message.tool_calls.push(ToolCall {
        id: "c".into(),
        name: "f".into(),
        arguments: arguments.into(),
        seal,
    });
    message
}

fn result(id: &str) -> Message {
    let mut message = Message::new(Role::Tool, "4 degrees");
    message.tool_call_id = Some(id.into());
    message
}

#[track_caller]
fn declined(request: &ChatRequest) -> String {
    match sent("gemini-3-pro", request) {
        Err(BackendError::Declined { reason }) => reason.param.unwrap(),
        other => panic!("not declined: {other:?}"),
    }
}

#[test]
fn what_cannot_be_said_is_declined_where_it_stands() {
    let with = |change: &dyn Fn(&mut ChatRequest)| {
        let mut request = request();
        change(&mut request);
        request
    };
    let saying = |part: Part| with(&|it| it.messages[0].content = vec![part.clone()]);
    let image = |url: &str| {
        Part::Image(Image {
            url: url.into(),
            detail: None,
        })
    };
    let cases = [
        (with(&|it| it.choices = 9), "n"),
        (with(&|it| it.sampling.seed = Some(1 << 40)), "seed"),
        (with(&|it| it.sampling.min_p = Some(0.5)), "min_p"),
        (
            with(&|it| it.messages = vec![Message::new(Role::System, "x")]),
            "messages",
        ),
        (
            saying(Part::Other(json!({"type": "x"}))),
            "messages[0].content[0]",
        ),
        (saying(image("data:image/png,x")), "messages[0].content[0]"),
        (saying(image("ftp://a.example")), "messages[0].content[0]"),
        (
            saying(Part::Audio(Audio {
                data: "%".into(),
                format: "wav".into(),
            })),
            "messages[0].content[0]",
        ),
        (
            with(&|it| {
                let mut system = Message::new(Role::Developer, "x");
                system.content.push(image("https://a.example/b.png"));
                it.messages.push(system);
            }),
            "messages[1].content[1]",
        ),
        (
            with(&|it| it.messages.push(call("[", None))),
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            with(&|it| it.messages.push(result("unknown"))),
            "messages[1].tool_call_id",
        ),
        (
            with(&|it| {
                let mut result = result("c");
                result.content.push(image("https://a.example/b.png"));
                it.messages.extend([call("{}", None), result]);
            }),
            "messages[2].content[1]",
        ),
    ];
    for (request, param) in cases {
        assert_eq!(declined(&request), param);
    }
    let regex = with(&|it| it.format = OutputFormat::Regex("a*".into()));
    let error = sent("gemini-3-pro", &regex).unwrap_err();
    assert!(matches!(error, BackendError::Unable(Ability::Constraints)));
    let biased = with(&|it| it.sampling.logit_bias = vec![(1, 1.0)]);
    let error = sent("gemini-3-pro", &biased).unwrap_err();
    assert!(matches!(error, BackendError::Unable(Ability::LogitBias)));
}

#[test]
fn thoughts_are_bound_in_the_words_of_the_models_age() {
    let check = |model: &str, reasoning: Reasoning, expected: Value| {
        let mut request = request();
        request.reasoning = Some(reasoning);
        let body = sent(model, &request).unwrap();
        assert_eq!(
            body["generationConfig"]["thinkingConfig"], expected,
            "{model}"
        );
    };
    let effort = |effort| Reasoning {
        effort: Some(effort),
        ..Reasoning::default()
    };
    for (word, budget, level) in [
        (Effort::None, 0, "MINIMAL"),
        (Effort::Minimal, 1024, "MINIMAL"),
        (Effort::Low, 1024, "LOW"),
        (Effort::Medium, 8192, "MEDIUM"),
        (Effort::High, 24_576, "HIGH"),
        (Effort::XHigh, 24_576, "HIGH"),
    ] {
        let budget_of = |least: u64| json!({"thinkingBudget": least.max(budget)});
        let level_of = |level: &str| json!({"thinkingLevel": level});
        // Pro cannot do without, and has no least level; the first of them no middle one either.
        let of_pro = level.replace("MINIMAL", "LOW");
        for (model, said) in [
            ("gemini-2.5-flash", budget_of(0)),
            ("gemini-2.5-pro", budget_of(128)),
            ("models/gemini-3-flash-preview", level_of(level)),
            ("gemini-3.6-flash", level_of(level)),
            ("gemini-3.1-pro-preview", level_of(&of_pro)),
            ("gemini-3.8-flash", level_of(&of_pro)),
            (
                "models/gemini-3-pro",
                level_of(&of_pro.replace("MEDIUM", "HIGH")),
            ),
            ("gemini-1.5-pro", Value::Null),
            ("gemini-2.0-flash", Value::Null),
            ("gemma-3-27b-it", Value::Null),
        ] {
            check(model, effort(word), said);
        }
    }
    let none = Reasoning {
        tokens_max: Some(Tokens(0)),
        ..Reasoning::default()
    };
    check("gemini-2.5-pro", none, json!({"thinkingBudget": 128}));
    let vast = Reasoning {
        tokens_max: Some(Tokens(60_000)),
        ..Reasoning::default()
    };
    // "The thinking budget (52428) is invalid."
    check("gemini-2.5-pro", vast, json!({"thinkingBudget": 32_768}));
    check("gemini-2.5-flash", vast, json!({"thinkingBudget": 24_576}));
    check("gemini-3-pro", none, json!({"thinkingLevel": "LOW"}));
    check("gemini-2.0-flash", none, Value::Null);
    let budget = Reasoning {
        effort: Some(Effort::High),
        tokens_max: Some(Tokens(512)),
        is_shown: Some(true),
    };
    let expected = json!({"thinkingBudget": 512, "includeThoughts": true});
    check("gemini-3-pro", budget, expected);
    check("gemini-3-pro", Reasoning::default(), Value::Null);
}

#[test]
fn a_call_of_nobodys_has_the_placeholder_where_signatures_are_checked() {
    let signature = |seal: Option<Seal>, model: &str| {
        let mut request = request();
        request.messages.push(call("{}", seal));
        let body = sent(model, &request).unwrap();
        let part = &body["contents"][1]["parts"][0];
        part["thoughtSignature"].as_str().map(str::to_owned)
    };
    let seal = |of| {
        Some(Seal {
            of,
            kind: SealKind::Signature,
            data: "c2ln".into(),
        })
    };
    let placeholder = Some("skip_thought_signature_validator".to_owned());
    for (of, model, expected) in [
        (
            seal(Dialect::Gemini),
            "gemini-3-pro",
            Some("c2ln".to_owned()),
        ),
        (
            seal(Dialect::Gemini),
            "gemini-2.5-pro",
            Some("c2ln".to_owned()),
        ),
        (
            seal(Dialect::Anthropic),
            "gemini-3-pro",
            placeholder.clone(),
        ),
        (None, "gemini-3-pro", placeholder.clone()),
        (None, "models/gemini-4-flash", placeholder),
        (None, "gemini-2.5-pro", None),
    ] {
        assert_eq!(signature(of, model), expected, "{model}");
    }
}

#[test]
fn only_the_first_call_of_a_turn_needs_a_signature() {
    let mut request = request();
    let mut message = call("{}", None);
    message.tool_calls.push(ToolCall {
        id: "d".into(),
        seal: Some(Seal {
            of: Dialect::Gemini,
            kind: SealKind::Signature,
            data: "c2ln".into(),
        }),
        ..message.tool_calls[0].clone()
    });
    request.messages.push(message);
    let parts = &sent("gemini-3-pro", &request).unwrap()["contents"][1]["parts"];
    assert_eq!(parts[0].get("thoughtSignature"), None);
    assert_eq!(parts[1]["thoughtSignature"], "c2ln");
}

#[test]
fn results_are_objects_and_stand_together() {
    let mut request = request();
    let mut calls = call("{}", None);
    for id in ["d", "e"] {
        calls.tool_calls.push(ToolCall {
            id: id.into(),
            ..calls.tool_calls[0].clone()
        });
    }
    let texts = ["{\"t\": 4}", "{\"error\": 1}", ""];
    request.messages.push(calls);
    for (id, text) in ["c", "d", "e"].into_iter().zip(texts) {
        let mut result = result(id);
        result.content = vec![Part::Text(text.into())];
        request.messages.push(result);
    }
    let contents = sent("m", &request).unwrap()["contents"].clone();
    assert_eq!(contents.as_array().unwrap().len(), 3);
    let responses: Vec<&Value> = contents[2]["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| &part["functionResponse"]["response"])
        .collect();
    let expected = [
        &json!({"t": 4}),
        &json!({"output": {"error": 1}}),
        &json!({"output": ""}),
    ];
    assert_eq!(responses, expected);
}

#[test]
fn images_sound_and_files_are_bytes_or_addresses() {
    let image = |url: &str| {
        Part::Image(Image {
            url: url.into(),
            detail: Some("high".into()),
        })
    };
    let cases = [
        (
            image("data:image/png;base64,AAAA"),
            json!({"inlineData": {"mimeType": "image/png", "data": "AAAA"}}),
        ),
        (
            image("https://a.example/b.JPG?x=1"),
            json!({"fileData": {"mimeType": "image/jpeg", "fileUri": "https://a.example/b.JPG?x=1"}}),
        ),
        (
            image("https://a.example/b"),
            json!({"fileData": {"fileUri": "https://a.example/b"}}),
        ),
        (
            Part::Audio(Audio {
                data: "SUQz".into(),
                format: "wav".into(),
            }),
            json!({"inlineData": {"mimeType": "audio/wav", "data": "SUQz"}}),
        ),
        (
            Part::File(File {
                url: "data:application/pdf;base64,AAAA".into(),
                name: Some("a.pdf".into()),
            }),
            json!({"inlineData": {"mimeType": "application/pdf", "data": "AAAA"}}),
        ),
    ];
    for (part, expected) in cases {
        let mut request = request();
        request.messages[0].content = vec![part];
        let body = sent("m", &request).unwrap();
        assert_eq!(body["contents"][0]["parts"][0], expected);
    }
}

#[test]
fn formats_and_choices_have_their_words() {
    let format = |format: OutputFormat| {
        let mut request = request();
        request.format = format;
        sent("m", &request).unwrap()["generationConfig"].clone()
    };
    assert_eq!(format(OutputFormat::Text), Value::Null);
    assert_eq!(
        format(OutputFormat::JsonObject),
        json!({"responseMimeType": "application/json"})
    );
    assert_eq!(
        format(OutputFormat::JsonSchema(
            json!({"name": "n", "schema": {"type": "object"}, "strict": true})
        )),
        json!({"responseMimeType": "application/json", "responseJsonSchema": {"type": "object"}})
    );
    let choice = OutputFormat::Choice(vec!["yes".into(), "no".into()]);
    let written = format(choice.clone());
    assert_eq!(
        written,
        json!({"responseMimeType": "text/x.enum", "responseSchema": {"type": "STRING", "enum": ["yes", "no"]}})
    );
    let read = decode(&asking(&json!({ "generationConfig": written }))).unwrap();
    assert!(read.format == choice);
    for (choice, expected) in [
        (ToolChoice::Auto, Value::Null),
        (ToolChoice::None, json!({"mode": "NONE"})),
        (ToolChoice::Required, json!({"mode": "ANY"})),
        (
            ToolChoice::Named("f".into()),
            json!({"mode": "ANY", "allowedFunctionNames": ["f"]}),
        ),
    ] {
        let mut request = request();
        request.tools = vec![tool("f")];
        request.tool_choice = choice;
        let body = sent("m", &request).unwrap();
        assert_eq!(body["toolConfig"]["functionCallingConfig"], expected);
        // "Function calling config is set without function_declarations."
        request.tools.clear();
        let body = sent("m", &request).unwrap();
        assert_eq!(body.get("toolConfig"), None);
    }
}

#[test]
fn fields_of_another_dialect_stay_there() {
    let mut request = request();
    request.dialect = Dialect::OpenAi;
    for name in ["user", "safetySettings", "/generationConfig/x", "tools"] {
        request.extra.insert(name.into(), json!("x"));
    }
    let body = sent("m", &request).unwrap();
    assert_eq!(
        body,
        json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]})
    );
}

#[test]
fn the_address_names_model_and_delivery() {
    let streamed = Delivery::Streamed {
        includes_usage: true,
    };
    for (model, delivery, target) in [
        (
            "gemini-3-pro",
            Delivery::Whole,
            "/models/gemini-3-pro:generateContent",
        ),
        (
            "models/a",
            streamed,
            "/models/a:streamGenerateContent?alt=sse",
        ),
        (
            "a/b?c",
            Delivery::Whole,
            "/models/a%2Fb%3Fc:generateContent",
        ),
    ] {
        assert_eq!(Gemini.target(model, delivery), target);
    }
}
