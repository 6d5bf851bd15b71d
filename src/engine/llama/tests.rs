//! The engine over real llama.cpp, with the bundled model.
//!
//! Without `models/hedge-tiny.gguf` each test says so and passes; `HEDGE_TEST_MODEL` names another
//! chat model that knows what Japan's capital is and speaks ChatML.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::{
    Backend, BackendError, ChatRequest, ChatTemplate, FinishReason, OutputFormat, Prediction,
    Reply, TemplateCompiler, TemplateError, TemplateSource, Tokens, collect,
};
use futures::StreamExt;
use futures::future::join_all;
use serde_json::json;

use crate::decoder::{Decoded, Entry, Interrupt, Shape, Threads, Vocabulary};
use crate::fake::{CHATML, request, sealed};

use crate::llama::raw::{CellLayout, Context, Sizes};
use crate::llama::vocabulary::{LlamaVocabulary, splitting};
use crate::splitting::{RUN_CHARS_MAX, Splitting, on_deep_stack};
use crate::{
    ContextShift, DraftCount, Engine, EngineConfig, EngineDriver, FlashAttention, KvFault, KvType,
    LoadError, Speculation,
};

mod adapters;
mod cache;
mod embeddings;
mod ranking;
mod sight;
mod states;

const ONE_THREAD: Threads = Threads {
    count: 1,
    adapts: false,
};

const QUESTION: &str = "What is the capital of Japan?";
const ANSWER: &str = "Tokyo";

/// Takes any template for [`CHATML`].
struct FakeCompiler;

impl TemplateCompiler for FakeCompiler {
    fn compile(&self, source: TemplateSource) -> Result<Arc<dyn ChatTemplate>, TemplateError> {
        assert!(
            source.text.contains("im_start"),
            "the tests' model speaks ChatML"
        );
        Ok(Arc::new(CHATML))
    }
}

fn model_path() -> Option<PathBuf> {
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/hedge-tiny.gguf");
    let path = std::env::var_os("HEDGE_TEST_MODEL").map_or(bundled, PathBuf::from);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: no model at {}", path.display());
    None
}

fn load(change: impl FnOnce(&mut EngineConfig)) -> Option<(Engine, EngineDriver)> {
    let mut config = EngineConfig::new(model_path()?, "tiny");
    change(&mut config);
    Some(Engine::load(config, Arc::new(FakeCompiler)).unwrap())
}

async fn ask(engine: &Engine, request: ChatRequest) -> Reply {
    let stream = engine.chat(sealed(request)).await.unwrap();
    collect(stream).await.unwrap()
}

async fn text(engine: &Engine, request: ChatRequest) -> String {
    ask(engine, request).await.choices[0].text()
}

#[tokio::test]
async fn a_question_is_answered() {
    let Some((engine, driver)) = load(|_| ()) else {
        return;
    };
    let reply = ask(&engine, request(QUESTION, |_| ())).await;
    let choice = &reply.choices[0];
    assert!(choice.text().contains(ANSWER), "{}", choice.text());
    assert_eq!(choice.reason, FinishReason::Stop);
    let usage = reply.usage.unwrap();
    assert!(
        usage.prompt_tokens.0 > 5 && usage.completion_tokens.0 > 1,
        "{usage:?}"
    );
    engine.stop();
    driver.run().await.unwrap();
}

/// No matter that the model was taught no JSON.
#[tokio::test]
async fn a_reply_is_valid_by_the_schema_it_is_held_to() {
    let Some((engine, _driver)) = load(|_| ()) else {
        return;
    };
    let schema = json!({
        "type": "object",
        "properties": {
            "capital": {"type": "string", "minLength": 1, "maxLength": 20},
            "country": {"enum": ["Japan", "Peru"]},
            "people": {"type": "integer", "minimum": 1, "maximum": 99_999_999},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 2},
        },
        "required": ["capital", "country", "people", "tags"],
        "additionalProperties": false,
    });
    let judge = jsonschema::validator_for(&schema).unwrap();
    let held = |temperature| {
        request(QUESTION, |request| {
            request.format = OutputFormat::JsonSchema(json!({"name": "n", "schema": schema}));
            request.sampling.temperature = Some(temperature);
            request.sampling.seed = Some(7);
        })
    };
    for temperature in [0.0, 1.0] {
        let began = Instant::now();
        let reply = ask(&engine, held(temperature)).await;
        let (choice, tokens) = (&reply.choices[0], reply.usage.unwrap().completion_tokens);
        println!(
            "{} in {:?}, {tokens} tokens",
            choice.text(),
            began.elapsed()
        );
        assert_eq!(choice.reason, FinishReason::Stop, "{}", choice.text());
        let value = serde_json::from_str(&choice.text()).unwrap();
        assert!(judge.is_valid(&value), "{value}");
    }
    let free = text(&engine, request(QUESTION, |_| ())).await;
    assert!(free.contains(ANSWER), "{free}");
}

