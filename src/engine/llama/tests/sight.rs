//! Images through projectors of random weights, `tests/fixtures/mmproj-*.gguf`: what the model makes of
//! them means nothing, but is the same for the same image and another for another.

use std::io::Cursor;

use base64::Engine as _;
use domain::{Ability, Image, Part};
use futures::future::join_all;
use image::{ImageFormat, Rgb, RgbImage};

use super::*;
use crate::gallery::{Gallery, Stretch, is_of_image};

/// What batches of another composition make of a log probability: up to 0.1 with this model, whose
/// activations are packed into eight bits, and 0.007 with the same in 32.
const ROUNDED: f64 = 0.15;
/// What another image makes of it at least.
const ANOTHER: f64 = 0.02;
/// Tokens that are compared: with random weights one follows from the other, roundings too.
const COMPARED: usize = 3;

/// Tokens that the projector makes of an image.
const IMAGE_TOKENS: u32 = 16;

/// Like LLaVA's.
const MLP: &str = "mmproj-tiny.gguf";
/// Like Gemma 3's: an image's tokens look at each other.
const AHEAD: &str = "mmproj-ahead-tiny.gguf";

fn projector_path(name: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    fixtures.join(name)
}

fn load_seeing(change: impl FnOnce(&mut EngineConfig)) -> Option<(Engine, EngineDriver)> {
    load_as(MLP, change)
}

fn load_as(
    projector: &str,
    change: impl FnOnce(&mut EngineConfig),
) -> Option<(Engine, EngineDriver)> {
    load(|config| {
        config.projector = Some(projector_path(projector));
        change(config);
    })
}

/// A picture that is another for another number.
fn url(number: u32) -> String {
    let picture = RgbImage::from_fn(40, 30, |x, y| {
        let wave = |a: u32, b: u32| ((x * a + y * b + number * 37) % 256) as u8;
        Rgb([wave(3 + number, 1), wave(1, 5 + number), wave(7, number)])
    });
    let mut bytes = Vec::new();
    let mut cursor = Cursor::new(&mut bytes);
    picture.write_to(&mut cursor, ImageFormat::Png).unwrap();
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    format!("data:image/png;base64,{text}")
}

/// A question behind images, answered in a few tokens with what each was worth.
fn asked(text: &str, urls: &[String]) -> ChatRequest {
    request(text, |request| {
        let images = urls.iter().map(|url| {
            Part::Image(Image {
                url: url.clone(),
                detail: None,
            })
        });
        request.messages[0].content.splice(0..0, images);
        request.output_tokens_max = Some(Tokens(12));
        request.sampling.temperature = Some(0.0);
        request.sampling.logprobs = Some(0);
    })
}

fn about(text: &str, numbers: &[u32]) -> ChatRequest {
    let urls: Vec<String> = numbers.iter().map(|number| url(*number)).collect();
    asked(text, &urls)
}

/// Of the first token.
fn logprob(reply: &Reply) -> f64 {
    reply.choices[0].logprobs[0].token.logprob
}

fn said(reply: &Reply) -> Vec<String> {
    let tokens = reply.choices[0].logprobs.iter();
    tokens
        .map(|token| format!("{:?}", token.token.bytes))
        .collect()
}

/// What was said, and what each token of it was worth.
fn shown(reply: &Reply) -> String {
    let worth = reply.choices[0].logprobs.iter().map(|it| it.token.logprob);
    format!(
        "{:?} {:.3?}",
        reply.choices[0].text(),
        worth.collect::<Vec<_>>()
    )
}

fn is_near(one: &Reply, other: &Reply) -> bool {
    let begins = |reply| said(reply).into_iter().take(COMPARED).collect::<Vec<_>>();
    begins(one) == begins(other) && (logprob(one) - logprob(other)).abs() < ROUNDED
}

fn differ(one: &Reply, other: &Reply) -> bool {
    said(one) != said(other) || (logprob(one) - logprob(other)).abs() > ANOTHER
}

#[tokio::test]
async fn an_image_is_seen_counted_and_told_from_others() {
    let Some((engine, _driver)) = load_seeing(|_| ()) else {
        return;
    };
    let blind = ask(&engine, about(QUESTION, &[])).await;
    let one = ask(&engine, about(QUESTION, &[1])).await;
    // The whole image again, and only the last token anew.
    let again = ask(&engine, about(QUESTION, &[1])).await;
    let other = ask(&engine, about(QUESTION, &[2])).await;
    let usage = |reply: &Reply| reply.usage.unwrap();
    let length = usage(&blind).prompt_tokens.0;
    assert_eq!(usage(&one).prompt_tokens.0, length + IMAGE_TOKENS);
    assert!(is_near(&again, &one), "{} {}", shown(&again), shown(&one));
    let cached = usage(&again).cached_tokens.0;
    assert_eq!(cached, length + IMAGE_TOKENS - 1);
    assert!(differ(&blind, &one), "{} {}", shown(&blind), shown(&one));
    assert!(differ(&other, &one), "{} {}", shown(&other), shown(&one));
    // What begins alike ends where the images do.
    let cached = usage(&other).cached_tokens.0;
    assert!(cached < length, "{cached}");
    // Two, in either order.
    let both = ask(&engine, about(QUESTION, &[1, 2])).await;
    assert_eq!(usage(&both).prompt_tokens.0, length + 2 * IMAGE_TOKENS);
    let swapped = ask(&engine, about(QUESTION, &[2, 1])).await;
    assert!(differ(&both, &swapped));
}

