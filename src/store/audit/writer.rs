//! The end of a chain that is written to. Everything here waits for the disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use domain::{AdminChange, SealedEntry};
use tokio::sync::oneshot;
use tracing::{error, warn};

use super::chain::{AuditFileName, Head, Last, audit_files, tail};
use super::counts::Lost;
use super::line::{Kind, Line, Rest, milliseconds};
use crate::lock::{Lock, busy};
use crate::own_files::{make_dir, make_file};

/// Held while a process writes the log.
const LOCK: &str = "audit.lock";

/// Where a log is kept, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRules {
    /// Made where it is not there, for this user alone.
    pub dir: PathBuf,
    /// A file of that many bytes is followed by the next. It may be longer by one batch.
    pub file_bytes_max: u64,
    /// The oldest beyond that many are removed. `None`: none is.
    pub keep_files: Option<u64>,
}

/// What waits to be written.
#[derive(Debug)]
pub(super) enum Entry {
    Sealed(Box<SealedEntry>),
    /// And who waits for it.
    Change(AdminChange, oneshot::Sender<()>),
}

impl Entry {
    /// It is written.
    pub fn done(self) {
        if let Self::Change(_, waiting) = self {
            // Who asked may have left.
            let _: Result<(), ()> = waiting.send(());
        }
    }
}

#[derive(Debug)]
pub(super) struct Writer {
    rules: AuditRules,
    name: AuditFileName,
    file: File,
    /// Of the file, as far as it is known to be whole.
    bytes: u64,
    /// Whether something may stand behind that.
    is_torn: bool,
    /// The newest file, and how much of it is on the disk.
    synced: (AuditFileName, u64),
    head: Head,
    _lock: Lock,
}

impl Writer {
    /// Goes on with what is in the folder.
    pub fn open(rules: AuditRules) -> io::Result<Self> {
        let dir = &rules.dir;
        make_dir(dir)?;
        let lock = Lock::alone(make_file(&dir.join(LOCK))?)
            .map_err(|error| busy(error, "another process writes this audit log"))?;
        let files = audit_files(dir)?;
        let Some((name, path)) = files.last() else {
            return Self::begin(rules, AuditFileName(1), Rest::default(), lock);
        };
        let mut file = open_own(path, |it| it.read(true))?;
        let found = tail(&mut file)?;
        let aside = put_aside(dir, *name, &found.torn, found.whole_bytes)?;
        let rest = Rest {
            torn_bytes: aside.as_ref().map(|_| found.torn.len() as u64),
            torn_file: aside,
            ..Rest::default()
        };
        if rest.torn_bytes.is_some() {
            file.set_len(found.whole_bytes)?;
            warn!(
                bytes = rest.torn_bytes,
                "audit log ended within a line, which was put aside"
            );
        }
        let head = match found.last {
            Last::Line(head) => head,
            Last::Broken => {
                error!(file = %name, "audit log ends in a broken line; a new chain begins");
                let rest = Rest {
                    last_file: Some(name.to_string()),
                    ..rest
                };
                return Self::begin(rules, AuditFileName(name.0 + 1), rest, lock);
            }
            // A crash between the file and its first line.
            Last::None => return Self::refound(rules, &files, rest, lock),
        };
        let mut writer = Self {
            name: *name,
            file,
            bytes: found.whole_bytes,
            is_torn: false,
            synced: (*name, found.whole_bytes),
            head,
            rules,
            _lock: lock,
        };
        writer.append(&[(Kind::Start, milliseconds(SystemTime::now()), rest)])?;
        writer.sync()?;
        Ok(writer)
    }

    /// A chain of its own, in a file that is not there yet.
    fn begin(rules: AuditRules, name: AuditFileName, rest: Rest, lock: Lock) -> io::Result<Self> {
        let file = open_own(&rules.dir.join(name.to_string()), |it| it.create_new(true))?;
        let (kind, head) = (Kind::Begin, Head::none());
        Self::first(rules, name, file, head, (kind, rest), lock)
    }

    /// The last file once more, which has no line.
    fn refound(
        rules: AuditRules,
        files: &[(AuditFileName, PathBuf)],
        rest: Rest,
        lock: Lock,
    ) -> io::Result<Self> {
        let [before @ .., (name, path)] = files else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let file = open_own(path, |it| it)?;
        let Some((last, path)) = before.last() else {
            return Self::first(rules, *name, file, Head::none(), (Kind::Begin, rest), lock);
        };
        let rest = Rest {
            last_file: Some(last.to_string()),
            ..rest
        };
        let found = tail(&mut open_own(path, |it| it.read(true))?)?;
        let (kind, head) = match found.last {
            Last::Line(head) if found.torn.is_empty() => (Kind::Next, head),
            Last::Line(_) | Last::Broken | Last::None => {
                error!(file = %last, "audit log has a file that does not end in a line; a new chain begins");
                (Kind::Begin, Head::none())
            }
        };
        Self::first(rules, *name, file, head, (kind, rest), lock)
    }

