//! What a saved state hangs on, in one digest.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::UNIX_EPOCH;

use hashing::Sha256;

use crate::decoder::Fingerprint;
use crate::llama::raw::{self, Sizes};

/// A file up to this size is read whole, in some 50 ms.
const WHOLE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Of a larger one, so many pieces of so many bytes are read, evenly spaced, and its time counts.
const PIECES: u64 = 64;
const PIECE_BYTES: u64 = 64 * 1024;

/// Of the model's file and how it is run.
pub(super) fn fingerprint(path: &Path, sizes: Sizes) -> io::Result<Fingerprint> {
    let mut digest = Sha256::new();
    digest.update(raw::version());
    digest.update(std::env::consts::ARCH);
    // Some models scale their positions by the length of the context.
    digest.update(sizes.shape.kv_tokens.to_le_bytes());
    digest.update(sizes.shape.context_tokens.to_le_bytes());
    // llama.cpp itself compares types and sizes with a state's, but no other attention's rounding.
    let kept = format!(
        "{:?} {:?} {:?} {:?}",
        sizes.type_k, sizes.type_v, sizes.flash, sizes.cells
    );
    digest.update(kept);
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    digest.update(metadata.len().to_le_bytes());
    if metadata.len() <= WHOLE_BYTES_MAX {
        io::copy(&mut file, &mut digest)?;
        return Ok(digest.finish());
    }
    let modified = metadata.modified()?.duration_since(UNIX_EPOCH);
    digest.update(modified.unwrap_or_default().as_nanos().to_le_bytes());
    for piece in 0..PIECES {
        file.seek(SeekFrom::Start(metadata.len() / PIECES * piece))?;
        io::copy(&mut (&mut file).take(PIECE_BYTES), &mut digest)?;
    }
    Ok(digest.finish())
}
