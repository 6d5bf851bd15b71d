//! Work that is no chat, through both processes' halves.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use domain::{EmbedInput, Embedder, HealthState, Reranker, TextPart, TextToRead, Tokenizer};
use futures::future::join_all;

use super::talk::{Log, config, load};
use super::*;
use crate::decoder::Token;
use crate::embedding::{EmbedderConfig, LocalEmbedder, TextReader};
use crate::encoding::Encoder;
use crate::fake::request;
use crate::process::encoders::{RemoteEmbedder, RemoteReranker};
use crate::process::serve::serve;
use crate::ranking::{DocumentReader, LocalReranker, PairReader};
use crate::splitting::{Depth, Splitting};

/// Bytes are tokens.
struct Bytes;

impl TextReader for Bytes {
    fn size(&self) -> u32 {
        256
    }

    fn splitting(&self) -> Splitting {
        Splitting::Flat
    }

    fn piece_bytes_max(&self) -> u32 {
        1
    }

    fn read(&self, text: &str) -> Vec<Token> {
        text.bytes().map(Token::from).collect()
    }
}

impl PairReader for Bytes {
    fn piece_bytes_max(&self) -> u32 {
        1
    }

    fn depth(&self, _query: &str, _document: &str) -> Depth {
        Depth::Shallow
    }

    fn for_query<'q>(&'q self, query: &'q str) -> DocumentReader<'q> {
        Box::new(move |document| self.read(&[query, document].concat()))
    }
}

/// Long vectors: the text's length, over and over. A text with a `!` is never done with, and counted.
#[derive(Clone, Default)]
struct Lengths(Arc<AtomicUsize>);

const DIMENSIONS: usize = 3_000;

impl Encoder for Lengths {
    fn dimensions(&self) -> u32 {
        DIMENSIONS as u32
    }

    fn encode(&mut self, texts: &[&[Token]]) -> Option<Vec<Vec<f32>>> {
        if texts.iter().any(|text| text.contains(&Token::from(b'!'))) {
            self.0.fetch_add(1, Ordering::SeqCst);
            loop {
                std::thread::park();
            }
        }
        let vector = |text: &&[Token]| vec![text.len() as f32; DIMENSIONS];
        Some(texts.iter().map(vector).collect())
    }
}

/// A child that serves whatever it is told to.
fn encoder() -> Life {
    encoder_of(Lengths::default())
}

fn encoder_of(mut lengths: Lengths) -> Life {
    life(move |stream| async move {
        let load = move |job: Job| match job {
            Job::Embed(config) => {
                let (name, input_max) = (config.name, 512);
                let queue_max = config.queue_tokens_max;
                LocalEmbedder::start(
                    name,
                    input_max,
                    queue_max,
                    Arc::new(Bytes),
                    move |_, serve| {
                        serve(&mut lengths);
                        Ok(())
                    },
                )
                .map(|(embedder, driver)| Loaded::Embed(embedder, driver))
            }
            Job::Rank(config) => {
                let (name, input_max) = (config.name, 512);
                let queue_max = config.queue_tokens_max;
                LocalReranker::start(
                    name,
                    input_max,
                    queue_max,
                    Arc::new(Bytes),
                    move |_, serve| {
                        serve(&mut lengths);
                        Ok(())
                    },
                )
                .map(|(reranker, driver)| Loaded::Rank(reranker, driver))
            }
            Job::Chat(config) => {
                load(config, Log::default()).map(|(engine, driver)| Loaded::Chat(engine, driver))
            }
        };
        Death::Exit(serve(stream, load).await.is_err().into())
    })
}

fn texts(texts: &[&str]) -> Vec<EmbedInput> {
    let text = |text: &&str| EmbedInput::Text((*text).to_owned());
    texts.iter().map(text).collect()
}

async fn embedder(
    lives: impl IntoIterator<Item = Life>,
    hang_max: Duration,
) -> (Arc<RemoteEmbedder>, Nursery, JoinSet<()>) {
    let nursery = Nursery::of(lives);
    let mut config = EmbedderConfig::new("unused", "e");
    config.hang_max = hang_max;
    let (embedder, driver) = RemoteEmbedder::start_with(config, nursery.clone())
        .await
        .unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(driver.run());
    (Arc::new(embedder), nursery, tasks)
}

