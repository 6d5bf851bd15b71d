//! Two questions laid side by side: which words each has alone, and what those are.

use std::collections::HashMap;
use std::sync::LazyLock;

use strsim::osa_distance;

use super::company::{COMPANY_FIGURES, Company};
use super::lexicon;
use super::question::{Kind, Question};
use super::scorer::Vocabulary;
use super::words::{Script, Word, hash};

/// What one text has alone.
#[derive(Clone, Copy, Default, Debug)]
pub struct Only {
    /// Content words that match nothing, not even nearly.
    pub content: u32,
    pub stop: u32,
    /// Their weight, of the weight of all content words.
    pub share: f32,
    pub weight: f32,
    pub weight_max: f32,
    /// In no text that the weights were counted in.
    pub strangers: u32,
}

/// Both texts, the question asked first in every pair of figures.
#[derive(Debug)]
pub struct Compared {
    pub only: [Only; 2],
    pub len: [u32; 2],
    pub content: [u32; 2],
    pub matched: u32,
    /// Matched but for a slip of the pen, and but for an ending.
    pub typos: u32,
    pub endings: u32,
    pub inversions: u32,
    pub stop_matched: u32,
    /// What is left between the common beginning and the common end.
    pub middle: [u32; 2],
    pub is_same: bool,
    pub middle_weight: [f32; 2],
    pub middle_known: u32,
    pub middle_near: f32,
    pub first_content_same: bool,
    pub last_content_same: bool,
    pub heaviest_same: u32,
    pub grams: f32,
    pub near: f32,

    pub numbers: [u32; 2],
    /// Numbers of the same digits that are written otherwise.
    pub number_marks_differ: bool,
    /// Texts of the same words with other symbols or, where little is left without them, courtesies.
    pub symbols_differ: bool,
    pub courtesies_differ: bool,
    pub units: [u32; 2],
    pub unit_differs: bool,
    pub dates: [u32; 2],
    pub names: [u32; 2],
    pub maybe_names: [u32; 2],
    pub quotes: [u32; 2],
    pub code: [u32; 2],
    pub opposites: u32,
    pub negation_differs: bool,
    pub negations: [u32; 2],
    pub direction_differs: bool,
    pub asking_differs: bool,
    pub kinds: [Kind; 2],
    pub language_differs: bool,
    pub language_unsure: bool,
    pub is_english: bool,
    pub tail_differs: bool,
    pub is_empty: bool,
    pub mark_differs: bool,
}

/// How a word of one text stands to the other text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Alone,
    Same(u16),
    Typo(u16),
    Ending(u16),
}

impl Fate {
    fn place(self) -> Option<u16> {
        match self {
            Fate::Alone => None,
            Fate::Same(at) | Fate::Typo(at) | Fate::Ending(at) => Some(at),
        }
    }
}

static OPPOSITES: LazyLock<HashMap<u64, Vec<u64>>> = LazyLock::new(|| {
    let mut opposites: HashMap<u64, Vec<u64>> = HashMap::new();
    for (a, b) in lexicon::OPPOSITE {
        opposites.entry(hash(a)).or_default().push(hash(b));
        opposites.entry(hash(b)).or_default().push(hash(a));
    }
    opposites
});

/// "like" and "unlike", "stop" and "start".
fn are_opposite(a: &Word, b: &Word) -> bool {
    OPPOSITES
        .get(&a.hash)
        .is_some_and(|others| others.contains(&b.hash))
        || has_opposite_prefix(&a.text, &b.text)
        || has_opposite_prefix(&b.text, &a.text)
        || (a.text.len() > 5
            && b.text.len() > 5
            && (a
                .text
                .strip_suffix("less")
                .is_some_and(|stem| b.text.strip_suffix("ful") == Some(stem))
                || b.text
                    .strip_suffix("less")
                    .is_some_and(|stem| a.text.strip_suffix("ful") == Some(stem))))
}

fn has_opposite_prefix(long: &str, short: &str) -> bool {
    short.len() >= 3
        && long.len() > short.len()
        && long.ends_with(short)
        && lexicon::OPPOSITE_PREFIX.contains(&&long[..long.len() - short.len()])
}

/// A slip of the pen: two letters swapped, one too many, too few or wrong, in a word that is long
/// enough for it to be told from another word. Where both are words, it is another word.
fn is_typo(a: &Word, b: &Word, vocabulary: &Vocabulary) -> bool {
    if a.traits.is_number || b.traits.is_number || a.traits.is_code || b.traits.is_code {
        return false;
    }
    let (x, y) = (a.text.len(), b.text.len());
    if x.min(y) < 4 || x.abs_diff(y) > 2 {
        return false;
    }
    if vocabulary.is_common(a.hash) && vocabulary.is_common(b.hash) {
        return false;
    }
    let most = if x.min(y) >= 8 { 2 } else { 1 };
    osa_distance(&a.text, &b.text) <= most
}