/// In both layouts of cells, with a batch smaller than a prompt, and with so little room that chats are
/// set back and computed again.
#[tokio::test]
async fn images_beside_other_chats_are_seen_as_alone() {
    let changes: [fn(&mut EngineConfig); 4] = [
        |config| config.kv.unified = Some(true),
        |config| config.kv.unified = Some(false),
        |config| config.batch_tokens_max = 20,
        |config| {
            config.kv.unified = Some(true);
            config.context_tokens_max = Some(128);
            config.kv_tokens_max = Some(320);
            config.prefix_bytes_max = Some(0);
        },
    ];
    // One that looks ahead needs larger batches.
    let ahead = changes.map(|change| (AHEAD, change));
    let ahead = ahead.into_iter().enumerate().filter(|(at, _)| *at != 2);
    let all = changes.map(|change| (MLP, change)).into_iter();
    for (projector, change) in all.chain(ahead.map(|(_, ahead)| ahead)) {
        // Flash attention rounds so that random weights part at near ties.
        let change = move |config: &mut EngineConfig| {
            change(config);
            config.kv.flash_attention = FlashAttention::Off;
        };
        let Some((engine, _driver)) = load_as(projector, change) else {
            return;
        };
        let asks = || {
            vec![
                about(QUESTION, &[]),
                about(QUESTION, &[1]),
                about("hello", &[2, 3]),
                about(QUESTION, &[4]),
                about("What is 2 + 3?", &[]),
                about("What is 2 + 3?", &[1]),
            ]
        };
        let mut alone = Vec::new();
        for request in asks() {
            let Some((fresh, _driver)) = load_as(projector, change) else {
                return;
            };
            alone.push(ask(&fresh, request).await);
        }
        for _ in 0..2 {
            let mixed = asks().into_iter().map(|request| ask(&engine, request));
            let mixed = join_all(mixed).await;
            for (at, (mixed, alone)) in mixed.iter().zip(&alone).enumerate() {
                assert!(
                    is_near(mixed, alone),
                    "{projector} {at}: {} {}",
                    shown(mixed),
                    shown(alone)
                );
            }
        }
    }
}