const PATIENT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn vectors_cross_whole_and_in_order_however_many() {
    let (embedder, _, mut driver) = embedder([encoder()], PATIENT).await;
    assert_eq!(embedder.card().dimensions, DIMENSIONS as u32);
    // Several windows of vectors, and many times what the stream holds.
    let many: Vec<String> = (0..200).map(|at| "x".repeat(at % 9 + 1)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let asked = [&["a"][..], &many[..], &["bb", "c"][..]].map(texts);
    let answers = join_all(asked.map(|inputs| embedder.embed(inputs))).await;
    let lengths = |at: usize| -> Vec<f32> {
        let embeddings = answers[at].as_ref().unwrap();
        let vectors = embeddings.vectors.iter();
        vectors
            .map(|vector| {
                assert_eq!(vector.len(), DIMENSIONS);
                vector[DIMENSIONS - 1]
            })
            .collect()
    };
    assert_eq!(lengths(0), [1.0]);
    let expected: Vec<f32> = many.iter().map(|text| text.len() as f32).collect();
    assert_eq!(lengths(1), expected);
    assert_eq!(lengths(2), [2.0, 1.0]);
    assert_eq!(answers[2].as_ref().unwrap().prompt_tokens, 3);
    let refused = embedder.embed(texts(&["a", &"x".repeat(600)])).await;
    let Err(BackendError::Declined { reason }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(reason.param.as_deref(), Some("input[1]"));
    embedder.stop();
    driver.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_killed_encoder_ends_its_requests_and_the_next_serves() {
    let lengths = Lengths::default();
    let lives = [encoder_of(lengths.clone()), encoder()];
    let (embedder, nursery, _driver) = embedder(lives, PATIENT).await;
    let asked = Arc::clone(&embedder);
    let mut cut = JoinSet::new();
    cut.spawn(async move { asked.embed(texts(&["!"])).await });
    while lengths.0.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    nursery.kill();
    let cut = cut.join_next().await.unwrap().unwrap();
    assert!(cut.is_err(), "{cut:?}");
    let served = embedder.embed(texts(&["abc"])).await.unwrap();
    assert_eq!(served.vectors[0][0], 3.0);
    assert_eq!(nursery.launches(), 2);
    assert_eq!(embedder.ends().load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn an_encoder_at_rest_is_not_taken_for_one_that_hangs() {
    let (embedder, nursery, _driver) = embedder([encoder(), encoder()], PATIENT).await;
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!(nursery.launches(), 1);
    assert_eq!(embedder.health().state, HealthState::Ready);
}

#[tokio::test]
async fn an_encoder_that_hangs_is_ended() {
    let (embedder, _, _driver) = embedder([encoder(), encoder()], Duration::from_secs(1)).await;
    let cut = embedder.embed(texts(&["!"])).await;
    assert!(matches!(cut, Err(BackendError::Interrupted)), "{cut:?}");
    assert!(embedder.embed(texts(&["a"])).await.is_ok());
}

#[tokio::test]
async fn scores_cross_in_order() {
    let nursery = Nursery::of([encoder()]);
    let config = EmbedderConfig::new("unused", "r");
    let (reranker, driver) = RemoteReranker::start_with(config, nursery).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(driver.run());
    let documents: Vec<String> = (1..=50).map(|length| "x".repeat(length)).collect();
    let scores = reranker.rank("q".to_owned(), documents).await.unwrap();
    let expected: Vec<f32> = (2..=51_u16).map(f32::from).collect();
    assert_eq!(scores.scores, expected);
    let sum: u32 = (2..=51).sum();
    assert_eq!(scores.prompt_tokens, sum);
    let long = reranker.rank("q".to_owned(), vec!["x".repeat(600)]).await;
    let Err(BackendError::Declined { reason }) = long else {
        panic!("{long:?}");
    };
    assert_eq!(reason.param.as_deref(), Some("documents[0]"));
}

#[tokio::test]
async fn texts_are_read_as_in_one_process() {
    let nursery = Nursery::of([encoder()]);
    let bench = start(config(|_| ()), nursery).await.unwrap();
    let remote = &bench.remote;
    assert!(domain::Backend::tokenizer(remote, "fake").is_some());
    // More than one frame's worth.
    let long = "ü<s>".repeat(50_000);
    let text = TextToRead {
        parts: vec![TextPart::Text(long.clone())],
        adds_special: false,
        reads_special: true,
    };
    let tokens = remote.tokenize(text).await.unwrap();
    assert_eq!(tokens.len(), 150_000);
    let ids = tokens.iter().map(|token| token.id).collect();
    assert_eq!(remote.detokenize(ids).await.unwrap(), long.as_bytes());
    let prompt = remote.render(request("hello", |_| ())).await.unwrap();
    assert_eq!(prompt, "hello>");
    let counted = remote
        .tokenize_chat(request("hello", |_| ()))
        .await
        .unwrap();
    assert_eq!(counted.len(), 6);
    let unknown = remote.detokenize(vec![9_999]).await;
    let Err(BackendError::Declined { reason }) = unknown else {
        panic!("{unknown:?}");
    };
    assert_eq!(reason.param.as_deref(), Some("tokens[0]"));
    bench.stop().await;
}

/// What it was not started for is refused and hurts nothing.
#[tokio::test]
async fn a_process_answers_what_its_model_does_and_nothing_else() {
    let (embedder, _nursery, _driver) = embedder([encoder()], PATIENT).await;
    let refused = crate::process::remote::answer(
        embedder.desk(),
        crate::process::words::Query::Detokenize(vec![1]),
    )
    .await;
    assert!(
        matches!(refused, Err(BackendError::Engine(_))),
        "{refused:?}"
    );
    assert!(embedder.embed(texts(&["a"])).await.is_ok());
}
