//! The ways in which the cache may be kept, over llama.cpp.

use super::*;
use crate::decoder::Decoder;
use crate::kv::KvConfig;
use crate::llama::decoder::LlamaDecoder;
use crate::llama::fingerprint::fingerprint;

const SHAPE: Shape = Shape {
    sequences: 3,
    kv_tokens: 768,
    batch_tokens: 64,
    context_tokens: 256,
};
const TYPES: [KvType; 9] = [
    KvType::F32,
    KvType::F16,
    KvType::Bf16,
    KvType::Q8_0,
    KvType::Q5_1,
    KvType::Q5_0,
    KvType::Q4_1,
    KvType::Q4_0,
    KvType::Iq4Nl,
];

fn sizes(kv: KvConfig, cells: CellLayout) -> Sizes {
    Sizes {
        shape: SHAPE,
        ubatch_tokens: 64,
        threads: ONE_THREAD,
        flash: kv.flash_attention,
        type_k: kv.type_k,
        type_v: kv.type_v,
        cells,
        is_on_cpu: true,
    }
}

fn decoder(context: Context) -> LlamaDecoder {
    LlamaDecoder {
        context,
        fingerprint: [0; 32],
        adapters: Vec::new(),
    }
}

/// The logits after 40 tokens of which the first 30 were computed for another sequence, beside a
/// third one.
fn logits(model: &Arc<llama_cpp_2::model::LlamaModel>, sizes: Sizes) -> Vec<f32> {
    let context = Context::new(Arc::clone(model), sizes, Arc::default(), None).unwrap();
    let mut decoder = decoder(context);
    let entry = |sequence, position: u32, is_last| Entry {
        token: i32::try_from(5 + position * 7 % 500).unwrap(),
        position,
        sequence,
        wants_logits: is_last,
    };
    let batch: Vec<Entry> = (0..40)
        .map(|position| entry(0, position, false))
        .chain((0..9).map(|position| entry(2, position, false)))
        .collect();
    assert_eq!(decoder.decode(&batch), Decoded::Done);
    assert!(decoder.share(0, 1, 30), "a part of a sequence is shared");
    let rest: Vec<Entry> = (30..40)
        .map(|position| entry(1, position, position == 39))
        .chain([entry(2, 9, true)])
        .collect();
    assert_eq!(decoder.decode(&rest), Decoded::Done);
    // What is cut and saved works whatever the cells hold.
    assert_eq!(decoder.truncate(1, 20), 20);
    let state = decoder.save(1).unwrap();
    assert_eq!(decoder.truncate(2, 0), 0);
    assert!(decoder.restore(2, &state, 20));
    assert_eq!(decoder.decode(&rest_of_20(entry)), Decoded::Done);
    let last = rest_of_20(entry).len() - 1;
    decoder.logits(last).unwrap().to_vec()
}

fn rest_of_20(entry: impl Fn(u32, u32, bool) -> Entry) -> Vec<Entry> {
    (20..40)
        .map(|position| entry(2, position, position == 39))
        .collect()
}

/// Every combination gives about the same numbers, or is refused before llama.cpp sees it.
#[test]
fn every_way_of_keeping_the_cache_works_or_is_refused() {
    let Some(path) = model_path() else { return };
    let model = crate::llama::open::tests_model(&path);
    let plain = logits(
        &model,
        sizes(
            KvConfig {
                flash_attention: FlashAttention::Off,
                ..KvConfig::default()
            },
            CellLayout::Unified,
        ),
    );
    let largest = plain.iter().copied().fold(0.0, |a: f32, b| a.max(b.abs()));
    let mut refused = 0;
    for type_k in TYPES {
        for type_v in TYPES {
            for flash_attention in [FlashAttention::Off, FlashAttention::On] {
                let kv = KvConfig {
                    type_k,
                    type_v,
                    flash_attention,
                    unified: None,
                };
                if kv.check().is_err() {
                    refused += 1;
                    continue;
                }
                for cells in [CellLayout::Unified, CellLayout::Split] {
                    let kept = logits(&model, sizes(kv, cells));
                    let apart = plain.iter().zip(&kept).map(|(a, b)| (a - b).abs());
                    let apart = apart.fold(0.0, f32::max);
                    assert!(apart < largest, "{kv:?} {cells:?}: {apart} of {largest}");
                }
            }
        }
    }
    // Packed values without flash attention.
    assert_eq!(refused, 9 * 6);
}

