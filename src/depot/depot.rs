//! The folder of model files.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::gguf::{self, GgufSummary};
use crate::manifest::{Entry, Manifest};
use crate::source::is_name;
use crate::{DepotError, Sha256Digest, space};

const MANIFEST: &str = "manifest.toml";
const LOCK: &str = "manifest.lock";

/// Model files and their manifest in one folder. Several processes may use it at once; changes of
/// the manifest are serialised by a lock on a file beside it.
pub struct Depot {
    dir: PathBuf,
    pub(crate) available: fn(&Path) -> Option<u64>,
}

impl fmt::Debug for Depot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Depot")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

/// A model about to enter: its file is complete and checked, under a temporary name.
pub(crate) struct Arrival {
    pub(crate) name: String,
    pub(crate) staged: PathBuf,
    pub(crate) sha256: Sha256Digest,
    pub(crate) source: String,
    pub(crate) licence: Option<String>,
    pub(crate) summary: GgufSummary,
}

impl Depot {
    /// The folder need not exist; it is made when something enters.
    #[must_use]
    pub fn open(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            available: space::available,
        }
    }

    /// With another idea of how much room there is.
    #[must_use]
    pub fn with_space(mut self, available: fn(&Path) -> Option<u64>) -> Self {
        self.available = available;
        self
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Every model, in the order they came.
    ///
    /// # Errors
    /// The manifest cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>, DepotError> {
        Ok(Manifest::read(&self.manifest_path())?.models)
    }

    /// The file of the model called `name`.
    ///
    /// # Errors
    /// There is none of that name, or its file is gone.
    pub fn find(&self, name: &str) -> Result<PathBuf, DepotError> {
        let manifest = Manifest::read(&self.manifest_path())?;
        let Some(entry) = manifest.find(name) else {
            return Err(unknown(&manifest, name));
        };
        let path = self.dir.join(&entry.file);
        match fs::metadata(&path) {
            Ok(_) => Ok(path),
            Err(error) => Err(DepotError::io(path)(error)),
        }
    }

    /// Adds a file of this machine: linked where the disk allows it, else copied. Blocks.
    ///
    /// # Errors
    /// The file is no usable model, the name is taken, or the depot cannot be written to.
    pub fn import(&self, file: &Path, name: Option<&str>) -> Result<Entry, DepotError> {
        let name = match name {
            Some(name) => name.to_owned(),
            None => crate::Source::model_name(
                file.file_name()
                    .and_then(|name| name.to_str())
                    .unwrap_or(""),
            ),
        };
        check_name(&name)?;
        gguf::inspect_any(file)?;
        self.make_dir()?;
        let staged = self.dir.join(format!("{name}.{}.tmp", std::process::id()));
        let entered = self.stage(file, &staged).and_then(|(sha256, summary)| {
            self.enter(Arrival {
                name,
                staged: staged.clone(),
                sha256,
                source: "import".into(),
                licence: summary.licence.clone(),
                summary,
            })
        });
        if entered.is_err() {
            // Best effort; the fault to report is the one above.
            let _ = fs::remove_file(&staged);
        }
        entered
    }

    /// Digest and header are those of the staged file, whatever happens to the original meanwhile.
    fn stage(&self, file: &Path, staged: &Path) -> Result<(Sha256Digest, GgufSummary), DepotError> {
        if fs::hard_link(file, staged).is_err() {
            fs::copy(file, staged).map_err(DepotError::io(staged))?;
        }
        let sha256 = Sha256Digest::of_file(staged).map_err(DepotError::io(staged))?;
        Ok((sha256, gguf::inspect_any(staged)?))
    }

    /// Removes the model called `name`, its file first.
    ///
    /// # Errors
    /// There is none of that name, or its file cannot be removed.
    pub fn remove(&self, name: &str) -> Result<Entry, DepotError> {
        if !self.dir.exists() {
            return Err(unknown(&Manifest::default(), name));
        }
        let _lock = self.lock()?;
        let mut manifest = Manifest::read(&self.manifest_path())?;
        let Some(at) = manifest.models.iter().position(|entry| entry.name == name) else {
            return Err(unknown(&manifest, name));
        };
        let entry = manifest.models.remove(at);
        let path = self.dir.join(&entry.file);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(DepotError::io(path)(error)),
        }
        manifest.write(&self.manifest_path())?;
        Ok(entry)
    }

    /// Renames the staged file into place and lists it. A model that is here already under the same
    /// name and digest is left as it is.
    pub(crate) fn enter(&self, arrival: Arrival) -> Result<Entry, DepotError> {
        let _lock = self.lock()?;
        let mut manifest = Manifest::read(&self.manifest_path())?;
        let file = PathBuf::from(format!("{}.gguf", arrival.name));
        let path = self.dir.join(&file);
        let known = manifest.find(&arrival.name).cloned();
        if let Some(known) = &known
            && known.sha256 != Some(arrival.sha256)
            && path.exists()
        {
            return Err(DepotError::NameTaken(arrival.name));
        }
        fs::rename(&arrival.staged, &path).map_err(DepotError::io(&path))?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let entry = Entry {
            name: arrival.name,
            file,
            sha256: Some(arrival.sha256),
            bytes: Some(arrival.summary.bytes),
            source: arrival.source,
            licence: arrival.licence.or(arrival.summary.licence),
            architecture: Some(arrival.summary.architecture),
            pulled_at_s: Some(now.as_secs()),
        };
        manifest.models.retain(|known| known.name != entry.name);
        manifest.models.push(entry.clone());
        manifest.write(&self.manifest_path())?;
        Ok(entry)
    }

    pub(crate) fn make_dir(&self) -> Result<(), DepotError> {
        fs::create_dir_all(&self.dir).map_err(DepotError::io(&self.dir))
    }

    fn manifest_path(&self) -> PathBuf {
        self.dir.join(MANIFEST)
    }

    /// Held until dropped. The system frees it when the process dies.
    fn lock(&self) -> Result<File, DepotError> {
        let path = self.dir.join(LOCK);
        let file = File::create(&path).map_err(DepotError::io(&path))?;
        file.lock().map_err(DepotError::io(&path))?;
        Ok(file)
    }
}

pub(crate) fn check_name(name: &str) -> Result<(), DepotError> {
    if is_name(name) {
        Ok(())
    } else {
        Err(DepotError::Name(name.to_owned()))
    }
}

fn unknown(manifest: &Manifest, name: &str) -> DepotError {
    let wanted = name.to_ascii_lowercase();
    let nearest = manifest.models.iter().find(|entry| {
        let known = entry.name.to_ascii_lowercase();
        known.contains(&wanted) || wanted.contains(&known)
    });
    DepotError::Unknown {
        name: name.to_owned(),
        nearest: nearest.map(|entry| entry.name.clone()),
    }
}

#[cfg(test)]
mod tests;
