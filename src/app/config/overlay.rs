//! `HEDGE_*` variables and flags, laid over the file's table.
//!
//! `HEDGE_LOCAL__MODEL=x` is `local.model = "x"`: two underscores step into a section, a number
//! steps into a list (`HEDGE_UPSTREAMS__0__KEY`), and names are in lower case inside.

use std::collections::BTreeMap;

use toml::{Table, Value};

/// Variables that the program reads and that are no configuration keys.
const RESERVED: &[&str] = &["ADMIN_TOKEN", "CONFIG", "URL", "API_KEY", "MODEL"];
/// Steps deeper than any key there is.
const DEPTH_MAX: usize = 8;
/// Entries one list may be given by number.
const INDEX_MAX: usize = 64;

/// One value from outside the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// Where it came from, for messages: `HEDGE_LISTEN`, `--listen`.
    pub origin: String,
    pub path: Vec<String>,
    pub text: String,
}

impl Override {
    pub fn flag(origin: &str, path: &[&str], text: impl Into<String>) -> Self {
        Self {
            origin: origin.to_owned(),
            path: path.iter().map(|&step| step.to_owned()).collect(),
            text: text.into(),
        }
    }

    /// The path as faults write it: `upstreams[0].key`.
    pub fn dotted(&self) -> String {
        dotted(&self.path)
    }
}

fn dotted(path: &[String]) -> String {
    let mut text = String::new();
    for step in path {
        if step.parse::<usize>().is_ok() {
            text.push_str(&format!("[{step}]"));
        } else {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(step);
        }
    }
    text
}

/// The overrides among `environment`, in the order of their names. Names that `secrets` mentions
/// as `env:NAME` are secrets, and names that an orchestrator injects for a service called `hedge`
/// are neither; both are left out.
pub fn from_environment(environment: &BTreeMap<String, String>, file: &Table) -> Vec<Override> {
    let secrets = secret_names(file);
    environment
        .iter()
        .filter_map(|(name, text)| Some((name, name.strip_prefix("HEDGE_")?, text)))
        .filter(|(name, rest, _)| {
            !RESERVED.contains(rest) && !is_service_link(rest) && !secrets.contains(name)
        })
        .map(|(name, rest, text)| Override {
            origin: name.clone(),
            path: rest.split("__").map(str::to_ascii_lowercase).collect(),
            text: text.clone(),
        })
        .collect()
}

/// Kubernetes gives every pod `HEDGE_SERVICE_HOST`, `HEDGE_PORT=tcp://…` and the like when a
/// service is named `hedge`.
fn is_service_link(rest: &str) -> bool {
    rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_")
}

fn secret_names(table: &Table) -> Vec<String> {
    fn walk(value: &Value, names: &mut Vec<String>) {
        match value {
            Value::String(text) => names.extend(text.strip_prefix("env:").map(str::to_owned)),
            Value::Array(items) => items.iter().for_each(|item| walk(item, names)),
            Value::Table(table) => table.values().for_each(|item| walk(item, names)),
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {}
        }
    }
    let mut names = Vec::new();
    table.values().for_each(|value| walk(value, &mut names));
    names
}

/// How an override's text becomes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// As a TOML value where it is one (`8`, `true`, `["a"]`), else as a string.
    Guessed,
    /// As a string, whatever it looks like.
    Text,
}

fn value_of(text: &str, reading: Reading) -> Value {
    if reading == Reading::Guessed
        && let Ok(mut table) = format!("v = {text}").parse::<Table>()
        && table.len() == 1
        && let Some(value) = table.remove("v")
    {
        return value;
    }
    Value::String(text.to_owned())
}

/// Puts one override into the table.
///
/// # Errors
/// Why its path leads nowhere.
pub fn lay(table: &mut Table, change: &Override, reading: Reading) -> Result<(), String> {
    let Some((last, steps)) = change.path.split_last() else {
        return Err("names no key".into());
    };
    if change.path.len() > DEPTH_MAX || change.path.iter().any(String::is_empty) {
        return Err("names no key; two underscores step into a section".into());
    }
    let mut place = Place::Table(table);
    for (at, step) in steps.iter().enumerate() {
        let next_is_index = change.path[at + 1].parse::<usize>().is_ok();
        place = place.step(step, next_is_index)?;
    }
    place.put(last, value_of(&change.text, reading))
}

