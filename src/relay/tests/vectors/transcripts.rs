//! Exchanges that `ohttp-ts` 0.3.0 made both sides of, in all four suites.

use crate::bhttp::{MessageReader, Part};
use crate::tests::support::{field, number, open, read_answer, shared};
use crate::{Ciphers, HeadReader, Kem, KeyConfig, RequestOpener, ResponseOpener, SecretKey};

/// What opens the response to a request: both sides' keys come from the same secret.
fn response_opener(secret_key: &SecretKey, sealed: &[u8]) -> ResponseOpener {
    let mut rest = sealed;
    let mut head = HeadReader::new(Ciphers::Interop);
    let head = head.next(&mut rest).unwrap().unwrap();
    RequestOpener::start(head, secret_key)
        .unwrap()
        .into_response_opener()
}

fn read(mut reader: MessageReader, bytes: &[u8]) -> (String, Vec<u8>) {
    let (mut begins, mut body) = (String::new(), Vec::new());
    let mut take = |part: Part<'_>| match part {
        Part::Request(line, _) => {
            begins = format!(
                "{} {}://{}{}",
                line.method(),
                line.scheme(),
                line.authority(),
                line.path()
            );
        }
        Part::Response(status, _) => begins = status.to_string(),
        Part::Content(content) => body.extend_from_slice(content),
        Part::Informational(..) | Part::Trailer(_) => {}
    };
    for byte in bytes {
        let mut input = std::slice::from_ref(byte);
        while let Some(part) = reader.next(&mut input).unwrap() {
            take(part);
        }
    }
    while let Some(part) = reader.finish().unwrap() {
        take(part);
    }
    (begins, body)
}

/// Made on 21 November 2026 with `ohttp-ts` 0.3.0 on npm `hpke` 1.1.7.
const TRANSCRIPTS: &str = include_str!("../fixtures/chunked-ohttp-transcripts-ohttp-ts.json");

#[test]
fn the_shared_transcripts_are_those_carried_here() {
    let Some(transcripts) = shared("chunked-ohttp-transcripts-ohttp-ts.json") else {
        return;
    };
    assert_eq!(
        transcripts,
        serde_json::from_str::<serde_json::Value>(TRANSCRIPTS).unwrap()
    );
}

#[test]
fn transcripts_of_ohttp_ts_open_in_all_four_suites() {
    let transcripts: serde_json::Value = serde_json::from_str(TRANSCRIPTS).unwrap();
    let transcripts = transcripts.as_array().unwrap();
    assert_eq!(transcripts.len(), 4);
    for transcript in transcripts {
        let text = |name: &str| transcript[name].as_str().unwrap();
        let kem = Kem::ALL
            .into_iter()
            .find(|kem| u64::from(kem.id()) == number(transcript, "kem_id"));
        let secret = field(transcript, "skR").try_into().unwrap();
        let secret_key = SecretKey::from_bytes(kem.unwrap(), &secret);
        let config = KeyConfig::read(&field(transcript, "key_config"))
            .unwrap()
            .unwrap();
        assert_eq!(config.public_key(), secret_key.public_key());
        let offered: Vec<u64> = config.aeads().iter().map(|aead| aead.id().into()).collect();
        assert!(offered.contains(&number(transcript, "aead_id")));

        let sealed = field(transcript, "encapsulated_request");
        let (plain, _) = open(&secret_key, &sealed, 1).unwrap();
        let (begins, body) = read(MessageReader::request(), &plain);
        assert_eq!(
            begins,
            format!("{} {}", text("request_method"), text("request_url"))
        );
        assert_eq!(body, text("request_body").as_bytes());

        let answer = field(transcript, "encapsulated_response");
        let plain = read_answer(response_opener(&secret_key, &sealed), &answer, 1).unwrap();
        let (begins, body) = read(MessageReader::response(), &plain);
        assert_eq!(begins, number(transcript, "response_status").to_string());
        assert_eq!(body, text("response_body").as_bytes());
    }
}
