//! Exchanges that go well, and those that their caller leaves.

use domain::{HealthState, SealedSide};

use super::gateway::{Fault, Gateway};
use super::*;
use crate::shape::{Bucket, CellSize, Shape};

pub const EVENTS: [&str; 4] = [
    "data: {\"id\":\"c-1\",\"choices\":[{\"delta\":{\"content\":\"we\"}}]}\n\n",
    "data: {\"id\":\"c-1\",\"choices\":[{\"delta\":{\"content\":\" sell\"}}]}\n\n",
    ": keep-alive\n\n",
    "data: [DONE]\n\n",
];

pub const CONSTANT: Shape = Shape::Constant(CellSize::B512, Bucket::Double);

pub fn rules(shape: Shape, takes_slim: bool) -> ClientRules {
    ClientRules {
        shape,
        takes_slim,
        ..ClientRules::default()
    }
}

#[tokio::test]
async fn every_shape_and_frame_brings_the_same_answers() {
    let gateway = Gateway::start("relay-1").await;
    let shapes = [Shape::Off, Shape::default(), CONSTANT];
    for (shape, takes_slim) in shapes.into_iter().flat_map(|it| [(it, false), (it, true)]) {
        let edge = edge(&[&gateway], rules(shape, takes_slim));
        gateway.streams(&EVENTS);
        let id = format!("s-{shape}-{takes_slim}");
        let seen = streamed(&edge, &id).await.unwrap();
        assert_eq!(seen, EVENTS.concat(), "{shape} {takes_slim}");

        {
            let mut state = gateway.state();
            state.reply.kind = "application/json";
            state.reply.pieces = vec![vec![b'x'; 3_000], vec![b'y'; 9]];
        }
        let id = format!("w-{shape}-{takes_slim}");
        let (status, body) = whole(&edge, &id).await.unwrap();
        assert_eq!((status, body.len()), (200, 3_009), "{shape} {takes_slim}");
    }
}

#[tokio::test]
async fn what_is_sealed_is_what_the_provider_needs_and_who_asks() {
    let gateway = Gateway::start("relay-1").await;
    let edge = edge(&[&gateway], ClientRules::default());
    let answer = whole(&edge, "r-1").await.unwrap();
    assert_eq!(answer, (200, "{\"a\":1}".to_owned()));
    let calls = gateway.state().calls.clone();
    let [call] = &calls[..] else {
        panic!("one call, not {}", calls.len());
    };
    assert_eq!(
        call.line,
        ["POST", "https", "relay.invalid", "/v1/chat/completions?a=1"]
    );
    assert_eq!(call.body, PROMPT.as_bytes());
    let names: Vec<&str> = call.fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "accept",
            "content-type",
            "openai-beta",
            "x-request-id",
            "date",
            "idempotency-key",
            "relay-edge",
            "relay-shape",
            "relay-session",
        ]
    );
    assert_eq!(call.field("relay-shape"), "cells;size=512");

    let entries = edge.log.entries();
    let [entry] = &entries[..] else {
        panic!("one entry, not {}", entries.len());
    };
    assert_eq!(entry.enc, call.enc, "both ends name the exchange alike");
    assert_eq!(
        (entry.side, entry.result, entry.status),
        (SealedSide::Edge, SealedResult::Answered, Some(200))
    );
    assert_eq!(entry.edge.as_deref(), Some(EDGE));
    assert_eq!(entry.relay, "relay-1");
    assert_eq!(entry.path.as_deref(), Some("/v1/chat/completions"));
    assert_eq!(entry.model.as_deref(), Some("secret-model"));
    assert_eq!(entry.bytes_up, call.bytes as u64);

    let figures = edge.client.figures();
    assert_eq!((figures.sealed_requests, figures.manifests_taken), (1, 1));
    assert_eq!(figures.content_up_bytes, PROMPT.len() as u64);
    assert_eq!(figures.content_down_bytes, 7);
    assert_eq!(figures.sealed_up_bytes, entry.bytes_up);
    assert_eq!(figures.sealed_down_bytes, entry.bytes_down);
    assert_eq!(edge.client.health().state, HealthState::Ready);
}

