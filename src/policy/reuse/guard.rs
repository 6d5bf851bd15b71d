//! What two texts must not differ in, whatever else speaks for them.

use super::compared::Compared;

/// Why a pair is refused. In this order they are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Guard {
    /// A vector or similarity that is no number, or a vector of no length.
    Vector,
    /// There is nothing to compare in one of them.
    Nothing,
    /// They differ beyond the words that are compared one by one.
    Tail,
    Language,
    /// Most of what one says has nothing to do with the other, at length.
    Excess,
    Code,
    Quote,
    Number,
    Unit,
    Date,
    Name,
    Opposite,
    Negation,
    /// The same things the other way around.
    Direction,
    /// "When" against "where".
    Asking,
}

impl Guard {
    /// In the order of their [`Guard::index`].
    pub const ALL: [Guard; 15] = [
        Guard::Vector,
        Guard::Nothing,
        Guard::Tail,
        Guard::Language,
        Guard::Excess,
        Guard::Code,
        Guard::Quote,
        Guard::Number,
        Guard::Unit,
        Guard::Date,
        Guard::Name,
        Guard::Opposite,
        Guard::Negation,
        Guard::Direction,
        Guard::Asking,
    ];

    /// Its place among all, from 0.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            Guard::Vector => "vector",
            Guard::Nothing => "nothing",
            Guard::Tail => "tail",
            Guard::Excess => "excess",
            Guard::Language => "language",
            Guard::Code => "code",
            Guard::Quote => "quote",
            Guard::Number => "number",
            Guard::Unit => "unit",
            Guard::Date => "date",
            Guard::Name => "name",
            Guard::Opposite => "opposite",
            Guard::Negation => "negation",
            Guard::Direction => "direction",
            Guard::Asking => "asking",
        }
    }
}

/// Words unmatched in one text from which on it says too much else, and how much of its weight they
/// must be. A suffix that pulls a vector to a target is of this shape, whatever its similarity.
const EXCESS_WORDS: u32 = 10;
const EXCESS_SHARE: f32 = 0.8;

/// The same for a text that says all that the other says, and then more: what is added is mostly meant.
const ADDED_WORDS: u32 = 5;
const ADDED_SHARE: f32 = 0.5;

/// Words in no text that the weights were counted in, on one side only: noise, or another subject.
const STRANGERS_MAX: u32 = 3;

/// Texts that differ in at most so many content words are held to every word: where more differs, the
/// scorer weighs it.
const SMALL: u32 = 2;

/// What refuses the pair before it is scored.
pub(super) fn guard(compared: &Compared) -> Option<Guard> {
    let c = compared;
    // Content words that differ, on the side where more do.
    let differ = c.only[0].content.max(c.only[1].content);
    let both = |[a, b]: [u32; 2]| a > 0 && b > 0;
    let either = |[a, b]: [u32; 2]| a > 0 || b > 0;
    let is_small = differ <= SMALL;
    let found = [
        (Guard::Nothing, c.is_empty),
        (Guard::Tail, c.tail_differs),
        (Guard::Language, c.language_differs),
        (
            Guard::Excess,
            c.only.iter().any(|only| {
                (only.content >= EXCESS_WORDS && only.share >= EXCESS_SHARE)
                    || only.strangers > STRANGERS_MAX
            }) || [(0, 1), (1, 0)].into_iter().any(|(whole, more)| {
                c.only[whole].content == 0
                    && c.only[more].content >= ADDED_WORDS
                    && c.only[more].share >= ADDED_SHARE
            }),
        ),
        (
            Guard::Code,
            both(c.code) || (is_small && either(c.code)) || c.symbols_differ,
        ),
        (Guard::Quote, both(c.quotes) || c.courtesies_differ),
        (
            Guard::Number,
            both(c.numbers) || (is_small && either(c.numbers)) || c.number_marks_differ,
        ),
        (Guard::Unit, c.unit_differs),
        (Guard::Date, both(c.dates) || (is_small && either(c.dates))),
        (Guard::Name, both(c.names)),
        (Guard::Opposite, c.opposites > 0),
        (Guard::Negation, c.negation_differs && differ <= SMALL),
        (Guard::Direction, c.direction_differs),
        (Guard::Asking, c.asking_differs && differ <= 1),
    ];
    found
        .into_iter()
        .find_map(|(guard, refuses)| refuses.then_some(guard))
}

/// Every agreement that can be asked for, asked for: a cache with no other judgement than this refuses
/// much that it could answer.
pub(super) fn strict(compared: &Compared) -> Option<Guard> {
    let c = compared;
    let either = |[a, b]: [u32; 2]| a > 0 || b > 0;
    let found = [
        (Guard::Code, either(c.code)),
        (Guard::Quote, either(c.quotes)),
        (Guard::Number, either(c.numbers)),
        (Guard::Unit, either(c.units)),
        (Guard::Date, either(c.dates)),
        (Guard::Name, either(c.names)),
        (Guard::Negation, c.negation_differs),
        (Guard::Asking, c.asking_differs),
    ];
    guard(compared).or_else(|| {
        found
            .into_iter()
            .find_map(|(guard, refuses)| refuses.then_some(guard))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_guard_has_a_place_and_a_name_of_its_own() {
        for (at, guard) in Guard::ALL.iter().enumerate() {
            assert_eq!(guard.index(), at);
        }
        let mut names = Guard::ALL.map(Guard::as_label);
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
