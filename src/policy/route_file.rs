//! Routing rules as a file: TOML in, a compiled [`RoutePolicy`] or every fault out.
//!
//! ```toml
//! default = "cloud"                      # the outcome when no rule holds
//!
//! [outcomes.local]
//! candidates = ["local", "cloud"]        # in order: the second is the fallback
//!
//! [outcomes.cloud]
//! candidates = ["cloud", "local"]
//! rescue = "any"                         # who goes on with a reply that breaks off; off
//! when_offline = "queue"                 # local
//! sealed = "required"                    # only this machine, pools, and who is reached sealed; optional
//!
//! [[rules]]                              # the first rule that holds decides
//! name = "short"
//! when = { chars_max = 80, not = { code = true } }
//! then = "local"
//! sealed = "required"                    # as the outcome, unless the rule says
//! ```

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::OnceLock;

use regex::RegexBuilder;
use toml::{Table, Value};

use crate::RuleFault;
use crate::condition::{Condition, FormatKind, PATTERN_BYTES_MAX, Patterns, Test};
use crate::roster::{ANY_MODEL, AUTO, CLOUD, LOCAL, Roster, unknown_name};
use crate::route::NAMED_RULE;
use crate::sealing::{self, Sealing};
use crate::toml_section::{Entry, Faults, Section};
use crate::trouble::Trouble;

/// The policy a node uses when its configuration names none.
pub const DEFAULT_ROUTES: &str = include_str!("../../routes/default.toml");
/// The policy that never leaves this machine.
pub const LOCAL_ONLY_ROUTES: &str = include_str!("../../routes/local-only.toml");

/// The patterns of each of these, over what users say and over instructions.
static BUNDLED: [OnceLock<[Patterns; 2]>; 2] = [const { OnceLock::new() }; 2];

/// More rules than this in one file are refused.
pub const RULES_MAX: usize = 512;

/// `all`, `any` and `not` nest at most this deep.
const DEPTH_MAX: usize = 8;

/// The reason given when no rule held.
pub(crate) const DEFAULT_RULE: &str = "default";

/// Compiled routing rules.
#[derive(Clone, Debug)]
pub struct RoutePolicy {
    pub(crate) file: String,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) rules: Vec<Rule>,
    /// Index into `outcomes`.
    pub(crate) default: usize,
    /// Of requests that name a model, and of outcomes that do not say.
    pub(crate) trouble: Trouble,
    /// Of the same.
    pub(crate) sealing: Sealing,
    pub(crate) said: Patterns,
    pub(crate) instructed: Patterns,
    headers_used: Vec<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub name: String,
    /// Candidate names, in order.
    pub candidates: Vec<String>,
    pub manners: Manners,
    pub trouble: Trouble,
    pub sealing: Sealing,
}

/// What an outcome allows beside asking its candidates in order. A request that names its model has
/// the manners of no outcome: the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manners {
    /// `hedge`: a second candidate may start when the first is slower than it mostly is.
    pub hedges: bool,
    /// `fallback_on_refusal`: what one provider's filter refuses may be asked of another provider.
    pub falls_back_on_refusal: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub name: String,
    pub when: Condition,
    /// Index into the outcomes.
    pub then: usize,
    pub sealing: Sealing,
}

impl RoutePolicy {
    /// Compiles a file of rules. `file_name` is for the faults only.
    ///
    /// # Errors
    /// Every fault in the file, with its path.
    pub fn parse(file_name: &str, toml: &str) -> Result<RoutePolicy, Vec<RuleFault>> {
        let mut faults = Faults::new(file_name);
        let table = match toml.parse::<Table>() {
            Ok(table) => table,
            Err(error) => {
                faults.report("", syntax_fault(toml, &error));
                return Err(faults.into_all());
            }
        };
        let mut root = Section::root(table);
        let mut reader = RuleReader {
            parts: read_parts(&mut root, &mut faults),
            ..RuleReader::default()
        };
        let trouble = Trouble::read(&mut root, Trouble::default(), &mut faults);
        let sealing = Sealing::read(&mut root, Sealing::default(), &mut faults);
        let outcomes = read_outcomes(&mut root, trouble, sealing, &mut faults);
        let default = read_default(&mut root, &outcomes, &mut faults);
        let rules = read_rules(&mut root, &outcomes, &mut reader, &mut faults);
        root.finish(&mut faults);
        let [said, instructed] = compiled(toml, [reader.said, reader.instructed], &mut faults);
        faults.into_result(RoutePolicy {
            file: file_name.to_owned(),
            outcomes,
            headers_used: headers_used(&rules),
            rules,
            default,
            trouble,
            sealing,
            said,
            instructed,
        })
    }

