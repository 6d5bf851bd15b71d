use proptest::prelude::*;

use super::builder::{self, Builder};
use super::*;

mod adapters;

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
            file_type: None,
            pooling: None,
            chat_template: Some("{{ messages }}".into()),
            bytes: file.len() as u64,
            shape: GgufShape {
                weight_bytes: 32,
                layers: 1,
                layer_weights: vec![0],
                // The token embedding is the output's matrix too.
                output_bytes: 32,
                embedding: 2,
                // No heads stated: a whole embedding of keys and one of values.
                attention: vec![Attention { keys: 2, values: 2 }],
                ..GgufShape::default()
            },
        }
    );
}

fn shape(file: Builder) -> GgufShape {
    inspected(&file.build()).unwrap().shape
}

#[test]
fn a_shape_counts_what_each_layer_keeps_of_a_token() {
    let grouped = Builder::model()
        .whole("llama.embedding_length", 64)
        .no_tensors()
        .tensor("token_embd.weight", &[64, 3], 0, 768)
        .whole("llama.block_count", 3)
        .whole("llama.attention.head_count", 4)
        .whole("llama.attention.head_count_kv", 2)
        .whole("llama.feed_forward_length", 96);
    let found = shape(grouped.clone());
    let layer = Attention {
        keys: 32,
        values: 32,
    };
    assert_eq!(found.attention, vec![layer; 3]);
    assert_eq!((found.heads, found.feed_forward), (4, 96));
    assert_eq!(found.state_numbers, 0);
    // A hybrid: the first and last layers are recurrent.
    let list = |values: [u32; 3]| {
        let entries: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let head = [4_u32.to_le_bytes().as_slice(), &3_u64.to_le_bytes()].concat();
        [head, entries].concat()
    };
    let hybrid = grouped
        .raw("llama.attention.head_count_kv", 9, list([0, 2, 0]))
        .whole("llama.ssm.inner_size", 128)
        .whole("llama.ssm.state_size", 16)
        .whole("llama.ssm.conv_kernel", 4);
    let found = shape(hybrid);
    let none = Attention::default();
    assert_eq!(found.attention, vec![none, layer, none]);
    assert_eq!(found.state_numbers, 4 * (128 + 2 * 16) + 128 * 16);
}

#[test]
fn weights_are_counted_by_the_layer_they_belong_to() {
    let mixture = Builder::model()
        .whole("llama.block_count", 3)
        .tensor("blk.0.attn_q.weight", &[2, 2], 1, 8)
        .tensor("blk.0.ffn_up_exps.weight", &[2, 4, 4], 0, 128)
        .tensor("blk.2.attn_q.weight", &[2, 2], 1, 8)
        // Of no layer that there is.
        .tensor("blk.7.attn_q.weight", &[2, 2], 1, 8)
        .tensor("blk.999999999999.attn_q.weight", &[2, 2], 1, 8);
    let found = shape(mixture.clone());
    assert_eq!(found.layer_weights, [136, 0, 8]);
    assert_eq!(found.output_bytes, 24 + 8 + 8);
    // With a matrix of its own the token embedding stays out of it.
    let found = shape(mixture.tensor("output.weight", &[2, 3], 0, 24));
    assert_eq!(found.output_bytes, 24 + 8 + 8);
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
            "`general.alignment` is 8",
            model().whole("general.alignment", 8),
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
        (
            "tokens 0 and 2 are the same",
            model().texts("tokenizer.ggml.tokens", &["a", "b", "a\0c"]),
        ),
        (
            "tokens 0 and 1 are the same",
            model().texts("tokenizer.ggml.tokens", &["[EMPTY_1]", "", "c"]),
        ),
        (
            "no token for the byte 0x00",
            model().text("tokenizer.ggml.model", "llama"),
        ),
        (
            "`no_vocab` reads no text",
            model().text("tokenizer.ggml.model", "no_vocab"),
        ),
        (
            "`bert` is none for chats",
            model().text("tokenizer.ggml.model", "bert"),
        ),
        (
            "`llama.block_count` is 513",
            model().whole("llama.block_count", 513),
        ),
        (
            "`llama.expert_used_count` does not fit",
            model().whole("llama.expert_count", 4),
        ),
        (
            "`llama.expert_group_count` does not divide",
            model()
                .whole("llama.expert_count", 4)
                .whole("llama.expert_used_count", 2)
                .whole("llama.expert_group_count", 3),
        ),
        (
            "`llama.attention.head_count` does not divide",
            model().whole("llama.attention.head_count", 3),
        ),
        (
            "`llama.attention.head_count_kv` does not divide",
            model()
                .whole("llama.attention.head_count", 2)
                .whole("llama.attention.head_count_kv", 3),
        ),
        (
            "`llama.attention.head_count_kv` is 0",
            model()
                .whole("llama.attention.head_count", 2)
                .whole("llama.attention.head_count_kv", 0),
        ),
        (
            "`llama.rope.dimension_count` is not the length of a head",
            model()
                .whole("llama.attention.head_count", 1)
                .whole("llama.attention.key_length", 4)
                .whole("llama.attention.value_length", 4)
                .whole("llama.rope.dimension_count", 2),
        ),
        (
            "`llama.attention.value_length` is not that of the keys",
            model()
                .whole("llama.attention.head_count", 1)
                .whole("llama.attention.value_length", 4),
        ),
        (
            "`llama.attention.layer_norm_rms_epsilon` is not between",
            model().real("llama.attention.layer_norm_rms_epsilon", f32::NAN),
        ),
        (
            "`llama.rope.freq_base` is not above 0",
            model().real("llama.rope.freq_base", 0.0),
        ),
        (
            "`llama.rope.scaling.type` is none",
            model().text("llama.rope.scaling.type", "sideways"),
        ),
        (
            "`llama.attention.causal` is false",
            model().raw("llama.attention.causal", 7, vec![0]),
        ),
        (
            "`llama.nextn_predict_layers` is more",
            model().whole("llama.nextn_predict_layers", 2),
        ),
        (
            "`output_norm.weight` has element type 26, with which",
            model().tensor("output_norm.weight", &[2], 26, 8),
        ),
        (
            "`blk.0.attn_q.weight` has element type 28, with which",
            model().tensor("blk.0.attn_q.weight", &[2, 2], 28, 32),
        ),
    ];
    for (words, builder) in cases {
        let fault = inspected(&builder.build()).expect_err(words);
        assert!(fault.to_string().contains(words), "{words}: {fault}");
    }
    let page = inspected(b"<!DOCTYPE html>").unwrap_err();
    assert!(matches!(page.problem, GgufProblem::Magic));
}

