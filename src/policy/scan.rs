//! Finding personal data and secrets in a request.

mod patterns;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::ops::Range;

use domain::{BadRequest, ChatRequest, Fault, Finding, FindingClass, Findings, Trust};
use regex::{Regex, RegexBuilder};

use crate::detect::{DETECTORS, Detector, may_find};
use crate::pattern_set::PatternSet;

/// A request with more distinct values than this is refused: what cannot all be masked must not
/// leave, and a conversation does not hold so many.
pub const FINDINGS_MAX: usize = 2_000;

/// Shorter matches are ignored: masking replaces every occurrence, and masking each `a` helps nobody.
pub const VALUE_BYTES_MIN: usize = 3;

/// What a compiled operator's pattern may take.
const CUSTOM_PATTERN_BYTES_MAX: usize = 1 << 20;

/// The classes looked for unless the operator says otherwise; none reaches a public cloud unmasked.
pub const DEFAULT_CLASSES: [(FindingClass, Trust); 5] = [
    (FindingClass::Secret, Trust::Tenant),
    (FindingClass::Iban, Trust::Tenant),
    (FindingClass::Card, Trust::Tenant),
    (FindingClass::Email, Trust::Tenant),
    (FindingClass::Phone, Trust::Tenant),
];

/// A pattern of the operator's own. Its findings are of class [`FindingClass::Custom`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomRule {
    pub name: String,
    /// Where it has a group called `value`, that group is the finding; else the whole match.
    pub pattern: String,
    pub trust_min: Trust,
}

/// What is wrong with the rules of a scan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanRuleFault {
    #[error("no detector finds {}", .0.as_label())]
    NoDetector(FindingClass),
    #[error("the pattern of rule `{name}` is no regular expression: {reason}")]
    Malformed {
        /// Index among the custom rules.
        index: usize,
        name: String,
        reason: String,
    },
    #[error("the pattern of rule `{name}` is too large")]
    TooLarge { index: usize, name: String },
    #[error("the pattern of rule `{name}` matches the empty text")]
    MatchesNothing { index: usize, name: String },
}

/// Compiled detectors.
#[derive(Clone)]
pub struct ScanRules {
    /// One pass says which of `rules` need a closer look.
    set: PatternSet,
    rules: Vec<Rule>,
    /// Whether all rules are detectors, of which [`may_find`] knows what they need.
    has_detectors_only: bool,
}

impl fmt::Debug for ScanRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScanRules({})", self.rules.len())
    }
}

#[derive(Clone)]
struct Rule {
    class: FindingClass,
    trust_min: Trust,
    pattern: Regex,
    check: Check,
}

#[derive(Clone, Copy)]
enum Check {
    BuiltIn(fn(&str, Range<usize>) -> Option<Range<usize>>),
    /// The group to take, by index.
    Group(usize),
}