#[tokio::test]
async fn a_question_is_answered_however_the_cache_is_kept() {
    let cases = [
        (KvType::Q8_0, KvType::Q8_0, FlashAttention::Auto, None),
        (KvType::Q8_0, KvType::F16, FlashAttention::Off, Some(true)),
        (KvType::Bf16, KvType::F32, FlashAttention::Auto, Some(false)),
        (KvType::F16, KvType::Q5_1, FlashAttention::On, Some(false)),
    ];
    for (type_k, type_v, flash_attention, unified) in cases {
        let kv = KvConfig {
            type_k,
            type_v,
            flash_attention,
            unified,
        };
        let Some((engine, driver)) = load(|config| config.kv = kv) else {
            return;
        };
        let asked = (0..4).map(|_| text(&engine, request(QUESTION, |_| ())));
        for said in join_all(asked).await {
            assert!(said.contains(ANSWER), "{kv:?}: {said}");
        }
        engine.stop();
        driver.run().await.unwrap();
    }
}

#[test]
fn what_cannot_be_is_refused_with_its_numbers() {
    let Some(path) = model_path() else { return };
    let refused = |change: fn(&mut EngineConfig)| {
        let mut config = EngineConfig::new(&path, "tiny");
        change(&mut config);
        match Engine::load(config, Arc::new(FakeCompiler)) {
            Err(LoadError::Kv(fault)) => fault,
            other => panic!("{:?}", other.map(|_| ())),
        }
    };
    let fault = refused(|config| {
        config.kv.type_v = KvType::Q4_0;
        config.kv.flash_attention = FlashAttention::Off;
    });
    assert_eq!(fault, KvFault::ValuesNeedFlash(KvType::Q4_0));
    let fault = refused(|config| {
        config.kv.unified = Some(false);
        config.context_tokens_max = Some(500);
        config.kv_tokens_max = Some(5_000);
    });
    // Eight slots and two spare ones.
    let expected = KvFault::TooManyTokens {
        needed: 5_120,
        context: 512,
        sequences: 10,
        allowed: 5_000,
    };
    assert_eq!(fault, expected);
}

#[test]
fn states_of_a_cache_kept_otherwise_are_not_mistaken() {
    let Some(path) = model_path() else { return };
    let of = |change: fn(&mut Sizes)| {
        let mut sizes = sizes(KvConfig::default(), CellLayout::Unified);
        change(&mut sizes);
        fingerprint(&path, sizes).unwrap()
    };
    let changes: [fn(&mut Sizes); 5] = [
        |_| (),
        |sizes| sizes.type_k = KvType::Q8_0,
        |sizes| sizes.type_v = KvType::Q8_0,
        |sizes| sizes.flash = FlashAttention::On,
        |sizes| sizes.cells = CellLayout::Split,
    ];
    let all: std::collections::BTreeSet<_> = changes.into_iter().map(of).collect();
    assert_eq!(all.len(), changes.len());
    assert_eq!(of(|_| ()), of(|sizes| sizes.threads.count = 2));
}

