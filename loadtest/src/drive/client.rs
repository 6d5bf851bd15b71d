//! One HTTP/1.1 connection that asks one question again and again, with as little of its own time
//! in the figure as can be: a bare hyper connection, no pool, no Nagle, a body encoded once.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Something that answers chats.
#[derive(Clone, Debug)]
pub struct Target {
    pub name: String,
    pub addr: SocketAddr,
    /// The model to ask it for.
    pub model: String,
    /// Whose processor time and memory to charge; children are charged too.
    pub pid: Option<u32>,
    /// The API key to ask under.
    pub key: Option<String>,
}

impl Target {
    /// A chat body of about a kilobyte.
    pub(super) fn body(&self, is_streamed: bool, marker: &str) -> Bytes {
        // Plain prose, long enough that a proxy which reads the text has something to read.
        let prose = "The harbour lies where the river meets the sea, and ships of every kind come \
                     in on the evening tide. "
            .repeat(8);
        let body = serde_json::json!({
            "model": self.model,
            "messages": [
                {"role": "system", "content": "You answer briefly."},
                {"role": "user", "content": format!("{prose}{marker}")},
            ],
            "temperature": 0,
            "stream": is_streamed,
        });
        Bytes::from(body.to_string())
    }
}

/// Timings of one streamed reply.
#[derive(Debug)]
pub(super) struct StreamTimes {
    /// From the request's first byte to the reply's first event.
    pub first: Duration,
    /// Between neighbouring reads that held something.
    pub gaps: Vec<Duration>,
    pub events: u64,
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Lane {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    path: http::Uri,
    body: Bytes,
    authorization: Option<HeaderValue>,
}

impl Lane {
    /// The second value drives the connection and must be polled beside the first's calls.
    pub(crate) async fn connect(
        addr: SocketAddr,
        body: Bytes,
    ) -> io::Result<(Self, impl Future<Output = ()> + Send + 'static)> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let lane = Self {
            sender,
            host: addr.to_string(),
            path: http::Uri::from_static("/v1/chat/completions"),
            body,
            authorization: None,
        };
        let drive = async move {
            // A broken connection shows as an error of the request on it.
            drop(connection.await);
        };
        Ok((lane, drive))
    }

    /// Asks under an API key.
    ///
    /// # Errors
    /// The key is no text that a header can hold.
    pub(crate) fn with_key(mut self, key: Option<&str>) -> io::Result<Self> {
        let bearer = key.map(|key| HeaderValue::try_from(format!("Bearer {key}")));
        self.authorization = bearer.transpose().map_err(io::Error::other)?;
        Ok(self)
    }

    /// Asks for something other than chats.
    pub(crate) fn at(mut self, path: &'static str) -> Self {
        self.path = http::Uri::from_static(path);
        self
    }

    fn request(&self, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.clone();
        let headers = request.headers_mut();
        if let Ok(host) = self.host.parse() {
            headers.insert(HOST, host);
        }
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // Neither read from a cache nor stored in one: every request goes all the way.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        request
    }

    /// Sends another body than the lane's own. The time is that of the request's first byte.
    pub(crate) async fn send(&mut self, body: Bytes) -> io::Result<(Instant, Response<Incoming>)> {
        self.sender.ready().await.map_err(io::Error::other)?;
        let request = self.request(body);
        let begun = Instant::now();
        let reply = self.sender.send_request(request).await;
        Ok((begun, reply.map_err(io::Error::other)?))
    }

    /// As [`Lane::send`], for a reply that a cache may give or keep.
    pub(crate) async fn send_cacheable(&mut self, body: Bytes) -> io::Result<Response<Incoming>> {
        self.sender.ready().await.map_err(io::Error::other)?;
        let mut request = self.request(body);
        request.headers_mut().remove(CACHE_CONTROL);
        let reply = self.sender.send_request(request).await;
        reply.map_err(io::Error::other)
    }

    /// The body of one whole reply.
    pub(crate) async fn whole_body(&mut self, body: Bytes) -> io::Result<Bytes> {
        let (_, reply) = self.send(body).await?;
        let status = reply.status();
        let body = reply.into_body().collect().await;
        let body = body.map_err(io::Error::other)?.to_bytes();
        if status != StatusCode::OK {
            return Err(unexpected(status, &body));
        }
        Ok(body)
    }

    /// One whole reply, from the request's first byte to the reply's last.
    pub(super) async fn whole(&mut self) -> io::Result<Duration> {
        let (begun, reply) = self.send(self.body.clone()).await?;
        let status = reply.status();
        let body = reply
            .into_body()
            .collect()
            .await
            .map_err(io::Error::other)?
            .to_bytes();
        let took = begun.elapsed();
        if status != StatusCode::OK || body.last() != Some(&b'}') {
            return Err(unexpected(status, &body));
        }
        Ok(took)
    }

    /// One streamed reply, read to its `[DONE]`.
    pub(super) async fn streamed(&mut self) -> io::Result<StreamTimes> {
        let (begun, reply) = self.send(self.body.clone()).await?;
        let status = reply.status();
        let mut body = reply.into_body();
        let mut times = StreamTimes {
            first: Duration::ZERO,
            gaps: Vec::new(),
            events: 0,
        };
        let mut tail = Vec::new();
        let mut last = begun;
        while let Some(frame) = body.frame().await {
            let Ok(bytes) = frame.map_err(io::Error::other)?.into_data() else {
                continue;
            };
            let now = Instant::now();
            if times.events == 0 {
                times.first = now - begun;
            } else {
                times.gaps.push(now - last);
            }
            last = now;
            times.events += count_events(&mut tail, &bytes);
        }
        if status != StatusCode::OK || !tail.ends_with(b"data: [DONE]\n\n") {
            return Err(unexpected(status, &tail));
        }
        Ok(times)
    }
}

/// Counts the blank lines that end events in `bytes`, whatever the cut; `tail` keeps the last bytes.
fn count_events(tail: &mut Vec<u8>, bytes: &[u8]) -> u64 {
    const TAIL_BYTES: usize = 64;
    let mut previous = tail.last().copied();
    let mut count = 0;
    for byte in bytes {
        count += u64::from(*byte == b'\n' && previous == Some(b'\n'));
        previous = Some(*byte);
    }
    tail.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]);
    let excess = tail.len().saturating_sub(TAIL_BYTES);
    tail.drain(..excess);
    count
}

fn unexpected(status: StatusCode, body: &[u8]) -> io::Error {
    let start = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
    io::Error::other(format!("unexpected reply, status {status}: {start}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_under_any_cut() {
        let whole = b"data: a\n\ndata: b\n\ndata: [DONE]\n\n";
        for cut in 0..whole.len() {
            let mut tail = Vec::new();
            let count =
                count_events(&mut tail, &whole[..cut]) + count_events(&mut tail, &whole[cut..]);
            assert_eq!(count, 3, "cut at {cut}");
            assert!(tail.ends_with(b"data: [DONE]\n\n"));
        }
    }
}
