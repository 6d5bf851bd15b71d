//! What somebody on the way may do. Each is refused with one answer.

use std::time::{Duration, Instant};

use super::support::{answer, keys, open, read_answer, rng, seal};
use crate::limits::{CHUNK_BYTES_MAX, REQUEST_BYTES_MAX, SEALED_CHUNK_BYTES_MAX, TAG_BYTES};
use crate::varint;
use crate::{Aead, Kem, KeyConfig, ResponseOpener, ResponseSealer, SecretKey, Unopened};

const HEAD_BYTES: usize = 7 + 32;

/// A sealed message, taken apart: what stands before the chunks, and those.
struct Apart {
    head: Vec<u8>,
    chunks: Vec<Vec<u8>>,
}

impl Apart {
    /// Of chunks that are each below 16 KiB.
    fn of(sealed: &[u8], head_bytes: usize) -> Self {
        let (head, mut rest) = sealed.split_at(head_bytes);
        let mut chunks = Vec::new();
        while !rest.is_empty() {
            let length = varint::VarintReader::default().take(&mut rest).unwrap() as usize;
            let length = if length == 0 { rest.len() } else { length };
            let (chunk, after) = rest.split_at(length);
            chunks.push(chunk.to_vec());
            rest = after;
        }
        Self {
            head: head.to_vec(),
            chunks,
        }
    }

    /// Together again, the last of `order` as the final one.
    fn join(&self, order: &[&[u8]]) -> Vec<u8> {
        let mut out = self.head.clone();
        let (last, before) = order.split_last().unwrap();
        for chunk in before {
            varint::write(chunk.len(), &mut out);
            out.extend_from_slice(chunk);
        }
        out.push(0);
        out.extend_from_slice(last);
        out
    }
}

/// A request, its response, and who opens which.
struct Exchange {
    secret_key: SecretKey,
    config: KeyConfig,
}

const QUESTION: [&[u8]; 4] = [b"first", b"second", b"third", b"last"];

impl Exchange {
    fn new(kem: Kem) -> Self {
        let (secret_key, config) = keys(kem, 1);
        Self { secret_key, config }
    }

    fn request(&self, seed: u64) -> (Vec<u8>, ResponseOpener) {
        seal(&self.config, Aead::Aes256Gcm, &QUESTION, seed)
    }

    fn sealer(&self, sealed: &[u8]) -> ResponseSealer {
        open(&self.secret_key, sealed, sealed.len()).unwrap().1
    }

    fn response(&self, seed: u64) -> Vec<u8> {
        let (sealed, _) = self.request(seed);
        answer(self.sealer(&sealed), &QUESTION, seed)
    }

    fn open_response(&self, sealed: &[u8], seed: u64) -> Result<(), Unopened> {
        read_answer(self.request(seed).1, sealed, 16).map(drop)
    }

    fn open_request(&self, sealed: &[u8]) -> Result<(), Unopened> {
        open(&self.secret_key, sealed, 16).map(drop)
    }
}

/// Lengths are not authenticated, and some flips change only how many bytes of the next chunk are
/// taken; each of them leads to a tag that does not fit all the same.
#[test]
fn no_flipped_bit_of_a_request_or_response_is_accepted() {
    let exchange = Exchange::new(Kem::X25519);
    let (request, _) = exchange.request(2);
    let response = exchange.response(2);
    for bit in 0..8 * request.len() {
        let mut flipped = request.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(exchange.open_request(&flipped), Err(Unopened), "bit {bit}");
    }
    for bit in 0..8 * response.len() {
        let mut flipped = response.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(
            exchange.open_response(&flipped, 2),
            Err(Unopened),
            "bit {bit}"
        );
    }
}

#[test]
fn no_flipped_byte_of_a_post_quantum_request_is_accepted() {
    let exchange = Exchange::new(Kem::XWing);
    let (request, _) = exchange.request(2);
    for at in (0..request.len()).step_by(7) {
        let mut flipped = request.clone();
        flipped[at] ^= 0x10;
        assert_eq!(exchange.open_request(&flipped), Err(Unopened), "byte {at}");
    }
}

