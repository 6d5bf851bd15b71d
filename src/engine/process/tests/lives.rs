//! How children end and are started again, on a paused clock and with scripted peers.

use std::time::Duration;

use domain::{
    Abilities, Ability, ChatEvent, FinishReason, HealthState, ModelCard, Started, Tokens,
};
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

use super::*;
use crate::fake::request;
use crate::offload::Placement;
use crate::process::frame::{FrameReader, put};
use crate::process::words::{Card, Order, Word};

/// A child's end of the stream, in frames.
struct Peer {
    stream: DuplexStream,
    reader: FrameReader,
}

impl Peer {
    fn new(stream: DuplexStream) -> Self {
        let reader = FrameReader::new(1 << 20);
        Self { stream, reader }
    }

    async fn hear(&mut self) -> Option<Order> {
        self.reader.next(&mut self.stream).await.unwrap()
    }

    async fn say(&mut self, word: &Word) {
        let mut frame = Vec::new();
        put(&mut frame, word, 1 << 20).unwrap();
        self.stream.write_all(&frame).await.unwrap();
    }

    /// As one that has loaded.
    async fn loaded(stream: DuplexStream, name: &str) -> Self {
        let mut peer = Self::new(stream);
        assert!(matches!(peer.hear().await, Some(Order::Load { .. })));
        let model = ModelCard {
            name: name.into(),
            context_tokens_max: Some(Tokens(8)),
            abilities: Abilities::NONE.with(Ability::Tools),
        };
        let card = Card::Chat(vec![model]);
        let placement = Placement {
            layers: 3,
            ..Placement::default()
        };
        peer.say(&Word::Ready { card, placement }).await;
        peer
    }

    /// The id of the next chat, taken.
    async fn take(&mut self) -> u64 {
        loop {
            if let Order::Ask(ask) = self.hear().await.unwrap() {
                self.say(&Word::Taken { id: ask.id }).await;
                return ask.id;
            }
        }
    }

    async fn answer(&mut self, id: u64) {
        let started = Started {
            model: "m".into(),
            reply_id: None,
            fingerprint: None,
        };
        let ended = ChatEvent::ChoiceEnded {
            choice: 0,
            reason: FinishReason::Stop,
        };
        for event in [ChatEvent::Started(started), ended] {
            self.say(&Word::Event { id, event }).await;
        }
        self.say(&Word::Ended { id, failure: None }).await;
    }
}

/// Reads the order to load, and dies of it.
fn stillborn() -> Life {
    life(|stream| async move {
        Peer::new(stream).hear().await;
        Death::Signal(6)
    })
}

/// Loads, runs so long, and dies.
fn lives_for(span: Duration) -> Life {
    life(move |stream| async move {
        let _peer = Peer::loaded(stream, "m").await;
        sleep(span).await;
        Death::Signal(11)
    })
}

/// Loads and answers every chat with nothing.
fn answers() -> Life {
    life(|stream| async move {
        let mut peer = Peer::loaded(stream, "m").await;
        loop {
            let id = peer.take().await;
            peer.answer(id).await;
        }
    })
}

/// Scripted peers say no word of being alive, and are not to be ended for it but where that is
/// the point.
fn config() -> EngineConfig {
    let mut config = EngineConfig::new("unused", "m");
    config.hang_max = Duration::from_secs(24 * 3600);
    config
}

fn watchful() -> EngineConfig {
    EngineConfig {
        hang_max: Duration::from_secs(30),
        ..config()
    }
}

/// Waits on the paused clock.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(3600), "never: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn three_deaths_while_loading_are_the_last() {
    let nursery = Nursery::of([stillborn(), stillborn(), stillborn(), answers()]);
    let Err(error) = start(config(), nursery.clone()).await else {
        panic!("it loaded");
    };
    assert!(matches!(error, LoadError::Quarantined { .. }), "{error}");
    assert!(error.to_string().contains("SIGABRT"), "{error}");
    assert_eq!(nursery.gaps(), [100, 200]);
}

