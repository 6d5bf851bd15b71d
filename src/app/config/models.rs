//! Further models on this machine: a folder with a file of settings for each.
//!
//! ```text
//! [local] of hedge.toml ─┐
//! models/NAME.toml ──────┴─ lay over ─► RawLocal ─ judge ─► ModelFile
//! ```
//! A file says what differs from `[local]`; whatever is a setting of an engine there is one here,
//! and is judged by the same rules. Faults carry the file's path in front of the key.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value as Json;
use toml::{Table, Value};

use super::adapters::AdapterSettings;
use super::faults::Findings;
use super::raw::{Load, RawConfig, RawLocal};
use super::read::{self, nearest};
use super::sections::{self, LocalSettings, ModelSource};

/// Files of one folder. More of them are a mistake, not a machine.
const FILES_MAX: usize = 64;
/// How long an idle model stays where nobody says.
const KEEP_ALIVE_S_DEFAULT: u64 = 300;
/// A month; longer is `pinned`.
const KEEP_ALIVE_S_MAX: u64 = 31 * 24 * 3600;
const MEBIBYTE: u64 = 1024 * 1024;
/// The depot keeps its manifest in the same folder.
const NOT_A_MODEL: &str = "manifest.toml";
/// Of the whole node, not of one model.
const NODE_KEYS: [&str; 5] = [
    "enabled",
    "name",
    "models_dir",
    "memory_bytes_max",
    "load_wait_ms_max",
];
/// Of one model, and not inherited by the others.
const OWN_KEYS: [&str; 7] = [
    "model",
    "projector",
    "load",
    "keep_alive_s",
    "pinned",
    "warm_up",
    "adapters",
];

/// How long a model is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stay {
    /// Loaded with the node, or by the first request for it.
    pub is_loaded_at_start: bool,
    /// Idle for so long it is unloaded; `None`: it stays.
    pub keep_alive: Option<Duration>,
    pub warms_up: bool,
}

/// One further model.
#[derive(Clone, Debug)]
pub struct ModelFile {
    /// Where it was written.
    pub file: PathBuf,
    /// `name` is set: the file's own name without its ending.
    pub settings: LocalSettings,
}

/// As written in `[local]`, where a model stays unless something says otherwise.
pub fn stay(raw: &RawLocal, findings: &mut Findings) -> Stay {
    let is_loaded_at_start = raw.load != Some(Load::Demand);
    let is_pinned = raw
        .pinned
        .unwrap_or(is_loaded_at_start && raw.keep_alive_s.is_none());
    if is_pinned && raw.keep_alive_s.is_some() {
        findings.fault(
            "local.keep_alive_s",
            "is set, and `pinned = true` never unloads; leave one of them out",
        );
    }
    let seconds = sections::within(
        "local.keep_alive_s",
        raw.keep_alive_s.unwrap_or(KEEP_ALIVE_S_DEFAULT),
        0..=KEEP_ALIVE_S_MAX,
        findings,
    );
    Stay {
        is_loaded_at_start,
        keep_alive: (!is_pinned).then_some(Duration::from_secs(seconds)),
        warms_up: raw.warm_up,
    }
}

pub fn memory_bytes_max(raw: &RawLocal, findings: &mut Findings) -> Option<u64> {
    let bytes = raw.memory_bytes_max?;
    let most = 1024 * 1024 * 1024 * MEBIBYTE;
    Some(sections::within(
        "local.memory_bytes_max",
        bytes,
        16 * MEBIBYTE..=most,
        findings,
    ))
}

/// Reads the folder and judges every file in it.
pub fn load(raw: &RawConfig, depot_dir: &Path, findings: &mut Findings) -> Vec<ModelFile> {
    if !raw.local.enabled {
        return Vec::new();
    }
    let files = match &raw.local.models_dir {
        // It need not be there: nothing was pulled yet.
        None => read_dir(depot_dir).unwrap_or_default(),
        Some(dir) => match read_dir(Path::new(dir)) {
            Ok(files) => files,
            Err(error) => {
                findings.fault("local.models_dir", format!("cannot read {dir}: {error}"));
                Vec::new()
            }
        },
    };
    if files.len() > FILES_MAX {
        findings.fault(
            "local.models_dir",
            format!("has {} model files; at most {FILES_MAX}", files.len()),
        );
        return Vec::new();
    }
    let texts = files.into_iter().map(|file| {
        let text = super::read_file(&file);
        (file, text)
    });
    judge(texts, raw, findings)
}

