//! Our end of exchanges with peers that others wrote (`tests/interop`). It reads and writes lines, in
//! which bytes are hexadecimal digits, and gives them to the codec one at a time.
//!
//! - `peer gateway` says `keys LIST`, and to each `request SEALED` it says `response SEALED`: what it
//!   read, as JSON, in the form that the request's path names.
//! - `peer edge x25519|x-wing open|known` takes `keys LIST`, says `request SEALED`, takes `response
//!   SEALED`, and says what it read, as JSON.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "it talks to a script, and whatever is wrong ends the test"
)]

use std::io::{BufRead, Write, stdin, stdout};
use std::time::{Duration, Instant};

use rand::rngs::ThreadRng;
use relay::bhttp::{
    Fields, MessageReader, Part, RequestLine, ResponseWriter, write_known_request,
    write_known_response, write_request,
};
use relay::shape::{Body, FillStripper, RequestPad, Shape, Shaper};
use relay::{
    Aead, Ciphers, HeadReader, Kem, KeyConfig, RequestOpener, RequestSealer, ResponseOpener,
    ResponseSealer, SecretKey,
};
use serde_json::{Map, Value, json};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["gateway"] => gateway(),
        ["edge", kem, form] => edge(Kem::from_label(kem).unwrap(), form),
        _ => panic!("usage: peer gateway | peer edge x25519|x-wing open|known"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let (pairs, odd) = hex.as_bytes().as_chunks::<2>();
    assert!(odd.is_empty(), "digits come in pairs");
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.iter().map(byte).collect()
}

fn say(word: &str, said: &[u8]) {
    println!("{word} {}", hex(said));
    stdout().flush().unwrap();
}

/// What the next line says after `word`. `None` at the end.
fn hear(word: &str) -> Option<Vec<u8>> {
    let mut line = String::new();
    if stdin().lock().read_line(&mut line).unwrap() == 0 {
        return None;
    }
    let said = line.trim_end().strip_prefix(word).unwrap();
    Some(bytes(said.trim_start()))
}

fn fields(of: &[(&str, &str)]) -> Fields {
    let mut fields = Fields::default();
    of.iter()
        .for_each(|(name, value)| fields.push(name, *value).unwrap());
    fields
}

fn told(fields: &Fields) -> Value {
    let value = |value: &[u8]| Value::from(String::from_utf8_lossy(value));
    let lines = fields.iter();
    Value::Object(Map::from_iter(
        lines.map(|(name, text)| (name.to_owned(), value(text))),
    ))
}

fn gateway() {
    let mut rng = ThreadRng::default();
    let keys = [Kem::X25519, Kem::XWing].map(|kem| SecretKey::generate(kem, &mut rng));
    // Of AES-256-GCM alone. The ids are 1 and 2.
    let configs = [1, 2].map(|id| KeyConfig::of(id, &keys[usize::from(id) - 1], Ciphers::Strict));
    say("keys", &KeyConfig::write_list(&configs));
    while let Some(sealed) = hear("request") {
        let (plain, proof, sealer) = open(&keys, &sealed);
        let (path, answer) = read_request(&plain, &proof);
        let chunks = written(&path, answer.to_string().as_bytes());
        let mut out = Vec::new();
        let mut response = ResponseSealer::start(sealer, &mut rng, &mut out);
        let (last, before) = chunks.split_last().unwrap();
        for chunk in before {
            response.push(chunk, &mut out).unwrap();
        }
        response.finish(last, &mut out).unwrap();
        say("response", &out);
    }
}

/// The plaintext, what proofs are made over, and what seals the response.
fn open(keys: &[SecretKey; 2], sealed: &[u8]) -> (Vec<u8>, Vec<u8>, ResponseSealer) {
    let mut head = HeadReader::new(Ciphers::Strict);
    let mut opener: Option<RequestOpener> = None;
    let mut plain = Vec::new();
    for byte in sealed {
        let mut input = std::slice::from_ref(byte);
        match &mut opener {
            None => {
                opener = head.next(&mut input).unwrap().map(|head| {
                    let key = &keys[usize::from(head.key_id) - 1];
                    RequestOpener::start(head, key).unwrap()
                });
            }
            Some(opener) => {
                while let Some(chunk) = opener.next(&mut input).unwrap() {
                    plain.extend_from_slice(chunk);
                }
            }
        }
    }
    let opener = opener.unwrap();
    let proof = opener.proof_secret().to_vec();
    let (last, sealer) = opener.finish().unwrap();
    plain.extend_from_slice(&last);
    (plain, proof, sealer)
}

/// The path, and all that was read.
fn read_request(plain: &[u8], proof: &[u8]) -> (String, Value) {
    let mut path = String::new();
    let mut content = Vec::new();
    let mut told_all = json!({"proof": hex(proof)});
    read(MessageReader::request(), plain, |part| match part {
        Part::Request(line, header) => {
            path = line.path().to_owned();
            told_all["method"] = line.method().into();
            told_all["authority"] = line.authority().into();
            told_all["path"] = line.path().into();
            told_all["header"] = told(&header);
        }
        Part::Content(some) => content.extend_from_slice(some),
        Part::Trailer(trailer) => told_all["trailer"] = told(&trailer),
        Part::Informational(..) | Part::Response(..) => unreachable!("this is a request"),
    });
    told_all["content"] = String::from_utf8(content).unwrap().into();
    (path, told_all)
}

