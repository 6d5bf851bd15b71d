//! What sizes and times tell: streams of two topics through each shape, in virtual time.
//!
//! `leak TOPIC_A.txt TOPIC_B.txt [STREAMS] [SEED]` writes one line of JSON for each stream and shape:
//! what somebody on the way sees. `loadtest/leak` makes topics of it again, as far as that goes.
//!
//! Two scenes. In `alike` both topics are answered at the same speed and as long; only their words
//! differ. In `apart` the second topic begins later, goes slower and is longer.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "it writes to a script, and whatever is wrong ends it"
)]

use std::collections::VecDeque;
use std::fs;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use relay::bhttp::{Fields, MessageReader, Part};
use relay::shape::{Body, FillStripper, Shape, Shaper};
use relay::slim::SlimDecoder;
use serde_json::json;

/// Parts that a text is cut into. No classifier learns from a part that it is asked about.
const PARTS: usize = 20;

/// Of a sealed chunk, beyond its plaintext: its length and its tag.
const SEALED_MORE: usize = 2 + 16;

/// How a topic is answered.
struct Pace {
    /// Medians: until the first token, and how many tokens there are.
    first_ms: f64,
    tokens: f64,
    tokens_a_second: f64,
}

const ALIKE: [Pace; 2] = [SLOW, SLOW];
const APART: [Pace; 2] = [QUICK, SLOW];

const QUICK: Pace = Pace {
    first_ms: 350.0,
    tokens: 160.0,
    tokens_a_second: 55.0,
};

const SLOW: Pace = Pace {
    first_ms: 500.0,
    tokens: 230.0,
    tokens_a_second: 42.0,
};

/// Of lognormal times and lengths, around their medians.
const SPREAD_FIRST: f64 = 0.35;
const SPREAD_TOKENS: f64 = 0.5;
const SPREAD_SPEED: f64 = 0.08;
const SPREAD_GAP: f64 = 0.4;

/// When an event came, from the request, and its bytes.
type Event = (Duration, Vec<u8>);

/// When something went, and its bytes on the wire.
type Sent = (Duration, usize);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let texts: [Vec<Vec<String>>; 2] = [0, 1].map(|topic| parts(&words[topic]));
    let number = |at: usize, other: u64| words.get(at).map_or(other, |word| word.parse().unwrap());
    let (streams, seed) = (number(2, 700), number(3, 1));
    let ways: Vec<(&str, Shape, Body)> = [
        ("off", Body::Events),
        ("off", Body::Slim),
        ("cells;size=512", Body::Events),
        ("cells;size=512", Body::Slim),
        ("constant;size=1024;bucket=1.25", Body::Events),
        ("constant;size=512;bucket=2", Body::Slim),
        ("constant;size=512;bucket=4", Body::Slim),
        ("constant;size=128;bucket=1.25", Body::Slim),
        ("constant;size=128;bucket=2", Body::Slim),
        ("constant;size=128;bucket=4", Body::Slim),
    ]
    .map(|(shape, body)| (shape, shape.parse().unwrap(), body))
    .to_vec();
    for (scene, paces) in [("alike", &ALIKE), ("apart", &APART)] {
        for (topic, pace) in paces.iter().enumerate() {
            let mut rng = StdRng::seed_from_u64(seed ^ (topic as u64) << 32);
            for stream in 0..streams as usize {
                let part = stream % PARTS;
                let events = events(&texts[topic][part], pace, &mut rng);
                let plain: Vec<Sent> = events
                    .iter()
                    .map(|(at, event)| (*at, event.len()))
                    .collect();
                let bytes: usize = plain.iter().map(|(_, bytes)| bytes).sum();
                tell(scene, "plain", topic, part, &plain, bytes, &[]);
                for (name, shape, body) in &ways {
                    let (sent, late) = through(*shape, *body, &events);
                    let slim = match body {
                        Body::Slim => " slim",
                        Body::Events | Body::Other => "",
                    };
                    tell(
                        scene,
                        &format!("{name}{slim}"),
                        topic,
                        part,
                        &sent,
                        bytes,
                        &late,
                    );
                }
            }
        }
    }
}

fn tell(
    scene: &str,
    way: &str,
    topic: usize,
    part: usize,
    sent: &[Sent],
    plain: usize,
    late: &[Duration],
) {
    let ms = |at: &Duration| at.as_micros() as f64 / 1_000.0;
    let late: Vec<f64> = late.iter().map(ms).collect();
    let times: Vec<f64> = sent.iter().map(|(at, _)| ms(at).round()).collect();
    let sizes: Vec<usize> = sent.iter().map(|(_, bytes)| *bytes).collect();
    let line = json!({
        "scene": scene, "way": way, "topic": topic, "part": part,
        "times": times, "sizes": sizes, "plain": plain, "late": late,
    });
    println!("{line}");
}

/// The tokens of each part of a text: words with the space before them, longer ones in pieces, and
/// marks, much as tokenizers have them.
fn parts(path: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(path).unwrap();
    let mut tokens: Vec<String> = Vec::new();
    for word in text.split_inclusive([' ', '\n']) {
        let letters = word.trim_end();
        let bare = letters.trim_end_matches(|letter: char| letter.is_ascii_punctuation());
        let mut piece = String::from(" ");
        for letter in bare.chars() {
            piece.push(letter);
            if piece.len() == 9 {
                tokens.push(std::mem::take(&mut piece));
            }
        }
        tokens.push(piece);
        tokens.push(letters[bare.len()..].to_owned());
        if word.ends_with('\n') {
            tokens.push("\n\n".to_owned());
        }
    }
    tokens.retain(|token| !token.trim_matches(' ').is_empty());
    let each = tokens.len() / PARTS;
    tokens
        .chunks(each)
        .take(PARTS)
        .map(<[String]>::to_vec)
        .collect()
}