#[tokio::test(start_paused = true)]
async fn a_death_while_loading_is_followed_by_another_try() {
    let bench = start(config(), Nursery::of([stillborn(), answers()]))
        .await
        .unwrap();
    assert!(bench.ask(request("a", |_| ())).await.is_ok());
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_child_that_cannot_be_started_is_no_end_of_ours() {
    // The plan is empty: launching fails.
    let refused = start(config(), Nursery::default()).await;
    assert!(matches!(refused, Err(LoadError::Quarantined { .. })));
}

#[tokio::test(start_paused = true)]
async fn waits_between_restarts_grow_and_a_steady_run_ends_them() {
    let short = Duration::from_secs(1);
    let nursery = Nursery::of([
        lives_for(short),
        lives_for(short),
        lives_for(short),
        lives_for(Duration::from_secs(61)),
        answers(),
    ]);
    let bench = start(config(), nursery).await.unwrap();
    until("five launches", || bench.nursery.launches() == 5).await;
    let placement = || bench.remote.placement();
    until("its placement", || placement().layers == 3).await;
    assert_eq!(bench.nursery.gaps(), [1_100, 1_200, 1_400, 61_100]);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_stops_loading_is_quarantined_and_says_so() {
    let nursery = Nursery::of([
        lives_for(Duration::from_secs(1)),
        stillborn(),
        stillborn(),
        stillborn(),
        answers(),
    ]);
    let bench = start(config(), nursery).await.unwrap();
    until("four launches", || bench.nursery.launches() == 4).await;
    until("down", || bench.remote.health().state == HealthState::Down).await;
    let reason = bench.remote.health().reason.unwrap();
    assert!(reason.contains("quarantined"), "{reason}");
    let refused = bench.ask(request("a", |_| ())).await;
    assert!(
        matches!(refused, Err(BackendError::Engine(_))),
        "{refused:?}"
    );
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(bench.nursery.launches(), 4);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_with_another_model_is_not_served_under_the_old_name() {
    let other = || {
        life(|stream| async move {
            let _peer = Peer::loaded(stream, "another").await;
            std::future::pending().await
        })
    };
    let nursery = Nursery::of([lives_for(Duration::ZERO), other(), other(), other()]);
    let bench = start(config(), nursery).await.unwrap();
    until("down", || bench.remote.health().state == HealthState::Down).await;
    assert_eq!(bench.nursery.launches(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_the_next_child_and_not_for_ever() {
    let slow = life(|stream| async move {
        sleep(Duration::from_secs(1)).await;
        let mut peer = Peer::loaded(stream, "m").await;
        let id = peer.take().await;
        peer.answer(id).await;
        Death::Exit(0)
    });
    let endless = life(|stream| async move {
        let _stream = stream;
        std::future::pending().await
    });
    let nursery = Nursery::of([lives_for(Duration::ZERO), slow, endless]);
    let bench = start(config(), nursery).await.unwrap();
    until("two launches", || bench.nursery.launches() == 2).await;
    assert!(bench.ask(request("a", |_| ())).await.is_ok());
    until("three launches", || bench.nursery.launches() == 3).await;
    let began = Instant::now();
    let refused = bench.ask(request("b", |_| ())).await;
    assert!(
        matches!(refused, Err(BackendError::Overloaded { .. })),
        "{refused:?}"
    );
    assert_eq!(began.elapsed(), Duration::from_secs(3));
    bench.stop().await;
}

/// What a child may not say ends it, and its chats; what is merely late does not.
#[tokio::test(start_paused = true)]
async fn a_child_is_not_believed() {
    let usage = || ChatEvent::Usage(domain::Usage::default());
    let floods = life(move |stream| async move {
        let mut peer = Peer::loaded(stream, "m").await;
        let id = peer.take().await;
        // Ids that are not open are nobody's, and so is what is said of them.
        peer.say(&Word::Event {
            id: 77,
            event: usage(),
        })
        .await;
        peer.say(&Word::Ended {
            id: 78,
            failure: None,
        })
        .await;
        peer.say(&Word::Taken { id }).await;
        for _ in 0..17 {
            peer.say(&Word::Event { id, event: usage() }).await;
        }
        std::future::pending().await
    });
    let babbles = life(|stream| async move {
        let mut peer = Peer::loaded(stream, "m").await;
        peer.take().await;
        peer.stream.write_all(&[2, 0, 0, 0, 99, 99]).await.unwrap();
        std::future::pending().await
    });
    let boasts = life(|stream| async move {
        let mut peer = Peer::loaded(stream, "m").await;
        peer.take().await;
        peer.stream.write_all(&[255; 4]).await.unwrap();
        std::future::pending().await
    });
    let nursery = Nursery::of([floods, babbles, boasts, answers()]);
    let bench = start(config(), nursery).await.unwrap();
    for launches in 1..4 {
        let stream = bench
            .remote
            .chat(sealed(request("a", |_| ())))
            .await
            .unwrap();
        until("the child is given up", || {
            bench.remote.health().state != HealthState::Ready
        })
        .await;
        let events: Vec<_> = stream.collect().await;
        assert!(
            matches!(events.last(), Some(Err(BackendError::Interrupted))),
            "{events:?}"
        );
        assert_eq!(bench.nursery.launches(), launches);
        until("ready", || {
            bench.remote.health().state == HealthState::Ready
        })
        .await;
    }
    assert!(bench.ask(request("a", |_| ())).await.is_ok());
    bench.stop().await;
}

/// Loads, takes one chat, and says `word` every few seconds from then on.
fn repeats(word: impl Fn(u64) -> Word + Send + 'static) -> Life {
    life(|stream| async move {
        let mut peer = Peer::loaded(stream, "m").await;
        peer.take().await;
        for n in 0.. {
            peer.say(&word(n)).await;
            sleep(Duration::from_secs(5)).await;
        }
        unreachable!()
    })
}

#[tokio::test(start_paused = true)]
async fn a_child_without_progress_is_ended_with_its_replies() {
    let silent = life(|stream| async move {
        let mut peer = Peer::loaded(stream, "m").await;
        peer.take().await;
        std::future::pending().await
    });
    // What its other threads say is no word of the engine's own.
    let busy = repeats(|n| {
        Word::Pulse(crate::process::words::Pulse {
            state: HealthState::Ready,
            wait: Some(Duration::from_secs(n)),
        })
    });
    let nursery = Nursery::of([silent, busy, answers()]);
    let bench = start(watchful(), nursery).await.unwrap();
    for launches in 2..4 {
        let began = Instant::now();
        let cut = bench.ask(request("a", |_| ())).await;
        assert!(matches!(cut, Err(BackendError::Interrupted)), "{cut:?}");
        let took = began.elapsed();
        assert!(took <= Duration::from_secs(30), "{took:?}");
        assert!(took > Duration::from_secs(20), "{took:?}");
        until("ready", || {
            bench.remote.health().state == HealthState::Ready
        })
        .await;
        assert_eq!(bench.nursery.launches(), launches);
    }
    assert!(bench.ask(request("b", |_| ())).await.is_ok());
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_child_that_moves_is_left_alone_however_long_it_takes() {
    let slow = repeats(|_| Word::Alive);
    let bench = start(watchful(), Nursery::of([slow])).await.unwrap();
    let stream = bench.remote.chat(sealed(request("a", |_| ()))).await;
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(bench.remote.health().state, HealthState::Ready);
    assert_eq!(bench.nursery.launches(), 1);
    drop(stream);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_child_that_does_not_stop_is_killed() {
    let deaf = life(|stream| async move {
        let _peer = Peer::loaded(stream, "m").await;
        std::future::pending().await
    });
    let bench = start(config(), Nursery::of([deaf])).await.unwrap();
    let began = Instant::now();
    bench.stop().await;
    let took = began.elapsed();
    assert!(
        took < Duration::from_secs(5),
        "{took:?}: longer than a node waits"
    );
}

#[tokio::test(start_paused = true)]
async fn stopping_between_two_lives_ends_at_once() {
    let bench = start(
        config(),
        Nursery::of([lives_for(Duration::ZERO), answers()]),
    )
    .await
    .unwrap();
    until("restarting", || {
        bench.remote.health().state == HealthState::Starting
    })
    .await;
    bench.stop().await;
}

/// The window is what the child may be ahead by, and words of reading come for half of it.
#[tokio::test(start_paused = true)]
async fn credit_comes_as_the_reader_reads() {
    let child = life(|stream| async move {
        let mut peer = Peer::loaded(stream, "m").await;
        let id = peer.take().await;
        for _ in 0..16 {
            let event = ChatEvent::Text {
                choice: 0,
                text: "t".into(),
            };
            peer.say(&Word::Event { id, event }).await;
        }
        // Nothing came so far: the first word is of what was read.
        let mut credit = 0;
        while credit < 16 {
            match peer.hear().await {
                Some(Order::Credit { id: of, count }) if of == id => credit += count,
                other => panic!("{other:?}"),
            }
        }
        peer.say(&Word::Ended { id, failure: None }).await;
        assert!(matches!(peer.hear().await, Some(Order::Stop) | None));
        let mut rest = Vec::new();
        peer.stream.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
        Death::Exit(0)
    });
    let bench = start(config(), Nursery::of([child])).await.unwrap();
    let stream = bench
        .remote
        .chat(sealed(request("a", |_| ())))
        .await
        .unwrap();
    let events: Vec<_> = stream.collect().await;
    assert_eq!(events.len(), 16);
    assert!(events.iter().all(Result::is_ok));
    bench.stop().await;
}