    /// The headers that any rule looks at: lower-case names in order, each once. What they hold may
    /// decide who answers.
    #[must_use]
    pub fn headers_used(&self) -> &[String] {
        &self.headers_used
    }

    /// Makes the first request that rules decide about as fast as the others. The patterns of bundled rules
    /// are compiled when they are first asked for.
    pub fn warm(&self) {
        for patterns in [&self.said, &self.instructed] {
            patterns.warm().expect("compiled, or known to compile");
        }
    }

    /// The same where every request requires sealing, whatever the file says.
    #[must_use]
    pub fn requiring_sealed(mut self) -> Self {
        self.sealing = Sealing::Required;
        for outcome in &mut self.outcomes {
            outcome.sealing = Sealing::Required;
        }
        for rule in &mut self.rules {
            rule.sealing = Sealing::Required;
        }
        self
    }

    /// Who may be asked what no rule decides about: requests that name a model, embeddings, moderations.
    #[must_use]
    pub fn sealing(&self) -> Sealing {
        self.sealing
    }

    /// Reports candidates that are none of `roster`'s names, and those that may not be asked. `local` and
    /// `cloud` always may be written: they are passed over where there is none.
    #[must_use]
    pub fn check(&self, roster: &Roster) -> Vec<RuleFault> {
        let mut faults = Vec::new();
        for outcome in &self.outcomes {
            for (index, name) in outcome.candidates.iter().enumerate() {
                let is_there = || !roster.targets(name, outcome.sealing).is_empty();
                if [LOCAL, CLOUD].contains(&name.as_str()) || is_there() {
                    continue;
                }
                faults.push(RuleFault {
                    file: self.file.clone(),
                    path: format!("outcomes.{}.candidates[{index}]", outcome.name),
                    message: unknown_name(name, roster),
                });
            }
        }
        faults.extend(sealing::check(self, roster));
        faults
    }
}

/// What plans of these rules may be called, as keys name them: each rule, the default, and what requests
/// that name their model have. `None` where the file cannot be read.
#[must_use]
pub fn route_names(toml: &str) -> Option<Vec<String>> {
    let table: Table = toml.parse().ok()?;
    let rules = table.get("rules").and_then(Value::as_array);
    let names = rules.into_iter().flatten().filter_map(|rule| {
        let name = rule.get("name")?.as_str()?;
        Some(name.to_owned())
    });
    let others = [DEFAULT_RULE, NAMED_RULE].map(str::to_owned);
    Some(names.chain(others).collect())
}

fn headers_used(rules: &[Rule]) -> Vec<String> {
    let mut names = BTreeSet::new();
    for rule in rules {
        rule.when.each_header(&mut |name| {
            names.insert(name.to_owned());
        });
    }
    names.into_iter().collect()
}

fn syntax_fault(toml: &str, error: &toml::de::Error) -> String {
    let line = error.span().map_or(1, |span| {
        1 + toml.as_bytes()[..span.start.min(toml.len())]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
    });
    format!("line {line}: {}", error.message())
}

fn texts_of(patterns: &[Pattern]) -> Vec<&str> {
    patterns.iter().map(|it| it.text.as_str()).collect()
}

/// Those of bundled rules are compiled when they are first asked for, once for all policies.
fn compiled(toml: &str, patterns: [Vec<Pattern>; 2], faults: &mut Faults) -> [Patterns; 2] {
    let mut bundled = [DEFAULT_ROUTES, LOCAL_ONLY_ROUTES].iter().zip(&BUNDLED);
    match bundled.find(|(text, _)| **text == toml) {
        Some((_, known)) => known
            .get_or_init(|| patterns.map(|some| Patterns::known(&texts_of(&some))))
            .clone(),
        None => patterns.map(|some| compile_all(some, faults)),
    }
}

