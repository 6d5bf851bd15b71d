//! What sealing costs on one core: `cargo bench -p relay`.
//!
//! The bars are the sealed path's: opening a request below 0.3 ms, a cell below 2 us, both sides of a
//! request together below 0.4 ms with X-Wing.

use std::time::Instant;

use aws_lc_rs::agreement;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use rand::SeedableRng;
use rand::rngs::StdRng;
use relay::bhttp::Fields;
use relay::shape::{Body, Shape, Shaper};
use relay::slim::{SlimDecoder, SlimEncoder};
use relay::{
    Aead, ChunkedResponse, Ciphers, EdgeClaim, EdgeKey, EdgeSecret, HeadReader, Kem, KeyConfig,
    RequestOpener, RequestSealer, ResponseOpener, SecretKey, Session,
};

fn main() {
    divan::main();
}

const KEMS: [Kem; 2] = [Kem::X25519, Kem::XWing];

/// A short question, padded as the edge does.
const QUESTION: [u8; 1_024] = [b'q'; 1_024];

const TOKENS: usize = 200;

fn keys(kem: Kem) -> (SecretKey, KeyConfig) {
    let secret_key = SecretKey::generate(kem, &mut StdRng::seed_from_u64(1));
    let config = KeyConfig::of(7, &secret_key, Ciphers::Strict);
    (secret_key, config)
}

fn seal(config: &KeyConfig, rng: &mut StdRng) -> (Vec<u8>, ResponseOpener) {
    let mut out = Vec::with_capacity(4_096);
    let sealer =
        RequestSealer::start(config, Aead::Aes256Gcm, rng, &mut out).expect("it is offered");
    let opener = sealer.finish(&QUESTION, &mut out).expect("it is short");
    (out, opener)
}

fn open(
    secret_key: &SecretKey,
    mut sealed: &[u8],
    rng: &mut StdRng,
    out: &mut Vec<u8>,
) -> ChunkedResponse {
    let head = HeadReader::new(Ciphers::Strict).next(&mut sealed);
    let head = head.expect("it is a head").expect("it is whole");
    let mut opener = RequestOpener::start(head, secret_key).expect("the key is ours");
    while opener.next(&mut sealed).expect("it is ours").is_some() {}
    let (_, sealer) = opener.finish().expect("it is whole");
    sealer.start(rng, out)
}

/// The agreement, a kilobyte, and what opens the response.
#[divan::bench(args = KEMS)]
fn edge_seals_a_request(bencher: Bencher<'_, '_>, kem: Kem) {
    let (_, config) = keys(kem);
    let mut rng = StdRng::seed_from_u64(2);
    bencher.bench_local(|| seal(&config, &mut rng));
}

/// The agreement, a kilobyte, and what seals the response.
#[divan::bench(args = KEMS)]
fn relay_opens_a_request(bencher: Bencher<'_, '_>, kem: Kem) {
    let (secret_key, config) = keys(kem);
    let mut rng = StdRng::seed_from_u64(2);
    let (sealed, _) = seal(&config, &mut rng);
    bencher.bench_local(|| open(&secret_key, &sealed, &mut rng, &mut Vec::new()));
}

const SEED: [u8; 32] = [3; 32];

/// Who a proof is made with.
#[derive(Debug, Clone, Copy)]
enum By {
    Signature,
    Session,
}

fn requests() -> (RequestSealer, RequestSealer) {
    let (_, config) = keys(Kem::X25519);
    let mut rng = StdRng::seed_from_u64(2);
    let mut sealer = || {
        let sealer = RequestSealer::start(&config, Aead::Aes256Gcm, &mut rng, &mut Vec::new());
        sealer.expect("it is offered")
    };
    (sealer(), sealer())
}

fn session(agreeing: &RequestSealer) -> Session {
    let secret = agreeing.proof_secret();
    let session = Session::agreed("branch-7", "hq", &secret, agreeing.digest());
    session.expect("a MAC takes any key")
}

