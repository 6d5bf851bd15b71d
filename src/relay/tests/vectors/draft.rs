//! The complete examples of draft-ietf-ohai-chunked-ohttp-08 and RFC 9458, appendix A each, with
//! every value between. The project carries the first itself, so that it is checked everywhere.

use hkdf::Hkdf;
use serde_json::Value;
use sha2::Sha256;

use super::schedule::Sender;
use crate::sealed::{Cipher, Derived};
use crate::tests::support::{Stated, field, hex, number, open, read_answer, seal, shared};
use crate::{
    Aead, Ciphers, Form, HeadReader, Kem, KeyConfig, RequestHead, SecretKey, Suite,
    open_whole_request,
};

const SUITE: Suite = Suite {
    kem: Kem::X25519,
    aead: Aead::Aes128Gcm,
};

/// What both examples have in common.
struct Example {
    value: Value,
    form: Form,
    secret_key: SecretKey,
    sender: Sender,
}

fn example(value: Value, form: Form) -> Example {
    let secret = |name| <[u8; 32]>::try_from(field(&value, name)).unwrap();
    let secret_key = SecretKey::from_bytes(Kem::X25519, &secret("skR"));
    let config = KeyConfig::read(&field(&value, "key_config"))
        .unwrap()
        .unwrap();
    assert_eq!(config.public_key(), secret_key.public_key());
    assert_eq!(u64::from(config.id()), number(&value, "key_id"));
    // ChaCha20-Poly1305, which it offers too, is passed over.
    assert_eq!(config.aeads(), [Aead::Aes128Gcm]);
    let info = RequestHead::info(form, config.id(), SUITE);
    assert_eq!(info, field(&value, "info"));
    let public_key = secret_key.public_key().try_into().unwrap();
    let sender = Sender::new(secret("skE"), public_key, &info);
    assert_eq!(sender.enc, field(&value, "enc"));
    Example {
        value,
        form,
        secret_key,
        sender,
    }
}

impl Example {
    fn head(&self) -> Vec<u8> {
        let ids = RequestHead::ids(number(&self.value, "key_id") as u8, SUITE);
        [&ids[..], &self.sender.enc].concat()
    }

    /// From the exported secret to the key and the first nonce of the response.
    fn response_keys(&self) -> Derived {
        let label: &[u8] = match self.form {
            Form::Whole => b"message/bhttp response",
            Form::Chunked => b"message/bhttp chunked response",
        };
        let secret = self.sender.export(label, 16);
        assert_eq!(secret, field(&self.value, "exported_secret"));
        let nonce = &field(&self.value, "encapsulated_response")[..16];
        let salt = [&self.sender.enc, nonce].concat();
        assert_eq!(salt, field(&self.value, "salt"));
        let prk = Hkdf::<Sha256>::extract(Some(&salt), &secret).0;
        assert_eq!(prk.to_vec(), field(&self.value, "prk"));
        let derived = Derived::from(Aead::Aes128Gcm, &secret, &self.sender.enc, nonce);
        assert_eq!(*derived.key, field(&self.value, "aead_key"));
        assert_eq!(derived.nonce.to_vec(), field(&self.value, "aead_nonce"));
        derived
    }
}

/// Cuts a message into chunks of the lengths that the example states.
fn cut<'a>(plain: &'a [u8], lengths: &Value) -> Vec<&'a [u8]> {
    let mut rest = plain;
    let lengths = lengths.as_array().unwrap().iter();
    lengths
        .map(|length| {
            let (chunk, after) = rest.split_at(length.as_u64().unwrap() as usize);
            rest = after;
            chunk
        })
        .collect()
}

