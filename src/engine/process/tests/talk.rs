//! Chats through both processes' halves, the engine's thread included.

use std::time::Duration;

use domain::{Ability, HealthState, Message, OutputFormat, Part, Role};
use futures::StreamExt;
use futures::future::join_all;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::config::Speculation;
use crate::decoder::Shape;
use crate::engine::{Engine, EngineDriver, Mind};
use crate::fake::{ECHO, FakeDecoder, FakeVocabulary, Mishap, Seen, request};
use crate::process::serve::serve;

const SHAPE: Shape = Shape {
    sequences: 2,
    kv_tokens: 8_192,
    batch_tokens: 64,
    context_tokens: 256,
};

pub(super) type Log = Arc<Mutex<Vec<Seen>>>;

pub(super) fn load(config: EngineConfig, log: Log) -> Result<(Engine, EngineDriver), LoadError> {
    load_with(config, |decoder| decoder.log = log)
}

fn load_with(
    config: EngineConfig,
    build: impl FnOnce(&mut FakeDecoder) + Send + 'static,
) -> Result<(Engine, EngineDriver), LoadError> {
    let mind = Mind {
        sight: None,
        vocabulary: Arc::new(FakeVocabulary::default()),
        template: Arc::new(ECHO),
        context_tokens: SHAPE.context_tokens,
        manner: crate::calls::Manner::default(),
    };
    let sequences = config.slots_max;
    Engine::start(config, mind, move |shared| {
        let shape = Shape { sequences, ..SHAPE };
        let mut decoder = FakeDecoder::new(shape, Arc::clone(&shared.interrupt));
        build(&mut decoder);
        Ok(decoder)
    })
}

/// A child that serves the scripted model.
fn engine(log: &Log) -> Life {
    let log = Arc::clone(log);
    life(|stream| async move {
        let served = serve(stream, chats(move |config| load(config, log))).await;
        Death::Exit(served.is_err().into())
    })
}

pub(super) fn config(change: impl FnOnce(&mut EngineConfig)) -> EngineConfig {
    let mut config = EngineConfig::new("unused", "fake");
    config.slots_max = SHAPE.sequences;
    // An event of a drafted step has as many tokens as the machine's speed makes worth it; here each
    // has one.
    config.speculation = Speculation::Off;
    change(&mut config);
    config
}

async fn bench(change: impl FnOnce(&mut EngineConfig)) -> (Bench, Log) {
    let log = Log::default();
    let nursery = Nursery::of([engine(&log), engine(&log)]);
    (start(config(change), nursery).await.unwrap(), log)
}

fn overlong() -> ChatRequest {
    request(&"x".repeat(400), |_| ())
}

#[tokio::test]
async fn a_chat_is_answered_as_it_is_in_one_process() {
    let (bench, _) = bench(|_| ()).await;
    assert_eq!(bench.remote.card().models[0].name, "fake");
    let reply = bench.ask(request("hello", |_| ())).await.unwrap();
    assert_eq!(reply.choices[0].text(), "hello");
    let usage = reply.usage.unwrap();
    assert_eq!((usage.prompt_tokens.0, usage.completion_tokens.0), (6, 5));
    bench.stop().await;
}

#[tokio::test]
async fn a_request_arrives_whole() {
    let (bench, _) = bench(|_| ()).await;
    // Longer than either side takes at once, and in more than one message.
    let mut long = request("", |request| request.sampling.stop = vec!["c".into()]);
    long.messages = vec![
        Message::new(Role::System, "ab"),
        Message::new(Role::User, "cd"),
    ];
    long.output_tokens_max = Some(domain::Tokens(9));
    long.source = Some(domain::SourceBody {
        dialect: domain::Dialect::OpenAi,
        bytes: vec![b' '; 100_000].into(),
    });
    let reply = bench.ask(long).await.unwrap();
    assert_eq!(reply.choices[0].text(), "ab");
    let json = request("a", |request| {
        request.format = OutputFormat::JsonObject;
        request.output_tokens_max = Some(domain::Tokens(4));
    });
    let reply = bench.ask(json).await.unwrap();
    assert!(reply.choices[0].text().starts_with('{'), "{reply:?}");
}

