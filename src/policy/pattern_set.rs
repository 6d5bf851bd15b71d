//! Many patterns over one text: which of them occur in it.
//!
//! What `regex::RegexSet` is, less the automaton for reading backwards, which a set builds and has no use
//! for: half of its memory, and half of the time it takes to compile.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use regex_automata::hybrid::dfa::{self, DFA};
use regex_automata::nfa::thompson::pikevm::{self, PikeVM};
use regex_automata::nfa::thompson::{self, NFA, WhichCaptures};
use regex_automata::util::pool::Pool;
use regex_automata::util::syntax;
use regex_automata::{Input, MatchKind, PatternID};

/// A search starts over without the automaton that it makes as it reads, once that was emptied this
/// often with little read in between.
const CLEARED_MAX: usize = 3;

/// What counts as little: bytes read for each state made.
const BYTES_PER_STATE_MIN: usize = 10;

/// Compiled patterns. A copy shares them.
#[derive(Clone)]
pub(crate) struct PatternSet(Arc<Compiled>);

struct Compiled {
    /// Fast, and gives up: at letters beyond ASCII where a pattern asks for the edge of a word. `None` of
    /// patterns so large that it would have no room to work in.
    automaton: Option<DFA>,
    /// Slow, and always finds.
    machine: PikeVM,
    scratch: Pool<Scratch, NewScratch>,
}

type NewScratch = Box<dyn Fn() -> Scratch + Send + Sync + UnwindSafe + RefUnwindSafe>;

struct Scratch {
    automaton: Option<dfa::Cache>,
    machine: Option<pikevm::Cache>,
}

/// The patterns that occur, by their places among those compiled.
#[derive(Clone, Debug)]
pub(crate) struct Occurring(regex_automata::PatternSet);

/// Why patterns do not compile: one is malformed, or all together are too large.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct Uncompiled(Box<thompson::BuildError>);

impl fmt::Debug for PatternSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PatternSet({})", self.0.machine.pattern_len())
    }
}

impl PatternSet {
    /// Compiles `patterns` into at most `bytes_max`.
    pub fn compile<P: AsRef<str>>(
        patterns: &[P],
        is_case_insensitive: bool,
        bytes_max: Option<usize>,
    ) -> Result<Self, Uncompiled> {
        let nfa = NFA::compiler()
            .syntax(syntax::Config::new().case_insensitive(is_case_insensitive))
            .configure(
                NFA::config()
                    .which_captures(WhichCaptures::None)
                    .nfa_size_limit(bytes_max),
            )
            .build_many(patterns)
            .map_err(|error| Uncompiled(Box::new(error)))?;
        let config = DFA::config()
            .match_kind(MatchKind::All)
            .unicode_word_boundary(true)
            .minimum_cache_clear_count(Some(CLEARED_MAX))
            .minimum_bytes_per_state(Some(BYTES_PER_STATE_MIN));
        let automaton = DFA::builder()
            .configure(config)
            .build_from_nfa(nfa.clone())
            .ok();
        let machine = PikeVM::builder()
            .configure(PikeVM::config().match_kind(MatchKind::All))
            .build_from_nfa(nfa)
            .expect("nothing asked of it can be refused");
        let made = automaton.clone();
        let new: NewScratch = Box::new(move || Scratch {
            automaton: made.as_ref().map(DFA::create_cache),
            machine: None,
        });
        Ok(Self(Arc::new(Compiled {
            automaton,
            machine,
            scratch: Pool::new(new),
        })))
    }

    /// Which patterns occur in `text`.
    pub fn occurring(&self, text: &str) -> Occurring {
        let Compiled {
            automaton,
            machine,
            scratch,
        } = &*self.0;
        let input = Input::new(text);
        let mut found = regex_automata::PatternSet::new(machine.pattern_len());
        let mut scratch = scratch.get();
        let is_read = automaton
            .as_ref()
            .zip(scratch.automaton.as_mut())
            .is_some_and(|(automaton, scratch)| {
                let read = automaton.try_which_overlapping_matches(scratch, &input, &mut found);
                read.is_ok()
            });
        if !is_read {
            let scratch = scratch
                .machine
                .get_or_insert_with(|| machine.create_cache());
            machine.which_overlapping_matches(scratch, &input, &mut found);
        }
        Occurring(found)
    }
}

impl Occurring {
    pub fn has(&self, index: usize) -> bool {
        PatternID::new(index).is_ok_and(|id| self.0.contains(id))
    }

    pub fn indices(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().map(|id| id.as_usize())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATTERNS: [&str; 8] = [
        r"\bcat\b",
        r"cat",
        r"k+e\b",
        r"\w{3} \d",
        r"^ß|ü$",
        r"(?:na|ne|nu)+",
        r"",
        r"\p{Greek}\B.",
    ];

    fn indices(set: &PatternSet, text: &str) -> Vec<usize> {
        set.occurring(text).indices().collect()
    }

    #[test]
    fn letters_beyond_ascii_are_read_as_such() {
        let set = PatternSet::compile(&PATTERNS, false, None).unwrap();
        assert_eq!(indices(&set, "a cat"), [0, 1, 6]);
        // No edge of a word before the umlaut.
        assert_eq!(indices(&set, "catü"), [1, 4, 6]);
        let found = set.occurring("catü");
        assert!(found.has(1) && !found.has(0) && !found.has(PATTERNS.len()));
    }

    #[test]
    fn no_pattern_occurs_where_there_are_none() {
        let none: [&str; 0] = [];
        let set = PatternSet::compile(&none, true, None).unwrap();
        assert_eq!(indices(&set, "text"), [0; 0]);
    }

    #[test]
    fn what_is_malformed_or_too_large_is_refused() {
        assert!(PatternSet::compile(&["("], true, None).is_err());
        let large = [r"\w{500}"];
        assert!(PatternSet::compile(&large, true, Some(1 << 16)).is_err());
        assert!(PatternSet::compile(&large, true, None).is_ok());
    }

    #[test]
    fn a_set_larger_than_its_scratch_is_searched_all_the_same() {
        let set = PatternSet::compile(&["y{300000}", r"x\b", "z"], true, None).unwrap();
        assert!(set.0.automaton.is_none());
        assert_eq!(indices(&set, "an x, an X, xü"), [1]);
        assert_eq!(indices(&set, "yyz"), [2]);
    }

    proptest! {
        #[test]
        fn the_same_occur_as_in_the_field_s_own_set(
            text in "([a-cknetu1 ]|[äßü]|[αΩ]|K|\\PC){0,24}",
            is_case_insensitive: bool,
        ) {
            let theirs = regex::RegexSetBuilder::new(PATTERNS)
                .case_insensitive(is_case_insensitive)
                .build()
                .unwrap();
            let ours = PatternSet::compile(&PATTERNS, is_case_insensitive, None).unwrap();
            let theirs: Vec<_> = theirs.matches(&text).into_iter().collect();
            prop_assert_eq!(indices(&ours, &text), theirs);
        }
    }
}
