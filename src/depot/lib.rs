//! Model files: where they live, how they get there, and whether they are whole.
//!
//! A depot is a folder with a manifest. Files enter it by [`Depot::pull`] and [`Depot::import`],
//! under a temporary name first, and are renamed into place once their digest and their header were
//! checked; so whatever carries a model's name is a whole model.

mod depot;
mod digest;
mod error;
pub mod gguf;
mod hub;
mod manifest;
mod part;
mod pull;
mod source;
mod space;
mod transfer;

pub use depot::Depot;
pub use digest::{NotADigest, Sha256Digest};
pub use error::{DepotError, PullError};
pub use manifest::{Entry, Manifest};
pub use pull::{Hub, Progress, PullRequest, Step, Token};
pub use source::{Source, SourceFault};
