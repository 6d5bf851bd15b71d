//! The files of a log, and the end of its chain.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::LINE_BYTES_MAX;
use super::line::{Line, NO_HASH};

/// `audit-00000001.jsonl`: files are numbered from 1, without a gap but at the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditFileName(pub u64);

impl AuditFileName {
    #[must_use]
    pub fn read(name: &str) -> Option<Self> {
        let digits = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?;
        let is_number = digits.len() >= 8 && digits.bytes().all(|it| it.is_ascii_digit());
        let number: u64 = digits.parse().ok().filter(|_| is_number)?;
        (Self(number).to_string() == name).then_some(Self(number))
    }
}

impl std::fmt::Display for AuditFileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "audit-{:08}.jsonl", self.0)
    }
}

/// The log's files in `dir`, oldest first. None where there is no such folder.
///
/// # Errors
/// The folder cannot be read.
pub fn audit_files(dir: &Path) -> io::Result<Vec<(AuditFileName, PathBuf)>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().and_then(AuditFileName::read);
        files.extend(name.map(|name| (name, entry.path())));
    }
    files.sort();
    Ok(files)
}

/// Where a chain goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// Of the next line.
    pub seq: u64,
    /// Digest of the last one.
    pub hash: String,
}

impl Head {
    pub fn none() -> Self {
        Self {
            seq: 0,
            hash: NO_HASH.to_owned(),
        }
    }
}

/// How a file ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tail {
    /// Where its last whole line ends.
    pub whole_bytes: u64,
    /// What follows: the beginning of a line that a crash cut.
    pub torn: Vec<u8>,
    pub last: Last,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// It has no whole line.
    None,
    Line(Head),
    /// Its last line is not as it was written.
    Broken,
}

pub(super) fn tail(file: &mut File) -> io::Result<Tail> {
    // A torn line, and the one before it.
    const WINDOW: u64 = 2 * LINE_BYTES_MAX as u64;
    let length = file.seek(SeekFrom::End(0))?;
    let from = length.saturating_sub(WINDOW);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(WINDOW).read_to_end(&mut bytes)?;
    let end = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map(|at| at + 1);
    let torn = bytes.split_off(end.unwrap_or(0));
    if torn.len() > LINE_BYTES_MAX {
        // No crash leaves that: it stays where it is.
        return Ok(Tail {
            whole_bytes: length,
            torn: Vec::new(),
            last: Last::Broken,
        });
    }
    let last = match bytes.pop() {
        None => Last::None,
        Some(_) => {
            let from = bytes.iter().rposition(|byte| *byte == b'\n');
            let line = &bytes[from.map_or(0, |at| at + 1)..];
            match Line::read(line) {
                Ok((line, hash)) => Last::Line(Head {
                    seq: line.seq + 1,
                    hash,
                }),
                Err(_) => Last::Broken,
            }
        }
    };
    Ok(Tail {
        whole_bytes: length - torn.len() as u64,
        torn,
        last,
    })
}
