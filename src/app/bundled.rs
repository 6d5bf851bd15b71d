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

/// A file with the bundled model: `data_dir/bundled/SHA256.gguf`, else in the temporary folder where
/// the data directory cannot be written to, as in a container with a read-only root. Written once
/// and checked each time, so that a damaged copy is replaced.
///
/// # Errors
/// Neither place can be written to.
pub fn materialise(data_dir: &Path) -> io::Result<PathBuf> {
    let digest = Sha256Digest::of(MODEL);
    let name = format!("{digest}.gguf");
    let first = place(&data_dir.join("bundled"), &name, &digest);
    first.or_else(|_| place(&std::env::temp_dir().join("hedge-bundled"), &name, &digest))
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
}
