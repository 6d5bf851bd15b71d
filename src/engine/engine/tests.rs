//! The handle with its real thread, over the scripted decoder.

use std::time::Duration;

use domain::{FinishReason, Image, Part, Reply, Tool, collect};
use futures::StreamExt;
use serde_json::json;

use super::*;
use crate::calls::Manner;
use crate::decoder::Shape;
use crate::fake::{
    CHATML, ECHO, END, FakeDecoder, FakeTemplate, FakeVocabulary, Mishap, babble, request, sealed,
};

mod calls;
mod choices;
mod formats;
mod settings;

const SHAPE: Shape = Shape {
    sequences: 2,
    kv_tokens: 512,
    batch_tokens: 64,
    context_tokens: 256,
};

fn start(
    template: FakeTemplate,
    configure: impl FnOnce(&mut EngineConfig),
    build: impl FnOnce(&mut FakeDecoder) + Send + 'static,
) -> (Engine, EngineDriver) {
    start_as(Manner::of("<tool_call>"), template, configure, build)
}

/// A model that writes as `manner` says.
fn start_as(
    manner: Manner,
    template: FakeTemplate,
    configure: impl FnOnce(&mut EngineConfig),
    build: impl FnOnce(&mut FakeDecoder) + Send + 'static,
) -> (Engine, EngineDriver) {
    let mut config = EngineConfig::new("unused", "fake");
    config.slots_max = SHAPE.sequences;
    // An event of a drafted step has as many tokens as the machine's speed makes worth it; here each
    // has one.
    config.speculation = Speculation::Off;
    configure(&mut config);
    let mind = Mind {
        sight: None,
        vocabulary: Arc::new(FakeVocabulary::default()),
        template: Arc::new(template),
        context_tokens: SHAPE.context_tokens,
        manner,
    };
    let started = Engine::start(config, mind, move |shared| {
        let mut decoder = FakeDecoder::new(SHAPE, Arc::clone(&shared.interrupt));
        build(&mut decoder);
        Ok(decoder)
    });
    started.unwrap()
}

async fn ask(engine: &Engine, request: ChatRequest) -> Result<Reply, BackendError> {
    collect(engine.chat(sealed(request)).await?).await
}

fn tool() -> Tool {
    Tool {
        name: "f".into(),
        description: None,
        parameters: json!({}),
        extra: domain::Extra::new(),
    }
}

#[tokio::test]
async fn a_chat_is_answered_and_counted() {
    let (engine, driver) = start(ECHO, |_| (), |_| ());
    assert_eq!(engine.health().state, HealthState::Ready);
    let reply = ask(&engine, request("hello", |_| ())).await.unwrap();
    assert_eq!(reply.started.model, "fake");
    assert_eq!(reply.choices[0].text(), "hello");
    let usage = reply.usage.unwrap();
    assert_eq!((usage.prompt_tokens.0, usage.completion_tokens.0), (6, 5));
    engine.stop();
    driver.run().await.unwrap();
    assert_eq!(engine.health().state, HealthState::Down);
    let refused = ask(&engine, request("hello", |_| ())).await;
    assert!(matches!(refused, Err(BackendError::Engine(_))));
}

#[tokio::test]
async fn dropping_the_handle_ends_the_thread() {
    let (engine, driver) = start(ECHO, |_| (), |_| ());
    drop(engine);
    driver.run().await.unwrap();
}

#[tokio::test]
async fn many_readers_slow_and_quick_all_get_their_own() {
    let (engine, _driver) = start(ECHO, |config| config.events_max = 2, |_| ());
    let asks = (0..32).map(|n| {
        let engine = &engine;
        async move {
            let text = format!("reader number {n}");
            let reply = ask(engine, request(&text, |_| ())).await.unwrap();
            assert_eq!(reply.choices[0].text(), text);
        }
    });
    futures::future::join_all(asks).await;
}

#[tokio::test]
async fn long_prompts_that_are_to_be_prepared_hold_up_no_short_one() {
    let (engine, _driver) = start(ECHO, |_| (), |_| ());
    let _held = super::turn(&engine.preparing_long).await.unwrap();
    let text = "x".repeat(super::SHORT_BYTES_MAX + 1);
    let mut longs = Vec::new();
    for _ in 0..super::PREPARING_MAX + 1 {
        let mut long = engine.chat(sealed(request(&text, |_| ())));
        assert!(futures::poll!(&mut long).is_pending());
        longs.push(long);
    }
    ask(&engine, request("short", |_| ())).await.unwrap();
}

#[tokio::test]
async fn one_more_than_may_wait_is_overloaded() {
    let (engine, _driver) = start(
        ECHO,
        |config| {
            config.queue_max = 1;
            config.events_max = 1
        },
        |_| (),
    );
    // Two hold the slots unread, one waits.
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = engine.chat(sealed(request("held", |_| ()))).await.unwrap();
        // Its first event says that it has left the queue.
        assert!(stream.next().await.is_some());
        held.push(stream);
    }
    let waiting = engine.chat(sealed(request("waits", |_| ()))).await.unwrap();
    let refused = engine.chat(sealed(request("one more", |_| ()))).await;
    assert!(matches!(
        refused.err(),
        Some(BackendError::Overloaded { .. })
    ));
    drop(held);
    let reply = collect(waiting).await.unwrap();
    assert_eq!(reply.choices[0].text(), "waits");
}

