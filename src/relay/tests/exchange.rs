//! Exchanges between our own two ends.

use proptest::prelude::*;

use super::support::{answer, keys, open, read_answer, rng, seal};
use crate::limits::{CHUNK_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::{
    Aead, Ciphers, HeadReader, HeadRefused, Kem, RequestSealer, SealFault, Unopened,
    WholeRequestSealer, open_whole_request, seal_whole_request,
};

const SUITES: [(Kem, Aead); 4] = [
    (Kem::XWing, Aead::Aes256Gcm),
    (Kem::X25519, Aead::Aes256Gcm),
    (Kem::XWing, Aead::Aes128Gcm),
    (Kem::X25519, Aead::Aes128Gcm),
];

#[test]
fn what_is_sealed_is_opened_in_every_suite() {
    for (kem, aead) in SUITES {
        let (secret_key, config) = keys(kem, 1);
        let (sealed, opener) = seal(&config, aead, &[b"a", b"question", b""], 2);
        let (plain, sealer) = open(&secret_key, &sealed, 1).unwrap();
        assert_eq!(plain, b"aquestion");
        let sealed = answer(sealer, &[b"an", b"answer"], 3);
        assert_eq!(**read_answer(opener, &sealed, 1).unwrap(), *b"ananswer");
    }
}

#[test]
fn whole_messages_are_sealed_and_opened_in_every_suite() {
    for (kem, aead) in SUITES {
        let (secret_key, config) = keys(kem, 1);
        let (sealed, opener) = seal_whole_request(&config, aead, b"question", &mut rng(2)).unwrap();
        let mut rest = &sealed[..];
        let head = HeadReader::new(Ciphers::Interop)
            .next(&mut rest)
            .unwrap()
            .unwrap();
        let (plain, sealer) = open_whole_request(head.clone(), &secret_key, rest.to_vec()).unwrap();
        assert_eq!(*plain, b"question");
        let answer = sealer.seal(b"answer", &mut rng(3)).unwrap();
        for at in 0..answer.len() {
            let mut flipped = answer.clone();
            flipped[at] ^= 1;
            let (_, opener) = seal_whole_request(&config, aead, b"question", &mut rng(2)).unwrap();
            assert_eq!(opener.open(&flipped).unwrap_err(), Unopened);
            let (_, opener) = seal_whole_request(&config, aead, b"question", &mut rng(2)).unwrap();
            assert_eq!(opener.open(&answer[..at]).unwrap_err(), Unopened);
        }
        assert_eq!(**opener.open(&answer).unwrap(), *b"answer");
        let cut = rest[..rest.len() - 1].to_vec();
        assert!(open_whole_request(head, &secret_key, cut).is_err());
    }
}

#[test]
fn both_ends_of_a_whole_message_know_one_secret() {
    let (secret_key, config) = keys(Kem::X25519, 1);
    let sealer = WholeRequestSealer::start(&config, Aead::Aes256Gcm, &mut rng(2)).unwrap();
    let secret = sealer.proof_secret();
    let (sealed, _) = sealer.seal(b"question").unwrap();
    let mut rest = &sealed[..];
    let mut reader = HeadReader::new(Ciphers::Strict);
    let head = reader.next(&mut rest).unwrap().unwrap();
    let (_, answering) = open_whole_request(head, &secret_key, rest.to_vec()).unwrap();
    assert_eq!(**answering.proof_secret(), *secret);
}

/// The two forms are told apart by what HPKE binds, not by the outer media type alone.
#[test]
fn one_form_does_not_open_as_the_other() {
    let (secret_key, config) = keys(Kem::X25519, 1);
    let (whole, _) =
        seal_whole_request(&config, Aead::Aes256Gcm, b"question", &mut rng(2)).unwrap();
    let (head, body) = whole.split_at(7 + 32);
    let as_chunked = [head, &[0], body].concat();
    assert_eq!(open(&secret_key, &as_chunked, 9).unwrap_err(), Unopened);
}

#[test]
fn both_ends_know_one_secret_and_one_digest() {
    let (secret_key, config) = keys(Kem::XWing, 1);
    let mut out = Vec::new();
    let sealer = RequestSealer::start(&config, Aead::Aes256Gcm, &mut rng(2), &mut out).unwrap();
    let head = HeadReader::new(Ciphers::Strict)
        .next(&mut &out[..])
        .unwrap()
        .unwrap();
    assert_eq!(head.digest(), sealer.digest());
    assert_eq!(head.digest().short().len(), 16);
    let opener = crate::RequestOpener::start(head, &secret_key).unwrap();
    assert_eq!(**opener.proof_secret(), *sealer.proof_secret());
    let other = RequestSealer::start(&config, Aead::Aes256Gcm, &mut rng(3), &mut out).unwrap();
    assert_ne!(*other.proof_secret(), *sealer.proof_secret());
    assert_ne!(other.digest(), sealer.digest());
}

#[test]
fn a_suite_that_is_not_taken_is_refused_with_its_head() {
    let (_, config) = keys(Kem::X25519, 1);
    let (sealed, _) = seal(&config, Aead::Aes128Gcm, &[b""], 2);
    let mut strict = HeadReader::new(Ciphers::Strict);
    assert_eq!(strict.next(&mut &sealed[..]), Err(HeadRefused));
    for (at, byte) in [(1, 1), (2, 0x21), (3, 1), (4, 2), (5, 1), (6, 3)] {
        let mut unknown = sealed.clone();
        unknown[at] = byte;
        let mut reader = HeadReader::new(Ciphers::Interop);
        assert_eq!(reader.next(&mut &unknown[..7]), Err(HeadRefused));
    }
}

#[test]
fn a_long_push_is_cut_into_chunks_that_everybody_takes() {
    let (secret_key, config) = keys(Kem::X25519, 1);
    let long = vec![5; 2 * CHUNK_BYTES_MAX];
    let (sealed, _) = seal(&config, Aead::Aes256Gcm, &[&long[1..], &long], 2);
    assert_eq!(
        open(&secret_key, &sealed, 4_000).unwrap().0.len(),
        4 * CHUNK_BYTES_MAX - 1
    );
    // Seven ids, `enc`, then three lengths of four bytes, one of none, and four tags.
    assert_eq!(
        sealed.len(),
        39 + 3 * 4 + 1 + 4 * 16 + 4 * CHUNK_BYTES_MAX - 1
    );
}

#[test]
fn a_whole_request_beyond_its_bound_is_not_sealed() {
    let (_, config) = keys(Kem::X25519, 1);
    let whole = vec![0; REQUEST_BYTES_MAX as usize + 1];
    let sealed = seal_whole_request(&config, Aead::Aes256Gcm, &whole, &mut rng(2));
    assert_eq!(sealed.unwrap_err(), SealFault::TooLong);
}

#[test]
fn nothing_secret_is_printed() {
    let (secret_key, config) = keys(Kem::X25519, 1);
    let (sealed, opener) = seal(&config, Aead::Aes256Gcm, &[b"question"], 2);
    let (_, sealer) = open(&secret_key, &sealed, 9).unwrap();
    assert_eq!(format!("{secret_key:?}"), "SecretKey(x25519)");
    assert_eq!(
        format!("{sealer:?}"),
        "ResponseSealer { secret: ResponseSecret(Aes256Gcm) }"
    );
    assert!(
        format!("{opener:?}").starts_with("ResponseOpener { secret: ResponseSecret(Aes256Gcm)")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn where_the_bytes_are_cut_makes_no_difference(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..900), 1..6),
        cut in 1usize..700,
        seed in any::<u64>(),
    ) {
        let (secret_key, config) = keys(Kem::X25519, 1);
        let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
        let (sealed, opener) = seal(&config, Aead::Aes256Gcm, &chunks, seed);
        let (plain, sealer) = open(&secret_key, &sealed, cut).unwrap();
        prop_assert_eq!(&plain, &chunks.concat());
        let sealed = answer(sealer, &chunks, seed);
        prop_assert_eq!(&**read_answer(opener, &sealed, cut).unwrap(), &chunks.concat());
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 1usize..50) {
        let (secret_key, _) = keys(Kem::X25519, 1);
        prop_assert!(open(&secret_key, &bytes, cut).is_err());
        let ids = [7, 0, 0x20, 0, 1, 0, 2];
        prop_assert!(open(&secret_key, &[&ids[..], &bytes].concat(), cut).is_err());
    }
}

/// Features that nobody would miss: without them keys and states would stay in memory.
#[test]
fn what_holds_a_secret_is_wiped_when_it_is_dropped() {
    fn is_wiped<T: zeroize::ZeroizeOnDrop>() -> bool {
        std::mem::needs_drop::<T>()
    }
    assert!(is_wiped::<aes_gcm::Aes256Gcm>());
    assert!(is_wiped::<x25519_dalek::StaticSecret>());
    assert!(is_wiped::<ed25519_dalek::SigningKey>());
    assert!(is_wiped::<sha2::block_api::Sha256VarCore>());
    assert!(is_wiped::<crate::ProofSecret>());
}
