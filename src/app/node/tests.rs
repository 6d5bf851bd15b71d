use std::collections::BTreeMap;

use depot::gguf::{GgufShape, GgufSummary};
use domain::{BackendCard, Tier};
use engine::{EngineConfig, MemoryNeed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::*;
use crate::config::{Findings, RawConfig, Stay, Surroundings};
use crate::local::{Absent, Home, LocalModel};
use crate::sealed::unaudited;

const REPLY: &str = r#"{"id":"r","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"from afar"},"finish_reason":"stop"}],"usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6}}"#;

const BODY: &str =
    r#"{"model":"auto","temperature":0,"messages":[{"role":"user","content":"hi"}]}"#;

/// An upstream that gives the same answer to everyone, once per connection.
async fn upstream(tasks: &mut TaskSet) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn("upstream", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.ends_with(b"}") {
                let count = stream.read(&mut buffer).await.unwrap();
                request.extend_from_slice(&buffer[..count]);
            }
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
                 connection: close\r\n\r\n",
                REPLY.len()
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(REPLY.as_bytes()).await.unwrap();
        }
    });
    address
}

fn judged(toml: &str) -> Result<Config, ConfigFaults> {
    let raw: RawConfig = toml::from_str(toml).unwrap();
    let mut findings = Findings::default();
    let around = Surroundings {
        environment: &BTreeMap::new(),
        read_file: &|_| Err(std::io::ErrorKind::NotFound.into()),
    };
    let config = Config::judge(&raw, &around, &mut findings);
    config.ok_or(ConfigFaults(findings.faults))
}

fn configuration(upstream: SocketAddr, more: &str) -> Result<Config, ConfigFaults> {
    judged(&format!(
        "listen = '127.0.0.1:0'\n{more}\n[admin]\nlisten = '127.0.0.1:0'\n[local]\nenabled = false\n\
         [[upstreams]]\nname = 'fake'\nbase_url = 'http://{upstream}/v1'\nmodels = ['m']"
    ))
}

/// What a test holds while the node runs.
struct Bench {
    client: reqwest::Client,
    addresses: Addresses,
    words: mpsc::Sender<Word>,
}

impl Bench {
    fn clients(&self) -> SocketAddr {
        self.addresses.clients.unwrap()
    }

    async fn get(&self, address: SocketAddr, path: &str) -> String {
        let url = format!("http://{address}{path}");
        self.client
            .get(url)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    }

    async fn models(&self) -> String {
        self.get(self.clients(), "/v1/models").await
    }

    /// Where the same question, asked again each time, is answered.
    async fn route(&self) -> String {
        let request = self
            .client
            .post(format!("http://{}/v1/chat/completions", self.clients()))
            .header("content-type", "application/json")
            .body(BODY);
        let reply = request.send().await.unwrap();
        let route = reply.headers()["x-hedge-route"]
            .to_str()
            .unwrap()
            .to_owned();
        // The reply is kept once it was read to its end.
        assert!(reply.text().await.unwrap().contains("from afar"));
        route
    }

    /// The status and text of an answer by `model`.
    async fn ask(&self, model: &str) -> (u16, String) {
        let url = format!("http://{}/v1/chat/completions", self.clients());
        let request = self
            .client
            .post(url)
            .header("content-type", "application/json");
        let reply = request
            .body(BODY.replace("auto", model))
            .send()
            .await
            .unwrap();
        (reply.status().as_u16(), reply.text().await.unwrap())
    }

    /// Returns once a reload is through: the channel holds one word, and the node hears the next one
    /// only after it.
    async fn reload(&self) {
        for _ in 0..3 {
            self.words.send(Word::Reload).await.unwrap();
        }
    }
}

/// Runs `script` against a node that reads `later` when told to reload, then stops the node.
async fn with_node(first: &str, later: &str, script: impl AsyncFnOnce(&Bench)) -> Bench {
    let mut tasks = TaskSet::default();
    let upstream = upstream(&mut tasks).await;
    let http = crate::client::build().unwrap();
    let config = configuration(upstream, first).unwrap();
    let node = Node::start(&config, &located(None, &[]), Vec::new(), http.transport())
        .await
        .unwrap();
    let (words, mut heard) = mpsc::channel(1);
    let bench = Bench {
        client: http.client,
        addresses: node.addresses,
        words,
    };
    let next = async || heard.recv().await.unwrap_or(Word::Stop);
    let running = node.run(next, || configuration(upstream, later));
    let playing = async {
        script(&bench).await;
        bench.words.send(Word::Stop).await.unwrap();
    };
    let (ended, ()) = tokio::join!(running, playing);
    ended.unwrap();
    bench
}