#[divan::bench(args = [By::Signature, By::Session])]
fn edge_proves_itself(bencher: Bencher<'_, '_>, by: By) {
    let secret = EdgeSecret::ed25519(&SEED);
    let (agreeing, request) = requests();
    let (session, own) = (session(&agreeing), request.proof_secret());
    bencher.bench_local(|| match by {
        By::Signature => secret.prove("branch-7", "k1", "hq", &own),
        By::Session => EdgeSecret::prove_by(&session, "branch-7", "k1", "hq", &own),
    });
}

#[divan::bench(args = [By::Signature, By::Session])]
fn relay_checks_the_proof(bencher: Bencher<'_, '_>, by: By) {
    let public = ed25519_dalek::SigningKey::from_bytes(&SEED).verifying_key();
    let key = EdgeKey::ed25519(public.as_bytes()).expect("it is a key");
    let (agreeing, request) = requests();
    let (session, own) = (session(&agreeing), request.proof_secret());
    let proof = match by {
        By::Signature => EdgeSecret::ed25519(&SEED).prove("branch-7", "k1", "hq", &own),
        By::Session => EdgeSecret::prove_by(&session, "branch-7", "k1", "hq", &own),
    };
    let proof = proof.expect("these are names");
    bencher.bench_local(|| {
        let claim = EdgeClaim::read(proof.as_bytes()).expect("it is a claim");
        let checked = match by {
            By::Signature => claim.verify(&key, "hq", &own),
            By::Session => claim.verify_by(&session, "hq", &own),
        };
        checked.expect("it is its own");
    });
}

/// How fast this processor is: one agreement of X25519 by aws-lc, 24.5 us on the AMD Zen 4 that the bars
/// were set on.
#[divan::bench]
fn yardstick(bencher: Bencher<'_, '_>) {
    let own = agreement::PrivateKey::from_private_key(&agreement::X25519, &[7; 32]);
    let own = own.expect("any 32 bytes are a key");
    let mut base_point = [0; 32];
    base_point[0] = 9;
    let peer = agreement::UnparsedPublicKey::new(&agreement::X25519, base_point);
    bencher.bench_local(|| {
        let agreed = agreement::agree(&own, peer, (), |secret| Ok(secret[0]));
        agreed.expect("it is no weak point")
    });
}

#[derive(Debug, Clone, Copy)]
struct Both(Kem, Body);

/// Everything that both ends compute for a request and an answer of 200 tokens in cells.
#[divan::bench(args = [Both(Kem::X25519, Body::Events), Both(Kem::XWing, Body::Events), Both(Kem::XWing, Body::Slim)])]
fn both_sides_of_an_exchange(bencher: Bencher<'_, '_>, Both(kem, body): Both) {
    let (secret_key, config) = keys(kem);
    let mut rng = StdRng::seed_from_u64(2);
    let events = events();
    bencher.counter(ItemsCount::new(TOKENS)).bench_local(|| {
        let (sealed, mut opener) = seal(&config, &mut rng);
        let mut out = Vec::with_capacity(200 << 10);
        let response = open(&secret_key, &sealed, &mut rng, &mut out);
        answer(response, body, &events, &mut out);
        let mut input = &out[..];
        let mut bytes = 0;
        while let Some(chunk) = opener.next(&mut input).expect("it is ours") {
            bytes += chunk.len();
        }
        bytes + opener.finish().expect("it is whole").len()
    });
}

fn answer(mut response: ChunkedResponse, body: Body, events: &[Vec<u8>], out: &mut Vec<u8>) {
    let mut now = Instant::now();
    let mut shaper = Shaper::new(Shape::default(), now);
    shaper
        .begin(200, &Fields::default(), body)
        .expect("200 is final");
    for event in events {
        now += relay::shape::CELL_WINDOW;
        shaper.push(event);
        while let Some(cell) = shaper.next(now) {
            response.push(&cell.plain, out).expect("it is short");
        }
    }
    shaper.end(&Fields::default());
    while let Some(cell) = shaper.next(now + relay::shape::CELL_WINDOW) {
        if cell.is_final {
            response.finish(&cell.plain, out).expect("it is short");
            return;
        }
        response.push(&cell.plain, out).expect("it is short");
    }
}

