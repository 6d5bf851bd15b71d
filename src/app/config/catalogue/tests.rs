//! Every provider's file, as a server sees its first request.

use domain::Backend;
use domain::{BackendError, Findings as Personal, Outbound, Trust, collect};
use providers::{Transport, Upstream};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use wire::openai::decode_request;

use crate::config::overlay;
use crate::config::upstreams::price_providers;
use crate::config::{Config, RawUpstream, Surroundings};

use super::*;

const KEY: &str = "sk-of-a-provider";
const REPLY: &str = r#"{"model":"m","choices":[{"message":{"content":"hello"}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
/// A request with most of what providers differ in.
const REQUEST: &str = r#"{
    "model": "x", "max_tokens": 7, "seed": 1, "store": false, "user": "u",
    "messages": [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "name": "ann", "content": "hi"},
        {"role": "assistant", "reasoning_content": "hm", "content": "hello"},
        {"role": "user", "content": "again"}
    ]
}"#;

/// What every dialect can say.
const PLAIN_REQUEST: &str =
    r#"{"model": "x", "max_tokens": 7, "messages": [{"role": "user", "content": "hi"}]}"#;

/// The one upstream of `text`, whose address is moved to `server`, path and all.
fn upstream(
    text: &str,
    environment: &[(&str, &str)],
    server: &Server,
) -> Result<Upstream, Vec<String>> {
    let environment: BTreeMap<String, String> = environment
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mut findings = Findings::default();
    let table = read::parse(text, &mut findings);
    let changes = overlay::from_environment(&environment, &table);
    let raw = read::read(table, &changes, &mut findings);
    let around = Surroundings {
        environment: &environment,
        read_file: &|_| Err(io::ErrorKind::NotFound.into()),
    };
    let config = Config::judge(&raw, &around, &mut findings);
    let Some(config) = config else {
        return Err(findings.faults.iter().map(ToString::to_string).collect());
    };
    let mut config = config.upstreams[0].clone();
    let (_, rest) = config.base_url.split_once("://").unwrap();
    let path = rest.find('/').map_or("", |at| &rest[at..]);
    config.base_url = format!("http://{}{path}", server.0.local_addr().unwrap());
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    let transport = Transport::through(client.build().unwrap());
    Upstream::new(config, transport).map_err(|error| vec![error.to_string()])
}

struct Server(TcpListener);

impl Server {
    async fn bind() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    /// Serves one request, and gives its head and its body.
    async fn answer(&self, body: &str) -> (String, Value) {
        let (mut socket, _) = self.0.accept().await.unwrap();
        let mut request = Vec::new();
        let (head, sent) = loop {
            assert_ne!(socket.read_buf(&mut request).await.unwrap(), 0, "cut");
            let text = String::from_utf8_lossy(&request).into_owned();
            let Some((head, sent)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let lower = head.to_ascii_lowercase();
            let (_, length) = lower.split_once("content-length: ").expect("a length");
            if sent.len() == length.lines().next().unwrap().parse::<usize>().unwrap() {
                break (lower, sent.to_owned());
            }
        };
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        socket.write_all(answer.as_bytes()).await.unwrap();
        (head, serde_json::from_str(&sent).unwrap())
    }
}

async fn chat(upstream: &Upstream, request: &str) -> Result<String, BackendError> {
    let request = decode_request(&request.to_owned().into()).unwrap();
    let found = Personal::default();
    let call = Outbound::seal("r".into(), "m1".into(), request, &found, Trust::Public);
    let reply = collect(upstream.chat(call).await?).await?;
    Ok(reply.choices[0].text())
}

/// Environment in which every provider's credentials are set.
fn environment(catalogue: &Catalogue) -> Vec<(String, String)> {
    let keys = catalogue
        .iter()
        .filter_map(|provider| provider.key_env.clone());
    let mut set: Vec<(String, String)> = keys.map(|name| (name, KEY.to_owned())).collect();
    for (name, value) in [
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "eu-west-1"),
    ] {
        set.push((name.to_owned(), value.to_owned()));
    }
    set
}

