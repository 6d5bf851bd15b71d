//! What an edge may do, as its file says: `edges/NAME.toml`, and beside it `edges/NAME.pub` with the
//! key that it proves itself with.

use anyhow::anyhow;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use relay::shape::Shape;
use relay::{EdgeKey, EdgePolicy};
use serde::Deserialize;

use super::token::{fingerprint, hex};
use crate::config::{Findings, read_whole};

/// Paths and models of one edge; a policy with more is a mistake.
const NAMES_MAX: usize = 1_024;

/// As written. What is left out is not allowed, or not bounded.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawPolicy {
    paths: Vec<String>,
    models: Vec<String>,
    output_tokens_max: Option<u32>,
    requests_per_s_max: Option<u32>,
    concurrent_max: Option<u32>,
    tokens_per_minute_max: Option<u64>,
    budget_usd: Option<f64>,
    networks: Vec<String>,
    shape: Option<String>,
}

/// Of a policy's text.
///
/// # Errors
/// Every fault, with its path.
pub fn policy(text: &str) -> Result<EdgePolicy, Findings> {
    let mut findings = Findings::default();
    let raw: RawPolicy = read_whole(text, &mut findings);
    for (key, names) in [("paths", &raw.paths), ("models", &raw.models)] {
        if names.len() > NAMES_MAX {
            findings.fault(key, format!("there are more than {NAMES_MAX}"));
        }
        if names.iter().any(String::is_empty) {
            findings.fault(key, "holds an empty one");
        }
    }
    for (at, path) in raw.paths.iter().enumerate() {
        if !path.starts_with('/') || path.contains(['?', '#']) {
            findings.fault(
                format!("paths[{at}]"),
                "is not a path such as /v1/chat/completions, without a query",
            );
        }
    }
    let mut networks = Vec::new();
    for (at, text) in raw.networks.iter().enumerate() {
        match text.parse() {
            Ok(network) => networks.push(network),
            Err(error) => findings.fault(format!("networks[{at}]"), format!("`{text}`: {error}")),
        }
    }
    let shape = raw.shape.as_deref().map(str::parse::<Shape>);
    if let Some(Err(error)) = &shape {
        findings.fault("shape", error.to_string());
    }
    let budget_microusd = raw.budget_usd.map(|usd| {
        if !(0.0..=1e9).contains(&usd) {
            findings.fault("budget_usd", "is out of range; from 0 to 1000000000");
        }
        // Rounded, and never below nothing.
        (usd * 1e6).round() as u64
    });
    if !findings.faults.is_empty() {
        return Err(findings);
    }
    Ok(EdgePolicy {
        paths: raw.paths,
        models: raw.models,
        output_tokens_max: raw.output_tokens_max,
        requests_per_s_max: raw.requests_per_s_max,
        concurrent_max: raw.concurrent_max,
        tokens_per_minute_max: raw.tokens_per_minute_max,
        budget_microusd,
        networks,
        shape: shape.and_then(Result::ok),
    })
}

/// What a new edge gets: chats, embeddings and the list of models, of `models` alone.
pub fn first_policy(edge_id: &str, models: &[String]) -> String {
    let models = toml::Value::from(models.to_vec());
    format!(
        "# What the edge \"{edge_id}\" may do here. Whatever is not allowed is denied. The running relay\n\
         # reads a change within a second; `hedge relay edges revoke {edge_id}` takes everything away.\n\
         paths = [\"/v1/chat/completions\", \"/v1/embeddings\", \"/v1/models\"]\n\
         # As requests name them; \"*\" is any.\n\
         models = {models}\n\
         \n\
         # Caps. What is left out is not bounded.\n\
         # output_tokens_max = 4096\n\
         # requests_per_s_max = 20\n\
         # concurrent_max = 64\n\
         # tokens_per_minute_max = 200_000\n\
         # budget_usd = 100.0                     # a calendar month, UTC\n\
         # networks = [\"192.0.2.0/24\"]            # where it may come from\n\
         # shape = \"constant;size=512;bucket=4\"   # whatever it asks for\n"
    )
}