const ENDINGS: &[&str] = &[
    "", "s", "es", "ed", "d", "ing", "er", "ly", "y", "ies", "ied", "e", "ment", "al", "ation",
    "ion", "ions", "ments", "en", "n",
];

/// One word in two forms: "transfer", "transferred".
fn is_ending(a: &Word, b: &Word) -> bool {
    if a.traits.is_number || b.traits.is_number {
        return false;
    }
    let common = a
        .text
        .bytes()
        .zip(b.text.bytes())
        .take_while(|(x, y)| x == y)
        .count();
    if common < 3 || common * 2 < a.text.len().max(b.text.len()) {
        return false;
    }
    let (Some(x), Some(y)) = (a.text.get(common..), b.text.get(common..)) else {
        return false;
    };
    // A doubled consonant: "topped", "top".
    let last = a.text.as_bytes()[common - 1];
    let single = |rest: &'_ str| -> bool {
        ENDINGS.contains(&rest)
            || (rest.as_bytes().first() == Some(&last)
                && rest.get(1..).is_some_and(|rest| ENDINGS.contains(&rest)))
    };
    single(x) && single(y)
}

/// Words of one text that are looked for among those of the other, at most so many nearly: more has its
/// part in the figures as unmatched.
const NEARLY_MAX: usize = 24;

