//! Reads a message as its bytes come.

use super::fields::Fields;
use super::line::RequestLine;
use super::section::{SectionReader, StringReader};
use super::{Framing, InvalidMessage};
use crate::limits::{CONTROL_BYTES_MAX, INFORMATIONAL_MAX};
use crate::varint::VarintReader;

/// What a message is made of, in the order it comes.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// The beginning of a request.
    Request(RequestLine, Fields),
    /// Before the beginning of a response, any number of times.
    Informational(u16, Fields),
    /// The beginning of a response.
    Response(u16, Fields),
    /// Some of the body, never nothing.
    Content(&'a [u8]),
    /// The end of the body, with what follows it. Padding may come, and nothing else.
    Trailer(Fields),
}

/// What a section of fields belongs to.
#[derive(Debug)]
enum Owner {
    Request(RequestLine),
    Informational(u16),
    Response(u16),
    Trailer,
}

#[derive(Debug)]
enum Place {
    Framing(VarintReader),
    Line(StringReader, Vec<Vec<u8>>),
    Status(VarintReader),
    Section(Owner, SectionReader),
    ContentLength(VarintReader),
    /// Bytes that are left of a body of known length.
    Content(u64),
    /// Before the length of a piece of the body; whether there was one already.
    PieceLength(VarintReader, bool),
    /// Bytes that are left of a piece.
    Piece(u64),
    Padding,
    Broken(InvalidMessage),
}

/// Reads one message.
#[derive(Debug)]
pub struct MessageReader {
    is_request: bool,
    /// As the message says of itself, once it has.
    is_known: bool,
    informational: u32,
    place: Place,
}

impl MessageReader {
    pub fn request() -> Self {
        Self::new(true)
    }

    pub fn response() -> Self {
        Self::new(false)
    }

    fn new(is_request: bool) -> Self {
        Self {
            is_request,
            is_known: false,
            informational: 0,
            place: Place::Framing(VarintReader::default()),
        }
    }