#[tokio::test]
async fn greedy_text_is_the_same_alone_and_in_a_mixed_batch() {
    let Some((engine, _driver)) = load(|_| ()) else {
        return;
    };
    let alone = text(&engine, request(QUESTION, |_| ())).await;
    let others = [
        "hello",
        "What is 2 + 3?",
        "thanks",
        "Convert 3 km to m.",
        "Is this good?",
    ];
    let asks = others
        .iter()
        .chain([&QUESTION; 3])
        .map(|text| request(text, |_| ()));
    let texts = join_all(asks.map(|request| text(&engine, request))).await;
    for mixed in &texts[others.len()..] {
        assert_eq!(*mixed, alone);
    }
}

/// On and off, with drafts from the prompt, from a right prediction, from a wrong one and from loops.
#[tokio::test]
async fn drafts_change_no_greedy_text_and_no_seeded_one() {
    let Some((drafting, _driver)) = load(|_| ()) else {
        return;
    };
    let Some((plain, _other)) = load(|config| config.speculation = Speculation::Off) else {
        return;
    };
    let ends = ends(&model_path().unwrap());
    let prompts = [
        QUESTION,
        "What is the capital of France?",
        "hello",
        "What is 2 + 3?",
        "What is 17 + 25?",
        "Convert 3 km to m.",
        "3 km in m",
        "currency of Norway",
        "thanks",
        "Is this good? good good good",
        "Say: one two three four five six seven eight nine ten.",
        "The capital of Japan is Tokyo. The capital of Peru is Lima. What is the capital of Peru?",
    ];
    let before = drafting.drafts();
    for (n, prompt) in prompts.into_iter().enumerate() {
        // Some go on and on, which is where drafts are.
        let asked = |prediction: Option<&str>| {
            request(prompt, |request| {
                request.output_tokens_max = Some(Tokens(96));
                request.prediction = prediction.map(|text| Prediction {
                    content: vec![text.to_owned()],
                });
                if n % 2 == 1 {
                    request.sampling.logit_bias =
                        ends.iter().map(|token| (*token, -100.0)).collect();
                }
                if n % 4 == 3 {
                    request.sampling.temperature = Some(0.5);
                    request.sampling.seed = Some(7);
                }
            })
        };
        let said = ask(&plain, asked(None)).await;
        let (said, usage) = (said.choices[0].text(), said.usage.unwrap());
        for prediction in [
            None,
            Some(said.as_str()),
            Some("The capital of Chad is 42."),
        ] {
            let reply = ask(&drafting, asked(prediction)).await;
            assert_eq!(reply.choices[0].text(), said, "{prompt}");
            let counted = reply.usage.unwrap();
            assert_eq!(counted.completion_tokens, usage.completion_tokens);
        }
    }
    let after = drafting.drafts();
    println!("{before:?} to {after:?}, without {:?}", plain.drafts());
    assert!(after.accepted > before.accepted, "{after:?}");
    assert_eq!(plain.drafts(), DraftCount::default());
}

#[tokio::test]
async fn a_shared_beginning_is_computed_once_and_changes_nobodys_answer() {
    let Some((engine, driver)) = load(|_| ()) else {
        return;
    };
    let system = "You are a helpful assistant. Answer in one sentence. ".repeat(12);
    let questions = [
        QUESTION,
        "What is 17 + 25?",
        "3 km in m",
        "currency of Norway",
    ];
    let asked = |question: &str| {
        request(question, |request| {
            let first = domain::Message::new(domain::Role::System, system.clone());
            request.messages.insert(0, first);
        })
    };
    let replies = join_all(
        questions
            .iter()
            .map(|question| ask(&engine, asked(question))),
    )
    .await;
    let cached = replies
        .iter()
        .filter(|reply| reply.usage.unwrap().cached_tokens.0 > 100)
        .count();
    assert_eq!(cached, questions.len() - 1, "all but the first");
    for (question, reply) in questions.iter().zip(&replies) {
        let Some((fresh, fresh_driver)) = load(|_| ()) else {
            return;
        };
        let alone = text(&fresh, asked(question)).await;
        assert_eq!(reply.choices[0].text(), alone, "{question}");
        fresh.stop();
        fresh_driver.run().await.unwrap();
    }
    engine.stop();
    driver.run().await.unwrap();
}

