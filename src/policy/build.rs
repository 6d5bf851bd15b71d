//! Writes the vocabularies that tokens are counted with as tables that need no loading: they are read
//! where the binary lies in memory, and pages of them that nobody needs are not even read.

#[path = "vocabulary/mark.rs"]
mod mark;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use tiktoken_rs::CoreBPE;

#[expect(clippy::disallowed_methods, reason = "cargo tells build scripts so")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=vocabulary/mark.rs");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let o200k = tokens(&tiktoken_rs::o200k_base()?);
    write_tokens(&out, "o200k", &o200k)?;
    fs::write(out.join("o200k.slots"), slots(&o200k)?)?;
    // Of this one tokens are read, not counted.
    let cl100k = tokens(&tiktoken_rs::cl100k_base()?);
    write_tokens(&out, "cl100k", &cl100k)?;
    Ok(())
}

/// By their ranks, which begin at zero and leave none out before the special ones.
fn tokens(vocabulary: &CoreBPE) -> Vec<Vec<u8>> {
    let of = |rank| vocabulary.decode_bytes(&[rank]).ok();
    (0..).map_while(of).collect()
}

/// One after the other, and where each begins.
fn write_tokens(out: &Path, name: &str, tokens: &[Vec<u8>]) -> Result<(), Box<dyn Error>> {
    let mut starts = Vec::with_capacity(4 * tokens.len() + 4);
    let mut at = 0_u32;
    for token in tokens {
        starts.extend_from_slice(&at.to_le_bytes());
        at += u32::try_from(token.len())?;
    }
    starts.extend_from_slice(&at.to_le_bytes());
    fs::write(out.join(format!("{name}.bytes")), tokens.concat())?;
    fs::write(out.join(format!("{name}.starts")), starts)?;
    Ok(())
}

/// From a token to its rank: open addressing, each at its mark or the next free place after it.
fn slots(tokens: &[Vec<u8>]) -> Result<Vec<u8>, Box<dyn Error>> {
    if tokens.len() > mark::SLOTS / 2 || tokens.len() >= 1 << mark::RANK_BITS {
        return Err("the vocabulary has outgrown its table".into());
    }
    let mut slots = vec![0_u32; mark::SLOTS];
    for (rank, token) in (0_u32..).zip(tokens) {
        let mark = mark::mark(token);
        let mut at = usize::try_from(mark & (mark::SLOTS as u64 - 1))?;
        while slots[at] != 0 {
            at = (at + 1) % mark::SLOTS;
        }
        slots[at] = (rank + 1) | (mark::tag(mark) << mark::RANK_BITS);
    }
    Ok(slots.into_iter().flat_map(u32::to_le_bytes).collect())
}
