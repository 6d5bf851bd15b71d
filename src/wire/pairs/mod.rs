//! Every dialect in, every dialect out: one table of exchanges for all pairs.
//!
//! ```text
//! in's ask ─in's server─► domain ─out's client─► out's `sent`
//! in's `answer` ◄─in's server─ domain ◄─out's client─ out's `reply`
//! ```
//! An exchange says the same in each dialect's file, `fixtures/<dialect>/<exchange>.json`:
//!
//! | member | whose words |
//! | --- | --- |
//! | `ask` | a client of the dialect |
//! | `sent` | the body that an upstream of it gets, whichever dialect asked |
//! | `reply`, `stream` | the upstream's reply, whole and as events |
//! | `answer`, `answer_stream` | what a client of it is answered, whichever dialect replied |
//!
//! What a pair of dialects cannot keep stands beside them, where everybody can see it: `sent_from`,
//! `answer_of` and `answer_stream_of` hold other values by the other dialect's name. An event is its
//! JSON, a string for what is none (`[DONE]`), or `{"event", "data"}` where it has a name.
//!
//! A dialect joins with a line in [`SIDES`] and its folder.

mod next_turn;
mod own_tools;

use std::collections::VecDeque;
use std::fs;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use domain::{ChatEvent, Delivery, Grammar, Reply, SourceBody, Started, collect};
use futures::{StreamExt, executor::block_on, stream};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::openai::Framing;
use crate::{
    Address, ClientDialect, Decoded, ServerDialect, SseDecoder, anthropic, bedrock, gemini, openai,
    responses,
};

/// The dialects that take part.
#[rustfmt::skip]
const SIDES: &[Side] = &[
    Side { name: "openai", client: &openai::Chat, server: Some(&[&openai::Chat, &openai::Chat]), passes_on: true, frame: events },
    Side { name: "responses", client: &responses::Responses, server: Some(&[&responses::Responses, &responses::Responses]), passes_on: false, frame: events },
    Side { name: "anthropic", client: &anthropic::Messages, server: Some(&[&anthropic::Messages, &anthropic::Messages]), passes_on: true, frame: events },
    Side { name: "gemini", client: &gemini::Gemini, server: Some(&[&gemini::GenerateContent, &gemini::StreamGenerateContent]), passes_on: true, frame: events },
    Side { name: "bedrock", client: &bedrock::Converse, server: None, passes_on: false, frame: binary_frames },
];

const EXCHANGES: [&str; 7] = [
    "text",
    "turns",
    "tools",
    "image",
    "length",
    "cached",
    "reasoning",
];

struct Side {
    name: &'static str,
    client: &'static dyn ClientDialect,
    /// Whole and streamed; `None` where nobody asks in this dialect.
    server: Option<&'static [&'static dyn ServerDialect; 2]>,
    /// Whether replies to callers of the same dialect are passed on as they are.
    passes_on: bool,
    /// Its stream's bytes.
    frame: fn(&[Value]) -> Vec<u8>,
}

/// Server-sent events.
fn events(items: &[Value]) -> Vec<u8> {
    let mut out = String::new();
    for item in items {
        let (name, data) = match (item.get("event"), item.get("data")) {
            (Some(Value::String(name)), Some(data)) => (Some(name), data),
            _ => (None, item),
        };
        if let Some(name) = name {
            out.push_str(&format!("event: {name}\n"));
        }
        match data {
            Value::String(text) => out.push_str(&format!("data: {text}\n\n")),
            data => out.push_str(&format!("data: {data}\n\n")),
        }
    }
    out.into_bytes()
}

/// Amazon's frames.
fn binary_frames(items: &[Value]) -> Vec<u8> {
    let frames = items.iter().map(|item| {
        let headers = [
            (":event-type", item["event"].as_str().unwrap()),
            (":content-type", "application/json"),
            (":message-type", "event"),
        ];
        bedrock::frames::frame(&headers, item["data"].to_string().as_bytes())
    });
    frames.collect::<Vec<_>>().concat()
}

/// The inverse of [`events`].
fn read_events(bytes: &[u8]) -> Vec<Value> {
    let mut items = Vec::new();
    let mut each = |event: crate::SseEvent<'_>| {
        let text = std::str::from_utf8(event.data).unwrap();
        let data = serde_json::from_str(text).unwrap_or_else(|_| text.into());
        items.push(match std::str::from_utf8(event.name).unwrap() {
            "" => data,
            name => json!({"event": name, "data": data}),
        });
    };
    let mut decoder = SseDecoder::new();
    decoder.push(bytes, &mut each).unwrap();
    decoder.finish(&mut each).unwrap();
    items
}

/// One exchange in one dialect.
struct Exchange(Value);

impl Exchange {
    fn read(side: &Side, name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("pairs/fixtures");
        let path = folder.join(side.name).join(format!("{name}.json"));
        let text = fs::read(&path).unwrap_or_else(|fault| panic!("{path:?}: {fault}"));
        Self(serde_json::from_slice(&text).unwrap_or_else(|fault| panic!("{path:?}: {fault}")))
    }