    fn first(
        rules: AuditRules,
        name: AuditFileName,
        file: File,
        head: Head,
        (kind, rest): (Kind, Rest),
        lock: Lock,
    ) -> io::Result<Self> {
        let mut writer = Self {
            rules,
            name,
            file,
            bytes: 0,
            is_torn: false,
            synced: (name, 0),
            head,
            _lock: lock,
        };
        writer.append(&[(kind, milliseconds(SystemTime::now()), rest)])?;
        writer.sync()?;
        sync_dir(&writer.rules.dir)?;
        Ok(writer)
    }

    /// All of it or nothing: after an error the same may be written again.
    pub fn write(&mut self, entries: &[Entry], lost: Lost) -> io::Result<()> {
        if self.bytes >= self.rules.file_bytes_max {
            self.turn()?;
        }
        let gap = (lost.count > 0).then(|| {
            let rest = Rest {
                lost: Some(lost.count),
                since_ms: Some(lost.since_ms),
                ..Rest::default()
            };
            (Kind::Gap, milliseconds(SystemTime::now()), rest)
        });
        let entries = entries.iter().map(|entry| match entry {
            Entry::Sealed(it) => (Kind::Entry, milliseconds(it.at), Rest::of(it)),
            Entry::Change(it, _) => (Kind::Change, milliseconds(it.at), Rest::of_change(it)),
        });
        let lines: Vec<_> = gap.into_iter().chain(entries).collect();
        self.append(&lines)
    }

    /// How much of the newest file is on the disk. What follows may still be taken back.
    pub fn synced(&self) -> (AuditFileName, u64) {
        self.synced
    }

    pub fn is_unsynced(&self) -> bool {
        self.synced != (self.name, self.bytes)
    }

    /// What was written outlives a power cut from here on.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.is_unsynced() {
            self.file.sync_data()?;
            self.synced = (self.name, self.bytes);
        }
        Ok(())
    }

    fn append(&mut self, lines: &[(Kind, u64, Rest)]) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.bytes)?;
            self.is_torn = false;
        }
        let mut head = self.head.clone();
        let mut out = Vec::new();
        for (kind, at_ms, rest) in lines {
            let line = Line {
                seq: head.seq,
                prev: head.hash,
                kind: *kind,
                at_ms: *at_ms,
                rest: rest.clone(),
            };
            head = Head {
                seq: line.seq + 1,
                hash: line.write(&mut out),
            };
        }
        // Until it is known to be whole.
        self.is_torn = true;
        self.file.write_all(&out)?;
        self.is_torn = false;
        self.bytes += out.len() as u64;
        self.head = head;
        Ok(())
    }

    /// Goes on in the next file.
    fn turn(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.bytes)?;
            self.is_torn = false;
        }
        self.sync()?;
        let name = AuditFileName(self.name.0 + 1);
        let path = self.rules.dir.join(name.to_string());
        let rest = Rest {
            last_file: Some(self.name.to_string()),
            ..Rest::default()
        };
        let file = open_own(&path, |it| it.create_new(true))?;
        let lines = [(Kind::Next, milliseconds(SystemTime::now()), rest)];
        let before = std::mem::replace(&mut self.file, file);
        let (last, bytes, head) = (self.name, self.bytes, self.head.clone());
        (self.name, self.bytes) = (name, 0);
        let begun = self.append(&lines).and_then(|()| self.sync());
        let begun = begun.and_then(|()| sync_dir(&self.rules.dir));
        if let Err(error) = begun {
            // The next try makes it anew.
            (self.file, self.name, self.bytes, self.head) = (before, last, bytes, head);
            (self.is_torn, self.synced) = (false, (last, bytes));
            std::fs::remove_file(&path)?;
            return Err(error);
        }
        self.forget();
        Ok(())
    }

    /// Removes the oldest files beyond those to keep. One that stays is no harm.
    fn forget(&self) {
        let Some(keep) = self.rules.keep_files else {
            return;
        };
        let Ok(files) = audit_files(&self.rules.dir) else {
            return;
        };
        let keep = usize::try_from(keep).unwrap_or(usize::MAX).max(1);
        let beyond = files.len().saturating_sub(keep);
        for (name, path) in &files[..beyond] {
            if let Err(error) = std::fs::remove_file(path) {
                warn!(file = %name, %error, "old audit file not removed");
            }
        }
    }
}

/// A file that is this user's alone, to be appended to.
pub(super) fn open_own(
    path: &Path,
    with: impl FnOnce(&mut OpenOptions) -> &mut OpenOptions,
) -> io::Result<File> {
    with(OpenOptions::new().append(true).mode(0o600)).open(path)
}

/// What a crash left of a line is kept, and named.
fn put_aside(dir: &Path, name: AuditFileName, torn: &[u8], at: u64) -> io::Result<Option<String>> {
    if torn.is_empty() {
        return Ok(None);
    }
    let aside = format!("{name}.torn-{at}");
    let mut file = open_own(&dir.join(&aside), |it| it.create(true))?;
    file.set_len(0)?;
    file.write_all(torn)?;
    file.sync_data()?;
    Ok(Some(aside))
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
