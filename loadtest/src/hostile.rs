//! GGUF files spoilt on purpose: a sound one, changed in a few places of its header.
//!
//! The same seed gives the same file. Kinds of places are drawn first and places among them next, so
//! that counts and types are hit as often as the thousands of texts of a vocabulary.

use std::ops::Range;

/// A sound file, and where its header's parts lie.
#[derive(Debug)]
pub struct Sound {
    bytes: Vec<u8>,
    places: Vec<Vec<Place>>,
    /// Where the keys end and the tensors' table begins.
    keys_end: usize,
    table_end: usize,
    architecture: String,
}

/// A file for somebody to refuse.
#[derive(Debug)]
pub struct Spoilt {
    pub bytes: Vec<u8>,
    /// What was done to it, for messages.
    pub what: String,
}

/// What stands at a place, which says what is put there instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Start,
    Count,
    Length,
    Type,
    Whole,
    Real,
    Text,
    Entry,
    Shape,
    Offset,
}

const KINDS: usize = 10;
/// Of a list, only so many entries are places.
const ENTRIES_MAX: u64 = 64;
/// Where the data begins, by default.
const ALIGNMENT: usize = 32;
const KEY_COUNT_AT: usize = 16;

#[derive(Clone, Debug)]
struct Place {
    kind: Kind,
    range: Range<usize>,
    name: String,
}

impl Sound {
    /// `None` for a file that is not sound to begin with.
    #[must_use]
    pub fn read(bytes: Vec<u8>) -> Option<Self> {
        let mut walk = Walk {
            bytes: &bytes,
            at: 0,
            places: Vec::new(),
            architecture: String::new(),
        };
        let (keys_end, table_end) = walk.header()?;
        let (architecture, mut all) = (walk.architecture, walk.places);
        let mut places = Vec::new();
        while let Some(kind) = all.first().map(|place| place.kind) {
            let (these, others) = all.into_iter().partition(|place| place.kind == kind);
            places.push(these);
            all = others;
        }
        debug_assert!(places.len() <= KINDS);
        Some(Self {
            bytes,
            places,
            keys_end,
            table_end,
            architecture,
        })
    }

    /// The file with one to three changes.
    #[must_use]
    pub fn spoilt(&self, seed: u64) -> Spoilt {
        let mut dice = Dice(seed);
        let mut spoilt = Spoilt {
            bytes: self.bytes.clone(),
            what: format!("seed {seed}"),
        };
        match dice.below(8) {
            0 => self.cut(&mut spoilt, &mut dice),
            // Where nothing moves, several changes find their places.
            1..=4 => {
                for _ in 0..[1, 1, 1, 2, 3][dice.below(5)] {
                    self.change(&mut spoilt, &mut dice);
                }
            }
            _ => self.insert(&mut spoilt, &mut dice),
        }
        spoilt
    }

    fn cut(&self, spoilt: &mut Spoilt, dice: &mut Dice) {
        let whole = self.bytes.len();
        let length = match dice.below(3) {
            0 => dice.below(self.table_end),
            1 => dice.below(whole),
            _ => whole - 1 - dice.below(64),
        };
        spoilt.bytes.truncate(length);
        spoilt.what += &format!(", cut at {length}");
    }

    fn change(&self, spoilt: &mut Spoilt, dice: &mut Dice) {
        let places = &self.places[dice.below(self.places.len())];
        let Place { kind, range, name } = places[dice.below(places.len())].clone();
        let old = &self.bytes[range.clone()];
        let new = match kind {
            Kind::Text | Kind::Start => {
                let mut new = old.to_vec();
                let count = new.len();
                if let Some(byte) = new.get_mut(dice.below(count)) {
                    *byte = [0, b' ', 0xff, b'"', dice.byte()][dice.below(5)];
                }
                new
            }
            Kind::Real => {
                let reals = [f32::NAN, f32::INFINITY, -1.0, 0.0, 1e30, f32::from_bits(1)];
                reals[dice.below(reals.len())].to_le_bytes().to_vec()
            }
            _ => {
                let mut padded = [0; 8];
                padded[..old.len()].copy_from_slice(old);
                dice.instead_of(u64::from_le_bytes(padded)).to_le_bytes()[..old.len()].to_vec()
            }
        };
        spoilt.what += &format!(", {kind:?} of {name} at {}: {new:?}", range.start);
        spoilt.bytes[range].copy_from_slice(&new);
    }

