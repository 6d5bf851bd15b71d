//! A text read once, for every comparison it will take part in.

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use super::lexicon;
use super::marks::Marks;
use super::words::{Script, Word, Words};

/// What is compared of a request: the last user turn, masked.
pub struct Question {
    pub(super) words: Words,
    pub(super) marks: Marks,
    pub(super) kind: Kind,
    /// The word that asks, "how many" or "when", as [`asking`] counts them.
    pub(super) asking: Option<u8>,
    /// Place in [`lexicon::LANGUAGE`], where the words say so clearly.
    pub(super) language: Option<u8>,
    pub(super) negations: u32,
    is_present: bool,
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question")
            .field("words", &self.words.count)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// Why a text's reply is neither kept for others nor sought among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhyNot {
    /// No text, or white space alone.
    Empty,
    /// No letter and no digit: nothing that could be compared.
    NoWords,
    /// It asks about the present moment: "today", "latest", prices, the weather.
    TimeDependent,
}

impl WhyNot {
    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            WhyNot::Empty => "empty",
            WhyNot::NoWords => "no_words",
            WhyNot::TimeDependent => "time_dependent",
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// What, which, who, when, where, how many.
    Fact,
    How,
    Why,
    YesNo,
    /// An order: "write", "set", "translate".
    Task,
    Statement,
}

impl Kind {
    pub const ALL: [Kind; 6] = [
        Kind::Fact,
        Kind::How,
        Kind::Why,
        Kind::YesNo,
        Kind::Task,
        Kind::Statement,
    ];
}

/// What evidence is pooled by: the kind of question, and whether the guards know its language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Class {
    pub kind: Kind,
    pub is_english: bool,
}

impl Class {
    /// How many there are.
    pub const COUNT: usize = 2 * Kind::ALL.len();

    #[must_use]
    pub fn as_label(self) -> &'static str {
        match (self.kind, self.is_english) {
            (Kind::Fact, true) => "fact",
            (Kind::How, true) => "how",
            (Kind::Why, true) => "why",
            (Kind::YesNo, true) => "yes_no",
            (Kind::Task, true) => "task",
            (Kind::Statement, true) => "statement",
            (Kind::Fact, false) => "fact_other",
            (Kind::How, false) => "how_other",
            (Kind::Why, false) => "why_other",
            (Kind::YesNo, false) => "yes_no_other",
            (Kind::Task, false) => "task_other",
            (Kind::Statement, false) => "statement_other",
        }
    }

    /// The class with this label.
    #[must_use]
    pub fn of_label(label: &str) -> Option<Self> {
        Self::all().find(|class| class.as_label() == label)
    }

    pub fn all() -> impl Iterator<Item = Class> {
        [true, false].into_iter().flat_map(|is_english| {
            Kind::ALL
                .into_iter()
                .map(move |kind| Class { kind, is_english })
        })
    }

    pub(super) fn index(self) -> usize {
        self.kind as usize + if self.is_english { 0 } else { Kind::ALL.len() }
    }
}

const AUXILIARY: &[&str] = &[
    "is", "are", "am", "was", "were", "do", "does", "did", "can", "could", "will", "would",
    "should", "shall", "has", "have", "had", "may", "might", "must",
];

static LANGUAGES: LazyLock<HashMap<&'static str, u8>> = LazyLock::new(|| {
    let mut languages: HashMap<&'static str, u8> = HashMap::new();
    for (place, (_, words)) in lexicon::LANGUAGE.iter().enumerate() {
        for word in *words {
            *languages.entry(word).or_default() |= 1 << place;
        }
    }
    languages
});

impl Question {
    /// Reads a text of any length, in one pass.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let words = Words::of(text);
        let (kind, asking) = kind(&words);
        let negations = words
            .words
            .iter()
            .filter(|word| word.traits.is_negation)
            .count() as u32;
        Self {
            kind,
            asking,
            language: language(&words),
            negations,
            is_present: is_present(&words.words),
            marks: Marks::of(text),
            words,
        }
    }

    /// Its class, or why no other request's reply may answer it, nor its reply another's.
    ///
    /// # Errors
    /// When there is nothing to compare, or when what it asks for changes by itself.
    pub fn reusable(&self) -> Result<Class, WhyNot> {
        if self.words.count == 0 && !self.words.has_words {
            return Err(if self.words.is_blank {
                WhyNot::Empty
            } else {
                WhyNot::NoWords
            });
        }
        if !self.words.has_words {
            return Err(WhyNot::NoWords);
        }
        if self.is_present {
            return Err(WhyNot::TimeDependent);
        }
        Ok(self.class())
    }

    /// What evidence about it is pooled by.
    #[must_use]
    pub fn class(&self) -> Class {
        Class {
            kind: self.kind,
            is_english: self.language == Some(0),
        }
    }

    /// Its words as they are compared, at most [`super::WORDS_MAX`]: for training.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.word_list().iter().map(|word| &*word.text)
    }

    /// What asks for one kind of thing only: "what", "which" and "how" stand in for others.
    pub(super) fn pointed(&self) -> Option<u8> {
        self.asking.filter(|asking| !matches!(asking, 0 | 1 | 6))
    }

    pub(super) fn word_list(&self) -> &[Word] {
        &self.words.words
    }
}

