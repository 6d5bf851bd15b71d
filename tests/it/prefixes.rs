//! What was computed of a prompt, across restarts of the server.

use std::os::unix::fs::PermissionsExt;

use http::StatusCode;
use serde_json::json;

use crate::harness::{Hedge, ask, with};

#[tokio::test]
async fn a_restarted_server_does_not_compute_a_system_prompt_again() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "[local]\nprefix_cache_dir = {:?}\n[cache]\nenabled = false\n",
        folder.path().join("prefixes")
    );
    let system = "You are a helpful assistant. Answer in one sentence. ".repeat(12);
    let messages = json!({"messages": [
        {"role": "system", "content": system},
        {"role": "user", "content": "What is the capital of Portugal?"},
    ]});
    let body = with(ask("local", ""), messages);
    let mut replies = Vec::new();
    for _ in 0..2 {
        let hedge = Hedge::start(&config).await;
        let reply = hedge.chat(&body).await;
        assert_eq!(reply.status, StatusCode::OK);
        let usage = &reply.json()["usage"]["prompt_tokens_details"];
        replies.push((usage["cached_tokens"].as_u64().unwrap(), reply.content()));
        let counted = format!(r#"kind="prompt_cached"}} {}"#, replies.last().unwrap().0);
        let metrics = hedge.metrics().await;
        assert!(metrics.contains(&counted), "{counted} in {metrics}");
        hedge.terminate();
        assert!(hedge.ended_well().await);
    }
    assert_eq!(replies[0].0, 0);
    assert!(replies[1].0 > 100, "{replies:?}");
    assert_eq!(replies[0].1, replies[1].1);
    let model = folder.path().join("prefixes/m-hedge-tiny");
    let mode = std::fs::metadata(model).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}
