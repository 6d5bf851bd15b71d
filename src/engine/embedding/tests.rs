#![expect(
    clippy::disallowed_methods,
    reason = "these tests wait for the tasks they start"
)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use domain::HealthState;

use super::*;

/// Bytes are tokens, `^` and `$` stand at the ends.
struct Bytes;

impl TextReader for Bytes {
    fn size(&self) -> u32 {
        256
    }

    fn splitting(&self) -> Splitting {
        Splitting::Runs
    }

    fn piece_bytes_max(&self) -> u32 {
        1
    }

    fn read(&self, text: &str) -> Vec<Token> {
        let ends = format!("^{text}$");
        ends.bytes().map(Token::from).collect()
    }
}

/// A vector is the text's length and its sum; batches are reported as they come.
struct Sums {
    batches: mpsc::SyncSender<Vec<usize>>,
    fails: Arc<AtomicBool>,
    gate: Option<mpsc::Receiver<()>>,
}

impl Encoder for Sums {
    fn dimensions(&self) -> u32 {
        2
    }

    fn encode(&mut self, texts: &[&[Token]]) -> Option<Vec<Vec<f32>>> {
        if let Some(gate) = &self.gate {
            gate.recv().unwrap();
        }
        let _ = self
            .batches
            .send(texts.iter().map(|text| text.len()).collect());
        if self.fails.load(Ordering::SeqCst) {
            return None;
        }
        let vector = |text: &&[Token]| {
            let sum: Token = text.iter().sum();
            vec![text.len() as f32, sum as f32]
        };
        Some(texts.iter().map(vector).collect())
    }
}

struct Bench {
    embedder: Arc<LocalEmbedder>,
    driver: EmbeddingDriver,
    batches: mpsc::Receiver<Vec<usize>>,
    fails: Arc<AtomicBool>,
    /// One batch is computed for each word.
    gate: mpsc::SyncSender<()>,
}

fn bench(queue_tokens_max: usize, is_gated: bool) -> Bench {
    let (reports, batches) = mpsc::sync_channel(1_024);
    let (gate, gated) = mpsc::sync_channel(1_024);
    let fails = Arc::new(AtomicBool::new(false));
    let mut encoder = Sums {
        batches: reports,
        fails: Arc::clone(&fails),
        gate: is_gated.then_some(gated),
    };
    let (embedder, driver) = LocalEmbedder::start(
        "e".to_owned(),
        512,
        queue_tokens_max,
        Arc::new(Bytes),
        move |_, serve| {
            serve(&mut encoder);
            Ok(())
        },
    )
    .unwrap();
    Bench {
        embedder: Arc::new(embedder),
        driver,
        batches,
        fails,
        gate,
    }
}

fn texts(lengths: &[usize]) -> Vec<EmbedInput> {
    lengths
        .iter()
        // Two tokens come with every text.
        .map(|length| EmbedInput::Text("a ".repeat(*length)[..length - 2].to_owned()))
        .collect()
}

