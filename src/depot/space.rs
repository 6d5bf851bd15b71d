//! Room on the disk.

use std::path::Path;

use sysinfo::Disks;

/// Bytes left free after a pull, for everybody else on the disk.
pub(crate) const RESERVE_BYTES: u64 = 256 * 1024 * 1024;

/// Bytes a user may still write where `dir` lies; `None` where the system does not say.
pub(crate) fn available(dir: &Path) -> Option<u64> {
    let dir = dir.canonicalize().ok()?;
    let disks = Disks::new_with_refreshed_list().ok()?;
    disks
        .iter()
        .filter(|disk| dir.starts_with(disk.mount_point()))
        .max_by_key(|disk| disk.mount_point().as_os_str().len())
        .map(sysinfo::Disk::available_space)
}
