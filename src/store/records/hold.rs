//! Who uses a file of records: nodes together, or one that moves what is in it, alone.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use crate::lock::{Lock, busy};
use crate::own_files::{make_dir, make_file};

/// Held for as long as it lives.
#[derive(Debug)]
pub struct Hold {
    _lock: Lock,
}

impl Hold {
    /// As one of several who write the file called `name` in `dir`.
    ///
    /// # Errors
    /// `ResourceBusy`: somebody moves what is in it. Or it cannot be made.
    pub fn shared(dir: &Path, name: &str) -> io::Result<Self> {
        Self::of(dir, name, Lock::shared)
    }

    /// As the only one.
    ///
    /// # Errors
    /// `ResourceBusy`: somebody writes it. Or it cannot be made.
    pub fn alone(dir: &Path, name: &str) -> io::Result<Self> {
        Self::of(dir, name, Lock::alone)
    }

    fn of(
        dir: &Path,
        name: &str,
        lock: impl Fn(File) -> Result<Lock, TryLockError>,
    ) -> io::Result<Self> {
        make_dir(dir)?;
        let file = make_file(&dir.join(name).with_extension("lock"))?;
        let lock = lock(file).map_err(|error| busy(error, "another process has it"))?;
        Ok(Self { _lock: lock })
    }
}
