//! Lengths and chunks, in either direction: the draft, sections 4 to 6.
//!
//! The lengths are not authenticated, the order and the end are: the order by the count in each
//! nonce, the end by associated data. So any form of a length is taken, and any cut of the bytes.

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

use super::{FINAL, SealFault, Unopened};
use crate::contexts::{Open, Seal, Tag};
use crate::limits::{CHUNK_BYTES_MAX, CHUNKS_MAX, SEALED_CHUNK_BYTES_MAX, TAG_BYTES};
use crate::varint::{self, VarintReader};

/// How much of a message there may be, and was.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    chunks_left: u64,
    bytes_left: u64,
}

impl Allowance {
    fn of(bytes_max: u64) -> Self {
        Self {
            chunks_left: CHUNKS_MAX,
            bytes_left: bytes_max,
        }
    }

    fn take(&mut self, bytes: usize) -> Option<()> {
        self.chunks_left = self.chunks_left.checked_sub(1)?;
        self.bytes_left = self.bytes_left.checked_sub(bytes as u64)?;
        Some(())
    }
}

/// Writes chunks under `S`.
pub(super) struct ChunkSealer<S> {
    cipher: S,
    allowance: Allowance,
}

impl<S: Seal> ChunkSealer<S> {
    pub(super) fn new(cipher: S, bytes_max: u64) -> Self {
        Self {
            cipher,
            allowance: Allowance::of(bytes_max),
        }
    }

    pub(super) fn cipher(&self) -> &S {
        &self.cipher
    }

    /// One chunk that is not the last.
    pub(super) fn chunk(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), SealFault> {
        if plain.is_empty() || plain.len() > CHUNK_BYTES_MAX {
            return Err(SealFault::Chunk);
        }
        self.seal(b"", plain.len() + TAG_BYTES, plain, out)
    }

    /// As many chunks as `plain` needs, none of them the last.
    pub(super) fn push(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), SealFault> {
        plain
            .chunks(CHUNK_BYTES_MAX)
            .try_for_each(|chunk| self.chunk(chunk, out))
    }

    /// The rest, which may be nothing, and the end.
    pub(super) fn finish(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), SealFault> {
        let last = plain.len().saturating_sub(1) / CHUNK_BYTES_MAX * CHUNK_BYTES_MAX;
        let (before, last) = plain.split_at(last);
        self.push(before, out)?;
        self.seal(FINAL, 0, last, out)
    }

    /// With `length` before it. What cannot be sealed is not left in `out` either.
    fn seal(
        &mut self,
        aad: &[u8],
        length: usize,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SealFault> {
        self.allowance.take(plain.len()).ok_or(SealFault::TooLong)?;
        varint::write(length, out);
        seal_onto(&mut self.cipher, aad, plain, out)
    }
}

/// Seals `plain` at the end of `out`. On an error `out` holds none of it.
pub(super) fn seal_onto(
    cipher: &mut impl Seal,
    aad: &[u8],
    plain: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), SealFault> {
    out.reserve(plain.len() + TAG_BYTES);
    let at = out.len();
    out.extend_from_slice(plain);
    match cipher.seal(aad, &mut out[at..]) {
        Ok(tag) => out.extend_from_slice(&tag),
        Err(fault) => {
            out[at..].zeroize();
            out.truncate(at);
            return Err(fault);
        }
    }
    Ok(())
}

/// Where a reader stands.
#[derive(Debug, Clone, Copy)]
enum Place {
    Length(VarintReader),
    /// In a chunk of this many bytes, tag included.
    Chunk(usize),
    /// In the last chunk.
    Final,
    /// Something did not open; nothing more will.
    Broken,
}

/// Reads chunks under `O`.
pub(super) struct ChunkOpener<O> {
    cipher: O,
    allowance: Allowance,
    place: Place,
    /// What came of a chunk, and then its plaintext: one chunk at most.
    held: Zeroizing<Vec<u8>>,
}

impl<O: Open> ChunkOpener<O> {
    pub(super) fn new(cipher: O, bytes_max: u64) -> Self {
        Self {
            cipher,
            allowance: Allowance::of(bytes_max),
            place: Place::Length(VarintReader::default()),
            held: Zeroizing::default(),
        }
    }

