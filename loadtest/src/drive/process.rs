//! What a process and its children have used, read from `/proc`. Linux only.

use std::fs;
use std::io;
use std::time::Duration;

/// The kernel reports processor time in ticks of `USER_HZ`, which is 100 on every Linux that Rust
/// has a std for (proc(5), fields 14 to 17 of `stat`).
const TICKS_PER_S: u64 = 100;

/// Processor time since the process began, memory now, and the most it was since [`Usage::forget_most`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu: Duration,
    pub rss_bytes: u64,
    pub rss_bytes_most: u64,
}

impl Usage {
    /// Of the process and its children.
    ///
    /// # Errors
    /// The process has ended, or `/proc` is not there.
    pub fn of(pid: u32) -> io::Result<Usage> {
        let mut total = Usage::of_one(pid)?;
        if total.rss_bytes == 0 {
            return Err(io::Error::other("the process has ended"));
        }
        for child in family(pid).into_iter().skip(1) {
            let Some(used) = unless_gone(Usage::of_one(child))? else {
                continue;
            };
            total.cpu += used.cpu;
            total.rss_bytes += used.rss_bytes;
            total.rss_bytes_most += used.rss_bytes_most;
        }
        Ok(total)
    }

    /// One that has ended and was not waited for has no memory. The time of those that were is among
    /// their parent's.
    fn of_one(pid: u32) -> io::Result<Usage> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let rss_bytes = |name| kib(&status, name).unwrap_or(0) * 1024;
        let ticks = cpu_ticks(&stat).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Usage {
            cpu: Duration::from_millis(ticks * 1000 / TICKS_PER_S),
            rss_bytes: rss_bytes("VmRSS:"),
            rss_bytes_most: rss_bytes("VmHWM:"),
        })
    }

    /// Lets the most memory that the process and its children had be what they have now (proc(5),
    /// `clear_refs`).
    ///
    /// # Errors
    /// The process has ended, or is another user's.
    pub fn forget_most(pid: u32) -> io::Result<()> {
        let forget = |pid| fs::write(format!("/proc/{pid}/clear_refs"), "5");
        for child in family(pid).into_iter().skip(1) {
            unless_gone(forget(child))?;
        }
        forget(pid)
    }
}

/// `None` of a child that has ended meanwhile (proc(5): ENOENT, ESRCH).
fn unless_gone<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    const ESRCH: i32 = 3;
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The process and its direct children, whichever of its threads started them (proc(5), `children`).
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let threads = threads.into_iter().flatten().flatten();
    let mut children: Vec<u32> = threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|children| {
            let pids = children.split_whitespace().map(str::parse);
            pids.flatten().collect::<Vec<u32>>()
        })
        .collect();
    children.sort_unstable();
    std::iter::once(pid).chain(children).collect()
}

/// User and system time, and those of children that were waited for. The second field is a name in
/// brackets that may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields = rest.split(' ').skip(11).take(4);
    fields.map(|ticks| ticks.parse::<u64>().ok()).sum()
}

fn kib(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194304 100 0 0 0 7 5 2 1 20 0 1 0 1 1 1";
        assert_eq!(cpu_ticks(stat), Some(15));
    }

    #[test]
    fn children_of_all_threads_are_seen() {
        let start = || Command::new("sleep").arg("60").spawn().unwrap();
        let mut ours = vec![start(), std::thread::spawn(start).join().unwrap()];
        let ended = std::sync::mpsc::sync_channel::<()>(1);
        let living = std::thread::spawn(move || {
            let child = start();
            let _until = ended.1.recv_timeout(std::time::Duration::from_secs(1));
            child
        });
        std::thread::sleep(std::time::Duration::from_millis(200));
        let found = family(std::process::id());
        drop(ended.0);
        ours.push(living.join().unwrap());
        let all_found = ours.iter().all(|it| found.contains(&it.id()));
        for child in &mut ours {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(all_found, "{found:?}");
    }

    #[test]
    fn this_process_uses_memory() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.rss_bytes > 100_000, "{usage:?}");
    }

    #[test]
    fn a_child_that_ended_and_was_not_waited_for_is_no_error() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 0.2 & echo; exec sleep 60"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        shell.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        let is_zombie = |pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.contains(") Z ")
        };
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while !family(shell.id()).iter().any(is_zombie) {
            assert!(std::time::Instant::now() < until, "the child did not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let (usage, forgotten) = (Usage::of(shell.id()), Usage::forget_most(shell.id()));
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert!(usage.unwrap().rss_bytes > 0);
        forgotten.unwrap();
        assert!(Usage::of(shell.id()).is_err());
    }

    /// Of a process of its own: other tests of this one use memory meanwhile.
    #[test]
    fn the_most_is_forgotten() {
        let grow = "x = bytearray(1 << 26); del x; print(flush=True); input()";
        let mut child = Command::new("python3")
            .args(["-c", grow])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        let before = Usage::of(child.id()).unwrap();
        Usage::forget_most(child.id()).unwrap();
        let after = Usage::of(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            before.rss_bytes_most >= before.rss_bytes + (1 << 25),
            "{before:?}"
        );
        assert!(
            after.rss_bytes_most < before.rss_bytes_most - (1 << 25),
            "{after:?}"
        );
    }
}
