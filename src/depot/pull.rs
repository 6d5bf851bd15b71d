//! Fetching a model: choose, receive, check, enter.
//!
//! ```text
//! Source ─choose file─► address ─redirects─► bytes ─► NAME.gguf.part ─digest, header─► NAME.gguf
//! ```
//! A transfer that breaks off is taken up where it stopped, a few times at once and again by the
//! next pull, as long as the server vouches (`If-Range`) that the file is the same.

use std::fmt;
use std::path::{Path, PathBuf};

use reqwest::header::{CONTENT_RANGE, ETAG, IF_RANGE, RANGE};
use reqwest::{Client, Response, StatusCode, Url};

use crate::depot::{Arrival, check_name};
use crate::manifest::Entry;
use crate::part::{self, Label, Part};
use crate::space::RESERVE_BYTES;
use crate::transfer::{self, Hop, SILENCE_MAX};
use crate::{Depot, DepotError, PullError, Sha256Digest, Source, gguf, hub};

/// Interruptions in a row without a byte of progress, before we give up.
const FRUITLESS_MAX: u32 = 3;
/// Received bytes go to the disk in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;
const MAGIC: &[u8] = b"GGUF";

/// A credential for the hub. Has no `Display`, and its `Debug` says nothing.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// The model hub that `ORG/REPO` means.
#[derive(Clone, Debug)]
pub struct Hub {
    pub base: Url,
    /// Sent to `base`'s origin alone.
    pub token: Option<Token>,
}

impl Hub {
    pub const BASE_DEFAULT: &'static str = "https://huggingface.co";
}

/// What to fetch.
#[derive(Clone, Debug)]
pub struct PullRequest {
    pub source: Source,
    /// Else the file's name.
    pub name: Option<String>,
    /// Else what the hub states.
    pub sha256: Option<Sha256Digest>,
    pub hub: Hub,
}

/// What a pull tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The file is settled and its transfer begins, or begins again.
    Begun {
        name: String,
        /// Here already, from an earlier pull.
        received: u64,
        total: Option<u64>,
    },
    /// So much is here now.
    Received(u64),
    /// The connection broke; it is taken up again.
    Resuming,
    /// All is here and is being checked.
    Checking,
}

/// Told of each step, in order; must not block.
pub trait Progress: Send + Sync {
    fn step(&self, step: Step);
}

struct Target {
    name: String,
    url: Url,
    licence: Option<String>,
    source: Source,
}

impl Depot {
    /// Fetches a model into this depot. Dropping the future leaves what has come for the next pull.
    ///
    /// # Errors
    /// See [`PullError`]; no model of that name appears then.
    pub async fn pull(
        &self,
        client: &Client,
        request: PullRequest,
        progress: &dyn Progress,
    ) -> Result<Entry, PullError> {
        let target = settle(client, &request).await?;
        check_name(&target.name)?;
        self.make_dir()?;
        let path = self.dir().join(format!("{}.gguf.part", target.name));
        let mut pull = Pull {
            depot: self,
            client,
            hub: &request.hub,
            target: &target,
            path: &path,
            progress,
            expected: request.sha256,
        };
        let found = pull.receive().await?;
        progress.step(Step::Checking);
        if let Some(expected) = pull.expected.filter(|expected| *expected != found) {
            part::discard(&path);
            return Err(PullError::Digest { expected, found });
        }
        self.check_in(target, path, found).await
    }

    /// The header is checked, and the file gets its name.
    async fn check_in(
        &self,
        target: Target,
        path: PathBuf,
        sha256: Sha256Digest,
    ) -> Result<Entry, PullError> {
        let inspected = {
            let path = path.clone();
            blocking(move || gguf::inspect_any(&path)).await
        };
        let summary = match inspected {
            Ok(summary) => summary,
            Err(fault) => {
                part::discard(&path);
                return Err(PullError::Depot(DepotError::Gguf(fault)));
            }
        };
        let entry = self.enter(Arrival {
            name: target.name,
            staged: path.clone(),
            sha256,
            source: target.source.to_string(),
            licence: target.licence,
            summary,
        })?;
        part::discard(&path);
        Ok(entry)
    }
}

/// Which file, from where, under which name.
async fn settle(client: &Client, request: &PullRequest) -> Result<Target, PullError> {
    let (url, licence, source, file) = match &request.source {
        Source::Url(url) => {
            let file = url.path().to_owned();
            (url.clone(), None, request.source.clone(), file)
        }
        Source::Hub { repo, file } => {
            let (file, licence) = match file {
                Some(file) => (file.clone(), None),
                None => {
                    let chosen = hub::choose(client, &request.hub, repo).await?;
                    (chosen.file, chosen.licence)
                }
            };
            let url = hub::file_address(&request.hub, repo, &file);
            let source = Source::Hub {
                repo: repo.clone(),
                file: Some(file.clone()),
            };
            (url, licence, source, file)
        }
    };
    let name = request
        .name
        .clone()
        .unwrap_or_else(|| Source::model_name(&file));
    Ok(Target {
        name,
        url,
        licence,
        source,
    })
}

struct Pull<'a> {
    depot: &'a Depot,
    client: &'a Client,
    hub: &'a Hub,
    target: &'a Target,
    path: &'a Path,
    progress: &'a dyn Progress,
    expected: Option<Sha256Digest>,
}

