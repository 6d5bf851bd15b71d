//! Whether files are a chain, and where they are not. A line is held at a time.

use std::io::{self, BufRead};

use super::LINE_BYTES_MAX;
use super::chain::{AuditFileName, Head};
use super::line::{Kind, Line, NO_HASH, Unreadable};

/// Breaches that are told one by one. Further ones are counted.
pub const BREACHES_MAX: usize = 100;

/// Reads the files of one log, oldest first, and says what became of it.
#[derive(Debug, Default)]
pub struct Verifier {
    report: AuditReport,
    /// `None` before the first line.
    head: Option<Head>,
    file: String,
    /// Of the lines of `file`.
    line: u64,
    wanted_head: Option<String>,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditReport {
    pub files: u64,
    /// Whole ones, right or not.
    pub lines: u64,
    pub entries: u64,
    /// Of operators.
    pub changes: u64,
    /// How often a process went on with the chain.
    pub starts: u64,
    /// Lines that say that entries are missing, and how many all of them say.
    pub gaps: u64,
    pub lost: u64,
    /// Ends of lines that crashes cut, which were put aside when the log went on.
    pub torn: u64,
    /// Number of the first line: not 0 where older files are gone.
    pub first_seq: Option<u64>,
    /// Of entries, in milliseconds since 1970.
    pub first_ms: Option<u64>,
    pub last_ms: Option<u64>,
    /// Digest of the last line.
    pub head: Option<String>,
    pub breaches: Vec<Breach>,
    pub breach_count: u64,
}

/// A place where the chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    pub file: String,
    /// From 1; 0 where it is of no line.
    pub line: u64,
    pub kind: BreachKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BreachKind {
    #[error("this is no line of an audit log")]
    Form,
    #[error("the line was changed: its digest is of something else")]
    Hash,
    #[error("the line does not follow the one before: one is missing, moved or put in")]
    Order,
    #[error(
        "the log does not begin here: what comes before was taken away, or another chain begins"
    )]
    Beginning,
    #[error(
        "the file does not follow the one before, or is not the one that its first line follows"
    )]
    File,
    #[error("the end of the last line is missing: cut off, or being written")]
    Torn,
    #[error("no line has the digest that was kept: the log was cut before it, or is another")]
    Head,
}

impl Verifier {
    /// Of a log among whose lines must be one with the digest `head`, where that is known.
    #[must_use]
    pub fn new(head: Option<String>) -> Self {
        Self {
            wanted_head: head,
            ..Self::default()
        }
    }

