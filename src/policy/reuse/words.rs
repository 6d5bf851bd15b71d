//! A text as words: lower case, shortened forms written out, courtesies taken off, so that what is
//! left differs only where the texts do.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::lexicon;

/// Words of a text that are compared one by one. What comes later is compared by digest: two texts that
/// differ only there are different.
pub const WORDS_MAX: usize = 192;

/// Bytes of one word that are looked at; a longer one is told from others by its digest.
const WORD_BYTES_MAX: usize = 48;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traits {
    /// Carries little meaning.
    pub is_stop: bool,
    pub is_negation: bool,
    /// Written with a capital where a sentence does not begin, or with several.
    pub is_name: bool,
    /// Began a sentence with a capital: it may be a name.
    pub may_be_name: bool,
    pub is_number: bool,
    pub is_code: bool,
    pub is_quoted: bool,
    /// Dimension and place in [`lexicon::UNIT`].
    pub unit: Option<(u8, u8)>,
    /// Place in [`lexicon::DATE`].
    pub date: Option<u8>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Word {
    pub text: Box<str>,
    pub hash: u64,
    pub traits: Traits,
}

impl Word {
    /// A word that may stand for a thing asked about.
    pub fn is_content(&self) -> bool {
        !self.traits.is_stop && !self.traits.is_negation
    }

    pub fn is(&self, other: &Word) -> bool {
        self.hash == other.hash && self.text == other.text
    }
}

/// A text taken apart.
pub struct Words {
    /// At most [`WORDS_MAX`].
    pub words: Vec<Word>,
    /// All words of the text, courtesies apart.
    pub count: usize,
    /// Of the words after the first [`WORDS_MAX`]; 0 where there are none.
    pub tail: u64,
    /// Letters or digits of any script stood in it.
    pub has_words: bool,
    /// A digest of the courtesies that were taken off a text of which next to nothing is left: they may be what
    /// is asked about. 0 otherwise.
    pub courtesies: u64,
    /// White space alone.
    pub is_blank: bool,
    pub has_question_mark: bool,
    pub script: Script,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Script {
    #[default]
    None,
    Latin,
    Greek,
    Cyrillic,
    Hebrew,
    Arabic,
    Indic,
    Kana,
    Han,
    Hangul,
    Other,
}

impl Script {
    fn of(c: char) -> Self {
        match u32::from(c) {
            0x41..=0x24F | 0x1E00..=0x1EFF => Self::Latin,
            0x370..=0x3FF => Self::Greek,
            0x400..=0x52F => Self::Cyrillic,
            0x590..=0x5FF => Self::Hebrew,
            0x600..=0x77F => Self::Arabic,
            0x900..=0xDFF => Self::Indic,
            0x3040..=0x30FF => Self::Kana,
            0x3400..=0x9FFF | 0x20000..=0x2FFFF => Self::Han,
            0xAC00..=0xD7AF => Self::Hangul,
            _ => Self::Other,
        }
    }

    /// Written without spaces: each character is a word.
    fn is_spaceless(self) -> bool {
        matches!(self, Self::Kana | Self::Han)
    }
}

/// FNV-1a, 64 bits: only to find words fast. Equality is always by the text.
pub fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

struct Known {
    traits: Traits,
    long: Option<&'static [&'static str]>,
    number: Option<&'static str>,
}

static KNOWN: LazyLock<HashMap<&'static str, Known>> = LazyLock::new(|| {
    let mut known: HashMap<&'static str, Known> = HashMap::new();
    fn of<'a>(known: &'a mut HashMap<&'static str, Known>, word: &'static str) -> &'a mut Known {
        known.entry(word).or_insert(Known {
            traits: Traits::default(),
            long: None,
            number: None,
        })
    }
    for word in lexicon::STOP {
        of(&mut known, word).traits.is_stop = true;
    }
    for word in lexicon::NEGATION {
        of(&mut known, word).traits.is_negation = true;
    }
    for (word, long) in lexicon::SHORT {
        of(&mut known, word).long = Some(long);
    }
    for (word, number) in lexicon::NUMBER {
        of(&mut known, word).number = Some(number);
    }
    for (dimension, units) in (0u8..).zip(lexicon::UNIT) {
        for (place, words) in (0u8..).zip(*units) {
            for word in *words {
                of(&mut known, word).traits.unit = Some((dimension, place));
            }
        }
    }
    for (place, words) in (0u8..).zip(lexicon::DATE) {
        for word in *words {
            of(&mut known, word).traits.date = Some(place);
        }
    }
    known
});