    /// One more key, all else as it should be: this gets past every check of form.
    fn insert(&self, spoilt: &mut Spoilt, dice: &mut Dice) {
        let whole = |kind: u32, value: u64, width: usize| {
            let mut bytes = kind.to_le_bytes().to_vec();
            bytes.extend_from_slice(&value.to_le_bytes()[..width]);
            bytes
        };
        let texts = |text: &str| {
            let mut bytes = 8_u32.to_le_bytes().to_vec();
            bytes.extend(text_bytes(text.as_bytes()));
            bytes
        };
        let list = |kind: u32, count: u64, entries: &[u8]| {
            let mut bytes = 9_u32.to_le_bytes().to_vec();
            bytes.extend_from_slice(&kind.to_le_bytes());
            bytes.extend_from_slice(&count.to_le_bytes());
            bytes.extend_from_slice(entries);
            bytes
        };
        let architecture = &self.architecture;
        let own = |name: &str| format!("{architecture}.{name}");
        const COUNTS: [&str; 14] = [
            "expert_count",
            "expert_used_count",
            "expert_group_count",
            "nextn_predict_layers",
            "attention.key_length",
            "attention.value_length",
            "attention.sliding_window",
            "pooling_type",
            "rope.dimension_count_swa",
            "rope.scaling.original_context_length",
            "attention.key_length_swa",
            "embedding_length_out",
            "expert_feed_forward_length",
            "leading_dense_block_count",
        ];
        const REALS: [&str; 6] = [
            "rope.scaling.factor",
            "rope.scaling.attn_factor",
            "attention.scale",
            "attention.layer_norm_epsilon",
            "rope.scaling.alpha",
            "attention.clamp_kqv",
        ];
        let value = dice.instead_of(1);
        let (key, bytes) = match dice.below(12) {
            0..=3 => {
                let name = COUNTS[dice.below(COUNTS.len())];
                let small = [0, 1, 2, 3, 7, 9, value & 0xffff_ffff][dice.below(7)];
                (own(name), whole(4, small, 4))
            }
            4 => {
                let reals = [f32::NAN, f32::NEG_INFINITY, -1.0, 0.0];
                let real = u64::from(reals[dice.below(reals.len())].to_bits());
                (own(REALS[dice.below(REALS.len())]), whole(6, real, 4))
            }
            5 => (own("attention.causal"), whole(7, 0, 1)),
            6 => (own("rope.scaling.type"), texts("sideways")),
            7 => {
                let key = ["tokenizer.ggml.scores", "tokenizer.ggml.suppress_tokens"];
                let kind = [5, 6, 10][dice.below(3)];
                (
                    key[dice.below(2)].to_owned(),
                    list(kind, 3, &[0xff; 24][..if kind == 10 { 24 } else { 12 }]),
                )
            }
            8 => {
                let alignment = [0, 1, 3, 8, 64, 4096, value][dice.below(7)];
                ("general.alignment".to_owned(), whole(4, alignment, 4))
            }
            9 => {
                let name = ["split.count", "split.no", "general.file_type"][dice.below(3)];
                (name.to_owned(), whole(2, value, 2))
            }
            10 => ("general.nested".to_owned(), list(9, value, &[9; 64])),
            _ => (
                "tokenizer.chat_template.other".to_owned(),
                texts(&"{".repeat(600_000)),
            ),
        };
        let mut head = self.bytes[..self.keys_end].to_vec();
        let keys = &mut head[KEY_COUNT_AT..KEY_COUNT_AT + 8];
        let mut count = [0; 8];
        count.copy_from_slice(keys);
        keys.copy_from_slice(&(u64::from_le_bytes(count) + 1).to_le_bytes());
        head.extend(text_bytes(key.as_bytes()));
        head.extend_from_slice(&bytes);
        head.extend_from_slice(&self.bytes[self.keys_end..self.table_end]);
        head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
        head.extend_from_slice(&self.bytes[self.table_end.next_multiple_of(ALIGNMENT)..]);
        spoilt.bytes = head;
        let shown = &bytes[..bytes.len().min(24)];
        spoilt.what += &format!(", one more key {key}: {shown:?}");
    }
}

