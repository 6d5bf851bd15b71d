//! Copies of the log's lines in Postgres, where those of several replicas are together.
//!
//! ```text
//! audit-00000001.jsonl, -2 ... ─ each second: what is on the disk, line by line ─► hedge.audit
//!                                                                   DIR/REPLICA/audit-*.jsonl ◄─ export
//! ```
//! The files stay the log: nobody waits for a copy, and while Postgres is away the lines wait in their files.
//! Nothing is copied that the writer may still take back. A line is known by its digest and is there once; its
//! place among the others is that of its coming, which is the order of the files, whatever clocks say.

mod export;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, query, query_as};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::chain::{AuditFileName, audit_files};
use super::line::Line;
use crate::own_files::make_dir;
use crate::records::replica_of;
use crate::{PostgresAddress, PostgresFault};

pub use export::{Exported, export_copies};

/// Between two looks for new lines, and between two tries while Postgres is away.
const COPY_EVERY: Duration = Duration::from_secs(1);

/// Read and sent at once. No line is as long.
const BATCH_BYTES: u64 = 256 * 1024;

/// For one batch. Beyond that the connection is taken to be dead.
const BATCH_MAX: Duration = Duration::from_secs(30);

/// At the end, for what was written last, and for the connection's end.
const LAST_MAX: Duration = Duration::from_secs(3);
const CLOSE_MAX: Duration = Duration::from_secs(1);

const PUT: &str = "
    INSERT INTO hedge.audit (replica, digest, file, line)
    SELECT $1, its.digest, $2, its.line
    FROM UNNEST($3::TEXT[], $4::TEXT[]) WITH ORDINALITY AS its (digest, line, at) ORDER BY its.at
    ON CONFLICT DO NOTHING
";

const LAST: &str = "
    SELECT file, digest FROM hedge.audit WHERE replica = $1 ORDER BY number DESC LIMIT 1
";

/// How it stands.
#[derive(Debug, Default)]
pub struct CopyState {
    copied: AtomicU64,
    is_away: AtomicBool,
}

impl CopyState {
    /// Lines that were put into Postgres since the process began.
    #[must_use]
    pub fn copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }

    /// The last try failed.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Relaxed)
    }
}

/// Why lines cannot be copied, or copies be had.
#[derive(Debug, thiserror::Error)]
pub enum CopyFault {
    #[error(transparent)]
    Postgres(#[from] PostgresFault),
    #[error("the audit log, or the replica's name, cannot be read")]
    Files(#[source] io::Error),
    #[error("{path} cannot be written")]
    Export {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("hedge.audit has a row of {replica:?} that no node wrote")]
    Row { replica: String },
}

impl From<sqlx::Error> for CopyFault {
    fn from(error: sqlx::Error) -> Self {
        Self::Postgres(error.into())
    }
}

/// Says how far the newest file is on the disk; `None` while nobody writes it.
type Synced = Box<dyn Fn() -> Option<(AuditFileName, u64)> + Send + Sync>;

/// Where the next line is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    name: AuditFileName,
    /// The file's first bytes: a folder that was emptied has other files of the same names.
    begins: Vec<u8>,
    offset: u64,
}

/// Of what a file begins with.
const BEGINS_BYTES: u64 = 256;

/// Whole lines of one file.
struct Batch {
    end: Place,
    /// With their digests.
    lines: Vec<(String, String)>,
    /// Those that are none, or were changed.
    unread: usize,
}

/// The driver.
pub struct AuditCopier {
    dir: PathBuf,
    /// Where the replica's name is kept.
    name_dir: PathBuf,
    address: PostgresAddress,
    synced: Synced,
    state: Arc<CopyState>,
    replica: Option<String>,
    connection: Option<PgConnection>,
    /// `None`: to be found out.
    place: Option<Place>,
}

impl AuditCopier {
    /// `synced` says how far the newest file is on the disk; `None` while nobody writes it.
    #[must_use]
    pub fn new(
        dir: &Path,
        name_dir: &Path,
        address: PostgresAddress,
        synced: impl Fn() -> Option<(AuditFileName, u64)> + Send + Sync + 'static,
    ) -> (Self, Arc<CopyState>) {
        let state = Arc::<CopyState>::default();
        let copier = Self {
            dir: dir.to_owned(),
            name_dir: name_dir.to_owned(),
            address,
            synced: Box::new(synced),
            state: Arc::clone(&state),
            replica: None,
            connection: None,
            place: None,
        };
        (copier, state)
    }

