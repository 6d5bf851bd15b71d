//! Why a model file is not there.

use std::io;
use std::path::PathBuf;

use crate::Sha256Digest;
use crate::gguf::GgufFault;

/// A depot could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DepotError {
    #[error("cannot use {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the manifest {} is damaged: {reason}", path.display())]
    Manifest { path: PathBuf, reason: String },
    #[error("there is no model called `{name}`{}", nearest_hint(nearest.as_deref()))]
    Unknown {
        name: String,
        nearest: Option<String>,
    },
    #[error("`{0}` cannot name a model; use letters, digits, `.`, `_` and `-`")]
    Name(String),
    #[error("`{0}` names another model already; choose a name with --name, or remove that one")]
    NameTaken(String),
    #[error(transparent)]
    Gguf(#[from] GgufFault),
}

fn nearest_hint(nearest: Option<&str>) -> String {
    nearest.map_or(String::new(), |name| format!("; did you mean `{name}`?"))
}

impl DepotError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// A pull did not end with a model. What was received stays where a later pull goes on from, unless
/// it was wrong.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Depot(#[from] DepotError),
    #[error("`{host}` cannot be reached: {reason}")]
    Unreachable { host: String, reason: &'static str },
    #[error("there is nothing at that address (404); look at the names of repository and file")]
    NotFound,
    #[error(
        "access is refused ({status}); accept the model's terms on its page and set HF_TOKEN to a \
         token that may read it"
    )]
    Refused { status: u16 },
    #[error("the server answered with status {status}")]
    Status { status: u16 },
    #[error("the redirect leads to no https address, or in circles")]
    Redirect,
    #[error("`{repo}` holds no GGUF file; look for a repository whose name ends in -GGUF")]
    NoGguf { repo: String },
    #[error("`{repo}` holds several; name one as {repo}:FILE:\n  {}", files.join("\n  "))]
    Choices { repo: String, files: Vec<String> },
    #[error("the hub's listing cannot be read")]
    Listing,
    #[error(
        "the transfer broke off after {received} bytes{}; run the same command to go on",
        of_total(*total)
    )]
    Interrupted { received: u64, total: Option<u64> },
    #[error("what arrives is no GGUF file but something that begins otherwise")]
    NotGguf,
    #[error("the file's digest is {found} and should be {expected}; it was thrown away")]
    Digest {
        expected: Sha256Digest,
        found: Sha256Digest,
    },
    #[error(
        "the disk has {available} bytes left and {needed} are needed, beside a reserve of \
         {reserve}; make room or set depot.dir to another disk"
    )]
    NoSpace {
        needed: u64,
        available: u64,
        reserve: u64,
    },
    #[error("the disk is full; make room and run the same command to go on")]
    DiskFull,
}

fn of_total(total: Option<u64>) -> String {
    total.map_or(String::new(), |total| format!(" of {total}"))
}

impl PullError {
    /// A failed write: a full disk has a name of its own.
    pub(crate) fn write(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::Depot(DepotError::Io {
                path,
                source: error,
            }),
        }
    }
}
