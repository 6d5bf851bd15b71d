//! What sizes and times tell.
//!
//! A shape makes cells of one size of a response, and says when. What is missing in a cell is filled
//! with what every reader passes over: an event stream's comment lines, informational responses
//! before the status, zeros after the end. The shapes are values that are told the time; they wait
//! for nothing. An event stream can go as slim frames; then readers pass over zeros between those, and
//! after the first cell of `cells`, which holds the head, the others are an eighth as long.
//!
//! | shape | a cell goes out | hides |
//! | --- | --- | --- |
//! | `off` | with each piece, of its size | nothing |
//! | `cells` | at once, then every 20 ms at most while there is something | sizes of events |
//! | `constant` | every 50 ms, from the request to a length among few | also when and how fast |

mod cells;
mod constant;
mod fill;
mod lines;
mod off;
mod padding;
mod stream;

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

pub use fill::FillStripper;
pub use lines::LineCutter;
pub use padding::{REQUEST_PAD_BLOCK, RequestPad};

use crate::bhttp::{Fields, InvalidMessage};

/// The field in which an edge asks for a shape, and a relay says which one it is.
pub const SHAPE_FIELD: &str = "relay-shape";

/// The field that fills informational responses; nobody needs to read it.
pub(crate) const PADDING_FIELD: &str = "padding";

/// For how long `cells` collects what comes after a cell.
pub const CELL_WINDOW: Duration = Duration::from_millis(20);

/// From one cell of `constant` to the next.
pub const TICK: Duration = Duration::from_millis(50);

/// What a shape holds of a response that comes faster than it goes out. Then its source has to wait.
pub const QUEUE_BYTES_MAX: usize = 1 << 20;

/// Plaintext of a cell, in bytes. The two smallest are made for slim frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CellSize {
    B64,
    B128,
    B512,
    KiB1,
    KiB4,
}

impl CellSize {
    pub const ALL: [Self; 5] = [Self::B64, Self::B128, Self::B512, Self::KiB1, Self::KiB4];

    pub fn bytes(self) -> usize {
        match self {
            Self::B64 => 64,
            Self::B128 => 128,
            Self::B512 => 512,
            Self::KiB1 => 1_024,
            Self::KiB4 => 4_096,
        }
    }

    /// What `cells` makes of it for slim frames, which are not an eighth as long as what they stand
    /// for.
    fn slim(self) -> Self {
        match self {
            Self::B64 | Self::B128 | Self::B512 => Self::B64,
            Self::KiB1 => Self::B128,
            Self::KiB4 => Self::B512,
        }
    }
}

/// What a response's body is, so what can be put into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Body {
    /// An event stream, where comment lines mean nothing.
    Events,
    /// An event stream that goes as slim frames: it is brought as it is, and the edge has a
    /// [`SlimDecoder`](crate::slim::SlimDecoder).
    Slim,
    /// Nothing can be put into it.
    Other,
}

/// By how much the next possible length of a `constant` response is longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bucket {
    Quarter,
    Double,
    Fourfold,
}

impl Bucket {
    pub const ALL: [Self; 3] = [Self::Quarter, Self::Double, Self::Fourfold];

    pub fn as_label(self) -> &'static str {
        match self {
            Self::Quarter => "1.25",
            Self::Double => "2",
            Self::Fourfold => "4",
        }
    }

    /// The shortest length, in cells. With the widest steps it is 16 s, so that most answers are as
    /// long as each other: lengths of 1, 4 and 16 s told answers of 4 s from ones of 6 s (an area of
    /// 0.74 under the curve, docs/leak.md), and this one does not.
    fn least(self) -> u64 {
        match self {
            Self::Quarter | Self::Double => 20,
            Self::Fourfold => 320,
        }
    }

    /// The possible length after `cells`.
    fn after(self, cells: u64) -> u64 {
        match self {
            Self::Quarter => cells.saturating_add(cells.div_ceil(4)),
            Self::Double => cells.saturating_mul(2),
            Self::Fourfold => cells.saturating_mul(4),
        }
    }
}

/// How a response is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    Off,
    Cells(CellSize),
    Constant(CellSize, Bucket),
}

impl Default for Shape {
    fn default() -> Self {
        Self::Cells(CellSize::B512)
    }
}

impl Shape {
    /// For metrics.
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Cells(_) => "cells",
            Self::Constant(..) => "constant",
        }
    }

    /// All that can be asked for, as a manifest lists them.
    pub fn all() -> Vec<Self> {
        let cells = CellSize::ALL.map(Self::Cells);
        let constant = CellSize::ALL
            .into_iter()
            .flat_map(|size| Bucket::ALL.map(|bucket| Self::Constant(size, bucket)));
        [Self::Off]
            .into_iter()
            .chain(cells)
            .chain(constant)
            .collect()
    }
}

