//! OpenAI's vocabularies as tables that lie in the binary, and byte pair encoding over them.
//!
//! `tiktoken-rs`, which the tables are made from and the counts are compared with, keeps each token in
//! three heap tables: some 40 MB that every node would hold to count with.

mod mark;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::LazyLock;

use regex::Regex;

/// Tokens by rank.
pub(crate) struct Tokens {
    bytes: &'static [u8],
    starts: &'static [u8],
}

/// Of OpenAI's models since GPT-4o.
static O200K: Tokens = Tokens {
    bytes: include_bytes!(concat!(env!("OUT_DIR"), "/o200k.bytes")),
    starts: include_bytes!(concat!(env!("OUT_DIR"), "/o200k.starts")),
};
static O200K_SLOTS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/o200k.slots"));

/// Of its models for embeddings.
pub(crate) static CL100K: Tokens = Tokens {
    bytes: include_bytes!(concat!(env!("OUT_DIR"), "/cl100k.bytes")),
    starts: include_bytes!(concat!(env!("OUT_DIR"), "/cl100k.starts")),
};

fn at(table: &[u8], index: usize) -> Option<u32> {
    let four = table.get(4 * index..4 * index + 4)?;
    Some(u32::from_le_bytes(four.try_into().ok()?))
}

impl Tokens {
    /// `None` where there is none of this rank.
    pub(crate) fn token(&self, rank: u32) -> Option<&'static [u8]> {
        let rank = rank as usize;
        let (start, end) = (at(self.starts, rank)?, at(self.starts, rank + 1)?);
        self.bytes.get(start as usize..end as usize)
    }
}

/// The rank of a piece that is one token.
fn rank(piece: &[u8]) -> Option<u32> {
    let mark = mark::mark(piece);
    let tag = mark::tag(mark);
    let mut place = mark as usize & (mark::SLOTS - 1);
    loop {
        let slot = at(O200K_SLOTS, place)?;
        if slot == 0 {
            return None;
        }
        let rank = (slot & ((1 << mark::RANK_BITS) - 1)) - 1;
        if slot >> mark::RANK_BITS == tag && O200K.token(rank) == Some(piece) {
            return Some(rank);
        }
        place = (place + 1) & (mark::SLOTS - 1);
    }
}

/// What text is cut into before anything is joined: `o200k_base`'s expression, without the look-ahead
/// that white space is cut by, which [`pieces`] does.
static PIECES: LazyLock<Regex> = LazyLock::new(|| {
    const WORD_END: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?";
    let expression = [
        &format!(
            r"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+{WORD_END}"
        ),
        &format!(
            r"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*{WORD_END}"
        ),
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+",
    ];
    Regex::new(&expression.join("|")).expect("it is an expression")
});

/// The pieces of `text`, in order and without gaps.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let found = PIECES.find_at(text, from)?;
        let mut end = found.end();
        let mut backwards = found.as_str().chars().rev();
        // Of spaces before a word the last one is the word's. Where the last is no line's end, there is
        // nothing else in them.
        if let Some(last) = backwards.next()
            && last.is_whitespace()
            && !matches!(last, '\r' | '\n')
            && end < text.len()
            && backwards.next().is_some()
        {
            end -= last.len_utf8();
        }
        let piece = &text[found.start()..end];
        from = end;
        Some(piece)
    })
}

/// How many tokens `text` has, special ones taken as text.
pub(crate) fn count(text: &str) -> usize {
    let mut joining = Joining::default();
    let counts = pieces(text).map(|piece| match rank(piece.as_bytes()) {
        Some(_) => 1,
        None => joining.count(piece.as_bytes()),
    });
    counts.sum()
}

/// A piece whose bytes are joined, two neighbours at a time: always those that make the token of the
/// lowest rank, and of those the first. Kept from piece to piece for its memory alone.
#[derive(Default)]
struct Joining {
    /// By where a part begins: where the next and the one before do.
    next: Vec<u32>,
    before: Vec<u32>,
    /// Of a part with the next one; `None` where they make no token, or where the part is gone.
    ranks: Vec<Option<u32>>,
    waiting: BinaryHeap<Reverse<(u32, u32)>>,
}

