//! Puts an event stream together again.

use std::fmt;
use std::mem;

use zeroize::Zeroizing;

use super::recent::{Recent, Record};
use super::{
    BRANCHED, CHANGED, FILL, HOLES_MAX, KEPT, PASSING, RECENT_MAX, RECORD_BYTES_MAX, SAME,
};
use crate::varint::VarintReader;

/// What no encoder writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SlimFault {
    #[error("frame is of no kind that there is")]
    Kind,
    #[error("frame names a record that is not kept")]
    Record,
    #[error("frame names bytes that its record has not")]
    Range,
    #[error("record is longer than {RECORD_BYTES_MAX} bytes")]
    Long,
    #[error("record has more than {HOLES_MAX} holes")]
    Holes,
    #[error("frames end within one")]
    Cut,
}

/// Reads frames however they are cut. Keeps a few records and no more.
#[derive(Default)]
pub struct SlimDecoder {
    recent: Recent<Record>,
    number: VarintReader,
    at: At,
    /// The record that is being put together.
    record: Record,
    /// The last one that is not kept.
    passing: Zeroizing<Vec<u8>>,
    fault: Option<SlimFault>,
}

/// What comes next.
#[derive(Debug, Clone, Copy, Default)]
enum At {
    #[default]
    Kind,
    Number(Number),
    Bytes(Text, usize),
}

/// What a number says.
#[derive(Debug, Clone, Copy)]
enum Number {
    Length(Full),
    Holes(Patch),
    Copied(Patch),
    LeftOut(Patch),
    HoleLength(Patch),
}

/// What bytes are.
#[derive(Debug, Clone, Copy)]
enum Text {
    All(Full),
    Hole(Patch),
}

/// A record in full.
#[derive(Debug, Clone, Copy)]
enum Full {
    Kept,
    Passing,
}

/// A record after another one.
#[derive(Debug, Clone, Copy)]
struct Patch {
    rank: usize,
    form: Form,
    /// Up to here, of the other one, all is copied or left out.
    taken: usize,
    /// Holes still to come, with the one that is being read.
    left: usize,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Same,
    Changed,
    Branched,
}

/// What a step came to.
enum Step {
    To(At),
    /// A record is whole.
    Whole(Full),
    /// More bytes are needed.
    Wait(At),
}

