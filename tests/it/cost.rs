//! What an answer cost: counted by the provider, or by us where it does not say.

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::harness::{Hedge, ask, chat_request, fake, upstream, with};

const PRICES: &str = "[[prices]]\nupstream = 'fake'\nmodels = ['*']\ninput = 2.0\noutput = 30.0\n";

fn priced(body: &Value) -> Request<Full<Bytes>> {
    let mut request = chat_request(body);
    let one = HeaderValue::from_static("1");
    request.headers_mut().insert("x-hedge-cost", one);
    request
}

/// By the price above, rounded up.
fn cost(usage: &Value) -> u64 {
    usage["prompt_tokens"].as_u64().unwrap() * 2 + usage["completion_tokens"].as_u64().unwrap() * 30
}

#[tokio::test]
async fn an_answer_says_what_it_cost_when_asked() {
    let fake = fake();
    let hedge = Hedge::start(&upstream(&fake, PRICES)).await;
    let asked = ask("fake/bench", "How much is this?");
    let reply = hedge.send(priced(&asked)).await;
    let told: u64 = reply.header("x-hedge-cost-microusd").parse().unwrap();
    assert_eq!(told, cost(&reply.json()["usage"]), "{}", reply.text);
    assert!(told > 0);
    let untold = hedge.chat(&asked).await;
    assert!(untold.headers.get("x-hedge-cost-microusd").is_none());

    // The same again is in the cache.
    let again = hedge.send(priced(&asked)).await;
    assert_eq!(again.header("x-hedge-cost-microusd"), "0");

    let streamed = with(
        ask("fake/bench", "And this?"),
        json!({"stream": true, "stream_options": {"include_usage": true}}),
    );
    let reply = hedge.send(priced(&streamed)).await;
    let usage = reply.chunks().iter().rev().find_map(|chunk| {
        let usage = &chunk["usage"];
        (!usage.is_null()).then(|| usage.clone())
    });
    let note = format!("\n: x-hedge-cost-microusd: {}\n\n", cost(&usage.unwrap()));
    assert!(reply.text.contains(&note), "{}", reply.text);
    assert!(reply.is_done());

    let metrics = hedge.metrics().await;
    let line = "hedge_cost_microusd_total{backend=\"fake\"}";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn what_this_machine_answers_costs_nothing() {
    let hedge = Hedge::start("").await;
    let reply = hedge.send(priced(&ask("local", "hi"))).await;
    assert_eq!(reply.header("x-hedge-cost-microusd"), "0", "{}", reply.text);
}