/// Compiles patterns together, and alone only to find those at fault.
fn compile_all(patterns: Vec<Pattern>, faults: &mut Faults) -> Patterns {
    if let Ok(compiled) = Patterns::compile(&texts_of(&patterns)) {
        return compiled;
    }
    let mut is_explained = false;
    for pattern in &patterns {
        if let Err(message) = compile_one(&pattern.text) {
            is_explained = true;
            faults.report(&pattern.path, message);
        }
    }
    if !is_explained {
        faults.report(
            "rules",
            "the patterns of all rules together are too large; shorten some",
        );
    }
    Patterns::default()
}

fn read_outcomes(
    root: &mut Section,
    trouble: Trouble,
    sealing: Sealing,
    faults: &mut Faults,
) -> Vec<Outcome> {
    let Some(mut section) = root
        .take("outcomes")
        .and_then(|entry| entry.section(faults))
    else {
        faults.report(
            "outcomes",
            "missing; write at least one, as [outcomes.local] with candidates = [\"local\"]",
        );
        return Vec::new();
    };
    let entries = section.take_all();
    if entries.is_empty() {
        faults.report("outcomes", "must not be empty");
    }
    entries
        .into_iter()
        .filter_map(|(name, entry)| read_outcome(name, entry, trouble, sealing, faults))
        .collect()
}

fn read_outcome(
    name: String,
    entry: Entry,
    defaults: Trouble,
    sealing: Sealing,
    faults: &mut Faults,
) -> Option<Outcome> {
    let mut section = entry.section(faults)?;
    let path = section.path().to_owned();
    let candidates = match section.take("candidates") {
        Some(entry) => entry.texts(faults).unwrap_or_default(),
        None => {
            faults.report(path, "needs `candidates`, a list of backends or models");
            Vec::new()
        }
    };
    let manners = read_manners(&mut section, faults);
    let trouble = Trouble::read(&mut section, defaults, faults);
    let sealing = Sealing::read(&mut section, sealing, faults);
    section.finish(faults);
    for (candidate, path) in &candidates {
        if candidate == AUTO || candidate == ANY_MODEL {
            faults.report(
                path,
                format!(
                    "`{candidate}` is no candidate; name `local`, `cloud`, a backend or a model"
                ),
            );
        }
    }
    Some(Outcome {
        name,
        candidates: candidates.into_iter().map(|(name, _)| name).collect(),
        manners,
        trouble,
        sealing,
    })
}

fn read_manners(section: &mut Section, faults: &mut Faults) -> Manners {
    let mut claim = |key| {
        let entry = section.take(key);
        entry
            .and_then(|entry| entry.boolean(faults))
            .unwrap_or(false)
    };
    Manners {
        hedges: claim("hedge"),
        falls_back_on_refusal: claim("fallback_on_refusal"),
    }
}

fn read_default(root: &mut Section, outcomes: &[Outcome], faults: &mut Faults) -> usize {
    let Some(entry) = root.take("default") else {
        faults.report(
            "default",
            "missing; name the outcome to take when no rule holds",
        );
        return 0;
    };
    read_outcome_name(entry, outcomes, faults)
}

/// The index of the outcome named; 0 when a fault was reported.
fn read_outcome_name(entry: Entry, outcomes: &[Outcome], faults: &mut Faults) -> usize {
    let path = entry.path.clone();
    let Some(name) = entry.text(faults) else {
        return 0;
    };
    let index = outcomes.iter().position(|outcome| outcome.name == name);
    index.unwrap_or_else(|| {
        let known: Vec<&str> = outcomes.iter().map(|it| it.name.as_str()).collect();
        faults.report(
            path,
            format!(
                "no outcome is called `{name}`; there are: {}",
                known.join(", ")
            ),
        );
        0
    })
}

