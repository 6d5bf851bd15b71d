//! What a request's head and body must look like before anyone acts on them.

use std::time::Duration;

use api::{BodyLimits, IngressConfig};

use crate::client::{Client, HELLO, ask, chat, get};
use crate::node::{Recipe, node};

/// Sends a request and compares status and error code.
async fn check(address: std::net::SocketAddr, request: String, status: u16, code: &str) {
    let raw = ask(address, &request).await;
    let shown: String = request.chars().take(120).collect();
    assert_eq!(raw.status, status, "{shown}\n{}", raw.text());
    assert_eq!(raw.error("code"), code, "{shown}");
    assert!(raw.header("x-request-id").is_some(), "{shown}");
    assert!(!raw.error("message").is_empty(), "{shown}");
}

fn models(lines: &str) -> String {
    format!("GET /v1/models HTTP/1.1\r\n{lines}\r\n")
}

#[tokio::test]
async fn only_hosts_that_are_served_get_in() {
    let node = node().await;
    let port = node.client.port();
    let own = format!("127.0.0.1:{port}");
    for host in [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1",
        "[::1]",
        "[::1]:8787",
        &own,
    ] {
        let raw = ask(node.client, models(&format!("host: {host}\r\n"))).await;
        assert_eq!(raw.status, 200, "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:8787",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "localhost@evil.example",
        "evil.example/localhost",
        "",
        "[::1",
        "localhost:x",
    ] {
        check(
            node.client,
            models(&format!("host: {host}\r\n")),
            403,
            "forbidden",
        )
        .await;
    }
    check(node.client, models(""), 400, "malformed_head").await;
    let two = "host: localhost\r\nhost: localhost\r\n";
    check(node.client, models(two), 400, "malformed_head").await;
    let absolute = "GET http://evil.example/v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n";
    check(node.client, absolute.to_owned(), 403, "forbidden").await;
}

#[tokio::test]
async fn configured_hosts_are_served_by_name_and_port() {
    let ingress = IngressConfig {
        hosts: vec!["edge.example".into(), "hub.example:99".into()],
        ..IngressConfig::default()
    };
    let node = Recipe {
        ingress,
        ..Recipe::default()
    }
    .start()
    .await;
    for (host, status) in [
        ("edge.example", 200),
        ("Edge.Example:7", 200),
        ("hub.example:99", 200),
        ("hub.example:98", 403),
        ("hub.example", 403),
        ("localhost", 200),
    ] {
        let raw = ask(node.client, models(&format!("host: {host}\r\n"))).await;
        assert_eq!(raw.status, status, "{host}");
    }
}

#[tokio::test]
async fn two_keys_are_no_key() {
    let node = node().await;
    let two = "authorization: Bearer a\r\nauthorization: Bearer b\r\n";
    check(node.client, chat(two, HELLO), 400, "malformed_head").await;
}

#[tokio::test]
async fn a_web_page_calls_only_when_invited() {
    let node = node().await;
    for origin in ["https://evil.example", "null", "http://localhost:3000"] {
        let request = chat(&format!("origin: {origin}\r\n"), HELLO);
        check(node.client, request, 403, "forbidden").await;
    }
    let own = ask(node.client, chat("origin: http://localhost\r\n", HELLO)).await;
    assert_eq!(own.status, 200);
    assert_eq!(own.header("access-control-allow-origin"), None);

    let ingress = IngressConfig {
        origins: vec!["https://App.example/".into()],
        ..IngressConfig::default()
    };
    let node = Recipe {
        ingress,
        ..Recipe::default()
    }
    .start()
    .await;
    let invited = ask(node.client, chat("origin: https://app.example\r\n", HELLO)).await;
    assert_eq!(invited.status, 200);
    assert_eq!(
        invited.header("access-control-allow-origin"),
        Some("https://app.example")
    );
    let refused = ask(node.client, chat("origin: https://app.example\r\n", "{")).await;
    assert_eq!(refused.status, 400);
    assert_eq!(
        refused.header("access-control-allow-origin"),
        Some("https://app.example")
    );
    let preflight = "OPTIONS /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n\
        origin: https://app.example\r\naccess-control-request-method: POST\r\n\
        access-control-request-headers: authorization, x-stainless-os\r\n\r\n";
    let mut client = Client::connect(node.client).await;
    client.send(preflight).await;
    let preflight = client.head().await;
    assert_eq!(preflight.status, 204);
    let granted = preflight.header("access-control-allow-headers");
    assert_eq!(granted, Some("authorization, x-stainless-os"));
    // Responses that are kept can be deleted, which a page could not.
    let methods = preflight.header("access-control-allow-methods");
    assert_eq!(methods, Some("GET, HEAD, POST, DELETE"));
    check(
        node.client,
        chat("origin: https://evil.example\r\n", HELLO),
        403,
        "forbidden",
    )
    .await;
}

#[tokio::test]
async fn keys_are_asked_for_before_the_body_is_read() {
    let node = Recipe {
        key: Some("sk-good"),
        ..Recipe::default()
    }
    .start()
    .await;
    // Nothing of the declared body is ever sent.
    for lines in [
        "",
        "authorization: Bearer sk-bad\r\n",
        "authorization: Basic sk-good\r\n",
    ] {
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n{lines}\
             content-type: application/json\r\ncontent-length: 100\r\n\r\n"
        );
        let raw = ask(node.client, request).await;
        assert_eq!(
            (raw.status, raw.error("code").as_str()),
            (401, "invalid_api_key"),
            "{lines}"
        );
        assert_eq!(raw.header("www-authenticate"), Some("Bearer"));
    }
    let good = ask(
        node.client,
        chat("authorization: Bearer sk-good\r\n", HELLO),
    )
    .await;
    assert_eq!(good.status, 200);
    assert_eq!(get(node.client, "/v1/models").await.status, 401);
    assert_eq!(get(node.client, "/v1/models/local").await.status, 401);
    assert_eq!(get(node.client, "/healthz").await.status, 200);
}

