//! What is refused with 400, as far as programs between a client and a provider can bring it about. Which
//! fields there are is of the SDK's types; that turns need no order, that results must match calls, and
//! the words are from memory of Anthropic's answers, not from a page.

use std::collections::HashSet;

use http::HeaderMap;
use serde_json::Value;

use super::{SIGNATURE, VERSION_HEADER};

/// Fields of a prompt: all that `count_tokens` takes.
const PROMPT_FIELDS: [&str; 9] = [
    "cache_control",
    "context_management",
    "messages",
    "model",
    "output_config",
    "system",
    "thinking",
    "tool_choice",
    "tools",
];

/// Fields that only a message's request has.
const MESSAGE_FIELDS: [&str; 11] = [
    "container",
    "inference_geo",
    "max_tokens",
    "mcp_servers",
    "metadata",
    "service_tier",
    "stop_sequences",
    "stream",
    "temperature",
    "top_k",
    "top_p",
];

const THINKING_TOKENS_MIN: u64 = 1_024;

/// What is wrong with a request for a message.
pub(in crate::fake) fn fault(headers: &HeaderMap, body: &Value) -> Option<String> {
    let check = || {
        in_prompt(headers, body, &MESSAGE_FIELDS)?;
        let bound = body["max_tokens"].as_u64();
        let bound = bound.ok_or("max_tokens: Field required")?;
        if bound == 0 {
            return Err("max_tokens: must be greater than or equal to 1".to_owned());
        }
        sampling(body)?;
        thinking(body, bound)
    };
    check().err()
}

/// What is wrong with a request to count tokens.
pub(in crate::fake) fn fault_of_prompt(headers: &HeaderMap, body: &Value) -> Option<String> {
    in_prompt(headers, body, &[]).err()
}

fn in_prompt(headers: &HeaderMap, body: &Value, more: &[&str]) -> Result<(), String> {
    if !headers.contains_key(VERSION_HEADER) {
        return Err(format!("{VERSION_HEADER}: header is required"));
    }
    let fields = body.as_object().ok_or("the body must be an object")?;
    for name in fields.keys() {
        if !PROMPT_FIELDS.contains(&name.as_str()) && !more.contains(&name.as_str()) {
            return Err(format!("{name}: Extra inputs are not permitted"));
        }
    }
    if !body["model"].is_string() {
        return Err("model: Field required".to_owned());
    }
    tools(body)?;
    messages(body)
}

fn tools(body: &Value) -> Result<(), String> {
    let listed = body["tools"].as_array();
    for (at, tool) in listed.into_iter().flatten().enumerate() {
        let name = tool["name"].as_str().unwrap_or_default();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if name.is_empty() || name.len() > 128 || !name.bytes().all(is_plain) {
            return Err(format!(
                "tools.{at}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"
            ));
        }
        if tool["input_schema"]["type"] != "object" {
            return Err(format!(
                "tools.{at}.custom.input_schema.type: Input should be 'object'"
            ));
        }
    }
    if !body["tool_choice"].is_null() && listed.is_none_or(Vec::is_empty) {
        return Err("tool_choice may only be specified while providing tools".to_owned());
    }
    Ok(())
}

/// Each result answers a call of the message before it, and each call is answered at once.
fn messages(body: &Value) -> Result<(), String> {
    let none = Vec::new();
    let messages = body["messages"].as_array().unwrap_or(&none);
    if messages.is_empty() {
        return Err("messages: at least one message is required".to_owned());
    }
    let mut called: HashSet<&str> = HashSet::new();
    for (at, message) in messages.iter().enumerate() {
        let role = message["role"].as_str().unwrap_or_default();
        if role != "user" && role != "assistant" {
            return Err(format!(
                "messages.{at}.role: Input should be 'user' or 'assistant'"
            ));
        }
        if message["content"] == "" {
            return Err(format!(
                "messages.{at}: all messages must have non-empty content except for the optional final \
                 assistant message"
            ));
        }
        let mut calls = HashSet::new();
        let blocks = message["content"].as_array();
        for (place, block) in blocks.into_iter().flatten().enumerate() {
            let path = format!("messages.{at}.content.{place}");
            match block["type"].as_str().unwrap_or_default() {
                "text" if block["text"].as_str().is_none_or(str::is_empty) => {
                    return Err("messages: text content blocks must be non-empty".to_owned());
                }
                "thinking" if block["signature"] != SIGNATURE => {
                    return Err(format!("{path}: Invalid `signature` in `thinking` block"));
                }
                "tool_use" if !block["input"].is_object() => {
                    return Err(format!(
                        "{path}.tool_use.input: Input should be a valid dictionary"
                    ));
                }
                "tool_use" => {
                    calls.insert(block["id"].as_str().unwrap_or_default());
                }
                "tool_result"
                    if !called.remove(block["tool_use_id"].as_str().unwrap_or_default()) =>
                {
                    return Err(format!(
                        "{path}: unexpected `tool_use_id` found in `tool_result` blocks. Each `tool_result` \
                         block must have a corresponding `tool_use` block in the previous message."
                    ));
                }
                _ => {}
            }
        }
        if !called.is_empty() {
            return Err(format!(
                "messages.{at}: `tool_use` ids were found without `tool_result` blocks immediately after"
            ));
        }
        called = calls;
    }
    if !called.is_empty() {
        return Err("`tool_use` ids were found without `tool_result` blocks".to_owned());
    }
    final_turn(messages.last().unwrap_or(&Value::Null))
}

