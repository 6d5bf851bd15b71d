//! A node that takes over another configuration while it answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use http::{HeaderValue, StatusCode};
use loadtest::FakeUpstream;
use serde_json::json;

use crate::harness::{Hedge, Reply, ask, chat_request, eventually, fake, signal, upstream, with};

/// Whose secrets are `one` and `two`.
const DIGESTS: [&str; 2] = [
    "sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed",
    "sha256:3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3",
];

/// A key, what the alias `smart` stands for, and more.
fn config(fake: &FakeUpstream, digest: &str, model: &str, more: &str) -> String {
    format!(
        "listen = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[local]\nenabled = false\n\
         [aliases]\nsmart = \"fake/{model}\"\n[[keys]]\nname = \"key\"\nsecret = \"{digest}\"\n{more}\n{}",
        upstream(fake, "")
    )
}

async fn asked(hedge: &Hedge, key: &str, text: &str) -> Reply {
    let body = with(ask("smart", text), json!({"max_tokens": 4}));
    let mut request = chat_request(&body);
    let headers = request.headers_mut();
    let bearer = format!("Bearer {key}");
    headers.insert("authorization", HeaderValue::from_str(&bearer).unwrap());
    headers.insert("cache-control", HeaderValue::from_static("no-store"));
    hedge.send(request).await
}

fn model(reply: &Reply) -> String {
    reply.json()["model"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

async fn started(fake: &FakeUpstream) -> Hedge {
    let config = config(fake, DIGESTS[0], "bench", "");
    let config = config.split_once("[local]").unwrap().1;
    Hedge::start(&format!("[local]{config}")).await
}

#[tokio::test]
async fn a_changed_file_is_taken_over_under_load_and_no_request_is_dropped() {
    let fake = fake();
    let hedge = started(&fake).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let callers = (0..16).map(|caller| {
        let (hedge, is_over) = (&hedge, Arc::clone(&is_over));
        async move {
            let mut answered = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let reply = asked(hedge, "one", &format!("caller {caller}")).await;
                assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
                answered.push(model(&reply));
            }
            answered
        }
    });
    let operator = async {
        for round in 0..4 {
            let name = ["other", "bench"][round % 2];
            hedge.reconfigure(&config(&fake, DIGESTS[0], name, ""));
            // Twice it is told, twice it finds out.
            if round < 2 {
                signal(hedge.pid(), "-HUP");
            }
            eventually("the other model answers", async || {
                model(&asked(&hedge, "one", "operator").await) == name
            })
            .await;
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let (answered, ()) = futures::join!(join_all(callers), operator);
    for answered in answered {
        assert!(
            answered.iter().any(|model| model == "other"),
            "{answered:?}"
        );
        assert!(
            answered.iter().any(|model| model == "bench"),
            "{answered:?}"
        );
    }
    assert!(hedge.log().matches("configuration reloaded").count() >= 4);
}

#[tokio::test]
async fn keys_prices_and_limits_are_taken_over() {
    let fake = fake();
    let hedge = started(&fake).await;
    assert_eq!(asked(&hedge, "one", "hi").await.status, StatusCode::OK);
    assert_eq!(
        asked(&hedge, "two", "hi").await.status,
        StatusCode::UNAUTHORIZED
    );
    let more = "limits = [{ count = 'requests', amount = 1, per = 'day' }]\n\
                [[prices]]\nupstream = 'fake'\nmodels = ['*']\ninput = 100000.0\noutput = 100000.0\n";
    hedge.reconfigure(&config(&fake, DIGESTS[1], "bench", more));
    signal(hedge.pid(), "-HUP");
    eventually("the old key is refused", async || {
        asked(&hedge, "one", "hi").await.status == StatusCode::UNAUTHORIZED
    })
    .await;
    assert_eq!(asked(&hedge, "two", "hi").await.status, StatusCode::OK);
    let limited = asked(&hedge, "two", "hi").await;
    assert_eq!(
        limited.status,
        StatusCode::TOO_MANY_REQUESTS,
        "{}",
        limited.text
    );
    eventually("its price is the new one", async || {
        let shown = hedge.metrics().await;
        let cost = shown
            .lines()
            .find(|line| line.starts_with("hedge_cost_microusd_total"));
        cost.is_some_and(|line| !line.ends_with(" 0"))
    })
    .await;
}

#[tokio::test]
async fn what_is_wrong_changes_nothing_and_is_said_with_its_place() {
    let fake = fake();
    let hedge = started(&fake).await;
    // One line is good, another is not: neither is taken over.
    let wrong = config(&fake, DIGESTS[1], "other", "models = [7]\n");
    hedge.reconfigure(&wrong);
    eventually("it is said", async || {
        let log = hedge.log();
        log.contains("configuration not reloaded") && log.contains("keys[0].models")
    })
    .await;
    assert_eq!(model(&asked(&hedge, "one", "hi").await), "bench");
    assert_eq!(
        asked(&hedge, "two", "hi").await.status,
        StatusCode::UNAUTHORIZED
    );
    // And the next one is.
    hedge.reconfigure(&config(&fake, DIGESTS[1], "other", ""));
    eventually("the next one is taken", async || {
        asked(&hedge, "two", "hi").await.status == StatusCode::OK
    })
    .await;
}

#[tokio::test]
async fn a_file_of_a_key_is_looked_at_too_and_not_where_nobody_wants_it() {
    let fake = fake();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "one").unwrap();
    let secret = format!("file:{}", file.display());
    let begin = async |more: &str| {
        let config = config(&fake, &secret, "bench", more);
        let (_, config) = config.split_once("[local]").unwrap();
        Hedge::start(&format!("[local]{config}")).await
    };
    let (watching, not) = (begin("").await, begin("[reload]\nwatch = false").await);
    std::fs::write(&file, "another").unwrap();
    eventually("the other key is taken", async || {
        asked(&watching, "another", "hi").await.status == StatusCode::OK
    })
    .await;
    assert_eq!(asked(&not, "one", "hi").await.status, StatusCode::OK);
    signal(not.pid(), "-HUP");
    eventually("it is taken when told", async || {
        asked(&not, "another", "hi").await.status == StatusCode::OK
    })
    .await;
}
