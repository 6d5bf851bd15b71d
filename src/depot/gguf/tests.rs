use proptest::prelude::*;

use super::builder::Builder;
use super::*;

fn inspected(file: &[u8]) -> Result<GgufSummary, GgufFault> {
    inspect_from(file, file.len() as u64)
}

#[test]
fn a_whole_file_says_what_it_is() {
    let file = Builder::model().build();
    let summary = inspected(&file).unwrap();
    assert_eq!(
        summary,
        GgufSummary {
            version: 3,
            architecture: "llama".into(),
            name: Some("tiny".into()),
            licence: None,
            context_tokens: Some(64),
            vocabulary_count: 3,
            tensor_count: 2,
            parameter_count: 8,
            chat_template: Some("{{ messages }}".into()),
            bytes: file.len() as u64,
        }
    );
}

#[test]
fn each_breach_is_named() {
    let model = Builder::model;
    let mut many_keys = model();
    many_keys.key_count = Some(u64::MAX);
    let mut many_tensors = model();
    many_tensors.tensor_count = Some(1 << 40);
    let mut old = model();
    old.version = 1;
    let long_name = "n".repeat(64);
    let cases: Vec<(&str, Builder)> = vec![
        ("version is 1", old),
        ("18446744073709551615 keys", many_keys),
        ("1099511627776 tensors", many_tensors),
        (
            "`general.name` is there twice",
            model().again("general.name", 4, vec![0; 4]),
        ),
        ("key number", model().text("", "x")),
        ("value type 99", model().raw("x", 99, vec![0; 8])),
        (
            "list entries",
            model().raw(
                "x",
                9,
                [4_u32.to_le_bytes().as_slice(), &u64::MAX.to_le_bytes()].concat(),
            ),
        ),
        (
            "claims 9223372036854775807 a text",
            model().raw("x", 8, i64::MAX.to_le_bytes().to_vec()),
        ),
        (
            "not UTF-8",
            model().raw("x", 8, [1_u64.to_le_bytes().as_slice(), &[0xff]].concat()),
        ),
        (
            "`general.architecture` is missing",
            model().without("general.architecture"),
        ),
        (
            "`general.architecture` should be a text",
            model().whole("general.architecture", 1),
        ),
        (
            "`llama.context_length` is missing",
            model().without("llama.context_length"),
        ),
        (
            "`llama.context_length` is 0",
            model().whole("llama.context_length", 0),
        ),
        (
            "`tokenizer.ggml.tokens` is missing",
            model().without("tokenizer.ggml.tokens"),
        ),
        (
            "`tokenizer.ggml.tokens` is 0",
            model().texts("tokenizer.ggml.tokens", &[]),
        ),
        (
            "2 entries for a vocabulary of 3",
            model().numbers("tokenizer.ggml.scores", &[0.0, 1.0]),
        ),
        (
            "`tokenizer.ggml.eos_token_id` is 3",
            model().whole("tokenizer.ggml.eos_token_id", 3),
        ),
        ("one of 4 parts", model().whole("split.count", 4)),
        (
            "template has 524289 bytes",
            model().text("tokenizer.chat_template", &"x".repeat(524_289)),
        ),
        (
            "`general.alignment` is 48",
            model().whole("general.alignment", 48),
        ),
        (
            "`token_embd.weight` is missing",
            model().no_tensors().tensor("other", &[2], 0, 8),
        ),
        (
            "rows for 4 tokens",
            model()
                .no_tensors()
                .tensor("token_embd.weight", &[2, 4], 0, 32),
        ),
        ("5 dimensions", model().tensor("x", &[1, 1, 1, 1, 1], 0, 4)),
        ("0 dimensions", model().tensor("x", &[], 0, 4)),
        ("empty dimension", model().tensor("x", &[0], 0, 0)),
        (
            "empty dimension or more",
            model().tensor("x", &[1 << 40, 1 << 40], 0, 0),
        ),
        ("element type 4", model().tensor("x", &[32], 4, 18)),
        ("element type 43", model().tensor("x", &[32], 43, 18)),
        ("rows of 31 elements", model().tensor("x", &[31], 8, 34)),
        ("lies at 7", model().tensor_at("x", &[2], 0, 7, 8)),
        ("past the end", model().tensor("x", &[1 << 30], 0, 8)),
        ("64 a tensor's name", model().tensor(&long_name, &[2], 0, 8)),
    ];
    for (words, builder) in cases {
        let fault = inspected(&builder.build()).expect_err(words);
        assert!(fault.to_string().contains(words), "{words}: {fault}");
    }
    let page = inspected(b"<!DOCTYPE html>").unwrap_err();
    assert!(matches!(page.problem, GgufProblem::Magic));
}

/// Every proper prefix is refused: a pull that broke off can never be taken for a model.
#[test]
fn a_file_cut_at_any_byte_is_refused() {
    let file = Builder::model().build();
    // The last tensor's padding is not part of the model.
    let needed = file.len() - (32 - 8);
    for cut in 0..needed {
        assert!(inspected(&file[..cut]).is_err(), "cut at {cut}");
    }
    assert!(inspected(&file[..needed]).is_ok());
}

/// The file shrinks between the size being read and the bytes being read.
#[test]
fn a_file_shorter_than_its_size_is_refused() {
    let file = Builder::model().build();
    for cut in 0..400.min(file.len()) {
        let fault = inspect_from(&file[..cut], file.len() as u64);
        assert!(fault.is_err(), "cut at {cut}");
    }
}

#[test]
fn every_single_byte_flip_is_survived() {
    let file = Builder::model().build();
    for at in 0..file.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut mutated = file.clone();
            mutated[at] = value;
            let _ = inspected(&mutated);
        }
    }
}

proptest! {
    #[test]
    fn random_changes_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), 1_usize..9), 1..6)
    ) {
        let mut file = Builder::model().build();
        for (index, value, width) in changes {
            let at = index.index(file.len());
            let end = (at + width).min(file.len());
            file[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
        }
        let _ = inspected(&file);
    }

    #[test]
    fn random_bytes_after_the_magic_never_panic(tail in prop::collection::vec(any::<u8>(), 0..512)) {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(tail);
        let _ = inspected(&file);
    }
}