    /// Until `stop`, and then once more.
    pub async fn run(mut self, stop: impl Future<Output = ()> + Send) {
        let mut stop = pin!(stop.fuse());
        loop {
            let passed = tokio::select! {
                biased;
                () = &mut stop => {
                    // What it was asked is not answered any more.
                    self.connection = None;
                    break;
                }
                passed = self.pass() => passed,
            };
            self.note(passed);
            tokio::select! {
                () = sleep(COPY_EVERY) => {}
                () = &mut stop => break,
            }
        }
        match timeout(LAST_MAX, self.pass()).await {
            Ok(passed) => self.note(passed),
            Err(_) => {
                warn!("the last lines of the audit log are copied when the node starts again")
            }
        }
        if let Some(connection) = self.connection.take() {
            drop(timeout(CLOSE_MAX, connection.close()).await);
        }
    }

    fn note(&mut self, passed: Result<(), CopyFault>) {
        let Err(fault) = passed else {
            return self.is_there();
        };
        if matches!(fault, CopyFault::Postgres(_)) {
            self.connection = None;
        }
        if !self.state.is_away.swap(true, Ordering::Relaxed) {
            let cause = std::error::Error::source(&fault).map(ToString::to_string);
            warn!(error = %fault, cause,
                "the audit log's lines are not copied to Postgres: they wait in their files");
        }
    }

    fn is_there(&self) {
        if self.state.is_away.swap(false, Ordering::Relaxed) {
            info!("the audit log's lines are copied to Postgres again");
        }
    }

    /// All that is there now.
    async fn pass(&mut self) -> Result<(), CopyFault> {
        if self.place.is_none() {
            self.place = self.resume().await?;
        }
        loop {
            let (dir, place) = (self.dir.clone(), self.place.clone());
            let synced = (self.synced)();
            let reading = aside(move || next_lines(&dir, place.as_ref(), synced));
            let Some(batch) = reading.await.map_err(CopyFault::Files)? else {
                return Ok(());
            };
            if batch.unread > 0 {
                warn!(file = %batch.end.name, lines = batch.unread,
                    "lines of the audit log are not as they were written, and are not copied; see \
                     `hedge audit verify`");
            }
            if !batch.lines.is_empty() {
                self.put(&batch).await?;
                self.is_there();
            }
            self.place = Some(batch.end);
        }
    }

    /// Behind the line that came last, where that is still in its file. None: from the first line on.
    async fn resume(&mut self) -> Result<Option<Place>, CopyFault> {
        let dir = self.dir.clone();
        let files = aside(move || audit_files(&dir));
        if files.await.map_err(CopyFault::Files)?.is_empty() {
            return Ok(None);
        }
        let replica = self.replica().await?;
        let connection = self.connection().await?;
        let last = query_as::<_, (i64, String)>(LAST)
            .persistent(false)
            .bind(replica);
        let last = timeout(BATCH_MAX, last.fetch_optional(connection)).await;
        let Some((file, digest)) = last.map_err(|_| PostgresFault::Late)?? else {
            return Ok(None);
        };
        let name = AuditFileName(u64::try_from(file).unwrap_or(0));
        let path = self.dir.join(name.to_string());
        let found = aside(move || place_after(&path, name, &digest));
        found.await.map_err(CopyFault::Files)
    }

    async fn put(&mut self, batch: &Batch) -> Result<(), CopyFault> {
        let file = i64::try_from(batch.end.name.0).unwrap_or(i64::MAX);
        let (digests, lines): (Vec<&str>, Vec<&str>) = batch
            .lines
            .iter()
            .map(|(digest, line)| (digest.as_str(), line.as_str()))
            .unzip();
        let replica = self.replica().await?;
        let connection = self.connection().await?;
        let put = query(PUT).persistent(false).bind(replica).bind(file);
        let put = put.bind(digests).bind(lines);
        let put = timeout(BATCH_MAX, put.execute(connection)).await;
        let put = put.map_err(|_| PostgresFault::Late)??;
        let copied = &self.state.copied;
        copied.fetch_add(put.rows_affected(), Ordering::Relaxed);
        Ok(())
    }

