//! Copies of the log's lines in Postgres, where those of several replicas are together.
//!
//! ```text
//! audit-00000001.jsonl, -2 ... ─ each second: whole lines after the last one there ─► hedge.audit
//!                                                                    DIR/REPLICA/audit-*.jsonl ◄─ export
//! ```
//! The files stay the log: nobody waits for a copy, and while Postgres is away the lines wait in their files.
//! A line is named by its replica, its file, that file's first digest and its number, and is written once, so
//! that what was sent twice is there once. Who may write to Postgres can change a copy, which shows as it
//! would in the files.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::TryStreamExt;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, query, query_as, query_scalar};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::LINE_BYTES_MAX;
use super::chain::{AuditFileName, audit_files};
use super::line::Line;
use crate::records::replica_of;
use crate::{PostgresAddress, PostgresFault};

/// Between two looks for new lines, and between two tries while Postgres is away.
pub const COPY_EVERY: Duration = Duration::from_secs(1);

/// Read and sent at once. No line is as long.
const BATCH_BYTES: u64 = 256 * 1024;

/// For one batch. Beyond that the connection is taken to be dead.
const BATCH_MAX: Duration = Duration::from_secs(30);

/// At the end, for what was written last.
const LAST_MAX: Duration = Duration::from_secs(5);

const PUT: &str = "
    INSERT INTO hedge.audit (replica, file, begun, seq, at_ms, line)
    SELECT $1, $2, $3, its.seq, its.at_ms, its.line
    FROM UNNEST($4::BIGINT[], $5::BIGINT[], $6::TEXT[]) AS its (seq, at_ms, line)
    ON CONFLICT DO NOTHING
";

const LAST: &str = "
    SELECT MAX(seq) FROM hedge.audit WHERE replica = $1 AND file = $2 AND begun = $3
";

/// How it stands.
#[derive(Debug, Default)]
pub struct CopyState {
    copied: AtomicU64,
    is_away: AtomicBool,
}

impl CopyState {
    /// Lines that were found to be in Postgres, since the process began.
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
}

impl From<sqlx::Error> for CopyFault {
    fn from(error: sqlx::Error) -> Self {
        Self::Postgres(error.into())
    }
}

/// Where the next line is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    name: AuditFileName,
    /// Digest of the file's first line: a folder that was emptied has other files of the same names.
    begun: String,
    offset: u64,
}

/// Whole lines of one file.
struct Batch {
    place: Place,
    lines: Vec<(Line, String)>,
    /// Those that are none, or were changed.
    unread: usize,
    end: u64,
}

/// The driver.
#[derive(Debug)]
pub struct AuditCopier {
    dir: PathBuf,
    /// Where the replica's name is kept.
    name_dir: PathBuf,
    address: PostgresAddress,
    state: Arc<CopyState>,
    replica: Option<String>,
    connection: Option<PgConnection>,
    /// `None`: to be found out.
    place: Option<Place>,
}

impl AuditCopier {
    #[must_use]
    pub fn new(dir: &Path, name_dir: &Path, address: PostgresAddress) -> (Self, Arc<CopyState>) {
        let state = Arc::<CopyState>::default();
        let copier = Self {
            dir: dir.to_owned(),
            name_dir: name_dir.to_owned(),
            address,
            state: Arc::clone(&state),
            replica: None,
            connection: None,
            place: None,
        };
        (copier, state)
    }

    /// Until `stop`, and then once more.
    pub async fn run(mut self, stop: impl Future<Output = ()> + Send) {
        let mut stop = pin!(stop);
        loop {
            let passed = self.pass().await;
            self.note(passed);
            tokio::select! {
                () = sleep(COPY_EVERY) => {}
                () = &mut stop => break,
            }
        }
        if let Ok(passed) = timeout(LAST_MAX, self.pass()).await {
            self.note(passed);
        }
        if let Some(connection) = self.connection.take() {
            drop(timeout(LAST_MAX, connection.close()).await);
        }
    }

    fn note(&mut self, passed: Result<(), CopyFault>) {
        let was_away = self.state.is_away.swap(passed.is_err(), Ordering::Relaxed);
        match passed {
            Ok(()) if was_away => info!("the audit log's lines are copied to Postgres again"),
            Ok(()) => {}
            Err(fault) => {
                self.connection = None;
                if !was_away {
                    let cause = std::error::Error::source(&fault).map(ToString::to_string);
                    warn!(error = %fault, cause,
                        "the audit log's lines are not copied to Postgres: they wait in their files");
                }
            }
        }
    }

    /// All that is there now.
    async fn pass(&mut self) -> Result<(), CopyFault> {
        if self.place.is_none() {
            self.place = self.resume().await?;
        }
        loop {
            let (dir, place) = (self.dir.clone(), self.place.clone());
            let reading = aside(move || next_lines(&dir, place.as_ref()));
            let Some(batch) = reading.await.map_err(CopyFault::Files)? else {
                return Ok(());
            };
            if batch.unread > 0 {
                warn!(file = %batch.place.name, lines = batch.unread,
                    "lines of the audit log are not as they were written, and are not copied; see \
                     `hedge audit verify`");
            }
            if !batch.lines.is_empty() {
                self.put(&batch).await?;
            }
            self.place = Some(Place {
                offset: batch.end,
                ..batch.place
            });
        }
    }