    /// The next file. `each` gets every entry that is what was written.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(
        &mut self,
        name: &str,
        mut reader: impl BufRead,
        mut each: impl FnMut(&AuditEntry<'_>),
    ) -> io::Result<()> {
        let last_file = std::mem::replace(&mut self.file, name.to_owned());
        self.line = 0;
        self.report.files += 1;
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let found = read_line(&mut reader, &mut bytes)?;
            self.line += 1;
            match found {
                Found::End => break,
                Found::Torn => self.breach(BreachKind::Torn),
                Found::TooLong => self.breach(BreachKind::Form),
                Found::Line => self.take(&bytes, &last_file, &mut each),
            }
        }
        Ok(())
    }

    #[must_use]
    pub fn finish(mut self) -> AuditReport {
        if self.wanted_head.is_some() {
            self.line = 0;
            self.breach(BreachKind::Head);
        }
        self.report.head = self.head.map(|head| head.hash);
        self.report
    }

    fn take(&mut self, bytes: &[u8], last_file: &str, each: &mut impl FnMut(&AuditEntry<'_>)) {
        self.report.lines += 1;
        let (line, hash) = match Line::read(bytes) {
            Ok(read) => read,
            Err(Unreadable::Form) => return self.breach(BreachKind::Form),
            Err(Unreadable::Hash) => return self.breach(BreachKind::Hash),
        };
        if let Some(wrong) = self.misplaced(&line, last_file) {
            self.breach(wrong);
        }
        self.report.first_seq.get_or_insert(line.seq);
        if self.wanted_head.as_ref() == Some(&hash) {
            self.wanted_head = None;
        }
        // From here on as if all were well, so that each breach is told once.
        self.head = Some(Head {
            seq: line.seq.saturating_add(1),
            hash,
        });
        self.count(&line);
        if line.kind == Kind::Entry {
            each(&AuditEntry(&line));
        }
    }

    fn misplaced(&self, line: &Line, last_file: &str) -> Option<BreachKind> {
        let is_first = self.line == 1;
        let begins_file = matches!(line.kind, Kind::Begin | Kind::Next);
        let Some(head) = &self.head else {
            // Older files may be gone, as the log's rules say; a file's first lines may not.
            let is_beginning = line.kind == Kind::Begin && line.seq == 0 && line.prev == NO_HASH;
            let is_further = line.kind == Kind::Next && is_first;
            return (!is_beginning && !is_further).then_some(BreachKind::Beginning);
        };
        if line.kind == Kind::Begin {
            return Some(BreachKind::Beginning);
        }
        if line.prev != head.hash || line.seq != head.seq {
            return Some(match is_first {
                true => BreachKind::File,
                false => BreachKind::Order,
            });
        }
        let follows = || {
            let named = line.rest.last_file.as_deref();
            // Copies may be called otherwise.
            let is_log = AuditFileName::read(last_file).is_some();
            named == Some(last_file) || !is_log
        };
        let is_right = match begins_file {
            true => is_first && follows(),
            false => !is_first,
        };
        (!is_right).then_some(BreachKind::File)
    }

    fn count(&mut self, line: &Line) {
        let report = &mut self.report;
        report.torn += u64::from(line.rest.torn_bytes.is_some());
        match line.kind {
            Kind::Begin | Kind::Next => {}
            Kind::Start => report.starts += 1,
            Kind::Gap => {
                report.gaps += 1;
                report.lost = report.lost.saturating_add(line.rest.lost.unwrap_or(0));
            }
            Kind::Change => report.changes += 1,
            Kind::Entry => {
                report.entries += 1;
                let (first, last) = (report.first_ms, report.last_ms);
                report.first_ms = Some(first.map_or(line.at_ms, |it| it.min(line.at_ms)));
                report.last_ms = Some(last.map_or(line.at_ms, |it| it.max(line.at_ms)));
            }
        }
    }

    fn breach(&mut self, kind: BreachKind) {
        self.report.breach_count += 1;
        if self.report.breaches.len() < BREACHES_MAX {
            self.report.breaches.push(Breach {
                file: self.file.clone(),
                line: self.line,
                kind,
            });
        }
    }
}

/// An entry whose digest is right.
#[derive(Debug)]
pub struct AuditEntry<'a>(pub(super) &'a Line);

enum Found {
    End,
    Line,
    Torn,
    TooLong,
}

/// Without the line's end. What is too long is passed over up to the next line.
fn read_line(reader: &mut impl BufRead, out: &mut Vec<u8>) -> io::Result<Found> {
    let mut is_too_long = false;
    loop {
        let have = match reader.fill_buf() {
            Ok(have) => have,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if have.is_empty() {
            return Ok(match out.is_empty() && !is_too_long {
                true => Found::End,
                false => Found::Torn,
            });
        }
        let end = have.iter().position(|byte| *byte == b'\n');
        let part = &have[..end.unwrap_or(have.len())];
        if out.len() + part.len() > LINE_BYTES_MAX {
            is_too_long = true;
            out.clear();
        } else if !is_too_long {
            out.extend_from_slice(part);
        }
        let used = end.map_or(have.len(), |at| at + 1);
        reader.consume(used);
        if end.is_some() {
            return Ok(match is_too_long {
                true => Found::TooLong,
                false => Found::Line,
            });
        }
    }
}