    /// Takes from `input` until a chunk is whole, and opens it. `None` when `input` is used up.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Result<Option<&[u8]>, Unopened> {
        match self.whole_chunk(input) {
            Ok(false) => Ok(None),
            Ok(true) => Ok(Some(&self.held)),
            Err(unopened) => {
                self.place = Place::Broken;
                self.held.clear();
                Err(unopened)
            }
        }
    }

    /// Whether there is a chunk in `held`, opened.
    fn whole_chunk(&mut self, input: &mut &[u8]) -> Result<bool, Unopened> {
        loop {
            match &mut self.place {
                Place::Length(length) => {
                    let Some(length) = length.take(input) else {
                        return Ok(false);
                    };
                    self.held.clear();
                    self.place = place_of(length)?;
                }
                Place::Chunk(bytes) => {
                    let bytes = *bytes;
                    let missing = bytes.saturating_sub(self.held.len());
                    self.held.reserve_exact(missing);
                    take(&mut self.held, bytes, input);
                    if self.held.len() < bytes {
                        return Ok(false);
                    }
                    self.place = Place::Length(VarintReader::default());
                    self.open(b"")?;
                    return Ok(true);
                }
                Place::Final => {
                    // Beyond the longest chunk it cannot open any more.
                    take(&mut self.held, SEALED_CHUNK_BYTES_MAX, input);
                    return if input.is_empty() {
                        Ok(false)
                    } else {
                        Err(Unopened)
                    };
                }
                Place::Broken => return Err(Unopened),
            }
        }
    }

    /// The input has ended: the last chunk.
    pub(super) fn finish(mut self) -> Result<(O, Zeroizing<Vec<u8>>), Unopened> {
        let Place::Final = self.place else {
            return Err(Unopened);
        };
        self.open(FINAL)?;
        Ok((self.cipher, self.held))
    }

    fn open(&mut self, aad: &[u8]) -> Result<(), Unopened> {
        let bytes = self.held.len().checked_sub(TAG_BYTES).ok_or(Unopened)?;
        self.allowance.take(bytes).ok_or(Unopened)?;
        let (data, tag) = self.held.split_at_mut(bytes);
        let tag = Tag::try_from(&*tag).map_err(|_| Unopened)?;
        self.cipher.open(aad, data, &tag)?;
        self.held.truncate(bytes);
        Ok(())
    }
}

/// After a length. One that leaves no plaintext is refused as a forged one is: the draft, section 6.
fn place_of(length: u64) -> Result<Place, Unopened> {
    match usize::try_from(length) {
        Ok(0) => Ok(Place::Final),
        Ok(bytes) if bytes > TAG_BYTES && bytes <= SEALED_CHUNK_BYTES_MAX => {
            Ok(Place::Chunk(bytes))
        }
        Ok(_) | Err(_) => Err(Unopened),
    }
}

/// Moves bytes until `held` has `bytes` or `input` is used up.
fn take(held: &mut Vec<u8>, bytes: usize, input: &mut &[u8]) {
    let wanted = bytes.saturating_sub(held.len()).min(input.len());
    let (taken, rest) = input.split_at(wanted);
    held.extend_from_slice(taken);
    *input = rest;
}

impl<S> fmt::Debug for ChunkSealer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkSealer")
            .field("allowance", &self.allowance)
            .finish_non_exhaustive()
    }
}

impl<O> fmt::Debug for ChunkOpener<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkOpener")
            .field("allowance", &self.allowance)
            .field("place", &self.place)
            .field("held_bytes", &self.held.len())
            .finish_non_exhaustive()
    }
}