/// A message, a byte at a time.
fn read(mut reader: MessageReader, plain: &[u8], mut take: impl FnMut(Part<'_>)) {
    for byte in plain {
        let mut input = std::slice::from_ref(byte);
        while let Some(part) = reader.next(&mut input).unwrap() {
            take(part);
        }
    }
    while let Some(part) = reader.finish().unwrap() {
        take(part);
    }
}

/// A response that says `content`, in chunks.
fn written(form: &str, content: &[u8]) -> Vec<Vec<u8>> {
    let header = fields(&[("content-type", "application/json"), ("x-form", form)]);
    let trailer = fields(&[("x-end", "said")]);
    let mut out = Vec::new();
    match form {
        "/known" => {
            write_known_response(200, &header, content, &trailer, &mut out).unwrap();
            out.resize(out.len() + 100, 0);
            vec![out]
        }
        "/open" => {
            let writer = ResponseWriter::start(&mut out);
            let hint = fields(&[("link", "</a>"), ("padding", "000")]);
            writer.informational(103, &hint, &mut out).unwrap();
            writer.informational(102, &fields(&[]), &mut out).unwrap();
            let writer = writer.response(201, &header, &mut out).unwrap();
            content
                .chunks(50)
                .for_each(|piece| writer.push(piece, &mut out));
            writer.finish(&trailer, &mut out);
            out.resize(out.len() + 100, 0);
            out.chunks(77).map(<[u8]>::to_vec).collect()
        }
        "/cells" => shaped("cells;size=512", content),
        "/constant" => shaped("constant;size=1024;bucket=2", content),
        _ => panic!("no such form: {form}"),
    }
}

/// An event stream of two events, as a shape has it. The request was made 200 ms before.
fn shaped(shape: &str, content: &[u8]) -> Vec<Vec<u8>> {
    let shape: Shape = shape.parse().unwrap();
    let accepted = Instant::now();
    let begun = accepted + Duration::from_millis(200);
    let mut now = accepted;
    let mut shaper = Shaper::new(shape, accepted);
    let mut cells = Vec::new();
    let mut run = |shaper: &mut Shaper, until: Instant| {
        while now < until {
            while let Some(cell) = shaper.next(now) {
                cells.push(cell.plain.to_vec());
                if cell.is_final {
                    return true;
                }
            }
            now += Duration::from_millis(5);
        }
        false
    };
    run(&mut shaper, begun);
    let header = fields(&[("content-type", "text/event-stream")]);
    shaper.begin(200, &header, Body::Events).unwrap();
    shaper.push(&[b"data: ", content, b"\n\n"].concat());
    run(&mut shaper, begun + Duration::from_millis(300));
    shaper.push(b"data: [DONE]\n\n");
    shaper.end(&fields(&[("x-end", "said")]));
    assert!(run(&mut shaper, begun + Duration::from_secs(60)));
    cells
}

fn edge(kem: Kem, form: &str) {
    let list = hear("keys").unwrap();
    let configs = KeyConfig::read_list(&list).unwrap();
    let config = configs.iter().find(|config| config.kem() == kem).unwrap();
    let mut sealed = Vec::new();
    let mut rng = ThreadRng::default();
    let mut sealer = RequestSealer::start(config, Aead::Aes256Gcm, &mut rng, &mut sealed).unwrap();
    let proof = hex(&*sealer.proof_secret());
    let plain = asked(form, &proof);
    // In more chunks than one.
    let last = plain.len() - 30;
    sealer.push(&plain[..100], &mut sealed).unwrap();
    sealer.push(&plain[100..last], &mut sealed).unwrap();
    let opener = sealer.finish(&plain[last..], &mut sealed).unwrap();
    say("request", &sealed);
    let answer = hear("response").unwrap();
    println!("{}", read_response(opener, &answer));
}

/// A request with padding, longer than a chunk may be.
fn asked(form: &str, proof: &str) -> Vec<u8> {
    let line = RequestLine::new("POST", "https", "relay.invalid", "/v1/chat/completions").unwrap();
    let header = fields(&[("content-type", "text/plain"), ("x-proof", proof)]);
    let trailer = fields(&[("x-end", "asked")]);
    let content = "a question, ".repeat(2_000);
    let mut out = Vec::new();
    match form {
        "known" => write_known_request(&line, &header, content.as_bytes(), &trailer, &mut out),
        "open" => {
            let writer = write_request(&line, &header, &mut out);
            writer.push(&content.as_bytes()[..7], &mut out);
            writer.push(&content.as_bytes()[7..], &mut out);
            writer.finish(&trailer, &mut out);
        }
        _ => panic!("no such form: {form}"),
    }
    let padded = RequestPad::Padme.padded(out.len(), 1 << 20);
    out.resize(padded, 0);
    out
}

fn read_response(mut opener: ResponseOpener, sealed: &[u8]) -> Value {
    let mut plain = Vec::new();
    for byte in sealed {
        let mut input = std::slice::from_ref(byte);
        while let Some(chunk) = opener.next(&mut input).unwrap() {
            plain.extend_from_slice(chunk);
        }
    }
    plain.extend_from_slice(&opener.finish().unwrap());
    let (mut stripper, mut content) = (FillStripper::default(), Vec::new());
    let mut told_all = json!({"informational": []});
    read(MessageReader::response(), &plain, |part| match part {
        Part::Informational(status, header) => {
            let statuses = told_all["informational"].as_array_mut().unwrap();
            statuses.push(json!([status, told(&header)]));
        }
        Part::Response(status, header) => {
            told_all["status"] = status.into();
            told_all["header"] = told(&header);
        }
        Part::Content(some) => stripper.push(some, &mut content),
        Part::Trailer(trailer) => told_all["trailer"] = told(&trailer),
        Part::Request(..) => unreachable!("this is a response"),
    });
    stripper.finish(&mut content);
    told_all["content"] = String::from_utf8(content).unwrap().into();
    told_all
}
