//! From the bytes of a sealed answer to its head and its body, however they are cut.
//!
//! ```text
//! sealed ─open─► cells ─read─► 102s, passed over │ status, header │ content ─strip─► body │ end │ zeros
//! ```
//! The end of the content is the end of the answer for whoever reads it. That the sealed message is
//! whole is known with its last chunk alone, which shows what it is when the bytes end.

use std::fmt;

use bytes::{Bytes, BytesMut};

use crate::bhttp::{Fields, MessageReader, Part};
use crate::sealed::{ResponseOpener, Unopened};
use crate::shape::FillStripper;
use crate::slim::{FRAMES_FIELD, SLIM_FRAMES, SlimDecoder};

/// An answer that does not open, was cut, or is no response. Nothing more comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sealed answer does not open, or is cut")]
pub(super) struct Broken;

impl From<Unopened> for Broken {
    fn from(_: Unopened) -> Self {
        Self
    }
}

/// Status and header of the answer within.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) header: Fields,
}

#[derive(Debug)]
enum Place {
    BeforeHead,
    Content,
    /// The content has ended. Zeros may follow, and the end of the sealed message is to come.
    Over,
}

pub(super) struct Opening {
    /// Until its last chunk is opened.
    opener: Option<ResponseOpener>,
    reader: MessageReader,
    place: Place,
    head: Option<Head>,
    takes_slim: bool,
    body: Body,
    /// Ready to be handed on.
    content: BytesMut,
}

impl Opening {
    /// `takes_slim` says whether frames were asked for.
    pub(super) fn new(opener: ResponseOpener, takes_slim: bool) -> Self {
        Self {
            opener: Some(opener),
            reader: MessageReader::response(),
            place: Place::BeforeHead,
            head: None,
            takes_slim,
            body: Body::AsItIs,
            content: BytesMut::new(),
        }
    }

    /// Some of the sealed answer.
    ///
    /// # Errors
    /// Once and for all. What was ready before may still be taken.
    pub(super) fn push(&mut self, sealed: &[u8]) -> Result<(), Broken> {
        // Taken out, so that after an error there is none.
        let mut opener = self.opener.take().ok_or(Broken)?;
        let mut input = sealed;
        while let Some(plain) = opener.next(&mut input)? {
            self.read(plain)?;
        }
        self.opener = Some(opener);
        Ok(())
    }

    /// The sealed answer has ended.
    ///
    /// # Errors
    /// Where it is not whole.
    pub(super) fn finish(&mut self) -> Result<(), Broken> {
        let opener = self.opener.take().ok_or(Broken)?;
        let last = opener.finish()?;
        self.read(&last)?;
        while let Some(part) = self.reader.finish().map_err(|_| Broken)? {
            self.take(part)?;
        }
        if self.is_over() { Ok(()) } else { Err(Broken) }
    }

    fn read(&mut self, mut plain: &[u8]) -> Result<(), Broken> {
        while let Some(part) = self.reader.next(&mut plain).map_err(|_| Broken)? {
            self.take(part)?;
        }
        Ok(())
    }

    fn take(&mut self, part: Part<'_>) -> Result<(), Broken> {
        match part {
            Part::Request(..) => Err(Broken),
            Part::Informational(..) => Ok(()),
            Part::Response(status, header) => {
                self.body = Body::of(&header, self.takes_slim)?;
                self.head = Some(Head { status, header });
                self.place = Place::Content;
                Ok(())
            }
            Part::Content(content) => self.body.push(content, &mut self.content),
            Part::Trailer(_) => {
                self.place = Place::Over;
                self.body.finish(&mut self.content)
            }
        }
    }

    /// The head, once, as soon as it is there.
    pub(super) fn head(&mut self) -> Option<Head> {
        self.head.take()
    }

    /// What of the body is there and was not taken yet. `None` where there is none.
    pub(super) fn content(&mut self) -> Option<Bytes> {
        (!self.content.is_empty()).then(|| self.content.split().freeze())
    }

    /// Whether all of the body was opened.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.place, Place::Over)
    }
}

/// What one chunk may stand for as slim frames, in bytes: a frame of few bytes can name a record of
/// thousands. A token's event is some hundred; beyond, the answer is broken.
const AHEAD_BYTES_MAX: usize = 8 << 20;

/// How content becomes a body.
enum Body {
    AsItIs,
    /// An event stream, with lines that fill.
    Filled(FillStripper, Vec<u8>),
    /// An event stream as differences.
    Slim(Box<SlimDecoder>),
}

impl Body {
    /// # Errors
    /// For frames that nobody here reads, or that were not asked for.
    fn of(header: &Fields, takes_slim: bool) -> Result<Self, Broken> {
        let mut frames = header.all(FRAMES_FIELD);
        match (frames.next(), frames.next()) {
            (None, _) if is_event_stream(header) => {
                Ok(Self::Filled(FillStripper::default(), Vec::new()))
            }
            (None, _) => Ok(Self::AsItIs),
            (Some(frames), None) if takes_slim && frames == SLIM_FRAMES.as_bytes() => {
                Ok(Self::Slim(Box::default()))
            }
            (Some(_), _) => Err(Broken),
        }
    }

    fn push(&mut self, mut content: &[u8], out: &mut BytesMut) -> Result<(), Broken> {
        match self {
            Self::AsItIs => out.extend_from_slice(content),
            Self::Filled(stripper, stripped) => {
                stripped.clear();
                stripper.push(content, stripped);
                out.extend_from_slice(stripped);
            }
            Self::Slim(decoder) => {
                while let Some(record) = decoder.next(&mut content).map_err(|_| Broken)? {
                    if out.len() + record.len() > AHEAD_BYTES_MAX {
                        return Err(Broken);
                    }
                    out.extend_from_slice(record);
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut BytesMut) -> Result<(), Broken> {
        match self {
            Self::AsItIs => Ok(()),
            Self::Filled(stripper, stripped) => {
                stripped.clear();
                stripper.finish(stripped);
                out.extend_from_slice(stripped);
                Ok(())
            }
            Self::Slim(decoder) => decoder.finish().map_err(|_| Broken),
        }
    }
}

fn is_event_stream(header: &Fields) -> bool {
    let kind = header.only("content-type").unwrap_or_default();
    let essence = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    essence
        .trim_ascii()
        .eq_ignore_ascii_case(b"text/event-stream")
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening")
            .field("place", &self.place)
            .field("content_bytes", &self.content.len())
            .finish_non_exhaustive()
    }
}
