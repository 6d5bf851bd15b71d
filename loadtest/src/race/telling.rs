//! One streamed answer, token by token.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::drive::Lane;

/// A line longer than this is no event of a chat.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Timings and counts of one answer.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// From the request's first byte to the first text.
    pub first: Duration,
    /// Between neighbouring events that held text.
    pub gaps: Vec<Duration>,
    pub prompt_tokens: u64,
    pub answer_tokens: u64,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Counts>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Option<Delta>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
    reasoning_content: Option<String>,
}

#[derive(Deserialize)]
struct Counts {
    prompt_tokens: u64,
    completion_tokens: u64,
}

/// Asks on a connection of its own, since llama-server closes a stream's when it is over. All
/// targets pay for it.
pub(super) async fn tell_anew(
    addr: SocketAddr,
    key: Option<&str>,
    body: Bytes,
    talking: &Semaphore,
) -> io::Result<Telling> {
    let (lane, drive) = Lane::connect(addr, Bytes::new()).await?;
    let mut lane = lane.with_key(key)?;
    let told = tell(&mut lane, body, talking);
    tokio::pin!(told, drive);
    tokio::select! {
        told = &mut told => told,
        // What was read of it can still be told.
        () = &mut drive => told.await,
    }
}

/// Asks and reads the answer to its end; `talking` gets a permit with the first text.
pub(super) async fn tell(lane: &mut Lane, body: Bytes, talking: &Semaphore) -> io::Result<Telling> {
    let (begun, reply) = lane.send(body).await?;
    let status = reply.status();
    let mut frames = reply.into_body();
    let mut reading = Reading::new(begun);
    let mut start = Vec::new();
    while let Some(frame) = frames.frame().await {
        let Ok(bytes) = frame.map_err(io::Error::other)?.into_data() else {
            continue;
        };
        if status != StatusCode::OK {
            start.extend_from_slice(&bytes);
            continue;
        }
        let was_silent = reading.last.is_none();
        reading.push(&bytes, Instant::now())?;
        if was_silent && reading.last.is_some() {
            talking.add_permits(1);
        }
    }
    if status != StatusCode::OK {
        let start = String::from_utf8_lossy(&start[..start.len().min(200)]).into_owned();
        return Err(io::Error::other(format!("status {status}: {start}")));
    }
    reading.end()
}

/// Server-sent events as they come in, under any cut.
struct Reading {
    begun: Instant,
    last: Option<Instant>,
    line: Vec<u8>,
    is_done: bool,
    telling: Telling,
}

impl Reading {
    fn new(begun: Instant) -> Self {
        Self {
            begun,
            last: None,
            line: Vec::new(),
            is_done: false,
            telling: Telling::default(),
        }
    }

    fn push(&mut self, bytes: &[u8], now: Instant) -> io::Result<()> {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() > LINE_BYTES_MAX {
                    return Err(io::Error::other("an endless line"));
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            if let Some(data) = line.strip_prefix(b"data: ") {
                self.event(data, now)?;
            }
        }
        Ok(())
    }

    fn event(&mut self, data: &[u8], now: Instant) -> io::Result<()> {
        if data == b"[DONE]" {
            self.is_done = true;
            return Ok(());
        }
        let chunk: Chunk = serde_json::from_slice(data).map_err(io::Error::other)?;
        if let Some(error) = chunk.error {
            return Err(io::Error::other(error.to_string()));
        }
        if let Some(counts) = chunk.usage {
            self.telling.prompt_tokens = counts.prompt_tokens;
            self.telling.answer_tokens = counts.completion_tokens;
        }
        let is_text = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let has_text = chunk
            .choices
            .iter()
            .filter_map(|choice| choice.delta.as_ref())
            .any(|delta| is_text(&delta.content) || is_text(&delta.reasoning_content));
        if has_text {
            match self.last.replace(now) {
                None => self.telling.first = now - self.begun,
                Some(last) => self.telling.gaps.push(now - last),
            }
        }
        Ok(())
    }

    fn end(self) -> io::Result<Telling> {
        if !self.is_done {
            return Err(io::Error::other("the stream ended without [DONE]"));
        }
        Ok(self.telling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = concat!(
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
        ": keep alive\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\n",
        "data: [DONE]\n\n",
    );

    #[test]
    fn an_answer_is_read_under_any_cut() {
        for cut in 0..STREAM.len() {
            let begun = Instant::now();
            let mut reading = Reading::new(begun);
            let (start, end) = STREAM.as_bytes().split_at(cut);
            reading
                .push(start, begun + Duration::from_millis(5))
                .unwrap();
            reading.push(end, begun + Duration::from_millis(9)).unwrap();
            let telling = reading.end().unwrap();
            assert_eq!((telling.prompt_tokens, telling.answer_tokens), (7, 2));
            assert_eq!(telling.gaps.len(), 1);
            assert!(telling.first >= Duration::from_millis(5));
        }
    }

    #[test]
    fn an_error_event_and_an_early_end_are_failures() {
        let mut reading = Reading::new(Instant::now());
        let event = b"data: {\"error\":{\"message\":\"no\"}}\n\n";
        assert!(reading.push(event, Instant::now()).is_err());
        assert!(Reading::new(Instant::now()).end().is_err());
    }
}
