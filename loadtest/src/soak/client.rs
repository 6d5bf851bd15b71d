//! One caller after the other, of every kind there is.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::try_join_all;
use hdrhistogram::Histogram;
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Soak;
use crate::drive::{Lane, Target, histogram, nanos};
use crate::race::prose;

/// A reply that has not ended after this long is stuck: a slot's whole context takes a fraction.
const EXCHANGE_MAX: Duration = Duration::from_secs(120);
/// Words of what failed that are kept, for the report.
const FAULTS_MAX: usize = 8;
const FAULT_BYTES_MAX: usize = 200;
/// Tokens of a reply that is to go on while others begin.
const LASTING_TOKENS: u32 = 2_000;
const LONG_WORDS: u32 = 300;
const MIDDLING_WORDS: u32 = 24;

/// What a caller does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Whole,
    Streamed,
    /// Leaves in mid-stream.
    Leaves,
    /// Reads late and little.
    Dawdles,
    Long,
    Wrong,
    Format,
    /// Asks what the cache knows.
    Known,
}

impl Kind {
    const ALL: [Kind; 8] = [
        Kind::Whole,
        Kind::Streamed,
        Kind::Leaves,
        Kind::Dawdles,
        Kind::Long,
        Kind::Wrong,
        Kind::Format,
        Kind::Known,
    ];

    pub(super) fn as_label(self) -> &'static str {
        match self {
            Kind::Whole => "whole",
            Kind::Streamed => "streamed",
            Kind::Leaves => "leaves",
            Kind::Dawdles => "dawdles",
            Kind::Long => "long prompt",
            Kind::Wrong => "wrong",
            Kind::Format => "format",
            Kind::Known => "known",
        }
    }
}

/// How an exchange ended.
enum End {
    /// As this kind should.
    Well,
    /// Told to come back later.
    Refused,
    Failed(String),
    Stuck,
}

/// What came of one kind.
#[derive(Debug)]
pub(super) struct Ends {
    pub well: u64,
    pub refused: u64,
    pub failed: u64,
    pub stuck: u64,
    /// Of those that ended well, to their last byte.
    pub times: Histogram<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub kinds: BTreeMap<Kind, Ends>,
    pub faults: Vec<String>,
}

impl Tally {
    fn of(&mut self, kind: Kind) -> &mut Ends {
        self.kinds.entry(kind).or_insert_with(|| Ends {
            well: 0,
            refused: 0,
            failed: 0,
            stuck: 0,
            times: histogram(),
        })
    }

    fn take(&mut self, kind: Kind, end: End, took: Duration) {
        let ends = self.of(kind);
        match end {
            End::Well => {
                ends.well += 1;
                ends.times.saturating_record(nanos(took));
            }
            End::Refused => ends.refused += 1,
            End::Stuck => ends.stuck += 1,
            End::Failed(fault) => {
                ends.failed += 1;
                if self.faults.len() < FAULTS_MAX {
                    self.faults.push(format!("{}: {fault}", kind.as_label()));
                }
            }
        }
    }

    pub(super) fn merge(&mut self, other: Tally) {
        for (kind, theirs) in other.kinds {
            let ours = self.of(kind);
            ours.well += theirs.well;
            ours.refused += theirs.refused;
            ours.failed += theirs.failed;
            ours.stuck += theirs.stuck;
            let proof = "both were made by `histogram`, with the same bounds";
            ours.times.add(&theirs.times).expect(proof);
        }
        let room = FAULTS_MAX.saturating_sub(self.faults.len());
        self.faults.extend(other.faults.into_iter().take(room));
    }
}

pub(super) struct Client {
    target: Target,
    /// SplitMix64's state.
    dice: u64,
}

impl Client {
    pub(super) fn new(target: Target, dice: u64) -> Self {
        Self { target, dice }
    }