#[tokio::test]
async fn a_node_answers_counts_and_ends_in_order() {
    let ask = |bench: &Bench| {
        let url = format!("http://{}/v1/chat/completions", bench.clients());
        let request = bench
            .client
            .post(url)
            .header("content-type", "application/json");
        request.body(BODY).send()
    };
    let bench = with_node("", "", async |bench| {
        let reply = ask(bench).await.unwrap();
        assert_eq!(reply.headers()["x-hedge-route"], "cloud:fake");
        assert!(reply.text().await.unwrap().contains("from afar"));
        let metrics = bench.get(bench.addresses.admin.unwrap(), "/metrics").await;
        let state = r#"hedge_backend_state{backend="fake",state="ready"} 1"#;
        assert!(metrics.contains("hedge_ready 1"), "{metrics}");
        assert!(metrics.contains(state), "{metrics}");
    })
    .await;
    assert!(ask(&bench).await.unwrap_err().is_connect());
}

#[tokio::test]
async fn a_reload_takes_all_or_nothing() {
    with_node("", "[aliases]\nquick = 'fake/m'", async |bench| {
        assert!(!bench.models().await.contains("quick"));
        bench.reload().await;
        assert!(bench.models().await.contains("quick"));
    })
    .await;
    let (first, later) = (
        "[aliases]\nquick = 'fake/m'",
        "[aliases]\nnew = 'nowhere/m'",
    );
    with_node(first, later, async |bench| {
        bench.reload().await;
        let models = bench.models().await;
        assert!(
            models.contains("quick") && !models.contains("new"),
            "{models}"
        );
    })
    .await;
}

/// Seen: after a reload, replies made under the old rules were still served from the cache.
#[tokio::test]
async fn a_reload_forgets_what_was_cached() {
    with_node("", "", async |bench| {
        assert_eq!(bench.route().await, "cloud:fake");
        assert_eq!(bench.route().await, "cache:exact");
        bench.reload().await;
        assert_eq!(bench.route().await, "cloud:fake");
    })
    .await;
}

/// A model whose file is not there.
fn model(home: Home) -> LocalModel {
    LocalModel {
        engine: EngineConfig::new("/no/such/model.gguf", "absent"),
        summary: GgufSummary {
            version: 3,
            architecture: "llama".into(),
            name: None,
            licence: None,
            context_tokens: Some(64),
            vocabulary_count: 1,
            tensor_count: 1,
            parameter_count: 1,
            file_type: None,
            pooling: None,
            chat_template: Some("{{ messages }}".into()),
            bytes: 1,
            shape: GgufShape::default(),
        },
        is_bundled: false,
        home,
        stay: Stay {
            is_loaded_at_start: true,
            keep_alive: None,
            warms_up: false,
        },
        need: MemoryNeed {
            weights: MIB,
            ..MemoryNeed::default()
        },
    }
}

const MIB: u64 = 1024 * 1024;

fn located(default: Option<LocalModel>, further: &[LocalModel]) -> Located {
    Located {
        default: default.ok_or(Absent::Off),
        further: further.to_vec(),
        budget: 64 * MIB,
        load_wait: Duration::from_secs(30),
    }
}

/// Loaded when asked for, by a child that dies of it.
fn on_demand(name: &str) -> LocalModel {
    let mut model = model(Home::Process(dies()));
    model.engine.name = name.to_owned();
    model.stay = Stay {
        is_loaded_at_start: false,
        keep_alive: Some(Duration::from_secs(300)),
        warms_up: true,
    };
    model
}

fn dies() -> engine::Program {
    engine::Program {
        path: "/bin/sh".into(),
        args: vec!["-c".into(), "kill -ABRT $$".into()],
        environment: Vec::new(),
    }
}

#[tokio::test]
async fn a_model_that_does_not_load_takes_the_node_down() {
    let model = model(Home::Thread);
    let config = judged("listen = '127.0.0.1:0'\n[admin]\nlisten = '127.0.0.1:0'").unwrap();
    let http = crate::client::build().unwrap();
    let node = Node::start(
        &config,
        &located(Some(model), &[]),
        Vec::new(),
        http.transport(),
    )
    .await
    .unwrap();
    let ended = node
        .run(std::future::pending::<Word>, || unreachable!())
        .await;
    let error = ended.unwrap_err().to_string();
    assert!(error.contains("could not be loaded"), "{error}");
}