/// What is read of a text, a character at a time.
struct Reader {
    words: Vec<Word>,
    count: usize,
    tail: Option<digest::Tail>,
    /// The word under way, as written.
    word: String,
    /// Bytes of it beyond what is kept, as a hash.
    beyond: Option<u64>,
    starts_sentence: bool,
    quoted: bool,
    code: bool,
}

/// The running digest of words beyond the bound.
mod digest {
    use hashing::Sha256;

    pub struct Tail(Sha256);

    impl Tail {
        pub fn new() -> Self {
            Self(Sha256::new())
        }

        pub fn add(&mut self, word: &str) {
            self.0.update((word.len() as u64).to_le_bytes());
            self.0.update(word.as_bytes());
        }

        pub fn finish(self) -> u64 {
            let digest = self.0.finish();
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&digest[..8]);
            // 0 stands for "there is none".
            u64::from_le_bytes(bytes).max(1)
        }
    }
}

impl Reader {
    fn push_char(&mut self, c: char) {
        if self.word.len() < WORD_BYTES_MAX {
            self.word.push(c);
        } else {
            let hash = self.beyond.unwrap_or(0xcbf2_9ce4_8422_2325);
            self.beyond = Some((hash ^ u64::from(u32::from(c))).wrapping_mul(0x0100_0000_01b3));
        }
    }

    /// Takes all the rest as it is written, but for how it is spaced and what closes it: at this length a
    /// text is pasted, not typed anew.
    fn skip(&mut self, rest: &str) {
        let rest = rest.trim_matches(|c: char| !c.is_alphanumeric());
        for word in rest.split_whitespace() {
            self.count += 1;
            self.tail.get_or_insert_with(digest::Tail::new).add(word);
        }
    }

    /// Ends the word under way.
    fn end(&mut self) {
        if self.word.is_empty() {
            return;
        }
        let written = std::mem::take(&mut self.word);
        let beyond = self.beyond.take();
        let mut traits = Traits {
            is_quoted: self.quoted,
            ..Traits::default()
        };
        let capitals = written.chars().filter(|c| c.is_uppercase()).count();
        let starts = written.chars().next().is_some_and(char::is_uppercase);
        let letters = written.chars().filter(|c| c.is_alphabetic()).count();
        if starts && self.starts_sentence && capitals == 1 {
            traits.may_be_name = letters > 1;
        } else if capitals > 0 && written != "I" && !written.starts_with("I'") {
            traits.is_name = true;
        }
        let inner_capital = capitals > 0
            && letters > capitals
            && written
                .chars()
                .zip(written.chars().skip(1))
                .any(|(a, b)| a.is_lowercase() && b.is_uppercase());
        traits.is_code =
            self.code || written.contains('_') || (inner_capital && written.is_ascii() && !starts);
        self.starts_sentence = false;
        let mut text = written.to_lowercase();
        if let Some(beyond) = beyond {
            text.push_str(&format!("#{beyond:016x}"));
        }
        self.split(&text, traits);
    }

