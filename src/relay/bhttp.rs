//! Binary HTTP (RFC 9292), in its known-length and its indeterminate-length form.
//!
//! ```text
//! framing | informational* | method, target or status | header | content | trailer | zeros
//! ```
//!
//! The reader is fed and gives parts, bodies as they come; whatever the cut of the bytes, the parts
//! say the same. A message may end early only where RFC 9292, section 3.8, lets it: before a section
//! or the body, which then are empty. Cut there it is another message, and a right one; that none is
//! cut is for the sealed form to see to.

mod fields;
mod line;
mod reader;
mod section;
mod writer;

pub use fields::Fields;
pub use line::RequestLine;
pub use reader::{MessageReader, Part};
pub(crate) use writer::write_end;
pub use writer::{
    ContentWriter, ResponseWriter, write_known_request, write_known_response, write_request,
};

/// Why a message is none. Nothing of it may be used (RFC 9292, section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    #[error("message begins as none of the kind expected")]
    Framing,
    #[error("message names no method and target that can be")]
    Line,
    #[error("message has a status outside of 100 to 599, or one where it cannot stand")]
    Status,
    #[error("message has a field that cannot be")]
    Field,
    #[error("message is beyond the bounds of a header, a trailer or a target")]
    TooLarge,
    #[error("message ends before its end")]
    CutShort,
    #[error("message is followed by something else than zeros")]
    Padding,
}

/// What a message begins with: RFC 9292, section 3.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    KnownRequest,
    KnownResponse,
    OpenRequest,
    OpenResponse,
}

impl Framing {
    fn id(self) -> u8 {
        match self {
            Self::KnownRequest => 0,
            Self::KnownResponse => 1,
            Self::OpenRequest => 2,
            Self::OpenResponse => 3,
        }
    }
}
