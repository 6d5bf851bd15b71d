//! A client that writes exactly the bytes it is told to.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer as it came: the body is still framed.
#[derive(Debug)]
pub struct Raw {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// False when the connection ended before the body's own end.
    pub is_complete: bool,
}

impl Raw {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    pub fn error(&self, field: &str) -> String {
        match &self.json()["error"][field] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

/// A connection with what was read and not yet used.
pub struct Client {
    pub socket: TcpStream,
    seen: Vec<u8>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        // What is held back for an answer that waits for it would be late by a paused clock.
        socket.set_nodelay(true).unwrap();
        Self {
            socket,
            seen: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads more. False at the end of the connection, however it came.
    async fn more(&mut self) -> bool {
        self.seen.reserve(64 * 1024);
        matches!(self.socket.read_buf(&mut self.seen).await, Ok(1..))
    }

    /// Reads up to and with `mark`.
    pub async fn until(&mut self, mark: &str) -> String {
        loop {
            let at = self
                .seen
                .windows(mark.len())
                .position(|window| window == mark.as_bytes());
            if let Some(at) = at {
                let rest = self.seen.split_off(at + mark.len());
                return String::from_utf8(std::mem::replace(&mut self.seen, rest)).unwrap();
            }
            assert!(self.more().await, "ended before {mark:?}: {}", self.shown());
        }
    }

    /// True when the connection ends without another byte.
    pub async fn ends(&mut self) -> bool {
        self.seen.is_empty() && !self.more().await
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    pub async fn head(&mut self) -> Raw {
        let head = self.until("\r\n\r\n").await;
        let mut lines = head.trim_end().split("\r\n");
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let headers = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Raw {
            status,
            headers,
            body: Vec::new(),
            is_complete: true,
        }
    }

    pub async fn answer(&mut self) -> Raw {
        let mut raw = self.head().await;
        if let Some(length) = raw.header("content-length") {
            let length: usize = length.parse().unwrap();
            while self.seen.len() < length {
                if !self.more().await {
                    raw.is_complete = false;
                    break;
                }
            }
            let rest = self.seen.split_off(length.min(self.seen.len()));
            raw.body = std::mem::replace(&mut self.seen, rest);
        } else if raw.header("transfer-encoding") == Some("chunked") {
            while self.chunk(&mut raw).await {}
        }
        raw
    }

    /// One chunk. False after the last, or where the connection broke off.
    pub async fn chunk(&mut self, raw: &mut Raw) -> bool {
        while !self.seen.windows(2).any(|window| window == b"\r\n") {
            if !self.more().await {
                raw.is_complete = false;
                return false;
            }
        }
        let size = usize::from_str_radix(self.until("\r\n").await.trim(), 16).unwrap();
        while self.seen.len() < size + 2 {
            if !self.more().await {
                raw.is_complete = false;
                return false;
            }
        }
        raw.body.extend(self.seen.drain(..size));
        self.seen.drain(..2);
        size > 0
    }
}

/// One request on a connection of its own.
pub async fn ask(address: SocketAddr, request: impl AsRef<[u8]>) -> Raw {
    let mut client = Client::connect(address).await;
    client.send(request).await;
    client.answer().await
}

pub async fn get(address: SocketAddr, path: &str) -> Raw {
    ask(
        address,
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"),
    )
    .await
}

/// A chat request with more header lines, each ending in CRLF.
pub fn chat(lines: &str, body: &str) -> String {
    let lines = format!("content-type: application/json\r\n{lines}");
    post("/v1/chat/completions", &lines, body)
}

/// A request with a body and these header lines, each ending in CRLF.
pub fn post(path: &str, lines: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n{lines}\r\n{body}",
        body.len()
    )
}

pub const HELLO: &str = r#"{"model":"local","messages":[{"role":"user","content":"hi"}]}"#;

pub const HELLO_STREAMED: &str = r#"{"model":"local","stream":true,
    "stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}]}"#;
