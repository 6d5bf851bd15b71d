//! From text to [`RawConfig`], finding every fault and not only the first.
//!
//! Serde stops at its first error. So each error is noted with its path, the key at fault is taken
//! out of the table, and the rest is read again, until nothing is wrong any more.

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use toml::{Table, Value};

use super::faults::Findings;
use super::overlay::{self, Override, Reading};
use super::raw::RawConfig;

/// Faults reported at once; a file with more is not a configuration.
const FAULTS_MAX: usize = 100;

/// Parses the file's text.
pub fn parse(text: &str, findings: &mut Findings) -> Table {
    match text.parse::<Table>() {
        Ok(table) => table,
        Err(error) => {
            let at = error.span().map_or(String::new(), |span| {
                let line = text[..span.start.min(text.len())].matches('\n').count() + 1;
                format!("line {line}: ")
            });
            findings.fault("", format!("{at}{}", error.message().replace('\n', "; ")));
            Table::new()
        }
    }
}

/// Lays `changes` over `table` and reads the whole.
pub fn read(table: Table, changes: &[Override], findings: &mut Findings) -> RawConfig {
    let mut laid = table;
    for change in changes {
        if let Err(why) = overlay::lay(&mut laid, change, Reading::Guessed) {
            findings.fault(change.origin.clone(), why);
        }
    }
    let mut as_text = vec![false; changes.len()];
    for _ in 0..FAULTS_MAX {
        let (path, message) = match deserialize(&laid) {
            Ok(raw) => return raw,
            Err(error) => error,
        };
        let dotted = dotted(&path);
        let origin = changes.iter().rposition(|change| change.dotted() == dotted);
        // `HEDGE_LOCAL__NAME=7` looks like a number where a name is wanted.
        if let Some(at) = origin
            && !as_text[at]
        {
            as_text[at] = true;
            if overlay::lay(&mut laid, &changes[at], Reading::Text).is_ok() {
                continue;
            }
        }
        let shown = match origin {
            Some(at) => format!("{dotted} (from {})", changes[at].origin),
            None => dotted,
        };
        findings.fault(shown, with_hint(&message));
        if !remove(&mut laid, &path) {
            break;
        }
    }
    RawConfig::default()
}

/// Parses and reads a file of its own.
pub fn read_whole<T: DeserializeOwned + Default>(text: &str, findings: &mut Findings) -> T {
    let table = parse(text, findings);
    read_file(table, findings)
}

/// The same for a file that is parsed.
pub fn read_file<T: DeserializeOwned + Default>(table: Table, findings: &mut Findings) -> T {
    let mut table = table;
    for _ in 0..FAULTS_MAX {
        let (path, message) = match deserialize(&table) {
            Ok(raw) => return raw,
            Err(error) => error,
        };
        findings.fault(dotted(&path), with_hint(&message));
        if !remove(&mut table, &path) {
            break;
        }
    }
    T::default()
}

fn deserialize<T: DeserializeOwned>(table: &Table) -> Result<T, (Vec<Step>, String)> {
    serde_path_to_error::deserialize(Value::Table(table.clone())).map_err(|error| {
        let path = error.path().iter().filter_map(Step::new).collect();
        (path, message(error.inner()))
    })
}