/// How one attempt ended.
enum Attempt {
    Complete(Part),
    /// The connection broke after so many bytes in all.
    Broken {
        received: u64,
        total: Option<u64>,
    },
}

impl Pull<'_> {
    async fn receive(&mut self) -> Result<Sha256Digest, PullError> {
        let mut fruitless = 0;
        let mut reached = 0;
        loop {
            match self.attempt().await? {
                Attempt::Complete(part) => return blocking(|| part.finish()).await,
                Attempt::Broken { received, total } => {
                    fruitless = if received > reached { 0 } else { fruitless + 1 };
                    reached = received;
                    if fruitless >= FRUITLESS_MAX {
                        return Err(PullError::Interrupted { received, total });
                    }
                    self.progress.step(Step::Resuming);
                }
            }
        }
    }

    async fn attempt(&mut self) -> Result<Attempt, PullError> {
        let source = self.target.source.to_string();
        let resumed = {
            let (path, source) = (self.path.to_owned(), source.clone());
            blocking(move || Part::resume(&path, &source)).await
        };
        let ranged = resumed
            .as_ref()
            .map(|(part, label)| (part.bytes(), label.etag.clone()));
        let dress = move |request: reqwest::RequestBuilder| match &ranged {
            Some((bytes, etag)) => request
                .header(RANGE, format!("bytes={bytes}-"))
                .header(IF_RANGE, etag),
            None => request,
        };
        let hop = Hop::first(self.target.url.clone());
        let arrived = transfer::get(self.client, self.hub, hop, &dress).await?;
        self.expected = self.expected.or(arrived.sha256);
        let response = arrived.response;
        let continued = resumed.and_then(|(part, _)| continues(&response, part));
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            // The part reaches past the file, or is all of it and the server says so this way.
            part::discard(self.path);
            return Ok(Attempt::Broken {
                received: 0,
                total: None,
            });
        }
        let (part, total) = match continued {
            Some((part, total)) => (part, Some(total)),
            None if response.status() == StatusCode::PARTIAL_CONTENT => {
                part::discard(self.path);
                return Ok(Attempt::Broken {
                    received: 0,
                    total: None,
                });
            }
            None => {
                let label = strong_etag(&response).map(|etag| Label { source, etag });
                let part = Part::fresh(self.path, label.as_ref())?;
                (part, response.content_length())
            }
        };
        self.check_space(part.bytes(), total)?;
        self.progress.step(Step::Begun {
            name: self.target.name.clone(),
            received: part.bytes(),
            total,
        });
        self.read(response, part, total).await
    }

    fn check_space(&self, received: u64, total: Option<u64>) -> Result<(), PullError> {
        let available = (self.depot.available)(self.depot.dir());
        let (Some(available), Some(total)) = (available, total) else {
            return Ok(());
        };
        let needed = total.saturating_sub(received);
        if available.saturating_sub(RESERVE_BYTES) >= needed {
            return Ok(());
        }
        Err(PullError::NoSpace {
            needed,
            available,
            reserve: RESERVE_BYTES,
        })
    }

    /// Reads the body to its end. At most one piece is in memory.
    async fn read(
        &self,
        mut response: Response,
        mut part: Part,
        total: Option<u64>,
    ) -> Result<Attempt, PullError> {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let is_whole = loop {
            let chunk = tokio::time::timeout(SILENCE_MAX, response.chunk()).await;
            let Ok(Ok(chunk)) = chunk else {
                break false;
            };
            let Some(chunk) = chunk else {
                break true;
            };
            piece.extend_from_slice(&chunk);
            if part.bytes() == 0 && piece.len() >= MAGIC.len() && !piece.starts_with(MAGIC) {
                part::discard(self.path);
                return Err(PullError::NotGguf);
            }
            if piece.len() >= PIECE_BYTES {
                (part, piece) = store(part, piece).await?;
                self.progress.step(Step::Received(part.bytes()));
            }
        };
        (part, _) = store(part, piece).await?;
        let received = part.bytes();
        self.progress.step(Step::Received(received));
        let is_whole = is_whole && total.is_none_or(|total| received == total);
        Ok(if is_whole {
            Attempt::Complete(part)
        } else {
            Attempt::Broken { received, total }
        })
    }
}

/// Writes a piece on the blocking pool, and gives the emptied buffer back.
async fn store(mut part: Part, mut piece: Vec<u8>) -> Result<(Part, Vec<u8>), PullError> {
    blocking(move || {
        part.write(&piece)?;
        piece.clear();
        Ok((part, piece))
    })
    .await
}

/// Runs `work` on the blocking pool.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// The part and the file's size, if the answer goes on exactly where the part ends.
fn continues(response: &Response, part: Part) -> Option<(Part, u64)> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return None;
    }
    // `bytes 100-199/200`, RFC 9110 section 14.4.
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (places, total) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = places.split_once('-')?;
    let total = total.parse().ok()?;
    (first.parse() == Ok(part.bytes())).then_some((part, total))
}

/// RFC 9110 section 13.1.5: only a strong validator may stand in `If-Range`.
fn strong_etag(response: &Response) -> Option<String> {
    let etag = response.headers().get(ETAG)?.to_str().ok()?;
    (!etag.starts_with("W/") && etag.len() <= 1024).then(|| etag.to_owned())
}

#[cfg(test)]
mod tests;
