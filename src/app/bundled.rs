//! The models inside the binary, and paths to them for llama.cpp, which reads files only.

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

/// Whether this binary was built with an encoder in it.
#[must_use]
pub fn has_encoder() -> bool {
    !ENCODER.is_empty()
}

/// True when the file at `path` is the bundled model, whatever it is called.
#[must_use]
pub fn is_at(path: &Path) -> bool {
    holds(path, MODEL)
}

/// True when the file at `path` is the bundled encoder, whatever it is called.
#[must_use]
pub fn is_encoder_at(path: &Path) -> bool {
    holds(path, ENCODER)
}

fn holds(path: &Path, model: &[u8]) -> bool {
    let is_as_long = fs::metadata(path).is_ok_and(|file| file.len() == model.len() as u64);
    !model.is_empty() && is_as_long && fs::read(path).is_ok_and(|bytes| bytes == model)
}

/// A path to the bundled model: `data_dir/bundled/SHA256.gguf`; where the data directory cannot be
/// written to, a file in the temporary one; and where nothing can be written at all, as in a
/// container with a read-only root, memory with a path of its own. A file is written once and
/// checked each time, so that a damaged copy is replaced.
///
/// # Errors
/// None of the places can be had.
pub fn materialise(data_dir: &Path) -> io::Result<PathBuf> {
    materialise_bytes(data_dir, MODEL)
}

/// The same for the bundled encoder.
///
/// # Errors
/// As there.
pub fn materialise_encoder(data_dir: &Path) -> io::Result<PathBuf> {
    materialise_bytes(data_dir, ENCODER)
}

fn materialise_bytes(data_dir: &Path, model: &'static [u8]) -> io::Result<PathBuf> {
    let digest = Sha256Digest::of(model);
    let name = format!("{digest}.gguf");
    place(&data_dir.join("bundled"), &name, &digest, model)
        .or_else(|_| {
            let dir = std::env::temp_dir().join("hedge-bundled");
            place(&dir, &name, &digest, model)
        })
        .or_else(|_| in_memory(model))
}

/// A file that is only memory, reached through this process's own descriptors.
#[cfg(target_os = "linux")]
fn in_memory(model: &[u8]) -> io::Result<PathBuf> {
    use std::os::fd::AsRawFd;
    use std::sync::{Mutex, PoisonError};

    use rustix::fs::{MemfdFlags, memfd_create};

    /// Open for as long as the process lives, and with them the paths: one for each model.
    static HELD: Mutex<Vec<fs::File>> = Mutex::new(Vec::new());

    let mut file = fs::File::from(memfd_create("hedge-bundled.gguf", MemfdFlags::CLOEXEC)?);
    file.write_all(model)?;
    let descriptor = file.as_raw_fd();
    HELD.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(file);
    // By number, so that an engine's process finds it too.
    let process = std::process::id();
    Ok(PathBuf::from(format!("/proc/{process}/fd/{descriptor}")))
}

#[cfg(not(target_os = "linux"))]
fn in_memory(_model: &[u8]) -> io::Result<PathBuf> {
    Err(io::ErrorKind::Unsupported.into())
}

fn place(dir: &Path, name: &str, digest: &Sha256Digest, model: &[u8]) -> io::Result<PathBuf> {
    let path = dir.join(name);
    if fs::read(&path).is_ok_and(|bytes| Sha256Digest::of(&bytes) == *digest) {
        return Ok(path);
    }
    fs::create_dir_all(dir)?;
    // Two nodes may start at once: each writes a file of its own, and the rename is atomic.
    let part = dir.join(format!("{name}.{}.tmp", std::process::id()));
    let written = write(&part, model).and_then(|()| fs::rename(&part, &path));
    if written.is_err() {
        // Best effort; the fault to report is the one above.
        let _ = fs::remove_file(&part);
    }
    written.map(|()| path)
}

fn write(part: &Path, model: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(part)?;
    file.write_all(model)?;
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
        let path = in_memory(MODEL).unwrap();
        assert_eq!(fs::read(path).unwrap(), MODEL);
    }
}
