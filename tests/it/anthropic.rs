//! Anthropic's API through the whole program: before an upstream that speaks OpenAI's, before a node
//! that speaks its own, and before the model on this machine.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Hedge, Reply, ask, fake, request, with};

fn message(model: &str, text: &str) -> Value {
    with(ask(model, text), json!({"max_tokens": 64}))
}

async fn post(hedge: &Hedge, path: &str, body: &Value) -> Reply {
    let mut request = request(Method::POST, path, Bytes::from(body.to_string()));
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
    hedge.send(request).await
}

async fn send(hedge: &Hedge, body: &Value) -> Reply {
    post(hedge, "/v1/messages", body).await
}

/// The data of a stream's events.
fn events(reply: &Reply) -> Vec<Value> {
    let data = reply
        .text
        .lines()
        .filter_map(|it| it.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

fn streamed_text(reply: &Reply) -> String {
    events(reply)
        .iter()
        .filter_map(|event| event["delta"]["text"].as_str())
        .collect()
}

/// A node before `inner`, which it asks in Anthropic's dialect.
async fn before(inner: &Hedge) -> Hedge {
    let config = format!(
        "[local]\nenabled = false\n[[upstreams]]\nname = \"inner\"\ndialect = \"anthropic\"\n\
         base_url = \"http://{}\"\nmodels = [\"fake/bench\"]\n",
        inner.addr
    );
    Hedge::start(&config).await
}

#[tokio::test]
async fn an_upstream_of_openais_dialect_answers_messages() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let asked = with(
        message("fake/bench", "[[fake tokens=3]]"),
        json!({"system": "Be brief.", "stop_sequences": ["END"], "metadata": {"user_id": "u"}}),
    );
    let whole = send(&hedge, &asked).await;
    assert_eq!(whole.status, StatusCode::OK, "{}", whole.text);
    let reply = whole.json();
    assert_eq!(
        reply["content"],
        json!([{"type": "text", "text": "t0 t1 t2 "}])
    );
    assert_eq!(reply["stop_reason"], "end_turn");
    assert_eq!(reply["usage"]["output_tokens"], 3);
    let seen = &fake.seen()[0].body;
    assert_eq!(
        seen["messages"][0],
        json!({"role": "system", "content": "Be brief."})
    );
    assert_eq!(seen["stop"], json!(["END"]));
    assert_eq!(seen["max_tokens"], 64);
    assert_eq!(seen.get("metadata"), None);

    let streamed = with(
        message("fake/bench", "[[fake tokens=4]]"),
        json!({"stream": true}),
    );
    let streamed = send(&hedge, &streamed).await;
    assert_eq!(streamed_text(&streamed), "t0 t1 t2 t3 ");
    let last = events(&streamed).pop().unwrap();
    assert_eq!(last["type"], "message_stop");
}

#[tokio::test]
async fn a_tool_call_and_a_failure_pass_in_anthropics_words() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let tools = json!({"tools": [{"name": "weather", "input_schema": {"type": "object"}}]});
    let called = send(
        &hedge,
        &with(message("fake/bench", "[[fake call=weather]]"), tools),
    )
    .await;
    let reply = called.json();
    let call = &reply["content"][0];
    assert_eq!(call["type"], "tool_use", "{reply}");
    assert_eq!(call["name"], "weather");
    assert!(call["input"].is_object(), "{reply}");
    assert_eq!(reply["stop_reason"], "tool_use");
    for (status, kind) in [(400, "invalid_request_error"), (429, "rate_limit_error")] {
        let asked = message("fake/bench", &format!("[[fake status={status}]]"));
        let refused = send(&hedge, &asked).await;
        assert_eq!(refused.status, status, "{}", refused.text);
        assert_eq!(refused.json()["error"]["type"], kind);
        assert_eq!(refused.json()["request_id"], refused.header("request-id"));
    }
}

