//! Reads what is preceded by its length, and sections of fields made of it.

use super::InvalidMessage;
use super::fields::Fields;
use crate::varint::VarintReader;

/// Reads one string with its length before it, however the bytes are cut.
#[derive(Debug, Default)]
pub(super) struct StringReader {
    length: VarintReader,
    wanted: Option<usize>,
    read: Vec<u8>,
}

impl StringReader {
    /// The string, once it is whole. Then the reader is as new.
    ///
    /// # Errors
    /// As soon as a length above `bytes_max` is read, before anything is kept.
    pub(super) fn take(
        &mut self,
        input: &mut &[u8],
        bytes_max: usize,
    ) -> Result<Option<Vec<u8>>, InvalidMessage> {
        let wanted = match self.wanted {
            Some(wanted) => wanted,
            None => {
                let Some(length) = self.length.take(input) else {
                    return Ok(None);
                };
                let length = usize::try_from(length).ok();
                let length = length.filter(|length| *length <= bytes_max);
                let length = length.ok_or(InvalidMessage::TooLarge)?;
                *self.wanted.insert(length)
            }
        };
        let missing = wanted - self.read.len();
        let (taken, rest) = input.split_at(missing.min(input.len()));
        self.read.extend_from_slice(taken);
        *input = rest;
        if taken.len() < missing {
            return Ok(None);
        }
        self.wanted = None;
        Ok(Some(std::mem::take(&mut self.read)))
    }

    pub(super) fn is_fresh(&self) -> bool {
        self.wanted.is_none() && self.length.is_fresh()
    }
}

/// How a section says where it ends.
#[derive(Debug)]
enum Extent {
    /// Its length is being read.
    Length(VarintReader),
    /// Bytes that are left of it.
    Left(u64),
    /// It ends with an empty name.
    Open,
}

/// Reads the fields of one section.
#[derive(Debug)]
pub(super) struct SectionReader {
    extent: Extent,
    name: Option<Vec<u8>>,
    string: StringReader,
    fields: Fields,
}

impl SectionReader {
    pub(super) fn known() -> Self {
        Self::new(Extent::Length(VarintReader::default()))
    }

    pub(super) fn open() -> Self {
        Self::new(Extent::Open)
    }

    fn new(extent: Extent) -> Self {
        Self {
            extent,
            name: None,
            string: StringReader::default(),
            fields: Fields::default(),
        }
    }

    /// The fields, once the section is whole.
    pub(super) fn take(&mut self, input: &mut &[u8]) -> Result<Option<Fields>, InvalidMessage> {
        loop {
            match &mut self.extent {
                Extent::Length(length) => {
                    let Some(length) = length.take(input) else {
                        return Ok(None);
                    };
                    if length > crate::limits::SECTION_BYTES_MAX as u64 {
                        return Err(InvalidMessage::TooLarge);
                    }
                    self.extent = Extent::Left(length);
                }
                Extent::Left(left) => {
                    let left = *left;
                    if left == 0 && self.is_between() {
                        return Ok(Some(std::mem::take(&mut self.fields)));
                    }
                    let within = left.min(input.len() as u64) as usize;
                    let mut part = &input[..within];
                    let step = self.line(&mut part)?;
                    let used = within - part.len();
                    *input = &input[used..];
                    self.extent = Extent::Left(left - used as u64);
                    match step {
                        Step::Line => {}
                        // Here a name of no bytes ends nothing.
                        Step::End => return Err(InvalidMessage::Field),
                        // What is left of the section ended within a line.
                        Step::More if left == used as u64 => return Err(InvalidMessage::Field),
                        Step::More => return Ok(None),
                    }
                }
                Extent::Open => match self.line(input)? {
                    Step::Line => {}
                    Step::End => return Ok(Some(std::mem::take(&mut self.fields))),
                    Step::More => return Ok(None),
                },
            }
        }
    }

    /// Whether nothing of the section was read: it may be missing.
    pub(super) fn is_fresh(&self) -> bool {
        let begun = match &self.extent {
            Extent::Length(length) => !length.is_fresh(),
            Extent::Left(_) => true,
            Extent::Open => false,
        };
        !begun && self.fields.is_empty() && self.is_between()
    }

    /// Whether no line is half read.
    fn is_between(&self) -> bool {
        self.name.is_none() && self.string.is_fresh()
    }

    fn line(&mut self, input: &mut &[u8]) -> Result<Step, InvalidMessage> {
        let bytes_max = self.fields.bytes_left();
        if self.name.is_none() {
            match self.string.take(input, bytes_max)? {
                None => return Ok(Step::More),
                Some(name) if name.is_empty() => return Ok(Step::End),
                Some(name) => self.name = Some(name),
            }
        }
        let Some(value) = self.string.take(input, bytes_max)? else {
            return Ok(Step::More);
        };
        let name = self.name.take().unwrap_or_default();
        self.fields.push_bytes(name, value)?;
        Ok(Step::Line)
    }
}

/// What came of reading on.
enum Step {
    Line,
    End,
    /// The input is used up.
    More,
}
