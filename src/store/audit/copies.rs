//! Copies of the log's lines in Postgres, where those of several replicas are together.
//!
//! ```text
//! audit-00000001.jsonl, -2 ... ─ each second: what is on the disk, line by line ─► hedge.audit
//!                                                                   DIR/REPLICA/audit-*.jsonl ◄─ export
//! ```
//! The files stay the log: nobody waits for a copy, and while Postgres is away the lines wait in their files.
//! Nothing is copied that the writer may still take back. A line is known by its digest and is there once; its
//! place among the others is that of its coming, which is the order of the files, whatever clocks say.

use std::fs::{DirBuilder, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::{FutureExt, TryStreamExt};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, query, query_as, query_scalar};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};
use uuid::Uuid;

use super::LINE_BYTES_MAX;
use super::chain::{AuditFileName, audit_files};
use super::line::{Kind, Line};
use super::writer::open_own;
use crate::own_files::make_dir;
use crate::records::replica_of;
use crate::{PostgresAddress, PostgresFault};

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

/// What was exported of one replica's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    pub dir: PathBuf,
    pub files: u64,
    pub lines: u64,
    /// It does not begin where a log begins, though it is not what was left of an older one.
    pub is_cut: bool,
}

/// Writes all copies to files below `out`, a folder for each replica and for each time that its log was begun
/// anew, as the replicas have them. `out` must not have any of these folders.
///
/// # Errors
/// Postgres cannot be read or has what no node wrote, or a file cannot be written.
pub async fn export_copies(
    address: &PostgresAddress,
    out: &Path,
) -> Result<Vec<Exported>, CopyFault> {
    let mut connection = address.connect().await?;
    let is_there = query_scalar("SELECT to_regclass('hedge.audit') IS NOT NULL").persistent(false);
    if !is_there.fetch_one(&mut connection).await? {
        return Ok(Vec::new());
    }
    let replicas = "SELECT DISTINCT replica FROM hedge.audit ORDER BY replica";
    let replicas = query_scalar::<_, String>(replicas).persistent(false);
    let mut done = Vec::new();
    for replica in replicas.fetch_all(&mut connection).await? {
        // Whoever may write to Postgres names no folders here.
        let is_name = Uuid::try_parse(&replica).is_ok_and(|it| it.simple().to_string() == replica);
        if !is_name {
            return Err(CopyFault::Row { replica });
        }
        export_replica(&mut connection, &replica, out, &mut done).await?;
    }
    Ok(done)
}

async fn export_replica(
    connection: &mut PgConnection,
    replica: &str,
    out: &Path,
    done: &mut Vec<Exported>,
) -> Result<(), CopyFault> {
    const LINES: &str = "SELECT file, line FROM hedge.audit WHERE replica = $1 ORDER BY number";
    let lines = query_as::<_, (i64, String)>(LINES).persistent(false);
    let mut lines = lines.bind(replica).fetch(connection);
    let mut chains = 0;
    let mut writing: Option<(u64, Export)> = None;
    while let Some((file, line)) = lines.try_next().await? {
        let number = u64::try_from(file).unwrap_or(0);
        if number == 0 || line.len() >= LINE_BYTES_MAX || line.contains('\n') {
            let replica = replica.to_owned();
            return Err(CopyFault::Row { replica });
        }
        let before = writing.as_ref().map(|(number, _)| *number);
        let is_anew = before.is_none_or(|before| number < before) || begins_log(&line);
        if is_anew || before != Some(number) {
            if let Some((_, export)) = writing.take() {
                export.end()?;
            }
            if is_anew {
                chains += 1;
                let folder = match chains {
                    1 => replica.to_owned(),
                    _ => format!("{replica}.{chains}"),
                };
                let dir = out.join(folder);
                let fault = |error| CopyFault::Export {
                    path: dir.clone(),
                    error,
                };
                make_dir(out).map_err(fault)?;
                DirBuilder::new().mode(0o700).create(&dir).map_err(fault)?;
                done.push(Exported {
                    is_cut: chains > 1 && !begins_log(&line),
                    dir,
                    files: 0,
                    lines: 0,
                });
            }
            if let Some(exported) = done.last_mut() {
                let path = exported.dir.join(AuditFileName(number).to_string());
                exported.files += 1;
                writing = Some((number, Export::begin(path)?));
            }
        }
        if let (Some((_, export)), Some(exported)) = (&mut writing, done.last_mut()) {
            export.write(&line)?;
            exported.lines += 1;
        }
    }
    writing.map_or(Ok(()), |(_, export)| export.end())
}

/// Whether it is the first of all, of no log before.
fn begins_log(line: &str) -> bool {
    // Most are not even looked at.
    if !line.starts_with("{\"seq\":0,") {
        return false;
    }
    let read = Line::read(line.as_bytes());
    read.is_ok_and(|(line, _)| {
        line.kind == Kind::Begin && line.seq == 0 && line.rest.last_file.is_none()
    })
}

