//! Sealed messages: Oblivious HTTP (RFC 9458) and its chunked form
//! (draft-ietf-ohai-chunked-ohttp-08), bytes in and bytes out.
//!
//! ```text
//! request   key id, KEM, KDF, AEAD, enc | length, chunk | length, chunk | ... | 0, last chunk
//! response  nonce                       | length, chunk | length, chunk | ... | 0, last chunk
//! ```
//!
//! Each side is a value that is fed: a sealer appends to a buffer, an opener takes from a slice and
//! gives one chunk at a time. Where the bytes are cut makes no difference. The last chunk runs to
//! the end of the message, so only `finish` opens it; a message that was not finished has no end,
//! and whoever depends on all of it has nothing.
//!
//! Whatever went wrong in opening, the answer is one value, [`Unopened`].

mod cipher;
mod framing;
mod head;
mod request;
mod response;
mod whole;

pub(crate) use cipher::NONCE_BYTES;
#[cfg(test)]
pub(crate) use cipher::{Cipher, Derived};
#[cfg(any(fuzzing, test))]
pub(crate) use framing::fuzz_chunks;
pub use head::{EncDigest, HeadReader, HeadRefused, RequestHead};
pub(crate) use request::PROOF_LABEL;
pub use request::{ProofSecret, RequestOpener, RequestSealer};
pub use response::{ChunkedResponse, ResponseOpener, ResponseSealer};
pub use whole::{
    WholeRequestSealer, WholeResponseOpener, WholeResponseSealer, open_whole_request,
    seal_whole_request,
};

/// The form of a message, which its labels bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// RFC 9458.
    Whole,
    /// draft-ietf-ohai-chunked-ohttp-08.
    Chunked,
}

impl Form {
    pub fn request_media_type(self) -> &'static str {
        match self {
            Self::Whole => "message/ohttp-req",
            Self::Chunked => "message/ohttp-chunked-req",
        }
    }

    pub fn response_media_type(self) -> &'static str {
        match self {
            Self::Whole => "message/ohttp-res",
            Self::Chunked => "message/ohttp-chunked-res",
        }
    }

    fn request_label(self) -> &'static [u8] {
        match self {
            Self::Whole => b"message/bhttp request",
            Self::Chunked => b"message/bhttp chunked request",
        }
    }

    fn response_label(self) -> &'static [u8] {
        match self {
            Self::Whole => b"message/bhttp response",
            Self::Chunked => b"message/bhttp chunked response",
        }
    }
}

/// What marks the last chunk, in its associated data.
const FINAL: &[u8] = b"final";

/// A sealed message that does not open: forged, cut, reordered, of another key, beyond a limit. It
/// does not say which, so that nobody learns it by asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sealed message does not open")]
pub struct Unopened;

/// Why something cannot be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealFault {
    #[error("key configuration holds no key that can be sealed to")]
    Key,
    #[error("message is longer than may be sealed under one key")]
    TooLong,
    #[error("chunk is empty, or longer than may be sealed at once")]
    Chunk,
}
