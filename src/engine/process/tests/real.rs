//! A child that is a process: this test binary, started again to hold the scripted model.

use std::process::Command;
use std::time::{Duration, Instant};

use domain::{ChatEvent, HealthState};
use futures::StreamExt;
use futures::future::join_all;

use super::talk::{Log, config, load};
use super::*;
use crate::fake::request;
use crate::process::launch::{Process, Program};
use crate::process::serve::serve;

/// The name of what runs in the child.
const CHILD: &str = "process::tests::real::the_childs_side";

/// Starts processes, and knows the last one's id.
#[derive(Clone)]
struct Real {
    program: Program,
    pid: Arc<Mutex<Option<u32>>>,
}

impl Launch for Real {
    type Stream = tokio::net::UnixStream;
    type Child = Process;

    fn launch(&mut self) -> std::io::Result<(Self::Stream, Process)> {
        let (stream, child) = self.program.launch()?;
        *self.pid.lock().unwrap() = child.id();
        Ok((stream, child))
    }
}

impl Real {
    fn new() -> Self {
        let args = [CHILD, "--exact", "--ignored", "--nocapture"];
        Self {
            program: Program {
                path: std::env::current_exe().unwrap(),
                args: args.map(str::to_owned).to_vec(),
                environment: Vec::new(),
            },
            pid: Arc::default(),
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.pid.lock().unwrap().unwrap().to_string();
        let sent = Command::new("kill").args([name, &pid]).status().unwrap();
        assert!(sent.success());
    }
}

/// Not a test: what `hedge engine` does, over the scripted model.
#[tokio::test]
#[ignore = "runs in the children of the tests below"]
async fn the_childs_side() {
    use std::os::fd::AsFd;

    let stdin = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let stream = std::os::unix::net::UnixStream::from(stdin);
    if stream.local_addr().is_err() {
        return;
    }
    stream.set_nonblocking(true).unwrap();
    let stream = tokio::net::UnixStream::from_std(stream).unwrap();
    serve(stream, chats(|config| load(config, Log::default())))
        .await
        .unwrap();
}

/// The process ends by `signal` under 32 replies; all of them learn of it, and the next serves. The
/// bounds tell an end from none, whatever else the machine does: five times what is promised.
async fn ends_by(signal: &str) {
    let real = Real::new();
    let config = config(|config| {
        config.slots_max = 16;
        config.events_max = 4;
    });
    let (remote, driver) = Remote::start_with(config, real.clone()).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(driver.run());
    let first = real.pid.lock().unwrap().unwrap();
    // Half of them have begun and wait for their reader, half wait for a slot.
    let text = "long enough to be under way until somebody reads it";
    let mut streams = Vec::new();
    for n in 0..32 {
        let mut stream = remote.chat(sealed(request(text, |_| ()))).await.unwrap();
        if n < 16 {
            assert!(matches!(
                stream.next().await,
                Some(Ok(ChatEvent::Started(_)))
            ));
        }
        streams.push(stream);
    }
    real.signal(signal);
    let killed = Instant::now();
    let ends = join_all(streams.into_iter().map(|stream| async {
        let events: Vec<_> = stream.collect().await;
        (events.last().cloned(), killed.elapsed())
    }));
    for (end, after) in ends.await {
        assert!(
            matches!(end, Some(Err(BackendError::Interrupted))),
            "{end:?}"
        );
        assert!(after < Duration::from_secs(5), "{after:?}");
    }
    let reply = collect(remote.chat(sealed(request("again", |_| ()))).await.unwrap()).await;
    assert_eq!(reply.unwrap().choices[0].text(), "again");
    assert!(
        killed.elapsed() < Duration::from_secs(15),
        "{:?}",
        killed.elapsed()
    );
    assert_ne!(real.pid.lock().unwrap().unwrap(), first);
    assert_eq!(remote.health().state, HealthState::Ready);
    remote.stop();
    tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_killed_process_cuts_off_its_replies_and_is_back_at_once() {
    ends_by("-KILL").await;
}

#[tokio::test]
async fn an_aborted_process_cuts_off_its_replies_and_is_back_at_once() {
    ends_by("-ABRT").await;
}

#[tokio::test]
async fn a_frozen_process_is_ended_and_its_replies_with_it() {
    let real = Real::new();
    let config = config(|config| {
        config.events_max = 4;
        config.hang_max = Duration::from_millis(EngineConfig::HANG_MS_LEAST);
    });
    let (remote, driver) = Remote::start_with(config, real.clone()).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(driver.run());
    let text = "long enough to be under way until somebody reads it";
    let mut stream = remote.chat(sealed(request(text, |_| ()))).await.unwrap();
    assert!(stream.next().await.is_some());
    real.signal("-STOP");
    let events: Vec<_> = stream.collect().await;
    let end = events.last();
    assert!(
        matches!(end, Some(Err(BackendError::Interrupted))),
        "{end:?}"
    );
    let reply = collect(remote.chat(sealed(request("again", |_| ()))).await.unwrap()).await;
    assert_eq!(reply.unwrap().choices[0].text(), "again");
    remote.stop();
    tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_frozen_process_is_killed_when_the_node_stops() {
    let real = Real::new();
    let started = Remote::start_with(config(|_| ()), real.clone()).await;
    let (remote, driver) = started.unwrap();
    real.signal("-STOP");
    remote.stop();
    let ended = tokio::time::timeout(Duration::from_secs(5), driver.run()).await;
    assert!(ended.is_ok(), "longer than a node waits");
}

#[tokio::test]
async fn what_a_process_computed_before_it_was_stopped_is_there_for_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let text = "a beginning that is long enough to be worth a file of its own, and its place there";
    for is_cached in [false, true] {
        let config = config(|config| config.prefix_dir = Some(folder.path().to_owned()));
        let (remote, driver) = Remote::start_with(config, Real::new()).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(driver.run());
        let asked = remote.chat(sealed(request(text, |_| ()))).await.unwrap();
        let reply = collect(asked).await.unwrap();
        assert_eq!(reply.choices[0].text(), text);
        let cached = reply.usage.unwrap().cached_tokens.0 as usize;
        assert_eq!(cached, if is_cached { text.len() } else { 0 });
        remote.stop();
        tasks.join_next().await.unwrap().unwrap();
    }
}
