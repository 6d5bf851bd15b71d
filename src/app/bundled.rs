//! The model inside the binary, and a path to it for llama.cpp, which reads files only.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use depot::Sha256Digest;

include!(concat!(env!("OUT_DIR"), "/bundled.rs"));

/// What callers name it, unless configured otherwise.
pub const NAME: &str = "hedge-tiny";

/// Whether this binary was built with a model in it.
#[must_use]
pub fn is_present() -> bool {
    !MODEL.is_empty()
}

/// True when the file at `path` is the bundled model, whatever it is called.
#[must_use]
pub fn is_at(path: &Path) -> bool {
    let is_as_long = fs::metadata(path).is_ok_and(|file| file.len() == MODEL.len() as u64);
    is_present() && is_as_long && fs::read(path).is_ok_and(|bytes| bytes == MODEL)
}

/// A path to the bundled model: `data_dir/bundled/SHA256.gguf`; where the data directory cannot be
/// written to, a file in the temporary one; and where nothing can be written at all, as in a
/// container with a read-only root, memory with a path of its own. A file is written once and
/// checked each time, so that a damaged copy is replaced.
///
/// # Errors
/// None of the places can be had.
pub fn materialise(data_dir: &Path) -> io::Result<PathBuf> {
    let digest = Sha256Digest::of(MODEL);
    let name = format!("{digest}.gguf");
    place(&data_dir.join("bundled"), &name, &digest)
        .or_else(|_| place(&std::env::temp_dir().join("hedge-bundled"), &name, &digest))
        .or_else(|_| in_memory())
}

/// A file that is only memory, reached through this process's own descriptors.
#[cfg(target_os = "linux")]
fn in_memory() -> io::Result<PathBuf> {
    use std::os::fd::AsRawFd;
    use std::sync::OnceLock;

    use rustix::fs::{MemfdFlags, memfd_create};

    /// Open for as long as the process lives, and with it the path.
    static HELD: OnceLock<fs::File> = OnceLock::new();

    let mut file = fs::File::from(memfd_create("hedge-tiny.gguf", MemfdFlags::CLOEXEC)?);
    file.write_all(MODEL)?;
    let held = HELD.get_or_init(|| file);
    // By number, so that an engine's process finds it too.
    let (process, file) = (std::process::id(), held.as_raw_fd());
    Ok(PathBuf::from(format!("/proc/{process}/fd/{file}")))
}

#[cfg(not(target_os = "linux"))]
fn in_memory() -> io::Result<PathBuf> {
    Err(io::ErrorKind::Unsupported.into())
}

fn place(dir: &Path, name: &str, digest: &Sha256Digest) -> io::Result<PathBuf> {
    let path = dir.join(name);
    if fs::read(&path).is_ok_and(|bytes| Sha256Digest::of(&bytes) == *digest) {
        return Ok(path);
    }
    fs::create_dir_all(dir)?;
    // Two nodes may start at once: each writes a file of its own, and the rename is atomic.
    let part = dir.join(format!("{name}.{}.tmp", std::process::id()));
    let written = write(&part).and_then(|()| fs::rename(&part, &path));
    if written.is_err() {
        // Best effort; the fault to report is the one above.
        let _ = fs::remove_file(&part);
    }
    written.map(|()| path)
}

fn write(part: &Path) -> io::Result<()> {
    let mut file = fs::File::create(part)?;
    file.write_all(MODEL)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_copy_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = materialise(dir.path()).unwrap();
        assert!(path.starts_with(dir.path()));
        fs::write(&path, b"damaged").unwrap();
        assert_eq!(materialise(dir.path()).unwrap(), path);
        assert_eq!(fs::read(&path).unwrap(), MODEL);
    }

    #[test]
    fn a_read_only_data_directory_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        // A file where the folder should be fails for every user, root included.
        let blocked = dir.path().join("data");
        fs::write(&blocked, b"").unwrap();
        let path = materialise(&blocked).unwrap();
        assert_eq!(fs::read(path).unwrap(), MODEL);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn where_nothing_can_be_written_memory_has_a_path() {
        let path = in_memory().unwrap();
        assert_eq!(fs::read(path).unwrap(), MODEL);
    }
}
