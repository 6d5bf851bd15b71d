//! Rankings, under all the names of the path.

use serde_json::json;

use crate::client::ask;
use crate::node::node;
use crate::reading::post;

#[tokio::test]
async fn documents_come_back_best_first() {
    let node = node().await;
    let body = json!({
        "model": "finder", "query": "a", "documents": ["b", "aa", {"text": "a"}],
        "return_documents": true,
    });
    for path in ["/v1/rerank", "/rerank", "/v1/reranking", "/reranking"] {
        let raw = ask(node.client, post(path, "", &body)).await;
        assert_eq!(raw.status, 200, "{path}: {}", raw.text());
        assert_eq!(
            raw.json(),
            json!({
                "object": "list",
                "model": "finder",
                "results": [
                    {"index": 1, "relevance_score": 1.0, "document": {"text": "aa"}},
                    {"index": 2, "relevance_score": 0.0, "document": {"text": "a"}},
                    {"index": 0, "relevance_score": -1.0, "document": {"text": "b"}},
                ],
                "usage": {"prompt_tokens": 7, "total_tokens": 7},
            })
        );
        assert_eq!(raw.header("x-hedge-route"), Some("local:finder"));
    }
    let best = json!({"model": "second", "query": "a", "documents": ["b", "a"], "top_n": 1});
    let raw = ask(node.client, post("/v1/rerank", "", &best)).await;
    assert_eq!(
        raw.json()["results"],
        json!([{"index": 1, "relevance_score": 0.0}])
    );
}

#[tokio::test]
async fn a_model_for_other_work_is_told_from_one_that_does_not_exist() {
    let node = node().await;
    for (model, wanted, words) in [
        (
            "tiny",
            (400, "model_not_able"),
            "does not rank; `finder` does",
        ),
        (
            "local",
            (400, "model_not_able"),
            "does not rank; `finder` does",
        ),
        ("nobody", (404, "model_not_found"), "finder"),
    ] {
        let body = json!({"model": model, "query": "a", "documents": ["b"]});
        let raw = ask(node.client, post("/rerank", "", &body)).await;
        let told = (raw.status, &*raw.error("code"));
        assert_eq!(told, wanted, "{model}: {}", raw.text());
        assert!(raw.error("message").contains(words), "{}", raw.text());
    }
    // `/v1/models` lists `local`: "it does not exist" would be untrue of it.
    let body = json!({"model": "local", "input": "a"});
    let raw = ask(node.client, post("/v1/embeddings", "", &body)).await;
    assert_eq!((raw.status, &*raw.error("param")), (400, "model"));
    assert!(
        raw.error("message").contains("sets embeddings.model"),
        "{}",
        raw.text()
    );
    let body = json!({"model": "second", "messages": [{"role": "user", "content": "hi"}]});
    let raw = ask(node.client, post("/v1/chat/completions", "", &body)).await;
    assert_eq!((raw.status, &*raw.error("param")), (400, "model"));
    assert!(
        raw.error("message").contains("does not answer chats"),
        "{}",
        raw.text()
    );
    let body = json!({"model": "finder", "query": "a", "documents": ["b", ""]});
    let raw = ask(node.client, post("/rerank", "", &body)).await;
    assert_eq!(
        (raw.status, raw.error("param").as_str()),
        (400, "documents[1]")
    );
}
