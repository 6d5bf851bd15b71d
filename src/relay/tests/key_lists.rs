//! Lists of key configurations, ours and others'.

use proptest::prelude::*;

use super::support::{hex, keys};
use crate::{Aead, Ciphers, Kem, KeyConfig, KeyConfigFault};

/// A list with these configurations in it, each with its length.
fn list(configs: &[&[u8]]) -> Vec<u8> {
    let with_length = |config: &&[u8]| [&(config.len() as u16).to_be_bytes()[..], config].concat();
    configs.iter().flat_map(with_length).collect()
}

fn written(kem: Kem) -> Vec<u8> {
    let mut out = Vec::new();
    keys(kem, 1).1.write(&mut out);
    out
}

#[test]
fn a_list_is_read_back_in_its_order() {
    let [x25519, x_wing] = [Kem::X25519, Kem::XWing].map(|kem| keys(kem, 3).1);
    let bytes = KeyConfig::write_list([&x25519, &x_wing]);
    assert_eq!(KeyConfig::read_list(&bytes).unwrap(), [x25519, x_wing]);
    assert_eq!(KeyConfig::read_list(b"").unwrap(), []);
}

#[test]
fn unknown_algorithms_are_passed_over() {
    // A KEM that nobody here knows, then one cipher known among three, then none known.
    let unknown_kem = hex("0512340011223344");
    let mut some = hex("060020");
    some.extend(keys(Kem::X25519, 1).1.public_key());
    let mut none = some.clone();
    some.extend(hex("000c000100030001000200020001"));
    none.extend(hex("000400010003"));
    let read = KeyConfig::read_list(&list(&[&unknown_kem, &some, &none])).unwrap();
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].aeads(), [Aead::Aes256Gcm]);
    assert_eq!(read[0].id(), 6);
}

#[test]
fn the_best_cipher_is_chosen_whatever_the_order() {
    let mut bytes = hex("070020");
    bytes.extend(keys(Kem::X25519, 1).1.public_key());
    bytes.extend(hex("00080001000100010002"));
    let config = KeyConfig::read(&bytes).unwrap().unwrap();
    assert_eq!(config.aeads(), [Aead::Aes128Gcm, Aead::Aes256Gcm]);
    assert_eq!(config.choose(Ciphers::Interop), Some(Aead::Aes256Gcm));
    bytes.truncate(bytes.len() - 10);
    bytes.extend(hex("000400010001"));
    let config = KeyConfig::read(&bytes).unwrap().unwrap();
    assert_eq!(config.choose(Ciphers::Strict), None);
}

#[test]
fn one_fault_discards_the_whole_list() {
    use KeyConfigFault::{CutShort, Malformed, PublicKey, TooLong};
    let whole = written(Kem::X25519);
    let good = list(&[&whole]);
    let after = |bytes: &[u8]| [&good, bytes].concat();
    let odd = [&whole[..], &[0]].concat();
    let empty = [&whole[..35], &[0, 0]].concat();
    let mut wrong_length = whole.clone();
    wrong_length[36] = 4;
    let mut not_a_key = written(Kem::XWing);
    // Coefficients of ML-KEM are below 3,329.
    not_a_key[3..1_155].fill(0xff);
    for (bytes, fault) in [
        (after(&[0]), CutShort { index: 1 }),
        (after(&[0, 1]), CutShort { index: 1 }),
        (after(&list(&[&[1, 2]])), Malformed { index: 1 }),
        (after(&list(&[&whole[..34]])), Malformed { index: 1 }),
        (after(&list(&[&odd])), Malformed { index: 1 }),
        (after(&list(&[&empty])), Malformed { index: 1 }),
        (after(&list(&[&wrong_length])), Malformed { index: 1 }),
        (after(&list(&[&not_a_key])), PublicKey { index: 1 }),
        (list(&[&whole[..]; 65]), TooLong),
        (vec![0; (64 << 10) + 1], TooLong),
    ] {
        assert_eq!(KeyConfig::read_list(&bytes), Err(fault));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(configs) = KeyConfig::read_list(&bytes) {
            let again = KeyConfig::write_list(&configs);
            prop_assert_eq!(KeyConfig::read_list(&again).unwrap(), configs);
        }
    }
}