fn catalogue() -> Catalogue {
    let mut findings = Findings::default();
    let catalogue = Catalogue::load(None, &mut findings);
    assert_eq!(findings.faults, []);
    catalogue
}

#[test]
fn every_file_says_where_it_is_from() {
    let catalogue = catalogue();
    assert_eq!(catalogue.iter().count(), FILES.len());
    for provider in catalogue.iter() {
        let name = &provider.name;
        assert!(!provider.title.is_empty(), "{name}");
        assert!(provider.docs.starts_with("https://"), "{name}");
        let parts: Vec<&str> = provider.read.split('-').collect();
        let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        assert_eq!(lengths, [4, 2, 2], "{name}: {}", provider.read);
        let own = [&provider.base_url, &provider.base_url_example];
        for url in own.into_iter().flatten() {
            let url: reqwest::Url = url.parse().unwrap();
            let is_here = super::super::is_loopback(&url);
            assert!(is_here || url.scheme() == "https", "{name}: {url}");
            assert_eq!(provider.trust.is_some(), is_here, "{name}");
        }
    }
}

/// What a provider that speaks chat completions gets of [`REQUEST`].
struct Wanted {
    bound: &'static str,
    seed: &'static str,
    role: &'static str,
    thoughts: Option<&'static str>,
    has_name: bool,
    has_hints: bool,
}

/// As it came, but for the model.
const PLAIN: Wanted = Wanted {
    bound: "max_tokens",
    seed: "seed",
    role: "developer",
    thoughts: Some("reasoning_content"),
    has_name: true,
    has_hints: true,
};

fn wanted(provider: &str) -> Wanted {
    let newer = "max_completion_tokens";
    let (system, reasoning) = ("system", Some("reasoning"));
    match provider {
        "openai" | "azure" | "azure-dated" => Wanted {
            bound: newer,
            thoughts: None,
            ..PLAIN
        },
        "mistral" => Wanted {
            seed: "random_seed",
            role: system,
            thoughts: None,
            has_name: false,
            has_hints: false,
            ..PLAIN
        },
        "groq" => Wanted {
            bound: newer,
            thoughts: reasoning,
            has_name: false,
            ..PLAIN
        },
        "cerebras" => Wanted {
            bound: newer,
            thoughts: reasoning,
            role: system,
            ..PLAIN
        },
        "xai" => Wanted {
            bound: newer,
            role: system,
            ..PLAIN
        },
        "openrouter" | "vllm" => Wanted {
            thoughts: reasoning,
            ..PLAIN
        },
        "together" | "ollama" => Wanted {
            thoughts: reasoning,
            role: system,
            ..PLAIN
        },
        "deepseek" | "fireworks" | "lmstudio" => Wanted {
            role: system,
            ..PLAIN
        },
        "cohere" => Wanted {
            has_hints: false,
            ..PLAIN
        },
        "llama-server" => PLAIN,
        other => panic!("say here what {other} wants"),
    }
}

fn body(wanted: &Wanted) -> Value {
    let mut body = json!({
        "model": "m1",
        wanted.bound: 7,
        wanted.seed: 1,
        "messages": [
            {"role": wanted.role, "content": "be brief"},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "again"},
        ],
    });
    if wanted.has_name {
        body["messages"][1]["name"] = "ann".into();
    }
    if let Some(thoughts) = wanted.thoughts {
        body["messages"][2][thoughts] = "hm".into();
    }
    if wanted.has_hints {
        body["store"] = false.into();
        body["user"] = "u".into();
    }
    body
}