    /// A member, or the value it has where `other` is at the other end.
    fn with(&self, member: &str, of: &str, other: &Side) -> &Value {
        let special = self.0.get(of).and_then(|values| values.get(other.name));
        special.unwrap_or(&self.0[member])
    }

    fn items(&self) -> &[Value] {
        self.0["stream"]
            .as_array()
            .expect("a stream is a list of events")
    }
}

fn ask(side: &Side, exchange: &Exchange, is_streamed: bool) -> Decoded {
    ask_of(side, exchange.0["ask"].clone(), is_streamed)
}

fn ask_of(side: &Side, mut body: Value, is_streamed: bool) -> Decoded {
    let model = body
        .get("model")
        .and_then(Value::as_str)
        .unwrap_or("m-1")
        .to_owned();
    // Dialects whose address says so have no word for it in the body.
    if is_streamed && body.get("model").is_some() {
        body["stream"] = true.into();
        if side.name == "openai" {
            body["stream_options"] = json!({"include_usage": true});
        }
    }
    let [whole, streamed] = side.server.expect("it is asked");
    let server = if is_streamed { streamed } else { whole };
    let address = Address {
        model: Some(model),
        query: Some("alt=sse".into()),
    };
    let bytes = Bytes::from(body.to_string());
    server.decode_at(&address, &bytes).unwrap()
}

fn framing(decoded: &Decoded, reply: &domain::Started) -> Framing {
    let includes_usage = matches!(
        decoded.request.delivery,
        Delivery::Streamed {
            includes_usage: true
        }
    );
    // Where a reply does not say, it is the model that was asked.
    let model = match reply.model.as_str() {
        "" => "m-1",
        named => named,
    };
    Framing {
        id: "reply-1".into(),
        created: 1_764_000_000,
        model: model.into(),
        includes_usage,
    }
}

fn decoded_events(side: &Side, pieces: &[&[u8]]) -> Vec<ChatEvent> {
    let mut out = VecDeque::new();
    let mut decoder = side.client.decoder();
    for piece in pieces {
        decoder.push(piece, &mut out);
    }
    decoder.finish(&mut out);
    assert!(decoder.is_over());
    out.into_iter().map(Result::unwrap).collect()
}

fn check_grammar(events: &[ChatEvent]) {
    let mut grammar = Grammar::default();
    for event in events {
        grammar.take(event).unwrap();
    }
    grammar.finish().unwrap();
}

fn collected(events: &[ChatEvent]) -> Reply {
    let events: Vec<_> = events.iter().cloned().map(Ok).collect();
    block_on(collect(stream::iter(events).boxed())).unwrap()
}

/// Every pair of a dialect that is asked and one that answers.
fn pairs() -> impl Iterator<Item = (&'static Side, &'static Side)> {
    let asked = SIDES.iter().filter(|side| side.server.is_some());
    asked.flat_map(|ins| SIDES.iter().map(move |out| (ins, out)))
}

