//! The vocabulary's texts, as far as llama.cpp asserts on them. They are read once and not kept.

use std::hash::{DefaultHasher, Hasher};
use std::io::Read;

use super::fault::{GgufFault, GgufProblem};
use super::header::TOKENS;
use super::reader::Reader;

/// The largest vocabularies have some 260,000 tokens.
const VOCABULARY_MAX: u64 = 1 << 21;

/// What the list comes to.
#[derive(Debug)]
pub(super) struct TokenList {
    pub count: u64,
    /// By byte: a token that stands for it is there, as SentencePiece's fallback looks for it.
    stands_for: [bool; 256],
}

impl TokenList {
    /// The first byte that no token stands for.
    pub(super) fn missing_byte(&self) -> Option<u8> {
        (0..=u8::MAX).find(|byte| !self.stands_for[usize::from(*byte)])
    }
}

/// # Errors
/// It is empty or too long, or has two tokens of the same text, which llama.cpp asserts on.
pub(super) fn read<R: Read>(reader: &mut Reader<R>) -> Result<TokenList, GgufFault> {
    let count = reader.count("list entries", 8, u64::MAX)?;
    if !(1..=VOCABULARY_MAX).contains(&count) {
        return Err(reader.fault(GgufProblem::OutOfRange {
            key: TOKENS.into(),
            value: count,
        }));
    }
    let mut list = TokenList {
        count,
        stands_for: [false; 256],
    };
    // 64 bits of a hash: that two of a million tokens agree in it by chance is 1 in 40 million.
    let mut hashes = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
    for index in 0..count {
        let mut hasher = DefaultHasher::new();
        let mut is_ended = false;
        let mut length = 0;
        let stands_for = &mut list.stands_for;
        let whole = reader.text_in_pieces("a token", |piece| {
            // llama.cpp takes its tokens as C strings.
            let text = piece.split(|byte| *byte == 0).next().unwrap_or_default();
            if !is_ended {
                hasher.write(text);
                if length == 0 {
                    note_byte(text, stands_for);
                }
                length += text.len();
            }
            is_ended |= text.len() < piece.len();
        });
        whole?;
        if length == 0 {
            hasher.write(format!("[EMPTY_{index}]").as_bytes());
        }
        hashes.push((hasher.finish(), index));
    }
    hashes.sort_unstable();
    match hashes.windows(2).find(|two| two[0].0 == two[1].0) {
        None => Ok(list),
        Some(two) => Err(reader.fault(GgufProblem::SameToken {
            first: two[0].1,
            second: two[1].1,
        })),
    }
}

/// `<0x0A>`, or the byte itself.
fn note_byte(text: &[u8], stands_for: &mut [bool; 256]) {
    let byte = match text {
        [byte] => Some(*byte),
        [b'<', b'0', b'x', high, low, b'>'] => hex(*high).zip(hex(*low)).map(|(h, l)| h << 4 | l),
        _ => None,
    };
    if let Some(byte) = byte {
        stands_for[usize::from(byte)] = true;
    }
}

/// Upper case, as llama.cpp writes it.
fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}