/// The first line, and what says who asks.
fn target(provider: &str) -> (&'static str, Option<&'static str>) {
    let bearer = Some("authorization: bearer sk-of-a-provider");
    match provider {
        "openai" | "mistral" | "xai" | "deepseek" | "together" | "cerebras" | "vllm"
        | "llama-server" | "ollama" | "lmstudio" => ("/v1/chat/completions", bearer),
        "groq" => ("/openai/v1/chat/completions", bearer),
        "openrouter" => ("/api/v1/chat/completions", bearer),
        "fireworks" => ("/inference/v1/chat/completions", bearer),
        "cohere" => ("/compatibility/v1/chat/completions", bearer),
        "azure" => (
            "/openai/v1/chat/completions",
            Some("api-key: sk-of-a-provider"),
        ),
        "azure-dated" => (
            "/openai/deployments/m1/chat/completions?api-version=2024-10-21",
            Some("api-key: sk-of-a-provider"),
        ),
        "openai-responses" => ("/v1/responses", bearer),
        "anthropic" => ("/v1/messages", Some("x-api-key: sk-of-a-provider")),
        "gemini" => (
            "/v1beta/models/m1:generatecontent",
            Some("x-goog-api-key: sk-of-a-provider"),
        ),
        "bedrock" => ("/model/m1/converse", None),
        other => panic!("say here where {other} is asked"),
    }
}

#[tokio::test]
async fn the_first_request_to_each_is_what_its_page_says() {
    let catalogue = catalogue();
    let environment = environment(&catalogue);
    let environment: Vec<(&str, &str)> = environment
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    for provider in catalogue.iter() {
        let name = provider.name.as_str();
        let word = provider.dialect.as_deref().unwrap();
        let own = provider.base_url_example.as_ref();
        let own = own.map_or(String::new(), |url| format!("base_url = '{url}'"));
        let text = format!("[[upstreams]]\nprovider = '{name}'\nmodels = ['m1']\n{own}");
        let server = Server::bind().await;
        let upstream = match upstream(&text, &environment, &server) {
            Ok(upstream) => upstream,
            Err(faults) => {
                assert!(wire::client(word).is_none(), "{name}: {faults:?}");
                assert!(
                    faults[0].starts_with("upstreams[0].dialect: "),
                    "{faults:?}"
                );
                continue;
            }
        };
        assert_eq!(upstream.card().name.as_str(), name);
        let asked = if word == "openai" {
            REQUEST
        } else {
            PLAIN_REQUEST
        };
        let ((head, sent), reply) = tokio::join!(server.answer(REPLY), chat(&upstream, asked));
        let (target, header) = target(name);
        assert!(
            head.starts_with(&format!("post {target} http/1.1\r\n")),
            "{name}: {head}"
        );
        match header {
            Some(header) => assert!(head.lines().any(|line| line == header), "{name}: {head}"),
            None => assert!(
                head.contains("\nauthorization: aws4-hmac-sha256 "),
                "{name}: {head}"
            ),
        }
        if word == "openai" {
            assert_eq!(reply.unwrap(), "hello", "{name}");
            assert_eq!(sent, body(&wanted(name)), "{name}");
        }
    }
}

#[tokio::test]
async fn a_provider_is_a_file_and_no_code() {
    let folder = tempfile::tempdir().unwrap();
    let file = "
        name = 'acme'
        docs = 'https://docs.acme.example/chat'
        base_url = 'https://api.acme.example/llm/v2'
        dialect = 'openai'
        auth = 'header'
        auth_header = 'x-acme-key'
        key_env = 'ACME_KEY'
        headers = { x-acme-app = 'hedge' }
        query = { flavour = 'plain' }
        [quirks]
        rename = { seed = 'dice' }
        refuse = ['logit_bias']
    ";
    fs::write(folder.path().join("acme.toml"), file).unwrap();
    let text = format!(
        "providers_dir = '{}'\n[[upstreams]]\nprovider = 'acme'\nmodels = ['m1']",
        folder.path().display()
    );
    let server = Server::bind().await;
    let upstream = upstream(&text, &[("ACME_KEY", KEY)], &server).unwrap();
    let ((head, sent), reply) = tokio::join!(server.answer(REPLY), chat(&upstream, REQUEST));
    assert_eq!(reply.unwrap(), "hello");
    assert!(
        head.starts_with("post /llm/v2/chat/completions?flavour=plain http/1.1\r\n"),
        "{head}"
    );
    for line in ["x-acme-key: sk-of-a-provider", "x-acme-app: hedge"] {
        assert!(head.lines().any(|had| had == line), "{head}");
    }
    assert_eq!(
        sent,
        body(&Wanted {
            seed: "dice",
            ..PLAIN
        })
    );
    let biased =
        r#"{"model":"x","logit_bias":{"5":1},"messages":[{"role":"user","content":"hi"}]}"#;
    let Err(BackendError::Declined { reason }) = chat(&upstream, biased).await else {
        panic!("it is not declined");
    };
    assert_eq!(reason.param.as_deref(), Some("logit_bias"));
}