#[tokio::test]
async fn a_seed_repeats_its_text_and_another_does_not() {
    let Some((engine, _driver)) = load(|_| ()) else {
        return;
    };
    let hot = |seed| {
        request("Tell me something.", |r| {
            r.sampling.temperature = Some(2.0);
            r.sampling.seed = Some(seed);
            r.output_tokens_max = Some(Tokens(24));
        })
    };
    let first = text(&engine, hot(7)).await;
    assert_eq!(text(&engine, hot(7)).await, first);
    let others = join_all((8..16).map(|seed| text(&engine, hot(seed)))).await;
    assert!(
        others.iter().any(|other| *other != first),
        "all eight alike: {first}"
    );
}

#[tokio::test]
async fn stop_strings_and_bounds_end_a_reply() {
    let Some((engine, _driver)) = load(|_| ()) else {
        return;
    };
    let whole = text(&engine, request(QUESTION, |_| ())).await;
    let at = whole.find(ANSWER).unwrap();
    let stopped = request(QUESTION, |r| r.sampling.stop = vec!["okyo".into()]);
    assert_eq!(text(&engine, stopped).await, whole[..=at]);
    let bounded = ask(
        &engine,
        request(QUESTION, |r| r.output_tokens_max = Some(Tokens(2))),
    )
    .await;
    assert_eq!(bounded.choices[0].reason, FinishReason::Length);
    assert_eq!(bounded.usage.unwrap().completion_tokens, Tokens(2));
}

#[tokio::test]
async fn a_prompt_beyond_the_context_is_refused() {
    let Some((engine, _driver)) = load(|config| config.context_tokens_max = Some(64)) else {
        return;
    };
    let refused = engine
        .chat(sealed(request(&"word ".repeat(200), |_| ())))
        .await;
    let Some(BackendError::ContextExceeded { asked, limit }) = refused.err() else {
        panic!("not refused");
    };
    assert!(asked > limit && limit == Tokens(64), "{asked} {limit}");
}

#[tokio::test]
async fn a_reply_that_never_ends_by_itself_ends_with_the_context() {
    let small = |config: &mut EngineConfig| config.context_tokens_max = Some(64);
    let Some((engine, _driver)) = load(small) else {
        return;
    };
    let ends = ends(&model_path().unwrap());
    let endless = request(QUESTION, |r| {
        r.output_tokens_max = Some(Tokens(1_000));
        r.sampling.logit_bias = ends.iter().map(|token| (*token, -100.0)).collect();
    });
    let reply = ask(&engine, endless).await;
    let usage = reply.usage.unwrap();
    assert_eq!(reply.choices[0].reason, FinishReason::Length);
    assert_eq!(usage.prompt_tokens.0 + usage.completion_tokens.0, 64);
}

#[tokio::test]
async fn an_ignored_end_is_never_drawn() {
    let Some((engine, _driver)) = load(|_| ()) else {
        return;
    };
    for temperature in [0.0, 1.0] {
        let endless = request(QUESTION, |r| {
            r.output_tokens_max = Some(Tokens(100));
            r.sampling.temperature = Some(temperature);
            r.sampling.open.ignores_end = true;
        });
        let reply = ask(&engine, endless).await;
        assert_eq!(reply.choices[0].reason, FinishReason::Length);
        assert_eq!(reply.usage.unwrap().completion_tokens, Tokens(100));
    }
}

