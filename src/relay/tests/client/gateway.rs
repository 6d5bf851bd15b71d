//! A gateway in miniature, on a real socket: it takes one request a connection, and answers by script.
//! Its answers end where the connection does, so that nothing but the seal tells a cut one from a whole.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::super::support::rng;
use crate::bhttp::{Fields, MessageReader, Part};
use crate::manifest::{IdentityKey, Manifest, Pins, SignedManifest, content_digest};
use crate::shape::{Body, SHAPE_FIELD, Shape, Shaper, TICK};
use crate::slim::{FRAMES_FIELD, SLIM_FRAMES};
use crate::{
    Ciphers, DATE_PROBLEM, EDGE_FIELD, EdgeClaim, EdgeKey, HeadReader, IdempotenceCache, Kem,
    KeyRing, OuterRefusal, PROBLEM_MEDIA_TYPE, ReplayCache, ReplayRefused, RequestOpener,
    ResponseSealer, RingTimes, SESSION_FIELD, SESSION_YES, Session, Sessions, UnixTime, Unproven,
};

pub const EDGE: &str = "branch-seven";
pub const SEED: [u8; 32] = [7; 32];
pub const HOUR: Duration = Duration::from_secs(3_600);

/// What goes wrong with one sealed request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is turned away before it is opened.
    Before(OuterRefusal),
    /// It is done, and somebody on the way says otherwise.
    After(OuterRefusal),
    /// Its answer ends after so many bytes.
    Cut(usize),
    /// The connection is closed with no word.
    Close,
    /// Something else than a sealed answer, with the status 200.
    Plain,
    /// The relay says within that it did nothing, with this status.
    Undone(u16),
    /// Its answer stops after so many cells, until it is told to go on.
    Hold(usize),
}

/// What is wrong with the manifest, from now on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wrong {
    Nothing,
    Signature,
    Stranger,
    Expired,
    TooLong,
    Body,
    Status,
    Compressed,
    /// Another relay's, signed by the same key.
    Relay,
}

/// A request as it was opened.
#[derive(Clone, Debug)]
pub struct Opened {
    pub line: [String; 4],
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub bytes: usize,
    pub enc: String,
}

impl Opened {
    pub fn field(&self, name: &str) -> &str {
        let mut fields = self.fields.iter();
        let found = fields.find(|(found, _)| found == name);
        found.map_or("", |(_, value)| value)
    }
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub kind: &'static str,
    pub pieces: Vec<Vec<u8>>,
}

pub struct State {
    pub ring: KeyRing,
    pub serial: u64,
    pub wrong: Wrong,
    pub faults: VecDeque<Fault>,
    pub reply: Reply,
    /// The relay's clock less this machine's, in seconds.
    pub ahead: i64,
    /// `None` where the relay is of a time that knew none.
    pub sessions: Option<Sessions>,
    replays: ReplayCache,
    idempotence: IdempotenceCache,
    /// All bytes that came, by connection.
    pub raw: Vec<Vec<u8>>,
    /// Every request that could be opened.
    pub opened: Vec<Opened>,
    /// Those that a provider was asked for.
    pub calls: Vec<Opened>,
    pub manifests: usize,
    /// Of the last answer: where each cell ended, and whether its content was over with it.
    pub ends: Vec<usize>,
}

pub struct Gateway {
    pub url: String,
    relay_id: &'static str,
    identity: u64,
    pub world: Arc<World>,
    _serving: JoinSet<()>,
}

pub struct World {
    state: Mutex<State>,
    /// Told when a client left while its answer was held.
    pub left: Notify,
    /// Lets a held answer go on.
    pub go: Notify,
    relay_id: &'static str,
    identity: u64,
}

pub fn now(ahead: i64) -> UnixTime {
    let now: UnixTime = SystemTime::now().into();
    UnixTime(now.0.saturating_add_signed(ahead))
}

pub fn ring(kems: &[Kem], seed: u64, now: UnixTime) -> KeyRing {
    KeyRing::new(
        RingTimes::default(),
        kems,
        Ciphers::Strict,
        now,
        &mut rng(seed),
    )
    .unwrap()
}

impl Gateway {
    pub async fn start(relay_id: &'static str) -> Self {
        Self::start_with(relay_id, 0).await
    }