impl ScanRules {
    /// Compiles detectors for `classes`, each with the least trust that may see its findings, and the
    /// operator's own rules, which take precedence.
    ///
    /// # Errors
    /// Every fault, in order.
    pub fn compile(
        classes: &[(FindingClass, Trust)],
        custom: &[CustomRule],
    ) -> Result<Self, Vec<ScanRuleFault>> {
        let mut faults = Vec::new();
        let mut rules = Vec::new();
        for (index, rule) in custom.iter().enumerate() {
            match compile_custom(index, rule) {
                Ok(rule) => rules.push(rule),
                Err(fault) => faults.push(fault),
            }
        }
        for (class, _) in classes {
            if !DETECTORS.iter().any(|detector| detector.class == *class) {
                faults.push(ScanRuleFault::NoDetector(*class));
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        for detector in &DETECTORS {
            let wanted = classes.iter().find(|(class, _)| *class == detector.class);
            rules.extend(wanted.map(|(_, trust_min)| compile_detector(detector, *trust_min)));
        }
        let patterns: Vec<&str> = rules.iter().map(|rule| rule.pattern.as_str()).collect();
        let set = PatternSet::compile(&patterns, false, None).expect("each pattern compiled alone");
        Ok(Self {
            set,
            rules,
            has_detectors_only: custom.is_empty(),
        })
    }

    /// Finds every value of the classes asked for, in one linear pass per class present.
    ///
    /// # Errors
    /// [`Fault::BadRequest`] beyond [`FINDINGS_MAX`] distinct values.
    pub fn scan(&self, request: &ChatRequest) -> Result<Findings, Fault> {
        let mut found = Found::default();
        request.texts(&mut |text| self.scan_text(text, &mut found));
        request.escaped_texts(&mut |text| self.scan_text(text, &mut found));
        let trust_least = self.scan_patterns(request);
        if found.order.is_empty() {
            return Ok(Findings::default().only_for(trust_least));
        }
        if found.order.len() > FINDINGS_MAX {
            return Err(too_many());
        }
        let findings = name_findings(found, request).only_for(trust_least);
        Ok(findings.for_reply_in(&request.format))
    }

    /// The trust that values inside patterns ask for where escapes keep them from being masked.
    fn scan_patterns(&self, request: &ChatRequest) -> Option<Trust> {
        let mut trust_least = None;
        patterns::patterns(request, &mut |pattern| {
            let Some(plain) = patterns::plain(pattern) else {
                return;
            };
            let mut found = Found::default();
            self.scan_text(&plain, &mut found);
            for (_, value, trust_min) in found.order {
                // One written out is found and masked as everywhere else.
                if plain.matches(&value).count() > pattern.matches(&value).count() {
                    trust_least = trust_least.max(Some(trust_min));
                }
            }
        });
        trust_least
    }

    fn scan_text(&self, text: &str, found: &mut Found) {
        if self.has_detectors_only && !may_find(text) {
            return;
        }
        // Start to end, none overlapping another: only the last that starts before a match's end can
        // reach into it. A text may hold a hundred thousand matches.
        let mut claimed: BTreeMap<usize, usize> = BTreeMap::new();
        for index in self.set.occurring(text).indices() {
            let rule = &self.rules[index];
            rule.each_match(text, &mut |range| {
                let last_before = claimed.range(..range.end).next_back();
                let is_free = last_before.is_none_or(|(_, end)| *end <= range.start);
                if is_free && range.len() >= VALUE_BYTES_MIN && !found.is_full() {
                    found.add(rule, &text[range.clone()]);
                    claimed.insert(range.start, range.end);
                }
            });
        }
    }
}

impl Default for ScanRules {
    fn default() -> Self {
        Self::compile(&DEFAULT_CLASSES, &[]).expect("every default class has a detector")
    }
}

impl Rule {
    fn each_match(&self, text: &str, visit: &mut dyn FnMut(Range<usize>)) {
        match self.check {
            Check::Group(group) => {
                for groups in self.pattern.captures_iter(text) {
                    if let Some(value) = groups.get(group) {
                        visit(value.range());
                    }
                }
            }
            Check::BuiltIn(check) => {
                let mut at = 0;
                while let Some(candidate) = self.pattern.find_at(text, at) {
                    // A pattern takes as much as it can: what was not the value may hold the next one.
                    at = match check(text, candidate.range()) {
                        Some(range) => {
                            let end = range.end.max(candidate.start() + 1);
                            visit(range);
                            end
                        }
                        None => resumed(self.class, &candidate),
                    };
                }
            }
        }
    }
}

/// Where to look on behind a candidate that was none: values of these classes are short, and may begin with
/// any of its groups, or a card with one of four digits.
fn resumed(class: FindingClass, candidate: &regex::Match<'_>) -> usize {
    const SEPARATORS: [char; 3] = [' ', '-', '.'];
    let written = candidate.as_str();
    let found = match class {
        FindingClass::Iban | FindingClass::Phone => written.find(SEPARATORS).map(|at| at + 1),
        FindingClass::Card => {
            // The last may go on behind the candidate.
            let last = written.rfind(SEPARATORS).map(|at| at + 1);
            let mut separators = written.match_indices(SEPARATORS).map(|(at, _)| at + 1);
            separators.find(|at| {
                let group = written[*at..].split(SEPARATORS).next();
                group.is_some_and(|group| group.len() >= 4) || Some(*at) == last
            })
        }
        FindingClass::Secret
        | FindingClass::Email
        | FindingClass::NationalId
        | FindingClass::Custom => None,
    };
    found.map_or(candidate.end(), |at| candidate.start() + at)
}

fn compile_detector(detector: &Detector, trust_min: Trust) -> Rule {
    Rule {
        class: detector.class,
        trust_min,
        pattern: Regex::new(detector.pattern).expect("a constant pattern, compiled by a test"),
        check: Check::BuiltIn(detector.check),
    }
}

fn compile_custom(index: usize, rule: &CustomRule) -> Result<Rule, ScanRuleFault> {
    let name = rule.name.clone();
    let pattern = RegexBuilder::new(&rule.pattern)
        .size_limit(CUSTOM_PATTERN_BYTES_MAX)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => ScanRuleFault::TooLarge {
                index,
                name: name.clone(),
            },
            other => {
                let text = other.to_string();
                let last = text.lines().last().unwrap_or_default();
                ScanRuleFault::Malformed {
                    index,
                    name: name.clone(),
                    reason: last.trim_start_matches("error: ").to_owned(),
                }
            }
        })?;
    if pattern.is_match("") {
        return Err(ScanRuleFault::MatchesNothing { index, name });
    }
    let group = pattern
        .capture_names()
        .position(|group| group == Some("value"))
        .unwrap_or(0);
    Ok(Rule {
        class: FindingClass::Custom,
        trust_min: rule.trust_min,
        pattern,
        check: Check::Group(group),
    })
}

