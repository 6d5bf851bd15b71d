//! Whether what leaves may leave unsealed, and what a configuration that says no must not name.

#[cfg(test)]
mod tests;

use domain::BackendCard;

use crate::RuleFault;
use crate::roster::{CLOUD, LOCAL, Roster, SHARES_PATH};
use crate::route_file::RoutePolicy;
use crate::toml_section::{Entry, Faults, Section, word};

/// Who may be asked. One that is for less than another admits whoever that admits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sealing {
    /// Anybody.
    #[default]
    Optional,
    /// This machine, the operator's own pools, and whoever is reached sealed.
    Required,
}

impl Sealing {
    pub const ALL: [Sealing; 2] = [Sealing::Optional, Sealing::Required];

    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            Sealing::Optional => "optional",
            Sealing::Required => "required",
        }
    }

    #[must_use]
    pub fn admits(self, card: &BackendCard) -> bool {
        match self {
            Sealing::Optional => true,
            Sealing::Required => card.is_own_or_sealed(),
        }
    }

    /// The key of a section; `default` where it has none.
    pub(crate) fn read(section: &mut Section, default: Sealing, faults: &mut Faults) -> Sealing {
        let sealed = section.take("sealed").and_then(|entry: Entry| {
            let named = |word: &str| Sealing::ALL.into_iter().find(|it| it.as_label() == word);
            word(entry, named, faults, "`required` or `optional`")
        });
        sealed.unwrap_or(default)
    }
}

/// Why a candidate is left out, after its name.
pub const UNSEALED: &str = "its way is not sealed, as this route requires";

/// What a rules file names and may not ask: candidates that an outcome names although it requires
/// sealing itself, outcomes and rules to which nobody would be left. `local` and `cloud` may always be
/// written beside another.
pub(crate) fn check(policy: &RoutePolicy, roster: &Roster) -> Vec<RuleFault> {
    let mut faults = Vec::new();
    let mut report = |path: String, message: String| {
        faults.push(RuleFault {
            file: policy.file.clone(),
            path,
            message,
        });
    };
    for outcome in &policy.outcomes {
        let sealing = outcome.sealing;
        let mut is_told = false;
        for (at, name) in outcome.candidates.iter().enumerate() {
            let is_plain = [LOCAL, CLOUD].contains(&name.as_str());
            if is_plain || left(name, sealing, roster) != Left::Nobody {
                continue;
            }
            is_told = true;
            let path = format!("outcomes.{}.candidates[{at}]", outcome.name);
            report(path, unsealed(name));
        }
        if !is_told && let Some(names) = all_unsealed(&outcome.candidates, sealing, roster) {
            let path = format!("outcomes.{}.candidates", outcome.name);
            report(path, nobody_left(&names));
        }
    }
    for (at, rule) in policy.rules.iter().enumerate() {
        let outcome = &policy.outcomes[rule.then];
        if rule.sealing == outcome.sealing {
            continue;
        }
        if let Some(names) = all_unsealed(&outcome.candidates, rule.sealing, roster) {
            report(format!("rules[{at}].then"), nobody_left(&names));
        }
    }
    faults
}

/// Reports aliases of which nobody would be left, where every request requires sealing. `file` and
/// `path` say where the aliases were written.
#[must_use]
pub fn check_sealed_aliases(roster: &Roster, file: &str, path: &str) -> Vec<RuleFault> {
    let is_empty = |name: &&String| left(name, Sealing::Required, roster) == Left::Nobody;
    let names = roster.aliases.keys().filter(is_empty);
    let fault = |name: &String| RuleFault {
        file: file.to_owned(),
        path: match roster.shares.contains_key(name) {
            true => format!("{SHARES_PATH}.{name}.models"),
            false => format!("{path}.{name}"),
        },
        message: nobody_left(&roster.aliases[name]),
    };
    names.map(fault).collect()
}

/// Who is left of what a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// It stands for nothing, which others report.
    Unknown,
    Nobody,
    Somebody,
}

fn left(name: &str, sealing: Sealing, roster: &Roster) -> Left {
    let targets = roster.targets(name, sealing);
    if targets.is_empty() {
        return Left::Unknown;
    }
    let mut cards = targets.iter().map(|target| roster.card(target.backend));
    if cards.any(|card| sealing.admits(card)) {
        Left::Somebody
    } else {
        Left::Nobody
    }
}

/// The names that stand for somebody, where there are some and nobody is left of any.
fn all_unsealed(names: &[String], sealing: Sealing, roster: &Roster) -> Option<Vec<String>> {
    let found = names.iter().map(|name| (left(name, sealing, roster), name));
    let found: Vec<_> = found.filter(|(left, _)| *left != Left::Unknown).collect();
    let has_nobody = found.iter().all(|(left, _)| *left == Left::Nobody);
    let names = found.into_iter().map(|(_, name)| name.clone());
    Some(names.collect()).filter(|names: &Vec<String>| has_nobody && !names.is_empty())
}

fn unsealed(name: &str) -> String {
    format!(
        "`{name}` is neither sealed nor on this machine nor a pool of your own, and sealing is required \
         (`privacy.require_sealed`, or `sealed` in this file); name a relay, or leave it out"
    )
}

fn nobody_left(names: &[String]) -> String {
    format!(
        "sealing is required (`privacy.require_sealed`, or `sealed` of a route), and nobody is left: \
         `{}` is neither sealed nor on this machine nor a pool of your own",
        names.join("`, `")
    )
}