/// The public key of an edge, by the name that its proofs call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    pub id: String,
    bytes: [u8; 32],
}

impl PublicKey {
    /// Named by its own digest, so that another key never has its name.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self {
            id: format!("k{}", hex(&fingerprint(&bytes)[..4])),
            bytes,
        }
    }

    /// As `NAME.pub` has it.
    pub fn to_line(&self) -> String {
        format!("{} ed25519:{}\n", self.id, STANDARD.encode(self.bytes))
    }

    /// # Errors
    /// It is none.
    pub fn read(text: &str) -> anyhow::Result<Self> {
        let none = || anyhow!("it holds no `NAME ed25519:KEY`");
        let (id, key) = text.trim().split_once(' ').ok_or_else(none)?;
        let key = key.strip_prefix("ed25519:").ok_or_else(none)?;
        let bytes = STANDARD.decode(key).map_err(|_| none())?;
        let bytes = bytes.try_into().map_err(|_| none())?;
        if !relay::is_name(id) || EdgeKey::ed25519(&bytes).is_err() {
            return Err(none());
        }
        Ok(Self {
            id: id.to_owned(),
            bytes,
        })
    }

    pub fn key_bytes(&self) -> [u8; 32] {
        self.bytes
    }

    /// What proofs are checked with.
    pub fn key(&self) -> Option<EdgeKey> {
        EdgeKey::ed25519(&self.bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_policy_allows_what_it_says_and_nothing_else() {
        let text = first_policy("branch-7", &["local".to_owned()]);
        let read = policy(&text).unwrap();
        let paths = ["/v1/chat/completions", "/v1/embeddings", "/v1/models"];
        assert_eq!(read.paths, paths);
        assert_eq!(read.models, ["local"]);
        assert_eq!(
            EdgePolicy {
                paths: Vec::new(),
                models: Vec::new(),
                ..read
            },
            EdgePolicy::default()
        );
        // Its comments are right as they stand.
        let all = text.replace("# output", "output").replace("# req", "req");
        let all = all.replace("# conc", "conc").replace("# tok", "tok");
        let all = all.replace("# budget", "budget").replace("# net", "net");
        let read = policy(&all.replace("# shape", "shape")).unwrap();
        assert_eq!(read.budget_microusd, Some(100_000_000));
        assert_eq!(read.networks.len(), 1);
        assert!(read.shape.is_some() && read.tokens_per_minute_max.is_some());
    }

    #[test]
    fn every_fault_of_a_policy_is_named() {
        let text = "paths = ['v1/chat', '/v1/chat?x']\nnetworks = ['10.0.0.0/40']\n\
                    shape = 'round'\nmodel = ['typo']\nbudget_usd = -1.0";
        let found = policy(text).unwrap_err().faults;
        let paths: Vec<&str> = found.iter().map(|fault| fault.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "model",
                "paths[0]",
                "paths[1]",
                "networks[0]",
                "shape",
                "budget_usd"
            ]
        );
        assert_eq!(policy("").unwrap(), EdgePolicy::default());
    }

    #[test]
    fn a_public_key_is_read_as_it_was_written() {
        let bytes = *b"\xd7\x5a\x98\x01\x82\xb1\x0a\xb7\xd5\x4b\xfe\xd3\xc9\x64\x07\x3a\
                       \x0e\xe1\x72\xf3\xda\xa6\x23\x25\xaf\x02\x1a\x68\xf7\x07\x51\x1a";
        let key = PublicKey::new(bytes);
        assert_eq!(PublicKey::read(&key.to_line()).unwrap(), key);
        for wrong in ["", "k1", "k1 ed25519:AAAA", "k/1 ed25519:AAAA"] {
            assert!(PublicKey::read(wrong).is_err(), "{wrong}");
        }
    }
}
