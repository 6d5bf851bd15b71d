//! The halves against each other: what one writes the other reads.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use domain::{BackendError, ChatEvent, Reply, collect};
use futures::{StreamExt, executor::block_on, stream};

use super::Messages;
use crate::openai::Framing;
use crate::{ClientDialect, ServerDialect};

fn request(members: &str) -> Bytes {
    let body = format!(
        r#"{{"model":"m","max_tokens":9,{members}"messages":[{{"role":"user","content":"a"}}]}}"#
    );
    Bytes::from(body)
}

fn framing(reply: &Reply) -> Framing {
    Framing {
        id: reply.started.reply_id.clone().unwrap_or_default(),
        created: 0,
        model: reply.started.model.clone(),
        includes_usage: true,
    }
}

fn events_of(stream: &[u8]) -> Vec<Result<ChatEvent, BackendError>> {
    let mut decoder = Messages.decoder();
    let mut out = VecDeque::new();
    decoder.push(stream, &mut out);
    decoder.finish(&mut out);
    // As after unmasking: written from `domain`.
    out.retain(|event| !matches!(event, Ok(ChatEvent::Written(_))));
    out.into()
}

fn reply_of(stream: &[u8]) -> Reply {
    let events = events_of(stream);
    block_on(collect(stream::iter(events).boxed())).unwrap()
}

const STREAMS: [&str; 4] = [
    include_str!("fixtures/stream_text.sse"),
    include_str!("fixtures/stream_tools.sse"),
    include_str!("fixtures/stream_thinking.sse"),
    include_str!("fixtures/stream_stop.sse"),
];

/// A node before a node of the same dialect: what a provider said comes through whole.
#[test]
fn what_a_provider_streams_is_read_the_same_behind_us() {
    for asks in [r#""thinking":{"type":"adaptive"},"#, ""] {
        for provider in STREAMS {
            let events = events_of(provider.as_bytes());
            let reply = reply_of(provider.as_bytes());
            let mut encoder = Messages.decode(&request(asks)).unwrap().encoder;
            let mut out = BytesMut::new();
            encoder.begin(framing(&reply));
            for event in events {
                encoder.event(&event.unwrap(), &mut out);
            }
            encoder.finish(&mut out);
            assert_eq!(reply_of(&out), reply, "{provider}");
            let mut encoder = Messages.decode(&request(asks)).unwrap().encoder;
            let whole = encoder.whole(&framing(&reply), &reply);
            let mut read = Messages.decode_reply(&whole).unwrap();
            read.written = None;
            assert_eq!(read, reply, "{provider}");
        }
    }
}

#[test]
fn a_refusal_is_read_as_it_was_written() {
    let error = crate::openai::ErrorBody {
        message: "there is no such model".into(),
        kind: "invalid_request_error",
        param: None,
        code: None,
    };
    let written = ServerDialect::refusal(&Messages, 404, &error, "r");
    let read = Messages.decode_error(&written).unwrap();
    assert_eq!(read.reason.message, error.message);
    assert_eq!(read.reason.code.as_deref(), Some("not_found_error"));
}

#[test]
fn a_silence_is_broken_by_what_clients_read_over() {
    let encoder = Messages.decode(&request("")).unwrap().encoder;
    let mut stream = STREAMS[0].replacen("event: content_block_start", "PING", 1);
    let ping = String::from_utf8(encoder.keep_alive().to_vec()).unwrap();
    stream = stream.replace("PING", &format!("{ping}event: content_block_start"));
    assert_eq!(reply_of(stream.as_bytes()), reply_of(STREAMS[0].as_bytes()));
}