/// A file being written.
struct Export {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Export {
    fn begin(path: PathBuf) -> Result<Self, CopyFault> {
        match open_own(&path, |it| it.create_new(true)) {
            Ok(file) => Ok(Self {
                file: BufWriter::new(file),
                path,
            }),
            Err(error) => Err(CopyFault::Export { path, error }),
        }
    }

    fn write(&mut self, line: &str) -> Result<(), CopyFault> {
        let written = writeln!(self.file, "{line}");
        written.map_err(|error| self.fault(error))
    }

    fn end(mut self) -> Result<(), CopyFault> {
        let flushed = self.file.flush();
        flushed.map_err(|error| self.fault(error))
    }

    fn fault(&self, error: io::Error) -> CopyFault {
        let path = self.path.clone();
        CopyFault::Export { path, error }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;
    use std::time::Instant;

    use loadtest::PostgresServer;

    use super::super::tests::{NONE, folder, rules, sealed};
    use super::super::writer::Writer;
    use super::*;
    use crate::Verifier;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn copier(dir: &Path, address: &PostgresAddress) -> (AuditCopier, Arc<CopyState>) {
        AuditCopier::new(&rules(dir).dir, dir, address.clone(), || None)
    }

    /// All copies as files, each chain verified: lines by chain.
    async fn exported(address: &PostgresAddress) -> Vec<u64> {
        let out = folder();
        let done = export_copies(address, out.path()).await.unwrap();
        done.iter()
            .map(|it| {
                assert!(!it.is_cut);
                let mut verifier = Verifier::new(None);
                for (name, path) in audit_files(&it.dir).unwrap() {
                    let file = BufReader::new(File::open(path).unwrap());
                    verifier.read(&name.to_string(), file, |_| ()).unwrap();
                }
                let report = verifier.finish();
                assert_eq!(report.breach_count, 0, "{report:?}");
                assert_eq!((report.files, report.lines), (it.files, it.lines));
                it.lines
            })
            .collect()
    }

    #[tokio::test]
    async fn lines_are_copied_once_whatever_comes_between() {
        let Some(mut server) = PostgresServer::start().unwrap() else {
            return;
        };
        let address: PostgresAddress = server.database("copies").unwrap().parse().unwrap();
        assert!(
            exported(&address).await.is_empty(),
            "nothing was ever there"
        );
        let (home, other) = (folder(), folder());
        let mut small = rules(home.path());
        small.file_bytes_max = 2_000;
        let mut writer = Writer::open(small.clone()).unwrap();
        // Over several files.
        (0..5).for_each(|_| writer.write(&sealed(7), NONE).unwrap());
        assert!(audit_files(&small.dir).unwrap().len() > 2);
        let (mut first, state) = copier(home.path(), &address);
        first.pass().await.unwrap();
        let lines = state.copied();
        assert_eq!(exported(&address).await, [lines]);
        // What comes while it runs, and after it.
        writer.write(&sealed(3), NONE).unwrap();
        first.pass().await.unwrap();
        assert!(state.copied() >= lines + 3);
        let lines = state.copied();
        assert_eq!(exported(&address).await, [state.copied()]);
        drop(first);
        writer.write(&sealed(600), NONE).unwrap();
        let (mut second, state) = copier(home.path(), &address);
        second.pass().await.unwrap();
        assert!((600..700).contains(&state.copied()), "none twice");
        assert_eq!(exported(&address).await, [lines + state.copied()]);
        // While Postgres is away they wait.
        server.stop();
        writer.write(&sealed(2), NONE).unwrap();
        let before = state.copied();
        let failed = second.pass().await;
        assert!(failed.is_err());
        second.note(failed);
        assert!(state.is_away());
        server.resume().unwrap();
        let began = Instant::now();
        while state.is_away() {
            assert!(began.elapsed() < PATIENCE);
            let passed = second.pass().await;
            second.note(passed);
        }
        assert!(state.copied() >= before + 2);
        let all = exported(&address).await;
        // Another replica's are its own.
        let mut apart = Writer::open(rules(other.path())).unwrap();
        apart.write(&sealed(4), NONE).unwrap();
        let (mut third, _) = copier(other.path(), &address);
        third.pass().await.unwrap();
        let mut both = exported(&address).await;
        both.sort_unstable();
        assert_eq!(both, [5, all[0]]);
    }

    #[tokio::test]
    async fn a_log_that_is_begun_anew_is_another_and_changed_lines_are_left_out() {
        let Some(server) = PostgresServer::start().unwrap() else {
            return;
        };
        let address: PostgresAddress = server.database("anew").unwrap().parse().unwrap();
        let home = folder();
        let rules = rules(home.path());
        let mut writer = Writer::open(rules.clone()).unwrap();
        writer.write(&sealed(5), NONE).unwrap();
        let (mut copier, state) = copier(home.path(), &address);
        copier.pass().await.unwrap();
        drop(writer);
        std::fs::remove_dir_all(&rules.dir).unwrap();
        let mut writer = Writer::open(rules.clone()).unwrap();
        writer.write(&sealed(2), NONE).unwrap();
        copier.pass().await.unwrap();
        assert_eq!(exported(&address).await, [6, 3]);
        // A line that is none, and what follows it.
        let path = rules.dir.join(AuditFileName(1).to_string());
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"{\"seq\":3}\n").unwrap();
        writer.write(&sealed(1), NONE).unwrap();
        // The beginning of a line waits for its end.
        file.write_all(b"{\"seq\":").unwrap();
        copier.pass().await.unwrap();
        assert_eq!(state.copied(), 10);
        copier.pass().await.unwrap();
        assert_eq!(state.copied(), 10);
    }

