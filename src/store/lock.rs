//! What one process has at a time.

use std::fs::{File, TryLockError};
use std::io;

/// Held for as long as it lives.
///
/// A child of this process has every file of it open until its own program begins, so that to close
/// one gives back nothing for that moment: it is given back by word.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// As the only one.
    ///
    /// # Errors
    /// Somebody has it, or it cannot be had.
    pub fn alone(file: File) -> Result<Self, TryLockError> {
        file.try_lock()?;
        Ok(Self(file))
    }

    /// As one of several.
    ///
    /// # Errors
    /// Somebody has it alone, or it cannot be had.
    pub fn shared(file: File) -> Result<Self, TryLockError> {
        file.try_lock_shared()?;
        Ok(Self(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // What cannot be given back by word is when the last who has it closes it.
        let _: io::Result<()> = self.0.unlock();
    }
}

/// `ResourceBusy` with `words` where somebody has it.
pub(crate) fn busy(error: TryLockError, words: &'static str) -> io::Error {
    match error {
        TryLockError::WouldBlock => io::Error::new(io::ErrorKind::ResourceBusy, words),
        TryLockError::Error(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::own_files::make_file;

    #[test]
    fn what_a_child_has_open_as_well_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = Lock::alone(make_file(&path).unwrap()).unwrap();
        // As a child has it that begins now.
        let inherited = lock.0.try_clone().unwrap();
        assert!(matches!(
            Lock::shared(make_file(&path).unwrap()),
            Err(TryLockError::WouldBlock)
        ));
        drop(lock);
        let again = Lock::alone(make_file(&path).unwrap());
        assert!(again.is_ok(), "{again:?}");
        drop(inherited);
    }
}