/// Ends in order also while the model is down, and says why it is.
#[tokio::test]
async fn a_model_that_brings_its_process_down_does_not_bring_down_the_node() {
    let config = judged("listen = '127.0.0.1:0'\n[admin]\nlisten = '127.0.0.1:0'").unwrap();
    let http = crate::client::build().unwrap();
    let model = model(Home::Process(dies()));
    let node = Node::start(
        &config,
        &located(Some(model), &[]),
        Vec::new(),
        http.transport(),
    )
    .await
    .unwrap();
    let (words, mut heard) = mpsc::channel(1);
    let bench = Bench {
        client: http.client,
        addresses: node.addresses,
        words,
    };
    let next = async || heard.recv().await.unwrap_or(Word::Stop);
    let running = node.run(next, || unreachable!());
    let playing = async {
        let ready = loop {
            let ready = bench.get(bench.clients(), "/readyz").await;
            if !ready.contains("starting") {
                break ready;
            }
        };
        assert!(ready.contains("quarantined"), "{ready}");
        let alive = bench.get(bench.clients(), "/healthz").await;
        assert!(alive.contains("alive"), "{alive}");
        bench.words.send(Word::Stop).await.unwrap();
    };
    let (ended, ()) = tokio::join!(running, playing);
    ended.unwrap();
}

/// Nothing is loaded before somebody asks; who asks for what cannot be loaded is told so or answered by
/// somebody else, and the operator sees why.
#[tokio::test]
async fn a_model_on_demand_that_dies_costs_its_request_and_nothing_else() {
    let mut tasks = TaskSet::default();
    let upstream = upstream(&mut tasks).await;
    let config = configuration(upstream, "[aliases]\neither = ['brittle', 'fake/m']").unwrap();
    let http = crate::client::build().unwrap();
    let mut huge = on_demand("huge");
    huge.need.weights = 65 * MIB;
    let models = located(None, &[on_demand("brittle"), huge]);
    let node = Node::start(&config, &models, Vec::new(), http.transport())
        .await
        .unwrap();
    let (words, mut heard) = mpsc::channel(1);
    let bench = Bench {
        client: http.client,
        addresses: node.addresses,
        words,
    };
    let next = async || heard.recv().await.unwrap_or(Word::Stop);
    let running = node.run(next, || unreachable!());
    let playing = async {
        let admin = bench.addresses.admin.unwrap();
        let view = async || {
            let text = bench.get(admin, "/admin/v1/models").await;
            serde_json::from_str::<api::ModelsView>(&text)
                .unwrap()
                .models
        };
        let before = view().await;
        assert_eq!(before[0].state, api::ModelState::Unloaded);
        assert_eq!(before[1].state, api::ModelState::Down);
        let reason = before[1].reason.clone().unwrap();
        assert!(reason.contains("needs 65 MiB"), "{reason}");
        // A model that waits to be asked for is no obstacle to being ready.
        let ready = bench.get(bench.clients(), "/readyz").await;
        assert!(ready.contains(r#""status":"ready""#), "{ready}");
        assert!(bench.models().await.contains("brittle"));

        let (status, text) = bench.ask("huge").await;
        assert_eq!(status, 503, "{text}");
        let (status, text) = bench.ask("either").await;
        assert!(status == 200 && text.contains("from afar"), "{text}");
        let after = view().await;
        assert_eq!(
            (after[0].state, after[0].load_failures),
            (api::ModelState::Down, 1)
        );
        let reason = after[0].reason.clone().unwrap();
        assert!(reason.contains("SIGABRT"), "{reason}");
        let metrics = bench.get(admin, "/metrics").await;
        for line in [
            r#"hedge_model_state{model="brittle",state="down"} 1"#,
            r#"hedge_model_loads_total{model="brittle",kind="failed"} 1"#,
        ] {
            assert!(metrics.contains(line), "{line}\n{metrics}");
        }
        let elsewhere = bench.get(bench.clients(), "/admin/v1/models").await;
        assert!(elsewhere.contains("admin listener"), "{elsewhere}");
        bench.words.send(Word::Stop).await.unwrap();
    };
    let (ended, ()) = tokio::join!(running, playing);
    ended.unwrap();
}

#[test]
fn models_for_the_start_must_fit_and_others_may_be_swapped() {
    let mut demand = on_demand("b");
    demand.need.weights = 60 * MIB;
    let fits = located(Some(model(Home::Thread)), std::slice::from_ref(&demand));
    assert!(fits.check_room().is_ok());
    demand.stay.is_loaded_at_start = true;
    demand.need.weights = 64 * MIB;
    let fault = located(Some(model(Home::Thread)), &[demand]).check_room();
    assert_eq!(
        fault.unwrap_err().to_string(),
        "the models that are loaded at the start do not fit: b: it needs 64 MiB, \
         local.memory_bytes_max is 64 MiB and 1 MiB of it is in use: absent 1 MiB"
    );
}

#[tokio::test]
async fn an_address_in_use_is_said_plainly() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let config = judged(&format!("listen = '{address}'")).unwrap();
    let http = crate::client::build().unwrap();
    let error = Node::start(&config, &located(None, &[]), Vec::new(), http.transport())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("another hedge"), "{error}");
}

