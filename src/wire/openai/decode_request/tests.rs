use domain::{Effort, Image, OutputFormat, Part, Role, ToolChoice};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn decode(body: impl Into<Vec<u8>>) -> Result<ChatRequest, BadRequest> {
    decode_request(&Bytes::from(body.into()))
}

/// A body with one message and, before it, the given members.
fn body_with(members: &str) -> String {
    format!(r#"{{"model":"m",{members}"messages":[{{"role":"user","content":"hi"}}]}}"#)
}

/// Checks that `members` are refused at `param` with `code`.
fn refuses(members: &str, param: &str, code: &str) {
    let fault = decode(body_with(&format!("{members},"))).expect_err(members);
    assert_eq!(fault.param.as_deref(), Some(param), "{members}: {fault:?}");
    assert_eq!(fault.code.as_deref(), Some(code), "{members}: {fault:?}");
    assert!(
        fault.message.contains(param),
        "{members}: {}",
        fault.message
    );
}

/// As [`refuses`], for the list of messages.
fn refuses_messages(messages: &str, param: &str, code: &str) {
    let body = format!(r#"{{"model":"m","messages":{messages}}}"#);
    let fault = decode(body).expect_err(messages);
    assert_eq!(fault.param.as_deref(), Some(param), "{messages}: {fault:?}");
    assert_eq!(fault.code.as_deref(), Some(code), "{messages}: {fault:?}");
}

fn accepts(members: &str) -> ChatRequest {
    decode(body_with(&format!("{members},"))).expect(members)
}

#[test]
fn every_known_field_is_read() {
    let bytes = Bytes::from_static(include_bytes!("../fixtures/request_full.json"));
    let request = decode_request(&bytes).unwrap();
    assert_eq!(request.model.as_str(), "gpt-x");
    let roles: Vec<Role> = request
        .messages
        .iter()
        .map(|message| message.role)
        .collect();
    assert_eq!(
        roles,
        [Role::Developer, Role::User, Role::Assistant, Role::Tool]
    );
    let user = &request.messages[1];
    assert_eq!(user.name.as_deref(), Some("ada"));
    assert_eq!(user.content[0], Part::Text("What is this?".into()));
    let image = Image {
        url: "https://pictures.example/1.png".into(),
        detail: Some("low".into()),
    };
    assert_eq!(user.content[1], Part::Image(image));
    assert!(matches!(user.content[2], Part::Audio(_)));
    let assistant = &request.messages[2];
    assert!(assistant.content.is_empty());
    assert_eq!(assistant.tool_calls[0].arguments, r#"{"q": "x"}"#);
    assert_eq!(assistant.extra["refusal"], Value::Null);
    assert_eq!(request.messages[3].tool_call_id.as_deref(), Some("call_1"));

    let tool = &request.tools[0];
    assert_eq!(tool.name, "look_up");
    assert_eq!(tool.parameters["type"], "object");
    assert_eq!(tool.extra["strict"], true);
    assert_eq!(request.tool_choice, ToolChoice::Named("look_up".into()));
    assert_eq!(request.parallel_tool_calls, Some(false));
    let sampling = Sampling {
        temperature: Some(0.7),
        top_p: Some(0.9),
        top_k: Some(40),
        min_p: Some(0.05),
        seed: Some(-7),
        stop: vec!["END".into(), "\n\n".into()],
        frequency_penalty: Some(-0.5),
        presence_penalty: Some(2.0),
        logit_bias: vec![(50_256, -100.0)],
        logprobs: Some(3),
        open: domain::OpenSampling::default(),
    };
    assert_eq!(request.sampling, sampling);
    assert_eq!(request.output_tokens_max, Some(Tokens(256)));
    let prediction = request.prediction.as_ref().unwrap();
    assert_eq!(prediction.content, ["It is ", "a cat."]);
    assert_eq!(request.choices, 2);
    let schema = json!({"name": "answer", "strict": true, "schema": {"type": "object"}});
    assert_eq!(request.format, OutputFormat::JsonSchema(schema));
    let delivery = Delivery::Streamed {
        includes_usage: true,
    };
    assert_eq!(request.delivery, delivery);
    assert_eq!(request.extra["metadata"], json!({"trace": "t-1"}));
    let effort = request.reasoning.and_then(|it| it.effort);
    assert_eq!(effort, Some(Effort::Low));
    assert_eq!(request.source.unwrap().bytes, bytes);
}

#[test]
fn absent_and_null_fields_leave_the_defaults() {
    let nulls = r#""temperature":null,"stop":null,"tools":null,"tool_choice":null,"stream":null,
        "response_format":null,"n":null,"prediction":null,"max_tokens":null,"logit_bias":null,"functions":null"#;
    for request in [accepts(nulls), decode(body_with("")).unwrap()] {
        assert_eq!(request.sampling, Sampling::default());
        assert_eq!(request.choices, 1);
        assert_eq!(request.delivery, Delivery::Whole);
        assert_eq!(request.format, OutputFormat::Text);
        assert_eq!(request.tool_choice, ToolChoice::Auto);
        assert_eq!(request.output_tokens_max, None);
        assert_eq!(request.prediction, None);
        assert!(request.extra.is_empty());
    }
}

#[test]
fn a_prediction_is_a_text_or_text_parts_and_nothing_else() {
    let text = accepts(r#""prediction":{"type":"content","content":""}"#);
    assert_eq!(text.prediction.unwrap().content, [""]);
    let parts =
        r#""prediction":{"type":"content","content":[{"type":"text","text":"a","x":1}],"y":2}"#;
    let request = accepts(parts);
    assert_eq!(request.prediction.unwrap().content, ["a"]);
    assert_eq!(request.extra["/prediction/content/0/x"], 1);
    assert_eq!(request.extra["/prediction/y"], 2);
    let part = |part: &str| format!(r#"{{"type":"content","content":[{part}]}}"#);
    for (prediction, param, code) in [
        ("7".to_owned(), "prediction", "invalid_type"),
        (
            r#"{"content":"a"}"#.to_owned(),
            "prediction.type",
            "missing_required_parameter",
        ),
        (
            r#"{"type":"code","content":"a"}"#.to_owned(),
            "prediction.type",
            "invalid_value",
        ),
        (
            r#"{"type":"content"}"#.to_owned(),
            "prediction.content",
            "missing_required_parameter",
        ),
        (
            r#"{"type":"content","content":{}}"#.to_owned(),
            "prediction.content",
            "invalid_type",
        ),
        (part(""), "prediction.content", "empty_array"),
        (part("\"a\""), "prediction.content[0]", "invalid_type"),
        (
            part(r#"{"text":"a"}"#),
            "prediction.content[0].type",
            "missing_required_parameter",
        ),
        (
            part(r#"{"type":"image_url","text":"a"}"#),
            "prediction.content[0].type",
            "invalid_value",
        ),
        (
            part(r#"{"type":"text","text":3}"#),
            "prediction.content[0].text",
            "invalid_type",
        ),
    ] {
        refuses(&format!(r#""prediction":{prediction}"#), param, code);
    }
}

#[test]
fn numbers_out_of_range_are_refused_with_the_bound() {
    for (members, param, code) in [
        (
            r#""temperature":2.1"#,
            "temperature",
            "decimal_above_max_value",
        ),
        (
            r#""temperature":-0.1"#,
            "temperature",
            "decimal_below_min_value",
        ),
        (
            r#""temperature":1e308"#,
            "temperature",
            "decimal_above_max_value",
        ),
        (r#""top_p":1.01"#, "top_p", "decimal_above_max_value"),
        (r#""top_p":0"#, "top_p", "invalid_value"),
        (r#""min_p":-1"#, "min_p", "decimal_below_min_value"),
        (r#""top_k":-2"#, "top_k", "integer_below_min_value"),
        (
            r#""frequency_penalty":2.5"#,
            "frequency_penalty",
            "decimal_above_max_value",
        ),
        (
            r#""presence_penalty":-3"#,
            "presence_penalty",
            "decimal_below_min_value",
        ),
        (r#""n":0"#, "n", "integer_below_min_value"),
        (r#""n":129"#, "n", "integer_above_max_value"),
        (r#""n":1.5"#, "n", "invalid_type"),
        (r#""max_tokens":0"#, "max_tokens", "integer_below_min_value"),
        (
            r#""max_tokens":-1"#,
            "max_tokens",
            "integer_below_min_value",
        ),
        (
            r#""max_tokens":99999999999"#,
            "max_tokens",
            "integer_above_max_value",
        ),
        (
            r#""max_completion_tokens":0"#,
            "max_completion_tokens",
            "integer_below_min_value",
        ),
        (
            r#""seed":9223372036854775808"#,
            "seed",
            "integer_above_max_value",
        ),
        (r#""seed":-1e300"#, "seed", "integer_below_min_value"),
        (r#""seed":1.5"#, "seed", "invalid_type"),
        (
            r#""logprobs":true,"top_logprobs":21"#,
            "top_logprobs",
            "integer_above_max_value",
        ),
        (
            r#""logit_bias":{"5":101}"#,
            "logit_bias.5",
            "decimal_above_max_value",
        ),
    ] {
        refuses(members, param, code);
    }
}

#[test]
fn bounds_themselves_are_taken() {
    let low = r#""temperature":0,"top_p":0.0001,"n":1,"max_tokens":1,"frequency_penalty":-2,
        "seed":-9223372036854775808,"top_k":-1,"logit_bias":{"0":-100}"#;
    let request = accepts(low);
    assert_eq!(request.sampling.temperature, Some(0.0));
    assert_eq!(request.sampling.seed, Some(i64::MIN));
    assert_eq!(request.sampling.top_k, Some(0));
    let high = r#""temperature":2,"top_p":1,"n":128,"max_tokens":16777216,"presence_penalty":2,
        "seed":9223372036854775807,"logprobs":true,"top_logprobs":20"#;
    let request = accepts(high);
    assert_eq!(request.sampling.seed, Some(i64::MAX));
    assert_eq!(request.sampling.logprobs, Some(20));
}

#[test]
fn values_of_the_wrong_type_are_refused_where_they_stand() {
    for (members, param) in [
        (r#""temperature":"0.5""#, "temperature"),
        (r#""stream":"true""#, "stream"),
        (r#""stream":1"#, "stream"),
        (r#""n":"2""#, "n"),
        (r#""stop":7"#, "stop"),
        (r#""stop":["a",7]"#, "stop[1]"),
        (r#""logit_bias":[1]"#, "logit_bias"),
        (r#""logit_bias":{"5":"a"}"#, "logit_bias.5"),
        (r#""response_format":"json""#, "response_format"),
        (r#""tools":{}"#, "tools"),
        (r#""tools":[7]"#, "tools[0]"),
        (r#""tool_choice":7"#, "tool_choice"),
        (r#""stream":true,"stream_options":true"#, "stream_options"),
        (r#""parallel_tool_calls":"no""#, "parallel_tool_calls"),
        (r#""modalities":"text""#, "modalities"),
    ] {
        refuses(members, param, "invalid_type");
    }
}

#[test]
fn stops_are_few_and_not_empty() {
    refuses(r#""stop":"""#, "stop", "empty_string");
    refuses(r#""stop":["a",""]"#, "stop[1]", "empty_string");
    refuses(
        r#""stop":["a","b","c","d","e"]"#,
        "stop",
        "array_above_max_length",
    );
    let long = "x".repeat(STOP_BYTES_MAX + 1);
    refuses(
        &format!(r#""stop":"{long}""#),
        "stop",
        "string_above_max_length",
    );
    assert_eq!(accepts(r#""stop":"a""#).sampling.stop, ["a"]);
    assert!(accepts(r#""stop":[]"#).sampling.stop.is_empty());
}

#[test]
fn fields_that_hang_on_others_are_refused_alone() {
    refuses(r#""top_logprobs":2"#, "top_logprobs", "invalid_value");
    refuses(
        r#""stream_options":{"include_usage":true}"#,
        "stream_options",
        "invalid_value",
    );
    refuses(
        r#""tool_choice":"required""#,
        "tool_choice",
        "invalid_value",
    );
    refuses(
        r#""max_tokens":5,"max_completion_tokens":6"#,
        "max_tokens",
        "invalid_value",
    );
    let both = accepts(r#""max_tokens":5,"max_completion_tokens":5"#);
    assert_eq!(both.output_tokens_max, Some(Tokens(5)));
    assert_eq!(accepts(r#""logprobs":true"#).sampling.logprobs, Some(0));
    assert_eq!(accepts(r#""logprobs":false"#).sampling.logprobs, None);
}

#[test]
fn formats_are_checked() {
    for (format, param, code) in [
        (r"{}", "response_format.type", "missing_required_parameter"),
        (r#"{"type":"xml"}"#, "response_format.type", "invalid_value"),
        (
            r#"{"type":"json_schema"}"#,
            "response_format.json_schema",
            "missing_required_parameter",
        ),
        (
            r#"{"type":"json_schema","json_schema":{}}"#,
            "response_format.json_schema.name",
            "missing_required_parameter",
        ),
        (
            r#"{"type":"json_schema","json_schema":{"name":"a b"}}"#,
            "response_format.json_schema.name",
            "invalid_value",
        ),
        (
            r#"{"type":"json_schema","json_schema":{"name":"a","schema":7}}"#,
            "response_format.json_schema.schema",
            "invalid_type",
        ),
    ] {
        refuses(&format!(r#""response_format":{format}"#), param, code);
    }
}

#[test]
fn other_servers_words_for_a_format_are_read_and_written_anew() {
    let regex = OutputFormat::Regex("a+".into());
    let grammar = OutputFormat::Grammar("root ::= \"a\"".into());
    let choice = OutputFormat::Choice(vec!["a".into(), "b".into()]);
    let schema = json!({"name": "schema", "schema": {"type": "null"}, "strict": true});
    let schema = OutputFormat::JsonSchema(schema);
    for (members, format) in [
        (r#""guided_regex":"a+""#, &regex),
        (
            r#""structured_outputs":{"regex":"a+","choice":null,"x":null}"#,
            &regex,
        ),
        (r#""guided_choice":["a","b"]"#, &choice),
        (r#""structured_outputs":{"choice":["a","b"]}"#, &choice),
        (r#""guided_grammar":"root ::= \"a\"""#, &grammar),
        (r#""grammar":"root ::= \"a\"""#, &grammar),
        (
            r#""structured_outputs":{"grammar":"root ::= \"a\""}"#,
            &grammar,
        ),
        (r#""guided_json":{"type":"null"}"#, &schema),
        (r#""guided_json":"{\"type\":\"null\"}""#, &schema),
        (r#""json_schema":{"type":"null"}"#, &schema),
        (r#""structured_outputs":{"json":{"type":"null"}}"#, &schema),
        (
            r#""structured_outputs":{"json_object":true},"response_format":{"type":"text"}"#,
            &OutputFormat::JsonObject,
        ),
        (
            r#""structured_outputs":{"json_object":false}"#,
            &OutputFormat::Text,
        ),
        (
            r#""structured_outputs":{},"grammar":"""#,
            &OutputFormat::Text,
        ),
    ] {
        let request = accepts(members);
        assert_eq!(request.format, *format, "{members}");
        assert!(request.extra.is_empty(), "{members}");
        let is_asked = *format != OutputFormat::Text;
        assert!(!is_asked || request.source.is_none(), "{members}");
    }
}

#[test]
fn formats_in_other_servers_words_are_checked() {
    let long = format!(r#""guided_choice":["{}"]"#, "x".repeat(70_000));
    for (members, param, code) in [
        (r#""guided_regex":7"#, "guided_regex", "invalid_type"),
        (r#""guided_regex":"""#, "guided_regex", "empty_string"),
        (r#""guided_choice":[]"#, "guided_choice", "empty_array"),
        (
            r#""guided_choice":["a",7]"#,
            "guided_choice[1]",
            "invalid_type",
        ),
        (
            r#""guided_choice":["a",""]"#,
            "guided_choice[1]",
            "empty_string",
        ),
        (&long, "guided_choice", "string_above_max_length"),
        (r#""guided_json":"{""#, "guided_json", "invalid_value"),
        (r#""guided_json":[]"#, "guided_json", "invalid_type"),
        (r#""grammar":{}"#, "grammar", "invalid_type"),
        (r#""json_schema":true"#, "json_schema", "invalid_type"),
        (
            r#""structured_outputs":"a""#,
            "structured_outputs",
            "invalid_type",
        ),
        (
            r#""structured_outputs":{"structural_tag":"a"}"#,
            "structured_outputs.structural_tag",
            "unsupported_parameter",
        ),
        (
            r#""structured_outputs":{"regex":"a","choice":["a"]}"#,
            "structured_outputs.choice",
            "invalid_value",
        ),
        (
            r#""structured_outputs":{"json_object":1}"#,
            "structured_outputs.json_object",
            "invalid_type",
        ),
        (
            r#""response_format":{"type":"json_object"},"grammar":"root ::= [a]""#,
            "grammar",
            "invalid_value",
        ),
        (
            r#""guided_regex":"a","guided_choice":["a"]"#,
            "guided_choice",
            "invalid_value",
        ),
    ] {
        refuses(members, param, code);
    }
}

#[test]
fn tools_are_checked() {
    let name = "tools[0].function.name";
    for (tools, param, code) in [
        (
            r#"[{"type":"function"}]"#,
            "tools[0].function",
            "missing_required_parameter",
        ),
        (
            r#"[{"type":"custom","custom":{}}]"#,
            "tools[0].type",
            "invalid_value",
        ),
        (
            r#"[{"type":"function","function":{}}]"#,
            name,
            "missing_required_parameter",
        ),
        (
            r#"[{"type":"function","function":{"name":""}}]"#,
            name,
            "empty_string",
        ),
        (
            r#"[{"type":"function","function":{"name":"a b"}}]"#,
            name,
            "invalid_value",
        ),
        (
            r#"[{"type":"function","function":{"name":"a","parameters":[]}}]"#,
            "tools[0].function.parameters",
            "invalid_type",
        ),
        (
            r#"[{"type":"function","function":{"name":"a"}},{"type":"function","function":{"name":"a"}}]"#,
            "tools[1].function.name",
            "invalid_value",
        ),
    ] {
        refuses(&format!(r#""tools":{tools}"#), param, code);
    }
    let long = format!(
        r#""tools":[{{"type":"function","function":{{"name":"{}"}}}}]"#,
        "a".repeat(65)
    );
    refuses(&long, name, "string_above_max_length");
    let many = vec!["{}"; 129].join(",");
    refuses(
        &format!(r#""tools":[{many}]"#),
        "tools",
        "array_above_max_length",
    );
}

#[test]
fn a_tool_choice_names_a_tool_there_is() {
    let with_tool = |choice: &str| {
        format!(
            r#""tools":[{{"type":"function","function":{{"name":"f"}}}}],"tool_choice":{choice}"#
        )
    };
    let named = accepts(&with_tool(r#"{"type":"function","function":{"name":"f"}}"#));
    assert_eq!(named.tool_choice, ToolChoice::Named("f".into()));
    assert_eq!(
        accepts(&with_tool(r#""required""#)).tool_choice,
        ToolChoice::Required
    );
    assert_eq!(
        accepts(&with_tool(r#""none""#)).tool_choice,
        ToolChoice::None
    );
    refuses(
        &with_tool(r#"{"type":"function","function":{"name":"g"}}"#),
        "tool_choice.function.name",
        "invalid_value",
    );
    refuses(&with_tool(r#""any""#), "tool_choice", "invalid_value");
    refuses(
        &with_tool(r#"{"type":"allowed_tools"}"#),
        "tool_choice.type",
        "invalid_value",
    );
}

#[test]
fn messages_are_checked_where_they_stand() {
    let missing = "missing_required_parameter";
    for (messages, param, code) in [
        ("[]", "messages", "empty_array"),
        ("null", "messages", missing),
        (r#""hi""#, "messages", "invalid_type"),
        ("[7]", "messages[0]", "invalid_type"),
        ("[{}]", "messages[0].role", missing),
        (r#"[{"role":7}]"#, "messages[0].role", "invalid_type"),
        (
            r#"[{"role":"User","content":"a"}]"#,
            "messages[0].role",
            "invalid_value",
        ),
        (
            r#"[{"role":"function","name":"f","content":"a"}]"#,
            "messages[0].role",
            "invalid_value",
        ),
        (r#"[{"role":"user"}]"#, "messages[0].content", missing),
        (
            r#"[{"role":"user","content":null}]"#,
            "messages[0].content",
            missing,
        ),
        (
            r#"[{"role":"user","content":7}]"#,
            "messages[0].content",
            "invalid_type",
        ),
        (
            r#"[{"role":"user","content":[]}]"#,
            "messages[0].content",
            "empty_array",
        ),
        (
            r#"[{"role":"user","content":["a"]}]"#,
            "messages[0].content[0]",
            "invalid_type",
        ),
        (
            r#"[{"role":"user","content":[{}]}]"#,
            "messages[0].content[0].type",
            missing,
        ),
        (
            r#"[{"role":"user","content":[{"type":"text"}]}]"#,
            "messages[0].content[0].text",
            missing,
        ),
        (
            r#"[{"role":"user","content":[{"type":"image_url","image_url":"https://a"}]}]"#,
            "messages[0].content[0].image_url",
            "invalid_type",
        ),
        (
            r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"file:///etc/passwd"}}]}]"#,
            "messages[0].content[0].image_url.url",
            "invalid_value",
        ),
        (r#"[{"role":"assistant"}]"#, "messages[0].content", missing),
        (
            r#"[{"role":"assistant","tool_calls":[]}]"#,
            "messages[0].content",
            missing,
        ),
        (
            r#"[{"role":"tool","content":"a"}]"#,
            "messages[0].tool_call_id",
            missing,
        ),
        (
            r#"[{"role":"user","content":"a","tool_call_id":"c"}]"#,
            "messages[0].tool_call_id",
            "invalid_value",
        ),
        (
            r#"[{"role":"user","content":"a","name":""}]"#,
            "messages[0].name",
            "empty_string",
        ),
        (
            r#"[{"role":"user","content":"a","tool_calls":[{}]}]"#,
            "messages[0].tool_calls",
            "invalid_value",
        ),
        (
            r#"[{"role":"assistant","tool_calls":[{"type":"function"}]}]"#,
            "messages[0].tool_calls[0].id",
            missing,
        ),
        (
            r#"[{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f","arguments":{}}}]}]"#,
            "messages[0].tool_calls[0].function.arguments",
            "invalid_type",
        ),
        (
            r#"[{"role":"assistant","content":"a","function_call":{"name":"f","arguments":"{}"}}]"#,
            "messages[0].function_call",
            "unsupported_parameter",
        ),
        (
            r#"[{"role":"user","content":"a"},{"role":"bot","content":"a"}]"#,
            "messages[1].role",
            "invalid_value",
        ),
    ] {
        refuses_messages(messages, param, code);
    }
}

#[test]
fn what_cannot_be_answered_in_full_is_refused() {
    refuses(r#""functions":[]"#, "functions", "unsupported_parameter");
    refuses(
        r#""function_call":"auto""#,
        "function_call",
        "unsupported_parameter",
    );
    refuses(
        r#""modalities":["text","audio"]"#,
        "modalities[1]",
        "invalid_value",
    );
    accepts(r#""modalities":["text"]"#);
}

#[test]
fn the_model_is_named() {
    let messages = r#""messages":[{"role":"user","content":"a"}]"#;
    for (model, code) in [
        ("", "missing_required_parameter"),
        (r#""model":null,"#, "missing_required_parameter"),
        (r#""model":"","#, "empty_string"),
        (r#""model":7,"#, "invalid_type"),
    ] {
        let fault = decode(format!("{{{model}{messages}}}")).unwrap_err();
        assert_eq!(fault.param.as_deref(), Some("model"));
        assert_eq!(fault.code.as_deref(), Some(code));
    }
}

#[test]
fn syntax_faults_name_place_line_and_column() {
    let fault = decode("{\n\"messages\": [{\"role\": user}]}").unwrap_err();
    assert_eq!(fault.param.as_deref(), Some("messages[0].role"));
    assert_eq!(fault.code.as_deref(), Some("invalid_json"));
    assert!(
        fault.message.contains("line 2 column 23"),
        "{}",
        fault.message
    );

    for (number, hint) in [("NaN", true), ("-Infinity", true), ("1e999", false)] {
        let fault = decode(format!(r#"{{"temperature": {number}}}"#)).unwrap_err();
        assert_eq!(fault.param.as_deref(), Some("temperature"), "{number}");
        assert_eq!(
            fault.message.contains("NaN or Infinity"),
            hint,
            "{number}: {}",
            fault.message
        );
    }
}

/// The order of a schema's members is that of the reply's.
#[test]
fn a_schema_is_kept_as_written() {
    let schema = r#"{"name":"n","schema":{"properties":{"z":{"enum":[2,1]},"a":{"minimum":0.50}},"required":["z","a"],"$defs":{}}}"#;
    let request = accepts(&format!(
        r#""response_format":{{"type":"json_schema","json_schema":{schema}}}"#
    ));
    let OutputFormat::JsonSchema(kept) = request.format else {
        panic!("{:?}", request.format);
    };
    assert_eq!(kept.to_string(), schema.replace("0.50", "0.5"));
}

#[test]
fn bodies_that_are_no_json_object_are_refused_clearly() {
    for (body, words) in [
        (&b""[..], "body is empty"),
        (b" \n", "body is empty"),
        (b"\xEF\xBB\xBF{}", "byte order mark"),
        (b"[]", "expected a JSON object"),
        (b"\"a\"", "expected a JSON object"),
        (b"{} {}", "trailing characters"),
        (b"{\"a\":\"\xFF\"}", "the byte at offset 6"),
        (b"{\"a\":\"\\ud800\"}", "hex escape"),
        (b"{\"a\":1", "EOF"),
    ] {
        let fault = decode(body).unwrap_err();
        assert!(fault.message.contains(words), "{}", fault.message);
    }
}

#[test]
fn depth_and_number_of_values_are_bounded() {
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200));
    assert!(
        decode(deep)
            .unwrap_err()
            .message
            .contains("recursion limit")
    );
    let wide = format!("{{\"a\":[{}1]}}", "1,".repeat(VALUES_MAX_FOR_TEST));
    assert!(
        decode(wide)
            .unwrap_err()
            .message
            .contains("values in one body")
    );
}

const VALUES_MAX_FOR_TEST: usize = 200_000;

/// The received bytes are forwarded as they came: a hidden first value would pass the scan.
#[test]
fn a_name_that_stands_twice_is_refused_at_every_depth() {
    for body in [
        r#"{"model":"m","messages":[],"messages":[{"role":"user","content":"a"}]}"#.to_owned(),
        body_with(r#""x":{"y":[{"z":1,"z":2}]},"#),
        r#"{"model":"m","messages":[{"role":"user","content":"b","content":"a"}]}"#.to_owned(),
    ] {
        let fault = decode(body.clone()).unwrap_err();
        assert!(
            fault.message.contains("stands twice"),
            "{body}: {}",
            fault.message
        );
    }
}

#[test]
fn unknown_fields_are_kept_in_order_wherever_they_stand() {
    let body = r#"{
        "zeta": {"b": 1, "a": 2},
        "model": "m",
        "messages": [{"role": "user", "mood": "odd", "content": [
            {"type": "text", "text": "a", "cache/control": {"ttl": "1h"}}
        ]}],
        "tools": [{"type": "function", "function": {"name": "f"}, "hint": "h"}],
        "stream": true,
        "stream_options": {"include_obfuscation": false},
        "alpha": null
    }"#;
    let request = decode(body).unwrap();
    assert_eq!(request.messages[0].extra["mood"], "odd");
    let names: Vec<&str> = request.extra.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "/messages/0/content/0/cache~1control",
            "/tools/0/hint",
            "/stream_options/include_obfuscation",
            "zeta",
            "alpha",
        ]
    );
    refuses(r#""/a":1"#, "/a", "unsupported_parameter");
}

#[test]
fn unknown_fields_are_counted_against_a_bound() {
    let fields: String = (0..=crate::fields::EXTRA_FIELDS_MAX)
        .map(|at| format!("\"x{at}\":1,"))
        .collect();
    let fault = decode(body_with(&fields)).unwrap_err();
    assert_eq!(fault.code.as_deref(), Some("too_many_parameters"));
}

#[test]
fn quoted_text_is_cut() {
    let long = "x".repeat(10_000);
    let messages = format!(r#"[{{"role":"{long}","content":"a"}}]"#);
    let fault = decode(format!(r#"{{"model":"m","messages":{messages}}}"#)).unwrap_err();
    assert!(fault.message.len() < 400, "{}", fault.message.len());
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(bytes);
    }

    /// One byte of a good body changed: whatever comes of it, it is an answer.
    #[test]
    fn damaged_bodies_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = include_bytes!("../fixtures/request_full.json").to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = decode(bytes);
    }
}