fn parsed(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[track_caller]
fn check(got: &Value, expected: &Value, label: &str) {
    assert!(!expected.is_null(), "{label}: nothing is expected");
    let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap();
    assert!(
        got == expected,
        "{label}\n--- got\n{}\n--- expected\n{}",
        pretty(got),
        pretty(expected)
    );
}

#[test]
fn every_request_arrives_in_every_dialect() {
    for name in EXCHANGES {
        for (ins, out) in pairs() {
            let (asked, sent) = (Exchange::read(ins, name), Exchange::read(out, name));
            for is_streamed in [false, true] {
                let mut decoded = ask(ins, &asked, is_streamed);
                // As after masking: written from `domain` even for the same dialect.
                let source: Option<SourceBody> = decoded.request.source.take();
                assert!(source.is_some(), "{name}: {} keeps its bytes", ins.name);
                decoded.request.delivery = Delivery::Whole;
                let body = out.client.encode_request("m-1", &decoded.request).unwrap();
                let label = format!("{name}: {} to {}", ins.name, out.name);
                check(&parsed(&body), sent.with("sent", "sent_from", ins), &label);
            }
        }
    }
}

#[test]
fn every_whole_reply_arrives_in_every_dialect() {
    for name in EXCHANGES {
        for (ins, out) in pairs() {
            let (asked, replied) = (Exchange::read(ins, name), Exchange::read(out, name));
            let mut decoded = ask(ins, &asked, false);
            let bytes = replied.0["reply"].to_string();
            let mut reply = out.client.decode_reply(bytes.as_bytes()).unwrap();
            // As after unmasking: written from `domain` even for the same dialect.
            reply.written = None;
            let framing = framing(&decoded, &reply.started);
            let answer = decoded.encoder.whole(&framing, &reply);
            let label = format!("{name}: {} answers {}", out.name, ins.name);
            check(
                &parsed(&answer),
                asked.with("answer", "answer_of", out),
                &label,
            );
        }
    }
}

#[test]
fn every_streamed_reply_arrives_in_every_dialect() {
    for name in EXCHANGES {
        for (ins, out) in pairs() {
            let (asked, replied) = (Exchange::read(ins, name), Exchange::read(out, name));
            let mut decoded = ask(ins, &asked, true);
            let mut events = decoded_events(out, &[&(out.frame)(replied.items())]);
            check_grammar(&events);
            events.retain(|event| !matches!(event, ChatEvent::Written(_)));
            let Some(ChatEvent::Started(started)) = events.first() else {
                panic!("{name}: {} begins with something else", out.name);
            };
            let framing = framing(&decoded, started);
            decoded.encoder.begin(framing);
            let mut bytes = BytesMut::new();
            for event in &events {
                decoded.encoder.event(event, &mut bytes);
            }
            decoded.encoder.finish(&mut bytes);
            let label = format!("{name}: {} streams to {}", out.name, ins.name);
            let expected = asked.with("answer_stream", "answer_stream_of", out);
            check(&read_events(&bytes).into(), expected, &label);
        }
    }
}

#[test]
fn a_streamed_reply_says_what_the_whole_one_does() {
    for name in EXCHANGES {
        for side in SIDES {
            let exchange = Exchange::read(side, name);
            let bytes = exchange.0["reply"].to_string();
            let mut whole = side.client.decode_reply(bytes.as_bytes()).unwrap();
            whole.written = None;
            let events = decoded_events(side, &[&(side.frame)(exchange.items())]);
            assert_eq!(collected(&events), whole, "{name} of {}", side.name);
        }
    }
}

#[test]
fn a_request_of_the_same_dialect_keeps_its_bytes() {
    for name in EXCHANGES {
        for side in SIDES.iter().filter(|side| side.server.is_some()) {
            let exchange = Exchange::read(side, name);
            let decoded = ask(side, &exchange, false);
            let body = side.client.encode_request("m-1", &decoded.request).unwrap();
            let label = format!("{name} of {}", side.name);
            check(&parsed(&body), &exchange.0["ask"], &label);
        }
    }
}

/// Byte for byte where its provider wrote what callers of the dialect know: each of these did.
#[test]
fn a_reply_of_the_same_dialect_keeps_its_bytes() {
    for name in EXCHANGES {
        for side in SIDES.iter().filter(|side| side.passes_on) {
            let exchange = Exchange::read(side, name);
            let bytes = exchange.0["reply"].to_string();
            let mut decoded = ask(side, &exchange, false);
            let reply = side.client.decode_reply(bytes.as_bytes()).unwrap();
            let framing = framing(&decoded, &reply.started);
            let answer = decoded.encoder.whole(&framing, &reply);
            assert_eq!(answer, bytes.as_bytes(), "{name} of {}", side.name);
        }
    }
}

#[test]
fn a_stream_of_the_same_dialect_keeps_its_events() {
    for name in EXCHANGES {
        for side in SIDES.iter().filter(|side| side.passes_on) {
            let exchange = Exchange::read(side, name);
            let sent = (side.frame)(exchange.items());
            let mut decoded = ask(side, &exchange, true);
            let events = decoded_events(side, &[&sent]);
            check_grammar(&events);
            let started = Started {
                model: "m-1".into(),
                reply_id: None,
                fingerprint: None,
            };
            decoded.encoder.begin(framing(&decoded, &started));
            let mut bytes = BytesMut::new();
            for event in &events {
                decoded.encoder.event(event, &mut bytes);
            }
            decoded.encoder.finish(&mut bytes);
            let label = format!("{name} of {}", side.name);
            assert_eq!(read_events(&bytes), read_events(&sent), "{label}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_cut_gives_the_same_events(
        exchange in 0..EXCHANGES.len(),
        side in 0..SIDES.len(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let side = &SIDES[side];
        let exchange = Exchange::read(side, EXCHANGES[exchange]);
        let bytes = (side.frame)(exchange.items());
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        at.sort_unstable();
        let mut pieces = Vec::new();
        let mut rest = bytes.as_slice();
        let mut done = 0;
        for cut in at {
            let (piece, after) = rest.split_at(cut - done);
            pieces.push(piece);
            rest = after;
            done = cut;
        }
        pieces.push(rest);
        prop_assert_eq!(decoded_events(side, &pieces), decoded_events(side, &[&bytes]));
    }

    /// Cut short, a stream is an error, or so short that nothing was said; never a whole reply.
    #[test]
    fn a_stream_cut_short_is_no_reply(
        exchange in 0..EXCHANGES.len(),
        side in 0..SIDES.len(),
        cut in any::<prop::sample::Index>(),
    ) {
        let side = &SIDES[side];
        let exchange = Exchange::read(side, EXCHANGES[exchange]);
        let bytes = (side.frame)(exchange.items());
        let mut out = VecDeque::new();
        let mut decoder = side.client.decoder();
        decoder.push(&bytes[..cut.index(bytes.len())], &mut out);
        decoder.finish(&mut out);
        let mut grammar = Grammar::default();
        let mut has_ended = false;
        for event in &out {
            match event {
                Ok(event) => {
                    prop_assert!(!has_ended);
                    grammar.take(event).unwrap();
                }
                Err(_) => has_ended = true,
            }
        }
        prop_assert!(has_ended || grammar.finish().is_ok());
    }
}