fn final_turn(last: &Value) -> Result<(), String> {
    let texts = super::texts(&last["content"]);
    let text = texts.last().copied().unwrap_or_default();
    if last["role"] == "assistant" && text.ends_with(char::is_whitespace) {
        return Err(
            "messages: final assistant content cannot end with trailing whitespace".to_owned(),
        );
    }
    Ok(())
}

fn sampling(body: &Value) -> Result<(), String> {
    for name in ["temperature", "top_p"] {
        let number = &body[name];
        if !number.is_null() && !number.as_f64().is_some_and(|it| (0.0..=1.0).contains(&it)) {
            return Err(format!("{name}: range: 0..1"));
        }
    }
    let stops = body["stop_sequences"].as_array().into_iter().flatten();
    let mut stops = stops.filter_map(Value::as_str);
    if stops.any(|stop| stop.trim().is_empty()) {
        return Err("stop_sequences: each stop sequence must contain non-whitespace".to_owned());
    }
    Ok(())
}

fn thinking(body: &Value, bound: u64) -> Result<(), String> {
    let thinking = &body["thinking"];
    if thinking["type"] == "enabled" {
        let budget = thinking["budget_tokens"].as_u64().unwrap_or_default();
        if budget < THINKING_TOKENS_MIN {
            return Err(
                "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024"
                    .to_owned(),
            );
        }
        if budget >= bound {
            return Err("`max_tokens` must be greater than `thinking.budget_tokens`".to_owned());
        }
    }
    let thinks = matches!(thinking["type"].as_str(), Some("enabled" | "adaptive"));
    if !thinks {
        return Ok(());
    }
    let heat = &body["temperature"];
    if !heat.is_null() && heat.as_f64() != Some(1.0) {
        return Err("`temperature` may only be set to 1 when thinking is enabled".to_owned());
    }
    let choice = body["tool_choice"]["type"].as_str();
    if matches!(choice, Some("any" | "tool")) {
        return Err("Thinking may not be enabled when tool_choice forces tool use.".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(changes: Value) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(VERSION_HEADER, "2023-06-01".parse().unwrap());
        let mut body = json!({"model": "m", "max_tokens": 64,
            "messages": [{"role": "user", "content": "hi"}]});
        for (name, value) in changes.as_object().unwrap() {
            body[name] = value.clone();
        }
        fault(&headers, &body)
    }

    #[test]
    fn what_anthropic_refuses_is_refused() {
        let turns = |said: Value, answered: Value| {
            json!({"messages": [{"role": "user", "content": "hi"},
                {"role": "assistant", "content": said}, {"role": "user", "content": answered}]})
        };
        let call = json!([{"type": "tool_use", "id": "a", "name": "n", "input": {}}]);
        let answer = json!([{"type": "tool_result", "tool_use_id": "a", "content": "x"}]);
        let thought = |signature: &str| json!([{"type": "thinking", "thinking": "h", "signature": signature}]);
        let sound = [
            json!({}),
            json!({"system": "s", "temperature": 1, "stream": true}),
            turns(call.clone(), answer.clone()),
            turns(thought(SIGNATURE), json!("on")),
        ];
        for changes in sound {
            assert_eq!(checked(changes.clone()), None, "{changes}");
        }
        let refused = [
            (json!({"logprobs": true}), "logprobs: Extra inputs"),
            (json!({"max_tokens": null}), "max_tokens: Field required"),
            (json!({"messages": []}), "at least one message"),
            (
                json!({"messages": [{"role": "system", "content": "x"}]}),
                "messages.0.role",
            ),
            (
                json!({"messages": [{"role": "user", "content": ""}]}),
                "non-empty",
            ),
            (json!({"temperature": 1.5}), "temperature"),
            (json!({"stop_sequences": [" "]}), "stop_sequences"),
            (
                json!({"tools": [{"name": "a b", "input_schema": {"type": "object"}}]}),
                "tools.0",
            ),
            (
                json!({"tools": [{"name": "a", "input_schema": {}}]}),
                "input_schema.type",
            ),
            (json!({"tool_choice": {"type": "any"}}), "tool_choice"),
            (turns(call, json!("no result")), "without `tool_result`"),
            (turns(json!("no call"), answer), "unexpected `tool_use_id`"),
            (turns(thought("other"), json!("on")), "Invalid `signature`"),
            (
                json!({"thinking": {"type": "enabled", "budget_tokens": 5}}),
                "budget_tokens",
            ),
            (
                json!({"thinking": {"type": "enabled", "budget_tokens": 2000}}),
                "`max_tokens`",
            ),
            (
                json!({"thinking": {"type": "adaptive"}, "temperature": 0}),
                "`temperature`",
            ),
        ];
        for (changes, words) in refused {
            let why = checked(changes.clone()).unwrap_or_default();
            assert!(why.contains(words), "{changes}: {why}");
        }
        assert!(fault(&HeaderMap::new(), &json!({})).is_some());
    }
}