#[tokio::test]
async fn what_an_upstream_says_wins_over_its_providers_file() {
    let text = "
        [[upstreams]]
        provider = 'groq'
        name = 'fast'
        base_url = 'https://proxy.example/groq'
        auth = 'header'
        auth_header = 'x-proxy-key'
        key = 'env:PROXY_KEY'
        models = ['m1']
        headers = { X-Team = 'a' }
        [upstreams.quirks]
        rename = {}
    ";
    let server = Server::bind().await;
    let upstream = upstream(text, &[("PROXY_KEY", "pk")], &server).unwrap();
    assert_eq!(upstream.card().name.as_str(), "fast");
    let ((head, sent), reply) = tokio::join!(server.answer(REPLY), chat(&upstream, REQUEST));
    assert_eq!(reply.unwrap(), "hello");
    assert!(
        head.starts_with("post /groq/chat/completions http/1.1\r\n"),
        "{head}"
    );
    assert!(head.lines().any(|line| line == "x-proxy-key: pk"), "{head}");
    assert!(!head.contains("authorization"), "{head}");
    let wanted = Wanted {
        bound: "max_tokens",
        ..wanted("groq")
    };
    assert_eq!(sent, body(&wanted));
}

fn faults(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let server = runtime.unwrap().block_on(Server::bind());
    upstream(text, environment, &server).expect_err("it is accepted")
}

#[test]
fn every_fault_is_named_with_its_path() {
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        (
            "provider = 'grok'",
            &[],
            &["upstreams[0].provider: `grok` is no provider; did you mean `groq`?"],
        ),
        (
            "provider = 'groq'",
            &[],
            &["upstreams[0].key: the environment has no GROQ_API_KEY"],
        ),
        (
            "provider = 'azure'\nkey = 'k'",
            &[],
            &[
                "upstreams[0].base_url: is required, such as https://RESOURCE.openai.azure.com/openai/v1",
            ],
        ),
        (
            "provider = 'azure'\nbase_url = 'https://r.example/openai/v1'\nentra = {}",
            &[],
            &[
                "upstreams[0].entra.client_secret: the environment has no AZURE_CLIENT_SECRET",
                "upstreams[0].entra.client_id: is required",
                "upstreams[0].entra.tenant: is required",
            ],
        ),
        (
            "name = 'a'\nbase_url = 'https://a.example'\nauth = 'aws'",
            &[("AWS_ACCESS_KEY_ID", "a")],
            &[
                "upstreams[0].aws.secret_key: the environment has no AWS_SECRET_ACCESS_KEY",
                "upstreams[0].aws.region: is required",
                "upstreams[0].aws.service: is required",
            ],
        ),
        (
            "name = 'a'\nbase_url = 'https://a.{region}.example'",
            &[],
            &["upstreams[0].base_url: names a region"],
        ),
        (
            "name = 'a'\nbase_url = 'https://a.example'\nauth = 'header'\nkey = 'k'",
            &[],
            &["upstreams[0].auth_header: is required"],
        ),
        (
            "name = 'a'\nbase_url = 'https://a.example'\nauth = 'bearer'",
            &[],
            &["upstreams[0].key: is required"],
        ),
        (
            "name = 'a'\nbase_url = 'https://a.example'\nauth = 'entra'\nentra = {client_id = 'c', client_secret = 's', scope = 's', token_url = 'http://far.example/token'}",
            &[],
            &["upstreams[0].entra.token_url: is plain HTTP"],
        ),
        (
            "name = 'a'\nbase_url = 'https://a.example'\nquirks = {renaem = {}}",
            &[],
            &["upstreams[0].quirks.renaem: unknown field `renaem`"],
        ),
    ];
    for (lines, environment, wanted) in cases {
        let text = format!("[[upstreams]]\nmodels = ['m1']\n{lines}");
        let found = faults(&text, environment);
        for wanted in *wanted {
            let is_said = found.iter().any(|fault| fault.starts_with(wanted));
            assert!(is_said, "{lines}: {wanted}: {found:#?}");
        }
        assert_eq!(found.len(), wanted.len(), "{lines}: {found:#?}");
    }
}

