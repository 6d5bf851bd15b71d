//! Both sides over a stream within this process: the engine with its scripted decoder, or a peer
//! that says what a test wants.

mod lives;
mod queries;
mod real;
mod talk;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use domain::{Backend, BackendError, ChatRequest, Reply, collect};
use tokio::io::DuplexStream;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

use super::launch::{Childlike, Death, Launch};
use super::remote::{Remote, RemoteDriver};
use super::tenant::Loaded;
use super::words::Job;
use crate::config::EngineConfig;
use crate::engine::{Engine, EngineDriver};
use crate::fake::sealed;
use crate::load::LoadError;

/// What a child does with its end of the stream.
type Life = Box<dyn FnOnce(DuplexStream) -> futures::future::BoxFuture<'static, Death> + Send>;

fn life<F>(run: impl FnOnce(DuplexStream) -> F + Send + 'static) -> Life
where
    F: Future<Output = Death> + Send + 'static,
{
    Box::new(|stream| Box::pin(run(stream)))
}

/// Starts tasks instead of processes: one planned life after the other.
#[derive(Clone, Default)]
struct Nursery {
    plan: Arc<Mutex<VecDeque<Life>>>,
    /// When each was launched.
    launched: Arc<Mutex<Vec<tokio::time::Instant>>>,
    running: Arc<Mutex<Option<AbortHandle>>>,
}

impl Nursery {
    fn of(lives: impl IntoIterator<Item = Life>) -> Self {
        let nursery = Self::default();
        nursery.plan.lock().unwrap().extend(lives);
        nursery
    }

    /// As `kill -9` from outside.
    fn kill(&self) {
        self.running.lock().unwrap().take().unwrap().abort();
    }

    fn launches(&self) -> usize {
        self.launched.lock().unwrap().len()
    }

    /// Milliseconds between one launch and the next.
    fn gaps(&self) -> Vec<u128> {
        let launched = self.launched.lock().unwrap();
        let gaps = launched.windows(2).map(|two| (two[1] - two[0]).as_millis());
        gaps.collect()
    }
}

struct Task {
    handle: JoinHandle<Death>,
}

impl Childlike for Task {
    async fn ended(&mut self) -> Death {
        (&mut self.handle).await.unwrap_or(Death::Signal(9))
    }

    fn kill(&mut self) {
        self.handle.abort();
    }

    fn id(&self) -> Option<u32> {
        None
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Launch for Nursery {
    type Stream = DuplexStream;
    type Child = Task;

    fn launch(&mut self) -> std::io::Result<(DuplexStream, Task)> {
        self.launched
            .lock()
            .unwrap()
            .push(tokio::time::Instant::now());
        let Some(life) = self.plan.lock().unwrap().pop_front() else {
            return Err(std::io::ErrorKind::OutOfMemory.into());
        };
        let (ours, theirs) = tokio::io::duplex(4096);
        let runtime = tokio::runtime::Handle::current();
        let handle = runtime.spawn(life(theirs));
        *self.running.lock().unwrap() = Some(handle.abort_handle());
        Ok((ours, Task { handle }))
    }
}

/// Loads models that chat, and no others.
fn chats(
    load: impl FnOnce(EngineConfig) -> Result<(Engine, EngineDriver), LoadError>,
) -> impl FnOnce(Job) -> Result<Loaded, LoadError> {
    |job| match job {
        Job::Chat(config) => load(config).map(|(engine, driver)| Loaded::Chat(engine, driver)),
        Job::Embed(_) | Job::Rank(_) => Err(LoadError::NotBuilt),
    }
}

/// A started handle, with its driver running.
struct Bench {
    remote: Remote,
    nursery: Nursery,
    driver: JoinSet<()>,
}

async fn start(config: EngineConfig, nursery: Nursery) -> Result<Bench, LoadError> {
    let (remote, driver) = Remote::start_with(config, nursery.clone()).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(RemoteDriver::run(driver));
    Ok(Bench {
        remote,
        nursery,
        driver: tasks,
    })
}

impl Bench {
    async fn ask(&self, request: ChatRequest) -> Result<Reply, BackendError> {
        collect(self.remote.chat(sealed(request)).await?).await
    }

    /// Told to stop, the driver ends.
    async fn stop(mut self) {
        self.remote.stop();
        self.driver.join_next().await.unwrap().unwrap();
    }
}