#[tokio::test]
async fn tokens_of_a_cloud_model_are_estimated_and_said_to_be() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let asked = json!({
        "model": "fake/bench",
        "messages": [{"role": "user", "content": "What is the capital of Portugal?"}],
    });
    let counted = post(&hedge, "/v1/messages/count_tokens", &asked).await;
    assert_eq!(counted.status, StatusCode::OK, "{}", counted.text);
    assert_eq!(counted.header("x-hedge-tokens"), "estimated");
    let tokens = counted.json()["input_tokens"].as_u64().unwrap();
    assert!((7..20).contains(&tokens), "{tokens}");
    assert!(fake.seen().is_empty());
}

/// Both halves of the dialect, one behind the other, in either caller's.
#[tokio::test]
async fn a_node_that_speaks_anthropics_dialect_is_an_upstream() {
    let fake = fake();
    let inner = Hedge::before(&fake, "").await;
    let outer = before(&inner).await;
    let asked = message("inner/fake/bench", "[[fake tokens=3]]");
    let native = send(&outer, &asked).await;
    assert_eq!(native.status, StatusCode::OK, "{}", native.text);
    assert_eq!(native.json()["content"][0]["text"], "t0 t1 t2 ");
    assert_eq!(native.json()["usage"]["output_tokens"], 3);
    let openai = outer
        .chat(&ask("inner/fake/bench", "[[fake tokens=5]]"))
        .await;
    assert_eq!(openai.status, StatusCode::OK, "{}", openai.text);
    assert_eq!(openai.content(), "t0 t1 t2 t3 t4 ");
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let streamed = with(ask("inner/fake/bench", "[[fake tokens=6]]"), options);
    let streamed = outer.chat(&streamed).await;
    assert_eq!(streamed.streamed_text(), "t0 t1 t2 t3 t4 t5 ");
    assert!(streamed.is_done(), "{}", streamed.text);
    let usage = &streamed.chunks().pop().unwrap()["usage"];
    assert_eq!(usage["completion_tokens"], 6);
    let tools = json!({"tools": [{"type": "function", "function": {"name": "weather"}}]});
    let called = with(ask("inner/fake/bench", "[[fake call=weather]]"), tools);
    let called = outer.chat(&called).await.json();
    let call = &called["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!(call["name"], "weather", "{called}");
    assert_eq!(called["choices"][0]["finish_reason"], "tool_calls");
    let refused = outer
        .chat(&ask("inner/fake/bench", "[[fake status=400]]"))
        .await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.text);
    let hot = with(ask("inner/fake/bench", "hi"), json!({"temperature": 1.5}));
    let declined = outer.chat(&hot).await;
    assert_eq!(
        declined.status,
        StatusCode::BAD_REQUEST,
        "{}",
        declined.text
    );
    assert_eq!(declined.json()["error"]["param"], "temperature");
}

#[cfg(feature = "llama")]
#[tokio::test]
async fn the_model_here_answers_messages_and_counts_what_it_charges() {
    let hedge = Hedge::start("").await;
    let asked = message("local", "What is the capital of Portugal?");
    let whole = send(&hedge, &asked).await;
    assert_eq!(whole.status, StatusCode::OK, "{}", whole.text);
    let text = whole.json()["content"][0]["text"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(text.contains("Lisbon"), "{text}");
    let streamed = send(
        &hedge,
        &with(asked.clone(), json!({"stream": true, "top_k": 1})),
    )
    .await;
    assert_eq!(streamed_text(&streamed), text);
    let counted = post(&hedge, "/v1/messages/count_tokens", &asked).await;
    assert_eq!(counted.header("x-hedge-tokens"), "counted");
    let charged = &whole.json()["usage"];
    // A prefix that is kept from before counts apart.
    let input = charged["input_tokens"].as_u64().unwrap()
        + charged["cache_read_input_tokens"].as_u64().unwrap();
    assert_eq!(counted.json()["input_tokens"], input, "{charged}");
    let stop = &text[text.len() / 2..text.len() / 2 + 3];
    let stops = json!({"stop_sequences": ["###", "@@@", "%%%", "&&&", stop]});
    let cut = send(&hedge, &with(asked, stops)).await.json();
    assert_eq!(cut["stop_reason"], "stop_sequence", "{cut}");
    assert_eq!(cut["stop_sequence"], stop);
}