    /// With a clock that is so many seconds ahead.
    pub async fn start_with(relay_id: &'static str, ahead: i64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let identity = relay_id.bytes().map(u64::from).sum();
        let state = State {
            ring: ring(&Kem::ALL, identity, now(ahead)),
            serial: 5,
            wrong: Wrong::Nothing,
            faults: VecDeque::new(),
            reply: Reply {
                status: 200,
                kind: "application/json",
                pieces: vec![b"{\"a\":".to_vec(), b"1}".to_vec()],
            },
            ahead,
            sessions: Some(Sessions::default()),
            replays: ReplayCache::new(UnixTime(0)),
            idempotence: IdempotenceCache::new(UnixTime(0)),
            raw: Vec::new(),
            opened: Vec::new(),
            calls: Vec::new(),
            manifests: 0,
            ends: Vec::new(),
        };
        let world = Arc::new(World {
            state: Mutex::new(state),
            left: Notify::new(),
            go: Notify::new(),
            relay_id,
            identity,
        });
        let mut serving = JoinSet::new();
        let shared = Arc::clone(&world);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let world = Arc::clone(&shared);
                connections.spawn(async move { world.serve(socket).await });
            }
        });
        Self {
            url,
            relay_id,
            identity,
            world,
            _serving: serving,
        }
    }

    pub fn pins(&self) -> Pins {
        Pins {
            relay_id: self.relay_id.to_owned(),
            current: IdentityKey::generate(&mut rng(self.identity)).pin(),
            next: None,
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.world.state.lock().unwrap()
    }

    pub fn will(&self, fault: Fault) {
        self.state().faults.push_back(fault);
    }

    pub fn streams(&self, events: &[&str]) {
        let mut state = self.state();
        state.reply.kind = "text/event-stream";
        state.reply.pieces = events.iter().map(|it| it.as_bytes().to_vec()).collect();
    }
}

impl World {
    async fn serve(&self, mut socket: TcpStream) {
        let Some((head, body)) = read_request(&mut socket).await else {
            return;
        };
        {
            let mut state = self.state.lock().unwrap();
            state.raw.push([head.as_bytes(), &body].concat());
        }
        if head.starts_with("GET /relay/v1/manifest ") {
            let answer = self.manifest();
            let _ = socket.write_all(&answer).await;
            return;
        }
        assert!(
            head.starts_with("POST /.well-known/ohttp-gateway "),
            "{head}"
        );
        let fault = self.state.lock().unwrap().faults.pop_front();
        match fault {
            Some(Fault::Before(refusal)) => {
                let _ = socket.write_all(&outer(refusal)).await;
            }
            Some(Fault::Close) => {}
            Some(Fault::Plain) => {
                let plain = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{\"choices\":[]}";
                let _ = socket.write_all(plain).await;
            }
            fault => match self.sealed(&body, fault.as_ref()) {
                Err(refusal) => {
                    let _ = socket.write_all(&outer(refusal)).await;
                }
                Ok(cells) => self.answer(socket, cells, fault).await,
            },
        }
    }

    async fn answer(&self, mut socket: TcpStream, cells: Vec<Vec<u8>>, fault: Option<Fault>) {
        const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: message/ohttp-chunked-res\r\ncache-control: no-store\r\nconnection: close\r\n\r\n";
        socket.write_all(HEAD).await.unwrap();
        match fault {
            Some(Fault::After(refusal)) => unreachable!("{refusal:?} has no answer"),
            Some(Fault::Cut(bytes)) => {
                let all = cells.concat();
                let _ = socket.write_all(&all[..bytes.min(all.len())]).await;
            }
            Some(Fault::Hold(count)) => {
                let (first, rest) = cells.split_at(count);
                let _ = socket.write_all(&first.concat()).await;
                let mut byte = [0];
                tokio::select! {
                    () = self.go.notified() => {
                        let _ = socket.write_all(&rest.concat()).await;
                    }
                    read = socket.read(&mut byte) => {
                        assert!(matches!(read, Ok(0) | Err(_)), "nothing more is sent");
                        self.left.notify_one();
                    }
                }
            }
            None | Some(Fault::Undone(_) | Fault::Before(_) | Fault::Close | Fault::Plain) => {
                let _ = socket.write_all(&cells.concat()).await;
            }
        }
    }

    fn manifest(&self) -> Vec<u8> {
        let mut state = self.state.lock().unwrap();
        state.manifests += 1;
        let wrong = state.wrong;
        let relay_id = if wrong == Wrong::Relay {
            "other"
        } else {
            self.relay_id
        };
        let manifest = Manifest::of(&state.ring, relay_id, state.serial, vec![]);
        let seed = if wrong == Wrong::Stranger {
            999_999
        } else {
            self.identity
        };
        let identity = IdentityKey::generate(&mut rng(seed));
        let mut since = now(state.ahead);
        if wrong == Wrong::Expired {
            since.0 -= 7_200;
        }
        let mut signed = SignedManifest::sign(&manifest, &identity, since, HOUR);
        let mut status = "200 OK";
        let mut more = "";
        match wrong {
            Wrong::Nothing | Wrong::Stranger | Wrong::Expired | Wrong::Relay => {}
            Wrong::Signature => {
                // Of another serial, so that it is not of these bytes.
                let serial = state.serial + 1;
                let manifest = Manifest::of(&state.ring, relay_id, serial, vec![]);
                signed.body = serde_json::to_vec(&manifest).unwrap();
                signed.content_digest = content_digest(&signed.body);
            }
            Wrong::TooLong => signed.body.resize(300 << 10, b' '),
            Wrong::Body => signed.body = b"<html>Please log in</html>".to_vec(),
            Wrong::Status => status = "404 Not Found",
            Wrong::Compressed => more = "content-encoding: gzip\r\n",
        }
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-digest: {}\r\n\
             signature-input: {}\r\nsignature: {}\r\n{more}content-length: {}\r\nconnection: close\r\n\r\n",
            signed.content_digest,
            signed.signature_input,
            signed.signature,
            signed.body.len()
        );
        [head.as_bytes(), &signed.body].concat()
    }

