//! A cursor that knows how much of the file is left and never asks for more.

use std::io::Read;

use super::fault::{GgufFault, GgufProblem};

/// Headers with the largest vocabularies have some 30 MB. Nobody reads on for longer in a file that
/// claims more.
const HEADER_BYTES_MAX: u64 = 256 << 20;
/// Longer texts are looked at in pieces of this length.
const PIECE_BYTES: usize = 4_096;

/// Reads little-endian values and counts the bytes.
pub(super) struct Reader<R> {
    source: R,
    at: u64,
    bytes: u64,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(source: R, bytes: u64) -> Self {
        Self {
            source,
            at: 0,
            bytes,
        }
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn left(&self) -> u64 {
        self.bytes.saturating_sub(self.at)
    }

    pub(super) fn fault(&self, problem: GgufProblem) -> GgufFault {
        GgufFault {
            at: self.at,
            problem,
        }
    }

    /// A fault unless `needed` bytes are left, and belong to a header of a length that can be.
    pub(super) fn expect(&self, what: &'static str, needed: u64) -> Result<(), GgufFault> {
        if let missing @ 1.. = needed.saturating_sub(self.left()) {
            let needed = missing;
            return Err(self.fault(GgufProblem::Truncated { what, needed }));
        }
        if self.at.saturating_add(needed) > HEADER_BYTES_MAX {
            return Err(self.fault(GgufProblem::HeaderTooLong {
                bytes_max: HEADER_BYTES_MAX,
            }));
        }
        Ok(())
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], GgufFault> {
        self.expect(what, N as u64)?;
        let mut buffer = [0; N];
        self.source
            .read_exact(&mut buffer)
            .map_err(|error| self.fault(GgufProblem::Io(error)))?;
        self.at += N as u64;
        Ok(buffer)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufFault> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufFault> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A count of things that take at least `bytes_each` bytes of this file.
    pub(super) fn count(
        &mut self,
        what: &'static str,
        bytes_each: u64,
        limit: u64,
    ) -> Result<u64, GgufFault> {
        let count = self.u64(what)?;
        let count_max = limit.min(self.left() / bytes_each.max(1));
        if count > count_max {
            return Err(self.fault(GgufProblem::TooMany {
                what,
                count,
                count_max,
            }));
        }
        Ok(count)
    }

    /// Skips `count` bytes that are there.
    pub(super) fn skip(&mut self, what: &'static str, count: u64) -> Result<(), GgufFault> {
        self.expect(what, count)?;
        let mut rest = self.source.by_ref().take(count);
        let skipped = std::io::copy(&mut rest, &mut std::io::sink())
            .map_err(|error| self.fault(GgufProblem::Io(error)))?;
        self.at += skipped;
        if skipped < count {
            let needed = count - skipped;
            return Err(self.fault(GgufProblem::Truncated { what, needed }));
        }
        Ok(())
    }

    /// A length-prefixed text of at most `limit` bytes.
    pub(super) fn text(&mut self, what: &'static str, limit: u64) -> Result<String, GgufFault> {
        let length = self.count(what, 1, limit)?;
        self.expect(what, length)?;
        // At most what is left of the file, so a lie about the length allocates nothing.
        let mut buffer = vec![0; usize::try_from(length).unwrap_or(0)];
        self.source
            .read_exact(&mut buffer)
            .map_err(|error| self.fault(GgufProblem::Io(error)))?;
        self.at += length;
        String::from_utf8(buffer).map_err(|_| self.fault(GgufProblem::NotUtf8(what)))
    }

    /// Shows a length-prefixed text to `look`, a piece at a time.
    pub(super) fn text_in_pieces(
        &mut self,
        what: &'static str,
        mut look: impl FnMut(&[u8]),
    ) -> Result<(), GgufFault> {
        let length = self.count(what, 1, u64::MAX)?;
        self.expect(what, length)?;
        let mut buffer = [0; PIECE_BYTES];
        let mut left = length;
        while left > 0 {
            let bytes = usize::try_from(left)
                .unwrap_or(PIECE_BYTES)
                .min(PIECE_BYTES);
            let piece = &mut buffer[..bytes];
            self.source
                .read_exact(piece)
                .map_err(|error| self.fault(GgufProblem::Io(error)))?;
            look(piece);
            left -= bytes as u64;
            self.at += bytes as u64;
        }
        Ok(())
    }

    /// Skips a length-prefixed text. Vocabularies hold bytes that are not UTF-8.
    pub(super) fn skip_text(&mut self, what: &'static str) -> Result<(), GgufFault> {
        let length = self.count(what, 1, u64::MAX)?;
        self.skip(what, length)
    }
}
