//! Who could answer, and what a model name means among them.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::{BackendCard, Fault, Health, ModelAlias, ModelCard};

use crate::RuleFault;
use crate::balance::name_hash;
use crate::sealing::Sealing;

/// The name that leaves the choice to the routing rules.
pub const AUTO: &str = "auto";
/// The name of the first local backend's default model.
pub const LOCAL: &str = "local";
/// In routing rules: the first upstream's default model.
pub const CLOUD: &str = "cloud";
/// A card with a model of this name takes any model name.
pub const ANY_MODEL: &str = "*";

/// Aliases may point at aliases this many times. [`check_aliases`] reports cycles at start; this
/// bound keeps a resolve finite without it.
const ALIAS_DEPTH_MAX: usize = 8;

/// Names farther than this from the one asked for are not offered as nearest (0 to 1, Jaro-Winkler).
const NEAREST_SIMILARITY_MIN: f64 = 0.7;

/// The backends as they are at the moment of one decision, in the operator's order.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    pub backends: Vec<RosterEntry>,
    /// Operator's names: each stands for an ordered list of candidate names.
    pub aliases: Arc<BTreeMap<String, Vec<String>>>,
    /// Aliases whose targets are equals among which the load is shared, with each one's weight.
    pub shares: Arc<BTreeMap<String, Vec<u32>>>,
    /// Models left alone after their failures, whose backends may be well.
    pub resting: Vec<Target>,
}

#[derive(Clone, Debug)]
pub struct RosterEntry {
    pub card: Arc<BackendCard>,
    pub health: Health,
}

/// One model of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Index into [`Roster::backends`].
    pub backend: usize,
    pub model: String,
    /// `None` for one that has its own place in an order.
    pub share: Option<Share>,
}

/// One's part among equals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Tells these equals from others.
    pub group: u64,
    pub weight: u32,
}

impl Target {
    fn new(backend: usize, model: &str) -> Self {
        Self {
            backend,
            model: model.to_owned(),
            share: None,
        }
    }

    /// Whether both are one model of one backend.
    #[must_use]
    pub fn is_same(&self, other: &Target) -> bool {
        self.backend == other.backend && self.model == other.model
    }
}

/// Where aliases with weights are written.
pub(crate) const SHARES_PATH: &str = "balance";

/// What a model name asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The rules decide.
    Auto,
    /// These, in order, and nothing else. Never empty.
    Exactly(Vec<Target>),
}

/// Says what `model` means.
///
/// # Errors
/// [`Fault::ModelNotFound`], naming the nearest name there is.
pub fn resolve(model: &ModelAlias, roster: &Roster) -> Result<Asked, Fault> {
    roster
        .resolve_name(model.as_str(), 0)
        .ok_or_else(|| Fault::ModelNotFound {
            asked: model.as_str().to_owned(),
            nearest: roster.nearest(model.as_str()),
        })
}

/// Reports aliases that shadow a name of the node, lead nowhere, or lead back to themselves. `file` and
/// `path` say where the aliases were written, as `hedge.toml` and `aliases`.
#[must_use]
pub fn check_aliases(roster: &Roster, file: &str, path: &str) -> Vec<RuleFault> {
    let mut faults = Vec::new();
    let mut report = |path: String, message: String| {
        faults.push(RuleFault {
            file: file.to_owned(),
            path,
            message,
        });
    };
    for (name, targets) in roster.aliases.iter() {
        let is_shared = roster.shares.contains_key(name);
        let (path, models) = if is_shared {
            (SHARES_PATH, ".models")
        } else {
            (path, "")
        };
        if [AUTO, LOCAL, CLOUD].contains(&name.as_str()) {
            report(
                format!("{path}.{name}"),
                format!("`{name}` is a name of the node itself; choose another"),
            );
        }
        if targets.is_empty() {
            report(
                format!("{path}.{name}"),
                "an alias needs at least one target".to_owned(),
            );
        }
        if leads_back(&roster.aliases, name) {
            report(
                format!("{path}.{name}"),
                "the alias leads back to itself".to_owned(),
            );
            continue;
        }
        for (index, target) in targets.iter().enumerate() {
            if roster.resolve_name(target, 0).is_none() {
                report(
                    format!("{path}.{name}{models}[{index}]"),
                    unknown_name(target, roster),
                );
            }
        }
    }
    faults
}

/// `no backend or model is called ...`, with the nearest name.
pub(crate) fn unknown_name(name: &str, roster: &Roster) -> String {
    match roster.nearest(name) {
        Some(nearest) => {
            format!("no backend or model is called `{name}`; did you mean `{nearest}`?")
        }
        None => format!("no backend or model is called `{name}`"),
    }
}

fn leads_back(aliases: &BTreeMap<String, Vec<String>>, start: &str) -> bool {
    let mut seen = Vec::new();
    let mut open = vec![start];
    while let Some(name) = open.pop() {
        for target in aliases.get(name).into_iter().flatten() {
            if target == start {
                return true;
            }
            if aliases.contains_key(target) && !seen.contains(&target.as_str()) {
                seen.push(target);
                open.push(target);
            }
        }
    }
    false
}

impl Roster {
    pub(crate) fn card(&self, backend: usize) -> &BackendCard {
        &self.backends[backend].card
    }

    /// What the target's backend says of the model; its any-model card stands in for unlisted ones.
    pub(crate) fn model_card(&self, target: &Target) -> Option<&ModelCard> {
        let card = self.card(target.backend);
        card.model(&target.model).or_else(|| card.model(ANY_MODEL))
    }

    /// The first local backend's default model.
    pub(crate) fn local(&self) -> Option<Target> {
        self.first_where(|card| card.is_local())
    }

