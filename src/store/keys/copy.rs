//! What Postgres was last heard to have, in a file of the node's own: to start from while it is away.

use std::io;
use std::path::PathBuf;

use super::file::{KeyFile, KeyFileError};
use super::kept::{KeyFault, KeyPlace, KeyRow, Rows};

/// The folder of the copy. Another process cannot have it.
#[derive(Debug)]
pub struct KeyCopy {
    dir: PathBuf,
    /// `None` before it was needed, and after it could not be written.
    file: Option<KeyFile>,
}

impl KeyCopy {
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, file: None }
    }

    #[must_use]
    pub fn dir(&self) -> &PathBuf {
        &self.dir
    }

    /// `None` where none was ever kept.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn load(&mut self) -> Result<Option<Rows>, KeyFault> {
        if !KeyFile::is_in(&self.dir) {
            return Ok(None);
        }
        // Its secret is there, or else it is refused.
        let mut file = KeyFile::open(&self.dir, [0; 32]).await?;
        let rows = file.load().await?;
        self.file = Some(file);
        Ok(Some(rows))
    }

    /// Puts `rows` in place of what it has. One that cannot be used is made anew: it is a copy.
    ///
    /// # Errors
    /// The disk's, or another process has it.
    pub async fn keep(&mut self, rows: &Rows) -> Result<(), KeyFileError> {
        let kept = self.try_keep(rows).await;
        let is_useless = matches!(
            kept,
            Err(KeyFileError::OtherSecret | KeyFileError::NoSecret(_) | KeyFileError::Damaged)
        );
        if !is_useless {
            return kept;
        }
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(KeyFileError::Folder(error));
            }
            Ok(()) | Err(_) => {}
        }
        self.try_keep(rows).await
    }

    async fn try_keep(&mut self, rows: &Rows) -> Result<(), KeyFileError> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => KeyFile::open(&self.dir, rows.secret.bytes()).await?,
        };
        file.replace(rows).await?;
        self.file = Some(file);
        Ok(())
    }

    /// Writes what this node changed itself, where there is a copy. Without one the next that is heard
    /// makes it.
    ///
    /// # Errors
    /// As of [`KeyCopy::keep`].
    pub async fn write(&mut self, row: &KeyRow) -> Result<(), KeyFault> {
        if let Some(mut file) = self.file.take() {
            file.commit(row).await?;
            self.file = Some(file);
        }
        Ok(())
    }

    pub async fn close(&mut self) {
        if let Some(file) = self.file.take() {
            file.close().await;
        }
    }
}