fn message(error: &toml::de::Error) -> String {
    error.message().trim().replace('\n', "; ")
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

impl Step {
    fn new(segment: &Segment) -> Option<Self> {
        match segment {
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Enum { .. } | Segment::Unknown => None,
        }
    }
}

fn dotted(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(key);
            }
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

/// Takes the key at fault out. List entries stay where they are, so that the paths of later faults
/// are right: the list goes as a whole. False when there is nothing to take.
fn remove(table: &mut Table, path: &[Step]) -> bool {
    let Some(last) = path.iter().rposition(|step| matches!(step, Step::Key(_))) else {
        return false;
    };
    let mut place: Option<&mut Value> = None;
    for step in &path[..last] {
        place = match (place, step) {
            (None, Step::Key(key)) => table.get_mut(key.as_str()),
            (Some(value), Step::Key(key)) => value.get_mut(key.as_str()),
            (Some(value), Step::Index(index)) => value.get_mut(*index),
            (None, Step::Index(_)) => None,
        };
        if place.is_none() {
            return false;
        }
    }
    let Step::Key(key) = &path[last] else {
        return false;
    };
    let removed = match place {
        None => table.remove(key.as_str()),
        Some(value) => value
            .as_table_mut()
            .and_then(|table| table.remove(key.as_str())),
    };
    removed.is_some()
}

/// Serde's "unknown field `x`, expected one of `a`, `b`", with the nearest of them named.
fn with_hint(message: &str) -> String {
    let is_unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    if !is_unknown {
        return message.to_owned();
    }
    let mut names = message.split('`').skip(1).step_by(2);
    let Some(wrong) = names.next() else {
        return message.to_owned();
    };
    match nearest(wrong, names) {
        Some(near) => format!("{message}; did you mean `{near}`?"),
        None => message.to_owned(),
    }
}

/// The name most like `wrong`, if any is like it at all.
pub fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (strsim::jaro_winkler(wrong, name), name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str, changes: &[Override]) -> (RawConfig, Vec<String>) {
        let mut findings = Findings::default();
        let table = parse(text, &mut findings);
        let raw = read(table, changes, &mut findings);
        (
            raw,
            findings.faults.iter().map(ToString::to_string).collect(),
        )
    }

    #[test]
    fn an_empty_file_is_complete() {
        let (raw, found) = faults("", &[]);
        assert_eq!(found, Vec::<String>::new());
        assert_eq!(raw.listen, None);
        assert_eq!(raw.local.slots_max, 8);
    }

    #[test]
    fn every_fault_is_reported_with_its_path() {
        let text = "
            listten = 'x'
            [local]
            slots_max = 'eight'
            contxt_tokens_max = 4
            [[upstreams]]
            name = 'a'
            [[upstreams]]
            base_url = 5
            trsut = 'public'
            models = ['a', 7]
            [[keys]]
            nmae = 'k'
            [log]
            format = 'jsn'
        ";
        let (raw, found) = faults(text, &[]);
        let has = |path: &str, words: &str| {
            assert!(
                found
                    .iter()
                    .any(|fault| fault.starts_with(path) && fault.contains(words)),
                "{path} {words}: {found:#?}"
            );
        };
        has("listten: ", "did you mean `listen`?");
        has("local.slots_max: ", "expected u32");
        has("local.contxt_tokens_max: ", "`context_tokens_max`?");
        has("upstreams[1].base_url: ", "expected a string");
        has("upstreams[1].trsut: ", "did you mean `trust`?");
        has("upstreams[1].models[1]: ", "expected a string");
        has("keys[0].nmae: ", "did you mean `name`?");
        has("log.format: ", "did you mean `json`?");
        assert_eq!(found.len(), 8, "{found:#?}");
        assert_eq!(raw.upstreams.len(), 2);
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let (_, found) = faults("listen = 'a'\n[local\n", &[]);
        assert!(found[0].starts_with("line 2: "), "{found:?}");
    }

    #[test]
    fn numbers_from_outside_may_be_names() {
        let change = Override::flag("HEDGE_LOCAL__NAME", &["local", "name"], "7");
        let (raw, found) = faults("", &[change]);
        assert_eq!(found, Vec::<String>::new());
        assert_eq!(raw.local.name.as_deref(), Some("7"));
    }

    #[test]
    fn a_fault_from_outside_names_the_variable() {
        let change = Override::flag("HEDGE_LOCAL__SLOTS_MAX", &["local", "slots_max"], "many");
        let (_, found) = faults("", &[change]);
        assert!(
            found[0].starts_with("local.slots_max (from HEDGE_LOCAL__SLOTS_MAX): "),
            "{found:?}"
        );
    }
}