#[test]
fn faults_of_a_file_are_named_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write(
        "a.toml",
        "name = 'b'\nbase_url = 'https://a.example'\ndialect = 'pidgin'\nauth = 'header'",
    );
    write(
        "c.toml",
        "name = 'c'\nbse_url = 'https://c.example'\nauth = 'telepathy'",
    );
    write("d.toml", "name = [");
    write("e.toml", "name = 'e'");
    write("notes.txt", "no provider");
    let shown = folder.path().display();
    let found = faults(&format!("providers_dir = '{shown}'"), &[]);
    for wanted in [
        "a.toml: name: is `a`",
        "a.toml: dialect: `pidgin` is none of openai",
        "a.toml: auth_header: is required",
        "c.toml: bse_url: unknown field `bse_url`",
        "c.toml: auth: unknown variant `telepathy`",
        "d.toml: line 1: ",
        "e.toml: base_url: is required",
    ] {
        let wanted = format!("{shown}/{wanted}");
        let is_said = found.iter().any(|fault| fault.starts_with(&wanted));
        assert!(is_said, "{wanted}: {found:#?}");
    }
    assert_eq!(found.len(), 7, "{found:#?}");
    let found = faults("providers_dir = '/no/such'", &[]);
    assert_eq!(
        found,
        ["providers_dir: cannot read /no/such: entity not found"]
    );
}

#[test]
fn an_address_of_ones_own_is_trusted_as_it_says_itself() {
    let trust = |lines: &str| {
        let text = format!("[[upstreams]]\nprovider = 'ollama'\nmodels = ['m1']\n{lines}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let server = runtime.unwrap().block_on(Server::bind());
        upstream(&text, &[], &server).unwrap().card().trust
    };
    assert_eq!(trust(""), Trust::Tenant);
    assert_eq!(trust("base_url = 'https://far.example/v1'"), Trust::Public);
    let said = trust("base_url = 'https://far.example/v1'\ntrust = 'tenant'");
    assert_eq!(said, Trust::Tenant);
}

#[test]
fn an_upstream_charges_as_its_provider_does() {
    let catalogue = catalogue();
    let charges = |provider: &str, name: Option<&str>| {
        let upstream = RawUpstream {
            provider: Some(provider.to_owned()),
            name: name.map(str::to_owned),
            ..RawUpstream::default()
        };
        price_providers(&[upstream], &catalogue).pop_first()
    };
    for (provider, name, expected) in [
        ("groq", Some("fast"), ("fast", "groq")),
        ("openai-responses", None, ("openai-responses", "openai")),
    ] {
        let (backend, charged) = charges(provider, name).unwrap();
        assert_eq!((backend.as_str(), charged.as_str()), expected);
    }
    assert_eq!(charges("none-such", None), None);
}