/// The tests' own reranker, and what becomes of it where its head is not as the file says.
#[test]
fn a_model_that_ranks_has_a_head_for_its_labels() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/rank-tiny.gguf"
    );
    let summary = inspected(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(
        (&*summary.architecture, summary.chat_template),
        ("bert", None)
    );
    assert_eq!(summary.pooling, Some(Pooling::Rank));
    for (kind, wanted) in [
        (0, None),
        (1, Some(Pooling::Vector)),
        (3, Some(Pooling::Vector)),
    ] {
        let file = Builder::model().whole("llama.pooling_type", kind).build();
        assert_eq!(inspected(&file).unwrap().pooling, wanted, "{kind}");
    }

    let ranks = || Builder::model().whole("llama.pooling_type", 4);
    let head = |rows: u64, kind: u32| {
        ranks().tensor("cls.output.weight", &[2, rows], kind, 8 * rows as usize)
    };
    let labels = |model: Builder, count: usize| {
        model.texts("llama.classifier.output_labels", &vec!["l"; count])
    };
    assert!(inspected(&head(1, 0).build()).is_ok());
    assert!(inspected(&labels(head(2, 0), 2).build()).is_ok());
    // A head of one matrix.
    let one = ranks().tensor("cls.weight", &[2, 1], 0, 8);
    assert!(inspected(&one.build()).is_ok());
    for (words, model) in [
        ("`cls.output.weight` is missing", ranks()),
        ("gives 2 numbers for 1 labels", head(2, 0)),
        ("gives 1 numbers for 9 labels", labels(head(1, 0), 9)),
        (
            "gives 2 numbers for 1 labels",
            ranks().tensor("cls.weight", &[2, 2], 0, 16),
        ),
        ("with which such a tensor cannot be computed", head(1, 28)),
        (
            "with which such a tensor cannot be computed",
            head(1, 0).tensor("token_types.weight", &[2, 2], 1, 8),
        ),
    ] {
        let fault = inspected(&model.build()).unwrap_err();
        assert!(fault.to_string().contains(words), "{fault}: not {words}");
    }
}