    fn below(&mut self, count: u64) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.dice;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % count.max(1)
    }

    pub(super) async fn run(mut self, until: Instant) -> Tally {
        let mut tally = Tally::default();
        while Instant::now() < until {
            let nth = usize::try_from(self.below(Kind::ALL.len() as u64)).unwrap_or(0);
            let kind = Kind::ALL[nth];
            let begun = Instant::now();
            let end = self.exchange(kind).await;
            let is_refused = matches!(end, End::Refused);
            tally.take(kind, end, begun.elapsed());
            if is_refused {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        tally
    }

    /// On a connection of its own, so that every kind of end is also an end of a connection.
    async fn exchange(&mut self, kind: Kind) -> End {
        let body = self.body(kind);
        let (reads, pause_ms) = match kind {
            Kind::Leaves => (1 + self.below(6), 0),
            Kind::Dawdles => (u64::MAX, 20 + self.below(400)),
            _ => (u64::MAX, 0),
        };
        let script = Script {
            kind,
            reads,
            pause: Duration::from_millis(pause_ms),
        };
        let exchange = script.play(&self.target, body);
        match tokio::time::timeout(EXCHANGE_MAX, exchange).await {
            Ok(Ok(end)) => end,
            Ok(Err(error)) => End::Failed(error.to_string()),
            Err(_) => End::Stuck,
        }
    }

    fn body(&mut self, kind: Kind) -> Bytes {
        let words = match kind {
            Kind::Long => LONG_WORDS,
            _ => 4 + u32::try_from(self.below(u64::from(MIDDLING_WORDS))).unwrap_or(0),
        };
        let seed = self.below(u64::MAX);
        let text = match kind {
            Kind::Known => "What is the capital of Portugal?".to_owned(),
            _ => format!("Tell me about {}.", prose(words, seed)),
        };
        let mut body = json!({
            "model": self.target.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 16 + seed % 64,
            "temperature": if kind == Kind::Known { 0 } else { 1 },
            "seed": seed % 1_000_000,
            "stream": matches!(kind, Kind::Streamed | Kind::Leaves | Kind::Dawdles),
        });
        if kind == Kind::Leaves {
            body["max_tokens"] = json!(LASTING_TOKENS);
        }
        if kind == Kind::Known {
            body["max_tokens"] = json!(32);
            body["seed"] = json!(1);
        }
        if kind == Kind::Format {
            body["max_tokens"] = json!(256);
            body["response_format"] = json!({"type": "json_schema", "json_schema": {
            "name": "choice", "strict": true, "schema": {
                "type": "object", "additionalProperties": false,
                "properties": {
                    "kind": {"enum": ["river", "stone", "lamp"]},
                    "is_known": {"type": "boolean"},
                },
                "required": ["kind", "is_known"],
            }}});
        }
        if kind == Kind::Wrong {
            return self.wrong(body);
        }
        Bytes::from(body.to_string())
    }

    fn wrong(&mut self, mut body: Value) -> Bytes {
        match self.below(5) {
            0 => return Bytes::from_static(b"{\"model\": \"local\", \"messages\": ["),
            1 => body["messages"] = json!([]),
            2 => body["temperature"] = json!(9),
            3 => body["model"] = json!("no-such-model"),
            _ => {
                body["response_format"] = json!({"type": "json_schema", "json_schema": {
                    "name": "n", "strict": true, "schema": {"type": "object", "no": "word"}}});
            }
        }
        Bytes::from(body.to_string())
    }
}

/// How one reply is read.
struct Script {
    kind: Kind,
    /// Stretches of the body that are read before its reader leaves.
    reads: u64,
    /// Before each of them.
    pause: Duration,
}

impl Script {
    async fn play(&self, target: &Target, body: Bytes) -> io::Result<End> {
        let (mut lane, drive) = Lane::connect(target.addr, Bytes::new()).await?;
        let mut driving = JoinSet::new();
        driving.spawn(drive);
        let reply = match self.kind {
            Kind::Known => lane.send_cacheable(body).await?,
            _ => lane.send(body).await?.1,
        };
        let status = reply.status();
        let mut frames = reply.into_body();
        let mut text = Vec::new();
        let mut reads = 0;
        while reads < self.reads {
            if !self.pause.is_zero() {
                tokio::time::sleep(self.pause).await;
            }
            let Some(more) = stretch(&mut frames).await? else {
                break;
            };
            text.extend_from_slice(&more);
            reads += 1;
        }
        Ok(self.judge(status, &text))
    }

    fn judge(&self, status: StatusCode, text: &[u8]) -> End {
        let start = String::from_utf8_lossy(&text[..text.len().min(FAULT_BYTES_MAX)]);
        let failed = |why: &str| End::Failed(format!("{why}, status {status}: {start}"));
        let is_busy = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::SERVICE_UNAVAILABLE,
        ];
        if is_busy.contains(&status) {
            return End::Refused;
        }
        if self.kind == Kind::Wrong {
            return match status.is_client_error() {
                true => End::Well,
                false => failed("not refused"),
            };
        }
        if status != StatusCode::OK {
            return failed("refused");
        }
        let is_whole = match self.kind {
            // A short reply may have ended first.
            Kind::Leaves => !text.is_empty(),
            Kind::Streamed | Kind::Dawdles => text.ends_with(b"data: [DONE]\n\n"),
            Kind::Format => content(text).is_some_and(|content| {
                serde_json::from_str::<Value>(&content).is_ok_and(|value| value.is_object())
            }),
            _ => content(text).is_some(),
        };
        if is_whole {
            End::Well
        } else {
            failed("not whole")
        }
    }
}