    /// The sealed answer, in cells.
    fn sealed(&self, body: &[u8], fault: Option<&Fault>) -> Result<Vec<Vec<u8>>, OuterRefusal> {
        let mut state = self.state.lock().unwrap();
        let now = now(state.ahead);
        let mut input = body;
        let head = HeadReader::new(Ciphers::Strict)
            .next(&mut input)
            .map_err(|_| OuterRefusal::Key)?
            .ok_or(OuterRefusal::Unopened)?;
        let digest = head.digest();
        let secret_key = state.ring.find(&head, now).map_err(|_| OuterRefusal::Key)?;
        let mut opener =
            RequestOpener::start(head, &secret_key).map_err(|_| OuterRefusal::Unopened)?;
        let mut plain = Vec::new();
        while let Some(chunk) = opener
            .next(&mut input)
            .map_err(|_| OuterRefusal::Unopened)?
        {
            plain.extend_from_slice(chunk);
        }
        let proof_secret = opener.proof_secret().clone();
        let (last, sealer) = opener.finish().map_err(|_| OuterRefusal::Unopened)?;
        plain.extend_from_slice(&last);
        let opened = read_message(&plain, body.len(), digest.short());
        state.opened.push(opened.clone());

        let claim = EdgeClaim::read(opened.field(EDGE_FIELD).as_bytes()).unwrap();
        assert_eq!((claim.edge_id(), claim.key_id()), (EDGE, "k1"));
        let public = ed25519_dalek::SigningKey::from_bytes(&SEED).verifying_key();
        let key = EdgeKey::ed25519(public.as_bytes()).unwrap();
        let at = Instant::now();
        let proven = match claim.session() {
            None => claim.verify(&key, self.relay_id, &proof_secret),
            Some(id) => {
                let sessions = state.sessions.as_ref();
                let session = sessions.and_then(|all| all.find(id, "k1", at));
                session.map_or(Err(Unproven), |session| {
                    claim.verify_by(&session, self.relay_id, &proof_secret)
                })
            }
        };
        if claim.session().is_none() {
            proven.unwrap();
        }
        let asks = opened.field(SESSION_FIELD) == SESSION_YES && claim.is_signed();
        let grants = asks && state.sessions.is_some();

        let shape: Shape = opened.field(SHAPE_FIELD).parse().unwrap();
        let date = UnixTime::from_http_date(opened.field("date")).unwrap();
        let key = opened.field("idempotency-key").to_owned();
        let refusal = match state.replays.take(&digest, date, now) {
            _ if proven.is_err() => Some(401),
            Err(ReplayRefused::Date { .. }) => Some(400),
            Err(refused) => panic!("{refused}"),
            Ok(()) => match fault {
                Some(Fault::Undone(status)) => Some(*status),
                _ => state.idempotence.take(EDGE, &key, now).err().map(|_| 409),
            },
        };
        let reply = match refusal {
            Some(400) => Reply {
                status: 400,
                kind: PROBLEM_MEDIA_TYPE,
                pieces: vec![format!("{{\"type\":\"{DATE_PROBLEM}\"}}").into_bytes()],
            },
            Some(status) => Reply {
                status,
                kind: "application/json",
                pieces: vec![b"{\"error\":{\"message\":\"no\"}}".to_vec()],
            },
            None => {
                state.calls.push(opened.clone());
                state.reply.clone()
            }
        };
        if let Some(Fault::After(refusal)) = fault {
            return Err(*refusal);
        }
        if grants && let Some(sessions) = &state.sessions {
            let session = Session::agreed(EDGE, self.relay_id, &proof_secret, digest);
            sessions.keep(session.unwrap(), "k1", at);
        }
        let wants_slim = opened.field(FRAMES_FIELD) == SLIM_FRAMES;
        let said = Said {
            is_processed: refusal.is_none(),
            wants_slim,
            grants_session: grants && refusal.is_none(),
        };
        let (cells, ends) = cells(sealer, shape, &reply, said, now);
        state.ends = ends;
        Ok(cells)
    }
}

