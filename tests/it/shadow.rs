//! Answers of this machine that are asked for again in the cloud, and what that costs.

use std::process::Command;

use http::StatusCode;
use loadtest::{Behaviour, FakeConfig, FakeUpstream};
use serde_json::{Value, json};

use crate::harness::{Hedge, ask, eventually, root, upstream, with};
use crate::records::{all_records, savings, under};

/// What this machine may answer goes there; the cloud is beside it.
const ROUTES: &str = "default = 'here'\n[outcomes.here]\ncandidates = ['local', 'cloud']\n\
    [outcomes.sealed]\ncandidates = ['local']\n\
    [[rules]]\nname = 'ours'\nwhen = { keywords = ['secret'] }\nthen = 'sealed'\n";

/// One that says the same to everybody.
fn says(text: &str) -> FakeUpstream {
    FakeUpstream::start(FakeConfig {
        key: Some("cloud-key".to_owned()),
        behaviour: Behaviour {
            text: Some(text.to_owned()),
            ..Behaviour::default()
        },
        ..FakeConfig::default()
    })
    .unwrap()
}

struct Scene {
    hedge: Hedge,
    cloud: FakeUpstream,
    _pool: FakeUpstream,
    _folder: tempfile::TempDir,
}

impl Scene {
    /// A pool that says `ours` and a cloud that says `theirs`; all that may be is asked again.
    async fn new(ours: &str, theirs: &str, shadow: &str, more: &str) -> Self {
        let (pool, cloud) = (says(ours), says(theirs));
        let folder = tempfile::tempdir().unwrap();
        let routes = folder.path().join("routes.toml");
        std::fs::write(&routes, ROUTES).unwrap();
        let config = format!(
            "[local]\nenabled = false\n[offline]\nenabled = false\n[routes]\nfile = '{}'
            [savings]\nreference_model = 'fake/bench'
            [savings.shadow]\npercent = 100.0\nmodel = 'fake/bench'\n{shadow}
            [organisation]\nlimits = [{{ count = 'cost', usd = 100, per = 'ever' }}]
            [[teams]]\nname = 'a'\nlimits = [{{ count = 'cost', usd = 50, per = 'ever' }}]
            [[keys]]\nname = 'one'\nteam = 'a'
            secret = 'sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed'
            [[keys]]\nname = 'two'\nteam = 'b'\nmodels = ['auto', 'local']
            secret = 'sha256:3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3'
            [[pools]]\nname = 'gpu'\nkind = 'vllm'\nendpoints = ['{}']\nmodels = ['large']
            key = 'env:FAKE_KEY'\n{}
            [[prices]]\nupstream = 'fake'\nmodels = ['bench']\ninput = 2.0\noutput = 30.0\n{more}",
            routes.display(),
            pool.base_url(),
            upstream(&cloud, ""),
        );
        Self {
            hedge: Hedge::start(&config).await,
            cloud,
            _pool: pool,
            _folder: folder,
        }
    }

    /// Has the pool answer, under a key's secret.
    async fn asks(&self, key: &str, body: &Value) {
        let id = format!("r-{}", body["messages"][0]["content"]);
        let id: String = id.chars().filter(char::is_ascii_alphanumeric).collect();
        let reply = self.hedge.send(under(key, &id, body)).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        assert!(reply.route().starts_with("local:gpu"), "{}", reply.route());
    }

    async fn counted(&self, result: &str, count: usize) {
        let line = format!("hedge_shadows_total{{result=\"{result}\"}} {count}\n");
        eventually(&line, async || self.hedge.metrics().await.contains(&line)).await;
    }

    async fn limit(&self, scope: &str) -> Value {
        let told = self.hedge.admin_get("/admin/v1/limits").await.json();
        let mut limits = told["limits"].as_array().unwrap().iter();
        limits.find(|it| it["scope"] == scope).unwrap().clone()
    }

    /// What the cloud was asked, as it came.
    fn leaked(&self) -> Vec<String> {
        let chats = self.cloud.seen().into_iter();
        let chats = chats.filter(|it| it.path.ends_with("/chat/completions"));
        chats.map(|it| it.body.to_string()).collect()
    }
}

fn short(text: &str) -> Value {
    with(ask("auto", text), json!({"max_tokens": 20}))
}

