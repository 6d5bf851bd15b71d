//! The `adapters` list of a model on this machine: its LoRA adapters.

use std::collections::BTreeSet;

use engine::AdapterConfig;

use super::faults::Findings;
use super::raw::{RawAdapter, RawLocal};
use super::sections::{ModelSource, RESERVED_NAMES, model_source, within};

#[derive(Clone, Debug)]
pub struct AdapterSettings {
    pub source: ModelSource,
    pub name: String,
    pub scale: f32,
}

pub fn adapters(local: &RawLocal, findings: &mut Findings) -> Vec<AdapterSettings> {
    let raw = &local.adapters;
    if raw.len() > AdapterConfig::COUNT_MAX {
        let most = AdapterConfig::COUNT_MAX;
        findings.fault(
            "local.adapters",
            format!("{} adapters; the most is {most}", raw.len()),
        );
    }
    let mut seen = BTreeSet::new();
    let read = raw.iter().enumerate().filter_map(|(at, raw)| {
        let path = format!("local.adapters[{at}]");
        let settings = adapter(raw, &path, findings)?;
        let name = settings.name.as_str();
        if !seen.insert(name.to_owned()) {
            findings.fault(
                format!("{path}.name"),
                format!("`{name}` is the name of another adapter"),
            );
        } else if local.name.as_deref() == Some(name) {
            findings.fault(
                format!("{path}.name"),
                format!("`{name}` is the name of the model itself"),
            );
        }
        Some(settings)
    });
    read.collect()
}

fn adapter(raw: &RawAdapter, path: &str, findings: &mut Findings) -> Option<AdapterSettings> {
    let most = AdapterConfig::SCALE_MAX;
    let scale = within(&format!("{path}.scale"), raw.scale, -most..=most, findings);
    let name = raw.name.as_deref();
    if name
        .is_none_or(|name| RESERVED_NAMES.contains(&name) || name.is_empty() || name.contains('/'))
    {
        findings.fault(
            format!("{path}.name"),
            "is required, as a model's name: not empty, no slash, none of auto, local, cloud, cache",
        );
    }
    let source = raw.path.as_deref().filter(|path| !path.is_empty());
    let source = source.map(|source| model_source(Some(source)));
    if matches!(source, None | Some(ModelSource::Bundled)) {
        findings.fault(
            format!("{path}.path"),
            "is required: a path to a GGUF file, or a name that `hedge models list` shows",
        );
    }
    Some(AdapterSettings {
        source: source?,
        name: name?.to_owned(),
        scale,
    })
}