/// What the answer's own fields say.
#[derive(Clone, Copy)]
struct Said {
    is_processed: bool,
    wants_slim: bool,
    grants_session: bool,
}

/// As a shape makes them, if its ticks pass in no time, with three before the answer begins.
fn cells(
    sealer: ResponseSealer,
    shape: Shape,
    reply: &Reply,
    said: Said,
    now: UnixTime,
) -> (Vec<Vec<u8>>, Vec<usize>) {
    let is_events = reply.kind == "text/event-stream";
    let is_slim = is_events && said.wants_slim;
    let mut header = Fields::default();
    let processed = if said.is_processed { "yes" } else { "no" };
    let date = now.to_http_date();
    for (name, value) in [
        ("content-type", reply.kind),
        ("relay-processed", processed),
        ("date", &date),
        (SHAPE_FIELD, &shape.to_string()),
    ] {
        header.push(name, value).unwrap();
    }
    if said.grants_session {
        header.push(SESSION_FIELD, SESSION_YES).unwrap();
    }
    if is_slim {
        header.push(FRAMES_FIELD, SLIM_FRAMES).unwrap();
    }
    let body = match (is_events, is_slim) {
        (true, true) => Body::Slim,
        (true, false) => Body::Events,
        (false, _) => Body::Other,
    };
    let mut at = Instant::now();
    let mut shaper = Shaper::new(shape, at);
    let mut out = Vec::new();
    let mut sealing = Some(sealer.start(&mut rng(3), &mut out));
    let mut cells = vec![out];
    let mut drain = |shaper: &mut Shaper, at: Instant| {
        while let Some(cell) = shaper.next(at) {
            let mut out = Vec::new();
            if cell.is_final {
                sealing
                    .take()
                    .unwrap()
                    .finish(&cell.plain, &mut out)
                    .unwrap();
            } else {
                let sealing = sealing.as_mut().unwrap();
                sealing.push(&cell.plain, &mut out).unwrap();
            }
            cells.push(out);
        }
        sealing.is_none()
    };
    for _ in 0..3 {
        drain(&mut shaper, at);
        at += TICK;
    }
    shaper.begin(reply.status, &header, body).unwrap();
    drain(&mut shaper, at);
    for piece in &reply.pieces {
        shaper.push(piece);
        drain(&mut shaper, at);
        at += TICK;
    }
    shaper.end(&Fields::default());
    while !drain(&mut shaper, at) {
        at += TICK;
    }
    let ends = cells.iter().scan(0, |end, cell| {
        *end += cell.len();
        Some(*end)
    });
    let ends = ends.collect();
    (cells, ends)
}

fn read_message(mut plain: &[u8], bytes: usize, enc: String) -> Opened {
    let mut reader = MessageReader::request();
    let mut opened = Opened {
        line: Default::default(),
        fields: Vec::new(),
        body: Vec::new(),
        bytes,
        enc,
    };
    while let Some(part) = reader.next(&mut plain).unwrap() {
        match part {
            Part::Request(line, fields) => {
                let parts = [line.method(), line.scheme(), line.authority(), line.path()];
                opened.line = parts.map(str::to_owned);
                let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
                let fields = fields.iter();
                opened.fields = fields
                    .map(|(name, value)| (name.to_owned(), text(value)))
                    .collect();
            }
            Part::Content(content) => opened.body.extend_from_slice(content),
            Part::Trailer(_) => {}
            Part::Informational(..) | Part::Response(..) => unreachable!("this is a request"),
        }
    }
    assert_eq!(reader.finish(), Ok(None));
    opened
}

fn outer(refusal: OuterRefusal) -> Vec<u8> {
    let (status, body) = (refusal.status(), refusal.body());
    let wait = if refusal.has_wait() {
        "retry-after: 1\r\n"
    } else {
        ""
    };
    format!(
        "HTTP/1.1 {status} No\r\ncontent-type: {PROBLEM_MEDIA_TYPE}\r\n{wait}content-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Head and body. `None` where the client left before it was whole.
async fn read_request(socket: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(0, |length| length.parse().unwrap());
    while bytes.len() < end + length {
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    Some((head, bytes.split_off(end)))
}