impl Joining {
    fn count(&mut self, piece: &[u8]) -> usize {
        // A text that is counted is far below 4 GiB.
        let length = piece.len() as u32;
        self.next.clear();
        self.next.extend(1..=length);
        self.before.clear();
        self.before.extend((0..length).map(|at| at.wrapping_sub(1)));
        self.ranks.clear();
        self.ranks.resize(piece.len(), None);
        self.waiting.clear();
        for part in 0..length {
            self.look(piece, part);
        }
        let mut count = piece.len();
        while let Some(Reverse((rank, part))) = self.waiting.pop() {
            // What was found before either of the two became another is of no use.
            if self.ranks[part as usize] != Some(rank) {
                continue;
            }
            let gone = self.next[part as usize];
            let after = self.next[gone as usize];
            self.ranks[gone as usize] = None;
            self.next[part as usize] = after;
            if let Some(before) = self.before.get_mut(after as usize) {
                *before = part;
            }
            count -= 1;
            self.look(piece, part);
            if part > 0 {
                self.look(piece, self.before[part as usize]);
            }
        }
        count
    }

    /// Whether a part makes a token with the next one.
    fn look(&mut self, piece: &[u8], part: u32) {
        let start = part as usize;
        let next = self.next[start] as usize;
        let end = self.next.get(next).map(|end| *end as usize);
        let found = end.and_then(|end| rank(&piece[start..end]));
        self.ranks[start] = found;
        if let Some(rank) = found {
            self.waiting.push(Reverse((rank, part)));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str) {
        let expected = tiktoken_rs::o200k_base_singleton().count_ordinary(text);
        assert_eq!(count(text), expected, "{text:?}");
        let joined: String = pieces(text).collect();
        assert_eq!(joined, text);
    }

    #[test]
    fn every_token_is_found_by_its_bytes() {
        let mut known = 0;
        while let Some(token) = O200K.token(known) {
            assert_eq!(rank(token), Some(known));
            known += 1;
        }
        assert_eq!(known, 199_998);
        assert_eq!(CL100K.token(100_255), Some(&b" Conveyor"[..]));
        assert_eq!(CL100K.token(100_256), None);
        assert_eq!(CL100K.token(u32::MAX), None);
    }

    #[test]
    fn text_of_all_kinds_is_counted_as_tiktoken_does() {
        for text in [
            "",
            " ",
            "  ",
            "\n",
            " \n ",
            "\t\tif x:\n\t\t\treturn  42;  // ok\r\n\r\n",
            "Hello, world!  I'M here; you'Ll see, it's o'clock.\u{a0}\u{a0}x",
            "It\u{17f}'\u{17f} ſ'ſ don'T",
            "1234567890 ١٢٣٤ Ⅷ½",
            "Größenwahnsinnige Straßenbahnführerscheinprüfungen",
            "こんにちは世界。漢字とカタカナ　全角",
            "नमस्ते दुनिया ภาษาไทย",
            "👩‍👩‍👧‍👦 🏳️‍🌈 e\u{301}\u{302} \u{200b}\u{feff}",
            "https://example.org/a/b?c=d&e=%20f//\n/\n",
            "<|endoftext|> <|im_start|>user",
            "fooBarBAZQux XMLHttpRequest HTMLElement aB",
            "\u{2028}\u{2029}\u{85} \u{b}\u{c}x",
            "      leading, and trailing      ",
        ] {
            check(text);
        }
    }

    #[test]
    fn runs_are_counted_as_tiktoken_does() {
        for run in [
            "a", "ab", "A", "é", "漢", "=", "=-", "1", " ", "\n", " \n", "\u{300}",
        ] {
            for length in [2, 3, 17, 99, 100, 101, 700] {
                check(&run.repeat(length));
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_counted_as_tiktoken_does(text in "\\PC{0,200}") {
            check(&text);
        }

        #[test]
        fn any_white_space_is_cut_as_tiktoken_does(
            text in "[ \\t\\r\\n\u{a0}\u{3000}a1.'s/é]{0,120}",
        ) {
            check(&text);
        }

        #[test]
        fn any_words_are_counted_as_tiktoken_does(
            text in "([a-zA-Z]{1,12}|[0-9]{1,5}|[ .,'\"()\\n]){0,60}",
        ) {
            check(&text);
        }
    }
}
