//! What a client has of one turn goes into its next request, as its dialect has it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use domain::{ChatRequest, Dialect, Reply, ReplyPiece, Seal, SealKind, replay_events};
use serde_json::{Value, json};

use super::{SIDES, Side, ask_of, framing, parsed, read_events};
use crate::gemini::Gemini;
use crate::{ClientDialect, Decoded};

/// Two calls, the first of them signed, as Google's models write them.
fn signed_calls() -> Value {
    json!({"candidates": [{"content": {"parts": [
        {"functionCall": {"id": "call_a", "name": "add", "args": {"x": 1}}, "thoughtSignature": "c2lnLTE="},
        {"functionCall": {"id": "call_b", "name": "sub", "args": {"x": 2}}},
    ], "role": "model"}, "finishReason": "STOP", "index": 0}], "modelVersion": "m-1", "responseId": "g-1"})
}

fn first_ask(side: &Side) -> Value {
    let schema = json!({"type": "object", "properties": {"x": {"type": "integer"}}});
    let named =
        |with: &dyn Fn(&str) -> Value| -> Value { ["add", "sub"].map(with).to_vec().into() };
    match side.name {
        "openai" => {
            json!({"model": "m-1", "messages": [{"role": "user", "content": "go"}], "tools":
            named(&|name| json!({"type": "function", "function": {"name": name, "parameters": schema}}))})
        }
        "responses" => {
            json!({"model": "m-1", "input": [{"role": "user", "content": "go"}], "tools":
            named(&|name| json!({"type": "function", "name": name, "parameters": schema}))})
        }
        "anthropic" => {
            json!({"model": "m-1", "max_tokens": 99, "messages": [{"role": "user", "content": "go"}],
            "tools": named(&|name| json!({"name": name, "input_schema": schema}))})
        }
        "gemini" => json!({"contents": [{"role": "user", "parts": [{"text": "go"}]}], "tools": [{
            "functionDeclarations": named(&|name| json!({"name": name, "parametersJsonSchema": schema}))}]}),
        other => panic!("{other} asks nothing"),
    }
}

/// The request that answers both calls, after `answer`, whole.
fn next_ask(side: &Side, answer: &Value) -> Value {
    let mut ask = first_ask(side);
    let list = |ask: &mut Value, name: &str, items: Vec<Value>| {
        ask[name].as_array_mut().unwrap().extend(items);
    };
    match side.name {
        "openai" => {
            let result = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": "3"});
            let said = answer["choices"][0]["message"].clone();
            list(
                &mut ask,
                "messages",
                vec![said, result("call_a"), result("call_b")],
            );
        }
        "responses" => {
            let result =
                |id: &str| json!({"type": "function_call_output", "call_id": id, "output": "3"});
            let mut items = answer["output"].as_array().unwrap().clone();
            items.extend([result("call_a"), result("call_b")]);
            list(&mut ask, "input", items);
        }
        "anthropic" => {
            let result =
                |id: &str| json!({"type": "tool_result", "tool_use_id": id, "content": "3"});
            list(
                &mut ask,
                "messages",
                vec![
                    json!({"role": "assistant", "content": answer["content"]}),
                    json!({"role": "user", "content": [result("call_a"), result("call_b")]}),
                ],
            );
        }
        "gemini" => {
            let result = |id: &str, name: &str| {
                json!({"functionResponse": {
                "id": id, "name": name, "response": {"output": "3"}}})
            };
            list(
                &mut ask,
                "contents",
                vec![
                    answer["candidates"][0]["content"].clone(),
                    json!({"role": "user", "parts": [result("call_a", "add"), result("call_b", "sub")]}),
                ],
            );
        }
        other => panic!("{other} asks nothing"),
    }
    ask
}

