//! Reads a sealed request, at the pace it has to come, and opens it.
//!
//! Nothing is done for it before its last chunk is authentic. Whatever is wrong with what is inside,
//! the answer is one.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;
use relay::bhttp::{Fields, MessageReader, Part, RequestLine};
use relay::limits::{REQUEST_BYTES_MAX, TAG_BYTES};
use relay::{
    EncDigest, Form, HeadReader, OuterRefusal, ProofSecret, RequestHead, RequestOpener,
    ResponseSealer, WholeResponseSealer, open_whole_request,
};
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use super::Gateway;
use super::rules::GatewayLimits;

/// A request that was opened.
pub(super) struct Opened {
    pub line: RequestLine,
    pub fields: Fields,
    pub body: Zeroizing<Vec<u8>>,
    pub secret: ProofSecret,
    pub digest: EncDigest,
    pub key_id: u8,
    pub sealed_bytes: u64,
    pub answering: Answering,
}

/// What seals the answer.
pub(super) enum Answering {
    Chunked(ResponseSealer),
    Whole(WholeResponseSealer),
}

/// A body, in its bounds of size and pace.
pub(super) struct Paced<B> {
    body: Pin<Box<B>>,
    began: Instant,
    bytes: u64,
    bytes_max: u64,
    limits: GatewayLimits,
}

impl<B: Body<Data = Bytes>> Paced<B> {
    /// # Errors
    /// `TooLarge`, where it says so of itself.
    pub fn new(body: B, bytes_max: u64, limits: GatewayLimits) -> Result<Self, OuterRefusal> {
        if body.size_hint().lower() > bytes_max {
            return Err(OuterRefusal::TooLarge);
        }
        Ok(Self {
            body: Box::pin(body),
            began: Instant::now(),
            bytes: 0,
            bytes_max,
            limits,
        })
    }

    /// The next of it; `None` at its end.
    ///
    /// # Errors
    /// `TooSlow`, `TooLarge`, and `Unopened` where it broke off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, OuterRefusal> {
        loop {
            let idle_max = self.limits.body_idle_max;
            let earned_ms =
                self.bytes.saturating_mul(1_000) / self.limits.body_bytes_per_s_min.max(1);
            let earned = std::time::Duration::from_millis(earned_ms);
            let until = (Instant::now() + idle_max).min(self.began + idle_max + earned);
            let frame = match timeout_at(until, self.body.frame()).await {
                Err(_) => return Err(OuterRefusal::TooSlow),
                Ok(None) => return Ok(None),
                Ok(Some(Err(_))) => return Err(OuterRefusal::Unopened),
                Ok(Some(Ok(frame))) => frame,
            };
            let Ok(data) = frame.into_data() else {
                continue;
            };
            self.bytes += data.len() as u64;
            if self.bytes > self.bytes_max {
                return Err(OuterRefusal::TooLarge);
            }
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
    }

    /// All of it.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn whole(mut self) -> Result<Bytes, OuterRefusal> {
        let mut whole = Vec::new();
        while let Some(data) = self.next().await? {
            whole.extend_from_slice(&data);
        }
        Ok(whole.into())
    }
}

/// How many bytes of requests are held in all.
#[derive(Clone, Debug, Default)]
pub(super) struct Held(Arc<AtomicU64>);

/// One request's part of them.
#[derive(Debug)]
pub(super) struct Holding {
    held: Held,
    bytes: u64,
}

impl Held {
    pub fn none(&self) -> Holding {
        Holding {
            held: self.clone(),
            bytes: 0,
        }
    }
}

