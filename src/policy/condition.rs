//! One rule's condition, compiled: tests joined by all, any and not.

use std::cell::OnceCell;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use domain::OutputFormat;
use regex::Regex;

use crate::features::{Features, MATCHED_BYTES_MAX};
use crate::pattern_set::{Occurring, PatternSet, Uncompiled};
use crate::tokens::prefix;

/// A compiled pattern may take this much; a set of patterns as much as eight of them.
pub(crate) const PATTERN_BYTES_MAX: usize = 1 << 20;

/// From here on patterns are spread over several sets. Compiling takes several hundred times a
/// pattern's length while it lasts, of which an allocator keeps much: the default routes' 45 KiB at
/// once took 20 MiB, and take 6 like this.
const SET_TEXT_BYTES: usize = 8 * 1024;

/// Each set is one more pass over the text.
const SETS_MAX: usize = 8;

#[derive(Clone, Debug)]
pub(crate) enum Condition {
    Test(Test),
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
}

#[derive(Clone, Debug)]
pub(crate) enum Test {
    TokensMin(u32),
    TokensMax(u32),
    TurnsMin(u32),
    TurnsMax(u32),
    CharsMin(u32),
    CharsMax(u32),
    SystemCharsMin(u32),
    SystemCharsMax(u32),
    Code(bool),
    Mathematics(bool),
    Tools(bool),
    Images(bool),
    Format(Vec<FormatKind>),
    Language(Vec<String>),
    Team(Vec<String>),
    Header {
        name: String,
        value: Regex,
    },
    /// Indices into the policy's patterns over the last user text; any of them.
    Said(Vec<usize>),
    /// Indices into the policy's patterns over the system text; any of them.
    Instructed(Vec<usize>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FormatKind {
    Text,
    JsonObject,
    JsonSchema,
    Regex,
    Choice,
    Grammar,
}

impl FormatKind {
    pub const ALL: [FormatKind; 6] = [
        Self::Text,
        Self::JsonObject,
        Self::JsonSchema,
        Self::Regex,
        Self::Choice,
        Self::Grammar,
    ];

    pub fn as_label(self) -> &'static str {
        match self {
            FormatKind::Text => "text",
            FormatKind::JsonObject => "json_object",
            FormatKind::JsonSchema => "json_schema",
            FormatKind::Regex => "regex",
            FormatKind::Choice => "choice",
            FormatKind::Grammar => "grammar",
        }
    }

    fn of(format: &OutputFormat) -> Self {
        match format {
            OutputFormat::Text => FormatKind::Text,
            OutputFormat::JsonObject => FormatKind::JsonObject,
            OutputFormat::JsonSchema(_) => FormatKind::JsonSchema,
            OutputFormat::Regex(_) => FormatKind::Regex,
            OutputFormat::Choice(_) => FormatKind::Choice,
            OutputFormat::Grammar(_) => FormatKind::Grammar,
        }
    }
}

/// Every pattern of a policy over one text, in sets that are matched in one pass each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patterns {
    sets: Vec<Arc<Share>>,
    /// `places[index]` is the pattern's set, and its index in there.
    places: Vec<(usize, usize)>,
}

/// Patterns of one set.
#[derive(Debug)]
struct Share {
    patterns: Vec<String>,
    compiled: OnceLock<PatternSet>,
    /// Held by who compiles; others wait.
    compiling: Mutex<()>,
}

impl Patterns {
    /// Of patterns that are known to compile, which they do when they are first asked for: the default
    /// routes' take 2 MB, and a node without a model of its own may never ask.
    pub fn known(patterns: &[&str]) -> Self {
        let mut known = Self::default();
        for share in shares(patterns) {
            let set = known.sets.len();
            let places = (0..share.len()).map(|index| (set, index));
            known.places.extend(places);
            known.sets.push(Arc::new(Share {
                patterns: share.iter().copied().map(str::to_owned).collect(),
                compiled: OnceLock::new(),
                compiling: Mutex::new(()),
            }));
        }
        known
    }

    /// Compiles what is not yet.
    pub fn warm(&self) -> Result<(), Uncompiled> {
        self.sets.iter().try_for_each(|set| set.compile().map(drop))
    }