/// Seen: these were asked of chat models only, and a model that embeds ended its process at the first
/// text, or while it was loaded.
#[test]
fn a_model_without_a_chat_template_needs_a_whole_tokenizer_too() {
    let embedder = || Builder::model().without("tokenizer.chat_template");
    for tokenizer in ["bert", "t5", "gpt2"] {
        let file = embedder().text("tokenizer.ggml.model", tokenizer).build();
        assert!(inspected(&file).is_ok(), "{tokenizer}");
    }
    for (tokenizer, words) in [
        ("llama", "no token for the byte 0x00"),
        ("no_vocab", "reads no text"),
        ("none", "reads no text"),
        ("test", "reads no text"),
    ] {
        let file = embedder().text("tokenizer.ggml.model", tokenizer);
        let file = file.whole("llama.vocab_size", 3).build();
        let fault = inspected(&file).expect_err(tokenizer);
        assert!(fault.to_string().contains(words), "{tokenizer}: {fault}");
    }
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

fn corpus() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/gguf")
}

/// What the fuzzer found its way by, without its compiler.
#[test]
fn what_the_fuzzer_keeps_is_survived() {
    let model = std::fs::read(corpus().join("../../adapted.gguf")).unwrap();
    let weights = Weights::read_from(&*model, model.len() as u64).unwrap();
    let mut sound = [0; 3];
    for entry in std::fs::read_dir(corpus()).unwrap() {
        let file = std::fs::read(entry.unwrap().path()).unwrap();
        let length = file.len() as u64;
        let _ = inspect_any_from(&*file, length);
        sound[0] += u32::from(inspected(&file).is_ok());
        sound[1] += u32::from(inspect_projector_from(&*file, length).is_ok());
        sound[2] += u32::from(weights.inspect_from(&*file, length).is_ok());
    }
    assert!(!sound.contains(&0), "of some kind none passes: {sound:?}");
}

/// A chat model of each kind of tokenizer and of layers, one that embeds and one that ranks.
#[test]
#[ignore = "writes what the fuzzer begins with"]
fn seeds_are_written() {
    let bytes: Vec<String> = (0..=255_u8).map(|byte| format!("<0x{byte:02X}>")).collect();
    let bytes: Vec<&str> = bytes.iter().map(String::as_str).collect();
    let plain = Builder::model()
        .whole("llama.attention.head_count", 1)
        .whole("llama.feed_forward_length", 4)
        .real("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .real("llama.rope.freq_base", 1e4)
        .whole("llama.rope.dimension_count", 2)
        .numbers("tokenizer.ggml.scores", &[0.0, 1.0, 2.0])
        .tensor("blk.0.attn_q.weight", &[2, 2], 1, 8)
        .tensor("blk.0.ffn_norm.weight", &[2], 0, 8);
    let fallback = Builder::model()
        .text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", &bytes)
        .whole("general.alignment", 64)
        .no_tensors()
        .tensor("token_embd.weight", &[2, 256], 1, 1024);
    let mixture = Builder::model()
        .whole("llama.block_count", 2)
        .whole("llama.expert_count", 4)
        .whole("llama.expert_used_count", 2)
        .whole("llama.expert_feed_forward_length", 4)
        .tensor("blk.0.ffn_up_exps.weight", &[2, 4, 4], 0, 128);
    let hybrid = Builder::model()
        .whole("llama.ssm.inner_size", 8)
        .whole("llama.ssm.state_size", 2)
        .whole("llama.ssm.conv_kernel", 4)
        .whole("llama.wkv.head_size", 1)
        // One entry, of 32 bits.
        .raw("llama.attention.head_count_kv", 9, {
            [4_u32, 1, 0, 1].map(u32::to_le_bytes).concat()
        });
    let encoder = Builder::model()
        .whole("llama.pooling_type", 1)
        .without("tokenizer.chat_template");
    let ranker = Builder::model()
        .whole("llama.pooling_type", 4)
        .texts("llama.classifier.output_labels", &["no", "yes"])
        .tensor("cls.output.weight", &[2, 2], 0, 16);
    let seeds = [
        Builder::model(),
        plain,
        fallback,
        mixture,
        hybrid,
        encoder,
        ranker,
    ];
    std::fs::create_dir_all(corpus()).unwrap();
    let models = seeds.iter().map(Builder::build);
    let models = models.inspect(|file| drop(inspected(file).unwrap()));
    let others = adapters::seeds().into_iter().chain([eyes()]);
    let files = models.chain(others.map(|seed| seed.build()));
    for (index, file) in files.enumerate() {
        std::fs::write(corpus().join(format!("seed-{index}")), file).unwrap();
    }
    std::fs::write(
        corpus().join("../../adapted.gguf"),
        adapters::model().build(),
    )
    .unwrap();
}

fn bundled() -> Vec<u8> {
    let models = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    std::fs::read(models.join("hedge-tiny.gguf")).unwrap()
}

/// The black-box tests put the same files before the engine's process.
#[test]
fn spoilt_files_are_refused_with_words_or_survived() {
    let sound = bundled();
    assert!(inspected(&sound).is_ok());
    let sound = loadtest::Sound::read(sound).unwrap();
    let mut refused = 0;
    for seed in 0..400 {
        let spoilt = sound.spoilt(seed);
        if let Err(fault) = inspected(&spoilt.bytes) {
            refused += 1;
            let words = fault.to_string();
            assert!(words.len() < 400, "{}: {words}", spoilt.what);
        }
    }
    // A guard that lets everything pass is none.
    assert!(refused > 200, "only {refused} of 400");
}

/// Says that it is as long as anyone likes, and gives zeros after what it has.
struct Endless<'a>(&'a [u8]);