impl Compared {
    pub fn of(query: &Question, entry: &Question, vocabulary: &Vocabulary) -> Self {
        let (a, b) = (query.word_list(), entry.word_list());
        let (fa, fb) = fates(a, b, vocabulary);
        let weight = |word: &Word| vocabulary.weight(word.hash);
        let only = [only(a, &fa, vocabulary), only(b, &fb, vocabulary)];
        let content =
            [a, b].map(|words| words.iter().filter(|word| word.is_content()).count() as u32);

        let mut typos = 0;
        let mut endings = 0;
        let mut matched = 0;
        let mut stop_matched = 0;
        let mut inversions = 0;
        let mut before = 0;
        for (word, fate) in a.iter().zip(&fa) {
            match fate {
                Fate::Alone => continue,
                Fate::Typo(_) => typos += 1,
                Fate::Ending(_) => endings += 1,
                Fate::Same(_) => {}
            }
            if !word.is_content() {
                stop_matched += 1;
                continue;
            }
            matched += 1;
            if let Some(at) = fate.place() {
                inversions += u32::from(at < before);
                before = at;
            }
        }

        let is_pair = |i: usize, j: usize| fa[i].place() == Some(j as u16) || a[i].is(&b[j]);
        let shorter = a.len().min(b.len());
        let front = (0..shorter).take_while(|&i| is_pair(i, i)).count();
        let back = (0..shorter - front)
            .take_while(|&i| is_pair(a.len() - 1 - i, b.len() - 1 - i))
            .count();
        let (ma, mb) = (&a[front..a.len() - back], &b[front..b.len() - back]);
        let has_same_words = ma.is_empty() && mb.is_empty() && typos == 0 && endings == 0;
        let heavy = |words: &[Word]| words.iter().map(weight).fold(0.0, f32::max);
        let is_known = |words: &[Word]| words.iter().all(|word| vocabulary.is_common(word.hash));

        let mut opposites = 0;
        let mut unit_differs = false;
        let mut near_sum = 0.0;
        let mut near_count = 0.0;
        for (i, x) in a
            .iter()
            .enumerate()
            .filter(|(i, _)| fa[*i] == Fate::Alone)
            .take(NEARLY_MAX)
        {
            let mut nearest = 0.0f32;
            for (j, y) in b
                .iter()
                .enumerate()
                .filter(|(j, _)| fb[*j] == Fate::Alone)
                .take(NEARLY_MAX)
            {
                if are_opposite(x, y) {
                    opposites += 1;
                }
                if let (Some((one, p)), Some((other, q))) = (x.traits.unit, y.traits.unit) {
                    unit_differs |= one == other && p != q;
                }
                if x.is_content() && y.is_content() {
                    nearest = nearest.max(dice(&x.text, &y.text));
                }
                let _ = (i, j);
            }
            if x.is_content() {
                near_sum += nearest;
                near_count += 1.0;
            }
        }

        let count = |words: &[Word], fates: &[Fate], is: fn(&Word) -> bool| {
            words
                .iter()
                .zip(fates)
                .filter(|(word, fate)| **fate == Fate::Alone && is(word))
                .count() as u32
        };
        let alone = |is: fn(&Word) -> bool| [count(a, &fa, is), count(b, &fb, is)];
        let has_language = [query.language, entry.language];
        let scripts = [query.words.script, entry.words.script];
        let first = |words: &[Word]| {
            words
                .iter()
                .find(|word| word.is_content())
                .map(|word| word.hash)
        };
        let last = |words: &[Word]| {
            words
                .iter()
                .rfind(|word| word.is_content())
                .map(|word| word.hash)
        };
        let heaviest = |words: &[Word], fates: &[Fate]| {
            words
                .iter()
                .zip(fates)
                .filter(|(word, _)| word.is_content())
                .max_by(|x, y| weight(x.0).total_cmp(&weight(y.0)))
                .is_some_and(|(_, fate)| *fate != Fate::Alone)
        };
        let numbers = alone(|word| word.traits.is_number);
        Self {
            only,
            len: [a.len() as u32, b.len() as u32],
            content,
            matched,
            typos,
            endings,
            inversions,
            stop_matched,
            middle: [ma.len() as u32, mb.len() as u32],
            is_same: has_same_words,
            middle_weight: [heavy(ma), heavy(mb)],
            middle_known: u32::from(is_known(ma)) + u32::from(is_known(mb)),
            middle_near: match (ma, mb) {
                ([x], [y]) => dice(&x.text, &y.text),
                _ => 0.0,
            },
            first_content_same: first(a).is_some() && first(a) == first(b),
            last_content_same: last(a).is_some() && last(a) == last(b),
            heaviest_same: u32::from(heaviest(a, &fa)) + u32::from(heaviest(b, &fb)),
            grams: grams(a, b),
            near: if near_count > 0.0 {
                near_sum / near_count
            } else {
                1.0
            },
            number_marks_differ: query.marks.numbers != entry.marks.numbers && numbers == [0, 0],
            symbols_differ: query.marks.symbols != entry.marks.symbols && has_same_words,
            courtesies_differ: query.words.courtesies != entry.words.courtesies && has_same_words,
            numbers,
            units: alone(|word| word.traits.unit.is_some()),
            unit_differs,
            dates: alone(|word| word.traits.date.is_some()),
            names: alone(|word| word.traits.is_name && word.is_content()),
            maybe_names: alone(|word| word.traits.may_be_name && word.is_content()),
            quotes: alone(|word| word.traits.is_quoted),
            code: alone(|word| word.traits.is_code),
            opposites,
            negation_differs: query.negations % 2 != entry.negations % 2,
            negations: [query.negations, entry.negations],
            direction_differs: direction_differs(a, b, &fa),
            asking_differs: matches!([query.pointed(), entry.pointed()], [Some(x), Some(y)] if x != y),
            kinds: [query.kind, entry.kind],
            language_differs: matches!(has_language, [Some(x), Some(y)] if x != y)
                || (scripts[0] != scripts[1] && !scripts.contains(&Script::None)),
            language_unsure: has_language[0] != has_language[1],
            is_english: has_language == [Some(0), Some(0)],
            tail_differs: query.words.tail != entry.words.tail,
            is_empty: a.is_empty()
                || b.is_empty()
                || !query.words.has_words
                || !entry.words.has_words,
            mark_differs: query.words.has_question_mark != entry.words.has_question_mark,
        }
    }
}

fn fates(a: &[Word], b: &[Word], vocabulary: &Vocabulary) -> (Vec<Fate>, Vec<Fate>) {
    let mut fa = vec![Fate::Alone; a.len()];
    let mut fb = vec![Fate::Alone; b.len()];
    for (i, x) in a.iter().enumerate() {
        // Of several that are the same, the one that comes next in the same order.
        let found = (0..b.len()).find(|&j| fb[j] == Fate::Alone && x.is(&b[j]));
        if let Some(j) = found {
            fa[i] = Fate::Same(j as u16);
            fb[j] = Fate::Same(i as u16);
        }
    }
    let alone = |words: &[Word], fates: &[Fate]| -> Vec<usize> {
        (0..words.len())
            .filter(|&i| fates[i] == Fate::Alone && words[i].is_content())
            .take(NEARLY_MAX)
            .collect()
    };
    let rest = alone(b, &fb);
    for i in alone(a, &fa) {
        let found = rest.iter().copied().find_map(|j| {
            if fb[j] != Fate::Alone || are_opposite(&a[i], &b[j]) {
                return None;
            }
            let same_thing = |x: Option<(u8, u8)>, y| x.is_some() && x == y;
            if is_ending(&a[i], &b[j])
                || same_thing(a[i].traits.unit, b[j].traits.unit)
                || (a[i].traits.date.is_some() && a[i].traits.date == b[j].traits.date)
            {
                return Some((j, Fate::Ending(j as u16), Fate::Ending(i as u16)));
            }
            is_typo(&a[i], &b[j], vocabulary).then_some((
                j,
                Fate::Typo(j as u16),
                Fate::Typo(i as u16),
            ))
        });
        if let Some((j, mine, its)) = found {
            fa[i] = mine;
            fb[j] = its;
        }
    }
    (fa, fb)
}

