//! A chunked response, sealed at the relay and opened at the edge.

use rand::CryptoRng;
use zeroize::Zeroizing;

use super::cipher::{Cipher, ResponseSecret};
use super::framing::{ChunkOpener, ChunkSealer};
use super::{SealFault, Unopened};
use crate::limits::RESPONSE_BYTES_MAX;

/// The relay's end, before its first byte.
#[derive(Debug)]
pub struct ResponseSealer {
    secret: ResponseSecret,
}

impl ResponseSealer {
    pub(super) fn new(secret: ResponseSecret) -> Self {
        Self { secret }
    }

    /// Writes a fresh nonce, and derives from it what the chunks are sealed with.
    pub fn start<R: CryptoRng>(self, rng: &mut R, out: &mut Vec<u8>) -> ChunkedResponse {
        let at = out.len();
        out.resize(at + self.secret.nonce_bytes(), 0);
        rng.fill_bytes(&mut out[at..]);
        ChunkedResponse {
            chunks: ChunkSealer::new(self.secret.cipher(&out[at..]), RESPONSE_BYTES_MAX),
        }
    }
}

/// A response under way. Dropped before [`finish`](Self::finish) it has no end, and its reader
/// knows.
#[derive(Debug)]
pub struct ChunkedResponse {
    chunks: ChunkSealer<Cipher>,
}

impl ChunkedResponse {
    /// Seals `plain` at once, in as few chunks as it fits into. Nothing of it makes no chunk.
    ///
    /// # Errors
    /// [`SealFault::TooLong`]
    pub fn push(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), SealFault> {
        self.chunks.push(plain, out)
    }

    /// The rest, and the end.
    ///
    /// # Errors
    /// [`SealFault::TooLong`]
    pub fn finish(mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), SealFault> {
        self.chunks.finish(plain, out)
    }
}

#[derive(Debug)]
enum Place {
    Nonce(Vec<u8>),
    Chunks(Box<ChunkOpener<Cipher>>),
}

/// The edge's end.
#[derive(Debug)]
pub struct ResponseOpener {
    secret: ResponseSecret,
    place: Place,
}

impl ResponseOpener {
    pub(super) fn new(secret: ResponseSecret) -> Self {
        Self {
            secret,
            place: Place::Nonce(Vec::new()),
        }
    }

    /// The next chunk of plaintext, never an empty one; `None` when `input` is used up.
    ///
    /// # Errors
    /// Once and for all.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<&[u8]>, Unopened> {
        if let Place::Nonce(nonce) = &mut self.place {
            let wanted = self.secret.nonce_bytes() - nonce.len();
            let (taken, rest) = input.split_at(wanted.min(input.len()));
            nonce.extend_from_slice(taken);
            *input = rest;
            if taken.len() < wanted {
                return Ok(None);
            }
            let cipher = self.secret.cipher(nonce);
            let chunks = ChunkOpener::new(cipher, RESPONSE_BYTES_MAX);
            self.place = Place::Chunks(Box::new(chunks));
        }
        match &mut self.place {
            Place::Nonce(_) => Ok(None),
            Place::Chunks(chunks) => chunks.next(input),
        }
    }

    /// The input has ended: the last plaintext.
    ///
    /// # Errors
    /// Where the response is not whole: what came of it is no complete answer.
    pub fn finish(self) -> Result<Zeroizing<Vec<u8>>, Unopened> {
        match self.place {
            Place::Nonce(_) => Err(Unopened),
            Place::Chunks(chunks) => Ok(chunks.finish()?.1),
        }
    }
}
