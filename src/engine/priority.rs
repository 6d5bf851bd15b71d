//! The threads that compute before others, where the system allows it.
//!
//! A computation waits for its slowest thread, so it loses more to a neighbour on its core than the
//! neighbour gains. In a process of its own the engine's thread therefore asks to be [`STEPS`] nicer
//! to itself than that process is. Linux keeps a niceness for each thread, and those that compute
//! inherit it from the one that starts them, so the threads that talk to the proxy stay as they are.
//!
//! Only a process with `CAP_SYS_NICE`, or under a raised `RLIMIT_NICE`, is allowed to; all others go
//! on as before. Where processes are grouped by session (`/proc/self/autogroup`) or by control
//! group, it tells only against those of the same group. Nothing else is changed, least of all a
//! real-time class, under which a thread that hangs would take the machine with it.

#[cfg(target_os = "linux")]
use rustix::process::{getpriority_process, setpriority_process};
#[cfg(target_os = "linux")]
use tracing::{debug, info};

/// Each step is worth a quarter more of a contended core: these five, three times as much.
#[cfg(target_os = "linux")]
const STEPS: i32 = 5;

/// Raises the calling thread's priority, if it may.
#[cfg(target_os = "linux")]
pub(crate) fn raise() {
    let raised = getpriority_process(None).and_then(|nice| {
        let wanted = nice.saturating_sub(STEPS).max(-20);
        setpriority_process(None, wanted).map(|()| wanted)
    });
    match raised {
        Ok(nice) => info!(nice, "the engine's threads come before others"),
        Err(error) => debug!(%error, "the engine's threads have no priority over others"),
    }
}

/// Elsewhere it would be the whole process's.
#[cfg(not(target_os = "linux"))]
pub(crate) fn raise() {}
