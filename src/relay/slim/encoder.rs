//! Writes an event stream as frames.

use std::fmt;
use std::ops::Range;

use zeroize::{Zeroize, Zeroizing};

use super::recent::Recent;
use super::{BRANCHED, CHANGED, HOLES_MAX, KEPT, PASSING, RECORD_BYTES_MAX, SAME};
use crate::varint;

/// Takes a body however it is cut.
#[derive(Default)]
pub struct SlimEncoder {
    /// An event that is not whole yet; shorter than a record may be.
    held: Zeroizing<Vec<u8>>,
    /// Up to here, of `held`, the lines are whole.
    whole: usize,
    line: Line,
    recent: Recent<Known>,
}

/// Where in its lines a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Line {
    #[default]
    Start,
    Within,
    /// After a carriage return, which may have its line feed to come.
    Return {
        is_blank: bool,
    },
}

impl SlimEncoder {
    /// Appends frames of all events that are whole with `content`.
    pub fn push(&mut self, mut content: &[u8], out: &mut Vec<u8>) {
        while let Some((&byte, rest)) = content.split_first() {
            let (line, ends_before, ends_after) = step(self.line, byte);
            self.line = line;
            if ends_before {
                self.write(out);
            }
            self.held.push(byte);
            content = rest;
            if matches!(byte, b'\n' | b'\r') {
                self.whole = self.held.len();
            } else {
                content = self.take_line(content);
            }
            if ends_after {
                self.write(out);
            } else if self.held.len() == RECORD_BYTES_MAX {
                self.flush(out);
            }
        }
    }

    /// Holds what comes before the next line end, as far as there is room; what is left of `content`.
    fn take_line<'a>(&mut self, content: &'a [u8]) -> &'a [u8] {
        let end = content
            .iter()
            .position(|byte| matches!(byte, b'\n' | b'\r'));
        let room = RECORD_BYTES_MAX - self.held.len();
        let (line, rest) = content.split_at(end.unwrap_or(content.len()).min(room));
        self.held.extend_from_slice(line);
        rest
    }

    /// How many bytes wait for the end of their event.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether some of them are whole lines.
    pub fn holds_lines(&self) -> bool {
        self.whole > 0
    }

    /// Appends what is held of whole lines, though their event is not whole.
    pub fn flush_lines(&mut self, out: &mut Vec<u8>) {
        self.write_passing(self.whole, out);
    }

    /// Appends all that is held. The stream may go on, or have ended.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        self.write_passing(self.held.len(), out);
    }

    fn write_passing(&mut self, bytes: usize, out: &mut Vec<u8>) {
        if bytes > 0 {
            out.push(PASSING);
            with_length(&self.held[..bytes], out);
            self.drop_held(bytes);
        }
    }

    fn drop_held(&mut self, bytes: usize) {
        let left = self.held.len() - bytes;
        self.held.copy_within(bytes.., 0);
        self.held[left..].zeroize();
        self.held.truncate(left);
        self.whole = self.whole.saturating_sub(bytes);
    }

    /// Writes the event that is held.
    fn write(&mut self, out: &mut Vec<u8>) {
        let record = Known::of(&self.held);
        self.drop_held(self.held.len());
        // The usual case: one more token.
        let latest = self.recent.get(0).map(|latest| latest.way(&record, 0).1);
        match latest {
            Some(Way::Same { rank, holes }) => {
                self.write_same(rank, Known { holes, ..record }, out);
            }
            Some(Way::Kept | Way::Changed { .. } | Way::Branched { .. }) | None => {
                self.write_shortest(record, out);
            }
        }
    }

    fn write_shortest(&mut self, record: Known, out: &mut Vec<u8>) {
        let mut best = (1 + string_bytes(record.bytes.len()), Way::Kept);
        for (rank, known) in self.recent.iter().enumerate() {
            let (cost, way) = known.way(&record, rank);
            if cost < best.0 {
                best = (cost, way);
            }
        }
        match best.1 {
            Way::Kept => {
                out.push(KEPT);
                with_length(&record.bytes, out);
                self.recent.add(record);
            }
            Way::Same { rank, holes } => self.write_same(rank, Known { holes, ..record }, out),
            Way::Changed { rank, holes } => {
                let ranges = holes.iter().map(|hole| {
                    let old = self
                        .recent
                        .get(rank)
                        .map_or(0..0, |known| known.string(*hole));
                    (old, record.string(*hole))
                });
                write_holes(CHANGED, rank, ranges, &record.bytes, out);
                self.recent.remove(rank);
                self.recent.add(Known { holes, ..record });
            }
            Way::Branched { rank, old, new } => {
                write_holes(BRANCHED, rank, [(old, new)].into_iter(), &record.bytes, out);
                self.recent.add(record);
            }
        }
    }

    fn write_same(&mut self, rank: usize, record: Known, out: &mut Vec<u8>) {
        out.push(SAME | rank as u8);
        for hole in &record.holes {
            with_length(&record.bytes[record.string(*hole)], out);
        }
        self.recent.remove(rank);
        self.recent.add(record);
    }
}

impl fmt::Debug for SlimEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlimEncoder({} bytes held)", self.held.len())
    }
}

