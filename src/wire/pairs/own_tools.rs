//! What only one provider has goes to its own dialect as it came, and to no other.

use domain::{BackendError, Delivery};
use serde_json::{Value, json};

use super::{SIDES, Side, ask_of, parsed};

/// By the dialect that has it: a request's body, and the place that binds it.
fn asks() -> Vec<(&'static str, Value, &'static str)> {
    let schema = json!({"type": "object"});
    let anthropic = |tools: Value| json!({"model": "m-1", "max_tokens": 9, "messages": [{"role": "user", "content": "go"}], "tools": tools});
    let google = |tools: Value| json!({"contents": [{"role": "user", "parts": [{"text": "go"}]}], "tools": tools});
    let bash = json!({"type": "bash_20250124", "name": "bash"});
    let search = json!({"type": "web_search_20250305", "name": "web_search", "max_uses": 2});
    let function = json!({"name": "add", "input_schema": schema});
    let mut forced = anthropic(json!([bash]));
    forced["tool_choice"] = json!({"type": "tool", "name": "bash"});
    let mut connected = anthropic(json!([function]));
    connected["mcp_servers"] = json!([{"type": "url", "url": "https://m.example", "name": "m"}]);
    let mut cached = google(json!([]));
    cached["cachedContent"] = "cachedContents/1".into();
    let declared =
        json!({"functionDeclarations": [{"name": "add", "parametersJsonSchema": schema}]});
    vec![
        (
            "anthropic",
            anthropic(json!([bash, function, search])),
            "tools[0]",
        ),
        (
            "anthropic",
            anthropic(json!([function, search])),
            "tools[1]",
        ),
        ("anthropic", forced, "tools[0]"),
        ("anthropic", connected, "mcp_servers"),
        (
            "gemini",
            google(json!([declared, {"googleSearch": {}}])),
            "tools[1].googleSearch",
        ),
        (
            "gemini",
            google(json!([{"codeExecution": {}}, declared])),
            "tools[0].codeExecution",
        ),
        ("gemini", cached, "cachedContent"),
        (
            "openai",
            json!({"model": "m-1", "messages": [{"role": "user", "content": "go"}], "web_search_options": {}}),
            "web_search_options",
        ),
    ]
}

fn side(name: &str) -> &'static Side {
    SIDES.iter().find(|side| side.name == name).unwrap()
}

#[test]
fn what_only_one_provider_has_goes_to_its_dialect_alone() {
    for (name, ask, place) in asks() {
        let mut request = ask_of(side(name), ask.clone(), false).request;
        assert_eq!(request.bound_by.as_deref(), Some(place));
        request.delivery = Delivery::Whole;
        let own = side(name).client;
        let as_it_came = own.encode_request("m-1", &request).unwrap();
        assert_eq!(parsed(&as_it_came), ask, "{place} of {name}");
        // As after masking.
        request.source = None;
        let mut written = parsed(&own.encode_request("m-1", &request).unwrap());
        let mut expected = ask.clone();
        // No tools at all are none.
        if expected["tools"] == json!([]) {
            expected.as_object_mut().unwrap().shift_remove("tools");
        }
        written.sort_all_objects();
        expected.sort_all_objects();
        assert_eq!(written, expected, "{place} of {name}, written anew");
        for other in SIDES.iter().filter(|side| side.name != name) {
            match other.client.encode_request("m-1", &request) {
                Err(BackendError::Declined { reason }) => {
                    assert_eq!(reason.param.as_deref(), Some(place), "{}", other.name);
                }
                other_end => panic!("{place} of {name} to {}: {other_end:?}", other.name),
            }
        }
    }
}
