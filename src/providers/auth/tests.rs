//! Each way of saying who asks, as a server sees it.

use std::fs;

use domain::{BackendError, ChatRequest, Findings, Outbound, Trust, collect};
use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::advance;
use wire::openai::decode_request;

use super::*;
use crate::transport::tests::both_ways;
use crate::{Transport, Upstream, UpstreamConfig};

const KEY: &str = "sk-very-secret";
const REPLY: &str = r#"{"model":"m","choices":[{"message":{"content":"hello"}}]}"#;

/// A server that keeps the heads of what it was asked, and answers as it is told.
struct Server(TcpListener);

impl Server {
    async fn bind() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.0.local_addr().unwrap())
    }

    /// Serves one request on a connection of its own, and gives it as it came.
    async fn answer(&self, status: &str, body: &str) -> String {
        let (mut socket, _) = self.0.accept().await.unwrap();
        let mut request = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let (_, length) = head.split_once("content-length: ").expect("a length");
                let length: usize = length.lines().next().unwrap().parse().unwrap();
                if body.len() == length {
                    break;
                }
            }
            assert_ne!(socket.read_buf(&mut request).await.unwrap(), 0, "cut");
        }
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        socket.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(request).unwrap()
    }
}

fn request() -> ChatRequest {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
    decode_request(&body.into()).unwrap()
}

fn upstream(server: &Server, auth: Auth, transport: Transport) -> Upstream {
    let mut config = UpstreamConfig::new("cloud", server.url("/v1"), "m", Trust::Public);
    config.auth = auth;
    Upstream::new(config, transport).unwrap()
}

async fn chat(upstream: &Upstream) -> Result<String, BackendError> {
    let findings = Findings::default();
    let call = Outbound::seal("r".into(), "m".into(), request(), &findings, Trust::Public);
    let reply = collect(upstream.open(&call).await?).await?;
    Ok(reply.choices[0].text())
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let (head, _) = request.split_once("\r\n\r\n").unwrap();
    let mut found = head.lines().filter_map(|line| line.split_once(": "));
    let (_, value) = found.find(|(had, _)| had.eq_ignore_ascii_case(name))?;
    Some(value)
}

fn fixed(text: &str) -> Key {
    Key::Fixed(Secret::new(text))
}

#[tokio::test]
async fn a_key_stands_in_the_header_that_the_provider_reads_and_nowhere_else() {
    let in_header = |name: &str| Auth::Header {
        name: name.to_owned(),
        key: fixed(KEY),
    };
    for (auth, name, value) in [
        (Auth::None, "authorization", None),
        (
            Auth::bearer(Secret::new(KEY)),
            "authorization",
            Some("Bearer sk-very-secret"),
        ),
        (in_header("x-api-key"), "x-api-key", Some(KEY)),
        (in_header("api-key"), "api-key", Some(KEY)),
        (in_header("X-Goog-Api-Key"), "x-goog-api-key", Some(KEY)),
    ] {
        for transport in both_ways() {
            let server = Server::bind().await;
            let upstream = upstream(&server, auth.clone(), transport);
            assert!(!format!("{upstream:?}{auth:?}").contains(KEY));
            let (seen, reply) = tokio::join!(server.answer("200 OK", REPLY), chat(&upstream));
            assert_eq!(reply.unwrap(), "hello");
            assert_eq!(header(&seen, name), value);
            assert_eq!(seen.matches(KEY).count(), usize::from(value.is_some()));
        }
    }
}

#[tokio::test]
async fn a_key_in_a_file_is_read_again_once_it_was_refused() {
    for transport in both_ways() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let key = Key::File {
            path: path.clone(),
            first: Secret::new("old"),
        };
        let server = Server::bind().await;
        let upstream = upstream(&server, Auth::Bearer(key), transport);
        fs::write(&path, "new\n").unwrap();
        let (seen, reply) = tokio::join!(server.answer("401 No", "{}"), chat(&upstream));
        assert!(matches!(
            reply,
            Err(BackendError::Credentials { status: 401 })
        ));
        assert_eq!(header(&seen, "authorization"), Some("Bearer old"));
        let (seen, _) = tokio::join!(server.answer("200 OK", REPLY), chat(&upstream));
        assert_eq!(header(&seen, "authorization"), Some("Bearer new"));
    }
}

/// Signed again from what the server saw: the signature is over that and over nothing else.
#[tokio::test]
async fn a_signed_request_is_the_one_that_was_sent() {
    for token in [None, Some("session-token")] {
        for transport in both_ways() {
            let keys = AwsKeys {
                access_key: fixed("AKIDEXAMPLE"),
                secret_key: fixed(KEY),
                session_token: token.map(fixed),
                region: "eu-central-1".into(),
                service: "bedrock".into(),
            };
            let server = Server::bind().await;
            let upstream = upstream(&server, Auth::Aws(keys), transport);
            let (seen, reply) = tokio::join!(server.answer("200 OK", REPLY), chat(&upstream));
            assert_eq!(reply.unwrap(), "hello");
            assert!(!seen.contains(KEY));
            assert_eq!(header(&seen, "x-amz-security-token"), token);
            let (head, body) = seen.split_once("\r\n\r\n").unwrap();
            let line = head.lines().next().unwrap();
            assert_eq!(line, "POST /v1/chat/completions HTTP/1.1");
            let date = header(&seen, "x-amz-date").unwrap();
            let mut names = vec!["content-type", "host", "x-amz-date"];
            names.extend(token.map(|_| "x-amz-security-token"));
            let headers: Vec<(&str, &str)> = names
                .into_iter()
                .map(|name| (name, header(&seen, name).unwrap()))
                .collect();
            let identity = sigv4::Identity {
                access_key: "AKIDEXAMPLE",
                secret_key: KEY,
                region: "eu-central-1",
                service: "bedrock",
            };
            let signed = sigv4::Signed {
                method: "POST",
                path: "/v1/chat/completions",
                query: None,
                headers: &headers,
                body: body.as_bytes(),
            };
            let expected = sigv4::authorization(identity, signed, date);
            assert_eq!(header(&seen, "authorization"), Some(expected.as_str()));
        }
    }
}

