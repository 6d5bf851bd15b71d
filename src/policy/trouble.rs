//! What a route does when a reply breaks off, and when no upstream can be reached.

use domain::HealthState;

use crate::roster::{Roster, Target};
use crate::route::{Candidate, Plan};
use crate::toml_section::{Faults, Section, word};

/// Who may go on with a reply that broke off after content was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rescue {
    /// Nobody: the caller gets an error. The default, for a reply should not change its author in the
    /// middle, nor be paid for twice, unless whoever runs the node said so.
    #[default]
    Off,
    /// Candidates with the same model, the one that broke off included.
    SameModel,
    /// Those first, then the route's others, then this machine's model.
    Any,
}

/// What becomes of a request meant for a public upstream while none can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenOffline {
    /// The route's candidates on this machine and among the operator's own answer; without any, the
    /// upstreams are tried all the same.
    #[default]
    Local,
    /// It waits for the link; then as `Local`, but without any it is refused.
    Queue,
    /// It is refused at once.
    Refuse,
}

/// Both, of one route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    pub rescue: Rescue,
    pub when_offline: WhenOffline,
}

impl Rescue {
    pub const ALL: [Rescue; 3] = [Rescue::Off, Rescue::SameModel, Rescue::Any];

    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            Rescue::Off => "off",
            Rescue::SameModel => "same-model",
            Rescue::Any => "any",
        }
    }
}

impl WhenOffline {
    pub const ALL: [WhenOffline; 3] = [WhenOffline::Local, WhenOffline::Queue, WhenOffline::Refuse];

    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            WhenOffline::Local => "local",
            WhenOffline::Queue => "queue",
            WhenOffline::Refuse => "refuse",
        }
    }
}

impl Trouble {
    /// The keys of a section; what it leaves out is as in `defaults`.
    pub(crate) fn read(section: &mut Section, defaults: Trouble, faults: &mut Faults) -> Trouble {
        let rescue = section.take("rescue").and_then(|entry| {
            let named = |word: &str| Rescue::ALL.into_iter().find(|it| it.as_label() == word);
            word(entry, named, faults, "`off`, `same-model` or `any`")
        });
        let when_offline = section.take("when_offline").and_then(|entry| {
            let named = |word: &str| {
                WhenOffline::ALL
                    .into_iter()
                    .find(|it| it.as_label() == word)
            };
            word(entry, named, faults, "`local`, `queue` or `refuse`")
        });
        Trouble {
            rescue: rescue.unwrap_or(defaults.rescue),
            when_offline: when_offline.unwrap_or(defaults.when_offline),
        }
    }
}

/// Who may go on where `broken` broke off, in order: who can answer now before who is on the way
/// there, and those who are down or left alone last. Whether one is able to go on at all is for its backend to say.
#[must_use]
pub fn rescuers(plan: &Plan, broken: &Candidate, roster: &Roster) -> Vec<Candidate> {
    let of_model = |it: &&Candidate| it.model == broken.model;
    let is_broken = |it: &&Candidate| it.backend == broken.backend && it.model == broken.model;
    let plan_of = |wanted: &dyn Fn(&&Candidate) -> bool| -> Vec<Candidate> {
        let found = plan.candidates.iter().filter(|it| wanted(it));
        found.cloned().collect()
    };
    let mut found = match plan.trouble.rescue {
        Rescue::Off => return Vec::new(),
        Rescue::SameModel | Rescue::Any => plan_of(&|it| of_model(it) && !is_broken(it)),
    };
    // It may be well again by now, or a pool with other endpoints.
    found.push(broken.clone());
    if plan.trouble.rescue == Rescue::Any {
        found.extend(plan_of(&|it| !of_model(it)));
        // Who named a model meant that model.
        let stand_in = roster.local().filter(|it| {
            let card = roster.card(it.backend);
            !plan.is_named() && plan.sealing.admits(card)
        });
        found.extend(stand_in.map(|Target { backend, model, .. }| Candidate {
            backend,
            model,
            share: None,
            reason: broken.reason.clone(),
        }));
    }
    let mut order: Vec<Candidate> = Vec::with_capacity(found.len());
    for candidate in found {
        let is_known =
            |it: &Candidate| (it.backend, &it.model) == (candidate.backend, &candidate.model);
        if !order.iter().any(is_known) {
            order.push(candidate);
        }
    }
    let is_resting = |it: &Candidate| {
        let mut resting = roster.resting.iter();
        resting.any(|one| (one.backend, &one.model) == (it.backend, &it.model))
    };
    order.sort_by_key(|it| match roster.backends[it.backend].health.state {
        HealthState::Ready if !is_resting(it) => 0,
        HealthState::Starting => 1,
        HealthState::Ready | HealthState::Down => 2,
    });
    order
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::{Abilities, BackendCard, Health, ModelCard, Tier, Trust};

    use super::*;
    use crate::roster::RosterEntry;
    use crate::route_file::Manners;
    use crate::sealing::Sealing;

    fn entry(name: &str, tier: Tier, model: &str, state: HealthState) -> RosterEntry {
        RosterEntry {
            card: Arc::new(BackendCard {
                name: name.into(),
                tier,
                is_sealed: false,
                trust: if tier == Tier::Engine {
                    Trust::Device
                } else {
                    Trust::Public
                },
                models: vec![ModelCard {
                    name: model.into(),
                    context_tokens_max: None,
                    abilities: Abilities::all(),
                }],
            }),
            health: Health::of(state, None),
        }
    }

    fn roster(b_state: HealthState) -> Roster {
        Roster {
            backends: vec![
                entry("local", Tier::Engine, "tiny", HealthState::Ready),
                entry("a", Tier::Upstream, "big", HealthState::Ready),
                entry("b", Tier::Upstream, "big", b_state),
                entry("c", Tier::Upstream, "other", HealthState::Ready),
            ],
            ..Roster::default()
        }
    }

    fn candidate(backend: usize, model: &str) -> Candidate {
        Candidate {
            backend,
            model: model.into(),
            share: None,
            reason: "r".into(),
        }
    }

    fn plan(rule: &str, rescue: Rescue) -> Plan {
        Plan {
            rule: rule.into(),
            candidates: vec![
                candidate(1, "big"),
                candidate(3, "other"),
                candidate(2, "big"),
            ],
            passed_over: Vec::new(),
            skipped: Vec::new(),
            manners: Manners::default(),
            sealing: Sealing::default(),
            trouble: Trouble {
                rescue,
                ..Trouble::default()
            },
        }
    }

    #[test]
    fn the_same_model_elsewhere_goes_on_first_and_this_machine_last() {
        let up = HealthState::Ready;
        let cases = [
            ("r", Rescue::Off, up, &[][..]),
            ("r", Rescue::SameModel, up, &[2, 1]),
            ("r", Rescue::Any, up, &[2, 1, 3, 0]),
            // Nobody but those named.
            (crate::NAMED_RULE, Rescue::Any, up, &[2, 1, 3]),
            ("r", Rescue::Any, HealthState::Down, &[1, 3, 0, 2]),
        ];
        for (rule, rescue, b_state, expected) in cases {
            let plan = plan(rule, rescue);
            let found = rescuers(&plan, &plan.candidates[0], &roster(b_state));
            let backends: Vec<usize> = found.iter().map(|it| it.backend).collect();
            assert_eq!(backends, expected, "{rule} {rescue:?} {b_state:?}");
        }
    }
}