fn content(text: &[u8]) -> Option<String> {
    let reply: Value = serde_json::from_slice(text).ok()?;
    let content = &reply["choices"][0]["message"]["content"];
    content.as_str().map(str::to_owned)
}

/// The next bytes of a body; `None` at its end.
async fn stretch(frames: &mut Incoming) -> io::Result<Option<Bytes>> {
    while let Some(frame) = frames.frame().await {
        if let Ok(bytes) = frame.map_err(io::Error::other)?.into_data() {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// Waits for the node to have loaded its model.
///
/// # Errors
/// It answers with something else than that it is not ready.
pub(super) async fn until_answered(soak: &Soak, by: Instant) -> io::Result<()> {
    let mut client = Client::new(soak.target.clone(), soak.seed);
    loop {
        match client.exchange(Kind::Whole).await {
            End::Well => return Ok(()),
            End::Failed(fault) => return Err(io::Error::other(fault)),
            End::Refused | End::Stuck if Instant::now() > by => {
                return Err(io::Error::other("the node did not become ready"));
            }
            End::Refused | End::Stuck => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// One of each kind that must be answered, before anything is measured.
///
/// # Errors
/// It was not.
pub(super) async fn ask_once(soak: &Soak, round: u64, tally: &mut Tally) -> io::Result<()> {
    let mut client = Client::new(soak.target.clone(), soak.seed ^ !round);
    for kind in [Kind::Whole, Kind::Streamed, Kind::Format] {
        let begun = Instant::now();
        let end = client.exchange(kind).await;
        if let End::Failed(fault) = end {
            return Err(io::Error::other(fault));
        }
        tally.take(kind, end, begun.elapsed());
    }
    Ok(())
}

/// Whether as many replies are under way at once as there are slots: the last to begin has begun
/// before the first has ended. True only if none is missing; false also where one was too short.
pub(super) async fn has_every_slot(soak: &Soak, round: u32) -> io::Result<bool> {
    let replies = (0..soak.slots).map(|nth| async move {
        let (mut lane, drive) = Lane::connect(soak.target.addr, Bytes::new()).await?;
        let mut driving = JoinSet::new();
        driving.spawn(drive);
        let body = json!({
            "model": soak.target.model,
            "messages": [{"role": "user", "content": prose(8, u64::from(round) << 32 | u64::from(nth))}],
            "max_tokens": LASTING_TOKENS, "temperature": 2, "seed": nth, "stream": true,
            "ignore_eos": true,
        });
        let (_, reply) = lane.send(Bytes::from(body.to_string())).await?;
        let is_answered = reply.status() == StatusCode::OK;
        let mut frames = reply.into_body();
        // The first stretch of a stream is no proof of a slot: a role may be sent before.
        let mut first = None;
        let mut events = 0;
        while let Some(more) = stretch(&mut frames).await? {
            events += more.windows(2).filter(|two| two == b"\n\n").count();
            if events >= 3 {
                first.get_or_insert_with(Instant::now);
            }
        }
        io::Result::Ok(is_answered.then_some(first).flatten().map(|first| (first, Instant::now())))
    });
    let all = tokio::time::timeout(EXCHANGE_MAX, try_join_all(replies)).await;
    let Ok(spans) = all else {
        return Ok(false);
    };
    let spans: Option<Vec<_>> = spans?.into_iter().collect();
    let Some(spans) = spans else {
        return Ok(false);
    };
    let last_begun = spans.iter().map(|(begun, _)| *begun).max();
    let first_ended = spans.iter().map(|(_, ended)| *ended).min();
    Ok(last_begun < first_ended)
}