#[tokio::test]
async fn what_the_model_cannot_do_is_refused_by_name() {
    let (engine, _driver) = start(CHATML, |_| (), |_| ());
    let cases: Vec<(ChatRequest, Ability)> = vec![
        (request("a", |r| r.tools = vec![tool()]), Ability::Tools),
        (
            request("a", |r| r.tool_choice = ToolChoice::Required),
            Ability::ForcedTools,
        ),
        (
            request("a", |r| r.messages[0].content.push(Part::Other(json!({})))),
            Ability::OtherParts,
        ),
        (
            request("a", |r| {
                let image = Image {
                    url: "data:,".into(),
                    detail: None,
                };
                r.messages[0].content.push(Part::Image(image));
            }),
            Ability::Images,
        ),
    ];
    for (request, ability) in cases {
        let refused = ask(&engine, request).await;
        assert!(
            matches!(refused, Err(BackendError::Unable(which)) if which == ability),
            "{ability:?}"
        );
    }
}

const CALL: &str = "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":1}}</tool_call>";

/// Says [`CALL`] back, whose own `>` the echo would take for the prompt's end.
fn call_back(decoder: &mut FakeDecoder) {
    decoder.script = Box::new(|tokens| {
        let said = tokens.len() - CALL.len() - 1;
        CALL.as_bytes()
            .get(said)
            .map_or(END, |byte| i32::from(*byte))
    });
}

#[tokio::test]
async fn offered_tools_are_called_with_ids_that_differ() {
    let (engine, _driver) = start(ECHO, |_| (), call_back);
    let mut ids = Vec::new();
    for _ in 0..2 {
        let reply = ask(&engine, request(CALL, |r| r.tools = vec![tool()]))
            .await
            .unwrap();
        let choice = &reply.choices[0];
        assert_eq!(
            (choice.text().as_str(), choice.reason),
            ("", FinishReason::ToolCalls)
        );
        let call = &choice.tool_calls[0];
        assert_eq!(
            (call.name.as_str(), call.arguments.as_str()),
            ("f", "{\"a\":1}")
        );
        assert!(call.id.starts_with("call_"));
        ids.push(call.id.clone());
    }
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn with_tool_choice_none_nothing_is_called() {
    let (engine, _driver) = start(ECHO, |_| (), call_back);
    let reply = ask(
        &engine,
        request(CALL, |r| {
            r.tools = vec![tool()];
            r.tool_choice = ToolChoice::None;
        }),
    );
    let choice = &reply.await.unwrap().choices[0];
    assert_eq!(
        (choice.text().as_str(), choice.reason),
        (CALL, FinishReason::Stop)
    );
}

#[tokio::test]
async fn a_thread_that_panics_cuts_its_chats_off_and_is_down() {
    let (engine, driver) = start(
        ECHO,
        |_| (),
        |decoder| {
            let panic = Mishap::At(0, Box::new(|| panic!("as scripted")));
            decoder.mishaps.lock().unwrap().push_back(panic);
        },
    );
    let cut = ask(&engine, request("a", |_| ())).await;
    assert!(matches!(cut, Err(BackendError::Interrupted)), "{cut:?}");
    assert_eq!(driver.run().await, Err(EnginePanicked));
    assert_eq!(engine.health().state, HealthState::Down);
}

#[tokio::test]
async fn a_decoder_that_cannot_be_built_is_a_load_error() {
    let mind = Mind {
        sight: None,
        vocabulary: Arc::new(FakeVocabulary::default()),
        template: Arc::new(ECHO),
        context_tokens: 8,
        manner: Manner::of("<tool_call>"),
    };
    let config = EngineConfig::new("unused", "fake");
    let failed = Engine::start(config, mind, |_| -> Result<FakeDecoder, LoadError> {
        Err(LoadError::NotBuilt)
    });
    assert!(matches!(failed, Err(LoadError::NotBuilt)));
}

#[tokio::test]
async fn a_stalled_reader_hears_why() {
    let (engine, _driver) = start(
        ECHO,
        |config| {
            config.events_max = 1;
            config.stall_max = Duration::ZERO;
        },
        |_| (),
    );
    let stream = engine
        .chat(sealed(request("unread", |_| ())))
        .await
        .unwrap();
    // Room for one event, and no patience: the second finds the channel full.
    let after = ask(&engine, request("x", |_| ())).await;
    drop(after);
    let events: Vec<_> = stream.collect().await;
    assert!(
        matches!(events.last(), Some(Err(BackendError::Engine(_)))),
        "{events:?}"
    );
}
