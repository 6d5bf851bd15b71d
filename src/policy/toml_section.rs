//! Reading a TOML table key by key, so that every fault is reported and none stops the rest.

use toml::{Table, Value};

use crate::RuleFault;

/// Collects the faults of one file.
#[derive(Debug)]
pub(crate) struct Faults {
    file: String,
    found: Vec<RuleFault>,
}

impl Faults {
    pub fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            found: Vec::new(),
        }
    }

    pub fn report(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.found.push(RuleFault {
            file: self.file.clone(),
            path: path.into(),
            message: message.into(),
        });
    }

    pub fn into_all(self) -> Vec<RuleFault> {
        self.found
    }

    pub fn into_result<T>(self, value: T) -> Result<T, Vec<RuleFault>> {
        if self.found.is_empty() {
            Ok(value)
        } else {
            Err(self.found)
        }
    }
}

/// One table and where it stands in the file. Keys are taken out; what is left over is unknown.
#[derive(Debug)]
pub(crate) struct Section {
    table: Table,
    path: String,
    /// The keys asked for, and whether each was there.
    known: Vec<(&'static str, bool)>,
}

/// A value and where it stands.
#[derive(Debug)]
pub(crate) struct Entry {
    pub value: Value,
    pub path: String,
}

impl Section {
    pub fn root(table: Table) -> Self {
        Self {
            table,
            path: String::new(),
            known: Vec::new(),
        }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn take(&mut self, key: &'static str) -> Option<Entry> {
        let value = self.table.remove(key);
        self.known.push((key, value.is_some()));
        Some(Entry {
            value: value?,
            path: self.path_of(key),
        })
    }

    /// True when `key` was asked for and there.
    pub fn has_taken(&self, key: &str) -> bool {
        self.known
            .iter()
            .any(|(known, was_there)| *known == key && *was_there)
    }

    /// True when none of the keys asked for was there, nor any other.
    pub fn has_nothing_taken(&self) -> bool {
        self.table.is_empty() && !self.known.iter().any(|(_, was_there)| *was_there)
    }

    /// Takes every entry, for tables whose keys are names.
    pub fn take_all(&mut self) -> Vec<(String, Entry)> {
        let table = std::mem::take(&mut self.table);
        table
            .into_iter()
            .map(|(key, value)| {
                let path = self.path_of(&key);
                (key, Entry { value, path })
            })
            .collect()
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Reports the keys that nobody took.
    pub fn finish(self, faults: &mut Faults) {
        for key in self.table.keys() {
            let near = self
                .known
                .iter()
                .map(|(known, _)| (strsim::jaro_winkler(key, known), *known))
                .filter(|(similarity, _)| *similarity > 0.8)
                .max_by(|a, b| a.0.total_cmp(&b.0));
            let hint = match near {
                Some((_, known)) => format!("did you mean `{known}`?"),
                None => {
                    let known: Vec<&str> = self.known.iter().map(|(key, _)| *key).collect();
                    format!("known keys: {}", known.join(", "))
                }
            };
            faults.report(self.path_of(key), format!("unknown key; {hint}"));
        }
    }
}

impl Entry {
    pub fn section(self, faults: &mut Faults) -> Option<Section> {
        match self.value {
            Value::Table(table) => Some(Section {
                table,
                path: self.path,
                known: Vec::new(),
            }),
            other => refuse(faults, &self.path, "a table", &other),
        }
    }

    /// Every item of an array, with its own path.
    pub fn items(self, faults: &mut Faults) -> Option<Vec<Entry>> {
        match self.value {
            Value::Array(values) => Some(
                values
                    .into_iter()
                    .enumerate()
                    .map(|(index, value)| Entry {
                        value,
                        path: format!("{}[{index}]", self.path),
                    })
                    .collect(),
            ),
            other => refuse(faults, &self.path, "an array", &other),
        }
    }

    pub fn text(self, faults: &mut Faults) -> Option<String> {
        match self.value {
            Value::String(text) if text.is_empty() => {
                faults.report(self.path, "must not be empty");
                None
            }
            Value::String(text) => Some(text),
            other => refuse(faults, &self.path, "a string", &other),
        }
    }

    /// One string, or a non-empty array of them, each with its path.
    pub fn texts(self, faults: &mut Faults) -> Option<Vec<(String, String)>> {
        if self.value.is_str() {
            let path = self.path.clone();
            return self.text(faults).map(|text| vec![(text, path)]);
        }
        let path = self.path.clone();
        let items = self.items(faults)?;
        if items.is_empty() {
            faults.report(path, "must not be empty");
            return None;
        }
        let texts: Vec<(String, String)> = items
            .into_iter()
            .filter_map(|item| {
                let path = item.path.clone();
                item.text(faults).map(|text| (text, path))
            })
            .collect();
        Some(texts)
    }

    pub fn boolean(self, faults: &mut Faults) -> Option<bool> {
        match self.value {
            Value::Boolean(flag) => Some(flag),
            other => refuse(faults, &self.path, "true or false", &other),
        }
    }

    pub fn count(self, faults: &mut Faults) -> Option<u32> {
        match self.value {
            Value::Integer(number) => match u32::try_from(number) {
                Ok(count) => Some(count),
                Err(_) => {
                    faults.report(
                        self.path,
                        format!("must be a whole number from 0 to {}", u32::MAX),
                    );
                    None
                }
            },
            other => refuse(faults, &self.path, "a whole number", &other),
        }
    }
}

/// One of a few words; `known` lists them.
pub(crate) fn word<T>(
    entry: Entry,
    named: impl Fn(&str) -> Option<T>,
    faults: &mut Faults,
    known: &str,
) -> Option<T> {
    let path = entry.path.clone();
    let found = named(&entry.text(faults)?);
    if found.is_none() {
        faults.report(path, format!("must be {known}"));
    }
    found
}

fn refuse<T>(faults: &mut Faults, path: &str, wanted: &str, found: &Value) -> Option<T> {
    faults.report(path, format!("must be {wanted}, not {}", kind(found)));
    None
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a fraction",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "an array",
        Value::Table(_) => "a table",
    }
}