fn declined(error: BackendError) -> (Option<String>, String) {
    match error {
        BackendError::Declined { reason } => (reason.param, reason.message),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_input_gets_its_vector_in_order() {
    let bench = bench(10_000, false);
    let inputs = vec![
        EmbedInput::Text("b".to_owned()),
        EmbedInput::Tokens(vec![1, 2, 3, 4]),
        EmbedInput::Text("aa".to_owned()),
    ];
    let answer = bench.embedder.embed(inputs).await.unwrap();
    let ends = f32::from(b'^') + f32::from(b'$');
    let expected = vec![
        vec![3.0, ends + f32::from(b'b')],
        vec![4.0, 10.0],
        vec![4.0, ends + 2.0 * f32::from(b'a')],
    ];
    assert_eq!(answer.vectors, expected);
    assert_eq!(answer.prompt_tokens, 11);
    assert_eq!(bench.embedder.card().dimensions, 2);
    bench.embedder.stop();
    bench.driver.run().await.unwrap();
    let late = bench.embedder.embed(texts(&[3])).await;
    assert!(matches!(late, Err(BackendError::Engine(_))));
    assert_eq!(bench.embedder.health().state, HealthState::Down);
}

#[tokio::test]
async fn a_batch_is_packed_up_to_its_bound_and_a_long_text_goes_alone() {
    let bench = bench(10_000, false);
    let inputs = texts(&[100, 100, 100, 500, 10]);
    let answer = bench.embedder.embed(inputs).await.unwrap();
    let lengths: Vec<f32> = answer.vectors.iter().map(|vector| vector[0]).collect();
    assert_eq!(lengths, [100.0, 100.0, 100.0, 500.0, 10.0]);
    let batches: Vec<_> = bench.batches.try_iter().collect();
    assert_eq!(batches, [vec![100, 100], vec![100], vec![500], vec![10]]);
}

#[tokio::test]
async fn a_short_request_waits_for_a_batch_of_a_long_one_not_for_all() {
    assert!(batches_beside_a_long_one(vec![20]).await <= 4);
}

/// Also where each of its texts fills a batch.
#[tokio::test]
async fn requests_of_several_texts_take_turns() {
    assert!(batches_beside_a_long_one(vec![200; 4]).await <= 10);
}

/// How many are computed until one of these lengths is answered that came after one of fifty texts.
async fn batches_beside_a_long_one(lengths: Vec<usize>) -> usize {
    let bench = bench(1_000_000, true);
    let ask = |lengths: Vec<usize>| {
        let embedder = Arc::clone(&bench.embedder);
        tokio::spawn(async move { embedder.embed(texts(&lengths)).await })
    };
    let long = ask(vec![200; 50]);
    // The first batch is under way before the short request comes.
    bench.gate.send(()).unwrap();
    while bench.batches.try_recv().is_err() {
        tokio::task::yield_now().await;
    }
    let short = ask(lengths);
    let asked = || {
        let queue = bench.embedder.encoding.desk().queue();
        queue
            .orders
            .iter()
            .map(|order| order.texts.len())
            .sum::<usize>()
    };
    while asked() == 0 {
        tokio::task::yield_now().await;
    }
    let served = AtomicUsize::new(0);
    while !short.is_finished() {
        if bench.batches.try_recv().is_ok() || served.load(Ordering::SeqCst) == 0 {
            bench.gate.send(()).unwrap();
            served.fetch_add(1, Ordering::SeqCst);
        }
        tokio::task::yield_now().await;
    }
    assert!(!long.is_finished());
    drop(bench.gate);
    long.abort();
    served.load(Ordering::SeqCst)
}

#[tokio::test]
async fn faults_name_the_input() {
    let bench = bench(10_000, false);
    let ask = |second: EmbedInput| {
        let embedder = Arc::clone(&bench.embedder);
        async move {
            let inputs = vec![EmbedInput::Text("a".to_owned()), second];
            declined(embedder.embed(inputs).await.unwrap_err())
        }
    };
    for (input, word) in [
        (EmbedInput::Text("a ".repeat(300)), "at least 600 tokens"),
        (EmbedInput::Text("a ".repeat(256)), "has 514 tokens"),
        (EmbedInput::Tokens(vec![256]), "token 256 does not exist"),
        (EmbedInput::Tokens(vec![]), "no tokens"),
    ] {
        let (param, message) = ask(input).await;
        assert_eq!(param.as_deref(), Some("input[1]"));
        assert!(message.contains(word), "{message}");
    }
    assert!(bench.batches.try_recv().is_err(), "something was computed");
}

#[tokio::test]
async fn a_failed_batch_fails_its_requests_and_no_others() {
    let bench = bench(10_000, false);
    bench.fails.store(true, Ordering::SeqCst);
    let failed = bench.embedder.embed(texts(&[200, 200])).await;
    assert!(matches!(failed, Err(BackendError::Engine(_))));
    bench.fails.store(false, Ordering::SeqCst);
    assert!(bench.embedder.embed(texts(&[20])).await.is_ok());
    assert_eq!(bench.embedder.encoding.desk().queue().tokens, 0);
}

#[tokio::test]
async fn a_full_queue_refuses_and_those_who_left_make_room() {
    let bench = bench(100, true);
    let ask = |lengths: Vec<usize>| {
        let embedder = Arc::clone(&bench.embedder);
        tokio::spawn(async move { embedder.embed(texts(&lengths)).await })
    };
    let waiting = || bench.embedder.encoding.desk().queue().tokens;
    // Larger than the queue, but nothing waits.
    let first = ask(vec![200; 3]);
    while waiting() != 400 {
        tokio::task::yield_now().await;
    }
    let refused = bench.embedder.embed(texts(&[10])).await;
    assert!(matches!(refused, Err(BackendError::Overloaded { .. })));
    first.abort();
    let _ = first.await;
    // The batch under way is the first's; it ends, and nothing more of it is computed.
    bench.gate.send(()).unwrap();
    while waiting() != 0 {
        tokio::task::yield_now().await;
    }
    let second = ask(vec![10]);
    bench.gate.send(()).unwrap();
    assert!(second.await.unwrap().is_ok());
    // The answer leaves before its place is given back.
    while waiting() != 0 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn vectors_have_length_one() {
    assert_eq!(normalised(&[3.0, 4.0]), [0.6, 0.8]);
    assert_eq!(normalised(&[0.0, 0.0]), [0.0, 0.0]);
}