fn response() -> (ChunkedResponse, Vec<u8>, ResponseOpener) {
    let (secret_key, config) = keys(Kem::X25519);
    let mut rng = StdRng::seed_from_u64(2);
    let (sealed, opener) = seal(&config, &mut rng);
    let mut out = Vec::new();
    let response = open(&secret_key, &sealed, &mut rng, &mut out);
    (response, out, opener)
}

const CELLS: usize = 1_000;

#[divan::bench(args = [64, 512, 1_024])]
fn thousand_cells_sealed(bencher: Bencher<'_, '_>, bytes: usize) {
    let cell = vec![b'c'; bytes];
    bencher
        .counter(ItemsCount::new(CELLS))
        .with_inputs(response)
        .bench_local_values(|(mut response, mut out, _)| {
            for _ in 0..CELLS {
                response.push(&cell, &mut out).expect("it is short");
            }
            out
        });
}

#[divan::bench(args = [64, 512, 1_024])]
fn thousand_cells_opened(bencher: Bencher<'_, '_>, bytes: usize) {
    let cell = vec![b'c'; bytes];
    bencher
        .counter(ItemsCount::new(CELLS))
        .with_inputs(|| {
            let (mut response, mut out, opener) = response();
            for _ in 0..CELLS {
                response.push(&cell, &mut out).expect("it is short");
            }
            (opener, out)
        })
        .bench_local_values(|(mut opener, sealed)| {
            let mut input = &sealed[..];
            let mut count = 0;
            while let Some(chunk) = opener.next(&mut input).expect("it is ours") {
                count += black_box(chunk).len();
            }
            count
        });
}

fn events() -> Vec<Vec<u8>> {
    let words = "the quick brown fox jumps over the lazy dog and again".split_inclusive(' ');
    let event = |word: &str| {
        format!(
            "data: {{\"id\":\"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\",\
             \"object\":\"chat.completion.chunk\",\"created\":1741569952,\
             \"model\":\"gpt-5.1-2025-11-13\",\"service_tier\":\"default\",\
             \"system_fingerprint\":null,\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{word}\"}},\
             \"logprobs\":null,\"finish_reason\":null}}]}}\n\n"
        )
    };
    words
        .cycle()
        .take(TOKENS)
        .map(|word| event(word).into_bytes())
        .collect()
}

#[divan::bench]
fn slim_frames_written(bencher: Bencher<'_, '_>) {
    let events = events();
    let bytes: usize = events.iter().map(Vec::len).sum();
    bencher
        .counter(ItemsCount::new(TOKENS))
        .counter(BytesCount::new(bytes))
        .bench_local(|| {
            let (mut encoder, mut out) = (SlimEncoder::default(), Vec::with_capacity(8_192));
            events
                .iter()
                .for_each(|event| encoder.push(event, &mut out));
            out
        });
}

#[divan::bench]
fn slim_frames_read(bencher: Bencher<'_, '_>) {
    let events = events();
    let bytes: usize = events.iter().map(Vec::len).sum();
    let (mut encoder, mut frames) = (SlimEncoder::default(), Vec::new());
    events
        .iter()
        .for_each(|event| encoder.push(event, &mut frames));
    bencher
        .counter(ItemsCount::new(TOKENS))
        .counter(BytesCount::new(bytes))
        .bench_local(|| {
            let (mut decoder, mut out) = (SlimDecoder::default(), Vec::with_capacity(bytes));
            decoder.push(&frames, &mut out).expect("it was written so");
            out
        });
}