    /// The default model of the first upstream that may be asked, or of the first one where none may: so
    /// that it is said why.
    pub(crate) fn cloud(&self, sealing: Sealing) -> Option<Target> {
        let admitted = |card: &BackendCard| !card.is_local() && sealing.admits(card);
        self.first_where(admitted)
            .or_else(|| self.first_where(|card| !card.is_local()))
    }

    fn first_where(&self, is_wanted: impl Fn(&BackendCard) -> bool) -> Option<Target> {
        (0..self.backends.len())
            .filter(|backend| is_wanted(self.card(*backend)))
            .find_map(|backend| self.default_target(backend))
    }

    /// The backend's first model that has a name.
    fn default_target(&self, backend: usize) -> Option<Target> {
        let named = |model: &&ModelCard| model.name != ANY_MODEL;
        let model = self.card(backend).models.iter().find(named)?;
        Some(Target::new(backend, &model.name))
    }

    fn resolve_name(&self, name: &str, depth: usize) -> Option<Asked> {
        if name == AUTO {
            return Some(Asked::Auto);
        }
        if let Some(target) = self.target(name) {
            return Some(Asked::Exactly(vec![target]));
        }
        let targets = self.aliases.get(name)?;
        if depth == ALIAS_DEPTH_MAX {
            return None;
        }
        let weights = self.shares.get(name);
        let mut found: Vec<Target> = Vec::new();
        for (at, target) in targets.iter().enumerate() {
            match self.resolve_name(target, depth + 1) {
                // An alias that begins with `auto` is another name for it; further on, it would
                // hand an explicit list to the rules, which nobody asked for.
                Some(Asked::Auto) if found.is_empty() => return Some(Asked::Auto),
                Some(Asked::Auto) | None => {}
                Some(Asked::Exactly(mut more)) => {
                    if let Some(weight) = weights.and_then(|weights| weights.get(at)) {
                        let share = Share {
                            group: name_hash("", name),
                            weight: *weight,
                        };
                        more.iter_mut().for_each(|it| it.share = Some(share));
                    }
                    found.extend(more);
                }
            }
        }
        found.dedup_by(|one, other| one.is_same(other));
        (!found.is_empty()).then_some(Asked::Exactly(found))
    }

    /// The targets a candidate name of a rule stands for; `cloud` and aliases included.
    pub(crate) fn targets(&self, name: &str, sealing: Sealing) -> Vec<Target> {
        match name {
            CLOUD => self.cloud(sealing).into_iter().collect(),
            _ => match self.resolve_name(name, 0) {
                Some(Asked::Exactly(targets)) => targets,
                Some(Asked::Auto) | None => Vec::new(),
            },
        }
    }

    /// One name of the node itself, most particular meaning first.
    fn target(&self, name: &str) -> Option<Target> {
        if name == LOCAL {
            return self.local();
        }
        if self.aliases.contains_key(name) {
            return None;
        }
        self.local_model(name)
            .or_else(|| self.backend_default(name))
            .or_else(|| self.backend_model(name))
            .or_else(|| self.only_upstream_with(name))
    }

    fn local_model(&self, name: &str) -> Option<Target> {
        self.holders(name)
            .find(|target| self.card(target.backend).is_local())
    }

    fn backend_default(&self, name: &str) -> Option<Target> {
        self.default_target(self.backend_index(name)?)
    }

    fn backend_model(&self, name: &str) -> Option<Target> {
        let (backend, model) = name.split_once('/')?;
        let target = Target::new(self.backend_index(backend)?, model);
        let is_known = !model.is_empty() && model != ANY_MODEL;
        (is_known && self.model_card(&target).is_some()).then_some(target)
    }

    /// A bare upstream model name, when exactly one upstream lists it.
    fn only_upstream_with(&self, name: &str) -> Option<Target> {
        let mut holders = self.holders(name);
        let first = holders.next()?;
        holders.next().is_none().then_some(first)
    }

    fn holders(&self, model: &str) -> impl Iterator<Item = Target> {
        (0..self.backends.len())
            .filter(move |backend| model != ANY_MODEL && self.card(*backend).model(model).is_some())
            .map(|backend| Target::new(backend, model))
    }

    fn backend_index(&self, name: &str) -> Option<usize> {
        self.backends
            .iter()
            .position(|entry| entry.card.name.as_str() == name)
    }

    /// Every name a caller may write, in order of preference.
    fn names(&self) -> Vec<String> {
        let mut names = vec![AUTO.to_owned()];
        if self.local().is_some() {
            names.push(LOCAL.to_owned());
        }
        names.extend(self.aliases.keys().cloned());
        for entry in &self.backends {
            for model in &entry.card.models {
                if model.name == ANY_MODEL {
                    continue;
                }
                names.push(entry.card.listed_name(&model.name));
            }
        }
        names
    }

    /// The name most like `asked`, or `None` when nothing is much like it.
    fn nearest(&self, asked: &str) -> Option<String> {
        let lower = asked.to_lowercase();
        let similarity = |name: &str| {
            let bare = name.rsplit('/').next().unwrap_or(name).to_lowercase();
            strsim::jaro_winkler(&lower, &name.to_lowercase())
                .max(strsim::jaro_winkler(&lower, &bare))
        };
        let mut best: Option<(f64, String)> = None;
        // A name that is there and leads nowhere is no help.
        for name in self.names().into_iter().filter(|name| *name != asked) {
            let score = similarity(&name);
            let is_better = best.as_ref().is_none_or(|(top, _)| score > *top);
            if score >= NEAREST_SIMILARITY_MIN && is_better {
                best = Some((score, name));
            }
        }
        best.map(|(_, name)| name)
    }
}