fn only(words: &[Word], fates: &[Fate], vocabulary: &Vocabulary) -> Only {
    let mut only = Only::default();
    let mut all = 0.0;
    for (word, fate) in words.iter().zip(fates) {
        let is_alone = *fate == Fate::Alone;
        if !word.is_content() {
            only.stop += u32::from(is_alone);
            continue;
        }
        let weight = vocabulary.weight(word.hash);
        all += weight;
        if is_alone {
            only.content += 1;
            only.weight += weight;
            only.weight_max = only.weight_max.max(weight);
            only.strangers += u32::from(!vocabulary.has(word.hash) && !word.traits.is_number);
        }
    }
    only.share = if all > 0.0 { only.weight / all } else { 0.0 };
    only
}

/// Objects of "from", "to", "than" and their like: true when one of them is another thing of those that
/// both texts name.
fn direction_differs(a: &[Word], b: &[Word], fa: &[Fate]) -> bool {
    let objects = |words: &[Word]| -> Vec<(u64, Option<usize>)> {
        (0..words.len())
            .filter(|&i| lexicon::TURNING.contains(&&*words[i].text))
            .map(|i| {
                let object = (i + 1..words.len().min(i + 5))
                    .take_while(|&j| !lexicon::TURNING.contains(&&*words[j].text))
                    .find(|&j| words[j].is_content());
                (words[i].hash, object)
            })
            .take(8)
            .collect()
    };
    let (oa, ob) = (objects(a), objects(b));
    if oa.is_empty() || ob.is_empty() {
        return false;
    }
    let is_in_a = |j: usize| fa.iter().any(|fate| fate.place() == Some(j as u16));
    oa.iter().any(|(preposition, x)| {
        let Some(x) = x else { return false };
        let Some(place) = fa[*x].place() else {
            return false;
        };
        let theirs: Vec<_> = ob
            .iter()
            .filter(|(other, _)| other == preposition)
            .collect();
        !theirs.is_empty()
            && theirs.iter().all(|(_, y)| match y {
                Some(y) => *y != usize::from(place) && is_in_a(*y),
                None => false,
            })
    })
}

/// Dice's coefficient of two words' pairs of letters, with their ends marked.
fn dice(x: &str, y: &str) -> f32 {
    if x == y {
        return 1.0;
    }
    let pairs = |text: &str| -> Vec<u16> {
        let bytes = text.as_bytes();
        let mut pairs = Vec::with_capacity(bytes.len() + 1);
        let mut before = b' ';
        for &byte in bytes.iter().take(32) {
            pairs.push(u16::from(before) << 8 | u16::from(byte));
            before = byte;
        }
        pairs.push(u16::from(before) << 8 | u16::from(b' '));
        pairs
    };
    let (p, mut q) = (pairs(x), pairs(y));
    let all = (p.len() + q.len()) as f32;
    let mut same = 0.0;
    for pair in p {
        if let Some(at) = q.iter().position(|other| *other == pair) {
            q.swap_remove(at);
            same += 2.0;
        }
    }
    same / all
}

/// Cosine of the two texts' triples of letters, hashed into 256 counts.
fn grams(a: &[Word], b: &[Word]) -> f32 {
    let counts = |words: &[Word]| -> [u16; 256] {
        let mut counts = [0u16; 256];
        for word in words {
            let mut window = [b' '; 3];
            for byte in word.text.bytes().chain([b' ']) {
                window = [window[1], window[2], byte];
                let at = u32::from_le_bytes([window[0], window[1], window[2], 0])
                    .wrapping_mul(0x9E37_79B1)
                    >> 24;
                let count = &mut counts[at as usize];
                *count = count.saturating_add(1);
            }
        }
        counts
    };
    let (x, y) = (counts(a), counts(b));
    let dot = |p: &[u16; 256], q: &[u16; 256]| -> f32 {
        p.iter()
            .zip(q)
            .map(|(a, b)| f32::from(*a) * f32::from(*b))
            .sum()
    };
    let norm = (dot(&x, &x) * dot(&y, &y)).sqrt();
    if norm > 0.0 { dot(&x, &y) / norm } else { 0.0 }
}

