//! The crates `ohttp` and `bhttp` 0.8.0 as our peers, in both directions, a byte at a time. They know
//! AES-128-GCM only; of the ciphers that we prefer, `vectors` has exchanges that others made.

use std::io::Cursor;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures::executor::block_on;
use futures::io::{AsyncReadExt, AsyncWriteExt};
use ohttp::hpke::{Aead as PeerAead, Kdf as PeerKdf, Kem as PeerKem};
use ohttp::{ClientRequest, KeyConfig as PeerConfig, Server, SymmetricSuite};

use super::support::{answer, keys, open, read_answer, rng, seal};
use crate::bhttp::{
    Fields, MessageReader, Part, RequestLine, ResponseWriter, write_known_request, write_request,
};
use crate::{
    Aead, Ciphers, HeadReader, Kem, KeyConfig, SecretKey, open_whole_request, seal_whole_request,
};

const QUESTION: [&[u8]; 3] = [b"a question", b" of", b" three parts"];
const ANSWER: [&[u8]; 3] = [b"an answer", b" as", b" long"];

/// Gives one byte a read.
struct Dribble(futures::io::Cursor<Vec<u8>>);

impl futures::io::AsyncRead for Dribble {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<std::io::Result<usize>> {
        let one = out.len().min(1);
        futures::io::AsyncRead::poll_read(Pin::new(&mut self.0), cx, &mut out[..one])
    }
}

fn dribble(bytes: &[u8]) -> Dribble {
    Dribble(futures::io::Cursor::new(bytes.to_vec()))
}

fn their_server(kem: PeerKem) -> (Server, KeyConfig) {
    let suite = SymmetricSuite::new(PeerKdf::HkdfSha256, PeerAead::Aes128Gcm);
    let config = PeerConfig::new(9, kem, vec![suite]).unwrap();
    let list = PeerConfig::encode_list(&[&config]).unwrap();
    let mut read = KeyConfig::read_list(&list).unwrap();
    assert_eq!(read.len(), 1);
    (Server::new(config).unwrap(), read.remove(0))
}

/// Their list reader takes the last entry, as ours is written: X25519 first, X-Wing last.
fn our_list() -> (SecretKey, Vec<u8>) {
    let x25519 = keys(Kem::X25519, 1).1;
    let (secret_key, x_wing) = keys(Kem::XWing, 2);
    (secret_key, KeyConfig::write_list([&x25519, &x_wing]))
}

#[test]
fn their_server_opens_our_chunks_and_we_open_its() {
    for kem in [PeerKem::X25519Sha256, PeerKem::XWing] {
        let (server, config) = their_server(kem);
        let (sealed, opener) = seal(&config, Aead::Aes128Gcm, &QUESTION, 3);
        let answer = block_on(async {
            let mut request = server.decapsulate_stream(dribble(&sealed));
            let mut plain = Vec::new();
            request.read_to_end(&mut plain).await.unwrap();
            assert_eq!(plain, QUESTION.concat());
            let written = Written::default();
            let mut response = request.response(written.clone()).unwrap();
            for chunk in ANSWER {
                response.write_all(chunk).await.unwrap();
            }
            response.close().await.unwrap();
            written.0.lock().unwrap().clone()
        });
        assert_eq!(**read_answer(opener, &answer, 1).unwrap(), ANSWER.concat());
    }
}

#[test]
fn their_server_sees_that_our_request_was_cut() {
    let (server, config) = their_server(PeerKem::X25519Sha256);
    let (sealed, _) = seal(&config, Aead::Aes128Gcm, &QUESTION, 3);
    let mut request = server.decapsulate_stream(dribble(&sealed[..sealed.len() - 1]));
    let read = block_on(request.read_to_end(&mut Vec::new()));
    assert!(read.is_err());
}

