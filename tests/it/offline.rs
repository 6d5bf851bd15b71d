//! The node cut off from its upstreams, and back.

use http::StatusCode;
use loadtest::{Behaviour, FakeConfig, FakeUpstream};

use crate::harness::{Hedge, ask, eventually};

/// Often enough for a test to wait for.
const OFFLINE: &str = "[offline]\nretry_ms = 100\nqueue_ms_max = 60000\n";

fn config(fake: &FakeUpstream, when: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes.toml");
    let rules = format!(
        "default = \"cloud\"\nwhen_offline = \"{when}\"\n[outcomes.cloud]\n\
         candidates = [\"sky\"]\n"
    );
    std::fs::write(&path, rules).unwrap();
    let config = format!(
        "{OFFLINE}[local]\nenabled = false\n[routes]\nfile = \"{}\"\n[[upstreams]]\n\
         name = \"sky\"\nbase_url = \"{}\"\nmodels = [\"bench\"]\n",
        path.display(),
        fake.base_url()
    );
    (folder, config)
}

/// The same server again, where it was.
fn back(addr: std::net::SocketAddr) -> FakeUpstream {
    FakeUpstream::start(FakeConfig {
        listen: addr,
        behaviour: Behaviour {
            text: Some("back again".to_owned()),
            ..Behaviour::default()
        },
        ..FakeConfig::default()
    })
    .unwrap()
}

fn fake() -> FakeUpstream {
    FakeUpstream::start(FakeConfig::default()).unwrap()
}

#[tokio::test]
async fn one_failed_connect_is_enough_and_it_is_over_by_itself() {
    let fake = fake();
    let addr = fake.addr();
    let (_folder, config) = config(&fake, "refuse");
    let hedge = Hedge::start(&config).await;
    assert_eq!(hedge.chat(&ask("auto", "hi")).await.status, StatusCode::OK);
    assert_eq!(hedge.get("/readyz").await.json()["link"], "online");
    fake.kill();
    let found_out = hedge.chat(&ask("auto", "first")).await;
    assert_eq!(
        found_out.status,
        StatusCode::BAD_GATEWAY,
        "{}",
        found_out.text
    );
    let mut refused = hedge.chat(&ask("auto", "second")).await;
    if refused.status == StatusCode::BAD_GATEWAY {
        // The first broke a connection that was kept, which is no failed connect; the second made one.
        refused = hedge.chat(&ask("auto", "third")).await;
    }
    assert_eq!(
        refused.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "{}",
        refused.text
    );
    assert_eq!(refused.json()["error"]["code"], "offline");
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(refused.header("x-hedge-reason"), "default; offline");
    let ready = hedge.get("/readyz").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ready.json()["link"], "offline");
    assert!(hedge.metrics().await.contains("hedge_offline 1"));

    // No request tells it: it asks by itself.
    let _back = back(addr);
    eventually("online", async || {
        hedge.get("/readyz").await.json()["link"] == "online"
    })
    .await;
    assert!(hedge.metrics().await.contains("hedge_offline 0"));
    let answered = hedge.chat(&ask("auto", "third")).await;
    assert_eq!(answered.content(), "back again");
}

#[tokio::test]
async fn a_request_may_wait_for_the_link() {
    let fake = fake();
    let addr = fake.addr();
    let (_folder, config) = config(&fake, "queue");
    let hedge = Hedge::start(&config).await;
    fake.kill();
    hedge.chat(&ask("auto", "first")).await;
    assert_eq!(hedge.get("/readyz").await.json()["link"], "offline");
    let body = ask("auto", "waits");
    let waiting = hedge.chat(&body);
    let bring_back = async {
        eventually("it waits", async || {
            hedge
                .metrics()
                .await
                .contains("hedge_exchanges_in_flight 1")
        })
        .await;
        back(addr)
    };
    let (answered, _back) = futures::join!(waiting, bring_back);
    assert_eq!(answered.content(), "back again");
    assert_eq!(answered.route(), "cloud:sky");
}

#[cfg(feature = "llama")]
#[tokio::test]
async fn this_machine_answers_and_says_why() {
    let fake = fake();
    let (_folder, config) = config(&fake, "local");
    let config = config
        .replace("[local]\nenabled = false\n", "")
        .replace("retry_ms = 100", "retry_ms = 60000");
    let file = config.split("file = \"").nth(1).unwrap();
    let file = file.split('"').next().unwrap();
    let rules = std::fs::read_to_string(file).unwrap();
    std::fs::write(file, rules.replace("\"sky\"]", "\"sky\", \"local\"]")).unwrap();
    let hedge = Hedge::start(&config).await;
    fake.kill();
    let first = hedge.chat(&ask("auto", "Hello")).await;
    assert!(
        first.reason().contains("fallback: sky"),
        "{}",
        first.reason()
    );
    let second = hedge.chat(&ask("auto", "Hi there")).await;
    assert!(second.route().starts_with("local:"), "{}", second.route());
    assert_eq!(second.reason(), "default; offline");
    // Who names a model of the cloud's is not answered by another.
    let named = hedge.chat(&ask("sky/bench", "Hi")).await;
    assert_eq!(named.status, StatusCode::BAD_GATEWAY, "{}", named.text);
}