/// An image whose tokens look ahead is never cut apart, however small the slices are.
#[tokio::test]
async fn an_image_that_looks_ahead_is_computed_at_one_go() {
    let Some((engine, _driver)) = load_as(AHEAD, |_| ()) else {
        return;
    };
    let one = ask(&engine, about(QUESTION, &[1])).await;
    let other = ask(&engine, about(QUESTION, &[2])).await;
    assert!(differ(&one, &other));
    let again = ask(&engine, about(QUESTION, &[1])).await;
    assert!(is_near(&again, &one));
    let Some(path) = model_path() else { return };
    let mut config = EngineConfig::new(path, "tiny");
    config.projector = Some(projector_path(AHEAD));
    config.batch_tokens_max = 200;
    let refused = Engine::load(config, Arc::new(FakeCompiler)).map(drop);
    assert!(
        matches!(refused, Err(LoadError::Projector { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_caller_that_leaves_harms_nobody() {
    let Some((engine, _driver)) = load_seeing(|_| ()) else {
        return;
    };
    let expected = ask(&engine, about(QUESTION, &[1])).await;
    for number in 2..6 {
        // Before the images are seen, and with the reply under way.
        drop(
            tokio::time::timeout(
                Duration::ZERO,
                engine.chat(sealed(about(QUESTION, &[number]))),
            )
            .await,
        );
        let mut stream = engine
            .chat(sealed(about("hello", &[number, 1])))
            .await
            .unwrap();
        let _ = stream.next().await;
        drop(stream);
    }
    let again = ask(&engine, about(QUESTION, &[1])).await;
    assert!(is_near(&again, &expected));
}

#[tokio::test]
async fn what_cannot_be_seen_is_refused() {
    let Some((engine, _driver)) = load_seeing(|config| config.context_tokens_max = Some(64)) else {
        return;
    };
    let refused = engine.chat(sealed(about(QUESTION, &[1, 2, 3, 4, 5]))).await;
    assert!(matches!(
        refused.map(drop),
        Err(BackendError::ContextExceeded {
            asked: Tokens(64..),
            ..
        })
    ));
    for wrong in [
        "https://a.example/x.png",
        "data:image/png;base64,iVBORw0KGgo=",
    ] {
        let refused = engine
            .chat(sealed(asked(QUESTION, &[url(1), wrong.to_owned()])))
            .await;
        let Err(BackendError::Declined { reason }) = refused.map(drop) else {
            panic!("{wrong}");
        };
        let path = reason.param.unwrap();
        assert_eq!(path, "messages[0].content[1].image_url.url");
    }
    let Some((blind, _driver)) = load(|_| ()) else {
        return;
    };
    let refused = blind.chat(sealed(about(QUESTION, &[1]))).await;
    assert!(matches!(
        refused.map(drop),
        Err(BackendError::Unable(Ability::Images))
    ));
    let able = |engine: &Engine| engine.card().models[0].abilities;
    assert!(able(&engine).has(Ability::Images));
    assert!(!able(&blind).has(Ability::Images));
}

#[test]
fn a_projector_that_is_none_is_refused_at_load() {
    let Some(path) = model_path() else { return };
    let mut config = EngineConfig::new(&path, "tiny");
    config.projector = Some(path);
    let refused = Engine::load(config.clone(), Arc::new(FakeCompiler)).map(drop);
    assert!(
        matches!(refused, Err(LoadError::Projector { .. })),
        "{refused:?}"
    );
    config.projector = Some("/nowhere/mmproj.gguf".into());
    let refused = Engine::load(config, Arc::new(FakeCompiler)).map(drop);
    assert!(
        matches!(refused, Err(LoadError::File { .. })),
        "{refused:?}"
    );
}

/// One batch of both kinds gives the same logits as a batch for each.
#[test]
fn a_batch_of_tokens_and_vectors_is_computed_in_order() {
    let Some(path) = model_path() else { return };
    let model = crate::llama::open::tests_model(&path);
    let width = crate::llama::raw::input_width(&model).unwrap();
    let gallery = Arc::new(Gallery::new(width, false));
    let numbers = (0..3 * width).map(|n| ((n * 31 % 17) as f32 - 8.0) / 8.0);
    let seen = gallery
        .add([1; 32], vec![Stretch::Vectors(numbers.collect())])
        .unwrap();
    let sizes = Sizes {
        flash: FlashAttention::Off,
        type_k: KvType::F32,
        type_v: KvType::F32,
        cells: CellLayout::Unified,
        shape: Shape {
            sequences: 2,
            kv_tokens: 256,
            batch_tokens: 64,
            context_tokens: 128,
        },
        ubatch_tokens: 64,
        threads: ONE_THREAD,
        is_on_cpu: true,
    };
    let gallery = Some(gallery);
    let mut context = Context::new(model, sizes, Arc::default(), gallery).unwrap();
    let tokens: Vec<i32> = [&[5, 6, 7], seen.tokens.as_slice(), &[8, 9]].concat();
    let entries: Vec<Entry> = (0..)
        .zip(&tokens)
        .map(|(position, token)| Entry {
            token: *token,
            position,
            sequence: 1,
            wants_logits: position == 7,
        })
        .collect();
    for part in [&entries[..3], &entries[3..6], &entries[6..]] {
        assert_eq!(context.decode(part), Decoded::Done);
    }
    let apart = context.logits(1).unwrap().to_vec();
    assert!(context.remove(1, 0));
    assert_eq!(context.decode(&entries), Decoded::Done);
    let at_once = context.logits(7).unwrap().to_vec();
    let apart_by = |one: &[f32], other: &[f32]| {
        let pairs = one.iter().zip(other);
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(apart_by(&apart, &at_once) < 1e-3);
    // Without them it would say something else.
    assert!(context.remove(1, 0));
    let blind: Vec<Entry> = (0..)
        .zip(tokens.iter().filter(|token| !is_of_image(**token)))
        .map(|(position, token)| Entry {
            token: *token,
            position,
            sequence: 1,
            wants_logits: position == 4,
        })
        .collect();
    assert_eq!(context.decode(&blind), Decoded::Done);
    assert!(apart_by(context.logits(4).unwrap(), &apart) > 1e-2);
    // A vector gives no logits, and one that nobody holds is none.
    let mut wrong = entries.clone();
    wrong[4].wants_logits = true;
    assert_eq!(context.decode(&wrong), Decoded::Failed);
    drop(seen);
    wrong[4].wants_logits = false;
    wrong[4].token = -1_000;
    assert_eq!(context.decode(&wrong), Decoded::Failed);
}