#[tokio::test]
async fn log_probabilities_are_of_one_distribution_and_the_greedy_token_leads_it() {
    let Some((engine, _driver)) = load(|_| ()) else {
        return;
    };
    let weighed = |change: fn(&mut ChatRequest)| {
        request(QUESTION, |r| {
            r.sampling.logprobs = Some(20);
            change(r);
        })
    };
    let greedy = ask(&engine, weighed(|_| ())).await;
    let choice = &greedy.choices[0];
    let tokens = choice.logprobs.iter();
    let said: Vec<u8> = tokens
        .flat_map(|one| one.token.bytes.clone().unwrap())
        .collect();
    assert_eq!(String::from_utf8(said).unwrap(), choice.text());
    for one in &choice.logprobs {
        assert_eq!(one.top[0], one.token);
        let sum: f64 = one.top.iter().map(|other| other.logprob.exp()).sum();
        assert!((0.5..=1.0 + 1e-6).contains(&sum), "{sum}");
    }
    // The second of two tokens that both are likely: as likely when it is the one drawn.
    let first = &choice.logprobs[0].top;
    let model = crate::llama::open::tests_model(&model_path().unwrap());
    let vocabulary = LlamaVocabulary::new(model, &[]);
    let second = (0..vocabulary.size()).find(|token| {
        let mut bytes = Vec::new();
        vocabulary.piece(token.cast_signed(), &mut bytes);
        first[1].bytes.as_ref() == Some(&bytes)
    });
    if let Some(second) = second {
        let mut pushed = weighed(|r| r.output_tokens_max = Some(Tokens(1)));
        pushed.sampling.logit_bias = vec![(second, 100.0)];
        let reply = ask(&engine, pushed).await;
        let drawn = &reply.choices[0].logprobs[0];
        assert!(
            (drawn.token.logprob - first[1].logprob).abs() < 1e-4,
            "{drawn:?}"
        );
    }
}

#[tokio::test]
async fn choices_differ_and_count_their_prompt_once() {
    let Some((engine, _driver)) = load(|_| ()) else {
        return;
    };
    let hot = |seed, choices| {
        request("Tell me something.", |r| {
            r.sampling.temperature = Some(2.0);
            r.sampling.seed = Some(seed);
            r.choices = choices;
            r.output_tokens_max = Some(Tokens(24));
        })
    };
    let reply = ask(&engine, hot(8, 8)).await;
    assert_eq!(reply.choices.len(), 8);
    let alone = ask(&engine, hot(8, 1)).await;
    assert_eq!(
        reply.usage.unwrap().prompt_tokens,
        alone.usage.unwrap().prompt_tokens
    );
    let texts: Vec<String> = reply
        .choices
        .iter()
        .map(domain::ReplyChoice::text)
        .collect();
    assert!(texts.iter().any(|text| *text != texts[0]), "{texts:?}");
}

/// All tokens that end a reply.
fn ends(path: &Path) -> Vec<u32> {
    let vocabulary = LlamaVocabulary::new(crate::llama::open::tests_model(path), &[]);
    let ids = 0..vocabulary.size();
    ids.filter(|id| vocabulary.is_end(id.cast_signed()))
        .collect()
}

#[tokio::test]
async fn thirty_two_streams_in_eight_slots_all_get_their_answer() {
    let Some((engine, _driver)) = load(|_| ()) else {
        return;
    };
    let asks = (0..32).map(|_| text(&engine, request(QUESTION, |_| ())));
    for text in join_all(asks).await {
        assert!(text.contains(ANSWER), "{text}");
    }
}

#[tokio::test]
async fn a_small_cache_serves_many_in_turn() {
    let small = |config: &mut EngineConfig| {
        config.context_tokens_max = Some(128);
        config.kv_tokens_max = Some(256);
    };
    let Some((engine, _driver)) = load(small) else {
        return;
    };
    let asks = (0..16).map(|_| text(&engine, request(QUESTION, |_| ())));
    for text in join_all(asks).await {
        assert!(text.contains(ANSWER), "{text}");
    }
}

#[tokio::test]
async fn a_dropped_stream_frees_its_slot() {
    let one = |config: &mut EngineConfig| {
        config.slots_max = 1;
        config.events_max = 1;
        config.stall_max = Duration::from_secs(3_600);
    };
    let Some((engine, _driver)) = load(one) else {
        return;
    };
    let mut stream = engine
        .chat(sealed(request(QUESTION, |_| ())))
        .await
        .unwrap();
    // It has the only slot, and unread it would keep it for an hour.
    assert!(stream.next().await.is_some());
    drop(stream);
    assert!(
        text(&engine, request(QUESTION, |_| ()))
            .await
            .contains(ANSWER)
    );
}