    async fn replica(&mut self) -> Result<String, CopyFault> {
        if let Some(replica) = &self.replica {
            return Ok(replica.clone());
        }
        let dir = self.name_dir.clone();
        let name = aside(move || {
            make_dir(&dir)?;
            replica_of(&dir)
        });
        let name = name.await.map_err(CopyFault::Files)?;
        Ok(self.replica.insert(name).clone())
    }

    async fn connection(&mut self) -> Result<&mut PgConnection, CopyFault> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.address.open().await?,
        };
        Ok(self.connection.insert(connection))
    }
}

impl std::fmt::Debug for AuditCopier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AuditCopier({} to {})", self.dir.display(), self.address)
    }
}

/// Where it holds up nobody.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}

/// `None` for a file that was removed a moment ago, being the oldest.
fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What comes after `place`, which may be in the next file. `None` where nothing does yet.
fn next_lines(
    dir: &Path,
    place: Option<&Place>,
    synced: Option<(AuditFileName, u64)>,
) -> io::Result<Option<Batch>> {
    let files = audit_files(dir)?;
    let newest = files.last().map(|(name, _)| *name);
    // Where the folder was emptied there are none of the old names, or others under them.
    let is_emptied = |place: &Place| newest.is_some_and(|newest| newest < place.name);
    let mut place = place.filter(|place| !is_emptied(place)).cloned();
    for (name, path) in &files {
        let end = match synced {
            Some((writing, _)) if *name > writing => break,
            Some((writing, end)) if *name == writing => end,
            _ => u64::MAX,
        };
        if place.as_ref().is_some_and(|place| *name < place.name) {
            continue;
        }
        let Some(mut file) = open(path)? else {
            continue;
        };
        let begins = beginning(&mut file, end)?;
        let from = match &place {
            Some(it) if it.name == *name => {
                let is_same = begins.starts_with(&it.begins);
                if !is_same || file.metadata()?.len() < it.offset {
                    return next_lines(dir, None, synced);
                }
                it.offset
            }
            _ => 0,
        };
        let from = Place {
            name: *name,
            begins,
            offset: from,
        };
        let batch = read_lines(&mut file, from, end)?;
        if !batch.lines.is_empty() || batch.unread > 0 {
            return Ok(Some(batch));
        }
        place = None;
    }
    Ok(None)
}

/// Of the part that is on the disk, as much as names the file, up to the end of a line at most.
fn beginning(file: &mut File, end: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.take(BEGINS_BYTES.min(end)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read_lines(file: &mut File, from: Place, end: u64) -> io::Result<Batch> {
    file.seek(SeekFrom::Start(from.offset))?;
    let most = BATCH_BYTES.min(end.saturating_sub(from.offset));
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    let whole = match bytes.iter().rposition(|byte| *byte == b'\n') {
        Some(at) => at + 1,
        // Not one line, though a line is shorter: nothing that was written here.
        None if bytes.len() as u64 == BATCH_BYTES => bytes.len(),
        None => 0,
    };
    let mut batch = Batch {
        end: Place {
            offset: from.offset + whole as u64,
            ..from
        },
        lines: Vec::new(),
        unread: 0,
    };
    for line in bytes[..whole].split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        match (Line::read(line), std::str::from_utf8(line)) {
            (Ok((_, digest)), Ok(text)) => batch.lines.push((digest, text.to_owned())),
            _ => batch.unread += 1,
        }
    }
    Ok(batch)
}

/// Behind the line with `digest`.
fn place_after(path: &Path, name: AuditFileName, digest: &str) -> io::Result<Option<Place>> {
    let Some(mut file) = open(path)? else {
        return Ok(None);
    };
    let mut place = Place {
        name,
        begins: beginning(&mut file, u64::MAX)?,
        offset: 0,
    };
    loop {
        let from = place.offset;
        let batch = read_lines(&mut file, place, u64::MAX)?;
        if batch.end.offset == from {
            return Ok(None);
        }
        place = batch.end;
        if let Some(at) = batch.lines.iter().position(|(it, _)| it == digest) {
            let after = &batch.lines[at + 1..];
            if batch.unread == 0 {
                let rest: usize = after.iter().map(|(_, line)| line.len() + 1).sum();
                place.offset -= rest as u64;
            } else {
                // Once more from here on: what is there already stays.
                place.offset = from;
            }
            return Ok(Some(place));
        }
    }
}