fn read_rules(
    root: &mut Section,
    outcomes: &[Outcome],
    reader: &mut RuleReader,
    faults: &mut Faults,
) -> Vec<Rule> {
    let Some(entries) = root.take("rules").and_then(|entry| entry.items(faults)) else {
        return Vec::new();
    };
    if entries.len() > RULES_MAX {
        faults.report(
            "rules",
            format!("{} rules, and the limit is {RULES_MAX}", entries.len()),
        );
        return Vec::new();
    }
    let mut rules: Vec<Rule> = Vec::new();
    for entry in entries {
        let path = entry.path.clone();
        let Some(rule) = reader.rule(entry, outcomes, faults) else {
            continue;
        };
        if rule.name == DEFAULT_RULE || rules.iter().any(|other| other.name == rule.name) {
            faults.report(
                format!("{path}.name"),
                format!(
                    "`{}` is taken; every rule needs a name of its own",
                    rule.name
                ),
            );
        }
        rules.push(rule);
    }
    rules
}

/// Named pieces of patterns.
fn read_parts(root: &mut Section, faults: &mut Faults) -> Parts {
    let section = root.take("parts").and_then(|entry| entry.section(faults));
    let mut parts = Parts::default();
    for (name, entry) in section.map(|mut it| it.take_all()).unwrap_or_default() {
        let path = entry.path.clone();
        if !is_part_name(&name) {
            faults.report(
                &path,
                "a part's name is made of small letters, digits and `_`",
            );
        }
        let Some(pattern) = entry.text(faults) else {
            continue;
        };
        parts.0.push((name, format!("(?:{pattern})")));
    }
    parts
}

/// Pieces of patterns by name. A pattern uses one as `{name}`, which means nothing else in a regular
/// expression.
#[derive(Debug, Default)]
struct Parts(Vec<(String, String)>);

fn is_part_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

impl Parts {
    /// The pattern with every `{name}` replaced. `\p{...}` and its like are left alone.
    fn fill(&self, pattern: &str) -> Result<String, String> {
        let mut filled = String::with_capacity(pattern.len());
        let mut rest = pattern;
        while let Some(open) = rest.find('{') {
            let (before, from) = rest.split_at(open);
            filled.push_str(before);
            let name = from[1..].split('}').next().unwrap_or_default();
            let is_escape = [r"\p", r"\P", r"\x", r"\u", r"\U"]
                .iter()
                .any(|escape| filled.ends_with(escape));
            if is_escape || !is_part_name(name) || from.len() <= name.len() + 1 {
                filled.push('{');
                rest = &from[1..];
                continue;
            }
            let part = self.0.iter().find(|(part, _)| part == name);
            let (_, part) = part.ok_or_else(|| format!("no part is called `{name}`"))?;
            filled.push_str(part);
            rest = &from[name.len() + 2..];
        }
        filled.push_str(rest);
        Ok(filled)
    }
}

/// Reads rules, and gathers the patterns they share.
#[derive(Debug, Default)]
struct RuleReader {
    parts: Parts,
    said: Vec<Pattern>,
    instructed: Vec<Pattern>,
}

/// Makes a test of a value read.
type ToTest<T> = fn(T) -> Test;

/// A pattern with its parts filled in, and where it stands.
#[derive(Debug)]
struct Pattern {
    text: String,
    path: String,
}

impl RuleReader {
    fn rule(&mut self, entry: Entry, outcomes: &[Outcome], faults: &mut Faults) -> Option<Rule> {
        let mut section = entry.section(faults)?;
        let path = section.path().to_owned();
        let name = section
            .take("name")
            .and_then(|entry| read_name(entry, faults));
        let when = section
            .take("when")
            .and_then(|entry| self.condition(entry, 0, faults));
        let then = section.take("then");
        for (key, is_missing) in [
            ("name", name.is_none()),
            ("when", when.is_none()),
            ("then", then.is_none()),
        ] {
            if is_missing && !section.has_taken(key) {
                faults.report(format!("{path}.{key}"), "missing");
            }
        }
        let then = then.map(|entry| read_outcome_name(entry, outcomes, faults));
        let outcome = then.and_then(|then| outcomes.get(then));
        let sealing = outcome.map_or_else(Sealing::default, |it| it.sealing);
        let sealing = Sealing::read(&mut section, sealing, faults);
        section.finish(faults);
        let mut when = when?;
        when.sort_by_cost();
        Some(Rule {
            name: name?,
            when,
            then: then?,
            sealing,
        })
    }