/// A factor around 1.
fn lognormal(spread: f64, rng: &mut StdRng) -> f64 {
    // Box and Muller's.
    let (one, two): (f64, f64) = (rng.random(), rng.random());
    let normal = (-2.0 * (1.0 - one).ln()).sqrt() * (std::f64::consts::TAU * two).cos();
    (spread * normal).exp()
}

/// A chat of OpenAI's, in the form of its chunks.
fn events(tokens: &[String], pace: &Pace, rng: &mut StdRng) -> Vec<Event> {
    let chunk = |delta: serde_json::Value, reason: Option<&str>| {
        let body = json!({
            "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT", "object": "chat.completion.chunk",
            "created": 1_741_569_952, "model": "gpt-5.1-2025-11-13", "service_tier": "default",
            "system_fingerprint": null,
            "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason}],
        });
        format!("data: {body}\n\n").into_bytes()
    };
    let ms = |ms: f64| Duration::from_micros((ms * 1_000.0) as u64);
    let count = (pace.tokens * lognormal(SPREAD_TOKENS, rng)) as usize;
    let gap_ms = 1_000.0 / (pace.tokens_a_second * lognormal(SPREAD_SPEED, rng));
    let begin = rng.random_range(0..tokens.len());
    let mut at = ms(pace.first_ms * lognormal(SPREAD_FIRST, rng));
    let mut events = vec![(at, chunk(json!({"role": "assistant", "content": ""}), None))];
    for token in tokens
        .iter()
        .cycle()
        .skip(begin)
        .take(count.clamp(10, 2_000))
    {
        events.push((at, chunk(json!({"content": token}), None)));
        at += ms(gap_ms * lognormal(SPREAD_GAP, rng));
    }
    events.push((at, chunk(json!({}), Some("stop"))));
    events.push((at, b"data: [DONE]\n\n".to_vec()));
    events
}

/// What is seen of a stream in this shape, and how much later each event is there.
fn through(shape: Shape, body: Body, events: &[Event]) -> (Vec<Sent>, Vec<Duration>) {
    let accepted = Instant::now();
    let mut shaper = Shaper::new(shape, accepted);
    let mut reader = Reader::new(body, events);
    let mut sent = Vec::new();
    let mut coming: VecDeque<&Event> = events.iter().collect();
    let mut is_begun = false;
    loop {
        let arrival = coming.front().map(|(at, _)| accepted + *at);
        let now = match (arrival, shaper.due()) {
            (Some(arrival), Some(due)) => arrival.min(due),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => unreachable!("the last cell is final"),
        };
        while coming.front().is_some_and(|(at, _)| accepted + *at == now) {
            if !is_begun {
                shaper.begin(200, &header(), body).unwrap();
                is_begun = true;
            }
            if let Some((_, event)) = coming.pop_front() {
                shaper.push(event);
            }
            if coming.is_empty() {
                shaper.end(&Fields::default());
            }
            // What comes in one go is not cut into events by a shape that sends pieces.
            if matches!(shape, Shape::Off) {
                break;
            }
        }
        while let Some(cell) = shaper.next(now) {
            sent.push((now - accepted, cell.plain.len() + SEALED_MORE));
            reader.read(&cell.plain, now - accepted);
            if cell.is_final {
                return (sent, reader.late);
            }
        }
    }
}

fn header() -> Fields {
    let mut fields = Fields::default();
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("x-request-id", "req_8f14e45fceea167a5a36dedd4bea2543"),
        ("relay-processed", "yes"),
    ] {
        fields.push(name, value).unwrap();
    }
    fields
}

/// The edge, which takes the time.
struct Reader {
    message: MessageReader,
    fill: Option<FillStripper>,
    frames: SlimDecoder,
    read: usize,
    /// When each event came, and where it ends.
    waiting: VecDeque<(Duration, usize)>,
    late: Vec<Duration>,
}

impl Reader {
    fn new(body: Body, events: &[Event]) -> Self {
        let mut end = 0;
        let waiting = events.iter().map(|(at, event)| {
            end += event.len();
            (*at, end)
        });
        Self {
            message: MessageReader::response(),
            fill: (body != Body::Slim).then(FillStripper::default),
            frames: SlimDecoder::default(),
            read: 0,
            waiting: waiting.collect(),
            late: Vec::new(),
        }
    }

    fn read(&mut self, plain: &[u8], at: Duration) {
        let mut input = plain;
        let mut out = Vec::new();
        while let Some(part) = self.message.next(&mut input).unwrap() {
            if let Part::Content(content) = part {
                match &mut self.fill {
                    Some(stripper) => stripper.push(content, &mut out),
                    None => self.frames.push(content, &mut out).unwrap(),
                }
            }
        }
        self.read += out.len();
        while let Some((came, _)) = self.waiting.pop_front_if(|(_, end)| *end <= self.read) {
            self.late.push(at - came);
        }
    }
}