enum Place<'a> {
    Table(&'a mut Table),
    Array(&'a mut Vec<Value>),
}

impl<'a> Place<'a> {
    fn step(self, step: &str, next_is_index: bool) -> Result<Place<'a>, String> {
        let fresh = || {
            if next_is_index {
                Value::Array(Vec::new())
            } else {
                Value::Table(Table::new())
            }
        };
        let value = match self {
            Place::Table(table) => table.entry(step.to_owned()).or_insert_with(fresh),
            Place::Array(items) => {
                let index = index_in(items, step)?;
                if index == items.len() {
                    items.push(fresh());
                }
                &mut items[index]
            }
        };
        match value {
            Value::Table(table) => Ok(Place::Table(table)),
            Value::Array(items) => Ok(Place::Array(items)),
            _ => Err(format!("steps into `{step}`, which is a single value")),
        }
    }

    fn put(self, step: &str, value: Value) -> Result<(), String> {
        match self {
            Place::Table(table) => {
                table.insert(step.to_owned(), value);
            }
            Place::Array(items) => {
                let index = index_in(items, step)?;
                if index == items.len() {
                    items.push(value);
                } else {
                    items[index] = value;
                }
            }
        }
        Ok(())
    }
}

/// An existing index, or the one just past the end.
fn index_in(items: &[Value], step: &str) -> Result<usize, String> {
    match step.parse::<usize>() {
        Ok(index) if index <= items.len() && index < INDEX_MAX => Ok(index),
        Ok(index) => Err(format!(
            "names entry {index} of a list that has {}",
            items.len()
        )),
        Err(_) => Err(format!("names `{step}` where a list wants a number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|&(name, text)| (name.to_owned(), text.to_owned()))
            .collect()
    }

    fn laid(file: &str, pairs: &[(&str, &str)]) -> Result<Table, String> {
        let mut table: Table = file.parse().unwrap();
        for change in from_environment(&environment(pairs), &table) {
            lay(&mut table, &change, Reading::Guessed)?;
        }
        Ok(table)
    }

    #[test]
    fn two_underscores_step_into_sections_and_numbers_into_lists() {
        let table = laid(
            "[[upstreams]]\nname = 'a'",
            &[
                ("HEDGE_LISTEN", "127.0.0.1:1"),
                ("HEDGE_LOCAL__SLOTS_MAX", "4"),
                ("HEDGE_UPSTREAMS__0__KEY", "env:K"),
                ("HEDGE_UPSTREAMS__1__NAME", "b"),
                ("HEDGE_INGRESS__HOSTS", "['x']"),
            ],
        )
        .unwrap();
        let wanted: Table =
            "listen = '127.0.0.1:1'\n[local]\nslots_max = 4\n[ingress]\nhosts = ['x']\n\
             [[upstreams]]\nname = 'a'\nkey = 'env:K'\n[[upstreams]]\nname = 'b'"
                .parse()
                .unwrap();
        assert_eq!(table, wanted);
    }

    #[test]
    fn paths_that_lead_nowhere_are_refused() {
        for (name, why) in [
            ("HEDGE_UPSTREAMS__7__NAME", "has 1"),
            ("HEDGE_LISTEN__X", "single value"),
            ("HEDGE_UPSTREAMS__A__NAME", "wants a number"),
            ("HEDGE_LOCAL____X", "names no key"),
        ] {
            let fault = laid("listen = 'x'\n[[upstreams]]", &[(name, "1")]).unwrap_err();
            assert!(fault.contains(why), "{name}: {fault}");
        }
    }

    #[test]
    fn secrets_and_service_links_are_no_configuration() {
        let table = laid(
            "[[upstreams]]\nkey = 'env:HEDGE_OPENAI_KEY'",
            &[
                ("HEDGE_OPENAI_KEY", "k"),
                ("HEDGE_SERVICE_HOST", "10.0.0.1"),
                ("HEDGE_PORT", "tcp://10.0.0.1:80"),
                ("HEDGE_PORT_80_TCP", "x"),
                ("HEDGE_CONFIG", "f"),
            ],
        )
        .unwrap();
        assert_eq!(table.keys().collect::<Vec<_>>(), ["upstreams"]);
    }
}