/// The figures that the scorer's trees look at, in their order. Where both texts have one, the smaller
/// comes first, so that it does not matter which of the two was asked first. After them come those of
/// [`super::COMPANY_NAMES`].
pub const FEATURE_NAMES: [&str; OF_PAIR] = [
    "similarity",
    "head",
    "only_content_min",
    "only_content_max",
    "only_stop_min",
    "only_stop_max",
    "only_share_min",
    "only_share_max",
    "only_weight_min",
    "only_weight_max",
    "only_heaviest_min",
    "only_heaviest_max",
    "strangers_max",
    "len_min",
    "len_max",
    "content_min",
    "content_max",
    "matched",
    "typos",
    "endings",
    "inversions",
    "stop_matched",
    "middle_min",
    "middle_max",
    "is_same",
    "middle_weight_min",
    "middle_weight_max",
    "middle_known",
    "middle_near",
    "first_same",
    "last_same",
    "heaviest_same",
    "grams",
    "near",
    "numbers_min",
    "numbers_max",
    "units_min",
    "units_max",
    "dates_min",
    "dates_max",
    "names_min",
    "names_max",
    "maybe_names_min",
    "maybe_names_max",
    "quotes_max",
    "code_max",
    "opposites",
    "negation_differs",
    "negations_min",
    "negations_max",
    "direction",
    "asking_differs",
    "kind_min",
    "kind_max",
    "language_unsure",
    "is_english",
    "mark_differs",
    "stop_jaccard",
];

/// How many there are.
pub const FEATURES: usize = OF_PAIR + COMPANY_FIGURES;

/// Those of the two texts alone.
pub const OF_PAIR: usize = 58;

impl Compared {
    pub(super) fn features(
        &self,
        similarity: f32,
        head: f32,
        company: &Company,
    ) -> [f32; FEATURES] {
        let mut all = [0.0; FEATURES];
        let (of_pair, of_company) = all.split_at_mut(OF_PAIR);
        of_pair.copy_from_slice(&self.of_pair(similarity, head));
        of_company.copy_from_slice(&company.figures());
        all
    }

    fn of_pair(&self, similarity: f32, head: f32) -> [f32; OF_PAIR] {
        let low = |[a, b]: [u32; 2]| a.min(b) as f32;
        let high = |[a, b]: [u32; 2]| a.max(b) as f32;
        let [x, y] = &self.only;
        let content = [x.content, y.content];
        let stop = [x.stop, y.stop];
        let kinds = self.kinds.map(|kind| kind as u32);
        let stops = (self.stop_matched + stop[0] + stop[1]) as f32;
        [
            similarity,
            head,
            low(content),
            high(content),
            low(stop),
            high(stop),
            x.share.min(y.share),
            x.share.max(y.share),
            x.weight.min(y.weight),
            x.weight.max(y.weight),
            x.weight_max.min(y.weight_max),
            x.weight_max.max(y.weight_max),
            high([x.strangers, y.strangers]),
            low(self.len),
            high(self.len),
            low(self.content),
            high(self.content),
            self.matched as f32,
            self.typos as f32,
            self.endings as f32,
            self.inversions as f32,
            self.stop_matched as f32,
            low(self.middle),
            high(self.middle),
            f32::from(u8::from(self.is_same)),
            self.middle_weight[0].min(self.middle_weight[1]),
            self.middle_weight[0].max(self.middle_weight[1]),
            self.middle_known as f32,
            self.middle_near,
            f32::from(u8::from(self.first_content_same)),
            f32::from(u8::from(self.last_content_same)),
            self.heaviest_same as f32,
            self.grams,
            self.near,
            low(self.numbers),
            high(self.numbers),
            low(self.units),
            high(self.units),
            low(self.dates),
            high(self.dates),
            low(self.names),
            high(self.names),
            low(self.maybe_names),
            high(self.maybe_names),
            high(self.quotes),
            high(self.code),
            self.opposites as f32,
            f32::from(u8::from(self.negation_differs)),
            low(self.negations),
            high(self.negations),
            f32::from(u8::from(self.direction_differs)),
            f32::from(u8::from(self.asking_differs)),
            low(kinds),
            high(kinds),
            f32::from(u8::from(self.language_unsure)),
            f32::from(u8::from(self.is_english)),
            f32::from(u8::from(self.mark_differs)),
            if stops > 0.0 {
                self.stop_matched as f32 / stops
            } else {
                1.0
            },
        ]
    }
}