    pub fn compile(patterns: &[&str]) -> Result<Self, Uncompiled> {
        let compiled = Self::known(patterns);
        compiled.warm()?;
        Ok(compiled)
    }
}

impl Share {
    fn compile(&self) -> Result<&PatternSet, Uncompiled> {
        if let Some(compiled) = self.compiled.get() {
            return Ok(compiled);
        }
        let _one = self
            .compiling
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(compiled) = self.compiled.get() {
            return Ok(compiled);
        }
        let compiled = PatternSet::compile(&self.patterns, true, Some(8 * PATTERN_BYTES_MAX))?;
        Ok(self.compiled.get_or_init(|| compiled))
    }

    fn occurring(&self, text: &str) -> Occurring {
        let compiled = self.compile().expect("known to compile");
        compiled.occurring(text)
    }
}

/// Cuts patterns, in their order, into at most [`SETS_MAX`] shares.
fn shares<'a, 'p>(patterns: &'a [&'p str]) -> Vec<&'a [&'p str]> {
    let bytes: usize = patterns.iter().map(|pattern| pattern.len()).sum();
    let share_bytes = SET_TEXT_BYTES.max(bytes.div_ceil(SETS_MAX));
    let mut shares = Vec::new();
    let mut rest = patterns;
    while !rest.is_empty() {
        let mut taken_bytes = 0;
        let fits = |pattern: &&&str| {
            let fits = taken_bytes < share_bytes;
            taken_bytes += pattern.len();
            fits
        };
        let (share, others) = rest.split_at(rest.iter().take_while(fits).count());
        shares.push(share);
        rest = others;
    }
    shares
}

/// The features of one request and the patterns that matched it, found when first asked for.
pub(crate) struct Sight<'a> {
    pub features: Features<'a>,
    said: Lazy<'a>,
    instructed: Lazy<'a>,
}

struct Lazy<'a> {
    patterns: &'a Patterns,
    /// One for each set.
    matched: Vec<OnceCell<Occurring>>,
}

impl<'a> Lazy<'a> {
    fn new(patterns: &'a Patterns) -> Self {
        Self {
            patterns,
            matched: vec![OnceCell::new(); patterns.sets.len()],
        }
    }

    fn has_any(&self, wanted: &[usize], text: &str) -> bool {
        wanted.iter().any(|pattern| {
            let (set, index) = self.patterns.places[*pattern];
            self.matched[set]
                .get_or_init(|| self.patterns.sets[set].occurring(prefix(text, MATCHED_BYTES_MAX)))
                .has(index)
        })
    }
}

impl<'a> Sight<'a> {
    pub fn new(features: Features<'a>, said: &'a Patterns, instructed: &'a Patterns) -> Self {
        Self {
            features,
            said: Lazy::new(said),
            instructed: Lazy::new(instructed),
        }
    }
}

impl Condition {
    pub fn holds(&self, sight: &Sight<'_>) -> bool {
        match self {
            Condition::Test(test) => test.holds(sight),
            Condition::All(parts) => parts.iter().all(|part| part.holds(sight)),
            Condition::Any(parts) => parts.iter().any(|part| part.holds(sight)),
            Condition::Not(part) => !part.holds(sight),
        }
    }

    /// Every header that is looked at, in no order.
    pub fn each_header(&self, visit: &mut dyn FnMut(&str)) {
        match self {
            Condition::Test(Test::Header { name, .. }) => visit(name),
            Condition::Test(_) => {}
            Condition::Not(part) => part.each_header(visit),
            Condition::All(parts) | Condition::Any(parts) => {
                parts.iter().for_each(|part| part.each_header(visit));
            }
        }
    }

    /// Puts cheap tests before dear ones, so that most rules fail for nothing. Order never changes
    /// what a condition means.
    pub fn sort_by_cost(&mut self) {
        match self {
            Condition::Test(_) => {}
            Condition::Not(part) => part.sort_by_cost(),
            Condition::All(parts) | Condition::Any(parts) => {
                parts.iter_mut().for_each(Condition::sort_by_cost);
                parts.sort_by_key(Condition::cost);
            }
        }
    }