    /// Writes shortened forms out.
    fn split(&mut self, text: &str, traits: Traits) {
        if let Some(known) = KNOWN.get(text)
            && let Some(long) = known.long
        {
            long.iter().for_each(|word| self.add(word, traits));
            return;
        }
        let Some((stem, end)) = text.rsplit_once('\'') else {
            self.add(text, traits);
            return;
        };
        let rest = match end {
            "t" if stem == "won" => return self.add_all(&["will", "not"], traits),
            "t" if stem == "can" => return self.add_all(&["can", "not"], traits),
            "t" if stem == "ain" => return self.add_all(&["is", "not"], traits),
            "t" if stem.len() > 2 && stem.ends_with('n') => {
                return self.add_all(&[&stem[..stem.len() - 1], "not"], traits);
            }
            "m" => "am",
            "re" => "are",
            "ll" => "will",
            "ve" => "have",
            "d" => "would",
            "s" if lexicon::IS_BEFORE_S.contains(&stem) => "is",
            "s" if stem == "let" => "us",
            "s" | "" => return self.add(stem, traits),
            _ => return self.add(text, traits),
        };
        self.add_all(&[stem, rest], traits);
    }

    fn add_all(&mut self, words: &[&str], traits: Traits) {
        words.iter().for_each(|word| self.add(word, traits));
    }

    fn add(&mut self, text: &str, mut traits: Traits) {
        if text.is_empty() {
            return;
        }
        self.count += 1;
        if self.words.len() >= WORDS_MAX {
            self.tail.get_or_insert_with(digest::Tail::new).add(text);
            return;
        }
        let mut text = text;
        if let Some(known) = KNOWN.get(text) {
            traits.is_stop = known.traits.is_stop;
            traits.is_negation = known.traits.is_negation;
            traits.unit = known.traits.unit;
            traits.date = known.traits.date;
            if let Some(number) = known.number {
                traits.is_number = true;
                text = number;
            }
        }
        // "may" and "am" are verbs first.
        if traits.is_stop {
            traits.date = None;
            traits.is_name = false;
            traits.may_be_name = false;
        }
        traits.is_number |= text.bytes().any(|byte| byte.is_ascii_digit());
        self.words.push(Word {
            text: text.into(),
            hash: hash(text),
            traits,
        });
    }
}

impl Words {
    pub fn of(text: &str) -> Self {
        let mut reader = Reader {
            words: Vec::new(),
            count: 0,
            tail: None,
            word: String::new(),
            beyond: None,
            starts_sentence: true,
            quoted: false,
            code: false,
        };
        let mut has_words = false;
        let mut has_question_mark = false;
        let mut scripts = [0u32; 11];
        let mut chars = text.char_indices().peekable();
        let mut before = ' ';
        while let Some((at, c)) = chars.next() {
            if reader.words.len() >= WORDS_MAX && reader.word.is_empty() {
                reader.skip(&text[at..]);
                break;
            }
            let next = chars.peek().map_or(' ', |(_, next)| *next);
            let joins = match c {
                '\'' | '\u{2019}' | '\u{2018}' | '`' => {
                    before.is_alphabetic() && next.is_alphabetic()
                }
                // 3.5, 1,000 is one number, 12:30 one time.
                '.' | ',' | ':' | '/' => before.is_ascii_digit() && next.is_ascii_digit(),
                '_' => true,
                _ => false,
            };
            if c.is_alphanumeric() || is_mark(c) || joins {
                let script = Script::of(c);
                if c.is_alphabetic() {
                    has_words = true;
                    if let Some(count) = scripts.get_mut(script as usize) {
                        *count = count.saturating_add(1);
                    }
                }
                has_words |= c.is_numeric();
                if script.is_spaceless() && c.is_alphabetic() {
                    reader.end();
                    reader.push_char(c);
                    reader.end();
                } else {
                    // A thousands' comma says nothing.
                    match c {
                        ',' => {}
                        '\u{2019}' | '\u{2018}' | '`' => reader.push_char('\''),
                        _ => {
                            // "500usd" and "5%" are a number and a unit.
                            if before.is_ascii_digit() && c.is_alphabetic() && !is_ordinal(c) {
                                reader.end();
                            }
                            reader.push_char(c);
                        }
                    }
                }
            } else {
                reader.end();
                match c {
                    '?' | '\u{ff1f}' | '؟' => {
                        has_question_mark = true;
                        reader.starts_sentence = true;
                    }
                    '.' | '!' | '\n' | ':' => reader.starts_sentence = true,
                    // A doubled mark, as CSV has it, is one.
                    '"' | '\u{201c}' | '\u{201d}' | '«' | '»' if before != c => {
                        reader.quoted = !reader.quoted;
                    }
                    '`' => reader.code = !reader.code,
                    '$' | '€' | '£' | '¥' | '₹' | '%' | '+' | '=' | '<' | '>' | '#' | '^' | '*' =>
                    {
                        let mut sign = [0; 4];
                        reader.add(c.encode_utf8(&mut sign), Traits::default());
                    }
                    '-' | '\u{2212}' if next.is_ascii_digit() && before.is_whitespace() => {
                        reader.push_char('-');
                    }
                    _ => {}
                }
            }
            before = c;
        }
        reader.end();
        let script = scripts
            .iter()
            .enumerate()
            .max_by_key(|(_, count)| **count)
            .filter(|(_, count)| **count > 0)
            .map_or(Script::None, |(at, _)| SCRIPTS[at]);
        let mut words = reader.words;
        // A quotation that is never closed is none.
        if reader.quoted {
            words
                .iter_mut()
                .for_each(|word| word.traits.is_quoted = false);
        }
        let (without, courtesies) = strip(&mut words);
        Self {
            count: reader.count - without,
            words,
            tail: reader.tail.map_or(0, digest::Tail::finish),
            has_words,
            courtesies,
            is_blank: text.trim().is_empty(),
            has_question_mark,
            script,
        }
    }
}

