//! LoRA adapters: which a request is computed under.
//!
//! An adapter's name is a model name: whoever asks for it gets the model under that adapter alone, at
//! its own scale. Whoever asks for the model by its own name gets it bare, or under what the field
//! `lora` lists ([`domain::lora`]). Whether the caller may is judged before a request comes here.
//!
//! What was computed under one set of adapters is nothing to another: each number in the cache is
//! another. So slots, saved states and batches are told apart by [`AdapterSet`].

use std::path::PathBuf;
use std::sync::Arc;

use domain::{BackendError, ChatRequest, LoraEntry, lora};
use serde::{Deserialize, Serialize};

use crate::decoder::Fingerprint;

const FIELD: &str = "lora";

/// One adapter of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterConfig {
    /// The GGUF file. It must fit the model.
    pub path: PathBuf,
    /// What callers name the model under it.
    pub name: String,
    /// How strongly it holds where a request does not say.
    pub scale: f32,
    /// Of the file.
    pub bytes: u64,
}

impl AdapterConfig {
    /// The most adapters of one model. Each takes its file's size in memory.
    pub const COUNT_MAX: usize = 16;
    /// The most that one request is computed under. llama.cpp reserves room for a step's operations by
    /// the model's weights, for some architectures whatever adapters there are.
    pub const AT_ONCE_MAX: usize = 4;
    /// The largest scale, of either sign. Far beyond what any adapter was trained for.
    pub const SCALE_MAX: f32 = 16.0;

    pub(crate) fn has_scale(scale: f32) -> bool {
        scale.abs() <= Self::SCALE_MAX
    }
}

/// The adapters that a sequence is computed under, and how strongly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AdapterSet(
    /// Never empty, by index, no scale of 0; `None` is the bare model, and costs no allocation.
    Option<Arc<[Scaled]>>,
);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scaled {
    index: usize,
    scale_bits: u32,
}

impl AdapterSet {
    /// The bare model.
    pub(crate) const NONE: Self = Self(None);

    /// Adapters by their place in the configuration, each once.
    pub(crate) fn of(adapters: impl IntoIterator<Item = (usize, f32)>) -> Self {
        let held = adapters.into_iter().filter(|(_, scale)| *scale != 0.0);
        let mut scaled: Vec<Scaled> = held
            .map(|(index, scale)| Scaled {
                index,
                scale_bits: scale.to_bits(),
            })
            .collect();
        scaled.sort_unstable_by_key(|scaled| scaled.index);
        Self((!scaled.is_empty()).then(|| scaled.into()))
    }

    /// Place and scale of each.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, f32)> {
        let scaled = self.0.iter().flat_map(|scaled| scaled.iter());
        scaled.map(|scaled| (scaled.index, f32::from_bits(scaled.scale_bits)))
    }

    /// What it comes to, where the adapters' own digests are `fingerprints`: the same bytes mean the
    /// same numbers, also after a restart. Empty for the bare model.
    pub(crate) fn meaning(&self, fingerprints: &[Fingerprint]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for scaled in self.0.iter().flat_map(|scaled| scaled.iter()) {
            bytes.extend(fingerprints.get(scaled.index).copied().unwrap_or_default());
            bytes.extend(scaled.scale_bits.to_le_bytes());
        }
        bytes
    }
}

/// The model's names and its adapters, as callers may ask for them.
#[derive(Debug)]
pub(crate) struct Adapters {
    model: Arc<str>,
    list: Vec<Named>,
}

#[derive(Debug)]
struct Named {
    name: Arc<str>,
    scale: f32,
}

/// What a request is computed under, and what its reply says it came from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chosen {
    pub adapters: AdapterSet,
    pub model: Arc<str>,
}

impl Adapters {
    pub(crate) fn new(model: &str, adapters: &[AdapterConfig]) -> Self {
        let named = adapters.iter().map(|adapter| Named {
            name: adapter.name.as_str().into(),
            scale: adapter.scale,
        });
        Self {
            model: model.into(),
            list: named.collect(),
        }
    }

