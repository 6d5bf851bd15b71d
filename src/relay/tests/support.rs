//! What the tests share: hexadecimal digits, vectors, generators, one-line exchanges.

use std::convert::Infallible;
use std::fs;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{SeedableRng, TryCryptoRng, TryRng};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{
    Aead, ChunkedResponse, Ciphers, HeadReader, Kem, KeyConfig, RequestOpener, RequestSealer,
    ResponseOpener, ResponseSealer, SecretKey, Unopened,
};

/// Spaces are for readers.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
    let (pairs, odd) = digits.as_chunks::<2>();
    assert!(odd.is_empty(), "digits come in pairs");
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.iter().map(byte).collect()
}

/// Of a field of a vector.
pub(crate) fn field(value: &Value, name: &str) -> Vec<u8> {
    let text = value[name].as_str();
    hex(text.unwrap_or_else(|| panic!("{name} is text")))
}

pub(crate) fn number(value: &Value, name: &str) -> u64 {
    value[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{name} is a number"))
}

/// A file of vectors, which lie beside the project and not in it. `None`, and a word about it, where
/// they are not there: what must hold without them is tested with the project's own fixtures.
pub(crate) fn shared(file: &str) -> Option<Value> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/crypto");
    let Ok(text) = fs::read_to_string(Path::new(folder).join(file)) else {
        println!("skipped: no ../shared/data/crypto/{file} here");
        return None;
    };
    Some(serde_json::from_str(&text).unwrap())
}

pub(crate) fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// "Random" bytes that a vector states, each once.
pub(crate) struct Stated(Vec<u8>);

impl Stated {
    pub(crate) fn new(mut bytes: Vec<u8>) -> Self {
        bytes.reverse();
        Self(bytes)
    }
}

impl TryRng for Stated {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("only bytes are stated")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("only bytes are stated")
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        out.fill_with(|| self.0.pop().expect("the vector states enough bytes"));
        Ok(())
    }
}

impl TryCryptoRng for Stated {}

pub(crate) fn keys(kem: Kem, seed: u64) -> (SecretKey, KeyConfig) {
    let secret_key = SecretKey::generate(kem, &mut rng(seed));
    let config = KeyConfig::of(7, &secret_key, Ciphers::Interop);
    (secret_key, config)
}

/// A sealed request of `chunks`, and what opens the response.
pub(crate) fn seal(
    config: &KeyConfig,
    aead: Aead,
    chunks: &[&[u8]],
    seed: u64,
) -> (Vec<u8>, ResponseOpener) {
    let mut out = Vec::new();
    let mut sealer = RequestSealer::start(config, aead, &mut rng(seed), &mut out).unwrap();
    let (last, before) = chunks.split_last().unwrap();
    before
        .iter()
        .for_each(|chunk| sealer.push(chunk, &mut out).unwrap());
    let opener = sealer.finish(last, &mut out).unwrap();
    (out, opener)
}

/// A whole sealed request, opened, `cut` bytes at a time.
pub(crate) fn open(
    secret_key: &SecretKey,
    sealed: &[u8],
    cut: usize,
) -> Result<(Vec<u8>, ResponseSealer), Unopened> {
    let mut head = HeadReader::new(Ciphers::Interop);
    let mut opener: Option<RequestOpener> = None;
    let mut plain = Vec::new();
    for mut piece in sealed.chunks(cut.max(1)) {
        if opener.is_none() {
            let Some(head) = head.next(&mut piece).map_err(|_| Unopened)? else {
                continue;
            };
            opener = Some(RequestOpener::start(head, secret_key)?);
        }
        let opener = opener.as_mut().unwrap();
        while let Some(chunk) = opener.next(&mut piece)? {
            assert!(!chunk.is_empty());
            plain.extend_from_slice(chunk);
        }
        assert!(piece.is_empty());
    }
    let (last, sealer) = opener.ok_or(Unopened)?.finish()?;
    plain.extend_from_slice(&last);
    Ok((plain, sealer))
}

pub(crate) fn answer(sealer: ResponseSealer, chunks: &[&[u8]], seed: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut response: ChunkedResponse = sealer.start(&mut rng(seed), &mut out);
    let (last, before) = chunks.split_last().unwrap();
    before
        .iter()
        .for_each(|chunk| response.push(chunk, &mut out).unwrap());
    response.finish(last, &mut out).unwrap();
    out
}

/// A whole sealed response, opened, `cut` bytes at a time.
pub(crate) fn read_answer(
    mut opener: ResponseOpener,
    sealed: &[u8],
    cut: usize,
) -> Result<Zeroizing<Vec<u8>>, Unopened> {
    let mut plain = Zeroizing::new(Vec::new());
    for mut piece in sealed.chunks(cut.max(1)) {
        while let Some(chunk) = opener.next(&mut piece)? {
            plain.extend_from_slice(chunk);
        }
    }
    plain.extend_from_slice(&opener.finish()?);
    Ok(plain)
}