#[tokio::test]
async fn the_network_sees_the_same_head_for_every_request_and_nothing_of_what_it_is() {
    let gateway = Gateway::start("relay-1").await;
    let edge = edge(&[&gateway], ClientRules::default());
    whole(&edge, "r-1").await.unwrap();
    gateway.streams(&EVENTS);
    streamed(&edge, "r-2").await.unwrap();
    let raw = gateway.state().raw.clone();
    assert_eq!(raw.len(), 3, "a manifest and two requests");
    for secret in [
        "/v1/chat",
        "completions",
        "secret-model",
        "the plan",
        "sk-very",
        "session=",
        "somebody/9",
        "openai",
        "r-1",
        "r-2",
        "idempotency",
        "relay-edge",
        "k1\"",
        "relay.invalid",
        EDGE,
    ] {
        for bytes in &raw {
            let mut windows = bytes.windows(secret.len());
            assert!(!windows.any(|it| it == secret.as_bytes()), "{secret}");
        }
    }
    let heads: Vec<String> = raw[1..]
        .iter()
        .map(|bytes| {
            let end = bytes
                .windows(4)
                .position(|four| four == b"\r\n\r\n")
                .unwrap();
            String::from_utf8(bytes[..end].to_vec()).unwrap()
        })
        .collect();
    // PADMÉ brings both to one length.
    assert_eq!(heads[0], heads[1]);
    let mut names: Vec<&str> = heads[0]
        .lines()
        .skip(1)
        .map(|line| line.split(": ").next().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accept",
            "accept-encoding",
            "content-length",
            "content-type",
            "host",
            "incremental",
            "user-agent"
        ]
    );
    assert!(heads[0].contains("incremental: ?1\r\n"));
    assert!(heads[0].contains("content-type: message/ohttp-chunked-req\r\n"));
    // The key of the kind that holds against a quantum computer, though another stands first.
    let kem = raw[1]
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap()
        + 5;
    assert_eq!(raw[1][kem..kem + 2], [0x64, 0x7a]);
}

#[tokio::test]
async fn a_long_request_is_sealed_elsewhere_and_one_too_long_is_declined() {
    let gateway = Gateway::start("relay-1").await;
    let edge = edge(&[&gateway], ClientRules::default());
    let mut long = parcel("r-1", false);
    long.body = vec![b'z'; 600 << 10].into();
    let delivered = edge.client.carry(long).await.unwrap();
    assert_eq!(read(delivered).await.0, b"{\"a\":1}");
    assert_eq!(gateway.state().calls[0].body.len(), 600 << 10);

    let mut too_long = parcel("r-2", false);
    too_long.body = vec![b'z'; 33 << 20].into();
    let error = edge.client.carry(too_long).await.unwrap_err();
    assert!(matches!(error, BackendError::Declined { .. }), "{error:?}");
    let mut strange = parcel("r-3", false);
    strange.path = "/v1/a b".to_owned();
    let error = edge.client.carry(strange).await.unwrap_err();
    assert!(matches!(error, BackendError::Declined { .. }), "{error:?}");
    assert_eq!(gateway.state().opened.len(), 1);
}

#[tokio::test]
async fn a_caller_that_leaves_resets_the_exchange_at_once() {
    let gateway = Gateway::start("relay-1").await;
    let edge = edge(&[&gateway], rules(Shape::Off, false));
    gateway.streams(&EVENTS);
    // In the middle of an answer.
    gateway.will(Fault::Hold(2));
    let delivered = edge.client.carry(parcel("r-1", true)).await.unwrap();
    drop(delivered);
    gateway.world.left.notified().await;
    // Before it began.
    gateway.will(Fault::Hold(0));
    {
        let mut carrying = edge.client.carry(parcel("r-2", true));
        while gateway.state().calls.len() < 2 {
            let mut waiting = std::pin::pin!(tokio::task::yield_now());
            tokio::select! {
                _ = &mut carrying => panic!("nothing was answered"),
                () = &mut waiting => {}
            }
        }
    }
    gateway.world.left.notified().await;
    let results = edge.log.results();
    assert_eq!(results, [SealedResult::Abandoned; 2]);
    assert_eq!(edge.client.members()[0].in_flight, 0);
}

#[tokio::test]
async fn the_rest_of_a_constant_answer_is_read_out_after_its_end() {
    let gateway = Gateway::start("relay-1").await;
    let edge = edge(&[&gateway], rules(CONSTANT, true));
    gateway.streams(&EVENTS);
    for says_enough in [false, true] {
        // Three before the answer begins and six with it: far from twenty, the least there are.
        gateway.will(Fault::Hold(10));
        let delivered = edge.client.carry(parcel("r", true)).await.unwrap();
        if says_enough {
            delivered.enough.tell();
            drop(delivered);
        } else {
            let (body, error) = read(delivered).await;
            assert!(error.is_none());
            assert_eq!(body, EVENTS.concat().as_bytes());
        }
        assert_eq!(
            edge.client.members()[0].in_flight,
            0,
            "its reader has it all"
        );
        gateway.world.go.notify_one();
        let count = edge.log.entries().len();
        tokio::select! {
            () = edge.client.tend() => unreachable!(),
            () = async {
                while edge.log.entries().len() == count {
                    tokio::task::yield_now().await;
                }
            } => {}
        }
        let entry = edge.log.entries().pop().unwrap();
        assert_eq!(entry.result, SealedResult::Answered);
        let sent = *gateway.state().ends.last().unwrap() as u64;
        assert_eq!(entry.bytes_down, sent, "to the last cell");
    }
}
