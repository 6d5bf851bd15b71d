//! The door: who may knock, how long, and who is turned away.

use std::io::{Read, Write};
use std::net::TcpStream;

use hashing::sha256;
use http::StatusCode;
use http::header::{AUTHORIZATION, HOST, ORIGIN};

use crate::harness::{Hedge, ask, chat_request, fake};

#[tokio::test]
async fn two_hundred_dripping_connections_delay_nobody() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let drippers: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = TcpStream::connect(hedge.addr).unwrap();
            stream
                .write_all(b"POST /v1/chat/completions HTTP/1.1\r\nho")
                .unwrap();
            stream
        })
        .collect();
    for index in 0..20 {
        let reply = hedge
            .chat(&ask("fake/bench", &format!("question {index}")))
            .await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    }
    // All were open while the questions were answered: their time had not run out.
    for mut stream in drippers {
        stream.set_nonblocking(true).unwrap();
        let state = stream.read(&mut [0; 1]).map_err(|error| error.kind());
        assert_eq!(state, Err(std::io::ErrorKind::WouldBlock));
    }
}

#[tokio::test]
async fn headers_that_never_end_are_given_up() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "[ingress]\nheader_timeout_ms = 200").await;
    let mut stream = TcpStream::connect(hedge.addr).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nho").unwrap();
    // Reads to the end: without the limit this would wait for ever, and the suite with it.
    stream
        .set_read_timeout(Some(crate::harness::PATIENCE))
        .unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(
        said.is_empty() || said.starts_with("HTTP/1.1 408"),
        "{said}"
    );
}

#[tokio::test]
async fn only_hosts_and_origins_of_this_machine_are_let_in() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "[ingress]\nhosts = [\"hedge.example\"]").await;
    let port = hedge.addr.port();
    let cases = [
        (HOST, format!("localhost:{port}"), true),
        (HOST, "hedge.example".to_owned(), true),
        (HOST, format!("evil.example:{port}"), false),
        (ORIGIN, "https://evil.example".to_owned(), false),
    ];
    for (name, value, is_let_in) in cases {
        let mut request = chat_request(&ask("fake/bench", "hi"));
        request
            .headers_mut()
            .insert(name.clone(), value.parse().unwrap());
        let reply = hedge.send(request).await;
        assert_eq!(
            reply.status == StatusCode::OK,
            is_let_in,
            "{name} {value}: {}",
            reply.text
        );
    }
}

#[tokio::test]
async fn keys_are_asked_for_where_there_are_any() {
    let fake = fake();
    let digest: String = sha256(b"sk-right")
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let keys = format!(
        "[[keys]]\nname = \"one\"\nsecret = \"sha256:{digest}\"\nmodels = [\"fake/bench\"]\n"
    );
    let hedge = Hedge::before(&fake, &keys).await;
    let cases = [
        (None, "fake/bench", 401),
        (Some("Bearer sk-wrong"), "fake/bench", 401),
        (Some("Basic sk-right"), "fake/bench", 401),
        (Some("Bearer sk-right"), "fake/other", 403),
        (Some("Bearer sk-right"), "fake/bench", 200),
    ];
    for (key, model, status) in cases {
        let mut request = chat_request(&ask(model, "hi"));
        if let Some(key) = key {
            request
                .headers_mut()
                .insert(AUTHORIZATION, key.parse().unwrap());
        }
        let reply = hedge.send(request).await;
        assert_eq!(
            reply.status.as_u16(),
            status,
            "{key:?} {model}: {}",
            reply.text
        );
    }
    assert_eq!(fake.counts().asked, 1);
    assert!(!hedge.log().contains("sk-"));
}
