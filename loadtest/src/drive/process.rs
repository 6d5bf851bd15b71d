//! What a process and its children have used, read from `/proc`. Linux only.

use std::fs;
use std::io;
use std::time::Duration;

/// The kernel reports processor time in ticks of `USER_HZ`, which is 100 on every Linux that Rust
/// has a std for (proc(5), fields 14 and 15 of `stat`).
const TICKS_PER_S: u64 = 100;

/// Processor time since the process began, and memory now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu: Duration,
    pub rss_bytes: u64,
}

impl Usage {
    /// Of the process and its children.
    ///
    /// # Errors
    /// The process has ended, or `/proc` is not there.
    pub fn of(pid: u32) -> io::Result<Usage> {
        let mut total = Usage::default();
        for pid in family(pid) {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let (Some(ticks), Some(kib)) = (cpu_ticks(&stat), rss_kib(&status)) else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            total.cpu += Duration::from_millis(ticks * 1000 / TICKS_PER_S);
            total.rss_bytes += kib * 1024;
        }
        Ok(total)
    }
}

/// The process and its direct children.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let children =
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok());
    std::iter::once(pid).chain(children).collect()
}

/// User and system time. The second field is a name in brackets that may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn rss_kib(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194304 100 0 0 0 7 5 0 0 20 0 1 0 1 1 1";
        assert_eq!(cpu_ticks(stat), Some(12));
    }

    #[test]
    fn this_process_uses_memory() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.rss_bytes > 100_000, "{usage:?}");
    }
}