struct Entra {
    issuer: Server,
    api: Server,
    upstream: Upstream,
}

impl Entra {
    async fn new(transport: Transport) -> Self {
        let (issuer, api) = (Server::bind().await, Server::bind().await);
        let auth = Auth::Entra(EntraClient {
            token_url: issuer.url("/tenant/oauth2/v2.0/token"),
            client_id: "client".into(),
            client_secret: fixed("a&b=c d"),
            scope: "https://cognitiveservices.azure.com/.default".into(),
        });
        let upstream = upstream(&api, auth, transport);
        Self {
            issuer,
            api,
            upstream,
        }
    }
}

fn token(text: &str) -> String {
    format!(r#"{{"token_type":"Bearer","expires_in":3600,"access_token":"{text}"}}"#)
}

#[tokio::test]
async fn callers_who_come_together_share_one_question_for_a_token() {
    for transport in both_ways() {
        let entra = Entra::new(transport).await;
        let serving = async {
            let asked = entra.issuer.answer("200 OK", &token("t1")).await;
            let mut seen = Vec::new();
            for _ in 0..3 {
                seen.push(entra.api.answer("200 OK", REPLY).await);
            }
            (asked, seen)
        };
        let chats = join_all((0..3).map(|_| chat(&entra.upstream)));
        let ((asked, seen), replies) = tokio::join!(serving, chats);
        assert!(replies.iter().all(Result::is_ok), "{replies:?}");
        assert!(asked.starts_with("POST /tenant/oauth2/v2.0/token HTTP/1.1\r\n"));
        let (_, form) = asked.split_once("\r\n\r\n").unwrap();
        assert_eq!(
            form,
            "grant_type=client_credentials&client_id=client&client_secret=a%26b%3Dc+d\
             &scope=https%3A%2F%2Fcognitiveservices.azure.com%2F.default"
        );
        for request in seen {
            assert_eq!(header(&request, "authorization"), Some("Bearer t1"));
        }
    }
}

#[tokio::test]
async fn a_token_is_kept_until_shortly_before_its_end_or_until_it_is_refused() {
    let [transport, _] = both_ways();
    let entra = Entra::new(transport).await;
    let ask = async |status: &'static str| {
        let (seen, _) = tokio::join!(entra.api.answer(status, REPLY), chat(&entra.upstream));
        header(&seen, "authorization").unwrap().to_owned()
    };
    let renew = async |text: &'static str, status: &'static str| {
        let answer = token(text);
        let issuing = entra.issuer.answer("200 OK", &answer);
        let (_, seen) = tokio::join!(issuing, ask(status));
        seen
    };
    assert_eq!(renew("t1", "200 OK").await, "Bearer t1");
    assert_eq!(ask("200 OK").await, "Bearer t1");
    assert_eq!(ask("401 No").await, "Bearer t1");
    assert_eq!(renew("t2", "200 OK").await, "Bearer t2");
    tokio::time::pause();
    advance(std::time::Duration::from_secs(3600 - 121)).await;
    tokio::time::resume();
    assert_eq!(ask("200 OK").await, "Bearer t2");
    tokio::time::pause();
    advance(std::time::Duration::from_secs(2)).await;
    tokio::time::resume();
    assert_eq!(renew("t3", "200 OK").await, "Bearer t3");
}

#[tokio::test]
async fn without_a_token_the_credentials_are_at_fault_and_nothing_is_sent() {
    for (status, body, expected) in [
        ("401 No", r#"{"error":"invalid_client"}"#, 401),
        ("200 OK", "<html>", 502),
        ("302 Elsewhere", "", 302),
    ] {
        let [transport, _] = both_ways();
        let entra = Entra::new(transport).await;
        for _ in 0..2 {
            let (_, reply) = tokio::join!(entra.issuer.answer(status, body), async {
                tokio::select! {
                    biased;
                    reply = chat(&entra.upstream) => reply,
                    _ = entra.api.0.accept() => unreachable!("nothing is sent"),
                }
            });
            let Err(BackendError::Credentials { status }) = reply else {
                panic!("{reply:?}");
            };
            assert_eq!(status, expected);
        }
    }
}

#[tokio::test]
async fn a_secret_of_any_kind_is_taken_out_of_the_upstreams_words() {
    let [transport, _] = both_ways();
    let entra = Entra::new(transport).await;
    let words = r#"{"error":{"message":"t1 is odd, and so is a&b=c d"}}"#;
    let serving = async {
        entra.issuer.answer("200 OK", &token("t1")).await;
        entra.api.answer("400 Bad", words).await;
    };
    let ((), reply) = tokio::join!(serving, chat(&entra.upstream));
    let Err(BackendError::Rejected { reason, .. }) = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(reason.message, "[key] is odd, and so is [key]");
}