    fn cost(&self) -> u8 {
        match self {
            Condition::Test(test) => test.cost(),
            Condition::Not(part) => part.cost(),
            Condition::All(parts) | Condition::Any(parts) => {
                parts.iter().map(Condition::cost).max().unwrap_or(0)
            }
        }
    }
}

impl Test {
    fn cost(&self) -> u8 {
        match self {
            Test::Tools(_)
            | Test::Images(_)
            | Test::Format(_)
            | Test::TurnsMin(_)
            | Test::TurnsMax(_)
            | Test::Team(_) => 0,
            Test::CharsMin(_)
            | Test::CharsMax(_)
            | Test::SystemCharsMin(_)
            | Test::SystemCharsMax(_)
            | Test::Header { .. } => 1,
            Test::Said(_) | Test::Instructed(_) => 2,
            Test::Code(_) | Test::Mathematics(_) => 3,
            Test::TokensMin(_) | Test::TokensMax(_) => 4,
            Test::Language(_) => 5,
        }
    }

    fn holds(&self, sight: &Sight<'_>) -> bool {
        let features = &sight.features;
        let request = features.ask.request;
        match self {
            Test::TokensMin(min) => features.has_tokens(*min),
            Test::TokensMax(max) => !features.has_tokens(max.saturating_add(1)),
            Test::TurnsMin(min) => features.turns() >= *min as usize,
            Test::TurnsMax(max) => features.turns() <= *max as usize,
            Test::CharsMin(min) => has_chars(features.last_user(), *min),
            Test::CharsMax(max) => !has_chars(features.last_user(), max.saturating_add(1)),
            Test::SystemCharsMin(min) => has_chars(features.system(), *min),
            Test::SystemCharsMax(max) => !has_chars(features.system(), max.saturating_add(1)),
            Test::Code(wanted) => features.has_code() == *wanted,
            Test::Mathematics(wanted) => features.has_mathematics() == *wanted,
            Test::Tools(wanted) => request.tools.is_empty() != *wanted,
            Test::Images(wanted) => request.has_images() == *wanted,
            Test::Format(kinds) => kinds.contains(&FormatKind::of(&request.format)),
            Test::Language(codes) => features
                .language()
                .is_some_and(|language| codes.iter().any(|code| code == language)),
            Test::Team(teams) => teams.iter().any(|team| team == features.ask.team.as_str()),
            Test::Header { name, value } => features
                .header(name)
                .is_some_and(|found| value.is_match(found)),
            Test::Said(indices) => sight.said.has_any(indices, features.last_user()),
            Test::Instructed(indices) => sight.instructed.has_any(indices, features.system()),
        }
    }
}

/// True when `text` has at least `min` characters; reads no further than that.
fn has_chars(text: &str, min: u32) -> bool {
    let min = min as usize;
    text.len() >= min && (min == 0 || text.chars().nth(min - 1).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Patterns of `bytes` each, of which `wNx` is found by the one with the number N alone.
    fn patterns(count: usize, bytes: usize) -> Vec<String> {
        let one = |index| format!("W{index}(?:x|{})", "y".repeat(bytes));
        (0..count).map(one).collect()
    }

    #[test]
    fn patterns_in_several_sets_are_found_as_each_would_be_alone() {
        for (count, bytes, sets) in [
            (0, 0, 0),
            (1, 0, 1),
            (5, 100, 1),
            (20, 1_000, 3),
            (3, 20_000, 3),
            (40, 5_000, 8),
        ] {
            let texts = patterns(count, bytes);
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let compiled = Patterns::compile(&texts).unwrap();
            assert_eq!(compiled.sets.len(), sets, "{count} of {bytes} bytes");
            let lazy = Lazy::new(&compiled);
            for index in 0..count {
                let asked = Lazy::new(&compiled);
                assert!(asked.has_any(&[index], &format!("a w{index}x")), "{index}");
                assert_eq!(lazy.has_any(&[index], "w2x"), index == 2, "{index}");
            }
        }
    }
}
