//! A file under way: what has come, its digest so far, and what a later pull needs to go on.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use hashing::Sha256;
use serde::{Deserialize, Serialize};

use crate::{PullError, Sha256Digest, digest};

/// Written beside the part: only the very same file may be continued.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Label {
    /// Without its query.
    pub(crate) source: String,
    /// A strong validator. Without one there is no going on.
    pub(crate) etag: String,
}

/// An open part. Bytes are hashed as they are written.
pub(crate) struct Part {
    path: PathBuf,
    file: File,
    hasher: Sha256,
    bytes: u64,
}

pub(crate) fn label_path(path: &Path) -> PathBuf {
    path.with_extension("part.toml")
}

impl Part {
    /// The part left by an earlier pull of `source`, with its label; hashes what is there. Blocks.
    pub(crate) fn resume(path: &Path, source: &str) -> Option<(Self, Label)> {
        let text = fs::read_to_string(label_path(path)).ok()?;
        let label: Label = toml::from_str(&text).ok()?;
        if label.source != source {
            return None;
        }
        let mut file = OpenOptions::new().read(true).append(true).open(path).ok()?;
        let mut hasher = Sha256::new();
        let bytes = digest::feed(&mut hasher, &mut file).ok()?;
        let part = Self {
            path: path.to_owned(),
            file,
            hasher,
            bytes,
        };
        (bytes > 0).then_some((part, label))
    }

    /// An empty part; whatever was there is gone.
    pub(crate) fn fresh(path: &Path, label: Option<&Label>) -> Result<Self, PullError> {
        let written = match label.map(toml::to_string) {
            Some(Ok(text)) => fs::write(label_path(path), text),
            Some(Err(_)) | None => {
                // A label left behind would describe another file.
                let _ = fs::remove_file(label_path(path));
                Ok(())
            }
        };
        written.map_err(PullError::write(path))?;
        let file = File::create(path).map_err(PullError::write(path))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            hasher: Sha256::new(),
            bytes: 0,
        })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Blocks.
    pub(crate) fn write(&mut self, chunk: &[u8]) -> Result<(), PullError> {
        self.file
            .write_all(chunk)
            .map_err(PullError::write(&self.path))?;
        self.hasher.update(chunk);
        self.bytes += chunk.len() as u64;
        Ok(())
    }

    /// All is there: on the disk for good. Blocks.
    pub(crate) fn finish(self) -> Result<Sha256Digest, PullError> {
        self.file.sync_all().map_err(PullError::write(&self.path))?;
        Ok(Sha256Digest::finish(self.hasher))
    }
}

/// Forgets a part.
pub(crate) fn discard(path: &Path) {
    // Best effort: a part that stays is looked at again by the next pull.
    let _ = fs::remove_file(path);
    let _ = fs::remove_file(label_path(path));
}
