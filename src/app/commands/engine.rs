//! `hedge engine`: one model, for the `hedge serve` that started this process.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use engine::{Job, LoadError, Loaded};
use tokio::signal::unix::{SignalKind, signal};

use crate::{embedder, local, telemetry};

/// For a load under way that nobody waits for any more.
const LEAVE_MAX: Duration = Duration::from_millis(100);

/// Serves the process at the other end of standard input until that says stop or is gone.
///
/// # Errors
/// Standard input is no socket, or what comes over it is not understood.
pub fn engine(log: &str) -> anyhow::Result<ExitCode> {
    telemetry::start_in_child(log);
    let stream = socket().context("this command is for `hedge serve` to start")?;
    leave_with_parent();
    // The thread that computes is the engine's own; this one only carries events.
    let runtime = super::runtime()?;
    let served = runtime.block_on(async {
        // Told to whole groups of processes by terminals and supervisors. The parent hears them
        // too, and stops this process when its replies have ended.
        let mut held = Vec::new();
        for kind in [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ] {
            held.push(signal(kind)?);
        }
        let stream = tokio::net::UnixStream::from_std(stream)?;
        engine::serve(stream, load).await?;
        anyhow::Ok(())
    });
    runtime.shutdown_timeout(LEAVE_MAX);
    served.map(|()| ExitCode::SUCCESS)
}

/// The model that the parent wants.
fn load(job: Job) -> Result<Loaded, LoadError> {
    match job {
        Job::Chat(config) => {
            local::load(config).map(|(engine, driver)| Loaded::Chat(engine, driver))
        }
        Job::Embed(config) => embedder::load_embedder(config)
            .map(|(embedder, driver)| Loaded::Embed(embedder, driver)),
        Job::Rank(config) => {
            embedder::load_reranker(config).map(|(reranker, driver)| Loaded::Rank(reranker, driver))
        }
    }
}

/// Standard input, which the parent made one end of a socket.
fn socket() -> io::Result<UnixStream> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // Fails for anything else.
    stream.local_addr()?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// The end of the socket says the same; this also ends a process that hangs in a driver. And no
/// core is written, which for a large model takes minutes in which its callers would wait.
#[cfg(target_os = "linux")]
fn leave_with_parent() {
    use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};

    // Neither is needed for anything to work. A limit of 1, unlike 0, also holds for cores that
    // are written by a program of the system's.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    let limit = Rlimit {
        current: Some(1),
        maximum: Some(1),
    };
    let _ = setrlimit(Resource::Core, limit);
}

#[cfg(not(target_os = "linux"))]
fn leave_with_parent() {}