    /// What `request` chooses, which came for `model`.
    ///
    /// # Errors
    /// Its `lora` names adapters that there are not, or is none that can be. Another candidate may read
    /// it otherwise.
    pub(crate) fn choose(
        &self,
        model: &str,
        request: &ChatRequest,
    ) -> Result<Chosen, BackendError> {
        let asked = lora(&request.extra).map_err(|reason| BackendError::Declined { reason })?;
        let by_name = self.list.iter().position(|named| &*named.name == model);
        match (by_name, asked) {
            (None, None) => Ok(Chosen {
                adapters: AdapterSet::NONE,
                model: Arc::clone(&self.model),
            }),
            (Some(index), None) => Ok(Chosen {
                adapters: AdapterSet::of([(index, self.list[index].scale)]),
                model: Arc::clone(&self.list[index].name),
            }),
            (Some(_), Some(_)) => Err(BackendError::declined(
                FIELD.to_owned(),
                format!(
                    "the model asked for is an adapter already; leave this out, or ask for `{}` to \
                     choose adapters",
                    self.model
                ),
            )),
            (None, Some(asked)) => Ok(Chosen {
                adapters: self.listed(&asked)?,
                model: Arc::clone(&self.model),
            }),
        }
    }

    fn listed(&self, entries: &[LoraEntry]) -> Result<AdapterSet, BackendError> {
        let mut chosen: Vec<(usize, f32)> = Vec::new();
        // Each names another adapter, so there are no more than adapters.
        for (at, entry) in entries.iter().enumerate() {
            let (index, scale) = self.entry(entry, &LoraEntry::place(at))?;
            if chosen.iter().any(|(other, _)| *other == index) {
                let key = entry.adapter.key();
                let words = format!("adapter {index} is listed twice");
                return Err(BackendError::declined(
                    format!("{}.{key}", LoraEntry::place(at)),
                    words,
                ));
            }
            chosen.push((index, scale));
        }
        let count = chosen.iter().filter(|(_, scale)| *scale != 0.0).count();
        if count > AdapterConfig::AT_ONCE_MAX {
            let most = AdapterConfig::AT_ONCE_MAX;
            let words = format!("{count} adapters at once; the most is {most}");
            return Err(BackendError::declined(FIELD.to_owned(), words));
        }
        Ok(AdapterSet::of(chosen))
    }

    fn entry(&self, entry: &LoraEntry, place: &str) -> Result<(usize, f32), BackendError> {
        let names = self.list.iter().map(|named| &*named.name);
        let Some((index, _)) = entry.adapter.find(names) else {
            let key = entry.adapter.key();
            return Err(BackendError::declined(
                format!("{place}.{key}"),
                self.unknown(),
            ));
        };
        let scale = entry.scale.unwrap_or(self.list[index].scale);
        if !AdapterConfig::has_scale(scale) {
            let most = AdapterConfig::SCALE_MAX;
            let words = format!("must be a number from -{most} to {most}");
            return Err(BackendError::declined(format!("{place}.scale"), words));
        }
        Ok((index, scale))
    }

