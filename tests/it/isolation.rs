//! The engine in its own process: what its end costs, and what it does not.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::{join, join_all};
use http::StatusCode;
use serde_json::json;

use crate::harness::{Hedge, ask, eventually, signal, with};

const STREAMS: usize = 32;
/// What is promised, and by how much it may be missed on a machine with other things to do: a reply
/// that nobody ends, or a process that nobody starts, misses it by any factor.
const ENDED_WITHIN: Duration = Duration::from_secs(1);
const SERVED_WITHIN: Duration = Duration::from_secs(3);
const SLACK: u32 = 5;
const QUESTION: &str = "What is the capital of Portugal?";

/// Gone, or a zombie that nobody has looked after yet.
fn is_gone(pid: u32) -> bool {
    let stat = Path::new("/proc").join(pid.to_string()).join("stat");
    let stat = std::fs::read_to_string(stat).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// The engine's process ends, or is ended, by `name` while 32 replies are under way. `held_up` is how
/// long that may take.
async fn ends_by(name: &str, config: &str, held_up: Duration, said: &str) {
    let hedge = Hedge::start(&format!("[local]\nslots_max = 32\n{config}")).await;
    let (proxy, engine) = (hedge.pid(), hedge.engine_pid().unwrap());
    let begun = AtomicUsize::new(0);
    let streams = join_all((0..STREAMS).map(|seed| {
        let more = json!({"temperature": 2, "seed": seed, "max_tokens": 3000, "stream": true});
        let body = with(ask("local", "Tell me about everything, at length."), more);
        let (hedge, begun) = (&hedge, &begun);
        async move {
            let mut reply = hedge.open(&body).await;
            let status = reply.status;
            let mut text = Vec::new();
            while let Some(more) = reply.next().await {
                begun.fetch_add(usize::from(text.is_empty()), Ordering::Relaxed);
                text.extend_from_slice(&more);
            }
            (status, String::from_utf8(text).unwrap(), Instant::now())
        }
    }));
    let after = async {
        eventually("streams have begun", async || {
            begun.load(Ordering::Relaxed) == STREAMS
        })
        .await;
        let killed = Instant::now();
        signal(engine, name);
        let (served, ()) = join(
            async {
                // One that comes before the end is seen may still be cut off by it.
                eventually("a new request is served", async || {
                    let reply = hedge.chat(&ask("local", QUESTION)).await;
                    reply.status == StatusCode::OK && reply.content().contains("Lisbon")
                })
                .await;
                killed.elapsed()
            },
            async {
                for _ in 0..20 {
                    assert_eq!(hedge.get("/healthz").await.status, StatusCode::OK);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            },
        )
        .await;
        (killed, served)
    };
    let (replies, (killed, served)) = join(streams, after).await;
    let (mut cut, mut last) = (0, Duration::ZERO);
    for (status, text, ended) in replies {
        // Whole, or an error in the stream, or a refusal where nothing had been said yet.
        let is_whole = text.ends_with("data: [DONE]\n\n");
        let has_error = text.contains("\"error\"");
        assert!(is_whole != has_error, "{status}: {text}");
        cut += usize::from(has_error);
        last = last.max(ended.saturating_duration_since(killed));
    }
    eprintln!(
        "{name}: {cut} of {STREAMS} cut off, the last after {last:?}, served after {served:?}"
    );
    assert!(cut >= 8, "only {cut} were under way");
    let bound = held_up + ENDED_WITHIN * SLACK;
    assert!(last < bound, "{last:?} until the last reply's end");
    let bound = held_up + SERVED_WITHIN * SLACK;
    assert!(served < bound, "served again after {served:?}");
    assert_eq!(hedge.pid(), proxy);
    assert!(!is_gone(proxy));
    assert_ne!(hedge.engine_pid().unwrap(), engine);
    hedge.until_ready().await;
    assert!(hedge.log().contains(said), "no {said} in the log");
    let metrics = hedge.metrics().await;
    let counted = "hedge_engine_restarts_total 1";
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");
}

#[tokio::test]
async fn a_killed_engine_cuts_off_its_replies_and_is_back_at_once() {
    ends_by("-KILL", "", Duration::ZERO, "SIGKILL").await;
}

#[tokio::test]
async fn an_aborting_engine_cuts_off_its_replies_and_is_back_at_once() {
    ends_by("-ABRT", "", Duration::ZERO, "SIGABRT").await;
}

#[tokio::test]
async fn a_frozen_engine_is_ended_and_its_replies_with_it() {
    let hang = "hang_ms_max = 2000\n";
    ends_by("-STOP", hang, Duration::from_secs(2), "no progress").await;
}

#[tokio::test]
async fn the_engine_leaves_with_the_proxy_and_not_before() {
    let hedge = Hedge::start("").await;
    let engine = hedge.engine_pid().unwrap();
    // As terminals and supervisors send it, to every process of the group.
    signal(engine, "-TERM");
    signal(engine, "-INT");
    let reply = hedge.chat(&ask("local", QUESTION)).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert_eq!(hedge.engine_pid(), Some(engine));
    // Killed, the proxy has no time to say anything.
    drop(hedge);
    eventually("the engine is gone", async || is_gone(engine)).await;
}

#[tokio::test]
async fn a_proxy_told_to_end_takes_its_engine_along() {
    let hedge = Hedge::start("").await;
    let engine = hedge.engine_pid().unwrap();
    hedge.terminate();
    assert!(hedge.ended_well().await);
    assert!(is_gone(engine));
}

#[tokio::test]
async fn the_engine_knows_no_secrets() {
    let hedge = Hedge::start("").await;
    let process = Path::new("/proc").join(hedge.engine_pid().unwrap().to_string());
    let environment = std::fs::read_to_string(process.join("environ")).unwrap();
    assert!(environment.contains("GGML_NO_BACKTRACE=1"), "{environment}");
    for name in ["FAKE_KEY", "HEDGE_"] {
        assert!(!environment.contains(name), "{name} in {environment}");
    }
}

#[tokio::test]
async fn as_a_thread_it_has_no_process() {
    let hedge = Hedge::start("[local]\nisolation = \"thread\"\n").await;
    assert_eq!(hedge.engine_pid(), None);
    let reply = hedge.chat(&ask("local", QUESTION)).await;
    assert!(reply.content().contains("Lisbon"), "{}", reply.text);
}
