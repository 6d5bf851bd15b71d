//! Slim frames: an event stream as differences, between an edge and a relay of ours.
//!
//! Each token of a provider's stream comes in the same envelope of JSON, some 100 to 300 bytes of it.
//! A frame names an event before it and says only what differs; the edge puts the event together
//! again, byte for byte. So cells can be an eighth as long, and what they cost is less than what they
//! fill. Asked for by [`FRAMES_FIELD`] in the inner request and said by it in the inner response;
//! without it, and for what is no event stream, a body is as it is.
//!
//! A *record* is the unit: an event with the blank line that ends it, or a piece of one that is too
//! long or has to go before it is whole. Both ends keep the [`RECENT_MAX`] last records of different
//! kinds, the latest first, each with its *holes*: the ranges that differed from the record before.
//!
//! | first byte | frame | after it |
//! | --- | --- | --- |
//! | `00` | none: fills a cell | |
//! | `01` | a record in full, kept beside the others | length, bytes |
//! | `02` | a record in full that is not kept | length, bytes |
//! | `10` + n | as record n but for what stands in its holes; takes its place | for each hole: length, bytes |
//! | `20` + n | as record n but for these holes; takes its place | count, then for each hole: bytes copied before it, bytes of record n left out, length, bytes |
//! | `30` + n | the same, kept beside record n, without holes | the same |
//!
//! Numbers are integers of variable length (RFC 9000, section 16). What is left of record n after
//! the last hole is copied.
//!
//! Holes are what stands between two quotation marks that are not escaped, so a hole is a whole
//! string of JSON or what stands between two. That is cheap to find, and keeps the differences from
//! telling more than the plain stream does: a frame is as long as the strings that change, however
//! much of them stood in the record before. Nothing else of a stream is looked for, so text does not
//! become shorter by having been said before. Nor are lengths of frames seen from outside: a shape
//! fills its cells as it does without frames, and a cell of the smallest size holds some ten tokens.

mod decoder;
mod encoder;
mod recent;

pub use decoder::{SlimDecoder, SlimFault};
pub use encoder::SlimEncoder;

/// The field in which an edge asks for frames, and a relay says that it sends them.
pub const FRAMES_FIELD: &str = "relay-frames";

/// Its value.
pub const SLIM_FRAMES: &str = "slim/1";

/// Longest record, in bytes. An event that is longer goes in records that are not kept; a longer
/// record is refused.
pub const RECORD_BYTES_MAX: usize = 8 << 10;

/// Records that both ends keep. Of one more the one that was used least lately is forgotten.
pub const RECENT_MAX: usize = 4;

/// Holes of one record. An event that differs in more places goes in full; more are refused.
pub const HOLES_MAX: usize = 32;

const FILL: u8 = 0x00;
const KEPT: u8 = 0x01;
const PASSING: u8 = 0x02;
const SAME: u8 = 0x10;
const CHANGED: u8 = 0x20;
const BRANCHED: u8 = 0x30;

/// Appends what readers drop. Only between two frames.
pub(crate) fn fill(bytes: usize, out: &mut Vec<u8>) {
    out.resize(out.len() + bytes, FILL);
}