fn kind(words: &Words) -> (Kind, Option<u8>) {
    let list = &words.words;
    let Some(first) = list.first() else {
        return (Kind::Statement, None);
    };
    // "In Excel, how do I …" asks too.
    let asks = list
        .iter()
        .take(8)
        .enumerate()
        .find_map(|(at, word)| asking(word, list.get(at + 1)).map(|asking| (at, asking)));
    if let Some((at, asking)) = asks
        && (at == 0 || words.has_question_mark || at <= 2)
    {
        let kind = match asking {
            5 => Kind::Why,
            6 => Kind::How,
            _ => Kind::Fact,
        };
        return (kind, Some(asking));
    }
    if AUXILIARY.contains(&&*first.text) {
        return (Kind::YesNo, None);
    }
    if lexicon::TASK.contains(&&*first.text) {
        return (Kind::Task, None);
    }
    if words.has_question_mark {
        return (Kind::YesNo, None);
    }
    (Kind::Statement, None)
}

fn asking(word: &Word, next: Option<&Word>) -> Option<u8> {
    let at = match &*word.text {
        "what" => 0,
        "which" => 1,
        "who" | "whom" | "whose" => 2,
        "when" => 3,
        "where" => 4,
        "why" => 5,
        "how" => match next.map(|next| &*next.text) {
            Some("many") => 7,
            Some("much") => 8,
            Some("long") => 9,
            Some("far") => 10,
            Some("often") => 11,
            Some("old") => 12,
            _ => 6,
        },
        _ => return None,
    };
    Some(at)
}

/// The language whose words stand in it, when no other has as many.
fn language(words: &Words) -> Option<u8> {
    if words.script != Script::Latin {
        return None;
    }
    let mut counts = [0u32; 8];
    for word in words.words.iter().take(64) {
        let mask = LANGUAGES.get(&*word.text).copied().unwrap_or_default();
        for (place, count) in counts.iter_mut().enumerate() {
            *count += u32::from(mask >> place & 1);
        }
    }
    let (best, most) = counts.iter().enumerate().max_by_key(|(at, count)| {
        // Of equals, the first.
        (**count, std::cmp::Reverse(*at))
    })?;
    let others = counts
        .iter()
        .enumerate()
        .filter(|(at, _)| *at != best)
        .map(|(_, count)| *count)
        .max()
        .unwrap_or(0);
    (*most > others).then_some(best as u8)
}

/// Phrases by their first words.
type Phrases = HashMap<&'static str, Vec<&'static [&'static str]>>;

static PRESENT: LazyLock<Phrases> = LazyLock::new(|| by_first_words(lexicon::PRESENT));
static VALUE: LazyLock<Phrases> = LazyLock::new(|| by_first_words(lexicon::VALUE));

fn by_first_words(phrases: &[&'static [&'static str]]) -> Phrases {
    let mut by_first = Phrases::new();
    for phrase in phrases {
        by_first.entry(phrase[0]).or_default().push(phrase);
    }
    by_first
}

fn has_phrase(words: &[Word], phrases: &Phrases) -> bool {
    (0..words.len()).any(|at| {
        phrases.get(&*words[at].text).is_some_and(|phrases| {
            phrases.iter().any(|phrase| {
                words.len() - at >= phrase.len()
                    && phrase
                        .iter()
                        .zip(&words[at..])
                        .all(|(said, word)| **said == *word.text)
            })
        })
    })
}

/// Says something of the present moment.
fn is_present(words: &[Word]) -> bool {
    // "now" alone asks for it only where it closes the question.
    if words.len() > 1 && words.last().is_some_and(|word| &*word.text == "now") {
        return true;
    }
    let comes_about = || {
        let mut words = words.iter();
        words.any(|word| lexicon::CAME_ABOUT.contains(&&*word.text))
    };
    has_phrase(words, &PRESENT) || (has_phrase(words, &VALUE) && !comes_about())
}