#[tokio::test]
async fn choices_log_probabilities_and_settings_cross() {
    let (bench, _) = bench(|config| config.events_max = 3).await;
    let asked = request("hello", |request| {
        request.choices = 3;
        request.sampling.logprobs = Some(1);
        request.sampling.open.stop_tokens = vec![u32::from(b'o')];
    });
    let reply = bench.ask(asked).await.unwrap();
    assert_eq!(reply.choices.len(), 3);
    for choice in &reply.choices {
        let texts = choice.logprobs.iter().map(|one| one.top[0].text.as_str());
        assert_eq!(
            (choice.text(), texts.collect()),
            ("hell".to_owned(), "hell".to_owned())
        );
    }
    assert_eq!(reply.usage.unwrap().prompt_tokens, domain::Tokens(6));
    bench.stop().await;
}

#[tokio::test]
async fn refusals_come_back_in_the_engines_own_words() {
    let (bench, _) = bench(|_| ()).await;
    let refused = bench.ask(overlong()).await;
    assert!(
        matches!(refused, Err(BackendError::ContextExceeded { .. })),
        "{refused:?}"
    );
    let refused = bench.ask(request("refuse", |_| ())).await;
    assert!(
        matches!(refused, Err(BackendError::Declined { .. })),
        "{refused:?}"
    );
    let heard = request("a", |request| {
        request.messages[0]
            .content
            .push(Part::Other(serde_json::Value::Null));
    });
    let refused = bench.ask(heard).await;
    assert!(
        matches!(refused, Err(BackendError::Unable(Ability::OtherParts))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn many_readers_all_get_their_own() {
    let (bench, _) = bench(|config| config.events_max = 3).await;
    join_all((0..32).map(|n| {
        let bench = &bench;
        async move {
            let text = format!("reader number {n}");
            let reply = bench.ask(request(&text, |_| ())).await.unwrap();
            assert_eq!(reply.choices[0].text(), text);
        }
    }))
    .await;
}

#[tokio::test]
async fn those_who_leave_free_their_slots_and_places() {
    let (bench, _) = bench(|config| {
        config.queue_max = 1;
        config.events_max = 2;
    })
    .await;
    for _ in 0..4 {
        let mut held = Vec::new();
        for _ in 0..2 {
            let text = request("held for as long as nobody reads", |_| ());
            let mut stream = bench.remote.chat(sealed(text)).await.unwrap();
            assert!(stream.next().await.is_some());
            held.push(stream);
        }
        let waiting = bench
            .remote
            .chat(sealed(request("waits", |_| ())))
            .await
            .unwrap();
        let refused = bench.ask(request("one more", |_| ())).await;
        assert!(
            matches!(refused, Err(BackendError::Overloaded { .. })),
            "{refused:?}"
        );
        drop((held, waiting));
        let after = bench.ask(request("after", |_| ())).await.unwrap();
        assert_eq!(after.choices[0].text(), "after");
    }
}

#[tokio::test]
async fn a_slow_reader_pauses_its_own_slot_and_nobody_elses() {
    let (bench, log) = bench(|config| config.events_max = 4).await;
    let long = "y".repeat(100);
    let mut slow = bench
        .remote
        .chat(sealed(request(&long, |_| ())))
        .await
        .unwrap();
    assert!(slow.next().await.is_some());
    for n in 0..8 {
        let text = format!("quick number {n}");
        let reply = bench.ask(request(&text, |_| ())).await.unwrap();
        assert_eq!(reply.choices[0].text(), text);
    }
    let log = log.lock().unwrap().clone();
    let mut entries = log.iter().flat_map(|seen| &seen.batch);
    let slows = entries.find(|entry| entry.token == i32::from(b'y'));
    let sequence = slows.expect("its prompt was computed").sequence;
    let drawn: usize = log.iter().map(|seen| seen.count(sequence)).sum();
    // Its prompt, what it read, what it may be ahead, and what is on its way.
    assert!(
        drawn < 101 + 1 + 4 + 4,
        "{drawn} tokens for a reader who does not read"
    );
    let text: String = slow
        .map(|event| match event.unwrap() {
            domain::ChatEvent::Text { text, .. } => text,
            _ => String::new(),
        })
        .collect()
        .await;
    assert_eq!(text, long);
}

#[tokio::test]
async fn an_end_in_mid_stream_is_an_error_for_each_and_the_next_child_serves() {
    let (bench, _) = bench(|config| {
        config.slots_max = 32;
        config.events_max = 2;
    })
    .await;
    let mut streams = Vec::new();
    for _ in 0..32 {
        let text = request("long enough to be under way for a while", |_| ());
        let mut stream = bench.remote.chat(sealed(text)).await.unwrap();
        assert!(stream.next().await.is_some());
        streams.push(stream);
    }
    bench.nursery.kill();
    for stream in streams {
        let events: Vec<_> = stream.collect().await;
        let end = events.last().unwrap();
        assert!(matches!(end, Err(BackendError::Interrupted)), "{end:?}");
    }
    let health = bench.remote.health();
    assert_eq!(health.state, HealthState::Starting);
    assert!(health.reason.is_some());
    let reply = bench.ask(request("again", |_| ())).await.unwrap();
    assert_eq!(reply.choices[0].text(), "again");
    assert_eq!(bench.remote.health().reason, None);
    assert_eq!(bench.nursery.launches(), 2);
    bench.stop().await;
}

#[tokio::test]
async fn an_engine_that_panics_ends_its_process() {
    let panics = life(|stream| async move {
        let build = |decoder: &mut FakeDecoder| {
            let panic = Mishap::At(0, Box::new(|| panic!("as scripted")));
            decoder.mishaps.lock().unwrap().push_back(panic);
        };
        let served = serve(stream, chats(move |config| load_with(config, build))).await;
        Death::Exit(served.is_err().into())
    });
    let nursery = Nursery::of([panics, engine(&Log::default())]);
    let bench = start(config(|_| ()), nursery).await.unwrap();
    let cut = bench.ask(request("a", |_| ())).await;
    assert!(matches!(cut, Err(BackendError::Interrupted)), "{cut:?}");
    // The first has told of the cut-off reply before its end.
    while bench.nursery.launches() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(bench.ask(request("b", |_| ())).await.is_ok());
}

#[tokio::test]
async fn an_engine_that_hangs_in_a_step_is_replaced_and_one_that_rests_is_not() {
    let (release, held) = std::sync::mpsc::sync_channel::<()>(0);
    let hangs = life(|stream| async move {
        let build = |decoder: &mut FakeDecoder| {
            let hang = Mishap::At(0, Box::new(move || assert!(held.recv().is_err())));
            decoder.mishaps.lock().unwrap().push_back(hang);
        };
        let served = serve(stream, chats(move |config| load_with(config, build))).await;
        Death::Exit(served.is_err().into())
    });
    let nursery = Nursery::of([hangs, engine(&Log::default())]);
    let hang_max = Duration::from_millis(EngineConfig::HANG_MS_LEAST);
    let config = config(|config| config.hang_max = hang_max);
    let bench = start(config, nursery).await.unwrap();
    // Longer than it may hang: with nothing to do there is no progress to be made.
    tokio::time::sleep(hang_max * 2).await;
    assert_eq!(bench.nursery.launches(), 1);
    let cut = bench.ask(request("a", |_| ())).await;
    assert!(matches!(cut, Err(BackendError::Interrupted)), "{cut:?}");
    assert!(bench.ask(request("b", |_| ())).await.is_ok());
    assert_eq!(bench.nursery.launches(), 2);
    drop(release);
    bench.stop().await;
}

/// What it says of its health, at each step anew, does not stand in for what says that it lives.
#[tokio::test]
async fn a_long_prompt_of_many_steps_is_not_taken_for_a_hang() {
    let slow = life(|stream| async move {
        let build = |decoder: &mut FakeDecoder| {
            decoder.shape.batch_tokens = 8;
            let pause = || std::thread::sleep(Duration::from_millis(60));
            let pauses = (0..40).map(|_| Mishap::At(8, Box::new(pause)));
            decoder.mishaps.lock().unwrap().extend(pauses);
        };
        let served = serve(stream, chats(move |config| load_with(config, build))).await;
        Death::Exit(served.is_err().into())
    });
    let config = config(|config| {
        config.slots_max = 1;
        config.hang_max = Duration::from_millis(EngineConfig::HANG_MS_LEAST);
    });
    let bench = start(config, Nursery::of([slow])).await.unwrap();
    // Both rates are known only after a reply.
    bench.ask(request("abc>", |_| ())).await.unwrap();
    let long = format!("{}>", "x".repeat(250));
    bench.ask(request(&long, |_| ())).await.unwrap();
    assert_eq!(bench.nursery.launches(), 1);
    bench.stop().await;
}

#[tokio::test]
async fn health_is_the_childs() {
    let (bench, _) = bench(|config| {
        config.slots_max = 1;
        config.events_max = 2;
    })
    .await;
    assert_eq!(bench.remote.health().wait, Some(Duration::ZERO));
    bench.ask(request("first", |_| ())).await.unwrap();
    let text = request("held for as long as nobody reads", |_| ());
    let mut held = bench.remote.chat(sealed(text)).await.unwrap();
    assert!(held.next().await.is_some());
    // The only slot is taken: whoever comes waits, as the child alone knows.
    while bench.remote.health().wait == Some(Duration::ZERO) {
        tokio::task::yield_now().await;
    }
    drop(held);
    while bench.remote.health().wait != Some(Duration::ZERO) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn stopping_ends_what_runs_and_the_child() {
    let (bench, _) = bench(|config| config.events_max = 2).await;
    let text = request("held for as long as nobody reads", |_| ());
    let mut held = bench.remote.chat(sealed(text)).await.unwrap();
    assert!(held.next().await.is_some());
    bench.remote.stop();
    let events: Vec<_> = held.collect().await;
    assert!(
        matches!(events.last(), Some(Err(BackendError::Engine(_)))),
        "{events:?}"
    );
    assert_eq!(bench.remote.health().state, HealthState::Down);
    let refused = bench.ask(request("late", |_| ())).await;
    assert!(
        matches!(refused, Err(BackendError::Engine(_))),
        "{refused:?}"
    );
    bench.stop().await;
}

#[tokio::test]
async fn a_child_that_is_left_alone_ends() {
    for says_load in [false, true] {
        let (mut ours, theirs) = tokio::io::duplex(4096);
        if says_load {
            let mut frame = Vec::new();
            let order = crate::process::words::Order::Load {
                job: Job::Chat(config(|_| ())),
                window: 1,
            };
            crate::process::frame::put(&mut frame, &order, 4096).unwrap();
            ours.write_all(&frame).await.unwrap();
        }
        drop(ours);
        // Ends, well or not: nobody is left to serve.
        let _ = serve(theirs, chats(|config| load(config, Log::default()))).await;
    }
}

#[tokio::test]
async fn a_parent_that_speaks_nonsense_is_left() {
    let (mut ours, theirs) = tokio::io::duplex(4096);
    ours.write_all(&[2, 0, 0, 0, 99, 99]).await.unwrap();
    assert!(serve(theirs, |_| unreachable!()).await.is_err());
}

#[tokio::test]
async fn a_load_error_keeps_its_words() {
    let nursery = Nursery::of([life(|stream| async move {
        let load = |_| {
            Err(LoadError::File {
                path: "/m.gguf".into(),
                source: std::io::ErrorKind::NotFound.into(),
            })
        };
        Death::Exit(serve(stream, chats(load)).await.is_err().into())
    })]);
    let Err(error) = start(config(|_| ()), nursery).await else {
        panic!("it loaded");
    };
    let words = "cannot read the model file /m.gguf: entity not found";
    assert_eq!(error.to_string(), words);
}