#[test]
fn the_number_of_threads_changes_no_numbers() {
    let Some(path) = model_path() else { return };
    let model = crate::llama::open::tests_model(&path);
    let mut sizes = sizes(KvConfig::default(), CellLayout::Unified);
    sizes.threads.count = 2;
    let context = Context::new(model, sizes, Arc::default(), None).unwrap();
    let mut decoder = decoder(context);
    let mut rows = [1, 2, 1, 9].map(|threads| {
        decoder.set_threads(threads);
        decoder.reset();
        let batch: Vec<Entry> = (0..50)
            .map(|position| Entry {
                token: 5 + position,
                position: position.cast_unsigned(),
                sequence: 0,
                wants_logits: position == 49,
            })
            .collect();
        assert_eq!(decoder.decode(&batch), Decoded::Done);
        decoder.logits(49).unwrap().to_vec()
    });
    let first = std::mem::take(&mut rows[0]);
    for row in &rows[1..] {
        let apart = first.iter().zip(row).map(|(a, b)| (a - b).abs());
        assert!(apart.fold(0.0, f32::max) < 1e-4);
    }
}

#[tokio::test]
async fn a_reply_goes_on_beyond_its_context_where_it_may() {
    for (shift, unified) in [
        (ContextShift::Shift, None),
        (ContextShift::Shift, Some(true)),
        (ContextShift::Refuse, None),
    ] {
        let Some((engine, driver)) = load(|config| {
            config.context_tokens_max = Some(96);
            config.context_shift = shift;
            config.kv.unified = unified;
        }) else {
            return;
        };
        let long = || {
            request(QUESTION, |request| {
                request.sampling.open.ignores_end = true;
                request.output_tokens_max = Some(Tokens(400));
            })
        };
        let replies = join_all([ask(&engine, long()), ask(&engine, long())]).await;
        for reply in replies {
            let usage = reply.usage.unwrap();
            assert_eq!(reply.choices[0].reason, FinishReason::Length);
            let said = usage.completion_tokens.0;
            if shift == ContextShift::Shift {
                assert_eq!(said, 400);
                let left = usage.prompt_tokens.0 + said - usage.dropped_tokens.0;
                assert!((40..=97).contains(&left), "{usage:?}");
            } else {
                assert_eq!(said + usage.prompt_tokens.0, 96);
                assert_eq!(usage.dropped_tokens, Tokens(0));
            }
        }
        // A prompt that is too long is refused either way.
        let refused = engine
            .chat(sealed(request(&"word ".repeat(200), |_| ())))
            .await;
        assert!(matches!(refused, Err(BackendError::ContextExceeded { .. })));
        engine.stop();
        driver.run().await.unwrap();
    }
}

/// Three replies are filled up to four rows, on a machine that multiplies more than one at once, and
/// nothing of that is left: neither in their numbers nor in the cells, of which all may be used.
#[test]
fn steps_that_are_filled_up_give_the_same_numbers() {
    let Some(path) = model_path() else {
        return;
    };
    let model = crate::llama::open::tests_model(&path);
    let entry = |sequence, position: u32, wants_logits| Entry {
        token: i32::try_from(5 + (position + sequence) * 7 % 500).unwrap(),
        position,
        sequence,
        wants_logits,
    };
    let numbers = |is_on_cpu| {
        let sizes = Sizes {
            is_on_cpu,
            ..sizes(KvConfig::default(), CellLayout::Unified)
        };
        let mut context = Context::new(Arc::clone(&model), sizes, Arc::default(), None).unwrap();
        let mut rows = Vec::new();
        for position in 0..256 {
            let batch: Vec<Entry> = (0..3)
                .map(|sequence| entry(sequence, position, true))
                .collect();
            assert_eq!(context.decode(&batch), Decoded::Done, "{position}");
            if position % 50 == 49 {
                rows.extend((0..3).map(|row| context.logits(row).unwrap().to_vec()));
            }
        }
        assert_eq!([0, 1, 2].map(|sequence| context.held(sequence)), [256; 3]);
        rows
    };
    for (filled, bare) in numbers(true).iter().zip(numbers(false)) {
        let largest = bare.iter().fold(0.0, |a: f32, b| a.max(b.abs()));
        let apart = filled.iter().zip(&bare).map(|(a, b)| (a - b).abs());
        let apart = apart.fold(0.0, f32::max);
        // Quantised weights: the last bits of what they are multiplied with are rounded otherwise.
        assert!(apart < largest / 20.0, "{apart} of {largest}");
    }
}
