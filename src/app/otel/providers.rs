//! Who answered, by the conventions' names for providers.

use std::collections::BTreeMap;

use domain::{BackendName, RouteTaken};

/// Of what this machine and its pools answer.
const OURS: &str = "hedge";

/// By hedge's names, and as the conventions have them where they differ: `gen_ai.provider.name` in
/// docs/gen-ai/gen-ai-spans.md of open-telemetry/semantic-conventions-genai, read 2026-11-29.
const WELL_KNOWN: [(&str, &str); 6] = [
    ("azure", "azure.ai.openai"),
    ("azure-dated", "azure.ai.openai"),
    ("bedrock", "aws.bedrock"),
    ("gemini", "gcp.gemini"),
    ("mistral", "mistral_ai"),
    ("xai", "x_ai"),
];

#[derive(Debug)]
pub struct Providers(BTreeMap<BackendName, String>);

impl Providers {
    pub fn new(known: BTreeMap<BackendName, String>) -> Self {
        Self(known)
    }

    /// An upstream of no known provider goes by the name that the configuration has for it.
    pub fn of<'a>(&'a self, route: &'a RouteTaken) -> &'a str {
        if route.is_local {
            return OURS;
        }
        let known = self.0.get(&route.backend);
        let name = known.map_or(route.backend.as_str(), String::as_str);
        let other = WELL_KNOWN.iter().find(|(ours, _)| *ours == name);
        other.map_or(name, |(_, theirs)| theirs)
    }
}
