//! Requests as a server reads them.

use domain::{Dialect, Effort, OutputFormat, Part, Reasoning, Role, SealKind, Tokens, ToolChoice};

use super::*;

fn full() -> Value {
    serde_json::from_str(include_str!("../fixtures/request_full.json")).unwrap()
}

#[test]
fn a_full_request_is_read() {
    let request = decode(&full()).unwrap();
    assert_eq!(request.model.as_str(), "gemini-3-pro");
    assert_eq!(request.dialect, Dialect::Gemini);
    let roles: Vec<Role> = request.messages.iter().map(|it| it.role).collect();
    let expected = [
        Role::System,
        Role::User,
        Role::Assistant,
        Role::Tool,
        Role::Tool,
        Role::User,
    ];
    assert_eq!(roles, expected);
    let [system, user, model, weather, clock, last] = request.messages.as_slice() else {
        panic!("six messages");
    };
    assert_eq!(system.text(), "Be brief.");
    assert_eq!(user.content.len(), 4);
    assert!(
        matches!(&user.content[1], Part::Image(it) if it.url == "data:image/png;base64,iVBORw0KGgo=")
    );
    assert!(matches!(&user.content[2], Part::Audio(it) if it.format == "mp3"));
    assert!(matches!(&user.content[3], Part::File(it) if it.url == "https://a.example/b.pdf"));
    assert!(matches!(&model.content[0], Part::Thought(text) if text == "Two calls."));
    assert!(matches!(&model.content[1], Part::Text(_)));
    assert!(matches!(&model.content[2], Part::Seal(it) if it.data == "c2lnLTE="));
    let [first, second] = model.tool_calls.as_slice() else {
        panic!("two calls");
    };
    assert_eq!(first.id, "call_a");
    assert_eq!(first.arguments, r#"{"city":"Oslo"}"#);
    let seal = first.seal.as_ref().unwrap();
    assert_eq!((seal.of, seal.kind), (Dialect::Gemini, SealKind::Signature));
    // Google gives no ids to some; the place in the contents makes one.
    assert_eq!(second.id, "call_1_1");
    assert_eq!(weather.tool_call_id.as_deref(), Some("call_a"));
    assert_eq!(weather.text(), "rain");
    assert_eq!(clock.tool_call_id.as_deref(), Some("call_1_1"));
    assert!(clock.is_failure);
    assert_eq!(clock.text(), "down");
    assert_eq!(last.text(), "And now?");
    assert_eq!(request.tools.len(), 2);
    assert_eq!(request.tools[0].parameters["type"], "object");
    assert_eq!(request.tools[1].parameters["type"], "object");
    assert_eq!(request.tool_choice, ToolChoice::Named("weather".into()));
    let sampling = &request.sampling;
    assert_eq!(sampling.temperature, Some(0.5));
    assert_eq!(sampling.top_p, Some(0.9));
    assert_eq!(sampling.top_k, Some(40));
    assert_eq!(sampling.seed, Some(7));
    assert_eq!(sampling.stop, ["END"]);
    assert_eq!(sampling.presence_penalty, Some(0.25));
    assert_eq!(sampling.frequency_penalty, Some(-0.25));
    assert_eq!(sampling.logprobs, Some(3));
    assert_eq!(request.output_tokens_max, Some(Tokens(256)));
    assert_eq!(request.choices, 2);
    let OutputFormat::JsonSchema(format) = &request.format else {
        panic!("a schema");
    };
    assert_eq!(format["schema"]["type"], "object");
    let expected = Reasoning {
        effort: Some(Effort::High),
        tokens_max: None,
        is_shown: Some(true),
    };
    assert_eq!(request.reasoning, Some(expected));
}

#[test]
fn a_full_request_goes_on_as_it_came_and_masked_with_all_it_said() {
    let mut request = decode(&full()).unwrap();
    let body = Gemini.encode_request("other", &request).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), full());
    request.source = None;
    let expected: Value =
        serde_json::from_str(include_str!("../fixtures/request_full_sent.json")).unwrap();
    let got = sent("gemini-3-pro", &request).unwrap();
    assert!(
        got == expected,
        "{}",
        serde_json::to_string_pretty(&got).unwrap()
    );
}