/// As [`SHAPE_FIELD`] has it: `off`, `cells;size=512`, `constant;size=512;bucket=4`.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_label())?;
        match self {
            Self::Off => Ok(()),
            Self::Cells(size) => write!(f, ";size={}", size.bytes()),
            Self::Constant(size, bucket) => {
                write!(f, ";size={};bucket={}", size.bytes(), bucket.as_label())
            }
        }
    }
}

/// No shape that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("shape is none of `off`, `cells;size=512`, `constant;size=512;bucket=4` and their like")]
pub struct NoShape;

impl FromStr for Shape {
    type Err = NoShape;

    fn from_str(text: &str) -> Result<Self, NoShape> {
        let mut all = Self::all().into_iter();
        all.find(|shape| shape.to_string() == text).ok_or(NoShape)
    }
}

/// Plaintext of one chunk, to be sealed and sent at once; the final one as the final chunk.
#[derive(PartialEq, Eq)]
pub struct Cell {
    pub plain: Zeroizing<Vec<u8>>,
    pub is_final: bool,
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Cell({} bytes, final: {})",
            self.plain.len(),
            self.is_final
        )
    }
}

/// What a shape took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    pub cells: u64,
    /// Of the response's body.
    pub content_bytes: u64,
    /// Of everything that was sent, without tags and lengths of chunks.
    pub plain_bytes: u64,
    /// Ticks of `constant` that nothing could go at.
    pub missed_ticks: u64,
}

/// One response on its way into cells.
#[derive(Debug)]
pub enum Shaper {
    Off(off::Off),
    Cells(Box<cells::Cells>),
    Constant(Box<constant::Constant>),
}

impl Shaper {
    /// For a request that was accepted at `now`.
    pub fn new(shape: Shape, now: Instant) -> Self {
        match shape {
            Shape::Off => Self::Off(off::Off::default()),
            Shape::Cells(size) => Self::Cells(Box::new(cells::Cells::new(size))),
            Shape::Constant(size, bucket) => {
                Self::Constant(Box::new(constant::Constant::new(size, bucket, now)))
            }
        }
    }

    /// The response begins. To be called once, before all that follows.
    ///
    /// # Errors
    /// Where `status` is not final, or the header leaves no room in its bounds.
    pub fn begin(
        &mut self,
        status: u16,
        header: &Fields,
        body: Body,
    ) -> Result<(), InvalidMessage> {
        match self {
            Self::Off(off) => off.begin(status, header, body),
            Self::Cells(cells) => cells.begin(status, header, body),
            Self::Constant(constant) => constant.stream.begin(status, header, body),
        }
    }

    /// Some of the body. All of it is taken; whoever brings it stops while there is no
    /// [`room`](Self::room).
    pub fn push(&mut self, content: &[u8]) {
        match self {
            Self::Off(off) => off.push(content),
            Self::Cells(cells) => cells.stream.push(content),
            Self::Constant(constant) => constant.stream.push(content),
        }
    }

    /// The body has ended.
    pub fn end(&mut self, trailer: &Fields) {
        match self {
            Self::Off(off) => off.end(trailer),
            Self::Cells(cells) => cells.stream.end(trailer),
            Self::Constant(constant) => constant.stream.end(trailer),
        }
    }

    /// The next cell, where one is due. To be called until there is none, after each of the above
    /// and at [`due`](Self::due).
    pub fn next(&mut self, now: Instant) -> Option<Cell> {
        match self {
            Self::Off(off) => off.next(),
            Self::Cells(cells) => cells.next(now),
            Self::Constant(constant) => constant.next(now),
        }
    }

    /// When a cell is due that is not yet. `None`: not before something is told.
    pub fn due(&self) -> Option<Instant> {
        match self {
            Self::Off(_) => None,
            Self::Cells(cells) => cells.due(),
            Self::Constant(constant) => constant.due(),
        }
    }

    /// How many bytes may be brought before some have gone.
    pub fn room(&self) -> usize {
        let held = match self {
            Self::Off(off) => off.held(),
            Self::Cells(cells) => cells.stream.held(),
            Self::Constant(constant) => constant.stream.held(),
        };
        QUEUE_BYTES_MAX.saturating_sub(held)
    }

    pub fn spent(&self) -> Spent {
        match self {
            Self::Off(off) => off.spent(),
            Self::Cells(cells) => cells.stream.spent(),
            Self::Constant(constant) => constant.spent(),
        }
    }
}
