//! OpenAI's responses: made here and in the cloud, kept, gone on from, and forgotten.

use bytes::Bytes;
use hashing::sha256;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Hedge, Reply, eventually, fake, open, request, upstream, with};

async fn ask(hedge: &Hedge, more: Value) -> Reply {
    let body = with(json!({"model": "local", "temperature": 0}), more);
    let mut asked = request(Method::POST, "/v1/responses", Bytes::from(body.to_string()));
    let json = http::HeaderValue::from_static("application/json");
    asked.headers_mut().insert("content-type", json);
    hedge.send(asked).await
}

async fn send(hedge: &Hedge, method: Method, path: &str) -> Reply {
    hedge.send(request(method, path, Bytes::new())).await
}

fn text(response: &Value) -> String {
    let output = response["output"].as_array().unwrap();
    let message = output.iter().find(|item| item["type"] == "message");
    message.unwrap()["content"][0]["text"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// The `data:` lines of a stream.
fn events(reply: &Reply) -> Vec<Value> {
    let lines = reply
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    lines
        .map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

#[tokio::test]
async fn a_response_is_kept_gone_on_from_and_forgotten() {
    let hedge = Hedge::start("").await;
    let question = json!({"input": "What is the capital of Portugal?", "metadata": {"a": "b"}});
    let first = ask(&hedge, question.clone()).await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.text);
    assert!(first.route().starts_with("local:"));
    let made = first.json();
    assert_eq!(
        (&made["object"], &made["status"]),
        (&json!("response"), &json!("completed"))
    );
    assert!(text(&made).contains("Lisbon"), "{made}");
    let id = made["id"].as_str().unwrap();
    assert!(id.starts_with("resp_"), "{id}");

    let path = format!("/v1/responses/{id}");
    let kept = send(&hedge, Method::GET, &path).await;
    assert_eq!(kept.json(), made);
    let items = send(&hedge, Method::GET, &format!("{path}/input_items?limit=1"))
        .await
        .json();
    assert_eq!(items["data"][0]["content"][0]["text"], question["input"]);
    assert_eq!(items["has_more"], false);

    // Streamed, from the cache, and of the whole conversation.
    let next = json!({"input": "And its currency?", "previous_response_id": id, "stream": true});
    let second = ask(&hedge, next).await;
    let told = events(&second);
    let last = &told.last().unwrap()["response"];
    assert_eq!(
        told.last().unwrap()["type"],
        "response.completed",
        "{}",
        second.text
    );
    assert_eq!(last["previous_response_id"], id);
    let prompt = |response: &Value| response["usage"]["input_tokens"].as_u64().unwrap();
    assert!(prompt(last) > prompt(&made) + 5, "{last}");
    let deltas = told
        .iter()
        .filter(|event| event["type"] == "response.output_text.delta");
    let joined: String = deltas
        .map(|event| event["delta"].as_str().unwrap())
        .collect();
    assert_eq!(joined, text(last));
    let second_id = last["id"].as_str().unwrap();
    let kept = send(&hedge, Method::GET, &format!("/v1/responses/{second_id}")).await;
    assert_eq!(kept.json(), *last);

    let gone = send(&hedge, Method::DELETE, &path).await;
    assert_eq!(
        gone.json(),
        json!({"id": id, "object": "response", "deleted": true})
    );
    for method in [Method::GET, Method::DELETE] {
        assert_eq!(
            send(&hedge, method, &path).await.status,
            StatusCode::NOT_FOUND
        );
    }
    let lost = ask(&hedge, json!({"input": "hi", "previous_response_id": id})).await;
    assert_eq!(lost.status, StatusCode::BAD_REQUEST);
    let error = &lost.json()["error"];
    assert_eq!(error["code"], "previous_response_not_found");
    assert_eq!(error["param"], "previous_response_id");
}

#[tokio::test]
async fn what_is_not_to_be_kept_is_not() {
    let hedge = Hedge::start("").await;
    let made = ask(&hedge, json!({"input": "hi", "store": false}))
        .await
        .json();
    assert_eq!(made["store"], false);
    let path = format!("/v1/responses/{}", made["id"].as_str().unwrap());
    assert_eq!(
        send(&hedge, Method::GET, &path).await.status,
        StatusCode::NOT_FOUND
    );

    let hedge = Hedge::start("[responses]\nstore = false\n").await;
    let made = ask(&hedge, json!({"input": "hi"})).await.json();
    assert_eq!(
        (&made["store"], &made["status"]),
        (&json!(false), &json!("completed"))
    );
    let next = ask(
        &hedge,
        json!({"input": "hi", "previous_response_id": made["id"]}),
    )
    .await;
    assert_eq!(next.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn one_team_never_sees_anothers() {
    let key = |name: &str| {
        let digest = sha256(name.as_bytes());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("[[keys]]\nname = '{name}'\nteam = 'of {name}'\nsecret = 'sha256:{digest}'\n")
    };
    let hedge = Hedge::start(&(key("one") + &key("two"))).await;
    let send = async |name: &str, method: Method, path: &str, body: &str| {
        let mut asked = request(method, path, Bytes::from(body.to_owned()));
        let headers = asked.headers_mut();
        headers.insert("content-type", "application/json".parse().unwrap());
        headers.insert("authorization", format!("Bearer {name}").parse().unwrap());
        hedge.send(asked).await
    };
    let body = json!({"model": "local", "input": "hi"}).to_string();
    let made = send("one", Method::POST, "/v1/responses", &body)
        .await
        .json();
    let path = format!("/v1/responses/{}", made["id"].as_str().unwrap());
    let foreign = send("two", Method::GET, &path, "").await;
    let unknown = send("two", Method::GET, "/v1/responses/resp_0", "").await;
    assert_eq!(foreign.status, StatusCode::NOT_FOUND);
    assert_eq!(foreign.text, unknown.text);
    assert_eq!(
        send("two", Method::DELETE, &path, "").await.status,
        StatusCode::NOT_FOUND
    );
    let next = json!({"model": "local", "input": "hi", "previous_response_id": made["id"]});
    let next = send("two", Method::POST, "/v1/responses", &next.to_string()).await;
    assert_eq!(next.status, StatusCode::BAD_REQUEST, "{}", next.text);
    assert_eq!(send("one", Method::GET, &path, "").await.json(), made);
}

#[tokio::test]
async fn a_cloud_of_chats_answers_too() {
    let fake = fake();
    let hedge = Hedge::start(&upstream(&fake, "")).await;
    let tools = json!([{"type": "function", "name": "look_up", "strict": true,
        "parameters": {"type": "object", "properties": {}}}]);
    let asked = json!({"model": "fake/bench", "input": "[[fake call=look_up]]", "tools": tools,
        "instructions": "Be short.", "user": "ann"});
    let reply = ask(&hedge, asked).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert_eq!(reply.route(), "cloud:fake");
    let made = reply.json();
    let call = &made["output"][0];
    assert_eq!(
        (&call["type"], &call["name"]),
        (&json!("function_call"), &json!("look_up"))
    );
    let sent = &fake.seen()[0].body;
    assert_eq!(sent["messages"][0]["role"], "developer");
    assert_eq!(sent["tools"][0]["function"]["strict"], true);
    assert_eq!(sent["user"], "ann");

    let answer = json!({"model": "fake/bench", "previous_response_id": made["id"], "tools": tools,
        "input": [{"type": "function_call_output", "call_id": call["call_id"], "output": "42"}]});
    let reply = ask(&hedge, answer).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let sent = &fake.seen()[1].body["messages"];
    let roles: Vec<&str> = sent
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["user", "assistant", "tool"]);
    assert_eq!(sent[1]["tool_calls"][0]["id"], call["call_id"]);
}

#[tokio::test]
async fn faults_have_openais_form() {
    let hedge = Hedge::start("").await;
    let cases = [
        (json!({"input": [{"type": "x"}]}), "input[0].type"),
        (
            json!({"input": "hi", "tools": [{"type": "web_search"}]}),
            "tools[0].type",
        ),
        (json!({"input": "hi", "background": true}), "background"),
    ];
    for (more, param) in cases {
        let reply = ask(&hedge, more).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        assert_eq!(reply.json()["error"]["param"], param);
    }
    let made = ask(&hedge, json!({"input": "hi"})).await.json();
    let path = format!("/v1/responses/{}", made["id"].as_str().unwrap());
    for query in ["limit=0", "limit=x", "order=up", "after=gone"] {
        let reply = send(&hedge, Method::GET, &format!("{path}/input_items?{query}")).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{query}");
        assert!(reply.json()["error"]["message"].is_string(), "{query}");
    }
    let cancelled = send(&hedge, Method::POST, &format!("{path}/cancel")).await;
    assert_eq!(cancelled.status, StatusCode::BAD_REQUEST);
    let wrong = send(&hedge, Method::PUT, &path).await;
    assert_eq!(wrong.status, StatusCode::METHOD_NOT_ALLOWED);
}

fn cloud(more: Value) -> Value {
    with(json!({"model": "fake/bench"}), more)
}

async fn retrieve(hedge: &Hedge, id: &Value) -> Reply {
    let path = format!("/v1/responses/{}", id.as_str().unwrap());
    send(hedge, Method::GET, &path).await
}

#[tokio::test]
async fn a_reply_from_the_cache_is_kept_under_an_id_of_its_own() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let first = ask(&hedge, cloud(json!({"input": "one"}))).await;
    let second = ask(&hedge, cloud(json!({"input": "one"}))).await;
    assert_eq!(
        (first.route(), second.route()),
        ("cloud:fake", "cache:exact")
    );
    let (first, second) = (first.json(), second.json());
    assert_ne!(first["id"], second["id"]);
    assert_eq!(text(&first), text(&second));
    for made in [&first, &second] {
        assert_eq!(retrieve(&hedge, &made["id"]).await.json(), *made);
    }
    let next = json!({"input": "two", "previous_response_id": second["id"]});
    let next = ask(&hedge, cloud(next)).await;
    assert_eq!(next.status, StatusCode::OK, "{}", next.text);
    let sent = &fake.seen()[1].body["messages"];
    assert_eq!(sent[0]["content"], "one");
    assert_eq!(sent[1]["content"], text(&first));
    assert_eq!(sent[2]["content"], "two");
}

#[tokio::test]
async fn a_stream_that_breaks_is_kept_as_failed_and_not_gone_on_from() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let asked = json!({"input": "[[fake cut-after=2]]", "stream": true});
    let told = events(&ask(&hedge, cloud(asked)).await);
    let [.., failed, last] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(failed["type"], "response.failed");
    assert_eq!(last["type"], "error");
    let made = &failed["response"];
    assert_eq!(retrieve(&hedge, &made["id"]).await.json(), *made);
    let next = json!({"input": "and?", "previous_response_id": made["id"]});
    let next = ask(&hedge, cloud(next)).await;
    assert_eq!(next.status, StatusCode::BAD_REQUEST, "{}", next.text);
    assert_eq!(next.json()["error"]["param"], "previous_response_id");
}

#[tokio::test]
async fn a_response_whose_reader_left_is_kept_as_cancelled() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let asked = json!({"input": "[[fake tokens=500 gap-ms=20]]", "stream": true});
    let mut asked = request(
        Method::POST,
        "/v1/responses",
        Bytes::from(cloud(asked).to_string()),
    );
    let json = http::HeaderValue::from_static("application/json");
    asked.headers_mut().insert("content-type", json);
    let mut reply = open(hedge.addr, asked).await;
    let first = reply.next().await.unwrap();
    let first = std::str::from_utf8(&first).unwrap();
    let data = first.lines().find_map(|line| line.strip_prefix("data: "));
    let created: Value = serde_json::from_str(data.unwrap()).unwrap();
    drop(reply);
    eventually("kept as cancelled", async || {
        let kept = retrieve(&hedge, &created["response"]["id"]).await;
        kept.status == StatusCode::OK && kept.json()["status"] == "cancelled"
    })
    .await;
}