impl Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.0.is_empty() {
            buffer.fill(0);
            return Ok(buffer.len());
        }
        self.0.read(buffer)
    }
}

/// In a file of a petabyte every count could be true. What is read of it has an end all the same.
#[test]
fn a_header_has_an_end_whatever_the_file_claims() {
    let sound = loadtest::Sound::read(bundled()).unwrap();
    for seed in 0..40 {
        let spoilt = sound.spoilt(seed);
        let _ = inspect_from(Endless(&spoilt.bytes), 1 << 50);
    }
    let mut long = b"GGUF\x03\0\0\0".to_vec();
    long.extend([0_u64.to_le_bytes(), 1_u64.to_le_bytes()].concat());
    long.extend(builder::text("k"));
    long.extend([9_u32.to_le_bytes(), 0_u32.to_le_bytes()].concat());
    long.extend((1_u64 << 49).to_le_bytes());
    let fault = inspect_from(Endless(&long), 1 << 50).unwrap_err();
    assert!(fault.to_string().contains("header is longer"), "{fault}");
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

/// The smallest file that passes as a projector.
fn eyes() -> Builder {
    Builder::empty()
        .text("general.architecture", "clip")
        .raw("clip.has_vision_encoder", 7, vec![1])
        .text("clip.projector_type", "mlp")
        .whole("clip.vision.image_size", 32)
        .whole("clip.vision.patch_size", 8)
        .whole("clip.vision.embedding_length", 4)
        .whole("clip.vision.attention.head_count", 2)
        .whole("clip.vision.block_count", 1)
        .tensor("mm.0.weight", &[4, 2], 0, 32)
}

fn seen(file: &Builder) -> Result<ProjectorSummary, String> {
    let bytes = file.build();
    let length = bytes.len() as u64;
    inspect_projector_from(&bytes[..], length).map_err(|fault| fault.to_string())
}

#[test]
fn a_projector_is_known_by_its_keys() {
    let summary = seen(&eyes()).unwrap();
    assert_eq!(summary.kind, "mlp");
    assert_eq!(summary.weight_bytes, 32);
    // 16 patches, each with scores for two heads.
    assert_eq!(summary.compute_bytes, 16 * (8 * 4 + 2 * 16) * 4);
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/mmproj-tiny.gguf"
    );
    assert_eq!(inspect_projector(Path::new(path)).unwrap().kind, "mlp");
    let words = seen(&Builder::model()).unwrap_err();
    assert!(
        words.contains("no projector but a model of the kind `llama`"),
        "{words}"
    );
}

#[test]
fn what_no_projector_can_mean_is_refused() {
    let whole = |name: &str, value| eyes().whole(&format!("clip.vision.{name}"), value);
    let cases = [
        (
            eyes().raw("clip.has_vision_encoder", 7, vec![0]),
            "takes no images",
        ),
        (eyes().without("clip.has_vision_encoder"), "takes no images"),
        (
            eyes().without("clip.projector_type"),
            "projector_type` is missing",
        ),
        (whole("patch_size", 0), "patch_size` is 0"),
        (whole("patch_size", 33), "patch_size` is 33"),
        (whole("image_size", 1 << 20), "image_size` is 1048576"),
        (whole("attention.head_count", 0), "head_count` is 0"),
        (whole("attention.head_count", 3), "does not divide"),
        (whole("block_count", 513), "block_count` is 513"),
        (whole("spatial_merge_size", 0), "spatial_merge_size` is 0"),
        (
            eyes().without("clip.vision.image_size"),
            "image_size` is missing",
        ),
        (
            eyes().real("clip.vision.attention.layer_norm_epsilon", f32::NAN),
            "not between 0 and 1",
        ),
    ];
    for (file, wanted) in cases {
        let words = seen(&file).unwrap_err();
        assert!(words.contains(wanted), "{wanted}: {words}");
    }
}