#[tokio::test]
async fn answers_that_agree_are_counted_and_what_they_cost_takes_from_what_was_saved() {
    let scene = Scene::new("It is Paris!", "it is paris", "usd_max = 1.0", "").await;
    for at in 0..5 {
        let body = short(&format!("question {at}"));
        // Streamed or whole.
        let body = with(body, json!({"stream": at % 2 == 0}));
        scene.asks("one", &body).await;
    }
    scene.counted("agrees", 5).await;
    assert_eq!(scene.leaked().len(), 5);
    // The same again comes from the cache, and has none.
    scene
        .hedge
        .send(under("one", "again", &short("question 0")))
        .await;
    crate::records::until_written(&scene.hedge, 11).await;

    let records = all_records(&scene.hedge).await;
    let shadows: Vec<_> = records
        .iter()
        .filter(|it| it["agreement"] == "agrees")
        .collect();
    assert_eq!(shadows.len(), 5);
    for shadow in &shadows {
        assert_eq!(shadow["shadow_of"], "gpu/large", "{shadow}");
        assert_eq!(shadow["similarity_permille"], 1000, "{shadow}");
        assert_eq!(
            (&shadow["team"], &shadow["key"]),
            (&json!("a"), &json!("one"))
        );
        assert_eq!(
            (&shadow["backend"], &shadow["model"]),
            (&json!("fake"), &json!("bench"))
        );
        let same = records
            .iter()
            .filter(|it| it["request_id"] == shadow["request_id"]);
        assert_eq!(same.count(), 2, "it has the id of its request");
    }
    let spent: i64 = shadows
        .iter()
        .map(|it| it["cost_microusd"].as_i64().unwrap())
        .sum();
    assert!(spent > 0);

    let (told, printed) = savings(&scene.hedge, &[]);
    let shadow = json!({"asked": 5, "agreed": 5, "differed": 0, "unclear": 0, "failed": 0,
        "spent_microusd": spent});
    assert_eq!(told["shadow"], shadow);
    assert_eq!(told["spent_microusd"], spent);
    assert_eq!(told["total"]["requests"], 6);
    let total = &told["total"];
    let elsewhere = total["counterfactual_microusd"].as_i64().unwrap();
    assert_eq!(total["saved_microusd"], elsewhere - spent);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let prices = json!({"prices": {"fake/bench": {"input": 2_000_000, "output": 30_000_000}},
        "aliases": {}, "reference": "fake/bench"});
    let agreed = Command::new("python3")
        .arg(root().join("tests/records/recompute.py"))
        .arg(scene.hedge.data_path("records/records.sqlite"))
        .arg(file("prices.json", prices.to_string().as_bytes()))
        .arg(file("savings.json", &printed))
        .output()
        .unwrap();
    assert!(
        agreed.status.success(),
        "{}",
        String::from_utf8_lossy(&agreed.stderr)
    );
    let (of_other, _) = savings(&scene.hedge, &["--team", "b"]);
    assert_eq!(of_other["shadow"]["asked"], 0);
    let admin = scene
        .hedge
        .admin_get("/admin/v1/savings?since=1h&team=a")
        .await;
    assert_eq!(admin.json()["shadow"], shadow);
    let words = scene
        .hedge
        .command("savings")
        .args(["--since", "1h"])
        .output()
        .unwrap();
    let words = String::from_utf8(words.stdout).unwrap();
    assert!(words.contains("100.0 % agree"), "{words}");

    // Of the organisation and of its own, and of no team's budget.
    for (scope, used) in [("shadow", spent), ("organisation", spent), ("team", 0)] {
        assert_eq!(scene.limit(scope).await["used"], used, "{scope}");
    }
    // The exchanges that callers had, and no more.
    let metrics = scene.hedge.metrics().await;
    assert!(
        !metrics.contains("hedge_exchanges_total{route=\"cloud\""),
        "{metrics}"
    );
    assert!(metrics.contains(&format!(
        "hedge_cost_microusd_total{{backend=\"fake\"}} {spent}\n"
    )));
}

