//! Finding secrets: `env:NAME`, `file:/path`, and inline with a warning.

use std::collections::BTreeMap;
use std::path::Path;

use domain::KeyDigest;
use providers::{Key, Secret};

use super::faults::Findings;
use super::raw::SecretText;

/// Largest secret file; more is not a secret.
const SECRET_BYTES_MAX: usize = 64 * 1024;

/// What a configuration may look at beside its own text.
pub struct Surroundings<'a> {
    pub environment: &'a BTreeMap<String, String>,
    pub read_file: &'a dyn Fn(&Path) -> std::io::Result<String>,
}

impl std::fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Surroundings")
    }
}

impl Surroundings<'_> {
    /// The secret itself, or `None` and a fault.
    pub fn secret(&self, path: &str, text: &SecretText, findings: &mut Findings) -> Option<Secret> {
        let found = if let Some(name) = text.0.strip_prefix("env:") {
            match self.environment.get(name) {
                Some(value) => value.clone(),
                None => {
                    findings.fault(path, format!("the environment has no {name}; export it"));
                    return None;
                }
            }
        } else if let Some(file) = text.0.strip_prefix("file:") {
            match (self.read_file)(Path::new(file)) {
                Ok(value) => value,
                Err(error) => {
                    findings.fault(path, format!("cannot read the file: {}", error.kind()));
                    return None;
                }
            }
        } else {
            findings.warn(
                path,
                "a secret stands in the configuration itself; write env:NAME or file:/path instead",
            );
            text.0.clone()
        };
        let value = found.trim();
        if value.is_empty() || value.len() > SECRET_BYTES_MAX {
            findings.fault(path, "the secret is empty or far too long");
            return None;
        }
        Some(Secret::new(value))
    }

    /// The same, and where it is found again: a file may hold another one later.
    pub fn key(&self, path: &str, text: &SecretText, findings: &mut Findings) -> Option<Key> {
        let first = self.secret(path, text, findings)?;
        Some(match text.0.strip_prefix("file:") {
            Some(file) => Key::File {
                path: file.into(),
                first,
            },
            None => Key::Fixed(first),
        })
    }

    /// True where the environment has a variable of that name that says something.
    pub fn has(&self, name: &str) -> bool {
        let value = self.environment.get(name);
        value.is_some_and(|value| !value.trim().is_empty())
    }

    /// The digest of an API key, from the key or from `sha256:HEX`.
    pub fn key_digest(
        &self,
        path: &str,
        text: &SecretText,
        findings: &mut Findings,
    ) -> Option<KeyDigest> {
        let Some(hex) = text.0.strip_prefix("sha256:") else {
            let secret = self.secret(path, text, findings)?;
            return Some(store::digest_key(secret.expose()));
        };
        let digest = digest_of_hex(hex);
        if digest.is_none() {
            findings.fault(path, "sha256: is followed by 64 hexadecimal digits");
        }
        digest.map(KeyDigest)
    }
}

fn digest_of_hex(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let mut digest = [0; 32];
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(digest)
}
