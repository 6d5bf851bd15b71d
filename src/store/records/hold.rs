//! Who uses a file of records: nodes together, or one that moves what is in it, alone.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Held for as long as it lives.
#[derive(Debug)]
pub struct Hold {
    _lock: File,
}

impl Hold {
    /// As one of several who write the file called `name` in `dir`.
    ///
    /// # Errors
    /// `ResourceBusy`: somebody moves what is in it. Or it cannot be made.
    pub fn shared(dir: &Path, name: &str) -> io::Result<Self> {
        Self::of(dir, name, File::try_lock_shared)
    }

    /// As the only one.
    ///
    /// # Errors
    /// `ResourceBusy`: somebody writes it. Or it cannot be made.
    pub fn alone(dir: &Path, name: &str) -> io::Result<Self> {
        Self::of(dir, name, File::try_lock)
    }

    fn of(
        dir: &Path,
        name: &str,
        lock: impl Fn(&File) -> Result<(), TryLockError>,
    ) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(dir.join(name).with_extension("lock"))?;
        match lock(&file) {
            Ok(()) => Ok(Self { _lock: file }),
            Err(TryLockError::WouldBlock) => Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "another process has it",
            )),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}