    #[tokio::test]
    async fn what_is_not_on_the_disk_yet_waits_and_a_damaged_beginning_hides_nothing() {
        let Some(server) = PostgresServer::start().unwrap() else {
            return;
        };
        let address: PostgresAddress = server.database("synced").unwrap().parse().unwrap();
        let home = folder();
        let mut small = rules(home.path());
        small.file_bytes_max = 2_000;
        let mut writer = Writer::open(small.clone()).unwrap();
        writer.write(&sealed(2), NONE).unwrap();
        let path = small.dir.join(AuditFileName(1).to_string());
        let length = std::fs::metadata(&path).unwrap().len();
        let synced = Arc::new(std::sync::Mutex::new(Some((AuditFileName(1), length - 5))));
        let asked = Arc::clone(&synced);
        let (mut copier, state) =
            AuditCopier::new(&small.dir, home.path(), address.clone(), move || {
                *asked.lock().unwrap()
            });
        copier.pass().await.unwrap();
        assert_eq!(state.copied(), 2, "the last line may still be taken back");
        // Nor is a file read that was begun and not said to be.
        (0..3).for_each(|_| writer.write(&sealed(4), NONE).unwrap());
        copier.pass().await.unwrap();
        assert_eq!(state.copied(), 2);
        *synced.lock().unwrap() = None;
        copier.pass().await.unwrap();
        let all = state.copied();
        assert_eq!(exported(&address).await, [all]);
        // Who changes the first line while it runs has the others copied all the same.
        let newest = audit_files(&small.dir).unwrap().pop().unwrap().1;
        let mut bytes = std::fs::read(&newest).unwrap();
        bytes[8] ^= 1;
        std::fs::write(&newest, bytes).unwrap();
        writer.write(&sealed(1), NONE).unwrap();
        copier.pass().await.unwrap();
        assert!(state.copied() > all);
    }

    #[tokio::test]
    async fn rows_that_no_node_wrote_name_no_folders_and_a_cut_shows() {
        let Some(server) = PostgresServer::start().unwrap() else {
            return;
        };
        let address: PostgresAddress = server.database("rows").unwrap().parse().unwrap();
        let home = folder();
        let mut small = rules(home.path());
        small.file_bytes_max = 2_000;
        let mut writer = Writer::open(small).unwrap();
        (0..5).for_each(|_| writer.write(&sealed(5), NONE).unwrap());
        let (mut copier, _) = copier(home.path(), &address);
        copier.pass().await.unwrap();
        let mut connection = address.connect().await.unwrap();
        // Whoever moves files among each other is found out by what the first line of each is.
        query("UPDATE hedge.audit SET file = 1 WHERE file = 3")
            .execute(&mut connection)
            .await
            .unwrap();
        let out = folder();
        let done = export_copies(&address, out.path()).await.unwrap();
        assert!(done.iter().any(|it| it.is_cut), "{done:?}");
        for (replica, file, line) in [
            ("../x", 1, "{}"),
            ("", 1, "{}"),
            ("/tmp/x", 1, "{}"),
            ("01a229b827ea706f8f7f0ccfbb59d29b", 0, "{}"),
            ("01a229b827ea706f8f7f0ccfbb59d29b", 1, "{}\n{}"),
        ] {
            let put =
                "INSERT INTO hedge.audit (replica, digest, file, line) VALUES ($1, 'x', $2, $3)";
            let put = query(put).bind(replica).bind(i64::from(file)).bind(line);
            put.execute(&mut connection).await.unwrap();
            let out = folder();
            let refused = export_copies(&address, out.path()).await;
            assert!(matches!(refused, Err(CopyFault::Row { .. })), "{refused:?}");
            query("DELETE FROM hedge.audit WHERE digest = 'x'")
                .execute(&mut connection)
                .await
                .unwrap();
        }
    }
}