#[tokio::test]
async fn a_budget_of_shadows_ends_them_and_outlives_a_restart() {
    // A thousandth of a dollar, and one takes less than 700 millionths at worst.
    let scene = Scene::new("Yes.", "Yes.", "usd_max = 0.001\nper = 'ever'", "").await;
    for at in 0..40 {
        scene.asks("one", &short(&format!("again {at}"))).await;
    }
    eventually("the budget has ended", async || {
        scene
            .hedge
            .metrics()
            .await
            .contains("hedge_shadows_total{result=\"spent\"}")
            && !scene
                .hedge
                .metrics()
                .await
                .contains("hedge_shadows_total{result=\"spent\"} 0\n")
    })
    .await;
    let used = scene.limit("shadow").await["used"].as_u64().unwrap();
    assert!(used > 0 && used <= 1_000, "{used}");
    eventually("it is written down", async || {
        let kept = std::fs::read_to_string(scene.hedge.data_path("quotas.json"));
        kept.is_ok_and(|it| it.contains("\"shadow\""))
    })
    .await;
    let Scene { hedge, .. } = scene;
    let hedge = hedge.restarted().await;
    let told = hedge.admin_get("/admin/v1/limits").await.json();
    let mut limits = told["limits"].as_array().unwrap().iter();
    let limit = limits.find(|it| it["scope"] == "shadow").unwrap();
    assert!(limit["used"].as_u64().unwrap() >= used, "{limit}");
}

#[tokio::test]
async fn what_may_not_leave_has_no_shadow() {
    let classes = "[privacy.classes]\nemail = 'device'\nphone = 'tenant'\n";
    let scene = Scene::new("Fine.", "Fine.", "usd_max = 1.0", classes).await;
    // For this machine alone, by its class.
    scene
        .asks("one", &short("write to first@private.example"))
        .await;
    // By its route.
    scene.asks("one", &short("this is secret number two")).await;
    // By what its key may ask for.
    scene
        .asks("two", &short("number three of a narrow key"))
        .await;
    // As its caller named who answers.
    let named = with(short("number four by name"), json!({"model": "local"}));
    scene.asks("one", &named).await;
    // By what its caller says of the cache.
    let mut request = under("one", "five", &short("number five unkept"));
    let no_store = http::HeaderValue::from_static("no-store");
    request.headers_mut().insert("cache-control", no_store);
    assert_eq!(scene.hedge.send(request).await.status, StatusCode::OK);
    // What may leave masked leaves masked, and comes after them.
    scene.asks("one", &short("call +49 30 901820 please")).await;
    scene.counted("agrees", 1).await;
    let leaked = scene.leaked();
    assert_eq!(leaked.len(), 1, "{leaked:?}");
    assert!(
        leaked[0].contains("PHONE_1") && !leaked[0].contains("901820"),
        "{leaked:?}"
    );
}

#[tokio::test]
async fn a_cloud_that_fails_is_no_disagreement_and_costs_nothing() {
    let scene = Scene::new("Fine.", "Fine.", "usd_max = 1.0", "").await;
    scene.asks("one", &short("a")).await;
    scene.counted("agrees", 1).await;
    let Scene { hedge, cloud, .. } = scene;
    cloud.kill();
    let reply = hedge.send(under("one", "late", &short("b"))).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    eventually("it failed", async || {
        let metrics = hedge.metrics().await;
        metrics.contains("hedge_shadows_total{result=\"failed\"} 1\n")
    })
    .await;
    crate::records::until_written(&hedge, 4).await;
    let (told, _) = savings(&hedge, &[]);
    assert_eq!(told["shadow"]["failed"], 1);
    let records = all_records(&hedge).await;
    let failed = records
        .iter()
        .find(|it| it["agreement"] == "failed")
        .unwrap();
    assert_eq!(failed["cost_microusd"], 0, "{failed}");
    assert_eq!(failed["outcome"], "broken_off", "{failed}");
}

#[cfg(feature = "llama")]
#[tokio::test]
async fn answers_that_say_other_things_differ() {
    let theirs = "A banana is a long yellow fruit that grows in large bunches in the tropics, and \
        it is eaten raw when it is ripe.";
    let ours = "Paris is the capital and the largest city of France; it lies on the river Seine, \
        and some two million people live there.";
    let scene = Scene::new(ours, theirs, "usd_max = 1.0", "[cache]\nsemantic = true\n").await;
    // The encoder may take longer to load than the node to be ready: until then it is unclear.
    let mut at = 0;
    eventually("the encoder compares", async || {
        at += 1;
        let body = with(
            short(&format!("what is it {at}")),
            json!({"max_tokens": 200}),
        );
        scene.asks("one", &body).await;
        let metrics = scene.hedge.metrics().await;
        !metrics.contains("hedge_shadows_total{result=\"differs\"} 0\n")
    })
    .await;
    eventually("it is written", async || {
        let (told, _) = savings(&scene.hedge, &[]);
        told["shadow"]["differed"].as_i64() >= Some(1)
    })
    .await;
}