fn text_bytes(text: &[u8]) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(text);
    bytes
}

/// Goes through a header and notes its places.
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    places: Vec<Place>,
    architecture: String,
}

impl Walk<'_> {
    /// Where the keys end, and where the table does.
    fn header(&mut self) -> Option<(usize, usize)> {
        self.note(Kind::Start, 4, "the file")?;
        self.note(Kind::Type, 4, "the version")?;
        let tensors = self.number(Kind::Count, 8, "tensors")?;
        let keys = self.number(Kind::Count, 8, "keys")?;
        for _ in 0..keys {
            let key = self.text("a key")?;
            let kind = self.number(Kind::Type, 4, &key)?;
            let from = self.at;
            self.value(kind, &key)?;
            if key == "general.architecture" {
                self.architecture =
                    String::from_utf8_lossy(self.bytes.get(from + 8..self.at)?).into_owned();
            }
        }
        let keys_end = self.at;
        for _ in 0..tensors {
            let name = self.text("a tensor")?;
            for _ in 0..self.number(Kind::Count, 4, &name)? {
                self.note(Kind::Shape, 8, &name)?;
            }
            self.note(Kind::Type, 4, &name)?;
            self.note(Kind::Offset, 8, &name)?;
        }
        Some((keys_end, self.at))
    }

    fn value(&mut self, kind: u64, key: &str) -> Option<()> {
        match kind {
            6 => self.note(Kind::Real, 4, key),
            8 => self.text(key).map(drop),
            9 => {
                let kind = self.number(Kind::Type, 4, key)?;
                let count = self.number(Kind::Count, 8, key)?;
                let every = (count / ENTRIES_MAX).max(1);
                for entry in 0..count {
                    let before = self.places.len();
                    match kind {
                        8 => self.text(key).map(drop)?,
                        kind => self.note(Kind::Entry, width(kind)?, key)?,
                    }
                    if entry % every != 0 {
                        self.places.truncate(before);
                    }
                }
                Some(())
            }
            kind => self.note(Kind::Whole, width(kind)?, key),
        }
    }

    fn text(&mut self, name: &str) -> Option<String> {
        let length = usize::try_from(self.number(Kind::Length, 8, name)?).ok()?;
        let text = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        let text = String::from_utf8_lossy(text).into_owned();
        if length == 0 {
            return Some(text);
        }
        self.note(Kind::Text, length, name).map(|()| text)
    }

    fn number(&mut self, kind: Kind, width: usize, name: &str) -> Option<u64> {
        let mut bytes = [0; 8];
        let here = self.bytes.get(self.at..self.at + width)?;
        bytes[..width].copy_from_slice(here);
        self.note(kind, width, name)?;
        Some(u64::from_le_bytes(bytes))
    }

    fn note(&mut self, kind: Kind, width: usize, name: &str) -> Option<()> {
        let range = self.at..self.at.checked_add(width)?;
        self.bytes.get(range.clone())?;
        self.at = range.end;
        let name = name.to_owned();
        self.places.push(Place { kind, range, name });
        Some(())
    }
}

fn width(kind: u64) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers on every machine.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// 0 where there is nothing to draw from.
    fn below(&mut self, count: usize) -> usize {
        let drawn = self.next() % (count as u64).max(1);
        usize::try_from(drawn).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn instead_of(&mut self, old: u64) -> u64 {
        let others = [
            0,
            1,
            2,
            3,
            old.wrapping_add(1),
            old.wrapping_sub(1),
            old.wrapping_mul(2),
            old / 2,
            u64::from(u32::MAX),
            1 << 31,
            (1 << 31) - 1,
            1 << 40,
            i64::MAX.unsigned_abs(),
            u64::MAX,
            self.next(),
        ];
        others[self.below(others.len())]
    }
}