#[tokio::test]
async fn leaving_in_mid_prompt_leaves_the_engine_well() {
    let Some((engine, _driver)) = load(|_| ()) else {
        return;
    };
    let context = engine.card().models[0].context_tokens_max.unwrap().0 as usize;
    let long = "a b ".repeat(context / 4);
    for _ in 0..8 {
        let asked = engine.chat(sealed(request(&long, |_| ()))).await;
        let Ok(mut stream) = asked else { continue };
        assert!(stream.next().await.is_some());
        let left = Instant::now();
        drop(stream);
        assert!(
            text(&engine, request(QUESTION, |_| ()))
                .await
                .contains(ANSWER)
        );
        println!("answered {:?} after leaving", left.elapsed());
    }
}

#[test]
fn files_that_are_no_model_are_refused_with_a_reason() {
    let folder = std::env::temp_dir().join(format!("hedge-engine-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let attempt = |name: &str, bytes: Option<&[u8]>| {
        let path = folder.join(name);
        if let Some(bytes) = bytes {
            std::fs::write(&path, bytes).unwrap();
        }
        Engine::load(EngineConfig::new(path, "m"), Arc::new(FakeCompiler)).unwrap_err()
    };
    assert!(matches!(attempt("absent", None), LoadError::File { .. }));
    assert!(matches!(
        attempt("empty", Some(b"")),
        LoadError::NotGguf { .. }
    ));
    assert!(matches!(
        attempt("text", Some(b"hello there")),
        LoadError::NotGguf { .. }
    ));
    assert!(matches!(
        attempt("magic", Some(b"GGUF")),
        LoadError::Refused { .. }
    ));
    if let Some(path) = model_path() {
        let bytes = std::fs::read(path).unwrap();
        let cut = attempt("cut", Some(&bytes[..bytes.len() / 2]));
        assert!(matches!(cut, LoadError::Refused { .. }), "{cut}");
        let key = b"general.architecture";
        let at = bytes
            .windows(key.len())
            .position(|window| window == key)
            .unwrap();
        let mut strange = bytes.clone();
        // The value follows its type and its length.
        strange[at + key.len() + 12] = b'x';
        let refused = attempt("strange", Some(&strange)).to_string();
        assert!(refused.contains("architecture"), "{refused}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn settings_out_of_range_are_refused_before_anything_is_read() {
    let mut config = EngineConfig::new("absent", "m");
    config.slots_max = 0;
    let refused = Engine::load(config, Arc::new(FakeCompiler));
    assert!(matches!(refused, Err(LoadError::Setting("slots_max"))));
}

/// What would end the process in llama.cpp comes back as a failure, and a decode cut short goes on.
#[test]
fn unsound_batches_fail_and_an_interrupt_is_recovered_from() {
    let Some((engine, _driver)) = load(|_| ()) else {
        return;
    };
    drop(engine);
    let shape = Shape {
        sequences: 2,
        kv_tokens: 256,
        batch_tokens: 32,
        context_tokens: 256,
    };
    let interrupt = Arc::new(Interrupt::default());
    let model = crate::llama::open::tests_model(&model_path().unwrap());
    let size = model.n_vocab();
    let sizes = Sizes {
        shape,
        ubatch_tokens: 16,
        threads: ONE_THREAD,
        flash: FlashAttention::Auto,
        type_k: KvType::F16,
        type_v: KvType::F16,
        cells: CellLayout::Unified,
        is_on_cpu: false,
    };
    let mut context =
        Context::new(Arc::clone(&model), sizes, Arc::clone(&interrupt), None).unwrap();
    let entry = |position, sequence, token| Entry {
        token,
        position,
        sequence,
        wants_logits: true,
    };
    let unsound: Vec<Vec<Entry>> = vec![
        vec![],
        (0..33).map(|position| entry(position, 0, 5)).collect(),
        vec![entry(0, 2, 5)],
        vec![entry(0, 0, size)],
        vec![entry(0, 0, -1)],
        vec![entry(256, 0, 5)],
        (0..19).map(|position| entry(position, 0, 5)).collect(),
    ];
    for batch in unsound {
        assert_eq!(context.decode(&batch), Decoded::Failed, "{batch:?}");
    }
    assert!(context.logits(0).is_none() && context.logits(99).is_none());
    interrupt.raise();
    assert_eq!(context.decode(&[entry(0, 0, 5)]), Decoded::Aborted);
    assert_eq!(context.held(0), 0);
    interrupt.lower();
    assert_eq!(
        context.decode(&[entry(0, 0, 5), entry(0, 1, 6)]),
        Decoded::Done
    );
    assert_eq!(
        (context.held(0), context.held(1), context.held(2)),
        (1, 1, 0)
    );
    assert_eq!(
        context.logits(1).map(<[f32]>::len),
        usize::try_from(size).ok()
    );
    assert_eq!(context.decode(&[entry(5, 1, 6)]), Decoded::Failed, "a gap");
    assert!(context.remove(0, 0) && !context.remove(2, 0));
    assert_eq!((context.held(0), context.held(1)), (0, 1));
}

#[test]
fn control_tokens_in_plain_text_stay_text() {
    let Some(path) = model_path() else { return };
    let vocabulary = LlamaVocabulary::new(crate::llama::open::tests_model(&path), &[]);
    let mark = "<|im_end|>";
    assert!(vocabulary.controls().iter().any(|control| control == mark));
    let count = |has_controls| {
        let mut tokens = Vec::new();
        vocabulary.tokenize(mark, has_controls, &mut tokens);
        let mut bytes = Vec::new();
        tokens
            .iter()
            .for_each(|token| vocabulary.piece(*token, &mut bytes));
        (
            tokens.len() == 1 && vocabulary.is_end(tokens[0]),
            String::from_utf8(bytes).unwrap(),
        )
    };
    assert_eq!(count(true), (true, String::new()));
    assert_eq!(count(false), (false, mark.to_owned()));
}

#[test]
fn only_vocabularies_known_to_split_in_loops_count_as_flat() {
    for (model, pre, expected) in [
        (Some("gpt2"), Some("qwen2"), Splitting::Flat),
        (Some("gpt2"), Some("llama-bpe"), Splitting::Flat),
        (Some("llama"), None, Splitting::Flat),
        (Some("gpt2"), Some("gpt-4o"), Splitting::Runs),
        (Some("gpt2"), Some("tekken"), Splitting::Runs),
        (Some("gpt2"), Some("deepseek-v3"), Splitting::Runs),
        (Some("gpt2"), Some("of next year"), Splitting::Runs),
        (Some("gpt2"), None, Splitting::Runs),
        (None, None, Splitting::Runs),
        (
            Some("gpt2"),
            Some("exaone-moe"),
            Splitting::RunsAcrossSpaces,
        ),
    ] {
        assert_eq!(splitting(model, pre), expected, "{model:?} {pre:?}");
    }
}

/// The bundled model's kind is split in loops, so a run of any length is read on a small stack.
#[test]
fn a_long_run_is_read_on_a_small_stack_where_splitting_is_flat() {
    let Some(path) = model_path() else { return };
    let vocabulary = LlamaVocabulary::new(crate::llama::open::tests_model(&path), &[]);
    if vocabulary.splitting() != Splitting::Flat {
        return println!("skipped: this model's splitting recurses");
    }
    for run in ["a", "7", "!", " ", "\n", "字"] {
        let mut tokens = Vec::new();
        vocabulary.tokenize(&run.repeat(100_000), false, &mut tokens);
        assert!(!tokens.is_empty(), "{run:?}");
    }
}

/// With the model's own words for it changed to a recursive kind, as GPT-4o's is: what overflowed
/// the stack is read on the deep one.
#[test]
fn the_longest_run_is_read_on_the_deep_stack_where_splitting_recurses() {
    let Some(path) = model_path() else { return };
    let mut bytes = std::fs::read(path).unwrap();
    let key = b"tokenizer.ggml.pre";
    let at = bytes.windows(key.len()).position(|window| window == key);
    // The value follows its type and its length.
    let at = at.unwrap() + key.len() + 12;
    if &bytes[at..at + 5] != b"qwen2" {
        return println!("skipped: written for a model split as qwen2 is");
    }
    bytes[at..at + 5].copy_from_slice(b"youtu");
    let changed = std::env::temp_dir().join(format!("hedge-deep-{}.gguf", std::process::id()));
    std::fs::write(&changed, bytes).unwrap();
    let vocabulary = LlamaVocabulary::new(crate::llama::open::tests_model(&changed), &[]);
    std::fs::remove_file(&changed).unwrap();
    assert_eq!(vocabulary.splitting(), Splitting::Runs);
    for run in ["a", "A", "!", " ", "\n", "字", "é"] {
        let text = run.repeat(RUN_CHARS_MAX);
        let read = on_deep_stack(|| {
            let mut tokens = Vec::new();
            vocabulary.tokenize(&text, false, &mut tokens);
            tokens.len()
        });
        assert!(read.unwrap() > 0, "{run:?}");
    }
}