    /// A table of tests, all of which must hold.
    fn condition(&mut self, entry: Entry, depth: usize, faults: &mut Faults) -> Option<Condition> {
        let mut section = entry.section(faults)?;
        if depth > DEPTH_MAX {
            faults.report(
                section.path(),
                format!("nested deeper than {DEPTH_MAX} levels"),
            );
            return None;
        }
        let path = section.path().to_owned();
        let mut parts: Vec<Condition> = self.tests(&mut section, faults);
        for (key, join) in [
            ("all", Condition::All as fn(Vec<Condition>) -> Condition),
            ("any", Condition::Any),
        ] {
            if let Some(entry) = section.take(key) {
                let inner = self.conditions(entry, depth, faults);
                parts.push(join(inner));
            }
        }
        if let Some(entry) = section.take("not") {
            parts.extend(
                self.condition(entry, depth + 1, faults)
                    .map(|inner| Condition::Not(Box::new(inner))),
            );
        }
        let is_empty = section.has_nothing_taken();
        section.finish(faults);
        if is_empty {
            faults.report(path, "an empty condition; leave the rule out, or say when");
            return None;
        }
        Some(Condition::All(parts))
    }

    fn conditions(&mut self, entry: Entry, depth: usize, faults: &mut Faults) -> Vec<Condition> {
        let path = entry.path.clone();
        let Some(items) = entry.items(faults) else {
            return Vec::new();
        };
        if items.is_empty() {
            faults.report(path, "must not be empty");
        }
        items
            .into_iter()
            .filter_map(|item| self.condition(item, depth + 1, faults))
            .collect()
    }

