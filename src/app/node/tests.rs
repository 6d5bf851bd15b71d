use std::collections::BTreeMap;

use depot::gguf::GgufSummary;
use engine::EngineConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::*;
use crate::config::{Findings, RawConfig, Surroundings};

const REPLY: &str = r#"{"id":"r","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"from afar"},"finish_reason":"stop"}],"usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6}}"#;

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

struct Bench {
    client: reqwest::Client,
    addresses: Addresses,
    words: mpsc::Sender<Word>,
    node: tokio::task::JoinHandle<anyhow::Result<()>>,
    _tasks: TaskSet,
}

impl Bench {
    /// A node that reads `later` when told to reload.
    async fn start(first: &str, later: &'static str) -> Self {
        let mut tasks = TaskSet::default();
        let upstream = upstream(&mut tasks).await;
        let client = crate::client::build().unwrap().client;
        let config = configuration(upstream, first).unwrap();
        let node = Node::start(&config, None, client.clone()).await.unwrap();
        let addresses = node.addresses;
        let (words, mut heard) = mpsc::channel(1);
        let node = spawn(async move {
            node.run(
                async || heard.recv().await.unwrap_or(Word::Stop),
                move || configuration(upstream, later),
            )
            .await
        });
        Self {
            client,
            addresses,
            words,
            node,
            _tasks: tasks,
        }
    }

    async fn get(&self, path: &str) -> String {
        let url = format!("http://{}{path}", self.addresses.clients);
        self.client.get(url).send().await.unwrap().text().await.unwrap()
    }
}

#[expect(clippy::disallowed_methods, reason = "the test is its own task set")]
fn spawn<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    tokio::spawn(future)
}

#[tokio::test]
async fn a_node_answers_counts_and_ends_in_order() {
    let bench = Bench::start("", "").await;
    let url = format!("http://{}/v1/chat/completions", bench.addresses.clients);
    let body = r#"{"model":"auto","messages":[{"role":"user","content":"hi"}]}"#;
    let reply = bench
        .client
        .post(url.clone())
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(reply.headers()["x-hedge-route"], "cloud:fake");
    assert!(reply.text().await.unwrap().contains("from afar"));

    let admin = bench.addresses.admin.unwrap();
    let metrics = bench.client.get(format!("http://{admin}/metrics"));
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("hedge_ready 1"), "{metrics}");
    assert!(metrics.contains(r#"hedge_backend_state{backend="fake",state="ready"} 1"#));

    bench.words.send(Word::Stop).await.unwrap();
    bench.node.await.unwrap().unwrap();
    let refused = bench.client.post(url).body(body).send().await.unwrap_err();
    assert!(refused.is_connect());
}

#[tokio::test]
async fn a_reload_takes_all_or_nothing() {
    let bench = Bench::start("", "[aliases]\nquick = 'fake/m'").await;
    assert!(!bench.get("/v1/models").await.contains("quick"));
    bench.words.send(Word::Reload).await.unwrap();
    // Heard only once the reload is through: the channel holds one word.
    bench.words.send(Word::Reload).await.unwrap();
    bench.words.send(Word::Reload).await.unwrap();
    assert!(bench.get("/v1/models").await.contains("quick"));

    let bench = Bench::start("[aliases]\nquick = 'fake/m'", "[aliases]\nnew = 'nowhere/m'").await;
    for _ in 0..3 {
        bench.words.send(Word::Reload).await.unwrap();
    }
    let models = bench.get("/v1/models").await;
    assert!(models.contains("quick") && !models.contains("new"), "{models}");
}

#[tokio::test]
async fn a_model_that_does_not_load_takes_the_node_down() {
    let model = LocalModel {
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
            chat_template: Some("{{ messages }}".into()),
            bytes: 1,
        },
        is_bundled: false,
    };
    let config = judged("listen = '127.0.0.1:0'\n[admin]\nlisten = '127.0.0.1:0'").unwrap();
    let client = crate::client::build().unwrap().client;
    let node = Node::start(&config, Some(model), client).await.unwrap();
    let ended = node.run(std::future::pending::<Word>, || unreachable!()).await;
    let error = ended.unwrap_err().to_string();
    assert!(error.contains("could not be loaded"), "{error}");
}

#[tokio::test]
async fn an_address_in_use_is_said_plainly() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let config = judged(&format!("listen = '{address}'")).unwrap();
    let client = crate::client::build().unwrap().client;
    let error = Node::start(&config, None, client).await.unwrap_err();
    assert!(error.to_string().contains("another hedge"), "{error}");
}