#[test]
fn no_message_that_is_cut_is_accepted() {
    let exchange = Exchange::new(Kem::X25519);
    let (request, _) = exchange.request(2);
    let response = exchange.response(2);
    for end in 0..request.len() {
        assert_eq!(
            exchange.open_request(&request[..end]),
            Err(Unopened),
            "ends at {end}"
        );
    }
    for end in 0..response.len() {
        assert_eq!(
            exchange.open_response(&response[..end], 2),
            Err(Unopened),
            "ends at {end}"
        );
    }
    assert_eq!(exchange.open_request(&request), Ok(()));
    assert_eq!(exchange.open_response(&response, 2), Ok(()));
}

#[test]
fn no_byte_can_be_added() {
    let exchange = Exchange::new(Kem::X25519);
    let (request, _) = exchange.request(2);
    let response = exchange.response(2);
    for more in [&[0][..], &[0, 0], &[0; 4 * SEALED_CHUNK_BYTES_MAX]] {
        assert_eq!(
            exchange.open_request(&[&request, more].concat()),
            Err(Unopened)
        );
        assert_eq!(
            exchange.open_response(&[&response, more].concat(), 2),
            Err(Unopened)
        );
    }
}

/// Every order of up to three chunks of one message and of another under the same key, every order
/// of four of its own, and its own with one of the other's in any place.
#[test]
fn no_chunk_is_dropped_doubled_swapped_or_spliced() {
    let exchange = Exchange::new(Kem::X25519);
    for is_request in [true, false] {
        let message = |seed| match is_request {
            true => Apart::of(&exchange.request(seed).0, HEAD_BYTES),
            false => Apart::of(&exchange.response(seed), 32),
        };
        let (one, other) = (message(2), message(3));
        let own: Vec<&[u8]> = one.chunks.iter().map(Vec::as_slice).collect();
        let others: Vec<&[u8]> = other.chunks.iter().map(Vec::as_slice).collect();
        let pool = [&own[..], &others].concat();
        let mut orders = Vec::new();
        for (pool, counts) in [(&pool, 1..=3), (&own, 4..=4)] {
            for count in counts {
                orders.extend((0..pool.len().pow(count)).map(|mut order| {
                    let draw = |_| {
                        let chunk = pool[order % pool.len()];
                        order /= pool.len();
                        chunk
                    };
                    (0..count).map(draw).collect::<Vec<_>>()
                }));
            }
        }
        for (at, foreign) in (0..16).map(|case| (case / 4, case % 4)) {
            let mut spliced = own.clone();
            spliced[at] = others[foreign];
            orders.push(spliced);
        }
        let mut accepted = 0;
        for chunks in orders {
            let joined = one.join(&chunks);
            let opened = match is_request {
                true => exchange.open_request(&joined),
                false => exchange.open_response(&joined, 2),
            };
            assert_eq!(opened.is_ok(), chunks == own);
            accepted += usize::from(opened.is_ok());
        }
        assert_eq!(accepted, 1);
    }
}

#[test]
fn what_is_final_stays_so_and_nothing_else_becomes_it() {
    let exchange = Exchange::new(Kem::X25519);
    let (sealed, _) = exchange.request(2);
    let apart = Apart::of(&sealed, HEAD_BYTES);
    let chunks: Vec<&[u8]> = apart.chunks.iter().map(Vec::as_slice).collect();
    // An end after the second or third.
    for count in 1..4 {
        assert_eq!(
            exchange.open_request(&apart.join(&chunks[..count])),
            Err(Unopened)
        );
    }
    // The last as one before an end that was never sealed.
    let mut open_ended = apart.join(&chunks);
    let last = open_ended.len() - chunks[3].len();
    open_ended[last - 1] = chunks[3].len() as u8;
    assert_eq!(exchange.open_request(&open_ended), Err(Unopened));
    for end in [&[0; 1][..], &[0; 17], chunks[0]] {
        let joined = [&open_ended[..], &[0], end].concat();
        assert_eq!(exchange.open_request(&joined), Err(Unopened));
    }
}

/// `value` in a form of 1, 2, 4 or 8 bytes.
fn in_form(value: usize, form: u32) -> Vec<u8> {
    let whole = (value as u64 | u64::from(form) << (8 * (1 << form) - 2)).to_be_bytes();
    whole[8 - (1 << form)..].to_vec()
}

