//! Copies as files again, a folder for each log.

use std::fs::{DirBuilder, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use sqlx::postgres::PgConnection;
use sqlx::{query_as, query_scalar};
use uuid::Uuid;

use super::super::LINE_BYTES_MAX;
use super::super::chain::AuditFileName;
use super::super::line::{Kind, Line};
use super::super::writer::open_own;
use super::CopyFault;
use crate::PostgresAddress;
use crate::own_files::make_dir;

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