#[tokio::test]
async fn only_plain_json_is_a_chat() {
    let node = node().await;
    let typed = |lines: &str| {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n{lines}\
             content-length: {}\r\n\r\n{HELLO}",
            HELLO.len()
        )
    };
    for lines in [
        "",
        "content-type: text/plain\r\n",
        "content-type: application/jsonp\r\n",
        "content-type: application/json\r\ncontent-encoding: gzip\r\n",
    ] {
        check(node.client, typed(lines), 415, "unsupported_media_type").await;
    }
    for lines in [
        "content-type: application/json\r\n",
        "content-type: Application/JSON; charset=utf-8\r\n",
        "content-type: application/json\r\ncontent-encoding: identity\r\n",
    ] {
        assert_eq!(ask(node.client, typed(lines)).await.status, 200, "{lines}");
    }
}

#[tokio::test]
async fn a_declared_giant_is_refused_unread_and_the_refusal_arrives() {
    let node = node().await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n\
        content-type: application/json\r\ncontent-length: 20000000\r\n\r\n";
    // Without one byte of the body.
    let raw = ask(node.client, head).await;
    assert_eq!(
        (raw.status, raw.error("code").as_str()),
        (413, "request_too_large")
    );
    assert_eq!(raw.header("connection"), Some("close"));
    // And to a client that sends all of it before it reads.
    let mut client = Client::connect(node.client).await;
    client.send(head).await;
    client.send(vec![b' '; 20_000_000]).await;
    assert_eq!(client.answer().await.status, 413);
    assert!(client.ends().await);
}

#[tokio::test]
async fn a_giant_in_chunks_is_refused_where_it_crosses_the_line() {
    let ingress = IngressConfig {
        body: BodyLimits {
            bytes_max: 1000,
            ..BodyLimits::default()
        },
        ..IngressConfig::default()
    };
    let node = Recipe {
        ingress,
        ..Recipe::default()
    }
    .start()
    .await;
    let mut client = Client::connect(node.client).await;
    client
        .send(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n\
             content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .await;
    for _ in 0..3 {
        client
            .send(format!("190\r\n{}\r\n", " ".repeat(0x190)))
            .await;
    }
    assert_eq!(client.answer().await.status, 413);
    assert!(client.ends().await);
}

#[tokio::test]
async fn chunked_bodies_and_expect_continue_work() {
    let node = node().await;
    let mut client = Client::connect(node.client).await;
    client
        .send(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n\
             content-type: application/json\r\ntransfer-encoding: chunked\r\n\
             expect: 100-continue\r\n\r\n",
        )
        .await;
    assert_eq!(
        client.until("\r\n\r\n").await,
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    let (first, second) = HELLO.split_at(10);
    for part in [first, second, ""] {
        client.send(format!("{:x}\r\n{part}\r\n", part.len())).await;
    }
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn header_bombs_are_431() {
    let node = node().await;
    let count = |count: usize| {
        let lines: String = (0..count).map(|at| format!("x-{at}: 1\r\n")).collect();
        format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n")
    };
    assert_eq!(ask(node.client, count(99)).await.status, 200);
    assert_eq!(ask(node.client, count(100)).await.status, 431);
    let size = |bytes: usize| {
        format!(
            "GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
            "a".repeat(bytes)
        )
    };
    assert_eq!(ask(node.client, size(30 * 1024)).await.status, 200);
    assert_eq!(ask(node.client, size(40 * 1024)).await.status, 431);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_never_ends_is_hung_up_on() {
    let node = node().await;
    let mut client = Client::connect(node.client).await;
    client.send("GET /healthz HTTP/1.1\r\nhost: loc").await;
    assert!(client.ends().await);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_408() {
    let ingress = IngressConfig {
        body: BodyLimits {
            idle_max: Duration::from_secs(3),
            ..BodyLimits::default()
        },
        ..IngressConfig::default()
    };
    let node = Recipe {
        ingress,
        ..Recipe::default()
    }
    .start()
    .await;
    let mut client = Client::connect(node.client).await;
    let request = chat("", HELLO);
    client.send(&request[..request.len() - 1]).await;
    let raw = client.answer().await;
    assert_eq!(
        (raw.status, raw.error("code").as_str()),
        (408, "request_timeout")
    );
    assert_eq!(raw.header("connection"), Some("close"));
    assert!(client.ends().await);
}

#[tokio::test]
async fn the_callers_id_comes_back() {
    let node = node().await;
    let raw = ask(node.client, chat("x-request-id: trace-7\r\n", HELLO)).await;
    assert_eq!(raw.header("x-request-id"), Some("trace-7"));
    let asked = node.calls.lock().unwrap();
    assert_eq!(asked[0].request_id().as_str(), "trace-7");
}

#[tokio::test]
async fn what_is_no_http_is_refused_and_harms_nobody() {
    let node = node().await;
    let cases: [&[u8]; 4] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /healthz\xff HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost : localhost\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n\
          content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    ];
    for bytes in cases {
        let mut client = Client::connect(node.client).await;
        client.send(bytes).await;
        let raw = client.answer().await;
        assert_eq!(raw.status, 400, "{}", String::from_utf8_lossy(bytes));
        assert!(client.ends().await);
    }
    assert_eq!(get(node.client, "/healthz").await.status, 200);
}