#[test]
fn snake_case_reads_as_camel_case() {
    let camel = json!({
        "systemInstruction": {"parts": [{"text": "s"}]},
        "tools": [{"functionDeclarations": [{"name": "f", "parameters": {"type": "OBJECT"}}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
        "generationConfig": {
            "maxOutputTokens": 5, "topK": 3, "responseMimeType": "application/json",
            "responseJsonSchema": {"type": "object"}, "stopSequences": ["x"],
            "thinkingConfig": {"thinkingBudget": 9, "includeThoughts": true},
        },
        "contents": [{"role": "user", "parts": [
            {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
            {"fileData": {"mimeType": "application/pdf", "fileUri": "https://a.example/b"}},
        ]}],
    });
    fn snaked(value: &Value) -> Value {
        match value {
            Value::Object(fields) => {
                let fields = fields.iter();
                let fields =
                    fields.map(|(name, it)| (super::super::spelling::snake(name), snaked(it)));
                Value::Object(fields.collect())
            }
            Value::Array(items) => items.iter().map(snaked).collect(),
            other => other.clone(),
        }
    }
    let snake = snaked(&camel);
    assert!(snake.to_string().contains("function_declarations"));
    let sent_of = |body: &Value| sent("gemini-3-pro", &decode(body).unwrap()).unwrap();
    assert_eq!(sent_of(&snake), sent_of(&camel));
}

#[test]
fn what_is_wrong_is_named_by_its_path() {
    let part = |part: Value| json!({"contents": [{"role": "user", "parts": [part]}]});
    let model = |part: Value| json!({"contents": [{"role": "model", "parts": [part]}]});
    let config = |config: Value| json!({ "generationConfig": config });
    let tool = |it: Value| json!({"tools": [{"functionDeclarations": [it]}]});
    let calling = |it: Value| json!({"toolConfig": {"functionCallingConfig": it}});
    let cases = [
        (json!({"contents": null}), "contents"),
        (json!({"contents": []}), "contents"),
        (json!({"contents": "hi"}), "contents"),
        (json!({"contents": [7]}), "contents[0]"),
        (
            json!({"contents": [{"role": "robot", "parts": [{"text": ""}]}]}),
            "contents[0].role",
        ),
        (
            json!({"contents": [{"role": 7, "parts": [{"text": ""}]}]}),
            "contents[0].role",
        ),
        (json!({"contents": [{"role": "user"}]}), "contents[0].parts"),
        (json!({"contents": [{"parts": []}]}), "contents[0].parts"),
        (json!({"contents": [{"parts": "x"}]}), "contents[0].parts"),
        (json!({"contents": [{"parts": [{}]}]}), "contents"),
        (json!({"systemInstruction": 7}), "systemInstruction"),
        (
            json!({"systemInstruction": {"parts": [{}]}}),
            "systemInstruction.parts[0].text",
        ),
        (part(json!(7)), "contents[0].parts[0]"),
        (part(json!({"text": 7})), "contents[0].parts[0].text"),
        (
            part(json!({"text": "a", "thought": 1})),
            "contents[0].parts[0].thought",
        ),
        (
            part(json!({"text": "a", "thoughtSignature": "a b"})),
            "contents[0].parts[0].thoughtSignature",
        ),
        (
            part(json!({"text": "a", "functionCall": {}})),
            "contents[0].parts[0].functionCall",
        ),
        (
            part(json!({"inlineData": "x"})),
            "contents[0].parts[0].inlineData",
        ),
        (
            part(json!({"inlineData": {"data": "AAAA"}})),
            "contents[0].parts[0].inlineData.mimeType",
        ),
        (
            part(json!({"inlineData": {"mimeType": "png", "data": "AAAA"}})),
            "contents[0].parts[0].inlineData.mimeType",
        ),
        (
            part(json!({"inlineData": {"mimeType": "image/png"}})),
            "contents[0].parts[0].inlineData.data",
        ),
        (
            part(json!({"inlineData": {"mimeType": "image/png", "data": "%%%"}})),
            "contents[0].parts[0].inlineData.data",
        ),
        (
            part(json!({"fileData": {"mimeType": "a/b"}})),
            "contents[0].parts[0].fileData.fileUri",
        ),
        (
            part(json!({"functionCall": {"name": "f"}})),
            "contents[0].parts[0].functionCall",
        ),
        (
            model(json!({"functionCall": {}})),
            "contents[0].parts[0].functionCall.name",
        ),
        (
            model(json!({"functionCall": {"name": "f", "args": "{}"}})),
            "contents[0].parts[0].functionCall.args",
        ),
        (
            model(json!({"functionCall": {"name": "f", "id": 7}})),
            "contents[0].parts[0].functionCall.id",
        ),
        (
            model(json!({"functionResponse": {"name": "f", "response": {}}})),
            "contents[0].parts[0].functionResponse",
        ),
        (
            part(json!({"functionResponse": {"name": "f"}})),
            "contents[0].parts[0].functionResponse.response",
        ),
        (
            part(json!({"functionResponse": {"name": "f", "response": "x"}})),
            "contents[0].parts[0].functionResponse.response",
        ),
        (
            part(json!({"functionResponse": {"name": "f", "response": {}}})),
            "contents[0].parts[0].functionResponse.name",
        ),
        (
            part(json!({"functionResponse": {"id": "i", "name": "f", "response": {}}})),
            "contents[0].parts[0].functionResponse.id",
        ),
        (json!({"tools": {}}), "tools"),
        (json!({"tools": [7]}), "tools[0]"),
        (tool(json!({})), "tools[0].functionDeclarations[0].name"),
        (
            tool(json!({"name": "f", "description": 7})),
            "tools[0].functionDeclarations[0].description",
        ),
        (
            tool(json!({"name": "f", "parameters": 7})),
            "tools[0].functionDeclarations[0].parameters",
        ),
        (
            tool(json!({"name": "f", "parameters": {}, "parametersJsonSchema": {}})),
            "tools[0].functionDeclarations[0].parametersJsonSchema",
        ),
        (
            json!({"tools": [{"functionDeclarations": [{"name": "f"}, {"name": "f"}]}]}),
            "tools[0].functionDeclarations[1].name",
        ),
        (json!({"toolConfig": 7}), "toolConfig"),
        (
            calling(json!({"mode": "SOME"})),
            "toolConfig.functionCallingConfig.mode",
        ),
        (
            calling(json!({"mode": "ANY"})),
            "toolConfig.functionCallingConfig.mode",
        ),
        (
            calling(json!({"allowedFunctionNames": ["f"]})),
            "toolConfig.functionCallingConfig.allowedFunctionNames[0]",
        ),
        (json!({"generationConfig": 7}), "generationConfig"),
        (
            config(json!({"temperature": "hot"})),
            "generationConfig.temperature",
        ),
        (
            config(json!({"temperature": 2.5})),
            "generationConfig.temperature",
        ),
        (config(json!({"topP": 0})), "generationConfig.topP"),
        (config(json!({"topK": 1.5})), "generationConfig.topK"),
        (
            config(json!({"maxOutputTokens": 0})),
            "generationConfig.maxOutputTokens",
        ),
        (
            config(json!({"stopSequences": "x"})),
            "generationConfig.stopSequences",
        ),
        (
            config(json!({"stopSequences": [""]})),
            "generationConfig.stopSequences[0]",
        ),
        (
            config(json!({"candidateCount": 9})),
            "generationConfig.candidateCount",
        ),
        (
            config(json!({"seed": 1_u64 << 40})),
            "generationConfig.seed",
        ),
        (
            config(json!({"presencePenalty": 3})),
            "generationConfig.presencePenalty",
        ),
        (
            config(json!({"frequencyPenalty": []})),
            "generationConfig.frequencyPenalty",
        ),
        (
            config(json!({"responseMimeType": "image/png"})),
            "generationConfig.responseMimeType",
        ),
        (
            config(json!({"responseSchema": {}})),
            "generationConfig.responseSchema",
        ),
        (
            config(json!({"responseMimeType": "application/json", "responseJsonSchema": 7})),
            "generationConfig.responseJsonSchema",
        ),
        (
            config(
                json!({"responseMimeType": "application/json", "responseSchema": {}, "responseJsonSchema": {}}),
            ),
            "generationConfig.responseJsonSchema",
        ),
        (
            config(json!({"responseMimeType": "text/x.enum"})),
            "generationConfig.responseSchema",
        ),
        (
            config(json!({"responseMimeType": "text/x.enum", "responseSchema": {"enum": [7]}})),
            "generationConfig.responseSchema.enum[0]",
        ),
        (
            config(json!({"responseLogprobs": 1})),
            "generationConfig.responseLogprobs",
        ),
        (config(json!({"logprobs": 1})), "generationConfig.logprobs"),
        (
            config(json!({"responseModalities": ["TEXT", "IMAGE"]})),
            "generationConfig.responseModalities[1]",
        ),
        (
            config(json!({"thinkingConfig": 7})),
            "generationConfig.thinkingConfig",
        ),
        (
            config(json!({"thinkingConfig": {"thinkingBudget": -2}})),
            "generationConfig.thinkingConfig.thinkingBudget",
        ),
        (
            config(json!({"thinkingConfig": {"thinkingLevel": "EXTREME"}})),
            "generationConfig.thinkingConfig.thinkingLevel",
        ),
        (
            config(json!({"thinkingConfig": {"includeThoughts": "yes"}})),
            "generationConfig.thinkingConfig.includeThoughts",
        ),
        (json!({"/x": 1}), "/x"),
    ];
    for (members, path) in cases {
        let body = asking(&members);
        let refused = decode(&body).expect_err(&body.to_string());
        assert_eq!(refused.param.as_deref(), Some(path), "{members}");
    }
    for body in [json!([]), json!("x"), json!(null)] {
        assert!(decode(&body).is_err(), "{body}");
    }
}

#[test]
fn bounds_hold() {
    let texts = |count: usize| vec![json!({"text": "a"}); count];
    let cases = [
        (
            json!({"contents": vec![json!({"parts": texts(1)}); 4097]}),
            "contents",
        ),
        (
            json!({"contents": [{"parts": texts(1025)}]}),
            "contents[0].parts",
        ),
        (
            json!({"contents": [{"role": "model",
                "parts": vec![json!({"functionCall": {"name": "f"}}); 257]}]}),
            "contents[0].parts",
        ),
        (json!({"tools": vec![json!({}); 129]}), "tools"),
    ];
    for (members, path) in cases {
        let refused = decode(&asking(&members)).unwrap_err();
        assert_eq!(refused.param.as_deref(), Some(path));
    }
    let deep = "[".repeat(10_000);
    let body = Bytes::from(format!(r#"{{"contents": {deep}"#));
    assert!(decode_request("m", Delivery::Whole, &body).is_err());
    let long = "m".repeat(257);
    let body = Bytes::from(asking(&json!({})).to_string());
    let refused = decode_request(&long, Delivery::Whole, &body).unwrap_err();
    assert_eq!(refused.param.as_deref(), Some("model"));
    let refused = GenerateContent.decode(&body).unwrap_err();
    assert_eq!(refused.param.as_deref(), Some("model"));
}

#[test]
fn a_result_is_text_whatever_its_shape() {
    let cases = [
        (json!({"output": "4 degrees"}), "4 degrees", false),
        (json!({"result": "4 degrees"}), "4 degrees", false),
        (json!({"output": {"t": 4}}), r#"{"t":4}"#, false),
        (json!({"t": 4}), r#"{"t":4}"#, false),
        (json!({}), "{}", false),
        (json!({"error": "down"}), "down", true),
        (
            json!({"error": "down", "code": 7}),
            r#"{"error":"down","code":7}"#,
            true,
        ),
        (
            json!({"error": null, "t": 4}),
            r#"{"error":null,"t":4}"#,
            false,
        ),
        (
            json!({"output": "a", "error": ""}),
            r#"{"output":"a","error":""}"#,
            false,
        ),
    ];
    for (response, text, is_failure) in cases {
        let body = json!({"contents": [
            {"role": "user", "parts": [{"text": "hi"}]},
            {"role": "model", "parts": [{"functionCall": {"name": "f"}}]},
            {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": response}}]},
        ]});
        let request = decode(&body).unwrap();
        let result = &request.messages[2];
        assert_eq!(result.text(), text, "{response}");
        assert_eq!(result.is_failure, is_failure, "{response}");
    }
}

#[test]
fn results_without_ids_answer_calls_of_their_name_in_order() {
    let call = |name: &str| json!({"functionCall": {"name": name}});
    let result = |name: &str, text: &str| json!({"functionResponse": {"name": name, "response": {"output": text}}});
    let body = json!({"contents": [
        {"parts": [{"text": "hi"}]},
        {"role": "model", "parts": [call("f"), call("g"), call("f")]},
        {"parts": [result("g", "1"), result("f", "2"), result("f", "3")]},
    ]});
    let request = decode(&body).unwrap();
    let answered: Vec<_> = request.messages[2..]
        .iter()
        .map(|it| (it.tool_call_id.as_deref().unwrap(), it.text()))
        .collect();
    let expected = [("call_1_1", "1"), ("call_1_0", "2"), ("call_1_2", "3")];
    assert_eq!(answered, expected.map(|(id, text)| (id, text.to_owned())));
    // A call is answered once.
    let mut twice = body;
    twice["contents"][2]["parts"] = json!([result("g", "1"), result("g", "2")]);
    let refused = decode(&twice).unwrap_err();
    let path = "contents[2].parts[1].functionResponse.name";
    assert_eq!(refused.param.as_deref(), Some(path));
}

#[test]
fn what_google_alone_knows_is_not_read() {
    for part in [
        json!({"fileData": {"mimeType": "image/png", "fileUri": "https://generativelanguage.googleapis.com/v1beta/files/a"}}),
        json!({"fileData": {"mimeType": "image/png", "fileUri": "gs://bucket/a.png"}}),
        json!({"fileData": {"fileUri": "https://www.youtube.com/watch?v=x"}}),
        json!({"fileData": {"mimeType": "video/mp4", "fileUri": "https://a.example/b.mp4"}}),
        json!({"executableCode": {"language": "PYTHON", "code": "1"}}),
        json!({"inlineData": {"mimeType": "video/mp4", "data": "AAAA"}, "videoMetadata": {"fps": 1}}),
    ] {
        let body = json!({"contents": [{"parts": [part]}]});
        let request = decode(&body).unwrap();
        assert!(request.has_other_parts(), "{part}");
        let again = sent("gemini-3-pro", &request).unwrap();
        assert_eq!(again["contents"][0]["parts"][0], part);
    }
}

#[test]
fn allowed_functions_leave_the_others_out() {
    let declared = json!([{"functionDeclarations": [{"name": "f"}, {"name": "g"}, {"name": "h"}]}]);
    let check = |mode: &str, allowed: &[&str], choice: ToolChoice, names: &[&str]| {
        let calling = json!({"mode": mode, "allowedFunctionNames": allowed});
        let body = json!({"tools": declared, "toolConfig": {"functionCallingConfig": calling}});
        let request = decode(&asking(&body)).unwrap();
        assert_eq!(request.tool_choice, choice, "{mode}");
        let left: Vec<&str> = request.tools.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(left, names, "{mode}");
    };
    check("ANY", &[], ToolChoice::Required, &["f", "g", "h"]);
    check(
        "ANY",
        &["g"],
        ToolChoice::Named("g".into()),
        &["f", "g", "h"],
    );
    check("ANY", &["f", "h"], ToolChoice::Required, &["f", "h"]);
    check("VALIDATED", &["g"], ToolChoice::Auto, &["g"]);
    check("NONE", &[], ToolChoice::None, &["f", "g", "h"]);
    check("AUTO", &[], ToolChoice::Auto, &["f", "g", "h"]);
}

/// It is kept nowhere, and so is not looked through.
#[test]
fn a_pictures_name_does_not_leave_as_it_came() {
    for name in ["displayName", "display_name"] {
        let blob = json!({"mimeType": "image/png", "data": "AAAA", name: "ann@example.com.png"});
        let body = json!({"contents": [{"role": "user", "parts": [{"inlineData": blob}]}]});
        let request = decode(&body).unwrap();
        assert!(request.source.is_none(), "{name}");
        let sent = Gemini.encode_request("m", &request).unwrap();
        assert!(memchr::memmem::find(&sent, b"ann@").is_none());
    }
}