    /// The next part; `None` when `input` is used up.
    ///
    /// # Errors
    /// Once and for all.
    pub fn next<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Part<'i>>, InvalidMessage> {
        let read = self.read(input);
        if let Err(invalid) = &read {
            self.place = Place::Broken(*invalid);
        }
        read
    }

    /// The input has ended: the parts that it left out, one a call, then `None`.
    ///
    /// # Errors
    /// [`InvalidMessage::CutShort`] where what is missing is not empty.
    pub fn finish(&mut self) -> Result<Option<Part<'static>>, InvalidMessage> {
        match &self.place {
            Place::Section(_, section) if section.is_fresh() => {
                self.end_of_section(Fields::default())
            }
            Place::ContentLength(length) | Place::PieceLength(length, false)
                if length.is_fresh() =>
            {
                self.place = Place::Padding;
                Ok(Some(Part::Trailer(Fields::default())))
            }
            Place::Padding => Ok(None),
            Place::Broken(invalid) => Err(*invalid),
            Place::Framing(_)
            | Place::Line(..)
            | Place::Status(_)
            | Place::Section(..)
            | Place::ContentLength(_)
            | Place::Content(_)
            | Place::PieceLength(..)
            | Place::Piece(_) => {
                self.place = Place::Broken(InvalidMessage::CutShort);
                Err(InvalidMessage::CutShort)
            }
        }
    }

    fn read<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Part<'i>>, InvalidMessage> {
        loop {
            match &mut self.place {
                Place::Framing(number) => {
                    let Some(number) = number.take(input) else {
                        return Ok(None);
                    };
                    self.place = self.after_framing(number)?;
                }
                Place::Line(string, parts) => {
                    let used: usize = parts.iter().map(Vec::len).sum();
                    let Some(part) = string.take(input, CONTROL_BYTES_MAX - used)? else {
                        return Ok(None);
                    };
                    parts.push(part);
                    if parts.len() == 4 {
                        let line = RequestLine::from_parts(std::mem::take(parts))?;
                        self.place = self.section_of(Owner::Request(line));
                    }
                }
                Place::Status(status) => {
                    let Some(status) = status.take(input) else {
                        return Ok(None);
                    };
                    let owner = self.after_status(status)?;
                    self.place = self.section_of(owner);
                }
                Place::Section(_, section) => {
                    let Some(fields) = section.take(input)? else {
                        return Ok(None);
                    };
                    return self.end_of_section(fields);
                }
                Place::ContentLength(length) => {
                    let Some(length) = length.take(input) else {
                        return Ok(None);
                    };
                    self.place = Place::Content(length);
                }
                Place::Content(0) => self.place = self.section_of(Owner::Trailer),
                Place::PieceLength(length, _) => {
                    let Some(length) = length.take(input) else {
                        return Ok(None);
                    };
                    self.place = match length {
                        0 => self.section_of(Owner::Trailer),
                        length => Place::Piece(length),
                    };
                }
                Place::Piece(0) => self.place = Place::PieceLength(VarintReader::default(), true),
                Place::Content(left) | Place::Piece(left) => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let (part, rest) = input.split_at((*left).min(input.len() as u64) as usize);
                    *left -= part.len() as u64;
                    *input = rest;
                    return Ok(Some(Part::Content(part)));
                }
                Place::Padding => {
                    let padding = std::mem::take(input);
                    if padding.iter().any(|byte| *byte != 0) {
                        return Err(InvalidMessage::Padding);
                    }
                    return Ok(None);
                }
                Place::Broken(invalid) => return Err(*invalid),
            }
        }
    }

    fn after_framing(&mut self, number: u64) -> Result<Place, InvalidMessage> {
        let (known, open) = if self.is_request {
            (Framing::KnownRequest, Framing::OpenRequest)
        } else {
            (Framing::KnownResponse, Framing::OpenResponse)
        };
        self.is_known = number == u64::from(known.id());
        if !self.is_known && number != u64::from(open.id()) {
            return Err(InvalidMessage::Framing);
        }
        Ok(if self.is_request {
            Place::Line(StringReader::default(), Vec::new())
        } else {
            Place::Status(VarintReader::default())
        })
    }

    fn after_status(&mut self, status: u64) -> Result<Owner, InvalidMessage> {
        match status {
            100..200 if self.informational == INFORMATIONAL_MAX => Err(InvalidMessage::TooLarge),
            100..200 => {
                self.informational += 1;
                Ok(Owner::Informational(status as u16))
            }
            200..600 => Ok(Owner::Response(status as u16)),
            _ => Err(InvalidMessage::Status),
        }
    }

    fn section_of(&self, owner: Owner) -> Place {
        let section = if self.is_known {
            SectionReader::known()
        } else {
            SectionReader::open()
        };
        Place::Section(owner, section)
    }

    fn content(&self) -> Place {
        if self.is_known {
            Place::ContentLength(VarintReader::default())
        } else {
            Place::PieceLength(VarintReader::default(), false)
        }
    }

    /// Goes on after a section, and gives the part that it ended.
    fn end_of_section(&mut self, fields: Fields) -> Result<Option<Part<'static>>, InvalidMessage> {
        let place = std::mem::replace(&mut self.place, Place::Padding);
        let Place::Section(owner, _) = place else {
            return Err(InvalidMessage::CutShort);
        };
        Ok(Some(match owner {
            Owner::Request(line) => {
                self.place = self.content();
                Part::Request(line, fields)
            }
            Owner::Informational(status) => {
                self.place = Place::Status(VarintReader::default());
                Part::Informational(status, fields)
            }
            Owner::Response(status) => {
                self.place = self.content();
                Part::Response(status, fields)
            }
            Owner::Trailer if fields.has_pseudo() => return Err(InvalidMessage::Field),
            Owner::Trailer => Part::Trailer(fields),
        }))
    }
}