#[test]
fn every_form_of_a_length_is_taken() {
    let exchange = Exchange::new(Kem::X25519);
    let (sealed, _) = exchange.request(2);
    let apart = Apart::of(&sealed, HEAD_BYTES);
    for forms in 0..4u32.pow(4) {
        let mut joined = apart.head.clone();
        for (at, chunk) in apart.chunks.iter().enumerate() {
            let length = if at == 3 { 0 } else { chunk.len() };
            joined.extend(in_form(length, forms >> (2 * at) & 3));
            joined.extend_from_slice(chunk);
        }
        assert_eq!(exchange.open_request(&joined), Ok(()), "forms {forms:o}");
    }
}

/// Sealed by the library itself, as our own sealer refuses to.
fn seal_raw(config: &KeyConfig, chunks: &[(&[u8], &[u8])]) -> Vec<u8> {
    use crate::contexts;
    let suite = crate::Suite {
        kem: config.kem(),
        aead: Aead::Aes256Gcm,
    };
    let info = crate::RequestHead::info(crate::Form::Chunked, config.id(), suite);
    let mut sending = contexts::send(suite, config.public_key(), &info, &mut rng(5)).unwrap();
    let mut out = crate::RequestHead::ids(config.id(), suite).to_vec();
    out.extend_from_slice(&sending.enc);
    for (aad, plain) in chunks {
        let mut data = plain.to_vec();
        let tag = sending.context.seal(aad, &mut data).unwrap();
        let length = if *aad == b"final" {
            0
        } else {
            data.len() + TAG_BYTES
        };
        varint::write(length, &mut out);
        out.extend_from_slice(&data);
        out.extend_from_slice(&tag);
    }
    out
}

#[test]
fn a_chunk_of_nothing_or_of_too_much_is_refused_though_it_is_authentic() {
    let exchange = Exchange::new(Kem::X25519);
    let config = &exchange.config;
    let most = vec![1; CHUNK_BYTES_MAX];
    let beyond = vec![1; CHUNK_BYTES_MAX + 1];
    for (chunks, is_taken) in [
        (&[(&b""[..], &b"a"[..]), (b"final", b"")][..], true),
        (&[(b"", b"a"), (b"", b""), (b"final", b"")], false),
        (&[(b"", b""), (b"final", b"a")], false),
        (&[(b"", &most), (b"final", &most)], true),
        (&[(b"", &beyond), (b"final", b"")], false),
        (&[(b"", b"a"), (b"final", &beyond)], false),
        // An end that says so in the clear only, and one that says so only in secret.
        (&[(b"", b"a"), (b"FINAL", b"")], false),
        (&[(b"final", b"a")], true),
    ] {
        let sealed = seal_raw(config, chunks);
        assert_eq!(exchange.open_request(&sealed).is_ok(), is_taken);
    }
}

/// 32 MiB is the most, in whatever chunks; and however much is sent, one chunk of it is held.
#[test]
fn a_request_of_a_byte_too_much_is_refused_and_never_held() {
    let exchange = Exchange::new(Kem::X25519);
    let chunk = vec![1; CHUNK_BYTES_MAX];
    let whole = REQUEST_BYTES_MAX as usize / CHUNK_BYTES_MAX;
    for (last, is_taken) in [(&b""[..], true), (b"1", false)] {
        let mut chunks = vec![(&b""[..], &chunk[..]); whole];
        chunks.push((b"final", last));
        let sealed = seal_raw(&exchange.config, &chunks);
        let mut input = &sealed[..];
        let head = crate::HeadReader::new(crate::Ciphers::Strict).next(&mut input);
        let head = head.unwrap().unwrap();
        let mut opener = crate::RequestOpener::start(head, &exchange.secret_key).unwrap();
        let mut opened = 0;
        while let Some(plain) = opener.next(&mut input).unwrap() {
            opened += plain.len() as u64;
        }
        assert_eq!(opened, REQUEST_BYTES_MAX);
        assert_eq!(opener.finish().is_ok(), is_taken);
    }
    // And the one after the last that is none.
    let mut chunks = vec![(&b""[..], &chunk[..]); whole + 1];
    chunks.push((b"final", b""));
    assert!(
        exchange
            .open_request(&seal_raw(&exchange.config, &chunks))
            .is_err()
    );
}

