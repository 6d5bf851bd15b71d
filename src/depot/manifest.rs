//! The list of models: one TOML file, replaced whole.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{DepotError, Sha256Digest};

/// Largest manifest read.
const MANIFEST_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// All entries of a depot, in the order they came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    #[serde(default)]
    pub models: Vec<Entry>,
}

/// One model file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub name: String,
    /// Relative to the manifest.
    pub file: PathBuf,
    /// Left out while the file is being made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Where it came from: `hf:ORG/REPO:FILE`, an address, or `import`.
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulled_at_s: Option<u64>,
}

impl Manifest {
    /// An absent file is an empty manifest.
    ///
    /// # Errors
    /// The file cannot be read, or is no manifest.
    pub fn read(path: &Path) -> Result<Self, DepotError> {
        let damaged = |reason: String| DepotError::Manifest {
            path: path.to_owned(),
            reason,
        };
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(DepotError::io(path)(error)),
        };
        if metadata.len() > MANIFEST_BYTES_MAX {
            return Err(damaged("it is far too large".into()));
        }
        let text = fs::read_to_string(path).map_err(DepotError::io(path))?;
        toml::from_str(&text)
            .map_err(|error| damaged(error.message().lines().collect::<Vec<_>>().join("; ")))
    }

    /// Replaces the file in one step.
    pub(crate) fn write(&self, path: &Path) -> Result<(), DepotError> {
        let text = toml::to_string_pretty(self).map_err(|error| DepotError::Manifest {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        let fresh = path.with_extension("toml.tmp");
        let mut file = fs::File::create(&fresh).map_err(DepotError::io(&fresh))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&fresh, path))
            .map_err(DepotError::io(path))
    }

    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.models.iter().find(|entry| entry.name == name)
    }
}