#[tokio::test]
async fn what_is_deleted_is_gone_for_what_came_after_it_too() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let first = ask(&hedge, cloud(json!({"input": "one"}))).await.json();
    let next = |id: &Value| cloud(json!({"input": "two", "previous_response_id": id}));
    let second = ask(&hedge, next(&first["id"])).await.json();
    let path = format!("/v1/responses/{}", first["id"].as_str().unwrap());
    assert_eq!(
        send(&hedge, Method::DELETE, &path).await.status,
        StatusCode::OK
    );
    assert_eq!(retrieve(&hedge, &second["id"]).await.json(), second);
    let third = ask(&hedge, next(&second["id"])).await;
    assert_eq!(third.status, StatusCode::BAD_REQUEST);
    let error = &third.json()["error"];
    assert_eq!(error["code"], "previous_response_not_found");
}

#[tokio::test]
async fn an_item_that_is_kept_may_be_sent_by_its_id() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let made = ask(&hedge, cloud(json!({"input": "one"}))).await.json();
    let reference = json!({"type": "item_reference", "id": made["output"][0]["id"]});
    let input = json!([reference, {"role": "user", "content": "two"}]);
    let reply = ask(&hedge, cloud(json!({ "input": input }))).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let sent = &fake.seen()[1].body["messages"];
    assert_eq!(sent[0]["role"], "assistant");
    assert_eq!(sent[0]["content"], text(&made));
    let gone = json!([{"type": "item_reference", "id": "msg_0"}]);
    let reply = ask(&hedge, cloud(json!({ "input": gone }))).await;
    assert_eq!(reply.json()["error"]["param"], "input[0].id");
}