/// Distinct values in the order they first appear.
#[derive(Default)]
struct Found {
    order: Vec<(FindingClass, String, Trust)>,
    index: HashMap<String, usize>,
}

impl Found {
    /// One more than allowed are kept, which says that there were too many.
    fn is_full(&self) -> bool {
        self.order.len() > FINDINGS_MAX
    }

    /// A value found by two rules keeps its first class and the stricter trust.
    fn add(&mut self, rule: &Rule, value: &str) {
        if let Some(index) = self.index.get(value) {
            let trust = &mut self.order[*index].2;
            *trust = rule.trust_min.max(*trust);
            return;
        }
        self.index.insert(value.to_owned(), self.order.len());
        self.order
            .push((rule.class, value.to_owned(), rule.trust_min));
    }
}

fn too_many() -> Fault {
    Fault::BadRequest(
        BadRequest::at(
            "messages",
            format!(
                "the request holds more than {FINDINGS_MAX} values that look personal or secret; \
                 split it into several"
            ),
        )
        .with_code("too_many_findings"),
    )
}

/// Numbers the values by class, passing over placeholders that the request itself contains.
fn name_findings(found: Found, request: &ChatRequest) -> Findings {
    let taken = placeholders_in(request);
    let mut last: BTreeMap<FindingClass, u32> = BTreeMap::new();
    let findings = found
        .order
        .into_iter()
        .map(|(class, value, trust_min)| {
            let number = last.entry(class).or_default();
            let placeholder = loop {
                *number += 1;
                let placeholder = format!("<{}_{number}>", class.as_label());
                if !taken.contains(&placeholder) {
                    break placeholder;
                }
            };
            Finding {
                class,
                value,
                placeholder,
                trust_min,
            }
        })
        .collect();
    Findings::new(findings)
}

/// Everything in the request that looks like a placeholder.
fn placeholders_in(request: &ChatRequest) -> HashSet<String> {
    let mut taken = HashSet::new();
    request.texts(&mut |text| {
        for (open, _) in text.match_indices('<') {
            let shape = text[open..].bytes().skip(1).take_while(|byte| {
                byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_'
            });
            let end = open + 1 + shape.count();
            if text[end..].starts_with('>') {
                taken.insert(text[open..=end].to_owned());
            }
        }
    });
    taken
}