/// Where a peer writes to, while it is asked for more.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl futures::io::AsyncWrite for Written {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        // One byte a write, too.
        let one = &bytes[..bytes.len().min(1)];
        self.0.lock().unwrap().extend_from_slice(one);
        Poll::Ready(Ok(one.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn we_open_their_chunks_and_their_client_opens_ours() {
    let (secret_key, list) = our_list();
    let client = ClientRequest::from_encoded_config_list(&list).unwrap();
    block_on(async {
        let written = Written::default();
        let mut request = client.encapsulate_stream(written.clone()).unwrap();
        for chunk in QUESTION {
            request.write_all(chunk).await.unwrap();
        }
        request.close().await.unwrap();
        let sealed = written.0.lock().unwrap().clone();
        let (plain, sealer) = open(&secret_key, &sealed, 1).unwrap();
        assert_eq!(plain, QUESTION.concat());
        let answer = answer(sealer, &ANSWER, 4);
        let mut response = request.response(dribble(&answer)).unwrap();
        let mut plain = Vec::new();
        response.read_to_end(&mut plain).await.unwrap();
        assert_eq!(plain, ANSWER.concat());
        let mut cut = request
            .response(dribble(&answer[..answer.len() - 1]))
            .unwrap();
        assert!(cut.read_to_end(&mut Vec::new()).await.is_err());
    });
}

#[test]
fn whole_messages_pass_both_ways() {
    for kem in [PeerKem::X25519Sha256, PeerKem::XWing] {
        let (server, config) = their_server(kem);
        let aead = Aead::Aes128Gcm;
        let (sealed, opener) = seal_whole_request(&config, aead, b"question", &mut rng(3)).unwrap();
        let (plain, sealer) = server.decapsulate(&sealed).unwrap();
        assert_eq!(plain, b"question");
        assert_eq!(
            **opener
                .open(&sealer.encapsulate(b"answer").unwrap())
                .unwrap(),
            *b"answer"
        );
    }
    let (secret_key, list) = our_list();
    let client = ClientRequest::from_encoded_config_list(&list).unwrap();
    let (sealed, opener) = client.encapsulate(b"question").unwrap();
    let mut rest = &sealed[..];
    let head = HeadReader::new(Ciphers::Interop)
        .next(&mut rest)
        .unwrap()
        .unwrap();
    assert_eq!(head.suite.kem, Kem::XWing, "the last of the list");
    let (plain, sealer) = open_whole_request(head, &secret_key, rest.to_vec()).unwrap();
    assert_eq!(*plain, b"question");
    let answer = sealer.seal(b"answer", &mut rng(4)).unwrap();
    assert_eq!(opener.decapsulate(&answer).unwrap(), b"answer");
}

/// Readers like EHBP's take the first entry of a list: its public key stands at byte 5.
#[test]
fn a_reader_of_the_first_entry_finds_x25519() {
    let (_, list) = our_list();
    let length = usize::from(u16::from_be_bytes([list[0], list[1]]));
    let first = KeyConfig::read(&list[2..2 + length]).unwrap().unwrap();
    assert_eq!(first.kem(), Kem::X25519);
    assert_eq!(list[5..37], *first.public_key());
}

fn fields(all: &[(&str, &str)]) -> Fields {
    let mut fields = Fields::default();
    all.iter()
        .for_each(|(name, value)| fields.push(name, *value).unwrap());
    fields
}

fn their_message(bytes: &[u8]) -> bhttp::Message {
    bhttp::Message::read_bhttp(&mut Cursor::new(bytes)).unwrap()
}

#[test]
fn their_reader_takes_our_requests() {
    let line = RequestLine::new("POST", "https", "relay.invalid", "/v1/chat/completions").unwrap();
    let header = fields(&[("content-type", "application/json")]);
    let trailer = fields(&[("checksum", "7")]);
    let mut known = Vec::new();
    write_known_request(&line, &header, b"{}", &trailer, &mut known);
    let mut open = Vec::new();
    let writer = write_request(&line, &header, &mut open);
    writer.push(b"{", &mut open);
    writer.push(b"}", &mut open);
    writer.finish(&trailer, &mut open);
    for bytes in [&mut known, &mut open] {
        bytes.resize(bytes.len() + 300, 0);
        let message = their_message(bytes);
        assert_eq!(message.control().path(), Some(&b"/v1/chat/completions"[..]));
        assert_eq!(
            message.header().get(b"content-type"),
            Some(&b"application/json"[..])
        );
        assert_eq!(message.content(), b"{}");
        assert_eq!(message.trailer().get(b"checksum"), Some(&b"7"[..]));
    }
}

/// Informational responses, a trailer and padding, as our shapes send them.
#[test]
fn their_reader_takes_our_responses() {
    let mut out = Vec::new();
    let writer = ResponseWriter::start(&mut out);
    for _ in 0..3 {
        writer
            .informational(102, &fields(&[("padding", "xxxx")]), &mut out)
            .unwrap();
    }
    let writer = writer.response(
        200,
        &fields(&[("content-type", "text/event-stream")]),
        &mut out,
    );
    let writer = writer.unwrap();
    writer.push(b"data: 1\n\n", &mut out);
    writer.push(b":   \n", &mut out);
    writer.finish(&fields(&[("usage", "2")]), &mut out);
    out.resize(out.len() + 100, 0);
    let message = their_message(&out);
    assert_eq!(message.informational().len(), 3);
    assert_eq!(message.control().status().unwrap().code(), 200);
    assert_eq!(message.content(), b"data: 1\n\n:   \n");
    assert_eq!(message.trailer().get(b"usage"), Some(&b"2"[..]));
}

#[test]
fn our_reader_takes_their_messages() {
    for mode in [bhttp::Mode::KnownLength, bhttp::Mode::IndeterminateLength] {
        let mut message = bhttp::Message::response(bhttp::StatusCode::try_from(429u16).unwrap());
        message.put_header("retry-after", "5");
        message.write_content(b"busy");
        message.put_trailer("t", "u");
        let mut bytes = Vec::new();
        message.write_bhttp(mode, &mut bytes).unwrap();
        let mut reader = MessageReader::response();
        let mut said = Vec::new();
        for byte in &bytes {
            let mut input = std::slice::from_ref(byte);
            while let Some(part) = reader.next(&mut input).unwrap() {
                said.push(match part {
                    Part::Response(status, fields) => {
                        format!("{status} {:?}", fields.only("retry-after"))
                    }
                    Part::Content(content) => String::from_utf8_lossy(content).into_owned(),
                    Part::Trailer(fields) => format!("{:?}", fields.only("t")),
                    Part::Request(..) | Part::Informational(..) => unreachable!("not in it"),
                });
            }
        }
        assert_eq!(said.concat(), "429 Some([53])busySome([117])");
        assert_eq!(reader.finish(), Ok(None));
    }
}