impl SlimDecoder {
    /// The next record that is whole, if it is with `input`, which is moved to what follows. To be
    /// called until there is none; then all of `input` is taken.
    ///
    /// # Errors
    /// What no encoder writes; then for ever.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<&[u8]>, SlimFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        loop {
            match self.step(input) {
                Ok(Step::To(at)) => self.at = at,
                Ok(Step::Whole(full)) => {
                    self.at = At::Kind;
                    return Ok(Some(self.keep(full)));
                }
                Ok(Step::Wait(at)) => {
                    self.at = at;
                    return Ok(None);
                }
                Err(fault) => {
                    self.fault = Some(fault);
                    return Err(fault);
                }
            }
        }
    }

    /// Appends all records that are whole with `input`.
    ///
    /// # Errors
    /// As [`next`](Self::next). A frame of a few bytes can stand for thousands: who does not trust
    /// the other end takes records one by one.
    pub fn push(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<(), SlimFault> {
        while let Some(record) = self.next(&mut input)? {
            out.extend_from_slice(record);
        }
        Ok(())
    }

    /// The frames have ended.
    ///
    /// # Errors
    /// Where they end within one, or were at fault before.
    pub fn finish(&self) -> Result<(), SlimFault> {
        match (self.fault, self.at) {
            (Some(fault), _) => Err(fault),
            (None, At::Kind) => Ok(()),
            (None, At::Number(_) | At::Bytes(..)) => Err(SlimFault::Cut),
        }
    }

    fn step(&mut self, input: &mut &[u8]) -> Result<Step, SlimFault> {
        match self.at {
            At::Kind => {
                let fills = input.iter().take_while(|byte| **byte == FILL).count();
                *input = &input[fills..];
                let Some((kind, rest)) = input.split_first() else {
                    return Ok(Step::Wait(At::Kind));
                };
                *input = rest;
                self.begin(*kind)
            }
            At::Number(what) => {
                let Some(value) = self.number.take(input) else {
                    return Ok(Step::Wait(self.at));
                };
                match usize::try_from(value) {
                    Ok(value @ 0..=RECORD_BYTES_MAX) => self.after_number(what, value),
                    Ok(_) | Err(_) => Err(SlimFault::Long),
                }
            }
            At::Bytes(text, bytes) => {
                let (some, rest) = input.split_at(bytes.min(input.len()));
                *input = rest;
                self.append(some)?;
                if some.len() < bytes {
                    return Ok(Step::Wait(At::Bytes(text, bytes - some.len())));
                }
                match text {
                    Text::All(full) => Ok(Step::Whole(full)),
                    Text::Hole(patch) => self.after_hole(patch),
                }
            }
        }
    }

    fn begin(&mut self, kind: u8) -> Result<Step, SlimFault> {
        let rank = usize::from(kind & 0x0f);
        let form = match kind {
            KEPT => return Ok(Step::To(At::Number(Number::Length(Full::Kept)))),
            PASSING => return Ok(Step::To(At::Number(Number::Length(Full::Passing)))),
            _ if rank >= RECENT_MAX => return Err(SlimFault::Kind),
            _ => match kind & 0xf0 {
                SAME => Form::Same,
                CHANGED => Form::Changed,
                BRANCHED => Form::Branched,
                _ => return Err(SlimFault::Kind),
            },
        };
        let known = self.recent.get(rank).ok_or(SlimFault::Record)?;
        let patch = Patch {
            rank,
            form,
            taken: 0,
            left: known.holes.len(),
        };
        match form {
            Form::Same if patch.left == 0 => self.end(patch),
            Form::Same => self.before_same_hole(patch),
            Form::Changed | Form::Branched => Ok(Step::To(At::Number(Number::Holes(patch)))),
        }
    }

    fn after_number(&mut self, what: Number, value: usize) -> Result<Step, SlimFault> {
        match what {
            Number::Length(full) => Ok(Step::To(At::Bytes(Text::All(full), value))),
            Number::Holes(_) if value > HOLES_MAX => Err(SlimFault::Holes),
            Number::Holes(patch) if value == 0 => self.end(patch),
            Number::Holes(patch) => {
                let patch = Patch {
                    left: value,
                    ..patch
                };
                Ok(Step::To(At::Number(Number::Copied(patch))))
            }
            Number::Copied(patch) => {
                let patch = self.copy(patch, patch.taken + value)?;
                Ok(Step::To(At::Number(Number::LeftOut(patch))))
            }
            Number::LeftOut(patch) => {
                let taken = patch.taken + value;
                let patch = Patch { taken, ..patch };
                Ok(Step::To(At::Number(Number::HoleLength(patch))))
            }
            Number::HoleLength(patch) => {
                let start = self.record.bytes.len();
                self.record.holes.push(start..start + value);
                Ok(Step::To(At::Bytes(Text::Hole(patch), value)))
            }
        }
    }

    fn after_hole(&mut self, patch: Patch) -> Result<Step, SlimFault> {
        let left = patch.left - 1;
        let patch = Patch { left, ..patch };
        match patch.form {
            Form::Same | Form::Changed | Form::Branched if left == 0 => self.end(patch),
            Form::Same => self.before_same_hole(patch),
            Form::Changed | Form::Branched => Ok(Step::To(At::Number(Number::Copied(patch)))),
        }
    }

    /// Copies up to the next of the holes that the other record has.
    fn before_same_hole(&mut self, patch: Patch) -> Result<Step, SlimFault> {
        let known = self.recent.get(patch.rank).ok_or(SlimFault::Record)?;
        let hole = known.holes[known.holes.len() - patch.left].clone();
        let patch = self.copy(patch, hole.start)?;
        let taken = hole.end;
        let patch = Patch { taken, ..patch };
        Ok(Step::To(At::Number(Number::HoleLength(patch))))
    }

    /// Copies what is left of the other record.
    fn end(&mut self, patch: Patch) -> Result<Step, SlimFault> {
        let known = self.recent.get(patch.rank).ok_or(SlimFault::Record)?;
        let end = known.bytes.len();
        self.copy(patch, end)?;
        match patch.form {
            Form::Same | Form::Changed => self.recent.remove(patch.rank),
            Form::Branched => self.record.holes.clear(),
        }
        Ok(Step::Whole(Full::Kept))
    }

    /// Copies of the other record up to `end`.
    fn copy(&mut self, patch: Patch, end: usize) -> Result<Patch, SlimFault> {
        let known = self.recent.get(patch.rank).ok_or(SlimFault::Record)?;
        let copied = known.bytes.get(patch.taken..end).ok_or(SlimFault::Range)?;
        append(&mut self.record, copied)?;
        let taken = end;
        Ok(Patch { taken, ..patch })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), SlimFault> {
        append(&mut self.record, bytes)
    }

    /// The record is whole.
    fn keep(&mut self, full: Full) -> &[u8] {
        let record = mem::take(&mut self.record);
        match full {
            Full::Kept => &self.recent.add(record).bytes,
            Full::Passing => {
                self.passing = record.bytes;
                &self.passing
            }
        }
    }
}

fn append(record: &mut Record, bytes: &[u8]) -> Result<(), SlimFault> {
    if record.bytes.len() + bytes.len() > RECORD_BYTES_MAX {
        return Err(SlimFault::Long);
    }
    record.bytes.extend_from_slice(bytes);
    Ok(())
}

impl fmt::Debug for SlimDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlimDecoder")
            .field("record_bytes", &self.record.bytes.len())
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}
