//! Memory as the system has it: what is free for models, and what a process has taken.

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// What models may have of the memory that is free, in tenths. The rest is for replies under way,
/// the cache, and whoever else runs here.
const BUDGET_TENTHS: u64 = 9;

/// Bytes that are free for use; `None` where the system does not say. Within a control group, no more
/// than its limit leaves.
#[must_use]
pub fn available_bytes() -> Option<u64> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    let free = system.available_memory();
    let own = Pid::from_u32(std::process::id());
    let group = process(&mut system, own).and_then(sysinfo::Process::cgroup_limits);
    Some(match group {
        // Files that were read count for a group, and give way when memory is needed.
        Some(group) => free.min(group.total_memory.saturating_sub(group.rss)),
        None => free,
    })
}

/// The budget where nobody set one.
#[must_use]
pub fn budget_bytes_default() -> u64 {
    available_bytes().map_or(u64::MAX, |free| free / 10 * BUDGET_TENTHS)
}

/// Bytes of the process that are in memory, files it maps included; `None` where it is gone, or the
/// system is none that says so in a file.
#[must_use]
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes.saturating_mul(1024))
}

fn process(system: &mut System, pid: Pid) -> Option<&sysinfo::Process> {
    let what = ProcessRefreshKind::nothing().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, what);
    system.process(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_some_memory_and_leaves_some() {
        let ours = resident_bytes(std::process::id()).unwrap();
        assert!(ours > 1024 * 1024, "{ours}");
        let free = available_bytes().unwrap();
        assert!(free > 0);
        assert_eq!(resident_bytes(u32::MAX), None);
    }
}
