//! What callers and operators see of providers that fail: over HTTP, with fake upstreams.

use loadtest::{Behaviour, FakeConfig, FakeUpstream, Pair, Target, survive};
use serde_json::{Value, json};

use crate::harness::{Hedge, ask, eventually, fake, upstream, with};

/// A node before these upstreams, in order, with further settings.
async fn before(upstreams: &[&FakeUpstream], more: &str) -> Hedge {
    let folder = tempfile::tempdir().unwrap();
    let routes = folder.path().join("routes.toml");
    let names: Vec<String> = (0..upstreams.len()).map(|at| format!("u{at}")).collect();
    let text = format!("default = 'all'\n[outcomes.all]\ncandidates = {names:?}\n");
    std::fs::write(&routes, text).unwrap();
    let mut config = format!("{more}\n[local]\nenabled = false\n[routes]\nfile = {routes:?}\n");
    for (name, fake) in names.iter().zip(upstreams) {
        config.push_str(&upstream(fake, "").replace("\"fake\"", &format!("{name:?}")));
    }
    Hedge::start(&config).await
}

/// What the operator is shown of a model.
async fn shown(hedge: &Hedge, backend: &str) -> Value {
    let health = hedge.admin_get("/admin/health").await.json();
    let backends = health["backends"].as_array().unwrap();
    let shown = backends.iter().find(|it| it["name"] == backend);
    shown.unwrap().clone()
}

#[tokio::test]
async fn one_upstream_of_two_that_fails_a_third_is_hardly_noticed() {
    let pair = Pair::start(30, 5).unwrap();
    let hedge = before(
        &[&pair.failing, &pair.sound],
        "[ingress]\nrequests_per_second_max = 100000\n",
    )
    .await;
    let target = Target {
        name: "hedge".to_owned(),
        addr: hedge.addr,
        model: "auto".to_owned(),
        pid: None,
        key: None,
    };
    let survived = survive(&target, &pair, 1_000, 8).await.unwrap();
    assert!(survived.is_well(), "{survived:?}");
    assert!(survived.asked_failing > 0, "{survived:?}");
    let metrics = hedge.metrics().await;
    assert!(
        metrics.contains("hedge_fallbacks_total{cause=\"failed\"}"),
        "{metrics}"
    );
    assert!(metrics.contains("hedge_retries_total"), "{metrics}");
}

#[tokio::test]
async fn a_dead_upstream_is_left_alone_and_the_operator_sees_it() {
    let dead = FakeUpstream::start(FakeConfig {
        behaviour: Behaviour::default().for_text("[[fake status=500]]"),
        ..FakeConfig::default()
    })
    .unwrap();
    let sound = fake();
    let hedge = before(&[&dead, &sound], "").await;
    for at in 0..6 {
        let reply = hedge.chat(&ask("auto", &format!("question {at}"))).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert!(
            reply.header("x-hedge-reason").contains("fallback: u0 "),
            "{:?}",
            reply.headers
        );
    }
    let alone = hedge.chat(&ask("u0/bench", "hi")).await;
    assert_eq!(alone.status, 503);
    assert_eq!(alone.json()["error"]["code"], "overloaded");
    assert!(!alone.header("retry-after").is_empty());
    assert_eq!(dead.counts().asked, 5);
    let backend = shown(&hedge, "u0").await;
    assert_eq!(
        (&backend["state"], &backend["models"][0]["state"]),
        (&json!("down"), &json!("open"))
    );
    assert_eq!(backend["models"][0]["name"], "bench");
    let sound = shown(&hedge, "u1").await;
    assert_eq!(
        (&sound["state"], &sound["models"][0]["state"]),
        (&json!("ready"), &json!("closed"))
    );
    assert!(
        sound["models"][0]["whole_reply_ms"]["p95"]
            .as_f64()
            .unwrap()
            > 0.0,
        "{sound}"
    );
    let metrics = hedge.metrics().await;
    let line = "hedge_breaker_state{backend=\"u0\",model=\"bench\",state=\"open\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    let refused = hedge.get("/admin/health").await;
    assert_eq!(refused.status, 404, "on the admin listener alone");
}