impl Holding {
    fn add(&mut self, bytes: usize, bytes_max: u64) -> Result<(), OuterRefusal> {
        let bytes = bytes as u64;
        self.bytes += bytes;
        let before = self.held.0.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > bytes_max {
            return Err(OuterRefusal::Busy);
        }
        Ok(())
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.held.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Gateway {
    /// # Errors
    /// What is answered in the clear.
    pub(super) async fn open<B: Body<Data = Bytes>>(
        &self,
        form: Form,
        mut body: Paced<B>,
        holding: &mut Holding,
    ) -> Result<Opened, OuterRefusal> {
        let held_max = self.rules.limits.held_bytes_max;
        let mut reader = HeadReader::new(self.rules.ciphers);
        let (head, rest) = loop {
            let data = body.next().await?.ok_or(OuterRefusal::Unopened)?;
            let mut input = &data[..];
            let head = reader.next(&mut input).map_err(|_| OuterRefusal::Key)?;
            if let Some(head) = head {
                break (head, data.slice_ref(input));
            }
        };
        let secret_key = self.keys.find(&head, self.books.now());
        let secret_key = secret_key.map_err(|_| OuterRefusal::Key)?;
        if self.has_seen(&head.digest()) {
            return Err(OuterRefusal::Unopened);
        }
        let (digest, key_id) = (head.digest(), head.key_id);
        let begun = Begun { head, rest };
        let read = match form {
            Form::Chunked => {
                let opener = RequestOpener::start(begun.head, &secret_key).map_err(unopened)?;
                open_chunks(opener, begun.rest, &mut body, holding, held_max).await?
            }
            Form::Whole => open_whole(begun, &secret_key, &mut body, holding, held_max).await?,
        };
        Ok(Opened {
            line: read.message.line,
            fields: read.message.fields,
            body: read.message.body,
            secret: read.secret,
            digest,
            key_id,
            sealed_bytes: body.bytes,
            answering: read.answering,
        })
    }
}

struct Begun {
    head: RequestHead,
    rest: Bytes,
}

struct Read {
    message: Message,
    secret: ProofSecret,
    answering: Answering,
}

fn unopened<E>(_: E) -> OuterRefusal {
    OuterRefusal::Unopened
}

async fn open_chunks<B: Body<Data = Bytes>>(
    mut opener: RequestOpener,
    mut data: Bytes,
    body: &mut Paced<B>,
    holding: &mut Holding,
    held_max: u64,
) -> Result<Read, OuterRefusal> {
    let mut reading = Reading::default();
    loop {
        holding.add(data.len(), held_max)?;
        let mut input = &data[..];
        while let Some(chunk) = opener.next(&mut input).map_err(unopened)? {
            reading.take(chunk)?;
        }
        match body.next().await? {
            Some(next) => data = next,
            None => break,
        }
    }
    let secret = opener.proof_secret().clone();
    let (last, sealer) = opener.finish().map_err(unopened)?;
    reading.take(&last)?;
    Ok(Read {
        message: reading.finish()?,
        secret,
        answering: Answering::Chunked(sealer),
    })
}

async fn open_whole<B: Body<Data = Bytes>>(
    begun: Begun,
    secret_key: &relay::SecretKey,
    body: &mut Paced<B>,
    holding: &mut Holding,
    held_max: u64,
) -> Result<Read, OuterRefusal> {
    holding.add(begun.rest.len(), held_max)?;
    let mut sealed = begun.rest.to_vec();
    while let Some(data) = body.next().await? {
        holding.add(data.len(), held_max)?;
        if (sealed.len() + data.len()) as u64 > REQUEST_BYTES_MAX + TAG_BYTES as u64 {
            return Err(OuterRefusal::TooLarge);
        }
        sealed.extend_from_slice(&data);
    }
    let opened = open_whole_request(begun.head, secret_key, sealed).map_err(unopened)?;
    let (plain, sealer) = opened;
    let mut reading = Reading::default();
    reading.take(&plain)?;
    Ok(Read {
        message: reading.finish()?,
        secret: sealer.proof_secret().clone(),
        answering: Answering::Whole(sealer),
    })
}

struct Message {
    line: RequestLine,
    fields: Fields,
    body: Zeroizing<Vec<u8>>,
}

/// A message as far as it came.
struct Reading {
    reader: MessageReader,
    begun: Option<(RequestLine, Fields)>,
    body: Zeroizing<Vec<u8>>,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            reader: MessageReader::request(),
            begun: None,
            body: Zeroizing::default(),
        }
    }
}

impl Reading {
    fn take(&mut self, mut input: &[u8]) -> Result<(), OuterRefusal> {
        while let Some(part) = self.reader.next(&mut input).map_err(unopened)? {
            match part {
                Part::Request(line, fields) => self.begun = Some((line, fields)),
                Part::Content(content) => append(&mut self.body, content),
                Part::Trailer(_) => {}
                Part::Informational(..) | Part::Response(..) => return Err(OuterRefusal::Unopened),
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Message, OuterRefusal> {
        while let Some(part) = self.reader.finish().map_err(unopened)? {
            if let Part::Request(line, fields) = part {
                self.begun = Some((line, fields));
            }
        }
        let (line, fields) = self.begun.ok_or(OuterRefusal::Unopened)?;
        Ok(Message {
            line,
            fields,
            body: self.body,
        })
    }
}

/// As `extend_from_slice`, but what grows out of its place leaves nothing there.
fn append(body: &mut Zeroizing<Vec<u8>>, more: &[u8]) {
    let needed = body.len() + more.len();
    if needed > body.capacity() {
        let mut grown = Zeroizing::new(Vec::with_capacity(needed.max(2 * body.capacity())));
        grown.extend_from_slice(body);
        *body = grown;
    }
    body.extend_from_slice(more);
}