#[test]
fn a_length_beyond_a_chunk_is_refused_before_anything_is_kept() {
    let exchange = Exchange::new(Kem::X25519);
    let (sealed, _) = exchange.request(2);
    for length in [
        in_form(SEALED_CHUNK_BYTES_MAX + 1, 2),
        in_form(varint::VARINT_MAX as usize, 3),
        in_form(TAG_BYTES, 0),
        in_form(1, 3),
    ] {
        // At once, with no byte of a chunk behind it.
        let mut head = crate::HeadReader::new(crate::Ciphers::Strict);
        let head = head.next(&mut &sealed[..]).unwrap().unwrap();
        let mut opener = crate::RequestOpener::start(head, &exchange.secret_key).unwrap();
        assert_eq!(opener.next(&mut &length[..]), Err(Unopened));
        assert!(
            format!("{opener:?}").contains("held_bytes: 0"),
            "{opener:?}"
        );
        assert_eq!(opener.next(&mut &sealed[HEAD_BYTES..]), Err(Unopened));
        assert!(opener.finish().is_err());
    }
}

/// Failures that an attacker can bring about without knowing the key, of one length.
fn failures(exchange: &Exchange) -> Vec<(&'static str, Vec<u8>)> {
    let long = vec![7; 4_000];
    let (sealed, _) = seal(&exchange.config, Aead::Aes256Gcm, &[&long, &long], 9);
    let flip = |at: usize| {
        let mut flipped = sealed.clone();
        flipped[at] ^= 1;
        flipped
    };
    let head_bytes = match exchange.config.kem() {
        Kem::X25519 => HEAD_BYTES,
        Kem::XWing => 7 + 1_120,
    };
    let first = head_bytes + 2;
    let mut other_key_id = sealed.clone();
    other_key_id[0] ^= 1;
    vec![
        ("enc", flip(head_bytes - 9)),
        // Of ML-KEM's part, where there is one.
        ("enc at its beginning", flip(7)),
        ("first byte of the first chunk", flip(first)),
        ("last byte of the first tag", flip(first + 4_015)),
        ("first byte of the first tag", flip(first + 4_000)),
        ("bound key id", other_key_id),
    ]
}

#[test]
fn every_failure_says_the_same() {
    let exchange = Exchange::new(Kem::X25519);
    for (what, sealed) in failures(&exchange) {
        let failed = exchange.open_request(&sealed).unwrap_err();
        assert_eq!(failed.to_string(), "sealed message does not open", "{what}");
        assert_eq!(format!("{failed:?}"), "Unopened");
        assert_eq!(size_of_val(&failed), 0, "there is nothing to tell them by");
    }
}

/// Interleaved, and the fastest of many runs each, which a busy machine cannot make faster; where one of
/// them had no quiet moment, all are measured again. A failure that took another time would do so in every
/// round. What is left is far below what an agreement on a key takes, and a network can show.
fn check_times(kem: Kem) {
    const ROUNDS: usize = 8;
    let exchange = Exchange::new(kem);
    let failures = failures(&exchange);
    let mut seen = Vec::new();
    for _ in 0..ROUNDS {
        let mut fastest = vec![Duration::MAX; failures.len()];
        for _ in 0..100 {
            for ((_, sealed), fastest) in failures.iter().zip(&mut fastest) {
                let begun = Instant::now();
                let opened = open(&exchange.secret_key, sealed, sealed.len());
                let taken = begun.elapsed();
                assert!(opened.is_err());
                *fastest = taken.min(*fastest);
            }
        }
        let (least, most) = (fastest.iter().min().unwrap(), fastest.iter().max().unwrap());
        if *most < *least * 5 / 4 {
            return;
        }
        seen.push(fastest);
    }
    panic!("in {ROUNDS} rounds some failure was told by its time: {seen:?}");
}

#[test]
fn every_failure_takes_the_same_time() {
    check_times(Kem::X25519);
    check_times(Kem::XWing);
}

/// A key's id is a byte, so two relays may have one by chance.
#[test]
fn a_request_opens_at_the_relay_it_was_sealed_to_alone() {
    for kem in Kem::ALL {
        let (secret_key, config) = keys(kem, 1);
        let (elsewhere, other) = keys(kem, 2);
        assert_eq!(config.id(), other.id());
        let (sealed, _) = seal(&config, Aead::Aes256Gcm, &QUESTION, 2);
        assert_eq!(open(&elsewhere, &sealed, 16).unwrap_err(), Unopened);
        assert!(open(&secret_key, &sealed, 16).is_ok());
    }
}