fn check_chunked(value: Value) {
    let mut example = example(value, Form::Chunked);
    let request = field(&example.value, "bhttp_request");
    let sealed = field(&example.value, "encapsulated_request");

    // Sealed a second time by hand.
    let mut again = example.head();
    let chunks = cut(&request, &example.value["request_chunk_plaintext_lengths"]);
    let (last, before) = chunks.split_last().unwrap();
    for chunk in before {
        again.push(chunk.len() as u8 + 16);
        again.extend(example.sender.seal(b"", chunk));
    }
    again.push(0);
    again.extend(example.sender.seal(b"final", last));
    assert_eq!(again, sealed);

    let derived = example.response_keys();
    let mut cipher = Cipher::new(&derived);
    for nonce in example.value["chunk_nonces"].as_array().unwrap() {
        assert_eq!(cipher.nonce().to_vec(), hex(nonce.as_str().unwrap()));
    }

    let response = field(&example.value, "bhttp_response");
    let answer = field(&example.value, "encapsulated_response");
    for bytes in [1, 2, 7, 1_000] {
        let (plain, sealer) = open(&example.secret_key, &sealed, bytes).unwrap();
        assert_eq!(plain, request);
        let mut out = Vec::new();
        let mut chunked = sealer.start(&mut Stated::new(answer[..16].to_vec()), &mut out);
        let chunks = cut(
            &response,
            &example.value["response_chunk_plaintext_lengths"],
        );
        let (last, before) = chunks.split_last().unwrap();
        before
            .iter()
            .for_each(|chunk| chunked.push(chunk, &mut out).unwrap());
        chunked.finish(last, &mut out).unwrap();
        assert_eq!(out, answer);
    }
}

/// Appendix A of the draft, of 18 February 2026, whose lengths are in various forms.
const DRAFT: &str = include_str!("../fixtures/chunked-ohttp-08-appendix-a.json");

#[test]
fn the_example_of_the_draft_is_kept_to_the_byte() {
    check_chunked(serde_json::from_str(DRAFT).unwrap());
}

#[test]
fn the_shared_example_of_the_draft_is_the_one_carried_here() {
    let Some(value) = shared("chunked-ohttp-08-appendix-a.json") else {
        return;
    };
    assert_eq!(value, serde_json::from_str::<Value>(DRAFT).unwrap());
}

#[test]
fn the_example_of_rfc_9458_is_kept_to_the_byte() {
    let Some(value) = shared("rfc9458-appendix-a.json") else {
        return;
    };
    let mut example = example(value, Form::Whole);
    let request = field(&example.value, "bhttp_request");
    let sealed = field(&example.value, "encapsulated_request");
    let again = [example.head(), example.sender.seal(b"", &request)].concat();
    assert_eq!(again, sealed);
    example.response_keys();

    let mut rest = &sealed[..];
    let head = HeadReader::new(Ciphers::Interop)
        .next(&mut rest)
        .unwrap()
        .unwrap();
    let (plain, sealer) = open_whole_request(head, &example.secret_key, rest.to_vec()).unwrap();
    assert_eq!(*plain, request);
    let answer = field(&example.value, "encapsulated_response");
    let mut nonce = Stated::new(answer[..16].to_vec());
    let made = sealer
        .seal(&field(&example.value, "bhttp_response"), &mut nonce)
        .unwrap();
    assert_eq!(made, answer);
}

/// What is sealed here to a vector's key opens with its own way to the keys, too.
#[test]
fn a_request_of_ours_opens_at_the_examples_gateway() {
    let value: Value = serde_json::from_str(DRAFT).unwrap();
    let example = example(value, Form::Chunked);
    let config = KeyConfig::read(&field(&example.value, "key_config"))
        .unwrap()
        .unwrap();
    let (sealed, opener) = seal(&config, Aead::Aes128Gcm, &[b"one", b"two", b""], 1);
    let (plain, sealer) = open(&example.secret_key, &sealed, 3).unwrap();
    assert_eq!(plain, b"onetwo");
    let mut out = Vec::new();
    let chunked = sealer.start(&mut Stated::new(vec![9; 16]), &mut out);
    chunked.finish(b"three", &mut out).unwrap();
    assert_eq!(**read_answer(opener, &out, 1).unwrap(), *b"three");
}