/// What a client makes of a stream: the same as of the whole reply, as far as calls go.
fn assembled(side: &Side, events: &[Value]) -> Value {
    match side.name {
        "openai" => {
            let deltas = events
                .iter()
                .filter_map(|it| it["choices"][0]["delta"]["tool_calls"].as_array());
            let calls: Vec<Value> = deltas.flatten().cloned().collect();
            json!({"choices": [{"message": {"role": "assistant", "content": null, "tool_calls": calls}}]})
        }
        "responses" => events.last().unwrap()["data"]["response"].clone(),
        "anthropic" => {
            let mut blocks: Vec<Value> = Vec::new();
            for event in events.iter().map(|event| &event["data"]) {
                if event["type"] == "content_block_start" {
                    blocks.push(event["content_block"].clone());
                } else if event["delta"]["type"] == "input_json_delta" {
                    let text = event["delta"]["partial_json"].as_str().unwrap();
                    blocks.last_mut().unwrap()["input"] = serde_json::from_str(text).unwrap();
                }
            }
            json!({ "content": blocks })
        }
        "gemini" => {
            let parts = events
                .iter()
                .filter_map(|it| it["candidates"][0]["content"]["parts"].as_array());
            let parts: Vec<Value> = parts.flatten().cloned().collect();
            json!({"candidates": [{"content": {"role": "model", "parts": parts}}]})
        }
        other => panic!("{other} asks nothing"),
    }
}

fn answered(side: &Side, reply: &Reply, is_streamed: bool) -> Value {
    let Decoded {
        mut request,
        mut encoder,
    } = ask_of(side, first_ask(side), is_streamed);
    request.source = None;
    let decoded = Decoded { request, encoder };
    let framing = framing(&decoded, &reply.started);
    encoder = decoded.encoder;
    if !is_streamed {
        return parsed(&encoder.whole(&framing, reply));
    }
    encoder.begin(framing);
    let mut bytes = BytesMut::new();
    for event in replay_events(reply) {
        encoder.event(&event, &mut bytes);
    }
    encoder.finish(&mut bytes);
    assembled(side, &read_events(&bytes))
}

fn next_request(side: &Side, reply: &Reply, is_streamed: bool) -> ChatRequest {
    let answer = answered(side, reply, is_streamed);
    ask_of(side, next_ask(side, &answer), is_streamed).request
}

#[test]
fn a_calls_seal_returns_to_google_through_every_client() {
    let bytes = signed_calls().to_string();
    let whole = Gemini.decode_reply(bytes.as_bytes()).unwrap();
    for side in SIDES.iter().filter(|side| side.server.is_some()) {
        for is_streamed in [false, true] {
            let request = next_request(side, &whole, is_streamed);
            let body = parsed(&Gemini.encode_request("gemini-3-pro", &request).unwrap());
            let parts = body["contents"][1]["parts"].as_array().unwrap();
            let signatures: Vec<&Value> = parts
                .iter()
                .filter(|part| part.get("functionCall").is_some())
                .map(|part| &part["thoughtSignature"])
                .collect();
            let label = format!("{}, streamed: {is_streamed}", side.name);
            assert_eq!(signatures, [&json!("c2lnLTE="), &Value::Null], "{label}");
        }
    }
}

/// Anthropic and OpenAI refuse texts that they did not seal, even such that look like theirs.
#[test]
fn no_upstream_gets_the_seal_of_another_maker() {
    let bytes = signed_calls().to_string();
    let signed = Gemini.decode_reply(bytes.as_bytes()).unwrap();
    for side in SIDES.iter().filter(|side| side.server.is_some()) {
        // Google's endpoint of OpenAI's dialect takes Google's.
        let others = Dialect::ALL
            .into_iter()
            .filter(|of| *of != side.client.dialect());
        for of in others.filter(|of| side.name != "openai" || *of == Dialect::Bedrock) {
            let seal = Seal {
                of,
                kind: SealKind::Signature,
                data: "c2lnLTE=".into(),
            };
            let mut reply = signed.clone();
            reply.written = None;
            let choice = &mut reply.choices[0];
            choice.pieces = vec![
                ReplyPiece::Thought("hm".into()),
                ReplyPiece::Seal(seal.clone()),
            ];
            if side.name == "openai" {
                choice.tool_calls[0].seal = None;
            } else {
                choice.tool_calls[0].seal = Some(seal);
            }
            let request = next_request(side, &reply, false);
            assert!(request.source.is_some());
            let body = side.client.encode_request("m-1", &request).unwrap();
            let text = String::from_utf8(body.to_vec()).unwrap();
            let hidden = STANDARD.encode(format!("hedge.{}", of.as_label()));
            for word in ["c2lnLTE=", "hedge.", &hidden[..8]] {
                assert!(!text.contains(word), "{of:?} by {}: {text}", side.name);
            }
        }
    }
}
