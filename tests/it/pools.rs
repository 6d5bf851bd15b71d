//! A pool of engines in the place of the local model.

use http::StatusCode;
use loadtest::{FakeConfig, FakeUpstream};
use serde_json::json;

use crate::harness::{Hedge, ask, eventually, fake, upstream, with};

/// A `[[pools]]` entry for `fakes`, in the place of the local model.
fn pool(fakes: &[&FakeUpstream], more: &str) -> String {
    let urls: Vec<String> = fakes.iter().map(|fake| fake.base_url()).collect();
    format!(
        "[local]\nenabled = false\n[[pools]]\nname = \"gpu\"\nkind = \"vllm\"\nendpoints = {urls:?}\n\
         models = [\"large\"]\nkey = \"env:FAKE_KEY\"\n{more}\n[pools.health]\ninterval_ms = 50\neject_ms = 100\neject_ms_max = 200\n"
    )
}

/// The value of an endpoint's metric.
async fn metric(hedge: &Hedge, name: &str, fake: &FakeUpstream, label: &str) -> Option<u64> {
    let endpoint = format!("endpoint=\"{}\"", fake.addr());
    let metrics = hedge.metrics().await;
    let line = metrics.lines().find(|line| {
        line.starts_with(&format!("hedge_pool_endpoint_{name}"))
            && line.contains(&endpoint)
            && line.contains(label)
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test]
async fn a_pool_answers_as_local_and_one_killed_engine_costs_no_chat() {
    let (steady, killed) = (fake(), fake());
    steady.set_report("vllm:num_requests_running 1\nvllm:num_requests_waiting 1\n");
    let hedge = Hedge::start(&pool(&[&steady, &killed], "")).await;
    for (index, model) in ["local", "gpu", "gpu/large", "large", "auto"]
        .iter()
        .enumerate()
    {
        let reply = hedge.chat(&ask(model, &format!("question {index}"))).await;
        assert_eq!(reply.status, StatusCode::OK, "{model}: {}", reply.text);
        assert_eq!(reply.route(), "local:gpu/large", "{model}");
    }
    let listed = hedge.get("/v1/models").await.text;
    for name in ["\"local\"", "\"gpu/large\""] {
        assert!(listed.contains(name), "{listed}");
    }
    eventually("its report is read", async || {
        metric(&hedge, "reported", &steady, "gpu").await == Some(2)
    })
    .await;

    let addr = killed.addr();
    killed.kill();
    for index in 0..40 {
        let text = format!("another question {index}");
        let body = with(ask("local", &text), json!({"stream": index % 2 == 0}));
        let reply = hedge.chat(&body).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        assert_eq!(reply.route(), "local:gpu/large");
    }
    assert_eq!(hedge.get("/readyz").await.status, StatusCode::OK);

    let config = FakeConfig {
        listen: addr,
        key: Some("cloud-key".to_owned()),
        ..FakeConfig::default()
    };
    let returned = FakeUpstream::start(config).unwrap();
    let mut index = 0;
    eventually("it is asked again", async || {
        index += 1;
        hedge
            .chat(&ask("local", &format!("yet another {index}")))
            .await;
        returned.counts().asked > 0
    })
    .await;
    eventually("it counts as in", async || {
        metric(&hedge, "state", &returned, "state=\"in\"").await == Some(1)
    })
    .await;
    assert!(
        hedge.log().contains("endpoint is left out"),
        "{}",
        hedge.log()
    );
}

#[tokio::test]
async fn without_any_engine_the_pool_is_down_and_the_cloud_stands_in() {
    let (one, other, cloud) = (fake(), fake(), fake());
    let config = format!("{}{}", pool(&[&one, &other], ""), upstream(&cloud, ""));
    let hedge = Hedge::start(&config).await;
    let reply = hedge
        .chat(&ask("auto", "What is the capital of Peru?"))
        .await;
    assert_eq!(reply.route(), "local:gpu/large", "{}", reply.text);
    one.kill();
    other.kill();
    eventually("it is said to be down", async || {
        let ready = hedge.get("/readyz").await.text;
        ready.contains("no endpoint of the pool is well")
    })
    .await;
    let reply = hedge
        .chat(&ask("auto", "What is the capital of Chile?"))
        .await;
    assert_eq!(reply.route(), "cloud:fake", "{}", reply.text);
    assert!(reply.header("x-hedge-reason").contains("fallback: gpu"));
    let reply = hedge.chat(&ask("local", "hi")).await;
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{}", reply.text);
}

#[tokio::test]
async fn a_pool_sees_what_its_trust_may_see_and_its_key_shows_nowhere() {
    let text = "Write to ana.lima@example.com about card 4111 1111 1111 1111.";
    let privacy = "[privacy.classes]\nemail = \"tenant\"\ncard = \"device\"\n";
    for (trust, sees_card) in [("tenant", false), ("device", true)] {
        let engine = fake();
        let more = format!("trust = \"{trust}\"");
        let config = format!("{privacy}{}", pool(&[&engine], &more));
        let hedge = Hedge::start(&config).await;
        let reply = hedge.chat(&ask("local", text)).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        let seen = &engine.seen()[0];
        let sent = seen.body.to_string();
        assert!(sent.contains("ana.lima"), "{trust}: {sent}");
        assert_eq!(sent.contains("4111"), sees_card, "{trust}: {sent}");
        assert_eq!(seen.headers["authorization"], "Bearer cloud-key");
        let unknown = hedge.chat(&ask("gpu/http://elsewhere/v1", "hi")).await;
        assert_eq!(unknown.status, StatusCode::NOT_FOUND, "{}", unknown.text);
        for shown in [hedge.log(), hedge.metrics().await, unknown.text] {
            assert!(!shown.contains("cloud-key") && !shown.contains("ana.lima"));
        }
    }
}
