//! Replicas that share exact replies in Redis. Where neither Redis nor Valkey is installed these say so and
//! pass.

use http::{HeaderValue, StatusCode};
use loadtest::FakeUpstream;
use serde_json::{Value, json};

use crate::cache::{is_loaded, semantic};
use crate::harness::{Hedge, Reply, ask, chat_request, fake, upstream, with};
use crate::postgres::{DATABASE, postgres};
use crate::replicas::server::Server;
use crate::shared_keys::until_metric_is;

const KEY: &str = "the secret of all replicas";

/// So many over `server`. Times are far beyond what a busy machine takes: a look that is late is a miss.
async fn start(server: &Server, fake: &FakeUpstream, count: usize, more: &str) -> Vec<Hedge> {
    let config = format!(
        "[local]\nenabled = false\n[offline]\nenabled = false\n\
         [store]\nredis = '{}'\nreplicas = {count}\nanswer_ms_max = 10000\n\
         [cache]\nredis_ms_max = 1000\n{more}\n{}",
        server.url(),
        upstream(fake, "")
    );
    let nodes: Vec<Hedge> = (0..count).map(|_| Hedge::launch(&config)).collect();
    for node in &nodes {
        node.until_ready().await;
        until_shared(node, 0).await;
    }
    nodes
}

async fn until_shared(node: &Hedge, apart: u8) {
    until_metric_is(node, &format!("hedge_shared_replies_apart {apart}")).await;
}

async fn says(node: &Hedge, text: &str, tag: &'static str, user: &str) -> Reply {
    let body = with(ask("fake/bench", text), json!({"user": user}));
    let mut request = chat_request(&body);
    if !tag.is_empty() {
        let headers = request.headers_mut();
        headers.insert("x-hedge-cache-tags", HeaderValue::from_static(tag));
    }
    node.send(request).await
}

/// Asked at one, and in Redis by the time it returns.
async fn kept_at(node: &Hedge, count: usize, text: &str, tag: &'static str, user: &str) -> Reply {
    let reply = says(node, text, tag, user).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let line = format!("hedge_shared_replies_writes_total{{result=\"kept\"}} {count}");
    until_metric_is(node, &line).await;
    reply
}

async fn post(node: &Hedge, path: &str, body: &Value) -> Reply {
    node.admin_post(path, &body.to_string()).await
}

#[tokio::test]
async fn what_was_asked_at_one_replica_is_a_hit_at_the_others_until_one_purges_it() {
    let Some(server) = Server::start() else {
        return;
    };
    let fake = fake();
    let nodes = start(&server, &fake, 2, "").await;
    let first = kept_at(&nodes[0], 1, "write to a@b.example", "spring", "anna").await;
    assert_eq!(first.route(), "cloud:fake");
    let second = says(&nodes[1], "write to a@b.example", "spring", "anna").await;
    assert_eq!(second.route(), "cache:exact");
    assert_eq!(second.content(), first.content());
    assert_eq!(fake.counts().asked, 1);
    let streamed = with(
        ask("fake/bench", "write to a@b.example"),
        json!({"stream": true}),
    );
    assert_eq!(nodes[1].chat(&streamed).await.route(), "cache:exact");

    // Neither question nor value is there, nor the user's name.
    let name = server.ask(&["KEYS", "*:reply:*"]);
    let name = name.lines().find(|line| line.contains('{')).unwrap();
    let kept = server.ask(&["HGETALL", name]);
    for word in ["write to", "a@b.example", "anna"] {
        assert!(!kept.contains(word), "{word}: {kept}");
    }

    let told = post(
        &nodes[1],
        "/admin/v1/cache/purge",
        &json!({"tag": "spring"}),
    )
    .await;
    assert_eq!(told.json()["exact"], 1, "{}", told.text);
    let again = kept_at(&nodes[0], 2, "write to a@b.example", "", "anna").await;
    assert_eq!(again.route(), "cloud:fake", "and not from its memory");
    let found = says(&nodes[1], "write to a@b.example", "", "anna").await;
    assert_eq!(found.route(), "cache:exact");
    assert_eq!(fake.counts().asked, 2);
}

#[tokio::test]
async fn without_redis_replies_are_made_anew_and_are_shared_again_when_it_is_back() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let fake = fake();
    let nodes = start(&server, &fake, 2, "").await;
    kept_at(&nodes[0], 1, "one", "", "").await;
    assert_eq!(says(&nodes[1], "one", "", "").await.route(), "cache:exact");
    server.stop();
    for node in &nodes {
        until_shared(node, 1).await;
    }
    for (text, node) in ["two", "three"].into_iter().zip(&nodes) {
        assert_eq!(says(node, text, "", "").await.status, StatusCode::OK);
    }
    // What cannot be removed everywhere is not said to be.
    for (path, body) in [
        ("/admin/v1/cache/purge", json!({"all": true})),
        ("/admin/v1/data/erase", json!({"user": "anna"})),
    ] {
        let told = post(&nodes[0], path, &body).await;
        assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert_eq!(
            told.json()["error"]["type"],
            "server_error",
            "{}",
            told.text
        );
    }
    server.run();
    for node in &nodes {
        until_shared(node, 0).await;
    }
    let told = post(&nodes[0], "/admin/v1/cache/purge", &json!({"all": true})).await;
    assert_eq!(told.status, StatusCode::OK, "{}", told.text);
    kept_at(&nodes[0], 2, "four", "", "").await;
    assert_eq!(says(&nodes[1], "four", "", "").await.route(), "cache:exact");
}