/// For fuzzers: what chunks say, cut into pieces of `cut` bytes, under a cipher that believes every
/// tag that begins with an even byte. All plaintext, and whether the end was there.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz_chunks(sealed: &[u8], cut: usize) -> (Vec<Vec<u8>>, bool) {
    struct Gullible;

    impl Open for Gullible {
        fn open(&mut self, _: &[u8], _: &mut [u8], tag: &Tag) -> Result<(), Unopened> {
            if tag[0].is_multiple_of(2) {
                Ok(())
            } else {
                Err(Unopened)
            }
        }
    }

    let mut opener = ChunkOpener::new(Gullible, 1 << 20);
    let mut said = Vec::new();
    for mut piece in sealed.chunks(cut) {
        loop {
            match opener.next(&mut piece) {
                Ok(Some(chunk)) => said.push(chunk.to_vec()),
                Ok(None) => break,
                Err(Unopened) => return (said, false),
            }
        }
        assert!(piece.is_empty(), "what was not taken would be lost");
    }
    let last = opener.finish();
    said.extend(last.as_ref().map(|(_, last)| last.to_vec()));
    (said, last.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealed::{Cipher, Derived};
    use crate::suite::Aead;

    fn cipher() -> Cipher {
        Cipher::new(&Derived::from(Aead::Aes256Gcm, b"secret", b"enc", b"nonce"))
    }

    /// Everything a reader gives, and whether it came to the end.
    fn open(bytes_max: u64, sealed: &[u8]) -> (Vec<u8>, bool) {
        let mut opener = ChunkOpener::new(cipher(), bytes_max);
        let (mut input, mut plain) = (sealed, Vec::new());
        loop {
            match opener.next(&mut input) {
                Ok(Some(chunk)) => plain.extend_from_slice(chunk),
                Ok(None) => break,
                Err(Unopened) => return (plain, false),
            }
        }
        match opener.finish() {
            Ok((_, last)) => (
                plain.into_iter().chain(last.iter().copied()).collect(),
                true,
            ),
            Err(Unopened) => (plain, false),
        }
    }

    #[test]
    fn a_message_has_as_many_bytes_as_its_bound_and_no_more() {
        let mut out = Vec::new();
        let mut sealer = ChunkSealer::new(cipher(), 10);
        sealer.chunk(b"12345", &mut out).unwrap();
        sealer.chunk(b"67890", &mut out).unwrap();
        let before = out.len();
        assert_eq!(sealer.chunk(b"1", &mut out), Err(SealFault::TooLong));
        assert_eq!(out.len(), before, "nothing of it is written");
        sealer.finish(b"", &mut out).unwrap();
        assert_eq!(open(10, &out), (b"1234567890".to_vec(), true));
        assert_eq!(open(9, &out), (b"12345".to_vec(), false));
        assert_eq!(open(4, &out), (Vec::new(), false));
    }

    #[test]
    fn a_message_has_as_many_chunks_as_its_bound_and_no_more() {
        let mut out = Vec::new();
        let mut sealer = ChunkSealer::new(cipher(), 10);
        sealer.allowance.chunks_left = 2;
        sealer.chunk(b"1", &mut out).unwrap();
        sealer.chunk(b"2", &mut out).unwrap();
        assert_eq!(sealer.chunk(b"3", &mut out), Err(SealFault::TooLong));
        assert_eq!(sealer.finish(b"", &mut out), Err(SealFault::TooLong));

        let mut opener = ChunkOpener::new(cipher(), 10);
        opener.allowance.chunks_left = 1;
        let mut input = &out[..];
        assert_eq!(opener.next(&mut input), Ok(Some(&b"1"[..])));
        assert_eq!(opener.next(&mut input), Err(Unopened));
        assert_eq!(
            opener.next(&mut &b""[..]),
            Err(Unopened),
            "once and for all"
        );
    }

    #[test]
    fn no_chunk_is_sealed_that_others_need_not_take() {
        let mut sealer = ChunkSealer::new(cipher(), 1 << 20);
        let mut out = Vec::new();
        assert_eq!(sealer.chunk(b"", &mut out), Err(SealFault::Chunk));
        let long = vec![0; CHUNK_BYTES_MAX + 1];
        assert_eq!(sealer.chunk(&long, &mut out), Err(SealFault::Chunk));
        assert!(out.is_empty());
    }

    /// What cannot be sealed any more, as when a counter ran out.
    struct Worn;

    impl Seal for Worn {
        fn seal(&mut self, _: &[u8], _: &mut [u8]) -> Result<Tag, SealFault> {
            Err(SealFault::TooLong)
        }
    }

    #[test]
    fn what_cannot_be_sealed_is_not_left_in_the_clear() {
        let mut out = Vec::new();
        assert!(
            ChunkSealer::new(Worn, 100)
                .chunk(b"question", &mut out)
                .is_err()
        );
        assert!(seal_onto(&mut Worn, b"", b"question", &mut out).is_err());
        assert!(!out.windows(8).any(|window| window == b"question"));
    }
}