#[tokio::test]
async fn equals_share_callers_and_conversations_stay() {
    let (one, other) = (fake(), fake());
    let equals = "[balance.both]\nmodels = ['u0/bench', { name = 'u1/bench', weight = 1 }]\n";
    let hedge = before(
        &[&one, &other],
        &format!("{equals}[cache]\nenabled = false\n"),
    )
    .await;
    let mut homes = Vec::new();
    for at in 0..32 {
        let asked = ask("both", &format!("question {at}"));
        let reply = hedge.chat(&asked).await;
        homes.push(reply.header("x-hedge-route").to_owned());
        let later = with(
            asked.clone(),
            json!({"messages": [
                asked["messages"][0],
                {"role": "assistant", "content": "so"},
                {"role": "user", "content": "and then?"},
            ]}),
        );
        assert_eq!(hedge.chat(&later).await.header("x-hedge-route"), homes[at]);
    }
    homes.sort_unstable();
    homes.dedup();
    assert_eq!(homes, ["cloud:u0", "cloud:u1"]);
    let listed = hedge.get("/v1/models").await;
    assert!(listed.text.contains("\"both\""), "{}", listed.text);
}

/// A stand-in for each fault, as a caller sees it who asks one upstream alone.
#[tokio::test]
async fn each_fault_has_its_status_and_code() {
    for (marker, status, code, asked) in [
        ("status=400", 400, Value::Null, 1),
        ("status=401", 502, json!("upstream_failed"), 1),
        ("status=404", 404, json!("model_not_found"), 1),
        ("status=408", 504, json!("upstream_timed_out"), 3),
        ("status=413", 400, Value::Null, 1),
        ("status=429", 429, json!("rate_limit_exceeded"), 3),
        (
            "status=429 retry-after=60",
            429,
            json!("rate_limit_exceeded"),
            1,
        ),
        ("status=500", 502, json!("upstream_failed"), 1),
        ("status=502", 502, json!("upstream_failed"), 1),
        ("status=503", 503, json!("overloaded"), 3),
        ("status=529", 503, json!("overloaded"), 3),
        ("garbage", 502, json!("upstream_failed"), 1),
        ("cut-after=2", 502, json!("upstream_failed"), 1),
    ] {
        let fake = fake();
        let hedge = Hedge::before(&fake, "").await;
        let reply = hedge
            .chat(&ask("fake/bench", &format!("[[fake {marker}]]")))
            .await;
        let error = reply.json()["error"]["code"].clone();
        assert_eq!((reply.status.as_u16(), error), (status, code), "{marker}");
        assert_eq!(fake.counts().asked, asked, "{marker}");
        eventually("its record is counted", async || {
            let metrics = hedge.metrics().await;
            let retries = format!("hedge_retries_total {}", asked - 1);
            metrics.lines().any(|line| line == retries) && metrics.contains("outcome=\"refused\"")
        })
        .await;
    }
}

/// After the first content the caller learns of it inside the stream, and nobody is asked again.
#[tokio::test]
async fn a_reply_cut_mid_stream_or_mid_call_ends_in_an_error_event() {
    for marker in ["cut-after=2", "call=run cut-after=1"] {
        let fake = fake();
        let hedge = Hedge::before(&fake, "").await;
        let asked = ask("fake/bench", &format!("[[fake {marker}]]"));
        let tools = json!([{"type": "function", "function": {"name": "run", "parameters": {}}}]);
        let asked = with(asked, json!({"stream": true, "tools": tools}));
        let reply = hedge.chat(&asked).await;
        assert_eq!(reply.status, 200, "{marker}");
        let error = reply
            .text
            .lines()
            .rev()
            .find(|line| line.contains("\"error\""));
        let error = error.unwrap_or_else(|| panic!("{marker}: {}", reply.text));
        assert!(error.contains("upstream_failed"), "{error}");
        assert_eq!(fake.counts().asked, 1, "{marker}");
    }
}