    /// The newest of the files of which something is there already. None: from the first on.
    async fn resume(&mut self) -> Result<Option<Place>, CopyFault> {
        let dir = self.dir.clone();
        let files = aside(move || audit_files(&dir));
        for (name, path) in files.await.map_err(CopyFault::Files)?.into_iter().rev() {
            let begun = aside(move || first_digest(&path));
            let Some(begun) = begun.await.map_err(CopyFault::Files)? else {
                continue;
            };
            if self.last(name, &begun).await?.is_some() {
                return Ok(Some(Place {
                    name,
                    begun,
                    offset: 0,
                }));
            }
        }
        Ok(None)
    }

    /// The number of the last line there of a file.
    async fn last(&mut self, name: AuditFileName, begun: &str) -> Result<Option<i64>, CopyFault> {
        let replica = self.replica().await?;
        let connection = self.connection().await?;
        let last = query_scalar(LAST).persistent(false);
        let last = last.bind(replica).bind(number(name.0)).bind(begun);
        let last = timeout(BATCH_MAX, last.fetch_one(connection)).await;
        Ok(last.map_err(|_| PostgresFault::Late)??)
    }

    async fn put(&mut self, batch: &Batch) -> Result<(), CopyFault> {
        let (name, begun) = (batch.place.name, &batch.place.begun);
        let known = match batch.place.offset {
            0 => self.last(name, begun).await?,
            _ => None,
        };
        let count = batch.lines.len() as u64;
        let new = batch.lines.iter();
        let new = new.filter(|(line, _)| known.is_none_or(|known| number(line.seq) > known));
        let (numbers, rest): (Vec<i64>, Vec<(i64, &str)>) = new
            .map(|(line, text)| (number(line.seq), (number(line.at_ms), text.as_str())))
            .unzip();
        let (times, texts): (Vec<i64>, Vec<&str>) = rest.into_iter().unzip();
        if !numbers.is_empty() {
            let replica = self.replica().await?;
            let connection = self.connection().await?;
            let put = query(PUT).persistent(false);
            let put = put.bind(replica).bind(number(name.0)).bind(begun);
            let put = put.bind(numbers).bind(times).bind(texts);
            let put = timeout(BATCH_MAX, put.execute(connection)).await;
            put.map_err(|_| PostgresFault::Late)??;
        }
        self.state.copied.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }

    async fn replica(&mut self) -> Result<String, CopyFault> {
        if let Some(replica) = &self.replica {
            return Ok(replica.clone());
        }
        let dir = self.name_dir.clone();
        let name = aside(move || {
            fs::create_dir_all(&dir)?;
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

/// Where it holds up nobody.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}

/// Numbers of lines and files, and moments, are far from the end of both.
fn number(it: u64) -> i64 {
    i64::try_from(it).unwrap_or(i64::MAX)
}

/// What comes after `place`, which may be in the next file. `None` where nothing does yet.
fn next_lines(dir: &Path, place: Option<&Place>) -> io::Result<Option<Batch>> {
    let files = audit_files(dir)?;
    let mut place = place.cloned();
    for (name, path) in &files {
        if place.as_ref().is_some_and(|place| *name < place.name) {
            continue;
        }
        let Some(begun) = first_digest(path)? else {
            continue;
        };
        let is_there = |it: &&Place| it.name == *name && it.begun == begun;
        let offset = match &place {
            Some(it) if it.name == *name && it.begun != begun => {
                // The folder was emptied, and begun anew.
                return next_lines(dir, None);
            }
            it => it.as_ref().filter(is_there).map_or(0, |it| it.offset),
        };
        let found = Place {
            name: *name,
            begun,
            offset,
        };
        let batch = read_lines(path, found)?;
        if !batch.lines.is_empty() || batch.unread > 0 {
            return Ok(Some(batch));
        }
    }
    let newest = files.last().map(|(name, _)| *name);
    match place.take() {
        // So it was, though nothing has the old names yet.
        Some(place) if newest.is_some_and(|newest| newest < place.name) => next_lines(dir, None),
        _ => Ok(None),
    }
}

/// Of a file's first line. `None` while it has none.
fn first_digest(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        // Removed a moment ago, being the oldest.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut line = Vec::new();
    BufReader::new(file.take(LINE_BYTES_MAX as u64)).read_until(b'\n', &mut line)?;
    let line = line.strip_suffix(b"\n");
    let read = line.and_then(|line| Line::read(line).ok());
    Ok(read.map(|(_, digest)| digest))
}

fn read_lines(path: &Path, place: Place) -> io::Result<Batch> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(place.offset))?;
    let mut bytes = Vec::new();
    file.take(BATCH_BYTES).read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n');
    let whole = match whole {
        Some(at) => at + 1,
        // Not one line, though a line is shorter: nothing that was written here.
        None if bytes.len() as u64 == BATCH_BYTES => bytes.len(),
        None => 0,
    };
    let mut batch = Batch {
        end: place.offset + whole as u64,
        place,
        lines: Vec::new(),
        unread: 0,
    };
    for bytes in bytes[..whole].split_inclusive(|byte| *byte == b'\n') {
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let text = std::str::from_utf8(bytes).ok();
        match text.and_then(|text| Some((Line::read(bytes).ok()?.0, text.to_owned()))) {
            Some(line) => batch.lines.push(line),
            None => batch.unread += 1,
        }
    }
    Ok(batch)
}

/// What was exported of one replica's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    pub dir: PathBuf,
    pub files: u64,
    pub lines: u64,
}

/// Writes all copies to files below `out`, a folder for each replica and for each time that its log was begun
/// anew, as the replicas have them. Files that are there already are left, and that is an error.
///
/// # Errors
/// Postgres cannot be read, or a file not be written.
pub async fn export_copies(
    address: &PostgresAddress,
    out: &Path,
) -> Result<Vec<Exported>, CopyFault> {
    // Only a file's first line says when it was written.
    const FILES: &str = "
        SELECT * FROM (
            SELECT DISTINCT ON (replica, file, begun) replica, file, begun, at_ms, seq
            FROM hedge.audit ORDER BY replica, file, begun, seq
        ) AS its ORDER BY replica, at_ms, file
    ";
    let mut connection = address.connect().await?;
    let is_there = query_scalar("SELECT to_regclass('hedge.audit') IS NOT NULL").persistent(false);
    if !is_there.fetch_one(&mut connection).await? {
        return Ok(Vec::new());
    }
    let files = query_as(FILES).persistent(false);
    let files: Vec<(String, i64, String, i64, i64)> = files.fetch_all(&mut connection).await?;
    let mut done: Vec<Exported> = Vec::new();
    let mut last: Option<(String, i64)> = None;
    let mut chains = 0;
    for (replica, file, begun, _, first) in files {
        let goes_on = last.as_ref().is_some_and(|(of, before)| {
            // The first line of a log that is begun anew is its first.
            *of == replica && file > *before && first > 0
        });
        if !goes_on {
            let is_same = last.as_ref().is_some_and(|(of, _)| *of == replica);
            chains = if is_same { chains + 1 } else { 1 };
            let folder = match chains {
                1 => replica.clone(),
                _ => format!("{replica}.{chains}"),
            };
            done.push(Exported {
                dir: out.join(folder),
                files: 0,
                lines: 0,
            });
        }
        if let Some(exported) = done.last_mut() {
            let name = AuditFileName(u64::try_from(file).unwrap_or(0));
            let path = exported.dir.join(name.to_string());
            exported.lines += write_file(&mut connection, &path, (&replica, file, &begun)).await?;
            exported.files += 1;
        }
        last = Some((replica, file));
    }
    Ok(done)
}

async fn write_file(
    connection: &mut PgConnection,
    path: &Path,
    (replica, file, begun): (&str, i64, &str),
) -> Result<u64, CopyFault> {
    const LINES: &str = "
        SELECT line FROM hedge.audit WHERE replica = $1 AND file = $2 AND begun = $3 ORDER BY seq
    ";
    let fault = |error| CopyFault::Export {
        path: path.to_owned(),
        error,
    };
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    made.map_err(fault)?;
    let mut options = File::options();
    let file_there = options.write(true).create_new(true).mode(0o600).open(path);
    let mut written = BufWriter::new(file_there.map_err(fault)?);
    let lines = query_scalar::<_, String>(LINES).persistent(false);
    let mut lines = lines.bind(replica).bind(file).bind(begun).fetch(connection);
    let mut count = 0;
    while let Some(line) = lines.try_next().await? {
        writeln!(written, "{line}").map_err(fault)?;
        count += 1;
    }
    written.flush().map_err(fault)?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use loadtest::PostgresServer;

    use super::super::tests::{NONE, folder, rules, sealed};
    use super::super::writer::Writer;
    use super::*;
    use crate::Verifier;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn copier(dir: &Path, address: &PostgresAddress) -> (AuditCopier, Arc<CopyState>) {
        AuditCopier::new(&rules(dir).dir, dir, address.clone())
    }

    /// All copies as files, each chain verified: lines by chain.
    async fn exported(address: &PostgresAddress) -> Vec<u64> {
        let out = folder();
        let done = export_copies(address, out.path()).await.unwrap();
        done.iter()
            .map(|it| {
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
        let lines = lines + 3;
        assert!(state.copied() >= lines);
        assert_eq!(exported(&address).await, [state.copied()]);
        drop(first);
        writer.write(&sealed(600), NONE).unwrap();
        let (mut second, state) = copier(home.path(), &address);
        second.pass().await.unwrap();
        assert!(state.copied() < 700, "not from the beginning");
        assert!(exported(&address).await[0] >= lines + 600);
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
        fs::remove_dir_all(&rules.dir).unwrap();
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
}