#[test]
fn a_reload_keeps_the_pools_that_are_as_before() {
    let http = crate::client::build().unwrap();
    let assembly = |attempts_max| {
        let config = judged(&format!(
            "[local]\nenabled = false\n[[pools]]\nname = 'same'\nkind = 'vllm'\nmodels = ['m']\n\
             endpoints = ['http://127.0.0.1:1/v1']\n[[pools]]\nname = 'other'\nkind = 'ollama'\n\
             models = ['m']\nendpoints = ['http://127.0.0.1:2/v1']\nattempts_max = {attempts_max}"
        ));
        Assembly::build(&config.unwrap(), &[], &http.transport(), &unaudited()).unwrap()
    };
    let before = assembly(1);
    let mut after = assembly(2);
    after.keep_pools(&before);
    let is_kept = |at: usize| Arc::ptr_eq(&before.pools()[at], &after.pools()[at]);
    assert!(is_kept(0) && !is_kept(1));
}

/// With an upstream beyond this machine that is not sealed, and more of a file.
fn unsealed(local: &[BackendCard], more: &str) -> Result<Vec<String>, Vec<String>> {
    let http = crate::client::build().unwrap();
    let config = judged(&format!(
        "{more}\n[privacy]\nrequire_sealed = true\n[[upstreams]]\nname = 'open'\n\
         base_url = 'https://a.example/v1'\nmodels = ['m']\n"
    ));
    match Assembly::build(&config.unwrap(), local, &http.transport(), &unaudited()) {
        Ok(assembly) => Ok(assembly
            .warnings()
            .iter()
            .map(ToString::to_string)
            .collect()),
        Err(faults) => Err(faults.0.iter().map(ToString::to_string).collect()),
    }
}

#[test]
fn an_upstream_that_is_not_sealed_is_no_fault_where_others_are_left_but_said() {
    let here = [located(None, &[]).cards(), vec![engine_card()]].concat();
    assert_eq!(
        unsealed(&here, "aliases = { smart = ['open/m', 'local'] }"),
        Ok(vec![
            "upstreams[0]: `open` is never asked: it is not sealed, and privacy.require_sealed is set"
                .to_owned()
        ])
    );
}

#[test]
fn nobody_left_and_names_of_what_may_not_be_asked_are_faults() {
    let nowhere = unsealed(
        &[],
        "local = { enabled = false }\naliases = { a = 'open/m' }",
    )
    .unwrap_err();
    let paths: Vec<&str> = nowhere
        .iter()
        .filter_map(|it| it.split(": ").next())
        .collect();
    assert_eq!(paths, ["aliases.a", "default", "default"], "{nowhere:?}");
    assert!(nowhere[0].contains("`open/m`"), "{nowhere:?}");
    assert!(
        nowhere[1].starts_with("default: outcomes.cloud.candidates: "),
        "{nowhere:?}"
    );
}

#[test]
fn an_upstream_elsewhere_cannot_pass_for_this_machine() {
    let device = "[[upstreams]]\nname = 'b'\nbase_url = 'https://b.example/v1'\nmodels = ['m']\n\
                  trust = 'device'";
    let found = unsealed(&[engine_card()], device).unwrap_err();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("upstreams[0].trust: "), "{found:?}");
    let near = device.replace("https://b.example", "http://127.0.0.1:1");
    assert_eq!(unsealed(&[engine_card()], &near).unwrap().len(), 1);
}

fn engine_card() -> BackendCard {
    BackendCard {
        name: "local".into(),
        tier: Tier::Engine,
        trust: domain::Trust::Device,
        is_sealed: false,
        models: vec![domain::ModelCard {
            name: "tiny".into(),
            context_tokens_max: None,
            abilities: domain::Abilities::all(),
        }],
    }
}