    fn tests(&mut self, section: &mut Section, faults: &mut Faults) -> Vec<Condition> {
        let mut tests = Vec::new();
        let counts: [(&'static str, ToTest<u32>); 8] = [
            ("tokens_min", Test::TokensMin),
            ("tokens_max", Test::TokensMax),
            ("turns_min", Test::TurnsMin),
            ("turns_max", Test::TurnsMax),
            ("chars_min", Test::CharsMin),
            ("chars_max", Test::CharsMax),
            ("system_chars_min", Test::SystemCharsMin),
            ("system_chars_max", Test::SystemCharsMax),
        ];
        for (key, test) in counts {
            tests.extend(
                section
                    .take(key)
                    .and_then(|entry| entry.count(faults))
                    .map(test),
            );
        }
        let flags: [(&'static str, ToTest<bool>); 4] = [
            ("code", Test::Code),
            ("mathematics", Test::Mathematics),
            ("tools", Test::Tools),
            ("images", Test::Images),
        ];
        for (key, test) in flags {
            tests.extend(
                section
                    .take(key)
                    .and_then(|entry| entry.boolean(faults))
                    .map(test),
            );
        }
        let format = section.take("response_format");
        tests.extend(format.and_then(|entry| read_formats(entry, faults)));
        let language = section.take("language");
        tests.extend(language.and_then(|entry| read_languages(entry, faults)));
        let team = section.take("team").and_then(|entry| entry.texts(faults));
        tests.extend(team.map(|teams| Test::Team(teams.into_iter().map(|(it, _)| it).collect())));
        let mut conditions: Vec<Condition> = tests.into_iter().map(Condition::Test).collect();
        conditions.extend(
            section
                .take("header")
                .map(|entry| Condition::All(read_headers(entry, faults))),
        );
        conditions.extend(self.pattern_tests(section, faults));
        conditions
    }

    fn pattern_tests(&mut self, section: &mut Section, faults: &mut Faults) -> Vec<Condition> {
        let mut tests = Vec::new();
        if let Some(entry) = section.take("keywords") {
            let path = entry.path.clone();
            let words = entry.texts(faults).unwrap_or_default();
            let words: Vec<String> = words.into_iter().map(|(word, _)| word).collect();
            let at = self.said.len();
            let text = keywords_pattern(&words);
            self.said.push(Pattern { text, path });
            tests.push(Test::Said(vec![at]));
        }
        if let Some(entry) = section.take("matches") {
            let indices = read_patterns(entry, &self.parts, &mut self.said, faults);
            tests.push(Test::Said(indices));
        }
        if let Some(entry) = section.take("system_matches") {
            tests.push(Test::Instructed(read_patterns(
                entry,
                &self.parts,
                &mut self.instructed,
                faults,
            )));
        }
        tests.into_iter().map(Condition::Test).collect()
    }
}

/// A rule's name travels in `x-hedge-reason`, so it is a word of letters, digits and hyphens.
fn read_name(entry: Entry, faults: &mut Faults) -> Option<String> {
    const NAME_CHARS_MAX: usize = 64;
    let path = entry.path.clone();
    let name = entry.text(faults)?;
    let is_word = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if !is_word || name.len() > NAME_CHARS_MAX {
        faults.report(
            path,
            format!("must be at most {NAME_CHARS_MAX} letters, digits, `-` and `_`"),
        );
        return None;
    }
    Some(name)
}

fn read_formats(entry: Entry, faults: &mut Faults) -> Option<Test> {
    let mut kinds = Vec::new();
    for (text, path) in entry.texts(faults)? {
        let kind = FormatKind::ALL
            .into_iter()
            .find(|kind| kind.as_label() == text);
        match kind {
            Some(kind) => kinds.push(kind),
            None => faults.report(
                path,
                "must be `text`, `json_object`, `json_schema`, `regex`, `choice` or `grammar`",
            ),
        }
    }
    Some(Test::Format(kinds))
}

fn read_languages(entry: Entry, faults: &mut Faults) -> Option<Test> {
    let mut codes = Vec::new();
    for (text, path) in entry.texts(faults)? {
        let is_code = (2..=3).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase());
        if !is_code {
            faults.report(
                path,
                "must be a language code in lower case, as `en` or `pt`",
            );
        }
        codes.push(text);
    }
    Some(Test::Language(codes))
}

/// `{ "x-task" = "^chat$" }`: every header must be there and match.
fn read_headers(entry: Entry, faults: &mut Faults) -> Vec<Condition> {
    let Some(mut section) = entry.section(faults) else {
        return Vec::new();
    };
    let mut tests = Vec::new();
    for (name, entry) in section.take_all() {
        let path = entry.path.clone();
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            faults.report(&path, "header names are written in lower case");
        }
        let Some(pattern) = entry.text(faults) else {
            continue;
        };
        match compile_one(&pattern) {
            Ok(value) => tests.push(Condition::Test(Test::Header { name, value })),
            Err(message) => faults.report(path, message),
        }
    }
    tests
}

/// Appends each pattern to `patterns` and gives their indices there.
fn read_patterns(
    entry: Entry,
    parts: &Parts,
    patterns: &mut Vec<Pattern>,
    faults: &mut Faults,
) -> Vec<usize> {
    let mut indices = Vec::new();
    for (pattern, path) in entry.texts(faults).unwrap_or_default() {
        match parts.fill(&pattern) {
            Ok(text) => {
                indices.push(patterns.len());
                patterns.push(Pattern { text, path });
            }
            Err(message) => faults.report(path, message),
        }
    }
    indices
}

fn compile_one(pattern: &str) -> Result<regex::Regex, String> {
    RegexBuilder::new(pattern)
        .case_insensitive(true)
        .size_limit(PATTERN_BYTES_MAX)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "the pattern is too large".to_owned(),
            other => {
                let text = other.to_string();
                let last = text.lines().last().unwrap_or_default();
                format!(
                    "no regular expression: {}",
                    last.trim_start_matches("error: ")
                )
            }
        })
}

/// One pattern for whole words. A border is asked for only beside an ASCII letter or digit: scripts
/// without spaces have none.
fn keywords_pattern(words: &[String]) -> String {
    let bordered = |word: &String| {
        let border = |edge: Option<char>| match edge {
            Some(edge) if edge.is_ascii_alphanumeric() => r"(?-u:\b)",
            _ => "",
        };
        let (before, after) = (border(word.chars().next()), border(word.chars().last()));
        format!("{before}{}{after}", regex::escape(word))
    };
    let words: Vec<String> = words.iter().map(bordered).collect();
    format!("(?:{})", words.join("|"))
}