/// What follows a byte, and whether an event ends before or after it. An empty line ends one; a line
/// feed after a carriage return belongs to its line end.
fn step(line: Line, byte: u8) -> (Line, bool, bool) {
    match (line, byte) {
        (Line::Return { is_blank }, b'\n') => (Line::Start, false, is_blank),
        (Line::Return { is_blank: true }, b'\r') => (Line::Return { is_blank: true }, true, false),
        (Line::Start, b'\n') => (Line::Start, false, true),
        (Line::Within, b'\n') => (Line::Start, false, false),
        (Line::Start | Line::Return { .. }, b'\r') => {
            (Line::Return { is_blank: true }, false, false)
        }
        (Line::Within, b'\r') => (Line::Return { is_blank: false }, false, false),
        (Line::Return { is_blank }, _) => (Line::Within, is_blank, false),
        (Line::Start | Line::Within, _) => (Line::Within, false, false),
    }
}

/// A record as the encoder needs it. String n stands before quotation mark n.
struct Known {
    bytes: Zeroizing<Vec<u8>>,
    /// Where the quotation marks are that are not escaped.
    marks: Vec<usize>,
    /// Which strings are holes, in order.
    holes: Vec<usize>,
}

/// How one record differs from another.
enum Difference {
    /// In these strings, of as many.
    Strings(Vec<usize>),
    /// The one has more strings than the other, or they differ in too many.
    Kind,
}

/// How a record can be written.
enum Way {
    Kept,
    Same {
        rank: usize,
        holes: Vec<usize>,
    },
    Changed {
        rank: usize,
        holes: Vec<usize>,
    },
    Branched {
        rank: usize,
        old: Range<usize>,
        new: Range<usize>,
    },
}

impl Known {
    fn of(bytes: &[u8]) -> Self {
        let mut marks = Vec::new();
        let mut is_escaped = false;
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b'"' if !is_escaped => marks.push(at),
                _ => {}
            }
            is_escaped = *byte == b'\\' && !is_escaped;
        }
        Self {
            bytes: Zeroizing::new(bytes.to_vec()),
            marks,
            holes: Vec::new(),
        }
    }

    /// Where string `number` stands, of one more than there are marks.
    fn string(&self, number: usize) -> Range<usize> {
        let start = number
            .checked_sub(1)
            .map_or(0, |before| self.marks[before] + 1);
        start..self.marks.get(number).copied().unwrap_or(self.bytes.len())
    }

    fn difference(&self, record: &Self) -> Difference {
        if self.marks.len() != record.marks.len() {
            return Difference::Kind;
        }
        let mut strings = Vec::new();
        for number in 0..=self.marks.len() {
            if self.bytes[self.string(number)] != record.bytes[record.string(number)] {
                if strings.len() == HOLES_MAX {
                    return Difference::Kind;
                }
                strings.push(number);
            }
        }
        Difference::Strings(strings)
    }

    /// How `record` is written shortest after this one, and with how many bytes.
    fn way(&self, record: &Self, rank: usize) -> (usize, Way) {
        match self.difference(record) {
            Difference::Strings(strings) => self.way_of_strings(record, rank, strings),
            Difference::Kind => self.way_of_kinds(record, rank),
        }
    }

    fn way_of_strings(&self, record: &Self, rank: usize, strings: Vec<usize>) -> (usize, Way) {
        let new = |hole: &usize| string_bytes(record.string(*hole).len());
        let mut copied = 0;
        let changed: usize = strings
            .iter()
            .map(|hole| {
                let old = self.string(*hole);
                let before = old.start - copied;
                copied = old.end;
                varint_bytes(before) + varint_bytes(old.len()) + new(hole)
            })
            .sum();
        let changed = 1 + varint_bytes(strings.len()) + changed;
        let same = 1 + self.holes.iter().map(new).sum::<usize>();
        if same <= changed && strings.iter().all(|string| self.holes.contains(string)) {
            let holes = self.holes.clone();
            return (same, Way::Same { rank, holes });
        }
        let holes = strings;
        (changed, Way::Changed { rank, holes })
    }

    /// One hole, between what both begin and end with.
    fn way_of_kinds(&self, record: &Self, rank: usize) -> (usize, Way) {
        let (old, new) = (&self.bytes[..], &record.bytes[..]);
        let alike = old.iter().zip(new).take_while(|(old, new)| old == new);
        let before = alike.count();
        let (old, new) = (&old[before..], &new[before..]);
        let alike = old
            .iter()
            .rev()
            .zip(new.iter().rev())
            .take_while(|(old, new)| old == new);
        let after = alike.count();
        let old = before..before + old.len() - after;
        let new = before..before + new.len() - after;
        let cost = 2 + varint_bytes(before) + varint_bytes(old.len()) + string_bytes(new.len());
        (cost, Way::Branched { rank, old, new })
    }
}

/// Writes holes, each as a range of the record of this rank and one of `bytes`.
fn write_holes(
    kind: u8,
    rank: usize,
    holes: impl ExactSizeIterator<Item = (Range<usize>, Range<usize>)>,
    bytes: &[u8],
    out: &mut Vec<u8>,
) {
    out.push(kind | rank as u8);
    varint::write(holes.len(), out);
    let mut copied = 0;
    for (old, new) in holes {
        varint::write(old.start - copied, out);
        varint::write(old.len(), out);
        with_length(&bytes[new], out);
        copied = old.end;
    }
}

fn with_length(bytes: &[u8], out: &mut Vec<u8>) {
    varint::write(bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn string_bytes(bytes: usize) -> usize {
    varint_bytes(bytes) + bytes
}

/// Of a number below the length of a record.
fn varint_bytes(value: usize) -> usize {
    1 + usize::from(value >= 0x40)
}