/// The settings in `dir`, in the order of their names.
fn read_dir(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let is_ours = path.extension().is_some_and(|ending| ending == "toml")
            && path.file_name().is_some_and(|name| name != NOT_A_MODEL);
        if is_ours && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Judges files that were read, whole or not.
fn judge(
    texts: impl Iterator<Item = (PathBuf, io::Result<String>)>,
    raw: &RawConfig,
    findings: &mut Findings,
) -> Vec<ModelFile> {
    let known = keys();
    let mut taken = taken_names(raw);
    let mut models = Vec::new();
    for (file, text) in texts {
        let mut found = Findings::default();
        let model = match text {
            Ok(text) => judge_one(&file, &text, raw, &known, &mut found),
            Err(error) => {
                found.fault("", format!("cannot be read: {error}"));
                None
            }
        };
        let name = model.as_ref().and_then(|model| model.settings.name.clone());
        let other = name.as_ref().and_then(|name| taken.get(name));
        if let (Some(name), Some(other)) = (&name, other) {
            found.fault(
                "",
                format!("`{name}` is the name of {other}; rename the file"),
            );
        }
        for (at, adapter) in adapters_of(model.as_ref()).enumerate() {
            refuse_taken(at, &adapter.name, &taken, &mut found);
        }
        if let Some(name) = name {
            taken.insert(name, format!("the model in {}", file.display()));
        }
        for adapter in adapters_of(model.as_ref()) {
            let what = format!("an adapter of the model in {}", file.display());
            taken.insert(adapter.name.clone(), what);
        }
        findings.faults.extend(placed(&file, found.faults));
        findings.warnings.extend(placed(&file, found.warnings));
        models.extend(model);
    }
    models
}

fn adapters_of(model: Option<&ModelFile>) -> impl Iterator<Item = &AdapterSettings> {
    model.into_iter().flat_map(|model| &model.settings.adapters)
}

/// Adapters of the default model are not called as something else is.
pub fn check_adapters(raw: &RawConfig, findings: &mut Findings) {
    let others = names_elsewhere(raw);
    for (at, adapter) in raw.local.adapters.iter().enumerate() {
        if let Some(name) = &adapter.name {
            refuse_taken(at, name, &others, findings);
        }
    }
}

fn refuse_taken(at: usize, name: &str, taken: &BTreeMap<String, String>, findings: &mut Findings) {
    if let Some(other) = taken.get(name) {
        findings.fault(
            format!("local.adapters[{at}].name"),
            format!("`{name}` is the name of {other}"),
        );
    }
}

/// Names that mean something else already than a model in a file.
fn taken_names(raw: &RawConfig) -> BTreeMap<String, String> {
    let mut taken = names_elsewhere(raw);
    if let Some(name) = &raw.local.name {
        taken.insert(name.clone(), "the model of [local]".to_owned());
    }
    for name in raw.local.adapters.iter().filter_map(|it| it.name.as_ref()) {
        let what = "an adapter of the model of [local]";
        taken.insert(name.clone(), what.to_owned());
    }
    taken
}

/// Names of what is not on this machine, and aliases.
fn names_elsewhere(raw: &RawConfig) -> BTreeMap<String, String> {
    let mut taken = BTreeMap::new();
    let mut take = |name: &Option<String>, what: &str| {
        if let Some(name) = name {
            taken.insert(name.clone(), what.to_owned());
        }
    };
    raw.upstreams
        .iter()
        .for_each(|it| take(&it.name, "an upstream"));
    raw.pools.iter().for_each(|it| take(&it.name, "a pool"));
    for name in raw.aliases.keys().chain(raw.balance.keys()) {
        take(&Some(name.clone()), "an alias");
    }
    taken
}

fn judge_one(
    file: &Path,
    text: &str,
    raw: &RawConfig,
    known: &[String],
    findings: &mut Findings,
) -> Option<ModelFile> {
    let mut own = read::parse(text, findings);
    let Some(stem) = file.file_stem().and_then(|stem| stem.to_str()) else {
        findings.fault("", "its name is no UTF-8, so it cannot name a model");
        return None;
    };
    let written: Vec<String> = own.keys().cloned().collect();
    for key in written {
        if known.contains(&key) {
            continue;
        }
        own.remove(&key);
        if NODE_KEYS.contains(&key.as_str()) {
            let next = match key.as_str() {
                "name" => "the file's own name is the model's name",
                _ => "is for all models together; set it in [local] of hedge.toml",
            };
            findings.fault(format!("local.{key}"), next);
        } else {
            let near = nearest(&key, known.iter().map(String::as_str));
            let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            findings.fault(
                format!("local.{key}"),
                format!("unknown field `{key}`{near}"),
            );
        }
    }
    let mut settings = inherited(&raw.local);
    settings.extend(own);
    let whole = Table::from_iter([("local".to_owned(), Value::Table(settings))]);
    let mut local = read::read(whole, &[], findings).local;
    local.name = Some(stem.to_owned());
    // A file named like a model of the depot means that one.
    local.model.get_or_insert_with(|| stem.to_owned());
    local.load.get_or_insert(Load::Demand);
    if local.keep_alive_s.is_none() {
        local.pinned.get_or_insert(false);
    }
    let mut settings = sections::local(&local, findings)?;
    let adapters = settings.adapters.iter_mut();
    let sources = adapters.map(|adapter| &mut adapter.source);
    for source in std::iter::once(&mut settings.source).chain(sources) {
        if let (ModelSource::Path(path), Some(dir)) = (source, file.parent()) {
            // As one moves a folder, its files go along.
            *path = dir.join(&*path);
        }
    }
    if let (Some(path), Some(dir)) = (&mut settings.projector, file.parent()) {
        *path = dir.join(&*path);
    }
    Some(ModelFile {
        file: file.to_owned(),
        settings,
    })
}

/// What a file need not say again.
fn inherited(local: &RawLocal) -> Table {
    let mut table = Table::try_from(local).unwrap_or_default();
    for key in NODE_KEYS.iter().chain(&OWN_KEYS) {
        table.remove(*key);
    }
    table
}

/// With the file's path in place of the section's name.
fn placed(file: &Path, found: Vec<super::ConfigFault>) -> impl Iterator<Item = super::ConfigFault> {
    let file = file.display().to_string();
    found.into_iter().map(move |mut fault| {
        let key = fault.path.strip_prefix("local.").unwrap_or(&fault.path);
        fault.path = match key {
            "" => file.clone(),
            key => format!("{file}: {key}"),
        };
        fault
    })
}

/// Every key that a file may have.
fn keys() -> Vec<String> {
    let properties = model_schema();
    let properties = properties.get("properties").and_then(Json::as_object);
    properties
        .into_iter()
        .flat_map(|all| all.keys().cloned())
        .collect()
}

/// The schema of one file: that of `[local]`, without what is for all models together.
#[must_use]
pub fn model_schema() -> Json {
    let mut schema = schemars::schema_for!(RawLocal).to_value();
    if let Some(properties) = schema.get_mut("properties").and_then(Json::as_object_mut) {
        for key in NODE_KEYS {
            properties.remove(key);
        }
    }
    if let Some(all) = schema.as_object_mut() {
        all.insert("title".to_owned(), "NAME.toml in local.models_dir".into());
        all.insert(
            "description".to_owned(),
            "One further model on this machine, called NAME. What is left out is as in [local], but \
             for `model`, which is then a model of the depot called NAME, and for `projector`, `load`, \
             `keep_alive_s`, `pinned`, `warm_up` and `adapters`."
                .into(),
        );
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: &str = "/etc/hedge/models";

    fn judged(hedge: &str, files: &[(&str, &str)]) -> (Vec<ModelFile>, Vec<String>) {
        let raw: RawConfig = toml::from_str(hedge).unwrap();
        let mut findings = Findings::default();
        let texts = files
            .iter()
            .map(|(name, text)| (Path::new(DIR).join(name), Ok((*text).to_owned())));
        let models = judge(texts, &raw, &mut findings);
        let faults = findings.faults.iter().map(ToString::to_string);
        (models, faults.collect())
    }

    #[test]
    fn a_file_says_what_differs_from_the_default_model() {
        let (models, faults) = judged(
            "[local]\nslots_max = 2\nthreads = 3\nwarm_up = true\nkeep_alive_s = 7\nprojector = 'p.gguf'",
            &[
                ("qwen.toml", ""),
                (
                    "big.toml",
                    "model = 'big.gguf'\nprojector = 'mmproj-big.gguf'\nthreads = 8\nload = 'start'\npinned = true",
                ),
                ("brief.toml", "model = '/m/brief.gguf'\nkeep_alive_s = 0"),
            ],
        );
        assert_eq!(faults, Vec::<String>::new());
        let [qwen, big, brief] = &models[..] else {
            panic!("{models:?}");
        };
        assert_eq!(qwen.settings.name.as_deref(), Some("qwen"));
        assert_eq!(qwen.settings.source, ModelSource::Depot("qwen".into()));
        assert_eq!(
            (qwen.settings.slots_max, qwen.settings.threads),
            (2, Some(3))
        );
        let stay = Stay {
            is_loaded_at_start: false,
            keep_alive: Some(Duration::from_secs(300)),
            warms_up: false,
        };
        assert_eq!(qwen.settings.stay, stay);
        let beside = Path::new(DIR).join("big.gguf");
        assert_eq!(big.settings.source, ModelSource::Path(beside));
        let beside = Path::new(DIR).join("mmproj-big.gguf");
        assert_eq!(big.settings.projector, Some(beside));
        assert_eq!(qwen.settings.projector, None);
        assert_eq!((big.settings.slots_max, big.settings.threads), (2, Some(8)));
        assert!(big.settings.stay.keep_alive.is_none() && big.settings.stay.is_loaded_at_start);
        assert_eq!(
            brief.settings.source,
            ModelSource::Path("/m/brief.gguf".into())
        );
        assert_eq!(brief.settings.stay.keep_alive, Some(Duration::ZERO));
    }

    #[test]
    fn every_fault_of_every_file_is_reported_with_its_path() {
        let (_, faults) = judged(
            "[aliases]\nquick = 'local'\n[[upstreams]]\nname = 'far'",
            &[
                (
                    "a.toml",
                    "slots_mx = 1\nthreads = 'all'\nmemory_bytes_max = 5\nname = 'b'",
                ),
                ("auto.toml", ""),
                ("broken.toml", "model = "),
                ("c.toml", "slots_max = 0\npinned = true\nkeep_alive_s = 5"),
                ("far.toml", ""),
                ("quick.toml", ""),
            ],
        );
        let has = |file: &str, words: &str| {
            let path = format!("{DIR}/{file}");
            assert!(
                faults
                    .iter()
                    .any(|fault| fault.starts_with(&path) && fault.contains(words)),
                "{path} {words}: {faults:#?}"
            );
        };
        has("a.toml: slots_mx: ", "did you mean `slots_max`?");
        has("a.toml: threads: ", "expected u32");
        has("a.toml: memory_bytes_max: ", "[local] of hedge.toml");
        has("a.toml: name: ", "the file's own name");
        has("auto.toml: name: ", "cannot name a model");
        has("broken.toml: ", "line 1");
        has("c.toml: slots_max: ", "out of range");
        has("c.toml: keep_alive_s: ", "never unloads");
        has("far.toml: ", "an upstream");
        has("quick.toml: ", "an alias");
        assert_eq!(faults.len(), 10, "{faults:#?}");
    }

    #[test]
    fn a_file_has_adapters_of_its_own() {
        let (models, faults) = judged(
            "[local]\nadapters = [{ name = 'pirate', path = 'pirate.gguf' }]",
            &[
                ("bare.toml", ""),
                (
                    "big.toml",
                    "[[adapters]]\nname = 'formal'\npath = 'formal.gguf'\nscale = 2",
                ),
            ],
        );
        assert_eq!(faults, Vec::<String>::new());
        // They are made for one model, so nobody inherits them.
        assert!(models[0].settings.adapters.is_empty());
        let [formal] = &models[1].settings.adapters[..] else {
            panic!("{models:?}");
        };
        assert_eq!((formal.name.as_str(), formal.scale), ("formal", 2.0));
        let beside = Path::new(DIR).join("formal.gguf");
        assert_eq!(formal.source, ModelSource::Path(beside));
    }

    #[test]
    fn an_adapter_is_called_as_nothing_else_is() {
        let adapter = |name: &str| format!("[[adapters]]\nname = '{name}'\npath = 'a.gguf'\n");
        let (far, pirate, big) = (adapter("far"), adapter("pirate"), adapter("big"));
        let (loud, scaled) = (adapter("loud"), adapter("loud") + "scale = 99");
        let (_, faults) = judged(
            "local.adapters = [{ name = 'pirate', path = 'p.gguf' }]\n[[upstreams]]\nname = 'far'",
            &[
                ("a.toml", &far),
                ("b.toml", &pirate),
                ("big.toml", &big),
                ("c.toml", &loud),
                ("d.toml", &scaled),
                ("loud.toml", ""),
            ],
        );
        let wanted = [
            "a.toml: adapters[0].name: `far` is the name of an upstream",
            "b.toml: adapters[0].name: `pirate` is the name of an adapter of the model of [local]",
            "big.toml: adapters[0].name: `big` is the name of the model itself",
            "d.toml: adapters[0].scale: 99 is out of range",
            "d.toml: adapters[0].name: `loud` is the name of an adapter of the model in",
            "loud.toml: `loud` is the name of an adapter of the model in",
        ];
        assert_eq!(faults.len(), wanted.len(), "{faults:#?}");
        for (fault, wanted) in faults.iter().zip(wanted) {
            assert!(
                fault.starts_with(&format!("{DIR}/{wanted}")),
                "{fault}\n{wanted}"
            );
        }
    }

    #[test]
    fn the_default_model_stays_unless_told_otherwise() {
        let stay = |text: &str| {
            let raw: RawLocal = toml::from_str(text).unwrap();
            let mut findings = Findings::default();
            let stay = stay(&raw, &mut findings);
            assert_eq!(findings.faults, Vec::new());
            (
                stay.is_loaded_at_start,
                stay.keep_alive.map(|it| it.as_secs()),
            )
        };
        assert_eq!(stay(""), (true, None));
        assert_eq!(stay("keep_alive_s = 60"), (true, Some(60)));
        assert_eq!(stay("load = 'demand'"), (false, Some(300)));
        assert_eq!(stay("load = 'demand'\npinned = true"), (false, None));
        assert_eq!(stay("pinned = false"), (true, Some(300)));
    }

    #[test]
    fn a_folder_holds_models_beside_other_files() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.toml", "a.toml", "manifest.toml", "a.gguf"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let files = read_dir(dir.path()).unwrap();
        let names: Vec<_> = files.iter().filter_map(|file| file.file_name()).collect();
        assert_eq!(names, ["a.toml", "b.toml"]);
        let mut raw: RawConfig = toml::from_str("").unwrap();
        raw.local.models_dir = Some(dir.path().join("none").display().to_string());
        let mut findings = Findings::default();
        load(&raw, dir.path(), &mut findings);
        assert_eq!(findings.faults[0].path, "local.models_dir");
        raw.local.models_dir = None;
        assert_eq!(load(&raw, dir.path(), &mut Findings::default()).len(), 2);
    }

    #[test]
    fn the_schema_has_the_keys_of_one_model_and_no_others() {
        let keys = keys();
        for key in ["model", "slots_max", "pinned", "speculation"] {
            assert!(keys.iter().any(|known| known == key), "{key} in {keys:?}");
        }
        for key in NODE_KEYS {
            assert!(!keys.iter().any(|known| known == key), "{key}");
        }
    }
}