    fn unknown(&self) -> String {
        match self.list.len() {
            0 => "is no adapter: this model has none".to_owned(),
            1 => "is no adapter: this model has one, 0".to_owned(),
            count => format!("is no adapter: this model has {count}, from 0 on"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fake::request;

    fn adapters() -> Adapters {
        let configs = ["pirate", "formal", "c", "d", "e"].map(|name| AdapterConfig {
            path: "unused".into(),
            name: name.to_owned(),
            scale: 0.75,
            bytes: 0,
        });
        Adapters::new("base", &configs)
    }

    fn choose(model: &str, lora: Option<Value>) -> Result<Chosen, (String, String)> {
        let request = request("q", |request| {
            request
                .extra
                .extend(lora.map(|lora| (FIELD.to_owned(), lora)));
        });
        adapters()
            .choose(model, &request)
            .map_err(|error| match error {
                BackendError::Declined { reason } => (reason.param.unwrap(), reason.message),
                other => panic!("{other:?}"),
            })
    }

    #[test]
    fn a_request_chooses_by_name_or_by_list() {
        type Case = (&'static str, Option<Value>, Vec<(usize, f32)>, &'static str);
        let cases: Vec<Case> = vec![
            ("base", None, vec![], "base"),
            ("base", Some(Value::Null), vec![], "base"),
            ("base", Some(json!([])), vec![], "base"),
            ("formal", None, vec![(1, 0.75)], "formal"),
            ("formal", Some(Value::Null), vec![(1, 0.75)], "formal"),
            ("base", Some(json!([{"id": 1}])), vec![(1, 0.75)], "base"),
            (
                "base",
                Some(json!([{"id": 1, "scale": -2}, {"id": 0, "scale": 0.5}])),
                vec![(0, 0.5), (1, -2.0)],
                "base",
            ),
            (
                "base",
                Some(json!([{"name": "pirate", "scale": 2}, {"id": 1, "scale": 1}])),
                vec![(0, 2.0), (1, 1.0)],
                "base",
            ),
            ("base", Some(json!([{"id": 0, "scale": 0}])), vec![], "base"),
            (
                "base",
                Some(json!([{"id": 0, "scale": -0.0}])),
                vec![],
                "base",
            ),
        ];
        for (model, lora, expected, served) in cases {
            let chosen = choose(model, lora.clone()).unwrap();
            assert_eq!(
                chosen.adapters.iter().collect::<Vec<_>>(),
                expected,
                "{lora:?}"
            );
            assert_eq!(&*chosen.model, served);
        }
    }

    #[test]
    fn what_cannot_be_chosen_is_refused_at_its_place() {
        let five: Vec<Value> = (0..5).map(|id| json!({"id": id})).collect();
        let cases = [
            ("formal", json!([]), "lora"),
            ("base", json!({"id": 0}), "lora"),
            ("base", json!(five), "lora"),
            ("base", json!([0]), "lora[0]"),
            ("base", json!([{"id": 0}, {"scale": 1}]), "lora[1].id"),
            ("base", json!([{"name": "pirat"}]), "lora[0].name"),
            ("base", json!([{"name": "base"}]), "lora[0].name"),
            (
                "base",
                json!([{"id": 0}, {"name": "pirate"}]),
                "lora[1].name",
            ),
            ("base", json!([{"id": 5}]), "lora[0].id"),
            ("base", json!([{"id": -1}]), "lora[0].id"),
            ("base", json!([{"id": 0.5}]), "lora[0].id"),
            ("base", json!([{"id": "pirate"}]), "lora[0].id"),
            ("base", json!([{"id": 0}, {"id": 0}]), "lora[1].id"),
            ("base", json!([{"id": 0, "scale": "1"}]), "lora[0].scale"),
            ("base", json!([{"id": 0, "scale": 16.5}]), "lora[0].scale"),
            ("base", json!([{"id": 0, "scale": 1e300}]), "lora[0].scale"),
            ("base", json!([{"id": 0, "weight": 1}]), "lora[0].weight"),
        ];
        for (model, lora, place) in cases {
            let (param, words) = choose(model, Some(lora.clone())).unwrap_err();
            assert_eq!(param, place, "{lora}: {words}");
        }
        let none = Adapters::new("base", &[]);
        let asked = request("q", |request| {
            request.extra.insert(FIELD.to_owned(), json!([{"id": 0}]));
        });
        let refused = none.choose("base", &asked);
        assert!(
            matches!(refused, Err(BackendError::Declined { .. })),
            "{refused:?}"
        );
    }

    #[test]
    fn sets_are_the_same_where_they_mean_the_same() {
        let set = |list: &[(usize, f32)]| AdapterSet::of(list.iter().copied());
        assert_eq!(
            set(&[(0, 1.0), (1, 0.5)]),
            set(&[(1, 0.5), (2, 0.0), (0, 1.0)])
        );
        assert_eq!(set(&[(3, 0.0)]), AdapterSet::NONE);
        assert_ne!(set(&[(0, 1.0)]), set(&[(0, 0.5)]));
        assert_ne!(set(&[(0, 1.0)]), set(&[(1, 1.0)]));
        let prints = [[1; 32], [2; 32]];
        assert!(AdapterSet::NONE.meaning(&prints).is_empty());
        assert_ne!(
            set(&[(0, 1.0)]).meaning(&prints),
            set(&[(1, 1.0)]).meaning(&prints)
        );
        // Another place in the configuration, the same file.
        assert_eq!(
            set(&[(0, 1.0)]).meaning(&prints),
            set(&[(1, 1.0)]).meaning(&[prints[1], prints[0]])
        );
    }
}