#[tokio::test]
async fn somebodys_replies_are_handed_out_and_removed_at_whichever_replica() {
    let Some(server) = Server::start() else {
        return;
    };
    let fake = fake();
    let nodes = start(&server, &fake, 2, "").await;
    kept_at(&nodes[0], 1, "annas", "", "anna").await;
    kept_at(&nodes[0], 2, "bens", "", "ben").await;
    let asked = json!({"user": "anna"});
    let told = post(&nodes[1], "/admin/v1/data/export", &asked)
        .await
        .json();
    let items = told["items"].as_array().unwrap();
    let replies = items.iter().filter(|item| item["kept_in"] == "replies");
    assert_eq!(replies.count(), 1, "{told}");
    let told = post(&nodes[1], "/admin/v1/data/erase", &asked).await;
    assert_eq!(told.json()["replies"], 1, "{}", told.text);
    for node in &nodes {
        assert_eq!(says(node, "bens", "", "ben").await.route(), "cache:exact");
    }
    assert_eq!(says(&nodes[0], "annas", "", "").await.route(), "cloud:fake");
}

#[tokio::test]
async fn replicas_with_another_secret_or_other_routes_do_not_find_each_others() {
    let Some(server) = Server::start() else {
        return;
    };
    let fake = fake();
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), KEY).unwrap();
    let line = format!("secret = 'file:{}'", secret.path().display());
    let [plain, other, epoch] = ["", line.as_str(), "epoch = 7"];
    let plain = start(&server, &fake, 1, plain).await;
    let other = start(&server, &fake, 2, other).await;
    let epoch = start(&server, &fake, 1, epoch).await;
    kept_at(&plain[0], 1, "one", "", "").await;
    for node in [&other[0], &epoch[0]] {
        assert_eq!(says(node, "one", "", "").await.route(), "cloud:fake");
    }
    until_metric_is(
        &other[0],
        "hedge_shared_replies_writes_total{result=\"kept\"} 1",
    )
    .await;
    assert_eq!(says(&other[1], "one", "", "").await.route(), "cache:exact");
}

#[tokio::test]
async fn a_question_in_other_words_is_answered_at_every_replica_until_one_purges_it() {
    let (Some(server), Some(postgres)) = (Server::start(), postgres()) else {
        return;
    };
    let (fake, folder) = (fake(), tempfile::tempdir().unwrap());
    let secret = folder.path().join("secret");
    std::fs::write(&secret, KEY).unwrap();
    let config = format!(
        "[local]\nenabled = false\n[offline]\nenabled = false\n\
         [store]\nredis = '{}'\npostgres = '{}'\nreplicas = 2\nanswer_ms_max = 10000\n{}\n{}",
        server.url(),
        postgres.url(DATABASE),
        semantic(&folder, &format!("secret = 'file:{}'", secret.display())),
        upstream(&fake, "")
    );
    let nodes = [Hedge::launch(&config), Hedge::launch(&config)];
    for node in &nodes {
        node.until_ready().await;
        is_loaded(node).await;
    }
    let asked = ask("fake/bench", "What is the capital of France?");
    let first = nodes[0].chat(&asked).await;
    assert_eq!(first.route(), "cloud:fake");
    until_metric_is(&nodes[1], "hedge_cache_entries 1").await;
    let second = nodes[1]
        .chat(&ask("fake/bench", "what is the capital of france"))
        .await;
    assert_eq!(second.route(), "cache:semantic", "{}", second.reason());
    assert_eq!(second.content(), first.content());

    // What lies there says nothing of it.
    let rows = "SELECT count(*), count(*) FILTER (WHERE position('capital'::BYTEA IN entry) > 0)
        FROM hedge.reuse_entries";
    assert_eq!(postgres.query(DATABASE, rows).unwrap().trim(), "1|0");

    let told = post(&nodes[1], "/admin/v1/cache/purge", &json!({"all": true})).await;
    assert_eq!(told.status, StatusCode::OK, "{}", told.text);
    let again = nodes[0]
        .chat(&ask("fake/bench", "What's the capital of France?"))
        .await;
    assert_eq!(again.route(), "cloud:fake", "{}", again.reason());
}
