//! Servers that mean no good, or are broken as if they did. Whatever they do, a chat ends, with an
//! error that says what was wrong, and with bounded memory.

use tokio::net::TcpListener;

use super::tests::*;
use super::*;

/// Answers one request with `head`, and then with `more` again and again until the client leaves.
async fn pour(server: &Server, head: &[u8], more: &[u8]) {
    let (mut socket, _) = server.0.accept().await.unwrap();
    read_request(&mut socket).await;
    let mut sent = socket.write_all(head).await;
    while sent.is_ok() {
        sent = socket.write_all(more).await;
    }
}

fn chunked(status: &str, kind: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n")
        .into_bytes()
}

/// One chunk of `text`.
fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

#[tokio::test]
async fn a_body_without_end_is_left_at_its_bound() {
    let spaces = chunk(&" ".repeat(64 * 1024));
    let comments = chunk(&": nothing to say\n\n".repeat(4096));
    let json = "application/json";
    let stream = "text/event-stream";
    let mut begun = chunked("200 OK", stream);
    begun.extend(chunk(FIRST_CHUNK));
    for (members, head, more, expected) in [
        (
            "",
            chunked("200 OK", json),
            &spaces,
            "the reply is too large",
        ),
        (
            STREAM,
            chunked("200 OK", json),
            &spaces,
            "the reply is too large",
        ),
        (STREAM, chunked("200 OK", stream), &spaces, "Garbled"),
        (STREAM, begun, &spaces, "Garbled"),
        (
            STREAM,
            chunked("200 OK", stream),
            &comments,
            "TimedOut(FirstEvent)",
        ),
        ("", chunked("400 Bad", json), &spaces, "gave no reason"),
        (
            "",
            chunked("500 Oops", json),
            &spaces,
            "Failed { status: 500 }",
        ),
    ] {
        for transport in both_ways() {
            let server = Server::bind().await;
            let mut config = config(&server.url("http"));
            config.first_event_timeout = Duration::from_millis(500);
            let upstream = Upstream::new(config, transport).unwrap();
            let ((), seen) = tokio::join!(pour(&server, &head, more), failure(&upstream, members),);
            assert!(seen.contains(expected), "{expected}: {seen}");
        }
    }
}

/// What comes after the end is not waited for, however much it is.
#[tokio::test]
async fn a_stream_ends_at_its_end_whatever_follows() {
    let done = "data: [DONE]\n\n";
    let events = format!("{FIRST_CHUNK}{LAST_CHUNKS}{done}{done}{FIRST_CHUNK}");
    let mut head = chunked("200 OK", "text/event-stream");
    head.extend(chunk(&events));
    for transport in both_ways() {
        let server = Server::bind().await;
        let upstream = Upstream::new(config(&server.url("http")), transport).unwrap();
        let more = chunk(FIRST_CHUNK);
        let ((), reply) = tokio::join!(pour(&server, &head, &more), whole(&upstream, STREAM),);
        let reply = reply.unwrap();
        assert_eq!(reply.choices[0].text(), "hello");
        assert_eq!(reply.usage, None);
    }
}

#[tokio::test]
async fn a_reply_without_usage_is_a_reply() {
    let body = r#"{"model":"theirs-1","choices":[{"message":{"content":"a"}}],"usage":null}"#;
    let server = Server::bind().await;
    let upstream = upstream(&server);
    let answer = json("200 OK", body);
    let (_, reply) = tokio::join!(server.answer(&answer, Ending::Close), whole(&upstream, ""),);
    assert_eq!(reply.unwrap().usage, None);
}

#[tokio::test]
async fn no_redirect_is_followed() {
    for status in [301, 302, 303, 307, 308] {
        for transport in both_ways() {
            let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let server = Server::bind().await;
            let upstream = Upstream::new(config(&server.url("http")), transport).unwrap();
            let location = format!("location: http://{}/\r\n", elsewhere.local_addr().unwrap());
            let answer = response(&format!("{status} Elsewhere"), &location, "");
            let asking = async {
                tokio::select! {
                    biased;
                    seen = failure(&upstream, "") => seen,
                    _ = elsewhere.accept() => unreachable!("the key went elsewhere"),
                }
            };
            let (_, seen) = tokio::join!(server.answer(&answer, Ending::Close), asking);
            assert_eq!(seen, format!("Failed {{ status: {status} }}"));
        }
    }
}

/// A bomb is not opened: nothing compressed is asked for, and nothing compressed is read.
#[tokio::test]
async fn a_compressed_body_is_refused_unread() {
    for kind in ["application/json", "text/event-stream"] {
        for coding in ["gzip", "br", "zstd", "deflate"] {
            let headers = format!("content-type: {kind}\r\ncontent-encoding: {coding}\r\n");
            let answer = response("200 OK", &headers, "\u{1f}\u{8b}");
            let seen = failure_after(&answer, Ending::Close, STREAM).await;
            assert!(seen.contains("compressed"), "{seen}");
            let answer = response("400 Bad", &headers, "\u{1f}\u{8b}");
            let seen = failure_after(&answer, Ending::Close, STREAM).await;
            assert!(seen.contains("gave no reason"), "{seen}");
        }
    }
}

#[tokio::test]
async fn what_is_no_http_is_a_broken_connection() {
    for answer in [
        "SSH-2.0-OpenSSH_9.9\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 999999 OK\r\n\r\n",
        "\0\0\0\0\0\0\0\0",
    ] {
        let seen = failure_after(answer.as_bytes(), Ending::Close, STREAM).await;
        assert!(seen.starts_with("Unreachable"), "{answer:?}: {seen}");
    }
}
