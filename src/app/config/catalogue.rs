//! The providers there are: files that came with the binary, and files of the operator's own.
//!
//! ```text
//! providers/*.toml, within the binary ─┐
//! providers_dir/*.toml, which win ─────┴─► Catalogue ─ by name ─► what an upstream leaves out
//! ```
//! A provider that speaks a known dialect is a file and no code. Faults carry the file's path in
//! front of the key.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::faults::Findings;
use super::raw::dialect_words;
use super::raw_providers::{RawAuth, RawProvider};
use super::read;

include!(concat!(env!("OUT_DIR"), "/providers.rs"));

/// Files of one folder; more of them are a mistake.
const FILES_MAX: usize = 256;
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Providers by name.
#[derive(Clone, Debug)]
pub struct Catalogue(BTreeMap<String, RawProvider>);

impl Catalogue {
    /// What came with the binary, and what `folder` holds.
    pub fn load(folder: Option<&str>, findings: &mut Findings) -> Self {
        let mut providers = BTreeMap::new();
        for (name, text) in FILES {
            let file = format!("providers/{name}.toml");
            providers.insert((*name).to_owned(), parse(name, &file, text, findings));
        }
        if let Some(folder) = folder {
            match own(Path::new(folder), findings) {
                Ok(own) => providers.extend(own),
                Err(error) => findings.fault(
                    "providers_dir",
                    format!("cannot read {folder}: {}", error.kind()),
                ),
            }
        }
        Self(providers)
    }

    pub fn get(&self, name: &str) -> Option<&RawProvider> {
        self.0.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &RawProvider> {
        self.0.values()
    }

    /// What to say of a name that none has.
    pub fn unknown(&self, name: &str) -> String {
        let names = || self.0.keys().map(String::as_str);
        let all = names().collect::<Vec<_>>().join(", ");
        match read::nearest(name, names()) {
            Some(near) => {
                format!("`{name}` is no provider; did you mean `{near}`? There are {all}")
            }
            None => format!("`{name}` is no provider; there are {all}"),
        }
    }
}

/// The operator's own, in the order of their names.
fn own(folder: &Path, findings: &mut Findings) -> io::Result<Vec<(String, RawProvider)>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.len() > FILES_MAX {
        findings.fault(
            "providers_dir",
            format!("holds more than {FILES_MAX} files"),
        );
        paths.truncate(FILES_MAX);
    }
    let mut providers = Vec::new();
    for path in paths {
        let shown = path.display().to_string();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        match read_bounded(&path) {
            Ok(text) => providers.push((name.to_string(), parse(&name, &shown, &text, findings))),
            Err(error) => findings.fault(shown, format!("cannot be read: {}", error.kind())),
        }
    }
    Ok(providers)
}

fn read_bounded(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    fs::read_to_string(path)
}

/// Reads a file and judges what can be judged without an upstream.
fn parse(name: &str, file: &str, text: &str, findings: &mut Findings) -> RawProvider {
    let mut own = Findings::default();
    let table = read::parse(text, &mut own);
    let provider: RawProvider = read::read_file(table, &mut own);
    if own.faults.is_empty() {
        judge(name, &provider, &mut own);
    }
    for fault in own.faults {
        let path = match fault.path.as_str() {
            "" => file.to_owned(),
            path => format!("{file}: {path}"),
        };
        findings.fault(path, fault.message);
    }
    provider
}

fn judge(name: &str, provider: &RawProvider, findings: &mut Findings) {
    if provider.name != name {
        findings.fault("name", format!("is `{name}`, as the file is called"));
    }
    if let Some(word) = &provider.dialect
        && wire::client(word).is_none()
    {
        findings.fault(
            "dialect",
            format!("`{word}` is none of {}", dialect_words().join(", ")),
        );
    }
    if provider.auth == Some(RawAuth::Header) && provider.auth_header.is_none() {
        findings.fault("auth_header", "is required with auth = \"header\"");
    }
    if provider.base_url.is_none() && provider.base_url_example.is_none() {
        findings.fault(
            "base_url",
            "is required, or base_url_example where it is everyone's own",
        );
    }
}

#[cfg(test)]
mod tests;