const SCRIPTS: [Script; 11] = [
    Script::None,
    Script::Latin,
    Script::Greek,
    Script::Cyrillic,
    Script::Hebrew,
    Script::Arabic,
    Script::Indic,
    Script::Kana,
    Script::Han,
    Script::Hangul,
    Script::Other,
];

/// Combining marks belong to the letter before them.
fn is_mark(c: char) -> bool {
    matches!(u32::from(c), 0x300..=0x36F | 0x93C..=0x94D | 0x64B..=0x65F)
}

/// "1st", "2nd", "3rd", "4th" stay one word.
fn is_ordinal(c: char) -> bool {
    matches!(c, 's' | 'n' | 'r' | 't' | 'S' | 'N' | 'R' | 'T')
}

/// Content words of a text of which its courtesies may be the rest.
const LEFT_MAX: usize = 1;

/// Takes courtesies off both ends, and says how many words that were, and which. A text of nothing else
/// keeps them.
fn strip(words: &mut Vec<Word>) -> (usize, u64) {
    let mut from = 0;
    let mut until = words.len();
    while let Some(length) = courtesy(&words[from..until]) {
        from += length;
    }
    loop {
        let rest = &words[from..until];
        let two = rest.len() > 2
            && (&*rest[rest.len() - 2].text, &*rest[rest.len() - 1].text) == ("thank", "you");
        if two {
            until -= 2;
        } else if rest.len() > 1
            && rest
                .last()
                .is_some_and(|word| lexicon::COURTESY_BACK.contains(&&*word.text))
        {
            until -= 1;
        } else {
            break;
        }
    }
    if from >= until {
        return (0, 0);
    }
    let without = words.len() - (until - from);
    let left = words[from..until].iter().filter(|word| word.is_content());
    let courtesies = match left.count() {
        0..=LEFT_MAX => {
            let taken = words[..from].iter().chain(&words[until..]);
            taken.fold(0_u64, |sum, word| sum.rotate_left(5) ^ word.hash)
        }
        _ => 0,
    };
    words.truncate(until);
    words.drain(..from);
    (without, courtesies)
}

/// How many words of courtesy come first; something must be left after them.
fn courtesy(words: &[Word]) -> Option<usize> {
    lexicon::COURTESY
        .iter()
        .filter(|phrase| {
            words.len() > phrase.len()
                && phrase
                    .iter()
                    .zip(words)
                    .all(|(said, word)| **said == *word.text)
        })
        .map(|phrase| phrase.len())
        .max()
}
